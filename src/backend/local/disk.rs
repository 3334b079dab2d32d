//! One local root: what is done on its file system, each as one blocking step.
//!
//! A write goes to a temporary name beside the marker, is synced, renamed and its directory
//! synced. Nothing here waits for anything but the disk; the threads are [`Pool`]'s.
//!
//! # Invariants
//!
//! - The root is made by nobody here. Temporary files live in a directory that is named after the
//!   marker, so a write to a root whose disk is not mounted, or is another one, creates nothing.
//! - "Not there" is said only when the marker was seen after the look; otherwise it is absence.
//! - A directory is in `known` only after its own name was synced. Whoever makes one again took it
//!   out first, so a file that was put into a known directory which is known afterwards, too, lies
//!   in one whose name will be there after a loss of power.
//! - After a failed sync the temporary file is removed and the path is given up.
//! - A delete is not synced: a file that comes back with the power is debris of a path that no
//!   row names, which the reconciler finds, while a sync for each would slow down the writers.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::pool::Pool;
use super::sync::DirSyncs;
use super::sync::sync_dir;
use super::walk::modified;
use crate::backend::Stat;
use crate::backend::error::{Aim, Failure, Fault};
use crate::backend::marker::MARKER_DIR;
use crate::backend::open::fresh_name;

/// Directories whose names are known to be durable; beyond it they are looked at again.
const KNOWN_DIRS_MAX: usize = 4096;
/// How often a rename is tried again because the directory was removed under it.
const PUBLISH_TRIES: usize = 8;
/// How long the free space that was read stays good enough.
const SPACE_FRESH: Duration = Duration::from_secs(1);

/// A local root, shared by all who opened it in this process.
pub(crate) struct Disk {
    root: PathBuf,
    /// The marker that makes the root ours; `None` while it is being probed or added.
    marker: Option<PathBuf>,
    temp_dir: PathBuf,
    pub(crate) pool: Pool,
    known: Mutex<HashSet<PathBuf>>,
    syncs: DirSyncs,
    next_temp: AtomicU64,
    swept: AtomicBool,
    space: Mutex<Option<(Instant, Space)>>,
    refreshing: AtomicBool,
    /// Something was deleted since the space was read.
    grown: AtomicBool,
    device: Mutex<Option<u64>>,
}

/// Bytes of a file system: those that we may take, and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) available: u64,
    pub(crate) total: u64,
}

