//! Real disks that are really full: under the metadata, under a backend.
//!
//! Reads, listings and deletes go on, everything else is refused in a moment and nothing is lost;
//! when there is room it goes on by itself. At the end of every test `larder verify` looks at what
//! is left, on the same small disks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::content::content;
use crate::mounts::may_mount;
use crate::multipart;
use crate::objects::delete_many;
use crate::signer::S3;
use crate::wire::Response;
use crate::world::World;

const MIB: usize = 1 << 20;
/// What the server keeps for a full disk.
const BALLAST: u64 = 64 << 20;
/// A refusal takes no longer than this: nothing is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Takes all of the disk of `path` but `rest` bytes, as another program would.
pub(crate) fn fill(path: &Path, rest: u64) {
    let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
    let free = || {
        let stat = rustix::fs::statvfs(path).unwrap();
        (stat.f_bavail * stat.f_frsize).saturating_sub(rest)
    };
    while free() > 0 {
        let piece = vec![7; usize::try_from(free()).unwrap().min(MIB)];
        if file.write_all(&piece).is_err() {
            assert_eq!(rest, 0, "the disk has what it says");
        }
    }
}

/// A cold world with its metadata on a disk of `mib` MiB; the path of a file that may fill it.
fn on_small_disk(mib: u64) -> (World, PathBuf) {
    let mut world = World::cold(1);
    world.expect_errors();
    let data = world.config.data_dir.clone();
    world.small_disk(&data, mib);
    let filler = world.inside(&data).join("filler");
    (world, filler)
}

fn ballast(world: &World) -> u64 {
    let file = world.inside(&world.config.data_dir).join("ballast");
    fs::metadata(file).map_or(0, |found| found.len())
}

fn body(n: u64) -> Vec<u8> {
    content(&format!("k{n}"), n, 3000)
}

fn put(s3: &S3, n: u64) -> Response {
    s3.put("full", &format!("k{n}"), body(n)).send()
}

#[track_caller]
fn whole(s3: &S3, n: u64) {
    assert!(s3.read("full", &format!("k{n}")) == body(n), "k{n} was acknowledged");
}

#[track_caller]
fn refused(got: Response) {
    let got = got.expect_error(503, "ServiceUnavailable");
    assert!(got.header("retry-after").is_some(), "{}", got.short());
}

/// Puts objects from the `from`th on until one is refused; the number of that one.
fn put_until_refused(s3: &S3, from: u64) -> u64 {
    let mut n = from;
    loop {
        let got = put(s3, n);
        if got.status != 200 {
            refused(got);
            return n;
        }
        n += 1;
        assert!(n < 50_000, "a full disk takes everything");
    }
}

/// How often the log has `text`.
fn told(world: &World, text: &str) -> usize {
    world.log().lines().filter(|line| line.contains(text)).count()
}

const FULL: &str = "there is no room left on the disk of the data directory";
const ROOM: &str = "there is room on the disk of the data directory";

