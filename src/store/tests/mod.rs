//! The store from outside: a small world on a temporary directory with a steered clock.

mod cleanup;
mod commits;
mod faults;
mod lifecycle;
mod listings;
mod model;
mod plans;
mod scrub;
mod settings;
mod survey;
mod uploads;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::model::path::PathForm;
use crate::model::*;

/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000;
const HOUR: i64 = 3_600_000_000;
const BACKENDS: [BackendId; 3] = [BackendId(101), BackendId(102), BackendId(103)];

struct World {
    dir: TempDir,
    hand: Arc<AtomicI64>,
    store: Store,
    bucket: Arc<Bucket>,
}

fn open(dir: &Path, hand: &Arc<AtomicI64>) -> Result<Store, StoreError> {
    open_with(dir, hand, 0)
}

fn open_with(dir: &Path, hand: &Arc<AtomicI64>, ballast: u64) -> Result<Store, StoreError> {
    let clock = Clock::steered(Arc::clone(hand));
    let ids = Arc::new(Ids::seeded(clock.clone(), 7));
    let settings = StoreSettings {
        data_dir: dir.to_owned(),
        durability: Durability::ProcessExit,
        readers: 2,
        ballast,
    };
    Store::open(settings, clock, ids)
}

fn placement(replicas: u32, min_replicas: u32) -> Placement {
    Placement { replicas, min_replicas, routing: Routing::Pack, require_distinct: Vec::new() }
}

fn declaration(quota: Option<u64>) -> Declaration {
    let backends = BACKENDS
        .into_iter()
        .map(|id| DeclaredBackend {
            id,
            name: format!("b{}", id.0),
            location: format!("fs:/{}", id.0),
            quota,
            account: None,
        })
        .collect();
    Declaration {
        backends,
        buckets: Vec::new(),
        keys: Vec::new(),
        default_placement: placement(1, 1),
    }
}

