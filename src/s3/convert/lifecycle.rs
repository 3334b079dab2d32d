//! Lifecycle rules, from XML and back.
//!
//! A filter is one condition, or several inside `And`; the old form, a `Prefix` directly in the
//! rule, is read as well. Rules are written in the new form. Actions that Larder does not have are
//! refused by name: a rule that is taken does all that it says.

use s3s::dto::AbortIncompleteMultipartUpload;
use s3s::dto::ExpirationStatus;
use s3s::dto::LifecycleExpiration;
use s3s::dto::LifecycleRule;
use s3s::dto::LifecycleRuleAndOperator;
use s3s::dto::LifecycleRuleFilter;
use time::OffsetDateTime;

use super::dates;
use super::tags;
use crate::base::Timestamp;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::model::RuleError;
use crate::model::RuleWish;
use crate::s3::error::Refusal;

/// Reads all rules of a configuration, which has at least one.
pub(crate) fn read(rules: Vec<LifecycleRule>) -> Result<Lifecycle, Refusal> {
    if rules.is_empty() {
        return Err(Refusal::MalformedXml);
    }
    let rules: Result<Vec<Rule>, Refusal> = rules.into_iter().map(read_rule).collect();
    Lifecycle::new(rules?).map_err(wrong)
}

fn read_rule(rule: LifecycleRule) -> Result<Rule, Refusal> {
    let lacking = [
        ("Transition", rule.transitions.is_some()),
        ("NoncurrentVersionExpiration", rule.noncurrent_version_expiration.is_some()),
        ("NoncurrentVersionTransition", rule.noncurrent_version_transitions.is_some()),
        ("ExpiredObjectDeleteMarker", rule.expiration.as_ref().is_some_and(asks_for_markers)),
    ];
    if let Some((name, _)) = lacking.iter().find(|(_, is_given)| *is_given) {
        let what = format!("{name} in a lifecycle rule");
        return Err(Refusal::NotImplemented(what.into()));
    }
    let filter = match (rule.filter, rule.prefix) {
        (Some(filter), None) => read_filter(filter)?,
        (None, Some(prefix)) => RuleWish { prefix, ..RuleWish::default() },
        (Some(_), Some(_)) => {
            return Err(Refusal::InvalidRequest(
                "A rule has a Filter or, in the old form, a Prefix, but not both.".into(),
            ));
        }
        (None, None) => {
            return Err(Refusal::InvalidRequest(
                "A rule has a Filter, which may be empty for the whole bucket.".into(),
            ));
        }
    };
    let abort = rule.abort_incomplete_multipart_upload;
    let abort_after = match abort.map(|abort| abort.days_after_initiation) {
        None => None,
        Some(Some(count)) => Some(days(count)?),
        Some(None) => return Err(Refusal::MalformedXml),
    };
    let wish = RuleWish {
        id: rule.id.unwrap_or_default(),
        is_enabled: match rule.status.as_str() {
            ExpirationStatus::ENABLED => true,
            ExpirationStatus::DISABLED => false,
            _ => return Err(Refusal::MalformedXml),
        },
        expire: rule.expiration.map(read_expiration).transpose()?.flatten(),
        abort_after,
        ..filter
    };
    Rule::new(wish).map_err(wrong)
}

fn asks_for_markers(expiration: &LifecycleExpiration) -> bool {
    expiration.expired_object_delete_marker == Some(true)
}

/// The filters of a rule, and nothing else of it.
fn read_filter(filter: LifecycleRuleFilter) -> Result<RuleWish, Refusal> {
    let LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix, tag } =
        filter;
    let conditions = [
        and.is_some(),
        object_size_greater_than.is_some(),
        object_size_less_than.is_some(),
        prefix.is_some(),
        tag.is_some(),
    ];
    if conditions.iter().filter(|is_given| **is_given).count() > 1 {
        return Err(Refusal::InvalidRequest(
            "A Filter has one condition; several of them stand inside And.".into(),
        ));
    }
    let all = and.unwrap_or_else(|| LifecycleRuleAndOperator {
        object_size_greater_than,
        object_size_less_than,
        prefix,
        tags: tag.map(|tag| vec![tag]),
    });
    Ok(RuleWish {
        prefix: all.prefix.unwrap_or_default(),
        tags: tags::from_set(all.tags.unwrap_or_default())?,
        larger_than: all.object_size_greater_than.map(size).transpose()?,
        smaller_than: all.object_size_less_than.map(size).transpose()?,
        ..RuleWish::default()
    })
}

fn read_expiration(expiration: LifecycleExpiration) -> Result<Option<Expire>, Refusal> {
    match (expiration.days, expiration.date) {
        (Some(_), Some(_)) => {
            Err(Refusal::InvalidRequest("An Expiration has Days or a Date, but not both.".into()))
        }
        (Some(count), None) => Ok(Some(Expire::After(days(count)?))),
        (None, Some(date)) => {
            let micros = OffsetDateTime::from(date).unix_timestamp_nanos().div_euclid(1000);
            let at = i64::try_from(micros).map_err(|_| wrong(RuleError::Date))?;
            Ok(Some(Expire::On(Timestamp(at))))
        }
        // It may have asked for delete markers to be left alone.
        (None, None) if expiration.expired_object_delete_marker.is_some() => Ok(None),
        (None, None) => Err(Refusal::MalformedXml),
    }
}

