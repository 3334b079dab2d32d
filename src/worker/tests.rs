//! The loop around a worker that does as it is told, in time that only moves when all wait for it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::timeout;

use super::post::ERROR_PAUSE;
use super::post::GOOD_RUN;
use super::post::Ground;
use super::post::HELD_PAUSE;
use super::post::PANIC_PAUSE_MAX;
use super::post::REFUSED_PAUSE;
use super::post::STILL_PAUSE;
use super::*;
use crate::base::Clock;
use crate::base::FileLock;
use crate::engine::Admission;
use crate::engine::AdmissionSettings;
use crate::engine::Permit;
use crate::engine::Refusals;

const NAME: Name = Name::Replicator;
/// Longer than anything is waited for here.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const INTERVAL: Duration = Duration::from_secs(300);
/// How far the steered clock may be behind.
const LAG: Duration = Duration::from_secs(1);

/// What a step is to do.
enum Order {
    Do(Step),
    Fail,
    Panic,
    /// Waits to be told to stop.
    Linger,
}

/// Does what stands first in the book, and nothing when it is empty.
struct Fake {
    book: Arc<Mutex<VecDeque<Order>>>,
    seen: mpsc::UnboundedSender<Seen>,
    number: u32,
}

/// A step as it was asked for.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Which worker made it: they are counted.
    number: u32,
    is_full: bool,
    batch: usize,
}

#[async_trait::async_trait]
impl Worker for Fake {
    fn name(&self) -> Name {
        NAME
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let batch = turn.settings.of(NAME).batch;
        let (number, is_full) = (self.number, turn.is_full);
        let _ = self.seen.send(Seen { at: Instant::now(), number, is_full, batch });
        let order = self.book.lock().unwrap().pop_front();
        match order {
            None => Ok(Step::default()),
            Some(Order::Do(step)) => Ok(step),
            Some(Order::Fail) => Err(EngineError::Invalid("it was told to fail")),
            Some(Order::Panic) => panic!("it was told to panic"),
            Some(Order::Linger) => {
                turn.stop.cancelled().await;
                Ok(done(1))
            }
        }
    }
}

struct World {
    crew: Arc<Crew>,
    wakes: Wakes,
    book: Arc<Mutex<VecDeque<Order>>>,
    seen: mpsc::UnboundedReceiver<Seen>,
    clock: Clock,
    dir: TempDir,
    admission: Arc<Admission>,
    last: Instant,
}

fn settings(change: impl FnOnce(&mut Settings)) -> CrewSettings {
    let mut settings = CrewSettings::default();
    change(settings.of_mut(NAME));
    settings
}

fn done(processed: u64) -> Step {
    Step { processed, counts: [("created", processed)].into(), ..Step::default() }
}

fn more(processed: u64) -> Step {
    Step { next: Next::Now, ..done(processed) }
}

impl World {
    fn new(orders: impl IntoIterator<Item = Order>) -> World {
        World::with(CrewSettings::default(), orders)
    }

    /// Nothing runs yet. The clock follows the runtime's time.
    fn with(settings: CrewSettings, orders: impl IntoIterator<Item = Order>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let hand = Arc::new(AtomicI64::new(1_767_225_600_000_000));
        let clock = Clock::steered(Arc::clone(&hand));
        tokio::spawn(async move {
            let (begun, first) = (Instant::now(), hand.load(Ordering::Acquire));
            let mut ticks = tokio::time::interval(LAG);
            loop {
                ticks.tick().await;
                hand.store(first + begun.elapsed().as_micros() as i64, Ordering::Release);
            }
        });
        let one = AdmissionSettings { reads: 1, writes: 1, ..AdmissionSettings::default() };
        let admission = Arc::new(Admission::new(one, Arc::new(Refusals::default())));
        let ground = Ground {
            admission: Arc::clone(&admission),
            clock: clock.clone(),
            locks: dir.path().join("locks"),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            stop: CancellationToken::new(),
        };
        let book: Arc<Mutex<VecDeque<Order>>> = Arc::new(Mutex::new(orders.into_iter().collect()));
        let (sender, seen) = mpsc::unbounded_channel();
        let numbers = Arc::new(AtomicU32::new(0));
        let of_worker = Arc::clone(&book);
        let factory: Factory = Arc::new(move || {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            Box::new(Fake { book: Arc::clone(&of_worker), seen: sender.clone(), number })
        });
        let wakes = Wakes::default();
        let crew = Crew::of(vec![(NAME, factory)], ground, &wakes);
        World { crew, wakes, book, seen, clock, dir, admission, last: Instant::now() }
    }

