//! `x-amz-copy-source`: bucket and key, percent-encoded, perhaps with a version.

use percent_encoding::percent_decode_str;

use crate::model::ObjectKey;
use crate::s3::error::Refusal;

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopySource {
    pub(crate) bucket: String,
    pub(crate) key: ObjectKey,
}

/// Reads the header. `+` is a plus sign: clients encode a blank as `%20`.
pub(crate) fn parse(header: &str) -> Result<CopySource, Refusal> {
    let (path, version) = match header.split_once("?versionId=") {
        Some((path, version)) => (path, Some(version)),
        None => (header, None),
    };
    if version.is_some_and(|version| version != "null") {
        return Err(Refusal::NoSuchVersion);
    }
    let path = percent_decode_str(path).decode_utf8().map_err(|_| malformed())?;
    if path.starts_with("arn:") {
        return Err(Refusal::NotImplemented("Copying from an access point".into()));
    }
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').ok_or_else(malformed)?;
    if bucket.is_empty() || key.is_empty() {
        return Err(malformed());
    }
    let key = ObjectKey::new(key).map_err(|_| Refusal::KeyTooLong)?;
    Ok(CopySource { bucket: bucket.to_owned(), key })
}

fn malformed() -> Refusal {
    Refusal::InvalidArgument(
        "Copy Source must mention the source bucket and key: sourcebucket/sourcekey".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Result<(String, String), Refusal> {
        parse(header).map(|source| (source.bucket, source.key.as_str().to_owned()))
    }

    #[test]
    fn keys_keep_every_byte() {
        let check = |header: &str, key: &str| {
            assert_eq!(read(header), Ok(("bucket".into(), key.into())), "{header}");
        };
        check("bucket/key", "key");
        check("/bucket/key", "key");
        check("bucket%2Fkey", "key");
        check("bucket//key/", "/key/");
        check("bucket/a/../b/./c", "a/../b/./c");
        check("bucket/a%20b+c%2Bd%3Fe%25", "a b+c+d?e%");
        check("bucket/%C3%A9", "é");
        check("bucket/key?versionId=null", "key");
        check("bucket/a%3FversionId=1", "a?versionId=1");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for header in ["", "bucket", "bucket/", "/", "//key", "bucket/%FF"] {
            assert!(matches!(read(header), Err(Refusal::InvalidArgument(_))), "{header}");
        }
        assert_eq!(read("bucket/key?versionId=3"), Err(Refusal::NoSuchVersion));
        let long = format!("bucket/{}", "k".repeat(1025));
        assert_eq!(read(&long), Err(Refusal::KeyTooLong));
        let arn = "arn:aws:s3:us-east-1:123456789012:accesspoint/ap/object/key";
        assert!(matches!(read(arn), Err(Refusal::NotImplemented(_))));
    }
}
