//! Background work over a real store and real directories.

mod meanwhile;
mod reconcile;

use super::*;
use crate::engine::copy_blob::CopyBlobError;
use crate::engine::move_replica::Move;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::store::Replica;
use crate::store::StoreError;

const BATCH: usize = 50;

impl World {
    pub(super) async fn blob(&self, key: &str) -> BlobId {
        let bucket = self.engine.bucket("bucket").unwrap();
        let key = ObjectKey::new(key).unwrap();
        self.engine.store.object_find(bucket.id, key).await.unwrap().entries[0].blob
    }

    /// The replicas of the object's only blob, by backend.
    pub(super) async fn stands(&self, key: &str) -> Vec<(u64, ReplicaState)> {
        let mut stands: Vec<_> =
            self.of(key).await.iter().map(|replica| (replica.backend.0, replica.state)).collect();
        stands.sort_unstable();
        stands
    }

    pub(super) async fn of(&self, key: &str) -> Vec<Replica> {
        self.engine.store.blob_replicas(self.blob(key).await).await.unwrap()
    }

    pub(super) async fn on(&self, key: &str, backend: u64) -> Replica {
        let all = self.of(key).await;
        all.into_iter().find(|replica| replica.backend == BackendId(backend)).unwrap()
    }

    pub(super) fn file(&self, replica: &Replica) -> std::path::PathBuf {
        self.dir.path().join(format!("disk{}", replica.backend.0)).join(&replica.path)
    }

    pub(super) async fn replicate(&self) -> Step {
        to_the_end(async || self.engine.replicate_step(BATCH, 4).await).await
    }

    pub(super) async fn thin(&self) -> Step {
        self.engine.surplus_step(&mut SurplusCursor::default(), BATCH, 4).await.unwrap()
    }

    pub(super) async fn drained(&self) -> Step {
        let mut cursor = DrainCursor::default();
        to_the_end(async || self.engine.drain_step(&mut cursor, BATCH, 4).await).await
    }

    /// Waits until `holds`.
    pub(super) async fn until(&self, holds: impl AsyncFn() -> bool) {
        let waits = async {
            while !holds().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waits).await.expect("it never came to hold");
    }

    /// What the bucket wishes for new objects.
    pub(super) async fn wish(&self, replicas: u32) {
        let wishes = BucketWishes { replicas: Some(replicas), ..BucketWishes::default() };
        let name = BucketName::new("bucket").unwrap();
        self.engine.store.bucket_change(name, wishes).await.unwrap();
    }

    /// Gives the three backends these quotas.
    pub(super) async fn quotas(&self, quotas: [Option<u64>; 3]) {
        let backends = (1..).zip(quotas).map(|(number, quota)| DeclaredBackend {
            id: BackendId(number),
            name: format!("disk{number}"),
            location: format!("disk{number}"),
            quota,
            account: None,
        });
        let declaration = Declaration {
            backends: backends.collect(),
            buckets: Vec::new(),
            keys: Vec::new(),
            default_placement: self.engine.bucket("bucket").unwrap().placement.clone(),
        };
        self.engine.store.declare(declaration).await.unwrap();
    }

    pub(super) async fn delete(&self, key: &str) {
        let key = ObjectKey::new(key).unwrap();
        self.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    }

    /// One replica more than the object's only blob should have, as when one comes back after
    /// another was made for it.
    async fn one_more(&self, key: &str) {
        let blob = self.blob(key).await;
        let fleet = Arc::new(self.engine.fleet.load().for_work());
        let extra = self.engine.copy_chooser(&fleet, &wish(3), "s/x~0.0".into(), Vec::new());
        let how = (crate::store::CopyWhen::Always, crate::engine::copy_blob::Ending::Good);
        self.engine.copy_blob(fleet, blob, how, extra).await.unwrap();
    }

    pub(super) async fn clean_up(&self) {
        while self.cleanup().await.deleted > 0 {}
    }

    pub(super) async fn used(&self) -> [u64; 3] {
        let rows = self.engine.store.backends().await.unwrap();
        [0, 1, 2].map(|n| rows[n].used)
    }

