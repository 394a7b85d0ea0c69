//! What the peer said, checked against what it may say.

use std::time::Instant;

use super::flow::Overrun;
use super::*;
use crate::frame::{Body, Frame};

impl Mux {
    /// A frame came.
    ///
    /// # Errors
    /// Whatever no correct peer sends. The tunnel is over then: the caller closes the websocket and
    /// [aborts](Mux::abort).
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) -> Result<(), MuxError> {
        if self.link != Link::Attached {
            return Err(MuxError::Detached);
        }
        if frame.body.is_numbered() {
            self.inbox
                .arrive(&frame, now)
                .map_err(|expected| MuxError::OutOfOrder { expected, got: frame.seq })?;
        }
        let id = frame.stream;
        match frame.body {
            Body::Open { open, limit, first } => self.on_open(id, open, limit, first, now),
            Body::Opened { limit } => self.on_opened(id, limit, now),
            Body::Data { bytes, fin } => self.on_data(id, bytes, fin, now),
            Body::Window { limit } if id == StreamId::TUNNEL => self.on_tunnel_window(limit, now),
            Body::Window { limit } => self.on_window(id, limit, now),
            Body::Reset(reset) => self.on_reset(id, reset),
            Body::GoAway(reset) => self.on_go_away(reset, now),
            Body::Ping { nonce } => self.on_ping(nonce, now),
            Body::Pong { nonce } => self.on_pong(nonce, now),
            Body::Ack { through } => self.on_ack(through, now),
        }
    }

    fn on_open(
        &mut self,
        id: StreamId,
        open: Arc<Open>,
        limit: u64,
        first: Bytes,
        now: Instant,
    ) -> Result<(), MuxError> {
        if self.side.opens(id) {
            return Err(MuxError::WrongParity { stream: id });
        }
        if let Some(last) = self.last_theirs.filter(|last| *last >= id) {
            return Err(MuxError::StreamWentBack { stream: id, last });
        }
        self.last_theirs = Some(id);
        let len = first.len() as u64;
        self.arrive_at_tunnel(len)?;

        if let Some(refusal) = self.reason_to_refuse(now) {
            self.consume_from_tunnel(len);
            if !self.budgets.refusals.take(now) || self.schedule.resets.len() >= self.limits.streams * 2 {
                return Err(MuxError::Flood { what: "OPEN", per_second: self.budgets.refusals.per_second() });
            }
            self.schedule.resets.push_back((id, refusal));
            return Ok(());
        }

        let mut stream = Stream::theirs(open, limit, self.limits.stream_window_bytes);
        stream.inn.flow.arrive(len).map_err(|overrun| beyond_credit(id, &overrun))?;
        stream.inn.unread.push(first);
        self.granted += stream.inn.flow.outstanding();
        self.streams.insert(id, Box::new(stream));
        self.events.push_back(MuxEvent::Incoming(id));
        Ok(())
    }

    fn reason_to_refuse(&mut self, now: Instant) -> Option<Reset> {
        if let Some(reset) = &self.going_away.ours {
            return Some(Reset::new(ResetCode::GOING_AWAY, reset.reason()));
        }
        if self.streams.len() + self.schedule.resets.len() >= self.limits.streams {
            return Some(Reset::new(
                ResetCode::TOO_MANY_STREAMS,
                &format!("the tunnel has {} streams already, which is its limit", self.limits.streams),
            ));
        }
        if !self.budgets.opens.take(now) {
            let per_second = self.budgets.opens.per_second();
            return Some(Reset::new(
                ResetCode::TOO_MANY_STREAMS,
                &format!("at most {per_second} new streams a second are taken"),
            ));
        }
        None
    }

    fn on_opened(&mut self, id: StreamId, limit: u64, now: Instant) -> Result<(), MuxError> {
        let Some(stream) = self.known(id, "OPENED")? else { return Ok(()) };
        if !matches!(stream.opening, Opening::Waiting) {
            return Err(MuxError::NotWaiting { stream: id });
        }
        stream.opening = Opening::Established;
        if let Some(meter) = &stream.meter {
            meter.note_opened(now);
        }
        stream.out.flow.raise(limit).map_err(|shrank| MuxError::LimitShrank {
            stream: id,
            from: shrank.from,
            to: shrank.to,
        })?;
        self.events.push_back(MuxEvent::Opened(id));
        self.tell_writable(id);
        Ok(())
    }

    fn on_data(&mut self, id: StreamId, bytes: Bytes, fin: bool, now: Instant) -> Result<(), MuxError> {
        let len = bytes.len() as u64;
        self.arrive_at_tunnel(len)?;
        if bytes.is_empty() && !fin {
            self.spend_idle("DATA", now)?;
        }
        let shortest = self.pings.recent.shortest();
        let window_max = self.limits.stream_window_max_bytes;
        let Some(stream) = self.known(id, "DATA")? else {
            self.consume_from_tunnel(len); // nobody will read it, but the tunnel's credit goes on
            return Ok(());
        };
        if matches!(stream.opening, Opening::Waiting) {
            return Err(MuxError::BeforeOpened { stream: id });
        }
        if stream.inn.finished {
            return Err(MuxError::AfterFin { stream: id });
        }
        stream.inn.flow.arrive(len).map_err(|overrun| beyond_credit(id, &overrun))?;
        if (stream.inn.unread.len() as u64) < stream.inn.flow.window() / 2 {
            stream.inn.flow.measure(len, shortest, window_max, now); // only a reader that keeps up needs more
        }
        if let Some(meter) = stream.meter.as_ref().filter(|_| len > 0) {
            meter.note_bytes(now);
        }
        stream.inn.unread.push(bytes);
        if fin {
            let before = stream.inn.flow.outstanding();
            stream.inn.finished = true;
            stream.inn.flow.finish();
            let after = stream.inn.flow.outstanding();
            self.granted = self.granted - before + after;
        }
        if len > 0 || fin {
            self.tell_readable(id);
        }
        Ok(())
    }

    fn on_tunnel_window(&mut self, limit: u64, now: Instant) -> Result<(), MuxError> {
        match self.sending.raise(limit) {
            Ok(true) => Ok(()),
            Ok(false) => self.spend_idle("WINDOW", now),
            Err(shrank) => {
                Err(MuxError::LimitShrank { stream: StreamId::TUNNEL, from: shrank.from, to: shrank.to })
            }
        }
    }

    fn on_window(&mut self, id: StreamId, limit: u64, now: Instant) -> Result<(), MuxError> {
        let Some(stream) = self.known(id, "WINDOW")? else { return Ok(()) };
        if matches!(stream.opening, Opening::Waiting) {
            return Err(MuxError::BeforeOpened { stream: id });
        }
        match stream.out.flow.raise(limit) {
            Ok(true) => {
                self.tell_writable(id);
                Ok(())
            }
            Ok(false) => self.spend_idle("WINDOW", now),
            Err(shrank) => Err(MuxError::LimitShrank { stream: id, from: shrank.from, to: shrank.to }),
        }
    }

    fn on_reset(&mut self, id: StreamId, reset: Reset) -> Result<(), MuxError> {
        if self.known(id, "RESET")?.is_some() {
            self.break_stream(id, reset, Unread::Kept);
        }
        Ok(())
    }

    fn on_go_away(&mut self, reset: Reset, now: Instant) -> Result<(), MuxError> {
        if self.going_away.peer.is_some() {
            return self.spend_idle("GOAWAY", now);
        }
        self.going_away.peer = Some(reset.clone());
        self.events.push_back(MuxEvent::GoAway(reset));
        Ok(())
    }

    fn on_ping(&mut self, nonce: u64, now: Instant) -> Result<(), MuxError> {
        if !self.budgets.pings.take(now) {
            return Err(MuxError::Flood { what: "PING", per_second: self.budgets.pings.per_second() });
        }
        // One answer is enough for all that were asked meanwhile.
        self.pings.pong_owed = Some(nonce);
        Ok(())
    }

    fn on_pong(&mut self, nonce: u64, now: Instant) -> Result<(), MuxError> {
        let newest_is_unsent = self.pings.due.is_some() || self.pings.ready.is_some();
        if nonce > self.pings.last_nonce - u64::from(newest_is_unsent) {
            return Err(MuxError::UnknownPong { nonce });
        }
        let mut asked_at = None;
        while let Some((asked, at)) = self.pings.open.front().copied().filter(|(asked, _)| *asked <= nonce) {
            self.pings.open.pop_front();
            if asked == nonce {
                asked_at = Some(at);
            }
        }
        let Some(at) = asked_at else { return self.spend_idle("PONG", now) };
        let round_trip = now.saturating_duration_since(at);
        self.pings.round_trip = Some(round_trip);
        self.pings.recent.add(round_trip);
        self.events.push_back(MuxEvent::Pong { nonce, round_trip });
        Ok(())
    }

    fn on_ack(&mut self, through: u64, now: Instant) -> Result<(), MuxError> {
        let (sent, acked) = (self.outbox.sent(), self.outbox.acked());
        if through > sent {
            return Err(MuxError::AckNeverSent { through, sent });
        }
        if through < acked {
            return Err(MuxError::AckWentBack { through, acked });
        }
        if through == acked {
            return self.spend_idle("ACK", now);
        }
        let Mux { outbox, streams, events, .. } = self;
        outbox.acknowledge(through, |frame| arrived(streams, events, frame));
        Ok(())
    }

    fn arrive_at_tunnel(&mut self, bytes: u64) -> Result<(), MuxError> {
        self.receiving.arrive(bytes).map_err(|overrun| MuxError::BeyondTunnelCredit {
            limit: overrun.limit,
            reached: overrun.reached,
        })
    }

    fn spend_idle(&mut self, what: &'static str, now: Instant) -> Result<(), MuxError> {
        if self.budgets.idle.take(now) {
            return Ok(());
        }
        Err(MuxError::Flood { what, per_second: self.budgets.idle.per_second() })
    }

    /// The stream a frame names: `None` if it is over for us, which the peer need not know yet.
    fn known(&mut self, id: StreamId, what: &'static str) -> Result<Option<&mut Stream>, MuxError> {
        let last = if self.side.opens(id) { self.last_ours } else { self.last_theirs };
        let never_opened = MuxError::NeverOpened { stream: id, what };
        if last.is_none_or(|last| id > last) {
            return Err(never_opened);
        }
        match self.streams.get_mut(&id) {
            Some(stream) if matches!(stream.opening, Opening::Unsent(_)) && stream.broken.is_none() => {
                Err(never_opened)
            }
            Some(stream) if stream.broken.is_some() => Ok(None),
            other => Ok(other.map(Box::as_mut)),
        }
    }
}

fn beyond_credit(stream: StreamId, overrun: &Overrun) -> MuxError {
    MuxError::BeyondStreamCredit { stream, limit: overrun.limit, reached: overrun.reached }
}
