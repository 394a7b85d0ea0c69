//! What a backup says, before it is sealed and after it was opened: one JSON object a line.
//!
//! ```text
//!   {"begin":{"format":1,"central":"0.1.0","made_at":"…","revision":4711}}
//!   {"file":{"path":"ca/ca-key.pem","private":true,"content":"BASE64"}}
//!   {"record":{"owner":"default","collection":"destinations","key":"db","version":42,"value":{…}}}
//!   {"end":{"files":4,"records":1234,"sha256":"…"}}
//! ```
//!
//! The last line counts, and holds the hash of all lines before it. Nothing but files from [`PATHS`] is taken: a path
//! from outside never decides where something is written.

use std::{
    fs, io,
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::store::{Dumped, Revision, Store, StoreError, VALUE_BYTES_MAX};

/// Grows when an older central could not read a newer one's backup.
pub const FORMAT: u32 = 1;
/// The files beside the store, and whether they are secret. The first administrator's token is one of them, for whoever
/// works with that file.
pub(super) const PATHS: [(&str, bool); 5] = [
    ("ca/ca-key.pem", true),
    ("ca/server.pem", true),
    ("ca.pem", false),
    ("secrets.key", true),
    ("admin.token", true),
];
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// A record, its escapes and its frame.
const LINE_BYTES_MAX: u64 = 4 * VALUE_BYTES_MAX as u64;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    Begin {
        format: u32,
        central: String,
        #[serde(with = "time::serde::rfc3339")]
        made_at: OffsetDateTime,
        /// The store's: no record is newer.
        revision: Revision,
    },
    File {
        path: String,
        private: bool,
        content: String,
    },
    Record(Dumped),
    End(Counted),
}

/// What was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub files: u64,
    pub records: u64,
    /// Of all lines before the last, their line ends included.
    pub sha256: String,
}

