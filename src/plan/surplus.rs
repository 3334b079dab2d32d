//! Which replicas of a blob are given up when it has more than its owner asked for.
//!
//! # Invariants
//!
//! - Only good replicas count, and only they are given up: what is being written, missing, damaged
//!   or unreadable is settled elsewhere.
//! - Never fewer stay than are wished, and never none.
//! - What was imported and is not Larder's own yet counts, and is never given up.
//!
//! # Why this order
//!
//! A replica on a backend that is being emptied, or that is in the configuration no longer, has to
//! go anyway; one on a broken backend is the least use; and among healthy ones the fullest backend
//! gains the most. One that shares its place with another (a site, a device) where the placement wants
//! them apart goes before all that are alone in theirs. A memory backend comes before all of them, for a replica that is gone with the
//! process must never be kept in place of one that stays.

use std::cmp::Reverse;

use crate::model::WriteId;

/// What a replica on a healthy backend is worth that shares its place with another.
const TWIN_SCORE: f64 = 1.5;

/// One replica as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replica {
    pub write: WriteId,
    pub standing: Standing,
    pub is_good: bool,
    pub is_borrowed: bool,
    /// Its backend charges for a minimum time of storage that is not over.
    pub is_young: bool,
}

/// How its backend stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// What it holds does not outlive the process.
    Volatile,
    Unconfigured,
    Draining,
    Broken,
    /// The share is none without a quota.
    Healthy {
        used_share: Option<f64>,
    },
}

