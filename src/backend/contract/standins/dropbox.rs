//! Dropbox: arguments in a header that takes ASCII only, folders that come by themselves, and
//! listings that go on at a cursor.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Answer, Asked, Cloud, PAGE, folders_of};

#[derive(Default)]
pub(crate) struct Dropbox {
    pub(crate) files: BTreeMap<String, Bytes>,
    /// What is left of listings, by cursor.
    lists: BTreeMap<String, Vec<Value>>,
    pub(crate) refreshed: usize,
}

fn described(path: &str, size: Option<usize>) -> Value {
    let name = path.rsplit('/').next();
    let own = json!({ "name": name, "path_display": path, "path_lower": path.to_lowercase(), "id": "id:x" });
    let mut entry = match size {
        None => json!({ ".tag": "folder" }),
        Some(size) => json!({
            ".tag": "file",
            "size": size,
            "rev": "a1c10ce0dd78",
            "client_modified": "2015-05-12T15:50:38Z",
            "server_modified": "2015-05-12T15:50:38Z",
            "content_hash": "e3b0c44298fc1c149afbf4c8996fb924",
        }),
    };
    entry.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    entry
}

fn refused(summary: &str) -> Answer {
    Answer::json(409, json!({ "error_summary": summary, "error": {} }))
}

impl Cloud for Dropbox {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        if asked.method != "POST" {
            return None;
        }
        if (asked.host.as_str(), asked.path.as_str()) == ("api.dropboxapi.com", "/oauth2/token") {
            self.refreshed += 1;
            let token = json!({ "access_token": "a-token", "expires_in": 14_400 });
            return Some(Answer::json(200, token));
        }
        if asked.header("authorization") != "Bearer a-token" {
            return Some(Answer::json(401, json!({ "error_summary": "invalid_access_token/" })));
        }
        match asked.host.as_str() {
            "content.dropboxapi.com" => self.content(asked),
            "api.dropboxapi.com" => self.call(asked),
            _ => None,
        }
    }
}

impl Dropbox {
    fn content(&mut self, asked: &Asked) -> Option<Answer> {
        let argument = asked.headers.get("dropbox-api-arg")?;
        if !argument.as_bytes().is_ascii() {
            let why = "HTTP header \"Dropbox-API-Arg\": could not decode input as JSON";
            return Some(Answer::bytes(400, why));
        }
        let argument: Value = serde_json::from_slice(argument.as_bytes()).ok()?;
        let path = argument["path"].as_str()?;
        match asked.path.as_str() {
            "/2/files/upload" => {
                self.files.insert(path.to_owned(), asked.body.clone());
                Some(Answer::json(200, described(path, Some(asked.body.len()))))
            }
            "/2/files/download" => match self.files.get(path) {
                Some(bytes) => Some(asked.part_of(bytes)),
                None => Some(refused("path/not_found/..")),
            },
            _ => None,
        }
    }

    fn call(&mut self, asked: &Asked) -> Option<Answer> {
        let argument = asked.json();
        let path = argument["path"].as_str().unwrap_or_default();
        let is_folder = folders_of(&self.files).contains(path);
        match asked.path.as_str() {
            "/2/files/get_metadata" => match self.files.get(path) {
                Some(bytes) => Some(Answer::json(200, described(path, Some(bytes.len())))),
                None if is_folder => Some(Answer::json(200, described(path, None))),
                None => Some(refused("path/not_found/..")),
            },
            "/2/files/delete_v2" => match self.files.remove(path) {
                Some(_) => Some(Answer::json(200, json!({ "metadata": {} }))),
                None => Some(refused("path_lookup/not_found/..")),
            },
            "/2/files/list_folder" if !is_folder => Some(refused("path/not_found/..")),
            "/2/files/list_folder" => {
                let entries = self.entries(path, argument["recursive"] == true);
                Some(self.page(entries))
            }
            "/2/files/list_folder/continue" => {
                let rest = self.lists.remove(argument["cursor"].as_str()?)?;
                Some(self.page(rest))
            }
            _ => None,
        }
    }

    fn entries(&self, folder: &str, recursive: bool) -> Vec<Value> {
        let below = format!("{folder}/");
        let chosen = |path: &str| match path.strip_prefix(&below) {
            Some(rest) => recursive || !rest.contains('/'),
            // A recursive listing begins with the folder itself.
            None => recursive && path == folder,
        };
        let folders = folders_of(&self.files).into_iter().filter(|path| !path.is_empty());
        let folders = folders.map(|path| (path, None));
        let files = self.files.iter().map(|(path, bytes)| (path.clone(), Some(bytes.len())));
        let all = folders.chain(files).filter(|(path, _)| chosen(path));
        all.map(|(path, size)| described(&path, size)).collect()
    }

    fn page(&mut self, mut entries: Vec<Value>) -> Answer {
        let rest = entries.split_off(entries.len().min(PAGE));
        let (has_more, cursor) = (!rest.is_empty(), format!("cursor-{}", rest.len()));
        if has_more {
            self.lists.insert(cursor.clone(), rest);
        }
        let page = json!({ "entries": entries, "cursor": cursor, "has_more": has_more });
        Answer::json(200, page)
    }
}
