//! `postern-central dev`: everything on this machine, to try it.
//!
//! ```text
//!   folder ─► central, in this process ─► agents, as processes ─► marked ─► one restarted ─► up ─► destinations
//!                       ▲                         │
//!                       └── this room is a client of the REST API, as any user is
//! ```
//!
//! What is started here ends here: agents first, then central, then a temporary folder. An agent that dies stays
//! dead, because trying that out is what this is for.

mod agents;
mod announce;
mod api;
mod args;
mod folder;
mod page;
mod steps;

use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode};

use crate::{
    app::{App, BuildError},
    config::{Config, ConfigError},
    people::PeopleError,
};
use program::{exit, explain, logging, shutdown};

pub use args::DevArgs;

use agents::{AgentError, Agents};
use api::{Api, ApiError};
use folder::{Folder, FolderError};
use steps::Cast;

/// As whom the newcomer is signed in to the UI.
const USER: &str = "dev";

/// Why dev ended by itself.
#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("central could not start")]
    Build(#[from] BuildError),
    #[error("the API token {path} cannot be read")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the link into the UI cannot be made")]
    SignIn(#[from] PeopleError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{0} ended although it never should")]
    Ended(&'static str),
    #[error("the built-in web page cannot be served")]
    Page(#[source] std::io::Error),
    #[error("the built-in web page cannot be fetched through the gateway: {0}")]
    Proof(String),
    #[error("the gateway was not up within {within:?}: {state}\n{logs}")]
    NotUp { within: std::time::Duration, state: String, logs: String },
    #[error("the listener of destination {name} is not open: {why}")]
    NotListening { name: String, why: String },
}

/// Runs until Ctrl-C or SIGTERM, or until something fails that never should.
pub async fn run(args: DevArgs) -> ExitCode {
    match Box::pin(play(args)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(DevError::Config(error)) => {
            eprintln!("{}", explain(&error));
            ExitCode::from(exit::CONFIG)
        }
        Err(error) => {
            eprintln!("postern-central dev: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn play(args: DevArgs) -> Result<(), DevError> {
    // From here on Ctrl-C ends us in order, however far we have come.
    let mut stop = pin!(shutdown::requested());
    let program = agents::program()?;
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let folder = Folder::open(args.data_dir.as_deref())?;
    let config = configured(config, &args, &folder)?;
    logging::init(&config.log);

    let app = tokio::select! {
        () = &mut stop => return Ok(()),
        app = App::build(config) => app?,
    };
    let addresses = app.addresses();
    folder.remember(addresses)?;
    let ca_cert = folder::absolute(app.ca_certificate())?;
    let token_file = app.admin_token_file();
    let token = std::fs::read_to_string(&token_file)
        .map_err(|source| DevError::Token { path: token_file.clone(), source })?;
    let api = Api::new(reachable(addresses.admin), &ca_cert, token.trim())?;
    let sign_in_url = sign_in_url(&app, addresses.admin).await?;
    let mut running = app.spawn();

    let mut agents = Agents::new(program, folder.agents());
    let cast = Cast {
        api: &api,
        ca_cert: &ca_cert,
        token_file: &token_file,
        sign_in_url: &sign_in_url,
        folder: &folder,
        tunnel_listen: reachable(addresses.tunnel),
    };
    let outcome = tokio::select! {
        () = &mut stop => Ok(()),
        part = running.ended() => Err(DevError::Ended(part)),
        failed = Box::pin(steps::play(&args, &cast, &mut agents)) => match failed { Err(error) => Err(error) },
    };
    agents.stop().await;
    running.stop().await;
    folder.close()?;
    outcome
}

/// The user's settings, with what dev decides: the folder, and addresses on loopback.
fn configured(given: Option<Config>, args: &DevArgs, folder: &Folder) -> Result<Config, DevError> {
    let quiet = given.is_none();
    let mut config = given.unwrap_or_default();
    if quiet {
        // Somebody reads what dev itself says, and the end of every agent would make openraft warn. What central
        // has to say can be asked for with --config or POSTERN_LOG.
        config.log.level = "warn,openraft=error".into();
    }
    config.data_dir = folder.central();
    config.admin.listen = folder.admin_listen(args.admin_listen);
    config.tunnel.listen = folder.tunnel_listen(args.tunnel_listen)?;
    if !config.tunnel.listen.ip().is_unspecified() {
        config.tunnel.names.push(config.tunnel.listen.ip().to_string());
    }
    Ok(config)
}

/// A link that opens the UI as a Cloud Administrator without a password: it works once, for some minutes.
async fn sign_in_url(app: &App, admin: SocketAddr) -> Result<String, DevError> {
    let user = USER.parse().map_err(|error| DevError::Proof(format!("{error}")))?;
    let path = app.sign_in_path(&user).await?;
    Ok(format!("https://{}{path}", reachable(admin)))
}

/// Where a program on this machine connects to reach `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => listen.ip(),
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("192.0.2.7:8443", "192.0.2.7:8443"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), reached);
        }
    }
}
