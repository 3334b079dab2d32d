//! How a backend begins: added once, opened at every start and reload.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ring::rand::{SecureRandom, SystemRandom};

use super::Backend;
use super::BackendError;
use super::BackendSettings;
use super::Bandwidth;
use super::BreakerSettings;
use super::Marker;
use super::Meter;
use super::ProbeReport;
use super::Profile;
use super::ServiceTraits;
use super::Timeouts;
use super::error::{Aim, Failure, Fault};
use super::faulty::Faults;
use super::local::Disk;
use super::local::sync::sync_dir;
use super::marker::MARKER_DIR;
use super::place::Place;
use super::place::local_root;
use super::probe;
use super::services::service;
use crate::base::Clock;
use crate::base::ids;
use crate::model::BackendId;
use crate::model::DayBegins;
use crate::model::Limits;
use crate::model::Names;
use crate::model::Operation;
use crate::model::Purpose;
use crate::model::path::PathLimits;

/// Directories right below a new root that are looked at for somebody's marker.
const BELOW_MAX: usize = 1000;
/// Levels above a new remote root that are looked at.
const ABOVE_MAX: usize = 16;
/// Bytes that temporary names and the slash after a root take of a file system's path.
const ROOT_SPARE: usize = 64;
/// A readable name is longer than this, so nothing but the opaque form fits.
pub(crate) const OPAQUE_ONLY: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error("the root belongs to {0}")]
    Claimed(String),
    #[error("the probe found: {0}")]
    Probe(String),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Limits with which only the opaque form of a path fits.
pub(super) fn opaque_only(limits: PathLimits) -> PathLimits {
    PathLimits { component_max: OPAQUE_ONLY, ..limits }
}

/// Service, endpoint or root, and bucket as one text without secrets.
pub(super) fn location(settings: &BackendSettings) -> String {
    let mut text = settings.service.clone();
    if settings.service == "memory" {
        // Each backend has its own memory, so its name is the place.
        text.push_str(&format!(" name={}", settings.name));
    }
    let Some(traits) = service(&settings.service) else { return text };
    for (option, value) in &settings.options {
        if traits.place.contains(&option.as_str()) {
            text.push_str(&format!(" {option}={}", without_login(value.trim_end_matches('/'))));
        }
    }
    text
}

/// `scheme://user:password@host` without the login: a location is shown and kept.
fn without_login(value: &str) -> String {
    match value.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            let login = rest[..host].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[login..])
        }
        None => value.to_owned(),
    }
}

/// What fits below the root that `settings` name, before any probe.
pub(super) fn limits_at(settings: &BackendSettings, traits: &ServiceTraits) -> PathLimits {
    let root = settings.options.get("root").map_or(0, String::len);
    let spare = if traits.local { root + ROOT_SPARE } else { root };
    PathLimits { total_max: traits.paths.total_max.saturating_sub(spare), ..traits.paths }
}

/// A name that nothing else has.
pub(crate) fn fresh_name(prefix: &str) -> String {
    let mut random = [0; 8];
    // Without randomness two attempts at once would meet in one directory, and one would fail.
    let _ = SystemRandom::new().fill(&mut random);
    format!("{prefix}-{}", ids::to_text(u64::from_le_bytes(random) >> 1))
}

impl Backend {
    /// Service, endpoint/root and bucket as one text without secrets: a change of it moves the backend.
    pub fn location(settings: &BackendSettings) -> String {
        location(settings)
    }

    /// The marker at the root that `settings` name; `None` when there is a root without one, or no root.
    pub async fn find_marker(
        settings: &BackendSettings,
        meter: &Arc<Meter>,
    ) -> Result<Option<Marker>, BackendError> {
        let found = async { marker_at(&Place::open(settings, "none", meter)?).await };
        found.await.map_err(|failure| named(settings, "look", failure))
    }

