//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as it goes; false if that is fewer than `wanted`.
pub fn allow_files(wanted: usize) -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("a limit can be raised to its maximum");
    maximum.is_none_or(|maximum| maximum >= wanted as u64)
}
