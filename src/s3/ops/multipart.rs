//! Multipart uploads.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call;
use super::call::Call;
use super::objects::etag;
use super::objects::part_number;
use super::objects::texts_of;
use super::objects::type_of;
use super::owner;
use crate::base::limits::PART_NUMBER_MAX;
use crate::engine;
use crate::engine::CompletePart;
use crate::engine::CompleteUploadRequest;
use crate::engine::CreateUpload;
use crate::engine::PartInfo;
use crate::engine::Upload;
use crate::engine::UploadQuery;
use crate::model;
use crate::model::Etag;
use crate::model::UploadId;
use crate::s3::convert::checksums;
use crate::s3::convert::checksums::Texts;
use crate::s3::convert::checksums::set_checksums;
use crate::s3::convert::checksums::take_checksums;
use crate::s3::convert::conditions;
use crate::s3::convert::dates;
use crate::s3::convert::meta;
use crate::s3::convert::paging;
use crate::s3::convert::paging::Shown;
use crate::s3::error;
use crate::s3::error::Refusal;
use crate::s3::finish::naming_keys;

/// The id of an upload. What is none cannot exist.
pub(super) fn upload_id(text: &str) -> Result<UploadId, Refusal> {
    UploadId::from_text(text).ok_or(Refusal::NoSuchUpload)
}

pub(super) async fn create(
    larder: &Larder,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let (input, call) = Call::open(req)?;
    let checksum = wanted_checksum(
        call.header("x-amz-checksum-algorithm")?,
        call.header("x-amz-checksum-type")?,
    )?;
    let create = CreateUpload {
        bucket: input.bucket.clone(),
        key: call::key(input.key.clone())?,
        meta: meta::of_request(&call.headers)?,
        checksum,
        initiator: call.granted.key.id.clone(),
    };
    let upload = larder.engine.create_upload(create).await.map_err(error::engine)?;
    let (checksum_algorithm, checksum_type) = shown_checksum(&upload);
    Ok(naming_keys(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.id.to_string()),
        checksum_algorithm,
        checksum_type,
        ..Default::default()
    }))
}

/// The checksum that an upload is to have. Without a type it is the algorithm's first.
fn wanted_checksum(
    algorithm: Option<&str>,
    kind: Option<&str>,
) -> Result<Option<(model::ChecksumAlgorithm, model::ChecksumType)>, Refusal> {
    let algorithm = algorithm.map(checksums::algorithm).transpose()?;
    let kind = kind.map(checksums::kind).transpose()?;
    match (algorithm, kind) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Refusal::InvalidRequest(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm \
             header."
                .into(),
        )),
        (Some(algorithm), kind) => {
            let kind = kind.unwrap_or(algorithm.types()[0]);
            if !algorithm.types().contains(&kind) {
                let (kind, name) = (kind.name(), algorithm.name().to_ascii_lowercase());
                let why = format!(
                    "The {kind} checksum type cannot be used with the {name} checksum algorithm."
                );
                return Err(Refusal::InvalidRequest(why.into()));
            }
            Ok(Some((algorithm, kind)))
        }
    }
}

fn shown_checksum(upload: &Upload) -> (Option<ChecksumAlgorithm>, Option<ChecksumType>) {
    match upload.checksum {
        Some((algorithm, kind)) => {
            let algorithm = ChecksumAlgorithm::from_static(algorithm.name());
            (Some(algorithm), Some(checksums::to_dto(kind)))
        }
        None => (None, None),
    }
}

pub(super) async fn put_part(
    larder: &Larder,
    req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let (mut input, mut call) = Call::open(req)?;
    let number = part_number(input.part_number)?;
    let upload = upload_id(&input.upload_id)?;
    let texts = take_checksums!(input);
    let body = input.body.take();
    let md5 = input.content_md5.as_deref();
    let body = call.body(body, input.content_length, texts, md5)?;
    let key = call::key(input.key)?;
    let part = engine::UploadPart { bucket: input.bucket, key, upload, number, body };
    let part = larder.engine.upload_part(part).await.map_err(error::engine)?;
    let e_tag = Some(etag(&Etag::of_body(part.md5)));
    let mut output = UploadPartOutput { e_tag, ..Default::default() };
    set_checksums!(output, Texts::of_part(&part.checksums));
    Ok(S3Response::new(output))
}

