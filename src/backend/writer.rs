//! A replica that is being written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::BackendError;
use super::Inner;
use super::adapter::Stream;
use super::error::{Failure, Fault};
use super::faulty::Call;
use super::faulty::Meeting;
use super::gate::Entered;
use super::purpose;
use crate::model::Purpose;

/// How long a dropped writer may take to clean up after itself.
const ABORT_WAIT: Duration = Duration::from_secs(60);

/// A replica being written. Dropping it aborts it.
///
/// # Invariant
///
/// After an error, or a call that was dropped before it ended, nothing can be finished any more.
pub struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) purpose: Purpose,
    pub(super) entered: Entered,
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
            Err(failure) => {
                Err(self.inner.failed(self.purpose, "write", &self.path, failure).await)
            }
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
        self.inner.goes(self.purpose, bytes.len());
        let write = |meeting: Meeting| stream.write(meeting.alter(bytes));
        self.inner.ask(self.purpose, self.entered.pass, Call::Piece, write).await?;
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
            Err(failure) => {
                Err(self.inner.failed(self.purpose, "finish", &self.path, failure).await)
            }
        }
    }

    async fn try_finish(&mut self) -> Result<(), Failure> {
        if !self.whole || self.written != self.size {
            let why = format!("{} of {} bytes were written", self.written, self.size);
            return Err(Failure::because(Fault::Passing, why));
        }
        self.whole = false;
        let Some(stream) = &mut self.stream else {
            return Err(Failure::new(Fault::Passing));
        };
        let (inner, pass) = (&self.inner, self.entered.pass);
        let (path, size) = (&self.path, self.size);
        inner
            .ask(self.purpose, pass, Call::Finish, move |_| inner.place.finish(stream, path, size))
            .await?;
        inner.well(pass);
        Ok(())
    }

    /// Leaves nothing behind as far as the service lets it. `Err` with `unknown`: something may be left.
    pub async fn abort(mut self) -> Result<(), BackendError> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        let (inner, abort) = (&self.inner, &mut stream);
        // That it went well says nothing: there may have been nothing to ask the service for.
        let asked =
            inner.ask(self.purpose, self.entered.pass, Call::Abort, move |_| abort.abort()).await;
        match asked.map_err(Failure::unknown) {
            Ok(()) => Ok(()),
            Err(failure) => {
                Err(self.inner.failed(self.purpose, "abort", &self.path, failure).await)
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        // At the very end of the process there is no runtime any more; the next start cleans up.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (inner, path) = (Arc::clone(&self.inner), std::mem::take(&mut self.path));
        let (pass, purpose) = (self.entered.pass, self.purpose);
        let abort = async move {
            let asked = tokio::time::timeout(ABORT_WAIT, stream.abort()).await;
            let silence = |_| Err(Failure::because(Fault::Passing, "no answer to an abort"));
            if let Err(failure) = asked.unwrap_or_else(silence) {
                inner.ill(pass, &failure);
                let backend = &inner.name;
                tracing::warn!(%backend, path, "parts of an aborted write may be left");
            }
        };
        runtime.spawn(purpose::scope(purpose, abort));
    }
}
