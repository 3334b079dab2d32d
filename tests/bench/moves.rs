//! Replication and draining, against copying the same files without Larder.
//!
//! Objects are stored while the wish for a second replica has no place; then a disk is added, and
//! all get it at once. After that the second disk is drained to a third. The copies by hand are
//! durable, as Larder's are, with as many threads as the workers have; rclone's are not, so its
//! figure is also taken with the `sync` that would make them so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Options;
use crate::content::content;
use crate::large::put_large;
use crate::load::{Ready, run};
use crate::process::Process;
use crate::signer::UNSIGNED;
use crate::table::Table;
use crate::world::{World, object_files};

const MIB: usize = 1 << 20;
/// Objects at a time, as the replicator and the drain worker have it by default.
const CONCURRENCY: usize = 5;
/// Generous: a slow disk writes gigabytes.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Nothing begins before it is asked to, and nothing else reads or writes meanwhile.
const RESTING: &str = "[worker.replicator]\nenabled = false\n[worker.drain]\nenabled = false\n\
    [worker.scrubber]\nenabled = false\n[worker.reconciler]\nenabled = false\n";

struct Shape {
    count: usize,
    size: usize,
    what: String,
}

impl Shape {
    fn is_small(&self) -> bool {
        self.size < MIB
    }

    fn speed(&self, seconds: f64) -> (f64, &'static str) {
        match self.is_small() {
            true => (self.count as f64 / seconds, "files/s"),
            false => ((self.count * self.size / MIB) as f64 / seconds, "MiB/s"),
        }
    }

    fn add(&self, table: &mut Table, name: &str, seconds: f64) {
        let (speed, unit) = self.speed(seconds);
        table.add(&self.name(name), speed, unit);
    }

    fn name(&self, name: &str) -> String {
        format!("{name}, {}", self.what)
    }
}

pub(crate) fn moves(options: &Options, table: &mut Table) {
    let (small, large) = if options.quick { (500, 2) } else { (10_000, 8) };
    let shapes = [
        Shape { count: small, size: 16 << 10, what: format!("{small} x 16 KiB") },
        Shape { count: large, size: 256 * MIB, what: format!("{large} x 256 MiB") },
    ];
    let rclone = rclone();
    if rclone.is_none() {
        eprintln!("    rclone is not here");
    }
    for shape in &shapes {
        for _ in 0..options.rounds {
            round(options, shape, rclone.as_deref(), table);
        }
        for ours in ["replication", "drain"] {
            for theirs in ["copy + fsync", "rclone sync", "rclone sync + sync"] {
                let what = shape.name(&format!("{ours} of {theirs}"));
                table.ratio(&what, &shape.name(ours), &shape.name(theirs));
            }
        }
    }
}

fn round(options: &Options, shape: &Shape, rclone: Option<&Path>, table: &mut Table) {
    let mut world = World::cold(1);
    world.patience = PATIENCE;
    world.config.defaults.push("replicas = 2\nmin_replicas = 1".into());
    world.config.more = RESTING.into();
    world.start();
    fill(&world, shape);
    add_disk(&mut world, 2);
    let replicate = ["worker", "run", "replicator", "--wait"];
    timed(&world, "replication", &replicate, shape, table);
    assert_eq!(world.files(2).len(), shape.count);
    by_hand(&world, shape, rclone, table);
    if !options.wants("drain") {
        return;
    }
    add_disk(&mut world, 3);
    timed(&world, "drain", &["backend", "drain", "disk2", "--wait"], shape, table);
    world.wait_files(&[shape.count, 0, shape.count]);
}

fn fill(world: &World, shape: &Shape) {
    let s3 = world.s3();
    s3.create_bucket("bench");
    let key = |n: usize| format!("d{:02}/object-{n:06}", n % 100);
    if !shape.is_small() {
        let piece = content("moves", 0, MIB);
        (0..shape.count).for_each(|n| {
            put_large(&s3, &key(n), &piece, shape.size as u64);
        });
        return;
    }
    let put = |n: usize| {
        let body = content("moves", n as u64, shape.size);
        Ready::new(&s3.put("bench", &key(n), body).sha256(UNSIGNED))
    };
    let puts: Vec<Ready> = (0..shape.count).map(put).collect();
    run(s3.addr, 16, &puts, PATIENCE, true);
}

