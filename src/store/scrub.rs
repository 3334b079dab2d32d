//! What the scrubber reads next, how far it is, and what it found.
//!
//! # The order, and why it needs no index
//!
//! A pass goes over the replicas of one backend in the order of their write ids, and the next pass
//! begins with the first again. A replica that was written since then was verified when it was
//! written, and stands behind all others. So the next in order is always the one that was verified
//! the longest ago, and nothing but one position must be kept: an index by the time of the last
//! verification would be written to with each replica that is read, over all replicas there are.
//!
//! The order is that of the table, in which the replicas of all backends lie side by side. A walk
//! over those of one backend passes by the others, so it ends after a bound of rows and is gone on
//! with from there.
//!
//! # Invariant
//!
//! The position is written together with what was found before it: after a crash nothing was
//! skipped, and at most a batch is read twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Row;
use tokio::sync::Notify;

use super::Store;
use super::blob::stem_whole;
use super::codec;
use super::error::StoreError;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::Replica;
use super::replica::form_of;
use super::replica::mark_in_tx;
use super::replica::replica_in_tx;
use super::replica::state_of;
use super::sql::Sql;
use super::standing::duty_of;
use super::standing::stands;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::ObjectKey;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::model::path::path;

/// Rows that one page looks at: a few milliseconds of a reader.
pub(super) const WALK_MAX: usize = 10_000;

/// How far the pass over one backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPass {
    pub began: Timestamp,
    /// All up to this one were visited.
    pub after: WriteId,
    /// How many those were.
    pub done: u64,
    pub is_over: bool,
}

impl ScrubPass {
    pub fn begin(now: Timestamp) -> ScrubPass {
        ScrubPass { began: now, after: WriteId(0), done: 0, is_over: false }
    }

    fn write(&self) -> Vec<u8> {
        let numbers = [self.began.0 as u64, self.after.0, self.done, u64::from(self.is_over)];
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn read(bytes: &[u8]) -> Result<ScrubPass, StoreError> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        let (&[began, after, done, over], []) = (numbers.as_slice(), rest) else {
            return Err(StoreError::broken("the position of a scrub is malformed"));
        };
        let began = Timestamp(began as i64);
        Ok(ScrubPass { began, after: WriteId(after), done, is_over: over != 0 })
    }
}

/// A replica to be read, and what its bytes should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubReplica {
    pub replica: Replica,
    pub blob: BlobId,
    pub size: u64,
    /// `None`: it was imported, and nobody has read it yet.
    pub hash: Option<[u8; 32]>,
    /// When it was last compared (`None`: when it was written), or since when it is unreadable.
    pub checked: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubPage {
    pub replicas: Vec<ScrubReplica>,
    /// No replica up to here is left out.
    pub upto: WriteId,
    /// There is none behind it.
    pub is_end: bool,
    /// Rows that were looked at, those of other backends included.
    pub walked: usize,
}

/// What the bytes of a blob hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubHash {
    pub hash: [u8; 32],
    /// Chaining values of the 1 MiB groups; empty up to 1 MiB.
    pub groups: Vec<[u8; 32]>,
}

/// What became of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// Its bytes were compared now, and are right.
    Verified,
    /// Its bytes were read now, for the first time.
    Hashed(ScrubHash),
    Damaged,
    Missing,
    Unreadable,
}

/// A replica that is not what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubMarked {
    pub write: WriteId,
    pub blob: BlobId,
    pub state: ReplicaState,
    /// Its blob has no other replica that may be read.
    pub is_alone: bool,
}

/// A replica that is missing, damaged or unreadable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenReplica {
    pub replica: Replica,
    pub blob: BlobId,
    pub size: u64,
    pub is_alone: bool,
    /// Bucket and key of the object that it was written for, while that exists.
    pub object: Option<(String, ObjectKey)>,
}

