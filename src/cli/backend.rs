//! `larder backend`: the backends and what they hold.

use clap::Subcommand;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::size_or_none;
use super::output::table;
use super::session::ask;
use crate::admin::BackendView;
use crate::admin::Operation;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List all backends: whether they are there, and what they hold
    #[command(after_help = "A backend is absent while its marker cannot be seen: is the disk \
        mounted? It is new when the\nconfiguration names it and no server has added it yet.\n\n\
        Example:\n  larder backend list --json")]
    List,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match args.what {
        What::List => list(context),
    }
}

fn list(context: &Context) -> Outcome {
    let views: Vec<BackendView> = ask(context, Operation::BackendList, Needs::Backends)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let row = |view: &BackendView| {
        vec![
            view.name.clone(),
            view.service.clone(),
            view.state.clone(),
            size(view.used),
            size(view.reserved),
            size(view.orphan),
            size_or_none(view.quota),
            view.free.map_or_else(|| "?".to_owned(), size),
            view.rows.to_string(),
        ]
    };
    let heads =
        ["backend", "service", "state", "used", "reserved", "orphan", "quota", "free", "rows"];
    print(&table(&heads, views.iter().map(row).collect()))?;
    Ok(Exit::Done)
}
