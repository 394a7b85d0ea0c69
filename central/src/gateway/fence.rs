//! The fence: which epoch may hold the tunnel. This, not Raft, is what makes two actives impossible.
//!
//! ```text
//!   TunnelHello ──► Fence::admit ──► New ──► one compare-and-set ──► the registry, which closes the old
//!                        ├─────────► Same, Predecessor: the holder comes back
//!                        └─────────► Refused, with the reason
//!
//!   LaneHello ────► Fence::beside ─► whoever is admitted already, or refused: a further lane moves nothing
//! ```
//!
//! Invariant: the epoch in the store only grows, and it is durable before a tunnel under it is accepted.
//! So an epoch that was superseded once stays refused, also after central's own restart.

use proto::{
    AgentId, BootId, EnvironmentName, Epoch, NodeId, SessionId,
    hello::{Refusal, RefusalCode, Seat, TunnelHello},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    process_server::group::GRANTED_SINCE_MAX,
    store::{Collection, Owner, Precondition, SharedStore, StoreError, Versioned},
};

const FENCES: Collection<Fence> = Collection::new("gateway_fence");
/// An Environment has one gateway.
const KEY: &str = "gateway";
/// For backups, which raise it: see [`restored`].
pub(crate) const COLLECTION: &str = FENCES.name();
/// Whoever loses the compare-and-set looks again. The epoch grows each time, so this many in a row is a fault.
const ATTEMPTS_MAX: usize = 64;

/// The highest epoch ever admitted in an Environment, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    pub epoch: Epoch,
    pub agent: AgentId,
    pub node: NodeId,
    pub boot: BootId,
    pub session: SessionId,
    /// Whom it took over from as planned: no new streams, may resume, until its time ends.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
}

/// An active in planned drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Predecessor {
    pub epoch: Epoch,
    pub agent: AgentId,
    pub node: NodeId,
    pub boot: BootId,
    pub session: SessionId,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// The newest claim that central's own witness has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppliedClaim {
    pub epoch: Epoch,
    pub node: NodeId,
    pub boot: BootId,
}

/// What central knows at the moment an agent asks, besides the fence and the hello.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// From the certificate.
    pub agent: AgentId,
    /// The agent's present seat.
    pub seat: Option<Seat>,
    pub claim: Option<AppliedClaim>,
    /// Set when the hello answers a planned order while a tunnel lives: how long the old active may drain.
    pub drain_until: Option<OffsetDateTime>,
    pub now: OffsetDateTime,
}

/// The answer to a [`TunnelHello`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one lives for each tunnel that knocks, and only for a moment")]
pub enum Admission {
    /// A higher epoch: `fence` is the new record. What `supersedes` holds is closed, except a predecessor
    /// that `fence` itself names.
    New {
        fence: Fence,
        supersedes: Option<Fence>,
    },
    /// The holder of the highest epoch, again.
    Same,
    /// The predecessor in planned drain, again: it may resume, open nothing, and ends at `until`.
    Predecessor {
        until: OffsetDateTime,
    },
    Refused(Refusal),
}

/// Whose tunnel a further lane comes to. Not [`Admission`]: it has no word for a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Of the highest epoch.
    Active,
    /// In planned drain.
    Predecessor,
}

impl Fence {
    /// Judges the hello of a further lane. It comes beside a tunnel that was admitted, by the same rules as that tunnel
    /// comes back, and never admits an epoch itself.
    ///
    /// # Errors
    /// Why not, for the agent.
    pub fn beside(
        current: Option<&Self>,
        hello: &TunnelHello,
        at: &Circumstances,
    ) -> Result<Holder, Refusal> {
        match Self::admit(current, hello, at) {
            Admission::Same => Ok(Holder::Active),
            Admission::Predecessor { .. } => Ok(Holder::Predecessor),
            Admission::New { .. } => Err(Refusal {
                code: RefusalCode::UnknownClaim,
                message: format!(
                    "epoch {} is not admitted yet: a tunnel's first lane comes first",
                    hello.epoch
                ),
            }),
            Admission::Refused(refusal) => Err(refusal),
        }
    }

