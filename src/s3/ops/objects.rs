//! Objects: put (also by POST form), get, head, attributes.

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call;
use super::call::Call;
use super::multipart;
use crate::base::limits::PAGE_MAX;
use crate::base::limits::PART_NUMBER_MAX;
use crate::engine;
use crate::engine::GetOptions;
use crate::engine::Got;
use crate::engine::Head;
use crate::engine::PartInfo;
use crate::engine::Stored;
use crate::model;
use crate::model::Action;
use crate::s3::convert::checksums;
use crate::s3::convert::checksums::Texts;
use crate::s3::convert::checksums::set_checksums;
use crate::s3::convert::checksums::take_checksums;
use crate::s3::convert::conditions;
use crate::s3::convert::dates;
use crate::s3::convert::meta;
use crate::s3::convert::paging;
use crate::s3::convert::ranges;
use crate::s3::error;
use crate::s3::error::Refusal;

pub(super) async fn put(
    larder: &Larder,
    req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let (mut input, mut call) = Call::open(req)?;
    let meta = meta::of_request(&call.headers)?;
    let conditions = conditions::write(&call.headers);
    let texts = take_checksums!(input);
    let body = input.body.take();
    let md5 = input.content_md5.as_deref();
    let body = call.body(body, input.content_length, texts, md5)?;
    let (bucket, key) = (input.bucket, call::key(input.key)?);
    let create_only = call.granted.create_only;
    let (at, named) = (bucket.clone(), key.clone());
    let put = engine::PutObject { bucket, key, meta, conditions, create_only, body };
    let stored = larder.engine.put_object(put).await;
    let stored = stored.map_err(|err| call.unreadable(&at, &named, err))?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&stored.etag)),
        checksum_type: type_of(&stored),
        ..Default::default()
    };
    set_checksums!(output, texts_of(&stored));
    Ok(S3Response::new(output))
}

/// A browser's form. Its fields, not the headers of the request, describe the object and name the
/// key, so what the access key may do with that key is decided here.
pub(super) async fn post(
    larder: &Larder,
    req: S3Request<PostObjectInput>,
) -> S3Result<S3Response<PostObjectOutput>> {
    let (mut input, mut call) = Call::open(req)?;
    let key = call::key(input.key.clone())?;
    if !call.may(&input.bucket, &key, Action::Create) {
        return Err(Refusal::AccessDenied.into());
    }
    call.granted.create_only |= !call.may(&input.bucket, &key, Action::Write);
    let meta = meta::of_form(&mut input)?;
    let conditions =
        conditions::write_of_form(input.if_match.as_ref(), input.if_none_match.as_ref());
    let texts = take_checksums!(input);
    let body = call::form_body(input.body.take(), texts, input.content_md5.as_deref())?;
    let host = call.header(header::HOST.as_str())?;
    let location = multipart::location(host, &input.bucket, key.as_str());
    let create_only = call.granted.create_only;
    let (bucket, named) = (input.bucket.clone(), key.clone());
    let put = engine::PutObject { bucket, key, meta, conditions, create_only, body };
    let stored = larder.engine.put_object(put).await;
    let stored = stored.map_err(|err| call.unreadable(&input.bucket, &named, err))?;
    let mut output = PostObjectOutput {
        e_tag: Some(etag(&stored.etag)),
        checksum_type: type_of(&stored),
        ..Default::default()
    };
    set_checksums!(output, texts_of(&stored));
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::ETAG, Some(&format!("\"{}\"", stored.etag)));
    // A redirect has a location of its own.
    if input.success_action_redirect.is_none() {
        insert(&mut headers, header::LOCATION, Some(&location));
    }
    Ok(S3Response::with_headers(output, headers))
}

pub(super) fn etag(etag: &model::Etag) -> ETag {
    ETag::Strong(etag.to_string())
}

/// The checksums of what was stored.
pub(super) fn texts_of(stored: &Stored) -> Texts {
    Texts::of(&stored.checksums, stored.checksum_type, stored.etag.parts)
}

pub(super) fn type_of(stored: &Stored) -> Option<ChecksumType> {
    (!stored.checksums.is_empty()).then(|| checksums::to_dto(stored.checksum_type))
}

