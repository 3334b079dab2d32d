//! The circuit breaker of one backend: what is broken is left alone, and tried again.
//!
//! ```text
//!            so many failures in a row, or a refusal of the credentials
//!   closed ───────────────────────────────────────────────────────────▶ open
//!     ▲                                                                 │  ▲
//!     │ it answered                          its time is over, a call ▼  │ failed, or took too long
//!     └──────────────────────────────────────────────────────────── half-open
//! ```
//!
//! `Machine` is the whole of the rules, without a clock, chance or log of its own; [`Breaker`]
//! is the shell that threads share.
//!
//! # Invariants
//!
//! - Half-open there is exactly one probe; all other calls are turned away.
//! - Every change of the state begins a new generation, and what a call of an earlier one comes to
//!   decides nothing: a late failure neither opens nor extends, a late success does not close.
//! - A probe that was dropped counts as never made; one that is not heard of in time has failed.
//!   That is judged by whoever looks next, so no probe has a task of its own.
//! - Closed and without failures a call costs one atomic load, and so does its good end.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

/// Up to this part of the open time is added to it, by chance.
const JITTER: f64 = 0.25;

/// When a backend is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row.
    pub failures: u32,
    /// How long it is left alone; up to a quarter more, so that many do not come back at once.
    pub open: Duration,
    /// A probe that takes longer has failed.
    pub probe_timeout: Duration,
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            failures: 5,
            open: Duration::from_secs(300),
            probe_timeout: Duration::from_secs(120),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        }
    }
}

/// A breaker as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    pub state: BreakerState,
    /// In a row, while it is closed.
    pub failures: u32,
    /// How long ago it left the closed state, failed probes included.
    pub since: Option<Duration>,
    /// When it is tried again at the earliest; zero once it is due.
    pub retry_in: Option<Duration>,
    /// The failure that opened it, or the last that kept it open.
    pub why: Option<String>,
}

/// What a call says of the backend as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, be it that something is missing, damaged or does not fit.
    Alive,
    Failing,
    /// It refuses whoever we are.
    Denied,
}

/// The number of the generation in which a call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(u64);

/// What a call is told that asks to pass.
pub(crate) enum Entry<'b> {
    Pass(Pass),
    /// The caller is to find out how the backend is.
    Probe(Probe<'b>),
    Resting,
}

/// How a breaker stands, as far as a choice between backends goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Closed,
    /// Half-open, or as good as: the next call is the probe.
    Due,
    Resting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { deadline: Instant },
}

/// Since when it is not closed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Out {
    since: Instant,
    why: String,
    is_denied: bool,
}

/// A change of the state, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Opened,
    HalfOpen,
    Reopened,
    Closed { out: Duration },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Pass,
    Probe,
    Resting,
}

/// The rules. `chance` is between 0 and 1, and new each time.
#[derive(Clone, Debug)]
struct Machine {
    settings: BreakerSettings,
    state: State,
    generation: u64,
    /// When the generation began.
    changed: Instant,
    out: Option<Out>,
}

impl Machine {
    fn new(settings: BreakerSettings, now: Instant) -> Machine {
        let state = State::Closed { failures: 0 };
        Machine { settings, state, generation: 0, changed: now, out: None }
    }

    fn turn(&mut self, state: State, now: Instant) {
        self.state = state;
        self.generation += 1;
        self.changed = now;
    }

    fn open(&mut self, now: Instant, chance: f64) {
        let rest = self.settings.open.mul_f64(1.0 + JITTER * chance);
        self.turn(State::Open { until: now + rest }, now);
    }

    /// Judges a probe that nobody has heard of.
    fn look(&mut self, now: Instant, chance: f64) -> Option<Change> {
        let State::HalfOpen { deadline } = self.state else { return None };
        if now < deadline {
            return None;
        }
        if let Some(out) = &mut self.out {
            out.why = "a probe got no answer".to_owned();
        }
        self.open(now, chance);
        Some(Change::Reopened)
    }

