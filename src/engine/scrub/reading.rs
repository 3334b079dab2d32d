//! Reading replicas whole and comparing them: as fast as the disk or BLAKE3 is, or as slow as wished.
//!
//! # Why small local files go several at a time
//!
//! Such a file is read and hashed in less time than two threads take to hand it over. A job of many
//! does both on one thread of the disk's own. A large one is read there and hashed beside, on the
//! threads that hash, while its next piece is being read.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ScrubProgress;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Whole;
use crate::base::Budget;
use crate::base::limits::GROUP_SIZE;
use crate::base::limits::WINDOW;
use crate::engine::examine;
use crate::engine::examine::Seen;
use crate::engine::hash::BlobHash;
use crate::engine::hash::Hashers;
use crate::engine::hash::Wanted;
use crate::engine::hash::hash_short;
use crate::plan::scrub::Found;
use crate::plan::scrub::rest_after;
use crate::store::ScrubReplica;

/// Files, and bytes, of one job: some hundred microseconds of a disk's thread.
const JOB_FILES: usize = 16;
const JOB_BYTES: u64 = GROUP_SIZE;
/// A file up to this is read in one piece where others can be, too.
const SMALL: u64 = 256 << 10;
/// What a replica is asked for to see whether its backend serves anything.
const WITNESS_BYTES: u64 = 4096;

/// What reading costs, and how much of it may go on at once in a step.
pub(super) struct Means<'e> {
    /// As many as `concurrency`, for all backends together.
    pub(super) reads: Semaphore,
    pub(super) concurrency: usize,
    pub(super) pace: Pace,
    pub(super) hashers: &'e Hashers,
    pub(super) budget: &'e Budget,
    pub(super) progress: &'e ScrubProgress,
}

/// What came of one replica.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) found: Found,
    /// Of what was read, when that was all of it.
    pub(super) hash: Option<BlobHash>,
    pub(super) why: Option<BackendError>,
}

impl Reading {
    fn of(found: Found) -> Reading {
        Reading { found, hash: None, why: None }
    }

    fn whole(replica: &ScrubReplica, hash: BlobHash) -> Reading {
        let is_right = replica.hash.is_none_or(|known| known == hash.hash);
        let found = if is_right { Found::Whole } else { Found::WrongBytes };
        Reading { found, hash: Some(hash), why: None }
    }

    fn failed(err: BackendError) -> Reading {
        Reading::seen(examine::trouble(err))
    }

    fn seen(seen: Seen) -> Reading {
        match seen {
            Seen::Whole => Reading::of(Found::Whole),
            Seen::Missing => Reading::of(Found::Missing),
            Seen::Length(_) => Reading::of(Found::WrongLength),
            Seen::Wrong => Reading::of(Found::WrongBytes),
            Seen::Unreadable(err) => {
                let found = Found::Unreadable { serves_others: false };
                Reading { found, hash: None, why: Some(err) }
            }
            Seen::Away(err) => Reading { found: Found::NotAsked, hash: None, why: Some(err) },
        }
    }

    /// The backend gave bytes.
    pub(super) fn was_served(&self) -> bool {
        self.hash.is_some()
    }
}

/// Reads replicas of one backend, each whole; what came of them, in their order. Behind one that
/// the backend cannot be asked for now, no further one is begun.
pub(super) async fn read_all(
    means: &Means<'_>,
    backend: &Backend,
    replicas: &[ScrubReplica],
) -> Vec<Reading> {
    let is_over = AtomicBool::new(false);
    let read = stream::iter(jobs(replicas, backend.reads_files()))
        .map(|job| {
            let is_over = &is_over;
            async move {
                let some = &replicas[job];
                let _turn = means.reads.acquire().await;
                if is_over.load(Ordering::Relaxed) {
                    return some.iter().map(|_| Reading::of(Found::NotAsked)).collect();
                }
                let readings = read_job(means, backend, some).await;
                let is_away = readings.iter().any(|reading| reading.found == Found::NotAsked);
                is_over.fetch_or(is_away, Ordering::Relaxed);
                readings
            }
        })
        .buffered(means.concurrency);
    read.collect::<Vec<Vec<Reading>>>().await.into_iter().flatten().collect()
}

/// Whether the backend gives bytes of one of these.
pub(super) async fn serves_one_of(backend: &Backend, replicas: &[ScrubReplica]) -> bool {
    for replica in replicas {
        let range = 0..replica.size.min(WITNESS_BYTES);
        if backend.read(&replica.replica.path, range).await.is_ok() {
            return true;
        }
    }
    false
}

/// Neighbours that are read together.
fn jobs(replicas: &[ScrubReplica], together: bool) -> Vec<Range<usize>> {
    let mut jobs: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, replica) in replicas.iter().enumerate() {
        let joins = jobs.last().is_some_and(|job| {
            together
                && job.len() < JOB_FILES
                && bytes <= JOB_BYTES
                && replica.size <= SMALL
                && replicas[job.start].size <= SMALL
        });
        match jobs.last_mut().filter(|_| joins) {
            Some(job) => job.end = at + 1,
            None => {
                jobs.push(at..at + 1);
                bytes = 0;
            }
        }
        bytes += replica.size;
    }
    jobs
}