/// Adds disk `n` by a reload, and waits until it is in use.
fn add_disk(world: &mut World, n: usize) {
    let backend = world.new_backend(n);
    world.config.backends.push(backend);
    world.replace_config();
    let name = format!("disk{n}");
    world.wait("the disk is in use", |world| {
        let list = said(world, &["backend", "list"]);
        let mut list = list.as_array().expect("a list").iter();
        list.any(|one| one["name"] == *name && one["state"] == "present")
    });
}

/// Times a full pass that takes each object once.
fn timed(world: &World, name: &str, args: &[&str], shape: &Shape, table: &mut Table) {
    rustix::fs::sync();
    let pass = || {
        let begin = Instant::now();
        let totals = said(world, args);
        let seconds = begin.elapsed().as_secs_f64();
        assert_eq!(totals["failed"], 0, "{totals}");
        seconds
    };
    let seconds = match Process::of(world.pid()) {
        Some(process) => {
            let before = process.done();
            let (seconds, above) = process.memory_above(pass);
            let cpu = process.done().since(&before).cpu_seconds;
            above.add(table, &shape.name(name));
            table.add(&shape.name(&format!("processor, {name}")), cpu / seconds, "cores");
            seconds
        }
        None => pass(),
    };
    shape.add(table, name, seconds);
}

/// What a command says with `--json`; it must succeed.
pub(crate) fn said(world: &World, args: &[&str]) -> Value {
    let ran = world.run(&[args, &["--json"]].concat());
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    // Commands of two steps may say two things; the last is how it went.
    let values = serde_json::Deserializer::from_str(&ran.stdout).into_iter::<Value>();
    values.last().expect("it says something").expect(&ran.stdout)
}

/// The same files, copied without Larder.
fn by_hand(world: &World, shape: &Shape, rclone: Option<&Path>, table: &mut Table) {
    let (from, to) = (world.disk(1), world.dir().join("copied"));
    rustix::fs::sync();
    shape.add(table, "copy + fsync", copy_all(&from, &to));
    fs::remove_dir_all(&to).expect("it was just made");
    let Some(rclone) = rclone else { return };
    rustix::fs::sync();
    let begin = Instant::now();
    let mut sync = Command::new(rclone);
    sync.args(["sync", "--config", "/dev/null", "--transfers", &CONCURRENCY.to_string()]);
    let ran = sync.arg(&from).arg(&to).output().expect("it was found");
    assert!(ran.status.success(), "rclone: {}", String::from_utf8_lossy(&ran.stderr));
    shape.add(table, "rclone sync", begin.elapsed().as_secs_f64());
    rustix::fs::sync();
    shape.add(table, "rclone sync + sync", begin.elapsed().as_secs_f64());
    fs::remove_dir_all(&to).expect("it was just made");
}

/// The seconds that it takes to copy all files, each with its directory synced.
fn copy_all(from: &Path, to: &Path) -> f64 {
    let begin = Instant::now();
    let (files, next) = (object_files(from), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CONCURRENCY {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = to.join(file.strip_prefix(from).expect("it is below"));
                    copy(file, &path);
                }
            });
        }
    });
    begin.elapsed().as_secs_f64()
}

fn copy(from: &Path, to: &Path) {
    let dir = to.parent().expect("it is in a directory");
    fs::create_dir_all(dir).expect("the folder is writable");
    fs::copy(from, to).expect("the disk has room");
    fs::File::open(to).and_then(|file| file.sync_all()).expect("the disk syncs");
    fs::File::open(dir).and_then(|dir| dir.sync_all()).expect("the folder syncs");
}

/// The program, where it is installed or `tests/run tools` has put it.
fn rclone() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin/rclone");
    let places = [PathBuf::from("rclone"), own];
    places.into_iter().find(|place| Command::new(place).arg("version").output().is_ok())
}
