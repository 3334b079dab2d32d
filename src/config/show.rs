//! The configuration in force, with secrets masked.

use std::time::Duration;

use toml::Table;
use toml::Value;

use super::Config;
use super::check::NAMES;
use super::lifecycle;
use super::limits::ALL;
use super::placement::ROUTINGS;
use crate::backend::BackendSettings;
use crate::backend::BreakerSettings;
use crate::backend::Hours;
use crate::backend::Profile;
use crate::backend::service;
use crate::base::ByteSize;
use crate::engine::AdmissionSettings;
use crate::model::AccessKey;
use crate::model::Action;
use crate::model::Class;
use crate::model::Grant;
use crate::model::Limits;
use crate::model::Names;
use crate::model::Placement;
use crate::model::Routing;
use crate::s3::Network;
use crate::s3::RateSettings;
use crate::store::DeclaredBucket;
use crate::worker::CrewSettings;
use crate::worker::Name;
use crate::worker::Window;

/// Options of services that are no secrets. Every other is masked: a name that is not known here
/// may be one.
const PLAIN_OPTIONS: &[&str] = &[
    "account_name",
    "bucket",
    "bucket_id",
    "checksum_algorithm",
    "container",
    "default_acl",
    "default_storage_class",
    "disable_config_load",
    "disable_vm_metadata",
    "enable_virtual_host_style",
    "filesystem",
    "predefined_acl",
    "region",
    "repo_name",
    "root",
    "server_side_encryption",
    "share_name",
];
const MASK: &str = "***";

/// Every setting with the value in force, as a table that TOML and JSON can both show.
pub fn show(config: &Config) -> Table {
    let mut file = Table::new();
    text(&mut file, "data_dir", config.data_dir.display());
    file.insert("server".into(), Value::Table(server(config)));
    let mut log = Table::new();
    text(&mut log, "level", config.log.level.name());
    text(&mut log, "format", config.log.format.name());
    file.insert("log".into(), Value::Table(log));
    file.insert("defaults".into(), Value::Table(defaults(config)));
    if let Some(first) = config.backends.first() {
        let mut timeouts = Table::new();
        text(&mut timeouts, "connect", span(first.timeouts.connect));
        text(&mut timeouts, "first_byte", span(first.timeouts.first_byte));
        text(&mut timeouts, "stall", span(first.timeouts.stall));
        file.insert("timeouts".into(), Value::Table(timeouts));
        let mut table = breaker(&first.breaker);
        text(&mut table, "absent_after", absent_after(&config.backends));
        file.insert("breaker".into(), Value::Table(table));
    }
    file.insert("admission".into(), Value::Table(admission(&config.engine.admission)));
    file.insert("rate_limit".into(), Value::Table(rate(&config.rate)));
    file.insert("worker".into(), Value::Table(workers(&config.workers)));
    let profiles = config.backends.iter().map(|backend| &backend.profile);
    let named: Table = profiles
        .filter(|used| !used.name.is_empty())
        .map(|used| (used.name.clone(), Value::Table(profile(used))))
        .collect();
    if !named.is_empty() {
        file.insert("profile".into(), Value::Table(named));
    }
    insert_list(&mut file, "backend", config.backends.iter().map(backend));
    insert_list(&mut file, "bucket", config.buckets.iter().map(bucket));
    insert_list(&mut file, "key", config.keys.iter().map(key));
    file
}

fn server(config: &Config) -> Table {
    let server = &config.server;
    let mut table = Table::new();
    text(&mut table, "listen", server.listen);
    text(&mut table, "admin_listen", server.admin_listen);
    text(&mut table, "region", &server.region);
    text(&mut table, "domain", server.domain.as_deref().unwrap_or_default());
    text(&mut table, "memory", size(server.memory));
    text(&mut table, "shutdown_timeout", span(server.shutdown_timeout));
    text(&mut table, "post_form_max", size(server.post_form_max));
    table
}

fn defaults(config: &Config) -> Table {
    let mut table = Table::new();
    placement(&mut table, &config.default_placement);
    text(&mut table, "names", names(config.default_names));
    text(&mut table, "blob_max_size", size(config.engine.blob_max));
    table.insert("same_device".into(), Value::Boolean(config.engine.same_device));
    text(&mut table, "tail_wait", span(config.engine.tail_wait));
    table
}

fn placement(table: &mut Table, placement: &Placement) {
    table.insert("replicas".into(), Value::Integer(placement.replicas.into()));
    table.insert("min_replicas".into(), Value::Integer(placement.min_replicas.into()));
    text(table, "routing", routing(placement.routing));
    let labels = placement.require_distinct.iter().cloned().map(Value::String).collect();
    table.insert("require_distinct".into(), Value::Array(labels));
}

