//! Who may do what: every S3 operation and the grant that it needs.
//!
//! The table is by s3s's names of operations; one that is not in it is refused. What only the
//! operation itself can decide (the keys of a DeleteObjects, the buckets of a ListBuckets, whether
//! a missing key may be told from a forbidden one, whether a key has an object already) it decides
//! with [`Granted`].

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::header;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::access::S3Access;
use s3s::access::S3AccessContext;
use s3s::path::S3Path;
use s3s::s3_error;

use crate::model::AccessKey;
use crate::model::Action;
use crate::model::BucketName;
use crate::model::Grant;
use crate::model::ObjectKey;
use crate::s3::auth::Keys;
use crate::s3::convert::source;
use crate::s3::door::Document;
use crate::s3::door::Door;
use crate::s3::door::Intent;
use crate::s3::guard::query::Query;
use crate::s3::guard::refusal::Refusal;
use crate::s3::post::PostForm;

/// What a request may do: an extension of every request that reaches an operation.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) key: AccessKey,
    /// The write may create an object but not replace one.
    pub(crate) create_only: bool,
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Any key may.
    Nothing,
    /// The right to create buckets.
    NewBucket,
    /// The action on the whole bucket.
    Whole(Action),
    /// To change the bucket; and then it is a setting that this server has not.
    Setting,
    /// One of the actions somewhere in the bucket.
    Somewhere(&'static [Action]),
    /// The right to list what begins with the prefix of the query.
    Prefix,
    /// One of the actions on the key.
    Key(&'static [Action]),
    /// To write the key, or at least to create it.
    Put,
    /// [`Need::Put`], and to read the source.
    Copy,
    /// To create the key, and to read the source.
    CopyPart,
    /// This server does not do it for anyone.
    Unsupported,
}

const READ: Need = Need::Key(&[Action::Read]);
const WRITE: Need = Need::Key(&[Action::Write]);
const DELETE: Need = Need::Key(&[Action::Delete]);
const CHANGE: Need = Need::Whole(Action::Admin);
const LOOK: Need = Need::Somewhere(&[Action::List]);
const LOOK_UP: Need = Need::Somewhere(&[Action::List, Action::Admin]);

/// Every operation of s3s, in the order of its name.
const TABLE: [(&str, Need); 99] = [
    ("AbortMultipartUpload", Need::Key(&[Action::Create, Action::Delete])),
    ("CompleteMultipartUpload", Need::Put),
    ("CopyObject", Need::Copy),
    ("CreateBucket", Need::NewBucket),
    ("CreateBucketMetadataTableConfiguration", Need::Setting),
    ("CreateMultipartUpload", Need::Put),
    ("CreateSession", Need::Unsupported),
    ("DeleteBucket", CHANGE),
    ("DeleteBucketAnalyticsConfiguration", CHANGE),
    ("DeleteBucketCors", CHANGE),
    ("DeleteBucketEncryption", CHANGE),
    ("DeleteBucketIntelligentTieringConfiguration", CHANGE),
    ("DeleteBucketInventoryConfiguration", CHANGE),
    ("DeleteBucketLifecycle", CHANGE),
    ("DeleteBucketMetadataTableConfiguration", CHANGE),
    ("DeleteBucketMetricsConfiguration", CHANGE),
    ("DeleteBucketOwnershipControls", CHANGE),
    ("DeleteBucketPolicy", CHANGE),
    ("DeleteBucketReplication", CHANGE),
    ("DeleteBucketTagging", CHANGE),
    ("DeleteBucketWebsite", CHANGE),
    ("DeleteObject", DELETE),
    ("DeleteObjectTagging", DELETE),
    ("DeleteObjects", Need::Somewhere(&[Action::Delete])),
    ("DeletePublicAccessBlock", CHANGE),
    ("GetBucketAccelerateConfiguration", LOOK_UP),
    ("GetBucketAcl", LOOK_UP),
    ("GetBucketAnalyticsConfiguration", LOOK_UP),
    ("GetBucketCors", LOOK_UP),
    ("GetBucketEncryption", LOOK_UP),
    ("GetBucketIntelligentTieringConfiguration", LOOK_UP),
    ("GetBucketInventoryConfiguration", LOOK_UP),
    ("GetBucketLifecycleConfiguration", LOOK_UP),
    ("GetBucketLocation", LOOK),
    ("GetBucketLogging", LOOK_UP),
    ("GetBucketMetadataTableConfiguration", LOOK_UP),
    ("GetBucketMetricsConfiguration", LOOK_UP),
    ("GetBucketNotificationConfiguration", LOOK_UP),
    ("GetBucketOwnershipControls", LOOK_UP),
    ("GetBucketPolicy", LOOK_UP),
    ("GetBucketPolicyStatus", LOOK_UP),
    ("GetBucketReplication", LOOK_UP),
    ("GetBucketRequestPayment", LOOK_UP),
    ("GetBucketTagging", LOOK_UP),
    ("GetBucketVersioning", LOOK_UP),
    ("GetBucketWebsite", LOOK_UP),
    ("GetObject", READ),
    ("GetObjectAcl", READ),
    ("GetObjectAttributes", READ),
    ("GetObjectLegalHold", READ),
    ("GetObjectLockConfiguration", LOOK_UP),
    ("GetObjectRetention", READ),
    ("GetObjectTagging", READ),
    ("GetObjectTorrent", Need::Unsupported),
    ("GetPublicAccessBlock", LOOK_UP),
    ("HeadBucket", LOOK),
    ("HeadObject", READ),
    ("ListBucketAnalyticsConfigurations", LOOK_UP),
    ("ListBucketIntelligentTieringConfigurations", LOOK_UP),
    ("ListBucketInventoryConfigurations", LOOK_UP),
    ("ListBucketMetricsConfigurations", LOOK_UP),
    ("ListBuckets", Need::Nothing),
    ("ListDirectoryBuckets", Need::Unsupported),
    ("ListMultipartUploads", Need::Prefix),
    ("ListObjectVersions", Need::Prefix),
    ("ListObjects", Need::Prefix),
    ("ListObjectsV2", Need::Prefix),
    ("ListParts", READ),
    ("PostObject", Need::Put),
    ("PutBucketAccelerateConfiguration", Need::Setting),
    ("PutBucketAcl", CHANGE),
    ("PutBucketAnalyticsConfiguration", Need::Setting),
    ("PutBucketCors", Need::Setting),
    ("PutBucketEncryption", Need::Setting),
    ("PutBucketIntelligentTieringConfiguration", Need::Setting),
    ("PutBucketInventoryConfiguration", Need::Setting),
    ("PutBucketLifecycleConfiguration", CHANGE),
    ("PutBucketLogging", Need::Setting),
    ("PutBucketMetricsConfiguration", Need::Setting),
    ("PutBucketNotificationConfiguration", Need::Setting),
    ("PutBucketOwnershipControls", Need::Setting),
    ("PutBucketPolicy", Need::Setting),
    ("PutBucketReplication", Need::Setting),
    ("PutBucketRequestPayment", Need::Setting),
    ("PutBucketTagging", Need::Setting),
    ("PutBucketVersioning", Need::Setting),
    ("PutBucketWebsite", Need::Setting),
    ("PutObject", Need::Put),
    ("PutObjectAcl", WRITE),
    ("PutObjectLegalHold", Need::Unsupported),
    ("PutObjectLockConfiguration", Need::Setting),
    ("PutObjectRetention", Need::Unsupported),
    ("PutObjectTagging", WRITE),
    ("PutPublicAccessBlock", Need::Setting),
    ("RestoreObject", Need::Unsupported),
    ("SelectObjectContent", Need::Unsupported),
    ("UploadPart", Need::Key(&[Action::Create])),
    ("UploadPartCopy", Need::CopyPart),
    ("WriteGetObjectResponse", Need::Unsupported),
];

fn need(operation: &str) -> Need {
    let row = TABLE.binary_search_by(|(name, _)| (*name).cmp(operation));
    row.map_or(Need::Unsupported, |at| TABLE[at].1)
}

/// The grants of the key that signed, held against the operation; then the request is admitted.
pub(crate) struct Access {
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) door: Arc<Door>,
}

