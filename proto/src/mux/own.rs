//! What the owner of streams does with them: open, accept, write, finish, read, break, let go.

use super::*;

impl Mux {
    /// Opens a stream; its first bytes travel with the OPEN, so this costs no round trip.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was opened then.
    pub fn open(&mut self, open: Open, first: Bytes) -> Result<StreamId, OpenError> {
        if let Link::Over(reset) = &self.link {
            return Err(OpenError::Over(reset.clone()));
        }
        // Ours too: whoever was told to go away must not get new work from us either.
        if let Some(reset) = self.going_away.peer.as_ref().or(self.going_away.ours.as_ref()) {
            return Err(OpenError::GoingAway(reset.clone()));
        }
        if first.len() as u64 > OPEN_CREDIT_BYTES {
            return Err(OpenError::FirstBytesTooLong { len: first.len() });
        }
        if self.streams.len() >= self.limits.streams {
            return Err(OpenError::TooManyStreams(self.limits.streams));
        }
        let number = match (self.last_ours, self.side) {
            (Some(last), _) => last.0.checked_add(2).ok_or(OpenError::StreamsExhausted)?,
            (None, Side::Central) => 1,
            (None, Side::Agent) => 2,
        };
        let id = StreamId(number);
        self.last_ours = Some(id);
        let mut stream = Stream::ours(Arc::new(open), self.first_grant(), self.limits.stream_window_bytes);
        self.granted += stream.inn.flow.outstanding();
        self.unsent += first.len();
        stream.out.unsent.push(first);
        self.streams.insert(id, Box::new(stream));
        self.schedule.opens.push_back(id);
        Ok(id)
    }

    /// Where a stream that the peer opened should lead; `None` once it was answered or broke.
    pub fn offered(&self, id: StreamId) -> Option<&Open> {
        match &self.streams.get(&id)?.opening {
            Opening::Offered(open) => Some(open),
            Opening::Unsent(_) | Opening::Waiting | Opening::Answering | Opening::Established => None,
        }
    }

    /// Takes a stream that the peer opened, and grants it its window. To refuse it, [`Mux::reset`] it.
    ///
    /// # Errors
    /// If it broke meanwhile, or is not waiting for an answer.
    pub fn accept(&mut self, id: StreamId) -> Result<(), StreamError> {
        let grant = self.first_grant();
        let stream = live(&mut self.streams, id)?;
        if !matches!(stream.opening, Opening::Offered(_)) {
            return Err(StreamError::Unknown(id));
        }
        stream.opening = Opening::Answering;
        let before = stream.inn.flow.outstanding();
        if !stream.inn.finished {
            stream.inn.flow.grant_at_least(grant);
        }
        self.granted += stream.inn.flow.outstanding() - before;
        self.queue_control(id);
        Ok(())
    }

    /// Has the peer accepted our stream (or we the peer's)?
    ///
    /// # Errors
    /// If it broke.
    pub fn is_open(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = live(&mut self.streams, id)?;
        Ok(matches!(stream.opening, Opening::Established | Opening::Answering))
    }

    /// How much [`Mux::write`] would take. When that is nothing, [`MuxEvent::Writable`] follows.
    ///
    /// # Errors
    /// If the stream broke or was finished.
    pub fn writable(&mut self, id: StreamId) -> Result<usize, StreamError> {
        let stream = live(&mut self.streams, id)?;
        if stream.out.fin != Fin::Open {
            return Err(StreamError::Finished);
        }
        let own = stream.room(self.limits.send_buffer_bytes);
        let room = own.min(self.limits.unsent_bytes.saturating_sub(self.unsent));
        if room == 0 {
            stream.out.blocked = true;
            if own > 0 && !stream.queued.starved {
                stream.queued.starved = true;
                self.schedule.starved.push_back(id);
            }
            if stream.dribbles() && !stream.queued.dribbling {
                stream.queued.dribbling = true;
                self.schedule.dribbling.push_back((id, None));
            }
        }
        Ok(room)
    }

