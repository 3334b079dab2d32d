//! Listings: byte order, page borders, delimiters, markers; held against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::{Rng, etag};
use crate::signer::{Request, S3, decode};
use crate::wire::{Response, field, fields};
use crate::world::{World, seeded};

/// One page as a client sees it.
#[derive(Debug, PartialEq)]
struct Page {
    keys: Vec<String>,
    prefixes: Vec<String>,
    truncated: bool,
    next: Option<String>,
}

fn page(got: &Response, next: &str) -> Page {
    let text = got.text();
    let of = |blocks: Vec<String>, tag: &str| -> Vec<String> {
        blocks.iter().map(|block| field(block, tag).unwrap()).collect()
    };
    Page {
        keys: of(got.blocks("Contents"), "Key"),
        prefixes: of(got.blocks("CommonPrefixes"), "Prefix"),
        truncated: field(&text, "IsTruncated").as_deref() == Some("true"),
        next: field(&text, next),
    }
}

/// ListObjectsV2 with these parameters; values are encoded here.
fn v2(s3: &S3, bucket: &str, params: &[(&str, &str)]) -> Page {
    page(
        &request(s3, bucket, params).query("list-type=2").send().expect(200),
        "NextContinuationToken",
    )
}

fn v1(s3: &S3, bucket: &str, params: &[(&str, &str)]) -> Page {
    page(&request(s3, bucket, params).send().expect(200), "NextMarker")
}

fn request(s3: &S3, bucket: &str, params: &[(&str, &str)]) -> Request {
    params.iter().fold(s3.bucket("GET", bucket), |r, (name, value)| r.param(name, value))
}

fn fill(s3: &S3, bucket: &str, keys: &[&str]) {
    s3.create_bucket(bucket);
    for key in keys {
        s3.put(bucket, key, *key).send().expect(200);
    }
}

#[test]
fn an_entry_says_all_that_a_client_needs() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "entries", &["a"]);
    let put = s3.put("entries", "b", "body").header("x-amz-storage-class", "STANDARD_IA");
    put.send().expect(200);
    for version in ["list-type=2", "marker="] {
        let got = s3.bucket("GET", "entries").query(version).send().expect(200);
        assert_eq!(got.xml("Name").as_deref(), Some("entries"));
        let entries = got.blocks("Contents");
        let b = &entries[1];
        assert_eq!(field(b, "Key").as_deref(), Some("b"));
        assert_eq!(field(b, "Size").as_deref(), Some("4"));
        assert_eq!(field(b, "ETag"), Some(etag(b"body")));
        assert_eq!(field(b, "StorageClass").as_deref(), Some("STANDARD_IA"));
        assert_eq!(field(&entries[0], "StorageClass").as_deref(), Some("STANDARD"));
        let modified = field(b, "LastModified").unwrap();
        assert!(modified.ends_with('Z') && modified.len() >= 20, "{modified}");
    }
    let owner = |query: &str| {
        s3.bucket("GET", "entries").query(query).send().expect(200).blocks("Owner").len()
    };
    assert_eq!(owner("list-type=2"), 0);
    assert_eq!(owner("list-type=2&fetch-owner=true"), 2);
}

#[test]
fn pages_end_exactly_where_they_should() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "pages", &["a", "b", "c", "d"]);
    let exact = v2(&s3, "pages", &[("max-keys", "4")]);
    assert_eq!((exact.keys.len(), exact.truncated, exact.next), (4, false, None));
    let first = v2(&s3, "pages", &[("max-keys", "3")]);
    assert_eq!(
        (first.keys.as_slice(), first.truncated),
        (&["a", "b", "c"].map(String::from)[..], true)
    );
    let token = first.next.expect("a token");
    let rest = v2(&s3, "pages", &[("max-keys", "3"), ("continuation-token", &token)]);
    assert_eq!(
        (rest.keys.as_slice(), rest.truncated, rest.next),
        (&["d".to_owned()][..], false, None)
    );
    // The token wins over start-after.
    let both = v2(&s3, "pages", &[("continuation-token", &token), ("start-after", "a")]);
    assert_eq!(both.keys, ["d"]);
    let both = v2(&s3, "pages", &[("continuation-token", &token), ("start-after", "zzz")]);
    assert_eq!(both.keys, ["d"]);

    for list in [v1, v2] {
        let none = list(&s3, "pages", &[("max-keys", "0")]);
        assert_eq!((none.keys.len(), none.truncated, none.next), (0, false, None));
    }
    let all = v2(&s3, "pages", &[("max-keys", "5000")]);
    assert_eq!(all.keys.len(), 4);
    for wrong in ["-1", "x", "99999999999"] {
        let got = request(&s3, "pages", &[("max-keys", wrong)]).query("list-type=2").send();
        got.expect_error(400, "InvalidArgument");
    }
}

