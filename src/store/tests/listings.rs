//! Listings against a naive model.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A page as texts: prefixes end in a bar.
fn shown(page: &ListPage) -> Vec<String> {
    page.items
        .iter()
        .map(|item| match item {
            ListItem::Object(object) => object.key.as_str().to_owned(),
            ListItem::Prefix(prefix) => format!("{prefix}|"),
        })
        .collect()
}

async fn list(
    world: &World,
    prefix: &str,
    delimiter: &str,
    after: ListAfter,
    max: usize,
) -> ListPage {
    let query = ListQuery {
        bucket: world.bucket.id,
        prefix: prefix.into(),
        delimiter: (!delimiter.is_empty()).then(|| delimiter.to_owned()),
        after,
        max,
    };
    world.store.objects_list(query).await.unwrap()
}

#[tokio::test]
async fn prefixes_roll_up_and_markers_are_exact() {
    let world = World::new().await;
    for at in ["a", "a/", "a/1", "a/2/x", "a0", "b/", "b/c/d", "ü/1", "ü/2", "z%", "z_"] {
        world.put(at, 1, &[1]).await;
    }
    let page = list(&world, "", "/", ListAfter::Start, 1000).await;
    assert_eq!(shown(&page), ["a", "a/|", "a0", "b/|", "z%", "z_", "ü/|"]);
    assert_eq!(page.next, None);
    let page = list(&world, "a/", "/", ListAfter::Start, 1000).await;
    assert_eq!(shown(&page), ["a/", "a/1", "a/2/|"]);
    assert_eq!(shown(&list(&world, "z_", "", ListAfter::Start, 9).await), ["z_"]);
    let page = list(&world, "", "/", ListAfter::Start, 0).await;
    assert!(page.items.is_empty() && page.next.is_none());
    // A page that ends in a prefix goes on behind it.
    let page = list(&world, "", "/", ListAfter::Start, 2).await;
    assert_eq!(page.next, Some(ListAfter::Prefix("a/".into())));
    let page = list(&world, "", "/", page.next.unwrap(), 2).await;
    assert_eq!(shown(&page), ["a0", "b/|"]);
    // A marker that is a common prefix is not given again, one inside it is.
    let after = |key: &str| ListAfter::Key(key.into());
    assert_eq!(shown(&list(&world, "", "/", after("a/"), 1).await), ["a0"]);
    assert_eq!(shown(&list(&world, "", "/", after("a/1"), 1).await), ["a/|"]);
    assert_eq!(shown(&list(&world, "", "/", after("a/2/x"), 1).await), ["a0"]);
    assert_eq!(shown(&list(&world, "", "/", after("b/c/d"), 9).await), ["z%", "z_", "ü/|"]);
    assert_eq!(shown(&list(&world, "b", "", after("a"), 9).await), ["b/", "b/c/d"]);
    assert!(shown(&list(&world, "a", "", after("c"), 9).await).is_empty());
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[ab/é-]{1,5}", 0..25)
}

/// All entries behind `after`, as S3's documentation defines them.
fn naive(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: &ListAfter) -> Vec<String> {
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let cut = (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten();
        let common = cut.map(|at| &key[..prefix.len() + at + delimiter.len()]);
        let is_behind = match after {
            ListAfter::Start => true,
            ListAfter::Key(marker) => key > marker && common != Some(marker.as_str()),
            ListAfter::Prefix(p) => key.as_str() > p.as_str() && !key.starts_with(p.as_str()),
        };
        match common {
            _ if !is_behind => (),
            None => entries.push(key.clone()),
            Some(common) if seen.insert(common.to_owned()) => entries.push(format!("{common}|")),
            Some(_) => (),
        }
    }
    entries
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn pages_joined_are_the_whole_listing(
        keys in keys(),
        queries in prop::collection::vec(
            ("[ab/é-]{0,2}", prop_oneof![Just(""), Just("/"), Just("é"), Just("ab")],
             prop::option::of("[ab/é-]{0,4}"), 1usize..6),
            1..12,
        ),
    ) {
        runtime().block_on(async {
            let world = World::new().await;
            for at in &keys {
                world.put(at, 1, &[]).await;
            }
            let other = world.store.bucket_create(name("other")).await.unwrap();
            let elsewhere = commit(other.id, "a/elsewhere", 1, Vec::new());
            world.store.version_commit(elsewhere).await.unwrap();
            for (prefix, delimiter, marker, max) in queries {
                let start = marker.map_or(ListAfter::Start, ListAfter::Key);
                let whole = naive(&keys, &prefix, delimiter, &start);
                let mut given = Vec::new();
                let mut after = start.clone();
                loop {
                    let page = list(&world, &prefix, delimiter, after.clone(), max).await;
                    prop_assert_eq!(
                        naive(&keys, &prefix, delimiter, &after).len() > max,
                        page.next.is_some()
                    );
                    prop_assert!(page.items.len() <= max);
                    given.extend(shown(&page));
                    match page.next {
                        Some(next) => after = next,
                        None => break,
                    }
                }
                prop_assert_eq!(given, whole, "{} {} {:?} {}", prefix, delimiter, start, max);
            }
            Ok(())
        })?;
    }

    #[test]
    fn pages_of_uploads_joined_are_all_uploads(
        keys in prop::collection::vec("[ab/]{1,3}", 0..15),
        prefix in "[ab/]{0,1}",
        delimiter in prop::option::of(Just("/")),
        max in 1usize..5,
    ) {
        runtime().block_on(async {
            let world = World::new().await;
            let mut all: BTreeMap<(String, UploadId), ()> = BTreeMap::new();
            for at in &keys {
                let new = NewUpload {
                    bucket: world.bucket.id,
                    key: key(at),
                    meta: NewMeta::default(),
                    checksum: None,
                    initiator: "K".into(),
                };
                let upload = world.store.upload_create(new).await.unwrap();
                all.insert((at.clone(), upload.id), ());
            }
            let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
            let mut next = (None, None);
            loop {
                let query = UploadQuery {
                    bucket: world.bucket.id,
                    prefix: prefix.clone(),
                    delimiter: delimiter.map(str::to_owned),
                    key_marker: next.0,
                    upload_marker: next.1,
                    max,
                };
                let page = world.store.uploads_list(query).await.unwrap();
                prop_assert!(page.uploads.len() + page.prefixes.len() <= max);
                uploads.extend(page.uploads.iter().map(|u| (u.key.as_str().to_owned(), u.id)));
                prefixes.extend(page.prefixes);
                match page.next {
                    Some((key, upload)) => next = (Some(key), upload),
                    None => break,
                }
            }
            let common = |key: &str| {
                let at = key[prefix.len()..].find(delimiter?)?;
                Some(key[..prefix.len() + at + 1].to_owned())
            };
            let inside = || all.keys().filter(|(key, _)| key.starts_with(&prefix));
            let plain: Vec<_> = inside().filter(|(k, _)| common(k).is_none()).cloned().collect();
            let rolled: BTreeSet<_> = inside().filter_map(|(key, _)| common(key)).collect();
            prop_assert_eq!(uploads, plain);
            prop_assert_eq!(prefixes, rolled.into_iter().collect::<Vec<_>>());
            Ok(())
        })?;
    }
}
