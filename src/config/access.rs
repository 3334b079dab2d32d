//! Declared buckets and keys.

use std::collections::BTreeSet;

use super::backends::sizes_but_zero;
use super::check::choice;
use super::finding::Findings;
use super::lifecycle;
use super::placement;
use super::placement::Holders;
use super::raw::RawBucket;
use super::raw::RawGrant;
use super::raw::RawKey;
use super::reader::Spot;
use super::schema::nearest;
use crate::base::limits::KEY_MAX;
use crate::model::AccessKey;
use crate::model::Action;
use crate::model::BucketName;
use crate::model::Grant;
use crate::model::Grants;
use crate::model::Placement;
use crate::model::access::ANY_BUCKET;
use crate::model::access::Actions;
use crate::model::access::PRESETS;
use crate::store::DeclaredBucket;

/// Whether files that are found below a bucket's name on a backend become its objects.
const IMPORT_RULES: &[(&str, bool)] = &[("report", false), ("import", true)];
/// Characters of a key's id, as AWS has them.
const ID_LEN: std::ops::RangeInclusive<usize> = 16..=128;
const SECRET_LEN: std::ops::RangeInclusive<usize> = 8..=128;

pub(crate) fn buckets(
    raws: &[RawBucket],
    defaults: &Placement,
    holders: &Holders<'_>,
    found: &mut Findings,
) -> Vec<DeclaredBucket> {
    let mut buckets: Vec<DeclaredBucket> = Vec::new();
    for raw in raws {
        let placement = placement::read(&raw.placement, defaults, found);
        if placement != *defaults {
            holders.check(&placement, &raw.placement, raw.at, found);
        }
        let quota = sizes_but_zero(&raw.quota, "quota", found);
        let lifecycle = lifecycle::check(&raw.lifecycle, found);
        let imports = choice(&raw.import, "import", IMPORT_RULES, found).unwrap_or(false);
        let max_uploads = raw.max_uploads.as_ref().map_or(0, |spot| spot.value);
        let Some(name) = raw.name.as_ref().and_then(|name| bucket_name(name, found)) else {
            continue;
        };
        if buckets.iter().any(|bucket| bucket.name == name) {
            let at = raw.name.as_ref().map(|spot| spot.at);
            found.wrong(at, format!("the bucket `{name}` is declared twice"));
        }
        buckets.push(DeclaredBucket { name, placement, max_uploads, quota, lifecycle, imports });
    }
    buckets
}

fn bucket_name(raw: &Spot<String>, found: &mut Findings) -> Option<BucketName> {
    match BucketName::new(&raw.value) {
        Ok(name) => Some(name),
        Err(why) => {
            found.wrong(raw.at, format!("`{}`: {why}", raw.value));
            None
        }
    }
}

pub(crate) fn keys(
    raws: &[RawKey],
    buckets: &[DeclaredBucket],
    found: &mut Findings,
) -> Vec<AccessKey> {
    let mut ids = BTreeSet::new();
    let mut keys = Vec::new();
    for raw in raws {
        if let Some(id) = &raw.id {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if !ID_LEN.contains(&id.value.len()) || !id.value.bytes().all(word) {
                let (least, most) = (ID_LEN.start(), ID_LEN.end());
                let text = format!("`{}` is not the id of a key", id.value);
                let hint = format!("an id has {least} to {most} letters, digits and `_`");
                found.wrong_hint(id.at, text, hint);
            }
            if !ids.insert(id.value.as_str()) {
                found.wrong(id.at, format!("the key `{}` is declared twice", id.value));
            }
        }
        check_secret(raw, found);
        let list: Vec<Grant> =
            raw.grants.iter().filter_map(|grant| read_grant(grant, buckets, found)).collect();
        let create_buckets = raw.create_buckets.as_ref().is_some_and(|flag| flag.value);
        if raw.grants.is_empty() && !create_buckets {
            let text = "this key may do nothing";
            let hint = "add `grants = [{ bucket = \"...\", preset = \"read-write\" }]`";
            found.doubtful(raw.at, text, hint);
        }
        let (Some(id), Some(secret)) = (&raw.id, &raw.secret) else { continue };
        keys.push(AccessKey {
            id: id.value.clone(),
            secret: secret.value.clone(),
            grants: Grants { create_buckets, list },
            declared: true,
        });
    }
    keys
}

