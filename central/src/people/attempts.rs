//! How often somebody may try to sign in. Pure: time comes as `now`.
//!
//! ```text
//!   one address        BURST at once, then one in PEER_EVERY        guessing many accounts from one place
//!   one account        BURST at once, then one in ACCOUNT_EVERY     guessing one account from many places
//!     └ from an address its owner has signed in from before: a budget of its own
//! ```
//!
//! Without the last line a stranger who guesses without end would lock the owner out without end. Whoever
//! comes from a new address meanwhile still has an API token, and `posternctl`.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use proto::EnvironmentName;
use tokio::time::Instant;

use crate::budgets::Budgets;

/// One more for an address.
const PEER_EVERY: Duration = Duration::from_secs(6);
/// One more for an account.
const ACCOUNT_EVERY: Duration = Duration::from_secs(30);

/// An account as it was typed: it need not exist.
pub(super) type Account = (EnvironmentName, String);

/// The budgets.
#[derive(Default)]
pub(super) struct Attempts {
    peers: Budgets<Option<IpAddr>>,
    accounts: Budgets<Account>,
    familiar: Budgets<(Account, Option<IpAddr>)>,
}

/// Who tries.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) peer: Option<IpAddr>,
    pub(super) account: Account,
    /// The account's owner has signed in from there before.
    pub(super) familiar: bool,
}

impl Attempts {
    /// Takes one attempt out of the budgets, or says how long to wait.
    pub(super) fn admit(&mut self, attempt: &Attempt, now: Instant) -> Result<(), Duration> {
        let peer = attempt.peer.map(network);
        self.peers.take(peer, PEER_EVERY, now)?;
        let taken = match attempt.familiar {
            true => self.familiar.take((attempt.account.clone(), peer), PEER_EVERY, now),
            false => self.accounts.take(attempt.account.clone(), ACCOUNT_EVERY, now),
        };
        taken.inspect_err(|_| self.peers.give_back(&peer, PEER_EVERY))
    }

    /// As [`Self::admit`], where nobody knows yet whose account it will be.
    pub(super) fn admit_from(&mut self, peer: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        self.peers.take(peer.map(network), PEER_EVERY, now)
    }

    /// Somebody came of it: what it took is given back.
    pub(super) fn succeeded_from(&mut self, peer: Option<IpAddr>) {
        self.peers.give_back(&peer.map(network), PEER_EVERY);
    }

    /// It was the right password: what it took is given back.
    pub(super) fn succeeded(&mut self, attempt: &Attempt) {
        let peer = attempt.peer.map(network);
        self.peers.give_back(&peer, PEER_EVERY);
        match attempt.familiar {
            true => self.familiar.give_back(&(attempt.account.clone(), peer), PEER_EVERY),
            false => self.accounts.give_back(&attempt.account, ACCOUNT_EVERY),
        }
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budgets::BURST;

    #[test]
    fn one_address_tries_ten_times_and_then_slowly() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        // Each time another account, so that only the address counts.
        let mut from_one_place =
            |n: u32, now| attempts.admit(&attempt("192.0.2.1", &n.to_string(), false), now);
        assert!((0..BURST).all(|n| from_one_place(n, now).is_ok()));
        assert_eq!(from_one_place(10, now), Err(PEER_EVERY));
        assert_eq!(from_one_place(11, now + PEER_EVERY), Ok(()));
        assert!(from_one_place(12, now + PEER_EVERY).is_err());
    }

    #[test]
    fn one_account_is_guarded_against_many_addresses() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let mut from = |n: u32| attempts.admit(&attempt(&format!("192.0.2.{n}"), "anna", false), now);
        assert!((0..BURST).all(|n| from(n).is_ok()));
        assert_eq!(from(99), Err(ACCOUNT_EVERY));
    }

    #[test]
    fn a_stranger_who_never_stops_does_not_lock_the_owner_out() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for second in 0..3600_u32 {
            now += Duration::from_secs(1);
            let stranger = format!("198.51.{}.{}", second % 200, second % 250);
            let _ = attempts.admit(&attempt(&stranger, "anna", false), now);
        }
        assert!(attempts.admit(&attempt("192.0.2.1", "anna", false), now).is_err());
        assert_eq!(attempts.admit(&attempt("192.0.2.1", "anna", true), now), Ok(()));
    }

    #[test]
    fn the_right_password_costs_nothing() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let anna = attempt("192.0.2.1", "anna", false);
        for _ in 0..100 {
            attempts.admit(&anna, now).unwrap();
            attempts.succeeded(&anna);
        }
    }

    #[test]
    fn a_whole_ipv6_network_is_one_address() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let from = |n: u32| attempt(&format!("2001:db8::{n:x}"), &n.to_string(), false);
        assert!((0..BURST).all(|n| attempts.admit(&from(n), now).is_ok()));
        assert!(attempts.admit(&from(99), now).is_err());
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1");
    }

    fn attempt(peer: &str, account: &str, familiar: bool) -> Attempt {
        let account = ("default".parse().unwrap(), account.to_owned());
        Attempt { peer: Some(peer.parse().unwrap()), account, familiar }
    }
}
