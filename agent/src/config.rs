//! `agent.toml`: read once at start, checked whole before anything is bound.
//!
//! The file is optional and so is each key; an unknown key, a wrong value or an allow-list that
//! cannot be read keeps the agent from starting, with file, line and column.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use program::Authority;
use proto::Fingerprint;
use serde::{Deserialize, Deserializer, de};
use traces::{
    Sample,
    settings::{Endpoint, Headers},
};

use crate::{
    alerts::{Settings, SettingsError},
    data_dir::read_bounded,
    dialer::{
        address::Network,
        allow_list::{AllowList, Entry},
    },
    proxy::{Credentials, Proxy, ProxyUrl},
};
pub use program::{
    Mistake,
    logging::{Log, LogFormat},
};

/// Far more than all settings with a comment each, and thousands of inline destinations.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Where peers connect unless the file says otherwise.
const PEER_PORT: u16 = 7431;

/// The agent's settings, with every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Through which central is reached, and nothing else; `None`: it is reached directly.
    pub proxy: Option<Proxy>,
    pub allow: AllowSource,
    /// How long one destination has to accept a connection.
    pub dial_timeout: Duration,
    pub peers: Peers,
    /// Where `/livez`, `/readyz`, `/active` and `/metrics` are answered: a loopback address, or nowhere.
    pub status_listen: Option<SocketAddr>,
    /// Whom this agent tells when central is out of reach; `None`: nobody.
    pub alerts: Option<Settings>,
    /// Where streams are told of.
    pub traces: traces::Settings,
    pub log: Log,
}

/// Where the allowed destinations stand.
#[derive(Debug, Clone)]
pub enum AllowSource {
    /// In `agent.toml` itself; read once.
    Inline(AllowList),
    /// In a file of their own, read again whenever it changes. A missing file allows nothing.
    File(PathBuf),
}

/// How this agent and its peers meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    pub listen: SocketAddr,
    /// `HOST:PORT`, best first; empty means this host's own address.
    pub advertise: Vec<String>,
    /// When set, the only keys that may take part in the group here.
    pub approved: Option<BTreeSet<Fingerprint>>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Mistake(#[from] Mistake),
    #[error("the alert endpoints in {path}")]
    Alerts { path: PathBuf, source: SettingsError },
}

impl Config {
    /// Reads `file`, or `DATA_DIR/agent.toml` where it exists, or takes the defaults.
    pub fn load(data_dir: &Path, file: Option<&Path>) -> Result<Self, ConfigError> {
        let default_path = data_dir.join("agent.toml");
        let path = file.unwrap_or(&default_path);
        let text = match read_bounded(path, FILE_BYTES_MAX) {
            Ok(bytes) => String::from_utf8(bytes)
                .map_err(|e| (path, io::Error::new(io::ErrorKind::InvalidData, e)))
                .map_err(|(path, source)| ConfigError::Read { path: path.to_owned(), source })?,
            // Only the file nobody asked for may be missing.
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&text, path, data_dir)
    }

