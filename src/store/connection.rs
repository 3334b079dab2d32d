//! Opening connections, and closing all of them at once when the outcome of a commit is unknown.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::MAIN_DB;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

use super::Durability;
use super::error::StoreError;

/// Statements that one connection keeps prepared: all that it ever runs.
const STATEMENTS_MAX: usize = 160;
/// How long a connection waits for the lock that a checkpoint holds for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const WRITER_CACHE_KIB: i64 = 32 << 10;
const READER_CACHE_KIB: i64 = 8 << 10;
/// Pages that are read through the operating system's cache without a copy.
const MMAP_BYTES: i64 = 256 << 20;

/// The place of one connection that is not the writer's.
pub(super) type Slot = Mutex<Option<Connection>>;

/// Where connections come from.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) database: PathBuf,
    pub(super) durability: Durability,
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl Connections {
    pub(super) fn new(database: PathBuf, durability: Durability) -> Connections {
        Connections { database, durability, slots: Mutex::default() }
    }

    pub(super) fn open_writer(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.database, flags)?;
        conn.busy_timeout(LOCK_WAIT)?;
        // SQLite is content with what a read-only file system lets it have, and would stay so.
        if conn.is_readonly(MAIN_DB)? {
            return Err(StoreError::Unavailable(Some("the file system is read-only".into())));
        }
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Open("the database cannot be put into WAL mode".to_owned()));
        }
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "foreign_keys", true)?;
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        conn.pragma_update(None, "synchronous", self.synchronous(true))?;
        // What a savepoint takes back is remembered in memory: the disk for it may be full.
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        // On a full disk a log and its index that went could not be made again.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        #[cfg(target_vendor = "apple")]
        {
            conn.pragma_update(None, "fullfsync", true)?;
            conn.pragma_update(None, "checkpoint_fullfsync", true)?;
        }
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(conn)
    }

    pub(super) fn open_reader(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.database, flags)?;
        conn.busy_timeout(LOCK_WAIT)?;
        conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        conn.pragma_update(None, "mmap_size", MMAP_BYTES)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(conn)
    }

    /// The value of `PRAGMA synchronous` for a batch.
    pub(super) fn synchronous(&self, durable: bool) -> &'static str {
        match (self.durability, durable) {
            (Durability::ProcessExit, _) => "OFF",
            (Durability::PowerLoss, false) => "NORMAL",
            (Durability::PowerLoss, true) => "FULL",
        }
    }

    pub(super) fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        held(&self.slots).push(Arc::clone(&slot));
        slot
    }

    pub(super) fn give_back(&self, slot: &Arc<Slot>) {
        held(&self.slots).retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// Closes every connection but the caller's own, which must be closed already, and opens a
    /// new one before anyone else can: it recovers what the files say.
    pub(super) fn reopen(&self) -> Result<Connection, StoreError> {
        let slots = held(&self.slots);
        let mut guards: Vec<MutexGuard<'_, Option<Connection>>> =
            slots.iter().map(|slot| held(slot)).collect();
        guards.iter_mut().for_each(|guard| **guard = None);
        self.open_writer()
    }
}

/// Locks; what a thread left behind when it panicked is whole, since every change is one step.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
