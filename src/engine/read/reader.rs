//! The rules of reading: group after group, each verified, from one replica after another.
//!
//! # Invariants
//!
//! - A group is given out only after its bytes were held against the blob's hash.
//! - Between two groups given out each replica is tried at most twice, so a read ends.
//!
//! # Bytes that cannot be verified
//!
//! A file that was imported is its owner's, and has no hash before it was read whole once. Its
//! bytes are passed on with nothing but their length checked, as any file server would. When such
//! a read fails after the first bytes were given out it ends: nothing says that what another try
//! gives belongs to the same content.
//!
//! A replica that is known to be wrong comes last and not never: every group is verified anyway,
//! and the damage of two replicas need not be in the same place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio::time::timeout;

use super::source::Pieces;
use super::source::Source;
use crate::backend::BackendError;
use crate::backend::Fault;
use crate::backend::Progress;
use crate::base::limits::GROUP_SIZE;
use crate::base::limits::SHORT_BODY_MAX;
use crate::engine::EngineError;
use crate::engine::hash;
use crate::engine::hash::Hashers;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::Replica;

/// How long a replica may give nothing while there is another to go to.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same when there is none. Backends have shorter limits of their own; this one only makes
/// sure that there is an end.
const PATIENCE_ALONE: Duration = Duration::from_secs(180);

/// A range of a blob that a read wants, and what is known of the blob.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    /// Not known yet of what was imported: its bytes are passed on as they come.
    pub(crate) hash: Option<[u8; 32]>,
    /// `None`: to be asked of the store when they are needed.
    pub(crate) groups: Option<Arc<[[u8; 32]]>>,
    pub(crate) replicas: Vec<Replica>,
    /// First byte wanted.
    pub(crate) from: u64,
    /// Behind the last byte wanted; more than `from`.
    pub(crate) to: u64,
}

/// One read.
pub(super) struct Reader<S> {
    source: S,
    hashers: Hashers,
    /// Not begun yet.
    segments: VecDeque<Segment>,
    current: Option<Current>,
    /// How often a backend failed in this read, other than by one replica's being wrong.
    strikes: HashMap<BackendId, u32>,
    /// What is heard of whichever replica is being read.
    progress: Arc<Progress>,
}

/// The blob that is being read.
struct Current {
    segment: Segment,
    groups: Arc<[[u8; 32]]>,
    /// Where the next group begins.
    next: u64,
    open: Option<Open>,
    /// Tried since the last group was given out.
    tried: Vec<WriteId>,
    /// Missing or hanging: not tried again.
    bad: Vec<WriteId>,
    /// Found damaged in this read: tried last, and once for a group.
    damaged: Vec<WriteId>,
    /// The store was asked for other replicas since the last group was given out.
    refreshed: bool,
    last: Option<Arc<BackendError>>,
    /// A limit kept a replica from being read.
    spent: bool,
}

struct Open {
    replica: Replica,
    pieces: Pieces,
    /// The part of a piece that belongs to the next group.
    rest: Bytes,
}

/// What a read expects of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Belief {
    Missing,
    Damaged,
    Unreadable,
    Good,
}

/// Why a replica is left.
enum Failure {
    Backend(BackendError),
    /// It gave nothing for too long.
    Stalled {
        since: Instant,
    },
    /// It ended without saying that anything is wrong.
    Ended,
    /// What it gave is not what was written.
    Wrong,
}

impl Segment {
    /// Where the group that holds the first byte begins.
    fn start(&self) -> u64 {
        self.from - self.from % GROUP_SIZE
    }

    /// Where the group that holds the last byte ends.
    fn end(&self) -> u64 {
        self.to.next_multiple_of(GROUP_SIZE).min(self.size)
    }

    fn group_len(&self, start: u64) -> u64 {
        GROUP_SIZE.min(self.size - start)
    }
}

