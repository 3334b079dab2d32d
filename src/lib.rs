//! Larder: one S3 endpoint over all the storage you own.
//!
//! # Bird's-eye view
//!
//! There are two floors. **Upstairs, names:** a bucket has objects, an object has a current
//! version, a version is an ordered list of entries. **Downstairs, bytes:** an entry is a slice of
//! a blob, and a blob is kept whole as replicas on backends. S3 speaks to the upper floor; whoever
//! moves bytes lives on the lower one. All metadata is in one SQLite database, all bytes are on the
//! backends, and every step that matters is one transaction:
//!
//! - a **write** is *register* (blobs placed, intents recorded, bytes reserved), *write* (bytes
//!   made durable on as many backends as the bucket asks for), *commit* (the version appears);
//! - a **delete** is *condemn* (one transaction), *delete bytes*, *forget*;
//! - a **read** is one look-up, and then verified bytes from whichever replica has them.
//!
//! A crash leaves intents, which the pending reaper settles by a look at what is there, or condemned
//! paths, which cleanup goes on with; never a version without its bytes.
//!
//! What keeps the replicas as their owner asked for them are workers. Each looks at the state of the
//! world, does a bounded piece of what is missing, and says when to look again: it is given no work
//! item, so it behaves the same after a crash, a restore, or a wake-up that it did not need. All that
//! move bytes do it in one way: one more replica from a good one ([`engine`]'s `copy_blob`), and
//! where an old one goes for it, one transaction in which the two change places.
//!
//! # Where things are
//!
//! The modules below stand in reading order; each imports only those before it (the table is in
//! `tests/tidy.rs`). [`base`] knows nothing of Larder; [`model`] has the words; [`plan`] decides;
//! [`store`] is the only SQL; [`backend`] the only place that knows OpenDAL; [`engine`] is where
//! they meet, one verb a file; [`worker`] decides when to call it again; [`s3`] speaks the protocol
//! and is the only place that knows s3s; [`admin`] has the operator's verbs and the socket they come over; [`config`] reads what the
//! operator wrote; [`app`] wires it all up; [`cli`] is words on a terminal. A request enters at
//! [`s3::serve`], an operator at [`cli`]. `sim` is compiled for tests alone: a world in which all of
//! it meets every fault at once.
//!
//! What is deliberately absent: `engine` knows no HTTP, `store` no backends, `backend` no buckets,
//! `plan` no I/O, and nobody below `app` sees a whole configuration.
//!
//! # Departures
//!
//! Where the code does other than its design says, and why:
//!
//! - Ids are 63-bit numbers (time above, random below) instead of longer random ones: they are
//!   keys of tables with tens of millions of rows. A durable ceiling keeps them from ever being
//!   used twice.
//! - The stem of a blob's paths is kept without its key while the version that it was born with
//!   exists: the key would otherwise be most of a small object's metadata.
//! - The store's reader threads are 4 and grow to a limit while jobs wait: the short path reads
//!   small local files on them, and a disk that hangs must not stop every look-up.
//! - Unfinished files lie in `.larder/<store>.<backend>.tmp` below a root, so that a foreign disk
//!   mounted there takes none of our writes.
//! - Backblaze B2 always has opaque names: large files with other names are not found again
//!   through OpenDAL.
//! - Bytes that one part of Larder reads for another (copies between placements) draw on the
//!   budget once, where they are read; drawing twice could wait for itself.
//! - `cli` names the operations of `admin`, which it sends to a server or runs itself.
//! - What comes before a signature has held waits for nothing and reads no body, so the runtime's
//!   threads are its budget; only forms, whose signature stands in their body, have one of their own.
//! - 1024 reads and 512 writes are admitted at a time, not 256 and 128: ordinary clients have 256
//!   requests on their way, and some of them give up on the first few refusals.
//! - Bytes of a file that was imported and not read yet leave unverified: it is its owner's, and
//!   there is nothing yet that they could be held against.
//! - A drain copies nothing by itself: leaving replicas do not count, so their blobs miss some, and
//!   these are made as all others are. It only lets go of what is not needed any more. A blob for
//!   which no other backend may take a replica stays and is told, with the reason.
//! - A dead intent at whose path nothing lies is dropped at once, and its path deleted an hour later
//!   all the same: a service may still be busy with a request of a process that died.
//! - A removed backend whose replicas were the only ones keeps those rows, as missing: what was
//!   acknowledged is not forgotten before its owner deletes it, and counts again when it comes back.
//! - What was only borrowed and is given up stays in the table of condemned paths, never due, so that
//!   no later listing brings it back.
//! - The scrubber goes over write ids with a position for each backend, not over an index by time
//!   of verification: the one after the position is always the least recently verified.
//! - A blob without a target waits for the number of a change of the fleet and not for a time.
//! - The reconciler looks at a backend again before it believes a listing that something is gone.
//! - The probe of a breaker is a look at the marker and not the next real call: it is answered at
//!   once or not at all, and nobody's upload is lost with it.

pub mod base;
pub mod model;
pub mod plan;
pub mod store;
pub mod backend;
pub mod engine;
pub mod worker;
pub mod s3;
pub mod admin;
pub mod config;
pub mod app;
pub mod cli;
#[cfg(test)]
mod sim;
