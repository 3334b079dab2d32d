//! The whole way from text to settings, and the example held against the types.

mod lifecycle;
mod protection;
mod workers;

use std::fs;

use toml::de::DeValue;

use super::*;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::ONE_SHOT_BLOB_MAX;
use crate::model::Routing;
use crate::model::access::Actions;

/// The least that a file must say.
const LEAST: &str = "data_dir = \"/d\"\n\
    [[backend]]\nname = \"b\"\nservice = \"fs\"\noptions = { root = \"/nowhere/b\" }\n";

fn no_env(_: &str) -> Option<String> {
    None
}

fn good(text: &str) -> (Config, Vec<Finding>) {
    parse(text, Path::new("/nowhere"), &no_env).unwrap_or_else(|mistakes| {
        let errors = ConfigErrors { file: "larder.toml".into(), mistakes };
        panic!("{errors}\nin\n{text}")
    })
}

fn bad(text: &str) -> Vec<Finding> {
    match parse(text, Path::new("/nowhere"), &no_env) {
        Ok(_) => panic!("this is taken:\n{text}"),
        Err(mistakes) => mistakes,
    }
}

/// `text` has exactly one mistake, which says `why`, with `hint` in its hint.
fn check(text: &str, why: &str, hint: &str) {
    let mistakes = bad(text);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}\n{text}");
    assert!(mistakes[0].text.contains(why), "{mistakes:?}");
    assert!(mistakes[0].hint.as_deref().unwrap_or("").contains(hint), "{mistakes:?}");
}

fn backend(name: &str, more: &str) -> String {
    format!(
        "[[backend]]\nname = \"{name}\"\nservice = \"fs\"\n\
         options = {{ root = \"/nowhere/{name}\" }}\n{more}\n"
    )
}

fn of(sections: &[&str]) -> String {
    format!("data_dir = \"/d\"\n{}", sections.join("\n"))
}

#[test]
fn the_least_file_gives_all_defaults() {
    let (config, warnings) = good(LEAST);
    assert!(warnings.is_empty());
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.server.listen, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(config.server.domain, None);
    assert!(config.server.memory >= 64 << 20);
    assert_eq!(config.log, Log { level: LogLevel::Info, format: LogFormat::Auto });
    assert_eq!(config.engine.blob_max, 256 << 20);
    assert_eq!((config.default_placement.replicas, config.default_placement.min_replicas), (1, 1));
    assert_eq!(config.backends[0].blob_max, BLOB_SIZE_MAX);
    assert_eq!(config.backends[0].quota, None);
    assert!(config.buckets.is_empty() && config.keys.is_empty());
}

#[test]
fn what_is_written_is_what_is_meant() {
    let text = "data_dir = \"/var/lib/larder\"\n\
        [server]\nlisten = \"[::]:80\"\nadmin_listen = \"127.0.0.1:0\"\nregion = \"eu-1\"\n\
        domain = \"S3.Example.org\"\nmemory = \"128 MiB\"\nshutdown_timeout = \"1 min\"\n\
        [log]\nlevel = \"debug\"\nformat = \"json\"\n\
        [defaults]\nreplicas = 2\nrouting = \"spread\"\nnames = \"opaque\"\ntail_wait = \"0 s\"\n\
        same_device = true\n[timeouts]\nstall = \"5 min\"\n\
        [[backend]]\nname = \"a\"\nservice = \"fs\"\noptions = { root = \"/nowhere/a\" }\n\
        quota = \"5 GB\"\nkeep_free = \"1 GiB\"\nlabels = { site = \"home\" }\n\
        [[backend]]\nname = \"b\"\nservice = \"s3\"\nnames = \"readable\"\n\
        options = { bucket = \"x\", region = \"r\", enable_virtual_host_style = true, assume_role_duration_seconds = 7 }\n\
        labels = { site = \"away\" }\n\
        [[bucket]]\nname = \"photos\"\nmin_replicas = 2\nrequire_distinct = [\"site\"]\n\
        max_uploads = 3\nquota = \"1 TB\"\nimport = \"import\"\n\
        [[key]]\nid = \"LKPHOTOS0000000000AB\"\nsecret = \"12345678\"\ncreate_buckets = true\n\
        grants = [{ bucket = \"photos\", preset = \"read-only\", prefix = \"a/\" },\n\
        { bucket = \"*\", allow = [\"list\"] }]\n";
    let (config, warnings) = good(text);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.server.domain.as_deref(), Some("s3.example.org"));
    assert_eq!(config.server.memory, 128 << 20);
    assert_eq!(config.server.shutdown_timeout, Duration::from_secs(60));
    assert_eq!(config.log.level, LogLevel::Debug);
    assert!(config.engine.same_device);
    assert_eq!(config.engine.tail_wait, Duration::ZERO);
    let [a, b] = &config.backends[..] else { panic!("two backends") };
    assert_eq!(
        (a.quota, a.keep_free, a.names),
        (Some(5_000_000_000), Some(1 << 30), Names::Opaque)
    );
    assert_eq!(a.timeouts.stall, Duration::from_secs(300));
    assert_eq!(a.labels["site"], "home");
    assert_eq!(b.names, Names::Readable);
    assert_eq!(b.options["enable_virtual_host_style"], "true");
    assert_eq!(b.options["assume_role_duration_seconds"], "7");
    let photos = &config.buckets[0];
    assert_eq!((photos.placement.replicas, photos.placement.min_replicas), (2, 2));
    assert_eq!(photos.placement.routing, Routing::Spread);
    assert_eq!(photos.placement.require_distinct, ["site"]);
    assert_eq!((photos.max_uploads, photos.quota), (3, Some(1_000_000_000_000)));
    assert!(photos.imports);
    let key = &config.keys[0];
    assert!(key.declared && key.grants.create_buckets);
    assert_eq!(key.grants.list[0].bucket.as_ref().map(|name| name.as_str()), Some("photos"));
    assert_eq!(Some(key.grants.list[0].actions), Actions::preset("read-only"));
    assert_eq!((&key.grants.list[1].bucket, key.grants.list[1].prefix.as_str()), (&None, ""));
}

