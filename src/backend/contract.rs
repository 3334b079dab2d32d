//! The contract of a backend, as one suite over every kind of place.

#[cfg(feature = "cloud")]
mod clouds;
#[cfg(feature = "cloud")]
mod servers;
#[cfg(feature = "cloud")]
mod standin;
#[cfg(feature = "cloud")]
mod standins;
mod wire;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Full};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::Backend;
use super::BackendSettings;
use super::Bandwidth;
use super::BreakerSettings;
use super::Fault;
use super::Listed;
use super::Marker;
use super::Meter;
use super::Profile;
use super::Timeouts;
use super::adapter::Adapter;
use super::faulty::Call;
use super::faulty::Effect;
use super::faulty::Faults;
use super::marker::MARKER_DIR;
use super::open::AddError;
use super::place::Place;
use super::services::service;
use super::throttle::Throttle;
use crate::base::Clock;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BucketName;
use crate::model::DayBegins;
use crate::model::Limits;
use crate::model::Names;
use crate::model::ObjectKey;
use crate::model::WriteId;
use crate::model::path;
use crate::model::path::PathForm;
use crate::model::path::PathLimits;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

fn meter() -> Arc<Meter> {
    Meter::new(Clock::system(), DayBegins::default())
}

fn settings(service: &str, options: &[(&str, &str)]) -> BackendSettings {
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    BackendSettings {
        name: format!("{service}-test"),
        service: service.to_owned(),
        options: options.iter().map(own).collect(),
        quota: None,
        keep_free: None,
        names: Names::Readable,
        blob_max: 256 << 20,
        labels: BTreeMap::new(),
        timeouts: Timeouts { connect: LONG, first_byte: LONG, stall: LONG },
        breaker: BreakerSettings::default(),
        account: None,
        limits: Limits::default(),
        profile: Profile::default(),
        bandwidth: Bandwidth::default(),
    }
}

fn local(root: &Path) -> BackendSettings {
    settings("fs", &[("root", root.to_str().unwrap())])
}

/// Bytes that are wrong at every place but their own.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<_>>().into()
}

