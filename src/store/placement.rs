//! Placements: few rows, shared by all buckets and blobs with the same wishes.

use rusqlite::Row;

use super::codec;
use super::error::StoreError;
use super::sql::Sql;
use crate::model::Placement;
use crate::model::PlacementId;
use crate::model::Routing;

/// What buckets get before the first declaration.
fn first_default() -> Placement {
    Placement { replicas: 1, min_replicas: 1, routing: Routing::Pack, require_distinct: Vec::new() }
}

/// The row with these wishes, made if there is none.
pub(super) fn placement_in_tx(
    sql: Sql<'_>,
    placement: &Placement,
) -> Result<PlacementId, StoreError> {
    let routing = match placement.routing {
        Routing::Pack => 0,
        Routing::Spread => 1,
    };
    let mut sorted = placement.require_distinct.clone();
    sorted.sort();
    sorted.dedup();
    let labels = codec::labels(&sorted);
    let wishes = (placement.replicas, placement.min_replicas, routing, &labels);
    let found = sql.one(
        "SELECT id FROM placements
         WHERE replicas = ?1 AND min_replicas = ?2 AND routing = ?3 AND require_distinct = ?4
             AND sealed = 0",
        wishes,
        |row| row.get(0),
    )?;
    if let Some(id) = found {
        return Ok(PlacementId(id));
    }
    let made = sql.one(
        "INSERT INTO placements (replicas, min_replicas, routing, require_distinct)
         VALUES (?1, ?2, ?3, ?4) RETURNING id",
        wishes,
        |row| row.get(0),
    )?;
    made.map(PlacementId).ok_or_else(|| StoreError::broken("a row was not inserted"))
}

/// What a bucket gets that is made by an S3 call.
pub(super) fn default_in_tx(sql: Sql<'_>) -> Result<PlacementId, StoreError> {
    match sql.meta("default_placement")? {
        Some(id) => Ok(PlacementId(id)),
        None => {
            let id = placement_in_tx(sql, &first_default())?;
            sql.meta_set("default_placement", id.0)?;
            Ok(id)
        }
    }
}

/// Reads `replicas, min_replicas, routing, require_distinct` from column `at` on.
pub(super) fn placement_read(row: &Row<'_>, at: usize) -> rusqlite::Result<(Placement, Vec<u8>)> {
    let routing = if row.get::<_, u32>(at + 2)? == 0 { Routing::Pack } else { Routing::Spread };
    let placement = Placement {
        replicas: row.get(at)?,
        min_replicas: row.get(at + 1)?,
        routing,
        require_distinct: Vec::new(),
    };
    Ok((placement, row.get(at + 3)?))
}
