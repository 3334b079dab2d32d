//! One worker's place in the crew: its loop, its lock, its report.
//!
//! # Invariants
//!
//! - At most one step of a worker runs at a time, in all processes: each holds the worker's file
//!   lock, and nobody holds it between the steps of the loop.
//! - A step is never cut off. A panic ends the worker, not the loop: a new worker takes its place
//!   after a pause.
//! - One that is off or paused takes no lock and makes no step but in a manual run.
//! - Between steps there is one timer at most, which ends when the next thing is due; with nothing
//!   due there is none.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Next;
use super::Step;
use super::Turn;
use super::Worker;
use super::report::Report;
use super::report::State;
use super::settings::CrewSettings;
use super::table::Factory;
use super::table::Name;
use crate::base::Clock;
use crate::base::FileLock;
use crate::base::Timestamp;
use crate::base::chain;
use crate::engine::Admission;
use crate::engine::EngineError;

/// How soon a step is tried again whose lock somebody else holds, by a manual run most likely.
pub(super) const HELD_PAUSE: Duration = Duration::from_secs(10);
/// How soon a step is tried again that was not admitted: cleanup makes room for those who wait.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// How long a worker rests that says there is more to do and did nothing.
pub(super) const STILL_PAUSE: Duration = Duration::from_secs(1);
/// After the first failure in a row; doubled for each further one, up to the worker's interval.
pub(super) const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// Before a worker that panicked is built anew; doubled each time, and begun again after a run that
/// was long enough.
pub(super) const PANIC_PAUSE: Duration = Duration::from_secs(1);
pub(super) const PANIC_PAUSE_MAX: Duration = Duration::from_secs(30);
pub(super) const GOOD_RUN: Duration = Duration::from_secs(60);
/// The longest sleep in one piece: the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What all workers stand on.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) admission: Arc<Admission>,
    pub(super) clock: Clock,
    /// The directory of lock files.
    pub(super) locks: PathBuf,
    pub(super) settings: Arc<ArcSwap<CrewSettings>>,
    pub(super) stop: CancellationToken,
}

pub(super) struct Post {
    pub(super) name: Name,
    pub(super) factory: Factory,
    pub(super) ground: Ground,
    /// Woken by who makes work.
    pub(super) wake: Arc<Notify>,
    /// Woken when something that the loop goes by has changed.
    pub(super) changed: Notify,
    /// An operator wants it to look now, whatever it waits for.
    pub(super) is_asked: AtomicBool,
    pub(super) is_paused: AtomicBool,
    report: Mutex<Watched>,
}

/// A report, and what its state is made of.
#[derive(Default)]
struct Watched {
    report: Report,
    /// Steps that run now.
    working: u32,
}

/// How a step ended.
pub(super) enum Attempt {
    Done(Step),
    Failed(StepError),
    Panicked(String),
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the lock file {0} cannot be taken")]
    Lock(PathBuf, #[source] std::io::Error),
}

impl StepError {
    fn is_told(&self) -> bool {
        matches!(self, StepError::Engine(err) if err.is_told())
    }
}

/// What the loop waits for.
#[derive(Clone, Copy, Debug)]
struct Rest {
    since: Instant,
    until: Until,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Now,
    At(Timestamp),
    Woken {
        has_backlog: bool,
    },
    /// Who makes work does not shorten this.
    Paused(Duration),
    /// So many failures in a row.
    Failed(u32),
}

/// Why the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woke {
    Due,
    Changed,
    Stopped,
}

/// Panics of a worker.
#[derive(Debug, Default)]
struct Panics {
    /// Since the last good run.
    in_a_row: u32,
    /// When the worker that is there now was built.
    built: Option<Instant>,
}

impl Panics {
    fn pause(&mut self, now: Instant) -> Duration {
        if self.built.take().is_some_and(|built| now - built >= GOOD_RUN) {
            self.in_a_row = 0;
        }
        let pause = PANIC_PAUSE.saturating_mul(1 << self.in_a_row.min(16)).min(PANIC_PAUSE_MAX);
        self.in_a_row = self.in_a_row.saturating_add(1);
        pause
    }
}

