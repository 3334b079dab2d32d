//! Buckets, and what they wish for their blobs.

use std::fmt;
use std::net::Ipv4Addr;

use super::id::{BucketId, PlacementId};
use crate::base::Timestamp;
use crate::base::limits::REPLICAS_MAX;

/// A bucket's name, by S3's rules for general purpose buckets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Box<str>);

/// The name breaks the rule that the text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BucketNameError(&'static str);

impl BucketName {
    /// Checks `name` against "Amazon S3 User Guide: bucket naming rules".
    pub fn new(name: &str) -> Result<BucketName, BucketNameError> {
        let wrong = |why| Err(BucketNameError(why));
        if !(3..=63).contains(&name.len()) {
            return wrong("a bucket name has 3 to 63 characters");
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        if !bytes.iter().all(|&b| plain(b) || b == b'.' || b == b'-') {
            return wrong("a bucket name has only a-z, 0-9, '.' and '-'");
        }
        if !plain(bytes[0]) || !plain(bytes[bytes.len() - 1]) {
            return wrong("a bucket name begins and ends with a letter or a digit");
        }
        if name.contains("..") {
            return wrong("a bucket name has no two dots in a row");
        }
        if name.parse::<Ipv4Addr>().is_ok() {
            return wrong("a bucket name does not look like an IP address");
        }
        if ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|p| name.starts_with(p))
            || ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
                .iter()
                .any(|s| name.ends_with(s))
        {
            return wrong("this prefix or suffix is reserved by S3");
        }
        Ok(BucketName(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In which order backends with room are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Routing {
    /// The first in the order of the configuration.
    Pack,
    /// The one with the lowest used share.
    Spread,
}

/// How files on a backend are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Names {
    Readable,
    Opaque,
}

/// What a bucket wishes for its blobs. Blobs are shared only within one placement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// 1 to [`REPLICAS_MAX`].
    pub replicas: u32,
    /// Durable replicas before a write is acknowledged: 1 to `replicas`.
    pub min_replicas: u32,
    pub routing: Routing,
    /// Labels whose values must differ between the replicas of a blob, sorted.
    pub require_distinct: Vec<String>,
}

impl Placement {
    /// What is wrong with these wishes, if anything.
    pub fn fault(&self) -> Option<String> {
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            Some(format!("replicas is {}, it can be 1 to {REPLICAS_MAX}", self.replicas))
        } else if !(1..=self.replicas).contains(&self.min_replicas) {
            Some(format!(
                "min_replicas is {}, it can be 1 to replicas, which is {}",
                self.min_replicas, self.replicas
            ))
        } else {
            None
        }
    }
}

/// A bucket as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub id: BucketId,
    pub name: BucketName,
    pub created: Timestamp,
    pub placement_id: PlacementId,
    pub placement: Placement,
    /// Active multipart uploads it may have; 0 for no limit.
    pub max_uploads: u32,
    /// Bytes of its current objects and parts; `None` for no limit.
    pub quota: Option<u64>,
    /// Files that are found below its name on a backend become its objects.
    pub imports: bool,
    /// The configuration file declares it: S3 calls and the command line leave its wishes alone.
    pub declared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_s3() {
        for good in ["abc", "a.b", "a-b.c", "0ab", "192.168.0.1a", &"a".repeat(63)] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ab",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "Abc",
            "a_b",
            "192.168.0.1",
            "xn--abc",
            "a/b",
            "abc-s3alias",
            "äbc",
            &"a".repeat(64),
        ] {
            assert!(BucketName::new(bad).is_err(), "{bad}");
        }
    }
}
