//! Rules of declared buckets.

use super::*;
use crate::model::Expire;
use crate::model::Lifecycle;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::lifecycle::date;

fn bucket(lifecycle: &str) -> String {
    format!("{LEAST}[[bucket]]\nname = \"photos\"\nlifecycle = {lifecycle}\n")
}

fn rules(lifecycle: &str) -> Lifecycle {
    let (config, warnings) = good(&bucket(lifecycle));
    assert!(warnings.is_empty(), "{warnings:?}");
    config.buckets[0].lifecycle.clone()
}

#[test]
fn rules_say_what_is_written() {
    let text = "[{ id = \"tmp\", prefix = \"tmp/\", tags = { k = \"v\" }, larger_than = \"1 MiB\", \
        smaller_than = \"1 GiB\", expire_after = \"30 d\" }, { expire_on = \"2027-01-01\", \
        abort_uploads_after = \"168 h\", enabled = false, expire_after = \"\" }]";
    let found = rules(text);
    let [first, second] = found.rules() else { panic!("two rules") };
    let wanted = RuleWish {
        id: "tmp".into(),
        is_enabled: true,
        prefix: "tmp/".into(),
        tags: Tags::new(vec![("k".into(), "v".into())]).unwrap(),
        larger_than: Some(1 << 20),
        smaller_than: Some(1 << 30),
        expire: Some(Expire::After(30)),
        abort_after: None,
    };
    assert_eq!(first.says(), &wanted);
    let wanted = RuleWish {
        id: "rule-1".into(),
        is_enabled: false,
        expire: Some(Expire::On(date("2027-01-01").unwrap())),
        abort_after: Some(7),
        ..RuleWish::default()
    };
    assert_eq!(second.says(), &wanted);
    assert!(rules("[]").is_empty());

    let (config, _) = good(&bucket(text));
    let shown = toml::to_string_pretty(&show(&config)).unwrap();
    assert!(shown.contains("expire_after = \"30 d\""), "{shown}");
    let (again, _) = good(&shown);
    assert_eq!(again.buckets[0].lifecycle, config.buckets[0].lifecycle);
}

#[test]
fn the_rules_of_the_example_can_be_used() {
    let uncommented = |line: &str| line.strip_prefix("# ").map(str::to_owned);
    let lines = EXAMPLE.lines().skip_while(|line| *line != "# lifecycle = [");
    let lines = lines.take_while(|line| line.starts_with('#')).filter_map(uncommented);
    let text = lines.collect::<Vec<_>>().join("\n");
    let found = rules(text.strip_prefix("lifecycle = ").unwrap());
    assert_eq!(found.rules().len(), 2);
}

#[test]
fn wrong_rules_are_told_with_their_places() {
    let one = |rule: &str, why: &str, hint: &str| check(&bucket(&format!("[{rule}]")), why, hint);
    one("{ prefix = \"a\" }", "has to do something", "");
    one("{ expire_after = \"\" }", "has to do something", "");
    one("{ expire_after = 30 }", "without a unit", "");
    one("{ expire_after = \"36 h\" }", "whole days, such as \"30 d\"", "");
    one("{ expire_after = \"0 d\" }", "a number of days is 1 to", "");
    one("{ abort_uploads_after = \"90 min\" }", "whole days", "");
    one("{ expire_on = \"soon\" }", "a day, such as \"2027-01-01\"", "");
    one("{ expire_on = \"2027-01-01\", expire_after = \"1 d\" }", "both given", "");
    one("{ expire_after = \"1 d\", larger_than = \"2 B\", smaller_than = \"2 B\" }", "size", "");
    one("{ expire_after = \"1 d\", tags = { \"<\" = \"\" } }", "a tag key", "");
    one("{ abort_uploads_after = \"1 d\", tags = { a = \"\" } }", "do not have", "");
    one("{ expire_after = \"1 d\", days = 3 }", "unknown key `days`", "known here");
    one(
        "{ expire_after = \"1 d\", prefx = \"3\" }",
        "unknown key `prefx`",
        "did you mean `prefix`?",
    );
    let id = |id: &str| format!("{{ id = \"{id}\", expire_after = \"1 d\" }}");
    one(&id(&"x".repeat(256)), "at most 255 characters", "");
    one(&format!("{}, {}", id("x"), id("x")), "two rules have the id `x`", "");
    one(&vec!["{ expire_after = \"1 d\" }"; 1001].join(","), "at most 1000", "");
    check(&bucket("\"30 d\""), "must be a list of tables", "");
    let mistakes = bad(&bucket("[{ expire_after = \"1 h\" },\n{ expire_on = \"x\" }]"));
    let places: Vec<_> = mistakes.iter().map(|mistake| mistake.place.unwrap()).collect();
    assert_eq!(places, [(8, 31), (9, 15)]);
}
