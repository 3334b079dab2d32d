//! Deleting the bytes of condemned paths.
//!
//! The store says what is due: condemned before the oldest reader that is still at work, and
//! not waiting after a failure. Deleting is idempotent, so two passes at once do no harm.
//!
//! # Invariant
//!
//! A path is forgotten only after its backend said that it is deleted; anything else is tried
//! again later, its bytes counted until then.
//!
//! # Why backends do not wait for each other
//!
//! A write that finds no room waits two seconds for what is deleted here, and what it waits for
//! lies on a backend that answers. So each backend has its own turn within a pass, a request that
//! hangs is given up after a while, and after the first such failure the rest of that backend's
//! batch is put off, also what was in the same request: its attempts are not to run out while the
//! backend is down. A pass ends with its slowest turn. An absent backend has not failed, nor has one
//! that is left alone by its breaker: their paths wait, however long, until they are back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fault;
use crate::base::Timestamp;
use crate::base::chain;
use crate::base::doubling;
use crate::model::BackendId;
use crate::store::Condemned;

/// How long the first try of a request is waited for; each further one twice as long.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// How long paths are put off that were not tried (those on a backend that is left alone, too),
/// and those on an absent backend.
const PUT_OFF: Duration = Duration::from_secs(60);
const PUT_OFF_ABSENT: Duration = Duration::from_secs(600);
/// How much is deleted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupLimits {
    /// Paths of one pass, at least one.
    pub batch: usize,
    /// Requests at once, for each backend.
    pub concurrency: usize,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanupOutcome {
    pub deleted: usize,
    pub failed: usize,
    /// The batch was full: there may be more that is due now.
    pub more: bool,
    /// When the next path is due; it may have to wait for a reader then.
    pub next: Option<Timestamp>,
}

impl Engine {
    /// Deletes one batch of what is due. May be cut off: what was not recorded is deleted again.
    pub async fn cleanup_once(&self, limits: CleanupLimits) -> Result<CleanupOutcome, EngineError> {
        let batch = limits.batch.max(1);
        let due = self.store.condemned_due(batch).await?;
        let more = due.len() >= batch;
        let fleet = self.fleet.load().for_work();
        let mut by_backend: BTreeMap<BackendId, Vec<Condemned>> = BTreeMap::new();
        due.into_iter().for_each(|c| by_backend.entry(c.backend).or_default().push(c));
        let turns = by_backend.into_iter().map(async |(id, due)| {
            let turn = Turn { id, backend: fleet.get(id), concurrency: limits.concurrency };
            self.record(turn.delete_all(due).await).await
        });
        let mut outcome = CleanupOutcome { more, ..CleanupOutcome::default() };
        for turn in futures_util::future::join_all(turns).await {
            let (deleted, failed) = turn?;
            outcome.deleted += deleted;
            outcome.failed += failed;
        }
        Ok(CleanupOutcome { next: self.store.condemned_next().await?, ..outcome })
    }

    /// How many were deleted, and how many not.
    async fn record(&self, swept: Swept) -> Result<(usize, usize), EngineError> {
        let Swept { deleted, failed, put_off, pause } = swept;
        let counts = (deleted.len(), failed.len() + put_off.len());
        if !deleted.is_empty() {
            self.store.condemned_deleted(deleted).await?;
        }
        for (id, why) in failed {
            self.store.condemned_failed(id, why).await?;
        }
        if !put_off.is_empty() {
            self.store.condemned_put_off(put_off, pause).await?;
        }
        Ok(counts)
    }

    /// What waits after a failure is due now: an operator says that what was wrong was mended.
    pub async fn cleanup_hasten(&self) -> Result<(), EngineError> {
        while self.store.condemned_hasten().await? {}
        Ok(())
    }
}

/// What became of one backend's paths.
#[derive(Debug, Default)]
struct Swept {
    deleted: Vec<u64>,
    failed: Vec<(u64, String)>,
    /// Not tried, or not to be counted as tried.
    put_off: Vec<u64>,
    pause: Duration,
}

