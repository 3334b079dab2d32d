//! What is known of an object and where its bytes lie.

use std::collections::BTreeMap;

use super::Engine;
use super::EngineError;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::ObjectKey;
use crate::store::BlobPlace;
use crate::store::BlobState;
use crate::store::Entry;
use crate::store::Head;

/// Blobs of one object that are shown: 256 GiB of usual ones.
const BLOBS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct ShownObject {
    pub head: Head,
    /// In the order of the body, each once.
    pub blobs: Vec<ShownBlob>,
    /// Blobs that are left out.
    pub more_blobs: usize,
}

#[derive(Clone, Debug)]
pub struct ShownBlob {
    pub state: BlobState,
    /// Part number, offset in the blob, and length of each entry.
    pub entries: Vec<(u32, u64, u64)>,
    pub replicas: Vec<ShownReplica>,
}

#[derive(Clone, Debug)]
pub struct ShownReplica {
    pub place: BlobPlace,
    pub path: String,
    /// As the store knows the backend.
    pub backend: String,
    /// It can be read there now; without a server nobody has looked.
    pub is_present: bool,
}

impl Engine {
    /// The current version of a key, with the state of its blobs a moment later.
    pub async fn show_object(&self, bucket: &str, key: &str) -> Result<ShownObject, EngineError> {
        let bucket = self.bucket(bucket)?;
        let key = ObjectKey::new(key).map_err(|_| EngineError::NoSuchKey)?;
        let found = self.store.object_find(bucket.id, key).await?;
        let mut order: Vec<BlobId> = Vec::new();
        let mut entries: BTreeMap<BlobId, Vec<&Entry>> = BTreeMap::new();
        for entry in &found.entries {
            let of_blob = entries.entry(entry.blob).or_default();
            if of_blob.is_empty() {
                order.push(entry.blob);
            }
            of_blob.push(entry);
        }
        let more_blobs = order.len().saturating_sub(BLOBS_MAX);
        order.truncate(BLOBS_MAX);
        let states = self.store.blob_states(order.clone()).await?;
        let mut states: BTreeMap<BlobId, BlobState> =
            states.into_iter().map(|state| (state.blob, state)).collect();
        let names: BTreeMap<BackendId, String> =
            self.store.backends().await?.into_iter().map(|row| (row.id, row.name)).collect();
        let shown = |blob: BlobId| {
            let (state, entries) = (states.remove(&blob)?, entries.get(&blob)?);
            let replicas = state.places.iter().map(|place| self.shown(place, entries[0], &names));
            Some(ShownBlob {
                replicas: replicas.collect(),
                entries: entries.iter().map(|e| (e.part, e.offset, e.length)).collect(),
                state,
            })
        };
        let blobs = order.into_iter().filter_map(shown).collect();
        Ok(ShownObject { head: found.head.clone(), blobs, more_blobs })
    }

    fn shown(
        &self,
        place: &BlobPlace,
        entry: &Entry,
        names: &BTreeMap<BackendId, String>,
    ) -> ShownReplica {
        // One that came after the look-up has its path in the next.
        let path = entry.replicas.iter().find(|replica| replica.write == place.write);
        let fleet = self.fleet.load();
        ShownReplica {
            place: place.clone(),
            path: path.map(|replica| replica.path.clone()).unwrap_or_default(),
            backend: names.get(&place.backend).cloned().unwrap_or_default(),
            is_present: fleet.get(place.backend).is_some_and(|backend| backend.is_present()),
        }
    }
}
