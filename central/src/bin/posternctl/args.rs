//! What may be typed. A secret has no argument here: tokens come from a file or the environment.

use std::path::PathBuf;

use central::audit::Anchor;
use clap::{Args as Arguments, Parser, Subcommand, ValueEnum};
use proto::Name;

/// The administrator's command line for Postern.
#[derive(Debug, Parser)]
#[command(
    name = "posternctl",
    version,
    propagate_version = true,
    after_help = "Environment: POSTERN_SERVER, POSTERN_TOKEN (the token itself), POSTERN_CA_CERT.\n\
                  Exit codes: 0 done, 1 central refused or the thing failed, 2 wrong usage or configuration, 3 no answer."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to print: a table for people, or the API's JSON.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where central is and who asks.
#[derive(Debug, Arguments)]
pub(crate) struct Connection {
    /// Central's admin address, https://HOST:PORT.
    #[arg(long, global = true, env = "POSTERN_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// A file holding the API token; '-' reads it from stdin. Otherwise POSTERN_TOKEN is used.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA certificate (PEM) that central's own certificate is checked against; without it,
    /// the system's CAs are.
    #[arg(long, global = true, env = "POSTERN_CA_CERT", value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The Secure Gateway at a glance: state, candidates, and what to do next.
    Status {
        /// Goes on, and prints again whenever something has changed, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Who uses the gateway now, and who did lately.
    #[command(subcommand)]
    Streams(Streams),
    /// Tells what happened when the tunnel was lost or moved, or what became of one connection: which rule, which
    /// hop, and where the time went.
    Explain(Explain),
    /// Prints the completions for a shell; source them from its start-up file.
    Completion { shell: clap_complete::Shell },
    /// Writes man pages.
    #[command(hide = true)]
    Man {
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Process Servers: the agents' records in central.
    #[command(subcommand, visible_alias = "ps")]
    ProcessServers(ProcessServers),
    /// The Secure Gateway.
    #[command(subcommand)]
    Gateway(Gateway),
    /// Named places reachable through the gateway.
    #[command(subcommand)]
    Destinations(Destinations),
    /// One-time tokens that let a new agent in.
    #[command(subcommand)]
    Enrollment(Enrollment),
    /// Who is told of an outage, how, and what was told.
    #[command(subcommand)]
    Alerts(Alerts),
    /// What happened, oldest first.
    Events(Events),
    /// People who may sign in.
    #[command(subcommand)]
    Users(Users),
    /// Who did what, and whether that log is whole.
    Audit(Audit),
    /// API tokens, such as the one posternctl itself uses.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Central's whole state in one sealed file, and back. For the operator of central's machine.
    #[command(subcommand)]
    Backup(Backup),
    /// The gateway group's Raft, for diagnosis.
    #[command(subcommand)]
    Raft(Raft),
}

#[derive(Debug, Arguments)]
pub(crate) struct Explain {
    /// A failover's number in 'gateway history', a stream's id in 'streams closed', or a trace id of the logs;
    /// without it, the newest failover.
    pub(crate) what: Option<String>,
    /// The newest connection to this destination.
    #[arg(long, value_name = "NAME", conflicts_with = "what")]
    pub(crate) destination: Option<Name>,
    /// The newest connection of this client: its address, with a port or without.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "what")]
    pub(crate) client: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Takes a backup of the running central; give --token-file its data directory's operator.token.
    Create {
        /// The new file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// A file holding the passphrase to seal it with; '-' reads it from stdin.
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
    },
    /// Reads a backup to its end and says what is in it. Asks nobody.
    Verify {
        file: PathBuf,
        /// A file holding its passphrase; '-' reads it from stdin.
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
    },
    /// Makes a new data directory of a backup. The central that it was taken of must never run again.
    Restore {
        file: PathBuf,
        /// A file holding its passphrase; '-' reads it from stdin.
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
        /// Where central will keep its state: empty, or not there.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The data directory once more, instead of typing it when asked.
        #[arg(long, value_name = "DIR")]
        confirm: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProcessServers {
    /// Lists them all.
    List,
    /// Shows one with its System Information.
    Show { name: Name },
    /// Allows NAME to become the Secure Gateway, or not. Needs the Cloud Administrator role.
    Candidate { name: Name, allowed: Switch },
    /// Restarts the agent process.
    Restart { name: Name },
    /// Lets NAME, whose certificate expired while it was away, come back. Needs the Cloud Administrator role.
    ///
    /// It asks by itself once it runs again; `list` shows who asks, and `show` from where.
    Approve { name: Name },
    /// Removes the record; its agent is refused from then on and has to enrol again.
    Remove { name: Name },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Gateway {
    /// Shows its state.
    Show,
    /// Hands over as planned: the next active connects first, the old one drains.
    Switch {
        /// The Process Server to take over; without it, the next configured candidate does.
        #[arg(long, value_name = "NAME")]
        to: Option<Name>,
    },
    /// Lists each loss and each move of the tunnel, newest first.
    History,
    /// Shows old actives that finish their streams, and who holds them open.
    Drain,
    /// Ends the streams of whoever drains, at once.
    EndDrain,
    /// Rehearses a failover: switches as planned, tries every destination, and switches back.
    ///
    /// Refused without a standby that is ready, or while an old active drains. Streams that last longer than
    /// gateway.drain_timeout are ended, as by every planned switch.
    Drill {
        /// The Process Server to go through; without it, the next configured candidate.
        #[arg(long, value_name = "NAME")]
        to: Option<Name>,
        /// Does not wait for the report.
        #[arg(long)]
        no_wait: bool,
    },
    /// What came of drills, newest first.
    Drills,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Streams {
    /// Lists the open ones.
    List,
    /// Lists the last that ended, newest first: why, and where their time went (milliseconds).
    Closed,
    /// Resets both ends of one.
    End {
        /// As 'streams list' shows it: GROUP.CLAIM.NUMBER, or GROUP.CLAIM.NUMBER.LANE.
        id: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Destinations {
    /// Lists them all.
    List,
    /// Shows one.
    Show { name: Name },
    /// Tries every hop to NAME, through the gateway and from each candidate, and says what to do next.
    Test {
        name: Name,
        /// Also judges NAME's access list for a client with this address.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<std::net::IpAddr>,
    },
    /// Adds one.
    Add(AddDestination),
    /// Opens its listener again.
    Enable { name: Name },
    /// Closes its listener and keeps the record.
    Disable { name: Name },
    /// Closes its listener and forgets it.
    Remove { name: Name },
}

#[derive(Debug, Arguments)]
pub(crate) struct AddDestination {
    pub(crate) name: Name,
    /// Where it is, seen from the agents: tcp://, tls://, http://, postgresql://, smtp:// … HOST:PORT.
    pub(crate) url: String,
    /// The kind of destination; by default the URL's scheme says it.
    #[arg(long = "type", value_name = "T")]
    pub(crate) kind: Option<String>,
    /// Where central listens for it; port 0, the default, takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Adds it without opening its listener.
    #[arg(long)]
    pub(crate) disabled: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Enrollment {
    /// Makes a one-time token and prints it, or writes it to a file only you can read.
    Create {
        /// The only name the token may be used for; without it, any.
        #[arg(long, value_name = "N")]
        name: Option<Name>,
        /// How long it may be redeemed, such as 15m.
        #[arg(long, value_name = "TTL", value_parser = duration)]
        ttl: Option<String>,
        /// A new file for the token, mode 0600, instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// Shows who is told; secrets are hidden.
    Show,
    /// Replaces the settings by those in a JSON file; a secret given as "***" stays what it was.
    Set {
        /// The file; '-' reads standard input.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Sends a rehearsal to the real receivers, and shows what they answered.
    Test {
        /// Only to this one.
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// The end of an outage instead of its beginning.
        #[arg(long)]
        up: bool,
    },
    /// What was told and what still waits, newest first.
    Deliveries {
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Sends one again, under the id its receiver knows.
    SendAgain { id: Name },
    /// Silence on purpose.
    #[command(subcommand)]
    Maintenance(Maintenance),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Nobody is told for a while; an outage that lasts longer is told afterwards.
    Begin {
        /// How long, such as 2h; 7 days at most.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: std::time::Duration,
        /// For whoever wonders.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Alerts are told again.
    End,
    /// Whether it is under way.
    Show,
}

#[derive(Debug, Arguments)]
pub(crate) struct Events {
    /// Goes on printing what happens, until interrupted.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only events with a larger number than this.
    #[arg(long, value_name = "SEQ")]
    pub(crate) after: Option<u64>,
    /// At most this many; without --after, the newest.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// Lists them all.
    List,
    /// Shows one.
    Show { name: Name },
    /// Makes one, with a role no higher than your own.
    Create {
        name: Name,
        #[arg(long)]
        role: Role,
        /// A file holding the password, 12 characters at least; '-' reads it from stdin.
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Changes one. A new role or password ends that user's sessions.
    Change {
        name: Name,
        #[arg(long)]
        role: Option<Role>,
        /// A file holding the new password; '-' reads it from stdin.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Signs the user out, and in no more.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Lets the user sign in again.
        #[arg(long)]
        enable: bool,
    },
    /// Removes one and ends the sessions.
    Remove { name: Name },
    /// Where a user is signed in.
    Sessions { name: Name },
    /// Ends a user's sessions, or one of them.
    SignOut {
        name: Name,
        /// Only this one, as `users sessions` lists it.
        #[arg(long, value_name = "ID")]
        session: Option<Name>,
    },
}

#[derive(Debug, Arguments)]
pub(crate) struct Audit {
    /// Goes on printing what is done, until interrupted.
    #[arg(long, conflicts_with_all = ["export", "verify"])]
    pub(crate) follow: bool,
    /// Only records with a larger number than this.
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["export", "verify"])]
    pub(crate) after: Option<u64>,
    /// At most this many; without --after, the newest.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Writes the whole log into a new file, one JSON record a line, and checks it on the way.
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    pub(crate) export: Option<PathBuf>,
    /// Checks the chain: the server's, or, without asking anybody, that of an exported file.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(crate) verify: Option<Option<PathBuf>>,
    /// A head you kept, as --verify prints it: the log must pass through it.
    #[arg(long, value_name = "SEQ:HASH")]
    pub(crate) head: Option<Anchor>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Lists them, without their secrets.
    List,
    /// Makes a token and prints it once, or writes it to a file only you can read.
    Create {
        #[arg(long)]
        role: Role,
        /// What it is for, shown in the list.
        #[arg(long, value_name = "N")]
        name: Option<Name>,
        /// How long it is valid, such as 90d; without it, until it is revoked.
        #[arg(long, value_name = "TTL", value_parser = duration)]
        ttl: Option<String>,
        /// A new file for the token, mode 0600, instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Makes one invalid at once.
    Revoke { id: Name },
}

/// The API's roles, each with all rights of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Role {
    Viewer,
    Operator,
    Administrator,
    #[value(alias = "cloud-administrator")]
    CloudAdministrator,
}

impl Role {
    /// Its spelling in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
            Self::CloudAdministrator => "cloud_administrator",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Raft {
    /// Node ID, Name, State, Voter, and how many losses the group can bear.
    Status,
    /// Founds the group anew on NAME, when a majority of its members is lost for good.
    ///
    /// Refused while the group still has, or may find, a majority. The streams of a tunnel that still lives end;
    /// members that were called lost and come back join again by themselves. Needs the Cloud Administrator role.
    Recover {
        /// The surviving candidate, connected to central.
        name: Name,
        /// Every member that is away, typed out: NAME,NAME. Empty (--yes-i-lost=) where all are connected.
        #[arg(long, value_name = "NAMES", value_parser = names)]
        yes_i_lost: Lost,
        /// Say so when a tunnel lives that recovery cuts.
        #[arg(long, value_enum, value_name = "RISK")]
        accept_risk: Option<Risk>,
    },
}

/// Names after each other, separated by commas; possibly none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost(pub(crate) Vec<Name>);

fn names(text: &str) -> Result<Lost, proto::ids::NameError> {
    let typed = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    typed.map(str::parse).collect::<Result<_, _>>().map(Lost)
}

/// What an order may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Risk {
    /// Streams that still flow are cut.
    LoseConnection,
}

/// Checks a duration here, so that a typo is wrong usage; central gets the text as it was typed.
fn duration(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_token_itself() {
        let refused = Args::try_parse_from(["posternctl", "--token", "pst_x", "status"]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn a_name_that_could_leave_its_path_is_wrong_usage() {
        let refused =
            Args::try_parse_from(["posternctl", "process-servers", "show", "../api-tokens"]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ValueValidation);
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn a_duration_without_a_unit_is_wrong_usage() {
        let refused =
            Args::try_parse_from(["posternctl", "enrollment", "create", "--ttl", "15"]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn recovery_is_not_ordered_without_naming_what_is_lost() {
        let refused = Args::try_parse_from(["posternctl", "raft", "recover", "gw-a"]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MissingRequiredArgument);
        for (typed, meant) in [("--yes-i-lost=gw-b, gw-c", 2), ("--yes-i-lost=", 0)] {
            let args = Args::try_parse_from(["posternctl", "raft", "recover", "gw-a", typed]).unwrap();
            let Command::Raft(Raft::Recover { yes_i_lost, .. }) = args.command else { panic!("{args:?}") };
            assert_eq!(yes_i_lost.0.len(), meant, "{typed}");
        }
    }

    #[test]
    fn a_role_is_written_with_a_dash_or_as_the_api_writes_it() {
        for written in ["cloud-administrator", "cloud_administrator"] {
            let args = Args::try_parse_from(["posternctl", "tokens", "create", "--role", written]).unwrap();
            assert!(matches!(
                args.command,
                Command::Tokens(Tokens::Create { role: Role::CloudAdministrator, .. })
            ));
        }
    }
}
