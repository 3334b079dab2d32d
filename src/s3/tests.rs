//! The S3 side over a real socket: guard and s3s in front of objects in memory, driven by requests
//! written by hand, most of them wrong.

mod protection;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use s3s::S3;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::base::Budget;
use crate::base::Clock;
use crate::base::Timestamp;
use crate::engine::Admission;
use crate::engine::AdmissionSettings;
use crate::engine::BodyError;
use crate::engine::Refusals;
use crate::model::AccessKey;
use crate::model::Grant;
use crate::model::Grants;
use crate::model::access::Actions;
use crate::s3::access::Granted;
use crate::s3::auth::Keys;
use crate::s3::body_error::BodyFacts;
use crate::s3::body_error::body_error;
use crate::s3::connection::Patience;
use crate::s3::connection::serve_with;
use crate::s3::door::Door;
use crate::s3::door::FORM_HEADS_MAX;
use crate::s3::request_id::RequestId;
use crate::s3::server::S3Service;
use crate::s3::server::S3Settings;
use crate::s3::signer::Draft;
use crate::s3::signer::Signer;
use crate::s3::signer::amz_date;
use crate::s3::signer::encode;
use crate::s3::signer::sha256_hex;

const REGION: &str = "here-1";
const DEADLINE: Duration = Duration::from_secs(20);
const STREAM_UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const STREAM_SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const STREAM_SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";

type Objects = Arc<Mutex<BTreeMap<(String, String), Vec<u8>>>>;

/// Objects in memory, as little of S3 as the tests need.
#[derive(Clone, Default)]
struct Memory {
    objects: Objects,
    /// Lets a GET of `slow` go on.
    release: Arc<tokio::sync::Notify>,
    slow_began: Arc<tokio::sync::Notify>,
}

/// As the engine gives it: what is large comes bit by bit.
fn in_pieces(data: Vec<u8>) -> StreamingBlob {
    if data.len() <= 1 << 20 {
        return StreamingBlob::from(s3s::Body::from(data));
    }
    let data = bytes::Bytes::from(data);
    let pieces = (0..data.len()).step_by(1 << 20);
    let pieces = pieces.map(move |at| data.slice(at..data.len().min(at + (1 << 20))));
    StreamingBlob::wrap(futures_util::stream::iter(pieces.map(Ok::<_, std::io::Error>)))
}

fn body_failure(err: &BodyError) -> S3Error {
    let code = format!("Body{err:?}").split('(').next().unwrap_or_default().to_owned();
    let mut failure = S3Error::new(S3ErrorCode::Custom(code.into()));
    failure.set_status_code(http::StatusCode::BAD_REQUEST);
    failure
}

#[async_trait::async_trait]
impl S3 for Memory {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        assert!(req.extensions.get::<Granted>().is_some_and(|granted| !granted.create_only));
        assert!(req.extensions.get::<RequestId>().is_some());
        let facts = req.extensions.get::<BodyFacts>().cloned().unwrap();
        let input = req.input;
        assert_ne!(input.key, "panic", "asked for");
        let mut body = input.body.unwrap();
        let mut data = Vec::new();
        while let Some(bytes) = body.next().await {
            data.extend_from_slice(&bytes.map_err(|err| body_failure(&body_error(&*err)))?);
        }
        // What the guard lets through has the trailers that it promised.
        for name in &facts.trailers {
            let trailers = req.trailing_headers.as_ref().unwrap();
            assert_eq!(trailers.read(|headers| headers.contains_key(name)), Some(true));
        }
        if facts.decoded_length.is_some_and(|length| length != data.len() as u64) {
            return Err(S3Error::new(S3ErrorCode::IncompleteBody));
        }
        if let Some(value) = input.metadata.as_ref().and_then(|metadata| metadata.get("echo")) {
            data.extend_from_slice(value.as_bytes());
        }
        self.objects.lock().unwrap().insert((input.bucket, input.key), data);
        Ok(S3Response::new(PutObjectOutput::default()))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        if req.input.key == "slow" {
            self.slow_began.notify_one();
            self.release.notified().await;
        }
        let key = (req.input.bucket, req.input.key);
        let data = self.objects.lock().unwrap().get(&key).cloned();
        let data = data.ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchKey))?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(data.len() as i64),
            body: Some(in_pieces(data)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        _: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        Err(S3Error::new(S3ErrorCode::NoSuchKey))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        assert!(!req.input.delete.objects.is_empty());
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }
}

struct KeyRing(HashMap<String, AccessKey>);

impl Keys for KeyRing {
    fn key(&self, id: &str) -> Option<AccessKey> {
        self.0.get(id).cloned()
    }
}

struct Bench {
    address: SocketAddr,
    service: S3Service,
    memory: Memory,
    admission: Arc<Admission>,
    refusals: Arc<Refusals>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn code(&self) -> String {
        let text = self.text();
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or(String::new(), |(code, _)| code.to_owned())
    }
}

/// One moment for all: what is dated is signed, and both must name the same second.
fn now() -> Timestamp {
    static NOW: LazyLock<Timestamp> = LazyLock::new(|| Clock::system().now());
    *NOW
}

fn signer() -> Signer {
    signer_at(now())
}

