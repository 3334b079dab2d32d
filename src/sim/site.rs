//! One backend of the world: its place, how it is, and what may still happen there.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::dice::Dice;
use crate::backend::BackendSettings;
use crate::backend::BreakerSettings;
use crate::backend::Fault;
use crate::backend::SimPlace;
use crate::backend::faulty::Call;
use crate::backend::faulty::Effect;
use crate::backend::faulty::Faults;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::Names;

/// How long a breaker rests: less than the least time that passes, for by how much more it rests is
/// not up to the seed.
const REST: Duration = Duration::from_millis(1);

/// How a site answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Calm,
    /// Every third or so of its calls fails in one of many ways.
    Flaky,
    /// Every call fails.
    Down,
    /// It refuses whoever asks.
    Revoked,
}

/// A place that outlives every engine.
pub(super) struct Site {
    pub(super) number: usize,
    pub(super) place: SimPlace,
    pub(super) faults: Faults,
    pub(super) mood: Mood,
    /// Its marker cannot be seen.
    pub(super) is_lost: bool,
    pub(super) quota: Option<u64>,
    pub(super) room: &'static str,
    names: Names,
    /// Those in a row after which its breaker opens.
    failures: u32,
    /// The least time for which it charges.
    min_age: Duration,
    /// Goes up with all that might hinder a read.
    pub(super) troubles: u64,
    /// Writes that the service is still busy with: when they come to be there.
    pub(super) ghosts: Vec<(Timestamp, String, Bytes)>,
    /// Files that are not what they should be, for somebody spoilt them.
    pub(super) harmed: BTreeSet<String>,
    /// Every file that was ever seen there.
    pub(super) seen: BTreeMap<String, Seen>,
}

/// A file that was seen.
pub(super) struct Seen {
    pub(super) hash: [u8; 32],
    pub(super) is_gone: bool,
}

impl Site {
    pub(super) fn new(number: usize, place: SimPlace, dice: &mut Dice) -> Site {
        Site {
            number,
            place,
            faults: Faults::default(),
            mood: Mood::Calm,
            is_lost: false,
            quota: dice.chance(70).then(|| dice.within(60_000, 700_000)),
            room: dice.of(&["attic", "cellar", "shed"]),
            names: dice.of(&[Names::Readable, Names::Readable, Names::Opaque]),
            failures: dice.of(&[3, 5, 8, u32::MAX]),
            min_age: Duration::from_secs(if dice.chance(15) { 6 * 3600 } else { 0 }),
            troubles: 0,
            ghosts: Vec::new(),
            harmed: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn id(&self) -> BackendId {
        BackendId(self.number as u64 + 1)
    }

    pub(super) fn name(&self) -> String {
        format!("site{}", self.number)
    }

    pub(super) fn settings(&self, settings: &mut BackendSettings) {
        settings.quota = self.quota;
        settings.names = self.names;
        settings.min_age = self.min_age;
        settings.labels.insert("room".to_owned(), self.room.to_owned());
        settings.breaker =
            BreakerSettings { failures: self.failures, open: REST, ..Default::default() };
    }

    /// What a call meets.
    pub(super) fn effect(&self, call: Call, dice: &mut Dice) -> Option<Effect> {
        let passing = Effect::Fail(Fault::Passing);
        match self.mood {
            Mood::Calm => None,
            Mood::Down => Some(passing),
            Mood::Revoked => Some(Effect::Deny),
            Mood::Flaky if dice.chance(65) => None,
            Mood::Flaky => Some(match call {
                Call::Write | Call::Piece | Call::Finish => dice.of(&[
                    passing,
                    passing,
                    Effect::FailAfter(Fault::Passing),
                    Effect::FailAfter(Fault::Passing),
                    Effect::HangAfter,
                    Effect::Fail(Fault::Full),
                ]),
                Call::Delete => {
                    dice.of(&[passing, Effect::FailAfter(Fault::Passing), Effect::HangAfter])
                }
                Call::Read | Call::Stat | Call::List => {
                    dice.of(&[passing, passing, Effect::Fail(Fault::Refused)])
                }
                Call::Abort | Call::Marker => passing,
            }),
        }
    }

    /// Files that are there now, with what is in them.
    pub(super) fn files(&self) -> BTreeMap<String, Bytes> {
        let paths = self.place.files().into_keys();
        paths.map(|path| (path.clone(), self.place.read(&path).unwrap_or_default())).collect()
    }

    /// What the service was still busy with is there now, as far as its time has come.
    pub(super) fn land(&mut self, now: Timestamp) -> u64 {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ghosts).into_iter().partition(|(at, ..)| *at <= now);
        self.ghosts = later;
        for (_, path, bytes) in &due {
            self.place.put(path, bytes.clone());
        }
        due.len() as u64
    }
}
