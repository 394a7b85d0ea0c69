//! How bytes travel between hosts: delay, loss, cuts, and what TCP makes of them.
//!
//! A connection's bytes go one way in pieces, in order. A piece that the path loses, and everything behind it, is
//! sent again after a while that doubles; so is whatever nobody acknowledged. That is all that programs can see of
//! TCP: bytes late, or an error in the end.

use std::cmp::Ordering;

use super::{HostId, Kernel, Kind, NANOS, Time};
use crate::mutant::Mutant;

/// The first wait for an acknowledgement, beyond the round trip; it doubles up to `RETRY_MAX`.
const RETRY_FIRST: Time = NANOS / 5;
const RETRY_MAX: Time = 16 * NANOS;
/// What arrives at a machine that sleeps is sent again after so long.
const AGAIN_AFTER_SLEEP: Time = NANOS / 2;
const SYN_RETRY: Time = NANOS;
const SYN_RETRIES: u32 = 6;
/// What a receiver takes that nobody reads.
const RECEIVE_BYTES: usize = 64 * 1024;
/// One piece at most; about what a kernel hands to its network card.
const PIECE_BYTES: usize = 16 * 1024;

/// One direction between two hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) cut: bool,
    pub(crate) delay: Time,
    pub(crate) jitter: Time,
    /// The share of pieces that get lost.
    pub(crate) loss: f64,
    /// Bytes a second; 0: no limit.
    pub(crate) rate: u64,
    /// When the line is free again.
    busy_until: Time,
}

impl Path {
    pub(super) fn between(same: bool) -> Self {
        let delay = if same { 20_000 } else { 500_000 };
        Self { cut: false, delay, jitter: 0, loss: 0.0, rate: 0, busy_until: 0 }
    }
}

/// What happens on the network, or to a socket, at some time.
#[derive(Debug)]
pub(crate) enum Event {
    /// Asks the host for a connection.
    Syn {
        from: usize,
    },
    SynAgain {
        from: usize,
        tries: u32,
    },
    SynAck {
        to: usize,
        peer: usize,
    },
    Refused {
        to: usize,
    },
    Piece {
        to: usize,
        from: usize,
        piece: Piece,
    },
    /// The peer's host has so many bytes more.
    Acked {
        to: usize,
        bytes: usize,
    },
    /// An acknowledgement that could not travel: once more.
    AckAgain {
        from: usize,
        to: usize,
        bytes: usize,
        wait: Time,
    },
    /// The peer's program has read: there is room again.
    Room {
        to: usize,
    },
    Reset {
        to: usize,
    },
    /// Send again what was lost.
    Again {
        from: usize,
    },
    UserTimeout {
        of: usize,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    Fin,
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Fin => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) at: Time,
    pub(super) sequence: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl Kernel {
    /// When something sent now from one host to another arrives; `None`: never.
    fn travel(&mut self, from: HostId, to: HostId, bytes: usize) -> Option<Time> {
        let up = self.hosts[from].powered && self.hosts[to].powered;
        let path = &mut self.paths[from][to];
        if !up || path.cut || (path.loss > 0.0 && self.dice.chance(path.loss)) {
            return None;
        }
        let sending = (bytes as u64 * NANOS).checked_div(path.rate).unwrap_or(0);
        path.busy_until = path.busy_until.max(self.now) + sending;
        let jitter = if path.jitter > 0 { self.dice.below(path.jitter) } else { 0 };
        Some(path.busy_until + path.delay + jitter)
    }

    fn round_trip(&self, one: HostId, other: HostId) -> Time {
        self.paths[one][other].delay + self.paths[other][one].delay
    }

    /// As [`Kernel::travel`] between two ends of a connection, which may be forgotten by what is between them.
    fn travel_between(&mut self, from: usize, to: usize, bytes: usize) -> Option<Time> {
        let (one, other) = (self.sockets[from].host, self.sockets[to].host);
        if self.sockets[from].forgotten || self.sockets[to].forgotten {
            return None;
        }
        self.travel(one, other, bytes)
    }

    pub(super) fn send_syn(&mut self, from: usize, tries: u32) {
        let Some(to) = self.host_of_remote(from) else { return };
        let host = self.sockets[from].host;
        match self.travel(host, to, 60) {
            Some(at) => self.schedule(at, Event::Syn { from }),
            None if tries < SYN_RETRIES => {
                let at = self.now + (SYN_RETRY << tries);
                self.schedule(at, Event::SynAgain { from, tries: tries + 1 });
            }
            None => {
                let at = self.now + (SYN_RETRY << tries);
                self.schedule(at, Event::UserTimeout { of: from });
            }
        }
    }

    /// Sends what may be sent.
    pub(super) fn pump(&mut self, from: usize) {
        loop {
            let socket = &self.sockets[from];
            let Some(peer) = socket.peer.filter(|_| !socket.waits_to_send) else { return };
            let Some(next) = socket.out.front() else { return };
            let there = &self.sockets[peer];
            if next.len() > 0 && there.inbox.len() + socket.under_way + next.len() > RECEIVE_BYTES {
                self.sockets[from].window_shut = true;
                return;
            }
            let bytes = next.len();
            let Some(arrival) = self.travel_between(from, peer, bytes + 60) else {
                let both = self.round_trip(self.sockets[from].host, self.sockets[peer].host);
                let socket = &mut self.sockets[from];
                socket.waits_to_send = true;
                socket.retry_wait = (socket.retry_wait * 2).clamp(RETRY_FIRST + both, RETRY_MAX);
                let at = self.now + socket.retry_wait;
                self.schedule(at, Event::Again { from });
                return;
            };
            let socket = &mut self.sockets[from];
            socket.retry_wait = 0;
            let arrival = arrival.max(socket.last_arrival + 1);
            socket.last_arrival = arrival;
            socket.under_way += bytes;
            if let Some(piece) = socket.out.pop_front() {
                self.schedule(arrival, Event::Piece { to: peer, from, piece });
            }
        }
    }

    pub(super) fn put_out(&mut self, from: usize, bytes: &[u8]) {
        let now = self.now;
        let socket = &mut self.sockets[from];
        socket.unacknowledged += bytes.len();
        for piece in bytes.chunks(PIECE_BYTES) {
            socket.out.push_back(Piece::Bytes(piece.to_vec()));
        }
        if socket.waits_since.is_none() {
            socket.waits_since = Some(now);
            if let Some(limit) = socket.user_timeout {
                self.schedule(now + limit, Event::UserTimeout { of: from });
            }
        }
        self.pump(from);
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Syn { from } => self.knocked(from),
            Event::SynAgain { from, tries } => {
                if self.sockets[from].is_connecting() {
                    self.send_syn(from, tries);
                }
            }
            Event::SynAck { to, peer } => self.connected(to, peer),
            Event::Refused { to } => {
                if self.sockets[to].is_connecting() {
                    self.break_off(to, libc::ECONNREFUSED);
                }
            }
            Event::Piece { to, from, piece } => self.arrived(to, from, piece),
            Event::Acked { to, bytes } => self.acknowledged(to, bytes),
            Event::AckAgain { from, to, bytes, wait } => self.acknowledge(from, to, bytes, wait),
            Event::Room { to } => {
                if std::mem::take(&mut self.sockets[to].window_shut) {
                    self.pump(to);
                }
            }
            Event::Reset { to } => {
                if self.sockets[to].is_connected() {
                    self.break_off(to, libc::ECONNRESET);
                }
            }
            Event::Again { from } => {
                if std::mem::take(&mut self.sockets[from].waits_to_send) {
                    self.pump(from);
                }
            }
            Event::UserTimeout { of } => self.timed_out(of),
        }
    }

