//! The world: sites that last, an engine that lives until it crashes, and what is on its way in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures_util::poll;
use tokio::runtime::Runtime;

use super::dice::Dice;
use super::gates::Gates;
use super::model::BUCKETS;
use super::model::Model;
use super::site::Mood;
use super::site::Site;
use super::verbs::Flight;
use super::verbs::Part;
use crate::backend::Backend;
use crate::backend::Fleet;
use crate::backend::SimPlace;
use crate::base::Clock;
use crate::base::Ids;
use crate::base::Timestamp;
use crate::engine::AdmissionSettings;
use crate::engine::Engine;
use crate::engine::EngineSettings;
use crate::model::BucketName;
use crate::model::Placement;
use crate::model::Routing;
use crate::store::BackendRow;
use crate::store::BucketWishes;
use crate::store::Census;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Durability;
use crate::store::Store;
use crate::store::StoreSettings;
use crate::worker::CrewSettings;
use crate::worker::Name;
use crate::worker::Worker;
use crate::worker::factories;

/// 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600_000_000;
/// Rounds in which nothing stirs before nothing is taken to stir any more.
const QUIET: u32 = 6;
/// How long a thread of the store may take for what it was asked, in real time.
const PATIENCE: Duration = Duration::from_secs(120);
const MEMORY: u64 = 64 << 20;
/// Lines of the log that are shown of a world that failed.
const SHOWN_MAX: usize = 200;

/// One run of the program.
pub(super) struct Life {
    pub(super) runtime: Runtime,
    pub(super) engine: Arc<Engine>,
    pub(super) gates: Gates,
}

