//! Limits and protection changed under a running server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::content::content;
use crate::signer::UNSIGNED;
use crate::wire::{Input, Response, read_answer};
use crate::world::{Key, World, local};

/// Replaces what stands at the end of the file.
fn set(world: &mut World, more: &str) {
    world.config.more = more.into();
    world.write_config();
}

#[track_caller]
fn refused(answer: &Response) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.short());
    let after = answer.must("retry-after").parse::<u64>();
    assert!(after.is_ok_and(|seconds| seconds > 0), "{}", answer.short());
}

/// What the server says once it wants the body: by then the request was admitted.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A write that was admitted, whose body does not end until it is asked to.
struct Held {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Held {
    fn put(world: &World, key: &str) -> Held {
        let request = world.s3().put("held", key, vec![7; 1000]).sha256(UNSIGNED);
        let request = request.unsigned_header("expect", "100-continue");
        let (head, body) = request.keep_alive();
        let mut stream = TcpStream::connect(local(world.config.port)).expect("it listens");
        stream.write_all(&head).expect("it reads");
        let mut said = vec![0; CONTINUE.len()];
        stream.read_exact(&mut said).expect("it answers");
        assert_eq!(said, CONTINUE, "{}", String::from_utf8_lossy(&said));
        stream.write_all(&body[..10]).expect("it reads");
        Held { stream, rest: body[10..].to_vec() }
    }

    fn end(mut self) {
        self.stream.write_all(&self.rest).expect("it reads");
        let answer = read_answer(&mut Input::new(&self.stream), false).expect("it answers");
        answer.expect(200);
    }
}

#[test]
fn admission_is_narrowed_and_widened() {
    let mut world = World::new();
    world.s3().create_bucket("held");
    let put = |world: &World, key: &str| world.s3().put("held", key, "x").send();
    let key = Key::may_all();
    let new = world.s3_as(&key.creds);
    world.config.keys.push(key);
    set(&mut world, "[admission]\nwrites = 1\nreads = 1\nshed_from = 1\nworker_share = 1");
    world.wait("it is in force", |_| new.bucket("HEAD", "held").send().status == 200);
    let held = Held::put(&world, "slow");
    refused(&put(&world, "k"));
    // Reads have a budget of their own.
    world.s3().bucket("GET", "held").send().expect(200);
    set(&mut world, "[admission]\nwrites = 50");
    world.wait("there is room for more writes", |world| put(world, "k").status == 200);
    held.end();
    assert_eq!(world.s3().read("held", "slow"), vec![7; 1000]);
    let ran = world.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    let refusals = status["server"]["refusals"].as_object().expect("they are counted");
    assert!(refusals.values().filter_map(Value::as_u64).sum::<u64>() >= 1, "{status}");
}

#[test]
fn rates_of_keys_and_addresses_come_and_go() {
    let mut world = World::new();
    world.s3().create_bucket("rate");
    let get = |world: &World| world.s3().bucket("GET", "rate").send();
    for which in ["per_key", "per_address"] {
        set(&mut world, &format!("[rate_limit]\n{which} = 0.1\n{which}_burst = 3"));
        world.wait(which, |world| get(world).status == 503);
        refused(&get(&world));
        set(&mut world, "");
        world.wait("nothing is limited again", |world| (0..10).all(|_| get(world).status == 200));
    }
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    let mut world = World::new();
    world.s3().create_bucket("rate");
    let from = |world: &World, address: &str| {
        let request = world.s3().bucket("GET", "rate");
        request.unsigned_header("x-forwarded-for", address).send()
    };
    let limit = "[rate_limit]\nper_address = 0.01\nper_address_burst = 1\n";
    set(&mut world, &format!("{limit}trusted_proxies = [\"127.0.0.0/8\"]"));
    world.wait("one address may ask once", |world| from(world, "203.0.113.1").status == 503);
    for n in 2..20 {
        from(&world, &format!("203.0.113.{n}")).expect(200);
    }
    // What the client itself wrote stands further left and is not looked at.
    refused(&from(&world, "198.51.100.9, 203.0.113.1"));
    set(&mut world, limit);
    let mut n = 20;
    world.wait("nobody is believed any more", |world| {
        n += 1;
        from(world, &format!("203.0.113.{n}")).status == 503
    });
    refused(&from(&world, "203.0.113.250"));
}

#[test]
fn bandwidth_is_narrowed_and_widened() {
    let mut world = World::new();
    world.s3().create_bucket("wide");
    let body = content("k", 0, 3 << 20);
    world.s3().put("wide", "k", body.clone()).send().expect(200);
    let time = |world: &World| {
        let begin = Instant::now();
        assert!(world.s3().read("wide", "k") == body);
        begin.elapsed()
    };
    let at = world.config.backends[0].more.len();
    world.config.backends[0].more.push("[backend.bandwidth]\ndown = [\"512 KiB/s\"]".into());
    world.write_config();
    world.wait("reads are slow", |world| time(world) > Duration::from_secs(3));
    world.config.backends[0].more.truncate(at);
    world.write_config();
    world.wait("reads are as fast as they were", |world| time(world) < Duration::from_secs(2));
}

#[test]
fn a_changed_breaker_account_or_profile_keeps_the_counts() {
    let mut world = World::new();
    world.s3().create_bucket("kept");
    for n in 0..20 {
        world.s3().put("kept", &format!("k{n}"), "x").send().expect(200);
    }
    let usage = |world: &World| -> Value {
        let ran = world.run(&["usage", "--json"]);
        let said: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
        said["backends"][0].clone()
    };
    let before = usage(&world)["month"]["requests"].as_u64().unwrap();
    assert!(before >= 20);
    world.config.backends[0].more.push("account = \"a\"\nprofile = \"mine\"".into());
    set(
        &mut world,
        "[breaker]\nfailures = 7\nopen = \"1 s\"\nprobe_timeout = \"1 s\"\n\
         [profile.mine]\nprices = { a = 1, b = 1, c = 1, egress_gb = 1, ingress_gb = 1, stored_gb_month = 1 }",
    );
    let mut seen = Value::Null;
    world.wait("the profile has prices", |world| {
        seen = usage(world);
        !seen["money"].is_null()
    });
    assert_eq!((&seen["account"], &seen["profile"]), (&"a".into(), &"mine".into()));
    assert!(seen["month"]["requests"].as_u64() >= Some(before), "{seen}");
    assert!(seen["money"]["spent"].as_f64() > Some(0.0), "{seen}");
    assert!(seen["money"]["expected"].as_f64() >= seen["money"]["spent"].as_f64(), "{seen}");
    world.s3().put("kept", "more", "x").send().expect(200);
    assert!(usage(&world)["month"]["requests"].as_u64() > Some(before));
}
