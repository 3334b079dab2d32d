//! The metadata database: which objects there are, of which blobs they consist, where those lie.
//!
//! SQLite in WAL mode. One thread writes, with group commit (`writer`); a few threads read
//! (`readers`); one checkpoints (`checkpoint`). Every public method that changes something is one
//! transaction, or a bounded number of them where it says so. Helpers inside a transaction end in
//! `_in_tx`. Nothing in a transaction does I/O elsewhere, sleeps, or reads the clock.
//!
//! # Invariants
//!
//! - A path is used once: write ids are unique over replicas and condemned paths together.
//! - Every counter is kept in the transaction that changes what it counts (`ledger`, `blob`,
//!   `bucket`); [`Store::verify`] recomputes them all.
//! - Every operation runs to its end, also when its caller has gone away.
//!
//! # Errors
//!
//! `Busy` and `Unavailable` mean that nothing happened. `OutcomeUnknown` means that it may have:
//! nothing may be deleted for it. Refusals of commits give up the blobs of the commit, and say so
//! where they are documented; all other errors change nothing.
//!
//! # When it cannot write
//!
//! Reads go on, and writes are answered `Unavailable` until it can again, which it finds out by
//! itself ([`Condition`]). On a full disk what gives room back is still done (`ballast`).

mod ballast;
mod blob;
mod borrowed;
mod bucket;
#[cfg(test)]
mod census;
mod checkpoint;
mod codec;
mod condemned;
mod connection;
mod copy;
mod data_dir;
mod declare;
mod entry;
mod error;
mod find;
mod give_up;
mod import;
mod key;
mod ledger;
mod lifecycle;
mod listing;
mod movable;
mod operator;
mod parked;
mod part;
mod pause;
mod placement;
mod queue;
mod readers;
mod reap;
mod reconcile;
mod removal;
mod repair;
mod replica;
mod schema;
mod scrub;
mod shared;
mod show;
mod sql;
mod standing;
mod survey;
mod tags;
#[cfg(test)]
mod tests;
mod ticket;
mod upload;
mod upload_listing;
mod usage;
mod verify;
mod version;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

pub use self::blob::{BlobRequest, FinishedBlob, Registered};
pub use self::borrowed::Doubted;
pub use self::bucket::{BucketUsage, DeclaredBucket};
#[cfg(test)]
pub(crate) use self::census::{Census, CensusBlob, CensusReplica};
pub use self::condemned::Condemned;
pub use self::copy::{CopyPart, CopyVersion};
pub use self::declare::{Declaration, DeclaredBackend};
pub use self::error::StoreError;
pub use self::find::{BlobFacts, Entry, Found, Head};
pub use self::give_up::GiveUp;
pub use self::import::{FileObject, Import, NewImport};
pub use self::ledger::{BackendRow, LedgerRow};
pub use self::lifecycle::{AgingObject, AgingUpload, BucketLifecycle};
pub use self::listing::{ListAfter, ListItem, ListPage, ListQuery, ListedObject};
pub use self::movable::{Movable, SizeOrder};
pub use self::operator::{BucketWishes, StoredReplica, WishError};
pub use self::parked::Leftover;
pub use self::part::{CommitPart, PartInfo};
pub use self::reap::DeadIntent;
pub use self::reconcile::{Debris, Reconciled};
pub use self::removal::{Holdings, Leave, Others, Removal};
pub use self::repair::{BACKLOG_MAX, Leaving, LookAgain, Short};
pub use self::replica::{Choose, CopyWhen, FailedWrite, Holders, Intent, Replica, Target};
pub use self::scrub::{
    BrokenReplica, ScrubHash, ScrubMarked, ScrubPage, ScrubPass, ScrubReplica, Scrubbed,
};
pub use self::show::{BlobPlace, BlobState};
pub use self::standing::Following;
pub use self::survey::{
    FileDifference, FileFinding, ListedFile, RowDifference, RowFinding, Survey,
};
pub use self::ticket::Ticket;
pub use self::upload::{CompleteUpload, CompletedUpload, NewUpload, Upload};
pub use self::upload_listing::{UploadPage, UploadQuery};
pub use self::usage::{UsageRow, UsageSource};
pub use self::version::{CommitVersion, Committed, NewMeta};

