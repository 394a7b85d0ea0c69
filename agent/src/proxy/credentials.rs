//! Who this agent is to the proxy: a file with one line, `user:password`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::data_dir::read_bounded;

/// A user and a password; a file much longer is another file.
const FILE_BYTES_MAX: u64 = 1024;

/// A user and a password for Basic (RFC 7617). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

/// Why a file gives no credentials. Never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} can be read by other users (mode {mode:03o}): run 'chmod 600 {path}'")]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is not one line of user:password: {problem}")]
    Form { path: PathBuf, problem: &'static str },
}

impl Credentials {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        closed_to_others(path)?;
        let bytes = read_bounded(path, FILE_BYTES_MAX)
            .map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
        Self::of(&bytes).map_err(|problem| CredentialsError::Form { path: path.to_owned(), problem })
    }

    fn of(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
        // Editors end a line; blanks may belong to a password.
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.contains('\n') {
            return Err("it has several lines");
        }
        if line.contains(char::is_control) {
            return Err("it has a control character");
        }
        match line.split_once(':') {
            None => Err("there is no ':'"),
            Some(("", _)) => Err("there is no user before the ':'"),
            Some(_) => Ok(Self(line.to_owned())),
        }
    }

    /// What `Proxy-Authorization` says; as secret as the password.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn closed_to_others(path: &Path) -> Result<(), CredentialsError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Open { path: path.to_owned(), mode });
        }
    }
    // On Windows the file inherits the access list of its folder; see `data_dir`.
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_a_user_and_a_password_that_may_have_colons_and_blanks() {
        // The example of RFC 7617, section 2.
        for text in ["Aladdin:open sesame", "Aladdin:open sesame\n", "Aladdin:open sesame\r\n"] {
            assert_eq!(
                Credentials::of(text.as_bytes()).unwrap().basic(),
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
            );
        }
        assert_eq!(Credentials::of(b"u:a:b ").unwrap().0, "u:a:b ");
        assert_eq!(format!("{:?}", Credentials::of(b"u:secret").unwrap()), "***");
    }

    #[test]
    fn anything_else_is_refused_and_not_repeated() {
        let secret = "hunter2";
        for text in
            ["", "hunter2", ":hunter2", "u:hunter2\nv:hunter2", "u:hunter2\r\nX: y", "u:\u{1b}hunter2"]
        {
            let problem = Credentials::of(text.as_bytes()).unwrap_err();
            assert!(!problem.contains(secret), "{problem}");
        }
        assert!(Credentials::of(b"u:\xff").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused_with_what_to_do() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.credentials");
        std::fs::write(&path, "u:hunter2").unwrap();
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();

        set(0o640);
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("(mode 640): run 'chmod 600 {}'", path.display())), "{error}");
        assert!(!error.contains("hunter2"));
        set(0o600);
        Credentials::read(&path).unwrap();
    }
}
