//! Checkpoints: moving the write-ahead log into the database, off the request path.
//!
//! A thread of its own looks at the log while there are writes. It checkpoints when the log has
//! grown past [`LOG_WANTED`] and once more when writes have ceased, and then sleeps until the next
//! write: an idle store writes nothing. At [`LOG_MAX`] the writer waits for it.

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

use super::connection::Slot;
use super::connection::held;
use super::error::StoreError;
use super::shared::Shared;

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

    fn measure(&self) -> u64 {
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
    while if is_wanted { wal.rest() } else { wal.wait_for_write() } {
        if wal.is_dirty.swap(false, Ordering::AcqRel) {
            is_wanted = true;
            last_write = Instant::now();
        }
        if wal.measure() <= LOG_WANTED && last_write.elapsed() < IDLE {
            continue;
        }
        // Where a reader is in the way or the disk is full, it is tried again.
        is_wanted = !checkpoint(shared, &slot).unwrap_or_else(|err| {
            tracing::warn!(error = ?err, "the write-ahead log could not be checkpointed");
            *held(&slot) = None;
            false
        });
        last_write = Instant::now();
        wal.measure();
        let _closed = held(&wal.is_closed);
        wal.changed.notify_all();
    }
    // The next start need not read what the database can hold already.
    if let Err(err) = checkpoint(shared, &slot) {
        tracing::warn!(error = ?err, "the write-ahead log stays until the next start");
    }
    *held(&slot) = None;
}

/// True when the log is empty now. Most of the work is done without keeping the writer out.
fn checkpoint(shared: &Shared, slot: &Slot) -> Result<bool, StoreError> {
    let mut guard = held(slot);
    if guard.is_none() {
        let conn = shared.connections.open_writer()?;
        conn.busy_timeout(Duration::ZERO)?;
        *guard = Some(conn);
    }
    let Some(conn) = guard.as_ref() else { return Ok(false) };
    let busy = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    busy("PRAGMA wal_checkpoint(PASSIVE)")?;
    Ok(busy("PRAGMA wal_checkpoint(TRUNCATE)")? == 0)
}
