//! The framing of `aws-chunked` bodies, checked and made small as they pass.
//!
//! # Why bodies are re-framed and not decoded here
//!
//! s3s decodes `aws-chunked` itself, because the signed `x-amz-content-sha256` says so, and it
//! holds every chunk whole. What is given to it must therefore be `aws-chunked` again: unsigned
//! chunks leave in pieces of at most [`limits::PIECE`], whatever size they came in, while signed
//! ones keep their borders (their signatures cover them) and are refused above
//! [`limits::SIGNED_CHUNK_MAX`]. Many small pieces are joined, so that what s3s holds is
//! little more than what was sent.
//!
//! # Invariants
//!
//! A body ends without an error only if it had its terminal chunk, as many bytes as
//! `x-amz-decoded-content-length` says, and exactly the trailers that `x-amz-trailer` promises.

use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;

use crate::base::limits;
use crate::s3::body_error::BodyFault;

/// Bytes of a chunk's header line.
const LINE_MAX: usize = 256;
/// Bytes of everything after the terminal chunk.
const TAIL_MAX: usize = 16 * 1024;
/// Smaller pieces are copied together.
const SMALL: usize = 4 * 1024;
/// So many joined bytes are passed on.
const JOINED: usize = 64 * 1024;
const SIGNATURE_HEX: usize = 64;
const CRLF: &[u8] = b"\r\n";
/// The trailer that s3s checks and that nobody promises.
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Which of the three forms a body has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    UnsignedTrailer,
    Signed,
    SignedTrailer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's header line.
    Header,
    Data {
        left: u64,
    },
    /// In the CRLF after a chunk's bytes.
    DataEnd {
        seen: usize,
    },
    /// After the terminal chunk.
    Tail,
}

/// One body in passing.
#[derive(Debug)]
pub(crate) struct Chunks {
    framing: Framing,
    state: State,
    /// The header line so far.
    line: Vec<u8>,
    /// Small pieces of data on their way out.
    joined: BytesMut,
    tail: Vec<u8>,
    declared: u64,
    decoded: u64,
    /// Names in lower case.
    promised: Vec<String>,
}

impl Chunks {
    pub(crate) fn new(framing: Framing, declared: u64, promised: Vec<String>) -> Chunks {
        Chunks {
            framing,
            state: State::Header,
            line: Vec::new(),
            joined: BytesMut::new(),
            tail: Vec::new(),
            declared,
            decoded: 0,
            promised,
        }
    }

