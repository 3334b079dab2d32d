//! Multipart uploads.

use super::lifecycle::rule;
use super::*;
use crate::base::limits::WORK_ROWS_MAX;

async fn upload(world: &World, at: &str) -> Upload {
    let new = NewUpload {
        bucket: world.bucket.id,
        key: key(at),
        meta: NewMeta {
            tags: Tags::new(vec![("t".into(), "v".into())]).unwrap(),
            ..NewMeta::default()
        },
        checksum: Some((ChecksumAlgorithm::Crc32, ChecksumType::Composite)),
        initiator: "K".into(),
    };
    world.store.upload_create(new).await.unwrap()
}

async fn try_part(
    world: &World,
    upload: &Upload,
    number: u32,
    sizes: &[u64],
) -> Result<PartInfo, StoreError> {
    let registered = world.register(sizes, 1).await;
    let part = CommitPart {
        upload: upload.id,
        bucket: upload.bucket,
        key: upload.key.clone(),
        number,
        md5: [number as u8; 16],
        checksums: vec![Checksum::new(ChecksumAlgorithm::Crc32, [number as u8; 4]).unwrap()],
        blobs: finished(&registered),
    };
    world.store.part_commit(part).await
}

async fn part(world: &World, upload: &Upload, number: u32, sizes: &[u64]) -> PartInfo {
    try_part(world, upload, number, sizes).await.unwrap()
}

fn complete(upload: &Upload, parts: &[&PartInfo]) -> CompleteUpload {
    CompleteUpload {
        upload: upload.id,
        bucket: upload.bucket,
        key: upload.key.clone(),
        conditions: WriteConditions::default(),
        create_only: false,
        parts: parts.iter().map(|part| (part.number, part.seq)).collect(),
        etag: Etag { md5: [77; 16], parts: Some(parts.len() as u32) },
        checksums: Vec::new(),
        checksum_type: ChecksumType::Composite,
        present: BACKENDS.to_vec(),
    }
}

#[tokio::test]
async fn a_large_upload_expires_in_small_transactions_and_goes_with_its_last_part() {
    let world = World::new().await;
    let count = 2 * WORK_ROWS_MAX + 1;
    let upload = upload(&world, "big").await;
    for number in 1..=count {
        part(&world, &upload, u32::try_from(number).unwrap(), &[1]).await;
    }
    let bucket = world.bucket.id;
    let rules = world.rules_set("photos", &[rule("", 1)]).await;
    let aging = AgingUpload { key: upload.key.clone(), upload: upload.id, created: upload.created };
    let left = async || world.store.parts_list(upload.id, 0, count).await.unwrap().0.len();
    // A crash after the first of them: the rest is as due as before.
    assert!(!world.store.upload_expire_some(bucket, rules, aging.clone()).await.unwrap());
    world.verify().await;
    assert_eq!(left().await, count - WORK_ROWS_MAX);
    assert_eq!(world.due().await.len(), WORK_ROWS_MAX);
    assert_eq!(world.store.uploads_aging(bucket, String::new(), None, 9).await.unwrap().len(), 1);
    let newer = world.rules_set("photos", &[rule("", 2)]).await;
    let stale = world.store.upload_expire(bucket, rules, aging.clone()).await;
    assert!(matches!(stale, Err(StoreError::Changed)));
    assert_eq!(left().await, count - WORK_ROWS_MAX);
    assert!(world.store.upload_expire(bucket, newer, aging.clone()).await.unwrap());
    assert!(!world.store.upload_expire(bucket, newer, aging).await.unwrap());
    let most: Vec<usize> = world
        .store
        .read(|sql| {
            sql.all("SELECT count(*) FROM condemned GROUP BY seq ORDER BY seq", [], |r| r.get(0))
        })
        .await
        .unwrap();
    assert_eq!(most, [WORK_ROWS_MAX, WORK_ROWS_MAX, 1]);
    let usage = world.store.bucket_usage(bucket).await.unwrap();
    assert_eq!((usage.uploads, usage.bytes), (0, 0));
    world.verify().await;
}

