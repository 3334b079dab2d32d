//! Which bucket a `Host` names, when it names one.
//!
//! # Why unknown hosts are path style
//!
//! A configured domain adds virtual-host style and takes nothing away: the server still answers
//! by its address, as `localhost`, or under any other name that leads to it.

use std::net::IpAddr;
use std::net::SocketAddr;

use http::Version;
use http::header::HOST;
use http::request::Parts;
use s3s::S3Result;
use s3s::host::S3Host;
use s3s::host::VirtualHost;

/// The host that a request names: its header, or in HTTP/2 its authority.
pub(crate) fn of(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(HOST) {
        return value.to_str().ok().filter(|host| !host.is_empty()).map(str::to_owned);
    }
    let authority = parts.uri.authority().filter(|_| parts.version == Version::HTTP_2);
    authority.map(|authority| authority.as_str().to_owned())
}

/// The bucket before `domain` in `host`, ports and case not regarded. An address has none, as s3s
/// sees it too.
pub(crate) fn bucket(domain: Option<&str>, host: &str) -> Option<String> {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let plain = |host: &str| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        name.trim_end_matches('.').to_ascii_lowercase()
    };
    let (domain, host) = (plain(domain?), plain(host));
    let bucket = host.strip_suffix(&domain)?.strip_suffix('.')?;
    (!bucket.is_empty() && !domain.is_empty()).then(|| bucket.to_owned())
}

/// The same for s3s.
pub(crate) struct Hosts {
    pub(crate) domain: Option<String>,
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let found = VirtualHost::new(host);
        Ok(match bucket(self.domain.as_deref(), host) {
            Some(bucket) => found.with_bucket(bucket),
            None => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_before_the_domain_is_a_bucket() {
        for (host, expected) in [
            ("s3.example.org", None),
            ("photos.s3.example.org", Some("photos")),
            ("Photos.S3.example.org:9000", Some("photos")),
            ("a.b.s3.example.org.", Some("a.b")),
            (".s3.example.org", None),
            ("photoss3.example.org", None),
            ("localhost:9000", None),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
        ] {
            assert_eq!(bucket(Some("s3.example.org"), host).as_deref(), expected, "{host}");
        }
        assert_eq!(bucket(Some("0.0.1"), "127.0.0.1:9000"), None);
        assert_eq!(bucket(None, "photos.s3.example.org"), None);
    }
}
