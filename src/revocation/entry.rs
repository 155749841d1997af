//! One entry of the log: what it matches, from when, until when, why.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

use super::Standing;
use super::record::{Origin, Reader, decode_entry, encode_entry};
use crate::clock::UnixTime;

/// The most bytes of a value: a subject; every other name is at most [`NAME_BYTES_MAX`].
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// The most bytes of a token id, session, client, key or listed claim.
pub const NAME_BYTES_MAX: usize = 255;

/// What a selector looks at (CONTRACT §1 Selectors).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One token, by token id. No cutoff.
    Token,
    /// One login with all its tokens, by `sid`. No cutoff.
    Session,
    /// By `sub`.
    Subject,
    /// By `client_id` or `azp`.
    Client,
    /// By `kid`.
    Key,
    /// All tokens of the issuer; the value is empty.
    Issuer,
    /// By a claim listed in `[revocation] claims`.
    Claim(Box<str>),
}

impl Kind {
    /// Whether what it revokes stays revoked whatever its `iat`.
    pub const fn is_absolute(&self) -> bool {
        matches!(self, Self::Token | Self::Session)
    }

    /// The most bytes of a value of this kind.
    pub const fn value_bytes_max(&self) -> usize {
        match self {
            Self::Subject => SUBJECT_BYTES_MAX,
            Self::Issuer => 0,
            _ => NAME_BYTES_MAX,
        }
    }

    /// Its number in the log, in snapshots and in the shared log.
    pub const fn number(&self) -> u8 {
        match self {
            Self::Token => 1,
            Self::Session => 2,
            Self::Subject => 3,
            Self::Client => 4,
            Self::Key => 5,
            Self::Issuer => 6,
            Self::Claim(_) => 7,
        }
    }

    /// The kind of a number; of a claim without its name.
    pub fn of_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Token,
            2 => Self::Session,
            3 => Self::Subject,
            4 => Self::Client,
            5 => Self::Key,
            6 => Self::Issuer,
            7 => Self::Claim("".into()),
            _ => return None,
        })
    }

    /// A label for metrics: no value of a client or an operator gets into it.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Key => "key",
            Self::Issuer => "issuer",
            Self::Claim(_) => "claim",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(name) => write!(f, "claim:{name}"),
            other => f.write_str(other.label()),
        }
    }
}

/// Not the name of a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind \"{0}\": one of token, session, subject, client, key, issuer, claim:NAME")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Ok(match text {
            "token" => Self::Token,
            "session" => Self::Session,
            "subject" => Self::Subject,
            "client" => Self::Client,
            "key" => Self::Key,
            "issuer" => Self::Issuer,
            other => match other.strip_prefix("claim:") {
                Some(name) if !name.is_empty() && name.len() <= NAME_BYTES_MAX => Self::Claim(name.into()),
                _ => return Err(UnknownKind(text.chars().take(64).collect())),
            },
        })
    }
}

/// What a revocation matches: a kind, scoped by issuer name, and a value compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// What is looked at.
    pub kind: Kind,
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// The value; empty for [`Kind::Issuer`].
    pub value: Box<str>,
}

impl Selector {
    /// A selector of these parts.
    pub fn new(kind: Kind, issuer: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        Self { kind, issuer: issuer.into(), value: value.into() }
    }

    /// A selector of which only the key is known, as the state of a shared log and a blocklist hold it. It is written
    /// without an issuer, its value being `#` and the key in hexadecimal digits; no issuer of a configuration has an empty
    /// name, so it is never mistaken for another.
    pub fn unnamed(kind: Kind, key: SelectorKey) -> Self {
        let digits: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { kind, issuer: "".into(), value: format!("#{digits}").into() }
    }

    /// The key of one that [`Selector::unnamed`] made.
    pub(super) fn as_unnamed(&self) -> Option<SelectorKey> {
        let digits = self.value.strip_prefix('#').filter(|_| self.issuer.is_empty())?;
        super::GatewayId::parse(digits).map(|bytes| SelectorKey::from_bytes(bytes.0))
    }

    /// Whether [`Selector::unnamed`] made it.
    pub fn is_unnamed(&self) -> bool {
        self.as_unnamed().is_some()
    }

    /// Its key in the blocklist.
    pub fn key(&self) -> SelectorKey {
        if let Some(key) = self.as_unnamed() {
            return key;
        }
        SelectorKey::of(&self.kind, &self.issuer, &self.value)
    }
}

/// A key of the blocklist: the first 128 bits of SHA-256 over kind, issuer name and value, each prefixed by its
/// length as a little-endian `u32`. The same on every gateway and in every snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectorKey(pub [u32; 4]);

