//! The one spelling of a path that is matched and forwarded (RFC 3986 §6.2.2, CONTRACT §3.2).
//!
//! A route protects nothing if the upstream reads the path in another way than we matched it. So a path is rewritten
//! into its one normal form, that form is what goes on, and a path that no normal form can make safe is refused.

use std::borrow::Cow;

use thiserror::Error;

/// A path in normal form: ASCII, begins with `/`, no empty and no dot segments inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// The path; borrowed where the input was normal already.
    pub path: Cow<'a, str>,
    /// It holds `%2F`, which only a route with `allow_encoded_slash` may take.
    pub encoded_slash: bool,
}

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hex digits after it.
    #[error("the path holds an invalid percent escape")]
    Escape,
    /// A control character or a space, raw, or a control character encoded.
    #[error("the path holds a control character or a space")]
    Control,
    /// `\`, which some programs take for `/`.
    #[error("the path holds a backslash")]
    Backslash,
    /// `%2e` in a dot segment.
    #[error("the path holds an encoded dot segment")]
    EncodedDots,
    /// `..;x`, which some programs take for `..`, or a dot segment beside `%2F`.
    #[error("the path holds a dot segment in disguise")]
    DisguisedDots,
    /// `%252e`, `%252f`, `%255c`: another path for whoever decodes twice.
    #[error("the path holds a doubly encoded dot, slash or backslash")]
    DoublyEncoded,
    /// Its octets are not UTF-8, or are an overlong form of it.
    #[error("the path is not valid UTF-8")]
    NotUtf8,
    /// A raw `#` or `?`, which end a path.
    #[error("the path holds a raw # or ?")]
    Delimiter,
}

/// Brings a path (no query) into normal form. Clean paths, which nearly all are, cost one scan and no allocation.
///
/// In this order: unreserved characters decoded, other escapes in upper case, whatever no URI may hold raw encoded,
/// runs of `/` merged, dot segments removed (RFC 3986 §5.2.4; those above the root have no effect). What comes out
/// is left unchanged by a second turn.
///
/// # Errors
/// Every spelling that programs are known to read differently (CONTRACT §3.2). `%2F` is reported, not refused: only
/// the route knows whether it is data.
pub fn normalise(raw: &str) -> Result<NormalPath<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_clean(raw) {
        return Ok(NormalPath { path: Cow::Borrowed(raw), encoded_slash: false });
    }
    rewrite(raw)
}

/// The ways in which some program might read a normal path beyond its first `kept` bytes (a matched prefix, which is
/// meant as it is spelled): `%2F` and other reserved characters decoded, path parameters (`;x`) dropped before or
/// after that. Empty, and without allocation, for a path that has neither.
pub fn other_readings(path: &str, kept: usize) -> impl Iterator<Item = String> {
    let (prefix, rest) = path.split_at_checked(kept).unwrap_or((path, ""));
    let parameters = rest.contains(';') || rest.contains("%3B");
    let encoded = rest.contains('%') && decode_reserved(rest) != rest;
    let decoded = encoded.then(|| join(prefix, &decode_reserved(rest)));
    let dropped_first = parameters.then(|| join(prefix, &decode_reserved(&drop_parameters(rest))));
    let dropped_last = parameters.then(|| join(prefix, &drop_parameters(&decode_reserved(rest))));
    [decoded, dropped_first, dropped_last].into_iter().flatten()
}

/// Nothing to decode, merge, remove or refuse: pchar and single slashes, no segment that begins with a dot.
fn is_clean(raw: &str) -> bool {
    let mut previous = 0;
    for &byte in raw.as_bytes() {
        let clean = match byte {
            b'/' | b'.' => previous != b'/',
            byte => is_unreserved(byte) || is_reserved_pchar(byte),
        };
        if !clean {
            return false;
        }
        previous = byte;
    }
    true
}

