//! What one backend has used, in the month and the day in which it happened.
//!
//! Recorded by four verbs, so no two numbers can be swapped: a `call` is one request that was really
//! sent (or one operation of a place that has no requests), `egress` and `ingress` are bytes,
//! an `operation` is what Larder asked for, however many requests that took.
//!
//! # Invariants
//!
//! - Each record is charged to the periods of the moment of its recording, and to no other.
//! - Nothing recorded is lost to a reload: a meter that was replaced hands everything on, and what
//!   is still recorded there counts on at its successor.
//! - Counts are totals of their period and never fall, so writing them twice is harmless.
//! - A period is written only once it is known what the store had counted before; until then what
//!   is counted here is kept apart, so it is added to that and never takes its place.
//! - What was not written is not forgotten.
//!
//! # Why a mutex
//!
//! A record is a look at the clock and a few additions. Atomics would save nothing that a read of
//! 4 KiB notices, and a change of month between two of them would have to be told apart.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::allowance::Promised;
use crate::base::Clock;
use crate::base::Timestamp;
use crate::model::Amounts;
use crate::model::Class;
use crate::model::DayBegins;
use crate::model::Operation;
use crate::model::Period;
use crate::model::Purpose;
use crate::model::Tally;
use crate::model::usage::FIRST_DAY;

/// Months, and days, that stay in memory although they are written: a clock may be set back.
const REMEMBERED: usize = 3;
/// Periods of a meter whose store cannot write: more than two years of days. Then the oldest go.
const PERIODS_MAX: usize = 1000;

/// Counts of one backend. Shared by all that call it.
pub struct Meter {
    clock: Clock,
    day_begins: DayBegins,
    state: Mutex<State>,
}

struct State {
    /// While the clock is in it, `periods` are the month and the day.
    span: Range<Timestamp>,
    periods: [Period; 2],
    counts: BTreeMap<Period, Count>,
    promised: Promised,
    unwritten_since: Option<Instant>,
    bell: Option<Arc<Notify>>,
    successor: Option<Arc<Meter>>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    /// By this meter and those that it succeeded.
    counted: Tally,
    /// What the store knew before any of that; `None`: it was not asked yet.
    before: Option<Tally>,
    /// What the store has at least.
    written: Tally,
}

impl Count {
    fn total(&self) -> Tally {
        let mut total = self.before.unwrap_or_default();
        total += &self.counted;
        total
    }

    fn is_written(&self) -> bool {
        self.total() == self.written
    }
}

