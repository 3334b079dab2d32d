//! Trying a place for real.
//!
//! A probe writes, reads, stats, lists and deletes in a directory of its own inside Larder's, and
//! looks at what the place does with names: how long they may be, which characters survive,
//! whether case matters. What it finds bounds the readable names; a place that fails one of the
//! steps of the contract is no backend.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;

use super::BackendSettings;
use super::Meter;
use super::error::{Failure, Fault};
use super::marker::MARKER_DIR;
use super::open;
use super::place::Place;
use super::place::local_root;
use super::services::service;
use crate::model::path::PathLimits;

const BYTES: &[u8] = b"larder was here, and can be read in part";
const PART: std::ops::Range<u64> = 7..21;
/// The longest component that a readable name has.
const LONG: usize = 220;
/// What file systems that encrypt names still take.
const SHORT: usize = 140;
/// Characters that readable names hold.
const SPECIAL: &str = "\u{e4}\u{df}\u{65e5} (1) & [x], +=@!_%25%+~0.0~.Txt";
const CASE: &str = "Case";

/// What a probe tried, each with what was wrong, if anything, and a hint.
#[derive(Clone, Debug, Default)]
pub struct ProbeReport {
    pub steps: Vec<(&'static str, Result<(), String>)>,
    pub warnings: Vec<String>,
    /// The names that fit, when the place could be tried.
    pub limits: Option<PathLimits>,
}

impl ProbeReport {
    /// The first thing that was wrong.
    pub fn failure(&self) -> Option<String> {
        let wrong =
            self.steps.iter().find_map(|(step, result)| Some((step, result.as_ref().err()?)));
        wrong.map(|(step, why)| format!("{step}: {why}"))
    }

    fn step<T>(&mut self, name: &'static str, result: Result<T, Failure>) -> Option<T> {
        match result {
            Ok(value) => {
                self.steps.push((name, Ok(())));
                Some(value)
            }
            Err(failure) => {
                self.steps.push((name, Err(explain(&failure))));
                None
            }
        }
    }
}

/// What went wrong and what to look at.
fn explain(failure: &Failure) -> String {
    let mut text = match failure.fault {
        Fault::Missing => "what was just written is not there".to_owned(),
        Fault::Damaged => "other bytes came back".to_owned(),
        Fault::Full => "there is no room".to_owned(),
        Fault::Refused => "refused; look at credentials, permissions and options".to_owned(),
        Fault::Passing => {
            "it does not answer as it should; look at endpoint and network".to_owned()
        }
        Fault::Absent => "the root cannot be seen; is the disk mounted?".to_owned(),
        Fault::Resting | Fault::Spent => "it was not asked".to_owned(),
    };
    let mut cause: Option<&dyn std::error::Error> = match &failure.cause {
        Some(cause) => Some(&**cause),
        None => None,
    };
    while let Some(err) = cause {
        text.push_str(&format!(": {err}"));
        cause = err.source();
    }
    text
}

pub(super) async fn run(settings: &BackendSettings, meter: &Arc<Meter>) -> ProbeReport {
    let mut report = ProbeReport::default();
    if !root_is_there(settings, &mut report) {
        return report;
    }
    let name = open::fresh_name("probe");
    let opened = open::attempt(settings, &name, meter).await;
    let Some(place) = report.step("open", opened) else { return report };
    let dir = format!("{MARKER_DIR}/{name}");
    if contract(&place, &dir, &mut report).await {
        report.warnings.extend(leftovers(&settings.service).map(str::to_owned));
        names(settings, &place, &dir, &mut report).await;
    }
    open::end_attempt(place).await;
    report
}

/// A local root is made when the backend is added and never else; before, only the way to it can
/// be looked at.
fn root_is_there(settings: &BackendSettings, report: &mut ProbeReport) -> bool {
    if settings.service != "fs" {
        return true;
    }
    let Some(root) = report.step("root", local_root(settings)) else { return false };
    if Path::new(root).exists() {
        return true;
    }
    let above = Path::new(root).ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(above, rustix::fs::Access::WRITE_OK) {
        Ok(()) => {
            let warning = format!("{root} does not exist; it is made when the backend is added");
            report.warnings.push(warning);
        }
        Err(err) => {
            let why = format!("it does not exist and cannot be made in {}: {err}", above.display());
            report.steps.push(("make root", Err(why)));
        }
    }
    false
}

/// The steps without which a place is no backend.
pub(super) async fn contract(place: &Place, dir: &str, report: &mut ProbeReport) -> bool {
    let path = format!("{dir}/plain");
    if report.step("write", place.write_whole(&path, Bytes::from_static(BYTES)).await).is_none() {
        return false;
    }
    let read = read_part(place, &path).await;
    report.step("read a range", read);
    let length = place.stat(&path).await.and_then(|stat| match stat.size == BYTES.len() as u64 {
        true => Ok(()),
        false => Err(Failure::new(Fault::Damaged)),
    });
    report.step("stat", length);
    report.step("list", listed(place, dir, "plain").await);
    report.step("delete", place.delete(&path).await);
    let gone = match place.stat(&path).await {
        Err(failure) if matches!(failure.fault, Fault::Missing | Fault::Absent) => Ok(()),
        Err(failure) => Err(failure),
        Ok(_) => Err(Failure::because(Fault::Passing, "it is still there after its deletion")),
    };
    report.step("see that it is gone", gone);
    report.step("delete what is gone", place.delete(&path).await);
    report.warnings.extend(versions(place, &path).await.map(str::to_owned));
    report.failure().is_none()
}

/// What to do about versions that a bucket keeps of `path`, which is deleted.
async fn versions(place: &Place, path: &str) -> Option<&'static str> {
    match place.adapter().keeps_versions(path).await {
        Ok(true) => Some(
            "the bucket keeps old versions: what Larder deletes still takes room and money; \
             switch versioning off or let a lifecycle rule remove old versions",
        ),
        Err(failure) if failure.fault == Fault::Refused => Some(
            "it cannot be seen whether the bucket keeps old versions, for the credentials may not \
             list them: see that it has versioning off, or a lifecycle rule that removes old \
             versions",
        ),
        // A service that cannot be asked for versions has none, or is spoken of below.
        Ok(false) | Err(_) => None,
    }
}

