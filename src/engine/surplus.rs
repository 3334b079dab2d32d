//! Giving up replicas that are more than their owner asked for.
//!
//! # Invariant
//!
//! Nothing goes before those that stay were looked at on their backends, in the same step; the
//! store then requires that they are still good. One that is found missing or damaged is said to
//! be, and the blob is no longer one with too many.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::examine;
use super::examine::Seen;
use super::step::Next;
use super::step::Step;
use super::write::candidate;
use crate::backend::Backend;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::Operation;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::plan::placement::Rules;
use crate::plan::placement::apart;
use crate::plan::surplus;
use crate::plan::surplus::Standing;
use crate::store::BackendRow;
use crate::store::BlobFacts;
use crate::store::GiveUp;
use crate::store::LedgerRow;
use crate::store::Replica;
use crate::store::StoreError;

/// How far a walk over blobs with too many replicas is. A new one begins at the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct SurplusCursor {
    after: BlobId,
    /// The fleet's change that the walk began after.
    change: u64,
    /// Something was given up since it began.
    has_progress: bool,
}

/// A replica that would be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurplusReplica {
    pub blob: BlobId,
    pub write: WriteId,
    pub backend: BackendId,
    pub path: String,
    pub size: u64,
}

impl Engine {
    /// Thins at most `batch` blobs.
    pub async fn surplus_step(
        &self,
        cursor: &mut SurplusCursor,
        batch: usize,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        if cursor.after == BlobId::default() {
            *cursor = SurplusCursor { change: self.watch.change(), ..SurplusCursor::default() };
        }
        let blobs = self.store.blobs_surplus(cursor.after, batch).await?;
        let fleet = Arc::new(self.fleet.load().for_work());
        let rows = self.store.backends().await?;
        let mut thinned = stream::iter(blobs.clone())
            .map(|blob| self.thin(&fleet, &rows, blob))
            .buffer_unordered(concurrency.max(1));
        while let Some(outcome) = thinned.next().await {
            let (given_up, failed) = outcome?;
            step.processed += given_up;
            step.failed += failed;
            step.add("removed", given_up);
            step.add("not_now", failed);
            cursor.has_progress |= given_up > 0;
        }
        drop(thinned);
        cursor.after = blobs.last().copied().unwrap_or(cursor.after);
        if blobs.len() == batch {
            step.next = Next::Now;
            return Ok(step);
        }
        let is_stale = cursor.change != self.watch.change();
        let is_again = (cursor.has_progress || is_stale) && !blobs.is_empty();
        *cursor = SurplusCursor::default();
        step.backlog = Some(self.store.blobs_surplus_count().await?);
        step.next = if is_again { Next::Now } else { Next::Woken };
        Ok(step)
    }

    /// What [`Engine::surplus_step`] would give up of at most `batch` blobs after `after`, and the
    /// last of those blobs.
    pub async fn surplus_plan(
        &self,
        after: BlobId,
        batch: usize,
    ) -> Result<(Vec<SurplusReplica>, Option<BlobId>), EngineError> {
        let blobs = self.store.blobs_surplus(after, batch).await?;
        let fleet = Arc::new(self.fleet.load().for_work());
        let rows = self.store.backends().await?;
        let mut planned = Vec::new();
        for blob in &blobs {
            let Some((facts, replicas)) = self.blob_and_replicas(*blob).await? else { continue };
            let surplus = choose(&fleet, &rows, &facts, &replicas, self.here_and_now());
            let going = replicas.iter().filter(|replica| surplus.give_up.contains(&replica.write));
            planned.extend(going.map(|replica| SurplusReplica {
                blob: *blob,
                write: replica.write,
                backend: replica.backend,
                path: replica.path.clone(),
                size: facts.size,
            }));
        }
        Ok((planned, blobs.last().copied()))
    }

    /// How many replicas of a blob were given up, and how many could not be now.
    async fn thin(
        &self,
        fleet: &Arc<Fleet>,
        rows: &[BackendRow],
        blob: BlobId,
    ) -> Result<(u64, u64), EngineError> {
        // Before the look-up, so that nothing that it names is deleted under the look.
        let _ticket = self.store.ticket();
        let Some((facts, replicas)) = self.blob_and_replicas(blob).await? else {
            return Ok((0, 0));
        };
        let surplus = choose(fleet, rows, &facts, &replicas, self.here_and_now());
        let victims = surplus.give_up.len() as u64;
        let stay = of(&replicas, &surplus.keep);
        if victims == 0 || !self.are_there(fleet, &stay, facts.size).await? {
            return Ok((0, victims));
        }
        let mut given_up = 0;
        for write in surplus.give_up {
            given_up += u64::from(self.give_up(write, CondemnReason::Surplus, &stay).await?);
        }
        Ok((given_up, victims - given_up))
    }

    fn here_and_now(&self) -> (bool, Timestamp) {
        (self.settings.load().same_device, self.clock.now())
    }

