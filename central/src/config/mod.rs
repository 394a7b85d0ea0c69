//! `central.toml`: read once at start, checked whole before anything is bound.
//!
//! Text becomes meaning here: behind this door a duration is a [`Duration`] within its bounds and an address
//! can be bound. All mistakes in values are told together; an unknown key or bad TOML ends the reading.

mod effective;
mod file;
mod mistake;
mod oidc;
mod reading;

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{EnvironmentName, hello::LinkSettings};

pub use effective::{Setting, Source, Written};
pub use mistake::ConfigError;
pub use program::{
    Mistake,
    logging::{Log, LogFormat},
};

use crate::{cidr::Cidr, destination::DestinationUrl, drill::schedule::Schedule, people::SessionLimits};
use file::File;
use mistake::Mistakes;
use reading::Reading;

/// Far more than every setting with its comment.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const M: Duration = Duration::from_secs(60);
const H: Duration = Duration::from_secs(3600);

/// Central's settings, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub environments: Vec<EnvironmentName>,
    /// Where the key lies that secrets in the store are sealed with; `None`: in the data directory.
    pub secrets_key_file: Option<PathBuf>,
    pub admin: Admin,
    pub tunnel: Tunnel,
    pub gateway: Gateway,
    pub agent: Agent,
    pub alerts: Alerts,
    pub listeners: Listeners,
    /// The identity provider that people may sign in through.
    pub oidc: Option<crate::oidc::Settings>,
    /// Where connections are told of.
    pub traces: traces::Settings,
    pub log: Log,
    /// Which of all this a file wrote down.
    pub written: Written,
}

/// The REST API, the UI and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: SocketAddr,
    /// Where browsers find the UI, `https://HOST:PORT`; for links in alerts and printed addresses.
    pub public_url: Option<DestinationUrl>,
    /// How long people stay signed in.
    pub sessions: SessionLimits,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsAccess {
    /// Whoever shows an API token, any role: each sees its own Environment.
    #[default]
    Token,
    /// Whoever reaches the admin address: sees all of them.
    Open,
}

/// Where agents come in, and how the links to them are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub listen: SocketAddr,
    /// What agents are told to dial, `https://HOST:PORT`; for printed commands.
    pub public_url: Option<DestinationUrl>,
    /// Host names and addresses in the server certificate, the host of `public_url` included.
    pub names: Vec<String>,
    pub ping_interval: Duration,
    pub dead_after: Duration,
    pub resume_window: Duration,
    /// How many websockets a tunnel consists of.
    pub lanes: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// How long one candidate has to bring up a secure connection before the next is tried.
    pub connect_timeout: Duration,
    /// How long a new connection waits for a tunnel before it is refused.
    pub park_timeout: Duration,
    /// How long the old active keeps its streams after a planned switch.
    pub drain_timeout: Duration,
    /// When failover drills run by themselves.
    pub drill: Option<Schedule>,
}

