//! What stands where the operating system was: one per history, on the history's own thread.
//!
//! ```text
//!   agent, central, tokio, std ──► door (libc's symbols) ──► Kernel: sockets, paths, events in time
//!                                                            disk: what reached it, and what a crash forgets
//! ```
//!
//! The programs are the real ones, to the last instruction: nothing in them knows that a clock stands still while
//! they work, or that `epoll_wait` answers from a queue.

mod disk;
mod door;
mod flow;
mod socket;

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    ffi::c_int,
    net::Ipv4Addr,
    task::Waker,
    time::Duration,
};

pub(crate) use self::{
    disk::{Disk, forget_disk, watch_disk},
    door::real_nanos,
    flow::{Event, Path},
    socket::SocketOption,
};
use self::{flow::Scheduled, socket::Socket};
use crate::{dice::Dice, mutant::Mutant};

/// Descriptors of simulated sockets begin here; the kernel's own stay far below.
const FD_BASE: c_int = 1 << 24;
/// What clocks show when a history begins: a moment in 2026, and a machine that has run for a while.
const WALL_NANOS: u64 = 1_790_000_000 * NANOS;
const UPTIME_NANOS: u64 = 100_000 * NANOS;
pub(crate) const NANOS: u64 = 1_000_000_000;

/// A host's number; also its place in every table.
pub(crate) type HostId = usize;
/// Nanoseconds since the history began.
pub(crate) type Time = u64;

thread_local! {
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
    static CLOCK: Cell<Option<Clock>> = const { Cell::new(None) };
    static DICE: RefCell<Option<Dice>> = const { RefCell::new(None) };
    /// Whom to wake when the running host has nothing more to do.
    static IDLE: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// What the running host's clocks show.
#[derive(Clone, Copy, Default)]
struct Clock {
    now: Time,
    monotonic: Time,
    boot: Time,
    /// How far its wall clock is off.
    wall_off: i64,
}

/// Sockets, the paths between hosts, and what is under way.
pub(crate) struct Kernel {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<NetHost>,
    sockets: Vec<Socket>,
    /// From host to host.
    paths: Vec<Vec<Path>>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    dice: Dice,
    epolls: HashMap<c_int, Epoll>,
    /// Descriptors that are others by another number: a runtime registers by one and waits by the other.
    twins: HashMap<c_int, c_int>,
    running: HostId,
    /// What the running host waits for, once it is idle: a time, or nothing.
    idle_until: Option<Option<Time>>,
    /// A bug put in on purpose, and how often it could have struck.
    mutant: Option<Mutant>,
    mutable: u64,
    /// Who looks on.
    pub(crate) rules: Rules,
    /// What was seen that may never be.
    pub(crate) broken: Vec<String>,
}

/// A host as the network knows it.
#[derive(Debug)]
pub(crate) struct NetHost {
    pub(crate) ip: Ipv4Addr,
    pub(crate) kind: Kind,
    /// Without power nothing answers, not even with a refusal.
    pub(crate) powered: bool,
    /// Something waits for it in epoll.
    pub(crate) woken: bool,
    listeners: HashMap<u16, usize>,
    next_port: u16,
    /// When it last read a byte that came from central.
    heard_central: Time,
}

/// What a host is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Central,
    Agent,
    Site,
    Cloud,
}

/// What the network itself checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// An agent that has heard nothing from central for so long writes nothing to a destination.
    pub(crate) dead_after: Time,
}

#[derive(Default)]
struct Epoll {
    ready: VecDeque<usize>,
}

impl Kernel {
    pub(crate) fn new(hosts: &[(Ipv4Addr, Kind)], rules: Rules, mutant: Option<Mutant>, dice: Dice) -> Self {
        let hosts: Vec<_> = hosts.iter().map(|(ip, kind)| NetHost::new(*ip, *kind)).collect();
        let paths = (0..hosts.len())
            .map(|from| (0..hosts.len()).map(|to| Path::between(from == to)).collect())
            .collect();
        Self {
            now: 0,
            hosts,
            sockets: Vec::new(),
            paths,
            queue: BinaryHeap::new(),
            sequence: 0,
            dice,
            epolls: HashMap::new(),
            twins: HashMap::new(),
            running: 0,
            idle_until: None,
            mutant,
            mutable: 0,
            rules,
            broken: Vec::new(),
        }
    }

    pub(crate) fn path(&mut self, from: HostId, to: HostId) -> &mut Path {
        &mut self.paths[from][to]
    }

