//! What the operator's verbs ask of the store beside what requests do: buckets with wishes of
//! their own, keys changed in place, and the pages that `verify` walks.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Store;
use super::blob::stem_whole;
use super::bucket::DeclaredBucket;
use super::bucket::bucket_id_in_tx;
use super::bucket::bucket_wishes_in_tx;
use super::codec;
use super::data_dir::LOCK;
use super::error::StoreError;
use super::key::grant_insert_in_tx;
use super::key::key_declared_in_tx;
use super::key::key_put_in_tx;
use super::key::keys_in_tx;
use super::key::seal;
use super::placement::default_in_tx;
use super::placement::placement_read;
use super::queue::Lane;
use super::replica::Replica;
use super::replica::form_of;
use super::replica::state_of;
use super::sql::Sql;
use super::writer::Need;
use crate::base::FileLock;
use crate::model::AccessKey;
use crate::model::Action;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Bucket;
use crate::model::BucketName;
use crate::model::Grant;
use crate::model::Lifecycle;
use crate::model::Placement;
use crate::model::PlacementId;
use crate::model::ReplicaState;
use crate::model::Routing;
use crate::model::WriteId;
use crate::model::access::Actions;
use crate::model::path::path;
use crate::model::path::write_id;

/// What a bucket shall wish; whatever is `None` stays as it is, or as the defaults say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketWishes {
    pub replicas: Option<u32>,
    pub min_replicas: Option<u32>,
    pub routing: Option<Routing>,
    pub require_distinct: Option<Vec<String>>,
    /// 0 for no limit.
    pub max_uploads: Option<u32>,
    /// Bytes; 0 for no limit.
    pub quota: Option<u64>,
    /// Whether files that are found below its name on a backend become its objects.
    pub imports: Option<bool>,
}

impl BucketWishes {
    fn has_placement(&self) -> bool {
        self.replicas.is_some()
            || self.min_replicas.is_some()
            || self.routing.is_some()
            || self.require_distinct.is_some()
    }

    fn placement(&self, base: Placement) -> Placement {
        Placement {
            replicas: self.replicas.unwrap_or(base.replicas),
            min_replicas: self.min_replicas.unwrap_or(base.min_replicas),
            routing: self.routing.unwrap_or(base.routing),
            require_distinct: self.require_distinct.clone().unwrap_or(base.require_distinct),
        }
    }
}

