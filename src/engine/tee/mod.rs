//! One body, hashed once, written to all its backends at once.
//!
//! Each blob has a leg for each of its intents: a task that writes to one backend and ends good or
//! failed. Pieces of the body go to every leg of the current blob; a piece holds its bytes of the
//! request's window (and of the process's budget) until the last leg has written it, so memory is
//! bounded however slow a backend is.
//!
//! # Invariants
//!
//! - A leg ends by itself or by its stop token, and its end is awaited before its intent is given
//!   up. Only the store condemns a path that may still be written to, as it refuses a commit or lets
//!   an object go before a late leg has ended; such a path is deleted a second time an hour later.
//! - At most [`BLOBS_AHEAD`] blobs are open: the next one begins when an earlier one has enough
//!   durable replicas or has no leg left.
//! - What [`Tee::settle`] returns is durable on at least `min_replicas` backends that last.
//!
//! # Why a leg may be left behind
//!
//! A backend that stands still for a few seconds while enough others go on would make every
//! client wait for the slowest disk: it is stopped, and the blob lacks a replica until it is
//! repaired. When enough legs of all blobs have finished, the others get `tail_wait`; a leg that
//! finishes after that joins as an ordinary replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

mod late;
mod leg;
mod source;
mod watch;

use super::Engine;
use super::EngineError;
use super::copy_blob::CopyBlobError;
use super::copy_blob::CopySource;
use super::hash::BlobHash;
use super::hash::BodyHash;
use super::hash::Wanted;
use super::request::Body;
use super::settling::Due;
use super::settling::Settling;
use crate::backend::BackendError;
use crate::backend::Fault;
use crate::backend::Fleet;
use crate::base::chain;
use crate::base::limits::WINDOW;
use crate::model::BackendId;
use crate::model::Placement;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::FailedWrite;
use crate::store::FinishedBlob;
use crate::store::Intent;
use crate::store::Registered;
use crate::store::Replica;

pub(super) use late::Late;
use leg::Ended;
use leg::Failure;
pub(super) use leg::Held;
use leg::to_its_end;
use leg::write_in_one;
use leg::write_pieces;
use source::LegIn;
use source::Source;
use source::WINDOW_UNIT;
use source::fill;
use watch::Watch;

/// Pieces that wait for one leg, however small they are.
const LEG_QUEUE: usize = 64;
/// Blobs of one body that are open at once: one fills while the one before becomes durable.
const BLOBS_AHEAD: usize = 2;

/// A registered blob with the stem of its paths.
pub(super) type Placed = (Registered, String);

/// The writers of one request. Dropped before it was settled, all is given up.
pub(super) struct Tee<'e> {
    engine: &'e Arc<Engine>,
    fleet: Arc<Fleet>,
    placement: Placement,
    /// Registered, and not begun yet; the next one is the last.
    waiting: Vec<Placed>,
    blobs: Vec<OpenBlob>,
    watch: Arc<Watch>,
    /// Ends the task that looks for standing legs.
    watching: Option<DropGuard>,
}

/// Why a body is not where it should be. All of it has been given up.
pub(super) struct Failed {
    pub(super) why: EngineError,
    /// Backends that could not be written to.
    pub(super) on: Vec<BackendId>,
}

/// A blob and its legs.
struct OpenBlob {
    blob: Registered,
    stem: String,
    hash: Option<BlobHash>,
    running: FuturesUnordered<JoinHandle<Ended>>,
    good: Vec<(WriteId, BackendId)>,
    failed: Vec<FailedWrite>,
    /// Where it was tried in vain.
    failed_on: Vec<BackendId>,
    /// Something else than want of room was among the reasons.
    is_broken: bool,
    cause: Option<Arc<BackendError>>,
    stops: Vec<CancellationToken>,
}

