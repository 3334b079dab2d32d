//! Contents and checksums that can be computed again instead of being kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest;

/// A small generator: good enough that no two contents agree by chance.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// The `size` bytes that belong to write number `n` of `key`.
pub(crate) fn content(key: &str, n: u64, size: usize) -> Vec<u8> {
    let name = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut rng = Rng::new(name ^ n.rotate_left(32));
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    BASE64.decode(text).expect("it is base64")
}

/// The ETag of a body written at once, with its quotes.
pub(crate) fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex(&md5::Md5::digest(body)))
}

/// The ETag of an object completed from `parts`, with its quotes.
pub(crate) fn multipart_etag(parts: &[&[u8]]) -> String {
    let all: Vec<u8> = parts.iter().flat_map(|part| md5::Md5::digest(part).to_vec()).collect();
    format!("\"{}-{}\"", hex(&md5::Md5::digest(&all)), parts.len())
}

pub(crate) fn md5_base64(body: &[u8]) -> String {
    base64(&md5::Md5::digest(body))
}

pub(crate) const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// The checksum of `body` as the header `x-amz-checksum-<algorithm>` has it.
pub(crate) fn checksum(algorithm: &str, body: &[u8]) -> String {
    base64(&raw_checksum(algorithm, body))
}

fn raw_checksum(algorithm: &str, body: &[u8]) -> Vec<u8> {
    use crc_fast::CrcAlgorithm::{Crc32Iscsi, Crc32IsoHdlc, Crc64Nvme};
    let crc32 = |kind| (crc_fast::checksum(kind, body) as u32).to_be_bytes().to_vec();
    match algorithm {
        "crc32" => crc32(Crc32IsoHdlc),
        "crc32c" => crc32(Crc32Iscsi),
        "crc64nvme" => crc_fast::checksum(Crc64Nvme, body).to_be_bytes().to_vec(),
        "sha1" => sha1::Sha1::digest(body).to_vec(),
        "sha256" => sha2::Sha256::digest(body).to_vec(),
        other => panic!("no algorithm {other}"),
    }
}

/// The composite checksum of an object completed from `parts`, with its part count.
pub(crate) fn composite_checksum(algorithm: &str, parts: &[&[u8]]) -> String {
    let all: Vec<u8> = parts.iter().flat_map(|part| raw_checksum(algorithm, part)).collect();
    format!("{}-{}", checksum(algorithm, &all), parts.len())
}

#[test]
fn contents_differ_by_key_number_and_place() {
    assert_eq!(content("a", 1, 100), content("a", 1, 100));
    assert_ne!(content("a", 1, 16), content("a", 2, 16));
    assert_ne!(content("a", 1, 16), content("b", 1, 16));
    assert_eq!(content("a", 1, 100)[..7], content("a", 1, 7));
    // "Catalogue of parametrised CRC algorithms": the check values of "123456789".
    assert_eq!(unbase64(&checksum("crc32", b"123456789")), 0xcbf4_3926_u32.to_be_bytes());
    assert_eq!(unbase64(&checksum("crc32c", b"123456789")), 0xe306_9283_u32.to_be_bytes());
    let nvme = 0xae8b_1486_0a79_9888_u64;
    assert_eq!(unbase64(&checksum("crc64nvme", b"123456789")), nvme.to_be_bytes());
}
