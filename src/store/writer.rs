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
//!   and the views are read anew, before the next operation runs. Intents that such a transaction
//!   recorded after all, nobody has heard of: they are condemned as soon as that can be written.
//!
//! # When it cannot write
//!
//! A transaction that found the disk full is certainly not in the file. Its operations that give
//! room back ([`Room::Frees`]) are tried again, by themselves, with a step of the ballast for
//! each further try; the others are refused, and so are all that come later, until the ballast
//! is whole again (`ballast`). After any other failure that is not the first in a row the writer
//! refuses everything and tries by itself, with growing pauses, until it can write. While all is
//! well it does nothing that nobody asked for.

use std::any::Any;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::ballast::Ballast;
use super::ballast::Room;
use super::blob;
use super::checkpoint;
use super::error::StoreError;
use super::queue::Operations;
use super::shared::Condition;
use super::shared::Shared;
use super::sql::Sql;
use crate::base::Ids;
use crate::base::ids::CEILING_STEP;
use crate::model::WriteId;

/// Between two tries to write again, or to make the ballast whole: the first pause, which doubles
/// up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

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
    /// A blob misses replicas, or has more than it should.
    pub(super) short: bool,
    pub(super) surplus: bool,
    /// A replica is to leave its backend, or a backend is to be emptied.
    pub(super) leaving: bool,
    pub(super) buckets: bool,
    pub(super) keys: bool,
    /// Bytes that nobody has read yet were imported.
    pub(super) unread: bool,
    /// A replica that was missing is there again.
    pub(super) back: bool,
    /// Borrowed replicas that may have been changed.
    pub(super) doubted: Vec<WriteId>,
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
    /// The same, for want of room on the disk; the connection is as good as before.
    Full,
    Unknown,
    Busy,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    Done,
    /// What it did is to be taken back.
    Failed,
    /// The same, for want of room on the disk, which concerns the whole batch.
    Full,
    /// The same, because the database cannot be written.
    Unable,
}

pub(super) trait Operation: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran;
    fn answer(self: Box<Self>, fate: Fate);
    fn need(&self) -> Need;
    fn room(&self) -> Room;
}

