//! `kill -9` in the middle of background work: the next run goes on, and ends with everything where
//! it should be, nothing lost and no file that no row knows.
//!
//! `LARDER_SEED` repeats a run's choices, `LARDER_HEAL_KILLS` says how often each test kills.

use std::fs;

use serde_json::json;

use crate::content::Rng;
use crate::heal::{Healing, PACE, rot, scrub};
use crate::world::{pause, seeded};

/// Objects that there is something to do about: so many that a kill comes in the middle.
const OBJECTS: usize = 40;
const SIZE: usize = 100 << 10;
/// Kills of a plain `cargo test`, for each test.
const KILLS: usize = 4;
/// Files of somebody else, so many that a listing takes its time.
const NOTES: usize = 10_000;

fn kills() -> usize {
    let kills = std::env::var("LARDER_HEAL_KILLS").ok();
    kills.map_or(KILLS, |text| text.parse().expect("LARDER_HEAL_KILLS is a number"))
}

/// Kills it again and again while less and less is left to do, and starts it each time. `left` is
/// counted by what lies on the backends.
fn kill_meanwhile(kept: &mut Healing, rng: &mut Rng, left: impl Fn(&Healing) -> usize) {
    let kills = kills();
    let mut in_the_middle = 0;
    for kill in 1..=kills {
        let before = left(kept);
        let enough = before * (kills - kill + 1) / (kills - kill + 2);
        let enough = enough.saturating_sub(rng.below(3) as usize);
        kept.until_nothing("the work goes on", || {
            let now = left(kept);
            (now > enough).then(|| format!("{now} are left of {before}"))
        });
        (0..rng.below(5)).for_each(|_| pause());
        kept.world.kill();
        let now = left(kept);
        println!("killed with {now} left");
        in_the_middle += usize::from(now > 0);
        kept.world.verify();
        kept.world.start();
        // What it does stands in nobody's way.
        kept.put(&format!("after kill {kill}"), 1000 * kill);
    }
    assert!(in_the_middle > 0, "it was never killed in the middle of its work");
}

fn put_many(kept: &mut Healing) {
    (0..OBJECTS).for_each(|n| kept.put(&format!("many/{n}"), SIZE + n));
}

/// Files of the many objects on a backend.
fn many(kept: &Healing, backend: &str) -> usize {
    let files = kept.files(backend);
    files.iter().filter(|file| file.to_string_lossy().contains("/many/")).count()
}

#[test]
fn killed_while_it_replicates_it_goes_on() {
    let mut rng = seeded("killed_while_it_replicates_it_goes_on");
    let mut late = None;
    let mut kept = Healing::new(|config| {
        config.more.push_str("[worker.replicator]\nbatch = 5\nconcurrency = 2\n");
        late = config.backends.pop();
    });
    kept.wish(3);
    put_many(&mut kept);
    // A backend joins, so that all of them can get what they miss.
    let mut late = late.expect("the last of them");
    late.more.push(PACE.into());
    kept.world.config.backends.push(late);
    kept.world.replace_config();
    kill_meanwhile(&mut kept, &mut rng, |kept| OBJECTS - many(kept, "disk2").min(OBJECTS));
    kept.is_whole("it was killed while it replicated");
    assert_eq!(many(&kept, "disk2"), OBJECTS);
}

#[test]
fn killed_while_it_cleans_up_it_goes_on() {
    let mut rng = seeded("killed_while_it_cleans_up_it_goes_on");
    let mut kept = Healing::new(|config| {
        config.more.push_str("[worker.cleanup]\nbatch = 1\nconcurrency = 1\n");
    });
    kept.said(&["worker", "pause", "cleanup"]);
    put_many(&mut kept);
    (0..OBJECTS).for_each(|n| kept.delete(&format!("many/{n}")));
    let left = |kept: &Healing| many(kept, "disk1") + many(kept, "cloud");
    assert_eq!(left(&kept), 2 * OBJECTS);
    kept.said(&["worker", "resume", "cleanup"]);
    kill_meanwhile(&mut kept, &mut rng, left);
    kept.is_whole("it was killed while it cleaned up");
}

#[test]
fn killed_while_it_rebalances_it_goes_on() {
    let mut rng = seeded("killed_while_it_rebalances_it_goes_on");
    let mut kept = Healing::new(|config| {
        for n in [0, 2] {
            config.backends[n].more.push("quota = \"40 MiB\"".into());
        }
        config.backends[2].more.push(PACE.into());
        config.more.push_str(
            "[worker.rebalancer]\nenabled = true\ninterval = \"1 s\"\nconcurrency = 2\n\
             strategy = \"spread\"\nthreshold = 0.01\n",
        );
    });
    kept.said(&["worker", "pause", "rebalancer"]);
    kept.wish(1);
    put_many(&mut kept);
    assert_eq!(many(&kept, "disk1"), OBJECTS);
    kept.said(&["worker", "resume", "rebalancer"]);
    // What is written meanwhile goes to the first as well, so a few more than half will move.
    let moves = OBJECTS / 2 - 2;
    kill_meanwhile(&mut kept, &mut rng, |kept| moves.saturating_sub(many(kept, "disk2")));
    kept.pass("rebalancer");
    kept.is_whole("it was killed while it rebalanced");
    let shares = ["disk1", "disk2"].map(|name| {
        let used = kept.one(&["backend", "list"], name)["used"].as_f64();
        used.expect("a number") / f64::from(40 << 20)
    });
    assert!((shares[0] - shares[1]).abs() <= 0.01, "{shares:?}");
    assert_eq!(kept.pass("rebalancer")["processed"], 0, "there is nothing left to move");
}

