//! `postern-central`: the server in the cloud.

use std::{path::PathBuf, process::ExitCode};

use central::{app::App, config::Config, dev};
use clap::{Parser, Subcommand};
use program::{
    exit::{bad_config, failed, in_runtime},
    logging, shutdown, watchdog,
};

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
        Command::Config(ConfigCommand::Example) => {
            print!("{}", Config::example());
            ExitCode::SUCCESS
        }
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