    fn arrived(&mut self, to: usize, from: usize, piece: Piece) {
        let (bytes, now) = (piece.len(), self.now);
        let asleep = !self.hosts[self.sockets[to].host].powered;
        let sender = &mut self.sockets[from];
        if asleep {
            sender.held_until = sender.held_until.max(now + AGAIN_AFTER_SLEEP);
        }
        if now < sender.held_until {
            // Sent again later, and so is everything behind it.
            sender.last_arrival = sender.last_arrival.max(sender.held_until);
            let at = sender.held_until;
            if sender.is_connected() || sender.finished {
                self.schedule(at, Event::Piece { to, from, piece });
            }
            return;
        }
        sender.under_way = sender.under_way.saturating_sub(bytes);
        let kinds = (self.hosts[sender.host].kind, self.hosts[self.sockets[to].host].kind);
        let Some((to, piece)) = self.mutate(kinds, to, piece) else { return };
        let bytes = piece.len();
        let there = &mut self.sockets[to];
        // A reset is the answer to bytes for a connection that nobody has any more.
        if !there.is_connected() || (!there.open && bytes > 0) {
            self.send_reset(to, from);
            self.sockets[to].be_gone();
            return;
        }
        match piece {
            Piece::Bytes(mut piece) => {
                if std::mem::take(&mut there.spoil_next) {
                    let place = piece.len() / 2;
                    piece[place] ^= 0x20;
                }
                there.inbox.extend(piece);
                there.newest_arrived = now;
                self.raise(to, libc::EPOLLIN as u32);
                self.acknowledge(to, from, bytes, 0);
            }
            Piece::Fin => {
                there.peer_finished = true;
                let both = if there.finished { libc::EPOLLHUP } else { 0 };
                self.raise(to, (libc::EPOLLIN | libc::EPOLLRDHUP | both) as u32);
                if self.sockets[to].finished && !self.sockets[to].open {
                    self.sockets[to].be_gone_when_sent();
                }
            }
        }
    }