impl<S: Source> Reader<S> {
    pub(super) fn new(source: S, hashers: Hashers, segments: VecDeque<Segment>) -> Reader<S> {
        let (strikes, progress) = (HashMap::new(), Progress::new());
        Reader { source, hashers, segments, current: None, strikes, progress }
    }

    /// Bytes that the next group has in memory; `None` at the end.
    pub(super) fn wants(&self) -> Option<u64> {
        match &self.current {
            Some(current) => Some(current.segment.group_len(current.next)),
            None => self.segments.front().map(|segment| segment.group_len(segment.start())),
        }
    }

    /// Whether the next blob has a replica on a local backend.
    pub(super) fn is_local(&self) -> bool {
        let segment = self.current.as_ref().map(|c| &c.segment).or(self.segments.front());
        let mut replicas = segment.into_iter().flat_map(|segment| &segment.replicas);
        replicas
            .any(|r| self.source.standing(r.backend).is_some_and(|s| s.fitness.is_fit() && s.local))
    }

    /// The wanted bytes of the next group, verified; none at the end. After an error the read is
    /// over.
    pub(super) async fn next(&mut self) -> Result<VecDeque<Bytes>, EngineError> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => match self.segments.pop_front() {
                Some(segment) => self.begin(segment).await?,
                None => return Ok(VecDeque::new()),
            },
        };
        let start = current.next;
        let mut pieces = self.group(&mut current).await?;
        let (from, to) = (current.segment.from, current.segment.to);
        trim(&mut pieces, from.saturating_sub(start), to.min(current.next) - start);
        if current.next < current.segment.end() {
            self.current = Some(current);
        }
        Ok(pieces)
    }

    /// Gets the group hashes and believes them only when they lead to the blob's own.
    async fn begin(&mut self, mut segment: Segment) -> Result<Current, EngineError> {
        let groups = match segment.groups.take() {
            Some(groups) => groups,
            None if segment.size <= GROUP_SIZE || segment.hash.is_none() => Arc::new([]),
            None => {
                let groups = self.source.groups(segment.blob).await;
                groups.map_err(|err| EngineError::Store(Arc::new(err)))?
            }
        };
        let is_led_to = |hash| hash::groups_match_root(&groups, segment.size, hash);
        if !segment.hash.as_ref().is_none_or(is_led_to) {
            let blob = segment.blob;
            tracing::error!(%blob, "the group hashes of a blob do not lead to its hash");
            return Err(EngineError::Unavailable(None));
        }
        Ok(Current {
            next: segment.start(),
            segment,
            groups,
            open: None,
            tried: Vec::new(),
            bad: Vec::new(),
            damaged: Vec::new(),
            refreshed: false,
            last: None,
            spent: false,
        })
    }

    /// The next group whole, from whichever replica has it.
    async fn group(&mut self, current: &mut Current) -> Result<VecDeque<Bytes>, EngineError> {
        let len = current.segment.group_len(current.next);
        loop {
            let mut open = match current.open.take() {
                Some(open) => open,
                None => self.open(current).await?,
            };
            let patience = self.patience(current, &open.replica);
            let failure = match open.collect(len, patience, &self.progress).await {
                Ok(pieces) => match verified(&self.hashers, current.check(pieces), len).await {
                    Some(pieces) => {
                        current.next += len;
                        current.open = Some(open);
                        current.tried.clear();
                        current.refreshed = false;
                        return Ok(pieces);
                    }
                    None => Failure::Wrong,
                },
                Err(failure) => failure,
            };
            self.failed(current, &open.replica, failure);
            if current.segment.hash.is_none() && current.next > current.segment.start() {
                return Err(EngineError::Unavailable(current.last.clone()));
            }
        }
    }

    /// Opens the best replica that is left, from the next group to the end of what is wanted.
    async fn open(&mut self, current: &mut Current) -> Result<Open, EngineError> {
        loop {
            if let Some(replica) = self.choose(current).cloned() {
                current.tried.push(replica.write);
                let range = current.next..current.segment.end();
                let (patience, since) = (self.patience(current, &replica), Instant::now());
                let opened = self.source.open(&replica, range);
                match patiently(opened, patience, &self.progress).await {
                    Some(Ok(pieces)) => return Ok(Open { replica, pieces, rest: Bytes::new() }),
                    Some(Err(err)) => self.failed(current, &replica, Failure::Backend(err)),
                    None => self.failed(current, &replica, Failure::Stalled { since }),
                }
            } else if current.refreshed {
                let blob = current.segment.blob;
                if current.spent {
                    tracing::debug!(%blob, "limits keep a blob from being read");
                    return Err(EngineError::Spent);
                }
                tracing::debug!(%blob, "no replica of a blob can be read now");
                return Err(EngineError::Unavailable(current.last.clone()));
            } else {
                current.refreshed = true;
                let damaged = &current.damaged;
                current.tried.retain(|write| damaged.contains(write));
                let replicas = self.source.replicas(current.segment.blob).await;
                current.segment.replicas =
                    replicas.map_err(|err| EngineError::Store(Arc::new(err)))?;
            }
        }
    }

    fn choose<'a>(&self, current: &'a Current) -> Option<&'a Replica> {
        let left = current.segment.replicas.iter().filter(|replica| current.is_left(replica));
        let ranked = left.filter_map(|replica| {
            let strikes = self.strikes.get(&replica.backend).copied().unwrap_or(0);
            let standing = self.source.standing(replica.backend)?;
            Some(((current.belief(replica), Reverse(strikes), standing), replica))
        });
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, best)| best)
    }

    fn patience(&self, current: &Current, replica: &Replica) -> Duration {
        let another = current.segment.replicas.iter().any(|other| {
            let known = || self.source.standing(other.backend).is_some_and(|s| s.fitness.is_fit());
            let is_better = current.belief(other) >= current.belief(replica);
            other.write != replica.write && current.is_left(other) && is_better && known()
        });
        if another { PATIENCE } else { PATIENCE_ALONE }
    }

    /// Draws the conclusions from a failure of `replica`.
    fn failed(&mut self, current: &mut Current, replica: &Replica, failure: Failure) {
        let (blob, backend, path) = (current.segment.blob, replica.backend, replica.path.as_str());
        if let Some(state) = failure.finding() {
            let list = match state {
                ReplicaState::Damaged => &mut current.damaged,
                _ => &mut current.bad,
            };
            let is_new = !list.contains(&replica.write) && replica.state.is_readable();
            list.push(replica.write);
            // What the store knows already need not be said again.
            if is_new {
                self.source.mark(replica, state);
            }
        } else {
            let why = failure.name();
            tracing::debug!(%blob, %backend, path, why, "reading goes on elsewhere");
            *self.strikes.entry(backend).or_insert(0) += 1;
        }
        if let Failure::Stalled { since } = failure {
            current.bad.push(replica.write);
            self.source.overdue(backend, since);
        }
        if let Failure::Backend(err) = failure {
            current.spent |= err.fault == Fault::Spent;
            current.last = Some(Arc::new(err));
        }
    }
}

