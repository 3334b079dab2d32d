//! What becomes of intents whose writer is gone, over a real store that is opened again.

use std::path::PathBuf;

use super::*;
use crate::model::path::PathForm;
use crate::store::BlobRequest;
use crate::store::CommitVersion;
use crate::store::CopyWhen;
use crate::store::FinishedBlob;
use crate::store::Intent;
use crate::store::Registered;
use crate::store::Target;

const HOUR: Duration = Duration::from_secs(3600);
const NONE: [(&str, u64); 0] = [];

impl Steered {
    /// The next run of the process.
    async fn restart(&mut self) {
        let engine = &self.world.engine;
        engine.store.close().await;
        let settings = StoreSettings {
            data_dir: self.world.dir.path().join("data"),
            durability: Durability::ProcessExit,
            readers: 2,
            ballast: 0,
        };
        let clock = engine.clock.clone();
        let store =
            Store::open(settings, clock.clone(), Arc::new(Ids::new(clock.clone()))).unwrap();
        let fleet = Fleet::new(engine.fleet.load().all().to_vec());
        let settings = EngineSettings::clone(&engine.settings.load());
        let engine = Engine::new(store, fleet, settings, 64 << 20, clock);
        self.world.engine = engine;
    }

    /// The promise of one more replica of the object's only blob, on the second backend.
    async fn promise(&self, key: &str) -> Intent {
        let bucket = self.engine.bucket("bucket").unwrap();
        let found = self.engine.store.object_find(bucket.id, ObjectKey::new(key).unwrap());
        let blob = found.await.unwrap().entries[0].blob;
        let second = |_: &_, _, _: &_| Some(vec![target(2)]);
        let store = &self.engine.store;
        store.replica_register(blob, CopyWhen::Always, Box::new(second)).await.unwrap()
    }

    fn place(&self, intent: &Intent) -> PathBuf {
        self.dir.path().join(format!("disk{}", intent.backend.0)).join(&intent.path)
    }

    fn lay(&self, intent: &Intent, body: &[u8]) {
        let place = self.place(intent);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, body).unwrap();
    }

    /// A pass of the reaper, in small steps; the store is in order after it.
    async fn reap(&self) -> Step {
        let mut cursor = ReapCursor::default();
        let step = work::to_the_end(async || self.engine.reap_step(&mut cursor, 2, 2).await).await;
        self.is_clean().await;
        step
    }
}

