//! Decides which addresses alerts may be sent to.
//!
//! Whoever edits alerts makes central call an address of their choice, from inside central's own network. So only
//! addresses that belong to the whole internet are called, and others only where the operator's file says so. The
//! name is resolved once, every address is judged, and a judged address is the one dialled.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use reqwest::Url;
use url::Host;

#[cfg(test)]
mod tests;

/// The operator's word on addresses.
#[derive(Clone)]
pub struct AddressRules {
    allowed: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    own: IsOwn,
    lookup: Lookup,
}

/// Whether a host as it was written, at the address behind it, is the caller itself.
type IsOwn = Arc<dyn Fn(&str, SocketAddr) -> bool + Send + Sync>;

/// A name's addresses; tests bring their own.
type Lookup = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync,
>;

/// Why an address is not called.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{host} has the address {address}, which is {what}: {ALLOW}")]
    Refused { host: String, address: IpAddr, what: &'static str },
    #[error("{host} at {address} is one of this program's own listeners, which no alert may call")]
    Own { host: String, address: SocketAddr },
    #[error("{host} is to be called without TLS, which only private receivers may be: use TLS, or {ALLOW}")]
    Plain { host: String },
    #[error("the name {host} could not be resolved")]
    Unresolved { host: String, source: io::Error },
    #[error("the name {host} has no address")]
    Nowhere { host: String },
}

const ALLOW: &str = "the operator may allow it in alerts.allow_destinations";

/// Why a text is no address of a receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("{0:?} is no address: {1}")]
    Syntax(String, String),
    #[error("{0} has the scheme {1}: use {2}")]
    Scheme(String, String, &'static str),
    #[error("{0}: write credentials under secrets, not into the address")]
    Credentials(String),
    #[error("{0}: a receiver's address has a host, a port other than 0, and no part behind #")]
    Shape(String),
}

/// More addresses than this no honest name has.
const ADDRESSES_MAX: usize = 32;

impl AddressRules {
    /// Beside public addresses those are called that `allowed` says yes to. IPv4 addresses come to it as IPv4, however
    /// they were written.
    pub fn new(allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        let system: Lookup = Arc::new(|host, port| {
            Box::pin(async move {
                // A name that never resolves is ended by the attempt's deadline.
                Ok(tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect())
            })
        });
        Self { allowed: Arc::new(allowed), own: Arc::new(|_, _| false), lookup: system }
    }

    /// The same, and what `own` says yes to, a host as it was written and the address behind it, is never called, not
    /// even where it lies in a network that is allowed: it would come back to whoever calls.
    #[must_use]
    pub fn refusing(self, own: impl Fn(&str, SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { own: Arc::new(own), ..self }
    }

    #[cfg(test)]
    pub(crate) fn with_lookup(self, lookup: Lookup) -> Self {
        Self { lookup, ..self }
    }

    /// The judged addresses behind `url`; a caller must dial one of them and no other. `encrypted`: whether what is
    /// sent is protected by TLS from the first byte that matters.
    ///
    /// # Errors
    /// One bad address among several refuses the whole name: a name that points inside by turns is an attack.
    pub(crate) async fn resolve(&self, url: &Url, encrypted: bool) -> Result<Vec<SocketAddr>, AddressError> {
        let name = url.host_str().unwrap_or_default().to_owned();
        let port = port_of(url);
        let addresses = match literal(url) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => (self.lookup)(name.clone(), port)
                .await
                .map_err(|source| AddressError::Unresolved { host: name.clone(), source })?,
        };
        for address in &addresses {
            self.judge(&name, *address, encrypted)?;
        }
        if addresses.is_empty() { Err(AddressError::Nowhere { host: name }) } else { Ok(addresses) }
    }

    /// What can be said about `url` without asking for its name.
    pub(crate) fn judge_literal(&self, url: &Url, encrypted: bool) -> Result<(), AddressError> {
        let judge = |ip: IpAddr| self.judge(&ip.to_string(), SocketAddr::new(ip, port_of(url)), encrypted);
        literal(url).map_or(Ok(()), judge)
    }

