//! Rules in the store, and deletes that go by them.

use super::*;
use crate::base::Timestamp;

pub(super) fn rule(prefix: &str, days: u32) -> Rule {
    let expire = Some(Expire::After(days));
    Rule::new(RuleWish { prefix: prefix.into(), expire, ..RuleWish::default() }).unwrap()
}

fn rules(list: &[Rule]) -> Lifecycle {
    Lifecycle::new(list.to_vec()).unwrap()
}

impl World {
    pub(super) async fn rules_set(&self, bucket: &str, wanted: &[Rule]) -> u64 {
        let wanted = rules(wanted);
        let changed = self.store.lifecycle_change(name(bucket), move |_| Ok(wanted)).await;
        changed.unwrap().seq
    }

    async fn rules_of(&self, bucket: &str) -> Option<BucketLifecycle> {
        let bucket = self.store.bucket(bucket).unwrap().id;
        self.store.lifecycle(bucket).await.unwrap()
    }

    async fn aging(&self, prefix: &str, after: Option<&str>, max: usize) -> Vec<AgingObject> {
        let (bucket, prefix) = (self.bucket.id, prefix.to_owned());
        self.store.objects_aging(bucket, prefix, after.map(key), max, true).await.unwrap()
    }

    async fn tag(&self, at: &str, value: &str) {
        let tags = Tags::new(vec![("t".into(), value.into())]).unwrap();
        self.store.object_tags_set(self.bucket.id, key(at), tags).await.unwrap();
    }
}

fn keys(aging: &[AgingObject]) -> Vec<&str> {
    aging.iter().map(|object| object.key.as_str()).collect()
}

#[tokio::test]
async fn rules_are_kept_and_go_with_their_bucket() {
    let mut world = World::new().await;
    assert_eq!(world.rules_of("photos").await, None);
    assert_eq!(world.store.lifecycles().await.unwrap(), []);
    let first = world.rules_set("photos", &[rule("a", 1)]).await;
    let added = world.store.lifecycle_change(name("photos"), |mut rules| {
        rules.push(rule("b", 2));
        Lifecycle::new(rules).map_err(|why| why.to_string())
    });
    let added = added.await.unwrap();
    assert!(added.seq > first);
    assert_eq!(added.rules, rules(&[rule("a", 1), rule("b", 2)]));
    let refused = world.store.lifecycle_change(name("photos"), |_| Err("no".into())).await;
    assert!(matches!(refused, Err(WishError::Impossible(why)) if why == "no"));
    let nowhere = world.store.lifecycle_change(name("nowhere"), |_| Ok(Lifecycle::default())).await;
    assert!(matches!(nowhere, Err(WishError::Store(StoreError::NoSuchBucket))));
    world.restart().await;
    assert_eq!(world.rules_of("photos").await, Some(added.clone()));
    assert_eq!(world.store.lifecycles().await.unwrap(), [(world.bucket.id, added.seq)]);
    world.verify().await;

    // No rule at all is as good as none.
    world.rules_set("photos", &[]).await;
    assert_eq!(world.rules_of("photos").await, None);
    world.rules_set("photos", &[rule("", 1)]).await;
    world.store.lifecycle_delete(name("photos")).await.unwrap();
    world.store.lifecycle_delete(name("photos")).await.unwrap();
    assert_eq!(world.rules_of("photos").await, None);
    world.rules_set("photos", &[rule("", 1)]).await;
    world.store.bucket_delete(&name("photos")).await.unwrap();
    assert_eq!(world.store.lifecycles().await.unwrap(), []);
    world.store.bucket_create(name("photos")).await.unwrap();
    assert_eq!(world.rules_of("photos").await, None);
    world.verify().await;
}