    pub(super) async fn head(&self, key: &str) -> Timestamp {
        let bucket = self.engine.bucket("bucket").unwrap();
        let key = ObjectKey::new(key).unwrap();
        self.engine.store.object_head(bucket.id, key).await.unwrap().meta.modified
    }

    pub(super) async fn is_clean(&self) {
        let wrong = self.engine.store.verify().await.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

/// Steps until there is nothing more to do now; what all of them did, and what the last one said.
pub(super) async fn to_the_end(mut step: impl AsyncFnMut() -> Result<Step, EngineError>) -> Step {
    let mut all = Step::default();
    loop {
        let one = step().await.unwrap();
        all.processed += one.processed;
        all.failed += one.failed;
        one.counts.iter().for_each(|(result, number)| all.add(result, *number));
        if one.next != Next::Now {
            return Step { next: one.next, backlog: one.backlog, ..all };
        }
    }
}

fn wish(replicas: u32) -> Placement {
    Placement { replicas, min_replicas: 1, routing: Routing::Pack, require_distinct: vec![] }
}

const GOOD: ReplicaState = ReplicaState::Good;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_write_left_out_is_made_good() {
    for size in [100, 3 * MIB] {
        let world = World::new(2, 1).await;
        world.faults[0].on(Call::Write, 1, Effect::Fail(Fault::Passing));
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        assert_eq!(world.replicas("key").await, [1]);
        // The next target in order fails too, and another is found in the same step.
        world.faults[0].on(Call::Write, 1, Effect::Fail(Fault::Passing));
        let step = world.replicate().await;
        assert_eq!((step.processed, step.failed), (1, 0));
        assert_eq!(world.stands("key").await, [(2, GOOD), (3, GOOD)]);
        assert_eq!(world.replicate().await.processed, 0, "there is nothing left to do");
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_source_is_marked_and_another_one_is_read() {
    let world = World::new(3, 1).await;
    let body = bytes(3 * MIB);
    world.put("key", &body).await.unwrap();
    let lost = world.on("key", 3).await;
    world.engine.store.replica_mark(lost.write, ReplicaState::Missing).await.unwrap();
    let damaged = world.on("key", 1).await;
    let mut text = std::fs::read(world.file(&damaged)).unwrap();
    text[2 * MIB] ^= 1;
    std::fs::write(world.file(&damaged), text).unwrap();
    world.replicate().await;
    world
        .until(async || {
            world.on("key", 1).await.state != GOOD || world.replicas("key").await == [3]
        })
        .await;
    world.replicate().await;
    assert_eq!(world.stands("key").await, [(1, GOOD), (2, GOOD), (3, GOOD)]);
    assert!(world.on("key", 1).await.write != damaged.write, "repair is a new replica");
    assert!(world.get("key").await.unwrap() == body);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_without_a_target_holds_up_no_other_and_waits_for_a_change() {
    let world = World::new(3, 1).await;
    world.put("one", &bytes(100)).await.unwrap();
    world.put("two", &bytes(100)).await.unwrap();
    for key in ["one", "two"] {
        let gone = world.on(key, 2).await;
        world.engine.store.replica_mark(gone.write, ReplicaState::Missing).await.unwrap();
    }
    world.faults[1].lose_marker(true);
    // It is noticed at the first call.
    world.engine.fleet.load().get(BackendId(2)).unwrap().look().await.unwrap_err();
    let step = world.engine.replicate_step(1, 1).await.unwrap();
    assert_eq!((step.counts.get("no_target"), step.next), (Some(&1), Next::Now));
    let step = world.replicate().await;
    assert_eq!((step.processed, step.counts.get("no_target")), (0, Some(&1)));
    let idle = Step { backlog: Some(2), ..Step::default() };
    assert_eq!(world.replicate().await, idle, "they are not looked at again");
    world.faults[1].lose_marker(false);
    world.engine.fleet.load().get(BackendId(2)).unwrap().look().await.unwrap();
    world.engine.fleet_changes();
    assert_eq!(world.replicate().await.processed, 2);
    assert_eq!(world.replicas("one").await, [3]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_that_it_is_full_is_asked_again_after_a_time() {
    let world = World::new(3, 1).await;
    for key in ["one", "two", "three"] {
        world.put(key, &bytes(100)).await.unwrap();
        let gone = world.on(key, 2).await;
        world.engine.store.replica_mark(gone.write, ReplicaState::Missing).await.unwrap();
    }
    // The others are not tried, and no change of the fleet will tell that they can be.
    world.faults[1].always(Call::Write, Effect::Fail(Fault::Full));
    let step = to_the_end(async || world.engine.replicate_step(BATCH, 1).await).await;
    assert_eq!(step.counts.get("no_target"), None, "{step:?}");
    assert_eq!(
        world.engine.store.blobs_short_count().await.unwrap(),
        (3, 0),
        "all wait for a time"
    );
    assert!(matches!(step.next, Next::At(_)), "{step:?}");
    world.faults[1].clear();
    let all_are_made = async || {
        world.engine.replicate_begin_pass().await.unwrap();
        world.replicate().await.backlog == Some(0)
    };
    world.until(all_are_made).await;
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_the_fullest_goes_and_only_after_the_others_were_seen() {
    let world = World::new(3, 1).await;
    let body = bytes(5000);
    world.put("key", &body).await.unwrap();
    world.wish(2).await;
    world.put("key2", &bytes(100)).await.unwrap();
    let step = world.thin().await;
    assert_eq!(step.processed, 0, "what was written keeps its placement");
    world.one_more("key2").await;
    assert_eq!(world.replicas("key2").await, [3]);
    // One of those that would stay is gone: nothing is given up, and it is known to be missing.
    let planned = world.engine.surplus_plan(BlobId(0), 10).await.unwrap().0;
    assert_eq!(planned.len(), 1);
    let all = world.of("key2").await;
    let stays = all.iter().find(|replica| replica.write != planned[0].write).unwrap();
    std::fs::remove_file(world.file(stays)).unwrap();
    let step = world.thin().await;
    assert_eq!((step.processed, step.failed), (0, 1));
    assert_eq!(world.engine.store.blobs_surplus_count().await.unwrap(), 0);
    assert_eq!(world.replicas("key2").await, [2]);
    assert!(world.get("key2").await.unwrap() == bytes(100));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_backend_is_empty_and_can_be_taken_back_before() {
    let world = World::new(2, 1).await;
    for n in 0..20 {
        world.put(&format!("key{n}"), &bytes(100 + n)).await.unwrap();
    }
    world.put("large", &bytes(2 * MIB)).await.unwrap();
    assert!(world.engine.drain("disk1").await.unwrap());
    assert!(!world.engine.drain("disk1").await.unwrap());
    // Writes avoid it at once.
    world.put("late", &bytes(10)).await.unwrap();
    assert_eq!(world.stands("late").await, [(2, GOOD), (3, GOOD)]);
    world.replicate().await;
    assert_eq!(world.on("key0", 1).await.state, ReplicaState::Leaving);
    assert!(world.engine.undrain("disk1").await.unwrap());
    world.replicate().await;
    assert_eq!(world.on("key0", 1).await.state, GOOD);
    world.thin().await;
    world.is_clean().await;
    assert!(world.engine.drain("disk1").await.unwrap());
    let step = world.drained().await;
    assert_eq!(step.backlog, Some(0), "{step:?}");
    world.clean_up().await;
    let row = world.engine.backend_row("disk1").await.unwrap();
    assert_eq!((row.rows, row.used, row.duty), (0, 0, Duty::Draining));
    assert!(world.get("large").await.unwrap() == bytes(2 * MIB));
    assert_eq!(world.replicas("key7").await, [2]);
    let holdings = world.engine.remove_backend("disk1", Leave::Bytes, false).await.unwrap();
    world.drained().await;
    assert_eq!(holdings, Holdings::default());
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_leave_is_told_and_not_tried_for_ever() {
    let world = World::new(3, 1).await;
    world.put("key", &bytes(100)).await.unwrap();
    world.engine.drain("disk1").await.unwrap();
    let step = world.drained().await;
    assert_eq!((step.next, step.counts.get("stuck")), (Next::Woken, Some(&1)));
    assert!(step.backlog.is_some_and(|left| left > 0));
    let progress = world.engine.drain_progress("disk1").await.unwrap().unwrap();
    assert_eq!((progress.rows, progress.bytes), (1, 100));
    let (_, holdings) = world.engine.backend_holdings("disk1").await.unwrap();
    assert_eq!((holdings.replicas, holdings.sole), (1, 0));
    let (why, number) = progress.stuck.first_key_value().unwrap();
    assert!(why.contains("no other backend") && *number == 1, "{why}");
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Leaving), (2, GOOD), (3, GOOD)]);
    // It is not the only one, so its owner may take the backend out all the same.
    world.engine.remove_backend("disk1", Leave::Nothing, false).await.unwrap();
    world.drained().await;
    assert_eq!(world.stands("key").await, [(2, GOOD), (3, GOOD)]);
    world.clean_up().await;
    assert_eq!(world.files(), 2);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_good_replica_is_not_removed_unless_that_is_said() {
    let world = World::new(1, 1).await;
    world.put("key", &bytes(100)).await.unwrap();
    let refused = world.engine.remove_backend("disk1", Leave::Bytes, false).await;
    let Err(EngineError::Store(err)) = refused else { panic!("{refused:?}") };
    assert!(matches!(*err, StoreError::SoleReplicas(1)));
    let purged = world.engine.remove_backend("disk1", Leave::Nothing, true).await;
    assert!(purged.is_err(), "the last bytes of an object are never deleted with a backend");
    assert!(world.get("key").await.unwrap() == bytes(100));
    world.engine.remove_backend("disk1", Leave::Bytes, true).await.unwrap();
    world.drained().await;
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Missing)]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_replica_takes_the_place_of_the_old_one_and_never_a_holders() {
    let world = World::new(2, 1).await;
    let body = bytes(2 * MIB);
    world.put("key", &body).await.unwrap();
    let modified = world.head("key").await;
    let fleet = Arc::new(world.engine.fleet.load().for_work());
    let old = world.on("key", 1).await;
    let wanted =
        |to: u64| Move { blob: BlobId(0), write: old.write, from: BackendId(1), to: BackendId(to) };
    let blob = world.blob("key").await;
    let moved = async |to| {
        let wanted = Move { blob, ..wanted(to) };
        world.engine.move_replica(&fleet, wanted, CondemnReason::Moved).await
    };
    let onto = moved(2).await.unwrap_err();
    assert!(matches!(onto, CopyBlobError::Store(StoreError::NoRoom { .. })), "{onto:?}");
    moved(3).await.unwrap();
    assert_eq!(world.stands("key").await, [(2, GOOD), (3, GOOD)]);
    assert_eq!(world.head("key").await, modified, "LastModified is the object's, not a replica's");
    // The replica that was to move is gone.
    let again = moved(1).await.unwrap_err();
    assert!(matches!(again, CopyBlobError::Store(StoreError::Changed)), "{again:?}");
    assert!(world.get("key").await.unwrap() == body);
    world.clean_up().await;
    assert_eq!(world.files(), 2);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_whose_end_cannot_be_seen_changes_nothing() {
    let world = World::new(1, 1).await;
    let body = bytes(2 * MIB);
    world.put("key", &body).await.unwrap();
    let blob = world.blob("key").await;
    let fleet = Arc::new(world.engine.fleet.load().for_work());
    let write = world.on("key", 1).await.write;
    let wanted = Move { blob, write, from: BackendId(1), to: BackendId(2) };
    for (call, effect) in [
        (Call::Stat, Effect::Fail(Fault::Passing)),
        (Call::Finish, Effect::FailAfter(Fault::Passing)),
        (Call::Piece, Effect::Truncate),
    ] {
        world.faults[1].on(call, 1, effect);
        let moved = world.engine.move_replica(&fleet, wanted, CondemnReason::Moved).await;
        assert!(moved.is_err(), "{call:?} {effect:?}");
        assert_eq!(world.stands("key").await, [(1, GOOD)]);
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spreading_equalises_and_packing_consolidates_and_a_second_run_plans_nothing() {
    let world = World::new(1, 1).await;
    world.quotas([Some(20_000), Some(10_000), None]).await;
    for n in 0..18 {
        world.put(&format!("key{n}"), &bytes(1000)).await.unwrap();
    }
    assert_eq!(world.used().await, [18_000, 0, 0]);
    let rules = |strategy, batch| RebalanceRules { strategy, threshold: 0.1, batch };
    let run = async |strategy, batch| {
        let step = world.engine.rebalance_step(rules(strategy, batch), 3).await.unwrap();
        world.clean_up().await;
        world.is_clean().await;
        step
    };
    let plan = world.engine.rebalance_plan(rules(Strategy::Spread, 100)).await.unwrap().unwrap();
    assert_eq!((plan.len(), plan[0].money), (6, Some(0.0)));
    assert_eq!(run(Strategy::Spread, 4).await.processed, 4);
    assert_eq!(run(Strategy::Spread, 100).await.processed, 2);
    assert_eq!(world.used().await, [12_000, 6_000, 0], "the one without a quota takes no part");
    let again = run(Strategy::Spread, 100).await;
    assert_eq!(again.counts.get("skipped_threshold"), Some(&1), "{again:?}");
    // Two thirds each; a little more on one of them decides which is the fullest.
    world.put("more", &bytes(1000)).await.unwrap();
    world.quotas([Some(20_000), Some(8_000), None]).await;
    world.quotas([Some(40_000), Some(8_000), None]).await;
    run(Strategy::Pack, 100).await;
    assert_eq!(world.used().await, [11_000, 8_000, 0]);
    let again = run(Strategy::Pack, 100).await;
    assert_eq!(again.counts.get("skipped_empty_plan"), Some(&1), "{again:?}");
    for n in 0..18 {
        assert!(world.get(&format!("key{n}")).await.unwrap() == bytes(1000));
    }
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_to_a_backend_that_is_broken_or_drained_or_holds_it() {
    let world = World::new(2, 1).await;
    world.quotas([Some(10_000), Some(10_000), Some(10_000)]).await;
    for n in 0..5 {
        world.put(&format!("key{n}"), &bytes(1000)).await.unwrap();
    }
    assert_eq!(world.used().await, [5000, 5000, 0]);
    let rules = RebalanceRules { strategy: Strategy::Spread, threshold: 0.1, batch: 100 };
    world.faults[2].lose_marker(true);
    world.engine.fleet.load().get(BackendId(3)).unwrap().look().await.unwrap_err();
    let plan = world.engine.rebalance_plan(rules).await.unwrap();
    assert_eq!(plan, Err(Skipped::Threshold), "what cannot be reached takes no part");
    world.faults[2].lose_marker(false);
    world.engine.fleet.load().get(BackendId(3)).unwrap().look().await.unwrap();
    world.engine.drain("disk3").await.unwrap();
    assert_eq!(world.engine.rebalance_plan(rules).await.unwrap(), Err(Skipped::Threshold));
    world.engine.undrain("disk3").await.unwrap();
    let step = world.engine.rebalance_step(rules, 2).await.unwrap();
    assert_eq!(step.counts.get("moved"), Some(&step.processed));
    world.clean_up().await;
    assert_eq!(world.used().await.iter().sum::<u64>(), 10_000);
    for n in 0..5 {
        assert_eq!(world.replicas(&format!("key{n}")).await, [2]);
    }
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_seen_is_not_counted_on_when_a_backend_is_removed() {
    let world = World::new(2, 1).await;
    world.put("key", &bytes(100)).await.unwrap();
    // Its row says that the other one is good, and its disk is away.
    world.faults[1].lose_marker(true);
    world.engine.fleet.load().get(BackendId(2)).unwrap().look().await.unwrap_err();
    let refused = world.engine.remove_backend("disk1", Leave::Nothing, false).await;
    let Err(EngineError::Store(err)) = refused else { panic!("{refused:?}") };
    assert!(matches!(*err, StoreError::SoleReplicas(1)));
    world.faults[1].lose_marker(false);
    world.engine.fleet.load().get(BackendId(2)).unwrap().look().await.unwrap();
    // Or its file is gone, and nobody knows yet: nothing is let go for it.
    std::fs::remove_file(world.file(&world.on("key", 2).await)).unwrap();
    world.engine.remove_backend("disk1", Leave::Nothing, false).await.unwrap();
    let step = world.drained().await;
    assert_eq!((step.counts.get("removed"), step.counts.get("stuck")), (None, Some(&1)));
    world.clean_up().await;
    assert!(world.get("key").await.unwrap() == bytes(100));
    // Once there is another it goes, by itself.
    let gone = world.on("key", 2).await;
    world.engine.store.replica_mark(gone.write, ReplicaState::Missing).await.unwrap();
    world.replicate().await;
    world.drained().await;
    world.clean_up().await;
    assert_eq!(world.stands("key").await, [(2, GOOD), (3, GOOD)]);
    assert!(world.engine.store.removals().await.unwrap().is_empty());
    assert_eq!(world.engine.backend_row("disk1").await.unwrap().rows, 0);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_written_when_a_drain_begins_leaves_too() {
    let world = World::new(2, 1).await;
    world.put("key", &bytes(100)).await.unwrap();
    let blob = world.blob("key").await;
    let to_first = Box::new(|_: &[crate::store::LedgerRow], _, _: &crate::store::Holders| {
        let form = crate::model::path::PathForm::Opaque;
        Some(vec![crate::store::Target { backend: BackendId(3), form }])
    });
    let when = crate::store::CopyWhen::Always;
    let intent = world.engine.store.replica_register(blob, when, to_first).await.unwrap();
    world.engine.drain("disk3").await.unwrap();
    assert_eq!(world.drained().await.backlog, Some(0));
    let woken = world.engine.store.leaving_found();
    while futures_util::FutureExt::now_or_never(woken.notified()).is_some() {}
    let backend = Arc::clone(world.engine.fleet.load().get(BackendId(3)).unwrap());
    backend.write_whole(&intent.path, Bytes::from(bytes(100))).await.unwrap();
    world.engine.store.replica_commit(intent.write).await.unwrap();
    assert_eq!(world.on("key", 3).await.state, ReplicaState::Leaving);
    tokio::time::timeout(PATIENCE, woken.notified()).await.expect("the drain is not woken");
    world.drained().await;
    assert_eq!(world.stands("key").await, [(1, GOOD), (2, GOOD)]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_somebody_else_completes_is_left_alone_for_a_moment() {
    let world = World::new(2, 1).await;
    world.faults[0].on(Call::Write, 1, Effect::Fail(Fault::Passing));
    world.put("key", &bytes(100)).await.unwrap();
    let blob = world.blob("key").await;
    let choose = world.engine.copy_chooser(
        &world.engine.fleet.load(),
        &wish(2),
        "bucket/key~0.0".into(),
        Vec::new(),
    );
    let when = crate::store::CopyWhen::Short;
    let intent = world.engine.store.replica_register(blob, when, choose).await.unwrap();
    let step = world.replicate().await;
    assert_eq!((step.processed, step.failed), (0, 0));
    let Next::At(due) = step.next else { panic!("{step:?}") };
    assert!(due > world.engine.clock.now(), "it is not looked at again and again");
    let failed = crate::store::FailedWrite { write: intent.write, unknown: false };
    world.engine.store.replica_abandon(failed).await.unwrap();
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_nobody_can_read_is_promised_nothing_and_waits_for_a_change() {
    let world = World::new(1, 1).await;
    world.wish(2).await;
    world.faults[1].always(Call::Write, Effect::Fail(Fault::Passing));
    world.faults[2].always(Call::Write, Effect::Fail(Fault::Passing));
    world.put("key", &bytes(100)).await.unwrap();
    let only = world.on("key", 1).await;
    world.faults[1].clear();
    world.faults[2].clear();
    world.engine.store.replica_mark(only.write, ReplicaState::Damaged).await.unwrap();
    let step = world.replicate().await;
    assert_eq!(step.counts.get("no_source"), Some(&1), "{step:?}");
    assert_eq!(step.next, Next::Woken);
    assert_eq!(world.stands("key").await, [(1, ReplicaState::Damaged)], "it is kept");
    world.comes_to_rest().await;
}
