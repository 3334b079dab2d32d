//! The gate that every call to a backend passes: its breaker, its presence, its owner's limits.
//!
//! # Invariants
//!
//! - What does not pass was not asked of the place, and is not counted: [`Fault::Resting`],
//!   [`Fault::Absent`] or [`Fault::Spent`] says why.
//! - Limits never refuse a delete, nor the looks that it needs.
//! - Every call that passed is one operation on the meter, failed or not. Requests and bytes are
//!   counted by the transport, and here for places that have none.
//! - A breaker hears of each call at most once, and of nothing that a caller dropped. One that was
//!   dropped after it got no answer for a while makes upkeep look: clients that give up sooner than
//!   any timeout must not hide that the backend hangs.
//!
//! # Why the probe is a look
//!
//! The call that finds a breaker due looks at the marker first, and begins only when that was
//! answered. A look is small and is answered at once or not at all; an upload would keep everybody
//! waiting for its end, and a delete would be lost with the probe that it was.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::timeout;

use super::Account;
use super::Admitted;
use super::Backend;
use super::BreakerView;
use super::Inner;
use super::Meter;
use super::Need;
use super::Profile;
use super::Reached;
use super::breaker::Entry;
use super::breaker::Health;
use super::breaker::Pass;
use super::breaker::Standing;
use super::error::{Failure, Fault};
use super::faulty::Call;
use super::faulty::Meeting;
use super::purpose;
use crate::base::chain;
use crate::model::Class;
use crate::model::Limits;
use crate::model::Operation;
use crate::model::Purpose;

/// How long upkeep waits for an answer to its look.
const TEND_WAIT: Duration = Duration::from_secs(20);
/// A call that is dropped after it waited this long for one answer is a reason to look.
const DROPPED_LATE: Duration = Duration::from_secs(2);
/// How long a service that said that it is full is not written to.
const FULL_REST: Duration = Duration::from_secs(30);
/// The same for a disk: by then it tells again what is free.
const FULL_REST_LOCAL: Duration = Duration::from_secs(1);

/// Whether a backend would take a call now, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// Its marker cannot be seen.
    Absent,
    /// Its breaker is open.
    Resting,
    /// A limit is in the way.
    Spent,
    /// It said lately that it has no room.
    Full,
    /// The next call finds out, or another is finding out, whether it is well again.
    Doubtful,
    Fit,
}

impl Fitness {
    /// Whether the call may be tried.
    pub fn is_fit(self) -> bool {
        matches!(self, Fitness::Doubtful | Fitness::Fit)
    }

    /// Whether nothing but limits and room is in the way, if anything is.
    pub fn is_reachable(self) -> bool {
        !matches!(self, Fitness::Absent | Fitness::Resting)
    }
}

/// Whom a backend shares its limits with.
pub(super) struct Dues {
    account: Arc<Account>,
    limits: Limits,
    is_limited: bool,
    meters: Vec<Arc<Meter>>,
}

impl Dues {
    pub(super) fn new(limits: Limits, meters: Vec<Arc<Meter>>) -> Arc<Dues> {
        let account = Account::new(limits, meters.clone());
        Arc::new(Dues { account, limits, is_limited: limits.is_set(), meters })
    }

    /// Whether they would be the same anew; then what was admitted stays counted.
    pub(super) fn are(&self, limits: &Limits, meters: &[Arc<Meter>]) -> bool {
        let same = |(a, b): (&Arc<Meter>, &Arc<Meter>)| Arc::ptr_eq(a, b);
        self.limits == *limits
            && self.meters.len() == meters.len()
            && self.meters.iter().zip(meters).all(same)
    }
}

/// A call that was let through. It holds what was admitted until it is over.
pub(super) struct Entered {
    pub(super) pass: Pass,
    pub(super) _admitted: Option<Admitted>,
}

impl Entered {
    /// A listing goes on with another page.
    pub(super) fn renew(&mut self, inner: &Inner, purpose: Purpose) -> Result<(), Failure> {
        self._admitted = None;
        self._admitted = inner.admit(purpose, Operation::List, 0)?;
        Ok(())
    }
}

/// The class of each operation, at places that count no requests of their own.
pub(super) fn classes(profile: &Profile) -> [Class; Operation::ALL.len()] {
    Operation::ALL.map(|operation| {
        let calls = Need::of(operation, 0, profile).calls;
        Class::ALL.into_iter().find(|class| calls[*class as usize] > 0).unwrap_or(Class::Free)
    })
}