async fn read(
    backend: &Backend,
    path: &str,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Fault> {
    let pieces = backend.read(path, range).await.map_err(|err| err.fault)?;
    let collect = pieces.try_fold(Vec::new(), async |mut all, piece: Bytes| {
        assert!(!piece.is_empty() && piece.len() <= MIB);
        all.extend_from_slice(&piece);
        Ok(all)
    });
    collect.await.map_err(|err| err.fault)
}

async fn listed(backend: &Backend, prefix: &str) -> Vec<(String, u64)> {
    let entries = backend.list(prefix).await.unwrap();
    let mut entries: Vec<_> =
        entries.map_ok(|entry| (entry.path, entry.size)).try_collect().await.unwrap();
    entries.sort();
    entries
}

/// Everything that a backend promises.
async fn check(backend: &Arc<Backend>) {
    backend.look().await.unwrap();
    assert!(backend.is_present());
    small_objects(backend).await;
    wrong_reads(backend).await;
    streams(backend).await;
    given_up(backend).await;
    names(backend).await;
    crowd(backend).await;
    assert_eq!(listed(backend, "").await, [], "every step cleaned up after itself");
}

async fn small_objects(backend: &Backend) {
    let bytes = pattern(3000);
    backend.write_whole("a/small", bytes.clone()).await.unwrap();
    backend.write_whole("a/empty", Bytes::new()).await.unwrap();
    assert_eq!(backend.stat("a/small").await.unwrap().size, 3000);
    assert_eq!(backend.stat("a/empty").await.unwrap().size, 0);
    assert_eq!(read(backend, "a/small", 0..3000).await.unwrap(), bytes);
    assert_eq!(read(backend, "a/small", 17..18).await.unwrap(), bytes[17..18]);
    assert_eq!(read(backend, "a/small", 2999..3000).await.unwrap(), bytes[2999..]);
    assert_eq!(read(backend, "a/empty", 0..0).await.unwrap(), b"");
    let both = [("a/empty".to_owned(), 0), ("a/small".to_owned(), 3000)];
    assert_eq!(listed(backend, "").await, both);
    assert_eq!(listed(backend, "a").await, both);
    assert_eq!(listed(backend, "a/").await, both);
    assert_eq!(listed(backend, "b").await, []);
    times(backend, "a/small").await;
    for path in ["a/small", "a/empty", "a/small", "never/there"] {
        backend.delete(path).await.unwrap();
    }
    assert_eq!(backend.stat("a/small").await.unwrap_err().fault, Fault::Missing);
    assert_eq!(read(backend, "a/small", 0..10).await, Err(Fault::Missing));
}

/// A listing and a stat tell the same time, as far as they tell one.
async fn times(backend: &Backend, path: &str) {
    let told = backend.stat(path).await.unwrap().modified;
    let entries = backend.list("").await.unwrap();
    let entries: Vec<Listed> = entries.try_collect().await.unwrap();
    let listed = entries.into_iter().find(|entry| entry.path == path).unwrap().modified;
    if let (Some(told), Some(listed)) = (told, listed) {
        let apart = told.since(listed).max(listed.since(told));
        assert!(apart < Duration::from_secs(1), "{told:?} {listed:?}");
    }
}

async fn wrong_reads(backend: &Backend) {
    backend.write_whole("short", pattern(100)).await.unwrap();
    for range in [0..101, 99..101, 50..5_000_000] {
        assert_eq!(read(backend, "short", range.clone()).await, Err(Fault::Damaged), "{range:?}");
    }
    // Services answer a range that begins past the end in their own ways; never with bytes.
    assert_eq!(read(backend, "short", 100..101).await, Err(Fault::Damaged));
    backend.delete("short").await.unwrap();
}

async fn streams(backend: &Backend) {
    let size = 20 * MIB + 77;
    let bytes = pattern(size);
    let mut writer = backend.write("big/stream", size as u64).await.unwrap();
    let mut rest = bytes.clone();
    for step in (1..).map(|i| i * 37_003) {
        let piece = rest.split_to(rest.len().min(step));
        writer.write(piece).await.unwrap();
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(listed(backend, "").await, [], "nothing is seen before its end");
    writer.finish().await.unwrap();
    assert_eq!(backend.stat("big/stream").await.unwrap().size, size as u64);
    assert!(read(backend, "big/stream", 0..size as u64).await.unwrap() == bytes);
    let part = 7 * MIB + 3..11 * MIB + 9;
    let got = read(backend, "big/stream", part.start as u64..part.end as u64).await.unwrap();
    assert!(got == bytes[part]);
    backend.delete("big/stream").await.unwrap();
    let empty = backend.write("big/empty", 0).await.unwrap();
    empty.finish().await.unwrap();
    assert_eq!(backend.stat("big/empty").await.unwrap().size, 0);
    backend.delete("big/empty").await.unwrap();
}

async fn given_up(backend: &Backend) {
    for pieces in [0, 1, 12] {
        let path = format!("given/up{pieces}");
        let mut writer = backend.write(&path, 100 * MIB as u64).await.unwrap();
        for _ in 0..pieces {
            writer.write(pattern(MIB)).await.unwrap();
        }
        writer.abort().await.unwrap();
        assert_eq!(backend.stat(&path).await.unwrap_err().fault, Fault::Missing);
    }
    let mut short = backend.write("given/short", 10).await.unwrap();
    short.write(pattern(9)).await.unwrap();
    assert!(short.finish().await.is_err(), "nine bytes are not ten");
    let mut long = backend.write("given/long", 10).await.unwrap();
    assert!(long.write(pattern(11)).await.is_err());
    assert!(long.write(Bytes::new()).await.is_err(), "an error is final");
    assert!(long.finish().await.is_err());
    let mut dropped = backend.write("given/dropped", 10).await.unwrap();
    dropped.write(pattern(10)).await.unwrap();
    drop(dropped);
    assert_eq!(listed(backend, "given").await, []);
}

async fn names(backend: &Backend) {
    let bucket = BucketName::new("bucket").unwrap();
    let long = "x".repeat(900);
    let wide = "\u{65e5}".repeat(200);
    let keys = [
        "a",
        "a/",
        "a//b",
        "a/b",
        ".",
        "..",
        "../..",
        "/",
        " ",
        " a ",
        "a b",
        "%",
        "a%2Fb",
        "~",
        "a~0.0~b",
        "#",
        "a?b",
        "a+b",
        "a&b",
        ".larder/x",
        "\u{e9}t\u{e9}",
        "\u{1F600}",
        "\u{1}\n",
        "A",
        "a.jpg",
        &long,
        &wide,
    ];
    let mut paths = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let stem = path::stem(&bucket, &ObjectKey::new(*key).unwrap(), 0, 0);
        let form = match path::fits(&stem, &backend.path_limits()) {
            true => PathForm::Readable,
            false => PathForm::Opaque,
        };
        let path = path::path(&form, &stem, WriteId(1000 + i as u64));
        backend.write_whole(&path, Bytes::from(key.to_string())).await.unwrap();
        paths.push((path, key.len() as u64));
    }
    for (path, key) in paths.iter().zip(keys) {
        let got = read(backend, &path.0, 0..path.1).await.unwrap();
        assert_eq!(got, key.as_bytes(), "{key:?}");
    }
    paths.sort();
    assert_eq!(listed(backend, "").await, paths);
    for (path, _) in &paths {
        backend.delete(path).await.unwrap();
    }
}

async fn crowd(backend: &Arc<Backend>) {
    let tasks = (0..24u64).map(|i| {
        let backend = Arc::clone(backend);
        tokio::spawn(async move {
            let (path, bytes) = (format!("crowd/{}/{i}", i % 3), pattern(1000 + i as usize));
            backend.write_whole(&path, bytes.clone()).await.unwrap();
            assert_eq!(read(&backend, &path, 0..bytes.len() as u64).await.unwrap(), bytes);
            backend.delete(&path).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn local_directories_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("made/by/add");
    let backend = Backend::add(local(&root), 7, BackendId(9), meter()).await.unwrap();
    check(&backend).await;
    assert_eq!(backend.path_limits().component_max, 255);
    assert!(backend.is_durable() && backend.device().is_some() && backend.room().is_some());
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "only Larder's own directory is left: {left:?}");
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let settings = settings("memory", &[("root", "/contract")]);
    let backend = Backend::add(settings.clone(), 7, BackendId(9), meter()).await.unwrap();
    check(&backend).await;
    assert!(!backend.is_durable());
    assert_eq!((backend.device(), backend.room()), (None, None));
    backend.write_whole("kept", Bytes::from_static(b"x")).await.unwrap();
    let again = Backend::open(settings, 7, BackendId(9), meter()).await.unwrap();
    assert_eq!(again.stat("kept").await.unwrap().size, 1, "a reload keeps the bytes");
}

/// A backend over any place, marked.
async fn over(place: Place, scheme: &str) -> Arc<Backend> {
    let marker = Marker { store: 7, backend: BackendId(9) };
    let limits = PathLimits { component_max: 255, total_max: 3000 };
    place.write_whole(&marker.path(), marker.content(limits).into()).await.unwrap();
    let traits = service("memory").unwrap();
    let settings = settings(scheme, &[]);
    Arc::new(Backend::over(settings, traits, marker, place, Faults::default(), meter()))
}

#[tokio::test]
async fn opendals_own_fs_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let (root, temp) = (dir.path().join("root"), dir.path().join("temp"));
    let builder = opendal::services::Fs::default()
        .root(root.to_str().unwrap())
        .atomic_write_dir(temp.to_str().unwrap());
    let op = opendal::Operator::new(builder).unwrap();
    let timeouts = Timeouts { connect: LONG, first_byte: LONG, stall: LONG };
    let backend = over(Place::of_adapter(Adapter::layered(op, &timeouts, false)), "fs").await;
    check(&backend).await;
}

#[tokio::test]
async fn a_disk_tells_to_the_microsecond_when_a_file_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::for_tests("t", BackendId(3), Some(dir.path()), Faults::default()).await;
    backend.write_whole("a/b", pattern(10)).await.unwrap();
    let file = std::fs::File::options().write(true).open(dir.path().join("a/b")).unwrap();
    let epoch = std::time::UNIX_EPOCH;
    let late = epoch + Duration::new(1_709_240_400, 123_456_789);
    let early = epoch - Duration::new(5, 1_500);
    let table = [(late, 1_709_240_400_123_456), (epoch, 0), (early, -5_000_002)];
    for (time, micros) in table {
        file.set_modified(time).unwrap();
        let told = backend.stat("a/b").await.unwrap();
        assert_eq!((told.size, told.modified), (10, Some(Timestamp(micros))));
        let listed: Vec<Listed> = backend.list("").await.unwrap().try_collect().await.unwrap();
        assert_eq!((listed.len(), listed[0].modified), (1, told.modified));
    }
}

/// Our service with all its calls through OpenDAL, without the direct path.
#[tokio::test]
async fn the_local_service_keeps_the_contract_under_the_operator() {
    let dir = tempfile::tempdir().unwrap();
    let disk = super::local::Disk::attempt(dir.path(), "x").unwrap();
    let op = super::local::service::operator(&disk, LONG);
    let backend = over(Place::of_adapter(Adapter::local(op)), "fs").await;
    check(&backend).await;
}

/// A real S3 server on a free port of this machine, for as long as it is kept.
struct S3Server {
    address: String,
    seen: Arc<Mutex<Seen>>,
    _dir: TempDir,
    task: tokio::task::JoinHandle<()>,
}

/// What a server was asked and what moved.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// A: writes and listings, B: reads, C: nothing, free: what deletes.
    calls: [u64; 4],
    ingress: u64,
    egress: u64,
}

impl Seen {
    fn request(&mut self, parts: &http::request::Parts, body: &Bytes) {
        let lists = parts.uri.query().is_some_and(|query| {
            ["list-type=", "versions", "prefix="].iter().any(|word| query.contains(word))
        });
        let class = match parts.method.as_str() {
            "PUT" | "POST" => 0,
            "GET" if lists => 0,
            "DELETE" => 3,
            _ => 1,
        };
        self.calls[class] += 1;
        self.ingress += body.len() as u64;
    }
}

/// Answers one request, and keeps the books.
async fn serve_s3(
    service: &s3s::service::S3Service,
    seen: &Mutex<Seen>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Full<Bytes>>, String> {
    let (parts, body) = request.into_parts();
    let body = BodyExt::collect(body).await.map_err(|err| err.to_string())?.to_bytes();
    seen.lock().unwrap().request(&parts, &body);
    let has_body = parts.method != http::Method::HEAD;
    let request = http::Request::from_parts(parts, s3s::Body::from(body));
    let answer = service.call(request).await.map_err(|err| format!("{err:?}"))?;
    let (parts, body) = answer.into_parts();
    let body = BodyExt::collect(body).await.map_err(|err| err.to_string())?.to_bytes();
    seen.lock().unwrap().egress += if has_body { body.len() as u64 } else { 0 };
    Ok(http::Response::from_parts(parts, Full::new(body)))
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3Server {
    async fn start() -> S3Server {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let mut builder =
            s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(s3s::auth::SimpleAuth::from_single("KEYID", "SECRET"));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let books = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (service, books) = (service.clone(), Arc::clone(&books));
                let serve = hyper::service::service_fn(move |request| {
                    let (service, books) = (service.clone(), Arc::clone(&books));
                    async move { serve_s3(&service, &books, request).await }
                });
                tokio::spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(socket);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let server = hyper_util::server::conn::auto::Builder::new(executor);
                    let _ = server.serve_connection(io, serve).await;
                });
            }
        });
        S3Server { address, seen, _dir: dir, task }
    }

    fn settings(&self) -> BackendSettings {
        settings(
            "s3",
            &[
                ("bucket", "bucket"),
                ("region", "us-east-1"),
                ("endpoint", &self.address),
                ("access_key_id", "KEYID"),
                ("secret_access_key", "SECRET"),
                ("root", "/deep/root"),
            ],
        )
    }
}

