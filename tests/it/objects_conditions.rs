//! Conditions and ranges: "Amazon S3 API: GetObject, PutObject", RFC 9110 sections 13 and 14.

use std::thread;

use crate::content::{content, etag};
use crate::signer::{Request, S3};
use crate::wire::Response;
use crate::world::World;

const OLD: &str = "Tue, 01 Jan 2019 00:00:00 GMT";
const LATER: &str = "Sun, 01 Jan 2090 00:00:00 GMT";
const OTHER: &str = "\"0123456789abcdef0123456789abcdef\"";

#[test]
fn conditions_of_reads_follow_the_precedence_of_s3() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    s3.put("cond", "k", "body").send().expect(200);
    let same = etag(b"body");
    let (same, bare) = (same.as_str(), same.trim_matches('"'));
    let list = format!("{OTHER}, {same}");
    let (m, n, ms, us) = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since");
    let table: &[(&[(&str, &str)], u16)] = &[
        (&[(m, same)], 200),
        (&[(m, bare)], 200),
        (&[(m, "*")], 200),
        (&[(m, &list)], 200),
        (&[(m, OTHER)], 412),
        (&[(n, same)], 304),
        (&[(n, bare)], 304),
        (&[(n, "*")], 304),
        (&[(n, &list)], 304),
        (&[(n, OTHER)], 200),
        (&[(ms, OLD)], 200),
        (&[(ms, LATER)], 304),
        (&[(us, OLD)], 412),
        (&[(us, LATER)], 200),
        // If-Match decides before If-Unmodified-Since, If-None-Match before If-Modified-Since.
        (&[(m, same), (us, OLD)], 200),
        (&[(m, OTHER), (us, LATER)], 412),
        (&[(n, same), (ms, OLD)], 304),
        (&[(n, OTHER), (ms, LATER)], 200),
        // A failed precondition is told before a fresh cache.
        (&[(m, OTHER), (n, same)], 412),
        (&[(m, same), (n, same)], 304),
        (&[(us, OLD), (n, same)], 412),
        (&[(us, LATER), (ms, LATER)], 304),
        // A date that is none does not count.
        (&[(ms, "yesterday")], 200),
    ];
    for (headers, status) in table {
        for method in ["GET", "HEAD"] {
            let mut request = s3.object(method, "cond", "k");
            for (name, value) in *headers {
                request = request.header(name, value);
            }
            let got = request.send();
            assert_eq!(got.status, *status, "{method} {headers:?}: {}", got.short());
            match status {
                304 => assert_eq!((got.must("etag"), got.body.len()), (same, 0)),
                412 if method == "GET" => assert_eq!(got.code(), "PreconditionFailed"),
                _ => {}
            }
        }
    }
    let get = s3.get("cond", "never").header(m, "*");
    get.send().expect_error(404, "NoSuchKey");
}

/// What s3s alone would refuse: S3 reads it, passes over it or keeps it.
#[test]
fn odd_headers_are_read_passed_over_or_kept() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    s3.put("cond", "k", "body").send().expect(200);
    let same = etag(b"body");
    let (ms, us) = ("if-modified-since", "if-unmodified-since");
    for (name, value, status) in [
        (ms, "Sunday, 06-Nov-94 08:49:37 GMT", 200),
        (ms, "Tuesday, 01-Jan-69 00:00:00 GMT", 304),
        (us, "Sun Nov  6 08:49:37 1994", 412),
        (us, "Fri Jan  1 00:00:00 2100", 200),
        (us, "tomorrow", 200),
        ("if-match", &format!("{same}, x"), 200),
        ("if-none-match", &format!("x,{same}"), 304),
        ("if-none-match", &format!("\"x\", \"y\", {same}"), 304),
        ("range", "bytes=0-0,2-3", 200),
        ("range", "bytes=99999999999999999999-", 416),
    ] {
        for method in ["GET", "HEAD"] {
            let got = s3.object(method, "cond", "k").header(name, value).send();
            assert_eq!(got.status, status, "{method} {name}: {value}: {}", got.short());
            let got = s3.object(method, "cond", "k").unsigned_header(name, value).send();
            assert_eq!(got.status, status, "{method} unsigned {name}: {value}: {}", got.short());
        }
    }
    let copy = || s3.copy(("cond", "k"), ("cond", "copy"));
    copy().header("x-amz-copy-source-if-modified-since", "never").send().expect(200);
    let late = copy().header("x-amz-copy-source-if-unmodified-since", "Sun Nov  6 08:49:37 1994");
    late.send().expect_error(412, "PreconditionFailed");
    for text in ["0", "-1", "next week", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        s3.put("cond", "expires", text).header("expires", text).send().expect(200);
        assert_eq!(s3.head("cond", "expires").send().must("expires"), text);
        let got = s3.get("cond", "expires").send().expect(200);
        assert_eq!((got.must("expires"), got.text()), (text, text.to_owned()));
    }
}

