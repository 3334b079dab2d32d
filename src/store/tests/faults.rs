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
    let hold = hold_writer(&world.store).await;
    let mut call = Box::pin(world.store.version_commit(commit));
    // Polled once, so that it is queued, and then dropped.
    tokio::select! {
        biased;
        _ = &mut call => panic!("it cannot be ready at the first poll"),
        () = std::future::ready(()) => (),
    }
    drop(call);
    drop(hold);
    // Behind it in the queue.
    world.ledger_after_writes().await;
    assert!(world.find("k").await.is_ok());
    world.verify().await;
}

/// The most pages that the database may have from now on: 1 for no more than it has.
async fn limit(store: &Store, pages: i64) -> i64 {
    let limited = store.free(Lane::Request, Need::Durable, move |tx| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        let now: i64 = tx.0.query_row(&sql, [], |row| row.get(0))?;
        Ok(now)
    });
    limited.await.unwrap()
}

/// Waits until the store is in this condition.
async fn wait_for(store: &Store, condition: Condition) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while store.condition() != condition {
        assert!(std::time::Instant::now() < deadline, "it is never {condition:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Puts objects until one is refused for want of room; how many there are.
async fn fill(world: &World) -> usize {
    for i in 0..400 {
        let at = format!("{i:0>500}");
        let put = async {
            let registered = world.try_register(&[1], 1).await?;
            let commit = commit(world.bucket.id, &at, 1, finished(&registered));
            world.store.version_commit(commit).await
        };
        match put.await {
            Ok(_) => (),
            Err(StoreError::Unavailable(_)) => return i,
            Err(err) => panic!("{err:?}"),
        }
    }
    panic!("the limit was never reached");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_mends() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    limit(&world.store, 1).await;
    let stored = fill(&world).await;
    assert_eq!(world.store.condition(), Condition::Tight);
    let refused = world.try_register(&[1], 1).await.unwrap_err();
    let StoreError::Unavailable(Some(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("full"), "{why}");
    // Reads go on.
    assert!(world.find("k").await.is_ok());
    assert!(world.find(&format!("{:0>500}", stored - 1)).await.is_ok());
    world.verify().await;
    // And so do writes once there is room.
    limit(&world.store, 1 << 30).await;
    wait_for(&world.store, Condition::Well).await;
    world.put("after", 1, &[1]).await;
    world.verify().await;
}

#[tokio::test]
async fn what_gives_room_back_is_done_on_the_ballast() {
    const BALLAST: u64 = 16 << 20;
    let mut world = World::new().await;
    world.store.close().await;
    world.store = open_with(world.dir.path(), &world.hand, BALLAST).unwrap();
    let ballast = world.dir.path().join("ballast");
    let length = || std::fs::metadata(&ballast).unwrap().len();
    assert_eq!((length(), world.store.condition()), (BALLAST, Condition::Well));
    world.put("k", 1, &[1]).await;
    let pages = limit(&world.store, 1).await;
    // It has room as soon as the ballast is given up.
    let (tries, seen) = (Arc::new(AtomicI64::new(0)), ballast.clone());
    let counted = Arc::clone(&tries);
    let freed = world.store.free(Lane::Work, Need::Durable, move |tx| {
        counted.fetch_add(1, Ordering::AcqRel);
        if std::fs::metadata(&seen).unwrap().len() < BALLAST {
            tx.0.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))?;
        }
        tx.0.execute_batch("CREATE TABLE large (x); INSERT INTO large VALUES (zeroblob(50000))")?;
        tx.marks.condemned = true;
        Ok(())
    });
    freed.await.unwrap();
    // In vain, in the emptied log, and on the ballast.
    assert_eq!(tries.load(Ordering::Acquire), 3, "the database had room beyond {pages} pages");
    assert!(length() < BALLAST);
    assert_eq!(world.store.condition(), Condition::Tight);
    assert!(world.try_register(&[1], 1).await.is_err());
    assert!(world.delete("k").await);
    // The disk is not full, so the ballast is made again and all is well.
    wait_for(&world.store, Condition::Well).await;
    assert_eq!(length(), BALLAST);
    world.put("k", 2, &[1]).await;
    world.verify().await;
}

#[tokio::test]
async fn the_end_of_a_full_disk_is_looked_for_when_nobody_writes() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    // As the checkpointer meets it, while the writer sleeps.
    let shared = world.store.shared();
    shared.dir.ballast.meet();
    shared.queue.nudge();
    assert_eq!(world.store.condition(), Condition::Tight);
    assert!(world.store.must_take().is_err());
    wait_for(&world.store, Condition::Well).await;
    world.store.must_take().unwrap();
    world.put("k", 2, &[1]).await;
}

