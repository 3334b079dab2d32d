//! What the transport counts and how long it waits, against servers that keep books of their own.

use std::future::Future;

use opendal::Buffer;
use opendal::HttpBody;
use opendal::HttpTransport;
use opendal::raw::oio::ReadStream;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;
use crate::backend::Hours;
use crate::backend::transport::Transport;
use crate::model::Amounts;
use crate::model::Operation;
use crate::model::Tally;

/// Longer than a machine under load keeps a task waiting.
const STALL: Duration = Duration::from_millis(1000);
/// No failure takes longer.
const SOON: Duration = Duration::from_secs(10);
/// More than sockets of this machine hold.
const MORE_THAN_SOCKETS: usize = 32 * MIB;

/// A server that answers as a test says, and remembers what it was asked.
struct Wire {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request: the connection behind its head, the head, and its number, from 0.
struct Asked {
    socket: TcpStream,
    head: String,
    number: usize,
    /// Of the body, with the head.
    early: Vec<u8>,
}

impl Asked {
    fn length(&self) -> usize {
        let length = self.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        length.map_or(0, |length| length.parse().unwrap())
    }

    /// Reads at most `most` bytes of the body, as they come; how many there were.
    async fn body(&mut self, most: usize) -> usize {
        let most = most.min(self.length());
        let (mut read, mut buffer) = (self.early.len(), vec![0; 64 << 10]);
        while read < most {
            match self.socket.read(&mut buffer[..(64 << 10).min(most - read)]).await {
                Ok(0) | Err(_) => break,
                Ok(length) => read += length,
            }
        }
        read
    }

    /// Answers, and says that the connection is not used again.
    async fn answer(mut self, status: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
        );
        let _ = self.socket.write_all(head.as_bytes()).await;
        let _ = self.socket.write_all(body).await;
        let _ = self.socket.shutdown().await;
    }

    /// Says nothing any more, and takes nothing.
    async fn hang(self) {
        std::future::pending::<()>().await;
        drop(self);
    }
}

impl Wire {
    /// Every connection serves one request.
    async fn start<F: Future<Output = ()> + Send + 'static>(
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&heads), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let end = loop {
                        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                            break at + 4;
                        }
                        if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
                            return;
                        }
                    };
                    let early = bytes.split_off(end);
                    let head = String::from_utf8(bytes).unwrap();
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(head.clone());
                        seen.len() - 1
                    };
                    answer(Asked { socket, head, number, early }).await;
                });
            }
        });
        Wire { address, heads, task }
    }

    fn count(&self) -> u64 {
        self.heads.lock().unwrap().len() as u64
    }
}

fn timeouts() -> Timeouts {
    Timeouts { connect: LONG, first_byte: LONG, stall: LONG }
}

/// A transport, and what it counts.
fn transport(timeouts: Timeouts, bandwidth: Bandwidth) -> (Transport, Arc<Meter>) {
    let meter = meter();
    let throttle = Throttle::new(&bandwidth, Clock::system());
    let made = Transport::new(timeouts, Profile::default(), Arc::clone(&meter), throttle);
    (made.unwrap_or_else(|_| panic!("there is no HTTP client")), meter)
}

/// What was counted in this month. A run over its end counts what it counts in the next one.
fn counted(meter: &Meter) -> Tally {
    let [month, _] = meter.periods(meter.clock().now());
    meter.tally(month)
}

fn calls(amounts: &Amounts) -> u64 {
    amounts.calls.iter().sum()
}

fn request(method: &str, address: &str, body: Bytes) -> http::Request<Buffer> {
    let address = format!("{address}/x?signature=SECRET");
    http::Request::builder().method(method).uri(address).body(Buffer::from(body)).unwrap()
}

async fn read_all(answer: http::Response<HttpBody>) -> (usize, opendal::Result<()>) {
    let (mut body, mut length) = (answer.into_body(), 0);
    loop {
        match body.read().await {
            Ok(bytes) if bytes.is_empty() => return (length, Ok(())),
            Ok(bytes) => length += bytes.len(),
            Err(err) => return (length, Err(err)),
        }
    }
}

#[tokio::test]
async fn each_try_counts_and_so_do_its_bytes() {
    let server = Wire::start(async |mut asked: Asked| {
        asked.body(usize::MAX).await;
        match asked.number {
            0 | 1 => asked.answer("500 Broken", "", b"<Error>sorry</Error>").await,
            _ => asked.answer("200 OK", "", b"").await,
        }
    })
    .await;
    let meter = meter();
    let place = Place::open(&s3_at(&server.address), "x", &meter).unwrap();
    place.write_whole("a", pattern(1000)).await.unwrap();
    let tally = counted(&meter);
    assert_eq!(server.count(), 3);
    assert_eq!(tally.all.calls, [3, 0, 0, 0]);
    assert_eq!((tally.all.ingress, tally.all.egress), (3000, 40));
    assert_eq!(tally.work, Amounts::default());
}