#[tokio::test]
async fn declared_rules_win_and_go_with_their_declaration() {
    let world = World::new().await;
    let own = world.rules_set("photos", &[rule("own", 9)]).await;
    let bucket = |lifecycle| DeclaredBucket {
        name: name("photos"),
        placement: placement(1, 1),
        max_uploads: 0,
        quota: None,
        imports: false,
        lifecycle,
    };
    let mut wanted = declaration(None);
    // A file that says nothing of rules leaves those that were made otherwise.
    wanted.buckets = vec![bucket(Lifecycle::default())];
    world.store.declare(wanted.clone()).await.unwrap();
    assert_eq!(world.rules_of("photos").await.unwrap().seq, own);
    let changed = world.rules_set("photos", &[rule("own", 8)]).await;

    wanted.buckets = vec![bucket(rules(&[rule("file", 1)]))];
    world.store.declare(wanted.clone()).await.unwrap();
    let declared = world.rules_of("photos").await.unwrap();
    assert!(declared.declared && declared.seq > changed);
    assert_eq!(declared.rules, rules(&[rule("file", 1)]));
    let refused = world.store.lifecycle_change(name("photos"), |_| Ok(Lifecycle::default())).await;
    assert!(matches!(refused, Err(WishError::Store(StoreError::Declared))));
    let refused = world.store.lifecycle_delete(name("photos")).await;
    assert!(matches!(refused, Err(StoreError::Declared)));
    world.store.declare(wanted.clone()).await.unwrap();
    assert_eq!(world.rules_of("photos").await, Some(declared.clone()), "nothing changed");
    wanted.buckets = vec![bucket(rules(&[rule("file", 2)]))];
    world.store.declare(wanted.clone()).await.unwrap();
    assert!(world.rules_of("photos").await.unwrap().seq > declared.seq);
    world.verify().await;

    wanted.buckets = Vec::new();
    world.store.declare(wanted).await.unwrap();
    assert_eq!(world.rules_of("photos").await, None, "nobody wants these deletes any more");
    world.rules_set("photos", &[rule("own", 7)]).await;
    world.verify().await;
}

#[tokio::test]
async fn only_objects_below_the_prefix_are_looked_at() {
    let world = World::new().await;
    let other = world.store.bucket_create(name("photos-2")).await.unwrap();
    for at in ["a", "a%", "a%b", "a_b", "aXb", "A%b", "b", "a%c", "a&"] {
        world.put(at, 1, &[5]).await;
    }
    let registered = world.register_for("a%b", &[5], 1).await.unwrap();
    let elsewhere = commit(other.id, "a%b", 1, finished(&registered));
    world.store.version_commit(elsewhere).await.unwrap();
    assert_eq!(keys(&world.aging("a%", None, 9).await), ["a%", "a%b", "a%c"]);
    assert_eq!(keys(&world.aging("a_", None, 9).await), ["a_b"]);
    assert_eq!(keys(&world.aging("A", None, 9).await), ["A%b"]);
    assert_eq!(keys(&world.aging("a%", None, 2).await), ["a%", "a%b"]);
    assert_eq!(keys(&world.aging("a%", Some("a%b"), 2).await), ["a%c"]);
    assert_eq!(world.aging("", None, 99).await.len(), 9);
    world.tag("a%", "1").await;
    let aging = world.aging("a%", None, 1).await;
    assert_eq!(aging[0].tags.as_ref().unwrap().pairs(), [("t".to_owned(), "1".to_owned())]);
    assert_eq!((aging[0].size, aging[0].modified), (5, Timestamp(START)));
}

#[tokio::test]
async fn only_what_is_still_as_it_was_looked_at_expires() {
    let world = World::new().await;
    let bucket = world.bucket.id;
    let seq = world.rules_set("photos", &[rule("", 1)]).await;
    for at in ["gone", "kept", "newer", "plain", "tagged"] {
        world.put(at, 1, &[5]).await;
    }
    world.tag("kept", "1").await;
    world.tag("tagged", "1").await;
    let looked = world.aging("", None, 9).await;
    world.delete("gone").await;
    world.put("newer", 2, &[5]).await;
    world.tag("tagged", "2").await;
    let expired = world.store.objects_expire(bucket, seq, looked.clone()).await.unwrap();
    assert_eq!(expired, [false, true, false, true, false]);
    let left = world.aging("", None, 9).await;
    assert_eq!(keys(&left), ["newer", "tagged"]);
    assert_eq!(world.store.bucket_usage(bucket).await.unwrap().objects, 2);
    assert_eq!(world.due().await.len(), 4);
    world.verify().await;

    // From the moment that rules are changed nothing goes by the old ones.
    let newer = world.rules_set("photos", &[rule("", 2)]).await;
    let refused = world.store.objects_expire(bucket, seq, left.clone()).await;
    assert!(matches!(refused, Err(StoreError::Changed)));
    world.store.lifecycle_delete(name("photos")).await.unwrap();
    let refused = world.store.objects_expire(bucket, newer, left).await;
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(world.aging("", None, 9).await.len(), 2);
    world.verify().await;
}

