//! Notices when the configuration file has changed.
//!
//! Editors write a new file and rename it, orchestrators swap a symbolic link, others write in
//! place. So the directories are watched and not the file: that of the file, and those of every
//! link on the way to it. Any event there only means "look again": after a quiet time the file is
//! read, and only other contents than before are a change.
//!
//! A file that is gone for a moment is no change. Files that hold secrets are not watched; a
//! SIGHUP reads them again.
//!
//! # Why the system's watcher and polling both exist
//!
//! Polling costs an idle machine a wake-up, and watchers cannot be had everywhere. So the file is
//! polled only while some directory cannot be watched.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use notify::EventKind;
use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher;
use notify::event::AccessKind;
use notify::event::AccessMode;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Nothing may have happened for this long before the file is read.
const QUIET: Duration = Duration::from_millis(200);
/// A directory in which something always happens does not keep a change back longer than this.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// How often the file is read where it cannot be watched.
const POLL: Duration = Duration::from_secs(30);
/// Links on the way to the file, after which it is taken for a circle.
const LINKS_MAX: usize = 40;

/// Ends watching when it is dropped.
pub struct Watch {
    changes: mpsc::Receiver<()>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch the file at `path`, whose contents had `text_hash` when they were last
    /// loaded. To be called within the runtime.
    pub fn start(path: PathBuf, text_hash: [u8; 32]) -> Watch {
        Watch::start_polling(path, text_hash, POLL)
    }

    fn start_polling(path: PathBuf, text_hash: [u8; 32], poll: Duration) -> Watch {
        let (changed, changes) = mpsc::channel(1);
        // Relative to where the process is now, should it ever go elsewhere.
        let path = std::path::absolute(&path).unwrap_or(path);
        let task = tokio::spawn(async move {
            Looker { path, last: text_hash, changed, poll }.run().await;
        });
        Watch { changes, task }
    }

    /// Waits until the contents are others than they were when this last returned, or at the
    /// start. Several changes in a row may be one. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // Only a panic of the task ends it before us. Then there are no changes to tell of,
            // and SIGHUP still works.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Looker {
    path: PathBuf,
    last: [u8; 32],
    changed: mpsc::Sender<()>,
    poll: Duration,
}

impl Looker {
    async fn run(mut self) {
        // One place is enough: an event says only that it is time to look.
        let (event, mut events) = mpsc::channel(1);
        let mut eyes = Eyes::new(event);
        loop {
            let sees_all = eyes.turn_to(&self.path).await;
            self.look().await;
            if sees_all {
                // The sender lives in `eyes`, so there is always another event to wait for.
                let _ = events.recv().await;
            } else {
                let _ = tokio::time::timeout(self.poll, events.recv()).await;
            }
            let latest = Instant::now() + QUIET_MAX;
            while let Ok(Some(())) = tokio::time::timeout(QUIET, events.recv()).await {
                if Instant::now() >= latest {
                    break;
                }
            }
        }
    }

    /// Reads the file, and tells when its contents are others than before.
    async fn look(&mut self) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || super::read(&path)).await;
        let Ok(Ok(bytes)) = read else { return };
        // Whoever writes in place empties the file first; the rest is another event.
        if bytes.is_empty() {
            return;
        }
        let hash = super::hash(&bytes);
        if hash != self.last {
            self.last = hash;
            // When there is no place, a change is waiting to be heard of already.
            let _ = self.changed.try_send(());
        }
    }
}

/// The system's watcher with the directories that it watches.
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    _event: mpsc::Sender<()>,
}

impl Eyes {
    fn new(event: mpsc::Sender<()>) -> Eyes {
        let sender = event.clone();
        let watcher = notify::recommended_watcher(move |seen: notify::Result<notify::Event>| {
            // Our own reading is an event too, and must not make us read again.
            let is_reading = |kind: &EventKind| {
                matches!(kind, EventKind::Access(access)
                    if *access != AccessKind::Close(AccessMode::Write))
            };
            if !seen.is_ok_and(|event| is_reading(&event.kind)) {
                let _ = sender.try_send(());
            }
        });
        if let Err(err) = &watcher {
            tracing::warn!(%err, "the configuration file cannot be watched and is polled instead");
        }
        Eyes { watcher: watcher.ok(), watched: BTreeSet::new(), _event: event }
    }

    /// Watches all directories on the way to `path`, as it is now, and no others. False when one
    /// cannot be watched.
    async fn turn_to(&mut self, path: &Path) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let path = path.to_owned();
        let wanted = tokio::task::spawn_blocking(move || directories(&path)).await;
        let wanted = wanted.unwrap_or_default();
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        let mut sees_all = !wanted.is_empty();
        let mut watched = BTreeSet::new();
        for dir in wanted {
            // Watching again what is watched already is harmless, and follows a directory that
            // was replaced by another of its name.
            match watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(dir);
                }
                Err(_) => sees_all = false,
            }
        }
        self.watched = watched;
        sees_all
    }
}

