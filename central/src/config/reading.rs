//! From what is written to what is meant: each value within its bounds, then what only several can tell together.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use program::Authority;
use proto::{EnvironmentName, hello::LANES_MAX};
use traces::settings::Headers;

use super::{
    Admin, Agent, Alerts, Config, Gateway, H, Listeners, Log, M, MS, S, Tunnel,
    file::{self, DurationText, File, Given, place},
    mistake::Mistakes,
};
use crate::{
    cidr::Cidr,
    destination::{DestinationUrl, parse_listen},
    drill::schedule::Schedule,
    people::SessionLimits,
};

/// Each Environment has its own proxy-processor, witness and view: half a MiB and a few thousandths of a processor while
/// it is quiet (docs/performance.md).
const ENVIRONMENTS_MAX: usize = 250;
const NAMES_MAX: usize = 100;

/// Turns what is written into meaning, noting what is wrong. A wrong value reads as its default, so that
/// reading goes on to the next mistake.
pub(super) struct Reading<'a, 'b> {
    pub(super) mistakes: &'a mut Mistakes<'b>,
}

impl Reading<'_, '_> {
    pub(super) fn config(&mut self, file: &File) -> Config {
        let default = Config::default();
        let mut config = Config {
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
            oidc: None,
            traces: self.traces(&file.traces),
            log: Log {
                format: file.log.format.as_ref().map_or(default.log.format, |format| *format.get_ref()),
                level: self.level(&file.log.level, default.log.level),
            },
            written: default.written,
        };
        self.together(file, &config);
        config.oidc = self.oidc(file, &config);
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

    fn traces(&mut self, table: &file::TracesTable) -> traces::Settings {
        let endpoint = table.endpoint.as_ref().and_then(|given| match given.get_ref().parse() {
            Ok(endpoint) => Some(endpoint),
            Err(error) => self.wrong(given.span(), error),
        });
        let sample = table.sample.as_ref().and_then(|given| match traces::Sample::new(*given.get_ref()) {
            Ok(sample) => Some(sample),
            Err(error) => self.wrong(given.span(), error),
        });
        let headers = self.path(&table.headers_file, "traces.headers_file");
        let headers = headers.and_then(|path| match Headers::read(&path) {
            Ok(headers) => Some(headers),
            Err(error) => self.wrong(place(&table.headers_file), error),
        });
        let authority = self.path(&table.ca_file, "traces.ca_file");
        let authority = authority.and_then(|path| match Authority::read(&path) {
            Ok(authority) => Some(authority),
            Err(error) => self.wrong(place(&table.ca_file), error),
        });
        let (sample, headers) = (sample.unwrap_or_default(), headers.unwrap_or_default());
        traces::Settings { endpoint, sample, headers, authority }
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

    pub(super) fn path(&mut self, given: &Given<String>, what: &str) -> Option<PathBuf> {
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

    pub(super) fn each<T, E: fmt::Display>(
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

    pub(super) fn wrong<T>(&mut self, at: Range<usize>, message: impl fmt::Display) -> Option<T> {
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