impl SelectorKey {
    /// The key of these parts; about 60 ns, paid when a token is first verified or an entry is made.
    pub fn of(kind: &Kind, issuer: &str, value: &str) -> Self {
        let (kind, name) = match kind {
            Kind::Claim(name) => ("claim:", &**name),
            other => (other.label(), ""),
        };
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let lengths = [kind.len() + name.len(), issuer.len(), value.len()].map(length);
        let parts: [&[u8]; 7] = [
            &lengths[0],
            kind.as_bytes(),
            name.as_bytes(),
            &lengths[1],
            issuer.as_bytes(),
            &lengths[2],
            value.as_bytes(),
        ];
        // Nearly all fit a buffer: hashed at once they take half the time that they take piece by piece.
        let mut buffer = [0; 192];
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let hash = if bytes <= buffer.len() {
            let mut rest = &mut buffer[..];
            for part in parts {
                let (place, behind) = rest.split_at_mut(part.len());
                place.copy_from_slice(part);
                rest = behind;
            }
            digest::digest(&digest::SHA256, &buffer[..bytes])
        } else {
            let mut context = digest::Context::new(&digest::SHA256);
            parts.iter().for_each(|part| context.update(part));
            context.finish()
        };
        Self::from_bytes(hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// From the bytes of a snapshot.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }

    /// As written to a snapshot.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

impl fmt::Debug for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:08x}"))
    }
}

/// One entry of the log, before it has a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What it matches.
    pub selector: Selector,
    /// Takes the entry of this selector away instead of making one (unrevoke).
    pub lift: bool,
    /// Tokens whose `iat` is before this are refused; `None` for the absolute kinds. Exact to the second above:
    /// `iat` counts whole seconds.
    pub issued_before: Option<UnixTime>,
    /// When every token that it could match has expired.
    pub expires_at: UnixTime,
    /// Why, in the words of who asked; at most 1,024 bytes.
    pub reason: Box<str>,
    /// Who asked: `admin`, `subject:ID`, `client:ID`, `gateway`, `event:ISSUER`.
    pub actor: Box<str>,
    /// From where: the peer's address, or empty.
    pub address: Box<str>,
    /// When it was asked for.
    pub at: UnixTime,
}

impl Revocation {
    /// Writes it to `out` as the log does, for the shared log of a fleet. It must have passed [`Revocation::validate`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_entry(self, &Origin::Local, out);
    }

    /// What the blocklist holds of it.
    pub fn standing(&self) -> Standing {
        Standing {
            kind: self.selector.kind.number(),
            key: self.selector.key(),
            expires: u32::try_from(self.expires_at.secs_ceil()).unwrap_or(u32::MAX),
            issued_before: self.issued_before,
        }
    }

    /// About how many bytes it has beside its fixed part.
    pub fn value_bytes(&self) -> usize {
        let Selector { issuer, value, .. } = &self.selector;
        issuer.len() + value.len() + self.reason.len() + self.actor.len() + self.address.len()
    }

    /// Takes one off the front of `bytes`; `None` for what [`Revocation::encode`] did not write.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut read = Reader(bytes);
        let record = decode_entry(1, &mut read).ok()?;
        *bytes = read.0;
        Some(record.revocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_part_and_on_where_parts_end() {
        let key = |kind: &Kind, issuer, value| SelectorKey::of(kind, issuer, value);
        let one = key(&Kind::Subject, "self", "ab");
        assert_ne!(one, key(&Kind::Session, "self", "ab"));
        assert_ne!(one, key(&Kind::Subject, "sel", "fab"));
        assert_ne!(one, key(&Kind::Subject, "self", "abc"));
        assert_eq!(one, Selector::new(Kind::Subject, "self", "ab").key());
        assert_eq!(SelectorKey::from_bytes(one.to_bytes()), one);
    }

    #[test]
    fn a_key_is_the_documented_digest_whatever_the_length_of_its_parts() {
        // Snapshots and other gateways hold these keys: they must never change.
        let tenant = Kind::Claim("tenant".into());
        for (kind, spelled) in [(Kind::Token, "token"), (Kind::Issuer, "issuer"), (tenant, "claim:tenant")] {
            for length in [0, 1, 36, 150, 160, 161, 170, 171, 180, 255, 1024] {
                let value = "v".repeat(length);
                let mut text = Vec::new();
                for part in [spelled, "self", &value] {
                    text.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
                    text.extend_from_slice(part.as_bytes());
                }
                let digest = digest::digest(&digest::SHA256, &text);
                let key = SelectorKey::of(&kind, "self", &value);
                assert_eq!(key.to_bytes(), digest.as_ref()[..16], "{spelled} {length}");
            }
        }
    }

    #[test]
    fn kinds_survive_their_spelling() {
        for text in ["token", "session", "subject", "client", "key", "issuer", "claim:tenant"] {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
        }
        assert!("claim:".parse::<Kind>().is_err());
        assert!("Token".parse::<Kind>().is_err());
    }
}
