//! Who this agent is: its key, the certificate central gave it, and the CA it trusts.
//!
//! ```text
//!   enroll ──► persist ──► Identity ──► renew at 2/3 of its life ──► persist ──► Identity …
//! ```
//!
//! The key stays the same for the life of an enrolment: peers and `peers.approved` know an agent by
//! its key's fingerprint. Renewal replaces the certificate; a new key is a new enrolment.
//!
//! On disk, in `DATA_DIR/identity/`: `key.pem`, `cert.pem`, `ca.pem`, and `identity.json`, which is
//! written last and removed first: with it the agent is enrolled, without it it is not.

pub mod central;
pub mod certificate;
pub mod enroll;
pub mod exchange;
pub mod renew;
pub mod segments;
#[cfg(test)]
pub(crate) mod test_ca;
#[cfg(test)]
mod tests;
pub mod tls;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use proto::{AgentId, EnvironmentName, Fingerprint, Name};
use rcgen::KeyPair;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};

use self::{
    central::CentralUrl,
    certificate::{AgentCertificate, CertificateProblem, fingerprint_of_spki},
    segments::Segments,
};
use crate::{
    data_dir::{DataDir, create_private_dir, read_bounded, replace_file, sync_folder},
    proxy::Proxy,
};

/// A chain of a few certificates fits many times over.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A complete, consistent identity: the key belongs to the certificate, the certificate names the agent.
pub struct Identity {
    pub agent: AgentId,
    pub name: Name,
    pub environment: EnvironmentName,
    pub central: CentralUrl,
    pub fingerprint: Fingerprint,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// This agent's certificate and what stands between it and the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate authorities this agent trusts, and no others.
    pub ca: Vec<CertificateDer<'static>>,
    /// How this agent talks TLS to central.
    pub tls: Arc<ClientConfig>,
    /// Through which proxy central is reached; `None`: directly.
    pub proxy: Option<Proxy>,
    /// What is known of the path to central since this identity was taken up.
    pub segments: Segments,
    key: KeyPair,
    certificate_pem: String,
    ca_pem: String,
}

/// What `identity.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    agent: AgentId,
    name: Name,
    environment: EnvironmentName,
    central: CentralUrl,
    fingerprint: Fingerprint,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "this agent is not enrolled ({path} is missing): run 'postern-agent enroll --central URL --token-file FILE \
         --ca-cert FILE --data-dir {data_dir}' with a token from central"
    )]
    NotEnrolled { path: PathBuf, data_dir: PathBuf },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {problem}; enrol this agent again with 'postern-agent enroll --replace'")]
    Damaged { path: PathBuf, problem: String },
    #[error("the identity is not consistent")]
    Inconsistent(#[from] Inconsistent),
}

