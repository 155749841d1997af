//! The bytes of the log; pure. `docs/design.md` draws them and argues what a crash can leave of them.
//!
//! A segment is a head and frames. A frame is the unit that is whole or not there: a head of 40 bytes and a body of
//! entries with consecutive sequences. A batch (what one request asked for) lies in one frame, or in several of
//! which only the last says [`COMMIT`]; without it, none of them count. Zeros behind the last frame are room for more. All
//! numbers are little-endian.
//!
//! ```text
//! segment head                              frame head                                entry
//!  0  8  "PORTCLOG"                          0  4  mark: first bytes of the salt       0  1  flags: 1 lift, 2 cutoff,
//!  8  2  format version (1)                  4  4  length of the body                        4 origin
//! 10  2  flags: 1 = nothing came before      8  8  sequence of its first entry         1  1  kind, 1 to 7
//! 12  4  length of this head (64)           16  8  sequence that was durable when      2  8  expiry, ms
//! 16  8  sequence of its first record              this was written                   10  8  asked for at, ms
//! 24 16  salt, drawn for this file          24  4  number of entries                   .  8  cutoff, ms   (flag 2)
//! 40 16  gateway id                         28  4  CRC32 of salt and body              . 40  origin       (flag 4)
//! 56  4  0                                  32  2  flags: 1 commit, 2 note             .     claim name   (kind 7)
//! 60  4  CRC32 of 0..60                     34  2  entry version (1)                   .     issuer, value, reason,
//!                                           36  4  CRC32 of salt and 0..36                   actor, address
//!                                           40  .  body                               (each: length in 2 bytes, text)
//! ```

use std::fmt;

use super::{
    ACTOR_BYTES_MAX, ADDRESS_BYTES_MAX, Kind, NAME_BYTES_MAX, REASON_BYTES_MAX, Revocation, Selector,
};
use crate::clock::UnixTime;

/// The version of segments and entries that this program writes; it reads every older one.
pub(super) const VERSION: u16 = 1;
pub(super) const SEGMENT_HEAD_BYTES: usize = 64;
pub(super) const FRAME_HEAD_BYTES: usize = 40;
/// A frame is closed when its body reaches this.
pub(super) const FRAME_BODY_BYTES_FULL: usize = 64 << 10;
/// No body is longer: the last entry may start just below [`FRAME_BODY_BYTES_FULL`].
pub(super) const FRAME_BODY_BYTES_MAX: usize = FRAME_BODY_BYTES_FULL + ENTRY_BYTES_MAX;
/// The most of an entry that is no text: fixed part 18, cutoff 8, origin 40, six lengths 12.
pub(super) const ENTRY_BYTES_BESIDE_TEXTS: usize = 78;
/// The longest entry.
const ENTRY_BYTES_MAX: usize = ENTRY_BYTES_BESIDE_TEXTS
    + 2 * NAME_BYTES_MAX
    + super::SUBJECT_BYTES_MAX
    + REASON_BYTES_MAX
    + ACTOR_BYTES_MAX
    + ADDRESS_BYTES_MAX;
/// Flag of a frame: with it, the batch that the frame ends is whole.
pub(super) const COMMIT: u16 = 1;
/// Flag of a frame without entries, written when the log has been idle: it says what was durable by then.
pub(super) const NOTE: u16 = 2;

const GENESIS: u16 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"PORTCLOG";
const LIFT: u8 = 1;
const CUTOFF: u8 = 2;
const ORIGIN: u8 = 4;

/// Names one gateway: drawn at random when its state directory is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub [u8; 16]);

impl GatewayId {
    /// From 32 hexadecimal digits, as it is written.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Origin {
    /// By this gateway.
    #[default]
    Local,
    /// It came through the shared log of the fleet.
    Shared {
        /// The gateway that made it.
        gateway: GatewayId,
        /// Its sequence there.
        sequence: u64,
        /// Its position in the shared log: two numbers, as Redis streams have.
        position: (u64, u64),
    },
}

/// How much of the log that gateways share is in force in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which shared log; 0 where that is not known.
    pub epoch: u64,
    /// Everything up to here.
    pub position: (u64, u64),
}

