//! Which backends take a replica: one function for writes, copies, moves and drains.
//!
//! # Invariants
//!
//! - Never two replicas of a blob on one backend, nor on one device unless two local backends on
//!   one device were declared to be two places.
//! - Labels that must differ do differ, among the chosen ones and those that hold the blob
//!   already. A backend without such a label counts as having the empty value: nothing shows that
//!   it is another place.
//! - A backend is chosen only when the blob fits it: its own limit for one blob, its quota, and
//!   for local ones what is free on the disk.
//! - One that may still be broken is chosen only where there are too few others: it must not be
//!   left out, for when all are broken one of them has to be the first that is well again.
//!
//! # Why a search after the greedy choice
//!
//! Taking the first fitting backend in order is what an owner expects, and finds as many targets
//! as there are when one rule separates them. With two rules at once (a label and a device) the
//! first choice can block two others; then a bounded search looks for a larger set.

use std::collections::BTreeMap;

use crate::model::BackendId;
use crate::model::Routing;

/// One backend as a decision sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub backend: BackendId,
    /// It can be reached, is not being drained and may be written to.
    pub writable: bool,
    /// It failed lately, and may be well again.
    pub doubtful: bool,
    /// What it holds counts towards `min_replicas`.
    pub durable: bool,
    /// Bytes that fit, by quota and disk; `u64::MAX` when nothing limits it.
    pub room: u64,
    /// `(used + reserved + orphan) / quota`; 0 without a quota.
    pub used_share: f64,
    /// The largest blob that it can take.
    pub blob_max: u64,
    pub device: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

/// What the choice must keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub routing: Routing,
    pub require_distinct: Vec<String>,
    pub same_device: bool,
}

/// Steps of the search that follows a greedy choice which found too few.
const SEARCH_MAX: usize = 20_000;

/// At most `count` backends for a blob of `size` bytes that `holders` have or will have already,
/// best first. `candidates` stand in the order of the configuration. Fewer than `count` come back
/// when there are no more that fit; durable ones are preferred to others.
pub fn choose(
    size: u64,
    count: usize,
    holders: &[BackendId],
    candidates: &[Candidate],
    rules: &Rules,
) -> Vec<BackendId> {
    let held: Vec<&Candidate> =
        candidates.iter().filter(|c| holders.contains(&c.backend)).collect();
    let mut fitting: Vec<&Candidate> = candidates
        .iter()
        .filter(|c| c.writable && size <= c.room && size <= c.blob_max)
        .filter(|c| !holders.contains(&c.backend) && held.iter().all(|h| apart(h, c, rules)))
        .collect();
    if rules.routing == Routing::Spread {
        fitting.sort_by(|a, b| a.used_share.total_cmp(&b.used_share));
    }
    fitting.sort_by_key(|c| (!c.durable, c.doubtful));

    let mut chosen: Vec<&Candidate> = Vec::new();
    for candidate in &fitting {
        if chosen.len() < count && chosen.iter().all(|c| apart(c, candidate, rules)) {
            chosen.push(candidate);
        }
    }
    if chosen.len() < count.min(fitting.len()) {
        let mut search = Search { fitting: &fitting, count, rules, steps: 0, best: chosen };
        search.extend(&mut Vec::new(), 0);
        chosen = search.best;
    }
    chosen.into_iter().map(|c| c.backend).collect()
}

/// Whether labels and devices let a blob that `others` have be on `candidate` too. Of `others`
/// those count that are among `all`.
pub fn may_join(
    candidate: &Candidate,
    others: &[BackendId],
    all: &[Candidate],
    rules: &Rules,
) -> bool {
    let mut held = all.iter().filter(|other| others.contains(&other.backend));
    held.all(|other| apart(other, candidate, rules))
}

/// Whether two backends count as two places.
pub fn apart(a: &Candidate, b: &Candidate, rules: &Rules) -> bool {
    let one_device = a.device.is_some() && a.device == b.device && !rules.same_device;
    let value = |c: &Candidate, label| c.labels.get(label).cloned().unwrap_or_default();
    a.backend != b.backend
        && !one_device
        && rules.require_distinct.iter().all(|label| value(a, label) != value(b, label))
}

/// A depth-first search for a larger set than the greedy one, in the same order of preference.
struct Search<'a> {
    fitting: &'a [&'a Candidate],
    count: usize,
    rules: &'a Rules,
    steps: usize,
    best: Vec<&'a Candidate>,
}

