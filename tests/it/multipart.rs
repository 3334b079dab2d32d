//! Multipart uploads from begin to end, and every way in which they go wrong.

use std::thread;

use crate::content::{checksum, composite_checksum, content, etag, multipart_etag};
use crate::signer::{Request, S3, UNSIGNED_TRAILER};
use crate::wire::{Response, field, fields};
use crate::world::World;

const MIB: usize = 1 << 20;
const PART: usize = 5 * MIB;

pub(crate) fn begin(s3: &S3, bucket: &str, key: &str) -> String {
    let got = s3.object("POST", bucket, key).query("uploads").send().expect(200);
    assert_eq!(got.xml("Key").as_deref(), Some(key));
    assert_eq!(got.xml("Bucket").as_deref(), Some(bucket));
    got.xml("UploadId").expect("an upload id")
}

pub(crate) fn part(s3: &S3, at: (&str, &str, &str), n: u32, body: impl Into<Vec<u8>>) -> Request {
    let request = s3.put(at.0, at.1, body).query(&format!("partNumber={n}"));
    request.param("uploadId", at.2)
}

/// Completes from (part number, ETag), in this order.
pub(crate) fn complete(s3: &S3, at: (&str, &str, &str), parts: &[(u32, String)]) -> Request {
    let parts: String = parts
        .iter()
        .map(|(n, etag)| {
            format!(
                "<Part><PartNumber>{n}</PartNumber><ETag>{}</ETag></Part>",
                crate::wire::escape(etag)
            )
        })
        .collect();
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    s3.object("POST", at.0, at.1).param("uploadId", at.2).body(body)
}

pub(crate) fn abort(s3: &S3, at: (&str, &str, &str)) -> Request {
    s3.delete(at.0, at.1).param("uploadId", at.2)
}

fn list_parts(s3: &S3, at: (&str, &str, &str)) -> Request {
    s3.get(at.0, at.1).param("uploadId", at.2)
}

/// Uploads `bodies` as parts 1, 2, ... and gives their numbers and ETags.
fn upload(s3: &S3, at: (&str, &str, &str), bodies: &[&[u8]]) -> Vec<(u32, String)> {
    (1..)
        .zip(bodies)
        .map(|(n, body)| {
            let got = part(s3, at, n, *body).send().expect(200);
            assert_eq!(got.must("etag"), etag(body));
            (n, etag(body))
        })
        .collect()
}

#[test]
fn parts_become_one_object() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("parts");
    let request = s3.object("POST", "parts", "k").query("uploads").header("x-amz-meta-a", "b");
    let request = request.header("content-type", "text/x-multi").header("x-amz-tagging", "t=1");
    let id = request.send().expect(200).xml("UploadId").unwrap();
    let at = ("parts", "k", id.as_str());
    let bodies = [content("p", 1, PART), content("p", 2, PART + 17), content("p", 3, 11)];
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let parts = upload(&s3, at, &bodies);
    s3.get("parts", "k").send().expect_error(404, "NoSuchKey");
    let got = complete(&s3, at, &parts).send().expect(200);
    let want = multipart_etag(&bodies);
    assert_eq!(got.xml("ETag"), Some(want.clone()), "{}", got.short());
    assert_eq!(got.xml("Bucket").as_deref(), Some("parts"));
    let whole = bodies.concat();
    let got = s3.get("parts", "k").send().expect(200);
    assert!(got.body == whole);
    assert_eq!((got.must("etag"), got.must("content-type")), (want.as_str(), "text/x-multi"));
    assert_eq!((got.must("x-amz-meta-a"), got.must("x-amz-tagging-count")), ("b", "1"));
    for range in [PART - 5..PART + 5, 2 * PART + 10..2 * PART + 25, 0..whole.len()] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let got = s3.get("parts", "k").header("range", &header).send().expect(206);
        assert!(got.body == whole[range], "{header}");
    }
    for (n, body) in (1..).zip(&bodies) {
        for method in ["GET", "HEAD"] {
            let got = s3.object(method, "parts", "k").query(&format!("partNumber={n}"));
            let got = got.send().expect(206);
            assert_eq!(got.must("content-length"), body.len().to_string());
            assert_eq!(got.must("x-amz-mp-parts-count"), "3");
            assert!(method == "HEAD" || got.body == *body, "part {n}");
        }
    }
    world.restart();
    assert!(world.s3().read("parts", "k") == whole);
    world.s3().delete("parts", "k").send().expect(204);
    world.wait_files(&[0]);
}

