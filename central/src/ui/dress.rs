//! What every page is sent with: headers that leave a hostile page or script nothing to work with, and the
//! refusal of forms that another site sends.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{reply, visitor};

/// No inline script or style, nothing from elsewhere, no frame around us, forms only to ourselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const SAFE_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The outermost layer.
pub(super) async fn around(request: Request, next: Next) -> Response {
    let told = visitor::cookie(request.headers(), reply::SAID_COOKIE).is_some();
    let harmless = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if harmless || is_our_own(request.headers()) {
        next.run(request).await
    } else {
        reply::bare(
            StatusCode::FORBIDDEN,
            "Not sent from here",
            "This form was sent by another site, so nothing was done. Open the page here and try again.",
        )
        .into_response()
    };
    // The first page behind the redirect shows it; whatever is asked for then may take it away.
    if told && harmless && response.status().is_success() {
        reply::forget_said(&mut response);
    }
    let headers = response.headers_mut();
    headers.extend(SAFE_HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Browsers say from where a form was sent, by one header or the other, and pages cannot forge either.
fn is_our_own(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, at)| Some(at) == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_site_is_known_by_either_header() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            pairs.collect::<HeaderMap>()
        };
        assert!(is_our_own(&headers(&[("sec-fetch-site", "same-origin")])));
        assert!(!is_our_own(&headers(&[("sec-fetch-site", "cross-site")])));
        assert!(!is_our_own(&headers(&[("sec-fetch-site", "same-site")])));
        assert!(is_our_own(&headers(&[("origin", "https://central:7443"), ("host", "central:7443")])));
        assert!(!is_our_own(&headers(&[("origin", "https://evil"), ("host", "central:7443")])));
        assert!(!is_our_own(&headers(&[("origin", "null"), ("host", "central:7443")])));
    }
}
