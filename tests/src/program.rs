//! Where the product's own programs are.

use std::env;
use std::path::PathBuf;

/// Names another folder to take the programs from, for instance a release build's.
const FOLDER: &str = "POSTERN_BIN_DIR";

/// The path of one of the product's programs: from `POSTERN_BIN_DIR`, else from the build folder
/// that this test, or the bench, itself stands in.
///
/// # Panics
/// When it has not been built.
pub fn program(name: &str) -> PathBuf {
    let folder = match env::var_os(FOLDER) {
        Some(folder) => PathBuf::from(folder),
        None => built_beside_us(),
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "this test needs {}, which is not built: run `cargo test --workspace --no-run` first, or tests/run",
        path.display()
    );
    path
}

/// A test's executable is `<target>/<profile>/deps/<test>`, the bench's `<target>/<profile>/bench`.
fn built_beside_us() -> PathBuf {
    let us = env::current_exe().expect("a process knows its executable");
    let folder = us.parent().expect("an executable has a folder");
    let built = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    built.expect("deps is in the build folder").to_owned()
}
