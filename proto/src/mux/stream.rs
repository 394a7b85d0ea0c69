//! One stream, as the mux sees it.
//!
//! ```text
//!   we open:    Unsent ──OPEN goes out──► Waiting ──OPENED comes──► Established
//!   peer opens: Offered ──accept──► Answering ──OPENED goes out──► Established
//! ```
//!
//! Either direction ends by itself (FIN); a reset ends both. The entry stays until its owner lets go of it.

use std::sync::Arc;
use std::time::Duration;

use super::chunks::Chunks;
use super::flow::{OPEN_CREDIT_BYTES, Receiving, Sending};
use super::meter::Meter;
use crate::frame::{Open, Reset};

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) opening: Opening,
    pub(super) out: Outgoing,
    pub(super) inn: Incoming,
    /// Why it broke, once it did.
    pub(super) broken: Option<Reset>,
    /// The owner let go; the entry stays only until its last bytes went out.
    pub(super) released: bool,
    pub(super) queued: Queued,
    pub(super) told: Told,
    /// Only of a stream we opened: nobody asks when the peer's own things happened.
    pub(super) meter: Option<Meter>,
}

#[derive(Clone, Debug)]
pub(super) enum Opening {
    Unsent(Arc<Open>),
    Waiting,
    Offered(Arc<Open>),
    Answering,
    Established,
}

/// Bytes on their way to the peer.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) flow: Sending,
    pub(super) unsent: Chunks,
    pub(super) fin: Fin,
    /// A writer found no room and waits to hear that there is some.
    pub(super) blocked: bool,
    /// DATA frames with little in them that the peer has not acknowledged.
    pub(super) little: u16,
    /// It has waited long enough: what is written next may be little once more.
    pub(super) waited: bool,
}

/// A DATA frame with less is little: it costs both ends hardly less than a large one.
pub(super) const LITTLE_BYTES: usize = 1024;
/// With so many of them under way, a stream's writer waits: a moment later it has more to say at once. A question and its
/// answer never get there, because the answer comes with an acknowledgement.
const LITTLE_MAX: u16 = 8;
/// Though never longer than this, however long the line.
pub(super) const LITTLE_WAIT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    Open,
    Queued,
    Sent,
}

/// Bytes from the peer.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) flow: Receiving,
    pub(super) unread: Chunks,
    /// The peer finished; nothing comes after `unread`.
    pub(super) finished: bool,
    /// A limit the peer has not been told.
    pub(super) window_due: bool,
}

/// In which queues of the schedule the stream stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Queued {
    pub(super) control: bool,
    pub(super) data: bool,
    pub(super) starved: bool,
    pub(super) dribbling: bool,
}

/// Which events wait to be fetched: each at most once.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Stream {
    /// A stream we open: we grant `grant` with the OPEN, the peer's first grant is fixed.
    pub(super) fn ours(open: Arc<Open>, grant: u64, window: u64) -> Stream {
        let stream = Stream::new(Opening::Unsent(open), OPEN_CREDIT_BYTES, Receiving::new(grant, window));
        Stream { meter: Some(Meter::default()), ..stream }
    }

    /// A stream the peer opened, granting us `limit`.
    pub(super) fn theirs(open: Arc<Open>, limit: u64, window: u64) -> Stream {
        Stream::new(Opening::Offered(open), limit, Receiving::new(OPEN_CREDIT_BYTES, window))
    }

    fn new(opening: Opening, send_limit: u64, receiving: Receiving) -> Stream {
        Stream {
            opening,
            out: Outgoing {
                flow: Sending::new(send_limit),
                unsent: Chunks::default(),
                fin: Fin::Open,
                blocked: false,
                little: 0,
                waited: false,
            },
            inn: Incoming { flow: receiving, unread: Chunks::default(), finished: false, window_due: false },
            broken: None,
            released: false,
            queued: Queued::default(),
            told: Told::default(),
            meter: None,
        }
    }

    /// Has it said so much in small pieces that it should gather the next ones first?
    pub(super) fn dribbles(&self) -> bool {
        self.out.little >= LITTLE_MAX && !self.out.waited
    }

    /// Its writer may try again; true if it waits for that and has not been told yet.
    pub(super) fn unblock(&mut self) -> bool {
        let news = self.out.blocked && !self.told.writable;
        if news {
            (self.out.blocked, self.told.writable) = (false, true);
        }
        news
    }

    /// What its writer may add, given the most it may keep unsent.
    pub(super) fn room(&self, send_buffer: usize) -> usize {
        if self.dribbles() {
            return 0;
        }
        let unsent = self.out.unsent.len();
        let credit = usize::try_from(self.out.flow.available()).unwrap_or(usize::MAX);
        credit.min(send_buffer).saturating_sub(unsent)
    }

    /// May its bytes go out? Not before its OPEN or OPENED did.
    pub(super) fn may_send(&self) -> bool {
        match self.opening {
            Opening::Waiting | Opening::Established => true,
            Opening::Unsent(_) | Opening::Offered(_) | Opening::Answering => false,
        }
    }

    /// The peer waits for it to be accepted.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self.opening, Opening::Offered(_))
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.out.unsent.is_empty() || self.out.fin == Fin::Queued
    }

    /// Both directions came to their proper end.
    pub(super) fn is_complete(&self) -> bool {
        self.out.fin == Fin::Sent && self.is_read_out()
    }

    /// The reader has seen the end.
    pub(super) fn is_read_out(&self) -> bool {
        self.inn.finished && self.inn.unread.is_empty()
    }
}