    /// What a call that begins now is told. A probe's deadline is to be looked at before.
    fn admit(&mut self, now: Instant) -> (Answer, Option<Change>) {
        match self.state {
            State::Closed { .. } => (Answer::Pass, None),
            State::Open { until } if until <= now => {
                let deadline = now + self.settings.probe_timeout;
                self.turn(State::HalfOpen { deadline }, now);
                (Answer::Probe, Some(Change::HalfOpen))
            }
            State::Open { .. } | State::HalfOpen { .. } => (Answer::Resting, None),
        }
    }

    /// What came of a call of this generation.
    fn tell(
        &mut self,
        generation: u64,
        health: Health,
        why: impl FnOnce() -> String,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        if generation != self.generation {
            return None;
        }
        match (self.state, health) {
            (State::Closed { .. }, Health::Alive) => {
                self.state = State::Closed { failures: 0 };
                None
            }
            (State::Closed { failures }, Health::Failing)
                if failures + 1 < self.settings.failures =>
            {
                self.state = State::Closed { failures: failures + 1 };
                None
            }
            (State::Closed { .. }, Health::Failing | Health::Denied) => {
                let is_denied = health == Health::Denied;
                self.out = Some(Out { since: now, why: why(), is_denied });
                self.open(now, chance);
                Some(Change::Opened)
            }
            (State::HalfOpen { .. }, Health::Alive) => Some(self.close(now)),
            (State::HalfOpen { .. }, Health::Failing | Health::Denied) => {
                if let Some(out) = &mut self.out {
                    out.why = why();
                    out.is_denied = health == Health::Denied;
                }
                self.open(now, chance);
                Some(Change::Reopened)
            }
            // Nothing begins in this state.
            (State::Open { .. }, _) => None,
        }
    }

    fn close(&mut self, now: Instant) -> Change {
        let since = self.out.take().map_or(now, |out| out.since);
        self.turn(State::Closed { failures: 0 }, now);
        Change::Closed { out: now.duration_since(since) }
    }

    /// The probe was not made after all: the next call is one.
    fn give_back(&mut self, generation: u64, now: Instant) {
        if generation == self.generation && matches!(self.state, State::HalfOpen { .. }) {
            self.turn(State::Open { until: now }, now);
        }
    }

    fn reset(&mut self, now: Instant) -> Option<Change> {
        match self.state {
            State::Closed { .. } => {
                self.turn(State::Closed { failures: 0 }, now);
                None
            }
            _ => Some(self.close(now)),
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.state {
            State::Closed { .. } => Standing::Closed,
            State::Open { until } if now < until => Standing::Resting,
            State::Open { .. } | State::HalfOpen { .. } => Standing::Due,
        }
    }

    fn view(&self, now: Instant) -> BreakerView {
        let (state, failures, retry_in) = match self.state {
            State::Closed { failures } => (BreakerState::Closed, failures, None),
            State::Open { until } => {
                (BreakerState::Open, 0, Some(until.saturating_duration_since(now)))
            }
            State::HalfOpen { .. } => (BreakerState::HalfOpen, 0, None),
        };
        let since = self.out.as_ref().map(|out| now.duration_since(out.since));
        let why = self.out.as_ref().map(|out| out.why.clone());
        BreakerView { state, failures, since, retry_in, why }
    }

    /// The generation, and in the last two bits what the fast paths must know.
    fn word(&self) -> u64 {
        let bits = match self.state {
            State::Closed { failures: 0 } => 0,
            State::Closed { .. } => HAS_FAILED,
            State::Open { .. } | State::HalfOpen { .. } => NOT_CLOSED,
        };
        self.generation << BITS | bits
    }
}

const BITS: u32 = 2;
const NOT_CLOSED: u64 = 1;
const HAS_FAILED: u64 = 2;

/// The breaker of one backend, shared by all that call it.
pub(crate) struct Breaker {
    /// Of the backend.
    name: Arc<str>,
    /// [`Machine::word`], written under the lock.
    word: AtomicU64,
    machine: Mutex<Machine>,
}

impl Breaker {
    pub(crate) fn new(name: Arc<str>, settings: BreakerSettings) -> Breaker {
        let machine = Machine::new(settings, Instant::now());
        Breaker { name, word: AtomicU64::new(machine.word()), machine: Mutex::new(machine) }
    }

