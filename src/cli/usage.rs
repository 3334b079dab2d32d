//! `larder usage`: what the backends used this month and this day, and when a limit is reached.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::size_or_none;
use super::output::table;
use super::session::ask;
use crate::admin::AmountsView;
use crate::admin::BackendUsageView;
use crate::admin::LineView;
use crate::admin::Operation;
use crate::admin::PeriodView;
use crate::admin::UsageView;
use crate::app::offline::Needs;

pub(crate) const AFTER_HELP: &str = "A line with a limit counts what all backends of the account \
     used together. Work is what\nwas no client's request; it is counted within the rest. Months \
     are in UTC; a day begins when\nthe profile says.\n\n\
     Examples:\n  larder usage\n  larder usage --backend cloud --json";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let mut view: UsageView = ask(context, Operation::Usage, Needs::Backends)?;
    if let Some(name) = &args.backend {
        view.backends.retain(|backend| backend.name == *name);
        if view.backends.is_empty() {
            return Err(Failure {
                code: Some("no_such_backend".to_owned()),
                hint: Some("`larder backend list` names all of them".to_owned()),
                ..Failure::new(Exit::Failed, anyhow::anyhow!("there is no backend {name}"))
            });
        }
    }
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let heads = ["backend", "period", "counted", "used", "work", "limit", "share", "expected"];
    let mut text = table(&heads, view.backends.iter().flat_map(rows).collect());
    let notes = notes(&view);
    if !notes.is_empty() {
        text.push_str(&format!("\n\n{}", notes.join("\n")));
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// What a backend used or may use; what it neither did nor is limited in is left out.
fn rows(backend: &BackendUsageView) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for what in ["requests", "requests_a", "requests_b", "requests_c", "egress", "ingress"] {
        rows.extend(row(backend, &backend.month, what));
    }
    for line in backend.day.lines.iter().filter(|line| line.limit.is_some()) {
        rows.extend(row(backend, &backend.day, &line.what));
    }
    rows.push(vec![
        backend.name.clone(),
        "now".to_owned(),
        "stored".to_owned(),
        size(backend.stored),
        String::new(),
        size_or_none(backend.quota),
        share(backend.stored, backend.quota),
        String::new(),
    ]);
    rows
}

fn row(backend: &BackendUsageView, period: &PeriodView, what: &str) -> Option<Vec<String>> {
    let line = period.lines.iter().find(|line| line.what == what);
    let limit = line.and_then(|line| line.limit);
    // Of the account where it is limited, and else of this backend alone.
    let own = (amount(&period.all, what), amount(&period.work, what));
    let shared = line.filter(|_| limit.is_some());
    let (used, work) = shared.map_or(own, |line| (line.used, line.work));
    // The classes of requests stand beside their sum only where they are limited themselves.
    if limit.is_none() && (used == 0 || what.starts_with("requests_")) {
        return None;
    }
    Some(vec![
        backend.name.clone(),
        period.period.clone(),
        in_words(what).replace(" requests", ""),
        shown(what, used),
        shown(what, work),
        limit.map_or_else(|| "none".to_owned(), |limit| shown(what, limit)),
        share(used, limit),
        // Of the account; for this backend alone there is no forecast.
        line.filter(|line| line.used == used)
            .map(|line| shown(what, line.expected))
            .unwrap_or_default(),
    ])
}

fn amount(amounts: &AmountsView, what: &str) -> u64 {
    match what {
        "requests" => amounts.requests,
        "egress" => amounts.egress,
        "ingress" => amounts.ingress,
        what => {
            let class = what.strip_prefix("requests_").unwrap_or_default();
            amounts.calls.get(class).copied().unwrap_or_default()
        }
    }
}

fn share(used: u64, limit: Option<u64>) -> String {
    let percent = |limit: u64| u128::from(used) * 100 / u128::from(limit.max(1));
    limit.map(|limit| format!("{} %", percent(limit))).unwrap_or_default()
}

/// The name of what is counted, for people.
fn in_words(what: &str) -> String {
    match what.strip_prefix("requests_") {
        Some(class) => format!("class {} requests", class.to_ascii_uppercase()),
        None => what.to_owned(),
    }
}