    fn judge(&self, host: &str, at: SocketAddr, encrypted: bool) -> Result<(), AddressError> {
        let address = at.ip().to_canonical();
        let at = SocketAddr::new(address, at.port());
        if (self.own)(host, at) {
            return Err(AddressError::Own { host: host.to_owned(), address: at });
        }
        if (self.allowed)(address) {
            return Ok(());
        }
        match not_public(address) {
            Some(what) => Err(AddressError::Refused { host: host.to_owned(), address, what }),
            None if !encrypted => Err(AddressError::Plain { host: host.to_owned() }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for AddressRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressRules")
    }
}

/// Reads the address of a receiver: `schemes` are those that fit.
pub(crate) fn read_url(text: &str, schemes: &'static [&'static str]) -> Result<Url, UrlError> {
    let shown = || text.chars().take(200).collect::<String>();
    // The parser would drop tabs and line ends silently, and then what is called is not what is read.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) || text.contains('\\') {
        return Err(UrlError::Syntax(
            shown(),
            "it contains a space, a control character or a backslash".into(),
        ));
    }
    let url = Url::parse(text).map_err(|error| UrlError::Syntax(shown(), error.to_string()))?;
    if !schemes.contains(&url.scheme()) {
        let meant = if schemes.contains(&"smtp") { "https, or smtp or smtps for mail" } else { "http" };
        return Err(UrlError::Scheme(shown(), url.scheme().to_owned(), meant));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials(url.host_str().unwrap_or_default().to_owned()));
    }
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() || host.contains('%') || url.fragment().is_some() || url.port() == Some(0) {
        return Err(UrlError::Shape(shown()));
    }
    Ok(url)
}

/// The address that stands in `url` itself.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        // Behind schemes that the parser does not know it leaves IPv4 as it stands.
        Host::Domain(name) => name.parse().ok(),
    }
}

/// The port that is called.
pub(crate) fn port_of(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or(match url.scheme() {
        "smtps" => 465,
        // Submission; a relay that listens elsewhere has its port in the address.
        _ => 587,
    })
}

/// What kind of address it is, if it does not belong to the whole internet.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => not_public_v4(v4),
        IpAddr::V6(v6) => not_public_v6(v6),
    }
}

/// IANA's registry of special addresses, and what clouds put elsewhere.
fn not_public_v4(v4: Ipv4Addr) -> Option<&'static str> {
    match v4.octets() {
        [0, ..] => Some("this host"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local, where clouds keep their metadata"),
        // Azure's and, in the shared range, Alibaba's service for their own machines.
        [168, 63, 129, 16] | [100, 100, 100, 200] => Some("a cloud's own service"),
        [100, 64..=127, ..] => Some("shared between a provider and its customers"),
        [192, 0, 0, _] | [192, 88, 99, _] => Some("reserved for protocols"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("for documentation only"),
        [198, 18..=19, ..] => Some("for benchmarks only"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn not_public_v6(v6: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let embedded = Ipv4Addr::from_bits((u32::from(g) << 16) | u32::from(h));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] if g == 0 && h == 1 => Some("loopback"),
        // The translator at NAT64's well-known prefix calls the IPv4 address within.
        [0x64, 0xff9b, 0, 0, 0, 0] => not_public_v4(embedded),
        [0x2002, ..] => Some("a 6to4 address, which leads to an IPv4 address of anyone's choice"),
        [0x2001, 0, ..] => Some("a Teredo address, which leads to an IPv4 address of anyone's choice"),
        // 2001::/23
        [0x2001, 0..=0x1ff, ..] => Some("reserved for protocols"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("for documentation only"),
        // ISATAP: an IPv4 address behind any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe] => Some("an ISATAP address, which leads to an IPv4 address"),
        // Only this eighth is given out at all.
        [0x2000..=0x3fff, ..] => None,
        [0xfc00..=0xfdff, ..] => Some("private"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        _ => Some("reserved"),
    }
}
