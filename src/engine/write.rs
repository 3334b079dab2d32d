//! From a body to durable blobs: *register* and *write*, for objects and parts alike.
//!
//! A client that waits to be asked for its body is refused before that wherever it can be known that
//! the body will not be taken, by the rules of registering and of the commit.
//!
//! A body up to [`SHORT_BODY_MAX`] is read whole, hashed and checked before anything is
//! registered, and written in one job a leg. A longer one is registered first and streams through
//! the tee. What comes out are blobs that are durable on at least `min_replicas` backends; the
//! caller commits them, and every path out of here that does not lead to a commit gives the intents up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt;

use super::Engine;
use super::EngineError;
use super::error::BodyError;
use super::hash;
use super::hash::BodyHash;
use super::hash::Wanted;
use super::request::Body;
use super::request::Expected;
use super::settling::Due;
use super::tee::Held;
use super::tee::Late;
use super::tee::Placed;
use super::tee::Tee;
use crate::backend::Backend;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::base::limits::ROOM_WAIT;
use crate::base::limits::SHORT_BODY_MAX;
use crate::model::BackendId;
use crate::model::Bucket;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::Names;
use crate::model::ObjectKey;
use crate::model::Operation;
use crate::model::Placement;
use crate::model::UploadId;
use crate::model::path;
use crate::model::path::PathForm;
use crate::plan::placement;
use crate::plan::placement::Candidate;
use crate::plan::placement::Rules;
use crate::store::BlobRequest;
use crate::store::Choose;
use crate::store::FinishedBlob;
use crate::store::LedgerRow;
use crate::store::StoreError;
use crate::store::Target;

/// How often a write that found no room asks again, within [`ROOM_WAIT`].
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// A body on its backends, ready for the commit.
pub(super) struct Written {
    pub(super) size: u64,
    pub(super) hash: BodyHash,
    pub(super) blobs: Vec<FinishedBlob>,
    /// Legs that were not waited for.
    pub(super) late: Late,
}

impl Engine {
    /// Makes `body` durable for `key`; `part` is 0 for an object written at once.
    pub(super) async fn write_body(
        self: &Arc<Self>,
        bucket: &Bucket,
        key: &ObjectKey,
        part: u32,
        body: Body,
    ) -> Result<Written, EngineError> {
        // Before a byte of the body is asked for.
        self.store.must_take()?;
        if body.size <= SHORT_BODY_MAX {
            self.write_short(bucket, key, part, body).await
        } else {
            self.write_long(bucket, key, part, body).await
        }
    }

    async fn write_short(
        self: &Arc<Self>,
        bucket: &Bucket,
        key: &ObjectKey,
        part: u32,
        mut body: Body,
    ) -> Result<Written, EngineError> {
        let fleet = self.fleet.load_full();
        let size = body.size;
        let blobs = requests(bucket, key, part, &[size]);
        if body.waits && size > 0 {
            self.must_fit(&fleet, bucket, &blobs).await?;
        }
        let held = match body.draws {
            true => Some(self.budget.take(size).await),
            false => None,
        };
        let bytes = read_whole(&mut body).await?;
        let trailing = read_trailer(&mut body)?;
        let wanted = wanted(&body.expected);
        let (blob_hash, hash) = hash::hash_short(&bytes, &wanted);
        check(&body.expected, &trailing, &hash)?;
        if size == 0 {
            return Ok(Written { size, hash, blobs: Vec::new(), late: Late::none() });
        }
        let held = Held::whole(held);
        let mut registered = self.register(&fleet, bucket, &blobs, &[], ROOM_WAIT).await?;
        let mut failed_on: Vec<BackendId> = Vec::new();
        loop {
            let placement = bucket.placement.clone();
            let mut tee = Tee::new(self, Arc::clone(&fleet), placement, registered);
            tee.write_whole(&bytes, &blob_hash, &held);
            let failed = match tee.settle().await {
                Ok((blobs, late)) => return Ok(Written { size, hash, blobs, late }),
                Err(failed) => failed,
            };
            // The body is still here: there may be backends that were not tried.
            failed_on.extend(failed.on);
            let again = self.register(&fleet, bucket, &blobs, &failed_on, Duration::ZERO).await;
            registered = again.map_err(|_| failed.why)?;
        }
    }

