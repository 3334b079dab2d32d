//! The hashes of a whole body that S3 clients ask for, and their combination over parts.

use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha1::Sha1;
use sha2::Digest;
use sha2::Sha256;

use super::BodyHash;
use super::Wanted;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;

/// Everything wanted of a body but MD5.
pub(super) struct Digests {
    /// Wanted apart from the checksums.
    wants_sha256: bool,
    algorithms: Vec<ChecksumAlgorithm>,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
    crcs: Vec<(ChecksumAlgorithm, crc_fast::Digest)>,
}

impl Digests {
    pub(super) fn new(wanted: &Wanted) -> Digests {
        let mut algorithms: Vec<ChecksumAlgorithm> = Vec::new();
        for algorithm in &wanted.algorithms {
            if !algorithms.contains(algorithm) {
                algorithms.push(*algorithm);
            }
        }
        let has = |algorithm| algorithms.contains(&algorithm);
        let crcs = algorithms.iter().filter_map(|&a| Some((a, crc_fast::Digest::new(crc(a)?))));
        Digests {
            wants_sha256: wanted.sha256,
            sha1: has(ChecksumAlgorithm::Sha1).then(Sha1::new),
            sha256: (wanted.sha256 || has(ChecksumAlgorithm::Sha256)).then(Sha256::new),
            crcs: crcs.collect(),
            algorithms,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for (_, crc) in &mut self.crcs {
            crc.update(bytes);
        }
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Without MD5.
    pub(super) fn finish(self) -> BodyHash {
        let sha1: Option<[u8; 20]> = self.sha1.map(|sha1| sha1.finalize().into());
        let sha256: Option<[u8; 32]> = self.sha256.map(|sha256| sha256.finalize().into());
        let crc_of = |algorithm: ChecksumAlgorithm| {
            let (_, crc) = self.crcs.iter().find(|(of, _)| *of == algorithm)?;
            Some(big_endian(crc.finalize(), algorithm))
        };
        let value = |algorithm| match algorithm {
            ChecksumAlgorithm::Sha1 => sha1.map(Vec::from),
            ChecksumAlgorithm::Sha256 => sha256.map(Vec::from),
            crc => crc_of(crc),
        };
        let checksums = self.algorithms.iter().filter_map(|&a| Checksum::new(a, value(a)?));
        BodyHash {
            md5: None,
            checksums: checksums.collect(),
            sha256: sha256.filter(|_| self.wants_sha256),
        }
    }
}

pub(super) fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// The checksum of a whole object from those of its parts with their lengths; `None` when a part
/// has another algorithm's, or when the algorithm has no checksum of this kind. A composite one
/// comes without the number of parts that S3 appends to it.
pub(crate) fn combine(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumType,
    parts: &[(&Checksum, u64)],
) -> Option<Checksum> {
    let fits = |(part, _): &(&Checksum, u64)| part.algorithm() == algorithm;
    if !algorithm.types().contains(&kind) || !parts.iter().all(fits) {
        return None;
    }
    match kind {
        ChecksumType::FullObject => {
            let of = crc(algorithm)?;
            let whole = parts.iter().fold(crc_fast::checksum(of, b""), |whole, (part, len)| {
                let part = part.value().iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
                crc_fast::checksum_combine(of, whole, part, *len)
            });
            Checksum::new(algorithm, big_endian(whole, algorithm))
        }
        ChecksumType::Composite => {
            let wanted = Wanted { algorithms: vec![algorithm], ..Wanted::default() };
            let mut digests = Digests::new(&wanted);
            parts.iter().for_each(|(part, _)| digests.update(part.value()));
            digests.finish().checksums.pop()
        }
    }
}

/// `None` for what is no CRC.
fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn big_endian(value: u64, algorithm: ChecksumAlgorithm) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.value_len()..].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let mut digests =
            Digests::new(&Wanted { algorithms: vec![algorithm], ..Wanted::default() });
        digests.update(bytes);
        digests.finish().checksums.remove(0)
    }

    proptest! {
        #[test]
        fn crcs_of_parts_combine_into_that_of_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        ) {
            for algorithm in ChecksumAlgorithm::ALL {
                let sums: Vec<_> =
                    parts.iter().map(|p| (one(algorithm, p), p.len() as u64)).collect();
                let sums: Vec<_> = sums.iter().map(|(sum, len)| (sum, *len)).collect();
                let full = combine(algorithm, ChecksumType::FullObject, &sums);
                let whole = one(algorithm, &parts.concat());
                let is_crc = crc(algorithm).is_some();
                prop_assert_eq!(full, is_crc.then_some(whole));
                let composite = combine(algorithm, ChecksumType::Composite, &sums);
                let values: Vec<u8> =
                    sums.iter().flat_map(|(sum, _)| sum.value().to_vec()).collect();
                let of_values = one(algorithm, &values);
                let has = algorithm != ChecksumAlgorithm::Crc64Nvme;
                prop_assert_eq!(composite, has.then_some(of_values));
            }
        }
    }

    #[test]
    fn a_part_of_another_algorithm_is_a_missing_one() {
        let (crc, sha) =
            (one(ChecksumAlgorithm::Crc32, b"a"), one(ChecksumAlgorithm::Sha256, b"b"));
        let parts = [(&crc, 1), (&sha, 1)];
        assert_eq!(combine(ChecksumAlgorithm::Crc32, ChecksumType::Composite, &parts), None);
    }

    #[test]
    fn each_algorithm_is_given_once() {
        let twice = vec![ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Sha256];
        let digests = Digests::new(&Wanted { algorithms: twice, ..Wanted::default() });
        let body = digests.finish();
        assert_eq!((body.checksums.len(), body.sha256), (1, None));
    }
}
