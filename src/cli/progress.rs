//! How far long work is: one line on stderr that is written over, and gone at the end.

use std::io;
use std::io::IsTerminal;
use std::io::Write;

/// Characters of a bar.
const BAR: u64 = 24;

/// Says nothing where nobody looks: off a terminal, or when a program asked.
pub(crate) struct Progress {
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(is_wanted: bool) -> Progress {
        Progress { is_shown: is_wanted && io::stderr().is_terminal() }
    }

    pub(crate) fn show(&self, text: &str) {
        if self.is_shown {
            let mut err = io::stderr().lock();
            let _ = err.write_all(format!("\r\x1b[K{text}").as_bytes()).and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// `[######------]  50 %`; empty when nobody knows how much there is.
pub(crate) fn bar(done: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|total| *total > 0) else { return String::new() };
    let part =
        |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total));
    let (filled, percent) = (part(BAR).unwrap_or(BAR), part(100).unwrap_or(100));
    let (full, empty) = ("#".repeat(filled as usize), "-".repeat((BAR - filled) as usize));
    format!("[{full}{empty}] {percent:>3} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        assert_eq!(bar(1, None), "");
        assert_eq!(bar(0, Some(0)), "");
        assert_eq!(bar(0, Some(9)), format!("[{}]   0 %", "-".repeat(24)));
        assert_eq!(bar(1, Some(2)), format!("[{}{}]  50 %", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar(9, Some(3)), format!("[{}] 100 %", "#".repeat(24)));
        assert_eq!(bar(u64::MAX, Some(u64::MAX)), format!("[{}] 100 %", "#".repeat(24)));
    }
}
