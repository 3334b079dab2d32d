//! Which backends have been out of reach for so long that what they hold does not count, and which
//! of them are back.
//!
//! # Our own line
//!
//! When most remote backends are lost within minutes of each other, it is far likelier that this
//! machine lost its line than that they all died. Marking them would make every blob look
//! endangered, and begin copies that are not needed and have nowhere to go. So none of them is
//! marked; local ones are judged alone, for no line leads to them. Those that were out of reach
//! already when the others broke say nothing about the line and are left out of the count.
//!
//! When the line comes back, its backends do not return in one moment, and the last of them would
//! look as if it had died alone, long ago. Therefore the absence of all of them is counted anew
//! when it would have been up: a line that is down says nothing about what is behind it.

use std::time::Duration;

use crate::base::Timestamp;
use crate::model::BackendId;

/// Backends that broke within this of each other broke together: as long as it takes the breakers
/// of all of them to notice, some of which see little traffic.
pub const TOGETHER: Duration = Duration::from_secs(10 * 60);

/// One backend as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub backend: BackendId,
    pub is_local: bool,
    /// Since when its marker cannot be seen or its breaker is not closed; none: it is there.
    pub out_since: Option<Timestamp>,
    /// How long it may be out.
    pub absent_after: Duration,
    /// What it holds does not count already.
    pub is_marked: bool,
}

