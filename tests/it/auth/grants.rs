//! Grants: a row for every operation, and the edges of prefixes, presets and create-only keys.

use crate::content::etag;
use crate::multipart::{abort, begin, complete, part};
use crate::objects::delete_many;
use crate::signer::{Request, S3};
use crate::wire::{field, fields};
use crate::world::{Key, World};

const ACTIONS: [&str; 6] = ["read", "list", "create", "write", "delete", "admin"];

/// An operation: what the owner of all prepares, the request, and who may send it.
struct Row {
    name: &'static str,
    prepare: fn(&S3) -> String,
    request: fn(&S3, &str) -> Request,
    /// Each of these actions is enough by itself.
    may: &'static [&'static str],
    /// None of these is.
    may_not: &'static [&'static str],
    status: u16,
}

fn nothing(_: &S3) -> String {
    String::new()
}

fn object(all: &S3) -> String {
    all.put("b-grants", "k", "body").header("x-amz-tagging", "a=b").send().expect(200);
    String::new()
}

fn no_object(all: &S3) -> String {
    all.delete("b-grants", "k").send().expect(204);
    String::new()
}

fn an_upload(all: &S3) -> String {
    no_object(all);
    let id = begin(all, "b-grants", "k");
    part(all, ("b-grants", "k", &id), 1, "part").send().expect(200);
    id
}

fn an_upload_onto_an_object(all: &S3) -> String {
    let id = an_upload(all);
    object(all);
    id
}

fn the_part() -> Vec<(u32, String)> {
    vec![(1, etag(b"part"))]
}

const ONLY_READ: &[&str] = &["list", "create", "write", "delete", "admin"];
const ONLY_LIST: &[&str] = &["read", "create", "write", "delete", "admin"];
const ONLY_WRITE: &[&str] = &["read", "list", "create", "delete", "admin"];
const ONLY_DELETE: &[&str] = &["read", "list", "create", "write", "admin"];
const WRITERS: &[&str] = &["create", "write"];
const NO_WRITERS: &[&str] = &["read", "list", "delete", "admin"];

fn bucket_rows() -> Vec<Row> {
    let row = |name, request, may, may_not, status| Row {
        name,
        prepare: object,
        request,
        may,
        may_not,
        status,
    };
    vec![
        row("ListBuckets", |s3, _| s3.request("GET", "/"), &ACTIONS, &[], 200),
        row("HeadBucket", |s3, _| s3.bucket("HEAD", "b-grants"), &["list"], ONLY_LIST, 200),
        row(
            "GetBucketLocation",
            |s3, _| s3.bucket("GET", "b-grants").query("location"),
            &["list"],
            ONLY_LIST,
            200,
        ),
        row("ListObjects", |s3, _| s3.bucket("GET", "b-grants"), &["list"], ONLY_LIST, 200),
        row(
            "ListObjectsV2",
            |s3, _| s3.bucket("GET", "b-grants").query("list-type=2"),
            &["list"],
            ONLY_LIST,
            200,
        ),
        row(
            "ListObjectVersions",
            |s3, _| s3.bucket("GET", "b-grants").query("versions"),
            &["list"],
            ONLY_LIST,
            200,
        ),
    ]
}

fn object_rows() -> Vec<Row> {
    let row = |name, request, may, may_not, status| Row {
        name,
        prepare: object,
        request,
        may,
        may_not,
        status,
    };
    vec![
        row(
            "ListMultipartUploads",
            |s3, _| s3.bucket("GET", "b-grants").query("uploads"),
            &["list"],
            ONLY_LIST,
            200,
        ),
        row("GetObject", |s3, _| s3.get("b-grants", "k"), &["read"], ONLY_READ, 200),
        row("HeadObject", |s3, _| s3.head("b-grants", "k"), &["read"], ONLY_READ, 200),
        row(
            "GetObjectTagging",
            |s3, _| s3.get("b-grants", "k").query("tagging"),
            &["read"],
            ONLY_READ,
            200,
        ),
        row(
            "GetObjectAttributes",
            |s3, _| {
                s3.get("b-grants", "k")
                    .query("attributes")
                    .header("x-amz-object-attributes", "ETag")
            },
            &["read"],
            ONLY_READ,
            200,
        ),
        Row {
            name: "ListParts",
            prepare: an_upload,
            request: |s3, id| s3.get("b-grants", "k").param("uploadId", id),
            may: &["read"],
            may_not: &["create", "write", "delete", "admin"],
            status: 200,
        },
    ]
}