impl Current {
    /// Whether it can still be tried for this group. What is being written is not there yet.
    fn is_left(&self, replica: &Replica) -> bool {
        replica.state != ReplicaState::Writing
            && !self.tried.contains(&replica.write)
            && !self.bad.contains(&replica.write)
    }

    /// The greatest is tried first.
    fn belief(&self, replica: &Replica) -> Belief {
        match replica.state {
            ReplicaState::Missing | ReplicaState::Writing => Belief::Missing,
            ReplicaState::Damaged => Belief::Damaged,
            _ if self.damaged.contains(&replica.write) => Belief::Damaged,
            ReplicaState::Unreadable => Belief::Unreadable,
            ReplicaState::Good | ReplicaState::Leaving | ReplicaState::Away => Belief::Good,
        }
    }

    /// To be run where it may take its time: gives the pieces back when they are the next group.
    fn check(
        &self,
        pieces: VecDeque<Bytes>,
    ) -> impl FnOnce() -> Option<VecDeque<Bytes>> + Send + use<> {
        let (size, hash) = (self.segment.size, self.segment.hash);
        let (index, groups) = (self.next / GROUP_SIZE, Arc::clone(&self.groups));
        move || {
            let bytes = pieces.iter().map(|piece| &piece[..]);
            let is_right = |hash| hash::pieces_match(bytes, index, size, &hash, &groups);
            hash.is_none_or(is_right).then_some(pieces)
        }
    }
}