#[tokio::test]
async fn a_real_s3_server_keeps_the_contract() {
    let server = S3Server::start().await;
    let backend = Backend::add(server.settings(), 7, BackendId(9), meter()).await.unwrap();
    check(&backend).await;
    assert_eq!(backend.write_buffer(100 * MIB as u64), 8 * MIB as u64);
    assert_eq!(backend.path_limits().total_max, 1024 - "/deep/root".len());
    let marker = Marker { store: 7, backend: BackendId(9) };
    assert_eq!(Backend::find_marker(&server.settings(), &meter()).await.unwrap(), Some(marker));
    let mut below = server.settings();
    below.options.insert("root".into(), "/deep/root/below".into());
    let claimed = Backend::add(below, 7, BackendId(10), meter()).await.err().unwrap();
    assert!(matches!(claimed, AddError::Claimed(_)), "{claimed}");
}

#[tokio::test]
async fn s3_credentials_that_are_refused_are_said() {
    let server = S3Server::start().await;
    let mut wrong = server.settings();
    wrong.options.insert("secret_access_key".into(), "WRONG".into());
    let report = Backend::probe(&wrong, &meter()).await;
    assert!(report.failure().is_some_and(|why| why.contains("refused")), "{report:?}");
    let refused = Backend::add(wrong, 7, BackendId(9), meter()).await.err().unwrap();
    assert!(matches!(refused, AddError::Backend(err) if err.fault == Fault::Refused));
}

