//! What protects and what limits: every bound, every mistake, and that it is shown as it is meant.

use super::*;
use crate::backend::Hours;
use crate::model::Class;
use crate::model::DayBegins;
use crate::model::Limits;
use crate::s3::Network;

fn s3(name: &str, more: &str) -> String {
    format!(
        "[[backend]]\nname = \"{name}\"\nservice = \"s3\"\n\
         options = {{ bucket = \"{name}\", region = \"r\" }}\n{more}\n"
    )
}

/// `text` is taken with exactly one warning, which says `why`, with `hint` in its hint.
fn warned(text: &str, why: &str, hint: &str) {
    let (_, warnings) = good(text);
    assert_eq!(warnings.len(), 1, "{warnings:#?}\n{text}");
    assert!(warnings[0].text.contains(why) && warnings[0].place.is_some(), "{warnings:?}");
    assert!(warnings[0].hint.as_deref().unwrap_or("").contains(hint), "{warnings:?}");
}

#[test]
fn every_bound_of_protection_holds_and_says_itself() {
    let top = |title: &str, line: &str| of(&[&format!("[{title}]\n{line}"), &backend("b", "")]);
    // Table, key, the last values within, the first beyond, what is said of the range.
    type Bound = (&'static str, &'static str, [&'static str; 2], [&'static str; 2], &'static str);
    let bounds: &[Bound] = &[
        ("breaker", "failures", ["1", "1000"], ["0", "1001"], "1 to 1000"),
        ("breaker", "open", ["'1 s'", "'24 h'"], ["'999 ms'", "'86401 s'"], "1 s to 86400 s"),
        ("breaker", "probe_timeout", ["'1 s'", "'1 h'"], ["'999 ms'", "'3601 s'"], "to 3600 s"),
        ("breaker", "absent_after", ["'1 min'", "'8760 h'"], ["'59 s'", "'8761 h'"], "60 s to"),
        ("admission", "reads", ["1", "100000"], ["0", "100001"], "1 to 100000"),
        ("admission", "writes", ["1", "100_000"], ["0", "100_001"], "1 to 100000"),
        ("admission", "worker_share", ["0", "1.0"], ["-0.001", "1.001"], "0 to 1"),
        ("admission", "shed_from", ["0.0", "1"], ["-1", "1.5"], "0 to 1"),
        ("admission", "wait", ["'0 s'", "'60 s'"], ["'60001 ms'", "'61 s'"], "0 s to 60 s"),
        ("rate_limit", "per_address", ["0", "1e6"], ["-1", "1_000_001"], "0 to 1000000"),
        ("rate_limit", "per_key", ["0.5", "1000000"], ["-0.1", "1e7"], "0 to 1000000"),
        ("rate_limit", "addresses_max", ["1000", "10000000"], ["999", "10000001"], "1000 to"),
    ];
    for (title, key, within, beyond, range) in bounds {
        for value in within {
            good(&top(title, &format!("{key} = {value}")));
        }
        for value in beyond {
            check(&top(title, &format!("{key} = {value}")), &format!("`{key}` is"), "");
            check(&top(title, &format!("{key} = {value}")), range, "");
        }
    }
    for wrong in ["nan", "inf", "'1'", "true", "[]"] {
        check(&top("rate_limit", &format!("per_key = {wrong}")), "must be a plain number", "");
    }
    check(&top("breaker", "failures = 1.5"), "a whole number", "");
    check(&top("breaker", "open = 300"), "without a unit", "\"300 s\"");
    check(&top("admission", "read = 5"), "unknown key `read` in [admission]", "`reads`");
    check(&top("rate_limit", "per_ip = 5"), "unknown key `per_ip`", "known here");
}

#[test]
fn protection_is_what_is_written() {
    let text = of(&[
        "[breaker]\nfailures = 3\nopen = \"1 min\"\nprobe_timeout = \"5 s\"",
        "[admission]\nreads = 10\nwrites = 5\nworker_share = 0.5\nwait = \"2 s\"\nshed_from = 1",
        "[rate_limit]\nper_address = 2.5\nper_key = 0.1\nper_key_burst = 7\naddresses_max = 2000\n\
         trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"::1\", \"fd00::/8\"]",
        &backend("b", ""),
    ]);
    let (config, warnings) = good(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let breaker = config.backends[0].breaker;
    assert_eq!((breaker.failures, breaker.open), (3, Duration::from_secs(60)));
    assert_eq!(breaker.probe_timeout, Duration::from_secs(5));
    let admission = config.engine.admission;
    assert_eq!((admission.reads, admission.writes, admission.worker_share), (10, 5, 0.5));
    assert_eq!((admission.wait, admission.shed_from), (Duration::from_secs(2), 1.0));
    let rate = &config.rate;
    assert_eq!((rate.per_address, rate.per_key, rate.addresses_max), (2.5, 0.1, 2000));
    // Without a burst it is what a second brings, rounded up.
    assert_eq!((rate.per_address_burst, rate.per_key_burst), (3, 7));
    let network = |address: &str, bits| Network { address: address.parse().unwrap(), bits };
    let proxies = [
        network("127.0.0.1", 32),
        network("10.0.0.0", 8),
        network("::1", 128),
        network("fd00::", 8),
    ];
    assert_eq!(rate.trusted_proxies, proxies);
    let slow = good(&of(&["[rate_limit]\nper_key = 0.01", &backend("b", "")])).0;
    assert_eq!((slow.rate.per_key_burst, slow.rate.per_address_burst), (1, 0));
}

#[test]
fn a_disk_is_given_up_sooner_than_a_cloud_unless_the_owner_says_when() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let both = [backend("a", ""), s3("b", "")].concat();
    let of_both = |text: &str| {
        let (config, warnings) = good(text);
        assert!(warnings.is_empty(), "{warnings:?}");
        let shown = toml::to_string_pretty(&show(&config)).unwrap();
        assert_eq!(good(&shown).0.backends, config.backends, "it reads back as the same");
        config.backends.iter().map(|backend| backend.absent_after).collect::<Vec<_>>()
    };
    assert_eq!(of_both(&of(&[&both])), [hours(1), hours(24)]);
    for said in [1, 2, 24] {
        let breaker = format!("[breaker]\nabsent_after = \"{said} h\"");
        assert_eq!(of_both(&of(&[&breaker, &both])), [hours(said); 2]);
    }
    assert_eq!(of_both(&of(&["[breaker]\nabsent_after = \"\"", &both])), [hours(1), hours(24)]);
}

#[test]
fn the_age_that_is_paid_for_is_what_is_written() {
    let age = |text: &str| of(&[&s3("a", &format!("min_age = {text}"))]);
    for (text, hours) in [("'720 h'", 720), ("'0 s'", 0), ("''", 0), ("'87600 h'", 87_600)] {
        let (config, _) = good(&age(text));
        assert_eq!(config.backends[0].min_age, Duration::from_secs(hours * 3600));
        let shown = toml::to_string_pretty(&show(&config)).unwrap();
        assert_eq!(good(&shown).0.backends, config.backends);
    }
    assert_eq!(good(&of(&[&s3("a", "")])).0.backends[0].min_age, Duration::ZERO);
    check(&age("'87601 h'"), "`min_age` is", "");
    check(&age("30"), "without a unit", "");
}

#[test]
fn proxies_are_addresses_or_networks() {
    let proxies = |text: &str| {
        of(&[&format!("[rate_limit]\ntrusted_proxies = [\"{text}\"]"), &backend("b", "")])
    };
    for right in ["1.2.3.4/32", "1.2.3.4/1", "::/128", "2001:db8::/32"] {
        assert!(good(&proxies(right)).1.is_empty(), "{right}");
    }
    for wrong in ["", "localhost", "1.2.3.4/33", "::1/129", "1.2.3.4/", "1.2.3", "10.0.0.0/-1"] {
        check(&proxies(wrong), "no address and no network", "10.0.0.0/8");
    }
    warned(&proxies("0.0.0.0/0"), "trusts everybody", "your proxies alone");
    warned(&proxies("::/0"), "trusts everybody", "your proxies alone");
}

#[test]
fn limits_are_what_is_written() {
    let limits = "[backend.limits]\nrequests_month = { a = 50_000, b = 0, all = 60000 }\n\
        egress_month = \"10 GB\"\ningress_month = \"\"\nrequests_day = { b = 7 }\n\
        egress_day = \"0 B\"\ningress_day = \"1 GiB\"\nbackground_share = 0.25\n";
    let (config, warnings) = good(&of(&[&backend("b", limits)]));
    assert!(warnings.is_empty(), "{warnings:?}");
    let limits = config.backends[0].limits;
    assert_eq!(limits.month.calls, [Some(50_000), None, None, None]);
    assert_eq!((limits.month.requests, limits.day.requests), (Some(60_000), None));
    assert_eq!((limits.month.egress, limits.month.ingress), (Some(10_000_000_000), None));
    assert_eq!(limits.day.calls[Class::B as usize], Some(7));
    assert_eq!((limits.day.egress, limits.day.ingress), (None, Some(1 << 30)));
    assert_eq!(limits.background_share, 0.25);
    let nothing = "[backend.limits]\nrequests_month = { }\negress_day = \"\"\n";
    assert_eq!(good(&of(&[&backend("b", nothing)])).0.backends[0].limits, Limits::default());
    let memory = "[[backend]]\nname = \"m\"\nservice = \"memory\"\n[backend.limits]\n\
        requests_month = { all = 1 }\n";
    good(&of(&[&backend("b", ""), memory]));
}

#[test]
fn wrong_limits_are_told() {
    let limits = |line: &str| of(&[&backend("b", &format!("[backend.limits]\n{line}\n"))]);
    check(&limits("requests_month = { d = 1 }"), "unknown class of requests `d`", "`a`, `b`");
    check(&limits("requests_day = { alll = 1 }"), "unknown class", "did you mean `all`?");
    check(&limits("requests_month = { free = 1 }"), "cannot be limited", "never refused");
    check(&limits("requests_month = { a = -1 }"), "a whole number of 0 or more", "");
    check(&limits("requests_month = { a = \"1\" }"), "a whole number", "");
    check(&limits("requests_month = 5"), "must be a table", "");
    good(&limits("requests_month = { a = 1000000000000000 }"));
    check(&limits("requests_month = { a = 1000000000000001 }"), "it can be 0 to 1000", "");
    check(&limits("egress_month = 5"), "without a unit", "\"5 GB\"");
    good(&limits("background_share = 0"));
    good(&limits("background_share = 1"));
    check(&limits("background_share = 1.01"), "`background_share` is 1.01", "");
    check(&limits("background_share = -0.01"), "it can be 0 to 1", "");
    check(&limits("egress_moth = \"1 GB\""), "in [backend.limits]", "`egress_month`");
    check(&of(&["[limits]\n", &backend("b", "")]), "unknown key `limits`", "[[backend]]");
    warned(&limits("requests_month = { c = 5 }"), "S3's own classes have no request", "never");
}

#[test]
fn a_limit_that_no_request_counts_towards_is_doubtful() {
    let profile = "[profile.mine]\nclasses = { GetObject = \"free\", HeadObject = \"c\" }\n";
    let with = |limit: &str| {
        let more =
            format!("profile = \"mine\"\n[backend.limits]\nrequests_month = {{ {limit} = 5 }}\n");
        of(&[profile, &backend("b", &more)])
    };
    warned(&with("b"), "the profile `mine` has no request in class b", "never be reached");
    for fine in ["a", "c", "all"] {
        assert!(good(&with(fine)).1.is_empty(), "{fine}");
    }
}

#[test]
fn backends_of_one_account_share_its_limits() {
    let limits = "[backend.limits]\nrequests_month = { all = 10 }\n";
    let with = |more: &str| format!("account = \"x\"\n{more}");
    // Stated by one of them, they hold for the others; and by two, when they are equal.
    let one = of(&[&s3("a", &with("")), &s3("b", &with(limits)), &s3("c", limits), &s3("d", "")]);
    let (config, warnings) = good(&one);
    assert!(warnings.is_empty(), "{warnings:?}");
    let all: Vec<_> = config.backends.iter().map(|b| b.limits.month.requests).collect();
    assert_eq!(all, [Some(10), Some(10), Some(10), None]);
    let accounts: Vec<_> = config.backends.iter().map(|b| b.account.as_deref()).collect();
    assert_eq!(accounts, [Some("x"), Some("x"), None, None]);
    good(&of(&[&s3("a", &with(limits)), &s3("b", &with(limits))]));
    let other = "[backend.limits]\nrequests_month = { all = 11 }\n";
    let text = of(&[&s3("a", &with(limits)), &s3("b", &with(other))]);
    check(&text, "`a` and `b` state different limits of the account `x`", "at one of its");
    assert_eq!(bad(&text)[0].place, Some((16, 1)));
    // One that states none is not named.
    let text = of(&[&s3("n", &with("")), &s3("a", &with(limits)), &s3("b", &with(other))]);
    check(&text, "`a` and `b` state different limits", "");
    let share = "[backend.limits]\nbackground_share = 0.1\n";
    check(&of(&[&s3("a", &with(share)), &s3("b", &with(other))]), "`a` and `b` state", "");
    check(&of(&[&s3("a", &format!("account = \"{}\"", "x".repeat(65)))]), "longer than 64", "");
    good(&of(&[&s3("a", &format!("account = \"{}\"", "x".repeat(64)))]));
    // One day for all of them.
    let profile = "[profile.late]\nday_begins = \"08:00\"\n";
    let of_day = "[backend.limits]\nrequests_day = { all = 10 }\n";
    let late = with("profile = \"late\"");
    check(
        &of(&[profile, &s3("a", &with(of_day)), &s3("b", &late)]),
        "the days of `a` and `b` begin at different times",
        "day_begins",
    );
    good(&of(&[profile, &s3("a", &with(limits)), &s3("b", &late)]));
}

#[test]
fn a_timetable_is_what_is_written() {
    let bandwidth = |line: &str| of(&[&backend("b", &format!("[backend.bandwidth]\n{line}\n"))]);
    let text = bandwidth("up = [\"08:00-18:00 1 MiB/s\", \"22:00-24:00 64 KiB/s\"]\ndown = []");
    let (config, warnings) = good(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let hours = |from, to, rate| Hours { from, to, rate };
    let up = [hours(480, 1080, 1 << 20), hours(1320, 0, 64 << 10)];
    assert_eq!(config.backends[0].bandwidth.up, up);
    assert!(config.backends[0].bandwidth.down.is_empty());
    check(&bandwidth("up = [\"65535 B/s\"]"), "`up` is 64.0 KiB/s, it can be 64 KiB/s", "");
    check(&bandwidth("down = [\"fast\"]"), "ends in `/s`", "22:00-06:00");
    check(&bandwidth("down = [\"5/s\"]"), "not a size", "22:00-06:00");
    check(&bandwidth("up = [\"8:00-18:00 1 MiB/s\"]"), "`8:00` is no time of day", "22:00");
    check(&bandwidth("up = \"1 MiB/s\""), "a list of strings", "");
    check(&bandwidth("both = []"), "unknown key `both` in [backend.bandwidth]", "up, down");
    let two =
        |one: &str, two: &str| bandwidth(&format!("up = [\"{one} 1 MiB/s\", \"{two} 2 MiB/s\"]"));
    warned(&two("22:00-06:00", "05:59-08:00"), "overlaps an entry before it", "first entry");
    warned(&two("22:00-06:00", "23:00-01:00"), "overlaps", "this one never does");
    assert!(good(&two("22:00-06:00", "06:00-22:00")).1.is_empty());
    let rest = good(&bandwidth("up = [\"08:00-18:00 1 MiB/s\", \"10 MiB/s\"]"));
    assert!(
        rest.1.is_empty(),
        "this is how the example in assets/larder.toml says it: {:?}",
        rest.1
    );
    warned(&bandwidth("up = [\"1 MiB/s\", \"2 MiB/s\"]"), "overlaps", "this one never does");
    let many = |count: usize| {
        let entries: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    "\"{:02}:{:02}-{:02}:{:02} 1 MiB/s\"",
                    n / 60,
                    n % 60,
                    (n + 1) / 60,
                    (n + 1) % 60
                )
            })
            .collect();
        bandwidth(&format!("up = [{}]", entries.join(", ")))
    };
    good(&many(48));
    check(&many(49), "`up` has 49 entries, 48 at most", "");
}

