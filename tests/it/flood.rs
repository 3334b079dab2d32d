//! A thousand connections at once: the good are served, whatever the others do.
//!
//! The others are silent, send heads byte by byte, let uploads and downloads trickle, sign wrongly
//! or not at all, and break off in the middle. Good clients retry what is refused with `SlowDown`,
//! as every SDK does, and then all that they ask succeeds; what was acknowledged is read back,
//! and the server's memory stays below [`RESIDENT_MAX_KIB`].
//!
//! `LARDER_FLOOD_SECONDS` says how long it lasts at least.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::content::{Rng, content};
use crate::signer::{Request, S3, UNSIGNED};
use crate::wire::{Input, Response, read_answer};
use crate::world::{World, pause, seeded};

const BUCKET: &str = "flood";
const LARGE: &str = "large";
const LARGE_SIZE: usize = 16 << 20;
/// A plain `cargo test`; it is longer where it takes longer until all of them were at work.
const SECONDS: u64 = 2;
/// And never longer than this beyond what was asked for.
const DEADLINE: Duration = Duration::from_secs(120);

/// Threads of good clients, and the connections of each.
const GOOD: usize = 25;
const EACH: usize = 16;
const SILENT: usize = 200;
const HALF_HEADS: usize = 100;
const SLOW_UPLOADS: usize = 32;
const SLOW_DOWNLOADS: usize = 68;
/// Threads of clients that sign wrongly, and of those that break off.
const WRONG: usize = 5;
const WRONG_EACH: usize = 30;
const BREAKING: usize = 5;
const BREAKING_EACH: usize = 10;

const CONNECTIONS: usize = GOOD * EACH
    + SILENT
    + HALF_HEADS
    + SLOW_UPLOADS
    + SLOW_DOWNLOADS
    + WRONG * WRONG_EACH
    + BREAKING * BREAKING_EACH;
const _: () = assert!(CONNECTIONS == 1000);

/// Sixty-four MiB of bodies in flight, 64 KiB to read and 64 KiB to write for each connection,
/// and what the process has when it is idle (a debug build, with its threads and SQLite's pages).
const RESIDENT_MAX_KIB: u64 = 64 * 1024 + CONNECTIONS as u64 * 128 + 80 * 1024;
/// Of the requests of good clients, refused ones included.
const REFUSED_MAX: f64 = 0.5;
/// A good request that is refused more often than this has not been served.
const TRIES: u32 = 60;

struct Counts {
    /// Not before this it ends.
    least: Instant,
    good: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
    broken_off: AtomicU64,
    reopened: AtomicU64,
}

impl Counts {
    fn new(least: Instant) -> Counts {
        let [good, refused, wrong, broken_off, reopened] = Default::default();
        Counts { least, good, refused, wrong, broken_off, reopened }
    }

    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it lasted long enough for every kind to have had its turn.
    fn is_over(&self) -> bool {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert!(self.least + DEADLINE > Instant::now(), "not all kinds come to their turn");
        Instant::now() >= self.least
            && get(&self.good) > (GOOD * EACH) as u64
            && get(&self.wrong) > 0
            && get(&self.broken_off) > 0
    }
}

/// A connection that stays open.
struct Line {
    addr: SocketAddr,
    stream: TcpStream,
}

impl Line {
    fn open(addr: SocketAddr) -> Line {
        let stream = TcpStream::connect(addr).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket option");
        Line { addr, stream }
    }

    fn send(&mut self, request: &Request) {
        let (head, body) = request.keep_alive();
        let whole = [head, body].concat();
        if self.stream.write_all(&whole).is_err() {
            *self = Line::open(self.addr);
            self.stream.write_all(&whole).expect("a fresh connection takes a request");
        }
    }

    fn answer(&mut self) -> Response {
        read_answer(&mut Input::new(&self.stream), false).expect("an answer in time")
    }
}

/// An object of a good client, by its content.
#[derive(Clone)]
struct Kept {
    key: String,
    n: u64,
    size: usize,
}

impl Kept {
    fn body(&self) -> Vec<u8> {
        content(&self.key, self.n, self.size)
    }
}

