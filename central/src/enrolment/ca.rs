//! Central's own certificate authority: the one trust anchor of its agents and users.
//!
//! ```text
//!   DATA_DIR/ca/ca-key.pem      the CA's key and certificate, 0600      signs
//!   DATA_DIR/ca/server.pem      central's TLS key and certificate, 0600   ├──► server leaf: serverAuth, names
//!   DATA_DIR/ca.pem             the CA's certificate, for users           └──► agent leaves: both, one URI
//! ```
//!
//! A server leaf has no `postern:` URI and no clientAuth; an agent leaf has no host name. So neither can be
//! taken for the other, whatever checks the chain alone.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use proto::{AgentId, EnvironmentName, Fingerprint, Name};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};

use super::{
    identity::{AgentIdentity, fingerprint_of_spki},
    secret_file,
};

/// How long an agent's certificate lives; it is renewed at two thirds.
pub const AGENT_LIFE: Duration = Duration::hours(24);
/// How long central's own server certificate lives.
const SERVER_LIFE: Duration = Duration::days(365);
/// Long enough that nobody meets its end by surprise; every agent pins it.
const CA_LIFE: Duration = Duration::days(20 * 365);
/// Certificates begin this long ago: clocks differ, and central lets agents' differ by five minutes.
const BACKDATED: Duration = Duration::minutes(10);
/// The largest request for a certificate, in bytes of PEM. One with a P-256 key has about 500.
const CSR_BYTES_MAX: usize = 8 * 1024;
/// An uncompressed P-256 point.
const P256_POINT_BYTES: usize = 65;

/// Why the CA could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{path} could not be read or written")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is there but the CA's key in {key} is not: restore it from a backup. Without it every agent \
         would have to enrol anew; to begin anew on purpose, remove {path} too"
    )]
    KeyGone { path: PathBuf, key: PathBuf },
    #[error("{path} may be read by other users: chmod 600 it")]
    Open { path: PathBuf },
    #[error("{path} does not hold a key and its certificate: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why a request for a certificate was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate request is larger than {CSR_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the certificate request cannot be read, or its signature does not prove possession of the key")]
    Unproved,
    #[error("the certificate request's key is not ECDSA P-256")]
    KeyType,
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// An agent's new certificate.
#[derive(Debug, Clone)]
pub struct AgentCertificate {
    pub pem: String,
    pub fingerprint: Fingerprint,
    pub not_after: OffsetDateTime,
}

/// Central's certificate authority and its own server certificate.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    certificate_path: PathBuf,
    server_path: PathBuf,
    names: Vec<String>,
    server: RwLock<Server>,
}

/// Central's TLS key with its certificate, and when to make the next.
struct Server {
    key: Arc<CertifiedKey>,
    renew_at: OffsetDateTime,
}

/// When a certificate ends. One of our own making can be read; if not, it counts as ended.
fn end_of(certificate: &CertificateDer<'_>) -> OffsetDateTime {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate)
        .map_or(OffsetDateTime::UNIX_EPOCH, |(_, read)| read.validity().not_after.to_datetime())
}

