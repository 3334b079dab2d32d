//! The S3 protocol, both directions; the only place that knows s3s.
//!
//! A request passes `connection` (limits and patience), `guard` (what s3s must not see), s3s itself
//! (signature and parsing, with `auth` and `access`, which admits it), and ends in `ops`, which
//! turns it into a verb of the engine. `error`, `finish` and `request_id` shape what goes back,
//! `reply` takes it there. `door` says who is let in, and at which point.

mod access;
mod auth;
mod body_error;
mod chunked;
mod connection;
mod convert;
mod credit;
mod crowd;
mod door;
mod error;
mod finish;
mod guard;
mod host;
mod ops;
mod post;
mod rate;
mod reply;
mod request_id;
mod server;
#[cfg(test)]
mod signer;
#[cfg(test)]
mod tests;

pub use connection::CONNECTIONS_MAX;
pub use connection::serve;
pub use rate::{Network, RateSettings};
pub use server::S3Service;
pub use server::S3Settings;
