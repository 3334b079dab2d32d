//! What protection costs, and what it is good for: the price of a permit and of the counts on a
//! 4 KiB GET, and how much is still served when twice as many ask as are admitted.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::backend::faulty::Faults;
use larder::backend::{Backend, BackendSettings, Fleet, Meter};
use larder::base::Clock;
use larder::engine::{Admission, AdmissionSettings};
use larder::model::{BackendId, Class, DayBegins, Operation, Purpose};

use crate::Options;
use crate::content::content;
use crate::load::{Ready, Retry, run, run_retrying};
use crate::table::Table;
use crate::world::World;

const SIZE: usize = 4096;
const OBJECTS: usize = 1000;
/// Requests that are admitted at a time where that is what is measured.
const ADMITTED: usize = 16;
const TURNS: u32 = 1_000_000;
/// Limits that nothing reaches: what is measured is the looking.
const WIDE: &str = "[admission]\nreads = 100000\nwrites = 100000\n";
const LIMITED: &str = "[rate_limit]\nper_address = 1000000\nper_address_burst = 1000000\n\
                       per_key = 1000000\nper_key_burst = 1000000\n";

pub(crate) fn protection(options: &Options, table: &mut Table) {
    for _ in 0..options.rounds {
        in_process(table);
    }
    on_the_wire(options, table);
    overload(options, table);
}

/// Each piece by itself, on one thread that nobody disturbs.
fn in_process(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let admission = Admission::new(AdmissionSettings::default(), Arc::default());
    let permits = runtime.block_on(async {
        let begin = Instant::now();
        for _ in 0..TURNS {
            drop(black_box(admission.read().await.expect("nobody else is here")));
        }
        begin.elapsed()
    });
    let meter = Meter::new(Clock::system(), DayBegins::default());
    let begin = Instant::now();
    for _ in 0..TURNS {
        meter.operation(black_box(Purpose::Client), Operation::Read);
        meter.call(black_box(Purpose::Client), Class::B);
        meter.egress(black_box(Purpose::Client), SIZE as u64);
    }
    let counts = begin.elapsed();
    let nanos = |taken: Duration| taken.as_nanos() as f64 / f64::from(TURNS);
    table.add("permit of a request", nanos(permits), "ns");
    table.add("counts of a GET", nanos(counts), "ns");
    table.add("permit and counts", nanos(permits + counts), "ns");
    let [plain, passed, limited] = runtime.block_on(reads()).map(nanos);
    table.add("open and read 4 KiB", plain, "ns");
    table.add("the same through breaker, allowance and meter", passed, "ns");
    table.add("the same with limits set", limited, "ns");
    table.add("permit, gate and counts together, at most", nanos(permits) + limited - plain, "ns");
}

/// A small file read by hand, through a backend, and through one whose owner has set limits. What a
/// backend takes longer is the gate's cost and that of whatever else it does.
async fn reads() -> [Duration; 3] {
    let dir = tempfile::TempDir::with_prefix("larder-bench-").expect("a temporary folder");
    let mut backends = Vec::new();
    for (name, limit) in [("plain", None), ("limited", Some(u64::MAX / 2))] {
        let (root, id) = (dir.path().join(name), BackendId(backends.len() as u64 + 1));
        let limited = |settings: &mut BackendSettings| {
            settings.limits.month.requests = limit;
            settings.limits.day.egress = limit;
        };
        let faults = Faults::default();
        let backend = Backend::for_tests_as(name, id, Some(&root), faults, limited).await;
        backend.write_whole("a/b", vec![7; SIZE].into()).await.expect("it is written");
        backends.push(backend);
    }
    let fleet = Fleet::new(backends);
    let file = dir.path().join("plain/a/b");
    let plain = timed(|| {
        let mut bytes = vec![0; SIZE];
        let opened = File::open(&file).expect("it is there");
        opened.read_exact_at(&mut bytes, 0).expect("it is whole");
        bytes.len()
    });
    let through = |backend: &Arc<Backend>| {
        timed(|| {
            let read = backend.read_here("a/b", 0..SIZE as u64).expect("the disk is prompt");
            read.expect("it is whole").len()
        })
    };
    [plain, through(&fleet.all()[0]), through(&fleet.all()[1])]
}

fn timed(read: impl Fn() -> usize) -> Duration {
    let begin = Instant::now();
    for _ in 0..TURNS {
        assert_eq!(black_box(read()), SIZE);
    }
    begin.elapsed()
}

fn world(settings: &str) -> (World, Vec<Ready>) {
    let world = World::with(1, |config| config.more = settings.to_owned());
    let s3 = world.s3();
    s3.create_bucket("bench");
    let key = |n: usize| format!("object-{n}");
    for n in 0..OBJECTS {
        s3.put("bench", &key(n), content("protection", n as u64, SIZE)).send().expect(200);
    }
    let gets = (0..OBJECTS).map(|n| Ready::new(&s3.get("bench", &key(n)))).collect();
    (world, gets)
}

/// The same GETs with limits that are looked at and with limits that are off.
fn on_the_wire(options: &Options, table: &mut Table) {
    let (plain, plain_gets) = world(WIDE);
    let (limited, limited_gets) = world(&format!("[admission]\n{LIMITED}"));
    let span = Duration::from_secs(options.seconds);
    for _ in 0..options.rounds {
        for connections in [1, ADMITTED] {
            for (what, world, gets) in
                [("off", &plain, &plain_gets), ("on", &limited, &limited_gets)]
            {
                let shown = run(world.s3().addr, connections, gets, span, false);
                let name = format!("GET 4 KiB, {connections} connections, rate limits {what}");
                table.add(&name, shown.per_second, "/s");
                table.add(&format!("{name}, median"), shown.median_ms * 1000.0, "us");
            }
            let name =
                |what: &str| format!("GET 4 KiB, {connections} connections, rate limits {what}");
            table.ratio(&format!("GET with rate limits, {connections}"), &name("on"), &name("off"));
        }
    }
}

/// As many clients as are admitted, and twice as many, of whom some are always refused.
fn overload(options: &Options, table: &mut Table) {
    let (world, gets) = world(&format!("[admission]\nreads = {ADMITTED}\nshed_from = 1.0\n"));
    let addr = world.s3().addr;
    let span = Duration::from_secs(options.seconds);
    let admitted = format!("GET 4 KiB, {ADMITTED} connections where as many are admitted");
    for _ in 0..options.rounds {
        let shown = run_retrying(addr, ADMITTED, &gets, span, Retry::AtOnce);
        table.add(&admitted, shown.per_second, "/s");
        for (how, retry) in [("at once", Retry::AtOnce), ("when told", Retry::WhenTold)] {
            let name = format!("of {} connections, retried {how}", 2 * ADMITTED);
            let shown = run_retrying(addr, 2 * ADMITTED, &gets, span, retry);
            table.add(&name, shown.per_second, "/s");
            table.add(&format!("{name}, refused"), shown.refused * 100.0, "%");
            table.ratio(&format!("goodput at twice the load, {how}"), &name, &admitted);
        }
    }
}
