//! A replica that is being written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::BackendError;
use super::Inner;
use super::adapter::Stream;
use super::error::{Failure, Fault};
use super::faulty::Call;

/// How long a dropped writer may take to clean up after itself.
const ABORT_WAIT: Duration = Duration::from_secs(60);

/// A replica being written. Dropping it aborts it.
///
/// # Invariant
///
/// After an error, or a call that was dropped before it ended, nothing can be finished any more.
pub struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) stream: Option<Stream>,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) written: u64,
    pub(super) whole: bool,
}

impl Writer {
    /// Waits while the backend is behind.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BackendError> {
        let written = self.try_write(bytes).await;
        match written {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.inner.failed("write", &self.path, failure).await),
        }
    }

    async fn try_write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let whole = std::mem::replace(&mut self.whole, false);
        let Some(stream) = self.stream.as_mut().filter(|_| whole) else {
            return Err(Failure::because(Fault::Passing, "an earlier piece was not written"));
        };
        self.written += bytes.len() as u64;
        if self.written > self.size {
            let why = format!("more than the announced {} bytes came", self.size);
            return Err(Failure::because(Fault::Passing, why));
        }
        let meeting = self.inner.faults.meet(Call::Piece).await?;
        meeting.after(stream.write(meeting.alter(bytes)).await)?;
        self.whole = true;
        Ok(())
    }

    /// When it returns `Ok` exactly the announced bytes survive power loss.
    pub async fn finish(mut self) -> Result<(), BackendError> {
        match self.try_finish().await {
            Ok(()) => {
                self.stream = None;
                Ok(())
            }
            // What is left of it goes as the writer is dropped.
            Err(failure) => Err(self.inner.failed("finish", &self.path, failure).await),
        }
    }

    async fn try_finish(&mut self) -> Result<(), Failure> {
        if !self.whole || self.written != self.size {
            let why = format!("{} of {} bytes were written", self.written, self.size);
            return Err(Failure::because(Fault::Passing, why));
        }
        self.whole = false;
        let meeting = self.inner.faults.meet(Call::Finish).await?;
        let Some(stream) = &mut self.stream else {
            return Err(Failure::new(Fault::Passing));
        };
        let finished = self.inner.place.finish(stream, &self.path, self.size).await;
        meeting.after(finished)
    }

    /// Leaves nothing behind as far as the service lets it. `Err` with `unknown`: something may be left.
    pub async fn abort(mut self) -> Result<(), BackendError> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        let aborted = match self.inner.faults.meet(Call::Abort).await {
            Ok(meeting) => meeting.after(stream.abort().await),
            Err(failure) => Err(failure.unknown()),
        };
        match aborted {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.inner.failed("abort", &self.path, failure).await),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        // At the very end of the process there is no runtime any more; the next start cleans up.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (backend, path) = (Arc::clone(&self.inner.name), std::mem::take(&mut self.path));
        runtime.spawn(async move {
            match tokio::time::timeout(ABORT_WAIT, stream.abort()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%backend, path, "parts of an aborted write may be left");
                }
            }
        });
    }
}
