//! The machine the figures were made on: without it, a figure is hearsay.

use std::fs;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let memory_kib = field("/proc/meminfo", "MemTotal").and_then(|value| {
            let (number, _unit) = value.split_once(' ')?;
            number.parse::<u64>().ok()
        });
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn summary(&self) -> String {
        format!("{} × {}, {} MiB, Linux {}", self.cores, self.cpu, self.memory_mib, self.kernel)
    }
}

/// Runnable processes, averaged over 1, 5 and 15 minutes. Taken before and after each measurement,
/// because a stranger's build on the same cores is the usual reason for an odd figure.
pub(crate) fn load() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").expect("Linux has /proc/loadavg");
    let mut averages = text.split_whitespace().map_while(|word| word.parse().ok());
    [(); 3].map(|()| averages.next().expect("/proc/loadavg begins with three numbers"))
}

/// The value of the first line `name: value` in a file of /proc.
pub(crate) fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
