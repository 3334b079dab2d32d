//! Reconciling and importing over real directories.

mod borrowed;

use super::*;
use crate::engine::ImportProgress;
use crate::engine::ImportWish;
use crate::engine::Imported;
use crate::engine::ReconcileCursor;
use crate::engine::ReconcileSettings;
use crate::model::path::write_id;

impl World {
    /// Lays a file on a backend as its owner would.
    fn lay(&self, backend: u64, path: &str, bytes: &[u8]) {
        let file = self.lies(backend, path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    fn lies(&self, backend: u64, path: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("disk{backend}")).join(path)
    }

    /// Changes a file as its owner would, at another time than it was last.
    fn alter(&self, backend: u64, path: &str, bytes: &[u8]) {
        let file = self.lies(backend, path);
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, bytes).unwrap();
        let later = before + Duration::from_secs(5);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    }

    async fn imports(&self) {
        let wishes = BucketWishes { imports: Some(true), ..BucketWishes::default() };
        let name = BucketName::new("bucket").unwrap();
        self.engine.store.bucket_change(name, wishes).await.unwrap();
    }

    async fn reconcile(&self) -> Step {
        let step = self.engine.reconcile(None, |_| {}).await.unwrap();
        self.is_clean().await;
        step
    }

    async fn etag(&self, key: &str) -> String {
        let bucket = self.engine.bucket("bucket").unwrap();
        let key = ObjectKey::new(key).unwrap();
        let head = self.engine.store.object_head(bucket.id, key).await.unwrap();
        head.meta.etag.to_string()
    }

    async fn is_unavailable(&self, key: &str) -> bool {
        matches!(self.get(key).await, Err(EngineError::Unavailable(_)))
    }

    async fn cleans_up(&self) {
        let cleaned = async { while self.cleanup().await.deleted > 0 {} };
        tokio::time::timeout(PATIENCE, cleaned).await.expect("cleanup comes to an end");
    }

    async fn import(&self, wish: ImportWish) -> Imported {
        let wish = ImportWish { backend: "disk1".into(), bucket: "bucket".into(), ..wish };
        let progress = ImportProgress::default();
        let became = self.engine.import(&wish, &progress).await.unwrap();
        assert_eq!(progress.files.into_inner(), became.files);
        self.is_clean().await;
        became
    }

    /// Steps over a full pass until the listing has come to its end.
    async fn listed(&self) -> ReconcileCursor {
        let mut cursor = self.engine.reconcile_begin_pass(Some("disk1")).await.unwrap();
        let step = self.engine.reconcile_step(&mut cursor, &settings(10_000)).await.unwrap();
        assert_eq!(step.next, Next::Now);
        cursor
    }

    async fn go_on(&self, mut cursor: ReconcileCursor) -> Step {
        let all = settings(10_000);
        let step = to_the_end(async || self.engine.reconcile_step(&mut cursor, &all).await).await;
        self.is_clean().await;
        step
    }
}

fn settings(batch: usize) -> ReconcileSettings {
    ReconcileSettings { batch, ..ReconcileSettings::default() }
}

