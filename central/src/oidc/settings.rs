//! `[oidc]` of `central.toml`: which provider is believed, what central calls itself there, and what its claims mean here.

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use program::Authority;
use proto::EnvironmentName;
use url::{Host, Url};

use crate::{enrolment::secret_file, people::Role};

/// The longest client secret.
const SECRET_BYTES_MAX: usize = 1024;
/// The longest text of any setting here.
pub const TEXT_BYTES_MAX: usize = 512;
/// How many values all roles have together.
pub const VALUES_MAX: usize = 200;

pub const DEFAULT_SCOPES: &str = "openid profile email";
pub const DEFAULT_USER_CLAIM: &str = "preferred_username";
pub const DEFAULT_ROLE_CLAIM: &str = "groups";
/// Where the provider sends browsers back to, behind `admin.public_url`.
pub const CALLBACK: &str = "/sign-in/oidc/callback";

/// Where a provider publishes what it is, behind its issuer.
pub const WELL_KNOWN: &str = ".well-known/openid-configuration";

/// Everything about the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub issuer: Issuer,
    pub client_id: String,
    pub client_secret: ClientSecret,
    /// Separated by blanks; `openid` is among them.
    pub scopes: String,
    /// The claim of the ID token that a user's name is made from.
    pub user_claim: String,
    /// The claim that holds what roles are given for.
    pub role_claim: String,
    pub roles: Roles,
    /// Whom the provider's certificate is believed; `None`: whom this machine trusts.
    pub authority: Option<Authority>,
    /// The Environment that its people sign in to.
    pub environment: EnvironmentName,
    /// Where browsers come back to, as the provider knows it.
    pub redirect_uri: String,
}

/// A provider's name for itself, and its address.
#[derive(Clone, PartialEq, Eq)]
pub struct Issuer {
    /// As it was written: what ID tokens say must be the same to the last character.
    text: String,
    url: Url,
}

/// What central proves itself to the provider with. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(String);

/// Which values of the claim give which role. Compared to the last character.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(Vec<(String, Role)>);

/// This program cannot ask a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this program was built without OpenID Connect: build it with the feature oidc, or leave [oidc] out")]
pub struct NotBuilt;

/// Why a text is no provider's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error("{0:?} is no provider's address, as in \"https://login.example.com/realms/main\"")]
    NoUrl(String),
    #[error("a provider is reached by https; by http only on this very machine (127.0.0.1, ::1, localhost)")]
    Unencrypted,
    #[error("a provider's address has no user, password, query or fragment")]
    Decorated,
    #[error(
        "leave out /{WELL_KNOWN}: issuer is what that document calls \"issuer\", and central finds it there"
    )]
    Document,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} may be read by other users: run 'chmod 600' on it")]
    Open { path: PathBuf },
    #[error("{path} must hold one line of printable characters, 1 to {SECRET_BYTES_MAX}")]
    NoSecret { path: PathBuf },
}

impl FromStr for Issuer {
    type Err = IssuerError;

    fn from_str(text: &str) -> Result<Self, IssuerError> {
        let no_url = || IssuerError::NoUrl(text.chars().take(100).collect());
        if text.len() > TEXT_BYTES_MAX {
            return Err(no_url());
        }
        let url = Url::parse(text).map_err(|_| no_url())?;
        if !is_guarded(&url) {
            return Err(IssuerError::Unencrypted);
        }
        let decorated = !url.username().is_empty() || url.password().is_some();
        if decorated || url.query().is_some() || url.fragment().is_some() {
            return Err(IssuerError::Decorated);
        }
        if url.path().ends_with(WELL_KNOWN) {
            return Err(IssuerError::Document);
        }
        Ok(Self { text: text.to_owned(), url })
    }
}

/// Whether nobody on the way can listen: https, or a way that does not leave this machine.
pub(super) fn is_guarded(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && here)
}

impl Issuer {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// For people: where they are sent.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl ClientSecret {
    /// The file's one line, which nobody else may read.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        // First, because no mode helps a folder.
        let text = program::read_small(path).map_err(failed)?;
        if secret_file::is_open_to_others(path).map_err(failed)? {
            return Err(FileError::Open { path: path.to_owned() });
        }
        let text = text.trim_end_matches(['\r', '\n']);
        let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if text.is_empty() || text.len() > SECRET_BYTES_MAX || !text.bytes().all(printable) {
            return Err(FileError::NoSecret { path: path.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    #[cfg(feature = "oidc")]
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl Roles {
    pub fn new(values: impl IntoIterator<Item = (String, Role)>) -> Self {
        Self(values.into_iter().collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest role that any of `values` gives.
    pub fn highest<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Option<Role> {
        let of = |value: &'a str| {
            self.0.iter().filter(move |(known, _)| known == value).map(|(_, role)| *role).max()
        };
        values.into_iter().filter_map(of).max()
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `viewer: a, b; operator: c`
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for role in Role::ALL {
            let values: Vec<&str> =
                self.0.iter().filter(|(_, given)| *given == role).map(|(value, _)| value.as_str()).collect();
            if !values.is_empty() {
                write!(f, "{}{role}: {}", if first { "" } else { "; " }, values.join(", "))?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_provider_is_reached_by_https_or_on_this_machine() {
        for fine in [
            "https://login.example/realms/a",
            "https://login.example/",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
        ] {
            assert_eq!(fine.parse::<Issuer>().unwrap().as_str(), fine);
        }
        for odd in [
            "",
            "login.example",
            "http://login.example",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "https://u:p@login.example",
            "https://login.example/?a=b",
            "https://login.example/#a",
            "https://login.example/.well-known/openid-configuration",
        ] {
            assert!(odd.parse::<Issuer>().is_err(), "{odd}");
        }
    }

    #[test]
    fn the_highest_role_of_all_values_counts() {
        let roles = Roles::new([
            ("ops".to_owned(), Role::Operator),
            ("all".to_owned(), Role::Viewer),
            ("ops".to_owned(), Role::Administrator),
        ]);
        assert_eq!(roles.highest(["all", "ops", "x"]), Some(Role::Administrator));
        assert_eq!(roles.highest(["all"]), Some(Role::Viewer));
        assert_eq!(roles.highest(["ALL", "op", ""]), None);
    }

    #[test]
    fn the_clients_secret_is_one_line_and_shown_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        secret_file::write(&path, b"hush hush\n").unwrap();
        let secret = ClientSecret::read(&path).unwrap();
        assert_eq!((secret.0.as_str(), format!("{secret:?}").as_str()), ("hush hush", "***"));
        for odd in ["", "\n", "hush\nhush", "h\u{fc}sh", &"x".repeat(1025)] {
            secret_file::write(&path, odd.as_bytes()).unwrap();
            let error = ClientSecret::read(&path).unwrap_err().to_string();
            assert!(error.contains("one line") && !error.contains("hush"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        secret_file::write(&path, b"hush").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(ClientSecret::read(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    /// As a small installation has them, for the tests of the other files too.
    #[cfg(feature = "oidc")]
    pub(in crate::oidc) fn settings() -> Settings {
        Settings {
            issuer: "http://127.0.0.1:1".parse().unwrap(),
            client_id: "postern".into(),
            client_secret: ClientSecret("hush".into()),
            scopes: DEFAULT_SCOPES.into(),
            user_claim: DEFAULT_USER_CLAIM.into(),
            role_claim: DEFAULT_ROLE_CLAIM.into(),
            roles: Roles::new([("staff".to_owned(), Role::Viewer)]),
            authority: None,
            environment: "default".parse().unwrap(),
            redirect_uri: format!("https://central.example{CALLBACK}"),
        }
    }
}
