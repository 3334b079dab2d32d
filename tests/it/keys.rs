//! Keys keep every byte.

use std::collections::BTreeSet;

use crate::content::content;
use crate::objects::delete_many;
use crate::signer::{UNSIGNED, encode};
use crate::wire::{field, fields};
use crate::world::World;

/// Keys that a path, a URL, a pattern, XML or a file system would like to change.
const NASTY: &[&str] = &[
    "a",
    "a/",
    "a//b",
    "a/b",
    "a//",
    "/",
    "//",
    "/a",
    "//a",
    ".",
    "..",
    "./a",
    "../a",
    "a/./b",
    "a/../b",
    "a/..",
    "...",
    " ",
    " a",
    "a ",
    "a b",
    "a+b",
    "a%b",
    "a%20b",
    "a%2Fb",
    "%",
    "%00",
    "a#b",
    "a?b",
    "a?b=c&d",
    "a&b",
    "a=b",
    "a;b",
    "a:b",
    "C:\\x",
    "a\\b",
    "a\"b",
    "a'b",
    "a<b>",
    "a|b",
    "a*b",
    "a_b",
    "a^b`{}[]",
    "~",
    "a~1.0~XYZ",
    "A",
    "a/B",
    "con",
    "NUL.txt",
    "nul",
    ".larder",
    ".larder/x",
    "_",
    "_/aa/bb/x",
    "ü",
    "u\u{308}",
    "日本語/キー",
    "😀",
    "\u{202e}rtl",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\u{7f}",
    "tail.",
    "tail. ",
    "-",
    "--help",
    "$HOME",
    "${x}",
    "$(x)",
    "a,b",
    "@",
    "!",
    "(x)",
];

fn nasty() -> Vec<String> {
    let mut keys: Vec<String> = NASTY.iter().map(|&key| key.to_owned()).collect();
    keys.push("k".repeat(1024));
    keys.push("ü".repeat(512));
    keys.push("deep/".repeat(204));
    keys.push("x".repeat(255) + "/" + &"y".repeat(256));
    keys.push("%".repeat(900));
    keys
}

#[test]
fn nasty_keys_live_side_by_side_and_keep_every_byte() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("keys");
    let keys = nasty();
    let unique: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len());
    for (n, key) in keys.iter().enumerate() {
        let put = s3.put("keys", key, content(key, n as u64, 50 + n)).send();
        assert_eq!(put.status, 200, "{key:?}: {}", put.short());
    }
    for (n, key) in keys.iter().enumerate() {
        assert!(s3.read("keys", key) == content(key, n as u64, 50 + n), "{key:?}");
    }
    let list = s3.bucket("GET", "keys").query("list-type=2&encoding-type=url").send().expect(200);
    let listed: Vec<String> = list
        .blocks("Contents")
        .iter()
        .map(|block| crate::signer::decode(&field(block, "Key").unwrap().replace('+', "%20")))
        .collect();
    let want: Vec<&String> = unique.iter().copied().collect();
    assert_eq!(listed.iter().collect::<Vec<_>>(), want);
    world.restart();
    let s3 = world.s3();
    for (n, key) in keys.iter().enumerate() {
        assert!(s3.read("keys", key) == content(key, n as u64, 50 + n), "{key:?} after a restart");
        s3.copy(("keys", key), ("keys", "copied")).send().expect(200);
        assert!(s3.read("keys", "copied") == content(key, n as u64, 50 + n), "{key:?} copied");
        s3.delete("keys", key).send().expect(204);
        s3.head("keys", key).send().expect(404);
    }
    s3.delete("keys", "copied").send().expect(204);
    world.wait_files(&[0]);
}

#[test]
fn nasty_keys_pass_through_xml() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("keys");
    // XML 1.0 cannot carry these; a client asks for encoding-type=url then.
    let keys: Vec<String> =
        nasty().into_iter().filter(|key| !key.contains(['\r', '\n', '\t'])).collect();
    for key in &keys {
        s3.put("keys", key, "x").send().expect(200);
    }
    let got = s3.bucket("GET", "keys").query("list-type=2").send().expect(200);
    let listed: BTreeSet<String> =
        got.blocks("Contents").iter().map(|block| field(block, "Key").unwrap()).collect();
    assert_eq!(listed, keys.iter().cloned().collect());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let got = delete_many(&s3, "keys", &keys, true).expect(200);
    assert_eq!(fields(&got.text(), "Code"), [""; 0], "{}", got.short());
    let got = s3.bucket("GET", "keys").query("list-type=2").send().expect(200);
    assert_eq!(got.xml("KeyCount").as_deref(), Some("0"));
}

