//! The services that a backend may name, as far as a configuration can be judged without asking
//! them.

/// One OpenDAL service.
pub(crate) struct Service {
    pub(crate) scheme: &'static str,
    /// Options without which it cannot be opened.
    required: &'static [&'static str],
    /// Sets of options of which one must be there in full.
    one_of: &'static [&'static [&'static str]],
    /// Options that, with `root`, say where its bytes lie.
    pub(crate) place: &'static [&'static str],
    /// Takes a blob whole, so it must fit into memory.
    pub(crate) is_one_shot: bool,
    /// Counts towards `min_replicas`.
    pub(crate) is_durable: bool,
    /// What it is compiled in by.
    feature: Feature,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Feature {
    Always,
    Cloud,
    MoreClouds,
}

const PLAIN: Service = Service {
    scheme: "",
    required: &[],
    one_of: &[],
    place: &[],
    is_one_shot: false,
    is_durable: true,
    feature: Feature::Always,
};

const TOKENS: &[&[&str]] = &[&["access_token"], &["refresh_token", "client_id"]];
/// Services whose account is known only by its token.
const TOKEN_PLACE: &[&str] = &["access_token", "refresh_token"];

const SERVICES: &[Service] = &[
    Service { scheme: "fs", required: &["root"], ..PLAIN },
    Service { scheme: "s3", required: &["bucket"], place: &["endpoint", "bucket"], ..PLAIN },
    Service { scheme: "memory", is_durable: false, ..PLAIN },
    Service {
        scheme: "azblob",
        required: &["container", "endpoint"],
        place: &["endpoint", "account_name", "container"],
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "gcs",
        required: &["bucket"],
        place: &["endpoint", "bucket"],
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "b2",
        required: &["bucket", "bucket_id", "application_key_id", "application_key"],
        place: &["bucket_id"],
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "webdav",
        required: &["endpoint"],
        place: &["endpoint"],
        is_one_shot: true,
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "gdrive",
        one_of: TOKENS,
        place: TOKEN_PLACE,
        is_one_shot: true,
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "dropbox",
        one_of: TOKENS,
        place: TOKEN_PLACE,
        is_one_shot: true,
        feature: Feature::Cloud,
        ..PLAIN
    },
    Service {
        scheme: "onedrive",
        one_of: TOKENS,
        place: TOKEN_PLACE,
        is_one_shot: true,
        feature: Feature::Cloud,
        ..PLAIN
    },
    more("azdls", &["filesystem", "endpoint"]),
    more("azfile", &["share_name", "endpoint"]),
    more("cos", &["bucket", "endpoint"]),
    more("obs", &["bucket", "endpoint"]),
    more("oss", &["bucket", "endpoint"]),
    more("webhdfs", &["endpoint"]),
    more_one_shot("koofr", &["endpoint", "email", "password"]),
    more_one_shot("pcloud", &["endpoint", "username", "password"]),
    more_one_shot("seafile", &["endpoint", "username", "password", "repo_name"]),
    more_one_shot("swift", &["endpoint", "container"]),
];

const fn more(scheme: &'static str, required: &'static [&'static str]) -> Service {
    Service { scheme, required, place: required, feature: Feature::MoreClouds, ..PLAIN }
}

const fn more_one_shot(scheme: &'static str, required: &'static [&'static str]) -> Service {
    Service { is_one_shot: true, ..more(scheme, required) }
}

/// What is known of a scheme.
pub(crate) enum Known {
    Compiled(&'static Service),
    /// Another build has it: with this cargo feature.
    NotCompiled(&'static str),
    Unknown,
}

pub(crate) fn find(scheme: &str) -> Known {
    match SERVICES.iter().find(|service| service.scheme == scheme) {
        None => Known::Unknown,
        Some(service) => match service.feature {
            Feature::Cloud if !cfg!(feature = "cloud") => Known::NotCompiled("cloud"),
            Feature::MoreClouds if !cfg!(feature = "more-clouds") => {
                Known::NotCompiled("more-clouds")
            }
            _ => Known::Compiled(service),
        },
    }
}

/// Every scheme that this build can open.
pub(crate) fn compiled() -> impl Iterator<Item = &'static str> {
    SERVICES
        .iter()
        .map(|service| service.scheme)
        .filter(|scheme| matches!(find(scheme), Known::Compiled(_)))
}

impl Service {
    /// What is missing when `has` says which options are there, in words.
    pub(crate) fn missing(&self, has: impl Fn(&str) -> bool) -> Vec<String> {
        let mut missing: Vec<String> = self
            .required
            .iter()
            .filter(|name| !has(name))
            .map(|name| format!("`{name}`"))
            .collect();
        if !self.one_of.is_empty()
            && !self.one_of.iter().any(|set| set.iter().all(|name| has(name)))
        {
            let sets: Vec<String> =
                self.one_of.iter().map(|set| format!("`{}`", set.join("` and `"))).collect();
            missing.push(sets.join(", or "));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_is_named_once_and_says_what_it_misses() {
        for (i, service) in SERVICES.iter().enumerate() {
            assert!(SERVICES[..i].iter().all(|other| other.scheme != service.scheme));
            assert!(service.missing(|_| true).is_empty(), "{}", service.scheme);
        }
        let missing = |scheme: &str, has: &[&str]| match find(scheme) {
            Known::Compiled(service) => service.missing(|name| has.contains(&name)),
            _ => panic!("{scheme} is compiled in"),
        };
        assert_eq!(missing("s3", &["root"]), ["`bucket`"]);
        assert!(missing("memory", &[]).is_empty());
        if cfg!(feature = "cloud") {
            let either = ["`access_token`, or `refresh_token` and `client_id`"];
            assert_eq!(missing("gdrive", &["refresh_token"]), either);
        }
        assert!(matches!(find("s4"), Known::Unknown));
        assert!(compiled().count() >= 3);
    }
}
