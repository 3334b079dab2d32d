//! How much goes on at once: one budget for reads, one for writes, a share of both for workers.
//!
//! A request holds a [`Permit`] from its admission until the last of its work is over; a step of a
//! worker holds one of each budget. What does not fit is refused before it has cost anything.
//!
//! # Invariants
//!
//! - Never more permits are given out than a budget has places, but for those that were out
//!   already when a reload made it smaller, and for one client's where workers hold all.
//! - Nobody waits while there is a free place: a place that comes back goes to the client that
//!   waits longest, before any worker and any newcomer.
//! - Workers only ever have what clients leave: at most their share, one place at least, and one
//!   place at most while clients are being refused. A budget of one place is no reason to refuse
//!   every client until a step is over: one client at a time is always let in.
//! - A permit comes back exactly once, whatever becomes of who asked for it.
//!
//! # Why clients are refused before the budget is full
//!
//! A full budget refuses everyone until a place is free, and clients that retry then come back
//! together. Refusing some, ever more as it fills, spreads them out.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ring::rand::SecureRandom;
use ring::rand::SystemRandom;
use tokio::sync::oneshot;

use super::refusals::Cause;
use super::refusals::Refusals;
use crate::base::budget::Bytes;

/// Clients that wait for a place of one budget; more are refused at once.
const WAITING_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmissionSettings {
    /// Requests at a time that read, and that write. Each is one at least.
    pub reads: usize,
    pub writes: usize,
    /// Of each budget, what workers may have: 0 to 1.
    pub worker_share: f64,
    /// How long a request that finds its budget full waits for its place before it is refused.
    pub wait: Duration,
    /// The part of a budget from which on some are refused, ever more until it is full: 0 to 1.
    pub shed_from: f64,
}

impl Default for AdmissionSettings {
    fn default() -> AdmissionSettings {
        AdmissionSettings {
            // s5cmd alone has 256 requests on their way, and gives up soon when they are refused.
            reads: 1024,
            writes: 512,
            worker_share: 0.25,
            wait: Duration::ZERO,
            shed_from: 0.8,
        }
    }
}

/// Why a permit was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("so much is going on that some are refused")]
    Shed,
    #[error("as much is going on as may")]
    Full,
}

/// The budgets.
pub struct Admission {
    reads: Arc<Pool>,
    writes: Arc<Pool>,
    lots: Lots,
    refusals: Arc<Refusals>,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    _slot: Slot,
    _other: Option<Slot>,
}

/// What one budget holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    pub size: usize,
    pub clients: usize,
    pub workers: usize,
    pub waiting: usize,
}

impl Admission {
    pub fn new(settings: AdmissionSettings, refusals: Arc<Refusals>) -> Admission {
        let mut seed = [0; 8];
        // Without randomness two runs refuse alike, which harms nobody.
        let _ = SystemRandom::new().fill(&mut seed);
        Admission::seeded(settings, refusals, u64::from_le_bytes(seed))
    }

    fn seeded(settings: AdmissionSettings, refusals: Arc<Refusals>, seed: u64) -> Admission {
        Admission {
            reads: Pool::new(settings.reads, &settings),
            writes: Pool::new(settings.writes, &settings),
            lots: Lots(AtomicU64::new(seed)),
            refusals,
        }
    }

    /// Counts from now on, for those that wait already too; permits that are out stay valid.
    pub fn reload(&self, settings: AdmissionSettings) {
        self.reads.resize(settings.reads, &settings);
        self.writes.resize(settings.writes, &settings);
    }

    /// A client's permit to read. Who stops waiting for it gives up his place in the queue.
    pub async fn read(&self) -> Result<Permit, Refused> {
        self.client(&self.reads).await
    }

    /// A client's permit to write.
    pub async fn write(&self) -> Result<Permit, Refused> {
        self.client(&self.writes).await
    }

    /// A permit for one step of a worker. It never waits: a step that is refused is counted by the
    /// worker's name and ends without work.
    pub fn work(&self, name: &'static str) -> Result<Permit, Refused> {
        let both =
            self.reads.enter_worker().and_then(|reads| Some((reads, self.writes.enter_worker()?)));
        match both {
            Some((reads, writes)) => Ok(Permit { _slot: reads, _other: Some(writes) }),
            None => {
                self.refusals.count_worker(name);
                Err(Refused::Full)
            }
        }
    }

