//! `larder completions`: a script that lets a shell complete larder's commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::Exit;
use super::Outcome;
use super::output::print;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Outcome {
    print(&script(args.shell))?;
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
