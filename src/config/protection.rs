//! `[breaker]`, `[admission]` and `[rate_limit]`: what is left alone, and what is refused early.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::bounded;
use super::check::plain;
use super::check::seconds;
use super::finding::Findings;
use super::reader::Spot;
use crate::backend::BreakerSettings;
use crate::engine::AdmissionSettings;
use crate::s3::Network;
use crate::s3::RateSettings;

const FAILURES_RANGE: RangeInclusive<u32> = 1..=1000;
const OPEN_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const PROBE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Not so soon that a restart is taken for a loss; a year is as good as never.
const ABSENT_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(365 * 86_400);
/// Never 0: a budget of nothing would refuse everything.
const BUDGET_RANGE: RangeInclusive<u32> = 1..=100_000;
const SHARE_RANGE: RangeInclusive<f64> = 0.0..=1.0;
const WAIT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const RATE_RANGE: RangeInclusive<f64> = 0.0..=1_000_000.0;
const ADDRESSES_RANGE: RangeInclusive<u32> = 1000..=10_000_000;
const ADDRESSES_MAX: usize = 100_000;

pub(crate) struct RawBreaker {
    pub(crate) failures: Option<Spot<u32>>,
    pub(crate) open: Option<Spot<Duration>>,
    pub(crate) probe_timeout: Option<Spot<Duration>>,
    pub(crate) absent_after: Option<Spot<Duration>>,
}

pub(crate) struct RawAdmission {
    pub(crate) reads: Option<Spot<u32>>,
    pub(crate) writes: Option<Spot<u32>>,
    pub(crate) worker_share: Option<Spot<f64>>,
    pub(crate) wait: Option<Spot<Duration>>,
    pub(crate) shed_from: Option<Spot<f64>>,
}

pub(crate) struct RawRate {
    pub(crate) per_address: Option<Spot<f64>>,
    pub(crate) per_address_burst: Option<Spot<u32>>,
    pub(crate) per_key: Option<Spot<f64>>,
    pub(crate) per_key_burst: Option<Spot<u32>>,
    pub(crate) trusted_proxies: Option<Spot<Vec<Spot<String>>>>,
    pub(crate) addresses_max: Option<Spot<u32>>,
}

pub(crate) fn count(value: u32) -> String {
    value.to_string()
}

pub(crate) fn breaker(raw: &RawBreaker, found: &mut Findings) -> BreakerSettings {
    let usual = BreakerSettings::default();
    let failures = bounded(&raw.failures, "failures", FAILURES_RANGE, count, found);
    let open = bounded(&raw.open, "open", OPEN_RANGE, seconds, found);
    let probe = bounded(&raw.probe_timeout, "probe_timeout", PROBE_RANGE, seconds, found);
    BreakerSettings {
        failures: failures.unwrap_or(usual.failures),
        open: open.unwrap_or(usual.open),
        probe_timeout: probe.unwrap_or(usual.probe_timeout),
    }
}

/// `None`: it is the service that says it.
pub(crate) fn absent_after(raw: &RawBreaker, found: &mut Findings) -> Option<Duration> {
    bounded(&raw.absent_after, "absent_after", ABSENT_RANGE, seconds, found)
}

pub(crate) fn admission(raw: &RawAdmission, found: &mut Findings) -> AdmissionSettings {
    let usual = AdmissionSettings::default();
    let mut budget = |raw, key| {
        bounded(raw, key, BUDGET_RANGE, count, found).and_then(|most| usize::try_from(most).ok())
    };
    let (reads, writes) = (budget(&raw.reads, "reads"), budget(&raw.writes, "writes"));
    let mut share = |raw, key| bounded(raw, key, SHARE_RANGE, plain, found);
    let worker_share = share(&raw.worker_share, "worker_share");
    let shed_from = share(&raw.shed_from, "shed_from");
    let wait = bounded(&raw.wait, "wait", WAIT_RANGE, seconds, found);
    AdmissionSettings {
        reads: reads.unwrap_or(usual.reads),
        writes: writes.unwrap_or(usual.writes),
        worker_share: worker_share.unwrap_or(usual.worker_share),
        wait: wait.unwrap_or(usual.wait),
        shed_from: shed_from.unwrap_or(usual.shed_from),
    }
}

pub(crate) fn rate(raw: &RawRate, found: &mut Findings) -> RateSettings {
    let mut rate = |raw, key| bounded(raw, key, RATE_RANGE, plain, found).unwrap_or_default();
    let per_address = rate(&raw.per_address, "per_address");
    let per_key = rate(&raw.per_key, "per_key");
    let addresses = bounded(&raw.addresses_max, "addresses_max", ADDRESSES_RANGE, count, found);
    let addresses = addresses.and_then(|most| usize::try_from(most).ok());
    let proxies = raw.trusted_proxies.iter().flat_map(|list| &list.value);
    RateSettings {
        per_address,
        per_address_burst: burst(&raw.per_address_burst, per_address),
        per_key,
        per_key_burst: burst(&raw.per_key_burst, per_key),
        trusted_proxies: proxies.filter_map(|text| network(text, found)).collect(),
        addresses_max: addresses.unwrap_or(ADDRESSES_MAX),
    }
}

/// Left out or 0, it is what a second brings, and at least one request.
fn burst(raw: &Option<Spot<u32>>, rate: f64) -> u32 {
    let given = raw.as_ref().map_or(0, |spot| spot.value);
    if given == 0 && rate > 0.0 { rate.ceil() as u32 } else { given }
}

/// An address, or one with the number of its leading bits that count.
fn network(text: &Spot<String>, found: &mut Findings) -> Option<Network> {
    let (address, bits) = match text.value.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text.value.as_str(), None),
    };
    let network = address.parse::<IpAddr>().ok().and_then(|address| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(Network { address, bits })
    });
    match network {
        None => found.wrong_hint(
            text.at,
            format!("`{}` is no address and no network", text.value),
            "such as \"127.0.0.1\", \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        Some(Network { bits: 0, .. }) => found.doubtful(
            text.at,
            format!("`{}` trusts everybody", text.value),
            "then each client says itself where it comes from; name your proxies alone",
        ),
        Some(_) => (),
    }
    network
}