#[test]
fn characters_that_xml_would_change_come_by_number() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("keys");
    let key = "a\rb\u{1}c";
    s3.put("keys", key, "x\ry").header("content-type", "application/xml").send().expect(200);
    let written = "<Key>a&#xD;b&#x1;c</Key>";
    for query in ["list-type=2", "max-keys=5", "versions"] {
        let got = s3.bucket("GET", "keys").query(query).send().expect(200);
        assert!(got.text().contains(written), "{query}: {}", got.short());
    }
    let got = s3.object("POST", "keys", key).query("uploads").send().expect(200);
    assert!(got.text().contains(written), "{}", got.short());
    let got = s3.bucket("GET", "keys").query("uploads").send().expect(200);
    assert!(got.text().contains(written), "{}", got.short());
    // The bytes of an object are nobody's to change.
    assert_eq!(s3.read("keys", key), b"x\ry");
}

#[test]
fn a_path_is_taken_as_it_comes() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("paths");
    // The same key, written with more or less encoding; no segment is resolved.
    for (path, key) in [
        ("/paths/x/../y", "x/../y"),
        ("/paths/./z", "./z"),
        ("/paths//lead", "/lead"),
        ("/paths/a%2Fb", "a/b"),
        ("/paths/%61bc", "abc"),
        ("/paths/p+q", "p+q"),
        ("/paths/end/", "end/"),
    ] {
        s3.request("PUT", path).body(key).sha256(UNSIGNED).send().expect(200);
        assert_eq!(s3.read("paths", key), key.as_bytes(), "{path}");
        let got = s3.bucket("GET", "paths").query("list-type=2").send().expect(200);
        assert_eq!(got.xml("Key").as_deref(), Some(key));
        s3.request("DELETE", path).send().expect(204);
    }
    let long = encode(&"k".repeat(1025), "");
    let got = s3.request("PUT", &format!("/paths/{long}")).body("x").send();
    got.expect_error(400, "KeyTooLongError");
    let bad = s3.request("PUT", "/paths/a%ff").body("x").send();
    assert!((400..500).contains(&bad.status), "{}", bad.short());
}

#[test]
fn case_and_prefixes_of_names_are_kept_apart() {
    let world = World::new();
    let s3 = world.s3();
    for bucket in ["log", "logs", "log-s"] {
        s3.create_bucket(bucket);
        s3.put(bucket, "Key", bucket).send().expect(200);
        s3.put(bucket, "key", bucket.to_uppercase()).send().expect(200);
    }
    for bucket in ["log", "logs", "log-s"] {
        assert_eq!(s3.read(bucket, "Key"), bucket.as_bytes());
        assert_eq!(s3.read(bucket, "key"), bucket.to_uppercase().as_bytes());
        let got = s3.bucket("GET", bucket).query("list-type=2&prefix=K").send().expect(200);
        assert_eq!(fields(&got.text(), "Key"), ["Key"]);
    }
    s3.delete("log", "Key").send().expect(204);
    s3.delete("log", "key").send().expect(204);
    s3.bucket("DELETE", "log").send().expect(204);
    assert_eq!(s3.read("logs", "Key"), b"logs");
}

#[test]
fn bucket_names_follow_the_rules_of_s3() {
    let world = World::new();
    let s3 = world.s3();
    let long = "a".repeat(64);
    for name in
        ["ab", &long, "Upper", "under_score", "-dash", "dash-", "a..b", "192.168.1.1", "xn--a", "ü"]
    {
        let got = s3.request("PUT", &format!("/{}", encode(name, ""))).send();
        got.expect_error(400, "InvalidBucketName");
    }
    for name in ["abc", "a.b-c", "1a2", &long[1..]] {
        s3.create_bucket(name);
    }
    // Nothing of ours shadows a bucket.
    for name in ["health", "metrics", "admin", "api"] {
        s3.create_bucket(name);
        s3.put(name, "ready", name).send().expect(200);
        assert_eq!(s3.read(name, "ready"), name.as_bytes());
    }
}
