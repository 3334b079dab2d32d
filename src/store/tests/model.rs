//! The store is a map, whatever happens.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put { bucket: usize, key: u8, sizes: Vec<u64>, replicas: usize, tag: u8 },
    PutIf { bucket: usize, key: u8, tag: u8, wanted: Option<u8> },
    Copy { from: usize, key: u8, to: usize, new: u8 },
    Delete { bucket: usize, key: u8 },
    Abandon { replicas: usize },
    Multipart { bucket: usize, key: u8, tag: u8, is_aborted: bool },
    Late { bucket: usize, key: u8, tag: u8 },
    Clean,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    // Few keys and buckets, so that operations collide.
    let (bucket, key) = (0usize..2, 0u8..3);
    let sizes = prop::collection::vec(1u64..50, 0..3);
    prop_oneof![
        5 => (bucket.clone(), key.clone(), sizes, 1usize..4, any::<u8>()).prop_map(
            |(bucket, key, sizes, replicas, tag)| Op::Put { bucket, key, sizes, replicas, tag }),
        2 => (bucket.clone(), key.clone(), any::<u8>(), prop::option::of(any::<u8>())).prop_map(
            |(bucket, key, tag, wanted)| Op::PutIf { bucket, key, tag, wanted }),
        3 => (bucket.clone(), key.clone(), bucket.clone(), key.clone()).prop_map(
            |(from, key, to, new)| Op::Copy { from, key, to, new }),
        3 => (bucket.clone(), key.clone()).prop_map(|(bucket, key)| Op::Delete { bucket, key }),
        1 => (1usize..4).prop_map(|replicas| Op::Abandon { replicas }),
        2 => (bucket.clone(), key.clone(), any::<u8>(), any::<bool>()).prop_map(
            |(bucket, key, tag, is_aborted)| Op::Multipart { bucket, key, tag, is_aborted }),
        2 => (bucket, key, any::<u8>()).prop_map(
            |(bucket, key, tag)| Op::Late { bucket, key, tag }),
        2 => Just(Op::Clean),
        1 => Just(Op::Restart),
    ]
}

type Objects = BTreeMap<(usize, u8), (Etag, u64)>;

struct Run {
    world: World,
    buckets: [BucketId; 2],
    objects: Objects,
    /// Where the replicas of the blobs of plain puts were promised to be.
    paths: BTreeMap<WriteId, String>,
}

impl Run {
    fn promise(&mut self, registered: &[Registered]) {
        let intents = registered.iter().flat_map(|blob| &blob.intents);
        self.paths.extend(intents.map(|intent| (intent.write, intent.path.clone())));
    }

    async fn new() -> Run {
        let world = World::new().await;
        let other = world.store.bucket_create(name("other")).await.unwrap();
        Run {
            buckets: [world.bucket.id, other.id],
            world,
            objects: Objects::new(),
            paths: BTreeMap::new(),
        }
    }

    async fn step(&mut self, op: Op) {
        let store = self.world.store.clone();
        match op {
            Op::Put { bucket, key, sizes, replicas, tag } => {
                let at = format!("key-{key}");
                let registered = self.world.register_for(&at, &sizes, replicas).await.unwrap();
                self.promise(&registered);
                let blobs = finished(&registered);
                let put = commit(self.buckets[bucket], &at, tag, blobs);
                store.version_commit(put).await.unwrap();
                self.objects.insert((bucket, key), (etag(tag), sizes.iter().sum()));
            }
            Op::PutIf { bucket, key, tag, wanted } => {
                let registered = self.world.register(&[4], 1).await;
                let blobs = finished(&registered);
                let mut put = commit(self.buckets[bucket], &format!("key-{key}"), tag, blobs);
                put.conditions = wanted.map_or_else(if_none_match_any, if_match);
                let current = self.objects.get(&(bucket, key)).map(|(etag, _)| *etag);
                let may = match wanted {
                    None => current.is_none(),
                    Some(wanted) => current == Some(etag(wanted)),
                };
                assert_eq!(store.version_commit(put).await.is_ok(), may);
                if may {
                    self.objects.insert((bucket, key), (etag(tag), 4));
                }
            }
            Op::Copy { from, key, to, new } => self.copy(from, key, to, new).await,
            Op::Delete { bucket, key } => {
                let none = WriteConditions::default();
                let at = super::key(&format!("key-{key}"));
                let was = store.object_delete(self.buckets[bucket], at, none).await.unwrap();
                assert_eq!(was, self.objects.remove(&(bucket, key)).is_some());
            }
            Op::Abandon { replicas } => {
                let registered = self.world.register(&[6, 7], replicas).await;
                let write = registered[0].intents[0].write;
                let failed = vec![FailedWrite { write, unknown: false }];
                let given_up = vec![(registered[0].blob, failed), (registered[1].blob, Vec::new())];
                store.blobs_abandon(given_up).await.unwrap();
            }
            Op::Multipart { bucket, key, tag, is_aborted } => {
                self.multipart(bucket, key, tag, is_aborted).await;
            }
            Op::Late { bucket, key, tag } => {
                let registered = self.world.register(&[11], 3).await;
                let mut blobs = finished(&registered);
                let late = blobs[0].good.split_off(1);
                let put = commit(self.buckets[bucket], &format!("key-{key}"), tag, blobs);
                store.version_commit(put).await.unwrap();
                // One leg finishes, the other is left to whatever comes.
                store.replica_commit(late[0]).await.unwrap();
                self.objects.insert((bucket, key), (etag(tag), 11));
            }
            Op::Clean => {
                self.world.advance(2 * HOUR);
                self.world.clean().await;
            }
            Op::Restart => {
                self.world.restart().await;
                self.world.settle_dead(|_| false).await;
                assert_eq!(self.world.ledger().await.1, 0, "no reserved byte is left");
            }
        }
    }

