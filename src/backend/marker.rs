//! Markers: who a root belongs to.
//!
//! A marker is a small object `.larder/<store id>.<backend id>` at a backend's root. Its name says
//! all that identity needs, so that one stat of it, or one listing of its directory, is enough to
//! know a root. Its content says what was found out about the place when it was added.

use serde::Deserialize;
use serde::Serialize;

use crate::base::ids;
use crate::model::BackendId;
use crate::model::path::PathLimits;

/// The directory of markers and temporary files, at the root.
pub(crate) const MARKER_DIR: &str = ".larder";
/// Bytes of content that are read at most.
pub(crate) const CONTENT_MAX: u64 = 4096;
const VERSION: u32 = 1;

/// A marker as found at a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub store: u64,
    pub backend: BackendId,
}

/// What a marker holds. Fields that are not known are passed over, so that it can grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) version: u32,
    pub(crate) store: String,
    pub(crate) backend: String,
    /// The highest write id that was known when the marker was last written.
    pub(crate) highest_write: String,
    /// The longest names that the probe found to work.
    pub(crate) component_max: usize,
    pub(crate) total_max: usize,
}

impl Marker {
    /// The name below [`MARKER_DIR`].
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", ids::to_text(self.store), self.backend)
    }

    pub(crate) fn path(&self) -> String {
        format!("{MARKER_DIR}/{}", self.name())
    }

    pub(crate) fn from_name(name: &str) -> Option<Marker> {
        let (store, backend) = name.split_once('.')?;
        Some(Marker { store: ids::from_text(store)?, backend: BackendId::from_text(backend)? })
    }

    pub(crate) fn content(&self, limits: PathLimits) -> Vec<u8> {
        let content = Content {
            version: VERSION,
            store: ids::to_text(self.store),
            backend: self.backend.to_string(),
            highest_write: ids::to_text(0),
            component_max: limits.component_max,
            total_max: limits.total_max,
        };
        serde_json::to_vec(&content).expect("plain fields always serialise")
    }
}

/// The path limits that a marker's content states; `None` when it states none.
pub(crate) fn limits_of(content: &[u8]) -> Option<PathLimits> {
    let content: Content = serde_json::from_slice(content).ok()?;
    Some(PathLimits { component_max: content.component_max, total_max: content.total_max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back_from_its_name_and_content() {
        let marker = Marker { store: 123_456, backend: BackendId(789) };
        assert_eq!(Marker::from_name(&marker.name()), Some(marker));
        for other in ["", "x", "a.b", &format!("{}.tmp", marker.name()), "probe-1.tmp"] {
            assert_eq!(Marker::from_name(other), None, "{other}");
        }
        let limits = PathLimits { component_max: 143, total_max: 1000 };
        let content = marker.content(limits);
        assert!(content.len() as u64 <= CONTENT_MAX);
        assert_eq!(limits_of(&content), Some(limits));
        assert_eq!(limits_of(b"{}"), None);
    }
}
