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
//! lies on a backend that answers. So each backend has its own turn within a pass, a delete that
//! hangs is given up after a while, and after the first such failure the rest of that backend's
//! batch is put off. A pass ends with its slowest turn. An absent backend has not failed, nor has one
//! that is left alone by its breaker: their paths wait, however long, until they are back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use super::Engine;
use super::EngineError;
use crate::backend::Fault;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::base::chain;
use crate::model::BackendId;
use crate::store::Condemned;

/// How long the first try of a delete is waited for; each further one twice as long.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// How long paths are put off that were not tried (those on a backend that is left alone, too),
/// and those on an absent backend.
const PUT_OFF: Duration = Duration::from_secs(60);
const PUT_OFF_ABSENT: Duration = Duration::from_secs(600);
/// How much one pass does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupLimits {
    /// Paths.
    pub batch: usize,
    /// Deletes at once, for each backend.
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
        let due = self.store.condemned_due(limits.batch).await?;
        let more = due.len() >= limits.batch;
        let fleet = self.fleet.load().for_work();
        let mut by_backend: BTreeMap<BackendId, Vec<Condemned>> = BTreeMap::new();
        due.into_iter().for_each(|c| by_backend.entry(c.backend).or_default().push(c));
        let turns = by_backend.into_values().map(async |due| {
            let delete = async |condemned| delete(&fleet, &condemned).await;
            self.record(delete_all(due, limits.concurrency, delete).await).await
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

/// Deletes paths of one backend, `most` at a time.
async fn delete_all<F>(due: Vec<Condemned>, most: usize, delete: impl Fn(Condemned) -> F) -> Swept
where
    F: Future<Output = Result<(), Trouble>>,
{
    let is_down = AtomicBool::new(false);
    let results = stream::iter(due).map(|condemned| {
        let (id, is_down, delete) = (condemned.id, &is_down, &delete);
        async move {
            if is_down.load(Ordering::Acquire) {
                return (id, None);
            }
            let result = delete(condemned).await;
            if matches!(result, Err(Trouble::Backend(_) | Trouble::Away(_))) {
                is_down.store(true, Ordering::Release);
            }
            (id, Some(result))
        }
    });
    let mut results = results.buffer_unordered(most);
    let mut swept = Swept { pause: PUT_OFF, ..Swept::default() };
    while let Some((id, result)) = results.next().await {
        match result {
            Some(Ok(())) => swept.deleted.push(id),
            Some(Err(Trouble::Path(why) | Trouble::Backend(why))) => swept.failed.push((id, why)),
            Some(Err(Trouble::Away(pause))) => {
                swept.put_off.push(id);
                swept.pause = pause;
            }
            None => swept.put_off.push(id),
        }
    }
    swept
}

async fn delete(fleet: &Fleet, condemned: &Condemned) -> Result<(), Trouble> {
    let Some(backend) = fleet.get(condemned.backend) else {
        let why = format!("backend {} is not in the configuration", condemned.backend);
        return Err(Trouble::Backend(why));
    };
    // Also one that is absent, which looks for its marker then: where a limit is reached nothing
    // else does, and a delete is never refused.
    let since = Instant::now();
    let patience = PATIENCE.saturating_mul(1 << condemned.attempts.min(8)).min(PATIENCE_MAX);
    let trouble = match tokio::time::timeout(patience, backend.delete(&condemned.path)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(err)) => match err.fault {
            Fault::Absent => Trouble::Away(PUT_OFF_ABSENT),
            Fault::Resting | Fault::Spent => Trouble::Away(PUT_OFF),
            Fault::Passing => Trouble::Backend(chain(&err)),
            _ => Trouble::Path(chain(&err)),
        },
        Err(_) if !backend.is_present() => Trouble::Away(PUT_OFF_ABSENT),
        Err(_) => {
            backend.overdue(since);
            Trouble::Backend(format!("no answer within {patience:?}"))
        }
    };
    let (backend, path) = (backend.name(), condemned.path.as_str());
    tracing::debug!(%backend, path, ?trouble, "a condemned path is not deleted yet");
    Err(trouble)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::model::CondemnReason;

    const MOST: usize = 10;

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

    #[tokio::test]
    async fn a_batch_is_deleted_side_by_side_and_failures_keep_their_reason() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut swept = delete_all((0..25).map(due).collect(), MOST, |condemned| {
            let (running, most) = (&running, &most);
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                if condemned.id == 7 { Err(Trouble::Path("refused".to_owned())) } else { Ok(()) }
            }
        })
        .await;
        swept.deleted.sort_unstable();
        assert_eq!(swept.deleted, (0..25).filter(|&id| id != 7).collect::<Vec<_>>());
        assert_eq!(swept.failed, [(7, "refused".to_owned())]);
        assert!(swept.put_off.is_empty());
        assert_eq!(most.load(Ordering::SeqCst), MOST);
    }

    #[tokio::test]
    async fn a_backend_in_trouble_is_left_alone_for_a_while() {
        let tried = AtomicUsize::new(0);
        let sweep = async |trouble: Trouble| {
            tried.store(0, Ordering::SeqCst);
            delete_all((0..50).map(due).collect(), MOST, |_| {
                tried.fetch_add(1, Ordering::SeqCst);
                let trouble = trouble.clone();
                async move {
                    tokio::task::yield_now().await;
                    Err(trouble)
                }
            })
            .await
        };
        let swept = sweep(Trouble::Backend("it hangs".to_owned())).await;
        let count = tried.load(Ordering::SeqCst);
        assert!(count <= MOST, "{count} were tried");
        assert_eq!((swept.failed.len(), swept.put_off.len()), (count, 50 - count));
        assert_eq!(swept.pause, PUT_OFF);
        for pause in [PUT_OFF, PUT_OFF_ABSENT] {
            let swept = sweep(Trouble::Away(pause)).await;
            let counts = (swept.failed.len(), swept.put_off.len());
            assert_eq!(counts, (0, 50), "to be away is no failure");
            assert_eq!(swept.pause, pause);
        }
    }
}