#[test]
fn on_a_full_disk_is_read_and_deleted_and_then_written_again() {
    if !may_mount() {
        return;
    }
    let (mut world, filler) = on_small_disk(160);
    world.start();
    assert_eq!(ballast(&world), BALLAST);
    let s3 = world.s3();
    s3.create_bucket("full");
    s3.create_bucket("empty");
    (0..60).for_each(|n| drop(put(&s3, n).expect(200)));
    let upload = multipart::begin(&s3, "full", "parts");
    multipart::part(&s3, ("full", "parts", &upload), 1, body(1)).send().expect(200);
    fill(&filler, 0);
    let first_refused = put_until_refused(&s3, 1000);
    // From now on the other program takes whatever becomes free.
    let squeeze = || fill(&filler, 0);
    squeeze();
    let begin = Instant::now();
    refused(put(&s3, 5000));
    refused(s3.bucket("PUT", "new").send());
    refused(s3.object("POST", "full", "more").query("uploads").send());
    refused(s3.copy(("full", "k1"), ("full", "copy")).send());
    refused(s3.put("full", "large", vec![1; 3 * MIB]).send());
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    (0..60).chain(1000..first_refused).for_each(|n| whole(&s3, n));
    s3.head("full", &format!("k{first_refused}")).send().expect(404);
    let listed = s3.bucket("GET", "full").query("list-type=2").send().expect(200);
    assert!(listed.text().contains("<Key>k59</Key>"));
    for n in 0..20 {
        s3.delete("full", &format!("k{n}")).send().expect(204);
        s3.head("full", &format!("k{n}")).send().expect(404);
        squeeze();
    }
    let keys: Vec<String> = (20..40).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    delete_many(&s3, "full", &keys, false).expect(200);
    squeeze();
    multipart::abort(&s3, ("full", "parts", &upload)).send().expect(204);
    s3.bucket("DELETE", "empty").send().expect(204);
    // Their bytes go as well, while the disk is full.
    world.wait_files(&[20 + (first_refused - 1000) as usize]);
    assert!(ballast(&world) < BALLAST);
    assert_eq!((told(&world, FULL), told(&world, ROOM)), (1, 0));
    assert_eq!(told(&world, "a request could not be served"), 0, "the log does not fill the disk");
    let pid = world.pid();
    fs::remove_file(&filler).unwrap();
    world.wait("writes go on", |world| put(&world.s3(), 6000).status == 200);
    assert_eq!(world.pid(), pid, "it recovers by itself");
    assert_eq!(ballast(&world), BALLAST);
    assert_eq!((told(&world, FULL), told(&world, ROOM)), (1, 1));
    (40..60).chain(1000..first_refused).chain([6000]).for_each(|n| whole(&s3, n));
    s3.bucket("PUT", "new").send().expect(200);
}

#[test]
fn writers_that_fill_the_disk_lose_nothing() {
    if !may_mount() {
        return;
    }
    let (mut world, filler) = on_small_disk(128);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    // The writers' own metadata take the rest.
    fill(&filler, 5 << 20);
    let (next, stored) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let note = "n".repeat(1900);
    let write = || loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let key = format!("k{n}");
        let got = s3.put("full", &key, body(n)).header("x-amz-meta-note", &note).send();
        if got.status != 200 {
            return refused(got);
        }
        stored.lock().unwrap().push(n);
        assert!(n < 50_000, "a full disk takes everything");
    };
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(write)));
    });
    let stored = stored.into_inner().unwrap();
    assert!(stored.len() > 20, "{} were stored", stored.len());
    stored.iter().for_each(|&n| whole(&s3, n));
    let refused: Vec<u64> = (0..next.into_inner()).filter(|n| !stored.contains(n)).collect();
    for n in refused {
        s3.head("full", &format!("k{n}")).send().expect(404);
    }
    // Nothing stays reserved for the writes that failed half-way.
    world.wait("nothing is reserved", |world| reserved(world) == 0);
    let (gone, kept) = stored.split_at(stored.len() / 2);
    for n in gone {
        s3.delete("full", &format!("k{n}")).send().expect(204);
    }
    world.wait_files(&[kept.len()]);
    fs::remove_file(&filler).unwrap();
    world.wait("writes go on", |world| put(&world.s3(), 60_000).status == 200);
    kept.iter().for_each(|&n| whole(&s3, n));
}

