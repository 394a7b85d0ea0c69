//! Enrolment: a one-time token becomes a key and a certificate of this host.
//!
//! The key never leaves the host: central sees a signed request for it. The token travels only
//! inside TLS with a server that the CA file vouches for; an impostor gets none of its bytes.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use proto::{
    Name,
    hello::{ENROLL_PATH, EnrollRequest, Enrolled},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;

use super::{
    Identity, IdentityError, Inconsistent,
    central::CentralUrl,
    certificates,
    exchange::{ExchangeError, post},
    segments::Segments,
    tls,
};
use crate::{
    config::Config,
    data_dir::{DataDir, DataDirError, read_bounded, replace_file},
    proxy::Proxy,
};
use program::explain;

/// A token is some 50 characters; a file much longer is another file.
const TOKEN_BYTES_MAX: u64 = 1024;
/// A few CA certificates.
const CA_BYTES_MAX: u64 = 256 * 1024;

/// What `postern-agent enroll` was asked for.
#[derive(Debug)]
pub struct Enrolment {
    pub central: CentralUrl,
    /// Through which proxy central is reached; `None`: directly.
    pub proxy: Option<Proxy>,
    pub token: Token,
    pub ca_file: PathBuf,
    /// The Process Server's name; this host's name when `None`.
    pub name: Option<Name>,
    /// Enrol although an identity exists: it is replaced.
    pub replace: bool,
}

