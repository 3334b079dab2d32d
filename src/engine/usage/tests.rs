//! Counting over months, crashes, restarts and reloads, on a real store with a steered clock.
//!
//! The load is real puts and gets; what is counted on top of them is of a class and an operation
//! that these never have, so the sums can be told exactly.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::books::Turns;
use super::warnings::Warnings;
use super::*;
use crate::backend::Backend;
use crate::backend::Bandwidth;
use crate::backend::BreakerSettings;
use crate::backend::Meter;
use crate::backend::Profile;
use crate::backend::Timeouts;
use crate::base::Clock;
use crate::base::Ids;
use crate::engine::AdmissionSettings;
use crate::engine::Body;
use crate::engine::CleanupCursor;
use crate::engine::CleanupLimits;
use crate::engine::EngineSettings;
use crate::engine::Expected;
use crate::engine::PutObject;
use crate::model::BucketName;
use crate::model::Names;
use crate::model::ObjectKey;
use crate::model::Operation;
use crate::model::Placement;
use crate::model::Purpose;
use crate::model::Routing;
use crate::model::WriteConditions;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Durability;
use crate::store::NewMeta;
use crate::store::Store;
use crate::store::StoreSettings;

/// 2026-11-30T23:59:50Z, in microseconds.
const LATE: i64 = 1_796_083_190_000_000;
const SECOND: i64 = 1_000_000;
const NOVEMBER: Period = Period(202_611);
const DECEMBER: Period = Period(202_612);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    engine: Arc<Engine>,
    hand: Arc<AtomicI64>,
    dir: tempfile::TempDir,
    settings: Vec<BackendSettings>,
}

/// Memory belongs to a name, and the name to one test.
fn in_memory(name: &str, limits: Limits) -> BackendSettings {
    static NUMBER: AtomicI64 = AtomicI64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::AcqRel);
    let name = format!("{name}-{number}");
    let wait = Duration::from_secs(20);
    BackendSettings {
        options: [("root".to_owned(), format!("/{name}"))].into(),
        name,
        service: "memory".to_owned(),
        quota: None,
        keep_free: Some(0),
        names: Names::Readable,
        blob_max: 1 << 20,
        labels: BTreeMap::new(),
        min_age: Duration::ZERO,
        timeouts: Timeouts { connect: wait, first_byte: wait, stall: wait },
        breaker: BreakerSettings::default(),
        absent_after: Duration::from_secs(3600),
        account: None,
        limits,
        profile: Profile::default(),
        bandwidth: Bandwidth::default(),
    }
}

/// A directory of the world's: what is written there counts, so it can be written.
fn on_disk(name: &str, limits: Limits) -> BackendSettings {
    BackendSettings { service: "fs".to_owned(), ..in_memory(name, limits) }
}

fn calls(limit: u64) -> Limits {
    let calls = [None, None, Some(limit), None];
    Limits { month: Allowance { calls, ..Allowance::default() }, ..Limits::default() }
}

fn id(number: usize) -> BackendId {
    BackendId(101 + number as u64)
}

impl World {
    async fn new(mut settings: Vec<BackendSettings>) -> World {
        let dir = tempfile::tempdir().unwrap();
        for one in settings.iter_mut().filter(|one| one.service == "fs") {
            let root = dir.path().join(&one.name).display().to_string();
            one.options = [("root".to_owned(), root)].into();
        }
        let hand = Arc::new(AtomicI64::new(LATE));
        let engine = World::start(&dir, &hand, &settings).await;
        engine.store.bucket_create(BucketName::new("bucket").unwrap()).await.unwrap();
        World { engine, hand, dir, settings }
    }

