//! Blobs: registered with their intents, taken by a commit, given up when nothing refers to them.
//!
//! # Invariants
//!
//! - `refs` is the number of entries that name the blob; a committed blob has at least one.
//! - A blob is committed exactly when `refs` is not 0; before, its hash is zeros.
//! - `good` of a committed blob is the number of its good replicas, `deficit` its placement's
//!   replicas less those, and `due` is set exactly while that is positive. A blob that is not
//!   committed has none of them, but for `due = -1` once its last intent was given up.

use std::sync::Arc;

use super::Store;
use super::bucket::bucket_in_tx;
use super::codec;
use super::condemned::condemn_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Ledger;
use super::ledger::Turn;
use super::queue::Lane;
use super::repair::PARKED;
use super::replica::Choose;
use super::replica::FailedWrite;
use super::replica::Holders;
use super::replica::Intent;
use super::replica::ReplicaRow;
use super::replica::WRITING_BETWEEN;
use super::replica::intent_condemn_in_tx;
use super::replica::intent_in_tx;
use super::replica::replica_condemn_in_tx;
use super::replica::replica_in_tx;
use super::replica::replicas_in_tx;
use super::replica::settled_state_in_tx;
use super::scrub::ScrubHash;
use super::scrub::blob_hash_set_in_tx;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BlobId;
use crate::model::BucketId;
use crate::model::CondemnReason;
use crate::model::ObjectKey;
use crate::model::PlacementId;
use crate::model::ReplicaState;
use crate::model::WriteId;

#[derive(Clone, Debug)]
pub struct BlobRequest {
    /// Not 0: an empty object has no blob.
    pub size: u64,
    /// `model::path::stem`.
    pub stem: String,
}

#[derive(Clone, Debug)]
pub struct Registered {
    pub blob: BlobId,
    pub size: u64,
    pub intents: Vec<Intent>,
}

/// A blob whose bytes are durable. Its intents that are in neither list are still being written
/// and stay intents: `replica_commit` or `replica_abandon` settles each.
#[derive(Clone, Debug)]
pub struct FinishedBlob {
    pub blob: BlobId,
    pub hash: [u8; 32],
    /// BLAKE3 chaining values of the 1 MiB groups; empty up to 1 MiB.
    pub groups: Vec<[u8; 32]>,
    pub good: Vec<WriteId>,
    pub failed: Vec<FailedWrite>,
}

impl Store {
    /// Places all blobs of a request and records their intents: all or nothing. `NoRoom` names
    /// the first blob for which `choose` found nothing.
    pub async fn blobs_register(
        &self,
        bucket: BucketId,
        placement: PlacementId,
        blobs: Vec<BlobRequest>,
        mut choose: Choose,
    ) -> Result<Vec<Registered>, StoreError> {
        self.write(Lane::Request, Need::Recorded, move |tx| {
            let row = bucket_in_tx(**tx, bucket)?;
            let total: u64 = blobs.iter().map(|blob| blob.size).sum();
            // What the key held before is given back, so only what can never fit is refused here.
            if row.quota.is_some_and(|quota| total > quota) {
                return Err(StoreError::BucketQuota);
            }
            let mut ledger = Ledger::read_in_tx(**tx)?;
            let registered = blobs
                .into_iter()
                .map(|blob| register_in_tx(tx, &mut ledger, placement, blob, &mut choose))
                .collect::<Result<Vec<_>, _>>()?;
            ledger.write_in_tx(**tx)?;
            Ok(registered)
        })
        .await
    }

    /// Whether blobs of these sizes would be placed now. Asked of a reader, it records nothing.
    pub async fn blobs_fit(
        &self,
        bucket: BucketId,
        sizes: Vec<u64>,
        mut choose: Choose,
    ) -> Result<(), StoreError> {
        self.read(move |sql| {
            let row = bucket_in_tx(sql, bucket)?;
            if row.quota.is_some_and(|quota| sizes.iter().sum::<u64>() > quota) {
                return Err(StoreError::BucketQuota);
            }
            let mut ledger = Ledger::read_in_tx(sql)?;
            for size in sizes {
                let targets = choose(&ledger.rows, size, &Holders::default()).unwrap_or_default();
                let fit = targets.iter().all(|t| ledger.reserve(t.backend, size).is_some());
                if targets.is_empty() || !fit {
                    return Err(StoreError::NoRoom { size });
                }
            }
            Ok(())
        })
        .await
    }