/// A part number of S3, which counts from 1.
pub(super) fn part_number(number: i32) -> Result<u32, Refusal> {
    u32::try_from(number).ok().filter(|number| (1..=PART_NUMBER_MAX).contains(number)).ok_or_else(
        || {
            let why = format!(
                "Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive"
            );
            Refusal::InvalidArgument(why.into())
        },
    )
}

fn options(call: &Call, part: Option<i32>) -> Result<GetOptions, Refusal> {
    let part = part.map(part_number).transpose()?;
    let range = call.header(header::RANGE.as_str())?;
    if part.is_some() && range.is_some() {
        return Err(Refusal::InvalidRequest(
            "Cannot specify both Range header and partNumber query parameter".into(),
        ));
    }
    Ok(GetOptions {
        conditions: conditions::read(&call.headers),
        range: range.and_then(ranges::parse),
        if_range: conditions::if_range(&call.headers),
        part,
        version: None,
    })
}

/// The fields that the outputs of GET and HEAD have in common.
macro_rules! described {
    ($output:ident, $got:expr, $call:expr, $part:expr) => {{
        let got: &Got = $got;
        let (first, length) = got.range.unwrap_or((0, got.head.meta.size));
        let headers = &got.head.meta.headers;
        let mut output = $output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: headers.cache_control.clone(),
            content_disposition: headers.content_disposition.clone(),
            content_encoding: headers.content_encoding.clone(),
            content_language: headers.content_language.clone(),
            content_length: i64::try_from(length).ok(),
            content_range: got
                .range
                .and_then(|_| ranges::content_range(first, length, got.head.meta.size)),
            content_type: Some(content_type(headers)),
            e_tag: Some(etag(&got.head.meta.etag)),
            last_modified: Some(dates::dto(got.head.meta.modified)),
            metadata: meta::to_dto(&got.head.meta.user),
            parts_count: $part.and(parts_count(&got.head)),
            storage_class: storage_class(headers),
            website_redirect_location: headers.website_redirect.clone(),
            ..Default::default()
        };
        if wants_checksums($call) {
            let (texts, kind) = shown_checksums(got);
            set_checksums!(output, texts);
            output.checksum_type = kind;
        }
        output
    }};
}

pub(super) async fn get(
    larder: &Larder,
    req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let (input, call) = Call::open(req)?;
    let key = call::key(input.key)?;
    let options = options(&call, input.part_number)?;
    let got = larder.engine.get_object(&input.bucket, key.clone(), options).await;
    let got = got.map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    let mut output = described!(GetObjectOutput, &got, &call, input.part_number);
    output.tag_count = i32::try_from(got.head.tag_count).ok().filter(|count| *count > 0);
    let mut headers = HeaderMap::new();
    if input.response_expires.is_none() {
        insert(&mut headers, header::EXPIRES, got.head.meta.headers.expires.as_deref());
    }
    output.body = Some(streamed(got));
    Ok(S3Response::with_headers(output, headers))
}

/// The status of a HEAD of a range is for the layer in front to set: `s3s` has no field for it.
pub(super) async fn head(
    larder: &Larder,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let (input, call) = Call::open(req)?;
    let key = call::key(input.key)?;
    let options = options(&call, input.part_number)?;
    let got = larder.engine.head_object(&input.bucket, key.clone(), options).await;
    let got = got.map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    let mut output = described!(HeadObjectOutput, &got, &call, input.part_number);
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::EXPIRES, got.head.meta.headers.expires.as_deref());
    if got.head.tag_count > 0 {
        headers.insert("x-amz-tagging-count", HeaderValue::from(got.head.tag_count));
    }
    if let Some(at) = input.response_expires {
        let at: time::OffsetDateTime = at.into();
        output.expires = Some(Timestamp::from(at));
        headers.remove(header::EXPIRES);
    }
    let overridden = [
        (&mut output.content_type, input.response_content_type),
        (&mut output.cache_control, input.response_cache_control),
        (&mut output.content_disposition, input.response_content_disposition),
        (&mut output.content_encoding, input.response_content_encoding),
        (&mut output.content_language, input.response_content_language),
    ];
    for (field, wish) in overridden {
        if wish.is_some() {
            *field = wish;
        }
    }
    Ok(S3Response::with_headers(output, headers))
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, text: Option<&str>) {
    if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(name, value);
    }
}

fn content_type(headers: &model::Headers) -> String {
    headers.content_type.clone().unwrap_or_else(|| meta::DEFAULT_TYPE.to_owned())
}

