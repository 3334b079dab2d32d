//! Workers that an operator has paused. It is kept with the jobs, so that it holds over restarts
//! and is the same whether a server runs or not.

use super::Store;
use super::error::StoreError;
use super::queue::Lane;
use super::writer::Need;

/// Before the name of a worker.
const PREFIX: &str = "pause:";

impl Store {
    /// Pauses or resumes the worker `name`. Repeating it changes nothing.
    pub async fn worker_pause(&self, name: &str, paused: bool) -> Result<(), StoreError> {
        let job = format!("{PREFIX}{name}");
        self.free(Lane::Request, Need::Durable, move |tx| {
            match paused {
                true => tx.run("INSERT OR IGNORE INTO jobs (name) VALUES (?1)", [&job])?,
                false => tx.run("DELETE FROM jobs WHERE name = ?1", [&job])?,
            };
            Ok(())
        })
        .await
    }

    /// The names of the workers that are paused.
    pub async fn workers_paused(&self) -> Result<Vec<String>, StoreError> {
        self.read(|sql| {
            let jobs: Vec<String> =
                sql.all("SELECT name FROM jobs WHERE name >= ?1 ORDER BY name", [PREFIX], |row| {
                    row.get(0)
                })?;
            Ok(jobs.iter().filter_map(|job| job.strip_prefix(PREFIX)).map(str::to_owned).collect())
        })
        .await
    }
}
