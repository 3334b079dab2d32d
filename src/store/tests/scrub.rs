//! The scrubber's pages, position and results.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::faults::hold_writer;
use super::*;
use crate::base::Timestamp;
use crate::store::scrub::WALK_MAX;

const FIRST: BackendId = BACKENDS[0];

impl World {
    fn now(&self) -> Timestamp {
        Timestamp(self.hand.load(Ordering::Acquire))
    }

    async fn page(&self, backend: BackendId, after: WriteId, max: usize) -> ScrubPage {
        self.store.scrub_page(backend, after, max, false).await.unwrap()
    }

    async fn all_on(&self, backend: BackendId) -> Vec<ScrubReplica> {
        self.page(backend, WriteId(0), 200).await.replicas
    }

    /// An object of one blob on each of so many backends.
    async fn put_on(&self, at: &str, replicas: usize) -> BlobId {
        let registered = self.register_for(at, &[7], replicas).await.unwrap();
        let put = commit(self.bucket.id, at, 1, finished(&registered));
        self.store.version_commit(put).await.unwrap();
        registered[0].blob
    }

    async fn record(&self, results: Vec<(WriteId, Scrubbed)>) -> Vec<ScrubMarked> {
        let marked = self.store.scrub_record(FIRST, None, results).await.unwrap();
        self.verify().await;
        marked
    }

    async fn due_blobs(&self) -> Vec<BlobId> {
        let short = self.store.blobs_short(u64::MAX, 100).await.unwrap();
        short.into_iter().map(|short| short.blob).collect()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Put(u8),
    Delete(u8),
    Page(usize),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_u8..30).prop_map(Event::Put),
        1 => (0_u8..30).prop_map(Event::Delete),
        4 => (1_usize..4).prop_map(Event::Page),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is written, deleted or restarted meanwhile.
    #[test]
    fn a_pass_visits_each_replica_once_and_leaves_none_out(
        before in 0_u8..20, events in prop::collection::vec(event(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for n in 0..before {
                world.put_on(&format!("key-{n}"), 1 + usize::from(n % 3)).await;
            }
            let mut visited = BTreeSet::new();
            world.store.scrub_record(FIRST, Some(ScrubPass::begin(world.now())), vec![]).await.unwrap();
            // Whatever happened, it is gone on with to the end.
            for event in events.into_iter().chain(std::iter::repeat_with(|| Event::Page(3))) {
                let mut pass = world.store.scrub_pass(FIRST).await.unwrap().unwrap();
                if pass.is_over {
                    break;
                }
                match event {
                    Event::Put(n) => drop(world.put_on(&format!("key-{n}"), 2).await),
                    Event::Delete(n) => drop(world.delete(&format!("key-{n}")).await),
                    Event::Restart => world.restart().await,
                    Event::Page(max) => {
                        let page = world.page(FIRST, pass.after, max).await;
                        let writes = page.replicas.iter().map(|found| found.replica.write);
                        let verified = writes.map(|write| (write, Scrubbed::Verified)).collect::<Vec<_>>();
                        for (write, _) in &verified {
                            assert!(visited.insert(*write), "{write} was visited twice");
                        }
                        pass.done += verified.len() as u64;
                        (pass.after, pass.is_over) = (page.upto, page.is_end);
                        world.store.scrub_record(FIRST, Some(pass), verified).await.unwrap();
                    }
                }
                world.verify().await;
            }
            let pass = world.store.scrub_pass(FIRST).await.unwrap().unwrap();
            assert_eq!(pass.done, visited.len() as u64);
            for found in world.all_on(FIRST).await {
                assert!(visited.contains(&found.replica.write), "one was left out");
                assert!(found.checked.is_some());
            }
        });
    }
}

