//! Where the operator's verbs are carried out, in a server and without one alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Ready;
use super::error::ApiError;
use super::long::Long;
use super::operation::Operation;
use super::usage::UsageView;
use super::views::BackendView;
use super::views::BucketView;
use super::views::ChangedKey;
use super::views::GrantView;
use super::views::KeyView;
use super::views::NewBucket;
use super::views::NewKey;
use super::views::StatusView;
use super::views::VerifyFar;
use super::views::VerifyView;
use super::views::VerifyWish;
use super::views::Wishes;
use super::views::bucket_name;
use super::views::condition;
use super::views::rfc3339;
use crate::base::Timestamp;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::KeyChange;
use crate::engine::VerifyOptions;
use crate::engine::VerifyProgress;
use crate::model::Bucket;
use crate::model::Duty;
use crate::model::Grant;
use crate::model::Grants;
use crate::worker::Crew;

/// A backend, as far as wishes depend on it.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub service: String,
    /// Counts towards `min_replicas`.
    pub is_durable: bool,
    pub labels: BTreeMap<String, String>,
}

/// The engine, and what of its surroundings the verbs touch.
pub struct Desk {
    pub(super) engine: Arc<Engine>,
    pub(super) crew: Arc<Crew>,
    surroundings: Surroundings,
}

enum Surroundings {
    Server {
        ready: Ready,
        stop: CancellationToken,
        started: Timestamp,
    },
    /// No server runs; these are the backends of the configuration, opened or not.
    Offline(Vec<Place>),
}

impl Desk {
    /// In a server, which ends when `stop` is cancelled.
    pub fn of_server(
        engine: Arc<Engine>,
        crew: Arc<Crew>,
        ready: Ready,
        stop: CancellationToken,
    ) -> Desk {
        let started = engine.clock.now();
        Desk { engine, crew, surroundings: Surroundings::Server { ready, stop, started } }
    }

    /// In a process that has taken the data directory for itself.
    pub fn offline(engine: Arc<Engine>, crew: Arc<Crew>, places: Vec<Place>) -> Desk {
        Desk { engine, crew, surroundings: Surroundings::Offline(places) }
    }

    /// Carries out `operation`; the answer is one of the views of this module's parent.
    pub async fn run(&self, operation: Operation) -> Result<Value, ApiError> {
        match operation {
            Operation::Status => value(&self.status()?),
            Operation::Stop => self.stop(),
            Operation::BucketList => self.bucket_list().await,
            Operation::BucketCreate(new) => self.bucket_create(new).await,
            Operation::BucketShow(name) => {
                let bucket = self.engine.bucket(&name);
                let bucket = bucket.map_err(|err| ApiError::from(err).about("bucket", &name))?;
                value(&self.show(&bucket).await?)
            }
            Operation::BucketSet(name, wishes) => self.bucket_set(&name, wishes).await,
            Operation::BucketDelete(name) => {
                let deleted = self.engine.delete_bucket(&bucket_name(&name)?).await;
                deleted.map_err(|err| ApiError::from(err).about("bucket", &name))?;
                value(&serde_json::json!({ "deleted": name }))
            }
            Operation::LifecycleShow(name) => self.lifecycle_show(&name).await,
            Operation::LifecycleSet(name, new) => self.lifecycle_set(&name, new).await,
            Operation::LifecycleAdd(name, rule) => self.lifecycle_add(&name, rule).await,
            Operation::LifecycleDelete(name, id) => self.lifecycle_delete(&name, id).await,
            Operation::KeyList => {
                value(&self.engine.keys().iter().map(KeyView::new).collect::<Vec<_>>())
            }
            Operation::KeyCreate(new) => self.key_create(new).await,
            Operation::KeyShow(id) => match self.engine.key(&id) {
                Some(key) => value(&KeyView::new(&key)),
                None => Err(no_such_key(&id)),
            },
            Operation::KeySet(id, change) => self.key_set(&id, change).await,
            Operation::KeyDelete(id) => {
                let deleted = self.engine.delete_key(&id).await;
                deleted.map_err(|err| ApiError::from(err).about("key", &id))?;
                value(&serde_json::json!({ "deleted": id }))
            }
            Operation::BackendList => self.backend_list().await,
            Operation::BackendDrain(name) => self.drain(&name).await,
            Operation::BackendUndrain(name) => self.undrain(&name).await,
            Operation::RebalancePlan => self.rebalance_plan().await,
            Operation::SurplusPlan(wish) => self.surplus_plan(wish).await,
            Operation::BackendReset(name) => self.backend_reset(&name),
            Operation::Usage => value(&UsageView::new(self.engine.usage().await?)),
            Operation::ObjectShow(bucket, key) => self.object_show(&bucket, &key).await,
            Operation::ScrubState => self.scrub_state().await,
            Operation::WorkerList => self.worker_list(),
            Operation::WorkerWake(name) => self.worker_wake(&name),
            Operation::WorkerPause(chosen) => self.worker_pause(&chosen, true).await,
            Operation::WorkerResume(chosen) => self.worker_pause(&chosen, false).await,
            Operation::CleanupList(wish) => self.cleanup_list(&wish).await,
            Operation::CleanupRetry(chosen) => self.cleanup_retry(&chosen).await,
            Operation::CleanupForget(chosen) => self.cleanup_forget(&chosen).await,
            Operation::Verify(_)
            | Operation::BackendRemove(..)
            | Operation::WorkerRun(..)
            | Operation::Import(_)
            | Operation::Reconcile(_)
            | Operation::Scrub(_) => self.begin(operation).end().await,
        }
    }

