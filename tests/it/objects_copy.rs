//! Copies: no bytes move, all else is as if they had.

use crate::content::{ALGORITHMS, checksum, content, etag};
use crate::signer::encode;
use crate::world::World;

const OLD: &str = "Tue, 01 Jan 2019 00:00:00 GMT";
const LATER: &str = "Sun, 01 Jan 2090 00:00:00 GMT";
const OTHER: &str = "\"0123456789abcdef0123456789abcdef\"";

fn world() -> World {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("from");
    s3.create_bucket("to-bucket");
    let put = s3.put("from", "a b/ü+%", content("src", 0, 200_000));
    let put = put.header("content-type", "text/x-source").header("x-amz-meta-a", "source");
    let put = put.header("cache-control", "no-cache").header("x-amz-tagging", "t=source");
    put.send().expect(200);
    world
}

const SOURCE: (&str, &str) = ("from", "a b/ü+%");

#[test]
fn a_copy_has_the_bytes_and_the_metadata_of_its_source() {
    let mut world = world();
    let s3 = world.s3();
    let body = content("src", 0, 200_000);
    for to in [("from", "copy"), ("to-bucket", "copy"), ("to-bucket", "a b/ü+%")] {
        let got = s3.copy(SOURCE, to).send().expect(200);
        assert_eq!(got.xml("ETag"), Some(etag(&body)), "{}", got.short());
        assert!(got.xml("LastModified").is_some_and(|text| text.ends_with('Z')));
        let got = s3.get(to.0, to.1).send().expect(200);
        assert!(got.body == body);
        assert_eq!(got.must("content-type"), "text/x-source");
        assert_eq!(got.must("cache-control"), "no-cache");
        assert_eq!(got.must("x-amz-meta-a"), "source");
        assert_eq!(got.must("x-amz-tagging-count"), "1");
    }
    // The bytes are shared, and stay as long as anything refers to them.
    world.wait_files(&[1]);
    s3.delete("from", SOURCE.1).send().expect(204);
    s3.delete("from", "copy").send().expect(204);
    assert!(s3.read("to-bucket", "copy") == body);
    s3.put("to-bucket", "copy", "new").send().expect(200);
    assert!(s3.read("to-bucket", "a b/ü+%") == body);
    s3.delete("to-bucket", "a b/ü+%").send().expect(204);
    world.wait_files(&[1]);
    assert_eq!(s3.read("to-bucket", "copy"), b"new");
}

#[test]
fn directives_say_whose_metadata_and_tags_a_copy_has() {
    let world = world();
    let s3 = world.s3();
    let copy = || s3.copy(SOURCE, ("to-bucket", "copy"));
    let new = copy().header("content-type", "text/x-new").header("x-amz-meta-b", "new");
    // Without the directive what is sent with the copy is not taken.
    new.clone().send().expect(200);
    let got = s3.head("to-bucket", "copy").send();
    assert_eq!((got.must("content-type"), got.header("x-amz-meta-b")), ("text/x-source", None));

    new.header("x-amz-metadata-directive", "REPLACE").send().expect(200);
    let got = s3.head("to-bucket", "copy").send();
    assert_eq!((got.must("content-type"), got.must("x-amz-meta-b")), ("text/x-new", "new"));
    assert_eq!((got.header("x-amz-meta-a"), got.header("cache-control")), (None, None));
    assert_eq!(got.must("x-amz-tagging-count"), "1");

    let replace = copy().header("x-amz-tagging-directive", "REPLACE");
    replace.clone().header("x-amz-tagging", "x=1&y=2").send().expect(200);
    let got = s3.head("to-bucket", "copy").send();
    assert_eq!((got.must("x-amz-tagging-count"), got.must("x-amz-meta-a")), ("2", "source"));
    replace.send().expect(200);
    assert_eq!(s3.head("to-bucket", "copy").send().header("x-amz-tagging-count"), None);
    let wrong = copy().header("x-amz-metadata-directive", "MERGE").send();
    assert_eq!(wrong.status, 400, "{}", wrong.short());
}

#[test]
fn an_object_copied_onto_itself_must_change() {
    let mut world = world();
    let s3 = world.s3();
    s3.copy(SOURCE, SOURCE).send().expect_error(400, "InvalidRequest");
    let copy = s3.copy(SOURCE, SOURCE).header("x-amz-metadata-directive", "REPLACE");
    copy.header("x-amz-meta-a", "changed").send().expect(200);
    let got = s3.get(SOURCE.0, SOURCE.1).send().expect(200);
    assert!(got.body == content("src", 0, 200_000));
    assert_eq!(got.must("x-amz-meta-a"), "changed");
    world.wait_files(&[1]);
}

#[test]
fn a_copy_may_ask_about_its_source() {
    let world = world();
    let s3 = world.s3();
    let same = etag(&content("src", 0, 200_000));
    let same = same.as_str();
    let name = |name: &str| format!("x-amz-copy-source-if-{name}");
    let table: &[(&[(&str, &str)], u16)] = &[
        (&[("match", same)], 200),
        (&[("match", OTHER)], 412),
        (&[("none-match", same)], 412),
        (&[("none-match", OTHER)], 200),
        (&[("modified-since", OLD)], 200),
        (&[("modified-since", LATER)], 412),
        (&[("unmodified-since", OLD)], 412),
        (&[("unmodified-since", LATER)], 200),
        (&[("match", same), ("unmodified-since", OLD)], 200),
        (&[("none-match", same), ("modified-since", OLD)], 412),
    ];
    for (i, (headers, status)) in table.iter().enumerate() {
        let key = format!("copy {i}");
        let mut copy = s3.copy(SOURCE, ("to-bucket", &key));
        for (header, value) in *headers {
            copy = copy.header(&name(header), value);
        }
        let got = copy.send();
        assert_eq!(got.status, *status, "{headers:?}: {}", got.short());
        if *status == 412 {
            assert_eq!(got.code(), "PreconditionFailed");
            s3.head("to-bucket", &key).send().expect(404);
        }
    }
}

