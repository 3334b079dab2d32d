//! Black-box tests: a real `larder serve` on a temporary folder, spoken to over the network.
//!
//! Nothing here calls into the library, but for clocks and hashes of dependencies: what these
//! tests know of Larder is what a client and an operator can know. `signer` sends requests that
//! no SDK would send, `world` starts, stops, kills and verifies the process, and every other
//! module is one room of behaviour.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod auth;
mod bad_places;
mod breaker;
mod config;
mod content;
mod crash;
mod flood;
mod form;
mod heal;
mod heal_drain;
mod heal_kills;
mod import;
mod keys;
mod lifecycle;
mod listing;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod mounts;
mod multipart;
mod objects;
mod objects_conditions;
mod objects_copy;
mod objects_integrity;
mod other_s3;
mod reload;
mod reload_limits;
mod replicas;
mod settings;
mod signer;
mod signer_check;
mod sigv4;
#[cfg(target_os = "linux")]
mod small_disk;
mod usage;
mod wire;
mod worker;
mod world;