impl Ca {
    /// Opens the CA in `data_dir`, or founds it where there is none, and sees to a server certificate for
    /// `names` (host names and addresses) beside `localhost`, `127.0.0.1` and `::1`.
    pub fn open(data_dir: &Path, names: &[String], now: OffsetDateTime) -> Result<Self, CaError> {
        let folder = data_dir.join("ca");
        secret_file::create_folder(&folder).map_err(io_at(&folder))?;
        let key_path = folder.join("ca-key.pem");
        let certificate_path = data_dir.join("ca.pem");
        if !exists(&key_path)? {
            if exists(&certificate_path)? {
                return Err(CaError::KeyGone { path: certificate_path, key: key_path });
            }
            found(&key_path, now)?;
        }
        let (key, certificate) = read_pair(&key_path)?;
        let certificate_pem = pem_of(&certificate);
        if fs::read(&certificate_path).ok().as_deref() != Some(certificate_pem.as_bytes()) {
            secret_file::write_public(&certificate_path, certificate_pem.as_bytes())
                .map_err(io_at(&certificate_path))?;
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let names = with_local_names(names);
        let server_path = folder.join("server.pem");
        let server = server(&server_path, &issuer, &names, now)?;
        Ok(Self {
            issuer,
            certificate,
            certificate_pem,
            certificate_path,
            server_path,
            names,
            server: RwLock::new(server),
        })
    }

    /// The CA's certificate, PEM: what agents and users pin.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Where users find [`Self::certificate_pem`].
    pub fn certificate_path(&self) -> &Path {
        &self.certificate_path
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Central's present server key and certificate.
    pub fn server_key(&self) -> Arc<CertifiedKey> {
        // Only ever replaced whole, so a panic elsewhere left nothing half-done.
        self.server.read().unwrap_or_else(PoisonError::into_inner).key.clone()
    }

    /// When central's own certificates end, by purpose.
    pub fn expiries(&self) -> [(&'static str, OffsetDateTime); 2] {
        let key = self.server_key();
        let server = key.cert.first().map_or(OffsetDateTime::UNIX_EPOCH, end_of);
        [("authority", end_of(&self.certificate)), ("server", server)]
    }

    /// Makes a new server certificate when two thirds of the present one's life are over. New connections get
    /// it; to be called now and then, once a day is plenty. Says whether it was renewed.
    pub fn renew_server(&self, now: OffsetDateTime) -> Result<bool, CaError> {
        if now < self.server.read().unwrap_or_else(PoisonError::into_inner).renew_at {
            return Ok(false);
        }
        let renewed = server(&self.server_path, &self.issuer, &self.names, now)?;
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(true)
    }

    /// Whom a certificate of this CA names and when it ends, whether or not that is over. It proves nothing
    /// about whoever sent it: certificates are no secret.
    pub fn read_agent(&self, certificate_pem: &str) -> Option<(AgentIdentity, OffsetDateTime)> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        if certificate_pem.len() > CSR_BYTES_MAX {
            return None;
        }
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (rest, read) = X509Certificate::from_der(&certificate).ok()?;
        let key = self.issuer.key().subject_public_key_info();
        let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&key).ok()?;
        if !rest.is_empty() || read.verify_signature(Some(&key)).is_err() {
            return None;
        }
        Some((AgentIdentity::read(&certificate).ok()?, read.validity().not_after.to_datetime()))
    }

    /// A certificate for the key in `csr_pem`. Only the key is taken from the request; every name comes from
    /// central's own books.
    pub fn certify_agent(
        &self,
        csr_pem: &str,
        environment: &EnvironmentName,
        agent: AgentId,
        name: &Name,
        now: OffsetDateTime,
    ) -> Result<AgentCertificate, CsrError> {
        if csr_pem.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge);
        }
        // `from_pem` verifies the request's own signature.
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| CsrError::Unproved)?;
        let key = request.public_key;
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT_BYTES {
            return Err(CsrError::KeyType);
        }
        let uri = format!("postern://{environment}/agent/{agent}");
        let mut params = leaf(name.as_str(), now, AGENT_LIFE);
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        // Agents serve each other inside the network, so they need both.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let not_after = params.not_after;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let fingerprint = fingerprint_of_spki(&key.subject_public_key_info());
        Ok(AgentCertificate { pem: certificate.pem(), fingerprint, not_after })
    }
}

/// Makes the CA's key and certificate and puts both into one file: either both are there or none.
fn found(path: &Path, now: OffsetDateTime) -> Result<(), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    // Part of the name, so that two centrals' authorities are told apart in messages.
    let tag: u32 = rand::random();
    params.distinguished_name = named(&format!("Postern CA {tag:08x}"));
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATED;
    params.not_after = now + CA_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?;
    write_pair(path, &key, &certificate.pem())
}

/// The server certificate in `path`, or a new one when that one is missing, old, or names something else.
fn server(
    path: &Path,
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Server, CaError> {
    if exists(path)? {
        let (key, certificate) = read_pair(path)?;
        if let Some(renew_at) = still_good(&certificate, issuer, names, now) {
            return certified(path, &key, certificate, renew_at);
        }
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = leaf("postern-central", now, SERVER_LIFE);
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => name.as_str().try_into().map(SanType::DnsName),
        })
        .collect::<Result<_, _>>()?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let renew_at = renewal(params.not_before, params.not_after);
    let certificate = params.signed_by(&key, issuer)?;
    write_pair(path, &key, &certificate.pem())?;
    certified(path, &key, certificate.der().clone(), renew_at)
}

fn certified(
    path: &Path,
    key: &KeyPair,
    certificate: CertificateDer<'static>,
    renew_at: OffsetDateTime,
) -> Result<Server, CaError> {
    let damaged = |error: rustls::Error| CaError::Damaged { path: path.into(), reason: error.to_string() };
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = CertifiedKey::new(vec![certificate], any_ecdsa_type(&der).map_err(damaged)?);
    key.keys_match().map_err(damaged)?;
    Ok(Server { key: Arc::new(key), renew_at })
}

