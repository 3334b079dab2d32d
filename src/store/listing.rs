//! Listing objects, in the order of the keys' bytes.
//!
//! # Why seeking
//!
//! A page rolls keys up under common prefixes. Reading every key below a prefix would cost as
//! much as the prefix is long; instead the scan jumps to the first key behind it. All bounds are
//! half-open ranges of bytes: behind a prefix is the prefix with its last byte incremented.

use super::Store;
use super::codec;
use super::error::StoreError;
use super::sql::Sql;
use crate::base::Timestamp;
use crate::base::limits::PAGE_MAX;
use crate::model::BucketId;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::model::ObjectKey;
use crate::model::VersionSeq;

#[derive(Clone, Debug)]
pub struct ListQuery {
    pub bucket: BucketId,
    pub prefix: String,
    /// Not empty.
    pub delimiter: Option<String>,
    pub after: ListAfter,
    /// 0 to `limits::PAGE_MAX`.
    pub max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListAfter {
    Start,
    /// Keys greater than this. A common prefix equal to it is not given again.
    Key(String),
    /// Keys greater than every key with this prefix.
    Prefix(String),
}

#[derive(Clone, Debug)]
pub struct ListPage {
    pub items: Vec<ListItem>,
    /// Set when there is more: the `after` of the next page.
    pub next: Option<ListAfter>,
}

#[derive(Clone, Debug)]
pub enum ListItem {
    Object(ListedObject),
    Prefix(String),
}

#[derive(Clone, Debug)]
pub struct ListedObject {
    pub key: ObjectKey,
    pub seq: VersionSeq,
    pub size: u64,
    pub etag: Etag,
    pub modified: Timestamp,
    pub storage_class: Option<String>,
    pub checksum_algorithms: Vec<ChecksumAlgorithm>,
    pub checksum_type: ChecksumType,
}

impl Store {
    /// An unknown bucket has no objects.
    pub async fn objects_list(&self, query: ListQuery) -> Result<ListPage, StoreError> {
        self.read(move |sql| objects_in_tx(sql, &query)).await
    }
}

pub(super) const OBJECTS: &str = "SELECT key, seq, size, md5, parts, modified, info FROM versions
     WHERE current = 1 AND bucket = ?1 AND key >= ?2 AND key < ?3 AND marker = 0 ORDER BY key";

fn objects_in_tx(sql: Sql<'_>, query: &ListQuery) -> Result<ListPage, StoreError> {
    let mut page = ListPage { items: Vec::new(), next: None };
    let max = query.max.min(PAGE_MAX);
    if max == 0 {
        return Ok(page);
    }
    let rolled = Rolled { prefix: &query.prefix, delimiter: query.delimiter.as_deref() };
    let mut from = match &query.after {
        ListAfter::Start => Vec::new(),
        ListAfter::Key(key) => rolled.behind(key),
        ListAfter::Prefix(prefix) => successor(prefix.as_bytes()),
    };
    from = from.max(query.prefix.clone().into_bytes());
    let to = successor(query.prefix.as_bytes());
    let mut statement = sql.0.prepare_cached(OBJECTS)?;
    'seek: while from < to {
        let mut rows = statement.query((query.bucket.0, &from, &to))?;
        while let Some(row) = rows.next()? {
            let key = text(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
            if page.items.len() == max {
                page.next = page.items.last().map(after_item);
                return Ok(page);
            }
            if let Some(common) = rolled.common(key) {
                from = successor(common.as_bytes());
                page.items.push(ListItem::Prefix(common.to_owned()));
                continue 'seek;
            }
            let object = object_read(row, key)?;
            page.items.push(ListItem::Object(object));
        }
        break;
    }
    Ok(page)
}

fn after_item(item: &ListItem) -> ListAfter {
    match item {
        ListItem::Object(object) => ListAfter::Key(object.key.as_str().to_owned()),
        ListItem::Prefix(prefix) => ListAfter::Prefix(prefix.clone()),
    }
}

fn object_read(row: &rusqlite::Row<'_>, key: &str) -> Result<ListedObject, StoreError> {
    let listed = codec::info_listed(row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?)?;
    Ok(ListedObject {
        key: ObjectKey::new(key).map_err(|_| StoreError::broken("a stored key is too long"))?,
        seq: VersionSeq(row.get(1)?),
        size: row.get(2)?,
        etag: Etag { md5: row.get(3)?, parts: row.get(4)? },
        modified: Timestamp(row.get(5)?),
        storage_class: listed.storage_class,
        checksum_algorithms: listed.algorithms,
        checksum_type: listed.checksum_type,
    })
}

/// How keys roll up.
pub(super) struct Rolled<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
}

impl Rolled<'_> {
    /// The common prefix under which `key` is shown, if it is not shown itself.
    pub(super) fn common<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let rest = key.strip_prefix(self.prefix)?;
        let at = rest.find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }

    /// The first key that may come after the marker `key`.
    pub(super) fn behind(&self, key: &str) -> Vec<u8> {
        if self.common(key) == Some(key) {
            return successor(key.as_bytes());
        }
        let mut next = key.as_bytes().to_vec();
        next.push(0);
        next
    }
}

/// The first string of bytes behind all that begin with `prefix`. Keys are UTF-8 and so below
/// 0xff, which is behind them all.
pub(super) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < 0xff {
            next.push(last + 1);
            return next;
        }
    }
    vec![0xff]
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::broken("a stored key is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_behind_the_prefix_and_nothing_else() {
        assert_eq!(successor(b"a/"), b"a0");
        assert_eq!(successor(&[1, 0xff, 0xff]), [2]);
        assert_eq!(successor(b""), [0xff]);
        assert_eq!(successor(&[0xff]), [0xff]);
    }
}