impl<'e> Tee<'e> {
    /// The writers of these blobs; none begins yet.
    pub(super) fn new(
        engine: &'e Arc<Engine>,
        fleet: Arc<Fleet>,
        placement: Placement,
        mut registered: Vec<Placed>,
    ) -> Tee<'e> {
        let watch = Arc::new(Watch::new(placement.min_replicas as usize));
        registered.reverse();
        let (waiting, blobs) = (registered, Vec::new());
        let mut tee = Tee { engine, fleet, placement, waiting, blobs, watch, watching: None };
        // Where all replicas are demanded no leg can be left behind.
        if tee.placement.replicas > tee.placement.min_replicas {
            let stop = CancellationToken::new();
            tee.watching = Some(stop.clone().drop_guard());
            tokio::spawn(Arc::clone(&tee.watch).run(stop));
        }
        tee
    }

    /// Writes a body that is one short blob: one job a leg.
    pub(super) fn write_whole(&mut self, bytes: &Bytes, hash: &BlobHash, held: &Arc<Held>) {
        while let Some(blob) = self.waiting.pop() {
            let mut open = OpenBlob::new(blob);
            open.hash = Some(hash.clone());
            for intent in open.blob.intents.clone() {
                let Some(backend) = self.fleet.get(intent.backend).cloned() else {
                    open.never_begun(&intent);
                    continue;
                };
                let (bytes, held) = (bytes.clone(), Arc::clone(held));
                let leg = self.watch.leg(&open.blob, &backend);
                leg.sent.store(bytes.len() as u64, Ordering::Release);
                open.stops.push(leg.stop.clone());
                open.running.push(tokio::spawn(async move {
                    let _held = held;
                    let write = write_in_one(&backend, &intent, bytes, &leg.stop);
                    let result = to_its_end(leg.progress.during(write)).await;
                    leg.ended(&result);
                    Ended { intent, result }
                }));
            }
            self.blobs.push(open);
        }
    }

    /// Streams the body into its registered blobs. On an error the caller gives up.
    pub(super) async fn stream(
        &mut self,
        body: &mut Body,
        wanted: Wanted,
    ) -> Result<BodyHash, EngineError> {
        let window = Arc::new(Semaphore::new(WINDOW as usize / WINDOW_UNIT));
        let mut hasher = self.engine.hashers.begin(wanted);
        let mut source = Source { body, ready: Bytes::new() };
        while !self.waiting.is_empty() {
            self.make_way().await?;
            let Some((size, legs)) = self.open().await else { break };
            let filled = fill(&legs, size, &mut source, &mut hasher, &window, self.engine).await;
            drop(legs);
            let index = self.blobs.len() - 1;
            if !filled? {
                let blob = &mut self.blobs[index];
                while blob.next_end().await {}
                return Err(blob.shortfall());
            }
            self.blobs[index].hash = Some(hasher.end_blob().await);
        }
        source.at_end().await?;
        Ok(hasher.finish().await)
    }

    /// Begins the legs of the next blob, as soon as there is memory for what they keep themselves.
    async fn open(&mut self) -> Option<(u64, Vec<LegIn>)> {
        let (next, _) = self.waiting.last()?;
        let to = |intent: &Intent| self.fleet.get(intent.backend);
        let kept = next.intents.iter().filter_map(to).map(|b| b.write_buffer(next.size)).sum();
        let buffers = match kept {
            0 => None,
            kept => Some(Arc::new(self.engine.buffers.take(kept).await)),
        };
        let mut open = OpenBlob::new(self.waiting.pop()?);
        let mut legs = Vec::new();
        for intent in open.blob.intents.clone() {
            let Some(backend) = self.fleet.get(intent.backend).cloned() else {
                open.never_begun(&intent);
                continue;
            };
            let leg = self.watch.leg(&open.blob, &backend);
            let (pieces, queue) = mpsc::channel(LEG_QUEUE);
            open.stops.push(leg.stop.clone());
            let (size, state, buffers) = (open.blob.size, Arc::clone(&leg), buffers.clone());
            open.running.push(tokio::spawn(async move {
                let _buffers = buffers;
                let write = write_pieces(&backend, &intent, size, queue, &state);
                let result = to_its_end(state.progress.during(write)).await;
                state.ended(&result);
                Ended { intent, result }
            }));
            legs.push(LegIn { pieces, state: leg });
        }
        let size = open.blob.size;
        self.blobs.push(open);
        Some((size, legs))
    }

    /// Waits until few enough blobs are open for the next one.
    async fn make_way(&mut self) -> Result<(), EngineError> {
        if self.blobs.len() < BLOBS_AHEAD {
            return Ok(());
        }
        let min = self.placement.min_replicas as usize;
        let index = self.blobs.len() - BLOBS_AHEAD;
        let fleet = Arc::clone(&self.fleet);
        let blob = &mut self.blobs[index];
        while blob.lasting(&fleet) < min && blob.next_end().await {}
        if blob.good.is_empty() && blob.running.is_empty() {
            return Err(blob.shortfall());
        }
        Ok(())
    }

    /// Waits until every blob is durable where it must be, copies those that lost too many legs,
    /// and gives the rest their last moment. On an error everything has been given up.
    pub(super) async fn settle(mut self) -> Result<(Vec<FinishedBlob>, Late), Failed> {
        let min = self.placement.min_replicas as usize;
        let fleet = Arc::clone(&self.fleet);
        for index in 0..self.blobs.len() {
            let blob = &mut self.blobs[index];
            while blob.lasting(&fleet) < min && blob.next_end().await {}
            if blob.lasting(&fleet) < min
                && let Err(why) = self.fill_up(index, min).await
            {
                let on = std::mem::take(&mut self.blobs[index].failed_on);
                self.give_up().await;
                return Err(Failed { why, on });
            }
        }
        let deadline = Instant::now() + self.engine.settings.load().tail_wait;
        for blob in &mut self.blobs {
            while let Ok(true) = tokio::time::timeout_at(deadline, blob.next_end()).await {}
        }
        let mut late = Late::none();
        let mut finished = Vec::with_capacity(self.blobs.len());
        for blob in std::mem::take(&mut self.blobs) {
            for leg in blob.running {
                late.legs.push(leg);
            }
            late.stops.extend(blob.stops);
            let hash = blob.hash.expect("every blob that was filled has its hash");
            finished.push(FinishedBlob {
                blob: blob.blob.blob,
                hash: hash.hash,
                groups: hash.groups,
                good: blob.good.iter().map(|(write, _)| *write).collect(),
                failed: blob.failed,
            });
        }
        if late.legs.is_empty() {
            late.stops.clear();
        } else {
            late.watching = self.watching.take();
        }
        Ok((finished, late))
    }

    /// Copies a blob that fell below `min` from what is left of it to other backends.
    async fn fill_up(&mut self, index: usize, min: usize) -> Result<(), EngineError> {
        let fleet = Arc::clone(&self.fleet);
        let blob = &mut self.blobs[index];
        let hash = blob.hash.clone().expect("every blob that was filled has its hash");
        while blob.lasting(&fleet) < min {
            if blob.good.is_empty() {
                return Err(blob.shortfall());
            }
            let source = CopySource {
                blob: blob.blob.blob,
                size: blob.blob.size,
                hash: hash.hash,
                groups: Arc::from(hash.groups.as_slice()),
                replicas: blob.finished(),
            };
            let (stem, failed_on) = (blob.stem.clone(), blob.failed_on.clone());
            let choose = self.engine.copy_chooser(&fleet, &self.placement, stem, failed_on);
            match self.engine.copy_blob_from(source, choose).await {
                Ok(target) => {
                    blob.good.push((target.write, target.backend));
                    blob.blob.intents.push(target);
                }
                // Each backend fails once, so this comes to an end.
                Err(CopyBlobError::Target(backend, err)) => blob.fails(backend, Some(err)),
                Err(CopyBlobError::Gone(backend)) => blob.fails(backend, None),
                Err(err) => {
                    tracing::warn!(error = chain(&err), "a blob stays below min_replicas");
                    return Err(blob.shortfall());
                }
            }
        }
        Ok(())
    }

    /// Stops all legs, waits for their ends, and gives the blobs up.
    pub(super) async fn give_up(mut self) {
        give_up(self.all(), &self.engine.settling).await;
    }

    fn all(&mut self) -> Vec<OpenBlob> {
        let mut all = std::mem::take(&mut self.blobs);
        all.extend(self.waiting.drain(..).map(OpenBlob::new));
        all
    }
}