    /// Makes the root (the only time), refuses one that is claimed or nested in a claimed one,
    /// probes it for real and writes the marker.
    pub async fn add(
        settings: BackendSettings,
        store: u64,
        id: BackendId,
        meter: Arc<Meter>,
    ) -> Result<Arc<Backend>, AddError> {
        let marker = Marker { store, backend: id };
        let failed = |failure| AddError::Backend(named(&settings, "add", failure));
        let owner = match Backend::find_marker(&settings, &meter).await? {
            Some(own) if own == marker => {
                return Ok(Backend::open(settings, store, id, meter).await?);
            }
            Some(other) => Some(format!("{}, whose marker is at it", owner(other))),
            None => nested_in(&settings, &meter).await.map_err(failed)?,
        };
        if let Some(owner) = owner {
            return Err(AddError::Claimed(owner));
        }
        let made = match settings.service.as_str() {
            "fs" => {
                make_root(local_root(&settings).map_err(failed)?.into()).await.map_err(failed)?
            }
            _ => Vec::new(),
        };
        let report = Backend::probe(&settings, &meter).await;
        if let Some(wrong) = report.failure() {
            // Only what was made above and is still empty goes.
            made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            return Err(AddError::Probe(wrong));
        }
        for warning in &report.warnings {
            tracing::warn!(backend = settings.name, warning, "a probe of a new backend warns");
        }
        let limits = report.limits.unwrap_or(PathLimits { component_max: 0, total_max: 0 });
        write_marker(&settings, &marker, limits, &meter).await.map_err(failed)?;
        Ok(Backend::open(settings, store, id, meter).await?)
    }

    /// Opens a backend that was added before; absent when its marker cannot be seen now.
    /// An error when the root is somebody else's, or the settings cannot be right.
    pub async fn open(
        settings: BackendSettings,
        store: u64,
        id: BackendId,
        meter: Arc<Meter>,
    ) -> Result<Arc<Backend>, BackendError> {
        let marker = Marker { store, backend: id };
        Backend::open_with(settings, marker, Faults::default(), meter).await
    }

    async fn open_with(
        settings: BackendSettings,
        marker: Marker,
        faults: Faults,
        meter: Arc<Meter>,
    ) -> Result<Arc<Backend>, BackendError> {
        let place = Place::open(&settings, &marker.name(), &meter);
        let place = place.map_err(|failure| named(&settings, "open", failure))?;
        let Some(traits) = service(&settings.service) else {
            return Err(named(&settings, "open", Failure::new(Fault::Refused)));
        };
        let backend = Backend::over(settings, traits, marker, place, faults, meter);
        match backend.inner.look_for(Purpose::Client, Operation::Look).await {
            Ok(()) => {}
            Err(failure) if failure.fault == Fault::Absent => {
                if let Ok(Some(other)) = marker_at(&backend.inner.place).await {
                    let why = format!("the root belongs to {}", owner(other));
                    let failure = Failure::because(Fault::Refused, why);
                    return Err(named(backend.settings(), "open", failure));
                }
                if traits.durable {
                    absent(&backend, &failure);
                } else {
                    // Memory begins empty with every process: its bytes are gone, it is not.
                    let limits = backend.path_limits();
                    let settings = backend.settings();
                    let written = write_marker(settings, &marker, limits, backend.meter()).await;
                    written.map_err(|failure| named(settings, "open", failure))?;
                    backend.look().await?;
                }
            }
            Err(failure) => absent(&backend, &failure),
        }
        Ok(Arc::new(backend))
    }

    /// Tries everything that the contract needs, in a directory of its own, and cleans up.
    pub async fn probe(settings: &BackendSettings, meter: &Arc<Meter>) -> ProbeReport {
        probe::run(settings, meter).await
    }

    /// A backend for tests, at `dir` or in memory of its own, that breaks as `faults` say.
    #[doc(hidden)]
    pub async fn for_tests(
        name: &str,
        id: BackendId,
        dir: Option<&Path>,
        faults: Faults,
    ) -> Arc<Backend> {
        Backend::for_tests_as(name, id, dir, faults, |_| {}).await
    }

