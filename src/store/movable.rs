//! Replicas that could move from a backend, smallest or largest first.
//!
//! The order is by size, of which there is no index: it would cost every write and help a run that
//! is made a few times a day. One look walks over the backend's replicas and keeps the best of them.

use super::Store;
use super::codec;
use super::error::StoreError;
use super::placement::placement_read;
use super::sql::Sql;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Placement;
use crate::model::WriteId;

/// A good replica that is Larder's own, and what its blob has besides.
#[derive(Clone, Debug)]
pub struct Movable {
    pub write: WriteId,
    pub blob: BlobId,
    pub size: u64,
    pub wish: Placement,
    /// Backends with a living replica, this one's among them.
    pub living: Vec<BackendId>,
    /// Backends with a good one or one that is being written, this one's among them.
    pub counting: Vec<BackendId>,
}

/// In which order they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeOrder {
    SmallestFirst,
    LargestFirst,
}

impl Store {
    /// At most `max` that could move from `backend`, those after the one of this size and write.
    pub async fn replicas_movable(
        &self,
        backend: BackendId,
        order: SizeOrder,
        after: Option<(u64, WriteId)>,
        max: usize,
    ) -> Result<Vec<Movable>, StoreError> {
        self.read(move |sql| {
            let no: Option<u64> =
                sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
            let no = no.ok_or(StoreError::NoSuchBackend)?;
            let (query, first) = match order {
                SizeOrder::SmallestFirst => (SMALLEST, (0, WriteId(0))),
                SizeOrder::LargestFirst => (LARGEST, (i64::MAX as u64, WriteId(0))),
            };
            let (size, write) = after.unwrap_or(first);
            let found: Vec<(Movable, Vec<u8>)> =
                sql.all(query, (no, size, write.0, max), |row| {
                    let (wish, labels) = placement_read(row, 3)?;
                    let movable = Movable {
                        write: WriteId(row.get(0)?),
                        blob: BlobId(row.get(1)?),
                        size: row.get(2)?,
                        wish,
                        living: Vec::new(),
                        counting: Vec::new(),
                    };
                    Ok((movable, labels))
                })?;
            found.into_iter().map(|(movable, labels)| complete(sql, movable, &labels)).collect()
        })
        .await
    }
}

const SMALLEST: &str = "SELECT r.write, r.blob, b.size, p.replicas, p.min_replicas, p.routing,
         p.require_distinct
     FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
     CROSS JOIN placements p ON p.id = b.placement
     WHERE r.backend = ?1 AND r.state = 1 AND r.borrowed IS NULL AND b.refs > 0
         AND (b.size, r.write) > (?2, ?3)
     ORDER BY b.size, r.write LIMIT ?4";

const LARGEST: &str = "SELECT r.write, r.blob, b.size, p.replicas, p.min_replicas, p.routing,
         p.require_distinct
     FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
     CROSS JOIN placements p ON p.id = b.placement
     WHERE r.backend = ?1 AND r.state = 1 AND r.borrowed IS NULL AND b.refs > 0
         AND (-b.size, r.write) > (-?2, ?3)
     ORDER BY -b.size, r.write LIMIT ?4";

fn complete(sql: Sql<'_>, mut movable: Movable, labels: &[u8]) -> Result<Movable, StoreError> {
    movable.wish.require_distinct = codec::labels_read(labels)?;
    let holders: Vec<(BackendId, bool)> = sql.all(
        "SELECT k.id, r.state IN (0, 1) FROM replicas r CROSS JOIN backends k ON k.no = r.backend
         WHERE r.blob = ?1 AND r.dead = 0",
        [movable.blob.0],
        |row| Ok((BackendId(row.get(0)?), row.get(1)?)),
    )?;
    movable.living = holders.iter().map(|(backend, _)| *backend).collect();
    let counting = holders.into_iter().filter(|(_, counts)| *counts);
    movable.counting = counting.map(|(backend, _)| backend).collect();
    Ok(movable)
}
