//! What can be done while no server runs: verify the store, try the backends.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use crate::backend::Backend;
use crate::backend::BackendSettings;
use crate::backend::ProbeReport;
use crate::base::Clock;
use crate::base::Ids;
use crate::store::Durability;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::StoreSettings;

/// Backends that are tried at a time.
const PROBES_MAX: usize = 8;
/// Reader threads of the store.
const READERS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("there is no data directory at {0}")]
    NoDirectory(PathBuf),
    /// A server runs on it, or it cannot be opened by this user.
    #[error("the metadata store in {0} cannot be opened")]
    Unreachable(PathBuf, #[source] StoreError),
    #[error("the metadata store could not be read")]
    Store(#[source] StoreError),
}

/// Opens the store on a thread that may block.
pub async fn open(data_dir: &Path, clock: Clock, ids: Arc<Ids>) -> Result<Store, OfflineError> {
    let settings = StoreSettings {
        data_dir: data_dir.to_owned(),
        durability: Durability::PowerLoss,
        readers: READERS,
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(settings, clock, ids)).await;
    let opened = opened.expect("opening a store does not panic");
    opened.map_err(|err| OfflineError::Unreachable(data_dir.to_owned(), err))
}

/// Recomputes every derived number of the store in `data_dir`; what is wrong, in words. Takes the
/// directory's lock, so no server may run.
pub async fn verify(data_dir: &Path) -> Result<Vec<String>, OfflineError> {
    // Opening would make a store where there is none.
    if !data_dir.is_dir() {
        return Err(OfflineError::NoDirectory(data_dir.to_owned()));
    }
    let clock = Clock::system();
    let ids = Arc::new(Ids::new(clock.clone()));
    let store = open(data_dir, clock, ids).await?;
    let faults = store.verify().await.map_err(OfflineError::Store);
    store.close().await;
    faults
}

/// Tries everything that the contract needs of each backend, several at a time; the reports are
/// in the order of `backends`.
pub async fn probe(backends: &[BackendSettings]) -> Vec<ProbeReport> {
    stream::iter(backends).map(Backend::probe).buffered(PROBES_MAX).collect().await
}
