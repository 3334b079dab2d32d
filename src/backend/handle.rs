//! A backend that was opened: a place, believed as far as its marker is seen.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::BackendError;
use super::BackendSettings;
use super::Listed;
use super::Marker;
use super::ServiceTraits;
use super::Writer;
use super::error::{Failure, Fault};
use super::faulty::Call;
use super::faulty::Faults;
use super::marker::CONTENT_MAX;
use super::marker::limits_of;
use super::place::Place;
use crate::model::BackendId;
use crate::model::path::PathLimits;

/// An absent backend looks for its marker again when it is called, at most this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A delete of something that is not there looks like any other at most services: it is believed
/// when the marker was seen this lately.
const SEEN_LATELY: Duration = Duration::from_secs(60);
/// The least that is kept free of a local file system, unless the owner says otherwise.
const KEEP_FREE_MIN: u64 = 1 << 30;
/// Or this part of it.
const KEEP_FREE_SHARE: u64 = 50;

/// One backend, opened.
pub struct Backend {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) settings: BackendSettings,
    pub(super) traits: ServiceTraits,
    pub(super) marker: Marker,
    pub(super) marker_path: String,
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) faults: Faults,
    present: AtomicBool,
    sight: Mutex<Sight>,
}

/// What is known of the marker.
struct Sight {
    seen: Option<Instant>,
    looked: Option<Instant>,
    /// From the marker's content, once that was read.
    limits: Option<PathLimits>,
}

impl Backend {
    /// The backend over `place`; absent until its marker is seen.
    pub(super) fn over(
        settings: BackendSettings,
        traits: ServiceTraits,
        marker: Marker,
        place: Place,
        faults: Faults,
    ) -> Backend {
        let inner = Inner {
            name: settings.name.as_str().into(),
            settings,
            traits,
            marker,
            marker_path: marker.path(),
            place,
            faults,
            present: AtomicBool::new(false),
            sight: Mutex::new(Sight { seen: None, looked: None, limits: None }),
        };
        Backend { inner: Arc::new(inner) }
    }

    pub fn id(&self) -> BackendId {
        self.inner.marker.backend
    }

    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    pub fn settings(&self) -> &BackendSettings {
        &self.inner.settings
    }

    /// What fits below this root, as far as the service and the probe know.
    pub fn path_limits(&self) -> PathLimits {
        let found = self.inner.sight().limits;
        found.unwrap_or_else(|| super::open::limits_at(&self.inner.settings, &self.inner.traits))
    }

    /// Counts towards `min_replicas`: everything but `memory`.
    pub fn is_durable(&self) -> bool {
        self.inner.traits.durable
    }

    /// Of the file system that a local root is on; `None` for the rest.
    pub fn device(&self) -> Option<u64> {
        self.inner.place.disk().and_then(|disk| disk.device())
    }

    /// Local: free bytes beyond `keep_free`, read at most once a second; `None` for the rest.
    pub fn room(&self) -> Option<u64> {
        let space = self.inner.place.disk()?.space()?;
        let least = KEEP_FREE_MIN.max(space.total / KEEP_FREE_SHARE);
        let keep_free = self.inner.settings.keep_free.unwrap_or(least);
        Some(space.available.saturating_sub(keep_free))
    }

    /// The marker was seen lately and no call since says otherwise.
    pub fn is_present(&self) -> bool {
        self.inner.present.load(Ordering::Acquire)
    }

    /// Bytes that writing a replica of `size` bytes keeps in memory below the caller's own window.
    pub fn write_buffer(&self, size: u64) -> u64 {
        self.inner.place.adapter().buffered(size)
    }

    /// Begins a replica of exactly `size` bytes at `path`, which was never used before.
    pub async fn write(&self, path: &str, size: u64) -> Result<Writer, BackendError> {
        let begun = async {
            self.inner.ready().await?;
            let meeting = self.inner.faults.meet(Call::Write).await?;
            meeting.after(self.inner.place.begin(path).await)
        };
        match begun.await {
            Ok(stream) => Ok(Writer {
                inner: Arc::clone(&self.inner),
                stream: Some(stream),
                path: path.to_owned(),
                size,
                written: 0,
                whole: true,
            }),
            Err(failure) => Err(self.inner.failed("write", path, failure).await),
        }
    }

