//! What each cloud answers, as far as Larder asks it.

mod b2;
mod dropbox;
mod gcs;
mod gdrive;
mod onedrive;
mod s3;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

pub(crate) use super::standin::{Answer, Asked, Cloud};
pub(crate) use b2::B2;
pub(crate) use dropbox::Dropbox;
pub(crate) use gcs::Gcs;
pub(crate) use gdrive::Gdrive;
pub(crate) use onedrive::OneDrive;
pub(crate) use s3::{S3, Versioning};

/// Entries of one page of a listing: few, so that every listing has more than one.
const PAGE: usize = 5;

/// The folders that files with these paths are in, the outermost one by an empty name.
fn folders_of(files: &BTreeMap<String, Bytes>) -> BTreeSet<String> {
    let above = |path: &String| -> Vec<String> {
        let above = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
        above.map(|folder| folder.trim_end_matches('/').to_owned()).collect()
    };
    files.keys().flat_map(above).collect()
}
