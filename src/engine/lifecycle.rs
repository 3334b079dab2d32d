//! Expiring objects and giving up uploads by the rules of their buckets.
//!
//! A pass walks all buckets with rules, below the prefixes that these name and nowhere else. A
//! step is a bounded piece of it; the cursor stands behind what was looked at and dealt with. What
//! is due is deleted as if a client had: condemned in a transaction, and cleanup is woken.
//!
//! # Invariants
//!
//! - Every step moves the cursor on, also when every delete in it fails: a pass comes to its end.
//!   Only a store that cannot serve now leaves the cursor where it was, and is an error.
//! - Nothing is deleted that is not, in the transaction that deletes it, still what was looked
//!   at, or by rules that are not in force any more. Rules that change begin the pass anew.
//!
//! # When to look again
//!
//! While it walks, a pass notes the earliest moment at which anything that it saw, or that comes
//! later, can be due. Until then there is nothing to do but for a change of rules, and with no
//! rules there never is.

use std::time::Duration;

use super::Engine;
use super::EngineError;
use crate::base::Timestamp;
use crate::base::chain;
use crate::model::BucketId;
use crate::model::ObjectKey;
use crate::model::Tags;
use crate::model::UploadId;
use crate::plan::expiry;
use crate::plan::expiry::Aging;
use crate::store::AgingObject;
use crate::store::BucketLifecycle;
use crate::store::StoreError;

/// Rows that one step looks at; an empty stretch counts as one.
const LOOKED_MAX: usize = 1000;
/// After how long what could not be deleted is tried again.
const FAILED_PAUSE: Duration = Duration::from_secs(3600);
/// How long a write, whose time is taken first, may wait for its transaction: it may be older than
/// the pass that does not see it.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// Where a pass stands, between steps. The default is before the first one.
#[derive(Clone, Debug, Default)]
pub struct LifecycleCursor(Option<Pass>);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifecycleStep {
    /// Objects and uploads.
    pub looked: usize,
    pub expired: usize,
    pub aborted: usize,
    /// What was due and could not be deleted; it is passed over until the next pass.
    pub failed: usize,
    /// The pass is not at its end.
    pub more: bool,
    /// At the end of a pass: before this nothing can be due, unless rules are changed. `None`: there
    /// is no rule in force.
    pub next: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Pass {
    began: Timestamp,
    /// Every bucket with rules, and which rules these were when the pass began.
    buckets: Vec<(BucketId, u64)>,
    /// How many of them were entered.
    entered: usize,
    /// The rules of the last of these.
    lifecycle: Option<BucketLifecycle>,
    /// What of it is still to be looked at, the nearest last.
    ahead: Vec<Stretch>,
    next: Option<Timestamp>,
    has_failed: bool,
}

/// Keys that begin with a prefix, those behind a place.
#[derive(Clone, Debug)]
enum Stretch {
    Objects(String, Option<ObjectKey>),
    Uploads(String, Option<(ObjectKey, UploadId)>),
}

/// What is left of a step's bounds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    rows: usize,
    deletes: usize,
}

