//! The operator's verbs, each once, and their form as a request.
//!
//! The command line makes an [`Operation`] and either sends it over the socket or runs it on a
//! [`super::Desk`] of its own; the server reads it from the request and runs it on its desk. Both
//! ways lead through [`super::Desk::run`], so they cannot differ in what they do.

use http::Method;
use http::StatusCode;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::percent_decode_str;
use percent_encoding::utf8_percent_encode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cleanup::ChosenPaths;
use super::cleanup::CleanupWish;
use super::duties::RemoveWish;
use super::duties::SurplusWish;
use super::error::ApiError;
use super::lifecycle::NewLifecycle;
use super::lifecycle::RuleView;
use super::reconcile::ImportAsked;
use super::reconcile::ReconcileAsked;
use super::scrub::ScrubAsked;
use super::views::ChangedKey;
use super::views::NewBucket;
use super::views::NewKey;
use super::views::VerifyWish;
use super::views::Wishes;
use super::workers::ChosenWorkers;
use super::workers::RunWish;

/// What all paths of this version of the surface begin with.
pub(super) const ROOT: &str = "/api/v1/";
/// After the name of a backend.
const RESET: &str = "/reset";
const DRAIN: &str = "/drain";
const UNDRAIN: &str = "/undrain";
const REMOVE: &str = "/remove";
/// After the name of a worker.
const WAKE: &str = "/wake";
const RUN: &str = "/run";
/// After the name of a bucket; behind it may stand the id of a rule.
const LIFECYCLE: &str = "lifecycle";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Status,
    Stop,
    BucketList,
    BucketCreate(NewBucket),
    BucketShow(String),
    BucketSet(String, Wishes),
    BucketDelete(String),
    LifecycleShow(String),
    LifecycleSet(String, NewLifecycle),
    LifecycleAdd(String, RuleView),
    /// One rule of the bucket, or all.
    LifecycleDelete(String, Option<String>),
    KeyList,
    KeyCreate(NewKey),
    KeyShow(String),
    KeySet(String, ChangedKey),
    KeyDelete(String),
    BackendList,
    BackendReset(String),
    BackendDrain(String),
    BackendUndrain(String),
    BackendRemove(String, RemoveWish),
    /// What the rebalancer would move now.
    RebalancePlan,
    /// What the over-replication worker would remove now.
    SurplusPlan(SurplusWish),
    ObjectShow(String, String),
    WorkerList,
    /// Looks now instead of later.
    WorkerWake(String),
    /// A full pass, to its end.
    WorkerRun(String, RunWish),
    WorkerPause(ChosenWorkers),
    WorkerResume(ChosenWorkers),
    CleanupList(CleanupWish),
    CleanupRetry(ChosenPaths),
    CleanupForget(ChosenPaths),
    Usage,
    Import(ImportAsked),
    Reconcile(ReconcileAsked),
    Scrub(ScrubAsked),
    ScrubState,
    Verify(VerifyWish),
}

/// An operation as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