#[tokio::test]
async fn one_transaction_expires_a_bounded_number_of_objects() {
    let world = World::new().await;
    let seq = world.rules_set("photos", &[rule("", 1)]).await;
    for i in 0..3 {
        world.put(&i.to_string(), 1, &[1]).await;
    }
    let mut looked = world.aging("", None, 9).await;
    // What is not there any more counts as well.
    let gone = AgingObject { key: key("gone"), ..looked[0].clone() };
    looked.splice(0..0, vec![gone; 250]);
    let expired = world.store.objects_expire(world.bucket.id, seq, looked.split_off(199)).await;
    let expired = expired.unwrap();
    assert_eq!((expired.len(), expired.iter().filter(|done| **done).count()), (54, 3));
    let expired = world.store.objects_expire(world.bucket.id, seq, vec![looked[0].clone(); 900]);
    assert_eq!(expired.await.unwrap(), vec![false; crate::base::limits::WORK_ROWS_MAX]);
    world.verify().await;
}

#[tokio::test]
async fn uploads_expire_while_they_are_active() {
    let world = World::new().await;
    let bucket = world.bucket.id;
    let seq = world.rules_set("photos", &[rule("", 1)]).await;
    let mut ids = Vec::new();
    for at in ["a/1", "a/1", "a/2", "A/1", "b"] {
        world.advance(1);
        let upload = NewUpload {
            bucket,
            key: key(at),
            meta: NewMeta::default(),
            checksum: None,
            initiator: "me".into(),
        };
        ids.push(world.store.upload_create(upload).await.unwrap().id);
    }
    let aging = |after, max| world.store.uploads_aging(bucket, "a/".into(), after, max);
    let all = aging(None, 9).await.unwrap();
    let seen: Vec<_> = all.iter().map(|aging| (aging.key.as_str(), aging.upload)).collect();
    assert_eq!(seen, [("a/1", ids[0]), ("a/1", ids[1]), ("a/2", ids[2])]);
    assert_eq!(all[2].created, Timestamp(START + 3));
    assert_eq!(aging(None, 1).await.unwrap(), all[..1]);
    assert_eq!(aging(Some((key("a/1"), ids[0])), 9).await.unwrap(), all[1..]);
    world.store.upload_abort(ids[1], bucket, key("a/1")).await.unwrap();
    let expire = |n: usize, seq| world.store.upload_expire(bucket, seq, all[n].clone());
    assert!(expire(0, seq).await.unwrap());
    assert!(!expire(0, seq).await.unwrap() && !expire(1, seq).await.unwrap());
    let newer = world.rules_set("photos", &[rule("", 2)]).await;
    assert!(matches!(expire(2, seq).await, Err(StoreError::Changed)));
    assert!(expire(2, newer).await.unwrap());
    assert_eq!(world.store.bucket_usage(bucket).await.unwrap().uploads, 2);
    world.verify().await;
}

#[tokio::test]
async fn verify_finds_rules_that_cannot_be_read() {
    let world = World::new().await;
    world.rules_set("photos", &[rule("", 1)]).await;
    let spoil = |rules: &'static [u8]| {
        world.store.free(Lane::Request, Need::Durable, move |tx| {
            tx.run("UPDATE lifecycles SET rules = ?1", [rules]).map(|_| ())
        })
    };
    for form in [&b""[..], &[1], &[9, 9], &[1, 0, 1, 0, 0, 0, 0, 0, 0]] {
        spoil(form).await.unwrap();
        let wrong = world.store.verify().await.unwrap().join("\n");
        assert!(wrong.contains("lifecycle rules of a bucket are malformed"), "{form:?} {wrong}");
    }
}
