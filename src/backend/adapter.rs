//! OpenDAL, and its traps.
//!
//! This, `quirks` and the local service are the only modules that know OpenDAL. Nothing here knows of
//! markers or presence; answers are [`Failure`]s.
//!
//! # Traps that are handled here
//!
//! - A writer that is only dropped leaves its parts at the service: [`Stream`] is closed or
//!   aborted by its owner, always.
//! - A close may fail although the object was made (the answer was lost, and the retry found the
//!   upload gone). The path is nobody else's, so a stat of the right length settles it.
//! - Services that take an object in one shot refuse a second write: the pieces are kept and
//!   written at the end.
//! - A slash at the end of an endpoint would be doubled in every address.
//! - A read may end early without an error: every read has a range and its length is counted.
//! - Timeouts lie inside the retries; the other way round a retry would be dropped halfway. Those of
//!   HTTP services are the transport's, on progress: OpenDAL's bound whole parts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use opendal::Buffer;
use opendal::EntryMode;
use opendal::HttpTransporter;
use opendal::Metadata;
use opendal::OperationContext;
use opendal::Operator;
use opendal::OperatorRegistry;
use opendal::layers::ConcurrentLimitLayer;
use opendal::layers::RetryEvent;
use opendal::layers::RetryLayer;
use opendal::layers::TimeoutLayer;

use super::BackendSettings;
use super::Listed;
use super::Meter;
use super::Stat;
use super::Timeouts;
use super::error::{Aim, Failure, Fault};
use super::marker::MARKER_DIR;
use super::purpose;
use super::quirks;
use super::quirks::Quirks;
use super::throttle::Direction;
use super::throttle::Throttle;
use super::transport::Transport;
use crate::base::Timestamp;

/// Bytes of one part of a multi-part upload, which is kept until it is sent. S3 wants 5 MiB.
pub(super) const PART: usize = 8 << 20;
/// Bytes of one piece that a read hands on.
pub(crate) const PIECE_MAX: usize = 1 << 20;
/// Calls, open readers and writers of one backend. Far above what admission lets in: it only
/// keeps a mistake from having no end.
const CALLS_MAX: usize = 1024;
/// Short: whoever calls knows better what to do next than to wait.
const RETRIES: usize = 3;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// One service at one root.
#[derive(Clone)]
pub(crate) struct Adapter {
    op: Operator,
    /// The service takes objects whole.
    one_shot: bool,
    /// Parts are kept until they have this size.
    part: Option<usize>,
    /// A lost answer to a write is looked for with a stat.
    confirms: bool,
    quirks: Quirks,
    /// Where no transport keeps it.
    throttle: Option<Arc<Throttle>>,
}

/// An object that is being written.
pub(crate) enum Stream {
    Pieces(Box<opendal::Writer>, Option<Arc<Throttle>>),
    Whole(Vec<Bytes>),
}

pub(crate) type Pieces = BoxStream<'static, Result<Bytes, Failure>>;

/// The schemes that are compiled in.
pub(crate) fn schemes() -> HashSet<String> {
    opendal::init_default_registry();
    OperatorRegistry::get().schemes()
}

impl Adapter {
    /// The service that `settings` name. Nothing is asked of it yet.
    pub(crate) fn remote(
        settings: &BackendSettings,
        meter: &Arc<Meter>,
        throttle: &Arc<Throttle>,
    ) -> Result<Adapter, Failure> {
        let (meter, throttle) = (Arc::clone(meter), Arc::clone(throttle));
        let profile = settings.profile.clone();
        let transport = Transport::new(settings.timeouts, profile, meter, throttle)?;
        // Some services ask for credentials outside of an operator's own context.
        HttpTransporter::install_default(Transport::of_nobody(settings.timeouts)?);
        Adapter::through(settings, HttpTransporter::new(transport))
    }

