//! Backends that are emptied and leave: with what they hold, and never with the only copy of it.

use serde_json::{Value, json};

use crate::heal::{Healing, PACE};

/// Objects of one blob each, so many that a drain takes its time.
const OBJECTS: usize = 30;
const SIZE: usize = 150 << 10;

/// What is said when a configuration leaves out a backend that is in use.
const HAS_ROWS: &str = "`larder backend drain disk1` and `larder backend remove disk1`";

/// All lie on the first directory and on the server; the second directory takes its time.
fn filled() -> Healing {
    let mut kept = Healing::new(|config| config.backends[2].more.push(PACE.into()));
    (0..OBJECTS).for_each(|n| kept.put(&format!("many/{n}"), SIZE + n));
    kept.is_whole("at first");
    assert_eq!(lie(&kept), [OBJECTS, OBJECTS, 0]);
    kept
}

fn lie(kept: &Healing) -> [usize; 3] {
    ["disk1", "cloud", "disk2"].map(|name| kept.files(name).len())
}

/// What the list of backends says of a drain; `None` when there is none.
fn drain(kept: &Healing, name: &str) -> Option<Value> {
    let backend = kept.one(&["backend", "list"], name);
    backend.get("drain").filter(|drain| !drain.is_null()).cloned()
}

/// What a command that is refused says.
#[track_caller]
fn refused(kept: &Healing, args: &[&str]) -> Value {
    let ran = kept.ran(args);
    assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
    let said: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    said["error"].clone()
}

#[test]
fn a_drained_backend_is_seen_to_empty_and_leaves() {
    let mut kept = filled();
    let begun = kept.said(&["backend", "drain", "disk1"]);
    assert_eq!((&begun["draining"], &begun["backend"]), (&json!(true), &json!("disk1")));
    assert_eq!(kept.one(&["backend", "list"], "disk1")["duty"], "draining");
    kept.until_nothing("the list shows how far it is", || {
        let drain = drain(&kept, "disk1").expect("it is being emptied");
        let at_begin = drain["bytes_at_begin"].as_u64().expect("a number");
        let bytes = drain["bytes"].as_u64().expect("a number");
        let is_midway = 0 < bytes && bytes < at_begin && drain["seconds_left"].is_u64();
        (!is_midway).then(|| drain.to_string())
    });
    // What is written meanwhile goes elsewhere, and what is there is read.
    kept.put_all("new");
    kept.all_read();
    kept.until_nothing("it is empty", || {
        let drain = drain(&kept, "disk1").expect("it is being emptied");
        (drain["rows"] != 0).then(|| drain.to_string())
    });
    assert!(drain(&kept, "disk1").is_some_and(|drain| drain["stuck"] == json!({})));
    kept.is_whole("it was drained");
    assert_eq!(lie(&kept)[0], 0);
    let worker = kept.one(&["worker", "list"], "drain");
    assert!(worker["processed"].as_u64() >= Some(OBJECTS as u64), "{worker}");
    let removed = kept.said(&["backend", "remove", "disk1"]);
    assert_eq!((&removed["replicas"], &removed["lost"]), (&json!(0), &json!(0)));
    kept.leaves_out("disk1");
    kept.is_whole("it has left");
    kept.world.restart();
    kept.is_whole("it has left for good");
}

#[test]
fn a_drain_that_is_taken_back_leaves_what_has_not_left() {
    let kept = filled();
    kept.said(&["backend", "drain", "disk1"]);
    kept.until_nothing("some have left", || {
        let lie = lie(&kept);
        (lie[0] == OBJECTS).then(|| format!("{lie:?}"))
    });
    let back = kept.said(&["backend", "undrain", "disk1"]);
    assert_eq!(back["draining"], false);
    kept.heals("what had not left counts again");
    kept.is_whole("the drain was taken back");
    let [disk1, cloud, disk2] = lie(&kept);
    assert!(0 < disk1 && disk1 < OBJECTS, "{disk1} stay");
    assert_eq!((cloud, disk1 + disk2), (OBJECTS, OBJECTS));
    let backend = kept.one(&["backend", "list"], "disk1");
    assert_eq!((&backend["duty"], backend.get("drain")), (&json!("in use"), None));
}

