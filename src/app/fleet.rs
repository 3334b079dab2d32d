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
}

/// Opens all backends. Those that are known are opened side by side, so that those that give no
/// answer cost the time of one; those that are new are probed and get their markers, in order.
pub(super) async fn open(
    settings: &[BackendSettings],
    known: &Known<'_>,
) -> Result<(Fleet, Vec<DeclaredBackend>), FleetError> {
    let mut backends: Vec<Arc<Backend>> = Vec::with_capacity(settings.len());
    let is_known = |wanted: &BackendSettings| known.rows.iter().any(|row| row.name == wanted.name);
    let opening = settings.iter().map(async |wanted| match is_known(wanted) {
        true => Some(open_one(wanted, known).await),
        false => None,
    });
    for (wanted, opened) in settings.iter().zip(futures_util::future::join_all(opening).await) {
        let backend = match opened {
            Some(opened) => opened?,
            None => open_one(wanted, known).await?,
        };
        if let Some(twin) = backends.iter().find(|b| b.id() == backend.id()) {
            let (first, second) = (twin.name().to_string(), wanted.name.clone());
            return Err(FleetError::OneRootTwice { first, second });
        }
        backends.push(backend);
    }
    let declared = backends
        .iter()
        .map(|backend| DeclaredBackend {
            id: backend.id(),
            name: backend.name().to_string(),
            location: Backend::location(backend.settings()),
            quota: backend.settings().quota,
        })
        .collect();
    Ok((Fleet::new(backends), declared))
}

async fn open_one(wanted: &BackendSettings, known: &Known<'_>) -> Result<Arc<Backend>, FleetError> {
    if let Some(same) =
        known.before.and_then(|fleet| fleet.all().iter().find(|b| b.settings() == wanted))
    {
        return Ok(Arc::clone(same));
    }
    let name = || wanted.name.clone();
    let location = Backend::location(wanted);
    let row = known.rows.iter().find(|row| row.name == wanted.name);
    let open = async |id| {
        Backend::open(wanted.clone(), known.store, id)
            .await
            .map_err(|err| FleetError::Open { name: name(), cause: Box::new(err) })
    };
    let add = async |id| {
        Backend::add(wanted.clone(), known.store, id)
            .await
            .map_err(|err| FleetError::Add { name: name(), cause: Box::new(err) })
    };
    match Backend::find_marker(wanted).await {
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
