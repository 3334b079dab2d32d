//! The S3 protocol, both directions; the only place that knows s3s.
//!
//! A request passes `connection` (limits and patience), `guard` (what s3s must not see), s3s itself
//! (signature and parsing, with `auth` and `access`), and ends in `ops`, which turns it into a
//! verb of the engine. `error`, `finish` and `request_id` shape what goes back.

mod access;
mod auth;
mod body_error;
mod chunked;
mod connection;
mod convert;
mod error;
mod finish;
mod guard;
mod host;
mod ops;
mod post;
mod request_id;
mod server;
#[cfg(test)]
mod signer;
#[cfg(test)]
mod tests;

pub use connection::CONNECTIONS_MAX;
pub use connection::serve;
pub use server::S3Service;
pub use server::S3Settings;