#[test]
fn markers_and_prefixes_are_compared_by_bytes() {
    let world = World::new();
    let s3 = world.s3();
    let keys =
        ["B", "a", "a!", "a/", "a/b", "a0", "aa", "b", "ä", "z", "~", "日", "😀", "\u{fffd}"];
    fill(&s3, "bytes", &keys);
    let mut sorted = keys.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(v2(&s3, "bytes", &[]).keys, sorted);
    assert_eq!(v1(&s3, "bytes", &[]).keys, sorted);
    for at in keys.iter().chain(&["", "a.", "zz", "\u{10ffff}"]) {
        let want: Vec<_> = sorted.iter().filter(|key| key.as_str() > *at).cloned().collect();
        assert_eq!(v2(&s3, "bytes", &[("start-after", at)]).keys, want, "after {at:?}");
        assert_eq!(v1(&s3, "bytes", &[("marker", at)]).keys, want, "after {at:?}");
        let want: Vec<_> = sorted.iter().filter(|key| key.starts_with(at)).cloned().collect();
        assert_eq!(v2(&s3, "bytes", &[("prefix", at)]).keys, want, "with {at:?}");
    }
    // Keys before and after a prefix in byte order, and a marker outside it.
    let list = |after| v2(&s3, "bytes", &[("prefix", "a/"), ("start-after", after)]).keys;
    assert_eq!(list("A"), ["a/", "a/b"]);
    assert_eq!(list("a/"), ["a/b"]);
    assert_eq!(list("b"), [""; 0]);
}

#[test]
fn prefixes_are_no_patterns() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "pattern", &["a%b", "a_b", "axb", "a\\b", "A_b", "a*b", "a?b", "a[b"]);
    for prefix in ["a%", "a_", "a\\", "A", "a*", "a?", "a["] {
        let got = v2(&s3, "pattern", &[("prefix", prefix)]).keys;
        assert_eq!(got.len(), 1, "{prefix}: {got:?}");
        assert!(got[0].starts_with(prefix));
    }
}

#[test]
fn common_prefixes_are_told_once_even_across_pages() {
    let world = World::new();
    let s3 = world.s3();
    let keys = ["a", "b/1", "b/2", "b/3", "b/4", "b0", "c/1", "c/2", "d", "e//x", "e/y"];
    fill(&s3, "groups", &keys);
    for max in 1..=8 {
        for version in [1, 2] {
            let (found, prefixes) = walk(&s3, "groups", "", "/", max, version);
            assert_eq!(found, ["a", "b0", "d"], "max-keys {max}, version {version}");
            assert_eq!(prefixes, ["b/", "c/", "e/"], "max-keys {max}, version {version}");
        }
    }
    let (found, prefixes) = walk(&s3, "groups", "e/", "/", 1, 2);
    assert_eq!(
        (found.as_slice(), prefixes.as_slice()),
        (&["e/y".to_owned()][..], &["e//".to_owned()][..])
    );
    // Version 1 names its next marker only when there is a delimiter.
    let first = v1(&s3, "groups", &[("delimiter", "/"), ("max-keys", "2")]);
    assert_eq!((first.truncated, first.next.as_deref()), (true, Some("b/")));
    // A start inside a group still tells the group, one at the group does not.
    let list = |after| v2(&s3, "groups", &[("delimiter", "/"), ("start-after", after)]).prefixes;
    assert_eq!(list("b/2"), ["b/", "c/", "e/"]);
    assert_eq!(list("b/4"), ["c/", "e/"]);
    assert_eq!(list("b/~"), ["c/", "e/"]);
    let marker = v1(&s3, "groups", &[("delimiter", "/"), ("marker", "b/")]);
    assert_eq!(marker.prefixes, ["c/", "e/"]);
}

/// All keys and prefixes of a listing, page by page.
fn walk(
    s3: &S3,
    bucket: &str,
    prefix: &str,
    delimiter: &str,
    max: usize,
    version: u8,
) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let max_keys = max.to_string();
    let mut at: Option<String> = None;
    for _ in 0..200 {
        let mut params = vec![("prefix", prefix), ("max-keys", &max_keys)];
        if !delimiter.is_empty() {
            params.push(("delimiter", delimiter));
        }
        let marker = if version == 1 { "marker" } else { "continuation-token" };
        if let Some(at) = &at {
            params.push((marker, at));
        }
        let page = if version == 1 { v1(s3, bucket, &params) } else { v2(s3, bucket, &params) };
        let entries = page.keys.len() + page.prefixes.len();
        assert!(entries <= max, "a page of {entries}, {max} were asked for");
        assert!(entries == max || !page.truncated, "a short page that goes on: {page:?}");
        let last = page.keys.last().max(page.prefixes.last()).cloned();
        keys.extend(page.keys);
        prefixes.extend(page.prefixes);
        if !page.truncated {
            return (keys, prefixes);
        }
        at = page.next.or(last);
    }
    panic!("a listing without an end");
}