/// Uploads whose parts are known.
pub(super) struct OpenUpload {
    pub(super) at: super::model::At,
    pub(super) id: crate::model::UploadId,
    pub(super) parts: BTreeMap<u32, Part>,
    /// A verb is at work on it.
    pub(super) is_busy: bool,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) dice: Dice,
    hand: Arc<AtomicI64>,
    pub(super) clock: Clock,
    dir: tempfile::TempDir,
    pub(super) sites: Vec<Site>,
    life: Option<Life>,
    runs: u64,
    pub(super) blob_max: u64,
    /// Somebody spoils files behind Larder's back.
    pub(super) is_tampered_with: bool,
    pub(super) crew: Arc<CrewSettings>,
    /// Those that are not at work.
    pub(super) idle: BTreeMap<Name, Box<dyn Worker>>,
    pub(super) flights: Vec<Flight>,
    pub(super) uploads: Vec<OpenUpload>,
    pub(super) model: Model,
    pub(super) ops: u64,
    /// What the store said when it was last asked.
    pub(super) census: Census,
    pub(super) rows: Vec<BackendRow>,
    pub(super) step: u64,
    /// The worker that stepped last, when it said that it has more to do now.
    pub(super) has_said_now: Option<Name>,
    log: Vec<String>,
    pub(super) tally: BTreeMap<String, u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let hand = Arc::new(AtomicI64::new(BEGINNING + dice.below(86_400_000_000) as i64));
        let clock = Clock::steered(Arc::clone(&hand));
        let count = dice.within(3, 6) as usize;
        let place = |_| SimPlace::new(clock.clone());
        let places: Vec<SimPlace> = (0..count).map(place).collect();
        let sites = places.into_iter().enumerate();
        let sites = sites.map(|(number, place)| Site::new(number, place, &mut dice)).collect();
        let blob_max = dice.of(&[90_000, 90_000, 90_000, 1_200_000]);
        let crew = Arc::new(crew(&mut dice));
        let is_tampered_with = dice.chance(40);
        let mut world = World {
            seed,
            dice,
            hand,
            clock,
            dir: directory(),
            sites,
            life: None,
            runs: 0,
            blob_max,
            is_tampered_with,
            crew,
            idle: BTreeMap::new(),
            flights: Vec::new(),
            uploads: Vec::new(),
            model: Model::default(),
            ops: 0,
            census: Census::default(),
            rows: Vec::new(),
            step: 0,
            has_said_now: None,
            log: Vec::new(),
            tally: BTreeMap::new(),
        };
        world.begin_life();
        for bucket in BUCKETS {
            world.make_bucket(bucket);
        }
        world
    }

    pub(super) fn life(&self) -> &Life {
        self.life.as_ref().expect("a world has a life, but for the moment of a crash")
    }

    pub(super) fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.life().engine)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn make_bucket(&mut self, name: &str) {
        let wishes = self.wishes();
        self.note(format!("bucket {name} wishes {wishes:?}"));
        let (engine, name) = (self.engine(), BucketName::new(name).unwrap());
        self.ask(async move { engine.create_bucket_with(name, wishes).await }).unwrap();
    }

    pub(super) fn wishes(&mut self) -> BucketWishes {
        let replicas = self.dice.within(1, 3) as u32;
        let min_replicas = self.dice.within(1, u64::from(replicas)) as u32;
        let labels = if self.dice.chance(20) { vec!["room".to_owned()] } else { Vec::new() };
        BucketWishes {
            replicas: Some(replicas),
            min_replicas: Some(min_replicas),
            routing: Some(self.dice.of(&[Routing::Pack, Routing::Spread])),
            require_distinct: Some(labels),
            ..BucketWishes::default()
        }
    }

    // ---- Lives.

    fn begin_life(&mut self) {
        self.runs += 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let ids = Arc::new(Ids::seeded(self.clock.clone(), self.seed ^ (self.runs << 32)));
        let store = open(self.dir.path(), &self.clock, ids);
        let gates = Gates::new(self.seed ^ self.runs);
        let mut backends = Vec::new();
        for site in &mut self.sites {
            site.faults = Default::default();
            site.faults.lose_marker(site.is_lost);
            let (name, faults) = (site.name(), site.faults.clone());
            let opening = Backend::for_simulation(&name, site.id(), &site.place, faults, |given| {
                site.settings(given);
            });
            backends.push(runtime.block_on(opening));
            site.faults.hold_each(gates.at(site.number));
        }
        let settings = EngineSettings {
            blob_max: self.blob_max,
            same_device: true,
            tail_wait: Duration::from_secs(1),
            admission: AdmissionSettings::default(),
        };
        let fleet = Fleet::new(backends);
        let engine = {
            let _inside = runtime.enter();
            Engine::new(store, fleet, settings, MEMORY, self.clock.clone())
        };
        self.idle = factories(&engine).into_iter().map(|(name, make)| (name, make())).collect();
        self.life = Some(Life { runtime, engine, gates });
        self.declare();
    }

    /// Tells the store of the fleet as it is configured now.
    pub(super) fn declare(&mut self) {
        let backends = self.sites.iter().map(|site| DeclaredBackend {
            id: site.id(),
            name: site.name(),
            location: site.name(),
            quota: site.quota,
            account: None,
        });
        let declaration = Declaration {
            backends: backends.collect(),
            buckets: Vec::new(),
            keys: Vec::new(),
            default_placement: Placement {
                replicas: 1,
                min_replicas: 1,
                routing: Routing::Pack,
                require_distinct: Vec::new(),
            },
        };
        let engine = self.engine();
        self.ask(async move { engine.store.declare(declaration).await }).unwrap();
    }

    /// Everything on its way is dropped where it stands. What waited at a gate may have been done
    /// all the same, now or a while later. Then a new life begins.
    pub(super) fn crash(&mut self) {
        self.count("crashes");
        let waiting = self.life().gates.waiting();
        self.note(format!("crash with {} on their way: {waiting:?}", self.flights.len()));
        for call in waiting {
            if self.dice.chance(30) {
                self.open_gate(call, Some(crate::backend::faulty::Effect::HangAfter));
            }
        }
        self.forget_flights();
        self.end_life();
        self.begin_life();
    }

    fn end_life(&mut self) {
        self.idle.clear();
        let Some(Life { runtime, engine, .. }) = self.life.take() else { return };
        let store = engine.store.clone();
        drop(engine);
        // Every task with it, in the middle of what it does.
        drop(runtime);
        let closing = tokio::runtime::Builder::new_current_thread().build().unwrap();
        closing.block_on(store.close());
    }

    // ---- Time.

    /// Lets everything go on as far as it can without a backend and without time.
    pub(super) fn settle(&self) {
        let life = self.life();
        let begun = Instant::now();
        life.runtime.block_on(async {
            let mut quiet = 0;
            while quiet < QUIET {
                // A runtime that has always something to do never moves its clock by itself.
                tokio::task::yield_now().await;
                if life.engine.store.is_idle() && life.engine.hashers.is_idle() {
                    quiet += 1;
                } else {
                    quiet = 0;
                    std::thread::yield_now();
                    assert!(begun.elapsed() < PATIENCE, "seed {}: the store hangs", self.seed);
                }
            }
        });
    }

    /// Asks for something that waits for no backend.
    pub(super) fn ask<T>(&self, asking: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        self.life().runtime.block_on(async {
            let mut asking = pin!(asking);
            loop {
                if let std::task::Poll::Ready(answer) = poll!(asking.as_mut()) {
                    return answer;
                }
                tokio::task::yield_now().await;
                std::thread::yield_now();
                assert!(begun.elapsed() < PATIENCE, "seed {}: no answer", self.seed);
            }
        })
    }

    /// Moves the clocks.
    pub(super) fn pass(&mut self, span: Duration) {
        for call in self.life().gates.waiting() {
            self.sites[call.site].troubles += 1;
        }
        let now = self.now().plus(span);
        for site in &mut self.sites {
            let landed = site.land(now);
            *self.tally.entry("late writes".to_owned()).or_default() += landed;
        }
        self.hand.store(now.0, Ordering::Release);
        let life = self.life();
        life.runtime.block_on(tokio::time::advance(span));
        if span > Duration::from_secs(30) {
            self.let_go_what_hangs();
        }
        self.settle();
    }

    /// No call of a service hangs for ever: below what the simulation breaks stand time limits.
    fn let_go_what_hangs(&self) {
        for site in &self.sites {
            site.faults.clear();
            site.faults.lose_marker(site.is_lost);
            site.faults.hold_each(self.life().gates.at(site.number));
        }
    }

    /// Every site is well from now on.
    pub(super) fn calm(&mut self) {
        for site in &mut self.sites {
            (site.mood, site.is_lost) = (Mood::Calm, false);
        }
        self.let_go_what_hangs();
        self.settle();
    }

    /// Lets every call go on that waits, one after the other, until none does.
    pub(super) fn go_on(&mut self) {
        self.settle();
        while let Some(next) = self.life().gates.waiting().first() {
            self.life().gates.open(next.number, None);
            self.settle();
        }
    }

    /// From now on no call waits.
    pub(super) fn open_the_gates(&mut self) {
        self.sites.iter().for_each(|site| site.faults.clear());
        self.go_on();
    }

    // ---- What is told.

    pub(super) fn note(&mut self, line: String) {
        self.log.push(format!("{:4} {line}", self.step));
    }

    pub(super) fn log(&self) -> &[String] {
        &self.log
    }

    pub(super) fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// What went on last, for whoever looks for a fault.
    pub(super) fn last(&self) -> String {
        let from = self.log.len().saturating_sub(SHOWN_MAX);
        self.log[from..].join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.flights.clear();
        self.end_life();
    }
}

/// In memory, where the machine has such a place: nothing of it must survive a power loss.
fn directory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    match shared.is_dir() {
        true => tempfile::tempdir_in(shared).or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    }
    .unwrap()
}

fn open(dir: &Path, clock: &Clock, ids: Arc<Ids>) -> Store {
    let settings = StoreSettings {
        data_dir: dir.join("data"),
        durability: Durability::ProcessExit,
        readers: 2,
        ballast: 0,
    };
    Store::open(settings, clock.clone(), ids).unwrap()
}

/// Small steps, so that there are many places between them.
fn crew(dice: &mut Dice) -> CrewSettings {
    let mut crew = CrewSettings::default();
    for name in Name::ALL {
        let settings = crew.of_mut(name);
        settings.batch = dice.within(1, 8) as usize;
        settings.concurrency = dice.within(1, 4) as usize;
    }
    crew.rebalancer.strategy = dice.of(&[Routing::Pack, Routing::Spread]);
    crew.rebalancer.threshold = 0.05;
    crew.scrubber.pass = Duration::from_secs(dice.within(600, 200_000));
    for name in [Name::Scrubber, Name::Reconciler] {
        crew.of_mut(name).interval = Duration::from_secs(dice.within(60, 20_000));
    }
    crew
}
