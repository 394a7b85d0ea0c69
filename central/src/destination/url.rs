//! Where a destination is: `SCHEME://HOST:PORT`, checked once at the door.
//!
//! The scheme says how bytes travel and which port is meant when none is written. There is no user,
//! password, query or fragment here: what an application says to a destination is not central's business,
//! and secrets do not belong into a configuration that is shown to every viewer.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 512;
/// The longest host name DNS can carry, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// Every scheme, how it travels, and its usual port. `tcp`, `tls` and `udp` have none.
const SCHEMES: &[(&str, Transport, Option<u16>)] = &[
    ("tcp", Transport::Tcp, None),
    ("tls", Transport::Tcp, None),
    ("udp", Transport::Udp, None),
    ("http", Transport::Tcp, Some(80)),
    ("https", Transport::Tcp, Some(443)),
    ("postgresql", Transport::Tcp, Some(5432)),
    ("mysql", Transport::Tcp, Some(3306)),
    ("sqlserver", Transport::Tcp, Some(1433)),
    ("oracle", Transport::Tcp, Some(1521)),
    ("db2", Transport::Tcp, Some(50000)),
    ("ibmi", Transport::Tcp, Some(8471)),
    ("saprfc", Transport::Tcp, Some(3300)),
    ("smtp", Transport::Tcp, Some(25)),
    ("submission", Transport::Tcp, Some(587)),
    ("smtps", Transport::Tcp, Some(465)),
    ("imap", Transport::Tcp, Some(143)),
    ("imaps", Transport::Tcp, Some(993)),
    ("ldap", Transport::Tcp, Some(389)),
    ("ldaps", Transport::Tcp, Some(636)),
    ("ssh", Transport::Tcp, Some(22)),
    ("sftp", Transport::Tcp, Some(22)),
];

/// How a destination's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A checked scheme: one of the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scheme(usize);

impl Scheme {
    pub fn as_str(self) -> &'static str {
        SCHEMES[self.0].0
    }

    pub fn transport(self) -> Transport {
        SCHEMES[self.0].1
    }

    /// The port that is meant when none is written.
    pub fn default_port(self) -> Option<u16> {
        SCHEMES[self.0].2
    }

    /// Whether a path makes sense behind host and port.
    fn takes_path(self) -> bool {
        matches!(self.as_str(), "http" | "https")
    }
}

impl FromStr for Scheme {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let known = SCHEMES.iter().position(|(name, ..)| *name == text).map(Self);
        known.ok_or_else(|| UrlError::Scheme(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for Scheme {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<Scheme> for String {
    fn from(scheme: Scheme) -> Self {
        scheme.as_str().into()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked destination URL. Prints with its port, also where the default was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DestinationUrl {
    scheme: Scheme,
    /// A DNS name in lower case, an IPv4 address, or an IPv6 address without brackets.
    host: String,
    port: u16,
    /// Begins with `/`; empty where none was written.
    path: String,
}

/// Why a string is no [`DestinationUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("a destination's URL is SCHEME://HOST:PORT, as in postgresql://db.example.com:5432")]
    Shape,
    #[error("a destination's URL has at most {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("{0:?} is no scheme central knows: use one of {known}", known = known_schemes())]
    Scheme(String),
    #[error("a destination's URL holds no user or password: the application sends them itself")]
    UserInfo,
    #[error("{0:?} is no host: use a DNS name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    #[error("{0:?} is no port: use a number from 1 to 65535")]
    Port(String),
    #[error("{0}:// has no usual port: write it, as in {0}://HOST:PORT")]
    NoPort(Scheme),
    #[error("nothing may follow HOST:PORT in a {0}:// URL")]
    Path(Scheme),
    #[error("a destination's URL has no query, fragment, space or control character")]
    Characters,
}

impl DestinationUrl {
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host as it is resolved at the site.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// `HOST:PORT`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for DestinationUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        if text.chars().any(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\' | '"' | '<' | '>')) {
            return Err(UrlError::Characters);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Shape)?;
        let scheme: Scheme = scheme.parse()?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let path = match path {
            "" | "/" => "",
            path if scheme.takes_path() => path,
            _ => return Err(UrlError::Path(scheme)),
        };
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None => scheme.default_port().ok_or(UrlError::NoPort(scheme))?,
        };
        Ok(Self { scheme, host: checked_host(host)?, port, path: path.into() })
    }
}

/// Host, still in its brackets, and port.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']').ok_or_else(|| UrlError::Host(authority.into()))? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    match port.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if port.is_empty() => Ok((host, None)),
        None => Err(UrlError::Host(authority.into())),
    }
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let wrong = || UrlError::Port(text.into());
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)
}

