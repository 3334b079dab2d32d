//! Access keys and their grants. Secrets are sealed under the host key.
//!
//! A sealed secret is a random nonce and AES-256-GCM's output; the key's id is authenticated with
//! it, so a secret cannot be moved to another key by editing the table.

use std::collections::HashMap;
use std::sync::Arc;

use ring::aead::AES_256_GCM;
use ring::aead::Aad;
use ring::aead::LessSafeKey;
use ring::aead::NONCE_LEN;
use ring::aead::Nonce;
use ring::aead::UnboundKey;
use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

use super::Store;
use super::data_dir::HOST_KEY_LEN;
use super::error::StoreError;
use super::queue::Lane;
use super::sql::Sql;
use super::writer::Need;
use crate::model::AccessKey;
use crate::model::Grant;
use crate::model::Grants;
use crate::model::access::Actions;
use crate::model::bucket::BucketName;

impl Store {
    pub fn keys(&self) -> Arc<HashMap<String, AccessKey>> {
        self.shared().keys.load_full()
    }

    pub async fn key_delete(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.free(Lane::Request, Need::Durable, move |tx| {
            match key_declared_in_tx(**tx, &id)? {
                None => return Err(StoreError::NoSuchAccessKey),
                Some(true) => return Err(StoreError::Declared),
                Some(false) => (),
            }
            tx.run("DELETE FROM keys WHERE id = ?1", [&id])?;
            tx.marks.keys = true;
            Ok(())
        })
        .await
    }
}

pub(super) fn key_declared_in_tx(sql: Sql<'_>, id: &str) -> Result<Option<bool>, StoreError> {
    sql.one("SELECT declared FROM keys WHERE id = ?1", [id], |row| row.get(0))
}

pub(super) fn key_put_in_tx(
    sql: Sql<'_>,
    key: &AccessKey,
    sealed: &[u8],
) -> Result<(), StoreError> {
    sql.run(
        "INSERT INTO keys (id, secret, create_buckets, declared) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET secret = excluded.secret,
             create_buckets = excluded.create_buckets, declared = excluded.declared",
        (&key.id, sealed, key.grants.create_buckets, key.declared),
    )?;
    let mut made = grants_made_in_tx(sql, &key.id)?;
    sql.run("DELETE FROM grants WHERE key = ?1", [&key.id])?;
    for (ordinal, grant) in key.grants.list.iter().enumerate() {
        let at = made.iter().position(|(own, _)| own == grant && !key.declared);
        let made_by = at.map(|at| made.swap_remove(at).1);
        grant_insert_in_tx(sql, &key.id, ordinal, grant, made_by)?;
    }
    // The configuration does not know what a key was given for the buckets that it made.
    if key.declared {
        for (i, (grant, bucket)) in made.iter().enumerate() {
            let ordinal = key.grants.list.len() + i;
            grant_insert_in_tx(sql, &key.id, ordinal, grant, Some(*bucket))?;
        }
    }
    Ok(())
}

/// What a key was given for having made buckets, each with the bucket's id.
fn grants_made_in_tx(sql: Sql<'_>, key: &str) -> Result<Vec<(Grant, u64)>, StoreError> {
    let rows: Vec<(u64, u64)> = sql.all(
        "SELECT ordinal, made FROM grants WHERE key = ?1 AND made IS NOT NULL ORDER BY ordinal",
        [key],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ordinals: Vec<u64> =
        sql.all("SELECT ordinal FROM grants WHERE key = ?1 ORDER BY ordinal", [key], |row| {
            row.get(0)
        })?;
    let all = ordinals.into_iter().zip(grants_in_tx(sql, key)?);
    let made = |(ordinal, grant)| {
        let (_, bucket) = rows.iter().find(|(at, _)| *at == ordinal)?;
        Some((grant, *bucket))
    };
    Ok(all.filter_map(made).collect())
}

pub(super) fn grant_insert_in_tx(
    sql: Sql<'_>,
    key: &str,
    ordinal: usize,
    grant: &Grant,
    made: Option<u64>,
) -> Result<(), StoreError> {
    sql.run(
        "INSERT INTO grants (key, ordinal, bucket, prefix, actions, made)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            key,
            ordinal,
            grant.bucket.as_ref().map(BucketName::as_str),
            &grant.prefix,
            grant.actions.bits(),
            made,
        ),
    )?;
    Ok(())
}

pub(super) fn keys_in_tx(
    sql: Sql<'_>,
    host_key: &[u8; HOST_KEY_LEN],
) -> Result<Vec<AccessKey>, StoreError> {
    let rows: Vec<(String, Vec<u8>, bool, bool)> =
        sql.all("SELECT id, secret, create_buckets, declared FROM keys", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    rows.into_iter()
        .map(|(id, sealed, create_buckets, declared)| {
            let secret = open(host_key, &id, sealed)?;
            let list = grants_in_tx(sql, &id)?;
            Ok(AccessKey { id, secret, grants: Grants { create_buckets, list }, declared })
        })
        .collect()
}

fn grants_in_tx(sql: Sql<'_>, key: &str) -> Result<Vec<Grant>, StoreError> {
    let rows: Vec<(Option<String>, String, u8)> = sql.all(
        "SELECT bucket, prefix, actions FROM grants WHERE key = ?1 ORDER BY ordinal",
        [key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let broken = || StoreError::broken("a grant is malformed");
    rows.into_iter()
        .map(|(bucket, prefix, bits)| {
            let bucket =
                bucket.map(|name| BucketName::new(&name).map_err(|_| broken())).transpose()?;
            let actions = Actions::from_bits(bits).ok_or_else(broken)?;
            Ok(Grant { bucket, prefix, actions })
        })
        .collect()
}

fn cipher(host_key: &[u8; HOST_KEY_LEN]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, host_key).expect("the key has the cipher's length");
    LessSafeKey::new(key)
}

pub(super) fn seal(host_key: &[u8; HOST_KEY_LEN], key: &AccessKey) -> Result<Vec<u8>, StoreError> {
    let failed = |_| StoreError::broken("a secret could not be sealed");
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(failed)?;
    let mut bytes = key.secret.clone().into_bytes();
    let aad = Aad::from(key.id.as_bytes());
    cipher(host_key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
        .map_err(failed)?;
    Ok([nonce.as_slice(), &bytes].concat())
}

fn open(host_key: &[u8; HOST_KEY_LEN], id: &str, sealed: Vec<u8>) -> Result<String, StoreError> {
    let failed =
        || StoreError::Open(format!("host.key does not open the secret of the access key {id}"));
    let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(failed)?;
    let mut bytes = bytes.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let secret = cipher(host_key)
        .open_in_place(nonce, Aad::from(id.as_bytes()), &mut bytes)
        .map_err(|_| failed())?;
    String::from_utf8(secret.to_vec()).map_err(|_| failed())
}