    /// The same with other settings.
    #[doc(hidden)]
    pub async fn for_tests_as(
        name: &str,
        id: BackendId,
        dir: Option<&Path>,
        faults: Faults,
        change: impl FnOnce(&mut BackendSettings),
    ) -> Arc<Backend> {
        let mut settings = BackendSettings::for_tests(name, dir);
        change(&mut settings);
        let marker = Marker { store: 1, backend: id };
        let meter = Meter::new(Clock::system(), DayBegins::default());
        let exists = |dir: &Path| dir.join(marker.path()).exists();
        if dir.is_some_and(|dir| !exists(dir)) {
            let limits = PathLimits { component_max: 255, total_max: 3000 };
            let made = make_root(dir.map(Path::to_owned).unwrap_or_default()).await;
            made.expect("a test's directory can be made");
            let written = write_marker(&settings, &marker, limits, &meter).await;
            written.expect("a test's directory can be written");
        }
        let opened = Backend::open_with(settings, marker, faults, meter).await;
        opened.expect("a test's backend can be opened")
    }
}

impl BackendSettings {
    /// Those of a backend for tests.
    pub(super) fn for_tests(name: &str, dir: Option<&Path>) -> BackendSettings {
        let root = dir.map_or_else(|| fresh_name("/memory"), |dir| dir.display().to_string());
        let wait = Duration::from_secs(20);
        BackendSettings {
            name: name.to_owned(),
            service: if dir.is_some() { "fs" } else { "memory" }.to_owned(),
            options: BTreeMap::from([("root".to_owned(), root)]),
            quota: None,
            keep_free: Some(0),
            names: Names::Readable,
            blob_max: crate::base::limits::BLOB_SIZE_MAX,
            labels: BTreeMap::new(),
            min_age: Duration::ZERO,
            timeouts: Timeouts { connect: wait, first_byte: wait, stall: wait },
            breaker: BreakerSettings::default(),
            absent_after: Duration::from_secs(3600),
            account: None,
            limits: Limits::default(),
            profile: Profile::default(),
            bandwidth: Bandwidth::default(),
        }
    }
}

fn named(settings: &BackendSettings, operation: &'static str, failure: Failure) -> BackendError {
    failure.at(&settings.name.as_str().into(), operation, &location(settings))
}

fn owner(marker: Marker) -> String {
    format!("store {}, backend {}", ids::to_text(marker.store), marker.backend)
}

fn absent(backend: &Backend, failure: &Failure) {
    let cause = failure.cause.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        backend = %backend.name(),
        location = location(backend.settings()),
        cause,
        "the backend is absent: its marker cannot be seen; is the disk mounted?"
    );
}