fn target(backend: u64) -> Target {
    Target { backend: BackendId(backend), form: PathForm::Readable }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_bytes_of_a_blob_that_exists_become_a_replica_once() {
    for size in [100, 3 * MIB] {
        let mut world = Steered::new(1).await;
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        let intent = world.promise("key").await;
        world.lay(&intent, &body);
        world.restart().await;
        let step = world.reap().await;
        assert_eq!((step.counts, step.backlog), ([("promoted", 1)].into(), Some(0)));
        assert_eq!(world.replicas("key").await, [2]);
        assert_eq!(world.reap().await.counts, NONE.into(), "there is nothing left to settle");
        world.cleans_up().await;
        world.faults[0].always(Call::Read, Effect::Fail(Fault::Passing));
        assert!(world.get("key").await.unwrap() == body, "the new replica is read");
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_become_no_replica_and_are_deleted() {
    for (size, len) in [(100, 100), (3 * MIB, 3 * MIB), (3 * MIB, MIB), (100, 0)] {
        let mut world = Steered::new(1).await;
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        let intent = world.promise("key").await;
        let mut other = body[..len].to_vec();
        other.last_mut().into_iter().for_each(|last| *last ^= 1);
        world.lay(&intent, &other);
        world.restart().await;
        assert_eq!(world.reap().await.counts, [("condemned", 1)].into(), "{size} {len}");
        assert_eq!(world.replicas("key").await, [1]);
        world.comes_to_rest().await;
        world.cleans_up().await;
        assert!(!world.place(&intent).exists());
        assert!(world.get("key").await.unwrap() == body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_dropped_and_deleted_again_an_hour_later() {
    let mut world = Steered::new(1).await;
    world.put("key", &bytes(100)).await.unwrap();
    let intent = world.promise("key").await;
    world.restart().await;
    assert_eq!(world.reap().await.counts, [("dropped", 1)].into());
    world.comes_to_rest().await;
    // The service was still busy with it.
    world.lay(&intent, &bytes(100));
    world.cleans_up().await;
    assert!(world.place(&intent).exists(), "it is not due yet");
    world.advance(HOUR);
    world.cleans_up().await;
    assert!(!world.place(&intent).exists());
    assert_eq!(world.replicas("key").await, [1]);
    let rows: u64 = world.engine.store.backends().await.unwrap().iter().map(|row| row.rows).sum();
    assert_eq!(rows, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intents_on_an_absent_backend_wait_until_it_is_back() {
    let mut world = Steered::new(1).await;
    let body = bytes(100);
    for key in ["one", "two", "three"] {
        world.put(key, &body).await.unwrap();
        let intent = world.promise(key).await;
        world.lay(&intent, &body);
    }
    world.restart().await;
    world.faults[1].lose_marker(true);
    let step = world.reap().await;
    assert_eq!((step.counts, step.backlog), ([("later", 3)].into(), Some(3)));
    assert_eq!(world.reserved().await, 300, "nothing is decided");
    world.faults[1].lose_marker(false);
    world.engine.fleet.load().get(BackendId(2)).unwrap().look().await.unwrap();
    let step = world.reap().await;
    assert_eq!((step.counts, step.backlog), ([("promoted", 3)].into(), Some(0)));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_run_is_writing_is_left_alone() {
    let mut world = Steered::new(1).await;
    let body = bytes(100);
    world.put("key", &body).await.unwrap();
    world.restart().await;
    let intent = world.promise("key").await;
    assert_eq!(world.reap().await, Step { backlog: Some(0), ..Step::default() });
    assert_eq!(world.reserved().await, 100);
    world.lay(&intent, &body);
    assert_eq!(world.reap().await.counts, NONE.into());
    world.engine.store.replica_commit(intent.write).await.unwrap();
    assert_eq!(world.replicas("key").await, [2]);
    world.comes_to_rest().await;
}

/// How far a put came when its process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    Registered,
    OneLegWritten,
    AllWritten,
    Committed,
}

async fn put_until(world: &Steered, came: Came, body: &[u8]) -> Vec<Intent> {
    let store = &world.engine.store;
    let bucket = world.engine.bucket("bucket").unwrap();
    let request = BlobRequest { size: body.len() as u64, stem: "bucket/new~0.0".into() };
    let both = |_: &_, _, _: &_| Some(vec![target(1), target(2)]);
    let register =
        store.blobs_register(bucket.id, bucket.placement_id, vec![request], Box::new(both));
    let Registered { blob, intents, .. } = register.await.unwrap().remove(0);
    if came >= Came::OneLegWritten {
        world.lay(&intents[0], body);
    }
    if came >= Came::AllWritten {
        world.lay(&intents[1], body);
    }
    if came == Came::Committed {
        let finished = FinishedBlob {
            blob,
            hash: *blake3::hash(body).as_bytes(),
            groups: Vec::new(),
            good: vec![intents[0].write],
            failed: Vec::new(),
        };
        let commit = CommitVersion {
            bucket: bucket.id,
            key: ObjectKey::new("new").unwrap(),
            conditions: WriteConditions::default(),
            create_only: false,
            meta: NewMeta::default(),
            etag: Etag::of_body([1; 16]),
            checksums: Vec::new(),
            checksum_type: crate::model::ChecksumType::FullObject,
            blobs: vec![finished],
        };
        store.version_commit(commit).await.unwrap();
    }
    intents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_a_crash_cut_off_at_any_step_leaves_nothing_or_the_whole_object() {
    for came in [Came::Registered, Came::OneLegWritten, Came::AllWritten, Came::Committed] {
        let mut world = Steered::new(1).await;
        world.put("old", &bytes(70_000)).await.unwrap();
        let body = bytes(1000);
        let intents = put_until(&world, came, &body).await;
        world.restart().await;
        let step = world.reap().await;
        let expected: &[(&str, u64)] = match came {
            Came::Registered => &[("dropped", 2)],
            Came::OneLegWritten => &[("condemned", 1), ("dropped", 1)],
            Came::AllWritten => &[("condemned", 2)],
            // The leg that was late joins.
            Came::Committed => &[("promoted", 1)],
        };
        assert_eq!(step.counts, expected.iter().copied().collect(), "{came:?}");
        world.comes_to_rest().await;
        world.cleans_up().await;
        world.advance(2 * HOUR);
        world.cleans_up().await;
        match came {
            Came::Committed => {
                assert!(world.get("new").await.unwrap() == body);
                assert_eq!((world.replicas("new").await, world.files()), (vec![2], 3));
            }
            _ => {
                let got = world.get("new").await;
                assert!(matches!(got, Err(EngineError::NoSuchKey)), "{came:?}");
                assert_eq!(world.files(), 1, "{came:?}");
                assert!(intents.iter().all(|intent| !world.place(intent).exists()));
            }
        }
        assert!(world.get("old").await.unwrap() == bytes(70_000));
        let left = world.engine.store.condemned_all(WriteId(0), 10).await.unwrap();
        assert!(left.is_empty(), "{came:?} {left:?}");
        // Another crash changes nothing.
        world.restart().await;
        assert_eq!(world.reap().await.counts, NONE.into());
        world.comes_to_rest().await;
    }
}
