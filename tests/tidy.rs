//! Rules about the source itself, run like any other test.
//!
//! A rule that is not here is only advice. Each failure names the file, the line and the way out.
//! The rules read text that rustfmt has formatted, so a plain look at lines is enough: an item
//! begins and ends at its own indentation.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each module may import. Read it bottom-up: that is the build order.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Tests only.
    (
        "sim",
        &["base", "model", "plan", "store", "backend", "seal", "engine", "worker", "s3", "admin"],
    ),
    // It speaks the operator's API.
    ("cli", &["base", "model", "config", "app", "admin"]),
    (
        "app",
        &[
            "base", "model", "plan", "store", "backend", "seal", "engine", "worker", "s3", "admin",
            "config",
        ],
    ),
    (
        "config",
        &["base", "model", "plan", "store", "backend", "seal", "engine", "worker", "s3", "admin"],
    ),
    // It shows what the workers report.
    ("admin", &["base", "model", "engine", "worker"]),
    ("s3", &["base", "model", "engine"]),
    ("worker", &["base", "model", "engine"]),
    ("engine", &["base", "model", "plan", "store", "backend", "seal"]),
    ("seal", &["base", "model"]),
    ("backend", &["base", "model"]),
    ("store", &["base", "model"]),
    ("plan", &["base", "model"]),
    ("model", &["base"]),
    ("base", &[]),
];

/// What may not be written in `src`, where it may be all the same, and what to write instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("super::super", &[], "write `crate::module`, which the layer rule can read"),
    ("SystemTime::now", &["src/base/clock.rs"], "use the clock that you were given"),
    (
        "env::var",
        // The last two are tests only: `tests/run` says so where it has started a server, and whoever
        // looks for a fault says which seeds the simulation runs.
        &["src/config", "src/cli", "src/backend/contract/servers.rs", "src/sim"],
        "take a setting from `config`",
    ),
    ("FIXME", &[], "mend it"),
    ("todo!(", &[], "write it"),
    ("unimplemented!(", &[], "write it"),
];

/// A crate, the only folder that may name it, and what the others use instead.
const KEPT_INSIDE: &[(&str, &str, &str)] = &[
    ("s3s", "src/s3", "the verbs of `engine`"),
    ("opendal", "src/backend", "`backend`'s own types"),
    ("rusqlite", "src/store", "a method of the store"),
];

/// What stands at the top level, beside hidden files.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "assets",
    "packaging",
    "tests",
    "install.sh",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
];

/// Names that attract everything.
const NAMES: &[&str] = &["db", "core", "common", "types", "manager", "utils", "helpers"];

/// Lines of a file, its unit tests not counted.
const FILE_MAX: usize = 600;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_MAX: usize = 70;

#[test]
fn modules_import_only_downwards() {
    let mut wrong = Vec::new();
    let tests = test_modules();
    for file in rust_files("src") {
        let module = file.module();
        // A test may build what it needs from below.
        if matches!(module, "lib" | "main") || file.is_all_tests(&tests) {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module).map(|(_, list)| *list);
        if allowed.is_none() {
            wrong.push(format!(
                "{}:1: `{module}` is not in the layer table of this test",
                file.path
            ));
        }
        for (n, line) in file.code() {
            for used in uses_of_crate(line) {
                if used.is_empty() {
                    wrong.push(format!("{}:{n}: one `crate::module::…` path per line", file.path));
                } else if used != module && !allowed.unwrap_or_default().contains(&used) {
                    wrong.push(format!(
                        "{}:{n}: `{module}` may not use `{used}`: see the layer table in tests/tidy.rs",
                        file.path
                    ));
                }
            }
        }
    }
    report(wrong);
}

/// The modules that a line names behind `crate::`; an empty one where a list of them begins.
fn uses_of_crate(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").filter_map(|(at, _)| {
        let stands_alone = line[..at].chars().next_back().is_none_or(|c| !is_word(c) && c != '$');
        let rest = &line[at + "crate::".len()..];
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        // A macro of the crate's root has no module: `crate::never!`.
        let is_macro = rest[end..].starts_with('!');
        (stands_alone && !is_macro).then_some(&rest[..end])
    })
}

#[test]
fn banned_words_are_not_written() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        for (word, except, instead) in BANNED {
            if except.iter().any(|place| file.is_below(place)) {
                continue;
            }
            for (n, line) in file.code().filter(|(_, line)| line.contains(word)) {
                let line = line.trim();
                wrong.push(format!("{}:{n}: `{word}`: {instead} ({line})", file.path));
            }
        }
    }
    report(wrong);
}

