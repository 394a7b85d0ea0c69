//! What may never be, whatever happens. Everybody who sees something tells the oracle; it remembers what was wrong.
//!
//! * Epochs: the fence never falls, and no epoch has two holders.
//! * Stale bytes: once central has admitted an epoch, no byte crosses it by way of an older one, in either
//!   direction, except of a predecessor in planned drain.
//! * Streams: bytes come once, in order, as they were written; a clean end means that all of them came.
//! * Alerts: each outage that is told is told once, its end once and after it.
//! * Silence is looked after by the network itself ([`crate::kernel`]): an agent that has not heard from central for
//!   `tunnel.dead_after` writes nothing to a destination.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use proto::Epoch;

use crate::{
    kernel::{NANOS, Time},
    people::Note,
};

/// Between a byte's way through central and its arrival where it is seen: the way to the cloud, and a turn.
const ON_THE_WAY: Time = NANOS / 200;
const DOWN: &str = "secure_gateway.down";
const UP: &str = "secure_gateway.up";
/// Broken rules that are kept; one is enough to fail.
const PROBLEMS_MAX: usize = 20;

#[derive(Debug, Clone, Copy)]
struct Admission {
    at: Time,
    epoch: Epoch,
    agent: Ipv4Addr,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    agent: Ipv4Addr,
    from: Time,
    until: Option<Time>,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    problems: Vec<String>,
    admissions: Vec<Admission>,
    drains: Vec<Drain>,
    /// When each answered probe began, and was answered.
    answers: Vec<(Time, Time)>,
    /// Alerts by incident, in the order they came; a delivery that came twice is one.
    alerts: BTreeMap<String, Vec<String>>,
    delivered: BTreeSet<String>,
    /// Streams whose clients have said all they wanted to say, or have gone.
    left: HashSet<u64>,
    pub(crate) streams_finished: u64,
    pub(crate) streams_broken: u64,
    pub(crate) notes_back: u64,
}

