//! The lanes of one tunnel. Each is a [`Tunnel`] of its own: a websocket with its own streams, credit, acknowledgements,
//! resume and lease.
//!
//! ```text
//!              ┌─ first lane: begins and ends with the tunnel, stands for it in all that is asked of one
//!   open() ──► ├─ lane 1 ─┐
//!              └─ lane 2 ─┴ further lanes: come and go beside it
//! ```
//!
//! A stream is put on one lane when it is opened and stays there, so its bytes need no sorting; when its lane breaks it
//! waits for that lane alone.
//!
//! Invariant: what ends the tunnel ends every lane, and no lane that is added afterwards lives. That is why the lanes
//! are together here: who ends a tunnel cannot forget one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Open, OpenError, ResetCode, Tunnel, TunnelStats, TunnelStream};

/// All lanes of a tunnel. Clones are the same tunnel.
#[derive(Clone, Debug)]
pub struct Lanes {
    first: Tunnel,
    beside: Arc<Mutex<Beside>>,
}

/// One lane, as whoever has a stream on it knows it.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Which of the lanes this tunnel ever had: the first is 0, and no number is used twice.
    pub serial: u32,
    pub tunnel: Tunnel,
}

#[derive(Debug, Default)]
struct Beside {
    lanes: Vec<Lane>,
    last_serial: u32,
    /// Where the next look for a lane begins, so that equals take turns.
    turn: usize,
    /// What lanes have carried that are no more.
    gone_in: u64,
    gone_out: u64,
    goes_away: Option<Said>,
    over: Option<Said>,
}

/// A code, and why.
type Said = (ResetCode, String);

impl Lanes {
    pub fn new(first: Tunnel) -> Lanes {
        Lanes { first, beside: Arc::default() }
    }

    /// The lane that stands for the tunnel.
    pub fn first(&self) -> &Tunnel {
        &self.first
    }

    /// Another lane beside the first. Over at once if the tunnel is.
    pub fn add(&self, tunnel: Tunnel) -> Lane {
        let (lane, goes_away, over) = {
            let mut beside = self.lock();
            beside.last_serial += 1;
            let lane = Lane { serial: beside.last_serial, tunnel };
            if beside.over.is_none() {
                beside.lanes.push(lane.clone());
            }
            (lane, beside.goes_away.clone(), beside.over.clone())
        };
        if let Some((code, why)) = goes_away {
            lane.tunnel.go_away(code, &why);
        }
        if let Some((code, why)) = over {
            lane.tunnel.abort(code, &why);
        }
        lane
    }

    /// Ends one lane beside the first, its streams with it.
    pub fn end(&self, serial: u32, code: ResetCode, reason: &str) {
        let ended = {
            let mut beside = self.lock();
            let at = beside.lanes.iter().position(|lane| lane.serial == serial);
            at.map(|at| beside.lanes.swap_remove(at))
        };
        if let Some(lane) = ended {
            lane.tunnel.abort(code, reason);
            let stats = lane.tunnel.stats();
            let mut beside = self.lock();
            beside.gone_in += stats.bytes_in;
            beside.gone_out += stats.bytes_out;
        }
    }