/// Writes and reads back; gives what it wrote last.
fn good(s3: &S3, id: usize, seed: u64, counts: &Counts) -> Vec<Kept> {
    let mut rng = Rng::new(seed + id as u64);
    let mut lines: Vec<Line> = (0..EACH).map(|_| Line::open(s3.addr)).collect();
    let mut kept: Vec<Kept> =
        (0..EACH).map(|k| Kept { key: format!("client{id}/{k}"), n: 0, size: 0 }).collect();
    loop {
        for one in &mut kept {
            one.n += 1;
            one.size = *rng.pick(&[100, 4096, 60_000, 100_000]) + rng.below(100) as usize;
        }
        let put = |one: &Kept| s3.put(BUCKET, &one.key, one.body()).sha256(UNSIGNED);
        each(&mut lines, &kept, put, &mut rng, counts, |_, _| ());
        let get = |one: &Kept| s3.get(BUCKET, &one.key);
        each(&mut lines, &kept, get, &mut rng, counts, |one, got| {
            assert!(got.body == one.body(), "{} has other bytes", one.key);
        });
        if counts.is_over() {
            return kept;
        }
    }
}

/// One request for each on its own connection, all at once, until each was served.
fn each(
    lines: &mut [Line],
    kept: &[Kept],
    request: impl Fn(&Kept) -> Request,
    rng: &mut Rng,
    counts: &Counts,
    look: impl Fn(&Kept, &Response),
) {
    let mut left: Vec<usize> = (0..kept.len()).collect();
    for tried in 0.. {
        left.iter().for_each(|&at| lines[at].send(&request(&kept[at])));
        left.retain(|&at| {
            let got = lines[at].answer();
            if got.status == 200 {
                Counts::add(&counts.good);
                look(&kept[at], &got);
                return false;
            }
            assert_eq!((got.status, got.code().as_str()), (503, "SlowDown"), "{}", got.short());
            assert!(got.header("retry-after").is_some(), "{}", got.short());
            Counts::add(&counts.refused);
            true
        });
        if left.is_empty() {
            return;
        }
        assert!(tried < TRIES, "{} was refused too often", kept[left[0]].key);
        // Ever longer, and never all at the same time.
        (0..=rng.below(4 << tried.min(4))).for_each(|_| pause());
    }
}

/// Connections that ask for nothing proper, one byte at a time.
struct Slow {
    /// What is sent at once, and what then byte by byte.
    start: Vec<u8>,
    trickle: bool,
    line: Option<TcpStream>,
}

impl Slow {
    /// One byte this way and one that way; a connection that was closed is opened again.
    fn step(&mut self, addr: SocketAddr, counts: &Counts) {
        let Some(stream) = &mut self.line else {
            let stream = TcpStream::connect(addr).expect("the server accepts");
            stream.set_nonblocking(true).expect("a socket option");
            let sent = (&stream).write(&self.start);
            assert!(sent.is_ok_and(|n| n == self.start.len()), "a fresh connection takes a head");
            self.line = Some(stream);
            return;
        };
        let written = if self.trickle { stream.write(b"x").map(|_| true) } else { Ok(true) };
        let read = stream.read(&mut [0]).map(|n| n > 0);
        let is_open = |result: std::io::Result<bool>| match result {
            Ok(open) => open,
            Err(err) => err.kind() == ErrorKind::WouldBlock,
        };
        if !is_open(written) || !is_open(read) {
            self.line = None;
            Counts::add(&counts.reopened);
        }
    }
}

fn slow_ones(s3: &S3) -> Vec<Slow> {
    let slow = |start: Vec<u8>, trickle| Slow { start, trickle, line: None };
    let mut all = Vec::new();
    all.extend((0..SILENT).map(|_| slow(Vec::new(), false)));
    all.extend((0..HALF_HEADS).map(|_| slow(b"GET /flood/x HTTP/1.1\r\nx-a: ".to_vec(), true)));
    all.extend((0..SLOW_UPLOADS).map(|n| {
        let request = s3.put(BUCKET, &format!("slow{n}"), "").sha256(UNSIGNED);
        slow(request.content_length(1 << 20).keep_alive().0, true)
    }));
    let download = s3.get(BUCKET, LARGE).keep_alive().0;
    all.extend((0..SLOW_DOWNLOADS).map(|_| slow(download.clone(), false)));
    all
}

