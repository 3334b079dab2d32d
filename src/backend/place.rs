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
use super::adapter::Adapter;
use super::adapter::PIECE_MAX;
use super::adapter::Pieces;
use super::adapter::Stream;
use super::error::{Failure, Fault};
use super::local::Disk;
use super::local::service;
use super::memory;

#[derive(Clone)]
pub(crate) struct Place {
    disk: Option<Arc<Disk>>,
    adapter: Adapter,
    /// How long one step on a disk may take.
    limit: Duration,
}

impl Place {
    /// The place that `settings` name, which the marker called `marker` makes ours.
    pub(crate) fn open(settings: &BackendSettings, marker: &str) -> Result<Place, Failure> {
        let limit = settings.timeouts.stall;
        match settings.service.as_str() {
            "fs" => {
                let disk = Disk::open(Path::new(local_root(settings)?), marker);
                Ok(Place::of_disk(disk, limit))
            }
            "memory" => {
                let adapter =
                    Adapter::layered(memory::operator(settings), &settings.timeouts, true);
                Ok(Place { disk: None, adapter, limit })
            }
            _ => Ok(Place { disk: None, adapter: Adapter::remote(settings)?, limit }),
        }
    }

    pub(crate) fn of_disk(disk: Arc<Disk>, limit: Duration) -> Place {
        let adapter = Adapter::local(service::operator(&disk, limit));
        Place { disk: Some(disk), adapter, limit }
    }

    #[cfg(test)]
    pub(crate) fn of_adapter(adapter: Adapter) -> Place {
        Place { disk: None, adapter, limit: Duration::from_secs(60) }
    }

    pub(crate) fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Runs one step on the disk's own threads.
    async fn step<T: Send + 'static>(
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
        if next >= end {
            return Ok(first.boxed());
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
        Ok(first.chain(rest).boxed())
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<u64, Failure> {
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
        let size = self.stat(path).await?.min(most);
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
