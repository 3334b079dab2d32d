//! Objects written, read, listed as headers and removed: what every client does all day.

use std::thread;

use crate::content::{content, etag};
use crate::signer::{S3, UNSIGNED, UNSIGNED_TRAILER};
use crate::wire::{escape, fields};
use crate::world::{Key, World};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn bodies_of_every_size_come_back_byte_for_byte() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("sizes");
    let sizes = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 8 * MIB + 3];
    for size in sizes {
        let key = format!("of {size}");
        let body = content(&key, 0, size);
        let put = s3.put("sizes", &key, body.clone()).send().expect(200);
        assert_eq!(put.must("etag"), etag(&body), "{key}");
        let got = s3.get("sizes", &key).send().expect(200);
        assert!(got.body == body, "{key} came back changed");
        assert_eq!(got.must("etag"), etag(&body));
        assert_eq!(got.must("content-length"), size.to_string());
        assert_eq!(got.must("accept-ranges"), "bytes");
        let head = s3.head("sizes", &key).send().expect(200);
        assert_eq!(head.must("content-length"), size.to_string());
        assert_eq!(head.must("last-modified"), got.must("last-modified"));
    }
}

#[test]
fn bodies_of_every_framing_come_back_byte_for_byte() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("framing");
    for size in [0, 1, 70_000, 3 * MIB + 5] {
        let body = content("framing", 0, size);
        let put = |key: &str| s3.put("framing", key, body.clone());
        let requests = [
            ("unsigned", put("unsigned").sha256(UNSIGNED)),
            ("signed", put("signed").signed_chunks()),
            ("small chunks", put("small chunks").signed_chunks().chunk_size(8 * KIB)),
            (
                "one chunk",
                put("one chunk").right_trailer(UNSIGNED_TRAILER, "crc32").chunk_size(64 * MIB),
            ),
            ("presigned", put("presigned").presigned("60")),
        ];
        for (key, request) in requests {
            let put = request.send().expect(200);
            assert_eq!(put.must("etag"), etag(&body), "{key} of {size}");
            assert!(s3.read("framing", key) == body, "{key} of {size} came back changed");
        }
    }
    // The framing is not part of the object.
    let got = s3.head("framing", "signed").send().expect(200);
    assert_eq!(got.header("content-encoding").unwrap_or_default(), "");
    let body = content("gzip", 0, 100);
    let gzip = s3.put("framing", "gzip", body.clone()).sha256(crate::signer::SIGNED_CHUNKS);
    gzip.header("content-encoding", "aws-chunked,gzip").send().expect(200);
    let got = s3.get("framing", "gzip").send().expect(200);
    assert_eq!((got.must("content-encoding"), got.body == body), ("gzip", true));
}

#[test]
fn an_object_survives_a_restart() {
    let mut world = World::new();
    let body = content("kept", 0, 2 * MIB + 7);
    world.s3().create_bucket("restart");
    let put = world.s3().put("restart", "kept", body.clone()).header("x-amz-meta-a", "b");
    put.header("content-type", "text/x-test").send().expect(200);
    let before = world.s3().head("restart", "kept").send().expect(200);
    world.restart();
    let after = world.s3().get("restart", "kept").send().expect(200);
    assert!(after.body == body);
    for name in ["etag", "last-modified", "content-type", "x-amz-meta-a"] {
        assert_eq!(after.must(name), before.must(name));
    }
}

#[test]
fn headers_of_an_object_are_kept_and_given_back() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("headers");
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "max-age=60, public"),
        ("content-disposition", "attachment; filename=\"a b.html\""),
        ("content-encoding", "gzip"),
        ("content-language", "de-AT, en"),
        ("expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
        ("x-amz-meta-plain", "Some value, with  blanks"),
        ("x-amz-meta-empty", ""),
        ("x-amz-storage-class", "STANDARD_IA"),
    ];
    let mut put = s3.put("headers", "k", "body");
    for (name, value) in headers {
        put = put.header(name, value);
    }
    put.send().expect(200);
    for response in [s3.get("headers", "k").send(), s3.head("headers", "k").send()] {
        let response = response.expect(200);
        for (name, value) in headers {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let got = response.header(name).map(words);
            assert_eq!(got, Some(words(value)), "{name} of {}", response.short());
        }
        assert!(response.header("x-amz-request-id").is_some_and(|id| !id.is_empty()));
    }
    s3.put("headers", "bare", "body").send().expect(200);
    let bare = s3.get("headers", "bare").send().expect(200);
    assert!(
        ["binary/octet-stream", "application/octet-stream"].contains(&bare.must("content-type"))
    );
    assert_eq!(bare.header("cache-control"), None);
    let names: Vec<_> = bare.headers.iter().filter(|(n, _)| n.starts_with("x-amz-meta-")).collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn metadata_that_is_not_ascii_comes_back_by_rfc_2047() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("meta");
    // A client may send UTF-8 as it is, or encoded words; both are the same text.
    let request = s3.put("meta", "raw", "x").header("x-amz-meta-town", "Zürich €");
    request.send().expect(200);
    let request =
        s3.put("meta", "word", "x").header("x-amz-meta-town", "=?UTF-8?B?WsO8cmljaCDigqw=?=");
    request.send().expect(200);
    for key in ["raw", "word"] {
        let got = s3.head("meta", key).send().expect(200);
        let town = got.must("x-amz-meta-town").to_owned();
        assert_eq!(rfc2047(&town), "Zürich €", "{key}: {town}");
    }
}