async fn give_up(blobs: Vec<OpenBlob>, settling: &Settling) {
    let mut ended = Vec::with_capacity(blobs.len());
    for mut blob in blobs {
        blob.stops.iter().for_each(CancellationToken::cancel);
        while blob.next_end().await {}
        ended.push((blob.blob.blob, blob.failed));
    }
    if !ended.is_empty() {
        settling.settle(Due::Blobs(ended)).await;
    }
}

/// Whoever used it panicked: the intents are given up all the same.
impl Drop for Tee<'_> {
    fn drop(&mut self) {
        let all = self.all();
        // At the end of the process there is no runtime; the next start settles them.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !all.is_empty() {
            let settling = self.engine.settling.clone();
            runtime.spawn(async move { give_up(all, &settling).await });
        }
    }
}

impl OpenBlob {
    fn new((blob, stem): Placed) -> OpenBlob {
        OpenBlob {
            blob,
            stem,
            hash: None,
            running: FuturesUnordered::new(),
            good: Vec::new(),
            failed: Vec::new(),
            failed_on: Vec::new(),
            is_broken: false,
            cause: None,
            stops: Vec::new(),
        }
    }

    fn never_begun(&mut self, intent: &Intent) {
        self.failed.push(FailedWrite { write: intent.write, unknown: false });
        self.fails(intent.backend, None);
    }

