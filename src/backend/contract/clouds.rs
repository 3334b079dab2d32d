//! The contract over stand-ins for the clouds that no test can reach.
//!
//! They answer as the manuals say, so these runs show that requests, answers and errors are
//! understood, and nothing about what the clouds really do.

use super::standin::{Cloud, Failing, StandIn};
use super::standins::{B2, Dropbox, Gcs, Gdrive, OneDrive, S3, Versioning};
use super::*;
use crate::backend::open::OPAQUE_ONLY;
use crate::backend::probe;
use crate::backend::probe::ProbeReport;

/// The contract over a stand-in, to which every request of one backend goes.
async fn keeps_the_contract<C: Cloud>(
    scheme: &str,
    options: &[(&str, &str)],
    cloud: C,
) -> StandIn<C> {
    let stand_in = StandIn::start(cloud).await;
    let settings = settings(scheme, &[&[("root", "/larder/test")], options].concat());
    let adapter = Adapter::through(&settings, stand_in.transport());
    let place = Place::of_adapter(adapter.unwrap_or_else(|failure| panic!("{failure:?}")));
    let (mut report, dir) = (ProbeReport::default(), format!("{MARKER_DIR}/probe"));
    let fit = probe::contract(&place, &dir, &mut report).await;
    assert!(fit, "{:?} {:?}", report.failure(), stand_in.strays());
    probe::names(&settings, &place, &dir, &mut report).await;
    let limits = report.limits.unwrap();
    let readable = !matches!(scheme, "b2" | "dropbox");
    assert_eq!(limits.component_max > OPAQUE_ONLY, readable, "{:?}", report.warnings);
    let traits = service(scheme).unwrap();
    let marker = Marker { store: 7, backend: BackendId(9) };
    place.write_whole(&marker.path(), marker.content(limits).into()).await.unwrap();
    let backend = Arc::new(Backend::over(
        settings,
        traits,
        marker,
        place.clone(),
        Faults::default(),
        meter(),
    ));
    check(&backend).await;
    neighbours(&backend).await;
    many_parts(&backend, &place).await;
    assert!(names_in(&place, &format!("{MARKER_DIR}/"), false).await.contains(&marker.path()));
    assert_eq!(stand_in.strays(), Vec::<String>::new());
    stand_in
}

async fn names_in(place: &Place, prefix: &str, recursive: bool) -> Vec<String> {
    let listed = place.list(prefix, recursive).await.unwrap();
    listed.map_ok(|entry| entry.path).try_collect().await.unwrap()
}

/// A blob of many parts with a name as long and strange as the service may get.
async fn many_parts(backend: &Backend, place: &Place) {
    let bucket = BucketName::new("bucket").unwrap();
    let key = ObjectKey::new("a folder/\u{e9}t\u{e9} 100%, [x]").unwrap();
    let stem = path::stem(&bucket, &key, 0, 0);
    let form = match path::fits(&stem, &backend.path_limits()) {
        true => PathForm::Readable,
        false => PathForm::Opaque,
    };
    let path = path::path(&form, &stem, WriteId(5000));
    let bytes = pattern(17 * MIB + 1);
    let mut writer = backend.write(&path, bytes.len() as u64).await.unwrap();
    for piece in bytes.chunks(MIB) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish().await.unwrap();
    let end = bytes.len() as u64;
    let got = read(backend, &path, end - MIB as u64..end).await.unwrap();
    assert!(got == bytes[bytes.len() - MIB..]);
    assert_eq!(listed(backend, "").await, [(path.clone(), end)]);
    let (top, _) = path.split_once('/').unwrap();
    assert!(names_in(place, "", false).await.contains(&format!("{top}/")));
    backend.delete(&path).await.unwrap();
}

/// Names that begin alike are not taken for each other.
async fn neighbours(backend: &Backend) {
    backend.write_whole("near/abc", pattern(10)).await.unwrap();
    assert_eq!(backend.stat("near/ab").await.unwrap_err().fault, Fault::Missing);
    assert_eq!(backend.stat("near").await.unwrap_err().fault, Fault::Missing);
    assert_eq!(read(backend, "near/ab", 0..1).await, Err(Fault::Missing));
    backend.delete("near/ab").await.unwrap();
    assert_eq!(backend.stat("near/abc").await.unwrap().size, 10);
    backend.delete("near/abc").await.unwrap();
}

