//! The ballast: room on the disk of the data directory, kept for the day when that is full.
//!
//! It is a file of really allocated bytes beside the database. When the store meets a full disk
//! it cuts a step off the ballast and tries again what gives room back; from then on the store is
//! *tight*: only such operations get in ([`Room`]), so that deletes and cleanup work on a full disk
//! and nobody else uses up what is left. It stays tight until the ballast could be made whole
//! again with [`MARGIN`] to spare.
//!
//! # Why in steps
//!
//! Whatever filled the disk is often still at it, and would take the whole ballast before the
//! store has written a byte. It gets a step at a time, and each time the store writes first.
//!
//! # Invariants
//!
//! - Every byte below the length of the file is allocated. Whatever ends the process leaves a
//!   ballast that is shorter or longer than it should be; the next start sees and mends it.
//! - While it is whole and nothing fails nobody touches it.

use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

use super::connection::held;
use super::error::StoreError;

const NAME: &str = "ballast";
/// What is cut off at a time: many small transactions, or one large one.
const STEP: u64 = 4 << 20;
/// Room that must be left beside a whole ballast before the store takes everything again.
const MARGIN: u64 = 32 << 20;
/// What a disk has no room for if it is full.
const LOOK: u64 = 64 << 10;
const PIECE: usize = 1 << 20;

/// Whether an operation gets in while the disk is full, and is tried again on the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It stores something.
    Takes,
    /// It gives room back or lets go of something, or there is no start without it. It may be run
    /// more than once, each time in a transaction of which nothing else remains.
    Frees,
}

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// What it is when it is whole. 0: none is made, and what is there may be used.
    size: u64,
    /// Bytes that it has now.
    has: Mutex<u64>,
    /// The store met a full disk, and the ballast is not whole again.
    is_out: AtomicBool,
}

impl Ballast {
    /// What of it is there. Nothing is made yet.
    pub(super) fn find(dir: &Path, size: u64) -> Ballast {
        let path = dir.join(NAME);
        let has = fs::metadata(&path).map_or(0, |found| {
            // A copy of the directory may have left out what is empty.
            let allocated = found.blocks().saturating_mul(512);
            if allocated < found.len() { 0 } else { found.len() }
        });
        Ballast { path, size, has: Mutex::new(has), is_out: AtomicBool::new(false) }
    }

    pub(super) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }

    /// What an operation is told that does not get in.
    pub(super) fn refusal() -> StoreError {
        StoreError::Unavailable(Some(Box::new(DiskFull)))
    }

    /// The store met a full disk: from now on it is tight.
    pub(super) fn meet(&self) {
        if !self.is_out.swap(true, Ordering::AcqRel) {
            tracing::error!(
                ballast = %self.path.display(),
                bytes = self.size + MARGIN,
                "there is no room left on the disk of the data directory: only deletes are taken; \
                 free up to this many bytes there, and it goes on by itself"
            );
        }
    }

    /// The store met a full disk: gives up a step of the ballast. False when nothing is left.
    pub(super) fn give(&self) -> bool {
        let mut has = self.left_of_it();
        self.meet();
        if *has == 0 {
            return false;
        }
        let rest = has.saturating_sub(STEP);
        let cut = self.open().and_then(|file| {
            file.set_len(rest)?;
            // Some file systems give room back only then; and if not, it was cut all the same.
            let _ = file.sync_all();
            Ok(())
        });
        match cut {
            Ok(()) => {
                *has = rest;
                true
            }
            Err(err) => {
                tracing::error!(error = %err, "the ballast cannot be given up");
                false
            }
        }
    }

    /// At the start: makes it whole where it is not; without room for it the store is tight.
    pub(super) fn begin(&self) {
        let has = *held(&self.has);
        let is_well = has == self.size && !self.is_out();
        if self.size > 0 && !is_well && !self.fill() {
            self.meet();
        }
    }

    /// Makes it whole if there is room for it and [`MARGIN`]; whether it is whole now.
    pub(super) fn fill(&self) -> bool {
        let mut has = self.left_of_it();
        let whole = if self.size == 0 { *has } else { self.size };
        let made = self.make(&mut has, whole);
        if let Err(err) = &made
            && !is_full(err)
        {
            tracing::warn!(error = %err, "the ballast cannot be made");
        }
        if made.is_ok() && self.is_out.swap(false, Ordering::AcqRel) {
            tracing::info!("there is room on the disk of the data directory: writes are taken");
        }
        made.is_ok()
    }

    /// With the margin allocated as well, and then given back: no figure that a file system shows
    /// holds for everybody.
    fn make(&self, has: &mut u64, whole: u64) -> io::Result<()> {
        if *has > whole {
            self.open()?.set_len(whole)?;
            *has = whole;
        }
        if self.available()? < whole - *has + MARGIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.open()?;
        match allocate(&file, *has, whole + MARGIN) {
            Ok(()) => {
                file.set_len(whole)?;
                file.sync_all()?;
                *has = whole;
                self.left(&file, whole, Ok(()))
            }
            Err(err) => self.left(&file, *has, Err(err)),
        }
    }

    /// Whether it could be made whole if `more` bytes became free.
    pub(super) fn would_fit(&self, more: u64) -> bool {
        let wanted = self.size.saturating_sub(*held(&self.has)) + MARGIN;
        self.available().is_ok_and(|free| free.saturating_add(more) >= wanted)
    }

    /// What it has now: somebody else may have looked for room and found it.
    fn left_of_it(&self) -> MutexGuard<'_, u64> {
        let mut has = held(&self.has);
        *has = fs::metadata(&self.path).map_or(0, |found| found.len()).min(*has);
        has
    }

    /// What the file system says.
    fn available(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Asked after an error that may mean it: whether the disk, or its owner's share, is full.
    pub(super) fn is_disk_full(&self) -> bool {
        let has = self.left_of_it();
        let looked = self.open().and_then(|file| {
            let looked = allocate(&file, *has, *has + LOOK);
            self.left(&file, *has, looked)
        });
        looked.is_err_and(|err| is_full(&err))
    }

    /// Leaves `length` bytes of it, and no empty file.
    fn left(&self, file: &File, length: u64, result: io::Result<()>) -> io::Result<()> {
        file.set_len(length)?;
        if length == 0 {
            fs::remove_file(&self.path)?;
        }
        result
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)
    }
}

