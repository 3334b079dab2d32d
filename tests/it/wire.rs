//! HTTP/1.1 as bytes on a socket, and the answers read back.
//!
//! # Why not an HTTP client
//!
//! Tests must send paths with dots and double slashes as they are, bodies that end too early,
//! header names that no library lets pass, and must see what comes back while the body is still
//! on its way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// The longest that a test waits for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// 0 when the server closed the connection without an answer.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body ended as its framing promised.
    pub(crate) whole: bool,
}

impl Response {
    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no header {name} in {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first element with this name.
    pub(crate) fn xml(&self, tag: &str) -> Option<String> {
        field(&self.text(), tag)
    }

    /// The insides of all elements with this name, still escaped.
    pub(crate) fn blocks(&self, tag: &str) -> Vec<String> {
        blocks(&self.text(), tag)
    }

    /// S3's error code; empty when the body has none.
    pub(crate) fn code(&self) -> String {
        self.xml("Code").unwrap_or_default()
    }

    /// This answer, which must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", self.short());
        assert!(self.whole, "the body was cut: {}", self.short());
        self
    }

    /// This answer, which must be this S3 error.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Response {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.short());
        self
    }

    pub(crate) fn short(&self) -> String {
        let text: String = self.text().chars().take(600).collect();
        format!("{} {:?} {text}", self.status, self.headers)
    }
}

/// Sends `head` and `body`, and reads one answer. With `hang_up` the sending side is closed
/// after the body.
pub(crate) fn exchange(
    addr: SocketAddr,
    head: &[u8],
    body: &[u8],
    hang_up: bool,
) -> std::io::Result<Response> {
    let stream = TcpStream::connect_timeout(&addr, ANSWER_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let is_head = head.starts_with(b"HEAD ");
    thread::scope(|scope| {
        let mut to = stream.try_clone()?;
        let sender = scope.spawn(move || {
            // A server may answer and close before it has read everything: the answer counts.
            let sent = to.write_all(head).and_then(|()| to.write_all(body));
            if hang_up && sent.is_ok() {
                let _ = to.shutdown(Shutdown::Write);
            }
        });
        let answer = read_answer(&mut Input::new(&stream), is_head);
        let _ = stream.shutdown(Shutdown::Both);
        sender.join().expect("the sender does not panic");
        answer
    })
}

/// Reads answers until one that is final (not 1xx).
pub(crate) fn read_answer(from: &mut Input<'_>, is_head: bool) -> std::io::Result<Response> {
    loop {
        let Some((status, headers)) = read_head(from)? else {
            return Ok(Response { status: 0, headers: Vec::new(), body: Vec::new(), whole: false });
        };
        if (100..200).contains(&status) {
            continue;
        }
        let mut response = Response { status, headers, body: Vec::new(), whole: true };
        if is_head || status == 204 || status == 304 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            response.whole = from.chunked(&mut response.body)?;
        } else if let Some(len) = response.header("content-length") {
            let len = len.parse().expect("a content-length is a number");
            response.whole = from.exactly(len, &mut response.body)?;
        } else {
            from.rest(&mut response.body)?;
        }
        return Ok(response);
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(from: &mut Input<'_>) -> std::io::Result<Option<Head>> {
    let Some(first) = from.line()? else { return Ok(None) };
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let mut headers = Vec::new();
    while let Some(line) = from.line()? {
        if line.is_empty() {
            return Ok(Some((status, headers)));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(None)
}

/// A socket with what was read of it and not used yet.
pub(crate) struct Input<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(stream: &'a TcpStream) -> Input<'a> {
        Input { stream, buffer: Vec::new(), at: 0 }
    }

    /// Reads more; `false` at the end, also when the other side reset the connection.
    fn fill(&mut self) -> std::io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut piece = [0; 64 << 10];
        match (&mut &*self.stream).read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn line(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer[self.at..].iter().position(|&b| b == b'\n') {
                let line = &self.buffer[self.at..self.at + end];
                let line = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
                self.at += end + 1;
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn exactly(&mut self, mut len: usize, into: &mut Vec<u8>) -> std::io::Result<bool> {
        while len > 0 {
            if self.at == self.buffer.len() && !self.fill()? {
                return Ok(false);
            }
            let take = len.min(self.buffer.len() - self.at);
            into.extend_from_slice(&self.buffer[self.at..self.at + take]);
            self.at += take;
            len -= take;
        }
        Ok(true)
    }

    fn rest(&mut self, into: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            into.extend_from_slice(&self.buffer[self.at..]);
            self.at = self.buffer.len();
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    fn chunked(&mut self, into: &mut Vec<u8>) -> std::io::Result<bool> {
        loop {
            let Some(line) = self.line()? else { return Ok(false) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).expect("a chunk size is hexadecimal");
            if !self.exactly(size, into)? {
                return Ok(false);
            }
            if size == 0 {
                while self.line()?.is_some_and(|line| !line.is_empty()) {}
                return Ok(true);
            }
            self.line()?;
        }
    }
}

/// The insides of all elements `tag`, which does not contain itself.
pub(crate) fn blocks(text: &str, tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(&format!("<{tag}")) {
        rest = &rest[at + 1 + tag.len()..];
        let Some(end) = rest.find('>') else { break };
        match rest.as_bytes()[0] {
            b'>' | b' ' => {}
            b'/' => {
                found.push(String::new());
                continue;
            }
            _ => continue,
        }
        if rest[..end].ends_with('/') {
            found.push(String::new());
            continue;
        }
        let inside = &rest[end + 1..];
        let Some(close) = inside.find(&format!("</{tag}>")) else { break };
        found.push(inside[..close].to_owned());
        rest = &inside[close..];
    }
    found
}

/// The text of the first element `tag`.
pub(crate) fn field(text: &str, tag: &str) -> Option<String> {
    blocks(text, tag).first().map(|inside| unescape(inside))
}

/// The texts of all elements `tag`.
pub(crate) fn fields(text: &str, tag: &str) -> Vec<String> {
    blocks(text, tag).iter().map(|inside| unescape(inside)).collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = at + rest[at..].find(';').expect("an entity ends");
        let entity = &rest[at + 1..end];
        out.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let number = other.strip_prefix('#').expect("a known entity");
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(code.expect("a number")).expect("a character")
            }
        });
        rest = &rest[end + 1..];
    }
    out + rest
}

/// `text` for an element of XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[test]
fn elements_are_found_in_xml() {
    let text = "<A><Name>x</Name><Names/><Name a=\"b\">y&amp;&#x21;</Name><Name/></A>";
    assert_eq!(fields(text, "Name"), ["x", "y&!", ""]);
    assert_eq!(field(text, "Names").as_deref(), Some(""));
    assert_eq!(field(text, "Other"), None);
}