    async fn write_long(
        self: &Arc<Self>,
        bucket: &Bucket,
        key: &ObjectKey,
        part: u32,
        mut body: Body,
    ) -> Result<Written, EngineError> {
        let size = body.size;
        let fleet = self.fleet.load_full();
        let most = blob_max(&fleet, &bucket.placement, self.settings.load().blob_max);
        let blobs = requests(bucket, key, part, &split(size, most));
        let registered = self.register(&fleet, bucket, &blobs, &[], ROOM_WAIT).await?;
        let mut tee = Tee::new(self, fleet, bucket.placement.clone(), registered);
        let wanted = wanted(&body.expected);
        let streamed = tee.stream(&mut body, wanted).await;
        let checked = streamed.and_then(|hash| {
            let trailing = read_trailer(&mut body)?;
            check(&body.expected, &trailing, &hash)?;
            Ok(hash)
        });
        match checked {
            Ok(hash) => {
                let (blobs, late) = tee.settle().await.map_err(|failed| failed.why)?;
                Ok(Written { size, hash, blobs, late })
            }
            Err(err) => {
                tee.give_up().await;
                Err(err)
            }
        }
    }

    /// Registers blobs, on none of the backends to `avoid`. Without room it wakes cleanup and
    /// waits up to `wait`.
    async fn register(
        &self,
        fleet: &Fleet,
        bucket: &Bucket,
        requests: &[BlobRequest],
        avoid: &[BackendId],
        wait: Duration,
    ) -> Result<Vec<Placed>, EngineError> {
        let registered = self.with_room(fleet, &bucket.placement, wait, || {
            let choose = self.chooser(fleet, &bucket.placement, stems(requests), avoid.to_vec());
            let (id, placement) = (bucket.id, bucket.placement_id);
            self.store.blobs_register(id, placement, requests.to_vec(), choose)
        });
        Ok(registered.await?.into_iter().zip(stems(requests)).collect())
    }

    /// Refuses what [`Engine::register`] would, and records nothing: for a client who has not sent
    /// the body yet.
    async fn must_fit(
        &self,
        fleet: &Fleet,
        bucket: &Bucket,
        requests: &[BlobRequest],
    ) -> Result<(), EngineError> {
        self.with_room(fleet, &bucket.placement, ROOM_WAIT, || {
            let choose = self.chooser(fleet, &bucket.placement, stems(requests), Vec::new());
            let sizes = requests.iter().map(|request| request.size).collect();
            self.store.blobs_fit(bucket.id, sizes, choose)
        })
        .await
    }

