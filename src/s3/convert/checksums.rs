//! Checksums and Content-MD5: what the client says of a body, and what it is told of an object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::TrailingHeaders;

use crate::engine::BodyError;
use crate::engine::Expected;
use crate::engine::Trailer;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::s3::convert;
use crate::s3::error::Refusal;
use crate::s3::guard::BodyFacts;

/// The checksum fields that inputs and outputs of `s3s` have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

/// Moves the checksum fields out of an input.
macro_rules! take_checksums {
    ($input:expr) => {
        $crate::s3::convert::checksums::Texts {
            crc32: $input.checksum_crc32.take(),
            crc32c: $input.checksum_crc32c.take(),
            crc64nvme: $input.checksum_crc64nvme.take(),
            sha1: $input.checksum_sha1.take(),
            sha256: $input.checksum_sha256.take(),
        }
    };
}
pub(crate) use take_checksums;

/// Sets the checksum fields of an output.
macro_rules! set_checksums {
    ($output:expr, $texts:expr) => {{
        let texts: $crate::s3::convert::checksums::Texts = $texts;
        $output.checksum_crc32 = texts.crc32;
        $output.checksum_crc32c = texts.crc32c;
        $output.checksum_crc64nvme = texts.crc64nvme;
        $output.checksum_sha1 = texts.sha1;
        $output.checksum_sha256 = texts.sha256;
    }};
}
pub(crate) use set_checksums;

impl Texts {
    /// `parts` is the number of parts, which the text of a composite checksum ends in.
    pub(crate) fn of(checksums: &[Checksum], kind: ChecksumType, parts: Option<u32>) -> Texts {
        let mut texts = Texts::default();
        for checksum in checksums {
            let mut text = STANDARD.encode(checksum.value());
            if let (ChecksumType::Composite, Some(parts)) = (kind, parts) {
                text.push_str(&format!("-{parts}"));
            }
            *texts.field(checksum.algorithm()) = Some(text);
        }
        texts
    }

    /// Those of a part, which are of its own bytes whatever the object's will be.
    pub(crate) fn of_part(checksums: &[Checksum]) -> Texts {
        Texts::of(checksums, ChecksumType::FullObject, None)
    }

    /// The values. Of a composite one the number of parts is not wanted.
    pub(crate) fn read(mut self) -> Result<Vec<Checksum>, Refusal> {
        let mut found = Vec::new();
        for algorithm in ChecksumAlgorithm::ALL {
            let Some(text) = self.field(algorithm).take() else { continue };
            let value = text.split_once('-').map_or(text.as_str(), |(value, _)| value);
            found.push(parse(algorithm, value).ok_or_else(|| {
                let name = header_name(algorithm);
                Refusal::InvalidRequest(format!("Value for {name} header is invalid.").into())
            })?);
        }
        Ok(found)
    }

    fn field(&mut self, algorithm: ChecksumAlgorithm) -> &mut Option<String> {
        match algorithm {
            ChecksumAlgorithm::Crc32 => &mut self.crc32,
            ChecksumAlgorithm::Crc32c => &mut self.crc32c,
            ChecksumAlgorithm::Crc64Nvme => &mut self.crc64nvme,
            ChecksumAlgorithm::Sha1 => &mut self.sha1,
            ChecksumAlgorithm::Sha256 => &mut self.sha256,
        }
    }
}

pub(crate) fn header_name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
        ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
        ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

/// The algorithm that a header or an XML element names.
pub(crate) fn algorithm(name: &str) -> Result<ChecksumAlgorithm, Refusal> {
    ChecksumAlgorithm::from_name(name).ok_or(Refusal::InvalidRequest(
        "Checksum algorithm provided is unsupported. Please try again with any of the valid \
         types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
            .into(),
    ))
}

/// The kind of checksum that a multipart object is to have.
pub(crate) fn kind(name: &str) -> Result<ChecksumType, Refusal> {
    [ChecksumType::FullObject, ChecksumType::Composite]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or(Refusal::InvalidRequest("Value for x-amz-checksum-type header is invalid.".into()))
}

