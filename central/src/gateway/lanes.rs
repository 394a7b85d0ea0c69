//! The lanes of a session beside its first: who has a place here, and what becomes of it.
//!
//! ```text
//!   LaneHello ─► Fence::beside ─► Session::enter ─► begins: streams of its own ─┐
//!                  └ refused        └ refused └───► continues: after a cut ─────┴─► up ─► lost ─► over
//! ```
//!
//! The fence has judged before; here is only asked whether the lane belongs to this very session and has a place in it.
//! A refusal alters nothing.
//!
//! Invariant: a lane comes in only while the session's first lane is up. So it cannot stand for the tunnel, and there
//! is nothing to decide when it is lost but what becomes of its own streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Instant,
};

use proto::{
    AgentId, LaneId,
    driver::{self, Incoming, Tunnel, TunnelConfig},
    hello::{LaneHello, Refusal, RefusalCode},
    mux::ResetCode,
};
use tokio_util::sync::CancellationToken;

use super::{
    fence::Holder,
    session::{Lane, LaneHandle, Session},
};

/// The lanes beside a session's first, by number.
#[derive(Debug, Default)]
pub struct Further {
    held: BTreeMap<u8, Held>,
    /// Those that were given up and have not come back since.
    missing: BTreeSet<u8>,
}

#[derive(Debug)]
struct Held {
    id: LaneId,
    /// Its streams' tunnel, and its number among all lanes of the session.
    of: driver::Lane,
    lane: Lane,
}

/// How a lane that may come in begins.
#[derive(Debug)]
pub struct Entering {
    pub tunnel: Tunnel,
    /// Its incoming streams, when it begins with this websocket.
    pub incoming: Option<Incoming>,
    /// It continues: the websocket before must have ended first.
    pub continues: Option<Option<CancellationToken>>,
    /// One of this number had been given up.
    pub was_missing: bool,
}

/// Who knocks, as a certificate and the fence say.
#[derive(Debug, Clone, Copy)]
pub struct Knocking {
    pub agent: AgentId,
    pub holder: Holder,
}

impl Session {
    /// Gives a lane its place beside the first. `numbers` are those a lane may have.
    ///
    /// # Errors
    /// Why it has none, for the agent; then nothing has changed.
    pub fn enter(
        &mut self,
        who: Knocking,
        hello: &LaneHello,
        numbers: Range<u8>,
        handle: LaneHandle,
        config: TunnelConfig,
    ) -> Result<Entering, Refusal> {
        let LaneHello { tunnel: hello, lane: number, id } = hello;
        let ours = (self.agent, self.node, self.epoch, self.boot, self.id);
        if ours != (who.agent, hello.node, hello.epoch, hello.boot, hello.session) {
            let text = format!("the tunnel of epoch {} here is of another session", self.epoch);
            return refused(RefusalCode::OtherSession, text);
        }
        if !numbers.contains(number) {
            let text = format!(
                "there is no lane {number}: a tunnel has at most {} beside its first here (tunnel.lanes)",
                numbers.len()
            );
            return refused(RefusalCode::Malformed, text);
        }
        if self.live().is_none() {
            return refused(RefusalCode::Busy, "the tunnel's first lane is away and comes back first".into());
        }
        match (self.further.held.get_mut(number), hello.resume) {
            (Some(held), Some(_)) if held.id == *id => {
                let before = held.lane.hand_over(handle);
                let tunnel = held.of.tunnel.clone();
                return Ok(Entering { tunnel, incoming: None, continues: Some(before), was_missing: false });
            }
            (Some(_) | None, Some(_)) => {
                let text = format!("the streams of lane {number} are gone");
                return refused(RefusalCode::CannotResume, text);
            }
            (Some(Held { lane: Lane::Up(_), .. }), None) => {
                return refused(RefusalCode::Busy, format!("lane {number} is up already"));
            }
            (Some(Held { lane: Lane::Lost { .. }, .. }) | None, None) => {}
        }
        if who.holder == Holder::Predecessor {
            let text = format!("epoch {} drains: it begins no lanes", hello.epoch);
            return refused(RefusalCode::StaleEpoch, text);
        }
        if let Some(old) = self.further.held.remove(number) {
            self.tunnel.end(old.of.serial, ResetCode::TUNNEL_LOST, "the agent began the lane anew");
        }
        let (tunnel, incoming) = Tunnel::new(config);
        let of = self.tunnel.add(tunnel.clone());
        self.further.held.insert(*number, Held { id: *id, of, lane: Lane::Up(handle) });
        let was_missing = self.further.missing.remove(number);
        Ok(Entering { tunnel, incoming: Some(incoming), continues: None, was_missing })
    }

