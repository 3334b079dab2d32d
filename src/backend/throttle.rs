//! Bytes let through to and from one backend at the pace that its timetable allows.
//!
//! # How it works
//!
//! Whoever wants to move bytes takes a [`Ticket`] for a [`chunk`](Throttle::chunk) of them at a
//! time. Tickets are served one after another: clients' before background work's, and each of a
//! kind in the order in which they came. Only the first of them looks at the time; when it is
//! served or dropped it wakes the next, so there is no task behind this, and nothing runs while
//! nobody waits.
//!
//! # Invariants
//!
//! - Over any time no more flows than the rate allows, and at most [`BURST`]'s worth beyond.
//! - A chunk is never more than what flows in [`BURST`]: the first ticket waits no longer than
//!   that, so a new hour of the timetable takes effect within it.
//! - Work never goes before a client that waits. It gets all that clients leave, and nothing while
//!   they leave nothing.
//! - A ticket that is dropped leaves no hole: nothing was taken for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::Bandwidth;
use super::Hours;
use super::adapter::Pieces;
use super::bandwidth;
use super::progress;
use super::progress::Progress;
use super::progress::Waiting;
use crate::base::Clock;
use crate::model::Purpose;

/// What may flow at once after a pause is what flows in this time.
const BURST: Duration = Duration::from_millis(250);
/// Bytes that are let through at once at the most. A request is let through in pieces of this
/// size even where nothing is limited, so that its progress is seen.
pub(crate) const CHUNK_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the backend.
    Up,
    Down,
}

/// The pace of one backend. Shared by all that move its bytes.
pub(crate) struct Throttle {
    clock: Clock,
    up: Lane,
    down: Lane,
}

/// One direction.
struct Lane {
    hours: Vec<Hours>,
    queue: Mutex<Queue>,
}

struct Queue {
    /// When all that was let through has flowed at the rate of its hour.
    free: Instant,
    /// In the order in which they are served.
    waiting: BTreeMap<Place, Waker>,
    next: u64,
    /// The rate of the minute of the clock that was looked at last.
    known: Option<(i64, Option<u64>)>,
}

/// Clients before work, and then who came first.
type Place = (Rank, u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Client,
    Work,
}