/// What a batch in which this is recorded is synced like: `PRAGMA synchronous`.
async fn synced_like(store: &Store, results: Vec<(WriteId, Scrubbed)>) -> Option<u32> {
    let hold = hold_writer(store).await;
    let recorded = store.scrub_record(FIRST, None, results);
    let level = store
        .write(Lane::Work, Need::Recorded, |tx| tx.one("PRAGMA synchronous", [], |row| row.get(0)));
    let release = async { drop(hold) };
    let (recorded, level, ()) = tokio::join!(recorded, level, release);
    recorded.unwrap();
    level.unwrap()
}

#[tokio::test]
async fn what_can_cost_a_replica_its_row_is_durable_before_it_is_answered() {
    const NORMAL: Option<u32> = Some(1);
    const FULL: Option<u32> = Some(2);
    let mut world = World::new().await;
    world.put_on("key", 1).await;
    world.store.close().await;
    let clock = Clock::steered(Arc::clone(&world.hand));
    let settings = StoreSettings {
        data_dir: world.dir.path().to_owned(),
        durability: Durability::PowerLoss,
        readers: 2,
        ballast: 0,
    };
    let ids = Arc::new(Ids::seeded(clock.clone(), 7));
    world.store = Store::open(settings, clock, ids).unwrap();
    let write = world.all_on(FIRST).await[0].replica.write;
    let verified = || vec![(write, Scrubbed::Verified)];
    assert_eq!(synced_like(&world.store, verified()).await, NORMAL);
    assert_eq!(synced_like(&world.store, vec![(write, Scrubbed::Damaged)]).await, FULL);
    // That it is good again can make another one needless.
    let plain = (Need::Recorded, None);
    let taken = world.store.scrub_take(FIRST, plain, Arc::new(verified())).await;
    assert!(matches!(taken, Err(StoreError::Changed)), "{taken:?}");
    let marked = world.record(verified()).await;
    assert_eq!((marked.len(), marked[0].state), (1, ReplicaState::Good));
}

