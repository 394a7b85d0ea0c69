//! A CA of the stage's own and one server certificate for the loopback host, as PEM files.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::Folder;

/// Files for a server that speaks TLS, and for the client that checks it.
pub struct Certificates {
    /// What a client must trust.
    pub ca: PathBuf,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub certificate: PathBuf,
    /// The server's private key, readable by its owner alone.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them, in `folder`.
    pub fn make(folder: &Folder) -> Self {
        let ca_key = KeyPair::generate().expect("a key can be made");
        let mut ca_params = CertificateParams::default();
        ca_params.distinguished_name.push(DnType::CommonName, "the stage's CA");
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = ca_params.self_signed(&ca_key).expect("these parameters make a certificate");

        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("these are valid names");
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(ca_params, ca_key);
        let certificate = params.signed_by(&key, &issuer).expect("these parameters make a certificate");

        Self {
            ca: folder.write("ca.pem", ca.pem()),
            certificate: folder.write("server.pem", certificate.pem()),
            key: folder.write_private("server.key", key.serialize_pem()),
        }
    }

    /// Gives the private key to `uid`: some servers insist on owning theirs.
    pub fn key_belongs_to(&self, uid: u32) {
        std::os::unix::fs::chown(&self.key, Some(uid), None)
            .unwrap_or_else(|error| panic!("{} could not be given away: {error}", self.key.display()));
    }

    /// The CA's certificate as PEM.
    pub fn ca_pem(&self) -> Vec<u8> {
        fs::read(&self.ca).expect("it was written when this was made")
    }
}
