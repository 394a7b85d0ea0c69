//! Central's own server certificate: made for its names, kept in a file, renewed at two thirds of its life, and made
//! anew when the authority was followed by another.

use std::{net::IpAddr, path::Path, sync::Arc};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    CaError,
    authority::{Authority, read_pair},
    exists, io_at, leaf, pem_of,
};
use crate::enrolment::secret_file;

/// How long it lives: below the 90 days that clients' checklists ask for. Renewing it takes nobody's hand.
const LIFE: Duration = Duration::days(80);

/// Central's TLS key with its certificate, and when to make the next.
pub(super) struct Server {
    key: Arc<CertifiedKey>,
    renew_at: OffsetDateTime,
}

impl Server {
    /// The one in `path`, or a new one when that one is missing, old, of another authority, or names something else.
    pub(super) fn open(
        path: &Path,
        authority: &Authority,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        if exists(path)? {
            let (key, certificates) = read_pair(path)?;
            if let Some(certificate) = certificates.into_iter().next()
                && let Some(renew_at) = still_good(&certificate, authority, names, now)
            {
                return Self::certified(path, &key, certificate, authority, renew_at);
            }
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf("postern-central", now, LIFE);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name.as_str().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let renew_at = renewal(params.not_before, params.not_after);
        let certificate = params.signed_by(&key, authority.issuer())?.der().clone();
        let content = format!("{}{}", key.serialize_pem(), pem_of(&certificate));
        secret_file::write(path, content.as_bytes()).map_err(io_at(path))?;
        Self::certified(path, &key, certificate, authority, renew_at)
    }

    fn certified(
        path: &Path,
        key: &KeyPair,
        certificate: CertificateDer<'static>,
        authority: &Authority,
        renew_at: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let damaged =
            |error: rustls::Error| CaError::Damaged { path: path.into(), reason: error.to_string() };
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = [certificate].into_iter().chain(authority.bridges().cloned()).collect();
        let key = CertifiedKey::new(chain, any_ecdsa_type(&der).map_err(damaged)?);
        key.keys_match().map_err(damaged)?;
        Ok(Self { key: Arc::new(key), renew_at })
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    pub(super) fn renew_at(&self) -> OffsetDateTime {
        self.renew_at
    }
}

/// When to renew this server certificate; `None` if another is needed at once.
fn still_good(
    certificate: &CertificateDer<'_>,
    authority: &Authority,
    names: &[String],
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let (_, ours) = X509Certificate::from_der(authority.certificate()).ok()?;
    let ours = read.verify_signature(Some(ours.public_key())).is_ok();
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

/// The names a server certificate always has, and the configured ones, each once, addresses in one spelling.
pub(super) fn with_local_names(names: &[String]) -> Vec<String> {
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
