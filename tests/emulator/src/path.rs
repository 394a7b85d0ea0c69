//! What one direction between two hosts does to packets. Decisions only: no sockets, and time is an argument.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a path does to the packets on it. The default does nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Impairment {
    /// One way.
    pub delay: Duration,
    /// Each packet's delay varies by up to this much either way; so packets overtake each other.
    pub jitter: Duration,
    /// The part of packets that never arrive, 0 to 1.
    pub loss: f64,
    /// The part of packets that arrive twice, 0 to 1.
    pub duplicates: f64,
    /// The part of packets with one bit flipped, 0 to 1. Checksums catch them: they are lost later.
    pub corruption: f64,
    /// Bytes per second; what is faster queues up.
    pub rate: Option<u64>,
    /// How much may queue for `rate` before it is dropped, in time on the line. Zero means 100 ms.
    pub queue: Duration,
    /// Larger packets never arrive, and nobody is told: a path whose smallest unit nobody learns of. In bytes.
    pub largest: Option<usize>,
    /// Nothing arrives, and nobody is told.
    pub cut: bool,
    /// After so many bytes from now the path is cut.
    pub cut_after: Option<u64>,
    /// A flow without a packet for so long is forgotten: its packets vanish from then on, as behind a NAT.
    pub idle_limit: Option<Duration>,
}

const QUEUE: Duration = Duration::from_millis(100);

/// One direction, with what it remembers.
#[derive(Debug)]
pub struct Path {
    does: Impairment,
    dice: StdRng,
    /// When the line has sent all that it took.
    free_at: Option<Instant>,
    carried: u64,
    last_seen: HashMap<Flow, Instant>,
    forgotten: HashSet<Flow>,
}

/// A TCP connection or UDP exchange, whichever way the packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow([u8; 13]);

/// When a packet arrives, and whether it is damaged on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub at: Instant,
    /// This bit of the packet, counted from its first, is flipped.
    pub flipped: Option<usize>,
}

impl Path {
    pub fn new(seed: u64) -> Self {
        Self {
            does: Impairment::default(),
            dice: StdRng::seed_from_u64(seed),
            free_at: None,
            carried: 0,
            last_seen: HashMap::new(),
            forgotten: HashSet::new(),
        }
    }

    /// From now on; `cut_after` counts from here.
    pub fn set(&mut self, does: Impairment) {
        self.carried = 0;
        self.free_at = None;
        self.does = does;
    }

    /// Every flow seen until now is forgotten, as when a NAT restarts: its packets vanish, new ones pass.
    pub fn forget_flows(&mut self) {
        let seen = self.last_seen.drain().map(|(flow, _)| flow);
        self.forgotten.extend(seen);
    }

    /// When this packet arrives: never, once, or twice.
    pub fn take(&mut self, packet: &[u8], now: Instant) -> [Option<Arrival>; 2] {
        let bytes = packet.len() as u64;
        let too_large = self.does.largest.is_some_and(|largest| packet.len() > largest);
        if self.does.cut || too_large || self.is_forgotten(packet, now) {
            return [None, None];
        }
        self.carried = self.carried.saturating_add(bytes);
        if self.does.cut_after.is_some_and(|limit| self.carried > limit) {
            self.does.cut = true;
            return [None, None];
        }
        let Some(sent) = self.onto_the_line(bytes, now) else { return [None, None] };
        if self.happens(self.does.loss) {
            return [None, None];
        }
        let first = self.arrival(packet, sent);
        let second = self.happens(self.does.duplicates).then(|| self.arrival(packet, sent));
        [Some(first), second]
    }

    fn is_forgotten(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some(flow) = Flow::of(packet) else { return false };
        if self.forgotten.contains(&flow) {
            return true;
        }
        let before = self.last_seen.insert(flow, now);
        let idle = before.map(|before| now.saturating_duration_since(before)).unwrap_or_default();
        if self.does.idle_limit.is_some_and(|limit| idle > limit) {
            self.forgotten.insert(flow);
            return true;
        }
        false
    }

    /// When the line has sent it; `None` when its queue is full.
    fn onto_the_line(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let Some(rate) = self.does.rate else { return Some(now) };
        let queue = if self.does.queue.is_zero() { QUEUE } else { self.does.queue };
        let begins = self.free_at.map_or(now, |free| free.max(now));
        if begins.saturating_duration_since(now) > queue {
            return None;
        }
        let ends = begins + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.free_at = Some(ends);
        Some(ends)
    }

    fn arrival(&mut self, packet: &[u8], sent: Instant) -> Arrival {
        let jitter = self.does.jitter.mul_f64(self.dice.random_range(0.0..=2.0));
        let late = (self.does.delay + jitter).saturating_sub(self.does.jitter);
        let flipped =
            self.happens(self.does.corruption).then(|| self.dice.random_range(..packet.len().max(1) * 8));
        Arrival { at: sent + late, flipped }
    }

    fn happens(&mut self, part: f64) -> bool {
        part > 0.0 && self.dice.random_bool(part.min(1.0))
    }
}