impl Store {
    /// The pass over `backend` that was recorded last.
    pub async fn scrub_pass(&self, backend: BackendId) -> Result<Option<ScrubPass>, StoreError> {
        self.read(move |sql| {
            let state: Option<Vec<u8>> = sql.one(
                "SELECT j.state FROM backends b JOIN jobs j ON j.name = 'scrub:' || b.no
                 WHERE b.id = ?1",
                [backend.0],
                |row| row.get(0),
            )?;
            state.map(|state| ScrubPass::read(&state)).transpose()
        })
        .await
    }

    /// The replicas of committed blobs on `backend` behind `after` that count, at most `max`; with
    /// `broken` also those that are known to be missing or damaged.
    pub async fn scrub_page(
        &self,
        backend: BackendId,
        after: WriteId,
        max: usize,
        broken: bool,
    ) -> Result<ScrubPage, StoreError> {
        self.read(move |sql| page_in_tx(sql, (backend, after), max.min(WORK_ROWS_MAX), broken))
            .await
    }

    /// Unreadable replicas of `backend` in the order in which they became so, behind `after`, which
    /// is one of them or nothing.
    pub async fn scrub_unreadable(
        &self,
        backend: BackendId,
        after: (Timestamp, WriteId),
        max: usize,
    ) -> Result<Vec<ScrubReplica>, StoreError> {
        self.read(move |sql| {
            let Some((no, _)) = backend_in_tx(sql, backend)? else { return Ok(Vec::new()) };
            let (since, write) = after;
            let bounds = (no, since.0, write.0, max.min(WORK_ROWS_MAX));
            let writes = sql.all(UNREADABLE, bounds, |row| Ok(WriteId(row.get(0)?)))?;
            found_in_tx(sql, backend, &writes)
        })
        .await
    }

    /// Good replicas on `backend` of blobs behind `after` that nobody has read yet, at most `max`,
    /// and where to go on; `None` at the end.
    pub async fn scrub_unhashed(
        &self,
        backend: BackendId,
        after: BlobId,
        max: usize,
    ) -> Result<(Vec<ScrubReplica>, Option<BlobId>), StoreError> {
        self.read(move |sql| {
            let Some((no, _)) = backend_in_tx(sql, backend)? else { return Ok((Vec::new(), None)) };
            let last: Option<u64> =
                sql.one(UNHASHED_WINDOW, (after.0, WALK_MAX - 1), |row| row.get(0))?;
            let max = max.min(WORK_ROWS_MAX);
            let bounds = (after.0, last.unwrap_or(i64::MAX as u64), no, max);
            let rows: Vec<(u64, WriteId)> =
                sql.all(UNHASHED, bounds, |row| Ok((row.get(0)?, WriteId(row.get(1)?))))?;
            let full = rows.last().filter(|_| rows.len() == max).map(|(blob, _)| *blob);
            let writes: Vec<WriteId> = rows.iter().map(|(_, write)| *write).collect();
            Ok((found_in_tx(sql, backend, &writes)?, full.or(last).map(BlobId)))
        })
        .await
    }