#[test]
fn all_mistakes_are_told_together_with_their_places() {
    let text = "data_dir = \"d\"\n\n[server]\nlistn = \"x\"\n  listen = \"nine\"\n\
        memory = 64\n[defaults]\nreplicas = 2\nmin_replicas = 3\nrouting = \"pakc\"\n\
        [worker.cleaner]\nbatch = 5\n[[backend]]\nname = \"b\"\nservice = \"s4\"\nmin_age = \"1\"\n\
        [[bucket]]\nname = \"abc\"\nimport = \"imported\"\n";
    let mistakes = bad(text);
    let errors = ConfigErrors { file: "larder.toml".into(), mistakes };
    assert_eq!(
        errors.to_string(),
        "larder.toml:1:12: `data_dir` is `d`, it must be an absolute path\n    \
             hint: it must not depend on where larder was started\n\
         larder.toml:4:1: unknown key `listn` in [server]\n    hint: did you mean `listen`?\n\
         larder.toml:5:12: `listen` is `nine`, it must be an IP address and a port\n    \
             hint: \"127.0.0.1:9000\" for this machine only, \"0.0.0.0:9000\" for all\n\
         larder.toml:6:10: `memory` is a number without a unit\n    \
             hint: write \"64 GB\" or \"64 GiB\"\n\
         larder.toml:9:16: `min_replicas` is 3, it can be 1 to `replicas`, which is 2\n    \
             hint: a write is acknowledged when so many of its replicas are durable\n\
         larder.toml:10:11: `routing` cannot be `pakc`\n    hint: did you mean \"pack\"?\n\
         larder.toml:11:9: unknown key `cleaner` in [worker]\n    hint: did you mean `cleanup`?\n\
         larder.toml:15:11: unknown service `s4`\n    hint: did you mean \"s3\"?\n\
         larder.toml:16:11: `min_age` is a number without a unit\n    \
             hint: write \"1 s\" or \"1 min\"\n\
         larder.toml:19:10: `import` cannot be `imported`\n    hint: did you mean \"import\"?"
    );
}

#[test]
fn text_that_is_no_toml_is_told_with_its_place() {
    let mistakes =
        bad("data_dir = \"/d\"\n[server\nlisten = \n[log]\nlevel = \"info\"\nlevel = 1\n");
    assert!(mistakes.len() >= 2, "{mistakes:?}");
    assert!(mistakes.iter().all(|mistake| mistake.place.is_some()), "{mistakes:?}");
    assert_eq!(mistakes[0].place.map(|(row, _)| row), Some(2));
    let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.place).collect();
    assert!(lines.windows(2).all(|pair| pair[0] < pair[1]), "{lines:?}");
}

