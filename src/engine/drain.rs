//! Emptying backends: each replica is made elsewhere before it goes.
//!
//! That a backend is being emptied is a duty in the store, so it outlives restarts and writes avoid
//! it at once. Its replicas are *leaving*: they do not count, so their blobs miss replicas, which
//! are made by the same code, under the same rules, as any other missing one; then the leaving one
//! is given up. A drain that is taken back turns what is left into ordinary replicas again.
//!
//! # Invariants
//!
//! - A leaving replica goes only when its blob has all the good replicas that it should have, and
//!   these were looked at in the same step.
//! - A blob that no backend can take holds up no other, and is not tried again before the fleet
//!   changes or the interval is over: it is reported, with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::replicate::Replicated;
use super::step::Next;
use super::step::Step;
use super::write::Hindrance;
use super::write::hindrance;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::BackendRow;
use crate::store::Holdings;
use crate::store::Leave;
use crate::store::Replica;

/// Why a replica stays whose blob somebody else is at work on, who will not say when he is done, and
/// when it is looked at again.
const BUSY: &str = "copies of its blob are being made";
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How far the walk over each backend's leaving replicas is.
#[derive(Debug, Default)]
pub struct DrainCursor {
    after: BTreeMap<BackendId, WriteId>,
    /// Replicas that stayed in this walk, by the reason.
    stuck: BTreeMap<&'static str, u64>,
    /// Something left since the walk began.
    has_progress: bool,
}

/// How far a backend is emptied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrainProgress {
    /// Replicas and condemned paths that are still there.
    pub rows: u64,
    pub bytes: u64,
    /// Bytes that it held when the drain began, and when that was.
    pub began: Option<(Timestamp, u64)>,
    /// At the pace so far; `None` while that says nothing.
    pub time_left: Option<Duration>,
    /// Replicas that cannot leave now, as far as the last walk went, by the reason.
    pub stuck: BTreeMap<String, u64>,
}

impl Engine {
    /// Begins or goes on to empty a backend; false when that is being done already.
    pub async fn drain(&self, name: &str) -> Result<bool, EngineError> {
        let row = self.backend_row(name).await?;
        let has_begun = self.store.backend_duty(row.id, Duty::Draining).await?;
        if has_begun {
            self.store.drain_begin(row.id, row.used).await?;
            self.fleet_changes();
        }
        Ok(has_begun)
    }

    /// Takes a drain back; false when there is none.
    pub async fn undrain(&self, name: &str) -> Result<bool, EngineError> {
        let row = self.backend_row(name).await?;
        if !matches!(row.duty, Duty::Draining | Duty::Removed) {
            return Ok(false);
        }
        let is_back = self.store.backend_duty(row.id, Duty::InUse).await?;
        self.store.drain_end(row.id).await?;
        self.fleet_changes();
        Ok(is_back)
    }

    /// How far the drain of a backend is; `None` when it is not being emptied.
    pub async fn drain_progress(&self, name: &str) -> Result<Option<DrainProgress>, EngineError> {
        let row = self.backend_row(name).await?;
        if row.duty == Duty::InUse || row.duty == Duty::Away {
            return Ok(None);
        }
        let began = self.store.drain_began(row.id).await?;
        let time_left = began.and_then(|(at, bytes)| {
            let gone = bytes.saturating_sub(row.used);
            let elapsed = self.clock.now().since(at);
            (gone > 0).then(|| elapsed.mul_f64(row.used as f64 / gone as f64))
        });
        let stuck = self.watch.stuck();
        Ok(Some(DrainProgress { rows: row.rows, bytes: row.held(), began, time_left, stuck }))
    }

    /// What a backend holds, as far as its removal is concerned.
    pub async fn backend_holdings(&self, name: &str) -> Result<(BackendId, Holdings), EngineError> {
        let row = self.backend_row(name).await?;
        Ok((row.id, self.store.backend_holdings(row.id).await?))
    }

    pub(crate) async fn backend_row(&self, name: &str) -> Result<BackendRow, EngineError> {
        let rows = self.store.backends().await?;
        rows.into_iter().find(|row| row.name == name).ok_or(EngineError::NoSuchBackend)
    }

