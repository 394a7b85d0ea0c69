//! A file that only a passphrase opens, and that shows every change, also a cut at its end.
//!
//! ```text
//!   "postern-backup 1\n"
//!   {"kdf":"argon2id","memory_kib":…,"passes":…,"lanes":…,"salt":"…","cipher":"chacha20-poly1305"}\n
//!   chunk, chunk, … last chunk          each: 4 bytes length, big endian, then that many bytes
//! ```
//!
//! The key is argon2id of the passphrase and a salt of this file's own, so a nonce may be counted: 11 bytes the chunk's
//! number, 1 byte whether it is the last. Bound to each chunk is the hash of everything before the first one.

use std::{
    fmt,
    io::{self, BufRead, Read, Write},
};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8] = b"postern-backup 1\n";
/// What a chunk holds, so that a reader of any file needs little memory.
const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
const HEADER_BYTES_MAX: u64 = 1024;
const SALT_BYTES: usize = 16;
/// About half a second and 64 MiB: nobody makes backups by the thousand, and whoever guesses does.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
/// What a file may ask of whoever opens it.
const COST_MAX: Cost = Cost { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };
/// A short one is found by trying.
const PASSPHRASE_CHARS_MIN: usize = 12;

/// What a backup is sealed with. Prints as `***`.
#[derive(Clone)]
pub struct Passphrase(String);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Serialize, Deserialize)]
struct Header {
    kdf: String,
    #[serde(flatten)]
    cost: Cost,
    salt: String,
    cipher: String,
}

