//! What must be true of the world at every moment.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::model::At;
use super::model::BUCKETS;
use super::model::Content;
use super::model::KEYS;
use super::model::key_of;
use super::site::Seen;
use super::verbs::Sure;
use super::verbs::Verb;
use super::world::World;
use crate::engine::BreakerState;
use crate::engine::EngineError;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::store::BackendRow;
use crate::store::CensusReplica;
use crate::worker::Name;

impl World {
    /// Looks at everything. Nothing is on its way to a backend while it does.
    pub(super) fn check(&mut self) {
        let engine = self.engine();
        let asked = engine.clone();
        self.census = self.ask(async move { asked.store.census().await }).unwrap();
        let rows = self.ask(async move { engine.store.backends().await }).unwrap();
        self.check_quotas(&rows);
        let was_away = |row: &BackendRow| {
            self.rows.iter().any(|before| before.id == row.id && before.duty == Duty::Away)
        };
        let away = rows.iter().filter(|row| row.duty == Duty::Away && !was_away(row)).count();
        *self.tally.entry("away".to_owned()).or_default() += away as u64;
        self.rows = rows;
        let files: Vec<BTreeMap<String, Bytes>> =
            self.sites.iter().map(|site| site.files()).collect();
        self.check_paths(&files);
        self.check_files(&files);
        self.check_replicas();
        self.check_objects(&files);
    }

    pub(super) fn verify(&mut self) {
        let engine = self.engine();
        let wrong = self.ask(async move { engine.store.verify().await }).unwrap();
        assert!(wrong.is_empty(), "the store is not in order: {wrong:?}");
        self.check();
    }

    /// What is held is within the quota; above one that was lowered nothing new is taken.
    fn check_quotas(&self, rows: &[BackendRow]) {
        for row in rows {
            let Some(quota) = row.quota else { continue };
            let before = self.rows.iter().find(|before| before.id == row.id);
            let was = before.map_or(0, |before| before.held());
            let most = quota.max(was);
            assert!(row.held() <= most, "{} holds {} of {most}", row.name, row.held());
        }
    }

    /// Every path is used once.
    fn check_paths(&mut self, files: &[BTreeMap<String, Bytes>]) {
        for (site, files) in self.sites.iter_mut().zip(files) {
            for (path, seen) in &mut site.seen {
                seen.is_gone |= !files.contains_key(path);
            }
            let late: Vec<String> = site.ghosts.iter().map(|(_, path, _)| path.clone()).collect();
            for (path, bytes) in files {
                let hash: [u8; 32] = blake3::hash(bytes).into();
                let new = Seen { hash, is_gone: false };
                let seen = site.seen.entry(path.clone()).or_insert(new);
                assert!(!seen.is_gone || late.contains(path), "{path} is there again");
                assert!(seen.hash == hash, "{path} was written twice");
            }
        }
    }

    /// Every file is one that the store knows.
    fn check_files(&self, files: &[BTreeMap<String, Bytes>]) {
        for (site, files) in self.sites.iter().zip(files) {
            for path in files.keys() {
                let is_known = self.is_known(site.id(), path);
                assert!(is_known, "nobody knows of {path} on {}", site.name());
            }
        }
    }

    /// Every replica that is believed to be right is, unless somebody spoilt it.
    fn check_replicas(&self) {
        for replica in self.census.replicas.iter().filter(|replica| replica.state.is_readable()) {
            let is_harmed = self.sites[site_of(replica.backend)].harmed.contains(&replica.path);
            assert!(is_harmed || self.is_intact(replica), "{replica:?} is not right");
        }
    }

    fn is_known(&self, backend: BackendId, path: &str) -> bool {
        let mut replicas = self.census.replicas.iter();
        let mut condemned = self.census.condemned.iter();
        replicas.any(|known| known.backend == backend && known.path == path)
            || condemned.any(|known| known.backend == backend && known.path == path)
    }

    /// Every object is what its clients were told, and can be read from what is there.
    fn check_objects(&self, files: &[BTreeMap<String, Bytes>]) {
        for at in (0..BUCKETS.len()).flat_map(|bucket| (0..KEYS).map(move |key| (bucket, key))) {
            let may_be = self.model.now(at);
            let is = self.content(at, files);
            let names: Vec<String> = may_be.iter().map(Content::name).collect();
            let name = is.name();
            assert!(may_be.contains(&is), "{at:?} is {name}, and should be one of {names:?}");
        }
    }

