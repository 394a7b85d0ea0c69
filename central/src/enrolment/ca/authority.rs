//! The authority's key and certificate, those it followed, and how one follows another without locking anybody
//! out.
//!
//! ```text
//!   first ──rotate──► second ──rotate──► third          self-signed, each with a key of its own
//!     └──certifies────┘ └──certifies─────┘              the bridges; then the old key is gone
//! ```
//!
//! Whoever was away still pins an older certificate. It follows the bridges: every certificate made now comes with
//! them, from the youngest to the oldest (cross-certificates, RFC 4949). So nobody has to be there on the day of a
//! rotation. Certificates that an older authority made count for [`OVERLAP`], which is longer than an agent's lives.
//!
//! One file holds it all, so that a rotation happens whole or not at all: the key, its certificate, then for each
//! one it followed, youngest first, the bridge and the certificate.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AGENT_LIFE, BACKDATED, CaError, io_at, named, pem_of, random_serial};
use crate::enrolment::secret_file;

/// Long enough that nobody meets its end by surprise.
const LIFE: Duration = Duration::days(20 * 365);
/// How long what an older authority certified counts beside the present one's: no agent's certificate is older.
const OVERLAP: Duration = AGENT_LIFE.saturating_add(Duration::hours(1));
/// So many older authorities lead to the present one; who pins one before them has to enrol anew.
const FOLLOWED_MAX: usize = 4;

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    since: OffsetDateTime,
    followed: Vec<Followed>,
}

/// An older authority: its key is gone, but there are those who know no other.
struct Followed {
    certificate: CertificateDer<'static>,
    /// Its word for the next: that one's name and key under its own signature.
    bridge: CertificateDer<'static>,
}

impl Authority {
    /// One that follows nobody.
    pub(super) fn found(now: OffsetDateTime) -> Result<Self, CaError> {
        // Certificates know whole seconds.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // Part of the name, so that two authorities are told apart in messages.
        let name = named(&format!("Postern CA {:08x}", rand::random::<u32>()));
        let certificate = params(name, now).self_signed(&key)?.der().clone();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, since: now, followed: Vec::new() })
    }

    /// The next one, and this one's word for it. This one's key is needed no more.
    pub(super) fn succeed(self, now: OffsetDateTime) -> Result<Self, CaError> {
        let next = Self::found(now)?;
        let (_, read) = X509Certificate::from_der(&next.certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let name = read.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let mut bridge = params(named(name.unwrap_or_default()), now);
        bridge.use_authority_key_identifier_extension = true;
        let bridge = bridge.signed_by(next.issuer.key(), &self.issuer)?.der().clone();
        let mut followed = vec![Followed { certificate: self.certificate, bridge }];
        followed.extend(self.followed);
        followed.truncate(FOLLOWED_MAX);
        Ok(Self { followed, ..next })
    }

    pub(super) fn read(path: &Path) -> Result<Self, CaError> {
        let damaged = |reason: String| CaError::Damaged { path: path.into(), reason };
        let (key, certificates) = read_pair(path)?;
        let mut certificates = certificates.into_iter();
        let certificate = certificates.next().ok_or_else(|| damaged("it holds no certificate".into()))?;
        let mut followed = Vec::new();
        while let Some(bridge) = certificates.next() {
            let certificate = certificates.next();
            let certificate =
                certificate.ok_or_else(|| damaged("its last certificate stands alone".into()))?;
            followed.push(Followed { certificate, bridge });
        }
        let (_, read) =
            X509Certificate::from_der(&certificate).map_err(|error| damaged(error.to_string()))?;
        let since = read.validity().not_before.to_datetime() + BACKDATED;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, since, followed })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), CaError> {
        let mut content = self.issuer.key().serialize_pem();
        content.push_str(&pem_of(&self.certificate));
        for followed in &self.followed {
            content.push_str(&pem_of(&followed.bridge));
            content.push_str(&pem_of(&followed.certificate));
        }
        secret_file::write(path, content.as_bytes()).map_err(io_at(path))
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Since when it certifies.
    pub(super) fn since(&self) -> OffsetDateTime {
        self.since
    }

    /// What leads from a certificate made now to those who know only an older authority.
    pub(super) fn bridges(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.followed.iter().map(|followed| &followed.bridge)
    }

    /// Whose certificates count at this time, the present authority first.
    pub(super) fn trusted(&self, now: OffsetDateTime) -> Vec<CertificateDer<'static>> {
        let last = self.followed.first().filter(|_| now < self.overlap_until());
        [&self.certificate].into_iter().chain(last.map(|last| &last.certificate)).cloned().collect()
    }

    /// Until when the last one's certificates count, if one was followed.
    pub(super) fn overlap_until(&self) -> OffsetDateTime {
        self.since + OVERLAP
    }

    /// Those it followed, youngest first.
    pub(super) fn followed(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.followed.iter().map(|followed| &followed.certificate)
    }

    /// Whether it, or one it followed, signed this.
    pub(super) fn signed(&self, certificate: &X509Certificate<'_>) -> bool {
        [&self.certificate].into_iter().chain(self.followed()).any(|authority| {
            X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
                certificate.verify_signature(Some(authority.public_key())).is_ok()
            })
        })
    }
}

fn params(name: DistinguishedName, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATED;
    params.not_after = now + LIFE;
    // Nobody but its followers stands between it and a leaf.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(FOLLOWED_MAX as u8));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A file of a key and certificates.
pub(super) fn read_pair(path: &Path) -> Result<(KeyPair, Vec<CertificateDer<'static>>), CaError> {
    if secret_file::is_open_to_others(path).map_err(io_at(path))? {
        return Err(CaError::Open { path: path.into() });
    }
    let damaged = |reason: String| CaError::Damaged { path: path.into(), reason };
    let content = fs::read(path).map_err(io_at(path))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&content).map_err(|error| damaged(error.to_string()))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
        .map_err(|error| damaged(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&content).collect::<Result<Vec<_>, _>>();
    Ok((key, certificates.map_err(|error| damaged(error.to_string()))?))
}
