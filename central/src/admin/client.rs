//! From where somebody asks, and the cookie they bring.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use time::Duration;

use crate::{
    audit::Trail,
    people::{Browser, Secret},
};

/// The session cookie. `__Host-` makes browsers refuse one that another host or an unencrypted page set.
pub const COOKIE: &str = "__Host-postern";
/// Lax and not Strict: a link in an alert must open the UI as whoever is signed in. No GET changes anything, and
/// everything else is checked by [`super::same_origin`].
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

/// Who asks, as far as the connection and the browser say it.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub browser: Browser,
    /// The session it brings, whatever that is worth.
    pub session: Option<Secret>,
    /// Where what it does is noted.
    pub trail: Option<Trail>,
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Only a request that came over no socket, as in a test, has no peer.
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self {
            browser: Browser {
                from: peer.map(|ConnectInfo(peer)| peer.ip().to_canonical()),
                user_agent: user_agent.map(str::to_owned),
            },
            session: session_of(&parts.headers),
            trail: parts.extensions.get::<Trail>().cloned(),
        })
    }
}

/// The session cookie's content; two of them are one too many to trust.
pub(super) fn session_of(headers: &HeaderMap) -> Option<Secret> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value);
    let (only, None) = (ours.next()?, ours.next()) else { return None };
    Secret::read(only)
}

/// `Set-Cookie` for a session that lives so long.
pub(super) fn cookie(secret: &Secret, lifetime: Duration) -> HeaderValue {
    let seconds = lifetime.whole_seconds().max(0);
    let text = format!("{COOKIE}={}; Max-Age={seconds}; {ATTRIBUTES}", secret.reveal());
    // Base64 and digits make a header; were it none, nobody would be signed in.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// `Set-Cookie` that takes it away.
pub(super) fn no_cookie() -> HeaderValue {
    HeaderValue::from_static("__Host-postern=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_of_our_shape_is_a_session() {
        let secret = "x".repeat(43);
        let ours = format!("{COOKIE}={secret}");
        let found = |cookies: &[&str]| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(header::COOKIE, cookie.parse().unwrap());
            }
            session_of(&headers).map(|secret| secret.reveal().to_owned())
        };
        assert_eq!(found(&[&format!("theme=dark; {ours}")]), Some(secret.clone()));
        assert_eq!(found(&[&format!("{ours}; {ours}")]), None);
        assert_eq!(found(&[&ours, &ours]), None);
        assert_eq!(found(&[&format!("postern={secret}")]), None);
        assert_eq!(found(&[&format!("{COOKIE}=short")]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn the_cookie_is_for_this_host_alone_and_for_no_script() {
        let secret = Secret::read(&"x".repeat(43)).unwrap();
        for value in [cookie(&secret, Duration::HOUR), no_cookie()] {
            let text = value.to_str().unwrap();
            assert!(text.starts_with("__Host-postern=") && text.ends_with(ATTRIBUTES), "{text}");
        }
    }
}