pub use self::shared::Condition;

use self::ballast::Ballast;
use self::ballast::Room;
use self::connection::Connections;
use self::connection::held;
use self::data_dir::DataDir;
use self::queue::Lane;
use self::readers::GROW_AFTER;
use self::readers::Readers;
use self::shared::Shared;
use self::sql::Sql;
use self::writer::Need;
use self::writer::Pending;
use self::writer::Tx;
use self::writer::Writer;
use crate::base::Clock;
use crate::base::Ids;

#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub data_dir: PathBuf,
    pub durability: Durability,
    /// Reader threads: 2 to 4.
    pub readers: usize,
    /// Bytes that are kept in the data directory for when its disk is full; 0 for a short visit,
    /// which makes no ballast and uses what there is.
    pub ballast: u64,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    PowerLoss,
    /// For tests that only end the process.
    ProcessExit,
}

/// Cheap to clone; all clones are one store. It closes when the last is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Takes the lock of the data directory, makes or migrates the database, counts a new run.
    /// Blocks: call it outside the runtime's workers.
    pub fn open(settings: StoreSettings, clock: Clock, ids: Arc<Ids>) -> Result<Store, StoreError> {
        let dir = DataDir::take(&settings.data_dir, settings.ballast)?;
        let connections = Connections::new(dir.database.clone(), settings.durability);
        let connections = Arc::new(connections);
        let (conn, id) = loop {
            match begin(&connections, &ids) {
                Err(StoreError::Unavailable(_))
                    if dir.ballast.is_disk_full() && dir.ballast.give() => {}
                begun => break begun.map_err(opening)?,
            }
        };
        dir.ballast.begin();
        let first_id = ids.next();
        let shared = Arc::new(Shared::new(dir, Arc::clone(&connections), clock, first_id));
        let writer = Writer::new(Arc::clone(&shared), ids, conn).map_err(opening)?;
        let readers = Readers::start(connections, settings.readers)?;
        let inner = Inner { id, shared, readers, threads: Mutex::default() };
        let checkpointed = Arc::clone(&inner.shared);
        inner.spawn("larder-writer", move || writer.run())?;
        inner.spawn("larder-checkpoint", move || checkpoint::run(&checkpointed))?;
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The store's own id, which markers carry.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Ends the threads after what is queued was done and releases the data directory. Later
    /// calls answer `Unavailable`.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        // It panics only if a thread did, which was logged then.
        let _ = tokio::task::spawn_blocking(move || inner.stop()).await;
    }

    /// A number that every later run of the same store exceeds: microseconds since 2020.
    pub fn run_mark(&self) -> u64 {
        crate::base::ids::made_micros(self.shared().first_id)
    }

    /// Every question that was asked has its answer: a simulation waits for this before it goes on.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let surveyed = self.shared().surveyed.load(std::sync::atomic::Ordering::Acquire);
        surveyed == 0 && self.shared().queue.is_idle() && self.inner.readers.is_idle()
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Whether it can write now.
    pub fn condition(&self) -> Condition {
        self.shared().condition()
    }

    /// Asked before work is done that only a later write makes worth while: `Unavailable` as that
    /// would be.
    pub fn must_take(&self) -> Result<(), StoreError> {
        match self.condition() {
            Condition::Well => Ok(()),
            Condition::Tight => Err(Ballast::refusal()),
            Condition::Failing => Err(StoreError::Unavailable(None)),
        }
    }

    /// Runs `op`, which stores something, in a transaction. An error takes back what it did.
    async fn write<R, F>(&self, lane: Lane, need: Need, op: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        if self.shared().dir.ballast.is_out() {
            return Err(Ballast::refusal());
        }
        let mut op = Some(op);
        let once = move |tx: &mut Tx<'_>| match op.take() {
            Some(op) => op(tx),
            None => Err(StoreError::broken("an operation was run twice")),
        };
        self.queue(lane, need, Room::Takes, once).await
    }

    /// Runs `op`, which is [`Room::Frees`].
    async fn free<R, F>(&self, lane: Lane, need: Need, op: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        self.queue(lane, need, Room::Frees, op).await
    }

    async fn queue<R, F>(&self, lane: Lane, need: Need, room: Room, op: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { need, room, op, result: None, reply };
        self.shared().queue.push(lane, Box::new(pending))?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Runs `look` on a reader thread, in one read transaction.
    async fn read<R, F>(&self, look: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(Sql<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        self.read_then(look, |found| found).await
    }

    /// And then `then` on the same thread, outside the transaction.
    async fn read_then<T, R, F, G>(&self, look: F, then: G) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(Sql<'_>) -> Result<T, StoreError> + Send + 'static,
        G: FnOnce(T) -> R + Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        let connections = Arc::clone(&self.shared().connections);
        let readers = &self.inner.readers;
        let is_free = readers.push(Box::new(move |slot| {
            let result = readers::look(&connections, slot, look).map(then);
            // A caller that went away needs no answer.
            let _ = reply.send(result);
        }))?;
        if is_free {
            return answer.await.unwrap_or_else(|_| Err(unread()));
        }
        loop {
            match tokio::time::timeout(GROW_AFTER, &mut answer).await {
                Ok(result) => return result.unwrap_or_else(|_| Err(unread())),
                Err(_) => readers.grow(),
            }
        }
    }
}

fn unread() -> StoreError {
    StoreError::broken("a read did not come to its end")
}

/// Errors of opening, in words.
fn opening(err: StoreError) -> StoreError {
    match err {
        StoreError::Open(_) => err,
        StoreError::Sqlite(cause) | StoreError::Unavailable(Some(cause)) => {
            StoreError::Open(format!("the metadata database cannot be opened: {cause}"))
        }
        err => StoreError::Open(format!("the metadata database cannot be opened: {err}")),
    }
}

/// Opens the database, brings it to its shape and begins a run; the store's id.
fn begin(connections: &Connections, ids: &Ids) -> Result<(Connection, u64), StoreError> {
    let conn = connections.open_writer()?;
    // What an earlier run left in the log goes into the database, if it fits: then this run's log
    // begins in its place, and needs no room that a full disk does not have.
    if let Err(err) = checkpoint::copy(&conn) {
        tracing::debug!(error = ?err, "the write-ahead log stays as it was left");
    }
    schema::migrate(&conn, &connections.database, schema::MIGRATIONS)?;
    let id = begin_run(Sql(&conn), ids)?;
    Ok((conn, id))
}

/// Counts the run and lifts the ids above all that earlier ones used; the store's id.
fn begin_run(sql: Sql<'_>, ids: &Ids) -> Result<u64, StoreError> {
    sql.run("BEGIN IMMEDIATE", [])?;
    ids.raise(sql.meta("ceiling")?.unwrap_or(0));
    let id = match sql.meta("id")? {
        Some(id) => id,
        None => {
            let id = ids.next();
            sql.meta_set("id", id)?;
            id
        }
    };
    sql.meta_set("run", sql.meta("run")?.unwrap_or(0) + 1)?;
    // Every snapshot that a reader sees has one.
    placement::default_in_tx(sql)?;
    sql.run("COMMIT", [])?;
    Ok(id)
}

impl Inner {
    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread =
            thread.map_err(|err| StoreError::Open(format!("a thread cannot be started: {err}")))?;
        held(&self.threads).push(thread);
        Ok(())
    }

    /// May be called again.
    fn stop(&self) {
        self.shared.queue.close();
        let mut threads = self.readers.close();
        let mut own = std::mem::take(&mut *held(&self.threads));
        // It began last and ends last: when all others are done it empties the log.
        let checkpointer = own.pop();
        threads.append(&mut own);
        end(threads);
        self.shared.wal.close();
        end(checkpointer);
        self.shared.dir.release();
    }
}

/// Waits for threads to end, but for the calling one.
fn end(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    let own = thread::current().id();
    for thread in threads.into_iter().filter(|thread| thread.thread().id() != own) {
        if thread.join().is_err() {
            tracing::error!("a thread of the metadata store panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
