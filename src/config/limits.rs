//! What the owner lets a backend use: `[backend.limits]`, and accounts that share it.

use std::collections::BTreeMap;

use super::check::bounded;
use super::check::plain;
use super::finding::Findings;
use super::profile;
use super::raw::RawBackend;
use super::reader::Spot;
use super::schema::nearest;
use crate::backend::BackendSettings;
use crate::backend::Profile;
use crate::model::Allowance;
use crate::model::Class;
use crate::model::Limits;

/// Requests of all classes together.
pub(crate) const ALL: &str = "all";
/// More than anybody sends in a month.
const REQUESTS_MAX: u64 = 1_000_000_000_000_000;
const ACCOUNT_LEN_MAX: usize = 64;

/// `[backend.limits]` as it is written.
pub(crate) struct RawLimits {
    pub(crate) at: Option<usize>,
    pub(crate) month: RawAllowance,
    pub(crate) day: RawAllowance,
    pub(crate) background_share: Option<Spot<f64>>,
}

pub(crate) struct RawAllowance {
    pub(crate) requests: BTreeMap<String, Spot<u64>>,
    pub(crate) egress: Option<Spot<u64>>,
    pub(crate) ingress: Option<Spot<u64>>,
}

pub(crate) fn check(raw: &RawLimits, profile: &Profile, found: &mut Findings) -> Limits {
    let share = bounded(&raw.background_share, "background_share", 0.0..=1.0, plain, found);
    Limits {
        month: allowance(&raw.month, profile, found),
        day: allowance(&raw.day, profile, found),
        background_share: share.unwrap_or(Limits::BACKGROUND_SHARE),
    }
}

/// 0 stands for no limit, as it does when nothing is said.
fn allowance(raw: &RawAllowance, profile: &Profile, found: &mut Findings) -> Allowance {
    let bytes = |spot: &Option<Spot<u64>>| spot.as_ref().map(|s| s.value).filter(|&most| most > 0);
    let mut allowance = Allowance {
        egress: bytes(&raw.egress),
        ingress: bytes(&raw.ingress),
        ..Allowance::default()
    };
    for (name, spot) in &raw.requests {
        let most = Some(spot.value).filter(|&most| most > 0);
        if spot.value > REQUESTS_MAX {
            let text = format!("`{name}` is {}, it can be 0 to {REQUESTS_MAX}", spot.value);
            found.wrong(spot.at, text);
        }
        if name == ALL {
            allowance.requests = most;
            continue;
        }
        let class = Class::ALL.into_iter().find(|class| class.name() == name);
        match class {
            None => unknown_class(name, spot.at, found),
            Some(Class::Free) => found.wrong_hint(
                spot.at,
                "what is free cannot be limited",
                "free requests are counted, and never refused",
            ),
            Some(class) => {
                if !profile::uses(profile, class) {
                    let whose = match profile.name.as_str() {
                        "" => "S3's own classes have".to_owned(),
                        name => format!("the profile `{name}` has"),
                    };
                    let text = format!("{whose} no request in class {name}");
                    found.doubtful(spot.at, text, "this limit will never be reached");
                }
                allowance.calls[class as usize] = most;
            }
        }
    }
    allowance
}

fn unknown_class(name: &str, at: usize, found: &mut Findings) {
    let known = [ALL, "a", "b", "c"];
    let hint = match nearest(name, known).filter(|_| name.len() > 1) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "the classes are `a`, `b` and `c`; `all` is for all of them together".to_owned(),
    };
    found.wrong_hint(at, format!("unknown class of requests `{name}`"), hint);
}

pub(crate) fn account(raw: &Option<Spot<String>>, found: &mut Findings) -> Option<String> {
    let spot = raw.as_ref().filter(|account| !account.value.is_empty())?;
    if spot.value.len() > ACCOUNT_LEN_MAX {
        found.wrong(spot.at, format!("`account` is longer than {ACCOUNT_LEN_MAX} bytes"));
    }
    Some(spot.value.clone())
}

/// Gives all backends of an account its limits, and notes where two of them contradict each other.
pub(crate) fn share(backends: &mut [BackendSettings], raws: &[RawBackend], found: &mut Findings) {
    let as_stated = backends.to_vec();
    for this in backends {
        let Some(account) = this.account.clone() else { continue };
        let states = |other: &&BackendSettings| {
            other.account.as_ref() == Some(&account) && other.limits != Limits::default()
        };
        let Some(first) = as_stated.iter().find(states) else { continue };
        let (one, two) = (&first.name, &this.name);
        let named = |raw: &&RawBackend| raw.name.as_ref().is_some_and(|name| name.value == *two);
        let raw = raws.iter().find(named);
        let at = raw.and_then(|raw| raw.limits.at.or(raw.account.as_ref().map(|spot| spot.at)));
        if this.limits != Limits::default() && this.limits != first.limits {
            found.wrong_hint(
                at,
                format!("`{one}` and `{two}` state different limits of the account `{account}`"),
                "state them at one of its backends; they hold for all of them together",
            );
        } else if first.limits.day != Allowance::default()
            && this.profile.day_begins != first.profile.day_begins
        {
            found.wrong_hint(
                at,
                format!("the days of `{one}` and `{two}` begin at different times"),
                "backends that share limits of a day need profiles with the same `day_begins`",
            );
        }
        this.limits = first.limits;
    }
}
