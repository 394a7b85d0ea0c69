//! The way to the provider: two kinds of request, JSON back, bounded in size and time. No redirects, no proxy: whoever
//! answers is whom the operator named.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use program::explain;
use reqwest::{Certificate, Client, RequestBuilder, Url, redirect};
use serde_json::Value;

use super::{Refusal, Settings};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// From the call to the last byte of the answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Far more than any provider's keys, and any token.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Why there is no way to the provider.
#[derive(Debug, thiserror::Error)]
#[error("the way to the identity provider cannot be set up: {0}")]
pub struct SetupError(String);

/// Asks the provider. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ProviderClient {
    http: Client,
    answer_limit: Duration,
}

impl ProviderClient {
    pub(super) fn new(settings: &Settings, answer_limit: Duration) -> Result<Self, SetupError> {
        let failed = |error: reqwest::Error| SetupError(explain(&error));
        // An error means that somebody chose a provider of cryptography before us, and there is only one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = match &settings.authority {
            Some(authority) => {
                let certificates = authority.certificates().iter().map(|der| Certificate::from_der(der));
                let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(failed)?;
                Client::builder().tls_certs_only(certificates)
            }
            // Speaks without TLS, and needs none of this machine's certificates.
            None if settings.issuer.url().scheme() == "http" => Client::builder().tls_certs_only([]),
            None => Client::builder(),
        };
        let http = http
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT.min(answer_limit))
            .timeout(answer_limit)
            .http1_only()
            .pool_max_idle_per_host(1)
            .build()
            .map_err(failed)?;
        Ok(Self { http, answer_limit })
    }

    /// Reads a document.
    pub(super) async fn get(&self, url: &Url) -> Result<Value, Refusal> {
        match self.answer(self.http.get(url.clone())).await? {
            (StatusCode::OK, document) => Ok(document),
            (status, _) => {
                Err(Refusal::Unreachable(format!("it answered {status} for one of its documents")))
            }
        }
    }

    /// Sends a form as the client that `authorization` proves; the status is the caller's to judge.
    pub(super) async fn post(
        &self,
        url: &Url,
        form: String,
        authorization: Option<HeaderValue>,
    ) -> Result<(StatusCode, Value), Refusal> {
        let mut request = self.http.post(url.clone()).body(form);
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<(StatusCode, Value), Refusal> {
        let request = request.header(header::ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Refusal::Answer(format!("more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok((status, value)),
            // An error may come as a page; its status says enough.
            Err(_) if !status.is_success() => Ok((status, Value::Null)),
            Err(_) => Err(Refusal::Answer("something that is no JSON".into())),
        }
    }

    /// Why there was no answer, for a person who is not signed in; the log hears the rest.
    fn unreachable(&self, error: &reqwest::Error) -> Refusal {
        tracing::warn!(error = explain(error), "The identity provider could not be asked");
        Refusal::Unreachable(match error {
            error if error.is_timeout() => format!("no answer within {:?}", self.answer_limit),
            error if is_not_believed(error) => {
                "its certificate is not believed here (whoever runs central: [oidc] ca_file)".into()
            }
            error if error.is_connect() => "no connection".into(),
            _ => "its answer broke off".into(),
        })
    }
}

/// Whether somebody was there, but nobody we believe vouches for that.
fn is_not_believed(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return true;
    }
    // TLS speaks through input and output, whose errors do not show what they hold as their source.
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match held {
        Some(held) => is_not_believed(held),
        None => error.source().is_some_and(is_not_believed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::oidc::settings::tests::settings;

    #[tokio::test]
    async fn a_document_is_read() {
        assert_eq!(answered("200 OK", "{\"a\":1}").await, Ok(serde_json::json!({"a": 1})));
    }

    #[tokio::test]
    async fn what_is_no_document_is_refused_by_its_status_or_as_no_json() {
        let missing = answered("404 Not Found", "<html>").await.unwrap_err();
        assert_eq!(
            missing,
            Refusal::Unreachable("it answered 404 Not Found for one of its documents".into())
        );
        let page = answered("200 OK", "<html>").await.unwrap_err();
        assert_eq!(page, Refusal::Answer("something that is no JSON".into()));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let elsewhere = answered("302 Found\r\nlocation: http://127.0.0.1:1/", "").await.unwrap_err();
        assert!(matches!(&elsewhere, Refusal::Unreachable(why) if why.contains("302")), "{elsewhere:?}");
    }

    #[tokio::test]
    async fn a_flood_is_cut_off() {
        let flood = "x".repeat(ANSWER_BYTES_MAX + 1);
        assert!(matches!(answered("200 OK", &flood).await, Err(Refusal::Answer(_))));
    }

    #[tokio::test]
    async fn a_provider_that_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let limit = Duration::from_millis(50);
        let silent = ProviderClient::new(&settings(), limit).unwrap().get(&url).await;
        assert_eq!(silent, Err(Refusal::Unreachable("no answer within 50ms".into())));
    }

    #[tokio::test]
    async fn a_provider_that_is_not_there_is_said_not_to_be() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = format!("http://{gone}/").parse().unwrap();
        let gone = ProviderClient::new(&settings(), ANSWER_LIMIT).unwrap().get(&url).await;
        assert_eq!(gone, Err(Refusal::Unreachable("no connection".into())));
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_we_believe_vouches_for_is_named_as_the_reason() {
        let [server, other] =
            [(), ()].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(server.signing_key.serialize_der());
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), other.cert.pem()).unwrap();
        let settings = Settings {
            authority: Some(program::Authority::read(file.path()).unwrap()),
            issuer: issuer.parse().unwrap(),
            ..settings()
        };
        let client = ProviderClient::new(&settings, ANSWER_LIMIT).unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await.map(drop)
        };
        let (refused, served) = tokio::join!(client.get(settings.issuer.url()), serving);
        assert!(served.is_err(), "the client has hung up");
        let why = "its certificate is not believed here (whoever runs central: [oidc] ca_file)";
        assert_eq!(refused, Err(Refusal::Unreachable(why.into())));
    }

    /// What is made of this answer.
    async fn answered(status: &str, body: &str) -> Result<Value, Refusal> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it ended early");
            }
            // Whoever has heard enough hangs up.
            let _ = stream.write_all(answer.as_bytes()).await;
        };
        let client = ProviderClient::new(&settings(), ANSWER_LIMIT).unwrap();
        tokio::join!(client.get(&url), serving).0
    }
}