fn signer_at(at: Timestamp) -> Signer {
    let date = amz_date(at);
    Signer {
        id: "AKFULL".into(),
        secret: "secret".into(),
        day: date[..8].into(),
        date,
        region: REGION.into(),
        service: "s3".into(),
    }
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(Patience::USUAL, Duration::from_secs(5)).await
    }

    async fn with(patience: Patience, grace: Duration) -> Bench {
        let key = |id: &str, preset: &str| {
            let list = vec![Grant {
                bucket: None,
                prefix: String::new(),
                actions: Actions::preset(preset).unwrap(),
            }];
            let grants = Grants { create_buckets: true, list };
            (
                id.to_owned(),
                AccessKey { id: id.into(), secret: "secret".into(), grants, declared: false },
            )
        };
        let keys = KeyRing(HashMap::from([key("AKFULL", "admin"), key("AKREAD", "read-only")]));
        let settings = S3Settings {
            region: REGION.into(),
            domain: Some("s3.test".into()),
            post_form_max: 1000,
            rate: crate::s3::RateSettings::default(),
        };
        let memory = Memory::default();
        let refusals = Arc::new(Refusals::default());
        let admission = Admission::new(AdmissionSettings::default(), Arc::clone(&refusals));
        let admission = Arc::new(admission);
        let door = Door::new(
            Arc::clone(&admission),
            Arc::clone(&refusals),
            Budget::new(64 << 20),
            &settings.rate,
        );
        let service = S3Service::assemble(
            {
                let memory = memory.clone();
                move |_: &S3Settings| memory.clone()
            },
            Arc::new(keys),
            door,
            Clock::system(),
            settings,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving =
            serve_with(listener, service.clone(), shutdown.clone(), move || grace, patience);
        let server = tokio::spawn(serving);
        Bench { address, service, memory, admission, refusals, shutdown, server }
    }

    /// A request to be signed: host, date and hash of the body are there.
    fn draft(&self, method: &str, path: &str, payload: &str) -> Draft {
        Draft {
            method: method.into(),
            path: path.into(),
            query: Vec::new(),
            headers: vec![
                ("host".into(), self.address.to_string()),
                ("x-amz-date".into(), amz_date(now())),
                ("x-amz-content-sha256".into(), payload.into()),
            ],
            unsigned: Vec::new(),
        }
    }

    async fn send(&self, draft: &Draft, body: &[u8]) -> Answer {
        self.send_raw(&head(draft, Some(body.len())), body).await
    }

    /// Sends one request on a connection of its own and reads to the end.
    async fn send_raw(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let exchange = async {
            stream.write_all(head.as_bytes()).await.unwrap();
            // A refused body may meet a closed connection.
            let _ = stream.write_all(body).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            parse(&answer)
        };
        tokio::time::timeout(DEADLINE, exchange).await.expect("an answer in time")
    }

    async fn signed(&self, mut draft: Draft, body: &[u8]) -> Answer {
        signer().sign_header(&mut draft);
        self.send(&draft, body).await
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.memory.objects.lock().unwrap().get(&("bbb".into(), key.into())).cloned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn head(draft: &Draft, length: Option<usize>) -> String {
    let query = draft.query_text();
    let mark = if query.is_empty() { "" } else { "?" };
    let mut head = format!("{} {}{mark}{query} HTTP/1.1\r\n", draft.method, draft.path);
    for (name, value) in &draft.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length.filter(|_| draft.method != "GET" && draft.method != "HEAD") {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    head
}

fn parse(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let (head, _) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head[9..12].parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: answer[head.len() + 4..].to_vec() }
}

fn with(mut draft: Draft, name: &str, value: impl Into<String>) -> Draft {
    draft.headers.retain(|(other, _)| other != name);
    draft.headers.push((name.into(), value.into()));
    draft
}

fn with_query(mut draft: Draft, name: &str, value: &str) -> Draft {
    draft.query.push((name.into(), value.into()));
    draft
}

fn without(mut draft: Draft, name: &str) -> Draft {
    draft.headers.retain(|(other, _)| other != name);
    draft
}

fn unsigned(mut draft: Draft, name: &'static str) -> Draft {
    draft.unsigned.push(name);
    draft
}

#[tokio::test]
async fn a_proper_request_passes_and_its_body_arrives() {
    let bench = Bench::new().await;
    let body = b"hello";
    let answer = bench.signed(bench.draft("PUT", "/bbb/k", &sha256_hex(body)), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.head.contains("x-amz-request-id: "));
    assert!(!answer.head.contains("\nserver:"));
    assert_eq!(bench.object("k").unwrap(), body);
    let answer = bench.signed(bench.draft("GET", "/bbb/k", "UNSIGNED-PAYLOAD"), b"").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &body[..]));
}

#[tokio::test]
async fn wrong_signatures_and_times_are_refused() {
    let bench = Bench::new().await;
    let put = || bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
    let hour = Duration::from_secs(3600);
    let dated = |at: Timestamp| with(put(), "x-amz-date", amz_date(at));
    let stranger = Signer { id: "AKNOBODY".into(), ..signer() };
    let forger = Signer { secret: "guess".into(), ..signer() };
    let elsewhere = Signer { region: "us-east-1".into(), ..signer() };
    let sts = Signer { service: "sts".into(), ..signer() };
    let other_day = Signer { day: "20200101".into(), ..signer() };
    let late = signer_at(now().minus(hour));
    let early = signer_at(now().plus(hour));
    for (what, signer, draft, status, code) in [
        ("unknown key", stranger, put(), 403, "InvalidAccessKeyId"),
        ("wrong secret", forger, put(), 403, "SignatureDoesNotMatch"),
        ("region", elsewhere, put(), 400, "AuthorizationHeaderMalformed"),
        ("service", sts, put(), 400, "AuthorizationHeaderMalformed"),
        ("scope's day", other_day, put(), 400, "AuthorizationHeaderMalformed"),
        ("late", late, dated(now().minus(hour)), 403, "RequestTimeTooSkewed"),
        ("early", early, dated(now().plus(hour)), 403, "RequestTimeTooSkewed"),
        ("host", signer(), unsigned(put(), "host"), 403, "AccessDenied"),
        (
            "unsigned metadata",
            signer(),
            unsigned(with(put(), "x-amz-meta-a", "b"), "x-amz-meta-a"),
            403,
            "AccessDenied",
        ),
        (
            "unsigned Content-MD5",
            signer(),
            unsigned(with(put(), "content-md5", "XUFAKrxLKna5cZ2REBfFkg=="), "content-md5"),
            403,
            "AccessDenied",
        ),
        ("no date", signer(), without(put(), "x-amz-date"), 403, "AccessDenied"),
        ("no hash", signer(), without(put(), "x-amz-content-sha256"), 400, "InvalidRequest"),
        ("odd hash", signer(), with(put(), "x-amz-content-sha256", "abc"), 400, "InvalidArgument"),
        (
            "ECDSA",
            signer(),
            with(put(), "x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"),
            501,
            "NotImplemented",
        ),
        ("Content-MD5", signer(), with(put(), "content-md5", "abc"), 400, "InvalidDigest"),
    ] {
        let mut draft = draft;
        signer.sign_header(&mut draft);
        let answer = bench.send(&draft, b"hello").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}");
        let text = answer.text();
        assert!(text.contains("<Resource>/bbb/k</Resource><RequestId>"), "{what}: {text}");
        assert!(text.contains("<Message>"), "{what}: {text}");
    }
    // A header that is named as signed and is not there.
    let mut draft = with(put(), "x-amz-meta-a", "b");
    signer().sign_header(&mut draft);
    let answer = bench.send(&without(draft, "x-amz-meta-a"), b"hello").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
    assert_eq!(bench.object("k"), None);
}