#[test]
fn a_key_given_twice_hides_no_other_mistake() {
    let text = format!("{LEAST}[server]\nregion = \"a\"\nregion = \"b\"\nmemory = 1\n");
    let texts: Vec<_> = bad(&text).into_iter().map(|mistake| mistake.text).collect();
    assert_eq!(texts, ["duplicate key", "`memory` is a number without a unit"]);
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    let (b, title) = (backend("b", ""), "[server]\n");
    check(&of(&[title, "replicas = 1", &b]), "unknown key `replicas`", "[defaults] or [[bucket]]");
    check(&format!("{LEAST}[server]\ndata_dir = \"/x\""), "unknown key", "the top of the file");
    check(&of(&[title, "breaker = 1", &b]), "unknown key `breaker`", "the top of the file");
    check(&of(&[title, "worker = 1", &b]), "unknown key `worker`", "the top of the file");
    check(&of(&[title, "colour = 1", &b]), "unknown key `colour`", "known here");
    check(&of(&[title, "interval = 1", &b]), "unknown key `interval`", "belongs to [worker.NAME]");
    check(&of(&[title, "threshold = 1", &b]), "unknown key", "belongs to [worker.rebalancer]");
}

#[test]
fn values_of_the_wrong_kind_are_told() {
    let server = |line: &str| of(&["[server]", line, &backend("b", "")]);
    check(&server("listen = 9000"), "it must be a string", "");
    check(&server("memory = \"64\""), "without a unit", "\"64 GB\" or \"64 GiB\"");
    check(&server("memory = 1.5"), "without a unit", "\"1.5 GB\"");
    check(&server("memory = \"64 gb\""), "is not a size", "10^9");
    check(&server("memory = true"), "must be a string", "");
    check(&server("shutdown_timeout = 30"), "without a unit", "\"30 s\" or \"30 min\"");
    check(&server("shutdown_timeout = \"30 m\""), "is not a duration", "min");
    check(&of(&["server = 1", &backend("b", "")]), "must be a table", "[server]");
    check(&of(&["server = []", &backend("b", "")]), "must be a table", "[server]");
    check("data_dir = \"/d\"\n[backend]\nname = \"b\"\n", "list of tables", "two brackets");
    check(&of(&["backend = [1]"]), "only tables", "");
    let defaults = |line: &str| of(&["[defaults]", line, &backend("b", "")]);
    check(&defaults("replicas = \"2\""), "a whole number", "");
    check(&defaults("replicas = -1"), "it can be 0 to", "");
    check(&defaults("replicas = 1.0"), "a whole number", "");
    check(&defaults("same_device = \"yes\""), "true or false", "");
    check(&defaults("require_distinct = \"site\""), "a list of strings", "");
    check(&defaults("require_distinct = [1]"), "must be a string", "");
    check(&of(&[&backend("b", "labels = 1")]), "must be a table", "");
    let listed =
        "[[backend]]\nname=\"b\"\nservice=\"s3\"\noptions={bucket=\"b\", region=\"r\", a=[]}";
    check(&of(&[listed]), "`a` is a list, it must be a string", "");
}

#[test]
fn required_values_are_asked_for_once() {
    check(&backend("b", ""), "has no `data_dir`", "add");
    check(&format!("data_dir = \"\"\n{}", backend("b", "")), "`data_dir` is empty", "");
    check("data_dir = \"/d\"\n", "no backend", "[[backend]]");
    check("data_dir = \"/d\"\nbackend = []\n", "no backend", "[[backend]]");
    let mistakes = bad("data_dir = \"/d\"\n[[backend]]\n");
    let texts: Vec<_> = mistakes.iter().map(|mistake| mistake.text.as_str()).collect();
    assert_eq!(texts, ["[[backend]] has no `name`", "[[backend]] has no `service`"]);
    assert_eq!(mistakes[0].place.map(|(row, _)| row), Some(2));
    let mistakes = bad(&format!("{LEAST}[[bucket]]\n[[key]]\n"));
    let texts: Vec<_> = mistakes.iter().map(|mistake| mistake.text.as_str()).collect();
    let wanted = ["[[bucket]] has no `name`", "[[key]] has no `id`", "[[key]] has no `secret`"];
    assert_eq!(texts, wanted);
}

