//! What backends used against what they may use, as JSON has it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::views::rfc3339;
use crate::engine::BackendUsage;
use crate::engine::Counted;
use crate::engine::Line;
use crate::engine::PeriodUsage;
use crate::engine::Reached;
use crate::model::Amounts;
use crate::model::Class;
use crate::model::Operation;
use crate::model::Period;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageView {
    pub backends: Vec<BackendUsageView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendUsageView {
    pub name: String,
    /// Backends with the same word share their limits.
    pub account: Option<String>,
    /// Empty: S3's own classes.
    pub profile: String,
    pub month: PeriodView,
    pub day: PeriodView,
    /// Bytes.
    pub stored: u64,
    pub quota: Option<u64>,
    /// Of this month; `None` where no prices are configured.
    pub money: Option<MoneyView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeriodView {
    /// `2026-11`, or `2026-11-23`.
    pub period: String,
    pub begins: String,
    pub ends: String,
    #[serde(flatten)]
    pub all: AmountsView,
    /// What of it was other than clients' requests.
    pub work: AmountsView,
    /// Of the whole account, where backends share one.
    pub lines: Vec<LineView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AmountsView {
    /// By class.
    pub calls: BTreeMap<String, u64>,
    /// Of all classes but `free`.
    pub requests: u64,
    pub egress: u64,
    pub ingress: u64,
    /// What was asked for, however many requests that took.
    pub operations: BTreeMap<String, u64>,
}

/// One thing that is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineView {
    /// `requests`, `requests_a` and so on, `egress` or `ingress`.
    pub what: String,
    pub used: u64,
    /// What of it was other than clients' requests.
    pub work: u64,
    pub limit: Option<u64>,
    /// At the end of the period, at the rate so far.
    pub expected: u64,
    /// When the limit is reached at the rate so far.
    pub reached: Option<String>,
}

/// In the currency of the configured prices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoneyView {
    pub spent: f64,
    /// At the end of the month.
    pub expected: f64,
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachedView {
    /// As in [`LineView`].
    pub what: String,
    pub period: String,
    pub limit: u64,
    /// Only the share of background work is used up.
    pub is_share: bool,
}

impl UsageView {
    pub(super) fn new(usage: Vec<BackendUsage>) -> UsageView {
        UsageView { backends: usage.into_iter().map(backend).collect() }
    }
}

fn backend(usage: BackendUsage) -> BackendUsageView {
    BackendUsageView {
        name: usage.name,
        account: usage.account,
        profile: usage.profile,
        month: period(&usage.month),
        day: period(&usage.day),
        stored: usage.stored,
        quota: usage.quota,
        money: usage.money.map(|m| MoneyView { spent: m.spent, expected: m.expected }),
    }
}

fn period(usage: &PeriodUsage) -> PeriodView {
    PeriodView {
        period: name(usage.period),
        begins: rfc3339(usage.begins),
        ends: rfc3339(usage.ends),
        all: amounts(&usage.tally.all),
        work: amounts(&usage.tally.work),
        lines: usage.lines.iter().map(line).collect(),
    }
}

fn amounts(amounts: &Amounts) -> AmountsView {
    let named = |class: Class| (class.name().to_owned(), amounts.calls[class as usize]);
    let limited = Class::ALL.into_iter().filter(|class| *class != Class::Free);
    let operations = Operation::ALL.into_iter();
    AmountsView {
        calls: Class::ALL.into_iter().map(named).collect(),
        requests: limited.map(|class| amounts.calls[class as usize]).sum(),
        egress: amounts.egress,
        ingress: amounts.ingress,
        operations: operations
            .map(|operation| (operation.name().to_owned(), amounts.operations[operation as usize]))
            .collect(),
    }
}

fn line(line: &Line) -> LineView {
    LineView {
        what: what(line.what),
        used: line.used,
        work: line.work,
        limit: line.limit,
        expected: line.expected,
        reached: line.reached.map(rfc3339),
    }
}

fn what(counted: Counted) -> String {
    match counted {
        Counted::Requests => "requests".to_owned(),
        Counted::Calls(class) => format!("requests_{}", class.name()),
        Counted::Egress => "egress".to_owned(),
        Counted::Ingress => "ingress".to_owned(),
    }
}

fn name(period: Period) -> String {
    let number = period.0;
    match period.is_day() {
        true => format!("{}-{:02}-{:02}", number / 10_000, number / 100 % 100, number % 100),
        false => format!("{}-{:02}", number / 100, number % 100),
    }
}

impl ReachedView {
    pub(super) fn new(reached: Reached) -> ReachedView {
        ReachedView {
            what: what(reached.what),
            period: name(reached.period),
            limit: reached.limit,
            is_share: reached.is_share,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::Timestamp;
    use crate::engine::Money;
    use crate::model::BackendId;
    use crate::model::Limits;
    use crate::model::Tally;

    #[test]
    fn the_shape_is_the_promised_one() {
        let mut tally = Tally::default();
        tally.all.calls = [3, 4, 5, 6];
        tally.all.operations[Operation::Read as usize] = 4;
        (tally.all.egress, tally.all.ingress, tally.work.egress) = (70, 80, 7);
        let begins = Timestamp(1_767_225_600_000_000);
        let usage = |period, lines| PeriodUsage {
            period,
            begins,
            ends: begins,
            tally,
            shared: tally,
            lines,
        };
        let line = Line {
            what: Counted::Calls(Class::B),
            used: 4,
            work: 1,
            limit: Some(10),
            expected: 20,
            reached: Some(begins),
        };
        let view = UsageView::new(vec![BackendUsage {
            id: BackendId(1),
            name: "cloud".into(),
            account: Some("mine".into()),
            profile: "r2".into(),
            limits: Limits::default(),
            month: usage(Period(202_601), vec![line]),
            day: usage(Period(20_260_102), Vec::new()),
            stored: 9,
            quota: Some(99),
            money: Some(Money { spent: 0.5, expected: 1.5 }),
        }]);
        let json = serde_json::to_value(&view).unwrap();
        let backend = &json["backends"][0];
        let month = &backend["month"];
        assert_eq!(
            (&month["period"], &backend["day"]["period"]),
            (&json!("2026-01"), &json!("2026-01-02"))
        );
        assert_eq!(month["begins"], "2026-01-01T00:00:00Z");
        assert_eq!(month["calls"], json!({"a": 3, "b": 4, "c": 5, "free": 6}));
        assert_eq!((&month["requests"], &month["egress"]), (&json!(12), &json!(70)));
        assert_eq!((&month["ingress"], &month["work"]["egress"]), (&json!(80), &json!(7)));
        assert_eq!(
            (&month["operations"]["read"], &month["work"]["requests"]),
            (&json!(4), &json!(0))
        );
        let line = json!({"what": "requests_b", "used": 4, "work": 1, "limit": 10, "expected": 20,
            "reached": "2026-01-01T00:00:00Z"});
        assert_eq!(month["lines"], json!([line]));
        assert_eq!(backend["money"], json!({"spent": 0.5, "expected": 1.5}));
        assert_eq!((&backend["stored"], &backend["quota"]), (&json!(9), &json!(99)));
        assert_eq!((&backend["account"], &backend["profile"]), (&json!("mine"), &json!("r2")));
        assert_eq!(serde_json::from_value::<UsageView>(json).unwrap(), view);
    }
}
