//! One JSON request to central and its answer: what enrolment and renewal are made of.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use proto::hello::Refusal;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    central::{CentralUrl, ConnectError, connect},
    segments::Line,
};
use crate::proxy::Proxy;

/// From the first byte of the request to the last of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A certificate chain and its CAs fit many times over.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why central gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Central said no, and why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("central at {url} did not answer the request within {ANSWER_TIMEOUT:?}")]
    TimedOut { url: CentralUrl },
    #[error("the conversation with central at {url} broke off")]
    Http { url: CentralUrl, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url} answered {status} and no reason; is that really central's address for agents?")]
    Status { url: CentralUrl, status: u16 },
    #[error("the answer of {url} is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge { url: CentralUrl },
    #[error("the answer of {url} was not understood; is that really central's address for agents?")]
    Answer { url: CentralUrl, source: serde_json::Error },
}

/// Posts `request` and reads the answer. Follows no redirect: a token or certificate request is
/// meant for one address only.
pub(super) async fn post<A: DeserializeOwned>(
    url: &CentralUrl,
    proxy: Option<&Proxy>,
    tls: Arc<ClientConfig>,
    line: &Line,
    path: &str,
    request: &impl Serialize,
) -> Result<A, ExchangeError> {
    let stream = connect(url, proxy, tls, line).await?;
    ask(stream, url, path, request).await
}

/// The same over a connection that stands: whoever is at its other end may not be central.
pub async fn ask<A: DeserializeOwned>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &CentralUrl,
    path: &str,
    request: &impl Serialize,
) -> Result<A, ExchangeError> {
    let broke =
        |source: Box<dyn std::error::Error + Send + Sync>| ExchangeError::Http { url: url.clone(), source };
    let body = serde_json::to_vec(request).map_err(|e| broke(e.into()))?;
    let conversation = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broke(e.into()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| broke(e.into()))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| broke(e.into()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| {
                if e.is::<LengthLimitError>() {
                    ExchangeError::TooLarge { url: url.clone() }
                } else {
                    broke(e)
                }
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection moves the bytes of the exchange beside it; whichever ends first decides.
        tokio::pin!(connection);
        tokio::select! {
            biased;
            answer = exchange => answer,
            ended = &mut connection => Err(broke(match ended {
                Ok(()) => "central closed the connection".into(),
                Err(error) => error.into(),
            })),
        }
    };
    let (status, body) = timeout(ANSWER_TIMEOUT, conversation)
        .await
        .map_err(|_| ExchangeError::TimedOut { url: url.clone() })??;
    if status.is_success() {
        serde_json::from_slice(&body).map_err(|source| ExchangeError::Answer { url: url.clone(), source })
    } else {
        Err(refusal(url, status.as_u16(), &body))
    }
}

/// A problem document (RFC 9457), as far as its words help a person.
#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
}

fn refusal(url: &CentralUrl, status: u16, body: &[u8]) -> ExchangeError {
    use proto::hello::RefusalCode;
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(body) {
        return ExchangeError::Refused(Refusal { message: printable(&refusal.message), ..refusal });
    }
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    match problem.and_then(|problem| problem.detail.or(problem.title)) {
        Some(message) => {
            ExchangeError::Refused(Refusal { code: RefusalCode::Other, message: printable(&message) })
        }
        None => ExchangeError::Status { url: url.clone(), status },
    }
}

/// Whoever answers may not be central: nothing of it may steer a terminal or flood a log.
fn printable(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_passed_on_in_centrals_words() {
        let url = "https://central.example".parse().unwrap();
        let told = |body: &str| refusal(&url, 403, body.as_bytes()).to_string();
        assert!(told(r#"{"code":"clock","message":"your clock is 9 min ahead"}"#).contains("9 min ahead"));
        assert!(
            told(r#"{"title":"Forbidden","detail":"the token was used"}"#).contains("the token was used")
        );
        assert!(told("<html>proxy</html>").contains("answered 403"));
        assert!(!told("{\"detail\":\"\\u001b[2Jboo\"}").contains('\u{1b}'));
    }
}