    /// Woken when something was imported that is to be read, or a replica is back.
    pub fn scrub_wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().wanted.scrub)
    }

    /// Another number after replicas came back, which are unreadable until they were read.
    pub fn replicas_back(&self) -> u64 {
        self.shared().wanted.backs.load(Ordering::Acquire)
    }

    /// Takes what was found on `backend`, at most a page, and with it how far the pass is. What
    /// changed meanwhile is passed over. Says which replicas are not what they were before.
    pub async fn scrub_record(
        &self,
        backend: BackendId,
        pass: Option<ScrubPass>,
        results: Vec<(WriteId, Scrubbed)>,
    ) -> Result<Vec<ScrubMarked>, StoreError> {
        let results = Arc::new(results);
        if results.iter().all(|(_, scrubbed)| *scrubbed == Scrubbed::Verified) {
            // Whoever loses it with the power reads the same again.
            let recorded = (Need::Recorded, pass);
            match self.scrub_take(backend, recorded, Arc::clone(&results)).await {
                Err(StoreError::Changed) => {}
                taken => return taken,
            }
        }
        // A replica that is not what it was can cost others their rows, and cleanup deletes the
        // bytes of those: that must not overtake what is recorded.
        self.scrub_take(backend, (Need::Durable, pass), results).await
    }

    /// `Changed` when it need not be durable and a replica is not as it was before.
    pub(super) async fn scrub_take(
        &self,
        backend: BackendId,
        (need, pass): (Need, Option<ScrubPass>),
        results: Arc<Vec<(WriteId, Scrubbed)>>,
    ) -> Result<Vec<ScrubMarked>, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Work, need, move |tx| {
            let Some((no, duty)) = backend_in_tx(**tx, backend)? else { return Ok(Vec::new()) };
            let mut turn = Turn::begin(tx, now);
            let mut marked = Vec::new();
            for (write, scrubbed) in results.iter() {
                if *scrubbed == Scrubbed::Verified && is_sound_in_tx(tx, (*write, no), now)? {
                    continue;
                }
                if need == Need::Recorded {
                    return Err(StoreError::Changed);
                }
                let was = (*write, no, duty);
                marked.extend(take_in_tx(tx, &mut turn, was, scrubbed)?);
            }
            if let Some(pass) = pass {
                tx.run(
                    "INSERT INTO jobs (name, state) VALUES ('scrub:' || ?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                    (no, pass.write()),
                )?;
            }
            turn.end(tx)?;
            for one in &mut marked {
                one.is_alone = is_alone_in_tx(**tx, one.blob, one.write)?;
            }
            Ok(marked)
        })
        .await
    }

    /// How many replicas of each backend are in each state that is not right.
    pub async fn broken_counts(&self) -> Result<Vec<(BackendId, ReplicaState, u64)>, StoreError> {
        self.read(|sql| {
            let mut counts = Vec::new();
            for query in [DEAD_COUNT, UNREADABLE_COUNT] {
                counts.extend(sql.all(query, [], |row| {
                    Ok((BackendId(row.get(0)?), state_of(row.get(1)?), row.get(2)?))
                })?);
            }
            Ok(counts)
        })
        .await
    }

    /// Replicas that are missing, damaged or unreadable, on one backend or on all; at most `max`.
    pub async fn broken_replicas(
        &self,
        backend: Option<BackendId>,
        max: usize,
    ) -> Result<Vec<BrokenReplica>, StoreError> {
        self.read(move |sql| {
            let backends: Vec<(u64, BackendId)> =
                sql.all("SELECT no, id FROM backends ORDER BY no", [], |row| {
                    Ok((row.get(0)?, BackendId(row.get(1)?)))
                })?;
            let mut broken = Vec::new();
            for (no, id) in backends {
                if backend.is_some_and(|backend| backend != id) {
                    continue;
                }
                for query in [DEAD, UNREADABLE_FIRST] {
                    let left = max - broken.len();
                    let writes = sql.all(query, (no, left), |row| Ok(WriteId(row.get(0)?)))?;
                    for found in found_in_tx(sql, id, &writes)? {
                        broken.push(broken_in_tx(sql, found)?);
                    }
                }
            }
            Ok(broken)
        })
        .await
    }
}

/// Every replica behind one, whatever its backend.
pub(super) const WALK: &str = "SELECT write, backend, state FROM replicas
     WHERE write > ?1 ORDER BY write LIMIT ?2";

pub(super) const UNREADABLE: &str = "SELECT write FROM replicas
     WHERE state = 6 AND backend = ?1 AND (checked, write) > (?2, ?3)
     ORDER BY checked, write LIMIT ?4";

pub(super) const UNHASHED_WINDOW: &str = "SELECT id FROM blobs
     WHERE hash = x'' AND id > ?1 ORDER BY id LIMIT 1 OFFSET ?2";

pub(super) const UNHASHED: &str = "SELECT b.id, r.write
     FROM blobs b CROSS JOIN replicas r ON r.blob = b.id
     WHERE b.hash = x'' AND b.id > ?1 AND b.id <= ?2 AND r.backend = ?3 AND r.state IN (1, 4)
     ORDER BY b.id LIMIT ?4";

const UNREADABLE_FIRST: &str = "SELECT write FROM replicas
     WHERE state = 6 AND backend = ?1 ORDER BY checked, write LIMIT ?2";

