//! Hashing of bodies, on threads of its own beside the network.
//!
//! A body has two lanes that run in parallel, each in the order of the bytes: BLAKE3 with SHA and
//! the CRCs on one, MD5 on the other, because MD5 alone is slower than all the rest together.
//! Bodies share a fixed set of threads; a lane that has work waits in one queue for its turn and
//! goes to the end of it after each batch, so that a large body does not hold up a small one.
//!
//! # Invariants
//!
//! - The chaining values of a blob's groups always combine into its BLAKE3 hash: whoever reads
//!   them back checks that before it believes them ([`groups_match_root`]).
//! - A body holds at most a window of bytes that are handed on and not yet hashed.

mod digests;
mod lanes;
mod tree;

use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;

pub(crate) use digests::combine;
pub(crate) use lanes::BodyHasher;
pub(crate) use lanes::Hashers;
pub(crate) use tree::group_matches;
pub(crate) use tree::groups_match_root;
pub(crate) use tree::pieces_match;

use digests::Digests;
use tree::Tree;

/// What to compute besides BLAKE3.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) md5: bool,
    pub(crate) sha256: bool,
    pub(crate) algorithms: Vec<ChecksumAlgorithm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobHash {
    pub(crate) hash: [u8; 32],
    /// Chaining values of the 1 MiB groups; empty when the blob has at most one group.
    pub(crate) groups: Vec<[u8; 32]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BodyHash {
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) sha256: Option<[u8; 32]>,
    /// One for each algorithm that was wanted, in that order, each once.
    pub(crate) checksums: Vec<Checksum>,
}

/// All hashes of a short body, inline.
pub(crate) fn hash_short(bytes: &[u8], wanted: &Wanted) -> (BlobHash, BodyHash) {
    let mut tree = Tree::new();
    tree.update(bytes);
    let mut digests = Digests::new(wanted);
    digests.update(bytes);
    let mut body = digests.finish();
    body.md5 = wanted.md5.then(|| digests::md5(bytes));
    (tree.finish(), body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::base::limits::GROUP_SIZE;
    use crate::base::limits::PIECE;
    use crate::base::limits::WINDOW;

    fn bytes_of(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
    }

    fn everything() -> Wanted {
        Wanted { md5: true, sha256: true, algorithms: ChecksumAlgorithm::ALL.to_vec() }
    }

    #[test]
    fn known_vectors() {
        let (blob, body) = hash_short(b"123456789", &everything());
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&body.md5.unwrap()), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(
            hex(&body.sha256.unwrap()),
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
        );
        let values: Vec<String> = body.checksums.iter().map(|c| hex(c.value())).collect();
        assert_eq!(
            values,
            [
                "cbf43926",
                "e3069283",
                "ae8b14860a799888",
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ]
        );
        assert_eq!(blob.hash, *blake3::hash(b"123456789").as_bytes());
        let (_, nothing) = hash_short(b"x", &Wanted::default());
        assert_eq!(nothing, BodyHash::default());
    }

    /// Hashes `data` as blobs of `blob` bytes in frames whose sizes go round in `frames`.
    async fn in_lanes(
        hashers: &Hashers,
        data: &[u8],
        blob: usize,
        frames: &[usize],
    ) -> (Vec<BlobHash>, BodyHash) {
        let mut hasher = hashers.begin(everything());
        let mut sizes = frames.iter().copied().cycle();
        let mut blobs = Vec::new();
        for blob in data.chunks(blob) {
            let mut rest = Bytes::copy_from_slice(blob);
            while !rest.is_empty() {
                let len = sizes.next().unwrap().clamp(1, rest.len());
                hasher.update(rest.split_to(len)).await;
            }
            blobs.push(hasher.end_blob().await);
        }
        (blobs, hasher.finish().await)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn lanes_give_what_hashing_at_once_gives(
            len in prop_oneof![
                0usize..70_000,
                (0u64..5, -2i64..3).prop_map(|(g, d)| {
                    usize::try_from((g * GROUP_SIZE) as i64 + d).unwrap_or(0)
                }),
                0usize..5 << 20,
            ],
            blob in prop_oneof![Just(1usize << 20), Just(2 << 20), Just(3 << 20), Just(16 << 20)],
            mut frames in prop::collection::vec(
                prop_oneof![500usize..5000, 10_000usize..600_000], 1..12),
            seed: u8,
        ) {
            frames.push(1);
            let data = bytes_of(len, seed);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let hashers = Hashers::new(2);
            let (blobs, body) = runtime.block_on(in_lanes(&hashers, &data, blob, &frames));
            let expected: Vec<BlobHash> =
                data.chunks(blob).map(|b| hash_short(b, &Wanted::default()).0).collect();
            prop_assert_eq!(&blobs, &expected);
            for (got, bytes) in blobs.iter().zip(data.chunks(blob)) {
                let hash = blake3::hash(bytes);
                prop_assert_eq!(got.hash.as_slice(), hash.as_bytes().as_slice());
            }
            prop_assert_eq!(body, hash_short(&data, &everything()).1);
        }
    }

    #[tokio::test]
    async fn an_empty_body_and_an_empty_blob_have_hashes() {
        let hashers = Hashers::new(1);
        let mut hasher = hashers.begin(everything());
        let blob = hasher.end_blob().await;
        assert_eq!(blob.hash, *blake3::hash(b"").as_bytes());
        assert_eq!(hasher.finish().await, hash_short(b"", &everything()).1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_bodies_share_the_threads_and_given_up_ones_leave_them() {
        let hashers = Hashers::new(2);
        let data = bytes_of(3 * PIECE + 17, 3);
        let expected = hash_short(&data, &everything());
        for _ in 0..8 {
            let mut given_up = hashers.begin(everything());
            given_up.update(Bytes::from(data.clone())).await;
        }
        let bodies = (0..8).map(|_| {
            let (hashers, data) = (hashers.clone(), data.clone());
            tokio::spawn(async move { in_lanes(&hashers, &data, data.len(), &[70_001]).await })
        });
        for body in bodies.collect::<Vec<_>>() {
            let (blobs, body) = body.await.unwrap();
            assert_eq!((&blobs[0], &body), (&expected.0, &expected.1));
        }
    }

    #[tokio::test]
    async fn a_body_far_ahead_waits_for_the_lanes() {
        let hashers = Hashers::new(1);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let blocker = hashers.clone();
        let blocked = tokio::spawn(async move { blocker.run(move || held.recv()).await });
        tokio::task::yield_now().await;
        let mut hasher = hashers.begin(everything());
        let piece = Bytes::from(vec![7; PIECE]);
        let mut ahead = 0u64;
        let full = loop {
            let step = hasher.update(piece.clone());
            match futures_util::FutureExt::now_or_never(step) {
                Some(()) => ahead += PIECE as u64,
                None => break ahead,
            }
            assert!(ahead <= WINDOW, "the window has no bound");
        };
        assert!(full >= WINDOW / 2, "{full} bytes are less than half a window");
        hold.send(()).unwrap();
        blocked.await.unwrap().unwrap();
        // The update that had to wait was given up halfway; none of its bytes are lost.
        let blob = hasher.end_blob().await;
        let all = vec![7; usize::try_from(full).unwrap() + PIECE];
        assert_eq!(blob.hash, *blake3::hash(&all).as_bytes());
    }
}
