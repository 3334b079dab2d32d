//! Verify: whether the store agrees with itself, and the backends with the store.
//!
//! It only reports. It works while requests are served: before a replica is reported its row is
//! looked at again, since it may have been condemned meanwhile, and a path without a row is looked
//! at again, since its bytes may have been deleted meanwhile. It walks the rows in pages and holds
//! no ticket, so it neither grows with the store nor keeps cleanup waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::examine;
use super::examine::Means;
use super::examine::Seen;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fault;
use crate::backend::Fleet;
use crate::base::chain;
use crate::model::BackendId;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::model::path::write_id;
use crate::store::StoredReplica;

const PAGE: usize = 200;
/// Replicas that are looked at or read at a time.
const LOOKS_MAX: usize = 16;
const READS_MAX: usize = 4;
/// Faults that are told in words; the rest are counted.
const FAULTS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Look at every replica on its backend, and for files that no row knows.
    pub backends: bool,
    /// Read every good replica whole and compare it with its hash.
    pub read: bool,
}

/// How far it is, for whoever waits. Shared with the run.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    pub replicas: AtomicU64,
    pub bytes: AtomicU64,
    /// About how many replicas there are in all; 0 until that is known.
    pub total: AtomicU64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// In words, at most [`FAULTS_MAX`].
    pub faults: Vec<String>,
    /// Faults beyond those.
    pub more_faults: u64,
    /// Replicas that were looked at, and the bytes of those or, with `read`, that were read.
    pub replicas: u64,
    pub bytes: u64,
    /// Files on the backends that Larder did not write; `None` when it was not looked.
    pub foreign: Option<u64>,
    /// Files of Larder's own form without a row: debris, and no fault.
    pub debris: Option<u64>,
}

impl Verified {
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        } else {
            self.more_faults += 1;
        }
    }
}

/// What is wrong with one replica.
enum Wrong {
    Known(ReplicaState),
    Seen(Seen),
    /// Its backend is not in the fleet.
    Away,
}

impl Wrong {
    /// Its backend as a whole is away, which is told once.
    fn is_absence(&self) -> bool {
        let absent = |err: &BackendError| err.fault == Fault::Absent;
        matches!(self, Wrong::Away) || matches!(self, Wrong::Seen(Seen::Away(err)) if absent(err))
    }
}

