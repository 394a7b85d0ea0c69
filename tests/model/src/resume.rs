//! Resume: two real muxes, a websocket that is cut anywhere, and what client and destination see.
//!
//! ```text
//!   client ──write──► central's Mux ═══ frames, one at a time ═══► agent's Mux ──read──► destination
//!                         └──── cut: what is on its way is lost; the next websocket continues ────┘
//! ```
//!
//! Both ends are the product's own [`Mux`]. What stands here in its place is what the driver and the keeper do
//! around it: whether a websocket continues a session, which one is read, and how an end is handed on.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    sync::LazyLock,
    time::Instant,
};

use bytes::Bytes;
use proto::{
    frame::{Body, Frame},
    mux::{
        Limits, Mux, MuxEvent, Open, ReadOutcome, Reset, ResetCode, Side, StreamId, TUNNEL_CREDIT_BYTES,
        Transport,
    },
};
use stateright::{Model, Property};

use crate::mutant::Mutant;

const CENTRAL: usize = 0;
const AGENT: usize = 1;
/// The one stream: more of them share nothing but their turn, and credit, which `proto`'s own model covers.
const STREAM: StreamId = StreamId(1);
/// All `now`s: the mux uses time for nothing that is judged here, and equal states stay equal.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The model and its bounds.
#[derive(Debug, Clone)]
pub struct Resume {
    pub mutant: Option<Mutant>,
    /// Bytes each end writes, each of them a frame.
    pub bytes: [u8; 2],
    pub cuts: u8,
    /// Deaths of the agent, and sessions given up.
    pub ends: u8,
}

#[derive(Debug, Clone)]
pub struct State {
    ends: [End; 2],
    /// Frames on their way to each end.
    wires: [VecDeque<Frame>; 2],
    /// What an older websocket still holds for central.
    old_wire: VecDeque<Frame>,
    attached: bool,
    /// By the step before.
    resumed: bool,
    cuts: u8,
    deaths: u8,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct End {
    mux: Mux,
    accepted: bool,
    wrote: u8,
    finished: bool,
    got: u8,
    /// What whoever sits behind this end was told.
    told: Told,
    /// The last numbered frame that went out, and the last the other end acknowledged.
    sent: u64,
    acked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Open,
    Fin,
    Reset,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Send(usize),
    Arrive(usize),
    /// An acknowledgement falls due.
    Wait(usize),
    /// The agent loses its websocket; central still has what was on its way there.
    Cut,
    ArriveFromOld,
    /// The next websocket: the same session, and what each end says it has.
    Resume,
    /// The next websocket is a liar's: it names a frame nobody sent, or one given up long ago.
    Forge {
        end: usize,
        received: u64,
    },
    /// The agent died; another process comes, under another session.
    Die,
    /// Central gives the session up: the resume window has passed, or another is active.
    GiveUp,
}

impl Resume {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn resume(&self, state: &mut State) {
        let received = [CENTRAL, AGENT].map(|end| state.ends[end].mux.received_through());
        if !self.is(Mutant::OldWebsocketStillRead) {
            state.old_wire.clear();
        }
        for end in [CENTRAL, AGENT] {
            let peer = received[1 - end];
            let own = &state.ends[end];
            let believed = match self.mutant {
                Some(Mutant::ResumeFromLastAck) => own.acked,
                Some(Mutant::ForgottenWhenSent) => own.sent,
                _ => peer,
            };
            let mux = &mut state.ends[end].mux;
            mux.detach();
            if mux.reattach(believed).is_err() {
                state.broken.get_or_insert(CUT_BREAKS_NOTHING);
            }
        }
        state.attached = true;
    }

    /// The other end's word about how far it came is impossible.
    fn forge(&self, state: &mut State, end: usize, received: u64) -> Option<()> {
        let last = state.ends[end].sent;
        let mux = &mut state.ends[end].mux;
        mux.detach();
        let before = format!("{mux:?}");
        if self.is(Mutant::ResumeOffsetUnchecked) {
            // What letting go of everything up to that number comes to.
            mux.reattach(received.min(last)).ok()?;
            let arrived = state.ends[1 - end].mux.received_through();
            state.ends[1 - end].mux.detach();
            state.ends[1 - end].mux.reattach(state.ends[end].mux.received_through()).ok()?;
            state.attached = true;
            return (arrived < last).then_some(());
        }
        let altered = mux.reattach(received).is_ok() || format!("{mux:?}") != before;
        // Refused: nothing more happens, and the true peer may come.
        if altered {
            state.broken.get_or_insert(FORGED_ALTERS_NOTHING);
        }
        altered.then_some(())
    }