/// Bytes that are reserved on the first backend.
fn reserved(world: &World) -> u64 {
    let ran = world.run(&["backend", "list", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    said[0]["reserved"].as_u64().expect(&ran.stdout)
}

#[test]
fn killed_on_a_full_disk_it_starts_on_the_full_disk() {
    if !may_mount() {
        return;
    }
    let (mut world, filler) = on_small_disk(128);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    (0..40).for_each(|n| drop(put(&s3, n).expect(200)));
    fill(&filler, 0);
    let first_refused = put_until_refused(&s3, 100);
    let mut at = 0;
    for end in ["kill", "stop", "kill"] {
        fill(&filler, 0);
        for _ in 0..5 {
            s3.delete("full", &format!("k{at}")).send().expect(204);
            at += 1;
        }
        match end {
            "kill" => world.kill(),
            _ => world.stop(),
        }
        fill(&filler, 0);
        assert!(ballast(&world) < BALLAST);
        world.start();
        refused(put(&s3, 7000));
        (0..at).for_each(|n| drop(s3.head("full", &format!("k{n}")).send().expect(404)));
        (at..40).chain(100..first_refused).for_each(|n| whole(&s3, n));
    }
    fs::remove_file(&filler).unwrap();
    world.wait("writes go on", |world| put(&world.s3(), 8000).status == 200);
    assert_eq!(ballast(&world), BALLAST);
    (at..40).chain(100..first_refused).chain([8000]).for_each(|n| whole(&s3, n));
}

#[test]
fn deletes_need_no_more_room_than_the_log_has() {
    if !may_mount() {
        return;
    }
    let (mut world, filler) = on_small_disk(160);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    (0..300).for_each(|n| drop(put(&s3, n).expect(200)));
    fill(&filler, 0);
    put_until_refused(&s3, 1000);
    for n in 0..100 {
        fill(&filler, 0);
        s3.delete("full", &format!("k{n}")).send().expect(204);
    }
    assert!(ballast(&world) > 0, "every delete takes a step");
    // Not a byte is left, and nothing that could be given up.
    world.kill();
    let file = world.inside(&world.config.data_dir).join("ballast");
    fs::remove_file(file).unwrap();
    fill(&filler, 0);
    world.start();
    refused(put(&s3, 7000));
    for n in 100..150 {
        s3.delete("full", &format!("k{n}")).send().expect(204);
    }
    (150..300).for_each(|n| whole(&s3, n));
    // The log's own length is what the ballast lacks.
    let log = world.inside(&world.config.data_dir).join("meta.db-wal");
    let length = fs::metadata(log).unwrap().len();
    assert!(length > 1 << 20, "{length}");
    fs::remove_file(&filler).unwrap();
    fill(&filler, BALLAST + (32 << 20) - length / 2);
    world.wait("writes go on", |world| put(&world.s3(), 8000).status == 200);
    assert_eq!(ballast(&world), BALLAST);
    (150..300).chain([8000]).for_each(|n| whole(&s3, n));
}

#[test]
fn without_room_for_the_ballast_it_starts_and_takes_deletes() {
    if !may_mount() {
        return;
    }
    let (mut world, filler) = on_small_disk(128);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    (0..5).for_each(|n| drop(put(&s3, n).expect(200)));
    world.stop();
    // Half of a ballast that somebody ended in the middle of making it.
    let file = world.inside(&world.config.data_dir).join("ballast");
    fs::File::options().write(true).open(&file).unwrap().set_len(BALLAST / 2).unwrap();
    fill(&filler, 20 << 20);
    world.start();
    refused(put(&s3, 7));
    s3.delete("full", "k0").send().expect(204);
    whole(&s3, 1);
    // What the command line does by itself neither needs the ballast nor makes it.
    world.stop();
    world.verify();
    fs::remove_file(&filler).unwrap();
    world.verify();
    assert_eq!(ballast(&world), BALLAST / 2);
    world.start();
    assert_eq!(ballast(&world), BALLAST);
    put(&s3, 7).expect(200);
    (1..5).for_each(|n| whole(&s3, n));
}

/// No file of the process may grow beyond this.
fn limit_files(world: &World, limit: &str) {
    let pid = world.pid().to_string();
    let limit = format!("--fsize={limit}:unlimited");
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
    assert!(status.success(), "prlimit of util-linux sets the limits of our own processes");
}

#[test]
fn metadata_that_cannot_be_written_stop_writes_only() {
    if !may_mount() {
        return;
    }
    let (mut world, _) = on_small_disk(128);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    (0..20).for_each(|n| drop(put(&s3, n).expect(200)));
    // An I/O error for whatever is written behind the first bytes of the log.
    limit_files(&world, "65536");
    let first_refused = put_until_refused(&s3, 100);
    // Nothing needs to be found out anew for each request.
    let begin = Instant::now();
    (0..20).for_each(|_| refused(s3.bucket("PUT", "new").send()));
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    (0..20).chain(100..first_refused).for_each(|n| whole(&s3, n));
    s3.bucket("GET", "full").query("list-type=2").send().expect(200);
    let pid = world.pid();
    limit_files(&world, "unlimited");
    world.wait("writes go on", |world| put(&world.s3(), 200).status == 200);
    assert_eq!(world.pid(), pid, "it recovers by itself");
    (0..20).chain(100..first_refused).chain([200]).for_each(|n| whole(&s3, n));
    world.wait("nothing is reserved", |world| reserved(world) == 0);
}

#[test]
fn a_full_backend_is_507_and_loses_nothing() {
    if !may_mount() {
        return;
    }
    let mut world = World::cold(1);
    world.expect_errors();
    let mount = world.disk(1).parent().unwrap().to_owned();
    world.small_disk(&mount, 16);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    let large = |n: u64| content(&format!("k{n}"), n, MIB);
    let send = |n: u64| s3.put("full", &format!("k{n}"), large(n)).send();
    // Several at once: more is begun than fits.
    let (next, stored) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let write = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let got = send(n);
            if got.status != 200 {
                got.expect_error(507, "InsufficientStorage");
                return;
            }
            stored.lock().unwrap().push(n);
            assert!(n < 100, "more than the disk holds");
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(write))));
    let stored = stored.into_inner().unwrap();
    assert!(stored.len() >= 10, "{} MiB of 16", stored.len());
    let is_whole = |n: &u64| assert!(s3.read("full", &format!("k{n}")) == large(*n), "k{n}");
    stored.iter().for_each(is_whole);
    s3.delete("full", &format!("k{}", stored[0])).send().expect(204);
    s3.put("full", "again", content("again", 0, MIB)).send().expect(200);
    // Another program takes the rest: the disk is really full.
    let filler = world.inside(&mount).join("filler");
    fill(&filler, 0);
    for size in [10, MIB, 3 * MIB] {
        let got = s3.put("full", "more", content("more", 0, size)).send();
        got.expect_error(507, "InsufficientStorage");
        s3.head("full", "more").send().expect(404);
    }
    stored[1..].iter().for_each(is_whole);
    s3.delete("full", &format!("k{}", stored[1])).send().expect(204);
    world.wait("nothing is reserved", |world| reserved(world) == 0);
    fs::remove_file(filler).unwrap();
    world.wait("writes go on", |_| {
        s3.put("full", "more", content("more", 0, 100)).send().status == 200
    });
    stored[2..].iter().for_each(is_whole);
}

