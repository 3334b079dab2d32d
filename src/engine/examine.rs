//! Looking at one stored replica: is it there, is it as long as it should be, are its bytes right.
//!
//! It changes nothing and says only what was seen; what follows from that is decided elsewhere.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use super::hash::Hashers;
use super::hash::Wanted;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fault;
use crate::base::Budget;
use crate::base::limits::SHORT_BODY_MAX;
use crate::base::limits::WINDOW;

/// What was seen of a replica.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It is there, as long as it should be and, where it was read, with the right bytes.
    Whole,
    /// Its backend, whose marker was seen in the same step, does not have it.
    Missing,
    Length(u64),
    /// Other bytes than were written.
    Wrong,
    /// The backend answers and does not give it.
    Unreadable(BackendError),
    /// Nothing is known: the backend is absent, left alone, or a limit is reached.
    Away(BackendError),
}

impl Seen {
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Seen::Whole)
    }
}

/// Looks at the file at `path`, which should have `size` bytes.
pub(crate) async fn look(backend: &Backend, path: &str, size: u64) -> Seen {
    match backend.stat(path).await {
        Ok(stat) if stat.size == size => Seen::Whole,
        Ok(stat) => Seen::Length(stat.size),
        Err(err) => trouble(err),
    }
}

/// What reading a replica whole draws on.
#[derive(Clone, Copy)]
pub(crate) struct Means<'e> {
    pub(crate) hashers: &'e Hashers,
    pub(crate) budget: &'e Budget,
    /// Counts the bytes as they come.
    pub(crate) read: &'e AtomicU64,
}

/// Reads it whole and compares it with `hash`: a short one here, a longer one on the threads that
/// hash, for these threads serve everybody.
pub(crate) async fn read(
    means: Means<'_>,
    backend: &Backend,
    path: &str,
    size: u64,
    hash: &[u8; 32],
) -> Seen {
    // A read gives what it is asked for and says nothing of what comes after.
    match look(backend, path, size).await {
        Seen::Whole => {}
        seen => return seen,
    }
    match hash_of(means, backend, path, size).await {
        Ok(read) if read == *hash => Seen::Whole,
        Ok(_) => Seen::Wrong,
        Err(err) => trouble(err),
    }
}

async fn hash_of(
    means: Means<'_>,
    backend: &Backend,
    path: &str,
    size: u64,
) -> Result<[u8; 32], BackendError> {
    let is_long = size > SHORT_BODY_MAX;
    let _room = match is_long {
        true => Some(means.budget.take(size.min(WINDOW)).await),
        false => None,
    };
    let mut here = blake3::Hasher::new();
    let mut beside = is_long.then(|| means.hashers.begin(Wanted::default()));
    let mut body = backend.read(path, 0..size).await?;
    while let Some(piece) = body.next().await {
        let piece = piece?;
        means.read.fetch_add(piece.len() as u64, Ordering::Relaxed);
        match &mut beside {
            Some(beside) => beside.update(piece).await,
            None => drop(here.update(&piece)),
        }
    }
    Ok(match &mut beside {
        Some(beside) => beside.end_blob().await.hash,
        None => *here.finalize().as_bytes(),
    })
}

/// What a failed call says of the replica.
pub(crate) fn trouble(err: BackendError) -> Seen {
    match err.fault {
        Fault::Missing => Seen::Missing,
        Fault::Damaged => Seen::Wrong,
        Fault::Absent | Fault::Resting | Fault::Spent => Seen::Away(err),
        Fault::Full | Fault::Refused | Fault::Passing => Seen::Unreadable(err),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::faulty::Faults;
    use crate::model::BackendId;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_large_replica_is_hashed_on_the_threads_that_hash_and_a_short_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let backend = Backend::for_tests("disk", BackendId(1), Some(dir.path()), faults).await;
        let (hashers, budget) = (Hashers::new(1), Budget::new(64 << 20));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let blocker = hashers.clone();
        let blocked = tokio::spawn(async move { blocker.run(move || held.recv()).await });
        let size = |size: u64| usize::try_from(size).unwrap();
        for (name, len) in [("short", size(SHORT_BODY_MAX)), ("large", 3 << 20)] {
            std::fs::write(dir.path().join(name), vec![7; len]).unwrap();
        }
        let look = async |name: &str, len: usize, read: &AtomicU64| {
            let means = Means { hashers: &hashers, budget: &budget, read };
            let hash = *blake3::hash(&vec![7; len]).as_bytes();
            super::read(means, &backend, name, len as u64, &hash).await
        };
        let (short, read) = (size(SHORT_BODY_MAX), AtomicU64::new(0));
        let seen = tokio::time::timeout(PATIENCE, look("short", short, &read)).await;
        assert!(seen.expect("it waits for the threads that hash").is_whole());
        let (read, large) = (AtomicU64::new(0), 3 << 20);
        let all_came = async {
            while read.load(Ordering::Relaxed) < large as u64 {
                tokio::task::yield_now().await;
            }
        };
        let looking = look("large", large, &read);
        tokio::pin!(looking);
        tokio::select! {
            biased;
            _ = &mut looking => panic!("it was hashed while no thread that hashes was free"),
            came = tokio::time::timeout(PATIENCE, all_came) => came.expect("it is not read"),
        }
        assert!(budget.free() < 64 << 20, "its window is drawn on the budget");
        hold.send(()).unwrap();
        blocked.await.unwrap().unwrap();
        assert!(looking.await.is_whole());
        let wrong = *blake3::hash(b"something else").as_bytes();
        let means = Means { hashers: &hashers, budget: &budget, read: &read };
        for (name, len) in [("short", short), ("large", large)] {
            let seen = super::read(means, &backend, name, len as u64, &wrong).await;
            assert!(matches!(seen, Seen::Wrong), "{seen:?}");
        }
    }
}