    /// Begins an operation that may take long; any other as well.
    pub fn begin(&self, operation: Operation) -> Long<'_> {
        match operation {
            Operation::Verify(wish) => self.verify(wish),
            Operation::WorkerRun(name, wish) => self.worker_run(name, wish),
            Operation::BackendRemove(name, wish) => self.remove(name, wish),
            Operation::Import(asked) => self.import(asked),
            Operation::Reconcile(asked) => self.reconcile(asked),
            Operation::Scrub(asked) => self.scrub(asked),
            operation => Long::new(self.run(operation), || Value::Null),
        }
    }

    fn verify(&self, wish: VerifyWish) -> Long<'_> {
        let progress = Arc::new(VerifyProgress::default());
        let seen = Arc::clone(&progress);
        let work = async move {
            let options = VerifyOptions { backends: wish.backends, read: wish.read };
            value(&VerifyView::from(self.engine.verify(options, &progress).await?))
        };
        Long::new(work, move || json!(VerifyFar::new(&seen)))
    }

    pub(super) fn is_offline(&self) -> bool {
        matches!(self.surroundings, Surroundings::Offline(_))
    }

    fn status(&self) -> Result<StatusView, ApiError> {
        let Surroundings::Server { ready, started, .. } = &self.surroundings else {
            return Err(no_server());
        };
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: if ready.get() { "ready" } else { "stopping" }.to_owned(),
            pid: std::process::id(),
            started: rfc3339(*started),
            store: condition(self.engine.condition()).to_owned(),
            refusals: self.engine.refusals().into_iter().collect(),
        })
    }

    fn stop(&self) -> Result<Value, ApiError> {
        let Surroundings::Server { stop, .. } = &self.surroundings else {
            return Err(no_server());
        };
        stop.cancel();
        value(&serde_json::json!({ "stopping": true, "pid": std::process::id() }))
    }

    async fn bucket_list(&self) -> Result<Value, ApiError> {
        let mut views = Vec::new();
        for bucket in self.engine.buckets() {
            match self.show(&bucket).await {
                Ok(view) => views.push(view),
                // It was deleted meanwhile.
                Err(err) if err.code == "no_such_bucket" => (),
                Err(err) => return Err(err),
            }
        }
        value(&views)
    }

    async fn show(&self, bucket: &Bucket) -> Result<BucketView, ApiError> {
        let usage = self.engine.bucket_usage(bucket).await?;
        let backends = self.places().len();
        let wanted = bucket.placement.replicas;
        let mut warnings = Vec::new();
        if wanted as usize > backends {
            warnings.push(format!(
                "it wishes {wanted} replicas and there are {backends} backends; the wish is kept \
                 and met when a backend comes"
            ));
        }
        Ok(BucketView::new(bucket, usage, warnings))
    }

    async fn bucket_create(&self, new: NewBucket) -> Result<Value, ApiError> {
        let name = bucket_name(&new.name)?;
        self.check(&new.wishes)?;
        let made = self.engine.create_bucket_with(name, new.wishes.read()?).await;
        let bucket = made.map_err(|err| ApiError::from(err).about("bucket", &new.name))?;
        value(&self.show(&bucket).await?)
    }

    async fn bucket_set(&self, name: &str, wishes: Wishes) -> Result<Value, ApiError> {
        self.check(&wishes)?;
        if wishes == Wishes::default() {
            return Err(ApiError::invalid("nothing was said that should change"));
        }
        let changed = self.engine.change_bucket(bucket_name(name)?, wishes.read()?).await;
        let bucket = changed.map_err(|err| ApiError::from(err).about("bucket", name))?;
        value(&self.show(&bucket).await?)
    }

    /// Refuses what the backends that there are could never fulfil, as the configuration does.
    fn check(&self, wishes: &Wishes) -> Result<(), ApiError> {
        let places = self.places();
        let durable = places.iter().filter(|place| place.is_durable).count();
        if let Some(min) = wishes.min_replicas.filter(|&min| min as usize > durable) {
            let text =
                format!("min_replicas is {min}, but only {durable} backends count towards it");
            return Err(ApiError::invalid(text).hint("add a backend or lower it"));
        }
        for label in wishes.require_distinct.iter().flatten() {
            if !places.iter().any(|place| place.labels.contains_key(label)) {
                return Err(ApiError::invalid(format!("no backend has the label `{label}`")));
            }
        }
        Ok(())
    }

    pub(super) fn places(&self) -> Vec<Place> {
        match &self.surroundings {
            Surroundings::Offline(places) => places.clone(),
            Surroundings::Server { .. } => {
                let fleet = self.engine.fleet.load();
                let places = fleet.all().iter().map(|backend| Place {
                    name: backend.name().to_string(),
                    service: backend.settings().service.clone(),
                    is_durable: backend.is_durable(),
                    labels: backend.settings().labels.clone(),
                });
                places.collect()
            }
        }
    }

    async fn key_create(&self, new: NewKey) -> Result<Value, ApiError> {
        if new.grants.is_empty() && !new.create_buckets {
            return Err(ApiError::invalid("this key could do nothing")
                .hint("give it a preset or actions, or let it create buckets"));
        }
        let grants = Grants { create_buckets: new.create_buckets, list: read(&new.grants)? };
        let key = self.engine.create_key(grants).await?;
        value(&KeyView { secret: Some(key.secret.clone()), ..KeyView::new(&key) })
    }

    async fn key_set(&self, id: &str, change: ChangedKey) -> Result<Value, ApiError> {
        if change == ChangedKey::default() {
            return Err(ApiError::invalid("nothing was said that should change"));
        }
        let wanted = KeyChange {
            grants: change.grants.as_deref().map(read).transpose()?,
            more: read(&change.add)?,
            create_buckets: change.create_buckets,
            new_secret: change.new_secret,
        };
        let changed = self.engine.change_key(id, wanted).await;
        let key = changed.map_err(|err| ApiError::from(err).about("key", id))?;
        let secret = change.new_secret.then(|| key.secret.clone());
        value(&KeyView { secret, ..KeyView::new(&key) })
    }

    /// Breakers are in the memory of a server.
    fn backend_reset(&self, name: &str) -> Result<Value, ApiError> {
        if self.is_offline() {
            let hint = "breakers are a running server's; each start closes all of them";
            return match self.places().iter().any(|place| place.name == name) {
                true => value(&serde_json::json!({ "reset": Value::Null, "note": hint })),
                false => Err(ApiError::from(EngineError::NoSuchBackend).about("backend", name)),
            };
        }
        let reset = self.engine.backend_reset(name);
        reset.map_err(|err| ApiError::from(err).about("backend", name))?;
        value(&serde_json::json!({ "reset": name }))
    }

    async fn backend_list(&self) -> Result<Value, ApiError> {
        let places = self.places();
        let mut views = Vec::new();
        for state in self.engine.backends().await? {
            let named = places.iter().find(|place| place.name == state.row.name);
            let service = named.map(|place| place.service.clone()).unwrap_or_default();
            let mut view = BackendView::new(state, service);
            view.drain = Some(self.drain_view(&view.name).await?).filter(|drain| drain.draining);
            views.push(view);
        }
        for place in places {
            if views.iter().all(|view| view.name != place.name) {
                views.push(BackendView {
                    id: None,
                    name: place.name,
                    service: place.service,
                    state: "new".to_owned(),
                    location: String::new(),
                    quota: None,
                    used: 0,
                    reserved: 0,
                    orphan: 0,
                    free: None,
                    rows: 0,
                    breaker: None,
                    reached: None,
                    limited: false,
                    duty: Duty::InUse.name().to_owned(),
                    absent_since: None,
                    drain: None,
                });
            }
        }
        value(&views)
    }
}

fn read(grants: &[GrantView]) -> Result<Vec<Grant>, ApiError> {
    grants.iter().map(GrantView::read).collect()
}

pub(super) fn value(view: &impl Serialize) -> Result<Value, ApiError> {
    Ok(serde_json::to_value(view).expect("views have only texts, numbers and lists of them"))
}

pub(super) fn no_server() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "no_server", "no server runs")
}

fn no_such_key(id: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_key", format!("there is no access key {id}"))
}
