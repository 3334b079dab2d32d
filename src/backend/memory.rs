//! Memory as a place for bytes: for trials and tests. Never durable.
//!
//! # Why the operators are kept
//!
//! OpenDAL's memory service begins empty each time it is built, and a reload of the configuration
//! builds every backend anew. So one is kept for each name and root as long as the process lives;
//! there are as many as ever stood in a configuration.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::PoisonError;

use opendal::Operator;
use opendal::services::Memory;

use super::BackendSettings;

static KEPT: LazyLock<Mutex<HashMap<String, Operator>>> = LazyLock::new(Mutex::default);

/// The operator of the memory that `settings` name.
pub(crate) fn operator(settings: &BackendSettings) -> Operator {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = super::open::location(settings);
    let make = || Operator::new(Memory::default()).expect("it takes no options that can be wrong");
    kept.entry(key).or_insert_with(make).clone()
}