#[test]
fn profiles_are_found_and_overridden() {
    let (config, _) = good(&of(&[&s3("a", "profile = \"r2\""), &s3("b", "")]));
    let names: Vec<_> = config.backends.iter().map(|b| b.profile.name.as_str()).collect();
    assert_eq!(names, ["r2", ""]);
    let own = "[profile.r2]\nclasses = { ListObjectsV2 = \"c\" }\nday_begins = \"07:30\"\n\
        prices = { a = 0.005, egress_gb = 0, stored_gb_month = 0.015 }\n";
    let (config, warnings) = good(&of(&[own, &s3("a", "profile = \"r2\"")]));
    assert!(warnings.is_empty(), "{warnings:?}");
    let profile = &config.backends[0].profile;
    assert_eq!(profile.classes["ListObjectsV2"], Class::C);
    assert_eq!(profile.day_begins, DayBegins(450));
    assert_eq!(profile.prices.thousand_calls, [Some(0.005), None, None, None]);
    assert_eq!((profile.prices.egress_gb, profile.prices.ingress_gb), (Some(0.0), None));
    assert_eq!(profile.prices.stored_gb_month, Some(0.015));
    check(&of(&[&s3("a", "profile = \"ocl\"")]), "unknown profile `ocl`", "did you mean \"oci\"?");
    check(&of(&[&s3("a", "profile = \"mine\"")]), "unknown profile `mine`", "[profile.NAME]");
    let near = of(&["[profile.home]\n", &s3("a", "profile = \"hmoe\"")]);
    check(&near, "unknown profile", "did you mean \"home\"?");
}

