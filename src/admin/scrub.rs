//! Scrubbing, for the operator: a full pass with its findings, and how the passes stand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use super::long::Long;
use super::views::rfc3339;
use crate::engine::BrokenReplica;
use crate::engine::EngineError;
use crate::engine::Next;
use crate::engine::ScrubCursor;
use crate::engine::ScrubProgress;
use crate::engine::ScrubState;
use crate::model::BackendId;
use crate::worker::Name;
use crate::worker::scrub_settings;

/// Findings that are listed.
const BROKEN_MAX: usize = 1000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubAsked {
    /// All when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// What a full pass found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubView {
    pub replicas: u64,
    pub bytes: u64,
    /// By result: `verified`, `damaged`, `missing`, `unreadable`, `backfilled` and others.
    pub counts: BTreeMap<String, u64>,
    pub failed: u64,
    /// What is not as it should be now, at most a thousand.
    pub broken: Vec<BrokenView>,
}

/// A replica that is missing, damaged or unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenView {
    pub backend: String,
    pub path: String,
    pub state: String,
    pub size: u64,
    /// There is no other that could be read.
    pub alone: bool,
    pub bucket: Option<String>,
    pub key: Option<String>,
}

/// How far a full pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubFar {
    pub replicas: u64,
    pub bytes: u64,
    /// About how many there are; 0 until that is known.
    pub total: u64,
}

/// How the passes over one backend stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStateView {
    pub backend: String,
    /// When the pass began that is on its way, or the last one.
    pub began: Option<String>,
    /// Replicas that it has read, of about so many.
    pub done: u64,
    pub total: u64,
    pub over: bool,
    pub next: Option<String>,
    /// When the replica was verified whose verification is the longest ago.
    pub oldest: Option<String>,
    pub damaged: u64,
    pub missing: u64,
    pub unreadable: u64,
}

impl ScrubFar {
    fn new(progress: &ScrubProgress) -> ScrubFar {
        ScrubFar {
            replicas: progress.replicas.load(Ordering::Relaxed),
            bytes: progress.bytes.load(Ordering::Relaxed),
            total: progress.total.load(Ordering::Relaxed),
        }
    }
}

impl BrokenView {
    fn new(broken: BrokenReplica, names: &BTreeMap<BackendId, String>) -> BrokenView {
        let id = broken.replica.backend;
        let (bucket, key) = broken.object.unzip();
        BrokenView {
            backend: names.get(&id).cloned().unwrap_or_else(|| id.to_string()),
            path: broken.replica.path,
            state: broken.replica.state.name().to_owned(),
            size: broken.size,
            alone: broken.is_alone,
            bucket,
            key: key.map(|key| key.as_str().to_owned()),
        }
    }
}

impl ScrubStateView {
    fn new(state: ScrubState) -> ScrubStateView {
        ScrubStateView {
            backend: state.name,
            began: state.pass.map(|pass| rfc3339(pass.began)),
            done: state.pass.map_or(0, |pass| pass.done),
            total: state.total,
            over: state.pass.is_some_and(|pass| pass.is_over),
            next: state.next.map(rfc3339),
            oldest: state.oldest.map(rfc3339),
            damaged: state.damaged,
            missing: state.missing,
            unreadable: state.unreadable,
        }
    }
}

impl Desk {
    pub(super) async fn scrub_state(&self) -> Result<Value, ApiError> {
        let states = self.engine.scrub_state(self.crew.settings().scrubber.pass).await?;
        value(&states.into_iter().map(ScrubStateView::new).collect::<Vec<_>>())
    }

    /// A full pass over one backend or all, in place of the worker's steps.
    pub(super) fn scrub(&self, asked: ScrubAsked) -> Long<'_> {
        let progress = Arc::new(std::sync::OnceLock::<Arc<ScrubProgress>>::new());
        let seen = Arc::clone(&progress);
        let work = async move {
            let names = self.names().await?;
            let only = match &asked.backend {
                Some(name) => {
                    let found = names.iter().find(|(_, found)| *found == name);
                    let id = found.map(|(id, _)| *id).ok_or(EngineError::NoSuchBackend);
                    Some(id.map_err(|err| ApiError::from(err).about("backend", name))?)
                }
                None => None,
            };
            let _held = self.hold(Name::Scrubber).await?;
            let mut cursor = only.map_or_else(ScrubCursor::default, ScrubCursor::of);
            let far = progress.get_or_init(|| cursor.progress());
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            let mut failed = 0;
            loop {
                let settings = scrub_settings(&self.crew.settings());
                let step = self.engine.scrub_step(&mut cursor, &settings, true).await?;
                failed += step.failed;
                for (what, number) in step.counts {
                    *counts.entry(what.to_owned()).or_default() += number;
                }
                if step.next != Next::Now {
                    break;
                }
            }
            let broken = self.engine.broken_replicas(only, BROKEN_MAX).await?;
            let ScrubFar { replicas, bytes, .. } = ScrubFar::new(far);
            let broken = broken.into_iter().map(|broken| BrokenView::new(broken, &names)).collect();
            value(&ScrubView { replicas, bytes, counts, failed, broken })
        };
        Long::new(work, move || json!(seen.get().map(|far| ScrubFar::new(far)).unwrap_or_default()))
    }
}
