//! All backends of one generation of the configuration.
//!
//! # Invariant
//!
//! - Backends of one account are held against its limits together, from the moment in which they
//!   are in one fleet. A backend that comes from the generation before, with the same company and
//!   limits as there, keeps what it has.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use super::Backend;
use super::gate::Dues;
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
        share(&inner.order);
        Fleet { inner: Arc::new(inner) }
    }

    /// The same backends, called by background work.
    pub fn for_work(&self) -> Fleet {
        let order = self.inner.order.iter().map(|backend| backend.for_work()).collect();
        Fleet { inner: Arc::new(Inner { order, by_id: self.inner.by_id.clone() }) }
    }

    pub fn get(&self, id: BackendId) -> Option<&Arc<Backend>> {
        self.inner.by_id.get(&id).map(|&place| &self.inner.order[place])
    }

    /// In the order of the configuration.
    pub fn all(&self) -> &[Arc<Backend>] {
        &self.inner.order
    }
}

/// Gives each backend the account that it belongs to: the one of its word, or one of its own.
fn share(backends: &[Arc<Backend>]) {
    let mut accounts: BTreeMap<&str, Vec<&Arc<Backend>>> = BTreeMap::new();
    for backend in backends {
        match &backend.settings().account {
            Some(word) => accounts.entry(word).or_default().push(backend),
            None => charge(&[backend]),
        }
    }
    accounts.values().for_each(|members| charge(members));
}

/// One account for all of these. The limits may stand at any of them.
fn charge(members: &[&Arc<Backend>]) {
    let limits = members.iter().map(|backend| backend.settings().limits);
    let limits = limits.reduce(|first, next| if first.is_set() { first } else { next });
    let limits = limits.unwrap_or_default();
    let meters: Vec<_> = members.iter().map(|backend| Arc::clone(backend.meter())).collect();
    let mut dues: Option<Arc<Dues>> = None;
    for backend in members {
        let own = backend.inner.dues.load_full();
        if own.are(&limits, &meters) {
            dues.get_or_insert(own);
        }
    }
    let dues = dues.unwrap_or_else(|| Dues::new(limits, meters));
    members.iter().for_each(|backend| backend.inner.dues.store(Arc::clone(&dues)));
}