/// The text of one encoded word in UTF-8, or of plain text.
fn rfc2047(value: &str) -> String {
    let Some(word) = value.strip_prefix("=?").and_then(|rest| rest.strip_suffix("?=")) else {
        return value.to_owned();
    };
    let pieces: Vec<&str> = word.splitn(3, '?').collect();
    assert!(pieces[0].eq_ignore_ascii_case("utf-8"), "{value}");
    let bytes = match pieces[1] {
        "B" | "b" => crate::content::unbase64(pieces[2]),
        _ => {
            let text = pieces[2].replace('_', " ").replace('=', "%");
            return crate::signer::decode(&text);
        }
    };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn metadata_has_at_most_two_kibibytes() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("meta");
    // The names "a" and "bc" count, their prefix does not.
    let put = |first: usize, second: usize| {
        let (first, second) = ("x".repeat(first), "y".repeat(second));
        let request = s3.put("meta", "k", "x").header("x-amz-meta-a", &first);
        request.header("x-amz-meta-bc", &second).send()
    };
    put(1000, 2048 - 1000 - 3).expect(200);
    put(1000, 2048 - 1000 - 2).expect_error(400, "MetadataTooLarge");
    assert_eq!(s3.head("meta", "k").send().must("x-amz-meta-bc").len(), 1045);
}

#[test]
fn response_headers_can_be_overridden_by_a_signed_read() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("override");
    s3.put("override", "k", "body").header("content-type", "text/plain").send().expect(200);
    let overrides = [
        ("content-type", "application/x-new"),
        ("cache-control", "no-store"),
        ("content-disposition", "attachment; filename=\"new\""),
        ("content-encoding", "identity"),
        ("content-language", "fr"),
        ("expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
    ];
    for presigned in [false, true] {
        let mut get = s3.get("override", "k");
        for (name, value) in overrides {
            get = get.param(&format!("response-{name}"), value);
        }
        let get = if presigned { get.presigned("60") } else { get };
        let got = get.send().expect(200);
        for (name, value) in overrides {
            assert_eq!(got.header(name), Some(value), "presigned: {presigned}");
        }
    }
    assert_eq!(s3.head("override", "k").send().must("content-type"), "text/plain");
}

#[test]
fn an_overwrite_replaces_body_and_metadata_together() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("over");
    for n in 0..4_u64 {
        // Small and large in turn: both paths of a write displace what the other wrote.
        let body = content("k", n, if n % 2 == 0 { 100 } else { 3 * MIB });
        let put = s3.put("over", "k", body.clone()).header("x-amz-meta-n", &n.to_string());
        let put = if n == 0 { put.header("x-amz-meta-first", "yes") } else { put };
        put.header("x-amz-tagging", &format!("n={n}")).send().expect(200);
        let got = s3.get("over", "k").send().expect(200);
        assert!(got.body == body);
        assert_eq!(got.must("x-amz-meta-n"), n.to_string());
        assert_eq!(got.header("x-amz-meta-first").is_some(), n == 0);
    }
    world.wait_files(&[1]);
}

#[test]
fn a_deleted_object_is_gone_and_deleting_nothing_is_done_already() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("gone");
    s3.put("gone", "small", "x").send().expect(200);
    s3.put("gone", "large", content("large", 0, 2 * MIB)).send().expect(200);
    for key in ["small", "large", "never"] {
        s3.delete("gone", key).send().expect(204);
        s3.get("gone", key).send().expect_error(404, "NoSuchKey");
        s3.head("gone", key).send().expect(404);
    }
    world.wait_files(&[0]);
    s3.delete("nowhere", "k").send().expect_error(404, "NoSuchBucket");
    s3.get("nowhere", "k").send().expect_error(404, "NoSuchBucket");
    s3.put("nowhere", "k", "x").send().expect_error(404, "NoSuchBucket");
}