impl<'a> Search<'a> {
    fn extend(&mut self, taken: &mut Vec<&'a Candidate>, from: usize) {
        if taken.len() > self.best.len() {
            self.best = taken.clone();
        }
        for next in from..self.fitting.len() {
            let reachable = taken.len() + self.fitting.len() - next;
            self.steps += 1;
            if self.best.len() == self.count
                || reachable <= self.best.len()
                || self.steps > SEARCH_MAX
            {
                return;
            }
            let candidate = self.fitting[next];
            if taken.iter().all(|t| apart(t, candidate, self.rules)) {
                taken.push(candidate);
                self.extend(taken, next + 1);
                taken.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: u64) -> Candidate {
        Candidate {
            backend: BackendId(id),
            writable: true,
            doubtful: false,
            durable: true,
            room: u64::MAX,
            used_share: 0.0,
            blob_max: u64::MAX,
            device: None,
            labels: BTreeMap::new(),
        }
    }

    fn labelled(id: u64, site: &str, device: u64) -> Candidate {
        let labels = BTreeMap::from([("site".to_owned(), site.to_owned())]);
        Candidate { labels, device: Some(device), ..candidate(id) }
    }

    fn rules(routing: Routing, labels: &[&str]) -> Rules {
        Rules {
            routing,
            require_distinct: labels.iter().map(|l| (*l).to_owned()).collect(),
            same_device: false,
        }
    }

    fn check(candidates: &[Candidate], count: usize, holders: &[u64], rules: &Rules, want: &[u64]) {
        let holders: Vec<_> = holders.iter().map(|id| BackendId(*id)).collect();
        let chosen = choose(100, count, &holders, candidates, rules);
        assert_eq!(chosen.iter().map(|b| b.0).collect::<Vec<_>>(), want);
    }

    #[test]
    fn pack_takes_the_order_and_spread_the_emptiest() {
        let mut fleet = [candidate(1), candidate(2), candidate(3)];
        fleet[0].used_share = 0.9;
        fleet[1].used_share = 0.5;
        check(&fleet, 2, &[], &rules(Routing::Pack, &[]), &[1, 2]);
        check(&fleet, 2, &[], &rules(Routing::Spread, &[]), &[3, 2]);
        check(&fleet, 2, &[1], &rules(Routing::Pack, &[]), &[2, 3]);
    }

    #[test]
    fn a_blob_goes_only_where_it_fits_exactly() {
        let mut fleet = [candidate(1), candidate(2), candidate(3), candidate(4), candidate(5)];
        fleet[0].room = 99;
        fleet[1].room = 100;
        fleet[2].blob_max = 99;
        fleet[3].blob_max = 100;
        fleet[4].writable = false;
        check(&fleet, 9, &[], &rules(Routing::Pack, &[]), &[2, 4]);
    }

    #[test]
    fn what_is_not_durable_comes_last() {
        let mut fleet = [candidate(1), candidate(2)];
        fleet[0].durable = false;
        check(&fleet, 2, &[], &rules(Routing::Pack, &[]), &[2, 1]);
    }

    #[test]
    fn what_may_be_broken_is_taken_when_there_are_too_few_others() {
        let mut fleet = [candidate(1), candidate(2), candidate(3)];
        fleet[0].doubtful = true;
        fleet[2].durable = false;
        check(&fleet, 1, &[], &rules(Routing::Pack, &[]), &[2]);
        check(&fleet, 3, &[], &rules(Routing::Pack, &[]), &[2, 1, 3]);
        fleet[1].doubtful = true;
        check(&fleet, 1, &[], &rules(Routing::Pack, &[]), &[1]);
    }

    #[test]
    fn devices_and_labels_separate() {
        let fleet = [labelled(1, "home", 7), labelled(2, "home", 8), labelled(3, "away", 8)];
        check(&fleet, 3, &[], &rules(Routing::Pack, &[]), &[1, 2]);
        check(&fleet, 3, &[], &rules(Routing::Pack, &["site"]), &[1, 3]);
        check(&fleet, 2, &[3], &rules(Routing::Pack, &[]), &[1]);
        let two = Rules { same_device: true, ..rules(Routing::Pack, &[]) };
        check(&fleet, 3, &[], &two, &[1, 2, 3]);
        // Without the label nothing shows that it is another place.
        let bare = [candidate(1), candidate(2)];
        check(&bare, 2, &[], &rules(Routing::Pack, &["site"]), &[1]);
    }

    #[test]
    fn a_first_choice_that_blocks_two_others_is_given_up() {
        let fleet = [labelled(1, "home", 8), labelled(2, "home", 7), labelled(3, "away", 8)];
        check(&fleet, 2, &[], &rules(Routing::Pack, &["site"]), &[2, 3]);
    }

    proptest! {
        /// The choice keeps the rules, and is as large as the best that trying all sets finds.
        #[test]
        fn the_choice_is_legal_and_largest(
            places in prop::collection::vec((0u8..3, 0u64..3, prop::bool::ANY), 1..7),
            count in 1usize..4,
            same_device in prop::bool::ANY,
        ) {
            let fleet: Vec<_> = places
                .iter()
                .enumerate()
                .map(|(i, (site, device, writable))| Candidate {
                    writable: *writable,
                    ..labelled(i as u64 + 1, &site.to_string(), *device)
                })
                .collect();
            let rules = Rules { same_device, ..rules(Routing::Pack, &["site"]) };
            let chosen = choose(1, count, &[], &fleet, &rules);
            let legal = |set: &[&Candidate]| {
                set.iter().all(|c| c.writable)
                    && set.iter().enumerate().all(|(i, a)| set[..i].iter().all(|b| apart(a, b, &rules)))
            };
            let of = |ids: &[BackendId]| -> Vec<&Candidate> {
                fleet.iter().filter(|c| ids.contains(&c.backend)).collect()
            };
            prop_assert!(legal(&of(&chosen)) && of(&chosen).len() == chosen.len());
            let best = (0u32..1 << fleet.len())
                .map(|bits| -> Vec<&Candidate> {
                    fleet.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, c)| c).collect()
                })
                .filter(|set| legal(set))
                .map(|set| set.len())
                .max()
                .unwrap_or(0);
            prop_assert_eq!(chosen.len(), best.min(count));
        }
    }
}
