//! Many streams of mixed traffic that never pause all at once: bulk both ways, requests and responses, one way
//! only, short ones, and people who take their time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_tests::{Conversation, Dice, Partner, wait_until};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::SOON;

const CONVERSATION_MAX_BYTES: u64 = 2 << 20;
/// Of those who do not pause: what the tunnel carries in well under [`SOON`], all of them together.
const BULK_MAX_BYTES: u64 = 16 << 20;
const SHORT_MAX_BYTES: u64 = 4 << 10;
/// Between two pieces of 16 KiB: together they fill a websocket in moments, and not before it counts as
/// one that worked.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// People who talk to a [`Partner`] through the gateway, one conversation after another.
pub(super) struct Crowd {
    people: JoinSet<()>,
    held: Arc<AtomicUsize>,
    over: watch::Sender<bool>,
}

/// How a crowd talks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Everybody takes his time: many cuts fall into each conversation.
    Calm,
    /// Of five, four do not: as many bytes as the machine moves.
    Hurried,
}

impl Crowd {
    /// Starts `count` of them. A fault ends its conversation, and the test.
    pub(super) fn gather(count: usize, manner: Manner, seed: u64, at: SocketAddr) -> Self {
        let (over, held) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
        let mut people = JoinSet::new();
        for number in 0..count {
            let (over, held) = (over.subscribe(), Arc::clone(&held));
            let mut dice = Dice::new(seed.wrapping_add(number as u64));
            people.spawn(async move {
                while !*over.borrow() {
                    let conversation = match (manner, number % 5) {
                        (Manner::Hurried, 0) => bulk(&mut dice),
                        (Manner::Hurried, 1) => in_turns(&mut dice),
                        (Manner::Hurried, 2) => one_way(&mut dice),
                        (Manner::Hurried, 3) => short(&mut dice),
                        (Manner::Hurried, _) | (Manner::Calm, _) => leisurely(&mut dice),
                    };
                    if let Err(fault) = conversation.hold(at).await {
                        panic!("{conversation:?} went wrong: {fault:?}");
                    }
                    held.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { people, held, over }
    }

    /// How many conversations came to their proper end so far.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits until the crowd has got somewhere from where it was.
    pub(super) async fn goes_on(&mut self) {
        let before = self.held();
        wait_until("conversations are held", SOON, async || {
            self.no_faults();
            (self.held() > before + self.people.len()).then_some(())
        })
        .await;
    }

    /// Panics with the first fault, if there was one.
    pub(super) fn no_faults(&mut self) {
        if let Some(Err(fault)) = self.people.try_join_next() {
            std::panic::resume_unwind(fault.into_panic());
        }
    }

    /// Lets everybody finish, and compares the accounts of both sides: not a byte too few or too many.
    pub(super) async fn disperse(mut self, partner: &Partner) -> usize {
        self.over.send_replace(true);
        let everybody = async {
            while let Some(one) = self.people.join_next().await {
                if let Err(fault) = one {
                    std::panic::resume_unwind(fault.into_panic());
                }
            }
        };
        tokio::time::timeout(SOON, everybody).await.expect("everybody comes to an end");
        let held = self.held.load(Ordering::Relaxed);
        wait_until("both sides count the same", SOON, async || (partner.held() == held).then_some(())).await;
        assert_eq!(partner.faults(), [""; 0]);
        held
    }
}

/// Large both ways at once.
fn bulk(dice: &mut Dice) -> Conversation {
    let bytes = |dice: &mut Dice| BULK_MAX_BYTES / 2 + dice.below(BULK_MAX_BYTES / 2);
    Conversation { seed: dice.throw(), up_bytes: bytes(dice), down_bytes: bytes(dice), ..Default::default() }
}

/// A small request and a larger response, many times.
fn in_turns(dice: &mut Dice) -> Conversation {
    let turns = 1 + dice.below(200);
    let (up_bytes, down_bytes) = (turns * (1 + dice.below(500)), turns * (1 + dice.below(20_000)));
    Conversation { seed: dice.throw(), up_bytes, down_bytes, turns, ..Default::default() }
}

/// Half-closed almost at once, in one direction or the other.
fn one_way(dice: &mut Dice) -> Conversation {
    let (seed, bytes) = (dice.throw(), 1 + dice.below(BULK_MAX_BYTES));
    match dice.below(2) {
        0 => Conversation { seed, up_bytes: bytes, ..Default::default() },
        _ => Conversation { seed, down_bytes: bytes, ..Default::default() },
    }
}

/// Over before it has begun: opens and ends are what this is about.
fn short(dice: &mut Dice) -> Conversation {
    let bytes = |dice: &mut Dice| dice.below(SHORT_MAX_BYTES);
    Conversation { seed: dice.throw(), up_bytes: bytes(dice), down_bytes: bytes(dice), ..Default::default() }
}

fn leisurely(dice: &mut Dice) -> Conversation {
    let bytes = |dice: &mut Dice| match dice.below(5) {
        0 => 0,
        _ => dice.of_any_size(CONVERSATION_MAX_BYTES),
    };
    Conversation {
        seed: dice.throw(),
        up_bytes: bytes(dice),
        down_bytes: bytes(dice),
        pause: PAUSE_MIN + (PAUSE_MAX - PAUSE_MIN).mul_f64(dice.below(1000) as f64 / 1000.0),
        turns: 0,
    }
}