#[test]
fn errors_name_the_resource_and_the_request() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("errors");
    let got = s3.get("errors", "a <b>&").send().expect_error(404, "NoSuchKey");
    assert_eq!(got.must("content-type"), "application/xml");
    assert!(got.xml("Resource").is_some_and(|r| r.starts_with("/errors/a")), "{}", got.short());
    assert_eq!(got.xml("RequestId").as_deref(), got.header("x-amz-request-id"));
    assert!(got.xml("Message").is_some_and(|text| !text.is_empty()));
}

#[test]
fn ten_writers_on_one_key_leave_one_whole_object() {
    let world = World::over(2);
    let s3 = world.s3();
    s3.create_bucket("race");
    // Each size has a key of its own: the size of a write is told from its number.
    for (key, size) in [("short", 1000), ("long", 300 * KIB)] {
        thread::scope(|scope| {
            for n in 0..10_u64 {
                let s3 = &s3;
                scope.spawn(move || {
                    for round in 0..5 {
                        let n = n * 100 + round;
                        put_numbered(s3, "race", key, n, size + n as usize).expect(200);
                    }
                });
            }
            let s3 = &s3;
            scope.spawn(move || {
                for _ in 0..30 {
                    check_numbered(s3, "race", key, size);
                }
            });
        });
        assert!(check_numbered(&s3, "race", key, size), "an object must be there");
    }
}

#[test]
fn writers_against_deleters_leave_a_whole_object_or_none() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("race");
    for round in 0..3 {
        thread::scope(|scope| {
            for n in 0..4_u64 {
                let s3 = &s3;
                scope.spawn(move || {
                    for i in 0..6 {
                        let n = n * 100 + i;
                        put_numbered(s3, "race", "k", n, 80 * KIB + n as usize).expect(200);
                    }
                });
                scope.spawn(move || {
                    for _ in 0..6 {
                        s3.delete("race", "k").send().expect(204);
                        check_numbered(s3, "race", "k", 80 * KIB);
                    }
                });
            }
        });
        let there = usize::from(check_numbered(&s3, "race", "k", 80 * KIB));
        world.wait_files(&[there]);
        assert!(round < 3);
    }
}

fn put_numbered(s3: &S3, bucket: &str, key: &str, n: u64, size: usize) -> crate::wire::Response {
    let put = s3.put(bucket, key, content(key, n, size));
    put.header("x-amz-meta-n", &n.to_string()).header("content-type", &format!("test/{n}")).send()
}

/// Whether there is an object, which must be one writer's own in all pieces.
fn check_numbered(s3: &S3, bucket: &str, key: &str, base: usize) -> bool {
    let got = s3.get(bucket, key).send();
    if got.status == 404 {
        return false;
    }
    let got = got.expect(200);
    let n: u64 = got.must("x-amz-meta-n").parse().unwrap();
    assert_eq!(got.must("content-type"), format!("test/{n}"), "metadata of two writers");
    let body = content(key, n, base + n as usize);
    // The ETag came with the head, so it also tells whose body was meant should they differ.
    assert_eq!((got.body.len(), got.must("etag")), (body.len(), &*etag(&body)), "writer {n}");
    assert!(got.body == body, "the body is not that of writer {n}");
    true
}

#[test]
fn a_body_shorter_or_longer_than_declared_stores_nothing() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("length");
    for size in [1000, 3 * MIB] {
        let body = content("length", 0, size);
        let put = || s3.put("length", "k", body.clone());
        // Too short: the client hangs up before the end.
        let short = put().sha256(UNSIGNED).cut_body(size - 1).send();
        assert!(short.status == 0 || short.status >= 400, "{}", short.short());
        // Too long: what is behind the declared length is not the body's.
        put().content_length(size as u64 - 1).send().expect_error(400, "XAmzContentSHA256Mismatch");
        for decoded in [size as u64 - 1, size as u64 + 1] {
            let wrong = put().right_trailer(UNSIGNED_TRAILER, "crc32").decoded_length(decoded);
            let wrong = wrong.send();
            assert!((400..500).contains(&wrong.status), "{decoded}: {}", wrong.short());
            let wrong = put().signed_chunks().decoded_length(decoded).send();
            assert!((400..500).contains(&wrong.status), "{decoded}: {}", wrong.short());
        }
        s3.head("length", "k").send().expect(404);
    }
    s3.put("length", "k", "x").without_length().send().expect_error(411, "MissingContentLength");
    s3.head("length", "k").send().expect(404);
    world.wait_files(&[0]);
}