/// A file that has no name yet that anybody looks for. Goes when dropped, unless published.
pub(crate) struct Temp {
    path: PathBuf,
    file: File,
    published: AtomicBool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published.load(Ordering::Acquire) {
            // Whatever cannot be removed now goes when the root is next opened.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The roots that are open in this process, so that two generations of the configuration share
/// one: its threads, and what it knows of directories and temporary files.
static OPEN: LazyLock<Mutex<OpenDisks>> = LazyLock::new(Mutex::default);

/// By root and name of the marker.
type OpenDisks = HashMap<(PathBuf, String), Weak<Disk>>;

/// Begins the names of this run's temporary files. Not the process's id: in a container that is
/// the same in every run.
static RUN: LazyLock<String> = LazyLock::new(|| fresh_name("run"));

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// The root at `root` that the marker called `marker` makes ours.
    pub(crate) fn open(root: &Path, marker: &str) -> Arc<Disk> {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let key = (root.clone(), marker.to_owned());
        let mut open = lock(&OPEN);
        open.retain(|_, disk| disk.strong_count() > 0);
        if let Some(disk) = open.get(&key).and_then(Weak::upgrade) {
            return disk;
        }
        let marker_path = root.join(MARKER_DIR).join(marker);
        let disk = Arc::new(Disk::new(root, Some(marker_path), marker));
        open.insert(key, Arc::downgrade(&disk));
        disk
    }

    /// A root that is being tried, under a name of the attempt's own.
    pub(crate) fn attempt(root: &Path, name: &str) -> io::Result<Arc<Disk>> {
        let disk = Disk::new(std::path::absolute(root)?, None, name);
        fs::create_dir_all(disk.temp_dir.parent().unwrap_or(&disk.root))?;
        fs::create_dir(&disk.temp_dir)?;
        Ok(Arc::new(disk))
    }

    /// Ends an attempt: its temporary directory goes.
    pub(crate) fn end_attempt(&self) {
        let _ = fs::remove_dir_all(&self.temp_dir);
        let _ = fs::remove_dir(self.root.join(MARKER_DIR));
    }

    fn new(root: PathBuf, marker: Option<PathBuf>, name: &str) -> Disk {
        let temp_dir = root.join(MARKER_DIR).join(format!("{name}.tmp"));
        Disk {
            pool: Pool::new(&root.to_string_lossy()),
            root,
            marker,
            temp_dir,
            known: Mutex::default(),
            syncs: DirSyncs::default(),
            next_temp: AtomicU64::new(0),
            swept: AtomicBool::new(false),
            space: Mutex::default(),
            refreshing: AtomicBool::new(false),
            grown: AtomicBool::new(false),
            device: Mutex::default(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the marker can be seen now.
    pub(crate) fn seen(&self) -> io::Result<bool> {
        let Some(marker) = &self.marker else { return Ok(true) };
        match fs::metadata(marker) {
            Ok(metadata) => Ok(metadata.is_file()),
            Err(err) => match err.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
                _ => Err(err),
            },
        }
    }

    /// Looks at the marker and, when it is there, at the file system that it is on.
    pub(crate) fn look(&self) -> Result<(), Failure> {
        self.must_be_seen()?;
        let metadata = fs::metadata(&self.root).map_err(|err| Failure::io(err, Aim::Look))?;
        *lock(&self.device) = Some(metadata.dev());
        self.read_space();
        if !self.swept.swap(true, Ordering::AcqRel) {
            self.sweep();
        }
        Ok(())
    }

    fn must_be_seen(&self) -> Result<(), Failure> {
        match self.seen() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::new(Fault::Absent)),
            Err(err) => Err(Failure::io(err, Aim::Look)),
        }
    }

    /// What an error means: something is missing only from a root that is there.
    fn failure(&self, err: io::Error, aim: Aim) -> Failure {
        let failure = if aim == Aim::Make { self.unmade(err) } else { Failure::io(err, aim) };
        match failure.fault {
            Fault::Missing => match self.must_be_seen() {
                Ok(()) => failure,
                Err(unseen) => Failure { cause: failure.cause, ..unseen },
            },
            _ => failure,
        }
    }

    /// The file that `path` names: below the root, by plain components only.
    fn resolve(&self, path: &str) -> Result<PathBuf, Failure> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if path.is_empty() || path.ends_with('/') || !Path::new(path).components().all(plain) {
            let err = io::Error::new(io::ErrorKind::InvalidInput, "not a path below the root");
            return Err(Failure::io(err, Aim::Make));
        }
        Ok(self.root.join(path))
    }

    pub(crate) fn device(&self) -> Option<u64> {
        *lock(&self.device)
    }

    /// The space as last read; read again in the background when that is a while ago.
    pub(crate) fn space(self: &Arc<Self>) -> Option<Space> {
        let last = *lock(&self.space);
        let fresh = last.is_some_and(|(when, _)| when.elapsed() < SPACE_FRESH)
            && !self.grown.load(Ordering::Acquire);
        if !fresh && !self.refreshing.swap(true, Ordering::AcqRel) {
            let disk = Arc::clone(self);
            let job = move || {
                disk.read_space();
                disk.refreshing.store(false, Ordering::Release);
            };
            if !self.pool.later(job) {
                self.refreshing.store(false, Ordering::Release);
            }
        }
        last.map(|(_, space)| space)
    }

    fn read_space(&self) {
        self.grown.store(false, Ordering::Release);
        if let Ok(stat) = rustix::fs::statvfs(&self.root) {
            let space = Space {
                available: stat.f_bavail.saturating_mul(stat.f_frsize),
                total: stat.f_blocks.saturating_mul(stat.f_frsize),
            };
            *lock(&self.space) = Some((Instant::now(), space));
        }
    }

