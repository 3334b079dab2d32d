//! How a backend's provider counts: what is compiled in, and what the owner says instead.

use std::collections::BTreeMap;

use super::finding::Findings;
use super::providers::provider;
use super::providers::providers;
use super::reader::Spot;
use super::schema::nearest;
use crate::backend::Prices;
use crate::backend::Profile;
use crate::model::Class;
use crate::model::DayBegins;

/// The operations of S3 that Larder's requests can be, as `classes` names them.
const OPERATIONS: &[&str] = &[
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateMultipartUpload",
    "DeleteObject",
    "DeleteObjects",
    "GetObject",
    "HeadObject",
    "ListMultipartUploads",
    "ListObjectVersions",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "PutObject",
    "UploadPart",
    "UploadPartCopy",
];
const NAME_LEN_MAX: usize = 64;
/// In any currency, of anything that is priced.
const PRICE_MAX: f64 = 1e9;
pub(crate) const MINUTES_A_DAY: u16 = 24 * 60;

/// `[profile.NAME]` as it is written.
pub(crate) struct RawProfile {
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) classes: BTreeMap<String, Spot<String>>,
    pub(crate) day_begins: Option<Spot<String>>,
    pub(crate) prices: RawPrices,
}

#[derive(Default)]
pub(crate) struct RawPrices {
    /// For a thousand requests of class a, b and c.
    pub(crate) classes: [Option<Spot<f64>>; 3],
    pub(crate) egress_gb: Option<Spot<f64>>,
    pub(crate) ingress_gb: Option<Spot<f64>>,
    pub(crate) stored_gb_month: Option<Spot<f64>>,
}

/// All profiles that the file describes, each on top of the compiled-in one of its name.
pub(crate) fn check(raws: &[RawProfile], found: &mut Findings) -> BTreeMap<String, Profile> {
    let mut profiles = BTreeMap::new();
    for raw in raws {
        if raw.name.is_empty() || raw.name.len() > NAME_LEN_MAX {
            let text = format!("the name of a profile has 1 to {NAME_LEN_MAX} characters");
            found.wrong(raw.at, text);
        }
        let base = compiled(&raw.name).unwrap_or_default();
        profiles.insert(raw.name.clone(), read(raw, base, found));
    }
    profiles
}

fn read(raw: &RawProfile, base: Profile, found: &mut Findings) -> Profile {
    let mut profile = Profile { name: raw.name.clone(), ..base };
    for (operation, class) in &raw.classes {
        if let Some(near) =
            nearest(operation, OPERATIONS.iter().copied()).filter(|near| near != operation)
        {
            let text = format!("`{operation}` is probably no operation");
            found.doubtful(class.at, text, format!("did you mean `{near}`?"));
        }
        match Class::ALL.into_iter().find(|known| known.name() == class.value) {
            Some(class) => _ = profile.classes.insert(operation.clone(), class),
            None => {
                let text = format!("the class of `{operation}` cannot be `{}`", class.value);
                found.wrong_hint(class.at, text, "one of \"a\", \"b\", \"c\", \"free\"");
            }
        }
    }
    if let Some(text) = raw.day_begins.as_ref().filter(|text| !text.value.is_empty()) {
        match minutes(&text.value) {
            Some(minutes) => profile.day_begins = DayBegins(minutes),
            None => found.wrong_hint(
                text.at,
                format!("`day_begins` is `{}`, it must be a time of day", text.value),
                "in UTC, such as \"08:00\"",
            ),
        }
    }
    let prices = &mut profile.prices;
    for (class, price) in Class::ALL.into_iter().zip(&raw.prices.classes) {
        set(&mut prices.thousand_calls[class as usize], price, found);
    }
    set(&mut prices.egress_gb, &raw.prices.egress_gb, found);
    set(&mut prices.ingress_gb, &raw.prices.ingress_gb, found);
    set(&mut prices.stored_gb_month, &raw.prices.stored_gb_month, found);
    profile
}

fn set(price: &mut Option<f64>, raw: &Option<Spot<f64>>, found: &mut Findings) {
    let Some(spot) = raw else { return };
    if (0.0..=PRICE_MAX).contains(&spot.value) {
        *price = Some(spot.value);
    } else {
        found.wrong(spot.at, format!("a price is {}, it can be 0 to {PRICE_MAX}", spot.value));
    }
}

/// `HH:MM`, as minutes after midnight.
pub(crate) fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let fits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// The profile that `raw` names; S3's own when it names none.
pub(crate) fn find(
    raw: &Option<Spot<String>>,
    own: &BTreeMap<String, Profile>,
    found: &mut Findings,
) -> Profile {
    let Some(name) = raw.as_ref().filter(|name| !name.value.is_empty()) else {
        return Profile::default();
    };
    if let Some(profile) = own.get(&name.value).cloned().or_else(|| compiled(&name.value)) {
        return profile;
    }
    let known: Vec<&str> =
        providers().iter().map(|p| p.id.as_str()).chain(own.keys().map(String::as_str)).collect();
    let hint = match nearest(&name.value, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known are {}; describe others in [profile.NAME]", known.join(", ")),
    };
    found.wrong_hint(name.at, format!("unknown profile `{}`", name.value), hint);
    Profile::default()
}

/// What `assets/providers.toml` says of a provider.
fn compiled(name: &str) -> Option<Profile> {
    let known = provider(name)?;
    let class = |text: &String| Class::ALL.into_iter().find(|class| class.name() == text);
    let classes = known.classes.iter();
    Some(Profile {
        name: known.id.clone(),
        classes: classes.filter_map(|(name, text)| Some((name.clone(), class(text)?))).collect(),
        day_begins: DayBegins(known.day_begins.as_deref().and_then(minutes).unwrap_or_default()),
        prices: Prices::default(),
    })
}

/// Whether any request falls into `class`, so that a limit on it can ever be reached.
pub(crate) fn uses(profile: &Profile, class: Class) -> bool {
    let named = profile.classes.values().any(|other| *other == class);
    named || OPERATIONS.iter().any(|name| profile.class(name) == class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compiled_in_profile_says_what_it_can() {
        for known in providers() {
            let profile = compiled(&known.id).unwrap();
            assert_eq!(profile.name, known.id);
            assert_eq!(profile.classes.len(), known.classes.len(), "{}", known.id);
            for text in known.day_begins.iter() {
                assert!(minutes(text).is_some(), "{}: {text}", known.id);
            }
        }
        assert_eq!(compiled("nobody"), None);
    }

    #[test]
    fn times_of_day_are_four_digits() {
        let known = [("00:00", 0), ("08:05", 485), ("23:59", MINUTES_A_DAY - 1)];
        for (text, at) in known {
            assert_eq!(minutes(text), Some(at), "{text}");
        }
        for wrong in ["", "8:00", "24:00", "12:60", "1200", "+1:00", "12:00:00", "ab:cd"] {
            assert_eq!(minutes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_class_is_used_while_a_request_is_left_in_it() {
        let mut profile = Profile::default();
        assert!(uses(&profile, Class::A) && uses(&profile, Class::B));
        assert!(!uses(&profile, Class::C));
        profile.classes.insert("GetObject".into(), Class::Free);
        assert!(uses(&profile, Class::B));
        profile.classes.insert("HeadObject".into(), Class::C);
        assert!(!uses(&profile, Class::B) && uses(&profile, Class::C));
    }
}