    /// Takes note that `backend` did not take the blob.
    fn fails(&mut self, backend: BackendId, cause: Option<BackendError>) {
        self.failed_on.push(backend);
        // Room and limits are one answer, all else is another.
        let is_broken = |cause: &BackendError| !matches!(cause.fault, Fault::Full | Fault::Spent);
        self.is_broken |= cause.as_ref().is_none_or(is_broken);
        if let Some(cause) = cause {
            let (backend, error) = (&cause.backend, chain(&cause));
            match cause.fault {
                // It was not asked; why, it has said before.
                Fault::Resting | Fault::Spent => {
                    tracing::debug!(%backend, error, "a replica was not written");
                }
                _ => tracing::warn!(%backend, error, "a replica was not written"),
            }
            self.cause = Some(Arc::new(cause));
        }
    }

    /// What it means that the blob is on too few backends.
    fn shortfall(&self) -> EngineError {
        match &self.cause {
            Some(_) if !self.is_broken => EngineError::NoRoom { size: self.blob.size },
            cause => EngineError::Unavailable(cause.clone()),
        }
    }

    /// Good replicas that count towards `min_replicas`.
    fn lasting(&self, fleet: &Fleet) -> usize {
        let lasts = |id: &BackendId| fleet.get(*id).is_some_and(|backend| backend.is_durable());
        self.good.iter().filter(|(_, backend)| lasts(backend)).count()
    }

    /// The replicas that were written, as something to read from.
    fn finished(&self) -> Vec<Replica> {
        let is_good = |write| self.good.iter().any(|(good, _)| *good == write);
        let finished = self.blob.intents.iter().filter(|intent| is_good(intent.write));
        finished
            .map(|intent| Replica {
                write: intent.write,
                backend: intent.backend,
                path: intent.path.clone(),
                state: ReplicaState::Good,
                is_borrowed: false,
            })
            .collect()
    }

    /// Waits for the next leg to end; false when none is running.
    async fn next_end(&mut self) -> bool {
        let Some(ended) = self.running.next().await else { return false };
        // A task ends without its end only with the process.
        let Ok(ended) = ended else { return true };
        match ended.result {
            Ok(()) => self.good.push((ended.intent.write, ended.intent.backend)),
            Err(Failure { unknown, cause }) => {
                self.failed.push(FailedWrite { write: ended.intent.write, unknown });
                self.fails(ended.intent.backend, cause);
            }
        }
        true
    }
}
