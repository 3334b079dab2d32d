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

use super::error::ApiError;
use super::reconcile::ImportAsked;
use super::reconcile::ReconcileAsked;
use super::views::ChangedKey;
use super::views::NewBucket;
use super::views::NewKey;
use super::views::VerifyWish;
use super::views::Wishes;

/// What all paths of this version of the surface begin with.
pub(super) const ROOT: &str = "/api/v1/";
/// After the name of a backend.
const RESET: &str = "/reset";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Status,
    Stop,
    BucketList,
    BucketCreate(NewBucket),
    BucketShow(String),
    BucketSet(String, Wishes),
    BucketDelete(String),
    KeyList,
    KeyCreate(NewKey),
    KeyShow(String),
    KeySet(String, ChangedKey),
    KeyDelete(String),
    BackendList,
    BackendReset(String),
    Usage,
    Import(ImportAsked),
    Reconcile(ReconcileAsked),
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
        match self {
            Operation::Status => plain(Method::GET, "status"),
            Operation::Stop => plain(Method::POST, "stop"),
            Operation::BucketList => plain(Method::GET, "buckets"),
            Operation::BucketCreate(new) => plain(Method::POST, "buckets").with(new),
            Operation::BucketShow(name) => one(Method::GET, "buckets", name),
            Operation::BucketSet(name, wishes) => one(Method::PATCH, "buckets", name).with(wishes),
            Operation::BucketDelete(name) => one(Method::DELETE, "buckets", name),
            Operation::KeyList => plain(Method::GET, "keys"),
            Operation::KeyCreate(new) => plain(Method::POST, "keys").with(new),
            Operation::KeyShow(id) => one(Method::GET, "keys", id),
            Operation::KeySet(id, change) => one(Method::PATCH, "keys", id).with(change),
            Operation::KeyDelete(id) => one(Method::DELETE, "keys", id),
            Operation::BackendList => plain(Method::GET, "backends"),
            Operation::BackendReset(name) => {
                let of_backend = one(Method::POST, "backends", name);
                Sent { path: of_backend.path + RESET, ..of_backend }
            }
            Operation::Usage => plain(Method::GET, "usage"),
            Operation::Import(asked) => plain(Method::POST, "import").with(asked),
            Operation::Reconcile(asked) => plain(Method::POST, "reconcile").with(asked),
            Operation::Verify(wish) => plain(Method::POST, "verify").with(wish),
        }
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
            ("buckets", Some(name), "GET") => Operation::BucketShow(name),
            ("buckets", Some(name), "PATCH") => Operation::BucketSet(name, json(body)?),
            ("buckets", Some(name), "DELETE") => Operation::BucketDelete(name),
            ("keys", None, "GET") => Operation::KeyList,
            ("keys", None, "POST") => Operation::KeyCreate(json(body)?),
            ("keys", Some(id), "GET") => Operation::KeyShow(id),
            ("keys", Some(id), "PATCH") => Operation::KeySet(id, json(body)?),
            ("keys", Some(id), "DELETE") => Operation::KeyDelete(id),
            ("backends", None, "GET") => Operation::BackendList,
            ("backends", Some(rest), "POST") => match rest.strip_suffix(RESET) {
                Some(name) => Operation::BackendReset(name.to_owned()),
                None => return Err(no_such_path()),
            },
            ("usage", None, "GET") => Operation::Usage,
            ("import", None, "POST") => Operation::Import(json(body)?),
            ("reconcile", None, "POST") => Operation::Reconcile(json(body)?),
            ("verify", None, "POST") => Operation::Verify(json(body)?),
            (
                "status" | "stop" | "backends" | "usage" | "import" | "reconcile" | "verify",
                None,
                _,
            )
            | ("buckets" | "keys", _, _) => {
                let text = format!("{method} cannot be asked of {path}");
                return Err(ApiError::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    text,
                ));
            }
            _ => return Err(no_such_path()),
        };
        Ok(operation)
    }
}

impl Sent {
    fn with(self, body: &impl Serialize) -> Sent {
        let body = serde_json::to_value(body).expect("what is sent has only texts and numbers");
        Sent { body: Some(body), ..self }
    }
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

    fn all() -> Vec<Operation> {
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
        let change = ChangedKey { add: vec![grant.clone()], ..ChangedKey::default() };
        vec![
            Operation::Status,
            Operation::Stop,
            Operation::BucketList,
            Operation::BucketCreate(NewBucket { name: "photos".into(), wishes: wishes.clone() }),
            Operation::BucketShow("a.b-c".into()),
            Operation::BucketSet("photos".into(), wishes),
            Operation::BucketDelete("../é/ ?".into()),
            Operation::KeyList,
            Operation::KeyCreate(NewKey { create_buckets: true, grants: vec![grant] }),
            Operation::KeyShow("LK1".into()),
            Operation::KeySet("LK1".into(), change),
            Operation::KeyDelete("LK1".into()),
            Operation::BackendList,
            Operation::BackendReset("disk-1".into()),
            Operation::Usage,
            Operation::Import(ImportAsked {
                backend: "disk-1".into(),
                bucket: "photos".into(),
                prefix: "a/é".into(),
                take_over: true,
                ..ImportAsked::default()
            }),
            Operation::Reconcile(ReconcileAsked::default()),
            Operation::Reconcile(ReconcileAsked { backend: Some("disk-1".into()) }),
            Operation::Verify(VerifyWish { backends: true, read: false }),
        ]
    }

    #[test]
    fn every_operation_is_read_as_it_was_sent() {
        for operation in all() {
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
        assert_eq!(status(Method::POST, "/api/v1/usage", ""), 405);
        assert_eq!(status(Method::POST, "/api/v1/backends/x", ""), 404);
        assert_eq!(status(Method::POST, "/api/v1/buckets", "{}"), 400);
        assert_eq!(status(Method::POST, "/api/v1/buckets", "{"), 400);
        let extra = r#"{"name":"abc","wishes":{"replica":2}}"#;
        let err = Operation::read(&Method::POST, "/api/v1/buckets", extra.as_bytes());
        assert!(err.unwrap_err().message.contains("replica"));
    }
}
