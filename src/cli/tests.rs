//! The grammar, and the commands with and without a server.

use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::stop::Ended;
use super::*;
use crate::admin;
use crate::admin::Desk;
use crate::admin::NewBucket;
use crate::admin::NewKey;
use crate::admin::NewLifecycle;
use crate::admin::Operation;
use crate::admin::Ready;
use crate::admin::RuleView;
use crate::admin::RunWish;
use crate::admin::VerifyView;
use crate::admin::VerifyWish;
use crate::admin::Wishes;
use crate::app::offline;
use crate::app::offline::Needs;
use crate::app::remote::Remote;
use crate::backend::Backend;
use crate::backend::Fleet;
use crate::base::Clock;
use crate::base::Ids;
use crate::config::Config;
use crate::engine::Engine;
use crate::model::BackendId;
use crate::store::Declaration;
use crate::store::DeclaredBackend;
use crate::worker::Crew;
use crate::worker::Wakes;

#[test]
fn the_grammar_is_sound_and_every_command_says_what_it_does() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    for sub in command.get_subcommands_mut() {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 15, "{} says nothing of itself", sub.get_name());
    }
}

#[test]
fn options_may_stand_before_and_after_the_command() {
    for line in ["larder --config x --json check", "larder check --config x --json"] {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.config, Some("x".into()));
        assert!(cli.json);
    }
    for wrong in [
        "larder",
        "larder brew",
        "larder check --brew",
        "larder completions",
        "larder bucket",
        "larder bucket create",
        "larder bucket create No",
        "larder bucket create photos --quota 5",
        "larder bucket set photos",
        "larder bucket lifecycle",
        "larder bucket lifecycle show",
        "larder bucket lifecycle set photos",
        "larder bucket lifecycle add photos",
        "larder bucket lifecycle add photos --prefix a",
        "larder bucket lifecycle add photos --expire-after 1d --expire-on 2027-01-01",
        "larder bucket lifecycle add photos --expire-after 1d --tag a",
        "larder key create",
        "larder key create --preset king",
        "larder key create --preset admin --allow read",
        "larder key create --allow fly",
        "larder key create --preset admin --bucket No",
        "larder key set LK1",
        "larder init --s3 r2",
        "larder init --replicas x",
        "larder stop --timeout 5",
        "larder backend reset",
        "larder worker run",
        "larder worker pause",
        "larder cleanup retry",
        "larder cleanup retry --all 0000000000001",
        "larder cleanup forget 0000000000001",
        "larder cleanup forget --yes",
        "larder object show photos",
        "larder usage cloud",
        "larder import disk1",
        "larder import disk1 No",
        "larder bucket set photos --import maybe",
        "larder init --s3 nobody --s3-bucket b --s3-key-id k --s3-secret-file f",
    ] {
        assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
    }
}

#[test]
fn a_missing_configuration_is_answered_with_the_line_to_run() {
    let text = no_configuration(&["a".into(), "b".into()]).to_string();
    assert!(text.contains("neither a nor b"), "{text}");
    assert!(text.contains("\n    larder init\n"), "{text}");
    let context = Context { config: Some("/nowhere/larder.toml".into()), json: false };
    let failure = context.load().err().unwrap();
    assert_eq!(failure.exit, Exit::Configuration);
    assert!(failure.error.to_string().contains("/nowhere/larder.toml: "));
}

