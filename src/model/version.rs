//! What is known of one write of an object.

use std::fmt;

use super::checksum::{Checksum, ChecksumType};
use crate::base::Timestamp;
use crate::base::limits::USER_METADATA_MAX;

/// An ETag: the MD5 of the body, or of the parts' MD5s with their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Etag {
    pub md5: [u8; 16],
    /// Parts of a multipart object; `None` for one written at once.
    pub parts: Option<u32>,
}

impl Etag {
    pub fn of_body(md5: [u8; 16]) -> Etag {
        Etag { md5, parts: None }
    }

    /// Reads the form without quotes.
    pub fn from_text(text: &str) -> Option<Etag> {
        let (hex, parts) = match text.split_once('-') {
            Some((hex, parts)) => (hex, Some(parts.parse().ok()?)),
            None => (text, None),
        };
        if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut md5 = [0; 16];
        for (byte, pair) in md5.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Etag { md5, parts })
    }
}

/// Without quotes.
impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.md5.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        match self.parts {
            Some(parts) => write!(f, "-{parts}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etag({self})")
    }
}

/// The headers that S3 keeps with an object and gives back as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub expires: Option<String>,
    /// As the client named it; every class is stored alike.
    pub storage_class: Option<String>,
    pub website_redirect: Option<String>,
}

/// `x-amz-meta-*`: names in lower case without the prefix, in order, with values in UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserMetadata(Vec<(String, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user metadata has at most {USER_METADATA_MAX} bytes, names and values together")]
pub struct MetadataTooLarge;

impl UserMetadata {
    pub fn new(mut pairs: Vec<(String, String)>) -> Result<UserMetadata, MetadataTooLarge> {
        let total: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > USER_METADATA_MAX {
            return Err(MetadataTooLarge);
        }
        pairs.sort();
        Ok(UserMetadata(pairs))
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Everything about a version but its bytes and tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionMeta {
    pub size: u64,
    pub etag: Etag,
    pub modified: Timestamp,
    pub headers: Headers,
    pub user: UserMetadata,
    /// Those that the client asked for or sent, and CRC64NVME where nothing else was.
    pub checksums: Vec<Checksum>,
    pub checksum_type: ChecksumType,
}
