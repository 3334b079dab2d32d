//! Surveys: what a backend lists, held against the rows that the store has of it.
//!
//! A listing comes in an order of its own, and may be longer than memory. It goes into a table of a
//! connection that the survey alone has, and is compared there, some rows at a time.
//!
//! # Invariants
//!
//! - A difference is only a finding. Listings are old when they end, so whoever acts on one looks
//!   again, in the transaction that acts and, where bytes are said to be gone, at the backend.
//! - Replicas whose write ids were drawn after the survey began are none of its business.
//! - No snapshot of the database outlives a call, or the write-ahead log could not be emptied.
//!
//! # Why write ids and not paths
//!
//! A service may spell a path otherwise than it was told, in other letters or another Unicode form.
//! Larder's own files are therefore matched by the write id that ends their names. What was
//! imported has no such id, but its path is kept as the same service listed it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::Store;
use super::connection::held;
use super::error::StoreError;
use super::queue::Lane;
use super::replica::replica_in_tx;
use super::replica::state_of;
use super::sql::Sql;
use super::writer::Need;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::model::path::write_id;

/// Rows that are compared in one call.
const WINDOW: usize = 1000;
/// What the table of files keeps in memory.
const CACHE_KIB: i64 = 8 << 10;

/// One listing of a backend.
pub struct Survey {
    conn: Arc<Mutex<Connection>>,
    /// The number that stands for the backend in the tables.
    no: u64,
    /// Drawn before the listing began.
    start: WriteId,
    /// Questions to all surveys that have no answer yet.
    open: Arc<AtomicUsize>,
}

/// A file as a backend lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub path: String,
    /// Never 0 for what becomes an object.
    pub size: u64,
    pub modified: Option<Timestamp>,
}

/// A replica of which the listing says something else than its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDifference {
    pub write: WriteId,
    pub path: String,
    /// What its row says.
    pub size: u64,
    pub what: RowFinding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowFinding {
    /// It is not in the listing.
    Gone,
    /// It has another length.
    Misfit,
    /// It is borrowed, and its owner changed it.
    Changed(ListedFile),
    /// It was missing, and a file of its length is there.
    Back,
}

/// A file that is no replica's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    pub file: ListedFile,
    pub what: FileFinding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFinding {
    /// Of Larder's own form, with a write id that no row has.
    Debris(WriteId),
    /// Of another's.
    Foreign,
    /// It is condemned, or was given up by a bucket and is its owner's.
    Suppressed,
}

/// What stands for a file's time in the tables: 0 when that is not known.
pub(super) fn stamp(modified: Option<Timestamp>) -> i64 {
    modified.map_or(0, |modified| modified.0)
}

/// Whether two stamps say that a file was changed. One may be in whole seconds.
pub(super) fn differ(one: i64, other: i64) -> bool {
    const SECOND: i64 = 1_000_000;
    let is_whole = |stamp: i64| stamp % SECOND == 0;
    match (one, other) {
        (0, _) | (_, 0) => false,
        _ if is_whole(one) || is_whole(other) => one / SECOND != other / SECOND,
        _ => one != other,
    }
}

impl Store {
    /// Begins a survey. To be called before the listing is asked for.
    pub async fn survey(&self, backend: BackendId) -> Result<Survey, StoreError> {
        let start = self.write(Lane::Work, Need::Recorded, |tx| Ok(WriteId(tx.ids.next()))).await?;
        let connections = Arc::clone(&self.shared().connections);
        let open = Arc::clone(&self.shared().surveyed);
        let begun = blocking(&open, move || {
            let conn = connections.open_reader()?;
            // It goes over all rows once; mapped, they would all be resident until its end.
            conn.pragma_update(None, "mmap_size", 0)?;
            conn.pragma_update(None, "temp_store", "FILE")?;
            conn.execute_batch(SEEN)?;
            conn.pragma_update(Some("temp"), "cache_size", -CACHE_KIB)?;
            let no = Sql(&conn)
                .one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?
                .ok_or(StoreError::NoSuchBackend)?;
            Ok((Arc::new(Mutex::new(conn)), no))
        });
        let (conn, no) = begun.await?;
        Ok(Survey { conn, no, start, open })
    }
}

/// What was listed. `write` is set on files of the own form.
const SEEN: &str = "CREATE TEMP TABLE seen (
         path TEXT NOT NULL PRIMARY KEY,
         write INTEGER,
         size INTEGER NOT NULL,
         stamp INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX temp.seen_write ON seen (write, size) WHERE write IS NOT NULL;";

