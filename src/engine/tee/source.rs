//! The body on its way to the legs: cut into pieces, hashed once, sent to each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use super::leg::Held;
use super::leg::Piece;
use super::watch::LegState;
use crate::base::limits::PIECE;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::error::BodyError;
use crate::engine::hash::BodyHasher;
use crate::engine::request::Body;

/// Frames smaller than this are joined before they are handed on.
const JOIN_BELOW: usize = 64 << 10;
/// The unit in which the window is counted.
pub(super) const WINDOW_UNIT: usize = 1024;

/// The way into one leg.
pub(super) struct LegIn {
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) state: Arc<LegState>,
}

/// Sends `size` bytes of the body to the hasher and to every leg that still runs. A leg that has
/// ended is passed over; false when none is left, for then the rest of the blob need not be read.
pub(super) async fn fill(
    legs: &[LegIn],
    size: u64,
    source: &mut Source<'_>,
    hasher: &mut BodyHasher,
    window: &Arc<Semaphore>,
    engine: &Engine,
) -> Result<bool, EngineError> {
    let mut left = size;
    while left > 0 {
        let bytes = source.next(left.min(PIECE as u64) as usize).await?;
        left -= bytes.len() as u64;
        let units = bytes.len().div_ceil(WINDOW_UNIT) as u32;
        let permit = Arc::clone(window).acquire_many_owned(units).await;
        let held = Arc::new(Held {
            _window: Some(permit.expect("the window is never closed")),
            _budget: match source.body.draws {
                true => Some(engine.budget.take(bytes.len() as u64).await),
                false => None,
            },
        });
        hasher.update(bytes.clone()).await;
        let mut alive = 0;
        for leg in legs {
            leg.state.sent.fetch_add(bytes.len() as u64, Ordering::AcqRel);
            let piece = Piece { bytes: bytes.clone(), _held: Arc::clone(&held) };
            alive += usize::from(leg.pieces.send(piece).await.is_ok());
        }
        if alive == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The body, cut into pieces.
pub(super) struct Source<'b> {
    pub(super) body: &'b mut Body,
    pub(super) ready: Bytes,
}

impl Source<'_> {
    /// The next 1 to `max` bytes; small frames are joined.
    pub(super) async fn next(&mut self, max: usize) -> Result<Bytes, EngineError> {
        if self.ready.is_empty() {
            self.ready = self.frame().await?.ok_or(BodyError::TooShort)?;
        }
        if self.ready.len() >= max.min(JOIN_BELOW) {
            return Ok(self.ready.split_to(self.ready.len().min(max)));
        }
        let mut joined = BytesMut::with_capacity(max.min(2 * JOIN_BELOW));
        joined.extend_from_slice(&std::mem::take(&mut self.ready));
        while joined.len() < max.min(JOIN_BELOW) {
            let mut frame = self.frame().await?.ok_or(BodyError::TooShort)?;
            let taken = frame.split_to(frame.len().min(max - joined.len()));
            joined.extend_from_slice(&taken);
            self.ready = frame;
        }
        Ok(joined.freeze())
    }

    /// The next frame that is not empty; `None` at the end.
    pub(super) async fn frame(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            match self.body.stream.next().await {
                Some(Ok(frame)) if frame.is_empty() => (),
                Some(frame) => return Ok(Some(frame?)),
                None => return Ok(None),
            }
        }
    }

    /// Whether the body ends where it said that it would.
    pub(super) async fn at_end(&mut self) -> Result<(), EngineError> {
        let more = !self.ready.is_empty() || self.frame().await?.is_some();
        if more { Err(BodyError::TooLong.into()) } else { Ok(()) }
    }
}