#[test]
fn random_listings_agree_with_a_naive_model() {
    let world = World::new();
    let s3 = world.s3();
    let mut rng = seeded("random_listings_agree_with_a_naive_model");
    s3.create_bucket("model");
    let mut model = BTreeMap::new();
    for round in 0..12 {
        for n in 0..25 {
            let key = random_key(&mut rng);
            if rng.below(4) == 0 {
                s3.delete("model", &key).send().expect(204);
                model.remove(&key);
            } else {
                s3.put("model", &key, format!("{n}")).send().expect(200);
                model.insert(key, n);
            }
        }
        for _ in 0..12 {
            let prefix = if rng.below(2) == 0 { String::new() } else { random_key(&mut rng) };
            let delimiter = *rng.pick(&["", "/", "/", "a", "b/", "é"]);
            let max = 1 + rng.below(7) as usize;
            let version = 1 + (rng.below(2) as u8);
            let got = walk(&s3, "model", &prefix, delimiter, max, version);
            let want = naive(&model, &prefix, delimiter);
            let what =
                format!("round {round}: {prefix:?} {delimiter:?} {max} v{version} of {model:?}");
            assert_eq!(got, want, "{what}");
            let after = random_key(&mut rng);
            let page = v2(
                &s3,
                "model",
                &[("prefix", &prefix), ("delimiter", delimiter), ("start-after", &after)],
            );
            model_after(&model, &prefix, delimiter, &after, &page);
        }
    }
}

/// Few letters, so that prefixes and delimiters meet.
fn random_key(rng: &mut Rng) -> String {
    let letters = ["a", "b", "/", "/", "é", "B"];
    (0..1 + rng.below(5)).map(|_| *rng.pick(&letters)).collect()
}

fn naive(
    model: &BTreeMap<String, u64>,
    prefix: &str,
    delimiter: &str,
) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), BTreeSet::new());
    for key in model.keys().filter(|key| key.starts_with(prefix)) {
        match group(key, prefix, delimiter) {
            Some(group) => drop(prefixes.insert(group)),
            None => keys.push(key.clone()),
        }
    }
    (keys, prefixes.into_iter().collect())
}

fn group(key: &str, prefix: &str, delimiter: &str) -> Option<String> {
    let rest = &key[prefix.len()..];
    let at = if delimiter.is_empty() { None } else { rest.find(delimiter) };
    at.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned())
}

/// What `start-after` leaves: the keys behind it, and the groups with a key behind it.
#[track_caller]
fn model_after(
    model: &BTreeMap<String, u64>,
    prefix: &str,
    delimiter: &str,
    after: &str,
    page: &Page,
) {
    let left: BTreeMap<_, _> = model
        .iter()
        .filter(|(key, _)| key.as_str() > after)
        .map(|(k, n)| (k.clone(), *n))
        .collect();
    let (keys, mut prefixes) = naive(&left, prefix, delimiter);
    // A group that the start itself names has been told.
    let mut told = page.prefixes.clone();
    prefixes.retain(|group| group.as_str() != after);
    told.retain(|group| group.as_str() != after);
    assert_eq!((&page.keys, &told), (&keys, &prefixes), "{prefix:?} {delimiter:?} after {after:?}");
}

#[test]
fn answers_can_be_url_encoded() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "encoded", &["a b", "a+b", "d r/x\ny", "ü\r"]);
    let got = s3.bucket("GET", "encoded").query("list-type=2&encoding-type=url&delimiter=%2F");
    let got = got.query("start-after=A%20A").send().expect(200);
    assert_eq!(got.xml("EncodingType").as_deref(), Some("url"));
    let plain = |text: &str| decode(&text.replace('+', "%20"));
    let keys: Vec<String> =
        got.blocks("Contents").iter().map(|b| plain(&field(b, "Key").unwrap())).collect();
    assert_eq!(keys, ["a b", "a+b", "ü\r"]);
    let groups = got.blocks("CommonPrefixes");
    assert_eq!(plain(&field(&groups[0], "Prefix").unwrap()), "d r/");
    assert_eq!(got.xml("Delimiter").map(|text| plain(&text)).as_deref(), Some("/"));
    assert_eq!(got.xml("StartAfter").map(|text| plain(&text)).as_deref(), Some("A A"));
    let got = s3.bucket("GET", "encoded").query("list-type=2&encoding-type=rot13").send();
    got.expect_error(400, "InvalidArgument");
}

