//! What the operator's verbs are asked and what they answer, as JSON has it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;

use super::duties::DrainView;
use super::error::ApiError;
use super::usage::ReachedView;
use crate::base::Timestamp;
use crate::engine::BackendState;
use crate::engine::BreakerState;
use crate::engine::BucketUsage;
use crate::engine::BucketWishes;
use crate::engine::Condition;
use crate::engine::Verified;
use crate::engine::VerifyProgress;
use crate::model::AccessKey;
use crate::model::Action;
use crate::model::Bucket;
use crate::model::BucketName;
use crate::model::Grant;
use crate::model::Routing;
pub use crate::model::access::ANY_BUCKET;
use crate::model::access::Actions;
pub use crate::model::access::PRESETS;

pub const ROUTINGS: [(&str, Routing); 2] = [("pack", Routing::Pack), ("spread", Routing::Spread)];

/// What a bucket shall wish. What is left out stays as it is, or as the defaults say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// `pack` or `spread`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_distinct: Option<Vec<String>>,
    /// 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uploads: Option<u32>,
    /// Bytes; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Whether files that are found below its name on a backend become its objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imports: Option<bool>,
}

impl Wishes {
    pub(super) fn read(&self) -> Result<BucketWishes, ApiError> {
        let routing = |name: &String| match ROUTINGS.iter().find(|(known, _)| known == name) {
            Some((_, routing)) => Ok(*routing),
            None => Err(ApiError::invalid(format!("`{name}` is no routing: pack or spread"))),
        };
        Ok(BucketWishes {
            replicas: self.replicas,
            min_replicas: self.min_replicas,
            routing: self.routing.as_ref().map(routing).transpose()?,
            require_distinct: self.require_distinct.clone(),
            max_uploads: self.max_uploads,
            quota: self.quota,
            imports: self.imports,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBucket {
    pub name: String,
    #[serde(default)]
    pub wishes: Wishes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketView {
    pub name: String,
    pub created: String,
    /// The configuration file declares it.
    pub declared: bool,
    pub replicas: u32,
    pub min_replicas: u32,
    pub routing: String,
    pub require_distinct: Vec<String>,
    /// 0: no limit.
    pub max_uploads: u32,
    pub quota: Option<u64>,
    /// Files that are found below its name on a backend become its objects.
    pub imports: bool,
    pub objects: u64,
    /// Of current objects and of parts.
    pub bytes: u64,
    pub uploads: u64,
    /// What of its wishes cannot be fulfilled now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl BucketView {
    pub(super) fn new(bucket: &Bucket, usage: BucketUsage, warnings: Vec<String>) -> BucketView {
        let routing = ROUTINGS.iter().find(|(_, routing)| *routing == bucket.placement.routing);
        BucketView {
            name: bucket.name.to_string(),
            created: rfc3339(bucket.created),
            declared: bucket.declared,
            replicas: bucket.placement.replicas,
            min_replicas: bucket.placement.min_replicas,
            routing: routing.map_or_else(String::new, |(name, _)| (*name).to_owned()),
            require_distinct: bucket.placement.require_distinct.clone(),
            max_uploads: bucket.max_uploads,
            quota: bucket.quota,
            imports: bucket.imports,
            objects: usage.objects,
            bytes: usage.bytes,
            uploads: usage.uploads,
            warnings,
        }
    }
}

/// A grant: `preset` or `allow`, on a bucket or on `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantView {
    pub bucket: String,
    #[serde(default)]
    pub prefix: String,
    /// In answers it is there when the actions are those of a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// In answers it is always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
}

impl GrantView {
    pub(super) fn new(grant: &Grant) -> GrantView {
        let held = |action: &Action| grant.actions.bits() & Actions::of(&[*action]).bits() != 0;
        let allow = Action::ALL.iter().filter(|a| held(a)).map(|a| a.name().to_owned()).collect();
        let preset = PRESETS.iter().find(|name| Actions::preset(name) == Some(grant.actions));
        GrantView {
            bucket: grant.bucket.as_ref().map_or(ANY_BUCKET, BucketName::as_str).to_owned(),
            prefix: grant.prefix.clone(),
            preset: preset.map(|name| (*name).to_owned()),
            allow: Some(allow),
        }
    }

    pub(super) fn read(&self) -> Result<Grant, ApiError> {
        let bucket = match self.bucket.as_str() {
            ANY_BUCKET => None,
            name => Some(bucket_name(name)?),
        };
        if self.prefix.len() > crate::base::limits::KEY_MAX {
            return Err(ApiError::invalid("the prefix is longer than a key can be"));
        }
        let actions = match (&self.preset, &self.allow) {
            (Some(preset), None) => Actions::preset(preset).ok_or_else(|| {
                let all = PRESETS.join(", ");
                ApiError::invalid(format!("`{preset}` is no preset; the presets are {all}"))
            })?,
            (None, Some(allow)) if !allow.is_empty() => {
                let actions: Result<Vec<Action>, ApiError> =
                    allow.iter().map(|name| action(name)).collect();
                Actions::of(&actions?)
            }
            _ => return Err(ApiError::invalid("a grant has either `preset` or `allow`")),
        };
        Ok(Grant { bucket, prefix: self.prefix.clone(), actions })
    }
}

pub(super) fn bucket_name(name: &str) -> Result<BucketName, ApiError> {
    BucketName::new(name).map_err(|why| ApiError::invalid(format!("`{name}`: {why}")))
}

fn action(name: &str) -> Result<Action, ApiError> {
    Action::from_name(name).ok_or_else(|| {
        let all = Action::ALL.map(Action::name).join(", ");
        ApiError::invalid(format!("`{name}` is no action; the actions are {all}"))
    })
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[serde(default)]
    pub create_buckets: bool,
    #[serde(default)]
    pub grants: Vec<GrantView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedKey {
    /// Instead of all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Vec<GrantView>>,
    /// Beside what it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<GrantView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_buckets: Option<bool>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_secret: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    pub id: String,
    /// Only in the answer to what made it: it is shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The configuration file declares it.
    pub declared: bool,
    pub create_buckets: bool,
    pub grants: Vec<GrantView>,
}

/// Never shows the secret.
impl fmt::Debug for KeyView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyView").field("id", &self.id).field("grants", &self.grants).finish()
    }
}

impl KeyView {
    /// Without the secret.
    pub(super) fn new(key: &AccessKey) -> KeyView {
        KeyView {
            id: key.id.clone(),
            secret: None,
            declared: key.declared,
            create_buckets: key.grants.create_buckets,
            grants: key.grants.list.iter().map(GrantView::new).collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// `None` before it was added.
    pub id: Option<String>,
    pub name: String,
    pub service: String,
    /// `present`, `absent`, or `new`: added by the next start of the server.
    pub state: String,
    pub location: String,
    pub quota: Option<u64>,
    pub used: u64,
    pub reserved: u64,
    pub orphan: u64,
    /// Bytes that still fit; `None` when nothing known bounds them.
    pub free: Option<u64>,
    pub rows: u64,
    /// `None` where nothing is called: without a server, or before it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// The limit that keeps it from being used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<ReachedView>,
    /// Whether the owner limits what it may use.
    #[serde(default)]
    pub limited: bool,
    /// `in use`, `draining`, `away` (absent for so long that its replicas do not count) or
    /// `removed`.
    #[serde(default)]
    pub duty: String,
    /// Since when it cannot be used, while it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_since: Option<String>,
    /// How far it is emptied, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}

/// How far a backend is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerView {
    /// `closed`, `open` or `half-open`.
    pub state: String,
    /// In a row, while it is closed.
    pub failures: u32,
    /// How long ago it left the closed state, in whole seconds.
    pub since_seconds: Option<u64>,
    /// When an open one is tried again at the earliest, in whole seconds, rounded up.
    pub retry_in_seconds: Option<u64>,
    /// The failure that keeps it open.
    pub why: Option<String>,
}

impl BreakerView {
    fn new(breaker: crate::engine::BreakerView) -> BreakerView {
        let state = match breaker.state {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        };
        BreakerView {
            state: state.to_owned(),
            failures: breaker.failures,
            since_seconds: breaker.since.map(|since| since.as_secs()),
            retry_in_seconds: breaker.retry_in.map(|retry| retry.as_millis().div_ceil(1000) as u64),
            why: breaker.why,
        }
    }
}

impl BackendView {
    pub(super) fn new(state: BackendState, service: String) -> BackendView {
        let row = state.row;
        BackendView {
            id: Some(row.id.to_string()),
            name: row.name,
            service: state.service.unwrap_or(service),
            state: if state.is_present { "present" } else { "absent" }.to_owned(),
            location: row.location,
            quota: row.quota,
            used: row.used,
            reserved: row.reserved,
            orphan: row.orphan,
            free: state.free,
            rows: row.rows,
            breaker: state.breaker.map(BreakerView::new),
            reached: state.reached.map(ReachedView::new),
            limited: state.limits.is_some_and(|limits| limits.is_set()),
            duty: row.duty.name().to_owned(),
            absent_since: row.absent_since.map(rfc3339),
            drain: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyWish {
    #[serde(default)]
    pub backends: bool,
    #[serde(default)]
    pub read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    pub clean: bool,
    pub faults: Vec<String>,
    /// Faults that are counted and not told.
    pub more_faults: u64,
    pub replicas: u64,
    pub bytes: u64,
    /// Files on the backends that are not Larder's; `None` when it was not looked.
    pub foreign: Option<u64>,
    /// Files of Larder's own form that no row knows.
    pub debris: Option<u64>,
}

impl From<Verified> for VerifyView {
    fn from(found: Verified) -> VerifyView {
        VerifyView {
            clean: found.is_clean(),
            faults: found.faults,
            more_faults: found.more_faults,
            replicas: found.replicas,
            bytes: found.bytes,
            foreign: found.foreign,
            debris: found.debris,
        }
    }
}

/// How far a verify is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyFar {
    pub replicas: u64,
    pub bytes: u64,
    /// Replicas there were when it began.
    pub total: u64,
}

impl VerifyFar {
    pub(super) fn new(progress: &VerifyProgress) -> VerifyFar {
        VerifyFar {
            replicas: progress.replicas.load(Ordering::Relaxed),
            bytes: progress.bytes.load(Ordering::Relaxed),
            total: progress.total.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    pub version: String,
    /// `ready` or `stopping`.
    pub state: String,
    pub pid: u32,
    pub started: String,
    /// `well`; `tight`: nothing but deletes and cleanup; `failing`: nothing can be written.
    #[serde(default)]
    pub store: String,
    /// Requests refused since the start, by why.
    #[serde(default)]
    pub refusals: BTreeMap<String, u64>,
}

pub(super) fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Well => "well",
        Condition::Tight => "tight",
        Condition::Failing => "failing",
    }
}

/// The moment as RFC 3339 has it, in UTC and whole seconds.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let known = time::OffsetDateTime::from_unix_timestamp(at.seconds()).ok();
    known
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grant_is_read_back_from_what_is_shown() {
        for name in PRESETS {
            let shown = GrantView {
                bucket: "photos".into(),
                prefix: "2026/".into(),
                preset: Some(name.into()),
                allow: None,
            };
            let grant = shown.read().unwrap();
            let again = GrantView::new(&grant);
            assert_eq!(again.preset.as_deref(), Some(name));
            assert_eq!(GrantView { preset: None, ..again }.read().unwrap(), grant);
        }
        let any = GrantView {
            bucket: "*".into(),
            prefix: String::new(),
            preset: None,
            allow: Some(vec!["read".into(), "delete".into()]),
        };
        assert_eq!(GrantView::new(&any.read().unwrap()), any);
    }

    #[test]
    fn wrong_grants_say_what_is_wrong() {
        let good = GrantView {
            bucket: "photos".into(),
            prefix: String::new(),
            preset: Some("admin".into()),
            allow: None,
        };
        let with = |change: fn(&mut GrantView)| {
            let mut grant = good.clone();
            change(&mut grant);
            grant.read().unwrap_err().message
        };
        assert!(with(|g| g.bucket = "No".into()).contains("`No`"));
        assert!(with(|g| g.preset = Some("king".into())).contains("read-only"));
        assert!(with(|g| g.preset = None).contains("either"));
        assert!(with(|g| g.allow = Some(vec!["read".into()])).contains("either"));
        assert!(with(|g| (g.preset, g.allow) = (None, Some(vec!["fly".into()]))).contains("`fly`"));
        assert!(with(|g| (g.preset, g.allow) = (None, Some(vec![]))).contains("either"));
        assert!(with(|g| g.prefix = "a".repeat(2000)).contains("longer"));
    }

    #[test]
    fn times_are_whole_seconds_in_utc() {
        assert_eq!(rfc3339(Timestamp(1_767_225_600_999_999)), "2026-01-01T00:00:00Z");
    }
}