    /// As a server starts.
    async fn start(
        dir: &tempfile::TempDir,
        hand: &Arc<AtomicI64>,
        settings: &[BackendSettings],
    ) -> Arc<Engine> {
        let clock = Clock::steered(Arc::clone(hand));
        let store = StoreSettings {
            data_dir: dir.path().join("data"),
            durability: Durability::ProcessExit,
            readers: 2,
            ballast: 0,
        };
        let ids = Arc::new(Ids::new(Clock::system()));
        let store = Store::open(store, clock.clone(), ids).unwrap();
        store.declare(declaration(settings)).await.unwrap();
        let backends = open(&store, &clock, settings).await;
        let fleet = Fleet::new(backends);
        let engine = EngineSettings {
            blob_max: 1 << 20,
            same_device: true,
            tail_wait: Duration::from_secs(1),
            admission: AdmissionSettings::default(),
        };
        let engine = Engine::new(store, fleet.clone(), engine, 64 << 20, clock);
        engine.usage_learn(fleet.all()).await.unwrap();
        engine
    }

    /// The process ends, with or without the last flush, and another begins.
    async fn restart(&mut self) {
        self.engine.store.close().await;
        self.engine = World::start(&self.dir, &self.hand, &self.settings).await;
    }

    fn meter(&self, number: usize) -> Arc<Meter> {
        Arc::clone(self.engine.fleet.load().get(id(number)).unwrap().meter())
    }

    fn count(&self, number: usize, times: u64) {
        let meter = self.meter(number);
        (0..times).for_each(|_| meter.call(Purpose::Client, Class::C));
    }

    async fn stored(&self, number: usize, period: Period) -> Tally {
        let found = self.engine.store.usage_load(vec![(id(number), period)]).await.unwrap();
        found.first().map(|row| row.tally).unwrap_or_default()
    }

    async fn stored_calls(&self, number: usize, period: Period) -> u64 {
        self.stored(number, period).await.all.calls[Class::C as usize]
    }

    async fn verify(&self) {
        assert_eq!(self.engine.store.verify().await.unwrap(), Vec::<String>::new());
    }
}

fn declaration(settings: &[BackendSettings]) -> Declaration {
    let declared = |(number, one): (usize, &BackendSettings)| DeclaredBackend {
        id: id(number),
        name: one.name.clone(),
        location: one.name.clone(),
        quota: one.quota,
        account: one.account.clone(),
    };
    let (replicas, min_replicas) = (1, 1);
    Declaration {
        backends: settings.iter().enumerate().map(declared).collect(),
        buckets: Vec::new(),
        keys: Vec::new(),
        default_placement: Placement {
            replicas,
            min_replicas,
            routing: Routing::Spread,
            require_distinct: Vec::new(),
        },
    }
}

async fn open(store: &Store, clock: &Clock, settings: &[BackendSettings]) -> Vec<Arc<Backend>> {
    let mut backends = Vec::new();
    for (number, one) in settings.iter().enumerate() {
        let meter = Meter::new(clock.clone(), one.profile.day_begins);
        let opened = Backend::add(one.clone(), store.id(), id(number), meter).await;
        backends.push(opened.unwrap());
    }
    backends
}