/// One entry of the log with its place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in this gateway's log, from 1.
    pub sequence: u64,
    /// Where it was made.
    pub origin: Origin,
    /// What was asked for.
    pub revocation: Revocation,
}

/// The secret of one file, which every checksum in it starts from: bytes of another file, or of an earlier file
/// in the same blocks of the disk, never pass for its own.
#[derive(Clone)]
pub(super) struct Salt {
    bytes: [u8; 16],
    seeded: crc32fast::Hasher,
}

impl Salt {
    pub(super) fn new(bytes: [u8; 16]) -> Self {
        let mut seeded = crc32fast::Hasher::new();
        seeded.update(&bytes);
        Self { bytes, seeded }
    }

    /// What every frame starts with, so that frames can be looked for.
    pub(super) fn mark(&self) -> [u8; 4] {
        [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]
    }

    pub(super) const fn bytes(&self) -> [u8; 16] {
        self.bytes
    }

    pub(super) fn crc(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.seeded.clone();
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The head of a segment.
#[derive(Clone)]
pub(super) struct SegmentHead {
    pub(super) first: u64,
    pub(super) salt: Salt,
    pub(super) gateway: GatewayId,
    /// Nothing came before it: a log begins here.
    pub(super) genesis: bool,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not as they were written.
    Damaged(&'static str),
    /// Whole, but of a version that this program does not know.
    Newer(u16),
}

impl SegmentHead {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut out = [0; SEGMENT_HEAD_BYTES];
        out[0..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(if self.genesis { GENESIS } else { 0 }).to_le_bytes());
        out[12..16].copy_from_slice(&(SEGMENT_HEAD_BYTES as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.first.to_le_bytes());
        out[24..40].copy_from_slice(&self.salt.bytes);
        out[40..56].copy_from_slice(&self.gateway.0);
        let crc = crc32fast::hash(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let mut read = Reader(bytes.get(..SEGMENT_HEAD_BYTES).ok_or(Bad::Damaged("the head is cut short"))?);
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..64] {
            return Err(Bad::Damaged("the checksum of the head does not fit"));
        }
        if read.take::<8>()? != *SEGMENT_MAGIC {
            return Err(Bad::Damaged("not a segment of a log"));
        }
        let version = read.u16()?;
        if version > VERSION {
            return Err(Bad::Newer(version));
        }
        let flags = read.u16()?;
        read.u32()?;
        Ok(Self {
            first: read.u64()?,
            salt: Salt::new(read.take()?),
            gateway: GatewayId(read.take()?),
            genesis: flags & GENESIS != 0,
        })
    }
}

/// The head of a frame, without what can be computed from the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: u32,
    pub(super) first: u64,
    pub(super) durable: u64,
    pub(super) count: u32,
    pub(super) flags: u16,
    crc: u32,
}

impl FrameHead {
    /// Writes a whole frame to `out`.
    pub(super) fn encode(
        salt: &Salt,
        (first, durable): (u64, u64),
        (count, flags): (u32, u16),
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.extend_from_slice(&salt.mark());
        out.extend_from_slice(&u32::try_from(body.len()).expect("a body is bounded").to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&durable.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&salt.crc(body).to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        let crc = salt.crc(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
    }

    /// The head at the start of `bytes`.
    pub(super) fn decode(salt: &Salt, bytes: &[u8]) -> Result<Self, Bad> {
        let mut read = Reader(bytes.get(..FRAME_HEAD_BYTES).ok_or(Bad::Damaged("a record is cut short"))?);
        if read.take::<4>()? != salt.mark() {
            return Err(Bad::Damaged("no record begins here"));
        }
        if salt.crc(&bytes[..36]).to_le_bytes() != bytes[36..40] {
            return Err(Bad::Damaged("the checksum of a record's head does not fit"));
        }
        let length = read.u32()?;
        let (first, durable) = (read.u64()?, read.u64()?);
        let (count, crc) = (read.u32()?, read.u32()?);
        let (flags, version) = (read.u16()?, read.u16()?);
        if version > VERSION {
            return Err(Bad::Newer(version));
        }
        if length as usize > FRAME_BODY_BYTES_MAX || durable >= first {
            return Err(Bad::Damaged("a record's head makes no sense"));
        }
        Ok(Self { length, first, durable, count, flags, crc })
    }

    /// Whether this is the body that was written under it.
    pub(super) fn fits(&self, salt: &Salt, body: &[u8]) -> Result<(), Bad> {
        if body.len() < self.length as usize {
            Err(Bad::Damaged("a record is cut short"))
        } else if salt.crc(body) != self.crc {
            Err(Bad::Damaged("the checksum of a record does not fit"))
        } else {
            Ok(())
        }
    }

    /// The sequence of its last entry; the one before its first for a note.
    pub(super) const fn last(&self) -> u64 {
        self.first + self.count as u64 - 1
    }

    pub(super) const fn commits(&self) -> bool {
        self.flags & COMMIT != 0
    }

    pub(super) const fn is_note(&self) -> bool {
        self.flags & NOTE != 0
    }
}

/// The number of a kind in the log and in snapshots.
pub(super) const fn kind_number(kind: &Kind) -> u8 {
    kind.number()
}

/// Writes one entry to `out`. It must have passed [`Revocation::validate`].
pub(super) fn encode_entry(revocation: &Revocation, origin: &Origin, out: &mut Vec<u8>) {
    let Selector { kind, issuer, value } = &revocation.selector;
    let mut flags = 0;
    flags |= if revocation.lift { LIFT } else { 0 };
    flags |= if revocation.issued_before.is_some() { CUTOFF } else { 0 };
    flags |= if *origin == Origin::Local { 0 } else { ORIGIN };
    out.extend_from_slice(&[flags, kind_number(kind)]);
    out.extend_from_slice(&revocation.expires_at.millis().to_le_bytes());
    out.extend_from_slice(&revocation.at.millis().to_le_bytes());
    if let Some(cutoff) = revocation.issued_before {
        out.extend_from_slice(&cutoff.millis().to_le_bytes());
    }
    if let Origin::Shared { gateway, sequence, position } = origin {
        out.extend_from_slice(&gateway.0);
        [*sequence, position.0, position.1].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }
    let mut text = |text: &str| {
        out.extend_from_slice(&u16::try_from(text.len()).expect("texts are bounded").to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    if let Kind::Claim(name) = kind {
        text(name);
    }
    [issuer, value, &revocation.reason, &revocation.actor, &revocation.address]
        .into_iter()
        .for_each(|t| text(t));
}

/// The entries of a body, of which the first has the sequence `first`.
pub(super) fn decode_entries(first: u64, count: u32, body: &[u8]) -> Result<Vec<Record>, Bad> {
    let mut read = Reader(body);
    let mut records = Vec::with_capacity((count as usize).min(body.len() / 28 + 1));
    for sequence in (first..).take(count as usize) {
        records.push(decode_entry(sequence, &mut read)?);
    }
    if read.0.is_empty() { Ok(records) } else { Err(Bad::Damaged("a record is longer than its entries")) }
}

/// The entry at the front of bytes.
pub(super) fn decode_entry(sequence: u64, read: &mut Reader<'_>) -> Result<Record, Bad> {
    let [flags, number] = read.take()?;
    if flags & !(LIFT | CUTOFF | ORIGIN) != 0 {
        return Err(Bad::Damaged("an entry has unknown flags"));
    }
    let expires_at = UnixTime::from_millis(read.u64()?);
    let at = UnixTime::from_millis(read.u64()?);
    let issued_before = if flags & CUTOFF != 0 { Some(UnixTime::from_millis(read.u64()?)) } else { None };
    let origin = if flags & ORIGIN != 0 {
        let gateway = GatewayId(read.take()?);
        Origin::Shared { gateway, sequence: read.u64()?, position: (read.u64()?, read.u64()?) }
    } else {
        Origin::Local
    };
    let kind = match number {
        1 => Kind::Token,
        2 => Kind::Session,
        3 => Kind::Subject,
        4 => Kind::Client,
        5 => Kind::Key,
        6 => Kind::Issuer,
        7 => Kind::Claim(read.text()?),
        _ => return Err(Bad::Damaged("an entry is of an unknown kind")),
    };
    let (issuer, value) = (read.text()?, read.text()?);
    let (reason, actor, address) = (read.text()?, read.text()?, read.text()?);
    let selector = Selector { kind, issuer, value };
    let revocation = Revocation {
        selector,
        lift: flags & LIFT != 0,
        issued_before,
        expires_at,
        reason,
        actor,
        address,
        at,
    };
    Ok(Record { sequence, origin, revocation })
}

/// Takes numbers and texts off the front of bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Bad::Damaged("an entry is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Bad> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Bad> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Bad> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<Box<str>, Bad> {
        let length = self.u16()? as usize;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Bad::Damaged("an entry is cut short"))?;
        self.0 = rest;
        std::str::from_utf8(taken).map(Into::into).map_err(|_| Bad::Damaged("a text is not UTF-8"))
    }
}

/// `N` random bytes from the operating system.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any revocation that can be written.
    pub(in crate::revocation) fn revocations() -> impl Strategy<Value = Revocation> {
        let kinds = prop_oneof![
            Just(Kind::Token),
            Just(Kind::Session),
            Just(Kind::Subject),
            Just(Kind::Client),
            Just(Kind::Key),
            Just(Kind::Issuer),
            "[a-z]{1,9}".prop_map(|name| Kind::Claim(name.into())),
        ];
        let times = (any::<u64>(), any::<u64>(), any::<u64>());
        let texts = ("[a-z]{1,9}", "[a-zäß€]{1,40}", "\\PC{0,40}", "[a-z:]{0,20}", "[0-9.:]{0,20}");
        (kinds, any::<bool>(), times, texts).prop_map(|(kind, lift, (cutoff, expiry, at), texts)| {
            let (issuer, value, reason, actor, address) = texts;
            let value = if kind == Kind::Issuer { String::new() } else { value };
            let issued_before = (!kind.is_absolute()).then(|| UnixTime::from_millis(cutoff));
            Revocation {
                selector: Selector::new(kind, issuer, value),
                lift,
                issued_before,
                expires_at: UnixTime::from_millis(expiry),
                reason: reason.into(),
                actor: actor.into(),
                address: address.into(),
                at: UnixTime::from_millis(at),
            }
        })
    }

    fn origins() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::Local),
            (any::<[u8; 16]>(), any::<u64>(), any::<(u64, u64)>()).prop_map(|(id, sequence, position)| {
                Origin::Shared { gateway: GatewayId(id), sequence, position }
            }),
        ]
    }

    proptest! {
        #[test]
        fn entries_survive_the_round_trip(entries in prop::collection::vec((revocations(), origins()), 0..20)) {
            let mut body = Vec::new();
            for (revocation, origin) in &entries {
                prop_assert_eq!(revocation.validate(), Ok(()));
                encode_entry(revocation, origin, &mut body);
            }
            let records = decode_entries(7, u32::try_from(entries.len()).unwrap(), &body).unwrap();
            for (index, (record, (revocation, origin))) in records.iter().zip(&entries).enumerate() {
                prop_assert_eq!(record.sequence, 7 + index as u64);
                prop_assert_eq!(&record.revocation, revocation);
                prop_assert_eq!(&record.origin, origin);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
            let _ = decode_entries(1, count, &bytes);
            let _ = SegmentHead::decode(&bytes);
            let _ = FrameHead::decode(&Salt::new([7; 16]), &bytes);
        }

        #[test]
        fn a_frame_with_any_bit_flipped_is_refused(revocation in revocations(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let salt = Salt::new([9; 16]);
            let (mut body, mut frame) = (Vec::new(), Vec::new());
            encode_entry(&revocation, &Origin::Local, &mut body);
            FrameHead::encode(&salt, (5, 4), (1, COMMIT), &body, &mut frame);
            let whole = FrameHead::decode(&salt, &frame).unwrap();
            prop_assert_eq!(whole.fits(&salt, &frame[FRAME_HEAD_BYTES..]), Ok(()));
            let at = at.index(frame.len());
            frame[at] ^= 1u8 << bit;
            let read = FrameHead::decode(&salt, &frame).and_then(|head| head.fits(&salt, &frame[FRAME_HEAD_BYTES..]));
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn the_longest_entry_is_as_long_as_it_says() {
        let long = |bytes: usize| "x".repeat(bytes).into_boxed_str();
        let revocation = Revocation {
            selector: Selector::new(
                Kind::Subject,
                long(NAME_BYTES_MAX),
                long(super::super::SUBJECT_BYTES_MAX),
            ),
            lift: false,
            issued_before: Some(UnixTime::ZERO),
            expires_at: UnixTime::ZERO,
            reason: long(REASON_BYTES_MAX),
            actor: long(ACTOR_BYTES_MAX),
            address: long(ADDRESS_BYTES_MAX),
            at: UnixTime::ZERO,
        };
        assert_eq!(revocation.validate(), Ok(()));
        let mut body = Vec::new();
        let origin = Origin::Shared { gateway: GatewayId([1; 16]), sequence: 1, position: (1, 1) };
        encode_entry(&revocation, &origin, &mut body);
        // A claim has a name and a value of a name's length, which together are shorter than a subject.
        assert!(body.len() <= ENTRY_BYTES_MAX && body.len() > ENTRY_BYTES_MAX - 2 * NAME_BYTES_MAX);
    }

    /// A log as version 1 wrote it: a head, a session revoked, a subject with a cutoff lifted, a note.
    const VERSION_1: &str = "504f5254434c4f470100010040000000290000000000000030313233343536373839616263646566eeeeeeeeeeeeeeee\
        eeeeeeeeeeeeeeee000000004a9df93e30313233760000002900000000000000280000000000000002000000bb37663c\
        01000100bfbed36a0002a01964eea10100007b5e56eea1010000040073656c6605006bc3a4736504006c6f7374050061\
        646d696e09003132372e302e302e310303a01964eea10100007b5e56eea1010000005e56eea1010000040073656c6605\
        006bc3a4736504006c6f7374050061646d696e09003132372e302e302e3130313233000000002b000000000000002a00\
        0000000000000000000033f0c468020001005cfa1a56";

    fn sample() -> Vec<u8> {
        let salt = Salt::new(*b"0123456789abcdef");
        let head =
            SegmentHead { first: 41, salt: salt.clone(), gateway: GatewayId([0xee; 16]), genesis: true };
        let entry = |kind: Kind, lift, cutoff: Option<u64>| Revocation {
            selector: Selector::new(kind, "self", "käse"),
            lift,
            issued_before: cutoff.map(UnixTime::from_millis),
            expires_at: UnixTime::from_millis(1_795_000_900_000),
            reason: "lost".into(),
            actor: "admin".into(),
            address: "127.0.0.1".into(),
            at: UnixTime::from_millis(1_795_000_000_123),
        };
        let mut body = Vec::new();
        encode_entry(&entry(Kind::Session, false, None), &Origin::Local, &mut body);
        encode_entry(&entry(Kind::Subject, true, Some(1_795_000_000_000)), &Origin::Local, &mut body);
        let mut out = head.encode().to_vec();
        FrameHead::encode(&salt, (41, 40), (2, COMMIT), &body, &mut out);
        FrameHead::encode(&salt, (43, 42), (0, NOTE), &[], &mut out);
        out
    }

    #[test]
    fn what_version_1_wrote_is_written_and_read_the_same() {
        let hex: String = sample().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, VERSION_1);
        let disk = super::super::sim::SimDisk::default();
        disk.put(&super::super::files::segment_name(41), sample());
        let found = super::super::recovery::recover(&disk).unwrap();
        assert_eq!((found.last, found.genesis, found.gateway), (42, 41, Some(GatewayId([0xee; 16]))));
        assert!(found.blocklist.get(&Selector::new(Kind::Session, "self", "käse")).is_some());
    }

    #[test]
    fn an_id_survives_its_spelling() {
        let id = GatewayId([0xab; 16]);
        assert_eq!(GatewayId::parse(&id.to_string()), Some(id));
        assert_eq!(GatewayId::parse("xyz"), None);
    }
}
