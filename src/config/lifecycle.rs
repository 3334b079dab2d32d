//! Lifecycle rules of declared buckets.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Table;
use toml::Value;

use super::finding::Findings;
use super::reader::Reader;
use super::reader::Section;
use super::reader::Spot;
use super::schema;
use crate::admin::RuleView;
use crate::base::Timestamp;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::model::RuleError;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::lifecycle::date;
use crate::model::lifecycle::whole_days;

pub(crate) struct RawRule {
    at: Option<usize>,
    id: Option<Spot<String>>,
    prefix: Option<Spot<String>>,
    tags: BTreeMap<String, Spot<String>>,
    larger_than: Option<Spot<u64>>,
    smaller_than: Option<Spot<u64>>,
    expire_after: Option<Spot<Duration>>,
    expire_on: Option<Spot<String>>,
    abort_uploads_after: Option<Spot<Duration>>,
    enabled: Option<Spot<bool>>,
    /// A value was wrong, and noted: the rule says less than it should.
    is_partial: bool,
}

/// What is wrong, and where it stands.
type Wrong = (Option<usize>, String);

pub(crate) fn raw(reader: &mut Reader<'_>, bucket: &Section<'_>) -> Vec<RawRule> {
    let sections = reader.sections(bucket, "lifecycle", schema::RULE);
    let rules = sections.iter().map(|section| {
        let mistakes = reader.found.mistakes();
        let rule = RawRule {
            at: section.at(),
            id: reader.text(section, "id"),
            prefix: reader.text(section, "prefix"),
            tags: reader.texts(section, "tags"),
            larger_than: reader.size(section, "larger_than"),
            smaller_than: reader.size(section, "smaller_than"),
            expire_after: reader.duration(section, "expire_after"),
            expire_on: reader.text(section, "expire_on").filter(|spot| !spot.value.is_empty()),
            abort_uploads_after: reader.duration(section, "abort_uploads_after"),
            enabled: reader.flag(section, "enabled"),
            is_partial: false,
        };
        RawRule { is_partial: reader.found.mistakes() > mistakes, ..rule }
    });
    rules.collect()
}

/// The rules of one bucket. What is wrong is noted, and left out.
pub(crate) fn check(raws: &[RawRule], found: &mut Findings) -> Lifecycle {
    let mut rules: Vec<Rule> = Vec::new();
    for raw in raws.iter().filter(|raw| !raw.is_partial) {
        let rule = wish(raw)
            .and_then(|wish| Rule::new(wish).map_err(|why| (place(raw, &why), why.to_string())));
        match rule {
            Ok(rule) => rules.push(rule),
            Err((at, why)) => found.wrong(at, why),
        }
    }
    Lifecycle::new(rules).unwrap_or_else(|why| {
        let place = raws.iter().rev().find_map(|raw| match &why {
            RuleError::Twice(id) => raw.id.as_ref().filter(|spot| spot.value == *id).map(|s| s.at),
            _ => raw.at,
        });
        found.wrong(place, why.to_string());
        Lifecycle::default()
    })
}

fn wish(raw: &RawRule) -> Result<RuleWish, Wrong> {
    if let (Some(_), Some(on)) = (&raw.expire_after, &raw.expire_on) {
        return Err((Some(on.at), "`expire_after` and `expire_on` are both given".to_owned()));
    }
    let after = days(&raw.expire_after, "expire_after")?.map(Expire::After);
    let on = raw.expire_on.as_ref().map(day).transpose()?.map(Expire::On);
    let tags = raw.tags.iter().map(|(name, value)| (name.clone(), value.value.clone()));
    let at_tags = raw.tags.values().next().map(|spot| spot.at);
    let text = |spot: &Option<Spot<String>>| spot.as_ref().map(|spot| spot.value.clone());
    Ok(RuleWish {
        id: text(&raw.id).unwrap_or_default(),
        is_enabled: raw.enabled.as_ref().is_none_or(|spot| spot.value),
        prefix: text(&raw.prefix).unwrap_or_default(),
        tags: Tags::new(tags.collect()).map_err(|why| (at_tags, why.to_string()))?,
        larger_than: raw.larger_than.as_ref().map(|spot| spot.value),
        smaller_than: raw.smaller_than.as_ref().map(|spot| spot.value),
        expire: after.or(on),
        abort_after: days(&raw.abort_uploads_after, "abort_uploads_after")?,
    })
}

fn days(raw: &Option<Spot<Duration>>, key: &str) -> Result<Option<u32>, Wrong> {
    let read = |spot: &Spot<Duration>| {
        let wrong = || (Some(spot.at), format!("`{key}` must be whole days, such as \"30 d\""));
        whole_days(spot.value).ok_or_else(wrong)
    };
    raw.as_ref().map(read).transpose()
}

fn day(raw: &Spot<String>) -> Result<Timestamp, Wrong> {
    let text = format!("`expire_on` is `{}`, it must be a day, such as \"2027-01-01\"", raw.value);
    date(&raw.value).ok_or((Some(raw.at), text))
}

/// Where that stands of which a rule is wrong.
fn place(raw: &RawRule, why: &RuleError) -> Option<usize> {
    let after = raw.expire_after.as_ref().map(|spot| spot.at);
    let abort = raw.abort_uploads_after.as_ref().map(|spot| spot.at);
    let place = match why {
        RuleError::Id => raw.id.as_ref().map(|spot| spot.at),
        RuleError::Prefix => raw.prefix.as_ref().map(|spot| spot.at),
        RuleError::Days => after.or(abort),
        RuleError::Sizes => raw.smaller_than.as_ref().map(|spot| spot.at),
        RuleError::AbortFilter => abort,
        RuleError::Date | RuleError::Idle | RuleError::Twice(_) | RuleError::TooMany => None,
    };
    place.or(raw.at)
}

/// As the file has them.
pub(crate) fn show(lifecycle: &Lifecycle) -> Value {
    let rule = |rule| Value::try_from(RuleView::new(rule)).unwrap_or(Value::Table(Table::new()));
    Value::Array(lifecycle.rules().iter().map(rule).collect())
}
