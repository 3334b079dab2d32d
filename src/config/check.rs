//! From what is written to what it means: defaults filled in, values and their relations judged.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::Checked;
use super::Config;
use super::Log;
use super::LogFormat;
use super::LogLevel;
use super::Server;
use super::access;
use super::backends;
use super::finding::Findings;
use super::memory;
use super::placement;
use super::placement::Holders;
use super::profile;
use super::protection;
use super::raw::Raw;
use super::raw::RawDefaults;
use super::raw::RawLog;
use super::raw::RawServer;
use super::raw::RawTimeouts;
use super::reader::Spot;
use super::schema::nearest;
use super::workers;
use crate::backend::BackendSettings;
use crate::backend::Timeouts;
use crate::backend::service;
use crate::base::ByteSize;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::BLOB_SIZE_MIN;
use crate::base::limits::PUT_SIZE_MAX;
use crate::base::limits::WINDOW;
use crate::engine::AdmissionSettings;
use crate::engine::EngineSettings;
use crate::model::Names;
use crate::model::Placement;
use crate::model::Routing;

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);
const REGION: &str = "us-east-1";
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const POST_FORM_MAX: u64 = 64 << 20;
const BLOB_MAX: u64 = 256 << 20;
const TAIL_WAIT: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(30),
    stall: Duration::from_secs(60),
};

/// Two requests' windows: with less, one body could keep all others waiting.
const MEMORY_RANGE: RangeInclusive<u64> = 2 * WINDOW..=1 << 50;
const SHUTDOWN_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const POST_FORM_RANGE: RangeInclusive<u64> = 1 << 20..=PUT_SIZE_MAX;
const BLOB_RANGE: RangeInclusive<u64> = BLOB_SIZE_MIN..=BLOB_SIZE_MAX;
const TAIL_WAIT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
const REGION_LEN_MAX: usize = 64;

pub(crate) const NAMES: &[(&str, Names)] =
    &[("readable", Names::Readable), ("opaque", Names::Opaque)];

impl Raw {
    /// Fills in defaults and notes everything that is wrong. What it returns means something only
    /// when nothing was noted.
    pub(crate) fn check(self, found: &mut Findings) -> Config {
        let default_placement = default_placement(&self.defaults, found);
        let default_names = choice(&self.defaults.names, "names", NAMES, found);
        let default_names = default_names.unwrap_or(Names::Readable);
        let admission = protection::admission(&self.admission, found);
        let engine = engine(&self.defaults, admission, found);
        let timeouts = timeouts(&self.timeouts, found);
        let data_dir = data_dir(&self.data_dir, found);
        let breaker = protection::breaker(&self.breaker, found);
        let absent_after = protection::absent_after(&self.breaker, found);
        let profiles = profile::check(&self.profiles, found);
        let names = default_names;
        let common = backends::Common { names, timeouts, breaker, absent_after, profiles };
        let backends = backends::check(&self.backends, &common, found);
        if !self.has_backends || (self.backends.is_empty() && !found.has_mistakes()) {
            found.wrong_hint(
                None,
                "there is no backend",
                "add a [[backend]] with a name, a service and its options",
            );
        }
        let holders = Holders {
            durable: backends.iter().filter(|backend| is_durable(backend)).collect(),
            all: &backends,
            is_partial: backends.len() < self.backends.len() || backends.is_empty(),
            same_device: engine.same_device,
        };
        let at = self.defaults.at;
        holders.check(&default_placement, &self.defaults.placement, at, found);
        blob_sizes(&holders, engine.blob_max, &default_placement, &self.defaults, found);
        backends::check_places(&self.backends, &data_dir, found);
        let buckets = access::buckets(&self.buckets, &default_placement, &holders, found);
        let keys = access::keys(&self.keys, &buckets, found);
        Config {
            data_dir,
            server: server(&self.server, found),
            log: log(&self.log, found),
            engine,
            default_placement,
            default_names,
            backends,
            buckets,
            keys,
            rate: protection::rate(&self.rate, found),
            workers: workers::check(&self.workers, found),
            _checked: Checked,
        }
    }
}

fn is_durable(backend: &BackendSettings) -> bool {
    service(&backend.service).is_none_or(|service| service.durable)
}