fn trickle(s3: &S3, counts: &Counts) {
    let mut all = slow_ones(s3);
    while !counts.is_over() {
        let round = Instant::now();
        all.iter_mut().for_each(|slow| slow.step(s3.addr, counts));
        while round.elapsed() < Duration::from_millis(500) && !counts.is_over() {
            pause();
        }
    }
}

/// Signs wrongly, or not at all, as fast as it is refused.
fn wrong(s3: &S3, counts: &Counts) {
    let mut lines: Vec<Line> = (0..WRONG_EACH).map(|_| Line::open(s3.addr)).collect();
    let requests = [
        s3.get(BUCKET, LARGE).secret("a guess"),
        s3.get(BUCKET, LARGE).anonymous(),
        s3.put(BUCKET, "k", vec![7; 1000]).sha256(UNSIGNED).secret("a guess"),
        s3.put(BUCKET, "k", vec![7; 1000]).key_id("NOBODY"),
    ];
    for request in requests.iter().cycle() {
        if counts.is_over() {
            return;
        }
        lines.iter_mut().for_each(|line| line.send(request));
        for line in &mut lines {
            let got = line.answer();
            assert_eq!(got.status, 403, "{}", got.short());
            Counts::add(&counts.wrong);
        }
    }
}

/// Breaks off in the middle of uploads and downloads.
fn break_off(s3: &S3, id: usize, counts: &Counts) {
    let mut open = std::collections::VecDeque::new();
    for n in 0.. {
        if counts.is_over() {
            return;
        }
        let request = match n % 3 {
            0 => s3.put(BUCKET, &format!("broken{id}"), vec![7; 50_000]).sha256(UNSIGNED),
            _ => s3.get(BUCKET, LARGE),
        };
        let (head, body) = request.keep_alive();
        let mut line = Line::open(s3.addr);
        let sent = line.stream.write_all(&[&head, &body[..body.len() / 2]].concat());
        sent.expect("a fresh connection takes half a request");
        open.push_back(line);
        if open.len() >= BREAKING_EACH {
            open.pop_front();
            Counts::add(&counts.broken_off);
        }
        pause();
    }
}

/// A thousand sockets here, too.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit everyone may");
}

fn peak_kib(world: &World) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_thousand_connections_of_all_kinds_and_the_good_ones_are_served() {
    raise_file_limit();
    let seconds = std::env::var("LARDER_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let seed = seeded("flood").below(1 << 40);
    let world = World::with(1, |config| config.server.push("memory = \"64 MiB\"".into()));
    let s3 = world.s3();
    s3.create_bucket(BUCKET);
    s3.put(BUCKET, LARGE, content(LARGE, 0, LARGE_SIZE)).sha256(UNSIGNED).send().expect(200);
    let idle = world.resident_kib();
    let counts = Counts::new(Instant::now() + Duration::from_secs(seconds));
    let kept: Vec<Kept> = thread::scope(|scope| {
        let (s3, counts) = (&s3, &counts);
        scope.spawn(|| trickle(s3, counts));
        for _ in 0..WRONG {
            scope.spawn(|| wrong(s3, counts));
        }
        for id in 0..BREAKING {
            scope.spawn(move || break_off(s3, id, counts));
        }
        let good: Vec<_> =
            (0..GOOD).map(|id| scope.spawn(move || good(s3, id, seed, counts))).collect();
        good.into_iter().flat_map(|one| one.join().expect("all good requests succeed")).collect()
    });
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (served, refused) = (get(&counts.good), get(&counts.refused));
    let share = refused as f64 / (served + refused) as f64;
    let peak = peak_kib(&world);
    println!(
        "{seconds} s: {served} served, {refused} refused ({:.1} %), {} signed wrongly, \
         {} broken off, {} slow ones closed; resident {idle:?} KiB idle, {peak:?} KiB at most",
        share * 100.0,
        get(&counts.wrong),
        get(&counts.broken_off),
        get(&counts.reopened),
    );
    assert!(served > (GOOD * EACH) as u64, "{served} served");
    assert!(share <= REFUSED_MAX, "{share} of all refused");
    assert!(get(&counts.wrong) > 0 && get(&counts.broken_off) > 0);
    assert!(peak.is_none_or(|peak| peak <= RESIDENT_MAX_KIB), "{peak:?} KiB");
    for one in &kept {
        assert!(s3.read(BUCKET, &one.key) == one.body(), "{} was acknowledged", one.key);
    }
}
