//! What cleanup is given, and when; and what a start settles.

use std::time::Duration;

use super::*;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_a_reader_may_still_read_is_not_due() {
    let world = World::new().await;
    world.put("k", 1, &[10]).await;
    let reader = world.find("k").await.unwrap();
    world.put("k", 2, &[10]).await;
    // A reader that came later does not see the path, but holds back what comes after it.
    let later = world.find("k").await.unwrap();
    assert!(world.due().await.is_empty());
    assert_eq!(world.next_due().await, None);
    let wanted = world.store.cleanup_wanted();
    // The permit of the overwrite itself.
    tokio::time::timeout(PATIENCE, wanted.notified()).await.unwrap();
    drop(reader);
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("woken by the ticket");
    assert_eq!(world.due().await.len(), 1);
    assert!(world.next_due().await.is_some());
    world.delete("k").await;
    assert_eq!(world.due().await.len(), 1);
    drop(later);
    assert_eq!(world.due().await.len(), 2);
    world.clean().await;
    world.verify().await;
}

#[tokio::test]
async fn failures_back_off_and_are_parked() {
    let world = World::new().await;
    world.put("k", 1, &[10]).await;
    world.delete("k").await;
    let id = world.due().await[0].id;
    for attempt in 0..10 {
        assert_eq!(world.due().await[0].attempts, attempt);
        world.store.condemned_failed(id, "disk on fire".into()).await.unwrap();
        assert!(world.due().await.is_empty());
        let next = world.next_due().await;
        if attempt == 9 {
            assert_eq!(next, None);
            break;
        }
        let now = world.hand.load(Ordering::Acquire);
        let pause = next.unwrap().0 - now;
        assert_eq!(pause, (60_000_000 << attempt).min(24 * HOUR));
        world.advance(pause);
    }
    // Still counted.
    assert_eq!(world.ledger().await, (0, 0, 10));
    world.verify().await;
    world.store.condemned_failed(12345, "not there".into()).await.unwrap();
    world.store.condemned_deleted(vec![12345]).await.unwrap();
    world.verify().await;
}

#[tokio::test]
async fn two_passes_at_once_leave_the_second_delete() {
    let world = World::new().await;
    let registered = world.register(&[10], 1).await;
    let write = registered[0].intents[0].write;
    let failed = vec![FailedWrite { write, unknown: true }];
    world.store.blobs_abandon(vec![(registered[0].blob, failed)]).await.unwrap();
    let ids: Vec<u64> = world.due().await.iter().map(|row| row.id).collect();
    assert_eq!(ids, [write.0]);
    for _ in 0..2 {
        world.store.condemned_deleted(ids.clone()).await.unwrap();
        assert!(world.due().await.is_empty());
    }
    world.advance(2 * HOUR);
    assert_eq!(world.due().await.len(), 1);
    world.clean().await;
    assert_eq!(world.next_due().await, None);
    world.verify().await;
}

#[tokio::test]
async fn intents_of_an_earlier_run_are_condemned() {
    let mut world = World::new().await;
    world.put("kept", 1, &[7]).await;
    let kept = world.find("kept").await.unwrap().entries[0].blob;
    // More than one transaction's worth, of all kinds.
    for _ in 0..150 {
        world.register(&[1, 1], 2).await;
    }
    let extra = world.store.replica_register(kept, CopyWhen::Always, choose(1)).await.unwrap();
    let lone = world.register(&[5], 1).await;
    let write = lone[0].intents[0].write;
    world.store.replica_abandon(FailedWrite { write, unknown: false }).await.unwrap();
    world.verify().await;
    assert!(world.store.intents_dead(WriteId(0), 10).await.unwrap().is_empty(), "of this run");
    assert_eq!(world.ledger().await, (7, 607, 5));
    world.restart().await;
    let own = world.register(&[3], 1).await;
    assert_eq!(world.settle_dead(|_| false).await, 601);
    assert_eq!(world.ledger().await, (7, 3, 612));
    world.verify().await;
    let gone = world.store.replica_commit(extra.write).await;
    assert!(matches!(gone, Err(StoreError::Superseded)));
    world.store.blobs_abandon(vec![(own[0].blob, Vec::new())]).await.unwrap();
    assert_eq!(world.settle_dead(|_| false).await, 0);
    world.verify().await;
    // The abandoned blob is gone, and a commit of it too.
    let late = commit(world.bucket.id, "late", 1, finished(&own));
    assert!(matches!(world.store.version_commit(late).await, Err(StoreError::Superseded)));
    world.clean().await;
    world.advance(2 * HOUR);
    world.clean().await;
    assert_eq!(world.ledger().await, (7, 0, 0));
    assert_eq!(world.store.backends().await.unwrap().iter().map(|b| b.rows).sum::<u64>(), 1);
    world.verify().await;
}

