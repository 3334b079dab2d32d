//! The writer: one thread, one connection, group commit.
//!
//! Operations wait in two bounded lanes. The thread takes what is there, requests before
//! background work, runs each in a savepoint, commits them together, and only then answers. A
//! batch in which nothing must be durable (intents alone) is not synced.
//!
//! # Invariants
//!
//! - An answer is given after the COMMIT that holds its change, and after the in-memory views
//!   show it.
//! - No id above the durable ceiling is handed on: a batch that passes it raises it first.
//! - When the fate of a transaction is not certain, all connections are closed and opened again,
//!   and the views are read anew, before the next operation runs.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::connection::held;
use super::error::StoreError;
use super::shared::Shared;
use super::sql::Sql;
use crate::base::Ids;
use crate::base::ids::CEILING_STEP;
use crate::base::limits::BATCH_MAX;
use crate::base::limits::WRITER_QUEUE_MAX;

/// Which of the two queues an operation waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Request,
    Work,
}

/// What must have reached the disk before an operation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Durable,
    /// Losing it with the power is as good as its caller's own end.
    Recorded,
}

/// What operations change besides rows, since the batch began.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) seq: u64,
    pub(super) condemned: bool,
    pub(super) buckets: bool,
    pub(super) keys: bool,
}

/// The transaction that an operation runs in.
pub(super) struct Tx<'c> {
    sql: Sql<'c>,
    pub(super) ids: &'c Ids,
    pub(super) marks: &'c mut Marks,
}

impl Tx<'_> {
    /// The next number in the order of commits.
    pub(super) fn next_seq(&mut self) -> u64 {
        self.marks.seq += 1;
        self.marks.seq
    }
}

impl<'c> Deref for Tx<'c> {
    type Target = Sql<'c>;

    fn deref(&self) -> &Sql<'c> {
        &self.sql
    }
}

/// What became of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    /// Certainly not committed.
    Unavailable,
    Unknown,
    Busy,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    Done,
    /// What it did is to be taken back.
    Failed,
    /// The same, for want of room on the disk: SQLite may have taken back the whole batch.
    Full,
}

pub(super) trait Operation: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran;
    fn answer(self: Box<Self>, fate: Fate);
    fn need(&self) -> Need;
}

pub(super) struct Pending<F, R> {
    pub(super) need: Need,
    pub(super) op: Option<F>,
    pub(super) result: Option<Result<R, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<F, R> Operation for Pending<F, R>
where
    F: FnOnce(&mut Tx<'_>) -> Result<R, StoreError> + Send,
    R: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        let Some(op) = self.op.take() else { return Ran::Failed };
        let result = catch_unwind(AssertUnwindSafe(|| op(tx))).unwrap_or_else(|panic| {
            let why = panic_text(panic.as_ref());
            tracing::error!(why, "an operation of the metadata store panicked");
            Err(StoreError::broken("an operation panicked"))
        });
        let ran = match &result {
            Ok(_) => Ran::Done,
            Err(err) if is_full(err) => Ran::Full,
            Err(_) => Ran::Failed,
        };
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let answer = match (fate, self.result) {
            (Fate::Committed, Some(result)) => result,
            (Fate::Committed, None) => Err(StoreError::broken("an operation was not run")),
            (Fate::Unavailable, Some(Err(err @ StoreError::Unavailable(_)))) => Err(err),
            (Fate::Unavailable, _) => Err(StoreError::Unavailable(None)),
            (Fate::Unknown, _) => Err(StoreError::OutcomeUnknown),
            (Fate::Busy, _) => Err(StoreError::Busy),
        };
        // A caller that went away needs no answer.
        let _ = self.reply.send(answer);
    }

