//! How many file descriptors this process may have.

/// Raises the soft limit to the hard one and answers with what holds now. A connection takes one, and the soft limit that
/// usually binds (1024) is a leftover of `select`. Where the system has no such limit, as on Windows: `usize::MAX`.
#[cfg(unix)]
pub fn raise() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let current = if raised.is_ok() { limit.maximum } else { limit.current };
    current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Its twin.
#[cfg(not(unix))]
pub fn raise() -> usize {
    usize::MAX
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(unix)]
    fn what_is_raised_holds() {
        let said = super::raise();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit.current.map_or(usize::MAX, |limit| limit as usize), said);
    }
}
