//! What the store's threads share: the queue, the log, tickets, and the views held in memory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::bucket;
use super::checkpoint::Wal;
use super::connection::Connections;
use super::data_dir::DataDir;
use super::error::StoreError;
use super::key;
use super::queue::Queue;
use super::sql::Sql;
use super::ticket::Tickets;
use super::usage::Along;
use super::writer::Marks;
use crate::base::Clock;
use crate::model::AccessKey;
use crate::model::Bucket;
use crate::model::WriteId;

/// Whether the store can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Well,
    /// The disk of the data directory is full, or has no room for the ballast: what gives room back
    /// is done, and nothing else.
    Tight,
    /// Nothing can be written, for another reason; it is tried again every few seconds.
    Failing,
}

pub(super) struct Shared {
    pub(super) dir: DataDir,
    pub(super) connections: Arc<Connections>,
    pub(super) queue: Queue,
    pub(super) wal: Wal,
    /// Counts that go along with commits.
    pub(super) usage: Along,
    pub(super) tickets: Arc<Tickets>,
    /// Woken when there is work of a kind.
    pub(super) wanted: Wanted,
    pub(super) clock: Clock,
    /// The first id of this run: intents below it belong to earlier ones.
    pub(super) first_id: u64,
    pub(super) buckets: ArcSwap<BTreeMap<String, Arc<Bucket>>>,
    pub(super) keys: ArcSwap<HashMap<String, AccessKey>>,
    /// The writer waits until it can write again.
    pub(super) is_failing: AtomicBool,
    /// Questions to surveys that have no answer yet.
    pub(super) surveyed: Arc<AtomicUsize>,
}

/// Doubted files that are kept in memory. Beyond, they are left to the next survey.
const DOUBTED_MAX: usize = 10_000;

/// What background work is woken by; each handle has one listener.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) short: Arc<Notify>,
    pub(super) surplus: Arc<Notify>,
    pub(super) leaving: Arc<Notify>,
    pub(super) scrub: Arc<Notify>,
    /// How many times replicas came back.
    pub(super) backs: AtomicU64,
    pub(super) doubts: Arc<Notify>,
    /// Borrowed replicas that were doubted and not looked at yet.
    pub(super) doubted: Mutex<BTreeSet<WriteId>>,
}

impl Wanted {
    pub(super) fn tell(&self, marks: &Marks) {
        if marks.short {
            self.short.notify_one();
        }
        if marks.surplus {
            self.surplus.notify_one();
        }
        if marks.leaving {
            self.leaving.notify_one();
        }
        if marks.back {
            self.backs.fetch_add(1, Ordering::AcqRel);
        }
        if marks.unread || marks.back {
            self.scrub.notify_one();
        }
        if !marks.doubted.is_empty() {
            let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
            let room = DOUBTED_MAX.saturating_sub(doubted.len());
            doubted.extend(marks.doubted.iter().take(room));
            self.doubts.notify_one();
        }
    }
}

impl Shared {
    pub(super) fn new(
        dir: DataDir,
        connections: Arc<Connections>,
        clock: Clock,
        first_id: u64,
    ) -> Shared {
        Shared {
            wal: Wal::new(&dir.database),
            dir,
            connections,
            queue: Queue::default(),
            usage: Along::default(),
            tickets: Arc::default(),
            wanted: Wanted::default(),
            clock,
            first_id,
            buckets: ArcSwap::default(),
            keys: ArcSwap::default(),
            is_failing: AtomicBool::new(false),
            surveyed: Arc::default(),
        }
    }

    pub(super) fn condition(&self) -> Condition {
        if self.is_failing.load(Ordering::Acquire) {
            Condition::Failing
        } else if self.dir.ballast.is_out() {
            Condition::Tight
        } else {
            Condition::Well
        }
    }

    pub(super) fn show_buckets(&self, sql: Sql<'_>) -> Result<(), StoreError> {
        let all = bucket::buckets_in_tx(sql)?;
        let view = all.into_iter().map(|b| (b.name.as_str().to_owned(), Arc::new(b))).collect();
        self.buckets.store(Arc::new(view));
        Ok(())
    }

    pub(super) fn show_keys(&self, sql: Sql<'_>) -> Result<(), StoreError> {
        let all = key::keys_in_tx(sql, &self.dir.host_key)?;
        let view = all.into_iter().map(|key| (key.id.clone(), key)).collect();
        self.keys.store(Arc::new(view));
        Ok(())
    }
}