    pub(crate) async fn blob_and_replicas(
        &self,
        blob: BlobId,
    ) -> Result<Option<(BlobFacts, Vec<Replica>)>, EngineError> {
        match self.store.blob_whole(blob).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::Superseded) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Looks at replicas before another is given up for them: whether all are there. The store is
    /// told of those that are missing or have another length.
    pub(crate) async fn are_there(
        &self,
        fleet: &Fleet,
        replicas: &[&Replica],
        size: u64,
    ) -> Result<bool, EngineError> {
        for replica in replicas {
            let Some(backend) = fleet.get(replica.backend) else { return Ok(false) };
            let state = match self.seen(backend, replica, size).await? {
                Seen::Whole => continue,
                Seen::Missing => ReplicaState::Missing,
                Seen::Length(_) | Seen::Wrong => ReplicaState::Damaged,
                Seen::Unreadable(_) | Seen::Away(_) => return Ok(false),
            };
            let (path, state_name) = (replica.path.as_str(), state.name());
            tracing::warn!(backend = %backend.name(), path, state = state_name, "a replica is wrong");
            match self.store.replica_mark(replica.write, state).await {
                Ok(()) | Err(StoreError::Superseded | StoreError::Changed) => return Ok(false),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(true)
    }

    /// The first `wish` of `replicas` that are seen where they lie; `None` when they are fewer.
    /// Others may be out of reach all the same.
    pub(crate) async fn enough_are_there<'r>(
        &self,
        fleet: &Fleet,
        replicas: &[&'r Replica],
        size: u64,
        wish: usize,
    ) -> Result<Option<Vec<&'r Replica>>, EngineError> {
        let mut there = Vec::new();
        for replica in replicas {
            if there.len() == wish.max(1) {
                break;
            }
            if self.are_there(fleet, &[replica], size).await? {
                there.push(*replica);
            }
        }
        Ok(Some(there).filter(|there| there.len() >= wish.max(1)))
    }

    /// Looks at a replica; at a borrowed one also for the time at which its owner changed it.
    async fn seen(
        &self,
        backend: &Backend,
        replica: &Replica,
        size: u64,
    ) -> Result<Seen, EngineError> {
        if !replica.is_borrowed {
            return Ok(examine::look(backend, &replica.path, size).await);
        }
        let stat = match backend.stat(&replica.path).await {
            Ok(stat) => stat,
            Err(err) => return Ok(examine::trouble(err)),
        };
        let write = replica.write;
        Ok(match self.store.file_is_unchanged(write, stat.size, stat.modified).await? {
            true => Seen::Whole,
            false => Seen::Wrong,
        })
    }

    /// Gives up a good replica for those that stay, which were just looked at; false when
    /// something changed meanwhile.
    pub(crate) async fn give_up(
        &self,
        write: WriteId,
        reason: CondemnReason,
        stay: &[&Replica],
    ) -> Result<bool, EngineError> {
        let stay = stay.iter().map(|replica| replica.write).collect();
        match self.store.replica_give_up(GiveUp { write, reason, stay }).await {
            Ok(()) => Ok(true),
            Err(StoreError::Changed | StoreError::Superseded) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }
}

/// Those of `replicas` that have these write ids.
fn of<'r>(replicas: &'r [Replica], writes: &[WriteId]) -> Vec<&'r Replica> {
    replicas.iter().filter(|replica| writes.contains(&replica.write)).collect()
}

fn choose(
    fleet: &Fleet,
    rows: &[BackendRow],
    facts: &BlobFacts,
    replicas: &[Replica],
    (same_device, now): (bool, Timestamp),
) -> surplus::Surplus {
    let seen: Vec<surplus::Replica> = replicas
        .iter()
        .map(|replica| surplus::Replica {
            write: replica.write,
            standing: standing(fleet.get(replica.backend), row_of(rows, replica.backend)),
            is_good: replica.state == ReplicaState::Good,
            is_borrowed: replica.is_borrowed,
            is_young: fleet.get(replica.backend).is_some_and(|b| is_young(b, replica.write, now)),
        })
        .collect();
    let rules = Rules {
        routing: facts.wish.routing,
        require_distinct: facts.wish.require_distinct.clone(),
        same_device,
    };
    let ledger: Vec<LedgerRow> = rows.iter().map(LedgerRow::from).collect();
    let place = |write: WriteId| {
        let replica = replicas.iter().find(|replica| replica.write == write)?;
        candidate(fleet.get(replica.backend)?, &ledger, 0)
    };
    let share = |a: &surplus::Replica, b: &surplus::Replica| {
        let places = place(a.write).zip(place(b.write));
        places.is_some_and(|(a, b)| !apart(&a, &b, &rules))
    };
    surplus::choose(&seen, facts.wish.replicas as usize, share)
}

/// Whether the minimum time for which the backend charges is not over for this replica.
pub(crate) fn is_young(backend: &Backend, write: WriteId, now: Timestamp) -> bool {
    let min_age = backend.settings().min_age;
    !min_age.is_zero() && now.since(write.made()) < min_age
}

pub(crate) fn row_of(rows: &[BackendRow], backend: BackendId) -> Option<&BackendRow> {
    rows.iter().find(|row| row.id == backend)
}

fn standing(backend: Option<&Arc<Backend>>, row: Option<&BackendRow>) -> Standing {
    let (Some(backend), Some(row)) = (backend, row) else { return Standing::Unconfigured };
    if matches!(row.duty, Duty::Draining | Duty::Removed) {
        return Standing::Draining;
    }
    if !backend.is_durable() {
        return Standing::Volatile;
    }
    if backend.fitness(Operation::Stat, 0) < Fitness::Spent {
        return Standing::Broken;
    }
    Standing::Healthy { used_share: row.quota.map(|quota| row.held() as f64 / quota.max(1) as f64) }
}