/// The standard class goes without saying.
fn storage_class(headers: &model::Headers) -> Option<StorageClass> {
    let class = headers.storage_class.clone().filter(|class| class != meta::STANDARD);
    class.map(StorageClass::from)
}

fn parts_count(head: &Head) -> Option<i32> {
    i32::try_from(head.part_count).ok().filter(|count| *count > 0)
}

fn wants_checksums(call: &Call) -> bool {
    let mode = call.headers.get("x-amz-checksum-mode");
    mode.is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"ENABLED"))
}

/// Checksums of the bytes that are sent: of the object, or of the part; of a range there are none.
fn shown_checksums(got: &Got) -> (Texts, Option<ChecksumType>) {
    let meta = &got.head.meta;
    let texts = match (&got.part, got.range) {
        (Some(part), _) => Texts::of_part(&part.checksums),
        (None, Some((_, length))) if length != meta.size => Texts::default(),
        (None, _) => Texts::of(&meta.checksums, meta.checksum_type, meta.etag.parts),
    };
    let kind = (texts != Texts::default()).then(|| checksums::to_dto(meta.checksum_type));
    (texts, kind)
}

fn streamed(got: Got) -> StreamingBlob {
    let body = got.body.inspect_err(error::body_cut).map_ok(Frame::data).boxed();
    StreamingBlob::from(s3s::Body::http_body_unsync(StreamBody::new(body)))
}

pub(super) async fn attributes(
    larder: &Larder,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let (input, call) = Call::open(req)?;
    let wanted = wanted_attributes(&call)?;
    let page = PartsPage {
        after: u32::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or(0),
        max: paging::limit("max-parts", input.max_parts)?,
    };
    let key = call::key(input.key)?;
    let (head, parts) = larder
        .engine
        .object_parts(&input.bucket, key.clone())
        .await
        .map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(dates::dto(head.meta.modified)),
        ..Default::default()
    };
    for attribute in wanted {
        match attribute {
            Attribute::Etag => output.e_tag = Some(etag(&head.meta.etag)),
            Attribute::Checksum => output.checksum = checksum_of(&head),
            Attribute::Parts => output.object_parts = page.of(&head, &parts),
            Attribute::Class => {
                let class = head.meta.headers.storage_class.as_deref();
                let class = class.unwrap_or(meta::STANDARD).to_owned();
                output.storage_class = Some(StorageClass::from(class));
            }
            Attribute::Size => output.object_size = i64::try_from(head.meta.size).ok(),
        }
    }
    Ok(S3Response::new(output))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Etag,
    Checksum,
    Parts,
    Class,
    Size,
}

/// `x-amz-object-attributes`: names with commas between, in one header or several.
fn wanted_attributes(call: &Call) -> Result<Vec<Attribute>, Refusal> {
    let wrong = || Refusal::InvalidArgument("Invalid attribute name specified.".into());
    let mut wanted = Vec::new();
    for value in call.headers.get_all("x-amz-object-attributes") {
        for name in value.to_str().map_err(|_| wrong())?.split(',') {
            wanted.push(match name.trim() {
                "ETag" => Attribute::Etag,
                "Checksum" => Attribute::Checksum,
                "ObjectParts" => Attribute::Parts,
                "StorageClass" => Attribute::Class,
                "ObjectSize" => Attribute::Size,
                _ => return Err(wrong()),
            });
        }
    }
    if wanted.is_empty() { Err(wrong()) } else { Ok(wanted) }
}

fn checksum_of(head: &Head) -> Option<Checksum> {
    let meta = &head.meta;
    if meta.checksums.is_empty() {
        return None;
    }
    // S3 gives the value of a composite checksum here without the number of parts.
    let mut found = Checksum {
        checksum_type: Some(checksums::to_dto(meta.checksum_type)),
        ..Default::default()
    };
    set_checksums!(found, Texts::of_part(&meta.checksums));
    Some(found)
}

/// Which parts of an object are shown.
struct PartsPage {
    after: u32,
    max: usize,
}

