//! One stored value: CRC32 ‖ JSON, where the checksum also covers the key.
//!
//! A record read under another key than it was written under (a page mixed up, a tree confused)
//! fails its checksum exactly like a flipped bit.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

const CRC_BYTES: usize = 4;

/// Why stored bytes are not the record that was written under this key.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes differ from what was written, or were written under another key.
    #[error("the record under key {key} is damaged: its checksum does not match")]
    Checksum { key: Key },
    /// The bytes are what was written, but not by a build that this one understands.
    #[error("the record under key {key} is not understood")]
    Content { key: Key, source: serde_json::Error },
    /// The value cannot be written as JSON.
    #[error("a value for key {key} could not be encoded")]
    Encode { key: Key, source: serde_json::Error },
}

/// A key as people read it: text where it is text, hexadecimal otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => f.write_str(text),
            _ => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// The bytes to store under `key`.
pub fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![0; CRC_BYTES];
    serde_json::to_writer(&mut bytes, value)
        .map_err(|source| RecordError::Encode { key: Key(key.to_vec()), source })?;
    let crc = checksum(key, &bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The value that was stored under `key` as `bytes`.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, RecordError> {
    let damaged = || RecordError::Checksum { key: Key(key.to_vec()) };
    let (crc, json) = bytes.split_first_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*crc) != checksum(key, json) {
        return Err(damaged());
    }
    serde_json::from_slice(json).map_err(|source| RecordError::Content { key: Key(key.to_vec()), source })
}

fn checksum(key: &[u8], json: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(json);
    crc.finalize()
}

impl From<RecordError> for std::io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(key: Vec<u8>, value: Vec<u64>) {
            let bytes = encode(&key, &value).unwrap();
            prop_assert_eq!(decode::<Vec<u64>>(&key, &bytes).unwrap(), value);
        }

        #[test]
        fn a_flipped_bit_is_noticed(key: Vec<u8>, value: Vec<u64>, at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encode(&key, &value).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let noticed = matches!(decode::<Vec<u64>>(&key, &bytes), Err(RecordError::Checksum { .. }));
            prop_assert!(noticed);
        }

        #[test]
        fn bytes_from_anywhere_never_panic(key: Vec<u8>, bytes: Vec<u8>) {
            let _ = decode::<Vec<u64>>(&key, &bytes);
        }
    }

    #[test]
    fn a_record_under_another_key_is_noticed() {
        let bytes = encode(b"7", &"seven").unwrap();
        let error = decode::<String>(b"8", &bytes).unwrap_err();
        assert_eq!(error.to_string(), "the record under key 8 is damaged: its checksum does not match");
    }
}
