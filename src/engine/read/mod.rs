//! Reading a range of an object as a stream of verified bytes.
//!
//! A read walks over the groups of the blobs that hold the range. Bytes that a client does not
//! take yet are read ahead, a few groups far and only as long as the budget of the process has
//! room to spare, so that slow clients hold little.
//!
//! # Invariants
//!
//! - No byte leaves before its group was verified; of what was imported and has no hash yet, only
//!   the length can be.
//! - A read that finds no good replica is [`EngineError::Unavailable`], never an absent key; it is
//!   [`EngineError::Spent`] when one of them was left out for a limit.
//! - What protects the paths from cleanup lives until the last of them was read.

mod reader;
mod source;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Engine;
use super::EngineError;
use super::hash;
use super::hash::Hashers;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::base::Budget;
use crate::base::budget;
use crate::base::limits::GROUP_SIZE;
use crate::base::limits::SHORT_BODY_MAX;
use crate::store::Entry;

pub(crate) use reader::Segment;
pub(crate) use source::Live;
pub(crate) use source::Source;

use reader::Reader;

/// Groups that are read ahead of the client.
const AHEAD_LOCAL: usize = 2;
const AHEAD_REMOTE: usize = 4;
/// What the budget must have free for a group that nobody waits for yet.
const AHEAD_SPARE: u64 = 16 * GROUP_SIZE;

pub(crate) type Body = BoxStream<'static, Result<Bytes, EngineError>>;

/// What a read needs besides its source. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) budget: Budget,
    pub(crate) hashers: Hashers,
}

impl Engine {
    /// What a read that begins now works with.
    pub(crate) fn reading(&self) -> (Live, Means) {
        let live = Live { store: self.store.clone(), fleet: self.fleet.load_full() };
        (live, self.means())
    }

    pub(crate) fn means(&self) -> Means {
        Means { budget: self.budget.clone(), hashers: self.hashers.clone() }
    }
}

/// The parts of blobs that hold `length` bytes from byte `offset` of an object.
pub(crate) fn segments(entries: Vec<Entry>, offset: u64, length: u64) -> VecDeque<Segment> {
    let (mut skip, mut left) = (offset, length);
    let mut segments = VecDeque::new();
    for entry in entries {
        let before = skip.min(entry.length);
        let taken = left.min(entry.length - before);
        skip -= before;
        left -= taken;
        if taken > 0 {
            let from = entry.offset + before;
            segments.push_back(Segment {
                blob: entry.blob,
                size: entry.blob_size,
                hash: entry.hash,
                groups: None,
                replicas: entry.replicas,
                from,
                to: from + taken,
            });
        }
    }
    segments
}

/// Bytes of a verified group with their place in the budget.
struct Group {
    pieces: VecDeque<Bytes>,
    _room: budget::Bytes,
}

/// Reads `segments` in order. Returns when the first bytes are there and verified, or with the
/// error that kept them away; an error after that ends the stream. `hold` lives as long as
/// anything is still to be read.
pub(crate) async fn open<S: Source>(
    source: S,
    means: Means,
    segments: VecDeque<Segment>,
    hold: impl Send + 'static,
) -> Result<Body, EngineError> {
    let left = segments.iter().map(|segment| segment.to - segment.from).sum();
    let mut reader = Reader::new(source, means.hashers.clone(), segments);
    let Some(len) = reader.wants() else { return Ok(stream::empty().boxed()) };
    let ahead = if reader.is_local() { AHEAD_LOCAL } else { AHEAD_REMOTE };
    let room = means.budget.take(len).await;
    let first = Group { pieces: reader.next().await?, _room: room };
    let (give, groups) = mpsc::channel(ahead);
    let task = reader.wants().map(|_| {
        let task = async move {
            let _hold = hold;
            read_ahead(reader, means.budget, give).await;
        };
        AbortOnDropHandle::new(tokio::spawn(task))
    });
    Ok(Delivery { group: Some(first), groups, left, _task: task }.into_body())
}

