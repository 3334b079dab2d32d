//! `larder cleanup`: files of Larder's own that could not be deleted.

use clap::Subcommand;
use serde_json::Value;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::table;
use super::session::ask;
use crate::admin::ChosenPaths;
use crate::admin::CleanupView;
use crate::admin::CleanupWish;
use crate::admin::LeftoverView;
use crate::admin::Operation;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the files that cleanup has given up after too many failures, and why
    #[command(after_help = "Their bytes still count against the quota of their backend.\n\n\
        Examples:\n  larder cleanup list\n  larder cleanup list --backend cloud --all --json")]
    List {
        /// Only those on this backend
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
        /// Also those that are still tried
        #[arg(long)]
        all: bool,
    },
    /// Try files again, after what was wrong with their backend was mended
    #[command(after_help = "Examples:\n  larder cleanup retry --all\n  larder cleanup retry ID")]
    #[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
    Retry {
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// All that cleanup has given up
        #[arg(long)]
        all: bool,
    },
    /// Forget files without deleting them: nobody counts their bytes or knows of them any more
    #[command(after_help = "For files that are gone already, or that you delete yourself.\n\n\
        Example:\n  larder cleanup forget ID --yes")]
    Forget {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// You know what this does
        #[arg(long, required = true)]
        yes: bool,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.what {
        What::List { backend, all } => {
            list(context, CleanupWish { backend: backend.clone(), all: *all })
        }
        What::Retry { ids, all } => {
            let chosen = ChosenPaths { ids: ids.clone(), all: *all };
            change(context, Operation::CleanupRetry(chosen), "retried", ids.len())
        }
        What::Forget { ids, .. } => {
            let chosen = ChosenPaths { ids: ids.clone(), all: false };
            change(context, Operation::CleanupForget(chosen), "forgotten", ids.len())
        }
    }
}

fn list(context: &Context, wish: CleanupWish) -> Outcome {
    let view: CleanupView = ask(context, Operation::CleanupList(wish), Needs::Store)?;
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    print(&words(&view))?;
    Ok(Exit::Done)
}

fn words(view: &CleanupView) -> String {
    if view.items.is_empty() {
        return "nothing: cleanup has given up no file".to_owned();
    }
    let row = |item: &LeftoverView| {
        vec![
            item.id.clone(),
            item.backend.clone(),
            item.path.clone(),
            size(item.size),
            item.reason.clone(),
            item.attempts.to_string(),
            item.due.clone().unwrap_or_else(|| "parked".to_owned()),
            item.error.clone().unwrap_or_default(),
        ]
    };
    let heads = ["id", "backend", "path", "size", "reason", "attempts", "next try", "error"];
    let text = table(&heads, view.items.iter().map(row).collect());
    let more = if view.more { "\n\nand more that are not listed" } else { "" };
    format!("{text}{more}")
}

/// `wanted` ids were named; those that stand for nothing that is parked are a failure.
fn change(context: &Context, operation: Operation, done: &str, wanted: usize) -> Outcome {
    let answer: Value = ask(context, operation, Needs::Store)?;
    let count = answer[done].as_u64().unwrap_or(0);
    let not_parked = (wanted as u64).saturating_sub(count);
    match (context.json, not_parked) {
        (true, _) => print_json(&answer)?,
        (false, 0) => print(&format!("{done}: {count}"))?,
        (false, n) => print(&format!("{done}: {count}; not among those given up: {n}"))?,
    }
    Ok(if not_parked > 0 { Exit::Failed } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parked_and_what_is_left_out_is_said() {
        let item = LeftoverView {
            id: "0000000000001".into(),
            backend: "cloud".into(),
            path: "photos/a~0.0~0000000000001".into(),
            size: 2048,
            reason: "deleted".into(),
            parked: true,
            due: None,
            attempts: 10,
            error: Some("refused".into()),
        };
        let text = words(&CleanupView { items: vec![item], more: true });
        for part in ["0000000000001", "cloud", "2 KiB", "parked", "refused", "and more"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(words(&CleanupView { items: vec![], more: false }).starts_with("nothing"));
    }
}
