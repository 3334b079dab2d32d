//! Limits of one account, held against the meters of all its backends.
//!
//! # Invariants
//!
//! - What was admitted and is not over yet is counted as used, so no two calls together pass a
//!   limit that each of them alone keeps.
//! - Deletes are never refused: they need nothing. They are counted all the same.
//! - What a call does not need is not in its way: egress that is used up stops no write.
//! - Background work is held to its share of each allowance, and to what is left of the whole.
//!
//! # Why what is promised is counted beside what was used
//!
//! The meter counts requests and bytes as they pass, below retries, and knows nothing of the call
//! that they are for. So while a call is under way it counts twice as far as it got: too much by at
//! most what is in flight, and only until it is over, when the promise is taken back and the truth
//! remains. That refuses a little too early next to a limit, never too late. Retries may send more
//! than was promised; each look at what is left is at the meters themselves, so they are known at
//! once.
//!
//! Promises are kept by the account's first meter, which hands them on as it does its counts: a
//! reload that makes an account anew forgets none of them.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::Meter;
use super::Profile;
use super::adapter::PART;
use crate::base::ByteSize;
use crate::model::Allowance;
use crate::model::Amounts;
use crate::model::Class;
use crate::model::Limits;
use crate::model::Operation;
use crate::model::Period;
use crate::model::Purpose;
use crate::model::Tally;

/// The backends that share limits; each backend without an account has one of its own.
pub struct Account {
    limits: Limits,
    meters: Vec<Arc<Meter>>,
    /// Held while what is left is looked at and taken.
    door: Mutex<()>,
}

/// What a call will use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub calls: [u64; Class::ALL.len()],
    pub egress: u64,
    pub ingress: u64,
}

/// What calls that are under way will use at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promised {
    all: Need,
    work: Need,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub what: Counted,
    pub period: Period,
    /// The share, when it is that of background work.
    pub limit: u64,
    /// It is the share of background work that is used up.
    pub is_share: bool,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Of all classes together but [`Class::Free`].
    Requests,
    Calls(Class),
    Egress,
    Ingress,
}

impl Counted {
    /// Everything that can be limited.
    pub const ALL: [Counted; 6] = [
        Counted::Requests,
        Counted::Calls(Class::A),
        Counted::Calls(Class::B),
        Counted::Calls(Class::C),
        Counted::Egress,
        Counted::Ingress,
    ];

    pub fn of(self, amounts: &Amounts) -> u64 {
        match self {
            Counted::Requests => amounts.requests(),
            Counted::Calls(class) => amounts.calls[class as usize],
            Counted::Egress => amounts.egress,
            Counted::Ingress => amounts.ingress,
        }
    }

    pub fn limit(self, allowance: &Allowance) -> Option<u64> {
        match self {
            Counted::Requests => allowance.requests,
            Counted::Calls(class) => allowance.calls[class as usize],
            Counted::Egress => allowance.egress,
            Counted::Ingress => allowance.ingress,
        }
    }

    /// An amount of it, in words.
    pub fn say(self, amount: u64) -> String {
        match self {
            Counted::Requests => format!("{} requests", grouped(amount)),
            Counted::Calls(class) => {
                format!("{} class {} requests", grouped(amount), class.name().to_uppercase())
            }
            Counted::Egress => format!("{} of egress", ByteSize(amount)),
            Counted::Ingress => format!("{} of ingress", ByteSize(amount)),
        }
    }
}

/// "1,000,000".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what.say(self.limit), self.period)?;
        if self.is_share {
            f.write_str(", the share of background work")?;
        }
        Ok(())
    }
}

impl std::error::Error for Reached {}

/// What was admitted, until it is over. By then the meter has counted what was really used.
#[must_use = "dropping it says that the call is over"]
pub struct Admitted {
    /// `None` where nothing is limited.
    promise: Option<(Arc<Meter>, Purpose, Need)>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some((meter, purpose, need)) = self.promise.take() {
            meter.promise(|promised| promised.change(purpose, &need, u64::saturating_sub));
        }
    }
}