pub(crate) fn to_dto(kind: ChecksumType) -> s3s::dto::ChecksumType {
    s3s::dto::ChecksumType::from_static(kind.name())
}

/// What a request says in advance of its body, and which checksums it promises to send after it.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) expected: Expected,
    pub(crate) trailers: Vec<ChecksumAlgorithm>,
}

/// Reads what a body is to be. Where a client asks for nothing, CRC64NVME is computed, as S3 does.
pub(crate) fn announced(
    texts: Texts,
    md5: Option<&str>,
    headers: &HeaderMap,
    facts: Option<&BodyFacts>,
) -> Result<Announced, Refusal> {
    let checksums = texts.read()?;
    let trailers = promised(headers, facts)?;
    let mut algorithms: Vec<ChecksumAlgorithm> =
        checksums.iter().map(Checksum::algorithm).chain(trailers.iter().copied()).collect();
    if algorithms.len() > 1 {
        return Err(Refusal::InvalidRequest(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
                .into(),
        ));
    }
    for name in ["x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm"] {
        let Some(named) = convert::text(headers, name)?.map(algorithm).transpose()? else {
            continue;
        };
        if algorithms.first().is_some_and(|&given| given != named) {
            let why = format!("Value for {name} header is invalid.");
            return Err(Refusal::InvalidRequest(why.into()));
        }
        algorithms = vec![named];
    }
    if algorithms.is_empty() {
        algorithms.push(ChecksumAlgorithm::Crc64Nvme);
    }
    let md5 = md5.map(read_md5).transpose()?;
    let sha256 = facts.and_then(|facts| facts.payload_sha256);
    Ok(Announced { expected: Expected { md5, sha256, checksums, algorithms }, trailers })
}

/// Content-MD5: 16 bytes in base 64.
fn read_md5(text: &str) -> Result<[u8; 16], Refusal> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| Refusal::InvalidDigest)?;
    bytes.try_into().map_err(|_| Refusal::InvalidDigest)
}

/// The checksums that `x-amz-trailer` announces.
fn promised(
    headers: &HeaderMap,
    facts: Option<&BodyFacts>,
) -> Result<Vec<ChecksumAlgorithm>, Refusal> {
    let header = convert::text(headers, "x-amz-trailer")?;
    let names: Vec<&str> = match (facts, header) {
        (Some(facts), _) => facts.trailers.iter().map(String::as_str).collect(),
        (None, Some(header)) => header.split(',').map(str::trim).collect(),
        (None, None) => Vec::new(),
    };
    let mut found = Vec::new();
    for name in names {
        let Some(wanted) = name.to_ascii_lowercase().strip_prefix("x-amz-checksum-").map(algorithm)
        else {
            continue;
        };
        found.push(wanted.map_err(|_| {
            Refusal::InvalidRequest(
                "The value specified in the x-amz-trailer header is not supported".into(),
            )
        })?);
    }
    Ok(found)
}

/// What gives the promised checksums once the body has been read.
pub(crate) fn trailer(
    promised: Vec<ChecksumAlgorithm>,
    handle: Option<TrailingHeaders>,
) -> Option<Trailer> {
    if promised.is_empty() {
        return None;
    }
    Some(Box::new(move || {
        let headers = handle.and_then(|handle| handle.take()).ok_or(BodyError::Trailer)?;
        read_trailers(&promised, &headers)
    }))
}

fn read_trailers(
    promised: &[ChecksumAlgorithm],
    headers: &HeaderMap,
) -> Result<Vec<Checksum>, BodyError> {
    let read = |&algorithm: &ChecksumAlgorithm| {
        let text = headers.get(header_name(algorithm))?.to_str().ok()?;
        parse(algorithm, text.trim())
    };
    promised.iter().map(|wanted| read(wanted).ok_or(BodyError::Trailer)).collect()
}

fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Checksum> {
    Checksum::new(algorithm, STANDARD.decode(text).ok()?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CRC32_OF_NOTHING: &str = "AAAAAA==";

    fn crc32(text: &str) -> Texts {
        Texts { crc32: Some(text.to_owned()), ..Texts::default() }
    }

    fn header(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    fn algorithms(texts: Texts, headers: &HeaderMap) -> Result<Vec<ChecksumAlgorithm>, Refusal> {
        announced(texts, None, headers, None).map(|announced| announced.expected.algorithms)
    }

    #[test]
    fn a_text_is_read_back_and_composite_ones_end_in_the_number_of_parts() {
        let value = crc32(CRC32_OF_NOTHING).read().unwrap();
        assert_eq!(value, [Checksum::new(ChecksumAlgorithm::Crc32, [0; 4]).unwrap()]);
        assert_eq!(Texts::of_part(&value), crc32(CRC32_OF_NOTHING));
        let composite = Texts::of(&value, ChecksumType::Composite, Some(3));
        assert_eq!(composite, crc32("AAAAAA==-3"));
        assert_eq!(composite.read().unwrap(), value);
        assert_eq!(Texts::of(&value, ChecksumType::FullObject, Some(3)), crc32(CRC32_OF_NOTHING));
        for wrong in ["", "AAAA", "AAAAAAA=", "not base64"] {
            assert!(matches!(crc32(wrong).read(), Err(Refusal::InvalidRequest(_))), "{wrong}");
        }
    }

    #[test]
    fn what_is_computed_is_what_was_asked_for() {
        let none = HeaderMap::new();
        let check = |texts, headers: &HeaderMap, wanted: &[ChecksumAlgorithm]| {
            assert_eq!(algorithms(texts, headers).unwrap(), wanted);
        };
        check(Texts::default(), &none, &[ChecksumAlgorithm::Crc64Nvme]);
        check(crc32(CRC32_OF_NOTHING), &none, &[ChecksumAlgorithm::Crc32]);
        let named = header("x-amz-sdk-checksum-algorithm", "SHA256");
        check(Texts::default(), &named, &[ChecksumAlgorithm::Sha256]);
        let trailing = header("x-amz-trailer", "x-amz-checksum-crc32c");
        check(Texts::default(), &trailing, &[ChecksumAlgorithm::Crc32c]);
        assert!(algorithms(crc32(CRC32_OF_NOTHING), &trailing).is_err());
        assert!(algorithms(crc32(CRC32_OF_NOTHING), &named).is_err());
        let unknown = header("x-amz-checksum-algorithm", "CRC16");
        assert!(algorithms(Texts::default(), &unknown).is_err());
        let unknown = header("x-amz-trailer", "x-amz-checksum-md5");
        assert!(algorithms(Texts::default(), &unknown).is_err());
    }

    #[test]
    fn content_md5_is_sixteen_bytes() {
        let md5 = |text| announced(Texts::default(), Some(text), &HeaderMap::new(), None);
        let empty = md5("1B2M2Y8AsgTpgAmY7PhCfg==").unwrap().expected.md5.unwrap();
        assert_eq!(empty[..4], [0xd4, 0x1d, 0x8c, 0xd9]);
        for wrong in ["", "YQ==", "d41d8cd98f00b204e9800998ecf8427e", "%"] {
            assert_eq!(md5(wrong).unwrap_err(), Refusal::InvalidDigest, "{wrong}");
        }
    }

    #[test]
    fn promised_trailers_must_come() {
        let promised = [ChecksumAlgorithm::Crc32];
        let good = header("x-amz-checksum-crc32", CRC32_OF_NOTHING);
        assert_eq!(read_trailers(&promised, &good).unwrap().len(), 1);
        let wrong = header("x-amz-checksum-crc32", "AAAA");
        assert!(matches!(read_trailers(&promised, &wrong), Err(BodyError::Trailer)));
        assert!(matches!(read_trailers(&promised, &HeaderMap::new()), Err(BodyError::Trailer)));
        assert!(trailer(Vec::new(), None).is_none());
        let unsent = trailer(promised.to_vec(), None).unwrap();
        assert!(matches!(unsent(), Err(BodyError::Trailer)));
    }
}
