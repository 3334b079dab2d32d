//! Small things that must be looked at from time to time.

use super::Engine;
use crate::base::chain;

impl Engine {
    /// Looks whether backends that are absent, or that failed and are due, are well again, so that
    /// they heal without traffic. A fleet that is well is not called.
    pub async fn look_for_absent(&self) {
        let fleet = self.fleet.load_full();
        futures_util::future::join_all(fleet.all().iter().map(|backend| backend.tend())).await;
        if let Err(err) = self.watch_fleet().await {
            tracing::warn!(error = chain(&err), "what is absent cannot be remembered now");
        }
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