#[test]
fn what_a_full_backend_does_not_take_another_does() {
    if !may_mount() {
        return;
    }
    let mut world = World::cold(2);
    world.expect_errors();
    let mount = world.disk(1).parent().unwrap().to_owned();
    world.small_disk(&mount, 16);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    put(&s3, 0).expect(200);
    assert_eq!((world_files(&world, &mount), world.files(2).len()), (1, 0), "they are packed");
    let filler = world.inside(&mount).join("filler");
    fill(&filler, 0);
    for n in 1..20 {
        put(&s3, n).expect(200);
    }
    s3.put("full", "large", vec![1; 3 * MIB]).send().expect(200);
    assert_eq!(world_files(&world, &mount), 1);
    s3.delete("full", "k0").send().expect(204);
    world.wait("the file is gone", |world| world_files(world, &mount) == 0);
    fs::remove_file(filler).unwrap();
    let mut n = 20;
    world.wait("the first disk is written to again", |world| {
        put(&s3, n).expect(200);
        n += 1;
        world_files(world, &mount) > 0
    });
    (1..n).for_each(|n| whole(&s3, n));
}

/// Files of objects on the small disk.
fn world_files(world: &World, mount: &Path) -> usize {
    crate::world::object_files(&world.inside(mount).join("larder")).len()
}
