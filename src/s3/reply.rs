//! The body of a response, on its way to the client.
//!
//! # Invariants
//!
//! - A panic where it is made ends this body in an error and nothing else.
//! - What its request holds is given back when the last of its bytes has gone to the client or was
//!   thrown away, or when the body is taken back from a client that does not take it: who reads a
//!   byte now and then, or opens no HTTP/2 window, cannot keep a permit.
//! - A body that was taken back ends in an error, never as if it were whole.
//! - Beyond [`GIVEN_MAX`] and one piece, hyper holds nothing of it: over HTTP/2 it would take piece
//!   after piece from us for clients that take none from it.
//!
//! # Why nobody waits here for the time to pass
//!
//! hyper does not ask for more of a body that the client does not take, so nothing here would run.
//! The connection looks at its bodies now and then.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;
use tokio::time::Instant;

use crate::engine::Held;
use crate::s3::connection::Busy;
use crate::s3::credit::Credit;

/// So many times as long as its first credit a body may stand still at most: pieces are large, and
/// what they earn is for the time that a slow line takes for them.
const CREDIT_MOST: u32 = 3;
/// Bytes on their way from which on no more are given.
const GIVEN_MAX: usize = 64 << 10;

/// The body, as hyper reads it.
pub(crate) struct ReplyBody(Arc<Reply>);

/// The body, as its connection watches it.
pub(crate) struct Reply(Mutex<State>);

struct State {
    /// `None` when it has ended, was taken back or is not wanted any more.
    body: Option<s3s::Body>,
    held: Option<Held>,
    busy: Option<Busy>,
    /// Bytes on their way.
    given: usize,
    /// Who asked for more while enough were on their way.
    asks: Option<Waker>,
    /// Since when it is the client that we wait for.
    waits: Option<Instant>,
    credit: Credit,
    was_cut: bool,
}

/// Bytes that hyper was given, until it has sent them or thrown them away.
struct Given {
    bytes: Bytes,
    reply: Arc<Reply>,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let mut state = self.reply.lock();
        state.given -= self.bytes.len();
        let asks = state.asks.take();
        let over = state.over();
        drop(state);
        drop(over);
        asks.into_iter().for_each(Waker::wake);
    }
}

impl ReplyBody {
    pub(crate) fn new(body: s3s::Body, held: Option<Held>, patience: Duration) -> ReplyBody {
        ReplyBody(Arc::new(Reply(Mutex::new(State {
            body: Some(body),
            held,
            busy: None,
            given: 0,
            asks: None,
            waits: Some(Instant::now()),
            credit: Credit::new(patience, patience * CREDIT_MOST),
            was_cut: false,
        }))))
    }

    /// Lets `busy` go with the last byte.
    pub(crate) fn keep(&self, busy: Busy) {
        self.0.lock().busy = Some(busy);
    }

    pub(crate) fn watch(&self) -> Weak<Reply> {
        Arc::downgrade(&self.0)
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let gone = (state.body.take(), state.over());
        drop(state);
        drop(gone);
    }
}

impl Reply {
    /// Takes the body back if the client takes too long, `most` at the longest; whether that was
    /// just now.
    pub(crate) fn cut_if_slow(&self, most: Duration) -> bool {
        let mut state = self.lock();
        let spent =
            state.waits.is_some_and(|since| since.elapsed() >= state.credit.left().min(most));
        if !spent || state.was_cut || (state.body.is_none() && state.given == 0) {
            return false;
        }
        state.was_cut = true;
        let gone = (state.body.take(), state.held.take());
        let asks = state.asks.take();
        drop(state);
        drop(gone);
        asks.into_iter().for_each(Waker::wake);
        true
    }

