//! Lifecycle rules: which objects of a bucket expire, and when unfinished uploads are given up.
//!
//! A [`RuleWish`] is what somebody asks for, from whatever side it comes. A [`Rule`] is a wish
//! that was found legal, and a [`Lifecycle`] all rules of one bucket, each with an id of its own.
//! When something expires is decided in `plan`.

use std::collections::BTreeSet;
use std::time::Duration;

use time::Date;
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use super::tags::Tags;
use crate::base::Timestamp;
use crate::base::limits::KEY_MAX;
use crate::base::limits::LIFECYCLE_RULES_MAX;
use crate::base::limits::RULE_DAYS_MAX;
use crate::base::limits::RULE_ID_CHARS_MAX;

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const SECONDS_OF_DAY: u64 = 24 * 3600;
/// Microseconds from one midnight to the next; there are no leap seconds in what we count.
pub const DAY: i64 = SECONDS_OF_DAY as i64 * 1_000_000;

/// What a rule shall say. The filters hold together: an object must meet all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleWish {
    /// Unique in the bucket; empty: one is made up.
    pub id: String,
    pub is_enabled: bool,
    /// What keys begin with, byte by byte; empty: all keys.
    pub prefix: String,
    /// The object has all of these.
    pub tags: Tags,
    /// The object has more bytes.
    pub larger_than: Option<u64>,
    /// The object has fewer bytes.
    pub smaller_than: Option<u64>,
    /// When current objects expire.
    pub expire: Option<Expire>,
    /// After how many days an upload that was not completed is aborted.
    pub abort_after: Option<u32>,
}

impl Default for RuleWish {
    /// A rule for the whole bucket that does nothing yet.
    fn default() -> RuleWish {
        RuleWish {
            id: String::new(),
            is_enabled: true,
            prefix: String::new(),
            tags: Tags::default(),
            larger_than: None,
            smaller_than: None,
            expire: None,
            abort_after: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    /// So many days after the object was written.
    After(u32),
    /// From this midnight in UTC on, also what is written later.
    On(Timestamp),
}

/// Why a wish is no rule, or rules are not those of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("the id of a rule has at most {RULE_ID_CHARS_MAX} characters")]
    Id,
    #[error("the prefix is longer than a key can be, which has at most {KEY_MAX} bytes")]
    Prefix,
    #[error("a number of days is 1 to {RULE_DAYS_MAX}")]
    Days,
    #[error("a date is a whole day: it begins at midnight in UTC")]
    Date,
    #[error("no object has such a size: what it must exceed is not below what it must stay under")]
    Sizes,
    #[error("a rule has to do something: expire objects, or abort uploads")]
    Idle,
    #[error("a rule that aborts uploads cannot ask for tags or sizes, which uploads do not have")]
    AbortFilter,
    #[error("two rules have the id `{0}`")]
    Twice(String),
    #[error("a bucket has at most {LIFECYCLE_RULES_MAX} lifecycle rules")]
    TooMany,
}

/// A legal rule. Its id may be empty until it is one of a [`Lifecycle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(RuleWish);

impl Rule {
    pub fn new(wish: RuleWish) -> Result<Rule, RuleError> {
        let days = match wish.expire {
            Some(Expire::After(days)) => Some(days),
            _ => None,
        };
        let is_legal = |days: u32| (1..=RULE_DAYS_MAX).contains(&days);
        let has_size = wish.larger_than.is_some() || wish.smaller_than.is_some();
        if wish.id.chars().count() > RULE_ID_CHARS_MAX {
            Err(RuleError::Id)
        } else if wish.prefix.len() > KEY_MAX {
            Err(RuleError::Prefix)
        } else if !days.into_iter().chain(wish.abort_after).all(is_legal) {
            Err(RuleError::Days)
        } else if matches!(wish.expire, Some(Expire::On(at)) if at.0.rem_euclid(DAY) != 0) {
            Err(RuleError::Date)
        } else if wish.smaller_than.is_some_and(|most| most <= wish.larger_than.unwrap_or(0)) {
            Err(RuleError::Sizes)
        } else if wish.expire.is_none() && wish.abort_after.is_none() {
            Err(RuleError::Idle)
        } else if wish.abort_after.is_some() && (has_size || !wish.tags.is_empty()) {
            Err(RuleError::AbortFilter)
        } else {
            Ok(Rule(wish))
        }
    }

