//! Sockets: what TCP's calls answer, and when epoll speaks.

use std::{
    collections::VecDeque,
    ffi::c_int,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::{
    HostId, Kernel, Kind, NetHost, Time,
    flow::{Event, Piece},
};
use crate::mutant::Mutant;

/// What a sender may have under way unacknowledged.
const SEND_BYTES: usize = 64 * 1024;

/// An option that the world knows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SocketOption {
    ResetOnClose(bool),
    UserTimeout { ms: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Listening,
    Connecting,
    Connected,
    Gone,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) host: HostId,
    state: State,
    /// Whether a program still holds it.
    pub(super) open: bool,
    local: SocketAddrV4,
    remote: Option<SocketAddrV4>,
    pub(super) peer: Option<usize>,
    backlog: VecDeque<usize>,
    error: Option<c_int>,
    reset_on_close: bool,
    /// Whatever is between the two ends knows the connection no more.
    pub(super) forgotten: bool,
    /// The next piece that arrives is damaged.
    pub(super) spoil_next: bool,

    pub(super) inbox: VecDeque<u8>,
    /// When the newest byte of it arrived.
    pub(super) newest_arrived: Time,
    pub(super) peer_finished: bool,

    pub(super) out: VecDeque<Piece>,
    pub(super) finished: bool,
    pub(super) unacknowledged: usize,
    pub(super) under_way: usize,
    pub(super) waits_to_send: bool,
    pub(super) window_shut: bool,
    pub(super) retry_wait: Time,
    pub(super) last_arrival: Time,
    /// Nothing of it arrives before.
    pub(super) held_until: Time,
    pub(super) waits_since: Option<Time>,
    pub(super) user_timeout: Option<Time>,

    /// Where it is waited for: the descriptor, what is wanted, what is to be said then.
    pub(super) epoll: Option<(c_int, u32, u64)>,
    pub(super) ready: u32,
}

impl Socket {
    fn new(host: HostId, ip: Ipv4Addr) -> Self {
        Self {
            host,
            state: State::Fresh,
            open: true,
            local: SocketAddrV4::new(ip, 0),
            remote: None,
            peer: None,
            backlog: VecDeque::new(),
            error: None,
            reset_on_close: false,
            forgotten: false,
            spoil_next: false,
            inbox: VecDeque::new(),
            newest_arrived: 0,
            peer_finished: false,
            out: VecDeque::new(),
            finished: false,
            unacknowledged: 0,
            under_way: 0,
            waits_to_send: false,
            window_shut: false,
            retry_wait: 0,
            last_arrival: 0,
            held_until: 0,
            waits_since: None,
            user_timeout: None,
            epoll: None,
            ready: 0,
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    pub(super) fn is_full(&self) -> bool {
        self.unacknowledged >= SEND_BYTES
    }

    pub(super) fn take_ready(&mut self) -> Option<(u32, u64)> {
        let bits = std::mem::take(&mut self.ready);
        let (_, _, data) = self.epoll?;
        (bits != 0).then_some((bits, data))
    }

    pub(super) fn be_gone(&mut self) {
        self.state = State::Gone;
        self.inbox = VecDeque::new();
        self.out = VecDeque::new();
        self.waits_since = None;
    }

    /// An end that nobody holds, and that has heard and said everything.
    pub(super) fn be_gone_when_sent(&mut self) {
        if self.out.is_empty() {
            self.be_gone();
        }
    }
}

impl NetHost {
    fn free_port(&mut self) -> u16 {
        loop {
            self.next_port = if self.next_port == u16::MAX { 32_768 } else { self.next_port + 1 };
            if !self.listeners.contains_key(&self.next_port) {
                return self.next_port;
            }
        }
    }
}

impl Kernel {
    pub(super) fn socket(&mut self) -> usize {
        let ip = self.hosts[self.running].ip;
        self.sockets.push(Socket::new(self.running, ip));
        self.sockets.len() - 1
    }

    fn held(&mut self, socket: usize) -> Result<&mut Socket, c_int> {
        self.sockets.get_mut(socket).filter(|socket| socket.open).ok_or(libc::EBADF)
    }

    pub(super) fn bind(&mut self, socket: usize, address: SocketAddrV4) -> Result<usize, c_int> {
        let host = self.held(socket)?.host;
        let there = &mut self.hosts[host];
        if there.listeners.contains_key(&address.port()) {
            return Err(libc::EADDRINUSE);
        }
        let port = if address.port() == 0 { there.free_port() } else { address.port() };
        self.sockets[socket].local = SocketAddrV4::new(*address.ip(), port);
        Ok(0)
    }

    pub(super) fn listen(&mut self, socket: usize, _backlog: usize) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        entry.state = State::Listening;
        let (host, port) = (entry.host, entry.local.port());
        self.hosts[host].listeners.insert(port, socket);
        Ok(0)
    }

    pub(super) fn connect(&mut self, socket: usize, to: SocketAddrV4) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        match entry.state {
            State::Fresh => {}
            State::Connecting => return Err(libc::EALREADY),
            _ => return Err(libc::EISCONN),
        }
        entry.state = State::Connecting;
        entry.remote = Some(to);
        let host = entry.host;
        let port = self.hosts[host].free_port();
        let ip = if to.ip().is_loopback() { Ipv4Addr::LOCALHOST } else { self.hosts[host].ip };
        self.sockets[socket].local = SocketAddrV4::new(ip, port);
        if self.host_of_remote(socket).is_none() {
            return Err(libc::ENETUNREACH);
        }
        self.send_syn(socket, 0);
        Err(libc::EINPROGRESS)
    }