pub(super) async fn complete(
    larder: &Larder,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let (mut input, call) = Call::open(req)?;
    let wrong_size = |_| Refusal::InvalidArgument("x-amz-mp-object-size is negative".into());
    let request = CompleteUploadRequest {
        bucket: input.bucket.clone(),
        key: call::key(input.key.clone())?,
        upload: upload_id(&input.upload_id)?,
        parts: named_parts(input.multipart_upload.take())?,
        conditions: conditions::write(&call.headers),
        create_only: call.granted.create_only,
        checksums: take_checksums!(input).read()?,
        checksum_type: call.header("x-amz-checksum-type")?.map(checksums::kind).transpose()?,
        size: input.mpu_object_size.map(u64::try_from).transpose().map_err(wrong_size)?,
    };
    let key = request.key.clone();
    let stored = larder.engine.complete_upload(request).await;
    let stored = stored.map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    let host = call.header(http::header::HOST.as_str())?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(location(host, &input.bucket, &input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&stored.etag)),
        checksum_type: type_of(&stored),
        ..Default::default()
    };
    set_checksums!(output, texts_of(&stored));
    Ok(naming_keys(output))
}

/// The parts as the client names them; their order is the engine's business.
fn named_parts(named: Option<CompletedMultipartUpload>) -> Result<Vec<CompletePart>, Refusal> {
    let parts = named.and_then(|named| named.parts).unwrap_or_default();
    if parts.is_empty() || parts.len() > PART_NUMBER_MAX as usize {
        return Err(Refusal::MalformedXml);
    }
    let part = |mut part: CompletedPart| {
        let (Some(number), Some(etag)) = (part.part_number, part.e_tag.take()) else {
            return Err(Refusal::MalformedXml);
        };
        Ok(CompletePart {
            number: part_number(number)?,
            etag: etag.into_value(),
            checksums: take_checksums!(part).read()?,
        })
    };
    parts.into_iter().map(part).collect()
}

/// The address of an object, as far as the request shows it.
pub(super) fn location(host: Option<&str>, bucket: &str, key: &str) -> String {
    let key = Shown::Url.text(key);
    match host {
        Some(host) if host.starts_with(&format!("{bucket}.")) => format!("http://{host}/{key}"),
        Some(host) => format!("http://{host}/{bucket}/{key}"),
        None => format!("/{bucket}/{key}"),
    }
}

pub(super) async fn abort(
    larder: &Larder,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let (input, _) = Call::open(req)?;
    if input.if_match_initiated_time.is_some() {
        return Err(Refusal::NotImplemented("A condition on the time".into()).into());
    }
    let (key, upload) = (call::key(input.key)?, upload_id(&input.upload_id)?);
    larder.engine.abort_upload(&input.bucket, key, upload).await.map_err(error::engine)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn parts(
    larder: &Larder,
    req: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let (input, _) = Call::open(req)?;
    let max = paging::limit("max-parts", input.max_parts)?;
    let wrong = |_| Refusal::InvalidArgument("Argument part-number-marker is negative".into());
    let after = u32::try_from(input.part_number_marker.unwrap_or(0)).map_err(wrong)?;
    let key = call::key(input.key.clone())?;
    let id = upload_id(&input.upload_id)?;
    let (upload, parts, more) = match max {
        0 => {
            let upload = larder.engine.find_upload(&input.bucket, key, id).await;
            (upload.map_err(error::engine)?, Vec::new(), false)
        }
        max => {
            let page = larder.engine.list_parts(&input.bucket, key, id, after, max).await;
            page.map_err(error::engine)?
        }
    };
    let last = parts.last().map_or(after, |part| part.number);
    let (checksum_algorithm, checksum_type) = shown_checksum(&upload);
    let class = upload.meta.headers.storage_class.as_deref().unwrap_or(meta::STANDARD);
    Ok(naming_keys(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm,
        checksum_type,
        initiator: Some(initiator(&upload)),
        owner: Some(owner()),
        is_truncated: Some(more),
        max_parts: i32::try_from(max).ok(),
        part_number_marker: i32::try_from(after).ok(),
        next_part_number_marker: i32::try_from(last).ok(),
        parts: Some(parts.iter().map(|info| part(info, &upload)).collect()),
        storage_class: Some(StorageClass::from(class.to_owned())),
        ..Default::default()
    }))
}