fn checked_host(text: &str) -> Result<String, UrlError> {
    let wrong = || UrlError::Host(text.into());
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(|v6| v6.to_string()).map_err(|_| wrong());
    }
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(v4.to_string());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits (or 0x…) is how resolvers are talked into other spellings of addresses.
    let last = text.rsplit('.').next().unwrap_or_default();
    let numeric =
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if text.len() > HOST_BYTES_MAX || numeric || !text.split('.').all(label) {
        return Err(wrong());
    }
    Ok(text.to_ascii_lowercase())
}

fn known_schemes() -> String {
    SCHEMES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl TryFrom<String> for DestinationUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<DestinationUrl> for String {
    fn from(url: DestinationUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_port_is_meant_when_none_is_written() {
        for (text, printed) in [
            ("postgresql://db.example.com", "postgresql://db.example.com:5432"),
            ("smtp://mail", "smtp://mail:25"),
            ("https://Intranet.Example/soap/v1", "https://intranet.example:443/soap/v1"),
            ("http://[2001:DB8::1]/", "http://[2001:db8::1]:80"),
            ("tcp://10.0.4.7:1521", "tcp://10.0.4.7:1521"),
            ("udp://ns_1.example:53", "udp://ns_1.example:53"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn raw_schemes_have_no_usual_port() {
        for scheme in ["tcp", "tls", "udp"] {
            let error = parse(&format!("{scheme}://host")).unwrap_err();
            assert!(error.to_string().contains(&format!("{scheme}://HOST:PORT")), "{error}");
        }
    }

    #[test]
    fn secrets_and_extras_are_refused() {
        assert_eq!(parse("http://user:pw@host/"), Err(UrlError::UserInfo));
        assert_eq!(parse("http://host/?q=1"), Err(UrlError::Characters));
        assert_eq!(parse("http://host/a b"), Err(UrlError::Characters));
        assert!(matches!(parse("postgresql://host:5432/orders"), Err(UrlError::Path(_))));
    }

    #[test]
    fn other_spellings_of_addresses_are_no_hosts() {
        for host in
            ["127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "a..b", ".", "a.", "-a", "[::1", "::1", ""]
        {
            assert!(
                matches!(parse(&format!("tcp://{host}:1")), Err(UrlError::Host(_) | UrlError::Port(_))),
                "{host}"
            );
        }
    }

    #[test]
    fn ports_are_numbers_that_can_be_dialled() {
        for port in ["0", "65536", "+1", "", "1a"] {
            assert_eq!(parse(&format!("tcp://host:{port}")), Err(UrlError::Port(port.into())));
        }
    }

    #[test]
    fn an_unknown_scheme_is_answered_with_the_known_ones() {
        let error = parse("postgres://host").unwrap_err().to_string();
        assert!(error.contains("\"postgres\"") && error.contains("postgresql"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_prints_to_the_same_url(text in "(tcp|http|udp)://[a-z0-9.:\\[\\]@/-]{0,40}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn text_from_anywhere_never_panics(text: String) {
            let _ = parse(&text);
        }
    }

    fn parse(text: &str) -> Result<DestinationUrl, UrlError> {
        text.parse()
    }
}