impl Engine {
    /// The store is always verified, the backends as `options` say.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        progress: &VerifyProgress,
    ) -> Result<Verified, EngineError> {
        let mut verified = Verified::default();
        for fault in self.store.verify().await? {
            verified.fault(format!("store: {fault}"));
        }
        if options.backends || options.read {
            let rows = self.store.backends().await?;
            let total = rows.iter().map(|row| row.rows).sum();
            progress.total.store(total, Ordering::Relaxed);
            self.verify_replicas(options, progress, &mut verified).await?;
        }
        if options.backends {
            self.verify_listings(&mut verified).await?;
        }
        Ok(verified)
    }

    async fn verify_replicas(
        &self,
        options: VerifyOptions,
        progress: &VerifyProgress,
        verified: &mut Verified,
    ) -> Result<(), EngineError> {
        let mut after = WriteId(0);
        let mut unseen: BTreeMap<BackendId, u64> = BTreeMap::new();
        loop {
            let page = self.store.replicas_page(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.replica.write;
            // One generation for a page: a backend that a reload brings is met on the next.
            let fleet = self.fleet.load_full();
            let at_a_time = if options.read { READS_MAX } else { LOOKS_MAX };
            let mut looks = stream::iter(page)
                .map(|stored| self.verify_look(&fleet, stored, options.read, progress))
                .buffer_unordered(at_a_time);
            while let Some((stored, wrong)) = looks.next().await {
                verified.replicas += 1;
                progress.replicas.fetch_add(1, Ordering::Relaxed);
                match wrong {
                    None => verified.bytes += stored.size,
                    Some(wrong) if wrong.is_absence() => {
                        *unseen.entry(stored.replica.backend).or_default() += 1
                    }
                    Some(wrong) => {
                        // Whoever looked, the row has the last word.
                        if self.store.replica_state(stored.replica.write).await?.is_some() {
                            verified.fault(describe(&fleet, &stored, &wrong));
                        }
                    }
                }
            }
        }
        let fleet = self.fleet.load_full();
        for (backend, replicas) in unseen {
            let backend = name_of(&fleet, backend);
            verified.fault(format!(
                "backend {backend} is absent: {replicas} replicas there could not be looked at"
            ));
        }
        Ok(())
    }

    /// Looks for what lies on the backends and no row knows.
    async fn verify_listings(&self, verified: &mut Verified) -> Result<(), EngineError> {
        let (mut foreign, mut debris) = (0, 0);
        for backend in self.fleet.load_full().all() {
            let mut listed = match backend.list("").await {
                Ok(listed) => listed.chunks(PAGE),
                Err(err) => {
                    verified.fault(unlisted(backend, &err));
                    continue;
                }
            };
            'backend: while let Some(chunk) = listed.next().await {
                let mut paths = Vec::with_capacity(chunk.len());
                let mut broken = None;
                for entry in chunk {
                    match entry {
                        Ok(entry) => paths.push(entry.path),
                        Err(err) => broken = Some(err),
                    }
                }
                let known = self.store.paths_known(backend.id(), paths.clone()).await?;
                let unknown = paths.iter().zip(known).filter(|(_, known)| !known);
                for (path, _) in unknown {
                    if write_id(path).is_none() {
                        foreign += 1;
                    } else if backend.stat(path).await.is_ok() {
                        debris += 1;
                    }
                }
                if let Some(err) = broken {
                    verified.fault(unlisted(backend, &err));
                    break 'backend;
                }
            }
        }
        (verified.foreign, verified.debris) = (Some(foreign), Some(debris));
        Ok(())
    }

    async fn verify_look(
        &self,
        fleet: &Arc<Fleet>,
        stored: StoredReplica,
        is_read: bool,
        progress: &VerifyProgress,
    ) -> (StoredReplica, Option<Wrong>) {
        if !stored.replica.state.is_readable() {
            let known = Wrong::Known(stored.replica.state);
            return (stored, Some(known));
        }
        let Some(backend) = fleet.get(stored.replica.backend) else {
            return (stored, Some(Wrong::Away));
        };
        let (path, size) = (&stored.replica.path, stored.size);
        let (hashers, budget, read) = (&self.hashers, &self.budget, &progress.bytes);
        let means = Means { hashers, budget, read };
        let seen = match &stored.hash {
            Some(hash) if is_read => examine::read(means, backend, path, size, hash).await,
            // What was imported may have no hash yet to compare it with.
            _ => {
                progress.bytes.fetch_add(size, Ordering::Relaxed);
                examine::look(backend, path, size).await
            }
        };
        let wrong = (!seen.is_whole()).then_some(Wrong::Seen(seen));
        (stored, wrong)
    }
}

fn describe(fleet: &Fleet, stored: &StoredReplica, wrong: &Wrong) -> String {
    let replica = &stored.replica;
    let what = match wrong {
        Wrong::Known(state) => format!("is known to be {}", state.name()),
        Wrong::Seen(Seen::Missing) => "is not there".to_owned(),
        Wrong::Seen(Seen::Length(length)) => {
            format!("has {length} bytes, it should have {}", stored.size)
        }
        Wrong::Seen(Seen::Wrong) => "has other bytes than were written".to_owned(),
        Wrong::Seen(Seen::Unreadable(err) | Seen::Away(err)) => {
            format!("cannot be looked at: {}", chain(err))
        }
        Wrong::Seen(Seen::Whole) | Wrong::Away => "is on an absent backend".to_owned(),
    };
    let backend = name_of(fleet, replica.backend);
    format!("backend {backend}: the replica {} of blob {} {what}", replica.path, stored.blob)
}

fn name_of(fleet: &Fleet, backend: BackendId) -> String {
    fleet.get(backend).map_or_else(|| backend.to_string(), |backend| backend.name().to_string())
}

fn unlisted(backend: &Backend, err: &BackendError) -> String {
    format!("backend {} could not be listed to its end: {}", backend.name(), chain(err))
}

#[cfg(test)]
mod tests;