impl Operation {
    pub fn sent(&self) -> Sent {
        let plain = |method, path: &str| Sent { method, path: format!("{ROOT}{path}"), body: None };
        let one = |method, kind: &str, name: &str| {
            let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
            plain(method, &format!("{kind}/{name}"))
        };
        let verb_of = |kind: &str, name: &str, verb: &str| {
            let one = one(Method::POST, kind, name);
            Sent { path: one.path + verb, ..one }
        };
        let worker = |name: &str, verb: &str| verb_of("workers", name, verb);
        let backend = |name: &str, verb: &str| verb_of("backends", name, verb);
        match self {
            Operation::Status => plain(Method::GET, "status"),
            Operation::Stop => plain(Method::POST, "stop"),
            Operation::BucketList => plain(Method::GET, "buckets"),
            Operation::BucketCreate(new) => plain(Method::POST, "buckets").with(new),
            Operation::BucketShow(name) => one(Method::GET, "buckets", name),
            Operation::BucketSet(name, wishes) => one(Method::PATCH, "buckets", name).with(wishes),
            Operation::BucketDelete(name) => one(Method::DELETE, "buckets", name),
            Operation::LifecycleShow(name) => one(Method::GET, "buckets", name).below(LIFECYCLE),
            Operation::LifecycleSet(name, new) => {
                one(Method::PUT, "buckets", name).below(LIFECYCLE).with(new)
            }
            Operation::LifecycleAdd(name, rule) => {
                one(Method::POST, "buckets", name).below(LIFECYCLE).with(rule)
            }
            Operation::LifecycleDelete(name, id) => {
                let all = one(Method::DELETE, "buckets", name).below(LIFECYCLE);
                match id {
                    Some(id) => all.below(&utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()),
                    None => all,
                }
            }
            Operation::KeyList => plain(Method::GET, "keys"),
            Operation::KeyCreate(new) => plain(Method::POST, "keys").with(new),
            Operation::KeyShow(id) => one(Method::GET, "keys", id),
            Operation::KeySet(id, change) => one(Method::PATCH, "keys", id).with(change),
            Operation::KeyDelete(id) => one(Method::DELETE, "keys", id),
            Operation::BackendList => plain(Method::GET, "backends"),
            Operation::BackendReset(name) => backend(name, RESET),
            Operation::BackendDrain(name) => backend(name, DRAIN),
            Operation::BackendUndrain(name) => backend(name, UNDRAIN),
            Operation::BackendRemove(name, wish) => backend(name, REMOVE).with(wish),
            Operation::RebalancePlan => plain(Method::GET, "rebalance"),
            Operation::SurplusPlan(wish) => plain(Method::POST, "over_replication").with(wish),
            Operation::ObjectShow(bucket, key) => {
                let of_bucket = one(Method::GET, "objects", bucket);
                let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
                Sent { path: format!("{}/{key}", of_bucket.path), ..of_bucket }
            }
            Operation::WorkerList => plain(Method::GET, "workers"),
            Operation::WorkerWake(name) => worker(name, WAKE),
            Operation::WorkerRun(name, wish) => worker(name, RUN).with(wish),
            Operation::WorkerPause(chosen) => plain(Method::POST, "workers/pause").with(chosen),
            Operation::WorkerResume(chosen) => plain(Method::POST, "workers/resume").with(chosen),
            Operation::CleanupList(wish) => plain(Method::POST, "cleanup/list").with(wish),
            Operation::CleanupRetry(chosen) => plain(Method::POST, "cleanup/retry").with(chosen),
            Operation::CleanupForget(chosen) => plain(Method::POST, "cleanup/forget").with(chosen),
            Operation::Usage => plain(Method::GET, "usage"),
            Operation::Import(asked) => plain(Method::POST, "import").with(asked),
            Operation::Scrub(asked) => plain(Method::POST, "scrub").with(asked),
            Operation::ScrubState => plain(Method::GET, "scrub"),
            Operation::Reconcile(asked) => plain(Method::POST, "reconcile").with(asked),
            Operation::Verify(wish) => plain(Method::POST, "verify").with(wish),
        }
    }

