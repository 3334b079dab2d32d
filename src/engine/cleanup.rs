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
//! lies on a backend that answers. So each backend has its own batch and its own turn within a pass,
//! a request that hangs is given up after a while, and after the first such failure that backend is
//! left alone for a while: of one request only one path is counted as failed, for the attempts of
//! the others are not to run out while the backend is down. A pass ends with its slowest turn. An
//! absent backend has not failed, nor has one that is left alone by its breaker or is not in the
//! configuration: their paths wait, however long, until they are back.
//!
//! # Why a rest is not written down
//!
//! A million paths may wait for a disk that is not mounted. That it rests is one fact, kept in
//! memory ([`CleanupCursor`]), and none of their rows is touched for it. After a restart it is
//! learned again by asking once.

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
/// How long a backend is left alone that failed or is left alone by its breaker, and one that is
/// absent or not in the configuration.
const REST: Duration = Duration::from_secs(60);
const REST_ABSENT: Duration = Duration::from_secs(600);

/// Which backends are left alone for now.
#[derive(Debug, Default)]
pub struct CleanupCursor {
    /// Until when.
    rests: BTreeMap<BackendId, Timestamp>,
    /// The fleet's change since which they rest: the next one may have brought them back.
    change: u64,
}

impl CleanupCursor {
    /// Ends the rests that are over.
    fn turn(&mut self, change: u64, now: Timestamp) {
        let is_same = change == self.change;
        self.rests.retain(|_, until| is_same && *until > now);
        self.change = change;
    }
}

/// How much is deleted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupLimits {
    /// Paths of one pass, for each backend; at least one.
    pub batch: usize,
    /// Requests at once, for each backend.
    pub concurrency: usize,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanupOutcome {
    pub deleted: usize,
    pub failed: usize,
    /// A batch was full, and its backend does not rest: there may be more that is due now.
    pub more: bool,
    /// When the next path is due, which may have to wait for a reader then, or a rest ends.
    pub next: Option<Timestamp>,
}

impl Engine {
    /// Deletes one batch of what is due on each backend that does not rest. May be cut off: what was
    /// not recorded is deleted again.
    pub async fn cleanup_once(
        &self,
        cursor: &mut CleanupCursor,
        limits: CleanupLimits,
    ) -> Result<CleanupOutcome, EngineError> {
        cursor.turn(self.watch.change(), self.clock.now());
        let fleet = self.fleet.load().for_work();
        let known = self.store.backends().await?.into_iter().map(|row| row.id);
        let awake: Vec<BackendId> = known.filter(|id| !cursor.rests.contains_key(id)).collect();
        let turns = awake.iter().map(async |&id| {
            let turn = Turn { id, backend: fleet.get(id), concurrency: limits.concurrency };
            self.cleanup_turn(turn, limits.batch.max(1)).await
        });
        let mut outcome = CleanupOutcome::default();
        for (id, turn) in awake.iter().zip(futures_util::future::join_all(turns).await) {
            let (of_turn, rest) = turn?;
            outcome.deleted += of_turn.deleted;
            outcome.failed += of_turn.failed;
            if let Some(rest) = rest {
                cursor.rests.insert(*id, self.clock.now().plus(rest));
                continue;
            }
            outcome.more |= of_turn.more;
            outcome.next = earlier(outcome.next, self.store.condemned_next(*id).await?);
        }
        outcome.next = earlier(outcome.next, cursor.rests.values().min().copied());
        Ok(outcome)
    }

    /// What one backend's turn did, and for how long that backend is to be left alone.
    async fn cleanup_turn(
        &self,
        turn: Turn<'_>,
        batch: usize,
    ) -> Result<(CleanupOutcome, Option<Duration>), EngineError> {
        let due = self.store.condemned_due(turn.id, batch).await?;
        let more = due.len() >= batch;
        let Swept { deleted, failed, rest } = turn.delete_all(due).await;
        let (deletions, failures) = (deleted.len(), failed.len());
        if !deleted.is_empty() {
            self.store.condemned_deleted(deleted).await?;
        }
        for (id, why) in failed {
            self.store.condemned_failed(id, why).await?;
        }
        let done = CleanupOutcome { deleted: deletions, failed: failures, more, next: None };
        Ok((done, rest))
    }

    /// What waits after a failure is due now, and no backend rests: an operator says that what was
    /// wrong was mended.
    pub async fn cleanup_hasten(&self, cursor: &mut CleanupCursor) -> Result<(), EngineError> {
        cursor.rests.clear();
        let mut after = 0;
        while let Some(last) = self.store.condemned_hasten(after).await? {
            after = last;
        }
        Ok(())
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// What became of one backend's paths.
#[derive(Debug, Default)]
struct Swept {
    deleted: Vec<u64>,
    failed: Vec<(u64, String)>,
    /// How long the backend is to be left alone. Paths that are in neither list wait for it.
    rest: Option<Duration>,
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
            return vec![Err(Trouble::Away(REST_ABSENT)); request.len()];
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
        Fault::Absent => Trouble::Away(REST_ABSENT),
        Fault::Resting | Fault::Spent => Trouble::Away(REST),
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
            if is_down.load(Ordering::Acquire) {
                return (Vec::new(), Vec::new());
            }
            let ids: Vec<u64> = request.iter().map(|condemned| condemned.id).collect();
            let results = delete(request).await;
            let is_shared = |result: &Result<(), Trouble>| {
                matches!(result, Err(Trouble::Backend(_) | Trouble::Away(_)))
            };
            if results.iter().any(is_shared) {
                is_down.store(true, Ordering::Release);
            }
            (ids, results)
        }
    });
    let mut answers = answers.buffer_unordered(abreast.max(1));
    let mut swept = Swept::default();
    while let Some((ids, results)) = answers.next().await {
        swept.note(ids, results);
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
                Err(Trouble::Backend(why)) => {
                    self.rest = self.rest.max(Some(REST));
                    if !std::mem::replace(&mut is_counted, true) {
                        self.failed.push((id, why));
                    }
                }
                Err(Trouble::Away(rest)) => self.rest = self.rest.max(Some(rest)),
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
        assert_eq!(swept.rest, None, "one path's failure is its own");
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
        assert_eq!((swept.failed.len(), swept.rest), (count, Some(REST)));
        for rest in [REST, REST_ABSENT] {
            let swept = sweep(Trouble::Away(rest)).await;
            assert!(swept.failed.is_empty(), "to be away is no failure");
            assert_eq!((swept.deleted.len(), swept.rest), (0, Some(rest)));
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
        assert!(swept.deleted.is_empty());
        assert_eq!(swept.rest, Some(REST));
        // What is said of one path is kept, whatever became of its neighbours.
        let mixed = |request: Vec<Condemned>| async move {
            let answer = |condemned: &Condemned| match condemned.id % 3 {
                0 => Ok(()),
                1 => Err(Trouble::Path(condemned.id.to_string())),
                _ => Err(Trouble::Away(REST)),
            };
            request.iter().map(answer).collect()
        };
        let swept = delete_all(requests(), 1, mixed).await;
        assert_eq!(swept.deleted, (0..30).step_by(3).collect::<Vec<_>>());
        let failed = (1..30).step_by(3).map(|id: u64| (id, id.to_string()));
        assert_eq!(swept.failed, failed.collect::<Vec<_>>());
        assert_eq!(swept.rest, Some(REST), "the second request was not made");
    }
}