#[tokio::test]
async fn a_root_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let backend = Backend::add(local(&root), 7, BackendId(9), meter()).await.unwrap();
    let again = Backend::add(local(&root), 7, BackendId(9), meter()).await.unwrap();
    assert_eq!(again.id(), backend.id(), "its own marker is no obstacle");
    for (root, store) in [(root.clone(), 7), (root.clone(), 8), (root.join("a/b"), 7)] {
        let claimed =
            Backend::add(local(&root), store, BackendId(10), meter()).await.err().unwrap();
        assert!(matches!(claimed, AddError::Claimed(_)), "{claimed}");
    }
    assert!(!root.join("a").exists());
    let above = Backend::add(local(dir.path()), 7, BackendId(10), meter()).await.err().unwrap();
    assert!(matches!(above, AddError::Claimed(_)), "{above}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    let linked =
        Backend::add(local(&link.join("c")), 7, BackendId(10), meter()).await.err().unwrap();
    assert!(matches!(linked, AddError::Claimed(_)), "{linked}");
    let opened = Backend::open(local(&root), 7, BackendId(10), meter()).await.err().unwrap();
    assert_eq!(opened.fault, Fault::Refused);
}

#[tokio::test]
async fn an_unmounted_disk_is_absent_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (root, away) = (dir.path().join("root"), dir.path().join("away"));
    let backend = Backend::add(local(&root), 7, BackendId(9), meter()).await.unwrap();
    backend.write_whole("a/b", pattern(10)).await.unwrap();
    // The mount point stays behind, empty.
    std::fs::rename(&root, &away).unwrap();
    std::fs::create_dir(&root).unwrap();
    assert_eq!(backend.stat("a/b").await.unwrap_err().fault, Fault::Absent);
    assert!(!backend.is_present());
    for _ in 0..2 {
        let refused = backend.write_whole("c/d", pattern(10)).await.unwrap_err();
        assert_eq!(refused.fault, Fault::Absent);
    }
    assert_eq!(backend.delete("a/b").await.unwrap_err().fault, Fault::Absent);
    assert!(backend.read_here("a/b", 0..10).is_none());
    assert!(backend.list("").await.is_err_and(|err| err.fault == Fault::Absent));
    let absent = Backend::open(local(&root), 7, BackendId(9), meter()).await.unwrap();
    assert!(!absent.is_present());
    assert!(absent.write("c/d", 10).await.is_err_and(|err| err.fault == Fault::Absent));
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing was made");
    std::fs::remove_dir(&root).unwrap();
    assert_eq!(backend.look().await.unwrap_err().fault, Fault::Absent);
    std::fs::rename(&away, &root).unwrap();
    backend.look().await.unwrap();
    assert_eq!(backend.stat("a/b").await.unwrap().size, 10);
    let here = backend.read_here("a/b", 3..7).unwrap();
    assert_eq!(here.unwrap(), pattern(10).slice(3..7));
    assert_eq!(backend.read_here("a/c", 0..1).unwrap().unwrap_err().fault, Fault::Missing);
    assert_eq!(backend.read_here("a/b", 5..11).unwrap().unwrap_err().fault, Fault::Damaged);
}