    /// The websocket of a further lane has ended. Its streams wait until `until`, unless they are over anyway. `false`:
    /// it is none of this session's.
    pub fn further_ended(&mut self, websocket: u64, over: bool, until: Instant) -> bool {
        let Some((number, held)) = self.further.held.iter_mut().find(|(_, held)| held.lane.is(websocket))
        else {
            return false;
        };
        held.lane = Lane::Lost { until };
        if over || held.of.tunnel.is_over() {
            let number = *number;
            self.end_further(number, "its agent ended the lane");
        }
        true
    }

    /// Gives up the lanes that did not come back in time, and says which.
    pub fn expire_further(&mut self, now: Instant) -> Vec<u8> {
        let late = |(number, held): (&u8, &Held)| match held.lane {
            Lane::Lost { until } if until <= now => Some(*number),
            Lane::Lost { .. } | Lane::Up(_) => None,
        };
        let late: Vec<_> = self.further.held.iter().filter_map(late).collect();
        for &number in &late {
            self.end_further(number, "its lane did not come back within tunnel.resume_window");
            self.further.missing.insert(number);
        }
        late
    }

    fn end_further(&mut self, number: u8, why: &str) {
        if let Some(held) = self.further.held.remove(&number) {
            let streams = held.of.tunnel.stats().streams;
            tracing::info!(epoch = %self.epoch, lane = number, streams, why, "A lane of the tunnel is over");
            self.tunnel.end(held.of.serial, ResetCode::TUNNEL_LOST, why);
        }
    }
}

impl Further {
    /// When the next lane has to be back.
    pub fn next_expiry(&self) -> Option<Instant> {
        let until = |held: &Held| match held.lane {
            Lane::Lost { until } => Some(until),
            Lane::Up(_) => None,
        };
        self.held.values().filter_map(until).min()
    }

    /// Ends their websockets.
    pub fn stop(&self) {
        self.held.values().for_each(|held| held.lane.stop());
    }
}

