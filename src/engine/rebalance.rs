//! Moving replicas between backends with a quota, toward the fullest or toward equal shares.
//!
//! A run plans from what the store and the backends say now, and carries the plan out. Every move
//! is checked again where it is made: a replica that changed meanwhile stays where it is, and one
//! move that fails stops no other.
//!
//! # Why candidates come in pages
//!
//! A plan is made from a bounded number of replicas of each backend. Where none of a page may move
//! (each blob is where it would go already, say), the next page is looked at, so that what could
//! move behind them is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::copy_blob::CopyBlobError;
use super::move_replica::Move;
use super::step::Step;
use super::surplus::is_young;
use super::write::candidate;
use crate::backend::Backend;
use crate::backend::Fleet;
use crate::backend::Need;
use crate::base::Timestamp;
use crate::base::chain;
use crate::model::BackendId;
use crate::model::Class;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::Operation;
use crate::model::WriteId;
use crate::plan::placement;
use crate::plan::placement::Candidate;
use crate::plan::rebalance;
use crate::plan::rebalance::Load;
use crate::plan::rebalance::Skipped;
use crate::store::BackendRow;
use crate::store::LedgerRow;
use crate::store::Movable;
use crate::store::SizeOrder;
use crate::store::StoreError;

pub use crate::plan::rebalance::Rules as RebalanceRules;
pub use crate::plan::rebalance::Strategy;

/// Replicas of one backend that a plan is made from at a time, for each move that it may have.
const CANDIDATES_A_MOVE: usize = 10;
const CANDIDATES_MAX: usize = 10_000;
/// Pages of candidates that are looked at for one plan.
const PAGES_MAX: usize = 100;
const GB: f64 = 1e9;
const THOUSAND: f64 = 1e3;

/// A move that would be made.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMove {
    pub blob: crate::model::BlobId,
    pub write: WriteId,
    pub from: BackendId,
    pub to: BackendId,
    pub bytes: u64,
    /// What the providers ask for it, where all prices that count are known.
    pub money: Option<f64>,
}

impl Engine {
    /// What a run would move now, or why it would move nothing.
    pub async fn rebalance_plan(
        &self,
        rules: RebalanceRules,
    ) -> Result<Result<Vec<PlannedMove>, Skipped>, EngineError> {
        let fleet = Arc::new(self.fleet.load().for_work());
        let planned = self.plan_moves(&fleet, &rules).await?;
        let priced = |planned: rebalance::Move| {
            let ends = fleet.get(planned.from).zip(fleet.get(planned.to));
            PlannedMove {
                blob: planned.blob,
                write: planned.write,
                from: planned.from,
                to: planned.to,
                bytes: planned.bytes,
                money: ends.and_then(|(from, to)| price(from, to, planned.bytes)),
            }
        };
        Ok(planned.map(|moves| moves.into_iter().map(priced).collect()))
    }

    /// Plans, and moves `concurrency` replicas at a time.
    pub async fn rebalance_step(
        &self,
        rules: RebalanceRules,
        concurrency: usize,
    ) -> Result<Step, EngineError> {
        let mut step = Step::default();
        let fleet = Arc::new(self.fleet.load().for_work());
        let moves = match self.plan_moves(&fleet, &rules).await? {
            Ok(moves) => moves,
            Err(skipped) => {
                step.count(match skipped {
                    Skipped::Threshold => "skipped_threshold",
                    Skipped::EmptyPlan => "skipped_empty_plan",
                });
                return Ok(step);
            }
        };
        step.add("planned", moves.len() as u64);
        let mut moved = stream::iter(moves)
            .map(|planned| {
                let fleet = &fleet;
                async move {
                    let rebalance::Move { blob, write, from, to, bytes } = planned;
                    let wanted = Move { blob, write, from, to };
                    (bytes, self.move_replica(fleet, wanted, CondemnReason::Moved).await)
                }
            })
            .buffer_unordered(concurrency.max(1));
        while let Some((bytes, outcome)) = moved.next().await {
            let result = match outcome {
                Ok(()) => {
                    step.processed += 1;
                    step.add("bytes", bytes);
                    "moved"
                }
                Err(CopyBlobError::Store(StoreError::Changed | StoreError::Superseded)) => {
                    "superseded"
                }
                Err(err) => {
                    step.failed += 1;
                    tracing::debug!(why = chain(&err), "a replica could not be moved");
                    "failed"
                }
            };
            step.count(result);
        }
        drop(moved);
        // What was moved leaves bytes that wait for their deletion, and the next run counts them.
        step.backlog = Some(0);
        Ok(step)
    }