    /// Of the reads, and of the writes.
    pub fn occupancy(&self) -> [Occupancy; 2] {
        [self.reads.occupancy(), self.writes.occupancy()]
    }

    async fn client(&self, pool: &Arc<Pool>) -> Result<Permit, Refused> {
        let refused = match pool.enter_client(&self.lots) {
            Entry::In(permit) => return Ok(permit),
            Entry::Refused(refused) => refused,
            Entry::Waits(turn, wait) => match tokio::time::timeout(wait, turn).await {
                Ok(Ok(permit)) => return Ok(permit),
                _ => Refused::Full,
            },
        };
        self.refusals.count(match refused {
            Refused::Shed => Cause::Shed,
            Refused::Full => Cause::Full,
        });
        Err(refused)
    }
}

/// One budget.
#[derive(Debug)]
struct Pool(Mutex<State>);

#[derive(Debug)]
struct State {
    size: usize,
    /// From so many places on clients are refused by lot.
    shed_from: usize,
    workers_max: usize,
    wait: Duration,
    clients: usize,
    workers: usize,
    /// Who waits longest is first; some may have gone away.
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// One place.
#[derive(Debug)]
struct Slot {
    pool: Arc<Pool>,
    holder: Holder,
}

#[derive(Clone, Copy, Debug)]
enum Holder {
    Client,
    Worker,
}

enum Entry {
    In(Permit),
    Waits(oneshot::Receiver<Permit>, Duration),
    Refused(Refused),
}

impl Pool {
    fn new(size: usize, settings: &AdmissionSettings) -> Arc<Pool> {
        let pool = Arc::new(Pool(Mutex::new(State {
            size: 0,
            shed_from: 0,
            workers_max: 0,
            wait: Duration::ZERO,
            clients: 0,
            workers: 0,
            waiting: VecDeque::new(),
        })));
        pool.resize(size, settings);
        pool
    }

    fn resize(self: &Arc<Self>, size: usize, settings: &AdmissionSettings) {
        let size = size.max(1);
        let part = |share: f64| (share.clamp(0.0, 1.0) * size as f64) as usize;
        let mut state = self.lock();
        state.size = size;
        state.shed_from = part(settings.shed_from);
        state.workers_max = part(settings.worker_share).max(1);
        state.wait = settings.wait;
        let returned = state.hand_out(self);
        drop(state);
        drop(returned);
    }

    fn enter_client(self: &Arc<Self>, lots: &Lots) -> Entry {
        let mut state = self.lock();
        let taken = state.taken();
        if !state.has_place() {
            return state.queue();
        }
        if taken > state.shed_from && state.clients > 0 {
            let share = (taken - state.shed_from) as f64 / (state.size - state.shed_from) as f64;
            if lots.draw() < share {
                return Entry::Refused(Refused::Shed);
            }
        }
        state.clients += 1;
        Entry::In(self.permit())
    }

    fn enter_worker(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.lock();
        let taken = state.taken();
        let is_calm = taken < state.shed_from;
        let may = state.workers == 0 || (is_calm && state.workers < state.workers_max);
        if taken >= state.size || !may {
            return None;
        }
        state.workers += 1;
        Some(Slot { pool: Arc::clone(self), holder: Holder::Worker })
    }

    fn leave(self: &Arc<Self>, holder: Holder) {
        let mut state = self.lock();
        match holder {
            Holder::Client => state.clients -= 1,
            Holder::Worker => state.workers -= 1,
        }
        let returned = state.hand_out(self);
        drop(state);
        // They come back here, so not under the lock.
        drop(returned);
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { _slot: Slot { pool: Arc::clone(self), holder: Holder::Client }, _other: None }
    }

