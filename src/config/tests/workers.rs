//! Workers: every default, every bound, every mistake, and that all is shown as it reads back.

use super::*;
use crate::engine::Window;
use crate::worker::Name;

const HOUR: Duration = Duration::from_secs(3600);

fn worker(name: &str, line: &str) -> String {
    of(&[&format!("[worker.{name}]\n{line}"), &backend("b", "")])
}

#[test]
fn workers_are_as_their_table_says_where_nothing_else_is_said() {
    let (config, _) = good(LEAST);
    assert_eq!(config.workers, CrewSettings::default());
    let of = |name| {
        let settings = config.workers.of(name);
        (settings.enabled, settings.interval.as_secs(), settings.batch, settings.concurrency)
    };
    for (name, settings) in [
        (Name::Cleanup, (true, 60, 50, 10)),
        (Name::PendingReaper, (true, 60, 50, 4)),
        (Name::Replicator, (true, 300, 50, 5)),
        (Name::OverReplication, (true, 300, 50, 5)),
        (Name::Rebalancer, (false, 21_600, 100, 5)),
        (Name::Reconciler, (true, 86_400, 1000, 1)),
        (Name::Scrubber, (true, 21_600, 100, 2)),
        (Name::Lifecycle, (true, 3600, 100, 1)),
        (Name::Drain, (true, 60, 100, 5)),
    ] {
        assert_eq!(of(name), settings, "{name}");
    }
    let scrubber = &config.workers.scrubber;
    assert_eq!((scrubber.pass, scrubber.rate, scrubber.window), (720 * HOUR, None, None));
    let rebalancer = &config.workers.rebalancer;
    assert_eq!((rebalancer.strategy, rebalancer.threshold), (Routing::Pack, 0.1));
    assert_eq!(config.workers.reconciler.local_interval, 168 * HOUR);
}

#[test]
fn workers_are_what_is_written() {
    let text = of(&[
        "[worker.cleanup]\nenabled = false\nbatch = 7",
        "[worker.over_replication]\ninterval = \"90 s\"\nconcurrency = 3",
        "[worker.rebalancer]\nenabled = true\nstrategy = \"spread\"\nthreshold = 0.25",
        "[worker.scrubber]\npass = \"7 d\"\nrate = \"20 MiB/s\"\nwindow = \"22:00-06:30\"",
        "[worker.reconciler]\nlocal_interval = \"1 h\"",
        &backend("b", ""),
    ]);
    let (config, warnings) = good(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let workers = &config.workers;
    assert_eq!((workers.of(Name::Cleanup).enabled, workers.of(Name::Cleanup).batch), (false, 7));
    assert_eq!(workers.of(Name::Cleanup).concurrency, 10, "what is left out is as it was");
    let over = workers.of(Name::OverReplication);
    assert_eq!((over.interval, over.concurrency), (Duration::from_secs(90), 3));
    assert!(workers.of(Name::Rebalancer).enabled);
    assert_eq!(workers.rebalancer.strategy, Routing::Spread);
    assert_eq!(workers.rebalancer.threshold, 0.25);
    assert_eq!((workers.scrubber.pass, workers.scrubber.rate), (168 * HOUR, Some(20 << 20)));
    assert_eq!(workers.scrubber.window, Some(Window { from: 1320, to: 390 }));
    assert_eq!(workers.reconciler.local_interval, HOUR);
    let shown = toml::to_string_pretty(&show(&config)).unwrap();
    assert_eq!(good(&shown).0.workers, config.workers, "\n{shown}");
}

#[test]
fn every_bound_of_workers_holds_and_says_itself() {
    // Worker, key, the last values within, the first beyond, what is said of the range.
    type Bound = (&'static str, &'static str, [&'static str; 2], [&'static str; 2], &'static str);
    let bounds: &[Bound] = &[
        ("cleanup", "interval", ["'1 s'", "'365 d'"], ["'999 ms'", "'366 d'"], "1 s to 31536000 s"),
        ("drain", "batch", ["1", "10000"], ["0", "10001"], "1 to 10000"),
        ("lifecycle", "concurrency", ["1", "256"], ["0", "257"], "1 to 256"),
        ("rebalancer", "threshold", ["0.01", "1"], ["0.009", "1.01"], "0.01 to 1"),
        ("scrubber", "pass", ["'1 h'", "'365 d'"], ["'59 min'", "'366 d'"], "3600 s to"),
        ("reconciler", "local_interval", ["'1 s'", "'365 d'"], ["'0 s'", "'366 d'"], "1 s to"),
    ];
    for (name, key, within, beyond, range) in bounds {
        for value in within {
            good(&worker(name, &format!("{key} = {value}")));
        }
        for value in beyond {
            check(&worker(name, &format!("{key} = {value}")), &format!("`{key}` is"), "");
            check(&worker(name, &format!("{key} = {value}")), range, "");
        }
    }
    good(&worker("scrubber", "rate = \"64 KiB/s\"\nwindow = \"00:00-23:59\""));
    good(&worker("scrubber", "rate = \"\"\nwindow = \"\""));
    for (name, line, why, hint) in [
        ("scrubber", "rate = \"63 KiB/s\"", "it can be 64 KiB/s or more", ""),
        ("scrubber", "rate = \"20 MiB\"", "a rate ends in `/s`", "20 MiB/s"),
        ("scrubber", "window = \"1-6\"", "is no time of day", "01:00-06:00"),
        ("scrubber", "window = \"01:00\"", "two times", "01:00-06:00"),
        ("scrubber", "window = \"01:00-01:00\"", "begins when it ends", "leave it empty"),
        ("scrubber", "window = \"00:00-24:00\"", "begins when it ends", "leave it empty"),
        ("rebalancer", "strategy = \"sprad\"", "cannot be `sprad`", "\"spread\""),
        ("cleanup", "interval = 5", "without a unit", "\"5 s\""),
        ("cleanup", "enabled = 1", "true or false", ""),
        ("cleanup", "strategy = \"pack\"", "unknown key `strategy`", "[worker.rebalancer]"),
        ("over-replication", "batch = 1", "unknown key `over-replication`", "`over_replication`"),
    ] {
        check(&worker(name, line), why, hint);
    }
    check(&of(&["[worker]\ncleanup = 5\n", &backend("b", "")]), "a table", "[worker.cleanup]");
}
