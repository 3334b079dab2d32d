//! Lifecycle rules as JSON has them: word for word as in the configuration file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use crate::base::ByteSize;
use crate::base::size::parse_duration;
use crate::engine::BucketLifecycle;
use crate::engine::WishRefused;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::lifecycle::date;
use crate::model::lifecycle::date_text;
use crate::model::lifecycle::whole_days;

/// One rule. What is left out of a wish does not filter, or does nothing; a text that is empty is
/// as good as none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleView {
    /// One is made up where there is none.
    #[serde(default)]
    pub id: String,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub prefix: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Sizes with a unit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub larger_than: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub smaller_than: String,
    /// Whole days, as in `30 d`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expire_after: String,
    /// A day, as in `2027-01-01`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expire_on: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub abort_uploads_after: String,
}

fn yes() -> bool {
    true
}

/// All rules of a bucket. What is set is a list under the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleView {
    pub bucket: String,
    /// The configuration file declares them.
    pub declared: bool,
    pub lifecycle: Vec<RuleView>,
}

/// The rules that a bucket shall have, instead of all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLifecycle {
    pub lifecycle: Vec<RuleView>,
}

impl RuleView {
    pub fn new(rule: &Rule) -> RuleView {
        let rule = rule.says();
        let size = |bytes: Option<u64>| bytes.map(|bytes| ByteSize(bytes).exact());
        let days = |days: u32| format!("{days} d");
        let (after, on) = match rule.expire {
            None => (None, None),
            Some(Expire::After(count)) => (Some(days(count)), None),
            Some(Expire::On(at)) => (None, Some(date_text(at))),
        };
        RuleView {
            id: rule.id.clone(),
            enabled: rule.is_enabled,
            prefix: rule.prefix.clone(),
            tags: rule.tags.pairs().iter().cloned().collect(),
            larger_than: size(rule.larger_than).unwrap_or_default(),
            smaller_than: size(rule.smaller_than).unwrap_or_default(),
            expire_after: after.unwrap_or_default(),
            expire_on: on.unwrap_or_default(),
            abort_uploads_after: rule.abort_after.map(days).unwrap_or_default(),
        }
    }

    pub(super) fn read(&self) -> Result<Rule, ApiError> {
        let wrong = |why: String| match self.id.as_str() {
            "" => ApiError::invalid(why),
            id => ApiError::invalid(format!("rule `{id}`: {why}")),
        };
        let wish = self.wish().map_err(wrong)?;
        Rule::new(wish).map_err(|why| wrong(why.to_string()))
    }

    fn wish(&self) -> Result<RuleWish, String> {
        let after = days("expire_after", &self.expire_after)?;
        let on = perhaps(&self.expire_on).map(|text| {
            date(text).ok_or_else(|| format!("expire_on: `{text}` is not a day, as 2027-01-01 is"))
        });
        let expire = match (after, on.transpose()?) {
            (Some(_), Some(_)) => {
                return Err("expire_after and expire_on are both given".to_owned());
            }
            (Some(days), None) => Some(Expire::After(days)),
            (None, on) => on.map(Expire::On),
        };
        let tags = self.tags.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(RuleWish {
            id: self.id.clone(),
            is_enabled: self.enabled,
            prefix: self.prefix.clone(),
            tags: Tags::new(tags.collect()).map_err(|why| why.to_string())?,
            larger_than: size("larger_than", &self.larger_than)?,
            smaller_than: size("smaller_than", &self.smaller_than)?,
            expire,
            abort_after: days("abort_uploads_after", &self.abort_uploads_after)?,
        })
    }
}

impl LifecycleView {
    /// `None`: the bucket has no rule.
    pub(super) fn new(bucket: &str, found: Option<BucketLifecycle>) -> LifecycleView {
        let declared = found.as_ref().is_some_and(|found| found.declared);
        let rules = found.map(|found| found.rules).unwrap_or_default();
        LifecycleView {
            bucket: bucket.to_owned(),
            declared,
            lifecycle: rules.rules().iter().map(RuleView::new).collect(),
        }
    }
}

impl NewLifecycle {
    pub(super) fn read(&self) -> Result<Lifecycle, ApiError> {
        let rules: Result<Vec<Rule>, ApiError> =
            self.lifecycle.iter().map(RuleView::read).collect();
        Lifecycle::new(rules?).map_err(|why| ApiError::invalid(why.to_string()))
    }
}

