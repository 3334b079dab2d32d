//! Listings of objects: both forms, and the one of versions.

use std::sync::Arc;

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call::Call;
use super::objects::etag;
use super::owner;
use crate::engine::ListAfter;
use crate::engine::ListItem;
use crate::engine::ListPage;
use crate::engine::ListQuery;
use crate::engine::ListedObject;
use crate::model;
use crate::s3::convert::checksums;
use crate::s3::convert::dates;
use crate::s3::convert::meta;
use crate::s3::convert::paging;
use crate::s3::convert::paging::Shown;
use crate::s3::error;
use crate::s3::error::Refusal;
use crate::s3::finish::naming_keys;

/// The name of every version that there is.
const NULL_VERSION: &str = "null";

/// What the three listings ask in common.
struct Wish {
    bucket: Arc<model::Bucket>,
    prefix: String,
    delimiter: Option<String>,
    max: usize,
    shown: Shown,
}

impl Wish {
    fn new(
        larder: &Larder,
        bucket: &str,
        prefix: Option<String>,
        delimiter: Option<String>,
        max: Option<i32>,
        encoding: Option<&EncodingType>,
    ) -> S3Result<Wish> {
        Ok(Wish {
            shown: Shown::of(encoding)?,
            max: paging::limit("max-keys", max)?,
            bucket: larder.engine.bucket(bucket).map_err(error::engine)?,
            prefix: prefix.unwrap_or_default(),
            delimiter: paging::delimiter(delimiter),
        })
    }

    /// A page of nothing has nothing after it.
    async fn page(&self, larder: &Larder, after: ListAfter) -> S3Result<ListPage> {
        if self.max == 0 {
            return Ok(ListPage { items: Vec::new(), next: None });
        }
        let query = ListQuery {
            bucket: self.bucket.id,
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after,
            max: self.max,
        };
        larder.engine.list_objects(query).await.map_err(error::engine)
    }

    fn prefix(&self) -> Option<String> {
        Some(self.shown.text(&self.prefix))
    }

    fn delimiter(&self) -> Option<String> {
        self.delimiter.as_deref().map(|text| self.shown.text(text))
    }

    fn max(&self) -> Option<i32> {
        i32::try_from(self.max).ok()
    }
}

/// Objects and common prefixes, each in its order.
fn split(items: Vec<ListItem>, shown: Shown) -> (Vec<ListedObject>, Option<Vec<CommonPrefix>>) {
    let mut objects = Vec::new();
    let mut prefixes = Vec::new();
    for item in items {
        match item {
            ListItem::Object(object) => objects.push(object),
            ListItem::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(shown.text(&prefix)) });
            }
        }
    }
    (objects, (!prefixes.is_empty()).then_some(prefixes))
}

/// The key or common prefix after which the next page begins.
fn marker(next: &ListAfter) -> &str {
    match next {
        ListAfter::Start => "",
        ListAfter::Key(text) | ListAfter::Prefix(text) => text,
    }
}

/// Where a listing begins that is to go on after `text`.
fn after(text: Option<&str>) -> ListAfter {
    match text {
        None | Some("") => ListAfter::Start,
        Some(text) => ListAfter::Key(text.to_owned()),
    }
}

fn object(listed: ListedObject, shown: Shown, owner: Option<Owner>) -> Object {
    let class = listed.storage_class.unwrap_or_else(|| meta::STANDARD.to_owned());
    Object {
        checksum_algorithm: algorithms(&listed.checksum_algorithms),
        checksum_type: checksum_type(&listed.checksum_algorithms, listed.checksum_type),
        e_tag: Some(etag(&listed.etag)),
        key: Some(shown.text(listed.key.as_str())),
        last_modified: Some(dates::dto(listed.modified)),
        owner,
        size: i64::try_from(listed.size).ok(),
        storage_class: Some(ObjectStorageClass::from(class)),
        ..Default::default()
    }
}

fn algorithms(found: &[model::ChecksumAlgorithm]) -> Option<Vec<ChecksumAlgorithm>> {
    let named = found.iter().map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name()));
    (!found.is_empty()).then(|| named.collect())
}

fn checksum_type(
    found: &[model::ChecksumAlgorithm],
    kind: model::ChecksumType,
) -> Option<ChecksumType> {
    (!found.is_empty()).then(|| checksums::to_dto(kind))
}

