//! Buckets, and the settings of S3 that Larder does not have: setting one is refused and changes
//! nothing, reading one gives S3's own answer.

use crate::content::content;
use crate::signer::{Creds, S3};
use crate::wire::fields;
use crate::world::{Key, World};

/// Sub-resources of a bucket.
const OF_BUCKET: [&str; 21] = [
    "accelerate",
    "acl",
    "analytics&id=x",
    "cors",
    "encryption",
    "intelligent-tiering&id=x",
    "inventory&id=x",
    "logging",
    "metrics&id=x",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "versioning",
    "website",
    "metadataTable",
    "policyStatus",
];
/// Sub-resources of an object.
const OF_OBJECT: [&str; 3] = ["acl", "legal-hold", "retention"];

fn world() -> (World, S3) {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("plain");
    s3.put("plain", "k", "body").send().expect(200);
    (world, s3)
}

#[track_caller]
fn untouched(s3: &S3, what: &str) {
    assert_eq!(s3.read("plain", "k"), b"body", "{what}");
    let got = s3.bucket("GET", "plain").query("list-type=2").send().expect(200);
    assert_eq!(fields(&got.text(), "Key"), ["k"], "{what}");
}

#[test]
fn setting_what_is_not_supported_is_refused_and_changes_nothing() {
    let (_world, s3) = world();
    for sub in OF_BUCKET {
        for method in ["PUT", "DELETE"] {
            let got = s3.bucket(method, "plain").query(sub).body("<X/>").md5().send();
            let refused = matches!(got.status, 400 | 405 | 501);
            assert!(refused, "{method} ?{sub}: {}", got.short());
            untouched(&s3, sub);
        }
    }
    for sub in OF_OBJECT {
        let got = s3.object("PUT", "plain", "k").query(sub).body("<X/>").md5().send();
        assert!(matches!(got.status, 400 | 501), "PUT ?{sub}: {}", got.short());
        untouched(&s3, sub);
    }
    for query in ["restore", "select&select-type=2", "torrent"] {
        let got = s3.object("POST", "plain", "k").query(query).body("<X/>").md5().send();
        assert!((400..=501).contains(&got.status), "POST ?{query}: {}", got.short());
        untouched(&s3, query);
    }
}

#[test]
fn well_formed_settings_are_not_implemented() {
    let (_world, s3) = world();
    let table = [
        (
            "versioning",
            "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
        ),
        (
            "cors",
            "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>",
        ),
        ("policy", "{\"Version\":\"2012-10-17\",\"Statement\":[]}"),
        ("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"),
        (
            "object-lock",
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
        ),
        (
            "encryption",
            "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
        ),
        (
            "website",
            "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument></WebsiteConfiguration>",
        ),
        (
            "requestPayment",
            "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>",
        ),
        ("notification", "<NotificationConfiguration/>"),
    ];
    for (sub, body) in table {
        let got = s3.bucket("PUT", "plain").query(sub).body(body).md5().send();
        assert_eq!(
            (got.status, got.code().as_str()),
            (501, "NotImplemented"),
            "?{sub}: {}",
            got.short()
        );
        untouched(&s3, sub);
    }
    for header in [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-legal-hold", "ON"),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "uri=\"http://acs.amazonaws.com/groups/global/AllUsers\""),
        ("x-amz-website-redirect-location", "/other"),
        ("x-amz-write-offset-bytes", "4"),
    ] {
        let put = s3.put("plain", "k", "new body").header(header.0, header.1).send();
        let kept = header.0 == "x-amz-website-redirect-location" && put.status == 200;
        if kept {
            s3.put("plain", "k", "body").send().expect(200);
            continue;
        }
        assert!(matches!(put.status, 400 | 501), "{header:?}: {}", put.short());
        untouched(&s3, header.0);
    }
}

