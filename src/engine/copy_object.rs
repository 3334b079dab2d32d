//! Copying: references within one placement, bytes between two.
//!
//! The source is looked at first, for the conditions on it; the transaction that adds the
//! references then demands that the very same version is still current, and when it is not, all
//! begins again. Blobs with fewer good replicas than the destination demands are replicated
//! before. Between placements the source streams through Larder into new blobs.

use std::sync::Arc;

use futures_util::StreamExt;

use super::Engine;
use super::EngineError;
use super::copy_blob::CopyBlobError;
use super::copy_blob::Ending;
use super::error::BodyError;
use super::hash::BodyHash;
use super::hash::Wanted;
use super::put_object::detached;
use super::request::Body;
use super::request::CopyObject;
use super::request::Expected;
use super::request::GetOptions;
use super::request::PutObject;
use super::request::RangeWish;
use super::request::Stored;
use super::request::UploadPart;
use super::request::UploadPartCopy;
use super::write::Hindrance;
use super::write::hindrance;
use crate::base::chain;
use crate::base::limits::PART_NUMBER_MAX;
use crate::base::limits::PART_SIZE_MAX;
use crate::base::limits::PUT_SIZE_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Bucket;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::model::ObjectKey;
use crate::model::ReadConditions;
use crate::model::condition::ReadVerdict;
use crate::store::CopyPart;
use crate::store::CopyVersion;
use crate::store::CopyWhen;
use crate::store::Head;
use crate::store::NewMeta;
use crate::store::PartInfo;
use crate::store::StoreError;

/// How often a copy begins again because its source changed under it.
const TRIES: u32 = 5;

/// And because replicas were missing: each time every blob that lacks some gets one.
pub(super) fn tries(bucket: &Bucket) -> u32 {
    TRIES + bucket.placement.min_replicas
}

impl Engine {
    /// Copies the current version of an object, of whatever bucket, with its tags, headers and
    /// metadata or with new ones.
    pub async fn copy_object(self: &Arc<Self>, copy: CopyObject) -> Result<Stored, EngineError> {
        let engine = Arc::clone(self);
        detached(async move { engine.copy_in_task(copy).await }).await
    }

    async fn copy_in_task(self: &Arc<Self>, copy: CopyObject) -> Result<Stored, EngineError> {
        let bucket = self.bucket(&copy.bucket)?;
        for _ in 0..tries(&bucket) {
            let source = self.bucket(&copy.source_bucket)?;
            let head = self.source(&source, &copy.source_key, &copy.source_conditions).await?;
            if head.meta.size > PUT_SIZE_MAX {
                return Err(EngineError::TooLarge { size: head.meta.size, max: PUT_SIZE_MAX });
            }
            if source.placement_id != bucket.placement_id {
                match self.copy_bytes_over(&source, &bucket, head, &copy).await? {
                    Some(stored) => return Ok(stored),
                    None => continue,
                }
            }
            let wanted = self.wanted_checksums(&source, &copy, &head).await;
            let Some(checksums) = unless_changed(wanted)? else { continue };
            let request = CopyVersion {
                source_bucket: source.id,
                source_key: copy.source_key.clone(),
                source_seq: head.seq,
                bucket: bucket.id,
                key: copy.key.clone(),
                conditions: copy.conditions.clone(),
                create_only: copy.create_only,
                headers: copy.headers.clone(),
                tags: copy.tags.clone(),
                etag: None,
                checksums: checksums.clone().map(|c| (c, ChecksumType::FullObject)),
                present: self.present(),
            };
            match self.store.version_copy(request).await {
                Ok(committed) => {
                    let kind = checksums.as_ref().map(|_| ChecksumType::FullObject);
                    return Ok(Stored {
                        etag: head.meta.etag,
                        size: head.meta.size,
                        checksum_type: kind.unwrap_or(head.meta.checksum_type),
                        checksums: checksums.unwrap_or(head.meta.checksums),
                        modified: committed.modified,
                    });
                }
                Err(StoreError::Changed) => (),
                Err(StoreError::TooFewReplicas(blobs)) => self.replicate(&blobs, &bucket).await?,
                Err(StoreError::OtherPlacement) => {
                    let copied = self.copy_bytes_over(&source, &bucket, head, &copy).await?;
                    if let Some(stored) = copied {
                        return Ok(stored);
                    }
                }
                Err(err) => return Err(err.into()),
            }
        }
        Err(EngineError::Busy)
    }

