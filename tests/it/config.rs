//! What the operator may write, and what is said when it is wrong.

use std::fs;

use crate::world::{World, free_port, get, local, run_larder};

/// Writes `text` and tries to serve it; it must end with code 3 and name `places` and `words`.
#[track_caller]
fn refused(text: &str, places: &[(usize, usize)], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.toml");
    let text = text.replace("$DIR", &dir.path().to_string_lossy());
    fs::write(&file, &text).unwrap();
    for command in ["serve", "check"] {
        let ran = run_larder(&file, &[command]);
        let said = format!("{}\n{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, Some(3), "`{command}` on:\n{text}\nsaid: {said}");
        for (line, column) in places {
            let place = format!("{line}:{column}");
            assert!(said.contains(&place), "no {place} in: {said}\nof:\n{text}");
        }
        for word in words {
            assert!(said.contains(word), "no `{word}` in: {said}");
        }
    }
    assert!(!dir.path().join("data").exists(), "nothing starts");
}

/// A file that is right, and then `more`.
fn right_and(more: &str) -> String {
    format!(
        "data_dir = \"$DIR/data\"\n[server]\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\n\
         [[backend]]\nname = \"disk1\"\nservice = \"fs\"\noptions = {{ root = \"$DIR/disk1\" }}\n{more}",
        free_port(),
        free_port()
    )
}

#[test]
fn a_right_file_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.toml");
    fs::write(&file, right_and("").replace("$DIR", &dir.path().to_string_lossy())).unwrap();
    let ran = run_larder(&file, &["check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn each_mistake_has_its_place() {
    // `right_and` has eight lines before what is added.
    let table: &[(&str, (usize, usize), &str)] = &[
        ("colour = \"red\"\n", (9, 1), "colour"),
        ("quota = 5\n", (9, 9), "quota"),
        ("quota = \"5 apples\"\n", (9, 9), "apples"),
        ("quota = \"-5 GB\"\n", (9, 9), ""),
        ("names = \"pretty\"\n", (9, 9), "readable"),
        ("blob_max_size = \"1 KiB\"\n", (9, 17), ""),
        ("[defaults]\nreplicas = 0\n", (10, 12), "replicas"),
        ("[defaults]\nreplicas = 17\n", (10, 12), "replicas"),
        ("[defaults]\nreplicas = \"two\"\n", (10, 12), ""),
        ("[defaults]\nreplicas = 1\nmin_replicas = 2\n", (11, 16), "min_replicas"),
        ("[defaults]\nrouting = \"random\"\n", (10, 11), "pack"),
        ("[defaults]\ntail_wait = 5\n", (10, 13), "s"),
        ("[defaults]\ntail_wait = \"soon\"\n", (10, 13), "soon"),
        ("[log]\nlevel = \"loud\"\n", (10, 9), "loud"),
        ("[log]\nformat = \"xml\"\n", (10, 10), "xml"),
        ("[[backend]]\nname = \"disk1\"\nservice = \"memory\"\n", (10, 8), "disk1"),
        ("[[backend]]\nname = \"x\"\nservice = \"floppy\"\n", (11, 11), "floppy"),
        ("[[backend]]\nname = \"\"\nservice = \"memory\"\n", (10, 8), ""),
        ("[[bucket]]\nname = \"Not Valid\"\n", (10, 8), ""),
        ("[[bucket]]\nname = \"abc\"\n[[bucket]]\nname = \"abc\"\n", (12, 8), "abc"),
        ("[[bucket]]\nname = \"abc\"\nreplicas = 99\n", (11, 12), ""),
        (
            "[[key]]\nid = \"K\"\nsecret = \"s\"\ngrants = [{ bucket = \"a\", preset = \"king\" }]\n",
            (12, 0),
            "king",
        ),
        (
            "[[key]]\nid = \"K\"\nsecret = \"s\"\ngrants = [{ bucket = \"a\", allow = [\"fly\"] }]\n",
            (12, 0),
            "fly",
        ),
        ("[[key]]\nid = \"K\"\n", (9, 0), "secret"),
        ("[timeouts]\nconnect = \"0 s\"\n", (10, 11), "connect"),
        ("profile = \"ocl\"\n", (9, 11), "oci"),
        ("[backend.limits]\nrequests_month = { d = 5 }\n", (10, 24), "class"),
        ("[backend.limits]\nbackground_share = 2\n", (10, 20), "background_share"),
        ("[backend.bandwidth]\nup = [\"1 KiB/s\"]\n", (10, 7), "64 KiB"),
        ("[breaker]\nfailures = 0\n", (10, 12), "1 to 1000"),
        ("[breaker]\nabsent_after = \"1 s\"\n", (10, 16), "60 s to"),
        ("[admission]\nreads = 0\n", (10, 9), "1 to 100000"),
        ("[rate_limit]\ntrusted_proxies = [\"me\"]\n", (10, 20), "me"),
        ("[profile.mine]\nday_begins = \"8:00\"\n", (10, 14), "08:00"),
        ("[wrokers]\nx = 1\n", (9, 0), "wrokers"),
    ];
    for (more, (line, column), word) in table {
        let text = right_and(more);
        if *column == 0 {
            let place = format!("{line}:");
            refused(&text, &[], &[word, place.as_str()]);
        } else {
            refused(&text, &[(*line, *column)], &[word]);
        }
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text =
        right_and("quota = 5\n[defaults]\nreplicas = 0\nunknown = true\n[log]\nlevel = \"loud\"\n");
    refused(&text, &[(9, 9), (11, 12), (12, 1), (14, 9)], &["quota", "unknown", "loud"]);
}

#[test]
fn what_is_no_toml_or_lacks_its_root_is_told() {
    refused("data_dir = \n", &[], &["1:"]);
    refused("[server]\nlisten = \"127.0.0.1:1\"\n", &[], &["data_dir"]);
    refused("data_dir = \"$DIR/data\"\n[server]\nlisten = \"nowhere\"\n", &[(3, 10)], &["listen"]);
    refused("data_dir = \"$DIR/data\"\n[server]\nregion = \"\"\n", &[], &["region"]);
}

#[test]
fn a_missing_file_is_a_mistake_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_larder(&dir.path().join("none.toml"), &["serve"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("none.toml"), "{ran:?}");
}

#[test]
fn words_that_are_no_command_are_usage() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["fly"][..], &["serve", "--fast"], &[]] {
        let ran = run_larder(&dir.path().join("none.toml"), args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
    }
    let ran = run_larder(&dir.path().join("none.toml"), &["version"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains(env!("CARGO_PKG_VERSION")), "{ran:?}");
}

#[test]
fn a_dollar_names_a_variable_and_two_are_one() {
    let mut world = World::cold(1);
    world.config.keys[0].creds.secret = "with$$dollar".into();
    world.start();
    let mut creds = world.config.keys[0].creds.clone();
    creds.secret = "with$dollar".into();
    world.s3_as(&creds).create_bucket("dollar");
    let text = right_and("[[key]]\nid = \"K\"\nsecret = \"${LARDER_TEST_NOT_SET}\"\n");
    refused(&text, &[(11, 10)], &["LARDER_TEST_NOT_SET"]);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let world = World::new();
    world.s3().create_bucket("first");
    let mut second = World::cold(1);
    second.config.data_dir = world.config.data_dir.clone();
    second.write_config();
    let ran = run_larder(&second.config_file(), &["serve"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    world.s3().put("first", "k", "x").send().expect(200);
}

#[test]
fn one_root_given_twice_is_refused() {
    let mut world = World::cold(1);
    let mut twin = world.new_backend(2);
    twin.options = world.config.backends[0].options.clone();
    world.config.backends.push(twin);
    world.write_config();
    let ran = run_larder(&world.config_file(), &["serve"]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("disk2"), "{said}");
    // One root inside another is the same mistake.
    let inside = world.disk(1).join("inside");
    world.config.backends[1].options = format!("root = {inside:?}");
    world.write_config();
    let ran = run_larder(&world.config_file(), &["serve"]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    world.config.backends.pop();
}

#[test]
fn a_taken_port_is_told() {
    let world = World::new();
    let mut second = World::cold(1);
    second.config.port = world.config.port;
    second.write_config();
    let ran = run_larder(&second.config_file(), &["serve"]);
    assert!(matches!(ran.code, Some(1 | 3 | 4)), "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains(&world.config.port.to_string()), "{said}");
}

#[test]
fn health_is_on_the_operators_port_only() {
    let world = World::new();
    let admin = local(world.config.admin_port);
    assert_eq!(get(admin, "/health/live"), Some(200));
    assert_eq!(get(admin, "/health/ready"), Some(200));
    assert_eq!(get(local(world.config.port), "/health/ready"), Some(403));
}

#[test]
fn a_refusal_is_json_when_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.toml");
    let right = right_and("").replace("$DIR", &dir.path().to_string_lossy());
    let wrong = format!("{right}colour = 1\n");
    for (text, args, exit, code) in [
        (&right, &["--json", "key", "list"][..], 1, "failed"),
        (&right, &["bucket", "create", "--json"], 2, "usage"),
        (&wrong, &["key", "list", "--json"], 3, "configuration"),
        (&wrong, &["serve", "--json"], 3, "configuration"),
    ] {
        fs::write(&file, text).unwrap();
        let ran = run_larder(&file, args);
        assert_eq!(ran.code, Some(exit), "{args:?} {ran:?}");
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
        assert_eq!(said["error"]["code"], code, "{args:?} {ran:?}");
        assert!(said["error"]["message"].is_string(), "{args:?} {ran:?}");
        assert_eq!(ran.stderr, "", "{args:?}");
    }
    // A mistake does not keep a server from being stopped, and here none runs.
    let ran = run_larder(&file, &["stop", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("was_running"), "{ran:?}");
}
