//! Password hashes that other programs made: read strictly, bounded in what they may cost, checked like ours.
//!
//! | written as | made by |
//! | --- | --- |
//! | `$2a$`, `$2b$`, `$2y$` | bcrypt |
//! | `bcrypt$$2b$…`, `bcrypt_sha256$$2b$…` | Django |
//! | `pbkdf2_sha256$N$salt$base64`, `pbkdf2_sha1$…` | Django |
//! | `scrypt$N$salt$r$p$base64` | Django |
//! | `pbkdf2:sha256:N$salt$hex` (and `sha1`, `sha512`) | Werkzeug (Flask) |
//! | `scrypt:N:r:p$salt$hex` | Werkzeug (Flask) |
//! | `$argon2id$…`, `$argon2i$…`, and with `argon2` in front | anybody by PHC; Django |
//!
//! Argon2 is computed by [`super::hasher`], as our own hashes are; the rest here.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The most bytes of a hash in writing.
const TEXT_BYTES_MAX: usize = 512;
/// Twice and more what Django asks for in 2026 (1,200,000 of SHA-256): about a second.
const ITERATIONS_MAX: u32 = 4_000_000;
/// Twice the work of 14, which is the most that anybody recommends: some two seconds.
const BCRYPT_COST_MAX: u32 = 15;
/// 128 · N · r: eight times what Werkzeug and Django ask for (32 MiB).
const SCRYPT_BYTES_MAX: u64 = 256 << 20;
/// N · r · p: sixteen times what they ask for (2^18), about a second.
const SCRYPT_WORK_MAX: u64 = 1 << 22;
/// A digest of SHA-1 is the shortest that any of these programs keeps, one of SHA-512 the longest.
const DIGEST_BYTES: std::ops::RangeInclusive<usize> = 20..=64;

/// A hash that was understood; never shown.
pub(super) enum Imported {
    Bcrypt {
        /// `$2b$…`, 60 characters.
        hash: Box<str>,
        /// Of the SHA-256 of the password in hexadecimal (Django's `bcrypt_sha256`), which lifts bcrypt's limit of 72
        /// bytes.
        of_digest: bool,
    },
    Pbkdf2 {
        algorithm: pbkdf2::Algorithm,
        iterations: NonZeroU32,
        salt: Box<[u8]>,
        expected: Box<[u8]>,
    },
    Scrypt {
        params: scrypt::Params,
        salt: Box<[u8]>,
        expected: Box<[u8]>,
    },
}

/// Where a hash begins with the name of Django's hasher for Argon2, the rest is PHC.
pub(super) fn phc_of(text: &str) -> Option<&str> {
    let phc = text.strip_prefix("argon2").unwrap_or(text);
    (phc.starts_with("$argon2id$") || phc.starts_with("$argon2i$")).then_some(phc)
}

