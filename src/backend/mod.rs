//! Places for bytes.
//!
//! A [`Backend`] is one OpenDAL service at one root, with a marker that says whose it is. It can
//! write a replica durably, read an exact range of it, stat, delete and list. Each of these
//! promises is tested by one suite over every kind of place (`contract`).
//!
//! From the bottom up: `local` is our own OpenDAL service for directories, `transport` the HTTP below
//! the other services, at the pace that `throttle` gives, `batch` reads those of its answers that
//! OpenDAL reads wrongly, `adapter` knows OpenDAL and its traps, `quirks` those of single services,
//! `place` is the one set of calls over both, `faulty` breaks them in tests, and `handle` is the
//! backend itself, which believes a place only as far as its marker is seen; `writer` and `deletion`
//! are parts of it. Every call of it passes the `gate`: the `breaker`, and the `allowance` of the
//! owner. `open` adds and opens backends, `probe` tries them for real.
//!
//! # Invariants
//!
//! - *Missing* is said only when the marker was seen in the same step; otherwise it is *absent*.
//! - A backend that is absent takes no write, and no root is made except by [`Backend::add`].
//! - A write that returned `Ok` has exactly the announced bytes and survives power loss, as far as
//!   the service keeps its word; one that failed says whether it may have happened all the same.
//! - Nobody waits without end for a place: local steps have the stall time, requests fail when
//!   nothing moves, inside OpenDAL's retries. Only work may wait as long as clients use all of a
//!   limited bandwidth.

mod adapter;
mod allowance;
mod bandwidth;
mod batch;
mod breaker;
#[cfg(test)]
mod contract;
mod deletion;
mod error;
#[doc(hidden)]
pub mod faulty;
mod fleet;
mod gate;
mod handle;
mod local;
mod marker;
mod memory;
mod meter;
mod open;
mod place;
mod probe;
mod profile;
mod progress;
mod purpose;
mod quirks;
mod services;
#[cfg(test)]
mod sim;
mod throttle;
mod transport;
mod whole;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::base::Timestamp;
use crate::model::Limits;
use crate::model::Names;

pub use allowance::{Account, Admitted, Counted, Need, Reached};
pub use bandwidth::{Bandwidth, Hours, minute_of_day};
pub use breaker::{BreakerSettings, BreakerState, BreakerView};
pub use error::{BackendError, Fault};
pub use fleet::Fleet;
pub use gate::Fitness;
pub use handle::Backend;
use handle::Inner;
pub use marker::Marker;
pub use meter::Meter;
pub use open::AddError;
pub use probe::ProbeReport;
pub use profile::{Prices, Profile};
pub use progress::Progress;
pub use services::{ServiceTraits, service, services};
#[cfg(test)]
pub use sim::SimPlace;
pub use whole::Whole;
pub use writer::Writer;

/// How one backend is reached: checked settings, filled in by `config`.
#[derive(Clone, PartialEq)]
pub struct BackendSettings {
    pub name: String,
    /// OpenDAL's scheme.
    pub service: String,
    /// As OpenDAL names them; secrets among them.
    pub options: BTreeMap<String, String>,
    pub quota: Option<u64>,
    /// Local only; `None`: the larger of 1 GiB and 2 % of the file system.
    pub keep_free: Option<u64>,
    pub names: Names,
    /// Already bounded by what the service can take.
    pub blob_max: u64,
    pub labels: BTreeMap<String, String>,
    /// The storage time that the provider charges for at least. What is younger is not deleted for
    /// the sake of order.
    pub min_age: Duration,
    pub timeouts: Timeouts,
    pub breaker: BreakerSettings,
    /// How long it may be out of reach before its replicas count as lost.
    pub absent_after: Duration,
    /// Backends with the same word share their limits.
    pub account: Option<String>,
    pub limits: Limits,
    pub profile: Profile,
    pub bandwidth: Bandwidth,
}

/// Without the values of the options, some of which are secrets.
impl fmt::Debug for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSettings")
            .field("name", &self.name)
            .field("location", &open::location(self))
            .field("options", &self.options.keys())
            .field("quota", &self.quota)
            .field("keep_free", &self.keep_free)
            .field("names", &self.names)
            .field("blob_max", &self.blob_max)
            .field("labels", &self.labels)
            .field("min_age", &self.min_age)
            .field("timeouts", &self.timeouts)
            .field("breaker", &self.breaker)
            .field("absent_after", &self.absent_after)
            .field("account", &self.account)
            .field("limits", &self.limits)
            .field("profile", &self.profile.name)
            .field("bandwidth", &self.bandwidth)
            .finish()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub stall: Duration,
}

/// A file as its service describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub size: u64,
    /// When its bytes last changed; `None` where the service does not say. Many say it in whole
    /// seconds, some in one answer and not in the other: compare with that in mind.
    pub modified: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub path: String,
    pub size: u64,
    /// As in [`Stat`].
    pub modified: Option<Timestamp>,
}
