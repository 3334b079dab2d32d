//! `larder version`: which build this is.

use serde_json::json;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(context: &Context) -> Outcome {
    if context.json {
        print_json(&json!({ "name": "larder", "version": VERSION }))?;
    } else {
        print(&format!("larder {VERSION}"))?;
    }
    Ok(Exit::Done)
}