/// The marker at a place, if there is one.
async fn marker_at(place: &Place) -> Result<Option<Marker>, Failure> {
    let own = format!("{MARKER_DIR}/");
    let mut listed = match place.list(&own, false).await {
        Ok(listed) => listed,
        Err(failure) if matches!(failure.fault, Fault::Missing) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    while let Some(entry) = listed.next().await {
        match entry {
            Ok(entry) => {
                let name = entry.path.strip_prefix(&own);
                if let Some(marker) = name.and_then(Marker::from_name) {
                    return Ok(Some(marker));
                }
            }
            Err(failure) if matches!(failure.fault, Fault::Missing) => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// Whose root lies above the new one, or right below it.
async fn nested_in(
    settings: &BackendSettings,
    meter: &Arc<Meter>,
) -> Result<Option<String>, Failure> {
    match settings.service.as_str() {
        "memory" => Ok(None),
        "fs" => {
            let root = PathBuf::from(local_root(settings)?);
            let looked = tokio::task::spawn_blocking(move || nested_local(&root)).await;
            looked.map_err(|err| Failure::because(Fault::Passing, err))
        }
        _ => Ok(nested_remote(settings, meter).await),
    }
}

fn nested_local(root: &Path) -> Option<String> {
    let marker_in = |dir: &Path| {
        let entries = fs::read_dir(dir.join(MARKER_DIR)).ok()?;
        entries.flatten().find_map(|entry| Marker::from_name(entry.file_name().to_str()?))
    };
    // Where links lead, as far as the way exists.
    let real = root.ancestors().find_map(|dir| fs::canonicalize(dir).ok());
    let above = root.ancestors().skip(1).chain(real.iter().flat_map(|dir| dir.ancestors()));
    for dir in above {
        if let Some(marker) = marker_in(dir) {
            return Some(format!("{}, whose root is {}", owner(marker), dir.display()));
        }
    }
    let below = fs::read_dir(root).ok()?.flatten().take(BELOW_MAX);
    below.map(|entry| entry.path()).find_map(|dir| {
        let marker = marker_in(&dir)?;
        Some(format!("{}, whose root {} lies in it", owner(marker), dir.display()))
    })
}

/// What cannot be seen above a remote root is passed over: credentials often end at the root.
async fn nested_remote(settings: &BackendSettings, meter: &Arc<Meter>) -> Option<String> {
    let root = settings.options.get("root").map(|root| root.trim_matches('/'))?;
    let mut above = Path::new(root);
    for _ in 0..ABOVE_MAX {
        above = above.parent()?;
        let mut settings = settings.clone();
        settings.options.insert("root".to_owned(), format!("/{}", above.display()));
        let place = Place::open(&settings, "none", meter).ok()?;
        if let Ok(Some(marker)) = marker_at(&place).await {
            return Some(format!("{}, whose root is /{}", owner(marker), above.display()));
        }
    }
    None
}

/// Makes a local root, its owner's alone, and what is missing above it, durably. Returns what was
/// made.
async fn make_root(root: PathBuf) -> Result<Vec<PathBuf>, Failure> {
    let make = move || -> io::Result<Vec<PathBuf>> {
        let missing: Vec<_> =
            root.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        let mut made = Vec::new();
        for dir in missing.into_iter().rev() {
            // Nobody else is to read what is kept there.
            let mode = if dir == root { 0o700 } else { 0o777 };
            match fs::DirBuilder::new().mode(mode).create(&dir) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            sync_dir(dir.parent().unwrap_or(&dir))?;
            made.push(dir);
        }
        match fs::metadata(&root)?.is_dir() {
            true => Ok(made),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    };
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|err| Failure::because(Fault::Passing, err))?;
    made.map_err(|err| Failure::io(err, Aim::Make))
}

/// The place that `settings` name, before it is ours: for a probe, or to be marked.
pub(super) async fn attempt(
    settings: &BackendSettings,
    name: &str,
    meter: &Arc<Meter>,
) -> Result<Place, Failure> {
    if settings.service != "fs" {
        return Place::open(settings, name, meter);
    }
    let (root, name) = (PathBuf::from(local_root(settings)?), name.to_owned());
    let disk = tokio::task::spawn_blocking(move || Disk::attempt(&root, &name)).await;
    let disk = disk.map_err(|err| Failure::because(Fault::Passing, err))?;
    let disk = disk.map_err(|err| Failure::io(err, Aim::Make))?;
    Ok(Place::of_disk(disk, settings.timeouts.stall))
}

/// Ends what [`attempt`] began.
pub(super) async fn end_attempt(place: Place) {
    if let Some(disk) = place.disk().cloned() {
        let _ = tokio::task::spawn_blocking(move || disk.end_attempt()).await;
    }
}

async fn write_marker(
    settings: &BackendSettings,
    marker: &Marker,
    limits: PathLimits,
    meter: &Arc<Meter>,
) -> Result<(), Failure> {
    let place = attempt(settings, &fresh_name("add"), meter).await?;
    let content = Bytes::from(marker.content(limits));
    let written = place.write_whole(&marker.path(), content).await;
    end_attempt(place).await;
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_root_that_is_made_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let made = make_root(root.clone()).await.map_err(|_| "not made").unwrap();
        assert_eq!(made, [dir.path().join("a"), root.clone()]);
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_location_has_no_login() {
        for (endpoint, shown) in [
            ("https://user:p@ss@host:9000/a@b", "https://host:9000/a@b"),
            ("https://host/a", "https://host/a"),
            ("user@bucket", "user@bucket"),
        ] {
            assert_eq!(without_login(endpoint), shown);
        }
    }
}
