//! What can be done while no server runs: verify the store, try the backends, and every verb of
//! the operator, on the store itself.
//!
//! The store is taken over as a server would take it, so a declaration comes first: buckets and
//! keys are what the configuration says, and a verb is refused or not as the server would refuse
//! it. Backends stay as the store knows them; only a server adds or drops them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::admin::Desk;
use crate::admin::Place;
use crate::backend::Backend;
use crate::backend::BackendSettings;
use crate::backend::Fleet;
use crate::backend::Meter;
use crate::backend::ProbeReport;
use crate::base::Clock;
use crate::base::Ids;
use crate::base::chain;
use crate::config::Config;
use crate::engine::Engine;
use crate::store::BackendRow;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Durability;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::StoreSettings;
use crate::worker::Crew;

/// Backends that are tried at a time.
const PROBES_MAX: usize = 8;
/// Reader threads of the store.
const READERS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("there is no data directory at {0}")]
    NoDirectory(PathBuf),
    /// Another process has it open: a server that does not answer yet or no more, or a command.
    #[error("the data directory {0} is in use, and no server answers there")]
    Locked(PathBuf),
    /// Files that somebody else makes there would lock its owner out.
    #[error("the data directory {0} belongs to the user with the number {1}")]
    NotOurs(PathBuf, u32),
    /// A server runs on it, or it cannot be opened by this user.
    #[error("the metadata store in {0} cannot be opened")]
    Unreachable(PathBuf, #[source] StoreError),
    #[error("the metadata store could not be read or written")]
    Store(#[source] StoreError),
}

/// How much of the appliance a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The store, with what the configuration declares.
    Names,
    /// The store as it is.
    Store,
    /// The store as it is, and the backends that it knows.
    Backends,
}

/// A desk on a store that this process has to itself.
pub struct Offline {
    pub desk: Desk,
    store: Store,
    /// Runs only what is asked for.
    crew: Arc<Crew>,
    /// Keeps what is asked of backends counted, as in a server; ends also when this is dropped.
    counting: JoinHandle<()>,
    stop: DropGuard,
}

impl Offline {
    /// Takes the store of `config`'s data directory.
    pub async fn open(config: &Config, needs: Needs) -> Result<Offline, OfflineError> {
        let data_dir = &config.data_dir;
        let found = std::fs::metadata(data_dir).ok().filter(|found| found.is_dir());
        // Opening would make a store where there is none.
        let Some(found) = found else {
            return Err(OfflineError::NoDirectory(data_dir.clone()));
        };
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(OfflineError::NotOurs(data_dir.clone(), found.uid()));
        }
        if Store::is_locked(data_dir).is_ok_and(|locked| locked) {
            return Err(OfflineError::Locked(data_dir.clone()));
        }
        let clock = Clock::system();
        let ids = Arc::new(Ids::new(clock.clone()));
        let store = open(data_dir, clock.clone(), ids).await?;
        let begun = async {
            let fleet = prepare(config, &store, needs).await?;
            let settings = config.engine.clone();
            let engine = Engine::new(store.clone(), fleet, settings, config.server.memory, clock);
            let crew = super::crew::crew(config, &engine).await?;
            Ok((engine, crew))
        };
        match begun.await {
            Ok((engine, crew)) => {
                engine.usage_as_configured(&config.backends);
                let places = config.backends.iter().map(place).collect();
                if let Err(err) = engine.usage_learn(engine.fleet.load().all()).await {
                    tracing::warn!(error = chain(&err), "what was used is not known");
                }
                let stop = CancellationToken::new();
                let counting = tokio::spawn(Arc::clone(&engine).usage_loop(stop.clone()));
                let desk = Desk::offline(engine, Arc::clone(&crew), places);
                Ok(Offline { desk, store, crew, counting, stop: stop.drop_guard() })
            }
            Err(err) => {
                store.close().await;
                Err(OfflineError::Store(err))
            }
        }
    }

    /// Gives the store back.
    pub async fn close(self) {
        self.crew.end().await;
        drop(self.stop);
        // It panics only if the loop did; what it did not write is lost then.
        let _ = self.counting.await;
        self.store.close().await;
    }
}

