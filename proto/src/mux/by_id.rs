//! Tables of streams. A lookup happens a dozen times for every frame, so its hash is one multiplication.
//!
//! The peer may choose the numbers of its streams, so the multiplier is secret: without it nobody can choose numbers
//! that fall on the same place.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::frame::StreamId;

/// Something for each stream.
pub(crate) type ById<T> = HashMap<StreamId, T, Secret>;

/// A random odd multiplier, another one for each table.
#[derive(Clone, Debug)]
pub(crate) struct Secret(u64);

impl Default for Secret {
    fn default() -> Secret {
        // The standard library's own source of secrets for tables.
        Secret(RandomState::new().hash_one(0) | 1)
    }
}

impl BuildHasher for Secret {
    type Hasher = Multiplied;

    fn build_hasher(&self) -> Multiplied {
        Multiplied { secret: self.0, hash: 0 }
    }
}

/// The product of number and secret, both halves of it: tables use the lowest and the highest bits.
pub(crate) struct Multiplied {
    secret: u64,
    hash: u64,
}

impl Hasher for Multiplied {
    fn write_u32(&mut self, number: u32) {
        let product = u128::from(self.hash ^ u64::from(number)) * u128::from(self.secret);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Stream numbers are hashed as what they are; whatever else comes is hashed all the same.
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn finish(&self) -> u64 {
        // A number below 2^32 times the secret leaves little in the upper half: spread it once more.
        self.hash.wrapping_mul(self.secret).rotate_left(26) ^ self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_one_end_spread_over_the_low_and_the_high_bits() {
        let secret = Secret::default();
        let hashes: Vec<u64> = (0..4096).map(|number| secret.hash_one(StreamId(number * 2 + 1))).collect();
        for (what, of) in [("low", (|hash| hash & 0xfff) as fn(u64) -> u64), ("high", |hash| hash >> 57)] {
            let mut places = HashMap::new();
            for hash in &hashes {
                *places.entry(of(*hash)).or_insert(0) += 1;
            }
            let fullest = places.values().max().copied().unwrap_or(0);
            let fair = hashes.len() / if what == "low" { 4096 } else { 128 };
            assert!(fullest <= fair * 4 + 16, "{fullest} of {} share their {what} bits", hashes.len());
        }
    }

    #[test]
    fn two_tables_have_different_secrets() {
        assert_ne!(Secret::default().0, Secret::default().0);
    }
}
