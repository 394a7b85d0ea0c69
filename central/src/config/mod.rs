//! `central.toml`: read once at start, checked whole before anything is bound.
//!
//! Text becomes meaning here: behind this door a duration is a [`Duration`] within its bounds and an address
//! can be bound. All mistakes in values are told together; an unknown key or bad TOML ends the reading.

mod effective;
mod file;
mod mistake;

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    EnvironmentName,
    hello::{LANES_MAX, LinkSettings},
};

pub use effective::{Setting, Source, Written};
pub use mistake::ConfigError;
pub use program::{
    Mistake,
    logging::{Log, LogFormat},
};

use crate::{
    cidr::Cidr,
    destination::{DestinationUrl, parse_listen},
    drill::schedule::Schedule,
    people::SessionLimits,
};
use file::{DurationText, File, Given, place};
use mistake::Mistakes;

/// Far more than every setting with its comment.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Each Environment has its own proxy-processor, witness and view.
const ENVIRONMENTS_MAX: usize = 100;
const NAMES_MAX: usize = 100;

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

/// Turns what is written into meaning, noting what is wrong. A wrong value reads as its default, so that
/// reading goes on to the next mistake.
struct Reading<'a, 'b> {
    mistakes: &'a mut Mistakes<'b>,
}

impl Reading<'_, '_> {
    fn config(&mut self, file: &File) -> Config {
        let default = Config::default();
        let config = Config {
            data_dir: self.data_dir(&file.data_dir, default.data_dir),
            environments: self.environments(&file.environments, default.environments),
            secrets_key_file: self.path(&file.secrets_key_file, "secrets_key_file"),
            admin: Admin {
                listen: self.listen(&file.admin.listen, default.admin.listen),
                public_url: self.public_url(&file.admin.public_url),
                sessions: SessionLimits {
                    idle: self.duration(&file.admin.session_idle, M..=24 * H, default.admin.sessions.idle),
                    lifetime: self.duration(
                        &file.admin.session_lifetime,
                        M..=7 * 24 * H,
                        default.admin.sessions.lifetime,
                    ),
                },
                metrics: file.admin.metrics.as_ref().map_or(default.admin.metrics, |given| *given.get_ref()),
            },
            tunnel: self.tunnel(&file.tunnel, default.tunnel),
            gateway: Gateway {
                connect_timeout: self.duration(
                    &file.gateway.connect_timeout,
                    S..=H,
                    default.gateway.connect_timeout,
                ),
                park_timeout: self.duration(
                    &file.gateway.park_timeout,
                    Duration::ZERO..=10 * M,
                    default.gateway.park_timeout,
                ),
                drain_timeout: self.duration(
                    &file.gateway.drain_timeout,
                    Duration::ZERO..=24 * H,
                    default.gateway.drain_timeout,
                ),
                drill: self.schedule(&file.gateway.drill, default.gateway.drill),
            },
            agent: Agent {
                give_way_after: self.duration(
                    &file.agent.give_way_after,
                    S..=H,
                    default.agent.give_way_after,
                ),
            },
            alerts: Alerts {
                hold_down: self.duration(
                    &file.alerts.hold_down,
                    Duration::ZERO..=H,
                    default.alerts.hold_down,
                ),
                allow_destinations: self.each(&file.alerts.allow_destinations, |text| text.parse::<Cidr>()),
            },
            listeners: self.listeners(&file.listeners, default.listeners),
            log: Log {
                format: file.log.format.as_ref().map_or(default.log.format, |format| *format.get_ref()),
                level: self.level(&file.log.level, default.log.level),
            },
            written: default.written,
        };
        self.together(file, &config);
        config
    }

    fn listeners(&mut self, table: &file::ListenersTable, default: Listeners) -> Listeners {
        let bind = self.bind(&table.bind, default.bind);
        let forwarder = match &table.forwarder {
            // Beside the destinations that name no address.
            None => default.forwarder.map(|_| SocketAddr::new(bind, 0)),
            Some(given) if given.get_ref() == "off" => None,
            given @ Some(_) => Some(self.listen(given, SocketAddr::new(bind, 0))),
        };
        Listeners { bind, forwarder }
    }

    fn tunnel(&mut self, table: &file::TunnelTable, default: Tunnel) -> Tunnel {
        let public_url = self.public_url(&table.public_url);
        let mut names = self.each(&table.names, host);
        if let Some(url) = &public_url
            && !names.iter().any(|name| name == url.host())
        {
            names.push(url.host().into());
        }
        if names.len() > NAMES_MAX {
            self.mistakes.add(place(&table.names), format!("a certificate has at most {NAMES_MAX} names"));
        }
        Tunnel {
            listen: self.listen(&table.listen, default.listen),
            public_url,
            names,
            ping_interval: self.duration(&table.ping_interval, 100 * MS..=M, default.ping_interval),
            dead_after: self.duration(&table.dead_after, 200 * MS..=10 * M, default.dead_after),
            resume_window: self.duration(&table.resume_window, S..=H, default.resume_window),
            lanes: self.lanes(&table.lanes, default.lanes),
        }
    }

    fn lanes(&mut self, given: &Given<i64>, default: u8) -> u8 {
        let Some(given) = given else { return default };
        match u8::try_from(*given.get_ref()) {
            Ok(lanes @ 1..=LANES_MAX) => lanes,
            _ => {
                self.mistakes.add(given.span(), format!("a tunnel has 1 to {LANES_MAX} lanes"));
                default
            }
        }
    }