#[test]
fn overrides_of_headers_are_headers_or_refused() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    s3.put("cond", "k", "body").send().expect(200);
    for method in ["GET", "HEAD"] {
        let ask = |value| s3.object(method, "cond", "k").param("response-content-type", value);
        assert_eq!(ask("text/x-own").send().expect(200).must("content-type"), "text/x-own");
        let got = ask("a\r\nx-evil: 1").send();
        assert_eq!((got.status, got.header("x-evil")), (400, None), "{method}: {}", got.short());
    }
}

#[test]
fn a_write_may_ask_that_nothing_is_there() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    for size in [10, 200_000] {
        let key = format!("new {size}");
        let put = |n| s3.put("cond", &key, content(&key, n, size)).header("if-none-match", "*");
        put(1).send().expect(200);
        put(2).send().expect_error(412, "PreconditionFailed");
        assert!(s3.read("cond", &key) == content(&key, 1, size));
        s3.delete("cond", &key).send().expect(204);
        put(3).send().expect(200);
        assert!(s3.read("cond", &key) == content(&key, 3, size));
    }
}

#[test]
fn a_write_may_ask_what_is_there() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    let put = |key: &str, body: &str| s3.put("cond", key, body);
    put("k", "one").send().expect(200);
    put("k", "two").header("if-match", OTHER).send().expect_error(412, "PreconditionFailed");
    put("k", "two").header("if-match", &etag(b"one")).send().expect(200);
    put("k", "three")
        .header("if-match", &etag(b"one"))
        .send()
        .expect_error(412, "PreconditionFailed");
    assert_eq!(s3.read("cond", "k"), b"two");
    put("never", "x").header("if-match", OTHER).send().expect_error(404, "NoSuchKey");
    s3.head("cond", "never").send().expect(404);

    let delete = |etag: &str| s3.delete("cond", "k").header("if-match", etag).send();
    delete(OTHER).expect_error(412, "PreconditionFailed");
    delete(&etag(b"two")).expect(204);
    s3.head("cond", "k").send().expect(404);
    world.wait_files(&[0]);
}

#[test]
fn of_many_writers_that_want_to_be_first_one_is() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("first");
    for round in 0..4_u64 {
        let key = format!("k{round}");
        let put = |n: u64| {
            let size = if round % 2 == 0 { 100 } else { 150_000 };
            s3.put("first", &key, content(&key, n, size)).header("if-none-match", "*").send()
        };
        let (winner, winners) = race(8, put);
        assert_eq!(winners, 1, "of 8 writers with If-None-Match");
        let size = s3.read("first", &key).len();
        assert!(s3.read("first", &key) == content(&key, winner, size));
        // A counter by compare-and-swap: of those who saw the same, one goes on.
        let seen = s3.head("first", &key).send().must("etag").to_owned();
        let put = |n: u64| {
            s3.put("first", &key, content(&key, 100 + n, 50)).header("if-match", &seen).send()
        };
        let (winner, winners) = race(8, put);
        assert_eq!(winners, 1, "of 8 writers with If-Match");
        assert!(s3.read("first", &key) == content(&key, 100 + winner, 50));
    }
    world.wait_files(&[4]);
}

