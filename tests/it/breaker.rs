//! Backends that break and come back: left alone meanwhile, and used again by themselves.
//!
//! A real S3 server is stopped, or hung, and started again, behind one of two backends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::content::content;
use crate::other_s3::OtherS3;
use crate::wire::{Input, read_answer};
use crate::world::World;

const MIB: usize = 1 << 20;
const SIZES: [usize; 3] = [100, 200_000, 3 * MIB + 11];
const SOON: &str = "\n[breaker]\nfailures = 3\nopen = \"1 s\"\nprobe_timeout = \"5 s\"\n\
                    \n[timeouts]\nconnect = \"1 s\"\nfirst_byte = \"1 s\"\nstall = \"2 s\"\n";
const OPENED: &str = "the backend failed too often and is left alone";
const CLOSED: &str = "the backend is in use again";

/// How the first of the two servers breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Stops,
    Hangs,
}

/// A Larder over two servers; the first breaks.
struct Two {
    world: World,
    first: OtherS3,
    second: OtherS3,
}

impl Two {
    fn new(replicas: u32) -> Two {
        let (first, second) = (OtherS3::start(), OtherS3::start());
        let mut world = World::with(0, |config| {
            let wishes = format!("replicas = {replicas}\nmin_replicas = 1\nrouting = \"pack\"");
            config.defaults.push(wishes);
            config.backends.push(first.backend("first"));
            config.backends.push(second.backend("second"));
            config.more.push_str(SOON);
        });
        world.expect_errors();
        world.s3().create_bucket("kept");
        Two { world, first, second }
    }

    fn put(&self, key: &str, size: usize) -> u16 {
        self.world.s3().put("kept", key, content(key, 0, size)).send().status
    }

    /// Waits until the first backend is there with all that was put.
    fn settled(&mut self, files: usize) {
        let first = &self.first;
        self.world.wait("the first server has its files", |_| first.files().len() == files);
    }

    fn breaks(&mut self, how: Break) {
        match how {
            Break::Stops => self.first.stop(),
            Break::Hangs => self.first.hang(true),
        }
    }

    fn mend(&mut self, how: Break) {
        match how {
            Break::Stops => self.first.start_again(),
            Break::Hangs => self.first.hang(false),
        }
    }

    /// Nobody calls it meanwhile.
    fn heals(&mut self) {
        self.world.wait("the breaker closes without traffic", |world| world.log().contains(CLOSED));
    }

    /// The meter and the server agree, as soon as nothing is on its way.
    fn counts_agree(&mut self, since: (u64, u64)) {
        let first = &self.first;
        self.world.wait("the counts are those that the server saw", |world| {
            let counted = calls(world, "first") - since.0;
            counted > 0 && counted == first.seen() - since.1
        });
    }
}