    /// Asks the store for room until there is some. Only cleanup makes room within `wait`: where
    /// backends cannot be reached, or limits are in the way, nobody waits.
    async fn with_room<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        fleet: &Fleet,
        placement: &Placement,
        wait: Duration,
        ask: impl Fn() -> F,
    ) -> Result<T, EngineError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let size = match ask().await {
                Err(StoreError::NoRoom { size }) => size,
                answer => return Ok(answer?),
            };
            match hindrance(fleet, placement, size) {
                Hindrance::Reach => return Err(EngineError::Unavailable(None)),
                Hindrance::Room if tokio::time::Instant::now() < deadline => {
                    self.store.cleanup_wanted().notify_one();
                    tokio::time::sleep(ROOM_LOOK).await;
                }
                Hindrance::Limits | Hindrance::Room => return Err(EngineError::NoRoom { size }),
            }
        }
    }

    /// Refuses a body (of [`Body::to_come`] bytes) that the bucket's quota does not admit before it
    /// is read, as the commit would afterwards; `part` is where it goes in an upload.
    pub(super) async fn quota_admits(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        part: Option<(UploadId, u32)>,
        to_come: Option<u64>,
    ) -> Result<(), EngineError> {
        let Some(size) = to_come.filter(|_| bucket.quota.is_some()) else { return Ok(()) };
        Ok(self.store.bucket_admits(bucket.id, key.clone(), part, size).await?)
    }

    /// The choice of targets for new blobs: as many as are wished, at least `min_replicas` that last.
    fn chooser(
        &self,
        fleet: &Fleet,
        placement: &Placement,
        stems: Vec<String>,
        avoid: Vec<BackendId>,
    ) -> Choose {
        let same_device = self.settings.load().same_device;
        let fleet = fleet.clone();
        let placement = placement.clone();
        let mut stems = VecDeque::from(stems);
        Box::new(move |ledger, size, holders| {
            let stem = stems.pop_front()?;
            let count = placement.replicas as usize;
            let (stem, placement, avoid, holders) = (&stem, &placement, &avoid, &holders.counting);
            let wish = Wish { size, count, holders, avoid, stem, placement, same_device };
            let targets = choose_targets(&fleet, ledger, wish);
            let lasting = |t: &&Target| fleet.get(t.backend).is_some_and(|b| b.is_durable());
            let enough = targets.iter().filter(lasting).count() >= placement.min_replicas as usize;
            enough.then_some(targets)
        })
    }

    /// The choice of one further target for a blob, on a backend that lasts and is not one where
    /// it was tried in vain. Intents on those do not count as places that hold the blob.
    pub(super) fn copy_chooser(
        &self,
        fleet: &Fleet,
        placement: &Placement,
        stem: String,
        failed_on: Vec<BackendId>,
    ) -> Choose {
        let same_device = self.settings.load().same_device;
        let fleet = fleet.clone();
        let placement = placement.clone();
        Box::new(move |ledger, size, holders| {
            let is_there = |id: &&BackendId| !failed_on.contains(id);
            let counting: Vec<_> = holders.counting.iter().filter(is_there).copied().collect();
            let avoid = [failed_on.as_slice(), &holders.living].concat();
            let (holders, avoid) = (&counting, &avoid);
            let (stem, placement) = (&stem, &placement);
            let wish = Wish { size, count: 1, holders, avoid, stem, placement, same_device };
            let mut targets = choose_targets(&fleet, ledger, wish);
            targets.retain(|t| fleet.get(t.backend).is_some_and(|b| b.is_durable()));
            (!targets.is_empty()).then_some(targets)
        })
    }

    /// The choice of the one backend that a replica shall move to, if it may take it.
    pub(super) fn move_chooser(
        &self,
        fleet: &Fleet,
        placement: &Placement,
        stem: String,
        between: Between,
    ) -> Choose {
        let same_device = self.settings.load().same_device;
        let fleet = fleet.clone();
        let placement = placement.clone();
        Box::new(move |ledger, size, holders| {
            let others = fleet.all().iter().map(|b| b.id()).filter(|id| *id != between.to);
            let avoid: Vec<_> = others.chain(holders.living.iter().copied()).collect();
            let stays = |id: &&BackendId| **id != between.from;
            let counting: Vec<_> = holders.counting.iter().filter(stays).copied().collect();
            let (holders, avoid) = (&counting, &avoid);
            let (stem, placement) = (&stem, &placement);
            let wish = Wish { size, count: 1, holders, avoid, stem, placement, same_device };
            let targets = choose_targets(&fleet, ledger, wish);
            (!targets.is_empty()).then_some(targets)
        })
    }

    /// After a commit that did not succeed: gives up what the store did not settle itself.
    ///
    /// A refused commit condemned its intents in its own transaction. After any other failure it
    /// is the store that knows whether the blobs were taken: giving them up touches only blobs
    /// that nothing refers to, so it is right whatever the outcome was.
    pub(super) fn after_failed_commit(
        self: &Arc<Self>,
        err: &StoreError,
        blobs: Vec<FinishedBlob>,
        late: Late,
    ) {
        let is_refused = err.is_refusal();
        let settling = self.settling.clone();
        tokio::spawn(async move {
            let ended = late.stop().await;
            if is_refused {
                return;
            }
            let blobs = blobs.into_iter().map(|b| (b.blob, b.failed)).collect();
            settling.settle(Due::Blobs(blobs)).await;
            // Should the commit have been made, the late legs' intents are still there.
            for due in ended {
                settling.settle(due).await;
            }
        });
    }
}

/// A backend as the decision sees it, for a blob of `size` bytes; `None` when the ledger does not
/// have it.
pub(super) fn candidate(backend: &Backend, ledger: &[LedgerRow], size: u64) -> Option<Candidate> {
    let row = ledger.iter().find(|row| row.backend == backend.id())?;
    let taken = row.used + row.reserved + row.orphan;
    let by_quota = row.quota.map_or(u64::MAX, |quota| quota.saturating_sub(taken));
    // Reserved bytes are counted as not yet on the disk: some are, so this errs low.
    let on_disk = backend.room().map_or(u64::MAX, |r| r.saturating_sub(row.reserved));
    let fitness = backend.fitness(Operation::Write, size);
    Some(Candidate {
        backend: backend.id(),
        writable: row.in_use && fitness.is_fit(),
        doubtful: fitness == Fitness::Doubtful,
        durable: backend.is_durable(),
        room: by_quota.min(on_disk),
        used_share: row.quota.map_or(0.0, |quota| taken as f64 / quota.max(1) as f64),
        blob_max: backend.settings().blob_max,
        device: backend.device(),
        labels: backend.settings().labels.clone(),
    })
}

