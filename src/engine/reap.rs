//! Settling intents whose writer is gone: of an earlier run, or lost in this one.
//!
//! How a write could have ended is never guessed. The backend is asked for the intent's path: a
//! replica of a blob that exists is promoted when its bytes have been read and are right, absent
//! bytes are dropped, all else is condemned; and while the backend says nothing the intent waits.
//!
//! # Why a dropped path is deleted once more
//!
//! A service may still be busy with a request of a process that died. What it makes of it after
//! we looked would lie there for ever, so the path is deleted again an hour later.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::examine;
use super::examine::Means;
use super::examine::Seen;
use super::step::Next;
use super::step::Step;
use crate::backend::Fleet;
use crate::model::BackendId;
use crate::model::WriteId;
use crate::plan::reap;
use crate::plan::reap::Dead;
use crate::plan::reap::Fate;
use crate::plan::reap::Found;
use crate::store::DeadIntent;
use crate::store::FailedWrite;
use crate::store::StoreError;

/// How far a walk over dead intents is.
#[derive(Debug, Default)]
pub struct ReapCursor {
    after: WriteId,
    left: u64,
}

impl Engine {
    /// Settles at most `batch` dead intents, oldest first, `concurrency` at a time.
    pub async fn reap_step(
        &self,
        cursor: &mut ReapCursor,
        batch: usize,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        if cursor.after == WriteId::default() {
            self.settling.settle_lost().await;
        }
        let dead = self.store.intents_dead(cursor.after, batch).await?;
        let is_more = dead.len() == batch;
        cursor.after = dead.last().map_or(cursor.after, |last| last.write);
        let fleet = Arc::new(self.fleet.load().for_work());
        // A backend that does not answer is not asked for all the others.
        let silent: Mutex<BTreeSet<BackendId>> = Mutex::default();
        let mut fates = stream::iter(dead)
            .map(|intent| {
                let (fleet, silent) = (&fleet, &silent);
                async move { self.reap(fleet, silent, &intent).await }
            })
            .buffer_unordered(concurrency.max(1));
        while let Some(fate) = fates.next().await {
            match fate? {
                Fate::Later => {
                    cursor.left += 1;
                    step.failed += 1;
                    step.count("later");
                    continue;
                }
                Fate::Promote => step.count("promoted"),
                Fate::Drop => step.count("dropped"),
                Fate::Condemn | Fate::ReadToCheck => step.count("condemned"),
            }
            step.processed += 1;
        }
        drop(fates);
        if is_more {
            step.next = Next::Now;
            return Ok(step);
        }
        self.store.blobs_settle_dropped().await?;
        step.backlog = Some(cursor.left);
        *cursor = ReapCursor::default();
        Ok(step)
    }

    async fn reap(
        &self,
        fleet: &Fleet,
        silent: &Mutex<BTreeSet<BackendId>>,
        intent: &DeadIntent,
    ) -> Result<Fate, EngineError> {
        let committed = intent.committed.map(|_| intent.size);
        let mut found = self.reap_look(fleet, silent, intent, None).await;
        let mut fate = reap::fate(Dead { committed, found });
        if let (Fate::ReadToCheck, Some(hash)) = (fate, &intent.committed) {
            found = self.reap_look(fleet, silent, intent, Some(hash)).await;
            fate = reap::fate(Dead { committed, found });
        }
        let write = FailedWrite { write: intent.write, unknown: true };
        let settled = match fate {
            Fate::Promote => self.store.replica_commit(intent.write).await,
            Fate::Drop => self.store.intent_drop(intent.write).await,
            Fate::Condemn => self.store.replica_abandon(write).await,
            Fate::Later | Fate::ReadToCheck => return Ok(Fate::Later),
        };
        match settled {
            Ok(()) | Err(StoreError::Superseded) => Ok(fate),
            Err(err) => Err(err.into()),
        }
    }

    /// What the intent's backend says of its path; with `hash`, after its bytes were read.
    async fn reap_look(
        &self,
        fleet: &Fleet,
        silent: &Mutex<BTreeSet<BackendId>>,
        intent: &DeadIntent,
        hash: Option<&[u8; 32]>,
    ) -> Found {
        let is_silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(backend) = fleet.get(intent.backend) else { return Found::Unreachable };
        if is_silent().contains(&intent.backend) {
            return Found::Unreachable;
        }
        let (path, size) = (&intent.path, intent.size);
        let (hashers, budget, read) = (&self.hashers, &self.budget, &AtomicU64::new(0));
        let means = Means { hashers, budget, read };
        let seen = match hash {
            Some(hash) => examine::read(means, backend, path, size, hash).await,
            None => examine::look(backend, path, size).await,
        };
        let hash_ok = hash.map(|_| true);
        match seen {
            Seen::Whole => Found::Bytes { length: size, hash_ok },
            Seen::Length(length) => Found::Bytes { length, hash_ok },
            Seen::Wrong => Found::Bytes { length: size, hash_ok: Some(false) },
            Seen::Missing => Found::Missing,
            Seen::Unreadable(_) | Seen::Away(_) => {
                is_silent().insert(intent.backend);
                Found::Unreachable
            }
        }
    }
}