/// Why a file does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("this is no backup of Postern, or one that a newer version made")]
    NotOurs,
    #[error("the backup asks for more than this program is willing to spend on a passphrase")]
    TooCostly,
    #[error("the passphrase is another one, or the backup's beginning was changed")]
    Passphrase,
    #[error("the backup is damaged or was changed, in its part {0}")]
    Damaged(u64),
    #[error("the backup breaks off: its end is missing")]
    CutOff,
    #[error("the key could not be made: {0}")]
    Key(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Passphrase {
    /// `None`: it is too short to withstand whoever gets the file.
    pub fn new(text: &str) -> Option<Self> {
        (text.chars().count() >= PASSPHRASE_CHARS_MIN).then(|| Self(text.to_owned()))
    }

    /// What is asked of one.
    pub fn wanted() -> String {
        format!(
            "a passphrase has at least {PASSPHRASE_CHARS_MIN} characters; a few words in a row are a good one"
        )
    }

    fn key(&self, cost: Cost, salt: &[u8]) -> Result<LessSafeKey, OpenError> {
        let failed = |error: argon2::Error| OpenError::Key(error.to_string());
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
        let mut key = [0; 32];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(self.0.as_bytes(), salt, &mut key).map_err(failed)?;
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &key);
        unbound.map(LessSafeKey::new).map_err(|_| OpenError::Key("it has another length".into()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One chunk's nonce and the bytes that are bound to each chunk.
struct Chunks {
    key: LessSafeKey,
    bound: [u8; 32],
    next: u64,
}

impl Chunks {
    fn new(key: LessSafeKey, header: &[u8]) -> Self {
        let bound = Sha256::new().chain_update(MAGIC).chain_update(header).finalize().into();
        Self { key, bound, next: 0 }
    }

    /// Of the next chunk.
    fn nonce(&self, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[3..NONCE_LEN - 1].copy_from_slice(&self.next.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }

    /// The next chunk's content, if it is that one.
    fn open(&self, sealed: &[u8], last: bool) -> Option<Vec<u8>> {
        let mut chunk = sealed.to_vec();
        let opened = self.key.open_in_place(self.nonce(last), Aad::from(self.bound), &mut chunk).ok()?.len();
        chunk.truncate(opened);
        Some(chunk)
    }
}

/// Writes a sealed file; nothing of it opens before [`finish`](Self::finish).
pub struct Sealing<W> {
    to: W,
    chunks: Chunks,
    waiting: Vec<u8>,
}

impl<W: Write> Sealing<W> {
    /// Takes about half a second: blocks.
    pub fn new(to: W, passphrase: &Passphrase) -> Result<Self, OpenError> {
        Self::with_cost(to, passphrase, COST)
    }

    fn with_cost(mut to: W, passphrase: &Passphrase, cost: Cost) -> Result<Self, OpenError> {
        let salt: [u8; SALT_BYTES] = rand::random();
        let header = Header {
            kdf: "argon2id".into(),
            cost,
            salt: STANDARD.encode(salt),
            cipher: "chacha20-poly1305".into(),
        };
        let mut line = serde_json::to_vec(&header).map_err(io::Error::from)?;
        line.push(b'\n');
        to.write_all(MAGIC)?;
        to.write_all(&line)?;
        let chunks = Chunks::new(passphrase.key(cost, &salt)?, &line);
        Ok(Self { to, chunks, waiting: Vec::with_capacity(CHUNK_BYTES) })
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        Ok(self.to)
    }

    fn put(&mut self, last: bool) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.waiting);
        let nonce = self.chunks.nonce(last);
        let sealed =
            self.chunks.key.seal_in_place_append_tag(nonce, Aad::from(self.chunks.bound), &mut chunk);
        sealed.map_err(|_| io::Error::other("a chunk could not be sealed"))?;
        self.chunks.next += 1;
        // 64 KiB and a tag fit.
        self.to.write_all(&(chunk.len() as u32).to_be_bytes())?;
        self.to.write_all(&chunk)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more, because the last one has to say so.
        if self.waiting.len() == CHUNK_BYTES {
            self.put(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a sealed file. What it gives is as it was written; the end comes only behind the last chunk.
pub struct Opening<R> {
    from: R,
    chunks: Chunks,
    opened: Vec<u8>,
    given: usize,
    ended: bool,
}

impl<R: BufRead> Opening<R> {
    /// Takes about half a second: blocks.
    pub fn new(mut from: R, passphrase: &Passphrase) -> Result<Self, OpenError> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).map_err(|_| OpenError::NotOurs)?;
        if magic != MAGIC {
            return Err(OpenError::NotOurs);
        }
        let mut line = Vec::new();
        Read::by_ref(&mut from).take(HEADER_BYTES_MAX).read_until(b'\n', &mut line)?;
        let header: Header = serde_json::from_slice(&line).map_err(|_| OpenError::NotOurs)?;
        let Header { kdf, cost, salt, cipher } = header;
        let salt = STANDARD.decode(salt).ok().filter(|salt| salt.len() == SALT_BYTES);
        let (Some(salt), "argon2id", "chacha20-poly1305") = (salt, kdf.as_str(), cipher.as_str()) else {
            return Err(OpenError::NotOurs);
        };
        let within = cost.memory_kib <= COST_MAX.memory_kib
            && cost.passes <= COST_MAX.passes
            && cost.lanes <= COST_MAX.lanes;
        if !within {
            return Err(OpenError::TooCostly);
        }
        let chunks = Chunks::new(passphrase.key(cost, &salt)?, &line);
        let mut opening = Self { from, chunks, opened: Vec::new(), given: 0, ended: false };
        opening.next().map_err(|error| match error {
            OpenError::Damaged(0) => OpenError::Passphrase,
            other => other,
        })?;
        Ok(opening)
    }

    fn next(&mut self) -> Result<(), OpenError> {
        let number = self.chunks.next;
        let mut length = [0; 4];
        self.from.read_exact(&mut length).map_err(cut_off)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(TAG_BYTES..=CHUNK_BYTES + TAG_BYTES).contains(&length) {
            return Err(OpenError::Damaged(number));
        }
        let mut chunk = vec![0; length];
        self.from.read_exact(&mut chunk).map_err(cut_off)?;
        let last = self.from.fill_buf()?.is_empty();
        self.opened = match self.chunks.open(&chunk, last) {
            Some(opened) => opened,
            // Whole, but not made to be the last: chunks behind it are missing.
            None if last && self.chunks.open(&chunk, false).is_some() => return Err(OpenError::CutOff),
            None => return Err(OpenError::Damaged(number)),
        };
        self.chunks.next += 1;
        (self.given, self.ended) = (0, last);
        Ok(())
    }
}

fn cut_off(error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::UnexpectedEof { OpenError::CutOff } else { error.into() }
}

impl<R: BufRead> Read for Opening<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.given == self.opened.len() {
            if self.ended {
                return Ok(0);
            }
            self.next().map_err(|error| match error {
                OpenError::Io(error) => error,
                other => io::Error::new(io::ErrorKind::InvalidData, other),
            })?;
        }
        let taken = to.len().min(self.opened.len() - self.given);
        to[..taken].copy_from_slice(&self.opened[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_alone() {
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let content = vec![b'x'; bytes];
            let sealed = seal(&content);
            assert!(!sealed.windows(20).any(|window| window == [b'x'; 20]));
            assert_eq!(open(&sealed, "correct horse battery").unwrap(), content, "{bytes}");
        }
        let error = open(&seal(b"x"), "another passphrase").unwrap_err();
        assert!(matches!(error, OpenError::Passphrase), "{error}");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let sealed = seal(&vec![b'x'; CHUNK_BYTES + 10]);
        let step = 997; // a prime, so that all places come by and the test stays quick
        for at in (0..sealed.len()).step_by(step).chain(0..200).chain(sealed.len() - 60..sealed.len()) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&changed, "correct horse battery").is_err(), "byte {at}");
            assert!(open(&sealed[..at], "correct horse battery").is_err(), "cut at {at}");
        }
        let mut longer = sealed.clone();
        longer.push(0);
        assert!(open(&longer, "correct horse battery").is_err());
    }

    #[test]
    fn a_file_that_ends_behind_a_whole_chunk_breaks_off() {
        let sealed = seal(&vec![b'x'; CHUNK_BYTES + 10]);
        let second = sealed.len() - (4 + 10 + TAG_BYTES);
        let error = open(&sealed[..second], "correct horse battery").unwrap_err();
        assert!(matches!(error, OpenError::CutOff), "{error}");
    }

    #[test]
    fn a_file_may_not_ask_for_a_machines_whole_memory() {
        let costly = br#"{"kdf":"argon2id","memory_kib":4294967295,"passes":3,"lanes":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","cipher":"chacha20-poly1305"}"#;
        let file = [MAGIC, costly, b"\n"].concat();
        assert!(matches!(open(&file, "correct horse battery"), Err(OpenError::TooCostly)));
        assert!(matches!(
            open(b"PK\x03\x04 something else", "correct horse battery"),
            Err(OpenError::NotOurs)
        ));
    }

    #[test]
    fn a_passphrase_is_long_and_never_shown() {
        assert!(Passphrase::new("short").is_none());
        assert_eq!(format!("{:?}", Passphrase::new("correct horse battery")), "Some(***)");
    }

    /// Cheap: the cost is written in the file.
    fn seal(content: &[u8]) -> Vec<u8> {
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let passphrase = Passphrase::new("correct horse battery").unwrap();
        let mut sealing = Sealing::with_cost(Vec::new(), &passphrase, cost).unwrap();
        sealing.write_all(content).unwrap();
        sealing.finish().unwrap()
    }

    fn open(sealed: &[u8], passphrase: &str) -> Result<Vec<u8>, OpenError> {
        let mut opening = Opening::new(sealed, &Passphrase::new(passphrase).unwrap())?;
        let mut content = Vec::new();
        opening.read_to_end(&mut content)?;
        Ok(content)
    }
}
