//! `larder config`: the configuration in force, and one to begin with.

use clap::Subcommand;
use serde_json::json;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::output::print_warning;
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

/// A paragraph for each, as a table would be wider than a terminal.
fn providers() -> String {
    let mut lines = vec![("profile", "provider".to_owned())];
    for provider in config::providers() {
        lines.push((&provider.id, provider.title.clone()));
        let free = provider.free();
        if !free.is_empty() {
            let text = format!("free, listed in {}: {}", provider.listed, free.join(", "));
            lines.push(("", text));
        }
        if !provider.unlimited.is_empty() {
            lines.push(("", format!("free without limit: {}", provider.unlimited.join(", "))));
        }
        lines.extend(provider.notes.iter().map(|note| ("", note.clone())));
    }
    pairs(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_providers_fits_a_terminal_and_is_dated() {
        let text = providers();
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 100), "{text}");
        for known in config::providers() {
            assert!(text.lines().any(|line| line.starts_with(&format!("{} ", known.id))), "{text}");
        }
        let said = text.lines().filter(|line| line.contains(" stored"));
        assert!(said.clone().count() > 0);
        assert!(said.clone().all(|line| line.contains("listed in ") || line.contains("charged")));
    }
}