impl Backend {
    /// Whether an operation on `bytes` bytes could begin now. Asking changes nothing.
    pub fn fitness(&self, operation: Operation, bytes: u64) -> Fitness {
        let inner = &self.inner;
        if !self.is_present() {
            return Fitness::Absent;
        }
        let standing = inner.breaker.standing();
        if standing == Standing::Resting {
            return Fitness::Resting;
        }
        if inner.allows(self.purpose, operation, bytes).is_err() {
            return Fitness::Spent;
        }
        if operation == Operation::Write && inner.is_full() {
            return Fitness::Full;
        }
        match standing {
            Standing::Closed => Fitness::Fit,
            Standing::Due | Standing::Resting => Fitness::Doubtful,
        }
    }

    pub fn breaker_view(&self) -> BreakerView {
        self.inner.breaker.view()
    }

    /// Closes the breaker: what was broken was mended.
    pub fn reset_breaker(&self) {
        self.inner.breaker.reset();
    }

    /// Of the account that it belongs to.
    pub fn limits(&self) -> Limits {
        self.inner.dues.load().limits
    }

    /// Whether what is read from it has a limit or a price.
    pub fn is_metered(&self) -> bool {
        let prices = &self.inner.settings.profile.prices;
        let class = self.inner.classes[Operation::Read as usize];
        let costs = [prices.thousand_calls[class as usize], prices.egress_gb];
        self.inner.dues.load().is_limited || costs.into_iter().flatten().any(|price| price > 0.0)
    }

    /// The limit that keeps clients from writing or reading now.
    pub fn reached(&self) -> Option<Reached> {
        let blocks = |operation| self.inner.allows(Purpose::Client, operation, 1).err();
        blocks(Operation::Write).or_else(|| blocks(Operation::Read))
    }

    /// Somebody has waited since `since`, got nothing and gives up. That counts as a failure when a
    /// first byte should have come by then; before, it only makes upkeep look.
    pub fn overdue(&self, since: Instant) {
        let inner = &self.inner;
        let waited = since.elapsed();
        if waited >= inner.settings.timeouts.first_byte {
            inner.breaker.gave_up(since, || format!("no answer within {waited:.0?}"));
        } else {
            inner.suspect.store(true, Ordering::Release);
        }
    }

    /// The regular look of upkeep: at a backend that is absent, that somebody gave up waiting for,
    /// or whose breaker is due. One that is well is not called.
    pub async fn tend(&self) {
        let inner = &self.inner;
        let is_well = self.is_present() && !inner.suspect.load(Ordering::Acquire);
        match inner.breaker.standing() {
            Standing::Resting => {}
            Standing::Closed if is_well => {}
            // What it brings is known to breaker and log by then.
            Standing::Closed | Standing::Due => {
                drop(inner.look(self.purpose, Operation::Look, TEND_WAIT).await);
            }
        }
    }
}

impl Inner {
    /// Lets a call pass, after a look at the marker where one is due.
    pub(super) async fn enter(
        &self,
        purpose: Purpose,
        operation: Operation,
        bytes: u64,
    ) -> Result<Entered, Failure> {
        if self.breaker.pass().is_none() {
            self.look_for(purpose, operation).await?;
        }
        self.ready(purpose, operation).await?;
        self.enter_now(purpose, operation, bytes)
    }

    /// The same for a call that can wait for nothing.
    pub(super) fn enter_now(
        &self,
        purpose: Purpose,
        operation: Operation,
        bytes: u64,
    ) -> Result<Entered, Failure> {
        let pass = self.breaker.pass().ok_or_else(|| Failure::new(Fault::Resting))?;
        let _admitted = self.admit(purpose, operation, bytes)?;
        self.count(purpose, operation);
        Ok(Entered { pass, _admitted })
    }

