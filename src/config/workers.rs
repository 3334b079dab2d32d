//! `[worker.NAME]`: how background work is done.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::bandwidth::RATE_MIN;
use super::bandwidth::read_rate;
use super::bandwidth::read_times;
use super::check::bounded;
use super::check::choice;
use super::check::plain;
use super::check::seconds;
use super::finding::Findings;
use super::placement::ROUTINGS;
use super::protection::count;
use super::reader::Reader;
use super::reader::Section;
use super::reader::Spot;
use super::schema;
use crate::base::ByteSize;
use crate::engine::Window;
use crate::worker::CrewSettings;
use crate::worker::Name;
use crate::worker::Settings;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=YEAR;
const BATCH_RANGE: RangeInclusive<u32> = 1..=10_000;
const CONCURRENCY_RANGE: RangeInclusive<u32> = 1..=256;
/// Nearer shares would make moves that gain nothing.
const THRESHOLD_RANGE: RangeInclusive<f64> = 0.01..=1.0;
/// What is read over and over wears disks out and costs money.
const PASS_RANGE: RangeInclusive<Duration> = Duration::from_secs(3600)..=YEAR;

pub(crate) struct RawWorkers {
    /// In the order of [`Name::ALL`].
    each: [RawWorker; Name::ALL.len()],
    strategy: Option<Spot<String>>,
    threshold: Option<Spot<f64>>,
    pass: Option<Spot<Duration>>,
    rate: Option<Spot<String>>,
    window: Option<Spot<String>>,
    local_interval: Option<Spot<Duration>>,
}

struct RawWorker {
    enabled: Option<Spot<bool>>,
    interval: Option<Spot<Duration>>,
    batch: Option<Spot<u32>>,
    concurrency: Option<Spot<u32>>,
}

pub(crate) fn read(reader: &mut Reader<'_>, file: &Section<'_>) -> RawWorkers {
    let workers = &reader.section(file, "worker", schema::WORKERS);
    let sections = Name::ALL.map(|name| {
        let schema = match name {
            Name::Rebalancer => schema::REBALANCER,
            Name::Reconciler => schema::RECONCILER,
            Name::Scrubber => schema::SCRUBBER,
            _ => schema::WORKER,
        };
        reader.section(workers, name.as_str(), schema)
    });
    let of = |name: Name| &sections[name as usize];
    RawWorkers {
        strategy: reader.text(of(Name::Rebalancer), "strategy"),
        threshold: reader.real(of(Name::Rebalancer), "threshold"),
        pass: reader.duration(of(Name::Scrubber), "pass"),
        rate: reader.text(of(Name::Scrubber), "rate"),
        window: reader.text(of(Name::Scrubber), "window"),
        local_interval: reader.duration(of(Name::Reconciler), "local_interval"),
        each: sections.each_ref().map(|section| RawWorker {
            enabled: reader.flag(section, "enabled"),
            interval: reader.duration(section, "interval"),
            batch: reader.number(section, "batch"),
            concurrency: reader.number(section, "concurrency"),
        }),
    }
}

pub(crate) fn check(raw: &RawWorkers, found: &mut Findings) -> CrewSettings {
    let mut crew = CrewSettings::default();
    for name in Name::ALL {
        worker(&raw.each[name as usize], crew.of_mut(name), found);
    }
    let strategy = choice(&raw.strategy, "strategy", ROUTINGS, found);
    let threshold = bounded(&raw.threshold, "threshold", THRESHOLD_RANGE, plain, found);
    let pass = bounded(&raw.pass, "pass", PASS_RANGE, seconds, found);
    let local = bounded(&raw.local_interval, "local_interval", INTERVAL_RANGE, seconds, found);
    crew.rebalancer.strategy = strategy.unwrap_or(crew.rebalancer.strategy);
    crew.rebalancer.threshold = threshold.unwrap_or(crew.rebalancer.threshold);
    crew.scrubber.pass = pass.unwrap_or(crew.scrubber.pass);
    crew.scrubber.rate = rate(&raw.rate, found);
    crew.scrubber.window = window(&raw.window, found);
    crew.reconciler.local_interval = local.unwrap_or(crew.reconciler.local_interval);
    crew
}

fn worker(raw: &RawWorker, settings: &mut Settings, found: &mut Findings) {
    let interval = bounded(&raw.interval, "interval", INTERVAL_RANGE, seconds, found);
    let batch = bounded(&raw.batch, "batch", BATCH_RANGE, count, found);
    let concurrency = bounded(&raw.concurrency, "concurrency", CONCURRENCY_RANGE, count, found);
    *settings = Settings {
        enabled: raw.enabled.as_ref().map_or(settings.enabled, |flag| flag.value),
        interval: interval.unwrap_or(settings.interval),
        batch: batch.map_or(settings.batch, |batch| batch as usize),
        concurrency: concurrency.map_or(settings.concurrency, |most| most as usize),
    };
}

fn rate(raw: &Option<Spot<String>>, found: &mut Findings) -> Option<u64> {
    let text = raw.as_ref().filter(|text| !text.value.is_empty())?;
    match read_rate(&text.value) {
        Ok(rate) if rate >= RATE_MIN => return Some(rate),
        Ok(rate) => {
            let (rate, least) = (ByteSize(rate), ByteSize(RATE_MIN));
            found.wrong(text.at, format!("`rate` is {rate}/s, it can be {least}/s or more"));
        }
        Err(why) => found.wrong_hint(text.at, format!("`rate`: {why}"), "such as \"20 MiB/s\""),
    }
    None
}

fn window(raw: &Option<Spot<String>>, found: &mut Findings) -> Option<Window> {
    let text = raw.as_ref().filter(|text| !text.value.is_empty())?;
    match read_times(text.value.trim()) {
        Ok((from, to)) if from != to => return Some(Window { from, to }),
        Ok(_) => found.wrong_hint(
            text.at,
            format!("`window` is `{}`, which begins when it ends", text.value),
            "leave it empty for the whole day",
        ),
        Err(why) => {
            found.wrong_hint(text.at, format!("`window`: {why}"), "such as \"01:00-06:00\"");
        }
    }
    None
}