fn days(count: i32) -> Result<u32, Refusal> {
    u32::try_from(count).map_err(|_| wrong(RuleError::Days))
}

fn size(bytes: i64) -> Result<u64, Refusal> {
    u64::try_from(bytes).map_err(|_| Refusal::InvalidArgument("A size is negative.".into()))
}

fn wrong(why: RuleError) -> Refusal {
    let text = why.to_string();
    match why {
        RuleError::Id
        | RuleError::Prefix
        | RuleError::Days
        | RuleError::Date
        | RuleError::Twice(_) => Refusal::InvalidArgument(text.into()),
        RuleError::Sizes | RuleError::Idle | RuleError::AbortFilter | RuleError::TooMany => {
            Refusal::InvalidRequest(text.into())
        }
    }
}

pub(crate) fn write(lifecycle: &Lifecycle) -> Vec<LifecycleRule> {
    lifecycle.rules().iter().map(|rule| write_rule(rule.says())).collect()
}

fn write_rule(rule: &RuleWish) -> LifecycleRule {
    let days = |days: u32| i32::try_from(days).unwrap_or(i32::MAX);
    let expiration = |expire| match expire {
        Expire::After(count) => {
            LifecycleExpiration { days: Some(days(count)), ..LifecycleExpiration::default() }
        }
        Expire::On(at) => {
            LifecycleExpiration { date: Some(dates::dto(at)), ..LifecycleExpiration::default() }
        }
    };
    LifecycleRule {
        abort_incomplete_multipart_upload: rule.abort_after.map(|count| {
            AbortIncompleteMultipartUpload { days_after_initiation: Some(days(count)) }
        }),
        expiration: rule.expire.map(expiration),
        filter: Some(write_filter(rule)),
        id: Some(rule.id.clone()),
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        status: ExpirationStatus::from_static(match rule.is_enabled {
            true => ExpirationStatus::ENABLED,
            false => ExpirationStatus::DISABLED,
        }),
        transitions: None,
    }
}

fn write_filter(rule: &RuleWish) -> LifecycleRuleFilter {
    let size = |bytes: Option<u64>| bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let mut tags = tags::to_set(&rule.tags);
    let (larger, smaller) = (size(rule.larger_than), size(rule.smaller_than));
    let prefix = Some(rule.prefix.clone()).filter(|prefix| !prefix.is_empty());
    let conditions = tags.len()
        + [prefix.is_some(), larger.is_some(), smaller.is_some()]
            .map(usize::from)
            .iter()
            .sum::<usize>();
    if conditions > 1 {
        let and = LifecycleRuleAndOperator {
            object_size_greater_than: larger,
            object_size_less_than: smaller,
            prefix,
            tags: Some(tags).filter(|tags| !tags.is_empty()),
        };
        return LifecycleRuleFilter { and: Some(and), ..LifecycleRuleFilter::default() };
    }
    LifecycleRuleFilter {
        and: None,
        object_size_greater_than: larger,
        object_size_less_than: smaller,
        // Clients expect a condition, also where there is none.
        prefix: prefix.or((conditions == 0).then(String::new)),
        tag: tags.pop(),
    }
}

#[cfg(test)]
mod tests {
    use s3s::dto::NoncurrentVersionExpiration;
    use s3s::dto::Tag;

    use super::*;
    use crate::model::Tags;
    use crate::model::lifecycle::date;