impl Flow {
    /// Of an IPv4 packet that begins a TCP or UDP segment; what is neither has no flow.
    fn of(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let protocol = *packet.get(9)?;
        if packet.first()? >> 4 != 4 || !matches!(protocol, 6 | 17) {
            return None;
        }
        let (from, to) = (packet.get(12..16)?, packet.get(16..20)?);
        let (from_port, to_port) = (packet.get(header..header + 2)?, packet.get(header + 2..header + 4)?);
        let mut flow = [0; 13];
        flow[0] = protocol;
        flow[1..5].copy_from_slice(from);
        flow[5..7].copy_from_slice(from_port);
        flow[7..11].copy_from_slice(to);
        flow[11..13].copy_from_slice(to_port);
        Some(Self(flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_an_impairment_a_packet_arrives_once_and_at_once() {
        let now = Instant::now();
        assert_eq!(Path::new(1).take(&tcp(1), now), [Some(Arrival { at: now, flipped: None }), None]);
    }

    #[test]
    fn delay_varies_by_the_jitter_and_never_more() {
        let mut path = path(Impairment { delay: 80 * MS, jitter: 20 * MS, ..Impairment::default() });
        let now = Instant::now();
        let delays: Vec<_> = (0..1000).filter_map(|_| Some(path.take(&tcp(1), now)[0]?.at - now)).collect();
        assert!(delays.iter().all(|delay| (60 * MS..=100 * MS).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < 65 * MS) && delays.iter().any(|delay| *delay > 95 * MS));
    }

    #[test]
    fn loss_duplicates_and_corruption_come_as_often_as_asked() {
        let does = Impairment { loss: 0.1, duplicates: 0.2, corruption: 0.3, ..Impairment::default() };
        let mut path = path(does);
        let taken: Vec<_> = (0..10_000).map(|_| path.take(&tcp(1), Instant::now())).collect();
        let count = |what: &dyn Fn(&[Option<Arrival>; 2]) -> bool| taken.iter().filter(|t| what(t)).count();
        assert!((900..1100).contains(&count(&|taken| taken[0].is_none())));
        assert!((1650..1950).contains(&count(&|taken| taken[1].is_some())));
        assert!((2500..2900).contains(&count(&|taken| taken[0].is_some_and(|a| a.flipped.is_some()))));
    }

    #[test]
    fn a_rate_spaces_packets_and_drops_what_its_queue_cannot_hold() {
        let mut path = path(Impairment { rate: Some(40_000), queue: 3 * MS, ..Impairment::default() });
        let now = Instant::now();
        let arrivals: Vec<_> = (0..6).map(|_| path.take(&tcp(1), now)[0].map(|a| a.at - now)).collect();
        // 40 bytes a millisecond, one packet of 40 bytes.
        assert_eq!(arrivals, [Some(MS), Some(2 * MS), Some(3 * MS), Some(4 * MS), None, None]);
        assert_eq!(path.take(&tcp(1), now + 10 * MS)[0].map(|a| a.at - now), Some(11 * MS));
    }

    #[test]
    fn a_path_is_cut_after_as_many_bytes_as_asked() {
        let mut path = path(Impairment { cut_after: Some(100), ..Impairment::default() });
        let passed = (0..5).filter(|_| path.take(&tcp(1), Instant::now())[0].is_some()).count();
        assert_eq!(passed, 2);
        path.set(Impairment::default());
        assert!(path.take(&tcp(1), Instant::now())[0].is_some(), "it is whole again");
    }

    #[test]
    fn what_is_too_large_never_arrives_and_the_rest_does() {
        let mut path = path(Impairment { largest: Some(40), ..Impairment::default() });
        let mut large = tcp(1);
        large.push(0);
        assert_eq!(path.take(&large, Instant::now()), [None, None]);
        assert!(path.take(&tcp(1), Instant::now())[0].is_some());
    }

    #[test]
    fn an_idle_flow_is_forgotten_and_others_go_on() {
        let mut path = path(Impairment { idle_limit: Some(100 * MS), ..Impairment::default() });
        let now = Instant::now();
        assert!(path.take(&tcp(1), now)[0].is_some());
        assert!(path.take(&tcp(1), now + 90 * MS)[0].is_some());
        assert!(path.take(&tcp(1), now + 300 * MS)[0].is_none());
        assert!(path.take(&tcp(1), now + 301 * MS)[0].is_none(), "for good");
        assert!(path.take(&tcp(2), now + 301 * MS)[0].is_some());
        path.forget_flows();
        assert!(path.take(&tcp(2), now + 302 * MS)[0].is_none());
        assert!(path.take(&tcp(3), now + 302 * MS)[0].is_some());
    }

    fn path(does: Impairment) -> Path {
        let mut path = Path::new(7);
        path.set(does);
        path
    }

    /// The headers of a segment from this port.
    fn tcp(port: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[9], packet[21]) = (0x45, 6, port);
        packet
    }
}