#[tokio::test]
async fn a_disk_that_goes_between_two_writes_takes_none() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let backend = Backend::add(local(&root), 7, BackendId(9), meter()).await.unwrap();
    let mut writer = backend.write("s/t", 20).await.unwrap();
    writer.write(pattern(10)).await.unwrap();
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let _ = writer.write(pattern(10)).await;
    let refused = writer.finish().await.unwrap_err();
    assert_eq!(refused.fault, Fault::Absent);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing was made");
}

#[tokio::test]
async fn paths_are_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::for_tests("t", BackendId(3), Some(dir.path()), Faults::default()).await;
    backend.write_whole("a", pattern(10)).await.unwrap();
    assert!(backend.write_whole("a", pattern(11)).await.is_err());
    let mut writer = backend.write("a", 3).await.unwrap();
    writer.write(pattern(3)).await.unwrap();
    assert!(writer.finish().await.is_err());
    assert_eq!(backend.stat("a").await.unwrap().size, 10);
    let kept = PathLimits { component_max: 255, total_max: 3000 };
    assert_eq!(backend.path_limits(), kept, "the marker says what fits");
}

#[tokio::test]
async fn faults_are_met_where_they_were_put() {
    let dir = tempfile::tempdir().unwrap();
    for place in [None, Some(dir.path())] {
        let faults = Faults::default();
        let backend = Backend::for_tests("t", BackendId(3), place, faults.clone()).await;
        backend.write_whole("a", pattern(100)).await.unwrap();
        faults.on(Call::Read, 2, Effect::Corrupt);
        assert_eq!(read(&backend, "a", 0..100).await.unwrap(), pattern(100));
        assert_ne!(read(&backend, "a", 0..100).await.unwrap(), pattern(100));
        faults.on(Call::Read, 1, Effect::Truncate);
        assert_eq!(read(&backend, "a", 0..100).await, Err(Fault::Damaged));
        faults.on(Call::Write, 1, Effect::FailAfter(Fault::Passing));
        let lost = backend.write_whole("b", pattern(5)).await.unwrap_err();
        assert!(lost.unknown);
        assert_eq!(backend.stat("b").await.unwrap().size, 5);
        faults.on(Call::Finish, 1, Effect::Fail(Fault::Full));
        let mut writer = backend.write("c", 5).await.unwrap();
        writer.write(pattern(5)).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().fault, Fault::Full);
        assert_eq!(backend.stat("c").await.unwrap_err().fault, Fault::Missing);
        faults.lose_marker(true);
        assert_eq!(backend.stat("a").await.unwrap_err().fault, Fault::Absent);
        assert_eq!(backend.delete("a").await.unwrap_err().fault, Fault::Absent);
        faults.clear();
        backend.look().await.unwrap();
        assert_eq!(backend.stat("a").await.unwrap().size, 100);
    }
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::for_tests("t", BackendId(3), Some(dir.path()), Faults::default()).await;
    let mut writer = backend.write("a", 10).await.unwrap();
    writer.write(pattern(10)).await.unwrap();
    let marker = Marker { store: 1, backend: BackendId(3) };
    let temp = dir.path().join(MARKER_DIR).join(format!("{}.tmp", marker.name()));
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 1);
    drop(writer);
    let deadline = Instant::now() + LONG;
    while std::fs::read_dir(&temp).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "the temporary file of a dropped writer stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_hangs_stops_nobody_else() {
    let (hung, sound) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut settings = local(&hung.path().join("root"));
    settings.timeouts.stall = Duration::from_millis(300);
    // Of the disk's own threads; a breaker would keep the calls from them.
    settings.breaker.failures = u32::MAX;
    let backend = Backend::add(settings, 7, BackendId(9), meter()).await.unwrap();
    let other = Backend::for_tests("o", BackendId(3), Some(sound.path()), Faults::default()).await;
    other.write_whole("a", pattern(10)).await.unwrap();
    // To open a pipe that nobody writes to is to wait, as on a disk that does not answer.
    let pipe = hung.path().join("root/pipe");
    let mode = rustix::fs::Mode::RWXU;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let stuck = (0..40).map(|_| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { read(&backend, "pipe", 0..1).await })
    });
    for stuck in stuck.collect::<Vec<_>>() {
        assert_eq!(stuck.await.unwrap(), Err(Fault::Passing));
    }
    let lost = backend.write_whole("b", pattern(10)).await.unwrap_err();
    assert_eq!((lost.fault, lost.unknown), (Fault::Passing, true));
    assert_eq!(read(&other, "a", 0..10).await.unwrap(), pattern(10));
    let deadline = Instant::now() + LONG;
    while backend.read_here("b", 0..1).is_some() {
        assert!(Instant::now() < deadline, "a hanging disk is never noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It answers again.
    let writers: Vec<_> =
        std::iter::repeat_with(|| std::fs::File::options().write(true).open(&pipe))
            .take(1)
            .collect();
    while backend.stat("pipe").await.is_err_and(|err| err.fault != Fault::Missing) {
        assert!(Instant::now() < deadline, "the threads of a hanging disk never come back");
    }
    drop(writers);
    assert_eq!(backend.stat("b").await.unwrap_err().fault, Fault::Missing, "nobody waited for it");
    backend.write_whole("b", pattern(10)).await.unwrap();
}

#[tokio::test]
async fn a_probe_tells_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = Backend::probe(&local(&dir.path().join("new")), &meter()).await;
    assert_eq!(fresh.failure(), None);
    assert!(!dir.path().join("new").exists(), "a probe makes no root");
    let report = Backend::probe(&local(dir.path()), &meter()).await;
    assert_eq!(report.failure(), None);
    assert!(report.steps.len() > 6 && report.limits.is_some(), "{report:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it cleans up");
    let relative = Backend::probe(&settings("fs", &[("root", "x/y")]), &meter()).await;
    assert!(relative.failure().is_some_and(|why| why.contains("absolute")));
    let unknown = Backend::probe(&settings("ftp", &[]), &meter()).await;
    let why = unknown.failure().unwrap();
    assert!(why.contains("`ftp` is no service") && why.contains("s3"), "{why}");
    let nobody =
        settings("s3", &[("bucket", "b"), ("region", "r"), ("endpoint", "http://127.0.0.1:1")]);
    assert!(Backend::probe(&nobody, &meter()).await.failure().is_some());
}

