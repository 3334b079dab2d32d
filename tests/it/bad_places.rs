//! Disks that are full, backends that hang: a clear answer, nothing lost, and on it goes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::content::content;
use crate::other_s3::{OtherS3, Wire};
use crate::world::{World, can_mount};

const MIB: usize = 1 << 20;

/// Fills the disk of `path` to the last byte, as another program would.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [MIB, 64 << 10, 4 << 10, 1] {
        let piece = vec![7; size];
        while file.write_all(&piece).is_ok() {}
    }
}

#[test]
fn a_full_disk_under_a_backend_is_507_and_loses_nothing() {
    if !can_mount() {
        return;
    }
    let mut world = World::cold(1);
    world.expect_errors();
    let mount = world.disk(1).parent().unwrap().to_owned();
    world.small_disk(&mount, 16);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    let mut stored = 0_u64;
    let refused = loop {
        let key = format!("k{stored}");
        let got = s3.put("full", &key, content(&key, stored, MIB)).send();
        if got.status != 200 {
            break got;
        }
        stored += 1;
        assert!(stored < 20, "more than the disk holds");
    };
    refused.expect_error(507, "InsufficientStorage");
    assert!(stored >= 10, "{stored} MiB of 16");
    let whole = |n: u64| {
        let key = format!("k{n}");
        assert!(s3.read("full", &key) == content(&key, n, MIB), "{key}");
    };
    (0..stored).for_each(whole);
    s3.head("full", &format!("k{stored}")).send().expect(404);
    s3.delete("full", "k0").send().expect(204);
    s3.put("full", "again", content("again", 0, MIB)).send().expect(200);
    // Another program takes the rest: the disk is really full.
    let filler = world.inside(&mount).join("filler");
    fill(&filler);
    for size in [10, MIB] {
        let got = s3.put("full", "more", content("more", 0, size)).send();
        assert!(matches!(got.status, 503 | 507), "{}", got.short());
        s3.head("full", "more").send().expect(404);
    }
    (1..stored).for_each(whole);
    s3.delete("full", "k1").send().expect(204);
    fs::remove_file(filler).unwrap();
    world.wait("writes go on", |world| {
        world.s3().put("full", "more", content("more", 0, 100)).send().status == 200
    });
}

#[test]
fn a_full_disk_under_the_metadata_stops_writes_only() {
    if !can_mount() {
        return;
    }
    let mut world = World::cold(1);
    world.expect_errors();
    let data = world.config.data_dir.clone();
    world.small_disk(&data, 64);
    world.start();
    let s3 = world.s3();
    s3.create_bucket("full");
    for n in 0..20_u64 {
        let key = format!("k{n}");
        s3.put("full", &key, content(&key, n, 5000)).send().expect(200);
    }
    let filler = world.inside(&data).join("filler");
    fill(&filler);
    // What fits into room that the database already has may still be written.
    let mut written = 0_u64;
    let refused = loop {
        let key = format!("more{written}");
        let got = s3.put("full", &key, content(&key, written, 5000)).send();
        if got.status != 200 {
            break got;
        }
        written += 1;
        assert!(written < 50_000, "a full disk takes everything");
    };
    let refused = refused.expect_error(503, "ServiceUnavailable");
    assert!(refused.header("retry-after").is_some(), "{}", refused.short());
    s3.head("full", &format!("more{written}")).send().expect(404);
    for n in 0..20_u64 {
        let key = format!("k{n}");
        assert!(s3.read("full", &key) == content(&key, n, 5000), "{key}");
    }
    s3.bucket("GET", "full").query("list-type=2").send().expect(200);
    // A delete is a write too: it is made, or refused and then nothing is gone.
    let deleted = s3.delete("full", "k0").send();
    assert!(matches!(deleted.status, 204 | 503), "{}", deleted.short());
    let there = s3.head("full", "k0").send();
    assert_eq!(there.status, if deleted.status == 204 { 404 } else { 200 });
    let pid = world.pid();
    fs::remove_file(filler).unwrap();
    world.wait("writes go on", |world| {
        world.s3().put("full", "after", content("after", 0, 100)).send().status == 200
    });
    assert_eq!(world.pid(), pid, "it recovers by itself");
    s3.delete("full", "k1").send().expect(204);
    for n in 0..written {
        let key = format!("more{n}");
        assert!(s3.read("full", &key) == content(&key, n, 5000), "{key} was acknowledged");
    }
}

#[test]
fn a_backend_that_hangs_stops_nobody() {
    let other = OtherS3::start();
    let wire = Wire::to(other.port);
    let mut world = World::with(1, |config| {
        config.defaults.push("replicas = 2\nmin_replicas = 1".into());
        config.backends.push(other.backend_at("cloud", wire.port));
        config.more =
            "[timeouts]\nconnect = \"2 s\"\nfirst_byte = \"2 s\"\nstall = \"2 s\"\n".into();
    });
    world.expect_errors();
    let s3 = world.s3();
    s3.create_bucket("hang");
    s3.put("hang", "before", content("before", 0, MIB)).send().expect(200);
    world.wait("both hold it", |world| world.files(1).len() == 1 && other.files().len() == 1);
    wire.hang(true);
    for (n, size) in [(0, 100), (1, 100_000), (2, 12 * MIB)] {
        let key = format!("k{n}");
        let begin = Instant::now();
        s3.put("hang", &key, content(&key, n, size)).send().expect(200);
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        assert!(s3.read("hang", &key) == content(&key, n, size));
    }
    assert!(s3.read("hang", "before") == content("before", 0, MIB));
    s3.delete("hang", "before").send().expect(204);
    wire.hang(false);
    world.wait("writes reach the server again", |world| {
        let before = other.files().len();
        world.s3().put("hang", "after", content("after", 0, 1000)).send().expect(200);
        other.files().len() > before
    });
    world.restart();
    assert!(world.s3().read("hang", "k2") == content("k2", 2, 12 * MIB));
}