#[test]
fn wrong_profiles_are_told() {
    let profile = |line: &str| of(&[&format!("[profile.mine]\n{line}\n"), &backend("b", "")]);
    check(&profile("classes = { GetObject = \"d\" }"), "the class of `GetObject`", "\"free\"");
    check(&profile("classes = { GetObject = 1 }"), "must be a string", "");
    warned(&profile("classes = { GetObjct = \"b\" }"), "`GetObjct` is", "`GetObject`?");
    check(&profile("day_begins = \"8:00\""), "`day_begins` is `8:00`", "08:00");
    check(&profile("day_begins = \"24:00\""), "a time of day", "08:00");
    check(&profile("prices = { d = 1 }"), "unknown key `d` in [profile.mine.prices]", "`a`");
    check(&profile("prices = { a = -0.01 }"), "a price is -0.01", "");
    check(&profile("prices = { a = \"0.01\" }"), "a plain number", "");
    good(&profile("prices = { a = 1e9 }"));
    check(&profile("prices = { a = 1000000001 }"), "it can be 0 to 1000000000", "");
    check(&of(&["[profile]\nmine = 5\n", &backend("b", "")]), "must be a table", "[profile.mine]");
    let long = format!("[profile.{}]\n", "p".repeat(65));
    check(&of(&[&long, &backend("b", "")]), "the name of a profile", "");
}

