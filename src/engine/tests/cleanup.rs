//! Cleanup over backends that are away, fail or are not in the configuration.

use super::*;
use crate::store::Leftover;

const MINUTE: Duration = Duration::from_secs(60);
const SMALL: CleanupLimits = CleanupLimits { batch: 2, concurrency: 2 };

/// Five objects on all three backends are deleted, and their bytes are still there.
async fn five_deleted() -> (World, Arc<AtomicI64>) {
    let hand = Arc::new(AtomicI64::new(START));
    let clock = Clock::steered(Arc::clone(&hand));
    let world = World::with_clock(clock, 4 * MIB, 3, 1, |_| {}).await;
    for n in 0..5 {
        world.put(&format!("key{n}"), &bytes(100)).await.unwrap();
    }
    for n in 0..5 {
        let key = ObjectKey::new(format!("key{n}")).unwrap();
        world.engine.delete_object("bucket", key, WriteConditions::default()).await.unwrap();
    }
    // Calls are counted from the first rule on; this one never holds.
    world.faults.iter().for_each(|faults| faults.on(Call::Abort, 1000, Effect::Hang));
    (world, hand)
}

/// Passes until there is nothing more to do now; what all did, and what the last one said.
async fn clean(world: &World, cursor: &mut CleanupCursor) -> CleanupOutcome {
    let (mut deleted, mut failed) = (0, 0);
    for _ in 0..20 {
        let pass = world.engine.cleanup_once(cursor, SMALL).await.unwrap();
        deleted += pass.deleted;
        failed += pass.failed;
        if !pass.more {
            return CleanupOutcome { deleted, failed, ..pass };
        }
    }
    panic!("it never comes to an end");
}

async fn left(world: &World) -> Vec<Leftover> {
    world.engine.store.condemned_all(WriteId(0), 100).await.unwrap()
}

fn at(hand: &AtomicI64) -> Timestamp {
    Timestamp(hand.load(Ordering::Acquire))
}

fn advance(hand: &AtomicI64, span: Duration) {
    hand.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::AcqRel);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_backend_rests_its_rows_stay_as_they_are_and_the_others_go_on() {
    let (world, hand) = five_deleted().await;
    let before: Vec<Leftover> =
        left(&world).await.into_iter().filter(|left| left.backend == BackendId(1)).collect();
    world.faults[0].lose_marker(true);
    let mut cursor = CleanupCursor::default();
    let done = clean(&world, &mut cursor).await;
    let ten_minutes = at(&hand).plus(10 * MINUTE);
    assert_eq!((done.deleted, done.failed, done.next), (10, 0, Some(ten_minutes)));
    assert_eq!(left(&world).await, before, "no row was touched");
    // Nobody asks it, nor looks for its marker, until its rest is over.
    let looks = || world.faults[0].count(Call::Marker) + world.faults[0].count(Call::Delete);
    let looked = looks();
    advance(&hand, 9 * MINUTE);
    let done = clean(&world, &mut cursor).await;
    assert_eq!((done.deleted, done.next, looks()), (0, Some(ten_minutes), looked));
    advance(&hand, MINUTE);
    let done = clean(&world, &mut cursor).await;
    assert_eq!(done.next, Some(ten_minutes.plus(10 * MINUTE)));
    assert!(looks() > looked, "it was asked again");
    // That the fleet has changed ends the rest at once.
    world.faults[0].lose_marker(false);
    assert_eq!(clean(&world, &mut cursor).await.deleted, 0);
    world.engine.fleet_changes();
    let done = clean(&world, &mut cursor).await;
    assert_eq!((done.deleted, done.failed, done.next), (5, 0, None));
    assert_eq!(world.files(), 0);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_on_a_backend_without_configuration_wait_and_have_not_failed() {
    let (world, hand) = five_deleted().await;
    let all = world.engine.fleet.load_full();
    let configured = Fleet::new(all.all()[1..].to_vec());
    world.engine.fleet.store(Arc::new(configured));
    let mut cursor = CleanupCursor::default();
    let done = clean(&world, &mut cursor).await;
    assert_eq!((done.deleted, done.failed), (10, 0));
    assert_eq!(done.next, Some(at(&hand).plus(10 * MINUTE)));
    let waiting = left(&world).await;
    let untouched = |left: &Leftover| left.attempts == 0 && left.error.is_none();
    assert!(waiting.len() == 5 && waiting.iter().all(untouched), "{waiting:?}");
    world.engine.fleet.store(all);
    world.engine.cleanup_hasten(&mut cursor).await.unwrap();
    assert_eq!(clean(&world, &mut cursor).await.deleted, 5, "a full pass ends rests");
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_fails_by_itself_backs_off_and_a_backend_that_fails_rests() {
    let (world, hand) = five_deleted().await;
    world.faults[0].on(Call::Delete, 1, Effect::Fail(Fault::Refused));
    let mut cursor = CleanupCursor::default();
    let done = clean(&world, &mut cursor).await;
    let minute = Some(at(&hand).plus(MINUTE));
    assert_eq!((done.deleted, done.failed, done.next), (14, 1, minute));
    let waiting = left(&world).await;
    assert_eq!((waiting.len(), waiting[0].attempts, waiting[0].due), (1, 1, minute));
    // A failure that others would share: one attempt is counted, and none is made until later.
    let (world, hand) = five_deleted().await;
    world.faults[0].always(Call::Delete, Effect::Fail(Fault::Passing));
    let limits = CleanupLimits { batch: 2, concurrency: 1 };
    let done = world.engine.cleanup_once(&mut cursor, limits).await.unwrap();
    assert_eq!((done.failed, done.deleted), (1, 4));
    let done = clean(&world, &mut cursor).await;
    assert_eq!((done.deleted, done.failed), (6, 0), "the others go on without it");
    assert_eq!(done.next, Some(at(&hand).plus(MINUTE)));
    let attempts: u32 = left(&world).await.iter().map(|left| left.attempts).sum();
    assert_eq!(attempts, 1);
}
