//! What forgers try.

use aws_lc_rs::hmac;
use proptest::prelude::*;

use super::*;

#[test]
fn changing_any_character_makes_a_token_invalid() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256, Algorithm::RS256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let terms = terms(KeySet::from_signing_keys([(&key, None)]).unwrap());
        let header = json!({ "alg": format!("{algorithm:?}"), "kid": key.id() }).to_string();
        let text = signed(&key, &header, &good().to_string());
        assert!(check_with(&terms, &text).is_ok());
        for at in 0..text.len() {
            for other in ["A", "B", "z", "0", "-", "_", ".", "=", "@", " "] {
                if &text[at..=at] != other {
                    let mut changed = text.clone();
                    changed.replace_range(at..=at, other);
                    let refused = check_with(&terms, &changed).map(|_| ());
                    assert!(refused.is_err_and(|why| !why.is_expired()), "{algorithm:?} {at} {other}");
                }
            }
            let (mut shorter, mut longer) = (text.clone(), text.clone());
            shorter.remove(at);
            longer.insert(at, 'A');
            assert!(check_with(&terms, &shorter).is_err(), "{algorithm:?} without {at}");
            assert!(check_with(&terms, &longer).is_err(), "{algorithm:?} with another at {at}");
        }
        assert!(check_with(&terms, &format!("{text}@")).is_err());
    }
}

/// The claims under a header that names `alg`, with a MAC keyed by `secret`.
fn maced(algorithm: &str, secret: &[u8]) -> String {
    let header = json!({ "alg": algorithm }).to_string();
    let input = format!("{}.{}", encode_base64url(header), encode_base64url(good().to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", encode_base64url(tag))
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let pem = include_str!("pem/rsa2048.pem");
    let jwk = PublicKey::from_pem(pem).unwrap().to_jwk("k", Algorithm::RS256).to_string();
    // Even for an operator who lists both, which the configuration forbids.
    let both = [Algorithm::RS256, Algorithm::HS256];
    let single = terms(KeySet::from_public_key(pem, &both).unwrap());
    let set = terms(KeySet::from_jwks(&format!("{{\"keys\":[{jwk}]}}"), &both).unwrap().0);
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), jwk.as_bytes(), b""] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let text = maced(algorithm, secret);
            assert_eq!(check_with(&single, &text).unwrap_err(), VerifyError::Algorithm);
            assert_eq!(check_with(&set, &text).unwrap_err(), VerifyError::Algorithm);
        }
    }
}

#[test]
fn a_token_without_a_signature_is_refused_however_none_is_spelt() {
    let bench = Bench::new();
    for algorithm in
        ["none", "None", "NONE", "nOnE", "", "null", "ES256 ", "es256", "ES-256", "ES256\0", "HS1", "dir"]
    {
        for header in [json!({ "alg": algorithm }), json!({ "alg": algorithm, "kid": bench.key.id() })] {
            let text = bench.sign(&header, &good());
            let unsigned = format!("{}.", text.rsplit_once('.').unwrap().0);
            assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Algorithm, "{algorithm}");
            assert_eq!(bench.verify(&unsigned).unwrap_err(), VerifyError::Algorithm, "{algorithm}");
        }
    }
    let text = bench.sign(&bench.header(), &good());
    let unsigned = format!("{}.", text.rsplit_once('.').unwrap().0);
    assert_eq!(bench.verify(&unsigned).unwrap_err(), VerifyError::Signature);
}

#[test]
fn a_key_that_the_token_brings_along_proves_nothing() {
    let (bench, forger) = (Bench::new(), Bench::new());
    let jwk = forger.key.public_key().unwrap().to_jwk(bench.key.id(), Algorithm::ES256);
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/x5u.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        for kid in [json!({}), json!({ "kid": bench.key.id() }), json!({ "kid": forger.key.id() })] {
            let mut header = json!({ "alg": "ES256", name: value });
            header.as_object_mut().unwrap().extend(kid.as_object().unwrap().clone());
            assert!(forger.verify(&forger.sign(&header, &good())).is_ok() || kid["kid"] == bench.key.id());
            let refused = bench.verify(&forger.sign(&header, &good())).unwrap_err();
            assert!(
                matches!(refused, VerifyError::Signature | VerifyError::UnknownKey),
                "{name} {refused:?}"
            );
            // Nor does it spoil a token that is good.
            let mut header = bench.header();
            header[name] = value.clone();
            assert!(bench.check_header(&header).is_ok());
        }
    }
}

#[test]
fn refuses_a_token_whose_key_pins_another_algorithm() {
    let key = SigningKey::generate(Algorithm::RS256).unwrap();
    let jwk = key.public_key().unwrap().to_jwk(key.id(), Algorithm::PS256);
    let (keys, _) =
        KeySet::from_jwks(&json!({ "keys": [jwk] }).to_string(), &[Algorithm::RS256, Algorithm::PS256])
            .unwrap();
    let header = json!({ "alg": "RS256", "kid": key.id() }).to_string();
    let text = signed(&key, &header, &good().to_string());
    assert_eq!(check_with(&terms(keys), &text).unwrap_err(), VerifyError::Algorithm);
}

#[test]
fn an_es256_signature_has_one_form() {
    let bench = Bench::new();
    let text = bench.sign(&bench.header(), &good());
    let (input, signature) = text.rsplit_once('.').unwrap();
    let raw = decode_base64url(signature).unwrap();
    assert_eq!(raw.len(), 64);
    let integer = |half: &[u8]| [&[2, 33, 0][..], half].concat();
    let der = [&[0x30, 70][..], &integer(&raw[..32]), &integer(&raw[32..])].concat();
    let longer = [&raw[..], &[0]].concat();
    let padded = [&[0][..], &raw[..32], &[0], &raw[32..]].concat();
    for bad in [&der[..], &raw[..63], &longer, &padded, &[0; 64], &[0xff; 64], &[]] {
        let text = format!("{input}.{}", encode_base64url(bad));
        assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Signature);
    }
}

#[test]
fn messages_hold_no_value_of_the_token() {
    let bench = Bench::new();
    let secret = "VALUE-OF-THE-CLIENT";
    for change in [
        json!({ "sub": [secret] }),
        json!({ "jti": format!("{secret}\n") }),
        json!({ "type": secret }),
        json!({ "iss": secret }),
        json!({ "exp": secret }),
    ] {
        let refused = bench.check(&change).unwrap_err();
        assert!(!refused.to_string().contains(secret) && !format!("{refused:?}").contains(secret));
    }
}

proptest! {
    #[test]
    fn never_panics_and_never_accepts_what_was_not_signed(
        text in "[A-Za-z0-9_.=-]{0,200}",
        header in "\\PC{0,40}",
        claims in "\\PC{0,40}",
        signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let bench = Bench::new();
        prop_assert!(bench.verify(&text).is_err());
        let made = [encode_base64url(header), encode_base64url(claims), encode_base64url(&signature)].join(".");
        prop_assert!(bench.verify(&made).is_err());
        let input = bench.sign(&bench.header(), &good());
        let forged = format!("{}.{}", input.rsplit_once('.').unwrap().0, encode_base64url(&signature));
        prop_assert_eq!(bench.verify(&forged).map(|_| ()).unwrap_err(), VerifyError::Signature);
    }
}
