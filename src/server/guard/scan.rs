//! One request head, judged on its raw bytes, line by line as they come.
//!
//! The scan never looks twice at a byte it has passed, and what it says of a head does not depend on how the head
//! was cut into pieces: lines are judged in order, and a limit is a position, not a number of reads.

use std::ops::Range;

use memchr::{memchr, memchr2};

use super::chars;
use super::fault::Fault;
use crate::server::HeadLimits;

/// Empty lines before a request line that are passed over (RFC 9112 §2.2 asks for at least one).
const BLANK_LINES_MAX: u8 = 4;
/// Longer than any registered method (RFC 9110 §16.1.3: the longest has 17 letters).
const METHOD_BYTES_MAX: usize = 32;
/// Of a request line, what is not its target.
const AROUND_TARGET: usize = METHOD_BYTES_MAX + 2 + "HTTP/1.1".len();

/// How the end of a request body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// So many bytes; never 0.
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What a good head says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Head {
    /// From the first byte (empty lines included) to the end of the empty line.
    pub(in crate::server) end: usize,
    pub(in crate::server) body: BodyLength,
    pub(in crate::server) expect: bool,
    /// Has an `Upgrade` field, in HTTP/1.1.
    pub(in crate::server) upgrade: bool,
    pub(in crate::server) http_10: bool,
    /// The client means to send another request behind this one.
    pub(in crate::server) keep_alive: bool,
    /// Well framed, yet not served.
    pub(in crate::server) refused: Option<Fault>,
}

/// Where a field stands in the bytes of its head.
#[derive(Clone, Debug)]
pub(in crate::server) struct Field {
    pub(in crate::server) name: Range<usize>,
    /// Without the white space around it.
    pub(in crate::server) value: Range<usize>,
}

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Scanned {
    /// Nothing yet but empty lines; they can be thrown away.
    Blank,
    /// The head goes on.
    More,
    /// A whole, good head.
    Head(Head),
    /// No good head begins with these bytes.
    Bad(Fault),
}

/// The state of a scan; [`Default`] is the start of a head.
#[derive(Debug, Default)]
pub(in crate::server) struct HeadScan {
    /// Start of the line under the eye.
    line: usize,
    /// No line end before this, and no control character on this line.
    searched: usize,
    /// Where the request line starts.
    base: usize,
    blank: u8,
    line_one: Option<LineOne>,
    fields: Vec<Field>,
    host: bool,
    authorization: bool,
    expect: bool,
    upgrade: bool,
    coding: bool,
    length: Option<u64>,
    close: bool,
    keep_alive: bool,
}

#[derive(Clone, Copy, Debug)]
struct LineOne {
    http_10: bool,
    /// Of the line.
    method_end: usize,
    target_end: usize,
    refused: Option<Fault>,
}

impl HeadScan {
    /// Looks at `bytes`, which start where the head starts and begin with all bytes given before (but for those
    /// given up after [`Scanned::Blank`]). Allocates nothing but the list of fields, which is used again.
    pub(in crate::server) fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Scanned {
        match self.lines(bytes, limits) {
            Ok(scanned) => scanned,
            Err(fault) => Scanned::Bad(fault),
        }
    }

    /// The bytes were thrown away after [`Scanned::Blank`]; how many empty lines there were is remembered.
    pub(in crate::server) fn forget(&mut self) {
        let blank = self.blank;
        self.restart();
        self.blank = blank;
    }