    /// The same, with all its requests through `transport`.
    pub(crate) fn through(
        settings: &BackendSettings,
        transport: HttpTransporter,
    ) -> Result<Adapter, Failure> {
        let Some(traits) = super::services::service(&settings.service) else {
            let known = super::services::services().join(", ");
            let why = format!("`{}` is no service of this binary: {known}", settings.service);
            return Err(Failure::because(Fault::Refused, why));
        };
        let mut options = settings.options.clone();
        if let Some(endpoint) = options.get_mut("endpoint") {
            endpoint.truncate(endpoint.trim_end_matches('/').len());
        }
        let op = Operator::via_iter(traits.scheme, options)
            .map_err(|err| Failure::because(Fault::Refused, err))?;
        let context = OperationContext::default().with_http_transport(transport);
        let op = op.with_context(context);
        let adapter = Adapter::retried(op, traits.one_shot);
        Ok(Adapter { quirks: Quirks::of(traits.scheme), ..adapter })
    }

    /// An operator that has no transport, with timeouts and retries.
    pub(crate) fn layered(op: Operator, timeouts: &Timeouts, one_shot: bool) -> Adapter {
        let timeout =
            TimeoutLayer::new().with_timeout(timeouts.first_byte).with_io_timeout(timeouts.stall);
        Adapter::retried(op.layer(timeout), one_shot)
    }

