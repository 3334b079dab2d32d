//! Writing, copying and deleting objects, alone and against each other.

use super::*;

#[tokio::test]
async fn what_was_committed_is_found_also_after_a_restart() {
    let mut world = World::new().await;
    let registered = world.register(&[10, 5], 2).await;
    assert_eq!(world.ledger().await, (0, 30, 0));
    let tags = Tags::new(vec![("a".into(), "b".into())]).unwrap();
    let user = UserMetadata::new(vec![("x".into(), "ü".into())]).unwrap();
    let headers = Headers { content_type: Some("text/x".into()), ..Headers::default() };
    let sum = Checksum::new(ChecksumAlgorithm::Crc32, [1, 2, 3, 4]).unwrap();
    let meta = NewMeta { headers, user, tags: tags.clone() };
    let mut commit = commit(world.bucket.id, "a/b", 1, finished(&registered));
    commit.meta = meta.clone();
    commit.checksums = vec![sum.clone()];
    let committed = world.store.version_commit(commit).await.unwrap();
    assert_eq!(committed.modified.0, START);
    for _ in 0..2 {
        let found = world.find("a/b").await.unwrap();
        assert_eq!(found.head.seq, committed.seq);
        assert_eq!((found.head.meta.size, found.head.meta.etag), (15, etag(1)));
        assert_eq!((&found.head.meta.headers, &found.head.meta.user), (&meta.headers, &meta.user));
        assert_eq!(found.head.meta.checksums, std::slice::from_ref(&sum));
        assert_eq!((found.head.tag_count, found.head.part_count), (1, 0));
        let sizes: Vec<_> = found.entries.iter().map(|e| (e.blob, e.length)).collect();
        assert_eq!(sizes, [(registered[0].blob, 10), (registered[1].blob, 5)]);
        for (entry, registered) in found.entries.iter().zip(&registered) {
            assert_eq!(entry.hash, Some([9; 32]));
            assert!(entry.replicas.iter().all(|r| r.state == ReplicaState::Good));
            let paths: Vec<_> = entry.replicas.iter().map(|r| (r.write, &r.path)).collect();
            let promised: Vec<_> = registered.intents.iter().map(|i| (i.write, &i.path)).collect();
            assert_eq!(paths, promised);
        }
        drop(found);
        assert_eq!(world.store.object_tags(world.bucket.id, key("a/b")).await.unwrap(), tags);
        assert_eq!(world.ledger().await, (30, 0, 0));
        world.verify().await;
        world.restart().await;
    }
}

#[tokio::test]
async fn an_overwrite_displaces_and_time_does_not_go_back() {
    let world = World::new().await;
    let first = world.put("k", 1, &[10]).await;
    world.advance(-HOUR);
    let second = world.put("k", 2, &[20]).await;
    assert!(second.seq > first.seq);
    assert_eq!(second.modified, first.modified);
    assert_eq!(world.ledger().await, (20, 0, 10));
    assert_eq!(world.find("k").await.unwrap().head.meta.etag, etag(2));
    world.verify().await;
    world.advance(2 * HOUR);
    let due = world.due().await;
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].size, due[0].reason), (10, CondemnReason::Overwritten));
    world.clean().await;
    assert_eq!(world.ledger().await, (20, 0, 0));
    assert!(world.delete("k").await);
    assert!(!world.delete("k").await);
    assert!(matches!(world.find("k").await, Err(StoreError::NoSuchKey)));
    assert_eq!(world.due().await[0].reason, CondemnReason::Deleted);
    world.clean().await;
    world.verify().await;
    assert_eq!(world.ledger().await, (0, 0, 0));
}

#[tokio::test]
async fn an_empty_object_has_no_blob() {
    let world = World::new().await;
    world.put("empty", 1, &[]).await;
    let found = world.find("empty").await.unwrap();
    assert_eq!((found.head.meta.size, found.entries.len()), (0, 0));
    world.verify().await;
}