fn write_rows() -> Vec<Row> {
    let row = |name, prepare, request, may, may_not, status| Row {
        name,
        prepare,
        request,
        may,
        may_not,
        status,
    };
    vec![
        row(
            "PutObject, new",
            no_object,
            |s3, _| s3.put("b-grants", "k", "x"),
            WRITERS,
            NO_WRITERS,
            200,
        ),
        row(
            "PutObject, over",
            object,
            |s3, _| s3.put("b-grants", "k", "x"),
            &["write"],
            ONLY_WRITE,
            200,
        ),
        row(
            "DeleteObject",
            object,
            |s3, _| s3.delete("b-grants", "k"),
            &["delete"],
            ONLY_DELETE,
            204,
        ),
        row(
            "PutObjectTagging",
            object,
            |s3, _| {
                let tags =
                    "<Tagging><TagSet><Tag><Key>x</Key><Value>y</Value></Tag></TagSet></Tagging>";
                s3.object("PUT", "b-grants", "k").query("tagging").body(tags).md5()
            },
            &["write"],
            ONLY_WRITE,
            200,
        ),
        row(
            "DeleteObjectTagging",
            object,
            |s3, _| s3.delete("b-grants", "k").query("tagging"),
            &["delete"],
            &["read", "list", "create", "admin"],
            204,
        ),
    ]
}

fn upload_rows() -> Vec<Row> {
    let row = |name, prepare, request, may, may_not, status| Row {
        name,
        prepare,
        request,
        may,
        may_not,
        status,
    };
    vec![
        row(
            "CreateMultipartUpload",
            no_object,
            |s3, _| s3.object("POST", "b-grants", "k").query("uploads"),
            WRITERS,
            NO_WRITERS,
            200,
        ),
        row(
            "UploadPart",
            an_upload,
            |s3, id| part(s3, ("b-grants", "k", id), 2, "x"),
            WRITERS,
            NO_WRITERS,
            200,
        ),
        row(
            "CompleteMultipartUpload, new",
            an_upload,
            |s3, id| complete(s3, ("b-grants", "k", id), &the_part()),
            WRITERS,
            NO_WRITERS,
            200,
        ),
        row(
            "CompleteMultipartUpload, over",
            an_upload_onto_an_object,
            |s3, id| complete(s3, ("b-grants", "k", id), &the_part()),
            &["write"],
            ONLY_WRITE,
            200,
        ),
        row(
            "AbortMultipartUpload",
            an_upload,
            |s3, id| abort(s3, ("b-grants", "k", id)),
            &["delete"],
            &["read", "list", "admin"],
            204,
        ),
        row(
            "DeleteBucket",
            nothing,
            |s3, _| s3.bucket("DELETE", "b-empty"),
            &["admin"],
            &ACTIONS[..5],
            204,
        ),
    ]
}