#[test]
fn every_bound_holds_to_the_byte() {
    let server = |line: &str| of(&["[server]", line, &backend("b", "")]);
    let defaults = |line: &str| of(&["[defaults]", line, &backend("b", "")]);
    let timeouts = |line: &str| of(&["[timeouts]", line, &backend("b", "")]);
    let alone = |line: &str| of(&[&backend("b", line)]);
    type Inside<'a> = &'a dyn Fn(&str) -> String;
    let bounds: &[(Inside<'_>, &str, &str, &str)] = &[
        (&server, "memory", "16777216 B", "16777215 B"),
        (&server, "post_form_max", "1 MiB", "1048575 B"),
        (&server, "post_form_max", "5 GiB", "5368709121 B"),
        (&server, "shutdown_timeout", "1 h", "3601 s"),
        (&defaults, "blob_max_size", "1 MiB", "1048575 B"),
        (&defaults, "blob_max_size", "4 GiB", "4294967297 B"),
        (&defaults, "tail_wait", "60 s", "60001 ms"),
        (&timeouts, "connect", "100 ms", "99 ms"),
        (&timeouts, "stall", "1 h", "3601 s"),
        (&alone, "quota", "1 B", "0 B"),
    ];
    for (inside, key, within, beyond) in bounds {
        good(&inside(&format!("{key} = \"{within}\"")));
        check(&inside(&format!("{key} = \"{beyond}\"")), key, "");
    }
    // One backend takes 1 MiB at most, so blobs have to be as small.
    let small =
        of(&["[defaults]\nblob_max_size = \"1 MiB\"", &backend("b", "blob_max_size = \"1 MiB\"")]);
    good(&small);
    check(&alone("blob_max_size = \"1048575 B\""), "blob_max_size", "");
    check(&alone("blob_max_size = \"4294967297 B\""), "blob_max_size", "");
    check(&defaults("replicas = 0"), "1 to 16", "");
    check(&defaults("replicas = 17"), "1 to 16", "");
    assert_eq!(good(&defaults("replicas = 16")).1.len(), 1);
    check(&defaults("min_replicas = 0"), "1 to `replicas`", "");
    check(&defaults("min_replicas = 2"), "1 to `replicas`", "");
}

#[test]
fn the_server_is_checked() {
    let server = |line: &str| of(&["[server]", line, &backend("b", "")]);
    check(&server("listen = \":9000\""), "`listen` is `:9000`", "0.0.0.0:9000");
    check(&server("listen = \"localhost:99\""), "IP address", "127.0.0.1:99");
    check(&server("listen = \"127.0.0.1:9001\""), "both take port 9001", "two ports");
    check(&server("listen = \"0.0.0.0:9001\""), "both take port 9001", "two ports");
    good(&server("listen = \"127.0.0.2:9001\""));
    good(&server("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\""));
    check(&server("region = \"\""), "`region`", "us-east-1");
    check(&server("region = \"a/b\""), "`region`", "");
    for wrong in ["https://s3.example.org", "s3.example.org:9000", "10.0.0.1", "-a.org", "a..b"] {
        check(&server(&format!("domain = \"{wrong}\"")), "host name", "without scheme");
    }
    check(&of(&["[log]\nlevel = \"verbose\"", &backend("b", "")]), "`level`", "one of");
    check(&of(&["[log]\nlevel = \"inof\"", &backend("b", "")]), "`level`", "info");
}

#[test]
fn backends_are_checked_alone() {
    check(&of(&[&backend("B", "")]), "not the name of a backend", "a-z");
    check(&of(&[&backend("b", "names = \"short\"")]), "`names`", "readable");
    let one = |service: &str, options: &str| {
        of(&[
            "[[backend]]\nname = \"b\"",
            &format!("service = \"{service}\"\noptions = {{{options}}}"),
        ])
    };
    check(&one("fs", ""), "needs the option `root`", "_file");
    check(&one("fs", "root = \"\""), "needs the option `root`", "");
    check(&one("fs", "root = \"a\""), "absolute", "");
    check(&one("fs", "root = \"/a/../b\""), "`..`", "");
    check(&one("s3", "region = \"x\""), "needs the option `bucket`", "");
    let mistyped = one("s3", "bucket = \"x\", region = \"x\", endpiont = \"x\"");
    check(&mistyped, "no option `endpiont`", "did you mean `endpoint`?");
    let keep_free =
        format!("{}\nkeep_free = \"1 GB\"", one("s3", "bucket = \"x\", region = \"x\""));
    check(&keep_free, "local directories", "quota");
    check(&of(&[&backend("b", "labels = { site = \"\" }")]), "a label has", "");
    if cfg!(feature = "cloud") {
        let small = "[defaults]\nblob_max_size = \"1 MiB\"\n";
        let text = one("gdrive", "refresh_token = \"x\"")
            .replace("[[backend]]", &format!("{small}[[backend]]"));
        check(&text, "`access_token`, or", "");
    }
    if !cfg!(feature = "more-clouds") {
        check(&one("oss", ""), "not compiled", "--features more-clouds");
    }
}

#[test]
fn no_two_backends_are_in_one_place() {
    let fs = |name: &str, root: &str| {
        format!("[[backend]]\nname=\"{name}\"\nservice=\"fs\"\noptions={{root=\"{root}\"}}\n")
    };
    let same_name = format!("{}{}", fs("a", "/nowhere/1"), fs("a", "/nowhere/2"));
    check(&of(&[&same_name]), "two backends have the name `a`", "label");
    let two = |one: &str, two: &str| of(&[&fs("a", one), &fs("b", two)]);
    check(&two("/nowhere/x", "/nowhere/x/"), "`b` has the same root as `a`", "lost together");
    check(&two("/nowhere/x", "/nowhere/./x"), "`b` has the same root as `a`", "");
    check(&two("/nowhere/x", "/nowhere/x/y"), "the root of `b` lies in that of `a`", "");
    check(&two("/nowhere/x/y", "/nowhere/x"), "the root of `b` holds that of `a`", "");
    good(&two("/nowhere/x", "/nowhere/xy"));
    check(&of(&[&fs("a", "/d")]), "the data directory `/d` lies in the root of `a`", "its own");
    check(&of(&[&fs("a", "/")]), "the data directory", "");
    good(&of(&[&fs("a", "/d/blobs")]));
    let s3 = |name: &str, options: &str| {
        format!(
            "[[backend]]\nname=\"{name}\"\nservice=\"s3\"\noptions={{region=\"r\", {options}}}\n"
        )
    };
    let two = |one: &str, two: &str| of(&[&s3("a", one), &s3("b", two)]);
    let end = "endpoint=\"https://h\"";
    check(&two(&format!("bucket=\"x\",{end}"), &format!("{end},bucket=\"x\"")), "same root", "");
    check(&two("bucket=\"x\"", "bucket=\"x\", root=\"/a\""), "lies in", "");
    check(
        &two(&format!("bucket=\"x\",{end}"), "bucket=\"x\",endpoint=\"https://H/\""),
        "same root",
        "",
    );
    good(&two("bucket=\"x\",root=\"a\"", "bucket=\"x\", root=\"/b/\""));
    good(&two("bucket=\"x\"", "bucket=\"y\""));
    good(&two("bucket=\"x\"", &format!("bucket=\"x\",{end}")));
}

#[test]
fn one_directory_by_two_names_is_one_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let backend = |name: &str| {
        let root = dir.path().join(name).join("larder");
        let root = root.display();
        format!("[[backend]]\nname=\"{name}\"\nservice=\"fs\"\noptions={{root=\"{root}\"}}\n")
    };
    check(&of(&[&backend("real"), &backend("link")]), "`link` has the same root as `real`", "");
}

