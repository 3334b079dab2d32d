//! Local directories: a service of our own under OpenDAL's `Operator`.
//!
//! # Why not OpenDAL's own `fs`
//!
//! It hops between threads several times a call, creates a missing root, ends a listing quietly
//! when the directory is gone, syncs no directory and shares the runtime's blocking threads.
//!
//! # Why there is a direct path beside the service
//!
//! Streams and listings go through [`service`], as for every other backend. Small whole writes,
//! ranged reads, stats and deletes call [`disk`] directly: each is one job on one thread there,
//! where the general interface needs a job to open, one to write and one to close. Both ways end
//! in the same functions of [`disk`].

pub(crate) mod disk;
pub(crate) mod pool;
pub(crate) mod service;
pub(crate) mod sync;
pub(crate) mod walk;

pub(crate) use disk::Disk;
