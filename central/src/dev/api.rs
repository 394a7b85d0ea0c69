//! Central's REST API, from a user's side.

use std::{net::SocketAddr, path::Path, time::Duration};

use program::explain;
use reqwest::{Certificate, Method};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than anything this room asks for may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("the CA certificate cannot be used: {0}")]
    Ca(String),
    #[error("{method} {path}: {why}")]
    Call { method: Method, path: String, why: String },
}

/// A client with a token.
pub(super) struct Api {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Api {
    pub(super) fn new(admin: SocketAddr, ca_cert: &Path, token: &str) -> Result<Self, ApiError> {
        let ca = |error: &dyn std::fmt::Display| ApiError::Ca(error.to_string());
        // An error means that somebody chose a provider before us, and one is all we need.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(ca_cert).map_err(|error| ca(&error))?;
        let pem = Certificate::from_pem_bundle(&pem).map_err(|error| ca(&error))?;
        let http = reqwest::Client::builder().tls_certs_only(pem).no_proxy().timeout(ANSWER_WITHIN).build();
        let http = http.map_err(|error| ca(&error))?;
        Ok(Self { http, url: format!("https://{admin}"), token: token.to_owned() })
    }

    /// The admin address as a URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let answer = self.call(Method::GET, path, None).await?;
        serde_json::from_value(answer).map_err(|error| ApiError::Call {
            method: Method::GET,
            path: path.to_owned(),
            why: format!("the answer cannot be read: {error}"),
        })
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: Value) -> Result<Value, ApiError> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, ApiError> {
        let failed = |why: String| ApiError::Call { method: method.clone(), path: path.to_owned(), why };
        let mut request = self.http.request(method.clone(), format!("{}/api/v1{path}", self.url));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| failed(explain(&error)))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| failed(explain(&error)))?;
        if text.is_empty() && status.is_success() {
            return Ok(json!(null));
        }
        let value: Value =
            serde_json::from_str(&text).map_err(|error| failed(format!("status {status}, {error}")))?;
        if status.is_success() {
            return Ok(value);
        }
        let detail = value.get("detail").and_then(Value::as_str).unwrap_or("no reason was given");
        Err(failed(format!("status {status}, {detail}")))
    }
}
