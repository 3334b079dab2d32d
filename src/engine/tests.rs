//! Writes and reads over a real store and real directories, whose backends break on demand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::*;
use crate::backend::Backend;
use crate::backend::Fault;
use crate::backend::faulty::Call;
use crate::backend::faulty::Effect;
use crate::backend::faulty::Faults;
use crate::base::Ids;
use crate::model::BackendId;
use crate::model::BucketName;
use crate::model::ObjectKey;
use crate::model::Placement;
use crate::model::Routing;
use crate::model::WriteConditions;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Durability;
use crate::store::StoreSettings;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

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
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let ids = Arc::new(Ids::new(clock.clone()));
        let settings = StoreSettings {
            data_dir: dir.path().join("data"),
            durability: Durability::ProcessExit,
            readers: 2,
        };
        let store = Store::open(settings, clock.clone(), ids).unwrap();
        let (mut faults, mut backends, mut declared) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=3 {
            let (id, name) = (BackendId(number), format!("disk{number}"));
            faults.push(Faults::default());
            let root = dir.path().join(&name);
            let breaks = faults[faults.len() - 1].clone();
            backends.push(Backend::for_tests(&name, id, Some(&root), breaks).await);
            declared.push(DeclaredBackend { id, location: name.clone(), name, quota: None });
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
            },
        };
        self.engine.put_object(put).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, EngineError> {
        let key = ObjectKey::new(key).unwrap();
        let mut got = self.engine.get_object("bucket", key, GetOptions::default()).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = got.body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
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
        self.engine.store.ledger().await.unwrap().iter().map(|row| row.reserved).sum()
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
    let cleaned = async { while world.engine.cleanup_once().await.unwrap().deleted > 0 {} };
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
