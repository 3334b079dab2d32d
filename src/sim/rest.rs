//! The end of a world: nothing breaks any more, time passes, and all comes to what was wished.

use std::time::Duration;

use super::checks::site_of;
use super::model::BUCKETS;
use super::model::Content;
use super::model::KEYS;
use super::verbs::Verb;
use super::verbs::read;
use super::world::World;
use crate::engine::EngineError;
use crate::engine::GetOptions;
use crate::engine::Leave;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::store::StoreError;
use crate::worker::Name;

/// Of time, until everything has come to rest.
const ROUNDS_MAX: u32 = 150;
const ROUND: Duration = Duration::from_secs(20 * 60);
/// Steps of one worker in one round.
const STEPS_MAX: u32 = 400;
/// Until everything that was begun has ended.
const LANDING_MAX: u32 = 1000;

impl World {
    /// Nothing breaks any more, and everything that is on its way comes to its end.
    pub(super) fn comes_to_an_end(&mut self) {
        self.note("nothing breaks any more".to_owned());
        self.calm();
        for _ in 0..LANDING_MAX {
            self.go_on();
            self.land();
            if self.flights.is_empty() {
                break;
            }
            self.pass(Duration::from_secs(5));
        }
        let left: Vec<&Verb> = self.flights.iter().map(|flight| &flight.verb).collect();
        assert!(left.is_empty(), "it does not end: {left:?}");
        self.verify();
    }

    /// With room enough, all is at last as it was wished.
    pub(super) fn comes_to_rest(&mut self) {
        self.note("time passes".to_owned());
        self.sites.iter_mut().for_each(|site| site.quota = None);
        self.declare();
        self.life().engine.fleet_changes();
        self.check();
        self.give_backends_back();
        if !self.idle.contains_key(&Name::Scrubber) {
            self.mend();
        }
        for _ in 0..ROUNDS_MAX {
            self.round();
            self.check();
            if self.unrest().is_none() {
                break;
            }
            self.pass(ROUND);
        }
        self.verify();
        if let Some(unrest) = self.unrest() {
            panic!("it does not come to rest: {unrest}");
        }
        self.check_files_at_rest();
        self.check_reads();
    }

    /// Takes drains back where the rest is too few, and goes on with removals.
    fn give_backends_back(&mut self) {
        let wished = self.census.blobs.iter().map(|blob| blob.wish.replicas).max().unwrap_or(1);
        let duties: Vec<(String, Duty)> =
            self.rows.iter().map(|row| (row.name.clone(), row.duty)).collect();
        let serving = duties.iter().filter(|(_, duty)| matches!(duty, Duty::InUse | Duty::Away));
        let is_short = serving.count() < wished as usize || self.dice.chance(30);
        for (name, duty) in duties {
            let engine = self.engine();
            match duty {
                Duty::Draining if is_short => {
                    self.note(format!("undrain {name}"));
                    self.ask(async move { engine.undrain(&name).await }).unwrap();
                }
                Duty::Removed => {
                    self.note(format!("remove {name} to the end"));
                    let left = Leave::Nothing;
                    let removed =
                        self.ask(async move { engine.remove_backend(&name, left, false).await });
                    self.removed(removed.map(drop));
                }
                _ => {}
            }
        }
    }

    fn removed(&mut self, removed: Result<(), EngineError>) {
        let Err(err) = removed else { return };
        let is_refused = matches!(&err, EngineError::Store(why)
            if matches!(**why, StoreError::SoleReplicas(_)));
        assert!(is_refused, "a removal fails: {err:?}");
    }

    /// Puts right what was harmed and nobody reads.
    fn mend(&mut self) {
        let harmed: Vec<(usize, String, crate::model::BlobId)> = self
            .census
            .replicas
            .iter()
            .filter(|replica| replica.state.is_readable() && !self.is_intact(replica))
            .map(|replica| (site_of(replica.backend), replica.path.clone(), replica.blob))
            .collect();
        for (site, path, blob) in harmed {
            let mut same = self.census.replicas.iter().filter(|replica| replica.blob == blob);
            let whole = same.find(|replica| self.is_intact(replica)).expect("one is intact");
            let bytes = self.sites[site_of(whole.backend)].place.read(&whole.path).unwrap();
            let hash = blake3::hash(&bytes).into();
            let seen = super::site::Seen { hash, is_gone: false };
            self.sites[site].place.put(&path, bytes);
            self.sites[site].seen.insert(path, seen);
        }
    }