#[tokio::test]
async fn what_was_never_sent_is_not_counted_and_what_is_given_up_is() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (transport, meter) = transport(timeouts(), Bandwidth::default());
    for (method, body) in [("GET", Bytes::new()), ("PUT", pattern(10))] {
        let refused = transport.fetch(request(method, &nobody, body)).await;
        let err = refused.err().unwrap();
        assert!(err.is_temporary());
        assert!(!format!("{err:?} {err}").contains("SECRET"));
    }
    assert_eq!(counted(&meter).all, Amounts::default());
    let server = Wire::start(Asked::hang).await;
    for (method, body) in [("GET", Bytes::new()), ("PUT", pattern(10))] {
        let before = server.count();
        let asked = async {
            let deadline = Instant::now() + SOON;
            while server.count() == before {
                assert!(Instant::now() < deadline, "the server is not asked");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = transport.fetch(request(method, &server.address, body)) => panic!("an answer came"),
            () = asked => {}
        }
    }
    assert_eq!(counted(&meter).all.calls, [1, 1, 0, 0]);
}

#[tokio::test]
async fn redirections_are_followed_and_counted_and_credentials_stay_behind() {
    let other = Wire::start(async |asked: Asked| asked.answer("200 OK", "", b"there").await).await;
    let target = format!("location: {}/there\r\n", other.address);
    let server = Wire::start(move |asked: Asked| {
        let target = target.clone();
        async move {
            match asked.number {
                0 => asked.answer("302 Found", "location: /y\r\n", b"").await,
                _ => asked.answer("307 Temporary Redirect", &target, b"").await,
            }
        }
    })
    .await;
    let (transport, meter) = transport(timeouts(), Bandwidth::default());
    let with_key = |method: &str, body: Bytes| {
        let mut request = request(method, &server.address, body);
        request.headers_mut().insert("authorization", "KEY".parse().unwrap());
        request.headers_mut().insert("range", "bytes=0-4".parse().unwrap());
        request
    };
    let answer = transport.fetch(with_key("GET", Bytes::new())).await.unwrap();
    assert_eq!(read_all(answer).await.0, 5);
    {
        let (first, last) = (server.heads.lock().unwrap(), other.heads.lock().unwrap());
        assert_eq!((first.len(), last.len()), (2, 1));
        assert!(first[1].starts_with("GET /y ") && first[1].contains("KEY"), "{first:?}");
        assert!(last[0].starts_with("GET /there ") && last[0].contains("bytes=0-4"), "{last:?}");
        assert!(!last[0].contains("KEY"), "{last:?}");
    }
    assert_eq!((calls(&counted(&meter).all), counted(&meter).all.egress), (3, 5));
    // A body is not sent twice.
    let answer = transport.fetch(with_key("PUT", pattern(10))).await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!((other.count(), counted(&meter).all.ingress), (1, 10));
    let circle = Wire::start(async |asked: Asked| {
        asked.answer("302 Found", "location: /again\r\n", b"").await;
    })
    .await;
    let lost = transport.fetch(request("GET", &circle.address, Bytes::new())).await;
    assert!(lost.is_err_and(|err| !err.is_temporary()));
    assert_eq!(circle.count(), 11);
}

#[tokio::test]
async fn a_transfer_that_breaks_off_counts_for_what_moved() {
    let server = Wire::start(async |mut asked: Asked| {
        if asked.head.starts_with("PUT") {
            asked.body(MIB).await;
            return;
        }
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n";
        asked.socket.write_all(head).await.unwrap();
        asked.socket.write_all(&pattern(300_000)).await.unwrap();
        asked.socket.shutdown().await.unwrap();
    })
    .await;
    let (transport, meter) = transport(timeouts(), Bandwidth::default());
    let answer = transport.fetch(request("GET", &server.address, Bytes::new())).await.unwrap();
    let (read, end) = read_all(answer).await;
    assert!(end.is_err_and(|err| err.is_temporary()));
    assert_eq!((read, counted(&meter).all.egress), (300_000, 300_000));
    let body = pattern(MORE_THAN_SOCKETS);
    let sent = transport.fetch(request("PUT", &server.address, body)).await;
    assert!(sent.is_err_and(|err| err.is_temporary()));
    let gone = counted(&meter).all.ingress;
    assert!((MIB as u64..MORE_THAN_SOCKETS as u64).contains(&gone), "{gone}");
    assert_eq!(counted(&meter).all.calls, [1, 1, 0, 0]);
}

