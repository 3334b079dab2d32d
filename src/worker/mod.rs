//! Work that nobody waits for.
//!
//! A worker is a loop body, not a loop. [`Worker::step`] looks at the state of the world, does one
//! bounded piece of what is missing, and says when to look again. It is given no work item: a worker
//! that acts only on what it can see behaves the same after a crash, a restore, or a wake-up that
//! it did not need.
//!
//! The [`Crew`] owns everything else: pacing, back-off, locks, admission, settings, shutdown, and
//! the report that an operator sees. No worker sleeps, retries or spawns for later.
//!
//! # Why a worker that has nothing to do is not called
//!
//! An appliance that idles shall write to no disk and call no service. So there is no tick without
//! work: whoever makes work wakes the worker ([`Wakes`]), and a step says when the next thing is due.

mod cleanup;
mod crew;
mod drain;
mod lifecycle;
mod over_replication;
mod pending_reaper;
mod post;
mod rebalancer;
mod reconciler;
mod replicator;
mod scrubber;
mod report;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod wakes;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::crew::Crew;
pub use self::crew::Held;
pub use self::crew::RunError;
pub use self::rebalancer::rebalance_rules;
pub use self::report::Report;
pub use self::report::RunProgress;
pub use self::report::State;
pub use self::report::Totals;
pub use self::scrubber::scrub_settings;
pub use self::settings::CrewSettings;
pub use self::settings::RebalancerSettings;
pub use self::settings::ReconcilerSettings;
pub use self::settings::ScrubberSettings;
pub use self::settings::Settings;
pub use self::table::Factory;
pub use self::table::Name;
#[cfg(test)]
pub(crate) use self::table::factories;
pub use self::wakes::Wakes;
use crate::engine::EngineError;
pub use crate::engine::{Next, Step};

#[async_trait::async_trait]
pub trait Worker: Send {
    fn name(&self) -> Name;

    /// Does at most one bounded batch and says when to look again. It may be repeated without harm.
    /// It is never cut off, also not when the process stops: then `turn.stop` is cancelled, and a
    /// step that takes long ends itself soon.
    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError>;
}

/// What a step is given.
#[derive(Clone, Debug)]
pub struct Turn {
    pub settings: Arc<CrewSettings>,
    /// It is one of a pass that an operator asked for: schedule and age do not count.
    pub is_full: bool,
    pub stop: CancellationToken,
}