/// A part; of its checksums that which the upload was made with, all when it was made with none.
fn part(info: &PartInfo, upload: &Upload) -> Part {
    let mut part = Part {
        e_tag: Some(etag(&Etag::of_body(info.md5))),
        last_modified: Some(dates::dto(info.modified)),
        part_number: i32::try_from(info.number).ok(),
        size: i64::try_from(info.size).ok(),
        ..Default::default()
    };
    let wanted = |algorithm| upload.checksum.is_none_or(|(wanted, _)| wanted == algorithm);
    let shown: Vec<_> =
        info.checksums.iter().filter(|sum| wanted(sum.algorithm())).cloned().collect();
    set_checksums!(part, Texts::of_part(&shown));
    part
}

fn initiator(upload: &Upload) -> Initiator {
    let id = upload.initiator.clone();
    Initiator { display_name: Some(id.clone()), id: Some(id) }
}

pub(super) async fn uploads(
    larder: &Larder,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let (input, _) = Call::open(req)?;
    let shown = Shown::of(input.encoding_type.as_ref())?;
    let max = paging::limit("max-uploads", input.max_uploads)?;
    let bucket = larder.engine.bucket(&input.bucket).map_err(error::engine)?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = paging::delimiter(input.delimiter);
    let key_marker = input.key_marker.filter(|marker| !marker.is_empty());
    let upload_marker = upload_marker(key_marker.as_deref(), input.upload_id_marker.as_deref())?;
    let query = UploadQuery {
        bucket: bucket.id,
        prefix: prefix.clone(),
        delimiter: delimiter.clone(),
        key_marker: key_marker.clone(),
        upload_marker,
        max,
    };
    let page = match max {
        0 => engine::UploadPage { uploads: Vec::new(), prefixes: Vec::new(), next: None },
        _ => larder.engine.list_uploads(query).await.map_err(error::engine)?,
    };
    let (next_key, next_upload) = page.next.unzip();
    let prefixes = page.prefixes.iter();
    let prefixes =
        prefixes.map(|prefix| CommonPrefix { prefix: Some(shown.text(prefix)) }).collect();
    Ok(naming_keys(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(shown.text(&prefix)),
        delimiter: delimiter.map(|delimiter| shown.text(&delimiter)),
        encoding_type: shown.dto(),
        max_uploads: i32::try_from(max).ok(),
        key_marker: Some(shown.text(&key_marker.unwrap_or_default())),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        is_truncated: Some(next_key.is_some()),
        next_key_marker: next_key.map(|key: String| shown.text(&key)),
        next_upload_id_marker: next_upload.flatten().map(|id| id.to_string()),
        uploads: Some(page.uploads.iter().map(|upload| listed(upload, shown)).collect()),
        common_prefixes: Some(prefixes),
        ..Default::default()
    }))
}

/// An upload marker counts only beside a key marker.
fn upload_marker(key: Option<&str>, upload: Option<&str>) -> Result<Option<UploadId>, Refusal> {
    match (key, upload.filter(|text| !text.is_empty())) {
        (None, _) | (_, None) => Ok(None),
        (Some(_), Some(text)) => UploadId::from_text(text)
            .map(Some)
            .ok_or(Refusal::InvalidArgument("Invalid uploadId marker".into())),
    }
}