/// Requests of this month, of all classes.
fn calls(world: &World, backend: &str) -> u64 {
    let ran = world.run(&["usage", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    let backends = said["backends"].as_array().expect(&ran.stdout);
    let one = backends.iter().find(|one| one["name"] == backend).expect(&ran.stdout);
    let of = |class: &str| one["month"]["calls"][class].as_u64().expect(&ran.stdout);
    ["a", "b", "c", "free"].into_iter().map(of).sum()
}

fn reads_fail_over(how: Break) {
    let mut two = Two::new(2);
    for size in SIZES {
        assert_eq!(two.put(&size.to_string(), size), 200);
    }
    two.settled(SIZES.len());
    two.counts_agree((0, 0));
    two.breaks(how);
    // At once, so that each of them waits for the broken one.
    let all_read = |world: &World| {
        let read = |size: usize| {
            let key = size.to_string();
            assert!(world.s3().read("kept", &key) == content(&key, 0, size), "{key}");
        };
        thread::scope(|scope| SIZES.map(|size| scope.spawn(move || read(size))).len());
    };
    // Every read is answered, before it opens and afterwards.
    two.world.wait("the breaker opens", |world| {
        all_read(world);
        world.log().contains(OPENED)
    });
    all_read(&two.world);
    for size in SIZES {
        assert_eq!(two.put(&format!("new {size}"), size), 200);
    }
    assert_eq!(two.second.files().len(), 2 * SIZES.len());
    two.mend(how);
    two.heals();
    if how == Break::Hangs {
        // What it never answered was asked all the same.
        two.counts_agree((0, 0));
    }
    all_read(&two.world);
    // What it missed is made up for; what failed meanwhile would wait for minutes.
    let ran = two.world.run(&["worker", "run", "replicator", "--wait"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    two.settled(2 * SIZES.len());
    assert_eq!(two.put("again", 100), 200);
    two.settled(2 * SIZES.len() + 1);
}

#[test]
fn reads_fail_over_from_a_server_that_stopped() {
    reads_fail_over(Break::Stops);
}

#[test]
fn reads_fail_over_from_a_server_that_hangs() {
    reads_fail_over(Break::Hangs);
}

fn writes_go_elsewhere(how: Break) {
    let mut two = Two::new(1);
    for size in SIZES {
        assert_eq!(two.put(&size.to_string(), size), 200);
    }
    assert_eq!((two.first.files().len(), two.second.files().len()), (SIZES.len(), 0));
    two.breaks(how);
    // A short body is still here when its only leg fails, so it goes elsewhere at once.
    two.world.wait("the breaker opens", |world| {
        let put = |key: &str| {
            let put = world.s3().put("kept", key, content(key, 0, 100)).send();
            assert_eq!(put.status, 200, "{}", put.short());
        };
        thread::scope(|scope| {
            ["short 1", "short 2", "short 3"].map(|key| scope.spawn(move || put(key))).len()
        });
        world.log().contains(OPENED)
    });
    for size in SIZES {
        assert_eq!(two.put(&format!("new {size}"), size), 200);
    }
    let lost = two.world.s3().get("kept", "100").send();
    lost.expect_error(503, "ServiceUnavailable");
    two.mend(how);
    two.heals();
    for size in SIZES {
        for key in [size.to_string(), format!("new {size}")] {
            assert!(two.world.s3().read("kept", &key) == content(&key, 0, size), "{key}");
        }
    }
}

#[test]
fn writes_go_elsewhere_when_a_server_stopped() {
    writes_go_elsewhere(Break::Stops);
}

#[test]
fn writes_go_elsewhere_when_a_server_hangs() {
    writes_go_elsewhere(Break::Hangs);
}

#[test]
fn a_reached_limit_is_507_for_writes_and_429_for_reads_and_nothing_for_deletes() {
    const LIMIT: usize = 60;
    let world = World::with(1, |config| {
        let limits = format!("limits = {{ requests_month = {{ all = {LIMIT} }} }}");
        config.backends[0].more.push(limits);
    });
    let s3 = world.s3();
    s3.create_bucket("kept");
    let put = |n: usize| s3.put("kept", &format!("k{n}"), "x").send();
    let refused = (0..=LIMIT).find(|n| put(*n).status != 200).expect("the limit is never reached");
    assert!(refused > 0, "nothing can be written at all");
    put(refused).expect_error(507, "InsufficientStorage");
    let got = s3.get("kept", "k0").send().expect_error(429, "SlowDown");
    assert!(got.must("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    s3.head("kept", "k0").send().expect(200);
    for n in 0..refused {
        s3.delete("kept", &format!("k{n}")).send().expect(204);
    }
    let mut world = world;
    world.wait_files(&[0]);
}

#[test]
fn a_client_that_waits_to_be_asked_is_not_asked_for_what_finds_no_room() {
    let world = World::with(1, |config| {
        config.backends[0].more.push("quota = \"4 MiB\"".into());
        config.buckets.push("name = \"small\"\nquota = \"1 KiB\"".into());
    });
    let s3 = world.s3();
    s3.create_bucket("kept");
    let ask = |bucket: &str, size: usize| {
        let put = s3.put(bucket, "k", vec![7; size]).sha256(crate::signer::UNSIGNED);
        let (head, _body) = put.header("expect", "100-continue").keep_alive();
        let mut stream = TcpStream::connect(s3.addr).expect("it listens");
        stream.write_all(&head).expect("it reads");
        stream
    };
    let answer = |bucket: &str, size: usize| {
        let stream = ask(bucket, size);
        read_answer(&mut Input::new(&stream), false).expect("an answer")
    };
    // Long bodies and short ones, of the bucket's own quota and of the backend's.
    answer("kept", 5 * MIB).expect_error(507, "InsufficientStorage");
    s3.put("kept", "full", vec![1; 4 * MIB - 10]).send().expect(200);
    answer("kept", 100).expect_error(507, "InsufficientStorage");
    answer("small", 2000).expect_error(403, "QuotaExceeded");
    answer("small", 100_000).expect_error(403, "QuotaExceeded");
    let mut asked = [0; 12];
    ask("kept", 5).read_exact(&mut asked).expect("an answer");
    assert_eq!(&asked, b"HTTP/1.1 100");
}
