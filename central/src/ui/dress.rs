//! What every page is sent with: headers that leave a hostile page or script nothing to work with. A form that
//! another site sends is refused by the API, which gets to see from where it came.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};

use super::{reply, visitor};

/// No inline script or style, nothing from elsewhere, no frame around us, forms only to ourselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const SAFE_HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Of this name only: what else stands on its host is others' business.
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// The outermost layer.
pub(super) async fn around(request: Request, next: Next) -> Response {
    let told = visitor::cookie(request.headers(), reply::SAID_COOKIE).is_some();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD) && is_looked_at(request.headers());
    let mut response = next.run(request).await;
    // The first page behind the redirect shows it; whatever is asked for then may take it away.
    if told && reads && response.status().is_success() {
        reply::forget_said(&mut response);
    }
    let headers = response.headers_mut();
    headers.extend(SAFE_HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether somebody will see the answer. What a page's script asks for, to keep the page current, nobody does: it may come
/// between the redirect and the page behind it.
fn is_looked_at(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_asks_for_takes_no_sentence_from_the_page_to_come() {
        let asked = |mode: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-mode", HeaderValue::from_static(mode));
            is_looked_at(&headers)
        };
        assert_eq!(["navigate", "cors", "same-origin"].map(asked), [true, false, false]);
        assert!(is_looked_at(&HeaderMap::new()), "whoever does not say");
    }
}
