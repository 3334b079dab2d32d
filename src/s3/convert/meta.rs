//! The headers that are kept with an object, and user metadata.
//!
//! Metadata is kept as it was sent. `s3s` writes values that are not ASCII by RFC 2047, as S3
//! does; a value that a client has encoded so itself comes back as it went.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use s3s::dto::Metadata;
use s3s::dto::PostObjectInput;

use crate::engine::NewMeta;
use crate::model::Headers;
use crate::model::UserMetadata;
use crate::s3::convert;
use crate::s3::convert::tags;
use crate::s3::error::Refusal;

const USER_PREFIX: &str = "x-amz-meta-";
/// The type of an object that was stored without one.
pub(crate) const DEFAULT_TYPE: &str = "binary/octet-stream";
pub(crate) const STANDARD: &str = "STANDARD";
/// The classes of "Amazon S3 API: PutObject"; all are stored alike.
const STORAGE_CLASSES: [&str; 12] = [
    STANDARD,
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
];

/// All that a request says of the object that it makes.
pub(crate) fn of_request(map: &HeaderMap) -> Result<NewMeta, Refusal> {
    let tags = match convert::text(map, "x-amz-tagging")? {
        Some(text) => tags::from_header(text)?,
        None => Default::default(),
    };
    Ok(NewMeta { headers: headers(map)?, user: user(map)?, tags })
}

pub(crate) fn headers(map: &HeaderMap) -> Result<Headers, Refusal> {
    let text = |name: &str| convert::text(map, name).map(|text| text.map(str::to_owned));
    Ok(Headers {
        content_type: text(header::CONTENT_TYPE.as_str())?,
        cache_control: text(header::CACHE_CONTROL.as_str())?,
        content_disposition: text(header::CONTENT_DISPOSITION.as_str())?,
        content_encoding: text(header::CONTENT_ENCODING.as_str())?.and_then(own_encoding),
        content_language: text(header::CONTENT_LANGUAGE.as_str())?,
        expires: text(header::EXPIRES.as_str())?,
        storage_class: storage_class(text("x-amz-storage-class")?)?,
        website_redirect: text("x-amz-website-redirect-location")?,
    })
}

pub(crate) fn user(map: &HeaderMap) -> Result<UserMetadata, Refusal> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in map {
        let Some(name) = name.as_str().strip_prefix(USER_PREFIX).filter(|n| !n.is_empty()) else {
            continue;
        };
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            let why = format!("The metadata {name} is not UTF-8");
            return Err(Refusal::InvalidArgument(why.into()));
        };
        // A header map gives the values of one name in a row.
        match pairs.last_mut().filter(|(last, _)| last == name) {
            Some((_, joined)) => *joined = format!("{joined},{}", value.trim()),
            None => pairs.push((name.to_owned(), value.trim().to_owned())),
        }
    }
    UserMetadata::new(pairs).map_err(|_| Refusal::MetadataTooLarge)
}

/// All that the fields of a POST form say. They never were headers, so they are checked to be
/// fit for it: they will be some day.
pub(crate) fn of_form(input: &mut PostObjectInput) -> Result<NewMeta, Refusal> {
    let fit = |text: Option<String>| match text.filter(|text| !text.is_empty()) {
        Some(text) if HeaderValue::try_from(text.as_str()).is_err() => {
            Err(Refusal::InvalidArgument("A field has a character that no header may have".into()))
        }
        text => Ok(text),
    };
    let expires = input.expires.take().map(|at| {
        let at: time::OffsetDateTime = at.into();
        convert::dates::http(crate::base::Timestamp(at.unix_timestamp() * 1_000_000))
    });
    let headers = Headers {
        content_type: fit(input.content_type.take())?,
        cache_control: fit(input.cache_control.take())?,
        content_disposition: fit(input.content_disposition.take())?,
        content_encoding: fit(input.content_encoding.take())?.and_then(own_encoding),
        content_language: fit(input.content_language.take())?,
        expires,
        storage_class: storage_class(input.storage_class.take().map(|c| c.as_str().to_owned()))?,
        website_redirect: fit(input.website_redirect_location.take())?,
    };
    let mut pairs = Vec::new();
    for (name, value) in input.metadata.take().unwrap_or_default() {
        if HeaderName::try_from(format!("{USER_PREFIX}{name}")).is_err() {
            let why = format!("{name:?} cannot be the name of metadata");
            return Err(Refusal::InvalidArgument(why.into()));
        }
        pairs.push((name.to_ascii_lowercase(), value));
    }
    let user = UserMetadata::new(pairs).map_err(|_| Refusal::MetadataTooLarge)?;
    let tags = input.tagging.take().map(|text| tags::from_header(&text)).transpose()?;
    Ok(NewMeta { headers, user, tags: tags.unwrap_or_default() })
}

