//! How secrets of ours are sealed before they go into a store that others can read: AES-256-GCM under a key that is made
//! of a file on each gateway.
//!
//! ```text
//! "PSEA"  version u8 = 1  key id [8]  nonce [12]  ciphertext  tag [16]
//! ```
//!
//! The id under which a thing is stored is authenticated too, so that what was sealed under one id is not taken for
//! another. Nonces are random: 96 bits are plenty for the handful of seals that one key ever makes.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"PSEA";
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = MAGIC.len() + 1 + KEY_ID_BYTES + NONCE_BYTES;
/// The fewest characters of a line: 32 bytes in base64 are 44, in hexadecimal 64.
const LINE_CHARS_MIN: usize = 32;
/// The most lines: one in use, and those that it replaces.
const LINES_MAX: usize = 8;

/// The key-encryption keys of `[auth] key_encryption_file`: the first one seals, all of them open.
pub struct Sealing(Vec<Kek>);

struct Kek {
    id: [u8; KEY_ID_BYTES],
    key: LessSafeKey,
}

/// Why something cannot be unsealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealable {
    /// Sealed under a key that is not in our file.
    #[error("is sealed under a key-encryption key that is not in key_encryption_file here")]
    OtherKey,
    /// By a newer program.
    #[error("was sealed by a newer version of this program")]
    Newer,
    /// Not as it was sealed.
    #[error("is damaged")]
    Damaged,
}

/// Bytes of a key id, for the library.
struct IdBytes;

impl KeyType for IdBytes {
    fn len(&self) -> usize {
        KEY_ID_BYTES
    }
}

impl Sealing {
    /// From the text of the file: one key in a line, such as `openssl rand -base64 32` prints.
    ///
    /// # Errors
    /// In words for the operator; nothing of the text is in them.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() || lines.len() > LINES_MAX {
            return Err(format!("has {} keys in it; one in a line, at most {LINES_MAX}", lines.len()));
        }
        if let Some(place) = lines.iter().position(|line| line.chars().count() < LINE_CHARS_MIN) {
            return Err(format!("has a key of under {LINE_CHARS_MIN} characters in line {}", place + 1));
        }
        lines.into_iter().map(Kek::of).collect::<Option<_>>().map(Self).ok_or("cannot be used".to_owned())
    }

    /// Seals `plain`, to be stored under `id`.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub(super) fn seal(&self, id: &str, plain: &[u8]) -> Result<Box<[u8]>, Unsealable> {
        let kek = &self.0[0];
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Unsealable::Damaged)?;
        let mut body = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(plain);
        let head = [&MAGIC[..], &[VERSION], &kek.id, &nonce].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        kek.key
            .seal_in_place_append_tag(nonce, Aad::from(bound(id)), &mut body)
            .map_err(|_| Unsealable::Damaged)?;
        Ok([head, body].concat().into())
    }

    /// What was sealed under `id`.
    ///
    /// # Errors
    /// See [`Unsealable`].
    pub(super) fn open(&self, id: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (head, body) = sealed.split_at_checked(HEAD_BYTES).ok_or(Unsealable::Damaged)?;
        let (magic, rest) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Unsealable::Damaged);
        }
        if rest[0] != VERSION {
            return Err(if rest[0] > VERSION { Unsealable::Newer } else { Unsealable::Damaged });
        }
        let (key_id, nonce) = rest[1..].split_at(KEY_ID_BYTES);
        let kek = self.0.iter().find(|kek| kek.id == key_id).ok_or(Unsealable::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable::Damaged)?;
        let mut plain = Zeroizing::new(body.to_vec());
        let opened = kek.key.open_in_place(nonce, Aad::from(bound(id)), &mut plain);
        let bytes = opened.map_err(|_| Unsealable::Damaged)?.len();
        plain.truncate(bytes);
        Ok(plain)
    }

    /// Whether it was sealed under the key that seals now.
    pub(super) fn is_newest(&self, sealed: &[u8]) -> bool {
        sealed.get(MAGIC.len() + 1..MAGIC.len() + 1 + KEY_ID_BYTES) == Some(&self.0[0].id[..])
    }
}

impl Kek {
    /// `None` only where the library fails.
    fn of(line: &str) -> Option<Self> {
        let secret = Salt::new(HKDF_SHA256, b"portcullis key encryption").extract(line.as_bytes());
        let key = LessSafeKey::new(UnboundKey::from(secret.expand(&[b"seal"], &AES_256_GCM).ok()?));
        let mut id = [0; KEY_ID_BYTES];
        secret.expand(&[b"id"], IdBytes).ok()?.fill(&mut id).ok()?;
        Some(Self { id, key })
    }
}

/// What the seal is bound to.
fn bound(id: &str) -> Vec<u8> {
    [MAGIC, &[VERSION][..], id.as_bytes()].concat()
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key-encryption keys", self.0.len())
    }
}

impl PartialEq for Sealing {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|kek| kek.id).eq(other.0.iter().map(|kek| kek.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "one one one one one one one one one one";
    const TWO: &str = "two two two two two two two two two two";

    fn sealing(lines: &[&str]) -> Sealing {
        Sealing::from_text(&lines.join("\n")).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_its_own_id_and_key_alone() {
        let one = sealing(&[ONE]);
        let sealed = one.seal("a", b"secret").unwrap();
        assert_eq!(&*one.open("a", &sealed).unwrap(), b"secret");
        assert_ne!(sealed, one.seal("a", b"secret").unwrap(), "nonces differ");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(one.open("b", &sealed).unwrap_err(), Unsealable::Damaged);
        assert_eq!(sealing(&[TWO]).open("a", &sealed).unwrap_err(), Unsealable::OtherKey);
        for cut in 0..sealed.len() {
            assert!(one.open("a", &sealed[..cut]).is_err(), "cut at {cut}");
        }
        for place in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[place] ^= 1;
            assert!(one.open("a", &bad).is_err(), "bit flipped in byte {place}");
        }
        let mut newer = sealed;
        newer[MAGIC.len()] = VERSION + 1;
        assert_eq!(one.open("a", &newer).unwrap_err(), Unsealable::Newer);
    }

    #[test]
    fn a_new_key_in_the_first_line_seals_and_the_old_ones_still_open() {
        let (old, both) = (sealing(&[ONE]), sealing(&[TWO, "", ONE]));
        let before = old.seal("a", b"secret").unwrap();
        assert_eq!(&*both.open("a", &before).unwrap(), b"secret");
        assert!(!both.is_newest(&before) && old.is_newest(&before));
        let after = both.seal("a", b"secret").unwrap();
        assert!(both.is_newest(&after));
        assert_eq!(old.open("a", &after).unwrap_err(), Unsealable::OtherKey);
    }

    #[test]
    fn a_file_without_good_keys_is_refused_in_words_that_tell_nothing_of_it() {
        for (text, why) in [
            (String::new(), "has 0 keys"),
            ("hunter2".to_owned(), "line 1"),
            (format!("{ONE}\nhunter2"), "line 2"),
            (format!("{ONE}\n").repeat(9), "has 9 keys"),
        ] {
            let said = Sealing::from_text(&text).unwrap_err();
            assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
        }
        assert_eq!(sealing(&[ONE]), sealing(&[&format!("  {ONE}\r\n")]));
        assert!(!format!("{:?}", sealing(&[ONE])).contains("one one"));
    }
}