/// Requests in groups of three digits, bytes with a unit.
fn shown(what: &str, value: u64) -> String {
    if !what.starts_with("requests") {
        return size(value);
    }
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `10,000 class A requests`, `5 GiB of egress`.
pub(crate) fn counted(what: &str, value: u64) -> String {
    let of = if what.starts_with("requests") { "" } else { "of " };
    format!("{} {of}{}", shown(what, value), in_words(what))
}

/// What the owner should know: limits that are or will be reached, and money.
fn notes(view: &UsageView) -> Vec<String> {
    let mut notes = Vec::new();
    let mut seen = BTreeSet::new();
    for backend in &view.backends {
        let whose = match &backend.account {
            Some(account) => format!("account {account}"),
            None => backend.name.clone(),
        };
        for (period, is_day) in [(&backend.month, false), (&backend.day, true)] {
            for line in &period.lines {
                // All backends of an account have the same lines.
                if let Some(note) = forecast(line, period, is_day)
                    && seen.insert((whose.clone(), period.period.clone(), line.what.clone()))
                {
                    notes.push(format!("{whose}: {note}"));
                }
            }
        }
        if let Some(money) = &backend.money {
            notes.push(format!(
                "{}: {:.2} spent this month, {:.2} expected by its end",
                backend.name, money.spent, money.expected
            ));
        }
    }
    notes
}

fn forecast(line: &LineView, period: &PeriodView, is_day: bool) -> Option<String> {
    let limit = line.limit?;
    let most = counted(&line.what, limit);
    let every = if is_day { "a day" } else { "a month" };
    if line.used >= limit {
        let ends = moment(&period.ends, is_day)?;
        return Some(format!("the limit of {most} {every} is reached; the next begins {ends}"));
    }
    let reached = moment(line.reached.as_deref()?, is_day)?;
    Some(format!("at today's rate the limit of {most} {every} is reached {reached}"))
}

/// `on 24 Nov`, or within a day `at 17:40 UTC`.
fn moment(text: &str, is_day: bool) -> Option<String> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let date = format_description!("on [day padding:none] [month repr:short]");
    let time = format_description!("at [hour]:[minute] UTC");
    if is_day { at.format(time).ok() } else { at.format(date).ok() }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serde_json::json;

    use super::*;

    fn amounts(requests: u64, egress: u64) -> Value {
        json!({
            "calls": {"a": requests, "b": 0, "c": 0, "free": 1}, "requests": requests,
            "egress": egress, "ingress": 0, "operations": {},
        })
    }

    fn period(name: &str, ends: &str, lines: Value) -> Value {
        let mut period = amounts(1234, 3 << 20);
        period["work"] = amounts(34, 1 << 20);
        period["period"] = json!(name);
        period["begins"] = json!("2026-11-01T00:00:00Z");
        period["ends"] = json!(ends);
        period["lines"] = lines;
        period
    }

    fn backend(name: &str, account: Option<&str>, lines: [Value; 2]) -> Value {
        let [month, day] = lines;
        json!({
            "name": name, "account": account, "profile": "", "stored": 5_u64 << 30, "quota": 10_u64 << 30,
            "month": period("2026-11", "2026-12-01T00:00:00Z", month),
            "day": period("2026-11-22", "2026-11-23T08:00:00Z", day), "money": null,
        })
    }

    fn line(what: &str, used: u64, limit: Option<u64>, reached: Option<&str>) -> Value {
        json!({"what": what, "used": used, "work": used / 10, "limit": limit, "expected": 2 * used, "reached": reached})
    }

    fn view(backends: &[Value]) -> UsageView {
        serde_json::from_value(json!({ "backends": backends })).unwrap()
    }

    #[test]
    fn only_what_matters_is_a_row() {
        let month = json!([
            line("requests", 2000, Some(50_000), None),
            line("requests_a", 1234, None, None),
            line("requests_b", 0, Some(10), None),
            line("egress", 3 << 20, None, None),
        ]);
        let day = json!([line("requests", 1234, None, None), line("egress", 1, Some(100), None)]);
        let view = view(&[backend("cloud", None, [month, day])]);
        let rows: Vec<String> = rows(&view.backends[0]).iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "cloud|2026-11|requests|2,000|200|50,000|4 %|4,000",
                "cloud|2026-11|class B|0|0|10|0 %|0",
                "cloud|2026-11|egress|3 MiB|1 MiB|none||6 MiB",
                "cloud|2026-11-22|egress|1 B|0 B|100 B|1 %|2 B",
                "cloud|now|stored|5 GiB||10 GiB|50 %|",
            ]
        );
    }

    #[test]
    fn limits_that_are_or_will_be_reached_are_told_once() {
        let soon = Some("2026-11-24T10:00:00Z");
        let month = json!([
            line("requests_a", 10, Some(50_000), soon),
            line("egress", 1 << 30, Some(1 << 30), soon),
            line("ingress", 10, None, soon),
        ]);
        let day = json!([line("requests", 7, Some(10), Some("2026-11-22T17:40:00Z"))]);
        let shared = [month, day];
        let mut paid = backend("c", None, [json!([]), json!([])]);
        paid["money"] = json!({"spent": 1.234, "expected": 20.0});
        let (a, b) = (backend("a", Some("x"), shared.clone()), backend("b", Some("x"), shared));
        assert_eq!(
            notes(&view(&[a, b, paid])),
            [
                "account x: at today's rate the limit of 50,000 class A requests a month is \
                 reached on 24 Nov",
                "account x: the limit of 1 GiB of egress a month is reached; the next begins on 1 \
                 Dec",
                "account x: at today's rate the limit of 10 requests a day is reached at 17:40 UTC",
                "c: 1.23 spent this month, 20.00 expected by its end",
            ]
        );
    }

    #[test]
    fn requests_are_shown_in_groups() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(shown("requests", value), text);
        }
        assert_eq!(share(1, Some(0)), "100 %");
        assert_eq!(share(u64::MAX, Some(1)), format!("{}00 %", u64::MAX));
    }
}
