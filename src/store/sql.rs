//! Prepared statements with less ceremony.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Params;
use rusqlite::Row;

use super::error::StoreError;

/// A connection inside a transaction, on which every statement is prepared once and kept.
#[derive(Clone, Copy)]
pub(super) struct Sql<'c>(pub(super) &'c Connection);

impl<'c> Sql<'c> {
    /// The first row.
    pub(super) fn one<T, P, F>(self, sql: &str, params: P, read: F) -> Result<Option<T>, StoreError>
    where
        P: Params,
        F: FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    {
        Ok(self.0.prepare_cached(sql)?.query_row(params, read).optional()?)
    }

    pub(super) fn all<T, P, F>(self, sql: &str, params: P, read: F) -> Result<Vec<T>, StoreError>
    where
        P: Params,
        F: FnMut(&Row<'_>) -> rusqlite::Result<T>,
    {
        let mut statement = self.0.prepare_cached(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<rusqlite::Result<Vec<T>>>()?)
    }

    /// How many rows were changed.
    pub(super) fn run<P: Params>(self, sql: &str, params: P) -> Result<usize, StoreError> {
        Ok(self.0.prepare_cached(sql)?.execute(params)?)
    }

    pub(super) fn meta(self, name: &str) -> Result<Option<u64>, StoreError> {
        self.one("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
    }

    pub(super) fn meta_set(self, name: &str, value: u64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO meta (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )?;
        Ok(())
    }
}
