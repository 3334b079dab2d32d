//! Listing active uploads: by key, and by id within a key.

use super::Store;
use super::error::StoreError;
use super::listing::Rolled;
use super::listing::successor;
use super::listing::text;
use super::sql::Sql;
use super::upload::Upload;
use super::upload::UploadRow;
use crate::base::limits::PAGE_MAX;
use crate::model::BucketId;
use crate::model::ObjectKey;
use crate::model::UploadId;

#[derive(Clone, Debug)]
pub struct UploadQuery {
    pub bucket: BucketId,
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Key, and the upload id within that key, after which to begin. A key alone skips the key.
    pub key_marker: Option<String>,
    pub upload_marker: Option<UploadId>,
    pub max: usize,
}

#[derive(Clone, Debug)]
pub struct UploadPage {
    pub uploads: Vec<Upload>,
    pub prefixes: Vec<String>,
    /// Key and upload marker of the next page, when there is one.
    pub next: Option<(String, Option<UploadId>)>,
}

impl Store {
    pub async fn uploads_list(&self, query: UploadQuery) -> Result<UploadPage, StoreError> {
        self.read(move |sql| uploads_in_tx(sql, &query)).await
    }
}

pub(super) const UPLOADS: &str =
    "SELECT id, bucket, key, created, placement, initiator, info, result FROM uploads
     WHERE result IS NULL AND bucket = ?1 AND (key, id) > (?2, ?3) AND key < ?4
     ORDER BY key, id";

/// Below every id: a seek to the first upload of a key.
const BEFORE_ALL: i64 = -1;

fn uploads_in_tx(sql: Sql<'_>, query: &UploadQuery) -> Result<UploadPage, StoreError> {
    let mut page = UploadPage { uploads: Vec::new(), prefixes: Vec::new(), next: None };
    let max = query.max.min(PAGE_MAX);
    if max == 0 {
        return Ok(page);
    }
    let rolled = Rolled { prefix: &query.prefix, delimiter: query.delimiter.as_deref() };
    let mut from = match (&query.key_marker, query.upload_marker) {
        (None, _) => (Vec::new(), BEFORE_ALL),
        (Some(key), None) => (rolled.behind(key), BEFORE_ALL),
        (Some(key), Some(id)) => (key.as_bytes().to_vec(), i64::try_from(id.0).unwrap_or(i64::MAX)),
    };
    from = from.max((query.prefix.clone().into_bytes(), BEFORE_ALL));
    let to = successor(query.prefix.as_bytes());
    let mut last = None;
    let mut statement = sql.0.prepare_cached(UPLOADS)?;
    'seek: while from.0 < to {
        let mut rows = statement.query((query.bucket.0, &from.0, from.1, &to))?;
        while let Some(row) = rows.next()? {
            let key = text(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
            if page.uploads.len() + page.prefixes.len() == max {
                page.next = last;
                return Ok(page);
            }
            if let Some(common) = rolled.common(key) {
                from = (successor(common.as_bytes()), BEFORE_ALL);
                last = Some((common.to_owned(), None));
                page.prefixes.push(common.to_owned());
                continue 'seek;
            }
            let name = ObjectKey::new(key);
            let name = name.map_err(|_| StoreError::broken("a stored key is too long"))?;
            let upload = UploadRow::read(row, name)?.whole()?;
            last = Some((key.to_owned(), Some(upload.id)));
            page.uploads.push(upload);
        }
        break;
    }
    Ok(page)
}
