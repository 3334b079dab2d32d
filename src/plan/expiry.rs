//! When objects expire and uploads are to be aborted, under the lifecycle rules of their bucket.
//!
//! # The moment
//!
//! Creation plus days, rounded up to the next midnight UTC ("Amazon S3 User Guide, Lifecycle:
//! setting the time"). What comes to midnight exactly waits for the one after it: an object is
//! never younger than its rule says, and a day that has begun is not cut short. A rule with a
//! date holds from that midnight on, for later objects at the midnight after they were written, so
//! that nothing but a midnight ever makes anything due.
//!
//! # Invariants
//!
//! - Where several rules hold for one object, the earliest wins.
//! - A rule that is not enabled is as if it were not there.

use std::time::Duration;

use crate::base::Timestamp;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::lifecycle::DAY;

/// A current object, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Aging<'a> {
    pub key: &'a str,
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
    pub tags: &'a Tags,
}

/// When the object is due; `None` when no rule is for it.
pub fn expires(rules: &Lifecycle, object: &Aging<'_>) -> Option<Timestamp> {
    let matching = enabled(rules).filter(|rule| is_for(rule, object));
    matching.filter_map(|rule| Some(expires_at(rule.expire?, object.modified))).min()
}

/// When an upload that was begun at `created` is to be aborted; `None` when no rule is for it.
pub fn aborts(rules: &Lifecycle, key: &str, created: Timestamp) -> Option<Timestamp> {
    let matching = enabled(rules).filter(|rule| key.starts_with(&rule.prefix));
    matching.filter_map(|rule| Some(days_after(created, rule.abort_after?))).min()
}

/// The earliest moment at which anything can be due that is not there at `since`, or is not as
/// it was then: `None` when no rule is in force. Objects get other tags without becoming
/// younger, so rules that ask for tags are looked at every day.
pub fn first_to_come(rules: &Lifecycle, since: Timestamp) -> Option<Timestamp> {
    let earliest = |rule: &RuleWish| {
        let expires = rule.expire.map(|expire| match rule.tags.is_empty() {
            true => expires_at(expire, since),
            false => midnight_after(since),
        });
        let aborts = rule.abort_after.map(|days| days_after(since, days));
        expires.into_iter().chain(aborts).min()
    };
    enabled(rules).filter_map(earliest).min()
}

/// Whether it depends on an object's tags when it expires.
pub fn asks_for_tags(rules: &Lifecycle) -> bool {
    enabled(rules).any(|rule| rule.expire.is_some() && !rule.tags.is_empty())
}

/// Below these, in their order, is every object that a rule may be for, and below no two of them
/// the same one.
pub fn object_prefixes(rules: &Lifecycle) -> Vec<String> {
    outermost(enabled(rules).filter(|rule| rule.expire.is_some()))
}

/// The same for uploads.
pub fn upload_prefixes(rules: &Lifecycle) -> Vec<String> {
    outermost(enabled(rules).filter(|rule| rule.abort_after.is_some()))
}

fn enabled(rules: &Lifecycle) -> impl Iterator<Item = &RuleWish> {
    rules.rules().iter().map(|rule| rule.says()).filter(|rule| rule.is_enabled)
}

fn is_for(rule: &RuleWish, object: &Aging<'_>) -> bool {
    object.key.starts_with(&rule.prefix)
        && rule.larger_than.is_none_or(|least| object.size > least)
        && rule.smaller_than.is_none_or(|most| object.size < most)
        && rule.tags.pairs().iter().all(|tag| object.tags.pairs().contains(tag))
}

fn expires_at(expire: Expire, modified: Timestamp) -> Timestamp {
    match expire {
        Expire::After(days) => days_after(modified, days),
        Expire::On(date) => date.max(midnight_after(modified)),
    }
}

fn days_after(since: Timestamp, days: u32) -> Timestamp {
    midnight_after(since.plus(Duration::from_micros(DAY as u64) * days))
}

/// The first midnight in UTC after `at`, or the last moment that can be written.
fn midnight_after(at: Timestamp) -> Timestamp {
    Timestamp((at.0.div_euclid(DAY) + 1).saturating_mul(DAY))
}

