//! States of stored bytes.

/// What is known of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicaState {
    /// An intent: recorded before the first byte leaves.
    Writing,
    /// Durable, whole and verified when it was written.
    Good,
    /// Its backend, whose marker was seen, says that it is not there.
    Missing,
    /// It is there and it is wrong.
    Damaged,
    /// Good, but its backend is being emptied of it.
    Leaving,
    /// Good as far as is known, on a backend that is absent for so long that it does not count.
    Away,
    /// Its backend is there and serves others, and its bytes cannot be read: not counted, and not
    /// taken for damaged before it has stayed so for a day.
    Unreadable,
}

impl ReplicaState {
    pub const ALL: [ReplicaState; 7] = [
        Self::Writing,
        Self::Good,
        Self::Missing,
        Self::Damaged,
        Self::Leaving,
        Self::Away,
        Self::Unreadable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Good => "good",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Leaving => "leaving",
            Self::Away => "away",
            Self::Unreadable => "unreadable",
        }
    }

    /// Its bytes may be read.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Good | Self::Leaving | Self::Away)
    }
}

/// What a backend is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    #[default]
    InUse,
    /// Its replicas move elsewhere, and it takes no new ones.
    Draining,
    /// Absent for so long that its replicas do not count.
    Away,
    /// Its owner took it out; what only it had is missing.
    Removed,
}

impl Duty {
    pub const ALL: [Duty; 4] = [Self::InUse, Self::Draining, Self::Away, Self::Removed];

    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Draining => "draining",
            Self::Away => "away",
            Self::Removed => "removed",
        }
    }
}

/// Why a path was condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CondemnReason {
    Overwritten,
    Deleted,
    Aborted,
    Surplus,
    Moved,
    Drained,
    Damaged,
    Superseded,
    Debris,
    Abandoned,
}

impl CondemnReason {
    pub const ALL: [CondemnReason; 10] = [
        Self::Overwritten,
        Self::Deleted,
        Self::Aborted,
        Self::Surplus,
        Self::Moved,
        Self::Drained,
        Self::Damaged,
        Self::Superseded,
        Self::Debris,
        Self::Abandoned,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Deleted => "deleted",
            Self::Aborted => "aborted",
            Self::Surplus => "surplus",
            Self::Moved => "moved",
            Self::Drained => "drained",
            Self::Damaged => "damaged",
            Self::Superseded => "superseded",
            Self::Debris => "debris",
            Self::Abandoned => "abandoned",
        }
    }
}