    fn die(&self, state: &mut State) -> Option<()> {
        state.deaths += 1;
        for wire in state.wires.iter_mut().chain([&mut state.old_wire]) {
            wire.clear();
        }
        // The destination's socket died with the process: a reset, by the kernel.
        let dead = std::mem::replace(&mut state.ends[AGENT], End::new(Side::Agent));
        state.ends[AGENT].told = if dead.told == Told::Open { Told::Reset } else { dead.told };
        if self.is(Mutant::SessionUnchecked) {
            state.ends[AGENT].got = dead.got;
            state.ends[AGENT].told = dead.told;
            let mux = &mut state.ends[CENTRAL].mux;
            mux.detach();
            mux.reattach(0).ok()?;
            state.attached = true;
            return Some(());
        }
        state.attached = false;
        self.give_up(state);
        Some(())
    }

    fn give_up(&self, state: &mut State) {
        state.attached = false;
        for end in [CENTRAL, AGENT] {
            state.ends[end].mux.abort(Reset::new(ResetCode::TUNNEL_LOST, "given up"));
            self.hand_on(state, end);
        }
    }

    fn arrive(&self, state: &mut State, end: usize, frame: Frame) {
        if let Body::Ack { through } = frame.body {
            state.ends[end].acked = through;
        }
        let own = &mut state.ends[end];
        if own.mux.over().is_some() {
            return;
        }
        if let Err(error) = own.mux.handle_frame(frame, *NOW) {
            // What the driver does: the peer spoke nonsense, the tunnel is over.
            own.mux.abort(Reset::new(ResetCode::PROTOCOL, &error.to_string()));
            state.broken.get_or_insert(CUT_BREAKS_NOTHING);
        }
        self.hand_on(state, end);
    }

    /// What the relay does: bytes go on, an end as an end, a break as a break.
    fn hand_on(&self, state: &mut State, end: usize) {
        while let Some(event) = state.ends[end].mux.poll_event() {
            if event == MuxEvent::Incoming(STREAM) && !state.ends[end].accepted {
                let own = &mut state.ends[end];
                own.accepted = own.mux.accept(STREAM).is_ok();
                self.write_all(end, own);
            }
        }
        let peer_wrote = state.ends[1 - end].wrote;
        let peer_finished = state.ends[1 - end].finished;
        loop {
            let own = &mut state.ends[end];
            if own.told != Told::Open || !(own.accepted || end == CENTRAL) {
                return;
            }
            match own.mux.read(STREAM, 1) {
                Ok(ReadOutcome::Bytes(byte)) => {
                    if byte[..] != [own.got] || (own.got >= peer_wrote && state.deaths == 0) {
                        state.broken.get_or_insert(EVERY_BYTE_ONCE);
                        return;
                    }
                    own.got += 1;
                }
                Ok(ReadOutcome::Nothing) => return,
                Ok(ReadOutcome::End) => {
                    own.told = Told::Fin;
                    if !peer_finished || own.got != peer_wrote {
                        state.broken.get_or_insert(NO_FALSE_END);
                    }
                }
                Err(_) if self.is(Mutant::FinForReset) => {
                    own.told = Told::Fin;
                    state.broken.get_or_insert(NO_FALSE_END);
                }
                Err(_) => own.told = Told::Reset,
            }
        }
    }

    /// Whether everything arrives, and both directions end properly, once nothing is cut any more.
    fn comes_to_its_end(&self, state: &State) -> bool {
        let mut state = state.clone();
        if state.ends.iter().any(|end| end.mux.over().is_some()) {
            // Given up: whoever still waited was told so, and by a reset.
            return state.ends.iter().all(|end| end.told != Told::Open || !end.accepted);
        }
        if !state.attached {
            self.resume(&mut state);
        }
        for _ in 0..100 {
            let mut moved = false;
            for end in [CENTRAL, AGENT] {
                while self.send(&mut state, end).is_some() {
                    moved = true;
                }
                while let Some(frame) = state.wires[end].pop_front() {
                    self.arrive(&mut state, end, frame);
                    moved = true;
                }
                moved |= self.wait(&mut state, end).is_some();
            }
            if !moved {
                break;
            }
        }
        let whole = |end: usize| state.ends[end].got == self.bytes[1 - end];
        state.ends.iter().all(|end| end.told == Told::Fin) && whole(CENTRAL) && whole(AGENT)
    }

    /// All at once: what the mux makes of it goes out a byte at a time, and in between anything can happen.
    fn write_all(&self, end: usize, own: &mut End) {
        let bytes: Vec<u8> = (0..self.bytes[end]).collect();
        let written = own.mux.write(STREAM, &bytes);
        debug_assert_eq!(written, Ok(bytes.len()));
        own.wrote = self.bytes[end];
        own.finished = own.mux.finish(STREAM).is_ok();
    }

    fn send(&self, state: &mut State, end: usize) -> Option<()> {
        let frame = state.ends[end].mux.poll_transmit()?;
        state.ends[end].sent = state.ends[end].sent.max(frame.seq);
        state.wires[1 - end].push_back(frame);
        Some(())
    }