async fn put(engine: &Arc<Engine>, key: &str) -> Result<(), EngineError> {
    let put = PutObject {
        bucket: "bucket".into(),
        key: ObjectKey::new(key).unwrap(),
        meta: NewMeta::default(),
        conditions: WriteConditions::default(),
        create_only: false,
        body: Body {
            size: 5,
            stream: stream::iter([Ok(Bytes::from_static(b"hello"))]).boxed(),
            expected: Expected::default(),
            trailer: None,
            draws: true,
            waits: false,
        },
    };
    engine.put_object(put).await.map(drop)
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(std::time::Instant::now() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets the runtime's clock go on, so that what waits is due.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// What the tasks know of their own calls: those of which the month is certain, and all.
#[derive(Default)]
struct Done {
    november: AtomicI64,
    december: AtomicI64,
    all: AtomicI64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_call_is_charged_to_its_month_under_load() {
    const TASKS: usize = 8;
    const EACH: usize = 60;
    let mut world = World::new(vec![on_disk("m0", calls(1 << 40)), on_disk("m1", calls(0))]).await;
    let stop = CancellationToken::new();
    let looping = tokio::spawn(Arc::clone(&world.engine).usage_loop(stop.clone()));
    let done = Arc::new(Done::default());
    let tasks = (0..TASKS).map(|task| {
        let (engine, done, hand) =
            (Arc::clone(&world.engine), Arc::clone(&done), Arc::clone(&world.hand));
        let meter = world.meter(0);
        let turn = move || hand.load(Ordering::Acquire) >= LATE + 10 * SECOND;
        tokio::spawn(async move {
            for round in 0..EACH {
                put(&engine, &format!("{task}-{}", round % 7)).await.unwrap();
                for _ in 0..50 {
                    let before = turn();
                    meter.call(Purpose::Work, Class::C);
                    meter.operation(Purpose::Work, Operation::List);
                    match (before, turn()) {
                        (false, false) => done.november.fetch_add(1, Ordering::AcqRel),
                        (true, true) => done.december.fetch_add(1, Ordering::AcqRel),
                        _ => 0,
                    };
                    done.all.fetch_add(1, Ordering::AcqRel);
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    // The month turns when about half is done.
    let half = (TASKS * EACH * 50 / 2) as i64;
    until("half of it", async || done.all.load(Ordering::Acquire) >= half).await;
    world.hand.store(LATE + 10 * SECOND, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    stop.cancel();
    looping.await.unwrap();
    let count = |counter: &AtomicI64| counter.load(Ordering::Acquire) as u64;
    let (november, december, all) =
        (count(&done.november), count(&done.december), count(&done.all));
    assert!(november > 0 && december > 0 && all == (TASKS * EACH * 50) as u64);
    // A new process knows the same as the old one.
    for round in 0..2 {
        let of = async |period| world.stored(0, period).await;
        let days = [Period(20_261_130), Period(20_261_201)];
        for periods in [[NOVEMBER, DECEMBER], days] {
            let [first, second] = [of(periods[0]).await, of(periods[1]).await];
            let calls = |tally: &Tally| tally.work.calls[Class::C as usize];
            let lists = |tally: &Tally| tally.all.operations[Operation::List as usize];
            assert_eq!(calls(&first) + calls(&second), all, "round {round}");
            assert_eq!(lists(&first) + lists(&second), all, "round {round}");
            // Of the few at the very turn, the two records of one may be in two months.
            let unsure = all - november - december;
            assert!((november..=november + unsure).contains(&calls(&first)));
            assert!((december..=december + unsure).contains(&calls(&second)));
        }
        world.verify().await;
        world.restart().await;
        // Opening counts a client's look, or none; the work is ours alone.
        assert_eq!(world.meter(0).tally(DECEMBER).work, world.stored(0, DECEMBER).await.work);
    }
}

#[tokio::test]
async fn a_crash_loses_what_was_not_written_and_no_more() {
    let mut world = World::new(vec![in_memory("m0", calls(1000))]).await;
    world.count(0, 3);
    world.engine.usage_flush().await.unwrap();
    world.count(0, 2);
    world.restart().await;
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 3);
    // What is counted before it is known what was there is added to it.
    world.count(0, 4);
    let tally = world.meter(0).tally(NOVEMBER);
    assert_eq!(tally.all.calls[Class::C as usize], 7);
    // A stop in the middle of an interval writes all.
    let stop = CancellationToken::new();
    stop.cancel();
    Arc::clone(&world.engine).usage_loop(stop).await;
    world.restart().await;
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 7);
    world.verify().await;
}

#[tokio::test]
async fn counts_go_along_with_a_commit() {
    let world = World::new(vec![on_disk("m0", Limits::default())]).await;
    world.count(0, 3);
    put(&world.engine, "k").await.unwrap();
    // Along with this commit, or, if the last was less than a second ago, with one of the next.
    until("a commit took them along", async || {
        put(&world.engine, "k").await.unwrap();
        world.stored_calls(0, NOVEMBER).await == 3
    })
    .await;
}

#[tokio::test]
async fn a_failure_to_write_keeps_the_counts() {
    let world = World::new(vec![in_memory("m0", calls(10))]).await;
    let database = rusqlite::Connection::open(world.dir.path().join("data/meta.db")).unwrap();
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON usage BEGIN SELECT raise(ABORT, 'no'); END";
    database.execute_batch(refuse).unwrap();
    let mut turns = Turns::default();
    world.count(0, 9);
    assert!(world.engine.usage_flush().await.is_err());
    pass(Duration::from_secs(5)).await;
    let rest = world.engine.usage_turn(&mut turns).await.unwrap();
    assert!(rest > Duration::ZERO && rest <= Duration::from_secs(5), "{rest:?}");
    world.count(0, 1);
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 0);
    // It is not written, but it holds.
    let account = crate::backend::Account::new(calls(10), vec![world.meter(0)]);
    let need = crate::backend::Need { calls: [0, 0, 1, 0], ..Default::default() };
    assert!(account.allows(Purpose::Client, need).is_err());
    database.execute_batch("DROP TRIGGER no").unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 10);
    world.verify().await;
}

#[tokio::test]
async fn counts_wait_shorter_near_a_limit_and_longer_without_one() {
    let world =
        World::new(vec![in_memory("m0", calls(100)), in_memory("m1", Limits::default())]).await;
    let mut turns = Turns::default();
    // What opening them took is written, and then nothing is due.
    world.engine.usage_flush().await.unwrap();
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    // Without limits: a disk may sleep for ten minutes.
    world.count(1, 1);
    let rest = world.engine.usage_turn(&mut turns).await.unwrap();
    assert!(rest > Duration::from_secs(500), "{rest:?}");
    pass(Duration::from_secs(601)).await;
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    assert_eq!(world.stored_calls(1, NOVEMBER).await, 1);
    // With limits: within five seconds, with looks in between.
    world.count(0, 79);
    let rest = world.engine.usage_turn(&mut turns).await.unwrap();
    assert!(rest <= Duration::from_secs(1), "{rest:?}");
    pass(Duration::from_secs(2)).await;
    world.engine.usage_turn(&mut turns).await.unwrap();
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 0);
    // Near one: what waits for longer than a second is written at once.
    world.count(0, 1);
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 80);
    world.count(0, 1);
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 81);
    // In another month the limit is far away again.
    world.hand.store(LATE + 10 * SECOND, Ordering::Release);
    world.count(0, 1);
    pass(Duration::from_secs(2)).await;
    world.engine.usage_turn(&mut turns).await.unwrap();
    assert_eq!(world.stored_calls(0, DECEMBER).await, 0);
    pass(Duration::from_secs(5)).await;
    assert_eq!(world.engine.usage_turn(&mut turns).await, None);
    assert_eq!(world.stored_calls(0, DECEMBER).await, 1);
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 81);
}

#[tokio::test]
async fn no_bytes_are_nothing_that_waits_to_be_written() {
    let world = World::new(vec![in_memory("m0", Limits::default())]).await;
    world.engine.usage_flush().await.unwrap();
    world.meter(0).egress(Purpose::Client, 0);
    world.meter(0).ingress(Purpose::Client, 0);
    // The loop would find it due, and nothing to write, again and again.
    pass(Duration::from_secs(601)).await;
    assert_eq!(world.engine.usage_turn(&mut Turns::default()).await, None);
    assert_eq!(world.meter(0).unwritten_since(), None);
}

#[tokio::test]
async fn the_loop_writes_within_seconds_and_is_still_when_nothing_happens() {
    let world = World::new(vec![in_memory("m0", calls(10))]).await;
    let stop = CancellationToken::new();
    let looping = tokio::spawn(Arc::clone(&world.engine).usage_loop(stop.clone()));
    world.count(0, 9);
    until("the loop wrote", async || world.stored_calls(0, NOVEMBER).await == 9).await;
    assert_eq!(world.meter(0).unwritten_since(), None);
    assert!((&mut Box::pin(looping)).now_or_never().is_none(), "it goes on");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_in_the_middle_loses_no_call() {
    let world = World::new(vec![in_memory("m0", calls(1000))]).await;
    let first = world.meter(0);
    let is_over = Arc::new(AtomicBool::new(false));
    let calling = tokio::task::spawn_blocking({
        let (first, is_over) = (Arc::clone(&first), Arc::clone(&is_over));
        move || {
            let mut sent = 0;
            while !is_over.load(Ordering::Acquire) {
                first.call(Purpose::Client, Class::C);
                sent += 1;
            }
            sent
        }
    });
    let clock = world.engine.clock.clone();
    for round in 0..20 {
        let mut settings = world.settings.clone();
        settings[0].limits = calls(2000 + round);
        let backends = open(&world.engine.store, &clock, &settings).await;
        world.engine.usage_learn(&backends).await.unwrap();
        world.engine.usage_hand_on(&backends);
        let settings = (**world.engine.settings.load()).clone();
        world.engine.reload(Fleet::new(backends), settings, 64 << 20);
        if round % 3 == 0 {
            world.engine.usage_flush().await.unwrap();
        }
    }
    is_over.store(true, Ordering::Release);
    let sent: u64 = calling.await.unwrap();
    world.engine.usage_flush().await.unwrap();
    assert_eq!(world.stored_calls(0, NOVEMBER).await, sent);
    assert_eq!(first.tally(NOVEMBER), world.meter(0).tally(NOVEMBER));
}

/// Dropping a backend and adding it again would else be a way past every limit.
#[tokio::test]
async fn what_a_backend_used_stays_with_its_account_when_it_goes() {
    let account = |name: &str| {
        let account = Some("together".to_owned());
        BackendSettings { account, ..in_memory(name, calls(100)) }
    };
    let all = vec![account("m0"), account("m1"), account("m2"), in_memory("m3", calls(100))];
    let mut world = World::new(all).await;
    (0..4).for_each(|number| world.count(number, 10 << number));
    world.engine.usage_flush().await.unwrap();
    // The last two are gone when the next process starts.
    world.settings.truncate(2);
    world.restart().await;
    assert_eq!(world.stored_calls(0, NOVEMBER).await, 10 + 40);
    assert_eq!(world.stored_calls(0, Period(20_261_130)).await, 10 + 40);
    // And one more goes while it runs.
    let gone = world.meter(1);
    world.count(1, 1);
    world.settings.truncate(1);
    let (store, clock) = (world.engine.store.clone(), world.engine.clock.clone());
    let backends = open(&store, &clock, &world.settings).await;
    world.engine.usage_learn(&backends).await.unwrap();
    store.declare(declaration(&world.settings)).await.unwrap();
    world.engine.usage_hand_on(&backends);
    let settings = (**world.engine.settings.load()).clone();
    world.engine.reload(Fleet::new(backends), settings, 64 << 20);
    // A call of the generation before.
    gone.call(Purpose::Client, Class::C);
    assert_eq!(world.meter(0).tally(NOVEMBER).all.calls[Class::C as usize], 10 + 40 + 20 + 2);
    world.engine.usage_flush().await.unwrap();
    assert_eq!(world.meter(0).unwritten_since(), None);
    world.restart().await;
    assert_eq!(world.meter(0).tally(NOVEMBER).all.calls[Class::C as usize], 72);
    world.verify().await;
}

#[tokio::test]
async fn usage_is_told_with_limits_forecast_and_money() {
    let account = |name: &str, limits| {
        let mut settings = on_disk(name, limits);
        settings.account = Some("together".to_owned());
        settings.profile.name = "b2".to_owned();
        settings.profile.prices.thousand_calls[Class::C as usize] = Some(0.5);
        settings
    };
    let mut alone = on_disk("alone", Limits::default());
    alone.quota = Some(1 << 30);
    let settings = vec![account("one", Limits::default()), account("two", calls(10_000)), alone];
    let world = World::new(settings.clone()).await;
    // Half of December 16 days before its end.
    let december = DECEMBER.begins(DayBegins::default()).0;
    world.hand.store(december + 15 * 86_400 * SECOND, Ordering::Release);
    world.count(0, 3000);
    world.count(1, 1000);
    put(&world.engine, "k").await.unwrap();
    let check = |usage: &[BackendUsage]| {
        let [one, two, alone] = usage else { panic!("three backends") };
        assert_eq!((one.name.as_str(), one.profile.as_str()), (settings[0].name.as_str(), "b2"));
        assert_eq!(one.month.tally.all.calls[2], 3000);
        assert_eq!(one.month.shared.all.calls[2], 4000);
        assert_eq!(two.month.shared, one.month.shared);
        assert_eq!(one.limits, two.limits);
        let line = one.month.lines[3];
        assert_eq!((line.what, line.used), (Counted::Calls(Class::C), 4000));
        assert_eq!((line.limit, line.expected), (Some(10_000), 4000 + 4000 * 16 / 15));
        assert_eq!(line.reached, None);
        assert_eq!(one.money, Some(Money { spent: 1.5, expected: 3.1 }));
        assert_eq!((one.day.period, alone.day.period), (Period(20_261_216), Period(20_261_216)));
        assert_eq!((alone.quota, alone.money), (Some(1 << 30), None));
        assert!(
            alone.month.lines.iter().all(|line| line.limit.is_none() && line.reached.is_none())
        );
        assert_eq!(usage.iter().map(|one| one.stored).sum::<u64>(), 5);
        assert_eq!(alone.month.begins, Timestamp(december));
    };
    check(&world.engine.usage().await.unwrap());
    // The same from the store alone, when no server runs and no backend is opened.
    world.engine.usage_flush().await.unwrap();
    let engine = Engine::new(
        world.engine.store.clone(),
        Fleet::default(),
        (**world.engine.settings.load()).clone(),
        64 << 20,
        world.engine.clock.clone(),
    );
    engine.usage_as_configured(&settings);
    check(&engine.usage().await.unwrap());
    let mut settings = settings.clone();
    settings[1].limits = calls(5000);
    engine.usage_as_configured(&settings);
    let usage = engine.usage().await.unwrap();
    let reached = usage[0].month.lines[3].reached.unwrap();
    assert_eq!(reached, Timestamp(december + (15 * 86_400 * 5 / 4) * SECOND));
}

/// What is logged while it is held.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN);
        let lines = lines.with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(lines))
    }

    /// The lines since the last time.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_limit_is_warned_of_once_at_each_crossing() {
    let world =
        World::new(vec![in_memory("m0", calls(100)), in_memory("m1", Limits::default())]).await;
    let (log, _held) = Log::begin();
    let mut warnings = Warnings::default();
    let mut look = || {
        let fleet = world.engine.fleet.load_full();
        let near = warnings.look_at_limits(&fleet, world.engine.clock.now());
        assert!(!near.contains_key(&id(1)));
        (near[&id(0)], log.take())
    };
    world.count(0, 79);
    world.count(1, 1000);
    assert_eq!(look(), (false, vec![]));
    world.count(0, 1);
    let (near, said) = look();
    assert!(near && said.len() == 1, "{said:?}");
    for word in
        ["m0", "80 class C requests", "100 class C requests", "in November 2026", "four fifths"]
    {
        assert!(said[0].contains(word), "{word}: {said:?}");
    }
    world.count(0, 19);
    assert_eq!(look(), (true, vec![]));
    world.count(0, 1);
    let (_, said) = look();
    assert!(said.len() == 1 && said[0].contains("is reached"), "{said:?}");
    assert_eq!(look(), (true, vec![]));
    world.hand.store(LATE + 10 * SECOND, Ordering::Release);
    assert_eq!(look(), (false, vec![]));
    world.count(0, 90);
    let (_, said) = look();
    assert!(said.len() == 1 && said[0].contains("reached on 1 December 2026"), "{said:?}");
}

