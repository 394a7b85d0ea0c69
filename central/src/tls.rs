//! TLS as central speaks it to agents and to administrators.
//!
//! To agents: version 1.3 only, and a certificate is asked for but not required, since an agent that enrols
//! has none yet; every endpoint but enrolment demands one. No tickets, no resumption, no early data: each
//! connection proves its key anew and nothing can be replayed.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::enrolment::Ca;

/// The one protocol spoken over our TLS: websockets and the API are both HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// Why TLS could not be set up; it means that the CA's certificate is unusable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("central's CA certificate cannot be used to verify agents")]
    Verifier(#[from] VerifierBuilderError),
    #[error("central's TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

/// The one crypto provider of this program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For the tunnel address. Client certificates of other authorities fail the handshake.
pub fn agent_facing(ca: &Arc<Ca>) -> Result<ServerConfig, TlsError> {
    let verifier = Trusting(ca.clone());
    // What cannot be used fails here, not at the first handshake.
    verifier.present()?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Present(ca.clone())));
    Ok(finish(config))
}

/// For the admin address: browsers and scripts come with a token and no certificate. TLS 1.2 is for those
/// that are old.
pub fn admin_facing(ca: &Arc<Ca>) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Present(ca.clone())));
    Ok(finish(config))
}

fn finish(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the look at the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

/// Hands out the CA's present server certificate, so that a renewed one needs no restart.
struct Present(Arc<Ca>);

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Present")
    }
}

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.server_key())
    }
}

/// Believes the authorities that the CA trusts at this moment, so that a rotation needs no restart.
struct Trusting(Arc<Ca>);

impl Trusting {
    fn present(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.0.trusted() {
            roots.add(certificate)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        Ok(verifier.allow_unauthenticated().build()?)
    }
}

impl fmt::Debug for Trusting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trusting")
    }
}

impl ClientCertVerifier for Trusting {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: an agent has one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let present = self.present().map_err(|error| rustls::Error::General(error.to_string()))?;
        present.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use proto::AgentId;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ClientConfig, ClientConnection, ProtocolVersion, ServerConnection, SupportedProtocolVersion,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    };
    use tempfile::TempDir;
    use time::OffsetDateTime;

    use super::*;
    use crate::enrolment::AgentIdentity;

    type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

    #[test]
    fn an_agent_shows_its_certificate_and_is_known_by_it() {
        let world = World::new();
        let (client, server) = world.meet(agent_facing(&world.ca), &TLS13, Some(world.agent())).unwrap();
        assert_eq!(client.alpn_protocol(), Some(ALPN));
        let [certificate] = server.peer_certificates().unwrap() else { panic!("one certificate") };
        assert_eq!(AgentIdentity::read(certificate).unwrap().name.as_str(), "gw-a");
    }

    #[test]
    fn one_that_enrols_needs_no_certificate_yet() {
        let world = World::new();
        let (_, server) = world.meet(agent_facing(&world.ca), &TLS13, None).unwrap();
        assert!(server.peer_certificates().is_none());
    }

    #[test]
    fn agents_speak_tls_1_3_only_and_administrators_may_be_older() {
        let world = World::new();
        assert!(world.meet(agent_facing(&world.ca), &TLS12, None).is_err());
        let (client, _) = world.meet(admin_facing(&world.ca), &TLS12, None).unwrap();
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        world.meet(admin_facing(&world.ca), &TLS13, None).unwrap();
    }

    #[test]
    fn another_authoritys_agent_is_refused() {
        let world = World::new();
        let stranger = World::new().agent();
        assert!(world.meet(agent_facing(&world.ca), &TLS13, Some(stranger)).is_err());
    }

    #[test]
    fn centrals_own_server_certificate_makes_no_client() {
        let world = World::new();
        let pem = std::fs::read(world.folder.path().join("ca/server.pem")).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(&pem).unwrap()];
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).unwrap().into();
        assert!(world.meet(agent_facing(&world.ca), &TLS13, Some((chain, key))).is_err());
    }

    #[test]
    fn no_session_can_be_resumed() {
        let world = World::new();
        for config in [agent_facing(&world.ca), admin_facing(&world.ca)] {
            let config = config.unwrap();
            assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
            assert!(!config.session_storage.can_cache());
        }
    }

    struct World {
        ca: Arc<Ca>,
        folder: TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ca = Arc::new(Ca::open(folder.path(), &[], OffsetDateTime::now_utc()).unwrap());
            Self { ca, folder }
        }

        fn agent(&self) -> Pair {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
            let (environment, name) = ("default".parse().unwrap(), "gw-a".parse().unwrap());
            let now = OffsetDateTime::now_utc();
            let made = self.ca.certify_agent(&csr, &environment, AgentId::random(), &name, now).unwrap();
            let chain = vec![CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap()];
            (chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        }

        fn meet(
            &self,
            server: Result<ServerConfig, TlsError>,
            version: &'static SupportedProtocolVersion,
            certificate: Option<Pair>,
        ) -> io::Result<(ClientConnection, ServerConnection)> {
            let mut roots = RootCertStore::empty();
            self.ca.trusted().into_iter().for_each(|certificate| roots.add(certificate).unwrap());
            let client = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots);
            let mut client = match certificate {
                Some((chain, key)) => client.with_client_auth_cert(chain, key).unwrap(),
                None => client.with_no_client_auth(),
            };
            client.alpn_protocols = vec![ALPN.to_vec()];
            let mut client =
                ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
            let mut server = ServerConnection::new(Arc::new(server.unwrap())).unwrap();
            shake_hands(&mut client, &mut server)?;
            Ok((client, server))
        }
    }

    /// Carries bytes to and fro in memory until both have nothing more to say.
    fn shake_hands(client: &mut ClientConnection, server: &mut ServerConnection) -> io::Result<()> {
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes)?;
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                server.read_tls(&mut bytes)?;
                server.process_new_packets().map_err(io::Error::other)?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes)?;
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes)?;
                client.process_new_packets().map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}