const B2_OPTIONS: &[(&str, &str)] = &[
    ("bucket", "bucket"),
    ("bucket_id", "bucket-id"),
    ("application_key_id", "key-id"),
    ("application_key", "key"),
];
const GCS_OPTIONS: &[(&str, &str)] = &[("bucket", "bucket"), ("token", "a-token")];
const TOKEN: &[(&str, &str)] = &[("access_token", "a-token")];
const REFRESHED: &[(&str, &str)] =
    &[("refresh_token", "r"), ("client_id", "i"), ("client_secret", "s")];

#[tokio::test]
async fn b2_is_understood() {
    let stand_in = keeps_the_contract("b2", B2_OPTIONS, B2::default()).await;
    let cloud = stand_in.cloud.lock().unwrap();
    assert_eq!(cloud.large.len(), 0, "no upload is left half done");
    let left = cloud.files.values().flatten().count();
    assert_eq!(left, 1, "only the marker is not hidden");
}

#[tokio::test]
async fn gcs_is_understood() {
    let stand_in = keeps_the_contract("gcs", GCS_OPTIONS, Gcs::default()).await;
    let cloud = stand_in.cloud.lock().unwrap();
    assert_eq!((cloud.objects.len(), cloud.uploads.len()), (1, 0), "only the marker is left");
}

#[tokio::test]
async fn gdrive_is_understood() {
    let stand_in = keeps_the_contract("gdrive", TOKEN, Gdrive::default()).await;
    let cloud = stand_in.cloud.lock().unwrap();
    let left = cloud.files.values().filter(|file| file.bytes.is_some() && !file.trashed);
    assert_eq!(left.count(), 1, "only the marker is not in the bin");
}

#[tokio::test]
async fn dropbox_is_understood() {
    let stand_in = keeps_the_contract("dropbox", REFRESHED, Dropbox::default()).await;
    let cloud = stand_in.cloud.lock().unwrap();
    assert_eq!((cloud.files.len(), cloud.refreshed), (1, 1), "one token lasts for all requests");
}

#[tokio::test]
async fn onedrive_is_understood() {
    let stand_in = keeps_the_contract("onedrive", TOKEN, OneDrive::default()).await;
    let cloud = stand_in.cloud.lock().unwrap();
    assert_eq!((cloud.files.len(), cloud.sessions.len()), (1, 0), "only the marker is left");
}

/// A place at a stand-in that answers `uploads` uploads with `status` and `said`.
async fn failing(
    scheme: &str,
    uploads: usize,
    status: u16,
    said: &'static str,
) -> (Place, StandIn<Failing>) {
    let (options, cloud): (_, Box<dyn Cloud>) = match scheme {
        "b2" => (B2_OPTIONS, Box::new(B2::default())),
        "gcs" => (GCS_OPTIONS, Box::new(Gcs::default())),
        "gdrive" => (TOKEN, Box::new(Gdrive::default())),
        "dropbox" => (REFRESHED, Box::new(Dropbox::default())),
        _ => (TOKEN, Box::new(OneDrive::default())),
    };
    let stand_in = StandIn::start(Failing { cloud, uploads, status, said }).await;
    let settings = settings(scheme, options);
    let adapter = Adapter::through(&settings, stand_in.transport());
    let place = Place::of_adapter(adapter.unwrap_or_else(|failure| panic!("{failure:?}")));
    (place, stand_in)
}

