//! A changed configuration, taken as a whole or not at all.
//!
//! The file is parsed and checked, the fleet is opened (backends with equal settings are taken
//! over), and one store transaction declares all of it; only then do the running parts see it. A
//! mistake anywhere leaves everything as it was and is logged with its place. Requests in flight
//! finish with the generation that they began with.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

use super::ServeOptions;
use super::fleet;
use super::logging::LogHandle;
use crate::backend::Fleet;
use crate::base::Ids;
use crate::config;
use crate::config::Config;
use crate::config::watch::Watch;
use crate::engine::Engine;
use crate::s3::S3Service;
use crate::worker::Crew;

/// The running parts that take what has changed.
pub(super) struct Parts {
    pub(super) engine: Arc<Engine>,
    pub(super) s3: S3Service,
    pub(super) crew: Arc<Crew>,
}

pub(super) struct Reloader {
    path: PathBuf,
    log: LogHandle,
    parts: Parts,
    ids: Arc<Ids>,
    grace: Grace,
    now: Config,
    watch: Watch,
}

/// `shutdown_timeout`, as it is when the server stops.
#[derive(Clone)]
pub(super) struct Grace(Arc<AtomicU64>);

impl Grace {
    pub(super) fn new(grace: Duration) -> Grace {
        let shared = Grace(Arc::default());
        shared.set(grace);
        shared
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Acquire))
    }

    fn set(&self, grace: Duration) {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Release);
    }
}

impl Reloader {
    pub(super) fn new(
        options: &ServeOptions,
        parts: Parts,
        ids: Arc<Ids>,
        grace: Grace,
    ) -> Reloader {
        let (path, log) = (options.config_path.clone(), options.log.clone());
        let watch = Watch::start(path.clone(), options.loaded.text_hash);
        let now = options.loaded.config.clone();
        Reloader { path, log, parts, ids, grace, now, watch }
    }

    /// Reloads on SIGHUP, also when the file is the same (a file of a secret may not be), and when
    /// the contents of the file change.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut hup = match signal(SignalKind::hangup()) {
            Ok(hup) => hup,
            Err(err) => {
                tracing::error!(error = %err, "cannot hear SIGHUP; the configuration stays");
                return;
            }
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hup.recv() => (),
                () = self.watch.changed() => (),
            }
            match self.reload().await {
                Ok(()) => tracing::info!("the changed configuration is in force"),
                Err(err) => tracing::error!(
                    "the changed configuration is not used, the old one stays: {err:#}"
                ),
            }
        }
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path, &config::environment));
        let loaded = loaded.await??;
        let new = loaded.config;
        if new.data_dir != self.now.data_dir {
            anyhow::bail!("data_dir changes only with a restart");
        }
        let old = &self.now.server;
        if (new.server.listen, new.server.admin_listen) != (old.listen, old.admin_listen) {
            anyhow::bail!("listen and admin_listen change only with a restart");
        }
        let Parts { engine, s3, crew } = &self.parts;
        let store = &engine.store;
        let before = engine.fleet.load_full();
        let rows = store.backends().await?;
        let known = fleet::Known {
            store: store.id(),
            rows: &rows,
            before: Some(&before),
            ids: &self.ids,
            clock: &engine.clock,
        };
        let (backends, declared) = fleet::open(&new.backends, &known).await?;
        let declared = async {
            engine.usage_learn(&backends).await?;
            store.declare(super::declaration(&new, declared)).await?;
            anyhow::Ok(())
        };
        if let Err(err) = declared.await {
            fleet::hand_back(&backends, Some(&before));
            return Err(err);
        }
        // A fleet holds its backends to their limits together, so first each has what was used.
        engine.usage_hand_on(&backends);
        engine.reload(Fleet::new(backends), new.engine.clone(), new.server.memory);
        self.grace.set(new.server.shutdown_timeout);
        s3.reload(super::s3_settings(&new));
        crew.reload(new.workers.clone());
        self.log.set_level(new.log.level);
        if new.log.format != self.now.log.format {
            tracing::warn!("log.format changes with the next start");
        }
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.render(&self.path));
        }
        self.now = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_waits_as_long_as_the_last_reload_says() {
        let grace = Grace::new(Duration::from_secs(30));
        let at_the_stop = grace.clone();
        grace.set(Duration::from_millis(1500));
        assert_eq!(at_the_stop.get(), Duration::from_millis(1500));
        grace.set(Duration::ZERO);
        assert_eq!(at_the_stop.get(), Duration::ZERO);
    }
}
