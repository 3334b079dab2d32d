//! BLAKE3 of a blob with the chaining values of its groups.
//!
//! BLAKE3 is a binary tree over its input whose left half is always the largest power of two of
//! chunks that leaves something for the right. Groups are a power of two of chunks, so each is a
//! subtree of its own and the tree above them has the same shape in groups as in chunks ("BLAKE3:
//! one function, fast everywhere", section 2.1).

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use blake3::hazmat::Mode;
use blake3::hazmat::merge_subtrees_non_root;
use blake3::hazmat::merge_subtrees_root;

use super::BlobHash;
use crate::base::limits::GROUP_SIZE;

/// A blob being hashed.
pub(super) struct Tree {
    /// Of the groups that are full and have a successor.
    groups: Vec<[u8; 32]>,
    group: Hasher,
    /// Bytes in `group`, at most [`GROUP_SIZE`].
    filled: u64,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { groups: Vec::new(), group: Hasher::new(), filled: 0 }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == GROUP_SIZE {
                self.groups.push(self.group.finalize_non_root());
                self.group = hasher_at(self.groups.len() as u64);
                self.filled = 0;
            }
            let room = usize::try_from(GROUP_SIZE - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.group.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    pub(super) fn finish(mut self) -> BlobHash {
        if self.groups.is_empty() {
            return BlobHash { hash: *self.group.finalize().as_bytes(), groups: Vec::new() };
        }
        self.groups.push(self.group.finalize_non_root());
        BlobHash { hash: root(&self.groups), groups: self.groups }
    }
}

/// How many groups a blob of `size` bytes has; an empty one has one, of no bytes.
pub(crate) fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_SIZE).max(1)
}

/// Whether `bytes` are group `index` of a blob of `blob_size` bytes: checked before they leave.
/// `groups` is empty for a blob of one group and must have been held against `hash` otherwise.
pub(crate) fn group_matches(
    bytes: &[u8],
    index: u64,
    blob_size: u64,
    hash: &[u8; 32],
    groups: &[[u8; 32]],
) -> bool {
    pieces_match([bytes], index, blob_size, hash, groups)
}

/// Like [`group_matches`], of a group in pieces.
pub(crate) fn pieces_match<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    index: u64,
    blob_size: u64,
    hash: &[u8; 32],
    groups: &[[u8; 32]],
) -> bool {
    if index >= group_count(blob_size) {
        return false;
    }
    let mut hasher = hasher_at(index);
    let mut left = GROUP_SIZE.min(blob_size - index * GROUP_SIZE);
    for piece in pieces {
        // Checked first: a subtree that takes more than its share is no subtree.
        let Some(fewer) = left.checked_sub(piece.len() as u64) else { return false };
        left = fewer;
        hasher.update(piece);
    }
    if left > 0 {
        return false;
    }
    if blob_size <= GROUP_SIZE {
        return hasher.finalize().as_bytes() == hash;
    }
    let known = usize::try_from(index).ok().and_then(|index| groups.get(index));
    known.is_some_and(|known| hasher.finalize_non_root() == *known)
}

/// Whether `groups` are the chaining values of a blob of `blob_size` bytes whose hash is `hash`.
pub(crate) fn groups_match_root(groups: &[[u8; 32]], blob_size: u64, hash: &[u8; 32]) -> bool {
    if blob_size <= GROUP_SIZE {
        return groups.is_empty();
    }
    groups.len() as u64 == group_count(blob_size) && root(groups) == *hash
}

/// A hasher for group `index`.
fn hasher_at(index: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index * GROUP_SIZE);
    hasher
}

/// The root over two or more groups.
fn root(groups: &[[u8; 32]]) -> [u8; 32] {
    let (left, right) = halves(groups);
    *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
}

fn subtree(groups: &[[u8; 32]]) -> [u8; 32] {
    match groups {
        [group] => *group,
        _ => {
            let (left, right) = halves(groups);
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The left half is the largest power of two that is less than the whole.
fn halves(groups: &[[u8; 32]]) -> (&[[u8; 32]], &[[u8; 32]]) {
    groups.split_at(groups.len().div_ceil(2).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(len: usize, split: usize) {
        let data: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
        let mut tree = Tree::new();
        data.chunks(split).for_each(|piece| tree.update(piece));
        let blob = tree.finish();
        assert_eq!(blob.hash, *blake3::hash(&data).as_bytes());
        assert!(groups_match_root(&blob.groups, len as u64, &blob.hash));
        let count = group_count(len as u64);
        assert_eq!(blob.groups.len() as u64, if count > 1 { count } else { 0 });
        let mut groups: Vec<&[u8]> = data.chunks(1 << 20).collect();
        if groups.is_empty() {
            groups.push(&[]);
        }
        for (i, group) in groups.iter().enumerate() {
            let size = len as u64;
            let matches = |bytes: &[u8], i| group_matches(bytes, i, size, &blob.hash, &blob.groups);
            assert!(matches(group, i as u64));
            assert!(!matches(group, count));
            assert!(!matches(group, u64::MAX));
            if let [most @ .., last] = group {
                assert!(!matches(most, i as u64));
                assert!(!matches(&[most, &[last ^ 1]].concat(), i as u64));
                assert!(!matches(&[group, &[0][..]].concat(), i as u64));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn groups_combine_into_the_hash(
            groups in 0usize..10,
            off in prop_oneof![-2i64..3, -1_048_575i64..1_048_576],
            split in 1000usize..2_000_000,
        ) {
            check(usize::try_from(((groups << 20) as i64) + off).unwrap_or(0), split);
        }
    }

    #[test]
    fn changed_group_values_are_noticed() {
        let mut tree = Tree::new();
        tree.update(&vec![1; 5 << 20]);
        let blob = tree.finish();
        for i in 0..blob.groups.len() {
            let mut groups = blob.groups.clone();
            groups[i][31] ^= 0x80;
            assert!(!groups_match_root(&groups, 5 << 20, &blob.hash));
        }
        assert!(!groups_match_root(&blob.groups[..4], 5 << 20, &blob.hash));
        assert!(!groups_match_root(&[], 5 << 20, &blob.hash));
        assert!(!groups_match_root(&blob.groups, 1 << 20, &blob.hash));
    }
}
