//! `larder completions`: a script that lets a shell complete larder's commands.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::Cli;
use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let script = script(args.shell);
    match context.json {
        true => print_json(&json!({ "shell": args.shell.to_string(), "script": script }))?,
        false => print(&script)?,
    }
    Ok(Exit::Done)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "larder", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in ["serve", "check", "verify", "config", "completions", "version"] {
                assert!(script.contains(command), "{shell} lacks {command}");
            }
        }
    }
}
