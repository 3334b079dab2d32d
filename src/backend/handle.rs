//! A backend that was opened: a place, believed as far as its marker is seen.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::BackendError;
use super::BackendSettings;
use super::Listed;
use super::Marker;
use super::Meter;
use super::ServiceTraits;
use super::Stat;
use super::Writer;
use super::breaker::Breaker;
use super::error::{Failure, Fault};
use super::faulty::Call;
use super::faulty::Faults;
use super::faulty::Meeting;
use super::gate::Dues;
use super::gate::Entered;
use super::gate::classes;
use super::marker::CONTENT_MAX;
use super::marker::limits_of;
use super::place::Place;
use super::purpose::Scoped;
use crate::model::BackendId;
use crate::model::Class;
use crate::model::Operation;
use crate::model::Purpose;
use crate::model::path::PathLimits;

/// An absent backend looks for its marker again when it is called, at most this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A delete of something that is not there looks like any other at most services: it is believed
/// when the marker was seen this lately.
const SEEN_LATELY: Duration = Duration::from_secs(60);
/// Entries that most services list with one request.
const PAGE: usize = 1000;
/// The least that is kept free of a local file system, unless the owner says otherwise.
const KEEP_FREE_MIN: u64 = 1 << 30;
/// Or this part of it.
const KEEP_FREE_SHARE: u64 = 50;

/// One backend, opened, as clients or as background work calls it.
pub struct Backend {
    pub(super) inner: Arc<Inner>,
    pub(super) purpose: Purpose,
}