    /// It may take long, and is answered line by line.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Operation::Verify(_)
                | Operation::BackendRemove(..)
                | Operation::WorkerRun(..)
                | Operation::Import(_)
                | Operation::Reconcile(_)
                | Operation::Scrub(_)
        )
    }

    /// The operation that a request asks for.
    pub fn read(method: &Method, path: &str, body: &[u8]) -> Result<Operation, ApiError> {
        let rest = path.strip_prefix(ROOT).ok_or_else(no_such_path)?;
        let (kind, name) = match rest.split_once('/') {
            None => (rest, None),
            Some((kind, name)) => {
                let name = percent_decode_str(name).decode_utf8().map_err(|_| no_such_path())?;
                (kind, Some(name.into_owned()))
            }
        };
        let operation = match (kind, name, method.as_str()) {
            ("status", None, "GET") => Operation::Status,
            ("stop", None, "POST") => Operation::Stop,
            ("buckets", None, "GET") => Operation::BucketList,
            ("buckets", None, "POST") => Operation::BucketCreate(json(body)?),
            ("buckets", Some(rest), method) if of_lifecycle(&rest).is_some() => {
                lifecycle(&rest, method, body)?
            }
            ("buckets", Some(name), "GET") => Operation::BucketShow(name),
            ("buckets", Some(name), "PATCH") => Operation::BucketSet(name, json(body)?),
            ("buckets", Some(name), "DELETE") => Operation::BucketDelete(name),
            ("keys", None, "GET") => Operation::KeyList,
            ("keys", None, "POST") => Operation::KeyCreate(json(body)?),
            ("keys", Some(id), "GET") => Operation::KeyShow(id),
            ("keys", Some(id), "PATCH") => Operation::KeySet(id, json(body)?),
            ("keys", Some(id), "DELETE") => Operation::KeyDelete(id),
            ("backends", None, "GET") => Operation::BackendList,
            ("backends", Some(rest), "POST") => backend(&rest, body)?,
            ("rebalance", None, "GET") => Operation::RebalancePlan,
            ("over_replication", None, "POST") => Operation::SurplusPlan(json(body)?),
            ("objects", Some(path), "GET") => object(&path)?,
            ("workers", None, "GET") => Operation::WorkerList,
            ("workers", Some(rest), "POST") => worker(&rest, body)?,
            ("cleanup", Some(verb), "POST") => cleanup(&verb, body)?,
            ("usage", None, "GET") => Operation::Usage,
            ("import", None, "POST") => Operation::Import(json(body)?),
            ("scrub", None, "POST") => Operation::Scrub(json(body)?),
            ("scrub", None, "GET") => Operation::ScrubState,
            ("reconcile", None, "POST") => Operation::Reconcile(json(body)?),
            ("verify", None, "POST") => Operation::Verify(json(body)?),
            ("status" | "stop" | "backends" | "workers" | "usage", None, _)
            | ("import" | "reconcile" | "scrub" | "verify", None, _)
            | ("buckets" | "keys", _, _) => return Err(not_allowed(method.as_str(), path)),
            _ => return Err(no_such_path()),
        };
        Ok(operation)
    }
}

/// A key may have slashes.
fn object(path: &str) -> Result<Operation, ApiError> {
    let (bucket, key) = path.split_once('/').ok_or_else(no_such_path)?;
    Ok(Operation::ObjectShow(bucket.to_owned(), key.to_owned()))
}

fn backend(rest: &str, body: &[u8]) -> Result<Operation, ApiError> {
    let at = rest.rfind('/').ok_or_else(no_such_path)?;
    let (name, verb) = (rest[..at].to_owned(), &rest[at..]);
    match verb {
        RESET => Ok(Operation::BackendReset(name)),
        DRAIN => Ok(Operation::BackendDrain(name)),
        UNDRAIN => Ok(Operation::BackendUndrain(name)),
        REMOVE => Ok(Operation::BackendRemove(name, json(body)?)),
        _ => Err(no_such_path()),
    }
}

fn worker(rest: &str, body: &[u8]) -> Result<Operation, ApiError> {
    match (rest, rest.strip_suffix(WAKE), rest.strip_suffix(RUN)) {
        ("pause", ..) => Ok(Operation::WorkerPause(json(body)?)),
        ("resume", ..) => Ok(Operation::WorkerResume(json(body)?)),
        (_, Some(name), _) => Ok(Operation::WorkerWake(name.to_owned())),
        (_, _, Some(name)) => Ok(Operation::WorkerRun(name.to_owned(), json(body)?)),
        _ => Err(no_such_path()),
    }
}

fn cleanup(verb: &str, body: &[u8]) -> Result<Operation, ApiError> {
    match verb {
        "list" => Ok(Operation::CleanupList(json(body)?)),
        "retry" => Ok(Operation::CleanupRetry(json(body)?)),
        "forget" => Ok(Operation::CleanupForget(json(body)?)),
        _ => Err(no_such_path()),
    }
}

