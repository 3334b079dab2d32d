//! Files that lie on a backend become objects where they are, and stay their owner's.

use std::fs;

use serde_json::Value;

use crate::world::World;

/// `larder ARGS --json`, which must end with `code`.
#[track_caller]
fn run(world: &World, args: &[&str], code: i32) -> Value {
    let ran = world.run(&[args, &["--json"]].concat());
    assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
    serde_json::from_str(&ran.stdout).expect(&ran.stdout)
}

fn lay(world: &World, path: &str, bytes: &[u8]) {
    let file = world.disk(1).join(path);
    fs::create_dir_all(file.parent().expect("it is in a directory")).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_directory_is_imported_with_and_without_a_server_and_no_file_of_it_is_touched() {
    let mut world = World::with(1, |_| {});
    let s3 = world.s3();
    s3.create_bucket("photos");
    lay(&world, "Pictures/2024/a.jpg", b"one");
    lay(&world, "Pictures/2025/b.jpg", b"two");
    let import = ["import", "disk1", "photos", "--strip", "Pictures", "--prefix"];
    let import = |dir: &'static str| [&import[..], &[dir]].concat();
    let dry = [&import("Pictures/2024")[..], &["--dry-run"]].concat();
    assert_eq!(run(&world, &dry, 0)["imported"], 1);
    s3.get("photos", "2024/a.jpg").send().expect_error(404, "NoSuchKey");
    assert_eq!(run(&world, &import("Pictures/2024"), 0)["imported"], 1);
    assert_eq!(s3.read("photos", "2024/a.jpg"), b"one");
    let head = s3.head("photos", "2024/a.jpg").send().expect(200);
    assert_eq!(head.header("content-type"), Some("image/jpeg"));
    assert!(head.header("etag").is_some_and(|etag| etag.ends_with("-1\"")), "{}", head.short());
    run(&world, &["import", "nowhere", "photos"], 1);
    run(&world, &["import", "disk1", "nobody"], 1);
    world.stop();
    assert_eq!(run(&world, &import("Pictures"), 0)["imported"], 1);
    world.start();
    let s3 = world.s3();
    assert_eq!(s3.read("photos", "2025/b.jpg"), b"two");
    s3.delete("photos", "2024/a.jpg").send().expect(204);
    let again = run(&world, &import("Pictures"), 0);
    assert_eq!((&again["imported"], &again["suppressed"]), (&0.into(), &1.into()));
    assert_eq!(fs::read(world.disk(1).join("Pictures/2024/a.jpg")).unwrap(), b"one");
}

#[test]
fn reconciling_tells_what_was_found_and_imports_where_a_bucket_asks_for_it() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("photos");
    s3.put("photos", "own", "bytes").send().expect(200);
    lay(&world, "photos/a.txt", b"one");
    let found = run(&world, &["reconcile"], 0);
    assert_eq!(found["counts"]["skipped"], 1, "{found}");
    assert_eq!(run(&world, &["bucket", "set", "photos", "--import", "import"], 0)["imports"], true);
    let found = run(&world, &["reconcile", "disk1"], 0);
    assert_eq!((&found["counts"]["imported"], &found["failed"]), (&1.into(), &0.into()), "{found}");
    assert_eq!(s3.read("photos", "a.txt"), b"one");
    fs::remove_file(world.disk(1).join("photos/a.txt")).unwrap();
    assert_eq!(run(&world, &["reconcile"], 0)["counts"]["removed"], 1);
    world.expect_errors();
    s3.get("photos", "a.txt").send().expect_error(503, "ServiceUnavailable");
    run(&world, &["reconcile", "nowhere"], 1);
}
