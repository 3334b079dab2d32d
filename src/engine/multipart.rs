//! Multipart uploads: parts are blobs of their own, and completing turns them into entries.
//!
//! No byte moves at the end: the commit of a complete checks that the parts it was computed from
//! are still the upload's parts, adds them to the new version and condemns those that the request
//! did not name.

use std::sync::Arc;

use md5::Digest;
use md5::Md5;

use super::Engine;
use super::EngineError;
use super::copy_object::tries;
use super::hash;
use super::put_object::detached;
use super::request::CompletePart;
use super::request::CompleteUploadRequest;
use super::request::CreateUpload;
use super::request::Stored;
use super::request::UploadPart;
use super::write::Written;
use crate::base::limits::OBJECT_SIZE_MAX;
use crate::base::limits::PART_NUMBER_MAX;
use crate::base::limits::PART_SIZE_MAX;
use crate::base::limits::PART_SIZE_MIN;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::model::ObjectKey;
use crate::model::UploadId;
use crate::store::CommitPart;
use crate::store::CompleteUpload;
use crate::store::NewUpload;
use crate::store::PartInfo;
use crate::store::StoreError;
use crate::store::Upload;
use crate::store::UploadPage;
use crate::store::UploadQuery;

impl Engine {
    pub async fn create_upload(&self, create: CreateUpload) -> Result<Upload, EngineError> {
        let bucket = self.bucket(&create.bucket)?;
        let upload = NewUpload {
            bucket: bucket.id,
            key: create.key,
            meta: create.meta,
            checksum: create.checksum,
            initiator: create.initiator,
        };
        Ok(self.store.upload_create(upload).await?)
    }