impl Imported {
    /// The hash in this writing.
    ///
    /// # Errors
    /// In words that name neither salt nor digest: not a form that is known, malformed, or too costly to be checked.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            return bcrypt(text, false);
        }
        let malformed = |what: &str| format!("is no well-formed hash of {what}");
        if let Some(rest) = text.strip_prefix("bcrypt_sha256$") {
            return bcrypt(rest, true);
        }
        if let Some(rest) = text.strip_prefix("bcrypt$") {
            return bcrypt(rest, false);
        }
        for (prefix, algorithm, bytes) in [
            ("pbkdf2_sha256$", pbkdf2::PBKDF2_HMAC_SHA256, 32),
            ("pbkdf2_sha1$", pbkdf2::PBKDF2_HMAC_SHA1, 20),
        ] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let [iterations, salt, expected] = parts(rest).ok_or_else(|| malformed("Django's PBKDF2"))?;
                let expected = STANDARD.decode(expected).ok().filter(|expected| expected.len() == bytes);
                let expected = expected.ok_or_else(|| malformed("Django's PBKDF2"))?;
                return pbkdf2(algorithm, iterations, salt, expected);
            }
        }
        if let Some(rest) = text.strip_prefix("scrypt$") {
            let [n, salt, r, p, expected] = parts(rest).ok_or_else(|| malformed("Django's scrypt"))?;
            let expected = STANDARD.decode(expected).map_err(|_| malformed("Django's scrypt"))?;
            return scrypt([n, r, p], salt, expected);
        }
        for (prefix, algorithm, bytes) in [
            ("pbkdf2:sha256:", pbkdf2::PBKDF2_HMAC_SHA256, 32),
            ("pbkdf2:sha1:", pbkdf2::PBKDF2_HMAC_SHA1, 20),
            ("pbkdf2:sha512:", pbkdf2::PBKDF2_HMAC_SHA512, 64),
        ] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let [iterations, salt, expected] =
                    parts(rest).ok_or_else(|| malformed("Werkzeug's PBKDF2"))?;
                let expected = hex(expected).filter(|expected| expected.len() == bytes);
                let expected = expected.ok_or_else(|| malformed("Werkzeug's PBKDF2"))?;
                return pbkdf2(algorithm, iterations, salt, expected);
            }
        }
        if let Some(rest) = text.strip_prefix("scrypt:") {
            let [cost, salt, expected] = parts(rest).ok_or_else(|| malformed("Werkzeug's scrypt"))?;
            let mut numbers = cost.split(':');
            let (Some(n), Some(r), Some(p), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                return Err(malformed("Werkzeug's scrypt"));
            };
            let expected = hex(expected).ok_or_else(|| malformed("Werkzeug's scrypt"))?;
            return scrypt([n, r, p], salt, expected);
        }
        Err("is of no kind that is known: bcrypt, Argon2 (PHC), or what Django or Werkzeug write with PBKDF2 or \
             scrypt"
            .to_owned())
    }

    /// Whether the password fits. Costs what the hash asks for; `None` when it cannot be computed.
    pub(super) fn fits(&self, password: &str) -> Option<bool> {
        match self {
            // Longer passwords were cut at 72 bytes when the hash was made, so they are here.
            Self::Bcrypt { hash, of_digest: false } => bcrypt::verify(password, hash).ok(),
            Self::Bcrypt { hash, of_digest: true } => {
                let digest = digest::digest(&digest::SHA256, password.as_bytes());
                let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                bcrypt::verify(&*Zeroizing::new(hex), hash).ok()
            }
            Self::Pbkdf2 { algorithm, iterations, salt, expected } => {
                Some(pbkdf2::verify(*algorithm, *iterations, salt, password.as_bytes(), expected).is_ok())
            }
            Self::Scrypt { params, salt, expected } => {
                let mut output = Zeroizing::new(vec![0; expected.len()]);
                scrypt::scrypt(password.as_bytes(), salt, params, &mut output).ok()?;
                Some(output.ct_eq(expected).into())
            }
        }
    }
}

fn bcrypt(text: &str, of_digest: bool) -> Result<Imported, String> {
    let malformed = || "is no well-formed hash of bcrypt".to_owned();
    let parts: bcrypt::HashParts = text.parse().map_err(|_| malformed())?;
    match parts.get_cost() {
        4..=BCRYPT_COST_MAX => Ok(Imported::Bcrypt { hash: text.into(), of_digest }),
        0..4 => Err(malformed()),
        cost => Err(format!("asks for bcrypt with cost {cost}; at most {BCRYPT_COST_MAX} is taken")),
    }
}

fn pbkdf2(
    algorithm: pbkdf2::Algorithm,
    iterations: &str,
    salt: &str,
    expected: Vec<u8>,
) -> Result<Imported, String> {
    let iterations = number(iterations)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| "is no well-formed hash of PBKDF2".to_owned())?;
    if iterations.get() > ITERATIONS_MAX {
        return Err(format!(
            "asks for {iterations} iterations of PBKDF2; at most {ITERATIONS_MAX} are taken"
        ));
    }
    Ok(Imported::Pbkdf2 { algorithm, iterations, salt: salt.as_bytes().into(), expected: expected.into() })
}