    /// Judges a hello against the fence as it stands. Decides only; [`Fences::admit`] also writes.
    pub fn admit(current: Option<&Self>, hello: &TunnelHello, at: &Circumstances) -> Admission {
        let seat = Seat { group: hello.epoch.group, node: hello.node };
        let seated = at.seat == Some(seat);
        if let Some(fence) = current {
            if let Some(old) = fence.predecessor.filter(|old| old.epoch == hello.epoch) {
                return old.admit(hello, at);
            }
            if hello.epoch < fence.epoch {
                return refused(
                    RefusalCode::StaleEpoch,
                    format!("epoch {} was superseded by {}", hello.epoch, fence.epoch),
                );
            }
            if hello.epoch == fence.epoch {
                let same = (fence.agent, fence.node, fence.boot, fence.session)
                    == (at.agent, hello.node, hello.boot, hello.session);
                return match (same, seated) {
                    (true, true) => Admission::Same,
                    (true, false) => not_seated(seat),
                    (false, _) => refused(
                        RefusalCode::OtherSession,
                        format!("epoch {} belongs to another boot or session: claim anew", hello.epoch),
                    ),
                };
            }
        }
        if !seated {
            return not_seated(seat);
        }
        match at.claim {
            Some(claim) if hello.epoch < claim.epoch => refused(
                RefusalCode::StaleEpoch,
                format!("claim {} was superseded by claim {}", hello.epoch, claim.epoch),
            ),
            Some(claim) if (claim.epoch, claim.node, claim.boot) == (hello.epoch, hello.node, hello.boot) => {
                Admission::New { fence: Self::after(current, hello, at), supersedes: current.copied() }
            }
            _ => refused(
                RefusalCode::UnknownClaim,
                format!(
                    "central's witness knows of no claim {} by node {} in this boot",
                    hello.epoch, hello.node
                ),
            ),
        }
    }

    /// The record after admitting `hello`: a planned take-over lets the old holder drain, and an
    /// unplanned one does not end the drain of the one before it.
    fn after(current: Option<&Self>, hello: &TunnelHello, at: &Circumstances) -> Self {
        let predecessor = current.zip(at.drain_until).map(|(old, until)| Predecessor {
            epoch: old.epoch,
            agent: old.agent,
            node: old.node,
            boot: old.boot,
            session: old.session,
            until,
        });
        let draining = current
            .and_then(|old| old.predecessor)
            .filter(|old| old.until > at.now && old.epoch.group == hello.epoch.group);
        let predecessor = predecessor.or(draining);
        Self {
            epoch: hello.epoch,
            agent: at.agent,
            node: hello.node,
            boot: hello.boot,
            session: hello.session,
            predecessor,
        }
    }
}

impl Predecessor {
    /// It needs no seat: one who was unmarked drains too.
    fn admit(&self, hello: &TunnelHello, at: &Circumstances) -> Admission {
        let same = (self.agent, self.node, self.boot, self.session)
            == (at.agent, hello.node, hello.boot, hello.session);
        if same && at.now < self.until {
            return Admission::Predecessor { until: self.until };
        }
        refused(
            RefusalCode::StaleEpoch,
            format!("epoch {} was superseded and its drain has ended", hello.epoch),
        )
    }
}

/// A stored [`Fence`] as a restored central may have it, and its group: above everything that was admitted before,
/// also after the backup was made. No claim has its epoch, and nobody may come back under it.
pub(crate) fn restored(
    stored: serde_json::Value,
    floor: u64,
) -> Result<(serde_json::Value, u64), serde_json::Error> {
    let before: Fence = serde_json::from_value(stored)?;
    let group = floor.max(before.epoch.group.saturating_add(GRANTED_SINCE_MAX));
    let after = Fence { epoch: Epoch { group, claim: 0 }, predecessor: None, ..before };
    Ok((serde_json::to_value(after)?, group))
}