#[test]
fn reading_what_is_not_set_has_the_answer_of_s3() {
    let (_world, s3) = world();
    let table = [
        ("policy", 404, "NoSuchBucketPolicy"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("encryption", 404, "ServerSideEncryptionConfigurationNotFoundError"),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
        ("tagging", 404, "NoSuchTagSet"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("publicAccessBlock", 404, "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", 404, "OwnershipControlsNotFoundError"),
    ];
    for (sub, status, code) in table {
        let got = s3.bucket("GET", "plain").query(sub).send();
        let plain_refusal = got.status == 501 && got.code() == "NotImplemented";
        let named = !matches!(
            sub,
            "tagging" | "website" | "replication" | "publicAccessBlock" | "ownershipControls"
        );
        if named || !plain_refusal {
            got.expect_error(status, code);
        }
        let got = s3.bucket("GET", "nowhere").query(sub).send();
        assert!(
            matches!(got.code().as_str(), "NoSuchBucket" | "NotImplemented"),
            "{}",
            got.short()
        );
    }
    let got = s3.bucket("GET", "plain").query("versioning").send().expect(200);
    assert_eq!(got.xml("Status"), None);
    assert!(got.text().contains("<VersioningConfiguration"));
    for got in
        [s3.bucket("GET", "plain").query("acl").send(), s3.get("plain", "k").query("acl").send()]
    {
        let got = got.expect(200);
        assert_eq!(got.xml("Permission").as_deref(), Some("FULL_CONTROL"));
        assert!(got.text().contains("<Owner>"));
    }
    s3.get("plain", "never").query("acl").send().expect_error(404, "NoSuchKey");
    let got = s3.bucket("GET", "plain").query("location").send().expect(200);
    assert_eq!(got.xml("LocationConstraint").as_deref(), Some(""), "us-east-1 has no name there");
}

#[test]
fn an_unknown_sub_resource_is_never_a_listing() {
    let (_world, s3) = world();
    for sub in [
        "analytics",
        "inventory",
        "metrics",
        "intelligent-tiering",
        "session",
        "requestPayment",
        "logging",
    ] {
        let got = s3.bucket("GET", "plain").query(sub).send();
        assert!(!got.text().contains("<ListBucketResult"), "?{sub}: {}", got.short());
    }
    for sub in ["retention", "legal-hold", "torrent"] {
        let got = s3.get("plain", "k").query(sub).send();
        assert_ne!(got.body, b"body", "?{sub}");
    }
}

#[test]
fn acl_headers_that_change_nothing_are_accepted() {
    let (_world, s3) = world();
    for acl in ["private", "bucket-owner-full-control"] {
        s3.put("plain", acl, "x").header("x-amz-acl", acl).send().expect(200);
        let copy = s3.copy(("plain", acl), ("plain", "copy")).header("x-amz-acl", acl);
        copy.send().expect(200);
        let bucket = format!("with-{}", acl.len());
        s3.bucket("PUT", &bucket).header("x-amz-acl", acl).send().expect(200);
    }
    let public = s3.bucket("PUT", "public").header("x-amz-acl", "public-read").send();
    assert_eq!(public.status, 501, "{}", public.short());
    s3.bucket("HEAD", "public").send().expect(404);
}

#[test]
fn buckets_are_made_listed_and_removed() {
    let world = World::new();
    let s3 = world.s3();
    s3.bucket("HEAD", "first").send().expect(404);
    let made = s3.bucket("PUT", "first").send().expect(200);
    assert_eq!(made.header("location"), Some("/first"));
    let body = "<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>";
    s3.bucket("PUT", "second").body(body).send().expect(200);
    s3.bucket("PUT", "first").send().expect(200);
    let head = s3.bucket("HEAD", "first").send().expect(200);
    assert_eq!(head.header("x-amz-bucket-region"), Some("us-east-1"));
    let list = s3.request("GET", "/").send().expect(200);
    let buckets = list.blocks("Bucket");
    assert_eq!(fields(&buckets.concat(), "Name"), ["first", "second"]);
    assert!(fields(&buckets[0], "CreationDate")[0].ends_with('Z'));

    s3.put("first", "k", content("k", 0, 100)).send().expect(200);
    s3.bucket("DELETE", "first").send().expect_error(409, "BucketNotEmpty");
    s3.delete("first", "k").send().expect(204);
    s3.bucket("DELETE", "first").send().expect(204);
    s3.bucket("DELETE", "first").send().expect_error(404, "NoSuchBucket");
    s3.bucket("HEAD", "first").send().expect(404);
    s3.create_bucket("first");
    s3.get("first", "k").send().expect_error(404, "NoSuchKey");
}

#[test]
fn a_bucket_belongs_to_who_made_it() {
    let mut world = World::cold(1);
    let (mine, theirs, nobody) = (Key::random(), Key::random(), Key::random());
    let makers = [&mine, &theirs].map(|key| Key { create_buckets: true, ..key.clone() });
    world.config.keys.extend(makers);
    world.config.keys.push(nobody.clone());
    world.start();
    let (mine, theirs) = (world.s3_as(&mine.creds), world.s3_as(&theirs.creds));
    let nobody = world.s3_as(&nobody.creds);
    mine.create_bucket("mine");
    mine.create_bucket("mine");
    mine.put("mine", "k", "x").send().expect(200);
    theirs.bucket("PUT", "mine").send().expect_error(409, "BucketAlreadyExists");
    theirs.get("mine", "k").send().expect_error(403, "AccessDenied");
    nobody.bucket("PUT", "other").send().expect_error(403, "AccessDenied");
    theirs.create_bucket("theirs");
    let names = |s3: &S3| {
        let got = s3.request("GET", "/").send().expect(200);
        fields(&got.blocks("Bucket").concat(), "Name")
    };
    assert_eq!(names(&mine), ["mine"]);
    assert_eq!(names(&theirs), ["theirs"]);
    assert_eq!(names(&nobody), [""; 0]);
    mine.delete("mine", "k").send().expect(204);
    mine.bucket("DELETE", "mine").send().expect(204);
}

#[test]
fn a_domain_switches_virtual_hosts_on() {
    let world = World::with(1, |config| config.server.push("domain = \"s3.example.org\"".into()));
    let s3 = world.s3();
    s3.create_bucket("hosted");
    s3.put("hosted", "a b/c", "body").send().expect(200);
    let creds: &Creds = &s3.creds;
    let send = |method: &str, path: &str, host: &str| {
        s3.with(creds).request(method, path).host(host).send()
    };
    assert_eq!(send("GET", "/a%20b/c", "hosted.s3.example.org").expect(200).text(), "body");
    send("GET", "/c", "hosted.s3.example.org").expect_error(404, "NoSuchKey");
    assert_eq!(send("GET", "/hosted/a%20b/c", "s3.example.org").expect(200).text(), "body");
    let port = world.config.port;
    let host = format!("hosted.s3.example.org:{port}");
    assert_eq!(send("GET", "/a%20b/c", &host).expect(200).text(), "body");
    send("GET", "/x", "nowhere.s3.example.org").expect_error(404, "NoSuchBucket");
}