#[tokio::test]
async fn a_displaced_blob_takes_its_late_intent_along() {
    let world = World::new().await;
    let registered = world.register(&[10], 2).await;
    let mut blobs = finished(&registered);
    let late = blobs[0].good.pop().unwrap();
    world.store.version_commit(commit(world.bucket.id, "k", 1, blobs)).await.unwrap();
    assert_eq!(world.ledger().await, (10, 10, 0));
    world.put("k", 2, &[1]).await;
    assert_eq!(world.ledger().await, (1, 0, 20));
    assert!(matches!(world.store.replica_commit(late).await, Err(StoreError::Superseded)));
    world.clean().await;
    world.advance(2 * HOUR);
    assert_eq!(world.due().await.len(), 1);
    world.verify().await;
}

/// Ten failures of everything that is due.
async fn park(world: &World) {
    for _ in 0..10 {
        for row in world.due().await {
            world.store.condemned_failed(row.id, "disk on fire".into()).await.unwrap();
        }
        world.advance(25 * HOUR);
    }
}

async fn parked(world: &World) -> Vec<Leftover> {
    world.store.condemned_parked(WriteId(0), 1000).await.unwrap()
}

#[tokio::test]
async fn an_operator_lists_what_is_parked_and_what_is_not() {
    let world = World::new().await;
    for at in ["a", "b", "c"] {
        world.put(at, 1, &[10]).await;
        world.delete(at).await;
    }
    let ids: Vec<u64> = world.due().await.iter().map(|row| row.id).collect();
    assert!(parked(&world).await.is_empty());
    park(&world).await;
    world.put("d", 1, &[7]).await;
    world.delete("d").await;
    let rows = parked(&world).await;
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), ids);
    let first = &rows[0];
    assert_eq!((first.backend, first.size, first.attempts), (BACKENDS[0], 10, 10));
    assert_eq!((first.reason, first.due), (CondemnReason::Deleted, None));
    assert_eq!(first.error.as_deref(), Some("disk on fire"));
    assert!(first.path.starts_with("photos/a~0.0~"), "{}", first.path);
    let page = world.store.condemned_parked(WriteId(ids[0]), 1).await.unwrap();
    assert_eq!(page, rows[1..2]);
    let all = world.store.condemned_all(WriteId(0), 1000).await.unwrap();
    assert_eq!((all.len(), all[3].attempts, all[3].due.is_some()), (4, 0, true));
}

#[tokio::test]
async fn what_is_parked_is_tried_again_when_an_operator_says_so() {
    let world = World::new().await;
    for at in ["a", "b"] {
        world.put(at, 1, &[10]).await;
        world.delete(at).await;
    }
    park(&world).await;
    let wanted = world.store.cleanup_wanted();
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("the deletes woke it");
    let ids: Vec<WriteId> = parked(&world).await.iter().map(|row| row.id).collect();
    let twice = vec![ids[0], ids[0], WriteId(12345)];
    assert_eq!(world.store.condemned_retry(twice).await.unwrap(), 1);
    tokio::time::timeout(PATIENCE, wanted.notified()).await.expect("cleanup is woken");
    assert_eq!(
        world.due().await.iter().map(|row| (row.id, row.attempts)).collect::<Vec<_>>(),
        [(ids[0].0, 0)]
    );
    assert_eq!(world.store.condemned_retry(ids.clone()).await.unwrap(), 1);
    world.verify().await;
    world.clean().await;
    assert_eq!(world.ledger().await, (0, 0, 0));
    world.verify().await;
}

