//! Who a certificate says its holder is.
//!
//! Read strictly: exactly one name of the form `postern://ENVIRONMENT/agent/ID` and the right to act as a
//! client. Reading proves nothing by itself: TLS has checked the chain before, and the record in the store
//! says whether this key still counts ([`super::Enrolment::admit`]).

use proto::{AgentId, EnvironmentName, Fingerprint, Name};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// An agent, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    pub environment: EnvironmentName,
    pub agent: AgentId,
    pub name: Name,
    /// Of the certificate's key.
    pub fingerprint: Fingerprint,
    pub validity: Validity,
}

/// From when to when a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// Why a certificate names no agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate is not for a client: it is another role's")]
    NotClient,
    #[error("the certificate names no agent, or something beside it")]
    NoAgent,
}

impl AgentIdentity {
    /// Reads a certificate whose chain has been verified.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let Ok(([], read)) = X509Certificate::from_der(certificate) else {
            return Err(IdentityError::Unreadable);
        };
        let usage = read.extended_key_usage().map_err(|_| IdentityError::Unreadable)?;
        if !usage.is_some_and(|usage| usage.value.client_auth) || read.is_ca() {
            return Err(IdentityError::NotClient);
        }
        let names = read.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let [GeneralName::URI(uri)] = names else { return Err(IdentityError::NoAgent) };
        let (environment, agent) = parse_uri(uri).ok_or(IdentityError::NoAgent)?;
        let mut common_names = read.subject().iter_common_name();
        let name = match (common_names.next(), common_names.next()) {
            (Some(name), None) => name.as_str().ok().and_then(|name| name.parse().ok()),
            _ => None,
        };
        let name = name.ok_or(IdentityError::NoAgent)?;
        let fingerprint = fingerprint_of_spki(read.tbs_certificate.subject_pki.raw);
        let validity = Validity {
            not_before: read.validity().not_before.to_datetime(),
            not_after: read.validity().not_after.to_datetime(),
        };
        Ok(Self { environment, agent, name, fingerprint, validity })
    }
}

impl Validity {
    /// From here on something keeps the certificate from being renewed: that is tried from two thirds of its life
    /// on, and only a sixth is left.
    pub fn expiring_from(&self) -> OffsetDateTime {
        self.not_after - (self.not_after - self.not_before) / 6
    }
}

/// SHA-256 of an encoded SubjectPublicKeyInfo.
pub(super) fn fingerprint_of_spki(der: &[u8]) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(der).into())
}

fn parse_uri(uri: &str) -> Option<(EnvironmentName, AgentId)> {
    let (environment, agent) = uri.strip_prefix("postern://")?.split_once("/agent/")?;
    Some((environment.parse().ok()?, agent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, KeyPair, SanType};

    use super::*;

    const URI: &str = "postern://default/agent/00112233445566778899aabbccddeeff";

    #[test]
    fn an_agents_certificate_names_it() {
        let identity = read(&[uri(URI)], &[Usage::ClientAuth, Usage::ServerAuth], "gw-a").unwrap();
        assert_eq!(identity.environment.as_str(), "default");
        assert_eq!(identity.agent.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(identity.name.as_str(), "gw-a");
    }

    #[test]
    fn a_server_certificate_is_nobodys_identity() {
        let server = read(&[dns("central.example")], &[Usage::ServerAuth], "postern-central");
        assert_eq!(server, Err(IdentityError::NotClient));
        let named_like_an_agent = read(&[uri(URI)], &[Usage::ServerAuth], "gw-a");
        assert_eq!(named_like_an_agent, Err(IdentityError::NotClient));
        assert_eq!(read(&[uri(URI)], &[], "gw-a"), Err(IdentityError::NotClient));
    }

    #[test]
    fn a_certificate_with_two_meanings_is_refused() {
        for names in [
            vec![],
            vec![dns("gw-a")],
            vec![uri(URI), dns("central.example")],
            vec![uri(URI), uri("postern://other/agent/00112233445566778899aabbccddeeff")],
        ] {
            assert_eq!(read(&names, &[Usage::ClientAuth], "gw-a"), Err(IdentityError::NoAgent));
        }
    }

    #[test]
    fn the_uri_is_taken_literally() {
        for odd in [
            "postern://default/agent/00112233445566778899aabbccddeef",
            "postern://default/agent/00112233445566778899aabbccddeeff/x",
            "postern://default/central/00112233445566778899aabbccddeeff",
            "postern:///agent/00112233445566778899aabbccddeeff",
            "postern://a%2fb/agent/00112233445566778899aabbccddeeff",
            "https://default/agent/00112233445566778899aabbccddeeff",
        ] {
            assert_eq!(read(&[uri(odd)], &[Usage::ClientAuth], "gw-a"), Err(IdentityError::NoAgent), "{odd}");
        }
        assert_eq!(read(&[uri(URI)], &[Usage::ClientAuth], "gw/a"), Err(IdentityError::NoAgent));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_unreadable() {
        assert_eq!(AgentIdentity::read(&vec![0; 64].into()), Err(IdentityError::Unreadable));
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn read(names: &[SanType], usages: &[Usage], common_name: &str) -> Result<AgentIdentity, IdentityError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = usages.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        AgentIdentity::read(certificate.der())
    }
}