fn of(step: &Step, result: &str) -> u64 {
    step.counts.get(result).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_below_a_buckets_name_become_objects_where_it_asks_for_it() {
    let world = World::new(1, 1).await;
    let body = bytes(3 * MIB);
    world.lay(1, "bucket/films/a.mp4", &body);
    world.lay(1, "bucket/empty", b"");
    world.lay(1, "elsewhere/b", b"b");
    world.lay(1, "c", b"c");
    world.lay(1, ".larder/half.tmp", b"ours");
    world.put("own", b"own").await.unwrap();
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "skipped"), of(&step, "backends")), (0, 4, 3));
    world.imports().await;
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "skipped"), step.failed), (1, 3, 0));
    assert!(world.get("films/a.mp4").await.unwrap() == body);
    let bucket = world.engine.bucket("bucket").unwrap();
    let key = ObjectKey::new("films/a.mp4").unwrap();
    let head = world.engine.store.object_head(bucket.id, key).await.unwrap();
    assert_eq!(head.meta.headers.content_type.as_deref(), Some("video/mp4"));
    assert_eq!((head.part_count, head.meta.etag.parts), (1, Some(1)));
    let file = std::fs::metadata(world.lies(1, "bucket/films/a.mp4")).unwrap();
    let since = file.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(head.meta.modified.0, i64::try_from(since.as_micros()).unwrap());
    assert_eq!(world.engine.bucket_usage(&bucket).await.unwrap().objects, 2);
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), step.processed), (0, 0), "it is imported once");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_object_gets_its_replicas_and_with_the_first_its_hash() {
    for size in [1000, 3 * MIB + 7] {
        let world = World::new(2, 1).await;
        world.imports().await;
        let body = bytes(size);
        world.lay(1, "bucket/key", &body);
        world.reconcile().await;
        let blob = world.blob("key").await;
        assert_eq!(world.engine.store.blob(blob).await.unwrap().hash, None);
        let step = world.replicate().await;
        assert_eq!((step.processed, step.failed), (1, 0));
        let hash = world.engine.store.blob(blob).await.unwrap().hash;
        assert_eq!(hash, Some(*blake3::hash(&body).as_bytes()));
        let groups = world.engine.store.blob_groups(blob).await.unwrap();
        assert_eq!(groups.len(), if size > MIB { 4 } else { 0 });
        std::fs::remove_file(world.lies(1, "bucket/key")).unwrap();
        assert!(world.get("key").await.unwrap() == body);
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_import_stays_its_owners_file_and_comes_back_only_when_he_changes_it() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.lay(1, "bucket/deleted", b"one");
    world.lay(1, "bucket/overwritten", b"two");
    world.reconcile().await;
    world.delete("deleted").await;
    world.put("overwritten", b"new").await.unwrap();
    world.cleans_up().await;
    assert_eq!(std::fs::read(world.lies(1, "bucket/deleted")).unwrap(), b"one");
    assert_eq!(std::fs::read(world.lies(1, "bucket/overwritten")).unwrap(), b"two");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "suppressed")), (0, 2));
    assert!(matches!(world.get("deleted").await, Err(EngineError::NoSuchKey)));
    world.alter(1, "bucket/deleted", b"newer");
    world.alter(1, "bucket/overwritten", b"newer");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "skipped")), (1, 1));
    assert_eq!(world.get("deleted").await.unwrap(), b"newer");
    assert_eq!(world.get("overwritten").await.unwrap(), b"new", "an import overwrites nothing");
    // Once its owner took the file away there is nothing left to remember.
    std::fs::remove_file(world.lies(1, "bucket/overwritten")).unwrap();
    world.reconcile().await;
    world.delete("deleted").await;
    std::fs::remove_file(world.lies(1, "bucket/deleted")).unwrap();
    world.reconcile().await;
    world.delete("overwritten").await;
    world.cleans_up().await;
    let row = world.engine.backend_row("disk1").await.unwrap();
    assert_eq!((row.rows, row.used, row.orphan), (0, 0, 0));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_its_owner_changed_is_a_new_version() {
    let world = World::new(2, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    world.replicate().await;
    let (etag, modified) = (world.etag("key").await, world.head("key").await);
    world.alter(1, "bucket/key", b"behind");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "changed"), of(&step, "imported")), (1, 0));
    assert_eq!(world.get("key").await.unwrap(), b"behind");
    assert_eq!(world.stands("key").await, [(1, GOOD)], "the old copy is not the new one's");
    assert!(world.etag("key").await != etag && world.head("key").await >= modified);
    world.replicate().await;
    world.cleans_up().await;
    assert_eq!(world.files(), 2);
    // An empty file has no bytes to read, and is no other version yet.
    world.alter(1, "bucket/key", b"");
    world.reconcile().await;
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Missing), (2, GOOD)]);
    assert_eq!(world.get("key").await.unwrap(), b"behind");
    world.alter(1, "bucket/key", b"third");
    assert_eq!(of(&world.reconcile().await, "changed"), 1);
    assert_eq!(world.get("key").await.unwrap(), b"third");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_does_not_follow_the_file_that_it_was_made_of() {
    for replicas in [1, 2] {
        let world = World::new(replicas, 1).await;
        world.imports().await;
        world.lay(1, "bucket/key", b"before");
        world.reconcile().await;
        world.replicate().await;
        world.copy("key", "bucket", "copy").await.unwrap();
        world.alter(1, "bucket/key", b"behind");
        world.reconcile().await;
        assert_eq!(world.get("key").await.unwrap(), b"behind");
        match replicas {
            1 => assert!(world.is_unavailable("copy").await, "its bytes are gone, and it is not"),
            _ => assert_eq!(world.get("copy").await.unwrap(), b"before"),
        }
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_changed_file_of_a_deleted_object_leaves_its_copies_alone() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"before");
    world.reconcile().await;
    world.copy("key", "bucket", "copy").await.unwrap();
    world.delete("key").await;
    assert_eq!(world.get("copy").await.unwrap(), b"before");
    world.alter(1, "bucket/key", b"behind");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "changed"), of(&step, "imported")), (1, 1));
    assert_eq!(world.get("key").await.unwrap(), b"behind");
    assert!(world.is_unavailable("copy").await);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_its_owner_took_away_is_missing_until_it_is_back() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.lay(1, "bucket/key", b"bytes");
    world.reconcile().await;
    let (file, aside) = (world.lies(1, "bucket/key"), world.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    let step = world.reconcile().await;
    assert_eq!(of(&step, "removed"), 1);
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Missing)]);
    assert!(world.is_unavailable("key").await);
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(of(&world.reconcile().await, "back"), 1);
    assert_eq!(world.get("key").await.unwrap(), b"bytes");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_gone_or_cut_are_known_and_made_again() {
    let world = World::new(2, 1).await;
    for key in ["gone", "cut"] {
        world.put(key, &bytes(2 * MIB)).await.unwrap();
    }
    std::fs::remove_file(world.file(&world.on("gone", 1).await)).unwrap();
    let cut = world.file(&world.on("cut", 2).await);
    std::fs::File::options().write(true).open(cut).unwrap().set_len(100).unwrap();
    let step = world.reconcile().await;
    assert_eq!((of(&step, "removed"), of(&step, "damaged"), step.failed), (1, 1, 0));
    assert_eq!(world.stands("gone").await, [(1, ReplicaState::Missing), (2, GOOD)]);
    assert_eq!(world.stands("cut").await, [(1, GOOD), (2, ReplicaState::Damaged)]);
    world.replicate().await;
    assert_eq!((world.replicas("gone").await, world.replicas("cut").await), (vec![2], vec![2]));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_back_is_read_before_it_counts() {
    let world = World::new(1, 1).await;
    world.put("key", b"bytes").await.unwrap();
    let (file, aside) = (world.file(&world.on("key", 1).await), world.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    world.reconcile().await;
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(of(&world.reconcile().await, "back"), 1);
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Unreadable)]);
    assert_eq!(world.get("key").await.unwrap(), b"bytes");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_breaks_off_removes_nothing_and_may_import() {
    let world = World::new(1, 1).await;
    world.imports().await;
    for n in 0..20 {
        world.put(&format!("key{n}"), &bytes(100)).await.unwrap();
        world.lay(1, &format!("bucket/file{n}"), b"x");
    }
    let lost = world.file(&world.on("key0", 1).await);
    std::fs::remove_file(lost).unwrap();
    let mut cursor = world.engine.reconcile_begin_pass(Some("disk1")).await.unwrap();
    world.engine.reconcile_step(&mut cursor, &settings(30)).await.unwrap();
    // The marker is not seen at the end.
    world.faults[0].lose_marker(true);
    let step = world.go_on(cursor).await;
    assert_eq!((of(&step, "removed"), of(&step, "debris"), step.failed), (0, 0, 1));
    assert!(of(&step, "imported") > 0, "{step:?}");
    assert_eq!(world.stands("key0").await, [(1, GOOD)]);
    world.faults[0].lose_marker(false);
    let backend = Arc::clone(world.engine.fleet.load().get(BackendId(1)).unwrap());
    world.until(async || backend.look().await.is_ok()).await;
    // One that cannot even begin says nothing at all.
    world.faults[0].on(Call::List, 1, Effect::Fail(Fault::Passing));
    let mut cursor = world.engine.reconcile_begin_pass(Some("disk1")).await.unwrap();
    let step = world.engine.reconcile_step(&mut cursor, &settings(30)).await.unwrap();
    assert_eq!((step.processed, step.failed), (0, 1));
    let step = world.reconcile().await;
    assert_eq!((of(&step, "removed"), step.failed), (1, 0));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_listing_left_out_is_looked_for_before_it_is_missing() {
    let world = World::new(1, 1).await;
    world.imports().await;
    world.put("key", b"bytes").await.unwrap();
    world.lay(1, "bucket/given up", b"x");
    world.reconcile().await;
    world.delete("given up").await;
    let (file, aside) = (world.lies(1, "bucket"), world.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    let cursor = world.listed().await;
    std::fs::rename(&aside, &file).unwrap();
    let step = world.go_on(cursor).await;
    assert_eq!(step.processed, 0, "{step:?}");
    assert_eq!(world.stands("key").await, [(1, GOOD)]);
    let step = world.reconcile().await;
    assert_eq!((of(&step, "suppressed"), of(&step, "imported")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_during_a_survey_are_none_of_its_business() {
    let world = World::new(1, 1).await;
    world.imports().await;
    for key in ["deleted", "overwritten", "queued"] {
        world.put(key, &bytes(1000)).await.unwrap();
    }
    world.lay(1, "bucket/file", b"file");
    world.lay(1, "bucket/taken", b"taken");
    let cursor = world.listed().await;
    world.delete("deleted").await;
    world.put("overwritten", b"new").await.unwrap();
    world.cleans_up().await;
    world.delete("queued").await;
    world.put("late", b"late").await.unwrap();
    world.put("taken", b"an object").await.unwrap();
    std::fs::remove_file(world.lies(1, "bucket/file")).unwrap();
    let step = world.go_on(cursor).await;
    let counts = ["removed", "debris", "damaged", "suppressed"].map(|name| of(&step, name));
    assert_eq!(counts, [0, 0, 0, 1], "{step:?}");
    assert_eq!(world.get("overwritten").await.unwrap(), b"new");
    assert_eq!(world.get("late").await.unwrap(), b"late");
    assert_eq!(world.get("taken").await.unwrap(), b"an object");
    // It went before it was imported: the next survey knows.
    assert_eq!(of(&world.reconcile().await, "removed"), 1);
    assert!(world.is_unavailable("file").await);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debris_is_condemned_once_and_kept_for_a_week() {
    let world = World::new(1, 1).await;
    world.put("key", b"bytes").await.unwrap();
    let own = world.on("key", 1).await;
    let id = crate::model::WriteId(12345);
    let path = format!("bucket/lost~0.0~{id}");
    assert_eq!(write_id(&path), Some(id));
    world.lay(1, &path, b"debris");
    // A copy of a replica somewhere else, by its owner's hand.
    world.lay(1, &format!("backup/{}", own.path), b"longer than it");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "debris"), of(&step, "damaged")), (1, 0));
    assert_eq!(of(&world.reconcile().await, "debris"), 0);
    world.cleans_up().await;
    assert!(world.lies(1, &path).exists());
    let due = world.engine.store.condemned_next(BackendId(1)).await.unwrap().unwrap();
    let wait = due.since(world.engine.clock.now());
    assert!(
        wait > Duration::from_secs(6 * 24 * 3600) && wait <= Duration::from_secs(7 * 24 * 3600)
    );
    assert_eq!(world.engine.backend_row("disk1").await.unwrap().orphan, 6);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_files_are_imported_once_in_small_steps() {
    let world = World::new(1, 1).await;
    world.imports().await;
    for n in 0..2100 {
        world.lay(1, &format!("bucket/{}/{n}", n % 7), b"x");
    }
    let mut cursor = world.engine.reconcile_begin_pass(Some("disk1")).await.unwrap();
    let some = settings(333);
    let step = to_the_end(async || world.engine.reconcile_step(&mut cursor, &some).await).await;
    assert_eq!((of(&step, "imported"), of(&step, "backends")), (2100, 1));
    std::fs::remove_file(world.lies(1, "bucket/3/3")).unwrap();
    let step = world.reconcile().await;
    assert_eq!((of(&step, "imported"), of(&step, "removed"), step.processed), (0, 1, 1));
    let row = world.engine.backend_row("disk1").await.unwrap();
    assert_eq!((row.rows, row.used), (2100, 2100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_by_hand_takes_a_directory_and_says_before_what_it_would_do() {
    let world = World::new(1, 1).await;
    world.put("2024/own", b"own").await.unwrap();
    world.lay(1, "media/photos/2024/a.jpg", b"a");
    world.lay(1, "media/photos/2024/own", b"conflict");
    world.lay(1, "media/photos/empty", b"");
    world.lay(1, "media/other", b"other");
    let wish = ImportWish {
        prefix: "media/photos/".into(),
        strip: "media/photos".into(),
        is_dry: true,
        ..ImportWish::default()
    };
    let expected = Imported {
        files: 3,
        imported: 1,
        bytes: 1,
        conflicts: 1,
        skipped: 1,
        ..Imported::default()
    };
    let before = world.engine.backend_row("disk1").await.unwrap();
    assert_eq!(world.import(wish.clone()).await, expected);
    assert_eq!(
        world.engine.backend_row("disk1").await.unwrap(),
        before,
        "that was only a question"
    );
    assert!(matches!(world.get("2024/a.jpg").await, Err(EngineError::NoSuchKey)));
    let wish = ImportWish { is_dry: false, ..wish };
    assert_eq!(world.import(wish.clone()).await, expected);
    assert_eq!(world.get("2024/a.jpg").await.unwrap(), b"a");
    let again = Imported { imported: 0, bytes: 0, known: 1, ..expected };
    assert_eq!(world.import(wish).await, again);
    let all = world.import(ImportWish { strip: "media".into(), ..ImportWish::default() }).await;
    // What is not below the directory that keys do without makes no key.
    assert_eq!((all.files, all.imported, all.known, all.skipped), (5, 2, 2, 1));
    assert_eq!(world.get("photos/2024/own").await.unwrap(), b"conflict");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_of_a_bucket_holds_for_imports() {
    let world = World::new(1, 1).await;
    let wishes = BucketWishes { quota: Some(10), ..BucketWishes::default() };
    let name = BucketName::new("bucket").unwrap();
    world.engine.store.bucket_change(name, wishes).await.unwrap();
    world.lay(1, "a", &[1; 6]);
    world.lay(1, "b", &[2; 6]);
    let became = world.import(ImportWish::default()).await;
    assert_eq!((became.imported, became.quota), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_were_taken_over_are_deleted_like_all_else() {
    let world = World::new(1, 1).await;
    for path in ["a", "b", "c"] {
        world.lay(1, path, path.as_bytes());
    }
    world.import(ImportWish::default()).await;
    world.delete("a").await;
    world.cleans_up().await;
    assert!(world.lies(1, "a").exists());
    let became = world.import(ImportWish { takes_over: true, ..ImportWish::default() }).await;
    assert_eq!((became.taken_over, became.known, became.suppressed), (2, 2, 1));
    world.cleans_up().await;
    assert!(!world.lies(1, "a").exists(), "what was given up before goes now");
    world.delete("b").await;
    // Until its bytes are gone the file is not imported again, be it parked or not.
    world.imports().await;
    let wish = ImportWish::default();
    assert_eq!(world.import(wish.clone()).await.suppressed, 1);
    let id = world.engine.store.condemned_due(BackendId(1), 10).await.unwrap()[0].id;
    for _ in 0..10 {
        world.engine.store.condemned_failed(id, "on purpose".into()).await.unwrap();
    }
    assert_eq!(world.import(wish).await.suppressed, 1);
    assert_eq!(world.get("c").await.unwrap(), b"c");
    // What is Larder's own and has another length is damaged, and no other version.
    world.alter(1, "c", b"longer");
    let step = world.reconcile().await;
    assert_eq!((of(&step, "damaged"), of(&step, "changed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_copies_borrowed_files_and_leaves_them() {
    let world = World::new(1, 1).await;
    world.imports().await;
    let body = bytes(2 * MIB);
    world.lay(1, "bucket/key", &body);
    world.reconcile().await;
    world.engine.drain("disk1").await.unwrap();
    world.drained().await;
    assert_eq!(world.stands("key").await, [(2, GOOD)]);
    world.cleans_up().await;
    assert!(std::fs::read(world.lies(1, "bucket/key")).unwrap() == body);
    world.lay(1, "bucket/late", b"late");
    let step = world.reconcile().await;
    // Nothing is imported from a backend that is left.
    assert_eq!((of(&step, "imported"), of(&step, "suppressed"), of(&step, "skipped")), (0, 0, 2));
    assert!(world.get("key").await.unwrap() == body);
    world.engine.remove_backend("disk1", Leave::Bytes, false).await.unwrap();
    world.drained().await;
    assert!(world.lies(1, "bucket/key").exists());
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_backend_is_surveyed_when_it_is_due() {
    let world = World::new(1, 1).await;
    let mut cursor = ReconcileCursor::default();
    let all = ReconcileSettings::default();
    let mut due =
        async || to_the_end(async || world.engine.reconcile_step(&mut cursor, &all).await).await;
    let step = due().await;
    assert_eq!(of(&step, "backends"), 3);
    let Next::At(next) = step.next else { panic!("{step:?}") };
    let wait = next.since(world.engine.clock.now());
    assert!(wait > all.every && wait <= all.local_every, "local disks are surveyed less often");
    assert_eq!(of(&due().await, "backends"), 0);
    // An absent backend waits without being asked.
    world.faults[0].lose_marker(true);
    world.engine.fleet.load().get(BackendId(1)).unwrap().look().await.unwrap_err();
    let step = world.engine.reconcile(None, |_| {}).await.unwrap();
    assert_eq!((of(&step, "absent"), of(&step, "backends"), step.failed), (1, 2, 1));
}
