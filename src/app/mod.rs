//! Builds everything, starts it, reloads it, stops it: the only place that knows everyone.
//!
//! The order of the start: configuration, store (with its lock), fleet,
//! listeners; no request is taken before all of it stands. The order of the stop: not ready, no new
//! connections, requests in flight finish within `shutdown_timeout`, background work ends, the
//! store closes. Crash safety does not depend on the second list.

mod crew;
mod fleet;
pub mod logging;
pub mod offline;
mod reload;
pub mod remote;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::backend::Fleet;
use crate::base::Clock;
use crate::base::Ids;
use crate::base::chain;
use crate::config::Config;
use crate::config::Loaded;
use crate::engine::Engine;
use crate::s3::S3Service;
use crate::s3::S3Settings;
use crate::s3::serve as serve_s3;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::store::Store;

use reload::Grace;
use reload::Parts;
use reload::Reloader;

/// How often absent backends are looked at, and uploads completed long ago are forgotten.
const LOOK: Duration = Duration::from_secs(5);
const PRUNE: Duration = Duration::from_secs(3600);
/// What is kept of the data directory's disk for when that is full: deletes of millions of
/// objects.
const BALLAST: u64 = 64 << 20;
/// Open files: as many as the system lets us, up to this.
const FILES_WANTED: u64 = 65_536;

pub struct ServeOptions {
    pub config_path: PathBuf,
    pub loaded: Loaded,
    pub log: logging::LogHandle,
}

/// Serves until SIGTERM, SIGINT, or an operator asks it to stop.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    raise_file_limit();
    let config = &options.loaded.config;
    let clock = Clock::system();
    let ids = Arc::new(Ids::new(clock.clone()));
    let data_dir = config.data_dir.clone();
    let store = offline::open_with(&data_dir, BALLAST, clock.clone(), Arc::clone(&ids)).await?;
    // Nobody else may make it: the store's lock is ours.
    let socket = admin::Socket::bind(&data_dir).context("the operator's socket cannot be made")?;
    let socket = Arc::new(socket);
    let result = serve_store(&options, store.clone(), clock, ids, &socket).await;
    drop(socket);
    store.close().await;
    result
}

async fn serve_store(
    options: &ServeOptions,
    store: Store,
    clock: Clock,
    ids: Arc<Ids>,
    socket: &Arc<admin::Socket>,
) -> anyhow::Result<()> {
    let config = &options.loaded.config;
    let rows = store.backends().await?;
    let known =
        fleet::Known { store: store.id(), rows: &rows, before: None, ids: &ids, clock: &clock };
    let (backends, declared) = fleet::open(&config.backends, &known).await?;
    store.declare(declaration(config, declared)).await.context("declaring the configuration")?;
    let memory = config.server.memory;
    let fleet = Fleet::new(backends);
    let engine = Engine::new(store, fleet.clone(), config.engine.clone(), memory, clock);
    // Before the first request: limits hold only what is known.
    engine.usage_learn(fleet.all()).await.context("looking up what was used")?;

    let s3_listener = bind(config.server.listen, "server.listen").await?;
    let admin_listener = bind(config.server.admin_listen, "server.admin_listen").await?;
    let s3 = S3Service::new(Arc::clone(&engine), s3_settings(config));
    let ready = admin::Ready::default();
    let stop = CancellationToken::new();
    let stop_background = CancellationToken::new();
    let background = TaskTracker::new();
    background.spawn(Arc::clone(&engine).usage_loop(stop_background.clone()));
    background.spawn(keep_house(Arc::clone(&engine), stop_background.clone()));
    background.spawn(admin::serve(admin_listener, ready.clone(), stop_background.clone()));
    let stop_asked = CancellationToken::new();
    let crew = crew::crew(config, &engine).await.context("looking up which workers are paused")?;
    crew.start();
    let (asked, engine_asked) = (stop_asked.clone(), Arc::clone(&engine));
    let desk = admin::Desk::of_server(engine_asked, Arc::clone(&crew), ready.clone(), asked);
    let operated = admin::serve_socket(
        Arc::clone(socket),
        ready.clone(),
        Arc::new(desk),
        stop_background.clone(),
    );
    background.spawn(operated);
    let grace = Grace::new(config.server.shutdown_timeout);
    let parts = Parts { engine: Arc::clone(&engine), s3: s3.clone(), crew: Arc::clone(&crew) };
    let reloader = Reloader::new(options, parts, ids, grace.clone());
    background.spawn(reloader.run(stop_background.clone()));

    let patience = grace.clone();
    let serving = serve_s3(s3_listener, s3, stop.clone(), move || patience.get());
    let serving = tokio::spawn(serving);
    ready.set(true);
    let (listen, admin) = (config.server.listen, config.server.admin_listen);
    tracing::info!(%listen, %admin, backends = config.backends.len(), "serving");

    wait_for_end(&stop_asked).await?;
    tracing::info!("stopping; what is in flight may finish");
    ready.set(false);
    stop.cancel();
    // A listener that panicked ends here as well; what it served is lost, what it stored is not.
    let _ = serving.await;
    stop_background.cancel();
    engine.end_work();
    background.spawn(async move { crew.end().await });
    end(&background, grace.get(), &engine).await;
    Ok(())
}

/// Background work ends, and what it sent to its end is counted.
async fn end(background: &TaskTracker, grace: Duration, engine: &Engine) {
    background.close();
    if tokio::time::timeout(grace, background.wait()).await.is_err() {
        tracing::warn!("background work did not end in time and is left behind");
    }
    if let Err(err) = engine.usage_flush().await {
        tracing::warn!(error = chain(&err), "what was used last could not be written");
    }
}

/// What the store keeps of a configuration.
fn declaration(config: &Config, backends: Vec<DeclaredBackend>) -> Declaration {
    Declaration {
        backends,
        buckets: config.buckets.clone(),
        keys: config.keys.clone(),
        default_placement: config.default_placement.clone(),
    }
}

fn s3_settings(config: &Config) -> S3Settings {
    S3Settings {
        region: config.server.region.clone(),
        domain: config.server.domain.clone(),
        post_form_max: config.server.post_form_max,
        rate: config.rate.clone(),
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({key}); is something else there?"))
}

/// Looks at absent backends, and forgets what has had its time.
async fn keep_house(engine: Arc<Engine>, stop: CancellationToken) {
    let mut since_prune = PRUNE;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        engine.look_for_absent().await;
        since_prune += LOOK;
        if since_prune >= PRUNE {
            since_prune = Duration::ZERO;
            engine.prune_uploads().await;
        }
    }
}

async fn wait_for_end(asked: &CancellationToken) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => (),
        _ = int.recv() => (),
        () = asked.cancelled() => (),
    }
    Ok(())
}

/// Every connection and every open file counts against a limit that is low by default.
fn raise_file_limit() {
    use rustix::process::Resource;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(FILES_WANTED, |most| most.min(FILES_WANTED));
    if limit.current.is_some_and(|now| now < most) {
        limit.current = Some(most);
        if let Err(err) = rustix::process::setrlimit(Resource::Nofile, limit) {
            tracing::warn!(error = %err, "the limit for open files stays as it is");
        }
    }
}
