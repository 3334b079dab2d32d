//! A local root as an OpenDAL service. Every call is a job on the root's own threads.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use opendal::Buffer;
use opendal::Capability;
use opendal::Error;
use opendal::ErrorKind;
use opendal::Metadata;
use opendal::MetadataBuilder;
use opendal::OperationContext;
use opendal::Operator;
use opendal::Result;
use opendal::raw::OpCopy;
use opendal::raw::OpCreateDir;
use opendal::raw::OpDelete;
use opendal::raw::OpList;
use opendal::raw::OpPresign;
use opendal::raw::OpRead;
use opendal::raw::OpRename;
use opendal::raw::OpStat;
use opendal::raw::OpWrite;
use opendal::raw::RpCreateDir;
use opendal::raw::RpPresign;
use opendal::raw::RpRename;
use opendal::raw::RpStat;
use opendal::raw::Service;
use opendal::raw::ServiceInfo;
use opendal::raw::oio;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::disk::Temp;
use super::pool::NoAnswer;
use super::walk::Walk;
use crate::backend::Stat;
use crate::backend::error::{Aim, Failure, Fault};
use crate::base::Timestamp;

/// Bytes after which a stream begins to be made durable while more is coming, so that its end
/// does not wait for all of it.
const FLUSH_EVERY: u64 = 16 << 20;
/// A piece of a read through the service.
const PIECE_MAX: usize = 1 << 20;

/// The service. `limit` is how long one job may take.
#[derive(Clone)]
pub(crate) struct LocalService {
    disk: Arc<Disk>,
    limit: Duration,
}

impl fmt::Debug for LocalService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalService({})", self.disk.root().display())
    }
}

/// The operator over `disk`, with OpenDAL's own layers as for any service.
pub(crate) fn operator(disk: &Arc<Disk>, limit: Duration) -> Operator {
    let service = Arc::new(LocalService { disk: Arc::clone(disk), limit });
    Operator::from_parts(OperationContext::default(), service)
}

impl From<NoAnswer> for Failure {
    fn from(late: NoAnswer) -> Failure {
        Failure::because(Fault::Passing, late)
    }
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "a local directory does not do this")
}

fn file(size: u64, modified: Option<Timestamp>) -> Metadata {
    let mut metadata = MetadataBuilder::file(size);
    let modified = modified.and_then(|at| jiff::Timestamp::from_microsecond(at.0).ok());
    if let Some(modified) = modified {
        metadata.last_modified(modified.into());
    }
    metadata.build()
}

impl Service for LocalService {
    type Reader = oio::PositionReader<LocalReader>;
    type Writer = LocalWriter;
    type Lister = LocalLister;
    type Deleter = oio::OneShotDeleter<LocalDeleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        ServiceInfo::new("local", self.disk.root().to_string_lossy(), "")
    }

    fn capability(&self) -> Capability {
        Capability {
            stat: true,
            read: true,
            write: true,
            write_can_empty: true,
            write_can_multi: true,
            delete: true,
            list: true,
            list_with_recursive: true,
            ..Default::default()
        }
    }

    async fn create_dir(
        &self,
        _: &OperationContext,
        _: &str,
        _: OpCreateDir,
    ) -> Result<RpCreateDir> {
        Err(unsupported())
    }

    async fn stat(&self, _: &OperationContext, path: &str, _: OpStat) -> Result<RpStat> {
        if path.ends_with('/') {
            return Ok(RpStat::new(MetadataBuilder::dir().build()));
        }
        let (disk, path) = (Arc::clone(&self.disk), path.to_owned());
        let stat = self.disk.pool.run(self.limit, move || disk.stat(&path)).await;
        let Stat { size, modified } = stat.map_err(Failure::from).flatten()?;
        Ok(RpStat::new(file(size, modified)))
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Self::Reader> {
        let reader =
            LocalReader { disk: Arc::clone(&self.disk), limit: self.limit, path: path.to_owned() };
        Ok(oio::PositionReader::new(reader).with_max_buf_size(PIECE_MAX))
    }

    fn write(&self, _: &OperationContext, path: &str, _: OpWrite) -> Result<Self::Writer> {
        Ok(LocalWriter {
            disk: Arc::clone(&self.disk),
            limit: self.limit,
            path: path.to_owned(),
            temp: None,
            written: 0,
            flushed: 0,
            flushing: None,
        })
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        let deleter = LocalDeleter { disk: Arc::clone(&self.disk), limit: self.limit };
        Ok(oio::OneShotDeleter::new(deleter))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let prefix = if path == "/" { "" } else { path };
        Ok(LocalLister {
            disk: Arc::clone(&self.disk),
            limit: self.limit,
            prefix: prefix.to_owned(),
            recursive: args.recursive(),
            walk: None,
            ready: VecDeque::new(),
            done: false,
        })
    }

    fn copy(&self, _: &OperationContext, _: &str, _: &str, _: OpCopy) -> Result<Self::Copier> {
        Err(unsupported())
    }

    async fn rename(
        &self,
        _: &OperationContext,
        _: &str,
        _: &str,
        _: OpRename,
    ) -> Result<RpRename> {
        Err(unsupported())
    }

    async fn presign(&self, _: &OperationContext, _: &str, _: OpPresign) -> Result<RpPresign> {
        Err(unsupported())
    }
}

