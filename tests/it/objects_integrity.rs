//! Bodies that do not match what was promised of them store nothing.

use crate::content::{ALGORITHMS, checksum, content, etag, md5_base64};
use crate::signer::{Request, SIGNED_CHUNKS_TRAILER, UNSIGNED, UNSIGNED_TRAILER};
use crate::world::World;

/// Small bodies take another path than large ones.
const SIZES: [usize; 3] = [0, 500, 2_500_000];

/// Sends `request`, which must be refused so, and looks that the earlier object is untouched.
#[track_caller]
fn refused(world: &World, request: Request, code: &str) {
    request.send().expect_error(400, code);
    let got = world.s3().get("sums", "k").send().expect(200);
    assert_eq!(got.text(), "before", "a refused write changed the object");
}

fn world() -> World {
    let world = World::new();
    world.s3().create_bucket("sums");
    world.s3().put("sums", "k", "before").send().expect(200);
    world
}

#[test]
fn content_md5_is_checked() {
    let mut world = world();
    let s3 = world.s3();
    for size in SIZES {
        let body = content("md5", 1, size);
        let put = |md5: &str| s3.put("sums", "k", body.clone()).header("content-md5", md5);
        refused(&world, put(&md5_base64(b"other")), "BadDigest");
        refused(&world, put("!"), "InvalidDigest");
        refused(&world, put("YWJj"), "InvalidDigest");
        s3.put("sums", "ok", body.clone()).md5().send().expect(200);
        assert!(s3.read("sums", "ok") == body);
    }
    world.wait_files(&[2]);
}

#[test]
fn the_sha256_of_the_signature_is_checked() {
    let world = world();
    let s3 = world.s3();
    for size in SIZES {
        let body = content("sha", 1, size);
        let wrong = crate::content::hex(&[7; 32]);
        let put = s3.put("sums", "k", body).sha256(&wrong);
        refused(&world, put, "XAmzContentSHA256Mismatch");
    }
    let flipped = s3.put("sums", "k", content("sha", 2, 5000)).flip_byte(4000);
    refused(&world, flipped, "XAmzContentSHA256Mismatch");
}

#[test]
fn every_checksum_is_checked_in_the_header() {
    let mut world = world();
    let s3 = world.s3();
    for size in SIZES {
        let body = content("header", 1, size);
        for algorithm in ALGORITHMS {
            let name = format!("x-amz-checksum-{algorithm}");
            let put =
                |key: &str, value: &str| s3.put("sums", key, body.clone()).header(&name, value);
            refused(&world, put("k", &checksum(algorithm, b"other")), "BadDigest");
            refused(&world, put("k", "YQ=="), "InvalidRequest");
            let right = checksum(algorithm, &body);
            let done = put("ok", &right).send().expect(200);
            assert_eq!(done.header(&name), Some(right.as_str()), "{}", done.short());
            checksum_is_told(&world, &name, &right);
        }
    }
    world.wait_files(&[2]);
}

