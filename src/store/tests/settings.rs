//! Buckets, keys and declarations.

use super::*;

fn declared(bucket: &str, replicas: u32) -> DeclaredBucket {
    DeclaredBucket {
        name: name(bucket),
        placement: placement(replicas, 1),
        max_uploads: 3,
        quota: Some(100),
        lifecycle: Lifecycle::default(),
        imports: false,
    }
}

fn access_key(id: &str, secret: &str) -> AccessKey {
    let grant = Grant {
        bucket: Some(name("photos")),
        prefix: "a/".into(),
        actions: access::Actions::preset("read-write").unwrap(),
    };
    AccessKey {
        id: id.into(),
        secret: secret.into(),
        grants: Grants { create_buckets: true, list: vec![grant] },
        declared: false,
    }
}

#[tokio::test]
async fn buckets_are_made_listed_and_deleted() {
    let mut world = World::new().await;
    let again = world.store.bucket_create(name("photos")).await;
    assert!(matches!(again, Err(StoreError::BucketExists)));
    let other = world.store.bucket_create(name("aaa")).await.unwrap();
    let names: Vec<_> = world.store.buckets().iter().map(|b| b.name.to_string()).collect();
    assert_eq!(names, ["aaa", "photos"]);
    world.put("k", 1, &[1]).await;
    let full = world.store.bucket_delete(&name("photos")).await;
    assert!(matches!(full, Err(StoreError::BucketNotEmpty)));
    world.delete("k").await;
    world.store.bucket_delete(&name("aaa")).await.unwrap();
    let gone = world.store.bucket_delete(&name("aaa")).await;
    assert!(matches!(gone, Err(StoreError::NoSuchBucket)));
    let anew = world.store.bucket_create(name("aaa")).await.unwrap();
    assert_ne!(anew.id, other.id);
    world.restart().await;
    assert_eq!(world.store.bucket("aaa"), Some(anew));
    world.verify().await;
}

#[tokio::test]
async fn declarations_come_and_go() {
    let mut world = World::new().await;
    let mut wanted = declaration(Some(50));
    wanted.buckets = vec![declared("photos", 2), declared("films", 2)];
    wanted.keys = vec![access_key("A", "one"), access_key("B", "two")];
    world.store.declare(wanted.clone()).await.unwrap();
    let films = world.store.bucket("films").unwrap();
    assert!(films.declared && films.placement == placement(2, 1) && films.max_uploads == 3);
    assert_eq!(world.store.bucket("photos").unwrap().placement_id, films.placement_id);
    assert!(world.store.keys()["A"].declared);
    assert!(matches!(world.store.key_delete("A").await, Err(StoreError::Declared)));
    assert!(matches!(world.store.key_create(access_key("A", "x")).await, Err(StoreError::Exists)));
    assert!(matches!(world.store.bucket_delete(&name("films")).await, Err(StoreError::Declared)));
    assert!(matches!(
        world.store.bucket_set(declared("films", 1)).await,
        Err(StoreError::Declared)
    ));
    world.verify().await;

    // The bucket stays with its wishes, the key goes, an undeclared key is left alone.
    world.store.key_create(access_key("C", "three")).await.unwrap();
    wanted.buckets.remove(1);
    wanted.keys.remove(0);
    wanted.default_placement = placement(3, 2);
    world.store.declare(wanted.clone()).await.unwrap();
    let films = world.store.bucket("films").unwrap();
    assert!(!films.declared && films.placement == placement(2, 1) && films.quota == Some(100));
    let mut ids: Vec<_> = world.store.keys().keys().cloned().collect();
    ids.sort();
    assert_eq!(ids, ["B", "C"]);
    let anew = world.store.bucket_create(name("anew")).await.unwrap();
    assert_eq!(anew.placement, placement(3, 2));
    wanted.default_placement = placement(1, 1);
    world.store.declare(wanted).await.unwrap();
    assert_eq!(world.store.bucket("anew").unwrap().placement, placement(1, 1));
    let before = world.store.keys();
    world.restart().await;
    assert_eq!(world.store.keys(), before);
    assert_eq!(world.store.keys()["C"].secret, "three");
    world.store.key_delete("C").await.unwrap();
    let gone = world.store.key_delete("C").await;
    assert!(matches!(gone, Err(StoreError::NoSuchAccessKey)));
    world.verify().await;
}

#[tokio::test]
async fn a_backend_with_rows_cannot_be_left_out() {
    let world = World::new().await;
    world.put("k", 1, &[1]).await;
    let mut wanted = declaration(Some(10));
    wanted.backends.remove(0);
    wanted.buckets = vec![declared("films", 2)];
    match world.store.declare(wanted.clone()).await {
        Err(StoreError::BackendInUse(name)) => assert_eq!(name, "b101"),
        other => panic!("{other:?}"),
    }
    assert!(world.store.bucket("films").is_none(), "all or nothing");
    assert_eq!(world.store.backends().await.unwrap()[1].quota, None);
    // Condemned paths are rows as well.
    world.delete("k").await;
    assert!(world.store.declare(wanted.clone()).await.is_err());
    world.clean().await;
    world.store.declare(wanted).await.unwrap();
    let names: Vec<_> =
        world.store.backends().await.unwrap().into_iter().map(|b| (b.name, b.quota)).collect();
    assert_eq!(names, [("b102".to_owned(), Some(10)), ("b103".to_owned(), Some(10))]);
    world.verify().await;
}

#[tokio::test]
async fn a_bucket_has_a_quota_of_its_own() {
    let world = World::new().await;
    world.store.bucket_set(declared("photos", 1)).await.unwrap();
    world.put("a", 1, &[60]).await;
    let never = world.try_register(&[101], 1).await;
    assert!(matches!(never, Err(StoreError::BucketQuota)));
    let registered = world.register(&[50], 1).await;
    let over = commit(world.bucket.id, "b", 1, finished(&registered));
    let err = world.store.version_commit(over).await;
    assert!(matches!(err, Err(StoreError::BucketQuota)));
    assert_eq!(world.ledger().await, (60, 0, 50));
    // In place of what is there it fits.
    world.put("a", 2, &[90]).await;
    let usage = world.store.bucket_usage(world.bucket.id).await.unwrap();
    assert_eq!(usage, BucketUsage { objects: 1, bytes: 90, uploads: 0 });
    world.verify().await;
}
