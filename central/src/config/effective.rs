//! What is in force: every setting with its value, its default and where it came from, for people who ask.
//!
//! Keys and tokens lie in files of their own. What a setting reads from such a file is shown as `***`.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::{Config, LogFormat, MetricsAccess};

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Setting {
    /// As the file spells it: `gateway.connect_timeout`.
    pub name: &'static str,
    pub value: String,
    pub default: String,
    #[schema(value_type = String)]
    pub source: Source,
    /// What it decides, one sentence.
    pub about: &'static str,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Default,
    /// The configuration file says so, perhaps the same as the default.
    File,
    /// The command line, as `postern-central dev` chooses.
    CommandLine,
    /// A variable that is not ours: OpenTelemetry's.
    Environment,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::CommandLine => "command_line",
            Self::Environment => "environment",
        })
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.collect_str(self)
    }
}

/// The settings that a file wrote down, by name. Where a value came from is no part of what it means: two
/// configurations that say the same are equal, whoever said it.
#[derive(Debug, Clone, Default)]
pub struct Written(BTreeSet<String>);

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Written {}

impl Written {
    /// The keys of a file that was read already, so it is TOML.
    pub(super) fn of(text: &str) -> Self {
        let mut names = BTreeSet::new();
        for (name, value) in text.parse::<toml::Table>().unwrap_or_default() {
            match value {
                toml::Value::Table(table) => names.extend(table.keys().map(|key| format!("{name}.{key}"))),
                _ => drop(names.insert(name)),
            }
        }
        Self(names)
    }
}

/// Name, sentence, and how its value is written.
type Line = (&'static str, &'static str, fn(&Config) -> String);

/// Every setting, in the order of the file.
const SETTINGS: &[Line] = &[
    ("data_dir", "Where central keeps its state.", |c| c.data_dir.display().to_string()),
    ("environments", "The customers' worlds that this central serves.", |c| list(&c.environments)),
    ("secrets_key_file", "Where the key lies that secrets in the store are sealed with.", |c| {
        let in_data_dir = || c.data_dir.join(crate::vault::FILE);
        c.secrets_key_file.clone().unwrap_or_else(in_data_dir).display().to_string()
    }),
    ("admin.listen", "Where the API and these pages are reached.", |c| c.admin.listen.to_string()),
    ("admin.public_url", "Where browsers find these pages: alerts link to them.", |c| {
        c.admin.public_url.as_ref().map_or_else(none, ToString::to_string)
    }),
    ("admin.session_idle", "A session that is not used for so long ends.", |c| span(c.admin.sessions.idle)),
    ("admin.session_lifetime", "A session ends after so long in any case.", |c| {
        span(c.admin.sessions.lifetime)
    }),
    ("admin.metrics", "Who may read /metrics: token or open.", |c| match c.admin.metrics {
        MetricsAccess::Token => "token".to_owned(),
        MetricsAccess::Open => "open".to_owned(),
    }),
    ("tunnel.listen", "Where agents dial in.", |c| c.tunnel.listen.to_string()),
    ("tunnel.public_url", "What agents are told to dial.", |c| {
        c.tunnel.public_url.as_ref().map_or_else(none, ToString::to_string)
    }),
    ("tunnel.names", "Names in central's certificate, beside this host's own.", |c| list(&c.tunnel.names)),
    ("tunnel.ping_interval", "How often both ends of a link ping.", |c| span(c.tunnel.ping_interval)),
    ("tunnel.dead_after", "A link that is silent for so long is dead.", |c| span(c.tunnel.dead_after)),
    ("tunnel.resume_window", "How long streams wait for the same active to come back.", |c| {
        span(c.tunnel.resume_window)
    }),
    ("tunnel.lanes", "Websockets that one tunnel consists of.", |c| c.tunnel.lanes.to_string()),
    ("gateway.connect_timeout", "How long one candidate has before the next is tried.", |c| {
        span(c.gateway.connect_timeout)
    }),
    ("gateway.park_timeout", "How long a new connection waits for a tunnel.", |c| {
        span(c.gateway.park_timeout)
    }),
    ("gateway.drain_timeout", "How long the old active keeps its streams after a planned switch.", |c| {
        span(c.gateway.drain_timeout)
    }),
    ("gateway.drill", "When failover drills run by themselves.", |c| {
        c.gateway.drill.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)
    }),
    ("agent.give_way_after", "A leader that does not hear central for so long hands over.", |c| {
        span(c.agent.give_way_after)
    }),
    ("alerts.hold_down", "How long \"down\" must last before it is told.", |c| span(c.alerts.hold_down)),
    ("alerts.allow_destinations", "Private networks in which alert receivers may stand.", |c| {
        list(&c.alerts.allow_destinations)
    }),
    ("listeners.bind", "Where a destination listens that names no address of its own.", |c| {
        c.listeners.bind.to_string()
    }),
    (
        "listeners.forwarder",
        "Where the front door (SOCKS5, HTTP CONNECT) listens; port 0: any free one.",
        |c| c.listeners.forwarder.map_or_else(|| "off".to_owned(), |address| address.to_string()),
    ),
    ("oidc.issuer", "The identity provider that people may sign in through.", |c| {
        oidc(c, |oidc| oidc.issuer.to_string())
    }),
    ("oidc.client_id", "What central is called there.", |c| oidc(c, |oidc| oidc.client_id.clone())),
    ("oidc.client_secret_file", "What central proves itself there with, which is not shown.", |c| {
        oidc(c, |oidc| format!("{:?}", oidc.client_secret))
    }),
    ("oidc.scopes", "What is asked for of people's data.", |c| oidc(c, |oidc| oidc.scopes.clone())),
    ("oidc.user_claim", "The claim that users' names are made from.", |c| {
        oidc(c, |oidc| oidc.user_claim.clone())
    }),
    ("oidc.role_claim", "The claim that roles are given for.", |c| oidc(c, |oidc| oidc.role_claim.clone())),
    ("oidc.roles", "Which values of that claim give which role.", |c| oidc(c, |oidc| oidc.roles.to_string())),
    ("oidc.ca_file", "Whom the identity provider's certificate is believed.", |c| {
        oidc(c, |oidc| oidc.authority.as_ref().map_or_else(trusted, |authority| format!("{authority:?}")))
    }),
    ("oidc.environment", "The Environment that its people sign in to.", |c| {
        oidc(c, |oidc| oidc.environment.to_string())
    }),
    ("traces.endpoint", "The OpenTelemetry collector that is told of connections.", |c| {
        c.traces.endpoint.as_ref().map_or_else(none, ToString::to_string)
    }),
    ("traces.sample", "Of which share of connections it is told.", |c| c.traces.sample.to_string()),
    ("traces.headers_file", "Headers that are sent along, which are not shown.", |c| {
        let count = c.traces.headers.map().len();
        if count == 0 { none() } else { format!("*** ({count})") }
    }),
    ("traces.ca_file", "Whom a collector with https is believed.", |c| {
        c.traces.authority.as_ref().map_or_else(trusted, |given| format!("{given:?}"))
    }),
    ("log.format", "How central writes its log: text or json.", |c| match c.log.format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    }),
    ("log.level", "What central writes into its log.", |c| c.log.level.clone()),
];

