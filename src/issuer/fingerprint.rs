//! What the cache of verified tokens knows a text by: 256 bits, 36 bytes with its length, in place of some 700.
//!
//! A wrong answer of this cache would open the gateway to a token that nobody signed, so a hash that is merely good
//! will not do, and a cryptographic one takes longer than all the rest of a check. This one is NH of UMAC (Black,
//! Halevi, Krawczyk, Krovetz, Rogaway, CRYPTO 1999), over words of 64 bits, twice (Toeplitz):
//!
//! ```text
//! text    m0 m1 | m2 m3 | …     words of 8 bytes, the last pair filled up with zeros
//! first   Σ (m0 + k0)(m1 + k1) + (m2 + k2)(m3 + k3) + …     sums of words mod 2^64, of products mod 2^128
//! second  Σ (m0 + k2)(m1 + k3) + (m2 + k4)(m3 + k5) + …
//! ```
//!
//! Their theorem: two texts of the same length have the same two sums for at most one in 2^128 of all keys (texts of
//! different lengths differ by that). It assumes nothing but that the key is random and unknown. It is drawn at the
//! start, stays in this process, and no sum ever leaves it: all that somebody can do is to send texts and see them
//! refused, and each one tried has that chance against each token that is kept.

use zeroize::Zeroizing;

use crate::revocation::TextMark;

/// The words that a pair takes.
const PAIR: usize = 2;
const WORD_BYTES: usize = size_of::<u64>();
const PAIR_BYTES: usize = PAIR * WORD_BYTES;

/// Makes fingerprints; holds the secret words.
pub(super) struct Fingerprints {
    key: Zeroizing<Vec<u64>>,
    masks: [u64; PAIR],
}

impl Fingerprints {
    /// For texts of at most so many bytes.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn new(text_bytes_max: usize) -> Result<Self, getrandom::Error> {
        let words = text_bytes_max.div_ceil(PAIR_BYTES) * PAIR + PAIR;
        let mut bytes = Zeroizing::new(vec![0; (words + PAIR) * WORD_BYTES]);
        getrandom::fill(&mut bytes)?;
        let mut random = bytes.as_chunks::<WORD_BYTES>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let masks = [(); PAIR].map(|()| random.next().expect("asked for two more"));
        Ok(Self { key: Zeroizing::new(random.collect()), masks })
    }

    /// `None` for a text that is longer than any that may be kept. 60 ns for 700 bytes; allocates nothing.
    pub(super) fn of(&self, text: &str) -> Option<TextMark> {
        let (pairs, rest) = text.as_bytes().as_chunks::<PAIR_BYTES>();
        let length = u32::try_from(text.len()).ok()?;
        // One pair more than the text has: the second sum is taken one pair further.
        let keys = self.key.get(..text.len().div_ceil(PAIR_BYTES) * PAIR + PAIR)?;
        let mut last = [0; PAIR_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(&last);
        let mut sums = [0_u128; 2];
        for (pair, key) in pairs.iter().chain(last).zip(keys.as_chunks::<PAIR>().0.array_windows::<2>()) {
            let [m0, m1] = words(pair);
            for (sum, [k0, k1]) in sums.iter_mut().zip(key) {
                let product = u128::from(m0.wrapping_add(*k0)) * u128::from(m1.wrapping_add(*k1));
                *sum = sum.wrapping_add(product);
            }
        }
        let [first, second] = sums;
        let halves = [first as u64, (first >> 64) as u64, second as u64, (second >> 64) as u64];
        Some(TextMark { sums: halves, length })
    }

    /// Where in a table a fingerprint goes: two words masked, multiplied, and the product folded. By secret words too,
    /// so that nobody can aim at one place.
    pub(super) fn place(&self, mark: &TextMark) -> u64 {
        let [one, other] = [mark.sums[0] ^ u64::from(mark.length), mark.sums[1] ^ mark.sums[2]];
        let product = u128::from(one ^ self.masks[0]) * u128::from(other ^ self.masks[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

const fn words(pair: &[u8; PAIR_BYTES]) -> [u64; PAIR] {
    let whole = u128::from_le_bytes(*pair);
    [whole as u64, (whole >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The sums as the paper writes them, over one string of padded words.
    fn as_written(key: &[u64], text: &[u8]) -> [u128; 2] {
        let mut padded = text.to_vec();
        padded.resize(text.len().next_multiple_of(16), 0);
        let message: Vec<u64> =
            padded.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        [0, 2].map(|shift| {
            (0..message.len()).step_by(2).fold(0_u128, |sum, at| {
                let one = message[at].wrapping_add(key[at + shift]);
                let other = message[at + 1].wrapping_add(key[at + shift + 1]);
                sum.wrapping_add(u128::from(one) * u128::from(other))
            })
        })
    }

    proptest! {
        #[test]
        fn the_sums_are_those_of_the_paper(text in "\\PC{0,90}") {
            let makes = Fingerprints::new(1024).unwrap();
            let found = makes.of(&text).unwrap();
            let expected = as_written(&makes.key, text.as_bytes());
            prop_assert_eq!(found.sums, [expected[0] as u64, (expected[0] >> 64) as u64, expected[1] as u64, (expected[1] >> 64) as u64]);
            prop_assert_eq!(found.length as usize, text.len());
        }
    }

    #[test]
    fn every_text_that_may_be_kept_has_one_and_no_longer_one() {
        let makes = Fingerprints::new(100).unwrap();
        let text = "x".repeat(1000);
        (0..=100).for_each(|length| assert!(makes.of(&text[..length]).is_some(), "{length}"));
        // To the end of its pair.
        assert!(makes.of(&text[..113]).is_none());
    }

    #[test]
    fn texts_that_differ_in_one_bit_one_end_or_the_order_of_their_words_differ() {
        let makes = Fingerprints::new(1024).unwrap();
        let text = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl".to_owned();
        let mut all =
            vec![text.clone(), format!("{text}\0"), format!("{text}\0\0"), String::new(), "\0".into()];
        for at in 0..text.len() {
            all.push(text[..at].to_owned());
            for bit in 0..7 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                all.push(String::from_utf8(bytes).unwrap());
            }
        }
        // Words and pairs in another order.
        all.push(text[8..16].to_owned() + &text[..8] + &text[16..]);
        all.push(text[16..32].to_owned() + &text[..16] + &text[32..]);
        all.sort();
        all.dedup();
        let prints: Vec<_> = all.iter().map(|text| makes.of(text).unwrap()).collect();
        for (at, one) in prints.iter().enumerate() {
            assert!(prints[at + 1..].iter().all(|other| one != other), "{}", all[at]);
        }
    }

    #[test]
    fn each_start_has_a_key_of_its_own_and_places_are_spread() {
        let [one, other] = [(); 2].map(|()| Fingerprints::new(64).unwrap());
        assert_ne!(one.of("a token").unwrap().sums, other.of("a token").unwrap().sums);
        let place = |number: u32| one.place(&one.of(&format!("token {number}")).unwrap());
        for shift in [0, 32, 57] {
            let spread: HashSet<_> = (0..4096).map(|number| place(number) >> shift & 127).collect();
            assert!(spread.len() > 120, "{shift}: {}", spread.len());
        }
    }
}