    async fn copy(&mut self, from: usize, key: u8, to: usize, new: u8) {
        let store = &self.world.store;
        let source_key = super::key(&format!("key-{key}"));
        let Ok(head) = store.object_head(self.buckets[from], source_key.clone()).await else {
            return;
        };
        let copy = CopyVersion {
            source_bucket: self.buckets[from],
            source_key,
            source_seq: head.seq,
            bucket: self.buckets[to],
            key: super::key(&format!("key-{new}")),
            conditions: WriteConditions::default(),
            create_only: false,
            headers: None,
            tags: None,
            etag: None,
            checksums: None,
            present: BACKENDS.to_vec(),
        };
        store.version_copy(copy).await.unwrap();
        self.objects.insert((to, new), (head.meta.etag, head.meta.size));
    }

    async fn multipart(&mut self, bucket: usize, key: u8, tag: u8, is_aborted: bool) {
        let store = &self.world.store;
        let at = super::key(&format!("key-{key}"));
        let new = NewUpload {
            bucket: self.buckets[bucket],
            key: at.clone(),
            meta: NewMeta::default(),
            checksum: None,
            initiator: "K".into(),
        };
        let upload = store.upload_create(new).await.unwrap();
        let mut parts = Vec::new();
        for number in [3, 1, 2] {
            let registered = self.world.register(&[u64::from(number), 5], 1).await;
            let part = CommitPart {
                upload: upload.id,
                bucket: upload.bucket,
                key: at.clone(),
                number,
                md5: [0; 16],
                checksums: Vec::new(),
                blobs: finished(&registered),
            };
            parts.push(store.part_commit(part).await.unwrap());
        }
        if is_aborted {
            store.upload_abort(upload.id, upload.bucket, at).await.unwrap();
            return;
        }
        let etag = Etag { md5: [tag; 16], parts: Some(2) };
        let complete = CompleteUpload {
            upload: upload.id,
            bucket: upload.bucket,
            key: at,
            conditions: WriteConditions::default(),
            create_only: false,
            parts: vec![(1, parts[1].seq), (3, parts[0].seq)],
            etag,
            checksums: Vec::new(),
            checksum_type: ChecksumType::FullObject,
            present: BACKENDS.to_vec(),
        };
        store.upload_complete(complete).await.unwrap();
        self.objects.insert((bucket, key), (etag, 14));
    }

    async fn check(&self) {
        self.world.verify().await;
        for condemned in self.world.due().await {
            let promised = self.paths.get(&WriteId(condemned.id));
            assert!(promised.is_none_or(|promised| *promised == condemned.path));
        }
        for bucket in 0..2 {
            for key in 0u8..3 {
                let at = super::key(&format!("key-{key}"));
                let found = self.world.store.object_find(self.buckets[bucket], at).await;
                let seen = found.ok().map(|f| {
                    let bytes: u64 = f.entries.iter().map(|entry| entry.length).sum();
                    assert_eq!(bytes, f.head.meta.size);
                    for replica in f.entries.iter().flat_map(|entry| &entry.replicas) {
                        let promised = self.paths.get(&replica.write);
                        assert!(promised.is_none_or(|promised| *promised == replica.path));
                    }
                    (f.head.meta.etag, f.head.meta.size)
                });
                assert_eq!(seen, self.objects.get(&(bucket, key)).copied());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The store behaves like a map, whatever the order and however often it restarts.
    #[test]
    fn the_store_is_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for op in ops {
                run.step(op).await;
                run.check().await;
            }
            // Deleting everything leaves nothing.
            for (bucket, key) in run.objects.clone().into_keys() {
                run.step(Op::Delete { bucket, key }).await;
            }
            for _ in 0..2 {
                run.step(Op::Clean).await;
            }
            run.step(Op::Restart).await;
            for _ in 0..2 {
                run.step(Op::Clean).await;
            }
            run.check().await;
            assert_eq!(run.world.ledger().await, (0, 0, 0));
        });
    }
}
