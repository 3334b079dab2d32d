//! The ledger: how many bytes each backend holds, and for whom.
//!
//! # Invariants
//!
//! - `used` is the sum of replicas that are not intents, `reserved` that of intents, `orphan` that
//!   of condemned paths, `rows` the number of all three.
//! - When bytes are reserved, `used + reserved + orphan` stays within the quota.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use super::sql::Sql;
use super::standing::duty_of;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::Duty;

/// What the ledger says of one backend, inside the registering transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub backend: BackendId,
    pub quota: Option<u64>,
    pub used: u64,
    pub reserved: u64,
    pub orphan: u64,
    /// It may be written to: it is neither being emptied nor removed.
    pub in_use: bool,
}

impl From<&BackendRow> for LedgerRow {
    fn from(row: &BackendRow) -> LedgerRow {
        LedgerRow {
            backend: row.id,
            quota: row.quota,
            used: row.used,
            reserved: row.reserved,
            orphan: row.orphan,
            in_use: matches!(row.duty, Duty::InUse | Duty::Away),
        }
    }
}

impl LedgerRow {
    fn has_room(&self, size: u64) -> bool {
        let held = self.used.saturating_add(self.reserved).saturating_add(self.orphan);
        self.quota.is_none_or(|quota| held.saturating_add(size) <= quota)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRow {
    pub id: BackendId,
    pub name: String,
    /// Service, endpoint and root as one text, so that a change is noticed.
    pub location: String,
    pub quota: Option<u64>,
    /// Whose limits it shares.
    pub account: Option<String>,
    pub used: u64,
    pub reserved: u64,
    pub orphan: u64,
    /// Replicas in any state and condemned paths.
    pub rows: u64,
    pub duty: Duty,
    /// Since when it cannot be used, while it cannot.
    pub absent_since: Option<Timestamp>,
}

impl BackendRow {
    /// Bytes of all kinds that it holds.
    pub fn held(&self) -> u64 {
        self.used.saturating_add(self.reserved).saturating_add(self.orphan)
    }

    /// Bytes that the quota leaves; `None` without one.
    pub fn free(&self) -> Option<u64> {
        self.quota.map(|quota| quota.saturating_sub(self.held()))
    }
}

impl Store {
    pub async fn backends(&self) -> Result<Vec<BackendRow>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT id, name, location, quota, used, reserved, orphan, rows, account, state,
                     absent_since
                 FROM backends ORDER BY no",
                [],
                |row| {
                    Ok(BackendRow {
                        id: BackendId(row.get(0)?),
                        name: row.get(1)?,
                        location: row.get(2)?,
                        quota: row.get(3)?,
                        account: row.get(8)?,
                        used: row.get(4)?,
                        reserved: row.get(5)?,
                        orphan: row.get(6)?,
                        rows: row.get(7)?,
                        duty: duty_of(row.get(9)?),
                        absent_since: row.get::<_, Option<i64>>(10)?.map(Timestamp),
                    })
                },
            )
        })
        .await
    }
}

/// The ledger while blobs are being placed.
pub(super) struct Ledger {
    pub(super) rows: Vec<LedgerRow>,
    numbers: Vec<u64>,
    /// Bytes and rows that were reserved since it was read.
    added: Vec<(u64, u64)>,
}

impl Ledger {
    pub(super) fn read_in_tx(sql: Sql<'_>) -> Result<Ledger, StoreError> {
        let read = sql.all(
            "SELECT no, id, quota, used, reserved, orphan, state IN (0, 2) FROM backends
             ORDER BY no",
            [],
            |row| {
                let ledger = LedgerRow {
                    backend: BackendId(row.get(1)?),
                    quota: row.get(2)?,
                    used: row.get(3)?,
                    reserved: row.get(4)?,
                    orphan: row.get(5)?,
                    in_use: row.get(6)?,
                };
                Ok((row.get::<_, u64>(0)?, ledger))
            },
        )?;
        let (numbers, rows): (Vec<u64>, Vec<LedgerRow>) = read.into_iter().unzip();
        Ok(Ledger { added: vec![(0, 0); rows.len()], numbers, rows })
    }

    /// The number of `backend`, with `size` bytes reserved there; `None` when they do not fit.
    pub(super) fn reserve(&mut self, backend: BackendId, size: u64) -> Option<u64> {
        let at = self.rows.iter().position(|row| row.backend == backend)?;
        if !self.rows[at].has_room(size) {
            return None;
        }
        self.rows[at].reserved += size;
        self.added[at].0 += size;
        self.added[at].1 += 1;
        Some(self.numbers[at])
    }

    /// Writes the reservations. The statement guards the quota once more.
    pub(super) fn write_in_tx(&self, sql: Sql<'_>) -> Result<(), StoreError> {
        for (no, &(bytes, rows)) in self.numbers.iter().zip(&self.added) {
            if rows == 0 {
                continue;
            }
            let done = sql.run(
                "UPDATE backends SET reserved = reserved + ?2, rows = rows + ?3
                 WHERE no = ?1 AND (quota IS NULL OR used + reserved + orphan + ?2 <= quota)",
                (no, bytes, rows),
            )?;
            if done != 1 {
                return Err(StoreError::NoRoom { size: bytes });
            }
        }
        Ok(())
    }
}

/// What one operation moves in one row of the ledger.
#[derive(Clone, Copy, Debug, Default)]
struct Shift {
    used: i64,
    reserved: i64,
    orphan: i64,
    rows: i64,
}

/// One operation's place in the order of commits and in time, and what it moves in the ledger.
pub(super) struct Turn {
    pub(super) seq: u64,
    pub(super) now: Timestamp,
    shifts: BTreeMap<u64, Shift>,
}

/// In which column of the ledger bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Used,
    Reserved,
    Orphan,
}

impl Turn {
    pub(super) fn begin(tx: &mut Tx<'_>, now: Timestamp) -> Turn {
        Turn { seq: tx.next_seq(), now, shifts: BTreeMap::new() }
    }

    pub(super) fn shift(&mut self, backend: u64, size: u64, from: Column, to: Column) {
        self.add(backend, from, -(size as i64));
        self.add(backend, to, size as i64);
    }

    /// Bytes that were found on the backend, for which there is a row now.
    pub(super) fn find(&mut self, backend: u64, size: u64, column: Column) {
        self.add(backend, column, size as i64);
        self.shifts.entry(backend).or_default().rows += 1;
    }

    /// Bytes are counted no more, and `rows` rows are gone.
    pub(super) fn forget(&mut self, backend: u64, size: u64, from: Column, rows: i64) {
        self.add(backend, from, -(size as i64));
        self.shifts.entry(backend).or_default().rows -= rows;
    }

    fn add(&mut self, backend: u64, column: Column, bytes: i64) {
        let shift = self.shifts.entry(backend).or_default();
        match column {
            Column::Used => shift.used += bytes,
            Column::Reserved => shift.reserved += bytes,
            Column::Orphan => shift.orphan += bytes,
        }
    }

    /// Writes what was moved. To be called once, last.
    pub(super) fn end(self, tx: &Tx<'_>) -> Result<(), StoreError> {
        for (no, shift) in &self.shifts {
            let done = tx.run(
                "UPDATE backends SET used = used + ?2, reserved = reserved + ?3,
                     orphan = orphan + ?4, rows = rows + ?5
                 WHERE no = ?1",
                (no, shift.used, shift.reserved, shift.orphan, shift.rows),
            )?;
            if done != 1 {
                return Err(StoreError::broken("a replica names a backend that is not there"));
            }
        }
        Ok(())
    }
}