#[tokio::test]
async fn refused_commits_give_up_their_blobs() {
    let world = World::new().await;
    world.put("k", 1, &[3]).await;
    let bucket = world.bucket.id;
    let refused = |change: fn(&mut CommitVersion)| {
        let store = world.store.clone();
        let world = &world;
        async move {
            let registered = world.register(&[10], 2).await;
            let mut blobs = finished(&registered);
            // The second leg is still being written.
            let late = blobs[0].good.pop().unwrap();
            let mut commit = commit(bucket, "k", 2, blobs);
            change(&mut commit);
            let err = store.version_commit(commit).await.unwrap_err();
            let due = world.due().await;
            let ids: Vec<u64> = due.iter().map(|row| row.id).collect();
            assert!(due.iter().all(|row| row.reason == CondemnReason::Abandoned));
            assert_eq!(due.len(), 2);
            assert_eq!(world.ledger().await, (3, 0, 20));
            let done = store.replica_commit(late).await;
            assert!(matches!(done, Err(StoreError::Superseded)));
            world.verify().await;
            store.condemned_deleted(ids).await.unwrap();
            assert_eq!(world.ledger().await, (3, 0, 0));
            // The late one is deleted a second time.
            assert!(world.due().await.is_empty());
            world.advance(2 * HOUR);
            let again = world.due().await;
            assert_eq!((again.len(), again[0].id, again[0].size), (1, late.0, 0));
            world.clean().await;
            assert_eq!(world.next_due().await, None);
            world.verify().await;
            err
        }
    };
    let err = refused(|c| c.conditions = if_none_match_any()).await;
    assert!(matches!(err, StoreError::ConditionFailed));
    let err = refused(|c| c.conditions = if_match(9)).await;
    assert!(matches!(err, StoreError::ConditionFailed));
    let err = refused(|c| c.create_only = true).await;
    assert!(matches!(err, StoreError::Exists));
    let err = refused(|c| c.bucket = BucketId(999_999)).await;
    assert!(matches!(err, StoreError::NoSuchBucket));
    let err = refused(|c| {
        c.key = key("other");
        c.conditions = if_match(1);
    })
    .await;
    assert!(matches!(err, StoreError::NoSuchKey));
    // And a condition that holds.
    let registered = world.register(&[10], 1).await;
    let mut good = commit(bucket, "k", 2, finished(&registered));
    good.conditions = if_match(1);
    world.store.version_commit(good).await.unwrap();
    world.verify().await;
}

#[tokio::test]
async fn late_and_failed_legs_are_settled() {
    let world = World::new().await;
    world.store.bucket_set(wishes("photos", 3)).await.unwrap();
    let bucket = world.store.bucket("photos").unwrap();
    let blobs = vec![BlobRequest { size: 10, stem: "s".into() }];
    let registered =
        world.store.blobs_register(bucket.id, bucket.placement_id, blobs, choose(3)).await.unwrap();
    let writes: Vec<_> = registered[0].intents.iter().map(|i| i.write).collect();
    let mut blobs = finished(&registered);
    blobs[0].good = vec![writes[0]];
    blobs[0].failed = vec![FailedWrite { write: writes[1], unknown: false }];
    world.store.version_commit(commit(bucket.id, "k", 1, blobs)).await.unwrap();
    assert_eq!(world.ledger().await, (10, 10, 10));
    world.verify().await;
    world.store.replica_commit(writes[2]).await.unwrap();
    world.store.replica_commit(writes[2]).await.unwrap();
    assert_eq!(world.ledger().await, (20, 0, 10));
    // Another attempt on the backend whose leg failed, which is the only one free.
    let blob = registered[0].blob;
    let intent = world.store.replica_register(blob, CopyWhen::Always, choose(1)).await.unwrap();
    assert_eq!(intent.backend, BACKENDS[1]);
    let none = world.store.replica_register(blob, CopyWhen::Always, choose(1)).await;
    assert!(matches!(none, Err(StoreError::NoRoom { size: 10 })));
    let failed = FailedWrite { write: intent.write, unknown: true };
    world.store.replica_abandon(failed).await.unwrap();
    world.store.replica_abandon(failed).await.unwrap();
    let superseded = world.store.replica_commit(intent.write).await;
    assert!(matches!(superseded, Err(StoreError::Superseded)));
    world.verify().await;
    // A damaged replica may be replaced on its own backend.
    world.store.replica_mark(writes[2], ReplicaState::Damaged).await.unwrap();
    world.verify().await;
    let fresh =
        world.store.replica_register(blob, CopyWhen::Always, on(BACKENDS[2])).await.unwrap();
    world.store.replica_commit(fresh.write).await.unwrap();
    let err = world.store.replica_mark(writes[2], ReplicaState::Good).await;
    assert!(matches!(err, Err(StoreError::Changed)));
    let replicas = world.store.blob_replicas(blob).await.unwrap();
    assert_eq!(replicas.len(), 3);
    world.verify().await;
    world.delete("k").await;
    assert_eq!(world.ledger().await.0, 0);
    assert!(world.store.blob_replicas(blob).await.unwrap().is_empty());
    world.verify().await;
}

