//! The figures, their medians, and the ratios between them.

use std::collections::BTreeMap;

/// All figures of a run, in the order in which they were first seen.
pub(crate) struct Table {
    order: Vec<String>,
    rounds: BTreeMap<String, Vec<f64>>,
    units: BTreeMap<String, &'static str>,
    ratios: Vec<(String, String, String)>,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            order: Vec::new(),
            rounds: BTreeMap::new(),
            units: BTreeMap::new(),
            ratios: Vec::new(),
        }
    }

    /// One round's figure.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str) {
        if !self.rounds.contains_key(name) {
            self.order.push(name.into());
            self.units.insert(name.into(), unit);
        }
        self.rounds.entry(name.into()).or_default().push(value);
        eprintln!("    {name}: {value:.1} {unit}");
    }

    /// Prints what `name` is as a share of `of`, where both were measured.
    pub(crate) fn ratio(&mut self, what: &str, name: &str, of: &str) {
        let ratio = (what.to_owned(), name.to_owned(), of.to_owned());
        if !self.ratios.contains(&ratio) {
            self.ratios.push(ratio);
        }
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.rounds.get(name)?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }

    pub(crate) fn print(&self) {
        println!("\n{:<52} {:>12} {:<8} rounds", "figure", "median", "");
        for name in &self.order {
            let all: Vec<String> =
                self.rounds[name].iter().map(|value| format!("{value:.1}")).collect();
            let median = self.median(name).unwrap_or_default();
            println!("{name:<52} {median:>12.1} {:<8} {}", self.units[name], all.join(" "));
        }
        println!("\n{:<52} {:>12}", "ratio", "");
        for (what, name, of) in &self.ratios {
            if let (Some(value), Some(of)) = (self.median(name), self.median(of)) {
                println!("{what:<52} {:>12.2}", value / of);
            }
        }
    }
}