impl PartsPage {
    /// `None` for an object that was written at once.
    fn of(&self, head: &Head, parts: &[PartInfo]) -> Option<GetObjectAttributesParts> {
        let total = parts_count(head)?;
        let rest = parts.iter().filter(|part| part.number > self.after);
        let shown: Vec<&PartInfo> = rest.clone().take(self.max.min(PAGE_MAX)).collect();
        let more = rest.count() > shown.len() && !shown.is_empty();
        let last = shown.last().map_or(self.after, |part| part.number);
        let parts = shown.into_iter().map(|part| {
            let mut object_part = ObjectPart {
                part_number: i32::try_from(part.number).ok(),
                size: i64::try_from(part.size).ok(),
                ..Default::default()
            };
            set_checksums!(object_part, Texts::of_part(&part.checksums));
            object_part
        });
        Some(GetObjectAttributesParts {
            is_truncated: Some(more),
            max_parts: i32::try_from(self.max).ok(),
            next_part_number_marker: i32::try_from(last).ok(),
            part_number_marker: i32::try_from(self.after).ok(),
            parts: Some(parts.collect()),
            total_parts_count: Some(total),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChecksumAlgorithm;
    use crate::model::Etag;
    use crate::model::VersionMeta;
    use crate::model::VersionSeq;

    fn head_of(parts: u32) -> Head {
        let sum = model::Checksum::new(ChecksumAlgorithm::Crc32, [1; 4]).unwrap();
        Head {
            seq: VersionSeq(1),
            meta: VersionMeta {
                size: 10,
                etag: Etag { md5: [0; 16], parts: (parts > 0).then_some(parts) },
                modified: crate::base::Timestamp(0),
                headers: Default::default(),
                user: Default::default(),
                checksums: vec![sum],
                checksum_type: match parts {
                    0 => model::ChecksumType::FullObject,
                    _ => model::ChecksumType::Composite,
                },
            },
            tag_count: 0,
            part_count: parts,
        }
    }

    fn part(number: u32) -> PartInfo {
        PartInfo {
            number,
            seq: 1,
            size: 5,
            md5: [0; 16],
            modified: crate::base::Timestamp(0),
            checksums: vec![model::Checksum::new(ChecksumAlgorithm::Crc32, [2; 4]).unwrap()],
        }
    }

    fn got(parts: u32, range: Option<(u64, u64)>, part: Option<PartInfo>) -> Got {
        Got { head: head_of(parts), range, part, body: futures_util::stream::empty().boxed() }
    }

    #[test]
    fn checksums_are_of_the_bytes_that_are_sent() {
        let crc32 = |got: Got| shown_checksums(&got).0.crc32;
        assert_eq!(crc32(got(0, None, None)).as_deref(), Some("AQEBAQ=="));
        assert_eq!(crc32(got(2, None, None)).as_deref(), Some("AQEBAQ==-2"));
        assert_eq!(crc32(got(2, Some((0, 5)), Some(part(1)))).as_deref(), Some("AgICAg=="));
        assert_eq!(crc32(got(0, Some((0, 10)), None)).as_deref(), Some("AQEBAQ=="));
        assert_eq!(shown_checksums(&got(0, Some((0, 5)), None)), (Texts::default(), None));
    }

    #[test]
    fn part_numbers_count_from_one() {
        assert_eq!(part_number(1), Ok(1));
        assert_eq!(part_number(10_000), Ok(10_000));
        for wrong in [0, -1, 10_001] {
            assert!(part_number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_come_in_pages() {
        let parts = [part(1), part(2), part(5)];
        let page = |after, max| PartsPage { after, max }.of(&head_of(3), &parts).unwrap();
        let first = page(0, 2);
        assert_eq!(first.is_truncated, Some(true));
        assert_eq!(first.next_part_number_marker, Some(2));
        assert_eq!(first.total_parts_count, Some(3));
        let second = page(2, 2);
        assert_eq!(second.is_truncated, Some(false));
        assert_eq!(second.parts.unwrap()[0].part_number, Some(5));
        assert!(PartsPage { after: 0, max: 5 }.of(&head_of(0), &[]).is_none());
    }

    #[test]
    fn a_type_is_always_given_and_the_standard_class_never() {
        let mut headers = model::Headers::default();
        assert_eq!(content_type(&headers), "binary/octet-stream");
        assert_eq!(storage_class(&headers), None);
        headers.storage_class = Some("STANDARD".into());
        assert_eq!(storage_class(&headers), None);
        headers.storage_class = Some("GLACIER".into());
        assert_eq!(storage_class(&headers).unwrap().as_str(), "GLACIER");
    }
}
