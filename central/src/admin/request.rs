//! What happens around every request: an id, a deadline, a log line, safe headers, and the one
//! place where a [`Problem`] becomes bytes.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, info, info_span};

use super::problem::Problem;

/// Names the request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that a caller may choose.
const CHOSEN_ID_BYTES_MAX: usize = 64;

/// The same, for whoever handles the request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// How long a request has, from its head to the head of its answer. Longer than the longest
/// handler needs: testing a destination, [`crate::trace::TEST_TIMEOUT`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(45);

/// Said with every answer. The API has nothing that a browser should show; pages say their own.
const SAFE_HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Of this name only: what else stands on its host is others' business.
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];
/// Paths whose last part is a secret: the log gets them without it.
const SECRET_PATHS: [&str; 2] = ["/setup/", "/sign-in/once/"];

/// The caller's own id for this request, if it is a modest one: it names the request in both ends' logs.
fn chosen(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let modest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!id.is_empty() && id.len() <= CHOSEN_ID_BYTES_MAX && id.bytes().all(modest)).then_some(id)
}

/// The outermost layer.
pub(super) async fn around(mut request: Request, next: Next) -> Response {
    let serial = format!("{:016x}", rand::random::<u64>());
    let request_id = chosen(request.headers()).unwrap_or(&serial).to_owned();
    let (method, path) = (request.method().clone(), loggable(request.uri().path()));
    request.extensions_mut().insert(RequestId(request_id.clone()));
    let started = Instant::now();
    // Ours beside it, never the caller's alone: an id that somebody else may choose proves nothing in a log.
    let span = info_span!("request", request_id, serial);
    let answered = timeout(REQUEST_TIMEOUT, next.run(request).instrument(span.clone())).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timed_out",
            format!(
                "this took longer than {REQUEST_TIMEOUT:?} and was given up; what it began may still happen"
            ),
        )
        .render(&request_id),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(&request_id);
    }
    span.in_scope(|| {
        let (status, took) = (response.status().as_u16(), started.elapsed());
        if method == Method::GET || method == Method::HEAD {
            debug!(%method, path, status, ?took, "Answered a request");
        } else {
            info!(%method, path, status, ?took, "Answered a request");
        }
    });
    let headers = response.headers_mut();
    headers.extend(SAFE_HEADERS);
    // Only what never changes under its name may be kept, and says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    response
}

fn loggable(path: &str) -> String {
    let secret = SECRET_PATHS.iter().find(|before| path.len() > before.len() && path.starts_with(**before));
    secret.map_or_else(|| path.to_owned(), |before| format!("{before}***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_path_reaches_no_log() {
        assert_eq!(loggable("/setup/abc"), "/setup/***");
        assert_eq!(loggable("/sign-in/once/abc/d"), "/sign-in/once/***");
        assert_eq!(loggable("/api/v1/setup"), "/api/v1/setup");
    }
}