#[cfg(feature = "cloud")]
#[test]
fn the_clouds_take_their_options() {
    let rows: &[(&str, &[(&str, &str)])] = &[
        (
            "azblob",
            &[
                ("container", "c"),
                ("endpoint", "http://x"),
                ("account_name", "a"),
                ("account_key", "a2V5"),
            ],
        ),
        ("gcs", &[("bucket", "b"), ("credential", "e30=")]),
        (
            "b2",
            &[
                ("bucket", "b"),
                ("bucket_id", "i"),
                ("application_key_id", "k"),
                ("application_key", "s"),
            ],
        ),
        ("webdav", &[("endpoint", "http://x"), ("username", "u"), ("password", "p")]),
        ("gdrive", &[("access_token", "t")]),
        ("dropbox", &[("access_token", "t")]),
        ("onedrive", &[("access_token", "t")]),
    ];
    for (scheme, options) in rows {
        let settings = settings(scheme, &[&[("root", "/larder")], *options].concat());
        let adapter = Adapter::remote(&settings, &meter(), &Throttle::open());
        let adapter = adapter.map_err(|err| format!("{scheme}: {err:?}"));
        let traits = service(scheme).unwrap();
        assert!(settings.options.keys().all(|option| traits.knows(option)), "{scheme}");
        let buffered = adapter.unwrap().buffered(16 * MIB as u64);
        assert_eq!(buffered == 16 * MIB as u64, traits.one_shot, "{scheme}");
        let location = Backend::location(&settings);
        assert!(location.contains(scheme) && location.contains("root=/larder"));
        for secret in traits.secret {
            assert!(!location.contains(secret) && !format!("{settings:?}").contains("a2V5"));
        }
    }
}