    async fn plan_moves(
        &self,
        fleet: &Arc<Fleet>,
        rules: &RebalanceRules,
    ) -> Result<Result<Vec<rebalance::Move>, Skipped>, EngineError> {
        let rows = self.store.backends().await?;
        let loads: Vec<Load> =
            rows.iter().filter_map(|row| Some(load(fleet.get(row.id)?, row))).collect();
        if !rebalance::is_due(&loads, rules.threshold) {
            return Ok(Err(Skipped::Threshold));
        }
        let (order, now) = match rules.strategy {
            Strategy::Pack => (SizeOrder::SmallestFirst, self.clock.now()),
            Strategy::Spread => (SizeOrder::LargestFirst, self.clock.now()),
        };
        let max = rules.batch.saturating_mul(CANDIDATES_A_MOVE).min(CANDIDATES_MAX);
        let sources = loads.iter().filter(|load| load.is_source && load.quota.is_some());
        let sources: Vec<BackendId> = sources.map(|load| load.backend).collect();
        let mut after: BTreeMap<BackendId, Option<(u64, WriteId)>> =
            sources.iter().map(|source| (*source, None)).collect();
        let all = self.candidates(fleet, &rows);
        for _ in 0..PAGES_MAX {
            let mut replicas = Vec::new();
            for (source, from) in std::mem::take(&mut after) {
                let page = self.store.replicas_movable(source, order, from, max).await?;
                if page.len() == max {
                    after.extend(page.last().map(|last| (source, Some((last.size, last.write)))));
                }
                let Some(backend) = fleet.get(source) else { continue };
                replicas.extend(
                    page.into_iter().map(|movable| self.piece(&all, backend, movable, now)),
                );
            }
            match rebalance::plan(&loads, &replicas, rules) {
                Err(Skipped::EmptyPlan) if !after.is_empty() => {}
                planned => return Ok(planned),
            }
        }
        Ok(Err(Skipped::EmptyPlan))
    }

    fn candidates(&self, fleet: &Fleet, rows: &[BackendRow]) -> Vec<Candidate> {
        let ledger: Vec<LedgerRow> = rows.iter().map(LedgerRow::from).collect();
        fleet.all().iter().filter_map(|backend| candidate(backend, &ledger, 0)).collect()
    }

    /// A replica as the plan sees it.
    fn piece(
        &self,
        all: &[Candidate],
        from: &Backend,
        movable: Movable,
        now: Timestamp,
    ) -> rebalance::Replica {
        let rules = placement::Rules {
            routing: movable.wish.routing,
            require_distinct: movable.wish.require_distinct.clone(),
            same_device: self.settings.load().same_device,
        };
        let stays = |id: &&BackendId| **id != from.id();
        let others: Vec<BackendId> = movable.counting.iter().filter(stays).copied().collect();
        let allowed = all.iter().filter(|candidate| {
            movable.size <= candidate.blob_max
                && candidate.durable
                && placement::may_join(candidate, &others, all, &rules)
        });
        rebalance::Replica {
            blob: movable.blob,
            write: movable.write,
            from: from.id(),
            size: movable.size,
            allowed: allowed.map(|candidate| candidate.backend).collect(),
            holders: movable.living,
            is_movable: !is_young(from, movable.write, now),
        }
    }
}

fn load(backend: &Backend, row: &BackendRow) -> Load {
    let by_quota = row.free().unwrap_or(u64::MAX);
    let on_disk = backend.room().map_or(u64::MAX, |room| room.saturating_sub(row.reserved));
    let is_source = row.duty == Duty::InUse && backend.fitness(Operation::Read, 1).is_fit();
    let is_destination = row.duty == Duty::InUse
        && backend.is_durable()
        && backend.fitness(Operation::Write, 1) == crate::backend::Fitness::Fit;
    Load {
        backend: row.id,
        quota: row.quota,
        kept: row.used.saturating_add(row.reserved),
        orphan: row.orphan,
        room: by_quota.min(on_disk),
        is_source,
        is_destination,
    }
}

/// What providers ask for reading `bytes` from one backend and writing them to another. `None`
/// while a price that counts is not known; a local backend has none and asks for nothing.
fn price(from: &Backend, to: &Backend, bytes: u64) -> Option<f64> {
    let ends = [(from, Operation::Read), (to, Operation::Write)];
    let mut sum = 0.0;
    for (backend, operation) in ends.into_iter().filter(|(backend, _)| backend.device().is_none()) {
        let profile = &backend.settings().profile;
        let need = Need::of(operation, bytes, profile);
        for class in Class::ALL.into_iter().filter(|class| need.calls[*class as usize] > 0) {
            let price = profile.prices.thousand_calls[class as usize]?;
            sum += price * need.calls[class as usize] as f64 / THOUSAND;
        }
        sum += match operation {
            Operation::Read => profile.prices.egress_gb? * bytes as f64 / GB,
            _ => profile.prices.ingress_gb.unwrap_or(0.0) * bytes as f64 / GB,
        };
    }
    Some(sum)
}