fn listed(upload: &Upload, shown: Shown) -> MultipartUpload {
    let (checksum_algorithm, checksum_type) = shown_checksum(upload);
    let class = upload.meta.headers.storage_class.as_deref().unwrap_or(meta::STANDARD);
    MultipartUpload {
        checksum_algorithm,
        checksum_type,
        initiated: Some(dates::dto(upload.created)),
        initiator: Some(initiator(upload)),
        key: Some(shown.text(upload.key.as_str())),
        owner: Some(owner()),
        storage_class: Some(StorageClass::from(class.to_owned())),
        upload_id: Some(upload.id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChecksumAlgorithm::Crc32;
    use crate::model::ChecksumAlgorithm::Crc64Nvme;
    use crate::model::ChecksumAlgorithm::Sha256;
    use crate::model::ChecksumType::Composite;
    use crate::model::ChecksumType::FullObject;

    #[test]
    fn an_upload_has_a_checksum_that_s3_knows() {
        assert_eq!(wanted_checksum(None, None), Ok(None));
        let check = |algorithm, kind, wanted| {
            assert_eq!(wanted_checksum(Some(algorithm), kind), Ok(Some(wanted)), "{algorithm}");
        };
        check("CRC32", None, (Crc32, Composite));
        check("CRC32", Some("FULL_OBJECT"), (Crc32, FullObject));
        check("CRC64NVME", None, (Crc64Nvme, FullObject));
        check("SHA256", None, (Sha256, Composite));
        for (algorithm, kind) in [
            (Some("SHA256"), Some("FULL_OBJECT")),
            (Some("CRC64NVME"), Some("COMPOSITE")),
            (Some("CRC16"), None),
            (Some("CRC32"), Some("HALF")),
            (None, Some("COMPOSITE")),
        ] {
            let refused = wanted_checksum(algorithm, kind);
            assert!(matches!(refused, Err(Refusal::InvalidRequest(_))), "{algorithm:?} {kind:?}");
        }
    }

    fn completed(number: Option<i32>, etag: Option<&str>) -> CompletedPart {
        CompletedPart {
            part_number: number,
            e_tag: etag.map(|etag| ETag::Strong(etag.to_owned())),
            ..Default::default()
        }
    }

    fn named(parts: Vec<CompletedPart>) -> Result<Vec<CompletePart>, Refusal> {
        named_parts(Some(CompletedMultipartUpload { parts: Some(parts) }))
    }

    #[test]
    fn a_complete_names_its_parts() {
        let parts = named(vec![completed(Some(2), Some("a")), completed(Some(1), Some("b"))]);
        let numbers: Vec<u32> = parts.unwrap().iter().map(|part| part.number).collect();
        assert_eq!(numbers, [2, 1]);
        for parts in [
            vec![],
            vec![completed(None, Some("a"))],
            vec![completed(Some(1), None)],
            (0..10_001).map(|_| completed(Some(1), Some("a"))).collect(),
        ] {
            assert_eq!(named(parts).err(), Some(Refusal::MalformedXml));
        }
        assert_eq!(named_parts(None).err(), Some(Refusal::MalformedXml));
        let zero = named(vec![completed(Some(0), Some("a"))]);
        assert!(matches!(zero, Err(Refusal::InvalidArgument(_))));
    }

    #[test]
    fn an_id_that_is_none_is_of_no_upload() {
        let id = UploadId(77);
        assert_eq!(upload_id(&id.to_string()), Ok(id));
        for text in ["", "x", "../../etc/passwd", "0000000000000000000"] {
            assert_eq!(upload_id(text), Err(Refusal::NoSuchUpload), "{text}");
        }
        assert_eq!(upload_marker(None, Some("x")), Ok(None));
        assert_eq!(upload_marker(Some("k"), Some("")), Ok(None));
        assert!(upload_marker(Some("k"), Some("x")).is_err());
    }

    #[test]
    fn a_location_is_the_address_that_was_asked() {
        assert_eq!(location(Some("host:1"), "b", "a b/c"), "http://host:1/b/a%20b/c");
        assert_eq!(location(Some("b.s3.example"), "b", "k"), "http://b.s3.example/k");
        assert_eq!(location(None, "b", "k"), "/b/k");
    }
}
