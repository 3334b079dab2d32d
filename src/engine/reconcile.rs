//! Reconciling: what a backend lists, held against what the store has of it.
//!
//! One backend at a time. Its listing goes into a survey, which compares it with the rows, and what
//! differs is looked at again before anything follows: replicas that are gone are marked missing,
//! those of another length damaged; debris is condemned, to be deleted a week later; files of an
//! owner are imported where his bucket asks for that, and reported where it does not.
//!
//! # Invariants
//!
//! - A listing that failed, or at whose end the marker was not seen, says what is there and not
//!   what is not: it may import, and nothing else follows from it.
//! - That bytes are gone is believed of a second look, never of a listing alone: services have been
//!   seen to leave files out.
//! - Nothing that was condemned comes back.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use futures_util::stream::BoxStream;

use super::Engine;
use super::EngineError;
use super::examine;
use super::examine::Seen;
use super::import::changed_object;
use super::import::import_of;
use super::import::listed_file;
use super::step::Next;
use super::step::Step;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Fleet;
use crate::backend::Listed;
use crate::base::Timestamp;
use crate::base::chain;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::Duty;
use crate::model::WriteId;
use crate::store::Debris;
use crate::store::Doubted;
use crate::store::FileDifference;
use crate::store::FileFinding;
use crate::store::Import;
use crate::store::ListedFile;
use crate::store::NewImport;
use crate::store::Reconciled;
use crate::store::RowDifference;
use crate::store::RowFinding;
use crate::store::Survey;

/// Files that go into the survey at a time.
const CHUNK: usize = 1000;
/// Second looks at a time.
const LOOKS_MAX: usize = 8;
/// When a backend is tried again whose survey failed.
const RETRY: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconcileSettings {
    /// Files that one step lists.
    pub batch: usize,
    /// How often a backend is surveyed; a metered one is only when that is asked for.
    pub every: Duration,
    /// How often a local one is.
    pub local_every: Duration,
}

impl Default for ReconcileSettings {
    fn default() -> ReconcileSettings {
        const DAY: u64 = 24 * 3600;
        ReconcileSettings {
            batch: 10_000,
            every: Duration::from_secs(DAY),
            local_every: Duration::from_secs(7 * DAY),
        }
    }
}

/// How far the survey is that is under way, and which come next.
#[derive(Default)]
pub struct ReconcileCursor {
    /// What is left of a full pass; `None`: whatever is due.
    queue: Option<VecDeque<BackendId>>,
    /// Backends whose survey failed, and when they are tried again.
    put_off: BTreeMap<BackendId, Timestamp>,
    pass: Option<Pass>,
}

/// The survey of one backend.
struct Pass {
    backend: Arc<Backend>,
    survey: Survey,
    phase: Phase,
    listed: u64,
    /// The listing came to its end, and all second looks were answered.
    is_whole: bool,
    /// It takes new objects.
    is_in_use: bool,
}

enum Phase {
    Listing(BoxStream<'static, Result<Listed, BackendError>>),
    Rows(WriteId),
    Kept(String),
    Files(String),
    Done,
}

/// Which backend is next.
enum Due {
    Backend(Arc<Backend>),
    At(Next),
}

impl Engine {
    /// A full pass over one backend or all, whether they are due or not.
    pub async fn reconcile_begin_pass(
        &self,
        only: Option<&str>,
    ) -> Result<ReconcileCursor, EngineError> {
        let queue = match only {
            Some(name) => VecDeque::from([self.backend_row(name).await?.id]),
            None => self.store.backends().await?.into_iter().map(|row| row.id).collect(),
        };
        Ok(ReconcileCursor { queue: Some(queue), ..ReconcileCursor::default() })
    }

    /// A full pass from its beginning to its end; `tell` hears of each step. What was done, by
    /// result; `failed` counts surveys that were not whole.
    pub async fn reconcile(
        &self,
        only: Option<&str>,
        mut tell: impl FnMut(&Step),
    ) -> Result<Step, EngineError> {
        let mut cursor = self.reconcile_begin_pass(only).await?;
        let mut all = Step::default();
        loop {
            let step = self.reconcile_step(&mut cursor, &ReconcileSettings::default()).await?;
            all.processed += step.processed;
            all.failed += step.failed;
            step.counts.iter().for_each(|(result, number)| all.add(result, *number));
            tell(&step);
            if step.next != Next::Now {
                return Ok(all);
            }
        }
    }