#[test]
fn a_completed_upload_may_be_completed_again() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("twice");
    let id = begin(&s3, "twice", "k");
    let at = ("twice", "k", id.as_str());
    let parts = upload(&s3, at, &[b"one part"]);
    let first = complete(&s3, at, &parts).send().expect(200);
    let again = complete(&s3, at, &parts).send().expect(200);
    assert_eq!(first.xml("ETag"), again.xml("ETag"));
    assert_eq!(s3.read("twice", "k"), b"one part");
    // It is harmless after the object has changed, too.
    s3.put("twice", "k", "newer").send().expect(200);
    let late = complete(&s3, at, &parts).send();
    assert!(late.status == 200 || late.code() == "NoSuchUpload", "{}", late.short());
    assert_eq!(s3.read("twice", "k"), b"newer");
    part(&s3, at, 2, "x").send().expect_error(404, "NoSuchUpload");
}

#[test]
fn what_is_wrong_with_a_completion_is_told() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("wrong");
    s3.put("wrong", "k", "before").send().expect(200);
    let id = begin(&s3, "wrong", "k");
    let at = ("wrong", "k", id.as_str());
    let bodies = [content("w", 1, PART), content("w", 2, PART), content("w", 3, 100)];
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let parts = upload(&s3, at, &bodies);
    let n = |i: usize| parts[i].clone();
    let table: &[(&[(u32, String)], &str)] = &[
        (&[], "MalformedXML"),
        (&[n(0), (7, n(1).1)], "InvalidPart"),
        (&[n(0), (2, n(0).1)], "InvalidPart"),
        (&[n(0), (2, "\"00\"".into())], "InvalidPart"),
        (&[n(1), n(0)], "InvalidPartOrder"),
        (&[n(0), n(0)], "InvalidPartOrder"),
        (&[n(2), (3, n(2).1)], "InvalidPartOrder"),
        (&[n(0), n(2), (4, n(2).1)], "InvalidPart"),
    ];
    for (parts, code) in table {
        let got = complete(&s3, at, parts).send();
        got.expect_error(400, code);
        assert_eq!(s3.read("wrong", "k"), b"before");
    }
    let missing = complete(&s3, at, &[n(0), (7, n(1).1)]).send();
    assert!(missing.text().contains('7'), "it names the part: {}", missing.short());
    // Every part but the last has at least 5 MiB.
    part(&s3, at, 4, "last").send().expect(200);
    complete(&s3, at, &[n(0), n(2), (4, etag(b"last"))]).send().expect_error(400, "EntityTooSmall");
    for body in ["", "<CompleteMultipartUpload>", "<Other/>", "<CompleteMultipartUpload/>"] {
        let got = s3.object("POST", "wrong", "k").param("uploadId", &id).body(body).send();
        got.expect_error(400, "MalformedXML");
    }
    // After all that it still works, and what was not named goes.
    let unquoted = n(1).1.trim_matches('"').to_owned();
    complete(&s3, at, &[n(0), (2, unquoted)]).send().expect(200);
    assert!(s3.read("wrong", "k") == bodies[..2].concat());
    world.wait_files(&[2]);
}

