//! What a running process has used, as the kernel counts it.

use std::fs;

use crate::machine::field;

/// Memory of a process at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, pages shared with other processes counted in full: what `ps` calls RSS.
    pub(crate) rss_mib: f64,
    /// Resident, each shared page divided by the number of processes that share it.
    pub(crate) pss_mib: f64,
}

/// # Panics
/// When the process is gone: then there is nothing to measure.
pub(crate) fn memory(pid: u32) -> Memory {
    Memory {
        rss_mib: mib(&format!("/proc/{pid}/status"), "VmRSS"),
        pss_mib: mib(&format!("/proc/{pid}/smaps_rollup"), "Pss"),
    }
}

/// CPU seconds, user and system, that all threads of the processes have used since they started.
/// The kernel counts in ticks, usually 10 ms.
///
/// # Panics
/// When one of them is gone.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| ticks(pid)).sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// A process and all that it and its children started, as far as they live.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(&member) = family.get(seen) {
        // Gone meanwhile: then it has no children either.
        let children = fs::read_to_string(format!("/proc/{member}/task/{member}/children"));
        family.extend(
            children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()),
        );
        seen += 1;
    }
    family
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .unwrap_or_else(|error| panic!("process {pid} cannot be looked at: {error}"));
    // The name, in parentheses, may hold anything; what follows it is columns, from the third on.
    let (_, columns) = stat.rsplit_once(')').expect("/proc/PID/stat has a name in parentheses");
    let mut columns = columns.split_whitespace().skip(11).map_while(|word| word.parse::<u64>().ok());
    let user = columns.next().expect("utime is the 14th column");
    let system = columns.next().expect("stime is the 15th column");
    user + system
}

fn mib(path: &str, name: &str) -> f64 {
    let value = field(path, name).unwrap_or_else(|| panic!("{path} has no {name}: the process is gone"));
    let kib = value.strip_suffix(" kB").and_then(|number| number.trim().parse::<f64>().ok());
    kib.unwrap_or_else(|| panic!("{name} in {path} is no amount of kB: {value}")) / 1024.0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_that_works_uses_cpu() {
        let ourselves = [std::process::id()];
        let before = cpu_seconds(&ourselves);
        let began = Instant::now();
        let mut work = 0u64;
        while cpu_seconds(&ourselves) <= before {
            assert!(began.elapsed() < Duration::from_secs(10), "ten seconds of work were not counted");
            work = std::hint::black_box(work + 1);
        }
    }

    #[test]
    fn memory_that_is_touched_is_resident() {
        let before = memory(std::process::id());
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = memory(std::process::id());

        assert!(after.rss_mib - before.rss_mib > 60.0, "{before:?} → {after:?}");
        assert!(after.pss_mib - before.pss_mib > 60.0, "{before:?} → {after:?}");
        drop(held);
    }
}
