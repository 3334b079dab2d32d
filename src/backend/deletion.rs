//! Deleting, one file or many.
//!
//! # Invariants
//!
//! - A path that is not there is success, when the marker was seen in the same step.
//! - Of many, each has an answer of its own. *Deleted* is said of one only when its service said
//!   it of that one.
//! - Behind a failure that others would share nobody else is asked: they are told [`Fault::Resting`].

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;
use tokio::time::timeout;

use super::Backend;
use super::BackendError;
use super::adapter::is_plain;
use super::error::{Failure, Fault};
use super::faulty::Call;
use crate::model::Operation;

/// One for each path, in their order.
type Answers = Vec<Result<(), BackendError>>;

impl Backend {
    /// A path that is not there is success, when the marker was seen in the same step.
    pub async fn delete(&self, path: &str) -> Result<(), BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let deleted = async {
            let entered = inner.enter(purpose, Operation::Delete, 0).await?;
            let delete = |_| inner.place.delete(path);
            inner.ask(purpose, entered.pass, Call::Delete, delete).await?;
            inner.well(entered.pass);
            inner.made_room();
            inner.seen_lately(purpose).await
        };
        match deleted.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(inner.failed(purpose, "delete", path, failure).await),
        }
    }

    /// Files that one request may delete; 1: each needs a request of its own.
    pub fn deletes_at_once(&self) -> usize {
        self.inner.place.adapter().deletes_at_once()
    }

    /// Deletes all of `paths`, as [`Backend::delete`] does, and answers for each, in their order.
    ///
    /// Where the service has requests for many they go one after another. Elsewhere, and when such
    /// a request was not met in full, each path is deleted by itself, `abreast` at a time. A
    /// request that is not answered within `patience` is given up.
    pub async fn delete_many(
        &self,
        paths: &[String],
        abreast: usize,
        patience: Duration,
    ) -> Answers {
        let sweep = Sweep { backend: self, abreast, patience, is_down: AtomicBool::new(false) };
        let most = self.deletes_at_once();
        if most == 1 {
            return sweep.each(paths).await;
        }
        let mut answers = Vec::with_capacity(paths.len());
        for some in paths.chunks(most) {
            answers.extend(sweep.together(some).await);
        }
        answers
    }

    /// `Ok(false)`: each is to be deleted by itself.
    async fn delete_together(&self, paths: &[String]) -> Result<bool, BackendError> {
        let (inner, purpose) = (&self.inner, self.purpose);
        let deleted = async {
            let entered = inner.enter(purpose, Operation::Delete, 0).await?;
            let delete = |_| inner.place.adapter().delete_together(paths);
            let is_done = inner.ask(purpose, entered.pass, Call::Delete, delete).await?;
            inner.well(entered.pass);
            inner.made_room();
            inner.seen_lately(purpose).await?;
            Ok(is_done)
        };
        let first = paths.first().map_or("", String::as_str);
        match deleted.await {
            Ok(is_done) => Ok(is_done),
            Err(failure) => Err(inner.failed(purpose, "delete", first, failure).await),
        }
    }
}

/// Many deletions on their way.
struct Sweep<'b> {
    backend: &'b Backend,
    abreast: usize,
    patience: Duration,
    /// One failed as all others would.
    is_down: AtomicBool,
}

impl Sweep<'_> {
    async fn each(&self, paths: &[String]) -> Answers {
        let asking = paths.iter().map(|path| self.ask(path, self.backend.delete(path)));
        // Collected, for a stream over what is borrowed could not go to another thread.
        let asking: Vec<_> = asking.collect();
        stream::iter(asking).buffered(self.abreast.max(1)).collect().await
    }

    async fn together(&self, paths: &[String]) -> Answers {
        let [first, _, ..] = paths else { return self.each(paths).await };
        if !paths.iter().all(|path| is_plain(path)) {
            return self.each(paths).await;
        }
        match self.ask(first, self.backend.delete_together(paths)).await {
            Ok(true) => paths.iter().map(|_| Ok(())).collect(),
            Ok(false) => self.each(paths).await,
            Err(err) => paths.iter().map(|path| Err(err.of(path))).collect(),
        }
    }

    /// The answer to one request, as far as it is asked and waited for.
    async fn ask<T>(
        &self,
        path: &str,
        asking: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let failed = |failure: Failure| Err(failure.at(self.backend.name(), "delete", path));
        if self.is_down.load(Ordering::Acquire) {
            return failed(Failure::because(Fault::Resting, "one before it failed"));
        }
        let since = Instant::now();
        let answer = match timeout(self.patience, asking).await {
            Ok(answer) => answer,
            // It was looking for its marker.
            Err(_) if !self.backend.is_present() => failed(Failure::new(Fault::Absent).unknown()),
            Err(_) => {
                self.backend.overdue(since);
                let why = format!("no answer within {:?}", self.patience);
                failed(Failure::because(Fault::Passing, why).unknown())
            }
        };
        let shared = [Fault::Passing, Fault::Absent, Fault::Resting, Fault::Spent];
        if answer.as_ref().is_err_and(|err| shared.contains(&err.fault)) {
            self.is_down.store(true, Ordering::Release);
        }
        answer
    }
}