fn wishes(bucket: &str, replicas: u32) -> DeclaredBucket {
    DeclaredBucket {
        name: name(bucket),
        placement: placement(replicas, 1),
        max_uploads: 0,
        quota: None,
        lifecycle: Lifecycle::default(),
        imports: false,
    }
}

#[tokio::test]
async fn many_deletes_are_one_transaction_with_an_answer_each() {
    let world = World::new().await;
    world.put("a", 1, &[1]).await;
    world.put("b", 2, &[1]).await;
    let none = WriteConditions::default();
    let keys = vec![
        (key("a"), none.clone()),
        (key("missing"), none.clone()),
        (key("b"), if_match(7)),
        (key("a"), none),
    ];
    let results = world.store.objects_delete(world.bucket.id, keys).await.unwrap();
    assert!(matches!(
        results[..],
        [Ok(true), Ok(false), Err(StoreError::ConditionFailed), Ok(false)]
    ));
    assert!(world.find("b").await.is_ok());
    world.verify().await;
}

#[tokio::test]
async fn copies_share_blobs_until_the_last_reference_goes() {
    let world = World::new().await;
    let first = world.put("a", 1, &[10, 20]).await;
    let copy = |to: &str, seq: VersionSeq| CopyVersion {
        source_bucket: world.bucket.id,
        source_key: key("a"),
        source_seq: seq,
        bucket: world.bucket.id,
        key: key(to),
        conditions: WriteConditions::default(),
        create_only: false,
        headers: None,
        tags: None,
        etag: None,
        checksums: None,
        present: BACKENDS.to_vec(),
    };
    world.store.version_copy(copy("b", first.seq)).await.unwrap();
    assert_eq!(world.ledger().await, (30, 0, 0));
    world.verify().await;
    // Onto itself, with new headers.
    let headers = Headers { content_type: Some("x/y".into()), ..Headers::default() };
    let mut own = copy("a", first.seq);
    own.headers = Some((headers.clone(), UserMetadata::default()));
    let second = world.store.version_copy(own).await.unwrap();
    assert_eq!(world.find("a").await.unwrap().head.meta.headers, headers);
    assert_eq!(world.ledger().await, (30, 0, 0));
    world.verify().await;
    let stale = world.store.version_copy(copy("c", first.seq)).await;
    assert!(matches!(stale, Err(StoreError::Changed)));
    let mut far = copy("c", second.seq);
    far.present = vec![BACKENDS[2]];
    match world.store.version_copy(far).await {
        Err(StoreError::TooFewReplicas(blobs)) => assert_eq!(blobs.len(), 2),
        other => panic!("{other:?}"),
    }
    assert!(world.delete("a").await);
    assert_eq!(world.ledger().await, (30, 0, 0));
    assert!(world.delete("b").await);
    assert_eq!(world.ledger().await, (0, 0, 30));
    world.verify().await;
    // A bucket with other wishes does not share.
    let third = world.put("a", 1, &[10]).await;
    world.store.bucket_create(name("other")).await.unwrap();
    world.store.bucket_set(wishes("other", 2)).await.unwrap();
    let mut across = copy("a", third.seq);
    across.bucket = world.store.bucket("other").unwrap().id;
    let refused = world.store.version_copy(across).await;
    assert!(matches!(refused, Err(StoreError::OtherPlacement)));
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_one_key_leave_one_whole_object() {
    let world = Arc::new(World::new().await);
    let mut tasks = Vec::new();
    for tag in 0..10 {
        let world = Arc::clone(&world);
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                if tag < 8 {
                    world.put("k", tag, &[u64::from(tag) + 1]).await;
                } else if round % 2 == 0 {
                    world.delete("k").await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    if let Ok(found) = world.find("k").await {
        let tag = found.head.meta.etag.md5[0];
        assert_eq!(found.head.meta.size, u64::from(tag) + 1);
        assert_eq!(found.entries.len(), 1);
    }
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn create_only_has_one_winner() {
    let world = Arc::new(World::new().await);
    let mut tasks = Vec::new();
    for tag in 0..16 {
        let world = Arc::clone(&world);
        tasks.push(tokio::spawn(async move {
            let registered = world.register(&[5], 1).await;
            let mut commit = commit(world.bucket.id, "k", tag, finished(&registered));
            commit.conditions = if_none_match_any();
            world.store.version_commit(commit).await.is_ok()
        }));
    }
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap());
    }
    assert_eq!(won, 1);
    assert_eq!(world.ledger().await, (5, 0, 75));
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_under_any_concurrency() {
    let world = Arc::new(World::with(declaration(Some(100))).await);
    let mut tasks = Vec::new();
    for i in 0..40 {
        let world = Arc::clone(&world);
        tasks.push(tokio::spawn(async move {
            match world.try_register(&[30], 1).await {
                Ok(registered) => {
                    let at = format!("k{i}");
                    let commit = commit(world.bucket.id, &at, 1, finished(&registered));
                    world.store.version_commit(commit).await.unwrap();
                    true
                }
                Err(StoreError::NoRoom { size: 30 }) => false,
                Err(err) => panic!("{err:?}"),
            }
        }));
    }
    let mut stored = 0;
    for task in tasks {
        stored += u64::from(task.await.unwrap());
    }
    assert_eq!(stored, 9);
    assert_eq!(world.ledger().await, (270, 0, 0));
    // All or nothing: the second blob has no room anywhere.
    assert!(matches!(world.try_register(&[5, 30], 1).await, Err(StoreError::NoRoom { size: 30 })));
    assert_eq!(world.ledger().await, (270, 0, 0));
    // A chooser that does not look at the ledger is held by it.
    let blobs = vec![BlobRequest { size: 20, stem: "s".into() }];
    let bucket = &world.bucket;
    let over =
        world.store.blobs_register(bucket.id, bucket.placement_id, blobs, on(BACKENDS[0])).await;
    assert!(matches!(over, Err(StoreError::NoRoom { size: 20 })));
    world.verify().await;
}

#[tokio::test]
async fn paths_stay_when_the_key_that_they_were_named_after_goes() {
    let mut world = World::new().await;
    let blobs = vec![BlobRequest { size: 9, stem: "photos/some/key~0.0".into() }];
    let bucket = world.bucket.clone();
    let store = world.store.clone();
    let registered =
        store.blobs_register(bucket.id, bucket.placement_id, blobs, choose(2)).await.unwrap();
    let paths: Vec<_> = registered[0].intents.iter().map(|i| i.path.clone()).collect();
    assert!(paths[0].contains("photos/some/key~0.0"));
    let mut blobs = finished(&registered);
    let late = blobs[0].good.pop().unwrap();
    let put = commit(bucket.id, "some/key", 1, blobs);
    let committed = store.version_commit(put).await.unwrap();
    let seen = |found: Found| -> Vec<String> {
        found.entries[0].replicas.iter().map(|replica| replica.path.clone()).collect()
    };
    assert_eq!(seen(world.find("some/key").await.unwrap()), paths);
    store.replica_commit(late).await.unwrap();
    let copy = CopyVersion {
        source_bucket: bucket.id,
        source_key: key("some/key"),
        source_seq: committed.seq,
        bucket: bucket.id,
        key: key("other"),
        conditions: WriteConditions::default(),
        create_only: false,
        headers: None,
        tags: None,
        etag: None,
        checksums: None,
        present: BACKENDS.to_vec(),
    };
    store.version_copy(copy).await.unwrap();
    assert_eq!(seen(world.find("other").await.unwrap()), paths);
    world.verify().await;
    world.delete("some/key").await;
    world.verify().await;
    drop(store);
    world.restart().await;
    assert_eq!(seen(world.find("other").await.unwrap()), paths);
    let blob = registered[0].blob;
    let replicas = world.store.blob_replicas(blob).await.unwrap();
    assert_eq!(replicas.into_iter().map(|replica| replica.path).collect::<Vec<_>>(), paths);
    world.delete("other").await;
    let mut condemned: Vec<_> = world.due().await.into_iter().map(|row| row.path).collect();
    condemned.sort();
    let mut sorted = paths.clone();
    sorted.sort();
    assert_eq!(condemned, sorted);
    world.verify().await;
}
