//! What becomes of writes, reads and cleanup when backends rest, are spent or have no room.

use super::*;

/// A bucket of one replica each, over backends whose breakers open after two failures.
async fn world(replicas: u32, open: Duration) -> World {
    World::with(4 * MIB, replicas, 1, |settings| {
        settings.breaker.failures = 2;
        settings.breaker.open = open;
    })
    .await
}

const LONG: Duration = Duration::from_secs(600);

impl World {
    fn breaks(&self, at: usize, effect: Effect) {
        for call in [Call::Write, Call::Read, Call::Marker, Call::Delete] {
            self.faults[at].always(call, effect);
        }
    }

    async fn state(&self, at: usize) -> BreakerState {
        let states = self.engine.backends().await.unwrap();
        states[at].breaker.as_ref().unwrap().state
    }

    /// A body that waits to be asked for; that it was is an error.
    fn waiting(&self, key: &str, size: usize) -> PutObject {
        let mut put = self.request(key, Vec::new());
        let asked = stream::once(async { Err(BodyError::Malformed("it was asked for")) });
        put.body.size = size as u64;
        put.body.waits = true;
        put.body.stream = asked.boxed();
        put
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_leave_a_broken_backend_alone_until_it_is_well() {
    let world = world(1, Duration::from_millis(50)).await;
    world.breaks(0, Effect::Fail(Fault::Passing));
    for n in 0..2 {
        world.put(&format!("k{n}"), &bytes(100)).await.unwrap();
    }
    assert_ne!(world.state(0).await, BreakerState::Closed);
    let asked = world.faults[0].count(Call::Write);
    for n in 2..10 {
        world.put(&format!("k{n}"), &bytes(100)).await.unwrap();
    }
    assert_eq!(world.faults[0].count(Call::Write), asked, "others are taken before it is tried");
    // Nobody calls it, and it is in use again.
    world.faults[0].clear();
    let heals = async {
        while world.state(0).await != BreakerState::Closed {
            world.engine.look_for_absent().await;
        }
    };
    tokio::time::timeout(PATIENCE, heals).await.expect("it heals without traffic");
    world.put("last", &bytes(100)).await.unwrap();
    assert_eq!(world.faults[0].count(Call::Write), asked + 1);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_open_the_first_write_that_is_due_closes_them() {
    let world = world(1, Duration::from_millis(50)).await;
    world.put("key", &bytes(100)).await.unwrap();
    (0..3).for_each(|at| world.breaks(at, Effect::Fail(Fault::Passing)));
    for _ in 0..3 {
        let failed = world.put("key", &bytes(100)).await;
        assert!(matches!(failed, Err(EngineError::Unavailable(_))), "{:?}", failed.err());
    }
    world.faults.iter().for_each(Faults::clear);
    let heals = async { while world.put("key", &bytes(101)).await.is_err() {} };
    tokio::time::timeout(PATIENCE, heals).await.expect("the fleet recovers by itself");
    assert_eq!(world.get("key").await.unwrap(), bytes(101));
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_round_what_rests() {
    let world = world(2, LONG).await;
    world.put("key", &bytes(MIB)).await.unwrap();
    world.breaks(0, Effect::Fail(Fault::Passing));
    for _ in 0..5 {
        assert!(world.get("key").await.unwrap() == bytes(MIB));
    }
    assert_eq!(world.state(0).await, BreakerState::Open);
    assert_eq!(world.faults[0].count(Call::Read), 2);
    world.breaks(1, Effect::Fail(Fault::Passing));
    let gone = world.get("key").await;
    assert!(matches!(gone, Err(EngineError::Unavailable(_))), "{:?}", gone.err());
    world.faults.iter().for_each(Faults::clear);
    for name in ["disk1", "disk2"] {
        world.engine.backend_reset(name).unwrap();
    }
    assert!(world.get("key").await.unwrap() == bytes(MIB));
    let unknown = world.engine.backend_reset("disk9");
    assert!(matches!(unknown, Err(EngineError::NoSuchBackend)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_limits_keep_away_is_another_answer_than_what_is_broken() {
    let world = world(2, LONG).await;
    world.put("key", &bytes(100)).await.unwrap();
    world.breaks(0, Effect::Fail(Fault::Spent));
    // The other replica will do.
    assert_eq!(world.get("key").await.unwrap(), bytes(100));
    world.breaks(1, Effect::Fail(Fault::Passing));
    let spent = world.get("key").await;
    assert!(matches!(spent, Err(EngineError::Spent)), "{:?}", spent.err());
    world.faults.iter().for_each(Faults::clear);
    (0..3).for_each(|at| world.breaks(at, Effect::Fail(Fault::Spent)));
    for size in [100, 3 * MIB] {
        let full = world.put("new", &bytes(size)).await;
        assert!(matches!(full, Err(EngineError::NoRoom { .. })), "{:?}", full.err());
    }
    assert_eq!(world.state(2).await, BreakerState::Closed, "a limit is no failure");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleanup_leaves_alone_what_rests_and_counts_no_attempt() {
    let world = world(1, LONG).await;
    world.put("key", &bytes(100)).await.unwrap();
    world.faults[0].always(Call::Read, Effect::Fail(Fault::Passing));
    for _ in 0..2 {
        assert!(world.get("key").await.is_err());
    }
    assert_eq!(world.state(0).await, BreakerState::Open);
    let key = ObjectKey::new("key").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    let due = world.engine.store.condemned_next(BackendId(1)).await.unwrap().unwrap();
    let outcome = world.cleanup().await;
    assert_eq!((outcome.deleted, outcome.failed), (0, 0));
    assert!(outcome.next.unwrap() > due, "it is looked at again later");
    let left = world.engine.store.condemned_all(WriteId(0), 10).await.unwrap();
    assert_eq!((left.len(), left[0].attempts, left[0].due), (1, 0, Some(due)));
    assert_eq!(world.faults[0].count(Call::Delete), 0);
    assert_eq!(world.files(), 1);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleanup_finds_what_was_absent_also_when_a_limit_is_reached() {
    let world = World::with(4 * MIB, 1, 1, |settings| {
        settings.limits.month.requests = Some(20);
    })
    .await;
    world.put("key", &bytes(100)).await.unwrap();
    world.faults[0].lose_marker(true);
    let backend = world.engine.fleet.load().all()[0].clone();
    drop(backend.read_here("x", 0..1));
    assert!(!backend.is_present());
    let meter = backend.meter();
    (0..20).for_each(|_| meter.call(crate::model::Purpose::Client, crate::model::Class::A));
    world.faults[0].clear();
    world.faults[0].lose_marker(false);
    world.engine.look_for_absent().await;
    assert!(!backend.is_present(), "upkeep keeps to the limit");
    let key = ObjectKey::new("key").unwrap();
    world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    let outcome = world.cleanup().await;
    assert_eq!((outcome.deleted, outcome.failed, world.files()), (1, 0, 0));
    assert!(backend.is_present());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_will_not_be_taken_is_not_asked_for() {
    let world = World::with(4 * MIB, 1, 1, |settings| settings.keep_free = Some(u64::MAX)).await;
    for size in [1, 100, 65536, 65537, 9 * MIB] {
        let refused = world.engine.put_object(world.waiting("key", size)).await;
        assert!(matches!(refused, Err(EngineError::NoRoom { .. })), "{:?}", refused.err());
    }
    let world = World::new(1, 1).await;
    let wishes = BucketWishes { quota: Some(1000), ..BucketWishes::default() };
    world.engine.change_bucket(BucketName::new("bucket").unwrap(), wishes).await.unwrap();
    world.put("key", &bytes(600)).await.unwrap();
    for (key, size) in [("key", 1001), ("other", 401), ("other", 70_000)] {
        let refused = world.engine.put_object(world.waiting(key, size)).await;
        assert!(matches!(refused, Err(EngineError::BucketQuota)), "{:?}", refused.err());
    }
    // What it displaces goes: this would be taken, so it is asked for.
    for (key, size) in [("key", 1000), ("other", 400)] {
        let asked = world.engine.put_object(world.waiting(key, size)).await;
        assert!(matches!(asked, Err(EngineError::Body(BodyError::Malformed(_)))));
    }
    // Nobody to ask.
    (0..3).for_each(|at| world.faults[at].lose_marker(true));
    world.engine.fleet.load().all().iter().for_each(|b| drop(b.read_here("x", 0..1)));
    let refused = world.engine.put_object(world.waiting("key", 10)).await;
    assert!(matches!(refused, Err(EngineError::Unavailable(_))), "{:?}", refused.err());
    world.faults.iter().for_each(Faults::clear);
    world.comes_to_rest().await;
}