    /// Goes on to the next head.
    pub(in crate::server) fn restart(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Keeps no room for fields.
    pub(in crate::server) fn rest(&mut self) {
        self.fields = Vec::new();
    }

    /// Where the request line starts, behind empty lines; within the bytes scanned.
    pub(in crate::server) const fn base(&self) -> usize {
        self.base
    }

    /// Of a good head: where its method and its target stand.
    pub(in crate::server) fn request_line(&self) -> (Range<usize>, Range<usize>) {
        let base = self.base;
        let (method, target) = self.line_one.map_or((0, 0), |line| (line.method_end, line.target_end));
        (base..base + method, base + method + 1..base + target)
    }

    /// Of a good head: its fields, in their order.
    pub(in crate::server) fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn lines(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Scanned, Fault> {
        loop {
            let (cap, too_long) = self.cap(limits);
            let found = memchr2(b'\r', b'\n', &bytes[self.searched..]).map(|at| self.searched + at);
            let seen = found.unwrap_or(bytes.len());
            let within = seen.min(cap + 1).max(self.searched);
            if !chars::no_control(&bytes[self.searched..within]) {
                return Err(Fault::Control);
            }
            if seen > cap {
                return Err(too_long);
            }
            self.searched = seen;
            let Some(end) = found else {
                return Ok(Scanned::More);
            };
            if bytes[end] == b'\n' {
                return Err(Fault::BareLf);
            }
            match bytes.get(end + 1) {
                Some(b'\n') => {}
                Some(_) => return Err(Fault::BareCr),
                None => return Ok(Scanned::More),
            }
            let (start, line) = (self.line, &bytes[self.line..end]);
            let next = end + 2;
            (self.line, self.searched) = (next, next);
            match self.line_one {
                None if line.is_empty() => {
                    self.blank += 1;
                    if self.blank > BLANK_LINES_MAX {
                        return Err(Fault::BlankLines);
                    }
                    self.base = next;
                    if next == bytes.len() {
                        return Ok(Scanned::Blank);
                    }
                }
                None => self.line_one = Some(request_line(line, limits)?),
                Some(line_one) if line.is_empty() => return self.judge(line_one, next),
                Some(_) => self.field(line, start, limits)?,
            }
        }
    }

    /// The last position where the end of this line may stand, and what it is when it does not.
    fn cap(&self, limits: &HeadLimits) -> (usize, Fault) {
        let head = limits.bytes_max - 2;
        match self.line_one {
            None => (self.base + head.min(limits.uri_bytes_max + AROUND_TARGET), Fault::TargetTooLong),
            Some(_) => (self.base + head, Fault::HeadTooLarge),
        }
    }

    /// `start`: where the line stands.
    fn field(&mut self, line: &[u8], start: usize, limits: &HeadLimits) -> Result<(), Fault> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(if self.fields.is_empty() { Fault::LeadingSpace } else { Fault::Fold });
        }
        if self.fields.len() == limits.fields_max {
            return Err(Fault::TooManyFields);
        }
        let end = line.iter().position(|&b| !chars::is_token(b)).ok_or(Fault::NoColon)?;
        let (name, value) = match line[end] {
            b':' if end > 0 => (&line[..end], &line[end + 1..]),
            b' ' | b'\t' if line[end..].trim_ascii_start().starts_with(b":") => {
                return Err(Fault::SpaceBeforeColon);
            }
            _ => return Err(Fault::FieldName),
        };
        let first = end + 1 + value.iter().take_while(|byte| is_space(byte)).count();
        let last = line.len() - line[first..].iter().rev().take_while(|byte| is_space(byte)).count();
        self.fields.push(Field { name: start..start + end, value: start + first..start + last });
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => self.host(spaces_off(value)),
            6 if is(b"expect") => {
                self.expect = true;
                Ok(())
            }
            7 if is(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            10 if is(b"connection") => {
                for word in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= word.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
                Ok(())
            }
            13 if is(b"authorization") => once(&mut self.authorization, Fault::AuthorizationRepeated),
            14 if is(b"content-length") => self.length(spaces_off(value)),
            17 if is(b"transfer-encoding") => {
                once(&mut self.coding, Fault::CodingRepeated)?;
                // Exactly this, in this spelling: "Chunked", "chunked;x", "chunked\t" and the like are where
                // programs differ. White space before a value is common, after it is not.
                let start = value.iter().position(|&b| b != b' ').unwrap_or(value.len());
                if &value[start..] == b"chunked" { Ok(()) } else { Err(Fault::CodingInvalid) }
            }
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Fault> {
        once(&mut self.host, Fault::HostRepeated)?;
        if chars::host_and_port(value) { Ok(()) } else { Err(Fault::HostInvalid) }
    }

    /// Plain digits, no sign, no list, no leading zero (which some read as octal), and one field only.
    fn length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::LengthRepeated);
        }
        let plain = (1..=18).contains(&value.len())
            && value.iter().all(u8::is_ascii_digit)
            && (value.len() == 1 || value[0] != b'0');
        if !plain {
            return Err(Fault::LengthInvalid);
        }
        self.length = Some(value.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')));
        Ok(())
    }