impl Post {
    pub(super) fn new(name: Name, factory: Factory, ground: Ground, wake: Arc<Notify>) -> Post {
        Post {
            name,
            factory,
            ground,
            wake,
            changed: Notify::new(),
            is_asked: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            report: Mutex::default(),
        }
    }

    /// Runs the worker until the crew stops.
    pub(super) async fn run(self: Arc<Self>) {
        let mut worker: Option<Box<dyn Worker>> = None;
        let mut panics = Panics::default();
        let mut position = None;
        let mut rest = Rest { since: Instant::now(), until: Until::Now };
        while !self.ground.stop.is_cancelled() {
            if !self.is_on() {
                worker = None;
                tokio::select! {
                    () = self.ground.stop.cancelled() => return,
                    () = self.changed.notified() => {}
                }
                rest = Rest { since: Instant::now(), until: Until::Now };
                continue;
            }
            match self.sleep(&rest).await {
                Woke::Due => {}
                Woke::Changed => continue,
                Woke::Stopped => return,
            }
            let until = match self.step(&mut worker, &mut panics).await {
                Ok(Attempt::Done(step)) => {
                    let is_still = step.processed + step.failed == 0 && step.position == position;
                    position.clone_from(&step.position);
                    until(&step, is_still)
                }
                Ok(Attempt::Failed(_)) => Until::Failed(self.report().failures),
                Ok(Attempt::Panicked(_)) => {
                    worker = None;
                    Until::Paused(panics.pause(Instant::now()))
                }
                Err(pause) => Until::Paused(pause),
            };
            rest = Rest { since: Instant::now(), until };
        }
    }