/// Why wishes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// They contradict each other, with what they leave as it is included.
    #[error("{0}")]
    Impossible(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A replica whose bytes should be on its backend, and what they should be.
#[derive(Clone, Debug)]
pub struct StoredReplica {
    pub replica: Replica,
    pub blob: BlobId,
    pub size: u64,
    /// Not known yet of what was imported.
    pub hash: Option<[u8; 32]>,
}

impl Store {
    /// Whether another process, or this one, has the store of `data_dir` open. It holds the lock
    /// itself for a moment, so ask only where nobody is about to open the store.
    pub fn is_locked(data_dir: &Path) -> io::Result<bool> {
        Ok(FileLock::try_take(&data_dir.join(LOCK))?.is_none())
    }

    /// A bucket with the default wishes but for those given. Its creator, a key, is granted
    /// everything on it for as long as it exists.
    pub async fn bucket_create_with(
        &self,
        name: BucketName,
        wishes: BucketWishes,
        creator: Option<String>,
    ) -> Result<Arc<Bucket>, WishError> {
        let now = self.shared().clock.now();
        let wanted = name.clone();
        self.write(Lane::Request, Need::Durable, move |tx| {
            if bucket_id_in_tx(**tx, &name)?.is_some() {
                return Err(StoreError::BucketExists);
            }
            let default = default_in_tx(**tx)?;
            let placement = wishes.placement(placement_in_force_in_tx(**tx, default)?);
            if let Some(fault) = placement.fault() {
                return Ok(Err(WishError::Impossible(fault)));
            }
            let id = tx.next_seq();
            tx.run(
                "INSERT INTO buckets (id, name, created, placement, max_uploads, quota, declared,
                     follows, imports)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, ?7)",
                (
                    id,
                    name.as_str(),
                    now.0,
                    default.0,
                    wishes.max_uploads.unwrap_or(0),
                    wishes.quota.filter(|&quota| quota > 0),
                    wishes.imports.unwrap_or(false),
                ),
            )?;
            if wishes.has_placement() {
                let own = DeclaredBucket {
                    name: name.clone(),
                    placement,
                    max_uploads: wishes.max_uploads.unwrap_or(0),
                    quota: wishes.quota.filter(|&quota| quota > 0),
                    lifecycle: Lifecycle::default(),
                    imports: wishes.imports.unwrap_or(false),
                };
                bucket_wishes_in_tx(**tx, crate::model::BucketId(id), &own, false)?;
            }
            if let Some(creator) = creator {
                creator_grant_in_tx(**tx, &creator, &name, id)?;
                tx.marks.keys = true;
            }
            tx.marks.buckets = true;
            Ok(Ok(()))
        })
        .await??;
        // Somebody may have deleted it again.
        Ok(self.bucket(wanted.as_str()).ok_or(StoreError::NoSuchBucket)?)
    }

    /// Changes what an undeclared bucket wishes. It holds for new objects.
    pub async fn bucket_change(
        &self,
        name: BucketName,
        wishes: BucketWishes,
    ) -> Result<Arc<Bucket>, WishError> {
        let wanted = name.clone();
        self.write(Lane::Request, Need::Durable, move |tx| {
            let (id, is_declared) =
                bucket_id_in_tx(**tx, &name)?.ok_or(StoreError::NoSuchBucket)?;
            if is_declared {
                return Err(StoreError::Declared);
            }
            let now: Option<(PlacementId, u32, Option<u64>, bool)> = tx.one(
                "SELECT placement, max_uploads, quota, imports FROM buckets WHERE id = ?1",
                [id.0],
                |row| Ok((PlacementId(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?)),
            )?;
            let (placement_id, max_uploads, quota, imports) =
                now.ok_or(StoreError::NoSuchBucket)?;
            let placement = wishes.placement(placement_in_force_in_tx(**tx, placement_id)?);
            if let Some(fault) = placement.fault() {
                return Ok(Err(WishError::Impossible(fault)));
            }
            let max_uploads = wishes.max_uploads.unwrap_or(max_uploads);
            let quota = wishes.quota.or(quota).filter(|&quota| quota > 0);
            let imports = wishes.imports.unwrap_or(imports);
            if wishes.has_placement() {
                let lifecycle = Lifecycle::default();
                let own =
                    DeclaredBucket { name, placement, max_uploads, quota, lifecycle, imports };
                bucket_wishes_in_tx(**tx, id, &own, false)?;
            } else {
                tx.run(
                    "UPDATE buckets SET max_uploads = ?2, quota = ?3, imports = ?4 WHERE id = ?1",
                    (id.0, max_uploads, quota, imports),
                )?;
            }
            tx.marks.buckets = true;
            Ok(Ok(()))
        })
        .await??;
        Ok(self.bucket(wanted.as_str()).ok_or(StoreError::NoSuchBucket)?)
    }

    /// A key that nobody has yet. `Exists` when one has this id.
    pub async fn key_create(&self, key: AccessKey) -> Result<(), StoreError> {
        let sealed = seal(&self.shared().dir.host_key, &key)?;
        self.write(Lane::Request, Need::Durable, move |tx| {
            if key_declared_in_tx(**tx, &key.id)?.is_some() {
                return Err(StoreError::Exists);
            }
            key_put_in_tx(**tx, &key, &sealed)?;
            tx.marks.keys = true;
            Ok(())
        })
        .await
    }

    /// Changes a key that is not declared, and says what it is then. Whatever `change` makes of
    /// its id and its being declared is passed over.
    pub async fn key_change<F>(&self, id: &str, change: F) -> Result<AccessKey, StoreError>
    where
        F: FnOnce(&mut AccessKey) + Send + 'static,
    {
        let id = id.to_owned();
        let host_key = self.shared().dir.host_key;
        self.write(Lane::Request, Need::Durable, move |tx| {
            let all = keys_in_tx(**tx, &host_key)?;
            let found = all.into_iter().find(|key| key.id == id);
            let mut key = found.ok_or(StoreError::NoSuchAccessKey)?;
            if key.declared {
                return Err(StoreError::Declared);
            }
            change(&mut key);
            key.id = id;
            key.declared = false;
            let sealed = seal(&host_key, &key)?;
            key_put_in_tx(**tx, &key, &sealed)?;
            tx.marks.keys = true;
            Ok(key)
        })
        .await
    }

    /// Replicas of committed blobs, intents left out, in the order of their write ids: those
    /// after `after`, at most `max`.
    pub async fn replicas_page(
        &self,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<StoredReplica>, StoreError> {
        self.read(move |sql| {
            sql.all(REPLICAS_PAGE, (after.0, max), |row| {
                let write = WriteId(row.get(0)?);
                let born = row.get_ref(9)?.as_blob_or_null()?;
                let stem = stem_whole(row.get_ref(7)?.as_str()?, born);
                let replica = Replica {
                    write,
                    backend: BackendId(row.get(2)?),
                    path: path(&form_of(row.get(4)?, row.get(5)?), &stem, write),
                    state: state_of(row.get(3)?),
                    is_borrowed: row.get(10)?,
                };
                let (blob, size) = (BlobId(row.get(1)?), row.get(6)?);
                Ok(StoredReplica { replica, blob, size, hash: row.get(8)? })
            })
        })
        .await
    }

    /// `None` when the replica is not there any more.
    pub async fn replica_state(&self, write: WriteId) -> Result<Option<ReplicaState>, StoreError> {
        self.read(move |sql| {
            sql.one("SELECT state FROM replicas WHERE write = ?1", [write.0], |row| {
                Ok(state_of(row.get(0)?))
            })
        })
        .await
    }

    /// For each path on `backend` whether it is that of a replica or of a condemned path.
    pub async fn paths_known(
        &self,
        backend: BackendId,
        paths: Vec<String>,
    ) -> Result<Vec<bool>, StoreError> {
        self.read(move |sql| {
            let no: Option<u64> =
                sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
            let Some(no) = no else { return Ok(vec![false; paths.len()]) };
            paths.iter().map(|path| is_known_in_tx(sql, no, path)).collect()
        })
        .await
    }
}

pub(super) const REPLICAS_PAGE: &str =
    "SELECT r.write, r.blob, k.id, r.state, r.form, r.own, coalesce(r.bytes, b.size), b.stem,
         nullif(b.hash, x''), v.key, r.borrowed IS NOT NULL
     FROM replicas r CROSS JOIN blobs b ON b.id = r.blob CROSS JOIN backends k ON k.no = r.backend
     LEFT JOIN versions v ON v.seq = b.born
     WHERE r.write > ?1 AND r.state <> 0 AND b.refs > 0 ORDER BY r.write LIMIT ?2";

fn is_known_in_tx(sql: Sql<'_>, backend: u64, path: &str) -> Result<bool, StoreError> {
    let own = sql.one(
        "SELECT 1 FROM replicas WHERE backend = ?1 AND own = ?2
         UNION ALL
         SELECT 1 FROM condemned WHERE stamp IS NOT NULL AND backend = ?1 AND path = ?2",
        (backend, path),
        |_| Ok(()),
    )?;
    let Some(write) = write_id(path).filter(|_| own.is_none()) else { return Ok(own.is_some()) };
    let found = sql.one(
        "SELECT 1 FROM replicas WHERE write = ?1 AND backend = ?2
         UNION ALL SELECT 1 FROM condemned WHERE id = ?1 AND backend = ?2",
        (write.0, backend),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

fn placement_in_force_in_tx(sql: Sql<'_>, id: PlacementId) -> Result<Placement, StoreError> {
    let (mut placement, labels) = sql
        .one(
            "SELECT replicas, min_replicas, routing, require_distinct FROM placements
             WHERE id = ?1",
            [id.0],
            |row| placement_read(row, 0),
        )?
        .ok_or_else(|| StoreError::broken("a placement is not there"))?;
    placement.require_distinct = codec::labels_read(&labels)?;
    Ok(placement)
}

fn creator_grant_in_tx(
    sql: Sql<'_>,
    key: &str,
    bucket: &BucketName,
    id: u64,
) -> Result<(), StoreError> {
    if key_declared_in_tx(sql, key)?.is_none() {
        return Err(StoreError::NoSuchAccessKey);
    }
    let last: Option<Option<u64>> =
        sql.one("SELECT max(ordinal) FROM grants WHERE key = ?1", [key], |row| row.get(0))?;
    let ordinal = last.flatten().map_or(0, |last| last as usize + 1);
    let grant = Grant {
        bucket: Some(bucket.clone()),
        prefix: String::new(),
        actions: Actions::of(&Action::ALL),
    };
    grant_insert_in_tx(sql, key, ordinal, &grant, Some(id))
}