/// A wish to move bytes. It is ready when they may go.
pub(crate) struct Ticket {
    throttle: Arc<Throttle>,
    direction: Direction,
    rank: Rank,
    bytes: u64,
    /// Who wants to know that it waits.
    progress: Option<Arc<Progress>>,
    /// In the queue, while it waits.
    place: Option<Place>,
    waiting: Option<Waiting>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Throttle {
    pub(crate) fn new(bandwidth: &Bandwidth, clock: Clock) -> Arc<Throttle> {
        let now = Instant::now();
        let lane = |hours: &[Hours]| Lane {
            hours: hours.to_vec(),
            queue: Mutex::new(Queue {
                free: now.checked_sub(BURST).unwrap_or(now),
                waiting: BTreeMap::new(),
                next: 0,
                known: None,
            }),
        };
        let (up, down) = (lane(&bandwidth.up), lane(&bandwidth.down));
        Arc::new(Throttle { clock, up, down })
    }

    /// One that lets everything through.
    pub(crate) fn open() -> Arc<Throttle> {
        Throttle::new(&Bandwidth::default(), Clock::system())
    }

    /// Whether any hour of this direction has a limit.
    pub(crate) fn limits(&self, direction: Direction) -> bool {
        !self.lane(direction).hours.is_empty()
    }

    /// How many of `left` bytes the next ticket should be for; all of them when nothing is limited.
    pub(crate) fn chunk(&self, direction: Direction, left: usize) -> usize {
        match self.rate(direction, &mut self.lane(direction).lock()) {
            Some(rate) => left.min(chunk_at(rate)),
            None => left,
        }
    }

    /// A ticket for `bytes`, which are a [`chunk`](Self::chunk).
    pub(crate) fn ticket(
        self: &Arc<Self>,
        direction: Direction,
        purpose: Purpose,
        progress: Option<Arc<Progress>>,
        bytes: usize,
    ) -> Ticket {
        Ticket {
            throttle: Arc::clone(self),
            direction,
            rank: match purpose {
                Purpose::Client => Rank::Client,
                Purpose::Work => Rank::Work,
            },
            bytes: bytes as u64,
            progress,
            place: None,
            waiting: None,
            sleep: None,
        }
    }

    /// Waits until all of `bytes` may go, and takes them as gone. For places that have no
    /// transport.
    pub(crate) async fn take(
        self: &Arc<Self>,
        direction: Direction,
        purpose: Purpose,
        bytes: usize,
    ) {
        let mut left = bytes;
        while left > 0 {
            let chunk = self.chunk(direction, left);
            let progress = progress::current();
            self.ticket(direction, purpose, progress.clone(), chunk).await;
            if let Some(progress) = progress {
                progress.beat();
            }
            left -= chunk;
        }
    }

    /// The pieces of a place that has no transport, at the pace of what comes from it, and small
    /// enough to show that they come.
    pub(crate) fn pace(self: &Arc<Self>, purpose: Purpose, pieces: Pieces) -> Pieces {
        if !self.limits(Direction::Down) {
            return pieces;
        }
        let state = (Arc::clone(self), pieces, Bytes::new());
        futures_util::stream::unfold(state, move |(throttle, mut pieces, mut rest)| async move {
            while rest.is_empty() {
                match pieces.next().await? {
                    Ok(piece) => rest = piece,
                    Err(failure) => return Some((Err(failure), (throttle, pieces, rest))),
                }
            }
            let chunk = throttle.chunk(Direction::Down, rest.len());
            throttle.take(Direction::Down, purpose, chunk).await;
            Some((Ok(rest.split_to(chunk)), (throttle, pieces, rest)))
        })
        .boxed()
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// The rate of this minute.
    fn rate(&self, direction: Direction, queue: &mut Queue) -> Option<u64> {
        let hours = &self.lane(direction).hours;
        if hours.is_empty() {
            return None;
        }
        let now = self.clock.now();
        let minute = now.seconds().div_euclid(60);
        match queue.known {
            Some((known, rate)) if known == minute => rate,
            _ => {
                let rate = bandwidth::rate(hours, bandwidth::minute_of_day(now));
                queue.known = Some((minute, rate));
                rate
            }
        }
    }
}

/// Bytes that are let through at once at this rate.
fn chunk_at(rate: u64) -> usize {
    let burst = u128::from(rate) * BURST.as_millis() / 1000;
    CHUNK_MAX.min(burst as usize).max(1)
}

/// How long `bytes` flow at `rate`.
pub(super) fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Lets `bytes` through, or says when that may be tried.
    fn pass(&mut self, bytes: u64, rate: Option<u64>, now: Instant) -> Result<(), Instant> {
        let Some(rate) = rate else { return Ok(()) };
        let idle = now.checked_sub(BURST).unwrap_or(self.free);
        let free = self.free.max(idle);
        let cost = time_of(bytes, rate);
        // A chunk of an hour with a higher rate may be more than a burst of this one.
        let due = free + cost.min(BURST);
        if due > now {
            return Err(due);
        }
        self.free = free + cost;
        Ok(())
    }

    fn is_first(&self, place: Place) -> bool {
        self.waiting.first_key_value().is_none_or(|(first, _)| place <= *first)
    }

    fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.first_key_value() {
            waker.wake_by_ref();
        }
    }
}