    /// The host that this socket's peer has its address on.
    pub(super) fn host_of_remote(&self, socket: usize) -> Option<HostId> {
        let entry = &self.sockets[socket];
        let remote = entry.remote?;
        if remote.ip().is_loopback() {
            return Some(entry.host);
        }
        self.hosts.iter().position(|host| host.ip == *remote.ip())
    }

    /// A request for a connection has arrived.
    pub(super) fn knocked(&mut self, from: usize) {
        let Some(host) = self.host_of_remote(from) else { return };
        let Some(remote) = self.sockets[from].remote else { return };
        if !self.hosts[host].powered || !self.sockets[from].is_connecting() {
            return;
        }
        let there_and_back = self.paths[host][self.sockets[from].host].delay + 1;
        let Some(listener) = self.hosts[host].listeners.get(&remote.port()).copied() else {
            self.schedule(self.now + there_and_back, Event::Refused { to: from });
            return;
        };
        let made = Socket {
            state: State::Connected,
            // Held by nobody until it is accepted, but not to be answered with a reset.
            open: true,
            local: remote,
            remote: Some(self.sockets[from].local),
            peer: Some(from),
            // What is said at once does not overtake the answer.
            last_arrival: self.now + there_and_back,
            ..Socket::new(host, *remote.ip())
        };
        self.sockets.push(made);
        let made = self.sockets.len() - 1;
        self.sockets[listener].backlog.push_back(made);
        self.raise(listener, libc::EPOLLIN as u32);
        // Only one of the two can be lost on the way; a lost answer is asked for again.
        self.schedule(self.now + there_and_back, Event::SynAck { to: from, peer: made });
    }

    pub(super) fn connected(&mut self, socket: usize, peer: usize) {
        if !self.sockets[socket].is_connecting() {
            return self.send_reset(socket, peer);
        }
        self.sockets[socket].state = State::Connected;
        self.sockets[socket].peer = Some(peer);
        self.raise(socket, libc::EPOLLOUT as u32);
    }

    pub(super) fn accept(&mut self, listener: usize) -> Result<(usize, SocketAddrV4), c_int> {
        let made = self.held(listener)?.backlog.pop_front().ok_or(libc::EAGAIN)?;
        let from = self.sockets[made].remote.ok_or(libc::ECONNABORTED)?;
        Ok((made, from))
    }