    /// Gives up blobs that no commit took: their intents are condemned, reserved bytes become
    /// orphan bytes. Those that a commit took are left alone.
    pub async fn blobs_abandon(
        &self,
        blobs: Vec<(BlobId, Vec<FailedWrite>)>,
    ) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            let mut turn = Turn::begin(tx, now);
            for (blob, failed) in &blobs {
                blob_drop_in_tx(tx, &mut turn, *blob, &[], failed)?;
            }
            turn.end(tx)
        })
        .await
    }

    /// The group hashes of a blob over 1 MiB; none for a smaller one.
    pub async fn blob_groups(&self, blob: BlobId) -> Result<Arc<[[u8; 32]]>, StoreError> {
        self.read(move |sql| {
            let bytes: Option<Option<Vec<u8>>> =
                sql.one("SELECT groups FROM blobs WHERE id = ?1", [blob.0], |row| row.get(0))?;
            let bytes = bytes.ok_or(StoreError::Superseded)?.unwrap_or_default();
            Ok(codec::hashes_read(&bytes)?.into())
        })
        .await
    }

    /// The hash of an imported blob, once its bytes have been read. Repeating it changes nothing;
    /// `Changed` when the blob is known to have other bytes, `Superseded` when it is gone.
    pub async fn blob_hash_set(
        &self,
        blob: BlobId,
        hash: [u8; 32],
        groups: Vec<[u8; 32]>,
    ) -> Result<(), StoreError> {
        self.write(Lane::Work, Need::Durable, move |tx| {
            let known: Option<Option<[u8; 32]>> = tx.one(
                "SELECT nullif(hash, x'') FROM blobs WHERE id = ?1 AND refs > 0",
                [blob.0],
                |row| row.get(0),
            )?;
            match known.ok_or(StoreError::Superseded)? {
                Some(known) if known == hash => Ok(()),
                Some(_) => Err(StoreError::Changed),
                None => blob_hash_set_in_tx(tx, blob, &ScrubHash { hash, groups }),
            }
        })
        .await
    }
}

#[derive(Clone, Debug)]
pub(super) struct BlobRow {
    pub(super) size: u64,
    pub(super) stem: String,
    is_committed: bool,
    pub(super) wished: i64,
}

pub(super) fn blob_in_tx(sql: Sql<'_>, blob: BlobId) -> Result<Option<BlobRow>, StoreError> {
    sql.one(
        "SELECT b.size, b.stem, b.refs > 0, p.replicas, v.key
         FROM blobs b CROSS JOIN placements p ON p.id = b.placement
         LEFT JOIN versions v ON v.seq = b.born WHERE b.id = ?1",
        [blob.0],
        |row| {
            Ok(BlobRow {
                size: row.get(0)?,
                stem: stem_whole(row.get_ref(1)?.as_str()?, row.get_ref(4)?.as_blob_or_null()?),
                is_committed: row.get(2)?,
                wished: row.get(3)?,
            })
        },
    )
}

fn register_in_tx(
    tx: &Tx<'_>,
    ledger: &mut Ledger,
    placement: PlacementId,
    request: BlobRequest,
    choose: &mut Choose,
) -> Result<Registered, StoreError> {
    let size = request.size;
    let targets = choose(&ledger.rows, size, &Holders::default()).unwrap_or_default();
    if targets.is_empty() {
        return Err(StoreError::NoRoom { size });
    }
    let blob = BlobId(tx.ids.next());
    tx.run(
        "INSERT INTO blobs (id, size, refs, placement, deficit, hash, stem)
         VALUES (?1, ?2, 0, ?3, 0, zeroblob(32), ?4)",
        (blob.0, size, placement.0, &request.stem),
    )?;
    let intents = targets
        .into_iter()
        .map(|target| intent_in_tx(tx, ledger, blob, (size, &request.stem), target))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Registered { blob, size, intents })
}

/// Takes finished blobs into a commit, each with one reference; the sizes in their order. `born`
/// is the key of the version that the turn's number will be, if it will be one.
/// `Superseded` when a blob or a good intent is not there.
pub(super) fn blobs_take_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blobs: &[FinishedBlob],
    born: Option<&ObjectKey>,
) -> Result<Vec<u64>, StoreError> {
    blobs.iter().map(|blob| blob_take_in_tx(tx, turn, blob, born)).collect()
}