/// A service that answers every HEAD and every other request the same way, and counts them.
async fn scripted(
    head: &'static str,
    answer: &'static str,
) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { return };
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let answer = hyper::service::service_fn(
                    move |request: http::Request<hyper::body::Incoming>| {
                        let answer =
                            if request.method() == http::Method::HEAD { head } else { answer };
                        counted.fetch_add(1, Ordering::SeqCst);
                        async move {
                            let (status, body) = answer.split_once(' ').unwrap();
                            let body =
                                http_body_util::Full::new(Bytes::from_static(body.as_bytes()));
                            let answer =
                                http::Response::builder().status(status).body(body).unwrap();
                            Ok::<_, Infallible>(answer)
                        }
                    },
                );
                let io = hyper_util::rt::TokioIo::new(socket);
                let executor = hyper_util::rt::TokioExecutor::new();
                let server = hyper_util::server::conn::auto::Builder::new(executor);
                let _ = server.serve_connection(io, answer).await;
            });
        }
    });
    (address, count)
}

#[cfg(feature = "cloud")]
#[tokio::test]
async fn what_a_webdav_server_says_is_understood() {
    use std::sync::atomic::Ordering;
    for (answer, fault) in [
        ("507 Insufficient Storage", Fault::Full),
        ("403 no", Fault::Refused),
        ("401 who", Fault::Refused),
    ] {
        let (address, count) = scripted(answer, answer).await;
        let place =
            Place::open(&settings("webdav", &[("endpoint", &address)]), "x", &meter()).unwrap();
        let failure = place.write_whole("a/b", pattern(3)).await.unwrap_err();
        assert_eq!(failure.fault, fault, "{answer}: {failure:?}");
        assert!(count.load(Ordering::SeqCst) > 0);
    }
}

