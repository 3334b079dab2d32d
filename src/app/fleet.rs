//! From the backends that the configuration names to an opened fleet.
//!
//! A backend *is* its marker: the marker found at a root says which row of the store it belongs
//! to, and the name in the file is only a label. So a backend can be renamed, and moved to another
//! root or endpoint as long as its marker moved along; a root that another store or another
//! backend claims is refused, and a known backend without its marker is absent, not new.

use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::BackendSettings;
use crate::backend::Fleet;
use crate::backend::Marker;
use crate::backend::Meter;
use crate::base::Clock;
use crate::base::Ids;
use crate::base::ids;
use crate::model::BackendId;
use crate::store::BackendRow;
use crate::store::DeclaredBackend;

/// Why a fleet cannot be opened as the configuration says.
#[derive(Debug, thiserror::Error)]
pub(super) enum FleetError {
    #[error("backend {name}: its root belongs to the store {store}; give it a root of its own")]
    OtherStore { name: String, store: String },
    #[error("backends {first} and {second} have one root; a root belongs to one backend")]
    OneRootTwice { first: String, second: String },
    #[error(
        "backend {name} has a new root or endpoint, and its marker is not there; \
         move its data along, or put the old location back"
    )]
    Moved { name: String },
    #[error("backend {name} cannot be added")]
    Add {
        name: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("backend {name} cannot be opened")]
    Open {
        name: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What opening goes by.
pub(super) struct Known<'a> {
    pub(super) store: u64,
    pub(super) rows: &'a [BackendRow],
    /// Backends of the generation before; those with equal settings are taken over as they are.
    pub(super) before: Option<&'a Fleet>,
    pub(super) ids: &'a Ids,
    pub(super) clock: &'a Clock,
}

/// Opens all backends. Those that are known are opened side by side, so that those that give no
/// answer cost the time of one; those that are new are probed and get their markers, in order.
/// They are no fleet yet: until they are, the limits of the one before hold.
pub(super) async fn open(
    settings: &[BackendSettings],
    known: &Known<'_>,
) -> Result<(Vec<Arc<Backend>>, Vec<DeclaredBackend>), FleetError> {
    let mut backends: Vec<Arc<Backend>> = Vec::with_capacity(settings.len());
    if let Err(err) = open_all(settings, known, &mut backends).await {
        hand_back(&backends, known.before);
        return Err(err);
    }
    let declared = backends
        .iter()
        .map(|backend| DeclaredBackend {
            id: backend.id(),
            name: backend.name().to_string(),
            location: Backend::location(backend.settings()),
            quota: backend.settings().quota,
            account: backend.settings().account.clone(),
        })
        .collect();
    Ok((backends, declared))
}

/// These are not used after all: the requests that opening them took are counted all the same.
pub(super) fn hand_back(backends: &[Arc<Backend>], before: Option<&Fleet>) {
    for backend in backends {
        if let Some(before) = before.and_then(|fleet| fleet.get(backend.id())) {
            backend.meter().hand_on(before.meter());
        }
    }
}

/// Also after an error `backends` has all that were opened.
async fn open_all(
    settings: &[BackendSettings],
    known: &Known<'_>,
    backends: &mut Vec<Arc<Backend>>,
) -> Result<(), FleetError> {
    let is_known = |wanted: &BackendSettings| known.rows.iter().any(|row| row.name == wanted.name);
    let opening = settings.iter().map(async |wanted| match is_known(wanted) {
        true => Some(open_one(wanted, known).await),
        false => None,
    });
    let mut outcome = Ok(());
    for (wanted, opened) in settings.iter().zip(futures_util::future::join_all(opening).await) {
        let opened = match opened {
            Some(opened) => opened,
            None if outcome.is_ok() => open_one(wanted, known).await,
            None => continue,
        };
        match opened {
            Ok(backend) => match backends.iter().find(|b| b.id() == backend.id()) {
                Some(twin) => {
                    let (first, second) = (twin.name().to_string(), wanted.name.clone());
                    outcome = outcome.and(Err(FleetError::OneRootTwice { first, second }));
                }
                None => backends.push(backend),
            },
            Err(err) => outcome = outcome.and(Err(err)),
        }
    }
    outcome
}

/// What is sent before it is known whose backend this is counts as well, also when it is not
/// opened then.
async fn open_one(wanted: &BackendSettings, known: &Known<'_>) -> Result<Arc<Backend>, FleetError> {
    let same = |backend: &&Arc<Backend>| backend.settings() == wanted;
    if let Some(same) = known.before.and_then(|fleet| fleet.all().iter().find(same)) {
        return Ok(Arc::clone(same));
    }
    let meter = Meter::new(known.clock.clone(), wanted.profile.day_begins);
    let opened = open_with(wanted, known, &meter).await;
    if opened.is_err() {
        let named = |backend: &&Arc<Backend>| **backend.name() == *wanted.name;
        let before = known.before.and_then(|fleet| fleet.all().iter().find(named));
        before.into_iter().for_each(|before| meter.hand_on(before.meter()));
    }
    opened
}

async fn open_with(
    wanted: &BackendSettings,
    known: &Known<'_>,
    meter: &Arc<Meter>,
) -> Result<Arc<Backend>, FleetError> {
    let name = || wanted.name.clone();
    let location = Backend::location(wanted);
    let row = known.rows.iter().find(|row| row.name == wanted.name);
    let open = async |id| {
        Backend::open(wanted.clone(), known.store, id, Arc::clone(meter))
            .await
            .map_err(|err| FleetError::Open { name: name(), cause: Box::new(err) })
    };
    let add = async |id| {
        Backend::add(wanted.clone(), known.store, id, Arc::clone(meter))
            .await
            .map_err(|err| FleetError::Add { name: name(), cause: Box::new(err) })
    };
    match Backend::find_marker(wanted, meter).await {
        Ok(Some(Marker { store, .. })) if store != known.store => {
            Err(FleetError::OtherStore { name: name(), store: ids::to_text(store) })
        }
        Ok(Some(marker)) => open(marker.backend).await,
        // What was in memory is gone with the process; the backend is not.
        Ok(None) if wanted.service == "memory" => {
            add(row.map_or_else(|| BackendId(known.ids.next()), |row| row.id)).await
        }
        Ok(None) => match row {
            Some(row) if row.location == location => open(row.id).await,
            Some(row) if row.rows > 0 => Err(FleetError::Moved { name: name() }),
            Some(row) => add(row.id).await,
            None => add(BackendId(known.ids.next())).await,
        },
        // It cannot be asked. One that is known is absent until it can; a new one cannot be added.
        Err(err) => match row {
            Some(row) if row.location == location => open(row.id).await,
            _ => Err(FleetError::Add { name: name(), cause: Box::new(err) }),
        },
    }
}
