//! The vocabulary: bucket, object, version, blob, replica, placement, key, checksum, rule.
//!
//! Values of these types are always legal; a constructor that returns one has checked it. There
//! is no I/O here and no knowledge of HTTP or SQL.

pub mod access;
pub mod bucket;
pub mod checksum;
pub mod condition;
pub mod fleet;
pub mod id;
pub mod key;
pub mod lifecycle;
pub mod path;
pub mod tags;
pub mod usage;
pub mod version;

pub use access::{AccessKey, Action, Grant, Grants};
pub use bucket::{Bucket, BucketName, Names, Placement, Routing};
pub use checksum::{Checksum, ChecksumAlgorithm, ChecksumType};
pub use condition::{EtagMatch, ReadConditions, WriteConditions};
pub use fleet::{CondemnReason, Duty, ReplicaState};
pub use id::{BackendId, BlobId, BucketId, PlacementId, UploadId, VersionSeq, WriteId};
pub use key::ObjectKey;
pub use lifecycle::{Expire, Lifecycle, Rule, RuleError, RuleWish};
pub use tags::Tags;
pub use usage::{Allowance, Amounts, Class, DayBegins, Limits, Operation, Period, Purpose, Tally};
pub use version::{Etag, Headers, UserMetadata, VersionMeta};