/// A new storage class takes the other headers along, whatever is asked about the source.
#[test]
fn a_copy_to_another_class_asks_about_its_source_too() {
    let world = world();
    let s3 = world.s3();
    s3.put("from", "classed", "body").header("content-type", "text/x-c").send().expect(200);
    let same = etag(b"body");
    let copy = || {
        let copy = s3.copy(("from", "classed"), ("to-bucket", "classed"));
        copy.header("x-amz-storage-class", "STANDARD_IA")
    };
    for (name, value, status) in [
        ("if-match", "*", 200),
        ("if-match", &same, 200),
        ("if-match", "\"other\"", 412),
        ("if-none-match", &same, 412),
        ("if-none-match", "\"other\"", 200),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT", 412),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT", 200),
    ] {
        let got = copy().header(&format!("x-amz-copy-source-{name}"), value).send();
        assert_eq!(got.status, status, "{name}: {value}: {}", got.short());
    }
    let head = s3.head("to-bucket", "classed").send().expect(200);
    assert_eq!(
        (head.must("content-type"), head.must("x-amz-storage-class")),
        ("text/x-c", "STANDARD_IA")
    );
}

#[test]
fn a_copy_may_ask_about_its_destination() {
    let world = world();
    let s3 = world.s3();
    let copy = || s3.copy(SOURCE, ("to-bucket", "dest"));
    copy().header("if-none-match", "*").send().expect(200);
    copy().header("if-none-match", "*").send().expect_error(412, "PreconditionFailed");
    s3.put("to-bucket", "dest", "mine").send().expect(200);
    copy().header("if-match", OTHER).send().expect_error(412, "PreconditionFailed");
    assert_eq!(s3.read("to-bucket", "dest"), b"mine");
    copy().header("if-match", &etag(b"mine")).send().expect(200);
}

#[test]
fn a_copy_of_nothing_says_so() {
    let world = world();
    let s3 = world.s3();
    s3.copy(("from", "never"), ("to-bucket", "x")).send().expect_error(404, "NoSuchKey");
    s3.copy(("nowhere", "k"), ("to-bucket", "x")).send().expect_error(404, "NoSuchBucket");
    s3.copy(SOURCE, ("nowhere", "x")).send().expect_error(404, "NoSuchBucket");
    for source in ["", "from", "/", "/from/", "%ff%fe/x"] {
        let copy = s3.object("PUT", "to-bucket", "x").header("x-amz-copy-source", source).send();
        assert_eq!(copy.status, 400, "{source:?}: {}", copy.short());
    }
    s3.head("to-bucket", "x").send().expect(404);
    // With or without the slash before the bucket, the key encoded.
    for slash in ["", "/"] {
        let source = format!("{slash}from/{}", encode(SOURCE.1, ""));
        let copy = s3.object("PUT", "to-bucket", "y").header("x-amz-copy-source", &source);
        copy.send().expect(200);
    }
}

#[test]
fn an_empty_object_can_be_copied() {
    let world = world();
    let s3 = world.s3();
    s3.put("from", "empty", "").send().expect(200);
    s3.copy(("from", "empty"), ("to-bucket", "empty")).send().expect(200);
    assert_eq!(s3.read("to-bucket", "empty"), b"");
}

#[test]
fn a_copy_keeps_or_gets_its_checksum() {
    let world = world();
    let s3 = world.s3();
    let body = content("sum", 0, 3000);
    let sum = checksum("crc32c", &body);
    s3.put("from", "sum", body.clone()).header("x-amz-checksum-crc32c", &sum).send().expect(200);
    let told = |key: &str, algorithm: &str| {
        let head = s3.head("to-bucket", key).header("x-amz-checksum-mode", "ENABLED");
        head.send().header(&format!("x-amz-checksum-{algorithm}")).map(str::to_owned)
    };
    s3.copy(("from", "sum"), ("to-bucket", "kept")).send().expect(200);
    assert_eq!(told("kept", "crc32c"), Some(sum));
    for algorithm in ALGORITHMS {
        let copy = s3.copy(("from", "sum"), ("to-bucket", algorithm));
        let copy = copy.header("x-amz-checksum-algorithm", &algorithm.to_uppercase());
        let got = copy.send().expect(200);
        let sum = checksum(algorithm, &body);
        assert_eq!(told(algorithm, algorithm), Some(sum), "{}", got.short());
    }
}

#[test]
fn a_copy_between_placements_streams_into_new_bytes() {
    let mut world = World::cold(2);
    world.config.buckets.push("name = \"one-copy\"\nreplicas = 1\nmin_replicas = 1".into());
    world.config.buckets.push("name = \"two-copies\"\nreplicas = 2\nmin_replicas = 2".into());
    world.start();
    let s3 = world.s3();
    let body = content("move", 0, 2_500_000);
    s3.put("one-copy", "k", body.clone()).send().expect(200);
    world.wait_files(&[1, 0]);
    s3.copy(("one-copy", "k"), ("two-copies", "k")).send().expect(200);
    world.wait_files(&[2, 1]);
    s3.delete("one-copy", "k").send().expect(204);
    world.wait_files(&[1, 1]);
    assert!(s3.read("two-copies", "k") == body);
}
