//! One request to the collector, once, and what it came to: OTLP over HTTP.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, ring},
};
use rustls_platform_verifier::Verifier;

use program::Authority;

use crate::settings::{Endpoint, Settings};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// From the connection to the answer's last byte.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// More of an answer is not read: it says how many spans were refused, and why.
const ANSWER_MAX_BYTES: usize = 16 * 1024;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the machine's own trusted certificates could not be read: {0}. Name the collector's authority in traces.ca_file"
    )]
    Platform(String),
    #[error("the authority in traces.ca_file cannot be used: {0}")]
    Authority(String),
    #[error("the way to the collector cannot be set up: {0}")]
    Setup(String),
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All but so many spans were taken.
    Taken { refused: u64 },
    /// Worth another attempt, not before the time it asked for.
    Later { why: String, after: Option<Duration> },
    /// It will never take these.
    Never { why: String },
}

/// Where batches go. A trait, so that the exporter can be tried without a network.
pub(crate) trait Collect: Send + 'static {
    fn post(&self, body: Bytes) -> impl Future<Output = Answer> + Send;
}

/// A collector behind HTTP.
pub(crate) struct Collector {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

impl Collector {
    pub(crate) fn new(endpoint: &Endpoint, settings: &Settings) -> Result<Self, OpenError> {
        let url = endpoint.url().clone();
        let tls = tls(url.scheme() == "https", settings.authority.as_ref())?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // The environment's proxies are for people's programs; a redirect would carry the headers elsewhere.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .http1_only()
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| OpenError::Setup(chain(&error)))?;
        Ok(Self { client, url, headers: settings.headers.map().clone() })
    }
}

impl Collect for Collector {
    async fn post(&self, body: Bytes) -> Answer {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        match request.send().await {
            Ok(response) => judged(response).await,
            Err(error) => Answer::Later { why: chain(&error), after: None },
        }
    }
}

async fn judged(response: Response) -> Answer {
    let status = response.status();
    let why = format!("the collector answered {status}");
    // OTLP names these four; everything else would be answered the same again.
    const LATER: [StatusCode; 4] = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    match status {
        StatusCode::OK => Answer::Taken { refused: refused(&excerpt(response).await) },
        status if status.is_success() => Answer::Taken { refused: 0 },
        status if LATER.contains(&status) => {
            let seconds = response.headers().get(header::RETRY_AFTER);
            let seconds = seconds.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Answer::Later { why, after: seconds.map(Duration::from_secs) }
        }
        _ => Answer::Never { why },
    }
}

/// How many spans a collector did not take of a batch that it took. Its number is a text or a number.
fn refused(answer: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0)
}

/// An answer that breaks off changes nothing: its status has been given.
async fn excerpt(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER_MAX_BYTES - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if bytes.len() == ANSWER_MAX_BYTES {
            break;
        }
    }
    bytes
}

fn tls(wanted: bool, authority: Option<&Authority>) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Setup(error.to_string()))?;
    let config = match authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for certificate in authority.certificates() {
                roots.add(certificate.clone()).map_err(|error| OpenError::Authority(error.to_string()))?;
            }
            config.with_root_certificates(roots)
        }
        None if wanted => config.dangerous().with_custom_certificate_verifier(platform(provider)?),
        // Calls without TLS; should one meet TLS all the same, it fails.
        None => config.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

/// The machine's own judgement. Not dangerous at all: rustls calls every verifier so that is not its own.
fn platform(provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, OpenError> {
    match Verifier::new(provider) {
        Ok(verifier) => Ok(Arc::new(verifier)),
        Err(error) => Err(OpenError::Platform(error.to_string())),
    }
}

/// The whole chain of causes, without the address: the log names it elsewhere.
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = vec![match error {
        error if error.is_connect() => "no connection".to_owned(),
        error if error.is_timeout() => format!("no answer within {ANSWER_LIMIT:?}"),
        _ => "no answer".to_owned(),
    }];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !error.is::<reqwest::Error>() && !parts.contains(&text) {
            parts.push(text);
        }
        cause = error.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::settings::Headers;

    #[tokio::test]
    async fn a_batch_is_posted_with_the_headers_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "authorization: Bearer hush").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let headers = Headers::read(&path).unwrap();
        let (answer, heard) = answered("200 OK", "{}", Settings { headers, ..Settings::default() }).await;
        assert_eq!(answer, Answer::Taken { refused: 0 });
        let heard = heard.to_ascii_lowercase();
        for part in
            ["post /v1/traces http/1.1", "authorization: bearer hush", "application/json", "\r\n\r\nspans"]
        {
            assert!(heard.contains(part), "{part} is missing in {heard}");
        }
    }

    #[tokio::test]
    async fn a_collector_may_take_a_part_ask_for_patience_or_refuse() {
        let of = async |status, body| answered(status, body, Settings::default()).await.0;
        let part = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(of("200 OK", part).await, Answer::Taken { refused: 3 });
        assert_eq!(of("200 OK", "not even JSON").await, Answer::Taken { refused: 0 });
        let patience = of("503 Busy\r\nretry-after: 7", "").await;
        assert!(matches!(patience, Answer::Later { after: Some(SEVEN), .. }), "{patience:?}");
        for refusal in ["400 Bad", "401 Who", "404 What", "302 Moved\r\nlocation: http://elsewhere/"] {
            assert!(matches!(of(refusal, "").await, Answer::Never { .. }), "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_not_there_may_come_later() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let endpoint = format!("http://{gone}").parse().unwrap();
        let collector = Collector::new(&endpoint, &Settings::default()).unwrap();
        let Answer::Later { why, after: None } = collector.post(Bytes::new()).await else {
            panic!("answered")
        };
        assert!(why.starts_with("no connection") && !why.contains("http://"), "{why}");
    }

    const SEVEN: Duration = Duration::from_secs(7);

    /// What a collector's client makes of this answer, and what the collector heard.
    async fn answered(status: &str, body: &str, settings: Settings) -> (Answer, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"spans") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it ended early");
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(heard).unwrap()
        };
        let collector = Collector::new(&endpoint, &settings).unwrap();
        tokio::join!(collector.post(Bytes::from_static(b"spans")), serving)
    }
}