impl Open {
    /// The next `len` bytes, without copying them together.
    async fn collect(
        &mut self,
        len: u64,
        patience: Duration,
        progress: &Arc<Progress>,
    ) -> Result<VecDeque<Bytes>, Failure> {
        let mut pieces = VecDeque::new();
        let mut left = usize::try_from(len).expect("a group fits into memory");
        while left > 0 {
            if self.rest.is_empty() {
                let since = Instant::now();
                self.rest = match patiently(self.pieces.next(), patience, progress).await {
                    Some(Some(Ok(piece))) => piece,
                    Some(Some(Err(err))) => return Err(Failure::Backend(err)),
                    Some(None) => return Err(Failure::Ended),
                    None => return Err(Failure::Stalled { since }),
                };
            }
            let piece = self.rest.split_to(left.min(self.rest.len()));
            left -= piece.len();
            pieces.push_back(piece);
        }
        Ok(pieces)
    }
}

impl Failure {
    /// What it says of the replica itself, as opposed to the way there.
    fn finding(&self) -> Option<ReplicaState> {
        match self {
            Failure::Backend(BackendError { fault: Fault::Missing, .. }) => {
                Some(ReplicaState::Missing)
            }
            Failure::Backend(BackendError { fault: Fault::Damaged, .. }) | Failure::Wrong => {
                Some(ReplicaState::Damaged)
            }
            Failure::Backend(_) | Failure::Stalled { .. } | Failure::Ended => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Failure::Backend(_) => "the backend failed",
            Failure::Stalled { .. } => "nothing came for too long",
            Failure::Ended => "the bytes ended early",
            Failure::Wrong => "the bytes are wrong",
        }
    }
}

/// What `call` gives; `None` when it gave nothing for `patience` and did not wait for its share of
/// a limited bandwidth in that time.
async fn patiently<R>(
    call: impl Future<Output = R>,
    patience: Duration,
    progress: &Arc<Progress>,
) -> Option<R> {
    let mut call = pin!(progress.during(call));
    loop {
        let beats = progress.beats();
        match timeout(patience, &mut call).await {
            Ok(given) => return Some(given),
            Err(_) if progress.is_throttled() || progress.beats() != beats => {}
            Err(_) => return None,
        }
    }
}

/// Runs `check` of `len` bytes, on the threads that hash unless it is short.
async fn verified<R: Send + 'static>(
    hashers: &Hashers,
    check: impl FnOnce() -> R + Send + 'static,
    len: u64,
) -> R {
    if len <= SHORT_BODY_MAX { check() } else { hashers.run(check).await }
}

/// Leaves bytes `from..to` of `pieces`.
fn trim(pieces: &mut VecDeque<Bytes>, from: u64, to: u64) {
    let mut at = 0;
    pieces.retain_mut(|piece| {
        let (start, len) = (at, piece.len() as u64);
        at += len;
        let within = |edge: u64| usize::try_from(edge.clamp(start, start + len) - start);
        if let (Ok(from), Ok(to)) = (within(from), within(to)) {
            piece.truncate(to);
            *piece = piece.split_off(from.min(to));
        }
        !piece.is_empty()
    });
}
