//! The signer held against published examples and against a server of another make, so that a
//! refusal by Larder means something.

use crate::content::{checksum, content};
use crate::form::Form;
use crate::other_s3::OtherS3;
use crate::signer::{Creds, SIGNED_CHUNKS_TRAILER, UNSIGNED, UNSIGNED_TRAILER};
use crate::sigv4::{Signer, decode, encode};

/// The examples of "Signature Calculations for the Authorization Header" use this key and time.
fn example() -> Signer {
    let creds = Creds {
        id: "AKIAIOSFODNN7EXAMPLE".into(),
        secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
    };
    Signer::at(&creds, "us-east-1", 1_369_353_600)
}

#[test]
fn signatures_are_those_of_the_published_examples() {
    let signer = example();
    assert_eq!(signer.time, "20130524T000000Z");
    let canonical = "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n\
        x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
        x-amz-date:20130524T000000Z\n\nhost;range;x-amz-content-sha256;x-amz-date\n\
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        signer.sign(canonical),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
}

#[test]
fn chunk_signatures_are_those_of_the_published_example() {
    let signer = example();
    let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let first = signer.sign_chunk(seed, &[b'a'; 65536]);
    assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
    let second = signer.sign_chunk(&first, &[b'a'; 1024]);
    assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
    let last = signer.sign_chunk(&second, b"");
    assert_eq!(last, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9");
}

#[test]
fn text_is_encoded_and_decoded() {
    assert_eq!(encode("a b/ü~*", "/"), "a%20b/%C3%BC~%2A");
    assert_eq!(decode("a%20b/%C3%BC~%2A"), "a b/ü~*");
}

#[test]
fn another_server_understands_every_form_of_signature() {
    let other = OtherS3::start();
    let s3 = other.s3();
    let bucket = OtherS3::BUCKET;
    let body = content("signer", 1, 200_000);
    let check = |key: &str| assert!(s3.read(bucket, key) == body, "{key} came back changed");

    s3.put(bucket, "a b+c/ü", body.clone()).send().expect(200);
    check("a b+c/ü");
    s3.put(bucket, "unsigned", body.clone()).sha256(UNSIGNED).send().expect(200);
    check("unsigned");
    s3.put(bucket, "chunks", body.clone()).signed_chunks().send().expect(200);
    check("chunks");
    for mode in [SIGNED_CHUNKS_TRAILER, UNSIGNED_TRAILER] {
        s3.put(bucket, mode, body.clone()).right_trailer(mode, "crc32").send().expect(200);
        check(mode);
    }
    s3.put(bucket, "query", body.clone()).presigned("60").send().expect(200);
    check("query");
    assert!(s3.get(bucket, "query").presigned("60").send().expect(200).body == body);
    let form = Form::new(bucket, "form", body.clone()).send(&s3);
    assert!((200..300).contains(&form.status), "{}", form.short());
    check("form");
    let crc = checksum("crc32", &body);
    s3.put(bucket, "crc", body.clone()).header("x-amz-checksum-crc32", &crc).send().expect(200);

    s3.get(bucket, "query").secret("wrong").send().expect(403);
    s3.get(bucket, "query").presigned("60").secret("wrong").send().expect(403);
    let broken = s3.put(bucket, "bad", body.clone()).signed_chunks().wrong_chunk_signature().send();
    assert!(broken.status >= 400, "{}", broken.short());
    let mut form = Form::new(bucket, "bad", body);
    form.wrong_signature = true;
    assert!(form.send(&s3).status >= 400);
}
