//! The allow-list's file, read again when it changes.
//!
//! It is looked at when a stream asks, at most once a second: the next stream after a change
//! already lives under the new list, and nothing needs to run in between.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use super::allow_list::AllowList;
use crate::config::{ConfigError, read_allow_list};
use program::explain;

/// How old a look at the file may be.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// An allow-list and where it comes from.
pub(super) struct ListFile {
    list: Arc<AllowList>,
    own_ports: Vec<u16>,
    source: Option<Source>,
}

struct Source {
    path: PathBuf,
    /// What the file looked like when it was last read.
    seen: Look,
    looked: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Missing,
    Present { modified: Option<SystemTime>, bytes: u64 },
    Unreadable(io::ErrorKind),
}

impl ListFile {
    /// A list that stands in the configuration and changes only with a restart.
    pub(super) fn fixed(list: AllowList, own_ports: &[u16]) -> Self {
        Self { list: Arc::new(list.protecting(own_ports)), own_ports: own_ports.to_vec(), source: None }
    }

    /// Reads the file. A missing one allows nothing, and the log says so.
    pub(super) fn open(path: &Path, own_ports: &[u16]) -> Result<Self, ConfigError> {
        let seen = look(path);
        let list = read(path, &seen)?.protecting(own_ports);
        let source = Source { path: path.to_owned(), seen, looked: Instant::now() };
        Ok(Self { list: Arc::new(list), own_ports: own_ports.to_vec(), source: Some(source) })
    }

    pub(super) fn protect(&mut self, own_port: u16) {
        self.own_ports.push(own_port);
        self.list = Arc::new(AllowList::clone(&self.list).protecting(&self.own_ports));
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.source.as_ref().map(|source| source.path.as_path())
    }

    /// The list, read again if the file changed. A file with a mistake leaves the last good list
    /// in force; a removed file allows nothing.
    pub(super) fn current(&mut self) -> Arc<AllowList> {
        if self.source.as_ref().is_some_and(|source| source.looked.elapsed() >= LOOK_INTERVAL) {
            self.look_again();
        }
        self.list.clone()
    }

    fn look_again(&mut self) {
        let Some(source) = &mut self.source else { return };
        source.looked = Instant::now();
        let seen = look(&source.path);
        if seen == source.seen {
            return;
        }
        source.seen = seen;
        match read(&source.path, &source.seen) {
            Ok(list) => {
                info!(path = %source.path.display(), entries = list.len(), "Allow-list read again");
                self.list = Arc::new(list.protecting(&self.own_ports));
            }
            Err(error) => {
                warn!(
                    problem = explain(&error),
                    "The changed allow-list is not used; the last good one stays in force"
                );
            }
        }
    }
}

fn look(path: &Path) -> Look {
    match fs::metadata(path) {
        Ok(file) => Look::Present { modified: file.modified().ok(), bytes: file.len() },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Look::Missing,
        Err(error) => Look::Unreadable(error.kind()),
    }
}

fn read(path: &Path, seen: &Look) -> Result<AllowList, ConfigError> {
    match seen {
        Look::Missing => {
            warn!(path = %path.display(), "There is no allow-list: every destination is refused");
            Ok(AllowList::default())
        }
        Look::Present { .. } | Look::Unreadable(_) => read_allow_list(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[[allow]]\nhost = \"10.0.0.1\"\nports = 1\n";
    const TWO: &str =
        "[[allow]]\nhost = \"10.0.0.1\"\nports = 1\n[[allow]]\nhost = \"10.0.0.2\"\nports = 1\n";

    #[test]
    fn a_changed_file_counts_from_the_next_look_on() {
        let (_folder, path) = file(ONE);
        let mut list = ListFile::open(&path, &[]).unwrap();
        fs::write(&path, TWO).unwrap();
        list.look_again();
        assert_eq!(list.current().len(), 2);
    }

    #[test]
    fn a_mistake_leaves_the_last_good_list_in_force_and_its_correction_replaces_it() {
        let (_folder, path) = file(ONE);
        let mut list = ListFile::open(&path, &[]).unwrap();
        fs::write(&path, "[[allow]]\nhost = \"127.1\"\nports = 1").unwrap();
        list.look_again();
        assert_eq!(list.current().len(), 1);
        fs::write(&path, TWO).unwrap();
        list.look_again();
        assert_eq!(list.current().len(), 2);
    }

    #[test]
    fn without_a_file_nothing_is_allowed_and_removing_it_forbids_everything() {
        let (_folder, path) = file(ONE);
        let mut list = ListFile::open(&path, &[]).unwrap();
        fs::remove_file(&path).unwrap();
        list.look_again();
        assert!(list.current().is_empty());
        assert!(ListFile::open(&path, &[]).unwrap().current().is_empty());
    }

    #[test]
    fn a_mistake_at_the_start_is_an_error_with_its_place() {
        let (_folder, path) = file("[[allow]]\nhosts = \"x\"\nports = 1");
        let Err(error) = ListFile::open(&path, &[]) else { panic!("a bad list was taken") };
        assert!(error.to_string().contains("allow-list.toml:2:1"), "{error}");
    }

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allow-list.toml");
        fs::write(&path, content).unwrap();
        (folder, path)
    }
}
