//! The threads that hash, and the lanes in which a body passes through them.
//!
//! # Invariants
//!
//! - A lane is in the queue or in the hands of one thread, never both: its jobs run in order.
//! - The queue holds at most the lanes of the bodies that live and the checks that wait, so it is
//!   bounded by the requests in flight; a lane holds at most a window of bytes.
//!
//! # Why own threads
//!
//! A hash of a batch takes up to half a millisecond: too long for the threads that serve
//! connections, and a thread of tokio's blocking pool would be held for a whole body or cost a
//! hop for each of its frames.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Bytes;
use md5::Digest;
use md5::Md5;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;

use super::BlobHash;
use super::BodyHash;
use super::Wanted;
use super::digests::Digests;
use super::tree::Tree;
use crate::base::limits::PIECE;
use crate::base::limits::WINDOW;

/// Frames of one batch.
const FRAMES_MAX: usize = 256;
/// What a frame costs a window beside its bytes, so that tiny frames are bounded too.
const FRAME_COST: usize = 128;
/// A batch of at least this goes at once when nothing of the body is waiting to be hashed.
const EAGER: usize = 64 << 10;

const _: () = assert!((PIECE + FRAMES_MAX * FRAME_COST) as u64 <= WINDOW);

/// The threads that hash. Cheap to clone; they end when the last clone and the last body are gone.
#[derive(Clone)]
pub(crate) struct Hashers {
    pool: Arc<Pool>,
}

struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wanted: Condvar,
}

#[derive(Default)]
struct Queue {
    turns: VecDeque<Turn>,
    closed: bool,
    /// Turns that are being taken.
    #[cfg(test)]
    taken: usize,
}

enum Turn {
    Lane(Arc<Lane>),
    Once(Box<dyn FnOnce() + Send>),
}

impl Hashers {
    pub(crate) fn new(threads: usize) -> Hashers {
        let shared = Arc::new(Shared { queue: Mutex::default(), wanted: Condvar::new() });
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("hash-{number}"))
                .spawn(move || shared.serve())
                .expect("the system starts a thread when the program starts");
        }
        Hashers { pool: Arc::new(Pool { shared }) }
    }

    /// Nothing waits, and nothing is being hashed.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let queue = lock(&self.pool.shared.queue);
        queue.turns.is_empty() && queue.taken == 0
    }

    pub(crate) fn begin(&self, wanted: Wanted) -> BodyHasher {
        let main = Work::Main { tree: Box::new(Tree::new()), digests: Digests::new(&wanted) };
        BodyHasher {
            main: Lane::new(main),
            md5: wanted.md5.then(|| Lane::new(Work::Md5(Md5::new()))),
            pool: Arc::clone(&self.pool),
            window: Arc::new(Semaphore::new(WINDOW as usize)),
            pending: Batch::default(),
            ready: VecDeque::new(),
        }
    }

    /// Runs one short piece of computing in its turn between the bodies.
    pub(crate) async fn run<R, F>(&self, work: F) -> R
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        // A reader that has gone away wants no answer.
        let once = Box::new(move || drop(tell.send(work())));
        self.pool.shared.enqueue(Turn::Once(once));
        told.await.expect("the threads live as long as their handle and do not panic")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wanted.notify_all();
    }
}

impl Shared {
    fn enqueue(&self, turn: Turn) {
        lock(&self.queue).turns.push_back(turn);
        self.wanted.notify_one();
    }

    fn serve(&self) {
        while let Some(turn) = self.next() {
            // A panic ends the one request that waits for the answer, not the thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take_turn(turn)));
            #[cfg(test)]
            {
                lock(&self.queue).taken -= 1;
            }
        }
    }

    fn take_turn(&self, turn: Turn) {
        match turn {
            Turn::Once(work) => work(),
            Turn::Lane(lane) => {
                if lane.step() {
                    self.enqueue(Turn::Lane(lane));
                }
            }
        }
    }

    fn next(&self) -> Option<Turn> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(turn) = queue.turns.pop_front() {
                #[cfg(test)]
                {
                    queue.taken += 1;
                }
                return Some(turn);
            }
            if queue.closed {
                return None;
            }
            queue = self.wanted.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One order of jobs over one state.
struct Lane {
    jobs: Mutex<Jobs>,
    /// Taken only by the thread whose turn the lane is.
    work: Mutex<Work>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// In the queue or in a thread's hands.
    scheduled: bool,
}

enum Work {
    Main { tree: Box<Tree>, digests: Digests },
    Md5(Md5),
}

enum Job {
    Bytes(Arc<Charged>),
    EndBlob(oneshot::Sender<BlobHash>),
    Finish(oneshot::Sender<BodyHash>),
}

/// Bytes that both lanes read; their place in the window is free when both are done.
struct Charged {
    frames: Vec<Bytes>,
    _window: OwnedSemaphorePermit,
}

impl Lane {
    fn new(work: Work) -> Arc<Lane> {
        Arc::new(Lane { jobs: Mutex::default(), work: Mutex::new(work) })
    }

    /// Does one job; whether there are more.
    fn step(&self) -> bool {
        let Some(job) = self.take() else { return false };
        lock(&self.work).run(job);
        let mut jobs = lock(&self.jobs);
        jobs.scheduled = !jobs.waiting.is_empty();
        jobs.scheduled
    }

