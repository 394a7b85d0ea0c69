//! TLS from this agent: version 1.3 only, towards central pinned to central's own CA.
//!
//! The operating system's trust store is never asked: whoever can put a CA into it (an
//! inspecting proxy, for one) could otherwise stand between agent and central.

use std::{fmt, io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use super::certificate::subject_and_issuer;

/// The one crypto provider of this program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Trusts exactly these certificate authorities.
pub fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Whether one of `ca` vouches for an agent's certificate now, itself or by a chain of authorities behind the
/// certificate.
pub fn vouched_for(chain: &[CertificateDer<'_>], ca: &[CertificateDer<'static>]) -> bool {
    let verdict = || {
        let (leaf, between) = chain.split_first()?;
        let roots = Arc::new(roots(ca).ok()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().ok()?;
        verifier.verify_client_cert(leaf, between, UnixTime::now()).ok()
    };
    verdict().is_some()
}

/// How to talk to central without being anybody yet: for enrolment.
pub fn anonymous_client(ca: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    Ok(finish(verifying_central(ca)?.with_no_client_auth()))
}

/// How to talk to central as an enrolled agent.
pub fn agent_client(
    ca: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    Ok(finish(verifying_central(ca)?.with_client_auth_cert(chain, key)?))
}

fn verifying_central(
    ca: &[CertificateDer<'static>],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    let provider = provider();
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let pinned = ca.iter().filter_map(subject_and_issuer).map(|(subject, _)| subject).collect();
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        // "Dangerous" by the library's naming; ours only adds words to webpki's refusals.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CentralVerifier { webpki, pinned })))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session skips the certificate check, and connections here live for days.
    config.resumption = Resumption::disabled();
    config
}

/// A handshake's error in words for an operator: what our own checks said instead of the
/// library's wrapping of it, and what to do about the usual mistakes.
pub fn in_words(error: io::Error) -> io::Error {
    let kind = error.kind();
    let words = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::Other(OtherError(ours)) => ours.to_string(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired, or this host's clock is ahead".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: this host's clock is behind".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is for another name: {problem}")
            }
            problem => format!("its certificate is refused: {problem}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the other side refused this agent's certificate or TLS ({alert:?})")
        }
        _ => return error,
    };
    io::Error::new(kind, words)
}

/// webpki's verdict; a wrong CA is told as which CA was presented and which is pinned.
#[derive(Debug)]
struct CentralVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<String>,
}

/// Another CA than the pinned one vouches for whoever answered in central's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongCa {
    pub subject: String,
    pub issuer: String,
    pub pinned: Vec<String>,
}

impl fmt::Display for WrongCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it presented a certificate of {:?} issued by {:?}, but only {:?} is trusted here: either the CA file \
             belongs to another central, or something between here and central decrypts the traffic",
            self.subject, self.issuer, self.pinned
        )
    }
}

impl std::error::Error for WrongCa {}

impl ServerCertVerifier for CentralVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict =
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            // A CA of the same name but another key ends in a bad signature, not an unknown issuer.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => {
                let (subject, issuer) = subject_and_issuer(end_entity)
                    .unwrap_or_else(|| ("unreadable".to_owned(), "unreadable".to_owned()));
                let wrong = WrongCa { subject, issuer, pinned: self.pinned.clone() };
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