#[test]
fn tests_wait_for_conditions_and_never_for_time() {
    let mut wrong = Vec::new();
    let mut before = String::new();
    let mut look = |path: &str, n: usize, line: &str| {
        // A pause between two looks at a condition is fine: the line before holds the deadline.
        let is_look = before.contains("assert!") && before.contains("deadline");
        before = line.to_owned();
        for word in ["thread::sleep", "time::sleep("] {
            if line.contains(word) && !is_look {
                wrong.push(format!(
                    "{path}:{n}: `{word}` in a test: wait for a condition with a deadline"
                ));
            }
        }
    };
    let modules = test_modules();
    for file in rust_files("src") {
        let tests = if file.is_all_tests(&modules) { 0 } else { file.tests_begin() };
        file.code().filter(|(n, _)| *n > tests).for_each(|(n, line)| look(&file.path, n, line));
    }
    for file in rust_files("tests").iter().filter(|file| file.path != "tests/tidy.rs") {
        file.code().for_each(|(n, line)| look(&file.path, n, line));
    }
    report(wrong);
}

#[test]
fn crates_stay_in_the_module_that_knows_them() {
    let mut wrong = Vec::new();
    let tests = test_modules();
    for file in rust_files("src") {
        for (name, home, instead) in KEPT_INSIDE {
            // A real server in process may stand on the other side of a test.
            if file.is_below(home) || file.is_all_tests(&tests) {
                continue;
            }
            let paths = [format!("{name}::"), format!("use {name};"), format!("use {name} ")];
            for (n, line) in file.code() {
                if paths.iter().any(|path| names(line, path)) {
                    wrong.push(format!(
                        "{}:{n}: only {home} names `{name}`: use {instead}",
                        file.path
                    ));
                }
            }
        }
    }
    report(wrong);
}

/// Whether `line` has `path` with nothing of a longer word before it.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| line[..at].chars().next_back().is_none_or(|c| !is_word(c)))
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for file in rust_files("src").iter().chain(&rust_files("tests")) {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}:1: open the file with `//!` and its purpose", file.path));
        }
    }
    report(wrong);
}

#[test]
fn files_and_functions_stay_short() {
    let mut wrong = Vec::new();
    let tests = test_modules();
    for file in rust_files("src").iter().chain(&rust_files("tests")) {
        let lines = file.tests_begin();
        if lines > FILE_MAX && !file.is_all_tests(&tests) {
            wrong.push(format!(
                "{}:{lines}: {lines} lines without tests, {FILE_MAX} at most: split it by noun or verb",
                file.path
            ));
        }
        for (n, name, length) in functions(&file.text) {
            if length > FUNCTION_MAX {
                wrong.push(format!(
                    "{}:{n}: `{name}` has {length} lines, {FUNCTION_MAX} at most: take a step out of it",
                    file.path
                ));
            }
        }
    }
    report(wrong);
}

/// First line, name and length of every function that has a body.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else { continue };
        let indent = &line[..line.len() - code.len()];
        let close = format!("{indent}}}");
        // The signature ends in `{` or, without a body, in `;`, both at its own indentation.
        let open = lines[at..].iter().position(|l| l.ends_with('{') || l.ends_with(';'));
        let Some(open) = open.filter(|open| lines[at + open].ends_with('{')) else { continue };
        if let Some(end) = lines[at + open..].iter().position(|l| *l == close) {
            found.push((at + 1, name.to_owned(), open + end + 1));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let mut words = code.split(' ');
    let mut word = words.next()?;
    while word.starts_with("pub") || matches!(word, "const" | "async" | "in" | "extern") {
        word = words.next()?;
    }
    let name = if word == "fn" { words.next()? } else { return None };
    name.split(['(', '<']).next()
}

#[test]
fn no_file_has_a_name_that_attracts_everything() {
    let mut wrong = Vec::new();
    for file in rust_files("src").iter().chain(&rust_files("tests")) {
        let named = |part: &str| NAMES.contains(&part.trim_end_matches(".rs"));
        if file.path.split('/').any(named) {
            wrong.push(format!("{}:1: name it for the one thing that it is about", file.path));
        }
    }
    report(wrong);
}

#[test]
fn the_top_level_holds_what_it_should() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && name != "target" && !TOP.contains(&name.as_str()) {
            wrong.push(format!("{name}:1: not at the top level: move it below one of {TOP:?}"));
        }
    }
    report(wrong);
}

