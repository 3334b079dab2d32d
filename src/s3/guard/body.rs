//! The body of a request as s3s and the operations read it: timed, and re-framed where it is
//! `aws-chunked`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use md5::Digest;
use md5::Md5;
use sha2::Sha256;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::s3::body_error::BodyFault;
use crate::s3::chunked::Chunks;
use crate::s3::credit::Credit;

/// A body that nothing arrives of for this long has failed; see [`Credit`] for one that trickles.
pub(crate) const BODY_IDLE_MAX: Duration = Duration::from_secs(60);

/// A request's body that outlives those who read it, so that its rest can be thrown away.
///
/// A connection that is closed with bytes unread is reset, and a reset may overtake the answer:
/// a refused client would never learn why.
pub(crate) struct Shared<B>(Arc<Mutex<B>>);

/// So much of a body that nobody wants is read, and for so long.
const DRAIN_MAX: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Shared<B> {
        Shared(Arc::clone(&self.0))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B> {
    pub(crate) fn new(body: B) -> Shared<B> {
        Shared(Arc::new(Mutex::new(body)))
    }

    /// Throws away what is left, up to a measure.
    pub(crate) async fn drain(mut self) {
        let all = async {
            let mut seen = 0;
            while seen < DRAIN_MAX && !self.is_end_stream() {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await;
                let Some(Ok(frame)) = frame else { return };
                seen += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // What is left after that is the connection's business.
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
    }

    fn lock(&self) -> MutexGuard<'_, B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Shared<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

/// The first fault of a body, for those who do not see the error of its stream.
pub(crate) type FaultCell = Arc<OnceLock<BodyFault>>;

/// What the client says of a short unframed body, checked at its last byte.
pub(crate) struct Claims {
    pub(crate) length: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) md5: Option<[u8; 16]>,
}

struct ClaimCheck {
    claims: Claims,
    seen: u64,
    sha256: Sha256,
    md5: Md5,
}

impl ClaimCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<(), BodyFault> {
        self.sha256.update(bytes);
        self.md5.update(bytes);
        self.seen += bytes.len() as u64;
        if self.seen < self.claims.length {
            return Ok(());
        }
        let sha256: [u8; 32] = self.sha256.clone().finalize().into();
        let md5: [u8; 16] = self.md5.clone().finalize().into();
        if self.claims.sha256.is_some_and(|claimed| claimed != sha256) {
            return Err(BodyFault::Hash);
        }
        if self.claims.md5.is_some_and(|claimed| claimed != md5) {
            return Err(BodyFault::Digest);
        }
        Ok(())
    }
}

/// A body under the guard. After an error it has ended.
pub(crate) struct GuardBody<B> {
    inner: B,
    /// How long we will still wait for the client.
    credit: Credit,
    chunks: Option<Chunks>,
    /// What may be passed on already.
    ready: VecDeque<Bytes>,
    /// Made at the first wait, running only while waiting.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when.
    waiting: Option<Instant>,
    ended: bool,
    claims: Option<ClaimCheck>,
    fault: FaultCell,
}

impl<B: Body<Data = Bytes> + Unpin> GuardBody<B> {
    pub(crate) fn new(inner: B, chunks: Option<Chunks>, idle_max: Duration) -> GuardBody<B> {
        GuardBody {
            inner,
            credit: Credit::new(idle_max, idle_max),
            chunks,
            ready: VecDeque::new(),
            timer: None,
            waiting: None,
            ended: false,
            claims: None,
            fault: FaultCell::default(),
        }
    }

    /// Checks the claims here, before anyone else does.
    pub(crate) fn check(&mut self, claims: Claims) {
        let (sha256, md5) = (Sha256::new(), Md5::new());
        self.claims = Some(ClaimCheck { claims, seen: 0, sha256, md5 });
    }

    /// Where the fault will be, should there be one.
    pub(crate) fn fault(&self) -> FaultCell {
        Arc::clone(&self.fault)
    }

    /// Puts `bytes` before what is still to come.
    pub(crate) fn push_front(&mut self, bytes: Bytes) {
        self.ready.push_front(bytes);
    }

    /// The next bytes, `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, BodyFault>> {
        std::future::poll_fn(|cx| self.poll_bytes(cx)).await
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Err(fault) = ready!(self.poll_more(cx)) {
                self.ended = true;
                self.ready.clear();
                // Only the first counts, and there is no second.
                let _ = self.fault.set(fault);
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFault>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(since) = self.waiting.take() {
                    self.credit.spend(since.elapsed());
                }
                frame
            }
            Poll::Pending => {
                ready!(self.poll_timer(cx));
                return Poll::Ready(Err(BodyFault::Stalled));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => self.take(bytes),
                Err(_) => Ok(()),
            },
            Some(Err(_)) => Err(BodyFault::Broken),
            None => {
                self.ended = true;
                match self.chunks.take() {
                    Some(mut chunks) => chunks.finish(&mut self.ready),
                    None => Ok(()),
                }
            }
        })
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), BodyFault> {
        self.credit.earn(bytes.len());
        if let Some(claims) = &mut self.claims {
            claims.update(&bytes)?;
        }
        match &mut self.chunks {
            Some(chunks) => chunks.feed(bytes, &mut self.ready),
            None if bytes.is_empty() => Ok(()),
            None => {
                self.ready.push_back(bytes);
                Ok(())
            }
        }
    }

    /// Ready when the wait that began with the first call has lasted too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.credit.left();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            timer.as_mut().reset(now + left);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for GuardBody<B> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.poll_bytes(cx).map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty()
            && (self.ended || (self.chunks.is_none() && self.inner.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        // The length of a framed body changes on its way.
        match self.chunks.is_none() && self.ready.is_empty() {
            true => self.inner.size_hint(),
            false => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it has and then waits for ever.
    struct Stuck(Option<Bytes>);

    impl Body for Stuck {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_fails_and_has_ended() {
        let inner = Stuck(Some(Bytes::from_static(b"x")));
        let mut body = GuardBody::new(inner, None, Duration::from_millis(5));
        body.push_front(Bytes::from_static(b"w"));
        assert_eq!(body.next().await, Some(Ok(Bytes::from_static(b"w"))));
        assert_eq!(body.next().await, Some(Ok(Bytes::from_static(b"x"))));
        assert_eq!(body.next().await, Some(Err(BodyFault::Stalled)));
        assert_eq!(body.next().await, None);
    }

    /// A byte every so often.
    struct Trickle {
        pause: Duration,
        next: Pin<Box<Sleep>>,
        bytes: usize,
    }

    impl Body for Trickle {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            ready!(self.next.as_mut().poll(cx));
            let again = Instant::now() + self.pause;
            self.next.as_mut().reset(again);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; self.bytes])))))
        }
    }

    fn trickle(seconds: u64, bytes: usize) -> GuardBody<Trickle> {
        let pause = Duration::from_secs(seconds);
        let next = Box::pin(tokio::time::sleep_until(Instant::now() + pause));
        GuardBody::new(Trickle { pause, next, bytes }, None, BODY_IDLE_MAX)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_fails_and_one_that_is_slow_does_not() {
        let mut body = trickle(50, 1);
        assert!(matches!(body.next().await, Some(Ok(_))));
        assert_eq!(body.next().await, Some(Err(BodyFault::Stalled)));
        let mut body = trickle(50, 64 << 10);
        for _ in 0..100 {
            assert!(matches!(body.next().await, Some(Ok(_))));
        }
        // The time that we do not ask for more is ours.
        let mut body = trickle(1, 1);
        for _ in 0..30 {
            assert!(matches!(body.next().await, Some(Ok(_))));
            tokio::time::advance(Duration::from_secs(600)).await;
        }
    }
}
