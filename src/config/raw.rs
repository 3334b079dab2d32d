//! The file as it is written: every value optional, nothing believed.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeTable;

use super::bandwidth::RawBandwidth;
use super::lifecycle;
use super::lifecycle::RawRule;
use super::limits::RawAllowance;
use super::limits::RawLimits;
use super::profile::RawPrices;
use super::profile::RawProfile;
use super::protection::RawAdmission;
use super::protection::RawBreaker;
use super::protection::RawRate;
use super::reader::Reader;
use super::reader::Section;
use super::reader::Spot;
use super::schema;
use super::workers;
use super::workers::RawWorkers;

pub(crate) struct Raw {
    pub(crate) data_dir: Option<Spot<String>>,
    pub(crate) server: RawServer,
    pub(crate) log: RawLog,
    pub(crate) defaults: RawDefaults,
    pub(crate) timeouts: RawTimeouts,
    pub(crate) breaker: RawBreaker,
    pub(crate) admission: RawAdmission,
    pub(crate) rate: RawRate,
    pub(crate) workers: RawWorkers,
    pub(crate) profiles: Vec<RawProfile>,
    pub(crate) backends: Vec<RawBackend>,
    /// Something stands under `backend`, be it wrong.
    pub(crate) has_backends: bool,
    pub(crate) buckets: Vec<RawBucket>,
    pub(crate) keys: Vec<RawKey>,
}

pub(crate) struct RawServer {
    pub(crate) listen: Option<Spot<String>>,
    pub(crate) admin_listen: Option<Spot<String>>,
    pub(crate) region: Option<Spot<String>>,
    pub(crate) domain: Option<Spot<String>>,
    pub(crate) memory: Option<Spot<u64>>,
    pub(crate) shutdown_timeout: Option<Spot<Duration>>,
    pub(crate) post_form_max: Option<Spot<u64>>,
}

pub(crate) struct RawLog {
    pub(crate) level: Option<Spot<String>>,
    pub(crate) format: Option<Spot<String>>,
}

/// What `[defaults]` and `[[bucket]]` have in common.
pub(crate) struct RawPlacement {
    pub(crate) replicas: Option<Spot<u32>>,
    pub(crate) min_replicas: Option<Spot<u32>>,
    pub(crate) routing: Option<Spot<String>>,
    pub(crate) require_distinct: Option<Spot<Vec<Spot<String>>>>,
}

pub(crate) struct RawDefaults {
    pub(crate) at: Option<usize>,
    pub(crate) placement: RawPlacement,
    pub(crate) names: Option<Spot<String>>,
    pub(crate) blob_max_size: Option<Spot<u64>>,
    pub(crate) same_device: Option<Spot<bool>>,
    pub(crate) tail_wait: Option<Spot<Duration>>,
}

pub(crate) struct RawTimeouts {
    pub(crate) connect: Option<Spot<Duration>>,
    pub(crate) first_byte: Option<Spot<Duration>>,
    pub(crate) stall: Option<Spot<Duration>>,
}

pub(crate) struct RawBackend {
    pub(crate) at: Option<usize>,
    pub(crate) name: Option<Spot<String>>,
    pub(crate) service: Option<Spot<String>>,
    pub(crate) options: BTreeMap<String, Spot<String>>,
    /// Names under `options`, also of those whose values are wrong.
    pub(crate) option_names: Vec<String>,
    pub(crate) quota: Option<Spot<u64>>,
    pub(crate) keep_free: Option<Spot<u64>>,
    pub(crate) names: Option<Spot<String>>,
    pub(crate) blob_max_size: Option<Spot<u64>>,
    pub(crate) labels: BTreeMap<String, Spot<String>>,
    pub(crate) min_age: Option<Spot<Duration>>,
    pub(crate) account: Option<Spot<String>>,
    pub(crate) profile: Option<Spot<String>>,
    pub(crate) limits: RawLimits,
    pub(crate) bandwidth: RawBandwidth,
}

pub(crate) struct RawBucket {
    pub(crate) at: Option<usize>,
    pub(crate) name: Option<Spot<String>>,
    pub(crate) placement: RawPlacement,
    pub(crate) max_uploads: Option<Spot<u32>>,
    pub(crate) quota: Option<Spot<u64>>,
    pub(crate) lifecycle: Vec<RawRule>,
    pub(crate) import: Option<Spot<String>>,
}

