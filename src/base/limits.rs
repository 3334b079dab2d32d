//! Every limit of the program, with its source and the relations between them.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

// ---- S3's own, from "Amazon S3 User Guide: object key naming, metadata, multipart upload limits".

/// Bytes of a key.
pub const KEY_MAX: usize = 1024;
/// Bytes of user metadata, names and values together, without the `x-amz-meta-` prefix.
pub const USER_METADATA_MAX: usize = 2 * KIB as usize;
pub const TAGS_MAX: usize = 10;
pub const TAG_KEY_CHARS_MAX: usize = 128;
pub const TAG_VALUE_CHARS_MAX: usize = 256;
/// Entries of a listing page, and keys of one DeleteObjects.
pub const PAGE_MAX: usize = 1000;
pub const PART_NUMBER_MAX: u32 = 10_000;
/// Every part but the last has at least this.
pub const PART_SIZE_MIN: u64 = 5 * MIB;
pub const PART_SIZE_MAX: u64 = 5 * GIB;
/// Bytes of one PutObject.
pub const PUT_SIZE_MAX: u64 = 5 * GIB;
pub const OBJECT_SIZE_MAX: u64 = 5 * TIB;
/// Lifecycle rules of a bucket.
pub const LIFECYCLE_RULES_MAX: usize = 1000;
pub const RULE_ID_CHARS_MAX: usize = 255;
/// Days are 32-bit numbers with a sign in S3's XML.
pub const RULE_DAYS_MAX: u32 = i32::MAX as u32;
/// How far a signature's time may be from ours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(15 * 60);
pub const PRESIGNED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of an XML request body: 10,000 parts with all checksums fit.
pub const XML_BODY_MAX: usize = 8 * MIB as usize;

// ---- Ours.

/// Bodies up to this are read whole and take the short path.
pub const SHORT_BODY_MAX: u64 = 64 * KIB;
/// Bytes between two verified points of a blob. BLAKE3 subtrees want a power of two.
pub const GROUP_SIZE: u64 = MIB;
/// What one request may have in flight towards its backends.
pub const WINDOW: u64 = 8 * MIB;
/// Pieces in which a body is hashed and handed on.
pub const PIECE: usize = 256 * KIB as usize;
/// A leg that makes no progress for this long, while enough others do, is aborted.
pub const LEG_STALL: Duration = Duration::from_secs(5);
/// How long a write that finds no room waits for cleanup.
pub const ROOM_WAIT: Duration = Duration::from_secs(2);
/// The most replicas that a placement may wish.
pub const REPLICAS_MAX: u32 = 16;
/// One signed chunk of an `aws-chunked` body: it is held whole until its signature is known.
pub const SIGNED_CHUNK_MAX: u64 = 16 * MIB;
/// Operations in one group commit.
pub const BATCH_MAX: usize = 256;
/// Operations that wait for the writer thread, each queue.
pub const WRITER_QUEUE_MAX: usize = 4096;
/// Rows that one transaction of background work may touch.
pub const WORK_ROWS_MAX: usize = 200;
/// What a blob may be at a service that takes it in one shot.
pub const ONE_SHOT_BLOB_MAX: u64 = 16 * MIB;
pub const BLOB_SIZE_MIN: u64 = MIB;
pub const BLOB_SIZE_MAX: u64 = 4 * GIB;

const _: () = {
    assert!(GROUP_SIZE.is_power_of_two());
    assert!(SHORT_BODY_MAX <= GROUP_SIZE);
    assert!(WINDOW >= 4 * GROUP_SIZE);
    assert!(GROUP_SIZE.is_multiple_of(PIECE as u64));
    assert!(ONE_SHOT_BLOB_MAX >= BLOB_SIZE_MIN);
    assert!(BATCH_MAX <= WRITER_QUEUE_MAX);
    assert!(PART_SIZE_MAX * (PART_NUMBER_MAX as u64) >= OBJECT_SIZE_MAX);
};