    /// To be asked before each call.
    pub(crate) fn enter(&self) -> Entry<'_> {
        if let Some(pass) = self.pass() {
            return Entry::Pass(pass);
        }
        let (answer, generation) = self.change(|machine, now| {
            let reopened = machine.look(now, chance());
            let (answer, change) = machine.admit(now);
            ((answer, machine.generation), change.or(reopened))
        });
        match answer {
            Answer::Pass => Entry::Pass(Pass(generation)),
            Answer::Probe => Entry::Probe(Probe { breaker: self, generation, is_over: false }),
            Answer::Resting => Entry::Resting,
        }
    }

    /// The same for those that cannot be the probe.
    pub(crate) fn pass(&self) -> Option<Pass> {
        let word = self.word.load(Ordering::Acquire);
        (word & NOT_CLOSED == 0).then_some(Pass(word >> BITS))
    }

    /// What came of a call. `why` is asked only for what opens or keeps open.
    pub(crate) fn tell(&self, pass: Pass, health: Health, why: impl FnOnce() -> String) {
        let word = self.word.load(Ordering::Acquire);
        let has_news = health != Health::Alive || word & HAS_FAILED != 0;
        if word >> BITS != pass.0 || !has_news {
            return;
        }
        self.change(|machine, now| ((), machine.tell(pass.0, health, why, now, chance())));
    }

    /// Somebody who began to wait at `since` has given up. It is one failure, unless the state
    /// changed meanwhile.
    pub(crate) fn gave_up(&self, since: Instant, why: impl FnOnce() -> String) {
        self.change(|machine, now| {
            let is_late = since < machine.changed || machine.standing(now) != Standing::Closed;
            let generation = machine.generation;
            let tell = |machine: &mut Machine| {
                machine.tell(generation, Health::Failing, why, now, chance())
            };
            ((), if is_late { None } else { tell(machine) })
        });
    }

    /// Closes it, whatever it was.
    pub(crate) fn reset(&self) {
        self.change(|machine, now| ((), machine.reset(now)));
    }

    pub(crate) fn standing(&self) -> Standing {
        if self.pass().is_some() {
            return Standing::Closed;
        }
        self.change(|machine, now| {
            let reopened = machine.look(now, chance());
            (machine.standing(now), reopened)
        })
    }

    pub(crate) fn view(&self) -> BreakerView {
        self.change(|machine, now| {
            let reopened = machine.look(now, chance());
            (machine.view(now), reopened)
        })
    }

    /// Does something under the lock, publishes the result and logs what changed.
    fn change<T>(&self, work: impl FnOnce(&mut Machine, Instant) -> (T, Option<Change>)) -> T {
        let mut machine = self.lock();
        let (value, change) = work(&mut machine, Instant::now());
        self.word.store(machine.word(), Ordering::Release);
        let out = machine.out.clone().filter(|_| change.is_some());
        drop(machine);
        if let Some(change) = change {
            self.log(&change, out);
        }
        value
    }

