//! The opening handshake of a websocket (RFC 6455, section 4.2), strict: what is not exactly an
//! agent's is refused before anything is upgraded.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A connection past its opening handshake: from here on websocket frames cross it.
pub type Connection = TokioIo<Upgraded>;

/// Answers a strict RFC 6455 opening handshake and runs `session` on the upgraded connection. Needs a tokio runtime.
pub fn upgrade<F>(
    mut request: Request,
    subprotocol: &'static str,
    session: impl FnOnce(Connection) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let accept = match opening(request.headers(), subprotocol) {
        Ok(key) => derive_accept_key(key.as_bytes()),
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    // Lives as long as the connection, which its client, its lane or its keeper ends.
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => session(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "A websocket was not taken up"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    match HeaderValue::from_str(&accept) {
        Ok(accept) => drop(headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept)),
        Err(_) => return StatusCode::BAD_REQUEST.into_response(),
    }
    response
}

/// The key of a good opening handshake, or what is wrong with it.
fn opening<'a>(headers: &'a HeaderMap, subprotocol: &str) -> Result<&'a HeaderValue, &'static str> {
    let has = |name, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case(wanted)))
    };
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err("a websocket handshake has no body\n");
    }
    if headers.contains_key(header::ORIGIN) {
        return Err("browsers are not served here\n");
    }
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err("this is a websocket endpoint for agents\n");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("only websocket version 13 is spoken here\n");
    }
    if !has(header::SEC_WEBSOCKET_PROTOCOL, subprotocol) {
        return Err(
            "the websocket subprotocol is not spoken here: central and agent versions do not match\n",
        );
    }
    headers.get(header::SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing\n")
}
