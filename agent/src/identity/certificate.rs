//! What an agent's certificate says: which agent of which Environment, whose key, from when to when.
//!
//! The name stands in a URI (`postern://ENVIRONMENT/agent/ID`), so that no host name, common
//! name or certificate of another role can be taken for an agent.

use std::time::{Duration, SystemTime};

use proto::{AgentId, EnvironmentName, Fingerprint};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

/// What was read from a certificate. Reading proves nothing: who signed it is `tls`'s question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    pub environment: EnvironmentName,
    pub agent: AgentId,
    pub fingerprint: Fingerprint,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Why a certificate is not an agent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("it is not a readable X.509 certificate")]
    Unreadable,
    #[error("it names no agent: its alternative names lack one URI postern://ENVIRONMENT/agent/ID")]
    NoAgent,
    #[error("it names more than one agent")]
    SeveralAgents,
}

impl AgentCertificate {
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateProblem> {
        let certificate = parse(der)?;
        let mut names = uris(&certificate).filter_map(parse_agent_uri);
        let (environment, agent) = names.next().ok_or(CertificateProblem::NoAgent)?;
        if names.next().is_some() {
            return Err(CertificateProblem::SeveralAgents);
        }
        Ok(Self {
            environment,
            agent,
            fingerprint: fingerprint_of_spki(certificate.tbs_certificate.subject_pki.raw),
            not_before: system_time(certificate.validity().not_before.timestamp()),
            not_after: system_time(certificate.validity().not_after.timestamp()),
        })
    }
}

/// The name agents carry in their certificates.
pub fn agent_uri(environment: &EnvironmentName, agent: AgentId) -> String {
    format!("postern://{environment}/agent/{agent}")
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub fn fingerprint(der: &CertificateDer<'_>) -> Result<Fingerprint, CertificateProblem> {
    Ok(fingerprint_of_spki(parse(der)?.tbs_certificate.subject_pki.raw))
}

/// SHA-256 of an encoded SubjectPublicKeyInfo.
pub fn fingerprint_of_spki(spki_der: &[u8]) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(spki_der).into())
}

/// How a certificate's subject and issuer read, for messages to people.
pub fn subject_and_issuer(der: &CertificateDer<'_>) -> Option<(String, String)> {
    let certificate = parse(der).ok()?;
    Some((printable(&certificate.subject().to_string()), printable(&certificate.issuer().to_string())))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateProblem> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateProblem::Unreadable),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a str> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
}

fn parse_agent_uri(uri: &str) -> Option<(EnvironmentName, AgentId)> {
    let (environment, agent) = uri.strip_prefix("postern://")?.split_once("/agent/")?;
    Some((environment.parse().ok()?, agent.parse().ok()?))
}

fn system_time(unix_seconds: i64) -> SystemTime {
    match u64::try_from(unix_seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// A stranger's certificate may say anything; a terminal must not obey it.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_ca::TestCa;

    #[test]
    fn an_agents_certificate_names_environment_agent_and_key() {
        let ca = TestCa::new("acme");
        let agent = AgentId::random();
        let issued = ca.agent(agent);

        let read = AgentCertificate::read(&issued.chain[0]).unwrap();

        assert_eq!((read.environment.as_str(), read.agent), ("acme", agent));
        assert_eq!(read.fingerprint, fingerprint(&issued.chain[0]).unwrap());
        assert!(read.not_before < read.not_after);
    }

    #[test]
    fn a_servers_certificate_is_no_agents() {
        let ca = TestCa::new("acme");
        let server = ca.server("central.example");
        assert_eq!(AgentCertificate::read(&server.chain[0]), Err(CertificateProblem::NoAgent));
    }

    #[test]
    fn two_names_in_one_certificate_are_one_too_many() {
        let ca = TestCa::new("acme");
        let both = ca.with_uris(&[
            &agent_uri(&"acme".parse().unwrap(), AgentId::random()),
            &agent_uri(&"acme".parse().unwrap(), AgentId::random()),
        ]);
        assert_eq!(AgentCertificate::read(&both.chain[0]), Err(CertificateProblem::SeveralAgents));
    }

    #[test]
    fn a_uri_that_is_only_nearly_an_agents_name_is_none() {
        for uri in [
            "postern://acme/agent/",
            "postern:///agent/00112233445566778899aabbccddeeff",
            "postern://acme/central/00112233445566778899aabbccddeeff",
            "https://acme/agent/00112233445566778899aabbccddeeff",
            "postern://acme/agent/00112233445566778899aabbccddeeff/x",
        ] {
            assert_eq!(parse_agent_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let noise = CertificateDer::from(vec![0x30, 0x82, 0xff]);
        assert_eq!(AgentCertificate::read(&noise), Err(CertificateProblem::Unreadable));
    }
}
