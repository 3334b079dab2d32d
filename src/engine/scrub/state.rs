//! What an operator may see of the scrubber's passes.

use std::time::Duration;

use crate::base::Timestamp;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::model::BackendId;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::BackendRow;
use crate::store::BrokenReplica;
use crate::store::ScrubPass;

/// The scrubbing of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubState {
    pub backend: BackendId,
    pub name: String,
    /// The pass that is on its way, or the last one; `None` before the first.
    pub pass: Option<ScrubPass>,
    /// About how many replicas a pass has to read.
    pub total: u64,
    /// When the next pass begins, once this one is over.
    pub next: Option<Timestamp>,
    /// When the replica was verified whose verification is the longest ago: last time it was
    /// read, or when it was written. `None` when there is none.
    pub oldest: Option<Timestamp>,
    pub damaged: u64,
    pub missing: u64,
    pub unreadable: u64,
}

impl Engine {
    /// How the scrubbing stands, when a pass takes as long as `length`.
    pub async fn scrub_state(&self, length: Duration) -> Result<Vec<ScrubState>, EngineError> {
        let counts = self.store.broken_counts().await?;
        let count = |backend: BackendId, state: ReplicaState| {
            let of = counts.iter().find(|(id, what, _)| *id == backend && *what == state);
            of.map_or(0, |(_, _, number)| *number)
        };
        let mut states = Vec::new();
        for row in self.store.backends().await? {
            if row.duty == Duty::Removed {
                continue;
            }
            let pass = self.store.scrub_pass(row.id).await?;
            states.push(ScrubState {
                backend: row.id,
                pass,
                total: row.rows,
                next: pass.filter(|pass| pass.is_over).map(|pass| pass.began.plus(length)),
                oldest: self.oldest(&row, pass).await?,
                damaged: count(row.id, ReplicaState::Damaged),
                missing: count(row.id, ReplicaState::Missing),
                unreadable: count(row.id, ReplicaState::Unreadable),
                name: row.name,
            });
        }
        Ok(states)
    }

    /// Replicas that are damaged, missing or unreadable, at most `max`.
    pub async fn broken_replicas(
        &self,
        backend: Option<BackendId>,
        max: usize,
    ) -> Result<Vec<BrokenReplica>, EngineError> {
        Ok(self.store.broken_replicas(backend, max).await?)
    }

    /// The next in the order of the pass is the one that was verified the longest ago.
    async fn oldest(
        &self,
        row: &BackendRow,
        pass: Option<ScrubPass>,
    ) -> Result<Option<Timestamp>, EngineError> {
        let from = pass.filter(|pass| !pass.is_over).map_or(WriteId(0), |pass| pass.after);
        for mut after in [from, WriteId(0)] {
            loop {
                let page = self.store.scrub_page(row.id, after, 1, false).await?;
                if let Some(next) = page.replicas.first() {
                    return Ok(Some(next.checked.unwrap_or(next.replica.write.made())));
                }
                if page.is_end {
                    break;
                }
                after = page.upto;
            }
        }
        Ok(None)
    }
}
