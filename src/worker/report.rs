//! What an operator sees of a worker. It is of this run of the process; the work itself is in the
//! store.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::Step;
use crate::base::Timestamp;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody runs it but an operator: no server runs.
    #[default]
    Stopped,
    /// Its owner has switched it off.
    Off,
    /// An operator has paused it.
    Paused,
    /// It has nothing to do until it is woken.
    Idle,
    Working,
    /// It looks again at a known time.
    Waiting,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Off => "off",
            State::Paused => "paused",
            State::Idle => "idle",
            State::Working => "working",
            State::Waiting => "waiting",
        }
    }
}

/// How a worker fared since the process began, manual runs included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub state: State,
    pub last_success: Option<Timestamp>,
    /// Why a step failed or panicked last, and when.
    pub last_error: Option<(String, Timestamp)>,
    /// Steps that failed or panicked in a row, up to now.
    pub failures: u32,
    pub steps: u64,
    pub processed: u64,
    pub failed: u64,
    pub panics: u64,
    /// Steps that were left out because somebody else held the worker's lock.
    pub held: u64,
    /// Steps that were not admitted.
    pub refused: u64,
    pub position: Option<String>,
    /// When it looks again; `None`: when it is woken.
    pub next: Option<Timestamp>,
    pub backlog: Option<u64>,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Report {
    pub(super) fn note_step(&mut self, step: &Step, now: Timestamp) {
        self.steps += 1;
        self.failures = 0;
        self.last_success = Some(now);
        self.processed += step.processed;
        self.failed += step.failed;
        self.backlog = step.backlog;
        self.position.clone_from(&step.position);
        add(&mut self.counts, &step.counts);
    }

    pub(super) fn note_error(&mut self, text: String, now: Timestamp) {
        self.steps += 1;
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some((text, now));
    }
}

/// What a manual run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub steps: u64,
    pub processed: u64,
    pub failed: u64,
    /// What the last step left.
    pub backlog: Option<u64>,
    pub position: Option<String>,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub(super) fn note(&mut self, step: &Step) {
        self.steps += 1;
        self.processed += step.processed;
        self.failed += step.failed;
        self.backlog = step.backlog;
        self.position.clone_from(&step.position);
        add(&mut self.counts, &step.counts);
    }
}

/// How far a manual run is, for who watches it.
#[derive(Debug, Default)]
pub struct RunProgress(Mutex<Totals>);

impl RunProgress {
    pub fn now(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, totals: &Totals) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(totals);
    }
}

fn add(sums: &mut BTreeMap<&'static str, u64>, more: &BTreeMap<&'static str, u64>) {
    for (what, count) in more {
        *sums.entry(what).or_default() += count;
    }
}