    /// What no single value can tell.
    fn together(&mut self, file: &File, config: &Config) {
        let Tunnel { ping_interval, dead_after, listen, .. } = &config.tunnel;
        if *dead_after < 2 * *ping_interval {
            let at = file.tunnel.dead_after.as_ref().or(file.tunnel.ping_interval.as_ref());
            let [dead, ping] = [*dead_after, *ping_interval].map(humantime::format_duration);
            self.mistakes.add(
                at.map_or(0..0, toml::Spanned::span),
                format!(
                    "tunnel.dead_after ({dead}) is less than two tunnel.ping_interval ({ping}): \
                     one lost ping would count as death"
                ),
            );
        }
        if *listen == config.admin.listen && listen.port() != 0 {
            let at =
                place(if file.admin.listen.is_some() { &file.admin.listen } else { &file.tunnel.listen });
            self.mistakes.add(at, format!("admin.listen and tunnel.listen are both {listen}"));
        }
    }

    fn public_url(&mut self, given: &Given<String>) -> Option<DestinationUrl> {
        let given = given.as_ref()?;
        match given.get_ref().parse::<DestinationUrl>() {
            Ok(url) if url.scheme().as_str() == "https" && url.path().is_empty() => Some(url),
            Ok(_) => self.wrong(given.span(), "public_url is https://HOST or https://HOST:PORT"),
            Err(error) => self.wrong(given.span(), error),
        }
    }

    fn path(&mut self, given: &Given<String>, what: &str) -> Option<PathBuf> {
        let given = given.as_ref()?;
        match given.get_ref().as_str() {
            "" => self.wrong(given.span(), format!("{what} must not be empty")),
            path => Some(path.into()),
        }
    }

    fn data_dir(&mut self, given: &Given<String>, default: PathBuf) -> PathBuf {
        match given {
            Some(given) if given.get_ref().is_empty() => {
                self.mistakes.add(given.span(), "data_dir must not be empty");
                default
            }
            Some(given) => given.get_ref().into(),
            None => default,
        }
    }

    fn environments(
        &mut self,
        given: &Given<Vec<toml::Spanned<String>>>,
        default: Vec<EnvironmentName>,
    ) -> Vec<EnvironmentName> {
        if given.is_none() {
            return default;
        }
        let environments = self.each(given, |text| text.parse::<EnvironmentName>());
        let distinct: BTreeSet<_> = environments.iter().collect();
        if given.as_ref().is_some_and(|given| given.get_ref().is_empty()) {
            self.mistakes.add(place(given), "there must be at least one environment");
        } else if distinct.len() < environments.len() {
            self.mistakes.add(place(given), "an environment is named twice");
        } else if environments.len() > ENVIRONMENTS_MAX {
            self.mistakes.add(place(given), format!("there are at most {ENVIRONMENTS_MAX} environments"));
        }
        environments
    }

    fn listen(&mut self, given: &Given<String>, default: SocketAddr) -> SocketAddr {
        let Some(given) = given else { return default };
        parse_listen(given.get_ref()).unwrap_or_else(|error| {
            self.mistakes.add(given.span(), error);
            default
        })
    }

    fn schedule(&mut self, given: &Given<String>, default: Option<Schedule>) -> Option<Schedule> {
        let Some(given) = given else { return default };
        Schedule::setting(given.get_ref()).unwrap_or_else(|error| {
            self.mistakes.add(given.span(), error);
            default
        })
    }

    fn bind(&mut self, given: &Given<String>, default: IpAddr) -> IpAddr {
        let Some(given) = given else { return default };
        given.get_ref().parse().unwrap_or_else(|_| {
            let text = given.get_ref();
            self.mistakes
                .add(given.span(), format!("{text:?} is no IP address of this host, as in \"0.0.0.0\""));
            default
        })
    }

    fn level(&mut self, given: &Given<String>, default: String) -> String {
        let Some(given) = given else { return default };
        if let Err(error) = given.get_ref().parse::<tracing_subscriber::EnvFilter>() {
            let text = given.get_ref();
            self.mistakes.add(given.span(), format!("{text:?} is no log filter, as in \"info\": {error}"));
        }
        given.get_ref().clone()
    }

    fn duration(
        &mut self,
        given: &Given<DurationText>,
        bounds: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(given) = given else { return default };
        let text = &given.get_ref().0;
        match humantime::parse_duration(text) {
            Ok(duration) if bounds.contains(&duration) => return duration,
            Ok(_) => {
                let [least, most] = [*bounds.start(), *bounds.end()].map(humantime::format_duration);
                self.mistakes.add(given.span(), format!("{text} is not between {least} and {most}"));
            }
            Err(error) => {
                let message = format!("{text:?} is no duration such as \"4m\" or \"500ms\": {error}");
                self.mistakes.add(given.span(), message);
            }
        }
        default
    }

    fn each<T, E: fmt::Display>(
        &mut self,
        given: &Given<Vec<toml::Spanned<String>>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let entries = given.as_ref().map_or(&[][..], |given| given.get_ref().as_slice());
        let mut parsed = Vec::new();
        for entry in entries {
            match parse(entry.get_ref()) {
                Ok(value) => parsed.push(value),
                Err(error) => self.mistakes.add(entry.span(), error),
            }
        }
        parsed
    }

    fn wrong<T>(&mut self, at: std::ops::Range<usize>, message: impl fmt::Display) -> Option<T> {
        self.mistakes.add(at, message);
        None
    }
}

/// A host name or address for a certificate.
fn host(text: &str) -> Result<String, String> {
    let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
    let url: Result<DestinationUrl, _> = format!("https://{bracketed}:443").parse();
    match url {
        Ok(url) if !text.contains('/') => Ok(url.host().into()),
        _ => Err(format!("{text:?} is neither a host name nor an IP address")),
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
        for table in ["admin", "tunnel", "gateway", "agent", "alerts", "listeners", "log"] {
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
