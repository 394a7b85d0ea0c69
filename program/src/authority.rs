//! Files that a configuration names: small ones, and those with the certificates of somebody to believe.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Far more than a secret, some headers or a chain of certificates take.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Whose certificates are believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority(Vec<CertificateDer<'static>>);

/// Why a file names no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has no certificate in PEM in it")]
    NoCertificate { path: PathBuf },
}

impl Authority {
    /// A PEM file with at least one certificate, of at most 64 KiB.
    ///
    /// # Errors
    /// The file cannot be read, is longer, or has none in it.
    pub fn read(path: &Path) -> Result<Self, AuthorityError> {
        let text =
            read_small(path).map_err(|source| AuthorityError::Read { path: path.to_owned(), source })?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match certificates {
            Ok(found) if !found.is_empty() => Ok(Self(found)),
            Ok(_) | Err(_) => Err(AuthorityError::NoCertificate { path: path.to_owned() }),
        }
    }

    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

/// Reads a file of at most 64 KiB.
///
/// # Errors
/// It cannot be read, is longer, or is no UTF-8.
pub fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 64 KiB"));
    }
    Ok(text)
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_pem_file_with_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert!(matches!(Authority::read(&path), Err(AuthorityError::Read { .. })));
        fs::write(&path, "none").unwrap();
        assert!(matches!(Authority::read(&path), Err(AuthorityError::NoCertificate { .. })));
        let made = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
        fs::write(&path, made.cert.pem()).unwrap();
        assert_eq!(Authority::read(&path).unwrap().certificates().len(), 1);
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        fs::write(&path, "x".repeat(65_536)).unwrap();
        assert_eq!(read_small(&path).unwrap().len(), 65_536);
        fs::write(&path, "x".repeat(65_537)).unwrap();
        assert!(read_small(&path).unwrap_err().to_string().contains("64 KiB"));
    }
}