fn perhaps(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn size(name: &str, text: &str) -> Result<Option<u64>, String> {
    let read = |text: &str| text.parse::<ByteSize>().map_err(|why| format!("{name}: {why}"));
    Ok(perhaps(text).map(read).transpose()?.map(|size| size.0))
}

fn days(name: &str, text: &str) -> Result<Option<u32>, String> {
    let read = |text: &str| {
        let span: Duration = parse_duration(text).map_err(|why| format!("{name}: {why}"))?;
        whole_days(span).ok_or_else(|| format!("{name}: `{text}` is no whole number of days"))
    };
    perhaps(text).map(read).transpose()
}

impl Desk {
    pub(super) async fn lifecycle_show(&self, name: &str) -> Result<Value, ApiError> {
        let found = self.engine.lifecycle(name).await;
        let found = found.map_err(|err| ApiError::from(err).about("bucket", name))?;
        value(&LifecycleView::new(name, found))
    }

    pub(super) async fn lifecycle_set(
        &self,
        name: &str,
        new: NewLifecycle,
    ) -> Result<Value, ApiError> {
        let set = self.engine.put_lifecycle(name, new.read()?).await;
        set.map_err(|err| ApiError::from(err).about("bucket", name))?;
        self.lifecycle_show(name).await
    }

    pub(super) async fn lifecycle_add(
        &self,
        name: &str,
        rule: RuleView,
    ) -> Result<Value, ApiError> {
        let added = self.engine.add_rule(name, rule.read()?).await;
        added.map_err(|err| ApiError::from(err).about("bucket", name))?;
        self.lifecycle_show(name).await
    }

    /// One rule, or all.
    pub(super) async fn lifecycle_delete(
        &self,
        name: &str,
        id: Option<String>,
    ) -> Result<Value, ApiError> {
        let deleted = match id {
            Some(id) => self.engine.delete_rule(name, id).await.map(|_| ()),
            None => self.engine.delete_lifecycle(name).await.map_err(WishRefused::from),
        };
        deleted.map_err(|err| ApiError::from(err).about("bucket", name))?;
        self.lifecycle_show(name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: &str) -> RuleView {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_rule_is_read_back_from_what_is_shown() {
        for json in [
            r#"{"expire_after":"30 d"}"#,
            r#"{"id":"a","enabled":false,"prefix":"tmp/","tags":{"k":"v","l":""},
                "larger_than":"1501 B","smaller_than":"5 GB","expire_on":"2027-01-01"}"#,
            r#"{"id":"b","abort_uploads_after":"7 d","expire_after":"48 h"}"#,
        ] {
            let rule = view(json).read().unwrap();
            let shown = RuleView::new(&rule);
            assert_eq!(shown.read().unwrap(), rule, "{json}");
            let again = serde_json::to_string(&shown).unwrap();
            assert_eq!(view(&again), shown);
        }
        let shown = RuleView::new(&view(r#"{"expire_after":"48 h"}"#).read().unwrap());
        assert_eq!(shown.expire_after, "2 d");
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        for (json, why) in [
            (r#"{"prefix":"a"}"#, "has to do something"),
            (r#"{"expire_after":"36 h"}"#, "expire_after: `36 h` is no whole number of days"),
            (r#"{"expire_after":"0 d"}"#, "a number of days is 1 to"),
            (r#"{"expire_after":"30"}"#, "with a unit"),
            (r#"{"expire_on":"1.1.2027"}"#, "expire_on: `1.1.2027` is not a day"),
            (r#"{"expire_on":"2027-01-01","expire_after":"1 d"}"#, "both given"),
            (r#"{"id":"x","expire_after":"1 d","larger_than":"5"}"#, "rule `x`: larger_than: `5`"),
            (r#"{"expire_after":"1 d","tags":{"":""}}"#, "a tag key"),
            (r#"{"abort_uploads_after":"1 d","tags":{"a":""}}"#, "uploads do not have"),
        ] {
            let message = view(json).read().unwrap_err().message;
            assert!(message.contains(why), "{json}: {message}");
        }
        assert!(serde_json::from_str::<RuleView>(r#"{"expires":"1 d"}"#).is_err());
        let twice = vec![view(r#"{"id":"x","expire_after":"1 d"}"#); 2];
        let twice = NewLifecycle { lifecycle: twice }.read().unwrap_err();
        assert!(twice.message.contains("two rules have the id `x`"), "{twice}");
    }
}