    /// One step of the loop; `Err`: it was left out, and is tried again after that.
    async fn step(
        &self,
        worker: &mut Option<Box<dyn Worker>>,
        panics: &mut Panics,
    ) -> Result<Attempt, Duration> {
        let Ok(_permit) = self.ground.admission.work(self.name.as_str()) else {
            self.with_report(|report| report.refused += 1);
            return Err(REFUSED_PAUSE);
        };
        let lock = match self.try_lock().await {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                self.with_report(|report| report.held += 1);
                return Err(HELD_PAUSE);
            }
            Err(err) => return Ok(self.note(Attempt::Failed(err))),
        };
        panics.built.get_or_insert_with(Instant::now);
        let attempt = self.attempt(worker, &self.turn(false, self.ground.stop.clone())).await;
        drop(lock);
        Ok(attempt)
    }

    /// Takes the worker's lock, if nobody has it. The file stays, so that all lock the same.
    pub(super) async fn try_lock(&self) -> Result<Option<FileLock>, StepError> {
        let dir = self.ground.locks.clone();
        let path = dir.join(format!("{}.lock", self.name));
        let taken = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || match FileLock::try_take(&path) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(&dir)?;
                    FileLock::try_take(&path)
                }
                taken => taken,
            })
        };
        let taken = taken.await.unwrap_or_else(|err| Err(std::io::Error::other(err)));
        taken.map_err(|err| StepError::Lock(path, err))
    }

    pub(super) fn turn(&self, is_full: bool, stop: CancellationToken) -> Turn {
        Turn { settings: self.ground.settings.load_full(), is_full, stop }
    }

    /// Makes one step and notes it; builds the worker if there is none. The caller has the lock.
    pub(super) async fn attempt(
        &self,
        worker: &mut Option<Box<dyn Worker>>,
        turn: &Turn,
    ) -> Attempt {
        let _working = Working::begin(self);
        let stepping = async {
            let worker = worker.get_or_insert_with(|| (self.factory)());
            worker.step(turn).await
        };
        self.note(match AssertUnwindSafe(stepping).catch_unwind().await {
            Ok(Ok(step)) => Attempt::Done(step),
            Ok(Err(err)) => Attempt::Failed(err.into()),
            Err(panic) => Attempt::Panicked(text_of(&*panic)),
        })
    }

    fn note(&self, attempt: Attempt) -> Attempt {
        let now = self.ground.clock.now();
        let worker = self.name.as_str();
        match &attempt {
            Attempt::Done(step) => self.with_report(|report| report.note_step(step, now)),
            Attempt::Failed(err) => {
                let text = chain(err);
                if !err.is_told() {
                    tracing::warn!(worker, error = text, "a step failed");
                }
                self.with_report(|report| report.note_error(text, now));
            }
            Attempt::Panicked(text) => {
                tracing::error!(worker, panic = text, "a worker panicked and is built anew");
                self.with_report(|report| {
                    report.panics += 1;
                    report.note_error(format!("it panicked: {text}"), now);
                });
            }
        }
        attempt
    }

    /// Until something is due, or has changed, or the crew stops.
    async fn sleep(&self, rest: &Rest) -> Woke {
        loop {
            if self.is_asked.swap(false, Ordering::AcqRel) {
                return Woke::Due;
            }
            let left = self.left(rest);
            if left == Some(Duration::ZERO) {
                return Woke::Due;
            }
            let due = left.map(|left| self.ground.clock.now().plus(left));
            self.with_report(|report| {
                report.state = if due.is_some() { State::Waiting } else { State::Idle };
                report.next = due;
            });
            let slept = async {
                match left {
                    Some(left) => tokio::time::sleep(left.min(SLEEP_MAX)).await,
                    None => std::future::pending().await,
                }
            };
            let woken = async {
                match rest.until {
                    Until::Paused(_) | Until::Failed(_) => std::future::pending().await,
                    Until::Now | Until::At(_) | Until::Woken { .. } => self.wake.notified().await,
                }
            };
            tokio::select! {
                () = self.ground.stop.cancelled() => return Woke::Stopped,
                () = self.changed.notified() => {
                    let is_asked = self.is_asked.swap(false, Ordering::AcqRel);
                    return if is_asked { Woke::Due } else { Woke::Changed };
                }
                () = woken => return Woke::Due,
                () = slept => {}
            }
        }
    }

    /// How long is still to be waited; `None`: until it is woken.
    fn left(&self, rest: &Rest) -> Option<Duration> {
        let after = |pause: Duration| Some(pause.saturating_sub(rest.since.elapsed()));
        let interval = self.ground.settings.load().of(self.name).interval;
        match rest.until {
            Until::Now => Some(Duration::ZERO),
            Until::At(due) => Some(due.since(self.ground.clock.now())),
            Until::Woken { has_backlog: false } => None,
            Until::Woken { has_backlog: true } => after(interval),
            Until::Paused(pause) => after(pause),
            Until::Failed(times) => {
                let pause = ERROR_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(20));
                after(pause.min(interval))
            }
        }
    }

    fn is_on(&self) -> bool {
        self.ground.settings.load().of(self.name).enabled && !self.is_paused.load(Ordering::Acquire)
    }

    /// The report as it is now.
    pub(super) fn report(&self) -> Report {
        let watched = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = watched.report.clone();
        if watched.working > 0 {
            report.state = State::Working;
        } else if !self.ground.settings.load().of(self.name).enabled {
            report.state = State::Off;
        } else if self.is_paused.load(Ordering::Acquire) {
            report.state = State::Paused;
        }
        if !matches!(report.state, State::Waiting) {
            report.next = None;
        }
        report
    }

    pub(super) fn with_report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner).report);
    }
}

fn until(step: &Step, is_still: bool) -> Until {
    match step.next {
        Next::Now if is_still => Until::Paused(STILL_PAUSE),
        Next::Now => Until::Now,
        Next::At(due) => Until::At(due),
        Next::Woken => Until::Woken { has_backlog: step.backlog.is_some_and(|left| left > 0) },
    }
}

/// A step that runs.
struct Working<'p>(&'p Post);

impl Working<'_> {
    fn begin(post: &Post) -> Working<'_> {
        post.report.lock().unwrap_or_else(PoisonError::into_inner).working += 1;
        Working(post)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.report.lock().unwrap_or_else(PoisonError::into_inner).working -= 1;
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no reason given".to_owned())
}