    fn rule() -> LifecycleRule {
        let days = LifecycleExpiration { days: Some(3), ..LifecycleExpiration::default() };
        LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: Some(days),
            filter: Some(LifecycleRuleFilter::default()),
            id: None,
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: None,
            status: ExpirationStatus::from_static("Enabled"),
            transitions: None,
        }
    }

    fn wish() -> RuleWish {
        RuleWish { id: "a".into(), expire: Some(Expire::After(3)), ..RuleWish::default() }
    }

    #[test]
    fn every_rule_comes_back_as_it_went() {
        let tags = |pairs: &[(&str, &str)]| {
            Tags::new(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()).unwrap()
        };
        for rule in [
            wish(),
            RuleWish { is_enabled: false, prefix: "a/".into(), ..wish() },
            RuleWish { tags: tags(&[("k", "v")]), ..wish() },
            RuleWish { tags: tags(&[("k", "v"), ("a", "")]), ..wish() },
            RuleWish { larger_than: Some(5), ..wish() },
            RuleWish { smaller_than: Some(5), prefix: "x".into(), ..wish() },
            RuleWish { abort_after: Some(7), ..wish() },
            RuleWish { expire: None, abort_after: Some(7), ..wish() },
            RuleWish { expire: date("2027-01-01").map(Expire::On), ..wish() },
        ] {
            let rules = Lifecycle::new(vec![Rule::new(rule).unwrap()]).unwrap();
            let written = write(&rules);
            let filter = written[0].filter.clone().unwrap();
            let plain = [
                filter.prefix.is_some(),
                filter.tag.is_some(),
                filter.object_size_greater_than.is_some(),
                filter.and.is_some(),
            ];
            assert_eq!(plain.iter().filter(|is_given| **is_given).count(), 1, "{filter:?}");
            assert_eq!(read(written), Ok(rules));
        }
    }

    #[test]
    fn the_old_form_is_read() {
        let old = LifecycleRule { filter: None, prefix: Some("tmp/".into()), ..rule() };
        let rules = read(vec![old]).unwrap();
        assert_eq!(rules.rules()[0].says().prefix, "tmp/");
        assert_eq!(write(&rules)[0].filter.as_ref().unwrap().prefix.as_deref(), Some("tmp/"));
    }

    fn expiration(days: Option<i32>, at: Option<i64>, marker: Option<bool>) -> LifecycleRule {
        let expiration = LifecycleExpiration {
            days,
            date: at.map(|at| dates::dto(Timestamp(at))),
            expired_object_delete_marker: marker,
        };
        LifecycleRule { expiration: Some(expiration), ..rule() }
    }

    fn filter(change: impl FnOnce(&mut LifecycleRuleFilter)) -> LifecycleRule {
        let mut filter = LifecycleRuleFilter::default();
        change(&mut filter);
        LifecycleRule { filter: Some(filter), ..rule() }
    }

    fn abort(days_after_initiation: Option<i32>, rule: LifecycleRule) -> LifecycleRule {
        let abort = AbortIncompleteMultipartUpload { days_after_initiation };
        LifecycleRule { abort_incomplete_multipart_upload: Some(abort), ..rule }
    }

    fn tag() -> Option<Tag> {
        Some(Tag { key: Some("k".into()), value: Some("v".into()) })
    }

    #[test]
    fn actions_that_larder_does_not_have_are_refused_by_name() {
        let table = [
            (LifecycleRule { transitions: Some(vec![]), ..rule() }, "Transition"),
            (
                LifecycleRule {
                    noncurrent_version_expiration: Some(NoncurrentVersionExpiration::default()),
                    ..rule()
                },
                "NoncurrentVersionExpiration",
            ),
            (
                LifecycleRule { noncurrent_version_transitions: Some(vec![]), ..rule() },
                "NoncurrentVersionTransition",
            ),
            (expiration(None, None, Some(true)), "ExpiredObjectDeleteMarker"),
        ];
        for (rule, name) in table {
            match read(vec![rule]) {
                Err(Refusal::NotImplemented(what)) => assert!(what.starts_with(name), "{what}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        // To leave delete markers alone is no action.
        assert!(read(vec![expiration(Some(1), None, Some(false))]).is_ok());
    }

    #[test]
    fn illegal_rules_have_the_codes_of_s3() {
        let sizes = |least, most| {
            filter(|filter| {
                let and = LifecycleRuleAndOperator {
                    object_size_greater_than: least,
                    object_size_less_than: most,
                    ..LifecycleRuleAndOperator::default()
                };
                filter.and = Some(and);
            })
        };
        let both = filter(|filter| (filter.prefix, filter.tag) = (Some("a".into()), tag()));
        let table = [
            (expiration(None, None, Some(false)), "InvalidRequest"),
            (LifecycleRule { expiration: None, ..rule() }, "InvalidRequest"),
            (LifecycleRule { filter: None, ..rule() }, "InvalidRequest"),
            (LifecycleRule { prefix: Some("a".into()), ..rule() }, "InvalidRequest"),
            (both, "InvalidRequest"),
            (sizes(Some(5), Some(5)), "InvalidRequest"),
            (sizes(Some(-1), None), "InvalidArgument"),
            (expiration(Some(0), None, None), "InvalidArgument"),
            (expiration(Some(-1), None, None), "InvalidArgument"),
            (expiration(Some(1), Some(0), None), "InvalidRequest"),
            (expiration(None, Some(43_200_000_000), None), "InvalidArgument"),
            (expiration(None, None, None), "MalformedXML"),
            (
                LifecycleRule { status: ExpirationStatus::from_static("On"), ..rule() },
                "MalformedXML",
            ),
            (abort(None, rule()), "MalformedXML"),
            (abort(Some(1), filter(|filter| filter.tag = tag())), "InvalidRequest"),
            (LifecycleRule { id: Some("x".repeat(256)), ..rule() }, "InvalidArgument"),
        ];
        for (rule, expected) in table {
            let refused = s3s::S3Error::from(read(vec![rule.clone()]).unwrap_err());
            assert_eq!(refused.code().as_str(), expected, "{rule:?}");
        }
        assert_eq!(read(vec![]), Err(Refusal::MalformedXml));
        let twice = vec![LifecycleRule { id: Some("x".into()), ..rule() }; 2];
        assert!(matches!(read(twice), Err(Refusal::InvalidArgument(_))));
    }
}
