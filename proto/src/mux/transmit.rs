//! What goes out next.

use super::*;
use crate::frame::{Body, Frame};

/// What may be under way beyond [`Mux::set_under_way_bytes`]: the owner writes no bulk any more then, and what it still
/// writes is small and should not wait.
pub(super) const LITTLE_MORE_BYTES: usize = 32 * 1024;

impl Mux {
    /// The next frame for the websocket. It counts as sent from here on; if the websocket breaks before it is
    /// through, [`Mux::reattach`] finds out.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        if self.link != Link::Attached {
            return None;
        }
        if let Some(body) = self.next_unnumbered() {
            return Some(Frame { seq: 0, stream: StreamId::TUNNEL, body });
        }
        if self.outbox.is_repeating() {
            return self.outbox.next_again();
        }
        // Control may go a little further than data, so that resets and grants pass a peer that is slow to
        // acknowledge; but a peer that never does gets neither.
        if self.outbox.kept_frames() >= self.limits.unacknowledged_frames {
            return None;
        }
        self.next_control().or_else(|| self.next_data())
    }

    /// An acknowledgement to go along with other frames, if there is anything to acknowledge: whoever answers says at the
    /// same time that the question has come.
    pub fn poll_ack_along(&mut self) -> Option<Frame> {
        let through = (self.link == Link::Attached).then(|| self.inbox.take_ack_early()).flatten()?;
        Some(Frame { seq: 0, stream: StreamId::TUNNEL, body: Body::Ack { through } })
    }

    fn next_unnumbered(&mut self) -> Option<Body> {
        if let Some(nonce) = self.pings.pong_owed.take() {
            return Some(Body::Pong { nonce });
        }
        if let Some(nonce) = self.pings.ready.take() {
            return Some(Body::Ping { nonce });
        }
        self.inbox.take_ack().map(|through| Body::Ack { through })
    }

    fn next_control(&mut self) -> Option<Frame> {
        if self.tunnel_window_due {
            self.tunnel_window_due = false;
            let limit = self.receiving.limit();
            return Some(self.outbox.number(StreamId::TUNNEL, Body::Window { limit }));
        }
        if let Some(reset) = self.going_away.unsent.take() {
            return Some(self.outbox.number(StreamId::TUNNEL, Body::GoAway(reset)));
        }
        if let Some((id, reset)) = self.schedule.resets.pop_front() {
            return Some(self.outbox.number(id, Body::Reset(reset)));
        }
        while let Some(id) = self.schedule.control.pop_front() {
            if let Some(body) = self.stream_control(id) {
                return Some(self.outbox.number(id, body));
            }
        }
        while let Some(id) = self.schedule.opens.pop_front() {
            if let Some(body) = self.opening(id) {
                return Some(self.outbox.number(id, body));
            }
        }
        None
    }

    fn stream_control(&mut self, id: StreamId) -> Option<Body> {
        let stream = self.streams.get_mut(&id)?;
        stream.queued.control = false;
        if stream.broken.is_some() {
            return None;
        }
        let window_due = std::mem::take(&mut stream.inn.window_due);
        let limit = stream.inn.flow.limit();
        if matches!(stream.opening, Opening::Answering) {
            stream.opening = Opening::Established;
            self.queue_data(id);
            return Some(Body::Opened { limit: limit.max(OPEN_CREDIT_BYTES) });
        }
        // Once the peer has finished it needs no credit, and the limit has been given back.
        (window_due && !stream.inn.finished).then_some(Body::Window { limit })
    }

    fn opening(&mut self, id: StreamId) -> Option<Body> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.broken.is_none())?;
        let Opening::Unsent(open) = &stream.opening else { return None };
        let open = Arc::clone(open);
        stream.opening = Opening::Waiting;
        let max = OPEN_CREDIT_BYTES.min(self.sending.available());
        let first = stream.out.unsent.pop(usize::try_from(max).unwrap_or(usize::MAX));
        let limit = stream.inn.flow.limit();
        stream.out.flow.sent += first.len() as u64;
        self.count_sent(id, first.len());
        self.queue_data(id);
        Some(Body::Open { open, limit, first })
    }

    fn next_data(&mut self) -> Option<Frame> {
        let frames_max = self.limits.unacknowledged_frames * 3 / 4;
        let bytes_max =
            (self.under_way_bytes.saturating_add(LITTLE_MORE_BYTES)).min(self.limits.unacknowledged_bytes);
        if self.outbox.kept_frames() >= frames_max || self.outbox.kept_bytes() >= bytes_max {
            return None;
        }
        while let Some(id) = self.schedule.data.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued.data = false;
            if stream.broken.is_some() || !stream.has_to_send() {
                continue;
            }
            let credit = usize::try_from(self.sending.available()).unwrap_or(usize::MAX);
            if credit == 0 && !stream.out.unsent.is_empty() {
                stream.queued.data = true;
                self.schedule.data.push_front(id);
                return None;
            }
            let bytes = stream.out.unsent.pop(self.frame_bytes.min(credit));
            let len = bytes.len();
            stream.out.flow.sent += len as u64;
            let fin = stream.out.fin == Fin::Queued && stream.out.unsent.is_empty();
            if fin {
                stream.out.fin = Fin::Sent;
            }
            stream.out.waited = false;
            stream.out.little = stream.out.little.saturating_add(u16::from(len < LITTLE_BYTES));
            let frame = self.outbox.number(id, Body::Data { bytes, fin });
            self.count_sent(id, len);
            self.queue_data(id);
            if self.streams.get(&id).is_some_and(|stream| stream.released && stream.is_complete()) {
                self.forget(id);
            }
            return Some(frame);
        }
        None
    }

    fn count_sent(&mut self, id: StreamId, bytes: usize) {
        self.sending.sent += bytes as u64;
        self.unsent -= bytes;
        if let Some(stream) = self.streams.get(&id)
            && stream.out.fin == Fin::Open
            && stream.room(self.limits.send_buffer_bytes) > 0
        {
            self.tell_writable(id);
        }
        if self.unsent <= self.limits.unsent_bytes / 2 {
            while let Some(starved) = self.schedule.starved.pop_front() {
                if let Some(stream) = self.streams.get_mut(&starved) {
                    stream.queued.starved = false;
                }
                self.tell_writable(starved);
            }
        }
    }
}
