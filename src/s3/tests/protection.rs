//! What too much of anything is answered with, and what the slow and the wicked can hold.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;

use super::*;
use crate::base::limits::XML_BODY_MAX;
use crate::engine::Occupancy;
use crate::s3::Network;
use crate::s3::RateSettings;

const LARGE: usize = 32 << 20;

impl Bench {
    fn put_in(&self, key: &str, data: Vec<u8>) {
        self.memory.objects.lock().unwrap().insert(("bbb".into(), key.into()), data);
    }

    fn admits(&self, reads: usize, writes: usize, wait: Duration) {
        let usual = AdmissionSettings::default();
        self.admission.reload(AdmissionSettings { reads, writes, wait, shed_from: 1.0, ..usual });
    }

    fn readers(&self) -> usize {
        self.admission.occupancy()[0].clients
    }

    fn writers(&self) -> usize {
        self.admission.occupancy()[1].clients
    }

    fn refused(&self, cause: &str) -> u64 {
        let all = self.refusals.all();
        all.iter().find(|(name, _)| name == cause).map(|(_, count)| *count).unwrap()
    }

    fn rates(&self, rate: RateSettings) {
        let settings = S3Settings {
            region: REGION.into(),
            domain: Some("s3.test".into()),
            post_form_max: 1000,
            rate,
        };
        self.service.reload(settings);
    }

    async fn get(&self, key: &str) -> Answer {
        let draft = self.draft("GET", &format!("/bbb/{key}"), "UNSIGNED-PAYLOAD");
        self.signed(draft, b"").await
    }

    async fn put(&self, key: &str) -> Answer {
        let draft = self.draft("PUT", &format!("/bbb/{key}"), "UNSIGNED-PAYLOAD");
        self.signed(draft, b"hello").await
    }

    /// Sends the head of a signed request and stays connected.
    async fn begin(&self, mut draft: Draft, length: Option<usize>) -> TcpStream {
        signer().sign_header(&mut draft);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head(&draft, length).as_bytes()).await.unwrap();
        stream
    }
}

/// Waits for what other tasks bring about.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let found = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[track_caller]
fn assert_slow_down(answer: &Answer, seconds: u64) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.text());
    assert!(answer.head.contains(&format!("\nretry-after: {seconds}\r")), "{}", answer.head);
    assert!(answer.head.contains("\nx-amz-request-id: "), "{}", answer.head);
    assert!(answer.text().contains("<RequestId>") && answer.text().contains("<Resource>"));
}

#[tokio::test]
async fn a_full_budget_is_said_with_code_id_and_time_and_counted() {
    let bench = Bench::new().await;
    bench.put_in("slow", b"done".to_vec());
    bench.admits(1, 1, Duration::ZERO);
    let other = async {
        bench.memory.slow_began.notified().await;
        assert_eq!(bench.readers(), 1);
        assert_slow_down(&bench.get("slow").await, 1);
        let head = bench.draft("HEAD", "/bbb/slow", "UNSIGNED-PAYLOAD");
        let answer = bench.signed(head, b"").await;
        assert_eq!((answer.status, answer.body.len()), (503, 0));
        assert!(answer.head.contains("\nretry-after: 1\r"), "{}", answer.head);
        // Writes have a budget of their own, and who may not needs no permit to hear it.
        assert_eq!(bench.put("k").await.status, 200);
        let forger = Signer { secret: "guess".into(), ..signer() };
        let mut draft = bench.draft("GET", "/bbb/slow", "UNSIGNED-PAYLOAD");
        forger.sign_header(&mut draft);
        assert_eq!(bench.send(&draft, b"").await.code(), "SignatureDoesNotMatch");
        let reader = Signer { id: "AKREAD".into(), ..signer() };
        let mut draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
        reader.sign_header(&mut draft);
        assert_eq!(bench.send(&draft, b"").await.code(), "AccessDenied");
        bench.memory.release.notify_one();
    };
    let (answer, ()) = tokio::join!(bench.get("slow"), other);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
    until("the permit comes back", || bench.readers() == 0).await;
    assert_eq!((bench.refused("full"), bench.refused("shed")), (2, 0));
}