#[tokio::test]
async fn what_is_forgotten_is_not_counted_any_more() {
    let world = World::new().await;
    for at in ["a", "b"] {
        world.put(at, 1, &[10]).await;
        world.delete(at).await;
    }
    let due: Vec<WriteId> = world.due().await.iter().map(|row| WriteId(row.id)).collect();
    assert_eq!(world.store.condemned_forget(due.clone()).await.unwrap(), 0, "they are not parked");
    park(&world).await;
    assert_eq!(world.ledger().await, (0, 0, 20));
    assert_eq!(world.store.condemned_forget(vec![due[0], due[0]]).await.unwrap(), 1);
    assert_eq!(world.ledger().await, (0, 0, 10));
    world.verify().await;
    assert_eq!(world.store.condemned_forget(due).await.unwrap(), 1);
    assert_eq!(world.ledger().await, (0, 0, 0));
    assert_eq!(world.store.backends().await.unwrap().iter().map(|b| b.rows).sum::<u64>(), 0);
    world.verify().await;
}

#[tokio::test]
async fn only_what_failed_is_hastened() {
    let world = World::new().await;
    for key in ["k", "l"] {
        world.put(key, 1, &[10]).await;
        world.delete(key).await;
    }
    let due = world.due().await;
    let (failed, other) = (due[0].id, due[1].id);
    world.store.condemned_failed(failed, "disk on fire".into()).await.unwrap();
    // A second delete waits for a reason of its own.
    let registered = world.register(&[10], 1).await;
    let write = registered[0].intents[0].write;
    let unknown = vec![FailedWrite { write, unknown: true }];
    world.store.blobs_abandon(vec![(registered[0].blob, unknown)]).await.unwrap();
    world.store.condemned_deleted(vec![write.0]).await.unwrap();
    let ids = async || world.due().await.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids().await, [other]);
    assert_eq!(world.store.condemned_hasten(0).await.unwrap(), Some(failed));
    assert_eq!(world.store.condemned_hasten(failed).await.unwrap(), None);
    assert_eq!(ids().await, [failed, other]);
    world.verify().await;
}

#[tokio::test]
async fn many_failures_are_hastened_page_by_page_and_each_once() {
    let world = World::new().await;
    let count = 2 * WORK_ROWS_MAX + 1;
    world.put("k", 1, &vec![1; count]).await;
    world.delete("k").await;
    let ids: Vec<u64> = world.due().await.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), count);
    for &id in &ids {
        world.store.condemned_failed(id, "disk on fire".into()).await.unwrap();
    }
    assert!(world.due().await.is_empty());
    let (mut after, mut done) = (0, Vec::new());
    while let Some(last) = world.store.condemned_hasten(after).await.unwrap() {
        assert!(last > after, "it goes on behind what it has done");
        after = last;
        done.push(world.due().await.len());
    }
    assert_eq!(done, [WORK_ROWS_MAX, 2 * WORK_ROWS_MAX, count]);
    world.verify().await;
}

#[tokio::test]
async fn what_is_due_on_one_backend_is_not_hidden_behind_another() {
    let world = World::new().await;
    let bucket = (world.bucket.id, world.bucket.placement_id);
    for (at, backend) in [("a", BACKENDS[0]), ("b", BACKENDS[0]), ("c", BACKENDS[1])] {
        let blobs = vec![BlobRequest { size: 10, stem: format!("photos/{at}~0.0") }];
        let registered =
            world.store.blobs_register(bucket.0, bucket.1, blobs, on(backend)).await.unwrap();
        let put = commit(bucket.0, at, 1, finished(&registered));
        world.store.version_commit(put).await.unwrap();
        world.advance(1);
        world.delete(at).await;
    }
    let due = async |backend, max| world.store.condemned_due(backend, max).await.unwrap().len();
    assert_eq!((due(BACKENDS[0], 1).await, due(BACKENDS[1], 1).await), (1, 1));
    assert_eq!((due(BACKENDS[0], 9).await, due(BACKENDS[2], 9).await), (2, 0));
    let next = async |backend| world.store.condemned_next(backend).await.unwrap();
    assert!(next(BACKENDS[0]).await < next(BACKENDS[1]).await);
    assert_eq!((next(BACKENDS[2]).await, next(BackendId(999)).await), (None, None));
}

