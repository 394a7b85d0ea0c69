//! Carries packets between the hosts' devices, each along the path from its host to the other.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, Read, Write},
    net::Ipv4Addr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    path::{Arrival, Path},
    tun,
};

/// Larger than any interface's unit.
const PACKET_MAX: usize = 65_536;
/// Packets on their way at once; beyond it a path drops them, as a router without memory would.
const UNDER_WAY_MAX: usize = 100_000;

/// A host's device.
pub struct Port {
    pub address: Ipv4Addr,
    pub device: File,
}

/// Runs until it is dropped.
pub struct Switch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    ports: Vec<Port>,
    /// By sender, then receiver.
    paths: Vec<Vec<Mutex<Path>>>,
    under_way: Mutex<BinaryHeap<Reverse<UnderWay>>>,
    sooner: Condvar,
    stop: AtomicBool,
}

/// Ordered by arrival, then by the order they were sent in.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    at: Instant,
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

impl Switch {
    /// Joins these hosts by paths that do nothing to packets. The dice of all paths follow from `seed`.
    pub fn start(ports: Vec<Port>, seed: u64) -> io::Result<Self> {
        let hosts = ports.len() as u64;
        let path = |from: u64, to: u64| Mutex::new(Path::new(seed ^ (from * hosts + to)));
        let paths = (0..hosts).map(|from| (0..hosts).map(|to| path(from, to)).collect()).collect();
        let shared = Arc::new(Shared {
            ports,
            paths,
            under_way: Mutex::default(),
            sooner: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut switch = Self { shared, threads: Vec::new() };
        for from in 0..switch.shared.ports.len() {
            let shared = switch.shared.clone();
            switch.spawn(format!("from host {from}"), move || shared.carry_from(from))?;
        }
        let shared = switch.shared.clone();
        switch.spawn("to hosts".to_owned(), move || shared.deliver())?;
        Ok(switch)
    }

    /// The path from one host to another.
    pub fn path(&self, from: usize, to: usize) -> Option<MutexGuard<'_, Path>> {
        Some(lock(self.shared.paths.get(from)?.get(to)?))
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(thread::Builder::new().name(name).spawn(work)?);
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.sooner.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Reads what a host sends until the switch stops.
    fn carry_from(&self, from: usize) {
        let (Some(port), Some(paths)) = (self.ports.get(from), self.paths.get(from)) else { return };
        let (mut device, mut packet) = (&port.device, vec![0; PACKET_MAX]);
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if !matches!(tun::readable(device), Ok(true)) {
                continue;
            }
            // An interface that is down, or going, has no packets for us.
            let Ok(length) = device.read(&mut packet) else { continue };
            let Some(packet) = packet.get(..length) else { continue };
            let Some((to, path)) = self.receiver_of(packet).and_then(|to| Some((to, paths.get(to)?))) else {
                continue;
            };
            let now = Instant::now();
            let arrivals = lock(path).take(packet, now);
            for arrival in arrivals.into_iter().flatten() {
                number += 1;
                self.send(to, number, packet, arrival, now);
            }
        }
    }

    fn receiver_of(&self, packet: &[u8]) -> Option<usize> {
        let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        self.ports.iter().position(|port| port.address == Ipv4Addr::from(to))
    }

    fn send(&self, to: usize, number: u64, packet: &[u8], arrival: Arrival, now: Instant) {
        let mut packet = packet.to_vec();
        if let Some(byte) = arrival.flipped.and_then(|bit| packet.get_mut(bit / 8)) {
            *byte ^= 1 << (arrival.flipped.unwrap_or_default() % 8);
        }
        let mut under_way = lock(&self.under_way);
        // Nothing on the way can be overtaken by what arrives at once.
        if arrival.at <= now && under_way.is_empty() {
            self.write(to, &packet);
        } else if under_way.len() < UNDER_WAY_MAX {
            under_way.push(Reverse(UnderWay { at: arrival.at, number, to, packet }));
            self.sooner.notify_one();
        }
    }

    /// Writes what has arrived until the switch stops.
    fn deliver(&self) {
        let mut under_way = lock(&self.under_way);
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while under_way.peek().is_some_and(|first| first.0.at <= now)
                && let Some(Reverse(first)) = under_way.pop()
            {
                self.write(first.to, &first.packet);
            }
            let next = under_way.peek().map(|first| first.0.at.saturating_duration_since(now));
            let waited = self.sooner.wait_timeout(under_way, next.unwrap_or(Duration::from_millis(100)));
            under_way = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&self, to: usize, packet: &[u8]) {
        if let Some(mut device) = self.ports.get(to).map(|port| &port.device) {
            // The kernel drops what it cannot take; so does a network.
            let _ = device.write(packet);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