impl Meter {
    pub fn new(clock: Clock, day_begins: DayBegins) -> Arc<Meter> {
        let state = State {
            span: Timestamp(0)..Timestamp(0),
            periods: [Period(0); 2],
            counts: BTreeMap::new(),
            promised: Promised::default(),
            unwritten_since: None,
            bell: None,
            successor: None,
        };
        Arc::new(Meter { clock, day_begins, state: Mutex::new(state) })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// One request of this class was sent, whatever becomes of it.
    pub fn call(&self, purpose: Purpose, class: Class) {
        self.record(purpose, |amounts| add(&mut amounts.calls[class as usize], 1));
    }

    /// Bytes came from the backend.
    pub fn egress(&self, purpose: Purpose, bytes: u64) {
        if bytes > 0 {
            self.record(purpose, |amounts| add(&mut amounts.egress, bytes));
        }
    }

    /// Bytes went to the backend.
    pub fn ingress(&self, purpose: Purpose, bytes: u64) {
        if bytes > 0 {
            self.record(purpose, |amounts| add(&mut amounts.ingress, bytes));
        }
    }

    /// Larder asked for this.
    pub fn operation(&self, purpose: Purpose, operation: Operation) {
        self.record(purpose, |amounts| add(&mut amounts.operations[operation as usize], 1));
    }

    fn record(&self, purpose: Purpose, add: impl Fn(&mut Amounts)) {
        self.with(|meter, state| {
            let now = meter.clock.now();
            if !state.span.contains(&now) {
                state.turn(meter, now);
            }
            for period in state.periods {
                let counted = &mut state.counts.entry(period).or_default().counted;
                add(&mut counted.all);
                if purpose == Purpose::Work {
                    add(&mut counted.work);
                }
            }
            state.changed();
        });
    }

    /// The month and the day of a moment.
    pub fn periods(&self, at: Timestamp) -> [Period; 2] {
        [Period::month(at), Period::day(at, self.day_begins)]
    }

    /// The month and the day of now.
    pub fn periods_now(&self) -> [Period; 2] {
        self.periods(self.clock.now())
    }

    pub fn day_begins(&self) -> DayBegins {
        self.day_begins
    }

    /// What was used in a period, as far as it is remembered.
    pub fn tally(&self, period: Period) -> Tally {
        self.with(|_, state| state.tally(period))
    }

    // ---- What the store has to do with it.

    /// Rings whenever something was recorded and nothing else waits to be written: now, if so.
    pub fn ring(&self, bell: &Arc<Notify>) {
        self.with(|_, state| {
            state.bell = Some(Arc::clone(bell));
            if state.unwritten_since.is_some() {
                bell.notify_one();
            }
        });
    }

    /// Periods of which the store's totals are to be looked up: those of now, and any in which
    /// something was counted.
    pub fn unknown(&self) -> Vec<Period> {
        self.with(|meter, state| {
            let is_unknown = |period: &Period| {
                state.counts.get(period).is_none_or(|count| count.before.is_none())
            };
            let now = meter.periods_now();
            let others = state.counts.keys().copied().filter(|period| !now.contains(period));
            now.into_iter().chain(others).filter(is_unknown).collect()
        })
    }

    /// The store's totals of a period. What was counted here meanwhile is added to them.
    pub fn know(&self, period: Period, stored: &Tally) {
        self.with(|_, state| {
            let count = state.counts.entry(period).or_default();
            if count.before.is_none() {
                count.before = Some(*stored);
                count.written = count.written.most(stored);
            }
        });
    }

    /// Since when something waits to be written.
    pub fn unwritten_since(&self) -> Option<Instant> {
        self.with(|_, state| state.unwritten_since)
    }

    /// The totals of all known periods that the store does not have yet.
    pub fn unwritten(&self) -> Vec<(Period, Tally)> {
        self.with(|_, state| {
            let counts = state.counts.iter();
            let due = counts.filter(|(_, count)| count.before.is_some() && !count.is_written());
            due.map(|(&period, count)| (period, count.total())).collect()
        })
    }

    /// The store has at least these totals now.
    pub fn written(&self, rows: &[(Period, Tally)]) {
        self.with(|_, state| {
            for (period, tally) in rows {
                if let Some(count) = state.counts.get_mut(period) {
                    count.written = count.written.most(tally);
                }
            }
            state.forget();
            let is_written = state.counts.values().all(Count::is_written);
            state.unwritten_since = (!is_written).then(Instant::now);
        });
    }

    /// Everything counted and promised here is `successor`'s from now on, and so is what comes
    /// here later. A day that begins at another time there goes on under its date.
    pub fn hand_on(&self, successor: &Arc<Meter>) {
        self.pass(successor, Count::take_over);
    }

    /// The same when this backend goes, and `heir` is another one of its account, which has used
    /// what it has used.
    pub fn leave_to(&self, heir: &Arc<Meter>) {
        self.pass(heir, Count::inherit);
    }

    fn pass(&self, successor: &Arc<Meter>, with: fn(&mut Count, &Count)) {
        let successor = last(successor);
        self.with(|meter, state| {
            if std::ptr::eq(meter, Arc::as_ptr(&successor)) {
                return;
            }
            let mut to = successor.lock();
            for (period, count) in std::mem::take(&mut state.counts) {
                with(to.counts.entry(period).or_default(), &count);
            }
            to.promised.add(&state.promised);
            state.promised = Promised::default();
            state.bell = None;
            if to.counts.values().any(|count| !count.is_written()) {
                to.changed();
            }
            drop(to);
            state.successor = Some(successor);
        });
    }

    // ---- What an account has to do with it.

    /// What was used in these periods, and what is promised.
    pub(super) fn standing(&self, periods: [Period; 2]) -> ([Tally; 2], Promised) {
        self.with(|_, state| (periods.map(|period| state.tally(period)), state.promised))
    }

    /// Changes what is promised.
    pub(super) fn promise(&self, change: impl FnOnce(&mut Promised)) {
        self.with(|_, state| change(&mut state.promised));
    }

    /// Does it here, or where everything went that was here.
    fn with<R>(&self, with: impl FnOnce(&Meter, &mut State) -> R) -> R {
        let mut state = self.lock();
        let Some(successor) = &state.successor else { return with(self, &mut state) };
        let successor = Arc::clone(successor);
        drop(state);
        successor.with(with)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The meter at which what is recorded at `meter` counts.
fn last(meter: &Arc<Meter>) -> Arc<Meter> {
    let successor = meter.lock().successor.clone();
    successor.map_or_else(|| Arc::clone(meter), |successor| last(&successor))
}

fn add(to: &mut u64, more: u64) {
    *to = to.saturating_add(more);
}

impl Count {
    /// `other` was counted before, or at the same time, for the same backend.
    fn take_over(&mut self, other: &Count) {
        self.counted += &other.counted;
        self.written = self.written.most(&other.written);
        // Who asked the store first was told less: what came to it since is what they counted.
        self.before = match (self.before, other.before) {
            (Some(one), Some(two)) => Some(one.zip(&two, u64::min)),
            (one, two) => one.or(two),
        };
    }

    /// `other` was counted for another backend, whose totals the store has added to this one's.
    fn inherit(&mut self, other: &Count) {
        self.counted += &other.total();
        self.before.get_or_insert_default();
    }
}

impl State {
    /// Another month or day.
    fn turn(&mut self, meter: &Meter, now: Timestamp) {
        self.periods = meter.periods(now);
        let [month, day] = self.periods;
        let (from, to) = (day.begins(meter.day_begins), day.ends(meter.day_begins));
        self.span = from.max(month.begins(meter.day_begins))..to.min(month.ends(meter.day_begins));
        if self.counts.len() >= PERIODS_MAX
            && let Some(&oldest) = self.counts.range(FIRST_DAY..).map(|(period, _)| period).next()
        {
            tracing::error!(%oldest, "the usage of a day was never written and is forgotten");
            self.counts.remove(&oldest);
        }
    }

    fn tally(&self, period: Period) -> Tally {
        self.counts.get(&period).map(Count::total).unwrap_or_default()
    }

    fn changed(&mut self) {
        if self.unwritten_since.is_none() {
            self.unwritten_since = Some(Instant::now());
            if let Some(bell) = &self.bell {
                bell.notify_one();
            }
        }
    }

    /// Leaves out what is written and long over.
    fn forget(&mut self) {
        let (days, months): (Vec<Period>, Vec<Period>) =
            self.counts.keys().rev().partition(|period| period.is_day());
        for old in days.iter().skip(REMEMBERED).chain(months.iter().skip(REMEMBERED)) {
            let is_now = self.periods.contains(old);
            if !is_now && self.counts.get(old).is_some_and(Count::is_written) {
                self.counts.remove(old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;

    /// 2024-02-29T21:00:00Z: the last hours of a leap day, a month, and, for some, a day.
    const EVENING: i64 = 1_709_240_400;
    const HOUR: i64 = 3600;

    struct Hand(Arc<AtomicI64>);

    impl Hand {
        fn at(seconds: i64) -> Hand {
            Hand(Arc::new(AtomicI64::new(seconds * 1_000_000)))
        }

        fn meter(&self, begins: u16) -> Arc<Meter> {
            Meter::new(Clock::steered(Arc::clone(&self.0)), DayBegins(begins))
        }

        fn set(&self, seconds: i64) {
            self.0.store(seconds * 1_000_000, Ordering::Release);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Record(Purpose, u8, u64),
        /// The clock, hours after `EVENING`; also backwards.
        Clock(i64),
        Replace,
        /// A replacement that was opened and told, but is not used after all.
        GiveUp,
        /// A call of an earlier generation.
        Late(Purpose, u64),
        Ask,
        Write,
        /// Whatever was not written is lost.
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        let purpose = || prop_oneof![Just(Purpose::Client), Just(Purpose::Work)];
        prop_oneof![
            4 => (purpose(), 0..4_u8, 1..5_u64).prop_map(|(p, verb, n)| Step::Record(p, verb, n)),
            2 => prop_oneof![0..9_i64, Just(40 * 24), Just(-40 * 24)].prop_map(Step::Clock),
            1 => Just(Step::Replace),
            1 => Just(Step::GiveUp),
            1 => (purpose(), 1..5_u64).prop_map(|(p, n)| Step::Late(p, n)),
            2 => Just(Step::Ask),
            2 => Just(Step::Write),
            1 => Just(Step::Crash),
        ]
    }

    fn ask(meter: &Meter, stored: &BTreeMap<Period, Tally>) {
        for period in meter.unknown() {
            meter.know(period, &stored.get(&period).copied().unwrap_or_default());
        }
    }

    fn record(meter: &Meter, purpose: Purpose, verb: u8, n: u64) {
        match verb {
            0 => meter.call(purpose, Class::ALL[n as usize % 4]),
            1 => meter.egress(purpose, n),
            2 => meter.ingress(purpose, n),
            _ => meter.operation(purpose, Operation::ALL[n as usize % 6]),
        }
    }

    /// The same, as simply as it can be said.
    fn expect(tally: &mut Tally, purpose: Purpose, verb: u8, n: u64) {
        let add = |amounts: &mut Amounts| match verb {
            0 => amounts.calls[n as usize % 4] += 1,
            1 => amounts.egress += n,
            2 => amounts.ingress += n,
            _ => amounts.operations[n as usize % 6] += 1,
        };
        add(&mut tally.all);
        if purpose == Purpose::Work {
            add(&mut tally.work);
        }
    }

    proptest! {
        /// Whatever comes between, the store and the meter together have everything, each in the
        /// month and the day in which it happened; a crash loses what was not written, no more.
        #[test]
        fn every_record_is_in_its_periods(begins in 0..1440_u16, steps in prop::collection::vec(step(), 1..60)) {
            let hand = Hand::at(EVENING);
            let begins_at = DayBegins(begins);
            let mut meters = vec![hand.meter(begins)];
            let (mut all, mut stored) = (BTreeMap::new(), BTreeMap::<Period, Tally>::new());
            let mut now = EVENING;
            for step in steps {
                let meter = Arc::clone(&meters[meters.len() - 1]);
                let at = Timestamp(now * 1_000_000);
                let mut expected = |purpose, verb, n| {
                    for period in [Period::month(at), Period::day(at, begins_at)] {
                        expect(all.entry(period).or_insert_with(Tally::default), purpose, verb, n);
                    }
                };
                match step {
                    Step::Record(purpose, verb, n) => {
                        record(&meter, purpose, verb, n);
                        expected(purpose, verb, n);
                    }
                    Step::Late(purpose, n) => {
                        record(&meters[0], purpose, 1, n);
                        expected(purpose, 1, n);
                    }
                    Step::Clock(hours) => {
                        now = EVENING + hours * HOUR;
                        hand.set(now);
                    }
                    Step::Replace | Step::GiveUp => {
                        let next = hand.meter(begins);
                        // It looked for its marker, and was told what the store has.
                        next.call(Purpose::Work, Class::B);
                        expected(Purpose::Work, 0, 1);
                        ask(&next, &stored);
                        if matches!(step, Step::GiveUp) {
                            next.hand_on(&meter);
                        } else {
                            meter.hand_on(&next);
                            meters.push(next);
                        }
                    }
                    Step::Ask => {
                        ask(&meter, &stored);
                        prop_assert!(meter.unknown().is_empty());
                    }
                    Step::Write => {
                        let rows = meter.unwritten();
                        for (period, tally) in &rows {
                            let before = stored.entry(*period).or_default();
                            prop_assert_eq!(before.most(tally), *tally, "a total fell");
                            *before = *tally;
                        }
                        meter.written(&rows);
                        prop_assert!(meter.unwritten().is_empty());
                    }
                    Step::Crash => {
                        all = stored.clone();
                        meters = vec![hand.meter(begins)];
                    }
                }
            }
            let meter = &meters[meters.len() - 1];
            ask(meter, &stored);
            for (period, tally) in meter.unwritten() {
                stored.insert(period, tally);
            }
            stored.retain(|_, tally| *tally != Tally::default());
            prop_assert_eq!(stored, all);
        }
    }

    #[test]
    fn a_change_of_month_is_seen_to_the_microsecond() {
        let hand = Hand::at(0);
        let meter = hand.meter(0);
        let turn = 1_709_251_200_000_000;
        hand.0.store(turn - 1, Ordering::Release);
        meter.egress(Purpose::Client, 5);
        hand.0.store(turn, Ordering::Release);
        meter.egress(Purpose::Client, 7);
        let egress = |period| meter.tally(Period(period)).all.egress;
        assert_eq!([202_402, 202_403, 20_240_229, 20_240_301].map(egress), [5, 7, 5, 7]);
    }

    #[test]
    fn concurrent_records_and_replacements_lose_nothing() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let hand = Hand::at(EVENING);
        let first = hand.meter(0);
        let mut newest = Arc::clone(&first);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let first = Arc::clone(&first);
                scope.spawn(move || (0..EACH).for_each(|_| first.ingress(Purpose::Work, 3)));
            }
            for hour in 0..20 {
                hand.set(EVENING + hour * HOUR);
                let next = hand.meter(0);
                next.ingress(Purpose::Work, 3);
                newest.hand_on(&next);
                newest = next;
            }
        });
        for periods in [[202_402, 202_403], [20_240_229, 20_240_301]] {
            let sum: u64 =
                periods.map(|period| newest.tally(Period(period)).work.ingress).iter().sum();
            assert_eq!(sum, 3 * (THREADS * EACH + 20));
        }
        assert_eq!(first.tally(Period(202_403)), newest.tally(Period(202_403)));
    }

    #[tokio::test]
    async fn the_bell_rings_once_until_all_is_written() {
        let hand = Hand::at(EVENING);
        let (meter, bell) = (hand.meter(0), Arc::new(Notify::new()));
        let rang = || {
            let bell = Arc::clone(&bell);
            async move { tokio::time::timeout(std::time::Duration::ZERO, bell.notified()).await.is_ok() }
        };
        meter.call(Purpose::Client, Class::A);
        meter.ring(&bell);
        assert!(rang().await, "what waits already is told at once");
        meter.call(Purpose::Client, Class::A);
        assert!(!rang().await);
        meter.unknown().into_iter().for_each(|period| meter.know(period, &Tally::default()));
        let rows = meter.unwritten();
        meter.call(Purpose::Client, Class::A);
        meter.written(&rows);
        assert!(meter.unwritten_since().is_some(), "one came while the others were written");
        let rows = meter.unwritten();
        assert_eq!(rows[0].1.all.calls[0], 3);
        meter.written(&rows);
        assert!(meter.unwritten_since().is_none() && !rang().await);
        meter.call(Purpose::Client, Class::A);
        assert!(rang().await);
    }

    #[test]
    fn what_is_over_and_written_is_forgotten_and_nothing_else() {
        let hand = Hand::at(EVENING);
        let meter = hand.meter(0);
        let write = || meter.written(&meter.unwritten());
        for day in 0..200 {
            hand.set(EVENING + day * 24 * HOUR);
            meter.unknown().into_iter().for_each(|period| meter.know(period, &Tally::default()));
            meter.egress(Purpose::Client, 1);
            if day >= 100 {
                write();
            }
        }
        assert!(meter.lock().counts.len() <= 2 * REMEMBERED, "{}", meter.lock().counts.len());
        // The store did not write for long.
        for day in 200..5000 {
            hand.set(EVENING + day * 24 * HOUR);
            meter.egress(Purpose::Client, 1);
        }
        let kept = meter.lock().counts.len();
        assert!((PERIODS_MAX - 200..=PERIODS_MAX + 200).contains(&kept), "{kept}");
    }
}