/// The bucket whose rules `rest`, the end of a path, is about, and the rule. A bucket's name has
/// no slash.
fn of_lifecycle(rest: &str) -> Option<(&str, Option<&str>)> {
    let (bucket, rest) = rest.split_once('/')?;
    match rest.strip_prefix(LIFECYCLE)? {
        "" => Some((bucket, None)),
        id => Some((bucket, Some(id.strip_prefix('/')?))),
    }
}

fn lifecycle(rest: &str, method: &str, body: &[u8]) -> Result<Operation, ApiError> {
    let (bucket, id) = of_lifecycle(rest).ok_or_else(no_such_path)?;
    let bucket = bucket.to_owned();
    Ok(match (method, id) {
        ("GET", None) => Operation::LifecycleShow(bucket),
        ("PUT", None) => Operation::LifecycleSet(bucket, json(body)?),
        ("POST", None) => Operation::LifecycleAdd(bucket, json(body)?),
        ("DELETE", id) => Operation::LifecycleDelete(bucket, id.map(str::to_owned)),
        _ => return Err(not_allowed(method, rest)),
    })
}

impl Sent {
    fn below(self, name: &str) -> Sent {
        Sent { path: format!("{}/{name}", self.path), ..self }
    }

    fn with(self, body: &impl Serialize) -> Sent {
        let body = serde_json::to_value(body).expect("what is sent has only texts and numbers");
        Sent { body: Some(body), ..self }
    }
}

fn not_allowed(method: &str, path: &str) -> ApiError {
    let text = format!("{method} cannot be asked of {path}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
}

fn no_such_path() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path")
}

