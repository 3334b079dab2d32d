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
use super::watch::Stuck;
use super::write::Hindrance;
use super::write::hindrance;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::BackendRow;
use crate::store::Leaving;
use crate::store::LookAgain;
use crate::store::Replica;

/// Why a replica stays whose blob somebody else is at work on, who will not say when he is done, and
/// when it is looked at again.
const BUSY: &str = "copies of its blob are being made";
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How far the walk over each backend's leaving replicas is.
#[derive(Debug, Default)]
pub struct DrainCursor {
    after: BTreeMap<BackendId, WriteId>,
    /// Replicas that stayed in this walk.
    stuck: Stuck,
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
        let stuck = self.watch.stuck(row.id);
        Ok(Some(DrainProgress { rows: row.rows, bytes: row.held(), began, time_left, stuck }))
    }

    pub(crate) async fn backend_row(&self, name: &str) -> Result<BackendRow, EngineError> {
        let rows = self.store.backends().await?;
        rows.into_iter().find(|row| row.name == name).ok_or(EngineError::NoSuchBackend)
    }

    /// Lets at most `batch` replicas go, of each backend that is being emptied or removed.
    pub async fn drain_step(
        &self,
        cursor: &mut DrainCursor,
        batch: usize,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        let rows = self.store.backends().await?;
        let leaving: Vec<BackendRow> = rows
            .into_iter()
            .filter(|row| matches!(row.duty, Duty::Draining | Duty::Removed))
            .collect();
        let change = self.watch.change();
        let fleet = Arc::new(self.fleet.load().for_work());
        let mut is_more = false;
        for row in leaving.iter().filter(|row| row.duty == Duty::Draining) {
            is_more |=
                self.drain_some(&fleet, row, (batch, concurrency), cursor, &mut step).await?;
        }
        if leaving.iter().any(|row| row.duty == Duty::Removed) {
            is_more |= self.remove_all(&fleet, (batch, concurrency), cursor, &mut step).await?;
        }
        if is_more {
            step.next = Next::Now;
            return Ok(step);
        }
        let has_stuck = !cursor.stuck.is_empty();
        let is_again = has_stuck && (cursor.has_progress || change != self.watch.change());
        let mut stuck = std::mem::take(cursor).stuck;
        let left: u64 =
            leaving.iter().filter(|row| row.duty == Duty::Draining).map(|r| r.rows).sum();
        if left > 0 {
            self.broken_stick(&leaving, &mut stuck).await?;
            step.position = Some(format!("{left} rows left"));
        }
        step.backlog = Some(if has_stuck { left.max(1) } else { 0 });
        let is_busy = stuck.values().any(|reasons| reasons.contains_key(BUSY));
        self.watch.sticks(stuck);
        step.next = match (is_again, is_busy) {
            (true, _) => Next::Now,
            (false, true) => Next::At(self.clock.now().plus(BUSY_PAUSE)),
            (false, false) => Next::Woken,
        };
        Ok(step)
    }

    /// A piece of one backend's walk; whether there is more of it.
    async fn drain_some(
        &self,
        fleet: &Arc<Fleet>,
        row: &BackendRow,
        (batch, concurrency): (usize, usize),
        cursor: &mut DrainCursor,
        step: &mut Step,
    ) -> Result<bool, EngineError> {
        let following = self.store.standings_following().await?;
        let mut is_more = false;
        if following.iter().any(|following| following.backend == row.id) {
            let (moved, is_last) = self.store.standing_follow(row.id).await?;
            step.processed += moved;
            is_more |= !is_last;
        }
        let after = cursor.after.get(&row.id).copied().unwrap_or_default();
        let page = self.store.replicas_leaving(row.id, after, batch).await?;
        is_more |= page.len() == batch;
        if let Some(last) = page.last() {
            cursor.after.insert(row.id, last.write);
        }
        let change = self.watch.change();
        let mut left = stream::iter(page)
            .take_while(|_| std::future::ready(!self.stopping.is_cancelled()))
            .map(|leaving| async move { (leaving.short, self.leave(fleet, leaving, change).await) })
            .buffer_unordered(concurrency.max(1));
        let mut parked = Vec::new();
        while let Some((short, outcome)) = left.next().await {
            let stays = match outcome? {
                Leaves::Left { copied } => {
                    step.processed += 1;
                    step.add("copied", copied);
                    step.count("left");
                    cursor.has_progress = true;
                    continue;
                }
                Leaves::Stays(why) => why,
                Leaves::NoTarget(why) => {
                    if short.waits_for() != Some(change) {
                        parked.push((short, LookAgain::After(change)));
                    }
                    why
                }
            };
            step.failed += 1;
            step.count("stuck");
            *cursor.stuck.entry(row.id).or_default().entry(stays).or_default() += 1;
        }
        drop(left);
        self.store.blobs_put_off(parked).await?;
        Ok(is_more)
    }

    /// A piece of the walk over each backend that is being removed; whether there is more.
    async fn remove_all(
        &self,
        fleet: &Arc<Fleet>,
        limits: (usize, usize),
        cursor: &mut DrainCursor,
        step: &mut Step,
    ) -> Result<bool, EngineError> {
        let mut is_more = false;
        for removal in self.store.removals().await? {
            let after = cursor.after.get(&removal.backend).copied().unwrap_or_default();
            let (next, stay) = self.remove_some(fleet, removal, after, limits, step).await?;
            let stuck = cursor.stuck.entry(removal.backend).or_default();
            if stay > 0 {
                step.add("stuck", stay);
                *stuck.entry("it is the only one, or still being written").or_default() += stay;
            }
            if let Some(next) = next {
                cursor.after.insert(removal.backend, next);
                is_more = true;
            } else if stuck.is_empty() {
                cursor.stuck.remove(&removal.backend);
                self.store.removal_end(removal).await?;
                step.count("backends_removed");
            }
        }
        Ok(is_more)
    }

    /// Adds what is wrong with replicas that the walk does not meet, since they do not count.
    async fn broken_stick(
        &self,
        leaving: &[BackendRow],
        stuck: &mut Stuck,
    ) -> Result<(), EngineError> {
        for (backend, state, number) in self.store.broken_counts().await? {
            let why = match state {
                ReplicaState::Damaged => "it is damaged, and its blob has not enough others",
                ReplicaState::Missing => "it is missing, and its blob has not enough others",
                _ => "it cannot be read",
            };
            if number > 0 && leaving.iter().any(|row| row.id == backend) {
                *stuck.entry(backend).or_default().entry(why).or_default() += number;
            }
        }
        Ok(())
    }

    /// Makes what a blob misses and lets its leaving replica go.
    async fn leave(
        &self,
        fleet: &Arc<Fleet>,
        leaving: Leaving,
        change: u64,
    ) -> Result<Leaves, EngineError> {
        let (write, blob) = (leaving.write, leaving.short.blob);
        let (copied, outcome) = match leaving.short.waits_for() == Some(change) {
            true => (0, Replicated::NoTarget),
            false => self.replicate_blob(fleet, blob).await,
        };
        // Before the look-up, so that nothing that it names is deleted under the look.
        let _ticket = self.store.ticket();
        let Some((facts, replicas)) = self.blob_and_replicas(blob).await? else {
            return Ok(Leaves::Left { copied });
        };
        match outcome {
            Replicated::Enough | Replicated::Superseded => {}
            Replicated::NoTarget => {
                return Ok(Leaves::NoTarget(match hindrance(fleet, &facts.wish, facts.size) {
                    Hindrance::Reach => "too few other backends can be reached",
                    Hindrance::Limits => "limits keep the other backends from being written",
                    Hindrance::Room => {
                        "no other backend may take another replica: see their room, labels and \
                         devices, and how many replicas are wished"
                    }
                }));
            }
            Replicated::Full => return Ok(Leaves::Stays("another backend says that it is full")),
            Replicated::NoSource => return Ok(Leaves::Stays("none of its replicas can be read")),
            Replicated::Spent => return Ok(Leaves::Stays("limits are in the way")),
            Replicated::CopyError => return Ok(Leaves::Stays("it could not be copied")),
            Replicated::RecordError => return Ok(Leaves::Stays("a copy could not be recorded")),
        }
        let is_good = |replica: &&Replica| replica.state == ReplicaState::Good;
        let good: Vec<&Replica> = replicas.iter().filter(is_good).collect();
        let wish = facts.wish.replicas as usize;
        if good.len() < wish {
            return Ok(Leaves::Stays(BUSY));
        }
        let Some(stay) = self.enough_are_there(fleet, &good, facts.size, wish).await? else {
            return Ok(Leaves::Stays("the other replicas cannot be looked at now"));
        };
        if self.give_up(write, CondemnReason::Drained, &stay).await? {
            return Ok(Leaves::Left { copied });
        }
        match self.store.replica_state(write).await? {
            Some(ReplicaState::Leaving) => Ok(Leaves::Stays(BUSY)),
            _ => Ok(Leaves::Left { copied }),
        }
    }
}

/// What became of a leaving replica.
enum Leaves {
    Left {
        copied: u64,
    },
    Stays(&'static str),
    /// It waits for the fleet to change.
    NoTarget(&'static str),
}
