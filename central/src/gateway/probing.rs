//! Asking an agent whether it reaches a destination: one question at a time, over its control websocket.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::{
    control::CentralMessage,
    trace::{Answer, Ask, FEATURE_PROBE, STEPS_MAX, Step},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::registry::AgentLink;

/// Why an agent's answer is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    #[error("it is not connected to central")]
    NotConnected,
    #[error("its agent {software} is too old for this test: upgrade it")]
    TooOld { software: String },
    #[error("others are testing through it at the moment: try again")]
    Busy,
    #[error("its agent did not answer in time")]
    NoAnswer,
    #[error("its control connection ended meanwhile")]
    Gone,
    #[error("its agent tried nothing: {0}")]
    Refused(String),
}

/// The one question that may be under way on a link.
#[derive(Debug, Default)]
pub(super) struct Probing {
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Option<Waiting>>,
    asked: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    answer: oneshot::Sender<Result<Vec<Step>, String>>,
}

impl AgentLink {
    /// Lets the agent try a destination. `ask.id` is chosen here. Cancel-safe: a late answer is passed over.
    ///
    /// # Errors
    /// [`NotAsked`] when it could not be asked, or did not answer within `limit`.
    pub async fn probe(&self, mut ask: Ask, limit: Duration) -> Result<Vec<Step>, NotAsked> {
        if !self.hello.features.iter().any(|feature| feature == FEATURE_PROBE) {
            return Err(NotAsked::TooOld { software: self.hello.software.clone() });
        }
        let deadline = Instant::now() + limit;
        let turn = timeout_at(deadline, self.probing.turn.lock()).await;
        let _turn = turn.map_err(|_| NotAsked::Busy)?;
        let (sender, answer) = oneshot::channel();
        ask.id = self.probing.asked.fetch_add(1, Ordering::Relaxed);
        *self.probing.lock() = Some(Waiting { id: ask.id, answer: sender });
        self.tell(CentralMessage::ProbeDestination(ask));
        tokio::select! {
            answer = timeout_at(deadline, answer) => match answer {
                Ok(Ok(Ok(steps))) => Ok(steps.into_iter().take(STEPS_MAX).map(Step::checked).collect()),
                Ok(Ok(Err(why))) => Err(NotAsked::Refused(Step::skip(proto::trace::Hop::Other, why).detail)),
                // Dropped only by the next question, and that waits for its turn.
                Ok(Err(_)) => Err(NotAsked::Gone),
                Err(_) => Err(NotAsked::NoAnswer),
            },
            () = self.closed.cancelled() => Err(NotAsked::Gone),
        }
    }

    /// The agent answered.
    pub fn probed(&self, answer: Answer) {
        let mut waiting = self.probing.lock();
        if waiting.as_ref().is_some_and(|waiting| waiting.id == answer.id)
            && let Some(waiting) = waiting.take()
        {
            // Whoever asked may have given up meanwhile.
            let _ = waiting.answer.send(answer.result);
        }
    }
}

impl Probing {
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        // Whole after any panic: each change is one assignment.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{
        AgentId, BootId, Fingerprint,
        hello::{AgentHello, SystemInformation, Versions},
        trace::Hop,
    };
    use time::OffsetDateTime;
    use tokio::sync::mpsc;

    use super::*;
    use crate::enrolment::{AgentIdentity, Validity};

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_answer_reaches_whoever_asked_and_a_late_one_nobody() {
        let (link, mut said) = link(&[FEATURE_PROBE]);
        let asking = tokio::spawn({
            let link = link.clone();
            async move { link.probe(ask(), LIMIT).await }
        });
        let Some(CentralMessage::ProbeDestination(asked)) = said.recv().await else { panic!("nothing said") };
        link.probed(Answer { id: asked.id + 1, result: Err("somebody else's".into()) });
        let steps = vec![Step::skip(Hop::Dns, "it is an address already")];
        link.probed(Answer { id: asked.id, result: Ok(steps.clone()) });
        assert_eq!(asking.await.unwrap(), Ok(steps));

        assert_eq!(link.probe(ask(), LIMIT).await, Err(NotAsked::NoAnswer));
        link.probed(Answer { id: asked.id + 1, result: Ok(Vec::new()) });
        assert_eq!(link.probe(ask(), LIMIT).await, Err(NotAsked::NoAnswer));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_agent_is_not_asked() {
        let (link, mut said) = link(&[]);
        assert!(matches!(link.probe(ask(), LIMIT).await, Err(NotAsked::TooOld { .. })));
        assert!(said.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_ask_take_turns() {
        let (link, _said) = link(&[FEATURE_PROBE]);
        let (first, second) = tokio::join!(link.probe(ask(), LIMIT), link.probe(ask(), LIMIT));
        assert_eq!((first, second), (Err(NotAsked::NoAnswer), Err(NotAsked::Busy)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_link_ends_the_waiting() {
        let (link, _said) = link(&[FEATURE_PROBE]);
        link.closed.cancel();
        assert_eq!(link.probe(ask(), LIMIT).await, Err(NotAsked::Gone));
    }

    fn ask() -> Ask {
        let (destination, host, kind) = ("db".into(), "db.example".into(), "tcp".into());
        Ask { id: 0, destination, host, port: 1, kind, path: String::new(), limit_ms: 1_000 }
    }

    fn link(features: &[&str]) -> (Arc<AgentLink>, mpsc::Receiver<CentralMessage>) {
        let hello = AgentHello {
            versions: Versions::OURS,
            software: "0.0.1".into(),
            boot: BootId::random(),
            seat: None,
            written: None,
            peer_addrs: Vec::new(),
            unix_ms: 0,
            system: SystemInformation::default(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (outbound, said) = mpsc::channel(8);
        let remote = ([192, 0, 2, 1], 4000).into();
        let until_now =
            Validity { not_before: OffsetDateTime::UNIX_EPOCH, not_after: OffsetDateTime::now_utc() };
        let identity = AgentIdentity {
            environment: "default".parse().unwrap(),
            agent: AgentId::random(),
            name: "gw-a".parse().unwrap(),
            fingerprint: Fingerprint::from_bytes([0; 32]),
            validity: until_now,
        };
        (Arc::new(AgentLink::new(1, identity, hello, remote, outbound)), said)
    }
}
