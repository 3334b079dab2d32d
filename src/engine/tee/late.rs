//! Legs that the commit did not wait for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leg::Ended;
use crate::base::chain;
use crate::engine::Engine;
use crate::store::FailedWrite;
use crate::store::StoreError;

/// How long a late leg may still run after its commit.
const LATE_MAX: Duration = Duration::from_secs(600);

/// Legs that were not waited for; their intents are still intents.
pub(in crate::engine) struct Late {
    pub(super) legs: FuturesUnordered<JoinHandle<Ended>>,
    pub(super) stops: Vec<CancellationToken>,
}

impl Late {
    pub(in crate::engine) fn none() -> Late {
        Late { legs: FuturesUnordered::new(), stops: Vec::new() }
    }

    /// Stops the legs and waits for their ends.
    pub(in crate::engine) async fn stop(self) {
        self.stops.iter().for_each(CancellationToken::cancel);
        let _: Vec<_> = self.legs.collect().await;
    }

    /// After the commit: each leg that finishes becomes a good replica, each that fails is given up.
    pub(in crate::engine) fn join(mut self, engine: &Arc<Engine>) {
        if self.legs.is_empty() {
            return;
        }
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let deadline = Instant::now() + LATE_MAX;
            loop {
                let next = tokio::time::timeout_at(deadline, self.legs.next());
                let ended = match next.await {
                    Ok(Some(Ok(ended))) => ended,
                    Ok(Some(Err(_))) => continue,
                    Ok(None) => return,
                    Err(_) => {
                        self.stops.iter().for_each(CancellationToken::cancel);
                        match self.legs.next().await {
                            Some(Ok(ended)) => ended,
                            Some(Err(_)) => continue,
                            None => return,
                        }
                    }
                };
                let write = ended.intent.write;
                let settled = match ended.result {
                    Ok(()) => engine.store.replica_commit(write).await,
                    Err(failure) => {
                        let failed = FailedWrite { write, unknown: failure.unknown };
                        engine.store.replica_abandon(failed).await
                    }
                };
                match settled {
                    Ok(()) | Err(StoreError::Superseded) => (),
                    Err(err) => tracing::warn!(
                        error = chain(&err),
                        "a late replica stays an intent until the next start"
                    ),
                }
            }
        });
    }
}
