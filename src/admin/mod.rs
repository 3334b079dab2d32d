//! The operator's surface: health for whoever asks, and the operator's verbs for the owner.
//!
//! It has listeners of its own, so that nothing of ours shadows a bucket. The verbs are HTTP and
//! JSON under `/api/v1` on a Unix socket in the data directory, whose permissions are the login;
//! the TCP listener answers for health alone. Both go through one router.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health/live` | 200 while the process runs |
//! | `GET /health/ready` | 200 while requests are served, 503 before and from the stop on |
//! | `GET /api/v1/status` | version, state, process id, start, condition of the store, refusals |
//! | `POST /api/v1/stop` | 202, and the server ends as on SIGTERM |
//! | `GET, POST /api/v1/buckets` | all buckets; makes one |
//! | `GET, PATCH, DELETE /api/v1/buckets/NAME` | one bucket |
//! | `GET, PUT, DELETE /api/v1/buckets/NAME/lifecycle` | all its lifecycle rules; replaces them |
//! | `POST /api/v1/buckets/NAME/lifecycle` | adds a rule |
//! | `DELETE /api/v1/buckets/NAME/lifecycle/ID` | takes one rule away |
//! | `GET, POST /api/v1/keys` | all keys, never a secret; makes one, and shows its secret once |
//! | `GET, PATCH, DELETE /api/v1/keys/ID` | one key |
//! | `GET /api/v1/backends` | all backends with their ledger, breakers and limits reached |
//! | `POST /api/v1/backends/NAME/reset` | closes the breaker of one backend |
//! | `POST /api/v1/backends/NAME/drain, undrain` | empties a backend, or takes that back |
//! | `POST /api/v1/backends/NAME/remove` | takes it out of use; what would be lost wants a word |
//! | `GET /api/v1/rebalance` | what the rebalancer would move now |
//! | `POST /api/v1/over_replication` | what the over-replication worker would remove now |
//! | `GET /api/v1/objects/BUCKET/KEY` | the current version, its blobs and where they lie |
//! | `GET /api/v1/workers` | all workers and how they fare |
//! | `POST /api/v1/workers/NAME/wake` | lets a worker look now |
//! | `POST /api/v1/workers/NAME/run` | a full pass: a JSON value a line |
//! | `POST /api/v1/workers/pause`, `.../resume` | `{"names": [...]}`, or `{"all": true}` |
//! | `POST /api/v1/cleanup/list` | paths that cleanup has given up |
//! | `POST /api/v1/cleanup/retry`, `.../forget` | `{"ids": [...]}`; retry also `{"all": true}` |
//! | `GET /api/v1/usage` | what each backend used this month and this day, against its limits |
//! | `POST /api/v1/import` | makes objects of files that lie on a backend |
//! | `POST /api/v1/reconcile` | compares what backends hold with what the store knows |
//! | `POST /api/v1/verify` | a JSON value a line: progress, and at last the result |
//!
//! A refusal is `{"error": {"code", "message", "hint"}}`; programs may rely on the code.

mod cleanup;
mod desk;
mod duties;
mod error;
mod long;
mod objects;
mod lifecycle;
mod operation;
mod reconcile;
mod router;
mod server;
mod socket;
mod usage;
mod views;
mod workers;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

pub use self::cleanup::*;
pub use self::desk::Desk;
pub use self::desk::Place;
pub use self::duties::*;
pub use self::error::ApiError;
pub use self::lifecycle::LifecycleView;
pub use self::lifecycle::NewLifecycle;
pub use self::lifecycle::RuleView;
pub use self::long::Long;
pub use self::long::LongEvent;
pub use self::objects::*;
pub use self::operation::Operation;
pub use self::operation::Sent;
pub use self::reconcile::*;
pub use self::server::serve;
pub use self::server::serve_socket;
pub use self::socket::Socket;
pub use self::socket::connect;
pub use self::usage::*;
pub use self::views::*;
pub use self::workers::*;
// What the command line shares with the verbs behind it.
pub use crate::engine::new_credentials;

/// Whether requests are served. Cloned into whoever knows.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
