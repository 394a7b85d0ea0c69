//! Sends one webhook, once, and says how it ended.
//!
//! Redirects are not followed, environment variables about proxies are not read, and only an address that the rules
//! let through is dialled. The answer is read up to a bound and within a deadline, whatever the receiver does.

use std::{net::SocketAddr, time::Duration};

use http::header;
use reqwest::{Client, NoProxy, Proxy, Response, Url, dns, redirect};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use crate::{
    address::{AddressError, AddressRules, read_url},
    endpoint::Endpoint,
    outbox::Outcome,
    request::Request,
    secret,
    tls::{self, TlsError},
};

#[cfg(test)]
mod tests;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// From the first name looked up to the answer's status.
const STATUS_LIMIT: Duration = Duration::from_secs(13);

/// How long an answer's body is then waited for: the status has been given, and an attempt takes 15 s in all.
const BODY_LIMIT: Duration = Duration::from_secs(2);

/// More of an answer is not read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("the proxy could not be used: {0}")]
    Proxy(AddressError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the request could not be sent: {0}")]
    Send(String),
    #[error("the receiver did not answer within {STATUS_LIMIT:?}")]
    Silent,
}

/// What is known of a call beside its outcome.
pub(crate) struct Called {
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) outcome: Outcome,
}

/// Headers that are not for people to set: they belong to the connection, or they are the signature.
pub(crate) fn is_ours(lower_name: &str) -> bool {
    const CONNECTION: [&str; 12] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-connection",
    ];
    CONNECTION.contains(&lower_name) || lower_name.starts_with("webhook-")
}

/// Sends `request`, within 15 s. Dropped, it closes the connection, and whether the receiver has read the request by
/// then nobody knows.
pub(crate) async fn send(
    endpoint: &Endpoint,
    request: Request,
    rules: &AddressRules,
    now: OffsetDateTime,
) -> Result<Called, WebhookError> {
    let answer = async {
        let client = client(endpoint, &request.url, rules).await?;
        let request = client.request(request.method, request.url).headers(request.headers).body(request.body);
        request.send().await.map_err(|error| WebhookError::Send(chain(&error)))
    };
    let sent = tokio::time::timeout(STATUS_LIMIT, answer).await.map_err(|_| WebhookError::Silent)??;
    let remote = sent.remote_addr();
    let status = sent.status().as_u16();
    let retry_after_s =
        sent.headers().get(header::RETRY_AFTER).and_then(|value| retry_after_s(value.to_str().ok()?, now));
    let excerpt = excerpt(sent).await;
    let excerpt = secret::hide(&excerpt, &endpoint.all_secrets());
    Ok(Called { remote, outcome: Outcome::Answered { status, excerpt, retry_after_s } })
}

/// A client that can reach nothing but the judged addresses of the receiver, or of its proxy.
async fn client(endpoint: &Endpoint, url: &Url, rules: &AddressRules) -> Result<Client, WebhookError> {
    let document = &endpoint.document;
    // A machine without any trusted certificates can still call a private receiver without TLS.
    let tls = if url.scheme() == "https" { tls::client(document)? } else { tls::trusting_nobody()? };
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .http1_only()
        .pool_max_idle_per_host(0)
        .referer(false)
        // Beside the names below none is known: what was not judged cannot be dialled.
        .dns_resolver(NoName);
    let dialled = match &document.proxy {
        None => {
            builder = builder.no_proxy();
            let addresses = rules.resolve(url, url.scheme() == "https").await?;
            (url.clone(), addresses)
        }
        Some(proxy) => {
            let encrypted = url.scheme() == "https";
            match rules.resolve(url, encrypted).await {
                // Behind a proxy the receiver's name is often known to the proxy alone.
                Err(AddressError::Unresolved { .. } | AddressError::Nowhere { .. }) if encrypted => {}
                judged => drop(judged?),
            }
            let proxy = read_url(proxy, &["http"]).map_err(|error| WebhookError::Send(error.to_string()))?;
            // To the proxy goes TLS that only the receiver can read, or what the rules let go without.
            let addresses = rules.resolve(&proxy, true).await.map_err(WebhookError::Proxy)?;
            let mut through = Proxy::all(proxy.clone()).map_err(|error| WebhookError::Send(chain(&error)))?;
            if let Some((user, password)) =
                document.proxy_credentials.as_ref().and_then(|secret| secret.reveal().split_once(':'))
            {
                through = through.basic_auth(user, password);
            }
            builder = builder.proxy(through.no_proxy(None::<NoProxy>));
            (proxy, addresses)
        }
    };
    let (dialled, addresses) = dialled;
    if let Some(host) = dialled.host_str() {
        builder = builder.resolve_to_addrs(host, &addresses);
    }
    builder.build().map_err(|error| WebhookError::Send(chain(&error)))
}

/// Knows no name.
struct NoName;

impl dns::Resolve for NoName {
    fn resolve(&self, name: dns::Name) -> dns::Resolving {
        let refusal = format!("{} was not looked up before", name.as_str());
        Box::pin(async move { Err(refusal.into()) })
    }
}

/// The beginning of the answer. A body that breaks off or never ends changes nothing: the status has been given.
async fn excerpt(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            let room = ANSWER_MAX_BYTES - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if bytes.len() == ANSWER_MAX_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_LIMIT, read).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Seconds, or a date: RFC 9110, 10.2.3.
fn retry_after_s(value: &str, now: OffsetDateTime) -> Option<u64> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(seconds);
    }
    let date = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = PrimitiveDateTime::parse(value.trim(), date).ok()?.assume_utc();
    u64::try_from((at - now).whole_seconds()).ok()
}

/// The whole chain of causes, without the address: it may carry a token.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = match error.downcast_ref::<reqwest::Error>() {
            // Its own text ends with the address; its cause is what matters.
            Some(error) if error.is_connect() => "no connection".to_owned(),
            Some(error) if error.is_timeout() => "no answer in time".to_owned(),
            Some(_) => "no answer".to_owned(),
            None => error.to_string(),
        };
        if !parts.contains(&text) {
            parts.push(text);
        }
        cause = error.source();
    }
    parts.join(": ")
}
