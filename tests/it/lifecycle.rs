//! Lifecycle rules: the same ones by S3 calls, in the configuration and on the command line.

use serde_json::Value;

use crate::signer::S3;
use crate::wire::Response;
use crate::wire::fields;
use crate::world::Key;
use crate::world::World;

fn put(s3: &S3, bucket: &str, rules: &str) -> Response {
    let body = format!(
        "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}\
         </LifecycleConfiguration>"
    );
    s3.bucket("PUT", bucket).query("lifecycle").body(body).md5().send()
}

fn get(s3: &S3, bucket: &str) -> Response {
    s3.bucket("GET", bucket).query("lifecycle").send()
}

fn rule(inside: &str) -> String {
    format!("<Rule><ID>r</ID><Status>Enabled</Status>{inside}</Rule>")
}

/// What the command line prints of a bucket's rules.
#[track_caller]
fn shown(world: &World, args: &[&str]) -> Value {
    let mut line = vec!["bucket", "lifecycle"];
    line.extend(args);
    line.push("--json");
    let ran = world.run(&line);
    assert_eq!(ran.code, Some(0), "{line:?}: {}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn rules_are_put_read_and_deleted() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("plain");
    get(&s3, "plain").expect_error(404, "NoSuchLifecycleConfiguration");
    let rules = "<Rule><ID>logs</ID><Filter><And><Prefix>logs/</Prefix><Tag><Key>k</Key>\
        <Value>v</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>\
        <Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule>\
        <Rule><Filter/><Status>Disabled</Status><Expiration>\
        <Date>2027-01-01T00:00:00.000Z</Date></Expiration><AbortIncompleteMultipartUpload>\
        <DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>";
    put(&s3, "plain", rules).expect(200);
    let check = |s3: &S3| {
        let got = get(s3, "plain").expect(200);
        let found = got.blocks("Rule");
        assert_eq!(found.len(), 2, "{}", got.short());
        let [first, second] = &found[..] else { unreachable!() };
        let one = |rule: &str, tag: &str| fields(rule, tag).join(",");
        assert_eq!(one(first, "ID"), "logs");
        assert_eq!((one(first, "Prefix"), one(first, "Days")), ("logs/".into(), "30".into()));
        assert_eq!((one(first, "Key"), one(first, "Value")), ("k".into(), "v".into()));
        assert_eq!(one(first, "ObjectSizeGreaterThan"), "5");
        assert_eq!(
            (one(first, "Status"), one(second, "Status")),
            ("Enabled".into(), "Disabled".into())
        );
        assert!(!one(second, "ID").is_empty() && one(second, "Prefix").is_empty());
        assert!(one(second, "Date").starts_with("2027-01-01T00:00:00"), "{second}");
        assert_eq!(one(second, "DaysAfterInitiation"), "7");
    };
    check(&s3);
    world.restart();
    check(&world.s3());

    // What was read can be put again, and replaces what was there.
    let again = get(&s3, "plain").text();
    let body = again.split_once("?>").map_or(again.as_str(), |(_, body)| body);
    s3.bucket("PUT", "plain").query("lifecycle").body(body).send().expect(200);
    check(&s3);
    put(&s3, "plain", &rule("<Prefix>tmp&amp;%_/</Prefix><Expiration><Days>1</Days></Expiration>"))
        .expect(200);
    let got = get(&s3, "plain").expect(200);
    assert_eq!(got.blocks("Filter"), ["<Prefix>tmp&amp;%_/</Prefix>"], "{}", got.short());
    for _ in 0..2 {
        s3.bucket("DELETE", "plain").query("lifecycle").send().expect(204);
        get(&s3, "plain").expect_error(404, "NoSuchLifecycleConfiguration");
    }
    for method in ["GET", "DELETE"] {
        let got = s3.bucket(method, "nowhere").query("lifecycle").send();
        got.expect_error(404, "NoSuchBucket");
    }
    put(&s3, "nowhere", rules).expect_error(404, "NoSuchBucket");
    s3.bucket("DELETE", "plain").send().expect(204);
    world.stop();
    world.verify();
}

#[test]
fn rules_that_would_not_do_what_they_say_are_refused() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("plain");
    let kept =
        rule("<Filter><Prefix>kept/</Prefix></Filter><Expiration><Days>9</Days></Expiration>");
    put(&s3, "plain", &kept).expect(200);
    let days = "<Expiration><Days>1</Days></Expiration>";
    let abort = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>\
        </AbortIncompleteMultipartUpload>";
    let tag = "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>";
    let all = "<Filter/>";
    let table = [
        (
            format!(
                "{all}<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"
            ),
            501,
            "NotImplemented",
            "Transition",
        ),
        (
            format!(
                "{all}<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>"
            ),
            501,
            "NotImplemented",
            "NoncurrentVersionExpiration",
        ),
        (
            format!(
                "{all}<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
            ),
            501,
            "NotImplemented",
            "ExpiredObjectDeleteMarker",
        ),
        (format!("{tag}{abort}"), 400, "InvalidRequest", "uploads do not have"),
        (all.to_owned(), 400, "InvalidRequest", "do something"),
        (days.to_owned(), 400, "InvalidRequest", "Filter"),
        (format!("{all}<Prefix>a</Prefix>{days}"), 400, "InvalidRequest", "not both"),
        (format!("{all}<Expiration><Days>0</Days></Expiration>"), 400, "InvalidArgument", "days"),
        (
            format!("{all}<Expiration><Date>2027-01-01T01:00:00Z</Date></Expiration>"),
            400,
            "InvalidArgument",
            "midnight",
        ),
        (format!("{all}<Expiration><Days>x</Days></Expiration>"), 400, "MalformedXML", ""),
        (format!("{all}{days}<Unknown/>"), 400, "MalformedXML", ""),
        (format!("{all}{days}</Rule><Rule>"), 400, "MalformedXML", ""),
    ];
    for (inside, status, code, why) in table {
        let got = put(&s3, "plain", &rule(&inside)).expect_error(status, code);
        assert!(got.xml("Message").unwrap().contains(why), "{}", got.short());
    }
    let twice = rule(&format!("{all}{days}")).repeat(2);
    put(&s3, "plain", &twice).expect_error(400, "InvalidArgument");
    put(&s3, "plain", "").expect_error(400, "MalformedXML");
    s3.bucket("PUT", "plain").query("lifecycle").send().expect_error(400, "MalformedXML");
    let got = get(&s3, "plain").expect(200);
    assert_eq!(fields(&got.text(), "Prefix"), ["kept/"], "nothing was changed");
}