    fn retried(op: Operator, one_shot: bool) -> Adapter {
        let retry = RetryLayer::new()
            .with_max_times(RETRIES)
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_jitter()
            // Its own words are a warning with a backtrace for each attempt.
            .with_notify(|_: RetryEvent<'_>| tracing::debug!("a call to a service is made again"));
        let op = op.layer(retry).layer(ConcurrentLimitLayer::new(CALLS_MAX));
        let one_shot = one_shot || !op.info().capability().write_can_multi;
        let (part, quirks) = (Some(PART), Quirks::default());
        Adapter { op, one_shot, part, confirms: true, quirks, throttle: None }
    }

    /// The local service: it has its own limits, and knows what became of a write.
    pub(crate) fn local(op: Operator) -> Adapter {
        let quirks = Quirks::default();
        Adapter { op, one_shot: false, part: None, confirms: false, quirks, throttle: None }
    }

    /// The same at this pace. For what has no transport, which keeps it elsewhere.
    pub(crate) fn paced(self, throttle: &Arc<Throttle>) -> Adapter {
        Adapter { throttle: Some(Arc::clone(throttle)), ..self }
    }

    /// Bytes that an open stream of `size` bytes keeps in memory.
    pub(crate) fn buffered(&self, size: u64) -> u64 {
        match self.part {
            _ if self.one_shot => size,
            Some(part) => size.min(part as u64),
            None => 0,
        }
    }

    pub(crate) async fn write_whole(&self, path: &str, bytes: Buffer) -> Result<(), Failure> {
        let size = bytes.len() as u64;
        if let Some(throttle) = &self.throttle {
            throttle.take(Direction::Up, purpose::current(), bytes.len()).await;
        }
        let written = self.op.write(path, bytes).await.map(drop);
        self.settle(path, size, written).await
    }

    pub(crate) async fn begin(&self, path: &str) -> Result<Stream, Failure> {
        if self.one_shot {
            return Ok(Stream::Whole(Vec::new()));
        }
        let options = opendal::options::WriteOptions { chunk: self.part, ..Default::default() };
        let writer = self.op.writer_options(path, options).await;
        let stream = |writer| Stream::Pieces(Box::new(writer), self.throttle.clone());
        writer.map(stream).map_err(|err| Failure::opendal(err, Aim::Make))
    }

    pub(crate) async fn finish(
        &self,
        stream: &mut Stream,
        path: &str,
        size: u64,
    ) -> Result<(), Failure> {
        match stream {
            Stream::Pieces(writer, _) => {
                let closed = writer.close().await.map(drop);
                self.settle(path, size, closed).await
            }
            Stream::Whole(pieces) => {
                self.write_whole(path, Buffer::from(std::mem::take(pieces))).await
            }
        }
    }

    /// What became of a write, with another look when its answer leaves that open.
    async fn settle(
        &self,
        path: &str,
        size: u64,
        written: opendal::Result<()>,
    ) -> Result<(), Failure> {
        let Err(err) = written else { return Ok(()) };
        let failure = Failure::opendal(err, Aim::Make);
        if !self.confirms || matches!(failure.fault, Fault::Refused | Fault::Full) {
            return Err(failure);
        }
        match self.stat(path).await {
            Ok(stat) if stat.size == size => Ok(()),
            // It may still arrive.
            _ => Err(failure.unknown()),
        }
    }

    /// Exactly `range`, in pieces of at most [`PIECE_MAX`]. The first has arrived when this returns.
    pub(crate) async fn read(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Pieces, Failure> {
        let failure = |err| Failure::opendal(err, Aim::Look);
        let (wanted, end) = (range.end.saturating_sub(range.start), range.end);
        let reader = self.op.reader(path).await.map_err(failure)?;
        let stream = reader.into_stream(range).await.map_err(failure)?;
        let pieces = stream
            .map_err(failure)
            .map_ok(|buffer: Buffer| futures_util::stream::iter(Iterator::map(buffer, Ok)));
        let (adapter, path) = (self.clone(), path.to_owned());
        let judged = pieces.try_flatten().or_else(move |failure| {
            let (adapter, path) = (adapter.clone(), path.clone());
            async move { Err(adapter.judge(&path, end, failure).await) }
        });
        let mut pieces = judged.boxed();
        let first = pieces.next().await.transpose()?.unwrap_or_default();
        let all = futures_util::stream::once(async move { Ok(first) }).chain(pieces).boxed();
        let paced = match &self.throttle {
            Some(throttle) => throttle.pace(purpose::current(), all),
            None => all,
        };
        Ok(exactly(paced, wanted))
    }

    /// What a failed read means: OpenDAL counts the bytes of a body too, and takes an object that
    /// is too short for one that did not arrive whole.
    async fn judge(&self, path: &str, end: u64, failure: Failure) -> Failure {
        if failure.fault != Fault::Passing {
            return failure;
        }
        match self.stat(path).await {
            Ok(Stat { size, .. }) if size < end => {
                let why = format!("it has {size} bytes and should have at least {end}");
                Failure::because(Fault::Damaged, why)
            }
            _ => failure,
        }
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<Stat, Failure> {
        let looked = match self.quirks.stats_by_prefix {
            true => quirks::stat_exactly(&self.op, path).await,
            false => self.op.stat(path).await,
        };
        match looked {
            Ok(metadata) if metadata.is_dir() => Err(Failure::new(Fault::Missing)),
            Ok(metadata) => Ok(described(&metadata)),
            Err(err) => Err(Failure::opendal(err, Aim::Look)),
        }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        match self.op.delete(path).await.map_err(|err| Failure::opendal(err, Aim::Look)) {
            Err(failure) if failure.fault == Fault::Missing => Ok(()),
            Err(failure) => Err(failure.unknown()),
            Ok(()) => Ok(()),
        }
    }

    /// The files below `prefix`, which is empty or ends in a slash; in a flat listing also
    /// directories. Larder's own directory is left out of a listing of everything. A prefix that
    /// is not there has nothing below it, whether the service says so or not.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        recursive: bool,
    ) -> Result<BoxStream<'static, Result<Listed, Failure>>, Failure> {
        if self.quirks.lists_names {
            return Ok(quirks::walk(self.op.clone(), prefix, recursive));
        }
        let options = opendal::options::ListOptions { recursive, ..Default::default() };
        let lister = match self.op.lister_options(prefix, options).await {
            Ok(lister) => lister,
            Err(err) => match Failure::opendal(err, Aim::Look) {
                failure if failure.fault == Fault::Missing => {
                    return Ok(futures_util::stream::empty().boxed());
                }
                failure => return Err(failure),
            },
        };
        let (op, prefix) = (self.op.clone(), prefix.to_owned());
        let listed = lister.map_err(|err| Failure::opendal(err, Aim::Look));
        let own = format!("{MARKER_DIR}/");
        let entries = listed.try_filter_map(move |entry| {
            let op = op.clone();
            let path = entry.path().to_owned();
            let skipped = path == prefix
                || path == "/"
                || (prefix.is_empty() && path.starts_with(&own))
                || (recursive && entry.metadata().mode() == EntryMode::DIR);
            async move {
                if skipped {
                    return Ok(None);
                }
                let Stat { size, modified } = match entry.metadata().mode() {
                    // Some services list names only.
                    EntryMode::Unknown => match op.stat(&path).await {
                        Ok(metadata) => described(&metadata),
                        Err(err) if err.kind() == opendal::ErrorKind::NotFound => return Ok(None),
                        Err(err) => return Err(Failure::opendal(err, Aim::Look)),
                    },
                    _ => described(entry.metadata()),
                };
                Ok(Some(Listed { path, size, modified }))
            }
        });
        let missing = |failure: &Failure| failure.fault == Fault::Missing;
        let there = entries
            .take_while(move |entry| std::future::ready(!entry.as_ref().is_err_and(missing)));
        Ok(there.boxed())
    }

    /// Whether the service keeps versions of `path`, which was deleted: it still counts them.
    pub(crate) async fn keeps_versions(&self, path: &str) -> Result<bool, Failure> {
        if !self.op.info().capability().list_with_versions {
            return Ok(false);
        }
        let options = opendal::options::ListOptions { versions: true, ..Default::default() };
        let entries = self.op.list_options(path, options).await;
        entries.map(|all| !all.is_empty()).map_err(|err| Failure::opendal(err, Aim::Look))
    }
}

impl Stream {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        match self {
            Stream::Pieces(writer, throttle) => {
                if let Some(throttle) = throttle {
                    throttle.take(Direction::Up, purpose::current(), bytes.len()).await;
                }
                writer.write(bytes).await.map_err(|err| Failure::opendal(err, Aim::Make))
            }
            Stream::Whole(pieces) => {
                pieces.push(bytes);
                Ok(())
            }
        }
    }