impl Survey {
    /// Takes the next files of the listing. One may come twice.
    pub async fn add(&self, files: Vec<ListedFile>) -> Result<(), StoreError> {
        self.with(move |sql| {
            sql.run("BEGIN", [])?;
            for file in &files {
                sql.run(
                    "INSERT OR REPLACE INTO temp.seen (path, write, size, stamp)
                     VALUES (?1, ?2, ?3, ?4)",
                    (
                        &file.path,
                        write_id(&file.path).map(|write| write.0),
                        file.size,
                        stamp(file.modified),
                    ),
                )?;
            }
            sql.run("COMMIT", [])?;
            Ok(())
        })
        .await
    }

    /// Differences of some of the backend's replicas after `after`, and where to go on; `None` at
    /// the end. Only of a listing that came to its end.
    pub async fn rows(
        &self,
        after: WriteId,
    ) -> Result<(Vec<RowDifference>, Option<WriteId>), StoreError> {
        let (no, start) = (self.no, self.start);
        self.with(move |sql| {
            let last = (after.0, start.0, WINDOW);
            let last: Option<Option<u64>> = sql.one(ROWS_WINDOW, last, |row| row.get(0))?;
            let Some(last) = last.flatten() else { return Ok((Vec::new(), None)) };
            let compared = sql.all(ROWS, (after.0, last, no), Compared::read)?;
            let mut found = Vec::new();
            for row in compared {
                let Some(what) = row.finding() else { continue };
                let Some(replica) = replica_in_tx(sql, row.write)? else { continue };
                let (path, size) = (replica.path(), row.size);
                let what = match what {
                    RowFinding::Changed(file) => {
                        RowFinding::Changed(ListedFile { path: path.clone(), ..file })
                    }
                    what => what,
                };
                found.push(RowDifference { write: row.write, path, size, what });
            }
            Ok((found, Some(WriteId(last))))
        })
        .await
    }

    /// Some of the files after the path `after` that are no replica's, and where to go on.
    pub async fn files(
        &self,
        after: String,
    ) -> Result<(Vec<FileDifference>, Option<String>), StoreError> {
        let no = self.no;
        self.with(move |sql| {
            let last: Option<Option<String>> =
                sql.one(FILES_WINDOW, (&after, WINDOW), |row| row.get(0))?;
            let Some(last) = last.flatten() else { return Ok((Vec::new(), None)) };
            let found = sql.all(FILES, (&after, &last, no), |row| {
                let stamp: i64 = row.get(3)?;
                let file = ListedFile {
                    path: row.get(0)?,
                    size: row.get(2)?,
                    modified: (stamp != 0).then_some(Timestamp(stamp)),
                };
                let condemned: Option<(bool, u64, i64)> = match row.get::<_, Option<bool>>(4)? {
                    Some(is_kept) => Some((is_kept, row.get(5)?, row.get(6)?)),
                    None => None,
                };
                let what = match (row.get::<_, Option<u64>>(1)?, condemned) {
                    (Some(write), None) => FileFinding::Debris(WriteId(write)),
                    (None, None) => FileFinding::Foreign,
                    (None, Some((true, size, was))) if size != file.size || differ(was, stamp) => {
                        FileFinding::Foreign
                    }
                    (_, Some(_)) => FileFinding::Suppressed,
                };
                Ok(FileDifference { file, what })
            })?;
            Ok((found, Some(last)))
        })
        .await
    }

    /// Kept paths after `after` that the listing does not have, and where to go on. Only of a
    /// listing that came to its end.
    pub async fn kept(
        &self,
        after: String,
    ) -> Result<(Vec<(u64, String)>, Option<String>), StoreError> {
        let (no, start) = (self.no, self.start);
        self.with(move |sql| {
            let last: Option<Option<String>> =
                sql.one(KEPT_WINDOW, (no, &after, WINDOW), |row| row.get(0))?;
            let Some(last) = last.flatten() else { return Ok((Vec::new(), None)) };
            let found =
                sql.all(KEPT, (no, &after, &last, start.0), |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((found, Some(last)))
        })
        .await
    }

    async fn with<R, F>(&self, look: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(Sql<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        let conn = Arc::clone(&self.conn);
        blocking(&self.open, move || look(Sql(&held(&conn)))).await
    }
}

/// Asks where waiting does not hurt. `open` counts what has no answer yet.
async fn blocking<R: Send + 'static>(
    open: &AtomicUsize,
    work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    let _open = Open::new(open);
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| StoreError::broken("a survey panicked"))?
}

/// A question until it has its answer, or nobody waits for that.
struct Open<'c>(&'c AtomicUsize);