#[test]
fn a_part_can_be_sent_again() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("again");
    let id = begin(&s3, "again", "k");
    let at = ("again", "k", id.as_str());
    part(&s3, at, 2, "old two").send().expect(200);
    part(&s3, at, 1, content("a", 1, PART)).send().expect(200);
    part(&s3, at, 2, "new two").send().expect(200);
    let old = complete(&s3, at, &[(1, etag(&content("a", 1, PART))), (2, etag(b"old two"))]).send();
    old.expect_error(400, "InvalidPart");
    let new = [(1, etag(&content("a", 1, PART))), (2, etag(b"new two"))];
    complete(&s3, at, &new).send().expect(200);
    assert!(s3.read("again", "k").ends_with(b"new two"));
    world.wait_files(&[2]);
}

#[test]
fn parts_have_bounds_and_are_checked() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bounds");
    let id = begin(&s3, "bounds", "k");
    let at = ("bounds", "k", id.as_str());
    for n in [0, 10_001, 4_000_000_000] {
        part(&s3, at, n, "x").send().expect_error(400, "InvalidArgument");
    }
    for n in ["-1", "x", ""] {
        let got = s3.put("bounds", "k", "x").param("partNumber", n).param("uploadId", &id).send();
        assert_eq!(got.status, 400, "{n:?}: {}", got.short());
    }
    part(&s3, at, 10_000, "last").send().expect(200);
    for size in [10, 200_000] {
        let body = content("b", 1, size);
        let put = || part(&s3, at, 1, body.clone());
        put()
            .header("content-md5", &crate::content::md5_base64(b"other"))
            .send()
            .expect_error(400, "BadDigest");
        put().sha256(&"0".repeat(64)).send().expect_error(400, "XAmzContentSHA256Mismatch");
        let wrong = checksum("crc32", b"other");
        put().header("x-amz-checksum-crc32", &wrong).send().expect_error(400, "BadDigest");
        let put = put().trailer(UNSIGNED_TRAILER, "x-amz-checksum-crc32", &wrong);
        put.send().expect_error(400, "BadDigest");
    }
    let list = list_parts(&s3, at).send().expect(200);
    assert_eq!(fields(&list.blocks("Part").concat(), "PartNumber"), ["10000"]);
    part(&s3, ("bounds", "k", "no-such-id"), 1, "x").send().expect_error(404, "NoSuchUpload");
    part(&s3, at, 1, "x").without_length().send().expect_error(411, "MissingContentLength");
    abort(&s3, at).send().expect(204);
    world.wait_files(&[0]);
}

#[test]
fn an_id_works_only_with_its_own_bucket_and_key() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("mine");
    s3.create_bucket("theirs");
    let id = begin(&s3, "mine", "k");
    let parts = upload(&s3, ("mine", "k", &id), &[b"body"]);
    for at in [
        ("theirs", "k", id.as_str()),
        ("mine", "other", &id),
        ("mine", "k/", &id),
        ("mine", "K", &id),
    ] {
        part(&s3, at, 2, "x").send().expect_error(404, "NoSuchUpload");
        complete(&s3, at, &parts).send().expect_error(404, "NoSuchUpload");
        list_parts(&s3, at).send().expect_error(404, "NoSuchUpload");
        abort(&s3, at).send().expect_error(404, "NoSuchUpload");
        s3.head(at.0, at.1).send().expect(404);
    }
    complete(&s3, ("mine", "k", &id), &parts).send().expect(200);
    assert_eq!(s3.read("mine", "k"), b"body");
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("abort");
    let id = begin(&s3, "abort", "k");
    let at = ("abort", "k", id.as_str());
    let parts = upload(&s3, at, &[&content("x", 1, PART), b"y"]);
    s3.bucket("DELETE", "abort").send().expect_error(409, "BucketNotEmpty");
    abort(&s3, at).send().expect(204);
    abort(&s3, at).send().expect_error(404, "NoSuchUpload");
    complete(&s3, at, &parts).send().expect_error(404, "NoSuchUpload");
    part(&s3, at, 3, "z").send().expect_error(404, "NoSuchUpload");
    list_parts(&s3, at).send().expect_error(404, "NoSuchUpload");
    world.wait_files(&[0]);
    s3.bucket("DELETE", "abort").send().expect(204);
}