fn blob_take_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    finished: &FinishedBlob,
    born: Option<&ObjectKey>,
) -> Result<u64, StoreError> {
    let blob = finished.blob;
    let row = blob_in_tx(**tx, blob)?.filter(|row| !row.is_committed);
    let row = row.ok_or(StoreError::Superseded)?;
    if finished.good.is_empty() {
        return Err(StoreError::TooFewReplicas(vec![blob]));
    }
    let mut good = 0;
    for write in &finished.good {
        let settled = settled_state_in_tx(tx, *write, blob)?.ok_or(StoreError::Superseded)?;
        turn.shift(settled.backend, row.size, Column::Reserved, Column::Used);
        good += i64::from(settled.counts);
    }
    for failed in &finished.failed {
        let replica = replica_in_tx(**tx, failed.write)?;
        if let Some(replica) = replica.filter(|r| r.blob == blob && is_intent(r)) {
            intent_condemn_in_tx(tx, turn, &replica, failed.unknown)?;
        }
    }
    let deficit = row.wished - good;
    tx.marks.short |= deficit > 0;
    tx.marks.surplus |= deficit < 0;
    let short = born.and_then(|key| stem_short(&row.stem, key));
    tx.run(
        "UPDATE blobs SET refs = 1, hash = ?2, groups = ?3, deficit = ?4, due = ?5, born = ?6,
             stem = ?7, good = ?8
         WHERE id = ?1",
        (
            blob.0,
            finished.hash,
            codec::hashes(&finished.groups),
            deficit,
            (deficit > 0).then_some(turn.now.0),
            short.is_some().then_some(turn.seq),
            short.as_deref().unwrap_or(&row.stem),
            good,
        ),
    )?;
    Ok(row.size)
}

/// Drops blobs whose commit was refused. Intents in neither list are still being written.
pub(super) fn blobs_refuse_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blobs: &[FinishedBlob],
) -> Result<(), StoreError> {
    blobs.iter().try_for_each(|b| blob_drop_in_tx(tx, turn, b.blob, &b.good, &b.failed))
}

fn blob_drop_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blob: BlobId,
    good: &[WriteId],
    failed: &[FailedWrite],
) -> Result<(), StoreError> {
    match blob_in_tx(**tx, blob)? {
        Some(row) if !row.is_committed => (),
        _ => return Ok(()),
    }
    let is_again = |replica: &ReplicaRow| {
        let known = failed.iter().find(|f| f.write == replica.write).map(|f| f.unknown);
        known.unwrap_or_else(|| !good.contains(&replica.write))
    };
    blob_condemn_in_tx(tx, turn, blob, CondemnReason::Abandoned, &is_again)
}

/// What stands in a stem for the key of the version that the blob was born with.
const KEY_HOLE: char = '\u{1}';

/// The stem without the key, which the version holds already: most of the bytes of a small
/// object's metadata are its key. `None` where it cannot be shortened.
pub(super) fn stem_short(stem: &str, key: &ObjectKey) -> Option<String> {
    let is_plain = !stem.contains(KEY_HOLE) && stem.contains(key.as_str());
    (is_plain && key.as_bytes().len() > 1)
        .then(|| stem.replacen(key.as_str(), KEY_HOLE.encode_utf8(&mut [0; 4]), 1))
}

/// The stem as it was registered; `key` is that of the version the blob was born with, while
/// that exists.
pub(super) fn stem_whole(stem: &str, key: Option<&[u8]>) -> String {
    match key.map(std::str::from_utf8) {
        Some(Ok(key)) => stem.replacen(KEY_HOLE, key, 1),
        _ => stem.to_owned(),
    }
}

/// Gives the stem its key back before the version goes away, for the other versions' sake.
fn stem_complete_in_tx(sql: Sql<'_>, blob: BlobId, born: u64) -> Result<(), StoreError> {
    let Some(row) = blob_in_tx(sql, blob)? else { return Ok(()) };
    sql.run(
        "UPDATE blobs SET stem = ?3, born = NULL WHERE id = ?1 AND born = ?2",
        (blob.0, born, &row.stem),
    )?;
    Ok(())
}

/// Takes one reference from a blob on behalf of the version or part `owner`, which still exists,
/// and condemns it when that was the last.
pub(super) fn blob_release_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blob: BlobId,
    owner: u64,
    reason: CondemnReason,
) -> Result<(), StoreError> {
    let refs: Option<u64> =
        tx.one("UPDATE blobs SET refs = refs - 1 WHERE id = ?1 RETURNING refs", [blob.0], |row| {
            row.get(0)
        })?;
    match refs {
        Some(0) => blob_condemn_in_tx(tx, turn, blob, reason, &is_intent),
        Some(_) => stem_complete_in_tx(**tx, blob, owner),
        None => Err(StoreError::broken("an entry names a blob that is not there")),
    }
}

/// Adds references for a copy.
pub(super) fn blob_retain_in_tx(tx: &Tx<'_>, blob: BlobId, refs: u64) -> Result<(), StoreError> {
    match tx.run("UPDATE blobs SET refs = refs + ?2 WHERE id = ?1", (blob.0, refs))? {
        1 => Ok(()),
        _ => Err(StoreError::broken("an entry names a blob that is not there")),
    }
}