fn data_dir(raw: &Option<Spot<String>>, found: &mut Findings) -> PathBuf {
    let Some(dir) = raw else { return PathBuf::new() };
    if !Path::new(&dir.value).is_absolute() {
        found.wrong_hint(
            dir.at,
            format!("`data_dir` is `{}`, it must be an absolute path", dir.value),
            "it must not depend on where larder was started",
        );
    }
    PathBuf::from(&dir.value)
}

fn server(raw: &RawServer, found: &mut Findings) -> Server {
    let listen = address(&raw.listen, "listen", LISTEN, found);
    let admin_listen = address(&raw.admin_listen, "admin_listen", ADMIN_LISTEN, found);
    let overlap = listen.ip() == admin_listen.ip()
        || listen.ip().is_unspecified()
        || admin_listen.ip().is_unspecified();
    if listen.port() == admin_listen.port() && listen.port() != 0 && overlap {
        let at = raw.admin_listen.as_ref().or(raw.listen.as_ref()).map(|spot| spot.at);
        found.wrong_hint(
            at,
            format!("`listen` and `admin_listen` both take port {}", listen.port()),
            "S3 and the operator's surface are two listeners; give them two ports",
        );
    }
    let memory = bounded(&raw.memory, "memory", MEMORY_RANGE, bytes, found);
    let shutdown = &raw.shutdown_timeout;
    let shutdown = bounded(shutdown, "shutdown_timeout", SHUTDOWN_RANGE, seconds, found);
    let post_form_max = &raw.post_form_max;
    let post_form_max = bounded(post_form_max, "post_form_max", POST_FORM_RANGE, bytes, found);
    Server {
        listen,
        admin_listen,
        region: region(&raw.region, found),
        domain: domain(&raw.domain, found),
        memory: memory.unwrap_or_else(memory::default_budget),
        shutdown_timeout: shutdown.unwrap_or(SHUTDOWN_TIMEOUT),
        post_form_max: post_form_max.unwrap_or(POST_FORM_MAX),
    }
}

fn address(
    raw: &Option<Spot<String>>,
    key: &str,
    default: SocketAddr,
    found: &mut Findings,
) -> SocketAddr {
    let Some(text) = raw else { return default };
    text.value.parse().unwrap_or_else(|_| {
        let port = text.value.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = port.unwrap_or(default.port());
        found.wrong_hint(
            text.at,
            format!("`{key}` is `{}`, it must be an IP address and a port", text.value),
            format!("\"127.0.0.1:{port}\" for this machine only, \"0.0.0.0:{port}\" for all"),
        );
        default
    })
}

fn region(raw: &Option<Spot<String>>, found: &mut Findings) -> String {
    let Some(text) = raw else { return REGION.to_owned() };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let fits = (1..=REGION_LEN_MAX).contains(&text.value.len());
    if !fits || !text.value.bytes().all(plain) {
        found.wrong_hint(
            text.at,
            format!("`region` is `{}`, it must be a name of letters, digits and `-`", text.value),
            format!("clients sign with it; most expect \"{REGION}\""),
        );
    }
    text.value.clone()
}

fn domain(raw: &Option<Spot<String>>, found: &mut Findings) -> Option<String> {
    let text = raw.as_ref().filter(|text| !text.value.is_empty())?;
    let name = text.value.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = name.parse::<Ipv4Addr>().is_ok();
    if name.len() > 253 || is_address || !name.split('.').all(is_label) {
        found.wrong_hint(
            text.at,
            format!("`domain` is `{}`, it must be a host name", text.value),
            "such as \"s3.example.org\", without scheme and port",
        );
    }
    Some(name)
}

fn log(raw: &RawLog, found: &mut Findings) -> Log {
    let levels = LogLevel::ALL.map(|level| (level.name(), level));
    let formats = LogFormat::ALL.map(|format| (format.name(), format));
    Log {
        level: choice(&raw.level, "level", &levels, found).unwrap_or(LogLevel::Info),
        format: choice(&raw.format, "format", &formats, found).unwrap_or(LogFormat::Auto),
    }
}

fn default_placement(raw: &RawDefaults, found: &mut Findings) -> Placement {
    let base = Placement {
        replicas: 1,
        min_replicas: 1,
        routing: Routing::Pack,
        require_distinct: Vec::new(),
    };
    placement::read(&raw.placement, &base, found)
}