pub(super) const DEAD: &str = "SELECT write FROM replicas
     WHERE dead <> 0 AND backend = ?1 ORDER BY state, write LIMIT ?2";

const DEAD_COUNT: &str = "SELECT k.id, r.state, r.n FROM
         (SELECT backend, state, count(*) AS n FROM replicas WHERE dead <> 0
          GROUP BY backend, state) r
     JOIN backends k ON k.no = r.backend";

const UNREADABLE_COUNT: &str = "SELECT k.id, 6, r.n FROM
         (SELECT backend, count(*) AS n FROM replicas WHERE state = 6 GROUP BY backend) r
     JOIN backends k ON k.no = r.backend";

const FOUND: &str = "SELECT r.write, r.blob, r.state, r.form, r.own, coalesce(r.bytes, b.size),
         b.stem, v.key, r.borrowed IS NOT NULL, b.hash, r.checked
     FROM replicas r CROSS JOIN blobs b ON b.id = r.blob LEFT JOIN versions v ON v.seq = b.born
     WHERE r.write = ?1 AND b.refs > 0";

fn backend_in_tx(sql: Sql<'_>, backend: BackendId) -> Result<Option<(u64, Duty)>, StoreError> {
    sql.one("SELECT no, state FROM backends WHERE id = ?1", [backend.0], |row| {
        Ok((row.get(0)?, duty_of(row.get(1)?)))
    })
}

fn page_in_tx(
    sql: Sql<'_>,
    (backend, after): (BackendId, WriteId),
    max: usize,
    broken: bool,
) -> Result<ScrubPage, StoreError> {
    let mut page = ScrubPage { replicas: Vec::new(), upto: after, is_end: true, walked: 0 };
    let Some((no, _)) = backend_in_tx(sql, backend)? else { return Ok(page) };
    let mut statement = sql.0.prepare_cached(WALK)?;
    let mut rows = statement.query((after.0, WALK_MAX))?;
    let mut writes = Vec::new();
    while let Some(row) = rows.next()? {
        page.walked += 1;
        let is_wanted = match state_of(row.get(2)?) {
            ReplicaState::Good | ReplicaState::Leaving => true,
            ReplicaState::Missing | ReplicaState::Damaged => broken,
            _ => false,
        };
        let is_wanted = is_wanted && row.get::<_, u64>(1)? == no;
        // The first that is too many is looked for all the same: it tells whether this is the end.
        if is_wanted && writes.len() == max {
            page.is_end = false;
            break;
        }
        page.upto = WriteId(row.get(0)?);
        writes.extend(is_wanted.then_some(page.upto));
    }
    page.is_end &= page.walked < WALK_MAX;
    page.replicas = found_in_tx(sql, backend, &writes)?;
    Ok(page)
}

fn found_in_tx(
    sql: Sql<'_>,
    backend: BackendId,
    writes: &[WriteId],
) -> Result<Vec<ScrubReplica>, StoreError> {
    let mut found = Vec::with_capacity(writes.len());
    for write in writes {
        let read = |row: &Row<'_>| found_read(row, backend);
        let Some((replica, hash)) = sql.one(FOUND, [write.0], read)? else { continue };
        let hash = (!hash.is_empty()).then(|| codec::fixed(&hash)).transpose()?;
        found.push(ScrubReplica { hash, ..replica });
    }
    Ok(found)
}

fn found_read(row: &Row<'_>, backend: BackendId) -> rusqlite::Result<(ScrubReplica, Vec<u8>)> {
    let write = WriteId(row.get(0)?);
    let stem = stem_whole(row.get_ref(6)?.as_str()?, row.get_ref(7)?.as_blob_or_null()?);
    let replica = Replica {
        write,
        backend,
        path: path(&form_of(row.get(3)?, row.get(4)?), &stem, write),
        state: state_of(row.get(2)?),
        is_borrowed: row.get(8)?,
    };
    let found = ScrubReplica {
        replica,
        blob: BlobId(row.get(1)?),
        size: row.get(5)?,
        hash: None,
        checked: row.get::<_, Option<i64>>(10)?.map(Timestamp),
    };
    Ok((found, row.get(9)?))
}