#[test]
fn no_text_knows_the_machine_that_it_was_written_on() {
    // Put together, so that this file does not hold them.
    let places = ["work", "root", "home", "Users"].map(|place| format!("/{place}/"));
    let mut wrong = Vec::new();
    for path in tracked_files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (n, line) in text.lines().enumerate() {
            for place in &places {
                if begins_path(line, place) {
                    let n = n + 1;
                    wrong.push(format!(
                        "{path}:{n}: `{place}…`: write a path that every machine has"
                    ));
                }
            }
        }
    }
    report(wrong);
}

/// Whether an absolute path in `line` begins with `place`.
fn begins_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        line[..at].chars().next_back().is_none_or(|c| !is_word(c) && !"/.-}~$*>)".contains(c))
    })
}

#[test]
fn the_source_is_formatted() {
    let Ok(output) =
        Command::new("cargo").args(["fmt", "--check", "--", "-l"]).current_dir(root()).output()
    else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // A machine without rustfmt can run all other tests.
    if said.contains("no such command") || said.contains("is not installed") {
        return;
    }
    let files = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "run `cargo fmt`:\n{files}{said}");
}

#[test]
fn the_rules_see_what_they_are_for() {
    let used = |line| uses_of_crate(line).collect::<Vec<_>>();
    assert_eq!(used("use crate::base::Clock;"), ["base"]);
    assert_eq!(used("use crate::{base, model};"), [""]);
    assert_eq!(used("fn a(x: crate::s3::A) -> crate::model::B {"), ["s3", "model"]);
    assert!(used("crate::never!(x); $crate::base::never(); pub(crate) fn a()").is_empty());
    assert!(names("use s3s::S3;", "s3s::") && !names("use my_s3s::S3;", "s3s::"));
    let place = "/place/";
    assert!(begins_path("see \"/place/me\"", place) && !begins_path("https://x/place/", place));
    let text = "fn a() {\n    x();\n}\nimpl A {\n    pub(crate) async fn b<T>(\n        t: T,\n    ) -> u8 {\n        1\n    }\n    fn c();\n}\n";
    let found: Vec<_> = functions(text);
    assert_eq!(found, [(1, "a".to_owned(), 3), (5, "b".to_owned(), 5)]);
}

// ---- Reading the source.

struct File {
    /// From the top level on, with `/`.
    path: String,
    text: String,
}

impl File {
    /// The folder or file below `src` that this belongs to.
    fn module(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs")
    }

    fn is_below(&self, place: &str) -> bool {
        self.path == place
            || self.path.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '.']))
    }

    /// Numbered lines that are not comments only.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Whether its parent compiles it for tests alone.
    fn is_all_tests(&self, test_modules: &BTreeSet<String>) -> bool {
        test_modules.iter().any(|module| self.is_below(module))
    }

    /// Files or folders below `src`, without ending, that this one names `#[cfg(test)] mod …;`.
    fn test_modules(&self) -> impl Iterator<Item = String> {
        let folder = match self.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs")) => folder,
            _ => self.path.trim_end_matches(".rs"),
        };
        let lines: Vec<&str> = self.text.lines().collect();
        let after = lines.windows(2).filter(|two| two[0] == "#[cfg(test)]");
        let names: Vec<&str> = after
            .filter_map(|two| two[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
            .collect();
        names
            .into_iter()
            .map(move |name| format!("{folder}/{name}"))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Lines before the unit tests.
    fn tests_begin(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|two| {
            two[0] == "#[cfg(test)]" && (two[1].starts_with("mod tests") && two[1].ends_with('{'))
        });
        tests.unwrap_or(lines.len())
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<File> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "rs"));
    assert!(!paths.is_empty(), "no source in {folder}");
    paths
        .into_iter()
        .map(|path| File { text: fs::read_to_string(&path).unwrap(), path: relative(&path) })
        .collect()
}

/// All files of the project but those that git ignores.
fn tracked_files() -> BTreeSet<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() {
            paths.push(path);
        } else if TOP.contains(&name.as_str()) || name == ".ci" {
            walk(&path, &mut paths);
        }
    }
    paths.iter().map(|path| relative(path)).collect()
}

/// All that is compiled for tests alone, as [`File::test_modules`] names it.
fn test_modules() -> BTreeSet<String> {
    rust_files("src").iter().flat_map(File::test_modules).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

/// Fails with all that is wrong, a line each.
#[track_caller]
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} found:\n{}", wrong.len(), wrong.join("\n"));
}
