//! What backends used: written along with commits or alone, kept over restarts, pruned.

use std::sync::Mutex;

use super::*;

/// Has the same until it hears that it was written.
#[derive(Default)]
struct Source {
    rows: Mutex<Vec<UsageRow>>,
    asked: AtomicI64,
}

impl UsageSource for Source {
    fn unwritten(&self) -> Vec<UsageRow> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.rows.lock().unwrap().clone()
    }

    fn written(&self, rows: &[UsageRow]) {
        self.rows.lock().unwrap().retain(|row| !rows.contains(row));
    }
}

fn tally(n: u64) -> Tally {
    let all =
        Amounts { calls: [n, 0, 2, 0], egress: n, ingress: 7, operations: [0, n, 0, 0, 0, 1] };
    let work = Amounts { calls: [n / 2, 0, 0, 0], egress: n / 2, ..Amounts::default() };
    Tally { all, work }
}

fn row(period: u32, n: u64) -> UsageRow {
    UsageRow { backend: BACKENDS[0], period: Period(period), tally: tally(n) }
}

async fn load(world: &World, period: u32) -> Option<Tally> {
    let found = world.store.usage_load(vec![(BACKENDS[0], Period(period))]).await.unwrap();
    found.first().map(|row| row.tally)
}

#[tokio::test]
async fn totals_are_kept_over_a_restart_and_never_fall() {
    let mut world = World::new().await;
    let foreign = UsageRow { backend: BackendId(999), ..row(202_611, 5) };
    let all = vec![row(202_611, 9), row(20_261_122, 4), foreign];
    world.store.usage_write(all.clone()).await.unwrap();
    world.store.usage_write(all).await.unwrap();
    world.restart().await;
    world.store.usage_write(vec![row(202_611, 8), row(20_261_122, 6)]).await.unwrap();
    assert_eq!(load(&world, 202_611).await, Some(tally(9)));
    assert_eq!(load(&world, 20_261_122).await, Some(tally(6)));
    assert_eq!(load(&world, 202_610).await, None);
    let none = world.store.usage_load(vec![(BackendId(999), Period(202_611))]).await.unwrap();
    assert_eq!(none, vec![]);
    world.verify().await;
    let huge = Tally { all: Amounts { egress: u64::MAX, ..Amounts::default() }, ..tally(0) };
    world.store.usage_write(vec![UsageRow { tally: huge, ..row(202_611, 0) }]).await.unwrap();
    assert_eq!(load(&world, 202_611).await.unwrap().all.egress, i64::MAX as u64);
}

#[tokio::test]
async fn verify_sees_what_cannot_be() {
    let world = World::new().await;
    world.store.usage_write(vec![row(202_611, 9)]).await.unwrap();
    for wrong in
        ["UPDATE usage SET kind = 9 WHERE kind = 2", "UPDATE usage SET value = 10 WHERE kind = 5"]
    {
        let wrong = move |tx: &mut Tx<'_>| tx.run(wrong, []);
        assert_eq!(world.store.write(Lane::Work, Need::Durable, wrong).await.unwrap(), 1);
    }
    let found = world.store.verify().await.unwrap();
    assert!(found.iter().any(|line| line.contains("usage of an unknown kind")), "{found:?}");
}

#[tokio::test]
async fn counts_go_along_with_a_commit_and_not_with_intents_alone() {
    let world = World::new().await;
    let source = Arc::new(Source::default());
    *source.rows.lock().unwrap() = vec![row(202_611, 9)];
    world.store.usage_source(Arc::clone(&source) as Arc<dyn UsageSource>);
    let registered = world.register(&[4], 1).await;
    assert_eq!(source.asked.load(Ordering::Acquire), 0);
    assert_eq!(load(&world, 202_611).await, None);
    let commit = commit(world.bucket.id, "k", 1, finished(&registered));
    world.store.version_commit(commit).await.unwrap();
    assert_eq!(load(&world, 202_611).await, Some(tally(9)));
    // The source is told after those who wait for the commit.
    world.ledger_after_writes().await;
    assert!(source.rows.lock().unwrap().is_empty());
    // Many commits in a short time ask once a second at most.
    let begun = std::time::Instant::now();
    for i in 0..20 {
        world.put("many", i, &[1]).await;
    }
    let asked = source.asked.load(Ordering::Acquire) as u64;
    assert!(asked <= 2 + begun.elapsed().as_secs(), "{asked}");
    world.verify().await;
}

#[tokio::test]
async fn counts_that_cannot_be_written_take_no_commit_with_them() {
    let world = World::new().await;
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON usage BEGIN SELECT raise(ABORT, 'no'); END";
    let run = |sql: &'static str| {
        world.store.write(Lane::Work, Need::Durable, move |tx| Ok(tx.0.execute_batch(sql)?))
    };
    run(refuse).await.unwrap();
    let source = Arc::new(Source::default());
    *source.rows.lock().unwrap() = vec![row(202_611, 9)];
    world.store.usage_source(Arc::clone(&source) as Arc<dyn UsageSource>);
    world.put("k", 1, &[1]).await;
    assert!(world.find("k").await.is_ok());
    assert_eq!(source.asked.load(Ordering::Acquire), 1);
    assert_eq!(*source.rows.lock().unwrap(), vec![row(202_611, 9)], "nobody said it was written");
    assert!(world.store.usage_write(vec![row(202_611, 9)]).await.is_err());
    run("DROP TRIGGER no").await.unwrap();
    world.store.usage_write(vec![row(202_611, 9)]).await.unwrap();
    assert_eq!(load(&world, 202_611).await, Some(tally(9)));
    world.verify().await;
}

#[tokio::test]
async fn old_periods_go_when_new_ones_begin() {
    let world = World::new().await;
    for month in 0..20 {
        world
            .store
            .usage_write(vec![row((2025 + month / 12) * 100 + 1 + month % 12, 3)])
            .await
            .unwrap();
    }
    for day in 0..100 {
        let day = (2026 * 100 + 1 + day / 28) * 100 + 1 + day % 28;
        world.store.usage_write(vec![row(day, 3)]).await.unwrap();
    }
    let kept = |from: u32, to: u32| {
        let count = move |sql: Sql<'_>| {
            let query =
                "SELECT count(DISTINCT period) FROM usage WHERE period >= ?1 AND period < ?2";
            Ok(sql.0.query_row(query, (from, to), |row| row.get::<_, usize>(0))?)
        };
        world.store.read(count)
    };
    let first_day = crate::model::usage::FIRST_DAY.0;
    assert_eq!(kept(0, first_day).await.unwrap(), crate::store::usage::MONTHS_KEPT);
    assert_eq!(kept(first_day, u32::MAX).await.unwrap(), crate::store::usage::DAYS_KEPT);
    assert_eq!(load(&world, 202_507).await, None);
    assert_eq!(load(&world, 202_508).await, Some(tally(3)));
    assert_eq!(load(&world, 20_260_416).await, Some(tally(3)));
    world.verify().await;
}
