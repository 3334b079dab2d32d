//! Directory syncs, shared by all who wait for the same directory.
//!
//! A new name survives power loss once its directory was synced after it was made. Many small
//! files arrive in one directory at once, and one sync makes all of them durable that were there
//! when it began. So whoever comes while no sync of the directory runs does one, on its own
//! thread; whoever comes during it leaves its reply and its thread is free; the first goes round
//! again for all who left theirs.
//!
//! # Invariant
//!
//! Nobody is answered by a sync that had begun before they came.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::io::Errno;

/// Told how the sync went.
pub(crate) type Reply = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The directories that are being synced now, each with those who came during it.
#[derive(Default)]
pub(crate) struct DirSyncs {
    running: Mutex<HashMap<PathBuf, Vec<Reply>>>,
}

impl DirSyncs {
    /// Makes the names that `dir` holds now survive, and then answers: at once on this thread, or
    /// later on that of whoever is at it already.
    pub(crate) fn sync(&self, dir: &Path, reply: Reply) {
        self.sync_with(dir, reply, sync_dir);
    }

    fn sync_with(&self, dir: &Path, reply: Reply, how: impl Fn(&Path) -> io::Result<()>) {
        let lock = || self.running.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut running = lock();
            if let Some(waiting) = running.get_mut(dir) {
                waiting.push(reply);
                return;
            }
            running.insert(dir.to_owned(), Vec::new());
        }
        let mut batch = vec![reply];
        while !batch.is_empty() {
            let result = how(dir);
            for reply in batch {
                reply(same(&result));
            }
            let mut running = lock();
            batch = running.get_mut(dir).map(std::mem::take).unwrap_or_default();
            if batch.is_empty() {
                running.remove(dir);
            }
        }
    }
}

/// Syncs a directory now. Some network file systems have no such thing: there the server decides.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let unknown = [Errno::INVAL, Errno::NOTSUP].map(|errno| Some(errno.raw_os_error()));
    match File::open(dir)?.sync_all() {
        Err(err) if unknown.contains(&err.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// An `io::Error` cannot be cloned; its number, or at least its kind, can.
fn same(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(err) => Err(match err.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::from(err.kind()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn those_who_come_during_a_sync_share_the_next() {
        let syncs = Arc::new(DirSyncs::default());
        let dir = Path::new("some/dir");
        let (done, all_done) = mpsc::channel();
        let count = AtomicUsize::new(0);
        let reply = |who: usize| -> Reply {
            let done = done.clone();
            Box::new(move |result| {
                let _ = done.send((who, result.map_err(|err| err.kind())));
            })
        };
        let again = Arc::clone(&syncs);
        syncs.sync_with(dir, reply(0), |_| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                for who in 1..4 {
                    again.sync_with(dir, reply(who), |_| unreachable!("one is at it already"));
                }
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        assert_eq!(count.load(Ordering::SeqCst), 2);
        let results: Vec<_> = all_done.try_iter().collect();
        assert_eq!(results[0], (0, Err(io::ErrorKind::StorageFull)));
        assert_eq!(results[1..], [(1, Ok(())), (2, Ok(())), (3, Ok(()))]);
        assert!(syncs.running.lock().unwrap().is_empty());
    }
}