    /// The source as it is now, when its conditions hold.
    async fn source(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        conditions: &ReadConditions,
    ) -> Result<Head, EngineError> {
        let head = self.store.object_head(bucket.id, key.clone()).await?;
        match conditions.verdict(&head.meta.etag, head.meta.modified) {
            ReadVerdict::Proceed => Ok(head),
            ReadVerdict::NotModified | ReadVerdict::Failed => {
                Err(EngineError::SourceConditionFailed)
            }
        }
    }

    /// The checksum that the copy shall have, when it is one that the source does not have.
    async fn wanted_checksums(
        self: &Arc<Self>,
        source: &Bucket,
        copy: &CopyObject,
        head: &Head,
    ) -> Result<Option<Vec<crate::model::Checksum>>, EngineError> {
        let Some(algorithm) = copy.algorithm else { return Ok(None) };
        let has = head.meta.checksum_type == ChecksumType::FullObject
            && head.meta.checksums.iter().any(|c| c.algorithm() == algorithm);
        if has {
            return Ok(None);
        }
        let wanted = Wanted { md5: false, sha256: false, algorithms: vec![algorithm] };
        let options = same_version(head, None);
        let hash = self.hash_of(source, &copy.source_key, options, wanted).await?;
        Ok(Some(hash.checksums))
    }

    /// Hashes what a GET with these options would send.
    async fn hash_of(
        self: &Arc<Self>,
        bucket: &Bucket,
        key: &ObjectKey,
        options: GetOptions,
        wanted: Wanted,
    ) -> Result<BodyHash, EngineError> {
        let got = self.get_object(bucket.name.as_str(), key.clone(), options).await?;
        let mut body = got.body;
        let mut hasher = self.hashers.begin(wanted);
        while let Some(bytes) = body.next().await {
            hasher.update(bytes?).await;
        }
        Ok(hasher.finish().await)
    }

    /// Between placements: the source is read and written anew. `None` when it changed meanwhile.
    async fn copy_bytes_over(
        self: &Arc<Self>,
        source: &Bucket,
        bucket: &Bucket,
        head: Head,
        copy: &CopyObject,
    ) -> Result<Option<Stored>, EngineError> {
        let tags = match copy.tags.clone() {
            Some(tags) => tags,
            None if head.tag_count == 0 => Default::default(),
            None => self.store.object_tags(source.id, copy.source_key.clone()).await?,
        };
        let (headers, user) = match copy.headers.clone() {
            Some(given) => given,
            None => (head.meta.headers.clone(), head.meta.user.clone()),
        };
        let algorithms = match copy.algorithm {
            Some(algorithm) => vec![algorithm],
            None => head.meta.checksums.iter().map(|c| c.algorithm()).collect(),
        };
        let body = self.body_of(source, &copy.source_key, &head, None, algorithms).await;
        let Some(body) = unless_changed(body)? else { return Ok(None) };
        let put = PutObject {
            bucket: copy.bucket.clone(),
            key: copy.key.clone(),
            meta: NewMeta { headers, user, tags },
            conditions: copy.conditions.clone(),
            create_only: copy.create_only,
            body,
        };
        self.put_into(bucket, put).await.map(Some)
    }

    /// A range of exactly this version (inclusive), as a body to be written.
    async fn body_of(
        self: &Arc<Self>,
        bucket: &Bucket,
        key: &ObjectKey,
        head: &Head,
        range: Option<(u64, u64)>,
        algorithms: Vec<ChecksumAlgorithm>,
    ) -> Result<Body, EngineError> {
        let options = same_version(head, range);
        let got = self.get_object(bucket.name.as_str(), key.clone(), options).await?;
        let stream = got.body.map(|bytes| bytes.map_err(|_| BodyError::Source));
        Ok(Body {
            size: range.map_or(head.meta.size, |(first, last)| last - first + 1),
            stream: stream.boxed(),
            expected: Expected { algorithms, ..Expected::default() },
            trailer: None,
            draws: false,
            waits: false,
        })
    }

    /// Copies a range of an object into a part.
    pub async fn upload_part_copy(
        self: &Arc<Self>,
        part: UploadPartCopy,
    ) -> Result<PartInfo, EngineError> {
        let engine = Arc::clone(self);
        detached(async move { engine.part_copy_in_task(part).await }).await
    }

