//! Reading all that lies on the backends again and comparing it, before its owner needs it.
//!
//! A pass goes over the replicas of one backend in the order in which they were written (`store`
//! says why that is the order of their last verification). A step does the share of the pass that
//! its time has come for, at most a batch of each backend, all backends side by side.
//!
//! # Invariants
//!
//! - Nothing is deleted here. What is wrong is marked, so that its blob is replicated from a good
//!   replica and the wrong one condemned when it has enough again; the last one that there is stays
//!   where it is and is told of.
//! - The position moves only over what the backend was asked for. Where a limit, an absence or a
//!   failure of the whole backend ends a step, the next begins with the first that was not read.
//! - A step may be given up at any await: what was not recorded is read again.
//!
//! # What is borrowed
//!
//! Its owner may change it, and then it is not damaged: a borrowed file that is not what it was is
//! only unreadable. The reconciler, which sees times, tells one from the other.
//!
//! # What comes first
//!
//! What was imported has no hash that a read could be checked with, and what is back does not count,
//! until they were read here. Both are read in the next step, wherever the pass is.

mod first;
mod reading;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Semaphore;

use super::Engine;
use super::EngineError;
use super::step::Next;
use super::step::Step;
use crate::backend::Backend;
use crate::backend::Fitness;
use crate::backend::minute_of_day;
use crate::base::Timestamp;
use crate::base::chain;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::Operation;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::plan::scrub;
use crate::plan::scrub::Found;
use crate::plan::scrub::Pass;
use crate::plan::scrub::Verdict;
use crate::plan::scrub::Window;
use crate::store::BackendRow;
use crate::store::ScrubHash;
use crate::store::ScrubMarked;
use crate::store::ScrubPage;
use crate::store::ScrubPass;
use crate::store::ScrubReplica;
use crate::store::Scrubbed;
use reading::Means;
use reading::Pace;
use reading::Reading;
use reading::read_all;
use reading::serves_one_of;

pub use state::ScrubState;

/// Bytes of one backend in one step, beyond one replica, and the time in which a rate lets as many
/// pass: a step shall end in a time that an owner can wait for.
const STEP_BYTES: u64 = 1 << 30;
const STEP_TIME: Duration = Duration::from_secs(60);
/// Backends that are read side by side.
const BACKENDS_MAX: usize = 16;
/// Replicas that are tried before a backend is said to serve none.
const WITNESSES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Replicas of each backend in one step.
    pub batch: usize,
    /// Reads at a time, over all backends.
    pub concurrency: usize,
    /// How often a pass does its share.
    pub interval: Duration,
    /// In this time every replica is read once.
    pub pass: Duration,
    /// Bytes a second; 0: as fast as it goes.
    pub rate: u64,
    /// When it reads; `None`: always.
    pub window: Option<Window>,
}

/// How far it is, for whoever waits. Shared with the run.
#[derive(Debug, Default)]
pub struct ScrubProgress {
    pub replicas: AtomicU64,
    pub bytes: AtomicU64,
    /// About how many replicas a full pass has to read; 0 until that is known.
    pub total: AtomicU64,
}

/// What of the passes is not kept in the store.
#[derive(Debug, Default)]
pub struct ScrubCursor {
    only: Option<BackendId>,
    places: BTreeMap<BackendId, Place>,
    /// The store's number for replicas that came back, when this last looked at them.
    backs: u64,
    progress: Arc<ScrubProgress>,
}

impl ScrubCursor {
    /// Of one backend alone.
    pub fn of(backend: BackendId) -> ScrubCursor {
        ScrubCursor { only: Some(backend), ..ScrubCursor::default() }
    }

    pub fn progress(&self) -> Arc<ScrubProgress> {
        Arc::clone(&self.progress)
    }
}

/// Where the work on one backend stands.
#[derive(Debug, Default)]
struct Place {
    /// Replicas of the present share that are still to be read.
    left: u64,
    /// When the next share begins.
    rest: Timestamp,
    /// The last unreadable replica that was looked at again in this turn, and when the next turn is.
    unreadable: (Timestamp, WriteId),
    look_at: Timestamp,
    /// The last blob that was looked at in the walk over those that nobody has read.
    unhashed: BlobId,
    /// The full pass, once it has begun, and whether it came to its end or cannot go on.
    full: Option<ScrubPass>,
    is_done: bool,
}