/// A world with a key for each action and one without any grant, the last.
fn world_of_actions() -> (World, Vec<(&'static str, Key)>) {
    let mut world = World::cold(1);
    let mut keys: Vec<(&str, Key)> = ACTIONS
        .into_iter()
        .map(|action| {
            let quoted = format!("\"{action}\"");
            let key = Key::random().allow("b-grants", "", &quoted).allow("b-empty", "", &quoted);
            (action, key)
        })
        .collect();
    keys.push(("nothing", Key::random()));
    world.config.keys.extend(keys.iter().map(|(_, key)| key.clone()));
    world.start();
    (world, keys)
}

#[test]
fn every_operation_asks_for_its_grant() {
    let (world, keys) = world_of_actions();
    let all = world.s3();
    all.create_bucket("b-grants");
    let rows = [bucket_rows(), object_rows(), write_rows(), upload_rows()];
    for row in rows.into_iter().flatten() {
        for (action, key) in &keys {
            let may = row.may.contains(action);
            let may_not =
                row.may_not.contains(action) || (*action == "nothing" && !row.may_not.is_empty());
            if !may && !may_not {
                continue;
            }
            all.create_bucket("b-empty");
            let given = (row.prepare)(&all);
            let got = (row.request)(&world.s3_as(&key.creds), &given).send();
            let want = if may { row.status } else { 403 };
            assert_eq!(got.status, want, "{} with {action}: {}", row.name, got.short());
            if !may && !got.body.is_empty() {
                assert_eq!(got.code(), "AccessDenied", "{} with {action}", row.name);
            }
        }
    }
    let deleter = &keys.iter().find(|(action, _)| *action == "read").unwrap().1;
    object(&all);
    let got = delete_many(&world.s3_as(&deleter.creds), "b-grants", &["k"], false);
    assert!(got.status == 403 || field(&got.text(), "Code").as_deref() == Some("AccessDenied"));
    all.head("b-grants", "k").send().expect(200);
}

#[test]
fn copies_need_both_ends() {
    let mut world = World::cold(1);
    let reader = Key::random().allow("b-from", "", "\"read\"");
    let writer = Key::random().allow("b-into", "", "\"write\"");
    let both = Key::random().allow("b-from", "", "\"read\"").allow("b-into", "", "\"create\"");
    world.config.keys.extend([reader.clone(), writer.clone(), both.clone()]);
    world.start();
    let all = world.s3();
    all.create_bucket("b-from");
    all.create_bucket("b-into");
    all.put("b-from", "k", "source").send().expect(200);
    let copy = |key: &Key| world.s3_as(&key.creds).copy(("b-from", "k"), ("b-into", "k")).send();
    copy(&reader).expect_error(403, "AccessDenied");
    copy(&writer).expect_error(403, "AccessDenied");
    all.head("b-into", "k").send().expect(404);
    copy(&both).expect(200);
    copy(&both).expect_error(403, "AccessDenied");
    let id = begin(&all, "b-into", "m");
    for (key, status) in [(&reader, 403), (&writer, 403), (&both, 200)] {
        let request = part(&world.s3_as(&key.creds), ("b-into", "m", &id), 1, "");
        let got = request.header("x-amz-copy-source", "/b-from/k").send();
        assert_eq!(got.status, status, "{}", got.short());
    }
}

#[test]
fn nobody_learns_what_he_may_not_see() {
    let (world, keys) = world_of_actions();
    let all = world.s3();
    all.create_bucket("b-grants");
    all.create_bucket("b-hidden");
    all.put("b-hidden", "k", "x").send().expect(200);
    for (action, key) in &keys {
        let s3 = world.s3_as(&key.creds);
        for bucket in ["b-hidden", "b-nowhere"] {
            for request in [
                s3.get(bucket, "k"),
                s3.put(bucket, "k", "x"),
                s3.delete(bucket, "k"),
                s3.bucket("GET", bucket),
                s3.bucket("DELETE", bucket),
                s3.bucket("GET", bucket).query("policy"),
            ] {
                let got = request.send().expect_error(403, "AccessDenied");
                assert!(!got.text().contains("b-grants"), "{action}: {}", got.short());
            }
            s3.bucket("HEAD", bucket).send().expect(403);
        }
    }
    // A missing key is 404 only for those who may list.
    let reader = Key::random().allow("b-grants", "", "\"read\"");
    let lister = Key::random().allow("b-grants", "", "\"read\", \"list\"");
    let writer = Key::random().allow("b-grants", "", "\"write\", \"delete\"");
    let mut world = world;
    world.config.keys.extend([reader.clone(), lister.clone(), writer.clone()]);
    world.restart();
    let get = |key: &Key| world.s3_as(&key.creds).get("b-grants", "never").send();
    get(&reader).expect_error(403, "AccessDenied");
    get(&lister).expect_error(404, "NoSuchKey");
    world.s3_as(&reader.creds).head("b-grants", "never").send().expect(403);
    // Nor does a condition tell.
    let s3 = world.s3_as(&writer.creds);
    for request in [s3.put("b-grants", "never", "x"), s3.delete("b-grants", "never")] {
        let got = request.header("if-match", &etag(b"x")).send();
        got.expect_error(403, "AccessDenied");
    }
}

#[test]
fn a_prefix_is_a_border() {
    let mut world = World::cold(1);
    let all_but_admin = "\"read\", \"list\", \"write\", \"delete\"";
    let key = Key::random().allow("b-prefix", "home/me/", all_but_admin);
    world.config.keys.push(key.clone());
    world.start();
    let (all, s3) = (world.s3(), world.s3_as(&key.creds));
    all.create_bucket("b-prefix");
    for name in ["home/me/a", "home/me/b/c", "home/you/a", "home/me", "other"] {
        all.put("b-prefix", name, name).send().expect(200);
    }
    s3.put("b-prefix", "home/me/new", "x").send().expect(200);
    assert_eq!(s3.read("b-prefix", "home/me/a"), b"home/me/a");
    for name in ["home/me", "home/you/a", "other", "home/meow", "HOME/ME/A"] {
        s3.get("b-prefix", name).send().expect_error(403, "AccessDenied");
        s3.put("b-prefix", name, "x").send().expect_error(403, "AccessDenied");
        s3.delete("b-prefix", name).send().expect_error(403, "AccessDenied");
        s3.copy(("b-prefix", "home/me/a"), ("b-prefix", name))
            .send()
            .expect_error(403, "AccessDenied");
        let taken = s3.copy(("b-prefix", name), ("b-prefix", "home/me/taken")).send();
        taken.expect_error(403, "AccessDenied");
    }
    let list = |prefix: &str| {
        s3.bucket("GET", "b-prefix").query("list-type=2").param("prefix", prefix).send()
    };
    let got = list("home/me/").expect(200);
    assert_eq!(
        fields(&got.blocks("Contents").concat(), "Key"),
        ["home/me/a", "home/me/b/c", "home/me/new"]
    );
    list("home/me/b").expect(200);
    for outside in ["", "home/", "home/me", "home/you/"] {
        list(outside).expect_error(403, "AccessDenied");
    }
    s3.bucket("DELETE", "b-prefix").send().expect_error(403, "AccessDenied");
}

#[test]
fn a_key_that_may_only_create_never_overwrites() {
    let mut world = World::cold(1);
    let key = Key::random().allow("b-log", "", "\"create\"");
    world.config.keys.push(key.clone());
    world.start();
    let (all, s3) = (world.s3(), world.s3_as(&key.creds));
    all.create_bucket("b-log");
    s3.put("b-log", "one", "first").send().expect(200);
    for size in [10, 200_000] {
        s3.put("b-log", "one", vec![0; size]).send().expect_error(403, "AccessDenied");
    }
    assert_eq!(all.read("b-log", "one"), b"first");
    // Decided when it is committed: of many at once, one creates.
    let created: usize = std::thread::scope(|scope| {
        let put = |n: u8| s3.put("b-log", "two", vec![n; 70_000]).send().status;
        let all: Vec<_> = (0..6).map(|n| scope.spawn(move || put(n))).collect();
        all.into_iter()
            .filter(|_| true)
            .map(|one| one.join().unwrap())
            .filter(|&s| s == 200)
            .count()
    });
    assert_eq!(created, 1);
    let id = begin(&s3, "b-log", "three");
    let at = ("b-log", "three", id.as_str());
    part(&s3, at, 1, "part").send().expect(200);
    all.put("b-log", "three", "meanwhile").send().expect(200);
    complete(&s3, at, &the_part()).send().expect_error(403, "AccessDenied");
    assert_eq!(all.read("b-log", "three"), b"meanwhile");
}

#[test]
fn presets_are_what_they_are_called() {
    let mut world = World::cold(1);
    let presets: [(&str, &[&str]); 4] = [
        ("read-only", &["get", "list"]),
        ("write-only", &["new", "over"]),
        ("append-only", &["new", "list"]),
        ("read-write", &["get", "list", "new", "over", "delete"]),
    ];
    let keys: Vec<Key> = presets
        .iter()
        .map(|(preset, _)| {
            Key::random().grant(&format!("{{ bucket = \"b-preset\", preset = \"{preset}\" }}"))
        })
        .collect();
    world.config.keys.extend(keys.clone());
    world.start();
    let all = world.s3();
    all.create_bucket("b-preset");
    for ((preset, may), key) in presets.iter().zip(&keys) {
        let s3 = world.s3_as(&key.creds);
        for (verb, request, status) in [
            ("get", s3.get("b-preset", "old"), 200),
            ("list", s3.bucket("GET", "b-preset"), 200),
            ("new", s3.put("b-preset", "new", "x"), 200),
            ("over", s3.put("b-preset", "old", "x"), 200),
            ("delete", s3.delete("b-preset", "old"), 204),
            ("admin", s3.bucket("DELETE", "b-preset"), 204),
        ] {
            all.put("b-preset", "old", "x").send().expect(200);
            all.delete("b-preset", "new").send().expect(204);
            let want = if may.contains(&verb) { status } else { 403 };
            let got = request.send();
            assert_eq!(got.status, want, "{preset} {verb}: {}", got.short());
        }
    }
}