#[tokio::test]
async fn a_quota_is_warned_of_once_at_each_crossing() {
    let mut settings = on_disk("m0", Limits::default());
    settings.quota = Some(10);
    let world = World::new(vec![settings]).await;
    let mut turns = Turns::default();
    let (log, _held) = Log::begin();
    let mut look = async || {
        world.count(0, 1);
        world.engine.usage_turn(&mut turns).await;
        pass(Duration::from_secs(61)).await;
        world.engine.usage_turn(&mut turns).await;
        log.take()
    };
    put(&world.engine, "k").await.unwrap();
    assert_eq!(look().await, Vec::<String>::new());
    put(&world.engine, "l").await.unwrap();
    let said = look().await;
    assert!(said.len() == 1 && said[0].contains("m0") && said[0].contains("10 B"), "{said:?}");
    assert_eq!(look().await, Vec::<String>::new());
    // What waits to be deleted still counts.
    let bucket = world.engine.store.bucket("bucket").unwrap();
    let none = WriteConditions::default();
    let key = ObjectKey::new("l").unwrap();
    world.engine.store.object_delete(bucket.id, key, none).await.unwrap();
    assert_eq!(look().await, Vec::<String>::new());
    world
        .engine
        .cleanup_once(&mut CleanupCursor::default(), CleanupLimits { batch: 50, concurrency: 10 })
        .await
        .unwrap();
    assert_eq!(look().await, Vec::<String>::new());
    put(&world.engine, "m").await.unwrap();
    assert_eq!(look().await.len(), 1, "it came near again");
}

