//! Bringing blobs to their placement: the most endangered first, each from a good replica.
//!
//! # Invariants
//!
//! - A blob gets no more replicas than it misses, also when several parts of Larder work on it at
//!   once: that is decided where the intent is recorded.
//! - One blob that cannot be helped holds up no other. What has no target waits for the fleet to
//!   change; what could not be copied waits for a time, and so does what only a backend could take
//!   that said that it is full: that it has room again nobody tells.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::copy_blob::CopyBlobError;
use super::copy_blob::Ending;
use super::step::Next;
use super::step::Step;
use super::write::Hindrance;
use super::write::hindrance;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::base::chain;
use crate::base::doubling;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Operation;
use crate::model::ReplicaState;
use crate::store::CopyWhen;
use crate::store::LookAgain;
use crate::store::Replica;
use crate::store::StoreError;

/// When a blob is looked at again whose copy failed: each time later, up to a day; and one that
/// limits are in the way of.
const FAILED_PAUSE: Duration = Duration::from_secs(5 * 60);
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
const SPENT_PAUSE: Duration = Duration::from_secs(30 * 60);
/// When one is looked at again that somebody else is writing a replica of.
const ENOUGH_PAUSE: Duration = Duration::from_secs(10);
/// Batches of replicas that follow their backend's duty in one step.
const FOLLOW_BATCHES: usize = 5;

/// What became of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replicated {
    /// It has what it should have.
    Enough,
    /// No backend can take it now.
    NoTarget,
    /// One that might says that it is full.
    Full,
    /// None of its replicas can be read now.
    NoSource,
    /// Limits keep its sources from being read, or others from being written.
    Spent,
    CopyError,
    /// The copy was made and could not be recorded.
    RecordError,
    /// It is gone.
    Superseded,
}

impl Replicated {
    fn name(self) -> &'static str {
        match self {
            Replicated::Enough => "enough",
            Replicated::NoTarget => "no_target",
            Replicated::Full => "full",
            Replicated::NoSource => "no_source",
            Replicated::Spent => "spent",
            Replicated::CopyError => "copy_error",
            Replicated::RecordError => "record_error",
            Replicated::Superseded => "superseded",
        }
    }
}

impl Engine {
    /// Helps at most `batch` blobs that miss replicas, `concurrency` at a time.
    pub async fn replicate_step(
        &self,
        batch: usize,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        let follows = self.standings_follow(&mut step).await?;
        // What parks is parked for a change that it has seen nothing of.
        let change = self.watch.change();
        let blobs = self.store.blobs_short(change, batch).await?;
        let is_more = blobs.len() == batch;
        let fleet = Arc::new(self.fleet.load().for_work());
        let mut helped = stream::iter(blobs)
            .take_while(|_| std::future::ready(!self.stopping.is_cancelled()))
            .map(|short| {
                let fleet = &fleet;
                async move { (short, self.replicate_blob(fleet, short.blob).await) }
            })
            .buffer_unordered(concurrency.max(1));
        let mut put_off = Vec::new();
        while let Some((short, (created, outcome))) = helped.next().await {
            step.processed += created;
            step.add("created", created);
            let now = self.clock.now();
            let again = match outcome {
                Replicated::Enough if created > 0 => continue,
                // Somebody else writes one; when that is not good in the end, it is due again.
                Replicated::Enough => {
                    put_off.push((short, LookAgain::At(now.plus(ENOUGH_PAUSE))));
                    continue;
                }
                Replicated::Superseded => {
                    step.count(outcome.name());
                    continue;
                }
                Replicated::NoTarget | Replicated::NoSource => LookAgain::After(change),
                Replicated::Spent => LookAgain::At(now.plus(SPENT_PAUSE)),
                Replicated::Full | Replicated::CopyError | Replicated::RecordError => {
                    step.failed += u64::from(outcome != Replicated::Full);
                    let times = self.watch.fails(short.blob);
                    let pause = doubling(FAILED_PAUSE, times, FAILED_PAUSE_MAX);
                    LookAgain::At(now.plus(pause))
                }
            };
            step.count(outcome.name());
            put_off.push((short, again));
        }
        drop(helped);
        self.store.blobs_put_off(put_off).await?;
        if is_more || follows {
            step.next = Next::Now;
            return Ok(step);
        }
        let (short, parked) = self.store.blobs_short_count().await?;
        self.watch.parks(parked > 0);
        step.backlog = Some(short);
        step.next = self.store.blobs_short_next().await?.map_or(Next::Woken, Next::At);
        Ok(step)
    }