fn name(text: &str) -> BucketName {
    BucketName::new(text).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn etag(n: u8) -> Etag {
    Etag::of_body([n; 16])
}

/// The first `count` backends with room that do not hold it yet.
fn choose(count: usize) -> Choose {
    Box::new(move |rows, size, holders| {
        let targets: Vec<Target> = rows
            .iter()
            .filter(|row| !holders.living.contains(&row.backend))
            .filter(|r| r.quota.is_none_or(|q| r.used + r.reserved + r.orphan + size <= q))
            .take(count)
            .map(|row| Target { backend: row.backend, form: PathForm::Readable })
            .collect();
        (targets.len() == count).then_some(targets)
    })
}

fn on(backend: BackendId) -> Choose {
    Box::new(move |_, _, _| Some(vec![Target { backend, form: PathForm::Opaque }]))
}

fn finished(registered: &[Registered]) -> Vec<FinishedBlob> {
    registered
        .iter()
        .map(|blob| FinishedBlob {
            blob: blob.blob,
            hash: [9; 32],
            groups: Vec::new(),
            good: blob.intents.iter().map(|intent| intent.write).collect(),
            failed: Vec::new(),
        })
        .collect()
}

fn commit(bucket: BucketId, at: &str, tag: u8, blobs: Vec<FinishedBlob>) -> CommitVersion {
    CommitVersion {
        bucket,
        key: key(at),
        conditions: WriteConditions::default(),
        create_only: false,
        meta: NewMeta::default(),
        etag: etag(tag),
        checksums: Vec::new(),
        checksum_type: ChecksumType::FullObject,
        blobs,
    }
}

fn if_none_match_any() -> WriteConditions {
    WriteConditions { if_match: None, if_none_match: Some(EtagMatch::Any) }
}

fn if_match(tag: u8) -> WriteConditions {
    let one = EtagMatch::OneOf(vec![etag(tag).to_string()]);
    WriteConditions { if_match: Some(one), if_none_match: None }
}

/// The operator's verbs, as short as tests want them.
impl Store {
    pub(crate) async fn bucket_create(&self, name: BucketName) -> Result<Arc<Bucket>, StoreError> {
        possible(self.bucket_create_with(name, BucketWishes::default(), None).await)
    }

    /// As if the blob had been imported, by this name, and nobody had read it since.
    pub(crate) async fn blob_imported(&self, replica: Replica) -> Result<(), StoreError> {
        self.write(Lane::Request, Need::Durable, move |tx| {
            let own = (replica.write.0, replica.path.as_str());
            tx.run("UPDATE replicas SET form = 2, own = ?2, borrowed = 1 WHERE write = ?1", own)?;
            tx.run(
                "UPDATE blobs SET hash = x'', groups = NULL
                 WHERE id = (SELECT blob FROM replicas WHERE write = ?1)",
                [replica.write.0],
            )?;
            Ok(())
        })
        .await
    }

    async fn bucket_set(&self, wishes: DeclaredBucket) -> Result<Arc<Bucket>, StoreError> {
        let DeclaredBucket { name, placement, max_uploads, quota, imports, .. } = wishes;
        let wishes = BucketWishes {
            replicas: Some(placement.replicas),
            min_replicas: Some(placement.min_replicas),
            routing: Some(placement.routing),
            require_distinct: Some(placement.require_distinct),
            max_uploads: Some(max_uploads),
            quota: Some(quota.unwrap_or(0)),
            imports: Some(imports),
        };
        possible(self.bucket_change(name, wishes).await)
    }
}

fn possible<T>(result: Result<T, WishError>) -> Result<T, StoreError> {
    result.map_err(|err| match err {
        WishError::Store(err) => err,
        WishError::Impossible(why) => panic!("{why}"),
    })
}

impl World {
    async fn new() -> World {
        World::with(declaration(None)).await
    }

    async fn with(declaration: Declaration) -> World {
        let dir = tempfile::tempdir().unwrap();
        let hand = Arc::new(AtomicI64::new(START));
        let store = open(dir.path(), &hand).unwrap();
        store.declare(declaration).await.unwrap();
        let bucket = store.bucket_create(name("photos")).await.unwrap();
        World { dir, hand, store, bucket }
    }

    fn advance(&self, micros: i64) {
        self.hand.fetch_add(micros, Ordering::AcqRel);
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path(), &self.hand).unwrap();
        self.bucket = self.store.bucket("photos").unwrap();
    }

    async fn register(&self, sizes: &[u64], replicas: usize) -> Vec<Registered> {
        self.try_register(sizes, replicas).await.unwrap()
    }

    async fn try_register(
        &self,
        sizes: &[u64],
        replicas: usize,
    ) -> Result<Vec<Registered>, StoreError> {
        self.register_for("x", sizes, replicas).await
    }

    async fn register_for(
        &self,
        at: &str,
        sizes: &[u64],
        replicas: usize,
    ) -> Result<Vec<Registered>, StoreError> {
        let blobs = sizes
            .iter()
            .enumerate()
            .map(|(piece, &size)| BlobRequest { size, stem: format!("photos/{at}~0.{piece}") })
            .collect();
        let bucket = &self.bucket;
        self.store.blobs_register(bucket.id, bucket.placement_id, blobs, choose(replicas)).await
    }

    async fn put(&self, at: &str, tag: u8, sizes: &[u64]) -> Committed {
        let registered = self.register_for(at, sizes, 1).await.unwrap();
        let commit = commit(self.bucket.id, at, tag, finished(&registered));
        self.store.version_commit(commit).await.unwrap()
    }

    async fn find(&self, at: &str) -> Result<Found, StoreError> {
        self.store.object_find(self.bucket.id, key(at)).await
    }

    async fn delete(&self, at: &str) -> bool {
        let none = WriteConditions::default();
        self.store.object_delete(self.bucket.id, key(at), none).await.unwrap()
    }

    async fn verify(&self) {
        assert_eq!(self.store.verify().await.unwrap(), Vec::<String>::new());
    }

    /// Used, reserved and orphan bytes of all backends together.
    async fn ledger(&self) -> (u64, u64, u64) {
        let rows = self.store.backends().await.unwrap();
        rows.iter().fold((0, 0, 0), |(used, reserved, orphan), row| {
            (used + row.used, reserved + row.reserved, orphan + row.orphan)
        })
    }

    /// The ledger when the writer has done all that it had to do of its own accord.
    async fn ledger_after_writes(&self) -> (u64, u64, u64) {
        self.store.free(Lane::Request, Need::Recorded, |_| Ok(())).await.unwrap();
        self.ledger().await
    }

    /// Drops dead intents for which `is_gone` holds and condemns the others: how many there were.
    async fn settle_dead(&self, is_gone: impl Fn(&DeadIntent) -> bool) -> usize {
        let mut count = 0;
        loop {
            let dead = self.store.intents_dead(WriteId(0), 200).await.unwrap();
            if dead.is_empty() {
                self.store.blobs_settle_dropped().await.unwrap();
                return count;
            }
            count += dead.len();
            for dead in dead {
                let failed = FailedWrite { write: dead.write, unknown: true };
                match is_gone(&dead) {
                    true => self.store.intent_drop(dead.write).await.unwrap(),
                    false => self.store.replica_abandon(failed).await.unwrap(),
                }
            }
        }
    }

    async fn due(&self) -> Vec<Condemned> {
        let mut due = Vec::new();
        for backend in BACKENDS {
            due.extend(self.store.condemned_due(backend, 1000).await.unwrap());
        }
        due
    }

    /// When the next of all paths is due.
    async fn next_due(&self) -> Option<crate::base::Timestamp> {
        let mut next = Vec::new();
        for backend in BACKENDS {
            next.extend(self.store.condemned_next(backend).await.unwrap());
        }
        next.into_iter().min()
    }

    /// Deletes everything that is due.
    async fn clean(&self) {
        let ids = self.due().await.iter().map(|row| row.id).collect();
        self.store.condemned_deleted(ids).await.unwrap();
    }
}