fn backend(backend: &BackendSettings) -> Table {
    let mut table = Table::new();
    text(&mut table, "name", &backend.name);
    text(&mut table, "service", &backend.service);
    let mut options = Table::new();
    for (name, value) in &backend.options {
        text(&mut options, name, shown_option(name, value));
    }
    table.insert("options".into(), Value::Table(options));
    text(&mut table, "quota", backend.quota.map(size).unwrap_or_default());
    text(&mut table, "keep_free", backend.keep_free.map(size).unwrap_or_default());
    text(&mut table, "names", names(backend.names));
    text(&mut table, "blob_max_size", size(backend.blob_max));
    let mut labels = Table::new();
    for (name, value) in &backend.labels {
        text(&mut labels, name, value);
    }
    table.insert("labels".into(), Value::Table(labels));
    text(&mut table, "min_age", span(backend.min_age));
    text(&mut table, "account", backend.account.as_deref().unwrap_or_default());
    text(&mut table, "profile", &backend.profile.name);
    table.insert("limits".into(), Value::Table(limits(&backend.limits)));
    let timetable = |hours: &[Hours]| Value::Array(hours.iter().map(entry).collect());
    let mut bandwidth = Table::new();
    bandwidth.insert("up".into(), timetable(&backend.bandwidth.up));
    bandwidth.insert("down".into(), timetable(&backend.bandwidth.down));
    table.insert("bandwidth".into(), Value::Table(bandwidth));
    table
}

fn limits(limits: &Limits) -> Table {
    let mut table = Table::new();
    for (period, allowance) in [("month", &limits.month), ("day", &limits.day)] {
        let mut requests = Table::new();
        let classes = Class::ALL.into_iter().map(|class| (class.name(), class as usize));
        let classes = classes.map(|(name, class)| (name, allowance.calls[class]));
        for (name, most) in classes.chain([(ALL, allowance.requests)]) {
            if let Some(most) = most {
                whole(&mut requests, name, most);
            }
        }
        table.insert(format!("requests_{period}"), Value::Table(requests));
        let bytes = |most: Option<u64>| most.map(size).unwrap_or_default();
        text(&mut table, &format!("egress_{period}"), bytes(allowance.egress));
        text(&mut table, &format!("ingress_{period}"), bytes(allowance.ingress));
    }
    real(&mut table, "background_share", limits.background_share);
    table
}

fn entry(hours: &Hours) -> Value {
    let rate = size(hours.rate);
    Value::String(match hours.from == hours.to {
        true => format!("{rate}/s"),
        false => format!("{}-{} {rate}/s", time_of_day(hours.from), time_of_day(hours.to)),
    })
}

fn time_of_day(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn breaker(breaker: &BreakerSettings) -> Table {
    let mut table = Table::new();
    whole(&mut table, "failures", breaker.failures);
    text(&mut table, "open", span(breaker.open));
    text(&mut table, "probe_timeout", span(breaker.probe_timeout));
    table
}

/// Empty where each backend has what its service says.
fn absent_after(backends: &[BackendSettings]) -> String {
    let is_usual = |backend: &&BackendSettings| {
        service(&backend.service).is_some_and(|known| known.absent_after() == backend.absent_after)
    };
    let said = backends.iter().find(|backend| !is_usual(backend));
    said.map(|backend| span(backend.absent_after)).unwrap_or_default()
}

fn admission(admission: &AdmissionSettings) -> Table {
    let mut table = Table::new();
    whole(&mut table, "reads", admission.reads as u64);
    whole(&mut table, "writes", admission.writes as u64);
    real(&mut table, "worker_share", admission.worker_share);
    text(&mut table, "wait", span(admission.wait));
    real(&mut table, "shed_from", admission.shed_from);
    table
}

fn rate(rate: &RateSettings) -> Table {
    let mut table = Table::new();
    real(&mut table, "per_address", rate.per_address);
    whole(&mut table, "per_address_burst", rate.per_address_burst);
    real(&mut table, "per_key", rate.per_key);
    whole(&mut table, "per_key_burst", rate.per_key_burst);
    let network = |network: &Network| format!("{}/{}", network.address, network.bits);
    let proxies = rate.trusted_proxies.iter().map(|proxy| Value::String(network(proxy)));
    table.insert("trusted_proxies".into(), Value::Array(proxies.collect()));
    whole(&mut table, "addresses_max", rate.addresses_max as u64);
    table
}

fn workers(crew: &CrewSettings) -> Table {
    let one = |name: Name| {
        let settings = crew.of(name);
        let mut table = Table::new();
        table.insert("enabled".into(), Value::Boolean(settings.enabled));
        text(&mut table, "interval", span(settings.interval));
        whole(&mut table, "batch", settings.batch as u64);
        whole(&mut table, "concurrency", settings.concurrency as u64);
        match name {
            Name::Rebalancer => {
                text(&mut table, "strategy", routing(crew.rebalancer.strategy));
                real(&mut table, "threshold", crew.rebalancer.threshold);
            }
            Name::Reconciler => {
                text(&mut table, "local_interval", span(crew.reconciler.local_interval));
            }
            Name::Scrubber => {
                let (rate, window) = (crew.scrubber.rate, crew.scrubber.window);
                let rate = rate.map(|rate| format!("{}/s", size(rate)));
                let hours = |w: Window| format!("{}-{}", time_of_day(w.from), time_of_day(w.to));
                text(&mut table, "pass", span(crew.scrubber.pass));
                text(&mut table, "rate", rate.unwrap_or_default());
                text(&mut table, "window", window.map(hours).unwrap_or_default());
            }
            _ => {}
        }
        (name.to_string(), Value::Table(table))
    };
    Name::ALL.into_iter().map(one).collect()
}

/// What a backend's profile comes to, whoever said it.
fn profile(profile: &Profile) -> Table {
    let mut classes = Table::new();
    for (operation, class) in &profile.classes {
        text(&mut classes, operation, class.name());
    }
    let mut prices = Table::new();
    let known = &profile.prices;
    let named = Class::ALL.into_iter().map(Class::name).zip(known.thousand_calls).chain([
        ("egress_gb", known.egress_gb),
        ("ingress_gb", known.ingress_gb),
        ("stored_gb_month", known.stored_gb_month),
    ]);
    for (name, price) in named {
        if let Some(price) = price {
            real(&mut prices, name, price);
        }
    }
    let mut table = Table::new();
    table.insert("classes".into(), Value::Table(classes));
    text(&mut table, "day_begins", time_of_day(profile.day_begins.0));
    table.insert("prices".into(), Value::Table(prices));
    table
}

/// An endpoint may have a password before an `@`, and a token after a `?`.
fn shown_option<'a>(name: &str, value: &'a str) -> &'a str {
    let plain = PLAIN_OPTIONS.contains(&name)
        || (name == "endpoint" && !value.contains('@') && !value.contains('?'));
    if plain { value } else { MASK }
}

