//! `posternctl`, the administrator's command line: a client of central's REST API.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 central refused or the thing
//! failed, 2 wrong usage or configuration, 3 no answer.

mod advice;
mod alerts;
mod args;
mod audit;
mod backup;
mod client;
mod connection;
mod destinations;
mod drills;
mod enrollment;
mod events;
mod failure;
mod gateway;
mod history;
mod paper;
mod process_servers;
mod raft;
mod screen;
mod secret_file;
mod status;
mod stream;
mod streams;
mod tokens;
mod trial;
mod users;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use client::Client;
use failure::Failure;
use screen::Screen;

fn main() -> ExitCode {
    let args = Args::parse(); // wrong usage leaves here, with 2
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::Failed(format!("the operating system gave no event loop: {error}")).report();
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let mut screen = Screen::new(args.output);
    match &args.command {
        Command::Completion { shell } => return paper::completion(*shell),
        Command::Man { dir } => return paper::man(dir),
        Command::Audit(options) => {
            // A file is checked without anybody's help.
            if let Some(Some(file)) = &options.verify {
                return audit::verify_file(file, options, &mut screen);
            }
        }
        Command::Backup(command) => {
            if let Some(done) = backup::without_central(command, &mut screen) {
                return done;
            }
        }
        _ => {}
    }
    let client = Client::new(&args.connection)?;
    match args.command {
        // Done before anybody was asked.
        Command::Completion { .. } | Command::Man { .. } => Ok(()),
        Command::Status { watch } => status::run(watch, &client, &mut screen).await,
        Command::Streams(command) => streams::run(command, &client, &mut screen).await,
        Command::Explain(wanted) => connection::explain(wanted, &client, &mut screen).await,
        Command::ProcessServers(command) => process_servers::run(command, &client, &mut screen).await,
        Command::Gateway(command) => gateway::run(command, &client, &mut screen).await,
        Command::Destinations(command) => destinations::run(command, &client, &mut screen).await,
        Command::Enrollment(command) => enrollment::run(command, &client, &mut screen).await,
        Command::Alerts(command) => alerts::run(command, &client, &mut screen).await,
        Command::Events(options) => events::run(options, &client, &mut screen).await,
        Command::Users(command) => users::run(command, &client, &mut screen).await,
        Command::Audit(options) => audit::run(options, &client, &mut screen).await,
        Command::Tokens(command) => tokens::run(command, &client, &mut screen).await,
        Command::Backup(args::Backup::Create { out, passphrase_file }) => {
            backup::create(&out, &passphrase_file, &client, &mut screen).await
        }
        Command::Backup(_) => Ok(()), // done, too
        Command::Raft(command) => raft::run(command, &client, &mut screen).await,
    }
}