    /// One piece of a survey: some of its listing, or some of what follows from it.
    pub async fn reconcile_step(
        &self,
        cursor: &mut ReconcileCursor,
        settings: &ReconcileSettings,
    ) -> Result<Step, EngineError> {
        let mut step = Step { next: Next::Now, ..Step::default() };
        let doubted = self.store.doubted_take(WORK_ROWS_MAX).await?;
        if !doubted.is_empty() {
            self.look_at_doubted(doubted, &mut step).await?;
            return Ok(step);
        }
        let mut pass = match cursor.pass.take() {
            Some(pass) => pass,
            None => match self.reconcile_due(cursor, settings, &mut step).await? {
                Due::At(next) => return Ok(Step { next, ..step }),
                Due::Backend(backend) => match self.reconcile_begin(backend, &mut step).await? {
                    Ok(pass) => pass,
                    Err(backend) => {
                        cursor.put_off.insert(backend, self.clock.now().plus(RETRY));
                        return Ok(step);
                    }
                },
            },
        };
        if self.fleet.load().get(pass.backend.id()).is_none() {
            return Ok(step);
        }
        self.reconcile_go_on(&mut pass, settings, &mut step).await?;
        step.position = Some(format!("{}: {} files", pass.backend.name(), pass.listed));
        if !matches!(pass.phase, Phase::Done) {
            cursor.pass = Some(pass);
            return Ok(step);
        }
        let backend = pass.backend.id();
        step.count("backends");
        if pass.is_whole {
            self.store.survey_done(backend).await?;
            cursor.put_off.remove(&backend);
        } else {
            step.failed += 1;
            cursor.put_off.insert(backend, self.clock.now().plus(RETRY));
        }
        Ok(step)
    }

    async fn reconcile_due(
        &self,
        cursor: &mut ReconcileCursor,
        settings: &ReconcileSettings,
        step: &mut Step,
    ) -> Result<Due, EngineError> {
        let rows = self.store.backends().await?;
        let fleet = self.fleet.load().for_work();
        let of = |id: BackendId| {
            let row = rows.iter().find(|row| row.id == id)?;
            let has_files = matches!(row.duty, Duty::InUse | Duty::Draining);
            fleet.get(id).filter(|_| has_files)
        };
        if let Some(queue) = &mut cursor.queue {
            while let Some(id) = queue.pop_front() {
                match of(id) {
                    Some(backend) if backend.is_present() => {
                        return Ok(Due::Backend(Arc::clone(backend)));
                    }
                    Some(_) => {
                        step.failed += 1;
                        step.count("absent");
                    }
                    None => {}
                }
            }
            return Ok(Due::At(Next::Woken));
        }
        self.reconcile_oldest(&cursor.put_off, settings, &fleet, of, step).await
    }

    /// The backend that waits longest of those that are due.
    async fn reconcile_oldest<'f>(
        &self,
        put_off: &BTreeMap<BackendId, Timestamp>,
        settings: &ReconcileSettings,
        fleet: &'f Fleet,
        of: impl Fn(BackendId) -> Option<&'f Arc<Backend>>,
        step: &mut Step,
    ) -> Result<Due, EngineError> {
        let done: BTreeMap<BackendId, Timestamp> =
            self.store.surveys_done().await?.into_iter().collect();
        let now = self.clock.now();
        let mut first: Option<(Timestamp, &Arc<Backend>)> = None;
        let mut waiting = 0;
        for backend in fleet.all().iter().filter_map(|backend| of(backend.id())) {
            let Some(every) = interval(backend, settings) else { continue };
            let by_time = done.get(&backend.id()).map_or(Timestamp(0), |done| done.plus(every));
            let put_off = put_off.get(&backend.id()).copied().unwrap_or_default();
            let due = by_time.max(put_off);
            if !backend.is_present() {
                waiting += u64::from(due <= now);
            } else if first.is_none_or(|(earliest, _)| due < earliest) {
                first = Some((due, backend));
            }
        }
        step.backlog = Some(waiting);
        Ok(match first {
            Some((due, backend)) if due <= now => Due::Backend(Arc::clone(backend)),
            Some((due, _)) => Due::At(Next::At(due)),
            None => Due::At(Next::Woken),
        })
    }