/// The two ends of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) from: BackendId,
    pub(super) to: BackendId,
}

/// One choice that is asked for.
struct Wish<'a> {
    size: u64,
    count: usize,
    holders: &'a [BackendId],
    avoid: &'a [BackendId],
    stem: &'a str,
    placement: &'a Placement,
    same_device: bool,
}

/// The fleet and the ledger as the decision sees them, and the decision.
fn choose_targets(fleet: &Fleet, ledger: &[LedgerRow], wish: Wish<'_>) -> Vec<Target> {
    let mut candidates: Vec<Candidate> =
        fleet.all().iter().filter_map(|backend| candidate(backend, ledger, wish.size)).collect();
    for candidate in &mut candidates {
        candidate.writable &= !wish.avoid.contains(&candidate.backend);
    }
    let rules = Rules {
        routing: wish.placement.routing,
        require_distinct: wish.placement.require_distinct.clone(),
        same_device: wish.same_device,
    };
    placement::choose(wish.size, wish.count, wish.holders, &candidates, &rules)
        .into_iter()
        .filter_map(|id| {
            let backend = fleet.get(id)?;
            let readable = backend.settings().names == Names::Readable
                && path::fits(wish.stem, &backend.path_limits());
            let form = if readable { PathForm::Readable } else { PathForm::Opaque };
            Some(Target { backend: id, form })
        })
        .collect()
}

/// Why there are too few targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// Too few backends can be reached.
    Reach,
    /// Enough can, and limits forbid to write to some of them.
    Limits,
    Room,
}

pub(super) fn hindrance(fleet: &Fleet, placement: &Placement, size: u64) -> Hindrance {
    let durable = fleet.all().iter().filter(|backend| backend.is_durable());
    let fitness: Vec<_> = durable.map(|b| b.fitness(Operation::Write, size)).collect();
    let is_enough = |count: usize| count >= placement.min_replicas as usize;
    let reachable = fitness.iter().filter(|fitness| fitness.is_reachable());
    let allowed = reachable.clone().filter(|fitness| **fitness != Fitness::Spent);
    if !is_enough(reachable.count()) {
        Hindrance::Reach
    } else if !is_enough(allowed.count()) {
        Hindrance::Limits
    } else {
        Hindrance::Room
    }
}

/// The largest blob that `min_replicas` of the backends take, up to `most`.
fn blob_max(fleet: &Fleet, placement: &Placement, most: u64) -> u64 {
    let is_counted = |b: &&Arc<Backend>| b.is_durable() && b.fitness(Operation::Write, 0).is_fit();
    let counting = fleet.all().iter().filter(is_counted);
    let limits = counting.map(|backend| backend.settings().blob_max).collect();
    taken_by(placement.min_replicas as usize, limits, most)
}

fn stems(requests: &[BlobRequest]) -> Vec<String> {
    requests.iter().map(|request| request.stem.clone()).collect()
}

/// The most that so many of those with these limits take; `most` where there are fewer.
fn taken_by(count: usize, mut limits: Vec<u64>, most: u64) -> u64 {
    limits.sort_unstable_by(|a, b| b.cmp(a));
    limits.get(count.saturating_sub(1)).map_or(most, |limit| most.min(*limit))
}

/// Blobs of these sizes, with the stems of their paths.
fn requests(bucket: &Bucket, key: &ObjectKey, part: u32, sizes: &[u64]) -> Vec<BlobRequest> {
    let pieces = sizes.iter().zip(0..);
    pieces
        .map(|(&size, piece)| BlobRequest {
            size,
            stem: path::stem(&bucket.name, key, part, piece),
        })
        .collect()
}

/// Sizes of the blobs of a body: full ones, and the rest.
fn split(size: u64, blob_max: u64) -> Vec<u64> {
    let full = (size / blob_max) as usize;
    let mut sizes = vec![blob_max; full];
    if !size.is_multiple_of(blob_max) {
        sizes.push(size % blob_max);
    }
    sizes
}

