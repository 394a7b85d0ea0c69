//! What survives a websocket: the numbers of what was sent and received, and the part nobody acknowledged.
//!
//! ```text
//!   sender    1 ……… acked │ acked+1 ……… last │            kept until acknowledged, sent again after a cut
//!   receiver  1 ……… received │ received+1 is the only one that may come next
//! ```
//!
//! After a cut each end tells the other how far it came; exactly the frames above that are sent again, so nothing
//! arrives twice and nothing is missing. The peer's word is checked: it can only name frames that were sent and
//! not yet given up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::{Body, Frame, StreamId};

/// An acknowledgement waits at most this long…
const ACK_AFTER: Duration = Duration::from_millis(25);
/// …or for this many bytes…
const ACK_AFTER_BYTES: usize = 256 * 1024;
/// …or this many frames…
const ACK_AFTER_FRAMES: u32 = 512;
/// …or for this many bytes of which the first came this long ago: on a line that is not fast the sender should know what
/// is still under way, and a few hundred acknowledgements a second cost nothing.
const ACK_SOON_BYTES: usize = 32 * 1024;
const ACK_SOON: Duration = Duration::from_millis(2);

/// Why a tunnel cannot go on over a new websocket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    #[error("the peer claims to have received frame {claimed}, the last one sent was {sent}")]
    NeverSent { claimed: u64, sent: u64 },
    #[error("the peer claims to have received frames up to {claimed}, but it acknowledged {acked} before")]
    WentBack { claimed: u64, acked: u64 },
    #[error("the tunnel still has a websocket")]
    StillAttached,
    #[error("the tunnel is over: {0}")]
    Over(crate::frame::Reset),
}

/// Frames sent, and kept until the peer has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    /// The last number given to a frame.
    last: u64,
    acked: u64,
    /// All that was ever acknowledged.
    acked_bytes: u64,
    kept: VecDeque<Frame>,
    kept_bytes: usize,
    /// How many of `kept`, from the back, still have to be sent again.
    again: usize,
}

impl Outbox {
    /// The last frame that went out, on this websocket or an earlier one that the peer says it received.
    pub(super) fn sent(&self) -> u64 {
        self.last - self.again as u64
    }

    /// Old frames go first: while there are any, nothing new may be numbered.
    pub(super) fn is_repeating(&self) -> bool {
        self.again > 0
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn acked_bytes(&self) -> u64 {
        self.acked_bytes
    }

    pub(super) fn kept_frames(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Numbers a frame and keeps it; the copy shares its bytes.
    pub(super) fn number(&mut self, stream: StreamId, body: Body) -> Frame {
        debug_assert_eq!(self.again, 0, "old frames go first");
        self.last += 1;
        let frame = Frame { seq: self.last, stream, body };
        self.kept_bytes += frame.encoded_len();
        self.kept.push_back(frame.clone());
        frame
    }

    /// The next frame that has to be sent again.
    pub(super) fn next_again(&mut self) -> Option<Frame> {
        let frame = self.kept.get(self.kept.len().checked_sub(self.again)?)?.clone();
        self.again -= 1;
        Some(frame)
    }

    /// Lets go of everything up to `through`, which the caller has checked; `each` sees every frame once more.
    pub(super) fn acknowledge(&mut self, through: u64, mut each: impl FnMut(&Frame)) {
        while self.kept.front().is_some_and(|frame| frame.seq <= through) {
            if let Some(frame) = self.kept.pop_front() {
                each(&frame);
                self.kept_bytes -= frame.encoded_len();
                self.acked_bytes += frame.encoded_len() as u64;
            }
        }
        self.again = self.again.min(self.kept.len());
        self.acked = through;
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    pub(super) fn restart(
        &mut self,
        peer_received: u64,
        each: impl FnMut(&Frame),
    ) -> Result<(), ResumeError> {
        if peer_received > self.last {
            return Err(ResumeError::NeverSent { claimed: peer_received, sent: self.last });
        }
        if peer_received < self.acked {
            return Err(ResumeError::WentBack { claimed: peer_received, acked: self.acked });
        }
        self.acknowledge(peer_received, each);
        self.again = self.kept.len();
        Ok(())
    }

    /// The tunnel is over: nothing will be sent again.
    pub(super) fn give_up(&mut self) {
        self.kept = VecDeque::new();
        self.kept_bytes = 0;
        self.again = 0;
    }
}

/// What arrived, and what the peer has not been told about.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    received: u64,
    untold_bytes: usize,
    untold_frames: u32,
    /// When the first of them came.
    untold_since: Option<Instant>,
    ack_at: Option<Instant>,
    ack_now: bool,
}

impl Inbox {
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Counts a frame; `Err` names the number that should have come.
    pub(super) fn arrive(&mut self, frame: &Frame, now: Instant) -> Result<(), u64> {
        let expected = self.received + 1;
        if frame.seq != expected {
            return Err(expected);
        }
        self.received = expected;
        self.untold_bytes += frame.encoded_len();
        self.untold_frames += 1;
        let since = *self.untold_since.get_or_insert(now);
        if self.untold_bytes >= ACK_AFTER_BYTES || self.untold_frames >= ACK_AFTER_FRAMES {
            self.ack_now = true;
        } else {
            let soon = self.untold_bytes >= ACK_SOON_BYTES;
            let at = since + if soon { ACK_SOON } else { ACK_AFTER };
            self.ack_now |= soon && at <= now;
            self.ack_at = Some(at);
        }
        Ok(())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_now = true;
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        if self.ack_now { None } else { self.ack_at }
    }

    pub(super) fn is_ack_due(&self) -> bool {
        self.ack_now
    }

    /// The acknowledgement that is due, if one is.
    pub(super) fn take_ack(&mut self) -> Option<u64> {
        if !self.ack_now {
            return None;
        }
        self.told();
        Some(self.received)
    }

    /// An acknowledgement of whatever has come, due or not.
    pub(super) fn take_ack_early(&mut self) -> Option<u64> {
        self.ack_now |= self.untold_frames > 0;
        self.take_ack()
    }

    /// The peer has learnt (or learns while resuming) how far we came.
    pub(super) fn told(&mut self) {
        self.untold_bytes = 0;
        self.untold_frames = 0;
        self.untold_since = None;
        self.ack_at = None;
        self.ack_now = false;
    }
}
