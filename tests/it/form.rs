//! Forms that a browser posts.

use larder::base::Clock;
use sha2::{Digest, Sha256};

use crate::content::{base64, hex};
use crate::signer::S3;
use crate::sigv4::Signer;
use crate::wire::Response;

/// A browser's form: its fields in order, the file last.
pub(crate) struct Form<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) fields: Vec<(&'a str, &'a str)>,
    /// Conditions of the policy beside bucket and signature fields, as JSON.
    pub(crate) conditions: Vec<String>,
    pub(crate) file: Vec<u8>,
    /// Seconds from now to the end of the policy.
    pub(crate) expires_s: i64,
    /// Changes the signature.
    pub(crate) wrong_signature: bool,
    /// Leaves policy and signature out.
    pub(crate) anonymous: bool,
}

impl<'a> Form<'a> {
    pub(crate) fn new(bucket: &'a str, key: &'a str, file: Vec<u8>) -> Form<'a> {
        Form {
            bucket,
            fields: vec![("key", key)],
            conditions: vec!["[\"starts-with\",\"$key\",\"\"]".into()],
            file,
            expires_s: 600,
            wrong_signature: false,
            anonymous: false,
        }
    }

    #[track_caller]
    pub(crate) fn send(&self, s3: &S3) -> Response {
        let signer = Signer::new(s3, 0);
        let mut fields: Vec<(String, String)> =
            self.fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        if !self.anonymous {
            let policy = base64(self.policy(&signer).as_bytes());
            let mut signature = signer.sign_text(&policy);
            if self.wrong_signature {
                signature = hex(&Sha256::digest(signature.as_bytes()));
            }
            fields.push(("x-amz-algorithm".into(), "AWS4-HMAC-SHA256".into()));
            fields.push(("x-amz-credential".into(), signer.credential()));
            fields.push(("x-amz-date".into(), signer.time.clone()));
            fields.push(("policy".into(), policy));
            fields.push(("x-amz-signature".into(), signature));
        }
        let boundary = "----larder-form-boundary";
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
            body.extend_from_slice(part.as_bytes());
        }
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(part.as_bytes());
        body.extend_from_slice(&self.file);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        s3.bucket("POST", self.bucket)
            .anonymous()
            .header("content-type", &format!("multipart/form-data; boundary={boundary}"))
            .body(body)
            .send()
    }

    fn policy(&self, signer: &Signer) -> String {
        let end = Clock::system().now().seconds() + self.expires_s;
        let end = time::OffsetDateTime::from_unix_timestamp(end).expect("a usual year");
        let format =
            time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
        let end = end.format(&format).expect("a usual year");
        let mut conditions = vec![
            format!("{{\"bucket\":\"{}\"}}", self.bucket),
            "{\"x-amz-algorithm\":\"AWS4-HMAC-SHA256\"}".to_owned(),
            format!("{{\"x-amz-credential\":\"{}\"}}", signer.credential()),
            format!("{{\"x-amz-date\":\"{}\"}}", signer.time),
        ];
        conditions.extend(self.conditions.iter().cloned());
        format!("{{\"expiration\":\"{end}\",\"conditions\":[{}]}}", conditions.join(","))
    }
}