    fn started(orders: impl IntoIterator<Item = Order>) -> World {
        let world = World::new(orders);
        world.crew.start();
        world
    }

    /// The next step, and how long after the one before it came.
    async fn next(&mut self) -> (Duration, Seen) {
        let seen = timeout(PATIENCE, self.seen.recv()).await.expect("a step in time").unwrap();
        let pause = seen.at - self.last;
        self.last = seen.at;
        (pause, seen)
    }

    async fn pauses(&mut self, count: usize) -> Vec<Duration> {
        let mut pauses = Vec::new();
        for _ in 0..count {
            pauses.push(self.next().await.0);
        }
        pauses
    }

    async fn rests_for(&mut self, time: Duration) {
        let seen = timeout(time, self.seen.recv()).await;
        assert!(seen.is_err(), "it made a step: {seen:?}");
        self.last = Instant::now();
    }

    fn order(&self, order: Order) {
        self.book.lock().unwrap().push_back(order);
    }

    fn report(&self) -> Report {
        self.crew.reports().remove(0).1
    }

    /// The report once it is so.
    async fn report_when(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            let report = self.report();
            if holds(&report) {
                return report;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}: {report:?}");
            ticks.tick().await;
        }
    }

    fn lock_file(&self) -> std::path::PathBuf {
        self.dir.path().join("locks").join("replicator.lock")
    }

    /// Somebody else has the worker's lock.
    fn hold(&self) -> FileLock {
        std::fs::create_dir_all(self.dir.path().join("locks")).unwrap();
        FileLock::try_take(&self.lock_file()).unwrap().expect("it is free")
    }

    async fn run(&self) -> Result<Totals, RunError> {
        let progress = Arc::new(RunProgress::default());
        let totals = timeout(PATIENCE, self.crew.run(NAME, &progress)).await.expect("it ends");
        if let Ok(totals) = &totals {
            assert_eq!(progress.now(), *totals);
        }
        totals
    }
}