#[test]
fn wishes_are_held_against_the_backends() {
    let memory = "[[backend]]\nname = \"m\"\nservice = \"memory\"\n";
    check(&of(&[memory]), "no backend counts", "does not count");
    let (a, b) = (backend("a", ""), backend("b", ""));
    let defaults = |line: &str| format!("[defaults]\n{line}\n");
    let two = "replicas = 2\nmin_replicas = 2";
    check(&of(&[&defaults(two), &a, memory]), "only 1 backend counts", "memory");
    good(&of(&[&defaults(two), &a, &b]));
    let warned = |text: &str, why: &str| {
        let (_, warnings) = good(text);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].text.contains(why), "{warnings:?}");
        assert!(warnings[0].place.is_some() && warnings[0].hint.is_some());
    };
    warned(&of(&[&defaults("replicas = 3"), &a, &b]), "there are only 2 backends");
    warned(&of(&[&defaults("replicas = 2"), &a, &b]), "are on 1 device,");
    assert!(good(&of(&[&defaults("replicas = 2\nsame_device = true"), &a, &b])).1.is_empty());
    let bucket = |line: &str| format!("[[bucket]]\nname = \"photos\"\n{line}\n");
    check(&of(&[&a, &b, &bucket("replicas = 3\nmin_replicas = 3")]), "only 2 backends count", "");
    check(
        &of(&[&defaults(two), &a, &b, &bucket("replicas = 1")]),
        "`min_replicas` is 2",
        "[defaults]",
    );
    warned(&of(&[&a, &b, &bucket("replicas = 3")]), "there are only 2 backends");
}

