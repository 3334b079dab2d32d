//! Pure decisions: from facts to what shall be done, without reading or doing anything.

pub mod absence;
pub mod expiry;
pub mod forecast;
pub mod placement;
pub mod reap;
pub mod rebalance;
pub mod scrub;
pub mod surplus;
