//! Every name that the configuration file knows. Any other is refused: a setting that is silently
//! ignored is worse than one that is not there.

/// A key of a table.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// `<name>_file` is known as well and reads the value from a file.
    pub(crate) secret: bool,
}

const fn now(name: &'static str) -> Key {
    Key { name, secret: false }
}

const fn secret(name: &'static str) -> Key {
    Key { name, secret: true }
}

pub(crate) const FILE: &[Key] = &[
    now("data_dir"),
    now("server"),
    now("log"),
    now("defaults"),
    now("backend"),
    now("timeouts"),
    now("bucket"),
    now("key"),
    now("breaker"),
    now("admission"),
    now("rate_limit"),
    now("profile"),
    now("worker"),
];

pub(crate) const SERVER: &[Key] = &[
    now("listen"),
    now("admin_listen"),
    now("region"),
    now("domain"),
    now("memory"),
    now("shutdown_timeout"),
    now("post_form_max"),
];

pub(crate) const LOG: &[Key] = &[now("level"), now("format")];

pub(crate) const DEFAULTS: &[Key] = &[
    now("replicas"),
    now("min_replicas"),
    now("routing"),
    now("names"),
    now("blob_max_size"),
    now("same_device"),
    now("tail_wait"),
    now("require_distinct"),
];

pub(crate) const BACKEND: &[Key] = &[
    now("name"),
    now("service"),
    now("options"),
    now("quota"),
    now("keep_free"),
    now("names"),
    now("blob_max_size"),
    now("labels"),
    now("min_age"),
    now("account"),
    now("profile"),
    now("limits"),
    now("bandwidth"),
];

pub(crate) const LIMITS: &[Key] = &[
    now("requests_month"),
    now("egress_month"),
    now("ingress_month"),
    now("requests_day"),
    now("egress_day"),
    now("ingress_day"),
    now("background_share"),
];

pub(crate) const BANDWIDTH: &[Key] = &[now("up"), now("down")];

pub(crate) const TIMEOUTS: &[Key] = &[now("connect"), now("first_byte"), now("stall")];

pub(crate) const BREAKER: &[Key] =
    &[now("failures"), now("open"), now("probe_timeout"), now("absent_after")];

pub(crate) const ADMISSION: &[Key] =
    &[now("reads"), now("writes"), now("worker_share"), now("wait"), now("shed_from")];

pub(crate) const RATE_LIMIT: &[Key] = &[
    now("per_address"),
    now("per_address_burst"),
    now("per_key"),
    now("per_key_burst"),
    now("trusted_proxies"),
    now("addresses_max"),
];

pub(crate) const PROFILE: &[Key] = &[now("classes"), now("day_begins"), now("prices")];

pub(crate) const PRICES: &[Key] =
    &[now("a"), now("b"), now("c"), now("egress_gb"), now("ingress_gb"), now("stored_gb_month")];

pub(crate) const BUCKET: &[Key] = &[
    now("name"),
    now("replicas"),
    now("min_replicas"),
    now("routing"),
    now("require_distinct"),
    now("max_uploads"),
    now("quota"),
    now("import"),
    now("lifecycle"),
];

pub(crate) const RULE: &[Key] = &[
    now("id"),
    now("prefix"),
    now("tags"),
    now("larger_than"),
    now("smaller_than"),
    now("expire_after"),
    now("expire_on"),
    now("abort_uploads_after"),
    now("enabled"),
];

pub(crate) const KEY: &[Key] = &[now("id"), secret("secret"), now("create_buckets"), now("grants")];

pub(crate) const GRANT: &[Key] = &[now("bucket"), now("prefix"), now("preset"), now("allow")];

pub(crate) const WORKERS: &[Key] = &[
    now("cleanup"),
    now("pending_reaper"),
    now("replicator"),
    now("over_replication"),
    now("rebalancer"),
    now("reconciler"),
    now("scrubber"),
    now("lifecycle"),
    now("drain"),
];

/// What every worker has.
pub(crate) const WORKER: &[Key] =
    &[now("enabled"), now("interval"), now("batch"), now("concurrency")];

pub(crate) const REBALANCER: &[Key] = &[
    now("enabled"),
    now("interval"),
    now("batch"),
    now("concurrency"),
    now("strategy"),
    now("threshold"),
];

pub(crate) const RECONCILER: &[Key] =
    &[now("enabled"), now("interval"), now("batch"), now("concurrency"), now("local_interval")];

pub(crate) const SCRUBBER: &[Key] = &[
    now("enabled"),
    now("interval"),
    now("batch"),
    now("concurrency"),
    now("pass"),
    now("rate"),
    now("window"),
];

/// Every table of the file with the keys that it may have.
pub(crate) const TABLES: &[(&str, &[Key])] = &[
    (TOP, FILE),
    ("[server]", SERVER),
    ("[log]", LOG),
    ("[defaults]", DEFAULTS),
    ("[[backend]]", BACKEND),
    ("[backend.limits]", LIMITS),
    ("[backend.bandwidth]", BANDWIDTH),
    ("[timeouts]", TIMEOUTS),
    ("[breaker]", BREAKER),
    ("[admission]", ADMISSION),
    ("[rate_limit]", RATE_LIMIT),
    ("[profile.NAME]", PROFILE),
    ("[profile.NAME] prices", PRICES),
    ("[[bucket]]", BUCKET),
    ("[[bucket]] lifecycle", RULE),
    ("[[key]]", KEY),
    ("[[key]] grants", GRANT),
    ("[worker]", WORKERS),
    ("[worker.NAME]", WORKER),
    ("[worker.rebalancer]", REBALANCER.split_at(WORKER.len()).1),
    ("[worker.reconciler]", RECONCILER.split_at(WORKER.len()).1),
    ("[worker.scrubber]", SCRUBBER.split_at(WORKER.len()).1),
];

const TOP: &str = "the top of the file, before the first [table]";

/// The tables to which `name` belongs, for a key that stands in a wrong one.
pub(crate) fn homes(name: &str) -> Vec<&'static str> {
    let has = |keys: &[Key]| keys.iter().any(|key| key.name == name);
    TABLES.iter().filter(|(_, keys)| has(keys)).map(|(title, _)| *title).collect()
}

/// The name among `names` that `wrong` was probably meant to be.
pub(crate) fn nearest<'n>(
    wrong: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    names
        .into_iter()
        .map(|name| (distance(&wrong, &name.to_ascii_lowercase().replace('-', "_")), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: [Vec<usize>; 3] = [vec![0; b.len() + 1], (0..=b.len()).collect(), vec![]];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            row.push(best);
        }
        rows = [std::mem::take(&mut rows[1]), row, vec![]];
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let near = |wrong: &str| nearest(wrong, SERVER.iter().map(|key| key.name));
        assert_eq!(near("listn"), Some("listen"));
        assert_eq!(near("lisetn"), Some("listen"));
        assert_eq!(near("admin-listen"), Some("admin_listen"));
        assert_eq!(near("Region"), Some("region"));
        assert_eq!(near("post_from_max"), Some("post_form_max"));
        assert_eq!(near("colour"), None);
        assert_eq!(nearest("", ["a"]), Some("a"));
    }

    #[test]
    fn distances_are_symmetric_counts_of_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }
}