#[test]
fn labels_that_must_differ_have_to_be_there() {
    let sited =
        |name: &str, site: &str| backend(name, &format!("labels = {{ site = \"{site}\" }}"));
    let wish = |line: &str| format!("[defaults]\nsame_device = true\n{line}\n");
    let distinct = "require_distinct = [\"site\"]\nreplicas = 2";
    let (home, away) = (sited("a", "home"), sited("b", "away"));
    good(&of(&[&wish(distinct), &home, &away]));
    let both = format!("{distinct}\nmin_replicas = 2");
    check(&of(&[&wish(&both), &home, &sited("b", "home")]), "no two backends differ", "another");
    let (_, warnings) = good(&of(&[&wish(distinct), &home, &sited("b", "home")]));
    assert!(warnings[0].text.contains("differ in `site`"), "{warnings:?}");
    check(&of(&[&wish("require_distinct = [\"stie\"]"), &home]), "no backend has", "`site`");
    check(&of(&[&wish("require_distinct = [\"rack\"]"), &home]), "no backend has", "labels =");
    let twice = "require_distinct = [\"site\", \"site\"]";
    check(&of(&[&wish(twice), &home]), "given twice", "");
}

#[test]
fn blobs_fit_the_services_that_take_them_whole() {
    if !cfg!(feature = "cloud") {
        return;
    }
    let dav = |more: &str| {
        format!(
            "[[backend]]\nname = \"d\"\nservice = \"webdav\"\n\
             options = {{ endpoint = \"https://h\" }}\n{more}\n"
        )
    };
    let small = "[defaults]\nblob_max_size = \"16 MiB\"\n";
    let (config, _) = good(&of(&[small, &dav("")]));
    assert_eq!(config.backends[0].blob_max, ONE_SHOT_BLOB_MAX);
    good(&of(&[small, &dav("blob_max_size = \"16 MiB\"")]));
    check(&of(&[small, &dav("blob_max_size = \"16777217 B\"")]), "16.0 MiB", "");
    // Larger bodies are cut into blobs that the services take.
    let (_, warnings) = good(&of(&[&dav("")]));
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings) = good(&of(&["[defaults]\nblob_max_size = \"64 MiB\"\n", &dav("")]));
    assert!(warnings[0].text.contains("at most 16 MiB"), "{warnings:?}");
    let (_, warnings) = good(&of(&["[defaults]\nreplicas = 2\n", &dav(""), &backend("a", "")]));
    assert!(warnings[0].text.contains("only 1 of the backends"), "{warnings:?}");
}

#[test]
fn buckets_and_keys_are_checked() {
    let with = |text: &str| format!("{LEAST}{text}");
    check(&with("[[bucket]]\nname = \"Photos\"\n"), "a-z", "");
    check(&with("[[bucket]]\nname = \"abc\"\n[[bucket]]\nname = \"abc\"\n"), "twice", "");
    check(&with("[[bucket]]\nname = \"abc\"\nquota = \"0 B\"\n"), "nothing would fit", "");
    let key = |id: &str, secret: &str, grants: &str| {
        with(&format!("[[key]]\nid = \"{id}\"\nsecret = \"{secret}\"\ngrants = [{grants}]\n"))
    };
    let (id, secret) = ("LK00000000000000", "s".repeat(8));
    let all = "{ bucket = \"*\", preset = \"admin\" }";
    good(&key(id, &secret, all));
    good(&key(&"K".repeat(128), &"s".repeat(128), all));
    for wrong in [&id[1..], &"K".repeat(129), "LK0000000000000-"] {
        check(&key(wrong, &secret, all), "not the id of a key", "16 to 128");
    }
    check(&key(id, "1234567", all), "has 7 characters", "random");
    check(&key(id, &"s".repeat(129), all), "has 129 characters", "random");
    check(&key(id, "12345678 ", all), "blank", "");
    check(&key(id, "", all), "has 0 characters", "");
    let twice = key(id, &secret, all);
    let second = "[[key]]\nid = \"LK00000000000000\"\nsecret = \"123456789\"\n";
    let mistakes = bad(&format!("{twice}{second}"));
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].text.contains("twice"));
    check(&key(id, &secret, "{ bucket = \"*\" }"), "says what it allows", "preset");
    check(&key(id, &secret, "{ preset = \"admin\" }"), "has no `bucket`", "");
    let grant = |text: &str| key(id, &secret, &format!("{{ bucket = \"*\", {text} }}"));
    check(&grant("preset = \"readonly\""), "unknown preset", "read-only");
    check(&grant("preset = \"all\""), "unknown preset", "one of");
    check(&grant("allow = [\"get\"]"), "unknown action", "one of");
    check(&grant("allow = []"), "allow nothing", "");
    check(&grant("allow = [\"read\"], preset = \"admin\""), "both given", "");
    check(&grant(&format!("preset = \"admin\", prefix = \"{}\"", "p".repeat(1025))), "1024", "");
    check(&key(id, &secret, "{ bucket = \"A\", preset = \"admin\" }"), "3 to 63", "");
    let (_, warnings) = good(&key(id, &secret, ""));
    assert!(warnings[0].text.contains("may do nothing"));
    let near = "{ bucket = \"phtoos\", preset = \"admin\" }";
    let (_, warnings) = good(&format!("{}[[bucket]]\nname = \"photos\"\n", key(id, &secret, near)));
    assert!(warnings[0].text.contains("not declared here"), "{warnings:?}");
}

