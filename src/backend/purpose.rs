//! Whose work a request is, carried past OpenDAL.
//!
//! The backend knows for whom it is called, the transport counts the request, and between them lies
//! OpenDAL, which hands nothing through. So the purpose is the task's own while a call is polled.
//! Nothing below a backend spawns tasks of its own that send requests.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use crate::model::Purpose;

tokio::task_local! {
    static PURPOSE: Purpose;
}

/// The purpose of what is being polled; without any it is a client's.
pub(crate) fn current() -> Purpose {
    PURPOSE.try_with(|purpose| *purpose).unwrap_or(Purpose::Client)
}

/// All requests that `call` sends are for `purpose`.
pub(crate) fn scope<F: Future>(purpose: Purpose, call: F) -> impl Future<Output = F::Output> {
    PURPOSE.scope(purpose, call)
}

/// The same for a stream.
pub(crate) struct Scoped<S> {
    pub(crate) purpose: Purpose,
    pub(crate) stream: S,
}

impl<S: Stream + Unpin> Stream for Scoped<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let purpose = self.purpose;
        PURPOSE.sync_scope(purpose, || Pin::new(&mut self.stream).poll_next(cx))
    }
}