/// Holds the writer until what it returns is dropped: what is queued meanwhile is one batch.
pub(super) async fn hold_writer(store: &Store) -> std::sync::mpsc::Sender<()> {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let store = store.clone();
    tokio::spawn(async move {
        let held = store.write(Lane::Request, Need::Recorded, move |_| {
            let _ = begun.send(());
            let _ = gate.recv();
            Ok(())
        });
        held.await.unwrap();
    });
    has_begun.await.unwrap();
    open
}

#[tokio::test]
async fn intents_of_unknown_fate_do_not_keep_their_room() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let living = world.register(&[100], 1).await;
    let hold = hold_writer(&world.store).await;
    let sizes: Vec<u64> = (1..=250).collect();
    let registered = world.try_register(&sizes, 1);
    // It commits under the writer's hands, which then cannot know what became of the batch.
    let lost = world.store.write(Lane::Request, Need::Durable, |tx| {
        tx.0.execute_batch("COMMIT")?;
        Ok(())
    });
    let release = async { drop(hold) };
    let (registered, lost, ()) = tokio::join!(registered, lost, release);
    assert!(matches!(registered, Err(StoreError::OutcomeUnknown)), "{registered:?}");
    assert!(matches!(lost, Err(StoreError::OutcomeUnknown)));
    // Settled before anything that comes later, and the living ones are left alone.
    let (_, reserved, orphan) = world.ledger_after_writes().await;
    assert_eq!((reserved, orphan), (100, sizes.iter().sum()));
    world.verify().await;
    let commit = commit(world.bucket.id, "living", 2, finished(&living));
    world.store.version_commit(commit).await.unwrap();
    while !world.due().await.is_empty() {
        world.clean().await;
    }
    assert_eq!(world.ledger().await, (101, 0, 0));
    world.verify().await;
}

#[tokio::test]
async fn a_connection_that_only_reads_is_not_kept() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let read_only = world.store.write(Lane::Request, Need::Durable, |tx| {
        tx.0.execute_batch("PRAGMA query_only = 1")?;
        Ok(())
    });
    // The transaction that it happens in cannot end well either.
    assert!(read_only.await.is_err() || world.try_register(&[1], 1).await.is_err());
    let registered = world.register(&[1], 1).await;
    world
        .store
        .version_commit(commit(world.bucket.id, "k", 2, finished(&registered)))
        .await
        .unwrap();
    world.verify().await;
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_tried_until_it_can() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let lose = || {
        world.store.write(Lane::Request, Need::Durable, |tx| {
            tx.0.execute_batch("ROLLBACK")?;
            Err::<(), _>(StoreError::NoSuchKey)
        })
    };
    assert!(matches!(lose().await, Err(StoreError::OutcomeUnknown)));
    assert_eq!(world.store.condition(), Condition::Well, "once is nothing");
    assert!(matches!(lose().await, Err(StoreError::OutcomeUnknown)));
    assert_eq!(world.store.condition(), Condition::Failing);
    let refused = world.try_register(&[1], 1).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(None))), "{refused:?}");
    assert!(world.find("k").await.is_ok());
    // Nobody asks, and it is seen all the same.
    wait_for(&world.store, Condition::Well).await;
    world.put("k", 2, &[1]).await;
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
        ballast: 0,
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