#[tokio::test]
async fn a_request_waits_for_its_place_if_it_may() {
    let bench = Bench::new().await;
    bench.put_in("slow", b"done".to_vec());
    bench.put_in("k", b"next".to_vec());
    bench.admits(1, 1, DEADLINE);
    let release = async {
        bench.memory.slow_began.notified().await;
        let begun = bench.begin(bench.draft("GET", "/bbb/k", "UNSIGNED-PAYLOAD"), None).await;
        until("one waits", || bench.admission.occupancy()[0].waiting == 1).await;
        // Who hangs up waits no longer.
        drop(begun);
        until("nobody waits", || bench.admission.occupancy()[0].waiting == 0).await;
        let next = bench.get("k");
        let release = async {
            until("one waits", || bench.admission.occupancy()[0].waiting == 1).await;
            bench.memory.release.notify_one();
        };
        tokio::join!(next, release).0
    };
    let (slow, next) = tokio::join!(bench.get("slow"), release);
    assert_eq!((slow.status, next.status), (200, 200));
    assert_eq!(bench.refused("full"), 0);
}

#[tokio::test]
async fn a_permit_is_held_until_the_body_has_gone_or_the_client_has() {
    let bench = Bench::new().await;
    bench.put_in("large", vec![7; LARGE]);
    let stream = bench.begin(bench.draft("GET", "/bbb/large", "UNSIGNED-PAYLOAD"), None).await;
    until("the request is admitted", || bench.readers() == 1).await;
    drop(stream);
    until("the permit comes back", || bench.readers() == 0).await;
    let upload = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
    let stream = bench.begin(upload, Some(1000)).await;
    until("the request is admitted", || bench.writers() == 1).await;
    drop(stream);
    until("the permit comes back", || bench.writers() == 0).await;
    assert_eq!(bench.get("large").await.body.len(), LARGE);
    until("the permit comes back", || bench.readers() == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_permit_over_http_1_and_2() {
    let millis = Duration::from_millis;
    let patience = Patience { blocked: millis(100), look: millis(10), ..Patience::USUAL };
    let bench = Bench::with(patience, Duration::from_secs(5)).await;
    bench.put_in("large", vec![7; LARGE]);
    let draft = bench.draft("GET", "/bbb/large", "UNSIGNED-PAYLOAD");
    let _stream = bench.begin(draft.clone(), None).await;
    until("the request is admitted", || bench.readers() == 1).await;
    until("the permit comes back", || bench.readers() == 0).await;
    assert!(bench.refused("slow") <= 1);

    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let before = bench.refused("slow");
    let mut draft = draft;
    signer().sign_header(&mut draft);
    let uri = format!("http://{}/bbb/large", bench.address);
    let mut request = hyper::Request::builder().uri(uri);
    for (name, value) in draft.headers.iter().filter(|(name, _)| name != "host") {
        request = request.header(name, value);
    }
    let body = http_body_util::Empty::<Bytes>::new();
    let answer = client.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    // Its window is full, and it opens it no further; the connection lives on.
    until("the body is taken back", || bench.refused("slow") > before).await;
    until("the permit comes back", || bench.readers() == 0).await;
    let rest = http_body_util::BodyExt::collect(answer.into_body());
    let rest = tokio::time::timeout(DEADLINE, rest).await.expect("the body ends in time");
    assert!(rest.is_err(), "a cut body is not whole");
    connection.abort();
}

#[tokio::test]
async fn a_client_that_opens_no_window_holds_nothing_for_long() {
    let millis = Duration::from_millis;
    let patience = Patience { blocked: millis(300), look: millis(10), ..Patience::USUAL };
    let bench = Bench::with(patience, Duration::from_secs(5)).await;
    bench.put_in("piece", vec![7; 1 << 20]);
    for window in [1, 65_535] {
        let stream = TcpStream::connect(bench.address).await.unwrap();
        let mut client =
            hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        client.initial_stream_window_size(window);
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut client, connection) = client.handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut draft = bench.draft("GET", "/bbb/piece", "UNSIGNED-PAYLOAD");
        signer().sign_header(&mut draft);
        let mut answers = Vec::new();
        for _ in 0..3 {
            let uri = format!("http://{}/bbb/piece", bench.address);
            let mut request = hyper::Request::builder().uri(uri);
            for (name, value) in draft.headers.iter().filter(|(name, _)| name != "host") {
                request = request.header(name, value);
            }
            let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            answers.push(answer);
        }
        assert_eq!(bench.readers(), 3, "what was not taken is still there");
        until("the permits come back", || bench.readers() == 0).await;
        let end = tokio::time::timeout(DEADLINE, connection).await;
        let _ = end.expect("the bytes go with their connection").unwrap();
    }
    assert!(bench.refused("slow") >= 2);
}

/// A body that never comes.
struct Never;

impl http_body::Body for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn strangers_are_refused_in_one_go_without_their_bodies_or_a_permit() {
    let bench = Bench::new().await;
    bench.admits(1, 1, DEADLINE);
    let _full = [bench.admission.read().await.unwrap(), bench.admission.write().await.unwrap()];
    let hash = sha256_hex(b"");
    let large = sha256_hex(b"x");
    for (method, path, payload) in [
        ("GET", "/bbb/k", "UNSIGNED-PAYLOAD"),
        ("PUT", "/bbb/k", "UNSIGNED-PAYLOAD"),
        ("PUT", "/bbb/k", &large),
        ("PUT", "/bbb/k", STREAM_UNSIGNED),
        ("PUT", "/bbb/k", STREAM_SIGNED),
        ("PUT", "/bbb/k", STREAM_SIGNED_TRAILER),
        ("DELETE", "/bbb/k", &hash),
        ("POST", "/bbb?delete", &large),
        ("POST", "/bbb/k?uploadId=1", &large),
    ] {
        let forger = Signer { secret: "guess".into(), ..signer() };
        let stranger = Signer { id: "AKNOBODY".into(), ..signer() };
        for signer in [Some(forger), Some(stranger), None] {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let mut draft = bench.draft(method, path, payload);
            if let Some((name, value)) =
                query.split_once('=').or((!query.is_empty()).then_some((query, "")))
            {
                draft = with_query(draft, name, value);
            }
            if payload.starts_with("STREAMING") {
                draft = with(draft, "x-amz-decoded-content-length", "5");
            }
            if payload.ends_with("TRAILER") {
                draft = with(draft, "x-amz-trailer", "x-amz-checksum-crc32");
            }
            if let Some(signer) = signer {
                signer.sign_header(&mut draft);
            }
            let query = draft.query_text();
            let mut request = http::Request::builder()
                .method(method)
                .uri(format!("{path}?{query}"))
                .header("content-length", "5")
                // So that what is refused is not thrown away politely.
                .header("expect", "100-continue");
            for (name, value) in &draft.headers {
                request = request.header(name, value);
            }
            let handled = bench.service.handle(request.body(Never).unwrap(), DEADLINE);
            let answer = handled.now_or_never();
            let answer = answer.unwrap_or_else(|| panic!("{method} {path} {payload} waits"));
            assert_eq!(answer.status(), 403, "{method} {path} {payload}");
        }
    }
    let [reads, writes] = bench.admission.occupancy();
    let untouched = Occupancy { size: 1, clients: 1, workers: 0, waiting: 0 };
    assert_eq!((reads, writes), (untouched, untouched));
}

#[tokio::test]
async fn addresses_have_a_rate_and_proxies_speak_for_others() {
    let bench = Bench::new().await;
    bench.put_in("k", b"x".to_vec());
    let slow = RateSettings {
        per_address: 0.01,
        per_address_burst: 2,
        addresses_max: 1000,
        ..RateSettings::default()
    };
    bench.rates(slow.clone());
    assert_eq!((bench.get("k").await.status, bench.get("k").await.status), (200, 200));
    let answer = bench.get("k").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"));
    let lines =
        |head: &str| head.split("retry-after: ").nth(1).map(|rest| rest[..3].trim().to_owned());
    let wait: u64 = lines(&answer.head).unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    let from = async |client: &str| {
        let draft = bench.draft("GET", "/bbb/k", "UNSIGNED-PAYLOAD");
        bench
            .signed(unsigned(with(draft, "x-forwarded-for", client), "x-forwarded-for"), b"")
            .await
            .status
    };
    assert_eq!(from("192.0.2.1").await, 503, "a stranger may say what it likes");
    let proxy = Network { address: "127.0.0.0".parse().unwrap(), bits: 8 };
    bench.rates(RateSettings { trusted_proxies: vec![proxy], ..slow });
    assert_eq!((from("192.0.2.1").await, from("192.0.2.1").await), (200, 200));
    assert_eq!((from("192.0.2.1").await, from("192.0.2.2").await), (503, 200));
    assert_eq!(bench.refused("address_rate"), 3);
    bench.rates(RateSettings::default());
    assert_eq!(bench.get("k").await.status, 200);
}

#[tokio::test]
async fn keys_have_a_rate_that_nobody_else_can_use_up() {
    let bench = Bench::new().await;
    bench.put_in("k", b"x".to_vec());
    bench.rates(RateSettings { per_key: 0.01, per_key_burst: 2, ..RateSettings::default() });
    for _ in 0..10 {
        let mut draft = bench.draft("GET", "/bbb/k", "UNSIGNED-PAYLOAD");
        Signer { secret: "guess".into(), ..signer() }.sign_header(&mut draft);
        assert_eq!(bench.send(&draft, b"").await.status, 403);
    }
    assert_eq!(bench.get("k").await.status, 200);
    let hour = Duration::from_secs(3600);
    let form = Form {
        signer: signer(),
        expires: hour,
        conditions: "",
        extra: &[("key", "in/a")],
        file: "meow",
    };
    assert_eq!(bench.post(&form).await.status, 204);
    assert_eq!(
        (bench.get("k").await.code(), bench.post(&form).await.code()),
        ("SlowDown".into(), "SlowDown".into())
    );
    let mut draft = bench.draft("GET", "/bbb/k", "UNSIGNED-PAYLOAD");
    Signer { id: "AKREAD".into(), ..signer() }.sign_header(&mut draft);
    assert_eq!(bench.send(&draft, b"").await.status, 200);
    assert_eq!(bench.refused("key_rate"), 2);
}

#[tokio::test]
async fn forms_are_admitted_when_they_are_signed_and_before_their_file() {
    let bench = Bench::new().await;
    let hour = Duration::from_secs(3600);
    let wish = Form {
        signer: signer(),
        expires: hour,
        conditions: "",
        extra: &[("key", "in/a")],
        file: "meow",
    };
    bench.admits(1, 1, Duration::ZERO);
    let full = bench.admission.write().await.unwrap();
    assert_slow_down(&bench.post(&wish).await, 1);
    let forger = Form { signer: Signer { secret: "guess".into(), ..signer() }, ..wish };
    assert_eq!(bench.post(&forger).await.code(), "SignatureDoesNotMatch");
    drop(full);
    let wish = Form {
        signer: signer(),
        expires: hour,
        conditions: "",
        extra: &[("key", "in/a")],
        file: "meow",
    };
    assert_eq!(bench.post(&wish).await.status, 204);
    until("the permit comes back", || bench.writers() == 0).await;
}

#[tokio::test]
async fn documents_take_a_bounded_room_and_give_it_back() {
    let bench = Bench::new().await;
    let draft = || {
        let draft = bench.draft("POST", "/bbb", &sha256_hex(&vec![b' '; XML_BODY_MAX]));
        with_query(draft, "delete", "")
    };
    let mut held = Vec::new();
    for n in 1..=6 {
        held.push(bench.begin(draft(), Some(XML_BODY_MAX)).await);
        until("the document is let in", || bench.writers() == n).await;
    }
    let mut last = bench.begin(draft(), Some(XML_BODY_MAX)).await;
    let answer = read_until(&mut last, |text| text.contains("</Error>")).await;
    assert_slow_down(&parse(answer.as_bytes()), 1);
    assert_eq!(bench.refused("busy"), 1);
    // Short ones have room still.
    let xml = b"<Delete><Object><Key>a</Key></Object></Delete>";
    let short = with_query(bench.draft("POST", "/bbb", &sha256_hex(xml)), "delete", "");
    let md5 = STANDARD.encode(<md5::Md5 as md5::Digest>::digest(xml));
    assert_eq!(bench.signed(with(short, "content-md5", md5), xml).await.status, 200);
    drop((held, last));
    until("the permits come back", || bench.writers() == 0).await;
    let again = bench.begin(draft(), Some(XML_BODY_MAX)).await;
    until("the document is let in", || bench.writers() == 1).await;
    drop(again);
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_why() {
    let bench = Bench::new().await;
    let answer = parse(&bench.service.turn_away());
    assert_slow_down(&answer, 1);
    assert!(answer.head.contains(&format!("\ncontent-length: {}\r", answer.body.len())));
    assert_eq!(bench.refused("connection"), 1);
}

#[tokio::test]
async fn a_head_has_a_bounded_length() {
    let bench = Bench::new().await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let start = b"GET /bbb/k HTTP/1.1\r\nhost: x\r\nx-a: ";
    let _ = stream.write_all(start).await;
    let _ = stream.write_all(&[b'a'; 100_000]).await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = end.expect("the connection ends in time");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
}
