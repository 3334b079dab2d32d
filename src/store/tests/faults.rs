//! What goes wrong, and what the store is afterwards.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::base::Timestamp;

#[tokio::test]
async fn a_second_server_is_refused() {
    let world = World::new().await;
    let err = open(world.dir.path(), &world.hand).err().expect("refused");
    assert!(err.to_string().contains("another Larder is running"), "{err}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let world = World::new().await;
    let (dir, hand) = (&world.dir, &world.hand);
    world.store.close().await;
    drop(world.store);
    let conn = rusqlite::Connection::open(dir.path().join("meta.db")).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let err = open(dir.path(), hand).err().expect("refused");
    assert!(err.to_string().contains("newer version"), "{err}");
}

#[tokio::test]
async fn a_foreign_host_key_is_refused() {
    let world = World::new().await;
    let (dir, hand) = (&world.dir, &world.hand);
    let key = AccessKey {
        id: "K".into(),
        secret: "very secret".into(),
        grants: Grants::default(),
        declared: false,
    };
    world.store.key_create(key).await.unwrap();
    world.store.close().await;
    drop(world.store);
    std::fs::write(dir.path().join("host.key"), [1; 32]).unwrap();
    let err = open(dir.path(), hand).err().expect("refused");
    assert!(err.to_string().contains("host.key"), "{err}");
    // And the secret is nowhere in the files.
    let bytes = std::fs::read(dir.path().join("meta.db")).unwrap();
    assert!(!bytes.windows(11).any(|window| window == b"very secret"));
}

#[tokio::test]
async fn a_closed_store_answers() {
    let world = World::new().await;
    world.store.close().await;
    world.store.close().await;
    assert!(matches!(world.store.uploads_prune().await, Err(StoreError::Unavailable(None))));
    assert!(matches!(world.find("k").await, Err(StoreError::Unavailable(None))));
}

#[tokio::test]
async fn a_panic_costs_its_own_operation_only() {
    let world = World::new().await;
    let store = &world.store;
    let bad = store.write::<(), _>(Lane::Request, Need::Durable, |tx| {
        tx.meta_set("half", 1)?;
        panic!("on purpose");
    });
    let (bad, good) = tokio::join!(bad, world.put("k", 1, &[1]));
    assert!(matches!(bad, Err(StoreError::Sqlite(_))));
    assert_eq!(world.find("k").await.unwrap().head.seq, good.seq);
    assert_eq!(store.read(|sql| sql.meta("half")).await.unwrap(), None);
    let bad = store.read::<(), _>(|_| panic!("on purpose")).await;
    assert!(matches!(bad, Err(StoreError::Sqlite(_))));
    assert!(world.find("k").await.is_ok());
    world.verify().await;
}

#[tokio::test]
async fn an_operation_runs_to_its_end_without_its_caller() {
    let world = World::new().await;
    let registered = world.register(&[4], 1).await;
    let commit = commit(world.bucket.id, "k", 1, finished(&registered));
    let mut call = Box::pin(world.store.version_commit(commit));
    // Polled once, so that it is queued, and then dropped.
    tokio::select! {
        biased;
        _ = &mut call => panic!("it cannot be ready at the first poll"),
        () = std::future::ready(()) => (),
    }
    drop(call);
    world.store.uploads_prune().await.unwrap();
    assert!(world.find("k").await.is_ok());
    world.verify().await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_mends() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let limit = |pages: i64| {
        world.store.write(Lane::Request, Need::Durable, move |tx| {
            let sql = format!("PRAGMA max_page_count = {pages}");
            let now: i64 = tx.0.query_row(&sql, [], |row| row.get(0))?;
            Ok(now)
        })
    };
    let pages = limit(1).await.unwrap();
    let mut refused = 0;
    for i in 0..400 {
        let at = format!("{i:0>500}");
        let registered = match world.try_register(&[1], 1).await {
            Ok(registered) => registered,
            Err(StoreError::Unavailable(_)) => {
                refused += 1;
                break;
            }
            Err(err) => panic!("{err:?}"),
        };
        match world
            .store
            .version_commit(commit(world.bucket.id, &at, 1, finished(&registered)))
            .await
        {
            Ok(_) => (),
            Err(StoreError::Unavailable(_)) => {
                refused += 1;
                break;
            }
            Err(err) => panic!("{err:?}"),
        }
    }
    assert_eq!(refused, 1, "the limit of {pages} pages was never reached");
    // Reads go on, and so do writes once there is room.
    assert!(world.find("k").await.is_ok());
    world.verify().await;
    limit(1 << 30).await.unwrap();
    world.put("after", 1, &[1]).await;
    world.verify().await;
}

#[tokio::test]
async fn a_lost_transaction_leaves_the_outcome_unknown_and_the_truth_in_the_views() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    // The operation ends the transaction under the writer's hands.
    let lost = world.store.write(Lane::Request, Need::Durable, |tx| {
        tx.meta_set("half", 1)?;
        tx.marks.seq += 1000;
        tx.0.execute_batch("ROLLBACK")?;
        Err::<(), _>(StoreError::NoSuchKey)
    });
    assert!(matches!(lost.await, Err(StoreError::OutcomeUnknown)));
    assert!(world.find("k").await.is_ok());
    assert_eq!(world.store.read(|sql| sql.meta("half")).await.unwrap(), None);
    let before = world.find("k").await.unwrap().head.seq;
    let after = world.put("k", 2, &[1]).await.seq;
    assert!(after > before && after.0 < before.0 + 100);
    assert!(world.store.bucket("photos").is_some());
    world.verify().await;
}

