//! What waits for the writer: two bounded lanes, requests before background work.

use std::collections::VecDeque;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use super::connection::held;
use super::error::StoreError;
use super::writer::Operation;
use crate::base::limits::BATCH_MAX;
use crate::base::limits::WRITER_QUEUE_MAX;

/// Which of the two queues an operation waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Request,
    Work,
}

/// A batch, in the order in which it is run.
pub(super) type Operations = Vec<Box<dyn Operation>>;

#[derive(Default)]
struct Lanes {
    requests: VecDeque<Box<dyn Operation>>,
    work: VecDeque<Box<dyn Operation>>,
    is_closed: bool,
    is_nudged: bool,
    /// The writer has answered all that it took, and waits.
    #[cfg(test)]
    is_waited_at: bool,
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

    /// Lets the writer look at the state of the store, also when nothing waits.
    pub(super) fn nudge(&self) {
        held(&self.lanes).is_nudged = true;
        self.filled.notify_all();
    }

    /// Nothing waits, and nothing is being done.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let lanes = held(&self.lanes);
        lanes.is_waited_at && lanes.requests.is_empty() && lanes.work.is_empty()
    }

    pub(super) fn close(&self) {
        held(&self.lanes).is_closed = true;
        self.filled.notify_all();
    }

    /// Whatever still waits is not done.
    pub(super) fn drop_all(&self) {
        let mut lanes = held(&self.lanes);
        lanes.is_closed = true;
        lanes.requests.clear();
        lanes.work.clear();
    }

    /// Waits for something, until `late` at the longest or a nudge; `None` once closed and drained.
    /// One operation of background work always gets in, so that requests cannot starve it.
    pub(super) fn take(&self, late: Option<Instant>) -> Option<Operations> {
        let mut lanes = held(&self.lanes);
        loop {
            let work = usize::from(!lanes.work.is_empty());
            let requests = lanes.requests.len().min(BATCH_MAX - work);
            let work = lanes.work.len().min(BATCH_MAX - requests);
            if requests + work > 0 {
                let mut batch: Operations = lanes.requests.drain(..requests).collect();
                batch.extend(lanes.work.drain(..work));
                #[cfg(test)]
                {
                    lanes.is_waited_at = false;
                }
                return Some(batch);
            }
            if lanes.is_closed {
                return None;
            }
            if std::mem::take(&mut lanes.is_nudged) {
                return Some(Vec::new());
            }
            #[cfg(test)]
            {
                lanes.is_waited_at = true;
            }
            lanes = match late.map(|late| late.saturating_duration_since(Instant::now())) {
                None => self.filled.wait(lanes).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Some(Vec::new()),
                Some(rest) => {
                    let waited = self.filled.wait_timeout(lanes, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
