//! What many deletions at once come to when not all of them are done.

use super::*;

/// Long enough for what is answered at once.
const BRIEF: Duration = Duration::from_millis(50);

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("a/{n}")).collect()
}

/// Faults of the answers, `None` where it was deleted.
async fn delete(backend: &Backend, paths: &[String], abreast: usize) -> Vec<Option<Fault>> {
    let answers = backend.delete_many(paths, abreast, LONG).await;
    for (path, answer) in paths.iter().zip(&answers) {
        let is_named = |err: &crate::backend::BackendError| err.path == *path;
        assert!(answer.as_ref().err().is_none_or(is_named), "{answer:?}");
    }
    answers.into_iter().map(|answer| answer.err().map(|err| err.fault)).collect()
}

async fn disk(change: impl FnOnce(&mut BackendSettings)) -> (Arc<Backend>, Faults, TempDir) {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let (root, id) = (dir.path().join("root"), BackendId(3));
    let backend = Backend::for_tests_as("disk", id, Some(&root), faults.clone(), change).await;
    (backend, faults, dir)
}

#[tokio::test]
async fn behind_a_failure_that_others_would_share_nobody_is_asked() {
    let (backend, faults, _dir) = disk(|settings| settings.breaker.failures = 1000).await;
    faults.always(Call::Delete, Effect::Fail(Fault::Passing));
    let answers = delete(&backend, &paths(50), 5).await;
    let asked = faults.count(Call::Delete);
    assert!((1..=5).contains(&asked), "{asked} were asked");
    let failed = answers.iter().filter(|answer| **answer == Some(Fault::Passing)).count();
    let rested = answers.iter().filter(|answer| **answer == Some(Fault::Resting)).count();
    assert_eq!((failed as u64, failed + rested), (asked, 50));
    faults.clear();
    // What is one path's own is no reason to leave out the others.
    faults.on(Call::Delete, 3, Effect::Fail(Fault::Refused));
    let answers = delete(&backend, &paths(50), 1).await;
    assert_eq!(answers.iter().position(Option::is_some), Some(2));
    assert_eq!(answers.iter().flatten().count(), 1);
}

#[tokio::test]
async fn what_is_not_seen_deletes_nothing() {
    let (backend, faults, dir) = disk(|_| {}).await;
    backend.write_whole("a/1", pattern(1)).await.unwrap();
    faults.lose_marker(true);
    let answers = delete(&backend, &paths(3), 2).await;
    assert!(answers.iter().all(|answer| matches!(answer, Some(Fault::Absent | Fault::Resting))));
    assert!(answers.contains(&Some(Fault::Absent)));
    assert!(dir.path().join("root/a/1").exists() && !backend.is_present());
}

#[tokio::test]
async fn a_deletion_is_waited_for_as_long_as_was_said() {
    let (backend, faults, _dir) = disk(|_| {}).await;
    faults.always(Call::Delete, Effect::Hang);
    let answers = backend.delete_many(&paths(20), 2, BRIEF).await;
    let unknown = answers.iter().flat_map(|answer| answer.as_ref().err()).filter(|err| err.unknown);
    assert!(unknown.clone().count() <= 2 && faults.count(Call::Delete) <= 2);
    assert!(unknown.clone().all(|err| err.fault == Fault::Passing));
    assert!(answers.iter().all(Result::is_err));
    faults.clear();
}

#[cfg(feature = "cloud")]
mod s3 {
    use super::*;
    use crate::backend::adapter::TOGETHER_MAX;
    use crate::backend::contract::standin::StandIn;
    use crate::backend::contract::standins::{S3, Versioning};

    /// A backend at a stand-in with so many objects `a/<number>`.
    async fn stand_in(count: usize) -> (Backend, Faults, StandIn<S3>) {
        let stand_in = StandIn::start(S3::new(Versioning::Off)).await;
        let mut settings = s3_at("http://s3.test");
        settings.options.insert("bucket".to_owned(), "bucket".to_owned());
        let adapter = Adapter::through(&settings, stand_in.transport());
        let place = Place::of_adapter(adapter.unwrap_or_else(|failure| panic!("{failure:?}")));
        let marker = Marker { store: 7, backend: BackendId(9) };
        let limits = PathLimits { component_max: 255, total_max: 1000 };
        place.write_whole(&marker.path(), marker.content(limits).into()).await.unwrap();
        let (traits, faults) = (service("s3").unwrap(), Faults::default());
        let backend = Backend::over(settings, traits, marker, place, faults.clone(), meter());
        backend.look().await.unwrap();
        let all = (0..count).map(|n| (format!("a/{n}"), vec![Some(pattern(1))]));
        stand_in.cloud.lock().unwrap().objects.extend(all);
        (backend, faults, stand_in)
    }

    /// Keys of each deletion since the last look.
    fn deletions(stand_in: &StandIn<S3>) -> Vec<usize> {
        std::mem::take(&mut stand_in.cloud.lock().unwrap().deletions)
    }

    fn is_there(stand_in: &StandIn<S3>, path: &str) -> bool {
        stand_in.cloud.lock().unwrap().objects.get(path).is_some_and(|all| !all.is_empty())
    }