#[test]
fn completes_against_aborts_leave_a_whole_object_or_none() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("race");
    let mut kept = 0;
    for n in 0..8_u64 {
        let key = format!("k{n}");
        let id = begin(&s3, "race", &key);
        let at = ("race", key.as_str(), id.as_str());
        let bodies = [content(&key, 1, PART), content(&key, 2, 1000)];
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let parts = upload(&s3, at, &bodies);
        let (completed, aborted, late) = thread::scope(|scope| {
            let complete = scope.spawn(|| complete(&s3, at, &parts).send());
            let abort = scope.spawn(|| abort(&s3, at).send());
            let late = scope.spawn(|| part(&s3, at, 3, "late").send());
            (complete.join().unwrap(), abort.join().unwrap(), late.join().unwrap())
        });
        assert!(matches!(late.status, 200 | 404), "{}", late.short());
        let there = s3.get("race", &key).send();
        if completed.status == 200 {
            assert!(there.expect(200).body == bodies.concat());
            kept += 2;
        } else {
            completed.expect_error(404, "NoSuchUpload");
            aborted.expect(204);
            there.expect_error(404, "NoSuchKey");
        }
    }
    world.wait_files(&[kept]);
}

#[test]
fn two_completions_at_once_make_one_object() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("race");
    for n in 0..5_u64 {
        let key = format!("k{n}");
        let id = begin(&s3, "race", &key);
        let at = ("race", key.as_str(), id.as_str());
        let body = content(&key, 0, 300_000);
        let parts = upload(&s3, at, &[&body]);
        let answers: Vec<Response> = thread::scope(|scope| {
            let both = [
                scope.spawn(|| complete(&s3, at, &parts).send()),
                scope.spawn(|| complete(&s3, at, &parts).send()),
            ];
            both.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(answers.iter().any(|got| got.status == 200), "{}", answers[0].short());
        for got in &answers {
            assert!(got.status == 200 || got.code() == "NoSuchUpload", "{}", got.short());
        }
        assert!(s3.read("race", &key) == body);
    }
}

#[test]
fn completion_obeys_conditions() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("cond");
    s3.put("cond", "k", "before").send().expect(200);
    let id = begin(&s3, "cond", "k");
    let at = ("cond", "k", id.as_str());
    let parts = upload(&s3, at, &[b"after"]);
    let first = complete(&s3, at, &parts).header("if-none-match", "*");
    first.send().expect_error(412, "PreconditionFailed");
    let other = complete(&s3, at, &parts).header("if-match", &etag(b"other"));
    other.send().expect_error(412, "PreconditionFailed");
    assert_eq!(s3.read("cond", "k"), b"before");
    complete(&s3, at, &parts).header("if-match", &etag(b"before")).send().expect(200);
    assert_eq!(s3.read("cond", "k"), b"after");
}

