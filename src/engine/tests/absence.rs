//! Backends that are out of reach for long, and come back.

use super::*;
use crate::backend::SimPlace;
use crate::model::Duty;
use crate::model::ReplicaState;

const MINUTE: Duration = Duration::from_secs(60);
const GOOD: ReplicaState = ReplicaState::Good;
const AWAY: ReplicaState = ReplicaState::Away;

impl Steered {
    /// The backends are reached over a line, in place of the directories.
    async fn remote(replicas: u32) -> Steered {
        let world = Steered::new(replicas).await;
        let mut backends = Vec::new();
        for (number, faults) in (1..).zip(&world.faults) {
            let (name, id) = (format!("disk{number}"), BackendId(number));
            let place = SimPlace::new(world.engine.clock.clone());
            backends.push(Backend::for_simulation(&name, id, &place, faults.clone(), |_| {}).await);
        }
        world.engine.fleet.store(Arc::new(Fleet::new(backends)));
        world
    }

    /// The backend is out of reach, or back, and it was noticed.
    async fn lose(&self, number: u64, lost: bool) {
        self.faults[number as usize - 1].lose_marker(lost);
        let looked = self.engine.fleet.load().get(BackendId(number)).unwrap().look().await;
        assert_eq!(looked.is_err(), lost);
    }

    /// Upkeep and the replicator look every ten minutes; how many replicas they changed or made.
    async fn go_by(&self, minutes: u32) -> u64 {
        let mut processed = 0;
        for _ in 0..minutes / 10 {
            self.advance(10 * MINUTE);
            self.engine.look_for_absent().await;
            processed += self.replicate().await.processed;
            self.is_clean().await;
        }
        processed
    }

    async fn duties(&self) -> Vec<Duty> {
        self.engine.store.backends().await.unwrap().iter().map(|row| row.duty).collect()
    }

    fn writes(&self) -> Vec<u64> {
        self.faults.iter().map(|faults| faults.count(Call::Write)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_most_remote_backends_break_together_none_is_marked_and_nothing_is_copied() {
    let world = Steered::remote(2).await;
    let keys: Vec<String> = (0..5).map(|n| format!("key{n}")).collect();
    for (n, key) in keys.iter().enumerate() {
        world.put(key, &bytes(100 + n)).await.unwrap();
        assert_eq!(world.stands(key).await, [(1, GOOD), (2, GOOD)]);
    }
    world.lose(2, true).await;
    world.lose(3, true).await;
    world.put("meanwhile", &bytes(1000)).await.unwrap();
    world.engine.look_for_absent().await;
    let writes = world.writes();
    assert_eq!(world.go_by(5 * 60).await, 0);
    assert_eq!(world.writes(), writes, "nothing was even tried");
    assert_eq!(world.duties().await, [Duty::InUse; 3]);
    // The line is up again, and its backends do not return in one moment.
    world.lose(2, false).await;
    assert_eq!(world.go_by(30).await, 1, "only what was written with one replica gets another");
    world.lose(3, false).await;
    assert_eq!(world.go_by(3 * 60).await, 0);
    assert_eq!(world.duties().await, [Duty::InUse; 3]);
    let rows = world.engine.store.backends().await.unwrap();
    assert!(rows.iter().all(|row| row.absent_since.is_none()), "{rows:?}");
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(world.stands(key).await, [(1, GOOD), (2, GOOD)]);
        assert!(world.get(key).await.unwrap() == bytes(100 + n));
    }
    assert_eq!(world.stands("meanwhile").await, [(1, GOOD), (2, GOOD)]);
    assert_eq!(world.thin().await.processed, 0);
    world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_comes_back_after_its_replicas_were_made_anew_is_thinned_to_the_wish() {
    let world = Steered::new(2).await;
    let objects: Vec<_> = (0..5).map(|n| (format!("key{n}"), bytes(100 + n))).collect();
    for (key, body) in &objects {
        world.put(key, body).await.unwrap();
        assert_eq!(world.stands(key).await, [(1, GOOD), (2, GOOD)]);
    }
    world.lose(1, true).await;
    world.engine.look_for_absent().await;
    assert_eq!(world.go_by(50).await, 0);
    assert_eq!(world.duties().await, [Duty::InUse; 3]);
    assert_eq!(world.go_by(10).await, 10, "those on it do not count, and others are made");
    assert_eq!(world.duties().await, [Duty::Away, Duty::InUse, Duty::InUse]);
    for (key, body) in &objects {
        assert_eq!(world.stands(key).await, [(1, AWAY), (2, GOOD), (3, GOOD)]);
        assert!(world.get(key).await.unwrap() == *body);
    }
    assert_eq!(world.thin().await.processed, 0, "what is away is no surplus");
    world.lose(1, false).await;
    assert_eq!(world.go_by(10).await, 5, "they count again");
    assert_eq!(world.duties().await, [Duty::InUse; 3]);
    let mut cursor = SurplusCursor::default();
    for left in (0..5).rev() {
        for (key, _) in &objects {
            assert!(world.replicas(key).await[0] >= 2);
        }
        let step = world.engine.surplus_step(&mut cursor, 1, 1).await.unwrap();
        assert_eq!((step.processed, step.failed), (1, 0));
        assert_eq!(world.engine.store.blobs_surplus_count().await.unwrap(), left);
        world.is_clean().await;
    }
    assert_eq!(world.thin().await.processed, 0);
    let objects: Vec<_> = objects.iter().map(|(key, body)| (key.as_str(), body)).collect();
    world.holds_only(&objects, 2).await;
}