/// What a request is about.
struct Target<'a> {
    bucket: Option<BucketName>,
    key: Option<ObjectKey>,
    prefix: String,
    source: Option<&'a str>,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let signer = cx.credentials().and_then(|signed| self.keys.key(&signed.access_key));
        let key = signer.ok_or_else(denied)?;
        let need = need(cx.s3_op().name());
        let form = cx.extensions_mut().get::<PostForm>().map(|form| form.key.clone());
        // A form was admitted before its file was read.
        let is_admitted = form.is_some();
        if !is_admitted {
            self.door.check_key(&key.id)?;
        }
        let target = target(cx, form)?;
        let create_only = allow(&key, need, &target)?;
        if !is_admitted {
            let document = cx.extensions_mut().get::<Document>().copied();
            self.door.admit(intent(cx.method()), document).await?;
        }
        cx.extensions_mut().insert(Granted { key, create_only });
        Ok(())
    }
}

/// S3 reads with GET and HEAD, and with nothing else.
fn intent(method: &Method) -> Intent {
    match *method {
        Method::GET | Method::HEAD => Intent::Read,
        _ => Intent::Write,
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> S3Error {
        let code = S3ErrorCode::from_bytes(refusal.code.as_bytes()).expect("codes are UTF-8");
        let mut error = S3Error::with_message(code, refusal.message);
        error.set_status_code(refusal.status);
        if let Some(seconds) = refusal.retry_after {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            error.set_headers(headers);
        }
        error
    }
}

fn target<'a>(cx: &'a S3AccessContext<'_>, form: Option<ObjectKey>) -> S3Result<Target<'a>> {
    let (bucket, key) = match cx.s3_path() {
        S3Path::Root => (None, None),
        S3Path::Bucket { bucket } => (Some(bucket), None),
        S3Path::Object { bucket, key } => (Some(bucket), Some(key)),
    };
    let bucket = bucket.map(|name| BucketName::new(name)).transpose();
    let bucket = bucket.map_err(|err| s3_error!(InvalidBucketName, "{err}"))?;
    let key = key.map(|key| ObjectKey::new(key.clone())).transpose();
    let key = key.map_err(|err| s3_error!(InvalidURI, "{err}"))?.or(form);
    let query = Query::parse(cx.uri().query()).map_err(|_| s3_error!(InvalidURI))?;
    let prefix = query.get("prefix").unwrap_or_default().to_owned();
    let source = cx.headers().get("x-amz-copy-source").and_then(|value| value.to_str().ok());
    Ok(Target { bucket, key, prefix, source })
}

/// Whether the key may; `Ok(true)` when it may create only.
fn allow(key: &AccessKey, need: Need, target: &Target<'_>) -> S3Result<bool> {
    let grants = &key.grants;
    let may = |allowed: bool| if allowed { Ok(false) } else { Err(denied()) };
    let on_key = |actions: &[Action]| {
        target.bucket.as_ref().zip(target.key.as_ref()).is_some_and(|(bucket, object)| {
            actions.iter().any(|&action| grants.allow_key(bucket, object, action))
        })
    };
    let put = || match on_key(&[Action::Write]) {
        true => Ok(false),
        false => may(on_key(&[Action::Create])).map(|_| true),
    };
    let bucket = target.bucket.as_ref();
    match need {
        Need::Nothing => Ok(false),
        Need::NewBucket => may(grants.create_buckets),
        Need::Whole(action) => may(bucket.is_some_and(|name| grants.allow_bucket(name, action))),
        Need::Somewhere(actions) => may(bucket.is_some_and(|name| {
            let here = |grant: &&Grant| grant.bucket.as_ref().is_none_or(|b| b == name);
            let mut grants = grants.list.iter().filter(here);
            grants.any(|grant| actions.iter().any(|&action| grant.actions.allow(action)))
        })),
        Need::Prefix => {
            may(bucket.is_some_and(|name| grants.allow_prefix(name, &target.prefix, Action::List)))
        }
        Need::Key(actions) => may(on_key(actions)),
        Need::Put => put(),
        Need::Copy => {
            may(reads_source(key, target.source)?)?;
            put()
        }
        Need::CopyPart => {
            may(reads_source(key, target.source)?)?;
            may(on_key(&[Action::Create]))
        }
        Need::Setting => {
            may(bucket.is_some_and(|name| grants.allow_bucket(name, Action::Admin)))?;
            Err(not_implemented())
        }
        Need::Unsupported => Err(not_implemented()),
    }
}

/// Said before the body is looked at: whatever it asks for, it is not done.
fn not_implemented() -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, "This operation is not implemented.")
}

