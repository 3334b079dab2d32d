//! Where OpenDAL's services do something else than OpenDAL says.
//!
//! Each of these was met by a test over a stand-in, and is gone round here:
//!
//! - `b2` answers a stat with the first file whose name *begins* with the path.
//! - `dropbox` lists names without the folder that they are in.

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use opendal::EntryMode;
use opendal::Error;
use opendal::ErrorKind;
use opendal::Lister;
use opendal::Metadata;
use opendal::Operator;
use opendal::options::ListOptions;

use super::Listed;
use super::Stat;
use super::adapter::described;
use super::error::{Aim, Failure};
use super::marker::MARKER_DIR;

/// What one service does in its own way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Quirks {
    /// A stat takes a longer name for the one that was asked for.
    pub(crate) stats_by_prefix: bool,
    /// A listing has names instead of paths.
    pub(crate) lists_names: bool,
}

impl Quirks {
    pub(crate) fn of(scheme: &str) -> Quirks {
        Quirks { stats_by_prefix: scheme == "b2", lists_names: scheme == "dropbox" }
    }
}

/// The file at exactly `path`: the first of a sorted listing of all that begins so.
pub(crate) async fn stat_exactly(op: &Operator, path: &str) -> opendal::Result<Metadata> {
    let options = ListOptions { limit: Some(1), ..Default::default() };
    let mut lister = op.lister_options(path, options).await?;
    match lister.try_next().await? {
        Some(entry) if entry.path() == path => Ok(entry.metadata().clone()),
        _ => Err(Error::new(ErrorKind::NotFound, "no file has exactly this name")),
    }
}

/// A listing, folder by folder.
struct Walk {
    op: Operator,
    recursive: bool,
    /// Folders that are still to be listed. What is below one is known only when it is.
    folders: Vec<String>,
    /// The folder that is being listed, and the rest of it.
    open: Option<(String, Lister)>,
}

/// The files below `prefix`, which is empty or ends in a slash; without `recursive` those right
/// below, and directories. Larder's own directory is left out of a listing of everything.
pub(crate) fn walk(
    op: Operator,
    prefix: &str,
    recursive: bool,
) -> BoxStream<'static, Result<Listed, Failure>> {
    let walk = Walk { op, recursive, folders: vec![prefix.to_owned()], open: None };
    futures_util::stream::try_unfold(walk, async |mut walk| {
        let next = walk.next().await.map_err(|err| Failure::opendal(err, Aim::Look))?;
        Ok(next.map(|listed| (listed, walk)))
    })
    .boxed()
}

impl Walk {
    async fn next(&mut self) -> opendal::Result<Option<Listed>> {
        let own = format!("{MARKER_DIR}/");
        loop {
            let Some((folder, lister)) = &mut self.open else {
                let Some(folder) = self.folders.pop() else { return Ok(None) };
                match self.op.lister(&folder).await {
                    Ok(lister) => self.open = Some((folder, lister)),
                    // It went meanwhile, and nothing is below it.
                    Err(err) if err.kind() == ErrorKind::NotFound => {}
                    Err(err) => return Err(err),
                }
                continue;
            };
            let entry = match lister.try_next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    self.open = None;
                    continue;
                }
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    self.open = None;
                    continue;
                }
                Err(err) => return Err(err),
            };
            let path = full_path(folder, entry.path());
            if path == *folder || (folder.is_empty() && path == own) {
                continue;
            }
            if self.recursive && entry.metadata().mode() == EntryMode::DIR {
                self.folders.push(path);
                continue;
            }
            let Stat { size, modified } = described(entry.metadata());
            return Ok(Some(Listed { path, size, modified }));
        }
    }
}

/// The path of what is called `name` in `folder`. A path, as other services list it, has a slash
/// inside, which no name has.
fn full_path(folder: &str, name: &str) -> String {
    let name = name.trim_start_matches('/');
    if name.trim_end_matches('/').contains('/') {
        return name.to_owned();
    }
    match name {
        "" => folder.to_owned(),
        name => format!("{folder}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_its_folder_and_a_path_keeps_it() {
        assert_eq!(full_path("", "a"), "a");
        assert_eq!(full_path("", "a/"), "a/");
        assert_eq!(full_path("a/", "b"), "a/b");
        assert_eq!(full_path("a/", "a/"), "a/a/");
        assert_eq!(full_path("a/", "a/b"), "a/b");
        assert_eq!(full_path("a/", "a/b/"), "a/b/");
        assert_eq!(full_path("a/", "/"), "a/");
    }
}
