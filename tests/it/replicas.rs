//! Bytes on several backends: what is lost on one is read from another, and quotas hold.

use std::fs;
use std::path::PathBuf;
use std::thread;

use crate::content::content;
use crate::multipart::{begin, complete, part};
use crate::other_s3::OtherS3;
use crate::world::World;

const MIB: usize = 1 << 20;

/// Small, one group, several groups.
const SIZES: [usize; 4] = [100, 64 << 10, 200_000, 3 * MIB + 11];

fn two_of(disks: usize) -> World {
    World::with(disks, |config| config.defaults.push("replicas = 2\nmin_replicas = 1".into()))
}

fn fill(world: &World) {
    let s3 = world.s3();
    s3.create_bucket("copies");
    for size in SIZES {
        let key = size.to_string();
        s3.put("copies", &key, content(&key, 0, size)).send().expect(200);
    }
}

/// Every object whole, and a range of it.
#[track_caller]
fn all_read(world: &World) {
    let s3 = world.s3();
    for size in SIZES {
        let key = size.to_string();
        let body = content(&key, 0, size);
        assert!(s3.read("copies", &key) == body, "{key}");
        let range = format!("bytes={}-{}", size / 2, size - 1);
        let got = s3.get("copies", &key).header("range", &range).send().expect(206);
        assert!(got.body == body[size / 2..], "{range} of {key}");
    }
}

#[test]
fn every_object_lies_on_two_backends() {
    let mut world = two_of(2);
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    all_read(&world);
    for size in SIZES {
        world.s3().delete("copies", &size.to_string()).send().expect(204);
    }
    world.wait_files(&[0, 0]);
}

#[test]
fn a_blob_never_lies_twice_on_one_backend() {
    // Three replicas are wished, two backends are there: the wish is kept, two are made.
    let mut world = World::with(2, |config| {
        config.defaults.push("replicas = 3\nmin_replicas = 1".into());
    });
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    all_read(&world);
}

#[test]
fn two_of_three_backends_are_taken() {
    let world = two_of(3);
    fill(&world);
    let mut world = world;
    world.wait("two replicas of each object are there", |world| {
        (1..=3).map(|n| world.files(n).len()).sum::<usize>() == 2 * SIZES.len()
    });
    all_read(&world);
}

#[test]
fn a_lost_file_is_read_from_the_other_backend() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    for path in world.files(1) {
        fs::remove_file(path).unwrap();
    }
    all_read(&world);
    all_read(&world);
}

#[test]
fn a_corrupt_byte_never_leaves() {
    for disk in [1, 2] {
        let mut world = two_of(2);
        world.expect_errors();
        fill(&world);
        world.wait_files(&[SIZES.len(), SIZES.len()]);
        for path in world.files(disk) {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() * 3 / 4;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        all_read(&world);
    }
}

#[test]
fn a_truncated_or_grown_file_is_noticed() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    for (i, path) in world.files(1).iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        if i % 2 == 0 {
            bytes.truncate(bytes.len() / 2);
        } else {
            bytes.extend_from_slice(&[0; 10]);
        }
        fs::write(path, bytes).unwrap();
    }
    all_read(&world);
}

#[test]
fn damage_on_every_backend_is_an_error_and_never_wrong_bytes() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    for path in world.files(1).into_iter().chain(world.files(2)) {
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x80;
        fs::write(&path, bytes).unwrap();
    }
    let s3 = world.s3();
    for size in SIZES {
        let key = size.to_string();
        let body = content(&key, 0, size);
        let got = s3.get("copies", &key).send();
        if got.status == 200 {
            // The head was on its way before the last group was looked at: the body is cut.
            assert!(!got.whole && body.starts_with(&got.body), "{key}: {} bytes", got.body.len());
        } else {
            assert_eq!(got.status, 503, "{key}: {}", got.short());
        }
        if size > 2 * MIB {
            let got = s3.get("copies", &key).header("range", "bytes=0-99").send().expect(206);
            assert!(got.body == body[..100], "the first group is still good");
        }
    }
}