impl Account {
    /// `meters` are those of all its backends; promises are kept by the first, whose day is that
    /// of the account.
    pub fn new(limits: Limits, meters: Vec<Arc<Meter>>) -> Arc<Account> {
        Arc::new(Account { limits, meters, door: Mutex::default() })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes what `need` says out of what is left, or says which limit is in the way.
    pub fn admit(self: &Arc<Self>, purpose: Purpose, need: Need) -> Result<Admitted, Reached> {
        let first = self.meters.first().filter(|_| self.limits.is_set() && need != Need::default());
        let Some(first) = first else { return Ok(Admitted { promise: None }) };
        let _alone = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(first, purpose, &need)?;
        first.promise(|promised| promised.change(purpose, &need, u64::saturating_add));
        Ok(Admitted { promise: Some((Arc::clone(first), purpose, need)) })
    }

    /// Whether `need` would be admitted now.
    pub fn allows(&self, purpose: Purpose, need: Need) -> Result<(), Reached> {
        match self.meters.first().filter(|_| self.limits.is_set()) {
            Some(first) => self.check(first, purpose, &need),
            None => Ok(()),
        }
    }

    /// What all its backends used in a period, without what is under way.
    pub fn tally(&self, period: Period) -> Tally {
        let mut sum = Tally::default();
        self.meters.iter().for_each(|meter| sum += &meter.tally(period));
        sum
    }

    fn check(&self, first: &Meter, purpose: Purpose, need: &Need) -> Result<(), Reached> {
        let periods = first.periods_now();
        let (mut tallies, mut promised) = ([Tally::default(); 2], Promised::default());
        for meter in &self.meters {
            let (used, more) = meter.standing(periods);
            tallies.iter_mut().zip(&used).for_each(|(sum, used)| *sum += used);
            promised.add(&more);
        }
        for (at, allowance) in [self.limits.month, self.limits.day].iter().enumerate() {
            let (tally, period) = (&tallies[at], periods[at]);
            for what in Counted::ALL {
                let Some(limit) = what.limit(allowance) else { continue };
                let wanted = what.of(&need.amounts());
                let fits = |used: &Amounts, promised: &Need, limit: u64| {
                    let taken = what.of(used).saturating_add(what.of(&promised.amounts()));
                    wanted == 0 || taken.saturating_add(wanted) <= limit
                };
                if !fits(&tally.all, &promised.all, limit) {
                    return Err(Reached { what, period, limit, is_share: false });
                }
                let limit = self.limits.share_of(limit);
                if purpose == Purpose::Work && !fits(&tally.work, &promised.work, limit) {
                    return Err(Reached { what, period, limit, is_share: true });
                }
            }
        }
        Ok(())
    }
}

impl Promised {
    fn change(&mut self, purpose: Purpose, need: &Need, with: fn(u64, u64) -> u64) {
        self.all = self.all.zip(need, with);
        if purpose == Purpose::Work {
            self.work = self.work.zip(need, with);
        }
    }