impl Config {
    /// Every setting as it is in force.
    pub fn settings(&self) -> Vec<Setting> {
        let defaults = Self::default();
        let setting = |&(name, about, show): &Line| {
            let (value, default) = (show(self), show(&defaults));
            let source = match self.written.0.contains(name) {
                true => Source::File,
                false if value == default => Source::Default,
                false if name == "traces.endpoint" => Source::Environment,
                false => Source::CommandLine,
            };
            Setting { name, value, default, source, about }
        };
        SETTINGS.iter().map(setting).collect()
    }
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn oidc(config: &Config, show: impl Fn(&crate::oidc::Settings) -> String) -> String {
    config.oidc.as_ref().map_or_else(none, show)
}

fn trusted() -> String {
    "whom this machine trusts".to_owned()
}

fn none() -> String {
    "(none)".to_owned()
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => none(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::file::File, *};

    #[test]
    fn every_key_that_a_file_may_have_is_shown() {
        let shown: BTreeSet<_> = SETTINGS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let tables = ["admin", "tunnel", "gateway", "agent", "alerts", "listeners", "oidc", "traces", "log"];
        let mut known: BTreeSet<_> =
            keys("moon = 1").into_iter().filter(|key| !tables.contains(&key.as_str())).collect();
        for table in tables {
            known.extend(
                keys(&format!("[{table}]\nmoon = 1")).into_iter().map(|key| format!("{table}.{key}")),
            );
        }
        assert_eq!(shown, known);
    }

    #[test]
    fn what_a_file_says_is_told_from_what_nobody_said() {
        let text = "[gateway]\nconnect_timeout = \"2m\"\npark_timeout = \"30s\"";
        let mut config = Config::parse(Path::new("central.toml"), text).unwrap();
        config.admin.listen = "127.0.0.1:1".parse().unwrap();
        let settings = config.settings();
        let of = |name: &str| {
            let one = settings.iter().find(|one| one.name == name).unwrap();
            (one.value.clone(), one.default.clone(), one.source)
        };
        assert_eq!(of("gateway.connect_timeout"), ("2m".into(), "4m".into(), Source::File));
        assert_eq!(of("gateway.park_timeout"), ("30s".into(), "30s".into(), Source::File));
        assert_eq!(of("gateway.drain_timeout"), ("5m".into(), "5m".into(), Source::Default));
        assert_eq!(of("admin.listen").2, Source::CommandLine);
    }

    /// The keys that stand in a refusal of one that does not exist.
    fn keys(text: &str) -> Vec<String> {
        let refusal = toml::from_str::<File>(text).err().unwrap().message().to_owned();
        refusal.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }
}
