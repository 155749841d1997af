//! Which keys are taken in, and which key is picked.

use super::*;

const ALL_ASYMMETRIC: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

fn fitting(pem: &str) -> Vec<Algorithm> {
    let key = PublicKey::from_pem(pem).unwrap();
    ALGORITHMS.into_iter().filter(|algorithm| key.fits(*algorithm)).collect()
}

#[test]
fn reads_every_form_of_public_key_that_openssl_writes() {
    let rsa = &ALL_ASYMMETRIC[3..];
    assert_eq!(fitting(include_str!("pem/rsa2048.pem")), rsa);
    assert_eq!(fitting(include_str!("pem/rsa2048-pkcs1.pem")), rsa);
    assert_eq!(fitting(include_str!("pem/rsa2048-certificate.pem")), rsa);
    assert_eq!(fitting(include_str!("pem/p256.pem")), [Algorithm::ES256]);
    assert_eq!(fitting(include_str!("pem/p384.pem")), [Algorithm::ES384]);
    assert_eq!(fitting(include_str!("pem/p384-certificate.pem")), [Algorithm::ES384]);
    assert_eq!(fitting(include_str!("pem/ed25519.pem")), [Algorithm::EdDSA]);
    let read = |pem| PublicKey::from_pem(pem).unwrap();
    let key = read(include_str!("pem/rsa2048.pem"));
    assert_eq!(key, read(include_str!("pem/rsa2048-pkcs1.pem")));
    assert_eq!(key, read(include_str!("pem/rsa2048-certificate.pem")));
    assert_eq!(read(include_str!("pem/p384.pem")), read(include_str!("pem/p384-certificate.pem")));
}

#[test]
fn refuses_weak_unknown_and_misplaced_keys() {
    let check = |pem: &str, expected: KeyError| assert_eq!(PublicKey::from_pem(pem), Err(expected), "{pem}");
    check(include_str!("pem/rsa1024.pem"), KeyError::RsaTooSmall(1024));
    check(include_str!("pem/p521.pem"), KeyError::Unsupported);
    check(include_str!("pem/rsa-pss.pem"), KeyError::Unsupported);
    check(include_str!("pem/p256-compressed.pem"), KeyError::Point);
    check("", KeyError::NotPem);
    check("not a key", KeyError::NotPem);
    check("-----BEGIN PUBLIC KEY-----\nQQ==\n-----END PUBLIC KEY-----\n", KeyError::Malformed);
    check("-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n", KeyError::Malformed);
    check("-----BEGIN SOMETHING-----\nQQ==\n-----END SOMETHING-----\n", KeyError::NotPem);
    let (one, other) = (include_str!("pem/p256.pem"), include_str!("pem/ed25519.pem"));
    check(&format!("{one}{other}"), KeyError::Several);
    let private = SigningKey::generate(Algorithm::ES256).unwrap().export().unwrap();
    check(&private, KeyError::Private);
    check(&format!("{one}{}", *private), KeyError::Private);
}

#[test]
fn a_broken_public_key_is_refused_and_never_panics() {
    for pem in
        [include_str!("pem/rsa2048.pem"), include_str!("pem/p256.pem"), include_str!("pem/ed25519.pem")]
    {
        let der = der::pem_blocks(pem).unwrap().remove(0).der;
        for length in 0..der.len() {
            assert!(PublicKey::from_pem(&der::pem("PUBLIC KEY", &der[..length])).is_err(), "{length}");
        }
        assert!(PublicKey::from_pem(&der::pem("PUBLIC KEY", &[&der[..], &[0]].concat())).is_err());
        for at in 0..der.len() {
            let mut der = der.clone();
            der[at] ^= 0x10;
            let _ = PublicKey::from_pem(&der::pem("PUBLIC KEY", &der));
        }
    }
}

#[test]
fn refuses_points_that_are_not_on_the_curve_or_of_small_order() {
    let check = |jwk: Value, expected: KeyError| {
        assert_eq!(PublicKey::from_jwk(jwk.as_object().unwrap()), Err(expected), "{jwk}");
    };
    let good = PublicKey::from_pem(include_str!("pem/p256.pem")).unwrap().to_jwk("k", Algorithm::ES256);
    let (x, y) = (good["x"].clone(), good["y"].clone());
    let ec = |x: &Value, y: &Value| json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    assert!(PublicKey::from_jwk(ec(&x, &y).as_object().unwrap()).is_ok());
    check(ec(&y, &x), KeyError::Point);
    check(ec(&x, &x), KeyError::Point);
    let zero = json!(encode_base64url([0; 32]));
    check(ec(&zero, &zero), KeyError::Point);
    check(ec(&json!(encode_base64url([0xff; 32])), &y), KeyError::Point);
    check(ec(&json!("AQ"), &y), KeyError::Point);
    check(ec(&json!(format!("{}=", x.as_str().unwrap())), &y), KeyError::Member("x"));
    check(json!({ "kty": "EC", "crv": "P-256", "x": x }), KeyError::Member("y"));
    check(json!({ "kty": "EC", "crv": "P-384", "x": x, "y": y }), KeyError::Point);
    check(json!({ "kty": "EC", "crv": "secp256k1", "x": x, "y": y }), KeyError::Unsupported);

    let okp = |bytes: [u8; 32]| json!({ "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(bytes) });
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut minus_zero = [0; 32];
    minus_zero[31] = 0x80;
    for weak in [[0; 32], identity, minus_zero] {
        check(okp(weak), KeyError::Point);
    }
    check(json!({ "kty": "OKP", "crv": "Ed448", "x": "AA" }), KeyError::Unsupported);
    check(json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }), KeyError::Point);
}