    /// Lets at most `batch` replicas leave, of each backend that is being emptied.
    pub async fn drain_step(
        &self,
        cursor: &mut DrainCursor,
        batch: usize,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        let rows = self.store.backends().await?;
        let draining: Vec<_> = rows.iter().filter(|row| row.duty == Duty::Draining).collect();
        if draining.is_empty() {
            *cursor = DrainCursor::default();
            self.watch.sticks(&cursor.stuck);
            return Ok(step);
        }
        let following = self.store.standings_following().await?;
        let change = self.watch.change();
        let fleet = Arc::new(self.fleet.load().for_work());
        let mut is_more = false;
        for row in &draining {
            if following.iter().any(|following| following.backend == row.id) {
                let (moved, is_last) = self.store.standing_follow(row.id).await?;
                step.processed += moved;
                is_more |= !is_last;
            }
            let after = cursor.after.get(&row.id).copied().unwrap_or_default();
            let leaving = self.store.replicas_leaving(row.id, after, batch).await?;
            is_more |= leaving.len() == batch;
            if let Some((last, _)) = leaving.last() {
                cursor.after.insert(row.id, *last);
            }
            self.leave_all(&fleet, leaving, concurrency, cursor, &mut step).await?;
        }
        if is_more {
            step.next = Next::Now;
            return Ok(step);
        }
        self.watch.sticks(&cursor.stuck);
        let left: u64 = draining.iter().map(|row| row.rows).sum();
        let is_again = cursor.has_progress || change != self.watch.change();
        let has_stuck = !cursor.stuck.is_empty();
        let is_busy = cursor.stuck.contains_key(BUSY);
        *cursor = DrainCursor::default();
        step.backlog = Some(if has_stuck { left } else { 0 });
        step.position = Some(format!("{left} rows left"));
        step.next = match (is_again && has_stuck, is_busy) {
            (true, _) => Next::Now,
            (false, true) => Next::At(self.clock.now().plus(BUSY_PAUSE)),
            (false, false) => Next::Woken,
        };
        Ok(step)
    }

    async fn leave_all(
        &self,
        fleet: &Arc<Fleet>,
        leaving: Vec<(WriteId, BlobId)>,
        concurrency: usize,
        cursor: &mut DrainCursor,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let mut left = stream::iter(leaving)
            .map(|(write, blob)| self.leave(fleet, write, blob))
            .buffer_unordered(concurrency.max(1));
        while let Some(outcome) = left.next().await {
            match outcome? {
                Ok(copied) => {
                    step.processed += 1;
                    step.add("copied", copied);
                    step.count("left");
                    cursor.has_progress = true;
                }
                Err(why) => {
                    step.failed += 1;
                    step.count("stuck");
                    *cursor.stuck.entry(why).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Makes what a blob misses and lets its leaving replica go: copies made, or why it stays.
    async fn leave(
        &self,
        fleet: &Arc<Fleet>,
        write: WriteId,
        blob: BlobId,
    ) -> Result<Result<u64, &'static str>, EngineError> {
        let (copied, outcome) = self.replicate_blob(fleet, blob).await;
        let Some((facts, replicas)) = self.blob_and_replicas(blob).await? else {
            return Ok(Ok(copied));
        };
        match outcome {
            Replicated::Enough | Replicated::Superseded => {}
            Replicated::NoTarget => {
                return Ok(Err(match hindrance(fleet, &facts.wish, facts.size) {
                    Hindrance::Reach => "too few other backends can be reached",
                    Hindrance::Limits => "limits keep the other backends from being written",
                    Hindrance::Room => {
                        "no other backend may take another replica: see their room, \
                         labels and devices, and how many replicas are wished"
                    }
                }));
            }
            Replicated::Spent => return Ok(Err("limits keep its sources from being read")),
            Replicated::CopyError => return Ok(Err("it could not be copied")),
            Replicated::RecordError => return Ok(Err("a copy could not be recorded")),
        }
        let is_good = |replica: &&Replica| replica.state == ReplicaState::Good;
        let stay: Vec<&Replica> = replicas.iter().filter(is_good).collect();
        if !self.are_there(fleet, &stay, facts.size).await? {
            return Ok(Err("the other replicas cannot be looked at now"));
        }
        if self.give_up(write, CondemnReason::Drained, &stay).await? {
            return Ok(Ok(copied));
        }
        match self.store.replica_state(write).await? {
            Some(ReplicaState::Leaving) => Ok(Err(BUSY)),
            _ => Ok(Ok(copied)),
        }
    }

    /// Takes a backend out of use for good. What it holds that nothing else has is marked missing,
    /// which `even_sole` has to allow; its bytes are dealt with as `leave` says. It may be called
    /// again, and goes on where it was.
    pub async fn remove_backend(
        &self,
        name: &str,
        leave: Leave,
        even_sole: bool,
    ) -> Result<Holdings, EngineError> {
        let row = self.backend_row(name).await?;
        // No new write goes there from here on, so what is counted now can only become less.
        if row.duty != Duty::Removed {
            self.drain(name).await?;
        }
        let holdings = self.store.backend_holdings(row.id).await?;
        let may_lose = even_sole && leave == Leave::Bytes;
        if holdings.sole > 0 && !may_lose {
            return Err(crate::store::StoreError::SoleReplicas(holdings.sole).into());
        }
        self.store.backend_duty(row.id, Duty::Removed).await?;
        let mut after = Some(WriteId(0));
        while let Some(at) = after {
            after = self.store.backend_let_go(row.id, at, leave).await?;
        }
        self.store.backend_forget_condemned(row.id, leave).await?;
        self.store.drain_end(row.id).await?;
        self.fleet_changes();
        Ok(holdings)
    }
}