#[tokio::test]
async fn ids_do_not_come_back_with_a_clock_set_back() {
    let mut world = World::new().await;
    let mut last = 0;
    for _ in 0..5 {
        let registered = world.register(&[1], 1).await;
        assert!(registered[0].blob.0 > last);
        last = registered[0].intents[0].write.0;
        let ceiling = world.store.read(|sql| sql.meta("ceiling")).await.unwrap().unwrap();
        assert!(ceiling >= last);
        world.advance(-24 * HOUR);
        world.restart().await;
    }
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn group_commit_keeps_every_answer() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let settings = StoreSettings {
        data_dir: dir.path().to_owned(),
        durability: Durability::PowerLoss,
        readers: 2,
    };
    let ids = Arc::new(Ids::new(clock.clone()));
    let store = Store::open(settings.clone(), clock.clone(), Arc::clone(&ids)).unwrap();
    store.declare(declaration(None)).await.unwrap();
    let bucket = store.bucket_create(name("photos")).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            let mut last = Timestamp(0);
            while !is_over.load(Ordering::Acquire) {
                if let Ok(head) = store.object_head(bucket.id, key("0-0")).await {
                    assert!(head.meta.modified >= last);
                    last = head.meta.modified;
                }
            }
        }
    });
    let mut tasks = Vec::new();
    for task in 0..16 {
        let (store, bucket) = (store.clone(), store.bucket("photos").unwrap());
        tasks.push(tokio::spawn(async move {
            for i in 0..20 {
                let at = format!("{task}-{}", i % 10);
                let blobs = vec![BlobRequest { size: 8, stem: at.clone() }];
                let registered = store
                    .blobs_register(bucket.id, bucket.placement_id, blobs, choose(1))
                    .await
                    .unwrap();
                let commit = commit(bucket.id, &at, i, finished(&registered));
                let committed = store.version_commit(commit).await.unwrap();
                // Whoever was answered sees it at once.
                let head = store.object_head(bucket.id, key(&at)).await.unwrap();
                assert_eq!((head.seq, head.meta.etag), (committed.seq, etag(i)));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    is_over.store(true, Ordering::Release);
    watcher.await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
    store.close().await;
    drop(store);
    let store = Store::open(settings, clock, ids).unwrap();
    let bucket = store.bucket("photos").unwrap();
    for task in 0..16 {
        for i in 0..10 {
            let head = store.object_head(bucket.id, key(&format!("{task}-{i}"))).await.unwrap();
            assert_eq!(head.meta.etag, etag(i + 10));
        }
    }
}

#[tokio::test]
async fn a_closed_store_leaves_no_log() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    world.store.close().await;
    let log = world.dir.path().join("meta.db-wal");
    assert!(std::fs::metadata(&log).map_or(0, |meta| meta.len()) == 0);
}

#[tokio::test]
async fn an_idle_store_empties_its_log() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let log = world.dir.path().join("meta.db-wal");
    assert!(std::fs::metadata(&log).unwrap().len() > 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::fs::metadata(&log).unwrap().len() > 0 {
        assert!(std::time::Instant::now() < deadline, "the log was not emptied");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    world.put("k", 2, &[1]).await;
    world.verify().await;
}
