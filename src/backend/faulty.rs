//! Faults on demand, for tests.
//!
//! Every backend holds a [`Faults`] handle and asks it before and after each call; outside tests
//! nobody ever puts a rule into it and the question is one atomic load. It sits below the rules
//! about markers and exact lengths, so those are tested with it.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::watch;

use super::breaker::Health;
use super::error::{Failure, Fault};

/// What a backend is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The beginning of a stream, or a whole small write.
    Write,
    /// One piece of a stream.
    Piece,
    Finish,
    Abort,
    /// The beginning of a read, and a read on the caller's thread.
    Read,
    Stat,
    Delete,
    List,
    Marker,
}

/// What happens instead of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and nothing has happened.
    Fail(Fault),
    /// It refuses whoever we are, as a service does whose credentials were revoked.
    Deny,
    /// It happens, and then fails as if the answer had been lost.
    FailAfter(Fault),
    /// No answer until the faults are cleared; then it fails.
    Hang,
    /// It happens, and there is no answer until the faults are cleared; then it fails.
    HangAfter,
    /// The last byte is lost, without a word.
    Truncate,
    /// The first byte is changed, without a word.
    Corrupt,
}

/// Decides what a call meets that no rule is for.
pub type Fate = Arc<dyn Fn(Call) -> Option<Effect> + Send + Sync>;

/// Where a call that no rule is for waits until it is told what it meets. One whose other end is
/// gone meets nothing.
pub type Gate = Arc<dyn Fn(Call) -> oneshot::Receiver<Option<Effect>> + Send + Sync>;

/// The faults of one backend. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there may be a rule, or the marker is lost.
    on: AtomicBool,
    lost: AtomicBool,
    state: Mutex<State>,
    /// Changes when the faults are cleared.
    cleared: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    fate: Option<Fate>,
    gate: Option<Gate>,
    counts: Vec<(Call, u64)>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = (&self.rules, self.fate.is_some(), self.gate.is_some());
        f.debug_struct("State").field("rules", &rules).field("counts", &self.counts).finish()
    }
}

#[derive(Debug)]
struct Rule {
    call: Call,
    /// Calls that still pass before it holds.
    skip: u64,
    /// Whether it holds from then on, or once.
    always: bool,
    effect: Effect,
}

impl Faults {
    /// The `nth` call of this kind from now on (1 is the next) meets `effect`.
    pub fn on(&self, call: Call, nth: u64, effect: Effect) {
        self.add(Rule { call, skip: nth.saturating_sub(1), always: false, effect });
    }

    /// Every call of this kind meets `effect`.
    pub fn always(&self, call: Call, effect: Effect) {
        self.add(Rule { call, skip: 0, always: true, effect });
    }

    /// Every call that no rule is for meets what `fate` says. It is asked once for each, in the order
    /// in which they are made, also while the marker is lost.
    pub fn on_each(&self, fate: Fate) {
        self.lock().fate = Some(fate);
        self.0.on.store(true, Ordering::Release);
    }

    /// Every call that no rule is for, and that does not read on its caller's own thread, waits at
    /// `gate` before it is made.
    pub fn hold_each(&self, gate: Gate) {
        self.lock().gate = Some(gate);
        self.0.on.store(true, Ordering::Release);
    }

    /// The place is as if its disk were not mounted, or is there again.
    pub fn lose_marker(&self, lost: bool) {
        self.0.on.store(true, Ordering::Release);
        self.0.lost.store(lost, Ordering::Release);
    }

    /// Takes all rules, the fate of each call and the gate back, and lets go what hangs.
    pub fn clear(&self) {
        {
            let mut state = self.lock();
            state.rules.clear();
            state.fate = None;
            state.gate = None;
        }
        self.0.lost.store(false, Ordering::Release);
        self.0.cleared.send_modify(|generation| *generation += 1);
    }

    /// Calls of this kind since the first rule was added.
    pub fn count(&self, call: Call) -> u64 {
        self.lock().counts.iter().find(|(c, _)| *c == call).map_or(0, |(_, n)| *n)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }

    fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
        self.0.on.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the call that is about to be made meets, without waiting: hanging is failing.
    pub(super) fn meet_now(&self, call: Call) -> Result<Meeting, Failure> {
        match self.next(call)? {
            Some(Effect::Fail(fault)) => Err(Failure::because(fault, "on purpose")),
            Some(Effect::Deny) => Err(denied()),
            Some(Effect::Hang) => Err(Failure::because(Fault::Passing, "on purpose")),
            effect => Ok(Meeting(effect)),
        }
    }

    /// What the call that is about to be made meets.
    pub(super) async fn meet(&self, call: Call) -> Result<Meeting, Failure> {
        let met = match self.next(call)? {
            None => self.pass_gate(call).await?,
            met => met,
        };
        match met {
            Some(Effect::Fail(fault)) => Err(Failure::because(fault, "on purpose")),
            Some(Effect::Deny) => Err(denied()),
            Some(Effect::Hang) => Err(self.hang().await),
            effect => Ok(Meeting(effect)),
        }
    }

    /// What the caller is told after it was done.
    pub(super) async fn after<T>(
        &self,
        meeting: Meeting,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        match meeting.0 {
            Some(Effect::HangAfter) if result.is_ok() => Err(self.hang().await),
            _ => meeting.after(result),
        }
    }

    async fn pass_gate(&self, call: Call) -> Result<Option<Effect>, Failure> {
        if !self.0.on.load(Ordering::Acquire) {
            return Ok(None);
        }
        let gate = self.lock().gate.clone();
        let Some(gate) = gate else { return Ok(None) };
        let met = gate(call).await.ok().flatten();
        if self.is_lost() { Err(lost()) } else { Ok(met) }
    }

