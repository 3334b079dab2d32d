//! Passes over buckets with rules, under a clock that the test moves.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;

use super::*;
use crate::base::Timestamp;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::lifecycle::DAY;
use crate::model::lifecycle::date;

/// Steps in which every pass of these tests must end.
const STEPS_MAX: usize = 50;

struct Calendar {
    world: World,
    hand: Arc<AtomicI64>,
    cursor: LifecycleCursor,
}

/// What a pass did, and in how many steps.
#[derive(Debug, Default)]
struct Totals {
    steps: usize,
    sum: LifecycleStep,
}

fn noon(day: &str) -> Timestamp {
    Timestamp(date(day).unwrap().0 + DAY / 2)
}

fn after(prefix: &str, days: u32) -> RuleWish {
    RuleWish { prefix: prefix.into(), expire: Some(Expire::After(days)), ..RuleWish::default() }
}

fn aborting(prefix: &str, days: u32) -> RuleWish {
    RuleWish { prefix: prefix.into(), abort_after: Some(days), ..RuleWish::default() }
}

fn tags(value: &str) -> Tags {
    Tags::new(vec![("t".into(), value.into())]).unwrap()
}

impl Calendar {
    /// It is noon of the first day of 2026.
    async fn new() -> Calendar {
        let hand = Arc::new(AtomicI64::new(noon("2026-01-01").0));
        let clock = Clock::steered(Arc::clone(&hand));
        let world = World::with_clock(clock, 4 * MIB, 1, 1, |_| {}).await;
        Calendar { world, hand, cursor: LifecycleCursor::default() }
    }

