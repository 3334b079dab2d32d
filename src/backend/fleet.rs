//! All backends of one generation of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use super::Backend;
use crate::model::BackendId;

/// The backends of one generation of the configuration.
#[derive(Clone, Default)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    order: Vec<Arc<Backend>>,
    by_id: HashMap<BackendId, usize>,
}

impl Fleet {
    /// A fleet in this order. Of two with one id the first counts.
    pub fn new(backends: Vec<Arc<Backend>>) -> Fleet {
        let mut inner = Inner::default();
        for backend in backends {
            let place = inner.order.len();
            if *inner.by_id.entry(backend.id()).or_insert(place) == place {
                inner.order.push(backend);
            }
        }
        Fleet { inner: Arc::new(inner) }
    }

    pub fn get(&self, id: BackendId) -> Option<&Arc<Backend>> {
        self.inner.by_id.get(&id).map(|&place| &self.inner.order[place])
    }

    /// In the order of the configuration.
    pub fn all(&self) -> &[Arc<Backend>] {
        &self.inner.order
    }
}
