//! Whether a browser sends a request from our own pages, or somebody else's page makes it do so.
//!
//! Only a cookie can be used behind its owner's back, so only where a cookie counts this is asked. Browsers say
//! where a request comes from in `Sec-Fetch-Site`, older ones in `Origin`; a page cannot forge either.

use axum::http::{HeaderMap, HeaderName, Method, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Our own pages, or the person at the browser.
    Here,
    Elsewhere,
    /// It does not say: no browser of today.
    Nowhere,
}

/// Whether this method may change something.
pub(super) fn may_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Where the request with these headers comes from.
pub(super) fn from(headers: &HeaderMap) -> From {
    if let Some(site) = only(headers, &SEC_FETCH_SITE) {
        // "none" is the address bar; "same-site" is a neighbour under the same domain, who is a stranger.
        return if matches!(site, Ok("same-origin" | "none")) { From::Here } else { From::Elsewhere };
    }
    let Some(origin) = only(headers, &header::ORIGIN) else { return From::Nowhere };
    let host = only(headers, &header::HOST);
    match (origin, host) {
        (Ok(origin), Some(Ok(host))) if is_of(origin, host) => From::Here,
        _ => From::Elsewhere,
    }
}

/// We speak HTTPS only; a port that goes without saying may be said by one side.
fn is_of(origin: &str, host: &str) -> bool {
    let Some(origin) = origin.strip_prefix("https://") else { return false };
    let plain = |host: &str| host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
    plain(origin) == plain(host)
}

/// The one header of this name; `Err` where there are several or it is no text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Result<&'a str, ()>> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    Some(if all.next().is_some() { Err(()) } else { first.to_str().map_err(drop) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_says_about_itself_decides() {
        for (said, expected) in [
            ("same-origin", From::Here),
            ("none", From::Here),
            ("same-site", From::Elsewhere),
            ("cross-site", From::Elsewhere),
            ("", From::Elsewhere),
        ] {
            // Whatever Origin says beside it.
            let headers = [("sec-fetch-site", said), ("origin", "https://c:7443"), ("host", "c:7443")];
            assert_eq!(asked(&headers), expected, "{said}");
        }
    }

    #[test]
    fn an_older_browser_is_known_by_its_origin() {
        for (origin, host, expected) in [
            ("https://c:7443", "c:7443", From::Here),
            ("https://C", "c:443", From::Here),
            ("https://c:7443", "c:8443", From::Elsewhere),
            ("http://c:7443", "c:7443", From::Elsewhere),
            ("https://c.evil.example", "c", From::Elsewhere),
            ("https://c:7443/", "c:7443", From::Elsewhere),
            ("null", "c:7443", From::Elsewhere),
        ] {
            assert_eq!(asked(&[("origin", origin), ("host", host)]), expected, "{origin}");
        }
        assert_eq!(asked(&[("origin", "https://c")]), From::Elsewhere);
        assert_eq!(
            asked(&[("origin", "https://c"), ("origin", "https://d"), ("host", "c")]),
            From::Elsewhere
        );
    }

    #[test]
    fn what_says_nothing_is_no_browser() {
        assert_eq!(asked(&[("host", "c")]), From::Nowhere);
    }

    fn asked(given: &[(&'static str, &str)]) -> From {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        from(&headers)
    }
}
