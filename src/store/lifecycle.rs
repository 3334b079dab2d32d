//! Lifecycle rules of buckets, and what may be due by them.
//!
//! # Invariants
//!
//! - A bucket has at most one row, and none when it has no rule. The row goes with its bucket.
//! - `seq` is another after every change of the rules. Whatever is deleted for a rule is deleted
//!   in a transaction that finds the `seq` with which it was looked at: from the moment that a
//!   change of rules is answered, nothing goes by the old ones.
//! - An object expires only as the version, and with the tags, that were looked at.
//! - Rules that the configuration declares are its own: nobody else changes them, and they go when
//!   it does not declare them any more. They delete, so they are not kept as other wishes are.

use std::collections::BTreeSet;

use super::Store;
use super::WishError;
use super::bucket::bucket_id_in_tx;
use super::codec;
use super::error::StoreError;
use super::ledger::Turn;
use super::listing::successor;
use super::listing::text;
use super::queue::Lane;
use super::sql::Sql;
use super::tags::tags_in_tx;
use super::upload::abort_in_tx;
use super::upload::active_in_tx;
use super::version::current_delete_in_tx;
use super::version::current_in_tx;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BucketId;
use crate::model::BucketName;
use crate::model::Lifecycle;
use crate::model::ObjectKey;
use crate::model::Rule;
use crate::model::Tags;
use crate::model::UploadId;
use crate::model::VersionSeq;

/// The rules of one bucket as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketLifecycle {
    /// Another after every change.
    pub seq: u64,
    /// The configuration file declares them: S3 calls and the command line leave them alone.
    pub declared: bool,
    pub rules: Lifecycle,
}

/// A current object, looked at for its age.
#[derive(Clone, Debug)]
pub struct AgingObject {
    pub key: ObjectKey,
    pub seq: VersionSeq,
    pub size: u64,
    pub modified: Timestamp,
    /// `None`: they were not asked for.
    pub tags: Option<Tags>,
}

/// An active upload, looked at for its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgingUpload {
    pub key: ObjectKey,
    pub upload: UploadId,
    pub created: Timestamp,
}

impl Store {
    /// Every bucket that has rules, with the `seq` of these.
    pub async fn lifecycles(&self) -> Result<Vec<(BucketId, u64)>, StoreError> {
        self.read(|sql| {
            sql.all("SELECT bucket, seq FROM lifecycles ORDER BY bucket", [], |row| {
                Ok((BucketId(row.get(0)?), row.get(1)?))
            })
        })
        .await
    }

    /// `None` when the bucket has no rule.
    pub async fn lifecycle(&self, bucket: BucketId) -> Result<Option<BucketLifecycle>, StoreError> {
        self.read(move |sql| lifecycle_in_tx(sql, bucket)).await
    }

    /// Makes of the rules what `change` makes of them. `Declared` when they are the configuration's.
    pub async fn lifecycle_change<F>(
        &self,
        name: BucketName,
        change: F,
    ) -> Result<BucketLifecycle, WishError>
    where
        F: FnOnce(Vec<Rule>) -> Result<Lifecycle, String> + Send + 'static,
    {
        self.write(Lane::Request, Need::Durable, move |tx| {
            let bucket = undeclared_in_tx(**tx, &name)?;
            let before = lifecycle_in_tx(**tx, bucket)?;
            let before = before.map_or_else(Vec::new, |before| before.rules.rules().to_vec());
            let rules = match change(before) {
                Ok(rules) => rules,
                Err(why) => return Ok(Err(WishError::Impossible(why))),
            };
            let seq = tx.next_seq();
            match rules.is_empty() {
                true => drop_in_tx(**tx, bucket)?,
                false => put_in_tx(**tx, bucket, seq, false, &rules)?,
            }
            Ok(Ok(BucketLifecycle { seq, declared: false, rules }))
        })
        .await?
    }

    /// No rules are no error, so that it may be repeated. `Declared` as above.
    pub async fn lifecycle_delete(&self, name: BucketName) -> Result<(), StoreError> {
        self.free(Lane::Request, Need::Durable, move |tx| {
            let bucket = undeclared_in_tx(**tx, &name)?;
            drop_in_tx(**tx, bucket)
        })
        .await
    }