    /// Opens a stream on the lane with the fewest, as [`Tunnel::open`] does. A lane beside the first is chosen only
    /// while it has a websocket.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, open: Open, first: Bytes) -> Result<(Lane, TunnelStream), OpenError> {
        if let Some(lane) = self.emptiest()
            // Where that lane is just ending, or full, the first one has the last word.
            && let Ok(stream) = lane.tunnel.open(open.clone(), first.clone())
        {
            return Ok((lane, stream));
        }
        let stream = self.first.open(open, first)?;
        Ok((Lane { serial: 0, tunnel: self.first.clone() }, stream))
    }

    /// The lane beside the first that should have the next stream; `None`: the first.
    fn emptiest(&self) -> Option<Lane> {
        let mut beside = self.lock();
        if beside.lanes.is_empty() {
            return None;
        }
        let places = beside.lanes.len() + 1;
        beside.turn = (beside.turn + 1) % places;
        let turn = beside.turn;
        let lanes = std::iter::once(None).chain(beside.lanes.iter().map(Some));
        let open = lanes.enumerate().filter_map(|(place, lane)| {
            let stats = lane.map_or(&self.first, |lane| &lane.tunnel).stats();
            let later = (place + places - turn) % places;
            (lane.is_none() || stats.attached).then_some((stats.streams, later, lane))
        });
        open.min_by_key(|(streams, later, _)| (*streams, *later)).and_then(|(_, _, lane)| lane.cloned())
    }

    /// See [`Tunnel::go_away`]: also for lanes that are added later.
    pub fn go_away(&self, code: ResetCode, reason: &str) {
        let lanes = {
            let mut beside = self.lock();
            beside.goes_away.get_or_insert_with(|| (code, reason.to_owned()));
            beside.lanes.clone()
        };
        self.first.go_away(code, reason);
        lanes.iter().for_each(|lane| lane.tunnel.go_away(code, reason));
    }

    /// See [`Tunnel::abort`]: when this returns every lane is over, and lanes that are added later are.
    pub fn abort(&self, code: ResetCode, reason: &str) {
        let lanes = {
            let mut beside = self.lock();
            beside.over.get_or_insert_with(|| (code, reason.to_owned()));
            beside.lanes.clone()
        };
        self.first.abort(code, reason);
        lanes.iter().for_each(|lane| lane.tunnel.abort(code, reason));
    }

    /// How many lanes have a websocket now.
    pub fn attached(&self) -> usize {
        let beside = self.lock().lanes.clone();
        let all = std::iter::once(&self.first).chain(beside.iter().map(|lane| &lane.tunnel));
        all.filter(|tunnel| tunnel.stats().attached).count()
    }

    /// Streams and bytes of all lanes; silence, round trip and websocket of the first.
    pub fn stats(&self) -> TunnelStats {
        let (lanes, gone_in, gone_out) = {
            let beside = self.lock();
            (beside.lanes.clone(), beside.gone_in, beside.gone_out)
        };
        let mut all = self.first.stats();
        all.bytes_in += gone_in;
        all.bytes_out += gone_out;
        for stats in lanes.iter().map(|lane| lane.tunnel.stats()) {
            all.streams += stats.streams;
            all.bytes_in += stats.bytes_in;
            all.bytes_out += stats.bytes_out;
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, Beside> {
        // Whole after any panic: no change is left half done while something else is called.
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::JoinSet;

    use super::*;
    use crate::driver::{Incoming, Role, Side, Transport, TunnelConfig, WebSocket};

    #[tokio::test(start_paused = true)]
    async fn streams_are_spread_over_the_lanes_that_have_a_websocket() {
        let mut world = World::default();
        let (first, _) = world.connected().await;
        let lanes = Lanes::new(first);
        assert_eq!(opened(&lanes).0.serial, 0);
        for _ in 0..2 {
            let (lane, _) = world.connected().await;
            lanes.add(lane);
        }
        let (without_websocket, _) = Tunnel::new(TunnelConfig::new(Side::Central));
        lanes.add(without_websocket);
        assert_eq!(lanes.attached(), 3);

        let held: Vec<_> = (0..9).map(|_| opened(&lanes)).collect();
        let on = |serial| held.iter().filter(|(lane, _)| lane.serial == serial).count();
        assert_eq!([on(0), on(1), on(2), on(3)], [3, 3, 3, 0]);
        assert_eq!(lanes.stats().streams, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_with_fewer_streams_gets_the_next_ones() {
        let mut world = World::default();
        let lanes = Lanes::new(world.connected().await.0);
        let before: Vec<_> = (0..4).map(|_| opened(&lanes)).collect();
        lanes.add(world.connected().await.0);
        let next: Vec<_> = (0..4).map(|_| opened(&lanes)).collect();
        assert!(next.iter().all(|(lane, _)| lane.serial == 1));
        assert!(before.iter().all(|(lane, _)| lane.serial == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_tunnel_is_the_end_of_every_lane_also_of_one_that_comes_too_late() {
        let mut world = World::default();
        let lanes = Lanes::new(world.connected().await.0);
        let early = lanes.add(world.connected().await.0);
        let streams: Vec<_> = (0..2).map(|_| opened(&lanes).1).collect();
        lanes.abort(ResetCode::TUNNEL_LOST, "another agent has become active");
        assert!(lanes.first().is_over() && early.tunnel.is_over());
        for stream in &streams {
            assert_eq!(stream.broken().await.code, ResetCode::TUNNEL_LOST);
        }
        let late = lanes.add(world.connected().await.0);
        assert!(late.tunnel.is_over());
        assert!(lanes.open(to("db"), Bytes::new()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_takes_no_new_streams_takes_none_on_any_lane() {
        let mut world = World::default();
        let lanes = Lanes::new(world.connected().await.0);
        lanes.add(world.connected().await.0);
        lanes.go_away(ResetCode::GOING_AWAY, "the gateway has moved");
        lanes.add(world.connected().await.0);
        assert!(matches!(lanes.open(to("db"), Bytes::new()), Err(OpenError::GoingAway(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn one_lane_ends_alone_and_what_it_carried_still_counts() {
        let mut world = World::default();
        let lanes = Lanes::new(world.connected().await.0);
        let (near, mut incoming) = world.connected().await;
        let lane = lanes.add(near);
        let mut stream = lane.tunnel.open(to("db"), Bytes::new()).unwrap();
        stream.write_all(b"four").await.unwrap();
        let mut far = incoming.next().await.unwrap().accept();
        far.read_exact(&mut [0; 4]).await.unwrap();
        let carried = lanes.stats().bytes_out;
        lanes.end(lane.serial, ResetCode::TUNNEL_LOST, "it did not come back");
        assert!(lane.tunnel.is_over() && !lanes.first().is_over());
        assert_eq!(lanes.stats().bytes_out, carried);
        assert_eq!(opened(&lanes).0.serial, 0);
    }

    /// Holds the websockets' tasks and the far ends.
    #[derive(Default)]
    struct World {
        tasks: JoinSet<()>,
    }

    impl World {
        /// Central's end of a lane, and what arrives at the agent's.
        async fn connected(&mut self) -> (Tunnel, Incoming) {
            let (central, _) = Tunnel::new(TunnelConfig::new(Side::Central));
            let (agent, incoming) = Tunnel::new(TunnelConfig::new(Side::Agent));
            let (near, far) = duplex(64 * 1024);
            for (tunnel, pipe, role) in [(central.clone(), near, Role::Server), (agent, far, Role::Client)] {
                self.tasks.spawn(async move { drop(tunnel.run(WebSocket::new(pipe, role)).await) });
            }
            while !central.stats().attached {
                tokio::task::yield_now().await;
            }
            (central, incoming)
        }
    }

    fn opened(lanes: &Lanes) -> (Lane, TunnelStream) {
        lanes.open(to("db"), Bytes::new()).unwrap()
    }

    fn to(destination: &str) -> Open {
        Open::new(Transport::Tcp, destination, "10.0.0.7", 1521, [0; 16]).unwrap()
    }
}
