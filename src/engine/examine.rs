//! Looking at one stored replica: is it there, is it as long as it should be, are its bytes right.
//!
//! It changes nothing and says only what was seen; what follows from that is decided elsewhere.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fault;

/// What was seen of a replica.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It is there, as long as it should be and, where it was read, with the right bytes.
    Whole,
    /// Its backend, whose marker was seen in the same step, does not have it.
    Missing,
    Length(u64),
    /// Other bytes than were written.
    Wrong,
    /// The backend answers and does not give it.
    Unreadable(BackendError),
    /// Nothing is known: the backend is absent, left alone, or a limit is reached.
    Away(BackendError),
}

impl Seen {
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Seen::Whole)
    }
}

/// Looks at the file at `path`, which should have `size` bytes.
pub(crate) async fn look(backend: &Backend, path: &str, size: u64) -> Seen {
    match backend.stat(path).await {
        Ok(stat) if stat.size == size => Seen::Whole,
        Ok(stat) => Seen::Length(stat.size),
        Err(err) => trouble(err),
    }
}

/// Reads it whole and compares it with `hash`; `read` counts its bytes as they come.
pub(crate) async fn read(
    backend: &Backend,
    path: &str,
    size: u64,
    hash: &[u8; 32],
    read: &AtomicU64,
) -> Seen {
    // A read gives what it is asked for and says nothing of what comes after.
    match look(backend, path, size).await {
        Seen::Whole => {}
        seen => return seen,
    }
    let mut body = match backend.read(path, 0..size).await {
        Ok(body) => body,
        Err(err) => return trouble(err),
    };
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                read.fetch_add(piece.len() as u64, Ordering::Relaxed);
                hasher.update(&piece);
            }
            Err(err) => return trouble(err),
        }
    }
    if hasher.finalize().as_bytes() == hash { Seen::Whole } else { Seen::Wrong }
}

/// What a failed call says of the replica.
pub(crate) fn trouble(err: BackendError) -> Seen {
    match err.fault {
        Fault::Missing => Seen::Missing,
        Fault::Damaged => Seen::Wrong,
        Fault::Absent | Fault::Resting | Fault::Spent => Seen::Away(err),
        Fault::Full | Fault::Refused | Fault::Passing => Seen::Unreadable(err),
    }
}
