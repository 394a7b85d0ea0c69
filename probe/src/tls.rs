//! A TLS handshake that takes any certificate, to tell about it. Nothing secret is said in it, so there is
//! nothing to protect; whether a client will trust the certificate is the client's own affair.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use time::{OffsetDateTime, macros::format_description};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Pipe;

/// What a handshake showed.
#[derive(Debug)]
pub(crate) struct Seen {
    /// `TLS 1.3, issued by CN=…, valid until …`
    pub(crate) words: String,
    /// Whether the certificate is within its time.
    pub(crate) valid: bool,
}

/// Shakes hands.
///
/// # Errors
/// Why it failed, in words.
pub(crate) async fn connect<P: Pipe>(pipe: P, host: &str) -> Result<(TlsStream<P>, Seen), String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no name TLS could ask for"))?;
    let config = config().map_err(|error| error.to_string())?;
    match TlsConnector::from(Arc::new(config)).connect(name, pipe).await {
        Ok(stream) => {
            let (_, connection) = stream.get_ref();
            let version = match connection.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            };
            let leaf = connection.peer_certificates().and_then(|chain| chain.first());
            let seen = describe(version, leaf, OffsetDateTime::now_utc());
            Ok((stream, seen))
        }
        Err(error) => Err(in_words(&error)),
    }
}

fn in_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => "what it answered is no TLS".to_owned(),
        Some(error) => format!("the TLS handshake failed: {error}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection in the TLS handshake".to_owned()
        }
        None => format!("the connection broke in the TLS handshake: {error}"),
    }
}

fn describe(version: &str, leaf: Option<&CertificateDer<'_>>, now: OffsetDateTime) -> Seen {
    let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, certificate)) = parsed else {
        return Seen { words: format!("{version}, with a certificate that cannot be read"), valid: true };
    };
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    let day = |at: OffsetDateTime| at.format(format_description!("[year]-[month]-[day]")).unwrap_or_default();
    let time = if now > until {
        format!("EXPIRED on {}", day(until))
    } else if now < from {
        format!("NOT VALID before {}", day(from))
    } else {
        format!("valid until {} ({} days)", day(until), (until - now).whole_days())
    };
    let issuer = certificate.issuer();
    let issued = match issuer == certificate.subject() {
        true => "by itself".to_owned(),
        false => format!("by {issuer}"),
    };
    let words = format!("{version}, certificate of {}, issued {issued}, {time}", certificate.subject());
    Seen { words, valid: (from..=until).contains(&now) }
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(TakesAny(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])?
        // "Dangerous" by the library's naming: see the head of this file.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