#[test]
fn an_object_without_any_good_replica_is_503_and_not_404() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    for path in world.files(1).into_iter().chain(world.files(2)) {
        fs::remove_file(path).unwrap();
    }
    let s3 = world.s3();
    for size in SIZES {
        let got = s3.get("copies", &size.to_string()).send();
        got.expect_error(503, "ServiceUnavailable");
        s3.head("copies", &size.to_string()).send().expect(200);
    }
}

/// Takes local backend `n` away as an unmounted disk does; gives the place where it is now.
fn unmount(world: &World, n: usize) -> PathBuf {
    let away = world.dir().join(format!("away{n}"));
    fs::rename(world.disk(n), &away).unwrap();
    away
}

#[test]
fn a_disk_that_is_not_mounted_stops_nobody() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    let away = unmount(&world, 1);
    all_read(&world);
    let s3 = world.s3();
    for size in SIZES {
        let key = format!("new {size}");
        s3.put("copies", &key, content(&key, 0, size)).send().expect(200);
        assert!(s3.read("copies", &key) == content(&key, 0, size));
    }
    s3.delete("copies", "100").send().expect(204);
    assert!(!world.disk(1).exists(), "a root is never made anew");
    assert!(world.log().contains("mounted"), "it says what to look at");
    world.restart();
    let s3 = world.s3();
    assert!(s3.read("copies", "200000") == content("200000", 0, 200_000));
    assert!(!world.disk(1).exists(), "a root is never made anew");
    // It comes back: what it holds is believed again, what was deleted meanwhile goes.
    fs::rename(away, world.disk(1)).unwrap();
    world.restart();
    for path in world.files(2) {
        if path.to_string_lossy().contains("200000~") {
            fs::remove_file(path).unwrap();
        }
    }
    let s3 = world.s3();
    assert!(s3.read("copies", "200000") == content("200000", 0, 200_000));
    s3.get("copies", "100").send().expect_error(404, "NoSuchKey");
}

#[test]
fn an_empty_directory_in_the_place_of_a_disk_is_not_believed() {
    let mut world = two_of(2);
    world.expect_errors();
    fill(&world);
    world.wait_files(&[SIZES.len(), SIZES.len()]);
    let away = [unmount(&world, 1), unmount(&world, 2)];
    for n in [1, 2] {
        fs::create_dir_all(world.disk(n)).unwrap();
    }
    let s3 = world.s3();
    for size in SIZES {
        let got = s3.get("copies", &size.to_string()).send();
        got.expect_error(503, "ServiceUnavailable");
    }
    let put = s3.put("copies", "new", "x").send();
    assert!(matches!(put.status, 503 | 507), "{}", put.short());
    assert_eq!((world.files(1).len(), world.files(2).len()), (0, 0), "nothing is written there");
    for (n, away) in [1, 2].into_iter().zip(away) {
        fs::remove_dir(world.disk(n)).unwrap();
        fs::rename(away, world.disk(n)).unwrap();
    }
    world.wait("the disks are seen again", |world| {
        world.s3().get("copies", "100").send().status == 200
    });
    all_read(&world);
}

#[test]
fn min_replicas_is_what_an_answer_promises() {
    let mut world = World::with(2, |config| {
        config.defaults.push("replicas = 2\nmin_replicas = 2".into());
    });
    world.expect_errors();
    fill(&world);
    // They were there before the answer came.
    assert_eq!((world.files(1).len(), world.files(2).len()), (SIZES.len(), SIZES.len()));
    let away = unmount(&world, 2);
    let s3 = world.s3();
    for size in SIZES {
        let put = s3.put("copies", "refused", content("refused", 0, size)).send();
        assert!(matches!(put.status, 503 | 507), "{}", put.short());
    }
    s3.head("copies", "refused").send().expect(404);
    all_read(&world);
    fs::rename(away, world.disk(2)).unwrap();
    world.wait("writes go on", |world| world.s3().put("copies", "k", "x").send().status == 200);
}