#[tokio::test]
async fn odd_headers_pass_only_under_a_signature_that_holds() {
    let bench = Bench::new().await;
    bench.signed(bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD"), b"hello").await;
    bench.signed(bench.draft("PUT", "/bbb/a!(b)", "UNSIGNED-PAYLOAD"), b"raw").await;
    let get = |path: &str| bench.draft("GET", path, "UNSIGNED-PAYLOAD");
    let odd = |draft: Draft| with(draft, "if-modified-since", "yesterday");
    for path in ["/bbb/k", "/bbb/a!(b)"] {
        let answer = bench.signed(odd(get(path)), b"").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let answer = bench.signed(with_query(odd(get("/bbb/k")), "x-id", "a b+c/d"), b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let free = unsigned(odd(get("/bbb/k")), "if-modified-since");
    assert_eq!(bench.signed(free, b"").await.status, 200);
    let ranges = with(get("/bbb/k"), "range", "bytes=0-0,2-3");
    assert_eq!(bench.signed(ranges, b"").await.status, 200);
    // Blanks are signed as one, and the values of one name together.
    let mut blanks = with(get("/bbb/k"), "if-none-match", "\"a\", \"b");
    blanks.headers.push(("if-match".into(), "*".into()));
    blanks.headers.push(("if-match".into(), "\"c\"".into()));
    signer().sign_header(&mut blanks);
    let answer = bench.send(&with(blanks, "if-none-match", "\"a\",   \"b"), b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    // Nothing of it helps a signature that does not hold.
    let forger = Signer { secret: "guess".into(), ..signer() };
    let stranger = Signer { id: "AKNOBODY".into(), ..signer() };
    for (signer, code) in [(forger, "SignatureDoesNotMatch"), (stranger, "InvalidAccessKeyId")] {
        let mut draft = odd(get("/bbb/k"));
        signer.sign_header(&mut draft);
        assert_eq!(bench.send(&draft, b"").await.code(), code);
    }
    let mut changed = odd(get("/bbb/k"));
    signer().sign_header(&mut changed);
    for changed in [
        with(changed.clone(), "if-modified-since", "tomorrow"),
        without(changed.clone(), "if-modified-since"),
        Draft { path: "/bbb/a!(b)".into(), ..changed.clone() },
        Draft { method: "PUT".into(), ..changed.clone() },
        with_query(changed.clone(), "x-id", "1"),
        with(changed.clone(), "x-amz-content-sha256", sha256_hex(b"")),
    ] {
        let answer = bench.send(&changed, b"").await;
        assert_eq!(answer.code(), "SignatureDoesNotMatch", "{}", answer.text());
    }
    assert_eq!(bench.object("a!(b)").unwrap(), b"raw");

    // What cannot be signed anew is refused.
    let put = |payload| with(bench.draft("PUT", "/bbb/k", payload), "expires", "0");
    let mut chunks = with(put(STREAM_SIGNED), "x-amz-decoded-content-length", "0");
    signer().sign_header(&mut chunks);
    assert_eq!(bench.send(&chunks, b"").await.code(), "InvalidArgument");
    let mut presigned = put("UNSIGNED-PAYLOAD");
    presigned.headers.retain(|(name, _)| name == "host" || name == "expires");
    signer().presign(&mut presigned, "60");
    assert_eq!(bench.send(&presigned, b"").await.code(), "InvalidArgument");
    assert_eq!(bench.object("k").unwrap(), b"hello");
    let trailing = with(put(STREAM_UNSIGNED), "x-amz-decoded-content-length", "2");
    let trailing = with(trailing, "x-amz-trailer", "x-amz-checksum-crc32");
    let body = b"2\r\nhi\r\n0\r\nx-amz-checksum-crc32:2Tsq3w==\r\n\r\n";
    assert_eq!(bench.signed(trailing, body).await.status, 200);
    assert_eq!(bench.object("k").unwrap(), b"hi");
}

#[tokio::test]
async fn the_list_of_signed_headers_is_exact() {
    let bench = Bench::new().await;
    let mut draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
    signer().sign_header(&mut draft);
    for (from, to) in [
        ("SignedHeaders=", "SignedHeaders=;"),
        ("SignedHeaders=", "SignedHeaders=accept;"),
        ("SignedHeaders=host", "SignedHeaders=Host;host"),
        (", Signature", "; , Signature"),
    ] {
        let mut changed = draft.clone();
        for (name, value) in &mut changed.headers {
            if name == "authorization" {
                *value = value.replace(from, to);
            }
        }
        assert_eq!(bench.send(&changed, b"x").await.code(), "SignatureDoesNotMatch", "{to}");
    }
    assert_eq!(bench.object("k"), None);
    assert_eq!(bench.send(&draft, b"x").await.status, 200);
}

#[tokio::test]
async fn other_mechanisms_and_none_are_refused() {
    let bench = Bench::new().await;
    let host = bench.address;
    for (what, request, status, code) in [
        ("anonymous", "GET /bbb/k HTTP/1.1\r\n", 403, "AccessDenied"),
        ("anonymous list", "GET / HTTP/1.1\r\n", 403, "AccessDenied"),
        (
            "SigV2 header",
            "GET /bbb/k HTTP/1.1\r\nauthorization: AWS AKFULL:c2ln\r\n",
            400,
            "InvalidRequest",
        ),
        (
            "SigV2 query",
            "GET /bbb/k?AWSAccessKeyId=AKFULL&Signature=x&Expires=9999999999 HTTP/1.1\r\n",
            400,
            "InvalidRequest",
        ),
        ("bearer", "GET /bbb/k HTTP/1.1\r\nauthorization: Bearer x\r\n", 400, "InvalidArgument"),
        (
            "two authorizations",
            "GET /bbb/k HTTP/1.1\r\nauthorization: AWS4-HMAC-SHA256 a\r\nauthorization: b\r\n",
            400,
            "InvalidArgument",
        ),
        (
            "half a presigned URL",
            "GET /bbb/k?X-Amz-Signature=1 HTTP/1.1\r\n",
            400,
            "AuthorizationQueryParametersError",
        ),
        (
            "preflight",
            "OPTIONS /bbb/k HTTP/1.1\r\norigin: http://x\r\naccess-control-request-method: PUT\r\n",
            403,
            "AccessForbidden",
        ),
    ] {
        let request = format!("{request}host: {host}\r\nconnection: close\r\n\r\n");
        let answer = bench.send_raw(&request, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}");
    }
    let answer = bench.send_raw("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidRequest"));
}

#[tokio::test]
async fn presigned_urls_live_as_long_as_they_say_and_at_most_a_week() {
    let bench = Bench::new().await;
    let put = || Draft {
        method: "PUT".into(),
        path: "/bbb/k".into(),
        headers: vec![("host".into(), bench.address.to_string())],
        ..Draft::default()
    };
    let old = |seconds| signer_at(now().minus(Duration::from_secs(seconds)));
    let new = |seconds| signer_at(now().plus(Duration::from_secs(seconds)));
    let query_error = "AuthorizationQueryParametersError";
    let elsewhere = Signer { region: "us-east-1".into(), ..signer() };
    for (what, signer, expires, status, code) in [
        ("proper", signer(), "60", 200, ""),
        ("a week", signer(), "604800", 200, ""),
        ("a little early", new(600), "60", 200, ""),
        ("eight days", signer(), "691200", 400, query_error),
        ("nothing", signer(), "0", 400, query_error),
        ("negative", signer(), "-5", 400, query_error),
        ("no number", signer(), "soon", 400, query_error),
        ("overflow", signer(), "99999999999999999999", 400, query_error),
        ("expired", old(120), "60", 403, "AccessDenied"),
        ("long expired", old(604_900), "604800", 403, "AccessDenied"),
        ("far too early", new(1800), "60", 403, "AccessDenied"),
        ("another region", elsewhere, "60", 400, query_error),
    ] {
        let mut draft = put();
        signer.presign(&mut draft, expires);
        let answer = bench.send(&draft, b"hello").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}");
    }
    let mut twice = put();
    signer().presign(&mut twice, "60");
    let twice = with_query(twice, "X-Amz-Expires", "600");
    assert_eq!(bench.send(&twice, b"").await.code(), "InvalidArgument");
    let mut added = put();
    signer().presign(&mut added, "60");
    let added = with(added, "x-amz-meta-a", "b");
    assert_eq!(bench.send(&added, b"").await.code(), "AccessDenied");
    // A hash makes it stricter and needs no signature.
    let mut hashed = put();
    signer().presign(&mut hashed, "60");
    let right = with(hashed.clone(), "x-amz-content-sha256", sha256_hex(b"hello"));
    assert_eq!(bench.send(&right, b"hello").await.status, 200);
    let wrong = with(hashed, "x-amz-content-sha256", sha256_hex(b"other"));
    assert_eq!(bench.send(&wrong, b"hello").await.code(), "BodySha256Mismatch");
    // A signer may have moved a header into the query.
    let mut moved = with_query(put(), "x-amz-meta-echo", "!");
    signer().presign(&mut moved, "60");
    assert_eq!(bench.send(&moved, b"hello").await.status, 200);
    assert_eq!(bench.object("k").unwrap(), b"hello!");
    let mut moved = with_query(put(), "x-amz-acl", "public-read");
    signer().presign(&mut moved, "60");
    assert_eq!(bench.send(&moved, b"hello").await.code(), "NotImplemented");
}

#[tokio::test]
async fn bodies_are_what_was_announced() {
    let bench = Bench::new().await;
    let put = |payload: &str| bench.draft("PUT", "/bbb/k", payload);
    let answer = bench.signed(put(&sha256_hex(b"other")), b"hello").await;
    assert_eq!(answer.code(), "BodySha256Mismatch");
    let mut draft = put("UNSIGNED-PAYLOAD");
    signer().sign_header(&mut draft);
    let chunked = with(draft, "transfer-encoding", "chunked");
    let answer = bench.send_raw(&head(&chunked, None), b"5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (411, "MissingContentLength"));
    let declared = with(put("UNSIGNED-PAYLOAD"), "x-amz-decoded-content-length", "9");
    assert_eq!(bench.signed(declared, b"hello").await.code(), "InvalidArgument");
    let framed = with(put("UNSIGNED-PAYLOAD"), "content-encoding", "aws-chunked");
    assert_eq!(bench.signed(framed, b"hello").await.code(), "InvalidRequest");
    let huge = head(
        &{
            let mut draft = put("UNSIGNED-PAYLOAD");
            signer().sign_header(&mut draft);
            draft
        },
        Some(6 << 30),
    );
    assert_eq!(bench.send_raw(&huge, b"").await.code(), "EntityTooLarge");
    assert_eq!(bench.object("k"), None);
}

#[tokio::test]
async fn unsigned_chunks_are_held_against_their_announcement() {
    let bench = Bench::new().await;
    let crc = "x-amz-checksum-crc32:NhCmhg==\r\n";
    for (what, declared, body, code) in [
        ("proper", "5", format!("5\r\nhello\r\n0\r\n{crc}\r\n"), ""),
        ("two chunks", "5", format!("2\r\nhe\r\n3\r\nllo\r\n0\r\n{crc}\r\n"), ""),
        ("no terminal chunk", "5", "5\r\nhello\r\n".into(), "BodyTooShort"),
        ("no trailer", "5", "5\r\nhello\r\n0\r\n\r\n".into(), "BodyTrailer"),
        ("another trailer", "0", "0\r\nx-amz-checksum-sha1:AA==\r\n\r\n".into(), "BodyTrailer"),
        ("too few bytes", "6", format!("5\r\nhello\r\n0\r\n{crc}\r\n"), "BodyTooShort"),
        ("too many bytes", "4", format!("5\r\nhello\r\n0\r\n{crc}\r\n"), "BodyTooLong"),
        ("no framing", "5", "hello".into(), "BodyTooShort"),
        ("wrong framing", "5", "5\r\nhelloX0\r\n\r\n".into(), "BodyMalformed"),
        ("a header that ends oddly", "5", "5;x\r\nhello\r\n0\r\n\r\n".into(), "BodyMalformed"),
        ("no length", "", format!("5\r\nhello\r\n0\r\n{crc}\r\n"), "MissingContentLength"),
        ("odd length", "5x", format!("5\r\nhello\r\n0\r\n{crc}\r\n"), "InvalidArgument"),
    ] {
        bench.memory.objects.lock().unwrap().clear();
        let draft = bench.draft("PUT", "/bbb/k", STREAM_UNSIGNED);
        let mut draft = with(draft, "x-amz-trailer", "x-amz-checksum-crc32");
        if !declared.is_empty() {
            draft = with(draft, "x-amz-decoded-content-length", declared);
        }
        let answer = bench.signed(draft, body.as_bytes()).await;
        assert_eq!(answer.code(), code, "{what}: {}", answer.text());
        let stored = code.is_empty().then(|| b"hello".to_vec());
        assert_eq!(bench.object("k"), stored, "{what}");
    }
    let draft = with(
        with(bench.draft("PUT", "/bbb/k", STREAM_UNSIGNED), "x-amz-trailer", "x-amz-meta-a"),
        "x-amz-decoded-content-length",
        "0",
    );
    assert_eq!(bench.signed(draft, b"0\r\n\r\n").await.code(), "InvalidRequest");
}

#[tokio::test]
async fn a_large_unsigned_chunk_arrives_whole() {
    let bench = Bench::new().await;
    let data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    let mut body = format!("{:x}\r\n", data.len()).into_bytes();
    body.extend_from_slice(&data);
    body.extend_from_slice(b"\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n");
    let draft = with(
        with(
            bench.draft("PUT", "/bbb/k", STREAM_UNSIGNED),
            "x-amz-trailer",
            "x-amz-checksum-crc32",
        ),
        "x-amz-decoded-content-length",
        data.len().to_string(),
    );
    let answer = bench.signed(draft, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(bench.object("k").unwrap() == data);
}

#[tokio::test]
async fn signed_chunks_are_checked_each() {
    let bench = Bench::new().await;
    let signer = signer();
    let pieces: [&[u8]; 2] = [b"hello ", b"world"];
    let draft = |payload: &str, declared: &str| {
        let draft = bench.draft("PUT", "/bbb/k", payload);
        let draft = with(draft, "x-amz-date", signer.date.clone());
        with(draft, "x-amz-decoded-content-length", declared)
    };
    let mut plain = draft(STREAM_SIGNED, "11");
    let seed = signer.sign_header(&mut plain);
    let (body, _) = signer.signed_chunks(&seed, &pieces);
    let whole = [&body[..], b"\r\n"].concat();
    let answer = bench.send(&plain, &whole).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bench.object("k").unwrap(), b"hello world");

    bench.memory.objects.lock().unwrap().clear();
    let changed = String::from_utf8(whole.clone()).unwrap().replace("world", "w0rld");
    assert_eq!(bench.send(&plain, changed.as_bytes()).await.code(), "BodyChunkSignature");
    let cut = &whole[..whole.len() - 90];
    assert_eq!(bench.send(&plain, cut).await.code(), "BodyTooShort");
    let large = format!("{:x};chunk-signature={}\r\n", 17 << 20, "0".repeat(64));
    let mut too_large = draft(STREAM_SIGNED, &(17u64 << 20).to_string());
    signer.sign_header(&mut too_large);
    assert_eq!(bench.send(&too_large, large.as_bytes()).await.code(), "BodyMalformed");

    let trailer = with(draft(STREAM_SIGNED_TRAILER, "11"), "x-amz-trailer", "x-amz-checksum-crc32");
    let mut trailer = trailer;
    let seed = signer.sign_header(&mut trailer);
    let (body, last) = signer.signed_chunks(&seed, &pieces);
    let signature = signer.sign_trailer(&last, "x-amz-checksum-crc32:DUoRhQ==\n");
    let tail = |signature: &str| {
        format!("x-amz-checksum-crc32:DUoRhQ==\r\nx-amz-trailer-signature:{signature}\r\n\r\n")
    };
    let wrong = [&body[..], tail(&"0".repeat(64)).as_bytes()].concat();
    assert_eq!(bench.send(&trailer, &wrong).await.code(), "BodyChunkSignature");
    let bare = [&body[..], b"x-amz-checksum-crc32:DUoRhQ==\r\n\r\n"].concat();
    assert_eq!(bench.send(&trailer, &bare).await.code(), "BodyMalformed");
    assert_eq!(bench.object("k"), None);
    let right = [&body[..], tail(&signature).as_bytes()].concat();
    let answer = bench.send(&trailer, &right).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bench.object("k").unwrap(), b"hello world");
}

#[tokio::test]
async fn what_is_not_supported_is_never_taken_for_something_else() {
    let bench = Bench::new().await;
    let plain = |method: &str, path: &str| bench.draft(method, path, "UNSIGNED-PAYLOAD");
    for (draft, status, code) in [
        (with_query(plain("PUT", "/bbb/k"), "foo", ""), 501, "NotImplemented"),
        (with_query(plain("PUT", "/bbb/k"), "acl", ""), 501, "NotImplemented"),
        (with_query(plain("PUT", "/bbb"), "versioning", ""), 501, "NotImplemented"),
        (with_query(plain("DELETE", "/bbb"), "policy", ""), 501, "NotImplemented"),
        (with_query(plain("PUT", "/bbb/k"), "uploadId", "1"), 400, "InvalidArgument"),
        (with_query(plain("GET", "/bbb/k"), "versionId", "7"), 404, "NoSuchVersion"),
        (with(plain("PUT", "/bbb/k"), "x-amz-acl", "public-read"), 501, "NotImplemented"),
        (
            with(plain("PUT", "/bbb/k"), "x-amz-server-side-encryption", "AES256"),
            501,
            "NotImplemented",
        ),
        (plain("PATCH", "/bbb/k"), 405, "MethodNotAllowed"),
        (plain("GET", "/B_b/k"), 400, "InvalidBucketName"),
        (plain("GET", &format!("/bbb/{}", "k".repeat(1025))), 400, "KeyTooLongError"),
        (plain("GET", "/bbb/%00"), 400, "InvalidURI"),
    ] {
        let what = format!("{} {}?{}", draft.method, draft.path, draft.query_text());
        let answer = bench.signed(draft, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}");
    }
    assert!(bench.memory.objects.lock().unwrap().is_empty());
    let mut reader = plain("PUT", "/bbb/k");
    Signer { id: "AKREAD".into(), ..signer() }.sign_header(&mut reader);
    assert_eq!(bench.send(&reader, b"").await.code(), "AccessDenied");
}

#[tokio::test]
async fn keys_keep_every_byte_on_their_way() {
    let bench = Bench::new().await;
    for (path, key) in [
        ("/bbb/a//b", "a//b"),
        ("/bbb//a/", "/a/"),
        ("/bbb/./x/../y", "./x/../y"),
        ("/bbb/a%2Bb%20c", "a+b c"),
        ("/bbb/%C3%A9", "é"),
        ("/bbb/%3Fa%23", "?a#"),
    ] {
        let answer = bench.signed(bench.draft("PUT", path, "UNSIGNED-PAYLOAD"), b"x").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(bench.object(key).is_some(), "{path}");
    }
    assert_eq!(bench.memory.objects.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn a_domain_adds_a_style_and_takes_none_away() {
    let bench = Bench::new().await;
    for (host, path, key) in [
        ("bbb.s3.test", "/v", "v"),
        ("BBB.S3.test:9000", "/w/x", "w/x"),
        ("s3.test", "/bbb/p", "p"),
        ("localhost", "/bbb/l", "l"),
        ("other.example", "/bbb/o", "o"),
    ] {
        let draft = with(bench.draft("PUT", path, "UNSIGNED-PAYLOAD"), "host", host);
        let answer = bench.signed(draft, b"x").await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        assert!(bench.object(key).is_some(), "{host}");
    }
}

#[tokio::test]
async fn a_head_that_fails_has_no_body() {
    let bench = Bench::new().await;
    let answer = bench.signed(bench.draft("HEAD", "/bbb/none", "UNSIGNED-PAYLOAD"), b"").await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    assert!(answer.head.contains("x-amz-request-id: "));
    assert!(!answer.head.contains("content-type"));
    let anonymous = format!("HEAD /bbb/k HTTP/1.1\r\nhost: {}\r\n", bench.address);
    let answer = bench.send_raw(&format!("{anonymous}connection: close\r\n\r\n"), b"").await;
    assert_eq!((answer.status, answer.body.len()), (403, 0));
}

#[tokio::test]
async fn a_panic_costs_its_request_only() {
    let bench = Bench::new().await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    for (path, status) in [("/bbb/panic", "500"), ("/bbb/fine", "200")] {
        let mut draft = bench.draft("PUT", path, "UNSIGNED-PAYLOAD");
        signer().sign_header(&mut draft);
        let head = head(&draft, Some(0)).replace("connection: close\r\n", "");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        assert_eq!(&answer[9..12], status);
        assert_eq!(answer.contains("InternalError"), status == "500");
    }
}

/// Reads until `enough` says so; fails loudly otherwise.
async fn read_until(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut answer = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            answer.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&answer).into_owned();
            if enough(&text) {
                return text;
            }
            assert!(count > 0, "the connection ended: {text:?}");
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("an answer in time")
}

#[tokio::test]
async fn a_refused_request_is_not_asked_for_its_body() {
    let bench = Bench::new().await;
    for (secret, path, answer_begins) in [
        ("secret", "/bbb/k", "HTTP/1.1 100"),
        ("guess", "/bbb/k", "HTTP/1.1 403"),
        ("secret", "/bbb/k?foo=", "HTTP/1.1 501"),
    ] {
        let mut draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
        Signer { secret: secret.into(), ..signer() }.sign_header(&mut draft);
        let head = head(&draft, Some(5))
            .replace("/bbb/k ", &format!("{path} "))
            .replace("connection: close", "expect: 100-continue");
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        assert!(answer.starts_with(answer_begins), "{answer}");
        if answer_begins.ends_with("100") {
            stream.write_all(b"hello").await.unwrap();
            let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_answer_in_place_of_a_continue_ends_the_connection() {
    let bench = Bench::new().await;
    for (secret, length, answer_begins) in
        [("secret", 0, "HTTP/1.1 200"), ("guess", 5, "HTTP/1.1 403")]
    {
        let mut draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
        Signer { secret: secret.into(), ..signer() }.sign_header(&mut draft);
        let head = head(&draft, Some(length)).replace("connection: close", "expect: 100-continue");
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        assert!(answer.starts_with(answer_begins), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn xml_bodies_have_a_largest_size() {
    let bench = Bench::new().await;
    let post = || with_query(bench.draft("POST", "/bbb", "UNSIGNED-PAYLOAD"), "delete", "");
    let xml = "<Delete><Object><Key>a</Key></Object></Delete>";
    let answer = bench.signed(post(), xml.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let wrong = with(post(), "x-amz-content-sha256", sha256_hex(b"other"));
    assert_eq!(bench.signed(wrong, xml.as_bytes()).await.code(), "XAmzContentSHA256Mismatch");
    let wrong = with(post(), "content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(bench.signed(wrong, xml.as_bytes()).await.code(), "BadDigest");
    let right = with(post(), "x-amz-content-sha256", sha256_hex(xml.as_bytes()));
    assert_eq!(bench.signed(right, xml.as_bytes()).await.status, 200);
    let mut endless = post();
    signer().sign_header(&mut endless);
    let endless = head(&with(endless, "transfer-encoding", "chunked"), None);
    assert_eq!(bench.send_raw(&endless, b"1\r\n \r\n").await.code(), "MissingContentLength");
    let mut broken = post();
    signer().sign_header(&mut broken);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream.write_all(head(&broken, Some(500)).as_bytes()).await.unwrap();
    stream.write_all(xml.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = end.expect("the connection ends in time");
    assert!(!String::from_utf8_lossy(&answer).contains("InternalError"));
    let large = vec![b' '; crate::base::limits::XML_BODY_MAX + 1];
    assert_eq!(bench.signed(post(), &large).await.code(), "MaxMessageLengthExceeded");
}

/// A form's body, and the fields in it.
fn form(fields: &[(&str, &str)], file: &str) -> String {
    let mut form = String::new();
    for (name, value) in fields {
        form.push_str(&format!(
            "--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        ));
    }
    form.push_str(
        "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\cat.png\"\r\n\
         Content-Type: image/png\r\n\r\n",
    );
    form.push_str(file);
    form.push_str("\r\n--xx--\r\n");
    form
}

struct Form<'a> {
    signer: Signer,
    expires: Duration,
    conditions: &'a str,
    extra: &'a [(&'a str, &'a str)],
    file: &'a str,
}

impl Bench {
    async fn post(&self, wish: &Form<'_>) -> Answer {
        let expires = now().plus(wish.expires).seconds();
        let expires = time::OffsetDateTime::from_unix_timestamp(expires).unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        let expires = expires.format(format).unwrap();
        let credential = format!("{}/{}", wish.signer.id, wish.signer.scope());
        let policy = STANDARD.encode(format!(
            "{{\"expiration\":\"{expires}\",\"conditions\":[{{\"bucket\":\"bbb\"}},\
             [\"starts-with\",\"$key\",\"in/\"],{{\"x-amz-credential\":\"{credential}\"}},\
             {{\"x-amz-algorithm\":\"AWS4-HMAC-SHA256\"}},{{\"x-amz-date\":\"{}\"}}{}]}}",
            wish.signer.date, wish.conditions
        ));
        let signature = wish.signer.sign_text(&policy);
        let mut fields = vec![
            ("x-amz-credential", credential.as_str()),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Date", wish.signer.date.as_str()),
            ("Policy", policy.as_str()),
            ("X-Amz-Signature", signature.as_str()),
        ];
        fields.extend(wish.extra);
        self.post_fields(&fields, wish.file).await
    }

    async fn post_fields(&self, fields: &[(&str, &str)], file: &str) -> Answer {
        let body = form(fields, file);
        let head = format!(
            "POST /bbb HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=xx\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        self.send_raw(&head, body.as_bytes()).await
    }
}

#[tokio::test]
async fn a_form_does_what_its_policy_allows() {
    let bench = Bench::new().await;
    let key: &[(&str, &str)] = &[("key", "in/${filename}")];
    let hour = Duration::from_secs(3600);
    let proper =
        || Form { signer: signer(), expires: hour, conditions: "", extra: key, file: "meow" };
    let answer = bench.post(&proper()).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(bench.object("in/cat.png").unwrap(), b"meow");
    // A form is made long before it is sent.
    let old = Form { signer: signer_at(now().minus(hour * 20)), ..proper() };
    assert_eq!(bench.post(&old).await.status, 204);

    let forger = Signer { secret: "guess".into(), ..signer() };
    let stranger = Signer { id: "AKNOBODY".into(), ..signer() };
    let elsewhere = Signer { region: "us-east-1".into(), ..signer() };
    let reader = Signer { id: "AKREAD".into(), ..signer() };
    let length = ",[\"content-length-range\",1,3]";
    let acl = ",{\"acl\":\"public-read\"}";
    for (what, wish, status, code) in [
        ("secret", Form { signer: forger, ..proper() }, 403, "SignatureDoesNotMatch"),
        ("key id", Form { signer: stranger, ..proper() }, 403, "InvalidAccessKeyId"),
        ("region", Form { signer: elsewhere, ..proper() }, 400, "InvalidArgument"),
        ("grants", Form { signer: reader, ..proper() }, 403, "AccessDenied"),
        ("expired", Form { expires: Duration::ZERO, ..proper() }, 403, "AccessDenied"),
        ("length", Form { conditions: length, ..proper() }, 400, "EntityTooLarge"),
        ("another key", Form { extra: &[("key", "out/a")], ..proper() }, 403, "AccessDenied"),
        ("no key", Form { extra: &[], ..proper() }, 400, "InvalidArgument"),
        (
            "a field outside the policy",
            Form { extra: &[("key", "in/a"), ("x-amz-meta-a", "b")], ..proper() },
            403,
            "AccessDenied",
        ),
        (
            "a public object",
            Form { conditions: acl, extra: &[("key", "in/a"), ("acl", "public-read")], ..proper() },
            501,
            "NotImplemented",
        ),
        (
            "a field twice",
            Form { extra: &[("key", "in/a"), ("Key", "in/b")], ..proper() },
            400,
            "MalformedPOSTRequest",
        ),
        ("file", Form { file: &"x".repeat(1001), ..proper() }, 400, "EntityTooLarge"),
    ] {
        let answer = bench.post(&wish).await;
        let found = (answer.status, answer.code());
        assert_eq!((found.0, found.1.as_str()), (status, code), "{what}: {}", answer.text());
    }
    let answer = bench.post_fields(&[("key", "in/a")], "meow").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    let v2 =
        [("key", "in/a"), ("AWSAccessKeyId", "AKFULL"), ("policy", "e30="), ("signature", "x")];
    assert_eq!(bench.post_fields(&v2, "meow").await.code(), "InvalidRequest");
    assert_eq!(bench.memory.objects.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_form_is_nothing_else_in_disguise() {
    let bench = Bench::new().await;
    for (path, status, code) in
        [("/bbb?delete", 501, "NotImplemented"), ("/bbb/k", 405, "MethodNotAllowed")]
    {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: Multipart/Form-Data; boundary=xx\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        let answer = bench.send_raw(&head, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    // A value that another reader of forms would take for the next part.
    let part = "--xx\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nin/b";
    for value in [part.to_owned(), format!("v\n{part}")] {
        let wish = Form {
            signer: signer(),
            expires: Duration::from_secs(3600),
            conditions: ",[\"starts-with\",\"$x-amz-meta-a\",\"\"]",
            extra: &[("key", "in/a"), ("x-amz-meta-a", &value)],
            file: "meow",
        };
        let answer = bench.post(&wish).await;
        assert_eq!(answer.code(), "MalformedPOSTRequest", "{value:?}: {}", answer.text());
    }
    assert!(bench.memory.objects.lock().unwrap().is_empty());
    let draft = bench.draft("POST", "/bbb", "UNSIGNED-PAYLOAD");
    let draft = with(draft, "content-type", "multipart/form-data; boundary=xx");
    assert_eq!(bench.signed(draft, b"").await.code(), "InvalidArgument");
}

#[tokio::test]
async fn forms_of_strangers_take_a_bounded_room() {
    let bench = Bench::new().await;
    let start = format!(
        "POST /bbb HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=xx\r\n\
         content-length: 900\r\n\r\n--xx\r\n",
        bench.address
    );
    let mut waiting = Vec::new();
    for _ in 0..FORM_HEADS_MAX {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let wish = Form {
        signer: signer(),
        expires: Duration::from_secs(3600),
        conditions: "",
        extra: &[("key", "in/a")],
        file: "meow",
    };
    let until = async |status: u16| {
        let found = async { while bench.post(&wish).await.status != status {} };
        tokio::time::timeout(DEADLINE, found).await.expect("the answer changes in time");
    };
    until(503).await;
    drop(waiting);
    until(204).await;
}

#[tokio::test]
async fn forms_of_one_stranger_do_not_keep_those_of_others_away() {
    let bench = Bench::new().await;
    let start = format!(
        "POST /bbb HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=xx\r\n\
         content-length: 900\r\n\r\n--xx\r\n",
        bench.address
    );
    let mut waiting = Vec::new();
    for _ in 0..FORM_HEADS_MAX {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(bench.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let refused = || bench.refusals.all().contains(&("signature_budget".to_owned(), 32));
    let all = async {
        while !refused() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("a quarter is left to others");
    let wish = Form {
        signer: signer(),
        expires: Duration::from_secs(3600),
        conditions: "",
        extra: &[("key", "in/a")],
        file: "meow",
    };
    assert_eq!(bench.post(&wish).await.status, 204);
}

#[tokio::test]
async fn a_reload_counts_from_the_next_request() {
    let bench = Bench::new().await;
    let settings = S3Settings {
        region: "there-1".into(),
        domain: None,
        post_form_max: 1000,
        rate: crate::s3::RateSettings::default(),
    };
    bench.service.reload(settings);
    let draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
    let answer = bench.signed(draft.clone(), b"x").await;
    assert_eq!(answer.code(), "AuthorizationHeaderMalformed");
    assert!(answer.text().contains("<Region>there-1</Region>"));
    let mut moved = draft;
    Signer { region: "there-1".into(), ..signer() }.sign_header(&mut moved);
    assert_eq!(bench.send(&moved, b"x").await.status, 200);
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let millis = Duration::from_millis;
    let patience =
        Patience { head: millis(50), idle: millis(100), blocked: DEADLINE, look: millis(10) };
    let bench = Bench::with(patience, Duration::from_secs(5)).await;
    for start in ["", "GET / HTT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        let _ = end.expect("the connection ends in time");
    }
    // A request that takes longer than that is not cut off.
    bench.memory.objects.lock().unwrap().insert(("bbb".into(), "slow".into()), b"done".to_vec());
    let slow = bench.signed(bench.draft("GET", "/bbb/slow", "UNSIGNED-PAYLOAD"), b"");
    let release = async {
        bench.memory.slow_began.notified().await;
        let mut other = TcpStream::connect(bench.address).await.unwrap();
        let mut rest = Vec::new();
        // As long as it takes to close another connection.
        let _ = other.read_to_end(&mut rest).await;
        bench.memory.release.notify_one();
    };
    let (answer, ()) = tokio::join!(slow, release);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_end_and_waits_no_longer_than_its_grace() {
    let mut bench = Bench::new().await;
    bench.memory.objects.lock().unwrap().insert(("bbb".into(), "slow".into()), b"done".to_vec());
    let slow = bench.signed(bench.draft("GET", "/bbb/slow", "UNSIGNED-PAYLOAD"), b"");
    let stop = async {
        bench.memory.slow_began.notified().await;
        bench.shutdown.cancel();
        bench.memory.release.notify_one();
    };
    let (answer, ()) = tokio::join!(slow, stop);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
    let end = tokio::time::timeout(DEADLINE, &mut bench.server).await;
    end.expect("the server ends in time").unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());

    let mut bench = Bench::with(Patience::USUAL, Duration::from_millis(20)).await;
    let mut draft = bench.draft("GET", "/bbb/slow", "UNSIGNED-PAYLOAD");
    signer().sign_header(&mut draft);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream.write_all(head(&draft, None).as_bytes()).await.unwrap();
    bench.memory.slow_began.notified().await;
    bench.shutdown.cancel();
    let end = tokio::time::timeout(DEADLINE, &mut bench.server).await;
    end.expect("the server does not wait for ever").unwrap();
}

#[tokio::test]
async fn queries_are_encoded_as_the_signer_does() {
    let bench = Bench::new().await;
    let draft = with_query(bench.draft("GET", "/bbb/none", "UNSIGNED-PAYLOAD"), "x-id", "a b/ü+&=");
    assert_eq!(encode("a b"), "a%20b");
    assert_eq!(bench.signed(draft, b"").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn http2_is_served_alike() {
    let bench = Bench::new().await;
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    for (what, secret, status) in [("right", "secret", 200), ("wrong", "guess", 403)] {
        let mut draft = bench.draft("PUT", "/bbb/two", "UNSIGNED-PAYLOAD");
        Signer { secret: secret.into(), ..signer() }.sign_header(&mut draft);
        let mut request = hyper::Request::builder()
            .method("PUT")
            .uri(format!("http://{}/bbb/two", bench.address))
            .header("content-length", "5");
        // The authority stands for the host.
        for (name, value) in draft.headers.iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"hello"));
        let sent = client.send_request(request.body(body).unwrap());
        let answer = tokio::time::timeout(DEADLINE, sent).await.expect("an answer in time");
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{what}");
        assert!(answer.headers().contains_key("x-amz-request-id"));
    }
    assert_eq!(bench.object("two").unwrap(), b"hello");
    drop(client);
    let end = tokio::time::timeout(DEADLINE, connection).await;
    end.expect("the connection ends in time").unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_client_that_sends_on_still_reads_why() {
    let bench = Bench::new().await;
    let mut draft = bench.draft("PUT", "/bbb/k", "UNSIGNED-PAYLOAD");
    Signer { secret: "guess".into(), ..signer() }.sign_header(&mut draft);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(head(&draft, Some(900_000)).as_bytes()).await.unwrap();
        // Most clients give up at the first byte that they cannot send.
        for _ in 0..90 {
            stream.write_all(&[0; 10_000]).await.expect("the connection stands");
            tokio::task::yield_now().await;
        }
        let answer = read_until(&mut stream, |text| text.contains("</Error>")).await;
        assert_eq!(parse(answer.as_bytes()).code(), "SignatureDoesNotMatch");
    }
}