fn reads_source(key: &AccessKey, source: Option<&str>) -> S3Result<bool> {
    let source = source::parse(source.unwrap_or_default())?;
    let bucket =
        BucketName::new(&source.bucket).map_err(|err| s3_error!(InvalidBucketName, "{err}"))?;
    Ok(key.grants.allow_key(&bucket, &source.key, Action::Read))
}

/// Says neither which bucket nor whether it exists.
fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use s3s::service::S3ServiceBuilder;

    use super::*;
    use crate::model::Grants;
    use crate::model::access::Actions;
    use crate::s3::guard::route;
    use crate::s3::guard::route::Kind;

    /// Operations that no request reaches through the table of routes alone.
    const BY_OTHER_WAYS: [&str; 1] = ["PostObject"];

    struct Nothing;
    impl s3s::S3 for Nothing {}

    struct Recorder(Arc<Mutex<BTreeSet<String>>>);

    #[async_trait::async_trait]
    impl S3Access for Recorder {
        async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
            self.0.lock().unwrap().insert(cx.s3_op().name().to_owned());
            Err(denied())
        }
    }

    /// The operations that s3s routes to, found by asking it.
    async fn reachable() -> BTreeSet<String> {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let mut builder = S3ServiceBuilder::new(Nothing);
        builder.set_auth(s3s::auth::SimpleAuth::new());
        builder.set_access(Recorder(Arc::clone(&seen)));
        let service = builder.build();
        let mut queries = vec![String::new()];
        for name in route::subresources() {
            queries.extend([format!("?{name}"), format!("?{name}&id=1")]);
        }
        for other in [
            "uploadId=1",
            "partNumber=1&uploadId=1",
            "list-type=2",
            "x-id=ListDirectoryBuckets",
            "select&select-type=2",
        ] {
            queries.push(format!("?{other}"));
        }
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            for path in ["/", "/bbb", "/bbb/k"] {
                for query in &queries {
                    for headers in [
                        &[][..],
                        &["x-amz-copy-source"],
                        &["x-amz-request-route", "x-amz-request-token"],
                    ] {
                        let mut request = http::Request::builder()
                            .method(method)
                            .uri(format!("{path}{query}"))
                            .header("host", "localhost");
                        for header in headers {
                            request = request.header(*header, "/bbb/k");
                        }
                        let request = request.body(s3s::Body::empty()).unwrap();
                        service.call(request).await.unwrap();
                    }
                }
            }
        }
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[tokio::test]
    async fn every_operation_of_s3s_has_its_row() {
        assert!(TABLE.is_sorted_by(|one, other| one.0 < other.0));
        let mut reached = reachable().await;
        reached.extend(BY_OTHER_WAYS.map(str::to_owned));
        let listed: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, reached);
        assert_eq!(need("PutSomethingNew"), Need::Unsupported);
    }

    /// The guard's list of routed parameters is s3s's: what it lets through has an operation.
    #[tokio::test]
    async fn a_routed_parameter_never_leads_to_a_plain_operation() {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let mut builder = S3ServiceBuilder::new(Nothing);
        builder.set_auth(s3s::auth::SimpleAuth::new());
        builder.set_access(Recorder(Arc::clone(&seen)));
        let service = builder.build();
        let plain = [
            "CreateBucket",
            "DeleteBucket",
            "DeleteObject",
            "GetObject",
            "HeadBucket",
            "HeadObject",
            "ListObjects",
            "PutObject",
        ];
        let mut routed = 0;
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE] {
            for (kind, path) in [(Kind::Bucket, "/bbb"), (Kind::Object, "/bbb/k")] {
                for name in route::subresources() {
                    if !route::is_routed(&method, kind, name) {
                        continue;
                    }
                    seen.lock().unwrap().clear();
                    let request = http::Request::builder()
                        .method(&method)
                        .uri(format!("{path}?{name}"))
                        .header("host", "localhost")
                        .body(s3s::Body::empty())
                        .unwrap();
                    service.call(request).await.unwrap();
                    let seen = seen.lock().unwrap();
                    let operation = seen.first().expect("a routed parameter has an operation");
                    assert!(!plain.contains(&operation.as_str()), "{method} {path}?{name}");
                    routed += 1;
                }
            }
        }
        assert!(routed > 60, "{routed}");
    }

    fn signer(actions: &[Action], prefix: &str) -> AccessKey {
        AccessKey {
            id: "AK".into(),
            secret: "SK".into(),
            grants: Grants {
                create_buckets: false,
                list: vec![Grant {
                    bucket: Some(BucketName::new("photos").unwrap()),
                    prefix: prefix.into(),
                    actions: Actions::of(actions),
                }],
            },
            declared: false,
        }
    }

    fn target(bucket: &str, key: Option<&str>) -> Target<'static> {
        Target {
            bucket: Some(BucketName::new(bucket).unwrap()),
            key: key.map(|key| ObjectKey::new(key).unwrap()),
            prefix: String::new(),
            source: Some("/photos/in/a"),
        }
    }

    #[test]
    fn each_row_needs_its_action_in_its_bucket_and_under_its_prefix() {
        use Action::*;
        let cases: [(&str, &[Action]); 15] = [
            ("GetObject", &[Read]),
            ("HeadObject", &[Read]),
            ("ListParts", &[Read]),
            ("PutObject", &[Write, Create]),
            ("PostObject", &[Write, Create]),
            ("UploadPart", &[Write, Create]),
            ("CompleteMultipartUpload", &[Write, Create]),
            ("AbortMultipartUpload", &[Write, Create, Delete]),
            ("PutObjectTagging", &[Write]),
            ("PutObjectAcl", &[Write]),
            ("GetObjectTagging", &[Read]),
            ("DeleteObject", &[Delete]),
            ("DeleteObjectTagging", &[Delete]),
            ("HeadBucket", &[List]),
            ("DeleteObjects", &[Delete]),
        ];
        for (name, enough) in cases {
            for action in Action::ALL {
                let key = signer(&[action], "in/");
                let allowed =
                    |bucket, object| allow(&key, need(name), &target(bucket, object)).is_ok();
                let right = enough.contains(&action);
                assert_eq!(allowed("photos", Some("in/a")), right, "{name} {action:?}");
                assert!(!allowed("others", Some("in/a")), "{name} {action:?}");
                if matches!(need(name), Need::Key(_) | Need::Put) {
                    assert!(!allowed("photos", Some("out/a")), "{name} {action:?}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_is_changed_only_with_a_grant_on_all_of_it() {
        let may = |name, prefix| {
            allow(&signer(&[Action::Admin], prefix), need(name), &target("photos", None)).is_ok()
        };
        for name in ["DeleteBucket", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"] {
            assert!(may(name, "") && !may(name, "in/"), "{name}");
            let all_else = [Action::Read, Action::List, Action::Create, Action::Write];
            let refused = allow(&signer(&all_else, ""), need(name), &target("photos", None));
            assert!(refused.is_err(), "{name}");
        }
        let create =
            allow(&signer(&Action::ALL, ""), need("CreateBucket"), &target("photos", None));
        assert!(create.is_err());
    }

    #[test]
    fn who_may_only_create_is_told_so() {
        let put = |actions: &[Action]| {
            allow(&signer(actions, ""), need("PutObject"), &target("photos", Some("in/a"))).unwrap()
        };
        assert!(put(&[Action::Create]));
        assert!(!put(&[Action::Create, Action::Write]));
    }

    #[test]
    fn a_copy_needs_its_source_too() {
        let copy = |name: &str, actions: &[Action]| {
            allow(&signer(actions, "in/"), need(name), &target("photos", Some("in/b"))).is_ok()
        };
        for name in ["CopyObject", "UploadPartCopy"] {
            assert!(copy(name, &[Action::Read, Action::Create]));
            assert!(!copy(name, &[Action::Write]));
            assert!(!copy(name, &[Action::Read]));
        }
    }

    #[test]
    fn a_listing_stays_under_the_granted_prefix() {
        let list = |prefix: &str| {
            let target = Target { prefix: prefix.into(), ..target("photos", None) };
            allow(&signer(&[Action::List], "in/"), need("ListObjectsV2"), &target).is_ok()
        };
        assert!(list("in/") && list("in/deep"));
        assert!(!list("") && !list("i") && !list("out/"));
    }
}