    async fn part_copy_in_task(
        self: &Arc<Self>,
        part: UploadPartCopy,
    ) -> Result<PartInfo, EngineError> {
        if !(1..=PART_NUMBER_MAX).contains(&part.number) {
            return Err(EngineError::Invalid("a part number is 1 to 10000"));
        }
        let bucket = self.bucket(&part.bucket)?;
        let upload = self.store.upload_find(part.upload, bucket.id, part.key.clone()).await?;
        for _ in 0..tries(&bucket) {
            let source = self.bucket(&part.source_bucket)?;
            let head = self.source(&source, &part.source_key, &part.source_conditions).await?;
            let (offset, length) = match part.range {
                Some((first, last)) if first > last || last >= head.meta.size => {
                    return Err(EngineError::Invalid("the copied range lies within the source"));
                }
                Some((first, last)) => (first, last - first + 1),
                None => (0, head.meta.size),
            };
            if length > PART_SIZE_MAX {
                return Err(EngineError::TooLarge { size: length, max: PART_SIZE_MAX });
            }
            let range = (length > 0).then(|| (offset, offset + length - 1));
            let algorithm = upload.checksum.map_or(ChecksumAlgorithm::Crc64Nvme, |(a, _)| a);
            if length == 0 || source.placement_id != upload.placement {
                let algorithms = vec![algorithm];
                let body = self.body_of(&source, &part.source_key, &head, range, algorithms).await;
                let Some(body) = unless_changed(body)? else { continue };
                let (bucket, key) = (part.bucket, part.key);
                let (upload, number) = (part.upload, part.number);
                return self.part_in_task(UploadPart { bucket, key, upload, number, body }).await;
            }
            let wanted = Wanted { md5: true, sha256: false, algorithms: vec![algorithm] };
            let options = same_version(&head, range);
            let hash = self.hash_of(&source, &part.source_key, options, wanted).await;
            let Some(hash) = unless_changed(hash)? else { continue };
            let request = CopyPart {
                upload: part.upload,
                bucket: bucket.id,
                key: part.key.clone(),
                number: part.number,
                source_bucket: source.id,
                source_key: part.source_key.clone(),
                source_seq: head.seq,
                offset,
                length,
                md5: hash.md5.expect("the MD5 was asked for"),
                checksums: hash.checksums,
                present: self.present(),
            };
            match self.store.part_copy(request).await {
                Err(StoreError::Changed) => (),
                Err(StoreError::TooFewReplicas(blobs)) => self.replicate(&blobs, &bucket).await?,
                other => return Ok(other?),
            }
        }
        Err(EngineError::Busy)
    }

    /// Backends whose replicas count now: present ones that last.
    pub(super) fn present(&self) -> Vec<BackendId> {
        let fleet = self.fleet.load();
        let counting = fleet.all().iter().filter(|b| b.is_present() && b.is_durable());
        counting.map(|backend| backend.id()).collect()
    }

    /// One more replica for each of these blobs. 503 when that cannot be done now.
    pub(super) async fn replicate(
        self: &Arc<Self>,
        blobs: &[BlobId],
        bucket: &Bucket,
    ) -> Result<(), EngineError> {
        let fleet = self.fleet.load_full();
        for blob in blobs {
            let facts = match self.store.blob(*blob).await {
                // The source changed: the next look tells.
                Err(StoreError::Superseded) => continue,
                facts => facts?,
            };
            let choose = self.copy_chooser(&fleet, &bucket.placement, facts.stem, Vec::new());
            let how = (CopyWhen::Always, Ending::Good);
            match self.copy_blob(Arc::clone(&fleet), *blob, how, choose).await {
                Ok(_) | Err(CopyBlobError::Store(StoreError::Superseded)) => {}
                Err(CopyBlobError::Source(EngineError::Spent)) => return Err(EngineError::Spent),
                Err(CopyBlobError::Store(StoreError::NoRoom { size }))
                    if hindrance(&fleet, &bucket.placement, size) == Hindrance::Limits =>
                {
                    return Err(EngineError::NoRoom { size });
                }
                Err(err) => {
                    tracing::warn!(error = chain(&err), "cannot replicate now");
                    return Err(EngineError::Unavailable(None));
                }
            }
        }
        Ok(())
    }
}

/// Reads exactly the version that `head` describes, whole or a range of it (inclusive).
fn same_version(head: &Head, range: Option<(u64, u64)>) -> GetOptions {
    GetOptions {
        range: range.map(|(first, last)| RangeWish::Between(first, last)),
        version: Some(head.seq),
        ..GetOptions::default()
    }
}

/// `None` when another write replaced the source meanwhile, or it was deleted: all begins again
/// with another look at it.
fn unless_changed<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(
            EngineError::ConditionFailed | EngineError::NotModified { .. } | EngineError::NoSuchKey,
        ) => Ok(None),
        Err(err) => Err(err),
    }
}
