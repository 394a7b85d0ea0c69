//! A proxy's address as people write it.

use std::{fmt, str::FromStr};

use rustls::pki_types::ServerName;

use crate::dialer::address::host_and_port;

/// Where the proxy listens: `http://HOST:PORT`.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    host: String,
    port: u16,
}

/// Why a text is no proxy's address. Of one with an '@' nothing is repeated: a password may stand anywhere before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown} is not a proxy's address: {problem}; it reads http://HOST:PORT")]
pub struct ProxyUrlError {
    shown: String,
    problem: &'static str,
}

impl ProxyUrl {
    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        if text.contains('@') {
            return Err(ProxyUrlError {
                shown: "this".to_owned(),
                problem: "credentials do not belong into it: put user:password into a file of mode 0600 and name that \
                          as the proxy's credentials file",
            });
        }
        let wrong = |problem| {
            let shown: String = text.chars().take(100).collect();
            ProxyUrlError { shown: format!("{shown:?}"), problem }
        };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(wrong(
                    "a proxy is spoken to in plain HTTP (what goes through it to central is TLS all the same)",
                ));
            }
            Some(_) => return Err(wrong("only HTTP proxies are spoken to")),
            None => return Err(wrong("it must begin with http://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        match host_and_port(authority).map_err(wrong)? {
            // Proxies have no usual port: 80 by the scheme, 3128 or 8080 by habit.
            (_, None) => Err(wrong("the port is missing")),
            (host, Some(_)) if ServerName::try_from(host).is_err() => {
                Err(wrong("the host is no name and no address"))
            }
            (host, Some(port)) => Ok(Self { host: host.to_ascii_lowercase(), port }),
        }
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_host_and_a_port() {
        let parse = |text: &str| text.parse::<ProxyUrl>().map(|url| url.to_string());
        assert_eq!(parse("http://Proxy.corp:3128").unwrap(), "http://proxy.corp:3128");
        assert_eq!(parse("HTTP://10.0.0.7:8080/").unwrap(), "http://10.0.0.7:8080");
        assert_eq!(parse("http://[2001:db8::1]:3128").unwrap(), "http://[2001:db8::1]:3128");
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write_and_no_password_is_repeated() {
        for (text, problem) in [
            ("proxy.corp:3128", "must begin with http://"),
            ("https://proxy.corp:3128", "plain HTTP"),
            ("socks5://proxy.corp:1080", "only HTTP proxies"),
            ("http://proxy.corp", "the port is missing"),
            ("http://proxy.corp:0", "between 1 and 65535"),
            ("http://proxy.corp:3128/x", "nothing but a host and a port"),
            ("http://pro xy:3128", "no name and no address"),
            ("http://u:hunter2@proxy.corp:3128", "a file of mode 0600"),
            ("u:hunter2@proxy.corp:3128", "a file of mode 0600"),
            ("http://u:hunter2/@x@proxy.corp:3128", "a file of mode 0600"),
        ] {
            let error = text.parse::<ProxyUrl>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("http://HOST:PORT"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
