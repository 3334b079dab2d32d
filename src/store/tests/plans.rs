//! Query plans, and the size of rows.

use super::*;

async fn plan_of(world: &World, query: &'static str) -> Vec<String> {
    let plan = world.store.read(move |sql| {
        let mut statement = sql.0.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?;
        let unbound = vec![rusqlite::types::Null; statement.parameter_count()];
        let rows = statement.query_map(rusqlite::params_from_iter(unbound), |row| row.get(3))?;
        Ok(rows.collect::<Result<_, _>>()?)
    });
    plan.await.unwrap()
}

/// Every query that runs again and again is a look-up in an index, in the index's order.
#[tokio::test]
async fn no_query_scans_or_sorts() {
    let world = World::new().await;
    let queries = [
        listing::OBJECTS,
        upload_listing::UPLOADS,
        find::HEAD,
        find::ENTRIES,
        part::PARTS,
        entry::GOOD_REPLICAS,
        condemned::DUE,
        condemned::NEXT,
        condemned::FAILED,
        parked::PARKED,
        parked::ALL,
        show::STATE,
        show::PLACES,
        replica::WRITING_BETWEEN,
        crate::store::repair::SHORT,
        crate::store::repair::SHORT_NEXT,
        crate::store::repair::LOOK_NOW,
        crate::store::repair::SURPLUS,
        crate::store::repair::LEAVING,
        blob::DROPPED_BETWEEN,
        upload::PRUNABLE,
        crate::store::lifecycle::OBJECTS_AGING,
        crate::store::lifecycle::UPLOADS_AGING,
        crate::store::scrub::WALK,
        crate::store::scrub::UNREADABLE,
        crate::store::scrub::UNHASHED_WINDOW,
        crate::store::scrub::UNHASHED,
        crate::store::scrub::DEAD,
        crate::store::usage::USAGE,
        crate::store::survey::ROWS_WINDOW,
        crate::store::survey::KEPT_WINDOW,
        import::OWN,
        import::CONDEMNED,
        crate::store::borrowed::BORROWED,
    ];
    for query in queries {
        let plan = plan_of(&world, query).await;
        for step in &plan {
            let is_sort = step.contains("TEMP B-TREE") || step.contains("AUTOMATIC");
            assert!(!is_sort && !step.starts_with("SCAN"), "{query}\n{plan:#?}");
        }
    }
}

/// Cleanup looks at what is due and at what has failed, whatever else waits.
#[tokio::test]
async fn cleanup_passes_by_no_path_that_is_not_its_business() {
    let world = World::new().await;
    let plans = [
        (condemned::DUE, "condemned_due (backend=? AND due<?)"),
        (condemned::NEXT, "condemned_due (backend=? AND due>?)"),
        (condemned::FAILED, "condemned_failed (id>?)"),
    ];
    for (query, expected) in plans {
        let plan = plan_of(&world, query).await;
        assert!(plan.iter().any(|step| step.contains(expected)), "{query}\n{plan:#?}");
    }
}

#[tokio::test]
async fn an_object_takes_few_bytes_of_metadata() {
    const OBJECTS: usize = 3000;
    let world = World::new().await;
    let size = || async {
        world
            .store
            .read(|sql| Ok(sql.0.query_row("PRAGMA page_count", [], |row| row.get::<_, u64>(0))?))
            .await
            .unwrap()
            * 4096
    };
    let before = size().await;
    let mut puts = Vec::new();
    for i in 0..OBJECTS {
        // Spread over the key space, as hashes are; 60 bytes.
        let at =
            format!("{:016x}{}", (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), "k".repeat(44));
        let world = &world;
        puts.push(async move {
            let blobs = vec![BlobRequest { size: 4096, stem: format!("photos/{at}~0.0") }];
            let bucket = &world.bucket;
            let store = &world.store;
            let registered = store
                .blobs_register(bucket.id, bucket.placement_id, blobs, choose(1))
                .await
                .unwrap();
            let mut commit = commit(bucket.id, &at, 1, finished(&registered));
            commit.checksums = vec![Checksum::new(ChecksumAlgorithm::Crc64Nvme, [1; 8]).unwrap()];
            commit.meta.headers.content_type = Some("application/octet-stream".into());
            store.version_commit(commit).await.unwrap();
        });
    }
    for some in puts {
        some.await;
    }
    let each = (size().await - before) / OBJECTS as u64;
    println!("{each} bytes of metadata for each object");
    assert!(each < 400, "{each} bytes of metadata for each object");
}
