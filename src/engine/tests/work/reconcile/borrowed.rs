//! What an owner does with files that are his while Larder has them as objects.

use super::*;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::engine::ScrubCursor;
use crate::engine::ScrubSettings;
use crate::model::WriteId;
use crate::store::Scrubbed;

const SCRUB: ScrubSettings = ScrubSettings {
    batch: 100,
    concurrency: 2,
    interval: Duration::from_secs(6 * 3600),
    pass: Duration::from_secs(30 * 24 * 3600),
    rate: 0,
    window: None,
};

impl World {
    /// Reads by schedule until there is nothing to do now.
    async fn scrubs(&self, cursor: &mut ScrubCursor) -> Step {
        to_the_end(async || self.engine.scrub_step(cursor, &SCRUB, false).await).await
    }

    async fn takes_over(&self, prefix: &str) -> Imported {
        let prefix = prefix.to_owned();
        self.import(ImportWish { takes_over: true, prefix, ..ImportWish::default() }).await
    }

    async fn is_borrowed(&self, key: &str) -> bool {
        self.on(key, 1).await.is_borrowed
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_files_of_the_listing_that_are_as_they_were_are_taken_over() {
    let world = World::new(1, 1).await;
    for path in ["in/same", "in/changed", "in/gone", "in/newer", "out/same", "out/gone"] {
        world.lay(1, path, path.as_bytes());
    }
    world.import(ImportWish::default()).await;
    for key in ["in/gone", "in/newer", "out/gone"] {
        world.delete(key).await;
    }
    world.put("in/newer", b"an object").await.unwrap();
    world.alter(1, "in/changed", b"in/CHANGED");
    world.alter(1, "in/newer", b"in/NEWER");
    world.lay(1, "in/own", b"new");
    let became = world.takes_over("in").await;
    assert_eq!((became.imported, became.conflicts, became.suppressed), (1, 1, 1));
    assert_eq!(became.taken_over, 3);
    assert_eq!(world.get("in/changed").await.unwrap(), b"in/CHANGED", "that is a new version");
    assert!(!world.is_borrowed("in/same").await && !world.is_borrowed("in/changed").await);
    assert!(world.is_borrowed("out/same").await, "it was not in the listing");
    world.cleans_up().await;
    assert!(!world.lies(1, "in/gone").exists());
    assert_eq!(std::fs::read(world.lies(1, "in/newer")).unwrap(), b"in/NEWER");
    assert!(world.lies(1, "out/gone").exists());
    assert_eq!(world.get("in/newer").await.unwrap(), b"an object");
    // What stayed is still remembered.
    assert_eq!(world.import(ImportWish::default()).await.suppressed, 1);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_a_changed_file_makes_it_a_new_version_soon_and_never_damaged() {
    for after in [&b"much longer than before"[..], b"tuo", b"x"] {
        let world = World::new(2, 1).await;
        world.imports().await;
        world.lay(1, "bucket/key", b"was");
        world.reconcile().await;
        world.replicate().await;
        let wanted = world.engine.store.files_doubted();
        world.alter(1, "bucket/key", after);
        // Whether that read is served by the copy is not the point.
        let replica = world.on("key", 1).await;
        world.engine.store.replica_mark(replica.write, ReplicaState::Damaged).await.unwrap();
        assert_eq!(world.stands("key").await, [(1, ReplicaState::Unreadable), (2, GOOD)]);
        tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("the reconciler is woken");
        let mut cursor = ReconcileCursor::default();
        let step = world.engine.reconcile_step(&mut cursor, &settings(100)).await.unwrap();
        assert_eq!((of(&step, "changed"), step.next), (1, Next::Now));
        assert_eq!(world.get("key").await.unwrap(), after);
        assert_eq!(world.stands("key").await, [(1, GOOD)]);
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_that_finds_other_bytes_doubts_a_borrowed_file() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    assert_eq!(of(&world.scrubs(&mut ScrubCursor::default()).await, "backfilled"), 1);
    world.alter(1, "bucket/key", b"behind");
    assert!(world.get("key").await.is_err());
    let unreadable = [(1, ReplicaState::Unreadable)];
    world.until(async || world.stands("key").await == unreadable).await;
    let mut cursor = ReconcileCursor::default();
    let step = world.engine.reconcile_step(&mut cursor, &settings(100)).await.unwrap();
    assert_eq!(of(&step, "changed"), 1);
    assert_eq!(world.get("key").await.unwrap(), b"behind");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubted_file_outlives_the_deficit_of_its_blob() {
    let world = World::new(2, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    world.replicate().await;
    world.alter(1, "bucket/key", b"behind");
    let mut cursor = ScrubCursor::default();
    let step = world.scrubs(&mut cursor).await;
    assert_eq!((of(&step, "changed"), of(&step, "damaged")), (1, 0), "{step:?}");
    world.replicate().await;
    assert_eq!(
        world.stands("key").await,
        [(1, ReplicaState::Unreadable), (2, GOOD), (3, GOOD)],
        "another was made, and the file is still known"
    );
    // One that stays unreadable for long is not given up either.
    let write = world.on("key", 1).await.write;
    let damaged = vec![(write, Scrubbed::Damaged)];
    world.engine.store.scrub_record(BackendId(1), None, damaged).await.unwrap();
    assert_eq!(world.on("key", 1).await.state, ReplicaState::Unreadable);
    assert_eq!(of(&world.reconcile().await, "changed"), 1, "the survey finds it as well");
    assert_eq!(world.get("key").await.unwrap(), b"behind");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_up_for_a_borrowed_file_that_was_changed() {
    let world = World::new(2, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    world.replicate().await;
    let blob = world.blob("key").await;
    let replicas = world.of("key").await;
    let all: Vec<&Replica> = replicas.iter().collect();
    let size = world.engine.store.blob(blob).await.unwrap().size;
    let fleet = world.engine.fleet.load().for_work();
    assert!(world.engine.are_there(&fleet, &all, size).await.unwrap());
    world.alter(1, "bucket/key", b"behind");
    assert!(!world.engine.are_there(&fleet, &all, size).await.unwrap());
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Unreadable), (2, GOOD)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_no_blob_can_be_is_left_and_told() {
    let world = World::new(1, 1).await;
    world.imports().await;
    for (path, size) in [("bucket/most", BLOB_SIZE_MAX), ("bucket/more", BLOB_SIZE_MAX + 1)] {
        world.lay(1, path, b"");
        let file = std::fs::File::options().write(true).open(world.lies(1, path)).unwrap();
        file.set_len(size).unwrap();
    }
    let wish = ImportWish { is_dry: true, ..ImportWish::default() };
    let became = world.import(wish).await;
    assert_eq!((became.imported, became.too_large), (1, 1));
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "too_large")), (1, 1));
    // One that grew beyond it has no bytes that its object could have.
    let file = std::fs::File::options().write(true).open(world.lies(1, "bucket/most")).unwrap();
    file.set_len(BLOB_SIZE_MAX + 1).unwrap();
    let step = world.reconcile().await;
    assert_eq!((of(&step, "changed"), of(&step, "removed")), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_empty_only_while_it_was_listed_is_not_missing() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    world.alter(1, "bucket/key", b"");
    let cursor = world.listed().await;
    std::fs::write(world.lies(1, "bucket/key"), b"behind").unwrap();
    let step = world.go_on(cursor).await;
    assert_eq!((of(&step, "removed"), of(&step, "changed")), (0, 0));
    assert_eq!(world.stands("key").await, [(1, GOOD)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_imported_or_is_back_is_read_next_wherever_the_pass_is() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.put("own", b"own").await.unwrap();
    let mut cursor = ScrubCursor::default();
    let wanted = world.engine.store.scrub_wanted();
    let step = world.scrubs(&mut cursor).await;
    assert!(matches!(step.next, Next::At(_)), "the pass is over: {step:?}");
    for n in 0..250 {
        world.lay(1, &format!("bucket/{n}"), b"x");
    }
    world.reconcile().await;
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("an import wakes it");
    assert_eq!(of(&world.scrubs(&mut cursor).await, "backfilled"), 250);
    assert_eq!(world.scrubs(&mut cursor).await.processed, 0, "each is read once");
    let own = world.on("own", 1).await;
    let (file, aside) = (world.file(&own), world.dir.path().join("aside"));
    // Another that cannot be read was looked at in this interval.
    let unreadable = world.on("7", 1).await.write;
    let result = vec![(unreadable, Scrubbed::Unreadable)];
    world.engine.store.scrub_record(BackendId(1), None, result).await.unwrap();
    std::fs::rename(&file, &aside).unwrap();
    world.reconcile().await;
    assert_eq!(of(&world.scrubs(&mut cursor).await, "good_again"), 1);
    std::fs::rename(&aside, &file).unwrap();
    world.reconcile().await;
    assert_eq!(world.on("own", 1).await.state, ReplicaState::Unreadable);
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("one that is back wakes it");
    assert_eq!(of(&world.scrubs(&mut cursor).await, "good_again"), 1);
    assert_eq!(world.on("own", 1).await.state, GOOD);
    let page = world.engine.store.scrub_page(BackendId(1), WriteId(0), 1, false).await.unwrap();
    assert!(page.replicas[0].hash.is_some());
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_fleet_wakes_the_reconciler_and_it_finds_who_is_due() {
    let world = World::new(1, 1).await;
    let backend = Arc::clone(world.engine.fleet.load().get(BackendId(1)).unwrap());
    world.faults[0].lose_marker(true);
    backend.look().await.unwrap_err();
    let mut cursor = ReconcileCursor::default();
    let all = ReconcileSettings::default();
    let mut due =
        async || to_the_end(async || world.engine.reconcile_step(&mut cursor, &all).await).await;
    let step = due().await;
    assert_eq!((of(&step, "backends"), step.backlog), (2, Some(1)), "one is absent");
    let wanted = world.engine.store.files_doubted();
    world.faults[0].lose_marker(false);
    backend.look().await.unwrap();
    world.engine.fleet_changes();
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("the reconciler is woken");
    assert_eq!(of(&due().await, "backends"), 1);
}
