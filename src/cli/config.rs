//! `larder config`: the configuration in force, and one to begin with.

use clap::Subcommand;
use serde_json::json;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::print_warning;
use super::output::table;
use crate::config;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the configuration in force: every setting with its value, secrets masked
    Show,
    /// Print a configuration to edit: every key with its default and a sentence
    #[command(after_help = "Example:\n  larder config example > larder.toml")]
    Example,
    /// List the providers that are known: as `profile` of a backend, and to `larder init`
    #[command(after_help = "The allowances are what a public guide listed then; providers change \
        them without notice, and\nnothing of them is enforced but what your configuration says.\n\n\
        Example:\n  larder config providers --json")]
    Providers,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match args.what {
        What::Example if context.json => print_json(&json!({ "example": config::EXAMPLE }))?,
        What::Example => print(config::EXAMPLE)?,
        What::Providers if context.json => {
            print_json(&serde_json::to_value(config::providers()).map_err(anyhow::Error::from)?)?;
        }
        What::Providers => print(&providers())?,
        What::Show => {
            let (path, loaded) = context.load()?;
            for warning in &loaded.warnings {
                print_warning(&warning.render(&path));
            }
            let shown = config::show(&loaded.config);
            if context.json {
                print_json(&serde_json::to_value(&shown).map_err(anyhow::Error::from)?)?;
            } else {
                let text = toml::to_string_pretty(&shown).map_err(anyhow::Error::from)?;
                print(&format!("# from {}\n{text}", path.display()))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn providers() -> String {
    let row = |provider: &config::Provider| {
        let mut free = provider.free();
        free.extend(provider.unlimited.iter().map(|what| format!("{what} without limit")));
        vec![
            provider.id.clone(),
            provider.title.clone(),
            provider.listed.clone(),
            free.join(", "),
            provider.notes.join("; "),
        ]
    };
    let rows = config::providers().iter().map(row).collect();
    table(&["profile", "provider", "listed", "free", "notes"], rows)
}