/// Why a content is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("line {0} is longer than any line of a backup")]
    Long(u64),
    #[error("line {line} cannot be read: {why}")]
    Unreadable { line: u64, why: String },
    #[error("the backup has format {0}; this program reads {FORMAT}: use a newer one")]
    Newer(u32),
    #[error("line {line} stands where it must not: {what}")]
    Misplaced { line: u64, what: &'static str },
    #[error("the file {0} does not belong into a backup")]
    Path(String),
    #[error("what is in it differs from what its last line says: {said:?} said, {found:?} found")]
    Miscounted { said: Counted, found: Counted },
    #[error("the last line is missing")]
    NoEnd,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All lines of a backup, as central gives them. Holds the store's records in memory until they are read.
pub struct Content {
    lines: std::vec::IntoIter<Line>,
    hash: Sha256,
    counted: (u64, u64),
    ended: bool,
}

impl Content {
    /// The state of a central as of one moment: no commit happens in between.
    pub async fn of(store: &dyn Store, data_dir: &Path, secrets_key: &Path) -> Result<Self, StoreError> {
        let (revision, records) = store.dump().await?;
        let mut lines = vec![Line::Begin {
            format: FORMAT,
            central: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: OffsetDateTime::now_utc(),
            revision,
        }];
        for (path, private) in PATHS {
            let at = if path == "secrets.key" { secrets_key.to_owned() } else { data_dir.join(path) };
            match read(&at) {
                Ok(content) => {
                    let (path, content) = (path.to_owned(), STANDARD.encode(content));
                    lines.push(Line::File { path, private, content });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::Failed(format!("{}: {error}", at.display()))),
            }
        }
        lines.extend(records.into_iter().map(Line::Record));
        Ok(Self { lines: lines.into_iter(), hash: Sha256::new(), counted: (0, 0), ended: false })
    }
}

impl Iterator for Content {
    type Item = Result<Vec<u8>, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let line = self.lines.next().unwrap_or_else(|| {
            self.ended = true;
            let (files, records) = self.counted;
            Line::End(Counted { files, records, sha256: hex(self.hash.clone()) })
        });
        match line {
            Line::File { .. } => self.counted.0 += 1,
            Line::Record(_) => self.counted.1 += 1,
            Line::Begin { .. } | Line::End(_) => {}
        }
        let mut bytes = match serde_json::to_vec(&line) {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        bytes.push(b'\n');
        self.hash.update(&bytes);
        Some(Ok(bytes))
    }
}

/// Reads a content to its end, hands each line on, and checks everything that can be checked. What was handed on counts
/// only if this returns `Ok`.
pub fn verify<E: From<ContentError>>(
    mut content: impl BufRead,
    mut take: impl FnMut(Line) -> Result<(), E>,
) -> Result<Counted, E> {
    let (mut hash, mut files, mut records, mut newest) = (Sha256::new(), 0, 0, None);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let limited = Read::by_ref(&mut content).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        let read = limited.map_err(ContentError::from)?;
        if read == 0 {
            return Err(ContentError::NoEnd.into());
        }
        if bytes.last() != Some(&b'\n') {
            let long = read as u64 == LINE_BYTES_MAX;
            return Err(if long { ContentError::Long(number) } else { ContentError::NoEnd }.into());
        }
        let unreadable =
            |error: serde_json::Error| ContentError::Unreadable { line: number, why: error.to_string() };
        let line: Line = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let misplaced = |what| ContentError::Misplaced { line: number, what };
        match (&line, newest) {
            (Line::Begin { format, .. }, None) if *format > FORMAT => {
                return Err(ContentError::Newer(*format).into());
            }
            (Line::Begin { revision, .. }, None) => newest = Some(*revision),
            (_, None) => return Err(misplaced("the first line says what follows").into()),
            (Line::Begin { .. }, Some(_)) => return Err(misplaced("only the first line begins").into()),
            (Line::File { path, private, content }, Some(_)) => {
                if !PATHS.contains(&(path.as_str(), *private)) {
                    return Err(ContentError::Path(path.chars().take(64).collect()).into());
                }
                STANDARD.decode(content).map_err(|_| misplaced("a file's content is base64"))?;
                files += 1;
            }
            (Line::Record(record), Some(newest)) => {
                if record.version > newest {
                    return Err(misplaced("a record is newer than the store was").into());
                }
                records += 1;
            }
            (Line::End(said), Some(_)) => {
                let found = Counted { files, records, sha256: hex(hash) };
                let said = said.clone();
                if said != found {
                    return Err(ContentError::Miscounted { said, found }.into());
                }
                if !content.fill_buf().map_err(ContentError::from)?.is_empty() {
                    return Err(misplaced("nothing follows the last line").into());
                }
                return Ok(found);
            }
        }
        hash.update(&bytes);
        take(line)?;
    }
    Err(ContentError::NoEnd.into())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Where a file of a backup lies in a data directory.
pub(super) fn place(data_dir: &Path, path: &str) -> Option<PathBuf> {
    PATHS.iter().find(|(known, _)| *known == path).map(|(known, _)| data_dir.join(known))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Action, Key, Owner, Precondition, Transaction, Write, memory::MemoryStore};

    #[tokio::test]
    async fn what_is_written_is_verified_to_its_last_line() {
        let (text, folder) = content().await;
        let mut lines = Vec::new();
        let counted = check(text.as_bytes(), &mut lines).unwrap();
        assert_eq!((counted.files, counted.records), (2, 2));
        assert!(text.starts_with(r#"{"begin":{"format":1,"#), "{text}");
        let found =
            lines.iter().any(|line| matches!(line, Line::Record(one) if one.value == json!({"b": 2})));
        assert!(found, "{lines:?}");
        drop(folder);
    }

    #[tokio::test]
    async fn a_line_that_is_changed_missing_or_added_is_noticed() {
        let (text, _folder) = content().await;
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for left_out in 0..lines.len() {
            let without: String =
                lines.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, line)| *line).collect();
            assert!(check(without.as_bytes(), &mut Vec::new()).is_err(), "without line {left_out}");
        }
        let twice = lines[..3].concat() + &lines[2..].concat();
        assert!(check(twice.as_bytes(), &mut Vec::new()).is_err());
        assert!(check(text.replace("\"b\":2", "\"b\":3").as_bytes(), &mut Vec::new()).is_err());
        assert!(check((text.clone() + "x").as_bytes(), &mut Vec::new()).is_err());
        assert!(check(text.replace("\"format\":1", "\"format\":2").as_bytes(), &mut Vec::new()).is_err());
    }

    #[test]
    fn no_path_from_outside_is_taken() {
        for path in ["../etc/passwd", "/etc/passwd", "db/conf", "ca"] {
            let lines = format!(
                "{{\"begin\":{{\"format\":1,\"central\":\"x\",\"made_at\":\"2026-01-01T00:00:00Z\",\"revision\":1}}}}\n\
                 {{\"file\":{{\"path\":\"{path}\",\"private\":true,\"content\":\"\"}}}}\n"
            );
            let refused = check(lines.as_bytes(), &mut Vec::new()).unwrap_err();
            assert!(matches!(refused, ContentError::Path(_)), "{refused}");
            assert_eq!(place(Path::new("/data"), path), None);
        }
    }

    async fn content() -> (String, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), "certificate").unwrap();
        fs::write(folder.path().join("key-elsewhere"), "key").unwrap();
        let store = MemoryStore::default();
        for (key, value) in [("a", json!({"a": 1})), ("b", json!({"b": 2}))] {
            let key = Key { owner: Owner::Central, collection: "things", key: key.into() };
            let write = Write { key, precondition: Precondition::Any, action: Action::Put(value) };
            store.commit(Transaction::from(write)).await.unwrap();
        }
        let content = Content::of(&store, folder.path(), &folder.path().join("key-elsewhere")).await.unwrap();
        let text = content.map(|line| String::from_utf8(line.unwrap()).unwrap()).collect();
        (text, folder)
    }

    fn check(content: &[u8], lines: &mut Vec<Line>) -> Result<Counted, ContentError> {
        verify(content, |line| {
            lines.push(line);
            Ok(())
        })
    }
}
