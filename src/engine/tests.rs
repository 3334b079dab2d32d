//! Writes and reads over a real store and real directories, whose backends break on demand.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::*;
use crate::backend::Backend;
use crate::backend::BackendSettings;
use crate::backend::Fault;
use crate::backend::faulty::Call;
use crate::backend::faulty::Effect;
use crate::backend::faulty::Faults;
use crate::base::Ids;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BucketName;
use crate::model::Etag;
use crate::model::EtagMatch;
use crate::model::Lifecycle;
use crate::model::ObjectKey;
use crate::model::Placement;
use crate::model::ReadConditions;
use crate::model::Routing;
use crate::model::UploadId;
use crate::model::WriteConditions;
use crate::model::WriteId;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::DeclaredBucket;
use crate::store::Durability;
use crate::store::StoreSettings;

mod absence;
mod cleanup;
mod lifecycle;
mod protection;
mod reap;
mod scrub;
mod work;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000;
const CLEANUP: CleanupLimits = CleanupLimits { batch: 50, concurrency: 10 };

/// An engine over directories of its own.
struct World {
    engine: Arc<Engine>,
    faults: Vec<Faults>,
    dir: tempfile::TempDir,
}

impl World {
    /// Three backends; a bucket `bucket` with these wishes.
    async fn new(replicas: u32, min_replicas: u32) -> World {
        World::with_blobs(4 * MIB, replicas, min_replicas).await
    }

    async fn with_blobs(blob_max: usize, replicas: u32, min_replicas: u32) -> World {
        World::with(blob_max, replicas, min_replicas, |_| {}).await
    }

    async fn with(
        blob_max: usize,
        replicas: u32,
        min_replicas: u32,
        change: impl Fn(&mut BackendSettings),
    ) -> World {
        World::with_clock(Clock::system(), blob_max, replicas, min_replicas, change).await
    }

    async fn with_clock(
        clock: Clock,
        blob_max: usize,
        replicas: u32,
        min_replicas: u32,
        change: impl Fn(&mut BackendSettings),
    ) -> World {
        let dir = tempfile::tempdir().unwrap();
        let ids = Arc::new(Ids::new(clock.clone()));
        let settings = StoreSettings {
            data_dir: dir.path().join("data"),
            durability: Durability::ProcessExit,
            readers: 2,
            ballast: 0,
        };
        let store = Store::open(settings, clock.clone(), ids).unwrap();
        let (mut faults, mut backends, mut declared) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=3 {
            let (id, name) = (BackendId(number), format!("disk{number}"));
            faults.push(Faults::default());
            let root = dir.path().join(&name);
            let breaks = faults[faults.len() - 1].clone();
            backends.push(Backend::for_tests_as(&name, id, Some(&root), breaks, &change).await);
            declared.push(DeclaredBackend {
                id,
                location: name.clone(),
                name,
                quota: None,
                account: None,
            });
        }
        let placement =
            Placement { replicas, min_replicas, routing: Routing::Pack, require_distinct: vec![] };
        let declaration = Declaration {
            backends: declared,
            buckets: Vec::new(),
            keys: Vec::new(),
            default_placement: placement,
        };
        store.declare(declaration).await.unwrap();
        store.bucket_create(BucketName::new("bucket").unwrap()).await.unwrap();
        let settings = EngineSettings {
            blob_max: blob_max as u64,
            same_device: true,
            tail_wait: Duration::from_secs(1),
            admission: crate::engine::AdmissionSettings::default(),
        };
        let fleet = Fleet::new(backends);
        let engine = Engine::new(store, fleet, settings, 64 << 20, clock);
        World { engine, faults, dir }
    }

    async fn put(&self, key: &str, body: &[u8]) -> Result<Stored, EngineError> {
        self.put_frames(key, body.len(), body.chunks(100_000).map(|f| Ok(f.to_vec())).collect())
            .await
    }

    async fn put_frames(
        &self,
        key: &str,
        size: usize,
        frames: Vec<Result<Vec<u8>, BodyError>>,
    ) -> Result<Stored, EngineError> {
        self.put_as(key, size, frames, Expected::default()).await
    }

