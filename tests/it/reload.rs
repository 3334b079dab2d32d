//! The configuration changed under a running server.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::content::content;
use crate::world::{Key, World};

/// A name, and how the file is changed.
type Way = (&'static str, fn(&World));

const WAYS: [Way; 3] = [
    ("in place", World::write_config),
    ("replaced as editors do", World::replace_config),
    ("by signal", |world| {
        world.write_config();
        world.signal(Signal::HUP);
    }),
];

#[test]
fn a_changed_secret_counts_at_once() {
    for (way, apply) in WAYS {
        let mut world = World::new();
        world.s3().create_bucket("secret");
        world.s3().put("secret", "k", "x").send().expect(200);
        let old = world.s3();
        world.config.keys[0].creds.secret = Key::random().creds.secret;
        apply(&world);
        world.wait(way, |world| world.s3().get("secret", "k").send().status == 200);
        old.get("secret", "k").send().expect_error(403, "SignatureDoesNotMatch");
        old.get("secret", "k").presigned("60").send().expect_error(403, "SignatureDoesNotMatch");
    }
}

#[test]
fn keys_and_grants_come_and_go() {
    let mut world = World::new();
    world.s3().create_bucket("grants");
    world.s3().put("grants", "k", "x").send().expect(200);
    let key = Key::random().allow("grants", "", "\"read\"");
    let s3 = world.s3_as(&key.creds);
    s3.get("grants", "k").send().expect_error(403, "InvalidAccessKeyId");
    world.config.keys.push(key);
    world.write_config();
    world.wait("the new key works", |_| s3.get("grants", "k").send().status == 200);
    s3.put("grants", "k2", "x").send().expect_error(403, "AccessDenied");
    let last = world.config.keys.len() - 1;
    world.config.keys[last].grants = vec!["{ bucket = \"grants\", allow = [\"write\"] }".into()];
    world.write_config();
    world.wait("the new grant works", |_| s3.put("grants", "k2", "x").send().status == 200);
    s3.get("grants", "k").send().expect_error(403, "AccessDenied");
    world.config.keys.pop();
    world.write_config();
    world.wait("the key is withdrawn", |_| s3.put("grants", "k2", "x").send().status == 403);
    s3.put("grants", "k2", "x").send().expect_error(403, "InvalidAccessKeyId");
}

#[test]
fn buckets_can_be_declared() {
    let mut world = World::new();
    world.s3().bucket("HEAD", "declared").send().expect(404);
    world.config.buckets.push("name = \"declared\"".into());
    world.replace_config();
    world.wait("the bucket is there", |world| {
        world.s3().bucket("HEAD", "declared").send().status == 200
    });
    world.s3().put("declared", "k", "x").send().expect(200);
    // Withdrawn from the file it stays: its objects are not the file's to delete.
    world.config.buckets.clear();
    world.config.buckets.push("name = \"another\"".into());
    world.replace_config();
    world.wait("the other bucket is there", |world| {
        world.s3().bucket("HEAD", "another").send().status == 200
    });
    assert_eq!(world.s3().read("declared", "k"), b"x");
}

#[test]
fn a_backend_can_be_added_and_filled() {
    let mut world = World::with(1, |config| {
        config.backends[0].more.push("quota = \"1 MiB\"".into());
    });
    world.s3().create_bucket("more");
    let body = content("k", 0, 2 << 20);
    let put = |world: &World| world.s3().put("more", "k", body.clone()).send();
    put(&world).expect_error(507, "InsufficientStorage");
    let second = world.new_backend(2);
    world.config.backends.push(second);
    world.write_config();
    world.wait("the second disk is used", |world| put(world).status == 200);
    world.wait_files(&[0, 1]);
    assert!(world.s3().read("more", "k") == body);
    world.restart();
    assert!(world.s3().read("more", "k") == body);
}

#[test]
fn a_quota_can_be_raised_and_lowered_below_its_use() {
    let mut world = World::with(1, |config| {
        config.backends[0].more.push("quota = \"1 MiB\"".into());
    });
    world.s3().create_bucket("quota");
    let put = |world: &World, key: &str| world.s3().put("quota", key, vec![1; 900 << 10]).send();
    put(&world, "a").expect(200);
    put(&world, "b").expect_error(507, "InsufficientStorage");
    let at = world.config.backends[0].more.len() - 1;
    world.config.backends[0].more[at] = "quota = \"3 MiB\"".into();
    world.write_config();
    world.wait("there is more room", |world| put(world, "b").status == 200);
    world.config.backends[0].more[at] = "quota = \"1 MiB\"".into();
    world.write_config();
    world.wait("there is less room", |world| put(world, "c").status == 507);
    assert_eq!(world.s3().read("quota", "b").len(), 900 << 10);
}

#[test]
fn an_invalid_file_changes_nothing_and_says_why() {
    let mut world = World::new();
    world.expect_errors();
    world.s3().create_bucket("valid");
    for wrong in ["\n[server\n", "\nunknown_key = 1\n", "\n[[key]]\nid = 5\n"] {
        let before = world.log().len();
        let text = world.config.text() + wrong;
        fs::write(world.config_file(), text).unwrap();
        world.wait("it says that the file is wrong", |world| {
            let log = world.log();
            log[before.min(log.len())..].contains("larder.toml")
        });
        world.s3().put("valid", "k", "x").send().expect(200);
    }
    // A good file counts again.
    let key = Key::may_all();
    let s3 = world.s3_as(&key.creds);
    world.config.keys.push(key);
    world.write_config();
    world.wait("the new key works", |_| s3.get("valid", "k").send().status == 200);
}

#[test]
fn a_backend_that_still_holds_bytes_cannot_be_dropped() {
    let mut world = World::over(2);
    world.expect_errors();
    world.s3().create_bucket("hold");
    world.s3().put("hold", "k", "x").send().expect(200);
    world.wait_files(&[1, 1]);
    let dropped = world.config.backends.pop().unwrap();
    world.write_config();
    world.wait("it names the backend", |world| {
        world.log().contains(&dropped.name) && {
            let log = world.log();
            log.lines().any(|line| line.contains("disk2") && line.contains("\"level\":\"ERROR\""))
                || log
                    .lines()
                    .any(|line| line.contains("disk2") && line.contains("\"level\":\"WARN\""))
        }
    });
    world.s3().put("hold", "k2", "x").send().expect(200);
    assert!(world.files(2).len() >= 2, "it is still written to");
    world.config.backends.push(dropped);
}

#[test]
fn a_backend_that_holds_nothing_can_be_dropped() {
    let mut world = World::with(2, |config| config.defaults.push("routing = \"pack\"".into()));
    world.s3().create_bucket("drop");
    world.s3().put("drop", "k", "x").send().expect(200);
    world.wait_files(&[1, 0]);
    world.config.backends.pop();
    let key = Key::may_all();
    let s3 = world.s3_as(&key.creds);
    world.config.keys.push(key);
    world.write_config();
    world.wait("the change is in force", |_| s3.get("drop", "k").send().status == 200);
}

#[test]
fn a_root_of_another_store_is_refused() {
    let other = World::new();
    other.s3().create_bucket("other");
    let mut world = World::new();
    world.expect_errors();
    let mut stolen = world.new_backend(2);
    stolen.options = format!("root = {:?}", other.disk(1));
    world.config.backends.push(stolen);
    world.write_config();
    world.wait("it says whose root that is", |world| world.log().contains("disk2"));
    world.s3().create_bucket("mine");
    world.s3().put("mine", "k", "x").send().expect(200);
    assert_eq!(other.files(1).len(), 0);
    world.config.backends.pop();
}

#[test]
fn defaults_change_for_what_is_written_next() {
    let mut world = World::with(2, |config| config.defaults.push("replicas = 1".into()));
    world.s3().create_bucket("later");
    world.s3().put("later", "one", "x").send().expect(200);
    world.wait_files(&[1, 0]);
    world.config.defaults.retain(|line| !line.starts_with("replicas"));
    world.config.defaults.push("replicas = 2\nmin_replicas = 2".into());
    world.replace_config();
    let mut n = 0;
    world.wait("two replicas are made", |world| {
        n += 1;
        world.s3().put("later", &format!("two {n}"), "x").send().expect(200);
        !world.files(2).is_empty()
    });
    assert_eq!(world.s3().read("later", "one"), b"x");
}

#[test]
fn no_request_is_lost_while_it_reloads() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("busy");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for t in 0..4 {
            let (s3, done) = (&s3, &done);
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let key = format!("{t} {n}");
                    s3.put("busy", &key, content(&key, n, 100_000)).send().expect(200);
                    assert!(s3.read("busy", &key) == content(&key, n, 100_000));
                    n += 1;
                }
            });
        }
        for _ in 0..5 {
            let key = Key::may_all();
            let new = world.s3_as(&key.creds);
            world.config.keys.push(key);
            world.replace_config();
            world.wait("the new key works", |_| new.bucket("HEAD", "busy").send().status == 200);
        }
        done.store(true, Ordering::Relaxed);
    });
}