#[test]
fn all_of_it_is_shown_as_it_reads_back() {
    let text = of(&[
        "[breaker]\nfailures = 9\nopen = \"90 s\"",
        "[admission]\nreads = 3\nwait = \"1500 ms\"\nshed_from = 0.9",
        "[rate_limit]\nper_address = 0.5\nper_key = 100\ntrusted_proxies = [\"::1\"]",
        "[profile.mine]\nclasses = { PutObject = \"c\" }\nday_begins = \"09:05\"\n\
         prices = { c = 0.5, ingress_gb = 1 }",
        &s3(
            "a",
            "account = \"x\"\nprofile = \"mine\"\n[backend.limits]\n\
             requests_day = { c = 5, all = 6 }\negress_month = \"1 GB\"\nbackground_share = 0.1\n\
             [backend.bandwidth]\nup = [\"22:00-06:00 1 MiB/s\", \"100 kB/s\"]",
        ),
        &s3("b", "account = \"x\"\nprofile = \"mine\"\n"),
        &s3("c", "profile = \"gcs\"\n"),
    ]);
    let (config, _) = good(&text);
    let shown = toml::to_string_pretty(&show(&config)).unwrap();
    let (again, _) = good(&shown);
    assert_eq!(show(&again), show(&config));
    assert_eq!(again.backends, config.backends);
    assert_eq!((again.engine, again.rate), (config.engine, config.rate));
    for part in ["per_address_burst = 1", "\"100 kB/s\"", "day_begins = \"09:05\"", "gcs"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}
