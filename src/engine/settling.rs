//! Intents that must be settled although nobody waits for it any more.
//!
//! A write that failed, and a leg that the commit did not wait for, leave intents behind whose
//! bytes are reserved until the store has heard how they ended. While the store cannot write they
//! wait here, in order, and are tried again until it can. A full disk is no such time: giving up
//! gives room back. Intents of which nobody has heard, since it was not known whether they were
//! recorded, are the store's own business.
//!
//! # Invariants
//!
//! - What is settled here has no writer any more.
//! - Of two that came one after the other the first is settled first.
//! - At most [`WAITING_MAX`] wait; as many beyond, and what the store will not take, are left to the
//!   reaper, and the rest to the reaper of the next run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use crate::base::chain;
use crate::model::BlobId;
use crate::model::WriteId;
use crate::store::FailedWrite;
use crate::store::Store;
use crate::store::StoreError;

const WAITING_MAX: usize = 100_000;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// What is to be settled. All of it may be done twice.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    /// Blobs that no commit took are given up; those that one did take are left alone.
    Blobs(Vec<(BlobId, Vec<FailedWrite>)>),
    /// The bytes are durable, and the blob is committed or gone.
    Good(WriteId),
    Failed(FailedWrite),
}

impl Waiting {
    fn lose(&mut self, due: Due) {
        match self.lost.len() < WAITING_MAX {
            true => self.lost.push_back(due),
            false => {
                tracing::error!("too many intents wait to be settled; one more is left behind")
            }
        }
    }
}

/// Settles intents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Settling {
    store: Store,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    due: VecDeque<Due>,
    is_tried: bool,
    /// What the store would not take, or found no place: the reaper tries again.
    lost: VecDeque<Due>,
}

impl Settling {
    pub(super) fn new(store: Store) -> Settling {
        Settling { store, waiting: Arc::default() }
    }

    /// Settled when this returns, or waiting for the store to write again.
    pub(crate) async fn settle(&self, due: Due) {
        let is_first = self.lock().due.is_empty();
        if is_first && self.is_done(&due).await {
            return;
        }
        let mut waiting = self.lock();
        if waiting.due.len() >= WAITING_MAX {
            waiting.lose(due);
            return;
        }
        waiting.due.push_back(due);
        if !std::mem::replace(&mut waiting.is_tried, true) {
            tokio::spawn(self.clone().try_again());
        }
    }

    /// Tries once more what was lost.
    pub(crate) async fn settle_lost(&self) {
        let lost = std::mem::take(&mut self.lock().lost);
        for due in lost {
            self.settle(due).await;
        }
    }

    async fn try_again(self) {
        loop {
            let next = {
                let mut waiting = self.lock();
                let next = waiting.due.front().cloned();
                waiting.is_tried = next.is_some();
                next
            };
            let Some(next) = next else { return };
            if self.is_done(&next).await {
                self.lock().due.pop_front();
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Whether nothing is left to do, or nothing can be done.
    async fn is_done(&self, due: &Due) -> bool {
        let settled = match due {
            Due::Blobs(blobs) => self.store.blobs_abandon(blobs.clone()).await,
            Due::Good(write) => self.store.replica_commit(*write).await,
            Due::Failed(write) => self.store.replica_abandon(*write).await,
        };
        match settled {
            Ok(()) | Err(StoreError::Superseded) => true,
            Err(
                err @ (StoreError::Busy | StoreError::Unavailable(_) | StoreError::OutcomeUnknown),
            ) => {
                tracing::debug!(error = chain(&err), "an intent cannot be settled yet");
                false
            }
            Err(err) => {
                tracing::error!(error = chain(&err), "an intent cannot be settled");
                self.lock().lose(due.clone());
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
