//! What is wrong, or doubtful, in a configuration file, and where.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

/// One mistake or warning, with its place where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Line and column, both counted from 1; columns are characters.
    pub place: Option<(usize, usize)>,
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// `larder.toml:12:8: text`, and the hint on a line of its own.
    pub fn render(&self, file: &Path) -> String {
        let mut line = file.display().to_string();
        if let Some((row, column)) = self.place {
            line.push_str(&format!(":{row}:{column}"));
        }
        line.push_str(&format!(": {}", self.text));
        if let Some(hint) = &self.hint {
            line.push_str(&format!("\n    hint: {hint}"));
        }
        line
    }
}

/// Everything that is wrong with one file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub file: PathBuf,
    pub mistakes: Vec<Finding>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&mistake.render(&self.file))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Gathers findings while a file is read and checked.
#[derive(Default)]
pub(crate) struct Findings {
    mistakes: Vec<Noted>,
    warnings: Vec<Noted>,
}

struct Noted {
    /// Byte offset in the text.
    at: Option<usize>,
    text: String,
    hint: Option<String>,
}

impl Findings {
    pub(crate) fn wrong(&mut self, at: impl Into<Option<usize>>, text: impl Into<String>) {
        self.mistakes.push(Noted { at: at.into(), text: text.into(), hint: None });
    }

    pub(crate) fn wrong_hint(
        &mut self,
        at: impl Into<Option<usize>>,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.mistakes.push(Noted { at: at.into(), text: text.into(), hint: Some(hint.into()) });
    }

    pub(crate) fn doubtful(
        &mut self,
        at: impl Into<Option<usize>>,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.warnings.push(Noted { at: at.into(), text: text.into(), hint: Some(hint.into()) });
    }

    /// How many were noted until now.
    pub(crate) fn mistakes(&self) -> usize {
        self.mistakes.len()
    }

    pub(crate) fn has_mistakes(&self) -> bool {
        !self.mistakes.is_empty()
    }

    /// Mistakes and warnings with their places in `text`, each in the order of the file; those
    /// without a place come first.
    pub(crate) fn locate(self, text: &str) -> (Vec<Finding>, Vec<Finding>) {
        let located = |mut noted: Vec<Noted>| {
            noted.sort_by_key(|noted| noted.at);
            noted
                .into_iter()
                .map(|noted| Finding {
                    place: noted.at.map(|at| place(text, at)),
                    text: noted.text,
                    hint: noted.hint,
                })
                .collect()
        };
        (located(self.mistakes), located(self.warnings))
    }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    let row = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    (row, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a = 1\nbü = 2\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 5), (1, 6));
        assert_eq!(place(text, 6), (2, 1));
        assert_eq!(place(text, text.find("= 2").unwrap()), (2, 4));
        assert_eq!(place(text, 999), (3, 1));
    }

    #[test]
    fn findings_come_in_the_order_of_the_file() {
        let mut findings = Findings::default();
        findings.wrong(9, "second");
        findings.wrong_hint(2, "first", "do it");
        findings.wrong(None, "nowhere");
        let (mistakes, _) = findings.locate("0123\n56789");
        let errors = ConfigErrors { file: "larder.toml".into(), mistakes };
        assert_eq!(
            errors.to_string(),
            "larder.toml: nowhere\nlarder.toml:1:3: first\n    hint: do it\n\
             larder.toml:2:5: second"
        );
    }
}
