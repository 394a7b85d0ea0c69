//! The site's last word: which destinations this agent may reach. Deny by default.
//!
//! ```text
//!   host, port ──► spelling ──► listed at all? ──► resolve ONCE ──► each address ──► Permitted
//!                                     no: DNS is not even asked
//! ```
//!
//! Invariant: a [`Permitted`] holds only addresses that were checked, and the dialer takes nothing
//! else. A listed name allows ordinary addresses; special ones (loopback, link-local, …) count only
//! when the list names them *as addresses*, so that whoever controls DNS gains nothing.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use serde::{Deserialize, Deserializer, de};

use super::{
    address::{Host, HostError, Network, special_ranges, unwrapped},
    own_address::is_this_host,
    resolve::{ResolveError, Resolver},
};

/// Enough for every load-balanced name; a name with more addresses loses the rest.
const ADDRESSES_MAX: usize = 16;

/// The destinations a site allows. Empty allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<Entry>,
    own_ports: Vec<u16>,
}

/// One `[[allow]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenEntry")]
pub struct Entry {
    target: Target,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Network(Network),
    /// A name; with `pins`, only while it resolves into one of them.
    Name {
        name: String,
        pins: Option<Vec<Network>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports(Vec<RangeInclusive<u16>>);

/// Proof that the site allows these addresses for this destination, at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    host: Host,
    addrs: Vec<SocketAddr>,
}

/// Why a destination may not be reached.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{host:?} is not a host: {problem}")]
    Host { host: String, problem: HostError },
    #[error("port 0 cannot be connected to")]
    Port,
    #[error("{host}:{port} is not in this agent's allow-list")]
    NotListed { host: Host, port: u16 },
    #[error("{host}:{port} leads to {addr}, which this agent's allow-list does not allow")]
    AddressNotListed { host: Host, port: u16, addr: IpAddr },
    #[error("{host}:{port} leads to {addr}, a special address; the allow-list has to name it as an address")]
    Special { host: Host, port: u16, addr: IpAddr },
    #[error("{host}:{port} leads to {addr}, a port of this agent itself")]
    OwnPort { host: Host, port: u16, addr: IpAddr },
    #[error("{host} cannot be resolved")]
    Resolve { host: Host, source: ResolveError },
}

impl AllowList {
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries, own_ports: Vec::new() }
    }

    /// The same list, that also protects the ports this agent itself listens on.
    pub fn protecting(self, own_ports: &[u16]) -> Self {
        Self { own_ports: own_ports.to_vec(), ..self }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Decides about one destination. A name is resolved once; of its addresses only those
    /// allowed remain.
    ///
    /// # Errors
    /// When no address remains: the reason of the first one.
    pub async fn check(
        &self,
        host: &str,
        port: u16,
        resolver: &impl Resolver,
    ) -> Result<Permitted, CheckError> {
        let parsed: Host = host.parse().map_err(|problem| {
            // Repeated to the operator: bounded, and escaped by `{:?}`.
            CheckError::Host { host: host.chars().take(80).collect(), problem }
        })?;
        let host = parsed;
        if port == 0 {
            return Err(CheckError::Port);
        }
        let addresses = match &host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                if !self.may_lead_anywhere(name, port) {
                    return Err(CheckError::NotListed { host, port });
                }
                match resolver.resolve(name).await {
                    Ok(addresses) => addresses,
                    Err(source) => return Err(CheckError::Resolve { host, source }),
                }
            }
        };
        let mut addrs = Vec::new();
        let mut first_refusal = None;
        for address in addresses.into_iter().map(unwrapped) {
            match self.check_address(&host, address, port) {
                Ok(()) if addrs.len() < ADDRESSES_MAX => addrs.push(SocketAddr::new(address, port)),
                Ok(()) => {}
                Err(refusal) => {
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
        match (addrs.is_empty(), first_refusal) {
            (false, _) => Ok(Permitted { host, addrs }),
            (true, Some(refusal)) => Err(refusal),
            (true, None) => Err(CheckError::Resolve { host, source: ResolveError::NoAddress }),
        }
    }

    /// Whether a connection made earlier would still be allowed now, to exactly this address.
    pub fn still_allows(&self, permitted: &Permitted, addr: SocketAddr) -> bool {
        self.check_address(&permitted.host, unwrapped(addr.ip()), addr.port()).is_ok()
    }

    /// Whether asking DNS about this name can lead to anything allowed.
    fn may_lead_anywhere(&self, asked: &str, port: u16) -> bool {
        self.entries.iter().any(|entry| {
            entry.ports.contains(port)
                && match &entry.target {
                    Target::Network(_) => true,
                    Target::Name { name, .. } => name == asked,
                }
        })
    }

    fn check_address(&self, host: &Host, addr: IpAddr, port: u16) -> Result<(), CheckError> {
        let refusal = |kind: fn(Host, u16, IpAddr) -> CheckError| Err(kind(host.clone(), port, addr));
        let allowing: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.ports.contains(port) && entry.allows(host, addr))
            .collect();
        if allowing.is_empty() {
            return match host {
                Host::Address(_) => Err(CheckError::NotListed { host: host.clone(), port }),
                Host::Name(_) => {
                    refusal(|host, port, addr| CheckError::AddressNotListed { host, port, addr })
                }
            };
        }
        // Named as an address: by a range that lies within the special one, so 0.0.0.0/0 does not count.
        let named = |entry: &&Entry| {
            entry.networks().iter().any(|network| {
                network.contains(addr)
                    && special_ranges(addr).all(|special| special.contains_network(network))
            })
        };
        if special_ranges(addr).next().is_some() && !allowing.iter().any(named) {
            return refusal(|host, port, addr| CheckError::Special { host, port, addr });
        }
        let exactly =
            |entry: &&Entry| entry.ports.is_single() && entry.networks().iter().any(Network::is_single);
        if self.own_ports.contains(&port) && is_this_host(addr) && !allowing.iter().any(exactly) {
            return refusal(|host, port, addr| CheckError::OwnPort { host, port, addr });
        }
        Ok(())
    }
}