#[tokio::test]
async fn what_the_clouds_say_against_a_write_is_understood() {
    let rows: &[(&str, u16, &str, Fault)] = &[
        ("b2", 403, r#"{"status":403,"code":"storage_cap_exceeded","message":""}"#, Fault::Full),
        ("b2", 403, r#"{"status":403,"code":"cap_exceeded","message":""}"#, Fault::Full),
        ("b2", 403, r#"{"status":403,"code":"access_denied","message":""}"#, Fault::Refused),
        ("gcs", 403, r#"{"error":{"code":403,"message":"Access denied."}}"#, Fault::Refused),
        (
            "gdrive",
            403,
            r#"{"error":{"code":403,"message":"The user's Drive storage quota has been exceeded.",
                "errors":[{"domain":"global","reason":"storageQuotaExceeded"}]}}"#,
            Fault::Full,
        ),
        (
            "gdrive",
            403,
            r#"{"error":{"code":403,"message":"Rate Limit Exceeded",
                "errors":[{"domain":"usageLimits","reason":"rateLimitExceeded"}]}}"#,
            Fault::Passing,
        ),
        (
            "gdrive",
            403,
            r#"{"error":{"code":403,"message":"Insufficient Permission"}}"#,
            Fault::Refused,
        ),
        (
            "gdrive",
            401,
            r#"{"error":{"code":401,"message":"Invalid Credentials"}}"#,
            Fault::Refused,
        ),
        ("dropbox", 409, r#"{"error_summary":"path/insufficient_space/.."}"#, Fault::Full),
        ("dropbox", 401, r#"{"error_summary":"expired_access_token/.."}"#, Fault::Refused),
        ("onedrive", 507, r#"{"error":{"code":"quotaLimitReached","message":""}}"#, Fault::Full),
        ("onedrive", 401, r#"{"error":{"code":"InvalidAuthenticationToken"}}"#, Fault::Refused),
    ];
    for &(scheme, status, said, fault) in rows {
        let (place, _stand_in) = failing(scheme, usize::MAX, status, said).await;
        let failure = place.write_whole("a/b", pattern(3)).await.unwrap_err();
        assert_eq!(failure.fault, fault, "{scheme} {status} {said}: {failure:?}");
    }
}

#[tokio::test]
async fn a_cloud_that_asks_for_patience_gets_it() {
    for (scheme, status, said) in [
        ("b2", 503, r#"{"status":503,"code":"service_unavailable","message":""}"#),
        ("gcs", 429, r#"{"error":{"code":429,"message":"rate limit exceeded"}}"#),
        ("gdrive", 503, r#"{"error":{"code":503,"message":"Backend Error"}}"#),
        ("dropbox", 429, r#"{"error_summary":"too_many_write_operations/.."}"#),
        ("onedrive", 503, r#"{"error":{"code":"serviceNotAvailable","message":""}}"#),
    ] {
        let (place, stand_in) = failing(scheme, 2, status, said).await;
        place.write_whole("a/b", pattern(3)).await.unwrap();
        assert_eq!(place.stat("a/b").await.unwrap().size, 3, "{scheme}");
        assert_eq!(stand_in.cloud.lock().unwrap().uploads, 0, "{scheme}");
    }
}

#[tokio::test]
async fn a_probe_warns_of_what_a_crash_leaves_at_a_bucket() {
    let server = S3Server::start().await;
    let report = Backend::probe(&server.settings(), &meter()).await;
    assert_eq!(report.failure(), None);
    let warned = |word: &str| report.warnings.iter().any(|warning| warning.contains(word));
    assert!(warned("abort incomplete multi-part uploads"), "{:?}", report.warnings);
    let dir = tempfile::tempdir().unwrap();
    let report = Backend::probe(&local(dir.path()), &meter()).await;
    assert_eq!(report.warnings, Vec::<String>::new(), "a directory keeps nothing behind");
}

#[tokio::test]
async fn a_probe_finds_hidden_versions_and_says_what_to_do() {
    for (versioning, word) in [
        (Versioning::On, "the bucket keeps old versions"),
        (Versioning::Secret, "it cannot be seen whether"),
        (Versioning::Off, ""),
    ] {
        let stand_in = StandIn::start(S3::new(versioning)).await;
        let options = [
            ("bucket", "bucket"),
            ("region", "r"),
            ("endpoint", "http://s3.test"),
            ("access_key_id", "k"),
            ("secret_access_key", "s"),
            ("root", "/deep/root"),
        ];
        let adapter = Adapter::through(&settings("s3", &options), stand_in.transport());
        let place = Place::of_adapter(adapter.unwrap_or_else(|failure| panic!("{failure:?}")));
        let mut report = ProbeReport::default();
        let fit = probe::contract(&place, &format!("{MARKER_DIR}/probe"), &mut report).await;
        assert!(fit, "{:?} {:?}", report.failure(), stand_in.strays());
        assert_eq!(stand_in.strays(), Vec::<String>::new());
        let hidden = stand_in.cloud.lock().unwrap().objects.values().flatten().count();
        assert_eq!(hidden > 0, versioning != Versioning::Off);
        match report.warnings.as_slice() {
            [] => assert_eq!(versioning, Versioning::Off),
            [warning] => {
                assert!(!word.is_empty() && warning.contains(word), "{versioning:?}: {warning}");
                assert!(warning.contains("versioning off"), "{warning}");
                assert!(warning.contains("lifecycle rule"), "{warning}");
            }
            more => panic!("{more:?}"),
        }
    }
}
