//! All workers together: started, changed, asked, watched and ended as one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Next;
use super::Wakes;
use super::post::Attempt;
use super::post::Ground;
use super::post::Post;
use super::post::REFUSED_PAUSE;
use super::post::StepError;
use super::report::Report;
use super::report::RunProgress;
use super::report::Totals;
use super::settings::CrewSettings;
use super::table::Factory;
use super::table::Name;
use super::table::factories;
use crate::base::FileLock;
use crate::engine::Engine;

/// How often a manual run looks whether the worker's lock is free.
pub(super) const LOCK_LOOK: Duration = Duration::from_millis(250);

/// The workers of a process. In a server they are started; without one they only run when asked.
pub struct Crew {
    posts: Vec<Arc<Post>>,
    ground: Ground,
    tasks: TaskTracker,
}

/// A worker's lock, until it is dropped.
#[derive(Debug)]
pub struct Held {
    _lock: FileLock,
}

/// Why a manual run came to no end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("this version has no such worker")]
    NoSuchWorker,
    #[error("a step failed")]
    Step(#[source] StepError),
    #[error("the worker panicked: {0}")]
    Panicked(String),
    #[error("the run was stopped")]
    Stopped,
}

impl Crew {
    /// The workers of `engine`, whose lock files are below `data_dir`. Nothing runs yet.
    pub fn new(
        engine: &Arc<Engine>,
        data_dir: &Path,
        settings: CrewSettings,
        wakes: &Wakes,
    ) -> Arc<Crew> {
        let ground = Ground {
            admission: Arc::clone(&engine.admission),
            clock: engine.clock.clone(),
            locks: data_dir.join("locks"),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            stop: CancellationToken::new(),
        };
        Crew::of(factories(engine), ground, wakes)
    }

    pub(super) fn of(factories: Vec<(Name, Factory)>, ground: Ground, wakes: &Wakes) -> Arc<Crew> {
        let post =
            |(name, factory)| Arc::new(Post::new(name, factory, ground.clone(), wakes.of(name)));
        let posts = factories.into_iter().map(post).collect();
        Arc::new(Crew { posts, ground, tasks: TaskTracker::new() })
    }

    /// Lets every worker run, each in a task of its own, until [`Crew::end`].
    pub fn start(&self) {
        for post in &self.posts {
            self.tasks.spawn(Arc::clone(post).run());
        }
    }

    /// Tells all to stop, and waits until the steps and runs that are on their way have ended.
    pub async fn end(&self) {
        self.ground.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Holds from the next step of each worker; those that rest reckon anew how long.
    pub fn reload(&self, settings: CrewSettings) {
        self.ground.settings.store(Arc::new(settings));
        self.posts.iter().for_each(|post| post.changed.notify_one());
    }

    /// What holds for the next steps.
    pub fn settings(&self) -> Arc<CrewSettings> {
        self.ground.settings.load_full()
    }

    /// The workers that there are.
    pub fn names(&self) -> Vec<Name> {
        self.posts.iter().map(|post| post.name).collect()
    }

    pub fn reports(&self) -> Vec<(Name, Report)> {
        self.posts.iter().map(|post| (post.name, post.report())).collect()
    }

    /// Asks a worker to look now, whatever it waits for; whether there is such a worker. One that is
    /// off or paused looks when it is on again.
    pub fn wake(&self, name: Name) -> bool {
        let Some(post) = self.post(name) else { return false };
        post.is_asked.store(true, Ordering::Release);
        post.changed.notify_one();
        true
    }

    /// From the next step on; one that runs goes on to its end.
    pub fn pause(&self, name: Name, paused: bool) {
        if let Some(post) = self.post(name) {
            post.is_paused.store(paused, Ordering::Release);
            post.changed.notify_one();
        }
    }

    fn post(&self, name: Name) -> Option<&Arc<Post>> {
        self.posts.iter().find(|post| post.name == name)
    }

    /// Keeps a worker from its steps, by its lock, for an operator's verb that does its work. Waits
    /// for the step that is on its way.
    pub async fn hold(&self, name: Name) -> Result<Held, RunError> {
        let post = self.post(name).ok_or(RunError::NoSuchWorker)?;
        Ok(Held { _lock: wait_for_lock(post, &self.ground.stop).await? })
    }

    /// A full pass by a worker of its own, off and paused ones included. It waits for the worker's
    /// lock and holds it, and repeats its step until there is no more to do or nothing was done.
    /// When nobody waits for the run any more, it ends after the step that is on its way.
    pub async fn run(&self, name: Name, progress: &Arc<RunProgress>) -> Result<Totals, RunError> {
        self.run_with(name, None, progress).await
    }

    /// The same with steps of so many things, where that is said.
    pub async fn run_with(
        &self,
        name: Name,
        batch: Option<usize>,
        progress: &Arc<RunProgress>,
    ) -> Result<Totals, RunError> {
        let post = Arc::clone(self.post(name).ok_or(RunError::NoSuchWorker)?);
        let stop = self.ground.stop.child_token();
        let _ends_with_us = stop.clone().drop_guard();
        let pass = self.tasks.spawn(full_pass(post, batch, Arc::clone(progress), stop));
        pass.await.unwrap_or_else(|err| Err(RunError::Panicked(err.to_string())))
    }
}

async fn full_pass(
    post: Arc<Post>,
    batch: Option<usize>,
    progress: Arc<RunProgress>,
    stop: CancellationToken,
) -> Result<Totals, RunError> {
    let lock = wait_for_lock(&post, &stop).await?;
    let mut worker = None;
    let mut totals = Totals::default();
    loop {
        let Ok(permit) = post.ground.admission.work(post.name.as_str()) else {
            post.with_report(|report| report.refused += 1);
            let paused = stop.run_until_cancelled(tokio::time::sleep(REFUSED_PAUSE)).await;
            paused.ok_or(RunError::Stopped)?;
            continue;
        };
        let mut turn = post.turn(true, stop.clone());
        if let Some(batch) = batch {
            Arc::make_mut(&mut turn.settings).of_mut(post.name).batch = batch;
        }
        let attempt = post.attempt(&mut worker, &turn).await;
        drop(permit);
        let step = match attempt {
            Attempt::Done(step) => step,
            Attempt::Failed(err) => return Err(RunError::Step(err)),
            Attempt::Panicked(text) => return Err(RunError::Panicked(text)),
        };
        let did_something = step.processed + step.failed > 0 || step.position != totals.position;
        totals.note(&step);
        progress.set(&totals);
        // It may have ended itself before it was done.
        if stop.is_cancelled() {
            return Err(RunError::Stopped);
        }
        if step.next != Next::Now || !did_something {
            drop(lock);
            return Ok(totals);
        }
    }
}

async fn wait_for_lock(post: &Post, stop: &CancellationToken) -> Result<FileLock, RunError> {
    loop {
        if let Some(lock) = post.try_lock().await.map_err(RunError::Step)? {
            return Ok(lock);
        }
        let paused = stop.run_until_cancelled(tokio::time::sleep(LOCK_LOOK)).await;
        paused.ok_or(RunError::Stopped)?;
    }
}
