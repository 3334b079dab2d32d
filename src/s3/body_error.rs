//! What can be wrong with a request's body, in the words of the engine.
//!
//! The guard's stream stands under the streams of s3s, and those wrap an error of ours in a type
//! that is private and shows no cause. So a fault of the guard is found by type where nothing
//! was wrapped, and by its text where s3s wrapped it; the faults of s3s itself are told apart by
//! their text alone. None of these texts holds anything that a client sent.

use std::error::Error;

use crate::engine::BodyError;

/// The prefix of the headers and trailers that carry checksums.
pub(crate) const CHECKSUM_PREFIX: &str = "x-amz-checksum-";

/// What the guard saw go wrong while a body passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("body fault: broken")]
    Broken,
    #[error("body fault: stalled")]
    Stalled,
    #[error("body fault: too short")]
    TooShort,
    #[error("body fault: too long")]
    TooLong,
    #[error("body fault: chunk header")]
    ChunkHeader,
    #[error("body fault: chunk end")]
    ChunkEnd,
    #[error("body fault: chunk too large")]
    ChunkTooLarge,
    #[error("body fault: trailer too large")]
    TrailerTooLarge,
    #[error("body fault: trailer syntax")]
    TrailerSyntax,
    #[error("body fault: trailer names")]
    TrailerNames,
    #[error("body fault: hash")]
    Hash,
    #[error("body fault: digest")]
    Digest,
}

impl BodyFault {
    const ALL: [BodyFault; 12] = [
        Self::Broken,
        Self::Stalled,
        Self::TooShort,
        Self::TooLong,
        Self::ChunkHeader,
        Self::ChunkEnd,
        Self::ChunkTooLarge,
        Self::TrailerTooLarge,
        Self::TrailerSyntax,
        Self::TrailerNames,
        Self::Hash,
        Self::Digest,
    ];

    pub(crate) fn meaning(self) -> BodyError {
        match self {
            Self::Broken => BodyError::Broken,
            Self::Stalled => BodyError::Stalled,
            Self::TooShort => BodyError::TooShort,
            Self::TooLong => BodyError::TooLong,
            Self::ChunkHeader => BodyError::Malformed("a chunk has no proper header"),
            Self::ChunkEnd => BodyError::Malformed("a chunk does not end in CRLF"),
            Self::ChunkTooLarge => BodyError::Malformed("a signed chunk is larger than 16 MiB"),
            Self::TrailerTooLarge => BodyError::Malformed("the trailers are too large"),
            Self::TrailerSyntax | Self::TrailerNames => BodyError::Trailer,
            Self::Hash | Self::Digest => BodyError::Sha256Mismatch,
        }
    }
}

/// Makes an error anew: they cannot be copied.
type Meaning = fn() -> BodyError;

/// What s3s calls its own faults, and what they mean.
const FOREIGN: [(&str, Meaning); 8] = [
    ("UploadStreamError: Sha256Mismatch", || BodyError::Sha256Mismatch),
    ("UploadStreamError: LengthMismatch", || BodyError::TooLong),
    ("UploadStreamError: Incomplete", || BodyError::TooShort),
    ("AwsChunkedStreamError: SignatureMismatch", || BodyError::ChunkSignature),
    ("AwsChunkedStreamError: Incomplete", || BodyError::TooShort),
    ("AwsChunkedStreamError: FormatError", || BodyError::Malformed("a chunk is malformed")),
    ("AwsChunkedStreamError: ChunkMetaTooLarge", || BodyError::Malformed("a chunk is malformed")),
    ("AwsChunkedStreamError: T", || BodyError::Malformed("the trailers are too large")),
];

/// What the error of an s3s body stream means.
pub(crate) fn body_error(err: &(dyn Error + 'static)) -> BodyError {
    let mut cause = Some(err);
    while let Some(this) = cause {
        if let Some(fault) = this.downcast_ref::<BodyFault>() {
            return fault.meaning();
        }
        cause = this.source();
    }
    let text = err.to_string();
    if let Some(fault) = BodyFault::ALL.into_iter().find(|f| text.contains(&f.to_string())) {
        return fault.meaning();
    }
    let foreign = FOREIGN.iter().find(|(name, _)| text.contains(name));
    foreign.map_or(BodyError::Broken, |(_, meaning)| meaning())
}

/// What is known of a request's body before its first byte: a request extension, set by the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BodyFacts {
    /// Bytes of the object in it, framing not counted. `None` for a form and where no length
    /// was sent, which the guard allows only where there is no body.
    pub(crate) decoded_length: Option<u64>,
    /// `x-amz-content-sha256` where it is a hash. s3s verifies it and fails the stream at its
    /// last byte.
    pub(crate) payload_sha256: Option<[u8; 32]>,
    /// The names that `x-amz-trailer` promises, in lower case, all of checksums that there are.
    pub(crate) trailers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("AwsChunkedStreamError: Underlying: {0}")]
    struct Wrapped(BodyFault);

    #[test]
    fn a_fault_is_known_by_type_and_by_text() {
        for fault in BodyFault::ALL {
            let meaning = format!("{:?}", fault.meaning());
            assert_eq!(format!("{:?}", body_error(&fault)), meaning);
            assert_eq!(format!("{:?}", body_error(&Wrapped(fault))), meaning);
        }
    }

    #[test]
    fn no_text_of_a_fault_is_part_of_another() {
        for one in BodyFault::ALL {
            for other in BodyFault::ALL {
                assert!(one == other || !one.to_string().contains(&other.to_string()));
            }
        }
    }

    #[test]
    fn unknown_errors_are_a_broken_connection() {
        let err = std::io::Error::other("reset by peer");
        assert!(matches!(body_error(&err), BodyError::Broken));
    }
}