    pub(super) fn add(&mut self, more: &Promised) {
        self.all = self.all.zip(&more.all, u64::saturating_add);
        self.work = self.work.zip(&more.work, u64::saturating_add);
    }
}

impl Need {
    /// The most that an operation on `bytes` bytes needs when nothing has to be tried again: at a
    /// service that takes a body in parts more requests than at one that takes it whole, so the
    /// former are counted. A delete needs nothing, for it is never refused.
    ///
    /// What `profile` does not name has the class of S3: changes and listings A, reads B.
    pub fn of(operation: Operation, bytes: u64, profile: &Profile) -> Need {
        let mut need = Need::default();
        let mut send = |name: &str, class: Class, requests: u64| {
            let class = profile.classes.get(name).copied().unwrap_or(class);
            need.calls[class as usize] += requests;
        };
        match operation {
            Operation::Write if bytes <= PART as u64 => send("PutObject", Class::A, 1),
            Operation::Write => {
                send("CreateMultipartUpload", Class::A, 1);
                send("UploadPart", Class::A, bytes.div_ceil(PART as u64));
                send("CompleteMultipartUpload", Class::A, 1);
            }
            Operation::Read => send("GetObject", Class::B, 1),
            Operation::Stat | Operation::Look => send("HeadObject", Class::B, 1),
            // One page.
            Operation::List => send("ListObjectsV2", Class::A, 1),
            Operation::Delete => (),
        }
        match operation {
            Operation::Write => need.ingress = bytes,
            Operation::Read => need.egress = bytes,
            Operation::Stat | Operation::Delete | Operation::List | Operation::Look => (),
        }
        need
    }

    fn amounts(&self) -> Amounts {
        let Need { calls, egress, ingress } = *self;
        Amounts { calls, egress, ingress, ..Amounts::default() }
    }