    /// Writes a small replica in one job. When it returns `Ok` the bytes survive power loss.
    pub async fn write_whole(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        let written = async {
            self.inner.ready().await?;
            let meeting = self.inner.faults.meet(Call::Write).await?;
            meeting.after(self.inner.place.write_whole(path, meeting.alter(bytes)).await)
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.inner.failed("write", path, failure).await),
        }
    }

    /// Streams exactly `range`; a file that ends sooner is `Damaged`. Pieces are at most 1 MiB.
    /// The first piece has been read when this returns.
    pub async fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BackendError>>, BackendError> {
        let wanted = range.end.saturating_sub(range.start);
        let begun = async {
            self.inner.ready().await?;
            let meeting = self.inner.faults.meet(Call::Read).await?;
            if wanted == 0 {
                return Ok((meeting, futures_util::stream::empty().boxed()));
            }
            let pieces = meeting.after(self.inner.place.read(path, range).await)?;
            Ok((meeting, pieces))
        };
        let (meeting, pieces) = match begun.await {
            Ok(begun) => begun,
            Err(failure) => return Err(self.inner.failed("read", path, failure).await),
        };
        let altered = pieces.map(move |piece| piece.map(|piece| meeting.alter(piece)));
        let exact = super::adapter::exactly(altered.boxed(), wanted);
        let (name, path) = (Arc::clone(&self.inner.name), path.to_owned());
        let named = exact.map(move |piece| {
            // In the middle of a body nobody has looked at the marker.
            piece
                .map_err(|failure| match failure.fault {
                    Fault::Missing => Failure { fault: Fault::Passing, ..failure },
                    _ => failure,
                })
                .map_err(|failure| failure.at(&name, "read", &path))
        });
        Ok(named.boxed())
    }

    /// Local and prompt backends only: reads on the calling thread, which may block. `None`: use `read`.
    pub fn read_here(&self, path: &str, range: Range<u64>) -> Option<Result<Bytes, BackendError>> {
        let disk = self.inner.place.disk().filter(|_| self.is_present())?;
        let _guest = disk.pool.enter()?;
        let read = || {
            let meeting = self.inner.faults.meet_now(Call::Read)?;
            let file = disk.open_file(path)?;
            let bytes = meeting.after(disk.read(&file, range))?;
            match meeting.truncates() {
                true => Err(Failure::because(Fault::Damaged, "it ended too early")),
                false => Ok(meeting.alter(bytes)),
            }
        };
        Some(read().map_err(|failure| {
            let failure = match failure.fault {
                Fault::Missing if self.inner.faults.is_lost() => Failure::new(Fault::Absent),
                _ => failure,
            };
            if failure.fault == Fault::Absent {
                self.inner.lost();
            }
            failure.at(&self.inner.name, "read", path)
        }))
    }

    /// Length in bytes.
    pub async fn stat(&self, path: &str) -> Result<u64, BackendError> {
        let looked = async {
            self.inner.ready().await?;
            let meeting = self.inner.faults.meet(Call::Stat).await?;
            meeting.after(self.inner.place.stat(path).await)
        };
        match looked.await {
            Ok(length) => Ok(length),
            Err(failure) => Err(self.inner.failed("stat", path, failure).await),
        }
    }

    /// A path that is not there is success, when the marker was seen in the same step.
    pub async fn delete(&self, path: &str) -> Result<(), BackendError> {
        let deleted = async {
            self.inner.ready().await?;
            let meeting = self.inner.faults.meet(Call::Delete).await?;
            meeting.after(self.inner.place.delete(path).await)?;
            self.inner.seen_lately().await
        };
        match deleted.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.inner.failed("delete", path, failure).await),
        }
    }

    /// Everything below `prefix` (a directory or empty), Larder's own marker directory left out.
    /// The marker is looked at before and after, so an empty listing can be believed.
    pub async fn list(
        &self,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Listed, BackendError>>, BackendError> {
        let trimmed = prefix.trim_end_matches('/');
        let below = if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") };
        let begun = async {
            self.inner.look().await?;
            let meeting = self.inner.faults.meet(Call::List).await?;
            meeting.after(self.inner.place.list(&below, true).await)
        };
        let listed = match begun.await {
            Ok(listed) => listed,
            Err(failure) => return Err(self.inner.failed("list", prefix, failure).await),
        };
        let (inner, path) = (Arc::clone(&self.inner), prefix.to_owned());
        let last = futures_util::stream::once(async move { inner.look().await })
            .filter_map(async |looked| looked.err().map(Err));
        let name = Arc::clone(&self.inner.name);
        let named = listed.chain(last).map(move |entry| {
            entry
                .map_err(|failure: Failure| match failure.fault {
                    Fault::Missing => Failure { fault: Fault::Passing, ..failure },
                    _ => failure,
                })
                .map_err(|failure| failure.at(&name, "list", &path))
        });
        Ok(named.boxed())
    }

    /// Looks at the marker now: `Ok` when it is this backend's.
    pub async fn look(&self) -> Result<(), BackendError> {
        let looked = self.inner.look().await;
        looked.map_err(|err| err.at(&self.inner.name, "look", &self.inner.marker_path))
    }
}