/// Asks `server`, which falls silent at some point, and waits for the failure.
async fn silent(server: Wire, timeouts: Timeouts, method: &str, body: Bytes) {
    let (transport, _) = transport(timeouts, Bandwidth::default());
    let begun = Instant::now();
    let asked = async {
        match transport.fetch(request(method, &server.address, body)).await {
            Ok(answer) => read_all(answer).await.1.unwrap_err(),
            Err(err) => err,
        }
    };
    let err = tokio::time::timeout(SOON, asked).await.expect("silence is noticed");
    assert!(err.is_temporary() && !err.to_string().contains("SECRET"), "{err}");
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_silent_peer_is_noticed_wherever_it_falls_silent() {
    let short = Duration::from_millis(200);
    let stall = Timeouts { stall: short, ..timeouts() };
    silent(Wire::start(Asked::hang).await, stall, "PUT", pattern(MORE_THAN_SOCKETS)).await;
    let head = Timeouts { first_byte: short, connect: short, ..timeouts() };
    silent(Wire::start(Asked::hang).await, head, "GET", Bytes::new()).await;
    let head = Timeouts { first_byte: short, ..timeouts() };
    silent(Wire::start(Asked::hang).await, head, "PUT", pattern(10)).await;
    let middle = Wire::start(async |mut asked: Asked| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc";
        asked.socket.write_all(head).await.unwrap();
        asked.hang().await;
    });
    silent(middle.await, stall, "GET", Bytes::new()).await;
}

#[tokio::test]
async fn a_slow_peer_may_take_its_time() {
    let timeouts = Timeouts { connect: LONG, first_byte: STALL, stall: STALL };
    let server = Wire::start(async |mut asked: Asked| {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        if asked.head.starts_with("PUT") {
            let (length, mut read) = (asked.length(), asked.early.len());
            let mut buffer = vec![0; 128 << 10];
            while read < length {
                tick.tick().await;
                read += asked.socket.read(&mut buffer).await.unwrap();
            }
            return asked.answer("200 OK", "", b"").await;
        }
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 250\r\n\r\n";
        asked.socket.write_all(head).await.unwrap();
        for _ in 0..250 {
            tick.tick().await;
            asked.socket.write_all(b"x").await.unwrap();
        }
    })
    .await;
    let (transport, meter) = transport(timeouts, Bandwidth::default());
    let begun = Instant::now();
    let body = pattern(MORE_THAN_SOCKETS);
    let answer = transport.fetch(request("PUT", &server.address, body)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(begun.elapsed() > 2 * STALL, "the server is too fast for this test");
    let begun = Instant::now();
    let answer = transport.fetch(request("GET", &server.address, Bytes::new())).await.unwrap();
    let (read, end) = read_all(answer).await;
    end.unwrap();
    assert!(begun.elapsed() > 2 * STALL, "the server is too fast for this test");
    let all = counted(&meter).all;
    assert_eq!((read as u64, all.egress), (250, 250));
    assert_eq!((all.ingress, calls(&all)), (MORE_THAN_SOCKETS as u64, 2));
}

/// The same rate all day, both ways.
fn at(rate: u64) -> Bandwidth {
    let hours = vec![Hours { from: 0, to: 0, rate }];
    Bandwidth { up: hours.clone(), down: hours }
}

#[tokio::test]
async fn waiting_for_bandwidth_is_no_silence() {
    let server = Wire::start(async |mut asked: Asked| {
        let read = asked.body(usize::MAX).await;
        let body = if read == 0 { pattern(40 << 10) } else { Bytes::new() };
        asked.answer("200 OK", "", &body).await;
    })
    .await;
    let short = Duration::from_millis(300);
    let timeouts = Timeouts { first_byte: LONG, connect: LONG, stall: short };
    let (transport, meter) = transport(timeouts, at(64 << 10));
    for method in ["PUT", "GET"] {
        let begun = Instant::now();
        let each = (0..4).map(async |_| {
            let body = if method == "PUT" { pattern(40 << 10) } else { Bytes::new() };
            let answer = transport.fetch(request(method, &server.address, body)).await.unwrap();
            read_all(answer).await.1.unwrap();
        });
        futures_util::future::join_all(each).await;
        // 160 KiB at 64 KiB/s, less the burst: each has waited for the others for longer than
        // it may be silent.
        assert!(begun.elapsed() >= Duration::from_millis(2_200), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < SOON);
    }
    let all = counted(&meter).all;
    assert_eq!((all.ingress, all.egress, calls(&all)), (160 << 10, 160 << 10, 8));
}

#[tokio::test]
async fn disks_and_memory_keep_the_pace_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for mut settings in [local(&root), settings("memory", &[("root", "/pace")])] {
        settings.bandwidth = at(MIB as u64);
        let backend = Backend::add(settings, 7, BackendId(9), meter()).await.unwrap();
        let bytes = pattern(MIB);
        let begun = Instant::now();
        backend.write_whole("a", bytes.slice(..MIB / 2)).await.unwrap();
        let mut writer = backend.write("b", MIB as u64 / 2).await.unwrap();
        writer.write(bytes.slice(MIB / 2..)).await.unwrap();
        writer.finish().await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert!(backend.read_here("a", 0..10).is_none(), "nothing goes past the limit");
        assert!(read(&backend, "a", 0..MIB as u64 / 2).await.unwrap() == bytes[..MIB / 2]);
        assert!(read(&backend, "b", 0..MIB as u64 / 2).await.unwrap() == bytes[MIB / 2..]);
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    }
}