impl Open<'_> {
    fn new(count: &AtomicUsize) -> Open<'_> {
        count.fetch_add(1, Ordering::AcqRel);
        Open(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) const ROWS_WINDOW: &str = "SELECT max(write) FROM
         (SELECT write FROM replicas WHERE write > ?1 AND write < ?2 ORDER BY write LIMIT ?3)";

/// Larder's own files fit when one of theirs has the length; of others there is one.
const ROWS: &str = "SELECT r.write, r.state, coalesce(r.bytes, b.size), r.borrowed,
         CASE WHEN r.own IS NULL THEN (SELECT max(s.size = coalesce(r.bytes, b.size))
             FROM temp.seen s WHERE s.write = r.write) END,
         f.size, f.stamp
     FROM replicas r CROSS JOIN blobs b ON b.id = r.blob LEFT JOIN temp.seen f ON f.path = r.own
     WHERE r.write > ?1 AND r.write <= ?2 AND r.backend = ?3 AND r.state <> 0";

const FILES_WINDOW: &str = "SELECT max(path) FROM
         (SELECT path FROM temp.seen WHERE path > ?1 ORDER BY path LIMIT ?2)";

const FILES: &str = "SELECT s.path, s.write, s.size, s.stamp, c.kept, c.size, coalesce(c.stamp, 0)
     FROM temp.seen s LEFT JOIN condemned c ON c.id = s.write
     WHERE s.path > ?1 AND s.path <= ?2 AND s.write IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.write = s.write)
     UNION ALL
     SELECT s.path, s.write, s.size, s.stamp, c.kept, c.size, c.stamp
     FROM temp.seen s
     LEFT JOIN condemned c ON c.stamp IS NOT NULL AND c.backend = ?3 AND c.path = s.path
     WHERE s.path > ?1 AND s.path <= ?2 AND s.write IS NULL
         AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.backend = ?3 AND r.own = s.path)";

pub(super) const KEPT_WINDOW: &str = "SELECT max(path) FROM (SELECT path FROM condemned
         WHERE stamp IS NOT NULL AND backend = ?1 AND path > ?2 ORDER BY path LIMIT ?3)";

const KEPT: &str = "SELECT c.id, c.path FROM condemned c
     WHERE c.stamp IS NOT NULL AND c.backend = ?1 AND c.path > ?2 AND c.path <= ?3 AND c.kept = 1
         AND c.id < ?4 AND NOT EXISTS (SELECT 1 FROM temp.seen s WHERE s.path = c.path)";

/// A replica's row beside what was listed.
struct Compared {
    write: WriteId,
    state: ReplicaState,
    size: u64,
    borrowed: Option<i64>,
    /// `None`: not listed. Its path is filled in only where it matters.
    listed: Option<ListedFile>,
}

impl Compared {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Compared> {
        let size: u64 = row.get(2)?;
        let stamp: i64 = row.get::<_, Option<i64>>(6)?.unwrap_or(0);
        let by_path: Option<u64> = row.get(5)?;
        let listed = match row.get::<_, Option<bool>>(4)? {
            Some(true) => Some(size),
            // Whatever length it has, it is not this.
            Some(false) => Some(u64::MAX),
            None => by_path,
        };
        Ok(Compared {
            write: WriteId(row.get(0)?),
            state: state_of(row.get(1)?),
            size,
            borrowed: row.get(3)?,
            listed: listed.map(|size| ListedFile {
                path: String::new(),
                size,
                modified: (stamp != 0).then_some(Timestamp(stamp)),
            }),
        })
    }

    fn finding(&self) -> Option<RowFinding> {
        let is_wrong = matches!(self.state, ReplicaState::Missing | ReplicaState::Damaged);
        let Some(file) = &self.listed else { return (!is_wrong).then_some(RowFinding::Gone) };
        let is_misfit = file.size != self.size;
        match self.borrowed {
            Some(was) if is_misfit || differ(was, stamp(file.modified)) => {
                Some(RowFinding::Changed(file.clone()))
            }
            _ if is_misfit => (!is_wrong).then_some(RowFinding::Misfit),
            _ => (self.state == ReplicaState::Missing).then_some(RowFinding::Back),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_compared_as_finely_as_both_are_known() {
        for (one, other, expected) in [
            (0, 5, false),
            (5, 0, false),
            (3_000_001, 3_000_001, false),
            (3_000_001, 3_000_002, true),
            (3_000_001, 3_000_000, false),
            (3_000_000, 3_999_999, false),
            (3_999_999, 4_000_000, true),
            (2_000_000, 3_000_000, true),
        ] {
            assert_eq!(differ(one, other), expected, "{one} {other}");
            assert_eq!(differ(other, one), expected, "{other} {one}");
        }
    }
}