impl Permitted {
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// At least one.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }
}

impl Entry {
    fn allows(&self, host: &Host, addr: IpAddr) -> bool {
        match (&self.target, host) {
            (Target::Network(network), _) => network.contains(addr),
            (Target::Name { name, pins }, Host::Name(asked)) => {
                name == asked
                    && pins.as_ref().is_none_or(|pins| pins.iter().any(|network| network.contains(addr)))
            }
            (Target::Name { .. }, Host::Address(_)) => false,
        }
    }

    /// The addresses this entry spells out.
    fn networks(&self) -> &[Network] {
        match &self.target {
            Target::Network(network) => std::slice::from_ref(network),
            Target::Name { pins, .. } => pins.as_deref().unwrap_or_default(),
        }
    }
}

impl Ports {
    fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    fn is_single(&self) -> bool {
        matches!(self.0.as_slice(), [range] if range.start() == range.end())
    }
}

/// An entry as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    host: WrittenHost,
    ports: Ports,
    /// UDP comes with a later version; saying TCP already is no mistake.
    #[serde(default)]
    #[expect(dead_code, reason = "there is one protocol so far; the key is checked and reserved")]
    protocol: Protocol,
    resolves_to: Option<Vec<WrittenNetwork>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Protocol {
    #[default]
    Tcp,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct WrittenNetwork(Network);

impl TryFrom<String> for WrittenNetwork {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e| format!("{text:?} is not a network: {e}"))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
enum WrittenHost {
    Name(String),
    Network(Network),
}

impl TryFrom<String> for WrittenHost {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.contains(['/', ':']) {
            let network = text.parse().map_err(|e| format!("{text:?} is not a network: {e}"))?;
            return Ok(Self::Network(network));
        }
        if text.contains('*') {
            return Err(format!(
                "{text:?}: a host is one name, one address or one network; there are no wildcards"
            ));
        }
        match text.parse() {
            Ok(Host::Address(address)) => Ok(Self::Network(Network::single(address))),
            Ok(Host::Name(name)) => Ok(Self::Name(name)),
            Err(problem) => Err(format!("{text:?} is not a host: {problem}")),
        }
    }
}

impl TryFrom<WrittenEntry> for Entry {
    type Error = &'static str;

    fn try_from(written: WrittenEntry) -> Result<Self, &'static str> {
        let pins = written.resolves_to.map(|networks| networks.into_iter().map(|n| n.0).collect());
        let target = match (written.host, pins) {
            (WrittenHost::Network(network), None) => Target::Network(network),
            (WrittenHost::Network(_), Some(_)) => {
                return Err("resolves_to belongs to a name, not to an address");
            }
            (WrittenHost::Name(name), pins) => Target::Name { name, pins },
        };
        Ok(Self { target, ports: written.ports })
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor).map(Self)
    }
}

/// Reads `5432`, `"8000-8099"`, `"*"`, or a list of the first two.
struct PortsVisitor;

impl<'de> de::Visitor<'de> for PortsVisitor {
    type Value = Vec<RangeInclusive<u16>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a port such as 5432, a range such as \"8000-8099\", a list of them, or \"*\"")
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Self::Value, E> {
        match u16::try_from(port) {
            Ok(0) | Err(_) => Err(E::custom(format!("{port} is not a port: they lie between 1 and 65535"))),
            Ok(port) => Ok(vec![port..=port]),
        }
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(port).unwrap_or(i64::MAX))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == "*" {
            return Ok(vec![1..=u16::MAX]);
        }
        let number = |digits: &str| match digits.parse::<u16>() {
            Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => Err(E::custom(format!("{text:?} is neither a port nor a range such as \"8000-8099\""))),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(E::custom(format!("{text:?} is an empty range")));
        }
        Ok(vec![first..=last])
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut ports = Vec::new();
        while let Some(Ports(more)) = seq.next_element()? {
            ports.extend(more);
        }
        if ports.is_empty() {
            return Err(de::Error::custom("an empty list of ports allows nothing; leave the entry out"));
        }
        Ok(ports)
    }
}
