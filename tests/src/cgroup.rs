//! A control group: what a process in it may use at most of the machine. Either version of the kernel's interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::needs;

const ROOT: &str = "/sys/fs/cgroup";
/// How often the kernel hands out time anew; its default.
const PERIOD_US: u32 = 100_000;

/// A limit, for as long as it is held. Afterwards its processes are back where everybody is.
pub struct Cgroup {
    at: PathBuf,
    root: PathBuf,
}

impl Cgroup {
    /// At most so many hundredths of one core: an equal part of each tenth of a second, and then nothing.
    ///
    /// # Panics
    /// Where control groups may not be made; with what is missing.
    pub fn of_cpu_percent(percent: u32) -> Self {
        let quota_us = PERIOD_US / 100 * percent;
        match Self::version_2("cpu") {
            Some(group) => group.with("cpu.max", &format!("{quota_us} {PERIOD_US}")),
            None => {
                let group = Self::version_1("cpu");
                group
                    .with("cpu.cfs_period_us", &PERIOD_US.to_string())
                    .with("cpu.cfs_quota_us", &quota_us.to_string())
            }
        }
    }

    /// At most so much memory; beyond it the kernel kills.
    ///
    /// # Panics
    /// As [`Cgroup::of_cpu_percent`].
    pub fn of_memory(bytes: u64) -> Self {
        match Self::version_2("memory") {
            Some(group) => group.with("memory.max", &bytes.to_string()),
            None => Self::version_1("memory").with("memory.limit_in_bytes", &bytes.to_string()),
        }
    }

    /// Moves a process into it, with all its threads. The memory it has by then is not counted.
    pub fn take_in(&self, pid: u32) {
        write(&self.at.join("cgroup.procs"), &pid.to_string());
    }

    /// A command that goes into it and becomes the program named behind it: all that it ever takes is counted.
    pub fn through(&self) -> [String; 3] {
        let script = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", self.at.display());
        ["sh".into(), "-c".into(), script]
    }

    /// The most memory that its processes had at one time.
    pub fn memory_peak(&self) -> u64 {
        let names = ["memory.peak", "memory.max_usage_in_bytes"];
        let said = names.iter().find_map(|name| fs::read_to_string(self.at.join(name)).ok());
        said.and_then(|said| said.trim().parse().ok()).expect("a kernel tells a group's peak")
    }

    fn version_2(controller: &str) -> Option<Self> {
        let root = Path::new(ROOT);
        let offered = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
        if !offered.split_whitespace().any(|one| one == controller) {
            return None;
        }
        write(&root.join("cgroup.subtree_control"), &format!("+{controller}"));
        Some(Self::below(root))
    }

    fn version_1(controller: &str) -> Self {
        let root = Path::new(ROOT).join(controller);
        assert!(
            root.join("cgroup.procs").exists(),
            "this test needs the control group {controller}, which is not mounted in {ROOT} here"
        );
        Self::below(&root)
    }

    fn below(root: &Path) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);

        needs::root("to make a control group");
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let at = root.join(format!("postern-test-{}-{serial}", std::process::id()));
        fs::create_dir(&at).unwrap_or_else(|error| {
            panic!(
                "this test needs to make the control group {}, which is not permitted here: {error}",
                at.display()
            )
        });
        Self { at, root: root.to_owned() }
    }

    fn with(self, file: &str, value: &str) -> Self {
        write(&self.at.join(file), value);
        self
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever still runs goes back, since only an empty group can be removed.
        for pid in fs::read_to_string(self.at.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.root.join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.at) {
            eprintln!("{} stays: {error}", self.at.display());
        }
    }
}

fn write(path: &Path, value: &str) {
    fs::write(path, value)
        .unwrap_or_else(|error| panic!("{value} could not be written to {}: {error}", path.display()));
}