pub(crate) struct LocalReader {
    disk: Arc<Disk>,
    limit: Duration,
    path: String,
}

/// An open file and the threads that may wait for it.
pub(crate) struct Handle {
    disk: Arc<Disk>,
    limit: Duration,
    file: Arc<File>,
    length: u64,
}

impl oio::PositionRead for LocalReader {
    type Handle = Handle;

    async fn open(&self) -> Result<Handle> {
        let (disk, path) = (Arc::clone(&self.disk), self.path.clone());
        let job = move || {
            let file = disk.open_file(&path)?;
            let length = file.metadata().map_err(|err| Failure::io(err, Aim::Look))?.len();
            Ok::<_, Failure>((file, length))
        };
        let (file, length) =
            self.disk.pool.run(self.limit, job).await.map_err(Failure::from).flatten()?;
        let (disk, file) = (Arc::clone(&self.disk), Arc::new(file));
        Ok(Handle { disk, limit: self.limit, file, length })
    }

    async fn read_at(handle: &Handle, offset: u64, size: usize) -> Result<Buffer> {
        let end = handle.length.min(offset.saturating_add(size as u64));
        if offset >= end {
            return Ok(Buffer::new());
        }
        let (disk, file) = (Arc::clone(&handle.disk), Arc::clone(&handle.file));
        let job = move || disk.read(&file, offset..end);
        let bytes =
            handle.disk.pool.run(handle.limit, job).await.map_err(Failure::from).flatten()?;
        Ok(Buffer::from(bytes))
    }
}

/// A stream into a temporary file. Dropped without being closed, the file goes with it.
pub(crate) struct LocalWriter {
    disk: Arc<Disk>,
    limit: Duration,
    path: String,
    temp: Option<Arc<Temp>>,
    written: u64,
    flushed: u64,
    flushing: Option<oneshot::Receiver<std::result::Result<(), Failure>>>,
}

impl LocalWriter {
    async fn temp(&mut self) -> Result<Arc<Temp>> {
        if let Some(temp) = &self.temp {
            return Ok(Arc::clone(temp));
        }
        let disk = Arc::clone(&self.disk);
        let made = self.disk.pool.run(self.limit, move || disk.temp()).await;
        let temp = Arc::new(made.map_err(Failure::from).flatten()?);
        self.temp = Some(Arc::clone(&temp));
        Ok(temp)
    }

    /// Lets what was written so far become durable beside what is still coming.
    fn flush_beside(&mut self, temp: &Arc<Temp>) {
        if self.flushing.is_some() || self.written - self.flushed < FLUSH_EVERY {
            return;
        }
        let (disk, temp) = (Arc::clone(&self.disk), Arc::clone(temp));
        let (reply, answer) = oneshot::channel();
        let job = move || {
            let _ = reply.send(disk.flush(&temp));
        };
        if self.disk.pool.later(job) {
            self.flushed = self.written;
            self.flushing = Some(answer);
        }
    }

