//! The threads of one local backend.
//!
//! # Why not the runtime's own blocking threads
//!
//! A hung disk or network mount never answers, and the thread that asked is gone until it does.
//! With threads of its own a backend can lose only those: no other backend, and nothing else in
//! the process, waits for them.
//!
//! # Invariants
//!
//! At most [`THREADS_MAX`] threads and [`QUEUE_MAX`] waiting jobs. A thread is begun when there is
//! work for it and ends after [`IDLE_MAX`] without any. A job that was taken in runs, also when
//! nobody waits for its answer any more.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::oneshot;

/// Jobs of one backend that run at the same time: enough to keep a disk's queue filled.
const THREADS_MAX: usize = 8;
/// Reads on threads of somebody else that are known of at the same time.
const GUESTS_MAX: usize = 8;
/// Jobs of one backend that wait; further callers wait for a place in the queue.
const QUEUE_MAX: usize = 256;
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A backend with a job that runs for longer than this is not prompt.
const PROMPT: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    wake: Condvar,
    epoch: Instant,
    /// When the job in each slot began, in milliseconds since `epoch` plus one; 0 for none.
    began: [AtomicU64; THREADS_MAX + GUESTS_MAX],
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    taken: [bool; THREADS_MAX],
    closed: bool,
}

/// No answer: the time was over before the job was, or there was no thread for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct NoAnswer(pub(crate) Duration);

/// A stay on a thread that is not the pool's own, which counts as a running job.
pub(crate) struct Guest<'a> {
    slot: &'a AtomicU64,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Release);
    }
}

impl Pool {
    pub(crate) fn new(name: &str) -> Pool {
        let shared = Shared {
            name: format!("disk {name}"),
            state: Mutex::default(),
            wake: Condvar::new(),
            epoch: Instant::now(),
            began: [const { AtomicU64::new(0) }; THREADS_MAX + GUESTS_MAX],
        };
        Pool { shared: Arc::new(shared), room: Arc::new(Semaphore::new(QUEUE_MAX)) }
    }

    /// Runs `job` on a thread of the pool and waits at most `limit` for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.call(limit, move |reply| {
            let _ = reply.send(job());
        })
        .await
    }

    /// As [`Pool::run`], with a job that gives its answer itself, or hands the duty on.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(oneshot::Sender<T>) + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let answer = async {
            let permit = Arc::clone(&self.room).acquire_owned().await.ok()?;
            let (reply, answer) = oneshot::channel();
            self.push(Box::new(move || {
                drop(permit);
                job(reply);
            }));
            answer.await.ok()
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(NoAnswer(limit)),
        }
    }

    /// Runs `job` some time, if there is a place for it in the queue; nobody waits for it.
    pub(crate) fn later(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else { return false };
        self.push(Box::new(move || {
            drop(permit);
            job();
        }));
        true
    }

    /// Whether no job has been running for so long that the disk may be hanging.
    pub(crate) fn is_prompt(&self) -> bool {
        let now = self.shared.now();
        let limit = PROMPT.as_millis() as u64;
        self.shared.began.iter().all(|began| {
            let began = began.load(Ordering::Acquire);
            began == 0 || now.saturating_sub(began) <= limit
        })
    }

    /// Announces work on the calling thread; `None` when the disk is not prompt.
    pub(crate) fn enter(&self) -> Option<Guest<'_>> {
        if !self.is_prompt() {
            return None;
        }
        let now = self.shared.now();
        let slots = &self.shared.began[THREADS_MAX..];
        let free = |slot: &&AtomicU64| {
            slot.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        slots.iter().find(free).map(|slot| Guest { slot })
    }

    fn push(&self, job: Job) {
        let mut state = self.shared.lock();
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.shared.wake.notify_one();
            return;
        }
        let Some(slot) = state.taken.iter().position(|taken| !taken) else { return };
        let shared = Arc::clone(&self.shared);
        let begun = std::thread::Builder::new()
            .name(self.shared.name.clone())
            .spawn(move || shared.work(slot));
        match begun {
            Ok(_) => state.taken[slot] = true,
            // Another thread will come to it; without any, its caller learns that none did.
            Err(_) if state.taken.contains(&true) => {}
            Err(_) => drop(state.queue.pop_back()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    /// The life of one thread.
    fn work(&self, slot: usize) {
        while let Some(job) = self.next(slot) {
            self.began[slot].store(self.now(), Ordering::Release);
            // A job that panics takes its reply with it, which tells its caller.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!(thread = self.name, "a job on a local backend panicked");
            }
            self.began[slot].store(0, Ordering::Release);
        }
    }

    /// The next job; `None` when the thread's time has come.
    fn next(&self, slot: usize) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            let mut over = state.closed;
            if !over {
                state.idle += 1;
                let waited = self.wake.wait_timeout(state, IDLE_MAX);
                let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                state = guard;
                state.idle -= 1;
                over = waited.timed_out();
            }
            if over && state.queue.is_empty() {
                state.taken[slot] = false;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn jobs_run_side_by_side_but_not_without_end() {
        let pool = Arc::new(Pool::new("test"));
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let jobs = (0..100).map(|i| {
            let (pool, running, most) =
                (Arc::clone(&pool), Arc::clone(&running), Arc::clone(&most));
            tokio::spawn(async move {
                let job = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    i
                };
                pool.run(LONG, job).await
            })
        });
        for (i, job) in jobs.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(job.await.unwrap(), Ok(i));
        }
        assert!((1..=THREADS_MAX).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_hanging_job_is_not_waited_for_and_is_seen() {
        let pool = Pool::new("test");
        let (let_go, hang) = mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        let stuck = pool.run(limit, move || hang.recv().is_ok()).await;
        assert_eq!(stuck, Err(NoAnswer(limit)));
        assert_eq!(pool.run(LONG, || 7).await, Ok(7), "another thread serves");
        let deadline = Instant::now() + LONG;
        while pool.is_prompt() {
            assert!(Instant::now() < deadline, "the hanging job was never noticed");
            tokio::task::yield_now().await;
        }
        assert!(pool.enter().is_none());
        drop(let_go);
        while !pool.is_prompt() {
            assert!(Instant::now() < deadline, "the job ended but is still counted");
            tokio::task::yield_now().await;
        }
        assert!(pool.enter().is_some());
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_thread_goes_on() {
        let pool = Pool::new("test");
        let died = pool.run(LONG, || panic!("on purpose")).await;
        assert_eq!(died, Err::<(), _>(NoAnswer(LONG)));
        assert_eq!(pool.run(LONG, || 1).await, Ok(1));
    }
}