    fn occupancy(&self) -> Occupancy {
        let state = self.lock();
        let waiting = state.waiting.iter().filter(|turn| !turn.is_closed()).count();
        let State { size, clients, workers, .. } = *state;
        Occupancy { size, clients, workers, waiting }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn taken(&self) -> usize {
        self.clients + self.workers
    }

    /// Whether there is a place for a client.
    fn has_place(&self) -> bool {
        self.taken() < self.size || self.clients == 0
    }

    fn queue(&mut self) -> Entry {
        // All wait equally long, so those that gave up are in front, but for those that hung up.
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
        if self.wait.is_zero() || self.waiting.len() >= WAITING_MAX {
            return Entry::Refused(Refused::Full);
        }
        let (turn, waits) = oneshot::channel();
        self.waiting.push_back(turn);
        Entry::Waits(waits, self.wait)
    }

    /// Gives free places to those that wait. What it returns could not be delivered.
    fn hand_out(&mut self, pool: &Arc<Pool>) -> Vec<Permit> {
        let mut returned = Vec::new();
        while self.has_place() {
            let Some(turn) = self.waiting.pop_front() else { break };
            if turn.is_closed() {
                continue;
            }
            self.clients += 1;
            if let Err(permit) = turn.send(pool.permit()) {
                returned.push(permit);
            }
        }
        returned
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.leave(self.holder);
    }
}

/// Numbers between 0 and 1, as good as random; the same for the same seed.
struct Lots(AtomicU64);

impl Lots {
    fn draw(&self) -> f64 {
        // Splitmix64: a counter, its bits well mixed.
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        (x >> 11) as f64 / (1_u64 << 53) as f64
    }
}

tokio::task_local! {
    static HELD: Held;
}

/// What one request holds: nothing at first, from its admission on its permit, and bytes in memory
/// that it was given. All who work for the request share it, and the last of them lets go: its
/// response, and the task of a write whose client has hung up.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<OnceLock<(Permit, Option<Bytes>)>>);

impl Held {
    /// Runs `work` for the request.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        HELD.scope(self, work)
    }

    /// Of the request that is being worked for, if it is one.
    pub fn current() -> Option<Held> {
        HELD.try_with(Held::clone).ok()
    }

    /// A request is admitted once.
    pub fn admit(&self, permit: Permit, memory: Option<Bytes>) {
        let again = self.0.set((permit, memory));
        crate::never!(again.is_err(), "a request was admitted twice");
    }

