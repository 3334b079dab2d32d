//! The readers: threads with read-only connections, fed by one bounded queue.
//!
//! A read may end in a closure that reads a file and so hangs with a disk. The pool grows when
//! reads have waited for long, up to [`READERS_MAX`], and shrinks when it is idle. A connection
//! is held only for the look-up, never while such a closure runs.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;

use super::connection::Connections;
use super::connection::Slot;
use super::connection::held;
use super::error::StoreError;
use super::sql::Sql;
use super::writer::panic_text;

pub(super) const READERS_MIN: usize = 2;
/// With this many threads stuck on disks, reads wait.
pub(super) const READERS_MAX: usize = 32;
const QUEUE_MAX: usize = 8192;
/// A read that has waited this long gets another thread.
pub(super) const GROW_AFTER: Duration = Duration::from_millis(100);
/// A thread above the wished number ends after this long without work.
const SHRINK_AFTER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce(&Slot) + Send>;

struct State {
    jobs: VecDeque<(Instant, Job)>,
    threads: usize,
    idle: usize,
    is_closed: bool,
    handles: Vec<JoinHandle<()>>,
}

pub(super) struct Readers {
    connections: Arc<Connections>,
    wished: usize,
    state: Mutex<State>,
    filled: Condvar,
}

impl Readers {
    pub(super) fn start(
        connections: Arc<Connections>,
        wished: usize,
    ) -> Result<Arc<Readers>, StoreError> {
        let wished = wished.clamp(READERS_MIN, READERS_MAX);
        let state = State {
            jobs: VecDeque::new(),
            threads: 0,
            idle: 0,
            is_closed: false,
            handles: Vec::new(),
        };
        let readers = Arc::new(Readers {
            connections,
            wished,
            state: Mutex::new(state),
            filled: Condvar::new(),
        });
        for _ in 0..wished {
            readers.spawn(&mut held(&readers.state)).map_err(|err| {
                StoreError::Open(format!("a reader thread cannot be started: {err}"))
            })?;
        }
        Ok(readers)
    }

    /// True when a thread was free to take the job at once.
    pub(super) fn push(&self, job: Job) -> Result<bool, StoreError> {
        let mut state = held(&self.state);
        if state.is_closed {
            return Err(StoreError::Unavailable(None));
        }
        if state.jobs.len() >= QUEUE_MAX {
            return Err(StoreError::Busy);
        }
        state.jobs.push_back((Instant::now(), job));
        let is_free = state.idle >= state.jobs.len();
        drop(state);
        self.filled.notify_one();
        Ok(is_free)
    }

    /// Nothing waits, and nothing is being done.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let state = held(&self.state);
        state.jobs.is_empty() && state.idle == state.threads
    }

    /// Starts another thread when the oldest job has waited for long.
    pub(super) fn grow(self: &Arc<Readers>) {
        let mut state = held(&self.state);
        let is_late =
            state.jobs.front().is_some_and(|(since, _)| since.elapsed() >= GROW_AFTER / 2);
        if is_late
            && state.threads < READERS_MAX
            && !state.is_closed
            && let Err(err) = self.spawn(&mut state)
        {
            tracing::warn!(error = ?err, "another reader thread cannot be started");
        }
    }

    /// What is queued is still done.
    pub(super) fn close(&self) -> Vec<JoinHandle<()>> {
        let mut state = held(&self.state);
        state.is_closed = true;
        self.filled.notify_all();
        std::mem::take(&mut state.handles)
    }

    fn spawn(self: &Arc<Readers>, state: &mut State) -> std::io::Result<()> {
        let readers = Arc::clone(self);
        let handle =
            thread::Builder::new().name("larder-reader".to_owned()).spawn(move || readers.run())?;
        state.threads += 1;
        state.handles.retain(|handle| !handle.is_finished());
        state.handles.push(handle);
        Ok(())
    }

    fn run(&self) {
        let slot = self.connections.slot();
        while let Some(job) = self.next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&slot))) {
                let why = panic_text(panic.as_ref());
                tracing::error!(why, "a read of the metadata store panicked");
                // The connection may be in the middle of a transaction.
                *held(&slot) = None;
            }
        }
        *held(&slot) = None;
        self.connections.give_back(&slot);
    }

    /// Waits for a job; `None` when the thread shall end.
    fn next(&self) -> Option<Job> {
        let mut state = held(&self.state);
        loop {
            if let Some((_, job)) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_closed {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let mut is_spare = false;
            if state.threads > self.wished {
                let waited = self.filled.wait_timeout(state, SHRINK_AFTER);
                let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = back;
                is_spare = timeout.timed_out();
            } else {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
            if is_spare && state.jobs.is_empty() && state.threads > self.wished {
                state.threads -= 1;
                return None;
            }
        }
    }
}

/// Runs `read` in one read transaction: all its statements see the same commits.
pub(super) fn look<R>(
    connections: &Connections,
    slot: &Slot,
    read: impl FnOnce(Sql<'_>) -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    let mut guard = held(slot);
    let conn: &Connection = match guard.take() {
        Some(conn) => guard.insert(conn),
        None => guard.insert(connections.open_reader()?),
    };
    let sql = Sql(conn);
    let result = sql.run("BEGIN", []).and_then(|_| read(sql));
    let ended = sql.run("COMMIT", []);
    if ended.is_err() {
        // Whatever is wrong with it, the next read begins with a fresh one.
        *guard = None;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::Durability;

    #[test]
    fn stuck_jobs_do_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let connections =
            Arc::new(Connections::new(dir.path().join("x.db"), Durability::ProcessExit));
        let readers = Readers::start(connections, 2).unwrap();
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(Mutex::new(stuck));
        for _ in 0..4 {
            let stuck = Arc::clone(&stuck);
            readers
                .push(Box::new(move |_| {
                    let _ = held(&stuck).recv();
                }))
                .unwrap();
        }
        let (done, wait) = mpsc::channel();
        readers.push(Box::new(move |_| done.send(()).unwrap())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while wait.recv_timeout(GROW_AFTER).is_err() {
            assert!(Instant::now() < deadline, "the pool did not grow");
            readers.grow();
        }
        drop(release);
        for handle in readers.close() {
            handle.join().unwrap();
        }
        assert_eq!(held(&readers.state).threads, 0);
    }
}
