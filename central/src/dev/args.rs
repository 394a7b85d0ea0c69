//! What `postern-central dev` takes on its command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, value_parser};
use proto::Name;

use crate::destination::{DestinationUrl, parse_listen};

/// More would only be slow: every one is a process.
const AGENTS_MAX: i64 = 20;

/// Central, agents and destinations, all on this machine, until Ctrl-C.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many agents to run.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=AGENTS_MAX))]
    pub agents: u8,
    /// A destination to create, as in orders=postgresql://127.0.0.1:5432; may be repeated. Without any, a built-in
    /// web page is the destination.
    #[arg(long = "destination", value_name = "NAME=URL")]
    pub destinations: Vec<NewDestination>,
    /// Where state lives. It is kept, and starting again in it resumes. Without it: a temporary folder, removed at
    /// the end.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the admin API listens; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0", value_parser = parse_listen)]
    pub admin_listen: SocketAddr,
    /// Where agents connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0", value_parser = parse_listen)]
    pub tunnel_listen: SocketAddr,
    /// Any other setting of central: a central.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one line of JSON once the gateway is up, and nothing else on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `NAME=URL`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDestination {
    pub name: Name,
    pub url: DestinationUrl,
}

impl FromStr for NewDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) =
            text.split_once('=').ok_or("write NAME=URL, as in orders=postgresql://127.0.0.1:5432")?;
        Ok(Self {
            name: name.parse().map_err(|error| format!("{error}"))?,
            url: url.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn two_agents_on_loopback_are_the_default() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.agents, args.tunnel_listen.to_string().as_str()), (2, "127.0.0.1:0"));
    }

    #[test]
    fn destinations_are_checked_before_anything_starts() {
        let args = parse(&["--destination", "orders=postgresql://127.0.0.1"]).unwrap();
        assert_eq!(args.destinations[0].url.to_string(), "postgresql://127.0.0.1:5432");
        for (odd, why) in [("orders", "NAME=URL"), ("orders=ftp://x", "scheme"), ("=tcp://x:1", "name")] {
            let error = parse(&["--destination", odd]).unwrap_err().to_string();
            assert!(error.contains(why), "{odd} gave {error}");
        }
    }

    fn parse(args: &[&str]) -> Result<DevArgs, clap::Error> {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            dev: DevArgs,
        }
        Command::try_parse_from([&["dev"], args].concat()).map(|command| command.dev)
    }
}