    async fn hang(&self) -> Failure {
        let _ = self.0.cleared.subscribe().changed().await;
        Failure::because(Fault::Passing, "on purpose, after hanging").unknown()
    }

    fn next(&self, call: Call) -> Result<Option<Effect>, Failure> {
        if !self.0.on.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = self.lock();
        match state.counts.iter_mut().find(|(c, _)| *c == call) {
            Some((_, n)) => *n += 1,
            None => state.counts.push((call, 1)),
        }
        let is_lost = self.0.lost.load(Ordering::Acquire);
        let mut met = if is_lost { None } else { state.meet(call) };
        let fate = state.fate.clone().filter(|_| met.is_none());
        drop(state);
        // Without the lock: it may look at these faults itself.
        if let Some(fate) = fate {
            met = fate(call);
        }
        match is_lost {
            true => Err(lost()),
            false => Ok(met),
        }
    }
}

impl State {
    /// What the rules say of this call.
    fn meet(&mut self, call: Call) -> Option<Effect> {
        let mut met = None;
        self.rules.retain_mut(|rule| {
            if rule.call != call {
                return true;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return true;
            }
            if met.is_some() {
                return true;
            }
            met = Some(rule.effect);
            rule.always
        });
        met
    }
}

fn lost() -> Failure {
    Failure::because(Fault::Missing, "the marker is lost on purpose")
}

fn denied() -> Failure {
    let refused = Failure::because(Fault::Refused, "403, on purpose");
    Failure { health: Health::Denied, ..refused }
}

/// What is to be done to a call that was not stopped.
#[derive(Clone, Copy)]
pub(super) struct Meeting(Option<Effect>);

impl Meeting {
    /// The bytes as they arrive.
    pub(super) fn alter(self, bytes: Bytes) -> Bytes {
        match self.0 {
            Some(Effect::Truncate) => bytes.slice(..bytes.len().saturating_sub(1)),
            Some(Effect::Corrupt) if !bytes.is_empty() => {
                let mut changed = bytes.to_vec();
                changed[0] ^= 0x55;
                changed.into()
            }
            _ => bytes,
        }
    }

    /// Whether a read is to end before its end.
    pub(super) fn truncates(self) -> bool {
        self.0 == Some(Effect::Truncate)
    }

    /// What the caller is told after it was done, without waiting: hanging is failing.
    pub(super) fn after<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        match (self.0, result) {
            (Some(Effect::FailAfter(fault)), Ok(_)) => {
                Err(Failure::because(fault, "on purpose, afterwards").unknown())
            }
            (Some(Effect::HangAfter), Ok(_)) => {
                Err(Failure::because(Fault::Passing, "on purpose, afterwards").unknown())
            }
            (_, result) => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_nth_call_of_a_kind_meets_its_effect_once() {
        let faults = Faults::default();
        faults.on(Call::Read, 2, Effect::Fail(Fault::Passing));
        faults.always(Call::Stat, Effect::Fail(Fault::Refused));
        assert!(faults.meet(Call::Read).await.is_ok());
        assert!(faults.meet(Call::Write).await.is_ok());
        assert!(faults.meet(Call::Read).await.is_err_and(|f| f.fault == Fault::Passing));
        assert!(faults.meet(Call::Read).await.is_ok());
        for _ in 0..3 {
            assert!(faults.meet(Call::Stat).await.is_err());
        }
        assert_eq!(faults.count(Call::Read), 3);
        faults.clear();
        assert!(faults.meet(Call::Stat).await.is_ok());
    }

    #[tokio::test]
    async fn what_hangs_is_let_go() {
        let faults = Faults::default();
        faults.on(Call::Write, 1, Effect::Hang);
        let hanging = tokio::spawn({
            let faults = faults.clone();
            async move { faults.meet(Call::Write).await.is_err_and(|failure| failure.unknown) }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while faults.0.cleared.receiver_count() == 0 {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        assert!(!hanging.is_finished());
        faults.clear();
        assert!(hanging.await.unwrap());
    }

    #[tokio::test]
    async fn fate_is_asked_once_for_each_call_that_no_rule_is_for() {
        let (faults, asked) = (Faults::default(), Arc::new(Mutex::new(Vec::new())));
        let (calls, own) = (Arc::clone(&asked), faults.clone());
        faults.on_each(Arc::new(move |call| {
            calls.lock().unwrap().push((call, own.count(call)));
            (call == Call::Delete).then_some(Effect::Deny)
        }));
        faults.on(Call::Read, 1, Effect::Fail(Fault::Full));
        assert!(faults.meet(Call::Read).await.is_err_and(|f| f.fault == Fault::Full));
        assert!(faults.meet(Call::Read).await.is_ok());
        assert!(faults.meet(Call::Delete).await.is_err_and(|f| f.fault == Fault::Refused));
        faults.lose_marker(true);
        assert!(faults.meet_now(Call::Delete).is_err_and(|f| f.fault == Fault::Missing));
        let expected = [(Call::Read, 2), (Call::Delete, 1), (Call::Delete, 2)];
        assert_eq!(*asked.lock().unwrap(), expected);
        faults.clear();
        assert!(faults.meet(Call::Delete).await.is_ok());
        assert_eq!(asked.lock().unwrap().len(), 3);
    }

    #[test]
    fn bytes_are_altered_silently() {
        let bytes = Bytes::from_static(b"abc");
        assert_eq!(Meeting(Some(Effect::Truncate)).alter(bytes.clone()), "ab");
        assert_ne!(Meeting(Some(Effect::Corrupt)).alter(bytes.clone()), bytes);
        assert_eq!(Meeting(None).alter(bytes.clone()), bytes);
    }
}