#[test]
fn every_line_of_the_manual_is_understood() {
    for line in [
        "larder serve",
        "larder init --yes --disk /a --disk /b --replicas 2 --bucket photos --force",
        "larder init --yes --s3 r2 --s3-account a --s3-bucket b --s3-key-id k --s3-secret-file f",
        "larder check --probe",
        "larder version",
        "larder stop --timeout 2min",
        "larder bucket create photos --replicas 2 --min-replicas 1 --routing spread",
        "larder bucket create photos --require-distinct site --max-uploads 5 --quota 1GB",
        "larder bucket list --json",
        "larder bucket show photos",
        "larder bucket set photos --quota none",
        "larder bucket delete photos",
        "larder bucket lifecycle show photos --json",
        "larder bucket lifecycle set photos rules.toml",
        "larder bucket lifecycle add photos --prefix tmp/ --expire-after 30d --tag a=b --tag c=d",
        "larder bucket lifecycle add photos --id x --larger-than 1MiB --smaller-than 1GiB \
            --expire-on 2027-01-01 --disabled",
        "larder bucket lifecycle add photos --abort-uploads-after 7d",
        "larder bucket lifecycle delete photos",
        "larder bucket lifecycle delete photos tmp",
        "larder key create --preset read-write --bucket photos --prefix a/",
        "larder key create --allow read,list --bucket photos --bucket *",
        "larder key create --create-buckets",
        "larder key list",
        "larder key show LK1",
        "larder key set LK1 --add --preset read-only --create-buckets false",
        "larder key set LK1 --new-secret",
        "larder key delete LK1",
        "larder backend list",
        "larder backend reset cloud",
        "larder worker list",
        "larder worker run over-replication --wait",
        "larder worker pause scrubber rebalancer",
        "larder worker resume all",
        "larder cleanup list --backend cloud --all --json",
        "larder cleanup retry --all",
        "larder cleanup retry 0000000000001 0000000000002",
        "larder cleanup forget 0000000000001 --yes",
        "larder object show photos 2026/cat.jpg",
        "larder usage --backend cloud --json",
        "larder status",
        "larder config providers",
        "larder bucket set photos --import report",
        "larder import disk1 photos --prefix a/b --strip a --dry-run --take-over",
        "larder reconcile",
        "larder reconcile disk1 --json",
        "larder verify --backends --read",
        "larder completions bash",
    ] {
        if let Err(err) = Cli::try_parse_from(line.split(' ')) {
            panic!("{line}: {err}");
        }
    }
}

/// A configuration with one backend, one declared bucket and one declared key.
fn configuration(dir: &Path) -> Config {
    let file = dir.join("larder.toml");
    let text = format!(
        "data_dir = {:?}\n[[backend]]\nname = \"disk\"\nservice = \"fs\"\nkeep_free = \"0 B\"\n\
         options = {{ root = {:?} }}\n[[bucket]]\nname = \"declared\"\n\
         lifecycle = [{{ id = \"kept\", expire_after = \"9 d\" }}]\n\
         [[key]]\nid = \"AKDECLARED0000000000\"\nsecret = \"0123456789012345678901234567890123456789\"\n\
         grants = [{{ bucket = \"declared\", preset = \"read-only\" }}]\n",
        dir.join("data"),
        dir.join("disk"),
    );
    std::fs::write(&file, text).unwrap();
    std::fs::create_dir_all(dir.join("data")).unwrap();
    configuration::load(&file, &|_| None).unwrap().config
}

/// As much of a server as the operator's surface needs.
struct Server {
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(config: &Config) -> Server {
        let clock = Clock::system();
        let ids = Arc::new(Ids::new(clock.clone()));
        let store = offline::open(&config.data_dir, clock.clone(), Arc::clone(&ids)).await.unwrap();
        let settings = config.backends[0].clone();
        let id = store.backends().await.unwrap().first().map(|row| row.id);
        let id = id.unwrap_or_else(|| BackendId(ids.next()));
        let location = Backend::location(&settings);
        let meter = crate::backend::Meter::new(Clock::system(), Default::default());
        let backend = Backend::add(settings, store.id(), id, meter).await.unwrap();
        let name = backend.name().to_string();
        let declaration = Declaration {
            backends: vec![DeclaredBackend { id, name, location, quota: None, account: None }],
            buckets: config.buckets.clone(),
            keys: config.keys.clone(),
            default_placement: config.default_placement.clone(),
        };
        store.declare(declaration).await.unwrap();
        let fleet = Fleet::new(vec![backend]);
        let engine = Engine::new(store.clone(), fleet, config.engine.clone(), 64 << 20, clock);
        let (stop, ready) = (CancellationToken::new(), Ready::default());
        ready.set(true);
        let (settings, wakes) = (config.workers.clone(), Wakes::default());
        let crew = Crew::new(&engine, &config.data_dir, settings, &wakes);
        crew.start();
        let desk = Desk::of_server(engine, Arc::clone(&crew), ready.clone(), stop.clone());
        let socket = Arc::new(admin::Socket::bind(&config.data_dir).unwrap());
        let asked = stop.clone();
        let ended = tokio::spawn(async move {
            admin::serve_socket(Arc::clone(&socket), ready, Arc::new(desk), asked).await;
            drop(socket);
            crew.end().await;
            store.close().await;
        });
        Server { stop, ended }
    }