pub(crate) struct RawKey {
    pub(crate) at: Option<usize>,
    pub(crate) id: Option<Spot<String>>,
    pub(crate) secret: Option<Spot<String>>,
    /// A secret is given, be it wrong.
    pub(crate) has_secret: bool,
    pub(crate) create_buckets: Option<Spot<bool>>,
    pub(crate) grants: Vec<RawGrant>,
}

pub(crate) struct RawGrant {
    pub(crate) at: Option<usize>,
    pub(crate) bucket: Option<Spot<String>>,
    pub(crate) prefix: Option<Spot<String>>,
    pub(crate) preset: Option<Spot<String>>,
    pub(crate) allow: Option<Spot<Vec<Spot<String>>>>,
    /// Preset or actions are given, be they wrong.
    pub(crate) has_actions: bool,
}

impl Raw {
    pub(crate) fn read(table: &DeTable<'_>, reader: &mut Reader<'_>) -> Raw {
        let file = &reader.file(table, schema::FILE);
        Raw {
            data_dir: reader.required(file, "data_dir"),
            server: server(reader, file),
            log: log(reader, file),
            defaults: defaults(reader, file),
            timeouts: timeouts(reader, file),
            breaker: breaker(reader, file),
            admission: admission(reader, file),
            rate: rate(reader, file),
            workers: workers::read(reader, file),
            profiles: profiles(reader, file),
            backends: reader
                .sections(file, "backend", schema::BACKEND)
                .iter()
                .map(|section| backend(reader, section))
                .collect(),
            has_backends: file.has("backend"),
            buckets: reader
                .sections(file, "bucket", schema::BUCKET)
                .iter()
                .map(|section| bucket(reader, section))
                .collect(),
            keys: reader
                .sections(file, "key", schema::KEY)
                .iter()
                .map(|section| key(reader, section))
                .collect(),
        }
    }
}

fn server(reader: &mut Reader<'_>, file: &Section<'_>) -> RawServer {
    let section = &reader.section(file, "server", schema::SERVER);
    RawServer {
        listen: reader.text(section, "listen"),
        admin_listen: reader.text(section, "admin_listen"),
        region: reader.text(section, "region"),
        domain: reader.text(section, "domain"),
        memory: reader.size(section, "memory"),
        shutdown_timeout: reader.duration(section, "shutdown_timeout"),
        post_form_max: reader.size(section, "post_form_max"),
    }
}

fn log(reader: &mut Reader<'_>, file: &Section<'_>) -> RawLog {
    let section = &reader.section(file, "log", schema::LOG);
    RawLog { level: reader.text(section, "level"), format: reader.text(section, "format") }
}

fn placement(reader: &mut Reader<'_>, section: &Section<'_>) -> RawPlacement {
    RawPlacement {
        replicas: reader.number(section, "replicas"),
        min_replicas: reader.number(section, "min_replicas"),
        routing: reader.text(section, "routing"),
        require_distinct: reader.list(section, "require_distinct"),
    }
}

fn defaults(reader: &mut Reader<'_>, file: &Section<'_>) -> RawDefaults {
    let section = &reader.section(file, "defaults", schema::DEFAULTS);
    RawDefaults {
        at: section.at(),
        placement: placement(reader, section),
        names: reader.text(section, "names"),
        blob_max_size: reader.size(section, "blob_max_size"),
        same_device: reader.flag(section, "same_device"),
        tail_wait: reader.duration(section, "tail_wait"),
    }
}

fn timeouts(reader: &mut Reader<'_>, file: &Section<'_>) -> RawTimeouts {
    let section = &reader.section(file, "timeouts", schema::TIMEOUTS);
    RawTimeouts {
        connect: reader.duration(section, "connect"),
        first_byte: reader.duration(section, "first_byte"),
        stall: reader.duration(section, "stall"),
    }
}

fn backend(reader: &mut Reader<'_>, section: &Section<'_>) -> RawBackend {
    let (options, option_names) = reader.options(section, "options");
    RawBackend {
        at: section.at(),
        name: reader.required(section, "name"),
        service: reader.required(section, "service"),
        options,
        option_names,
        quota: reader.size(section, "quota"),
        keep_free: reader.size(section, "keep_free"),
        names: reader.text(section, "names"),
        blob_max_size: reader.size(section, "blob_max_size"),
        labels: reader.texts(section, "labels"),
        min_age: reader.duration(section, "min_age"),
        account: reader.text(section, "account"),
        profile: reader.text(section, "profile"),
        limits: limits(reader, section),
        bandwidth: bandwidth(reader, section),
    }
}

