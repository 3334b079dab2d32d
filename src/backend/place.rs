//! A place for bytes: a local root or a remote service, behind one set of calls.
//!
//! It knows nothing of markers beyond what a local root needs, nothing of presence and names.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use opendal::Buffer;

use super::BackendSettings;
use super::Listed;
use super::Meter;
use super::Stat;
use super::adapter::Adapter;
use super::adapter::PIECE_MAX;
use super::adapter::Pieces;
use super::adapter::Stream;
use super::error::{Failure, Fault};
use super::local::Disk;
use super::local::service;
use super::memory;
use super::purpose;
use super::throttle::Direction;
use super::throttle::Throttle;

#[derive(Clone)]
pub(crate) struct Place {
    disk: Option<Arc<Disk>>,
    adapter: Adapter,
    /// How long one step on a disk may take.
    limit: Duration,
    throttle: Arc<Throttle>,
}

impl Place {
    /// The place that `settings` name, which the marker called `marker` makes ours.
    pub(crate) fn open(
        settings: &BackendSettings,
        marker: &str,
        meter: &Arc<Meter>,
    ) -> Result<Place, Failure> {
        let limit = settings.timeouts.stall;
        let throttle = Throttle::new(&settings.bandwidth, meter.clock().clone());
        match settings.service.as_str() {
            "fs" => {
                let disk = Disk::open(Path::new(local_root(settings)?), marker);
                Ok(Place::on_disk(disk, limit, throttle))
            }
            "memory" => {
                let op = memory::operator(settings);
                let adapter = Adapter::layered(op, &settings.timeouts, true).paced(&throttle);
                Ok(Place { disk: None, adapter, limit, throttle })
            }
            _ => {
                let adapter = Adapter::remote(settings, meter, &throttle)?;
                Ok(Place { disk: None, adapter, limit, throttle })
            }
        }
    }

    /// A disk before it is ours, at any pace.
    pub(crate) fn of_disk(disk: Arc<Disk>, limit: Duration) -> Place {
        Place::on_disk(disk, limit, Throttle::open())
    }

    fn on_disk(disk: Arc<Disk>, limit: Duration, throttle: Arc<Throttle>) -> Place {
        let adapter = Adapter::local(service::operator(&disk, limit)).paced(&throttle);
        Place { disk: Some(disk), adapter, limit, throttle }
    }

    #[cfg(test)]
    pub(crate) fn of_adapter(adapter: Adapter) -> Place {
        let (limit, throttle) = (Duration::from_secs(60), Throttle::open());
        Place { disk: None, adapter, limit, throttle }
    }

    /// Whether reads must wait for their bandwidth.
    pub(crate) fn limits_reads(&self) -> bool {
        self.throttle.limits(Direction::Down)
    }

    pub(crate) fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Runs one step on the disk's own threads.
    pub(super) async fn step<T: Send + 'static>(
        &self,
        disk: &Arc<Disk>,
        job: impl FnOnce(&Disk) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let own = Arc::clone(disk);
        disk.pool.run(self.limit, move || job(&own)).await.map_err(Failure::from).flatten()
    }

    pub(crate) async fn write_whole(&self, path: &str, bytes: Bytes) -> Result<(), Failure> {
        let Some(disk) = &self.disk else {
            return self.adapter.write_whole(path, Buffer::from(bytes)).await;
        };
        let (own, path) = (Arc::clone(disk), path.to_owned());
        self.throttle.take(Direction::Up, purpose::current(), bytes.len()).await;
        let put = disk.pool.call(self.limit, move |reply| own.put(&path, &bytes, reply)).await;
        put.map_err(|late| Failure::from(late).unknown()).flatten()
    }

    pub(crate) async fn begin(&self, path: &str) -> Result<Stream, Failure> {
        self.adapter.begin(path).await
    }

    pub(crate) async fn finish(
        &self,
        stream: &mut Stream,
        path: &str,
        size: u64,
    ) -> Result<(), Failure> {
        self.adapter.finish(stream, path, size).await
    }

    pub(crate) async fn read(&self, path: &str, range: Range<u64>) -> Result<Pieces, Failure> {
        let Some(disk) = &self.disk else { return self.adapter.read(path, range).await };
        let (name, end) = (path.to_owned(), range.end);
        let first = range.start..end.min(range.start.saturating_add(PIECE_MAX as u64));
        let next = first.end;
        let job = move |disk: &Disk| {
            let file = disk.open_file(&name)?;
            let bytes = disk.read(&file, first)?;
            Ok((Arc::new(file), bytes))
        };
        let (file, bytes) = self.step(disk, job).await?;
        let first = futures_util::stream::once(async move { Ok(bytes) });
        let purpose = purpose::current();
        if next >= end {
            return Ok(self.throttle.pace(purpose, first.boxed()));
        }
        let (place, disk) = (self.clone(), Arc::clone(disk));
        let rest = futures_util::stream::unfold(Some(next), move |at| {
            let (place, disk, file) = (place.clone(), Arc::clone(&disk), Arc::clone(&file));
            async move {
                let at = at.filter(|&at| at < end)?;
                let piece = at..end.min(at.saturating_add(PIECE_MAX as u64));
                let next = piece.end;
                let read = place.step(&disk, move |disk| disk.read(&file, piece)).await;
                // After an error there is no more.
                let next = read.is_ok().then_some(next);
                Some((read, next))
            }
        });
        Ok(self.throttle.pace(purpose, first.chain(rest).boxed()))
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<Stat, Failure> {
        let Some(disk) = &self.disk else { return self.adapter.stat(path).await };
        let path = path.to_owned();
        self.step(disk, move |disk| disk.stat(&path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        let Some(disk) = &self.disk else { return self.adapter.delete(path).await };
        let path = path.to_owned();
        self.step(disk, move |disk| disk.delete(&path)).await.map_err(Failure::unknown)
    }

    pub(crate) async fn list(
        &self,
        prefix: &str,
        recursive: bool,
    ) -> Result<BoxStream<'static, Result<Listed, Failure>>, Failure> {
        self.adapter.list(prefix, recursive).await
    }

    /// Looks for the marker at `path` now.
    pub(crate) async fn look(&self, path: &str) -> Result<(), Failure> {
        if let Some(disk) = &self.disk {
            return self.step(disk, Disk::look).await;
        }
        match self.adapter.stat(path).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.fault == Fault::Missing => {
                Err(Failure { fault: Fault::Absent, ..failure })
            }
            Err(failure) => Err(failure),
        }
    }

    /// All of a small object, up to `most` bytes.
    pub(crate) async fn read_small(&self, path: &str, most: u64) -> Result<Vec<u8>, Failure> {
        let size = self.stat(path).await?.size.min(most);
        let mut pieces = self.read(path, 0..size).await?;
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }
}

/// The directory of a local backend.
pub(crate) fn local_root(settings: &BackendSettings) -> Result<&str, Failure> {
    match settings.options.get("root").map(String::as_str) {
        Some(root) if Path::new(root).is_absolute() => Ok(root),
        _ => Err(Failure::because(Fault::Refused, "`root` must be an absolute path")),
    }
}