    /// `Err` when it cannot be listed now.
    async fn reconcile_begin(
        &self,
        backend: Arc<Backend>,
        step: &mut Step,
    ) -> Result<Result<Pass, BackendId>, EngineError> {
        let survey = self.store.survey(backend.id()).await?;
        let rows = self.store.backends().await?;
        let is_in_use = rows.iter().any(|r| r.id == backend.id() && r.duty == Duty::InUse);
        match backend.list("").await {
            Ok(listing) => {
                let phase = Phase::Listing(listing);
                Ok(Ok(Pass { backend, survey, phase, listed: 0, is_whole: true, is_in_use }))
            }
            Err(err) => {
                unlisted(&backend, &err);
                step.failed += 1;
                Ok(Err(backend.id()))
            }
        }
    }

    async fn reconcile_go_on(
        &self,
        pass: &mut Pass,
        settings: &ReconcileSettings,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        pass.phase = match std::mem::replace(&mut pass.phase, Phase::Done) {
            Phase::Listing(listing) => self.list_some(pass, listing, settings.batch).await?,
            Phase::Rows(after) => {
                let (found, next) = pass.survey.rows(after).await?;
                self.act_on_rows(pass, found, step).await?;
                next.map_or(Phase::Kept(String::new()), Phase::Rows)
            }
            Phase::Kept(after) => {
                let (found, next) = pass.survey.kept(after).await?;
                let paths = found.iter().map(|(id, path)| (*id, path.clone(), 0)).collect();
                let gone = self.look_again(pass, paths).await;
                let ids = gone.into_iter().filter(|(_, seen)| is_gone(seen)).map(|(id, _)| id);
                self.store.kept_forget(ids.collect()).await?;
                next.map_or(Phase::Files(String::new()), Phase::Kept)
            }
            Phase::Files(after) => {
                let (found, next) = pass.survey.files(after).await?;
                self.act_on_files(pass, found, step).await?;
                next.map_or(Phase::Done, Phase::Files)
            }
            Phase::Done => Phase::Done,
        };
        Ok(())
    }

    async fn list_some(
        &self,
        pass: &mut Pass,
        mut listing: BoxStream<'static, Result<Listed, BackendError>>,
        batch: usize,
    ) -> Result<Phase, EngineError> {
        let mut left = batch.max(1);
        let mut files = Vec::with_capacity(CHUNK.min(left));
        let phase = loop {
            match listing.next().await {
                Some(Ok(entry)) => {
                    files.push(listed_file(entry));
                    pass.listed += 1;
                    left -= 1;
                }
                Some(Err(err)) => {
                    unlisted(&pass.backend, &err);
                    pass.is_whole = false;
                    break Phase::Files(String::new());
                }
                None => break Phase::Rows(WriteId(0)),
            }
            if left == 0 {
                break Phase::Listing(listing);
            }
            if files.len() == CHUNK {
                pass.survey.add(std::mem::take(&mut files)).await?;
            }
        };
        pass.survey.add(files).await?;
        Ok(phase)
    }

    async fn act_on_rows(
        &self,
        pass: &mut Pass,
        found: Vec<RowDifference>,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let (mut changed, mut back, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut gone, mut unfit) = (Vec::new(), Vec::new());
        for RowDifference { write, path, size, what } in found {
            match what {
                RowFinding::Gone | RowFinding::Misfit => looks.push((write, path, size)),
                RowFinding::Back => back.push((write, Reconciled::Back)),
                RowFinding::Changed(file) => {
                    let size = file.size;
                    match changed_object(pass.backend.id(), file) {
                        Some(object) => changed.push((write, object)),
                        None => unfit.push((write, path, size)),
                    }
                }
            }
        }
        // What has no bytes that an object could have, and has none still, is as good as gone.
        for (write, seen) in self.look_again(pass, unfit).await {
            if matches!(seen, Seen::Whole | Seen::Missing) {
                gone.push((write, Reconciled::Missing));
            }
        }
        let mut damaged = Vec::new();
        for (write, seen) in self.look_again(pass, looks).await {
            match seen {
                Seen::Missing => gone.push((write, Reconciled::Missing)),
                Seen::Length(_) | Seen::Wrong => damaged.push((write, Reconciled::Damaged)),
                Seen::Whole | Seen::Unreadable(_) | Seen::Away(_) => {}
            }
        }
        for (result, findings) in [("removed", gone), ("damaged", damaged), ("back", back)] {
            let held = self.store.replicas_reconcile(findings).await?;
            step.processed += held;
            step.add(result, held);
            if held > 0 && result != "back" {
                tracing::warn!(backend = %pass.backend.name(), replicas = held, result,
                    "the backend does not have what it should");
            }
        }
        let changed = self.store.files_changed(changed).await?;
        step.processed += changed;
        step.add("changed", changed);
        Ok(())
    }

