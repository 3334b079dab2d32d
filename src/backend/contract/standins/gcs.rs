//! Google Cloud Storage: objects by its JSON interface, multi-part uploads by its XML one.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Answer, Asked, Cloud, PAGE};

#[derive(Default)]
pub(crate) struct Gcs {
    pub(crate) objects: BTreeMap<String, Bytes>,
    /// Name and parts of what is being uploaded, by id.
    pub(crate) uploads: BTreeMap<String, (String, BTreeMap<usize, Bytes>)>,
    begun: usize,
}

fn described(name: &str, size: usize) -> Value {
    json!({
        "name": name,
        "size": size.to_string(),
        "etag": "CKWasoTgyPkCEAE=",
        "generation": "1660563214863653",
        "updated": "2022-08-15T11:33:34.866Z",
        "contentType": "application/octet-stream",
        "md5Hash": "fHcEH1vPwA6eTPqxuasXcg==",
    })
}

fn missing() -> Answer {
    Answer::json(404, json!({ "error": { "code": 404, "message": "No such object" } }))
}

impl Cloud for Gcs {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        if asked.host != "storage.googleapis.com" {
            return None;
        }
        if asked.header("authorization") != "Bearer a-token" {
            return Some(Answer::json(401, json!({ "error": { "code": 401 } })));
        }
        let method = asked.method.as_str();
        if (method, asked.path.as_str()) == ("POST", "/upload/storage/v1/b/bucket/o") {
            let name = asked.query("name").to_owned();
            if asked.query("uploadType") != "media" {
                return None;
            }
            let answer = Answer::json(200, described(&name, asked.body.len()));
            self.objects.insert(name, asked.body.clone());
            return Some(answer);
        }
        if (method, asked.path.as_str()) == ("POST", "/batch/storage/v1") {
            return self.delete_many(asked);
        }
        if let Some(name) = asked.path.strip_prefix("/storage/v1/b/bucket/o") {
            return match (method, name.strip_prefix('/')) {
                ("GET", None) => Some(self.list(asked)),
                (_, Some(name)) if !name.contains('/') => {
                    self.object(asked, &percent_decode_str(name).decode_utf8().ok()?)
                }
                _ => None,
            };
        }
        let name = asked.path.strip_prefix("/bucket/")?;
        self.upload(asked, &percent_decode_str(name).decode_utf8().ok()?)
    }
}

impl Gcs {
    /// Deletes many. The answers come in another order than the requests, and know theirs by id.
    fn delete_many(&mut self, asked: &Asked) -> Option<Answer> {
        let body = std::str::from_utf8(&asked.body).ok()?;
        let mut answers = String::new();
        for part in body.split("Content-ID: ").skip(1).collect::<Vec<_>>().into_iter().rev() {
            let id = part.lines().next()?;
            let name = part.split_once("DELETE /storage/v1/b/bucket/o/")?.1.split(' ').next()?;
            let name = percent_decode_str(name).decode_utf8().ok()?;
            let status = match self.objects.remove(&*name) {
                Some(_) => "204 No Content",
                None => "404 Not Found",
            };
            answers.push_str(&format!(
                "--batch\r\nContent-Type: application/http\r\nContent-ID: response-{id}\r\n\r\n\
                 HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            ));
        }
        answers.push_str("--batch--\r\n");
        let kind = "multipart/mixed; boundary=batch".to_owned();
        Some(Answer::bytes(200, answers).with("content-type", kind))
    }

    fn object(&mut self, asked: &Asked, name: &str) -> Option<Answer> {
        let Some(bytes) = self.objects.get(name) else { return Some(missing()) };
        match asked.method.as_str() {
            "GET" if asked.query("alt") == "media" => Some(asked.part_of(bytes)),
            "GET" => Some(Answer::json(200, described(name, bytes.len()))),
            "DELETE" => {
                self.objects.remove(name);
                Some(Answer::bytes(204, ""))
            }
            _ => None,
        }
    }

    fn list(&self, asked: &Asked) -> Answer {
        let (prefix, delimiter) = (asked.query("prefix"), asked.query("delimiter"));
        let (mut items, mut prefixes) = (Vec::new(), Vec::new());
        let mut next = None;
        for (name, bytes) in &self.objects {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            if name.as_str() < asked.query("pageToken") {
                continue;
            }
            if items.len() == PAGE {
                next = Some(name);
                break;
            }
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(end) => prefixes.push(format!("{prefix}{}", &rest[..=end])),
                None => items.push(described(name, bytes.len())),
            }
        }
        prefixes.dedup();
        Answer::json(200, json!({ "items": items, "prefixes": prefixes, "nextPageToken": next }))
    }

    fn upload(&mut self, asked: &Asked, name: &str) -> Option<Answer> {
        let id = asked.query("uploadId");
        match asked.method.as_str() {
            "POST" if asked.query.contains_key("uploads") => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                self.uploads.insert(id.clone(), (name.to_owned(), BTreeMap::new()));
                Some(Answer::bytes(
                    200,
                    format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
                         </InitiateMultipartUploadResult>"
                    ),
                ))
            }
            "PUT" => {
                let number = asked.query("partNumber").parse().ok()?;
                self.uploads.get_mut(id)?.1.insert(number, asked.body.clone());
                Some(Answer::bytes(200, "").with("etag", format!("\"{number}\"")))
            }
            "POST" => {
                let (begun, parts) = self.uploads.remove(id)?;
                let told = String::from_utf8_lossy(&asked.body).matches("<ETag>").count();
                if begun != name || told != parts.len() {
                    return None;
                }
                let all: Vec<u8> = parts.into_values().flatten().collect();
                self.objects.insert(begun, all.into());
                Some(Answer::bytes(200, "<CompleteMultipartUploadResult/>"))
            }
            "DELETE" => {
                self.uploads.remove(id)?;
                Some(Answer::bytes(204, ""))
            }
            _ => None,
        }
    }
}