#[test]
fn the_only_copy_keeps_its_backend_from_being_removed() {
    let mut kept = Healing::new(|_| ());
    kept.wish(1);
    kept.put_all("a");
    assert_eq!(lie(&kept), [6, 0, 0]);
    for args in [&["backend", "remove", "disk1"][..], &["backend", "remove", "disk1", "--purge"]] {
        let error = refused(&kept, args);
        assert_eq!(error["code"], "sole_replicas", "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("6 blobs")), "{error}");
    }
    // Nor can it be left out of the configuration.
    let first = kept.world.config.backends.remove(0);
    kept.world.replace_config();
    kept.world.wait("the reload is refused", |world| world.log().contains(HAS_ROWS));
    kept.world.config.backends.insert(0, first);
    kept.world.replace_config();
    kept.is_whole("it was refused");
    assert_eq!(lie(&kept), [6, 0, 0]);
}

#[test]
fn what_cannot_leave_is_told_with_the_reason_until_it_can() {
    let mut late = None;
    let mut kept = Healing::new(|config| late = config.backends.pop());
    kept.put_all("a");
    kept.is_whole("at first");
    kept.said(&["backend", "drain", "disk1"]);
    kept.until_nothing("it is told why they stay", || {
        let drain = drain(&kept, "disk1").expect("it is being emptied");
        let stuck = drain["stuck"].as_object().expect("a table");
        let is_told = stuck.len() == 1 && stuck.values().all(|number| *number == 6);
        (!is_told).then(|| drain.to_string())
    });
    kept.all_read();
    let worker = kept.one(&["worker", "list"], "drain");
    assert_eq!(worker["state"], "waiting", "it does not try again and again: {worker}");
    // A place for them joins: nobody has to say anything more.
    kept.world.config.backends.push(late.expect("the last of them"));
    kept.world.replace_config();
    kept.until_nothing("it is empty", || {
        let drain = drain(&kept, "disk1").expect("it is being emptied");
        (drain["rows"] != 0).then(|| drain.to_string())
    });
    kept.is_whole("it was drained");
    assert_eq!(lie(&kept), [0, 6, 6]);
}

/// The word with which a refused removal is confirmed.
#[track_caller]
fn word(error: &Value) -> String {
    let hint = error["hint"].as_str().expect("a hint");
    let mut words = hint.split_whitespace().skip_while(|word| *word != "--confirm");
    words.nth(1).expect("a word after it").to_owned()
}

#[test]
fn a_backend_is_purged_only_after_a_second_word() {
    let mut kept = filled();
    let purge = ["backend", "remove", "disk1", "--purge"];
    let error = refused(&kept, &purge);
    assert_eq!(error["code"], "confirm", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("30 replicas")), "{error}");
    assert_eq!(refused(&kept, &[&purge[..], &["--confirm", "1-23"]].concat())["code"], "confirm");
    assert_eq!(lie(&kept), [OBJECTS, OBJECTS, 0], "nothing happened");
    let removed = kept.said(&[&purge[..], &["--confirm", &word(&error)]].concat());
    let told = (&removed["replicas"], &removed["lost"], &removed["purge"]);
    assert_eq!(told, (&json!(OBJECTS), &json!(0), &json!(true)));
    kept.is_whole("what was purged is made anew elsewhere");
    assert_eq!(lie(&kept), [0, OBJECTS, OBJECTS]);
    kept.until_nothing("it has no rows left", || {
        let backend = kept.one(&["backend", "list"], "disk1");
        (backend["rows"] != 0).then(|| backend.to_string())
    });
    kept.leaves_out("disk1");
    kept.is_whole("it has left");
}

#[test]
fn a_removal_with_the_only_copies_is_confirmed_and_can_be_taken_back() {
    let mut kept = Healing::new(|_| ());
    kept.wish(1);
    kept.put_all("a");
    // Else some of it would be moved at the last moment.
    kept.said(&["worker", "pause", "all"]);
    let remove = ["backend", "remove", "disk1"];
    let error = refused(&kept, &remove);
    let removed = kept.said(&[&remove[..], &["--confirm", &word(&error)]].concat());
    assert_eq!((&removed["lost"], &removed["purge"]), (&json!(6), &json!(false)));
    assert_eq!(lie(&kept), [6, 0, 0], "the bytes stay");
    let first = kept.world.config.backends[0].clone();
    kept.world.config.backends.remove(0);
    kept.world.replace_config();
    // What it alone has keeps it in the list.
    is_state(&kept, "absent");
    let s3 = kept.world.s3();
    s3.get(crate::heal::BUCKET, "a/100").send().expect_error(503, "ServiceUnavailable");
    s3.head(crate::heal::BUCKET, "a/100").send().expect(200);
    // Its owner finds out what was on it.
    kept.world.config.backends.insert(0, first);
    kept.world.replace_config();
    is_state(&kept, "present");
    kept.said(&["worker", "resume", "all"]);
    kept.said(&["backend", "undrain", "disk1"]);
    kept.heals("the removal was taken back");
    kept.is_whole("the removal was taken back");
}

/// Waits until the list says this of the first directory.
#[track_caller]
fn is_state(kept: &Healing, state: &str) {
    kept.until_nothing(&format!("it is {state}"), || {
        let backend = kept.one(&["backend", "list"], "disk1");
        (backend["state"] != state).then(|| backend.to_string())
    });
}
