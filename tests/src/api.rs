//! The REST API as an administrator's program uses it.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;
use std::{fmt, fs};

use reqwest::{Certificate, Client, Method};
use serde::Deserialize;
use serde_json::Value;

/// No answer takes longer than this, or the test has found something.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A client with an API token.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    token: String,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Api({})", self.base)
    }
}

impl Api {
    /// A client of the server at `admin_url` that trusts the CA in `ca_cert` and nobody else.
    pub fn new(admin_url: &str, ca_cert: &Path, token: &str) -> Self {
        static PROVIDER: Once = Once::new();
        // reqwest comes without one of its own. A second install would fail, and be as good.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let pem = fs::read(ca_cert).unwrap_or_else(|error| {
            panic!("the CA certificate {} could not be read: {error}", ca_cert.display());
        });
        let ca = Certificate::from_pem_bundle(&pem).expect("the CA file holds certificates");
        let client = Client::builder()
            .tls_certs_only(ca)
            .no_proxy()
            .timeout(ANSWER_WITHIN)
            .build()
            .expect("these settings make a client");
        Self { client, base: admin_url.trim_end_matches('/').into(), token: token.into() }
    }

    /// `GET /api/v1{path}`.
    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await
    }

    /// `POST /api/v1{path}`.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `PUT /api/v1{path}`.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// `PATCH /api/v1{path}`.
    pub async fn patch(&self, path: &str, body: Value) -> Value {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// What a request is refused with.
    ///
    /// # Panics
    /// When it is not.
    pub async fn refusal(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/api/v1{path}", self.base);
        let request = self.client.request(method.clone(), &url).bearer_auth(&self.token).json(&body);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {url}: {}", chain(&error)));
        let status = answer.status();
        assert!(status.is_client_error(), "{method} {url} was answered {status}");
        answer.json().await.unwrap_or_else(|error| panic!("{method} {url}: {}", chain(&error)))
    }

    /// What is not JSON, such as `/metrics`, which lies beside the API.
    pub async fn text(&self, path: &str) -> String {
        let url = format!("{}{path}", self.base);
        let answer = self.client.get(&url).bearer_auth(&self.token).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("GET {url}: {}", chain(&error)));
        answer.text().await.unwrap_or_else(|error| panic!("GET {url}: {}", chain(&error)))
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `DELETE /api/v1{path}`.
    pub async fn delete(&self, path: &str) {
        self.call(Method::DELETE, path, None).await;
    }

    /// The Secure Gateway's state.
    pub async fn gateway(&self) -> Gateway {
        let answer = self.get("/gateway").await;
        Gateway::deserialize(&answer)
            .unwrap_or_else(|error| panic!("/gateway did not answer as promised ({error}): {answer}"))
    }

    /// Every Process Server.
    pub async fn process_servers(&self) -> Vec<ProcessServer> {
        let answer = self.get("/process-servers").await;
        Vec::deserialize(&answer)
            .unwrap_or_else(|error| panic!("/process-servers did not answer as promised ({error}): {answer}"))
    }

    /// The Process Server `name`.
    pub async fn process_server(&self, name: &str) -> ProcessServer {
        let all = self.process_servers().await;
        let names: Vec<_> = all.iter().map(|one| one.name.clone()).collect();
        all.into_iter()
            .find(|one| one.name == name)
            .unwrap_or_else(|| panic!("no Process Server is named {name}, only {names:?}"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/api/v1{path}", self.base);
        let mut request = self.client.request(method.clone(), &url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {url}: {}", chain(&error)));
        let status = answer.status();
        let text = answer.text().await.unwrap_or_else(|error| panic!("{method} {url}: {}", chain(&error)));
        assert!(status.is_success(), "{method} {url} was answered {status}: {text}");
        if text.is_empty() {
            return Value::Null;
        }
        // 204 has nothing to say.
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {url}: {error} in {text}"))
    }
}

/// The part of `GET /gateway` that scenarios look at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Gateway {
    pub state: String,
    pub active: Option<String>,
    /// 0 until the first tunnel was admitted.
    pub epoch: u64,
    pub group_epoch: u64,
}

/// The part of a Process Server that scenarios look at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProcessServer {
    pub name: String,
    pub candidate: bool,
    pub configured: bool,
    pub connected: bool,
    pub active: bool,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