/// Why a path is not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// It is this path's own.
    Path(String),
    /// Others on this backend would fare alike.
    Backend(String),
    /// It was not asked, and is not for this long.
    Away(Duration),
}

/// The deletions on one backend.
struct Turn<'f> {
    id: BackendId,
    /// `None`: it is not in the configuration.
    backend: Option<&'f Arc<Backend>>,
    concurrency: usize,
}

impl Turn<'_> {
    async fn delete_all(&self, due: Vec<Condemned>) -> Swept {
        let most = self.backend.map_or(1, |backend| backend.deletes_at_once());
        // What many share goes alone: it may come to as many deletions as there are paths.
        let abreast = if most > 1 { 1 } else { self.concurrency };
        let requests = due.chunks(most).map(<[Condemned]>::to_vec).collect();
        delete_all(requests, abreast, async |request| self.delete(&request).await).await
    }

    /// What becomes of the paths of one request, in their order.
    async fn delete(&self, request: &[Condemned]) -> Vec<Result<(), Trouble>> {
        let Some(backend) = self.backend else {
            let why = format!("backend {} is not in the configuration", self.id);
            return vec![Err(Trouble::Backend(why)); request.len()];
        };
        // Also one that is absent, which looks for its marker then: where a limit is reached nothing
        // else does, and a delete is never refused.
        let attempts = request.iter().map(|condemned| condemned.attempts).max().unwrap_or(0);
        let patience = doubling(PATIENCE, attempts, PATIENCE_MAX);
        let paths: Vec<String> = request.iter().map(|condemned| condemned.path.clone()).collect();
        let answers = backend.delete_many(&paths, self.concurrency, patience).await;
        answers.into_iter().map(|answer| answer.map_err(|err| trouble(&err))).collect()
    }
}

fn trouble(err: &BackendError) -> Trouble {
    let trouble = match err.fault {
        Fault::Absent => Trouble::Away(PUT_OFF_ABSENT),
        Fault::Resting | Fault::Spent => Trouble::Away(PUT_OFF),
        Fault::Passing => Trouble::Backend(chain(err)),
        _ => Trouble::Path(chain(err)),
    };
    let (backend, path) = (&err.backend, err.path.as_str());
    tracing::debug!(%backend, path, ?trouble, "a condemned path is not deleted yet");
    trouble
}

/// Makes the requests of one backend, `abreast` at a time.
async fn delete_all<F>(
    requests: Vec<Vec<Condemned>>,
    abreast: usize,
    delete: impl Fn(Vec<Condemned>) -> F,
) -> Swept
where
    F: Future<Output = Vec<Result<(), Trouble>>>,
{
    let is_down = AtomicBool::new(false);
    let answers = stream::iter(requests).map(|request| {
        let (is_down, delete) = (&is_down, &delete);
        async move {
            let ids: Vec<u64> = request.iter().map(|condemned| condemned.id).collect();
            if is_down.load(Ordering::Acquire) {
                return (ids, None);
            }
            let results = delete(request).await;
            let is_shared = |result: &Result<(), Trouble>| {
                matches!(result, Err(Trouble::Backend(_) | Trouble::Away(_)))
            };
            if results.iter().any(is_shared) {
                is_down.store(true, Ordering::Release);
            }
            (ids, Some(results))
        }
    });
    let mut answers = answers.buffer_unordered(abreast.max(1));
    let mut swept = Swept { pause: PUT_OFF, ..Swept::default() };
    while let Some((ids, results)) = answers.next().await {
        match results {
            Some(results) => swept.note(ids, results),
            None => swept.put_off.extend(ids),
        }
    }
    swept
}