fn bucket(bucket: &DeclaredBucket) -> Table {
    let mut table = Table::new();
    text(&mut table, "name", &bucket.name);
    placement(&mut table, &bucket.placement);
    table.insert("max_uploads".into(), Value::Integer(bucket.max_uploads.into()));
    text(&mut table, "quota", bucket.quota.map(size).unwrap_or_default());
    table.insert("lifecycle".into(), lifecycle::show(&bucket.lifecycle));
    text(&mut table, "import", if bucket.imports { "import" } else { "report" });
    table
}

fn key(key: &AccessKey) -> Table {
    let mut table = Table::new();
    text(&mut table, "id", &key.id);
    text(&mut table, "secret", MASK);
    table.insert("create_buckets".into(), Value::Boolean(key.grants.create_buckets));
    insert_list(&mut table, "grants", key.grants.list.iter().map(grant));
    table
}

fn grant(grant: &Grant) -> Table {
    let mut table = Table::new();
    text(&mut table, "bucket", grant.bucket.as_ref().map_or("*", |name| name.as_str()));
    text(&mut table, "prefix", &grant.prefix);
    let allowed = Action::ALL.into_iter().filter(|action| grant.actions.allow(*action));
    let allowed = allowed.map(|action| Value::String(action.name().to_owned())).collect();
    table.insert("allow".into(), Value::Array(allowed));
    table
}

fn routing(value: Routing) -> &'static str {
    ROUTINGS.iter().find(|(_, routing)| *routing == value).map_or("", |(name, _)| name)
}

fn names(value: Names) -> &'static str {
    NAMES.iter().find(|(_, names)| *names == value).map_or("", |(name, _)| name)
}

fn text(table: &mut Table, key: &str, value: impl ToString) {
    table.insert(key.to_owned(), Value::String(value.to_string()));
}

fn whole(table: &mut Table, key: &str, value: impl Into<u64>) {
    table.insert(key.to_owned(), Value::Integer(i64::try_from(value.into()).unwrap_or(i64::MAX)));
}

fn real(table: &mut Table, key: &str, value: f64) {
    table.insert(key.to_owned(), Value::Float(value));
}

fn insert_list(table: &mut Table, key: &str, items: impl Iterator<Item = Table>) {
    table.insert(key.to_owned(), Value::Array(items.map(Value::Table).collect()));
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).exact()
}

fn span(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units = [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
    match units.into_iter().find(|(_, factor)| micros.is_multiple_of(*factor) && micros != 0) {
        None if micros == 0 => "0 s".to_owned(),
        Some((unit, factor)) => format!("{} {unit}", micros / factor),
        None => format!("{micros} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::size::parse_duration;

    #[test]
    fn durations_read_back_as_they_were() {
        for micros in [0, 1, 1_500, 1_000_000, 90_000_000, 7_200_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&span(duration)), Ok(duration));
        }
    }

    #[test]
    fn only_options_known_to_be_harmless_are_shown() {
        assert_eq!(shown_option("bucket", "b"), "b");
        assert_eq!(shown_option("endpoint", "https://h"), "https://h");
        assert_eq!(shown_option("endpoint", "https://u:p@h"), MASK);
        for name in ["secret_access_key", "access_key_id", "password", "anything"] {
            assert_eq!(shown_option(name, "x"), MASK, "{name}");
        }
    }
}
