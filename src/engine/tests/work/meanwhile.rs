//! Objects that change while background work on them is in the middle.

use std::sync::atomic::AtomicUsize;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Calls that wait at a backend. Each goes on when what it gave here is dropped.
struct Held(mpsc::UnboundedReceiver<oneshot::Sender<Option<Effect>>>);

impl Held {
    /// The next `number` calls of this kind.
    fn next(faults: &Faults, call: Call, number: usize) -> Held {
        let (tell, came) = mpsc::unbounded_channel();
        let left = AtomicUsize::new(number);
        faults.hold_each(Arc::new(move |made| {
            let (go, wait) = oneshot::channel();
            let takes = |left: usize| left.checked_sub(1);
            let is_one = made == call
                && left.fetch_update(Ordering::AcqRel, Ordering::Acquire, takes).is_ok();
            if is_one {
                let _ = tell.send(go);
            }
            wait
        }));
        Held(came)
    }

    /// Waits until `number` of them were made.
    async fn come(&mut self, number: usize) -> Vec<oneshot::Sender<Option<Effect>>> {
        let mut all = Vec::new();
        let come = async {
            while all.len() < number {
                all.push(self.0.recv().await.expect("the gate stands"));
            }
        };
        tokio::time::timeout(PATIENCE, come).await.expect("they are never made");
        all
    }
}

