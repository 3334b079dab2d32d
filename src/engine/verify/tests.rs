//! Verify, over a real store and real directories that are tampered with.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::*;
use crate::backend::faulty::Faults;
use crate::base::Clock;
use crate::base::Ids;
use crate::engine::Body;
use crate::engine::EngineSettings;
use crate::engine::Expected;
use crate::engine::NewMeta;
use crate::engine::PutObject;
use crate::model::BucketName;
use crate::model::ObjectKey;
use crate::model::Placement;
use crate::model::Routing;
use crate::model::WriteConditions;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Durability;
use crate::store::Store;
use crate::store::StoreSettings;

struct World {
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
}

impl World {
    /// Two backends, and a bucket whose objects are on both.
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let ids = Arc::new(Ids::new(clock.clone()));
        let settings = StoreSettings {
            data_dir: dir.path().join("data"),
            durability: Durability::ProcessExit,
            readers: 2,
            ballast: 0,
        };
        let store = Store::open(settings, clock.clone(), ids).unwrap();
        let (mut backends, mut declared) = (Vec::new(), Vec::new());
        for number in 1..=2 {
            let (id, name) = (BackendId(number), format!("disk{number}"));
            let root = dir.path().join(&name);
            backends.push(Backend::for_tests(&name, id, Some(&root), Faults::default()).await);
            declared.push(DeclaredBackend {
                id,
                location: name.clone(),
                name,
                quota: None,
                account: None,
            });
        }
        let placement = Placement {
            replicas: 2,
            min_replicas: 2,
            routing: Routing::Pack,
            require_distinct: vec![],
        };
        let declaration = Declaration {
            backends: declared,
            buckets: Vec::new(),
            keys: Vec::new(),
            default_placement: placement,
        };
        store.declare(declaration).await.unwrap();
        let settings = EngineSettings {
            blob_max: 4 << 20,
            same_device: true,
            tail_wait: Duration::from_secs(1),
            admission: crate::engine::AdmissionSettings::default(),
        };
        let engine = Engine::new(store, Fleet::new(backends), settings, 64 << 20, clock);
        engine.create_bucket(BucketName::new("bucket").unwrap(), None).await.unwrap();
        World { engine, dir }
    }

    async fn put(&self, key: &str, body: &'static [u8]) {
        let put = PutObject {
            bucket: "bucket".into(),
            key: ObjectKey::new(key).unwrap(),
            meta: NewMeta::default(),
            conditions: WriteConditions::default(),
            create_only: false,
            body: Body {
                size: body.len() as u64,
                stream: stream::iter([Ok(Bytes::from_static(body))]).boxed(),
                expected: Expected::default(),
                trailer: None,
                draws: true,
                waits: false,
            },
        };
        self.engine.put_object(put).await.unwrap();
    }

    /// The file of `key` on a backend.
    fn file(&self, disk: &str, key: &str) -> PathBuf {
        let found = fs::read_dir(self.dir.path().join(disk).join("bucket")).unwrap();
        let mut files = found.map(|file| file.unwrap().path());
        let is_it = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(key);
        files.find(is_it).unwrap()
    }

    async fn verify(&self, backends: bool, read: bool) -> Verified {
        let progress = VerifyProgress::default();
        let found = self.engine.verify(VerifyOptions { backends, read }, &progress).await.unwrap();
        assert_eq!(progress.replicas.load(Ordering::Relaxed), found.replicas);
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_as_it_should_be_is_clean() {
    let world = World::new().await;
    for key in ["a", "b", "c"] {
        world.put(key, b"twelve bytes").await;
    }
    for (backends, read) in [(false, false), (true, false), (false, true), (true, true)] {
        let found = world.verify(backends, read).await;
        assert!(found.is_clean(), "{:?}", found.faults);
        let replicas = if backends || read { 6 } else { 0 };
        assert_eq!((found.replicas, found.bytes), (replicas, 12 * replicas));
        let counted = backends.then_some(0);
        assert_eq!((found.foreign, found.debris), (counted, counted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_is_named_and_nothing_is_changed() {
    let world = World::new().await;
    for key in ["gone", "short", "bent", "long"] {
        world.put(key, b"twelve bytes").await;
    }
    fs::remove_file(world.file("disk1", "gone")).unwrap();
    fs::write(world.file("disk1", "short"), "twelve").unwrap();
    fs::write(world.file("disk2", "bent"), "twelve bytez").unwrap();
    fs::write(world.file("disk2", "long"), "twelve bytes and more").unwrap();
    let has = |found: &Verified, words: &[&str]| {
        let fault = found.faults.iter().find(|fault| words.iter().all(|w| fault.contains(w)));
        assert!(fault.is_some(), "{words:?} in {:?}", found.faults);
    };
    // Nothing that is reported is repaired, so it is reported again.
    for _ in 0..2 {
        let looked = world.verify(true, false).await;
        assert_eq!(looked.faults.len(), 3, "{:?}", looked.faults);
        has(&looked, &["disk1", "gone", "is not there"]);
        has(&looked, &["disk1", "short", "has 6 bytes, it should have 12"]);
        has(&looked, &["disk2", "long", "has 21 bytes"]);
    }
    let read = world.verify(false, true).await;
    assert_eq!(read.faults.len(), 4, "{:?}", read.faults);
    has(&read, &["disk2", "bent", "has other bytes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_a_row_are_counted_and_no_fault() {
    let world = World::new().await;
    world.put("a", b"twelve bytes").await;
    let own = world.file("disk1", "a");
    let path = own.to_str().unwrap();
    let other = format!("{}{}", &path[..path.len() - 4], "0000");
    fs::copy(&own, other).unwrap();
    fs::write(world.dir.path().join("disk2/photo.jpg"), "mine").unwrap();
    let found = world.verify(true, false).await;
    assert!(found.is_clean(), "{:?}", found.faults);
    assert_eq!((found.foreign, found.debris), (Some(1), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_believed_of_a_backend_that_is_absent() {
    let world = World::new().await;
    for key in ["a", "b"] {
        world.put(key, b"twelve bytes").await;
    }
    fs::rename(world.dir.path().join("disk1"), world.dir.path().join("away")).unwrap();
    let found = world.verify(true, false).await;
    let absent = "backend disk1 is absent: 2 replicas there could not be looked at";
    assert!(found.faults.iter().any(|fault| fault == absent), "{:?}", found.faults);
    assert!(found.faults.iter().all(|fault| !fault.contains("is not there")));
    assert_eq!(found.faults.len(), 2, "and one for the listing: {:?}", found.faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_condemned_meanwhile_is_no_fault() {
    let world = World::new().await;
    world.put("a", b"twelve bytes").await;
    let page = world.engine.store.replicas_page(WriteId(0), 10).await.unwrap();
    assert_eq!(page.len(), 2);
    let bucket = world.engine.bucket("bucket").unwrap();
    let (key, any) = (ObjectKey::new("a").unwrap(), WriteConditions::default());
    assert!(world.engine.store.object_delete(bucket.id, key, any).await.unwrap());
    // Its bytes lie there still and its row is gone: it is known, and no replica any more.
    let paths: Vec<String> = page.iter().map(|stored| stored.replica.path.clone()).collect();
    for stored in &page {
        let state = world.engine.store.replica_state(stored.replica.write).await.unwrap();
        assert_eq!(state, None);
    }
    let first = page[0].replica.backend;
    assert_eq!(world.engine.store.paths_known(first, paths).await.unwrap(), [true, false]);
    let found = world.verify(true, true).await;
    assert!(found.is_clean());
    assert_eq!((found.replicas, found.debris), (0, Some(0)));
}
