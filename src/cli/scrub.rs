//! `larder scrub`: everything is read and compared now, or how the passes stand.

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::table;
use super::progress::Progress;
use super::progress::bar;
use super::session::ask;
use super::session::ask_long;
use crate::admin::BrokenView;
use crate::admin::Operation;
use crate::admin::ScrubAsked;
use crate::admin::ScrubFar;
use crate::admin::ScrubStateView;
use crate::admin::ScrubView;
use crate::app::offline::Needs;

pub(crate) const AFTER_HELP: &str = "Every replica is read and compared with its hash, whatever \
    the schedule says; rates and limits still hold.\nA damaged one is made again from a good one; \
    a damaged one that is the last is kept and told.\nExit code 1: something is not as it should \
    be.\n\nExamples:\n  larder scrub\n  larder scrub disk1 --json\n  larder scrub --status";

/// Findings that are told in words.
const TOLD_MAX: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this backend
    backend: Option<String>,

    /// Say how far the regular passes are, and read nothing
    #[arg(long, conflicts_with = "backend")]
    status: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    if args.status {
        return status(context);
    }
    let progress = Progress::new(!context.json);
    let show = |far: ScrubFar| {
        let bar = bar(far.replicas, Some(far.total));
        progress.show(&format!("{bar} {} replicas, {}", far.replicas, size(far.bytes)));
    };
    let asked = Operation::Scrub(ScrubAsked { backend: args.backend.clone() });
    let view: ScrubView = ask_long(context, asked, Needs::Backends, show)?;
    drop(progress);
    match context.json {
        true => print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?,
        false => print(&words(&view))?,
    }
    let is_well = view.broken.is_empty() && view.failed == 0;
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn words(view: &ScrubView) -> String {
    let mut lines = vec![format!("read: {} replicas, {}", view.replicas, size(view.bytes))];
    lines.extend(
        view.counts.iter().map(|(what, count)| format!("  {}: {count}", what.replace('_', " "))),
    );
    lines.extend(view.broken.iter().take(TOLD_MAX).map(told));
    if let Some(more) = view.broken.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

fn told(broken: &BrokenView) -> String {
    let BrokenView { backend, path, state, .. } = broken;
    let what = match (&broken.bucket, &broken.key) {
        (Some(bucket), Some(key)) => format!(" of {bucket}/{key}"),
        _ => String::new(),
    };
    let alone = match broken.alone {
        true => ", and there is no other",
        false => "; it is made again from another",
    };
    format!("{backend}: the replica {path}{what} is {state}{alone}")
}

fn status(context: &Context) -> Outcome {
    let views: Vec<ScrubStateView> = ask(context, Operation::ScrubState, Needs::Backends)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |view: &ScrubStateView| {
        let read = if view.over { view.total.min(view.done) } else { view.done };
        vec![
            view.backend.clone(),
            or_none(&view.began),
            format!("{read} of {}", view.total),
            or_none(&view.next),
            or_none(&view.oldest),
            view.damaged.to_string(),
            view.missing.to_string(),
            view.unreadable.to_string(),
        ]
    };
    let heads = [
        "backend",
        "pass began",
        "read",
        "next pass",
        "oldest check",
        "damaged",
        "missing",
        "unreadable",
    ];
    print(&table(&heads, views.iter().map(row).collect()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_told_with_its_object() {
        let broken = |alone, key: Option<&str>| BrokenView {
            backend: "disk1".into(),
            path: "photos/a~0.0~x".into(),
            state: "damaged".into(),
            size: 3,
            alone,
            bucket: key.map(|_| "photos".into()),
            key: key.map(str::to_owned),
        };
        let counts = [("damaged_alone".to_owned(), 1)].into();
        let broken = vec![broken(true, Some("a")), broken(false, None)];
        let view = ScrubView { replicas: 9, bytes: 2048, counts, failed: 0, broken };
        assert_eq!(
            words(&view),
            "read: 9 replicas, 2 KiB\n  damaged alone: 1\n\
             disk1: the replica photos/a~0.0~x of photos/a is damaged, and there is no other\n\
             disk1: the replica photos/a~0.0~x is damaged; it is made again from another"
        );
    }
}