fn outermost<'r>(rules: impl Iterator<Item = &'r RuleWish>) -> Vec<String> {
    let mut prefixes: Vec<String> = rules.map(|rule| rule.prefix.clone()).collect();
    // What begins with another stands behind it, and nothing else between them.
    prefixes.sort();
    prefixes.dedup_by(|later, kept| later.starts_with(kept.as_str()));
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::limits::RULE_DAYS_MAX;
    use crate::model::Rule;
    use crate::model::lifecycle::date;

    fn lifecycle(wishes: Vec<RuleWish>) -> Lifecycle {
        let rules = wishes.into_iter().map(|wish| Rule::new(wish).unwrap());
        Lifecycle::new(rules.collect()).unwrap()
    }

    fn after(prefix: &str, days: u32) -> RuleWish {
        RuleWish { prefix: prefix.into(), expire: Some(Expire::After(days)), ..RuleWish::default() }
    }

    fn aborting(prefix: &str, days: u32) -> RuleWish {
        RuleWish { prefix: prefix.into(), abort_after: Some(days), ..RuleWish::default() }
    }

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        Tags::new(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()).unwrap()
    }

    fn at(day: &str) -> Timestamp {
        date(day).unwrap()
    }

    fn expiry(wishes: Vec<RuleWish>, key: &str, modified: Timestamp) -> Option<Timestamp> {
        let object = Aging { key, size: 10, modified, tags: &Tags::default() };
        expires(&lifecycle(wishes), &object)
    }

    #[test]
    fn the_age_is_counted_to_the_microsecond_and_ends_at_midnight() {
        let three = |modified| expiry(vec![after("", 3)], "k", modified);
        let day = at("2026-01-15");
        let noon = Timestamp(day.0 + DAY / 2);
        assert_eq!(three(noon), Some(at("2026-01-19")), "S3's own example");
        assert_eq!(three(Timestamp(day.0 + DAY - 1)), Some(at("2026-01-19")));
        assert_eq!(three(Timestamp(day.0 - 1)), Some(at("2026-01-18")));
        assert_eq!(three(day), Some(at("2026-01-19")), "it is never younger than the rule says");
        assert_eq!(three(Timestamp(-1)), Some(at("1970-01-04")));
        let longest = expiry(vec![after("", RULE_DAYS_MAX)], "k", Timestamp(i64::MAX));
        assert_eq!(longest, Some(Timestamp(i64::MAX)));
    }

    #[test]
    fn a_date_holds_from_its_midnight_on_and_for_what_comes_later() {
        let date = at("2027-01-01");
        let rule = RuleWish { expire: Some(Expire::On(date)), ..RuleWish::default() };
        let due = |modified| expiry(vec![rule.clone()], "k", modified);
        assert_eq!(due(at("2020-05-05")), Some(date));
        assert_eq!(due(Timestamp(date.0 - 1)), Some(date));
        assert_eq!(due(date), Some(at("2027-01-02")));
        assert_eq!(due(Timestamp(at("2028-06-01").0 + 5)), Some(at("2028-06-02")));
    }

    #[test]
    fn the_earliest_of_overlapping_rules_wins() {
        let rules = || vec![after("", 30), after("logs/", 7), after("logs/debug/", 60)];
        let day = at("2026-01-01");
        let due = |key: &str| expiry(rules(), key, day).unwrap().since(day).as_secs() / 86_400;
        assert_eq!(due("photo"), 31);
        assert_eq!(due("logs/a"), 8);
        assert_eq!(due("logs/debug/a"), 8, "a longer prefix does not shield from a shorter one");
        assert_eq!(due("Logs/a"), 31, "case matters");
        assert_eq!(expiry(vec![after("logs/", 7)], "logs", day), None);
        assert_eq!(expiry(vec![after("a%", 7), after("a_", 7)], "ab", day), None);
        assert_eq!(object_prefixes(&lifecycle(rules())), [""]);
    }

    #[test]
    fn all_filters_of_a_rule_must_hold() {
        let rule = RuleWish {
            tags: tags(&[("a", "1"), ("b", "2")]),
            larger_than: Some(10),
            smaller_than: Some(20),
            ..after("x/", 1)
        };
        let rules = lifecycle(vec![rule]);
        let due = |key: &str, size, pairs: &[(&str, &str)]| {
            let tags = &tags(pairs);
            expires(&rules, &Aging { key, size, modified: Timestamp(0), tags }).is_some()
        };
        let both = [("b", "2"), ("c", "3"), ("a", "1")];
        assert!(due("x/k", 11, &both) && due("x/k", 19, &both));
        assert!(!due("x/k", 10, &both) && !due("x/k", 20, &both));
        assert!(!due("y/k", 15, &both));
        assert!(!due("x/k", 15, &[("a", "1")]));
        assert!(!due("x/k", 15, &[("a", "1"), ("b", "3")]));
        assert!(!due("x/k", 15, &[]));
        assert!(asks_for_tags(&rules));
    }

    #[test]
    fn a_rule_that_is_not_enabled_does_nothing() {
        let off = |wish| RuleWish { is_enabled: false, ..wish };
        let tagged = RuleWish { tags: tags(&[("a", "1")]), ..after("b/", 2) };
        let rules = lifecycle(vec![off(after("", 1)), off(aborting("", 1)), off(tagged)]);
        let tags = &Tags::default();
        let object = Aging { key: "k", size: 0, modified: Timestamp(0), tags };
        assert_eq!(expires(&rules, &object), None);
        assert_eq!(aborts(&rules, "k", Timestamp(0)), None);
        assert_eq!(first_to_come(&rules, Timestamp(0)), None);
        assert!(!asks_for_tags(&rules));
        assert!(object_prefixes(&rules).is_empty() && upload_prefixes(&rules).is_empty());
    }

    #[test]
    fn uploads_have_rules_of_their_own() {
        let rules = lifecycle(vec![aborting("a/", 7), aborting("a/b", 3), after("c", 1)]);
        let day = at("2026-03-01");
        assert_eq!(aborts(&rules, "a/x", day), Some(at("2026-03-09")));
        assert_eq!(aborts(&rules, "a/bc", day), Some(at("2026-03-05")));
        assert_eq!(aborts(&rules, "c", day), None);
        assert_eq!(upload_prefixes(&rules), ["a/"]);
        assert_eq!(object_prefixes(&rules), ["c"]);
    }

    #[test]
    fn tags_are_looked_at_every_day() {
        let tagged = RuleWish { tags: tags(&[("a", "1")]), ..after("", 300) };
        let day = at("2026-03-01");
        assert_eq!(first_to_come(&lifecycle(vec![tagged]), day), Some(at("2026-03-02")));
        assert_eq!(first_to_come(&lifecycle(vec![after("", 2)]), day), Some(at("2026-03-04")));
    }

    fn key() -> impl Strategy<Value = String> {
        "[aAb%_/]{0,5}"
    }

    fn wish() -> impl Strategy<Value = RuleWish> {
        let expire = prop_oneof![
            (1..40_u32).prop_map(Expire::After),
            (0..60_i64).prop_map(|day| Expire::On(Timestamp(day * DAY))),
        ];
        let tag = prop::sample::select(vec![None, Some("x"), Some("y")]);
        let abort = prop::option::of(1..40_u32);
        (any::<bool>(), key(), prop::option::of(0..20_u64), tag, expire, abort).prop_map(
            |(is_enabled, prefix, larger_than, tag, expire, abort_after)| {
                let tags = tag.map_or_else(Tags::default, |value| tags(&[("t", value)]));
                let has_filter = larger_than.is_some() || !tags.is_empty();
                RuleWish {
                    is_enabled,
                    prefix,
                    larger_than,
                    tags,
                    expire: Some(expire),
                    abort_after: abort_after.filter(|_| !has_filter),
                    ..RuleWish::default()
                }
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_is_due_is_due_at_a_midnight_by_one_of_its_rules(
            wishes in prop::collection::vec(wish(), 0..5),
            key in key(), size in 0..30_u64, tagged: bool, modified in 0..50 * DAY,
        ) {
            let (rules, modified) = (lifecycle(wishes.clone()), Timestamp(modified));
            let tags = if tagged { tags(&[("t", "x")]) } else { Tags::default() };
            let object = Aging { key: &key, size, modified, tags: &tags };
            let due = expires(&rules, &object);
            let alone = wishes.iter().filter_map(|wish| {
                expires(&lifecycle(vec![wish.clone()]), &object)
            });
            prop_assert_eq!(due, alone.min());
            if let Some(due) = due {
                prop_assert!(due > modified && due.0 % DAY == 0);
                // It is looked at, and its moment was foreseen before it was written.
                let seen = object_prefixes(&rules).iter().filter(|p| key.starts_with(*p)).count();
                prop_assert_eq!(seen, 1);
                prop_assert!(first_to_come(&rules, modified).unwrap() <= due);
                let days = wishes.iter().filter_map(|wish| match wish.expire {
                    Some(Expire::After(days)) if wish.is_enabled => Some(days),
                    _ => None,
                });
                let aged = |days: u32| modified.0 + i64::from(days) * DAY;
                let is_date = wishes.iter().any(|w| matches!(w.expire, Some(Expire::On(_))));
                let mut days = days;
                prop_assert!(is_date || days.any(|d| (1..=DAY).contains(&(due.0 - aged(d)))));
            }
            if let Some(due) = aborts(&rules, &key, modified) {
                prop_assert!(due > modified && due.0 % DAY == 0);
                let seen = upload_prefixes(&rules).iter().filter(|p| key.starts_with(*p)).count();
                prop_assert_eq!(seen, 1);
                prop_assert!(first_to_come(&rules, modified).unwrap() <= due);
            }
        }
    }
}
