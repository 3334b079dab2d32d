//! A small world with everything in it that can go wrong, out of one number.
//!
//! A seed makes three to six sites with quotas, labels and moods, two buckets with wishes, and a
//! few hundred steps: clients put, overwrite, delete, copy, read and upload in parts; every worker steps;
//! an operator changes wishes and quotas, drains, takes drains back and removes; sites fail, lose
//! their markers, answer late, and change bytes behind Larder's back; clocks move by seconds or
//! days; and the process crashes, at any await of a backend call. All of it is the real engine and
//! the real store; only the sites are memory, and the time is moved by hand.
//!
//! # Invariants, held after every few steps
//!
//! - The store verifies; `used + reserved + orphan` is within every quota.
//! - Every acknowledged object is what its clients were told, and the right bytes of it lie where
//!   a replica that may be read says so. A read that nothing hinders succeeds.
//! - Every file on every site is known to the store, and no path is ever used twice.
//! - When nothing breaks any more and time passes, every blob has exactly the replicas that are
//!   wished, as far as there are backends for them, and no intent, no condemned path and no file that
//!   nobody knows is left.
//!
//! # How much goes on at once
//!
//! Every call of a backend waits at a gate. Between two openings everything else runs until nothing
//! moves; then the dice say what happens next. So all orders of backend calls of up to a dozen
//! operations can come about, and each is one that a seed names.
//!
//! # What a seed does not decide
//!
//! Two look-ups in the store that are asked in the same moment may be answered in either order, for
//! its threads are real. Gates are chosen by site and kind of call, so that this seldom matters. A
//! crash ends the runtime, and the store does what it was asked before: what a crash does to a
//! commit is tested there.
//!
//! A seed names a world only as long as nothing changes that throws the dice. So what a seed has
//! found is held by a test of its own, of the part that was wrong.
//!
//! # To run one again
//!
//! `LARDER_SIM_SEED=17 cargo test --lib sim` runs that seed alone and prints all of it;
//! `LARDER_SIM_SEEDS=10000` runs so many.

mod checks;
mod dice;
mod gates;
mod model;
mod rest;
mod site;
mod verbs;
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::gates::Waiting;
use self::site::Mood;
use self::verbs::Verb;
use self::world::World;
use crate::backend::faulty::Call;
use crate::backend::faulty::Effect;
use crate::model::Duty;

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 200;
/// Steps of one world.
const STEPS: (u64, u64) = (150, 500);
/// After so many steps the world is looked at, and after so many the store recomputes what it knows.
const CHECKED: u64 = 3;
const VERIFIED: u64 = 9;
/// Operations that are on their way at the most.
const FLIGHTS_MAX: usize = 10;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Open,
    Put,
    Delete,
    Get,
    Race,
    Copy,
    Multipart,
    Work,
    Watch,
    Tick,
    Wait,
    Mood,
    Lose,
    Harm,
    Operator,
    Crash,
}

/// How often each happens.
const DEEDS: &[(u64, Deed)] = &[
    (650, Deed::Open),
    (90, Deed::Put),
    (25, Deed::Delete),
    (50, Deed::Get),
    (12, Deed::Race),
    (25, Deed::Copy),
    (35, Deed::Multipart),
    (200, Deed::Work),
    (20, Deed::Watch),
    (40, Deed::Tick),
    (20, Deed::Wait),
    (35, Deed::Mood),
    (14, Deed::Lose),
    (30, Deed::Harm),
    (34, Deed::Operator),
    (10, Deed::Crash),
];

impl World {
    /// The whole of it, to its end.
    fn live(&mut self) {
        let steps = self.dice.within(STEPS.0, STEPS.1);
        for _ in 0..steps {
            self.step += 1;
            let deed = self.dice.weighted(DEEDS);
            self.does(deed);
            self.settle();
            self.land();
            if self.step.is_multiple_of(VERIFIED) || matches!(deed, Deed::Crash | Deed::Operator) {
                self.verify();
            }
            if self.step.is_multiple_of(CHECKED) {
                self.check();
            }
        }
        self.comes_to_an_end();
        self.comes_to_rest();
    }

