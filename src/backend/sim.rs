//! A place in memory for a simulated world: it outlives the engines that use it.
//!
//! A backend over it is durable in the eyes of all others, and answers at once: no thread, no timer,
//! no retry that waits. The test holds the place itself, looks at what lies there, and changes it
//! behind Larder's back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::FutureExt;
use opendal::Operator;
use opendal::services::Memory;

use super::Backend;
use super::BackendSettings;
use super::Marker;
use super::Meter;
use super::ServiceTraits;
use super::adapter::Adapter;
use super::faulty::Faults;
use super::marker::MARKER_DIR;
use super::place::Place;
use super::services::service;
use crate::base::Clock;
use crate::model::BackendId;
use crate::model::DayBegins;
use crate::model::path::PathLimits;

/// As long as those of a usual file system.
const LIMITS: PathLimits = PathLimits { component_max: 255, total_max: 3000 };

/// The files of one simulated backend. Clones share them.
#[derive(Clone)]
pub struct SimPlace {
    op: Operator,
    clock: Clock,
    is_added: Arc<AtomicBool>,
}

impl SimPlace {
    /// An empty place. What is used of it is counted by `clock`.
    pub fn new(clock: Clock) -> SimPlace {
        let op = Operator::new(Memory::default()).expect("it takes no options that can be wrong");
        SimPlace { op, clock, is_added: Arc::default() }
    }

    /// The length of every file but Larder's own.
    pub fn files(&self) -> BTreeMap<String, u64> {
        let options = opendal::options::ListOptions { recursive: true, ..Default::default() };
        let entries = at_once(self.op.list_options("", options)).expect("memory lists");
        let files = entries.iter().filter(|entry| entry.metadata().is_file());
        let length = |path: &str| self.read(path).map_or(0, |bytes| bytes.len() as u64);
        let paths = files.map(|entry| entry.path()).filter(|path| !path.starts_with(MARKER_DIR));
        paths.map(|path| (path.to_owned(), length(path))).collect()
    }

    pub fn read(&self, path: &str) -> Option<Bytes> {
        at_once(self.op.read(path)).ok().map(|bytes| bytes.to_bytes())
    }

    /// Puts a file there, or other bytes into one.
    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        at_once(self.op.write(path, bytes.into())).expect("memory takes it");
    }

    /// Whether there was a file to remove. Without its marker the place is absent.
    pub fn remove(&self, path: &str) -> bool {
        let was_there = self.read(path).is_some();
        at_once(self.op.delete(path)).expect("memory removes it");
        was_there
    }

    /// Changes the byte at `at`. Whether there was one.
    pub fn damage(&self, path: &str, at: usize) -> bool {
        let Some(mut bytes) = self.read(path).map(Vec::from) else { return false };
        let Some(byte) = bytes.get_mut(at) else { return false };
        *byte ^= 0x55;
        self.put(path, bytes);
        true
    }
}

fn at_once<T>(asking: impl Future<Output = T>) -> T {
    asking.now_or_never().expect("memory answers at once")
}

impl Backend {
    /// A backend for a simulation, over `shared`, that breaks as `faults` say. The first one there
    /// writes the marker; one that finds none later is absent.
    pub async fn for_simulation(
        name: &str,
        id: BackendId,
        shared: &SimPlace,
        faults: Faults,
        change: impl FnOnce(&mut BackendSettings),
    ) -> Arc<Backend> {
        let mut settings = BackendSettings::for_tests(name, None);
        change(&mut settings);
        let (marker, place) = (Marker { store: 1, backend: id }, shared.place());
        if !shared.is_added.swap(true, Ordering::AcqRel) {
            shared.put(&marker.path(), marker.content(LIMITS));
        }
        let traits = service(&settings.service).expect("memory is compiled in");
        let traits = ServiceTraits { durable: true, ..traits };
        let meter = Meter::new(shared.clock.clone(), DayBegins::default());
        let backend = Backend::over(settings, traits, marker, place, faults, meter);
        // Absent is what it is without.
        drop(backend.look().await);
        Arc::new(backend)
    }
}