    /// Looks at the marker now, for `operation`. No answer within `wait` is a failure.
    pub(super) async fn look(
        &self,
        purpose: Purpose,
        operation: Operation,
        wait: Duration,
    ) -> Result<(), Failure> {
        let entry = self.breaker.enter();
        if matches!(entry, Entry::Resting) {
            return Err(Failure::new(Fault::Resting));
        }
        let _admitted = match operation {
            Operation::Delete => None,
            _ => self.admit(purpose, Operation::Look, 0)?,
        };
        self.count(purpose, Operation::Look);
        let silence = |_| Err(Failure::because(Fault::Passing, format!("no answer in {wait:?}")));
        let looking = purpose::scope(purpose, self.look_at_marker());
        let looked = timeout(wait, looking).await.unwrap_or_else(silence);
        match (entry, &looked) {
            (Entry::Pass(pass), Ok(())) => self.well(pass),
            (Entry::Pass(pass), Err(failure)) => self.ill(pass, failure),
            (Entry::Probe(probe), Ok(())) => probe.tell(Health::Alive, String::new),
            (Entry::Probe(probe), Err(failure)) => probe.tell(failure.health, || why(failure)),
            (Entry::Resting, _) => {}
        }
        looked
    }

    /// Asks the place (as far as a test lets it), and draws the conclusions from a failure.
    pub(super) async fn ask<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        purpose: Purpose,
        pass: Pass,
        call: Call,
        ask: impl FnOnce(Meeting) -> F,
    ) -> Result<T, Failure> {
        let asking = async {
            let meeting = self.faults.meet(call).await?;
            self.faults.after(meeting, ask(meeting).await).await
        };
        let mut wait = Wait { suspect: &self.suspect, since: Some(Instant::now()) };
        let answer = purpose::scope(purpose, asking).await;
        wait.since = None;
        answer.inspect_err(|failure| self.ill(pass, failure))
    }

    /// A call came to a good end.
    pub(super) fn well(&self, pass: Pass) {
        self.breaker.tell(pass, Health::Alive, String::new);
        if self.suspect.load(Ordering::Relaxed) {
            self.suspect.store(false, Ordering::Release);
        }
    }

    /// What a call came to that did not.
    pub(super) fn ill(&self, pass: Pass, failure: &Failure) {
        if failure.fault == Fault::Full {
            self.found_full();
        }
        match failure.health {
            Health::Alive => self.well(pass),
            health => self.breaker.tell(pass, health, || why(failure)),
        }
    }

    /// Takes what a call needs out of the allowance.
    fn admit(
        &self,
        purpose: Purpose,
        operation: Operation,
        bytes: u64,
    ) -> Result<Option<Admitted>, Failure> {
        let dues = self.dues.load();
        if operation == Operation::Delete || !dues.is_limited {
            return Ok(None);
        }
        let need = Need::of(operation, bytes, &self.settings.profile);
        let admitted = dues.account.admit(purpose, need);
        admitted.map(Some).map_err(|reached| Failure::because(Fault::Spent, reached))
    }

    fn allows(&self, purpose: Purpose, operation: Operation, bytes: u64) -> Result<(), Reached> {
        let dues = self.dues.load();
        if operation == Operation::Delete || !dues.is_limited {
            return Ok(());
        }
        dues.account.allows(purpose, Need::of(operation, bytes, &self.settings.profile))
    }

    fn count(&self, purpose: Purpose, operation: Operation) {
        self.meter.operation(purpose, operation);
        if self.counts_here {
            self.meter.call(purpose, self.classes[operation as usize]);
        }
    }

    /// Bytes came from the place.
    pub(super) fn came(&self, purpose: Purpose, bytes: usize) {
        if self.counts_here {
            self.meter.egress(purpose, bytes as u64);
        }
    }

    /// Bytes go to the place.
    pub(super) fn goes(&self, purpose: Purpose, bytes: usize) {
        if self.counts_here {
            self.meter.ingress(purpose, bytes as u64);
        }
    }

    fn found_full(&self) {
        let rest = if self.traits.local { FULL_REST_LOCAL } else { FULL_REST };
        self.full_until.store(self.millis() + rest.as_millis() as u64, Ordering::Release);
    }

    /// Something was deleted: there may be room again.
    pub(super) fn made_room(&self) {
        if self.full_until.load(Ordering::Relaxed) != 0 {
            self.full_until.store(0, Ordering::Release);
        }
    }

    fn is_full(&self) -> bool {
        let until = self.full_until.load(Ordering::Acquire);
        until != 0 && self.millis() < until
    }

    /// Since it was opened.
    fn millis(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

/// A wait for one answer. Dropped, somebody gave up.
struct Wait<'i> {
    suspect: &'i AtomicBool,
    /// `None`: the answer came.
    since: Option<Instant>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= DROPPED_LATE) {
            self.suspect.store(true, Ordering::Release);
        }
    }
}

