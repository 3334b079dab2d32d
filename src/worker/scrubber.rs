//! The scrubber: reads again what lies on the backends and compares it.

use std::sync::Arc;

use super::CrewSettings;
use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::ScrubCursor;
use crate::engine::ScrubSettings;

pub(super) struct Scrubber {
    engine: Arc<Engine>,
    cursor: ScrubCursor,
}

impl Scrubber {
    pub(super) fn new(engine: Arc<Engine>) -> Scrubber {
        Scrubber { engine, cursor: ScrubCursor::default() }
    }
}

/// What the settings make of a step.
pub fn scrub_settings(settings: &CrewSettings) -> ScrubSettings {
    let own = settings.of(Name::Scrubber);
    ScrubSettings {
        batch: own.batch,
        concurrency: own.concurrency,
        interval: own.interval,
        pass: settings.scrubber.pass,
        rate: settings.scrubber.rate.unwrap_or(0),
        window: settings.scrubber.window,
    }
}

#[async_trait::async_trait]
impl Worker for Scrubber {
    fn name(&self) -> Name {
        Name::Scrubber
    }

    /// What was read and not recorded is read again.
    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = scrub_settings(&turn.settings);
        let step = self.engine.scrub_step(&mut self.cursor, &settings, turn.is_full);
        let done = turn.stop.run_until_cancelled(step).await;
        done.unwrap_or_else(|| Ok(Step::default()))
    }
}