fn rewrite(raw: &str) -> Result<NormalPath<'_>, PathError> {
    let mut out = String::with_capacity(raw.len() + 16);
    let mut encoded_slash = false;
    let mut segments = raw[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let parent = out.len();
        out.push('/');
        let notes = push_segment(segment, &mut out)?;
        let written = &out[parent + 1..];
        if has_doubly_encoded(written) {
            return Err(PathError::DoublyEncoded);
        }
        if (notes.encoded_slash || written.starts_with('.')) && has_disguised_dots(written) {
            return Err(PathError::DisguisedDots);
        }
        encoded_slash |= notes.encoded_slash;
        let up = match written {
            "" => Some(parent),
            "." | ".." if notes.encoded_dot => return Err(PathError::EncodedDots),
            "." => Some(parent),
            ".." => Some(out[..parent].rfind('/').unwrap_or(0)),
            _ => None,
        };
        if let Some(up) = up {
            out.truncate(up);
            if last {
                out.push('/'); // "/a/.." is the directory "/", "/a/." is "/a/"
            }
        }
    }
    // A dot segment may have taken the only segment with `%2F` away; what is gone is not forwarded.
    encoded_slash = encoded_slash && out.contains("%2F");
    let path = if out == raw { Cow::Borrowed(raw) } else { Cow::Owned(out) };
    Ok(NormalPath { path, encoded_slash })
}

/// What the written form of a segment no longer shows, or would have to be searched for.
struct SegmentNotes {
    encoded_dot: bool,
    encoded_slash: bool,
}

/// Appends one segment in normal form.
fn push_segment(segment: &str, out: &mut String) -> Result<SegmentNotes, PathError> {
    let mut notes = SegmentNotes { encoded_dot: false, encoded_slash: false };
    let mut high = Vec::new(); // octets above ASCII since the last ASCII one: whole characters, or not UTF-8
    let mut bytes = segment.bytes();
    while let Some(raw) = bytes.next() {
        let escaped = raw == b'%';
        let byte = if escaped { escape(&mut bytes).ok_or(PathError::Escape)? } else { raw };
        if byte >= 0x80 {
            high.push(byte);
        } else {
            check_characters(&mut high)?;
        }
        match byte {
            0..0x20 | 0x7f => return Err(PathError::Control),
            b' ' if !escaped => return Err(PathError::Control),
            b'\\' => return Err(PathError::Backslash),
            b'#' | b'?' if !escaped => return Err(PathError::Delimiter),
            b'/' => {
                notes.encoded_slash = true; // a raw one ended the segment
                push_escape(byte, out);
            }
            _ if is_unreserved(byte) => {
                notes.encoded_dot |= escaped && byte == b'.';
                out.push(char::from(byte));
            }
            _ if is_reserved_pchar(byte) && !escaped => out.push(char::from(byte)),
            _ => push_escape(byte, out),
        }
    }
    check_characters(&mut high)?;
    Ok(notes)
}

/// The octet of the two hex digits that come next.
fn escape(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit()? << 4 | digit()?)
}