/// What to compute: the MD5 that is the ETag, what the client sent, and CRC64NVME when it sent
/// and asked for none, as S3 does.
fn wanted(expected: &Expected) -> Wanted {
    let mut algorithms = expected.algorithms.clone();
    algorithms.extend(expected.checksums.iter().map(Checksum::algorithm));
    if algorithms.is_empty() {
        algorithms.push(ChecksumAlgorithm::Crc64Nvme);
    }
    algorithms.sort();
    algorithms.dedup();
    Wanted { md5: true, sha256: expected.sha256.is_some(), algorithms }
}

/// The body, whose size is known to be small.
async fn read_whole(body: &mut Body) -> Result<Bytes, EngineError> {
    let mut whole: Option<Bytes> = None;
    let mut grown = BytesMut::new();
    while let Some(frame) = body.stream.next().await {
        let frame = frame?;
        let have = grown.len() + whole.as_ref().map_or(0, Bytes::len);
        if have as u64 + frame.len() as u64 > body.size {
            return Err(BodyError::TooLong.into());
        }
        match whole.take() {
            None if grown.is_empty() => whole = Some(frame),
            first => {
                grown.extend_from_slice(&first.unwrap_or_default());
                grown.extend_from_slice(&frame);
            }
        }
    }
    let bytes = whole.unwrap_or_else(|| grown.freeze());
    if (bytes.len() as u64) < body.size {
        return Err(BodyError::TooShort.into());
    }
    Ok(bytes)
}

/// The checksums that came after the body.
fn read_trailer(body: &mut Body) -> Result<Vec<Checksum>, EngineError> {
    match body.trailer.take() {
        Some(trailer) => Ok(trailer()?),
        None => Ok(Vec::new()),
    }
}

/// Whether the body is the one that the client meant.
fn check(expected: &Expected, trailing: &[Checksum], hash: &BodyHash) -> Result<(), EngineError> {
    if expected.sha256.is_some() && expected.sha256 != hash.sha256 {
        return Err(BodyError::Sha256Mismatch.into());
    }
    if expected.md5.is_some() && expected.md5 != hash.md5 {
        return Err(EngineError::BadDigest("Content-MD5"));
    }
    for sent in expected.checksums.iter().chain(trailing) {
        if !hash.checksums.contains(sent) {
            return Err(EngineError::BadDigest(sent.algorithm().name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[test]
    fn a_body_is_split_into_full_blobs_and_a_rest() {
        assert_eq!(split(10, 4), [4, 4, 2]);
        assert_eq!(split(8, 4), [4, 4]);
        assert_eq!(split(3, 4), [3]);
    }

    #[test]
    fn a_blob_is_as_large_as_enough_backends_take() {
        assert_eq!(taken_by(1, vec![16, 1000], 256), 256);
        assert_eq!(taken_by(2, vec![16, 1000], 256), 16);
        assert_eq!(taken_by(1, vec![16], 256), 16);
        assert_eq!(taken_by(3, vec![16, 1000], 256), 256);
        assert_eq!(taken_by(2, vec![16, 100, 1000], 256), 100);
    }

    async fn whole(size: u64, frames: &[&'static str]) -> Result<Bytes, EngineError> {
        let frames: Vec<_> =
            frames.iter().map(|frame| Ok(Bytes::from_static(frame.as_bytes()))).collect();
        let stream = Box::pin(stream::iter(frames));
        let expected = Expected::default();
        let mut body = Body { size, stream, expected, trailer: None, draws: true, waits: false };
        read_whole(&mut body).await
    }

    #[tokio::test]
    async fn a_short_body_has_exactly_its_announced_length() {
        assert_eq!(whole(6, &["abc", "d", "ef"]).await.unwrap(), "abcdef");
        assert_eq!(whole(3, &["abc"]).await.unwrap(), "abc");
        assert_eq!(whole(0, &[]).await.unwrap(), "");
        let short = whole(7, &["abc", "def"]).await;
        assert!(matches!(short, Err(EngineError::Body(BodyError::TooShort))));
        let long = whole(5, &["abc", "def"]).await;
        assert!(matches!(long, Err(EngineError::Body(BodyError::TooLong))));
    }
}