#[tokio::test]
async fn a_paused_worker_stays_so_over_restarts() {
    let mut world = World::new().await;
    for name in ["scrubber", "drain", "scrubber"] {
        world.store.worker_pause(name, true).await.unwrap();
    }
    world.restart().await;
    assert_eq!(world.store.workers_paused().await.unwrap(), ["drain", "scrubber"]);
    world.store.worker_pause("drain", false).await.unwrap();
    world.store.worker_pause("nobody", false).await.unwrap();
    assert_eq!(world.store.workers_paused().await.unwrap(), ["scrubber"]);
    world.verify().await;
}

#[tokio::test]
async fn the_state_of_a_blob_says_what_it_has_and_what_it_wants() {
    let world = World::new().await;
    world.put("k", 1, &[10, 20]).await;
    let found = world.find("k").await.unwrap();
    let blobs: Vec<BlobId> = found.entries.iter().map(|entry| entry.blob).collect();
    let write = found.entries[0].replicas[0].write;
    world.store.replica_mark(write, ReplicaState::Missing).await.unwrap();
    let asked = vec![blobs[1], blobs[0], blobs[0], BlobId(12345)];
    let states = world.store.blob_states(asked).await.unwrap();
    assert_eq!(states.iter().map(|state| state.blob).collect::<Vec<_>>(), blobs);
    let facts = |at: usize| {
        let state: &BlobState = &states[at];
        (state.size, state.replicas, state.good, state.deficit, state.due.is_some())
    };
    assert_eq!((facts(0), facts(1)), ((10, 1, 0, 1, true), (20, 1, 1, 0, false)));
    let place = &states[0].places[0];
    assert_eq!((place.write, place.backend), (write, BACKENDS[0]));
    assert_eq!((place.state, place.checked), (ReplicaState::Missing, None));
    assert!(!place.is_borrowed && !states[0].has_no_target);
}

