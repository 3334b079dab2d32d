//! The gates at which every call of a backend waits until the world lets it go on.
//!
//! They are what makes an order out of what goes on at once: between two openings nothing moves.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::sync::oneshot;

use super::dice::Dice;
use crate::backend::faulty::Call;
use crate::backend::faulty::Effect;
use crate::backend::faulty::Gate;

/// So many calls of a hundred are slow.
const SLOW: u64 = 15;

/// The calls that wait. Clones share them.
#[derive(Clone)]
pub(super) struct Gates(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    seed: u64,
    came: u64,
    waiting: Vec<(Waiting, oneshot::Sender<Option<Effect>>)>,
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// At which site.
    pub(super) site: usize,
    pub(super) call: Call,
    /// The how-manieth call of this run it is.
    pub(super) number: u64,
    /// Others overtake it, as a rule.
    pub(super) is_slow: bool,
}

impl Gates {
    pub(super) fn new(seed: u64) -> Gates {
        Gates(Arc::new(Mutex::new(Shared { seed, ..Shared::default() })))
    }

    /// Where the calls of one site wait.
    pub(super) fn at(&self, site: usize) -> Gate {
        let gates = self.clone();
        Arc::new(move |call| {
            let (tell, told) = oneshot::channel();
            let mut shared = gates.lock();
            shared.came += 1;
            let number = shared.came;
            let is_slow = Dice::new(shared.seed ^ (number << 24)).chance(SLOW);
            let waiting = Waiting { site, call, number, is_slow };
            shared.waiting.push((waiting, tell));
            told
        })
    }

    /// Those that somebody still waits for, by site and kind.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let mut shared = self.lock();
        shared.waiting.retain(|(_, tell)| !tell.is_closed());
        let mut waiting: Vec<Waiting> = shared.waiting.iter().map(|(call, _)| *call).collect();
        waiting.sort_by_key(|call| (call.site, call.call as u8, call.number));
        waiting
    }

    pub(super) fn open(&self, number: u64, effect: Option<Effect>) {
        let mut shared = self.lock();
        let found = shared.waiting.iter().position(|(call, _)| call.number == number);
        if let Some(at) = found {
            let (_, tell) = shared.waiting.remove(at);
            // Whoever waited may have given up just now.
            let _ = tell.send(effect);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
