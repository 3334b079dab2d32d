//! What the standard library could have had: time, ids, sizes, limits, budgets, file locks.
//!
//! Nothing here knows of Larder.

pub mod backoff;
pub mod budget;
mod chain;
pub mod clock;
pub mod ids;
pub mod limits;
pub mod lock;
pub mod never;
mod seldom;
pub mod size;

pub use backoff::doubling;
pub use budget::Budget;
pub use chain::chain;
pub use clock::{Clock, Timestamp};
pub use ids::Ids;
pub use lock::FileLock;
pub use seldom::Seldom;
pub use size::ByteSize;
