//! What is known of S3 providers in advance: how an endpoint looks, and what must be asked.

/// One provider.
pub(crate) struct Provider {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// With `<account>` and `<region>` to be filled in; `None`: the owner names it.
    endpoint: Option<&'static str>,
    /// What `<account>` is called there.
    pub(crate) account: Option<&'static str>,
    /// `None`: the region must be asked for.
    pub(crate) region: Option<&'static str>,
    pub(crate) is_virtual_host: bool,
}

const OWN: Provider = Provider {
    id: "",
    title: "",
    endpoint: None,
    account: None,
    region: Some("us-east-1"),
    is_virtual_host: false,
};

pub(crate) const PROVIDERS: &[Provider] = &[
    Provider {
        id: "aws",
        title: "Amazon S3",
        endpoint: Some("https://s3.<region>.amazonaws.com"),
        region: None,
        is_virtual_host: true,
        ..OWN
    },
    Provider {
        id: "b2",
        title: "Backblaze B2",
        endpoint: Some("https://s3.<region>.backblazeb2.com"),
        region: None,
        ..OWN
    },
    Provider {
        id: "gcs",
        title: "Google Cloud Storage, with HMAC keys",
        endpoint: Some("https://storage.googleapis.com"),
        region: Some("auto"),
        ..OWN
    },
    Provider {
        id: "ibm",
        title: "IBM Cloud Object Storage",
        endpoint: Some("https://s3.<region>.cloud-object-storage.appdomain.cloud"),
        region: None,
        ..OWN
    },
    Provider { id: "idrive", title: "IDrive e2", ..OWN },
    Provider {
        id: "oci",
        title: "Oracle Cloud",
        endpoint: Some("https://<account>.compat.objectstorage.<region>.oraclecloud.com"),
        account: Some("namespace"),
        region: None,
        ..OWN
    },
    Provider {
        id: "r2",
        title: "Cloudflare R2",
        endpoint: Some("https://<account>.r2.cloudflarestorage.com"),
        account: Some("account id"),
        region: Some("auto"),
        ..OWN
    },
    Provider {
        id: "wasabi",
        title: "Wasabi",
        endpoint: Some("https://s3.<region>.wasabisys.com"),
        region: None,
        ..OWN
    },
    Provider { id: "other", title: "MinIO, Garage, SeaweedFS, Ceph or another S3 server", ..OWN },
];

pub(crate) fn provider(id: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.id == id)
}

impl Provider {
    /// `None` where the owner must name it.
    pub(crate) fn endpoint(&self, account: &str, region: &str) -> Option<String> {
        let form = self.endpoint?;
        Some(form.replace("<account>", account).replace("<region>", region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_of_an_endpoint_is_asked_for() {
        for provider in PROVIDERS {
            let Some(form) = provider.endpoint else { continue };
            assert_eq!(form.contains("<account>"), provider.account.is_some(), "{}", provider.id);
            if form.contains("<region>") {
                assert!(provider.region.is_none(), "{}", provider.id);
            }
            let whole = provider.endpoint("mine", "here").unwrap();
            assert!(whole.starts_with("https://") && !whole.contains('<'), "{whole}");
        }
        assert!(provider("r2").is_some() && provider("").is_none());
    }
}