    fn take(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        let job = jobs.waiting.pop_front();
        jobs.scheduled = job.is_some();
        job
    }
}

impl Work {
    fn run(&mut self, job: Job) {
        match (self, job) {
            (Work::Main { tree, digests }, Job::Bytes(bytes)) => {
                for frame in &bytes.frames {
                    tree.update(frame);
                    digests.update(frame);
                }
            }
            (Work::Md5(md5), Job::Bytes(bytes)) => {
                bytes.frames.iter().for_each(|frame| md5.update(frame));
            }
            // Whoever asked may have gone away, here and below.
            (Work::Main { tree, .. }, Job::EndBlob(tell)) => {
                let _ = tell.send(std::mem::replace(&mut **tree, Tree::new()).finish());
            }
            (Work::Md5(_), Job::EndBlob(_)) => {}
            (Work::Main { digests, .. }, Job::Finish(tell)) => {
                let digests = std::mem::replace(digests, Digests::new(&Wanted::default()));
                let _ = tell.send(digests.finish());
            }
            (Work::Md5(md5), Job::Finish(tell)) => {
                let md5 = Some(md5.finalize_reset().into());
                let _ = tell.send(BodyHash { md5, ..BodyHash::default() });
            }
        }
    }
}

/// Frames that become one job.
#[derive(Default)]
struct Batch {
    frames: Vec<Bytes>,
    len: usize,
}

/// One body being hashed in order: BLAKE3, SHA and CRCs in one lane, MD5 beside them in another.
/// Dropping it gives up what was not hashed yet.
pub(crate) struct BodyHasher {
    main: Arc<Lane>,
    md5: Option<Arc<Lane>>,
    pool: Arc<Pool>,
    window: Arc<Semaphore>,
    pending: Batch,
    /// Full batches that wait for room in the window: at most one frame's worth.
    ready: VecDeque<Batch>,
}

impl BodyHasher {
    /// Hands the bytes on; waits only when hashing is more than a window behind. The bytes are
    /// taken also when the wait is given up.
    pub(crate) async fn update(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let len = bytes.len().min(PIECE - self.pending.len);
            self.pending.frames.push(bytes.split_to(len));
            self.pending.len += len;
            if self.pending.len == PIECE || self.pending.frames.len() == FRAMES_MAX {
                self.close_batch();
            }
        }
        if self.pending.len >= EAGER && self.window.available_permits() as u64 == WINDOW {
            self.close_batch();
        }
        self.hand_on().await;
    }

    /// Ends the current blob and begins the next; the body's hashes run on. When the wait is
    /// given up, the blob's hash is lost.
    pub(crate) async fn end_blob(&mut self) -> BlobHash {
        self.close_batch();
        self.hand_on().await;
        let (tell, told) = oneshot::channel();
        self.pool.shared.push(&self.main, Job::EndBlob(tell));
        told.await.expect("the threads live as long as their handle and answer each job")
    }

    pub(crate) async fn finish(mut self) -> BodyHash {
        self.close_batch();
        self.hand_on().await;
        let ask = |lane: &Arc<Lane>| {
            let (tell, told) = oneshot::channel();
            self.pool.shared.push(lane, Job::Finish(tell));
            told
        };
        let answers = (ask(&self.main), self.md5.as_ref().map(ask));
        let lives = "the threads live as long as their handle and answer each job";
        let mut body = answers.0.await.expect(lives);
        if let Some(md5) = answers.1 {
            body.md5 = md5.await.expect(lives).md5;
        }
        body
    }

    fn close_batch(&mut self) {
        if self.pending.len > 0 {
            self.ready.push_back(std::mem::take(&mut self.pending));
        }
    }

    /// Puts full batches into the lanes as the window has room for them.
    async fn hand_on(&mut self) {
        while let Some(batch) = self.ready.front() {
            let cost = batch.len + batch.frames.len() * FRAME_COST;
            let cost = u32::try_from(cost).expect("a batch is smaller than the window");
            let room = Arc::clone(&self.window).acquire_many_owned(cost).await;
            let room = room.expect("the semaphore is never closed");
            let frames = self.ready.pop_front().map(|batch| batch.frames).unwrap_or_default();
            let bytes = Arc::new(Charged { frames, _window: room });
            if let Some(md5) = &self.md5 {
                self.pool.shared.push(md5, Job::Bytes(Arc::clone(&bytes)));
            }
            self.pool.shared.push(&self.main, Job::Bytes(bytes));
        }
    }
}

impl Shared {
    fn push(&self, lane: &Arc<Lane>, job: Job) {
        let mut jobs = lock(&lane.jobs);
        jobs.waiting.push_back(job);
        if !std::mem::replace(&mut jobs.scheduled, true) {
            drop(jobs);
            self.enqueue(Turn::Lane(Arc::clone(lane)));
        }
    }
}

impl Drop for BodyHasher {
    fn drop(&mut self) {
        for lane in [Some(&self.main), self.md5.as_ref()].into_iter().flatten() {
            lock(&lane.jobs).waiting.clear();
        }
    }
}

/// No code that holds one of these locks can leave its data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
