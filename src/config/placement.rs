//! Wishes for replicas, checked against the backends that there are.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::check::choice;
use super::finding::Findings;
use super::raw::RawPlacement;
use super::schema::nearest;
use crate::backend::BackendSettings;
use crate::base::limits::REPLICAS_MAX;
use crate::model::Placement;
use crate::model::Routing;

pub(crate) const ROUTINGS: &[(&str, Routing)] =
    &[("pack", Routing::Pack), ("spread", Routing::Spread)];

/// What `raw` says, and `base` where it says nothing. A wish that cannot be is noted and replaced
/// by that of `base`.
pub(crate) fn read(raw: &RawPlacement, base: &Placement, found: &mut Findings) -> Placement {
    let mut placement = base.clone();
    if let Some(replicas) = &raw.replicas {
        if (1..=REPLICAS_MAX).contains(&replicas.value) {
            placement.replicas = replicas.value;
        } else {
            let value = replicas.value;
            let text = format!("`replicas` is {value}, it can be 1 to {REPLICAS_MAX}");
            found.wrong(replicas.at, text);
        }
    }
    if let Some(min_replicas) = &raw.min_replicas {
        placement.min_replicas = min_replicas.value;
    }
    if !(1..=placement.replicas).contains(&placement.min_replicas) {
        let (min, most) = (placement.min_replicas, placement.replicas);
        let at = raw.min_replicas.as_ref().or(raw.replicas.as_ref()).map(|spot| spot.at);
        let hint = match &raw.min_replicas {
            Some(_) => "a write is acknowledged when so many of its replicas are durable",
            None => "min_replicas comes from [defaults]; set it here as well",
        };
        let text = format!("`min_replicas` is {min}, it can be 1 to `replicas`, which is {most}");
        found.wrong_hint(at, text, hint);
        placement.min_replicas = min.clamp(1, most);
    }
    if let Some(routing) = choice(&raw.routing, "routing", ROUTINGS, found) {
        placement.routing = routing;
    }
    if let Some(labels) = &raw.require_distinct {
        let mut wanted = BTreeSet::new();
        for label in &labels.value {
            if !wanted.insert(label.value.clone()) {
                found.wrong(label.at, format!("`{}` is given twice", label.value));
            }
        }
        placement.require_distinct = wanted.into_iter().collect();
    }
    placement
}

/// The backends, as far as wishes depend on them.
pub(crate) struct Holders<'a> {
    /// Those that count towards `min_replicas`.
    pub(crate) durable: Vec<&'a BackendSettings>,
    pub(crate) all: &'a [BackendSettings],
    /// The backends could not all be read, so nothing can be said of what is missing.
    pub(crate) is_partial: bool,
    pub(crate) same_device: bool,
}

impl Holders<'_> {
    /// Notes what of `wish` these backends cannot fulfil. `at` is where the wish stands.
    pub(crate) fn check(
        &self,
        wish: &Placement,
        raw: &RawPlacement,
        at: Option<usize>,
        found: &mut Findings,
    ) {
        if self.is_partial || !self.knows_labels(raw, found) {
            return;
        }
        let at_replicas = raw.replicas.as_ref().map(|spot| spot.at).or(at);
        let at_min = raw.min_replicas.as_ref().map(|spot| spot.at).or(at_replicas);
        let (min, wanted) = (wish.min_replicas as usize, wish.replicas as usize);
        let durable = self.durable.len();
        let distinct = self.distinct(&wish.require_distinct);
        if min > durable {
            found.wrong_hint(
                at_min,
                format!("`min_replicas` is {min}, but {} towards it", counted(durable)),
                "add a backend or lower it; a `memory` backend keeps nothing and does not count",
            );
        } else if min > distinct {
            let differ = differing(distinct, &wish.require_distinct);
            found.wrong_hint(
                at_min,
                format!("`min_replicas` is {min}, but {differ}"),
                "add a backend with another value of the label, or require less",
            );
        } else if wanted > self.all.len() {
            let count = match self.all.len() {
                1 => "there is only 1 backend".to_owned(),
                n => format!("there are only {n} backends"),
            };
            found.doubtful(
                at_replicas,
                format!("`replicas` is {wanted}, but {count}"),
                "the wish is kept and met when a backend comes",
            );
        } else if wanted > distinct {
            let differ = differing(distinct, &wish.require_distinct);
            found.doubtful(
                at_replicas,
                format!("`replicas` is {wanted}, but {differ}"),
                "the wish is kept and met when a backend with another value comes",
            );
        } else if wanted > self.devices() && !self.same_device {
            let devices = match self.devices() {
                1 => "1 device".to_owned(),
                n => format!("{n} devices"),
            };
            found.doubtful(
                at_replicas,
                format!(
                    "`replicas` is {wanted}, but the backends are on {devices}, and two \
                     directories on one device count as one place"
                ),
                "add another disk, or set `same_device = true` in [defaults]",
            );
        }
    }

    /// Notes labels that no backend has.
    fn knows_labels(&self, raw: &RawPlacement, found: &mut Findings) -> bool {
        let known = || self.all.iter().flat_map(|backend| backend.labels.keys());
        let mut all_known = true;
        for label in raw.require_distinct.iter().flat_map(|labels| &labels.value) {
            if known().any(|name| *name == label.value) {
                continue;
            }
            all_known = false;
            let hint = match nearest(&label.value, known().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("give backends `labels = {{ {} = \"...\" }}`", label.value),
            };
            found.wrong_hint(label.at, format!("no backend has the label `{}`", label.value), hint);
        }
        all_known
    }

    /// The most durable backends that can differ in all of `labels`. A backend without a label
    /// differs from every other for this, so that nothing possible is refused.
    fn distinct(&self, labels: &[String]) -> usize {
        let differing = |label: &String| {
            let values: Vec<_> = self.durable.iter().map(|b| b.labels.get(label)).collect();
            let named: BTreeSet<_> = values.iter().flatten().collect();
            named.len() + values.iter().filter(|value| value.is_none()).count()
        };
        labels.iter().map(differing).min().unwrap_or(self.durable.len())
    }

    /// How many devices the backends are on; whatever is not local is one of its own.
    fn devices(&self) -> usize {
        let devices: Vec<_> = self.all.iter().map(device).collect();
        let local: BTreeSet<_> = devices.iter().flatten().collect();
        local.len() + devices.iter().filter(|device| device.is_none()).count()
    }
}

fn counted(backends: usize) -> String {
    match backends {
        0 => "no backend counts".to_owned(),
        1 => "only 1 backend counts".to_owned(),
        n => format!("only {n} backends count"),
    }
}

fn differing(backends: usize, labels: &[String]) -> String {
    let labels = labels.join("`, `");
    match backends {
        0 | 1 => format!("no two backends differ in `{labels}`"),
        n => format!("only {n} backends differ in `{labels}`"),
    }
}

/// Of the root, or of the nearest directory above it that exists.
fn device(backend: &BackendSettings) -> Option<u64> {
    if backend.service != "fs" {
        return None;
    }
    let root = Path::new(backend.options.get("root")?);
    root.ancestors().find_map(|dir| std::fs::metadata(dir).ok()).map(|found| found.dev())
}
