//! CopyObject and UploadPartCopy.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call;
use super::call::Call;
use super::multipart::upload_id;
use super::objects::etag;
use super::objects::part_number;
use super::objects::texts_of;
use super::objects::type_of;
use crate::engine;
use crate::engine::EngineError;
use crate::engine::GetOptions;
use crate::model::Action;
use crate::model::ChecksumAlgorithm;
use crate::model::EtagMatch;
use crate::model::Headers;
use crate::model::ReadConditions;
use crate::model::Tags;
use crate::model::UserMetadata;
use crate::model::condition::ReadVerdict;
use crate::s3::convert::checksums;
use crate::s3::convert::checksums::Texts;
use crate::s3::convert::checksums::set_checksums;
use crate::s3::convert::conditions;
use crate::s3::convert::dates;
use crate::s3::convert::meta;
use crate::s3::convert::ranges;
use crate::s3::convert::source;
use crate::s3::convert::source::CopySource as Source;
use crate::s3::convert::tags;
use crate::s3::error;
use crate::s3::error::Refusal;

/// What a copy takes over from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

pub(super) async fn copy(
    larder: &Larder,
    req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let (input, call) = Call::open(req)?;
    let source = readable_source(&call)?;
    let key = call::key(input.key)?;
    let headers = directive(&call, "x-amz-metadata-directive")?;
    let own = meta::headers(&call.headers)?;
    let itself = source.bucket == input.bucket && source.key == key;
    if itself && headers == Directive::Copy && !changes(&own) {
        return Err(Refusal::InvalidRequest(
            "This copy request is illegal because it is trying to copy an object to itself without \
             changing the object's metadata, storage class, website redirect location or \
             encryption attributes."
                .into(),
        )
        .into());
    }
    let mut source_conditions = conditions::copy_source(&call.headers);
    let headers = match headers {
        Directive::Replace => Some((own, meta::user(&call.headers)?)),
        Directive::Copy if changes(&own) => {
            Some(amended(larder, &call, &source, &mut source_conditions, own).await?)
        }
        Directive::Copy => None,
    };
    let (source_bucket, source_key) = (source.bucket.clone(), source.key.clone());
    let copy = engine::CopyObject {
        source_bucket: source.bucket,
        source_key: source.key,
        source_conditions,
        bucket: input.bucket,
        key,
        conditions: conditions::write(&call.headers),
        create_only: call.granted.create_only,
        headers,
        tags: new_tags(&call)?,
        algorithm: algorithm(&call)?,
    };
    let stored = larder.engine.copy_object(copy).await;
    let stored = stored.map_err(|err| call.unreadable(&source_bucket, &source_key, err))?;
    let mut result = CopyObjectResult {
        checksum_type: type_of(&stored),
        e_tag: Some(etag(&stored.etag)),
        last_modified: Some(dates::dto(stored.modified)),
        ..Default::default()
    };
    set_checksums!(result, texts_of(&stored));
    let copy_object_result = Some(result);
    Ok(S3Response::new(CopyObjectOutput { copy_object_result, ..Default::default() }))
}

/// The source of a copy, if the key may read it.
fn readable_source(call: &Call) -> Result<Source, Refusal> {
    let header = call.header("x-amz-copy-source")?.unwrap_or_default();
    let source = source::parse(header)?;
    match call.may(&source.bucket, &source.key, Action::Read) {
        true => Ok(source),
        false => Err(Refusal::AccessDenied),
    }
}

fn directive(call: &Call, name: &str) -> Result<Directive, Refusal> {
    match call.header(name)? {
        None | Some("COPY") => Ok(Directive::Copy),
        Some("REPLACE") => Ok(Directive::Replace),
        Some(_) => {
            let what = name.trim_start_matches("x-amz-").replace('-', " ");
            Err(Refusal::InvalidArgument(format!("Unknown {what}.").into()))
        }
    }
}

/// Whether a copy with the directive COPY still asks for something else than the source has.
fn changes(own: &Headers) -> bool {
    own.storage_class.is_some() || own.website_redirect.is_some()
}

/// The headers of the source with the class and the redirect that the request asks for. The copy
/// is then bound to the version that they were taken from.
async fn amended(
    larder: &Larder,
    call: &Call,
    source: &Source,
    conditions: &mut ReadConditions,
    own: Headers,
) -> S3Result<(Headers, UserMetadata)> {
    let found = larder
        .engine
        .head_object(&source.bucket, source.key.clone(), GetOptions::default())
        .await
        .map_err(|err| call.unreadable(&source.bucket, &source.key, err))?;
    let meta = found.head.meta;
    if conditions.verdict(&meta.etag, meta.modified) != ReadVerdict::Proceed {
        return Err(error::engine(EngineError::SourceConditionFailed));
    }
    let if_match = Some(EtagMatch::OneOf(vec![meta.etag.to_string()]));
    *conditions = ReadConditions { if_match, ..ReadConditions::default() };
    let storage_class = own.storage_class.or(meta.headers.storage_class);
    let website_redirect = own.website_redirect.or(meta.headers.website_redirect);
    Ok((Headers { storage_class, website_redirect, ..meta.headers }, meta.user))
}

/// `None` to keep those of the source.
fn new_tags(call: &Call) -> Result<Option<Tags>, Refusal> {
    match directive(call, "x-amz-tagging-directive")? {
        Directive::Copy => Ok(None),
        Directive::Replace => {
            tags::from_header(call.header("x-amz-tagging")?.unwrap_or_default()).map(Some)
        }
    }
}

fn algorithm(call: &Call) -> Result<Option<ChecksumAlgorithm>, Refusal> {
    call.header("x-amz-checksum-algorithm")?.map(checksums::algorithm).transpose()
}

pub(super) async fn copy_part(
    larder: &Larder,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let (input, call) = Call::open(req)?;
    let source = readable_source(&call)?;
    let (source_bucket, source_key) = (source.bucket.clone(), source.key.clone());
    let copy = engine::UploadPartCopy {
        source_bucket: source.bucket,
        source_key: source.key,
        source_conditions: conditions::copy_source(&call.headers),
        range: range(&call)?,
        bucket: input.bucket,
        key: call::key(input.key)?,
        upload: upload_id(&input.upload_id)?,
        number: part_number(input.part_number)?,
    };
    let part = larder.engine.upload_part_copy(copy).await;
    let part = part.map_err(|err| call.unreadable(&source_bucket, &source_key, err))?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&crate::model::Etag::of_body(part.md5))),
        last_modified: Some(dates::dto(part.modified)),
        ..Default::default()
    };
    set_checksums!(result, Texts::of_part(&part.checksums));
    let copy_part_result = Some(result);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..Default::default() }))
}

fn range(call: &Call) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(text) = call.header("x-amz-copy-source-range")? else { return Ok(None) };
    let wrong = || {
        Refusal::InvalidArgument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy"
                .into(),
        )
    };
    ranges::copy_source(text).map(Some).ok_or_else(wrong)
}
