//! Which certificate a peer must show, on either end of a connection.
//!
//! Three things, all of them: a chain to the CA this agent pins (webpki decides that), a name that
//! is an agent's of this Environment, and a key this agent expects. Central's CA alone is not
//! enough: whoever holds it could otherwise mint itself a seat in the group.

use std::{fmt, sync::Arc};

use proto::{AgentId, EnvironmentName, Fingerprint};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::identity::{Identity, certificate::AgentCertificate, tls};

/// Spoken on peer connections, so that no other protocol's bytes are ever taken for a peer's.
pub(super) const ALPN: &[u8] = b"postern-peer/1";

/// Decides whether this agent, with this key, is somebody we talk to.
pub(super) type Expected = Arc<dyn Fn(AgentId, Fingerprint) -> bool + Send + Sync>;

/// Why a certificate of the right CA is refused all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotAPeer {
    #[error("its certificate is not an agent's: {0}")]
    Certificate(String),
    #[error("it belongs to environment {0}, not to ours")]
    Environment(EnvironmentName),
    #[error("agent {0} with the key {1} is not expected here")]
    Unexpected(AgentId, Fingerprint),
}

/// How this agent calls the peer that `expected` describes.
pub(super) fn client_config(identity: &Identity, expected: Expected) -> Result<ClientConfig, rustls::Error> {
    let verifier = PeerVerifier::new(identity, expected)?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the checks above after a peer left the roster.
    config.resumption = Resumption::disabled();
    // The name in the handshake would be an address or nothing; peers are known by their keys.
    config.enable_sni = false;
    Ok(config)
}

/// How this agent is called by the peers that `expected` describes.
pub(super) fn server_config(identity: &Identity, expected: Expected) -> Result<ServerConfig, rustls::Error> {
    let verifier = PeerVerifier::new(identity, expected)?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.chain.clone(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

struct PeerVerifier {
    environment: EnvironmentName,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    expected: Expected,
}

impl PeerVerifier {
    fn new(identity: &Identity, expected: Expected) -> Result<Self, rustls::Error> {
        let roots = Arc::new(tls::roots(&identity.ca)?);
        let provider = tls::provider();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { environment: identity.environment.clone(), roots, clients, provider, expected })
    }

    /// Called for a certificate whose chain has been verified.
    fn is_expected(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let refuse = |why: NotAPeer| {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why)))))
        };
        match AgentCertificate::read(certificate) {
            Err(problem) => refuse(NotAPeer::Certificate(problem.to_string())),
            Ok(peer) if peer.environment != self.environment => {
                refuse(NotAPeer::Environment(peer.environment))
            }
            Ok(peer) if !(self.expected)(peer.agent, peer.fingerprint) => {
                refuse(NotAPeer::Unexpected(peer.agent, peer.fingerprint))
            }
            Ok(_) => Ok(()),
        }
    }

    fn tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("environment", &self.environment).finish_non_exhaustive()
    }
}

/// TLS 1.2 is not offered, so nothing of it can be asked; if it were, this is the answer.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.is_expected(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.clients.verify_client_cert(end_entity, intermediates, now)?;
        self.is_expected(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