#[test]
fn secrets_come_from_variables_and_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("larder.toml");
    fs::write(dir.path().join("key.secret"), "from-a-$file\n").unwrap();
    fs::write(dir.path().join("s3.secret"), "s3-$secret\n").unwrap();
    let text = "data_dir = \"/d\" # ${COMMENT} $x\n[[backend]]\nname = \"b\"\nservice = \"s3\"\n\
        options = { bucket = \"${BUCKET}\", region = \"r\", secret_access_key_file = \"s3.secret\", \
        access_key_id = \"a$$b\" }\nquota = \"${QUOTA}\"\n\
        [[key]]\nid = \"LK00000000000000\"\nsecret_file = \"key.secret\"\n\
        grants = [{ bucket = \"*\", preset = \"admin\" }]\n";
    fs::write(&path, text).unwrap();
    let env = |name: &str| match name {
        "BUCKET" => Some("x${QUOTA}".to_owned()),
        "QUOTA" => Some("1 GB".to_owned()),
        _ => None,
    };
    let loaded = load(&path, &env).unwrap();
    assert_eq!(loaded.text_hash, hash(text.as_bytes()));
    let backend = &loaded.config.backends[0];
    assert_eq!(backend.options["bucket"], "x${QUOTA}");
    assert_eq!(backend.options["access_key_id"], "a$b");
    assert_eq!(backend.options["secret_access_key"], "s3-$secret");
    assert!(!backend.options.contains_key("secret_access_key_file"));
    assert_eq!(backend.quota, Some(1_000_000_000));
    assert_eq!(loaded.config.keys[0].secret, "from-a-$file");
    let shown = format!("{loaded:?}");
    assert!(shown.contains("***") && shown.contains("x${QUOTA}"));
    for secret in ["from-a-", "s3-$", "a$b"] {
        assert!(!shown.contains(secret), "{secret} is shown in {shown}");
    }
    let errors = load(&path, &no_env).unwrap_err();
    let texts: Vec<_> = errors.mistakes.iter().map(|mistake| mistake.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "`bucket`: the environment variable `BUCKET` is not set",
            "`quota`: the environment variable `QUOTA` is not set"
        ]
    );
}

#[test]
fn a_secret_is_given_in_one_way() {
    let key = |lines: &str| format!("{LEAST}[[key]]\nid = \"LK00000000000000\"\n{lines}\n");
    check(&key("secret = \"12345678\"\nsecret_file = \"f\""), "both given", "one of them");
    check(&key("secret_file = \"gone\""), "cannot be read", "readable");
    check(&key("id_file = \"f\"\nsecret = \"12345678\""), "unknown key `id_file`", "");
    let s3 = "[[backend]]\nname=\"b\"\nservice=\"s3\"\n\
        options={bucket=\"x\", region=\"r\", secret_access_key=\"a\", secret_access_key_file=\"b\"}";
    check(&of(&[s3]), "both given", "");
}

#[test]
fn what_cannot_be_read_is_said_without_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("larder.toml");
    let text = load(&path, &no_env).unwrap_err().to_string();
    assert!(text.contains("larder.toml: the configuration file cannot be read"), "{text}");
    fs::write(&path, b"\xff").unwrap();
    assert!(load(&path, &no_env).unwrap_err().to_string().contains("UTF-8"));
    fs::write(&path, vec![b'#'; FILE_MAX as usize + 1]).unwrap();
    assert!(load(&path, &no_env).unwrap_err().to_string().contains("too large"));
}

