//! `postern-central`: the server in the cloud.

use std::{path::PathBuf, process::ExitCode};

use central::{app::App, config::Config, dev, explain::explain, logging, shutdown};
use clap::{Parser, Subcommand};

/// Wrong usage or configuration: nothing was started.
const EXIT_CONFIG: u8 = 2;

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
            Ok(config) => in_runtime(serve(config)),
            Err(error) => bad_config(&error),
        },
        Command::Dev(args) => in_runtime(dev::run(args)),
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
        Err(error) => return failed(&error),
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
    let mut running = app.spawn();
    let code = tokio::select! {
        () = shutdown::requested() => ExitCode::SUCCESS,
        part = running.ended() => {
            tracing::error!(part, "Ended although it never should; central leaves");
            ExitCode::FAILURE
        }
    };
    running.stop().await;
    code
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => failed(&error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("postern-central: {}", explain(error));
    ExitCode::FAILURE
}

fn bad_config(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("{}", explain(error));
    ExitCode::from(EXIT_CONFIG)
}
