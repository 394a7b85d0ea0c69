//! Which traces are told of: a share of them, decided by their ids alone, so that both ends of a tunnel decide alike.

use crate::span::{TraceId, halves};

/// A share of all traces, between none and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// In millionths.
    share: u32,
}

const ALL: u32 = 1_000_000;

/// Why a number is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a share of connections is a number from 0 (none) to 1 (all), as in 0.1")]
pub struct NoShare;

impl Sample {
    pub const EVERYTHING: Self = Self { share: ALL };

    /// `share` from 0 to 1.
    pub fn new(share: f64) -> Result<Self, NoShare> {
        if !(0.0..=1.0).contains(&share) {
            return Err(NoShare);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a million, checked above"
        )]
        let share = (share * f64::from(ALL)).round() as u32;
        Ok(Self { share })
    }

    /// The second half of an id decides: what a smaller share takes, a larger one takes too.
    pub(crate) fn takes(self, trace: TraceId) -> bool {
        let [_, second] = halves(trace);
        let position = u128::from(u64::from_be_bytes(second));
        position * u128::from(ALL) < (u128::from(self.share) << 64)
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::EVERYTHING
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", f64::from(self.share) / f64::from(ALL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_its_part_and_a_larger_one_takes_that_too() {
        let ids = (0..=255).map(|first| {
            let mut id = [0; 16];
            id[8] = first;
            id
        });
        let quarter = Sample::new(0.25).unwrap();
        assert_eq!(ids.clone().filter(|id| quarter.takes(*id)).count(), 64);
        assert_eq!(ids.clone().filter(|id| Sample::EVERYTHING.takes(*id)).count(), 256);
        assert_eq!(ids.filter(|id| Sample::new(0.0).unwrap().takes(*id)).count(), 0);
        assert!(Sample::EVERYTHING.takes([255; 16]));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for odd in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Sample::new(odd), Err(NoShare), "{odd}");
        }
        assert_eq!(Sample::new(0.1).unwrap().to_string(), "0.1");
    }
}