    /// Whether the body was taken back; bytes of it may be on their way still.
    pub(crate) fn was_cut(&self) -> bool {
        self.lock().was_cut
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What comes back, if that was the last of it; to be dropped without the lock.
    fn over(&mut self) -> Option<(Option<Held>, Option<Busy>)> {
        (self.body.is_none() && self.given == 0).then(|| (self.held.take(), self.busy.take()))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, s3s::StdError>>> {
        if self.given >= GIVEN_MAX && !self.was_cut {
            self.asks = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(since) = self.waits.take() {
            self.credit.spend(since.elapsed());
        }
        let Some(body) = &mut self.body else {
            let cut = self.was_cut.then(|| Err("the client took too long".into()));
            return Poll::Ready(cut);
        };
        let body = Pin::new(body);
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)));
        let poll = poll.unwrap_or_else(|_| {
            tracing::error!("a response's body panicked");
            Poll::Ready(Some(Err("the response cannot be finished".into())))
        });
        match &poll {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.credit.earn(bytes);
                self.given += bytes;
            }
            Poll::Ready(_) => self.body = None,
            Poll::Pending => {}
        }
        self.waits = poll.is_ready().then(Instant::now);
        poll
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, s3s::StdError>>> {
        let mut state = self.0.lock();
        let poll = state.poll(cx);
        let over = state.over();
        drop(state);
        drop(over);
        poll.map_ok(|frame| {
            frame.map_data(|bytes| Bytes::from_owner(Given { bytes, reply: Arc::clone(&self.0) }))
        })
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        match &state.body {
            Some(body) => body.is_end_stream(),
            None => !state.was_cut,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;
    use crate::engine::Admission;
    use crate::engine::AdmissionSettings;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn body(pieces: usize, size: usize) -> s3s::Body {
        let pieces = (0..pieces).map(move |_| Ok(Frame::data(Bytes::from(vec![7; size]))));
        let stream = futures_util::stream::iter(pieces);
        let stream = http_body_util::StreamBody::new(stream);
        s3s::Body::http_body(BodyExt::map_err(stream, |err: std::convert::Infallible| match err {}))
    }

    async fn held(admission: &Admission) -> Held {
        let held = Held::default();
        held.admit(admission.read().await.unwrap(), None);
        held
    }

    fn readers(admission: &Admission) -> usize {
        admission.occupancy()[0].clients
    }

    #[tokio::test]
    async fn a_permit_comes_back_with_the_last_piece_or_with_the_client() {
        let admission = Admission::new(AdmissionSettings::default(), Arc::default());
        let mut reply = ReplyBody::new(body(2, 5), Some(held(&admission).await), PATIENCE);
        assert_eq!(reply.frame().await.unwrap().unwrap().into_data().unwrap().len(), 5);
        reply.frame().await.unwrap().unwrap();
        assert_eq!(readers(&admission), 1);
        assert!(reply.frame().await.is_none());
        assert_eq!(readers(&admission), 0);
        assert!(reply.is_end_stream() && reply.frame().await.is_none());
        let reply = ReplyBody::new(body(2, 5), Some(held(&admission).await), PATIENCE);
        drop(reply);
        assert_eq!(readers(&admission), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_loses_its_body_and_its_permit() {
        let admission = Admission::new(AdmissionSettings::default(), Arc::default());
        let mut reply = ReplyBody::new(body(2, 5), Some(held(&admission).await), PATIENCE);
        let watch = reply.watch().upgrade().unwrap();
        tokio::time::advance(PATIENCE - Duration::from_secs(1)).await;
        assert!(!watch.cut_if_slow(Duration::MAX));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(watch.cut_if_slow(Duration::MAX));
        assert!(!watch.cut_if_slow(Duration::MAX), "once");
        assert_eq!(readers(&admission), 0);
        assert!(!reply.is_end_stream());
        assert!(reply.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_on_their_way_keep_the_permit_and_no_more_are_given() {
        let admission = Admission::new(AdmissionSettings::default(), Arc::default());
        let mut reply = ReplyBody::new(body(2, GIVEN_MAX), Some(held(&admission).await), PATIENCE);
        let mut next = async || reply.frame().now_or_never().map(|frame| frame.unwrap().unwrap());
        let first = next().await.unwrap();
        assert!(next().await.is_none(), "the first is on its way");
        drop(first);
        let second = next().await.unwrap();
        let watch = reply.watch().upgrade().unwrap();
        drop(reply);
        assert_eq!(readers(&admission), 1);
        assert!(!watch.cut_if_slow(Duration::MAX));
        drop(second);
        assert_eq!(readers(&admission), 0);
        // The end of a body that is short has to be taken, too.
        let short = s3s::Body::from(Bytes::from_static(b"short"));
        let mut reply = ReplyBody::new(short, Some(held(&admission).await), PATIENCE);
        let watch = reply.watch().upgrade().unwrap();
        let last = reply.frame().await.unwrap().unwrap();
        drop(reply);
        assert_eq!(readers(&admission), 1);
        tokio::time::advance(PATIENCE * 2).await;
        assert!(watch.cut_if_slow(Duration::MAX) && watch.was_cut());
        assert_eq!(readers(&admission), 0);
        drop(last);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_too_little_and_a_slow_line_is_enough() {
        let taken = async |size: usize| {
            let mut reply = ReplyBody::new(body(1000, size), None, PATIENCE);
            let watch = reply.watch().upgrade().unwrap();
            let mut taken = 0;
            while !watch.cut_if_slow(Duration::MAX) && taken < 1000 {
                reply.frame().await.unwrap().unwrap();
                taken += 1;
                tokio::time::advance(Duration::from_secs(50)).await;
            }
            taken
        };
        assert!(taken(1).await <= 4);
        assert_eq!(taken(64 << 10).await, 1000);
        // A piece of a whole MiB takes its time.
        let mut reply = ReplyBody::new(body(2, 1 << 20), None, PATIENCE);
        let watch = reply.watch().upgrade().unwrap();
        reply.frame().await.unwrap().unwrap();
        tokio::time::advance(PATIENCE * 2).await;
        assert!(!watch.cut_if_slow(Duration::MAX));
        tokio::time::advance(PATIENCE).await;
        assert!(watch.cut_if_slow(Duration::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn where_memory_is_scarce_slow_clients_go_first() {
        let reply = ReplyBody::new(body(2, 5), None, PATIENCE);
        let watch = reply.watch().upgrade().unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!watch.cut_if_slow(Duration::from_secs(11)));
        assert!(watch.cut_if_slow(Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_body_that_panics_ends_in_an_error() {
        let panics = futures_util::stream::poll_fn(
            |_| -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
                panic!("asked for")
            },
        );
        let panics = http_body_util::StreamBody::new(panics);
        let panics = BodyExt::map_err(panics, |err: std::convert::Infallible| match err {});
        let mut reply = ReplyBody::new(s3s::Body::http_body(panics), None, PATIENCE);
        assert!(reply.frame().await.unwrap().is_err());
        assert!(reply.frame().await.is_none());
    }
}
