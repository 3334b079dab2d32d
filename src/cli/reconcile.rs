//! `larder reconcile`: what backends hold, against what the store knows of it.

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::progress::Progress;
use super::session::ask_long;
use crate::admin::Operation;
use crate::admin::ReconcileAsked;
use crate::admin::ReconcileFar;
use crate::admin::ReconcileView;
use crate::app::offline::Needs;

pub(crate) const AFTER_HELP: &str = "It lists everything on the backends, also on those where \
    listings cost. Replicas that are gone\nare marked missing, files of Larder's that no row knows \
    are deleted a week later, and files of\nothers are imported where a bucket of their \
    directory's name asks for that.\nExit code 1: a backend could not be listed to its end.\n\n\
    Examples:\n  larder reconcile\n  larder reconcile disk1 --json";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this backend
    backend: Option<String>,
}

/// Each result and what it means.
const RESULTS: &[(&str, &str)] = &[
    ("imported", "files imported as objects"),
    ("changed", "files that their owner changed"),
    ("removed", "replicas that are gone"),
    ("damaged", "replicas of another length than was written"),
    ("back", "replicas that are there again"),
    ("debris", "files of Larder's that no row knows, to be deleted in a week"),
    ("skipped", "files of others, left alone"),
    ("suppressed", "files whose objects were deleted, or that wait for their deletion"),
    ("absent", "backends that are absent"),
];

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let asked = ReconcileAsked { backend: args.backend.clone() };
    let progress = Progress::new(!context.json);
    let show = |far: ReconcileFar| progress.show(&far.position);
    let operation = Operation::Reconcile(asked);
    let view: ReconcileView = ask_long(context, operation, Needs::Backends, show)?;
    drop(progress);
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
    } else {
        print(&words(&view))?;
    }
    Ok(if view.failed == 0 { Exit::Done } else { Exit::Failed })
}

fn words(view: &ReconcileView) -> String {
    let number = |result: &str| view.counts.get(result).copied().unwrap_or(0);
    let mut lines = vec![format!("backends surveyed: {}", number("backends"))];
    let told = RESULTS.iter().filter(|(result, _)| number(result) > 0);
    lines.extend(told.map(|(result, what)| format!("{} {what}", number(result))));
    if view.failed > 0 {
        lines.push(format!("{} could not be listed to the end", view.failed));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_was_found_is_told_and_nothing_else() {
        let counts = BTreeMap::from([("backends".to_owned(), 2), ("debris".to_owned(), 3)]);
        let text = words(&ReconcileView { counts, failed: 1 });
        assert_eq!(
            text,
            "backends surveyed: 2\n3 files of Larder's that no row knows, to be deleted in a \
             week\n1 could not be listed to the end"
        );
    }
}