/// What nearly all are: as they were, and verified. Whether this is one.
fn is_sound_in_tx(
    tx: &Tx<'_>,
    (write, no): (WriteId, u64),
    now: Timestamp,
) -> Result<bool, StoreError> {
    let changed = tx.run(
        "UPDATE replicas SET checked = ?3 WHERE write = ?1 AND backend = ?2 AND state IN (1, 4)",
        (write.0, no, now.0),
    )?;
    Ok(changed == 1)
}

/// Takes what was found of one replica, unless it is not what it was when it was read.
fn take_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    (write, no, duty): (WriteId, u64, Duty),
    scrubbed: &Scrubbed,
) -> Result<Option<ScrubMarked>, StoreError> {
    let found = replica_in_tx(**tx, write)?.filter(|row| row.backend == no && row.is_committed);
    let Some(row) = found else { return Ok(None) };
    if matches!(row.state, ReplicaState::Writing | ReplicaState::Away) {
        return Ok(None);
    }
    let is_sound = row.state.is_readable();
    let state = match scrubbed {
        Scrubbed::Verified | Scrubbed::Hashed(_) if is_sound => row.state,
        Scrubbed::Verified | Scrubbed::Hashed(_) => state_of(stands(duty)),
        Scrubbed::Damaged if row.is_borrowed => ReplicaState::Unreadable,
        Scrubbed::Damaged => ReplicaState::Damaged,
        Scrubbed::Missing => ReplicaState::Missing,
        Scrubbed::Unreadable if is_sound => ReplicaState::Unreadable,
        Scrubbed::Unreadable => row.state,
    };
    if let Scrubbed::Hashed(hash) = scrubbed {
        blob_hash_set_in_tx(tx, row.blob, hash)?;
    }
    if state != row.state {
        match mark_in_tx(tx, turn, &row, state) {
            Ok(()) => {}
            Err(StoreError::Changed) => return Ok(None),
            Err(err) => return Err(err),
        }
    }
    if matches!(scrubbed, Scrubbed::Verified | Scrubbed::Hashed(_)) {
        tx.run("UPDATE replicas SET checked = ?2 WHERE write = ?1", (write.0, turn.now.0))?;
    }
    let blob = row.blob;
    Ok((state != row.state).then_some(ScrubMarked { write, blob, state, is_alone: false }))
}

/// Gives a blob that was imported its hash, unless it has one already.
pub(super) fn blob_hash_set_in_tx(
    tx: &Tx<'_>,
    blob: BlobId,
    hash: &ScrubHash,
) -> Result<(), StoreError> {
    tx.run(
        "UPDATE blobs SET hash = ?2, groups = ?3 WHERE id = ?1 AND hash = x''",
        (blob.0, hash.hash, codec::hashes(&hash.groups)),
    )?;
    Ok(())
}

/// Whether no other replica of the blob may be read.
fn is_alone_in_tx(sql: Sql<'_>, blob: BlobId, write: WriteId) -> Result<bool, StoreError> {
    let other = sql.one(
        "SELECT 1 FROM replicas WHERE blob = ?1 AND write <> ?2 AND state IN (1, 4, 5)",
        (blob.0, write.0),
        |_| Ok(()),
    )?;
    Ok(other.is_none())
}

fn broken_in_tx(sql: Sql<'_>, found: ScrubReplica) -> Result<BrokenReplica, StoreError> {
    let object: Option<(String, Vec<u8>)> = sql.one(
        "SELECT u.name, v.key FROM blobs b CROSS JOIN versions v ON v.seq = b.born
         CROSS JOIN buckets u ON u.id = v.bucket WHERE b.id = ?1",
        [found.blob.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let key = |key: Vec<u8>| String::from_utf8(key).ok().and_then(|key| ObjectKey::new(key).ok());
    Ok(BrokenReplica {
        is_alone: is_alone_in_tx(sql, found.blob, found.replica.write)?,
        replica: found.replica,
        blob: found.blob,
        size: found.size,
        object: object.and_then(|(bucket, bytes)| Some((bucket, key(bytes)?))),
    })
}
