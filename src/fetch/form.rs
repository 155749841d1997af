//! `application/x-www-form-urlencoded`.

use std::fmt::Write as _;

/// `name=value`, encoded (RFC 6749 appendix B), behind what `form` holds already.
pub fn add_pair(form: &mut String, name: &str, value: &str) {
    if !form.is_empty() {
        form.push('&');
    }
    encode(form, name.as_bytes());
    form.push('=');
    encode(form, value.as_bytes());
}

/// One name or value, encoded.
pub fn encode(form: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b' ' => form.push('+'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                form.push(char::from(byte))
            }
            _ => {
                let _ = write!(form, "%{byte:02X}");
            }
        }
    }
}
