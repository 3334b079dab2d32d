//! Where a read gets its bytes and facts from, and the order in which replicas are tried.

use std::cmp::Reverse;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backend::BackendError;
use crate::backend::Fault;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Operation;
use crate::model::ReplicaState;
use crate::store::Replica;
use crate::store::Store;
use crate::store::StoreError;

/// Marks of found faults that may wait for the store at once. One that finds no place is left to
/// the next read that finds the fault.
const MARKS_MAX: usize = 64;

static MARKS: Semaphore = Semaphore::const_new(MARKS_MAX);

pub(super) type Pieces = BoxStream<'static, Result<Bytes, BackendError>>;

/// The seam between the rules of reading and the store and backends that they work with.
pub(crate) trait Source: Send + Sync + 'static {
    /// `None` for a backend that is not in the fleet.
    fn standing(&self, backend: BackendId) -> Option<Standing>;

    fn open(
        &self,
        replica: &Replica,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Pieces, BackendError>> + Send;

    /// The group hashes of a blob that has more than one group.
    fn groups(
        &self,
        blob: BlobId,
    ) -> impl Future<Output = Result<Arc<[[u8; 32]]>, StoreError>> + Send;

    /// The replicas of a blob as they are now.
    fn replicas(
        &self,
        blob: BlobId,
    ) -> impl Future<Output = Result<Vec<Replica>, StoreError>> + Send;

    /// Tells that a replica is missing or damaged, and records it later and beside the read.
    fn mark(&self, replica: &Replica, state: ReplicaState);

    /// Tells a backend that it gave nothing since then and is not waited for any longer.
    fn overdue(&self, backend: BackendId, since: Instant);
}

/// Where a backend stands among those that could be read: the greatest is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    /// Whether it would take a read now.
    pub(crate) fitness: Fitness,
    pub(crate) local: bool,
    /// Reading from it has neither a limit nor a price.
    pub(crate) unmetered: bool,
    /// Its place in the configuration.
    pub(crate) place: Reverse<usize>,
}

/// The real store and the backends of the generation that the read began with.
pub(crate) struct Live {
    pub(crate) store: Store,
    pub(crate) fleet: Arc<Fleet>,
}

pub(super) fn standing(fleet: &Fleet, id: BackendId) -> Option<Standing> {
    let place = fleet.all().iter().position(|backend| backend.id() == id)?;
    let backend = &fleet.all()[place];
    Some(Standing {
        // How much is to be read is known only when it is.
        fitness: backend.fitness(Operation::Read, 0),
        local: backend.device().is_some(),
        unmetered: !backend.is_metered(),
        place: Reverse(place),
    })
}

impl Source for Live {
    fn standing(&self, backend: BackendId) -> Option<Standing> {
        standing(&self.fleet, backend)
    }

    async fn open(&self, replica: &Replica, range: Range<u64>) -> Result<Pieces, BackendError> {
        match self.fleet.get(replica.backend) {
            Some(backend) => backend.read(&replica.path, range).await,
            None => Err(BackendError {
                fault: Fault::Absent,
                backend: replica.backend.to_string().into(),
                operation: "read",
                path: replica.path.clone(),
                unknown: false,
                cause: None,
            }),
        }
    }

    async fn groups(&self, blob: BlobId) -> Result<Arc<[[u8; 32]]>, StoreError> {
        self.store.blob_groups(blob).await
    }

    async fn replicas(&self, blob: BlobId) -> Result<Vec<Replica>, StoreError> {
        self.store.blob_replicas(blob).await
    }

    fn overdue(&self, backend: BackendId, since: Instant) {
        if let Some(backend) = self.fleet.get(backend) {
            backend.overdue(since);
        }
    }

    fn mark(&self, replica: &Replica, state: ReplicaState) {
        let backend = self.fleet.get(replica.backend).map(|backend| backend.name().to_string());
        let path = replica.path.as_str();
        tracing::warn!(backend, path, state = state.name(), "a replica is wrong");
        let Ok(place) = MARKS.try_acquire() else { return };
        let (store, write) = (self.store.clone(), replica.write);
        tokio::spawn(async move {
            let _place = place;
            match store.replica_mark(write, state).await {
                // Its row changed meanwhile: nothing is left to mark.
                Ok(()) | Err(StoreError::Superseded) => {}
                Err(err) => {
                    let err = &err as &dyn std::error::Error;
                    tracing::warn!(%write, state = state.name(), err, "a replica is not marked");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::BackendSettings;
    use crate::backend::faulty::Faults;

    #[tokio::test]
    async fn a_fleet_is_read_in_the_order_of_its_costs() {
        type Change = fn(&mut BackendSettings);
        let limited: Change = |settings| settings.limits.month.requests = Some(1000);
        let priced: Change = |settings| settings.profile.prices.egress_gb = Some(0.09);
        let plain: Change = |_| {};
        // Whether it is a disk, and what its bytes cost.
        let table =
            [(false, priced), (false, plain), (true, limited), (false, plain), (true, plain)];
        let (dir, mut backends) = (tempfile::tempdir().unwrap(), Vec::new());
        for (id, (is_disk, change)) in (1..).zip(table) {
            let (name, root) = (format!("b{id}"), dir.path().join(id.to_string()));
            let root = is_disk.then_some(root.as_path());
            let faults = Faults::default();
            backends.push(Backend::for_tests_as(&name, BackendId(id), root, faults, change).await);
        }
        let fleet = Fleet::new(backends);
        let mut order: Vec<u64> = (1..=5).collect();
        order.sort_by_key(|id| Reverse(standing(&fleet, BackendId(*id)).unwrap()));
        assert_eq!(order, [5, 3, 2, 4, 1]);
        assert_eq!(standing(&fleet, BackendId(6)), None);
    }
}
