//! How a provider counts: which request is in which class, when its day begins, what things cost.
//!
//! The data is in `assets/providers.toml`, dated, and the owner can override it; `config` reads both.
//!
//! # What a request is called
//!
//! OpenDAL's services name each request that they make (`PutObject`, `b2`'s `StartLargeFile`). A
//! profile may have any of those names in its table. Every other request has the class that S3
//! would give it, which its name tells: names are made of words, and the first that is a verb says
//! what is done. Requests of no name are judged by OpenDAL's operation or the HTTP method, whose
//! words are the same.

use std::collections::BTreeMap;

use crate::model::Class;
use crate::model::DayBegins;

/// Properties of one provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    pub name: String,
    /// By OpenDAL's name of the service's operation (for S3 the operation's own, `PutObject`).
    /// What is not here has the class that S3 gives it.
    pub classes: BTreeMap<String, Class>,
    pub day_begins: DayBegins,
    pub prices: Prices,
}

/// In the owner's currency. `None`: not known, and nothing is said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// For a thousand requests of each class.
    pub thousand_calls: [Option<f64>; Class::ALL.len()],
    /// For 10^9 bytes.
    pub egress_gb: Option<f64>,
    pub ingress_gb: Option<f64>,
    /// For 10^9 bytes kept for a month.
    pub stored_gb_month: Option<f64>,
}

/// What S3 calls class A.
const WRITES: &[&str] = &[
    "append",
    "complete",
    "compose",
    "concat",
    "copy",
    "create",
    "finish",
    "flush",
    "initiate",
    "insert",
    "list",
    "mkcol",
    "mkdir",
    "mkdirs",
    "move",
    "patch",
    "post",
    "proppatch",
    "put",
    "rename",
    "restore",
    "rewrite",
    "start",
    "upload",
    "write",
];
/// What S3 does not charge for.
const DELETES: &[&str] = &["abort", "cancel", "delete", "hide", "remove", "trash"];
/// Verbs of class B whose names go on with one of the others: `GetUploadUrl`, `MonitorCopy`.
const READS: &[&str] = &["download", "get", "head", "monitor", "query", "read"];

impl Profile {
    /// The class of a request by its name.
    pub fn class(&self, name: &str) -> Class {
        self.classes.get(name).copied().unwrap_or_else(|| s3_class(name))
    }
}

/// The class that S3 gives a request: B is whatever neither writes nor lists nor deletes.
fn s3_class(name: &str) -> Class {
    let mut rest = name;
    while !rest.is_empty() {
        let word;
        (word, rest) = first_word(rest);
        let word = word.to_ascii_lowercase();
        let is_one_of = |verbs: &[&str]| verbs.contains(&word.as_str());
        match () {
            () if is_one_of(WRITES) => return Class::A,
            () if is_one_of(DELETES) => return Class::Free,
            () if is_one_of(READS) => return Class::B,
            () => {}
        }
    }
    Class::B
}

/// `PutObject`, `create_dir`, `PUT`: a word ends at an underline, or before a capital that follows
/// a small letter.
fn first_word(name: &str) -> (&str, &str) {
    let mut before = '_';
    for (at, letter) in name.char_indices() {
        match letter {
            '_' => return (&name[..at], &name[at + 1..]),
            _ if letter.is_uppercase() && before.is_lowercase() => return name.split_at(at),
            _ => before = letter,
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that the services of OpenDAL 0.59 give their requests, by the class that they
    /// have unless a profile says otherwise.
    const NAMES: [(Class, &str); 3] = [
        (
            Class::A,
            "PutObject CopyObject CreateMultipartUpload UploadPart UploadPartCopy \
             CompleteMultipartUpload ListObjects ListObjectsV2 ListObjectVersions AppendObject \
             InitiateMultipartUpload InsertObject RewriteObject ComposeObject \
             InitiateResumableUpload UploadResumableChunk PutBlob PutBlock PutBlockFromUrl \
             PutBlockList AppendBlock CopyBlob ListBlobs UploadFile StartLargeFile FinishLargeFile \
             CopyFile ListFileNames MoveFile CreateFolder ListFiles ListFolder ListFolderContinue \
             CreateUploadSession UploadContent UploadFragment CopyItem MoveItem ListChildren \
             ListVersions Put Mkcol Move Copy Proppatch AppendData CreateDirectory CreateFile \
             FlushData ListPaths RenamePath ListDirectoriesAndFiles PutRange Rename FilesCopy \
             FilesList FilesMove FilesPut ListMounts CopyFolder CreateFolderIfNotExists RenameFile \
             RenameFolder ListDir ListRepositories Mkdir CreateObject UploadManifest UploadSegment \
             Append Concat Create ListStatus ListStatusBatch Mkdirs",
        ),
        (
            Class::B,
            "GetObject HeadObject GetBlob GetBlobProperties QueryResumableUpload AuthorizeAccount \
             DownloadFileByName GetDownloadAuthorization GetUploadUrl GetUploadPartUrl DownloadFile \
             GetMetadata GetFile RefreshAccessToken GetItem DownloadContent MonitorCopy Get Propfind \
             GetPathProperties ReadFile GetDirectoryProperties GetFileProperties Authenticate \
             FilesGet FilesInfo Test GetFileLink Stat AuthToken GetDirDetail GetDownloadLink \
             GetFileDetail GetUploadLink ShowObjectMetadata GetFileStatus Open",
        ),
        (
            Class::Free,
            "DeleteObject DeleteObjects AbortMultipartUpload BatchDeleteObjects \
             CancelResumableUpload DeleteBlob BatchDeleteBlobs HideFile CancelLargeFile DeleteFile \
             TrashFile DeleteItem Delete DeletePath RecursiveDeletePath DeleteDirectory FilesRemove \
             DeleteMultipleObjects DeleteFolder BulkDelete",
        ),
    ];

    #[test]
    fn every_request_of_every_service_has_the_class_that_s3_gives_it() {
        let profile = Profile::default();
        for (class, names) in NAMES {
            for name in names.split_whitespace() {
                assert_eq!(profile.class(name), class, "{name}");
            }
        }
    }

    #[test]
    fn a_request_of_no_name_is_judged_by_operation_or_method() {
        let profile = Profile::default();
        let all = |names: &str, class: Class| {
            names.split_whitespace().all(|name| profile.class(name) == class)
        };
        assert!(all("write create_dir copy rename compose restore list", Class::A));
        assert!(all("PUT POST PATCH COPY MOVE MKCOL", Class::A));
        assert!(all("read stat info GET HEAD OPTIONS PROPFIND", Class::B));
        assert!(all("delete DELETE", Class::Free));
    }

    #[test]
    fn the_table_of_a_profile_goes_first() {
        let classes = BTreeMap::from([("UploadFile".to_owned(), Class::Free)]);
        let profile = Profile { classes, ..Profile::default() };
        assert_eq!(profile.class("UploadFile"), Class::Free);
        assert_eq!(profile.class("UploadPart"), Class::A);
    }
}