#[test]
fn parts_can_be_copied_from_objects() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("copy");
    s3.create_bucket("source");
    let body = content("src", 0, 12 * MIB);
    s3.put("source", "a b", body.clone()).send().expect(200);
    let id = begin(&s3, "copy", "k");
    let at = ("copy", "k", id.as_str());
    let copy = |n: u32| part(&s3, at, n, "").header("x-amz-copy-source", "/source/a%20b");
    let range = |n: u32, range: &str| copy(n).header("x-amz-copy-source-range", range).send();
    let first = range(1, &format!("bytes=3-{}", PART + 2)).expect(200);
    assert_eq!(first.xml("ETag"), Some(etag(&body[3..PART + 3])), "{}", first.short());
    let whole = copy(2).send().expect(200);
    assert_eq!(whole.xml("ETag"), Some(etag(&body)));
    part(&s3, at, 3, "tail").send().expect(200);
    let end = body.len();
    for wrong in [
        format!("bytes=0-{end}"),
        format!("bytes={end}-{end}"),
        "bytes=5-3".into(),
        "bytes=0-".into(),
        "0-5".into(),
    ] {
        let got = range(4, &wrong);
        assert!(matches!(got.status, 400 | 416), "{wrong}: {}", got.short());
    }
    let refused = copy(4).header("x-amz-copy-source-if-match", "\"00\"").send();
    refused.expect_error(412, "PreconditionFailed");
    let none = part(&s3, at, 4, "").header("x-amz-copy-source", "/source/never").send();
    none.expect_error(404, "NoSuchKey");
    let parts = [(1, etag(&body[3..PART + 3])), (2, etag(&body)), (3, etag(b"tail"))];
    complete(&s3, at, &parts).send().expect(200);
    s3.delete("source", "a b").send().expect(204);
    assert!(s3.read("copy", "k") == [&body[3..PART + 3], &body, b"tail"].concat());
    s3.delete("copy", "k").send().expect(204);
    world.wait_files(&[0]);
}

#[test]
fn checksums_of_parts_make_one_of_the_object() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("sums");
    let bodies = [content("s", 1, PART), content("s", 2, 1000)];
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    for (algorithm, kind) in [
        ("crc32", "COMPOSITE"),
        ("sha256", "COMPOSITE"),
        ("crc32c", "FULL_OBJECT"),
        ("crc64nvme", "FULL_OBJECT"),
    ] {
        let key = format!("{algorithm} {kind}");
        let upper = algorithm.to_uppercase();
        let name = format!("x-amz-checksum-{algorithm}");
        let request = s3.object("POST", "sums", &key).query("uploads");
        let request = request.header("x-amz-checksum-algorithm", &upper);
        let begun = request.header("x-amz-checksum-type", kind).send().expect(200);
        let id = begun.xml("UploadId").unwrap();
        let at = ("sums", key.as_str(), id.as_str());
        let mut parts = String::new();
        for (n, body) in (1..).zip(&bodies) {
            let sum = checksum(algorithm, body);
            part(&s3, at, n, *body).header(&name, &sum).send().expect(200);
            let etag = crate::wire::escape(&etag(body));
            parts += &format!(
                "<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag><Checksum{upper}>{sum}</Checksum{upper}></Part>"
            );
        }
        let complete = |parts: &str| {
            let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            let request = s3.object("POST", "sums", &key).param("uploadId", &id).body(body);
            request.header("x-amz-checksum-type", kind)
        };
        let wrong = parts.replace(&checksum(algorithm, bodies[1]), &checksum(algorithm, b"other"));
        assert_eq!(complete(&wrong).send().status, 400, "{key}");
        let want = if kind == "COMPOSITE" {
            composite_checksum(algorithm, &bodies)
        } else {
            checksum(algorithm, &bodies.concat())
        };
        if kind == "FULL_OBJECT" {
            let wrong = complete(&parts).header(&name, &checksum(algorithm, b"other"));
            wrong.send().expect_error(400, "BadDigest");
        }
        complete(&parts).send().expect(200);
        let head =
            s3.head("sums", &key).header("x-amz-checksum-mode", "ENABLED").send().expect(200);
        assert_eq!(head.header(&name), Some(want.as_str()), "{key}: {}", head.short());
        assert_eq!(head.header("x-amz-checksum-type"), Some(kind));
        let got = s3
            .get("sums", &key)
            .query("attributes")
            .header("x-amz-object-attributes", "ObjectParts,Checksum");
        let got = got.send().expect(200);
        assert_eq!(
            got.xml("PartsCount").or(got.xml("TotalPartsCount")).as_deref(),
            Some("2"),
            "{}",
            got.short()
        );
    }
}

