//! Checkpoints: moving the write-ahead log into the database, off the request path.
//!
//! A thread of its own looks at the log while there are writes. It checkpoints when the log has
//! grown past [`LOG_WANTED`] and once more when writes have ceased, and then sleeps until the next
//! write: an idle store writes nothing. At [`LOG_MAX`] the writer waits for it.
//!
//! # On a full disk
//!
//! What the log has of new pages may not fit into the database: the ballast is for that, too.
//! It goes there first: then the log needs none. As long as the ballast is out the log is
//! checkpointed soon after every write and keeps its length, so that the next transactions go where
//! the last ones were and need no room; unless its own length is all that the ballast lacks. When
//! the store closes then, the log and its index stay for the next start.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::config::DbConfig;

use super::connection::Slot;
use super::connection::held;
use super::error::StoreError;
use super::shared::Shared;
use super::writer::is_full;

const LOG_WANTED: u64 = 64 << 20;
const LOG_MAX: u64 = 512 << 20;
/// How often the log is looked at while there are writes.
const TICK: Duration = Duration::from_millis(200);
/// Without a write for this long, the log is emptied.
const IDLE: Duration = Duration::from_secs(2);
/// How long a batch waits for a log that is too long.
const ROOM_WAIT: Duration = Duration::from_secs(5);

const _: () = assert!(LOG_WANTED < LOG_MAX);

/// What the writer and the checkpointer know of the log.
#[derive(Debug)]
pub(super) struct Wal {
    log: PathBuf,
    bytes: AtomicU64,
    is_dirty: AtomicBool,
    is_closed: Mutex<bool>,
    changed: Condvar,
}

impl Wal {
    pub(super) fn new(database: &Path) -> Wal {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Wal {
            log: log.into(),
            bytes: AtomicU64::new(0),
            is_dirty: AtomicBool::new(true),
            is_closed: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// After every commit.
    pub(super) fn written(&self) {
        if !self.is_dirty.swap(true, Ordering::AcqRel) {
            let _closed = held(&self.is_closed);
            self.changed.notify_all();
        }
    }

    /// Waits while the log is too long; false when it stays so.
    pub(super) fn wait_for_room(&self) -> bool {
        let is_long = || self.bytes.load(Ordering::Acquire) > LOG_MAX;
        if !is_long() {
            return true;
        }
        let closed = held(&self.is_closed);
        let waited = self.changed.wait_timeout_while(closed, ROOM_WAIT, |_| is_long());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub(super) fn close(&self) {
        *held(&self.is_closed) = true;
        self.changed.notify_all();
    }

    /// Bytes of the file.
    pub(super) fn measure(&self) -> u64 {
        let bytes = fs::metadata(&self.log).map_or(0, |meta| meta.len());
        self.bytes.store(bytes, Ordering::Release);
        bytes
    }

    /// False when the store was closed.
    fn wait_for_write(&self) -> bool {
        let mut closed = held(&self.is_closed);
        while !*closed && !self.is_dirty.load(Ordering::Acquire) {
            closed = self.changed.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
        !*closed
    }

    /// False when the store was closed.
    fn rest(&self) -> bool {
        let closed = held(&self.is_closed);
        let rested = self.changed.wait_timeout_while(closed, TICK, |closed| !*closed);
        !*rested.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The checkpointing thread, until the store is closed.
pub(super) fn run(shared: &Shared) {
    let slot = shared.connections.slot();
    let wal = &shared.wal;
    let mut last_write = Instant::now();
    let mut is_wanted = false;
    let mut has_failed = false;
    while if is_wanted { wal.rest() } else { wal.wait_for_write() } {
        let is_dirty = wal.is_dirty.swap(false, Ordering::AcqRel);
        if is_dirty {
            is_wanted = true;
            last_write = Instant::now();
        }
        let is_long = wal.measure() > LOG_WANTED;
        let is_soon = is_dirty && shared.dir.ballast.is_out();
        if !is_soon && !is_long && last_write.elapsed() < IDLE {
            continue;
        }
        // Where a reader is in the way or the disk is full, it is tried again.
        let done = checkpoint(shared, &slot);
        is_wanted = !done.as_ref().is_ok_and(|is_empty| *is_empty);
        if let Err(err) = &done {
            if !has_failed {
                tracing::warn!(error = ?err, "the write-ahead log cannot be checkpointed");
            }
            *held(&slot) = None;
        }
        has_failed = done.is_err();
        last_write = Instant::now();
        wal.measure();
        let _closed = held(&wal.is_closed);
        wal.changed.notify_all();
    }
    // The next start need not read what the database can hold already.
    if let Err(err) = checkpoint(shared, &slot) {
        tracing::warn!(error = ?err, "the write-ahead log stays until the next start");
    }
    if let Some(conn) = held(&slot).take()
        && !shared.dir.ballast.is_out()
    {
        // The last connection takes the log and its index along.
        let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
    }
}

/// Checkpoints, with the help of the ballast where the disk is full; true when nothing is left in
/// the log.
fn checkpoint(shared: &Shared, slot: &Slot) -> Result<bool, StoreError> {
    loop {
        let done = try_checkpoint(shared, slot);
        let Err(err) = &done else { return done };
        let ballast = &shared.dir.ballast;
        if !is_full(err) && !ballast.is_disk_full() {
            return done;
        }
        let has_given = ballast.give();
        // It is the writer who looks for the end of it.
        shared.queue.nudge();
        if !has_given {
            return done;
        }
    }
}

/// Most of the work is done without keeping the writer out.
fn try_checkpoint(shared: &Shared, slot: &Slot) -> Result<bool, StoreError> {
    let mut guard = held(slot);
    if guard.is_none() {
        let conn = shared.connections.open_writer()?;
        conn.busy_timeout(Duration::ZERO)?;
        *guard = Some(conn);
    }
    let Some(conn) = guard.as_ref() else { return Ok(false) };
    let is_done = copy(conn)?;
    let (ballast, length) = (&shared.dir.ballast, shared.wal.measure());
    if ballast.is_out() && length <= LOG_WANTED && !ballast.would_fit(length) {
        return Ok(is_done);
    }
    let busy = |row: &Row<'_>| row.get::<_, i64>(0);
    Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], busy)? == 0)
}

/// Copies what it can from the log into the database, and neither waits nor lets wait. True when
/// that was all: the next transaction begins at the start of the log then, in room that is there.
pub(super) fn copy(conn: &Connection) -> Result<bool, StoreError> {
    // Whether somebody was in the way, the pages in the log, and those of them that are done.
    let (busy, pages, done) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    Ok(busy == 0 && pages == done)
}