    /// When something is next due on the network.
    pub(crate) fn next_event(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(next)| next.at)
    }

    /// Lets everything happen that is due by `now`.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = now;
        while let Some(Reverse(next)) = self.queue.peek()
            && next.at <= now
        {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.happen(next.event);
        }
    }

    /// A number that depends on everything that happened on the network so far.
    pub(crate) fn digest(&self) -> u64 {
        self.sequence ^ self.dice.clone().roll() ^ (self.sockets.len() as u64) << 40
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at, sequence: self.sequence, event }));
    }

    /// `host` has the processor now. Until [`Kernel::idled`] everything that is called here is its doing.
    pub(crate) fn run(&mut self, host: HostId) {
        self.running = host;
        self.idle_until = None;
        self.hosts[host].woken = false;
    }

    /// What the host that ran waits for: `Some(None)` for nothing but the network.
    pub(crate) fn idled(&mut self) -> Option<Option<Time>> {
        self.idle_until.take()
    }

    fn duplicated(&mut self, fd: c_int, twin: c_int) {
        let first = self.twins.get(&fd).copied().unwrap_or(fd);
        self.twins.insert(twin, first);
    }

    fn closed(&mut self, fd: c_int) {
        if self.twins.remove(&fd).is_none() {
            self.epolls.remove(&fd);
        }
    }

    fn epoll_ready(&mut self, epoll: c_int, room: usize) -> Vec<(u32, u64)> {
        let Some(entry) = self.epolls.get_mut(&epoll) else { return Vec::new() };
        let many = entry.ready.len().min(room);
        let ready: Vec<usize> = entry.ready.drain(..many).collect();
        let sockets = &mut self.sockets;
        ready.into_iter().filter_map(|socket| sockets[socket].take_ready()).collect()
    }

    fn epoll_ctl(
        &mut self,
        epoll: c_int,
        what: c_int,
        socket: usize,
        wanted: Option<(u32, u64)>,
    ) -> Result<usize, c_int> {
        self.sockets.get(socket).ok_or(libc::EBADF)?;
        let epoll = self.twins.get(&epoll).copied().unwrap_or(epoll);
        match (what, wanted) {
            (libc::EPOLL_CTL_DEL, _) => self.sockets[socket].epoll = None,
            (_, Some((interest, data))) => {
                self.epolls.entry(epoll).or_default();
                self.sockets[socket].epoll = Some((epoll, interest, data));
                let now = self.readiness(socket);
                self.raise(socket, now);
            }
            (_, None) => return Err(libc::EFAULT),
        }
        Ok(0)
    }

    /// Something about a socket became true; whoever waits for it is woken.
    fn raise(&mut self, socket: usize, bits: u32) {
        let entry = &mut self.sockets[socket];
        let Some((epoll, interest, _)) = entry.epoll else { return };
        let bits = bits & (interest | (libc::EPOLLERR | libc::EPOLLHUP) as u32);
        if bits == 0 {
            return;
        }
        let queued = entry.ready != 0;
        entry.ready |= bits;
        let host = entry.host;
        if !queued {
            self.epolls.entry(epoll).or_default().ready.push_back(socket);
        }
        self.hosts[host].woken = true;
    }
}

impl NetHost {
    fn new(ip: Ipv4Addr, kind: Kind) -> Self {
        Self {
            ip,
            kind,
            powered: true,
            woken: false,
            listeners: HashMap::new(),
            next_port: 32_768,
            heard_central: 0,
        }
    }
}

/// Begins a history on this thread.
pub(crate) fn install(kernel: Kernel, dice: Dice) {
    KERNEL.with_borrow_mut(|place| *place = Some(kernel));
    DICE.with_borrow_mut(|place| *place = Some(dice));
    CLOCK.set(Some(Clock::default()));
}

/// Ends it: from here on this thread's clock and dice are the machine's again.
pub(crate) fn uninstall() {
    KERNEL.with_borrow_mut(|place| *place = None);
    DICE.with_borrow_mut(|place| *place = None);
    IDLE.with_borrow_mut(|place| *place = None);
    CLOCK.set(None);
}

/// What the clocks of this thread show from now on.
pub(crate) fn set_clock(now: Time, monotonic: Time, boot: Time, wall_off: i64) {
    CLOCK.set(Some(Clock { now, monotonic, boot, wall_off }));
}

/// The history's time; outside of one, `None`.
pub(crate) fn now() -> Option<Time> {
    CLOCK.try_with(Cell::get).ok().flatten().map(|clock| clock.now)
}

/// The host that runs.
pub(crate) fn running() -> Option<HostId> {
    with(|kernel| kernel.running)
}

/// Whom to wake when the running host is idle.
pub(crate) fn wake_when_idle(waker: &Waker) {
    IDLE.with_borrow_mut(|place| match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    });
}

/// Does something with this thread's kernel, if it has one. Never called from within itself: no waker is woken and
/// no program's code is run in here.
pub(crate) fn with<T>(act: impl FnOnce(&mut Kernel) -> T) -> Option<T> {
    KERNEL.try_with(|place| place.borrow_mut().as_mut().map(act)).ok().flatten()
}

/// The running host has nothing to do for `ms`, or at all.
fn idle(ms: Option<u64>) {
    let waits = with(|kernel| {
        let until = ms.map(|ms| kernel.now + Duration::from_millis(ms).as_nanos() as u64);
        kernel.idle_until = Some(until);
    });
    if waits.is_some()
        && let Some(waker) = IDLE.with_borrow(Clone::clone)
    {
        waker.wake();
    }
}

/// The answer of a clock on this thread; `None`: ask the machine.
fn clock(which: c_int) -> Option<u64> {
    let clock = CLOCK.try_with(Cell::get).ok().flatten()?;
    match which {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            (WALL_NANOS + clock.now).checked_add_signed(clock.wall_off)
        }
        libc::CLOCK_BOOTTIME => Some(UPTIME_NANOS + clock.boot),
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_MONOTONIC_RAW => {
            Some(UPTIME_NANOS + clock.monotonic)
        }
        _ => None,
    }
}

/// Fills `room` from the history's dice; false: this thread has none.
fn roll(room: &mut [u8]) -> bool {
    let filled = DICE.try_with(|dice| dice.borrow_mut().as_mut().map(|dice| dice.fill(room)));
    matches!(filled, Ok(Some(())))
}
