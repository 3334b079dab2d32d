//! S3 with versions: what is overwritten or deleted stays, hidden. As much of it as a probe
//! and deletions ask.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::{Answer, Asked, Cloud};

/// Whether a bucket keeps versions, and who may see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versioning {
    Off,
    On,
    /// The key may not list versions.
    Secret,
}

pub(crate) struct S3 {
    pub(crate) versioning: Versioning,
    /// All versions of each object, the newest last; `None` marks a deletion.
    pub(crate) objects: BTreeMap<String, Vec<Option<Bytes>>>,
    /// Objects that are not deleted, with the code and status of the refusal.
    pub(crate) kept: BTreeMap<String, (&'static str, u16)>,
    /// What it says to a deletion of many instead of doing it.
    pub(crate) batches: Option<(u16, &'static str)>,
    /// Keys of each request that deleted: one of each, or many.
    pub(crate) deletions: Vec<usize>,
}

const DATE: &str = "2024-01-01T00:00:00.000Z";

fn refused(status: u16, code: &str) -> Answer {
    Answer::bytes(status, format!("<Error><Code>{code}</Code></Error>"))
}

impl S3 {
    pub(crate) fn new(versioning: Versioning) -> S3 {
        S3 {
            versioning,
            objects: BTreeMap::new(),
            kept: BTreeMap::new(),
            batches: None,
            deletions: Vec::new(),
        }
    }

    fn put(&mut self, key: &str, version: Option<Bytes>) {
        let versions = self.objects.entry(key.to_owned()).or_default();
        if self.versioning == Versioning::Off {
            versions.clear();
        }
        if self.versioning != Versioning::Off || version.is_some() {
            versions.push(version);
        }
    }

    /// Deletes many, quietly: only errors are told, each with an empty version, as some servers do.
    fn delete_many(&mut self, asked: &Asked) -> Option<Answer> {
        let body = std::str::from_utf8(&asked.body).ok()?;
        let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        let keys: Vec<String> = keys.map(|(key, _)| key.replace("&amp;", "&")).collect();
        self.deletions.push(keys.len());
        if let Some((status, said)) = self.batches {
            return Some(Answer::bytes(status, said));
        }
        let mut xml =
            String::from("<DeleteResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for key in keys {
            match self.kept.get(&key) {
                None => self.put(&key, None),
                Some((code, _)) => xml.push_str(&format!(
                    "<Error><Key>{key}</Key><Code>{code}</Code><Message></Message>\
                     <VersionId></VersionId></Error>"
                )),
            }
        }
        xml.push_str("</DeleteResult>");
        Some(Answer::bytes(200, xml))
    }

    fn versions(&self, prefix: &str) -> Answer {
        if self.versioning == Versioning::Secret {
            return refused(403, "AccessDenied");
        }
        let mut xml = String::from("<ListVersionsResult><IsTruncated>false</IsTruncated>");
        for (key, versions) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            for (n, version) in versions.iter().enumerate() {
                let latest = n + 1 == versions.len();
                let (element, size) = match version {
                    Some(bytes) => ("Version", format!("<Size>{}</Size>", bytes.len())),
                    None => ("DeleteMarker", String::new()),
                };
                xml.push_str(&format!(
                    "<{element}><Key>{key}</Key><VersionId>v{n}</VersionId>\
                     <IsLatest>{latest}</IsLatest><LastModified>{DATE}</LastModified>{size}\
                     </{element}>"
                ));
            }
        }
        xml.push_str("</ListVersionsResult>");
        Answer::bytes(200, xml)
    }

    fn list(&self, prefix: &str) -> Answer {
        let mut xml = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        for (key, versions) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            if let Some(Some(bytes)) = versions.last() {
                xml.push_str(&format!(
                    "<Contents><Key>{key}</Key><LastModified>{DATE}</LastModified>\
                     <ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                ));
            }
        }
        xml.push_str("</ListBucketResult>");
        Answer::bytes(200, xml)
    }
}

impl Cloud for S3 {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        let path = percent_decode_str(&asked.path).decode_utf8().ok()?;
        let key = path.strip_prefix("/bucket")?.trim_start_matches('/');
        match (asked.method.as_str(), key) {
            ("GET", "") if asked.query.contains_key("versions") => {
                Some(self.versions(asked.query("prefix")))
            }
            ("GET", "") => Some(self.list(asked.query("prefix"))),
            ("PUT", _) => {
                self.put(key, Some(asked.body.clone()));
                Some(Answer::bytes(200, "").with("etag", "\"e\"".to_owned()))
            }
            ("POST", "") if asked.query.contains_key("delete") => self.delete_many(asked),
            ("DELETE", _) => {
                self.deletions.push(1);
                if let Some((code, status)) = self.kept.get(key) {
                    return Some(refused(*status, code));
                }
                self.put(key, None);
                Some(Answer::bytes(204, ""))
            }
            ("GET" | "HEAD", _) => match self.objects.get(key).and_then(|all| all.last()) {
                Some(Some(bytes)) => Some(asked.part_of(bytes)),
                _ => Some(refused(404, "NoSuchKey")),
            },
            _ => None,
        }
    }
}