    async fn end(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }
}

async fn ask(config: &Config, operation: Operation) -> Result<Value, Failure> {
    let needs = match operation {
        Operation::BackendList | Operation::Usage | Operation::WorkerRun(..) => Needs::Backends,
        Operation::BackendReset(_) => Needs::Store,
        _ => Needs::Names,
    };
    let session = Session::open(config, needs).await?;
    if operation.is_long() {
        return session.run_long(operation, |_: Value| ()).await;
    }
    session.run(operation).await
}

/// The verbs for background work.
fn a_night() -> Vec<Operation> {
    vec![
        Operation::WorkerRun("nobody".into(), RunWish::default()),
        Operation::WorkerPause(serde_json::from_str(r#"{"names":["cleanup"]}"#).unwrap()),
        Operation::WorkerPause(serde_json::from_str(r#"{"names":["brewer"]}"#).unwrap()),
        Operation::WorkerPause(serde_json::from_str("{}").unwrap()),
        Operation::WorkerRun("cleanup".into(), RunWish::default()),
        Operation::WorkerResume(serde_json::from_str(r#"{"all":true}"#).unwrap()),
        Operation::CleanupList(serde_json::from_str(r#"{"all":true}"#).unwrap()),
        Operation::CleanupList(serde_json::from_str(r#"{"backend":"nobody"}"#).unwrap()),
        Operation::CleanupRetry(serde_json::from_str(r#"{"all":true}"#).unwrap()),
        Operation::CleanupRetry(serde_json::from_str(r#"{"ids":["no"]}"#).unwrap()),
        Operation::CleanupForget(serde_json::from_str(r#"{"ids":["0000000000001"]}"#).unwrap()),
        Operation::CleanupForget(serde_json::from_str("{}").unwrap()),
        Operation::ObjectShow("declared".into(), "nothing".into()),
        Operation::ObjectShow("nobody".into(), "nothing".into()),
    ]
}

/// Every verb once and more, with what it answers; ids and times are blotted out.
async fn a_day_at_the_desk(config: &Config) -> Vec<String> {
    let bucket = |name: &str, wishes: Wishes| {
        Operation::BucketCreate(NewBucket { name: name.into(), wishes })
    };
    let two = Wishes { replicas: Some(2), quota: Some(5), ..Wishes::default() };
    let too_many = Wishes { min_replicas: Some(2), ..Wishes::default() };
    let contradicting = Wishes { replicas: Some(0), ..Wishes::default() };
    let labelled = Wishes { require_distinct: Some(vec!["site".into()]), ..Wishes::default() };
    let no_quota = Wishes { quota: Some(0), ..Wishes::default() };
    let new_key: NewKey =
        serde_json::from_value(json!({"grants": [{"bucket": "photos", "preset": "admin"}]}))
            .unwrap();
    let mut day = vec![
        Operation::BucketList,
        bucket("photos", two),
        bucket("photos", Wishes::default()),
        bucket("plain", Wishes::default()),
        bucket("other", too_many),
        bucket("other", contradicting),
        bucket("other", labelled),
        Operation::BucketSet("photos".into(), no_quota.clone()),
        Operation::BucketSet("declared".into(), no_quota.clone()),
        Operation::BucketSet("nobody".into(), no_quota),
        Operation::BucketSet("photos".into(), Wishes::default()),
        Operation::BucketShow("photos".into()),
        Operation::BucketDelete("plain".into()),
        Operation::BucketDelete("plain".into()),
        Operation::BucketDelete("declared".into()),
        Operation::BucketList,
        Operation::KeyCreate(new_key),
        Operation::KeyCreate(NewKey::default()),
        Operation::KeyShow("AKDECLARED0000000000".into()),
        Operation::KeyShow("LKNOBODY".into()),
        Operation::KeyDelete("AKDECLARED0000000000".into()),
        Operation::KeyDelete("LKNOBODY".into()),
        Operation::KeySet(
            "AKDECLARED0000000000".into(),
            serde_json::from_str(r#"{"new_secret":true}"#).unwrap(),
        ),
        Operation::KeyList,
        Operation::BackendList,
        Operation::BackendReset("nobody".into()),
        Operation::Usage,
    ];
    day.extend(a_night());
    day.extend(rules_of_the_day());
    let mut answers = Vec::new();
    let mut made = None;
    for operation in day {
        let answer = ask(config, operation.clone()).await;
        if let (Operation::KeyCreate(_), Ok(key)) = (&operation, &answer) {
            assert_eq!(key["secret"].as_str().map(str::len), Some(40));
            made = key["id"].as_str().map(str::to_owned);
        }
        answers.push(match answer {
            Ok(answer) => format!("{operation:?} {}", blotted(answer)),
            Err(failure) => format!("{operation:?} {:?} {}", failure.exit, failure.json()),
        });
    }
    let made = made.unwrap();
    let change = r#"{"add":[{"bucket":"*","allow":["read"]}],"create_buckets":true}"#;
    let change = Operation::KeySet(made.clone(), serde_json::from_str(change).unwrap());
    for operation in [change, Operation::KeyShow(made.clone()), Operation::KeyDelete(made)] {
        answers.push(blotted(ask(config, operation).await.unwrap()).to_string());
    }
    answers
}

fn rules_of_the_day() -> Vec<Operation> {
    let rule = |json: &str| serde_json::from_str::<RuleView>(json).unwrap();
    let lasting = rule(r#"{"id":"x","prefix":"tmp/","expire_after":"30 d"}"#);
    let idle = rule(r#"{"id":"y"}"#);
    let all = |rules: &[&RuleView]| NewLifecycle {
        lifecycle: rules.iter().map(|rule| (*rule).clone()).collect(),
    };
    vec![
        Operation::LifecycleShow("photos".into()),
        Operation::LifecycleAdd("photos".into(), lasting.clone()),
        Operation::LifecycleAdd("photos".into(), lasting.clone()),
        Operation::LifecycleAdd("photos".into(), idle.clone()),
        Operation::LifecycleAdd("photos".into(), rule(r#"{"abort_uploads_after":"7 d"}"#)),
        Operation::LifecycleDelete("photos".into(), Some("x".into())),
        Operation::LifecycleDelete("photos".into(), Some("x".into())),
        Operation::LifecycleSet("photos".into(), all(&[&lasting])),
        Operation::LifecycleSet("photos".into(), all(&[&lasting, &lasting])),
        Operation::LifecycleSet("photos".into(), all(&[&idle])),
        Operation::LifecycleShow("photos".into()),
        Operation::LifecycleDelete("photos".into(), None),
        Operation::LifecycleShow("declared".into()),
        Operation::LifecycleSet("declared".into(), all(&[&lasting])),
        Operation::LifecycleAdd("declared".into(), lasting.clone()),
        Operation::LifecycleDelete("declared".into(), None),
        Operation::LifecycleDelete("declared".into(), Some("kept".into())),
        Operation::LifecycleAdd("nobody".into(), lasting),
    ]
}

fn blotted(answer: Value) -> Value {
    match answer {
        Value::Array(list) => Value::Array(list.into_iter().map(blotted).collect()),
        Value::Object(map) => {
            let blot = |(name, value): (String, Value)| {
                // Breakers are a server's alone, and each way has requests of its own.
                let counts = ["calls", "egress", "ingress", "operations", "requests", "work"];
                let differs = ["breaker", "lines"].contains(&name.as_str());
                if differs || counts.contains(&name.as_str()) {
                    return (name, Value::Null);
                }
                let is_own = ["created", "id", "secret", "location", "deleted", "free"]
                    .contains(&name.as_str());
                let value = if is_own && !value.is_null() { json!("...") } else { blotted(value) };
                (name, value)
            };
            Value::Object(map.into_iter().map(blot).collect())
        }
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_does_the_same_with_a_server_and_without() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = configuration(with.path());
    let server = Server::start(&config).await;
    let answers = a_day_at_the_desk(&config).await;
    server.end().await;

    let config = configuration(without.path());
    // The backend is added by a server; the rest of the day has none.
    Server::start(&config).await.end().await;
    let alone = a_day_at_the_desk(&config).await;
    for (served, alone) in answers.iter().zip(&alone) {
        assert_eq!(served, alone);
    }
    assert_eq!(answers.len(), alone.len());
    let all = answers.join("\n");
    for part in [
        "it wishes 2 replicas and there are 1 backends",
        "bucket photos: a bucket of this name exists",
        "\"expire_after\":\"30 d\"",
        "bucket photos: two rules have the id `x`",
        "rule `y`: a rule has to do something",
        "bucket photos: there is no rule `x`",
        "\"abort_uploads_after\":\"7 d\"",
        "bucket declared: the configuration declares it",
        "\"expire_after\":\"9 d\"",
        "bucket nobody: there is no such bucket",
        "min_replicas is 2, but only 1 backends count towards it",
        "replicas is 0",
        "no backend has the label `site`",
        "\"code\":\"declared\"",
        "\"hint\":\"change it in the configuration file",
        "\"code\":\"no_such_key\"",
        "there is no access key LKNOBODY",
        "this key could do nothing",
        "\"state\":\"present\"",
        "\"code\":\"no_such_backend\"",
        "backend nobody: there is no such backend",
        "\"period\":\"20",
        "there is no worker `nobody`",
        "the workers are cleanup",
        "{\"paused\":[\"cleanup\"]}",
        "\"worker\":\"cleanup\"",
        "no worker is named",
        "\"items\":[]",
        "`no` is no id",
        "{\"forgotten\":0}",
        "object nothing: there is no such key",
        "bucket nobody: there is no such bucket",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    assert!(!all.contains("0123456789"), "a secret is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_start_the_verbs_work_on_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let made = ask(
        &config,
        Operation::BucketCreate(NewBucket { name: "early".into(), wishes: Wishes::default() }),
    );
    assert_eq!(made.await.unwrap()["name"], "early");
    let backends = ask(&config, Operation::BackendList).await.unwrap();
    assert_eq!((&backends[0]["state"], &backends[0]["id"]), (&json!("new"), &Value::Null));
    assert!(!dir.path().join("disk").exists(), "only a server adds a backend");
    let server = Server::start(&config).await;
    let buckets = ask(&config, Operation::BucketList).await.unwrap();
    let names: Vec<&Value> = buckets.as_array().unwrap().iter().map(|b| &b["name"]).collect();
    assert_eq!(names, ["declared", "early"]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_without_a_socket_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let clock = Clock::system();
    let ids = Arc::new(Ids::new(clock.clone()));
    let store = offline::open(&config.data_dir, clock, ids).await.unwrap();
    let short = Duration::from_millis(1);
    let failure = Session::open_within(&config, Needs::Names, short).await.err().unwrap();
    assert_eq!(failure.exit, Exit::Unreachable);
    let text = format!("{:#}", failure.error);
    assert!(text.contains("is in use, and no server answers there"), "{text}");
    let failure = stop::stop(&config.data_dir, short, false).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    store.close().await;
    drop(store);
    assert_eq!(stop::stop(&config.data_dir, short, false).await.unwrap(), Ended::Already);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_until_the_store_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let server = Server::start(&config).await;
    let remote = Remote::connect(&config.data_dir).await.unwrap().unwrap();
    let status = remote.run(&Operation::Status).await.unwrap();
    assert_eq!(status["state"], "ready");
    assert_eq!(status["pid"], std::process::id());
    let most = Duration::from_secs(30);
    assert_eq!(stop::stop(&config.data_dir, most, false).await.unwrap(), Ended::Now);
    assert!(!offline::is_locked(&config.data_dir).unwrap());
    server.ended.await.unwrap();
    assert_eq!(stop::stop(&config.data_dir, most, false).await.unwrap(), Ended::Already);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_reset_by_a_server_and_without_one_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let server = Server::start(&config).await;
    let reset = |name: &str| ask(&config, Operation::BackendReset(name.into()));
    assert_eq!(reset("disk").await.unwrap(), json!({"reset": "disk"}));
    assert_eq!(reset("dusk").await.unwrap_err().exit, Exit::Failed);
    let status = ask(&config, Operation::Status).await.unwrap();
    assert_eq!((&status["state"], &status["store"]), (&json!("ready"), &json!("well")));
    assert!(status["refusals"].is_object(), "{status}");
    server.end().await;
    let answer = reset("disk").await.unwrap();
    assert_eq!(answer["reset"], Value::Null);
    assert!(answer["note"].as_str().unwrap().contains("running server"), "{answer}");
}

#[test]
fn status_says_when_no_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    configuration(dir.path());
    let context = Context { config: Some(dir.path().join("larder.toml")), json: true };
    let failure = status::run(&context).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_deref()), (Exit::Unreachable, Some("no_server")));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_its_result_over_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let server = Server::start(&config).await;
    std::fs::write(dir.path().join("disk/mine.txt"), "mine").unwrap();
    let remote = Remote::connect(&config.data_dir).await.unwrap().unwrap();
    let wish = Operation::Verify(VerifyWish { backends: true, read: true });
    let view = remote.run_long(&wish, |_| ()).await.unwrap();
    let view: VerifyView = serde_json::from_value(view).unwrap();
    assert!(view.clean, "{:?}", view.faults);
    assert_eq!((view.foreign, view.debris), (Some(1), Some(0)));
    server.end().await;
}

/// What a raw request is answered with, head and body.
async fn raw(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite, request: &[u8]) -> String {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    let (mut read, mut write) = tokio::io::split(Box::pin(stream));
    // A refusal may come, and the connection go, before all of it was sent.
    let _ = write.write_all(request).await;
    let mut answer = Vec::new();
    let most = Duration::from_secs(20);
    let ended = tokio::time::timeout(most, read.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the server keeps silent");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_with_a_code_and_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let server = Server::start(&config).await;
    let ask = async |request: String| {
        let stream = admin::connect(&config.data_dir).await.unwrap().unwrap();
        raw(stream, request.as_bytes()).await
    };
    let whole = |line: &str, body: &str| {
        let length = body.len();
        format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for (request, status, code) in [
        (whole("GET /api/v1/nothing", ""), 404, "no_such_path"),
        (whole("GET /", ""), 404, "no_such_path"),
        (whole("PUT /api/v1/buckets", ""), 405, "method_not_allowed"),
        (whole("POST /health/live", ""), 405, "method_not_allowed"),
        (whole("POST /api/v1/buckets", "{\"name\":"), 400, "invalid"),
        (whole("POST /api/v1/buckets", "{\"name\":\"abc\",\"x\":1}"), 400, "invalid"),
        (whole("POST /api/v1/buckets", "{\"name\":\"No\"}"), 400, "invalid"),
        (whole("POST /api/v1/keys", &" ".repeat((1 << 20) + 1)), 413, "too_large"),
        (whole("GET /api/v1/buckets/%FF", ""), 404, "no_such_path"),
        (whole("GET /api/v1/buckets/nobody", ""), 404, "no_such_bucket"),
    ] {
        let answer = ask(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("{{\"error\":{{\"code\":\"{code}\"")), "{answer}");
        assert!(answer.contains("\"message\":\""), "{answer}");
    }
    let live = ask(whole("GET /health/live", "")).await;
    assert!(live.starts_with("HTTP/1.1 200 ") && live.contains("live"), "{live}");
    assert!(ask("rubbish\r\n\r\n".into()).await.starts_with("HTTP/1.1 400 "));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64 << 10));
    assert!(ask(long).await.starts_with("HTTP/1.1 4"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tcp_listener_answers_for_health_and_lets_no_operator_in() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ready, stop) = (Ready::default(), CancellationToken::new());
    let serving = tokio::spawn(admin::serve(listener, ready.clone(), stop.clone()));
    let ask = async |path: &str| {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw(stream, request.as_bytes()).await
    };
    assert!(ask("/health/ready").await.starts_with("HTTP/1.1 503 "));
    ready.set(true);
    assert!(ask("/health/ready").await.starts_with("HTTP/1.1 200 "));
    let refused = ask("/api/v1/keys").await;
    assert!(refused.starts_with("HTTP/1.1 404 ") && refused.contains("not_here"), "{refused}");
    stop.cancel();
    serving.await.unwrap();
}