#[test]
fn only_who_may_change_a_bucket_sets_its_rules() {
    let mut world = World::cold(1);
    let (writer, admin) = (Key::random(), Key::random());
    world.config.keys.push(writer.clone().allow(
        "plain",
        "",
        "\"read\", \"list\", \"create\", \"write\", \"delete\"",
    ));
    world.config.keys.push(admin.clone().allow("plain", "", "\"admin\""));
    world.start();
    world.s3().create_bucket("plain");
    let (writer, admin) = (world.s3_as(&writer.creds), world.s3_as(&admin.creds));
    let rule = rule("<Filter/><Expiration><Days>9</Days></Expiration>");
    put(&writer, "plain", &rule).expect_error(403, "AccessDenied");
    put(&admin, "plain", &rule).expect(200);
    get(&writer, "plain").expect(200);
    let delete = |s3: &S3| s3.bucket("DELETE", "plain").query("lifecycle").send();
    delete(&writer).expect_error(403, "AccessDenied");
    delete(&admin).expect(204);
}

#[test]
fn the_command_line_and_s3_speak_of_the_same_rules() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("plain");
    let added = shown(&world, &["add", "plain", "--prefix", "tmp/", "--expire-after", "30 d"]);
    let id = added["lifecycle"][0]["id"].as_str().unwrap().to_owned();
    let got = get(&s3, "plain").expect(200);
    assert_eq!((got.xml("ID"), got.xml("Days").as_deref()), (Some(id.clone()), Some("30")));
    put(&s3, "plain", &rule("<Filter/><Expiration><Days>2</Days></Expiration>")).expect(200);
    let file = world.dir().join("rules.json");
    let by_s3 = shown(&world, &["show", "plain"]);
    assert_eq!(by_s3["lifecycle"][0]["expire_after"], "2 d");
    std::fs::write(&file, by_s3.to_string()).unwrap();
    shown(&world, &["delete", "plain", "r"]);
    get(&s3, "plain").expect_error(404, "NoSuchLifecycleConfiguration");

    // And without a server.
    world.stop();
    let file = file.to_str().unwrap();
    assert_eq!(shown(&world, &["set", "plain", file]), by_s3);
    let ran = world.run(&["bucket", "lifecycle", "show", "plain"]);
    assert!(ran.stdout.contains("after 2 d"), "{}", ran.stdout);
    let ran = world.run(&["bucket", "lifecycle", "add", "plain", "--expire-after", "1 h"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("whole number of days"), "{}", ran.stderr);
    world.start();
    let got = get(&world.s3(), "plain").expect(200);
    assert_eq!(got.xml("Days").as_deref(), Some("2"));
}

#[test]
fn declared_rules_are_the_configuration_s_own() {
    let declared = |rules: &str| format!("name = \"declared\"\nlifecycle = {rules}");
    let mut world = World::with(1, |config| {
        config
            .buckets
            .push(declared("[{ id = \"tmp\", prefix = \"tmp/\", expire_after = \"3 d\" }]"));
    });
    let s3 = world.s3();
    let got = get(&s3, "declared").expect(200);
    assert_eq!((got.xml("ID").as_deref(), got.xml("Days").as_deref()), (Some("tmp"), Some("3")));
    let other = rule("<Filter/><Expiration><Days>2</Days></Expiration>");
    put(&s3, "declared", &other).expect_error(409, "InvalidBucketState");
    let delete = || s3.bucket("DELETE", "declared").query("lifecycle").send();
    delete().expect_error(409, "InvalidBucketState");
    assert_eq!(shown(&world, &["show", "declared"])["declared"], true);
    let ran = world.run(&["bucket", "lifecycle", "delete", "declared"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("configuration"), "{}", ran.stderr);

    world.config.buckets[0] = declared("[{ expire_on = \"2030-01-01\" }]");
    world.replace_config();
    world.wait("the new rule holds", |_| get(&s3, "declared").text().contains("2030-01-01"));
    world.config.buckets[0] = declared("[]");
    world.replace_config();
    world.wait("the rule is gone", |_| get(&s3, "declared").status == 404);
    put(&s3, "declared", &other).expect(200);
}