    fn log(&self, change: &Change, out: Option<Out>) {
        let backend = &self.name;
        let (why, is_denied) = out.map_or_else(Default::default, |out| (out.why, out.is_denied));
        match change {
            Change::Opened if is_denied => tracing::error!(
                %backend,
                why,
                "the backend refuses the credentials and is left alone; mend them in the \
                 configuration, or at the service and then run `larder backend reset {backend}`"
            ),
            Change::Opened => {
                tracing::warn!(%backend, why, "the backend failed too often and is left alone");
            }
            Change::HalfOpen => tracing::info!(%backend, "the backend is tried again"),
            Change::Reopened => {
                tracing::warn!(%backend, why, "the backend still fails and is left alone");
            }
            Change::Closed { out } => {
                let seconds = out.as_secs();
                tracing::info!(%backend, seconds, "the backend is in use again");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one call that finds out whether the backend is well. Dropped, it was never made.
pub(crate) struct Probe<'b> {
    breaker: &'b Breaker,
    generation: u64,
    is_over: bool,
}

impl Probe<'_> {
    pub(crate) fn tell(mut self, health: Health, why: impl FnOnce() -> String) {
        self.is_over = true;
        let generation = self.generation;
        self.breaker
            .change(|machine, now| ((), machine.tell(generation, health, why, now, chance())));
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let generation = self.generation;
            self.breaker.change(|machine, now| {
                machine.give_back(generation, now);
                ((), None)
            });
        }
    }
}

/// Between 0 and 1. Without randomness many would come back at once, and nothing worse.
fn chance() -> f64 {
    let mut random = [0; 4];
    let _ = SystemRandom::new().fill(&mut random);
    f64::from(u32::from_le_bytes(random)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        open: Duration::from_secs(100),
        probe_timeout: Duration::from_secs(40),
    };

    fn breaker() -> Arc<Breaker> {
        Arc::new(Breaker::new("b".into(), SETTINGS))
    }

    fn fail(breaker: &Breaker, pass: Pass) {
        breaker.tell(pass, Health::Failing, || "it failed".to_owned());
    }

    fn open(breaker: &Breaker) -> Pass {
        let pass = breaker.pass().unwrap();
        (0..SETTINGS.failures).for_each(|_| fail(breaker, pass));
        assert_eq!(breaker.view().state, BreakerState::Open);
        pass
    }

    fn probe(breaker: &Breaker) -> Probe<'_> {
        match breaker.enter() {
            Entry::Probe(probe) => probe,
            Entry::Pass(_) | Entry::Resting => panic!("no probe: {:?}", breaker.view()),
        }
    }

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_too_few_leaves_it_closed() {
        let breaker = breaker();
        for _ in 0..10 {
            let pass = breaker.pass().unwrap();
            fail(&breaker, pass);
            fail(&breaker, pass);
            assert_eq!(breaker.view().failures, 2);
            breaker.tell(pass, Health::Alive, String::new);
            assert_eq!(breaker.view().failures, 0);
        }
        open(&breaker);
        assert!(matches!(breaker.enter(), Entry::Resting));
        let view = breaker.view();
        assert_eq!(view.why.as_deref(), Some("it failed"));
        assert!(view.retry_in.unwrap() >= SETTINGS.open);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_open_it_at_once() {
        let breaker = breaker();
        breaker.tell(breaker.pass().unwrap(), Health::Denied, || "403".to_owned());
        assert_eq!(breaker.view().state, BreakerState::Open);
        breaker.reset();
        assert_eq!(breaker.view().state, BreakerState::Closed);
        assert!(breaker.pass().is_some());
    }

    #[test]
    fn exactly_one_of_many_is_the_probe() {
        let open_shortly = BreakerSettings { open: Duration::ZERO, ..SETTINGS };
        let breaker = Breaker::new("b".into(), open_shortly);
        open(&breaker);
        assert_eq!(breaker.standing(), Standing::Due);
        let probes: usize = std::thread::scope(|scope| {
            let enter = || match breaker.enter() {
                // Kept, so that it is not given back.
                Entry::Probe(probe) => {
                    std::mem::forget(probe);
                    1
                }
                Entry::Pass(_) => panic!("it is not closed"),
                Entry::Resting => 0,
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(enter)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(probes, 1);
        assert_eq!(breaker.standing(), Standing::Due, "others may be healed by it");
    }

    #[tokio::test(start_paused = true)]
    async fn late_results_decide_nothing() {
        let breaker = breaker();
        let early = open(&breaker);
        // A late failure does not extend.
        let before = breaker.view();
        fail(&breaker, early);
        breaker.tell(early, Health::Alive, String::new);
        assert_eq!(breaker.view(), before);
        advance(125).await;
        let found = probe(&breaker);
        // Neither reopens nor closes.
        fail(&breaker, early);
        breaker.tell(early, Health::Alive, String::new);
        breaker.tell(early, Health::Denied, String::new);
        breaker.gave_up(Instant::now() - Duration::from_secs(1), String::new);
        assert_eq!(breaker.view().state, BreakerState::HalfOpen);
        found.tell(Health::Alive, String::new);
        (0..9).for_each(|_| fail(&breaker, early));
        breaker.gave_up(Instant::now() - Duration::from_secs(1), String::new);
        let view = breaker.view();
        assert_eq!((view.state, view.failures), (BreakerState::Closed, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_is_one_failure() {
        let breaker = breaker();
        let since = Instant::now();
        advance(1).await;
        breaker.gave_up(since, || "silence".to_owned());
        assert_eq!(breaker.view().failures, 1);
        breaker.gave_up(since, || "silence".to_owned());
        breaker.gave_up(since, || "silence".to_owned());
        assert_eq!(breaker.view().state, BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_opens_it_again_and_the_time_out_goes_on() {
        let breaker = breaker();
        open(&breaker);
        for round in 1..4 {
            advance(125).await;
            probe(&breaker).tell(Health::Failing, || format!("round {round}"));
            let view = breaker.view();
            assert_eq!(view.state, BreakerState::Open);
            assert_eq!(view.why, Some(format!("round {round}")));
            assert_eq!(view.since, Some(Duration::from_secs(125 * round)));
        }
        advance(125).await;
        probe(&breaker).tell(Health::Alive, String::new);
        assert_eq!(breaker.view().state, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_probe_has_failed_and_its_late_answer_is_nothing() {
        let breaker = breaker();
        open(&breaker);
        advance(125).await;
        let hung = probe(&breaker);
        advance(39).await;
        assert_eq!(breaker.view().state, BreakerState::HalfOpen);
        assert!(matches!(breaker.enter(), Entry::Resting));
        advance(1).await;
        assert!(matches!(breaker.enter(), Entry::Resting));
        assert_eq!(breaker.view().state, BreakerState::Open);
        hung.tell(Health::Alive, String::new);
        assert_eq!(breaker.view().state, BreakerState::Open);
        advance(125).await;
        probe(&breaker).tell(Health::Alive, String::new);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_was_never_made() {
        let breaker = breaker();
        open(&breaker);
        advance(125).await;
        drop(probe(&breaker));
        assert_eq!(breaker.view().state, BreakerState::Open);
        probe(&breaker).tell(Health::Alive, String::new);
        assert_eq!(breaker.view().state, BreakerState::Closed);
    }

    #[test]
    fn the_open_time_has_up_to_a_quarter_more() {
        let now = Instant::now();
        for (chance, rest) in [(0.0, 100.0), (0.5, 112.5), (0.999, 124.975)] {
            let mut machine = Machine::new(SETTINGS, now);
            machine.tell(0, Health::Denied, String::new, now, chance);
            let rest = Duration::from_secs_f64(rest);
            let short = Duration::from_micros(1);
            assert_eq!(machine.admit(now + rest - short).0, Answer::Resting);
            assert_eq!(machine.admit(now + rest + short).0, Answer::Probe);
        }
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance != chances[0]));
    }

    /// What may happen to a breaker; indexes name calls that were admitted before.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        End(prop::sample::Index, u8),
        Drop(prop::sample::Index),
        Wait(u64),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        use prop::sample::Index;
        prop_oneof![
            6 => Just(Step::Begin),
            6 => (any::<Index>(), 0u8..4).prop_map(|(call, health)| Step::End(call, health)),
            1 => any::<Index>().prop_map(Step::Drop),
            3 => (0u64..130).prop_map(Step::Wait),
            1 => Just(Step::Reset),
        ]
    }

    /// The rules again, as plainly as they can be said: in seconds, and by the calls themselves.
    #[derive(Debug, Default)]
    struct Model {
        /// The calls in flight whose end still means something.
        counts: Vec<usize>,
        failures: u32,
        open_until: Option<u64>,
        probe: Option<(usize, u64)>,
    }

    impl Model {
        fn opens(&mut self, now: u64) {
            *self = Model { open_until: Some(now + 100), ..Model::default() };
        }

        fn looks(&mut self, now: u64) {
            if self.probe.is_some_and(|(_, begun)| begun + 40 <= now) {
                self.opens(now);
            }
        }

        fn begins(&mut self, call: usize, now: u64) -> Answer {
            self.looks(now);
            match self.open_until {
                None if self.probe.is_none() => {
                    self.counts.push(call);
                    Answer::Pass
                }
                Some(until) if until <= now => {
                    *self = Model { probe: Some((call, now)), ..Model::default() };
                    Answer::Probe
                }
                _ => Answer::Resting,
            }
        }

        fn ends(&mut self, call: usize, health: Health, now: u64) {
            let is_probe = self.probe.is_some_and(|(probe, _)| probe == call);
            match health {
                _ if !is_probe && !self.counts.contains(&call) => {}
                Health::Alive if is_probe => *self = Model::default(),
                Health::Alive => self.failures = 0,
                Health::Failing if !is_probe && self.failures < 2 => self.failures += 1,
                Health::Failing | Health::Denied => self.opens(now),
            }
            self.counts.retain(|counted| *counted != call);
        }

        fn state(&self) -> BreakerState {
            match (self.open_until, self.probe) {
                (Some(_), _) => BreakerState::Open,
                (None, Some(_)) => BreakerState::HalfOpen,
                (None, None) => BreakerState::Closed,
            }
        }
    }

    proptest! {
        #[test]
        fn it_behaves_as_the_rules_say(steps in prop::collection::vec(step(), 1..120)) {
            let begin = Instant::now();
            let at = |now: u64| begin + Duration::from_secs(now);
            let (mut machine, mut model) = (Machine::new(SETTINGS, begin), Model::default());
            let (mut now, mut calls): (u64, Vec<(usize, u64)>) = (0, Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin => {
                        machine.look(at(now), 0.0);
                        let (answer, _) = machine.admit(at(now));
                        prop_assert_eq!(&answer, &model.begins(number, now));
                        if answer != Answer::Resting {
                            calls.push((number, machine.generation));
                        }
                    }
                    Step::End(call, health) if !calls.is_empty() => {
                        let (call, generation) = calls.swap_remove(call.index(calls.len()));
                        let health = [Health::Alive, Health::Failing, Health::Failing, Health::Denied]
                            [usize::from(health)];
                        machine.tell(generation, health, String::new, at(now), 0.0);
                        model.ends(call, health, now);
                    }
                    Step::Drop(call) if !calls.is_empty() => {
                        let (call, generation) = calls.swap_remove(call.index(calls.len()));
                        machine.give_back(generation, at(now));
                        if model.probe.is_some_and(|(probe, _)| probe == call) {
                            model = Model { open_until: Some(now), ..Model::default() };
                        }
                    }
                    Step::End(..) | Step::Drop(_) => {}
                    Step::Wait(seconds) => now += seconds,
                    Step::Reset => {
                        machine.reset(at(now));
                        model = Model::default();
                    }
                }
                let view = machine.view(at(now));
                prop_assert_eq!(view.state, model.state());
                prop_assert_eq!(view.failures, model.failures);
                prop_assert_eq!(view.since.is_none(), view.state == BreakerState::Closed);
            }
            // Whatever happened, it is tried again in the end.
            machine.look(at(now + 40), 0.999);
            now += 40 + 125;
            let (answer, _) = machine.admit(at(now));
            prop_assert_ne!(answer, Answer::Resting);
        }
    }
}