    /// Looks at borrowed files that were read and had not the bytes that they should have: those that
    /// their owner changed become new versions without waiting for a survey.
    async fn look_at_doubted(
        &self,
        doubted: Vec<Doubted>,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let fleet = self.fleet.load().for_work();
        let looks = stream::iter(doubted).map(async |Doubted { write, backend, path }| {
            let stat = fleet.get(backend)?.stat(&path).await.ok()?;
            let file = ListedFile { path, size: stat.size, modified: stat.modified };
            Some((write, changed_object(backend, file)?))
        });
        let seen: Vec<_> = looks.buffer_unordered(LOOKS_MAX).collect().await;
        let changed = self.store.files_changed(seen.into_iter().flatten().collect()).await?;
        step.processed += changed;
        step.add("changed", changed);
        Ok(())
    }

    async fn act_on_files(
        &self,
        pass: &mut Pass,
        found: Vec<FileDifference>,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let (mut imports, mut debris) = (Vec::new(), Vec::new());
        for FileDifference { file, what } in found {
            match what {
                FileFinding::Suppressed => step.count("suppressed"),
                FileFinding::Debris(write) => {
                    debris.push(Debris { write, path: file.path, size: file.size })
                }
                FileFinding::Foreign => match self.import_by_rule(pass, file) {
                    Some(import) => imports.push(import),
                    None => step.count("skipped"),
                },
            }
        }
        let became = self.store.files_import(pass.backend.id(), imports).await?;
        for fate in became {
            match fate {
                Import::Imported => {
                    step.processed += 1;
                    step.count("imported");
                    // It may be older than anything that was there.
                    self.rules_changed().notify_one();
                }
                Import::Suppressed => step.count("suppressed"),
                Import::Known => {}
                Import::TooLarge => step.count("too_large"),
                Import::Conflict | Import::Quota => step.count("skipped"),
            }
        }
        if !pass.is_whole {
            return Ok(());
        }
        let looks = debris.iter().enumerate();
        let looks = looks.map(|(at, debris)| (at, debris.path.clone(), debris.size)).collect();
        let mut there = Vec::with_capacity(debris.len());
        for (at, seen) in self.look_again(pass, looks).await {
            match seen {
                Seen::Whole => there.push(debris[at].clone()),
                Seen::Length(size) => there.push(Debris { size, ..debris[at].clone() }),
                _ => {}
            }
        }
        let condemned = self.store.debris_condemn(pass.backend.id(), there).await?;
        step.processed += condemned;
        step.add("debris", condemned);
        Ok(())
    }

    /// Below the name of a bucket that asks for it.
    fn import_by_rule(&self, pass: &Pass, file: ListedFile) -> Option<NewImport> {
        let path = file.path.clone();
        let (name, key) = path.split_once('/').filter(|_| pass.is_in_use)?;
        let bucket = self.store.bucket(name).filter(|bucket| bucket.imports)?;
        import_of(pass.backend.id(), &bucket, key, file)
    }

    /// Looks at files before anything follows from what a listing said of them.
    async fn look_again<I: Copy>(
        &self,
        pass: &mut Pass,
        files: Vec<(I, String, u64)>,
    ) -> Vec<(I, Seen)> {
        let backend = &pass.backend;
        let looks = stream::iter(files)
            .map(async |(id, path, size)| (id, examine::look(backend, &path, size).await));
        let seen: Vec<(I, Seen)> = looks.buffer_unordered(LOOKS_MAX).collect().await;
        let is_answer = |seen: &Seen| !matches!(seen, Seen::Unreadable(_) | Seen::Away(_));
        pass.is_whole &= seen.iter().all(|(_, seen)| is_answer(seen));
        seen
    }
}

fn is_gone(seen: &Seen) -> bool {
    matches!(seen, Seen::Missing)
}

/// How often a backend is surveyed; `None`: only when that is asked for, because listings cost.
fn interval(backend: &Backend, settings: &ReconcileSettings) -> Option<Duration> {
    if backend.device().is_some() {
        return Some(settings.local_every);
    }
    let calls = backend.settings().profile.prices.thousand_calls;
    let is_metered =
        backend.settings().limits.is_set() || calls.iter().flatten().any(|price| *price > 0.0);
    (!is_metered).then_some(settings.every)
}

fn unlisted(backend: &Backend, err: &BackendError) {
    tracing::warn!(backend = %backend.name(), why = chain(err),
        "a backend could not be listed to its end");
}