/// What went wrong, in words.
fn why(failure: &Failure) -> String {
    let words = failure.fault.words();
    match &failure.cause {
        None => words.to_owned(),
        Some(cause) => format!("{words}: {}", chain(&**cause)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backend::BackendSettings;
    use crate::backend::BreakerState;
    use crate::backend::Fleet;
    use crate::backend::faulty::Effect;
    use crate::backend::faulty::Faults;
    use crate::model::BackendId;
    use crate::model::Period;
    use crate::model::Tally;

    /// How long a condition may take to come true.
    const PATIENCE: Duration = Duration::from_secs(30);
    const OPEN: Duration = Duration::from_millis(50);

    struct Bench {
        backend: Arc<Backend>,
        faults: Faults,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        async fn new(change: impl FnOnce(&mut BackendSettings)) -> Bench {
            let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::default());
            // So that calls are counted from the beginning.
            faults.on(Call::Abort, u64::MAX, Effect::Hang);
            let (root, broken) = (dir.path().join("root"), faults.clone());
            let id = BackendId(3);
            let backend = Backend::for_tests_as("disk", id, Some(&root), broken, change).await;
            Bench { backend, faults, _dir: dir }
        }

        /// One whose breaker opens after two failures, for a moment.
        async fn brief() -> Bench {
            Bench::new(|settings| {
                settings.breaker.failures = 2;
                settings.breaker.open = OPEN;
            })
            .await
        }

        fn state(&self) -> BreakerState {
            self.backend.breaker_view().state
        }

        async fn stat(&self) -> Fault {
            self.backend.stat("nothing").await.unwrap_err().fault
        }

        async fn opened(&self) {
            self.faults.always(Call::Stat, Effect::Fail(Fault::Passing));
            assert_eq!([self.stat().await, self.stat().await], [Fault::Passing; 2]);
            assert_ne!(self.state(), BreakerState::Closed);
        }

        async fn until(&self, what: &str, holds: impl Fn(&Backend) -> bool) {
            let deadline = Instant::now() + PATIENCE;
            while !holds(&self.backend) {
                assert!(Instant::now() < deadline, "in vain: {what}");
                tokio::task::yield_now().await;
            }
        }

        fn tally(&self) -> Tally {
            tally(&self.backend)
        }
    }

    fn tally(backend: &Backend) -> Tally {
        let now = crate::base::Clock::system().now();
        backend.meter().tally(Period::month(now))
    }

    #[tokio::test]
    async fn what_rests_is_not_asked_and_not_counted() {
        let bench = Bench::new(|settings| settings.breaker.failures = 2).await;
        bench.opened().await;
        let before = bench.tally();
        assert_eq!(bench.stat().await, Fault::Resting);
        let backend = &bench.backend;
        assert_eq!(backend.delete("a").await.unwrap_err().fault, Fault::Resting);
        assert_eq!(backend.look().await.unwrap_err().fault, Fault::Resting);
        assert_eq!(backend.write("a", 1).await.err().unwrap().fault, Fault::Resting);
        assert_eq!(backend.list("").await.err().unwrap().fault, Fault::Resting);
        assert!(backend.read_here("a", 0..1).is_none());
        backend.tend().await;
        assert_eq!(bench.tally(), before);
        assert_eq!((bench.faults.count(Call::Stat), bench.faults.count(Call::Delete)), (2, 0));
        // Failed ones were counted.
        assert_eq!(before.all.operations[Operation::Stat as usize], 2);
        assert_eq!(backend.fitness(Operation::Write, 1), Fitness::Resting);
        backend.reset_breaker();
        bench.faults.clear();
        assert_eq!(bench.stat().await, Fault::Missing);
    }

    #[tokio::test]
    async fn what_answers_is_alive_and_what_was_dropped_says_nothing() {
        let bench = Bench::brief().await;
        for _ in 0..5 {
            assert_eq!(bench.stat().await, Fault::Missing);
        }
        for fault in [Fault::Damaged, Fault::Full, Fault::Refused] {
            bench.faults.always(Call::Read, Effect::Fail(fault));
            for _ in 0..5 {
                let got = bench.backend.read("a", 0..1).await.err().unwrap();
                assert_eq!(got.fault, fault);
            }
            bench.faults.clear();
        }
        bench.faults.always(Call::Stat, Effect::Hang);
        for _ in 0..5 {
            let gone = timeout(Duration::from_millis(1), bench.backend.stat("a")).await;
            assert!(gone.is_err());
        }
        let view = bench.backend.breaker_view();
        assert_eq!((view.state, view.failures), (BreakerState::Closed, 0));
    }

    #[tokio::test]
    async fn refused_credentials_are_no_second_try() {
        let bench = Bench::new(|_| {}).await;
        bench.faults.on(Call::Write, 1, Effect::Deny);
        let denied = bench.backend.write_whole("a", Bytes::from_static(b"a")).await.unwrap_err();
        assert_eq!(denied.fault, Fault::Refused);
        let view = bench.backend.breaker_view();
        assert_eq!(view.state, BreakerState::Open);
        assert!(view.why.unwrap().contains("403"));
        bench.backend.reset_breaker();
        bench.backend.write_whole("a", Bytes::from_static(b"a")).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_call_when_it_is_due_finds_out() {
        let bench = Bench::brief().await;
        bench.opened().await;
        bench.until("it is due", |b| b.fitness(Operation::Read, 0) == Fitness::Doubtful).await;
        bench.faults.always(Call::Marker, Effect::Fail(Fault::Passing));
        assert_eq!(bench.stat().await, Fault::Passing);
        assert_eq!(bench.faults.count(Call::Stat), 2, "only the marker was asked for");
        assert_eq!(bench.stat().await, Fault::Resting);
        bench.faults.clear();
        bench.until("it is due", |b| b.fitness(Operation::Read, 0) == Fitness::Doubtful).await;
        assert_eq!(bench.stat().await, Fault::Missing);
        assert_eq!(bench.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn it_heals_without_traffic_and_one_that_is_well_is_not_called() {
        let bench = Bench::brief().await;
        bench.opened().await;
        bench.faults.clear();
        let looks = || bench.tally().all.operations[Operation::Look as usize];
        let before = looks();
        let deadline = Instant::now() + PATIENCE;
        while bench.state() != BreakerState::Closed {
            assert!(Instant::now() < deadline, "it never heals");
            bench.backend.tend().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(looks(), before + 1, "one look is enough");
        for _ in 0..10 {
            bench.backend.tend().await;
        }
        assert_eq!(looks(), before + 1);
    }

    #[tokio::test]
    async fn who_gave_up_soon_makes_upkeep_look_and_who_waited_long_is_believed() {
        let bench = Bench::brief().await;
        let looks = || bench.faults.count(Call::Marker);
        let before = looks();
        bench.backend.overdue(Instant::now());
        bench.backend.tend().await;
        bench.backend.tend().await;
        assert_eq!((looks(), bench.backend.breaker_view().failures), (before + 1, 0));
        // It stays suspect until it answers.
        bench.faults.on(Call::Marker, 1, Effect::Fail(Fault::Passing));
        bench.backend.overdue(Instant::now());
        bench.backend.tend().await;
        assert_eq!(bench.backend.breaker_view().failures, 1);
        bench.backend.tend().await;
        assert_eq!(bench.backend.breaker_view().failures, 0);
        bench.backend.tend().await;
        assert_eq!(looks(), before + 3);

        let bench = Bench::new(|settings| settings.timeouts.first_byte = Duration::ZERO).await;
        bench.backend.overdue(Instant::now());
        assert_eq!(bench.backend.breaker_view().failures, 1);
    }

    #[tokio::test]
    async fn what_hangs_is_found_out_although_every_caller_gives_up_early() {
        let bench = Bench::brief().await;
        tokio::time::pause();
        let looks = || bench.faults.count(Call::Marker);
        let before = looks();
        for call in [Call::Stat, Call::Marker] {
            bench.faults.always(call, Effect::Hang);
        }
        for failures in 0..2 {
            let gone = timeout(Duration::from_secs(10), bench.backend.stat("a")).await;
            assert!(gone.is_err());
            assert_eq!(bench.backend.breaker_view().failures, failures, "nobody's abort counts");
            bench.backend.tend().await;
        }
        assert_eq!((looks(), bench.state()), (before + 2, BreakerState::Open));
    }

    #[tokio::test]
    async fn a_stream_that_begins_and_breaks_off_is_a_failure() {
        let bench = Bench::brief().await;
        bench.backend.write_whole("a", Bytes::from_static(b"abc")).await.unwrap();
        for n in 1..=2 {
            bench.faults.on(Call::Piece, 1, Effect::Fail(Fault::Passing));
            let mut writer = bench.backend.write("b", 3).await.unwrap();
            assert!(writer.write(Bytes::from_static(b"abc")).await.is_err());
            if n == 1 {
                assert_eq!(bench.backend.breaker_view().failures, 1);
            }
        }
        assert_ne!(bench.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn what_said_that_it_is_full_rests_from_writes_for_a_while() {
        let bench = Bench::new(|_| {}).await;
        let fit = |b: &Backend| b.fitness(Operation::Write, 1) == Fitness::Fit;
        for has_deleted in [false, true] {
            bench.faults.on(Call::Write, 1, Effect::Fail(Fault::Full));
            bench.backend.write_whole("a", Bytes::from_static(b"a")).await.unwrap_err();
            assert_eq!(bench.backend.fitness(Operation::Write, 1), Fitness::Full);
            assert_eq!(bench.backend.fitness(Operation::Read, 1), Fitness::Fit);
            if has_deleted {
                bench.backend.delete("a").await.unwrap();
                assert!(fit(&bench.backend));
            } else {
                bench.until("it comes back by itself", fit).await;
            }
        }
        assert_eq!(bench.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn a_long_listing_ends_where_its_limit_is_reached() {
        use futures_util::StreamExt;
        const FILES: usize = 2500;
        const LIMIT: u64 = 100;
        let bench = Bench::new(|settings| settings.limits.month.requests = Some(LIMIT)).await;
        for n in 0..FILES {
            std::fs::write(bench._dir.path().join(format!("root/{n}")), "").unwrap();
        }
        let all = bench.backend.list("").await.unwrap().collect::<Vec<_>>().await;
        assert!(all.len() == FILES && all.iter().all(Result::is_ok));
        let mut listed = bench.backend.list("").await.unwrap();
        listed.next().await.unwrap().unwrap();
        (0..LIMIT).for_each(|_| bench.backend.meter().call(Purpose::Client, Class::C));
        let rest = listed.collect::<Vec<_>>().await;
        let faults: Vec<Fault> =
            rest.iter().filter_map(|e| Some(e.as_ref().err()?.fault)).collect();
        // The look behind it is refused as well.
        assert_eq!(faults, [Fault::Spent; 2]);
        assert_eq!(rest.len() - faults.len(), 998);
    }

    #[tokio::test]
    async fn calls_and_bytes_are_counted_for_whom_they_are() {
        let bench = Bench::new(|_| {}).await;
        let work = bench.backend.for_work();
        let before = bench.tally();
        for backend in [&bench.backend, &work] {
            backend.write_whole("a", Bytes::from_static(b"abcde")).await.unwrap();
            let mut pieces = backend.read("a", 1..4).await.unwrap();
            while let Some(piece) = futures_util::StreamExt::next(&mut pieces).await {
                piece.unwrap();
            }
            assert!(backend.read_here("a", 0..2).unwrap().is_ok());
            let mut writer = backend.write("b", 7).await.unwrap();
            writer.write(Bytes::from_static(b"abcdefg")).await.unwrap();
            writer.finish().await.unwrap();
            backend.delete("a").await.unwrap();
            backend.delete("b").await.unwrap();
        }
        let after = bench.tally();
        assert_eq!((after.work.ingress, after.work.egress), (12, 5));
        assert_eq!(after.all.ingress - before.all.ingress, 24);
        assert_eq!(after.all.egress - before.all.egress, 10);
        let count = |operation| after.work.operations[operation as usize];
        let counts = [Operation::Write, Operation::Read, Operation::Delete].map(count);
        assert_eq!(counts, [2, 2, 2]);
        let calls: u64 = after.work.calls.iter().sum();
        assert_eq!(calls, after.work.operations.iter().sum::<u64>());
    }

    #[tokio::test]
    async fn what_is_read_is_metered_by_a_limit_or_a_price() {
        type Change = fn(&mut BackendSettings);
        let table: &[(Change, bool)] = &[
            (|_| {}, false),
            (|settings| settings.limits.month.requests = Some(5), true),
            (|settings| settings.limits.day.egress = Some(5), true),
            (|settings| settings.profile.prices.egress_gb = Some(0.09), true),
            (|settings| settings.profile.prices.egress_gb = Some(0.0), false),
            (
                |settings| settings.profile.prices.thousand_calls[Class::A as usize] = Some(1.0),
                false,
            ),
            (
                |settings| settings.profile.prices.thousand_calls[Class::B as usize] = Some(1.0),
                true,
            ),
            (|settings| settings.profile.prices.stored_gb_month = Some(0.02), false),
            (
                |settings| {
                    settings.profile.prices.thousand_calls[Class::B as usize] = Some(1.0);
                    let free = ("GetObject".to_owned(), Class::Free);
                    settings.profile.classes.insert(free.0, free.1);
                },
                false,
            ),
        ];
        for (n, (change, is_metered)) in table.iter().enumerate() {
            let bench = Bench::new(change).await;
            assert_eq!(bench.backend.is_metered(), *is_metered, "{n}");
        }
    }

    #[tokio::test]
    async fn work_is_spent_when_its_share_is_used_up_and_clients_are_not() {
        let bench = Bench::new(|settings| {
            settings.limits.month.egress = Some(100);
            settings.limits.month.ingress = Some(100);
            settings.limits.background_share = 0.5;
        })
        .await;
        let fleet = Fleet::new(vec![Arc::clone(&bench.backend)]).for_work();
        let work = fleet.get(BackendId(3)).unwrap();
        let meter = bench.backend.meter();
        for operation in [Operation::Read, Operation::Write] {
            assert_eq!(work.fitness(operation, 50), Fitness::Fit);
            assert_eq!(work.fitness(operation, 51), Fitness::Spent);
            assert_eq!(bench.backend.fitness(operation, 100), Fitness::Fit);
            assert_eq!(bench.backend.fitness(operation, 101), Fitness::Spent);
        }
        meter.egress(Purpose::Work, 30);
        meter.ingress(Purpose::Work, 49);
        let of_work = |operation, most| {
            assert_eq!(work.fitness(operation, most), Fitness::Fit);
            assert_eq!(work.fitness(operation, most + 1), Fitness::Spent);
        };
        of_work(Operation::Read, 20);
        of_work(Operation::Write, 1);
        // What clients use, work cannot have either.
        meter.egress(Purpose::Client, 60);
        of_work(Operation::Read, 10);
        meter.ingress(Purpose::Work, 1);
        assert_eq!(work.fitness(Operation::Write, 1), Fitness::Spent);
        assert_eq!(bench.backend.fitness(Operation::Write, 50), Fitness::Fit);
        // Not even begun, and a delete is never refused.
        let refused = work.write_whole("a", Bytes::from_static(b"a")).await.unwrap_err();
        assert_eq!((refused.fault, work.delete("a").await.is_ok()), (Fault::Spent, true));
    }

    #[tokio::test]
    async fn backends_of_one_account_share_it_and_keep_it() {
        let (dir, mut backends) = (tempfile::tempdir().unwrap(), Vec::new());
        for (id, account) in [(1, Some("a")), (2, None), (3, Some("a")), (4, Some("b"))] {
            let root = dir.path().join(id.to_string());
            let (name, id) = (format!("disk{id}"), BackendId(id));
            let change = |settings: &mut BackendSettings| {
                settings.account = account.map(str::to_owned);
                settings.limits.month.requests = (id.0 == 3).then_some(100);
            };
            let faults = Faults::default();
            backends.push(Backend::for_tests_as(&name, id, Some(&root), faults, change).await);
        }
        let account = |at: usize| Arc::clone(&backends[at].inner.dues.load().account);
        let fleet = Fleet::new(backends.clone());
        let (a, own, b) = (account(0), account(1), account(3));
        assert!(Arc::ptr_eq(&a, &account(2)));
        assert!(!Arc::ptr_eq(&a, &own) && !Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&own, &b));
        assert_eq!(backends[0].limits().month.requests, Some(100));
        assert!(!backends[1].limits().is_set() && !backends[3].limits().is_set());
        // Another generation with the same company changes nothing; with another one it does.
        let _next = Fleet::new(backends.clone());
        assert!(Arc::ptr_eq(&a, &account(0)) && Arc::ptr_eq(&own, &account(1)));
        let _alone = Fleet::new(backends[..1].to_vec());
        assert!(!Arc::ptr_eq(&a, &account(0)));
        assert!(!backends[0].limits().is_set());
        assert_eq!(fleet.for_work().all().len(), 4);
        assert_eq!(fleet.for_work().get(BackendId(3)).unwrap().purpose, Purpose::Work);
    }
}
