//! Reconciling and importing, for the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use super::long::Long;
use crate::engine::EngineError;
use crate::engine::ImportProgress;
use crate::engine::ImportWish;
use crate::engine::Imported;
use crate::engine::Step;
use crate::worker::Name;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileAsked {
    /// All when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// What a full pass did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileView {
    /// By result: `imported`, `removed`, `damaged`, `changed`, `back`, `debris`, `suppressed`,
    /// `too_large`, `skipped`; and `backends`, `absent`.
    pub counts: BTreeMap<String, u64>,
    /// Backends that could not be surveyed to the end.
    pub failed: u64,
}

/// Files that shall become objects where they lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportAsked {
    pub backend: String,
    pub bucket: String,
    /// The directory whose files are imported.
    #[serde(default)]
    pub prefix: String,
    /// The directory that keys do without.
    #[serde(default)]
    pub strip: String,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default)]
    pub take_over: bool,
}

/// What became of the files; of a dry run, what would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportView {
    pub dry_run: bool,
    pub files: u64,
    pub imported: u64,
    pub bytes: u64,
    pub known: u64,
    pub suppressed: u64,
    pub conflicts: u64,
    pub quota: u64,
    pub too_large: u64,
    pub skipped: u64,
    pub taken_over: u64,
}

/// How far a full pass is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileFar {
    pub position: String,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportFar {
    pub files: u64,
    pub imported: u64,
    pub bytes: u64,
}

impl ReconcileView {
    fn new(step: Step) -> ReconcileView {
        let counts = step.counts.into_iter();
        let counts = counts.map(|(result, number)| (result.to_owned(), number)).collect();
        ReconcileView { counts, failed: step.failed }
    }
}

impl ImportView {
    fn new(became: Imported, dry_run: bool) -> ImportView {
        ImportView {
            dry_run,
            files: became.files,
            imported: became.imported,
            bytes: became.bytes,
            known: became.known,
            suppressed: became.suppressed,
            conflicts: became.conflicts,
            quota: became.quota,
            too_large: became.too_large,
            skipped: became.skipped,
            taken_over: became.taken_over,
        }
    }
}

impl ImportFar {
    pub fn new(progress: &ImportProgress) -> ImportFar {
        ImportFar {
            files: progress.files.load(Ordering::Relaxed),
            imported: progress.imported.load(Ordering::Relaxed),
            bytes: progress.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Desk {
    /// A full pass over one backend or all, in place of the worker's steps.
    pub(super) fn reconcile(&self, asked: ReconcileAsked) -> Long<'_> {
        let position = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&position);
        let work = async move {
            let _held = self.hold(Name::Reconciler).await?;
            let name = asked.backend.as_deref();
            let told = |step: &Step| {
                if let Some(at) = &step.position {
                    position.lock().unwrap_or_else(PoisonError::into_inner).clone_from(at);
                }
            };
            let done = self.engine.reconcile(name, told).await;
            let done = done.map_err(|err| match name {
                Some(name) => ApiError::from(err).about("backend", name),
                None => ApiError::from(err),
            })?;
            value(&ReconcileView::new(done))
        };
        Long::new(work, move || {
            json!(ReconcileFar {
                position: seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
        })
    }

    /// What it did so far stays when it is given up.
    pub(super) fn import(&self, asked: ImportAsked) -> Long<'_> {
        let progress = Arc::new(ImportProgress::default());
        let seen = Arc::clone(&progress);
        let wish = ImportWish {
            backend: asked.backend,
            bucket: asked.bucket,
            prefix: asked.prefix,
            strip: asked.strip,
            is_dry: asked.dry_run,
            takes_over: asked.take_over,
        };
        let work = async move {
            let _held = self.hold(Name::Reconciler).await?;
            let became = self.engine.import(&wish, &progress).await.map_err(|err| match err {
                EngineError::NoSuchBucket => ApiError::from(err).about("bucket", &wish.bucket),
                err => ApiError::from(err).about("backend", &wish.backend),
            })?;
            value(&ImportView::new(became, wish.is_dry))
        };
        Long::new(work, move || json!(ImportFar::new(&seen)))
    }
}
