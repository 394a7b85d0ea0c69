//! An agent that was away for longer than its certificate lived, without waiting for that long.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use serde_json::Value;

use super::Hosts;

impl Hosts {
    /// Replaces an agent's certificate by one for the same key that central's CA could have made years ago.
    pub fn expire_certificate(&self, name: &str) {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let authority = read(self.data_dir("central").join("ca/ca-key.pem"));
        let certificate =
            authority.find("-----BEGIN CERTIFICATE").expect("the CA's file ends with its certificate");
        let authority_key = KeyPair::from_pem(&authority[..certificate]).expect("the CA's key is one");
        let issuer = Issuer::from_ca_cert_pem(&authority[certificate..], authority_key)
            .expect("the CA's certificate is one");

        let identity = self.data_dir(name).join("identity");
        let key = KeyPair::from_pem(&read(identity.join("key.pem"))).expect("the agent's key is one");
        let record: Value =
            serde_json::from_str(&read(identity.join("identity.json"))).expect("the identity is JSON");
        let text = |field: &str| record[field].as_str().unwrap_or_else(|| panic!("no {field} in {record}"));
        let uri = format!("postern://{}/agent/{}", text("environment"), text("agent"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().expect("an ASCII URI"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
        let expired = params.signed_by(&key, &issuer).expect("these parameters make a certificate");
        fs::write(identity.join("cert.pem"), expired.pem()).expect("the agent's folder is the stage's own");
    }
}
