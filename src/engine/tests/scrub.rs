//! Scrubbing over a real store and real directories.

use std::time::Instant;

use super::work::to_the_end;
use super::*;
use crate::backend::minute_of_day;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::Replica;
use crate::store::ScrubReplica;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SETTINGS: ScrubSettings = ScrubSettings {
    batch: 100,
    concurrency: 2,
    interval: Duration::from_secs(6 * 3600),
    pass: Duration::from_secs(30 * 24 * 3600),
    rate: 0,
    window: None,
};
const GOOD: ReplicaState = ReplicaState::Good;

impl Steered {
    /// A step of the schedule; the store is in order after it.
    async fn step(&self, cursor: &mut ScrubCursor, settings: &ScrubSettings) -> Step {
        let step = self.engine.scrub_step(cursor, settings, false).await.unwrap();
        self.is_clean().await;
        step
    }

    /// A full pass.
    async fn full(&self) -> Step {
        let mut cursor = ScrubCursor::default();
        let step =
            to_the_end(async || self.engine.scrub_step(&mut cursor, &SETTINGS, true).await).await;
        self.is_clean().await;
        step
    }

    fn reads(&self) -> Vec<u64> {
        self.faults.iter().map(|faults| faults.count(Call::Read)).collect()
    }

    async fn on_disk(&self, number: u64) -> Vec<ScrubReplica> {
        let backend = BackendId(number);
        let page = self.engine.store.scrub_page(backend, WriteId(0), 200, true).await.unwrap();
        page.replicas
    }

    fn spoil(&self, replica: &Replica, at: usize) {
        let mut text = std::fs::read(self.file(replica)).unwrap();
        text[at] ^= 1;
        std::fs::write(self.file(replica), text).unwrap();
    }
}