fn limits(reader: &mut Reader<'_>, backend: &Section<'_>) -> RawLimits {
    let section = &reader.section(backend, "limits", schema::LIMITS);
    RawLimits {
        at: section.at(),
        month: RawAllowance {
            requests: reader.counts(section, "requests_month"),
            egress: reader.size(section, "egress_month"),
            ingress: reader.size(section, "ingress_month"),
        },
        day: RawAllowance {
            requests: reader.counts(section, "requests_day"),
            egress: reader.size(section, "egress_day"),
            ingress: reader.size(section, "ingress_day"),
        },
        background_share: reader.real(section, "background_share"),
    }
}

fn bandwidth(reader: &mut Reader<'_>, backend: &Section<'_>) -> RawBandwidth {
    let section = &reader.section(backend, "bandwidth", schema::BANDWIDTH);
    RawBandwidth { up: reader.list(section, "up"), down: reader.list(section, "down") }
}

fn breaker(reader: &mut Reader<'_>, file: &Section<'_>) -> RawBreaker {
    let section = &reader.section(file, "breaker", schema::BREAKER);
    RawBreaker {
        failures: reader.number(section, "failures"),
        open: reader.duration(section, "open"),
        probe_timeout: reader.duration(section, "probe_timeout"),
        absent_after: reader.duration(section, "absent_after"),
    }
}

fn admission(reader: &mut Reader<'_>, file: &Section<'_>) -> RawAdmission {
    let section = &reader.section(file, "admission", schema::ADMISSION);
    RawAdmission {
        reads: reader.number(section, "reads"),
        writes: reader.number(section, "writes"),
        worker_share: reader.real(section, "worker_share"),
        wait: reader.duration(section, "wait"),
        shed_from: reader.real(section, "shed_from"),
    }
}

fn rate(reader: &mut Reader<'_>, file: &Section<'_>) -> RawRate {
    let section = &reader.section(file, "rate_limit", schema::RATE_LIMIT);
    RawRate {
        per_address: reader.real(section, "per_address"),
        per_address_burst: reader.number(section, "per_address_burst"),
        per_key: reader.real(section, "per_key"),
        per_key_burst: reader.number(section, "per_key_burst"),
        trusted_proxies: reader.list(section, "trusted_proxies"),
        addresses_max: reader.number(section, "addresses_max"),
    }
}

fn profiles(reader: &mut Reader<'_>, file: &Section<'_>) -> Vec<RawProfile> {
    let named = reader.named_sections(file, "profile", schema::PROFILE);
    let read = |(name, section): (String, Section<'_>)| {
        let prices = &reader.section(&section, "prices", schema::PRICES);
        RawProfile {
            at: section.at().unwrap_or_default(),
            name,
            classes: reader.texts(&section, "classes"),
            day_begins: reader.text(&section, "day_begins"),
            prices: RawPrices {
                classes: ["a", "b", "c"].map(|class| reader.real(prices, class)),
                egress_gb: reader.real(prices, "egress_gb"),
                ingress_gb: reader.real(prices, "ingress_gb"),
                stored_gb_month: reader.real(prices, "stored_gb_month"),
            },
        }
    };
    named.into_iter().map(read).collect()
}

fn bucket(reader: &mut Reader<'_>, section: &Section<'_>) -> RawBucket {
    RawBucket {
        at: section.at(),
        name: reader.required(section, "name"),
        placement: placement(reader, section),
        max_uploads: reader.number(section, "max_uploads"),
        quota: reader.size(section, "quota"),
        lifecycle: lifecycle::raw(reader, section),
        import: reader.text(section, "import"),
    }
}

fn key(reader: &mut Reader<'_>, section: &Section<'_>) -> RawKey {
    RawKey {
        at: section.at(),
        id: reader.required(section, "id"),
        secret: reader.secret(section, "secret"),
        has_secret: section.has("secret") || section.has("secret_file"),
        create_buckets: reader.flag(section, "create_buckets"),
        grants: reader
            .sections(section, "grants", schema::GRANT)
            .iter()
            .map(|section| RawGrant {
                at: section.at(),
                bucket: reader.required(section, "bucket"),
                prefix: reader.text(section, "prefix"),
                preset: reader.text(section, "preset"),
                allow: reader.list(section, "allow"),
                has_actions: section.has("preset") || section.has("allow"),
            })
            .collect(),
    }
}