#[tokio::test]
async fn a_page_ends_after_a_bound_of_rows_and_says_so() {
    let world = World::new().await;
    let blob = world.put_on("key", 2).await;
    // Rows of another backend lie between, as many as a page looks at and more.
    world
        .store
        .write(Lane::Request, Need::Recorded, move |tx| {
            let last = tx.ids.next();
            for n in 1..=WALK_MAX as u64 + 5 {
                tx.run(
                    "INSERT INTO replicas (write, blob, backend, dead, state, form)
                     SELECT ?1, ?2, no, ?1, 2, 0 FROM backends WHERE id = ?3",
                    (last + n, blob.0, BACKENDS[1].0),
                )?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let page = world.page(FIRST, WriteId(0), 10).await;
    assert_eq!((page.replicas.len(), page.walked, page.is_end), (1, WALK_MAX, false));
    let rest = world.page(FIRST, page.upto, 10).await;
    assert_eq!((rest.replicas.len(), rest.walked, rest.is_end), (0, 7, true));
}

#[tokio::test]
async fn what_was_found_is_marked_and_the_blob_is_due() {
    let world = World::new().await;
    for (at, scrubbed, state) in [
        ("one", Scrubbed::Damaged, ReplicaState::Damaged),
        ("two", Scrubbed::Missing, ReplicaState::Missing),
        ("six", Scrubbed::Unreadable, ReplicaState::Unreadable),
    ] {
        let blob = world.put_on(at, 1).await;
        let write = world.all_on(FIRST).await.last().unwrap().replica.write;
        let marked = world.record(vec![(write, scrubbed.clone())]).await;
        assert_eq!(marked, [ScrubMarked { write, blob, state, is_alone: true }]);
        assert!(world.due_blobs().await.contains(&blob));
        assert_eq!(world.record(vec![(write, scrubbed)]).await, [], "it is said once");
    }
    let broken = world.store.broken_replicas(Some(FIRST), 10).await.unwrap();
    let object = |at: &str| Some(("photos".to_owned(), key(at)));
    let objects: Vec<_> = broken.iter().map(|broken| broken.object.clone()).collect();
    assert_eq!(objects, [object("two"), object("one"), object("six")]);
    assert!(broken.iter().all(|broken| broken.is_alone));
    assert_eq!(world.store.broken_replicas(Some(BACKENDS[1]), 10).await.unwrap(), []);
    let counts = world.store.broken_counts().await.unwrap();
    use ReplicaState::{Damaged, Missing, Unreadable};
    assert_eq!(counts, [(FIRST, Missing, 1), (FIRST, Damaged, 1), (FIRST, Unreadable, 1)]);
}

#[tokio::test]
async fn one_of_too_many_that_is_damaged_is_condemned_at_once() {
    let world = World::new().await;
    let blob = world.put_on("a", 3).await;
    let write = world.all_on(FIRST).await[0].replica.write;
    let marked = world.record(vec![(write, Scrubbed::Damaged)]).await;
    let state = ReplicaState::Damaged;
    assert_eq!(marked, [ScrubMarked { write, blob, state, is_alone: false }]);
    assert_eq!(world.due().await.len(), 1);
    assert_eq!(world.all_on(FIRST).await, []);
}

#[tokio::test]
async fn an_unreadable_one_that_is_read_again_stands_as_its_backend_does() {
    let world = World::new().await;
    let blob = world.put_on("a", 1).await;
    let write = world.all_on(FIRST).await[0].replica.write;
    let unreadable = async || {
        let none = (Timestamp(0), WriteId(0));
        world.store.scrub_unreadable(FIRST, none, 10).await.unwrap()
    };
    for (duty, state) in
        [(Duty::InUse, ReplicaState::Good), (Duty::Draining, ReplicaState::Leaving)]
    {
        let since = world.now();
        world.record(vec![(write, Scrubbed::Unreadable)]).await;
        world.store.backend_duty(FIRST, duty).await.unwrap();
        world.advance(HOUR);
        world.record(vec![(write, Scrubbed::Unreadable)]).await;
        let found = unreadable().await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].checked, Some(since), "since the first time");
        let marked = world.record(vec![(write, Scrubbed::Verified)]).await;
        assert_eq!(marked, [ScrubMarked { write, blob, state, is_alone: true }]);
        assert_eq!(unreadable().await, []);
        assert_eq!(world.all_on(FIRST).await[0].checked, Some(world.now()));
    }
}

#[tokio::test]
async fn what_changed_since_it_was_read_is_passed_over() {
    let world = World::new().await;
    world.put_on("a", 1).await;
    let write = world.all_on(FIRST).await[0].replica.write;
    world.store.backend_duty(FIRST, Duty::Away).await.unwrap();
    while !world.store.standing_follow(FIRST).await.unwrap().1 {}
    assert_eq!(world.record(vec![(write, Scrubbed::Missing)]).await, []);
    assert_eq!(world.store.replica_state(write).await.unwrap(), Some(ReplicaState::Away));
    assert!(world.delete("a").await);
    assert_eq!(world.record(vec![(write, Scrubbed::Damaged)]).await, []);
}

#[tokio::test]
async fn a_hash_is_set_once() {
    let world = World::new().await;
    world.put_on("a", 1).await;
    let known = world.all_on(FIRST).await.remove(0);
    let write = known.replica.write;
    world.store.blob_imported(known.replica).await.unwrap();
    world.verify().await;
    assert_eq!(world.all_on(FIRST).await[0].hash, None);
    for byte in [4, 5] {
        let hash = ScrubHash { hash: [byte; 32], groups: vec![[byte; 32]; 2] };
        world.record(vec![(write, Scrubbed::Hashed(hash))]).await;
        let found = world.all_on(FIRST).await.remove(0);
        assert_eq!((found.hash, found.checked), (Some([4; 32]), Some(world.now())));
    }
    assert_eq!(*world.store.blob_groups(known.blob).await.unwrap(), [[4; 32]; 2]);
}