/// A one-time token. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads a token from a file, or from standard input when the path is `-`.
    pub fn read(path: &Path) -> Result<Self, EnrollError> {
        let failed = |source| EnrollError::Token { path: path.to_owned(), source };
        let bytes = if path == Path::new("-") {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(io::stdin().lock(), TOKEN_BYTES_MAX), &mut bytes)
                .map_err(failed)?;
            bytes
        } else {
            read_bounded(path, TOKEN_BYTES_MAX).map_err(failed)?
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let token = text.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it does not hold one token")));
        }
        Ok(Self(token.to_owned()))
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why this host was not enrolled. Nothing on disk has changed unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error(
        "this host is already enrolled in {data_dir} as {name}; pass --replace to enrol it anew as another agent, \
         or choose another --data-dir"
    )]
    AlreadyEnrolled { data_dir: PathBuf, name: String },
    #[error("cannot read the enrolment token from {path}")]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot read the CA file {path}")]
    CaFile { path: PathBuf, source: io::Error },
    #[error("the CA file {path} cannot be used")]
    Ca { path: PathBuf, source: Inconsistent },
    #[error("this host's name {host:?} cannot name a Process Server ({problem}); pass --name NAME")]
    HostName { host: String, problem: String },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    #[error("enrolment failed; with the token not yet used the same command may be repeated")]
    Exchange(#[source] Box<ExchangeError>),
    #[error("central's answer cannot be used: {problem}")]
    Answer { problem: String },
    #[error("the certificate was received but not kept; the token is used up, create a new one")]
    Persist(#[source] IdentityError),
}

/// Enrols this host and keeps the new identity in the data directory.
pub async fn enroll(enrolment: Enrolment, data_dir: &DataDir) -> Result<Identity, EnrollError> {
    if Identity::exists(data_dir.path()) && !enrolment.replace {
        let name = Identity::load(data_dir).map_or_else(
            |_| "an agent whose files are damaged".to_owned(),
            |identity| identity.name.to_string(),
        );
        return Err(EnrollError::AlreadyEnrolled { data_dir: data_dir.path().to_owned(), name });
    }
    let ca_file = &enrolment.ca_file;
    let ca_pem = read_bounded(ca_file, CA_BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
        .map_err(|source| EnrollError::CaFile { path: ca_file.clone(), source })?;
    let unusable = |source| EnrollError::Ca { path: ca_file.clone(), source };
    let pinned = certificates(&ca_pem, "CA file").map_err(unusable)?;
    let tls = tls::anonymous_client(&pinned).map_err(|e| unusable(Inconsistent::Tls(e)))?;
    let name = match enrolment.name {
        Some(name) => name,
        None => name_of_this_host()?,
    };

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrollError::Key)?;
    let request = EnrollRequest {
        token: enrolment.token.0,
        name: name.clone(),
        csr_pem: signing_request(&key).map_err(EnrollError::Key)?,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        unix_ms: unix_ms(),
    };
    let (proxy, line) = (enrolment.proxy.as_ref(), Segments::default().line());
    let answer: Enrolled = post(&enrolment.central, proxy, tls.into(), &line, ENROLL_PATH, &request)
        .await
        .map_err(|e| EnrollError::Exchange(Box::new(e)))?;

    let identity = accept(answer, key, enrolment.central, &pinned, ca_file)
        .map_err(|problem| EnrollError::Answer { problem })?;
    identity.persist(data_dir).map_err(EnrollError::Persist)?;
    Ok(identity)
}

/// Makes an identity of what central answered to a request with `key`, if it is this agent's, and vouched for by the
/// authorities `pinned` in `ca_file` and by those it came with. Otherwise what is wrong with it.
pub fn accept(
    answer: Enrolled,
    key: KeyPair,
    central: CentralUrl,
    pinned: &[CertificateDer<'static>],
    ca_file: &Path,
) -> Result<Identity, String> {
    let identity = Identity::from_parts(answer.name, central, key, answer.certificate_pem, answer.ca_pem)
        .map_err(|e| explain(&e))?;
    if !tls::vouched_for(&identity.chain, pinned) {
        return Err(format!("no CA in {} vouches for its certificate", ca_file.display()));
    }
    if !tls::vouched_for(&identity.chain, &identity.ca) {
        return Err("none of its own CAs vouches for its certificate".to_owned());
    }
    if (identity.agent, &identity.environment) != (answer.agent, &answer.environment) {
        return Err("its certificate names another agent than the answer".to_owned());
    }
    Ok(identity)
}

/// `postern-agent enroll`: takes the folder's lock, enrols, and says as whom, and what `run` with this configuration
/// needs to take the same way to central.
pub async fn command(
    enrolment: Enrolment,
    data_dir: &Path,
    config: Option<&Path>,
) -> Result<String, EnrollError> {
    let data_dir = DataDir::open(data_dir)?;
    let proxy = enrolment.proxy.clone();
    let identity = enroll(enrolment, &data_dir).await?;
    let way = proxy.map(|proxy| keep_way(&proxy, &data_dir, config)).unwrap_or_default();
    let with = config.map(|config| format!(" --config {}", config.display())).unwrap_or_default();
    Ok(format!(
        "Enrolled as {} in environment {} (agent {}, key fingerprint {}).\n{way}Start it with: postern-agent run --data-dir {}{with}",
        identity.name,
        identity.environment,
        identity.agent,
        identity.fingerprint,
        data_dir.path().display(),
    ))
}

/// Sees to it that the agent will go through this proxy. A file that somebody wrote is not touched: what to put into
/// it is said.
fn keep_way(proxy: &Proxy, data_dir: &DataDir, config: Option<&Path>) -> String {
    if Config::load(data_dir.path(), config).is_ok_and(|config| config.proxy.as_ref() == Some(proxy)) {
        return String::new();
    }
    let path = config.map_or_else(|| data_dir.join("agent.toml"), Path::to_owned);
    let lines = proxy.in_toml();
    let is_new = config.is_none() && !path.exists() && replace_file(&path, lines.as_bytes()).is_ok();
    match is_new {
        true => format!("The proxy is set in {}.\n", path.display()),
        false => {
            format!("For it to run through this proxy, put into {}:\n\n{lines}\n", path.display())
        }
    }
}

/// A request for a certificate of this key. It asks for no name: central's books decide.
pub(super) fn signing_request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key)?.pem()
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn name_of_this_host() -> Result<Name, EnrollError> {
    let host = host_name();
    host.parse().map_err(|e: proto::ids::NameError| EnrollError::HostName { host, problem: e.to_string() })
}

/// What this host calls itself, empty if nothing is known.
pub fn host_name() -> String {
    #[cfg(windows)]
    let name = std::env::var("COMPUTERNAME");
    #[cfg(not(windows))]
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}