    /// `size` bytes were taken since the space was read.
    fn spend(&self, size: u64) {
        if let Some((_, space)) = &mut *lock(&self.space) {
            space.available = space.available.saturating_sub(size);
        }
    }

    /// What a failure to make something means. That the disk is full is known from then on.
    fn unmade(&self, err: io::Error) -> Failure {
        let failure = Failure::io(err, Aim::Make);
        if failure.fault == Fault::Full {
            self.read_space();
        }
        failure
    }

    fn refresh_space(&self) {
        let stale = lock(&self.space).is_none_or(|(when, _)| when.elapsed() >= SPACE_FRESH);
        if stale {
            self.read_space();
        }
    }

    /// Removes what earlier runs of the process left; what this one made may be in use.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.temp_dir) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(RUN.as_str()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A new temporary file.
    pub(crate) fn temp(&self) -> Result<Temp, Failure> {
        self.must_be_seen()?;
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.temp_dir.join(format!("{}-{number}", *RUN));
        let open =
            || File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let opened = match open() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                // The marker is there, only the directory beside it is not.
                match fs::create_dir(&self.temp_dir) {
                    Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
                    _ => open(),
                }
            }
            other => other,
        };
        match opened {
            Ok(file) => Ok(Temp { path, file, published: AtomicBool::new(false) }),
            Err(err) => Err(match self.failure(err, Aim::Make) {
                failure if failure.fault == Fault::Missing => {
                    Failure { fault: Fault::Passing, ..failure }
                }
                failure => failure,
            }),
        }
    }

    /// Writes `bytes` into a temporary file, at `offset`.
    pub(crate) fn fill(&self, temp: &Temp, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        temp.file.write_all_at(bytes, offset).map_err(|err| self.unmade(err))
    }

    /// Begins to make durable what was filled in so far; the error, if any, is final.
    pub(crate) fn flush(&self, temp: &Temp) -> Result<(), Failure> {
        temp.file.sync_data().map_err(|err| self.unmade(err))
    }

    /// Makes a temporary file of `size` bytes durable under `path`, and answers when it is.
    pub(crate) fn publish(&self, temp: &Temp, path: &str, size: u64, reply: PutReply) {
        let renamed = self.flush(temp).and_then(|()| {
            let length = temp.file.metadata().map_err(|err| Failure::io(err, Aim::Make))?.len();
            if length != size {
                let why = format!("{length} bytes were written, not {size}");
                return Err(Failure::because(Fault::Passing, why));
            }
            // Nobody waits any more: better no file than one that nobody knows of.
            if reply.is_closed() {
                return Err(Failure::new(Fault::Passing));
            }
            self.rename(temp, &self.resolve(path)?)
        });
        if renamed.is_ok() {
            self.spend(size);
        }
        self.refresh_space();
        let dir = match renamed {
            Ok(dir) => dir,
            Err(failure) => {
                let _ = reply.send(Err(failure));
                return;
            }
        };
        let dest = self.root.join(path);
        let answer = move |synced: io::Result<()>| {
            let result = synced.map_err(|err| {
                let _ = fs::remove_file(&dest);
                Failure::io(err, Aim::Make).unknown()
            });
            let _ = reply.send(result.map_err(|failure| match failure.fault {
                Fault::Missing => Failure { fault: Fault::Passing, ..failure },
                _ => failure,
            }));
        };
        self.syncs.sync(&dir, Box::new(answer));
    }

    /// Gives a temporary file its name, and returns the directory that is to be synced.
    fn rename(&self, temp: &Temp, dest: &Path) -> Result<PathBuf, Failure> {
        // A stream may have begun long ago, on a disk that is gone by now.
        self.must_be_seen()?;
        let dir = dest.parent().unwrap_or(&self.root);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..PUBLISH_TRIES {
            match self.ensure_dir(dir).and_then(|()| rename_new(&temp.path, dest)) {
                Ok(()) => {
                    temp.published.store(true, Ordering::Release);
                    // It may have been removed and made again in between.
                    return match self.ensure_dir(dir) {
                        Ok(()) => Ok(dir.to_owned()),
                        Err(err) => Err(self.failure(err, Aim::Make).unknown()),
                    };
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => last = err,
                Err(err) => return Err(self.failure(err, Aim::Make)),
            }
            // A directory was removed, or the disk is gone, in which case nothing may be made.
            self.must_be_seen()?;
            self.forget(dir);
        }
        Err(Failure::because(Fault::Passing, last))
    }

    /// Makes `dir` and what is missing above it, up to the root, all durably.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if dir == self.root || lock(&self.known).contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(&self.root);
        self.ensure_dir(parent)?;
        match fs::create_dir(dir) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::metadata(dir)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            other => other?,
        }
        // Also when it was there: whoever made it may not have synced it yet.
        sync_dir(parent)?;
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_DIRS_MAX {
            known.clear();
        }
        known.insert(dir.to_owned());
        Ok(())
    }

    fn forget(&self, dir: &Path) {
        let mut known = lock(&self.known);
        for dir in dir.ancestors().take_while(|dir| *dir != self.root) {
            known.remove(dir);
        }
    }

    /// Writes a whole file and answers when it is durable.
    pub(crate) fn put(&self, path: &str, bytes: &Bytes, reply: PutReply) {
        let filled = self.resolve(path).and_then(|_| {
            let temp = self.temp()?;
            self.fill(&temp, 0, bytes)?;
            Ok(temp)
        });
        match filled {
            Ok(temp) => self.publish(&temp, path, bytes.len() as u64, reply),
            Err(failure) => {
                let _ = reply.send(Err(failure));
            }
        }
    }

    pub(crate) fn open_file(&self, path: &str) -> Result<File, Failure> {
        File::open(self.resolve(path)?).map_err(|err| self.failure(err, Aim::Look))
    }

    /// Exactly the bytes of `range`, which fit in memory.
    pub(crate) fn read(&self, file: &File, range: Range<u64>) -> Result<Bytes, Failure> {
        let length = range.end.saturating_sub(range.start);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(err) => Err(Failure::io(err, Aim::Look)),
        }
    }

    pub(crate) fn stat(&self, path: &str) -> Result<Stat, Failure> {
        match fs::metadata(self.resolve(path)?) {
            Ok(metadata) if metadata.is_file() => {
                Ok(Stat { size: metadata.len(), modified: modified(&metadata) })
            }
            Ok(_) => Err(self.failure(io::ErrorKind::NotFound.into(), Aim::Look)),
            Err(err) => Err(self.failure(err, Aim::Look)),
        }
    }

    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        let file = self.resolve(path)?;
        match fs::remove_file(&file) {
            Ok(()) => {
                self.prune(&file);
                self.grown.store(true, Ordering::Release);
                Ok(())
            }
            Err(err) => match self.failure(err, Aim::Look) {
                failure if failure.fault == Fault::Missing => Ok(()),
                failure => Err(failure),
            },
        }
    }

    /// Removes the directories above a deleted file that are empty now.
    fn prune(&self, file: &Path) {
        for dir in file.ancestors().skip(1).take_while(|dir| *dir != self.root) {
            // The system looks whether it is empty, and cheaper than a listing could.
            if fs::remove_dir(dir).is_err() {
                return;
            }
            lock(&self.known).remove(dir);
        }
    }
}