/// Why an operation is refused while the ballast is out.
#[derive(Debug)]
struct DiskFull;

impl fmt::Display for DiskFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the disk of the data directory is full; only deletes are taken until it is not",
        )
    }
}

impl std::error::Error for DiskFull {}

fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes the bytes from `from` to `to` real.
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    match reserve(file, from, to) {
        Err(err) if err.kind() == io::ErrorKind::Unsupported => write(file, from, to),
        other => other,
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    let reserve = || rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from);
    match rustix::io::retry_on_intr(reserve) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Where nothing can be reserved it is written: random bytes, which cannot be compressed.
fn write(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = from;
    while at < to {
        SystemRandom::new().fill(&mut piece).map_err(|_| io::Error::other("no random bytes"))?;
        let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(&piece[..length], at)?;
        at += length as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10 << 20;

    fn length(dir: &Path) -> Option<u64> {
        fs::metadata(dir.join(NAME)).ok().map(|found| found.len())
    }

    #[test]
    fn it_is_given_up_in_steps_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::find(dir.path(), SIZE);
        ballast.begin();
        assert_eq!(length(dir.path()), Some(SIZE));
        let found = fs::metadata(dir.path().join(NAME)).unwrap();
        assert!(found.blocks() * 512 >= SIZE, "its bytes are allocated");
        assert_eq!(found.mode() & 0o777, 0o600);
        assert!(!ballast.is_out());
        let mut lengths = Vec::new();
        while ballast.give() {
            assert!(ballast.is_out());
            lengths.push(length(dir.path()).unwrap());
        }
        assert_eq!(lengths, [SIZE - STEP, SIZE - 2 * STEP, 0]);
        assert!(!ballast.is_disk_full());
        assert!(ballast.fill());
        assert!(!ballast.is_out());
        assert_eq!(length(dir.path()), Some(SIZE));
        fs::remove_file(dir.path().join(NAME)).unwrap();
        assert!(!ballast.give(), "somebody else took it");
        assert!(ballast.fill());
        assert_eq!(length(dir.path()), Some(SIZE));
    }

    #[test]
    fn a_ballast_that_was_left_half_made_is_mended_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join(NAME)).unwrap();
        for left in [SIZE / 3, SIZE + MARGIN] {
            allocate(&file, 0, left).unwrap();
            let ballast = Ballast::find(dir.path(), SIZE);
            ballast.begin();
            assert_eq!(length(dir.path()), Some(SIZE));
            assert!(!ballast.is_out());
        }
        // A hole is not room.
        file.set_len(0).unwrap();
        file.set_len(SIZE).unwrap();
        Ballast::find(dir.path(), SIZE).begin();
        assert!(fs::metadata(dir.path().join(NAME)).unwrap().blocks() * 512 >= SIZE);
    }

    #[test]
    fn what_somebody_else_took_is_not_made_of_holes() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::find(dir.path(), SIZE);
        ballast.begin();
        let path = dir.path().join(NAME);
        fs::remove_file(&path).unwrap();
        assert!(!ballast.is_disk_full());
        assert_eq!(length(dir.path()), None);
        ballast.begin();
        fs::remove_file(&path).unwrap();
        ballast.meet();
        assert!(ballast.fill());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= SIZE);
    }

    #[test]
    fn what_wants_none_uses_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let none = Ballast::find(dir.path(), 0);
        none.begin();
        assert!(!none.give(), "there is nothing to give");
        assert!(none.is_out() && none.fill() && !none.is_out());
        assert!(!none.is_disk_full());
        assert_eq!(length(dir.path()), None, "and nothing is left behind");
        Ballast::find(dir.path(), SIZE).begin();
        let none = Ballast::find(dir.path(), 0);
        none.begin();
        assert_eq!(length(dir.path()), Some(SIZE));
        assert!(none.give() && none.fill());
        assert_eq!(length(dir.path()), Some(SIZE - STEP));
    }

    #[test]
    fn more_than_the_disk_has_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let stat = rustix::fs::statvfs(dir.path()).unwrap();
        let ballast = Ballast::find(dir.path(), stat.f_blocks * stat.f_frsize);
        ballast.begin();
        assert!(ballast.is_out());
        assert_eq!(length(dir.path()), None);
    }

    #[test]
    fn where_nothing_can_be_reserved_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let file = File::create(&path).unwrap();
        write(&file, 100, PIECE as u64 * 2 + 300).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.len(), PIECE as u64 * 2 + 300);
        assert!(found.blocks() * 512 >= found.len());
    }
}