#[test]
fn parts_and_uploads_are_listed_page_by_page() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("lists");
    let id = begin(&s3, "lists", "p");
    let at = ("lists", "p", id.as_str());
    for n in [1, 3, 7, 10] {
        part(&s3, at, n, format!("part {n}")).send().expect(200);
    }
    let got = list_parts(&s3, at).query("max-parts=2").send().expect(200);
    assert_eq!(fields(&got.blocks("Part").concat(), "PartNumber"), ["1", "3"]);
    assert_eq!(field(&got.blocks("Part")[1], "ETag"), Some(etag(b"part 3")));
    assert_eq!(field(&got.blocks("Part")[1], "Size").as_deref(), Some("6"));
    assert_eq!(got.xml("IsTruncated").as_deref(), Some("true"));
    assert_eq!(got.xml("NextPartNumberMarker").as_deref(), Some("3"));
    let got = list_parts(&s3, at).query("max-parts=2&part-number-marker=3").send().expect(200);
    assert_eq!(fields(&got.blocks("Part").concat(), "PartNumber"), ["7", "10"]);
    assert_eq!(got.xml("IsTruncated").as_deref(), Some("false"));

    let mut ids = vec![("p".to_owned(), id.clone())];
    for key in ["a", "b/1", "b/2", "p", "p", "z"] {
        ids.push((key.to_owned(), begin(&s3, "lists", key)));
    }
    let mut seen = Vec::new();
    let mut markers = String::new();
    for _ in 0..10 {
        let got = s3.bucket("GET", "lists").query("uploads").query("max-uploads=2");
        let got = if markers.is_empty() { got } else { got.query(&markers) };
        let got = got.send().expect(200);
        for block in got.blocks("Upload") {
            seen.push((field(&block, "Key").unwrap(), field(&block, "UploadId").unwrap()));
        }
        if got.xml("IsTruncated").as_deref() == Some("false") {
            break;
        }
        let encode = |tag: &str| crate::signer::encode(&got.xml(tag).unwrap(), "");
        markers = format!(
            "key-marker={}&upload-id-marker={}",
            encode("NextKeyMarker"),
            encode("NextUploadIdMarker")
        );
    }
    let keys: Vec<&str> = seen.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b/1", "b/2", "p", "p", "p", "z"]);
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
    let ask =
        |query: &str| s3.bucket("GET", "lists").query("uploads").query(query).send().expect(200);
    let got = ask("prefix=b%2F");
    assert_eq!(got.blocks("Upload").len(), 2);
    let got = ask("delimiter=%2F");
    assert_eq!(got.blocks("Upload").len(), 5, "{}", got.short());
    assert_eq!(fields(&got.blocks("CommonPrefixes").concat(), "Prefix"), ["b/"]);
    assert_eq!(ask("key-marker=b%2F2").blocks("Upload").len(), 4);
}

#[test]
fn a_bucket_may_bound_its_uploads() {
    let mut world = World::cold(1);
    world.config.buckets.push("name = \"capped\"\nmax_uploads = 2".into());
    world.start();
    let s3 = world.s3();
    let first = begin(&s3, "capped", "a");
    begin(&s3, "capped", "b");
    let third = s3.object("POST", "capped", "c").query("uploads").send();
    assert!(matches!(third.status, 400 | 503), "{}", third.short());
    abort(&s3, ("capped", "a", &first)).send().expect(204);
    begin(&s3, "capped", "c");
}

#[test]
fn an_upload_goes_on_after_a_restart() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("restart");
    let id = begin(&s3, "restart", "k");
    let at = ("restart", "k", id.as_str());
    part(&s3, at, 1, content("r", 1, PART)).send().expect(200);
    world.restart();
    let s3 = world.s3();
    part(&s3, at, 2, "end").send().expect(200);
    complete(&s3, at, &[(1, etag(&content("r", 1, PART))), (2, etag(b"end"))]).send().expect(200);
    assert!(s3.read("restart", "k") == [content("r", 1, PART), b"end".to_vec()].concat());
}
