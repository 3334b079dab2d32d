//! The product's verbs, one file each: the only place where store meets backend.
//!
//! A write is *register*, *write*, *commit*: blobs are placed and their intents recorded, the bytes
//! are made durable, one transaction lets the version appear. Whatever ends the process in between
//! leaves intents, which the next start condemns; there is no undo path to get wrong. A delete is
//! one transaction; cleanup deletes the bytes later.
//!
//! # Why writes run in tasks of their own
//!
//! A client that hangs up ends the future that serves it, at any await. A write must still settle
//! its intents then, so it runs detached and meets the lost client as a body that breaks off.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

mod admission;
mod backends;
mod buckets;
mod cleanup;
mod content_type;
mod copy_blob;
mod copy_object;
mod drain;
mod error;
mod examine;
mod get_object;
mod hash;
mod import;
mod keys;
mod move_replica;
mod lifecycle;
mod multipart;
mod objects;
mod parked;
mod put_object;
mod read;
mod reap;
mod rebalance;
mod reconcile;
mod refusals;
mod remove;
mod replicate;
mod request;
mod rules;
mod scrub;
mod settling;
mod step;
mod surplus;
mod show_object;
mod tee;
#[cfg(test)]
mod tests;
mod upkeep;
mod usage;
mod verify;
mod watch;
mod write;

use crate::backend::Fleet;
use crate::base::Budget;
use crate::base::Clock;
use crate::store::Store;
use crate::store::UsageSource;

pub use crate::backend::{BreakerState, BreakerView, Counted, Reached};
pub use crate::plan::rebalance::Skipped;
pub use crate::plan::scrub::Window;
pub use crate::store::{
    BackendRow, BlobPlace, BlobState, BrokenReplica, BucketLifecycle, BucketUsage, BucketWishes,
    CompletedUpload, Condition, Head, Holdings, Leave, Leftover, ListAfter, ListItem, ListPage,
    ListQuery, ListedObject, NewMeta, PartInfo, ScrubPass, Upload, UploadPage, UploadQuery,
};
pub use admission::{Admission, AdmissionSettings, Held, Occupancy, Permit, Refused};
pub use backends::BackendState;
pub use buckets::{CreatedBucket, WishRefused};
pub use cleanup::{CleanupCursor, CleanupLimits, CleanupOutcome};
pub use drain::{DrainCursor, DrainProgress};
pub use error::{BodyError, EngineError};
pub use import::{ImportProgress, ImportWish, Imported};
pub use keys::{KeyChange, new_credentials};
pub use lifecycle::{LifecycleCursor, LifecycleStep};
pub use reap::ReapCursor;
pub use rebalance::{PlannedMove, RebalanceRules, Strategy};
pub use reconcile::{ReconcileCursor, ReconcileSettings};
pub use refusals::{Cause, Refusals};
pub use request::*;
pub use scrub::{ScrubCursor, ScrubProgress, ScrubSettings, ScrubState};
pub use show_object::{ShownBlob, ShownObject, ShownReplica};
pub use step::{Next, Step};
pub use surplus::{SurplusCursor, SurplusReplica};
pub use usage::{BackendUsage, Line, Money, PeriodUsage};
pub use verify::{Verified, VerifyOptions, VerifyProgress};
pub use watch::FleetListener;

/// Everything that the verbs work with. One for the life of the process.
pub struct Engine {
    pub(crate) store: Store,
    /// Swapped by a reload; a request keeps the one that it began with.
    pub(crate) fleet: ArcSwap<Fleet>,
    pub(crate) settings: ArcSwap<EngineSettings>,
    pub(crate) clock: Clock,
    /// Bytes of bodies in flight, process-wide.
    pub(crate) budget: Budget,
    /// Bytes that writers to services keep until a part, or the whole blob, can be sent. Apart from
    /// the budget, for what fills them draws on that: nobody waits for what he holds himself.
    /// Who holds buffers may wait for the budget, never the other way round.
    pub(crate) buffers: Budget,
    pub(crate) hashers: hash::Hashers,
    pub(crate) settling: settling::Settling,
    /// What backends use, kept in the store.
    pub(crate) books: Arc<usage::Books>,
    /// How much goes on at once.
    pub(crate) admission: Arc<Admission>,
    /// What was turned away.
    pub(crate) refusals: Arc<Refusals>,
    /// How the fleet changes.
    pub(crate) watch: watch::Watch,
    /// Cancelled when the process ends: background work begins nothing more.
    pub(crate) stopping: CancellationToken,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    pub blob_max: u64,
    /// Two local backends on one device count as two places.
    pub same_device: bool,
    /// How long a write that has its `min_replicas` waits for the rest.
    pub tail_wait: Duration,
    pub admission: AdmissionSettings,
}

impl Engine {
    /// `memory` is what bodies in flight may hold, in bytes.
    pub fn new(
        store: Store,
        fleet: Fleet,
        settings: EngineSettings,
        memory: u64,
        clock: Clock,
    ) -> Arc<Engine> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let buffers = memory / 2;
        let books = Arc::new(usage::Books::default());
        books.watch(&fleet);
        store.usage_source(Arc::clone(&books) as Arc<dyn UsageSource>);
        let refusals = Arc::new(Refusals::default());
        let admission = Admission::new(settings.admission, Arc::clone(&refusals));
        Arc::new(Engine {
            books,
            admission: Arc::new(admission),
            refusals,
            watch: watch::Watch::new(store.run_mark()),
            stopping: CancellationToken::new(),
            settling: settling::Settling::new(store.clone()),
            store,
            fleet: ArcSwap::from_pointee(fleet),
            settings: ArcSwap::from_pointee(settings),
            clock,
            budget: Budget::new(memory - buffers),
            buffers: Budget::new(buffers),
            hashers: hash::Hashers::new(2 * cores),
        })
    }

    /// Background work that is on its way ends what it has begun, and begins nothing more.
    pub fn end_work(&self) {
        self.stopping.cancel();
    }

    /// Whether the store can write: what an operator should know first.
    pub fn condition(&self) -> Condition {
        self.store.condition()
    }

    /// The next requests use these; those in flight finish with what they began with.
    pub fn reload(&self, fleet: Fleet, settings: EngineSettings, memory: u64) {
        self.usage_hand_on(fleet.all());
        self.books.watch(&fleet);
        self.fleet.store(Arc::new(fleet));
        self.admission.reload(settings.admission);
        self.settings.store(Arc::new(settings));
        let buffers = memory / 2;
        self.budget.resize(memory - buffers);
        self.buffers.resize(buffers);
        self.fleet_changes();
        self.rules_changed().notify_one();
    }
}