#[test]
fn refuses_rsa_numbers_that_no_key_has() {
    let rsa = |n: &[u8], e: &[u8]| {
        let jwk = json!({ "kty": "RSA", "n": encode_base64url(n), "e": encode_base64url(e) });
        PublicKey::from_jwk(jwk.as_object().unwrap()).map(|_| ())
    };
    let n = [0xc1; 256];
    assert_eq!(rsa(&n, &[1, 0, 1]), Ok(()));
    assert_eq!(rsa(&[&[0, 0][..], &n].concat(), &[0, 1, 0, 1]), Ok(()), "leading zeros change nothing");
    assert_eq!(rsa(&[0xc0; 256], &[1, 0, 1]), Err(KeyError::Malformed), "even");
    assert_eq!(rsa(&[&[0x7f][..], &[0xc1; 255]].concat(), &[1, 0, 1]), Err(KeyError::RsaTooSmall(2047)));
    assert_eq!(rsa(&[], &[1, 0, 1]), Err(KeyError::RsaTooSmall(0)));
    assert_eq!(rsa(&[0xc1; 1025], &[1, 0, 1]), Err(KeyError::RsaTooLarge(8200)));
    for e in [&[][..], &[0], &[1], &[2], &[1, 0, 0], &[3, 0, 0, 0, 1]] {
        assert_eq!(rsa(&n, e), Err(KeyError::RsaExponent), "{e:?}");
    }
}