    fn wait(&self, state: &mut State, end: usize) -> Option<()> {
        let mux = &mut state.ends[end].mux;
        let due = mux.poll_timeout(*NOW)?;
        mux.handle_timeout(due);
        Some(())
    }
}

impl End {
    fn new(side: Side) -> Self {
        // No window is ever due: credit is not what this is about.
        let limits = Limits {
            streams: 4,
            frame_bytes: 1,
            tunnel_window_bytes: TUNNEL_CREDIT_BYTES,
            ..Limits::default()
        };
        Self {
            mux: Mux::new(side, limits),
            accepted: false,
            wrote: 0,
            finished: false,
            got: 0,
            told: Told::Open,
            sent: 0,
            acked: 0,
        }
    }
}

impl Model for Resume {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut central = End::new(Side::Central);
        let to = Open::new(Transport::Tcp, "orders", "", 1, [0; 16]);
        let opened = to.ok().and_then(|to| central.mux.open(to, Bytes::new()).ok());
        debug_assert_eq!(opened, Some(STREAM));
        self.write_all(CENTRAL, &mut central);
        vec![State {
            ends: [central, End::new(Side::Agent)],
            wires: Default::default(),
            old_wire: VecDeque::new(),
            attached: true,
            resumed: false,
            cuts: 0,
            deaths: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() || state.ends[CENTRAL].mux.over().is_some() {
            return;
        }
        for end in [CENTRAL, AGENT] {
            if state.attached {
                actions.extend([Action::Send(end), Action::Arrive(end), Action::Wait(end)]);
            }
        }
        actions.push(Action::ArriveFromOld);
        if state.attached && state.cuts < self.cuts {
            actions.push(Action::Cut);
        }
        if !state.attached {
            actions.push(Action::Resume);
            for end in [CENTRAL, AGENT] {
                let own = &state.ends[end];
                actions.push(Action::Forge { end, received: own.sent + 1 });
                actions.push(Action::Forge { end, received: u64::MAX });
                if own.acked > 0 {
                    actions.push(Action::Forge { end, received: own.acked - 1 });
                }
            }
        }
        if state.deaths < self.ends {
            actions.extend([Action::Die, Action::GiveUp]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.resumed = matches!(action, Action::Resume | Action::Forge { .. });
        match action {
            Action::Send(end) => self.send(&mut state, end)?,
            Action::Wait(end) => self.wait(&mut state, end)?,
            Action::Arrive(end) => {
                let frame = state.wires[end].pop_front()?;
                self.arrive(&mut state, end, frame);
            }
            Action::Cut => {
                state.cuts += 1;
                state.attached = false;
                state.ends[AGENT].mux.detach();
                state.wires[AGENT].clear();
                state.old_wire = std::mem::take(&mut state.wires[CENTRAL]);
            }
            Action::ArriveFromOld => {
                let frame = state.old_wire.pop_front()?;
                self.arrive(&mut state, CENTRAL, frame);
            }
            Action::Resume => self.resume(&mut state),
            Action::Forge { end, received } => self.forge(&mut state, end, received)?,
            Action::Die => self.die(&mut state)?,
            Action::GiveUp => {
                state.deaths += 1;
                self.give_up(&mut state);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EVERY_BYTE_ONCE, |_, state: &State| state.broken != Some(EVERY_BYTE_ONCE)),
            Property::always(NO_FALSE_END, |_, state: &State| state.broken != Some(NO_FALSE_END)),
            Property::always(CUT_BREAKS_NOTHING, |_, state: &State| state.broken != Some(CUT_BREAKS_NOTHING)),
            Property::always(FORGED_ALTERS_NOTHING, |_, state: &State| {
                state.broken != Some(FORGED_ALTERS_NOTHING)
            }),
            Property::always(COMES_TO_ITS_END, |model: &Resume, state: &State| {
                // Asked where the tunnel is cut or has just come back: every other state leads there.
                let cut = !state.attached || state.resumed || state.ends[CENTRAL].mux.over().is_some();
                state.broken.is_some() || !cut || model.comes_to_its_end(state)
            }),
            Property::sometimes(
                "both directions end properly after two cuts",
                |model: &Resume, state: &State| {
                    state.cuts == model.cuts && state.ends.iter().all(|end| end.told == Told::Fin)
                },
            ),
            Property::sometimes("a client is told of a break by a reset", |_, state: &State| {
                state.ends[CENTRAL].told == Told::Reset && state.ends[CENTRAL].got > 0
            }),
        ]
    }
}

// The muxes are compared by what they show of themselves: everything, in one order while there is one stream.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        struct Into<'a, H>(&'a mut H);
        impl<H: Hasher> fmt::Write for Into<'_, H> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        // Hashing cannot fail.
        let _ = write!(Into(hasher), "{self:?}");
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

pub const EVERY_BYTE_ONCE: &str = "every byte arrives once and in order";
pub const NO_FALSE_END: &str = "a stream that cannot survive never looks finished";
pub const CUT_BREAKS_NOTHING: &str = "a cut breaks no stream of a session that comes back";
pub const FORGED_ALTERS_NOTHING: &str = "a forged resume is refused and alters nothing";
pub const COMES_TO_ITS_END: &str = "once nothing is cut any more, everything arrives and ends properly";