// ---- Quotas.

fn quota_world(quota: &str) -> World {
    let quota = format!("quota = \"{quota}\"");
    let world = World::with(1, |config| config.backends[0].more.push(quota));
    world.s3().create_bucket("quota");
    world
}

#[test]
fn a_full_quota_is_507_and_a_delete_frees_at_once() {
    let world = quota_world("4 MiB");
    let s3 = world.s3();
    let put = |key: &str, size: usize| s3.put("quota", key, content(key, 0, size)).send();
    put("a", 2 * MIB).expect(200);
    put("b", 2 * MIB).expect(200);
    put("c", 1).expect_error(507, "InsufficientStorage");
    put("c", 2 * MIB).expect_error(507, "InsufficientStorage");
    s3.head("quota", "c").send().expect(404);
    put("empty", 0).expect(200);
    assert!(s3.read("quota", "a") == content("a", 0, 2 * MIB));
    s3.delete("quota", "a").send().expect(204);
    put("c", 2 * MIB).expect(200);
    put("d", 1).expect_error(507, "InsufficientStorage");
    // Reads and deletes are never refused.
    assert!(s3.read("quota", "b") == content("b", 0, 2 * MIB));
    s3.delete("quota", "b").send().expect(204);
}

#[test]
fn an_overwrite_needs_room_for_both() {
    let world = quota_world("5 MiB");
    let s3 = world.s3();
    let put = |n: u64, size: usize| s3.put("quota", "k", content("k", n, size)).send();
    put(0, 3 * MIB).expect(200);
    put(1, 3 * MIB).expect_error(507, "InsufficientStorage");
    assert!(s3.read("quota", "k") == content("k", 0, 3 * MIB), "the old version is untouched");
    put(2, 2 * MIB).expect(200);
    // The room of the old version is free again, if need be after a short wait.
    put(3, 3 * MIB).expect(200);
    put(4, 2 * MIB).expect(200);
    assert!(s3.read("quota", "k") == content("k", 4, 2 * MIB));
}

#[test]
fn refused_and_broken_writes_leave_no_reservation() {
    let mut world = quota_world("4 MiB");
    let s3 = world.s3();
    for _ in 0..4 {
        let body = content("x", 0, 3 * MIB);
        let put =
            s3.put("quota", "x", body.clone()).header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
        put.send().expect_error(400, "BadDigest");
        s3.put("quota", "x", body.clone()).sha256(crate::signer::UNSIGNED).cut_body(MIB).send();
    }
    world.wait("the room is free again", |world| {
        world.s3().put("quota", "k", content("k", 0, 4 * MIB)).send().status == 200
    });
    world.wait_files(&[1]);
}

