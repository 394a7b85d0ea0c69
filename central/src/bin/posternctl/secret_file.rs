//! Reads and writes the files that hold secrets.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    path::Path,
};

use crate::failure::Failure;

/// A token is short; a larger file is some other file.
const SECRET_BYTES_MAX: u64 = 4096;

/// Reads a token from `path`, or from stdin for `-`. White space around it does not count.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    read_secret(path, "token")
}

/// The same for any secret; `what` it is.
pub(crate) fn read_secret(path: &Path, what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let from = path.display();
    match read {
        Err(error) => Err(Failure::Usage(format!("cannot read the {what} file {from}: {error}"))),
        Ok(bytes) if bytes as u64 > SECRET_BYTES_MAX => Err(Failure::Usage(format!(
            "{from} is no {what} file: it is larger than {SECRET_BYTES_MAX} bytes"
        ))),
        Ok(_) => match text.trim() {
            "" => Err(Failure::Usage(format!("the {what} file {from} is empty"))),
            secret => Ok(secret.to_owned()),
        },
    }
}

/// Makes sure, before central makes a secret, that it will have a place to go.
pub(crate) struct NewFile<'a> {
    path: &'a Path,
    file: std::fs::File,
}

impl<'a> NewFile<'a> {
    /// Creates `path` for its owner alone (mode 0600 where there are modes).
    pub(crate) fn create(path: &'a Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        // Never an existing file: its mode, and who holds it open, were decided by someone else.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(Failure::Usage(format!(
                "cannot create {}: {error}; give --out a new file in a folder you can write to",
                path.display()
            ))),
        }
    }

    /// Writes the secret and a line end.
    pub(crate) fn write(mut self, secret: &str) -> Result<(), Failure> {
        writeln!(self.file, "{secret}").and_then(|()| self.file.sync_all()).map_err(|error| {
            Failure::Failed(format!("cannot write the token to {}: {error}", self.path.display()))
        })
    }

    /// Nothing came to be written: leaves no empty file behind.
    pub(crate) fn discard(self) {
        drop(self.file);
        // Best effort: an empty file that stays is no harm, and the failure that led here counts more.
        let _ = std::fs::remove_file(self.path);
    }
}
