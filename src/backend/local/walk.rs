//! A walk over a local root, in batches, in memory bounded by the depth of the tree.

use std::fs;
use std::fs::ReadDir;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::backend::marker::MARKER_DIR;
use crate::base::Timestamp;

/// Entries that one step returns at most.
const BATCH_MAX: usize = 256;

pub(crate) struct Walk {
    /// Open directories from the top down, each with its path below the root and a slash.
    open: Vec<(ReadDir, String)>,
    recursive: bool,
}

/// A file, or in a flat walk also a directory, whose path then ends in a slash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<Timestamp>,
}

/// When a file's bytes were last changed, in whole microseconds; `None`: in no year that is one.
pub(crate) fn modified(metadata: &fs::Metadata) -> Option<Timestamp> {
    let micros = metadata.mtime().checked_mul(1_000_000)?;
    let micros = micros.checked_add(metadata.mtime_nsec() / 1000)?;
    // Listings pass through OpenDAL, which keeps time so.
    jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(Timestamp(micros))
}

impl Walk {
    /// Begins at `prefix`, which is empty or ends in a slash. A prefix that is not there has
    /// nothing below it; a root that is not there is an error.
    pub(crate) fn begin(root: &Path, prefix: &str, recursive: bool) -> io::Result<Walk> {
        let open = match fs::read_dir(root.join(prefix)) {
            Ok(entries) => vec![(entries, prefix.to_owned())],
            Err(err) if err.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => Vec::new(),
            Err(err) => return Err(err),
        };
        Ok(Walk { open, recursive })
    }

    /// The next entries, none at the end. Names that are no text, links and special files are
    /// passed over; so is Larder's own directory, unless the walk began in it.
    pub(crate) fn step(&mut self, root: &Path) -> io::Result<Vec<Found>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            let Some((entries, prefix)) = self.open.last_mut() else { break };
            let Some(entry) = entries.next() else {
                self.open.pop();
                continue;
            };
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if prefix.is_empty() && name == MARKER_DIR {
                continue;
            }
            let path = format!("{prefix}{name}");
            // What goes while we walk was not there.
            let Some(kind) = there(entry.file_type())? else { continue };
            if kind.is_file() {
                let Some(metadata) = there(entry.metadata())? else { continue };
                let modified = modified(&metadata);
                batch.push(Found { path, size: metadata.len(), modified });
            } else if kind.is_dir() && self.recursive {
                let Some(below) = there(fs::read_dir(root.join(&path)))? else { continue };
                self.open.push((below, path + "/"));
            } else if kind.is_dir() {
                batch.push(Found { path: path + "/", size: 0, modified: None });
            }
        }
        Ok(batch)
    }
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_found_once_but_our_own() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..BATCH_MAX + 3 {
            let at = dir.path().join(format!("d{}/e", i % 7));
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join(i.to_string()), "xy").unwrap();
        }
        fs::create_dir_all(dir.path().join(MARKER_DIR)).unwrap();
        fs::write(dir.path().join(MARKER_DIR).join("m"), "").unwrap();
        let all = |prefix: &str, recursive| {
            let mut walk = Walk::begin(dir.path(), prefix, recursive).unwrap();
            let mut paths = Vec::new();
            loop {
                let batch = walk.step(dir.path()).unwrap();
                if batch.is_empty() {
                    break;
                }
                assert!(batch.len() <= BATCH_MAX);
                paths.extend(batch.into_iter().map(|found| found.path));
            }
            paths.sort();
            paths
        };
        let mut expected: Vec<_> =
            (0..BATCH_MAX + 3).map(|i| format!("d{}/e/{i}", i % 7)).collect();
        expected.sort();
        assert_eq!(all("", true), expected);
        assert_eq!(all("", false), (0..7).map(|i| format!("d{i}/")).collect::<Vec<_>>());
        assert_eq!(all("d1/e/", true).len(), (0..BATCH_MAX + 3).filter(|i| i % 7 == 1).count());
        assert_eq!(all(".larder/", false), [".larder/m"]);
        assert!(all("none/", true).is_empty());
        assert!(Walk::begin(&dir.path().join("none"), "", true).is_err());
    }
}
