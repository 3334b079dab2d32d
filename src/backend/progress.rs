//! Signs of life of one call, for those who must tell a slow backend from one that hangs.
//!
//! Between the engine, which waits for a call, and the transport, which sees its bytes move, lies
//! OpenDAL, which keeps whole parts to itself. So the signs are carried past it as the purpose is:
//! they are the task's own while the call is polled.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// What is heard of one call.
#[derive(Default)]
pub struct Progress {
    beats: AtomicU64,
    waits: AtomicU64,
}

impl Progress {
    pub fn new() -> Arc<Progress> {
        Arc::default()
    }

    /// What `call` does shows here.
    pub fn during<F: Future>(self: &Arc<Self>, call: F) -> impl Future<Output = F::Output> {
        PROGRESS.scope(Arc::clone(self), call)
    }

    /// Grows whenever bytes of the call go to the backend, and whenever it got bandwidth.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    /// It is the backend's limited bandwidth that the call waits for, and not the backend.
    pub fn is_throttled(&self) -> bool {
        self.waits.load(Ordering::Acquire) > 0
    }

    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::AcqRel);
    }
}

/// That of the call that is being polled, if anybody wants to know.
pub(crate) fn current() -> Option<Arc<Progress>> {
    PROGRESS.try_with(Arc::clone).ok()
}

/// A wait for bandwidth, for as long as it is kept.
pub(crate) struct Waiting(Arc<Progress>);

impl Waiting {
    pub(crate) fn begin(progress: &Arc<Progress>) -> Waiting {
        progress.waits.fetch_add(1, Ordering::AcqRel);
        Waiting(Arc::clone(progress))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.beat();
        self.0.waits.fetch_sub(1, Ordering::AcqRel);
    }
}