    pub(crate) async fn abort(&mut self) -> Result<(), Failure> {
        match self {
            Stream::Pieces(writer, _) => match writer.abort().await {
                Ok(()) => Ok(()),
                // Nothing was begun that could be left behind.
                Err(err) if err.kind() == opendal::ErrorKind::Unsupported => Ok(()),
                Err(err) => Err(Failure::opendal(err, Aim::Look).unknown()),
            },
            Stream::Whole(pieces) => {
                pieces.clear();
                Ok(())
            }
        }
    }
}

pub(super) fn described(metadata: &Metadata) -> Stat {
    let modified = metadata.last_modified().map(|at| Timestamp(at.into_inner().as_microsecond()));
    Stat { size: metadata.content_length(), modified }
}

/// The pieces of `stream`, none too large; an error when they are more or fewer than `wanted`.
pub(crate) fn exactly(stream: Pieces, wanted: u64) -> Pieces {
    struct State {
        stream: Pieces,
        left: u64,
        piece: Bytes,
        over: bool,
    }
    let state = State { stream, left: wanted, piece: Bytes::new(), over: false };
    futures_util::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        while state.piece.is_empty() {
            let wrong = match state.stream.next().await {
                Some(Ok(piece)) if piece.len() as u64 <= state.left => {
                    state.left -= piece.len() as u64;
                    state.piece = piece;
                    continue;
                }
                Some(Ok(_)) => Failure::because(Fault::Damaged, "more bytes came than asked for"),
                Some(Err(failure)) => failure,
                None if state.left == 0 => return None,
                None => {
                    let why = format!("it ended {} bytes too early", state.left);
                    Failure::because(Fault::Damaged, why)
                }
            };
            state.over = true;
            return Some((Err(wrong), state));
        }
        let piece = state.piece.split_to(state.piece.len().min(PIECE_MAX));
        Some((Ok(piece), state))
    })
    .boxed()
}