impl Place {
    /// No turn over the unreadable ones is on its way.
    fn is_looked_through(&self) -> bool {
        self.unreadable == <(Timestamp, WriteId)>::default()
    }
}

/// A step on one backend.
struct Visit<'s> {
    means: &'s Means<'s>,
    settings: &'s ScrubSettings,
    is_full: bool,
    now: Timestamp,
    backend: &'s Backend,
    row: &'s BackendRow,
}

impl Engine {
    /// Reads at most `batch` replicas of each backend whose time has come, and compares them. With
    /// `is_full` it is a step of a pass over all there is, whatever the schedule: it is over when
    /// `next` is no longer [`Next::Now`].
    pub async fn scrub_step(
        &self,
        cursor: &mut ScrubCursor,
        settings: &ScrubSettings,
        is_full: bool,
    ) -> Result<Step, EngineError> {
        let now = self.clock.now();
        let window = settings.window.filter(|_| !is_full);
        if let Some(opens) = window.and_then(|window| window.opens(minute_of_day(now), now)) {
            return Ok(Step { next: Next::At(opens), ..Step::default() });
        }
        let fleet = self.fleet.load().for_work();
        let mut rows = self.store.backends().await?;
        rows.retain(|row| {
            let is_wanted = cursor.only.is_none_or(|only| only == row.id);
            is_wanted && matches!(row.duty, Duty::InUse | Duty::Draining)
        });
        if is_full {
            let total = rows.iter().map(|row| row.rows).sum();
            cursor.progress.total.store(total, Ordering::Relaxed);
        }
        cursor.places.retain(|id, _| rows.iter().any(|row| row.id == *id));
        for row in &rows {
            cursor.places.entry(row.id).or_default();
        }
        let backs = self.store.replicas_back();
        if std::mem::replace(&mut cursor.backs, backs) != backs {
            cursor.places.values_mut().for_each(|place| place.look_at = now);
        }
        let concurrency = settings.concurrency.max(1);
        let means = Means {
            reads: Semaphore::new(concurrency),
            concurrency,
            pace: Pace::new(settings.rate),
            hashers: &self.hashers,
            budget: &self.budget,
            progress: &cursor.progress,
        };
        let visits = cursor.places.iter_mut().filter_map(|(id, place)| {
            let row = rows.iter().find(|row| row.id == *id)?;
            let backend = fleet.get(*id)?;
            let visit = Visit { means: &means, settings, is_full, now, backend, row };
            Some(async move { visit.run(self, place).await })
        });
        let visits: Vec<_> = visits.collect();
        let visited = stream::iter(visits).buffered(BACKENDS_MAX).collect::<Vec<_>>().await;
        let mut step = Step::default();
        for visit in visited {
            merge(&mut step, visit?);
        }
        if is_full && step.next != Next::Now {
            cursor.places.clear();
        }
        Ok(step)
    }
}