    fn content(&self, at: At, files: &[BTreeMap<String, Bytes>]) -> Content {
        let key = key_of(at);
        let mut objects = self.census.objects.iter();
        let found = objects.find(|object| object.bucket == BUCKETS[at.0] && object.key == key);
        let Some(object) = found else { return Content::Gone };
        let mut body = Vec::new();
        for (blob, offset, length) in &object.entries {
            let Some(bytes) = self.bytes_of(*blob, files) else {
                let replicas: Vec<_> = self.replicas_of(*blob).collect();
                panic!("nothing right is left of {blob} of {at:?}: {replicas:?}");
            };
            body.extend_from_slice(&bytes[*offset as usize..(*offset + *length) as usize]);
        }
        Content::Body(body.into())
    }

    fn replicas_of(&self, blob: BlobId) -> impl Iterator<Item = &CensusReplica> {
        self.census.replicas.iter().filter(move |replica| replica.blob == blob)
    }

    /// The right bytes of a blob, from a replica that a read would come to: what was found wrong, or
    /// could not be read for so long that it is taken for damaged, is tried when nothing better is left.
    fn bytes_of(&self, blob: BlobId, files: &[BTreeMap<String, Bytes>]) -> Option<Bytes> {
        let readable =
            self.replicas_of(blob).filter(|replica| replica.state != ReplicaState::Writing);
        let intact = |replica: &CensusReplica| {
            let bytes = files[site_of(replica.backend)].get(&replica.path)?;
            self.is_right(blob, bytes).then(|| bytes.clone())
        };
        readable.into_iter().find_map(intact)
    }

    fn is_right(&self, blob: BlobId, bytes: &[u8]) -> bool {
        let known = self.census.blobs.iter().find(|known| known.id == blob);
        known.is_some_and(|known| {
            known.size == bytes.len() as u64 && known.hash == blake3::hash(bytes).as_bytes()
        })
    }

    /// Whether what lies at a replica's path is what should.
    pub(super) fn is_intact(&self, replica: &CensusReplica) -> bool {
        let bytes = self.sites[site_of(replica.backend)].place.read(&replica.path);
        bytes.is_some_and(|bytes| self.is_right(replica.blob, &bytes))
    }

    // ---- Reads.

    /// Why a read that begins now must succeed, if it must: also when the object is overwritten or
    /// deleted meanwhile, for it has looked up what it reads before anything else happens.
    pub(super) fn sure(&self, at: At) -> Option<Sure> {
        self.model.certain(at).filter(|content| *content != Content::Gone)?;
        let key = key_of(at);
        let mut objects = self.census.objects.iter();
        let object = objects.find(|object| object.bucket == BUCKETS[at.0] && object.key == key)?;
        let mut sure = Vec::new();
        for (blob, ..) in &object.entries {
            let well = self.replicas_of(*blob).filter(|replica| {
                let site = &self.sites[site_of(replica.backend)];
                let fleet = self.life().engine.fleet.load();
                let is_seen = fleet.get(replica.backend).is_some_and(|backend| {
                    let is_closed = backend.breaker_view().state == BreakerState::Closed;
                    backend.is_present() && is_closed
                });
                let is_calm = is_seen && !site.is_lost && site.mood == super::site::Mood::Calm;
                is_calm && replica.state.is_readable() && self.is_intact(replica)
            });
            let sites = well.map(|replica| site_of(replica.backend));
            let sites: Vec<_> = sites.map(|site| (site, self.sites[site].troubles)).collect();
            if sites.is_empty() {
                return None;
            }
            sure.push(sites);
        }
        Some(sure)
    }