fn not_seated(seat: Seat) -> Admission {
    refused(
        RefusalCode::NotSeated,
        format!("node {} of group {} is not, or no longer, this agent's seat", seat.node, seat.group),
    )
}

fn refused(code: RefusalCode, message: String) -> Admission {
    Admission::Refused(Refusal { code, message })
}

/// The fence of one Environment in the store. Cheap to clone.
#[derive(Clone)]
pub struct Fences {
    store: SharedStore,
    owner: Owner,
}

impl Fences {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    /// The fence as it stands; `None` before the first admission.
    pub async fn current(&self) -> Result<Option<Fence>, StoreError> {
        Ok(self.read().await?.map(|record| record.value))
    }

    /// Judges a hello and, if its epoch is new, makes it the highest before answering: when this returns
    /// [`Admission::New`] the fence is durable. Of several that ask at once only the highest stays admitted.
    ///
    /// Dropping the future may leave the new fence written: its holder comes back and is `Same`.
    pub async fn admit(&self, hello: &TunnelHello, at: &Circumstances) -> Result<Admission, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let current = self.read().await?;
            let admission = Fence::admit(current.as_ref().map(|current| &current.value), hello, at);
            let Admission::New { fence, .. } = &admission else { return Ok(admission) };
            let unchanged = current.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            let write = FENCES.put(&self.owner, KEY, unchanged, fence)?;
            match self.store.commit(write.into()).await {
                Ok(_) => return Ok(admission),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(FENCES.key(&self.owner, KEY)))
    }

    /// Judges the hello of a further lane, as [`Fence::beside`] does. Writes nothing. Cancel-safe.
    ///
    /// # Errors
    /// When the store cannot be read; inside, why the lane is refused.
    pub async fn beside(
        &self,
        hello: &TunnelHello,
        at: &Circumstances,
    ) -> Result<Result<Holder, Refusal>, StoreError> {
        let current = self.current().await?;
        Ok(Fence::beside(current.as_ref(), hello, at))
    }

    /// Ends the drain of the predecessor before its time, as when its last stream is gone.
    pub async fn end_drain(&self, epoch: Epoch) -> Result<(), StoreError> {
        let ended = FENCES.update(&*self.store, &self.owner, KEY, |fence| {
            let drains = fence.filter(|fence| fence.predecessor.is_some_and(|old| old.epoch == epoch));
            Ok::<_, StoreError>(drains.map(|fence| Fence { predecessor: None, ..*fence }))
        });
        ended.await.map(drop)
    }

    async fn read(&self) -> Result<Option<Versioned<Fence>>, StoreError> {
        FENCES.get(&*self.store, &self.owner, KEY).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::hello::{Resume, Versions};
    use time::Duration;

    use super::*;
    use crate::store::{memory::MemoryStore, sled::SledStore};

    const T0: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_committed_claim_beats_every_lower_epoch() {
        let old = active(1).at(1, 10);
        let new = active(2).at(1, 11);
        let fence = admitted(None, &old);
        let Admission::New { fence, supersedes } = judge(Some(&fence), &new) else { panic!("refused") };
        assert_eq!(supersedes.unwrap().epoch, old.hello.epoch);
        assert_eq!(code(judge(Some(&fence), &old)), RefusalCode::StaleEpoch);
    }

    #[test]
    fn a_group_founded_anew_beats_every_claim_of_the_old_one() {
        let fence = admitted(None, &active(1).at(1, 900));
        admitted(Some(&fence), &active(2).at(2, 1));
        let fence = admitted(None, &active(2).at(2, 1));
        assert_eq!(code(judge(Some(&fence), &active(1).at(1, 901))), RefusalCode::StaleEpoch);
    }

    #[test]
    fn a_restored_fence_refuses_every_epoch_of_before_also_those_the_backup_does_not_know() {
        const FLOOR: u64 = 1_800_000_000_000;
        let backed_up = admitted(None, &active(1).at(1, 10));
        let (value, group) = restored(serde_json::to_value(backed_up).unwrap(), FLOOR).unwrap();
        let fence: Fence = serde_json::from_value(value).unwrap();
        assert_eq!((group, fence.predecessor), (FLOOR, None));
        for since in
            [active(1).at(1, 10), active(2).at(1, 11), active(2).at(7, 1), active(1).at(FLOOR - 1, 99)]
        {
            assert_eq!(code(judge(Some(&fence), &since)), RefusalCode::StaleEpoch);
        }
        admitted(Some(&fence), &active(2).at(FLOOR + 1, 1));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_lower_a_restored_fence() {
        let backed_up = admitted(None, &active(1).at(1_800_000_000_000, 10));
        let (_, group) = restored(serde_json::to_value(backed_up).unwrap(), 5).unwrap();
        assert!(group > 1_800_000_000_000);
    }

    #[test]
    fn the_same_epoch_needs_the_same_agent_node_boot_and_session() {
        let holder = active(1).at(1, 10);
        let fence = admitted(None, &holder);
        assert_eq!(judge(Some(&fence), &holder), Admission::Same);

        let mut another = holder.clone();
        another.hello.session = SessionId::from_bytes([9; 16]);
        assert_eq!(code(judge(Some(&fence), &another)), RefusalCode::OtherSession);
        let mut another = holder.clone();
        another.hello.boot = BootId::from_bytes([9; 16]);
        assert_eq!(code(judge(Some(&fence), &another)), RefusalCode::OtherSession);
        let mut another = holder.clone();
        another.at.agent = AgentId::from_bytes([9; 16]);
        assert_eq!(code(judge(Some(&fence), &another)), RefusalCode::OtherSession);
    }

    #[test]
    fn the_holder_comes_back_also_while_a_newer_claim_is_on_its_way() {
        let holder = active(1).at(1, 10);
        let fence = admitted(None, &holder);
        let mut back = holder.clone();
        back.at.claim = active(2).at(1, 11).at.claim;
        // Until the successor is admitted, the holder's tunnel is the one that works.
        assert_eq!(judge(Some(&fence), &back), Admission::Same);
    }

    #[test]
    fn an_invented_claim_is_refused() {
        let mut liar = active(1).at(1, 10);
        liar.at.claim = None;
        assert_eq!(code(judge(None, &liar)), RefusalCode::UnknownClaim);
        liar.at.claim = active(1).at(1, 9).at.claim;
        assert_eq!(code(judge(None, &liar)), RefusalCode::UnknownClaim);
        liar.at.claim = active(2).at(1, 10).at.claim;
        assert_eq!(code(judge(None, &liar)), RefusalCode::UnknownClaim);
    }

    #[test]
    fn a_claim_that_a_newer_one_followed_is_refused_though_never_admitted() {
        let mut late = active(1).at(1, 10);
        late.at.claim = active(2).at(1, 11).at.claim;
        assert_eq!(code(judge(None, &late)), RefusalCode::StaleEpoch);
    }

    #[test]
    fn only_who_holds_the_seat_is_admitted() {
        let mut unmarked = active(1).at(1, 10);
        unmarked.at.seat = None;
        assert_eq!(code(judge(None, &unmarked)), RefusalCode::NotSeated);
        let mut elsewhere = active(1).at(1, 10);
        elsewhere.at.seat = Some(Seat { group: 1, node: NodeId(7) });
        assert_eq!(code(judge(None, &elsewhere)), RefusalCode::NotSeated);
        // Dissolved under its feet: the epoch is still the highest, the seat is gone.
        let holder = active(1).at(1, 10);
        let fence = admitted(None, &holder);
        let mut dissolved = holder;
        dissolved.at.seat = None;
        assert_eq!(code(judge(Some(&fence), &dissolved)), RefusalCode::NotSeated);
    }

    #[test]
    fn a_planned_predecessor_may_come_back_until_its_drain_ends() {
        let old = active(1).at(1, 10);
        let fence = admitted(None, &old);
        let until = T0 + Duration::minutes(5);
        let fence = admitted(Some(&fence), &active(2).at(1, 11).planned(until));
        assert_eq!(fence.predecessor.unwrap().epoch, old.hello.epoch);

        let mut unmarked = old.clone();
        unmarked.at.seat = None;
        assert_eq!(judge(Some(&fence), &unmarked), Admission::Predecessor { until });
        let mut another_session = old.clone();
        another_session.hello.session = SessionId::from_bytes([9; 16]);
        assert_eq!(code(judge(Some(&fence), &another_session)), RefusalCode::StaleEpoch);
        let mut late = old;
        late.at.now = until;
        assert_eq!(code(judge(Some(&fence), &late)), RefusalCode::StaleEpoch);
    }

    #[test]
    fn an_unplanned_take_over_ends_the_active_but_no_drain_before_it() {
        let first = active(1).at(1, 10);
        let second = active(2).at(1, 11).planned(T0 + Duration::minutes(5));
        let fence = admitted(None, &first);
        let fence = admitted(Some(&fence), &second);
        let fence = admitted(Some(&fence), &active(3).at(1, 12));
        assert_eq!(fence.predecessor.map(|draining| draining.epoch.claim), Some(10));
        assert_eq!(code(judge(Some(&fence), &second)), RefusalCode::StaleEpoch);
    }

    #[test]
    fn a_further_lane_comes_beside_the_holder_and_beside_nobody_else() {
        let holder = active(1).at(1, 10);
        let fence = admitted(None, &holder);
        assert_eq!(beside(Some(&fence), &holder), Ok(Holder::Active));

        let mut forged = vec![active(1).at(1, 9), active(2).at(1, 10), active(1).at(2, 10)];
        forged[2].at.claim = None;
        let changes: [fn(&mut Asking); 5] = [
            |lane| lane.hello.session = SessionId::from_bytes([9; 16]),
            |lane| lane.hello.boot = BootId::from_bytes([9; 16]),
            |lane| lane.hello.node = NodeId(9),
            |lane| lane.at.agent = AgentId::from_bytes([9; 16]),
            |lane| lane.at.seat = None,
        ];
        for change in changes {
            forged.push(holder.clone());
            change(forged.last_mut().unwrap());
        }
        for lane in &forged {
            assert!(beside(Some(&fence), lane).is_err(), "{lane:?}");
        }
    }

    #[test]
    fn a_further_lane_is_refused_under_a_claim_that_its_tunnel_could_be_admitted_with() {
        let old = active(1).at(1, 10);
        let next = active(2).at(1, 11);
        let fence = admitted(None, &old);
        assert!(matches!(judge(Some(&fence), &next), Admission::New { .. }));
        assert_eq!(beside(Some(&fence), &next).unwrap_err().code, RefusalCode::UnknownClaim);
        assert_eq!(beside(None, &old).unwrap_err().code, RefusalCode::UnknownClaim);
    }

    #[test]
    fn a_further_lane_of_an_overtaken_epoch_is_refused_unless_it_drains() {
        let old = active(1).at(1, 10);
        let fence = admitted(None, &old);
        let overtaken = admitted(Some(&fence), &active(2).at(1, 11));
        assert_eq!(beside(Some(&overtaken), &old).unwrap_err().code, RefusalCode::StaleEpoch);
        let until = T0 + Duration::minutes(5);
        let drains = admitted(Some(&fence), &active(2).at(1, 11).planned(until));
        assert_eq!(beside(Some(&drains), &old), Ok(Holder::Predecessor));
        let mut late = old;
        late.at.now = until;
        assert_eq!(beside(Some(&drains), &late).unwrap_err().code, RefusalCode::StaleEpoch);
    }

    #[tokio::test]
    async fn a_further_lane_leaves_the_fence_as_it_was_whatever_it_says() {
        let fences = fences(Arc::new(MemoryStore::default()));
        active(1).at(1, 10).asks(&fences).await;
        let before = fences.current().await.unwrap();
        for lane in [active(1).at(1, 10), active(1).at(1, 11), active(2).at(1, 11), active(2).at(7, 1)] {
            let _ = fences.beside(&lane.hello, &lane.at).await.unwrap();
            assert_eq!(fences.current().await.unwrap(), before);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_at_once_the_highest_epoch_stays() {
        let fences = fences(Arc::new(MemoryStore::default()));
        let asking = (1..=32).map(|n| {
            let fences = fences.clone();
            tokio::spawn(async move { active(n).at(1, u64::from(n)).asks(&fences).await })
        });
        for admission in asking.collect::<Vec<_>>() {
            admission.await.unwrap();
        }
        assert_eq!(fences.current().await.unwrap().unwrap().epoch.claim, 32);
    }

    #[tokio::test]
    async fn a_stale_epoch_is_refused_after_centrals_own_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let disk = durable::Durable::open(folder.path().join("db")).unwrap();
            let store = SledStore::open(&disk, &folder.path().join("guard")).unwrap();
            fences(Arc::new(store))
        };
        let [old, new] = [active(1).at(1, 10), active(2).at(1, 11)];
        let before = open();
        old.asks(&before).await;
        new.asks(&before).await;
        drop(before);
        let after = open();
        assert_eq!(code(old.asks(&after).await), RefusalCode::StaleEpoch);
        assert_eq!(new.asks(&after).await, Admission::Same);
    }

    #[tokio::test]
    async fn the_end_of_a_drain_is_kept() {
        let fences = fences(Arc::new(MemoryStore::default()));
        let old = active(1).at(1, 10);
        old.asks(&fences).await;
        active(2).at(1, 11).planned(T0 + Duration::minutes(5)).asks(&fences).await;
        assert!(matches!(old.asks(&fences).await, Admission::Predecessor { .. }));
        fences.end_drain(old.hello.epoch).await.unwrap();
        assert_eq!(code(old.asks(&fences).await), RefusalCode::StaleEpoch);
    }

    /// An agent at the door, with everything in its favour.
    #[derive(Debug, Clone)]
    struct Asking {
        hello: TunnelHello,
        at: Circumstances,
    }

    fn active(n: u8) -> Asking {
        Asking {
            hello: TunnelHello {
                versions: Versions::OURS,
                node: NodeId(u64::from(n)),
                epoch: Epoch { group: 0, claim: 0 },
                boot: BootId::from_bytes([n; 16]),
                session: SessionId::from_bytes([n; 16]),
                resume: Some(Resume { received_through: 0 }),
            },
            at: Circumstances {
                agent: AgentId::from_bytes([n; 16]),
                seat: None,
                claim: None,
                drain_until: None,
                now: T0,
            },
        }
    }

    impl Asking {
        fn at(mut self, group: u64, claim: u64) -> Self {
            let Self { hello, at } = &mut self;
            hello.epoch = Epoch { group, claim };
            at.seat = Some(Seat { group, node: hello.node });
            at.claim = Some(AppliedClaim { epoch: hello.epoch, node: hello.node, boot: hello.boot });
            self
        }

        fn planned(mut self, until: OffsetDateTime) -> Self {
            self.at.drain_until = Some(until);
            self
        }

        async fn asks(&self, fences: &Fences) -> Admission {
            fences.admit(&self.hello, &self.at).await.unwrap()
        }
    }

    fn fences(store: SharedStore) -> Fences {
        Fences::new(store, &"default".parse().unwrap())
    }

    fn judge(fence: Option<&Fence>, asking: &Asking) -> Admission {
        Fence::admit(fence, &asking.hello, &asking.at)
    }

    fn beside(fence: Option<&Fence>, asking: &Asking) -> Result<Holder, Refusal> {
        Fence::beside(fence, &asking.hello, &asking.at)
    }

    fn admitted(fence: Option<&Fence>, asking: &Asking) -> Fence {
        match judge(fence, asking) {
            Admission::New { fence, .. } => fence,
            other => panic!("not admitted: {other:?}"),
        }
    }

    fn code(admission: Admission) -> RefusalCode {
        match admission {
            Admission::Refused(refusal) => refusal.code,
            other => panic!("not refused: {other:?}"),
        }
    }
}
