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
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::EngineError;
use crate::backend::Fault;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::base::chain;
use crate::model::BackendId;
use crate::store::Condemned;

/// Under this name admission counts what it refuses.
const NAME: &str = "cleanup";
/// Paths of one pass.
const BATCH: usize = 50;
/// Deletes at once, for each backend.
const CONCURRENCY: usize = 10;
/// How long the first try of a delete is waited for; each further one twice as long.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// How long paths are put off that were not tried (those on a backend that is left alone, too),
/// and those on an absent backend.
const PUT_OFF: Duration = Duration::from_secs(60);
const PUT_OFF_ABSENT: Duration = Duration::from_secs(600);
/// How often the loop looks again while what is due waits for a reader to end.
const READER_PAUSE: Duration = Duration::from_secs(1);
/// How soon the loop tries again when it was not admitted: deletes make room for those who wait.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// How long the loop rests after the store failed.
const ERROR_PAUSE: Duration = Duration::from_secs(10);
/// The longest sleep in one piece: the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

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

/// What the loop does after a pass.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// Looks again at once.
    Not,
    /// Until it is woken, at the longest this long.
    For(Duration),
    UntilWoken,
}

impl Engine {
    /// Deletes one batch of what is due.
    pub async fn cleanup_once(&self) -> Result<CleanupOutcome, EngineError> {
        let due = self.store.condemned_due(BATCH).await?;
        let more = due.len() >= BATCH;
        let fleet = self.fleet.load().for_work();
        let mut by_backend: BTreeMap<BackendId, Vec<Condemned>> = BTreeMap::new();
        due.into_iter().for_each(|c| by_backend.entry(c.backend).or_default().push(c));
        let turns = by_backend.into_values().map(async |due| {
            let swept = delete_all(due, async |condemned| delete(&fleet, &condemned).await).await;
            self.record(swept).await
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

    /// Cleans up as there is something to do, until `stop`. With nothing to do it sleeps, and
    /// touches neither disks nor backends.
    pub async fn cleanup_loop(self: Arc<Self>, stop: CancellationToken) {
        let wanted = self.store.cleanup_wanted();
        loop {
            let woken = wanted.notified();
            tokio::pin!(woken);
            // From here on a wake is not lost, also one that comes during the pass.
            woken.as_mut().enable();
            let Ok(permit) = self.admission.work(NAME) else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(REFUSED_PAUSE) => continue,
                }
            };
            let pass = tokio::select! {
                () = stop.cancelled() => return,
                pass = self.cleanup_once() => pass,
            };
            drop(permit);
            let rest = match pass {
                Ok(outcome) => rest(&outcome, self.clock.now()),
                Err(err) => {
                    tracing::warn!(error = chain(&err), "cleanup is put off");
                    // Not woken sooner: every write that finds no room would try again.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(ERROR_PAUSE) => continue,
                    }
                }
            };
            match rest {
                Rest::Not => {}
                Rest::For(time) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = woken => {}
                    () = tokio::time::sleep(time) => {}
                },
                Rest::UntilWoken => tokio::select! {
                    () = stop.cancelled() => return,
                    () = woken => {}
                },
            }
        }
    }
}

fn rest(outcome: &CleanupOutcome, now: Timestamp) -> Rest {
    // Every path of a batch is gone or due later, so this comes to an end; and behind those of a
    // backend in trouble wait those of the others.
    if outcome.more {
        return Rest::Not;
    }
    match outcome.next {
        None => Rest::UntilWoken,
        Some(next) => Rest::For(next.since(now).clamp(READER_PAUSE, SLEEP_MAX)),
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

/// Deletes paths of one backend.
async fn delete_all<F>(due: Vec<Condemned>, delete: impl Fn(Condemned) -> F) -> Swept
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
    let mut results = results.buffer_unordered(CONCURRENCY);
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
        let mut swept = delete_all((0..25).map(due).collect(), |condemned| {
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
        assert_eq!(most.load(Ordering::SeqCst), CONCURRENCY);
    }

    #[tokio::test]
    async fn a_backend_in_trouble_is_left_alone_for_a_while() {
        let tried = AtomicUsize::new(0);
        let sweep = async |trouble: Trouble| {
            tried.store(0, Ordering::SeqCst);
            delete_all((0..50).map(due).collect(), |_| {
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

    #[test]
    fn the_loop_rests_as_long_as_it_can() {
        let now = Timestamp(1_000_000_000);
        let after = |more, next| {
            let outcome = CleanupOutcome { deleted: 1, more, next, ..Default::default() };
            rest(&outcome, now)
        };
        assert_eq!(after(true, None), Rest::Not);
        let put_off = CleanupOutcome { failed: BATCH, more: true, ..Default::default() };
        assert_eq!(rest(&put_off, now), Rest::Not, "others may wait behind these");
        assert_eq!(after(false, None), Rest::UntilWoken);
        assert_eq!(after(false, Some(Timestamp(0))), Rest::For(READER_PAUSE));
        let minute = Duration::from_secs(60);
        assert_eq!(after(false, Some(now.plus(minute))), Rest::For(minute));
        assert_eq!(after(false, Some(now.plus(SLEEP_MAX * 2))), Rest::For(SLEEP_MAX));
    }
}
