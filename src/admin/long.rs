//! Operations that take long, and tell how far they are.
//!
//! Over the socket the answer is a JSON value a line, a [`LongEvent`] each: progress every moment,
//! so that who waits knows that the work goes on, and at last the result or the refusal.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::error::ApiError;

/// How often it is told how far the work is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// One line of the answer: any number of `Progress`, then one of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongEvent {
    /// A view of its own for each operation.
    Progress(Value),
    Result(Value),
    Error(ApiError),
}

/// An operation under way. Dropped, it ends, soon and in good order.
pub struct Long<'d> {
    work: BoxFuture<'d, Result<Value, ApiError>>,
    far: Box<dyn Fn() -> Value + Send + Sync>,
}

impl<'d> Long<'d> {
    pub(super) fn new(
        work: impl Future<Output = Result<Value, ApiError>> + Send + 'd,
        far: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Long<'d> {
        Long { work: work.boxed(), far: Box::new(far) }
    }

    /// Waits for the end without looking how far it is.
    pub async fn end(self) -> Result<Value, ApiError> {
        self.work.await
    }

    /// Waits for the end, and tells every moment how far it is.
    pub async fn tell(mut self, mut tell: impl FnMut(Value)) -> Result<Value, ApiError> {
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut self.work => return done,
                _ = ticks.tick() => tell((self.far)()),
            }
        }
    }
}
