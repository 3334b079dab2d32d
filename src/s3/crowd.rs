//! Who holds how many connections, and how many forms that nobody has signed for yet.
//!
//! They are counted for each client (see [`Client`]) so that one of them cannot hold them
//! all. While there are enough, anyone may have as many as he likes: a machine with many workers
//! is no attack. When more than [`CROWDED`] of all are taken, a client that holds more than
//! [`SHARE`] of all gets no new one. Trusted proxies, which speak for many, are exempt.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::s3::rate::Client;

/// From this part of all connections on, as a numerator and a denominator.
const CROWDED: (usize, usize) = (3, 4);
const SHARE: (usize, usize) = (1, 8);

/// The connections of one listener, or its forms.
pub(crate) struct Crowd {
    most: usize,
    held: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    each: HashMap<Client, usize>,
}

/// One connection or form, until it is dropped.
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    client: Client,
}

impl Crowd {
    /// For `most` at a time.
    pub(crate) fn new(most: usize) -> Arc<Crowd> {
        Arc::new(Crowd { most, held: Mutex::default() })
    }

    /// Counts one more of `client`, unless it has too many or there are `most`.
    pub(crate) fn enter(self: &Arc<Self>, client: Client, is_proxy: bool) -> Option<Place> {
        let mut counts = self.lock();
        let has = counts.each.get(&client).copied().unwrap_or(0);
        let is_greedy = has >= part(self.most, SHARE).max(1) && !is_proxy;
        if counts.all >= self.most || (is_greedy && counts.all >= part(self.most, CROWDED)) {
            return None;
        }
        counts.all += 1;
        counts.each.insert(client, has + 1);
        Some(Place { crowd: Arc::clone(self), client })
    }

    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().all >= part(self.most, CROWDED)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn part(of: usize, (numerator, denominator): (usize, usize)) -> usize {
    of * numerator / denominator
}

impl Place {
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowd.is_crowded()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.lock();
        counts.all -= 1;
        if let Some(has) = counts.each.get_mut(&self.client) {
            *has -= 1;
            if *has == 0 {
                counts.each.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_a_quarter_to_the_others() {
        let crowd = Crowd::new(64);
        let [greedy, modest, proxy] = [1, 2, 3].map(Client::V4);
        let mut held: Vec<Place> = std::iter::from_fn(|| crowd.enter(greedy, false)).collect();
        assert_eq!(held.len(), 48);
        assert!(crowd.is_crowded());
        let others: Vec<Place> = std::iter::from_fn(|| crowd.enter(modest, false)).collect();
        assert_eq!(others.len(), 8);
        let behind: Vec<Place> = (0..8).map_while(|_| crowd.enter(proxy, true)).collect();
        assert_eq!(behind.len(), 8);
        assert!(crowd.enter(proxy, true).is_none(), "that was the last");
        held.truncate(31);
        assert!(!crowd.is_crowded());
        assert!(crowd.enter(greedy, false).is_some());
        drop((held, others, behind));
        assert_eq!(crowd.lock().all, 0);
        assert!(crowd.lock().each.is_empty());
    }
}