impl Standing {
    /// What a replica there is worth. A backend that holds more than its quota is worth no less
    /// than a full one: it is healthier than a broken one all the same.
    fn score(self) -> f64 {
        match self {
            Standing::Volatile => -1.0,
            Standing::Unconfigured | Standing::Draining => 0.0,
            Standing::Broken => 1.0,
            Standing::Healthy { used_share: Some(share) } => 2.0 + (1.0 - share.clamp(0.0, 1.0)),
            Standing::Healthy { used_share: None } => 2.5,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// In this order.
    pub give_up: Vec<WriteId>,
    /// The good ones that stay: look at them before any of the others goes.
    pub keep: Vec<WriteId>,
}

/// What to give up of a blob with these `replicas`, of which its placement wishes `wish`. `share` says
/// of two whether labels or devices make them one place, which the placement does not want.
pub fn choose(
    replicas: &[Replica],
    wish: usize,
    share: impl Fn(&Replica, &Replica) -> bool,
) -> Surplus {
    let mut keep: Vec<&Replica> = replicas.iter().filter(|replica| replica.is_good).collect();
    let mut give_up = Vec::new();
    for _ in 0..keep.len().saturating_sub(wish.max(1)) {
        let worth = |replica: &Replica| {
            let is_twin = keep.iter().any(|k| k.write != replica.write && share(k, replica));
            let score = replica.standing.score();
            if is_twin { score.min(TWIN_SCORE) } else { score }
        };
        let rest = |r: &Replica| (r.is_young, Reverse(r.write));
        let own = keep.iter().enumerate().filter(|(_, replica)| !replica.is_borrowed);
        let least = own.min_by(|(_, a), (_, b)| {
            worth(a).total_cmp(&worth(b)).then_with(|| {
                let by_standing = a.standing.score().total_cmp(&b.standing.score());
                by_standing.then(rest(a).cmp(&rest(b)))
            })
        });
        let Some(least) = least.map(|(at, _)| at) else { break };
        give_up.push(keep.remove(least).write);
    }
    keep.sort_by_key(|replica| replica.write);
    Surplus { give_up, keep: keep.into_iter().map(|replica| replica.write).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: Standing = Standing::Healthy { used_share: Some(1.0) };
    const EMPTY: Standing = Standing::Healthy { used_share: Some(0.0) };
    const ENDLESS: Standing = Standing::Healthy { used_share: None };

    fn replica(write: u64, standing: Standing) -> Replica {
        Replica {
            write: WriteId(write),
            standing,
            is_good: true,
            is_borrowed: false,
            is_young: false,
        }
    }

    fn check(replicas: &[Replica], wish: usize, give_up: &[u64]) {
        let found: Vec<_> =
            choose(replicas, wish, |_, _| false).give_up.iter().map(|write| write.0).collect();
        assert_eq!(found, give_up, "{replicas:?}");
    }

    #[test]
    fn draining_goes_first_then_broken_then_the_fullest() {
        let fleet = [
            replica(1, EMPTY),
            replica(2, ENDLESS),
            replica(3, FULL),
            replica(4, Standing::Broken),
            replica(5, Standing::Draining),
            replica(6, Standing::Volatile),
        ];
        check(&fleet, 1, &[6, 5, 4, 3, 2]);
        check(&fleet, 4, &[6, 5]);
        check(&fleet, 6, &[]);
        check(&fleet, 0, &[6, 5, 4, 3, 2]);
    }

    #[test]
    fn a_backend_out_of_the_configuration_is_like_one_that_is_being_emptied() {
        check(&[replica(1, Standing::Unconfigured), replica(2, Standing::Broken)], 1, &[1]);
        check(&[replica(1, Standing::Draining), replica(2, Standing::Unconfigured)], 1, &[2]);
    }

    #[test]
    fn a_quota_lowered_below_use_does_not_make_a_backend_worse_than_a_broken_one() {
        let over = Standing::Healthy { used_share: Some(9.0) };
        check(&[replica(1, over), replica(2, Standing::Broken)], 1, &[2]);
        check(&[replica(1, over), replica(2, EMPTY)], 1, &[1]);
    }

    #[test]
    fn of_equals_the_newest_goes_and_one_that_is_paid_for_stays() {
        let young = Replica { is_young: true, ..replica(3, EMPTY) };
        check(&[replica(1, EMPTY), replica(2, EMPTY), young], 1, &[2, 1]);
        check(&[replica(1, EMPTY), Replica { is_young: true, ..replica(2, FULL) }], 1, &[2]);
    }

    #[test]
    fn what_is_borrowed_counts_and_stays() {
        let borrowed = |write| Replica { is_borrowed: true, ..replica(write, Standing::Draining) };
        check(&[borrowed(1), replica(2, EMPTY), replica(3, EMPTY)], 2, &[3]);
        check(&[borrowed(1), borrowed(2), replica(3, EMPTY)], 1, &[3]);
        check(&[borrowed(1), borrowed(2), borrowed(3)], 1, &[]);
    }

    #[test]
    fn of_two_in_one_place_one_goes_before_all_that_are_alone_in_theirs() {
        let site = |write: WriteId| if write.0 <= 2 { "home" } else { "away" };
        let share = |a: &Replica, b: &Replica| site(a.write) == site(b.write);
        let fleet = [replica(1, EMPTY), replica(2, EMPTY), replica(3, FULL)];
        let check = |fleet: &[Replica], wish, give_up: &[u64]| {
            let found = choose(fleet, wish, share);
            assert_eq!(found.give_up, give_up.iter().map(|w| WriteId(*w)).collect::<Vec<_>>());
        };
        check(&fleet, 2, &[2]);
        // The one that is left is no twin any more.
        check(&fleet, 1, &[2, 3]);
        let broken = [fleet[0], fleet[1], replica(3, Standing::Broken)];
        check(&broken, 2, &[3]);
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let all = [
            Standing::Volatile,
            Standing::Unconfigured,
            Standing::Draining,
            Standing::Broken,
            FULL,
            EMPTY,
            ENDLESS,
        ];
        prop::sample::select(all.to_vec())
    }

    proptest! {
        #[test]
        fn as_many_go_as_may_and_none_that_is_worth_more_than_one_that_stays(
            fleet in prop::collection::vec((standing(), any::<[bool; 3]>()), 0..7),
            wish in 0_usize..5,
            turn in 0_usize..7,
        ) {
            let mut fleet: Vec<_> = (1..)
                .zip(fleet)
                .map(|(write, (standing, [is_good, is_borrowed, is_young]))| {
                    Replica { is_good, is_borrowed, is_young, ..replica(write, standing) }
                })
                .collect();
            let surplus = choose(&fleet, wish, |_, _| false);
            let of = |write: &WriteId| fleet.iter().find(|r| r.write == *write).unwrap();

            let good = fleet.iter().filter(|r| r.is_good).count();
            let own = fleet.iter().filter(|r| r.is_good && !r.is_borrowed).count();
            prop_assert_eq!(surplus.give_up.len(), own.min(good.saturating_sub(wish.max(1))));
            prop_assert_eq!(surplus.give_up.len() + surplus.keep.len(), good);
            prop_assert!(surplus.give_up.iter().all(|w| of(w).is_good && !of(w).is_borrowed));
            prop_assert!(surplus.keep.iter().all(|w| of(w).is_good && !surplus.give_up.contains(w)));
            let worth = |write: &WriteId| of(write).standing.score();
            prop_assert!(surplus.give_up.is_sorted_by(|a, b| worth(a) <= worth(b)));
            for (gone, kept) in surplus.give_up.iter().flat_map(|g| surplus.keep.iter().map(move |k| (g, k))) {
                prop_assert!(of(kept).is_borrowed || worth(gone) <= worth(kept));
            }

            // The order in which they are listed decides nothing.
            let middle = turn.min(fleet.len());
            fleet.rotate_left(middle);
            prop_assert_eq!(choose(&fleet, wish, |_, _| false), surplus);
        }
    }
}