fn scrypt(cost: [&str; 3], salt: &str, expected: Vec<u8>) -> Result<Imported, String> {
    let malformed = || "is no well-formed hash of scrypt".to_owned();
    let [Some(n), Some(r), Some(p)] = cost.map(number) else { return Err(malformed()) };
    if !n.is_power_of_two() || n < 2 || r == 0 || p == 0 || !DIGEST_BYTES.contains(&expected.len()) {
        return Err(malformed());
    }
    let memory = u64::from(n).saturating_mul(u64::from(r)).saturating_mul(128);
    let work = u64::from(n).saturating_mul(u64::from(r)).saturating_mul(u64::from(p));
    if memory > SCRYPT_BYTES_MAX || work > SCRYPT_WORK_MAX {
        return Err(format!(
            "asks for scrypt with N={n}, r={r}, p={p}; at most {} MiB of memory and N·r·p of {SCRYPT_WORK_MAX} are taken",
            SCRYPT_BYTES_MAX >> 20
        ));
    }
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| malformed())?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| malformed())?;
    Ok(Imported::Scrypt { params, salt: salt.as_bytes().into(), expected: expected.into() })
}

/// So many parts between dollars, none of them empty.
fn parts<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut parts = [""; N];
    let mut split = text.split('$');
    for part in &mut parts {
        *part = split.next().filter(|part| !part.is_empty())?;
    }
    split.next().is_none().then_some(parts)
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(text: &str, words: &str) {
        let error = Imported::read(text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.contains(words), "{text}: {error}");
    }

    #[test]
    fn what_is_malformed_is_refused_in_words() {
        for text in [
            "",
            "plain",
            "$1$salt$hash",
            "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
            "!unusable",
            "$2x$04$abcdefghijklmnopqrstuuD2yCiKZZYWjTP3R0hLyDyOlrCaGPJ2W",
        ] {
            refuses(text, "no kind");
        }
        for text in [
            "$2b$04$short",
            "$2b$99$",
            "pbkdf2_sha256$1000$salt$AAAA",
            "pbkdf2_sha256$1000$$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "pbkdf2_sha256$0$salt$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "pbkdf2_sha256$-1$salt$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "pbkdf2_sha256$+5$salt$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "pbkdf2_sha256$5$salt$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=$",
            "pbkdf2:sha256:5$salt$zz",
            "pbkdf2:sha256:5$salt$abc",
            "scrypt:32768:8$salt$aa",
            "scrypt:3:8:1$salt$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "scrypt:16:8:0$salt$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "scrypt:16:8:1$salt$aaaa",
        ] {
            refuses(text, "well-formed");
        }
        refuses(&"x".repeat(600), "longer");
    }

    #[test]
    fn what_would_cost_too_much_is_refused_in_words() {
        let digest = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let hex = "ab".repeat(64);
        refuses(&format!("pbkdf2_sha256$4000001$salt${digest}"), "4000001 iterations");
        refuses(&format!("pbkdf2:sha512:99999999$salt${hex}"), "99999999 iterations");
        refuses(&format!("scrypt:4194304:8:1$salt${hex}"), "256 MiB");
        refuses(&format!("scrypt:32768:8:4000000000$salt${hex}"), "N·r·p");
        refuses("$2b$16$abcdefghijklmnopqrstuuD2yCiKZZYWjTP3R0hLyDyOlrCaGPJ2W", "cost 16");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, rest in "[a-z0-9:$]{0,40}") {
            for prefix in ["", "$2b$", "pbkdf2_sha256$", "pbkdf2:sha1:", "scrypt:", "scrypt$", "bcrypt_sha256$"] {
                for text in [&text, &rest] {
                    drop(Imported::read(&format!("{prefix}{text}")));
                }
            }
        }
    }
}