#[tokio::test]
async fn parts_become_one_object() {
    let mut world = World::new().await;
    world.put("big", 1, &[3]).await;
    let up = upload(&world, "big").await;
    let two = part(&world, &up, 2, &[10, 5]).await;
    let nine = part(&world, &up, 9, &[]).await;
    let old = part(&world, &up, 1, &[20]).await;
    let one = part(&world, &up, 1, &[30]).await;
    assert_ne!(old.seq, one.seq);
    let unnamed = part(&world, &up, 5, &[40]).await;
    assert_eq!(world.ledger().await, (3 + 15 + 30 + 40, 0, 20));
    let (listed, is_more) = world.store.parts_list(up.id, 1, 2).await.unwrap();
    assert_eq!((listed, is_more), (vec![two.clone(), unnamed.clone()], true));
    assert!(!world.store.parts_list(up.id, 2, 2).await.unwrap().1);
    world.verify().await;
    world.restart().await;

    let stale = world.store.upload_complete(complete(&up, &[&old, &two])).await;
    assert!(matches!(stale, Err(StoreError::Changed)));
    let mut far = complete(&up, &[&one, &two, &nine]);
    far.present = vec![BACKENDS[1]];
    match world.store.upload_complete(far).await {
        Err(StoreError::TooFewReplicas(blobs)) => assert_eq!(blobs.len(), 3),
        other => panic!("{other:?}"),
    }
    let mut refused = complete(&up, &[&one, &two, &nine]);
    refused.conditions = if_none_match_any();
    let refused = world.store.upload_complete(refused).await;
    assert!(matches!(refused, Err(StoreError::ConditionFailed)));
    world.verify().await;

    let done = world.store.upload_complete(complete(&up, &[&one, &two, &nine])).await.unwrap();
    let found = world.find("big").await.unwrap();
    assert_eq!((found.head.seq, found.head.meta.size, found.head.part_count), (done.seq, 45, 3));
    assert_eq!(found.head.tag_count, 1);
    let entries: Vec<_> = found.entries.iter().map(|e| (e.part, e.length)).collect();
    assert_eq!(entries, [(1, 30), (2, 10), (2, 5)]);
    drop(found);
    let parts = world.store.object_parts(world.bucket.id, key("big")).await.unwrap();
    let shown: Vec<_> = parts.iter().map(|p| (p.number, p.size, p.md5[0])).collect();
    assert_eq!(shown, [(1, 30, 1), (2, 15, 2), (9, 0, 9)]);
    assert_eq!(parts[0].checksums, one.checksums);
    assert_eq!(world.ledger().await, (45, 0, 63));
    world.verify().await;

    // Asked again, it answers the same; parts and aborts come too late.
    let again = world.store.upload_complete(complete(&up, &[&one])).await.unwrap();
    assert_eq!(again, done);
    let kept = world.store.upload_find(up.id, up.bucket, up.key.clone()).await.unwrap();
    assert_eq!(kept.completed.unwrap().committed, done);
    assert_eq!(kept.meta, up.meta);
    let late = try_part(&world, &up, 1, &[8]).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)));
    let late = world.store.upload_abort(up.id, up.bucket, up.key.clone()).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)));
    assert_eq!(world.ledger().await, (45, 0, 71));
    assert!(!world.store.uploads_prune().await.unwrap());
    world.advance(25 * HOUR);
    assert!(!world.store.uploads_prune().await.unwrap());
    let gone = world.store.upload_find(up.id, up.bucket, up.key.clone()).await;
    assert!(matches!(gone, Err(StoreError::NoSuchUpload)));
    world.verify().await;
}

#[tokio::test]
async fn a_copy_of_a_multipart_object_keeps_its_parts_or_drops_them() {
    let world = World::new().await;
    let up = upload(&world, "a").await;
    let one = part(&world, &up, 1, &[30]).await;
    let two = part(&world, &up, 2, &[10]).await;
    let done = world.store.upload_complete(complete(&up, &[&one, &two])).await.unwrap();
    let copy = |to: &str, etag: Option<Etag>| CopyVersion {
        source_bucket: world.bucket.id,
        source_key: key("a"),
        source_seq: done.seq,
        bucket: world.bucket.id,
        key: key(to),
        conditions: WriteConditions::default(),
        create_only: false,
        headers: None,
        tags: None,
        etag,
        checksums: None,
        present: BACKENDS.to_vec(),
    };
    world.store.version_copy(copy("same", None)).await.unwrap();
    let parts = world.store.object_parts(world.bucket.id, key("same")).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.size).collect::<Vec<_>>(), [30, 10]);
    world.store.version_copy(copy("plain", Some(etag(5)))).await.unwrap();
    let found = world.find("plain").await.unwrap();
    assert_eq!((found.head.part_count, found.head.tag_count), (0, 1));
    assert!(found.entries.iter().all(|entry| entry.part == 0));
    assert!(world.store.object_parts(world.bucket.id, key("plain")).await.unwrap().is_empty());
    world.verify().await;
}