const BROKEN: &str = "500 <Error><Code>InternalError</Code></Error>";

fn s3_at(address: &str) -> BackendSettings {
    let options = [
        ("bucket", "b"),
        ("region", "r"),
        ("endpoint", address),
        ("access_key_id", "k"),
        ("secret_access_key", "s"),
    ];
    settings("s3", &options)
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_looked_for() {
    for (there, written) in [("200 abc", true), ("200 abcd", false)] {
        let (address, _) = scripted(there, BROKEN).await;
        let place = Place::open(&s3_at(&address), "x", &meter()).unwrap();
        let result = place.write_whole("a", pattern(3)).await;
        assert_eq!(result.is_ok(), written, "{there}");
        assert!(written || result.is_err_and(|failure| failure.unknown));
    }
}

#[tokio::test]
async fn an_unclear_answer_to_a_write_is_unknown() {
    let (address, count) = scripted(BROKEN, BROKEN).await;
    let place = Place::open(&s3_at(&address), "x", &meter()).unwrap();
    let failure = place.write_whole("a", pattern(3)).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Passing);
    assert!(failure.unknown);
    assert!(count.load(std::sync::atomic::Ordering::SeqCst) > 2, "it was tried again");
    let stream = place.read("a", 0..3).await;
    assert_eq!(stream.err().unwrap().fault, Fault::Passing);
    let listed = place.list("", true).await;
    let first = match listed {
        Ok(mut entries) => entries.next().await.unwrap().err().unwrap().fault,
        Err(failure) => failure.fault,
    };
    assert_eq!(first, Fault::Passing);
}