impl Ticket {
    /// What it is for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

impl Future for Ticket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ticket = self.get_mut();
        let throttle = Arc::clone(&ticket.throttle);
        let lane = throttle.lane(ticket.direction);
        if lane.hours.is_empty() {
            return Poll::Ready(());
        }
        loop {
            let due = {
                let mut queue = lane.lock();
                let place = ticket.place.unwrap_or((ticket.rank, queue.next));
                let passed = match queue.is_first(place) {
                    true => {
                        let rate = throttle.rate(ticket.direction, &mut queue);
                        Some(queue.pass(ticket.bytes, rate, Instant::now()))
                    }
                    false => None,
                };
                if passed == Some(Ok(())) {
                    if ticket.place.take().is_some() {
                        queue.waiting.remove(&place);
                    }
                    ticket.waiting = None;
                    queue.wake_first();
                    return Poll::Ready(());
                }
                if ticket.place.is_none() {
                    queue.next += 1;
                    ticket.place = Some(place);
                    ticket.waiting = ticket.progress.as_ref().map(Waiting::begin);
                }
                queue.waiting.insert(place, cx.waker().clone());
                match passed {
                    Some(Err(due)) => due,
                    // Whoever is before it wakes it.
                    _ => return Poll::Pending,
                }
            };
            let sleep = ticket.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            sleep.as_mut().reset(due);
            ready!(sleep.as_mut().poll(cx));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut queue = self.throttle.lane(self.direction).lock();
        let was_first = queue.is_first(place);
        queue.waiting.remove(&place);
        if was_first {
            queue.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::sync::atomic::Ordering;

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn always(rate: u64) -> Vec<Hours> {
        vec![Hours { from: 0, to: 0, rate }]
    }

    fn up(rate: u64) -> Arc<Throttle> {
        let bandwidth = Bandwidth { up: always(rate), down: Vec::new() };
        Throttle::new(&bandwidth, Clock::system())
    }

    async fn take(throttle: &Arc<Throttle>, purpose: Purpose, bytes: u64) {
        throttle.take(Direction::Up, purpose, bytes as usize).await;
    }

    /// Time is paused: it passes as soon as nothing else can happen.
    fn paused<R>(test: impl Future<Output = R>) -> R {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    fn purpose(is_client: bool) -> Purpose {
        if is_client { Purpose::Client } else { Purpose::Work }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However many take however much, in whatever order they come: never faster than the
        /// rate but for one burst, and never slower while anybody waits.
        #[test]
        fn the_rate_is_kept(
            rate in 64 * KIB..64 * MIB,
            takers in prop::collection::vec((any::<bool>(), 1u64..512, 0u64..2_000), 1..24),
        ) {
            paused(async {
                let throttle = up(rate);
                let begun = Instant::now();
                let passed = Mutex::new(Vec::new());
                let all = takers.iter().map(|&(is_client, kib, after)| {
                    let (throttle, passed) = (&throttle, &passed);
                    async move {
                        tokio::time::sleep_until(begun + Duration::from_millis(after)).await;
                        let mut left = (kib * KIB) as usize;
                        while left > 0 {
                            let chunk = throttle.chunk(Direction::Up, left);
                            take(throttle, purpose(is_client), chunk as u64).await;
                            passed.lock().unwrap().push((begun.elapsed(), chunk as u64));
                            left -= chunk;
                        }
                    }
                });
                join_all(all).await;
                let passed = passed.into_inner().unwrap();
                let total: u64 = takers.iter().map(|(_, kib, _)| kib * KIB).sum();
                assert_eq!(passed.iter().map(|(_, bytes)| bytes).sum::<u64>(), total);
                let mut sum = 0;
                for (at, bytes) in &passed {
                    sum += bytes;
                    let allowed = (at.as_secs_f64() + BURST.as_secs_f64()) * rate as f64;
                    assert!(sum as f64 <= allowed * 1.001 + 1.0, "{sum} of {allowed} at {at:?}");
                }
                let latest = Duration::from_millis(takers.iter().map(|t| t.2).max().unwrap());
                let slowest = latest + time_of(total, rate).mul_f64(1.02) + Duration::from_millis(50);
                assert!(begun.elapsed() <= slowest, "{:?} of {slowest:?}", begun.elapsed());
            });
        }

        /// Tickets that are given up, wherever in the queue, cost the others nothing.
        #[test]
        fn a_dropped_ticket_leaves_no_hole(
            tickets in prop::collection::vec((any::<bool>(), any::<bool>()), 1..40),
        ) {
            paused(async {
                let (rate, chunk) = (MIB, CHUNK_MAX);
                let throttle = up(rate);
                let begun = Instant::now();
                // The burst is gone.
                take(&throttle, Purpose::Client, rate / 4).await;
                let mut kept = Vec::new();
                let mut dropped = Vec::new();
                for (is_client, is_kept) in tickets {
                    let (up, purpose) = (Direction::Up, purpose(is_client));
                    let mut ticket = throttle.ticket(up, purpose, None, chunk);
                    assert!((&mut ticket).now_or_never().is_none());
                    if is_kept { kept.push(ticket) } else { dropped.push(ticket) }
                }
                let count = kept.len() as u32;
                let (_, ()) = tokio::join!(join_all(kept), async { drop(dropped) });
                let due = time_of(chunk as u64, rate) * count;
                assert!(begun.elapsed() >= due);
                assert!(begun.elapsed() <= due + Duration::from_millis(1 + u64::from(count)));
                let queue = throttle.up.lock();
                assert!(queue.waiting.is_empty());
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_work_goes_before_a_client_that_waits() {
        let throttle = up(MIB);
        let order = Mutex::new(Vec::new());
        let taker = async |purpose| {
            take(&throttle, purpose, MIB / 2).await;
            order.lock().unwrap().push(purpose);
        };
        let mut all: Vec<_> = (0..5).map(|_| taker(Purpose::Work).boxed_local()).collect();
        all.extend((0..5).map(|_| taker(Purpose::Client).boxed_local()));
        join_all(all).await;
        let order = order.into_inner().unwrap();
        assert_eq!(order[..5], [Purpose::Client; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_no_more_than_a_burst_of_work() {
        let throttle = up(MIB);
        let work = async { take(&throttle, Purpose::Work, 100 * MIB).await };
        let client = async {
            tokio::time::sleep_until(Instant::now() + Duration::from_secs(3)).await;
            for _ in 0..20 {
                let begun = Instant::now();
                take(&throttle, Purpose::Client, CHUNK_MAX as u64).await;
                let wait = begun.elapsed();
                assert!(wait <= time_of(2 * CHUNK_MAX as u64, MIB) + Duration::from_millis(2));
                tokio::time::sleep_until(Instant::now() + Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            () = work => panic!("100 MiB take 100 seconds"),
            () = client => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_gets_what_clients_leave() {
        let throttle = up(MIB);
        let worked = AtomicI64::new(0);
        let work = async {
            loop {
                take(&throttle, Purpose::Work, 16 * KIB).await;
                worked.fetch_add(16 * KIB as i64, Ordering::Relaxed);
            }
        };
        let client = async {
            for _ in 0..40 {
                let next = Instant::now() + Duration::from_millis(500);
                take(&throttle, Purpose::Client, MIB / 4).await;
                tokio::time::sleep_until(next).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = client => {}
        }
        // Half of what flows in 20 seconds.
        let worked = worked.into_inner() as f64 / (10 * MIB) as f64;
        assert!((0.95..1.06).contains(&worked), "{worked}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_hour_takes_effect_at_once() {
        let hand = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let clock = Clock::steered(Arc::clone(&hand));
        let now = bandwidth::minute_of_day(clock.now());
        let hours = Hours { from: now, to: (now + 30) % Hours::DAY, rate: 64 * KIB };
        let bandwidth = Bandwidth { up: vec![hours], down: Vec::new() };
        let throttle = Throttle::new(&bandwidth, clock);
        let takers = (0..20).map(|_| take(&throttle, Purpose::Client, MIB));
        let begun = Instant::now();
        let moved = async {
            tokio::time::sleep_until(begun + Duration::from_secs(5)).await;
            hand.fetch_add(30 * 60 * 1_000_000, Ordering::AcqRel);
        };
        tokio::join!(join_all(takers), moved);
        assert!(begun.elapsed() >= Duration::from_secs(5));
        assert!(begun.elapsed() <= Duration::from_secs(5) + BURST, "{:?}", begun.elapsed());
        // And back, the next day.
        hand.fetch_add(24 * 60 * 60 * 1_000_000 - 30 * 60 * 1_000_000, Ordering::AcqRel);
        let begun = Instant::now();
        take(&throttle, Purpose::Client, 128 * KIB).await;
        assert!(begun.elapsed() >= Duration::from_millis(1_750));
    }

    #[tokio::test(start_paused = true)]
    async fn directions_do_not_meet_and_no_limit_is_no_wait() {
        let throttle = up(64 * KIB);
        let begun = Instant::now();
        throttle.take(Direction::Down, Purpose::Work, 1 << 40).await;
        assert_eq!(throttle.chunk(Direction::Down, 1 << 40), 1 << 40);
        assert!(throttle.limits(Direction::Up) && !throttle.limits(Direction::Down));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_seen_by_those_who_look() {
        let (throttle, progress) = (up(64 * KIB), Progress::new());
        take(&throttle, Purpose::Client, 16 * KIB).await;
        let mut taking = Box::pin(progress.during(take(&throttle, Purpose::Client, 32 * KIB)));
        assert!((&mut taking).now_or_never().is_none());
        assert!(progress.is_throttled());
        let beats = progress.beats();
        taking.await;
        assert!(!progress.is_throttled() && progress.beats() > beats);
        let mut taking = Box::pin(progress.during(take(&throttle, Purpose::Client, 32 * KIB)));
        assert!((&mut taking).now_or_never().is_none());
        drop(taking);
        assert!(!progress.is_throttled());
    }
}
