//! One body, hashed once, written to all its backends at once.
//!
//! Each blob has a leg for each of its intents: a task that writes to one backend and ends good or
//! failed. Pieces of the body go to every leg of the current blob; a piece holds its bytes of the
//! request's window (and of the process's budget) until the last leg has written it, so memory is
//! bounded however slow a backend is.
//!
//! # Invariants
//!
//! - A leg ends by itself or by its stop token, and its end is always awaited before its intent is
//!   given up: nothing is condemned while its writer still writes.
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
use crate::backend::BackendError;
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
use leg::Held;
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

/// The writers of one request.
pub(super) struct Tee<'e> {
    engine: &'e Arc<Engine>,
    fleet: Arc<Fleet>,
    placement: Placement,
    blobs: Vec<OpenBlob>,
    watch: Arc<Watch>,
    /// Ends the task that looks for standing legs.
    _watching: DropGuard,
}

/// A blob and its legs.
struct OpenBlob {
    blob: Registered,
    stem: String,
    hash: Option<BlobHash>,
    running: FuturesUnordered<JoinHandle<Ended>>,
    good: Vec<(WriteId, BackendId)>,
    failed: Vec<FailedWrite>,
    tried: Vec<BackendId>,
    cause: Option<Arc<BackendError>>,
    stops: Vec<CancellationToken>,
}

