//! OneDrive: items by path, downloads by a detour, uploads above 4 MiB by a session.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Answer, Asked, Cloud, PAGE, folders_of};

const GRAPH: &str = "graph.microsoft.com";
const SESSIONS: &str = "my.microsoftpersonalcontent.com";
const SIMPLE_MAX: usize = 4 << 20;
const FRAGMENT: usize = 320 << 10;

#[derive(Default)]
pub(crate) struct OneDrive {
    pub(crate) files: BTreeMap<String, Bytes>,
    /// Path and bytes of the uploads that are under way.
    pub(crate) sessions: BTreeMap<String, (String, Vec<u8>)>,
    begun: usize,
}

fn described(path: &str, size: Option<usize>) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut item = json!({
        "id": "1234!5",
        "name": name,
        "lastModifiedDateTime": "2018-12-30T05:32:55.46Z",
        "eTag": "sample",
        "size": size.unwrap_or_default(),
        "parentReference": {
            "path": format!("/drive/root:{parent}"), "driveId": "1234", "id": "1234!4",
        },
    });
    match size {
        Some(_) => item["file"] = json!({ "mimeType": "application/octet-stream" }),
        None => item["folder"] = json!({ "childCount": 1 }),
    }
    item
}

fn missing() -> Answer {
    let error = json!({ "code": "itemNotFound", "message": "The resource could not be found." });
    Answer::json(404, json!({ "error": error }))
}

impl Cloud for OneDrive {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        if let Some(path) = asked.path.strip_prefix("/download") {
            let path = percent_decode_str(path).decode_utf8().ok()?;
            return Some(self.files.get(&*path).map_or_else(missing, |file| asked.part_of(file)));
        }
        if asked.host == SESSIONS {
            return self.fragment(asked);
        }
        if asked.host != GRAPH {
            return None;
        }
        if asked.header("authorization") != "Bearer a-token" {
            return Some(Answer::json(
                401,
                json!({ "error": { "code": "InvalidAuthenticationToken" } }),
            ));
        }
        let path = asked.path.strip_prefix("/v1.0/me/drive/root:")?;
        // A colon ends the path; one that belongs to it is escaped.
        let (path, call) = path.split_once(':').unwrap_or((path, ""));
        self.item(asked, &percent_decode_str(path).decode_utf8().ok()?, call)
    }
}

impl OneDrive {
    fn item(&mut self, asked: &Asked, path: &str, call: &str) -> Option<Answer> {
        let is_folder = folders_of(&self.files).contains(path);
        match (asked.method.as_str(), call) {
            ("GET", "") => match self.files.get(path) {
                Some(file) => Some(Answer::json(200, described(path, Some(file.len())))),
                None if is_folder => Some(Answer::json(200, described(path, None))),
                None => Some(missing()),
            },
            ("GET", "/content") if self.files.contains_key(path) => {
                let raw =
                    asked.path.strip_prefix("/v1.0/me/drive/root:")?.strip_suffix(":/content")?;
                Some(Answer::bytes(302, "").with("location", format!("/download{raw}")))
            }
            ("GET", "/content") => Some(missing()),
            ("GET", "/children") if is_folder => Some(self.children(asked, path)),
            ("GET", "/children") => Some(missing()),
            ("PUT", "/content") if asked.body.len() <= SIMPLE_MAX => {
                self.files.insert(path.to_owned(), asked.body.clone());
                Some(Answer::json(201, described(path, Some(asked.body.len()))))
            }
            ("POST", "/createUploadSession") => {
                self.begun += 1;
                let id = format!("session-{}", self.begun);
                let address = format!("https://{SESSIONS}/{id}");
                self.sessions.insert(id, (path.to_owned(), Vec::new()));
                let times = "2015-01-29T09:21:55.523Z";
                Some(Answer::json(
                    200,
                    json!({ "uploadUrl": address, "expirationDateTime": times }),
                ))
            }
            ("DELETE", "") => match self.files.remove(path) {
                Some(_) => Some(Answer::bytes(204, "")),
                None => Some(missing()),
            },
            _ => None,
        }
    }

    fn fragment(&mut self, asked: &Asked) -> Option<Answer> {
        let id = asked.path.strip_prefix('/')?;
        let range = asked.header("content-range").strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let first: usize = range.split_once('-')?.0.parse().ok()?;
        let total: usize = total.parse().ok()?;
        let (_, bytes) = self.sessions.get_mut(id)?;
        let end = first + asked.body.len();
        if first != bytes.len() || (end != total && !asked.body.len().is_multiple_of(FRAGMENT)) {
            return Some(Answer::json(416, json!({ "error": { "code": "invalidRange" } })));
        }
        bytes.extend_from_slice(&asked.body);
        if end < total {
            return Some(Answer::json(202, json!({ "nextExpectedRanges": [format!("{end}-")] })));
        }
        let (path, bytes) = self.sessions.remove(id)?;
        let answer = Answer::json(201, described(&path, Some(bytes.len())));
        self.files.insert(path, bytes.into());
        Some(answer)
    }

    fn children(&self, asked: &Asked, folder: &str) -> Answer {
        let below = format!("{folder}/");
        let child = |path: &str| path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
        let folders = folders_of(&self.files).into_iter().map(|path| (path, None));
        let files = self.files.iter().map(|(path, file)| (path.clone(), Some(file.len())));
        let all = folders.chain(files).filter(|(path, _)| child(path));
        let skip: usize = asked.query("$skiptoken").parse().unwrap_or_default();
        let all: Vec<_> = all.skip(skip).map(|(path, size)| described(&path, size)).collect();
        let mut page = json!({ "value": all.get(..PAGE).unwrap_or(&all) });
        if all.len() > PAGE {
            let next = format!("https://{GRAPH}{}?$skiptoken={}", asked.path, skip + PAGE);
            page["@odata.nextLink"] = next.into();
        }
        Answer::json(200, page)
    }
}