    /// Current objects whose keys begin with `prefix`, in the order of their keys: those after
    /// `after`, at most `max`.
    pub async fn objects_aging(
        &self,
        bucket: BucketId,
        prefix: String,
        after: Option<ObjectKey>,
        max: usize,
        with_tags: bool,
    ) -> Result<Vec<AgingObject>, StoreError> {
        self.read(move |sql| {
            let from = after.map_or_else(|| prefix.clone().into_bytes(), |key| behind(&key));
            let to = successor(prefix.as_bytes());
            let rows: Vec<(Vec<u8>, u64, u64, i64, usize)> =
                sql.all(OBJECTS_AGING, (bucket.0, from, to, max), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })?;
            let aging = |(bytes, seq, size, modified, tag_count): (Vec<u8>, _, _, _, usize)| {
                let tags = match with_tags {
                    false => None,
                    true if tag_count == 0 => Some(Tags::default()),
                    true => Some(tags_in_tx(sql, seq)?),
                };
                let (key, seq, modified) = (key(&bytes)?, VersionSeq(seq), Timestamp(modified));
                Ok(AgingObject { key, seq, size, modified, tags })
            };
            rows.into_iter().map(aging).collect()
        })
        .await
    }

    /// Active uploads whose keys begin with `prefix`, in the order of keys and ids: those after
    /// `after`, at most `max`.
    pub async fn uploads_aging(
        &self,
        bucket: BucketId,
        prefix: String,
        after: Option<(ObjectKey, UploadId)>,
        max: usize,
    ) -> Result<Vec<AgingUpload>, StoreError> {
        self.read(move |sql| {
            let to = successor(prefix.as_bytes());
            // Below every id.
            let first = || (prefix.into_bytes(), -1);
            let from = after.map_or_else(first, |(key, upload)| {
                (key.as_bytes().to_vec(), i64::try_from(upload.0).unwrap_or(i64::MAX))
            });
            let rows: Vec<(Vec<u8>, u64, i64)> =
                sql.all(UPLOADS_AGING, (bucket.0, from.0, from.1, to, max), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            let aging = |(bytes, upload, created): (Vec<u8>, _, _)| {
                let (upload, created) = (UploadId(upload), Timestamp(created));
                Ok(AgingUpload { key: key(&bytes)?, upload, created })
            };
            rows.into_iter().map(aging).collect()
        })
        .await
    }

    /// Deletes objects that are still what was looked at, as many of the first ones as one
    /// transaction of background work may; at least one. The answer says of each of these whether
    /// it was deleted. `Changed` when the rules are not those of `seq` any more.
    pub async fn objects_expire(
        &self,
        bucket: BucketId,
        seq: u64,
        objects: Vec<AgingObject>,
    ) -> Result<Vec<bool>, StoreError> {
        let now = self.shared().clock.now();
        // Cleanup deletes the bytes: that must not overtake what was promised of them.
        self.free(Lane::Work, Need::Durable, move |tx| {
            unchanged_in_tx(**tx, bucket, seq)?;
            let mut turn = Turn::begin(tx, now);
            let (mut results, mut rows) = (Vec::new(), 0);
            for object in &objects {
                let current = current_in_tx(**tx, bucket, &object.key)?;
                let current = current.filter(|current| current.seq == object.seq.0);
                let is_same = current.is_some() && has_same_tags_in_tx(**tx, object)?;
                if let Some(current) = current.filter(|_| is_same) {
                    rows += 1 + current.etag.parts.unwrap_or(0) as usize;
                    current_delete_in_tx(tx, &mut turn, bucket, &current)?;
                }
                results.push(is_same);
                if rows >= WORK_ROWS_MAX || results.len() >= WORK_ROWS_MAX {
                    break;
                }
            }
            turn.end(tx)?;
            Ok(results)
        })
        .await
    }

    /// Whether the upload was still active; then its parts are condemned. `Changed` as above. Where
    /// it is broken off, what is left of the upload is as due as before.
    pub async fn upload_expire(
        &self,
        bucket: BucketId,
        seq: u64,
        aging: AgingUpload,
    ) -> Result<bool, StoreError> {
        loop {
            match self.upload_expire_some(bucket, seq, aging.clone()).await {
                Ok(false) => {}
                Err(StoreError::NoSuchUpload) => return Ok(false),
                gone => return gone,
            }
        }
    }

    /// As many parts as one transaction of background work may take; whether the upload is gone.
    pub(super) async fn upload_expire_some(
        &self,
        bucket: BucketId,
        seq: u64,
        aging: AgingUpload,
    ) -> Result<bool, StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| {
            unchanged_in_tx(**tx, bucket, seq)?;
            active_in_tx(**tx, aging.upload, bucket, &aging.key)?;
            abort_in_tx(tx, (aging.upload, bucket), WORK_ROWS_MAX, now)
        })
        .await
    }
}

