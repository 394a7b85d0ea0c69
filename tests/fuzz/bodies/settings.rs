//! Texts that an administrator writes: settings of both programs, and the list of what may be reached.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use agent::{
    config::AllowSource,
    dialer::{
        allow_list::CheckError,
        resolve::{ResolveError, Resolver},
    },
};
use serde::Deserialize;

use super::block_on;

const FILE: &str = "some.toml";

/// Read, or refused with a place in the text; and what is read can be worked with.
pub(crate) fn central_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match central::config::Config::parse(Path::new(FILE), text) {
        Ok(config) => {
            let link = config.link_settings();
            assert!(link.dead_after_ms >= 2 * link.ping_interval_ms && link.ping_interval_ms > 0);
            assert!(!config.environments.is_empty());
            assert!(config.admin.listen != config.tunnel.listen || config.admin.listen.port() == 0);
        }
        Err(error) => told_with_places(&error.to_string(), text),
    }
}

/// As [`central_config`].
pub(crate) fn agent_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // A folder that is not there: a text may name files in it.
    match agent::config::Config::parse(text, Path::new(FILE), Path::new("/nowhere/postern")) {
        Ok(config) => {
            assert!(config.dial_timeout > std::time::Duration::ZERO);
            assert!(config.status_listen.is_none_or(|listen| listen.ip().is_loopback()));
        }
        Err(agent::config::ConfigError::Mistake(mistake)) => told_with_places(&mistake.to_string(), text),
        Err(error @ agent::config::ConfigError::Alerts { .. }) => {
            assert!(text.contains("endpoints"), "{error}");
        }
        Err(error @ agent::config::ConfigError::Read { .. }) => panic!("nothing was to be read: {error}"),
    }
}

/// Each mistake begins with a place that the text has.
fn told_with_places(told: &str, text: &str) {
    let lines = text.split('\n').count();
    let places: Vec<_> = told.split('\n').filter_map(|line| line.strip_prefix("some.toml:")).collect();
    assert!(!places.is_empty(), "{told}");
    for place in places {
        let mut numbers = place.splitn(3, ':').map(|number| number.parse::<usize>());
        let (Some(Ok(line)), Some(Ok(column))) = (numbers.next(), numbers.next()) else { panic!("{told}") };
        let length = text.split('\n').nth(line - 1).map_or(0, |line| line.chars().count());
        assert!((1..=lines).contains(&line) && (1..=length + 1).contains(&column), "{told}");
    }
}

/// A list, a wish and what a name server says, each behind a NUL: whatever is permitted, the list permits, judged by a
/// simpler reading of it. A wish reads `HOST PORT`, the name server's words are addresses with spaces between.
pub(crate) fn allow_list(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut parts = text.split('\0');
    let (Some(list), Some(wish)) = (parts.next(), parts.next()) else { return };
    let named = Name(parts.next().unwrap_or("").split(' ').filter_map(|word| word.parse().ok()).collect());
    let Some((host, port)) = wish.split_once(' ') else { return };
    let Ok(port) = port.parse::<u16>() else { return };
    let read = agent::config::Config::parse(list, Path::new(FILE), Path::new("/nowhere/postern"));
    let Ok(agent::config::Config { allow: AllowSource::Inline(read), .. }) = read else { return };

    let permitted = match block_on(read.check(host, port, &named)) {
        Ok(permitted) => permitted,
        Err(CheckError::NotListed { .. }) if read.is_empty() => return,
        Err(error) => return assert!(error.to_string().len() < 1000),
    };
    assert!(!permitted.addrs().is_empty());
    let list: Written = toml::from_str(list).expect("it was read before");
    for addr in permitted.addrs() {
        let ip = addr.ip();
        assert_eq!(addr.port(), port);
        assert!(
            named.0.iter().any(|known| same(*known, ip)) || host.parse().is_ok_and(|host| same(host, ip))
        );
        let allows = |entry: &WrittenEntry| {
            ports(&entry.ports).any(|(first, last)| (first..=last).contains(&port))
                && match network(&entry.host) {
                    Some(network) => within(network, ip) && named_if_special(network, ip),
                    None => {
                        plain(&entry.host) == plain(host)
                            && match &entry.resolves_to {
                                None => !is_special(ip),
                                Some(pins) => pins
                                    .iter()
                                    .filter_map(|pin| network(pin))
                                    .any(|pin| within(pin, ip) && named_if_special(pin, ip)),
                            }
                    }
                }
        };
        assert!(list.allow.iter().any(allows), "{host}:{port} by way of {ip} is on no line of the list");
        assert!(read.still_allows(&permitted, *addr), "and not a moment later");
    }
}

#[derive(Deserialize)]
struct Written {
    allow: Vec<WrittenEntry>,
    #[serde(flatten)]
    _rest: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct WrittenEntry {
    host: String,
    ports: toml::Value,
    resolves_to: Option<Vec<String>>,
}

fn ports(written: &toml::Value) -> Box<dyn Iterator<Item = (u16, u16)> + '_> {
    match written {
        toml::Value::Integer(port) => {
            Box::new(u16::try_from(*port).ok().map(|port| (port, port)).into_iter())
        }
        toml::Value::String(all) if all == "*" => Box::new([(1, u16::MAX)].into_iter()),
        toml::Value::String(range) => {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Box::new(first.parse().ok().zip(last.parse().ok()).into_iter())
        }
        toml::Value::Array(several) => Box::new(several.iter().flat_map(ports)),
        _ => Box::new(std::iter::empty()),
    }
}

/// What a host entry means if it is no name.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (base, bits) = match text.split_once('/') {
        Some((base, bits)) => (base.parse().ok()?, bits.parse().ok()?),
        None => {
            let base: IpAddr = text.parse().ok()?;
            (base, if base.is_ipv4() { 32 } else { 128 })
        }
    };
    Some((base, bits))
}

fn within((base, bits): (IpAddr, u32), ip: IpAddr) -> bool {
    match (base.to_canonical(), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => (base.to_bits() ^ ip.to_bits()).leading_zeros() >= bits.min(32),
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            (base.to_bits() ^ ip.to_bits()).leading_zeros() >= bits.min(128)
        }
        _ => false,
    }
}

/// The ranges whose mistaken dialling does most harm, as the standard library knows them.
fn is_special(ip: IpAddr) -> bool {
    let by_version = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    by_version || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
}

/// 0.0.0.0/0 names no special address.
fn named_if_special((base, bits): (IpAddr, u32), ip: IpAddr) -> bool {
    !is_special(ip) || (bits >= 4 && is_special(base.to_canonical()))
        // This host's own range, of which the standard library knows but one address.
        || matches!(base, IpAddr::V4(v4) if v4.octets()[0] == 0 && bits >= 8)
}

fn same(known: IpAddr, dialled: IpAddr) -> bool {
    known.to_canonical() == dialled
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A name server that always says the same.
struct Name(Vec<IpAddr>);

impl Resolver for Name {
    async fn resolve(&self, _name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.0.clone())
    }
}