impl SimPlace {
    fn place(&self) -> Place {
        Place::of_adapter(Adapter::at_once(self.op.clone()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::backend::Fault;
    use crate::backend::faulty::Call;
    use crate::backend::faulty::Effect;

    async fn backend(shared: &SimPlace, faults: &Faults) -> Arc<Backend> {
        Backend::for_simulation("sim", BackendId(3), shared, faults.clone(), |_| {}).await
    }

    async fn read(backend: &Backend, path: &str, length: u64) -> Result<Vec<u8>, Fault> {
        let pieces = backend.read(path, 0..length).await.map_err(|err| err.fault)?;
        let pieces: Vec<Bytes> = pieces.map_err(|err| err.fault).try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn files_outlive_the_backend_and_change_behind_its_back() {
        let (shared, faults) = (SimPlace::new(Clock::system()), Faults::default());
        let first = backend(&shared, &faults).await;
        assert!(first.is_durable() && first.is_present());
        first.write_whole("a/b", Bytes::from_static(b"abc")).await.unwrap();
        let mut writer = first.write("c", 4).await.unwrap();
        writer.write(Bytes::from_static(b"abcd")).await.unwrap();
        let unfinished = [("a/b".to_owned(), 3)];
        assert_eq!(shared.files(), BTreeMap::from(unfinished));
        writer.finish().await.unwrap();
        drop(first);
        let second = backend(&shared, &faults).await;
        assert_eq!(read(&second, "c", 4).await.unwrap(), b"abcd");
        assert!(shared.damage("c", 1) && !shared.damage("c", 4) && !shared.damage("d", 0));
        assert_eq!(read(&second, "c", 4).await.unwrap(), b"a7cd");
        shared.put("c", Bytes::from_static(b"ab"));
        assert_eq!(read(&second, "c", 4).await, Err(Fault::Damaged));
        assert!(shared.remove("c") && !shared.remove("c"));
        assert_eq!(read(&second, "c", 4).await, Err(Fault::Missing));
        shared.put("foreign/file", Bytes::from_static(b"x"));
        let listed: Vec<_> = second.list("").await.unwrap().try_collect().await.unwrap();
        let listed = listed.into_iter().map(|entry| (entry.path, entry.size)).collect();
        assert_eq!(shared.files(), listed);
        assert_eq!(listed.len(), 2);
    }

    #[tokio::test]
    async fn without_its_marker_it_is_absent_also_for_the_next() {
        let (shared, faults) = (SimPlace::new(Clock::system()), Faults::default());
        let first = backend(&shared, &faults).await;
        let marker = Marker { store: 1, backend: BackendId(3) };
        assert!(shared.remove(&marker.path()));
        assert_eq!(first.stat("a").await.unwrap_err().fault, Fault::Absent);
        let second = backend(&shared, &faults).await;
        assert!(!second.is_present());
        assert_eq!(second.delete("a").await.unwrap_err().fault, Fault::Absent);
        shared.put(&marker.path(), marker.content(LIMITS));
        second.look().await.unwrap();
        assert_eq!(second.stat("a").await.unwrap_err().fault, Fault::Missing);
    }

    /// Nothing of it waits for a thread or a timer, so a step costs what it does and no more.
    #[test]
    fn every_call_is_answered_when_it_is_first_polled() {
        let (shared, faults) = (SimPlace::new(Clock::system()), Faults::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let backend = at_once(backend(&shared, &faults));
        for n in 0..3000 {
            let path = format!("a/{n}");
            at_once(backend.write_whole(&path, Bytes::from_static(b"abc"))).unwrap();
            assert_eq!(at_once(read(&backend, &path, 3)).unwrap(), b"abc");
            let mut writer = at_once(backend.write("s", 1)).unwrap();
            at_once(writer.write(Bytes::from_static(b"s"))).unwrap();
            at_once(writer.finish()).unwrap();
            assert_eq!(at_once(backend.stat(&path)).unwrap().size, 3);
            let both = [path, "s".to_owned()];
            let answers = at_once(backend.delete_many(&both, 2, std::time::Duration::MAX));
            assert!(answers.iter().all(Result::is_ok));
        }
        assert!(shared.files().is_empty());
        faults.on_each(Arc::new(|call| (call == Call::Write).then_some(Effect::Fail(Fault::Full))));
        let full = at_once(backend.write_whole("a", Bytes::from_static(b"a")));
        assert_eq!(full.unwrap_err().fault, Fault::Full);
    }
}