    /// Takes what arrived and puts what may be passed on into `out`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: Bytes,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), BodyFault> {
        while !bytes.is_empty() {
            match self.state {
                State::Header => self.feed_header(&mut bytes, out)?,
                State::Data { left } => {
                    let here = left.min(bytes.len() as u64);
                    let piece = bytes.split_to(here as usize);
                    self.pass(piece, out);
                    self.state = match left - here {
                        0 => State::DataEnd { seen: 0 },
                        left => State::Data { left },
                    };
                }
                State::DataEnd { seen } => {
                    if bytes.split_to(1)[0] != CRLF[seen] {
                        return Err(BodyFault::ChunkEnd);
                    }
                    self.state = State::DataEnd { seen: seen + 1 };
                    if seen + 1 == CRLF.len() {
                        self.end_chunk(out);
                    }
                }
                State::Tail => {
                    if self.tail.len() + bytes.len() > TAIL_MAX {
                        return Err(BodyFault::TrailerTooLarge);
                    }
                    self.tail.extend_from_slice(&bytes);
                    bytes.clear();
                }
            }
        }
        Ok(())
    }

    /// The body has ended: passes its trailers on, if all is as it was announced.
    pub(crate) fn finish(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), BodyFault> {
        if self.state != State::Tail {
            return Err(BodyFault::TooShort);
        }
        let trailers = self.trailers()?;
        out.push_back(Bytes::from(trailers));
        Ok(())
    }

    fn feed_header(
        &mut self,
        bytes: &mut Bytes,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), BodyFault> {
        let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let piece = bytes.split_to(end.unwrap_or(bytes.len()));
        if self.line.len() + piece.len() > LINE_MAX {
            return Err(BodyFault::ChunkHeader);
        }
        self.line.extend_from_slice(&piece);
        if end.is_none() {
            return Ok(());
        }
        let size = self.chunk_size().ok_or(BodyFault::ChunkHeader)?;
        if self.framing != Framing::UnsignedTrailer {
            if size > limits::SIGNED_CHUNK_MAX {
                return Err(BodyFault::ChunkTooLarge);
            }
            out.push_back(Bytes::copy_from_slice(&self.line));
        }
        self.line.clear();
        if size == 0 {
            return self.terminal(out);
        }
        let decoded = self.decoded.checked_add(size).ok_or(BodyFault::TooLong)?;
        if decoded > self.declared {
            return Err(BodyFault::TooLong);
        }
        self.decoded = decoded;
        self.state = State::Data { left: size };
        Ok(())
    }

    /// The size in the header line, if the line is as its framing wants it.
    fn chunk_size(&self) -> Option<u64> {
        let line = std::str::from_utf8(self.line.strip_suffix(CRLF)?).ok()?;
        let digits = match self.framing {
            Framing::UnsignedTrailer => line,
            Framing::Signed | Framing::SignedTrailer => {
                let (digits, signature) = line.split_once(";chunk-signature=")?;
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if signature.len() != SIGNATURE_HEX || !signature.bytes().all(hex) {
                    return None;
                }
                digits
            }
        };
        if !(1..=16).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u64::from_str_radix(digits, 16).ok()
    }

    fn terminal(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), BodyFault> {
        if self.decoded != self.declared {
            return Err(BodyFault::TooShort);
        }
        if self.framing == Framing::UnsignedTrailer {
            self.flush(out);
            out.push_back(Bytes::from_static(b"0\r\n"));
        }
        self.state = State::Tail;
        Ok(())
    }

    fn end_chunk(&mut self, out: &mut VecDeque<Bytes>) {
        if self.framing != Framing::UnsignedTrailer {
            self.flush(out);
            out.push_back(Bytes::from_static(CRLF));
        }
        self.state = State::Header;
    }

    fn pass(&mut self, mut piece: Bytes, out: &mut VecDeque<Bytes>) {
        while !piece.is_empty() {
            if self.joined.is_empty() && piece.len() >= SMALL {
                let here = piece.split_to(piece.len().min(limits::PIECE));
                self.emit(here, out);
                continue;
            }
            let here = piece.len().min(JOINED - self.joined.len());
            self.joined.extend_from_slice(&piece.split_to(here));
            if self.joined.len() == JOINED {
                self.flush(out);
            }
        }
    }

    fn flush(&mut self, out: &mut VecDeque<Bytes>) {
        if !self.joined.is_empty() {
            let joined = self.joined.split().freeze();
            self.emit(joined, out);
        }
    }

    fn emit(&self, data: Bytes, out: &mut VecDeque<Bytes>) {
        if self.framing == Framing::UnsignedTrailer {
            out.push_back(Bytes::from(format!("{:x}\r\n", data.len())));
            out.push_back(data);
            out.push_back(Bytes::from_static(CRLF));
        } else {
            out.push_back(data);
        }
    }

    /// The trailers in their plain form, lines that end in CRLF and an empty one. Clients differ
    /// in how they end them; s3s is given one form.
    fn trailers(&self) -> Result<String, BodyFault> {
        let text = std::str::from_utf8(&self.tail).map_err(|_| BodyFault::TrailerSyntax)?;
        let mut plain = String::new();
        let mut missing = self.promised.clone();
        let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(BodyFault::TrailerSyntax)?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if !value.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(BodyFault::TrailerSyntax);
            }
            if let Some(at) = missing.iter().position(|wanted| *wanted == name) {
                missing.swap_remove(at);
            } else if name != TRAILER_SIGNATURE || self.framing != Framing::SignedTrailer {
                return Err(BodyFault::TrailerNames);
            }
            plain.push_str(&format!("{name}:{value}\r\n"));
        }
        if !missing.is_empty() {
            return Err(BodyFault::TrailerNames);
        }
        plain.push_str("\r\n");
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        framing: Framing,
        declared: u64,
        promised: &[&str],
        body: &[u8],
        step: usize,
    ) -> Result<Vec<Bytes>, BodyFault> {
        let promised = promised.iter().map(|&name| name.to_owned()).collect();
        let mut chunks = Chunks::new(framing, declared, promised);
        let mut out = VecDeque::new();
        for piece in body.chunks(step) {
            chunks.feed(Bytes::copy_from_slice(piece), &mut out)?;
        }
        chunks.finish(&mut out)?;
        Ok(out.into())
    }

    fn unsigned(declared: u64, promised: &[&str], body: &str) -> Result<String, BodyFault> {
        let whole = run(Framing::UnsignedTrailer, declared, promised, body.as_bytes(), 1 << 20);
        let single = run(Framing::UnsignedTrailer, declared, promised, body.as_bytes(), 1);
        let text = |out: Vec<Bytes>| String::from_utf8(out.concat()).unwrap();
        let whole = whole.map(text);
        assert_eq!(whole.is_ok(), single.is_ok());
        if let (Err(one), Err(other)) = (&whole, &single) {
            assert_eq!(one, other);
        }
        whole
    }

    #[test]
    fn a_proper_body_passes_and_its_trailers_are_made_plain() {
        let crc = &["x-amz-checksum-crc32"][..];
        let body = "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        assert_eq!(unsigned(5, crc, body).unwrap(), body);
        // The form that one widespread client sends.
        let odd = "5\r\nhello\r\n0\r\nX-Amz-Checksum-Crc32: AAAAAA==\n\r\n\r\n\r\n";
        assert_eq!(unsigned(5, crc, odd).unwrap(), body);
        assert_eq!(unsigned(0, &[], "0\r\n\r\n").unwrap(), "0\r\n\r\n");
    }

    #[test]
    fn whatever_is_not_as_announced_is_refused() {
        use BodyFault::*;
        let crc = &["x-amz-checksum-crc32"][..];
        for (declared, promised, body, fault) in [
            (5, &[][..], "5\r\nhello\r\n", TooShort),
            (5, &[], "5\r\nhel", TooShort),
            (5, &[], "", TooShort),
            (6, &[], "5\r\nhello\r\n0\r\n\r\n", TooShort),
            (4, &[], "5\r\nhello\r\n0\r\n\r\n", TooLong),
            (5, &[], "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", TooLong),
            (5, &[], "5\r\nhelloXX0\r\n\r\n", ChunkEnd),
            (5, &[], "+5\r\nhello\r\n0\r\n\r\n", ChunkHeader),
            (5, &[], "5 \r\nhello\r\n0\r\n\r\n", ChunkHeader),
            (5, &[], "5\nhello\r\n0\r\n\r\n", ChunkHeader),
            (5, &[], "5;x=y\r\nhello\r\n0\r\n\r\n", ChunkHeader),
            (5, &[], "00000000000000005\r\nhello\r\n0\r\n\r\n", ChunkHeader),
            (5, crc, "5\r\nhello\r\n0\r\n\r\n", TrailerNames),
            (0, &[], "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", TrailerNames),
            (0, crc, "0\r\nx-amz-checksum-crc32 AAAAAA==\r\n\r\n", TrailerSyntax),
            (0, crc, "0\r\nx-amz-checksum-crc32:A\r\nx-amz-checksum-crc32:A\r\n", TrailerNames),
        ] {
            assert_eq!(unsigned(declared, promised, body), Err(fault), "{body:?}");
        }
        let long = format!("0\r\n{}", "x".repeat(TAIL_MAX + 1));
        assert_eq!(unsigned(0, &[], &long), Err(TrailerTooLarge));
        assert_eq!(unsigned(5, &[], &"1".repeat(LINE_MAX + 1)), Err(ChunkHeader));
    }

    #[test]
    fn large_unsigned_chunks_leave_small_and_small_pieces_leave_joined() {
        let size = 3 * limits::PIECE + 17;
        let mut body = format!("{size:x}\r\n").into_bytes();
        body.extend((0..size).map(|i| i as u8));
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        for step in [1000, 100_000, body.len()] {
            let out = run(Framing::UnsignedTrailer, size as u64, &[], &body, step).unwrap();
            assert!(out.iter().all(|piece| piece.len() <= limits::PIECE), "{step}");
            let pieces = size / JOINED.min(step.max(JOINED)) + 2;
            assert!(out.len() <= 3 * pieces + 2, "{step}: {}", out.len());
            // What left is a proper body of the same bytes.
            let again = out.concat();
            let mut chunks = Chunks::new(Framing::UnsignedTrailer, size as u64, Vec::new());
            let mut twice = VecDeque::new();
            chunks.feed(Bytes::from(again), &mut twice).unwrap();
            chunks.finish(&mut twice).unwrap();
            // Header, data, CRLF, over and over; then the terminal chunk and no trailers.
            let data: Vec<u8> = twice
                .iter()
                .take(twice.len() - 2)
                .skip(1)
                .step_by(3)
                .flat_map(|piece| piece.to_vec())
                .collect();
            assert_eq!(data.len(), size, "{step}");
            assert!(data.iter().enumerate().all(|(i, &b)| b == i as u8));
        }
    }

    #[test]
    fn signed_chunks_keep_their_borders_and_have_a_largest_size() {
        let sig = "0".repeat(64);
        let body = format!("5;chunk-signature={sig}\r\nhello\r\n0;chunk-signature={sig}\r\n\r\n");
        for step in [1, 7, 1000] {
            let out = run(Framing::Signed, 5, &[], body.as_bytes(), step).unwrap();
            assert_eq!(out.concat(), body.as_bytes());
        }
        let large = format!("{:x};chunk-signature={sig}\r\n", limits::SIGNED_CHUNK_MAX + 1);
        let fault = run(Framing::Signed, u64::MAX, &[], large.as_bytes(), 1000);
        assert_eq!(fault, Err(BodyFault::ChunkTooLarge));
        let bare = run(Framing::Signed, 5, &[], b"5\r\nhello\r\n0\r\n\r\n", 1000);
        assert_eq!(bare, Err(BodyFault::ChunkHeader));
        let trailer = body.replace("\r\n\r\n", "\r\nx-amz-trailer-signature:00\r\n\r\n");
        let promised = run(Framing::Signed, 5, &[], trailer.as_bytes(), 1000);
        assert_eq!(promised, Err(BodyFault::TrailerNames));
    }
}