    /// What a bug put in on purpose makes of a piece that arrives.
    fn mutate(&mut self, kinds: (Kind, Kind), to: usize, piece: Piece) -> Option<(usize, Piece)> {
        let (Some(mutant), Piece::Bytes(bytes)) = (self.mutant, &piece) else { return Some((to, piece)) };
        let at_site = matches!(kinds, (Kind::Agent, Kind::Site) | (Kind::Site, Kind::Agent));
        let at_cloud = kinds == (Kind::Central, Kind::Cloud) && bytes.len() > 200;
        self.mutable += u64::from(at_site || at_cloud);
        if self.mutable % 100 != 99 {
            return Some((to, piece));
        }
        match (mutant, piece) {
            (Mutant::PieceLost, _) if at_site => None,
            (Mutant::PieceDoubled, Piece::Bytes(bytes)) if at_site => {
                Some((to, Piece::Bytes([&bytes[..], &bytes].concat())))
            }
            (Mutant::PiecesSwapped, Piece::Bytes(mut bytes)) if at_cloud => {
                let half = bytes.len() / 2;
                bytes.rotate_left(half);
                Some((to, Piece::Bytes(bytes)))
            }
            (Mutant::StreamsMixed, piece) if at_cloud => {
                let host = self.sockets[to].host;
                let others = self.sockets.iter().enumerate().filter(|(other, socket)| {
                    *other != to && socket.host == host && socket.is_connected() && socket.open
                });
                let other = others.map(|(other, _)| other).max();
                Some((other.unwrap_or(to), piece))
            }
            (_, piece) => Some((to, piece)),
        }
    }

    /// `from` tells `to` that so many bytes have come.
    fn acknowledge(&mut self, from: usize, to: usize, bytes: usize, wait: Time) {
        match self.travel_between(from, to, 60) {
            Some(at) => self.schedule(at, Event::Acked { to, bytes }),
            None => {
                let wait = (wait * 2).clamp(RETRY_FIRST, RETRY_MAX);
                if self.sockets[to].is_connected() {
                    self.schedule(self.now + wait, Event::AckAgain { from, to, bytes, wait });
                }
            }
        }
    }

    fn acknowledged(&mut self, to: usize, bytes: usize) {
        let now = self.now;
        let socket = &mut self.sockets[to];
        if !socket.is_connected() {
            return;
        }
        let was_full = socket.is_full();
        socket.unacknowledged = socket.unacknowledged.saturating_sub(bytes);
        socket.waits_since = (socket.unacknowledged > 0).then_some(now);
        if let (Some(_), Some(limit)) = (socket.waits_since, socket.user_timeout) {
            self.schedule(now + limit, Event::UserTimeout { of: to });
        }
        if was_full {
            self.raise(to, libc::EPOLLOUT as u32);
        }
    }

    fn timed_out(&mut self, of: usize) {
        let now = self.now;
        let socket = &self.sockets[of];
        let is_late = match (socket.waits_since, socket.user_timeout) {
            (Some(since), Some(limit)) => now >= since + limit,
            _ => false,
        };
        if socket.is_connecting() || (socket.is_connected() && is_late) {
            self.break_off(of, libc::ETIMEDOUT);
        }
    }

    /// A reset travels once; who does not get it learns by what it sends next.
    pub(super) fn send_reset(&mut self, from: usize, to: usize) {
        if let Some(at) = self.travel_between(from, to, 60) {
            // Behind what is under way already.
            let at = at.max(self.sockets[from].last_arrival + 1);
            self.schedule(at, Event::Reset { to });
        }
    }

    pub(super) fn reader_made_room(&mut self, reader: usize) {
        let Some(sender) = self.sockets[reader].peer else { return };
        if self.sockets[sender].window_shut {
            let wait = match self.travel_between(reader, sender, 60) {
                Some(at) => at,
                None => self.now + RETRY_FIRST,
            };
            self.schedule(wait, Event::Room { to: sender });
        }
    }

    /// Whether this agent may write to a destination, as far as the network can tell.
    pub(super) fn look_at_write(&mut self, from: usize) {
        let socket = &self.sockets[from];
        let Some(to) = self.host_of_remote(from) else { return };
        let (writer, reader) = (&self.hosts[socket.host], &self.hosts[to]);
        if (writer.kind, reader.kind) != (Kind::Agent, Kind::Site) {
            return;
        }
        let silent = self.now - writer.heard_central;
        if silent > self.rules.dead_after {
            let told = format!(
                "host {} wrote to a destination {:.3} s after it had last heard from central",
                socket.host,
                silent as f64 / NANOS as f64
            );
            self.broken.push(told);
        }
    }
}
