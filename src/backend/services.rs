//! What each service needs and allows.
//!
//! The options are OpenDAL's own; those of the services that people are likely to use are listed,
//! so that a mistyped one is found when the configuration is read and not when the first write
//! goes somewhere else. Services that only a cargo feature compiles in take any option.

use std::time::Duration;

use super::open::OPAQUE_ONLY;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::ONE_SHOT_BLOB_MAX;
use crate::model::path::PathLimits;

const ABSENT_AFTER: Duration = Duration::from_secs(24 * 3600);
const ABSENT_AFTER_LOCAL: Duration = Duration::from_secs(3600);

/// One OpenDAL service, as far as Larder must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTraits {
    pub scheme: &'static str,
    /// Takes a blob only whole: it is kept in memory until it is.
    pub one_shot: bool,
    /// A directory of this machine.
    pub local: bool,
    /// What was acknowledged is still there after a restart.
    pub durable: bool,
    /// Options without which it cannot work.
    pub required: &'static [&'static str],
    /// Options that are never shown.
    pub secret: &'static [&'static str],
    /// Options that say where it is: a change of one moves the backend.
    pub place: &'static [&'static str],
    /// The other options; `None`: any.
    pub other: Option<&'static [&'static str]>,
    /// Of the whole root and path together where the service counts it so.
    pub paths: PathLimits,
}

impl ServiceTraits {
    /// The largest blob that it takes.
    pub fn blob_max(&self) -> u64 {
        if self.one_shot { ONE_SHOT_BLOB_MAX } else { BLOB_SIZE_MAX }
    }

    /// How long a backend of it may be out of reach before its replicas count as lost, unless the
    /// owner says otherwise. A disk that is not mounted does not come back by itself.
    pub fn absent_after(&self) -> Duration {
        if self.local { ABSENT_AFTER_LOCAL } else { ABSENT_AFTER }
    }

    /// Whether `option` is one of its options.
    pub fn knows(&self, option: &str) -> bool {
        let Some(other) = self.other else { return true };
        [self.required, self.secret, self.place, other].iter().any(|set| set.contains(&option))
    }
}

const fn limits(component_max: usize, total_max: usize) -> PathLimits {
    PathLimits { component_max, total_max }
}

const PLAIN: ServiceTraits = ServiceTraits {
    scheme: "",
    one_shot: false,
    local: false,
    durable: true,
    required: &[],
    secret: &[],
    place: &["root", "endpoint", "bucket", "container", "filesystem", "share_name", "server"],
    other: None,
    paths: limits(250, 1000),
};

const OAUTH_SECRETS: &[&str] = &["access_token", "refresh_token", "client_secret"];