    #[tokio::test]
    async fn one_request_deletes_as_many_as_it_may() {
        let count = TOGETHER_MAX + 3;
        let (backend, _, stand_in) = stand_in(count).await;
        assert_eq!(backend.deletes_at_once(), TOGETHER_MAX);
        let answers = delete(&backend, &paths(count), 1).await;
        assert_eq!((answers.len(), answers.iter().flatten().count()), (count, 0));
        assert_eq!(deletions(&stand_in), [TOGETHER_MAX, 3]);
        assert!(!paths(count).iter().any(|path| is_there(&stand_in, path)));
        assert_eq!(stand_in.strays(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn one_that_is_kept_is_not_taken_for_deleted() {
        for (code, status, fault) in [
            ("MethodNotAllowed", 405, Fault::Passing),
            ("AccessDenied", 403, Fault::Refused),
            ("SlowDown", 503, Fault::Passing),
        ] {
            let (backend, _, stand_in) = stand_in(12).await;
            stand_in.cloud.lock().unwrap().kept.insert("a/5".to_owned(), (code, status));
            let answers = delete(&backend, &paths(12), 12).await;
            for (path, answer) in paths(12).iter().zip(answers) {
                let expected = (path == "a/5").then_some(fault);
                assert_eq!(
                    (answer, is_there(&stand_in, path)),
                    (expected, path == "a/5"),
                    "{path}"
                );
            }
            stand_in.cloud.lock().unwrap().kept.clear();
            backend.reset_breaker();
            assert_eq!(delete(&backend, &paths(12), 3).await, [None; 12]);
            assert!(!is_there(&stand_in, "a/5"));
        }
    }

    #[tokio::test]
    async fn what_is_no_clear_answer_has_each_deleted_by_itself() {
        for said in [
            (501, "<Error><Code>NotImplemented</Code></Error>"),
            (400, "<Error><Code>MalformedXML</Code></Error>"),
            (403, ""),
            (200, "<Error><Code>InternalError</Code></Error>"),
            (200, "<html>sign in here</html>"),
            (200, ""),
        ] {
            let (backend, _, stand_in) = stand_in(5).await;
            stand_in.cloud.lock().unwrap().batches = Some(said);
            assert_eq!(delete(&backend, &paths(5), 2).await, [None; 5], "{said:?}");
            assert_eq!(deletions(&stand_in), [5, 1, 1, 1, 1, 1], "{said:?}");
            assert!(!paths(5).iter().any(|path| is_there(&stand_in, path)));
            assert_eq!(backend.breaker_view().failures, 0);
        }
    }

    #[tokio::test]
    async fn a_service_in_trouble_is_not_asked_for_each() {
        let (backend, _, stand_in) = stand_in(5).await;
        let said = (503, "<Error><Code>SlowDown</Code></Error>");
        stand_in.cloud.lock().unwrap().batches = Some(said);
        let answers = backend.delete_many(&paths(5), 2, LONG).await;
        let is_unknown = |err: &crate::backend::BackendError| {
            err.unknown && err.fault == Fault::Passing && err.cause.is_some()
        };
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(is_unknown)), "{answers:?}");
        let tries = deletions(&stand_in);
        assert!(tries.len() > 1 && tries.iter().all(|keys| *keys == 5), "{tries:?}");
        assert_eq!(backend.breaker_view().failures, 1, "it is one call");
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_unknown_for_all() {
        let (backend, faults, stand_in) = stand_in(5).await;
        faults.on(Call::Delete, 1, Effect::FailAfter(Fault::Passing));
        let answers = backend.delete_many(&paths(5), 2, LONG).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|err| err.unknown)));
        assert!(!paths(5).iter().any(|path| is_there(&stand_in, path)));
        assert_eq!(delete(&backend, &paths(5), 2).await, [None; 5]);
        assert_eq!(deletions(&stand_in), [5, 5]);
    }

    #[tokio::test]
    async fn what_a_list_would_change_goes_by_itself() {
        let (backend, _, stand_in) = stand_in(2).await;
        let mut all = paths(2);
        all.push("a/\u{1}".to_owned());
        assert_eq!(delete(&backend, &all, 1).await, [None; 3]);
        assert_eq!(deletions(&stand_in), [1, 1, 1]);
    }
}

#[tokio::test]
async fn a_real_server_that_fails_in_the_middle_says_it_of_what_it_kept() {
    let server = S3Server::start().await;
    let backend = Backend::add(server.settings(), 7, BackendId(9), meter()).await.unwrap();
    for path in paths(6) {
        backend.write_whole(&path, pattern(1)).await.unwrap();
    }
    // A directory is where a file should be: it cannot be removed as one.
    let kept = server.dir.path().join("bucket/deep/root/a/3");
    std::fs::remove_file(&kept).unwrap();
    std::fs::create_dir_all(kept.join("full")).unwrap();
    let answers = delete(&backend, &paths(6), 6).await;
    assert!(answers[3].is_some(), "{answers:?}");
    for (path, _) in paths(6).iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
        assert_eq!(backend.stat(path).await.unwrap_err().fault, Fault::Missing);
    }
    std::fs::remove_dir_all(&kept).unwrap();
    assert_eq!(delete(&backend, &paths(6), 6).await, [None; 6]);
    assert_eq!(listed(&backend, "").await, []);
}
