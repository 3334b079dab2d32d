//! Deleting the bytes of condemned paths.
//!
//! The store says what is due: condemned before the oldest reader that is still at work, and
//! not waiting after a failure. Deleting is idempotent, so two passes at once do no harm.
//!
//! # Invariant
//!
//! A path is forgotten only after its backend said that it is deleted; anything else is tried
//! again later, its bytes counted until then.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::EngineError;
use crate::backend::BackendError;
use crate::backend::Fleet;
use crate::base::Timestamp;
use crate::base::chain;
use crate::store::Condemned;

/// Paths of one pass.
const BATCH: usize = 50;
/// Deletes at once.
const CONCURRENCY: usize = 10;
/// How often the loop looks again while what is due waits for a reader to end.
const READER_PAUSE: Duration = Duration::from_secs(1);
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
        let fleet = self.fleet.load_full();
        let (deleted, failed) = delete_all(due, |condemned| {
            let fleet = Arc::clone(&fleet);
            async move { delete(&fleet, &condemned).await }
        })
        .await;
        let outcome =
            CleanupOutcome { deleted: deleted.len(), failed: failed.len(), more, next: None };
        if !deleted.is_empty() {
            self.store.condemned_deleted(deleted).await?;
        }
        for (id, why) in failed {
            self.store.condemned_failed(id, why).await?;
        }
        Ok(CleanupOutcome { next: self.store.condemned_next().await?, ..outcome })
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
            let pass = tokio::select! {
                () = stop.cancelled() => return,
                pass = self.cleanup_once() => pass,
            };
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
    if outcome.more && outcome.deleted > 0 {
        return Rest::Not;
    }
    match outcome.next {
        None => Rest::UntilWoken,
        Some(next) => Rest::For(next.since(now).clamp(READER_PAUSE, SLEEP_MAX)),
    }
}

/// The ids of what is deleted, and of what is not, with the reason.
async fn delete_all<F>(
    due: Vec<Condemned>,
    delete: impl Fn(Condemned) -> F,
) -> (Vec<u64>, Vec<(u64, String)>)
where
    F: Future<Output = Result<(), String>>,
{
    let results = stream::iter(due).map(|condemned| {
        let id = condemned.id;
        let result = delete(condemned);
        async move { (id, result.await) }
    });
    let mut results = results.buffer_unordered(CONCURRENCY);
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    while let Some((id, result)) = results.next().await {
        match result {
            Ok(()) => deleted.push(id),
            Err(why) => failed.push((id, why)),
        }
    }
    (deleted, failed)
}

async fn delete(fleet: &Fleet, condemned: &Condemned) -> Result<(), String> {
    let Some(backend) = fleet.get(condemned.backend) else {
        return Err(format!("backend {} is not in the configuration", condemned.backend));
    };
    backend.delete(&condemned.path).await.map_err(|err| {
        let (backend, path) = (backend.name(), condemned.path.as_str());
        let why = in_words(&err);
        tracing::debug!(%backend, path, why, "a condemned path is not deleted yet");
        why
    })
}

/// An error with its causes in one line, for the operator.
fn in_words(err: &BackendError) -> String {
    let mut words = err.to_string();
    let mut cause = std::error::Error::source(err);
    while let Some(err) = cause {
        words.push_str(": ");
        words.push_str(&err.to_string());
        cause = err.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::backend::Fault;
    use crate::model::BackendId;
    use crate::model::CondemnReason;

    #[tokio::test]
    async fn a_batch_is_deleted_side_by_side_and_failures_keep_their_reason() {
        let due = (0..25).map(|id| Condemned {
            id,
            backend: BackendId(1),
            path: id.to_string(),
            size: 1,
            reason: CondemnReason::Deleted,
            attempts: 0,
        });
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (mut deleted, failed) = delete_all(due.collect(), |condemned| {
            let (running, most) = (&running, &most);
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                if condemned.id == 7 { Err("refused".to_owned()) } else { Ok(()) }
            }
        })
        .await;
        deleted.sort_unstable();
        assert_eq!(deleted, (0..25).filter(|&id| id != 7).collect::<Vec<_>>());
        assert_eq!(failed, [(7, "refused".to_owned())]);
        assert_eq!(most.load(Ordering::SeqCst), CONCURRENCY);
    }

    #[test]
    fn the_loop_rests_as_long_as_it_can() {
        let now = Timestamp(1_000_000_000);
        let after = |more, next| {
            let outcome = CleanupOutcome { deleted: 1, more, next, ..Default::default() };
            rest(&outcome, now)
        };
        assert_eq!(after(true, None), Rest::Not);
        let stuck = CleanupOutcome { more: true, next: Some(now), ..Default::default() };
        assert_eq!(rest(&stuck, now), Rest::For(READER_PAUSE));
        assert_eq!(after(false, None), Rest::UntilWoken);
        assert_eq!(after(false, Some(Timestamp(0))), Rest::For(READER_PAUSE));
        let minute = Duration::from_secs(60);
        assert_eq!(after(false, Some(now.plus(minute))), Rest::For(minute));
        assert_eq!(after(false, Some(now.plus(SLEEP_MAX * 2))), Rest::For(SLEEP_MAX));
    }

    #[test]
    fn reasons_name_the_causes() {
        let err = BackendError {
            fault: Fault::Refused,
            backend: "disk1".into(),
            operation: "delete",
            path: "a/b".to_owned(),
            unknown: true,
            cause: Some("permission denied".into()),
        };
        assert_eq!(
            in_words(&err),
            "delete \"a/b\" on backend disk1: it was refused: permission denied"
        );
    }
}