/// Told when a file is durable, or why it is not.
pub(crate) type PutReply = oneshot::Sender<Result<(), Failure>>;

/// Renames to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot do both in one step. Paths are used once, so the gap between
        // the two steps is nobody's.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, Arc<Disk>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(MARKER_DIR)).unwrap();
        fs::write(dir.path().join(MARKER_DIR).join("m"), "").unwrap();
        let disk = Disk::open(dir.path(), "m");
        (dir, disk)
    }

    fn put(disk: &Disk, path: &str, bytes: &'static [u8]) -> Result<(), Fault> {
        let (reply, mut answer) = oneshot::channel();
        disk.put(path, &Bytes::from_static(bytes), reply);
        answer.try_recv().unwrap().map_err(|failure| failure.fault)
    }

    #[test]
    fn a_file_is_there_whole_and_goes_with_its_directories() {
        let (dir, disk) = disk();
        put(&disk, "a/b/c", b"hello").unwrap();
        assert_eq!(fs::read(dir.path().join("a/b/c")).unwrap(), b"hello");
        assert_eq!(disk.stat("a/b/c").unwrap().size, 5);
        assert_eq!(disk.stat("a/b").unwrap_err().fault, Fault::Missing);
        assert_eq!(put(&disk, "a/b/c", b"other"), Err(Fault::Passing), "a path is used once");
        assert_eq!(fs::read(dir.path().join("a/b/c")).unwrap(), b"hello");
        disk.delete("a/b/c").unwrap();
        disk.delete("a/b/c").unwrap();
        assert!(!dir.path().join("a").exists());
        put(&disk, "a/b/d", b"again").unwrap();
        assert_eq!(fs::read_dir(&disk.temp_dir).unwrap().count(), 0, "nothing is left over");
    }

    #[test]
    fn without_the_marker_nothing_is_believed_and_nothing_made() {
        let (dir, disk) = disk();
        put(&disk, "a/b", b"hello").unwrap();
        fs::remove_dir_all(dir.path().join(MARKER_DIR)).unwrap();
        assert_eq!(disk.stat("gone").unwrap_err().fault, Fault::Absent);
        assert_eq!(disk.delete("gone").unwrap_err().fault, Fault::Absent);
        assert_eq!(put(&disk, "c/d", b"x"), Err(Fault::Absent));
        assert!(!dir.path().join("c").exists());
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(put(&disk, "c/d", b"x"), Err(Fault::Absent));
        assert!(!dir.path().exists());
        fs::create_dir(dir.path()).unwrap();
    }

    #[test]
    fn paths_stay_below_the_root() {
        let (_dir, disk) = disk();
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a/"] {
            assert_eq!(disk.stat(path).unwrap_err().fault, Fault::Refused, "{path:?}");
            assert_eq!(put(&disk, path, b"x"), Err(Fault::Refused), "{path:?}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_said() {
        let (_dir, disk) = disk();
        put(&disk, "a", b"x").unwrap();
        assert_eq!(put(&disk, "a/b", b"x"), Err(Fault::Refused));
        assert_eq!(disk.stat("a/b").unwrap_err().fault, Fault::Missing);
    }

    #[test]
    fn leftovers_of_earlier_runs_go_when_the_marker_is_first_seen() {
        let (_dir, disk) = disk();
        fs::create_dir(&disk.temp_dir).unwrap();
        fs::write(disk.temp_dir.join("0-7"), "left").unwrap();
        let own = disk.temp().unwrap();
        disk.look().unwrap();
        assert!(!disk.temp_dir.join("0-7").exists());
        assert!(own.path.exists());
        assert!(disk.device().is_some());
        assert!(disk.space().is_some_and(|space| space.available <= space.total));
    }

    #[test]
    fn writers_and_deleters_in_one_directory_do_not_harm_each_other() {
        let (dir, disk) = disk();
        std::thread::scope(|scope| {
            for who in 0..4 {
                let disk = &disk;
                scope.spawn(move || {
                    for i in 0..50 {
                        let path = format!("shared/deep/{who}-{i}");
                        let (reply, answer) = oneshot::channel();
                        disk.put(&path, &Bytes::from_static(b"x"), reply);
                        answer.blocking_recv().unwrap().unwrap();
                        disk.delete(&path).unwrap();
                    }
                });
            }
        });
        assert!(!dir.path().join("shared").exists());
    }

    #[test]
    fn one_root_is_opened_once() {
        let (dir, disk) = disk();
        assert!(Arc::ptr_eq(&disk, &Disk::open(dir.path(), "m")));
        assert!(!Arc::ptr_eq(&disk, &Disk::open(dir.path(), "n")));
    }
}
