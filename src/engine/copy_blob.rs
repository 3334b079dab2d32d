//! One more replica of a blob, copied from a good one.
//!
//! This is the one way in which bytes move between backends: replication, repair, draining,
//! balancing and writes that fell below `min_replicas` all use it. What arrives was verified on
//! its way, so a damaged source never spreads.
//!
//! A blob that was imported has no hash yet. A copy reads all of it, so it gets its hash from the
//! first copy, before that is recorded: from then on both replicas are held against it.
//!
//! # Invariant
//!
//! An intent that was registered here is settled here: it becomes a good replica, beside the others
//! or in the place of one, or it is abandoned after its writer stopped, also when whoever asked has
//! gone away meanwhile. Where the store's outcome is unknown it is settled as soon as the store can
//! say what is true.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;

use super::Engine;
use super::EngineError;
use super::hash::BlobHash;
use super::hash::BodyHasher;
use super::hash::Wanted;
use super::hash::hash_short;
use super::read;
use super::read::Live;
use super::read::Means;
use super::read::Segment;
use super::settling::Due;
use super::settling::Settling;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fleet;
use crate::backend::Writer;
use crate::base::Budget;
use crate::base::limits::SHORT_BODY_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::WriteId;
use crate::store::BlobFacts;
use crate::store::Choose;
use crate::store::CopyWhen;
use crate::store::FailedWrite;
use crate::store::Intent;
use crate::store::Replica;
use crate::store::StoreError;