#[test]
fn an_object_larger_than_s3_allows_is_refused_before_its_body() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("large");
    let put = s3.put("large", "k", "x").sha256(UNSIGNED).content_length((5 << 30) + 1);
    let got = put.cut_body(1).send();
    if got.status != 0 {
        got.expect_error(400, "EntityTooLarge");
    }
    s3.head("large", "k").send().expect(404);
}

#[test]
fn many_objects_are_deleted_in_one_request() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("many");
    let keys = ["a", "b/ü", "c<&>", "d"];
    for key in keys {
        s3.put("many", key, key).send().expect(200);
    }
    let got = delete_many(&s3, "many", &["a", "b/ü", "never"], false).expect(200);
    let mut deleted = fields(&got.text(), "Key");
    deleted.sort();
    assert_eq!(deleted, ["a", "b/ü", "never"]);
    let got = delete_many(&s3, "many", &["c<&>"], true).expect(200);
    assert_eq!(fields(&got.text(), "Key"), [""; 0], "quiet says only what failed");
    for key in &keys[..3] {
        s3.head("many", key).send().expect(404);
    }
    s3.head("many", "d").send().expect(200);
    world.wait_files(&[1]);
}

#[test]
fn deleting_many_has_limits_and_wants_its_checksum() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("many");
    s3.put("many", "k7", "x").send().expect(200);
    let keys: Vec<String> = (0..1001).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    delete_many(&s3, "many", &keys, false).expect_error(400, "MalformedXML");
    s3.head("many", "k7").send().expect(200);
    delete_many(&s3, "many", &[], false).expect_error(400, "MalformedXML");
    let body = "<Delete><Object><Key>k7</Key></Object>";
    let broken = s3.bucket("POST", "many").query("delete").body(body).md5();
    broken.send().expect_error(400, "MalformedXML");
    let body = "<Delete><Object><Key>k7</Key></Object></Delete>";
    let wrong = s3.bucket("POST", "many").query("delete").body(body);
    wrong
        .header("content-md5", &crate::content::md5_base64(b"other"))
        .send()
        .expect_error(400, "BadDigest");
    s3.head("many", "k7").send().expect(200);
    let got = delete_many(&s3, "many", &keys[..1000], false).expect(200);
    assert_eq!(got.blocks("Deleted").len(), 1000);
    s3.head("many", "k7").send().expect(404);
}

#[test]
fn deleting_many_tells_of_each_key_that_may_not_go() {
    let key = Key::random().allow("many", "mine/", "\"read\", \"write\", \"delete\"");
    let mut world = World::cold(1);
    world.config.keys.push(key.clone());
    world.config.buckets.push("name = \"many\"".into());
    world.start();
    let (s3, limited) = (world.s3(), world.s3_as(&key.creds));
    for name in ["mine/a", "theirs/a"] {
        s3.put("many", name, "x").send().expect(200);
    }
    let got = delete_many(&limited, "many", &["mine/a", "theirs/a"], false).expect(200);
    let errors = got.blocks("Error");
    assert_eq!(errors.len(), 1, "{}", got.short());
    assert_eq!(fields(&errors[0], "Key"), ["theirs/a"]);
    assert_eq!(fields(&errors[0], "Code"), ["AccessDenied"]);
    s3.head("many", "mine/a").send().expect(404);
    s3.head("many", "theirs/a").send().expect(200);
}

pub(crate) fn delete_many(
    s3: &S3,
    bucket: &str,
    keys: &[&str],
    quiet: bool,
) -> crate::wire::Response {
    let mut body = format!("<Delete><Quiet>{quiet}</Quiet>");
    for key in keys {
        body += &format!("<Object><Key>{}</Key></Object>", escape(key));
    }
    s3.bucket("POST", bucket).query("delete").body(body + "</Delete>").md5().send()
}

#[test]
fn last_modified_never_goes_back_and_moves_with_each_write() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("time");
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let mut last = None;
    for n in 0..3 {
        s3.put("time", "k", format!("{n}")).send().expect(200);
        let text = s3.head("time", "k").send().must("last-modified").to_owned();
        let now = time::PrimitiveDateTime::parse(&text, &format).expect("an HTTP date");
        assert!(last <= Some(now));
        let clock = larder::base::Clock::system().now().seconds();
        assert!((now.assume_utc().unix_timestamp() - clock).abs() < 120, "{text}");
        last = Some(now);
    }
}