impl Engine {
    /// Does one bounded piece of a pass, with at most `batch` deletes, and moves `cursor` on. The
    /// step after the last one of a pass begins the next pass.
    pub async fn lifecycle_step(
        &self,
        cursor: &mut LifecycleCursor,
        batch: usize,
    ) -> Result<LifecycleStep, EngineError> {
        let buckets = self.store.lifecycles().await?;
        let now = self.clock.now();
        let pass = match &mut cursor.0 {
            Some(pass) if pass.buckets == buckets => pass,
            begin => begin.insert(Pass::new(buckets, now)),
        };
        let mut step = LifecycleStep::default();
        let mut left = Bounds { rows: LOOKED_MAX, deletes: batch.max(1) };
        while left.rows > 0 && left.deletes > 0 {
            let went = match pass.ahead.last().cloned() {
                Some(stretch) => self.go_on(pass, stretch, now, &mut left, &mut step).await,
                None if pass.entered < pass.buckets.len() => {
                    left.rows -= 1;
                    self.enter(pass).await
                }
                None => {
                    step.next = pass.end(now);
                    cursor.0 = None;
                    return Ok(step);
                }
            };
            match went {
                Ok(()) => {}
                Err(StoreError::Changed) => {
                    cursor.0 = None;
                    break;
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(LifecycleStep { more: true, ..step })
    }

    /// Goes to the next bucket.
    async fn enter(&self, pass: &mut Pass) -> Result<(), StoreError> {
        let (bucket, seq) = pass.buckets[pass.entered];
        let found = self.store.lifecycle(bucket).await?.filter(|found| found.seq == seq);
        let lifecycle = found.ok_or(StoreError::Changed)?;
        let rules = &lifecycle.rules;
        let first = expiry::first_to_come(rules, pass.began.minus(COMMIT_WAIT));
        pass.note(first.map(|first| first.max(pass.began.plus(COMMIT_WAIT))));
        let objects = expiry::object_prefixes(rules).into_iter();
        let uploads = expiry::upload_prefixes(rules).into_iter();
        pass.ahead = objects.map(|prefix| Stretch::Objects(prefix, None)).collect();
        pass.ahead.extend(uploads.map(|prefix| Stretch::Uploads(prefix, None)));
        pass.ahead.reverse();
        pass.lifecycle = Some(lifecycle);
        pass.entered += 1;
        Ok(())
    }

    /// Looks at a page of `stretch`, which stands nearest, and deletes what of it is due.
    async fn go_on(
        &self,
        pass: &mut Pass,
        stretch: Stretch,
        now: Timestamp,
        left: &mut Bounds,
        step: &mut LifecycleStep,
    ) -> Result<(), StoreError> {
        let Some(of) = pass.lifecycle.take() else { return Err(StoreError::Changed) };
        let bucket = pass.buckets[pass.entered - 1].0;
        let mut found = Found { now, next: pass.next, ..Found::default() };
        let went = match stretch {
            Stretch::Objects(prefix, after) => {
                self.objects((bucket, &of), prefix, after, *left, &mut found).await
            }
            Stretch::Uploads(prefix, after) => {
                self.uploads((bucket, &of), prefix, after, *left, &mut found).await
            }
        };
        pass.lifecycle = Some(of);
        let rest = went?;
        pass.ahead.pop();
        pass.ahead.extend(rest);
        pass.next = found.next;
        pass.has_failed |= found.failed > 0;
        left.rows -= found.looked.max(1).min(left.rows);
        left.deletes -= found.due;
        step.looked += found.looked;
        step.expired += found.expired;
        step.aborted += found.aborted;
        step.failed += found.failed;
        Ok(())
    }

    /// What is left of the stretch.
    async fn objects(
        &self,
        (bucket, of): (BucketId, &BucketLifecycle),
        prefix: String,
        after: Option<ObjectKey>,
        left: Bounds,
        found: &mut Found,
    ) -> Result<Option<Stretch>, StoreError> {
        let tags = expiry::asks_for_tags(&of.rules);
        let page = self.store.objects_aging(bucket, prefix.clone(), after, left.rows, tags).await?;
        let (count, none) = (page.len(), Tags::default());
        let (mut due, mut last) = (Vec::new(), None);
        for object in page {
            let aging = Aging {
                key: object.key.as_str(),
                size: object.size,
                modified: object.modified,
                tags: object.tags.as_ref().unwrap_or(&none),
            };
            let at = expiry::expires(&of.rules, &aging);
            last = Some(object.key.clone());
            if found.is_due(at) {
                due.push(object);
            }
            if due.len() == left.deletes {
                break;
            }
        }
        let is_whole = found.looked == count && count < left.rows;
        self.expire(bucket, of.seq, due, found).await?;
        Ok(last.filter(|_| !is_whole).map(|last| Stretch::Objects(prefix, Some(last))))
    }

    /// Deletes in as few transactions as it may. Where the store fails at one of the objects, each
    /// of the rest has a transaction of its own.
    async fn expire(
        &self,
        bucket: BucketId,
        seq: u64,
        mut due: Vec<AgingObject>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let mut is_alone = false;
        while !due.is_empty() {
            let count = if is_alone { 1 } else { due.len() };
            match self.store.objects_expire(bucket, seq, due[..count].to_vec()).await {
                Ok(results) => {
                    found.expired += results.iter().filter(|expired| **expired).count();
                    due.drain(..results.len());
                }
                Err(StoreError::Sqlite(_)) if count > 1 => is_alone = true,
                Err(err @ StoreError::Sqlite(_)) => {
                    let key = due.remove(0).key;
                    tracing::error!(%key, error = chain(&err), "an object cannot expire");
                    found.failed += 1;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// What is left of the stretch.
    async fn uploads(
        &self,
        (bucket, of): (BucketId, &BucketLifecycle),
        prefix: String,
        after: Option<(ObjectKey, UploadId)>,
        left: Bounds,
        found: &mut Found,
    ) -> Result<Option<Stretch>, StoreError> {
        let page = self.store.uploads_aging(bucket, prefix.clone(), after, left.rows).await?;
        let (count, mut last) = (page.len(), None);
        for upload in page {
            let at = expiry::aborts(&of.rules, upload.key.as_str(), upload.created);
            last = Some((upload.key.clone(), upload.upload));
            if found.is_due(at) {
                let key = upload.key.clone();
                match self.store.upload_expire(bucket, of.seq, upload).await {
                    Ok(was_active) => found.aborted += usize::from(was_active),
                    Err(err @ StoreError::Sqlite(_)) => {
                        tracing::error!(%key, error = chain(&err), "an upload cannot be aborted");
                        found.failed += 1;
                    }
                    Err(err) => return Err(err),
                }
            }
            if found.due == left.deletes {
                break;
            }
        }
        let is_whole = found.looked == count && count < left.rows;
        Ok(last.filter(|_| !is_whole).map(|last| Stretch::Uploads(prefix, Some(last))))
    }
}

impl Pass {
    fn new(buckets: Vec<(BucketId, u64)>, now: Timestamp) -> Pass {
        Pass {
            began: now,
            buckets,
            entered: 0,
            lifecycle: None,
            ahead: Vec::new(),
            next: None,
            has_failed: false,
        }
    }

    fn note(&mut self, at: Option<Timestamp>) {
        self.next = self.next.into_iter().chain(at).min();
    }

    /// When to look again.
    fn end(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.note(self.has_failed.then(|| now.plus(FAILED_PAUSE)));
        self.next
    }
}

/// What a page has come to.
#[derive(Debug, Default)]
struct Found {
    now: Timestamp,
    looked: usize,
    due: usize,
    expired: usize,
    aborted: usize,
    failed: usize,
    next: Option<Timestamp>,
}

impl Found {
    /// Counts one that is due at `at`; whether that is now.
    fn is_due(&mut self, at: Option<Timestamp>) -> bool {
        self.looked += 1;
        let is_due = at.is_some_and(|at| at <= self.now);
        match is_due {
            true => self.due += 1,
            false => self.next = self.next.into_iter().chain(at).min(),
        }
        is_due
    }
}