    pub(super) fn local(&self, socket: usize) -> SocketAddrV4 {
        self.sockets[socket].local
    }

    pub(super) fn remote(&self, socket: usize) -> Result<SocketAddrV4, c_int> {
        let entry = &self.sockets[socket];
        entry.remote.filter(|_| entry.is_connected()).ok_or(libc::ENOTCONN)
    }

    pub(super) fn take_error(&mut self, socket: usize) -> c_int {
        self.sockets[socket].error.take().unwrap_or(0)
    }

    pub(super) fn set_option(&mut self, socket: usize, option: Option<SocketOption>) -> Result<usize, c_int> {
        let mutant = self.mutant;
        let entry = self.held(socket)?;
        match option {
            Some(SocketOption::ResetOnClose(_)) if mutant == Some(Mutant::FinForReset) => {}
            Some(SocketOption::ResetOnClose(on)) => entry.reset_on_close = on,
            Some(SocketOption::UserTimeout { ms }) => {
                entry.user_timeout = (ms > 0).then(|| Duration::from_millis(ms).as_nanos() as u64);
            }
            None => {}
        }
        Ok(0)
    }

    pub(super) fn receive(&mut self, socket: usize, room: &mut [u8], peek: bool) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        if entry.inbox.is_empty() {
            if let Some(error) = entry.error.take() {
                return Err(error);
            }
            return match entry.state {
                State::Connected if !entry.peer_finished => Err(libc::EAGAIN),
                State::Connected | State::Gone => Ok(0),
                State::Fresh | State::Listening | State::Connecting => Err(libc::ENOTCONN),
            };
        }
        let len = room.len().min(entry.inbox.len());
        for (place, byte) in room.iter_mut().zip(entry.inbox.iter()) {
            *place = *byte;
        }
        if peek {
            return Ok(len);
        }
        entry.inbox.drain(..len);
        // When it was said counts, not when it was read: what waited while the host slept proves nothing.
        let (host, arrived) = (entry.host, entry.newest_arrived);
        if self.host_of_remote(socket).is_some_and(|from| self.hosts[from].kind == Kind::Central) {
            let heard = &mut self.hosts[host].heard_central;
            *heard = (*heard).max(arrived);
        }
        self.reader_made_room(socket);
        Ok(len)
    }

    pub(super) fn send(&mut self, socket: usize, bytes: &[u8]) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        if let Some(error) = entry.error.take() {
            return Err(error);
        }
        match entry.state {
            State::Connected if !entry.finished => {}
            State::Connecting => return Err(libc::EAGAIN),
            State::Connected | State::Gone => return Err(libc::EPIPE),
            State::Fresh | State::Listening => return Err(libc::ENOTCONN),
        }
        let len = bytes.len().min(SEND_BYTES.saturating_sub(entry.unacknowledged));
        if len == 0 && !bytes.is_empty() {
            return Err(libc::EAGAIN);
        }
        if len > 0 {
            self.look_at_write(socket);
            self.put_out(socket, &bytes[..len]);
        }
        Ok(len)
    }

    pub(super) fn shutdown(&mut self, socket: usize, how: c_int) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        if entry.state != State::Connected {
            return Err(libc::ENOTCONN);
        }
        if how != libc::SHUT_RD && !std::mem::replace(&mut entry.finished, true) {
            entry.out.push_back(Piece::Fin);
            self.pump(socket);
        }
        Ok(0)
    }

    pub(super) fn close(&mut self, socket: usize) -> Result<usize, c_int> {
        let entry = self.held(socket)?;
        entry.open = false;
        entry.epoll = None;
        let host = entry.host;
        match entry.state {
            State::Listening => {
                let (port, waiting) = (entry.local.port(), std::mem::take(&mut entry.backlog));
                entry.be_gone();
                self.hosts[host].listeners.remove(&port);
                for socket in waiting {
                    self.abort(socket);
                }
            }
            State::Connected if entry.reset_on_close || !entry.inbox.is_empty() => self.abort(socket),
            State::Connected => {
                if !std::mem::replace(&mut entry.finished, true) {
                    entry.out.push_back(Piece::Fin);
                }
                // What was said is still sent, and then the end; the socket lives on without a program until then.
                self.pump(socket);
                if self.sockets[socket].peer_finished {
                    self.sockets[socket].be_gone_when_sent();
                }
            }
            State::Fresh | State::Connecting | State::Gone => entry.be_gone(),
        }
        Ok(0)
    }

    fn abort(&mut self, socket: usize) {
        let peer = self.sockets[socket].peer;
        self.sockets[socket].open = false;
        self.sockets[socket].be_gone();
        if let Some(peer) = peer {
            self.send_reset(socket, peer);
        }
    }

    /// The connection is no more; its program gets to know why.
    pub(super) fn break_off(&mut self, socket: usize, why: c_int) {
        let entry = &mut self.sockets[socket];
        entry.state = State::Gone;
        entry.error = Some(why);
        entry.out = VecDeque::new();
        entry.waits_since = None;
        let all = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP;
        self.raise(socket, all as u32);
    }

    /// What epoll says of a socket that it is newly asked about.
    pub(super) fn readiness(&self, socket: usize) -> u32 {
        let entry = &self.sockets[socket];
        let bits = match entry.state {
            State::Fresh => libc::EPOLLOUT | libc::EPOLLHUP,
            State::Listening if entry.backlog.is_empty() => 0,
            State::Listening => libc::EPOLLIN,
            State::Connecting => 0,
            State::Connected => {
                let readable = !entry.inbox.is_empty() || entry.peer_finished;
                let reading = if readable { libc::EPOLLIN } else { 0 };
                let ended = if entry.peer_finished { libc::EPOLLRDHUP } else { 0 };
                let writing = if entry.is_full() { 0 } else { libc::EPOLLOUT };
                reading | ended | writing
            }
            State::Gone => {
                libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP
            }
        };
        bits as u32
    }

    /// The program on `host` was killed: its kernel closes what it held. What it still tries to do while it is
    /// taken down has no effect any more.
    pub(crate) fn kill(&mut self, host: HostId) {
        for socket in 0..self.sockets.len() {
            if self.sockets[socket].host == host && self.sockets[socket].open {
                let _ = self.close(socket);
            }
        }
        self.hosts[host].listeners.clear();
    }

    /// The machine has lost its power: nothing is said to anybody.
    pub(crate) fn power_off(&mut self, host: HostId) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.host == host) {
            socket.open = false;
            socket.epoll = None;
            socket.be_gone();
        }
        self.hosts[host].listeners.clear();
        self.hosts[host].powered = false;
    }

    /// The connections that live between these two hosts.
    fn between(&self, one: HostId, other: HostId) -> Vec<(usize, usize)> {
        let ends = self.sockets.iter().enumerate().filter(|(_, socket)| socket.host == one);
        let pairs = ends.filter(|(_, socket)| socket.is_connected()).filter_map(|(place, socket)| {
            socket.peer.filter(|peer| self.sockets[*peer].host == other).map(|peer| (place, peer))
        });
        pairs.collect()
    }

    /// A router between them forgets their connections, silently.
    pub(crate) fn forget_between(&mut self, one: HostId, other: HostId) {
        for (here, there) in self.between(one, other) {
            self.sockets[here].forgotten = true;
            self.sockets[there].forgotten = true;
        }
    }

    /// Something between them resets their connections.
    pub(crate) fn reset_between(&mut self, one: HostId, other: HostId) {
        for (here, there) in self.between(one, other) {
            self.break_off(here, libc::ECONNRESET);
            if self.sockets[there].is_connected() {
                self.break_off(there, libc::ECONNRESET);
            }
        }
    }

    /// Damages the next piece of each connection on its way from `one` to `other`.
    pub(crate) fn spoil_between(&mut self, one: HostId, other: HostId) {
        for (_, there) in self.between(one, other) {
            self.sockets[there].spoil_next = true;
        }
    }
}