fn push_escape(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// A run of octets above ASCII must be characters, and none of them a control character (U+0080 to U+009F).
fn check_characters(high: &mut Vec<u8>) -> Result<(), PathError> {
    if high.is_empty() {
        return Ok(());
    }
    let text = std::str::from_utf8(high).map_err(|_| PathError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    high.clear();
    Ok(())
}

/// `%25` (any number of turns) and then the rest of an escaped dot, slash or backslash. Looks at the written form,
/// because `%25%32e` only shows there.
fn has_doubly_encoded(written: &str) -> bool {
    written.match_indices("%25").any(|(at, escape)| {
        let mut rest = &written[at + escape.len()..];
        while let Some(inner) = rest.strip_prefix("25") {
            rest = inner;
        }
        let hex = rest.as_bytes().get(..2).unwrap_or_default();
        [b"2e", b"2f", b"5c"].iter().any(|bad| hex.eq_ignore_ascii_case(*bad))
    })
}

/// A piece between `%2F`s that is a dot segment, or a dot segment with parameters.
fn has_disguised_dots(written: &str) -> bool {
    if matches!(written, "." | "..") {
        return false; // an honest one
    }
    written.split("%2F").any(|piece| {
        let name = piece.split(';').next().unwrap_or_default();
        matches!(name.split("%3B").next(), Some("." | ".."))
    })
}

fn decode_reserved(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let mut after = rest[at + 1..].bytes();
        match escape(&mut after).filter(|byte| *byte == b'/' || is_reserved_pchar(*byte)) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn drop_parameters(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        out.push_str(segment.split(';').next().unwrap_or_default());
    }
    out
}

/// Prefix and rest, runs of `/` merged (dropping parameters empties a segment such as `;x`).
fn join(prefix: &str, rest: &str) -> String {
    let mut out = String::with_capacity(prefix.len() + rest.len());
    for part in [prefix, rest] {
        for c in part.chars() {
            if c != '/' || !out.ends_with('/') {
                out.push(c);
            }
        }
    }
    out
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What else a segment may hold raw (RFC 3986 §3.3): these have two spellings that are not equivalent.
const fn is_reserved_pchar(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &str, expected: Result<&str, PathError>) {
        let got = normalise(raw).map(|normal| normal.path.into_owned());
        assert_eq!(got.as_deref(), expected.as_ref().copied(), "for {raw:?}");
    }

    #[test]
    fn brings_equivalent_spellings_into_one() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("//", "/"),
            ("///a", "/a"),
            ("/a//b", "/a/b"),
            ("/a////b//", "/a/b/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/..", "/"),
            ("/../", "/"),
            ("/../../a", "/a"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/b/../../../c", "/c"),
            ("/a//../b", "/b"),
            ("/a/.//../b", "/b"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("/..a", "/..a"),
            ("/a..", "/a.."),
            ("/.well-known/jwks.json", "/.well-known/jwks.json"),
            ("/%61", "/a"),
            ("/%41%7e%5F%2d", "/A~_-"),
            ("/file%2etxt", "/file.txt"),
            ("/%2e%2e%2e", "/..."),
            ("/%2ea", "/.a"),
            ("/a%20b", "/a%20b"),
            ("/a%3ab", "/a%3Ab"),
            ("/a:b", "/a:b"),
            ("/a;b=c", "/a;b=c"),
            ("/a%3bb", "/a%3Bb"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/日本", "/%E6%97%A5%E6%9C%AC"),
            ("/a|b", "/a%7Cb"),
            ("/{id}", "/%7Bid%7D"),
            ("/a[0]", "/a%5B0%5D"),
            ("/\"q\"^`", "/%22q%22%5E%60"),
            ("/a%23b%3Fc", "/a%23b%3Fc"),
            ("/100%25", "/100%25"),
            ("/%2541", "/%2541"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F", "/a%2F"),
            ("/a%2F/../b", "/b"),
            ("/!$&'()*+,=@", "/!$&'()*+,=@"),
        ] {
            check(raw, Ok(normal));
        }
    }

    #[test]
    fn refuses_what_programs_decode_differently() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/%2%65", PathError::Escape),
            ("/%é0", PathError::Escape),
            ("/%00", PathError::Control),
            ("/%0d%0a", PathError::Control),
            ("/%7f", PathError::Control),
            ("/%1F", PathError::Control),
            ("/%c2%85", PathError::Control),
            ("/a b", PathError::Control),
            ("/a\tb", PathError::Control),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/a%5Cb", PathError::Backslash),
            ("/..\\admin", PathError::Backslash),
            ("/%2e", PathError::EncodedDots),
            ("/%2e%2e/admin", PathError::EncodedDots),
            ("/.%2E/admin", PathError::EncodedDots),
            ("/a/%2e./b", PathError::EncodedDots),
            ("/..;/admin", PathError::DisguisedDots),
            ("/.;/admin", PathError::DisguisedDots),
            ("/..;a=b", PathError::DisguisedDots),
            ("/..%3B/admin", PathError::DisguisedDots),
            ("/..%3b", PathError::DisguisedDots),
            ("/%2e%2e;/admin", PathError::DisguisedDots),
            ("/a%2f..", PathError::DisguisedDots),
            ("/a%2F..%2Fadmin", PathError::DisguisedDots),
            ("/..%2Fadmin", PathError::DisguisedDots),
            ("/a%2F%2e%2E", PathError::DisguisedDots),
            ("/a%2F..;x", PathError::DisguisedDots),
            ("/%252e%252e/admin", PathError::DoublyEncoded),
            ("/%252E", PathError::DoublyEncoded),
            ("/a%252fb", PathError::DoublyEncoded),
            ("/a%255cb", PathError::DoublyEncoded),
            ("/a%25252eb", PathError::DoublyEncoded),
            ("/%25%32%65", PathError::DoublyEncoded),
            ("/%25%32e", PathError::DoublyEncoded),
            ("/%c0%ae", PathError::NotUtf8),
            ("/%ff", PathError::NotUtf8),
            ("/%c3", PathError::NotUtf8),
            ("/%c3a%a9", PathError::NotUtf8),
            ("/%c3é", PathError::NotUtf8),
            ("/%ed%a0%80", PathError::NotUtf8),
            ("/a#b", PathError::Delimiter),
            ("/a?b", PathError::Delimiter),
        ] {
            check(raw, Err(error));
        }
    }

    #[test]
    fn a_clean_path_is_borrowed() {
        for raw in ["/", "/api/v1/users/42", "/a.b/c;d=e/", "/caf%C3%A9", "/.a"] {
            assert!(matches!(normalise(raw).unwrap().path, Cow::Borrowed(_)), "for {raw:?}");
        }
    }

    #[test]
    fn reports_an_encoded_slash_that_is_forwarded() {
        assert!(normalise("/a%2fb").unwrap().encoded_slash);
        assert!(!normalise("/a/b").unwrap().encoded_slash);
        assert!(!normalise("/a%2fb/../c").unwrap().encoded_slash);
    }

    #[test]
    fn knows_how_others_might_read_a_path() {
        let readings = |path, kept| other_readings(path, kept).collect::<Vec<_>>();
        assert_eq!(readings("/a/b%20c", 0), Vec::<String>::new());
        assert_eq!(readings("/v1:x%3Ay", 0), ["/v1:x:y"]);
        assert_eq!(readings("/a%2Fb%2F/c", 0), ["/a/b/c"]);
        assert_eq!(readings("/;x/admin", 0), ["/admin", "/admin"]);
        assert_eq!(readings("/a%3Bx/b", 0), ["/a;x/b", "/a;x/b", "/a/b"]);
        assert_eq!(readings("/a;v=1/b", 6), Vec::<String>::new());
        assert_eq!(readings("/a;v=1/b;c", 6), ["/a;v=1/b", "/a;v=1/b"]);
    }

    /// Pieces that matter, in any order: random bytes alone would hardly ever meet two of them.
    fn spelling() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just(";".to_owned()),
            Just("%25".to_owned()),
            Just("2e".to_owned()),
            "%2[eEfF5]",
            "%[0-9a-fA-F]{2}",
            "[a-zé%/.;:\\[]{1,3}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normal_form_stays_as_it_is(raw in spelling()) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert_eq!(normalise(&normal.path), Ok(normal.clone()));
            }
        }

        #[test]
        fn normal_form_is_ascii_without_empty_or_dot_segments(raw in spelling()) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert!(normal.path.starts_with('/') && normal.path.is_ascii() && !normal.path.contains("//"));
                prop_assert!(normal.path.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert_eq!(normal.encoded_slash, normal.path.contains("%2F"));
                prop_assert!(http::uri::PathAndQuery::try_from(&*normal.path).is_ok());
            }
        }

        #[test]
        fn any_text_is_answered(raw in ".*") {
            let _ = normalise(&raw);
        }
    }
}