/// What a service keeps that Larder cannot see, and what to do about it.
fn leftovers(service: &str) -> Option<&'static str> {
    match service {
        "azblob" | "azdls" => Some(
            "Larder cannot see whether the container keeps old versions or deleted blobs, which \
             take room and money: switch versioning and soft delete off, or let a lifecycle rule \
             remove them",
        ),
        "gcs" | "obs" => Some(
            "an upload that a crash breaks off leaves parts, and a bucket that has versioning or \
             soft delete keeps what is deleted; both take room and money and are in no listing: \
             switch versioning off, or let lifecycle rules of the bucket remove old versions and \
             abort incomplete multi-part uploads after some days",
        ),
        "s3" | "cos" | "oss" => Some(
            "an upload that a crash breaks off leaves parts, which take room and money and are in \
             no listing: let a lifecycle rule of the bucket abort incomplete multi-part uploads \
             after some days",
        ),
        "b2" => Some(
            "a deletion only hides a file, and a large file that a crash breaks off stays \
             unfinished: set the bucket's lifecycle to keep the last version only and to cancel \
             unfinished large files after some days",
        ),
        "gdrive" | "onedrive" => {
            Some("what Larder deletes goes to the bin, and takes room until that is emptied")
        }
        _ => None,
    }
}

async fn read_part(place: &Place, path: &str) -> Result<(), Failure> {
    let mut pieces = place.read(path, PART).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    match bytes == BYTES[PART.start as usize..PART.end as usize] {
        true => Ok(()),
        false => Err(Failure::new(Fault::Damaged)),
    }
}

async fn listed(place: &Place, dir: &str, name: &str) -> Result<(), Failure> {
    let path = format!("{dir}/{name}");
    let mut entries = place.list(&format!("{dir}/"), true).await?;
    while let Some(entry) = entries.next().await {
        if entry?.path == path {
            return Ok(());
        }
    }
    Err(Failure::because(Fault::Missing, "the listing does not show it"))
}

/// What the place does with names. Nothing here makes it unfit: opaque names go everywhere.
pub(super) async fn names(
    settings: &BackendSettings,
    place: &Place,
    dir: &str,
    report: &mut ProbeReport,
) {
    let Some(traits) = service(&settings.service) else { return };
    let mut limits = open::limits_at(settings, &traits);
    let room = limits.total_max.saturating_sub(dir.len() + 1);
    if takes(place, dir, SPECIAL).await.is_err() {
        report.warnings.push(
            "names with special characters do not survive: files get opaque names".to_owned(),
        );
        limits = open::opaque_only(limits);
    }
    let long = LONG.min(limits.component_max).min(room);
    if takes(place, dir, &"l".repeat(long)).await.is_err() {
        let warning = match takes(place, dir, &"s".repeat(SHORT)).await {
            Ok(()) => {
                limits.component_max = limits.component_max.min(SHORT);
                "long names do not work: files with long keys get opaque names"
            }
            Err(_) => {
                limits = open::opaque_only(limits);
                "long names do not work: files get opaque names"
            }
        };
        report.warnings.push(warning.to_owned());
    }
    let upper = format!("{dir}/{CASE}");
    if place.write_whole(&upper, Bytes::from_static(BYTES)).await.is_ok() {
        if place.stat(&format!("{dir}/{}", CASE.to_lowercase())).await.is_ok() {
            report.warnings.push(
                "upper and lower case are the same here; names stay apart by their ids".to_owned(),
            );
        }
        let _ = place.delete(&upper).await;
    }
    report.limits = Some(limits);
}

/// Whether a name can be written, found, listed as it was written, and deleted.
async fn takes(place: &Place, dir: &str, name: &str) -> Result<(), Failure> {
    let path = format!("{dir}/{name}");
    place.write_whole(&path, Bytes::from_static(BYTES)).await?;
    let found = match place.stat(&path).await {
        Ok(_) => listed(place, dir, name).await,
        Err(failure) => Err(failure),
    };
    place.delete(&path).await?;
    found
}
