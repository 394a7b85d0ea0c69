//! `postern-central`: the server in the cloud.

use std::{
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use central::{
    app::App,
    config::Config,
    dev,
    enrolment::ca::rotation::{self, Manner},
};
use clap::{Parser, Subcommand};
use program::{
    exit::{bad_config, failed, in_runtime},
    logging, shutdown, watchdog,
};
use time::OffsetDateTime;

/// Who speaks on standard error.
const PROGRAM: &str = "postern-central";

/// The server of Postern in the cloud: tunnels, listeners, admin API.
#[derive(Parser)]
#[command(name = "postern-central", version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        /// The configuration, central.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run everything on this machine: central, agents and destinations, to try it.
    Dev(dev::DevArgs),
    /// Look at a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the certificate authority, or replace it.
    #[command(subcommand)]
    Ca(CaCommand),
}

#[derive(Subcommand)]
enum CaCommand {
    /// Whose certificates count here, and until when.
    Status {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a new authority in the present one's place. Central may run: it notices within seconds. No agent has to
    /// do anything, not even one that is away; ca.pem changes for people.
    Rotate {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The present authority's key is in wrong hands: believe nothing it certified. Every agent has to enrol
        /// anew, with the new ca.pem. Restart central afterwards.
        #[arg(long)]
        disown: bool,
        /// With --disown: the data directory typed again, which is asked for where there is a terminal.
        #[arg(long, value_name = "DATA_DIR", requires = "disown")]
        confirm: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a configuration, with file, line and column.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print an example that shows every setting and its default.
    Example,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Serve { config } => match Config::load(&config) {
            Ok(config) => in_runtime(PROGRAM, None, serve(config)),
            Err(error) => bad_config(&error),
        },
        Command::Dev(args) => in_runtime(PROGRAM, None, dev::run(args)),
        Command::Config(ConfigCommand::Check { config }) => match Config::load(&config) {
            Ok(_) => {
                println!("{} is good", config.display());
                ExitCode::SUCCESS
            }
            Err(error) => bad_config(&error),
        },
        Command::Ca(command) => ca(command),
        Command::Config(ConfigCommand::Example) => {
            print!("{}", Config::example());
            ExitCode::SUCCESS
        }
    }
}

fn ca(command: CaCommand) -> ExitCode {
    let (CaCommand::Status { config: path } | CaCommand::Rotate { config: path, .. }) = &command;
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => return bad_config(&error),
    };
    let now = OffsetDateTime::now_utc();
    let standing = match command {
        CaCommand::Status { .. } => rotation::standing(&config.data_dir, now),
        CaCommand::Rotate { disown: false, .. } => rotation::rotate(&config.data_dir, Manner::Vouched, now),
        CaCommand::Rotate { disown: true, confirm, .. } => match confirmed(&config.data_dir, confirm) {
            Ok(()) => rotation::rotate(&config.data_dir, Manner::Disowned, now),
            Err(error) => return failed(PROGRAM, &error),
        },
    };
    match standing {
        Ok(standing) => {
            print!("{standing}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(PROGRAM, &error),
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "nothing was changed: every agent would have to enrol anew; to confirm, type the data directory again, {} (or give it \
     as --confirm)", .0.display()
)]
struct NotConfirmed(PathBuf);

/// Whoever takes every agent's certificate away says of which central, twice.
fn confirmed(data_dir: &Path, typed: Option<PathBuf>) -> Result<(), NotConfirmed> {
    let typed = match typed {
        None if std::io::stdin().is_terminal() => {
            eprint!("Every agent will have to enrol anew. Type the data directory again to go on: ");
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).ok().map(|_| line.trim().into())
        }
        typed => typed,
    };
    match typed {
        Some(typed) if typed == data_dir => Ok(()),
        _ => Err(NotConfirmed(data_dir.to_owned())),
    }
}

async fn serve(config: Config) -> ExitCode {
    logging::init(&config.log);
    let app = match App::build(config).await {
        Ok(app) => app,
        Err(error) => return failed(PROGRAM, &error),
    };
    let addresses = app.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        admin = %addresses.admin,
        tunnel = %addresses.tunnel,
        ca = %app.ca_certificate().display(),
        token = %app.admin_token_file().display(),
        "Central is up"
    );
    if let Err(error) = app.offer_set_up().await {
        return failed(PROGRAM, &error);
    }
    let mut running = app.spawn();
    if let Err(error) = watchdog::start() {
        tracing::warn!(%error, "Central runs without a watchdog: a thread for it could not be started");
    }
    let code = tokio::select! {
        () = shutdown::requested() => ExitCode::SUCCESS,
        part = running.ended() => {
            tracing::error!(part, "Ended although it never should; central leaves");
            ExitCode::FAILURE
        }
    };
    watchdog::stopping();
    running.stop().await;
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_disowned_only_by_whoever_says_of_which_central() {
        let data_dir = Path::new("/var/lib/postern-central");
        assert!(confirmed(data_dir, Some(data_dir.to_owned())).is_ok());
        let refused = confirmed(data_dir, Some("/var/lib/another".into())).unwrap_err();
        assert!(refused.to_string().contains("nothing was changed"), "{refused}");
    }

    #[test]
    fn a_confirmation_without_anything_to_confirm_is_wrong_usage() {
        let typed = ["postern-central", "ca", "rotate", "--config", "central.toml", "--confirm", "/data"];
        assert!(Args::try_parse_from(typed).is_err());
    }
}
