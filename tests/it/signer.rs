//! Signature version 4, right and on purpose wrong.
//!
//! A [`Request`] is built up and sent; every piece of it can be broken by a hook of its own.
//! The path goes out exactly as it was given. "Authenticating Requests (AWS Signature
//! Version 4)" of the S3 API reference is the source of every form here; `signer_check` holds
//! this file against its published examples and against another server.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use crate::content::{checksum, hex};
use crate::sigv4::Signer;
pub(crate) use crate::sigv4::{decode, encode};
use crate::wire::{Response, exchange};

pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
pub(crate) const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
pub(crate) const SIGNED_CHUNKS_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
pub(crate) const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

#[derive(Clone, Debug)]
pub(crate) struct Creds {
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// One endpoint, spoken to with one key.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    pub(crate) addr: SocketAddr,
    pub(crate) creds: Creds,
    pub(crate) region: String,
}

impl S3 {
    pub(crate) fn with(&self, creds: &Creds) -> S3 {
        S3 { creds: creds.clone(), ..self.clone() }
    }

    /// A request for a path that is already encoded.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request {
            s3: self.clone(),
            host: self.addr.to_string(),
            method: method.into(),
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            unsigned: Vec::new(),
            body: Vec::new(),
            sign: Sign::Header,
            content_sha256: None,
            trailer: None,
            broken: Broken::default(),
        }
    }

    pub(crate) fn bucket(&self, method: &str, bucket: &str) -> Request {
        self.request(method, &format!("/{bucket}"))
    }

    pub(crate) fn object(&self, method: &str, bucket: &str, key: &str) -> Request {
        self.request(method, &format!("/{bucket}/{}", encode(key, "/")))
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, body: impl Into<Vec<u8>>) -> Request {
        self.object("PUT", bucket, key).body(body)
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Request {
        self.object("GET", bucket, key)
    }

    pub(crate) fn head(&self, bucket: &str, key: &str) -> Request {
        self.object("HEAD", bucket, key)
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Request {
        self.object("DELETE", bucket, key)
    }

    pub(crate) fn copy(&self, from: (&str, &str), to: (&str, &str)) -> Request {
        let source = format!("/{}/{}", from.0, encode(from.1, "/"));
        self.object("PUT", to.0, to.1).header("x-amz-copy-source", &source)
    }

    #[track_caller]
    pub(crate) fn create_bucket(&self, bucket: &str) {
        self.bucket("PUT", bucket).send().expect(200);
    }

    /// The body of an object that must be there.
    #[track_caller]
    pub(crate) fn read(&self, bucket: &str, key: &str) -> Vec<u8> {
        self.get(bucket, key).send().expect(200).body
    }
}

#[derive(Clone, Debug)]
enum Sign {
    Header,
    Query { expires: String },
    Nothing,
}

/// What is wrong with a request, on purpose.
#[derive(Clone, Debug, Default)]
struct Broken {
    seconds: i64,
    unsigned_names: Vec<String>,
    absent_names: Vec<String>,
    authorization: Option<fn(String) -> String>,
    content_length: Option<u64>,
    no_content_length: bool,
    decoded_length: Option<u64>,
    chunk_size: Option<usize>,
    flip_byte: Option<usize>,
    no_terminal: bool,
    no_trailer: bool,
    chunk_signature: bool,
    trailer_signature: bool,
    body_cut: Option<usize>,
    hang_up: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    s3: S3,
    host: String,
    method: String,
    path: String,
    query: Vec<String>,
    headers: Vec<(String, String)>,
    unsigned: Vec<(String, String)>,
    body: Vec<u8>,
    sign: Sign,
    content_sha256: Option<String>,
    trailer: Option<(String, String)>,
    broken: Broken,
}

impl Request {
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A piece of the query as it goes on the wire.
    pub(crate) fn query(mut self, piece: &str) -> Request {
        self.query.push(piece.into());
        self
    }

    pub(crate) fn param(self, name: &str, value: &str) -> Request {
        let piece = format!("{name}={}", encode(value, ""));
        self.query(&piece)
    }

    /// With the MD5 that some operations require.
    pub(crate) fn md5(self) -> Request {
        let md5 = crate::content::md5_base64(&self.body);
        self.header("content-md5", &md5)
    }

    /// With the value of `x-amz-content-sha256`; the SHA-256 of the body where this is not called.
    pub(crate) fn sha256(mut self, value: &str) -> Request {
        self.content_sha256 = Some(value.into());
        self
    }

    /// With a body of signed chunks.
    pub(crate) fn signed_chunks(self) -> Request {
        self.sha256(SIGNED_CHUNKS).header("content-encoding", "aws-chunked")
    }

    /// With a body in chunks and a checksum behind it, signed or not.
    pub(crate) fn trailer(mut self, mode: &str, name: &str, value: &str) -> Request {
        self.trailer = Some((name.into(), value.into()));
        self.sha256(mode).header("content-encoding", "aws-chunked").header("x-amz-trailer", name)
    }

    /// With the right checksum as a trailer.
    pub(crate) fn right_trailer(self, mode: &str, algorithm: &str) -> Request {
        let value = checksum(algorithm, &self.body);
        self.trailer(mode, &format!("x-amz-checksum-{algorithm}"), &value)
    }

    /// Signed in the query, valid for this many seconds (any text).
    pub(crate) fn presigned(mut self, expires: &str) -> Request {
        self.sign = Sign::Query { expires: expires.into() };
        self
    }

    pub(crate) fn anonymous(mut self) -> Request {
        self.sign = Sign::Nothing;
        self
    }

    /// Asks for this host, at the same address.
    pub(crate) fn host(mut self, host: &str) -> Request {
        self.host = host.into();
        self
    }

    // ---- Hooks that break a request.

    pub(crate) fn key_id(mut self, id: &str) -> Request {
        self.s3.creds.id = id.into();
        self
    }

    pub(crate) fn secret(mut self, secret: &str) -> Request {
        self.s3.creds.secret = secret.into();
        self
    }

    pub(crate) fn region(mut self, region: &str) -> Request {
        self.s3.region = region.into();
        self
    }

    /// Signed this many seconds from now.
    pub(crate) fn skewed(mut self, seconds: i64) -> Request {
        self.broken.seconds = seconds;
        self
    }

    /// A header that is sent and not signed.
    pub(crate) fn unsigned_header(mut self, name: &str, value: &str) -> Request {
        self.unsigned.push((name.into(), value.into()));
        self
    }

    /// Leaves a header out of what is signed; it is sent all the same.
    pub(crate) fn without_signing(mut self, name: &str) -> Request {
        self.broken.unsigned_names.push(name.into());
        self
    }

    /// Names a header as signed that is not sent.
    pub(crate) fn signing_absent(mut self, name: &str) -> Request {
        self.broken.absent_names.push(name.into());
        self
    }

    pub(crate) fn authorization(mut self, rewrite: fn(String) -> String) -> Request {
        self.broken.authorization = Some(rewrite);
        self
    }

    pub(crate) fn content_length(mut self, value: u64) -> Request {
        self.broken.content_length = Some(value);
        self
    }

    /// Sends the body by `Transfer-Encoding: chunked`, without a length.
    pub(crate) fn without_length(mut self) -> Request {
        self.broken.no_content_length = true;
        self
    }

    pub(crate) fn decoded_length(mut self, value: u64) -> Request {
        self.broken.decoded_length = Some(value);
        self
    }

    pub(crate) fn chunk_size(mut self, size: usize) -> Request {
        self.broken.chunk_size = Some(size);
        self
    }

    /// Changes one byte of the body after it was signed.
    pub(crate) fn flip_byte(mut self, at: usize) -> Request {
        self.broken.flip_byte = Some(at);
        self
    }

    /// Leaves out the last, empty chunk and all behind it.
    pub(crate) fn without_terminal_chunk(mut self) -> Request {
        self.broken.no_terminal = true;
        self
    }

    /// Promises a trailer and sends none.
    pub(crate) fn without_trailer(mut self) -> Request {
        self.broken.no_trailer = true;
        self
    }

    pub(crate) fn wrong_chunk_signature(mut self) -> Request {
        self.broken.chunk_signature = true;
        self
    }

    pub(crate) fn wrong_trailer_signature(mut self) -> Request {
        self.broken.trailer_signature = true;
        self
    }

    /// Sends only so many bytes of the body and hangs up.
    pub(crate) fn cut_body(mut self, at: usize) -> Request {
        self.broken.body_cut = Some(at);
        self.broken.hang_up = true;
        self
    }

    #[track_caller]
    pub(crate) fn send(&self) -> Response {
        self.try_send().unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.path))
    }

    /// Sends it; an error when the connection could not be made or broke.
    pub(crate) fn try_send(&self) -> std::io::Result<Response> {
        let (head, body) = self.to_bytes();
        exchange(self.s3.addr, head.as_bytes(), &body, self.broken.hang_up)
    }

    /// The path with its signed query, for a client that knows no signatures.
    pub(crate) fn url(&self) -> String {
        let (head, _) = self.to_bytes();
        head.split(' ').nth(1).expect("a request line has three words").to_owned()
    }

    // ---- The wire form.

    /// What goes on the wire, but for a connection that stays open (the benchmark's).
    #[allow(dead_code)]
    pub(crate) fn keep_alive(&self) -> (Vec<u8>, Vec<u8>) {
        let (head, body) = self.to_bytes();
        (head.replace("connection: close\r\n", "").into_bytes(), body)
    }

    fn to_bytes(&self) -> (String, Vec<u8>) {
        let signer = Signer::new(&self.s3, self.broken.seconds);
        let payload = self.payload_hash();
        let mut headers = vec![("host".to_owned(), self.host.clone())];
        headers.extend(self.headers.iter().cloned());
        if matches!(self.sign, Sign::Header) {
            headers.push(("x-amz-date".into(), signer.time.clone()));
            headers.push(("x-amz-content-sha256".into(), payload.clone()));
        }
        if payload.starts_with("STREAMING-") {
            let length = self.broken.decoded_length.unwrap_or(self.body.len() as u64);
            headers.push(("x-amz-decoded-content-length".into(), length.to_string()));
        }
        let mut query = self.query.clone();
        let mut seed = String::new();
        match &self.sign {
            Sign::Header => {
                let names = self.signed_names(&headers);
                seed = signer.sign(&self.canonical(&headers, &names, &query, &payload));
                let value = signer.authorization(&names, &seed);
                let value = self.broken.authorization.map_or(value.clone(), |f| f(value));
                headers.push(("authorization".into(), value));
            }
            Sign::Query { expires } => {
                let names = self.signed_names(&headers);
                query.extend(signer.query(&names, expires));
                let canonical = self.canonical(&headers, &names, &query, &payload);
                query.push(format!("X-Amz-Signature={}", signer.sign(&canonical)));
            }
            Sign::Nothing => {}
        }
        headers.extend(self.unsigned.iter().cloned());
        let mut body = self.framed_body(&signer, &seed, &payload);
        self.body_headers(&mut headers, &mut body);
        let question = if query.is_empty() { "" } else { "?" };
        let mut head =
            format!("{} {}{question}{} HTTP/1.1\r\n", self.method, self.path, query.join("&"));
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "connection: close\r\n\r\n";
        (head, body)
    }

    fn body_headers(&self, headers: &mut Vec<(String, String)>, body: &mut Vec<u8>) {
        if self.broken.no_content_length {
            headers.push(("transfer-encoding".into(), "chunked".into()));
            let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
            chunked.append(body);
            chunked.extend_from_slice(b"\r\n0\r\n\r\n");
            *body = chunked;
        } else if !matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE") || !body.is_empty() {
            let length = self.broken.content_length.unwrap_or(body.len() as u64);
            headers.push(("content-length".into(), length.to_string()));
        }
        if let Some(cut) = self.broken.body_cut {
            body.truncate(cut);
        }
    }

    fn payload_hash(&self) -> String {
        match (&self.content_sha256, &self.sign) {
            (Some(value), _) => value.clone(),
            (None, Sign::Query { .. }) => UNSIGNED.into(),
            (None, _) => hex(&Sha256::digest(&self.body)),
        }
    }

    fn signed_names(&self, headers: &[(String, String)]) -> Vec<String> {
        let mut names: Vec<String> = headers
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .chain(self.broken.absent_names.iter().cloned())
            .filter(|name| !self.broken.unsigned_names.contains(name))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn canonical(
        &self,
        headers: &[(String, String)],
        names: &[String],
        query: &[String],
        payload: &str,
    ) -> String {
        let path = encode(&decode(&self.path), "/");
        let mut pairs: Vec<(String, String)> = query
            .iter()
            .flat_map(|piece| piece.split('&'))
            .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
            .map(|(name, value)| (encode(&decode(name), ""), encode(&decode(value), "")))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut canonical = format!("{}\n{path}\n{}\n", self.method, pairs.join("&"));
        for name in names {
            let values: Vec<String> = headers
                .iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            canonical += &format!("{name}:{}\n", values.join(","));
        }
        canonical + &format!("\n{}\n{payload}", names.join(";"))
    }

    fn framed_body(&self, signer: &Signer, seed: &str, payload: &str) -> Vec<u8> {
        let signed = match payload {
            SIGNED_CHUNKS | SIGNED_CHUNKS_TRAILER => true,
            UNSIGNED_TRAILER => false,
            _ => {
                let mut body = self.body.clone();
                self.flip(&mut body, 0);
                return body;
            }
        };
        let size = self.broken.chunk_size.unwrap_or(64 << 10);
        let mut chunks: Vec<&[u8]> = self.body.chunks(size).collect();
        if !self.broken.no_terminal {
            chunks.push(&[]);
        }
        let mut previous = seed.to_owned();
        let mut body = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut line = format!("{:x}", chunk.len());
            if signed {
                previous = signer.sign_chunk(&previous, chunk);
                if self.broken.chunk_signature && i == 0 {
                    previous = hex(&Sha256::digest(previous.as_bytes()));
                }
                line += &format!(";chunk-signature={previous}");
            }
            body.extend_from_slice(format!("{line}\r\n").as_bytes());
            let start = body.len();
            body.extend_from_slice(chunk);
            self.flip(&mut body[start..], i * size);
            if !chunk.is_empty() || self.trailer.is_none() {
                body.extend_from_slice(b"\r\n");
            }
        }
        if !self.broken.no_terminal {
            self.trailer_lines(signer, &previous, signed, &mut body);
        }
        body
    }

    fn trailer_lines(&self, signer: &Signer, previous: &str, signed: bool, body: &mut Vec<u8>) {
        let Some((name, value)) = &self.trailer else { return };
        if !self.broken.no_trailer {
            body.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            if signed {
                let mut signature = signer.sign_trailer(previous, &format!("{name}:{value}\n"));
                if self.broken.trailer_signature {
                    signature = hex(&Sha256::digest(signature.as_bytes()));
                }
                let line = format!("x-amz-trailer-signature:{signature}\r\n");
                body.extend_from_slice(line.as_bytes());
            }
        }
        body.extend_from_slice(b"\r\n");
    }

    fn flip(&self, bytes: &mut [u8], offset: usize) {
        let at = self.broken.flip_byte.and_then(|at| at.checked_sub(offset));
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1;
        }
    }
}
