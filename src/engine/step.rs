//! What a step of background work says of itself.

use std::collections::BTreeMap;

use crate::base::Timestamp;

/// What one bounded step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub processed: u64,
    pub failed: u64,
    pub next: Next,
    /// What is still to be done, where that is known without a count of everything.
    pub backlog: Option<u64>,
    /// Where it is, in words: work that walks through much tells how far it is.
    pub position: Option<String>,
    /// By result, such as `created` or `no_target`.
    pub counts: BTreeMap<&'static str, u64>,
}

/// When to look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// There is more to do now.
    Now,
    /// Something is due then, unless it is woken sooner.
    At(Timestamp),
    /// When it is woken; and after its interval if the step left a backlog.
    #[default]
    Woken,
}

impl Step {
    /// One more came to this result.
    pub(crate) fn count(&mut self, result: &'static str) {
        self.add(result, 1);
    }

    /// So many more came to this result.
    pub(crate) fn add(&mut self, result: &'static str, number: u64) {
        if number > 0 {
            *self.counts.entry(result).or_default() += number;
        }
    }
}
