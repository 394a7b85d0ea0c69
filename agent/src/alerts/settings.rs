//! `[alerts]` of `agent.toml`, and the file with the receivers.
//!
//! The file is what `PUT /alerts` takes at central. It is the site's own: central never sees it, so the addresses in
//! it may be private ones.

use std::{io, net::IpAddr, path::Path, time::Duration};

use alerting::{AddressRules, Alerts, Courier, Document, Problems};

use crate::{data_dir::read_bounded, dialer::address::Network};

/// Sixteen endpoints with templates, certificates and keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What receivers inside a network have for addresses.
const PRIVATE: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"];

/// Whom this agent tells when central is out of reach, and after how long.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) alerts: Alerts,
    pub(super) courier: Courier,
    pub(super) after: Duration,
}

/// Why the receivers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error(
        "may be read by other users, and secrets may stand in it: run 'chmod 600' on it (its mode is {mode:o})"
    )]
    Open { mode: u32 },
    #[error("is not what alerts are set with, at {place}")]
    Syntax { place: String, source: serde_json::Error },
    #[error("cannot be used: {0}")]
    Check(Problems),
}

impl Settings {
    /// Reads and checks the file; `allowed` are the networks whose addresses may be called beside public ones, the
    /// private ones unless given.
    pub fn read(path: &Path, after: Duration, allowed: Option<Vec<Network>>) -> Result<Self, SettingsError> {
        closed_to_others(path)?;
        let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(SettingsError::Read)?;
        let mut from = serde_json::Deserializer::from_slice(&bytes);
        let document: Document = serde_path_to_error::deserialize(&mut from).map_err(|error| {
            SettingsError::Syntax { place: error.path().to_string(), source: error.into_inner() }
        })?;
        let allowed =
            allowed.unwrap_or_else(|| PRIVATE.iter().filter_map(|text| text.parse().ok()).collect());
        let rules = AddressRules::new(move |address: IpAddr| allowed.iter().any(|net| net.contains(address)));
        let alerts = Alerts::check(document, &Alerts::default(), &rules).map_err(SettingsError::Check)?;
        Ok(Self { alerts, courier: Courier::new(rules), after })
    }
}

fn closed_to_others(path: &Path) -> Result<(), SettingsError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_err(SettingsError::Read)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SettingsError::Open { mode });
        }
    }
    // On Windows the file inherits the access list of its folder; see `data_dir`.
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn every_private_network_can_be_read() {
        assert!(PRIVATE.iter().all(|text| text.parse::<Network>().is_ok()));
    }

    #[test]
    fn receivers_inside_the_network_may_be_told_and_metadata_may_not() {
        let read = |url: &str| written(&format!(r#"{{"endpoints":[{{"name":"a","url":"{url}"}}]}}"#));
        for url in ["http://10.0.0.9/hook", "http://127.0.0.1:1/", "smtp://mail.example:25"] {
            let wants_mail = url.starts_with("smtp");
            assert_eq!(read(url).is_ok(), !wants_mail, "{url}: mail also needs a sender");
        }
        let error = read("http://169.254.169.254/latest").unwrap_err().to_string();
        assert!(error.contains("169.254.169.254"), "{error}");
    }

    #[test]
    fn a_mistake_is_named_by_its_place() {
        let error = written(r#"{"endpoints":[{"name":"a","ulr":"https://a.example/"}]}"#).unwrap_err();
        let SettingsError::Syntax { place, source } = error else { panic!("{error}") };
        assert!(place.starts_with("endpoints[0]"), "{place}");
        assert!(source.to_string().contains("ulr"), "{source}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        std::fs::write(&path, "{}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Settings::read(&path, Duration::from_secs(1), None).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("640"), "{error}");
    }

    pub(crate) fn written(json: &str) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        crate::data_dir::replace_file(&path, json.as_bytes()).unwrap();
        Settings::read(&path, Duration::from_secs(300), None)
    }
}