/// ListObjects. NextMarker is given with a delimiter only: without one the last key serves.
pub(super) async fn first(
    larder: &Larder,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let (input, _) = Call::open(req)?;
    let encoding = input.encoding_type.as_ref();
    let wish =
        Wish::new(larder, &input.bucket, input.prefix, input.delimiter, input.max_keys, encoding)?;
    let page = wish.page(larder, after(input.marker.as_deref())).await?;
    let shown = wish.shown;
    let next = page.next.as_ref().map(|next| shown.text(marker(next)));
    let (objects, common_prefixes) = split(page.items, shown);
    let contents = objects.into_iter().map(|listed| object(listed, shown, Some(owner())));
    Ok(naming_keys(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: wish.prefix(),
        marker: Some(shown.text(&input.marker.unwrap_or_default())),
        max_keys: wish.max(),
        is_truncated: Some(next.is_some()),
        contents: Some(contents.collect()),
        common_prefixes,
        delimiter: wish.delimiter(),
        next_marker: next.filter(|_| wish.delimiter.is_some()),
        encoding_type: shown.dto(),
        ..Default::default()
    }))
}

/// ListObjectsV2.
pub(super) async fn second(
    larder: &Larder,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let (input, _) = Call::open(req)?;
    let encoding = input.encoding_type.as_ref();
    let wish =
        Wish::new(larder, &input.bucket, input.prefix, input.delimiter, input.max_keys, encoding)?;
    let id = wish.bucket.id;
    let delimiter = wish.delimiter.as_deref();
    let begin = match &input.continuation_token {
        Some(token) => paging::read_token(token, id, &wish.prefix, delimiter)?,
        None => after(input.start_after.as_deref()),
    };
    let page = wish.page(larder, begin).await?;
    let shown = wish.shown;
    let count = page.items.len();
    let next = page.next.map(|next| paging::token(id, &wish.prefix, delimiter, &next));
    let (objects, common_prefixes) = split(page.items, shown);
    let with_owner = input.fetch_owner == Some(true);
    let contents = objects.into_iter().map(|listed| object(listed, shown, with_owner.then(owner)));
    Ok(naming_keys(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: wish.prefix(),
        max_keys: wish.max(),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(next.is_some()),
        next_continuation_token: next,
        contents: Some(contents.collect()),
        common_prefixes,
        delimiter: wish.delimiter(),
        encoding_type: shown.dto(),
        start_after: input.start_after.map(|text| shown.text(&text)),
        ..Default::default()
    }))
}

/// ListObjectVersions: every object has one version.
pub(super) async fn versions(
    larder: &Larder,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let (input, _) = Call::open(req)?;
    let key_marker = input.key_marker.unwrap_or_default();
    if key_marker.is_empty() && input.version_id_marker.as_ref().is_some_and(|m| !m.is_empty()) {
        return Err(Refusal::InvalidArgument(
            "A version-id marker cannot be specified without a key marker.".into(),
        )
        .into());
    }
    let encoding = input.encoding_type.as_ref();
    let wish =
        Wish::new(larder, &input.bucket, input.prefix, input.delimiter, input.max_keys, encoding)?;
    let page = wish.page(larder, after(Some(&key_marker))).await?;
    let shown = wish.shown;
    let next_key_marker = page.next.as_ref().map(|next| shown.text(marker(next)));
    let next_version = matches!(page.next, Some(ListAfter::Key(_)));
    let (objects, common_prefixes) = split(page.items, shown);
    let versions = objects.into_iter().map(|listed| version(listed, shown));
    Ok(naming_keys(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: wish.prefix(),
        delimiter: wish.delimiter(),
        max_keys: wish.max(),
        key_marker: Some(shown.text(&key_marker)),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        is_truncated: Some(next_key_marker.is_some()),
        next_key_marker,
        next_version_id_marker: next_version.then(|| NULL_VERSION.to_owned()),
        versions: Some(versions.collect()),
        common_prefixes,
        encoding_type: shown.dto(),
        ..Default::default()
    }))
}

fn version(listed: ListedObject, shown: Shown) -> ObjectVersion {
    let class = listed.storage_class.unwrap_or_else(|| meta::STANDARD.to_owned());
    ObjectVersion {
        checksum_algorithm: algorithms(&listed.checksum_algorithms),
        checksum_type: checksum_type(&listed.checksum_algorithms, listed.checksum_type),
        e_tag: Some(etag(&listed.etag)),
        is_latest: Some(true),
        key: Some(shown.text(listed.key.as_str())),
        last_modified: Some(dates::dto(listed.modified)),
        owner: Some(owner()),
        size: i64::try_from(listed.size).ok(),
        storage_class: Some(ObjectVersionStorageClass::from(class)),
        version_id: Some(NULL_VERSION.to_owned()),
        ..Default::default()
    }
}
