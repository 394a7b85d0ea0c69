//! The OpenID Connect provider of `tests/suites/oidc/provider.py`: another's implementation, over TLS, of one client.

use std::process::Command;
use std::time::Duration;

use reqwest::{Certificate, Client};
use serde::Deserialize;
use serde_json::Value;

use super::START_WITHIN;
use crate::process::Launch;
use crate::{Certificates, Folder, Process, Stop, needs};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A running provider. Its pages are at `localhost`, so to a browser another site than what is at 127.0.0.1.
pub struct IdentityProvider {
    announced: Announcement,
    certificates: Certificates,
    http: Client,
    process: Process,
    // Last, so that it outlives the server that writes into it.
    folder: Folder,
}

#[derive(Deserialize)]
struct Announcement {
    port: u16,
    client_id: String,
    client_secret: String,
}

impl IdentityProvider {
    /// Starts one that knows a single client, which comes back to `redirect_uri`.
    pub async fn start(redirect_uri: &str) -> Self {
        let folder = Folder::new("identity");
        let certificates = Certificates::make(&folder);
        let mut command = Command::new(needs::python());
        command.arg(needs::suites().join("oidc/provider.py"));
        command.arg(&certificates.certificate).arg(&certificates.key).arg(redirect_uri);
        let log = folder.join("log");
        let launch = Launch { name: "identity provider", command, log, stop: Stop::Kill, user: None };
        let (process, announced) = Process::announcing(launch);
        let line = tokio::time::timeout(START_WITHIN, announced)
            .await
            .unwrap_or_else(|_| panic!("the identity provider did not start within {START_WITHIN:?}"))
            .unwrap_or_else(|_| {
                panic!("the identity provider ended instead of starting:\n{}", process.log_tail())
            });
        let announced = serde_json::from_str(&line).expect("provider.py announces itself");
        // An error means that another server of the stage was faster, and there is only one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = Certificate::from_pem(&certificates.ca_pem()).expect("the CA file holds a certificate");
        let http = Client::builder().tls_certs_only([ca]).no_proxy().timeout(ANSWER_WITHIN).build();
        let http = http.expect("these settings make a client");
        Self { announced, certificates, http, process, folder }
    }

    /// Its name for itself.
    pub fn issuer(&self) -> String {
        format!("https://localhost:{}", self.announced.port)
    }

    /// `[oidc]` of a central that believes it, and gives these roles for the groups it names.
    pub fn settings(&self, roles: &str) -> String {
        let secret = self.folder.write_private("client.secret", &self.announced.client_secret);
        format!(
            "\n[oidc]\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret_file = \"{}\"\nca_file = \"{}\"\nroles = {roles}\n",
            self.issuer(),
            self.announced.client_id,
            secret.display(),
            self.certificates.ca.display(),
        )
    }

    /// From now on this is what it knows of whoever signs in as `subject`.
    pub async fn knows(&self, subject: &str, claims: &Value) {
        let url = format!("{}/users/{subject}", self.issuer());
        let answer = self.http.put(&url).json(claims).send().await;
        let status = answer.unwrap_or_else(|error| panic!("PUT {url}: {error}")).status();
        assert!(status.is_success(), "PUT {url} was answered {status}");
    }

    /// Ends it; its folder stays.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}