/// A read tells the checksum when it is asked for it.
#[track_caller]
fn checksum_is_told(world: &World, name: &str, value: &str) {
    let s3 = world.s3();
    for method in ["GET", "HEAD"] {
        let asked = s3.object(method, "sums", "ok").header("x-amz-checksum-mode", "ENABLED");
        let got = asked.send().expect(200);
        assert_eq!(got.header(name), Some(value), "{method} {}", got.short());
        assert_eq!(got.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
        let got = s3.object(method, "sums", "ok").send().expect(200);
        assert_eq!(got.header(name), None, "{method}: nobody asked");
    }
}

#[test]
fn every_checksum_is_checked_in_the_trailer() {
    let mut world = world();
    let s3 = world.s3();
    for size in SIZES {
        let body = content("trailer", 1, size);
        for algorithm in ALGORITHMS {
            let name = format!("x-amz-checksum-{algorithm}");
            for mode in [UNSIGNED_TRAILER, SIGNED_CHUNKS_TRAILER] {
                let put = |key: &str| s3.put("sums", key, body.clone());
                let wrong = put("k").trailer(mode, &name, &checksum(algorithm, b"other"));
                refused(&world, wrong, "BadDigest");
                let right = put("ok").right_trailer(mode, algorithm).send().expect(200);
                assert_eq!(right.must("etag"), etag(&body));
                checksum_is_told(&world, &name, &checksum(algorithm, &body));
            }
        }
    }
    world.wait_files(&[2]);
}

#[test]
fn a_chunked_body_that_is_broken_stores_nothing() {
    let mut world = world();
    let s3 = world.s3();
    for size in [500, 2_500_000] {
        let put = || s3.put("sums", "k", content("broken", 1, size));
        let trailing = |mode| put().right_trailer(mode, "crc32");
        let size = size as u64;
        let broken = [
            ("one byte changed", put().signed_chunks().flip_byte(300)),
            ("one byte changed, unsigned", trailing(UNSIGNED_TRAILER).flip_byte(300)),
            ("one byte changed, signed trailer", trailing(SIGNED_CHUNKS_TRAILER).flip_byte(300)),
            ("chunk signature", put().signed_chunks().wrong_chunk_signature()),
            ("trailer signature", trailing(SIGNED_CHUNKS_TRAILER).wrong_trailer_signature()),
            ("no last chunk", put().signed_chunks().without_terminal_chunk()),
            ("no last chunk, unsigned", trailing(UNSIGNED_TRAILER).without_terminal_chunk()),
            ("no trailer", trailing(UNSIGNED_TRAILER).without_trailer()),
            ("no signed trailer", trailing(SIGNED_CHUNKS_TRAILER).without_trailer()),
            ("too much declared", trailing(UNSIGNED_TRAILER).decoded_length(size + 1)),
            ("too little declared", trailing(UNSIGNED_TRAILER).decoded_length(size - 1)),
            ("cut in a chunk", trailing(UNSIGNED_TRAILER).cut_body(400)),
        ];
        for (what, request) in broken {
            let got = request.send();
            let told = (400..500).contains(&got.status) || got.status == 0;
            assert!(told, "{what} of {size}: {}", got.short());
            assert_eq!(s3.read("sums", "k"), b"before", "{what} of {size} changed the object");
        }
    }
    world.wait_files(&[1]);
}

#[test]
fn chunks_of_any_size_pass_and_memory_stays() {
    let mut world = world();
    let s3 = world.s3();
    let before = world.resident_kib();
    // One unsigned chunk of 48 MiB: it is re-framed as it passes.
    let body = content("big chunk", 1, 48 << 20);
    let put = s3.put("sums", "big", body.clone()).right_trailer(UNSIGNED_TRAILER, "crc64nvme");
    put.chunk_size(64 << 20).send().expect(200);
    assert!(s3.read("sums", "big") == body);
    if let (Some(before), Some(after)) = (before, world.resident_kib()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 64 << 10, "resident memory grew by {grown} KiB");
    }
    let put = s3.put("sums", "k", content("signed chunk", 1, 17 << 20)).signed_chunks();
    let got = put.chunk_size(17 << 20).send();
    assert!((400..500).contains(&got.status) || got.status == 0, "{}", got.short());
    assert_eq!(s3.read("sums", "k"), b"before");
    let tiny = content("tiny chunks", 1, 3000);
    s3.put("sums", "tiny", tiny.clone()).signed_chunks().chunk_size(1).send().expect(200);
    assert!(s3.read("sums", "tiny") == tiny);
    world.wait_files(&[3]);
}

#[test]
fn two_checksums_or_one_unknown_are_refused() {
    let world = world();
    let s3 = world.s3();
    let put = s3.put("sums", "k", "x").header("x-amz-checksum-crc32", &checksum("crc32", b"x"));
    let put = put.header("x-amz-checksum-sha1", &checksum("sha1", b"x"));
    refused(&world, put, "InvalidRequest");
    let put = s3.put("sums", "k", "x").sha256(UNSIGNED).header("x-amz-checksum-algorithm", "MD4");
    assert!(put.send().status == 400);
    assert_eq!(s3.read("sums", "k"), b"before");
}

#[test]
fn an_asked_for_checksum_is_computed() {
    let world = world();
    let s3 = world.s3();
    let put = s3.put("sums", "plain", "some text").send().expect(200);
    let sum = checksum("crc64nvme", b"some text");
    assert_eq!(put.header("x-amz-checksum-crc64nvme"), Some(sum.as_str()), "S3's own default");
    let get = s3.get("sums", "plain").header("x-amz-checksum-mode", "ENABLED").send().expect(200);
    assert_eq!(get.header("x-amz-checksum-crc64nvme"), Some(sum.as_str()));
    // A part of an object does not come with the sum of all of it.
    let get = s3.get("sums", "plain").header("x-amz-checksum-mode", "ENABLED");
    let part = get.header("range", "bytes=0-3").send().expect(206);
    assert_eq!(part.header("x-amz-checksum-crc64nvme"), None);
}

#[test]
fn attributes_are_those_that_were_asked_for() {
    let world = world();
    let s3 = world.s3();
    let sum = checksum("sha256", b"some text");
    let put = s3.put("sums", "attr", "some text").header("x-amz-checksum-sha256", &sum);
    put.send().expect(200);
    let ask = |what: &str| {
        s3.get("sums", "attr").query("attributes").header("x-amz-object-attributes", what).send()
    };
    let got = ask("ETag,Checksum,ObjectSize,StorageClass").expect(200);
    assert_eq!(got.xml("ETag"), Some(etag(b"some text").trim_matches('"').to_owned()));
    assert_eq!(got.xml("ChecksumSHA256").as_deref(), Some(sum.as_str()));
    assert_eq!(got.xml("ObjectSize").as_deref(), Some("9"));
    assert_eq!(got.xml("StorageClass").as_deref(), Some("STANDARD"));
    assert!(got.header("last-modified").is_some());
    let got = ask("ObjectSize").expect(200);
    assert_eq!((got.xml("ETag"), got.xml("ObjectSize")), (None, Some("9".into())));
    assert_eq!(ask("Nonsense").status, 400);
    let get = s3.get("sums", "never").query("attributes");
    get.header("x-amz-object-attributes", "ETag").send().expect_error(404, "NoSuchKey");
}