impl Visit<'_> {
    async fn run(&self, engine: &Engine, place: &mut Place) -> Result<Step, EngineError> {
        let mut step = Step::default();
        if self.is_full && place.is_done && place.is_looked_through() {
            return Ok(step);
        }
        let fitness = self.backend.fitness(Operation::Read, 0);
        if !fitness.is_fit() {
            step.count(if fitness == Fitness::Spent { "spent" } else { "absent" });
            self.stops(place, &mut step);
            return Ok(step);
        }
        self.look_again(engine, place, &mut step).await?;
        match self.is_full {
            true => self.full(engine, place, &mut step).await?,
            false if self.read_unhashed(engine, place, &mut step).await? => {
                self.stops(place, &mut step);
            }
            false => self.share(engine, place, &mut step).await?,
        }
        Ok(step)
    }

    /// It cannot be asked any more now.
    fn stops(&self, place: &mut Place, step: &mut Step) {
        place.left = 0;
        place.rest = self.now.plus(self.settings.interval);
        place.is_done = self.is_full;
        if !self.is_full {
            next(step, Next::At(place.rest));
        }
    }

    /// A piece of the full pass.
    async fn full(
        &self,
        engine: &Engine,
        place: &mut Place,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        if place.is_done {
            return Ok(());
        }
        let mut pass = place.full.unwrap_or(ScrubPass::begin(self.now));
        let is_stopped = self.pages(engine, &mut pass, self.settings.batch, step).await?;
        place.full = Some(pass);
        self.tell_position(&pass, step);
        if is_stopped {
            self.stops(place, step);
        } else if pass.is_over {
            place.is_done = true;
        } else {
            next(step, Next::Now);
        }
        Ok(())
    }

    /// A piece of what the scheduled pass has to do by now.
    async fn share(
        &self,
        engine: &Engine,
        place: &mut Place,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let (settings, now) = (self.settings, self.now);
        let mut pass = engine.store.scrub_pass(self.row.id).await?;
        if pass.is_some_and(|pass| pass.is_over && self.paced(&pass).next() <= now) {
            pass = None;
        }
        let mut pass = pass.unwrap_or(ScrubPass::begin(now));
        if pass.is_over {
            next(step, Next::At(self.paced(&pass).next()));
            return Ok(());
        }
        if self.row.rows == 0 {
            // What will be written here is verified then, and is not read again before that.
            next(step, Next::At(now.plus(settings.pass)));
            return Ok(());
        }
        if place.left == 0 && place.rest <= now {
            let batch = settings.batch as u64;
            // Whether it is over is known only at its end: rows come and go meanwhile.
            place.left = self.paced(&pass).step(settings.interval, batch, now).max(batch).max(1);
            place.rest = now.plus(settings.interval);
        }
        if place.left > 0 {
            let before = pass.done;
            let most = usize::try_from(place.left).unwrap_or(usize::MAX).min(settings.batch.max(1));
            let is_stopped = self.pages(engine, &mut pass, most, step).await?;
            place.left = place.left.saturating_sub(pass.done - before);
            if is_stopped {
                self.stops(place, step);
            } else if pass.is_over {
                place.left = 0;
            } else if place.left > 0 {
                next(step, Next::Now);
            }
        }
        self.tell_position(&pass, step);
        step.backlog = Some(if pass.is_over { 0 } else { self.row.rows.saturating_sub(pass.done) });
        let again =
            if pass.is_over && pass.done > 0 { self.paced(&pass).next() } else { place.rest };
        next(step, Next::At(again));
        Ok(())
    }

    fn paced(&self, pass: &ScrubPass) -> Pass {
        let (total, length) = (self.row.rows, self.settings.pass);
        Pass { total, done: pass.done, began: pass.began, length }
    }

    fn tell_position(&self, pass: &ScrubPass, step: &mut Step) {
        if !pass.is_over && pass.done > 0 {
            let name = self.backend.name();
            step.position = Some(format!("{name}: {} of {}", pass.done, self.row.rows));
        }
    }

    /// Reads the next replicas of the pass, at most `most`; whether the backend could not be asked
    /// for all of them.
    async fn pages(
        &self,
        engine: &Engine,
        pass: &mut ScrubPass,
        most: usize,
        step: &mut Step,
    ) -> Result<bool, EngineError> {
        let most = most.clamp(1, WORK_ROWS_MAX);
        let mut page = self.page(engine, pass.after, most).await?;
        self.shorten(&mut page);
        let skipped = self.skip(&mut page, pass);
        let (results, read) = self.read(engine, &page.replicas, step).await?;
        let is_stopped = read < page.replicas.len();
        pass.done += (read + if is_stopped { 0 } else { skipped }) as u64;
        pass.is_over = page.is_end && !is_stopped;
        pass.after = match read.checked_sub(1) {
            _ if !is_stopped => page.upto,
            Some(last) => page.replicas[last].replica.write,
            None => pass.after,
        };
        // Of a full pass only that it is over is remembered, and of one over nothing nothing.
        let has_news = pass.is_over || (read + skipped > 0 && !self.is_full);
        let told = (has_news && pass.done > 0).then_some(*pass);
        if told.is_some() || !results.is_empty() {
            self.record(engine, told, &page.replicas, results, step).await?;
        }
        Ok(is_stopped)
    }

    /// The next page that holds something, or the last one.
    async fn page(
        &self,
        engine: &Engine,
        mut after: WriteId,
        most: usize,
    ) -> Result<ScrubPage, EngineError> {
        loop {
            let page = engine.store.scrub_page(self.row.id, after, most, self.is_full).await?;
            if page.is_end || !page.replicas.is_empty() {
                return Ok(page);
            }
            after = page.upto;
        }
    }

    /// Leaves out what was compared since the pass began, because it was imported or came back: how
    /// many those were. A full pass is asked for by somebody who wants all read.
    fn skip(&self, page: &mut ScrubPage, pass: &ScrubPass) -> usize {
        let before = page.replicas.len();
        let is_due = |replica: &ScrubReplica| replica.checked.is_none_or(|at| at < pass.began);
        page.replicas.retain(|replica| self.is_full || is_due(replica));
        before - page.replicas.len()
    }

    /// Leaves to the next step what would make this one too long.
    fn shorten(&self, page: &mut ScrubPage) {
        let stays = self.fitting(&page.replicas);
        if stays < page.replicas.len() {
            page.replicas.truncate(stays);
            page.upto = page.replicas[stays - 1].replica.write;
            page.is_end = false;
        }
    }

    /// How many of these one step reads, at least one.
    fn fitting(&self, replicas: &[ScrubReplica]) -> usize {
        let by_rate = match self.settings.rate {
            0 => STEP_BYTES,
            rate => rate.saturating_mul(STEP_TIME.as_secs()),
        };
        let mut bytes = 0_u64;
        let is_within = |replica: &ScrubReplica| {
            bytes = bytes.saturating_add(replica.size);
            bytes <= STEP_BYTES.min(by_rate)
        };
        replicas.iter().map(is_within).take_while(|is_within| *is_within).count().max(1)
    }

    /// Reads replicas and judges them: what the store is to be told, and how many of them were
    /// read before the first of which nothing can be said.
    async fn read(
        &self,
        engine: &Engine,
        replicas: &[ScrubReplica],
        step: &mut Step,
    ) -> Result<(Vec<(WriteId, Scrubbed)>, usize), EngineError> {
        let mut readings = read_all(self.means, self.backend, replicas).await;
        let is_unreadable = |reading: &Reading| matches!(reading.found, Found::Unreadable { .. });
        if readings.iter().any(is_unreadable) {
            let serves = readings.iter().any(Reading::was_served)
                || self.serves_others(engine, replicas).await?;
            for reading in readings.iter_mut().filter(|reading| is_unreadable(reading)) {
                reading.found = Found::Unreadable { serves_others: serves };
            }
        }
        let mut results = Vec::with_capacity(replicas.len());
        let mut read = None;
        for (at, (replica, reading)) in replicas.iter().zip(readings).enumerate() {
            let was_unreadable = replica.replica.state == ReplicaState::Unreadable;
            let since = replica.checked.filter(|_| was_unreadable);
            let verdict = scrub::verdict(reading.found, since, self.now);
            if verdict == Verdict::Nothing {
                read.get_or_insert(at);
            }
            if let Some(result) = self.judge(replica, reading, verdict, step) {
                results.push((replica.replica.write, result));
            }
        }
        let read = read.unwrap_or(replicas.len());
        self.means.progress.replicas.fetch_add(read as u64, Ordering::Relaxed);
        Ok((results, read))
    }

    /// Whether the backend gives bytes of others than `replicas`.
    async fn serves_others(
        &self,
        engine: &Engine,
        replicas: &[ScrubReplica],
    ) -> Result<bool, EngineError> {
        let page = self.page(engine, WriteId(0), replicas.len() + WITNESSES).await?;
        let is_other = |other: &ScrubReplica| !replicas.iter().any(|one| one.blob == other.blob);
        let others: Vec<_> = page.replicas.into_iter().filter(is_other).take(WITNESSES).collect();
        Ok(serves_one_of(self.backend, &others).await)
    }

    /// What the store is to be told of one replica.
    fn judge(
        &self,
        replica: &ScrubReplica,
        reading: Reading,
        verdict: Verdict,
        step: &mut Step,
    ) -> Option<Scrubbed> {
        if verdict == Verdict::Nothing {
            let why = reading.why.map(|err| chain(&err)).unwrap_or_default();
            tracing::debug!(backend = %self.backend.name(), path = replica.replica.path, why,
                "a replica was not scrubbed");
            step.failed += 1;
            step.count("not_read");
            return None;
        }
        step.processed += 1;
        match verdict {
            Verdict::Verified => match reading.hash.filter(|_| replica.hash.is_none()) {
                Some(hash) => {
                    step.count("backfilled");
                    Some(Scrubbed::Hashed(ScrubHash { hash: hash.hash, groups: hash.groups }))
                }
                None => {
                    step.count("verified");
                    Some(Scrubbed::Verified)
                }
            },
            Verdict::Damaged if replica.replica.is_borrowed => {
                step.count("changed");
                let is_known = replica.replica.state == ReplicaState::Unreadable;
                (!is_known).then_some(Scrubbed::Damaged)
            }
            Verdict::GivenUp if replica.replica.is_borrowed => {
                step.count("still_unreadable");
                None
            }
            Verdict::Damaged => Some(Scrubbed::Damaged),
            Verdict::GivenUp => {
                step.count("given_up");
                Some(Scrubbed::Damaged)
            }
            Verdict::Missing => Some(Scrubbed::Missing),
            Verdict::Unreadable => Some(Scrubbed::Unreadable),
            Verdict::StillUnreadable => {
                step.count("still_unreadable");
                None
            }
            Verdict::Nothing => None,
        }
    }

    async fn record(
        &self,
        engine: &Engine,
        pass: Option<ScrubPass>,
        replicas: &[ScrubReplica],
        results: Vec<(WriteId, Scrubbed)>,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let marked = engine.store.scrub_record(self.row.id, pass, results).await?;
        for one in marked {
            let found = replicas.iter().find(|replica| replica.replica.write == one.write);
            if let Some(replica) = found {
                self.tell(&one, replica, step);
            }
            if one.state == ReplicaState::Unreadable {
                next(step, Next::At(self.now.plus(self.settings.interval)));
            }
        }
        Ok(())
    }

    /// Counts and logs what is not as it was: once, for it is not marked again.
    fn tell(&self, marked: &ScrubMarked, replica: &ScrubReplica, step: &mut Step) {
        let (backend, path) = (self.backend.name(), replica.replica.path.as_str());
        let state = marked.state.name();
        if marked.state.is_readable() {
            step.count("good_again");
            tracing::info!(%backend, path, "a replica is good again");
            return;
        }
        step.count(state);
        if marked.state == ReplicaState::Damaged && marked.is_alone {
            step.count("damaged_alone");
            tracing::error!(%backend, path, blob = %replica.blob,
                "a replica is damaged and there is no other: it is kept, and its object cannot be \
                 read before one is found");
        } else {
            tracing::warn!(%backend, path, state, "a replica is wrong");
        }
    }
}

/// The sooner of the two.
fn next(step: &mut Step, other: Next) {
    step.next = match (step.next, other) {
        (Next::Now, _) | (_, Next::Now) => Next::Now,
        (Next::At(one), Next::At(other)) => Next::At(one.min(other)),
        (Next::Woken, some) | (some, Next::Woken) => some,
    };
}

fn merge(step: &mut Step, one: Step) {
    step.processed += one.processed;
    step.failed += one.failed;
    one.counts.iter().for_each(|(result, number)| step.add(result, *number));
    step.backlog = match (step.backlog, one.backlog) {
        (None, None) => None,
        (some, other) => Some(some.unwrap_or(0) + other.unwrap_or(0)),
    };
    step.position = match (step.position.take(), one.position) {
        (Some(some), Some(other)) => Some(format!("{some}, {other}")),
        (some, other) => some.or(other),
    };
    next(step, one.next);
}