fn count(step: &Step, what: &str) -> u64 {
    step.counts.get(what).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_is_found_repaired_and_the_bad_one_condemned() {
    for (size, at) in [(100, 99), (300_000, 0), (3 * MIB + 5, 2 * MIB + 7)] {
        let world = Steered::new(2).await;
        let body = bytes(size);
        world.put("key", &body).await.unwrap();
        let bad = world.on("key", 1).await;
        world.spoil(&bad, at);
        let step = world.full().await;
        let found = ["damaged", "damaged_alone", "verified"].map(|what| count(&step, what));
        assert_eq!((found, step.processed), ([1, 0, 1], 2), "{size}: {step:?}");
        assert_eq!(world.on("key", 1).await.state, ReplicaState::Damaged);
        world.replicate().await;
        world.cleans_up().await;
        assert!(!world.file(&bad).exists());
        let all = world.of("key").await;
        assert!(all.len() == 2 && all.iter().all(|replica| replica.state == GOOD), "{all:?}");
        let step = world.full().await;
        assert_eq!(step.counts, [("verified", 2)].into(), "all is well again");
        assert!(world.get("key").await.unwrap() == body);
        world.comes_to_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sole_replica_is_kept_told_of_and_good_again_when_its_bytes_are() {
    let world = Steered::new(1).await;
    let body = bytes(2 * MIB);
    world.put("only", &body).await.unwrap();
    let sole = world.on("only", 1).await;
    world.spoil(&sole, MIB + 1);
    let step = world.full().await;
    assert_eq!((count(&step, "damaged"), count(&step, "damaged_alone")), (1, 1));
    let again = world.full().await;
    assert_eq!(again.counts, [].into(), "it is told once");
    world.replicate().await;
    world.cleans_up().await;
    assert!(world.file(&sole).exists(), "nothing is deleted");
    let broken = world.engine.broken_replicas(None, 10).await.unwrap();
    let object = Some(("bucket".to_owned(), ObjectKey::new("only").unwrap()));
    assert_eq!((broken.len(), &broken[0].object, broken[0].is_alone), (1, &object, true));
    let states = world.engine.scrub_state(SETTINGS.pass).await.unwrap();
    assert_eq!(states.iter().map(|state| state.damaged).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(world.get("only").await.is_err());
    world.spoil(&sole, MIB + 1);
    assert_eq!(count(&world.full().await, "good_again"), 1);
    assert!(world.get("only").await.unwrap() == body);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_length_is_damaged() {
    for size in [100, 300_000, 2 * MIB] {
        for change in [-1_i64, 1] {
            let world = Steered::new(2).await;
            world.put("key", &bytes(size)).await.unwrap();
            let bad = world.on("key", 2).await;
            let file = std::fs::OpenOptions::new().write(true).open(world.file(&bad)).unwrap();
            file.set_len(u64::try_from(size as i64 + change).unwrap()).unwrap();
            let step = world.full().await;
            assert_eq!((count(&step, "damaged"), count(&step, "verified")), (1, 1), "{step:?}");
            assert_eq!(world.on("key", 2).await.state, ReplicaState::Damaged);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_is_missing_and_made_again() {
    let world = Steered::new(2).await;
    world.put("key", &bytes(100)).await.unwrap();
    std::fs::remove_file(world.file(&world.on("key", 1).await)).unwrap();
    assert_eq!(count(&world.full().await, "missing"), 1);
    world.replicate().await;
    assert_eq!(world.replicas("key").await, [2]);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_is_not_damaged_before_a_day_in_which_others_were_read() {
    let world = Steered::new(1).await;
    let settings = ScrubSettings { concurrency: 1, ..SETTINGS };
    let (small, large) = (bytes(100), bytes(2 * MIB));
    world.put("small", &small).await.unwrap();
    world.put("large", &large).await.unwrap();
    world.put("other", &bytes(7)).await.unwrap();
    let state = async |key: &str| world.on(key, 1).await.state;
    let mut cursor = ScrubCursor::default();
    let fails = |nth| world.faults[0].on(Call::Read, nth, Effect::Fail(Fault::Passing));
    fails(1);
    fails(1);
    let step = world.step(&mut cursor, &settings).await;
    assert_eq!((count(&step, "unreadable"), count(&step, "verified")), (2, 1), "{step:?}");
    assert_eq!(state("small").await, ReplicaState::Unreadable);
    assert_eq!(step.next, Next::At(world.now().plus(6 * HOUR)));
    assert_eq!(world.engine.store.blobs_short(u64::MAX, 9).await.unwrap().len(), 2);
    // One of them can be read again; of the other it is known that others can.
    world.advance(23 * HOUR);
    fails(1);
    let step = world.step(&mut cursor, &settings).await;
    assert_eq!((count(&step, "still_unreadable"), count(&step, "good_again")), (1, 1), "{step:?}");
    assert_eq!([state("small").await, state("large").await], [ReplicaState::Unreadable, GOOD]);
    // While nothing can be read at all, a day is no proof.
    world.advance(2 * HOUR + 6 * HOUR);
    world.faults[0].always(Call::Read, Effect::Fail(Fault::Passing));
    let step = world.step(&mut cursor, &settings).await;
    assert_eq!(count(&step, "still_unreadable"), 1);
    assert_eq!(state("small").await, ReplicaState::Unreadable);
    world.faults[0].clear();
    world.engine.fleet.load().get(BackendId(1)).unwrap().reset_breaker();
    world.advance(6 * HOUR);
    fails(1);
    let step = world.step(&mut cursor, &settings).await;
    assert_eq!((count(&step, "given_up"), count(&step, "damaged_alone")), (1, 1), "{step:?}");
    assert_eq!(state("small").await, ReplicaState::Damaged);
    assert!(world.file(&world.on("small", 1).await).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_fails_as_a_whole_changes_nothing() {
    for (call, fault) in [(Call::Read, Fault::Passing), (Call::Read, Fault::Refused)] {
        let world = Steered::new(1).await;
        for key in ["a", "b", "c"] {
            world.put(key, &bytes(100)).await.unwrap();
        }
        let mut cursor = ScrubCursor::default();
        world.faults[0].always(call, Effect::Fail(fault));
        let step = world.step(&mut cursor, &SETTINGS).await;
        assert_eq!((step.processed, count(&step, "not_read")), (0, 3), "{step:?}");
        assert_eq!(world.engine.store.scrub_pass(BackendId(1)).await.unwrap(), None);
        assert!(world.on_disk(1).await.iter().all(|found| found.replica.state == GOOD));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_or_away_backend_is_not_believed_and_not_asked() {
    let world = Steered::new(2).await;
    world.put("key", &bytes(100)).await.unwrap();
    let mut cursor = ScrubCursor::default();
    world.faults[0].lose_marker(true);
    for (reads, not_read) in [(1, 1), (0, 0)] {
        let before = world.reads();
        let step = world.step(&mut cursor, &SETTINGS).await;
        assert_eq!(count(&step, "not_read"), not_read, "{step:?}");
        assert_eq!(world.reads()[0] - before[0], reads);
        assert_eq!(world.on("key", 1).await.state, GOOD);
        assert_eq!(world.engine.store.scrub_pass(BackendId(1)).await.unwrap(), None);
        world.advance(7 * HOUR);
    }
    let step = world.full().await;
    assert_eq!((count(&step, "absent"), count(&step, "verified")), (1, 1), "{step:?}");
    world.faults[0].lose_marker(false);
    world.engine.store.backend_duty(BackendId(2), Duty::Away).await.unwrap();
    world.replicate().await;
    let before = world.reads();
    world.full().await;
    assert_eq!(world.reads()[1], before[1], "one that is away is not read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_reads_everything_once_while_objects_come_and_go_and_then_rests() {
    let world = Steered::new(2).await;
    let settings = ScrubSettings { batch: 3, ..SETTINGS };
    for n in 0..10 {
        world.put(&format!("key{n}"), &bytes(100 + n)).await.unwrap();
    }
    world.put("large", &bytes(5 * MIB)).await.unwrap();
    let begin = world.now();
    let (mut cursor, mut n) = (ScrubCursor::default(), 10);
    loop {
        let step = world.step(&mut cursor, &settings).await;
        let Next::At(next) = step.next else { panic!("{step:?}") };
        if next == begin.plus(SETTINGS.pass) {
            break;
        }
        assert_eq!(next, world.now().plus(SETTINGS.interval), "a share in each interval");
        world.advance(SETTINGS.interval);
        if n < 16 {
            world.put(&format!("key{n}"), &bytes(n)).await.unwrap();
            world.put(&format!("key{}", n - 8), &bytes(n + 1)).await.unwrap();
            n += 1;
        }
    }
    let reads = world.reads();
    for (number, reads) in [(1, reads[0]), (2, reads[1])] {
        let found = world.on_disk(number).await;
        assert!(found.iter().all(|one| one.checked >= Some(begin)), "{number}");
        // The large one has two blobs, each asked for once; what was displaced was read, or not.
        assert!((18..=24).contains(&reads), "{reads}");
        let pass = world.engine.store.scrub_pass(BackendId(number)).await.unwrap().unwrap();
        assert_eq!((pass.done, pass.is_over), (reads, true));
    }
    // Until the next pass nothing is read, and nothing is written.
    let seen = world.engine.scrub_state(SETTINGS.pass).await.unwrap();
    world.advance(DAY);
    let step = world.step(&mut ScrubCursor::default(), &settings).await;
    assert_eq!((step.processed, step.next), (0, Next::At(begin.plus(SETTINGS.pass))));
    assert_eq!(world.reads(), reads);
    assert_eq!(world.engine.scrub_state(SETTINGS.pass).await.unwrap(), seen);
    assert_eq!(seen[0].next, Some(begin.plus(SETTINGS.pass)));
    world.advance(SETTINGS.pass);
    assert!(world.step(&mut cursor, &settings).await.processed > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_goes_on_where_it_was_when_the_process_ended() {
    let world = Steered::new(1).await;
    let settings = ScrubSettings { batch: 4, ..SETTINGS };
    for n in 0..10 {
        world.put(&format!("key{n}"), &bytes(100)).await.unwrap();
    }
    for reads in [4, 8, 10, 10] {
        let step = world.step(&mut ScrubCursor::default(), &settings).await;
        assert_eq!(world.reads()[0], reads, "{step:?}");
    }
    let states = world.engine.scrub_state(SETTINGS.pass).await.unwrap();
    assert_eq!(states[0].oldest, Some(world.now()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_a_large_backend_takes_several_steps() {
    let world = Steered::new(1).await;
    // A tenth of the pass in each interval, two replicas in each step.
    let settings = ScrubSettings { batch: 2, pass: 10 * SETTINGS.interval, ..SETTINGS };
    for n in 0..40 {
        world.put(&format!("key{n}"), &bytes(10)).await.unwrap();
    }
    let mut cursor = ScrubCursor::default();
    for share in 1..=10 {
        let step = to_the_end(async || {
            let step = world.engine.scrub_step(&mut cursor, &settings, false).await?;
            assert!(step.processed <= 2);
            Ok(step)
        })
        .await;
        assert_eq!((step.processed, world.reads()[0]), (4, 4 * share), "{step:?}");
        world.advance(settings.interval);
    }
    assert!(world.engine.store.scrub_pass(BackendId(1)).await.unwrap().unwrap().is_over);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_imported_gets_its_hash_in_one_pass() {
    let world = Steered::new(1).await;
    let bodies = [("small", bytes(100)), ("group", bytes(MIB)), ("large", bytes(3 * MIB + 1))];
    for (key, body) in &bodies {
        world.put(key, body).await.unwrap();
        world.engine.store.blob_imported(world.on(key, 1).await).await.unwrap();
    }
    let mut cursor = ScrubCursor::default();
    let step = world.step(&mut cursor, &SETTINGS).await;
    assert_eq!(step.counts, [("backfilled", 3)].into());
    for (found, (key, body)) in world.on_disk(1).await.iter().zip(&bodies) {
        assert_eq!(found.hash, Some(*blake3::hash(body).as_bytes()));
        let groups = world.engine.store.blob_groups(found.blob).await.unwrap();
        let expected = if body.len() > MIB { body.len().div_ceil(MIB) } else { 0 };
        assert_eq!(groups.len(), expected, "{key}");
        assert!(world.get(key).await.unwrap() == *body);
    }
    // What its owner changes is the reconciler's business.
    world.spoil(&world.on("small", 1).await, 3);
    let step = world.full().await;
    assert_eq!(step.counts, [("changed", 1), ("unreadable", 1), ("verified", 2)].into());
    assert_eq!(world.on("small", 1).await.state, ReplicaState::Unreadable, "it does not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_allowance_ends_the_step_and_nothing_is_skipped() {
    for size in [100, 300_000] {
        let world = Steered::new(1).await;
        let settings = ScrubSettings { concurrency: 1, ..SETTINGS };
        for n in 0..40 {
            world.put(&format!("key{n}"), &bytes(size)).await.unwrap();
        }
        world.faults[0].on(Call::Read, 6, Effect::Fail(Fault::Spent));
        let mut cursor = ScrubCursor::default();
        let step = world.step(&mut cursor, &settings).await;
        assert!(count(&step, "not_read") >= 1, "{step:?}");
        assert_eq!(step.next, Next::At(world.now().plus(SETTINGS.interval)));
        let pass = world.engine.store.scrub_pass(BackendId(1)).await.unwrap().unwrap();
        assert_eq!((pass.done, pass.is_over), (5, false));
        assert_eq!(world.step(&mut cursor, &settings).await.processed, 0, "it is not tried on");
        world.advance(SETTINGS.interval);
        world.step(&mut cursor, &settings).await;
        let pass = world.engine.store.scrub_pass(BackendId(1)).await.unwrap().unwrap();
        assert_eq!((pass.done, pass.is_over), (40, true));
        assert!(world.on_disk(1).await.iter().all(|found| found.checked.is_some()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_its_window_nothing_is_read_but_by_a_full_pass() {
    let world = Steered::new(1).await;
    world.put("key", &bytes(100)).await.unwrap();
    world.advance(Duration::from_secs(30));
    let minute = minute_of_day(world.now());
    let at = |minutes: u16| (minute + minutes) % (24 * 60);
    let mut cursor = ScrubCursor::default();
    let closed = ScrubSettings { window: Some(Window { from: at(90), to: at(100) }), ..SETTINGS };
    let step = world.step(&mut cursor, &closed).await;
    let opens = Timestamp(START).plus(Duration::from_secs(90 * 60));
    assert_eq!(step, Step { next: Next::At(opens), ..Step::default() });
    assert_eq!(world.full().await.processed, 1);
    world.advance(SETTINGS.pass);
    let open = ScrubSettings { window: Some(Window { from: minute, to: at(1) }), ..SETTINGS };
    assert_eq!(world.step(&mut cursor, &open).await.processed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_for_small_and_large_files_together() {
    let world = Steered::new(1).await;
    for (key, size) in [("small", 100_000), ("large", 400_000)] {
        world.put(key, &bytes(size)).await.unwrap();
    }
    let begun = Instant::now();
    let settings = ScrubSettings { rate: 1_000_000, ..SETTINGS };
    let step = world.step(&mut ScrubCursor::default(), &settings).await;
    assert_eq!(count(&step, "verified"), 2);
    assert!(begun.elapsed() >= Duration::from_millis(499), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_fleet_is_not_written_about() {
    let world = Steered::new(1).await;
    let step = world.step(&mut ScrubCursor::default(), &SETTINGS).await;
    assert_eq!(step, Step { next: Next::At(world.now().plus(SETTINGS.pass)), ..Step::default() });
    for number in 1..=3 {
        assert_eq!(world.engine.store.scrub_pass(BackendId(number)).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pass_of_one_backend_reads_that_one_and_tells_how_far_it_is() {
    let world = Steered::new(2).await;
    for n in 0..7 {
        world.put(&format!("key{n}"), &bytes(1000)).await.unwrap();
    }
    let mut cursor = ScrubCursor::of(BackendId(2));
    let progress = cursor.progress();
    let settings = ScrubSettings { batch: 3, ..SETTINGS };
    let step = world.engine.scrub_step(&mut cursor, &settings, true).await.unwrap();
    assert_eq!((step.processed, step.next), (3, Next::Now));
    assert_eq!(step.position.as_deref(), Some("disk2: 3 of 7"));
    to_the_end(async || world.engine.scrub_step(&mut cursor, &settings, true).await).await;
    assert_eq!(world.reads(), [0, 7, 0]);
    let read = [&progress.replicas, &progress.bytes, &progress.total];
    assert_eq!(read.map(|number| number.load(Ordering::Relaxed)), [7, 7000, 7]);
    // It counts as the pass of that backend.
    let states = world.engine.scrub_state(SETTINGS.pass).await.unwrap();
    let next = states.iter().map(|state| state.next).collect::<Vec<_>>();
    assert_eq!(next, [None, Some(world.now().plus(SETTINGS.pass)), None]);
}