/// A secret never appears in a message, only its length.
fn check_secret(raw: &RawKey, found: &mut Findings) {
    let Some(secret) = &raw.secret else {
        if !raw.has_secret {
            found.wrong_hint(
                raw.at,
                "[[key]] has no `secret`",
                "add `secret_file = \"PATH\"`, or `secret = \"...\"`",
            );
        }
        return;
    };
    let chars = secret.value.chars().count();
    let (least, most) = (SECRET_LEN.start(), SECRET_LEN.end());
    if !SECRET_LEN.contains(&chars) {
        found.wrong_hint(
            secret.at,
            format!("the secret has {chars} characters, it can have {least} to {most}"),
            "40 random letters and digits are usual",
        );
    } else if secret.value.trim() != secret.value || secret.value.chars().any(char::is_control) {
        let text = "the secret begins or ends with a blank, or has a control character";
        found.wrong_hint(secret.at, text, "clients could not be given it unchanged");
    }
}

fn read_grant(raw: &RawGrant, buckets: &[DeclaredBucket], found: &mut Findings) -> Option<Grant> {
    let actions = actions(raw, found);
    let prefix = raw.prefix.as_ref().map_or("", |prefix| prefix.value.as_str());
    if prefix.len() > KEY_MAX {
        let at = raw.prefix.as_ref().map(|prefix| prefix.at);
        found.wrong(at, format!("a prefix has at most {KEY_MAX} bytes, as keys have"));
    }
    let name = raw.bucket.as_ref()?;
    let bucket = match name.value.as_str() {
        ANY_BUCKET => None,
        _ => Some(bucket_name(name, found)?),
    };
    let declared = || buckets.iter().map(|bucket| bucket.name.as_str());
    if bucket.is_some()
        && !declared().any(|other| other == name.value)
        && let Some(near) = nearest(&name.value, declared())
    {
        let text = format!("the bucket `{}` is not declared here", name.value);
        let hint = format!("`{near}` is; if the other is meant, all is well");
        found.doubtful(name.at, text, hint);
    }
    Some(Grant { bucket, prefix: prefix.to_owned(), actions: actions? })
}

fn actions(raw: &RawGrant, found: &mut Findings) -> Option<Actions> {
    match (&raw.preset, &raw.allow) {
        (Some(preset), Some(_)) => {
            let text = "`preset` and `allow` are both given";
            found.wrong_hint(preset.at, text, "keep one of them");
            None
        }
        (Some(preset), None) => {
            let actions = Actions::preset(&preset.value);
            if actions.is_none() {
                unknown("preset", preset, PRESETS.into(), found);
            }
            actions
        }
        (None, Some(allow)) => {
            let mut list = Vec::new();
            for name in &allow.value {
                match Action::from_name(&name.value) {
                    Some(action) => list.push(action),
                    None => unknown("action", name, Action::ALL.map(Action::name).into(), found),
                }
            }
            if allow.value.is_empty() {
                found.wrong(allow.at, "`allow` is empty: the grant would allow nothing");
            }
            Some(Actions::of(&list))
        }
        (None, None) => {
            if !raw.has_actions {
                found.wrong_hint(
                    raw.at,
                    "a grant says what it allows",
                    "add `preset = \"read-write\"`, or `allow = [\"read\", \"list\"]`",
                );
            }
            None
        }
    }
}

fn unknown(what: &str, name: &Spot<String>, known: Vec<&str>, found: &mut Findings) {
    let hint = match nearest(&name.value, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("one of {}", known.join(", ")),
    };
    found.wrong_hint(name.at, format!("unknown {what} `{}`", name.value), hint);
}