pub(super) struct Inner {
    pub(super) settings: BackendSettings,
    pub(super) traits: ServiceTraits,
    pub(super) marker: Marker,
    pub(super) marker_path: String,
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) faults: Faults,
    pub(super) meter: Arc<Meter>,
    pub(super) breaker: Breaker,
    /// A fleet sets them: who shares an account is known to it alone.
    pub(super) dues: ArcSwap<Dues>,
    /// There is no transport that counts requests and bytes.
    pub(super) counts_here: bool,
    pub(super) classes: [Class; Operation::ALL.len()],
    pub(super) opened: tokio::time::Instant,
    /// In milliseconds after `opened`; 0 when it did not say that it is full.
    pub(super) full_until: AtomicU64,
    /// Somebody gave up waiting for it, and nothing came since.
    pub(super) suspect: AtomicBool,
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
        meter: Arc<Meter>,
    ) -> Backend {
        let name: Arc<str> = settings.name.as_str().into();
        let inner = Inner {
            breaker: Breaker::new(Arc::clone(&name), settings.breaker),
            dues: ArcSwap::new(Dues::new(settings.limits, vec![Arc::clone(&meter)])),
            counts_here: matches!(settings.service.as_str(), "fs" | "memory"),
            classes: classes(&settings.profile),
            opened: tokio::time::Instant::now(),
            full_until: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            name,
            settings,
            traits,
            marker,
            marker_path: marker.path(),
            place,
            faults,
            meter,
            present: AtomicBool::new(false),
            sight: Mutex::new(Sight { seen: None, looked: None, limits: None }),
        };
        Backend { inner: Arc::new(inner), purpose: Purpose::Client }
    }

    /// The same backend, called by background work: it has a share of the allowance, and counts apart.
    pub fn for_work(&self) -> Arc<Backend> {
        Arc::new(Backend { inner: Arc::clone(&self.inner), purpose: Purpose::Work })
    }

    pub fn id(&self) -> BackendId {
        self.inner.marker.backend
    }

    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.inner.meter
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
        let (inner, purpose) = (&self.inner, self.purpose);
        let begun = async {
            let entered = inner.enter(purpose, Operation::Write, size).await?;
            // That it can begin says nothing yet: most services are not asked before bytes come.
            let begin = |_| inner.place.begin(path);
            let stream = inner.ask(purpose, entered.pass, Call::Write, begin).await?;
            Ok((entered, stream))
        };
        match begun.await {
            Ok((entered, stream)) => Ok(Writer {
                inner: Arc::clone(inner),
                purpose,
                entered,
                stream: Some(stream),
                path: path.to_owned(),
                size,
                written: 0,
                whole: true,
            }),
            Err(failure) => Err(inner.failed(purpose, "write", path, failure).await),
        }
    }

    /// Writes a small replica in one job. When it returns `Ok` the bytes survive power loss.
    pub async fn write_whole(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let written = async {
            let size = bytes.len();
            let entered = inner.enter(purpose, Operation::Write, size as u64).await?;
            inner.goes(purpose, size);
            let write = |meeting: Meeting| inner.place.write_whole(path, meeting.alter(bytes));
            inner.ask(purpose, entered.pass, Call::Write, write).await?;
            inner.well(entered.pass);
            Ok(())
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(inner.failed(purpose, "write", path, failure).await),
        }
    }

    /// Streams exactly `range`; a file that ends sooner is `Damaged`. Pieces are at most 1 MiB.
    /// The first piece has been read when this returns.
    pub async fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BackendError>>, BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let wanted = range.end.saturating_sub(range.start);
        let begun = async {
            let entered = inner.enter(purpose, Operation::Read, wanted).await?;
            let read = async |meeting: Meeting| match wanted {
                0 => Ok((meeting, futures_util::stream::empty().boxed())),
                _ => Ok((meeting, inner.place.read(path, range).await?)),
            };
            let (meeting, pieces) = inner.ask(purpose, entered.pass, Call::Read, read).await?;
            Ok((entered, meeting, pieces))
        };
        let (entered, meeting, pieces) = match begun.await {
            Ok(begun) => begun,
            Err(failure) => return Err(inner.failed(purpose, "read", path, failure).await),
        };
        let altered = Scoped { purpose, stream: pieces }
            .map(move |piece| piece.map(|piece| meeting.alter(piece)));
        let exact = super::adapter::exactly(altered.boxed(), wanted);
        let path = path.to_owned();
        let mut flow = Flow { inner: Arc::clone(inner), purpose, entered, left: wanted };
        let named = exact.map(move |piece| {
            flow.note(&piece);
            // In the middle of a body nobody has looked at the marker.
            piece
                .map_err(|failure| match failure.fault {
                    Fault::Missing => Failure { fault: Fault::Passing, ..failure },
                    _ => failure,
                })
                .map_err(|failure| failure.at(&flow.inner.name, "read", &path))
        });
        Ok(named.boxed())
    }

    /// Local and prompt backends only: reads on the calling thread, which may block. `None`: use `read`.
    pub fn read_here(&self, path: &str, range: Range<u64>) -> Option<Result<Bytes, BackendError>> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let is_free = self.is_present() && !inner.place.limits_reads();
        let disk = inner.place.disk().filter(|_| is_free)?;
        let _guest = disk.pool.enter()?;
        let wanted = range.end.saturating_sub(range.start);
        let entered = inner.enter_now(purpose, Operation::Read, wanted).ok()?;
        let read = || {
            let meeting = inner.faults.meet_now(Call::Read)?;
            let file = disk.open_file(path)?;
            let bytes = meeting.after(disk.read(&file, range))?;
            match meeting.truncates() {
                true => Err(Failure::because(Fault::Damaged, "it ended too early")),
                false => Ok(meeting.alter(bytes)),
            }
        };
        match read() {
            Ok(bytes) => {
                inner.came(purpose, bytes.len());
                inner.well(entered.pass);
                Some(Ok(bytes))
            }
            Err(failure) => {
                inner.ill(entered.pass, &failure);
                let failure = match failure.fault {
                    Fault::Missing if inner.faults.is_lost() => Failure::new(Fault::Absent),
                    _ => failure,
                };
                if failure.fault == Fault::Absent {
                    inner.lost();
                }
                Some(Err(failure.at(&inner.name, "read", path)))
            }
        }
    }

    /// Length, and when it was last changed.
    pub async fn stat(&self, path: &str) -> Result<Stat, BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let looked = async {
            let entered = inner.enter(purpose, Operation::Stat, 0).await?;
            let stat = |_| inner.place.stat(path);
            let stat = inner.ask(purpose, entered.pass, Call::Stat, stat).await?;
            inner.well(entered.pass);
            Ok(stat)
        };
        match looked.await {
            Ok(stat) => Ok(stat),
            Err(failure) => Err(inner.failed(purpose, "stat", path, failure).await),
        }
    }

    /// A path that is not there is success, when the marker was seen in the same step.
    pub async fn delete(&self, path: &str) -> Result<(), BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let deleted = async {
            let entered = inner.enter(purpose, Operation::Delete, 0).await?;
            let delete = |_| inner.place.delete(path);
            inner.ask(purpose, entered.pass, Call::Delete, delete).await?;
            inner.well(entered.pass);
            inner.made_room();
            inner.seen_lately(purpose).await
        };
        match deleted.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(inner.failed(purpose, "delete", path, failure).await),
        }
    }

    /// Everything below `prefix` (a directory or empty), Larder's own marker directory left out.
    /// The marker is looked at before and after, so an empty listing can be believed.
    pub async fn list(
        &self,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Listed, BackendError>>, BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let trimmed = prefix.trim_end_matches('/');
        let below = if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") };
        let begun = async {
            inner.look_for(purpose, Operation::List).await?;
            let entered = inner.enter(purpose, Operation::List, 0).await?;
            let list = |_| inner.place.list(&below, true);
            let listed = inner.ask(purpose, entered.pass, Call::List, list).await?;
            Ok((entered, listed))
        };
        let (entered, listed) = match begun.await {
            Ok(begun) => begun,
            Err(failure) => return Err(inner.failed(purpose, "list", prefix, failure).await),
        };
        let mut pages = Pages { inner: Arc::clone(inner), purpose, entered, seen: 0, over: false };
        // What the listing was admitted for is over with its last entry.
        let told = Scoped { purpose, stream: listed }
            .scan((), move |(), entry| std::future::ready(pages.note(entry)));
        let ours = Arc::clone(inner);
        let last =
            futures_util::stream::once(
                async move { ours.look_for(purpose, Operation::List).await },
            );
        let last = last.filter_map(async |looked| looked.err().map(Err));
        let (name, path) = (Arc::clone(&inner.name), prefix.to_owned());
        let named = told.chain(last).map(move |entry| {
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
        let looked = self.inner.look_for(self.purpose, Operation::Look).await;
        looked.map_err(|err| err.at(&self.inner.name, "look", &self.inner.marker_path))
    }
}

/// A listing on its way: each page is admitted for itself.
struct Pages {
    inner: Arc<Inner>,
    purpose: Purpose,
    entered: Entered,
    seen: usize,
    over: bool,
}

impl Pages {
    /// `None` behind an error.
    fn note(&mut self, entry: Result<Listed, Failure>) -> Option<Result<Listed, Failure>> {
        if self.over {
            return None;
        }
        let noted = entry.inspect_err(|failure| self.inner.ill(self.entered.pass, failure));
        let noted = noted.and_then(|entry| {
            self.seen += 1;
            if self.seen.is_multiple_of(PAGE) {
                self.entered.renew(&self.inner, self.purpose)?;
            }
            Ok(entry)
        });
        self.over = noted.is_err();
        Some(noted)
    }
}

/// The bytes of a read on their way: what was admitted lives as long as it does.
struct Flow {
    inner: Arc<Inner>,
    purpose: Purpose,
    entered: Entered,
    left: u64,
}

impl Flow {
    fn note(&mut self, piece: &Result<Bytes, Failure>) {
        let pass = self.entered.pass;
        match piece {
            Ok(bytes) => {
                self.inner.came(self.purpose, bytes.len());
                self.left = self.left.saturating_sub(bytes.len() as u64);
                // Whoever reads may never ask for what is behind the last byte.
                if self.left == 0 {
                    self.inner.well(pass);
                }
            }
            Err(failure) => self.inner.ill(pass, failure),
        }
    }
}

impl Inner {
    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call pass when the backend is present, or can be seen to be again.
    pub(super) async fn ready(
        &self,
        purpose: Purpose,
        operation: Operation,
    ) -> Result<(), Failure> {
        if self.present.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            let mut sight = self.sight();
            let is_recent = sight.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN);
            // Deletes come seldom, and limits that forbid all other looks let theirs pass.
            if is_recent && operation != Operation::Delete {
                return Err(Failure::new(Fault::Absent));
            }
            sight.looked = Some(Instant::now());
        }
        let looked = self.look_for(purpose, operation).await;
        looked.map_err(|failure| Failure { fault: Fault::Absent, ..failure })
    }

    /// Looks at the marker now, for an operation that needs to know.
    pub(super) async fn look_for(
        &self,
        purpose: Purpose,
        operation: Operation,
    ) -> Result<(), Failure> {
        self.look(purpose, operation, self.settings.breaker.probe_timeout).await
    }

    /// Looks at the marker now, whatever the gate would say.
    pub(super) async fn look_at_marker(&self) -> Result<(), Failure> {
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
    async fn seen_lately(&self, purpose: Purpose) -> Result<(), Failure> {
        // A local root looks for itself where it matters.
        let lately = self.sight().seen.is_some_and(|seen| seen.elapsed() < SEEN_LATELY);
        if lately || self.place.disk().is_some() {
            return Ok(());
        }
        self.look_for(purpose, Operation::Delete).await
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
        purpose: Purpose,
        operation: &'static str,
        path: &str,
        failure: Failure,
    ) -> BackendError {
        let failure = match failure.fault {
            Fault::Absent => {
                self.lost();
                failure
            }
            Fault::Missing => match self.look_for(purpose, Operation::Look).await {
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