#[tokio::test]
async fn a_part_may_be_a_range_of_an_object() {
    let world = World::new().await;
    let source = world.put("src", 1, &[10, 20, 30]).await;
    let up = upload(&world, "dst").await;
    let copy = |number, offset, length| CopyPart {
        upload: up.id,
        bucket: up.bucket,
        key: up.key.clone(),
        number,
        source_bucket: world.bucket.id,
        source_key: key("src"),
        source_seq: source.seq,
        offset,
        length,
        md5: [1; 16],
        checksums: Vec::new(),
        present: BACKENDS.to_vec(),
    };
    let beyond = world.store.part_copy(copy(1, 50, 11)).await;
    assert!(matches!(beyond, Err(StoreError::Changed)));
    world.store.part_copy(copy(1, 0, 60)).await.unwrap();
    let one = world.store.part_copy(copy(1, 5, 26)).await.unwrap();
    let two = world.store.part_copy(copy(2, 59, 1)).await.unwrap();
    world.verify().await;
    world.delete("src").await;
    assert_eq!(world.ledger().await, (60, 0, 0));
    world.store.upload_complete(complete(&up, &[&one, &two])).await.unwrap();
    let found = world.find("dst").await.unwrap();
    let slices: Vec<_> = found.entries.iter().map(|e| (e.part, e.offset, e.length)).collect();
    assert_eq!(slices, [(1, 5, 5), (1, 0, 20), (1, 0, 1), (2, 29, 1)]);
    drop(found);
    world.verify().await;
    world.delete("dst").await;
    assert_eq!(world.ledger().await, (0, 0, 60));
    world.verify().await;
}

#[tokio::test]
async fn an_upload_works_with_its_own_key_only_and_can_be_aborted() {
    let world = World::new().await;
    let up = upload(&world, "k").await;
    part(&world, &up, 1, &[10]).await;
    let stranger = world.store.upload_find(up.id, up.bucket, key("other")).await;
    assert!(matches!(stranger, Err(StoreError::NoSuchUpload)));
    let stranger = world.store.upload_abort(up.id, BucketId(5), up.key.clone()).await;
    assert!(matches!(stranger, Err(StoreError::NoSuchUpload)));
    let mut forged = up.clone();
    forged.key = key("other");
    assert!(matches!(try_part(&world, &forged, 1, &[3]).await, Err(StoreError::NoSuchUpload)));
    let kept = world.store.bucket_delete(&name("photos")).await;
    assert!(matches!(kept, Err(StoreError::BucketNotEmpty)));
    world.store.upload_abort(up.id, up.bucket, up.key.clone()).await.unwrap();
    let reasons: Vec<_> = world.due().await.iter().map(|row| row.reason).collect();
    assert_eq!(reasons, [CondemnReason::Abandoned, CondemnReason::Aborted]);
    assert!(matches!(world.store.parts_list(up.id, 0, 10).await, Err(StoreError::NoSuchUpload)));
    world.verify().await;
    world.store.bucket_delete(&name("photos")).await.unwrap();
    world.verify().await;
}

#[tokio::test]
async fn a_bucket_limits_its_active_uploads() {
    let world = World::new().await;
    let wishes = DeclaredBucket {
        name: name("photos"),
        placement: placement(1, 1),
        max_uploads: 1,
        quota: Some(20),
        lifecycle: Lifecycle::default(),
        imports: false,
    };
    world.store.bucket_set(wishes).await.unwrap();
    let up = upload(&world, "k").await;
    let new = NewUpload {
        bucket: world.bucket.id,
        key: key("k"),
        meta: NewMeta::default(),
        checksum: None,
        initiator: "K".into(),
    };
    let more = world.store.upload_create(new.clone()).await;
    assert!(matches!(more, Err(StoreError::TooManyUploads)));
    // Parts count towards the quota.
    let one = part(&world, &up, 1, &[15]).await;
    assert!(matches!(try_part(&world, &up, 2, &[6]).await, Err(StoreError::BucketQuota)));
    world.store.upload_complete(complete(&up, &[&one])).await.unwrap();
    world.store.upload_create(new).await.unwrap();
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_complete_against_an_abort_has_one_winner() {
    let world = World::new().await;
    for i in 0..20 {
        let up = upload(&world, &format!("k{i}")).await;
        let one = part(&world, &up, 1, &[10]).await;
        let completing = tokio::spawn({
            let store = world.store.clone();
            let complete = complete(&up, &[&one]);
            async move { store.upload_complete(complete).await.is_ok() }
        });
        let aborting = tokio::spawn({
            let (store, up) = (world.store.clone(), up.clone());
            async move { store.upload_abort(up.id, up.bucket, up.key).await.is_ok() }
        });
        let (completed, aborted) = (completing.await.unwrap(), aborting.await.unwrap());
        assert_ne!(completed, aborted);
        assert_eq!(world.find(up.key.as_str()).await.is_ok(), completed);
    }
    world.verify().await;
}