    fn need(&self) -> Need {
        self.need
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}

type Operations = Vec<Box<dyn Operation>>;

#[derive(Default)]
struct Lanes {
    requests: VecDeque<Box<dyn Operation>>,
    work: VecDeque<Box<dyn Operation>>,
    is_closed: bool,
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    lanes: Mutex<Lanes>,
    filled: Condvar,
}

impl Queue {
    /// `Busy` when the lane is full, `Unavailable` when the store was closed.
    pub(super) fn push(&self, lane: Lane, op: Box<dyn Operation>) -> Result<(), StoreError> {
        let mut lanes = held(&self.lanes);
        if lanes.is_closed {
            return Err(StoreError::Unavailable(None));
        }
        let queue = match lane {
            Lane::Request => &mut lanes.requests,
            Lane::Work => &mut lanes.work,
        };
        if queue.len() >= WRITER_QUEUE_MAX {
            return Err(StoreError::Busy);
        }
        queue.push_back(op);
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        held(&self.lanes).is_closed = true;
        self.filled.notify_all();
    }

    /// Whatever still waits is not done.
    fn drop_all(&self) {
        let mut lanes = held(&self.lanes);
        lanes.is_closed = true;
        lanes.requests.clear();
        lanes.work.clear();
    }

    /// Waits for something; empty once closed and drained. One operation of background work
    /// always gets in, so that requests cannot starve it.
    fn take(&self) -> Operations {
        let mut lanes = held(&self.lanes);
        loop {
            let work = usize::from(!lanes.work.is_empty());
            let requests = lanes.requests.len().min(BATCH_MAX - work);
            let work = lanes.work.len().min(BATCH_MAX - requests);
            if requests + work > 0 || lanes.is_closed {
                let mut batch: Operations = lanes.requests.drain(..requests).collect();
                batch.extend(lanes.work.drain(..work));
                return batch;
            }
            lanes = self.filled.wait(lanes).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    ids: Arc<Ids>,
    /// `None` after a failure, until it could be opened again.
    conn: Option<Connection>,
    seq: u64,
    ceiling: u64,
    synchronous: &'static str,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        ids: Arc<Ids>,
        conn: Connection,
    ) -> Result<Writer, StoreError> {
        let synchronous = shared.connections.synchronous(true);
        let mut writer = Writer { shared, ids, conn: None, seq: 0, ceiling: 0, synchronous };
        writer.adopt(conn)?;
        Ok(writer)
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let batch = self.shared.queue.take();
            if batch.is_empty() {
                return;
            }
            if !self.shared.wal.wait_for_room() {
                tracing::warn!("the write-ahead log is full and cannot be checkpointed now");
                batch.into_iter().for_each(|op| op.answer(Fate::Busy));
                continue;
            }
            self.batch(batch);
        }
    }

    fn batch(&mut self, mut batch: Operations) {
        if self.conn.is_none() && self.reopen().is_err() {
            batch.into_iter().for_each(|op| op.answer(Fate::Unavailable));
            return;
        }
        let mut marks = Marks { seq: self.seq, ..Marks::default() };
        let fate = self.transaction(&mut batch, &mut marks);
        match fate {
            Fate::Committed => {
                self.seq = marks.seq;
                self.shared.wal.written();
                self.shared.tickets.publish(marks.seq);
                if let Err(err) = self.show(&marks) {
                    tracing::error!(error = ?err, "the views of the store could not be read anew");
                    self.conn = None;
                }
                if marks.condemned {
                    self.shared.tickets.condemned(marks.seq);
                }
            }
            Fate::Unavailable | Fate::Unknown | Fate::Busy => {
                self.conn = None;
                if let Err(err) = self.reopen() {
                    tracing::error!(error = ?err, "the metadata database cannot be opened again");
                }
            }
        }
        batch.into_iter().for_each(|op| op.answer(fate));
    }

