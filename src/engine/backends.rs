//! The fleet, as the ledger and the backends themselves tell of it.

use super::Engine;
use super::EngineError;
use crate::backend::BreakerView;
use crate::backend::Reached;
use crate::model::Limits;
use crate::store::BackendRow;

/// One backend now.
#[derive(Clone, Debug)]
pub struct BackendState {
    pub row: BackendRow,
    /// OpenDAL's scheme; `None` when the fleet does not have it.
    pub service: Option<String>,
    /// Its marker is seen.
    pub is_present: bool,
    /// Bytes that still fit, by quota and by file system; `None` when neither bounds them.
    pub free: Option<u64>,
    /// `None` when the fleet does not have it.
    pub breaker: Option<BreakerView>,
    /// Of the account that it belongs to; `None` when nothing is limited.
    pub limits: Option<Limits>,
    /// The limit that keeps clients from writing or reading now.
    pub reached: Option<Reached>,
}

impl Engine {
    /// Every backend that the store knows, with what is known of it now.
    pub async fn backends(&self) -> Result<Vec<BackendState>, EngineError> {
        let rows = self.store.backends().await?;
        let fleet = self.fleet.load_full();
        let state = |row: BackendRow| {
            let backend = fleet.get(row.id);
            let by_room = backend.and_then(|backend| backend.room());
            BackendState {
                service: backend.map(|backend| backend.settings().service.clone()),
                is_present: backend.is_some_and(|backend| backend.is_present()),
                free: row.free().into_iter().chain(by_room).min(),
                breaker: backend.map(|backend| backend.breaker_view()),
                limits: backend.map(|backend| backend.limits()).filter(Limits::is_set),
                reached: backend.and_then(|backend| backend.reached()),
                row,
            }
        };
        Ok(rows.into_iter().map(state).collect())
    }

    /// Closes the breaker of a backend: its owner says that it was mended.
    pub fn backend_reset(&self, name: &str) -> Result<(), EngineError> {
        let fleet = self.fleet.load();
        let found = fleet.all().iter().find(|backend| &**backend.name() == name);
        found.ok_or(EngineError::NoSuchBackend)?.reset_breaker();
        Ok(())
    }
}
