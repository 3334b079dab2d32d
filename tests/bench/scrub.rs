//! A clean scrub, against reading and hashing the same files without Larder.
//!
//! The files are in the page cache for both, so the figures are what Larder costs beside BLAKE3,
//! and not what the disk gives. The engine runs in this process, on a store and a root of its own.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use larder::backend::faulty::Faults;
use larder::backend::{Backend, Fleet};
use larder::base::{Clock, Ids};
use larder::engine::{Body, Engine, EngineSettings, Expected, NewMeta, Next, PutObject};
use larder::engine::{ScrubCursor, ScrubSettings};
use larder::model::{BackendId, BucketName, ObjectKey, Placement, Routing, WriteConditions};
use larder::store::{Declaration, DeclaredBackend, Durability, Store, StoreSettings};

use crate::Options;
use crate::content::content;
use crate::table::Table;
use crate::world::object_files;

const MIB: usize = 1 << 20;
/// The defaults of the worker.
const SETTINGS: ScrubSettings = ScrubSettings {
    batch: 100,
    concurrency: 2,
    interval: Duration::from_secs(6 * 3600),
    pass: Duration::from_secs(30 * 24 * 3600),
    rate: 0,
    window: None,
};

pub(crate) fn scrub(options: &Options, table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (count, size, what) in [(8, 64 * MIB, "8 x 64 MiB"), (2000, 16 << 10, "2000 x 16 KiB")] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("disk");
        let engine = runtime.block_on(filled(dir.path(), &root, count, size));
        let files = object_files(&root);
        assert_eq!(files.len(), count);
        let mib = (count * size) as f64 / MIB as f64;
        let (ours, one, two, tool) = (
            format!("scrub, {what}"),
            format!("read + BLAKE3, one thread, {what}"),
            format!("read + BLAKE3, {} threads, {what}", SETTINGS.concurrency),
            format!("b3sum, {what}"),
        );
        // The first time the files come into the cache.
        hash_all(&files, 1);
        for _ in 0..options.rounds.max(3) {
            table.add(&one, mib / seconds(|| hash_all(&files, 1)), "MiB/s");
            let at_once = SETTINGS.concurrency;
            table.add(&two, mib / seconds(|| hash_all(&files, at_once)), "MiB/s");
            if let Some(taken) = b3sum(&files) {
                table.add(&tool, mib / taken, "MiB/s");
            }
            let scrubbed = || runtime.block_on(full_pass(&engine, count as u64));
            table.add(&ours, mib / seconds(scrubbed), "MiB/s");
        }
        table.ratio(&format!("scrub of one thread, {what}"), &ours, &one);
        table.ratio(&format!("scrub of {} threads, {what}", SETTINGS.concurrency), &ours, &two);
        table.ratio(&format!("scrub of b3sum, {what}"), &ours, &tool);
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

async fn full_pass(engine: &Engine, count: u64) {
    let mut cursor = ScrubCursor::default();
    let mut verified = 0;
    loop {
        let step = engine.scrub_step(&mut cursor, &SETTINGS, true).await.expect("it scrubs");
        verified += step.counts.get("verified").copied().unwrap_or(0);
        if step.next != Next::Now {
            break;
        }
    }
    assert_eq!(verified, count, "everything is verified");
}

/// Hashes the files whole, shared out among threads.
fn hash_all(files: &[PathBuf], threads: usize) {
    thread::scope(|scope| {
        for first in 0..threads {
            let own = files.iter().skip(first).step_by(threads);
            scope.spawn(move || {
                own.for_each(|file| {
                    std::hint::black_box(hash(file));
                });
            });
        }
    });
}

fn hash(path: &Path) -> blake3::Hash {
    let mut file = fs::File::open(path).expect("the file is there");
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece).expect("the disk reads") {
            0 => return hasher.finalize(),
            length => hasher.update(&piece[..length]),
        };
    }
}

/// The seconds of the program of this name, where it is installed.
fn b3sum(files: &[PathBuf]) -> Option<f64> {
    let begin = Instant::now();
    let ran = Command::new("b3sum").args(files).stdout(Stdio::null()).status().ok()?;
    assert!(ran.success());
    Some(begin.elapsed().as_secs_f64())
}

/// An engine over one root with so many objects of this size.
async fn filled(dir: &Path, root: &Path, count: usize, size: usize) -> Arc<Engine> {
    let clock = Clock::system();
    let ids = Arc::new(Ids::new(clock.clone()));
    let settings = StoreSettings {
        data_dir: dir.join("data"),
        durability: Durability::PowerLoss,
        readers: 2,
        ballast: 0,
    };
    let store = Store::open(settings, clock.clone(), ids).expect("the store opens");
    let id = BackendId(1);
    let backend = Backend::for_tests("disk", id, Some(root), Faults::default()).await;
    let own = DeclaredBackend {
        id,
        name: "disk".into(),
        location: "disk".into(),
        quota: None,
        account: None,
    };
    let placement = Placement {
        replicas: 1,
        min_replicas: 1,
        routing: Routing::Pack,
        require_distinct: Vec::new(),
    };
    let declaration = Declaration {
        backends: vec![own],
        buckets: Vec::new(),
        keys: Vec::new(),
        default_placement: placement,
    };
    store.declare(declaration).await.expect("the store takes it");
    let settings = EngineSettings {
        blob_max: 256 << 20,
        same_device: true,
        tail_wait: Duration::from_secs(1),
        admission: Default::default(),
    };
    let engine = Engine::new(store, Fleet::new(vec![backend]), settings, 256 << 20, clock);
    let bucket = BucketName::new("bench").expect("a name");
    engine.create_bucket(bucket, None).await.expect("a bucket");
    let puts = (0..count).map(|n| put(&engine, n, size));
    stream::iter(puts).buffer_unordered(16).collect::<Vec<()>>().await;
    engine
}

async fn put(engine: &Arc<Engine>, n: usize, size: usize) {
    let body = Bytes::from(content("scrub", n as u64, size));
    let frames = (0..size).step_by(MIB).map(move |at| Ok(body.slice(at..size.min(at + MIB))));
    let put = PutObject {
        bucket: "bench".into(),
        key: ObjectKey::new(format!("object-{n:010}")).expect("a key"),
        meta: NewMeta::default(),
        conditions: WriteConditions::default(),
        create_only: false,
        body: Body {
            size: size as u64,
            stream: stream::iter(frames.collect::<Vec<_>>()).boxed(),
            expected: Expected::default(),
            trailer: None,
            draws: true,
            waits: false,
        },
    };
    engine.put_object(put).await.expect("it is stored");
}
