//! Requests over connections that stay open, as fast as the server answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A request as it goes on the wire; bodies of many requests are the same bytes.
pub(crate) struct Ready {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Ready {
    pub(crate) fn new(request: &crate::signer::Request) -> Ready {
        let (head, body) = request.keep_alive();
        Ready { head, body }
    }
}

/// What one load showed.
pub(crate) struct Shown {
    pub(crate) per_second: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket option");
        Connection { stream, buffer: vec![0; 256 << 10], filled: 0 }
    }

    pub(crate) fn send(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.stream.write_all(piece).expect("the server reads");
        }
    }

    /// Reads one answer; gives its status and the length of its body, which is thrown away.
    pub(crate) fn answer(&mut self, is_head: bool) -> (u16, u64) {
        let end = loop {
            let found = self.buffer[..self.filled].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = found {
                break end + 4;
            }
            let n = self.stream.read(&mut self.buffer[self.filled..]).expect("an answer");
            assert_ne!(n, 0, "the server closed the connection");
            self.filled += n;
        };
        let head = std::str::from_utf8(&self.buffer[..end]).expect("headers are text");
        let status = head[9..12].parse().expect("a status");
        let length = if is_head { 0 } else { content_length(head) };
        let mut left = length.saturating_sub((self.filled - end) as u64);
        let used = end + (length - left) as usize;
        self.buffer.copy_within(used..self.filled, 0);
        self.filled -= used;
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = self.stream.read(&mut self.buffer[..most]).expect("a body");
            assert_ne!(n, 0, "the server closed the connection in a body");
            left -= n as u64;
        }
        (status, length)
    }
}

fn content_length(head: &str) -> u64 {
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let line = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    line.map_or(0, |(_, value)| value.trim().parse().expect("a length"))
}

/// Sends `requests` in turn over `connections` until `most` has passed or, with `once`, until
/// all were sent; every answer must be a success.
pub(crate) fn run(
    addr: SocketAddr,
    connections: usize,
    requests: &[Ready],
    most: Duration,
    once: bool,
) -> Shown {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let mut taken: Vec<f64> = thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| one_connection(addr, requests, &next, begin + most, once)))
            .collect();
        all.into_iter().flat_map(|one| one.join().expect("no request fails")).collect()
    });
    let elapsed = begin.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize] * 1000.0;
    Shown { per_second: taken.len() as f64 / elapsed, median_ms: at(0.5), p99_ms: at(0.99) }
}

/// The seconds that each request took.
fn one_connection(
    addr: SocketAddr,
    requests: &[Ready],
    next: &AtomicUsize,
    end: Instant,
    once: bool,
) -> Vec<f64> {
    let mut connection = Connection::open(addr);
    let mut taken = Vec::new();
    while Instant::now() < end {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if once && n >= requests.len() {
            break;
        }
        let request = &requests[n % requests.len()];
        let begin = Instant::now();
        connection.send(&[&request.head, &request.body]);
        let (status, _) = connection.answer(request.head.starts_with(b"HEAD"));
        assert!(
            (200..300).contains(&status),
            "{status}: {}",
            String::from_utf8_lossy(&request.head)
        );
        taken.push(begin.elapsed().as_secs_f64());
    }
    taken
}

/// When a refused request is sent again.
#[derive(Clone, Copy)]
pub(crate) enum Retry {
    AtOnce,
    /// After the second that the server asks for.
    WhenTold,
}

/// What a load with refusals showed.
pub(crate) struct Goodput {
    pub(crate) per_second: f64,
    /// Of all requests.
    pub(crate) refused: f64,
}

/// As [`run`], but what is refused with a 503 is sent again until it succeeds; counts what
/// succeeded.
pub(crate) fn run_retrying(
    addr: SocketAddr,
    connections: usize,
    requests: &[Ready],
    most: Duration,
    retry: Retry,
) -> Goodput {
    let begin = Instant::now();
    let end = begin + most;
    let one = |first: usize| {
        let mut connection = Connection::open(addr);
        let (mut good, mut refused) = (0_u64, 0_u64);
        for request in requests.iter().cycle().skip(first) {
            while Instant::now() < end {
                connection.send(&[&request.head, &request.body]);
                match connection.answer(false).0 {
                    200 => {
                        good += 1;
                        break;
                    }
                    503 => refused += 1,
                    status => panic!("{status}: {}", String::from_utf8_lossy(&request.head)),
                }
                let again = Instant::now() + Duration::from_secs(1);
                while matches!(retry, Retry::WhenTold) && Instant::now() < again.min(end) {
                    crate::world::pause();
                }
            }
            if Instant::now() >= end {
                break;
            }
        }
        (good, refused)
    };
    let (good, refused) = thread::scope(|scope| {
        let one = &one;
        let all: Vec<_> = (0..connections).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter()
            .map(|one| one.join().expect("no request fails"))
            .fold((0, 0), |sum, (good, refused)| (sum.0 + good, sum.1 + refused))
    });
    Goodput {
        per_second: good as f64 / begin.elapsed().as_secs_f64(),
        refused: refused as f64 / (good + refused).max(1) as f64,
    }
}

/// The most resident memory, in MiB, that `sample` (KiB) shows while `work` runs.
pub(crate) fn peak_mib<T>(
    sample: impl Fn() -> Option<u64> + Sync,
    work: impl FnOnce() -> T,
) -> (T, f64) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(sample().unwrap_or(0));
                crate::world::pause();
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let peak = watcher.join().expect("the watcher does not panic");
        (result, peak as f64 / 1024.0)
    })
}