/// The real directories in which something must change for `path` to become another file.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    // Components that are still to be walked, the next one last.
    let mut ahead: Vec<OsString> = components(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    break;
                }
                directories.insert(here.clone());
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                ahead.extend(components(&target));
            }
            Err(_) if ahead.is_empty() => {
                directories.insert(here.clone());
            }
            Err(_) => here = next,
        }
    }
    directories
}

fn components(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Longer than any change may take to be noticed.
    const DEADLINE: Duration = Duration::from_secs(20);

    fn watch(path: &Path) -> Watch {
        Watch::start(path.to_owned(), crate::config::hash(&fs::read(path).unwrap()))
    }

    /// Makes changes until one is seen: the watch may not stand yet when the first is made.
    async fn sees(watch: &mut Watch, mut change: impl FnMut(u32)) {
        let deadline = Instant::now() + DEADLINE;
        for n in 0.. {
            assert!(Instant::now() < deadline, "no change was seen");
            change(n);
            if tokio::time::timeout(QUIET * 5, watch.changed()).await.is_ok() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.toml");
        fs::write(&path, "first").unwrap();
        let mut watch = watch(&path);
        sees(&mut watch, |n| fs::write(&path, format!("in place {n}")).unwrap()).await;
    }

    #[tokio::test]
    async fn a_file_replaced_by_an_editor_is_seen_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.toml");
        fs::write(&path, "first").unwrap();
        let mut watch = watch(&path);
        for round in 0..3 {
            sees(&mut watch, |n| {
                let temporary = dir.path().join(".larder.toml.swp");
                fs::write(&temporary, format!("replaced {round} {n}")).unwrap();
                fs::rename(&temporary, &path).unwrap();
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_swapped_link_to_the_directory_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("..first")).unwrap();
        fs::write(at("..first/larder.toml"), "first").unwrap();
        symlink("..first", at("..data")).unwrap();
        symlink("..data/larder.toml", at("larder.toml")).unwrap();
        let mut watch = watch(&at("larder.toml"));
        for round in 0..2 {
            sees(&mut watch, |n| {
                let version = format!("..version-{round}-{n}");
                fs::create_dir(at(&version)).unwrap();
                fs::write(at(&version).join("larder.toml"), &version).unwrap();
                symlink(&version, at("..data_tmp")).unwrap();
                fs::rename(at("..data_tmp"), at("..data")).unwrap();
            })
            .await;
        }
    }

    #[tokio::test]
    async fn the_target_of_a_link_is_watched_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("real.toml");
        fs::write(&target, "first").unwrap();
        let link = dir.path().join("larder.toml");
        symlink(&target, &link).unwrap();
        let mut watch = watch(&link);
        sees(&mut watch, |n| fs::write(&target, format!("in place {n}")).unwrap()).await;
    }

    #[tokio::test]
    async fn equal_contents_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.toml");
        fs::write(&path, "first").unwrap();
        let mut watch = watch(&path);
        // A change proves that the watch stands; after that, equal contents stay unheard.
        sees(&mut watch, |n| fs::write(&path, format!("change {n}")).unwrap()).await;
        let contents = fs::read(&path).unwrap();
        let mut looks = Vec::new();
        for _ in 0..3 {
            let temporary = dir.path().join("temporary");
            fs::write(&temporary, &contents).unwrap();
            fs::rename(&temporary, &path).unwrap();
            looks.push(tokio::time::timeout(QUIET * 4, watch.changed()).await.is_ok());
        }
        assert_eq!(looks, [false; 3]);
        sees(&mut watch, |n| fs::write(&path, format!("another {n}")).unwrap()).await;
    }

    #[tokio::test]
    async fn without_a_watcher_the_file_is_polled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf/larder.toml");
        fs::create_dir(dir.path().join("conf")).unwrap();
        fs::write(&path, "first").unwrap();
        let hash = crate::config::hash(b"first");
        // A directory that is not there cannot be watched.
        fs::remove_dir_all(dir.path().join("conf")).unwrap();
        let poll = Duration::from_millis(20);
        let mut watch = Watch::start_polling(path.clone(), hash, poll);
        fs::create_dir(dir.path().join("conf")).unwrap();
        fs::write(&path, "second").unwrap();
        let seen = tokio::time::timeout(DEADLINE, watch.changed()).await;
        assert!(seen.is_ok(), "no change was seen");
    }

    #[test]
    fn every_directory_on_the_way_is_named_once_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        symlink("../c", real.join("a/link")).unwrap();
        fs::create_dir(real.join("c")).unwrap();
        fs::write(real.join("c/f"), "").unwrap();
        let found = directories(&real.join("a/link/f"));
        assert_eq!(found, BTreeSet::from([real.join("a"), real.join("c")]));
        symlink("circle", real.join("circle")).unwrap();
        assert!(directories(&real.join("circle")).contains(&real));
    }
}
