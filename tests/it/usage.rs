//! What backends use is counted, shown, kept and never more than their owner allows.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::content::content;
use crate::world::{Config, World};

/// More writes than any limit of these tests lets through.
const MANY: usize = 100;

/// Lines of `[backend.limits]` for the backend at `at`. Other lines of it must stand before.
fn limit(config: &mut Config, at: usize, lines: &str) {
    config.backends[at].more.retain(|line| !line.starts_with("[backend.limits]"));
    config.backends[at].more.push(format!("[backend.limits]\n{lines}"));
}

fn limited(lines: &str) -> World {
    let world = World::with(1, |config| limit(config, 0, lines));
    world.s3().create_bucket("metered");
    world
}

/// `larder usage --json`, and of it the backend at `at`.
#[track_caller]
fn usage(world: &World, at: usize) -> Value {
    let ran = world.run(&["usage", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    said["backends"][at].clone()
}

#[track_caller]
fn line(period: &Value, what: &str) -> Value {
    let lines = period["lines"].as_array().expect("there are lines");
    lines.iter().find(|line| line["what"] == what).expect(what).clone()
}

/// Writes until the answer is 507; the keys that were taken.
#[track_caller]
fn fill(world: &World, body: &[u8]) -> Vec<String> {
    let mut taken = Vec::new();
    for n in 0..MANY {
        let key = format!("k{n}");
        let answer = world.s3().put("metered", &key, body).send();
        if answer.status != 200 {
            let answer = answer.expect_error(507, "InsufficientStorage");
            assert!(answer.header("retry-after").is_some(), "{}", answer.short());
            return taken;
        }
        taken.push(key);
    }
    panic!("nothing was refused: {}", usage(world, 0));
}

/// Reads until the answer is 429.
#[track_caller]
fn drain(world: &World, key: &str) {
    for _ in 0..MANY {
        let answer = world.s3().get("metered", key).send();
        if answer.status != 200 {
            let answer = answer.expect_error(429, "SlowDown");
            let after = answer.must("retry-after").parse::<u64>();
            assert!(after.is_ok_and(|seconds| seconds > 0), "{}", answer.short());
            return;
        }
    }
    panic!("nothing was refused: {}", usage(world, 0));
}

#[test]
fn a_limit_of_requests_is_kept_shown_and_raised() {
    let mut world = limited("requests_month = { all = 30 }");
    let taken = fill(&world, b"x");
    assert!((2..=30).contains(&taken.len()), "{} were taken", taken.len());
    drain(&world, &taken[0]);
    // What needs no request of the backend goes on, and so do deletes.
    world.s3().head("metered", &taken[0]).send().expect(200);
    world.s3().bucket("GET", "metered").send().expect(200);
    for key in &taken[1..] {
        world.s3().delete("metered", key).send().expect(204);
    }
    world.wait_files(&[1]);

    let before = usage(&world, 0);
    let month = &before["month"];
    let of_month = line(month, "requests");
    assert_eq!(of_month["limit"], 30, "{before}");
    let used = of_month["used"].as_u64().unwrap();
    assert!((taken.len() as u64..=30).contains(&used), "{before}");
    assert_eq!(month["requests"], of_month["used"], "{before}");
    let sum = |period: &Value| {
        let calls = period["calls"].as_object().unwrap();
        calls.values().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum(month) - month["calls"]["free"].as_u64().unwrap(), used, "{before}");
    assert!(month["calls"]["free"].as_u64() >= Some(taken.len() as u64 - 1), "{before}");
    assert!(month["ingress"].as_u64() >= Some(taken.len() as u64), "{before}");
    assert!(month["operations"]["write"].as_u64() >= Some(taken.len() as u64), "{before}");
    assert!(before["day"]["requests"].as_u64() <= month["requests"].as_u64(), "{before}");

    let listed = world.run(&["backend", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect(&listed.stdout);
    assert_eq!(listed[0]["reached"]["what"], "requests", "{listed}");
    let told = world.run(&["usage"]);
    assert!(told.stdout.contains("the limit of 30 requests a month is reached"), "{told:?}");

    // Without a server it is the same, and after a crash nothing is forgotten for long.
    world.stop();
    let at_rest = usage(&world, 0);
    assert!(at_rest["month"]["requests"].as_u64() >= Some(used), "{at_rest}");
    world.start();
    let after = usage(&world, 0);
    assert!(after["month"]["requests"].as_u64() >= Some(used), "{after}");
    world.s3().put("metered", "late", "x").send().expect_error(507, "InsufficientStorage");

    limit(&mut world.config, 0, "requests_month = { all = 1000 }");
    world.write_config();
    world.wait("the raised limit lets writes go on", |world| {
        world.s3().put("metered", "late", "x").send().status == 200
    });
    assert_eq!(world.s3().read("metered", &taken[0]), b"x");
}

#[test]
fn a_limit_of_bytes_is_kept_in_both_directions() {
    let mut world = limited("egress_month = \"1 MB\"\ningress_month = \"1 MB\"");
    let body = content("k", 0, 200_000);
    let taken = fill(&world, &body);
    assert!((3..=5).contains(&taken.len()), "{} were taken", taken.len());
    drain(&world, &taken[0]);
    let shown = usage(&world, 0);
    for what in ["ingress", "egress"] {
        let line = line(&shown["month"], what);
        let used = line["used"].as_u64().unwrap();
        assert!((600_000..=1_000_000).contains(&used), "{what}: {shown}");
        assert_eq!(line["limit"], 1_000_000, "{shown}");
    }
    limit(&mut world.config, 0, "");
    world.write_config();
    world.wait("without limits all is read again", |world| {
        world.s3().get("metered", &taken[0]).send().status == 200
    });
}

#[test]
fn a_backend_at_its_limit_is_written_around() {
    let mut world = World::with(2, |config| {
        config.defaults.push("replicas = 1\nrouting = \"pack\"".into());
        limit(config, 0, "requests_day = { all = 25 }");
    });
    world.s3().create_bucket("metered");
    for n in 0..40 {
        world.s3().put("metered", &format!("k{n}"), "x").send().expect(200);
    }
    world.wait("both disks hold objects", |world| {
        let (first, second) = (world.files(1).len(), world.files(2).len());
        first + second == 40 && (1..=25).contains(&first)
    });
    let day = usage(&world, 0)["day"].clone();
    assert!(line(&day, "requests")["used"].as_u64() <= Some(25), "{day}");
}

#[test]
fn backends_of_one_account_share_its_limit() {
    let world = World::with(2, |config| {
        config.defaults.push("replicas = 1\nrouting = \"spread\"".into());
        config.backends[0].more.push("account = \"shared\"\nquota = \"1 GB\"".into());
        config.backends[1].more.push("account = \"shared\"\nquota = \"1 GB\"".into());
        limit(config, 0, "requests_month = { all = 40 }");
    });
    world.s3().create_bucket("metered");
    let taken = fill(&world, b"x");
    assert!((2..=40).contains(&taken.len()), "{} were taken", taken.len());
    let (first, second) = (usage(&world, 0), usage(&world, 1));
    let (one, two) = (line(&first["month"], "requests"), line(&second["month"], "requests"));
    assert_eq!((&one["used"], &one["limit"]), (&two["used"], &two["limit"]), "{first} {second}");
    assert!(one["used"].as_u64() <= Some(40), "{first}");
    let own = |view: &Value| view["month"]["requests"].as_u64().unwrap();
    assert_eq!(Some(own(&first) + own(&second)), one["used"].as_u64(), "{first} {second}");
    assert_eq!((&first["account"], &second["account"]), (&"shared".into(), &"shared".into()));
}

#[test]
fn counts_survive_a_crash_within_seconds() {
    let mut world = limited("requests_month = { all = 1000000 }");
    for n in 0..20 {
        world.s3().put("metered", &format!("k{n}"), "x").send().expect(200);
    }
    let before = usage(&world, 0)["month"]["requests"].as_u64().unwrap();
    assert!(before >= 20);
    // Commits carry what was counted before them, at most once a second.
    let begin = Instant::now();
    world.wait("commits went on for a while", |world| {
        world.s3().put("metered", "more", "x").send().expect(200);
        begin.elapsed() > Duration::from_secs(3)
    });
    world.kill();
    world.start();
    let after = usage(&world, 0)["month"]["requests"].as_u64().unwrap();
    assert!(after >= before, "{after} after the crash, {before} before");
}

#[test]
fn what_is_asked_in_vain_is_said() {
    let mut world = World::new();
    let ran = world.run(&["usage", "--backend", "nobody", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("no_such_backend"), "{ran:?}");
    let ran = world.run(&["usage", "--backend", "disk1"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("disk1") && ran.stdout.contains("stored"), "{ran:?}");
    let ran = world.run(&["backend", "reset", "nobody", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("no_such_backend"), "{ran:?}");
    assert_eq!(world.run(&["backend", "reset", "disk1"]).code, Some(0));
    let ran = world.run(&["status", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let status: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    assert_eq!(status["server"]["state"], "ready", "{status}");
    assert_eq!(status["backends"][0]["name"], "disk1", "{status}");
    world.stop();
    let ran = world.run(&["status"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let ran = world.run(&["backend", "reset", "disk1"]);
    assert!(ran.code == Some(0) && ran.stdout.contains("nothing to reset"), "{ran:?}");
    let ran = world.run(&["config", "providers", "--json"]);
    let known: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    assert!(known.as_array().is_some_and(|all| all.iter().all(|one| one["listed"].is_string())));
}