/// The same for what the engine itself asks of its backends: nothing here counts but the gate.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_put_is_charged_to_its_month_under_load() {
    const TASKS: usize = 8;
    const EACH: usize = 40;
    let none = Limits::default();
    let world = World::new(vec![on_disk("m0", none), on_disk("m1", none)]).await;
    let used = |period: Period| {
        let mut sum = Tally::default();
        (0..2).for_each(|number| sum += &world.meter(number).tally(period));
        (sum.all.operations[Operation::Write as usize], sum.all.ingress)
    };
    let before = used(NOVEMBER);
    let done = Arc::new(Done::default());
    let tasks = (0..TASKS).map(|task| {
        let (engine, done, hand) =
            (Arc::clone(&world.engine), Arc::clone(&done), Arc::clone(&world.hand));
        let turn = move || hand.load(Ordering::Acquire) >= LATE + 10 * SECOND;
        tokio::spawn(async move {
            for round in 0..EACH {
                let before = turn();
                put(&engine, &format!("{task}-{}", round % 7)).await.unwrap();
                match (before, turn()) {
                    (false, false) => done.november.fetch_add(1, Ordering::AcqRel),
                    (true, true) => done.december.fetch_add(1, Ordering::AcqRel),
                    _ => 0,
                };
                done.all.fetch_add(1, Ordering::AcqRel);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let all = (TASKS * EACH) as u64;
    until("half of it", async || done.all.load(Ordering::Acquire) as u64 >= all / 2).await;
    world.hand.store(LATE + 10 * SECOND, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    let count = |counter: &AtomicI64| counter.load(Ordering::Acquire) as u64;
    let (sure, sure_after) = (count(&done.november), count(&done.december));
    let (november, december) = (used(NOVEMBER), used(DECEMBER));
    let (november, ingress) = (november.0 - before.0, november.1 - before.1 + december.1);
    assert_eq!(november + december.0, all);
    assert_eq!(ingress, 5 * all);
    assert!(sure > 0 && sure_after > 0 && sure + sure_after + TASKS as u64 >= all);
    assert!(november >= sure && december.0 >= sure_after);
}
