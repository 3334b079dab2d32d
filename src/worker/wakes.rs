//! Who wakes whom: a handle for each worker.
//!
//! `app` makes the table and gives one end of a handle to whoever makes work, the other to the
//! crew, so that the engine and the workers never import each other in a circle. A handle is woken
//! with `notify_one`, which also wakes one who is busy now and waits later.

use std::sync::Arc;

use tokio::sync::Notify;

use super::table::Name;

/// The handles. A worker whose handle nobody else has is woken by the operator and by time alone.
#[derive(Clone, Debug)]
pub struct Wakes([Arc<Notify>; Name::ALL.len()]);

impl Wakes {
    /// With `handle` for `name`, which somebody else wakes.
    pub fn with(mut self, name: Name, handle: Arc<Notify>) -> Wakes {
        self.0[name as usize] = handle;
        self
    }

    pub fn of(&self, name: Name) -> Arc<Notify> {
        Arc::clone(&self.0[name as usize])
    }
}

impl Default for Wakes {
    fn default() -> Wakes {
        Wakes(Name::ALL.map(|_| Arc::default()))
    }
}