    fn zip(&self, other: &Need, with: fn(u64, u64) -> u64) -> Need {
        Need {
            calls: std::array::from_fn(|i| with(self.calls[i], other.calls[i])),
            egress: with(self.egress, other.egress),
            ingress: with(self.ingress, other.ingress),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Clock;
    use crate::model::DayBegins;

    /// 2026-11-30T23:00:00Z.
    const LATE: i64 = 1_796_079_600_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn clock() -> (Arc<AtomicI64>, Clock) {
        let hand = Arc::new(AtomicI64::new(LATE));
        (Arc::clone(&hand), Clock::steered(hand))
    }

    fn meter(clock: &Clock) -> Arc<Meter> {
        Meter::new(clock.clone(), DayBegins::default())
    }

    fn month(allowance: Allowance) -> Limits {
        Limits { month: allowance, ..Limits::default() }
    }

    fn egress(limit: u64) -> Limits {
        month(Allowance { egress: Some(limit), ..Allowance::default() })
    }

    fn read(bytes: u64) -> Need {
        Need::of(Operation::Read, bytes, &Profile::default())
    }

    #[test]
    fn a_limit_is_used_to_the_last_byte_and_not_beyond() {
        let (_, clock) = clock();
        let meter = meter(&clock);
        let account = Account::new(egress(100), vec![Arc::clone(&meter)]);
        let first = account.admit(Purpose::Client, read(60)).unwrap();
        assert!(account.allows(Purpose::Client, read(40)).is_ok());
        let reached = account.admit(Purpose::Client, read(41)).err().unwrap();
        assert_eq!(reached.to_string(), "100 B of egress in November 2026");
        // While it is under way what came counts twice; when it is over, once.
        meter.egress(Purpose::Client, 50);
        assert!(account.allows(Purpose::Client, read(1)).is_err());
        drop(first);
        let second = account.admit(Purpose::Client, read(50)).unwrap();
        assert!(account.admit(Purpose::Client, read(1)).is_err());
        drop(second);
        // Retries may pass a limit; then nothing is left, and nothing overflows.
        meter.egress(Purpose::Client, u64::MAX);
        assert!(account.allows(Purpose::Client, read(1)).is_err());
        // What it does not need is not in the way of a write, and a delete needs nothing.
        let write = Need::of(Operation::Write, 1 << 40, &Profile::default());
        assert!(account.admit(Purpose::Client, write).is_ok());
        let delete = Need::of(Operation::Delete, 0, &Profile::default());
        assert!(account.admit(Purpose::Work, delete).is_ok());
    }

    #[test]
    fn each_limit_stops_what_it_counts() {
        let (_, clock) = clock();
        let one = Some(1);
        let calls = |class: Class| {
            let mut calls = [None; 4];
            calls[class as usize] = one;
            Allowance { calls, ..Allowance::default() }
        };
        let operations = Operation::ALL.map(|op| (op, Need::of(op, 2, &Profile::default())));
        for (allowance, stopped) in [
            (Allowance { requests: one, ..Allowance::default() }, "write read stat list look"),
            (calls(Class::A), "write list"),
            (calls(Class::B), "read stat look"),
            (calls(Class::C), ""),
            (Allowance { egress: one, ..Allowance::default() }, "read"),
            (Allowance { ingress: one, ..Allowance::default() }, "write"),
        ] {
            let limits = [month(allowance), Limits { day: allowance, ..Limits::default() }];
            for limits in limits {
                let meter = meter(&clock);
                let account = Account::new(limits, vec![Arc::clone(&meter)]);
                Class::ALL.into_iter().for_each(|class| meter.call(Purpose::Client, class));
                let is_stopped = |(op, need): &(Operation, Need)| {
                    account.allows(Purpose::Client, *need).is_err().then_some(op.name())
                };
                let found: Vec<&str> = operations.iter().filter_map(is_stopped).collect();
                assert_eq!(found.join(" "), stopped, "{limits:?}");
            }
        }
    }

    #[test]
    fn background_work_pauses_first() {
        let (_, clock) = clock();
        let meter = meter(&clock);
        let limits = month(Allowance { requests: Some(1_000_000), ..Allowance::default() });
        let account = Account::new(limits, vec![Arc::clone(&meter)]);
        (0..499_999).for_each(|_| meter.call(Purpose::Work, Class::A));
        let last = account.admit(Purpose::Work, read(1)).unwrap();
        let reached = account.admit(Purpose::Work, read(1)).err().unwrap();
        let words = "500,000 requests in November 2026, the share of background work";
        assert_eq!((reached.to_string().as_str(), reached.is_share), (words, true));
        assert!(account.admit(Purpose::Client, read(1)).is_ok());
        drop(last);
        // Nor may it have what clients used up.
        let used = Account::new(egress(100), vec![Arc::clone(&meter)]);
        meter.egress(Purpose::Client, 90);
        let reached = used.admit(Purpose::Work, read(11)).err().unwrap();
        assert!(!reached.is_share);
        assert!(used.admit(Purpose::Work, read(10)).is_ok());
    }

    #[test]
    fn what_is_used_up_comes_back_with_the_next_period() {
        let (hand, clock) = clock();
        let meter = meter(&clock);
        let calls = [Some(10), None, None, None];
        let limits = Limits {
            month: Allowance { calls, ..Allowance::default() },
            day: Allowance { egress: Some(10), ..Allowance::default() },
            ..Limits::default()
        };
        let account = Account::new(limits, vec![Arc::clone(&meter)]);
        (0..10).for_each(|_| meter.call(Purpose::Client, Class::A));
        meter.egress(Purpose::Client, 10);
        let put = Need::of(Operation::Write, 1, &Profile::default());
        let reached = account.admit(Purpose::Client, put).err().unwrap();
        assert_eq!(reached.to_string(), "10 class A requests in November 2026");
        let reached = account.admit(Purpose::Client, read(1)).err().unwrap();
        assert_eq!(reached.to_string(), "10 B of egress on 30 November 2026");
        // What began before the turn still counts after it.
        let under_way = account.admit(Purpose::Client, Need { calls: [0, 1, 0, 0], ..put });
        hand.store(LATE + HOUR, Ordering::Release);
        assert!(account.admit(Purpose::Client, read(10)).is_ok());
        assert!(account.admit(Purpose::Client, put).is_ok());
        assert!(under_way.is_ok());
    }

    #[test]
    fn backends_of_one_account_share_and_a_reload_forgets_nothing() {
        let (_, clock) = clock();
        let (one, two) = (meter(&clock), meter(&clock));
        let account = Account::new(egress(100), vec![Arc::clone(&one), Arc::clone(&two)]);
        one.egress(Purpose::Client, 40);
        two.egress(Purpose::Client, 30);
        let under_way = account.admit(Purpose::Client, read(30)).unwrap();
        // A new generation: other meters, another account, and calls of the old one go on.
        let (new_one, new_two) = (meter(&clock), meter(&clock));
        one.hand_on(&new_one);
        two.hand_on(&new_two);
        let renewed = Account::new(egress(110), vec![new_one, new_two]);
        assert!(renewed.allows(Purpose::Client, read(10)).is_ok());
        assert!(renewed.allows(Purpose::Client, read(11)).is_err());
        one.egress(Purpose::Client, 5);
        drop(under_way);
        assert!(renewed.allows(Purpose::Client, read(35)).is_ok());
        assert!(renewed.allows(Purpose::Client, read(36)).is_err());
        assert_eq!(account.tally(Period(202_611)), renewed.tally(Period(202_611)));
    }

    #[test]
    fn no_two_calls_together_pass_a_limit() {
        const LIMIT: u64 = 5_000;
        let (_, clock) = clock();
        let meters = vec![meter(&clock), meter(&clock)];
        let account = Account::new(egress(LIMIT), meters.clone());
        let refused = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (account, meter, refused) = (&account, &meters[number % 2], &refused);
                scope.spawn(move || {
                    for round in 0..1500 {
                        let bytes = 1 + (round + number as u64) % 3;
                        match account.admit(Purpose::Client, read(bytes)) {
                            Ok(_under_way) => meter.egress(Purpose::Client, bytes),
                            Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                });
            }
        });
        let used = account.tally(Period(202_611)).all.egress;
        assert!(used <= LIMIT && used > LIMIT - 3, "{used}");
        assert!(refused.into_inner() > 0);
    }

    #[test]
    fn a_large_write_needs_a_request_for_each_part() {
        let calls = |bytes| Need::of(Operation::Write, bytes, &Profile::default()).calls;
        let part = PART as u64;
        assert_eq!([0, part, part + 1, 4 * part].map(|n| calls(n)[0]), [1, 1, 4, 6]);
        let free = Profile {
            classes: [("UploadPart".to_owned(), Class::Free)].into(),
            ..Profile::default()
        };
        assert_eq!(Need::of(Operation::Write, 4 * part, &free).calls, [2, 0, 0, 4]);
    }

    proptest! {
        /// After each step what is left is the limit less what is used and under way; nothing is
        /// left over once all is over.
        #[test]
        fn promises_are_kept_and_taken_back(steps in prop::collection::vec((0..2_u8, 0..40_u64, any::<bool>()), 1..40)) {
            let (_, clock) = clock();
            let account = Account::new(egress(100), vec![meter(&clock)]);
            let mut under_way = Vec::new();
            for (kind, bytes, is_work) in steps {
                let purpose = if is_work { Purpose::Work } else { Purpose::Client };
                let sum = |work: bool| under_way.iter().filter(|(_, b, _)| *b || !work).map(|(n, ..)| n).sum::<u64>();
                if kind == 0 && !under_way.is_empty() {
                    let (bytes, is_work, admitted): (u64, bool, Admitted) = under_way.remove(bytes as usize % under_way.len());
                    let _ = (bytes, is_work);
                    drop(admitted);
                    continue;
                }
                let fits = bytes == 0 || sum(false) + bytes <= 100 && (!is_work || sum(true) + bytes <= 50);
                let admitted = account.admit(purpose, read(bytes));
                prop_assert_eq!(admitted.is_ok(), fits);
                if let Ok(admitted) = admitted {
                    under_way.push((bytes, is_work, admitted));
                }
            }
            drop(under_way);
            prop_assert!(account.allows(Purpose::Client, read(100)).is_ok());
            prop_assert!(account.allows(Purpose::Work, read(50)).is_ok());
        }
    }
}