/// What central asks of its agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agent {
    /// After so much silence from central a leader hands over to a candidate that hears it.
    pub give_way_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// How long "down" must last before it is told.
    pub hold_down: Duration,
    /// Private networks whose alert receivers may be called all the same.
    pub allow_destinations: Vec<Cidr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listeners {
    /// Where a destination listens that names no address of its own.
    pub bind: IpAddr,
    /// Where the first Environment's front door (SOCKS5, CONNECT) listens, the next one's a port higher; nothing:
    /// there is none.
    pub forwarder: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/postern-central".into(),
            environments: vec![default_environment()],
            secrets_key_file: None,
            admin: Admin {
                listen: (Ipv4Addr::LOCALHOST, 7443).into(),
                public_url: None,
                sessions: SessionLimits::default(),
                metrics: MetricsAccess::Token,
            },
            tunnel: Tunnel {
                listen: (Ipv4Addr::UNSPECIFIED, 8443).into(),
                public_url: None,
                names: Vec::new(),
                ping_interval: 5 * S,
                dead_after: 15 * S,
                resume_window: 30 * S,
                lanes: 1,
            },
            gateway: Gateway {
                connect_timeout: 4 * M,
                park_timeout: 30 * S,
                drain_timeout: 5 * M,
                drill: None,
            },
            agent: Agent { give_way_after: 10 * S },
            alerts: Alerts { hold_down: 10 * S, allow_destinations: Vec::new() },
            listeners: Listeners {
                bind: Ipv4Addr::LOCALHOST.into(),
                forwarder: Some((Ipv4Addr::LOCALHOST, 0).into()),
            },
            oidc: None,
            traces: traces::Settings::default(),
            log: Log { format: LogFormat::Text, level: "info".into() },
            written: Written::default(),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Its `Display` is one line per mistake: `FILE:LINE:COLUMN: what is wrong`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.into(), source };
        let mut text = String::new();
        fs::File::open(path)
            .map_err(failed)?
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Self::parse(path, &text)
    }

    /// Checks `text`; `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::new(path, text);
        let file = match toml::from_str::<File>(text) {
            Ok(file) => file,
            Err(error) => {
                mistakes.add_toml(&error);
                File::default()
            }
        };
        let config = Reading { mistakes: &mut mistakes }.config(&file);
        mistakes.none().map(|()| Config { written: Written::of(text), ..config })
    }

    /// A file that says, with comments, what the defaults are.
    pub fn example() -> &'static str {
        include_str!("../../../deploy/examples/central.toml")
    }

    /// What both ends of a link to an agent must share.
    pub fn link_settings(&self) -> LinkSettings {
        // Every duration is bounded by hours.
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        LinkSettings {
            ping_interval_ms: ms(self.tunnel.ping_interval),
            dead_after_ms: ms(self.tunnel.dead_after),
            resume_window_ms: ms(self.tunnel.resume_window),
            drain_timeout_ms: ms(self.gateway.drain_timeout),
            give_way_after_ms: ms(self.agent.give_way_after),
            lanes: self.tunnel.lanes,
        }
    }
}