#[tokio::test]
async fn dead_intents_are_dropped_or_become_replicas_of_a_blob_that_exists() {
    let mut world = World::new().await;
    world.put("kept", 1, &[7]).await;
    let kept = world.find("kept").await.unwrap().entries[0].blob;
    let extra = world.store.replica_register(kept, CopyWhen::Always, choose(1)).await.unwrap();
    world.register(&[5], 2).await;
    world.restart().await;
    let dead = world.store.intents_dead(WriteId(0), 10).await.unwrap();
    assert_eq!(
        dead.iter().map(|dead| dead.committed.is_some()).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!((dead[0].write, dead[0].committed, dead[0].size), (extra.write, Some([9; 32]), 7));
    world.store.replica_commit(dead[0].write).await.unwrap();
    assert_eq!(world.settle_dead(|dead| dead.committed.is_none()).await, 2);
    assert_eq!(world.ledger().await, (14, 0, 0), "what was never there is not counted");
    assert!(world.due().await.is_empty());
    world.verify().await;
    // In case the service was still busy with them.
    world.advance(2 * HOUR);
    assert_eq!(world.due().await.len(), 2);
    world.clean().await;
    world.verify().await;
}

/// A blob of 7 bytes that misses replicas, and an intent for one on the second backend.
async fn short_with_intent(world: &World) -> (BlobId, Intent) {
    let wishes = BucketWishes { replicas: Some(3), ..BucketWishes::default() };
    possible(world.store.bucket_change(name("photos"), wishes).await).unwrap();
    let bucket = world.store.bucket("photos").unwrap();
    let blobs = vec![BlobRequest { size: 7, stem: "photos/kept~0.0".to_owned() }];
    let (id, placement) = (bucket.id, bucket.placement_id);
    let registered = world.store.blobs_register(id, placement, blobs, choose(1)).await.unwrap();
    let commit = commit(id, "kept", 1, finished(&registered));
    world.store.version_commit(commit).await.unwrap();
    let (blob, second) = (registered[0].blob, on(BACKENDS[1]));
    let intent = world.store.replica_register(blob, CopyWhen::Always, second).await.unwrap();
    (blob, intent)
}

#[tokio::test]
async fn a_blob_that_found_no_target_is_looked_at_again_when_an_intent_goes() {
    let mut world = World::new().await;
    let (blob, intent) = short_with_intent(&world).await;
    let found = async |world: &World| world.store.blobs_short(5, 10).await.unwrap();
    let is_due = async |world: &World| found(world).await.iter().any(|short| short.blob == blob);
    let put_off = async |world: &World, short: &[Short], again: LookAgain| {
        let put_off = short.iter().map(|short| (*short, again)).collect();
        world.store.blobs_put_off(put_off).await.unwrap();
    };
    let park = async |world: &World| {
        put_off(world, &found(world).await, LookAgain::After(5)).await;
        assert!(!is_due(world).await);
    };
    park(&world).await;
    let failed = FailedWrite { write: intent.write, unknown: false };
    world.store.replica_abandon(failed).await.unwrap();
    assert!(is_due(&world).await);
    let second = on(BACKENDS[1]);
    let intent = world.store.replica_register(blob, CopyWhen::Always, second).await.unwrap();
    world.restart().await;
    park(&world).await;
    world.store.intent_drop(intent.write).await.unwrap();
    assert!(is_due(&world).await);
    // It goes between the look that finds it in the way and the parking.
    let second = on(BACKENDS[1]);
    let intent = world.store.replica_register(blob, CopyWhen::Always, second).await.unwrap();
    let short = found(&world).await;
    world.restart().await;
    world.store.intent_drop(intent.write).await.unwrap();
    put_off(&world, &short, LookAgain::After(5)).await;
    assert!(is_due(&world).await, "what was in the way is gone");
    // What waits for a time waits for it whatever goes: most likely what failed itself.
    let second = on(BACKENDS[1]);
    let intent = world.store.replica_register(blob, CopyWhen::Always, second).await.unwrap();
    let short = found(&world).await;
    let failed = FailedWrite { write: intent.write, unknown: false };
    world.store.replica_abandon(failed).await.unwrap();
    let later = Timestamp(world.hand.load(Ordering::Acquire) + HOUR);
    put_off(&world, &short, LookAgain::At(later)).await;
    assert!(!is_due(&world).await);
    world.verify().await;
}

#[tokio::test]
async fn a_copy_that_comes_late_stands_as_the_duty_of_its_backend_says() {
    for (duty, state) in [
        (Duty::InUse, ReplicaState::Good),
        (Duty::Draining, ReplicaState::Leaving),
        (Duty::Away, ReplicaState::Away),
        (Duty::Removed, ReplicaState::Leaving),
    ] {
        let world = World::new().await;
        let (_, intent) = short_with_intent(&world).await;
        world.store.backend_duty(BACKENDS[1], duty).await.unwrap();
        while !world.store.standing_follow(BACKENDS[1]).await.unwrap().1 {}
        world.store.replica_commit(intent.write).await.unwrap();
        world.store.replica_commit(intent.write).await.unwrap();
        assert_eq!(world.store.replica_state(intent.write).await.unwrap(), Some(state));
        world.verify().await;
    }
}

#[tokio::test]
async fn a_removal_takes_intents_along_also_of_a_blob_that_has_nothing_good() {
    for leave in [Leave::Nothing, Leave::Bytes] {
        let mut world = World::new().await;
        let (blob, intent) = short_with_intent(&world).await;
        let first = world.store.blob_replicas(blob).await.unwrap()[0].write;
        world.store.replica_mark(first, ReplicaState::Missing).await.unwrap();
        let removal = Removal { backend: BACKENDS[1], leave, even_sole: true };
        world.store.removal_begin(removal).await.unwrap();
        let let_go = async |store: &Store| {
            let all = store.backend_replicas(BACKENDS[1], WriteId(0), 10).await.unwrap();
            assert_eq!(all, [(intent.write, blob)]);
            store.replicas_let_go(removal, vec![(intent.write, Others::None)]).await.unwrap()
        };
        assert_eq!(let_go(&world.store).await, 1, "it is still being written");
        world.restart().await;
        assert_eq!(world.store.removals().await.unwrap(), [removal]);
        assert_eq!(let_go(&world.store).await, 0);
        assert_eq!(world.store.replica_state(intent.write).await.unwrap(), None);
        world.verify().await;
    }
}