/// Why key, certificate and CA do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum Inconsistent {
    #[error("the key is not a readable PKCS#8 key")]
    Key(#[source] rcgen::Error),
    #[error("the certificate is not usable")]
    Certificate(#[from] CertificateProblem),
    #[error("the {what} holds no readable PEM certificate")]
    Pem { what: &'static str },
    #[error("the certificate belongs to another key")]
    OtherKey,
    #[error("TLS refuses this key, certificate or CA")]
    Tls(#[source] rustls::Error),
}

impl Identity {
    /// Puts an identity together from its parts and checks that they belong to each other.
    pub fn assemble(
        name: Name,
        central: CentralUrl,
        key_pem: &str,
        certificate_pem: &str,
        ca_pem: &str,
    ) -> Result<Self, Inconsistent> {
        let key = KeyPair::from_pem(key_pem).map_err(Inconsistent::Key)?;
        Self::from_parts(name, central, key, certificate_pem.to_owned(), ca_pem.to_owned())
    }

    fn from_parts(
        name: Name,
        central: CentralUrl,
        key: KeyPair,
        certificate_pem: String,
        ca_pem: String,
    ) -> Result<Self, Inconsistent> {
        let chain = certificates(&certificate_pem, "certificate")?;
        let ca = certificates(&ca_pem, "CA file")?;
        let leaf = AgentCertificate::read(&chain[0])?;
        if leaf.fingerprint != fingerprint_of(&key) {
            return Err(Inconsistent::OtherKey);
        }
        let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let tls = tls::agent_client(&ca, chain.clone(), private).map_err(Inconsistent::Tls)?;
        Ok(Self {
            agent: leaf.agent,
            name,
            environment: leaf.environment,
            central,
            fingerprint: leaf.fingerprint,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            chain,
            ca,
            tls: Arc::new(tls),
            proxy: None,
            segments: Segments::default(),
            key,
            certificate_pem,
            ca_pem,
        })
    }

    /// The same agent and key under a younger certificate.
    fn with_certificate(&self, certificate_pem: String, ca_pem: String) -> Result<Self, Inconsistent> {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).map_err(Inconsistent::Key)?;
        let renewed =
            Self::from_parts(self.name.clone(), self.central.clone(), key, certificate_pem, ca_pem)?;
        Ok(renewed.through(self.proxy.clone()))
    }

    /// The same, which reaches central through this proxy. It is a setting and not part of what is on disk.
    pub fn through(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Reads the identity of an enrolled agent.
    pub fn load(data_dir: &DataDir) -> Result<Self, IdentityError> {
        Self::read(data_dir.path())
    }

    /// As [`load`](Self::load), for those who only look on while an agent may be running there.
    pub fn read(data_dir: &Path) -> Result<Self, IdentityError> {
        let file = |name: &str| folder(data_dir).join(name);
        let record_path = file("identity.json");
        let record = match read_text(&record_path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::NotEnrolled { path: record_path, data_dir: data_dir.to_owned() });
            }
            text => text?,
        };
        let record: Record = serde_json::from_str(&record)
            .map_err(|e| IdentityError::Damaged { path: record_path.clone(), problem: e.to_string() })?;
        let identity = Self::assemble(
            record.name,
            record.central,
            &read_text(&file("key.pem"))?,
            &read_text(&file("cert.pem"))?,
            &read_text(&file("ca.pem"))?,
        )?;
        let told = (record.agent, &record.environment, record.fingerprint);
        if told != (identity.agent, &identity.environment, identity.fingerprint) {
            return Err(IdentityError::Damaged {
                path: record_path,
                problem: "it tells of another agent than key.pem and cert.pem".to_owned(),
            });
        }
        Ok(identity)
    }

    /// Whether an enrolled agent lives in this folder.
    pub fn exists(data_dir: &Path) -> bool {
        folder(data_dir).join("identity.json").exists()
    }

    /// Writes a whole new identity. A crash leaves the old one (nothing touched yet), none, or the new one.
    fn persist(&self, data_dir: &DataDir) -> Result<(), IdentityError> {
        let folder = folder(data_dir.path());
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { action, path, source }
        };
        create_private_dir(&folder).map_err(failed("create", &folder))?;
        let record_path = folder.join("identity.json");
        match fs::remove_file(&record_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &record_path)(error));
            }
            _ => sync_folder(&folder).map_err(failed("write", &folder))?,
        }
        let record = Record {
            agent: self.agent,
            name: self.name.clone(),
            environment: self.environment.clone(),
            central: self.central.clone(),
            fingerprint: self.fingerprint,
        };
        let record = serde_json::to_string_pretty(&record)
            .map_err(|e| IdentityError::Damaged { path: record_path.clone(), problem: e.to_string() })?;
        let files = [
            ("key.pem", self.key.serialize_pem()),
            ("cert.pem", self.certificate_pem.clone()),
            ("ca.pem", self.ca_pem.clone()),
            ("identity.json", record),
        ];
        files.iter().try_for_each(|(name, content)| {
            let path = folder.join(name);
            replace_file(&path, content.as_bytes()).map_err(failed("write", &path))
        })
    }

    /// Writes what a renewal changed. Each file is good with the old or the new other one.
    fn persist_renewed(&self, data_dir: &DataDir) -> Result<(), IdentityError> {
        [("ca.pem", &self.ca_pem), ("cert.pem", &self.certificate_pem)].iter().try_for_each(
            |(name, content)| {
                let path = folder(data_dir.path()).join(name);
                replace_file(&path, content.as_bytes()).map_err(|source| IdentityError::Io {
                    action: "write",
                    path,
                    source,
                })
            },
        )
    }

    /// The private key, for a TLS configuration.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("agent", &self.agent)
            .field("name", &self.name)
            .field("environment", &self.environment)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

fn read_text(path: &Path) -> Result<String, IdentityError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|source| IdentityError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes)
        .map_err(|_| IdentityError::Damaged { path: path.to_owned(), problem: "it is not text".to_owned() })
}

/// At least one certificate, or an error.
fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Inconsistent> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err(Inconsistent::Pem { what }),
    }
}

fn fingerprint_of(key: &KeyPair) -> Fingerprint {
    use rcgen::PublicKeyData;
    fingerprint_of_spki(&key.subject_public_key_info())
}
