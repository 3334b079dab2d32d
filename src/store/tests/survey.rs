//! Surveys and imports, as the store sees them.

use super::*;
use crate::base::Timestamp;

fn listed(path: &str, size: u64, second: i64) -> ListedFile {
    let modified = Some(Timestamp(START + second * 1_000_000));
    ListedFile { path: path.to_owned(), size, modified }
}

fn import(world: &World, file: ListedFile) -> NewImport {
    let key = key(&file.path);
    let etag = Etag { md5: [1; 16], parts: Some(1) };
    let object = FileObject { file, etag, headers: Headers::default() };
    NewImport { bucket: world.bucket.id, key, object }
}

impl World {
    async fn import(&self, files: &[ListedFile]) -> Vec<Import> {
        let imports = files.iter().map(|file| import(self, file.clone())).collect();
        let became = self.store.files_import(BACKENDS[0], imports).await.unwrap();
        self.verify().await;
        became
    }

    /// What the backend lists of its own files.
    async fn own_files(&self, backend: BackendId) -> Vec<ListedFile> {
        let rows = self.store.replicas_page(WriteId(0), 10_000).await.unwrap();
        rows.into_iter()
            .filter(|row| row.replica.backend == backend)
            .map(|row| listed(&row.replica.path, row.size, 0))
            .collect()
    }
}