    /// What can only be said of all fields together (RFC 9112 §3.2, §6.1, §6.3).
    fn judge(&self, line_one: LineOne, end: usize) -> Result<Scanned, Fault> {
        if self.coding && self.length.is_some() {
            return Err(Fault::CodingAndLength);
        }
        if self.coding && line_one.http_10 {
            return Err(Fault::CodingInHttp10);
        }
        if !self.host && !line_one.http_10 {
            return Err(Fault::HostMissing);
        }
        let body = match self.length {
            _ if self.coding => BodyLength::Chunked,
            None | Some(0) => BodyLength::None,
            Some(length) => BodyLength::Known(length),
        };
        match line_one.refused {
            // What follows a CONNECT is a tunnel to its sender; what follows a TRACE with a body is anybody's guess
            // (RFC 9110 §9.3.8 forbids one).
            Some(fault @ Fault::Connect) => return Err(fault),
            Some(_) if body != BodyLength::None => return Err(Fault::TraceBody),
            _ => {}
        }
        Ok(Scanned::Head(Head {
            end,
            body,
            expect: self.expect && !line_one.http_10,
            upgrade: self.upgrade && !line_one.http_10,
            http_10: line_one.http_10,
            keep_alive: !self.close && (self.keep_alive || !line_one.http_10),
            refused: line_one.refused,
        }))
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn once(seen: &mut bool, fault: Fault) -> Result<(), Fault> {
    if std::mem::replace(seen, true) { Err(fault) } else { Ok(()) }
}

fn spaces_off(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3), single spaces.
fn request_line(line: &[u8], limits: &HeadLimits) -> Result<LineOne, Fault> {
    let space = memchr(b' ', line).ok_or(Fault::RequestLine)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    if !chars::token(method) || method.len() > METHOD_BYTES_MAX {
        return Err(Fault::Method);
    }
    let (target, version) = match rest.len().checked_sub(" HTTP/1.1".len()) {
        Some(at) => rest.split_at(at),
        None => return Err(Fault::RequestLine),
    };
    let http_10 = match version {
        b" HTTP/1.1" => false,
        b" HTTP/1.0" => true,
        _ => return Err(Fault::Version),
    };
    if target.len() > limits.uri_bytes_max {
        return Err(Fault::TargetTooLong);
    }
    let line =
        |refused| LineOne { http_10, method_end: space, target_end: space + 1 + target.len(), refused };
    // In any spelling: methods are case-sensitive (RFC 9110 §9.1), but not to every backend.
    if method.eq_ignore_ascii_case(b"CONNECT") {
        // Its target is an authority: not looked at, since it is refused whatever it is.
        return Ok(line(Some(Fault::Connect)));
    }
    request_target(target, method == b"OPTIONS")?;
    Ok(line(method.eq_ignore_ascii_case(b"TRACE").then_some(Fault::Trace)))
}

/// origin-form, absolute-form with `http` or `https`, or for OPTIONS `*` (RFC 9112 §3.2).
fn request_target(target: &[u8], options: bool) -> Result<(), Fault> {
    match target {
        [b'/', ..] => {
            return if chars::path_and_query(target) { Ok(()) } else { Err(Fault::TargetBytes) };
        }
        b"*" if options => return Ok(()),
        _ => {}
    }
    let authority = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(|scheme| &target[scheme.len()..])
        .ok_or(Fault::TargetForm)?;
    let end = authority.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(authority.len());
    if !chars::host_and_port(&authority[..end]) {
        return Err(Fault::TargetForm);
    }
    if chars::path_and_query(&authority[end..]) { Ok(()) } else { Err(Fault::TargetBytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HeadLimits {
        HeadLimits::new(1024, 8, 100)
    }

    fn scan(bytes: &[u8]) -> Scanned {
        HeadScan::default().scan(bytes, &limits())
    }

    #[test]
    fn a_head_ends_where_its_empty_line_ends() {
        let head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\nPOST";
        let Scanned::Head(head) = scan(head) else { panic!() };
        assert_eq!((head.end, head.body, head.expect, head.upgrade), (70, BodyLength::Known(7), true, false));
    }

    #[test]
    fn limits_are_positions_whatever_the_pieces() {
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100));
        let wide = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(1024));
        let binary = [b"\x16\x03\x01".as_slice(), &[b'a'; 2000]].concat();
        for (bytes, fault) in [
            (long.as_bytes(), Fault::TargetTooLong),
            (wide.as_bytes(), Fault::HeadTooLarge),
            (&[b'a'; 2000], Fault::TargetTooLong),
            (&binary, Fault::Control),
        ] {
            assert_eq!(scan(bytes), Scanned::Bad(fault));
            let mut dripped = HeadScan::default();
            let mut last = (1..=bytes.len()).map(|n| dripped.scan(&bytes[..n], &limits()));
            assert_eq!(last.find(|s| *s != Scanned::More), Some(Scanned::Bad(fault)));
        }
    }

    #[test]
    fn a_head_of_exactly_the_limit_passes_and_one_more_byte_does_not() {
        let head = |n: usize| {
            let start = "GET / HTTP/1.1\r\nhost: a\r\nx: ";
            format!("{start}{}\r\n\r\n", "x".repeat(n - start.len() - 4))
        };
        assert!(matches!(scan(head(1024).as_bytes()), Scanned::Head(Head { end: 1024, .. })));
        assert_eq!(scan(head(1025).as_bytes()), Scanned::Bad(Fault::HeadTooLarge));
    }

    #[test]
    fn empty_lines_are_counted_even_when_they_come_alone() {
        let mut scan = HeadScan::default();
        for _ in 0..4 {
            assert_eq!(scan.scan(b"\r\n", &limits()), Scanned::Blank);
            scan.forget();
        }
        assert_eq!(scan.scan(b"\r\n", &limits()), Scanned::Bad(Fault::BlankLines));
    }
}