    /// What became of the flush that was begun, when it is known. A failed one is final: a later
    /// sync of the same file would not say it again.
    fn flush_ended(&mut self) -> Result<()> {
        let Some(answer) = &mut self.flushing else { return Ok(()) };
        match answer.try_recv() {
            Ok(result) => {
                self.flushing = None;
                Ok(result?)
            }
            Err(oneshot::error::TryRecvError::Empty) => Ok(()),
            Err(oneshot::error::TryRecvError::Closed) => Err(Failure::new(Fault::Passing).into()),
        }
    }
}

impl oio::Write for LocalWriter {
    async fn write(&mut self, bytes: Buffer) -> Result<()> {
        self.flush_ended()?;
        let temp = self.temp().await?;
        let offset = self.written;
        self.written += bytes.len() as u64;
        let (disk, file) = (Arc::clone(&self.disk), Arc::clone(&temp));
        let job = move || {
            let mut at = offset;
            for piece in bytes {
                disk.fill(&file, at, &piece)?;
                at += piece.len() as u64;
            }
            Ok::<_, Failure>(())
        };
        self.disk.pool.run(self.limit, job).await.map_err(Failure::from).flatten()?;
        self.flush_beside(&temp);
        Ok(())
    }

    async fn close(&mut self) -> Result<Metadata> {
        if let Some(answer) = self.flushing.take() {
            let flushed = tokio::time::timeout(self.limit, answer).await;
            match flushed {
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err(Failure::new(Fault::Passing).into()),
                Err(_) => return Err(Failure::from(NoAnswer(self.limit)).into()),
            }
        }
        let temp = self.temp().await?;
        let (disk, path, size) = (Arc::clone(&self.disk), self.path.clone(), self.written);
        let job = move |reply| disk.publish(&temp, &path, size, reply);
        let published = self.disk.pool.call(self.limit, job).await;
        published.map_err(|late| Failure::from(late).unknown()).flatten()?;
        self.temp = None;
        Ok(MetadataBuilder::file(size).build())
    }

    async fn abort(&mut self) -> Result<()> {
        self.flushing = None;
        if let Some(temp) = self.temp.take() {
            self.disk.pool.run(self.limit, move || drop(temp)).await.map_err(Failure::from)?;
        }
        Ok(())
    }
}

pub(crate) struct LocalLister {
    disk: Arc<Disk>,
    limit: Duration,
    prefix: String,
    recursive: bool,
    walk: Option<Walk>,
    ready: VecDeque<oio::Entry>,
    done: bool,
}

impl oio::List for LocalLister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        if self.ready.is_empty() && !self.done {
            let (disk, prefix, recursive) =
                (Arc::clone(&self.disk), self.prefix.clone(), self.recursive);
            let walk = self.walk.take();
            let job = move || {
                let mut walk = match walk {
                    Some(walk) => walk,
                    None => Walk::begin(disk.root(), &prefix, recursive)?,
                };
                let batch = walk.step(disk.root())?;
                Ok::<_, std::io::Error>((walk, batch))
            };
            let stepped = self.disk.pool.run(self.limit, job).await.map_err(Failure::from);
            // Until this batch is in, there is nothing to go on with.
            self.done = true;
            let (walk, batch) = stepped?.map_err(|err| Failure::io(err, Aim::Look))?;
            self.done = batch.is_empty();
            self.walk = Some(walk);
            self.ready.extend(batch.into_iter().map(|found| {
                let metadata = match found.path.ends_with('/') {
                    true => MetadataBuilder::dir().build(),
                    false => file(found.size, found.modified),
                };
                oio::Entry::with(found.path, metadata)
            }));
        }
        Ok(self.ready.pop_front())
    }
}

pub(crate) struct LocalDeleter {
    disk: Arc<Disk>,
    limit: Duration,
}

impl oio::OneShotDelete for LocalDeleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        let disk = Arc::clone(&self.disk);
        let deleted = self.disk.pool.run(self.limit, move || disk.delete(&path)).await;
        Ok(deleted.map_err(Failure::from).flatten()?)
    }
}
