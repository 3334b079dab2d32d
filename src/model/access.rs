//! Access keys and what they may do.
//!
//! A key has grants: a bucket (or all), a prefix of keys, and actions. What no grant allows is
//! refused. Listing wants the listed prefix inside the granted one.

use std::fmt;

use super::bucket::BucketName;
use super::key::ObjectKey;

/// What a grant may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Get and head objects, their attributes and tags; list the parts of an upload.
    Read,
    /// List objects and uploads; see that the bucket is there and where.
    List,
    /// Put, copy or complete onto a key that has no object, decided as the commit decides it; the
    /// multipart verbs.
    Create,
    /// What `Create` allows, onto any key; set tags.
    Write,
    /// Objects, uploads, tags.
    Delete,
    /// Delete the bucket and change its settings.
    Admin,
}

impl Action {
    pub const ALL: [Action; 6] =
        [Self::Read, Self::List, Self::Create, Self::Write, Self::Delete, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Create => "create",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    pub fn from_name(name: &str) -> Option<Action> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The names of [`Actions::preset`], the strongest last.
pub const PRESETS: [&str; 5] = ["read-only", "write-only", "append-only", "read-write", "admin"];
/// How a grant on every bucket is written.
pub const ANY_BUCKET: &str = "*";

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actions(u8);

impl Actions {
    pub fn of(actions: &[Action]) -> Actions {
        Actions(actions.iter().fold(0, |bits, action| bits | action.bit()))
    }

    /// The actions behind one of [`PRESETS`].
    pub fn preset(name: &str) -> Option<Actions> {
        use Action::*;
        Some(match name {
            "read-only" => Actions::of(&[Read, List]),
            "write-only" => Actions::of(&[Create, Write]),
            "append-only" => Actions::of(&[Create, List]),
            "read-write" => Actions::of(&[Read, List, Write, Delete]),
            "admin" => Actions::of(&Action::ALL),
            _ => return None,
        })
    }

    pub fn allow(self, action: Action) -> bool {
        self.0 & action.bit() != 0
            || (action == Action::Create && self.0 & Action::Write.bit() != 0)
    }

    /// For the store.
    pub fn bits(self) -> u8 {
        self.0
    }

    pub fn from_bits(bits: u8) -> Option<Actions> {
        (bits < 1 << Action::ALL.len()).then_some(Actions(bits))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `None` for every bucket.
    pub bucket: Option<BucketName>,
    /// Keys begin with this; empty for all.
    pub prefix: String,
    pub actions: Actions,
}

/// All that a key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub create_buckets: bool,
    pub list: Vec<Grant>,
}

impl Grants {
    /// Whether `action` on `key` is allowed.
    pub fn allow_key(&self, bucket: &BucketName, key: &ObjectKey, action: Action) -> bool {
        self.allow_prefix(bucket, key.as_str(), action)
    }

    /// Whether `action` on every key that begins with `prefix` is allowed.
    pub fn allow_prefix(&self, bucket: &BucketName, prefix: &str, action: Action) -> bool {
        self.on(bucket).any(|g| g.actions.allow(action) && prefix.starts_with(&g.prefix))
    }

    /// Whether `action` on the bucket as a whole is allowed: by a grant without a prefix.
    pub fn allow_bucket(&self, bucket: &BucketName, action: Action) -> bool {
        self.allow_prefix(bucket, "", action)
    }

    /// Whether the key may know that the bucket exists.
    pub fn see(&self, bucket: &BucketName) -> bool {
        self.on(bucket).next().is_some()
    }

    fn on(&self, bucket: &BucketName) -> impl Iterator<Item = &Grant> {
        self.list
            .iter()
            .filter(move |grant| grant.bucket.as_ref().is_none_or(|name| name == bucket))
    }
}

/// A key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    pub grants: Grants,
    /// The configuration file declares it.
    pub declared: bool,
}

/// Never shows the secret.
impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).field("grants", &self.grants).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str) -> BucketName {
        BucketName::new(name).unwrap()
    }

    #[test]
    fn a_grant_reaches_its_bucket_and_its_prefix_only() {
        let grants = Grants {
            create_buckets: false,
            list: vec![Grant {
                bucket: Some(bucket("photos")),
                prefix: "2026/".into(),
                actions: Actions::preset("read-write").unwrap(),
            }],
        };
        let key = |key: &str| ObjectKey::new(key).unwrap();
        assert!(grants.allow_key(&bucket("photos"), &key("2026/a"), Action::Write));
        assert!(!grants.allow_key(&bucket("photos"), &key("2025/a"), Action::Write));
        assert!(!grants.allow_key(&bucket("photos2"), &key("2026/a"), Action::Read));
        assert!(grants.allow_prefix(&bucket("photos"), "2026/01", Action::List));
        assert!(!grants.allow_prefix(&bucket("photos"), "20", Action::List));
        assert!(!grants.allow_bucket(&bucket("photos"), Action::List));
        assert!(!grants.allow_key(&bucket("photos"), &key("2026/a"), Action::Admin));
        assert!(grants.see(&bucket("photos")) && !grants.see(&bucket("other")));
    }

    #[test]
    fn writing_includes_creating() {
        assert!(Actions::of(&[Action::Write]).allow(Action::Create));
        assert!(!Actions::of(&[Action::Create]).allow(Action::Write));
    }
}