    fn set(&self, at: Timestamp) {
        self.hand.store(at.0, Ordering::Release);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.hand.load(Ordering::Acquire))
    }

    async fn rules(&self, bucket: &str, wishes: Vec<RuleWish>) {
        let rules = wishes.into_iter().map(|wish| Rule::new(wish).unwrap()).collect();
        let rules = Lifecycle::new(rules).unwrap();
        self.world.engine.put_lifecycle(bucket, rules).await.unwrap();
    }

    async fn put(&self, bucket: &str, key: &str, size: usize) {
        let put = PutObject { bucket: bucket.into(), ..self.world.request(key, bytes(size)) };
        self.world.engine.put_object(put).await.unwrap();
    }

    async fn step(&mut self, batch: usize) -> LifecycleStep {
        let step = self.world.engine.lifecycle_step(&mut self.cursor, batch).await.unwrap();
        assert!(step.looked <= 1000 && step.expired + step.aborted + step.failed <= batch);
        step
    }

    /// Steps until a pass is at its end.
    async fn pass(&mut self, batch: usize) -> Totals {
        let mut totals = Totals::default();
        loop {
            let step = self.step(batch).await;
            totals.steps += 1;
            let sum = &mut totals.sum;
            sum.looked += step.looked;
            sum.expired += step.expired;
            sum.aborted += step.aborted;
            sum.failed += step.failed;
            sum.next = step.next;
            if !step.more {
                return totals;
            }
            assert!(totals.steps < STEPS_MAX, "{totals:?}");
        }
    }

    async fn keys(&self, bucket: &str) -> Vec<String> {
        let query = ListQuery {
            bucket: self.world.engine.bucket(bucket).unwrap().id,
            prefix: String::new(),
            delimiter: None,
            after: ListAfter::Start,
            max: 1000,
        };
        let page = self.world.engine.list_objects(query).await.unwrap();
        let key = |item| match item {
            ListItem::Object(object) => object.key.to_string(),
            ListItem::Prefix(prefix) => panic!("{prefix}"),
        };
        page.items.into_iter().map(key).collect()
    }

    /// Changes rows behind the store's back.
    fn tamper(&self, sql: &str) {
        let file = self.world.dir.path().join("data/meta.db");
        assert!(file.exists(), "the database has another name");
        let database = rusqlite::Connection::open(file).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        assert!(database.execute(sql, []).unwrap() > 0, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_at_its_midnight_and_not_a_microsecond_before() {
    let mut calendar = Calendar::new().await;
    calendar.rules("bucket", vec![after("tmp/", 3)]).await;
    calendar.put("bucket", "tmp/a", 100).await;
    calendar.put("bucket", "keep", 100).await;
    let due = date("2026-01-05").unwrap();
    let first = calendar.pass(10).await.sum;
    assert_eq!((first.looked, first.expired, first.next), (1, 0, Some(due)));
    calendar.set(Timestamp(due.0 - 1));
    assert_eq!(calendar.pass(10).await.sum.expired, 0);
    calendar.set(due);
    let last = calendar.pass(10).await.sum;
    assert_eq!((last.looked, last.expired, last.failed), (1, 1, 0));
    assert_eq!(calendar.keys("bucket").await, ["keep"]);
    // What may come is foreseen, though nothing is there.
    assert!(last.next > Some(due) && last.next <= date("2026-01-09"), "{last:?}");
    // It goes as any delete does.
    while calendar.world.cleanup().await.more {}
    assert_eq!(calendar.world.files(), 1);
    calendar.world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_touch_nothing_but_their_bucket_and_prefix() {
    let mut calendar = Calendar::new().await;
    let names = ["bucket", "bucket-2", "bucke", "bucketb"];
    let keys =
        ["tmp/", "tmp/a", "TMP/a", "Tmp/a", "tmp", "tmpXa", "atmp/a", "bucket/tmp/a", "t%p/a"];
    let create = |name| BucketName::new(name).unwrap();
    for name in &names[1..] {
        calendar.world.engine.create_bucket(create(name), None).await.unwrap();
    }
    for name in names {
        for key in keys {
            calendar.put(name, key, 0).await;
        }
    }
    let upper = "2026-06-01";
    calendar.rules("bucket", vec![after("tmp/", 1)]).await;
    calendar.rules("bucketb", vec![after("t%p", 1), after("tmp_", 1), after("T", 300)]).await;
    calendar.set(noon(upper));
    let sum = calendar.pass(100).await.sum;
    assert_eq!((sum.expired, sum.failed), (3, 0));
    let left = |gone: &[&str]| {
        let mut left: Vec<&str> = keys.iter().copied().filter(|key| !gone.contains(key)).collect();
        left.sort();
        left
    };
    assert_eq!(calendar.keys("bucket").await, left(&["tmp/", "tmp/a"]));
    assert_eq!(calendar.keys("bucketb").await, left(&["t%p/a"]));
    assert_eq!(calendar.keys("bucket-2").await, left(&[]));
    assert_eq!(calendar.keys("bucke").await, left(&[]));
    calendar.world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_rules_delete_once_and_at_the_earliest() {
    let mut calendar = Calendar::new().await;
    let larger = RuleWish { larger_than: Some(99), ..after("logs/", 2) };
    calendar.rules("bucket", vec![after("", 30), after("logs/", 7), larger]).await;
    calendar.put("bucket", "logs/large", 100).await;
    calendar.put("bucket", "logs/small", 99).await;
    calendar.put("bucket", "photo", 1000).await;
    let (mut went, mut looked) = (Vec::new(), 0);
    let mut next = calendar.pass(10).await.sum.next;
    while let Some(at) = next.filter(|at| *at < noon("2026-02-05")) {
        assert!(at > calendar.now(), "it would wake for nothing");
        calendar.set(at);
        let sum = calendar.pass(10).await.sum;
        (0..sum.expired).for_each(|_| went.push(crate::model::lifecycle::date_text(at)));
        looked += sum.looked;
        next = sum.next;
    }
    assert_eq!(went, ["2026-01-04", "2026-01-09", "2026-02-01"]);
    assert!(looked < 60, "each object is below one prefix: {looked}");
    calendar.world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_which_every_delete_fails_ends() {
    let mut calendar = Calendar::new().await;
    calendar.rules("bucket", vec![after("", 1)]).await;
    for key in ["a", "b", "c", "d", "e"] {
        calendar.put("bucket", key, 10).await;
    }
    calendar.set(noon("2026-01-10"));
    calendar.tamper("UPDATE buckets SET objects = 0 WHERE name = 'bucket'");
    let totals = calendar.pass(2).await;
    assert_eq!((totals.sum.failed, totals.sum.expired), (5, 0));
    assert_eq!(totals.steps, 3, "it does not try again what failed");
    let again = totals.sum.next.unwrap();
    assert!(again > calendar.now() && again <= noon("2026-01-11"));
    assert_eq!(calendar.keys("bucket").await.len(), 5);

    // One that fails keeps none of the others.
    calendar.tamper("UPDATE buckets SET objects = 5 WHERE name = 'bucket'");
    calendar.tamper("UPDATE versions SET size = 1000 WHERE key = CAST('c' AS BLOB)");
    let totals = calendar.pass(100).await;
    assert_eq!((totals.sum.failed, totals.sum.expired), (1, 4));
    assert_eq!(calendar.keys("bucket").await, ["c"]);
    calendar.tamper("UPDATE versions SET size = 10 WHERE key = CAST('c' AS BLOB)");
    assert_eq!(calendar.pass(100).await.sum.expired, 1);
    calendar.world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_goes_on_where_it_stopped_and_a_step_is_bounded() {
    let mut calendar = Calendar::new().await;
    let old = 1100;
    for n in 0..old {
        calendar.put("bucket", &format!("{n:04}"), 0).await;
    }
    calendar.rules("bucket", vec![after("", 1), after("09", 40)]).await;
    let young = calendar.pass(1000).await;
    assert_eq!((young.steps, young.sum.looked, young.sum.expired), (2, old, 0));
    calendar.set(noon("2026-01-10"));
    let first = calendar.step(300).await;
    assert_eq!((first.looked, first.expired, first.more, first.next), (300, 300, true, None));
    let totals = calendar.pass(300).await;
    assert_eq!((totals.sum.looked, totals.sum.expired, totals.steps), (800, 800, 3));
    assert!(calendar.keys("bucket").await.is_empty());
    calendar.world.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_rules_begin_the_pass_anew_and_no_rules_end_it() {
    let mut calendar = Calendar::new().await;
    let nothing = LifecycleStep::default();
    assert_eq!(calendar.step(10).await, nothing, "a store without rules is left alone");
    for key in ["a", "b", "c", "d"] {
        calendar.put("bucket", key, 0).await;
    }
    calendar.rules("bucket", vec![after("", 1)]).await;
    calendar.set(noon("2026-01-10"));
    let step = calendar.step(2).await;
    assert!(step.more && step.expired == 2);
    calendar.rules("bucket", vec![after("d", 1)]).await;
    let totals = calendar.pass(2).await;
    assert_eq!((totals.sum.looked, totals.sum.expired), (1, 1));
    assert_eq!(calendar.keys("bucket").await, ["c"]);
    calendar.rules("bucket", vec![after("", 1)]).await;
    calendar.world.engine.delete_lifecycle("bucket").await.unwrap();
    assert_eq!(calendar.step(10).await, nothing);
    let off = RuleWish { is_enabled: false, ..after("", 1) };
    calendar.rules("bucket", vec![off]).await;
    assert_eq!(calendar.step(10).await, nothing, "a rule that is off costs nothing");
    assert_eq!(calendar.keys("bucket").await, ["c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_tagged_later_goes_the_next_midnight() {
    let mut calendar = Calendar::new().await;
    calendar.rules("bucket", vec![RuleWish { tags: tags("old"), ..after("", 2) }]).await;
    calendar.put("bucket", "a", 10).await;
    calendar.put("bucket", "b", 10).await;
    calendar.set(noon("2026-02-01"));
    let sum = calendar.pass(10).await.sum;
    assert_eq!((sum.expired, sum.next), (0, date("2026-02-02")));
    let key = |key| ObjectKey::new(key).unwrap();
    calendar.world.engine.put_tags("bucket", key("a"), tags("old")).await.unwrap();
    calendar.world.engine.put_tags("bucket", key("b"), tags("new")).await.unwrap();
    calendar.set(date("2026-02-02").unwrap());
    let sum = calendar.pass(10).await.sum;
    assert_eq!(sum.expired, 1, "to be tagged does not make it younger");
    // Once more for what was committed around midnight, and then not before the next one.
    assert!(sum.next > Some(calendar.now()));
    calendar.set(sum.next.unwrap());
    assert_eq!(calendar.pass(10).await.sum.next, date("2026-02-03"));
    assert_eq!(calendar.keys("bucket").await, ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_holds_for_what_comes_after_it() {
    let mut calendar = Calendar::new().await;
    let day = date("2026-03-01").unwrap();
    let rule = RuleWish { expire: Some(Expire::On(day)), ..RuleWish::default() };
    calendar.rules("bucket", vec![rule]).await;
    calendar.put("bucket", "a", 0).await;
    assert_eq!(calendar.pass(10).await.sum.next, Some(day));
    calendar.set(day);
    assert_eq!(calendar.pass(10).await.sum.expired, 1);
    calendar.set(noon("2026-04-01"));
    calendar.put("bucket", "b", 0).await;
    let sum = calendar.pass(10).await.sum;
    assert_eq!((sum.expired, sum.next), (0, date("2026-04-02")));
    calendar.set(date("2026-04-02").unwrap());
    assert_eq!(calendar.pass(10).await.sum.expired, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwrite_makes_an_object_young_and_a_new_replica_does_not() {
    let mut calendar = Calendar::new().await;
    calendar.rules("bucket", vec![after("", 5)]).await;
    calendar.put("bucket", "again", 100).await;
    calendar.put("bucket", "moved", 100).await;
    calendar.set(noon("2026-01-04"));
    calendar.put("bucket", "again", 100).await;
    let bucket = calendar.world.engine.bucket("bucket").unwrap();
    let found = || {
        let key = ObjectKey::new("moved").unwrap();
        calendar.world.engine.store.object_find(bucket.id, key)
    };
    let before = found().await.unwrap();
    calendar.world.engine.replicate(&[before.entries[0].blob], &bucket).await.unwrap();
    let after = found().await.unwrap();
    assert_eq!(after.entries[0].replicas.len(), 2);
    assert_eq!(after.head.meta.modified, before.head.meta.modified);
    calendar.set(date("2026-01-07").unwrap());
    assert_eq!(calendar.pass(10).await.sum.expired, 1);
    assert_eq!(calendar.keys("bucket").await, ["again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_completes_are_aborted() {
    let mut calendar = Calendar::new().await;
    let other = BucketName::new("other").unwrap();
    calendar.world.engine.create_bucket(other, None).await.unwrap();
    calendar.rules("other", vec![aborting("", 1)]).await;
    calendar.rules("bucket", vec![aborting("a", 7), aborting("A", 90)]).await;
    let old = calendar.world.upload("a/old").await;
    let part = calendar.world.part("a/old", old, 1, bytes(100)).await.unwrap();
    let done = calendar.world.upload("a/done").await;
    let etag = calendar.world.part("a/done", done, 1, bytes(100)).await.unwrap();
    calendar.world.complete("a/done", done, vec![(1, etag)]).await.unwrap();
    calendar.world.upload("b/old").await;
    calendar.world.upload("A/old").await;
    calendar.set(noon("2026-01-05"));
    calendar.world.upload("a/new").await;
    let due = date("2026-01-09").unwrap();
    calendar.set(Timestamp(due.0 - 1));
    let sum = calendar.pass(10).await.sum;
    assert_eq!((sum.aborted, sum.looked), (0, 3));
    calendar.set(due);
    let sum = calendar.pass(10).await.sum;
    assert_eq!((sum.aborted, sum.expired, sum.failed), (1, 0, 0));
    let bucket = calendar.world.engine.bucket("bucket").unwrap();
    let usage = calendar.world.engine.bucket_usage(&bucket).await.unwrap();
    assert_eq!((usage.uploads, usage.objects, usage.bytes), (3, 1, 100));
    let late = calendar.world.complete("a/old", old, vec![(1, part)]).await;
    assert!(matches!(late, Err(EngineError::NoSuchUpload)), "{late:?}");
    calendar.set(noon("2027-01-01"));
    assert_eq!(calendar.pass(1).await.sum.aborted, 2);
    calendar.world.comes_to_rest().await;
}
