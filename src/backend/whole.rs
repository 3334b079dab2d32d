//! Reading many small files of a local root in one go, for work that reads all there is.
//!
//! A file of a few KiB is read in less time than a job takes to reach a thread and its answer to
//! come back, so a job reads several, and what is done with their bytes is done on the same thread.
//! Each file is admitted and counted for itself, as every other read.

use std::sync::Arc;

use bytes::Bytes;

use super::Backend;
use super::BackendError;
use super::Inner;
use super::error::{Aim, Failure, Fault};
use super::faulty::Call;
use super::local::Disk;
use crate::model::Operation;
use crate::model::Purpose;

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    Bytes(Bytes),
    /// It is not as long as it should be, and was not read.
    Length(u64),
}

impl Backend {
    /// Whether [`Backend::read_files`] is possible now.
    pub fn reads_files(&self) -> bool {
        let inner = &self.inner;
        let is_free = self.is_present() && !inner.place.limits_reads();
        is_free && inner.place.disk().is_some() && inner.breaker.pass().is_some()
    }

    /// Reads files one after the other, with the lengths that they should have, on one of the
    /// root's own threads, and gives each to `then` there. All of them together should be small:
    /// they have the time of one step. `None`: they are to be read one by one.
    pub async fn read_files<R: Send + 'static>(
        &self,
        files: Vec<(String, u64)>,
        then: impl Fn(Whole) -> R + Send + 'static,
    ) -> Option<Vec<Result<R, BackendError>>> {
        let disk = self.inner.place.disk().filter(|_| self.reads_files())?;
        let (inner, purpose) = (Arc::clone(&self.inner), self.purpose);
        let names: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
        let job = move |disk: &Disk| {
            let each = files.iter().map(|(path, size)| inner.read_file(purpose, disk, path, *size));
            Ok(each.map(|read| read.map(&then)).collect::<Vec<Result<R, Failure>>>())
        };
        let read = self.inner.place.step(disk, job).await.unwrap_or_else(|late| {
            if let Some(pass) = self.inner.breaker.pass() {
                self.inner.ill(pass, &late);
            }
            let unread = || Err(Failure::because(Fault::Passing, "the disk gives no answer"));
            names.iter().map(|_| unread()).collect()
        });
        let mut all = Vec::with_capacity(names.len());
        for (path, read) in names.iter().zip(read) {
            all.push(match read {
                Ok(done) => Ok(done),
                Err(failure) => Err(self.inner.failed(purpose, "read", path, failure).await),
            });
        }
        Some(all)
    }
}

impl Inner {
    fn read_file(
        &self,
        purpose: Purpose,
        disk: &Disk,
        path: &str,
        size: u64,
    ) -> Result<Whole, Failure> {
        let entered = self.enter_now(purpose, Operation::Read, size)?;
        let read = || {
            let meeting = self.faults.meet_now(Call::Read)?;
            let file = disk.open_file(path)?;
            let found = file.metadata().map_err(|err| Failure::io(err, Aim::Look))?;
            if !found.is_file() || found.len() != size {
                return Ok(Whole::Length(found.len()));
            }
            let bytes = meeting.after(disk.read(&file, 0..size))?;
            match meeting.truncates() {
                true => Err(Failure::because(Fault::Damaged, "it ended too early")),
                false => Ok(Whole::Bytes(meeting.alter(bytes))),
            }
        };
        let read = read();
        match &read {
            Ok(whole) => {
                if let Whole::Bytes(bytes) = whole {
                    self.came(purpose, bytes.len());
                }
                self.well(entered.pass);
            }
            Err(failure) => self.ill(entered.pass, failure),
        }
        read
    }
}