#[test]
fn keys_of_a_set_that_do_not_suit_are_passed_over_with_a_reason() {
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let jwk = |change: Value| {
        let mut jwk = key.public_key().unwrap().to_jwk("k", Algorithm::ES256);
        for (name, value) in change.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    let refused =
        || KeyError::NoAlgorithm { kind: "EC key on P-256".to_owned(), algorithms: vec![Algorithm::ES256] };
    let cases = [
        (json!({ "use": "enc" }), KeyError::Purpose("use")),
        (json!({ "use": 1 }), KeyError::Purpose("use")),
        (json!({ "key_ops": ["sign"] }), KeyError::Purpose("key_ops")),
        (json!({ "key_ops": "verify" }), KeyError::Purpose("key_ops")),
        (json!({ "alg": "ES384" }), refused()),
        (json!({ "alg": "ECDH-ES" }), refused()),
        (json!({ "alg": 1 }), KeyError::Member("alg")),
        (json!({ "kid": 5 }), KeyError::Member("kid")),
        (json!({ "kid": "a\nb" }), KeyError::Member("kid")),
        (json!({ "kty": "XYZ" }), KeyError::Unsupported),
        (json!({ "kty": 1 }), KeyError::Member("kty")),
        (
            json!({ "kty": "oct", "k": encode_base64url([1; 64]) }),
            KeyError::NoAlgorithm { kind: "secret".to_owned(), algorithms: vec![Algorithm::ES256] },
        ),
    ];
    let mut keys: Vec<Value> = cases.iter().map(|(change, _)| jwk(change.clone())).collect();
    keys.push(json!("no object"));
    let only_bad = KeySet::from_jwks(&json!({ "keys": keys }).to_string(), &[Algorithm::ES256]);
    assert!(matches!(only_bad, Err(KeyError::NoUsableKey(skipped)) if skipped.len() == cases.len() + 1));
    keys.push(jwk(json!({ "kid": "good", "key_ops": ["verify"], "x5c": ["ignored"], "unknown": {} })));
    let (set, skipped) =
        KeySet::from_jwks(&json!({ "keys": keys }).to_string(), &[Algorithm::ES256]).unwrap();
    assert_eq!(set.len(), 1);
    let reasons: Vec<&KeyError> = skipped.iter().map(|one| &one.why).collect();
    let expected: Vec<&KeyError> = cases.iter().map(|(_, why)| why).chain([&KeyError::Malformed]).collect();
    assert_eq!(reasons, expected);

    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(KeySet::from_jwks(bad, &[Algorithm::ES256]).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_goes_with_symmetric_algorithms_alone() {
    let secret = b"0123456789abcdef0123456789abcdef";
    assert!(KeySet::from_secret(secret, &[Algorithm::HS256, Algorithm::HS512]).is_ok());
    assert!(KeySet::from_secret(secret, &[Algorithm::HS256, Algorithm::RS256]).is_err());
    assert!(KeySet::from_secret(secret, &[]).is_err());
    assert_eq!(KeySet::from_secret(b"", &[Algorithm::HS256]).unwrap_err(), KeyError::EmptySecret);
    assert!(
        KeySet::from_public_key(include_str!("pem/p256.pem"), &[Algorithm::HS256, Algorithm::ES384]).is_err()
    );
    let short = json!({ "keys": [{ "kty": "oct", "k": encode_base64url([1; 31]) }] }).to_string();
    assert!(KeySet::from_jwks(&short, &[Algorithm::HS256]).is_err());
}

/// The verdict on a token with this `kid` by `key`, given a set.
fn pick(
    set: &KeySet,
    key: &SigningKey,
    kid: Option<&str>,
    now: UnixTime,
) -> Result<Option<String>, VerifyError> {
    let signature = key.sign(b"message").unwrap();
    set.check(kid, key.algorithm(), now, b"message", &signature).map(|matched| matched.id.map(str::to_owned))
}

#[test]
fn kid_picks_a_key_and_without_one_exactly_one_must_fit() {
    let [one, other, rsa] = [Algorithm::ES256, Algorithm::ES256, Algorithm::EdDSA]
        .map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let jwk = |key: &SigningKey, id: &str| key.public_key().unwrap().to_jwk(id, key.algorithm());
    let set =
        |keys: &[Value]| KeySet::from_jwks(&json!({ "keys": keys }).to_string(), &ALL_ASYMMETRIC).unwrap().0;

    let two = set(&[jwk(&one, "1"), jwk(&other, "2"), jwk(&rsa, "3")]);
    assert_eq!(pick(&two, &one, Some("1"), NOW), Ok(Some("1".to_owned())));
    assert_eq!(pick(&two, &one, Some("2"), NOW), Err(VerifyError::Signature));
    assert_eq!(pick(&two, &one, Some("3"), NOW), Err(VerifyError::Algorithm));
    assert_eq!(pick(&two, &one, Some("4"), NOW), Err(VerifyError::UnknownKey));
    assert_eq!(pick(&two, &one, None, NOW), Err(VerifyError::AmbiguousKey));
    assert_eq!(pick(&two, &rsa, None, NOW), Ok(Some("3".to_owned())), "the one that fits");

    let same = set(&[jwk(&one, "1"), jwk(&other, "1"), jwk(&rsa, "1")]);
    for key in [&one, &other, &rsa] {
        assert_eq!(
            pick(&same, key, Some("1"), NOW),
            Ok(Some("1".to_owned())),
            "all keys of one id are tried"
        );
    }

    let mut nameless = jwk(&one, "1");
    nameless.as_object_mut().unwrap().remove("kid");
    let nameless = set(&[nameless]);
    assert_eq!(pick(&nameless, &one, None, NOW), Ok(None));
    assert_eq!(pick(&nameless, &one, Some("1"), NOW), Err(VerifyError::UnknownKey));

    let single = KeySet::from_public_key(include_str!("pem/p256.pem"), &[Algorithm::ES256]).unwrap();
    assert_eq!(pick(&single, &one, Some("any"), NOW), Err(VerifyError::Signature), "the id is ignored");
}

#[test]
fn a_key_verifies_until_its_end() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let set = KeySet::from_signing_keys([(&key, Some(NOW))]).unwrap();
    let before = UnixTime::from_millis(NOW.millis() - 1);
    for kid in [Some(key.id()), None] {
        assert!(pick(&set, &key, kid, before).is_ok());
        assert!(pick(&set, &key, kid, NOW).is_err());
    }
}

#[test]
fn a_token_without_kid_can_be_revoked_by_the_key_that_verified_it() {
    let bench = Bench::new();
    let token = bench.check_header(&json!({ "alg": "ES256" })).unwrap().token;
    assert_eq!(token.key_id.as_deref(), Some(bench.key.id()));
}

#[test]
fn no_output_shows_a_secret() {
    let secret = "this is a secret of thirty-two b";
    let key = SigningKey::from_secret(Algorithm::HS256, secret.as_bytes(), "k1").unwrap();
    let set = KeySet::from_signing_keys([(&key, None)]).unwrap();
    let shown = format!("{key:?} {set:?}") + &format!("{:?}", terms(set));
    assert!(!shown.contains("secret of") && !shown.contains(&encode_base64url(secret)), "{shown}");
    let random = SigningKey::generate(Algorithm::HS256).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, random.secret().unwrap());
    assert!(!encode_base64url(digest).starts_with(random.id()), "a secret's id must not be its digest");
}
