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
//! | `GET, POST /api/v1/keys` | all keys, never a secret; makes one, and shows its secret once |
//! | `GET, PATCH, DELETE /api/v1/keys/ID` | one key |
//! | `GET /api/v1/backends` | all backends with their ledger, breakers and limits reached |
//! | `POST /api/v1/backends/NAME/reset` | closes the breaker of one backend |
//! | `GET /api/v1/usage` | what each backend used this month and this day, against its limits |
//! | `POST /api/v1/import` | makes objects of files that lie on a backend |
//! | `POST /api/v1/reconcile` | compares what backends hold with what the store knows |
//! | `POST /api/v1/verify` | a JSON value a line: progress, and at last the result |
//!
//! A refusal is `{"error": {"code", "message", "hint"}}`; programs may rely on the code.

mod desk;
mod error;
mod operation;
mod reconcile;
mod router;
mod server;
mod socket;
mod usage;
mod views;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

pub use self::desk::Desk;
pub use self::desk::Place;
pub use self::error::ApiError;
pub use self::operation::Operation;
pub use self::operation::Sent;
pub use self::reconcile::*;
pub use self::server::serve;
pub use self::server::serve_socket;
pub use self::socket::Socket;
pub use self::socket::connect;
pub use self::usage::*;
pub use self::views::*;
// What the command line shares with the verbs behind it.
pub use crate::engine::{ImportProgress, VerifyProgress, new_credentials};

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
