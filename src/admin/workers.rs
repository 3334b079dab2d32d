//! The operator's verbs for workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::desk::Desk;
use super::desk::no_server;
use super::desk::value;
use super::error::ApiError;
use super::long::Long;
use super::views::rfc3339;
use crate::base::chain;
use crate::worker::Held;
use crate::worker::Name;
use crate::worker::Report;
use crate::worker::RunError;
use crate::worker::RunProgress;
use crate::worker::State;
use crate::worker::Totals;

/// The most that one step of a full pass may be asked to take.
const BATCH_MAX: usize = 10_000;

/// Some workers, or all that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenWorkers {
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub all: bool,
}

/// How a full pass shall be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunWish {
    /// Things of one step, in place of what the configuration says; 0: as it says.
    #[serde(default)]
    pub batch: usize,
}

/// How a worker fares, since the server began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    pub name: String,
    /// `off`, `paused`, `idle`, `working` or `waiting`; `stopped` without a server.
    pub state: String,
    pub last_success: Option<String>,
    pub last_error: Option<WorkerErrorView>,
    /// Steps that failed in a row, up to now.
    pub failures: u32,
    pub steps: u64,
    pub processed: u64,
    pub failed: u64,
    pub panics: u64,
    /// Steps left out because somebody else held the lock, and because they were not admitted.
    pub held: u64,
    pub refused: u64,
    pub position: Option<String>,
    pub next: Option<String>,
    pub backlog: Option<u64>,
    /// By result.
    pub counts: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerErrorView {
    pub text: String,
    pub at: String,
}

impl WorkerView {
    fn new(name: Name, report: Report) -> WorkerView {
        let error = report.last_error.map(|(text, at)| WorkerErrorView { text, at: rfc3339(at) });
        WorkerView {
            name: name.to_string(),
            state: report.state.name().to_owned(),
            last_success: report.last_success.map(rfc3339),
            last_error: error,
            failures: report.failures,
            steps: report.steps,
            processed: report.processed,
            failed: report.failed,
            panics: report.panics,
            held: report.held,
            refused: report.refused,
            position: report.position,
            next: report.next.map(rfc3339),
            backlog: report.backlog,
            counts: named(report.counts),
        }
    }
}

/// What a full pass did, or has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassView {
    pub worker: String,
    pub steps: u64,
    pub processed: u64,
    pub failed: u64,
    pub backlog: Option<u64>,
    pub position: Option<String>,
    pub counts: BTreeMap<String, u64>,
}

impl PassView {
    fn new(name: Name, totals: Totals) -> PassView {
        PassView {
            worker: name.to_string(),
            steps: totals.steps,
            processed: totals.processed,
            failed: totals.failed,
            backlog: totals.backlog,
            position: totals.position,
            counts: named(totals.counts),
        }
    }
}

fn named(counts: BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
}

impl Desk {
    pub(super) fn worker_list(&self) -> Result<Value, ApiError> {
        let reports = self.crew.reports().into_iter();
        value(&reports.map(|(name, report)| WorkerView::new(name, report)).collect::<Vec<_>>())
    }

    pub(super) fn worker_wake(&self, name: &str) -> Result<Value, ApiError> {
        let name = self.worker(name)?;
        if self.is_offline() {
            return Err(no_server().hint("let it do a full pass instead"));
        }
        let report = self.crew.reports().into_iter().find(|(found, _)| *found == name);
        let rests = report.map(|(_, report)| report.state);
        if let Some(state) = rests.filter(|state| matches!(state, State::Off | State::Paused)) {
            let message = format!("worker {name}: it is {}", state.name());
            return Err(ApiError::new(StatusCode::CONFLICT, "worker_rests", message)
                .hint("let it do a full pass with --wait, or switch it on or resume it first"));
        }
        self.crew.wake(name);
        value(&json!({ "woken": name.as_str() }))
    }

    pub(super) async fn worker_pause(
        &self,
        chosen: &ChosenWorkers,
        paused: bool,
    ) -> Result<Value, ApiError> {
        let named = chosen.names.iter().map(|name| self.worker(name));
        let names = match chosen.all {
            true => self.crew.names(),
            false => named.collect::<Result<Vec<Name>, ApiError>>()?,
        };
        if names.is_empty() {
            return Err(ApiError::invalid("no worker is named"));
        }
        for &name in &names {
            self.engine.worker_pause(name.as_str(), paused).await?;
            self.crew.pause(name, paused);
        }
        let names: Vec<&str> = names.into_iter().map(Name::as_str).collect();
        value(&json!({ if paused { "paused" } else { "resumed" }: names }))
    }

    pub(super) fn worker_run(&self, name: String, wish: RunWish) -> Long<'_> {
        let progress = Arc::new(RunProgress::default());
        let (seen, found) = (Arc::clone(&progress), Name::from_text(&name));
        let work = async move {
            let name = self.worker(&name)?;
            let batch = Some(wish.batch).filter(|batch| *batch > 0).map(|b| b.min(BATCH_MAX));
            let totals = self.crew.run_with(name, batch, &progress).await;
            let totals = totals.map_err(|err| refused(name, &err))?;
            value(&PassView::new(name, totals))
        };
        Long::new(work, move || match found {
            Some(name) => json!(PassView::new(name, seen.now())),
            None => Value::Null,
        })
    }

    /// A full pass of the drain worker.
    pub(super) async fn drain_pass(&self, progress: &Arc<RunProgress>) -> Result<(), ApiError> {
        let done = self.crew.run(Name::Drain, progress).await;
        done.map(drop).map_err(|err| refused(Name::Drain, &err))
    }

    /// Keeps a worker from its steps while an operator's verb does its work.
    pub(super) async fn hold(&self, name: Name) -> Result<Held, ApiError> {
        self.crew.hold(name).await.map_err(|err| refused(name, &err))
    }

    /// A worker that there is.
    fn worker(&self, text: &str) -> Result<Name, ApiError> {
        let names = self.crew.names();
        let found = Name::from_text(text).filter(|name| names.contains(name));
        found.ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let message = format!("there is no worker `{text}`");
            ApiError::new(StatusCode::NOT_FOUND, "no_such_worker", message)
                .hint(format!("the workers are {}", names.join(", ")))
        })
    }
}

fn refused(name: Name, err: &RunError) -> ApiError {
    let (status, code) = match err {
        RunError::NoSuchWorker => (StatusCode::NOT_FOUND, "no_such_worker"),
        RunError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        RunError::Step(_) | RunError::Panicked(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "worker_failed")
        }
    };
    ApiError::new(status, code, chain(err)).about("worker", name.as_str())
}