    fn does(&mut self, deed: Deed) {
        let is_free = self.flights.len() < FLIGHTS_MAX;
        match deed {
            Deed::Open => self.open_some_gate(),
            Deed::Put if is_free => self.put(),
            Deed::Delete if is_free => self.delete(),
            Deed::Get if is_free => self.get(),
            Deed::Race if is_free => self.race(),
            Deed::Copy if is_free => self.copy(),
            Deed::Multipart if is_free => self.multipart(),
            Deed::Work if is_free => self.work(),
            Deed::Watch if is_free => self.watch(),
            Deed::Put
            | Deed::Delete
            | Deed::Get
            | Deed::Race
            | Deed::Copy
            | Deed::Multipart
            | Deed::Work
            | Deed::Watch => self.open_some_gate(),
            Deed::Tick => {
                let span = Duration::from_millis(self.dice.within(50, 8000));
                self.note(format!("{span:?} pass"));
                self.pass(span);
            }
            Deed::Wait => {
                let (least, most) = self.dice.weighted(&[
                    (5, (30, 600)),
                    (4, (3600, 7200)),
                    (1, (86_400, 200_000)),
                ]);
                let span = Duration::from_secs(self.dice.within(least, most));
                // What is out of reach all the while is away after it.
                self.watch();
                self.note(format!("{span:?} pass"));
                self.pass(span);
                self.land();
                self.watch();
            }
            Deed::Mood => self.change_mood(),
            Deed::Lose => self.lose_or_find(),
            // What is being removed is given up by what the rows say of the others.
            Deed::Harm if self.is_tampered_with && !self.removes() => self.harm(),
            Deed::Harm => {}
            Deed::Operator => self.operate(),
            Deed::Crash => self.crash(),
        }
    }

    fn removes(&self) -> bool {
        self.flights.iter().any(|flight| matches!(flight.verb, Verb::Remove))
            || self.rows.iter().any(|row| row.duty == Duty::Removed && row.rows > 0)
    }

    // ---- Sites.

    fn open_some_gate(&mut self) {
        let mut waiting = self.life().gates.waiting();
        if waiting.is_empty() {
            return;
        }
        if waiting.iter().any(|call| !call.is_slow) && !self.dice.chance(3) {
            waiting.retain(|call| !call.is_slow);
        }
        let chosen = waiting[self.dice.index(waiting.len())];
        let effect = self.sites[chosen.site].effect(chosen.call, &mut self.dice);
        self.open_gate(chosen, effect);
    }

    /// Lets one call go on, and everything behind it. A write whose answer is lost may have come to
    /// anything.
    fn open_gate(&mut self, chosen: Waiting, effect: Option<Effect>) {
        let Waiting { site: number, call, .. } = chosen;
        if effect.is_some() {
            self.note(format!("{call:?} on site {number} meets {effect:?}"));
            self.sites[number].troubles += 1;
            self.count("failed calls");
        }
        let is_lost = matches!(effect, Some(Effect::FailAfter(_) | Effect::HangAfter));
        let is_odd = is_lost && matches!(call, Call::Write | Call::Finish);
        let before = if is_odd { self.sites[number].place.files() } else { BTreeMap::new() };
        self.life().gates.open(chosen.number, effect);
        self.settle();
        if is_odd {
            self.come_to_anything(number, &before);
        }
    }

    /// What a write has made whose answer is lost may have wrong bytes, and may be there only a while
    /// later.
    fn come_to_anything(&mut self, number: usize, before: &BTreeMap<String, u64>) {
        let now = self.now();
        let site = &mut self.sites[number];
        let new = site.place.files().into_keys().filter(|path| !before.contains_key(path));
        let mut told = Vec::new();
        for path in new.collect::<Vec<_>>() {
            if self.dice.chance(30) {
                site.place.damage(&path, 0);
                told.push(format!("{path} on site {number} has wrong bytes"));
            }
            if self.dice.chance(50) {
                let due = now.plus(Duration::from_secs(self.dice.below(40 * 60)));
                let bytes = site.place.read(&path).unwrap_or_default();
                site.place.remove(&path);
                site.ghosts.push((due, path.clone(), bytes));
                told.push(format!("{path} on site {number} will be there later"));
            }
        }
        told.into_iter().for_each(|line| self.note(line));
    }

    fn change_mood(&mut self) {
        let number = self.dice.index(self.sites.len());
        let moods = [(50, Mood::Calm), (35, Mood::Flaky), (10, Mood::Down), (5, Mood::Revoked)];
        let mood = self.dice.weighted(&moods);
        self.note(format!("site {number} is {mood:?}"));
        let site = &mut self.sites[number];
        site.mood = mood;
        site.troubles += 1;
    }

    fn lose_or_find(&mut self) {
        let lost = self.sites.iter().filter(|site| site.is_lost).count();
        let number = self.dice.index(self.sites.len());
        let site = &mut self.sites[number];
        if !site.is_lost && lost >= 2 {
            return;
        }
        site.is_lost = !site.is_lost;
        site.troubles += 1;
        site.faults.lose_marker(site.is_lost);
        let how = if site.is_lost { "is not mounted" } else { "is mounted again" };
        let (is_lost, id) = (site.is_lost, site.id());
        self.note(format!("site {number} {how}"));
        self.count("lost markers");
        let backend = self.life().engine.fleet.load().get(id).cloned();
        if let Some(backend) = backend.filter(|_| is_lost && self.dice.chance(60)) {
            // Somebody notices at once, and for a while nothing is done about it.
            self.ask(async move { drop(backend.look().await) });
            self.does(Deed::Wait);
        }
        self.watch();
    }

