//! A certificate authority for tests: issues what central would, and what it never would.

use std::sync::Arc;

use proto::{AgentId, EnvironmentName};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::{Identity, certificate::agent_uri};

pub(crate) struct TestCa {
    pub(crate) environment: EnvironmentName,
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Issued {
    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl TestCa {
    pub(crate) fn new(environment: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test CA of {environment}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            environment: environment.parse().unwrap(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn agent(&self, agent: AgentId) -> Issued {
        self.with_uris(&[&agent_uri(&self.environment, agent)])
    }

    pub(crate) fn identity(&self, agent: AgentId) -> Arc<Identity> {
        let issued = self.agent(agent);
        Arc::new(
            Identity::assemble(
                "gw".parse().unwrap(),
                "https://localhost".parse().unwrap(),
                &issued.key.serialize_pem(),
                &issued.pem,
                &self.pem,
            )
            .unwrap(),
        )
    }

    pub(crate) fn with_uris(&self, uris: &[&str]) -> Issued {
        let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        self.issue(names, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub(crate) fn server(&self, host: &str) -> Issued {
        let names = CertificateParams::new([host.to_owned()]).unwrap().subject_alt_names;
        self.issue(names, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    /// Signs a request as central would: the key from the request, the name from the CA's books.
    pub(crate) fn sign_request(&self, csr_pem: &str, agent: AgentId) -> String {
        let request = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let uri = agent_uri(&self.environment, agent);
        let params = leaf(vec![SanType::URI(uri.as_str().try_into().unwrap())]);
        params.signed_by(&request.public_key, &self.issuer).unwrap().pem()
    }

    /// This CA's word for another: its name and key, signed by this one.
    pub(crate) fn bridge_to(&self, next: &TestCa) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test CA of {}", next.environment));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.signed_by(next.issuer.key(), &self.issuer).unwrap().pem()
    }

    fn issue(&self, names: Vec<SanType>, key: KeyPair) -> Issued {
        let certificate = leaf(names).signed_by(&key, &self.issuer).unwrap();
        Issued { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }
}

fn leaf(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(23);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}
