//! What is known of S3 providers in advance, as dated data that is compiled in.
//!
//! None of it is enforced: an allowance becomes a limit only where the owner's file says so, and an
//! owner who knows better says so in a `[profile.NAME]`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::Serialize;

use super::limits::ALL;

const DATA: &str = include_str!("../../assets/providers.toml");

static PROVIDERS: LazyLock<Vec<Provider>> = LazyLock::new(|| {
    let data: Data = toml::from_str(DATA).expect("a test holds the data against these types");
    data.provider
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    provider: Vec<Provider>,
}

/// One provider; the file says what each field is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub id: String,
    pub title: String,
    /// When the allowances were listed so.
    pub listed: String,
    endpoint: Option<String>,
    pub account: Option<String>,
    pub region: Option<String>,
    pub addressing: Addressing,
    #[serde(default, rename = "free")]
    pub allowances: Free,
    #[serde(default)]
    pub unlimited: Vec<String>,
    #[serde(default)]
    pub(super) classes: BTreeMap<String, String>,
    pub(super) day_begins: Option<String>,
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    Path,
    Virtual,
    Either,
}

/// What costs nothing, in the words of the configuration file. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Free {
    pub stored: Option<String>,
    #[serde(default)]
    pub requests_month: BTreeMap<String, u64>,
    pub egress_month: Option<String>,
}

/// All providers, by id; what fits any other S3 server comes last.
pub fn providers() -> &'static [Provider] {
    &PROVIDERS
}

pub fn provider(id: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.id == id)
}

impl Provider {
    /// `None` where the owner must name it.
    pub fn endpoint(&self, account: &str, region: &str) -> Option<String> {
        let form = self.endpoint.as_ref()?;
        Some(form.replace("<account>", account).replace("<region>", region))
    }

    /// What costs nothing up to an amount, in words.
    pub fn free(&self) -> Vec<String> {
        let Free { stored, requests_month, egress_month } = &self.allowances;
        let requests = requests_month.iter().map(|(class, count)| match class.as_str() {
            ALL => format!("{count} requests a month"),
            class => format!("{count} requests of class {class} a month"),
        });
        let stored = stored.iter().map(|size| format!("{size} stored"));
        let egress = egress_month.iter().map(|size| format!("{size} of egress a month"));
        stored.chain(requests).chain(egress).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ByteSize;
    use crate::model::Class;

    #[test]
    fn every_gap_of_an_endpoint_is_asked_for() {
        for provider in providers() {
            let Some(form) = &provider.endpoint else {
                assert!(provider.region.is_some() && provider.account.is_none());
                continue;
            };
            assert_eq!(form.contains("<account>"), provider.account.is_some(), "{}", provider.id);
            assert_eq!(form.contains("<region>"), provider.region.is_none(), "{}", provider.id);
            let whole = provider.endpoint("mine", "here").unwrap();
            assert!(whole.starts_with("https://") && !whole.contains('<'), "{whole}");
        }
        assert!(provider("r2").is_some() && provider("").is_none());
    }

    #[test]
    fn every_allowance_is_dated_and_can_be_a_limit() {
        for provider in providers() {
            let id = &provider.id;
            let has_year = provider.listed.split(' ').any(|word| word.parse::<u16>().is_ok());
            assert!(has_year, "{id} is not dated");
            let free = &provider.allowances;
            for text in free.stored.iter().chain(&free.egress_month) {
                assert!(text.parse::<ByteSize>().unwrap().0 > 0, "{id}: {text}");
            }
            for (class, count) in &free.requests_month {
                let known = Class::ALL.iter().any(|c| *c != Class::Free && c.name() == class);
                assert!((known || class == "all") && *count > 0, "{id}: {class}");
            }
            for what in &provider.unlimited {
                assert!(["stored", "requests", "egress"].contains(&what.as_str()), "{id}: {what}");
            }
        }
        let ids: Vec<_> = providers().iter().map(|provider| provider.id.as_str()).collect();
        let (last, named) = ids.split_last().unwrap();
        assert!(named.is_sorted() && *last == "other", "{ids:?}");
    }

    #[test]
    fn nothing_doubtful_is_in_the_data() {
        let doubtful = DATA.lines().find(|line| line.contains('?'));
        assert_eq!(doubtful, None);
    }
}
