//! A million objects: how long it takes to take them up, to compare them with what the disk
//! lists, to find that nothing is to be done, and what an appliance that idles costs.
//!
//! The objects are imported files, so that they cost the disk a directory entry each and nothing
//! more; the store has a version, a blob and a replica of each, as of any other.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Options;
use crate::moves::said;
use crate::process::Process;
use crate::table::Table;
use crate::world::{World, object_files};

/// Generous, for a million of anything.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Names of one file, below what any file system allows.
const LINKS: usize = 30_000;
const FILES_OF_A_DIRECTORY: usize = 1000;
/// Those that may rest with nothing to do; the other three have a schedule.
const RESTING: [&str; 6] =
    ["replicator", "over_replication", "cleanup", "pending_reaper", "drain", "lifecycle"];
const BY_SCHEDULE: [&str; 2] = ["reconciler", "scrubber"];
/// Nothing is written in this time: it has come to rest. The counts of calls may wait ten minutes.
const QUIET: Duration = Duration::from_secs(11 * 60);

pub(crate) fn many(options: &Options, table: &mut Table) {
    let count = options.objects;
    let mut world = World::cold(2);
    world.patience = PATIENCE.max(Duration::from_secs(120 * options.minutes));
    world.config.defaults.push("replicas = 1".into());
    world.config.more =
        BY_SCHEDULE.map(|name| format!("[worker.{name}]\nenabled = false\n")).concat();
    world.start();
    world.s3().create_bucket("bench");
    lay(&world, count);
    let import = ["import", "disk1", "bench", "--prefix", "Files", "--strip", "Files"];
    let became = of_all(&world, "import", &import, count, table);
    assert_eq!(became["imported"], count, "{became}");
    if options.wants("reconcile") {
        reconcile(&world, options, table);
    }
    if options.wants("nothing") {
        nothing(&world, options, table);
    }
    if options.wants("idle") {
        idle(&mut world, options, table);
    }
}

fn lay(world: &World, count: usize) {
    let root = world.disk(1).join("Files");
    for n in 0..count {
        let seed = world.dir().join(format!("seed-{}", n / LINKS));
        if n % LINKS == 0 {
            fs::write(&seed, b"a tiny file").expect("the folder is writable");
        }
        let dir = root.join(format!("{:05}", n / FILES_OF_A_DIRECTORY));
        if n % FILES_OF_A_DIRECTORY == 0 {
            fs::create_dir_all(&dir).expect("the folder is writable");
        }
        let path = dir.join(format!("a-photograph-by-number-{n:010}.jpg"));
        fs::hard_link(&seed, path).expect("the disk has room");
    }
}

/// Runs a command that takes all objects, and says what it said.
fn of_all(world: &World, name: &str, args: &[&str], count: usize, table: &mut Table) -> Value {
    let timed = || {
        let begin = Instant::now();
        let said = said(world, args);
        (said, begin.elapsed().as_secs_f64())
    };
    let (said, seconds) = match Process::of(world.pid()) {
        Some(process) => {
            let (timed, above) = process.memory_above(timed);
            above.add(table, &format!("{name} of {count} files"));
            timed
        }
        None => timed(),
    };
    table.add(&format!("{name} of {count} files"), count as f64 / seconds, "files/s");
    said
}

fn reconcile(world: &World, options: &Options, table: &mut Table) {
    let count = options.objects;
    let yardstick = format!("walk and stat of {count} files");
    for _ in 0..options.rounds {
        let begin = Instant::now();
        assert_eq!(walk_and_stat(&world.disk(1)), count);
        table.add(&yardstick, count as f64 / begin.elapsed().as_secs_f64(), "files/s");
        let found = of_all(world, "reconcile", &["reconcile", "disk1"], count, table);
        assert_eq!((&found["failed"], &found["counts"]["backends"]), (&0.into(), &1.into()));
    }
    let ours = format!("reconcile of {count} files");
    table.ratio("reconcile of walk and stat", &ours, &yardstick);
}

fn walk_and_stat(root: &Path) -> usize {
    let files = object_files(root);
    files.iter().filter(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 0)).count()
}

/// A full pass of each worker when there is nothing to do, beside a command that does nothing.
fn nothing(world: &World, options: &Options, table: &mut Table) {
    let objects = options.objects;
    for _ in 0..options.rounds.max(3) {
        let bare = ["worker", "list"];
        let begin = Instant::now();
        said(world, &bare);
        table.add("command that does nothing", begin.elapsed().as_secs_f64() * 1000.0, "ms");
        for name in RESTING {
            let begin = Instant::now();
            let totals = said(world, &["worker", "run", name, "--wait"]);
            let taken = begin.elapsed().as_secs_f64() * 1000.0;
            assert_eq!((&totals["processed"], &totals["failed"]), (&0.into(), &0.into()), "{name}");
            table.add(&format!("nothing to do, {name}, {objects} objects"), taken, "ms");
        }
    }
}

/// What the process does while nobody wants anything, with every worker on.
fn idle(world: &mut World, options: &Options, table: &mut Table) {
    world.config.more = String::new();
    world.replace_config();
    world.wait("the scheduled workers are on and have done their share", |world| {
        let list = said(world, &["worker", "list"]);
        list.as_array().expect("a list").iter().all(|worker| {
            let may_be_off = worker["name"] == "rebalancer";
            let is_off = may_be_off && worker["state"] == "off";
            let has_looked = worker["steps"].as_u64().is_some_and(|steps| steps > 0);
            is_off || has_looked && (worker["state"] == "idle" || worker["state"] == "waiting")
        })
    });
    let Some(process) = Process::of(world.pid()) else {
        eprintln!("    this system does not tell what a process does");
        return;
    };
    // Before the quiet: a command writes the configuration, which the server looks at.
    let calls = backend_calls(world);
    let mut written = process.done().bytes_written;
    let mut since = Instant::now();
    world.wait("nothing is written any more", |_| {
        let now = process.done().bytes_written;
        if now != written {
            (written, since) = (now, Instant::now());
        }
        since.elapsed() > QUIET
    });
    let span = Duration::from_secs(60 * options.minutes.max(1));
    let (before, begin) = (process.done(), Instant::now());
    world.wait("the time is over", |_| begin.elapsed() >= span);
    let done = process.done().since(&before);
    let taken = begin.elapsed().as_secs_f64();
    let calls = backend_calls(world) - calls;
    let name = |what: &str| format!("idle, {what} in {} min", span.as_secs() / 60);
    table.add(&name("written to disk (aim: 0)"), done.bytes_written as f64, "bytes");
    table.add(&name("read from disk"), done.bytes_read as f64, "bytes");
    table.add(&name("write calls"), done.write_calls as f64, "");
    table.add(&name("calls of backends (aim: 0)"), calls as f64, "");
    table.add(&name("threads that woke"), done.sleeps as f64, "");
    let share = done.cpu_seconds / taken * 100.0;
    table.add("idle, processor in thousandths of a percent (aim: < 100)", share * 1000.0, "");
    if let Some(resident) = world.resident_kib() {
        table.add("resident, idle, after all this", resident as f64 / 1024.0, "MiB");
    }
}

/// Requests and operations of all backends, this month.
fn backend_calls(world: &World) -> u64 {
    let usage = said(world, &["usage"]);
    let backends = usage["backends"].as_array().expect("a list").iter();
    let sum = |value: &Value| -> u64 {
        let all = value.as_object().into_iter().flatten();
        all.filter_map(|(_, number)| number.as_u64()).sum()
    };
    backends.map(|one| sum(&one["month"]["all"]["operations"])).sum()
}