/// No body is an empty object.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|err| ApiError::invalid(format!("the body is not what was expected: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::views::GrantView;

    fn all_of_names() -> Vec<Operation> {
        let wishes = Wishes {
            replicas: Some(2),
            routing: Some("spread".into()),
            require_distinct: Some(vec!["site".into()]),
            quota: Some(0),
            ..Wishes::default()
        };
        let grant = GrantView {
            bucket: "*".into(),
            prefix: "a/b".into(),
            preset: Some("admin".into()),
            allow: None,
        };
        let rule = r#"{"id":"x","tags":{"a":"b"},"expire_after":"2 d","enabled":false}"#;
        let rule: RuleView = serde_json::from_str(rule).unwrap();
        let change = ChangedKey { add: vec![grant.clone()], ..ChangedKey::default() };
        vec![
            Operation::Status,
            Operation::Stop,
            Operation::BucketList,
            Operation::BucketCreate(NewBucket { name: "photos".into(), wishes: wishes.clone() }),
            Operation::BucketShow("a.b-c".into()),
            Operation::BucketSet("photos".into(), wishes),
            Operation::BucketDelete("../é/ ?".into()),
            Operation::LifecycleShow("photos".into()),
            Operation::LifecycleSet(
                "photos".into(),
                NewLifecycle { lifecycle: vec![rule.clone()] },
            ),
            Operation::LifecycleAdd("photos".into(), rule),
            Operation::LifecycleDelete("photos".into(), None),
            Operation::LifecycleDelete("photos".into(), Some("lifecycle/../é ?".into())),
            Operation::KeyList,
            Operation::KeyCreate(NewKey { create_buckets: true, grants: vec![grant] }),
            Operation::KeyShow("LK1".into()),
            Operation::KeySet("LK1".into(), change),
            Operation::KeyDelete("LK1".into()),
        ]
    }

    fn all_of_backends() -> Vec<Operation> {
        vec![
            Operation::BackendList,
            Operation::BackendReset("disk-1".into()),
            Operation::BackendDrain("disk-1".into()),
            Operation::BackendUndrain("a b".into()),
            Operation::BackendRemove(
                "disk-1".into(),
                RemoveWish { purge: true, confirm: Some("1-2".into()) },
            ),
            Operation::RebalancePlan,
            Operation::SurplusPlan(SurplusWish { batch: 7 }),
            Operation::ObjectShow("photos".into(), "a/b c/é?/".into()),
            Operation::WorkerList,
            Operation::WorkerWake("over_replication".into()),
            Operation::WorkerRun("cleanup".into(), RunWish { batch: 5 }),
            Operation::WorkerPause(ChosenWorkers { names: vec!["drain".into()], all: false }),
            Operation::WorkerResume(ChosenWorkers { names: Vec::new(), all: true }),
            Operation::CleanupList(CleanupWish { backend: Some("disk-1".into()), all: true }),
            Operation::CleanupRetry(ChosenPaths { ids: Vec::new(), all: true }),
            Operation::CleanupForget(ChosenPaths { ids: vec!["0".repeat(13)], all: false }),
            Operation::Usage,
            Operation::Import(ImportAsked {
                backend: "disk-1".into(),
                bucket: "photos".into(),
                prefix: "a/é".into(),
                take_over: true,
                ..ImportAsked::default()
            }),
            Operation::Reconcile(ReconcileAsked::default()),
            Operation::Scrub(ScrubAsked { backend: Some("disk-1".into()) }),
            Operation::ScrubState,
            Operation::Reconcile(ReconcileAsked { backend: Some("disk-1".into()) }),
            Operation::Verify(VerifyWish { backends: true, read: false }),
        ]
    }

    #[test]
    fn every_operation_is_read_as_it_was_sent() {
        for operation in all_of_names().into_iter().chain(all_of_backends()) {
            let sent = operation.sent();
            let body = sent.body.map(|body| body.to_string()).unwrap_or_default();
            let read = Operation::read(&sent.method, &sent.path, body.as_bytes());
            assert_eq!(read.unwrap(), operation, "{} {}", sent.method, sent.path);
        }
    }

    #[test]
    fn what_is_no_operation_is_refused_in_words() {
        let status = |method: Method, path: &str, body: &str| {
            Operation::read(&method, path, body.as_bytes()).unwrap_err().status
        };
        assert_eq!(status(Method::GET, "/api/v1/nothing", ""), 404);
        assert_eq!(status(Method::GET, "/api/v2/status", ""), 404);
        assert_eq!(status(Method::GET, "/api/v1/status/x", ""), 404);
        assert_eq!(status(Method::GET, "/api/v1/stop", ""), 405);
        assert_eq!(status(Method::PUT, "/api/v1/buckets/x", ""), 405);
        assert_eq!(status(Method::PATCH, "/api/v1/buckets/x/lifecycle", ""), 405);
        assert_eq!(status(Method::GET, "/api/v1/buckets/x/lifecycle/id", ""), 405);
        assert_eq!(status(Method::PUT, "/api/v1/buckets/x/lifecycle", "{}"), 400);
        assert_eq!(status(Method::PUT, "/api/v1/buckets/x/lifecycles", ""), 405);
        assert_eq!(status(Method::POST, "/api/v1/usage", ""), 405);
        assert_eq!(status(Method::POST, "/api/v1/backends/x", ""), 404);
        assert_eq!(status(Method::POST, "/api/v1/workers", ""), 405);
        assert_eq!(status(Method::POST, "/api/v1/workers/cleanup", ""), 404);
        assert_eq!(status(Method::POST, "/api/v1/workers/pause", "{\"name\":\"x\"}"), 400);
        assert_eq!(status(Method::POST, "/api/v1/cleanup/delete", ""), 404);
        assert_eq!(status(Method::GET, "/api/v1/objects/photos", ""), 404);
        assert_eq!(status(Method::POST, "/api/v1/buckets", "{}"), 400);
        assert_eq!(status(Method::POST, "/api/v1/buckets", "{"), 400);
        let extra = r#"{"name":"abc","wishes":{"replica":2}}"#;
        let err = Operation::read(&Method::POST, "/api/v1/buckets", extra.as_bytes());
        assert!(err.unwrap_err().message.contains("replica"));
    }
}