#[test]
fn killed_while_it_drains_it_goes_on() {
    let mut rng = seeded("killed_while_it_drains_it_goes_on");
    let mut kept = Healing::new(|config| config.backends[2].more.push(PACE.into()));
    put_many(&mut kept);
    assert_eq!((many(&kept, "disk1"), many(&kept, "disk2")), (OBJECTS, 0));
    kept.said(&["backend", "drain", "disk1"]);
    kill_meanwhile(&mut kept, &mut rng, |kept| many(kept, "disk1"));
    kept.pass("drain");
    kept.is_whole("it was killed while it drained");
    assert_eq!(kept.files("disk1").len(), 0);
    kept.said(&["backend", "remove", "disk1"]);
    kept.leaves_out("disk1");
    kept.is_whole("without the backend that was drained");
}

#[test]
fn killed_while_it_scrubs_it_goes_on() {
    let mut rng = seeded("killed_while_it_scrubs_it_goes_on");
    let mut kept = Healing::new(|config| {
        config.more.push_str(
            "[worker.scrubber]\npass = \"1 h\"\ninterval = \"1 s\"\nbatch = 4\nconcurrency = 2\nrate = \"2 MiB/s\"\n",
        );
    });
    kept.said(&["worker", "pause", "scrubber"]);
    put_many(&mut kept);
    // Readers take the disk, so nobody else meets what is wrong with these.
    let rotten = kept.files("cloud");
    assert_eq!(rotten.len(), OBJECTS);
    rotten.iter().for_each(rot);
    kept.said(&["worker", "resume", "scrubber"]);
    let pass = |kept: &Healing| {
        let states = kept.said(&["scrub", "--status"]);
        let states = states.as_array().expect("a list").iter();
        states.clone().find(|state| state["backend"] == "cloud").expect("it is there").clone()
    };
    kept.until_nothing("it has begun", || {
        let pass = pass(&kept);
        (pass["done"] == 0).then(|| pass.to_string())
    });
    let began = pass(&kept)["began"].clone();
    let left = |_: &Healing| rotten.iter().filter(|file| file.exists()).count();
    kill_meanwhile(&mut kept, &mut rng, left);
    kept.until_nothing("the pass comes to its end", || {
        let pass = pass(&kept);
        (pass["over"] != true).then(|| pass.to_string())
    });
    assert_eq!(pass(&kept)["began"], began, "it is still the same pass");
    kept.heals("it was killed while it scrubbed");
    kept.is_whole("it was killed while it scrubbed");
    assert!(rotten.iter().all(|file| !file.exists()), "the bad ones are gone");
    let (found, is_well) = scrub(&kept);
    assert!(is_well && found["broken"] == json!([]), "{found}");
}

/// Files that a survey of the first directory has listed so far, while one is on its way.
fn listed(kept: &Healing) -> Option<usize> {
    let reconciler = kept.one(&["worker", "list"], "reconciler");
    let files = reconciler["position"].as_str()?.strip_prefix("disk1: ")?.strip_suffix(" files")?;
    files.parse().ok().filter(|files| (1..NOTES).contains(files))
}

#[test]
fn killed_while_it_reconciles_it_begins_anew_and_comes_to_its_end() {
    let mut rng = seeded("killed_while_it_reconciles_it_begins_anew_and_comes_to_its_end");
    let mut kept = Healing::new(|config| {
        config.more.push_str(
            "[worker.reconciler]\nbatch = 10\ninterval = \"1 s\"\nlocal_interval = \"1 s\"\n",
        );
    });
    kept.said(&["worker", "pause", "reconciler"]);
    put_many(&mut kept);
    let notes = kept.world.disk(1).join("notes");
    fs::create_dir(&notes).unwrap();
    (0..NOTES).for_each(|n| fs::write(notes.join(n.to_string()), "somebody else's").unwrap());
    // Of what is not Larder's any more it knows by a listing alone, and of what is gone as well.
    let mut lost = kept.files("disk1");
    lost.retain(|file| !file.starts_with(&notes));
    let name = lost[0].file_name().unwrap().to_string_lossy().into_owned();
    let last = if name.ends_with('0') { '1' } else { '0' };
    let debris = lost[0].with_file_name(format!("{}{last}", &name[..name.len() - 1]));
    fs::rename(&lost[0], &debris).unwrap();
    lost[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
    kept.said(&["worker", "resume", "reconciler"]);
    for kill in 1..=kills() {
        let made = many(&kept, "disk1") + many(&kept, "disk2");
        kept.until_nothing("it goes on", || {
            let now = many(&kept, "disk1") + many(&kept, "disk2");
            // In the middle of a listing; and when the first that are gone were found to be.
            let is_time = match kill % 2 {
                1 => listed(&kept).is_some(),
                _ => now > made.min(OBJECTS),
            };
            (!is_time).then(|| format!("{now} files"))
        });
        (0..rng.below(5)).for_each(|_| pause());
        kept.world.kill();
        kept.world.verify();
        kept.world.start();
        kept.put(&format!("after kill {kill}"), 1000 * kill);
    }
    let found = kept.said(&["reconcile"]);
    assert_eq!((&found["counts"]["backends"], &found["failed"]), (&json!(3), &json!(0)), "{found}");
    kept.heals("it was killed while it reconciled");
    let queue = kept.said(&["cleanup", "list", "--all"]);
    let items = queue["items"].as_array().expect("a list").iter();
    assert_eq!(items.filter(|item| item["reason"] == "debris").count(), 1, "{queue}");
    assert!(debris.exists(), "it is kept for a week");
    fs::remove_file(debris).unwrap();
    assert_eq!(fs::read_dir(&notes).unwrap().count(), NOTES, "they are somebody else's");
    fs::remove_dir_all(notes).unwrap();
    kept.is_whole("it was killed while it reconciled");
}
