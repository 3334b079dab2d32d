//! The arithmetic of signature version 4: keys, strings to sign, encodings.

use hmac::{Hmac, KeyInit, Mac};
use larder::base::Clock;
use sha2::{Digest, Sha256};

use crate::content::hex;
use crate::signer::{Creds, S3};

/// A key at one moment.
pub(crate) struct Signer {
    /// As in `x-amz-date`.
    pub(crate) time: String,
    pub(crate) scope: String,
    id: String,
    key: Vec<u8>,
}

impl Signer {
    pub(crate) fn new(s3: &S3, seconds: i64) -> Signer {
        Signer::at(&s3.creds, &s3.region, Clock::system().now().seconds() + seconds)
    }

    /// A signer at a moment in seconds since 1970.
    pub(crate) fn at(creds: &Creds, region: &str, seconds: i64) -> Signer {
        let format =
            time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
        let time = time::OffsetDateTime::from_unix_timestamp(seconds).expect("a usual year");
        let time = time.format(&format).expect("a usual year");
        let day = &time[..8];
        let mut key = format!("AWS4{}", creds.secret).into_bytes();
        for piece in [day, region, "s3", "aws4_request"] {
            key = hmac_sha256(&key, piece.as_bytes());
        }
        let scope = format!("{day}/{region}/s3/aws4_request");
        Signer { time, scope, id: creds.id.clone(), key }
    }

    pub(crate) fn credential(&self) -> String {
        format!("{}/{}", self.id, self.scope)
    }

    /// The signature of any text, as in POST policies.
    pub(crate) fn sign_text(&self, text: &str) -> String {
        hex(&hmac_sha256(&self.key, text.as_bytes()))
    }

    pub(crate) fn sign(&self, canonical: &str) -> String {
        let hash = hex(&Sha256::digest(canonical.as_bytes()));
        self.sign_text(&format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.time, self.scope))
    }

    pub(crate) fn sign_chunk(&self, previous: &str, chunk: &[u8]) -> String {
        let empty = hex(&Sha256::digest(b""));
        let hash = hex(&Sha256::digest(chunk));
        let (time, scope) = (&self.time, &self.scope);
        self.sign_text(&format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{previous}\n{empty}\n{hash}"
        ))
    }

    pub(crate) fn sign_trailer(&self, previous: &str, trailer: &str) -> String {
        let hash = hex(&Sha256::digest(trailer.as_bytes()));
        let (time, scope) = (&self.time, &self.scope);
        self.sign_text(&format!("AWS4-HMAC-SHA256-TRAILER\n{time}\n{scope}\n{previous}\n{hash}"))
    }

    pub(crate) fn authorization(&self, names: &[String], signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={},SignedHeaders={},Signature={signature}",
            self.credential(),
            names.join(";")
        )
    }

    pub(crate) fn query(&self, names: &[String], expires: &str) -> Vec<String> {
        vec![
            "X-Amz-Algorithm=AWS4-HMAC-SHA256".into(),
            format!("X-Amz-Credential={}", encode(&self.credential(), "")),
            format!("X-Amz-Date={}", self.time),
            format!("X-Amz-Expires={expires}"),
            format!("X-Amz-SignedHeaders={}", encode(&names.join(";"), "")),
        ]
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encodes all but unreserved characters and those in `keep`.
pub(crate) fn encode(text: &str, keep: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ if keep.as_bytes().contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The text that a percent-encoded one stands for.
pub(crate) fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