fn place(settings: &BackendSettings) -> Place {
    let known = crate::backend::service(&settings.service);
    Place {
        name: settings.name.clone(),
        service: settings.service.clone(),
        is_durable: known.is_none_or(|service| service.durable),
        labels: settings.labels.clone(),
    }
}

async fn prepare(config: &Config, store: &Store, needs: Needs) -> Result<Fleet, StoreError> {
    let rows = store.backends().await?;
    match needs {
        Needs::Store => Ok(Fleet::default()),
        Needs::Names => {
            declare(config, store, rows).await?;
            Ok(Fleet::default())
        }
        Needs::Backends => {
            let opened: Vec<Option<Arc<Backend>>> = stream::iter(&config.backends)
                .map(|settings| open_known(settings, store.id(), &rows))
                .buffered(PROBES_MAX)
                .collect()
                .await;
            Ok(Fleet::new(opened.into_iter().flatten().collect()))
        }
    }
}

/// Declares what the configuration says of buckets and keys. What is left out by mistake cannot
/// be lost by it: the next start declares the same.
async fn declare(config: &Config, store: &Store, rows: Vec<BackendRow>) -> Result<(), StoreError> {
    let kept = |row: BackendRow| DeclaredBackend {
        id: row.id,
        name: row.name,
        location: row.location,
        quota: row.quota,
        account: row.account,
    };
    let declaration = Declaration {
        backends: rows.into_iter().map(kept).collect(),
        buckets: config.buckets.clone(),
        keys: config.keys.clone(),
        default_placement: config.default_placement.clone(),
    };
    store.declare(declaration).await
}

/// The backend of `settings`, if the store knows it; one that cannot be asked is absent.
async fn open_known(
    settings: &BackendSettings,
    store: u64,
    rows: &[BackendRow],
) -> Option<Arc<Backend>> {
    let meter = Meter::new(Clock::system(), settings.profile.day_begins);
    let marked = Backend::find_marker(settings, &meter).await.ok().flatten();
    let id = match marked {
        Some(marker) => Some(marker.backend).filter(|_| marker.store == store),
        None => {
            let location = Backend::location(settings);
            let same = |row: &&BackendRow| row.name == settings.name && row.location == location;
            rows.iter().find(same).map(|row| row.id)
        }
    }?;
    if rows.iter().all(|row| row.id != id) {
        return None;
    }
    match Backend::open(settings.clone(), store, id, meter).await {
        Ok(backend) => Some(backend),
        Err(err) => {
            let error = &err as &dyn std::error::Error;
            tracing::warn!(backend = settings.name, error, "the backend cannot be opened");
            None
        }
    }
}

/// Opens the store for a short visit, which leaves the making of a ballast to the server.
pub async fn open(data_dir: &Path, clock: Clock, ids: Arc<Ids>) -> Result<Store, OfflineError> {
    open_with(data_dir, 0, clock, ids).await
}

/// Opens the store on a thread that may block. `ballast` is [`StoreSettings::ballast`].
pub(super) async fn open_with(
    data_dir: &Path,
    ballast: u64,
    clock: Clock,
    ids: Arc<Ids>,
) -> Result<Store, OfflineError> {
    let settings = StoreSettings {
        data_dir: data_dir.to_owned(),
        durability: Durability::PowerLoss,
        readers: READERS,
        ballast,
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(settings, clock, ids)).await;
    let opened = opened.expect("opening a store does not panic");
    opened.map_err(|err| OfflineError::Unreachable(data_dir.to_owned(), err))
}

/// Whether a process has the store of `data_dir` open.
pub fn is_locked(data_dir: &Path) -> std::io::Result<bool> {
    Store::is_locked(data_dir)
}

/// Tries everything that the contract needs of each backend, several at a time; the reports are
/// in the order of `backends`.
pub async fn probe(backends: &[BackendSettings]) -> Vec<ProbeReport> {
    let probe = async |settings: &BackendSettings| {
        let meter = Meter::new(Clock::system(), settings.profile.day_begins);
        Backend::probe(settings, &meter).await
    };
    stream::iter(backends).map(probe).buffered(PROBES_MAX).collect().await
}