impl Oracle {
    pub(crate) fn wrong(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            tracing::error!(what, "A rule is broken");
            self.problems.push(what);
        }
    }

    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(crate) fn admissions(&self) -> usize {
        self.admissions.len()
    }

    /// Central shows another gateway than before.
    pub(crate) fn shown(
        &mut self,
        at: Time,
        fence: Option<Epoch>,
        active: Option<Ipv4Addr>,
        draining: &[Ipv4Addr],
    ) {
        for drain in self.drains.iter_mut().filter(|drain| drain.until.is_none()) {
            if !draining.contains(&drain.agent) {
                drain.until = Some(at);
            }
        }
        for agent in draining {
            if !self.drains.iter().any(|drain| drain.agent == *agent && drain.until.is_none()) {
                self.drains.push(Drain { agent: *agent, from: at, until: None });
            }
        }
        let (Some(epoch), last) = (fence, self.admissions.last().copied()) else { return };
        if let Some(last) = last
            && epoch < last.epoch
        {
            self.wrong(format!("the fence fell from {} to {epoch}", last.epoch));
        }
        let Some(agent) = active else { return };
        match last {
            Some(last) if last.epoch == epoch && last.agent != agent => {
                self.wrong(format!("epoch {epoch} is held by {} and by {agent}", last.agent));
            }
            Some(last) if last.epoch >= epoch => {}
            _ => self.admissions.push(Admission { at, epoch, agent }),
        }
    }

    fn drained_at(&self, agent: Ipv4Addr, at: Time) -> bool {
        self.drains.iter().any(|drain| {
            drain.agent == agent
                && drain.from <= at + ON_THE_WAY
                && drain.until.is_none_or(|until| at <= until + ON_THE_WAY)
        })
    }

    /// The admission that overtook `epoch` of `agent` before central can have seen a byte at `at`.
    fn overtaken(&self, epoch: Option<Epoch>, agent: Ipv4Addr, at: Time) -> Option<Admission> {
        let newer = self.admissions.iter().find(|newer| Some(newer.epoch) > epoch && newer.agent != agent)?;
        (newer.at + ON_THE_WAY < at && !self.drained_at(agent, at)).then_some(*newer)
    }

    fn newest_of(&self, agent: Ipv4Addr, at: Time) -> Option<Epoch> {
        let own = self.admissions.iter().filter(|admission| admission.agent == agent && admission.at <= at);
        own.map(|admission| admission.epoch).max()
    }

    /// A stream's first bytes have come back by way of this agent; under which epoch that is.
    pub(crate) fn stream_began(&mut self, stream: u64, via: Ipv4Addr, at: Time) -> Option<Epoch> {
        let epoch = self.newest_of(via, at);
        self.look(stream, epoch, via, at, "came back");
        epoch
    }

    pub(crate) fn came_back(
        &mut self,
        stream: u64,
        epoch: Option<Epoch>,
        via: Ipv4Addr,
        note: &Note,
        expected: u64,
        at: Time,
    ) {
        self.notes_back += 1;
        if note.stream != stream || note.number != expected {
            self.wrong(format!(
                "stream {stream:#x} by way of {via} got note {} of stream {:#x} back where {expected} was next",
                note.number, note.stream
            ));
        }
        self.look(stream, epoch, via, at, "came back");
    }

    /// A note has reached the destination by way of an agent.
    pub(crate) fn at_destination(&mut self, note: &Note, expected: u64, from: IpAddr, at: Time) {
        let IpAddr::V4(via) = from else { return };
        if note.number != expected {
            self.wrong(format!(
                "note {} of stream {:#x} reached the destination by way of {via} where {expected} was next",
                note.number, note.stream
            ));
        }
        let epoch = self.newest_of(via, at);
        self.look(note.stream, epoch, via, note.written_at, "was sent on");
    }

    fn look(&mut self, stream: u64, epoch: Option<Epoch>, via: Ipv4Addr, at: Time, what: &str) {
        if let Some(newer) = self.overtaken(epoch, via, at) {
            self.wrong(format!(
                "a byte of stream {stream:#x} {what} by way of {via}, {:.3} s after central had admitted {} of {}",
                (at - newer.at) as f64 / NANOS as f64,
                newer.epoch,
                newer.agent
            ));
        }
    }

    /// The client of a stream sends nothing more.
    pub(crate) fn left(&mut self, stream: u64) {
        self.left.insert(stream);
    }

    /// A stream came to its proper end at the destination.
    pub(crate) fn ended_at_destination(&mut self, stream: u64, via: IpAddr) {
        if !self.left.contains(&stream) {
            self.wrong(format!(
                "stream {stream:#x} by way of {via} ended at the destination as if it were whole, and its client had not \
                 ended it"
            ));
        }
    }

    /// An alert has arrived.
    pub(crate) fn told(&mut self, delivery: &str, kind: &str, incident: &str) {
        if !self.delivered.insert(delivery.to_owned()) {
            return; // the same delivery once more, because its first answer got lost
        }
        let told = self.alerts.entry(incident.to_owned()).or_default();
        told.push(kind.to_owned());
        let is_right = match told.as_slice() {
            [down] => down == DOWN,
            [down, up] => down == DOWN && up == UP,
            _ => false,
        };
        if !is_right {
            let told = told.join(", ");
            self.wrong(format!("of incident {incident} was told: {told}"));
        }
    }

    /// How many outages were told; an outage without its end is wrong when the gateway is long back.
    pub(crate) fn outages_told(&mut self) -> usize {
        let open: Vec<_> = self
            .alerts
            .iter()
            .filter(|(_, told)| told.len() != 2)
            .map(|(id, told)| format!("{id}: {told:?}"))
            .collect();
        for open in open {
            self.wrong(format!("an outage was told, and its end was not: {open}"));
        }
        self.alerts.len()
    }

    pub(crate) fn answered(&mut self, began: Time, at: Time) {
        self.answers.push((began, at));
    }

    /// When the first connection was answered that began at or after `since`.
    pub(crate) fn answered_since(&self, since: Time) -> Option<Time> {
        self.answers.iter().filter(|(began, _)| *began >= since).map(|(_, at)| *at).min()
    }
}
