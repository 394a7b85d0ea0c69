//! The seeded bugs. A model that cannot find them would prove nothing by finding none.

/// One rule of the gateway, left out. Each is caught by the model named above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    // ---- elections ----
    /// A vote is answered before it is on disk.
    VoteBeforeSync,
    /// An entry is acknowledged before it is on disk.
    EntryAckedBeforeSync,
    /// sled opened silently with a shorter prefix, and no guard file told.
    NoGuard,
    /// A wiped member comes back under its old node id, and votes.
    NodeReused,
    /// A voter does not ask whether the candidate's log is as new as its own.
    ShorterLogElected,
    /// A leader takes its own copy for a quorum.
    CommittedWithoutQuorum,
    /// The witness proposes a claim when it leads, and applying does not refuse it.
    WitnessClaims,
    /// The witness does not lead even where only it can.
    WitnessNeverLeads,
    /// The fencing token is the term of the claim, not its log index.
    FenceIsTerm,

    // ---- the fence ----
    /// The tunnel is admitted, then the fence is written.
    AdmittedBeforeDurable,
    /// The fence is read, judged and written, but not compared when written.
    NoCompareAndSet,
    /// The fence lives in central's memory.
    FenceForgottenAtRestart,
    /// Epochs are compared by their log index, without the group's generation.
    GenerationIgnored,
    /// An epoch lower than the fence is let in like the fence's own.
    StaleEpochAdmitted,
    /// The same epoch is the same active, whatever its boot.
    OtherBootAdmitted,
    /// The same epoch is the same active, whatever its session.
    OtherSessionAdmitted,
    /// A claim is believed that central's own witness has not applied.
    InventedClaimAdmitted,
    /// The older tunnel stays open when a higher epoch is admitted.
    OldTunnelLeftOpen,
    /// Whoever is superseded may drain, ordered or not; the record does not name it.
    DrainNotRecorded,
    /// A predecessor that comes back in its drain gets new streams.
    DrainTakesStreams,

    // ---- silence ----
    /// An agent writes on, however long it has not heard central.
    NoSelfFence,
    /// Silence is measured on a clock that stops while the machine sleeps.
    ClockStopsWhilePaused,
    /// An answer counts from when it was read, not from when its question was sent.
    AnswerDatedByArrival,

    // ---- resume ----
    /// How far the peer says it came is believed unchecked.
    ResumeOffsetUnchecked,
    /// Everything after the last acknowledgement is sent again, also what arrived.
    ResumeFromLastAck,
    /// What was sent is forgotten, acknowledged or not.
    ForgottenWhenSent,
    /// Another session's websocket continues these streams.
    SessionUnchecked,
    /// The old websocket still delivers after the new one has begun.
    OldWebsocketStillRead,
    /// A stream whose tunnel is over ends with a FIN.
    FinForReset,
}