#[test]
fn under_concurrency_the_quota_is_never_passed() {
    let world = quota_world("6 MiB");
    let s3 = world.s3();
    let accepted: usize = thread::scope(|scope| {
        let put = |n: usize| s3.put("quota", &format!("k{n}"), content("k", n as u64, MIB)).send();
        let all: Vec<_> = (0..12).map(|n| scope.spawn(move || put(n).status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).filter(|status| *status == 200).count()
    });
    assert_eq!(accepted, 6);
    let bytes: u64 = world.files(1).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(bytes, 6 * MIB as u64);
}

#[test]
fn parts_count_from_the_first_byte() {
    let world = quota_world("12 MiB");
    let s3 = world.s3();
    let id = begin(&s3, "quota", "k");
    let at = ("quota", "k", id.as_str());
    let body = content("part", 0, 5 * MIB);
    part(&s3, at, 1, body.clone()).send().expect(200);
    part(&s3, at, 2, body.clone()).send().expect(200);
    part(&s3, at, 3, body.clone()).send().expect_error(507, "InsufficientStorage");
    // Completing needs no room: no bytes move.
    let etag = crate::content::etag(&body);
    complete(&s3, at, &[(1, etag.clone()), (2, etag)]).send().expect(200);
    assert_eq!(s3.read("quota", "k").len(), 10 * MIB);
}

#[test]
fn backends_with_and_without_a_quota_mix() {
    let mut world = World::with(2, |config| {
        config.defaults.push("routing = \"pack\"".into());
        config.backends[0].more.push("quota = \"1 MiB\"".into());
    });
    let s3 = world.s3();
    s3.create_bucket("mix");
    for n in 0..3_u64 {
        let key = format!("k{n}");
        s3.put("mix", &key, content(&key, n, 700 << 10)).send().expect(200);
    }
    world.wait_files(&[1, 2]);
}

#[test]
fn spread_takes_the_emptier_backend() {
    let mut world = World::with(2, |config| {
        config.defaults.push("routing = \"spread\"".into());
        for backend in &mut config.backends {
            backend.more.push("quota = \"20 MiB\"".into());
        }
    });
    let s3 = world.s3();
    s3.create_bucket("spread");
    for n in 0..6_u64 {
        let key = format!("k{n}");
        s3.put("spread", &key, content(&key, n, MIB)).send().expect(200);
    }
    world.wait_files(&[3, 3]);
}

#[test]
fn large_objects_become_several_blobs() {
    let mut world =
        World::with(1, |config| config.defaults.push("blob_max_size = \"1 MiB\"".into()));
    let s3 = world.s3();
    s3.create_bucket("pieces");
    let body = content("k", 0, 3 * MIB + 5);
    s3.put("pieces", "k", body.clone()).send().expect(200);
    world.wait_files(&[4]);
    assert!(s3.read("pieces", "k") == body);
    for (first, last) in
        [(MIB - 1, MIB), (0, 3 * MIB + 4), (2 * MIB, 3 * MIB - 1), (3 * MIB + 4, 3 * MIB + 4)]
    {
        let range = format!("bytes={first}-{last}");
        let got = s3.get("pieces", "k").header("range", &range).send().expect(206);
        assert!(got.body == body[first..=last], "{range}");
    }
    s3.delete("pieces", "k").send().expect(204);
    world.wait_files(&[0]);
}

#[test]
fn opaque_names_tell_nothing() {
    let mut world = World::with(1, |config| config.defaults.push("names = \"opaque\"".into()));
    let s3 = world.s3();
    s3.create_bucket("secret-bucket");
    s3.put("secret-bucket", "secret-key", "x").send().expect(200);
    world.wait_files(&[1]);
    let path = world.files(1)[0].to_string_lossy().into_owned();
    assert!(!path.contains("secret"), "{path}");
    assert_eq!(s3.read("secret-bucket", "secret-key"), b"x");
}

// ---- A real S3 server behind.

#[test]
fn a_disk_and_an_s3_server_hold_the_same_bytes() {
    let other = OtherS3::start();
    let mut world = World::with(1, |config| {
        config.defaults.push("replicas = 2\nmin_replicas = 2".into());
        config.backends.push(other.backend("cloud"));
    });
    world.expect_errors();
    fill(&world);
    let key = "twelve";
    let body = content(key, 0, 12 * MIB);
    world.s3().put("copies", key, body.clone()).send().expect(200);
    assert_eq!(world.files(1).len(), SIZES.len() + 1);
    assert_eq!(other.files().len(), SIZES.len() + 1);
    all_read(&world);
    // The disk is gone: everything comes from the server.
    for path in world.files(1) {
        fs::remove_file(path).unwrap();
    }
    all_read(&world);
    assert!(world.s3().read("copies", key) == body);
    for size in SIZES {
        world.s3().delete("copies", &size.to_string()).send().expect(204);
    }
    world.wait("the server is told of the deletes", |_| other.files().len() == 1);
    world.s3().delete("copies", key).send().expect(204);
    world.wait("the server is told of the last one", |_| other.files().is_empty());
}

#[test]
fn an_s3_server_alone_is_enough() {
    let other = OtherS3::start();
    let mut world = World::with(0, |config| config.backends.push(other.backend("cloud")));
    fill(&world);
    all_read(&world);
    world.restart();
    all_read(&world);
}
