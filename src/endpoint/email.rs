//! Emails: a sensible look at their form, and the spelling by which they are compared.

use unicode_normalization::UnicodeNormalization;

/// RFC 5321 §4.5.3.1.3, less the angle brackets.
pub(super) const EMAIL_BYTES_MAX: usize = 254;

/// Whether this could be somebody's email: a dot-atom (RFC 5322 §3.2.3, with the letters of RFC 6531) at a name of
/// at least two labels. Quoted local parts and address literals are not taken. Only a mail that arrives proves more.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let atom = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| {
                c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && is_mark(c))
            })
    };
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.chars().all(|c| c.is_alphanumeric() || c == '-' || (!c.is_ascii() && is_mark(c)))
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let last = domain.rsplit('.').next().unwrap_or_default();
    text.len() <= EMAIL_BYTES_MAX
        && local.len() <= 64
        && local.split('.').all(atom)
        && domain.contains('.')
        && domain.split('.').all(label)
        && !last.chars().all(|c| c.is_ascii_digit())
}

/// A mark that belongs to the letter before it, as many scripts need.
fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c)
}

/// The spelling by which emails are compared: NFC and lower case. Mail servers may tell `Ada@` from `ada@`; people do
/// not, and an account that differs from another by case alone is a trap.
pub(super) fn email_key(email: &str) -> String {
    email.nfc().collect::<String>().to_lowercase().nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_people_have_and_refuses_what_nobody_has() {
        for good in
            ["a@b.co", "Ada.Lovelace+x@example.com", "o'hara@sub.example.org", "jörg@münchen.de", "a@1.2x"]
        {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b.co",
            "a@b",
            "a@b.",
            "a@.b.co",
            "a b@c.de",
            "a@b c.de",
            "a@@b.co",
            "a..b@c.de",
            ".a@b.co",
            "a.@b.co",
            "a@-b.co",
            "a@b-.co",
            "a@1.2.3.4",
            "a@[1.2.3.4]",
            "\"a\"@b.co",
            "<a@b.co>",
            "a@b.co\n",
            "a\0@b.co",
            "a,b@c.de",
            "a@b_c.de",
        ] {
            assert!(!is_email(bad), "{bad:?}");
        }
        assert!(!is_email(&format!("{}@example.com", "a".repeat(65))));
        assert!(!is_email(&format!("a@{}.com", "b.".repeat(130))));
    }

    #[test]
    fn spellings_of_one_email_are_one() {
        assert_eq!(email_key("ADA@Example.COM"), "ada@example.com");
        assert_eq!(email_key("jo\u{308}rg@x.de"), email_key("J\u{d6}RG@x.de"));
        assert_ne!(
            email_key("ada@example.com"),
            email_key("adа@example.com"),
            "a Cyrillic letter is another letter"
        );
    }

    proptest::proptest! {
        #[test]
        fn the_spelling_for_comparing_is_its_own(text: String) {
            let key = email_key(&text);
            proptest::prop_assert_eq!(email_key(&key), key);
        }
    }
}
