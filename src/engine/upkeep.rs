//! Small things that must be looked at from time to time.

use std::time::Duration;

use super::Engine;
use crate::base::chain;

/// How long a look at an absent backend may take.
const LOOK_WAIT: Duration = Duration::from_secs(20);

impl Engine {
    /// Looks whether absent backends are back, so that they heal without traffic.
    pub async fn look_for_absent(&self) {
        let fleet = self.fleet.load_full();
        let absent = fleet.all().iter().filter(|backend| !backend.is_present());
        let looks = absent.map(async |backend| {
            // One that gives no answer must not keep the others from being seen.
            if let Ok(Ok(())) = tokio::time::timeout(LOOK_WAIT, backend.look()).await {
                tracing::info!(backend = %backend.name(), "the backend is back");
            }
        });
        futures_util::future::join_all(looks).await;
    }

    /// Forgets uploads that were completed so long ago that nobody will ask again.
    pub async fn prune_uploads(&self) {
        loop {
            match self.store.uploads_prune().await {
                Ok(true) => (),
                Ok(false) => return,
                Err(err) => {
                    tracing::warn!(error = chain(&err), "cannot forget old uploads now");
                    return;
                }
            }
        }
    }
}