const SERVICES: &[ServiceTraits] = &[
    ServiceTraits {
        scheme: "fs",
        local: true,
        required: &["root"],
        place: &["root"],
        other: Some(&[]),
        paths: limits(255, 4095),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "memory",
        durable: false,
        place: &["root"],
        other: Some(&[]),
        paths: limits(255, 4095),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "s3",
        required: &["bucket", "region"],
        secret: &[
            "secret_access_key",
            "session_token",
            "server_side_encryption_customer_key",
            "external_id",
        ],
        place: &["endpoint", "bucket", "root"],
        other: Some(&[
            "access_key_id",
            "role_arn",
            "role_session_name",
            "profile",
            "assume_role_duration_seconds",
            "disable_config_load",
            "disable_ec2_metadata",
            "skip_signature",
            "server_side_encryption",
            "server_side_encryption_aws_kms_key_id",
            "server_side_encryption_customer_algorithm",
            "server_side_encryption_customer_key_md5",
            "default_storage_class",
            "enable_virtual_host_style",
            "checksum_algorithm",
            "disable_list_objects_v2",
            "enable_request_payer",
            "default_acl",
        ]),
        paths: limits(1024, 1024),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "azblob",
        required: &["container", "endpoint"],
        secret: &["account_key", "sas_token", "encryption_key"],
        place: &["endpoint", "container", "root"],
        other: Some(&[
            "account_name",
            "encryption_key_sha256",
            "encryption_algorithm",
            "skip_signature",
        ]),
        paths: limits(254, 1024),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "gcs",
        required: &["bucket"],
        secret: &["credential", "token"],
        place: &["endpoint", "bucket", "root"],
        other: Some(&[
            "scope",
            "service_account",
            "credential_path",
            "predefined_acl",
            "default_storage_class",
            "skip_signature",
            "disable_vm_metadata",
            "disable_config_load",
        ]),
        paths: limits(1024, 1024),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "b2",
        required: &["bucket", "bucket_id", "application_key_id", "application_key"],
        secret: &["application_key"],
        place: &["bucket", "bucket_id", "root"],
        other: Some(&[]),
        // Opaque names only: OpenDAL escapes the name of a large file where B2 takes it as it is,
        // and would not find again a name with other characters than plain ones.
        paths: limits(OPAQUE_ONLY, 1024),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "webdav",
        one_shot: true,
        required: &["endpoint"],
        secret: &["password", "token"],
        place: &["endpoint", "root", "username"],
        other: Some(&["disable_create_dir"]),
        paths: limits(255, 2048),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "gdrive",
        one_shot: true,
        secret: OAUTH_SECRETS,
        place: &["root"],
        other: Some(&["client_id"]),
        paths: limits(255, 2048),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "dropbox",
        one_shot: true,
        secret: OAUTH_SECRETS,
        place: &["root"],
        other: Some(&["client_id"]),
        paths: limits(255, 2048),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "onedrive",
        one_shot: true,
        secret: OAUTH_SECRETS,
        place: &["root"],
        other: Some(&["client_id"]),
        paths: limits(255, 400),
        ..PLAIN
    },
    ServiceTraits {
        scheme: "azdls",
        secret: &["account_key", "client_secret", "sas_token"],
        ..PLAIN
    },
    ServiceTraits { scheme: "azfile", secret: &["account_key", "sas_token"], ..PLAIN },
    ServiceTraits { scheme: "cos", secret: &["secret_key", "security_token"], ..PLAIN },
    ServiceTraits { scheme: "koofr", one_shot: true, secret: &["password"], ..PLAIN },
    ServiceTraits { scheme: "obs", secret: &["secret_access_key"], ..PLAIN },
    ServiceTraits { scheme: "oss", secret: &["access_key_secret", "security_token"], ..PLAIN },
    ServiceTraits { scheme: "pcloud", one_shot: true, secret: &["password"], ..PLAIN },
    ServiceTraits { scheme: "seafile", one_shot: true, secret: &["password"], ..PLAIN },
    ServiceTraits { scheme: "swift", one_shot: true, secret: &["token"], ..PLAIN },
    ServiceTraits { scheme: "webhdfs", one_shot: true, secret: &["delegation"], ..PLAIN },
];

/// The service that `scheme` names, if it is compiled in.
pub fn service(scheme: &str) -> Option<ServiceTraits> {
    let traits = SERVICES.iter().find(|traits| traits.scheme == scheme)?;
    super::adapter::schemes().contains(scheme).then_some(*traits)
}

/// The schemes of all services that are compiled in, sorted.
pub fn services() -> Vec<&'static str> {
    let compiled = super::adapter::schemes();
    let mut schemes: Vec<_> =
        SERVICES.iter().map(|traits| traits.scheme).filter(|s| compiled.contains(*s)).collect();
    schemes.sort_unstable();
    schemes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_of_the_default_binary_are_known() {
        for scheme in ["fs", "memory", "s3"] {
            assert!(service(scheme).is_some(), "{scheme}");
        }
        #[cfg(feature = "cloud")]
        for scheme in ["azblob", "gcs", "b2", "webdav", "gdrive", "dropbox", "onedrive"] {
            assert!(service(scheme).is_some(), "{scheme}");
        }
        assert_eq!(service("ftp"), None);
        assert!(services().is_sorted());
    }

    #[test]
    fn secrets_and_places_are_apart() {
        for traits in SERVICES {
            assert!(traits.secret.iter().all(|option| !traits.place.contains(option)));
        }
        let s3 = service("s3").unwrap();
        assert!(s3.knows("bucket") && s3.knows("access_key_id") && !s3.knows("bukcet"));
        assert_eq!(service("memory").unwrap().blob_max(), BLOB_SIZE_MAX);
    }
}