pub(super) const OBJECTS_AGING: &str = "SELECT key, seq, size, modified, tags FROM versions
     WHERE current = 1 AND bucket = ?1 AND key >= ?2 AND key < ?3 AND marker = 0
     ORDER BY key LIMIT ?4";

pub(super) const UPLOADS_AGING: &str = "SELECT key, id, created FROM uploads
     WHERE result IS NULL AND bucket = ?1 AND (key, id) > (?2, ?3) AND key < ?4
     ORDER BY key, id LIMIT ?5";

fn behind(key: &ObjectKey) -> Vec<u8> {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next
}

fn key(bytes: &[u8]) -> Result<ObjectKey, StoreError> {
    ObjectKey::new(text(bytes)?).map_err(|_| StoreError::broken("a stored key is too long"))
}

/// The rules that a generation of the configuration declares take the place of all others, and
/// those of earlier generations go. Rules that stay as they were keep their `seq`.
pub(super) fn lifecycles_declare_in_tx(
    tx: &mut Tx<'_>,
    declared: &[(BucketId, &Lifecycle)],
) -> Result<(), StoreError> {
    let mut kept = BTreeSet::new();
    for (bucket, rules) in declared.iter().filter(|(_, rules)| !rules.is_empty()) {
        kept.insert(bucket.0);
        let before = lifecycle_in_tx(**tx, *bucket)?;
        if before.is_none_or(|before| !before.declared || before.rules != **rules) {
            let seq = tx.next_seq();
            put_in_tx(**tx, *bucket, seq, true, rules)?;
        }
    }
    let known: Vec<u64> =
        tx.all("SELECT bucket FROM lifecycles WHERE declared = 1", [], |row| row.get(0))?;
    let gone = known.into_iter().filter(|bucket| !kept.contains(bucket));
    gone.map(BucketId).try_for_each(|bucket| drop_in_tx(**tx, bucket))
}

fn lifecycle_in_tx(sql: Sql<'_>, bucket: BucketId) -> Result<Option<BucketLifecycle>, StoreError> {
    let found: Option<(u64, bool, Vec<u8>)> = sql.one(
        "SELECT seq, declared, rules FROM lifecycles WHERE bucket = ?1",
        [bucket.0],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let Some((seq, declared, rules)) = found else { return Ok(None) };
    Ok(Some(BucketLifecycle { seq, declared, rules: codec::lifecycle_read(&rules)? }))
}

/// The bucket, if its rules may be changed.
fn undeclared_in_tx(sql: Sql<'_>, name: &BucketName) -> Result<BucketId, StoreError> {
    let (bucket, _) = bucket_id_in_tx(sql, name)?.ok_or(StoreError::NoSuchBucket)?;
    let declared =
        sql.one("SELECT declared FROM lifecycles WHERE bucket = ?1", [bucket.0], |row| row.get(0))?;
    if declared == Some(true) { Err(StoreError::Declared) } else { Ok(bucket) }
}

fn put_in_tx(
    sql: Sql<'_>,
    bucket: BucketId,
    seq: u64,
    is_declared: bool,
    rules: &Lifecycle,
) -> Result<(), StoreError> {
    sql.run(
        "INSERT INTO lifecycles (bucket, seq, declared, rules) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (bucket) DO UPDATE SET seq = excluded.seq, declared = excluded.declared,
             rules = excluded.rules",
        (bucket.0, seq, is_declared, codec::lifecycle(rules)),
    )?;
    Ok(())
}

fn drop_in_tx(sql: Sql<'_>, bucket: BucketId) -> Result<(), StoreError> {
    sql.run("DELETE FROM lifecycles WHERE bucket = ?1", [bucket.0])?;
    Ok(())
}

fn unchanged_in_tx(sql: Sql<'_>, bucket: BucketId, seq: u64) -> Result<(), StoreError> {
    let now: Option<u64> =
        sql.one("SELECT seq FROM lifecycles WHERE bucket = ?1", [bucket.0], |row| row.get(0))?;
    if now == Some(seq) { Ok(()) } else { Err(StoreError::Changed) }
}

/// Tags are replaced without a new version.
fn has_same_tags_in_tx(sql: Sql<'_>, object: &AgingObject) -> Result<bool, StoreError> {
    match &object.tags {
        None => Ok(true),
        Some(tags) => Ok(tags_in_tx(sql, object.seq.0)? == *tags),
    }
}