/// Every name in force, with the path at which it stands.
fn names_in_force() -> Vec<String> {
    let of_table = |(title, keys): &(&str, &'static [schema::Key])| {
        let path = match title.starts_with('[') {
            true => format!("{}.", title.replace(['[', ']'], "").replace(' ', ".")),
            false => String::new(),
        };
        // What workers have in common, each has.
        let paths = match *title == "[worker.NAME]" {
            true => schema::WORKERS.iter().map(|key| format!("worker.{}.", key.name)).collect(),
            false => vec![path],
        };
        let names = |path: &String| -> Vec<String> {
            keys.iter().map(|key| format!("{path}{}", key.name)).collect()
        };
        paths.iter().flat_map(names).collect::<Vec<String>>()
    };
    schema::TABLES.iter().flat_map(of_table).collect()
}

fn names_written(value: &DeValue<'_>, path: &str, names: &mut Vec<String>) {
    match value {
        DeValue::Table(table) => {
            for (name, value) in table.iter() {
                let dot = if path.is_empty() { "" } else { "." };
                let name = if path == "profile" { "NAME" } else { name.get_ref() };
                let path = format!("{path}{dot}{name}");
                let is_free = matches!(
                    path.as_str(),
                    "backend.options"
                        | "backend.labels"
                        | "backend.limits.requests_month"
                        | "backend.limits.requests_day"
                        | "profile.NAME.classes"
                );
                names.push(path.clone());
                if !is_free {
                    names_written(value.get_ref(), &path, names);
                }
            }
        }
        DeValue::Array(items) => {
            items.iter().for_each(|item| names_written(item.get_ref(), path, names));
        }
        _ => {}
    }
}

#[test]
fn the_example_has_every_key_that_is_known() {
    let table = DeTable::parse(EXAMPLE).unwrap().into_inner();
    let mut written = Vec::new();
    names_written(&DeValue::Table(table), "", &mut written);
    // A grant has either; the example shows the other in a comment.
    assert!(EXAMPLE.contains("# allow = ["));
    written.push("key.grants.allow".to_owned());
    // Rules delete: the example shows them in a comment only.
    for key in schema::RULE {
        assert!(EXAMPLE.contains(&format!(" {} = ", key.name)), "{} is not shown", key.name);
        written.push(format!("bucket.lifecycle.{}", key.name));
    }
    for name in names_in_force() {
        let as_file = format!("{name}_file");
        assert!(
            written.contains(&name) || written.contains(&as_file),
            "{name} is not in assets/larder.toml"
        );
    }
    // All names of profiles stand for one.
    written.retain(|name| name != "profile.NAME");
    for name in written {
        let known = names_in_force();
        let base = name.strip_suffix("_file").unwrap_or(&name).to_owned();
        let is_option = name.starts_with("backend.options.");
        assert!(known.contains(&name) || known.contains(&base) || is_option, "{name} is unknown");
    }
}

#[test]
fn the_example_is_good_and_says_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("larder.toml");
    fs::write(&path, EXAMPLE).unwrap();
    // What it asks for before it can be used is the secret, and nothing else.
    let errors = load(&path, &no_env).unwrap_err();
    assert_eq!(errors.mistakes.len(), 1, "{errors}");
    fs::write(dir.path().join("photos.secret"), "0123456789012345678901234567890123456789\n")
        .unwrap();
    let example = load(&path, &no_env).unwrap();
    assert!(example.warnings.is_empty(), "{:?}", example.warnings);
    let (least, _) = good(
        "data_dir = \"/var/lib/larder\"\n[[backend]]\nname = \"disk1\"\nservice = \"fs\"\n\
         options = { root = \"/srv/disk1/larder\" }\n[[bucket]]\nname = \"photos\"\n\
         [[key]]\nid = \"LKPHOTOS0000000000AB\"\nsecret = \"12345678\"\n\
         grants = [{ bucket = \"photos\", preset = \"read-write\" }]\n",
    );
    // The tables hold every setting but the secret, with its value in force.
    assert_eq!(show(&example.config), show(&least));
}

#[test]
fn what_is_shown_reads_back_as_the_same() {
    let (config, _) = good(LEAST);
    let shown = toml::to_string_pretty(&show(&config)).unwrap();
    let (again, _) = good(&shown);
    assert_eq!(show(&again), show(&config));
}
