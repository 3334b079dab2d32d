//! What the operator sees of an object: its version, its blobs, where they lie, and why not more.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use super::views::rfc3339;
use crate::base::Timestamp;
use crate::engine::EngineError;
use crate::engine::ShownBlob;
use crate::engine::ShownReplica;
use crate::model::ReplicaState;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    pub bucket: String,
    pub key: String,
    /// The number of its current version, in the order of commits.
    pub version: String,
    pub size: u64,
    pub etag: String,
    pub modified: String,
    pub blobs: Vec<BlobView>,
    /// Blobs that are left out here.
    pub more_blobs: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobView {
    pub id: String,
    pub size: u64,
    /// What its placement wishes.
    pub replicas_wished: u32,
    pub min_replicas: u32,
    pub good: u32,
    /// Replicas that are missing; negative: too many.
    pub deficit: i64,
    /// Why, in a sentence; `None` when nothing is missing.
    pub why: Option<String>,
    pub entries: Vec<EntryView>,
    pub replicas: Vec<ReplicaView>,
}

/// Which bytes of the blob are the object's, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// 0 for an object written at once.
    pub part: u32,
    pub offset: u64,
    pub length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// The end of its path.
    pub write: String,
    pub backend: String,
    pub state: String,
    /// Its backend is there now.
    pub present: bool,
    pub path: String,
    /// When its bytes were last compared; `None`: when they were written.
    pub checked: Option<String>,
    /// Imported, and its owner's to change.
    pub borrowed: bool,
}

impl BlobView {
    fn new(blob: ShownBlob, backends: usize, now: Timestamp) -> BlobView {
        let entry = |&(part, offset, length): &_| EntryView { part, offset, length };
        let state = &blob.state;
        BlobView {
            id: state.blob.to_string(),
            size: state.size,
            replicas_wished: state.replicas,
            min_replicas: state.min_replicas,
            good: state.good,
            deficit: state.deficit,
            why: why(&blob, backends, now),
            entries: blob.entries.iter().map(entry).collect(),
            replicas: blob.replicas.into_iter().map(ReplicaView::new).collect(),
        }
    }
}

impl ReplicaView {
    fn new(replica: ShownReplica) -> ReplicaView {
        ReplicaView {
            write: replica.place.write.to_string(),
            backend: replica.backend,
            state: replica.place.state.name().to_owned(),
            present: replica.is_present,
            path: replica.path,
            checked: replica.place.checked.map(rfc3339),
            borrowed: replica.place.is_borrowed,
        }
    }
}

/// Why there are not as many good replicas as are wished.
fn why(blob: &ShownBlob, backends: usize, now: Timestamp) -> Option<String> {
    let state = &blob.state;
    if state.deficit <= 0 {
        return None;
    }
    let is = |replica: &&ShownReplica| replica.place.state != ReplicaState::Good;
    let lost = blob.replicas.iter().filter(is).map(|replica| match replica.place.state {
        ReplicaState::Writing => format!("one is being written to {}", replica.backend),
        ReplicaState::Away => format!("{} is away for long", replica.backend),
        other => format!("the one on {} is {}", replica.backend, other.name()),
    });
    let mut said: Vec<String> = lost.collect();
    let wished = state.replicas as usize;
    let next = match state.due {
        _ if wished > backends => format!("there are only {backends} backends"),
        _ if state.has_no_target => "no backend can take one now".to_owned(),
        Some(due) if due > now => format!("another is tried at {}", rfc3339(due)),
        _ => "the replicator has not come to it yet".to_owned(),
    };
    said.push(next);
    Some(format!("{} of {wished} replicas are good: {}", state.good, said.join("; ")))
}

impl Desk {
    pub(super) async fn object_show(&self, bucket: &str, key: &str) -> Result<Value, ApiError> {
        let shown = self.engine.show_object(bucket, key).await.map_err(|err| match err {
            EngineError::NoSuchBucket => ApiError::from(err).about("bucket", bucket),
            err => ApiError::from(err).about("object", key),
        })?;
        let (now, backends) = (self.engine.clock.now(), self.places().len());
        let meta = &shown.head.meta;
        value(&ObjectView {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: shown.head.seq.to_string(),
            size: meta.size,
            etag: meta.etag.to_string(),
            modified: rfc3339(meta.modified),
            more_blobs: shown.more_blobs,
            blobs: shown.blobs.into_iter().map(|b| BlobView::new(b, backends, now)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BlobPlace;
    use crate::engine::BlobState;
    use crate::model::BackendId;
    use crate::model::BlobId;
    use crate::model::WriteId;

    const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

    fn blob(replicas: u32, states: &[ReplicaState], due: Option<Timestamp>) -> ShownBlob {
        let good = states.iter().filter(|state| **state == ReplicaState::Good).count();
        let place = |(n, state): (usize, &ReplicaState)| ShownReplica {
            place: BlobPlace {
                write: WriteId(n as u64),
                backend: BackendId(n as u64),
                state: *state,
                checked: None,
                is_borrowed: false,
            },
            path: "p".into(),
            backend: format!("disk{n}"),
            is_present: true,
        };
        let state = BlobState {
            blob: BlobId(1),
            size: 1,
            replicas,
            min_replicas: 1,
            good: good as u32,
            deficit: i64::from(replicas) - good as i64,
            due,
            has_no_target: false,
            places: Vec::new(),
        };
        let replicas = states.iter().enumerate().map(place).collect();
        ShownBlob { state, entries: vec![(0, 0, 1)], replicas }
    }

    #[test]
    fn a_missing_replica_has_a_reason_in_a_sentence() {
        use ReplicaState::*;
        let told = |blob: ShownBlob| why(&blob, 3, NOW).unwrap();
        assert_eq!(why(&blob(2, &[Good, Good], None), 3, NOW), None);
        assert_eq!(why(&blob(1, &[Good, Good], None), 3, NOW), None, "too many is not too few");
        assert_eq!(
            told(blob(2, &[Good, Missing], Some(NOW))),
            "1 of 2 replicas are good: the one on disk1 is missing; \
             the replicator has not come to it yet"
        );
        let later = NOW.plus(std::time::Duration::from_secs(60));
        assert_eq!(
            told(blob(3, &[Good, Away, Writing], Some(later))),
            "1 of 3 replicas are good: disk1 is away for long; one is being written to disk2; \
             another is tried at 2026-01-01T00:01:00Z"
        );
        assert_eq!(
            told(blob(4, &[Good], Some(NOW))),
            "1 of 4 replicas are good: there are only 3 backends"
        );
        let mut full = blob(2, &[Good], None);
        full.state.has_no_target = true;
        assert_eq!(told(full), "1 of 2 replicas are good: no backend can take one now");
    }
}