fn about(pause: Duration, wanted: Duration) {
    assert!(pause >= wanted && pause <= wanted + 2 * LAG, "{pause:?} instead of {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_makes_no_step_for_a_day_and_is_woken_at_once() {
    let mut world = World::started([]);
    world.next().await;
    world.rests_for(DAY).await;
    let report = world.report();
    assert_eq!((report.state, report.next, report.steps), (State::Idle, None, 1));
    world.wakes.of(NAME).notify_one();
    about(world.next().await.0, Duration::ZERO);
    world.rests_for(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_during_a_step_is_not_lost() {
    let mut world = World::new([]);
    world.wakes.of(NAME).notify_one();
    world.crew.start();
    world.next().await;
    about(world.next().await.0, Duration::ZERO);
    world.rests_for(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn work_that_waits_is_looked_at_after_the_interval() {
    let left = Step { backlog: Some(3), ..Step::default() };
    let mut world = World::started([Order::Do(left)]);
    world.next().await;
    let report = world.report_when("it waits", |report| report.state == State::Waiting).await;
    assert_eq!(report.backlog, Some(3));
    assert!(report.next.is_some_and(|next| next > world.clock.now()), "{report:?}");
    about(world.next().await.0, INTERVAL);
    world.rests_for(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_looked_at_then_however_far_it_is() {
    let due = 3 * DAY;
    let mut world = World::new([]);
    let at = world.clock.now().plus(due);
    world.order(Order::Do(Step { next: Next::At(at), ..done(1) }));
    world.crew.start();
    world.next().await;
    about(world.next().await.0, due);
    world.rests_for(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn more_to_do_is_done_at_once_and_a_worker_that_stands_still_does_not_spin() {
    let moved = |at: &str| Step { position: Some(at.to_owned()), ..more(0) };
    let mut world = World::started([
        Order::Do(more(5)),
        Order::Do(moved("a")),
        Order::Do(moved("b")),
        Order::Do(moved("b")),
    ]);
    let pauses = world.pauses(5).await;
    assert_eq!(pauses[1..4], [Duration::ZERO; 3]);
    assert_eq!(pauses[4], STILL_PAUSE);
    let report = world.report();
    assert_eq!((report.processed, report.counts["created"]), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_off_or_paused_takes_no_lock_and_says_so() {
    let off = settings(|one| one.enabled = false);
    let mut world = World::with(off, []);
    world.crew.start();
    world.wakes.of(NAME).notify_one();
    world.rests_for(DAY).await;
    assert!(!world.lock_file().exists());
    assert_eq!(world.report().state, State::Off);
    world.crew.pause(NAME, true);
    world.crew.reload(CrewSettings::default());
    world.rests_for(DAY).await;
    assert!(!world.lock_file().exists());
    assert_eq!(world.report().state, State::Paused);
    world.crew.pause(NAME, false);
    about(world.next().await.0, Duration::ZERO);
    assert!(world.lock_file().exists());
    world.report_when("it is idle", |report| report.state == State::Idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_holds_from_the_next_step_and_wakes_a_sleeping_loop() {
    let left = || Order::Do(Step { backlog: Some(1), ..Step::default() });
    let mut world = World::started([left(), left(), left()]);
    assert_eq!(world.next().await.1.batch, 50);
    world.rests_for(Duration::from_secs(100)).await;
    // The interval counts from the step, which was longer ago than that.
    let quicker = settings(|one| (one.interval, one.batch) = (Duration::from_secs(20), 7));
    world.crew.reload(quicker);
    let (pause, seen) = world.next().await;
    about(pause, Duration::ZERO);
    assert_eq!(seen.batch, 7);
    about(world.next().await.0, Duration::from_secs(20));
    world.crew.reload(settings(|one| one.enabled = false));
    world.rests_for(DAY).await;
    assert_eq!(world.report().state, State::Off);
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_lock_is_held_is_left_out_and_counted() {
    let mut world = World::new([]);
    let held = world.hold();
    world.crew.start();
    world.rests_for(3 * HELD_PAUSE + LAG).await;
    let report = world.report();
    assert_eq!((report.held, report.steps, report.state), (4, 0, State::Waiting));
    drop(held);
    world.next().await;
    // It does not keep it.
    world.report_when("it is idle", |report| report.state == State::Idle).await;
    drop(world.hold());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_not_admitted_is_left_out_and_counted() {
    let mut world = World::new([]);
    let permit: Permit = world.admission.work("other").unwrap();
    world.crew.start();
    world.rests_for(3 * REFUSED_PAUSE + REFUSED_PAUSE / 2).await;
    let report = world.report();
    assert_eq!((report.refused, report.held, report.steps), (4, 0, 0));
    assert!(!world.lock_file().exists(), "a refused step costs nothing");
    drop(permit);
    about(world.next().await.0, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_tried_again_later_and_later_but_within_the_interval() {
    let orders = std::iter::repeat_with(|| Order::Fail).take(12);
    let mut world = World::started(orders);
    world.next().await;
    // Every write that finds no room wakes: that is no reason to try sooner.
    world.wakes.of(NAME).notify_one();
    let pauses = world.pauses(10).await;
    let wanted = |n: u32| (ERROR_PAUSE * (1 << n)).min(INTERVAL);
    assert_eq!(pauses, (0..10).map(wanted).collect::<Vec<_>>());
    let report = world.report();
    assert_eq!((report.failures, report.last_success), (11, None));
    assert!(report.last_error.unwrap().0.contains("it was told to fail"));
    // An operator is not kept waiting.
    assert!(world.crew.wake(NAME));
    about(world.next().await.0, Duration::ZERO);
    world.next().await;
    let report = world.report_when("it is well", |report| report.failures == 0).await;
    assert!(report.last_success.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_built_anew_after_a_growing_pause() {
    let mut world = World::started(std::iter::repeat_with(|| Order::Panic).take(8));
    let mut numbers = vec![world.next().await.1.number];
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let (pause, seen) = world.next().await;
        pauses.push(pause.as_secs());
        numbers.push(seen.number);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, PANIC_PAUSE_MAX.as_secs(), 30]);
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    // The last one of these runs well for long enough.
    world.next().await;
    let report = world.report_when("it is well", |report| report.failures == 0).await;
    assert_eq!(report.panics, 8);
    assert_eq!(report.last_error.unwrap().0, "it panicked: it was told to panic");
    world.rests_for(GOOD_RUN).await;
    world.order(Order::Panic);
    world.wakes.of(NAME).notify_one();
    world.next().await;
    assert_eq!(world.next().await.0, Duration::from_secs(1));
    assert_eq!(world.report().panics, 9);
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_is_a_full_pass_by_a_worker_of_its_own_and_sums_up() {
    let off = settings(|one| one.enabled = false);
    let last = Step { failed: 2, backlog: Some(1), ..done(3) };
    let mut world = World::with(off, [Order::Do(more(5)), Order::Do(more(1)), Order::Do(last)]);
    world.crew.start();
    let totals = world.run().await.unwrap();
    let sums = (totals.steps, totals.processed, totals.failed, totals.backlog);
    assert_eq!(sums, (3, 9, 2, Some(1)));
    assert_eq!(totals.counts["created"], 9);
    for _ in 0..3 {
        let (_, seen) = world.next().await;
        assert!(seen.is_full && seen.number == 0, "{seen:?}");
    }
    let report = world.report();
    assert_eq!((report.state, report.steps, report.processed), (State::Off, 3, 9));
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_ends_when_nothing_is_done_any_more() {
    let moved = |at: &str| Order::Do(Step { position: Some(at.to_owned()), ..more(0) });
    let world = World::new([Order::Do(more(5)), moved("a"), moved("b"), moved("b"), moved("c")]);
    assert_eq!(world.run().await.unwrap().steps, 4);
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_waits_for_the_lock_and_holds_it() {
    let world = World::new([Order::Linger]);
    let held = world.hold();
    let run = tokio::spawn({
        let crew = Arc::clone(&world.crew);
        async move { crew.run(NAME, &Arc::default()).await }
    });
    let second = tokio::spawn({
        let crew = Arc::clone(&world.crew);
        async move { crew.run(NAME, &Arc::default()).await }
    });
    tokio::time::advance(DAY).await;
    assert_eq!(world.report().steps, 0);
    drop(held);
    world.report_when("it works", |report| report.state == State::Working).await;
    assert!(FileLock::try_take(&world.lock_file()).unwrap().is_none());
    // The end of the crew ends both: the one in its step, and the one that waits for it.
    world.crew.end().await;
    for run in [run, second] {
        assert!(matches!(run.await.unwrap(), Err(RunError::Stopped)));
    }
    assert_eq!(world.report().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_that_nobody_waits_for_ends_after_its_step() {
    let mut world = World::new([Order::Linger]);
    let run = tokio::spawn({
        let crew = Arc::clone(&world.crew);
        async move { crew.run(NAME, &Arc::default()).await }
    });
    world.next().await;
    run.abort();
    // The step saw that it should stop, and came to its end.
    let report = world.report_when("it has ended", |report| report.steps == 1).await;
    assert_eq!(report.processed, 1);
    world.report_when("it rests", |report| report.state == State::Stopped).await;
    assert!(world.run().await.is_ok(), "the lock is free again");
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_tells_how_it_failed() {
    let world = World::new([Order::Fail, Order::Do(more(1)), Order::Panic]);
    assert!(matches!(world.run().await, Err(RunError::Step(_))));
    assert!(matches!(world.run().await, Err(RunError::Panicked(text)) if text.contains("told to")));
    assert_eq!((world.report().failures, world.report().panics), (1, 1));
    let nobody = world.crew.run(Name::Drain, &Arc::default()).await;
    assert!(matches!(nobody, Err(RunError::NoSuchWorker)));
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_a_step_that_runs_and_cuts_every_sleep() {
    let mut world = World::started([Order::Linger]);
    world.next().await;
    timeout(LAG, world.crew.end()).await.expect("it ends at once");
    assert_eq!(world.report().processed, 1, "the step came to its end");
    for orders in [vec![], vec![Order::Fail], vec![Order::Panic]] {
        let mut world = World::started(orders);
        world.next().await;
        world.report_when("it rests", |report| report.steps == 1).await;
        timeout(LAG, world.crew.end()).await.expect("it ends at once");
    }
    let off = World::with(settings(|one| one.enabled = false), []);
    off.crew.start();
    timeout(LAG, off.crew.end()).await.expect("it ends at once");
}
