//! `[traces]` of a program's configuration: where the collector is, how it is talked to, and of how many connections.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use program::Authority;
use url::Url;

use crate::{BUILT, Sample};

const HEADERS_MAX: usize = 16;
/// Where a collector's path ends, appended to the endpoint as OpenTelemetry asks.
const SIGNAL_PATH: &str = "v1/traces";

/// Everything about traces; the default exports none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub endpoint: Option<Endpoint>,
    pub sample: Sample,
    pub headers: Headers,
    /// Whom a collector with https is believed; `None`: whom this machine trusts.
    pub authority: Option<Authority>,
}

/// A collector's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

/// What is sent along with every request, such as an authorization. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

/// Why an address is no collector's.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{0:?} is no address of a collector, as in \"http://127.0.0.1:4318\"")]
    NoUrl(String),
    #[error("a collector is reached by http or https, not by {0}")]
    Scheme(String),
    #[error("a collector's address has no user, password, query or fragment: put secrets into headers_file")]
    Decorated,
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
}

/// This program cannot export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this program was built without traces: build it with the feature otlp, or leave the collector out")]
pub struct NotBuilt;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} may be read by other users (its mode is {mode:o}): run 'chmod 600' on it")]
    Open { path: PathBuf, mode: u32 },
    #[error("{path}:{line}: {why}")]
    Header { path: PathBuf, line: usize, why: &'static str },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Appends `v1/traces` to the path.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let mut url = judged(text)?;
        let path = format!("{}/{SIGNAL_PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        if BUILT { Ok(Self(url)) } else { Err(NotBuilt.into()) }
    }
}

fn judged(text: &str) -> Result<Url, EndpointError> {
    let url = Url::parse(text).map_err(|_| EndpointError::NoUrl(text.to_owned()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EndpointError::Scheme(url.scheme().to_owned()));
    }
    let decorated = !url.username().is_empty() || url.password().is_some();
    if decorated || url.query().is_some() || url.fragment().is_some() {
        return Err(EndpointError::Decorated);
    }
    Ok(url)
}

impl Endpoint {
    /// What OpenTelemetry's own variables say: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, used as it is, or
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, to which the path is appended. `None`: nothing.
    pub fn from_environment() -> Option<Result<Self, EndpointError>> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Result<Self, EndpointError>> {
        let given = |name| variable(name).filter(|text| !text.is_empty());
        if let Some(whole) = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            return Some(
                judged(&whole).and_then(|url| if BUILT { Ok(Self(url)) } else { Err(NotBuilt.into()) }),
            );
        }
        given("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| base.parse())
    }

    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl Settings {
    /// Takes the collector from the environment where none is set. Whatever is wrong with that is said and otherwise
    /// ignored: the variable is meant for everything on a machine.
    pub fn or_environment(&mut self) {
        if self.endpoint.is_some() {
            return;
        }
        match Endpoint::from_environment() {
            Some(Ok(endpoint)) => self.endpoint = Some(endpoint),
            Some(Err(error)) => {
                tracing::warn!(%error, "The environment (OTEL_EXPORTER_OTLP_ENDPOINT) names a collector that is not used");
            }
            None => {}
        }
    }
}

impl Headers {
    /// Lines of `Name: value`; empty ones and such that begin with `#` mean nothing.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        closed_to_others(path)?;
        let text =
            program::read_small(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        let mut headers = HeaderMap::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |why| FileError::Header { path: path.to_owned(), line: number + 1, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Nothing of the line is repeated: it may be a secret that lacks its name.
            let (name, value) = line.split_once(':').ok_or(wrong("a header is written 'Name: value'"))?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong("this is no name of a header"))?;
            if is_ours(&name) {
                return Err(wrong("this header belongs to the connection and cannot be set"));
            }
            let mut value: HeaderValue = value
                .trim()
                .parse()
                .map_err(|_| wrong("the value has a character that no header may have"))?;
            value.set_sensitive(true);
            if headers.len() >= HEADERS_MAX {
                return Err(wrong("there are more than 16 headers"));
            }
            headers.insert(name, value);
        }
        Ok(Self(headers))
    }

    pub fn map(&self) -> &HeaderMap {
        &self.0
    }
}

fn is_ours(name: &HeaderName) -> bool {
    use http::header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    };
    let ours = [
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        EXPECT,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    ours.contains(name)
}

fn closed_to_others(path: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileError::Open { path: path.to_owned(), mode });
        }
    }
    // On Windows a file has the access list of its folder.
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(feature = "otlp")]
    #[test]
    fn the_signals_path_is_appended_as_the_convention_has_it() {
        for (given, used) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            ("https://otel.example/tenant/", "https://otel.example/tenant/v1/traces"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().to_string(), used);
        }
    }

    #[test]
    fn what_is_no_collectors_address_is_refused() {
        for odd in ["", "otel", "grpc://otel:4317", "http://u:p@otel", "http://otel/?key=1", "http://otel/#x"]
        {
            let error = odd.parse::<Endpoint>().unwrap_err();
            assert!(!matches!(error, EndpointError::NotBuilt(_)), "{odd}: {error}");
        }
    }

    #[cfg(not(feature = "otlp"))]
    #[test]
    fn a_program_without_the_feature_refuses_a_collector() {
        let error = "http://otel:4318".parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("feature otlp"), "{error}");
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn the_environment_may_name_a_collector_and_the_signals_own_variable_wins() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            let found = Endpoint::from_variables(|name| {
                set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
            });
            found.map(|found| found.map(|endpoint| endpoint.to_string()).map_err(|error| error.to_string()))
        };
        let (base, whole) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(base, "")]), None, "set to nothing it counts as unset");
        assert_eq!(of(&[(base, "http://a:1")]), Some(Ok("http://a:1/v1/traces".into())));
        assert_eq!(of(&[(base, "http://a:1"), (whole, "http://b:1/x")]), Some(Ok("http://b:1/x".into())));
        assert!(of(&[(base, "a:1")]).unwrap().is_err());
    }

    #[test]
    fn headers_are_read_from_a_file_and_shown_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            private(folder.path(), "# for the collector\n\nAuthorization: Bearer hush\nx-tenant: acme\n");
        let headers = Headers::read(&path).unwrap();
        assert_eq!(headers.map()["authorization"], "Bearer hush");
        assert_eq!(headers.map()["x-tenant"], "acme");
        let shown = format!("{headers:?} {:?}", Settings { headers: headers.clone(), ..Settings::default() });
        assert!(!shown.contains("hush") && shown.contains("authorization"), "{shown}");
    }

    #[test]
    fn a_wrong_header_is_told_by_its_line_and_never_by_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let many: String = (0..17).map(|number| format!("x-{number}: hush\n")).collect();
        for odd in ["a: b\nhush", "a: b\nh ush: x", "a: b\nHost: hush", "a: b\nx: hu\u{7f}sh", &many] {
            let error = Headers::read(&private(folder.path(), odd)).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
            assert!(error.contains(":2: ") || error.contains(":17: "), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn headers_that_others_may_read_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = private(folder.path(), "a: b");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Headers::read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("640"), "{error}");
    }

    fn private(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("headers");
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        path
    }
}