impl Inner {
    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call pass when the backend is present, or can be seen to be again.
    async fn ready(&self) -> Result<(), Failure> {
        if self.present.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            let mut sight = self.sight();
            if sight.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
                return Err(Failure::new(Fault::Absent));
            }
            sight.looked = Some(Instant::now());
        }
        self.look().await.map_err(|failure| Failure { fault: Fault::Absent, ..failure })
    }

    /// Looks at the marker now.
    pub(super) async fn look(&self) -> Result<(), Failure> {
        let looked = async {
            let meeting = self.faults.meet(Call::Marker).await?;
            meeting.after(self.place.look(&self.marker_path).await)
        };
        let looked = looked.await.map_err(|failure| match failure.fault {
            Fault::Missing => Failure { fault: Fault::Absent, ..failure },
            _ => failure,
        });
        self.sight().looked = Some(Instant::now());
        match &looked {
            Ok(()) => self.saw().await,
            Err(failure) if failure.fault == Fault::Absent => self.lost(),
            Err(_) => {}
        }
        looked
    }

    /// Looks at the marker unless it was seen a short while ago.
    async fn seen_lately(&self) -> Result<(), Failure> {
        // A local root looks for itself where it matters.
        let lately = self.sight().seen.is_some_and(|seen| seen.elapsed() < SEEN_LATELY);
        if lately || self.place.disk().is_some() { Ok(()) } else { self.look().await }
    }

    async fn saw(&self) {
        let known = {
            let mut sight = self.sight();
            sight.seen = Some(Instant::now());
            sight.limits.is_some()
        };
        if !known && let Ok(content) = self.place.read_small(&self.marker_path, CONTENT_MAX).await {
            self.sight().limits = limits_of(&content);
        }
        if !self.present.swap(true, Ordering::AcqRel) {
            tracing::info!(backend = %self.name, "the backend is present");
        }
    }

    /// From now on nothing is believed of it.
    pub(super) fn lost(&self) {
        if self.present.swap(false, Ordering::AcqRel) {
            tracing::error!(
                backend = %self.name,
                marker = self.marker_path,
                "the backend's marker cannot be seen any more; is the disk mounted?"
            );
        }
    }

    /// The error of a call that failed. What is said to be missing is believed, or not, by another
    /// look at the marker.
    pub(super) async fn failed(
        &self,
        operation: &'static str,
        path: &str,
        failure: Failure,
    ) -> BackendError {
        let failure = match failure.fault {
            Fault::Absent => {
                self.lost();
                failure
            }
            Fault::Missing => match self.look().await {
                // Nothing can be missing of what is just being made.
                Ok(()) if matches!(operation, "write" | "finish" | "abort") => {
                    Failure { fault: Fault::Passing, ..failure }
                }
                Ok(()) => failure,
                Err(unseen) => Failure { unknown: failure.unknown, ..unseen },
            },
            _ => failure,
        };
        failure.at(&self.name, operation, path)
    }
}
