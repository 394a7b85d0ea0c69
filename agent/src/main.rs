//! `postern-agent`: the Platform Agent on a customer's host.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use agent::{
    alerts,
    app::{App, AppError, Outcome, Stop},
    config::Config,
    data_dir::DataDir,
    doctor,
    identity::{
        central::CentralUrl,
        enroll::{self, Enrolment, Token},
    },
    proxy::{Proxy, ProxyUrlError},
    status,
};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use program::{
    exit::{bad_config, failed},
    explain, logging, shutdown, watchdog,
};

/// Who speaks on standard error.
const PROGRAM: &str = "postern-agent";
/// An agent mostly waits; two threads carry what a tunnel brings on the machines agents run on, and
/// one cannot stall the other.
const THREADS: usize = 2;

/// Where an agent keeps its state unless told otherwise.
#[cfg(unix)]
const DATA_DIR: &str = "/var/lib/postern-agent";
#[cfg(not(unix))]
const DATA_DIR: &str = r"C:\ProgramData\Postern\agent";

/// The Platform Agent of Postern: joins the gateway group and, when active, carries the tunnel.
#[derive(Parser)]
#[command(name = "postern-agent", version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Exchange a one-time token for this agent's certificate.
    Enroll {
        /// Where agents reach central, https://HOST:PORT.
        #[arg(long, value_name = "URL")]
        central: CentralUrl,
        /// The file with the token, or - for standard input. A token is never an argument.
        #[arg(long, value_name = "FILE|-")]
        token_file: PathBuf,
        /// Central's CA certificate, PEM: the only one this agent will trust.
        #[arg(long, value_name = "FILE")]
        ca_cert: PathBuf,
        /// Through which HTTP proxy central is reached, http://HOST:PORT; default: what the configuration says.
        #[arg(long, value_name = "URL")]
        proxy: Option<String>,
        /// The file with user:password for the proxy, which nobody else may read.
        #[arg(long, value_name = "FILE", requires = "proxy")]
        proxy_credentials_file: Option<PathBuf>,
        /// The Process Server's name; default: this host's name.
        #[arg(long)]
        name: Option<proto::Name>,
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
        /// The configuration it will run with; default: DATA_DIR/agent.toml where it exists.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Enrol although an identity exists: it is replaced.
        #[arg(long)]
        replace: bool,
    },
    /// Run the agent.
    Run {
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
        /// The configuration; default: DATA_DIR/agent.toml where it exists.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Ask the agent running on this host what it is doing.
    Status {
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Check this host's set-up, from the folder's rights to the way to central.
    Doctor {
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// The alerts this agent gives itself when central is out of reach.
    #[command(subcommand)]
    Alerts(AlertsCommand),
    /// Look at a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
enum AlertsCommand {
    /// Send a rehearsed alert to each receiver, and show what it answered.
    Test {
        /// The end of an outage instead of its beginning.
        #[arg(long)]
        up: bool,
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a configuration, with file, line and column.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Enroll {
            central,
            token_file,
            ca_cert,
            proxy,
            proxy_credentials_file,
            name,
            data_dir,
            config,
            replace,
        } => {
            let proxy = match proxy {
                Some(url) => Some(proxy_of(&url, proxy_credentials_file)),
                None => match Config::load(&data_dir, config.as_deref()) {
                    Ok(config) => config.proxy,
                    Err(error) => return bad_config(&error),
                },
            };
            let token = match Token::read(&token_file) {
                Ok(token) => token,
                Err(error) => return failed(PROGRAM, &error),
            };
            let enrolment = Enrolment { central, proxy, token, ca_file: ca_cert, name, replace };
            in_runtime(async move {
                match enroll::command(enrolment, &data_dir, config.as_deref()).await {
                    Ok(done) => {
                        println!("{done}");
                        ExitCode::SUCCESS
                    }
                    Err(error) => failed(PROGRAM, &error),
                }
            })
        }
        Command::Run { data_dir, config } => match Config::load(&data_dir, config.as_deref()) {
            Ok(loaded) => in_runtime(run(loaded, data_dir)),
            Err(error) => bad_config(&error),
        },
        Command::Status { data_dir, output } => in_runtime(async move {
            let output = match output {
                Output::Text => status::Output::Text,
                Output::Json => status::Output::Json,
            };
            match status::command(&data_dir, output).await {
                Ok(text) => {
                    println!("{text}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("postern-agent: {}", explain(&error));
                    ExitCode::from(error.exit_code())
                }
            }
        }),
        Command::Doctor { data_dir, config } => in_runtime(doctor::command(data_dir, config)),
        Command::Alerts(AlertsCommand::Test { up, data_dir, config }) => {
            match Config::load(&data_dir, config.as_deref()) {
                Ok(loaded) => in_runtime(async move { alerts::rehearse(loaded, &data_dir, up).await }),
                Err(error) => bad_config(&error),
            }
        }
        Command::Config(ConfigCommand::Check { config, data_dir }) => {
            match Config::load(&data_dir, Some(&config)) {
                Ok(_) => {
                    println!("{} is good", config.display());
                    ExitCode::SUCCESS
                }
                Err(error) => bad_config(&error),
            }
        }
    }
}

/// Not parsed by clap, whose complaint would repeat the value: somebody may have put a password into it.
fn proxy_of(url: &str, credentials_file: Option<PathBuf>) -> Proxy {
    let url = url.parse().unwrap_or_else(|error: ProxyUrlError| {
        Args::command().error(ErrorKind::ValueValidation, format!("--proxy: {error}")).exit()
    });
    // It will stand in a configuration, whose relative paths begin elsewhere.
    let absolute = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
    Proxy { url, credentials_file: credentials_file.map(absolute) }
}

async fn run(config: Config, path: PathBuf) -> ExitCode {
    logging::init(&config.log);
    let outcome = match one_run(config, &path).await {
        Ok(outcome) => outcome,
        Err(error) => return failed(PROGRAM, &*error),
    };
    match outcome {
        Outcome::Stopped => ExitCode::SUCCESS,
        Outcome::Restart => restart(),
    }
}

async fn one_run(config: Config, path: &Path) -> Result<Outcome, Box<dyn std::error::Error>> {
    // Each stream takes one.
    program::descriptors::raise();
    let data_dir = Arc::new(DataDir::open(path)?);
    let app = App::build(config, data_dir).await?;
    if let Err(error) = watchdog::start() {
        tracing::warn!(%error, "This agent runs without a watchdog: a thread for it could not be started");
    }
    let stop = Stop::default();
    let asked = stop.clone();
    let waiting = tokio::spawn(async move {
        shutdown::requested().await;
        watchdog::stopping();
        asked.soon.cancel();
        shutdown::requested().await;
        asked.now.cancel();
    });
    let outcome: Result<Outcome, AppError> = app.run(stop).await;
    waiting.abort();
    Ok(outcome?)
}

/// Becomes a new process of the same program, with the same arguments: whoever started this one
/// still knows it by its process id.
#[cfg(unix)]
fn restart() -> ExitCode {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(PROGRAM, &error),
    };
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    failed(PROGRAM, &error)
}

/// Windows cannot replace a process; the service manager starts it again after this exit.
#[cfg(not(unix))]
fn restart() -> ExitCode {
    ExitCode::FAILURE
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    program::exit::in_runtime(PROGRAM, Some(THREADS), work)
}