    pub fn says(&self) -> &RuleWish {
        &self.0
    }
}

/// All rules of one bucket, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle(Vec<Rule>);

impl Lifecycle {
    /// A rule without an id gets one that no other has, the same one for the same rules.
    pub fn new(mut rules: Vec<Rule>) -> Result<Lifecycle, RuleError> {
        if rules.len() > LIFECYCLE_RULES_MAX {
            return Err(RuleError::TooMany);
        }
        let mut ids = BTreeSet::new();
        for rule in rules.iter().filter(|rule| !rule.0.id.is_empty()) {
            if !ids.insert(rule.0.id.clone()) {
                return Err(RuleError::Twice(rule.0.id.clone()));
            }
        }
        let mut free = (1..).map(|n: u32| format!("rule-{n}")).filter(|id| !ids.contains(id));
        for rule in rules.iter_mut().filter(|rule| rule.0.id.is_empty()) {
            rule.0.id = free.next().expect("numbers do not end");
        }
        Ok(Lifecycle(rules))
    }

    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The midnight in UTC with which a day such as `2027-01-01` begins.
pub fn date(text: &str) -> Option<Timestamp> {
    let date = Date::parse(text, DATE).ok()?;
    Some(Timestamp(date.midnight().assume_utc().unix_timestamp() * 1_000_000))
}

/// The day on which `at` lies, as [`date`] reads it.
pub fn date_text(at: Timestamp) -> String {
    let day = OffsetDateTime::from_unix_timestamp(at.seconds()).ok();
    day.and_then(|day| day.format(DATE).ok()).unwrap_or_default()
}

/// How many days `span` is; `None` unless it is a whole number of them.
pub fn whole_days(span: Duration) -> Option<u32> {
    let is_whole = span.subsec_nanos() == 0 && span.as_secs().is_multiple_of(SECONDS_OF_DAY);
    u32::try_from(span.as_secs() / SECONDS_OF_DAY).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> RuleWish {
        RuleWish { expire: Some(Expire::After(1)), ..RuleWish::default() }
    }

    fn tagged() -> Tags {
        Tags::new(vec![("a".into(), "b".into())]).unwrap()
    }

    #[test]
    fn each_law_of_a_rule_has_its_error() {
        let abort = RuleWish { abort_after: Some(1), ..RuleWish::default() };
        let after = |days| RuleWish { expire: Some(Expire::After(days)), ..wish() };
        let on = |at| RuleWish { expire: Some(Expire::On(Timestamp(at))), ..wish() };
        let sizes = |larger_than, smaller_than| RuleWish { larger_than, smaller_than, ..wish() };
        for good in [
            wish(),
            abort.clone(),
            RuleWish { abort_after: Some(RULE_DAYS_MAX), ..after(RULE_DAYS_MAX) },
            RuleWish { id: "é".repeat(RULE_ID_CHARS_MAX), ..wish() },
            RuleWish { prefix: "a".repeat(KEY_MAX), ..wish() },
            RuleWish { tags: tagged(), ..wish() },
            RuleWish { is_enabled: false, ..wish() },
            on(0),
            on(-3 * DAY),
            sizes(Some(0), Some(1)),
            sizes(None, Some(1)),
            sizes(Some(7), None),
        ] {
            assert!(Rule::new(good.clone()).is_ok(), "{good:?}");
        }
        for (wrong, why) in [
            (RuleWish { id: "x".repeat(RULE_ID_CHARS_MAX + 1), ..wish() }, RuleError::Id),
            (RuleWish { prefix: "a".repeat(KEY_MAX + 1), ..wish() }, RuleError::Prefix),
            (after(0), RuleError::Days),
            (after(RULE_DAYS_MAX + 1), RuleError::Days),
            (RuleWish { abort_after: Some(0), ..wish() }, RuleError::Days),
            (on(1), RuleError::Date),
            (on(DAY - 1), RuleError::Date),
            (sizes(Some(5), Some(5)), RuleError::Sizes),
            (sizes(None, Some(0)), RuleError::Sizes),
            (RuleWish::default(), RuleError::Idle),
            (RuleWish { tags: tagged(), ..abort.clone() }, RuleError::AbortFilter),
            (RuleWish { larger_than: Some(0), ..abort.clone() }, RuleError::AbortFilter),
            (RuleWish { smaller_than: Some(9), ..abort }, RuleError::AbortFilter),
        ] {
            assert_eq!(Rule::new(wrong.clone()), Err(why), "{wrong:?}");
        }
    }

    #[test]
    fn every_rule_of_a_bucket_has_an_id_of_its_own() {
        let rule = |id: &str| Rule::new(RuleWish { id: id.into(), ..wish() }).unwrap();
        let rules = vec![rule(""), rule("rule-1"), rule(""), rule("b"), rule("B")];
        let lifecycle = Lifecycle::new(rules).unwrap();
        let ids: Vec<&str> = lifecycle.rules().iter().map(|rule| rule.says().id.as_str()).collect();
        assert_eq!(ids, ["rule-2", "rule-1", "rule-3", "b", "B"]);
        let twice = Lifecycle::new(vec![rule("b"), rule(""), rule("b")]);
        assert_eq!(twice, Err(RuleError::Twice("b".into())));
        assert!(Lifecycle::new(vec![rule(""); LIFECYCLE_RULES_MAX]).is_ok());
        let many = Lifecycle::new(vec![rule(""); LIFECYCLE_RULES_MAX + 1]);
        assert_eq!(many, Err(RuleError::TooMany));
    }

    #[test]
    fn days_are_read_and_written_alike() {
        for text in ["1970-01-01", "2024-02-29", "2027-01-01", "1969-12-31", "9999-12-31"] {
            let at = date(text).unwrap();
            assert_eq!(at.0.rem_euclid(DAY), 0, "{text}");
            assert_eq!(date_text(at), text);
            assert_eq!(date_text(Timestamp(at.0 + DAY - 1)), text);
        }
        for wrong in ["", "2027", "2027-1-1", "2025-02-29", "2027-01-01T00:00:00Z", "01-01-2027"] {
            assert_eq!(date(wrong), None, "{wrong}");
        }
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!((whole_days(hours(48)), whole_days(hours(36))), (Some(2), None));
        assert_eq!((whole_days(Duration::from_millis(1)), whole_days(hours(0))), (None, Some(0)));
    }
}