    /// Checks `text`; `path` is only for messages. Reads the alert endpoints' file, if one is named.
    pub fn parse(text: &str, path: &Path, data_dir: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|e| Mistake::in_toml(path, text, &e))?;
        let allow = match (file.allow_list, file.allow) {
            (Some(listed), Some(inline)) => {
                let twice =
                    "destinations stand in this file ([[allow]]) and in another (allow_list): keep one";
                let first = inline.span().start.min(listed.span().start);
                return Err(Mistake::at(path, text, first, twice).into());
            }
            (None, Some(inline)) => AllowSource::Inline(AllowList::new(inline.into_inner())),
            (Some(listed), None) => AllowSource::File(data_dir.join(listed.into_inner())),
            (None, None) => AllowSource::File(data_dir.join("allow-list.toml")),
        };
        let proxy = file.central.proxy(data_dir);
        let proxy = proxy.map_err(|(at, error)| Mistake::at(path, text, at, &error))?;
        let traces = file.traces.read(data_dir);
        let traces = traces.map_err(|(at, error)| Mistake::at(path, text, at, &error))?;
        let alerts = match file.alerts.endpoints {
            None => None,
            Some(endpoints) => {
                let path = data_dir.join(endpoints);
                let read = Settings::read(&path, file.alerts.after, file.alerts.allow_destinations);
                Some(read.map_err(|source| ConfigError::Alerts { path, source })?)
            }
        };
        Ok(Self {
            data_dir: data_dir.to_owned(),
            proxy,
            allow,
            dial_timeout: file.dial.timeout,
            peers: file.peers.into(),
            status_listen: file.status.listen,
            alerts,
            traces,
            log: Log { format: file.log.format, level: file.log.level },
        })
    }

    /// Where the running agent answers `postern-agent status`.
    pub fn status_socket(&self) -> PathBuf {
        self.data_dir.join("agent.sock")
    }
}

/// Reads an allow-list file: nothing but `[[allow]]` entries.
pub fn read_allow_list(path: &Path) -> Result<AllowList, ConfigError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ListFile {
        #[serde(default)]
        allow: Vec<Entry>,
    }
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    let list: ListFile = toml::from_str(&text).map_err(|e| Mistake::in_toml(path, &text, &e))?;
    Ok(AllowList::new(list.allow))
}

/// `agent.toml` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    allow: Option<toml::Spanned<Vec<Entry>>>,
    allow_list: Option<toml::Spanned<PathBuf>>,
    #[serde(default)]
    central: CentralTable,
    #[serde(default)]
    dial: DialTable,
    // The singular is an easy slip and means the same.
    #[serde(default, alias = "peer")]
    peers: PeersTable,
    #[serde(default)]
    alerts: AlertsTable,
    #[serde(default)]
    status: StatusTable,
    #[serde(default)]
    traces: TracesTable,
    #[serde(default)]
    log: LogTable,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct CentralTable {
    #[serde(deserialize_with = "proxy_url")]
    proxy: Option<ProxyUrl>,
    proxy_credentials_file: Option<toml::Spanned<PathBuf>>,
}