/// The number of a writer that was accepted, and how many were; the others got 412 or 409.
fn race(writers: u64, put: impl Fn(u64) -> Response + Sync) -> (u64, usize) {
    let put = &put;
    let accepted: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers).map(|n| scope.spawn(move || (n, put(n)))).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .filter(|(_, got)| {
                assert!(matches!(got.status, 200 | 409 | 412), "{}", got.short());
                got.status == 200
            })
            .map(|(n, _)| n)
            .collect()
    });
    (accepted.first().copied().unwrap_or(u64::MAX), accepted.len())
}

#[test]
fn a_condition_that_no_write_has_is_not_taken_for_another() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    s3.put("cond", "k", "before").send().expect(200);
    // S3 itself knows only `*` here.
    let got = s3.put("cond", "k", "x").header("if-none-match", &etag(b"before")).send();
    assert!(matches!(got.status, 412 | 501), "{}", got.short());
    assert_eq!(s3.read("cond", "k"), b"before");
}

#[test]
fn single_ranges_of_every_form_are_answered() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("ranges");
    // One group, many groups, and a body with a border inside.
    for size in [10, 65_537, 3_500_000_usize] {
        let body = content("range", 0, size);
        s3.put("ranges", "k", body.clone()).send().expect(200);
        let last = size - 1;
        let table = [
            ("bytes=0-0".to_owned(), 0, 0),
            ("bytes=0-".into(), 0, last),
            (format!("bytes=0-{last}"), 0, last),
            (format!("bytes=0-{}", size + 100), 0, last),
            ("bytes=3-7".into(), 3, 7),
            (format!("bytes={last}-"), last, last),
            ("bytes=-1".into(), last, last),
            ("bytes=-4".into(), last - 3, last),
            (format!("bytes=-{}", size + 5), 0, last),
            (format!("bytes={}-{}", size / 3, size / 2), size / 3, size / 2),
        ];
        for (range, first, last) in table {
            let got = s3.get("ranges", "k").header("range", &range).send().expect(206);
            assert!(got.body == body[first..=last], "{range} of {size} came back changed");
            assert_eq!(got.must("content-range"), format!("bytes {first}-{last}/{size}"));
            assert_eq!(got.must("content-length"), (last - first + 1).to_string());
            assert_eq!(got.must("etag"), etag(&body));
            let head = s3.head("ranges", "k").header("range", &range).send().expect(206);
            assert_eq!(head.must("content-range"), got.must("content-range"));
        }
        for range in [
            format!("bytes={size}-"),
            format!("bytes={}-{}", size + 5, size + 9),
            "bytes=-0".into(),
        ] {
            let got = s3.get("ranges", "k").header("range", &range).send();
            let got = got.expect_error(416, "InvalidRange");
            assert_eq!(got.must("content-range"), format!("bytes */{size}"), "{range}");
        }
        // What is no range by RFC 9110 is as if it were not there.
        for range in ["bytes=7-3", "bytes=a-b", "bytes", "lines=1-2", "bytes=--5"] {
            let got = s3.get("ranges", "k").header("range", range).send();
            assert!(got.status == 200 && got.body == body, "{range}: {}", got.status);
        }
    }
    s3.put("ranges", "empty", "").send().expect(200);
    let got = s3.get("ranges", "empty").header("range", "bytes=0-0").send();
    got.expect_error(416, "InvalidRange");
}