    /// Every worker, until it has nothing more to do now.
    fn round(&mut self) {
        self.watch();
        self.fly_home();
        let engine = self.engine();
        self.ask(async move { engine.leftovers_retry(None).await }).unwrap();
        for name in self.idle.keys().copied().collect::<Vec<_>>() {
            let mut steps = 0;
            while self.has_more(name) {
                steps += 1;
                assert!(steps < STEPS_MAX, "{name} always has more to do");
            }
        }
    }

    fn has_more(&mut self, name: Name) -> bool {
        self.work_as(name, false);
        self.fly_home();
        self.has_said_now == Some(name)
    }

    fn fly_home(&mut self) {
        for _ in 0..LANDING_MAX {
            self.go_on();
            self.land();
            if self.flights.is_empty() {
                return;
            }
            self.pass(Duration::from_secs(1));
        }
        panic!("a step does not end");
    }

    /// What is not yet as it should be.
    fn unrest(&self) -> Option<String> {
        if let Some(path) = self.census.condemned.first() {
            return Some(format!("{path:?} is still condemned"));
        }
        let serving: Vec<usize> = self
            .rows
            .iter()
            .filter(|row| row.duty == Duty::InUse)
            .map(|row| site_of(row.id))
            .collect();
        let rooms: std::collections::BTreeSet<&str> =
            serving.iter().map(|site| self.sites[*site].room).collect();
        for blob in &self.census.blobs {
            let places = match blob.wish.require_distinct.is_empty() {
                true => serving.len(),
                false => rooms.len(),
            };
            let wanted = places.min(blob.wish.replicas as usize);
            let of = |replica: &&crate::store::CensusReplica| replica.blob == blob.id;
            let replicas: Vec<_> = self.census.replicas.iter().filter(of).collect();
            let good = replicas.iter().filter(|replica| replica.state == ReplicaState::Good);
            let good = good.count();
            let is_met = good == blob.wish.replicas as usize;
            // A drain that was taken back may leave two in one room: not as wished, and no less safe.
            let is_right = (wanted..=blob.wish.replicas as usize).contains(&good);
            if !is_right || (is_met && replicas.len() > good) || !blob.is_committed {
                let wish = &blob.wish;
                return Some(format!(
                    "{blob:?} wishes {wish:?}, {wanted} can be had: {replicas:?}"
                ));
            }
        }
        let is_out = |replica: &&crate::store::CensusReplica| {
            replica.state == ReplicaState::Good && !serving.contains(&site_of(replica.backend))
        };
        if let Some(replica) = self.census.replicas.iter().find(is_out) {
            return Some(format!("{replica:?} counts, on a backend that is not in use"));
        }
        if let Some(intent) = self.census.replicas.iter().find(|r| r.state == ReplicaState::Writing)
        {
            return Some(format!("{intent:?} is still promised"));
        }
        let leaving = |row: &&crate::store::BackendRow| {
            row.rows > 0 && row.duty == Duty::Draining && rooms.len() >= 3 && serving.len() >= 3
        };
        self.rows.iter().find(leaving).map(|row| format!("{} is not empty", row.name))
    }

    /// Nothing lies anywhere but what belongs there.
    fn check_files_at_rest(&self) {
        for replica in &self.census.replicas {
            let is_good = replica.state == ReplicaState::Good;
            assert!(!is_good || self.is_intact(replica), "{replica:?} is not intact");
        }
        let files: usize = self.sites.iter().map(|site| site.place.files().len()).sum();
        let known = self.census.replicas.iter();
        let known = known.filter(|replica| replica.state != ReplicaState::Missing).count();
        assert!(files <= known, "{files} files lie there, and {known} replicas");
    }

    /// Every object reads as it was acknowledged.
    fn check_reads(&mut self) {
        self.open_the_gates();
        for at in (0..BUCKETS.len()).flat_map(|bucket| (0..KEYS).map(move |key| (bucket, key))) {
            let engine = self.engine();
            let got = self.ask(async move { read(&engine, at, GetOptions::default()).await });
            let is = match got {
                Ok(body) => Content::Body(body),
                Err(EngineError::NoSuchKey) => Content::Gone,
                Err(err) => panic!("{at:?} cannot be read at the end: {err:?}"),
            };
            assert!(self.model.now(at).contains(&is), "{at:?} reads {} at the end", is.name());
        }
    }
}
