//! Backends as the file names them: each one alone, and where their bytes lie.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::bandwidth;
use super::check::NAMES;
use super::check::bounded;
use super::check::bytes;
use super::check::choice;
use super::check::seconds;
use super::finding::Findings;
use super::limits;
use super::profile;
use super::raw::RawBackend;
use super::reader::Spot;
use super::schema::nearest;
use crate::backend::BackendSettings;
use crate::backend::BreakerSettings;
use crate::backend::Profile;
use crate::backend::ServiceTraits;
use crate::backend::Timeouts;
use crate::backend::service;
use crate::backend::services;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::BLOB_SIZE_MIN;
use crate::model::Names;

const NAME_LEN_MAX: usize = 64;
const LABEL_LEN_MAX: usize = 128;
/// The longest that a provider charges for is a year, for archives.
const MIN_AGE_RANGE: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(10 * 365 * 86_400);
/// Services that are there only with a cargo feature.
const FEATURES: &[(&str, &[&str])] = &[
    ("cloud", &["azblob", "b2", "dropbox", "gcs", "gdrive", "onedrive", "webdav"]),
    (
        "more-clouds",
        &["azdls", "azfile", "cos", "koofr", "obs", "oss", "pcloud", "seafile", "swift", "webhdfs"],
    ),
];
/// The option that shows a service whose account is known by a token, and what such a one needs.
const TOKEN: &str = "refresh_token";
const TOKENS: &[&[&str]] = &[&["access_token"], &[TOKEN, "client_id"]];
/// Options that are secrets and yet say whose room it is, where nothing else does.
const TOKEN_PLACE: &[&str] = &["access_token", TOKEN];