/// All differences of a survey, in the order of their paths.
async fn differences(
    survey: &Survey,
) -> (Vec<RowDifference>, Vec<FileDifference>, Vec<(u64, String)>) {
    let (mut rows, mut files, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = Some(WriteId(0));
    while let Some(after) = at {
        let (some, next) = survey.rows(after).await.unwrap();
        rows.extend(some);
        at = next;
    }
    let mut at = Some(String::new());
    while let Some(after) = at {
        let (some, next) = survey.files(after).await.unwrap();
        files.extend(some);
        at = next;
    }
    let mut at = Some(String::new());
    while let Some(after) = at {
        let (some, next) = survey.kept(after).await.unwrap();
        kept.extend(some);
        at = next;
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    files.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    (rows, files, kept)
}

#[tokio::test]
async fn the_order_of_a_listing_does_not_matter() {
    let world = World::new().await;
    for n in 0..2500 {
        world.put(&format!("key{n}"), 1, &[10 + n % 3]).await;
    }
    world.import(&[listed("a", 1, 0), listed("b", 2, 0), listed("c", 3, 0)]).await;
    let mut files = world.own_files(BACKENDS[0]).await;
    let debris = format!("photos/x~0.0~{}", WriteId(7));
    files.retain(|file| !["a", "b", "c"].contains(&file.path.as_str()));
    let gone = files.remove(1234);
    files[77].size = 1;
    files.extend([listed("b", 2, 9), listed("c", 3, 0), listed("foreign", 4, 0)]);
    files.push(listed(&debris, 5, 0));
    let mut found = Vec::new();
    for order in 0..3 {
        match order {
            0 => files.sort_by(|a, b| a.path.cmp(&b.path)),
            1 => files.reverse(),
            _ => files.sort_by_key(|file| {
                std::hash::BuildHasher::hash_one(
                    &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
                    &file.path,
                )
            }),
        }
        let survey = world.store.survey(BACKENDS[0]).await.unwrap();
        for some in files.chunks(700) {
            survey.add(some.to_vec()).await.unwrap();
        }
        // Pages of services overlap at times.
        survey.add(files[..50].to_vec()).await.unwrap();
        found.push(differences(&survey).await);
    }
    let (rows, files, kept) = &found[0];
    let rows_are: Vec<_> = rows.iter().map(|row| (row.path.as_str(), &row.what)).collect();
    assert!(rows_are.contains(&("a", &RowFinding::Gone)));
    assert!(rows_are.contains(&("b", &RowFinding::Changed(listed("b", 2, 9)))));
    assert!(rows_are.contains(&(gone.path.as_str(), &RowFinding::Gone)));
    assert_eq!(rows.iter().filter(|row| row.what == RowFinding::Misfit).count(), 1);
    assert_eq!(rows.len(), 4);
    let expected = [
        FileDifference { file: listed("foreign", 4, 0), what: FileFinding::Foreign },
        FileDifference { file: listed(&debris, 5, 0), what: FileFinding::Debris(WriteId(7)) },
    ];
    assert_eq!((files.as_slice(), kept.as_slice()), (expected.as_slice(), [].as_slice()));
    assert!(found.iter().all(|other| *other == found[0]));
}

#[tokio::test]
async fn what_was_written_after_a_survey_began_is_not_missing() {
    let world = World::new().await;
    world.put("before", 1, &[10]).await;
    let survey = world.store.survey(BACKENDS[0]).await.unwrap();
    world.put("after", 1, &[10]).await;
    world.import(&[listed("file", 1, 0)]).await;
    let (rows, files, _) = differences(&survey).await;
    assert_eq!((rows.len(), files.len()), (1, 0));
    assert!(rows[0].path.starts_with("photos/before"), "{rows:?}");
}

#[tokio::test]
async fn findings_are_looked_at_again_before_they_count() {
    let world = World::new().await;
    let registered = world.register_for("key", &[10], 1).await.unwrap();
    let write = registered[0].intents[0].write;
    let mark = async |what| world.store.replicas_reconcile(vec![(write, what)]).await.unwrap();
    assert_eq!(mark(Reconciled::Missing).await, 0, "it is being written");
    let commit = commit(world.bucket.id, "key", 1, finished(&registered));
    world.store.version_commit(commit).await.unwrap();
    assert_eq!(mark(Reconciled::Back).await, 0, "it was never gone");
    assert_eq!(mark(Reconciled::Missing).await, 1);
    assert_eq!(mark(Reconciled::Damaged).await, 0, "the first finding stays");
    world.verify().await;
    assert_eq!(mark(Reconciled::Back).await, 1);
    world.verify().await;
    let own = world.own_files(BACKENDS[0]).await.remove(0);
    world.delete("key").await;
    assert_eq!(mark(Reconciled::Missing).await, 0);
    let debris = vec![Debris { write, path: own.path, size: 10 }];
    assert_eq!(world.store.debris_condemn(BACKENDS[0], debris.clone()).await.unwrap(), 0);
    world.clean().await;
    assert_eq!(world.store.debris_condemn(BACKENDS[0], debris).await.unwrap(), 1);
    assert!(world.due().await.is_empty());
    world.hand.fetch_add(8 * 24 * HOUR, Ordering::SeqCst);
    assert_eq!(world.due().await.len(), 1);
    world.clean().await;
    assert_eq!(world.ledger().await, (0, 0, 0));
    world.verify().await;
}

#[tokio::test]
async fn imported_bytes_count_also_beyond_the_quota() {
    let world = World::new().await;
    world.store.declare(declaration(Some(10))).await.unwrap();
    let became = world.import(&[listed("a", 8, 0), listed("b", 8, 0)]).await;
    assert_eq!(became, [Import::Imported, Import::Imported]);
    assert_eq!(world.ledger().await, (16, 0, 0));
    world.put("key", 1, &[5]).await;
    let found = world.find("key").await.unwrap();
    assert_eq!(found.entries[0].replicas[0].backend, BACKENDS[1], "it takes nothing new");
    world.delete("a").await;
    assert_eq!(world.ledger().await, (13, 0, 8));
    world.verify().await;
    world.store.kept_forget(vec![0]).await.unwrap();
    assert_eq!(world.ledger().await, (13, 0, 8));
}

#[tokio::test]
async fn two_imports_of_one_path_are_one_object() {
    let world = World::new().await;
    let file = listed("a", 8, 0);
    let other = NewImport { key: key("b"), ..import(&world, file.clone()) };
    let both = vec![import(&world, file.clone()), other.clone()];
    let became = world.store.files_import(BACKENDS[0], both).await.unwrap();
    assert_eq!(became, [Import::Imported, Import::Known]);
    let elsewhere = world.store.files_import(BACKENDS[1], vec![other]).await.unwrap();
    assert_eq!(elsewhere, [Import::Imported], "a path on another backend is another file");
    let parts = world.store.object_parts(world.bucket.id, key("a")).await.unwrap();
    assert_eq!((parts.len(), parts[0].number, parts[0].size), (1, 1, 8));
    world.verify().await;
}

#[tokio::test]
async fn a_file_from_the_future_is_as_new_as_now() {
    let world = World::new().await;
    world.import(&[listed("old", 1, -1000), listed("new", 1, 1000)]).await;
    let modified = async |at| world.find(at).await.unwrap().head.meta.modified;
    assert_eq!(modified("old").await, Timestamp(START - 1_000_000_000));
    assert!(modified("new").await.0 < START + 1_000_000_000);
}

#[tokio::test]
async fn the_hash_of_an_import_is_set_once() {
    let world = World::new().await;
    world.import(&[listed("a", 8, 0)]).await;
    let blob = world.find("a").await.unwrap().entries[0].blob;
    let set = async |hash| world.store.blob_hash_set(blob, hash, Vec::new()).await;
    set([3; 32]).await.unwrap();
    set([3; 32]).await.unwrap();
    assert!(matches!(set([4; 32]).await, Err(StoreError::Changed)));
    assert_eq!(world.store.blob(blob).await.unwrap().hash, Some([3; 32]));
    world.delete("a").await;
    assert!(matches!(set([3; 32]).await, Err(StoreError::Superseded)));
    world.verify().await;
}
