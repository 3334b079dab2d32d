//! `larder rebalance` and `larder over-replication`: what these workers would do, or a full pass.

use serde_json::Value;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::table;
use super::session::ask;
use super::worker::pass;
use crate::admin::MoveView;
use crate::admin::Operation;
use crate::admin::PlanView;
use crate::admin::SurplusWish;
use crate::app::offline::Needs;

/// Moves that are listed; the rest are counted.
const SHOWN_MAX: usize = 50;

pub(crate) const REBALANCE_HELP: &str = "It moves replicas between backends that have a quota: \
    toward the fullest with strategy `pack`, toward\nequal shares with `spread`, as \
    [worker.rebalancer] says. Without --plan it is a full pass, to its\nend.\n\n\
    Examples:\n  larder rebalance --plan\n  larder rebalance";

pub(crate) const SURPLUS_HELP: &str = "A blob may have more replicas than wished: when a backend \
    comes back that was given up, or a bucket's\nwishes were lowered. The least useful go first: \
    those on backends that are being emptied or broken,\nthen those on the fullest.\n\n\
    Examples:\n  larder over-replication --dry-run\n  larder over-replication";

#[derive(clap::Args)]
pub(crate) struct RebalanceArgs {
    /// Say what would be moved, and what that would cost, and move nothing
    #[arg(long)]
    plan: bool,
}

#[derive(clap::Args)]
pub(crate) struct SurplusArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Blobs that are looked at (1000, at most 10000)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    batch: usize,
}

pub(crate) fn rebalance(context: &Context, args: &RebalanceArgs) -> Outcome {
    match args.plan {
        true => planned(context, Operation::RebalancePlan),
        false => pass(context, "rebalancer", None),
    }
}

pub(crate) fn surplus(context: &Context, args: &SurplusArgs) -> Outcome {
    let batch = Some(args.batch).filter(|batch| *batch > 0);
    match args.dry_run {
        true => planned(context, Operation::SurplusPlan(SurplusWish { batch: args.batch })),
        false => pass(context, "over_replication", batch),
    }
}

fn planned(context: &Context, operation: Operation) -> Outcome {
    let answer: Value = ask(context, operation, Needs::Backends)?;
    if context.json {
        print_json(&answer)?;
        return Ok(Exit::Done);
    }
    let plan: PlanView = serde_json::from_value(answer).map_err(anyhow::Error::from)?;
    print(&words(&plan))?;
    Ok(Exit::Done)
}

fn words(plan: &PlanView) -> String {
    match plan.skipped.as_deref() {
        Some("threshold") => {
            return "nothing to move: fewer than two backends have a quota, or their used shares \
                differ by less than the threshold"
                .to_owned();
        }
        Some(_) => {
            return "nothing to move: what could move would not bring the shares where they should \
                be, or may not lie elsewhere"
                .to_owned();
        }
        None if plan.moves.is_empty() => return "nothing is too much".to_owned(),
        None => {}
    }
    let row = |planned: &MoveView| {
        let to = planned.to.clone().unwrap_or_else(|| "-".to_owned());
        let money = planned.money.map_or_else(|| "?".to_owned(), |money| format!("{money:.4}"));
        vec![planned.blob.clone(), planned.from.clone(), to, size(planned.bytes), money]
    };
    let shown = plan.moves.iter().take(SHOWN_MAX).map(row).collect();
    let mut text = table(&["blob", "from", "to", "bytes", "money"], shown);
    if let Some(more) = plan.moves.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("\nand {more} more"));
    }
    let money = plan.money.map(|money| format!(", for {money:.2} at the configured prices"));
    let (count, bytes) = (plan.moves.len(), size(plan.bytes));
    text.push_str(&format!("\n\n{count} replicas, {bytes}{}", money.unwrap_or_default()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_table_with_a_sum() {
        let planned = |to: Option<&str>, money| MoveView {
            blob: "b".into(),
            from: "disk1".into(),
            to: to.map(str::to_owned),
            bytes: 1024,
            money,
        };
        let plan = |moves: Vec<MoveView>, skipped: Option<&str>, money| PlanView {
            bytes: moves.iter().map(|planned| planned.bytes).sum(),
            moves,
            skipped: skipped.map(str::to_owned),
            money,
        };
        let text = words(&plan(vec![planned(Some("cloud"), Some(0.01))], None, Some(0.01)));
        assert!(text.contains("cloud"), "{text}");
        let sum = format!("1 replicas, {}, for 0.01 at the configured prices", size(1024));
        assert!(text.ends_with(&sum), "{text}");
        let text = words(&plan(vec![planned(None, None); 51], None, None));
        assert!(
            text.ends_with(&format!("and 1 more\n\n51 replicas, {}", size(51 << 10))),
            "{text}"
        );
        assert!(words(&plan(vec![], Some("threshold"), None)).contains("threshold"));
        assert_eq!(words(&plan(vec![], None, None)), "nothing is too much");
    }
}