/// What a step said that was begun before.
async fn ended(step: tokio::task::JoinHandle<Result<Step, EngineError>>) -> Step {
    let step = tokio::time::timeout(PATIENCE, step).await.expect("it never ends");
    step.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_object_is_overwritten_or_deleted_meanwhile_leaves_nothing_behind() {
    let calls = [(1, Call::Read), (0, Call::Write), (0, Call::Piece), (0, Call::Finish)];
    for (at, call) in calls {
        let world = Steered::new(2).await;
        for key in ["overwritten", "deleted"] {
            world.faults[0].on(Call::Write, 1, Effect::Fail(Fault::Passing));
            world.put(key, &bytes(3 * MIB)).await.unwrap();
            assert_eq!(world.stands(key).await, [(2, GOOD)]);
        }
        let mut held = Held::next(&world.faults[at], call, 2);
        let engine = Arc::clone(&world.engine);
        let step = tokio::spawn(async move { engine.replicate_step(BATCH, 2).await });
        let copies = held.come(2).await;
        let new = bytes(70_000);
        world.put("overwritten", &new).await.unwrap();
        world.delete("deleted").await;
        world.is_clean().await;
        // Cleanup comes by while they are still on their way.
        world.clean_up().await;
        drop(copies);
        let step = ended(step).await;
        assert_eq!((step.processed, step.failed), (0, 0), "{call:?}: {step:?}");
        assert_eq!(step.counts, [("superseded", 2)].into(), "{call:?}");
        let gone = world.get("deleted").await;
        assert!(matches!(gone, Err(EngineError::NoSuchKey)), "{call:?}: {:?}", gone.err());
        world.holds_only(&[("overwritten", &new)], 2).await;
        assert_eq!(world.replicate().await.processed, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_whose_object_is_overwritten_or_deleted_meanwhile_leaves_nothing_behind() {
    let calls =
        [(0, Call::Read), (1, Call::Write), (1, Call::Piece), (1, Call::Finish), (1, Call::Stat)];
    for (at, call) in calls {
        let world = Steered::new(1).await;
        world.quotas([Some(1_000_000), Some(100_000_000), None]).await;
        let (large, small) = (bytes(200_000), bytes(50_000));
        for key in ["overwritten", "deleted", "moved"] {
            world.put(key, &large).await.unwrap();
        }
        for key in ["stays", "stays too"] {
            world.put(key, &small).await.unwrap();
        }
        assert_eq!(world.used().await, [700_000, 0, 0]);
        let modified = world.head("moved").await;
        world.advance(HOUR);
        let mut held = Held::next(&world.faults[at], call, 3);
        let engine = Arc::clone(&world.engine);
        // The largest go first.
        let rules = RebalanceRules { strategy: Strategy::Spread, threshold: 0.1, batch: 3 };
        let step = tokio::spawn(async move { engine.rebalance_step(rules, 3).await });
        let moves = held.come(3).await;
        let new = bytes(70_000);
        world.put("overwritten", &new).await.unwrap();
        world.delete("deleted").await;
        world.is_clean().await;
        world.clean_up().await;
        drop(moves);
        let step = ended(step).await;
        let counts = ["moved", "superseded"].map(|result| step.counts.get(result).copied());
        assert_eq!((counts, step.failed), ([Some(1), Some(2)], 0), "{call:?}: {step:?}");
        assert_eq!(world.stands("moved").await, [(2, GOOD)]);
        assert_eq!(world.head("moved").await, modified);
        let gone = world.get("deleted").await;
        assert!(matches!(gone, Err(EngineError::NoSuchKey)), "{call:?}: {:?}", gone.err());
        let left = [("overwritten", &new), ("moved", &large), ("stays", &small)];
        world.holds_only(&[&left[..], &[("stays too", &small)]].concat(), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_none_goes_for_those_that_changed_after_they_were_seen() {
    for is_cleaned in [false, true] {
        let world = Steered::new(2).await;
        let old = bytes(5000);
        let keys = ["overwritten", "deleted", "lost", "same"];
        for key in keys {
            world.put(key, &old).await.unwrap();
            world.one_more(key).await;
        }
        let planned = world.engine.surplus_plan(BlobId(0), 10).await.unwrap().0;
        let goes = planned[0].backend;
        assert!(planned.len() == 4 && planned.iter().all(|one| one.backend == goes));
        let mut stay = world.of("lost").await;
        stay.retain(|replica| replica.backend != goes);
        // The first of those that stay has been seen by then.
        let last = stay[1].backend.0 as usize;
        let mut held = Held::next(&world.faults[last - 1], Call::Stat, 4);
        let engine = Arc::clone(&world.engine);
        let step = tokio::spawn(async move {
            engine.surplus_step(&mut SurplusCursor::default(), BATCH, 4).await
        });
        let looks = held.come(4).await;
        let seen = world.of("deleted").await;
        let new = bytes(70_000);
        world.put("overwritten", &new).await.unwrap();
        world.delete("deleted").await;
        world.engine.store.replica_mark(stay[0].write, ReplicaState::Missing).await.unwrap();
        if is_cleaned {
            world.clean_up().await;
            let is_there = |replica: &Replica| world.file(replica).exists();
            assert!(seen.iter().all(is_there), "nothing is deleted under a look");
        }
        world.is_clean().await;
        drop(looks);
        let step = ended(step).await;
        assert_eq!((step.processed, step.failed), (1, 3), "{step:?}");
        assert_eq!(world.engine.store.blobs_surplus_count().await.unwrap(), 0);
        let gone = world.get("deleted").await;
        assert!(matches!(gone, Err(EngineError::NoSuchKey)), "{:?}", gone.err());
        world.holds_only(&[("overwritten", &new), ("lost", &old), ("same", &old)], 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_is_not_stuck_when_its_object_is_deleted_meanwhile() {
    let world = Steered::new(2).await;
    world.put("deleted", &bytes(5000)).await.unwrap();
    world.engine.drain("disk1").await.unwrap();
    world.replicate().await;
    assert_eq!(world.stands("deleted").await, [(1, ReplicaState::Leaving), (2, GOOD), (3, GOOD)]);
    let mut held = Held::next(&world.faults[2], Call::Stat, 1);
    let engine = Arc::clone(&world.engine);
    let step =
        tokio::spawn(async move { engine.drain_step(&mut DrainCursor::default(), BATCH, 4).await });
    let look = held.come(1).await;
    world.delete("deleted").await;
    world.clean_up().await;
    drop(look);
    let step = ended(step).await;
    assert_eq!((step.failed, step.counts.get("stuck")), (0, None), "{step:?}");
    world.holds_only(&[], 2).await;
}