    // ---- The operator.

    fn operate(&mut self) {
        self.check();
        let number = self.dice.index(self.sites.len());
        let id = self.sites[number].id();
        let duty = self.rows.iter().find(|row| row.id == id).map(|row| row.duty);
        let serving = self.rows.iter().filter(|row| row.duty == Duty::InUse).count();
        match (self.dice.below(10), duty) {
            (0..2, _) => self.change_wishes(),
            (2..4, _) => self.change_quota(number),
            (4..7, Some(Duty::Draining | Duty::Removed)) => self.undrain(number),
            (7..10, Some(Duty::Draining)) if self.harmed() == 0 => self.remove(number),
            (4..10, Some(Duty::InUse)) if serving > 2 => self.drain(number),
            _ => {}
        }
    }

    fn change_quota(&mut self, number: usize) {
        let quota = self.dice.chance(70).then(|| self.dice.within(20_000, 900_000));
        self.note(format!("site {number} may hold {quota:?}"));
        self.sites[number].quota = quota;
        self.declare();
        self.life().engine.fleet_changes();
    }
}

/// What a world came to.
type Tally = BTreeMap<String, u64>;

/// Lives through one world. On a failure says which, where, and what went on before.
fn lives(seed: u64, shows: bool) -> Result<Tally, String> {
    let mut world = World::new(seed);
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    if shows {
        println!("{}", world.log().join("\n"));
    }
    match lived {
        Ok(()) => Ok(std::mem::take(&mut world.tally)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Err(format!("seed {seed}, step {}: {text}\n{}", world.step, world.last()))
        }
    }
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Lives through worlds, several at a time; what all of them came to.
fn live_through(seeds: u64) -> Tally {
    let (next, all) = (AtomicU64::new(0), Mutex::new((Tally::new(), Vec::new())));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || all.lock().unwrap().1.len() >= 10 {
                        return;
                    }
                    let lived = lives(seed, false);
                    let mut all = all.lock().unwrap();
                    match lived {
                        Ok(tally) => tally
                            .into_iter()
                            .for_each(|(what, number)| *all.0.entry(what).or_default() += number),
                        // Whoever runs very many may look at it while the rest goes on.
                        Err(why) => {
                            eprintln!("{why}\n");
                            all.1.push(seed);
                        }
                    }
                }
            });
        }
    });
    let (tally, failed) = all.into_inner().unwrap();
    assert!(failed.is_empty(), "worlds failed, of the seeds {failed:?}");
    tally
}

#[test]
fn every_world_keeps_what_was_promised_and_comes_to_rest() {
    if let Some(seed) = number_from("LARDER_SIM_SEED") {
        let lived = lives(seed, true);
        assert!(lived.is_ok(), "{}", lived.unwrap_err());
        return;
    }
    let tally = live_through(number_from("LARDER_SIM_SEEDS").unwrap_or(SEEDS));
    println!("{tally:#?}");
    // Worlds in which nothing happens show nothing.
    let mut happened = vec![
        "put",
        "delete",
        "get",
        "range",
        "copy",
        "part",
        "complete",
        "crashes",
        "harm",
        "drains",
        "undrains",
        "removals",
        "late writes",
        "lost markers",
        "failed calls",
        "changed wishes",
    ];
    happened.extend(["cleanup", "pending_reaper", "replicator", "over_replication"]);
    happened.extend(["rebalancer", "drain", "reconciler", "scrubber"]);
    for what in happened {
        assert!(tally.get(what).is_some_and(|number| *number > 0), "{what}: it never happened");
    }
}

/// Seeds beyond the usual ones that failed once. In 4322 a blob waited for ever for a backend that had
/// said that it is full; in the others what failed was the simulation.
const FAILED_ONCE: [u64; 8] = [1736, 4322, 5334, 8222, 8351, 8475, 9457, 9462];

#[test]
fn worlds_that_failed_once_keep_what_was_promised_and_come_to_rest() {
    for seed in FAILED_ONCE {
        let lived = lives(seed, false);
        assert!(lived.is_ok(), "{}", lived.unwrap_err());
    }
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    let (mut first, mut second) = (World::new(1), World::new(1));
    first.live();
    second.live();
    assert_eq!(first.log(), second.log());
}