/// When to renew this server certificate; `None` if another is needed at once.
fn still_good(
    certificate: &CertificateDer<'_>,
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let ours = x509_parser::x509::SubjectPublicKeyInfo::from_der(&issuer.key().subject_public_key_info())
        .is_ok_and(|(_, key)| read.verify_signature(Some(&key)).is_ok());
    let san = read.subject_alternative_name().ok()??;
    let mut written: Vec<String> = san
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect();
    let mut wanted = names.to_vec();
    written.sort();
    wanted.sort();
    let renew_at = renewal(read.validity().not_before.to_datetime(), read.validity().not_after.to_datetime());
    (ours && written == wanted && now < renew_at).then_some(renew_at)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Two thirds of a certificate's life.
fn renewal(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    not_before + (not_after - not_before) * 2 / 3
}

fn leaf(common_name: &str, now: OffsetDateTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// 127 random bits: positive, and never twice.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

/// The names a server certificate always has, and the configured ones, each once, addresses in one spelling.
fn with_local_names(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in names {
        let name = match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn write_pair(path: &Path, key: &KeyPair, certificate_pem: &str) -> Result<(), CaError> {
    let content = format!("{}{certificate_pem}", key.serialize_pem());
    secret_file::write(path, content.as_bytes()).map_err(io_at(path))
}

fn read_pair(path: &Path) -> Result<(KeyPair, CertificateDer<'static>), CaError> {
    if secret_file::is_open_to_others(path).map_err(io_at(path))? {
        return Err(CaError::Open { path: path.into() });
    }
    let damaged = |reason: String| CaError::Damaged { path: path.into(), reason };
    let content = fs::read(path).map_err(io_at(path))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&content).map_err(|error| damaged(error.to_string()))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
        .map_err(|error| damaged(error.to_string()))?;
    let certificate = CertificateDer::from_pem_slice(&content).map_err(|error| damaged(error.to_string()))?;
    Ok((key, certificate))
}

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(io_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    |source| CaError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_and_its_server_certificate_are_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::open(folder.path(), &names(), now()).unwrap();
        let second = Ca::open(folder.path(), &names(), now()).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert_eq!(first.server_key().cert, second.server_key().cert);
        assert_eq!(fs::read_to_string(first.certificate_path()).unwrap(), first.certificate_pem());
    }

    #[cfg(unix)]
    #[test]
    fn private_keys_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Ca::open(folder.path(), &names(), now()).unwrap();
        for file in ["ca/ca-key.pem", "ca/server.pem"] {
            let path = folder.path().join(file);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        let key = folder.path().join("ca/ca-key.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Ca::open(folder.path(), &names(), now());
        assert!(matches!(refused, Err(CaError::Open { path }) if path == key));
    }

    #[test]
    fn a_lost_key_is_not_replaced_silently() {
        let folder = tempfile::tempdir().unwrap();
        Ca::open(folder.path(), &names(), now()).unwrap();
        fs::remove_file(folder.path().join("ca/ca-key.pem")).unwrap();
        assert!(matches!(Ca::open(folder.path(), &names(), now()), Err(CaError::KeyGone { .. })));
    }

    #[test]
    fn the_server_certificate_is_renewed_after_two_thirds_of_its_life() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), &names(), now()).unwrap();
        let first = ca.server_key();
        assert!(!ca.renew_server(now() + Duration::days(240)).unwrap());
        assert!(ca.renew_server(now() + Duration::days(250)).unwrap());
        assert_ne!(ca.server_key().cert, first.cert);
        let reopened = Ca::open(folder.path(), &names(), now() + Duration::days(251)).unwrap();
        assert_eq!(reopened.server_key().cert, ca.server_key().cert);
    }

    #[test]
    fn other_names_need_another_server_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::open(folder.path(), &names(), now()).unwrap().server_key();
        let moved = Ca::open(folder.path(), &["gw.example".into()], now()).unwrap().server_key();
        assert_ne!(first.cert, moved.cert);
        let same = Ca::open(folder.path(), &["GW.example".into(), "localhost".into()], now()).unwrap();
        assert_eq!(same.server_key().cert, moved.cert);
    }

    #[test]
    fn an_agents_certificate_holds_centrals_names_whatever_the_request_says() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), &names(), now()).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut greedy = CertificateParams::new(["central.example".to_owned()]).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.distinguished_name = named("central");
        let csr = greedy.serialize_request(&key).unwrap().pem().unwrap();

        let environment = "default".parse().unwrap();
        let agent = AgentId::random();
        let made = ca.certify_agent(&csr, &environment, agent, &"gw-a".parse().unwrap(), now()).unwrap();

        let certificate = CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap();
        let identity = AgentIdentity::read(&certificate).unwrap();
        assert_eq!((identity.environment, identity.agent), (environment, agent));
        assert_eq!(identity.name.as_str(), "gw-a");
        assert_eq!(identity.fingerprint, made.fingerprint);
        assert_eq!(made.fingerprint, fingerprint_of_spki(&key.subject_public_key_info()));
        assert_eq!(made.not_after, now() + AGENT_LIFE);
    }

    #[test]
    fn a_request_must_prove_possession_of_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), &names(), now()).unwrap();
        let certify = |csr: &str| {
            let (environment, name) = ("default".parse().unwrap(), "gw-a".parse().unwrap());
            ca.certify_agent(csr, &environment, AgentId::random(), &name, now())
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        certify(&csr.pem().unwrap()).unwrap();

        let mut der = csr.der().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let forged = pem_of(&CertificateDer::from(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(matches!(certify(&forged), Err(CsrError::Unproved)));
        assert!(matches!(certify("not PEM"), Err(CsrError::Unproved)));
        assert!(matches!(certify(&"x".repeat(CSR_BYTES_MAX + 1)), Err(CsrError::TooLarge)));

        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let csr = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
        assert!(matches!(certify(&csr), Err(CsrError::KeyType)));
    }

    fn names() -> Vec<String> {
        vec!["central.example".into(), "192.0.2.1".into()]
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }
}
