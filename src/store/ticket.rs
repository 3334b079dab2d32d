//! Tickets: which commits a reader may still depend on.
//!
//! A reader takes the committed sequence number T before its look-up, so it sees every commit up
//! to T and perhaps later ones. A path that was condemned in commit C is visible to it only when
//! C > T. Cleanup therefore deletes what was condemned at C <= B, B being the oldest ticket out
//! and at most the committed number at the moment of asking: a reader that comes later has a
//! ticket of at least B, and sees that the path is gone.
//!
//! # Invariant
//!
//! B is computed under the lock under which tickets are taken, so no ticket below it can appear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::connection::held;

#[derive(Debug, Default)]
pub(super) struct Tickets {
    out: Mutex<BTreeMap<u64, usize>>,
    committed: AtomicU64,
    /// No path was condemned after this commit.
    condemned: AtomicU64,
    /// There may be rows that only tickets hold back: cleanup wants to hear when the oldest goes.
    held_back: AtomicBool,
    pub(super) cleanup: Arc<Notify>,
}

/// A reader's place in the order of commits; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    tickets: Arc<Tickets>,
    seq: u64,
}

impl Tickets {
    /// After the COMMIT that `seq` belongs to.
    pub(super) fn publish(&self, seq: u64) {
        self.committed.fetch_max(seq, Ordering::AcqRel);
    }

    pub(super) fn take(self: &Arc<Tickets>) -> Ticket {
        let mut out = held(&self.out);
        let seq = self.committed.load(Ordering::Acquire);
        *out.entry(seq).or_default() += 1;
        Ticket { tickets: Arc::clone(self), seq }
    }

    /// What was condemned up to this number, nobody reads any more.
    pub(super) fn bound(&self) -> u64 {
        let out = held(&self.out);
        let committed = self.committed.load(Ordering::Acquire);
        out.first_key_value().map_or(committed, |(&oldest, _)| oldest.min(committed))
    }

    /// Some paths may have been condemned up to the commit `seq`, which was published.
    pub(super) fn condemned(&self, seq: u64) {
        self.condemned.fetch_max(seq, Ordering::AcqRel);
        self.cleanup.notify_one();
    }

    /// The bound; cleanup is woken when the oldest ticket goes, if it may hold something back.
    pub(super) fn bound_to_wait(&self) -> u64 {
        // Before the bound is taken: a ticket that goes in between is then noticed.
        self.held_back.store(true, Ordering::Release);
        let bound = self.bound();
        if self.condemned.load(Ordering::Acquire) <= bound {
            self.held_back.store(false, Ordering::Release);
        }
        bound
    }

    fn give_back(&self, seq: u64) {
        let mut out = held(&self.out);
        let was_oldest = out.first_key_value().is_some_and(|(&oldest, _)| oldest == seq);
        let mut is_last = false;
        if let Some(count) = out.get_mut(&seq) {
            *count -= 1;
            is_last = *count == 0;
        }
        if is_last {
            out.remove(&seq);
        }
        drop(out);
        if was_oldest && is_last && self.held_back.swap(false, Ordering::AcqRel) {
            self.cleanup.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tickets.give_back(self.seq);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_bound_is_the_oldest_ticket_out() {
        let tickets = Arc::new(Tickets::default());
        tickets.publish(5);
        assert_eq!(tickets.bound(), 5);
        let old = tickets.take();
        tickets.publish(9);
        let new = tickets.take();
        let twin = tickets.take();
        assert_eq!(tickets.bound(), 5);
        drop(old);
        assert_eq!(tickets.bound(), 9);
        tickets.publish(11);
        drop(new);
        assert_eq!(tickets.bound(), 9);
        drop(twin);
        assert_eq!(tickets.bound(), 11);
    }

    #[test]
    fn a_ticket_wakes_cleanup_only_when_it_may_hold_something_back() {
        let tickets = Arc::new(Tickets::default());
        let is_woken = || tickets.cleanup.notified().now_or_never().is_some();
        tickets.publish(5);
        tickets.condemned(5);
        assert!(is_woken());
        let reader = tickets.take();
        assert_eq!(tickets.bound_to_wait(), 5);
        drop(reader);
        assert!(!is_woken(), "nothing was condemned since");
        let reader = tickets.take();
        tickets.publish(6);
        tickets.condemned(6);
        assert!(is_woken());
        assert_eq!(tickets.bound_to_wait(), 5);
        drop(reader);
        assert!(is_woken());
        assert_eq!(tickets.bound_to_wait(), 6);
    }
}