fn default_environment() -> EnvironmentName {
    #[expect(clippy::expect_used, reason = "a literal that the test of the defaults parses")]
    "default".parse().expect("a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(Config::default().environments[0].as_str(), "default");
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        assert_eq!(parse(Config::example()).unwrap(), Config::default());
    }

    #[test]
    fn every_setting_is_read() {
        let text = r#"
            data_dir = "/srv/postern"
            environments = ["acme", "globex"]
            secrets_key_file = "/run/postern.key"
            [admin]
            listen = "localhost:1"
            public_url = "https://admin.example:7443"
            [tunnel]
            listen = "[::]:443"
            public_url = "https://gw.example"
            names = ["gw2.example", "192.0.2.1", "2001:db8::1"]
            ping_interval = "1s"
            dead_after = "2s"
            resume_window = "1m"
            lanes = 4
            [gateway]
            connect_timeout = "2m"
            park_timeout = "0s"
            drain_timeout = "1h"
            drill = "weekly Sun 03:00"
            [agent]
            give_way_after = "1500ms"
            [alerts]
            hold_down = "0s"
            allow_destinations = ["127.0.0.0/8"]
            [listeners]
            bind = "0.0.0.0"
            forwarder = "192.0.2.1:1080"
            [log]
            format = "json"
            level = "warn,central=debug"
        "#;
        let config = parse(text).unwrap();
        assert_eq!(config.data_dir, Path::new("/srv/postern"));
        assert_eq!(config.environments.len(), 2);
        assert_eq!(config.secrets_key_file.as_deref(), Some(Path::new("/run/postern.key")));
        assert_eq!(config.admin.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.admin.public_url.as_ref().unwrap().host(), "admin.example");
        assert_eq!(config.tunnel.listen, "[::]:443".parse().unwrap());
        assert_eq!(config.tunnel.names, ["gw2.example", "192.0.2.1", "2001:db8::1", "gw.example"]);
        assert_eq!(config.tunnel.public_url.as_ref().unwrap().to_string(), "https://gw.example:443");
        assert_eq!(config.link_settings().dead_after(), 2 * S);
        assert_eq!(config.link_settings().lanes, 4);
        assert_eq!(
            config.gateway,
            Gateway {
                connect_timeout: 2 * M,
                park_timeout: Duration::ZERO,
                drain_timeout: H,
                drill: Some("weekly Sun 03:00".parse().unwrap()),
            }
        );
        assert_eq!(config.agent.give_way_after, 1500 * MS);
        assert_eq!(config.alerts.allow_destinations.len(), 1);
        assert_eq!(config.listeners.bind, IpAddr::from(Ipv4Addr::UNSPECIFIED));
        assert_eq!(config.listeners.forwarder, Some("192.0.2.1:1080".parse().unwrap()));
        let beside = parse("[listeners]\nbind = \"0.0.0.0\"").unwrap().listeners;
        assert_eq!(beside.forwarder, Some("0.0.0.0:0".parse().unwrap()));
        assert_eq!(parse("[listeners]\nforwarder = \"off\"").unwrap().listeners.forwarder, None);
        assert_eq!(config.log, Log { format: LogFormat::Json, level: "warn,central=debug".into() });
    }

    #[test]
    fn a_misspelt_key_is_shown_with_its_place_and_the_likely_one() {
        let error = parse("[gateway]\nconect_timeout = \"4m\"").unwrap_err().to_string();
        assert!(error.starts_with("central.toml:2:1: unknown field 'conect_timeout'"), "{error}");
        assert!(error.ends_with("did you mean 'connect_timeout'?"), "{error}");
        let error = parse("[gatway]").unwrap_err().to_string();
        assert!(error.ends_with("did you mean 'gateway'?"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_in_every_table() {
        for table in ["admin", "tunnel", "gateway", "agent", "alerts", "listeners", "oidc", "log"] {
            let error = parse(&format!("[{table}]\nmoon = 1")).unwrap_err().to_string();
            assert!(error.starts_with("central.toml:2:1: unknown field 'moon'"), "{error}");
        }
    }

    #[test]
    fn all_wrong_values_are_told_together() {
        let text = "environments = [\"a/b\", \"ok\"]\n[tunnel]\nlisten = \"8443\"\nping_interval = \"5\"\n[gateway]\nconnect_timeout = \"0s\"\n";
        let ConfigError::Mistakes(mistakes) = parse(text).unwrap_err() else { panic!("not read") };
        let places: Vec<_> = mistakes.iter().map(|mistake| (mistake.line, mistake.column)).collect();
        assert_eq!(places, [(1, 17), (3, 10), (4, 17), (6, 19)]);
        assert!(mistakes[3].message.contains("between 1s and 1h"), "{}", mistakes[3]);
    }

    #[test]
    fn two_pings_must_fit_into_the_time_of_death() {
        let error = parse("[tunnel]\nping_interval = \"10s\"").unwrap_err().to_string();
        assert!(error.starts_with("central.toml:2:17: tunnel.dead_after (15s)"), "{error}");
        assert!(error.contains("tunnel.ping_interval (10s)"), "{error}");
    }

    #[test]
    fn a_tunnel_has_a_number_of_lanes_that_is_bounded() {
        for odd in ["0", "9", "-1", "1000"] {
            let error = parse(&format!("[tunnel]\nlanes = {odd}")).unwrap_err().to_string();
            assert!(error.starts_with("central.toml:2:9: a tunnel has 1 to 8 lanes"), "{error}");
        }
        assert_eq!(parse("[tunnel]\nlanes = 8").unwrap().tunnel.lanes, 8);
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        let error = parse("[gateway]\nconnect_timeout = 240").unwrap_err().to_string();
        assert!(error.starts_with("central.toml:2:19:") && error.contains("\"4m\""), "{error}");
    }

    #[test]
    fn admin_and_tunnel_need_an_address_each_but_may_both_ask_for_any_port() {
        let same = "[admin]\nlisten = \"127.0.0.1:1\"\n[tunnel]\nlisten = \"127.0.0.1:1\"";
        assert!(parse(same).unwrap_err().to_string().contains("both 127.0.0.1:1"));
        parse(&same.replace(":1\"", ":0\"")).unwrap();
    }

    #[test]
    fn what_is_no_name_or_network_is_refused() {
        for text in [
            "[tunnel]\nnames = [\"a b\"]",
            "[tunnel]\nnames = [\"gw/x\"]",
            "[tunnel]\npublic_url = \"http://gw\"",
            "[tunnel]\npublic_url = \"https://gw/path\"",
            "[alerts]\nallow_destinations = [\"10.1.2.3/8\"]",
            "[listeners]\nbind = \"eth0\"",
            "[listeners]\nforwarder = \"on\"",
            "[log]\nlevel = \"central=loud\"",
            "environments = []",
            "environments = [\"a\", \"a\"]",
            "data_dir = \"\"",
            "secrets_key_file = \"\"",
            "[admin]\npublic_url = \"http://admin\"",
        ] {
            assert!(matches!(parse(text), Err(ConfigError::Mistakes(found)) if found.len() == 1), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/nowhere/central.toml")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/central.toml cannot be read");
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("central.toml"), text)
    }
}