fn is_intent(replica: &ReplicaRow) -> bool {
    replica.state == ReplicaState::Writing
}

fn blob_condemn_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blob: BlobId,
    reason: CondemnReason,
    is_again: &dyn Fn(&ReplicaRow) -> bool,
) -> Result<(), StoreError> {
    for replica in replicas_in_tx(**tx, blob)? {
        condemn_in_tx(tx, turn, &replica, reason, is_again(&replica))?;
    }
    tx.run("DELETE FROM replicas WHERE blob = ?1", [blob.0])?;
    tx.run("DELETE FROM blobs WHERE id = ?1", [blob.0])?;
    Ok(())
}

/// Counts anew what is missing to the placement. When nothing is, replicas that were found missing
/// or damaged have had their use, and are condemned. A borrowed file that is there stays known.
pub(super) fn blob_count_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    blob: BlobId,
) -> Result<(), StoreError> {
    let Some(row) = blob_in_tx(**tx, blob)?.filter(|row| row.is_committed) else { return Ok(()) };
    let good: Option<i64> =
        tx.one("SELECT count(*) FROM replicas WHERE blob = ?1 AND state = 1", [blob.0], |row| {
            row.get(0)
        })?;
    let good = good.unwrap_or(0);
    let deficit = row.wished - good;
    tx.run(
        "UPDATE blobs SET deficit = ?2, good = ?3,
             due = iif(?2 > 0, min(?4, coalesce(due, ?5) - 1), NULL)
         WHERE id = ?1",
        (blob.0, deficit, good, turn.now.0, PARKED),
    )?;
    tx.marks.short |= deficit > 0;
    tx.marks.surplus |= deficit < 0;
    if deficit > 0 {
        return Ok(());
    }
    for replica in replicas_in_tx(**tx, blob)? {
        let reason = match replica.state {
            ReplicaState::Missing => CondemnReason::Superseded,
            ReplicaState::Damaged if !replica.is_borrowed => CondemnReason::Damaged,
            _ => continue,
        };
        replica_condemn_in_tx(tx, turn, &replica, reason, false)?;
    }
    Ok(())
}

/// Takes away a bounded number of uncommitted blobs with ids below `first` that have no intent.
pub(super) fn settle_dropped_in_tx(
    tx: &mut Tx<'_>,
    first: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let some = (0, first, WORK_ROWS_MAX);
    let dropped: Vec<BlobId> = tx.all(DROPPED_BETWEEN, some, |row| Ok(BlobId(row.get(0)?)))?;
    let mut turn = Turn::begin(tx, now);
    for blob in dropped {
        blob_condemn_in_tx(tx, &mut turn, blob, CondemnReason::Abandoned, &is_intent)?;
    }
    turn.end(tx)
}

pub(super) const DROPPED_BETWEEN: &str = "SELECT id FROM blobs
     WHERE good = 0 AND due = -1 AND refs = 0 AND id >= ?1 AND id < ?2 LIMIT ?3";

/// Condemns intents with ids from `first` to below `end`, which have no writer: how many, and
/// whether there may be more.
pub(super) fn settle_in_tx(
    tx: &mut Tx<'_>,
    first: u64,
    end: u64,
    now: Timestamp,
) -> Result<(u64, bool), StoreError> {
    let some = (first, end, WORK_ROWS_MAX);
    let rows = tx.all(WRITING_BETWEEN, some, ReplicaRow::read)?;
    let dropped: Vec<BlobId> = tx.all(DROPPED_BETWEEN, some, |row| Ok(BlobId(row.get(0)?)))?;
    let is_more = rows.len() == WORK_ROWS_MAX || dropped.len() == WORK_ROWS_MAX;
    if rows.is_empty() && dropped.is_empty() {
        return Ok((0, false));
    }
    let mut turn = Turn::begin(tx, now);
    let reason = CondemnReason::Abandoned;
    let count = rows.len() as u64;
    for row in rows {
        // An earlier row of this batch may have taken the whole blob with it.
        if replica_in_tx(**tx, row.write)?.is_none() {
            continue;
        }
        if row.is_committed {
            intent_condemn_in_tx(tx, &mut turn, &row, true)?;
        } else {
            blob_condemn_in_tx(tx, &mut turn, row.blob, reason, &is_intent)?;
        }
    }
    for blob in dropped {
        blob_condemn_in_tx(tx, &mut turn, blob, reason, &is_intent)?;
    }
    turn.end(tx)?;
    Ok((count, is_more))
}