/// Everything that a backend does, at a real server that keeps its own books.
#[tokio::test]
async fn counts_are_those_of_the_server() {
    let server = S3Server::start().await;
    let meter = meter();
    let settings = server.settings();
    let backend = Backend::add(settings, 7, BackendId(9), Arc::clone(&meter)).await.unwrap();
    let same = |meter: &Meter| {
        let (all, seen) = (counted(meter).all, *server.seen.lock().unwrap());
        assert_eq!((all.calls, all.ingress, all.egress), (seen.calls, seen.ingress, seen.egress));
        all
    };
    let mut before = same(&meter);
    let mut made = |what: &str, expected: [u64; 4]| {
        let all = same(&meter);
        let made: Vec<_> = all.calls.iter().zip(before.calls).map(|(now, was)| now - was).collect();
        assert_eq!(made, expected, "{what}");
        before = all;
    };
    let big = pattern(17 * MIB);
    backend.write_whole("a", pattern(3000)).await.unwrap();
    made("a small object", [1, 0, 0, 0]);
    let mut writer = backend.write("b", big.len() as u64).await.unwrap();
    for piece in big.chunks(MIB) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish().await.unwrap();
    made("three parts with beginning and end", [5, 0, 0, 0]);
    assert!(read(&backend, "b", 0..big.len() as u64).await.unwrap() == big);
    made("a read", [0, 1, 0, 0]);
    backend.stat("a").await.unwrap();
    made("a stat", [0, 1, 0, 0]);
    let work = backend.for_work();
    assert_eq!(read(&work, "a", 10..20).await.unwrap(), pattern(3000)[10..20]);
    work.write_whole("c", pattern(50)).await.unwrap();
    made("work", [1, 1, 0, 0]);
    let work = counted(&meter).work;
    assert_eq!((work.calls, work.ingress, work.egress), ([1, 1, 0, 0], 50, 10));
    for path in ["a", "b", "c"] {
        backend.delete(path).await.unwrap();
    }
    made("three deletions", [0, 0, 0, 3]);
    let paths: Vec<String> = (0..40).map(|n| format!("many/{n}")).collect();
    for path in &paths {
        backend.write_whole(path, pattern(1)).await.unwrap();
    }
    made("forty small objects", [40, 0, 0, 0]);
    let operations = counted(&meter).all.operations[Operation::Delete as usize];
    assert!(backend.delete_many(&paths, 4, LONG).await.iter().all(Result::is_ok));
    made("forty deletions at once", [0, 0, 0, 1]);
    let after = counted(&meter).all.operations[Operation::Delete as usize];
    assert_eq!(after, operations + 1);
    let mut writer = backend.write("d", big.len() as u64).await.unwrap();
    for piece in big.chunks(MIB) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.abort().await.unwrap();
    made("an upload that is given up", [2, 0, 0, 1]);
    assert_eq!(listed(&backend, "").await, []);
    made("a listing between two looks", [1, 2, 0, 0]);
    assert_eq!(backend.stat("a").await.unwrap_err().fault, Fault::Missing);
    made("a stat of nothing, and a look", [0, 2, 0, 0]);
    assert_eq!(counted(&meter).work, work, "the rest was nobody's work");
}
