//! As much of DER (X.690 §10) and PEM (RFC 7468) as public keys need: strict, and never beyond what is there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`, where a certificate puts its version.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// A reader over elements that follow one another; `None` means malformed.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, which must have this tag.
    pub(super) fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&first, rest) = self.0.split_first()?;
        if first != tag {
            return None;
        }
        let (&length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // Long form, up to 65,535: no public key or certificate that we take is longer. The shortest form is
            // the only one (X.690 §10.1).
            0x81 => (usize::from(*rest.first()?), &rest[1..]),
            0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
            _ => return None,
        };
        let shortest = match self.0.len() - rest.len() {
            2 => 0,
            3 => 0x80,
            _ => 0x100,
        };
        if length < shortest {
            return None;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// The same, as a reader.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.read(tag).map(Self)
    }

    /// Passes over the next element if it has this tag; a malformed one fails at the next read.
    pub(super) fn skip_optional(&mut self, tag: u8) {
        let mut ahead = *self;
        if ahead.read(tag).is_some() {
            *self = ahead;
        }
    }

    /// A positive INTEGER, big-endian, without leading zeros.
    pub(super) fn positive(&mut self) -> Option<&'a [u8]> {
        match self.read(INTEGER)? {
            [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => Some(rest),
            content if content.first().is_some_and(|byte| (1..0x80).contains(byte)) => Some(content),
            _ => None,
        }
    }

    /// A BIT STRING of whole bytes.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        match self.read(BIT_STRING)? {
            [0, bytes @ ..] => Some(bytes),
            _ => None,
        }
    }

    /// That nothing is left.
    pub(super) fn finish(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The SubjectPublicKeyInfo of an X.509 certificate, its content without the outer tag (RFC 5280 §4.1). Nothing of
/// the certificate is verified: it is taken for the wrapping of a key that the operator trusts.
pub(super) fn certificate_key(der: &[u8]) -> Option<&[u8]> {
    let mut outer = Der(der);
    let mut certificate = outer.enter(SEQUENCE)?;
    outer.finish()?;
    let mut fields = certificate.enter(SEQUENCE)?;
    fields.skip_optional(CONTEXT_0); // version
    fields.read(INTEGER)?; // serialNumber
    for _ in 0..4 {
        fields.read(SEQUENCE)?; // signature, issuer, validity, subject
    }
    fields.read(SEQUENCE)
}

/// One block of a PEM file.
pub(super) struct PemBlock {
    pub(super) label: String,
    pub(super) der: Vec<u8>,
}

/// The blocks of a PEM file in order; text outside of them is passed over (RFC 7468 §2). `None` when a block does
/// not end, or holds something other than base64.
pub(super) fn pem_blocks(text: &str) -> Option<Vec<PemBlock>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let mut body = String::new();
        loop {
            let line = lines.next()?;
            match line.strip_prefix("-----END ") {
                Some(end) if end.strip_suffix("-----") == Some(label) => break,
                Some(_) => return None,
                None => body.push_str(line.trim_start()),
            }
        }
        blocks.push(PemBlock { label: label.to_owned(), der: STANDARD.decode(body).ok()? });
    }
    Some(blocks)
}

/// `der` as a PEM block with lines of 64 characters (RFC 7468 §2).
pub(super) fn pem(label: &str, der: &[u8]) -> zeroize::Zeroizing<String> {
    // Sized beforehand: growing would leave copies of a private key behind in freed memory.
    let body = zeroize::Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for at in (0..body.len()).step_by(64) {
        text.push_str(&body[at..body.len().min(at + 64)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    zeroize::Zeroizing::new(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_only_the_shortest_form_of_a_length() {
        let read = |bytes: &[u8]| Der(bytes).read(SEQUENCE).map(<[u8]>::len);
        assert_eq!(read(&[0x30, 0x01, 0xaa]), Some(1));
        assert_eq!(read(&[0x30, 0x81, 0x01, 0xaa]), None);
        assert_eq!(read(&[0x30, 0x82, 0x00, 0x01, 0xaa]), None);
        assert_eq!(read(&[0x30, 0x80, 0xaa, 0, 0]), None);
        assert_eq!(read(&[0x30, 0x02, 0xaa]), None);
        assert_eq!(read(&[0x31, 0x01, 0xaa]), None);
        let long = [&[0x30, 0x81, 0x80][..], &[0; 0x80]].concat();
        assert_eq!(read(&long), Some(0x80));
        let longer = [&[0x30, 0x82, 0x01, 0x00][..], &[0; 0x100]].concat();
        assert_eq!(read(&longer), Some(0x100));
    }

    #[test]
    fn refuses_integers_that_are_negative_zero_or_padded() {
        let read = |bytes: &[u8]| Der(bytes).positive().map(<[u8]>::to_vec);
        assert_eq!(read(&[2, 1, 5]), Some(vec![5]));
        assert_eq!(read(&[2, 2, 0, 0x80]), Some(vec![0x80]));
        for bad in [&[2, 1, 0x80][..], &[2, 1, 0], &[2, 2, 0, 5], &[2, 0]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn pem_survives_the_round_trip() {
        for length in [0, 1, 47, 48, 49, 200] {
            let der = vec![0x5a; length];
            let text = pem("PUBLIC KEY", &der);
            let blocks = pem_blocks(&format!("a comment\r\n{}", text.replace('\n', "\r\n"))).unwrap();
            assert_eq!(blocks.len(), 1);
            assert_eq!((blocks[0].label.as_str(), &blocks[0].der), ("PUBLIC KEY", &der));
        }
        assert!(pem_blocks("-----BEGIN A-----\nQQ==\n").is_none());
        assert!(pem_blocks("-----BEGIN A-----\nQQ==\n-----END B-----\n").is_none());
        assert!(pem_blocks("-----BEGIN A-----\n!!\n-----END A-----\n").is_none());
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            let _ = certificate_key(&bytes);
            let _ = Der(&bytes).positive();
            let _ = pem_blocks(&text);
        }
    }
}