#[test]
fn the_parameters_come_back_with_the_answer() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "echo", &["p/a", "p/b", "p/c"]);
    let query = "list-type=2&prefix=p%2F&delimiter=%2F&max-keys=2&start-after=p%2F";
    let got = s3.bucket("GET", "echo").query(query).send().expect(200);
    for (tag, value) in [
        ("Prefix", "p/"),
        ("Delimiter", "/"),
        ("MaxKeys", "2"),
        ("KeyCount", "2"),
        ("StartAfter", "p/"),
    ] {
        assert_eq!(got.xml(tag).as_deref(), Some(value), "{tag}");
    }
    let token = got.xml("NextContinuationToken").unwrap();
    // A token belongs to the listing that it came with.
    let next = s3.bucket("GET", "echo").query("list-type=2&prefix=p%2F&delimiter=%2F");
    let got = next.param("continuation-token", &token).send();
    assert_eq!(got.expect(200).xml("ContinuationToken"), Some(token));
    let got = s3.bucket("GET", "echo").query("marker=p%2Fa&max-keys=1").send().expect(200);
    assert_eq!(got.xml("Marker").as_deref(), Some("p/a"));
}

#[test]
fn an_empty_bucket_and_a_wrong_token_have_their_answers() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "other", &["a", "b"]);
    s3.create_bucket("empty");
    let none = v2(&s3, "empty", &[("delimiter", "/"), ("prefix", "x")]);
    assert_eq!((none.keys.len(), none.prefixes.len(), none.truncated), (0, 0, false));
    for token in ["", "nonsense", "YWJj", "\u{1}"] {
        let got =
            request(&s3, "other", &[("continuation-token", token)]).query("list-type=2").send();
        got.expect_error(400, "InvalidArgument");
    }
    s3.bucket("GET", "nowhere").query("list-type=2").send().expect_error(404, "NoSuchBucket");
    // A token of another listing is a place in the order of keys, or refused; never a wrong answer.
    let token = v2(&s3, "other", &[("max-keys", "1")]).next.unwrap();
    let got = request(&s3, "empty", &[("continuation-token", &token)]).query("list-type=2").send();
    assert!(got.status == 400 || (got.status == 200 && got.blocks("Contents").is_empty()));
}

#[test]
fn more_than_a_thousand_keys_take_two_pages() {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("thousand");
    s3.put("thousand", "src", "x").send().expect(200);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= 1000 {
                        return;
                    }
                    s3.put("thousand", &format!("k{n:04}"), "x").send().expect(200);
                }
            });
        }
    });
    let first = v2(&s3, "thousand", &[]);
    assert_eq!((first.keys.len(), first.truncated), (1000, true));
    let rest = v2(&s3, "thousand", &[("continuation-token", &first.next.unwrap())]);
    assert_eq!((rest.keys.as_slice(), rest.truncated), (&["src".to_owned()][..], false));
    let first = v1(&s3, "thousand", &[("max-keys", "2000")]);
    assert_eq!((first.keys.len(), first.truncated, first.next), (1000, true, None));
}

#[test]
fn versions_of_a_bucket_without_versioning_are_the_current_ones() {
    let world = World::new();
    let s3 = world.s3();
    fill(&s3, "versions", &["a", "b/1", "b/2", "c"]);
    s3.put("versions", "a", "again").send().expect(200);
    s3.delete("versions", "c").send().expect(204);
    let got = s3.bucket("GET", "versions").query("versions&delimiter=%2F").send().expect(200);
    let versions = got.blocks("Version");
    assert_eq!(versions.len(), 1, "{}", got.short());
    assert_eq!(field(&versions[0], "Key").as_deref(), Some("a"));
    assert_eq!(field(&versions[0], "VersionId").as_deref(), Some("null"));
    assert_eq!(field(&versions[0], "IsLatest").as_deref(), Some("true"));
    assert_eq!(field(&versions[0], "Size").as_deref(), Some("5"));
    assert_eq!(got.blocks("DeleteMarker").len(), 0);
    assert_eq!(fields(&got.blocks("CommonPrefixes")[0], "Prefix"), ["b/"]);
    assert_eq!(s3.get("versions", "a").query("versionId=null").send().expect(200).text(), "again");
}