fn refused(code: RefusalCode, message: String) -> Result<Entering, Refusal> {
    Err(Refusal { code, message })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::{
        BootId, Epoch, NodeId, SessionId,
        driver::{Lanes, Open, Transport},
        hello::{Resume, TunnelHello, Versions},
        mux::Side,
    };

    use super::*;
    use crate::gateway::guests::Guests;

    #[test]
    fn a_lane_begins_beside_the_first_and_continues_after_a_cut() {
        let mut session = session();
        let began = enter(&mut session, &hello(1, A, None)).unwrap();
        assert!(began.incoming.is_some() && began.continues.is_none());
        assert_eq!(began.tunnel.open(to_db(), bytes()).unwrap().id(), driver::StreamId(1));

        assert!(session.further_ended(WEBSOCKET, false, later()));
        let again = enter(&mut session, &hello(1, A, Some(0))).unwrap();
        assert!(again.incoming.is_none() && again.continues.is_some());
        assert!(!again.tunnel.is_over());
    }

    #[test]
    fn a_lane_that_is_up_is_continued_only_once_its_websocket_was_told_to_end() {
        let mut session = session();
        let old = LaneHandle { id: 7, ..LaneHandle::default() };
        session.enter(WHO, &hello(1, A, None), NUMBERS, old.clone(), config()).unwrap();
        let again = enter(&mut session, &hello(1, A, Some(0))).unwrap();
        assert!(old.stop.is_cancelled());
        let before = again.continues.unwrap().unwrap();
        assert!(!before.is_cancelled());
        old.ended.cancel();
        assert!(before.is_cancelled());
    }

    /// Every way to lie, one at a time and all together, against a session with one lane up, one lost and one free.
    #[test]
    fn a_lane_that_belongs_elsewhere_is_refused_and_alters_nothing() {
        let (mut admitted, mut refused) = (0, 0);
        let mut session = with_lanes();
        for case in 0..2u32.pow(7) {
            let is = |bit: u32| case & (1 << bit) != 0;
            for number in [0, 1, 2, 3, 4, 8, 9, 255] {
                for id in [A, B, C] {
                    let mut lane = hello(number, id, is(0).then_some(0));
                    let mut who = WHO;
                    if is(1) {
                        who.holder = Holder::Predecessor;
                    }
                    if is(2) {
                        who.agent = AgentId::from_bytes([9; 16]);
                    }
                    if is(3) {
                        lane.tunnel.node = NodeId(9);
                    }
                    if is(4) {
                        lane.tunnel.epoch.claim += 1;
                    }
                    if is(5) {
                        lane.tunnel.boot = BootId::from_bytes([9; 16]);
                    }
                    if is(6) {
                        lane.tunnel.session = SessionId::from_bytes([9; 16]);
                    }
                    let ours = !(2..7).any(is);
                    let place = match (number, is(0)) {
                        (1, true) => id == A,
                        (2, true) => id == B,
                        (2 | 3, false) => !is(1),
                        _ => false,
                    };
                    let before = seen(&session);
                    let entered = session.enter(who, &lane, NUMBERS, handle(), config());
                    assert_eq!(entered.is_ok(), ours && place, "{lane:?} by {who:?}");
                    match entered {
                        Ok(_) => (session, admitted) = (with_lanes(), admitted + 1),
                        Err(_) => {
                            assert_eq!(seen(&session), before, "{lane:?} by {who:?}");
                            refused += 1;
                        }
                    }
                }
            }
        }
        assert!(admitted > 0 && refused > 1000, "{admitted} admitted, {refused} refused");
    }

    #[test]
    fn no_lane_comes_while_the_first_is_away() {
        for lane in [hello(1, A, Some(0)), hello(2, B, Some(0)), hello(3, C, None)] {
            let mut session = with_lanes();
            session.lane = Lane::Lost { until: later() };
            let before = seen(&session);
            assert_eq!(enter(&mut session, &lane).unwrap_err().code, RefusalCode::Busy);
            assert_eq!(seen(&session), before);
        }
    }

    #[test]
    fn a_second_lane_of_a_number_is_refused_while_the_first_one_is_up() {
        let mut session = session();
        let up = enter(&mut session, &hello(1, A, None)).unwrap();
        assert_eq!(enter(&mut session, &hello(1, B, None)).unwrap_err().code, RefusalCode::Busy);
        assert_eq!(enter(&mut session, &hello(1, B, Some(0))).unwrap_err().code, RefusalCode::CannotResume);
        assert!(!up.tunnel.is_over());
    }

    #[test]
    fn a_lane_begun_anew_ends_the_streams_of_the_one_before() {
        let mut session = session();
        let old = enter(&mut session, &hello(1, A, None)).unwrap();
        session.further_ended(WEBSOCKET, false, later());
        let new = enter(&mut session, &hello(1, B, None)).unwrap();
        assert!(old.tunnel.is_over() && !new.tunnel.is_over());
        assert!(!session.tunnel.first().is_over());
    }

    #[test]
    fn a_lane_that_does_not_come_back_ends_alone() {
        let mut session = session();
        let lane = enter(&mut session, &hello(1, A, None)).unwrap();
        let until = later();
        session.further_ended(WEBSOCKET, false, until);
        assert_eq!(session.further.next_expiry(), Some(until));
        assert!(session.expire_further(until - Duration::from_millis(1)).is_empty());
        assert!(!lane.tunnel.is_over());
        assert_eq!(session.expire_further(until), [1]);
        assert!(session.expire_further(until).is_empty(), "which is said once");
        assert!(lane.tunnel.is_over() && !session.tunnel.first().is_over());
        assert_eq!(session.further.next_expiry(), None);
        assert_eq!(enter(&mut session, &hello(1, A, Some(0))).unwrap_err().code, RefusalCode::CannotResume);
        assert!(enter(&mut session, &hello(1, B, None)).unwrap().was_missing, "its return is told");
        assert!(!enter(&mut session, &hello(2, C, None)).unwrap().was_missing);
    }

    #[test]
    fn a_lane_that_its_agent_ended_is_over_at_once() {
        let mut session = session();
        let lane = enter(&mut session, &hello(1, A, None)).unwrap();
        assert!(session.further_ended(WEBSOCKET, true, later()));
        assert!(lane.tunnel.is_over());
        assert!(!session.further_ended(WEBSOCKET, true, later()), "it is none of this session's any more");
    }

    #[test]
    fn a_superseded_session_ends_all_its_lanes_also_one_whose_websocket_is_just_beginning() {
        let mut session = session();
        let lanes: Vec<_> = [(1, A), (2, B), (3, C)]
            .map(|(number, id)| enter(&mut session, &hello(number, id, None)).unwrap().tunnel)
            .into();
        session.tunnel.abort(ResetCode::TUNNEL_LOST, "another agent has become active");
        assert!(lanes.iter().all(Tunnel::is_over));
    }

    const A: LaneId = LaneId::from_bytes([0xa; 16]);
    const B: LaneId = LaneId::from_bytes([0xb; 16]);
    const C: LaneId = LaneId::from_bytes([0xc; 16]);
    const NUMBERS: Range<u8> = 1..4;
    const WEBSOCKET: u64 = 5;
    const WHO: Knocking = Knocking { agent: AgentId::from_bytes([1; 16]), holder: Holder::Active };

    /// A session whose first lane is up.
    fn session() -> Session {
        let (tunnel, _) = Tunnel::new(config());
        let TunnelHello { node, epoch, boot, session, .. } = hello(1, A, None).tunnel;
        Session {
            tunnel: Lanes::new(tunnel),
            agent: WHO.agent,
            name: "gw-a".parse().unwrap(),
            node,
            epoch,
            boot,
            id: session,
            guests: Guests::default(),
            lane: Lane::Up(LaneHandle::default()),
            further: Further::default(),
        }
    }

    /// The same with lane 1 up and lane 2 lost.
    fn with_lanes() -> Session {
        let mut session = session();
        session.enter(WHO, &hello(1, A, None), NUMBERS, LaneHandle::default(), config()).unwrap();
        enter(&mut session, &hello(2, B, None)).unwrap();
        session.further_ended(WEBSOCKET, false, later());
        session
    }

    fn enter(session: &mut Session, hello: &LaneHello) -> Result<Entering, Refusal> {
        session.enter(WHO, hello, NUMBERS, handle(), config())
    }

    fn handle() -> LaneHandle {
        LaneHandle { id: WEBSOCKET, ..LaneHandle::default() }
    }

    fn hello(number: u8, id: LaneId, received: Option<u64>) -> LaneHello {
        let tunnel = TunnelHello {
            versions: Versions::OURS,
            node: NodeId(1),
            epoch: Epoch { group: 1, claim: 10 },
            boot: BootId::from_bytes([1; 16]),
            session: SessionId::from_bytes([1; 16]),
            resume: received.map(|received_through| Resume { received_through }),
        };
        LaneHello { tunnel, lane: number, id }
    }

    /// All that a lane could have altered.
    fn seen(session: &Session) -> String {
        format!("{:?} {:?} {:?}", session.lane, session.further, session.tunnel)
    }

    fn config() -> TunnelConfig {
        TunnelConfig::new(Side::Central)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn to_db() -> Open {
        Open::new(Transport::Tcp, "db", "10.0.0.7", 1521, [0; 16]).unwrap()
    }

    fn bytes() -> bytes::Bytes {
        bytes::Bytes::new()
    }
}