/// The content's own encoding: `aws-chunked` is only that of the transfer.
fn own_encoding(text: String) -> Option<String> {
    let transfer = |coding: &str| coding.trim().eq_ignore_ascii_case("aws-chunked");
    if !text.split(',').any(transfer) {
        return Some(text);
    }
    let own: Vec<&str> =
        text.split(',').filter(|coding| !transfer(coding)).map(str::trim).collect();
    (!own.is_empty()).then(|| own.join(","))
}

fn storage_class(class: Option<String>) -> Result<Option<String>, Refusal> {
    match class {
        Some(class) if !STORAGE_CLASSES.contains(&class.as_str()) => {
            Err(Refusal::InvalidStorageClass)
        }
        class => Ok(class),
    }
}

/// User metadata as `s3s` takes it.
pub(crate) fn to_dto(user: &UserMetadata) -> Option<Metadata> {
    (!user.pairs().is_empty()).then(|| user.pairs().iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn headers_are_kept_as_they_came() {
        let kept = headers(&map(&[
            ("content-type", "text/plain; charset=utf-8"),
            ("expires", "next week"),
            ("content-encoding", "gzip"),
            ("x-amz-storage-class", "STANDARD_IA"),
            ("x-amz-website-redirect-location", "/elsewhere"),
            ("cache-control", ""),
        ]))
        .unwrap();
        assert_eq!(kept.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(kept.expires.as_deref(), Some("next week"));
        assert_eq!(kept.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(kept.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(kept.website_redirect.as_deref(), Some("/elsewhere"));
        assert_eq!(kept.cache_control, None);
        let wrong = headers(&map(&[("x-amz-storage-class", "FAST")]));
        assert_eq!(wrong, Err(Refusal::InvalidStorageClass));
    }

    #[test]
    fn the_encoding_of_the_transfer_is_not_the_contents() {
        let own = |text: &str| own_encoding(text.to_owned());
        assert_eq!(own("aws-chunked"), None);
        assert_eq!(own("aws-chunked,gzip").as_deref(), Some("gzip"));
        assert_eq!(own("gzip, AWS-Chunked , br").as_deref(), Some("gzip,br"));
        assert_eq!(own("gzip, br").as_deref(), Some("gzip, br"));
    }

    #[test]
    fn metadata_is_kept_as_it_was_sent() {
        let kept = user(&map(&[
            ("x-amz-meta-b", "é"),
            ("x-amz-meta-a", "=?UTF-8?B?w6k=?="),
            ("x-amz-meta-c", "1"),
            ("x-amz-meta-c", "2"),
            ("x-amz-meta-", "nameless"),
            ("x-amz-metadata-directive", "COPY"),
        ]))
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let encoded = pair("a", "=?UTF-8?B?w6k=?=");
        assert_eq!(kept.pairs(), [encoded, pair("b", "é"), pair("c", "1,2")]);
        let mut latin = HeaderMap::new();
        latin.insert("x-amz-meta-a", HeaderValue::from_bytes(b"\xe9").unwrap());
        assert!(matches!(user(&latin), Err(Refusal::InvalidArgument(_))));
    }

    #[test]
    fn metadata_has_two_kibibytes() {
        let fits = "v".repeat(2047);
        assert!(user(&map(&[("x-amz-meta-n", &fits)])).is_ok());
        let over = "v".repeat(2048);
        assert_eq!(user(&map(&[("x-amz-meta-n", &over)])), Err(Refusal::MetadataTooLarge));
    }

    #[test]
    fn the_fields_of_a_form_must_be_fit_for_headers() {
        let mut input = PostObjectInput {
            content_type: Some("text/plain".into()),
            metadata: Some(Metadata::from_iter([("Name".to_owned(), "é\n".to_owned())])),
            tagging: Some("a=1".into()),
            ..PostObjectInput::default()
        };
        let kept = of_form(&mut input).unwrap();
        assert_eq!(kept.headers.content_type.as_deref(), Some("text/plain"));
        assert_eq!(kept.user.pairs()[0].0, "name");
        assert_eq!(kept.tags.pairs().len(), 1);
        let mut input =
            PostObjectInput { cache_control: Some("a\r\nb: c".into()), ..Default::default() };
        assert!(of_form(&mut input).is_err());
        let metadata = Metadata::from_iter([("a b".to_owned(), String::new())]);
        let mut input = PostObjectInput { metadata: Some(metadata), ..Default::default() };
        assert!(of_form(&mut input).is_err());
    }
}