impl Swept {
    /// What became of the paths of one request.
    fn note(&mut self, ids: Vec<u64>, results: Vec<Result<(), Trouble>>) {
        let mut is_counted = false;
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(()) => self.deleted.push(id),
                Err(Trouble::Path(why)) => self.failed.push((id, why)),
                Err(Trouble::Backend(why)) if !is_counted => {
                    is_counted = true;
                    self.failed.push((id, why));
                }
                Err(Trouble::Backend(_)) => self.put_off.push(id),
                Err(Trouble::Away(pause)) => {
                    self.put_off.push(id);
                    self.pause = pause;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::model::CondemnReason;

    fn due(id: u64) -> Condemned {
        Condemned {
            id,
            backend: BackendId(1),
            path: id.to_string(),
            size: 1,
            reason: CondemnReason::Deleted,
            attempts: 0,
        }
    }

    /// At places where each path needs its own request.
    const CONCURRENCY: usize = 10;

    fn one_by_one(count: u64) -> Vec<Vec<Condemned>> {
        (0..count).map(|id| vec![due(id)]).collect()
    }

    #[tokio::test]
    async fn a_batch_is_deleted_side_by_side_and_failures_keep_their_reason() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut swept = delete_all(one_by_one(25), CONCURRENCY, |request| {
            let (running, most) = (&running, &most);
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                let is_refused = request[0].id == 7;
                vec![if is_refused { Err(Trouble::Path("refused".to_owned())) } else { Ok(()) }]
            }
        })
        .await;
        swept.deleted.sort_unstable();
        assert_eq!(swept.deleted, (0..25).filter(|&id| id != 7).collect::<Vec<_>>());
        assert_eq!(swept.failed, [(7, "refused".to_owned())]);
        assert!(swept.put_off.is_empty());
        assert_eq!(most.load(Ordering::SeqCst), CONCURRENCY);
    }

    #[tokio::test]
    async fn a_backend_in_trouble_is_left_alone_for_a_while() {
        let tried = AtomicUsize::new(0);
        let sweep = async |trouble: Trouble| {
            tried.store(0, Ordering::SeqCst);
            delete_all(one_by_one(50), CONCURRENCY, |_| {
                tried.fetch_add(1, Ordering::SeqCst);
                let trouble = trouble.clone();
                async move {
                    tokio::task::yield_now().await;
                    vec![Err(trouble)]
                }
            })
            .await
        };
        let swept = sweep(Trouble::Backend("it hangs".to_owned())).await;
        let count = tried.load(Ordering::SeqCst);
        assert!(count <= CONCURRENCY, "{count} were tried");
        assert_eq!((swept.failed.len(), swept.put_off.len()), (count, 50 - count));
        assert_eq!(swept.pause, PUT_OFF);
        for pause in [PUT_OFF, PUT_OFF_ABSENT] {
            let swept = sweep(Trouble::Away(pause)).await;
            let counts = (swept.failed.len(), swept.put_off.len());
            assert_eq!(counts, (0, 50), "to be away is no failure");
            assert_eq!(swept.pause, pause);
        }
    }

    #[tokio::test]
    async fn of_a_request_that_failed_as_a_whole_one_path_is_counted() {
        let requests = || vec![(0..30).map(due).collect::<Vec<_>>(), (30..60).map(due).collect()];
        let down = |request: Vec<Condemned>| async move {
            vec![Err(Trouble::Backend("it hangs".to_owned())); request.len()]
        };
        let swept = delete_all(requests(), 1, down).await;
        assert_eq!(swept.failed, [(0, "it hangs".to_owned())]);
        assert_eq!(swept.put_off, (1..60).collect::<Vec<_>>());
        // What is said of one path is kept, whatever became of its neighbours.
        let mixed = |request: Vec<Condemned>| async move {
            let answer = |condemned: &Condemned| match condemned.id % 3 {
                0 => Ok(()),
                1 => Err(Trouble::Path(condemned.id.to_string())),
                _ => Err(Trouble::Away(PUT_OFF)),
            };
            request.iter().map(answer).collect()
        };
        let swept = delete_all(requests(), 1, mixed).await;
        assert_eq!(swept.deleted, (0..30).step_by(3).collect::<Vec<_>>());
        let failed = (1..30).step_by(3).map(|id: u64| (id, id.to_string()));
        assert_eq!(swept.failed, failed.collect::<Vec<_>>());
        assert_eq!(swept.put_off.len(), 10 + 30);
    }
}
