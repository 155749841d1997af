//! Where WebSocket frames end (RFC 6455 §5.2), and the Close frame that is put there. Payloads pass unread; no
//! extension in use changes the framing, compression (RFC 7692) included.

/// The other side goes (RFC 6455 §7.4.1).
pub(super) const GOING_AWAY: u16 = 1001;
/// Policy violation.
pub(super) const POLICY: u16 = 1008;
const CLOSE: u8 = 0x8;

/// Follows one direction of a connection from frame to frame.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the head that have passed; 0 between two frames.
    seen: u8,
    /// Bytes of the head that give the length beyond the second, and those of the mask.
    extended: u8,
    mask: u8,
    opcode: u8,
    length: u64,
    /// Payload that is still to come, once the head has passed.
    left: u64,
    closed: bool,
}

impl Frames {
    /// These bytes have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// How many of `bytes` belong to the frame that has begun, if it ends within them; 0 between two frames.
    pub(super) fn rest_in(&self, bytes: &[u8]) -> Option<usize> {
        if self.is_between() {
            return Some(0);
        }
        let mut ahead = self.clone();
        let rest = ahead.step(bytes);
        ahead.is_between().then_some(rest)
    }

    /// Between two frames.
    pub(super) const fn is_between(&self) -> bool {
        self.seen == 0
    }

    /// A Close frame has passed: nothing may follow it.
    pub(super) const fn closed(&self) -> bool {
        self.closed
    }

    /// Goes on to the end of the frame or of `bytes`; how many it has passed.
    fn step(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            match self.seen {
                0 => self.opcode = byte & 0x0F,
                1 => {
                    self.mask = if byte & 0x80 == 0 { 0 } else { 4 };
                    (self.extended, self.length) = match byte & 0x7F {
                        126 => (2, 0),
                        127 => (8, 0),
                        length => (0, u64::from(length)),
                    };
                }
                seen if seen < 2 + self.extended => self.length = self.length << 8 | u64::from(byte),
                seen if seen < self.head() => {}
                _ => {
                    let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.left -= here as u64;
                    if self.left == 0 {
                        self.end();
                    }
                    return at + here;
                }
            }
            self.seen += 1;
            if self.seen >= 2 && self.seen == self.head() {
                self.left = self.length;
                if self.left == 0 {
                    self.end();
                    return at + 1;
                }
            }
        }
        bytes.len()
    }

    const fn head(&self) -> u8 {
        2 + self.extended + self.mask
    }

    fn end(&mut self) {
        *self = Self { closed: self.closed || self.opcode == CLOSE, ..Self::default() };
    }
}

/// A Close frame with status 1008 and these words, at most 123 bytes of them. `mask` is for the way to the server,
/// where every frame must have one (RFC 6455 §5.3).
pub(super) fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    let length = u8::try_from(payload.len()).ok().filter(|length| *length <= 125);
    let length = length.expect("the reasons are a few words");
    let mut frame = vec![0x80 | CLOSE, length | if mask.is_some() { 0x80 } else { 0 }];
    if let Some(mask) = mask {
        frame.extend_from_slice(&mask);
        payload.iter_mut().zip(mask.into_iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    frame.append(&mut payload);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = u8::from(masked) << 7;
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..0x1_0000 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xFF; if masked { 4 } else { 0 }]);
        bytes.extend(vec![0x88; length]);
        bytes
    }

    #[test]
    fn an_unmasked_close_is_the_one_of_the_standard() {
        assert_eq!(close(POLICY, "", None), [0x88, 2, 0x03, 0xF0]);
        assert_eq!(
            close(POLICY, "no", Some([1, 2, 3, 4])),
            [0x88, 0x84, 1, 2, 3, 4, 2, 0xF2, b'n' ^ 3, b'o' ^ 4]
        );
        let mut frames = Frames::default();
        frames.pass(&close(POLICY, "token revoked", Some([9; 4])));
        assert!(frames.is_between() && frames.closed());
    }

    #[test]
    fn a_payload_that_looks_like_a_close_is_none() {
        let mut frames = Frames::default();
        frames.pass(&frame(0x82, false, 200));
        assert!(frames.is_between() && !frames.closed());
    }

    #[test]
    fn a_length_beyond_all_bounds_never_ends() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        frames.pass(&[0; 4096]);
        assert!(!frames.is_between());
        assert_eq!(frames.rest_in(&[0; 4096]), None);
    }

    proptest! {
        #[test]
        fn every_boundary_is_found_however_the_bytes_are_cut(
            shapes in proptest::collection::vec((any::<u8>(), any::<bool>(), prop_oneof![
                0usize..5, 120usize..130, 65_530usize..65_540,
            ]), 1..6),
            cuts in proptest::collection::vec(1usize..70_000, 1..12),
        ) {
            let frames: Vec<_> = shapes.iter().map(|&(first, masked, length)| frame(first, masked, length)).collect();
            let mut ends = std::collections::BTreeSet::from([0]);
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend_from_slice(frame);
                ends.insert(bytes.len());
            }
            let (mut at, mut follower, mut cuts) = (0, Frames::default(), cuts.iter().cycle());
            while at < bytes.len() {
                let next = ends.range(at..).next().map(|end| end - at);
                let piece = &bytes[at..bytes.len().min(at + cuts.next().unwrap())];
                prop_assert_eq!(follower.rest_in(piece), next.filter(|next| *next <= piece.len()));
                follower.pass(piece);
                at += piece.len();
                prop_assert_eq!(follower.is_between(), ends.contains(&at));
            }
            prop_assert_eq!(follower.closed(), shapes.iter().any(|(first, ..)| first & 0xF == 8));
        }
    }
}
