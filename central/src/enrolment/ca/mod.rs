//! Central's own certificate authority: the one trust anchor of its agents and users.
//!
//! ```text
//!   DATA_DIR/ca/ca-key.pem      the authority's key and certificate, 0600    signs
//!   DATA_DIR/ca/server.pem      central's TLS key and certificate, 0600        ├──► server leaf: serverAuth, names
//!   DATA_DIR/ca.pem             whom users have to trust                       └──► agent leaves: both, one URI
//! ```
//!
//! A server leaf has no `postern:` URI and no clientAuth; an agent leaf has no host name. So neither can be
//! taken for the other, whatever checks the chain alone. How the authority is followed by another:
//! [`authority`]; how its owner has it followed: [`rotation`].

mod authority;
pub mod rotation;
mod server;
pub mod upkeep;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use proto::{AgentId, EnvironmentName, Fingerprint, Name};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::{
    pki_types::{CertificateDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};

use authority::Authority;
use server::Server;

use super::{
    identity::{AgentIdentity, fingerprint_of_spki},
    secret_file,
};

/// How long an agent's certificate lives; it is renewed at two thirds.
pub const AGENT_LIFE: Duration = Duration::hours(24);
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
    /// The certificate, and behind it what leads to older authorities: for those that were away.
    pub pem: String,
    pub fingerprint: Fingerprint,
    pub not_after: OffsetDateTime,
}

/// Central's certificate authority and its own server certificate.
pub struct Ca {
    place: Place,
    names: Vec<String>,
    present: RwLock<Arc<Present>>,
}

/// What holds until the next [`Ca::look`] finds a reason for a change. Replaced whole.
struct Present {
    authority: Authority,
    server: Server,
    trusted: Vec<CertificateDer<'static>>,
    trusted_pem: String,
}

/// Where the authority's files lie.
struct Place {
    key: PathBuf,
    server: PathBuf,
    public: PathBuf,
}

/// What [`Ca::look`] found to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Another authority certifies from now on: its owner had the last one followed.
    pub followed: bool,
    /// Certificates of the last authority count no more.
    pub overlap_over: bool,
    /// There is a new server certificate.
    pub server_renewed: bool,
}

impl Place {
    fn of(data_dir: &Path) -> Self {
        let folder = data_dir.join("ca");
        Self {
            key: folder.join("ca-key.pem"),
            server: folder.join("server.pem"),
            public: data_dir.join("ca.pem"),
        }
    }
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
        let place = Place::of(data_dir);
        if !exists(&place.key)? {
            if exists(&place.public)? {
                return Err(CaError::KeyGone { path: place.public, key: place.key });
            }
            Authority::found(now)?.write(&place.key)?;
        }
        let names = server::with_local_names(names);
        let present = Present::read(&place, &names, now)?;
        present.publish(&place)?;
        Ok(Self { place, names, present: RwLock::new(Arc::new(present)) })
    }

    /// Looks whether the authority was followed by another in its file, whether the overlap is over, and whether
    /// two thirds of the server certificate's life are; what changed counts for new connections. To be called
    /// every few seconds: it reads one small file.
    ///
    /// # Errors
    /// Then everything stays as it was.
    pub fn look(&self, now: OffsetDateTime) -> Result<Looked, CaError> {
        let before = self.present();
        let authority = Authority::read(&self.place.key)?;
        let looked = Looked {
            followed: authority.certificate() != before.authority.certificate(),
            overlap_over: before.trusted.len() > authority.trusted(now).len(),
            server_renewed: before.server.renew_at() <= now,
        };
        if looked == Looked::default() {
            return Ok(looked);
        }
        let present = Present::read(&self.place, &self.names, now)?;
        present.publish(&self.place)?;
        let server_renewed = present.server.key().cert.first() != before.server.key().cert.first();
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(present);
        Ok(Looked { server_renewed, ..looked })
    }

    fn present(&self) -> Arc<Present> {
        // Only ever replaced whole, so a panic elsewhere left nothing half-done.
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When central's own certificates end, by purpose.
    pub fn expiries(&self) -> [(&'static str, OffsetDateTime); 2] {
        let present = self.present();
        let server = present.server.key().cert.first().map_or(OffsetDateTime::UNIX_EPOCH, end_of);
        [("authority", end_of(present.authority.certificate())), ("server", server)]
    }

    /// The certificates that agents and users have to trust, PEM, youngest first: one, or two for a day after
    /// a rotation.
    pub fn trusted_pem(&self) -> String {
        self.present().trusted_pem.clone()
    }

    /// Where users find [`Self::trusted_pem`].
    pub fn trusted_path(&self) -> &Path {
        &self.place.public
    }

    /// Whose certificates count now.
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        self.present().trusted.clone()
    }

    /// Central's present server key and certificate, and what leads from it to older authorities.
    pub fn server_key(&self) -> Arc<CertifiedKey> {
        self.present().server.key()
    }

    /// Whom a certificate of this CA, or of one it followed, names and when it ends, whether or not that is over.
    /// It proves nothing about whoever sent it: certificates are no secret.
    pub fn read_agent(&self, certificate_pem: &str) -> Option<(AgentIdentity, OffsetDateTime)> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        if certificate_pem.len() > CSR_BYTES_MAX {
            return None;
        }
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (rest, read) = X509Certificate::from_der(&certificate).ok()?;
        if !rest.is_empty() || !self.present().authority.signed(&read) {
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
        let present = self.present();
        let mut pem = params.signed_by(&key, present.authority.issuer())?.pem();
        pem.extend(present.authority.bridges().map(pem_of));
        let fingerprint = fingerprint_of_spki(&key.subject_public_key_info());
        Ok(AgentCertificate { pem, fingerprint, not_after })
    }
}

impl Present {
    fn read(place: &Place, names: &[String], now: OffsetDateTime) -> Result<Self, CaError> {
        let authority = Authority::read(&place.key)?;
        let server = Server::open(&place.server, &authority, names, now)?;
        let trusted = authority.trusted(now);
        let trusted_pem = trusted.iter().map(pem_of).collect();
        Ok(Self { authority, server, trusted, trusted_pem })
    }

    fn publish(&self, place: &Place) -> Result<(), CaError> {
        if fs::read(&place.public).ok().as_deref() == Some(self.trusted_pem.as_bytes()) {
            return Ok(());
        }
        secret_file::write_public(&place.public, self.trusted_pem.as_bytes()).map_err(io_at(&place.public))
    }
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

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(io_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    |source| CaError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, KeyPair};

    use super::*;

    #[test]
    fn the_authority_and_its_server_certificate_are_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::open(folder.path(), &names(), now()).unwrap();
        let second = Ca::open(folder.path(), &names(), now()).unwrap();
        assert_eq!(first.trusted_pem(), second.trusted_pem());
        assert_eq!(first.server_key().cert, second.server_key().cert);
        assert_eq!(fs::read_to_string(first.trusted_path()).unwrap(), first.trusted_pem());
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
        assert!(!ca.look(now() + Duration::days(53)).unwrap().server_renewed);
        assert!(ca.look(now() + Duration::days(54)).unwrap().server_renewed);
        assert_ne!(ca.server_key().cert, first.cert);
        let reopened = Ca::open(folder.path(), &names(), now() + Duration::days(55)).unwrap();
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
