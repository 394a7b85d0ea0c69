//! A disk so small that a test can fill it: a tmpfs, mounted for as long as it is held.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;

/// Room for a program's databases and little more.
const BYTES: u32 = 16 << 20;
const BALLAST: &str = "ballast";

/// Mounted over a folder; unmounted when dropped, so that the folder can be removed.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty disk over the folder `at`.
    ///
    /// # Panics
    /// Where this may not be done: it takes root, and in a container CAP_SYS_ADMIN.
    pub fn over(at: &Path) -> Self {
        needs::root("to mount a small disk that it can fill");
        let output = Command::new(needs::command("mount", "mount"))
            .args(["-t", "tmpfs", "-o", &format!("size={BYTES},mode=0700"), "postern-test"])
            .arg(at)
            .output()
            .expect("mount can be started");
        assert!(
            output.status.success(),
            "this test needs to mount a tmpfs, which is not permitted here (a container needs CAP_SYS_ADMIN): {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { at: at.to_owned() }
    }

    /// Takes every byte that is left.
    pub fn fill(&self) {
        let mut ballast = File::create(self.at.join(BALLAST)).expect("there is room for one more name");
        // Smaller and smaller pieces, so that nothing is left beside them.
        for piece in [1 << 20, 64 << 10, 4 << 10, 1] {
            loop {
                match ballast.write(&vec![0; piece]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{} could not be filled: {error}", self.at.display()),
                }
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.at.join(BALLAST)).expect("the disk was filled before");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is still dying must not keep the folder from being removed.
        let output = Command::new("umount").arg("--lazy").arg(&self.at).output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} stays mounted: {output:?}", self.at.display());
        }
    }
}