    pub(super) fn got(
        &mut self,
        (op, at): (u64, At),
        range: Option<(u64, u64)>,
        sure: Option<Sure>,
        got: Result<Bytes, EngineError>,
    ) {
        let may_be = self.model.read_ends(op, at);
        let part = |body: &Bytes| match range {
            None => body.clone(),
            Some((first, last)) => {
                let end = body.len().min(last as usize + 1);
                body.slice((first as usize).min(end)..end)
            }
        };
        let was_hindered = sure.as_ref().is_none_or(|sure| {
            let well = |(site, troubles): &(usize, u64)| self.sites[*site].troubles == *troubles;
            !sure.iter().all(|sites| sites.iter().any(well))
        });
        match got {
            Ok(bytes) => {
                let is_right = may_be.iter().any(|content| match content {
                    Content::Gone => false,
                    Content::Body(body) => part(body) == bytes,
                });
                assert!(is_right, "get #{op} of {at:?} read {}", Content::Body(bytes).name());
                self.note(format!("#{op} got {} bytes", bytes.len()));
                self.count(if range.is_some() { "range" } else { "get" });
            }
            Err(EngineError::NoSuchKey) => {
                assert!(may_be.contains(&Content::Gone), "get #{op} of {at:?} found nothing");
            }
            Err(EngineError::RangeNotSatisfiable { .. }) if may_be.len() > 1 => {}
            Err(err) => {
                let why = crate::base::chain(&err);
                assert!(was_hindered, "get #{op} of {at:?} fails: {why}");
                self.note(format!("#{op} get fails: {why}"));
            }
        }
    }

    // ---- Harm.

    /// Replicas that are believed to be good and are not.
    pub(super) fn harmed(&self) -> usize {
        let believed = self.census.replicas.iter().filter(|replica| replica.state.is_readable());
        believed.filter(|replica| !self.is_intact(replica)).count()
    }

    /// Spoils a replica behind Larder's back, as far as what was promised can hold all the same. One
    /// that is right is always left. Fewer than a blob should have are changed, which only a read
    /// would notice; any number is lost or cut, which Larder looks for before it gives others up:
    /// only not in the moment between the two.
    pub(super) fn harm(&mut self) {
        let how = self.dice.of(&[Harm::Lost, Harm::Cut, Harm::Changed]);
        if how != Harm::Changed && self.gives_up() {
            return;
        }
        self.check();
        let good = self.census.replicas.iter().filter(|r| r.state == ReplicaState::Good);
        let choices: Vec<_> = good.filter(|replica| self.may_be_harmed(replica, how)).collect();
        if choices.is_empty() {
            return;
        }
        let chosen = choices[self.dice.index(choices.len())];
        let (number, path) = (site_of(chosen.backend), chosen.path.clone());
        let site = &mut self.sites[number];
        let bytes = site.place.read(&path).unwrap_or_default();
        site.troubles += 1;
        match how {
            Harm::Lost => drop(site.place.remove(&path)),
            Harm::Cut => site.place.put(&path, bytes.slice(..bytes.len() - 1)),
            Harm::Changed => drop(site.place.damage(&path, bytes.len() / 2)),
        }
        if let (Some(now), Some(seen)) = (site.place.read(&path), site.seen.get_mut(&path)) {
            seen.hash = blake3::hash(&now).into();
        }
        site.harmed.insert(path.clone());
        self.note(format!("{path} on site {number} is {how:?}"));
        self.count("harm");
    }

    /// Something may have looked at replicas and be about to give up others for them.
    fn gives_up(&self) -> bool {
        let gives_up = |verb: &Verb| {
            matches!(verb, Verb::Step(Name::Drain | Name::OverReplication | Name::Rebalancer))
        };
        self.flights.iter().any(|flight| gives_up(&flight.verb))
    }

    fn may_be_harmed(&self, replica: &CensusReplica, how: Harm) -> bool {
        let mut blobs = self.census.blobs.iter();
        let Some(blob) = blobs.find(|blob| blob.id == replica.blob) else { return false };
        let others = self.replicas_of(replica.blob).filter(|other| other.write != replica.write);
        let (right, wrong): (Vec<_>, Vec<_>) = others
            .filter(|other| other.state.is_readable())
            .partition(|other| self.is_intact(other));
        let changed = wrong.iter().filter(|other| self.length_of(other) == Some(blob.size)).count();
        let is_bounded = how != Harm::Changed || changed as u32 + 1 < blob.wish.replicas;
        blob.is_committed && !right.is_empty() && is_bounded && self.is_intact(replica)
    }

    fn length_of(&self, replica: &CensusReplica) -> Option<u64> {
        let bytes = self.sites[site_of(replica.backend)].place.read(&replica.path);
        bytes.map(|bytes| bytes.len() as u64)
    }
}

/// What becomes of a file behind Larder's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Lost,
    Cut,
    Changed,
}

pub(super) fn site_of(backend: BackendId) -> usize {
    (backend.0 - 1) as usize
}
