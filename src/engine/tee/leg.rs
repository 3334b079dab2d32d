//! One leg: a task that writes one replica and ends good or failed.
//!
//! It stops when its token says so, when its queue ends before the bytes are complete, or when the
//! backend fails; whatever it wrote is aborted then, and the answer says whether something may be
//! left behind.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::watch::LegState;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Writer;
use crate::base::budget;
use crate::store::Intent;

/// How long a stopped leg may take to clean up behind itself.
const ABORT_WAIT: Duration = Duration::from_secs(5);

/// How a leg ended.
pub(super) struct Ended {
    pub(super) intent: Intent,
    pub(super) result: Result<(), Failure>,
}

pub(super) struct Failure {
    pub(super) unknown: bool,
    pub(super) cause: Option<BackendError>,
}

/// A piece of a body on its way to one leg.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) _held: Arc<Held>,
}

/// What a piece holds until every leg has let go of it.
pub(in crate::engine) struct Held {
    pub(super) _window: Option<OwnedSemaphorePermit>,
    pub(super) _budget: Option<budget::Bytes>,
}

/// The end of a leg also when it panics, which costs its intent and nothing else.
pub(super) async fn to_its_end(
    leg: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    AssertUnwindSafe(leg).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a leg of a write panicked");
        Err(Failure { unknown: true, cause: None })
    })
}

impl Held {
    /// Of a body that is held whole.
    pub(in crate::engine) fn whole(budget: Option<budget::Bytes>) -> Arc<Held> {
        Arc::new(Held { _window: None, _budget: budget })
    }
}

/// One leg of a long blob: writes what comes, and finishes when all of it has come.
pub(super) async fn write_pieces(
    backend: &Backend,
    intent: &Intent,
    size: u64,
    mut queue: mpsc::Receiver<Piece>,
    state: &LegState,
) -> Result<(), Failure> {
    let mut writer = tokio::select! {
        biased;
        () = state.stop.cancelled() => return Err(Failure { unknown: true, cause: None }),
        writer = backend.write(&intent.path, size) => writer.map_err(Failure::from)?,
    };
    let mut written = 0;
    while written < size {
        let step = tokio::select! {
            biased;
            () = state.stop.cancelled() => Step::Stop,
            piece = queue.recv() => match piece {
                None => Step::Stop,
                Some(piece) => {
                    let len = piece.bytes.len() as u64;
                    tokio::select! {
                        biased;
                        () = state.stop.cancelled() => Step::Stop,
                        result = writer.write(piece.bytes) => match result {
                            Ok(()) => Step::Wrote(len),
                            Err(err) => Step::Failed(err),
                        },
                    }
                }
            },
        };
        match step {
            Step::Wrote(len) => {
                written += len;
                state.written.store(written, Ordering::Release);
            }
            // The queue goes first: the body must not wait until this leg has cleaned up.
            Step::Stop => {
                drop(queue);
                return Err(Failure { unknown: abort(writer).await, cause: None });
            }
            Step::Failed(err) => {
                drop(queue);
                let unknown = abort(writer).await || err.unknown;
                return Err(Failure { unknown, cause: Some(err) });
            }
        }
    }
    tokio::select! {
        biased;
        // The writer is gone with the future: whether the bytes became durable is not known.
        () = state.stop.cancelled() => Err(Failure { unknown: true, cause: None }),
        result = writer.finish() => result.map_err(Failure::from),
    }
}

/// What one turn of a leg came to.
pub(super) enum Step {
    Wrote(u64),
    Stop,
    Failed(BackendError),
}

/// Aborts within [`ABORT_WAIT`]; true when something may be left behind.
pub(super) async fn abort(writer: Writer) -> bool {
    !matches!(tokio::time::timeout(ABORT_WAIT, writer.abort()).await, Ok(Ok(())))
}

/// One leg of a short blob.
pub(super) async fn write_in_one(
    backend: &Backend,
    intent: &Intent,
    bytes: Bytes,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure { unknown: true, cause: None }),
        result = backend.write_whole(&intent.path, bytes) => result.map_err(Failure::from),
    }
}

impl From<BackendError> for Failure {
    fn from(err: BackendError) -> Failure {
        Failure { unknown: err.unknown, cause: Some(err) }
    }
}
