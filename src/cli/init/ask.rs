//! Questions on a terminal, one a line.

use std::io;
use std::io::BufRead;
use std::io::Write;

use rustix::termios;
use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::Termios;

/// Wrong answers to one question before it is given up.
const TRIES: usize = 10;

/// Whoever answers, at the other end of two streams.
pub(super) struct Asker<R, W> {
    input: R,
    output: W,
}

impl<R: BufRead, W: Write> Asker<R, W> {
    pub(super) fn new(input: R, output: W) -> Asker<R, W> {
        Asker { input, output }
    }

    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.output, "{text}")
    }

    /// An answer that `read` takes; an empty one stands for `default`.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> io::Result<T> {
        for _ in 0..TRIES {
            match default {
                "" => write!(self.output, "{question}: ")?,
                default => write!(self.output, "{question} [{default}]: ")?,
            }
            self.output.flush()?;
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                let text = "the answers ended before the questions";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            let answer = match line.trim() {
                "" => default,
                answer => answer,
            };
            match read(answer) {
                Ok(answer) => return Ok(answer),
                Err(why) => writeln!(self.output, "  {why}")?,
            }
        }
        Err(io::Error::other("no answer to a question could be used"))
    }

    pub(super) fn ask_text(&mut self, question: &str, default: &str) -> io::Result<String> {
        self.ask(question, default, |answer| match answer {
            "" => Err("this cannot be empty".to_owned()),
            answer => Ok(answer.to_owned()),
        })
    }

    /// A secret: what is typed on a terminal is not shown there.
    pub(super) fn ask_secret(&mut self, question: &str) -> io::Result<String> {
        let hidden = Hidden::new();
        let answer = self.ask_text(question, "");
        if hidden.0.is_some() {
            // The newline was not shown either.
            writeln!(self.output)?;
        }
        answer
    }

    pub(super) fn ask_yes(&mut self, question: &str, default: bool) -> io::Result<bool> {
        let shown = if default { "yes" } else { "no" };
        self.ask(question, shown, |answer| match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err("answer yes or no".to_owned()),
        })
    }
}

/// While it lives, the terminal on stdin, if there is one, shows nothing of what is typed.
struct Hidden(Option<Termios>);

impl Hidden {
    fn new() -> Hidden {
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            // A terminal that cannot do it shows the secret to whoever types it.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
        }
        Hidden(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_asked_again_and_an_empty_one_is_the_default() {
        let mut heard = Vec::new();
        let mut asker = Asker::new(&b"x\n7\n\nmaybe\nY\n"[..], &mut heard);
        let number = |text: &str| text.parse::<u32>().map_err(|err| err.to_string());
        assert_eq!(asker.ask("how many", "3", number).unwrap(), 7);
        assert_eq!(asker.ask("how many", "3", number).unwrap(), 3);
        assert!(asker.ask_yes("sure", false).unwrap());
        assert!(asker.ask_text("more", "").is_err());
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("how many [3]:   invalid digit"), "{heard}");
        assert!(heard.contains("answer yes or no"), "{heard}");
    }
}