impl CentralTable {
    /// As [`TracesTable::read`]. The file is read once to find a mistake before anything is started.
    fn proxy(self, data_dir: &Path) -> Result<Option<Proxy>, (usize, String)> {
        match (self.proxy, self.proxy_credentials_file) {
            (None, None) => Ok(None),
            (None, Some(file)) => {
                Err((file.span().start, "these credentials are for no proxy: set 'proxy' too".to_owned()))
            }
            (Some(url), file) => {
                let credentials_file =
                    named(file, data_dir, |path| Credentials::read(path).map(|_| path.to_owned()))?;
                Ok(Some(Proxy { url, credentials_file }))
            }
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct StatusTable {
    #[serde(deserialize_with = "loopback")]
    listen: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DialTable {
    #[serde(deserialize_with = "dial_timeout")]
    timeout: Duration,
}

impl Default for DialTable {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PeersTable {
    listen: SocketAddr,
    #[serde(deserialize_with = "host_ports")]
    advertise: Vec<String>,
    approved: Option<BTreeSet<Fingerprint>>,
}

impl Default for PeersTable {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PEER_PORT)),
            advertise: Vec::new(),
            approved: None,
        }
    }
}

impl From<PeersTable> for Peers {
    fn from(table: PeersTable) -> Self {
        Self { listen: table.listen, advertise: table.advertise, approved: table.approved }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AlertsTable {
    endpoints: Option<PathBuf>,
    #[serde(deserialize_with = "silence")]
    after: Duration,
    #[serde(deserialize_with = "networks")]
    allow_destinations: Option<Vec<Network>>,
}

impl Default for AlertsTable {
    fn default() -> Self {
        Self { endpoints: None, after: Duration::from_secs(300), allow_destinations: None }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogTable {
    format: LogFormat,
    #[serde(deserialize_with = "log_filter")]
    level: String,
}

impl Default for LogTable {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct TracesTable {
    #[serde(deserialize_with = "collector")]
    endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "share")]
    sample: Sample,
    headers_file: Option<toml::Spanned<PathBuf>>,
    ca_file: Option<toml::Spanned<PathBuf>>,
}

impl TracesTable {
    /// Relative paths start at the data directory. A mistake comes with its place in the text.
    fn read(self, data_dir: &Path) -> Result<traces::Settings, (usize, String)> {
        let headers = named(self.headers_file, data_dir, Headers::read)?.unwrap_or_default();
        let authority = named(self.ca_file, data_dir, Authority::read)?;
        Ok(traces::Settings { endpoint: self.endpoint, sample: self.sample, headers, authority })
    }
}

/// What is in a file that a setting names.
fn named<T, E: fmt::Display>(
    given: Option<toml::Spanned<PathBuf>>,
    data_dir: &Path,
    read: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<Option<T>, (usize, String)> {
    let Some(given) = given else { return Ok(None) };
    let at = given.span().start;
    read(&data_dir.join(given.into_inner())).map(Some).map_err(|error| (at, error.to_string()))
}

fn proxy_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProxyUrl>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

fn collector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Endpoint>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sample, D::Error> {
    Sample::new(f64::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = SocketAddr::deserialize(deserializer)?;
    match address.ip().is_loopback() {
        true => Ok(Some(address)),
        // What it tells needs no password, so it is told to this host alone.
        false => Err(de::Error::custom(format!("{address} is no loopback address such as 127.0.0.1:7432"))),
    }
}

fn dial_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_between(Duration::from_millis(100), Duration::from_secs(300), deserializer)
}

/// Shorter than a second is no absence, and after a day somebody has noticed.
fn silence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_between(Duration::from_secs(1), Duration::from_secs(24 * 3600), deserializer)
}

fn duration_between<'de, D: Deserializer<'de>>(
    shortest: Duration,
    longest: Duration,
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text)
        .map_err(|e| de::Error::custom(format!("{text:?} is no duration such as \"10s\" or \"4m\": {e}")))?;
    if !(shortest..=longest).contains(&duration) {
        let (shortest, longest) = (humantime::format_duration(shortest), humantime::format_duration(longest));
        return Err(de::Error::custom(format!("{text} is not between {shortest} and {longest}")));
    }
    Ok(duration)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Network>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let networks = texts.iter().map(|text| text.parse().map_err(de::Error::custom));
    networks.collect::<Result<_, _>>().map(Some)
}

fn host_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let addrs = Vec::<String>::deserialize(deserializer)?;
    match addrs.iter().find(|addr| !is_host_port(addr)) {
        Some(odd) => Err(de::Error::custom(format!("{odd:?} is not HOST:PORT"))),
        None => Ok(addrs),
    }
}

fn is_host_port(text: &str) -> bool {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return addr.port() != 0;
    }
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text),
        Err(error) => Err(de::Error::custom(format!("{text:?} is no log filter: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults_and_denies_every_destination() {
        let config = parse("").unwrap();
        assert_eq!(config.peers.listen.to_string(), "0.0.0.0:7431");
        assert_eq!(config.dial_timeout, Duration::from_secs(10));
        assert!(
            matches!(config.allow, AllowSource::File(path) if path == Path::new("/data/allow-list.toml"))
        );
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let example = include_str!("../../deploy/examples/agent.toml");
        let (example, default) = (parse(example).unwrap(), parse("").unwrap());
        assert_eq!(format!("{example:?}"), format!("{default:?}"));
    }

    #[test]
    fn every_setting_of_the_example_may_be_turned_on() {
        let example = include_str!("../../deploy/examples/agent.toml");
        let all: Vec<_> = example
            .lines()
            .map(|line| if line.contains("= [") { line.trim_start_matches("# ") } else { line })
            .collect();
        let config = parse(&all.join("\n")).unwrap();
        assert_eq!(config.peers.advertise, ["10.0.4.11:7431"]);
        assert_eq!(config.peers.approved.unwrap().len(), 1);
    }

    #[test]
    fn the_example_allow_list_can_be_read() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/allow-list.toml"));
        assert_eq!(read_allow_list(path).unwrap().len(), 5);
    }

    #[test]
    fn a_mistake_is_told_with_file_line_column_and_the_likely_word() {
        for (text, place, words) in [
            ("[peers]\nlisen = \"0.0.0.0:1\"", "agent.toml:2:1", "did you mean 'listen'?"),
            ("[dial]\ntimeout = \"4x\"", "agent.toml:2:11", "no duration"),
            ("[dial]\ntimeout = \"1h\"", "agent.toml:2:11", "not between"),
            ("[dial]\ntimeout = 4", "agent.toml:2:11", "string"),
            ("[log]\n  format = \"xml\"", "agent.toml:2:12", "expected"),
            ("[log]\nlevel = \"loud=very\"", "agent.toml:2:9", "no log filter"),
            ("[peers]\nadvertise = [\"gw\"]", "agent.toml:2:13", "HOST:PORT"),
            ("[peers]\napproved = [\"12\"]", "agent.toml:2:12", "64 hexadecimal digits"),
            ("allow_lists = \"x\"", "agent.toml:1:1", "did you mean 'allow_list'?"),
            ("allow_list = \"x\"\n[[allow]]\nhost = \"a\"\nports = 1", "agent.toml:1:14", "keep one"),
            ("[[allow]]\nhost = \"127.1\"\nports = 1", "agent.toml:2:8", "127.1"),
            ("[[allow]]\nhost = \"a\"\nports = 70000", "agent.toml:3:9", "70000"),
            ("[[allow]]\nhost = \"a\"\nports = \"9-1\"", "agent.toml:3:9", "9-1"),
            ("[[allow]]\nhost = \"a\"\nports = 1\nprotocol = \"sctp\"", "agent.toml:4:12", "tcp"),
            ("[[allow]]\nhost = \"a\"", "agent.toml:1:1", "ports"),
            ("[traces]\nsample = 2", "agent.toml:2:10", "from 0 (none) to 1 (all)"),
            ("[traces]\nendpoint = \"otel:4317\"", "agent.toml:2:12", "http or https"),
            ("[traces]\nheaders_file = \"moon\"", "agent.toml:2:16", "/data/moon cannot be read"),
            ("[central]\nproxy = \"socks5://p:1\"", "agent.toml:2:9", "only HTTP proxies"),
            ("[central]\nproxy = \"http://u:p@p:1\"", "agent.toml:2:9", "a file of mode 0600"),
            ("[central]\nproxi = \"http://p:1\"", "agent.toml:2:1", "did you mean 'proxy'?"),
            ("[central]\nproxy_credentials_file = \"x\"", "agent.toml:2:26", "set 'proxy' too"),
            (
                "[central]\nproxy = \"http://p:1\"\nproxy_credentials_file = \"moon\"",
                "agent.toml:3:26",
                "/data/moon cannot be read",
            ),
            ("x = = 1", "agent.toml:1:5", ""),
        ] {
            let mistake = parse(text).unwrap_err().to_string();
            assert!(mistake.contains(place), "{text:?} gave {mistake}");
            assert!(mistake.contains(words), "{text:?} gave {mistake}");
        }
    }

    #[test]
    fn a_config_file_that_was_asked_for_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        Config::load(folder.path(), None).unwrap();
        let missing = folder.path().join("other.toml");
        assert!(matches!(Config::load(folder.path(), Some(&missing)), Err(ConfigError::Read { .. })));
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("agent.toml"), Path::new("/data"))
    }
}
