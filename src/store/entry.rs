//! Entries: which slices of which blobs make up a version or a part.

use std::collections::BTreeMap;

use super::blob::blob_release_in_tx;
use super::blob::blob_retain_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::sql::Sql;
use super::writer::Tx;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::PlacementId;

/// A row of the table without its owner and ordinal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) part: u32,
    pub(super) blob: BlobId,
    pub(super) offset: u64,
    pub(super) length: u64,
}

pub(super) fn slices_in_tx(sql: Sql<'_>, owner: u64) -> Result<Vec<Slice>, StoreError> {
    sql.all(
        "SELECT part, blob, offset, length FROM entries WHERE owner = ?1 ORDER BY ordinal",
        [owner],
        |row| {
            Ok(Slice {
                part: row.get(0)?,
                blob: BlobId(row.get(1)?),
                offset: row.get(2)?,
                length: row.get(3)?,
            })
        },
    )
}

/// Gives `owner` its entries. References are the caller's.
pub(super) fn slices_put_in_tx(
    sql: Sql<'_>,
    owner: u64,
    slices: &[Slice],
) -> Result<(), StoreError> {
    for (ordinal, slice) in slices.iter().enumerate() {
        sql.run(
            "INSERT INTO entries (owner, ordinal, part, blob, offset, length)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (owner, ordinal, slice.part, slice.blob.0, slice.offset, slice.length),
        )?;
    }
    Ok(())
}

/// Takes the entries of `owner` away, and with them the blobs that nothing else names.
pub(super) fn slices_release_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    owner: u64,
    reason: CondemnReason,
) -> Result<(), StoreError> {
    let slices = slices_in_tx(**tx, owner)?;
    if slices.is_empty() {
        return Ok(());
    }
    tx.run("DELETE FROM entries WHERE owner = ?1", [owner])?;
    slices.iter().try_for_each(|slice| blob_release_in_tx(tx, turn, slice.blob, owner, reason))
}

/// Adds a reference for each of `slices`.
pub(super) fn slices_retain_in_tx(tx: &Tx<'_>, slices: &[Slice]) -> Result<(), StoreError> {
    let mut refs: BTreeMap<BlobId, u64> = BTreeMap::new();
    slices.iter().for_each(|slice| *refs.entry(slice.blob).or_default() += 1);
    refs.into_iter().try_for_each(|(blob, refs)| blob_retain_in_tx(tx, blob, refs))
}

/// Whether the blobs of `slices`, entries of `owner`, may be shared into `placement`, if one is
/// named, and whether each has `least` good replicas on the backends that are `present`.
pub(super) fn shareable_in_tx(
    sql: Sql<'_>,
    owner: u64,
    slices: &[Slice],
    placement: Option<PlacementId>,
    (present, least): (&[BackendId], usize),
) -> Result<(), StoreError> {
    let wanted: BTreeMap<BlobId, ()> = slices.iter().map(|slice| (slice.blob, ())).collect();
    let rows: Vec<(BlobId, u64, Option<BackendId>)> = sql.all(GOOD_REPLICAS, [owner], |row| {
        Ok((BlobId(row.get(0)?), row.get(1)?, row.get::<_, Option<u64>>(2)?.map(BackendId)))
    })?;
    let mut good: BTreeMap<BlobId, Vec<BackendId>> = BTreeMap::new();
    for (blob, owned_by, backend) in rows {
        if !wanted.contains_key(&blob) {
            continue;
        }
        if placement.is_some_and(|placement| owned_by != placement.0) {
            return Err(StoreError::OtherPlacement);
        }
        let backends = good.entry(blob).or_default();
        if let Some(backend) = backend {
            // A blob that stands in several entries appears several times.
            if present.contains(&backend) && !backends.contains(&backend) {
                backends.push(backend);
            }
        }
    }
    let poor: Vec<BlobId> =
        good.into_iter().filter(|(_, on)| on.len() < least).map(|(blob, _)| blob).collect();
    if poor.is_empty() { Ok(()) } else { Err(StoreError::TooFewReplicas(poor)) }
}

/// Good and leaving replicas of the blobs of one owner.
pub(super) const GOOD_REPLICAS: &str = "SELECT e.blob, b.placement, k.id
     FROM entries e CROSS JOIN blobs b ON b.id = e.blob
     LEFT JOIN replicas r ON r.blob = e.blob AND r.state IN (1, 4)
     LEFT JOIN backends k ON k.no = r.backend
     WHERE e.owner = ?1";
