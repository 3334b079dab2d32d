//! What is read before the pass goes on: replicas that do not count until they were read, and blobs
//! that nobody has read yet, so that no read of theirs could be checked.

use super::Place;
use super::Visit;
use super::next;
use crate::base::limits::WORK_ROWS_MAX;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::step::Next;
use crate::engine::step::Step;

impl Visit<'_> {
    /// Reads a batch of what was imported and nobody has read yet; whether the backend could not be
    /// asked for all of it.
    pub(super) async fn read_unhashed(
        &self,
        engine: &Engine,
        place: &mut Place,
        step: &mut Step,
    ) -> Result<bool, EngineError> {
        let most = self.settings.batch.clamp(1, WORK_ROWS_MAX);
        let after = std::mem::take(&mut place.unhashed);
        let (mut some, mut upto) = engine.store.scrub_unhashed(self.row.id, after, most).await?;
        let stays = self.fitting(&some);
        if stays < some.len() {
            some.truncate(stays);
            upto = some.last().map(|last| last.blob);
        }
        if !some.is_empty() {
            let (results, read) = self.read(engine, &some, step).await?;
            self.record(engine, None, &some, results, step).await?;
            if read < some.len() {
                return Ok(true);
            }
        }
        place.unhashed = upto.unwrap_or_default();
        if upto.is_some() {
            next(step, Next::Now);
        }
        Ok(false)
    }

    /// Looks again at a batch of those that could not be read, once in each interval.
    pub(super) async fn look_again(
        &self,
        engine: &Engine,
        place: &mut Place,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        if place.is_looked_through() && place.look_at > self.now {
            next(step, Next::At(place.look_at));
            return Ok(());
        }
        let most = self.settings.batch.clamp(1, WORK_ROWS_MAX);
        let some = engine.store.scrub_unreadable(self.row.id, place.unreadable, most).await?;
        let last = some.last().filter(|_| some.len() == most);
        place.unreadable = last.map_or_else(Default::default, |last| {
            (last.checked.unwrap_or_default(), last.replica.write)
        });
        place.look_at = self.now.plus(self.settings.interval);
        if last.is_some() {
            next(step, Next::Now);
        }
        if some.is_empty() {
            // Until some is found, nothing is to be looked at again.
            place.look_at = self.now;
            return Ok(());
        }
        next(step, Next::At(place.look_at));
        let (results, _) = self.read(engine, &some, step).await?;
        self.record(engine, None, &some, results, step).await
    }
}
