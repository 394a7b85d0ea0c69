//! Bugs put in on purpose, to see that the world would notice them: each takes away something that the programs
//! rely on, or does at their edge what a bug inside would do.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The clock of the lease stands still while a machine sleeps: `CLOCK_MONOTONIC` where `CLOCK_BOOTTIME` belongs.
    LeaseForgetsSleep,
    /// The clock of an agent's lease never moves: it never thinks itself cut off.
    LeaseNeverEnds,
    /// A socket that should be reset is closed: FIN for RST.
    FinForReset,
    /// A piece between agent and destination gets lost.
    PieceLost,
    /// A piece between agent and destination comes twice.
    PieceDoubled,
    /// Two parts of what central sends to its client change places.
    PiecesSwapped,
    /// Bytes for one client reach another.
    StreamsMixed,
}

impl Mutant {
    pub const ALL: [Self; 7] = [
        Self::LeaseForgetsSleep,
        Self::LeaseNeverEnds,
        Self::FinForReset,
        Self::PieceLost,
        Self::PieceDoubled,
        Self::PiecesSwapped,
        Self::StreamsMixed,
    ];
}
