//! A SigV4 signer for tests that can also sign wrong requests, as no client library does.

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha2::Digest;
use sha2::Sha256;

use crate::base::Timestamp;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encodes as SigV4 wants it in a query.
pub(crate) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// `YYYYMMDDTHHMMSSZ`
pub(crate) fn amz_date(at: Timestamp) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap();
    let (y, m, d) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{y:04}{:02}{d:02}T{hour:02}{minute:02}{second:02}Z", u8::from(m))
}

#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// Of the request.
    pub(crate) date: String,
    /// Of the scope.
    pub(crate) day: String,
    pub(crate) region: String,
    pub(crate) service: String,
}

/// A request before it is signed; `path` and `query` as they will be sent.
#[derive(Clone, Default)]
pub(crate) struct Draft {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Not to be signed.
    pub(crate) unsigned: Vec<&'static str>,
}

impl Draft {
    pub(crate) fn query_text(&self) -> String {
        let mut pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        pairs.sort();
        pairs.join("&")
    }

    fn signed_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !self.unsigned.contains(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn canonical(&self, payload: &str) -> String {
        let names = self.signed_names();
        let headers: String = names
            .iter()
            .map(|name| {
                let values: Vec<&str> = self
                    .headers
                    .iter()
                    .filter(|(other, _)| other == name)
                    .map(|(_, value)| value.trim())
                    .collect();
                format!("{name}:{}\n", values.join(","))
            })
            .collect();
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{payload}",
            self.method,
            self.path,
            self.query_text(),
            names.join(";")
        )
    }
}

impl Signer {
    pub(crate) fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.day, self.region, self.service)
    }

    pub(crate) fn sign_text(&self, text: &str) -> String {
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in [&self.day, &self.region, &self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, text))
    }

    fn sign_canonical(&self, canonical: &str) -> String {
        let hash = sha256_hex(canonical.as_bytes());
        self.sign_text(&format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.date, self.scope()))
    }

    /// Adds `authorization`; gives the signature, with which signed chunks begin.
    pub(crate) fn sign_header(&self, draft: &mut Draft) -> String {
        let payload = draft.headers.iter().find(|(name, _)| name == "x-amz-content-sha256");
        let payload = payload.map_or(String::new(), |(_, value)| value.clone());
        let signature = self.sign_canonical(&draft.canonical(&payload));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.id,
            self.scope(),
            draft.signed_names().join(";"),
        );
        draft.headers.push(("authorization".into(), authorization));
        signature
    }

    /// Adds the parameters of a presigned URL.
    pub(crate) fn presign(&self, draft: &mut Draft, expires: &str) {
        let signed = draft.signed_names().join(";");
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{}", self.id, self.scope())),
            ("X-Amz-Date", self.date.clone()),
            ("X-Amz-Expires", expires.to_owned()),
            ("X-Amz-SignedHeaders", signed),
        ] {
            draft.query.push((name.into(), value));
        }
        let signature = self.sign_canonical(&draft.canonical("UNSIGNED-PAYLOAD"));
        draft.query.push(("X-Amz-Signature".into(), signature));
    }

    /// The body in signed chunks, terminal chunk included, and the last signature.
    pub(crate) fn signed_chunks(&self, seed: &str, pieces: &[&[u8]]) -> (Vec<u8>, String) {
        let mut body = Vec::new();
        let mut previous = seed.to_owned();
        for piece in pieces.iter().copied().chain([&[][..]]) {
            previous = self.sign_text(&format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{}\n{}",
                self.date,
                self.scope(),
                sha256_hex(b""),
                sha256_hex(piece),
            ));
            body.extend(format!("{:x};chunk-signature={previous}\r\n", piece.len()).bytes());
            body.extend_from_slice(piece);
            if !piece.is_empty() {
                body.extend_from_slice(b"\r\n");
            }
        }
        (body, previous)
    }

    /// The signature of trailers, given as `name:value\n` lines.
    pub(crate) fn sign_trailer(&self, previous: &str, lines: &str) -> String {
        self.sign_text(&format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{}",
            self.date,
            self.scope(),
            sha256_hex(lines.as_bytes()),
        ))
    }
}