impl Seen {
    fn is_due(&self, now: Timestamp) -> bool {
        let is_over = |since| now.since(since) >= self.absent_after;
        !self.is_marked && self.out_since.is_some_and(is_over)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing changes.
    Keep,
    /// It, or one that broke with it, has been out for too long, and it is not marked because most
    /// remote ones broke together. Tell the operator, and count its absence from now.
    OwnLine,
    /// What it holds does not count from now on.
    MarkAway,
    /// What it holds counts again.
    Back,
}

/// One verdict for each of `backends`, which are all of the fleet, in their order.
pub fn judge(backends: &[Seen], now: Timestamp) -> Vec<(BackendId, Verdict)> {
    let cut_off = cut_off(backends, now);
    let verdict = |seen: &Seen| match seen.out_since {
        None if seen.is_marked => Verdict::Back,
        Some(_) if !seen.is_marked && cut_off.contains(&seen.backend) => Verdict::OwnLine,
        Some(_) if seen.is_due(now) => Verdict::MarkAway,
        _ => Verdict::Keep,
    };
    backends.iter().map(|seen| (seen.backend, verdict(seen))).collect()
}

/// The remote backends that broke together with most others, where one of them would be marked.
fn cut_off(backends: &[Seen], now: Timestamp) -> Vec<BackendId> {
    let remote: Vec<&Seen> = backends.iter().filter(|seen| !seen.is_local).collect();
    let mut found = Vec::new();
    for begin in remote.iter().filter_map(|seen| seen.out_since) {
        let was_there = |seen: &&&Seen| seen.out_since.is_none_or(|since| since >= begin);
        let broke = |since: Timestamp| since >= begin && since <= begin.plus(TOGETHER);
        let there = remote.iter().filter(was_there).count();
        let group: Vec<_> =
            remote.iter().filter(|seen| seen.out_since.is_some_and(broke)).collect();
        let is_most = group.len() >= 2 && group.len() * 2 > there;
        if is_most && group.iter().any(|seen| seen.is_due(now)) {
            found.extend(group.iter().map(|seen| seen.backend));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Verdict::{Back, Keep, MarkAway, OwnLine};
    use super::*;

    const MINUTE: i64 = 60_000_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: Timestamp = Timestamp(1000 * HOUR);

    /// A remote backend that has been out for so many minutes.
    fn out(id: u64, minutes: i64) -> Seen {
        Seen { out_since: Some(Timestamp(NOW.0 - minutes * MINUTE)), ..there(id) }
    }

    fn there(id: u64) -> Seen {
        Seen {
            backend: BackendId(id),
            is_local: false,
            out_since: None,
            absent_after: DAY,
            is_marked: false,
        }
    }

    fn local(seen: Seen) -> Seen {
        Seen { is_local: true, absent_after: Duration::from_secs(3600), ..seen }
    }

    fn marked(seen: Seen) -> Seen {
        Seen { is_marked: true, ..seen }
    }

    fn check(fleet: &[Seen], expected: &[Verdict]) {
        let found = judge(fleet, NOW);
        assert!(found.iter().map(|(id, _)| *id).eq(fleet.iter().map(|seen| seen.backend)));
        assert_eq!(found.iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_backend_is_marked_when_its_time_is_up_and_not_before() {
        check(&[out(1, 24 * 60), there(2)], &[MarkAway, Keep]);
        check(&[out(1, 24 * 60 - 1), there(2)], &[Keep, Keep]);
        check(&[marked(out(1, 24 * 60)), there(2)], &[Keep, Keep]);
        check(&[out(1, 24 * 60)], &[MarkAway]);
    }

    #[test]
    fn a_backend_that_is_back_counts_at_once() {
        check(&[marked(there(1)), there(2)], &[Back, Keep]);
        check(&[marked(local(there(1))), marked(out(2, 1))], &[Back, Keep]);
    }

    #[test]
    fn remote_backends_that_broke_together_are_not_marked() {
        check(&[out(1, 1445), out(2, 1440), there(3)], &[OwnLine, OwnLine, Keep]);
        check(&[out(1, 1450), out(2, 1440)], &[OwnLine, OwnLine]);
        // The other one's time is not up: its clock is set with the first one's all the same.
        check(&[out(1, 1445), out(2, 1436)], &[OwnLine, OwnLine]);
        check(&[out(1, 1451), out(2, 1440)], &[MarkAway, MarkAway]);
        check(&[out(1, 1445), out(2, 1440), there(3), there(4)], &[MarkAway, MarkAway, Keep, Keep]);
        check(&[marked(out(1, 1445)), out(2, 1440), there(3)], &[Keep, OwnLine, Keep]);
        // Nothing is due yet, so there is nothing to be told.
        check(&[out(1, 20), out(2, 20)], &[Keep, Keep]);
    }

    #[test]
    fn one_that_died_long_ago_says_nothing_about_the_line() {
        let long_ago = 30 * 24 * 60;
        check(
            &[marked(out(1, long_ago)), marked(out(2, long_ago)), out(3, 1440), out(4, 1441)],
            &[Keep, Keep, OwnLine, OwnLine],
        );
        check(
            &[marked(out(1, 1452)), out(2, 1445), out(3, 1440), there(4)],
            &[Keep, OwnLine, OwnLine, Keep],
        );
        // Two that died long ago, one after the other, do not keep a third from being marked.
        check(
            &[marked(out(1, long_ago)), marked(out(2, long_ago + 60)), out(3, 1440), there(4)],
            &[Keep, Keep, MarkAway, Keep],
        );
    }

    #[test]
    fn local_backends_are_judged_alone() {
        check(&[local(out(1, 60)), local(out(2, 60)), there(3)], &[MarkAway, MarkAway, Keep]);
        check(&[local(out(1, 1440)), out(2, 1440)], &[MarkAway, MarkAway]);
        check(&[local(out(1, 1440)), out(2, 1440), out(3, 1440)], &[MarkAway, OwnLine, OwnLine]);
        check(&[local(out(1, 59))], &[Keep]);
    }

    #[test]
    fn the_last_one_to_return_when_the_line_is_back_is_not_marked() {
        let mut fleet = [out(1, 1445), out(2, 1440)];
        let verdicts = judge(&fleet, NOW);
        for (seen, (_, verdict)) in fleet.iter_mut().zip(verdicts) {
            assert_eq!(verdict, OwnLine);
            seen.out_since = Some(NOW);
        }
        let later = NOW.plus(Duration::from_secs(6 * 3600));
        fleet[0].out_since = None;
        assert!(judge(&fleet, later).iter().all(|(_, verdict)| *verdict == Keep));
        assert_eq!(judge(&fleet, NOW.plus(DAY))[1].1, MarkAway);
    }

    fn seen() -> impl Strategy<Value = Seen> {
        (prop::option::of(0_i64..200), any::<bool>(), any::<bool>()).prop_map(
            |(tens, is_local, is_marked)| Seen {
                out_since: tens.map(|tens| Timestamp(NOW.0 - tens * 10 * MINUTE)),
                is_local,
                is_marked,
                ..there(0)
            },
        )
    }

    proptest! {
        #[test]
        fn a_verdict_fits_what_was_seen(mut fleet in prop::collection::vec(seen(), 0..6)) {
            (1..).zip(&mut fleet).for_each(|(id, seen)| seen.backend = BackendId(id));
            let verdicts = judge(&fleet, NOW);
            for (seen, (_, verdict)) in fleet.iter().zip(&verdicts) {
                let is_up = seen.out_since.is_some_and(|since| NOW.since(since) >= DAY);
                match verdict {
                    MarkAway => prop_assert!(is_up && !seen.is_marked),
                    OwnLine => prop_assert!(seen.out_since.is_some() && !seen.is_local && !seen.is_marked),
                    Back => prop_assert!(seen.out_since.is_none() && seen.is_marked),
                    Keep => prop_assert!(seen.is_marked == seen.out_since.is_some() || !is_up),
                }
                if seen.is_local {
                    prop_assert_eq!(judge(&[*seen], NOW)[0].1, *verdict);
                }
            }
            // Never most of the remote ones that were there, at one time.
            let remote = |seen: &&Seen| !seen.is_local;
            let marked_at = |at| {
                let is_it = |(seen, (_, verdict)): &(&Seen, &(_, Verdict))| {
                    !seen.is_local && seen.out_since == Some(at) && *verdict == MarkAway
                };
                fleet.iter().zip(&verdicts).filter(is_it).count()
            };
            for at in fleet.iter().filter_map(|seen| seen.out_since) {
                let there = fleet.iter().filter(remote).filter(|s| s.out_since.is_none_or(|s| s >= at));
                prop_assert!(marked_at(at) < 2 || marked_at(at) * 2 <= there.count());
            }
        }
    }
}
