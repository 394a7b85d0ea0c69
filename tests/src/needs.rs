//! What a test needs from the machine: it fails with the name of what is missing, it never skips.

use std::env;
use std::path::{Path, PathBuf};

/// The program `name` from the search path.
///
/// # Panics
/// When it is not there, naming the Debian `package` it comes from.
pub fn command(name: &str, package: &str) -> PathBuf {
    // Debian keeps servers' programs in sbin, which is not in every user's search path.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    match folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file()) {
        Some(found) => found,
        None => missing(name, package),
    }
}

/// The file at `path`.
///
/// # Panics
/// When it is not there, naming the Debian `package` it comes from.
pub fn file(path: &str, package: &str) -> PathBuf {
    let found = PathBuf::from(path);
    if found.exists() { found } else { missing(path, package) }
}

/// The Python of `tests/.venv`, which has the packages of `tests/requirements.txt`.
///
/// # Panics
/// When `tests/setup` has not made it.
pub fn python() -> PathBuf {
    let found = suites().with_file_name(".venv").join("bin/python");
    if found.exists() {
        return found;
    }
    panic!("this test needs {}, which is not there; tests/setup makes it", found.display());
}

/// Are we root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Root's rights, for `what`.
///
/// # Panics
/// When we are somebody else.
pub fn root(what: &str) {
    assert!(is_root(), "this test needs root: {what}");
}

/// The folder of the suites' helper programs, `tests/suites`.
pub fn suites() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suites")
}

fn missing(what: &str, package: &str) -> ! {
    panic!("this test needs {what} (Debian package {package}), which is not here; tests/setup installs it")
}
