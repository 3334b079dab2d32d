//! What becomes of a replica that was being written when its writer was lost.
//!
//! # Invariants
//!
//! - How a write could have ended is never guessed: what the backend says now decides, and while
//!   it says nothing the intent waits.
//! - Bytes that belong to no committed blob were acknowledged to nobody; they become no object,
//!   however whole they are.
//! - A replica is promoted only when its bytes have been read and their hash is the blob's. A right
//!   length shows nothing: some services give a file its length before its bytes are in it.

/// A dead intent, and what its backend says of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The size of its blob, when that blob is part of an acknowledged version or part.
    pub committed: Option<u64>,
    pub found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The backend, whose marker was seen, says that nothing is there.
    Missing,
    Bytes {
        length: u64,
        /// Whether they are the blob's; none: not read yet.
        hash_ok: Option<bool>,
    },
    /// Nothing can be learned: the backend is absent, broken, resting or out of allowance.
    Unreachable,
}

/// What to do with the intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It becomes a good replica.
    Promote,
    /// Its row goes; there is nothing to delete.
    Drop,
    /// Its path is handed to cleanup.
    Condemn,
    /// Look again when the backend answers.
    Later,
    /// Read the bytes, and ask again with what came out.
    ReadToCheck,
}

pub fn fate(dead: Dead) -> Fate {
    match (dead.found, dead.committed) {
        (Found::Unreachable, _) => Fate::Later,
        (Found::Missing, _) => Fate::Drop,
        (Found::Bytes { length, hash_ok }, Some(size)) if length == size => match hash_ok {
            Some(true) => Fate::Promote,
            Some(false) => Fate::Condemn,
            None => Fate::ReadToCheck,
        },
        (Found::Bytes { .. }, _) => Fate::Condemn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: u64, hash_ok: Option<bool>) -> Found {
        Found::Bytes { length, hash_ok }
    }

    #[test]
    fn every_case_has_its_fate() {
        let (none, of_seven) = (None, Some(7));
        for (committed, found, expected) in [
            (none, Found::Unreachable, Fate::Later),
            (of_seven, Found::Unreachable, Fate::Later),
            (none, Found::Missing, Fate::Drop),
            (of_seven, Found::Missing, Fate::Drop),
            (none, bytes(7, None), Fate::Condemn),
            (none, bytes(7, Some(false)), Fate::Condemn),
            (none, bytes(7, Some(true)), Fate::Condemn),
            (none, bytes(0, None), Fate::Condemn),
            (of_seven, bytes(7, None), Fate::ReadToCheck),
            (of_seven, bytes(7, Some(false)), Fate::Condemn),
            (of_seven, bytes(7, Some(true)), Fate::Promote),
            (of_seven, bytes(0, None), Fate::Condemn),
            (of_seven, bytes(6, None), Fate::Condemn),
            (of_seven, bytes(8, None), Fate::Condemn),
            (of_seven, bytes(8, Some(false)), Fate::Condemn),
            // A hash that is said to fit bytes of another length is not believed.
            (of_seven, bytes(6, Some(true)), Fate::Condemn),
        ] {
            let dead = Dead { committed, found };
            assert_eq!(fate(dead), expected, "{dead:?}");
        }
    }

    #[test]
    fn bytes_are_read_once_and_then_settled() {
        for hash_ok in [true, false] {
            let read = Dead { committed: Some(7), found: bytes(7, Some(hash_ok)) };
            assert!(matches!(fate(read), Fate::Promote | Fate::Condemn));
        }
    }
}
