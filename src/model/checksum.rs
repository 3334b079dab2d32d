//! The checksums that S3 clients ask for.
//!
//! CRCs cover the whole object also when it came in parts ([`ChecksumType::FullObject`], by
//! combining the parts' values); SHA-1 and SHA-256 of an object in parts are the hash of the
//! parts' hashes ([`ChecksumType::Composite`]). "Amazon S3 User Guide: checking object
//! integrity".

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl ChecksumAlgorithm {
    pub const ALL: [ChecksumAlgorithm; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The name in S3's XML and headers, in upper case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    pub fn from_name(name: &str) -> Option<ChecksumAlgorithm> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a value.
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Which kinds of value a multipart object may have; the first is the default.
    pub fn types(self) -> &'static [ChecksumType] {
        match self {
            Self::Crc64Nvme => &[ChecksumType::FullObject],
            Self::Crc32 | Self::Crc32c => &[ChecksumType::Composite, ChecksumType::FullObject],
            Self::Sha1 | Self::Sha256 => &[ChecksumType::Composite],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumType {
    FullObject,
    Composite,
}

impl ChecksumType {
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

/// A value with its algorithm; the value has the algorithm's length.
#[derive(Clone, PartialEq, Eq)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    value: Vec<u8>,
}

impl Checksum {
    /// `None` when the length is not the algorithm's.
    pub fn new(algorithm: ChecksumAlgorithm, value: impl Into<Vec<u8>>) -> Option<Checksum> {
        let value = value.into();
        (value.len() == algorithm.value_len()).then_some(Checksum { algorithm, value })
    }

    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Big-endian for CRCs, as S3 encodes them.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm.name())?;
        self.value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