impl<'e> Tee<'e> {
    pub(super) fn new(engine: &'e Arc<Engine>, fleet: Arc<Fleet>, placement: Placement) -> Tee<'e> {
        let watch = Arc::new(Watch::new(placement.min_replicas as usize));
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        // Where all replicas are demanded no leg can be left behind.
        if placement.replicas > placement.min_replicas {
            tokio::spawn(Arc::clone(&watch).run(stop));
        }
        Tee { engine, fleet, placement, blobs: Vec::new(), watch, _watching: guard }
    }

    /// Writes a body that is one short blob: one job a leg.
    pub(super) fn write_whole(
        &mut self,
        registered: Vec<Placed>,
        bytes: &Bytes,
        hash: BlobHash,
        held: Option<crate::base::budget::Bytes>,
    ) {
        let held = Arc::new(Held { _window: None, _budget: held });
        for blob in registered {
            let mut open = OpenBlob::new(blob);
            open.hash = Some(hash.clone());
            for intent in open.blob.intents.clone() {
                let Some(backend) = self.fleet.get(intent.backend).cloned() else {
                    open.never_begun(&intent);
                    continue;
                };
                let (bytes, held) = (bytes.clone(), Arc::clone(&held));
                let leg = self.watch.leg(&open.blob, backend.is_durable());
                leg.sent.store(bytes.len() as u64, Ordering::Release);
                open.stops.push(leg.stop.clone());
                open.running.push(tokio::spawn(async move {
                    let _held = held;
                    let result = write_in_one(&backend, &intent, bytes, &leg.stop).await;
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
        registered: Vec<Placed>,
        body: &mut Body,
        wanted: Wanted,
    ) -> Result<BodyHash, EngineError> {
        let window = Arc::new(Semaphore::new(WINDOW as usize / WINDOW_UNIT));
        let mut hasher = self.engine.hashers.begin(wanted);
        let mut source = Source { body, ready: Bytes::new() };
        // Blobs that no leg has begun must be given up as well, should this end early.
        let mut waiting: Vec<Placed> = registered.into_iter().rev().collect();
        while let Some(blob) = waiting.pop() {
            if let Err(err) = self.make_way().await {
                self.blobs.extend(waiting.into_iter().map(OpenBlob::new));
                self.blobs.push(OpenBlob::new(blob));
                return Err(err);
            }
            let (size, index) = (blob.0.size, self.blobs.len());
            let legs = self.open(blob);
            let filled = fill(&legs, size, &mut source, &mut hasher, &window, self.engine).await;
            drop(legs);
            match filled {
                Ok(()) => self.blobs[index].hash = Some(hasher.end_blob().await),
                Err(err) => {
                    self.blobs.extend(waiting.into_iter().map(OpenBlob::new));
                    return Err(err);
                }
            }
        }
        source.at_end().await?;
        Ok(hasher.finish().await)
    }

    /// Begins the legs of a blob.
    fn open(&mut self, blob: Placed) -> Vec<LegIn> {
        let mut open = OpenBlob::new(blob);
        let mut legs = Vec::new();
        for intent in open.blob.intents.clone() {
            let Some(backend) = self.fleet.get(intent.backend).cloned() else {
                open.never_begun(&intent);
                continue;
            };
            let leg = self.watch.leg(&open.blob, backend.is_durable());
            let (pieces, queue) = mpsc::channel(LEG_QUEUE);
            open.stops.push(leg.stop.clone());
            let (size, state) = (open.blob.size, Arc::clone(&leg));
            open.running.push(tokio::spawn(async move {
                let result = write_pieces(&backend, &intent, size, queue, &state).await;
                state.ended(&result);
                Ended { intent, result }
            }));
            legs.push(LegIn { pieces, state: leg });
        }
        self.blobs.push(open);
        legs
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
            return Err(EngineError::Unavailable(blob.cause.clone()));
        }
        Ok(())
    }

    /// Waits until every blob is durable where it must be, copies those that lost too many legs,
    /// and gives the rest their last moment. On an error everything has been given up.
    pub(super) async fn settle(mut self) -> Result<(Vec<FinishedBlob>, Late), EngineError> {
        let min = self.placement.min_replicas as usize;
        let fleet = Arc::clone(&self.fleet);
        for index in 0..self.blobs.len() {
            let blob = &mut self.blobs[index];
            while blob.lasting(&fleet) < min && blob.next_end().await {}
            if blob.lasting(&fleet) < min
                && let Err(err) = self.fill_up(index, min).await
            {
                self.give_up().await;
                return Err(err);
            }
        }
        let deadline = Instant::now() + self.engine.settings.load().tail_wait;
        for blob in &mut self.blobs {
            while let Ok(true) = tokio::time::timeout_at(deadline, blob.next_end()).await {}
        }
        let mut late = Late::none();
        let mut finished = Vec::with_capacity(self.blobs.len());
        for blob in self.blobs {
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
                return Err(EngineError::Unavailable(blob.cause.clone()));
            }
            let source = CopySource {
                blob: blob.blob.blob,
                size: blob.blob.size,
                hash: hash.hash,
                groups: Arc::from(hash.groups.as_slice()),
                replicas: blob.finished(),
            };
            let (stem, tried) = (blob.stem.clone(), blob.tried.clone());
            let choose = self.engine.copy_chooser(&fleet, &self.placement, stem, tried);
            match self.engine.copy_blob_from(source, choose).await {
                Ok(target) => {
                    blob.tried.push(target.backend);
                    blob.good.push((target.write, target.backend));
                    blob.blob.intents.push(target);
                }
                Err(CopyBlobError::Target(err)) => {
                    let failed = fleet.all().iter().find(|b| *b.name() == err.backend);
                    tracing::warn!(backend = %err.backend, error = chain(&err), "a replica was not written");
                    blob.cause = Some(Arc::new(err));
                    match failed {
                        Some(backend) => blob.tried.push(backend.id()),
                        None => return Err(EngineError::Unavailable(blob.cause.clone())),
                    }
                }
                Err(err) => {
                    tracing::warn!(error = chain(&err), "a blob stays below min_replicas");
                    return Err(EngineError::Unavailable(blob.cause.clone()));
                }
            }
        }
        Ok(())
    }

    /// Stops all legs, waits for their ends, and gives the blobs up.
    pub(super) async fn give_up(self) {
        let mut blobs = Vec::with_capacity(self.blobs.len());
        for mut blob in self.blobs {
            blob.stops.iter().for_each(CancellationToken::cancel);
            while blob.next_end().await {}
            blobs.push((blob.blob.blob, blob.failed));
        }
        self.engine.abandon(blobs).await;
    }
}

impl OpenBlob {
    fn new((blob, stem): Placed) -> OpenBlob {
        let tried = blob.intents.iter().map(|intent| intent.backend).collect();
        OpenBlob {
            blob,
            stem,
            hash: None,
            running: FuturesUnordered::new(),
            good: Vec::new(),
            failed: Vec::new(),
            tried,
            cause: None,
            stops: Vec::new(),
        }
    }

    fn never_begun(&mut self, intent: &Intent) {
        self.failed.push(FailedWrite { write: intent.write, unknown: false });
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
            })
            .collect()
    }

    /// Waits for the next leg to end; false when none is running.
    async fn next_end(&mut self) -> bool {
        let Some(ended) = self.running.next().await else { return false };
        let Ok(ended) = ended else {
            // The leg panicked: its intent is in neither list and is given up as unknown.
            tracing::error!("a leg of a write panicked");
            self.note_lost_legs();
            return true;
        };
        match ended.result {
            Ok(()) => self.good.push((ended.intent.write, ended.intent.backend)),
            Err(failure) => {
                if let Some(cause) = failure.cause {
                    let backend = &cause.backend;
                    tracing::warn!(%backend, error = chain(&cause), "a replica was not written");
                    self.cause = Some(Arc::new(cause));
                }
                let unknown = failure.unknown;
                self.failed.push(FailedWrite { write: ended.intent.write, unknown });
            }
        }
        true
    }

    /// When no leg runs any more, every intent without an end is one whose task panicked.
    fn note_lost_legs(&mut self) {
        if !self.running.is_empty() {
            return;
        }
        for intent in &self.blob.intents {
            let known = self.good.iter().any(|(write, _)| *write == intent.write)
                || self.failed.iter().any(|failed| failed.write == intent.write);
            if !known {
                self.failed.push(FailedWrite { write: intent.write, unknown: true });
            }
        }
    }
}
