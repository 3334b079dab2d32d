//! One generation of the configuration, taken over in one transaction.

use std::collections::HashSet;

use super::Store;
use super::bucket::DeclaredBucket;
use super::bucket::bucket_id_in_tx;
use super::bucket::bucket_wishes_in_tx;
use super::error::StoreError;
use super::key::key_put_in_tx;
use super::key::seal;
use super::lifecycle::lifecycles_declare_in_tx;
use super::placement::default_in_tx;
use super::placement::placement_in_tx;
use super::queue::Lane;
use super::sql::Sql;
use super::standing::duty_of;
use super::usage::usage_inherit_in_tx;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::model::AccessKey;
use crate::model::BackendId;
use crate::model::BucketId;
use crate::model::Duty;
use crate::model::Placement;

#[derive(Clone, Debug)]
pub struct DeclaredBackend {
    pub id: BackendId,
    pub name: String,
    pub location: String,
    pub quota: Option<u64>,
    /// What it used stays with its account when it goes.
    pub account: Option<String>,
}

/// One generation of the configuration, as far as the store keeps it.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// The whole fleet. A backend with rows that is not named here refuses the declaration.
    pub backends: Vec<DeclaredBackend>,
    /// A bucket that is no longer declared stays, with its last wishes but for its lifecycle
    /// rules, undeclared.
    pub buckets: Vec<DeclaredBucket>,
    /// A declared key that is no longer declared goes.
    pub keys: Vec<AccessKey>,
    /// What buckets get that are made by an S3 call; existing undeclared ones that were made with
    /// the old defaults follow.
    pub default_placement: Placement,
}

impl Store {
    /// All of it or nothing; also on a full disk, where without it no server could start and
    /// delete. `BackendInUse` names a backend that may not be left out.
    pub async fn declare(&self, declaration: Declaration) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        let host_key = self.shared().dir.host_key;
        let sealed = declaration
            .keys
            .iter()
            .map(|key| seal(&host_key, key))
            .collect::<Result<Vec<_>, _>>()?;
        self.free(Lane::Request, Need::Durable, move |tx| {
            backends_declare_in_tx(**tx, &declaration.backends)?;
            default_declare_in_tx(**tx, &declaration.default_placement)?;
            buckets_declare_in_tx(tx, &declaration.buckets, now)?;
            keys_declare_in_tx(**tx, &declaration.keys, &sealed)?;
            tx.marks.buckets = true;
            tx.marks.keys = true;
            Ok(())
        })
        .await
    }
}

fn backends_declare_in_tx(sql: Sql<'_>, declared: &[DeclaredBackend]) -> Result<(), StoreError> {
    let ids: HashSet<u64> = declared.iter().map(|backend| backend.id.0).collect();
    let known: Vec<(u64, u64, String, u64, Option<String>, u8)> =
        sql.all("SELECT no, id, name, rows, account, state FROM backends", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?;
    for backend in declared {
        sql.run(
            "INSERT INTO backends (id, name, location, quota, account) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, location = excluded.location,
                 quota = excluded.quota, account = excluded.account",
            (backend.id.0, &backend.name, &backend.location, backend.quota, &backend.account),
        )?;
    }
    for (no, _, name, rows, account, state) in
        known.into_iter().filter(|(_, id, ..)| !ids.contains(id))
    {
        let is_out = duty_of(state) == Duty::Removed && !has_more_than_missing_in_tx(sql, no)?;
        if rows > 0 && !is_out {
            return Err(StoreError::BackendInUse(name));
        }
        if rows > 0 {
            // What it alone had is missing until its owner deletes it.
            continue;
        }
        sql.run(
            "DELETE FROM jobs WHERE name IN ('drain:' || ?1, 'standing:' || ?1,
             'remove:' || ?1, 'reconcile:' || ?1, 'scrub:' || ?1)",
            [no],
        )?;
        let heir = declared.iter().find(|backend| account.is_some() && backend.account == account);
        if let Some(heir) = heir {
            usage_inherit_in_tx(sql, no, heir.id)?;
        }
        sql.run("DELETE FROM backends WHERE no = ?1", [no])?;
    }
    Ok(())
}

/// Whether a backend has other rows than those that say what is missing.
fn has_more_than_missing_in_tx(sql: Sql<'_>, no: u64) -> Result<bool, StoreError> {
    let found = sql.one(
        "SELECT 1 FROM replicas WHERE backend = ?1 AND state <> 2
         UNION ALL SELECT 1 FROM condemned WHERE backend = ?1 LIMIT 1",
        [no],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

fn default_declare_in_tx(sql: Sql<'_>, placement: &Placement) -> Result<(), StoreError> {
    let old = default_in_tx(sql)?;
    let new = placement_in_tx(sql, placement)?;
    if old != new {
        sql.meta_set("default_placement", new.0)?;
        sql.run("UPDATE buckets SET placement = ?1 WHERE declared = 0 AND follows = 1", [new.0])?;
    }
    Ok(())
}

fn buckets_declare_in_tx(
    tx: &mut Tx<'_>,
    declared: &[DeclaredBucket],
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.run("UPDATE buckets SET declared = 0 WHERE declared = 1", [])?;
    let mut rules = Vec::new();
    for bucket in declared {
        let id = match bucket_id_in_tx(**tx, &bucket.name)? {
            Some((id, _)) => id,
            None => {
                let id = BucketId(tx.next_seq());
                let placement = default_in_tx(**tx)?;
                tx.run(
                    "INSERT INTO buckets (id, name, created, placement, max_uploads, quota,
                         declared, follows)
                     VALUES (?1, ?2, ?3, ?4, 0, NULL, 1, 0)",
                    (id.0, bucket.name.as_str(), now.0, placement.0),
                )?;
                id
            }
        };
        bucket_wishes_in_tx(**tx, id, bucket, true)?;
        rules.push((id, &bucket.lifecycle));
    }
    lifecycles_declare_in_tx(tx, &rules)
}

fn keys_declare_in_tx(
    sql: Sql<'_>,
    declared: &[AccessKey],
    sealed: &[Vec<u8>],
) -> Result<(), StoreError> {
    let before: Vec<String> =
        sql.all("SELECT id FROM keys WHERE declared = 1", [], |row| row.get(0))?;
    for gone in before.iter().filter(|id| declared.iter().all(|key| key.id != **id)) {
        sql.run("DELETE FROM keys WHERE id = ?1", [gone])?;
    }
    for (key, sealed) in declared.iter().zip(sealed) {
        let key = AccessKey { declared: true, ..key.clone() };
        key_put_in_tx(sql, &key, sealed)?;
    }
    Ok(())
}