    pub fn is_admitted(&self) -> bool {
        self.0.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(size: usize, shed_from: f64, wait: Duration) -> AdmissionSettings {
        AdmissionSettings { reads: size, writes: size, worker_share: 0.5, wait, shed_from }
    }

    fn admission(settings: AdmissionSettings) -> Admission {
        Admission::seeded(settings, Arc::default(), 7)
    }

    /// A permit, or why not, without waiting.
    fn read(admission: &Admission) -> Result<Permit, Refused> {
        admission.read().now_or_never().expect("it does not wait")
    }

    fn write(admission: &Admission) -> Result<Permit, Refused> {
        admission.write().now_or_never().expect("it does not wait")
    }

    fn count(admission: &Admission, name: &str) -> u64 {
        let all = admission.refusals.all();
        all.iter().find(|(found, _)| found == name).map_or(0, |(_, count)| *count)
    }

    #[test]
    fn a_full_budget_refuses_and_a_permit_that_comes_back_is_given_again() {
        let admission = admission(settings(2, 1.0, Duration::ZERO));
        let one = read(&admission).unwrap();
        let _two = read(&admission).unwrap();
        assert_eq!(read(&admission).unwrap_err(), Refused::Full);
        assert_eq!(count(&admission, "full"), 1);
        drop(one);
        assert!(read(&admission).is_ok());
    }

    #[test]
    fn reads_and_writes_do_not_take_from_each_other() {
        let one = AdmissionSettings { writes: 1, ..settings(3, 1.0, Duration::ZERO) };
        let admission = admission(one);
        let reads: Vec<Permit> = (0..3).map(|_| read(&admission).unwrap()).collect();
        let _write = write(&admission).unwrap();
        assert!(read(&admission).is_err() && write(&admission).is_err());
        drop(reads);
        assert!(read(&admission).is_ok() && write(&admission).is_err());
    }

    #[test]
    fn a_budget_of_nothing_is_one() {
        let nothing = AdmissionSettings { writes: 0, ..settings(0, 0.0, Duration::ZERO) };
        let admission = admission(nothing);
        let _held = (read(&admission).unwrap(), write(&admission).unwrap());
        assert!(read(&admission).is_err() && write(&admission).is_err());
    }

    #[test]
    fn the_lot_begins_at_the_threshold_and_is_certain_when_full() {
        let admission = admission(settings(100, 0.5, Duration::ZERO));
        // As many as there are below the threshold, and one at it, are never refused.
        let mut held: Vec<Permit> = (0..51).map(|_| read(&admission).unwrap()).collect();
        assert_eq!(count(&admission, "shed"), 0);
        for taken in 51..100 {
            let tries = 2000;
            let refused = (0..tries).filter(|_| read(&admission).is_err()).count();
            let share = (taken - 50) as f64 / 50.0;
            let found = refused as f64 / f64::from(tries);
            assert!((found - share).abs() < 0.05, "{taken} taken: {found} of {share}");
            held.push(std::iter::repeat_with(|| read(&admission)).find_map(Result::ok).unwrap());
        }
        assert!(count(&admission, "shed") > 10_000);
        assert_eq!(count(&admission, "full"), 0);
        assert!((0..1000).all(|_| read(&admission).is_err_and(|why| why == Refused::Full)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_its_turn_and_not_for_ever() {
        let admission = Arc::new(admission(settings(1, 1.0, SECOND)));
        let first = read(&admission).unwrap();
        let waits = |n: u32| {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move { admission.read().await.map(|permit| (n, permit)) })
        };
        let second = waits(2);
        tokio::task::yield_now().await;
        let third = waits(3);
        tokio::task::yield_now().await;
        assert_eq!(admission.occupancy()[0].waiting, 2);
        drop(first);
        // It was given to the one that waits: neither a newcomer nor a worker gets it.
        assert!(admission.work("late").is_err());
        let (n, permit) = second.await.unwrap().unwrap();
        assert_eq!((n, third.is_finished()), (2, false));
        tokio::time::advance(SECOND * 2).await;
        assert_eq!(third.await.unwrap().unwrap_err(), Refused::Full);
        assert_eq!(count(&admission, "full"), 1);
        drop(permit);
        assert_eq!(admission.occupancy()[0].clients, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_away_leaves_the_queue_and_no_place_is_lost() {
        let admission = Arc::new(admission(settings(1, 1.0, SECOND)));
        let first = read(&admission).unwrap();
        let mut gone = Box::pin(admission.read());
        let mut stays = Box::pin(admission.read());
        assert!(gone.as_mut().now_or_never().is_none() && stays.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        let permit = stays.as_mut().now_or_never().expect("it is its turn").unwrap();
        // Who goes away with the permit already his gives it back.
        let mut late = Box::pin(admission.read());
        assert!(late.as_mut().now_or_never().is_none());
        drop(permit);
        assert_eq!(admission.occupancy()[0].clients, 1);
        drop(late);
        assert_eq!(admission.occupancy()[0].clients, 0);
        assert_eq!(admission.occupancy()[0].waiting, 0);
    }

    #[test]
    fn workers_have_their_share_and_only_what_clients_leave() {
        let admission = admission(settings(8, 0.5, Duration::ZERO));
        let work: Vec<Permit> = std::iter::from_fn(|| admission.work("w").ok()).collect();
        assert_eq!(work.len(), 4);
        assert_eq!(count(&admission, "worker:w"), 1);
        let [reads, writes] = admission.occupancy();
        assert_eq!((reads.workers, writes.workers), (4, 4));
        drop(work);
        // While clients are being refused one step at a time goes on.
        let mut clients: Vec<Permit> = (0..5).map(|_| write(&admission).unwrap()).collect();
        let step = admission.work("w").unwrap();
        assert!(admission.work("w").is_err());
        assert_eq!(admission.occupancy()[0].workers, 1, "what is refused holds nothing");
        drop(step);
        clients.extend(std::iter::repeat_with(|| write(&admission)).flatten().take(3));
        assert!(admission.work("w").is_err(), "clients hold all");
        assert_eq!(admission.occupancy()[0].workers, 0);
        // And a step counts as much as a request when lots are drawn.
        drop(clients);
        let _work: Vec<Permit> = (0..4).map(|_| admission.work("w").unwrap()).collect();
        let _client = read(&admission).unwrap();
        assert!((0..100).any(|_| read(&admission).is_err()));
    }

    #[test]
    fn a_step_does_not_keep_all_clients_out_of_the_smallest_budget() {
        for shed_from in [0.0, 0.8, 1.0] {
            let admission = admission(settings(1, shed_from, Duration::ZERO));
            let step = admission.work("w").unwrap();
            let client = (read(&admission).unwrap(), write(&admission).unwrap());
            assert!(read(&admission).is_err() && write(&admission).is_err());
            assert!(admission.work("w").is_err());
            drop(step);
            assert!(read(&admission).is_err() && admission.work("w").is_err());
            drop(client);
            assert!(admission.work("w").is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_counts_at_once_and_for_those_that_wait() {
        let admission = admission(settings(2, 1.0, SECOND));
        let held = [read(&admission).unwrap(), read(&admission).unwrap()];
        let mut waits = Box::pin(admission.read());
        assert!(waits.as_mut().now_or_never().is_none());
        admission.reload(settings(3, 1.0, Duration::ZERO));
        let third = waits.await.unwrap();
        assert_eq!(read(&admission).unwrap_err(), Refused::Full);
        admission.reload(settings(1, 1.0, Duration::ZERO));
        drop(held);
        assert_eq!(admission.occupancy()[0].clients, 1);
        assert!(read(&admission).is_err());
        drop(third);
        assert!(read(&admission).is_ok());
    }

    #[tokio::test]
    async fn what_a_request_holds_goes_with_the_last_that_works_for_it() {
        let admission = admission(settings(1, 1.0, Duration::ZERO));
        let held = Held::default();
        assert!(Held::current().is_none());
        let kept = held.clone().scope(async {
            let held = Held::current().unwrap();
            assert!(!held.is_admitted());
            held.admit(read(&admission).unwrap(), None);
            Held::current().unwrap()
        });
        let kept = kept.await;
        assert!(held.is_admitted());
        drop(held);
        assert!(read(&admission).is_err());
        drop(kept);
        assert!(read(&admission).is_ok());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask,
        Work,
        /// One of those that wait goes away, one of the permits comes back.
        GoAway(usize),
        GiveBack(usize),
        Resize(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Ask),
            2 => Just(Step::Work),
            1 => (0_usize..4).prop_map(Step::GoAway),
            4 => (0_usize..6).prop_map(Step::GiveBack),
            1 => (1_usize..6).prop_map(Step::Resize),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order, the counts are those of what is held, and nobody
        /// waits while there is room.
        #[test]
        fn no_place_is_lost_and_none_is_given_twice(steps in prop::collection::vec(step(), 1..120)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            let _entered = runtime.enter();
            let admission = admission(settings(3, 1.0, SECOND * 3600));
            let mut size = 3;
            let (mut held, mut work, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
            for step in steps {
                let before = held.len() + work.len();
                match step {
                    Step::Ask => waiting.push(Box::pin(admission.read())),
                    Step::Work => work.extend(admission.work("w").ok()),
                    Step::GoAway(at) if at < waiting.len() => drop(waiting.remove(at)),
                    Step::GiveBack(at) if at < held.len() => drop(held.remove(at)),
                    Step::GiveBack(_) => drop(work.pop()),
                    Step::GoAway(_) => {}
                    Step::Resize(new) => {
                        size = new;
                        admission.reload(settings(size, 1.0, SECOND * 3600));
                    }
                }
                // First come, first served: nobody behind one that still waits is ready.
                let mut still = Vec::new();
                for mut one in waiting {
                    match one.as_mut().now_or_never() {
                        Some(permit) => {
                            prop_assert!(still.is_empty());
                            held.push(permit.unwrap());
                        }
                        None => still.push(one),
                    }
                }
                waiting = still;
                let Occupancy { clients, workers, waiting: queued, .. } = admission.occupancy()[0];
                prop_assert_eq!((clients, workers, queued), (held.len(), work.len(), waiting.len()));
                prop_assert!(clients + workers <= size.max(before).max(workers + 1));
                prop_assert!(waiting.is_empty() || clients + workers >= size);
            }
        }
    }
}