/// Why there is no new replica.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyBlobError {
    /// `NoRoom` when nothing was chosen, `Superseded` when the blob is gone by now.
    #[error("the store did not take part in the copy")]
    Store(#[from] StoreError),
    #[error("the blob cannot be read")]
    Source(#[source] EngineError),
    #[error("the new replica cannot be written")]
    Target(BackendId, #[source] BackendError),
    /// The service said that it was written.
    #[error("the new replica on {backend} has {length} bytes and should have {size}")]
    Length { backend: BackendId, size: u64, length: u64 },
    #[error("backend {0} is not in the fleet any more")]
    Gone(BackendId),
    /// The runtime is going down; the next start settles the intent.
    #[error("the copy was broken off")]
    BrokenOff,
}

/// A blob that the store need not be asked about, such as one that is not committed yet.
#[derive(Clone, Debug)]
pub(crate) struct CopySource {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    pub(crate) hash: [u8; 32],
    /// Empty up to 1 MiB.
    pub(crate) groups: Arc<[[u8; 32]]>,
    /// What is being written is not read.
    pub(crate) replicas: Vec<Replica>,
}

/// What becomes of a new replica whose bytes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It stays an intent, which is the caller's to commit.
    Left,
    /// It is one more.
    Good,
    /// It takes the place of this one, which is condemned.
    InsteadOf(WriteId, CondemnReason),
}

impl Engine {
    /// Copies a committed blob to the backend that `choose` names, for a client or as work, as
    /// `fleet` was taken; the new replica is recorded as `ending` says when this returns.
    pub(crate) async fn copy_blob(
        &self,
        fleet: Arc<Fleet>,
        blob: BlobId,
        (when, ending): (CopyWhen, Ending),
        choose: Choose,
    ) -> Result<Intent, CopyBlobError> {
        // Before the look-up, so that nothing that it names is deleted under the read.
        let ticket = self.store.ticket();
        let (from, budget) = (Arc::clone(&fleet), self.budget.clone());
        let look = move |(facts, replicas): (BlobFacts, Vec<Replica>)| {
            let segment = Segment {
                blob,
                size: facts.size,
                hash: facts.hash,
                groups: None,
                replicas,
                from: 0,
                to: facts.size,
            };
            // Of what nobody has hashed nothing could be checked there.
            let short = facts.hash.and_then(|_| read::read_one_here(&from, &budget, &segment));
            (segment, short)
        };
        let found = self.store.blob_whole_with(blob, look).await?;
        self.copy(fleet, found, (when, ending), choose, ticket).await
    }

    /// Copies a blob that is not committed yet. The bytes of the intent that this returns are
    /// durable; it is the caller's to commit it with the blob.
    pub(crate) async fn copy_blob_from(
        &self,
        source: CopySource,
        choose: Choose,
    ) -> Result<Intent, CopyBlobError> {
        let segment = Segment {
            blob: source.blob,
            size: source.size,
            hash: Some(source.hash),
            groups: Some(source.groups),
            replicas: source.replicas,
            from: 0,
            to: source.size,
        };
        let how = (CopyWhen::Always, Ending::Left);
        self.copy(self.fleet.load_full(), (segment, None), how, choose, ()).await
    }

    async fn copy(
        &self,
        fleet: Arc<Fleet>,
        (segment, short): (Segment, Option<read::Short>),
        (when, ending): (CopyWhen, Ending),
        choose: Choose,
        hold: impl Send + Sync + 'static,
    ) -> Result<Intent, CopyBlobError> {
        let (live, mut means) = (Live { store: self.store.clone(), fleet }, self.means());
        let (settling, mut buffers) = (self.settling.clone(), self.buffers.clone());
        if ending == Ending::Left && segment.size <= SHORT_BODY_MAX {
            // Its writer still holds the bytes and their place in the budget. Many such that all
            // waited for more would wait for each other.
            means.budget = Budget::new(segment.size);
            buffers = Budget::new(segment.size);
        }
        let copy = Copy { live, means, settling, buffers, segment, short, when, ending };
        // A task of its own: once registered, an intent is settled whoever still waits.
        let task = tokio::spawn(copy.run(choose, hold));
        task.await.unwrap_or(Err(CopyBlobError::BrokenOff))
    }
}

struct Copy {
    live: Live,
    means: Means,
    settling: Settling,
    buffers: Budget,
    segment: Segment,
    /// All of its bytes, if they could be read and checked when it was looked up.
    short: Option<read::Short>,
    when: CopyWhen,
    ending: Ending,
}

/// A copy that failed, and whether bytes of it may be left at the backend.
struct Failed {
    why: CopyBlobError,
    unknown: bool,
}

impl Copy {
    async fn run(
        self,
        choose: Choose,
        hold: impl Send + Sync + 'static,
    ) -> Result<Intent, CopyBlobError> {
        let (store, settling) = (self.live.store.clone(), self.settling.clone());
        let intent = store.replica_register(self.segment.blob, self.when, choose).await?;
        let (write, blob, ending) = (intent.write, self.segment.blob, self.ending);
        let found = match self.bytes(&intent, hold).await {
            Ok(found) => found,
            Err(Failed { why, unknown }) => {
                settling.settle(Due::Failed(FailedWrite { write, unknown })).await;
                return Err(why);
            }
        };
        if let Some(found) = found
            && let Err(why) = store.blob_hash_set(blob, found.hash, found.groups).await
        {
            // A replica of bytes that nobody knows could be held against nothing.
            settling.settle(Due::Failed(FailedWrite { write, unknown: false })).await;
            return Err(why.into());
        }
        let recorded = match ending {
            Ending::Left => Ok(()),
            Ending::Good => store.replica_commit(write).await,
            Ending::InsteadOf(old, reason) => store.replica_swap(write, old, reason).await,
        };
        let Err(why) = recorded else { return Ok(intent) };
        settling
            .settle(match why {
                // The store has condemned it with its blob, or it is not wanted.
                StoreError::Superseded | StoreError::Changed => {
                    Due::Failed(FailedWrite { write, unknown: false })
                }
                _ => Due::Good(write),
            })
            .await;
        Err(why.into())
    }

    /// Brings the bytes to the intent's path and makes them durable; their hash, if the store does
    /// not know it.
    async fn bytes(
        self,
        intent: &Intent,
        hold: impl Send + Sync + 'static,
    ) -> Result<Option<BlobHash>, Failed> {
        let Some(target) = self.live.fleet.get(intent.backend).cloned() else {
            return Err(Failed { why: CopyBlobError::Gone(intent.backend), unknown: false });
        };
        let size = self.segment.size;
        let replaces = matches!(self.ending, Ending::InsteadOf(..));
        let _buffers = match target.write_buffer(size) {
            0 => None,
            kept => Some(self.buffers.take(kept).await),
        };
        let is_unhashed = self.segment.hash.is_none();
        let hashers = self.means.hashers.clone();
        // Beyond the last byte: nothing is deleted under the look at what was written.
        let hold = Arc::new(hold);
        let body = match self.short {
            Some(short) => Ok(short.into_body()),
            None => {
                let segments: VecDeque<Segment> =
                    Some(self.segment).filter(|_| size > 0).into_iter().collect();
                read::open(self.live, self.means, segments, Arc::clone(&hold)).await
            }
        };
        let mut body =
            body.map_err(|err| Failed { why: CopyBlobError::Source(err), unknown: false })?;
        let failed = |err: BackendError| Failed {
            unknown: err.unknown,
            why: CopyBlobError::Target(intent.backend, err),
        };
        let found = if size <= SHORT_BODY_MAX {
            // In one call: each of several would be a hop between threads.
            let bytes = gather(&mut body, size).await?;
            let found = is_unhashed.then(|| hash_short(&bytes, &Wanted::default()).0);
            target.write_whole(&intent.path, bytes.into()).await.map_err(failed)?;
            found
        } else {
            let hasher = is_unhashed.then(|| hashers.begin(Wanted::default()));
            let writer = target.write(&intent.path, size).await.map_err(failed)?;
            pass_on(body, writer, hasher, intent.backend).await?
        };
        if replaces {
            seen(&target, intent, size).await?;
        }
        drop(hold);
        Ok(found)
    }
}

/// Looks at what was written, before another replica is given up for it.
async fn seen(target: &Backend, intent: &Intent, size: u64) -> Result<(), Failed> {
    let failed = |why| Failed { unknown: true, why: CopyBlobError::Target(intent.backend, why) };
    match target.stat(&intent.path).await.map_err(failed)?.size {
        length if length == size => Ok(()),
        length => {
            let backend = intent.backend;
            Err(Failed { unknown: false, why: CopyBlobError::Length { backend, size, length } })
        }
    }
}

/// All bytes of a short blob. The body keeps their place in the budget until it is dropped.
async fn gather(body: &mut read::Body, size: u64) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let piece = body.next().await.unwrap_or(Err(EngineError::Unavailable(None)));
        let failed = |err| Failed { why: CopyBlobError::Source(err), unknown: false };
        bytes.extend_from_slice(&piece.map_err(failed)?);
    }
    Ok(bytes)
}

/// Writes the bytes as they come.
async fn pass_on(
    mut body: read::Body,
    mut writer: Writer,
    mut hasher: Option<BodyHasher>,
    target: BackendId,
) -> Result<Option<BlobHash>, Failed> {
    while let Some(piece) = body.next().await {
        let why = match piece {
            Ok(piece) => {
                if let Some(hasher) = &mut hasher {
                    hasher.update(piece.clone()).await;
                }
                match writer.write(piece).await {
                    Ok(()) => continue,
                    Err(err) => CopyBlobError::Target(target, err),
                }
            }
            Err(err) => CopyBlobError::Source(err),
        };
        let unknown = match writer.abort().await {
            Ok(()) => false,
            Err(err) => err.unknown,
        };
        return Err(Failed { why, unknown });
    }
    writer
        .finish()
        .await
        .map_err(|err| Failed { unknown: err.unknown, why: CopyBlobError::Target(target, err) })?;
    Ok(match &mut hasher {
        Some(hasher) => Some(hasher.end_blob().await),
        None => None,
    })
}