async fn read_job(means: &Means<'_>, backend: &Backend, replicas: &[ScrubReplica]) -> Vec<Reading> {
    if replicas.iter().all(|replica| replica.size <= SMALL)
        && let Some(readings) = read_small(means, backend, replicas).await
    {
        return readings;
    }
    let mut readings: Vec<Reading> = Vec::with_capacity(replicas.len());
    for replica in replicas {
        let is_away = readings.last().is_some_and(|reading| reading.found == Found::NotAsked);
        readings.push(match is_away {
            true => Reading::of(Found::NotAsked),
            false => read_one(means, backend, replica).await,
        });
    }
    readings
}

async fn read_small(
    means: &Means<'_>,
    backend: &Backend,
    replicas: &[ScrubReplica],
) -> Option<Vec<Reading>> {
    let files = replicas.iter().map(|replica| (replica.replica.path.clone(), replica.size));
    let hashed = |whole: Whole| match whole {
        Whole::Bytes(bytes) => Some(hash_short(&bytes, &Wanted::default()).0),
        Whole::Length(_) => None,
    };
    let read = backend.read_files(files.collect(), hashed).await?;
    let mut bytes = 0;
    let readings = replicas.iter().zip(read).map(|(replica, read)| match read {
        Ok(Some(hash)) => {
            bytes += replica.size;
            Reading::whole(replica, hash)
        }
        Ok(None) => Reading::of(Found::WrongLength),
        Err(err) => Reading::failed(err),
    });
    let readings = readings.collect();
    means.came(bytes).await;
    Some(readings)
}

async fn read_one(means: &Means<'_>, backend: &Backend, replica: &ScrubReplica) -> Reading {
    let (path, size) = (&replica.replica.path, replica.size);
    // A read gives what it is asked for and says nothing of what comes after.
    match examine::look(backend, path, size).await {
        Seen::Whole => {}
        seen => return Reading::seen(seen),
    }
    let _room = means.budget.take(size.min(WINDOW)).await;
    let mut hasher = means.hashers.begin(Wanted::default());
    let mut body = match backend.read(path, 0..size).await {
        Ok(body) => body,
        Err(err) => return Reading::failed(err),
    };
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                means.came(piece.len() as u64).await;
                hasher.update(piece).await;
            }
            Err(err) => return Reading::failed(err),
        }
    }
    Reading::whole(replica, hasher.end_blob().await)
}

impl Means<'_> {
    async fn came(&self, bytes: u64) {
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pace.take(bytes).await;
    }
}

/// Lets no more than so many bytes a second pass, all reads together.
pub(super) struct Pace {
    rate: u64,
    /// When the bytes that passed have had their time. Nothing is saved up while nobody reads.
    free: Mutex<Instant>,
}

impl Pace {
    /// A rate of 0 is none.
    pub(super) fn new(rate: u64) -> Pace {
        Pace { rate, free: Mutex::new(Instant::now()) }
    }

    async fn take(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let free = {
            let mut free = self.free.lock().await;
            *free = (*free).max(Instant::now()) + rest_after(bytes, Duration::ZERO, self.rate);
            *free
        };
        tokio::time::sleep_until(free).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackendId;
    use crate::model::BlobId;
    use crate::model::ReplicaState;
    use crate::model::WriteId;
    use crate::store::Replica;

    fn replica(size: u64) -> ScrubReplica {
        ScrubReplica {
            replica: Replica {
                write: WriteId(1),
                backend: BackendId(1),
                path: "a".into(),
                state: ReplicaState::Good,
                is_borrowed: false,
            },
            blob: BlobId(1),
            size,
            hash: None,
            checked: None,
        }
    }

    #[test]
    fn only_small_neighbours_are_read_together_and_each_is_read_once() {
        let sizes = [1, 2, SMALL + 1, 3, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, 9];
        let replicas: Vec<ScrubReplica> = sizes.iter().map(|&size| replica(size)).collect();
        assert_eq!(jobs(&replicas, true), [0..2, 2..3, 3..8, 8..11]);
        let many = vec![replica(5); 2 * JOB_FILES + 1];
        let joined = jobs(&many, true);
        assert_eq!(joined.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), [16, 16, 1]);
        let single = jobs(&many, false);
        assert!(single.iter().all(|job| job.len() == 1) && single.len() == many.len());
    }

    #[tokio::test(start_paused = true)]
    async fn all_reads_together_keep_the_rate_and_save_nothing_up() {
        let (pace, begun) = (Pace::new(1000), Instant::now());
        tokio::join!(pace.take(2000), pace.take(1000));
        assert_eq!(begun.elapsed().as_secs(), 3);
        tokio::time::advance(Duration::from_secs(100)).await;
        let begun = Instant::now();
        pace.take(5000).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        Pace::new(0).take(u64::MAX).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
