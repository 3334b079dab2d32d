//! `larder worker`: the workers of the background, and what an operator asks of them.

use clap::Subcommand;
use serde_json::Value;

use super::Context;
use super::Exit;
use super::Outcome;
use super::block_on;
use super::output::print;
use super::output::print_json;
use super::output::table;
use super::progress::Progress;
use super::progress::bar;
use super::session::Session;
use super::session::ask;
use super::session::configured;
use crate::admin::ChosenWorkers;
use crate::admin::Operation;
use crate::admin::PassView;
use crate::admin::RunWish;
use crate::admin::WorkerView;
use crate::app::offline::Needs;

/// Instead of the name of a worker.
const ALL: &str = "all";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List all workers: how they are, what they did since the server began, and when they look again
    #[command(after_help = "An idle worker is woken by what there is to do. One is off when the \
        configuration says so,\nand paused when `larder worker pause` did.\n\n\
        Example:\n  larder worker list --json")]
    List,
    /// Let a worker look now; with --wait also one that is off or paused
    #[command(after_help = "With --wait, and always without a server, it is a full pass: until \
        nothing is left to do, whatever\nits schedule says; the totals are printed. Exit code 1: \
        something failed.\n\n\
        Examples:\n  larder worker run cleanup\n  larder worker run over-replication --wait")]
    Run {
        /// A name from `larder worker list`
        name: String,
        /// Do a full pass and wait for its end
        #[arg(long)]
        wait: bool,
        /// Things of one step of that pass, in place of what the configuration says
        #[arg(long, value_name = "N", requires = "wait")]
        batch: Option<usize>,
    },
    /// Let workers rest, also over restarts; a step that runs goes on to its end
    #[command(after_help = "Examples:\n  larder worker pause scrubber rebalancer\n  \
        larder worker pause all")]
    Pause {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Let workers go on that were paused
    #[command(after_help = "Example:\n  larder worker resume all")]
    Resume {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.what {
        What::List => list(context),
        What::Run { name, wait: true, batch } => pass(context, name, *batch),
        What::Run { name, .. } => run_one(context, name, false, None),
        What::Pause { names } => change(context, Operation::WorkerPause(chosen(names)), "paused"),
        What::Resume { names } => {
            change(context, Operation::WorkerResume(chosen(names)), "resumed")
        }
    }
}

fn chosen(names: &[String]) -> ChosenWorkers {
    match names.iter().any(|name| name == ALL) {
        true => ChosenWorkers { names: Vec::new(), all: true },
        false => ChosenWorkers { names: names.to_vec(), all: false },
    }
}

fn list(context: &Context) -> Outcome {
    let views: Vec<WorkerView> = ask(context, Operation::WorkerList, Needs::Store)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |view: &WorkerView| {
        vec![
            view.name.clone(),
            view.state.clone(),
            or_none(&view.last_success),
            view.failures.to_string(),
            view.processed.to_string(),
            view.failed.to_string(),
            view.backlog.map_or_else(|| "-".to_owned(), |left| left.to_string()),
            or_none(&view.next),
        ]
    };
    let heads = [
        "worker",
        "state",
        "last success",
        "failures in a row",
        "processed",
        "failed",
        "backlog",
        "next look",
    ];
    let mut text = table(&heads, views.iter().map(row).collect());
    let notes: Vec<String> = views.iter().filter_map(last_error).collect();
    if !notes.is_empty() {
        text.push_str(&format!("\n\n{}", notes.join("\n")));
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// Why a worker fails, while it does.
fn last_error(view: &WorkerView) -> Option<String> {
    let error = view.last_error.as_ref().filter(|_| view.failures > 0)?;
    Some(format!("{}: {} ({})", view.name, error.text, error.at))
}

fn change(context: &Context, operation: Operation, done: &str) -> Outcome {
    let answer: Value = ask(context, operation, Needs::Store)?;
    if context.json {
        print_json(&answer)?;
        return Ok(Exit::Done);
    }
    let names = answer[done].as_array().into_iter().flatten().filter_map(Value::as_str);
    print(&format!("{done}: {}", names.collect::<Vec<_>>().join(", ")))?;
    Ok(Exit::Done)
}

/// A full pass of a worker, with progress on a terminal and its totals at the end.
pub(crate) fn pass(context: &Context, name: &str, batch: Option<usize>) -> Outcome {
    run_one(context, name, true, batch)
}

fn run_one(context: &Context, name: &str, wait: bool, batch: Option<usize>) -> Outcome {
    let config = configured(context)?;
    let progress = Progress::new(!context.json);
    let asked = block_on(async {
        let session = Session::open(&config, Needs::Backends).await?;
        if !wait && matches!(session, Session::Remote(_)) {
            return session.run(Operation::WorkerWake(name.to_owned())).await.map(Asked::Woken);
        }
        let show = |far: PassView| progress.show(&how_far(&far));
        let wish = RunWish { batch: batch.unwrap_or(0) };
        let run = Operation::WorkerRun(name.to_owned(), wish);
        session.run_long(run, show).await.map(Asked::Passed)
    })?;
    drop(progress);
    match asked? {
        Asked::Woken(answer) if context.json => print_json(&answer)?,
        Asked::Woken(_) => print(&format!(
            "{name} looks now; `larder worker list` shows how it fares, --wait waits for a full pass"
        ))?,
        Asked::Passed(totals) => {
            match context.json {
                true => print_json(&serde_json::to_value(&totals).map_err(anyhow::Error::from)?)?,
                false => print(&words(&totals))?,
            }
            return Ok(if totals.failed > 0 { Exit::Failed } else { Exit::Done });
        }
    }
    Ok(Exit::Done)
}

/// What became of a request to run.
enum Asked {
    Woken(Value),
    Passed(PassView),
}

fn how_far(far: &PassView) -> String {
    let done = far.processed + far.failed;
    let bar = bar(done, far.backlog.map(|left| left.saturating_add(done)));
    let position = far.position.as_ref().map(|at| format!("at {at}")).unwrap_or_default();
    let counts = format!("{} processed, {} failed", far.processed, far.failed);
    let parts = [far.worker.clone(), bar, counts, position];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

fn words(totals: &PassView) -> String {
    let steps = if totals.steps == 1 { "step" } else { "steps" };
    let mut lines = vec![format!(
        "{}: {} processed, {} failed, in {} {steps}",
        totals.worker, totals.processed, totals.failed, totals.steps
    )];
    let results = totals.counts.iter().map(|(what, count)| format!("  {}: {count}", spaced(what)));
    lines.extend(results);
    if let Some(left) = totals.backlog.filter(|left| *left > 0) {
        lines.push(format!("  left: {left}"));
    }
    lines.join("\n")
}

fn spaced(word: &str) -> String {
    word.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::WorkerErrorView;

    fn totals() -> PassView {
        PassView {
            worker: "replicator".into(),
            steps: 2,
            processed: 3,
            failed: 1,
            backlog: Some(4),
            position: None,
            counts: [("created".to_owned(), 3), ("no_target".to_owned(), 1)].into(),
        }
    }

    #[test]
    fn totals_are_told_with_what_is_left() {
        assert_eq!(
            words(&totals()),
            "replicator: 3 processed, 1 failed, in 2 steps\n  created: 3\n  no target: 1\n  left: 4"
        );
        let none = PassView { worker: "cleanup".into(), steps: 1, ..PassView::default() };
        assert_eq!(words(&none), "cleanup: 0 processed, 0 failed, in 1 step");
    }

    #[test]
    fn a_pass_shows_a_bar_where_it_knows_how_much_there_is() {
        let far = how_far(&totals());
        let bar = "#".repeat(12) + &"-".repeat(12);
        assert_eq!(far, format!("replicator  [{bar}]  50 %  3 processed, 1 failed"));
        let walking = PassView { backlog: None, position: Some("a/b".into()), ..totals() };
        assert_eq!(how_far(&walking), "replicator  3 processed, 1 failed  at a/b");
    }

    #[test]
    fn an_error_is_told_while_the_worker_fails() {
        let mut view: WorkerView = serde_json::from_value(serde_json::json!({
            "name": "drain", "state": "waiting", "last_success": null, "last_error": null,
            "failures": 2, "steps": 2, "processed": 0, "failed": 0, "panics": 0, "held": 0,
            "refused": 0, "position": null, "next": null, "backlog": null, "counts": {},
        }))
        .unwrap();
        assert_eq!(last_error(&view), None);
        view.last_error = Some(WorkerErrorView { text: "no".into(), at: "today".into() });
        assert_eq!(last_error(&view).as_deref(), Some("drain: no (today)"));
        view.failures = 0;
        assert_eq!(last_error(&view), None);
    }

    #[test]
    fn all_is_not_the_name_of_a_worker() {
        let of =
            |names: &[&str]| chosen(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["all", "drain"]), ChosenWorkers { names: vec![], all: true });
        assert_eq!(of(&["drain"]), ChosenWorkers { names: vec!["drain".into()], all: false });
    }
}