    /// The upload, active or completed lately. An id works only with its own bucket and key.
    pub async fn find_upload(
        &self,
        bucket: &str,
        key: ObjectKey,
        upload: UploadId,
    ) -> Result<Upload, EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.upload_find(upload, bucket.id, key).await?)
    }

    /// Stores a part; one of the same number that was there is replaced.
    pub async fn upload_part(self: &Arc<Self>, part: UploadPart) -> Result<PartInfo, EngineError> {
        if !(1..=PART_NUMBER_MAX).contains(&part.number) {
            return Err(EngineError::Invalid("a part number is 1 to 10000"));
        }
        if part.body.size > PART_SIZE_MAX {
            return Err(EngineError::TooLarge { size: part.body.size, max: PART_SIZE_MAX });
        }
        let engine = Arc::clone(self);
        detached(async move { engine.part_in_task(part).await }).await
    }

    pub(super) async fn part_in_task(
        self: &Arc<Self>,
        mut part: UploadPart,
    ) -> Result<PartInfo, EngineError> {
        let bucket = self.bucket(&part.bucket)?;
        let upload = self.store.upload_find(part.upload, bucket.id, part.key.clone()).await?;
        if upload.completed.is_some() {
            return Err(EngineError::NoSuchUpload);
        }
        // What the whole object's checksum will be made of.
        let algorithm = upload.checksum.map_or(ChecksumAlgorithm::Crc64Nvme, |(a, _)| a);
        part.body.expected.algorithms.push(algorithm);
        let place = Some((part.upload, part.number));
        self.quota_admits(&bucket, &part.key, place, part.body.to_come()).await?;
        let written = self.write_body(&bucket, &part.key, part.number, part.body).await?;
        let Written { hash, blobs, late, .. } = written;
        let commit = CommitPart {
            upload: part.upload,
            bucket: bucket.id,
            key: part.key,
            number: part.number,
            md5: hash.md5.expect("the MD5 of a body is always computed"),
            checksums: hash.checksums,
            blobs: blobs.clone(),
        };
        match self.store.part_commit(commit).await {
            Ok(info) => {
                late.join(self);
                Ok(info)
            }
            Err(err) => {
                self.after_failed_commit(&err, blobs, late);
                Err(err.into())
            }
        }
    }

    /// Makes the object out of its parts. Asked again it answers the same, for a day.
    pub async fn complete_upload(
        self: &Arc<Self>,
        request: CompleteUploadRequest,
    ) -> Result<Stored, EngineError> {
        let engine = Arc::clone(self);
        detached(async move { engine.complete_in_task(request).await }).await
    }

    async fn complete_in_task(
        self: &Arc<Self>,
        request: CompleteUploadRequest,
    ) -> Result<Stored, EngineError> {
        let bucket = self.bucket(&request.bucket)?;
        for _ in 0..tries(&bucket) {
            let upload =
                self.store.upload_find(request.upload, bucket.id, request.key.clone()).await?;
            if let Some(done) = upload.completed {
                return Ok(Stored {
                    etag: done.etag,
                    size: done.size,
                    checksums: done.checksums,
                    checksum_type: done.checksum_type,
                    modified: done.committed.modified,
                });
            }
            let listed = self.store.parts_list(request.upload, 0, PART_NUMBER_MAX as usize).await;
            let (parts, _) = match listed {
                // Completed or aborted since it was found: the next look tells.
                Err(StoreError::NoSuchUpload) => continue,
                listed => listed?,
            };
            let chosen = choose_parts(&request, &parts)?;
            let whole = whole(&request, &upload, &chosen)?;
            let complete = CompleteUpload {
                upload: request.upload,
                bucket: bucket.id,
                key: request.key.clone(),
                conditions: request.conditions.clone(),
                create_only: request.create_only,
                parts: chosen.iter().map(|part| (part.number, part.seq)).collect(),
                etag: whole.etag,
                checksums: whole.checksums.clone(),
                checksum_type: whole.kind,
                present: self.present(),
            };
            match self.store.upload_complete(complete).await {
                Ok(committed) => {
                    return Ok(Stored {
                        etag: whole.etag,
                        size: whole.size,
                        checksums: whole.checksums,
                        checksum_type: whole.kind,
                        modified: committed.modified,
                    });
                }
                Err(StoreError::Changed) => (),
                Err(StoreError::TooFewReplicas(blobs)) => self.replicate(&blobs, &bucket).await?,
                Err(err) => return Err(err.into()),
            }
        }
        Err(EngineError::Busy)
    }

    /// Gives the upload up; its parts are condemned.
    pub async fn abort_upload(
        &self,
        bucket: &str,
        key: ObjectKey,
        upload: UploadId,
    ) -> Result<(), EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.upload_abort(upload, bucket.id, key).await?)
    }

    /// The upload and its parts with a number greater than `after`, at most `max`; and whether
    /// there are more.
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: ObjectKey,
        upload: UploadId,
        after: u32,
        max: usize,
    ) -> Result<(Upload, Vec<PartInfo>, bool), EngineError> {
        let found = self.find_upload(bucket, key, upload).await?;
        if found.completed.is_some() {
            return Err(EngineError::NoSuchUpload);
        }
        let (parts, more) = self.store.parts_list(upload, after, max).await?;
        Ok((found, parts, more))
    }

    pub async fn list_uploads(&self, query: UploadQuery) -> Result<UploadPage, EngineError> {
        Ok(self.store.uploads_list(query).await?)
    }
}

/// The parts that the request names, when they are as it says.
fn choose_parts(
    request: &CompleteUploadRequest,
    parts: &[PartInfo],
) -> Result<Vec<PartInfo>, EngineError> {
    if request.parts.is_empty() {
        return Err(EngineError::Invalid("a complete names at least one part"));
    }
    if !request.parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(EngineError::InvalidPartOrder);
    }
    let chosen: Vec<PartInfo> = request
        .parts
        .iter()
        .map(|named| {
            parts
                .binary_search_by_key(&named.number, |part| part.number)
                .ok()
                .map(|found| &parts[found])
                .filter(|part| is_as_named(part, named))
                .cloned()
                .ok_or(EngineError::InvalidPart { number: named.number })
        })
        .collect::<Result<_, _>>()?;
    let but_last = &chosen[..chosen.len() - 1];
    if let Some(small) = but_last.iter().find(|part| part.size < PART_SIZE_MIN) {
        return Err(EngineError::PartTooSmall { number: small.number, size: small.size });
    }
    Ok(chosen)
}

