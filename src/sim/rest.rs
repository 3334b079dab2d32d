//! The end of a world: nothing breaks any more, time passes, and all comes to what was wished.

use std::collections::BTreeSet;
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
use crate::store::BackendRow;
use crate::store::CensusBlob;
use crate::store::CensusReplica;
use crate::store::StoreError;
use crate::worker::Name;
use crate::worker::factories;

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
        // What was broken before is left alone for a while.
        self.pass(ROUND);
        self.rests(None);
        self.loses_one();
        self.check_files_at_rest();
        self.check_reads();
    }

    /// A site is gone for long: what it held is made elsewhere, and when it is back there is too much.
    fn loses_one(&mut self) {
        let serving = self.serving();
        if serving.len() < 3 || self.dice.chance(50) {
            return;
        }
        let lost = self.dice.of(&serving);
        self.note(format!("site {lost} is gone"));
        self.sites[lost].is_lost = true;
        self.sites[lost].faults.lose_marker(true);
        let id = self.sites[lost].id();
        let backend = self.life().engine.fleet.load().get(id).cloned().unwrap();
        self.ask(async move { drop(backend.look().await) });
        self.rests(Some(lost));
        self.note(format!("site {lost} is back"));
        self.sites[lost].is_lost = false;
        self.sites[lost].faults.lose_marker(false);
        self.pass(ROUND);
        self.rests(None);
    }

    /// Time passes until all is as it was wished, as far as it can be without the site that is lost.
    fn rests(&mut self, lost: Option<usize>) {
        for _ in 0..ROUNDS_MAX {
            self.round();
            self.check();
            if self.unrest(lost).is_none() {
                break;
            }
            self.pass(ROUND);
        }
        self.verify();
        if let Some(unrest) = self.unrest(lost) {
            panic!("it does not come to rest: {unrest}");
        }
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

    /// Every worker, until it has nothing more to do now.
    fn round(&mut self) {
        self.watch();
        self.fly_home();
        let engine = self.engine();
        self.ask(async move { engine.leftovers_retry(None).await }).unwrap();
        // Cleanup once more: what the others gave up in vain is gone too.
        let names = self.idle.keys().copied().chain([Name::Cleanup]);
        for name in names.collect::<Vec<_>>() {
            // A pass over everything, as an operator asks for it: by a worker of its own.
            let is_full = matches!(name, Name::Scrubber | Name::Reconciler);
            if is_full {
                let mut factories = factories(&self.engine()).into_iter();
                let (_, make) = factories.find(|(of, _)| *of == name).unwrap();
                self.idle.insert(name, make());
            }
            let mut steps = 0;
            while self.has_more(name, is_full) {
                steps += 1;
                assert!(steps < STEPS_MAX, "{name} always has more to do");
            }
        }
    }

    fn has_more(&mut self, name: Name, is_full: bool) -> bool {
        self.work_as(name, is_full);
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

    /// The sites whose replicas count.
    fn serving(&self) -> Vec<usize> {
        let in_use = self.rows.iter().filter(|row| row.duty == Duty::InUse);
        in_use.map(|row| site_of(row.id)).collect()
    }

    /// What is not yet as it should be, but for what lies on the site that is lost.
    fn unrest(&self, lost: Option<usize>) -> Option<String> {
        let is_lost = |id: crate::model::BackendId| Some(site_of(id)) == lost;
        if let Some(path) = self.census.condemned.iter().find(|path| !is_lost(path.backend)) {
            return Some(format!("{path:?} is still condemned"));
        }
        let serving = self.serving();
        let rooms: BTreeSet<&str> = serving.iter().map(|site| self.sites[*site].room).collect();
        for blob in &self.census.blobs {
            let places = match blob.wish.require_distinct.is_empty() {
                true => serving.len(),
                false => rooms.len(),
            };
            if let Some(unrest) = self.unrest_of(blob, places, lost) {
                return Some(unrest);
            }
        }
        for replica in self.census.replicas.iter().filter(|replica| !is_lost(replica.backend)) {
            let is_serving = serving.contains(&site_of(replica.backend));
            match replica.state {
                ReplicaState::Good if !is_serving => {
                    return Some(format!("{replica:?} counts, on a backend that is not in use"));
                }
                ReplicaState::Good if !self.is_intact(replica) => {
                    return Some(format!("{replica:?} is not intact"));
                }
                ReplicaState::Writing => return Some(format!("{replica:?} is still promised")),
                _ => {}
            }
        }
        let leaving = |row: &&BackendRow| match row.duty {
            Duty::Draining => row.rows > 0 && rooms.len() >= 3 && lost.is_none(),
            Duty::Away => !is_lost(row.id),
            Duty::InUse => is_lost(row.id),
            Duty::Removed => false,
        };
        self.rows.iter().find(leaving).map(|row| format!("{} has {:?}", row.name, row.duty))
    }

    fn unrest_of(&self, blob: &CensusBlob, places: usize, lost: Option<usize>) -> Option<String> {
        let of = |replica: &&CensusReplica| {
            replica.blob == blob.id && Some(site_of(replica.backend)) != lost
        };
        let replicas: Vec<_> = self.census.replicas.iter().filter(of).collect();
        if lost.is_some() && !replicas.iter().any(|replica| replica.state.is_readable()) {
            // There is nothing that it could be made from.
            return None;
        }
        let good = replicas.iter().filter(|replica| replica.state == ReplicaState::Good).count();
        let wish = blob.wish.replicas as usize;
        // A drain that was taken back may leave two in one room: not as wished, and no less safe.
        let is_right = (places.min(wish)..=wish).contains(&good);
        let has_more = good == wish && replicas.len() > good;
        let is_at_rest = is_right && !has_more && blob.is_committed;
        (!is_at_rest).then(|| format!("{blob:?} can have {places}: {replicas:?}"))
    }

    /// Nothing lies anywhere but what belongs there.
    fn check_files_at_rest(&self) {
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
