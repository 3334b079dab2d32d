//! What the store's threads share: the queue, the log, tickets, and the views held in memory.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::bucket;
use super::checkpoint::Wal;
use super::connection::Connections;
use super::data_dir::DataDir;
use super::error::StoreError;
use super::key;
use super::sql::Sql;
use super::ticket::Tickets;
use super::writer::Queue;
use crate::base::Clock;
use crate::model::AccessKey;
use crate::model::Bucket;

pub(super) struct Shared {
    pub(super) dir: DataDir,
    pub(super) connections: Arc<Connections>,
    pub(super) queue: Queue,
    pub(super) wal: Wal,
    pub(super) tickets: Arc<Tickets>,
    pub(super) clock: Clock,
    /// The first id of this run: intents below it belong to earlier ones.
    pub(super) first_id: u64,
    pub(super) buckets: ArcSwap<BTreeMap<String, Arc<Bucket>>>,
    pub(super) keys: ArcSwap<HashMap<String, AccessKey>>,
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
            tickets: Arc::default(),
            clock,
            first_id,
            buckets: ArcSwap::default(),
            keys: ArcSwap::default(),
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
