//! Taking a backend out of use for good.
//!
//! It is out of use at once; its rows go in bounded steps of the drain worker, which goes on after a
//! crash. Before a replica goes, another is looked at where it lies; what cannot be seen is not
//! counted on, however good its row is.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::examine;
use super::step::Step;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::Operation;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::BackendRow;
use crate::store::Holdings;
use crate::store::Leave;
use crate::store::Others;
use crate::store::Removal;
use crate::store::StoreError;

impl Engine {
    /// What a backend holds, as far as its removal is concerned.
    pub async fn backend_holdings(&self, name: &str) -> Result<(BackendId, Holdings), EngineError> {
        let rows = self.store.backends().await?;
        let row = rows.iter().find(|row| row.name == name).ok_or(EngineError::NoSuchBackend)?;
        let counting = counting(&self.fleet.load(), &rows, row.id);
        Ok((row.id, self.store.backend_holdings(row.id, &counting).await?))
    }

    /// Takes a backend out of use; the drain worker lets its rows go. What it alone has becomes
    /// missing, which `even_sole` has to allow; its bytes are dealt with as `leave` says.
    pub async fn remove_backend(
        &self,
        name: &str,
        leave: Leave,
        even_sole: bool,
    ) -> Result<Holdings, EngineError> {
        let (backend, holdings) = self.backend_holdings(name).await?;
        let may_lose = even_sole && leave == Leave::Bytes;
        if holdings.sole > 0 && !may_lose {
            return Err(StoreError::SoleReplicas(holdings.sole).into());
        }
        self.store.removal_begin(Removal { backend, leave, even_sole: may_lose }).await?;
        self.fleet_changes();
        Ok(holdings)
    }

    /// Lets some of the replicas after `after` go: where to go on, and how many of them stay.
    pub(super) async fn remove_some(
        &self,
        fleet: &Arc<Fleet>,
        removal: Removal,
        after: WriteId,
        (batch, concurrency): (usize, usize),
        step: &mut Step,
    ) -> Result<(Option<WriteId>, u64), EngineError> {
        let page = self.store.backend_replicas(removal.backend, after, batch).await?;
        let last = page.last().map(|(write, _)| *write);
        let is_more = page.len() == batch;
        let rows = self.store.backends().await?;
        let counting = counting(fleet, &rows, removal.backend);
        let number = page.len() as u64;
        let seen: Vec<(WriteId, Others)> = stream::iter(page)
            .map(|(write, blob)| {
                let counting = &counting;
                async move { Ok((write, self.others(fleet, counting, blob).await?)) }
            })
            .buffer_unordered(concurrency.max(1))
            .collect::<Vec<Result<_, EngineError>>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        let stay = match self.store.replicas_let_go(removal, seen).await {
            Err(StoreError::Changed) => return Ok((None, 0)),
            stay => stay?,
        };
        step.processed += number - stay;
        step.add("removed", number - stay);
        Ok((last.filter(|_| is_more), stay))
    }

    /// The good replicas of a blob that were seen where they count; one is enough.
    async fn others(
        &self,
        fleet: &Fleet,
        counting: &[BackendId],
        blob: BlobId,
    ) -> Result<Others, EngineError> {
        let Some((facts, replicas)) = self.blob_and_replicas(blob).await? else {
            return Ok(Others::None);
        };
        let good = replicas.iter().filter(|replica| {
            replica.state == ReplicaState::Good && counting.contains(&replica.backend)
        });
        for replica in good {
            let Some(backend) = fleet.get(replica.backend) else { continue };
            if examine::look(backend, &replica.path, facts.size).await.is_whole() {
                return Ok(Others::Seen(vec![replica.write]));
            }
        }
        Ok(Others::None)
    }
}

/// The backends other than `but` on whose replicas one may count: in use, there, and lasting.
fn counting(fleet: &Fleet, rows: &[BackendRow], but: BackendId) -> Vec<BackendId> {
    let counts = |row: &&BackendRow| {
        let backend = fleet.get(row.id);
        row.duty == Duty::InUse
            && row.id != but
            && backend.is_some_and(|backend| {
                backend.is_durable() && backend.fitness(Operation::Stat, 0) >= Fitness::Spent
            })
    };
    rows.iter().filter(counts).map(|row| row.id).collect()
}