fn engine(raw: &RawDefaults, admission: AdmissionSettings, found: &mut Findings) -> EngineSettings {
    let blob_max = bounded(&raw.blob_max_size, "blob_max_size", BLOB_RANGE, bytes, found);
    let tail_wait = bounded(&raw.tail_wait, "tail_wait", TAIL_WAIT_RANGE, seconds, found);
    EngineSettings {
        blob_max: blob_max.unwrap_or(BLOB_MAX),
        same_device: raw.same_device.as_ref().is_some_and(|flag| flag.value),
        tail_wait: tail_wait.unwrap_or(TAIL_WAIT),
        admission,
    }
}

fn timeouts(raw: &RawTimeouts, found: &mut Findings) -> Timeouts {
    let mut timeout = |raw, key| bounded(raw, key, TIMEOUT_RANGE, seconds, found);
    Timeouts {
        connect: timeout(&raw.connect, "connect").unwrap_or(TIMEOUTS.connect),
        first_byte: timeout(&raw.first_byte, "first_byte").unwrap_or(TIMEOUTS.first_byte),
        stall: timeout(&raw.stall, "stall").unwrap_or(TIMEOUTS.stall),
    }
}

/// Large bodies are cut into blobs of `blob_max`, or of what `min_replicas` backends take where that
/// is less. Where fewer than `replicas` take such a blob, large objects have fewer replicas.
fn blob_sizes(
    holders: &Holders<'_>,
    blob_max: u64,
    placement: &Placement,
    raw: &RawDefaults,
    found: &mut Findings,
) {
    let mut limits: Vec<u64> = holders.durable.iter().map(|backend| backend.blob_max).collect();
    limits.sort_unstable_by(|a, b| b.cmp(a));
    let least = limits.get(placement.min_replicas.saturating_sub(1) as usize);
    let cut = least.map_or(blob_max, |limit| blob_max.min(*limit));
    let at = raw.blob_max_size.as_ref().map(|spot| spot.at).or(raw.at);
    let (able, wanted) = (limits.iter().filter(|limit| **limit >= cut).count(), placement.replicas);
    if holders.is_partial {
        return;
    }
    let smallest = limits.last().map_or(cut, |limit| cut.min(*limit));
    let hint = format!("set `blob_max_size = \"{}\"` in [defaults]", ByteSize(smallest));
    if able < limits.len() && able < wanted as usize {
        let text = format!(
            "blobs may have {}, but only {able} of the backends take one of that size, and \
             `replicas` is {wanted}",
            ByteSize(cut)
        );
        found.doubtful(at, text, hint);
    } else if cut < blob_max && raw.blob_max_size.is_some() {
        let text = format!(
            "`blob_max_size` is {}, but too few backends take that for `min_replicas`: blobs will \
             have at most {}",
            ByteSize(blob_max),
            ByteSize(cut)
        );
        found.doubtful(at, text, hint);
    }
}

/// The value that `raw` names among `choices`; `None` when it names none, which is noted, or is
/// not there or empty.
pub(crate) fn choice<T: Copy>(
    raw: &Option<Spot<String>>,
    key: &str,
    choices: &[(&str, T)],
    found: &mut Findings,
) -> Option<T> {
    let text = raw.as_ref().filter(|text| !text.value.is_empty())?;
    let chosen = choices.iter().find(|(name, _)| *name == text.value);
    if chosen.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(&text.value, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of \"{}\"", names.join("\", \"")),
        };
        found.wrong_hint(text.at, format!("`{key}` cannot be `{}`", text.value), hint);
    }
    chosen.map(|(_, value)| *value)
}

/// The value, when it is there and within `range`; outside is noted.
pub(crate) fn bounded<T: Copy + PartialOrd>(
    raw: &Option<Spot<T>>,
    key: &str,
    range: RangeInclusive<T>,
    shown: fn(T) -> String,
    found: &mut Findings,
) -> Option<T> {
    let spot = raw.as_ref()?;
    if !range.contains(&spot.value) {
        let (least, most) = (shown(*range.start()), shown(*range.end()));
        let value = shown(spot.value);
        found.wrong(spot.at, format!("`{key}` is {value}, it can be {least} to {most}"));
        return None;
    }
    Some(spot.value)
}

pub(crate) fn bytes(value: u64) -> String {
    ByteSize(value).to_string()
}

/// A number as it is.
pub(crate) fn plain(value: f64) -> String {
    value.to_string()
}

pub(crate) fn seconds(value: Duration) -> String {
    format!("{} s", value.as_secs_f64())
}
