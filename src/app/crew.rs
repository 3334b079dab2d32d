//! The workers: who wakes them, and which of them an operator has paused.

use std::sync::Arc;

use crate::config::Config;
use crate::engine::Engine;
use crate::engine::FleetListener;
use crate::store::StoreError;
use crate::worker::Crew;
use crate::worker::Name;
use crate::worker::Wakes;

/// The workers of `engine`. None runs yet.
pub(super) async fn crew(config: &Config, engine: &Arc<Engine>) -> Result<Arc<Crew>, StoreError> {
    let wakes = Wakes::default()
        .with(Name::Cleanup, engine.store.cleanup_wanted())
        .with(Name::Replicator, engine.store.replicas_wanted())
        .with(Name::OverReplication, engine.store.surplus_found())
        .with(Name::Reconciler, engine.store.files_doubted())
        .with(Name::Scrubber, engine.store.scrub_wanted())
        .with(Name::PendingReaper, engine.fleet_changed(FleetListener::PendingReaper))
        .with(Name::Lifecycle, engine.rules_changed())
        .with(Name::Drain, engine.store.leaving_found());
    let crew = Crew::new(engine, &config.data_dir, config.workers.clone(), &wakes);
    for name in engine.store.workers_paused().await? {
        // One of a later version stays paused for that.
        if let Some(name) = Name::from_text(&name) {
            crew.pause(name, true);
        }
    }
    Ok(crew)
}