    async fn put_as(
        &self,
        key: &str,
        size: usize,
        frames: Vec<Result<Vec<u8>, BodyError>>,
        expected: Expected,
    ) -> Result<Stored, EngineError> {
        let frames = frames.into_iter().map(|frame| frame.map(Bytes::from));
        let put = PutObject {
            bucket: "bucket".into(),
            key: ObjectKey::new(key).unwrap(),
            meta: NewMeta::default(),
            conditions: WriteConditions::default(),
            create_only: false,
            body: Body {
                size: size as u64,
                stream: stream::iter(frames).boxed(),
                expected,
                trailer: None,
                draws: true,
                waits: false,
            },
        };
        self.engine.put_object(put).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, EngineError> {
        self.get_from("bucket", key).await
    }

    /// One pass of cleanup that remembers nothing of those before.
    async fn cleanup(&self) -> CleanupOutcome {
        self.engine.cleanup_once(&mut CleanupCursor::default(), CLEANUP).await.unwrap()
    }

    /// Good replicas of each blob of the object.
    async fn replicas(&self, key: &str) -> Vec<usize> {
        let bucket = self.engine.bucket("bucket").unwrap();
        let key = ObjectKey::new(key).unwrap();
        let found = self.engine.store.object_find(bucket.id, key).await.unwrap();
        let good = |entry: &crate::store::Entry| {
            entry.replicas.iter().filter(|replica| replica.state.is_readable()).count()
        };
        found.entries.iter().map(good).collect()
    }

    async fn reserved(&self) -> u64 {
        self.engine.store.backends().await.unwrap().iter().map(|row| row.reserved).sum()
    }

    /// Nothing is reserved any more, and the store is in order.
    async fn comes_to_rest(&self) {
        let rest = async {
            while self.reserved().await > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, rest).await.expect("reserved bytes stay");
        let wrong = self.engine.store.verify().await.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    /// Files below the backends' roots, Larder's own left out.
    fn files(&self) -> usize {
        fn count(dir: &std::path::Path) -> usize {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            entries
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_name() != ".larder")
                .map(|entry| match entry.file_type().unwrap().is_dir() {
                    true => count(&entry.path()),
                    false => 1,
                })
                .sum()
        }
        (1..=3).map(|number| count(&self.dir.path().join(format!("disk{number}")))).sum()
    }
}

/// A world whose clock stands still until it is moved.
struct Steered {
    world: World,
    hand: Arc<AtomicI64>,
}

impl std::ops::Deref for Steered {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Steered {
    async fn new(replicas: u32) -> Steered {
        let hand = Arc::new(AtomicI64::new(START));
        let clock = Clock::steered(Arc::clone(&hand));
        let world = World::with_clock(clock, 4 * MIB, replicas, 1, |_| {}).await;
        // Calls are counted from the first rule on; this one never holds.
        world.faults.iter().for_each(|faults| faults.on(Call::Abort, 1000, Effect::Hang));
        Steered { world, hand }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.hand.load(Ordering::Acquire))
    }

    fn advance(&self, span: Duration) {
        self.hand.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::AcqRel);
    }

    /// All that is due; the store is in order after it.
    async fn cleans_up(&self) {
        self.clean_up().await;
        self.is_clean().await;
    }

    /// Once all is cleaned up, what is deleted twice as well, there are these objects with so many
    /// good replicas each, and no other file, row or counted byte.
    async fn holds_only(&self, objects: &[(&str, &Vec<u8>)], replicas: usize) {
        self.comes_to_rest().await;
        self.clean_up().await;
        self.advance(Duration::from_secs(2 * 3600));
        self.clean_up().await;
        self.comes_to_rest().await;
        for (key, body) in objects {
            assert_eq!(self.replicas(key).await, [replicas], "{key}");
            assert!(self.get(key).await.unwrap() == **body, "{key}");
        }
        assert_eq!(self.files(), objects.len() * replicas);
        let left = self.engine.store.condemned_all(WriteId(0), 10).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        let rows = self.engine.store.backends().await.unwrap();
        let size: usize = objects.iter().map(|(_, body)| body.len() * replicas).sum();
        assert_eq!(rows.iter().map(|row| row.held()).sum::<u64>(), size as u64);
        let number = (objects.len() * replicas) as u64;
        assert_eq!(rows.iter().map(|row| row.rows).sum::<u64>(), number);
    }
}