fn is_as_named(part: &PartInfo, named: &CompletePart) -> bool {
    Etag::of_body(part.md5).to_string() == named.etag.to_ascii_lowercase()
        && named.checksums.iter().all(|checksum| part.checksums.contains(checksum))
}

/// What is known of the object that the parts make.
struct Whole {
    size: u64,
    etag: Etag,
    checksums: Vec<Checksum>,
    kind: ChecksumType,
}

fn whole(
    request: &CompleteUploadRequest,
    upload: &Upload,
    parts: &[PartInfo],
) -> Result<Whole, EngineError> {
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if size > OBJECT_SIZE_MAX {
        return Err(EngineError::TooLarge { size, max: OBJECT_SIZE_MAX });
    }
    if request.size.is_some_and(|said| said != size) {
        return Err(EngineError::Invalid("x-amz-mp-object-size is not the size of the parts"));
    }
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part.md5));
    let etag = Etag { md5: md5.finalize().into(), parts: Some(parts.len() as u32) };
    let (algorithm, kind) =
        upload.checksum.unwrap_or((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject));
    if request.checksum_type.is_some_and(|said| said != kind) {
        return Err(EngineError::Invalid("the checksum type is not the upload's"));
    }
    let of_parts: Option<Vec<(&Checksum, u64)>> = parts
        .iter()
        .map(|part| {
            let found = part.checksums.iter().find(|c| c.algorithm() == algorithm)?;
            Some((found, part.size))
        })
        .collect();
    let checksum = of_parts.and_then(|parts| hash::combine(algorithm, kind, &parts));
    for sent in &request.checksums {
        if sent.algorithm() != algorithm || checksum.as_ref() != Some(sent) {
            return Err(EngineError::BadDigest(sent.algorithm().name()));
        }
    }
    Ok(Whole { size, etag, checksums: checksum.into_iter().collect(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::model::WriteConditions;

    fn part(number: u32, size: u64) -> PartInfo {
        let md5 = [number as u8; 16];
        let checksums = Vec::new();
        PartInfo { number, seq: 1, size, md5, modified: Timestamp(0), checksums }
    }

    fn named(numbers: &[u32]) -> CompleteUploadRequest {
        CompleteUploadRequest {
            bucket: "bucket".into(),
            key: ObjectKey::new("key").unwrap(),
            upload: UploadId(1),
            parts: numbers
                .iter()
                .map(|&number| CompletePart {
                    number,
                    etag: Etag::of_body([number as u8; 16]).to_string(),
                    checksums: Vec::new(),
                })
                .collect(),
            conditions: WriteConditions::default(),
            create_only: false,
            checksums: Vec::new(),
            checksum_type: None,
            size: None,
        }
    }

    #[test]
    fn the_named_parts_are_chosen_when_they_are_as_named() {
        let parts = [part(1, PART_SIZE_MIN), part(2, PART_SIZE_MIN - 1), part(5, 0)];
        let chosen = |numbers: &[u32]| {
            let parts = choose_parts(&named(numbers), &parts);
            parts.map(|parts| parts.iter().map(|p| p.number).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[1, 2]).unwrap(), [1, 2]);
        assert_eq!(chosen(&[5]).unwrap(), [5]);
        assert!(matches!(chosen(&[1, 3]), Err(EngineError::InvalidPart { number: 3 })));
        assert!(matches!(chosen(&[2, 1]), Err(EngineError::InvalidPartOrder)));
        assert!(matches!(chosen(&[1, 1]), Err(EngineError::InvalidPartOrder)));
        assert!(matches!(chosen(&[2, 5]), Err(EngineError::PartTooSmall { number: 2, .. })));
        assert!(matches!(chosen(&[]), Err(EngineError::Invalid(_))));
        let mut wrong = named(&[1]);
        wrong.parts[0].etag = Etag::of_body([9; 16]).to_string();
        assert!(matches!(
            choose_parts(&wrong, &parts),
            Err(EngineError::InvalidPart { number: 1 })
        ));
    }
}
