//! Backblaze B2: uploads go to an address that was asked for, names in JSON have no escapes, and
//! a deletion hides a file.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Answer, Asked, Cloud, PAGE};

const API: &str = "api001.backblazeb2.com";
const POD: &str = "pod-000-1001.backblaze.com";
const DOWNLOADS: &str = "f001.backblazeb2.com";

#[derive(Default)]
pub(crate) struct B2 {
    /// Without bytes: hidden.
    pub(crate) files: BTreeMap<String, Option<Bytes>>,
    /// Large files by their ids: name and parts.
    pub(crate) large: BTreeMap<String, (String, BTreeMap<usize, Bytes>)>,
    begun: usize,
}

fn described(name: &str, size: usize) -> Value {
    json!({
        "fileId": format!("id-of-{name}"),
        "fileName": name,
        "contentLength": size,
        "contentType": "application/octet-stream",
        "action": "upload",
        "fileInfo": {},
    })
}

fn refused(status: u16, code: &str) -> Answer {
    Answer::json(status, json!({"status": status, "code": code, "message": code}))
}

fn sha1_of(bytes: &[u8]) -> String {
    use sha1::Digest;
    sha1::Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cloud for B2 {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        let call = asked.path.strip_prefix("/b2api/v2/");
        let authorized = match (asked.host.as_str(), call) {
            ("api.backblazeb2.com", Some("b2_authorize_account")) => {
                asked.header("authorization").starts_with("Basic ")
            }
            (POD, Some(_)) => asked.header("authorization") == "upload-token",
            _ => asked.header("authorization") == "account-token",
        };
        if !authorized {
            return Some(refused(401, "bad_auth_token"));
        }
        match (asked.method.as_str(), asked.host.as_str(), call) {
            ("GET", "api.backblazeb2.com", Some("b2_authorize_account")) => Some(Answer::json(
                200,
                json!({
                    "authorizationToken": "account-token",
                    "apiUrl": format!("https://{API}"),
                    "downloadUrl": format!("https://{DOWNLOADS}"),
                }),
            )),
            ("GET", API, Some("b2_list_file_names")) => Some(self.list(asked)),
            ("POST", API, Some("b2_hide_file")) => Some(self.hide(asked)),
            ("GET", DOWNLOADS, None) => {
                let name = asked.path.strip_prefix("/file/bucket/")?;
                let name = percent_decode_str(name).decode_utf8().ok()?;
                match self.files.get(&*name) {
                    Some(Some(bytes)) => Some(asked.part_of(bytes)),
                    _ => Some(refused(404, "not_found")),
                }
            }
            (_, API | POD, Some(call)) => self.upload(asked, call),
            _ => None,
        }
    }
}

impl B2 {
    fn upload(&mut self, asked: &Asked, call: &str) -> Option<Answer> {
        let body = asked.json();
        let id = body["fileId"].as_str().unwrap_or_default().to_owned();
        let call = call.split_once('/').map_or((call, ""), |(call, rest)| (call, rest));
        match call {
            ("b2_get_upload_url", _) => Some(upload_at("b2_upload_file/x")),
            ("b2_get_upload_part_url", _) => {
                Some(upload_at(&format!("b2_upload_part/{}", asked.query("fileId"))))
            }
            ("b2_upload_file", _) => {
                let name = percent_decode_str(asked.header("x-bz-file-name")).decode_utf8().ok()?;
                self.files.insert(name.to_string(), Some(asked.body.clone()));
                Some(Answer::json(200, described(&name, asked.body.len())))
            }
            ("b2_start_large_file", _) => {
                self.begun += 1;
                let id = format!("large-{}", self.begun);
                let name = body["fileName"].as_str()?.to_owned();
                self.large.insert(id.clone(), (name, BTreeMap::new()));
                Some(Answer::json(200, json!({ "fileId": id })))
            }
            ("b2_upload_part", id) => {
                let number = asked.header("x-bz-part-number").parse().ok()?;
                let sha1 = format!("unverified:{}", sha1_of(&asked.body));
                self.large.get_mut(id)?.1.insert(number, asked.body.clone());
                Some(Answer::json(200, json!({ "contentSha1": sha1 })))
            }
            ("b2_finish_large_file", _) => {
                let (name, parts) = self.large.remove(&id)?;
                let sums: Vec<_> = parts.values().map(|part| sha1_of(part)).collect();
                let all: Vec<u8> = parts.into_values().flatten().collect();
                if body["partSha1Array"] != json!(sums) {
                    return Some(refused(400, "bad_request"));
                }
                let answer = Answer::json(200, described(&name, all.len()));
                self.files.insert(name, Some(all.into()));
                Some(answer)
            }
            ("b2_cancel_large_file", _) => {
                self.large.remove(&id)?;
                Some(Answer::json(200, json!({ "fileId": id })))
            }
            _ => None,
        }
    }

    fn hide(&mut self, asked: &Asked) -> Answer {
        let name = asked.json()["fileName"].as_str().unwrap_or_default().to_owned();
        match self.files.get_mut(&name) {
            None => refused(400, "no_such_file"),
            Some(None) => refused(400, "already_hidden"),
            Some(bytes) => {
                *bytes = None;
                Answer::json(200, described(&name, 0))
            }
        }
    }

    fn list(&self, asked: &Asked) -> Answer {
        let (prefix, delimiter) = (asked.query("prefix"), asked.query("delimiter"));
        let mut files: Vec<Value> = Vec::new();
        for (name, bytes) in &self.files {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let Some(bytes) = bytes else { continue };
            let folder = match delimiter {
                "" => None,
                delimiter => rest.find(delimiter).map(|end| format!("{prefix}{}", &rest[..=end])),
            };
            let entry = match folder {
                Some(folder) => json!({
                    "fileId": null, "fileName": folder, "contentLength": 0, "action": "folder",
                }),
                None => described(name, bytes.len()),
            };
            if files.last() != Some(&entry) {
                files.push(entry);
            }
        }
        files.retain(|file| file["fileName"].as_str() >= Some(asked.query("startFileName")));
        let most = asked.query("maxFileCount").parse().unwrap_or(PAGE);
        let next = files.get(most).map(|file| file["fileName"].clone());
        files.truncate(most);
        Answer::json(200, json!({ "files": files, "nextFileName": next }))
    }
}

fn upload_at(call: &str) -> Answer {
    let address = format!("https://{POD}/b2api/v2/{call}");
    Answer::json(200, json!({ "authorizationToken": "upload-token", "uploadUrl": address }))
}
