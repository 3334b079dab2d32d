//! Google Drive: files by id, found by questions about their names and parents; a deletion puts
//! them into the bin.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Answer, Asked, Cloud, PAGE};

const FOLDER: &str = "application/vnd.google-apps.folder";

pub(crate) struct File {
    name: String,
    parent: String,
    /// Without bytes: a folder.
    pub(crate) bytes: Option<Bytes>,
    pub(crate) trashed: bool,
}

#[derive(Default)]
pub(crate) struct Gdrive {
    pub(crate) files: BTreeMap<String, File>,
}

impl File {
    fn described(&self, id: &str) -> Value {
        let mut file = json!({
            "id": id,
            "name": self.name,
            "mimeType": FOLDER,
            "modifiedTime": "2024-01-01T00:00:00.000Z",
            "parents": [self.parent],
        });
        if let Some(bytes) = &self.bytes {
            file["mimeType"] = "application/octet-stream".into();
            file["size"] = bytes.len().to_string().into();
        }
        file
    }
}

fn missing() -> Answer {
    Answer::json(404, json!({ "error": { "code": 404, "message": "File not found" } }))
}

impl Cloud for Gdrive {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        if asked.host != "www.googleapis.com" {
            return None;
        }
        if asked.header("authorization") != "Bearer a-token" {
            return Some(Answer::json(401, json!({ "error": { "code": 401 } })));
        }
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/drive/v3/files") => self.find(asked),
            ("POST", "/drive/v3/files") => {
                let body = asked.json();
                (body["mimeType"] == FOLDER).then(|| self.create(&body, None))?
            }
            ("POST", "/upload/drive/v3/files") => {
                let (metadata, bytes) = parts(asked)?;
                self.create(&serde_json::from_slice(&metadata).ok()?, Some(bytes))
            }
            (method, path) => {
                let id = path.strip_prefix("/drive/v3/files/")?;
                let file = match self.files.get_mut(id) {
                    Some(file) => file,
                    None => return Some(missing()),
                };
                match (method, &file.bytes) {
                    ("PATCH", _) => {
                        file.trashed = asked.json()["trashed"] == true;
                        Some(Answer::json(200, file.described(id)))
                    }
                    ("GET", Some(bytes)) if asked.query("alt") == "media" => {
                        Some(asked.part_of(bytes))
                    }
                    ("GET", _) => Some(Answer::json(200, file.described(id))),
                    _ => None,
                }
            }
        }
    }
}

impl Gdrive {
    fn create(&mut self, metadata: &Value, bytes: Option<Bytes>) -> Option<Answer> {
        let id = format!("file{}", self.files.len());
        let name = metadata["name"].as_str()?.to_owned();
        let parent = metadata["parents"][0].as_str()?.to_owned();
        let file = File { name, parent, bytes, trashed: false };
        let answer = Answer::json(200, file.described(&id));
        self.files.insert(id, file);
        Some(answer)
    }

    /// Answers `name = '…' and '…' in parents and trashed = false and mimeType = '…'`, of which
    /// the name and the kind may not be there, and which may name several parents.
    fn find(&self, asked: &Asked) -> Option<Answer> {
        let (mut name, mut parents, mut folder) = (None, Vec::new(), false);
        for term in asked.query("q").split(" and ") {
            let inner = term.trim_start_matches('(').trim_end_matches(')');
            if let Some(quoted) = term.strip_prefix("name = '") {
                name = Some(quoted.strip_suffix('\'')?.replace("\\'", "'"));
            } else if inner.ends_with("' in parents") {
                let quoted = inner.split(" or ").map(|term| term.strip_suffix("' in parents"));
                parents = quoted.map(|term| term?.strip_prefix('\'')).collect::<Option<_>>()?;
            } else if term == format!("mimeType = '{FOLDER}'") {
                folder = true;
            } else if term != "trashed = false" {
                return None;
            }
        }
        let wanted = |file: &File| {
            parents.contains(&file.parent.as_str())
                && !file.trashed
                && name.as_ref().is_none_or(|name| *name == file.name)
                && (!folder || file.bytes.is_none())
        };
        let found = self.files.iter().filter(|(_, file)| wanted(file));
        let skip: usize = asked.query("pageToken").parse().unwrap_or_default();
        let found: Vec<_> = found.skip(skip).map(|(id, file)| file.described(id)).collect();
        let mut page = json!({ "files": found.get(..PAGE).unwrap_or(&found) });
        if found.len() > PAGE {
            page["nextPageToken"] = (skip + PAGE).to_string().into();
        }
        Some(Answer::json(200, page))
    }
}

/// The two parts of a multi-part body: metadata and bytes.
fn parts(asked: &Asked) -> Option<(Bytes, Bytes)> {
    let boundary = asked.header("content-type").split_once("boundary=")?.1;
    let mut rest = asked.body.clone();
    let mut found = Vec::new();
    let open = format!("--{boundary}\r\n");
    let end = format!("\r\n--{boundary}");
    for _ in 0..2 {
        let at = position(&rest, open.as_bytes())?;
        let part = rest.slice(at + open.len()..);
        let part = part.slice(position(&part, b"\r\n\r\n")? + 4..);
        let length = position(&part, end.as_bytes())?;
        rest = part.slice(length + 2..);
        found.push(part.slice(..length));
    }
    let bytes = found.pop()?;
    Some((found.pop()?, bytes))
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}