    /// Sends a copy of the front of `bytes`; says how many, bounded by credit.
    ///
    /// # Errors
    /// If the stream broke or was finished.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, StreamError> {
        let len = self.writable(id)?.min(bytes.len());
        if len > 0 {
            live(&mut self.streams, id)?.out.unsent.push_slice(&bytes[..len]);
            self.unsent += len;
            self.queue_data(id);
        }
        Ok(len)
    }

    /// Sends the front of `bytes` without copying it (unless it is short), and leaves what found no room.
    ///
    /// # Errors
    /// If the stream broke or was finished.
    pub fn write_bytes(&mut self, id: StreamId, bytes: &mut Bytes) -> Result<usize, StreamError> {
        let len = self.writable(id)?.min(bytes.len());
        if len > 0 {
            live(&mut self.streams, id)?.out.unsent.push(bytes.split_to(len));
            self.unsent += len;
            self.queue_data(id);
        }
        Ok(len)
    }

    /// Nothing more will be written (half-close); what was written still goes out first.
    ///
    /// # Errors
    /// If the stream broke. Finishing twice is fine.
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        let stream = live(&mut self.streams, id)?;
        if stream.out.fin == Fin::Open {
            stream.out.fin = Fin::Queued;
            self.queue_data(id);
        }
        Ok(())
    }

    /// Takes up to `max` bytes; taking them earns the peer credit.
    ///
    /// # Errors
    /// If the stream broke. What had arrived before the peer reset it can still be read; then comes the error.
    pub fn read(&mut self, id: StreamId, max: usize) -> Result<ReadOutcome, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown(id))?;
        stream.told.readable = false;
        if stream.inn.unread.is_empty() {
            return match &stream.broken {
                Some(reset) => Err(StreamError::Reset(reset.clone())),
                None if stream.inn.finished => Ok(ReadOutcome::End),
                None => Ok(ReadOutcome::Nothing),
            };
        }
        let bytes = stream.inn.unread.pop(max);
        let len = bytes.len() as u64;
        let before = stream.inn.flow.outstanding();
        stream.inn.flow.consume(len);
        if !stream.inn.finished && stream.broken.is_none() && !matches!(stream.opening, Opening::Offered(_)) {
            let grant = flow::refill_grant(
                stream.inn.flow.window(),
                self.limits.tunnel_window_bytes,
                self.granted - before,
            );
            if stream.inn.flow.refill(grant).is_some() {
                stream.inn.window_due = true;
            }
        }
        let due = stream.inn.window_due;
        self.granted = self.granted - before + stream.inn.flow.outstanding();
        self.consume_from_tunnel(len);
        if due {
            self.queue_control(id);
        }
        Ok(ReadOutcome::Bytes(bytes))
    }

    /// Breaks a stream at once, both directions; unsent and unread bytes are dropped.
    pub fn reset(&mut self, id: StreamId, reset: Reset) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.broken.is_some() {
            return;
        }
        if !matches!(stream.opening, Opening::Unsent(_)) && !stream.is_complete() {
            self.schedule.resets.push_back((id, reset.clone()));
        }
        self.break_stream(id, reset, Unread::Dropped);
    }

    /// Its owner lets go. A stream whose end was seen and sent ends quietly; any other is reset, one that was never
    /// accepted too: nothing of it may go out.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.broken.is_some() || stream.is_complete() {
            self.forget(id);
        } else if stream.out.fin == Fin::Queued && stream.is_read_out() && !stream.is_offered() {
            stream.released = true; // its last bytes still have to go out
        } else {
            self.reset(id, Reset::new(ResetCode::CANCELLED, "let go before it was finished"));
            self.forget(id);
        }
    }
}

/// A stream that exists and is not broken.
fn live(streams: &mut ById<Box<Stream>>, id: StreamId) -> Result<&mut Stream, StreamError> {
    let stream = streams.get_mut(&id).ok_or(StreamError::Unknown(id))?;
    match &stream.broken {
        Some(reset) => Err(StreamError::Reset(reset.clone())),
        None => Ok(stream),
    }
}