/// Bytes that differ everywhere.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_is_got_at_every_size() {
    let world = World::new(2, 2).await;
    let sizes = [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 4 * MIB, 9 * MIB + 3];
    for size in sizes {
        let body = bytes(size);
        let stored = world.put("key", &body).await.unwrap();
        assert_eq!(stored.size, size as u64);
        assert!(world.get("key").await.unwrap() == body, "{size}");
        assert!(world.replicas("key").await.iter().all(|n| *n == 2), "{size}");
    }
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_fails_is_left_out() {
    for (call, size) in [(Call::Write, 100), (Call::Piece, 3 * MIB), (Call::Finish, 3 * MIB)] {
        let world = World::new(2, 1).await;
        world.faults[0].on(call, 1, Effect::Fail(Fault::Passing));
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        assert_eq!(world.replicas("key").await, [1], "{call:?}");
        assert!(world.get("key").await.unwrap() == body);
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_below_its_minimum_is_copied_to_another_backend() {
    for (call, size) in [(Call::Write, 100), (Call::Piece, 9 * MIB), (Call::Finish, 9 * MIB)] {
        let world = World::new(2, 2).await;
        world.faults[1].always(call, Effect::Fail(Fault::Passing));
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        assert!(world.replicas("key").await.iter().all(|n| *n == 2), "{call:?}");
        world.faults[0].always(Call::Read, Effect::Fail(Fault::Passing));
        assert!(world.get("key").await.unwrap() == body, "{call:?}");
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_write_does_not_wait_for_what_it_holds() {
    let world = World::new(2, 2).await;
    world.faults[1].always(Call::Write, Effect::Fail(Fault::Passing));
    let body = bytes(65536);
    // The budget has room for this one body and for no byte more.
    let free = world.engine.budget.free();
    let rest = world.engine.budget.take(free - body.len() as u64).await;
    let put = tokio::time::timeout(PATIENCE, world.put("key", &body)).await;
    put.expect("it waits for itself").unwrap();
    drop(rest);
    assert!(world.replicas("key").await.iter().all(|n| *n == 2));
    assert!(world.get("key").await.unwrap() == body);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_leg_is_left_nothing_is_stored() {
    for size in [100, 9 * MIB] {
        let world = World::new(2, 1).await;
        world.put("key", b"before").await.unwrap();
        for faults in &world.faults {
            faults.always(Call::Piece, Effect::Fail(Fault::Passing));
            faults.always(Call::Write, Effect::Fail(Fault::Passing));
        }
        let failed = world.put("key", &bytes(size)).await;
        assert!(matches!(failed, Err(EngineError::Unavailable(_))), "{:?}", failed.err());
        world.faults.iter().for_each(Faults::clear);
        assert_eq!(world.get("key").await.unwrap(), b"before");
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_as_announced_stores_nothing() {
    let world = World::new(2, 1).await;
    world.put("key", b"before").await.unwrap();
    let body = bytes(3 * MIB);
    let whole = || vec![Ok(body.clone())];
    let broken = vec![Ok(body.clone()), Err(BodyError::Broken)];
    let short = world.put_frames("key", 3 * MIB + 1, whole()).await;
    assert!(matches!(short, Err(EngineError::Body(BodyError::TooShort))));
    let long = world.put_frames("key", 3 * MIB - 1, whole()).await;
    assert!(matches!(long, Err(EngineError::Body(BodyError::TooLong))));
    let broken = world.put_frames("key", 4 * MIB, broken).await;
    assert!(matches!(broken, Err(EngineError::Body(BodyError::Broken))));
    let expected = Expected { md5: Some([7; 16]), ..Expected::default() };
    let wrong = world.put_as("key", 3 * MIB, whole(), expected).await;
    assert!(matches!(wrong, Err(EngineError::BadDigest("Content-MD5"))));
    assert_eq!(world.get("key").await.unwrap(), b"before");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_hangs_is_left_behind() {
    for (call, size) in [(Call::Piece, 20 * MIB), (Call::Finish, 3 * MIB), (Call::Write, 100)] {
        let world = World::new(2, 1).await;
        world.faults[0].on(call, 1, Effect::Hang);
        let body = bytes(size);
        let put = tokio::time::timeout(PATIENCE, world.put("key", &body));
        put.await.expect("the put hangs with its backend").unwrap();
        assert!(world.get("key").await.unwrap() == body, "{call:?}");
        world.faults[0].clear();
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_holds_the_whole_window_is_stopped() {
    let world = World::with_blobs(32 * MIB, 2, 1).await;
    world.faults[0].on(Call::Piece, 1, Effect::Hang);
    let body = bytes(20 * MIB);
    let put = tokio::time::timeout(PATIENCE, world.put("key", &body));
    put.await.expect("the put hangs with its backend").unwrap();
    assert_eq!(world.replicas("key").await, [1]);
    assert!(world.get("key").await.unwrap() == body);
    world.faults[0].clear();
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_a_backend_is_no_lost_object() {
    let world = World::new(1, 1).await;
    for call in [Call::Write, Call::Finish] {
        world.faults[0].on(call, 1, Effect::FailAfter(Fault::Passing));
        let body = bytes(3 * MIB);
        // Whichever way it is decided, it is decided: acknowledged and there, or neither.
        match world.put("key", &body).await {
            Ok(_) => assert!(world.get("key").await.unwrap() == body),
            Err(err) => assert!(matches!(err, EngineError::Unavailable(_)), "{err}"),
        }
    }
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_goes_around_a_backend_that_is_not_mounted() {
    let world = World::new(2, 2).await;
    world.faults[0].lose_marker(true);
    let body = bytes(100);
    let mut put = world.put("key", &body).await;
    if put.is_err() {
        // The first one finds out.
        put = world.put("key", &body).await;
    }
    put.unwrap();
    assert!(world.get("key").await.unwrap() == body);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleanup_leaves_what_is_current_and_nothing_else() {
    let world = World::new(2, 2).await;
    for round in 0..5 {
        world.put("key", &bytes(100 + round)).await.unwrap();
        world.put("other", &bytes(5 * MIB + round)).await.unwrap();
    }
    let key = ObjectKey::new("other").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    let cleaned = async { while world.cleanup().await.deleted > 0 {} };
    tokio::time::timeout(PATIENCE, cleaned).await.expect("cleanup comes to an end");
    assert_eq!(world.files(), 2);
    assert!(world.get("key").await.unwrap() == bytes(104));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_writers_leave_one_whole_object() {
    let world = Arc::new(World::new(2, 2).await);
    let writers = (0..10).map(|n| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.put("key", &vec![n as u8; 70_000 + n]).await })
    });
    for writer in futures_util::future::join_all(writers).await {
        writer.unwrap().unwrap();
    }
    let body = world.get("key").await.unwrap();
    assert_eq!(body, vec![body[0]; 70_000 + usize::from(body[0])]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_backends_are_no_room_and_others_are_tried_first() {
    for size in [100, 3 * MIB] {
        let world = World::new(1, 1).await;
        for faults in &world.faults {
            faults.always(Call::Write, Effect::Fail(Fault::Full));
        }
        let full = world.put("key", &bytes(size)).await;
        assert!(matches!(full, Err(EngineError::NoRoom { .. })), "{size}: {:?}", full.err());
        world.comes_to_rest().await;
        // The last one has room.
        world.faults[2].clear();
        let fleet = world.engine.fleet.load_full();
        let last = fleet.get(BackendId(3)).unwrap();
        let fits = async {
            while !last.fitness(crate::model::Operation::Write, size as u64).is_fit() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, fits).await.expect("it is never written to again");
        let put = world.put("key", &bytes(size)).await;
        if size == 100 {
            put.unwrap();
            assert!(world.get("key").await.unwrap() == bytes(size));
        } else {
            // A body that streams is gone when its only leg is.
            assert!(matches!(put, Err(EngineError::NoRoom { .. })), "{:?}", put.err());
        }
        world.comes_to_rest().await;
        let world = World::new(2, 2).await;
        world.faults[0].always(Call::Piece, Effect::Fail(Fault::Full));
        world.faults[0].always(Call::Write, Effect::Fail(Fault::Full));
        world.put("key", &bytes(size)).await.unwrap();
        assert!(world.replicas("key").await.iter().all(|n| *n == 2));
        // One place too few, and it is not only for want of room.
        world.faults[1].always(Call::Write, Effect::Fail(Fault::Passing));
        let broken = world.put("key", &bytes(size)).await;
        assert!(matches!(broken, Err(EngineError::Unavailable(_))), "{:?}", broken.err());
        assert!(world.get("key").await.unwrap() == bytes(size));
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_blob_of_a_body_may_lose_another_leg() {
    let world = World::with_blobs(MIB, 2, 2).await;
    world.faults[0].on(Call::Piece, 5, Effect::Fail(Fault::Passing));
    world.faults[0].on(Call::Finish, 8, Effect::FailAfter(Fault::Passing));
    world.faults[1].on(Call::Finish, 6, Effect::FailAfter(Fault::Full));
    let body = bytes(9 * MIB + 5);
    world.put("key", &body).await.unwrap();
    let replicas = world.replicas("key").await;
    assert_eq!((replicas.len(), replicas.iter().all(|n| *n == 2)), (10, true), "{replicas:?}");
    assert!(world.get("key").await.unwrap() == body);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_commit_settles_its_late_legs_too() {
    for (call, size) in [(Call::Write, 100), (Call::Finish, 3 * MIB)] {
        let world = World::new(2, 1).await;
        world.put("key", b"before").await.unwrap();
        world.faults[1].on(call, 1, Effect::Hang);
        let mut put = world.request("key", bytes(size));
        put.conditions.if_none_match = Some(EtagMatch::Any);
        let refused = world.engine.put_object(put).await;
        assert!(matches!(refused, Err(EngineError::ConditionFailed)), "{:?}", refused.err());
        assert_eq!(world.get("key").await.unwrap(), b"before");
        world.comes_to_rest().await;
        world.faults[1].clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_leg_joins_or_is_given_up() {
    for joins in [true, false] {
        let world = World::new(2, 1).await;
        // Its own answer is lost in one case; it hangs past the tail in the other.
        let effect = if joins { Effect::FailAfter(Fault::Passing) } else { Effect::Hang };
        world.faults[1].on(Call::Finish, 1, effect);
        world.put("key", &bytes(3 * MIB)).await.unwrap();
        assert_eq!(world.replicas("key").await, [1]);
        world.faults[1].clear();
        world.comes_to_rest().await;
        assert!(world.get("key").await.unwrap() == bytes(3 * MIB));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_panics_or_loses_its_client_leaves_no_reservation() {
    let world = World::new(2, 1).await;
    for size in [100, 9 * MIB] {
        let mut put = world.request("key", Vec::new());
        put.body.size = size as u64;
        let frames = stream::iter(0..).map(move |n| {
            assert!(n < 3, "on purpose");
            Ok(Bytes::from(bytes((size / 4).max(1))))
        });
        put.body.stream = frames.boxed();
        let engine = Arc::clone(&world.engine);
        assert!(tokio::spawn(async move { engine.put_object(put).await }).await.is_err());
        world.comes_to_rest().await;
    }
    // The client's future goes, the write comes to its end all the same.
    let put = world.request("gone", bytes(5 * MIB));
    let engine = Arc::clone(&world.engine);
    let client = tokio::spawn(async move { engine.put_object(put).await });
    tokio::task::yield_now().await;
    client.abort();
    let _ = client.await;
    world.comes_to_rest().await;
    match world.get("gone").await {
        Ok(body) => assert!(body == bytes(5 * MIB)),
        Err(err) => assert!(matches!(err, EngineError::NoSuchKey), "{err}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_comes_back_is_used_again() {
    let world = World::new(3, 1).await;
    world.put("before", &bytes(100)).await.unwrap();
    world.faults[0].lose_marker(true);
    let _ = world.put("meanwhile", &bytes(100)).await;
    world.put("meanwhile", &bytes(100)).await.unwrap();
    assert_eq!(world.replicas("meanwhile").await, [2]);
    assert!(world.get("before").await.unwrap() == bytes(100));
    let key = ObjectKey::new("before").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    let outcome = world.cleanup().await;
    let left = world.engine.store.condemned_all(WriteId(0), 10).await.unwrap();
    assert!(!left.is_empty() && left.iter().all(|left| left.backend == BackendId(1)));
    assert_eq!(outcome.deleted, left.len() * 2, "two of three can be deleted from");
    assert_eq!(outcome.failed, 0, "to be absent is no failure");
    world.faults[0].clear();
    world.engine.look_for_absent().await;
    world.put("after", &bytes(100)).await.unwrap();
    assert_eq!(world.replicas("after").await, [3]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_between_placements_is_written_anew() {
    let world = World::new(1, 1).await;
    let size = 9 * MIB + 1;
    world.put("key", &bytes(size)).await.unwrap();
    world.wishes("other", 2, 2).await;
    let stored = world.copy("key", "other", "copy").await.unwrap();
    assert_eq!(stored.size, size as u64);
    let (bucket, key) = (world.engine.bucket("other").unwrap(), ObjectKey::new("copy").unwrap());
    let found = world.engine.store.object_find(bucket.id, key).await.unwrap();
    let good =
        |e: &crate::store::Entry| e.replicas.iter().filter(|r| r.state.is_readable()).count();
    assert_eq!(found.entries.iter().map(good).collect::<Vec<_>>(), [2, 2, 2]);
    drop(found);
    // The source is gone: nothing was shared.
    let key = ObjectKey::new("key").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    while world.cleanup().await.deleted > 0 {}
    assert!(world.get_from("other", "copy").await.unwrap() == bytes(size));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_completes_demand_what_the_bucket_demands() {
    let world = World::new(3, 1).await;
    // Two of three legs fail: one good replica, and the bucket then wants all three.
    for faults in &world.faults[1..] {
        faults.always(Call::Write, Effect::Fail(Fault::Passing));
    }
    world.put("key", &bytes(5 * MIB)).await.unwrap();
    let upload = world.upload("parts").await;
    let etag = world.part("parts", upload, 1, bytes(100)).await.unwrap();
    let complete = || world.complete("parts", upload, vec![(1, etag.clone())]);
    world.wishes("bucket", 3, 3).await;
    // A refusal for want of replicas changes nothing.
    let poor = complete().await;
    assert!(matches!(poor, Err(EngineError::Unavailable(_))), "{:?}", poor.err());
    world.faults.iter().for_each(Faults::clear);
    complete().await.unwrap();
    assert_eq!(world.replicas("parts").await, [3]);
    assert!(world.get("parts").await.unwrap() == bytes(100));
    world.copy("key", "bucket", "copy").await.unwrap();
    assert!(world.replicas("copy").await.iter().all(|n| *n == 3));
    assert!(world.get("copy").await.unwrap() == bytes(5 * MIB));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_copied_from_any_range() {
    let world = World::new(2, 2).await;
    let source = bytes(9 * MIB + 3);
    world.put("key", &source).await.unwrap();
    let upload = world.upload("parts").await;
    // Within a blob, across one border, across two.
    let ranges = [(5, 5 * MIB + 8), (4 * MIB - 1, 9 * MIB), (MIB, 9 * MIB + 2), (0, 0)];
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for (number, (first, last)) in (1..).zip(ranges) {
        let part = UploadPartCopy {
            source_bucket: "bucket".into(),
            source_key: ObjectKey::new("key").unwrap(),
            source_conditions: ReadConditions::default(),
            range: Some((first as u64, last as u64)),
            bucket: "bucket".into(),
            key: ObjectKey::new("parts").unwrap(),
            upload,
            number,
        };
        let info = world.engine.upload_part_copy(part).await.unwrap();
        parts.push((number, Etag::of_body(info.md5).to_string()));
        whole.extend_from_slice(&source[first..=last]);
    }
    world.complete("parts", upload, parts).await.unwrap();
    let files = world.files();
    assert_eq!(files, 6, "no bytes moved");
    let key = ObjectKey::new("key").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    while world.cleanup().await.deleted > 0 {}
    assert!(world.get("parts").await.unwrap() == whole);
    world.comes_to_rest().await;
}

impl World {
    fn request(&self, key: &str, body: Vec<u8>) -> PutObject {
        PutObject {
            bucket: "bucket".into(),
            key: ObjectKey::new(key).unwrap(),
            meta: NewMeta::default(),
            conditions: WriteConditions::default(),
            create_only: false,
            body: Body {
                size: body.len() as u64,
                stream: stream::iter([Ok(Bytes::from(body))]).boxed(),
                expected: Expected::default(),
                trailer: None,
                draws: true,
                waits: false,
            },
        }
    }

    /// Declares a bucket with these wishes.
    async fn wishes(&self, bucket: &str, replicas: u32, min_replicas: u32) {
        let placement =
            Placement { replicas, min_replicas, routing: Routing::Pack, require_distinct: vec![] };
        let backends = self.engine.store.backends().await.unwrap().into_iter();
        let declaration = Declaration {
            backends: backends
                .map(|b| DeclaredBackend {
                    id: b.id,
                    name: b.name,
                    location: b.location,
                    quota: None,
                    account: None,
                })
                .collect(),
            buckets: vec![DeclaredBucket {
                name: BucketName::new(bucket).unwrap(),
                placement: placement.clone(),
                max_uploads: 0,
                quota: None,
                lifecycle: Lifecycle::default(),
                imports: false,
            }],
            keys: Vec::new(),
            default_placement: placement,
        };
        self.engine.store.declare(declaration).await.unwrap();
    }

    async fn copy(&self, key: &str, bucket: &str, to: &str) -> Result<Stored, EngineError> {
        let copy = CopyObject {
            source_bucket: "bucket".into(),
            source_key: ObjectKey::new(key).unwrap(),
            source_conditions: ReadConditions::default(),
            bucket: bucket.into(),
            key: ObjectKey::new(to).unwrap(),
            conditions: WriteConditions::default(),
            create_only: false,
            headers: None,
            tags: None,
            algorithm: None,
        };
        self.engine.copy_object(copy).await
    }

    async fn get_from(&self, bucket: &str, key: &str) -> Result<Vec<u8>, EngineError> {
        let key = ObjectKey::new(key).unwrap();
        let mut got = self.engine.get_object(bucket, key, GetOptions::default()).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = got.body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    async fn upload(&self, key: &str) -> UploadId {
        let create = CreateUpload {
            bucket: "bucket".into(),
            key: ObjectKey::new(key).unwrap(),
            meta: NewMeta::default(),
            checksum: None,
            initiator: "somebody".into(),
        };
        self.engine.create_upload(create).await.unwrap().id
    }

    /// The ETag of the part.
    async fn part(
        &self,
        key: &str,
        upload: UploadId,
        number: u32,
        body: Vec<u8>,
    ) -> Result<String, EngineError> {
        let PutObject { bucket, key, body, .. } = self.request(key, body);
        let part = UploadPart { bucket, key, upload, number, body };
        let info = self.engine.upload_part(part).await?;
        Ok(Etag::of_body(info.md5).to_string())
    }

    async fn complete(
        &self,
        key: &str,
        upload: UploadId,
        parts: Vec<(u32, String)>,
    ) -> Result<Stored, EngineError> {
        let named = |(number, etag)| CompletePart { number, etag, checksums: Vec::new() };
        let request = CompleteUploadRequest {
            bucket: "bucket".into(),
            key: ObjectKey::new(key).unwrap(),
            upload,
            parts: parts.into_iter().map(named).collect(),
            conditions: WriteConditions::default(),
            create_only: false,
            checksums: Vec::new(),
            checksum_type: None,
            size: None,
        };
        self.engine.complete_upload(request).await
    }
}
