//! What an operator says about paths that cleanup has given up, and about workers at rest.

use super::Engine;
use super::EngineError;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::WriteId;
use crate::store::Leftover;

impl Engine {
    /// At most `max` parked paths in the order of their ids, of one backend where one is named;
    /// with `is_all` also those that cleanup has still to do. Whether there are more.
    pub async fn leftovers(
        &self,
        backend: Option<BackendId>,
        is_all: bool,
        max: usize,
    ) -> Result<(Vec<Leftover>, bool), EngineError> {
        let (mut found, mut after) = (Vec::new(), WriteId(0));
        loop {
            let page = match is_all {
                true => self.store.condemned_all(after, WORK_ROWS_MAX).await?,
                false => self.store.condemned_parked(after, WORK_ROWS_MAX).await?,
            };
            let is_last = page.len() < WORK_ROWS_MAX;
            after = page.last().map_or(after, |last| last.id);
            let wanted = |row: &Leftover| backend.is_none_or(|backend| row.backend == backend);
            found.extend(page.into_iter().filter(wanted));
            if is_last || found.len() > max {
                let is_more = found.len() > max;
                found.truncate(max);
                return Ok((found, is_more));
            }
        }
    }

    /// Tries parked paths again, all of them without `ids`: how many.
    pub async fn leftovers_retry(&self, ids: Option<Vec<WriteId>>) -> Result<usize, EngineError> {
        if let Some(ids) = ids {
            return Ok(self.store.condemned_retry(ids).await?);
        }
        let (mut count, mut after) = (0, WriteId(0));
        loop {
            let page = self.store.condemned_parked(after, WORK_ROWS_MAX).await?;
            let Some(last) = page.last() else { return Ok(count) };
            after = last.id;
            let ids = page.iter().map(|row| row.id).collect();
            count += self.store.condemned_retry(ids).await?;
        }
    }

    /// Forgets parked paths without deleting their bytes, which nobody counts or knows of any more:
    /// how many.
    pub async fn leftovers_forget(&self, ids: Vec<WriteId>) -> Result<usize, EngineError> {
        Ok(self.store.condemned_forget(ids).await?)
    }

    /// Pauses or resumes a worker, also over restarts.
    pub async fn worker_pause(&self, name: &str, paused: bool) -> Result<(), EngineError> {
        Ok(self.store.worker_pause(name, paused).await?)
    }

    /// The names of the workers that are paused.
    pub async fn workers_paused(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.store.workers_paused().await?)
    }
}