    /// Before a full pass: what waits for a change or a time is due now.
    pub async fn replicate_begin_pass(&self) -> Result<(), EngineError> {
        Ok(self.store.blobs_look_now().await?)
    }

    /// Makes the copies that a blob misses: how many, and how it ended.
    pub(crate) async fn replicate_blob(
        &self,
        fleet: &Arc<Fleet>,
        blob: BlobId,
    ) -> (u64, Replicated) {
        let (facts, replicas) = match self.blob_and_replicas(blob).await {
            Ok(Some(found)) => found,
            Ok(None) => return (0, Replicated::Superseded),
            Err(err) => {
                tracing::debug!(%blob, why = chain(&err), "a blob could not be looked up");
                return (0, Replicated::RecordError);
            }
        };
        // Before anything is promised that could not be kept.
        if !replicas.iter().any(|replica| may_be_read(fleet, replica)) {
            return (0, Replicated::NoSource);
        }
        let mut created = 0;
        let mut failed_on: Vec<BackendId> = Vec::new();
        // What is lost meanwhile makes the blob due again.
        while created < facts.missing {
            let stem = facts.stem.clone();
            let choose = self.copy_chooser(fleet, &facts.wish, stem, failed_on.clone());
            let how = (CopyWhen::Short, Ending::Good);
            let was_full = one_says_full(fleet, facts.size);
            let err = match self.copy_blob(Arc::clone(fleet), blob, how, choose).await {
                Ok(_) => {
                    self.watch.succeeds(blob);
                    created += 1;
                    continue;
                }
                Err(err) => err,
            };
            let outcome = match &err {
                CopyBlobError::Target(backend, _)
                | CopyBlobError::Length { backend, .. }
                | CopyBlobError::Gone(backend) => {
                    tracing::debug!(%blob, %backend, why = chain(&err), "a copy goes elsewhere");
                    failed_on.push(*backend);
                    continue;
                }
                CopyBlobError::Store(StoreError::Enough) => Replicated::Enough,
                CopyBlobError::Store(StoreError::Superseded) => Replicated::Superseded,
                CopyBlobError::Store(StoreError::NoRoom { size }) if failed_on.is_empty() => {
                    match hindrance(fleet, &facts.wish, *size) {
                        Hindrance::Limits => Replicated::Spent,
                        _ if was_full || one_says_full(fleet, *size) => Replicated::Full,
                        Hindrance::Reach | Hindrance::Room => Replicated::NoTarget,
                    }
                }
                CopyBlobError::Store(StoreError::NoRoom { .. }) => Replicated::CopyError,
                CopyBlobError::Store(_) => Replicated::RecordError,
                CopyBlobError::Source(EngineError::Spent) => Replicated::Spent,
                CopyBlobError::Source(_) | CopyBlobError::BrokenOff => Replicated::CopyError,
            };
            if matches!(outcome, Replicated::CopyError | Replicated::RecordError) {
                tracing::debug!(%blob, why = chain(&err), "a blob could not be replicated");
            }
            return (created, outcome);
        }
        (created, Replicated::Enough)
    }

    /// Lets replicas follow the duty of their backends, a bounded number; whether there are more.
    async fn standings_follow(&self, step: &mut Step) -> Result<bool, EngineError> {
        let mut left = FOLLOW_BATCHES;
        for following in self.store.standings_following().await? {
            loop {
                if left == 0 {
                    return Ok(true);
                }
                left -= 1;
                let (moved, is_last) = self.store.standing_follow(following.backend).await?;
                step.processed += moved;
                step.add(following.duty.name(), moved);
                if is_last {
                    break;
                }
            }
        }
        Ok(false)
    }
}

/// Whether a backend says that it is full, and nothing else that is known of it does. Room that can be
/// seen is looked at when it grows.
fn one_says_full(fleet: &Fleet, size: u64) -> bool {
    fleet.all().iter().any(|backend| {
        backend.is_durable()
            && backend.fitness(Operation::Write, size) == Fitness::Full
            && backend.room().is_none_or(|room| room >= size)
    })
}

/// Whether a copy could be made from it, as far as is known without asking. A damaged one is not
/// read from: another damaged one might have the rest, but that is for those who read it.
fn may_be_read(fleet: &Fleet, replica: &Replica) -> bool {
    let is_there = matches!(
        replica.state,
        ReplicaState::Good | ReplicaState::Leaving | ReplicaState::Away | ReplicaState::Unreadable
    );
    is_there
        && fleet
            .get(replica.backend)
            .is_some_and(|backend| backend.fitness(Operation::Read, 0).is_reachable())
}
