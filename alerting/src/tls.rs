//! The TLS of one endpoint: whom it trusts and how it shows who calls.

use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::EndpointDocument;

/// What is wrong with certificates or keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("this is no PEM file with certificates: {0}")]
    Authority(String),
    #[error("this is no PEM file with a certificate chain: {0}")]
    Certificate(String),
    #[error("this is no PEM file with a private key, or it does not fit client_certificate")]
    Key,
    #[error("client_certificate and client_key are given together or not at all")]
    Half,
    #[error(
        "the machine's own trusted certificates could not be read: {0}. Name the receiver's authority in ca"
    )]
    Platform(String),
    #[error("TLS could not be set up: {0}")]
    Setup(String),
}

impl TlsError {
    /// The field of the endpoint that it is about.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Authority(_) | Self::Platform(_) | Self::Setup(_) => "ca",
            Self::Certificate(_) => "client_certificate",
            Self::Key | Self::Half => "client_key",
        }
    }
}

/// Made for each attempt anew, so that a change to the machine's trusted certificates counts at once.
pub(crate) fn client(endpoint: &EndpointDocument) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let config = builder(provider.clone())?;
    let config = match &endpoint.ca {
        Some(pem) => config.with_root_certificates(authorities(pem)?),
        None => config.dangerous().with_custom_certificate_verifier(platform(provider)?),
    };
    match (&endpoint.client_certificate, &endpoint.client_key) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let chain = certificates(chain).map_err(TlsError::Certificate)?;
            let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(|_| TlsError::Key)?;
            config.with_client_auth_cert(chain, key).map_err(|_| TlsError::Key)
        }
        (Some(_), None) | (None, Some(_)) => Err(TlsError::Half),
    }
}

/// For calls without TLS; should one meet TLS all the same, it fails.
pub(crate) fn trusting_nobody() -> Result<ClientConfig, TlsError> {
    let config = builder(Arc::new(ring::default_provider()))?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))
}

/// The machine's own judgement, which knows what its administrator added. Not dangerous at all: rustls calls every
/// verifier so that is not its own.
fn platform(
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::client::danger::ServerCertVerifier>, TlsError> {
    match rustls_platform_verifier::Verifier::new(provider) {
        Ok(verifier) => Ok(Arc::new(verifier)),
        Err(error) => Err(TlsError::Platform(error.to_string())),
    }
}

fn authorities(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(TlsError::Authority)? {
        roots.add(certificate).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(none) if none.is_empty() => Err("there is none in it".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}