/// What the file says once for all backends.
pub(crate) struct Common {
    pub(crate) names: Names,
    pub(crate) timeouts: Timeouts,
    pub(crate) breaker: BreakerSettings,
    pub(crate) absent_after: Option<Duration>,
    /// Described in the file, by name.
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// The backends that could be read, in order, and a note for whatever is wrong with any.
pub(crate) fn check(
    raws: &[RawBackend],
    common: &Common,
    found: &mut Findings,
) -> Vec<BackendSettings> {
    let mut backends = Vec::new();
    for (i, raw) in raws.iter().enumerate() {
        check_name(raw, &raws[..i], found);
        check_labels(raw, found);
        let service = raw.service.as_ref().and_then(|service| find_service(service, found));
        if let Some(service) = service {
            check_options(raw, service, found);
        }
        let names = choice(&raw.names, "names", NAMES, found).unwrap_or(common.names);
        let quota = sizes_but_zero(&raw.quota, "quota", found);
        let blob_max = blob_max(raw, service, found);
        let min_age = bounded(&raw.min_age, "min_age", MIN_AGE_RANGE, seconds, found);
        let profile = profile::find(&raw.profile, &common.profiles, found);
        let limits = limits::check(&raw.limits, &profile, found);
        let account = limits::account(&raw.account, found);
        let bandwidth = bandwidth::check(&raw.bandwidth, found);
        let (Some(name), Some(service)) = (&raw.name, service) else { continue };
        backends.push(BackendSettings {
            name: name.value.clone(),
            service: service.scheme.to_owned(),
            options: values(&raw.options),
            quota,
            keep_free: raw.keep_free.as_ref().map(|spot| spot.value),
            names,
            blob_max,
            labels: values(&raw.labels),
            min_age: min_age.unwrap_or_default(),
            timeouts: common.timeouts,
            breaker: common.breaker,
            absent_after: common.absent_after.unwrap_or(service.absent_after()),
            account,
            limits,
            profile,
            bandwidth,
        });
    }
    limits::share(&mut backends, raws, found);
    backends
}

fn values(spots: &BTreeMap<String, Spot<String>>) -> BTreeMap<String, String> {
    spots.iter().map(|(name, spot)| (name.clone(), spot.value.clone())).collect()
}

/// A quota of nothing would only be a way to write that nothing fits.
pub(crate) fn sizes_but_zero(
    raw: &Option<Spot<u64>>,
    key: &str,
    found: &mut Findings,
) -> Option<u64> {
    let spot = raw.as_ref()?;
    if spot.value == 0 {
        let text = format!("`{key}` is 0, so nothing would fit");
        found.wrong_hint(spot.at, text, "leave it out for no limit");
    }
    Some(spot.value)
}

fn check_name(raw: &RawBackend, earlier: &[RawBackend], found: &mut Findings) {
    let Some(name) = &raw.name else { return };
    let plain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if name.value.len() > NAME_LEN_MAX || !name.value.bytes().all(plain) {
        found.wrong_hint(
            name.at,
            format!("`{}` is not the name of a backend", name.value),
            format!("a name has 1 to {NAME_LEN_MAX} of a-z, 0-9, `.`, `_` and `-`"),
        );
    }
    let same = |other: &RawBackend| other.name.as_ref().is_some_and(|o| o.value == name.value);
    if earlier.iter().any(same) {
        let text = format!("two backends have the name `{}`", name.value);
        found.wrong_hint(name.at, text, "a name is a label of your choice; give each its own");
    }
}

fn check_labels(raw: &RawBackend, found: &mut Findings) {
    for (label, spot) in &raw.labels {
        if label.is_empty() || spot.value.is_empty() {
            found.wrong(spot.at, "a label has a name and a value");
        } else if label.len() > LABEL_LEN_MAX || spot.value.len() > LABEL_LEN_MAX {
            found.wrong(
                spot.at,
                format!("the label `{label}` is longer than {LABEL_LEN_MAX} bytes"),
            );
        }
    }
}

fn find_service(raw: &Spot<String>, found: &mut Findings) -> Option<ServiceTraits> {
    let known = service(&raw.value);
    if known.is_some() {
        return known;
    }
    if let Some((feature, _)) = FEATURES.iter().find(|(_, of)| of.contains(&raw.value.as_str())) {
        found.wrong_hint(
            raw.at,
            format!("the service `{}` is not compiled into this larder", raw.value),
            format!("build it with `cargo build --release --features {feature}`"),
        );
        return None;
    }
    let hint = match nearest(&raw.value, services()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("this larder knows {}", services().join(", ")),
    };
    found.wrong_hint(raw.at, format!("unknown service `{}`", raw.value), hint);
    None
}

/// What is missing when `has` says which options are there, in words.
fn missing(service: &ServiceTraits, has: impl Fn(&str) -> bool) -> Vec<String> {
    let required = service.required.iter().filter(|name| !has(name));
    let mut missing: Vec<String> = required.map(|name| format!("`{name}`")).collect();
    let has_all = |set: &&[&str]| set.iter().all(|name| has(name));
    if service.secret.contains(&TOKEN) && !TOKENS.iter().any(has_all) {
        let sets: Vec<String> =
            TOKENS.iter().map(|set| format!("`{}`", set.join("` and `"))).collect();
        missing.push(sets.join(", or "));
    }
    missing
}

fn check_options(raw: &RawBackend, service: ServiceTraits, found: &mut Findings) {
    let is_empty = |name: &str| raw.options.get(name).is_some_and(|o| o.value.is_empty());
    let has = |name: &str| raw.option_names.iter().any(|n| n == name) && !is_empty(name);
    for missing in missing(&service, has) {
        found.wrong_hint(
            raw.at,
            format!("the service `{}` needs the option {missing}", service.scheme),
            "add it to `options`; a name with `_file` appended reads it from a file",
        );
    }
    check_names(raw, &service, found);
    if service.scheme != "fs" {
        if let Some(keep_free) = &raw.keep_free {
            let text = "`keep_free` is for local directories (service \"fs\") only";
            found.wrong_hint(keep_free.at, text, "use `quota`");
        }
        return;
    }
    if let Some(root) = raw.options.get("root").filter(|root| !root.value.is_empty()) {
        let path = Path::new(&root.value);
        if !path.is_absolute() {
            let text = format!("`root` is `{}`, it must be an absolute path", root.value);
            found.wrong_hint(root.at, text, "it must not depend on where larder was started");
        } else if path.components().any(|part| part == Component::ParentDir) {
            found.wrong(root.at, format!("`root` is `{}`, it must not go up by `..`", root.value));
        }
    }
}

/// A name that is nearly that of an option is meant to be it. Any other may be one that we do not
/// know of.
fn check_names(raw: &RawBackend, service: &ServiceTraits, found: &mut Findings) {
    let known = [service.required, service.secret, service.place, service.other.unwrap_or(&[])];
    for name in raw.option_names.iter().filter(|name| !service.knows(name)) {
        let at = raw.options.get(name).map_or(raw.at, |spot| Some(spot.at));
        let text = format!("the service `{}` has no option `{name}`", service.scheme);
        match nearest(name, known.into_iter().flatten().copied()) {
            Some(near) => found.wrong_hint(at, text, format!("did you mean `{near}`?")),
            None => {
                found.doubtful(
                    at,
                    text,
                    "it is handed to OpenDAL, which passes over what it does not know",
                );
            }
        }
    }
}

fn blob_max(raw: &RawBackend, service: Option<ServiceTraits>, found: &mut Findings) -> u64 {
    let most = service.map_or(BLOB_SIZE_MAX, |service| service.blob_max());
    let range = BLOB_SIZE_MIN..=most;
    bounded(&raw.blob_max_size, "blob_max_size", range, bytes, found).unwrap_or(most)
}

/// Notes backends of which one lies in another, and those that hold the data directory.
pub(crate) fn check_places(raws: &[RawBackend], data_dir: &Path, found: &mut Findings) {
    let places: Vec<Place> = raws.iter().filter_map(Place::of).collect();
    for (i, place) in places.iter().enumerate() {
        if place.scheme == "fs" && place.root_holds(&real(data_dir)) {
            let dir = data_dir.display();
            found.wrong_hint(
                place.at,
                format!("the data directory `{dir}` lies in the root of `{}`", place.name),
                "give the backend a directory of its own",
            );
        }
        for other in &places[..i] {
            if other.whose != place.whose {
                continue;
            }
            let (holds, held) = (other.root_holds(&place.root), place.root_holds(&other.root));
            let (one, two) = (other.name, place.name);
            let text = match (holds, held) {
                (true, true) => format!("`{two}` has the same root as `{one}`"),
                (true, false) => format!("the root of `{two}` lies in that of `{one}`"),
                (false, true) => format!("the root of `{two}` holds that of `{one}`"),
                (false, false) => continue,
            };
            found.wrong_hint(
                place.at,
                text,
                "replicas in one place are lost together; give each backend a root of its own",
            );
        }
    }
}

/// Where the bytes of one backend lie.
struct Place<'a> {
    name: &'a str,
    at: usize,
    scheme: &'static str,
    /// The options that say whose room it is: endpoint, bucket, account.
    whose: Vec<(&'static str, String)>,
    root: PathBuf,
}

impl<'a> Place<'a> {
    /// `None` when too little is known, and for `memory`, where each backend is one of its own.
    fn of(raw: &'a RawBackend) -> Option<Place<'a>> {
        let service = service(&raw.service.as_ref()?.value)?;
        let name = raw.name.as_ref()?;
        if service.scheme == "memory" {
            return None;
        }
        let mut whose = vec![("service", service.scheme.to_owned())];
        let tokens = if service.secret.contains(&TOKEN) { TOKEN_PLACE } else { &[] };
        for option in service.place.iter().filter(|name| **name != "root").chain(tokens) {
            let given = raw.options.get(*option);
            let given = given.map_or("", |spot| spot.value.trim_end_matches('/'));
            whose.push((option, given.to_ascii_lowercase()));
        }
        let root = raw.options.get("root");
        let at = root.map_or(name.at, |root| root.at);
        let root = root.map_or("", |root| root.value.as_str());
        let root = match service.scheme {
            "fs" if root.is_empty() => return None,
            "fs" => real(Path::new(root)),
            _ => Path::new("/").join(root.trim_start_matches('/')),
        };
        Some(Place { name: &name.value, at, scheme: service.scheme, whose, root })
    }

    fn root_holds(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    for dir in path.ancestors() {
        if let Ok(real) = dir.canonicalize() {
            return real.join(path.strip_prefix(dir).expect("an ancestor is a prefix"));
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_of_a_feature_is_named_with_it() {
        let of_features: Vec<&str> = FEATURES.iter().flat_map(|(_, of)| *of).copied().collect();
        for scheme in services() {
            let is_plain = ["fs", "memory", "s3"].contains(&scheme);
            assert!(is_plain != of_features.contains(&scheme), "{scheme}");
        }
    }

    #[test]
    fn a_service_says_what_it_misses() {
        let missing = |scheme: &str, has: &[&str]| {
            missing(&service(scheme).unwrap(), |name| has.contains(&name))
        };
        for scheme in services() {
            let service = service(scheme).unwrap();
            assert!(super::missing(&service, |_| true).is_empty(), "{scheme}");
        }
        assert_eq!(missing("s3", &["root", "region"]), ["`bucket`"]);
        assert!(missing("memory", &[]).is_empty());
        if cfg!(feature = "cloud") {
            let either = ["`access_token`, or `refresh_token` and `client_id`"];
            assert_eq!(missing("gdrive", &["refresh_token"]), either);
        }
    }
}
