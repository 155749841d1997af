//! Base64url as JOSE wants it (RFC 7515 §2): no padding, no white space, no spare bits.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Not base64url: a character outside the alphabet, padding, a length that no number of bytes has, or spare bits of
/// the last character that are not zero (those would give one token several spellings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not unpadded base64url")]
pub struct NotBase64;

/// The bytes of `text`; allocates them.
///
/// # Errors
/// For anything that [`encode_base64url`] would not have written.
pub fn decode_base64url(text: &str) -> Result<Vec<u8>, NotBase64> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| NotBase64)
}

/// `bytes` in base64url without padding.
pub fn encode_base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_padding_white_space_the_other_alphabet_and_spare_bits() {
        for bad in ["QQ==", "QQ=", "Q", "QR", "QUF", " QQ", "QQ\n", "Q Q", "+/+/", "QQ.", "é"] {
            assert_eq!(decode_base64url(bad), Err(NotBase64), "{bad:?}");
        }
        assert_eq!(decode_base64url("QQ"), Ok(b"A".to_vec()));
        assert_eq!(decode_base64url("-_-_"), Ok(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(decode_base64url(""), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn every_text_that_decodes_is_the_only_spelling_of_its_bytes(text in "[A-Za-z0-9_=+/ -]{0,12}") {
            if let Ok(bytes) = decode_base64url(&text) {
                prop_assert_eq!(encode_base64url(bytes), text);
            }
        }
    }
}