pub(super) struct Pending<F, R> {
    pub(super) need: Need,
    pub(super) room: Room,
    /// Run once, unless the room is [`Room::Frees`].
    pub(super) op: F,
    pub(super) result: Option<Result<R, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<F, R> Operation for Pending<F, R>
where
    F: FnMut(&mut Tx<'_>) -> Result<R, StoreError> + Send,
    R: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        let result = catch_unwind(AssertUnwindSafe(|| (self.op)(tx))).unwrap_or_else(|panic| {
            let why = panic_text(panic.as_ref());
            tracing::error!(why, "an operation of the metadata store panicked");
            Err(StoreError::broken("an operation panicked"))
        });
        let ran = result.as_ref().map_or_else(failed, |_| Ran::Done);
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let answer = match (fate, self.result) {
            (Fate::Committed, Some(result)) => result,
            (Fate::Committed, None) => Err(StoreError::broken("an operation was not run")),
            (Fate::Full, _) => Err(Ballast::refusal()),
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

    fn room(&self) -> Room {
        self.room
    }
}

/// How an operation ended that failed with this.
pub(super) fn failed(err: &StoreError) -> Ran {
    match err {
        err if is_full(err) => Ran::Full,
        StoreError::Unavailable(_) => Ran::Unable,
        _ => Ran::Failed,
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
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
    /// Failures since the last commit, those for want of room left out.
    failures: u32,
    /// Ids that were drawn in transactions of unknown fate: from, and up to.
    lost: Vec<(u64, u64)>,
    /// While not all is well: when the next look is due, and the pause after it.
    look: Option<(Instant, Duration)>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        ids: Arc<Ids>,
        conn: Connection,
    ) -> Result<Writer, StoreError> {
        let synchronous = shared.connections.synchronous(true);
        let mut writer = Writer {
            shared,
            ids,
            conn: None,
            seq: 0,
            ceiling: 0,
            synchronous,
            failures: 0,
            lost: Vec::new(),
            look: None,
        };
        writer.adopt(conn)?;
        Ok(writer)
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            self.look();
            self.settle_lost();
            let Some(batch) = self.shared.queue.take(self.look.map(|(due, _)| due)) else { return };
            if self.shared.is_failing.load(Ordering::Acquire) {
                batch.into_iter().for_each(|op| op.answer(Fate::Unavailable));
                continue;
            }
            // On a full disk the log cannot grow for long; what empties the disk must not wait.
            if !self.shared.dir.ballast.is_out() && !self.shared.wal.wait_for_room() {
                tracing::warn!("the write-ahead log is full and cannot be checkpointed now");
                batch.into_iter().for_each(|op| op.answer(Fate::Busy));
                continue;
            }
            self.batch(batch);
        }
    }

    /// While not all is well, looks from time to time whether it is again.
    fn look(&mut self) {
        if self.shared.condition() == Condition::Well {
            self.look = None;
            return;
        }
        let (due, pause) = *self.look.get_or_insert((Instant::now() + PAUSE_FIRST, PAUSE_FIRST));
        if Instant::now() < due {
            return;
        }
        if self.shared.is_failing.load(Ordering::Acquire) {
            match self.try_to_write() {
                Ok(()) => {
                    self.failures = 0;
                    self.shared.is_failing.store(false, Ordering::Release);
                    tracing::info!("the metadata database can be written again");
                }
                Err(err) => {
                    tracing::debug!(error = ?err, "the metadata database cannot be written yet");
                    self.conn = None;
                }
            }
        }
        let (ballast, wal) = (&self.shared.dir.ballast, &self.shared.wal);
        if ballast.is_out() && !ballast.fill() && ballast.would_fit(wal.measure()) {
            // The checkpointer cuts the log then.
            wal.written();
        }
        let pause = (pause * 2).min(PAUSE_MAX);
        self.look = Some((Instant::now() + pause, pause));
    }

    /// A transaction that changes nothing.
    fn try_to_write(&mut self) -> Result<(), StoreError> {
        if self.conn.is_none() {
            let conn = self.shared.connections.open_writer()?;
            self.adopt(conn)?;
        }
        let Some(conn) = &self.conn else { return Err(StoreError::Unavailable(None)) };
        conn.pragma_update(None, "synchronous", self.shared.connections.synchronous(true))?;
        self.synchronous = self.shared.connections.synchronous(true);
        Sql(conn).meta_set("sequence", self.seq)
    }

    /// Runs a batch and answers it. What gives room back is tried again where that was missing.
    fn batch(&mut self, mut batch: Operations) {
        // A log that was emptied and is too short all the same is not emptied again.
        let mut is_emptied = false;
        batch.extend(self.shared.usage.take(&batch));
        loop {
            if self.shared.dir.ballast.is_out() {
                let (kept, refused): (Operations, Operations) =
                    batch.into_iter().partition(|op| op.room() == Room::Frees);
                batch = kept;
                refused.into_iter().for_each(|op| op.answer(Fate::Full));
            }
            if batch.is_empty() {
                return;
            }
            let fate = self.attempt(&mut batch);
            let is_again = fate == Fate::Full && {
                let has_takers = batch.iter().any(|op| op.room() == Room::Takes);
                self.shared.dir.ballast.meet();
                is_emptied = !is_emptied && self.empty_log();
                is_emptied || self.give() || has_takers
            };
            if !is_again {
                batch.into_iter().for_each(|op| op.answer(fate));
                return;
            }
        }
    }

    /// Gives up a step of the ballast, first to what the database needs in order to take in the log.
    fn give(&self) -> bool {
        let has_given = self.shared.dir.ballast.give();
        if has_given {
            self.empty_log();
        }
        has_given
    }

    /// True when the next transaction finds room in the log.
    fn empty_log(&self) -> bool {
        let emptied = self.conn.as_ref().map(checkpoint::copy);
        emptied.is_some_and(|emptied| emptied.is_ok_and(|is_empty| is_empty))
    }

    /// One transaction, and what has to follow it before anybody is answered.
    fn attempt(&mut self, batch: &mut Operations) -> Fate {
        let last = self.ids.last();
        let mut marks = Marks { seq: self.seq, ..Marks::default() };
        let fate = self.transaction(batch, &mut marks);
        match fate {
            Fate::Committed => {
                self.failures = 0;
                self.seq = marks.seq;
                self.shared.wal.written();
                self.shared.tickets.publish(marks.seq);
                if let Err(err) = self.show(&marks) {
                    tracing::error!(error = ?err, "the views of the store could not be read anew");
                    self.recover();
                }
                if marks.condemned {
                    self.shared.tickets.condemned(marks.seq);
                }
                self.shared.wanted.tell(&marks);
            }
            Fate::Full | Fate::Busy => (),
            Fate::Unavailable | Fate::Unknown => {
                if fate == Fate::Unknown && self.ids.last() > last {
                    self.lost.push((last + 1, self.ids.last()));
                }
                self.recover();
            }
        }
        fate
    }

    /// After a failure that may be anybody's: opens all anew. Where that does not help, all is
    /// refused until a look finds it mended.
    fn recover(&mut self) {
        self.conn = None;
        self.failures += 1;
        let reopened = loop {
            // Where a share of the disk is what is used up, SQLite does not say so.
            let has_given =
                self.shared.dir.ballast.is_disk_full() && self.shared.dir.ballast.give();
            match self.reopen() {
                Err(StoreError::Unavailable(_)) if has_given => (),
                reopened => break reopened,
            }
        };
        if let Err(err) = &reopened {
            tracing::error!(error = ?err, "the metadata database cannot be opened again");
        }
        let is_first = reopened.is_ok() && self.failures == 1;
        if !is_first && !self.shared.is_failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                database = %self.shared.connections.database.display(),
                "the metadata database cannot be written: only reads are served; look at its \
                 disk, and it goes on by itself"
            );
        }
    }

    /// Condemns what transactions of unknown fate recorded after all, once that can be done.
    fn settle_lost(&mut self) {
        if self.shared.is_failing.load(Ordering::Acquire) {
            return;
        }
        while let Some(&(first, last)) = self.lost.last() {
            let (reply, mut answer) = oneshot::channel();
            let now = self.shared.clock.now();
            let op = move |tx: &mut Tx<'_>| blob::settle_in_tx(tx, first, last + 1, now);
            let pending =
                Pending { need: Need::Durable, room: Room::Frees, op, result: None, reply };
            self.batch(vec![Box::new(pending)]);
            match answer.try_recv() {
                Ok(Ok((_, true))) => (),
                Ok(Ok((_, false)) | Err(StoreError::Sqlite(_))) => {
                    self.lost.pop();
                }
                // It cannot be done now.
                _ => return,
            }
        }
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
            if is_full(&err) {
                return Fate::Full;
            }
            tracing::error!(error = ?err, "no transaction could be begun");
            return Fate::Unavailable;
        }
        let before = marks.seq;
        for op in batch.iter_mut() {
            let ran = savepoint(sql, &self.ids, marks, op.as_mut());
            match ran {
                Ok(Ran::Full) => return give_up(conn, true),
                _ if conn.is_autocommit() => {
                    tracing::error!(?ran, "the transaction is gone");
                    return Fate::Unknown;
                }
                Err(err) => return give_up_for(conn, &err),
                Ok(Ran::Unable) => {
                    tracing::error!("an operation of the metadata store could not write");
                    // It never came to a commit.
                    let is_rolled_back = conn.execute_batch("ROLLBACK").is_ok();
                    return if is_rolled_back { Fate::Unavailable } else { Fate::Unknown };
                }
                Ok(Ran::Done | Ran::Failed) => (),
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
            return give_up_for(conn, &err);
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
        let mut raise = || {
            conn.pragma_update(None, "synchronous", synchronous)?;
            self.synchronous = synchronous;
            Sql(conn).meta_set("ceiling", ceiling)
        };
        let raised = loop {
            match raise() {
                Err(err) if is_full(&err) && self.shared.dir.ballast.give() => (),
                raised => break raised,
            }
        };
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

/// Takes back a transaction that failed with `err`.
fn give_up_for(conn: &Connection, err: &StoreError) -> Fate {
    match is_full(err) {
        true => tracing::debug!(error = ?err, "a batch of the metadata store found no room"),
        false => tracing::error!(error = ?err, "a batch of the metadata store was not committed"),
    }
    give_up(conn, is_full(err))
}

/// Takes back a transaction. One that found no room and was taken back is certainly not in the file.
fn give_up(conn: &Connection, is_full: bool) -> Fate {
    let is_rolled_back = conn.is_autocommit() || conn.execute_batch("ROLLBACK").is_ok();
    if is_full && is_rolled_back { Fate::Full } else { Fate::Unknown }
}

pub(super) fn is_full(err: &StoreError) -> bool {
    let StoreError::Unavailable(Some(cause)) = err else { return false };
    let cause = cause.downcast_ref::<rusqlite::Error>();
    cause.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::DiskFull)
}