/// Reads to the end, or until nobody listens any more.
async fn read_ahead<S: Source>(
    mut reader: Reader<S>,
    budget: Budget,
    give: mpsc::Sender<Result<Group, EngineError>>,
) {
    while let Some(len) = reader.wants() {
        let Ok(place) = give.reserve().await else { return };
        let room = match spare(&budget, len) {
            Some(room) => room,
            None => {
                drop(place);
                // Nothing to spare: what was read ahead is given out before more is asked for.
                let Ok(all) = give.reserve_many(give.max_capacity()).await else { return };
                drop(all);
                budget.take(len).await
            }
        };
        let group = reader.next().await.map(|pieces| Group { pieces, _room: room });
        let is_over = group.is_err();
        if give.send(group).await.is_err() || is_over {
            return;
        }
    }
}

fn spare(budget: &Budget, len: u64) -> Option<budget::Bytes> {
    if budget.free() < AHEAD_SPARE {
        return None;
    }
    budget.try_take(len)
}

/// The client's side of a read.
struct Delivery {
    /// What is being given out; it keeps its room until the next is asked for.
    group: Option<Group>,
    groups: mpsc::Receiver<Result<Group, EngineError>>,
    left: u64,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Delivery {
    fn into_body(self) -> Body {
        stream::unfold(Some(self), |delivery| async move {
            let mut delivery = delivery?;
            match delivery.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(delivery))),
                Ok(None) => None,
                Err(err) => Some((Err(err), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            if let Some(piece) = self.group.as_mut().and_then(|group| group.pieces.pop_front()) {
                self.left = self.left.saturating_sub(piece.len() as u64);
                return Ok(Some(piece));
            }
            self.group = None;
            match self.groups.recv().await {
                Some(group) => self.group = Some(group?),
                None if self.left == 0 => return Ok(None),
                // The reading task ended without a word: the runtime is going down.
                None => return Err(EngineError::Unavailable(None)),
            }
        }
    }
}

/// Bytes that were read on the spot.
pub(crate) struct Short {
    bytes: Bytes,
    room: budget::Bytes,
}

impl Short {
    pub(crate) fn into_body(self) -> Body {
        // The room is given back when the client asks for what is behind the bytes.
        stream::unfold((Some(self.bytes), self.room), |(bytes, room)| async move {
            Some((Ok(bytes?), (None, room)))
        })
        .boxed()
    }
}

/// The short path: reads and checks the one small blob that holds all of `segments`, on the
/// calling thread, which may block. `None` whenever that is not possible or anything is wrong;
/// the long way then finds out what.
pub(crate) fn read_here(
    fleet: &Arc<Fleet>,
    budget: &Budget,
    segments: &VecDeque<Segment>,
) -> Option<Short> {
    match segments.as_slices() {
        ([segment], []) => read_one_here(fleet, budget, segment),
        _ => None,
    }
}

/// The same of one part of a blob.
pub(crate) fn read_one_here(
    fleet: &Arc<Fleet>,
    budget: &Budget,
    segment: &Segment,
) -> Option<Short> {
    if segment.size > SHORT_BODY_MAX {
        return None;
    }
    let readable = segment.replicas.iter().filter(|replica| replica.state.is_readable());
    let ranked = readable.filter_map(|r| Some((source::standing(fleet, r.backend)?, r)));
    let (standing, replica) = ranked.max_by_key(|(standing, _)| *standing)?;
    if standing.fitness != Fitness::Fit {
        return None;
    }
    let room = budget.try_take(segment.size)?;
    let bytes = fleet.get(replica.backend)?.read_here(&replica.path, 0..segment.size)?.ok()?;
    let hash = segment.hash.as_ref();
    if hash.is_some_and(|hash| !hash::group_matches(&bytes, 0, segment.size, hash, &[])) {
        return None;
    }
    let (from, to) = (usize::try_from(segment.from).ok()?, usize::try_from(segment.to).ok()?);
    Some(Short { bytes: bytes.slice(from..to), room })
}
