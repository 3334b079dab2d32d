//! Pure decisions: from facts to what shall be done, without reading or doing anything.

pub mod expiry;
pub mod forecast;
pub mod placement;