    fn transaction(&mut self, batch: &mut Operations, marks: &mut Marks) -> Fate {
        let is_durable = batch.iter().any(|op| op.need() == Need::Durable);
        let synchronous = self.shared.connections.synchronous(is_durable);
        let Some(conn) = &self.conn else { return Fate::Unavailable };
        let sql = Sql(conn);
        let begun = (|| {
            if synchronous != self.synchronous {
                conn.pragma_update(None, "synchronous", synchronous)?;
                self.synchronous = synchronous;
            }
            sql.run("BEGIN IMMEDIATE", [])
        })();
        if let Err(err) = begun {
            tracing::error!(error = ?err, "no transaction could be begun");
            return Fate::Unavailable;
        }
        let before = marks.seq;
        for op in batch.iter_mut() {
            let ran = savepoint(sql, &self.ids, marks, op.as_mut());
            if conn.is_autocommit() {
                tracing::error!(?ran, "the transaction is gone");
                let is_full = matches!(ran, Ok(Ran::Full));
                return if is_full { Fate::Unavailable } else { Fate::Unknown };
            }
            if let Err(err) = ran {
                return give_up(conn, &err);
            }
        }
        let ceiling = (self.ids.last() > self.ceiling).then(|| self.ids.last() + CEILING_STEP);
        let finished = (|| {
            if marks.seq != before {
                sql.meta_set("sequence", marks.seq)?;
            }
            if let Some(ceiling) = ceiling {
                sql.meta_set("ceiling", ceiling)?;
            }
            sql.run("COMMIT", [])
        })();
        if let Err(err) = finished {
            return give_up(conn, &err);
        }
        match ceiling {
            Some(ceiling) if is_durable => self.ceiling = ceiling,
            // The ceiling has to be on the disk before the ids below it are used.
            Some(ceiling) => return self.sync_ceiling(ceiling + 1),
            None => (),
        }
        Fate::Committed
    }

    /// A transaction of its own, durable, after one that was not.
    fn sync_ceiling(&mut self, ceiling: u64) -> Fate {
        let Some(conn) = &self.conn else { return Fate::Unknown };
        let synchronous = self.shared.connections.synchronous(true);
        let raised = (|| {
            conn.pragma_update(None, "synchronous", synchronous)?;
            self.synchronous = synchronous;
            Sql(conn).meta_set("ceiling", ceiling)
        })();
        match raised {
            Ok(()) => {
                self.ceiling = ceiling;
                Fate::Committed
            }
            Err(err) => {
                tracing::error!(error = ?err, "the ceiling of ids could not be raised");
                Fate::Unknown
            }
        }
    }

    /// Replaces the views that the batch changed.
    fn show(&self, marks: &Marks) -> Result<(), StoreError> {
        let Some(conn) = &self.conn else { return Ok(()) };
        if marks.buckets {
            self.shared.show_buckets(Sql(conn))?;
        }
        if marks.keys {
            self.shared.show_keys(Sql(conn))?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let conn = self.shared.connections.reopen()?;
        self.adopt(conn)
    }

    /// Believes what the database says, and nothing that was known before.
    fn adopt(&mut self, conn: Connection) -> Result<(), StoreError> {
        let sql = Sql(&conn);
        self.seq = sql.meta("sequence")?.unwrap_or(0);
        self.ceiling = sql.meta("ceiling")?.unwrap_or(0);
        self.synchronous = self.shared.connections.synchronous(true);
        self.shared.show_buckets(sql)?;
        self.shared.show_keys(sql)?;
        self.shared.tickets.publish(self.seq);
        // A commit whose answer was lost may have condemned something.
        self.shared.tickets.condemned(self.seq);
        self.conn = Some(conn);
        Ok(())
    }
}

/// Also when the thread panics: nobody waits for an answer that cannot come.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.drop_all();
    }
}

/// Runs one operation so that its failure takes back nothing but itself.
fn savepoint(
    sql: Sql<'_>,
    ids: &Ids,
    marks: &mut Marks,
    op: &mut dyn Operation,
) -> Result<Ran, StoreError> {
    sql.run("SAVEPOINT op", [])?;
    let ran = op.run(&mut Tx { sql, ids, marks });
    if sql.0.is_autocommit() {
        return Ok(ran);
    }
    if ran != Ran::Done {
        sql.run("ROLLBACK TO op", [])?;
    }
    sql.run("RELEASE op", [])?;
    Ok(ran)
}

/// Whether a transaction that failed is certainly not in the file.
fn give_up(conn: &Connection, err: &StoreError) -> Fate {
    tracing::error!(error = ?err, "a batch of the metadata store was not committed");
    let is_rolled_back = conn.is_autocommit() || conn.execute_batch("ROLLBACK").is_ok();
    if is_full(err) && is_rolled_back { Fate::Unavailable } else { Fate::Unknown }
}

fn is_full(err: &StoreError) -> bool {
    let StoreError::Unavailable(Some(cause)) = err else { return false };
    let cause = cause.downcast_ref::<rusqlite::Error>();
    cause.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::DiskFull)
}
