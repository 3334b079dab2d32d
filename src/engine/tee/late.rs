//! Legs that the commit did not wait for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::leg::Ended;
use crate::engine::Engine;
use crate::engine::settling::Due;
use crate::store::FailedWrite;

/// How long a late leg may still run after its commit.
const LATE_MAX: Duration = Duration::from_secs(600);

/// Legs that were not waited for; their intents are still intents.
pub(in crate::engine) struct Late {
    pub(super) legs: FuturesUnordered<JoinHandle<Ended>>,
    pub(super) stops: Vec<CancellationToken>,
    /// Those that stand still are looked for as long as any runs.
    pub(super) watching: Option<DropGuard>,
}

impl Late {
    pub(in crate::engine) fn none() -> Late {
        Late { legs: FuturesUnordered::new(), stops: Vec::new(), watching: None }
    }

    /// Stops the legs and waits for their ends; what is to be settled of them should their blobs
    /// have been committed all the same.
    pub(in crate::engine) async fn stop(self) -> Vec<Due> {
        self.stops.iter().for_each(CancellationToken::cancel);
        let ended: Vec<_> = self.legs.collect().await;
        // A task ends without its end only with the process.
        ended.into_iter().filter_map(Result::ok).map(due).collect()
    }

    /// After the commit: each leg that finishes becomes a good replica, each that fails is given up.
    pub(in crate::engine) fn join(mut self, engine: &Arc<Engine>) {
        if self.legs.is_empty() {
            return;
        }
        let settling = engine.settling.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + LATE_MAX;
            loop {
                match tokio::time::timeout_at(deadline, self.legs.next()).await {
                    Ok(Some(Ok(ended))) => settling.settle(due(ended)).await,
                    Ok(Some(Err(_))) => (),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
            for due in self.stop().await {
                settling.settle(due).await;
            }
        });
    }
}

fn due(ended: Ended) -> Due {
    let write = ended.intent.write;
    match ended.result {
        Ok(()) => Due::Good(write),
        Err(failure) => Due::Failed(FailedWrite { write, unknown: failure.unknown }),
    }
}
