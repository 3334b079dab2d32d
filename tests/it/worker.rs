//! The operator's hand on background work: with a server and without one, the same commands.

use serde_json::{Value, json};

use crate::world::World;

/// What a command that succeeds says with `--json`.
#[track_caller]
fn said(world: &World, args: &[&str]) -> Value {
    let ran = world.run(&[args, &["--json"]].concat());
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    serde_json::from_str(&ran.stdout).expect(&ran.stdout)
}

/// What a command that fails says.
#[track_caller]
fn refused(world: &World, args: &[&str]) -> Value {
    let ran = world.run(&[args, &["--json"]].concat());
    assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
    serde_json::from_str(&ran.stdout).expect(&ran.stdout)
}

#[track_caller]
fn cleanup(world: &World) -> Value {
    let list = said(world, &["worker", "list"]);
    let workers = list.as_array().expect("a list");
    workers.iter().find(|worker| worker["name"] == "cleanup").expect("it is there").clone()
}

#[test]
fn a_paused_worker_rests_over_restarts_and_a_manual_run_works_all_the_same() {
    let mut world = World::new();
    world.s3().create_bucket("photos");
    world.wait("cleanup is idle", |world| cleanup(world)["state"] == "idle");
    assert_eq!(said(&world, &["worker", "pause", "cleanup"]), json!({ "paused": ["cleanup"] }));
    for key in ["a", "b"] {
        world.s3().put("photos", key, b"bytes").send().expect(200);
        world.s3().delete("photos", key).send().expect(204);
    }
    world.restart();
    assert_eq!(cleanup(&world)["state"], "paused");
    assert_eq!(world.files(1).len(), 2, "nobody deletes them");
    let waiting = said(&world, &["cleanup", "list", "--all"]);
    let item = &waiting["items"][0];
    assert_eq!((&item["backend"], &item["size"]), (&json!("disk1"), &json!(5)), "{item}");
    assert_eq!((&item["reason"], &item["parked"]), (&json!("deleted"), &json!(false)), "{item}");
    assert_eq!(said(&world, &["cleanup", "list"]), json!({ "items": [], "more": false }));
    let id = item["id"].as_str().expect("a text");
    assert_eq!(refused(&world, &["cleanup", "retry", id]), json!({ "retried": 0 }));
    assert_eq!(refused(&world, &["cleanup", "forget", id, "--yes"]), json!({ "forgotten": 0 }));

    let rests = refused(&world, &["worker", "run", "cleanup"]);
    assert_eq!(rests["error"]["code"], "worker_rests");
    let totals = said(&world, &["worker", "run", "cleanup", "--wait"]);
    assert_eq!((&totals["processed"], &totals["failed"]), (&json!(2), &json!(0)), "{totals}");
    assert_eq!(totals["counts"], json!({ "deleted": 2 }));
    assert!(world.files(1).is_empty());
    assert_eq!(cleanup(&world)["processed"], 2);

    assert_eq!(said(&world, &["worker", "resume", "all"])["resumed"][0], "cleanup");
    world.s3().put("photos", "c", b"bytes").send().expect(200);
    world.s3().delete("photos", "c").send().expect(204);
    world.wait_files(&[0]);
    assert_eq!(said(&world, &["worker", "run", "cleanup"]), json!({ "woken": "cleanup" }));
}

#[test]
fn without_a_server_the_commands_do_the_same() {
    let mut world = World::new();
    world.s3().create_bucket("photos");
    world.s3().put("photos", "kept", b"bytes").send().expect(200);
    said(&world, &["worker", "pause", "all"]);
    world.s3().put("photos", "gone", b"bytes").send().expect(200);
    world.s3().delete("photos", "gone").send().expect(204);
    world.stop();
    assert_eq!(cleanup(&world)["state"], "paused");
    assert_eq!(said(&world, &["worker", "resume", "cleanup"]), json!({ "resumed": ["cleanup"] }));
    assert_eq!(cleanup(&world)["state"], "stopped");
    assert_eq!(said(&world, &["cleanup", "list", "--all"])["items"][0]["size"], 5);
    // Nobody could be woken, so it is a full pass.
    let ran = world.run(&["worker", "run", "cleanup"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "cleanup: 1 processed, 0 failed, in 1 step\n  deleted: 1\n");
    assert_eq!(world.files(1).len(), 1);
    world.start();
    world.wait("cleanup is idle", |world| cleanup(world)["state"] == "idle");
    let err = refused(&world, &["worker", "run", "brewer"]);
    assert_eq!(err["error"]["code"], "no_such_worker");
    assert!(err["error"]["hint"].as_str().is_some_and(|hint| hint.contains("cleanup")), "{err}");
}

#[test]
fn a_worker_is_switched_off_and_on_by_a_reload() {
    let mut world = World::new();
    world.s3().create_bucket("photos");
    world.config.more = "[worker.cleanup]\nenabled = false\n".into();
    world.replace_config();
    world.wait("cleanup is off", |world| cleanup(world)["state"] == "off");
    world.s3().put("photos", "k", b"bytes").send().expect(200);
    world.s3().delete("photos", "k").send().expect(204);
    assert_eq!(world.files(1).len(), 1);
    world.config.more = "[worker.cleanup]\nbatch = 1\n".into();
    world.replace_config();
    world.wait_files(&[0]);
}

#[test]
fn an_object_is_shown_with_the_places_of_its_bytes() {
    let mut world = World::over(2);
    world.s3().create_bucket("photos");
    world.s3().put("photos", "a/b c", b"bytes").send().expect(200);
    world.wait_files(&[1, 1]);
    for is_served in [true, false] {
        let object = said(&world, &["object", "show", "photos", "a/b c"]);
        assert_eq!((&object["size"], &object["key"]), (&json!(5), &json!("a/b c")));
        let blob = &object["blobs"][0];
        assert_eq!((&blob["replicas_wished"], &blob["why"]), (&json!(2), &Value::Null), "{blob}");
        let mut backends = Vec::new();
        for replica in blob["replicas"].as_array().expect("a list") {
            assert_eq!((&replica["state"], &replica["present"]), (&json!("good"), &json!(true)));
            let name = replica["backend"].as_str().expect("a text").to_owned();
            let n = if name == "disk1" { 1 } else { 2 };
            let path = world.disk(n).join(replica["path"].as_str().expect("a text"));
            assert_eq!(std::fs::read(path).expect("it is there"), b"bytes");
            backends.push(name);
        }
        backends.sort();
        assert_eq!(backends, ["disk1", "disk2"]);
        assert_eq!(
            refused(&world, &["object", "show", "photos", "nothing"])["error"]["code"],
            "no_such_object"
        );
        if is_served {
            world.stop();
        }
    }
}