#[test]
fn ranges_and_conditions_go_together() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("ranges");
    let body = content("range", 1, 1000);
    s3.put("ranges", "k", body.clone()).send().expect(200);
    let get = || s3.get("ranges", "k").header("range", "bytes=10-19");
    get().header("if-match", OTHER).send().expect_error(412, "PreconditionFailed");
    get().header("if-none-match", &etag(&body)).send().expect(304);
    assert!(get().header("if-match", &etag(&body)).send().expect(206).body == body[10..20]);
    // If-Range: the range when it is still the same, else all of it.
    assert!(get().header("if-range", &etag(&body)).send().expect(206).body == body[10..20]);
    assert!(get().header("if-range", OTHER).send().expect(200).body == body);
    let modified = s3.head("ranges", "k").send().must("last-modified").to_owned();
    assert!(get().header("if-range", &modified).send().expect(206).body == body[10..20]);
    assert!(get().header("if-range", OLD).send().expect(200).body == body);
    let first = s3.get("ranges", "k").query("partNumber=1").send().expect(206);
    assert!(first.body == body);
    let second = s3.get("ranges", "k").query("partNumber=2").send();
    second.expect_error(416, "InvalidPartNumber");
}

// ---- Tags.

#[test]
fn tags_are_set_read_and_removed() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("tags");
    s3.put("tags", "k", "body").header("x-amz-tagging", "a=1&b%20c=x%2By").send().expect(200);
    assert_eq!(tags(&s3, "k"), [("a".to_owned(), "1".to_owned()), ("b c".into(), "x+y".into())]);
    assert_eq!(s3.head("tags", "k").send().header("x-amz-tagging-count"), Some("2"));
    let before = s3.head("tags", "k").send().must("last-modified").to_owned();
    put_tags(&s3, "k", &[("new", "value"), ("empty", "")]).send().expect(200);
    assert_eq!(
        tags(&s3, "k"),
        [("new".to_owned(), "value".to_owned()), ("empty".into(), String::new())]
    );
    s3.delete("tags", "k").query("tagging").send().expect(204);
    assert_eq!(tags(&s3, "k"), []);
    let head = s3.head("tags", "k").send();
    assert_eq!((head.header("x-amz-tagging-count"), head.must("last-modified")), (None, &*before));
    assert_eq!(s3.read("tags", "k"), b"body", "tags never touch the body");

    s3.get("tags", "never").query("tagging").send().expect_error(404, "NoSuchKey");
    put_tags(&s3, "never", &[("a", "b")]).send().expect_error(404, "NoSuchKey");
    s3.delete("tags", "never").query("tagging").send().expect_error(404, "NoSuchKey");
    s3.head("tags", "never").send().expect(404);
}

#[test]
fn tags_outside_their_bounds_are_refused() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("tags");
    s3.put("tags", "k", "body").header("x-amz-tagging", "keep=me").send().expect(200);
    let many: Vec<String> = (0..11).map(|n| format!("t{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    let wrong: [(&[(&str, &str)], &str); 5] = [
        (&many, "BadRequest"),
        (&[(&long_key, "v")], "InvalidTag"),
        (&[("k", &long_value)], "InvalidTag"),
        (&[("k", "a<b")], "InvalidTag"),
        (&[("k", "1"), ("k", "2")], "InvalidTag"),
    ];
    for (pairs, code) in wrong {
        put_tags(&s3, "k", pairs).send().expect_error(400, code);
    }
    put_tags(&s3, "k", &many[..10]).send().expect(200);
    put_tags(&s3, "k", &[("keep", "me")]).send().expect(200);
    let put = s3.put("tags", "new", "x").header("x-amz-tagging", "a=1&a=2").send();
    assert_eq!(put.status, 400, "{}", put.short());
    s3.head("tags", "new").send().expect(404);
    assert_eq!(tags(&s3, "k"), [("keep".to_owned(), "me".to_owned())]);
}

fn put_tags(s3: &S3, key: &str, pairs: &[(&str, &str)]) -> Request {
    let escape = crate::wire::escape;
    let pairs: String = pairs
        .iter()
        .map(|(k, v)| format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escape(k), escape(v)))
        .collect();
    let body = format!("<Tagging><TagSet>{pairs}</TagSet></Tagging>");
    s3.object("PUT", "tags", key).query("tagging").body(body).md5()
}

fn tags(s3: &S3, key: &str) -> Vec<(String, String)> {
    let got = s3.get("tags", key).query("tagging").send().expect(200);
    let text = |block: &str, tag| crate::wire::field(block, tag).unwrap();
    got.blocks("Tag").iter().map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect()
}
