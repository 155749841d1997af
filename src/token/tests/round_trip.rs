//! Issue, keep, read back, verify: for each algorithm.

use super::*;

fn own(keys: KeySet) -> Terms {
    Terms {
        audience: names(&["api"]),
        typ: Typ::Own,
        fresh: Fresh::For(Duration::from_secs(300)),
        require: names(&["sub", "iat", "jti"]),
        ..terms(keys)
    }
}

fn new_token<'a>(extra: &'a Claims, audience: &'a [Box<str>]) -> NewToken<'a> {
    NewToken {
        issuer: ISS,
        audience,
        token_type: TokenType::Access,
        subject: "7",
        session: Some("s1"),
        client: None,
        token_id: "t1",
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(900)),
        fresh: true,
        binding: None,
        scopes: &[],
        extra,
    }
}

#[test]
fn what_each_algorithm_signs_verifies_and_with_no_other_key() {
    let (extra, audience) = (Claims::new(), names(&["api"]));
    for algorithm in ALGORITHMS {
        let key = SigningKey::generate(algorithm).unwrap();
        let text = issue(&key, &new_token(&extra, &audience)).unwrap();
        let terms = own(KeySet::from_signing_keys([(&key, None)]).unwrap());
        let token = check_with(&terms, &text).unwrap().token;
        assert_eq!((&*token.token_id, token.key_id.as_deref()), ("t1", Some(key.id())));
        assert_eq!(token.fresh_until, Some(NOW.plus(Duration::from_secs(300))));

        let other = SigningKey::generate(algorithm).unwrap();
        let terms = own(KeySet::from_signing_keys([(&other, None)]).unwrap());
        assert_eq!(check_with(&terms, &text).unwrap_err(), VerifyError::UnknownKey);

        let kept = SigningKey::import(algorithm, &key.export().unwrap(), key.id()).unwrap();
        assert_eq!(kept.id(), key.id());
        let terms = own(KeySet::from_signing_keys([(&kept, None)]).unwrap());
        assert!(check_with(&terms, &text).is_ok(), "{algorithm:?} read back");

        if let Some(public) = key.public_key() {
            let jwks = json!({ "keys": [public.to_jwk(key.id(), algorithm)] }).to_string();
            let (keys, skipped) = KeySet::from_jwks(&jwks, &[algorithm]).unwrap();
            assert_eq!(skipped, []);
            assert!(check_with(&own(keys), &text).is_ok(), "{algorithm:?} by its published key");
        }
        let wrong = if algorithm == Algorithm::ES256 { Algorithm::EdDSA } else { Algorithm::ES256 };
        assert!(
            SigningKey::import(wrong, &key.export().unwrap(), "k").is_err(),
            "{algorithm:?} as {wrong:?}"
        );
    }
}

#[test]
fn the_same_token_has_the_same_words_each_time() {
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let (extra, audience) = (Claims::new(), names(&["api"]));
    let [one, other] = [(); 2].map(|()| issue(&key, &new_token(&extra, &audience)).unwrap());
    assert_eq!(one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().0);
}

#[test]
fn writes_the_claims_of_the_contract_and_no_static_one_over_them() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let extra = json!({
        "tenant": "acme", "sub": "evil", "exp": 1, "nbf": 9_999_999_999_u64, "cnf": {}, "token_use": "refresh",
        "client_id": "evil", "scope": "admin",
    });
    let (none, two) = (Vec::new(), names(&["a", "b"]));
    let scopes = names(&["x", "y"]);
    let read = |token: &NewToken<'_>| {
        let text = issue(&key, token).unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        let part = |at: usize| json_object(&decode_base64url(parts[at]).unwrap()).unwrap();
        (Value::Object(part(0)), Value::Object(part(1)))
    };
    let mut token = new_token(extra.as_object().unwrap(), &none);
    let (header, claims) = read(&token);
    assert_eq!(header, json!({ "alg": "EdDSA", "kid": key.id(), "typ": "at+jwt" }));
    let (iat, exp) = (NOW.secs(), NOW.secs() + 900);
    let expected = json!({
        "iss": ISS, "sub": "7", "sid": "s1", "jti": "t1", "iat": iat, "exp": exp, "type": "access", "fresh": true,
        "tenant": "acme",
    });
    assert_eq!(claims, expected);
    token =
        NewToken { audience: &two, token_type: TokenType::Refresh, fresh: false, scopes: &scopes, ..token };
    token = NewToken { session: None, client: Some("billing"), ..token };
    let (header, claims) = read(&token);
    assert_eq!(header["typ"], "JWT");
    let expected = json!({
        "iss": ISS, "sub": "7", "client_id": "billing", "jti": "t1", "iat": iat, "exp": exp, "type": "refresh",
        "aud": ["a", "b"], "scope": "x y", "tenant": "acme",
    });
    assert_eq!(claims, expected);
}

#[test]
fn typ_and_type_of_our_own_tokens_must_agree() {
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let terms = Terms { audience: Vec::new(), ..own(KeySet::from_signing_keys([(&key, None)]).unwrap()) };
    let check = |typ: Value, token_type: Value| {
        let mut header = json!({ "alg": "ES256", "kid": key.id() });
        let mut claims = good();
        for (object, name, value) in [(&mut header, "typ", typ), (&mut claims, "type", token_type)] {
            if !value.is_null() {
                object[name] = value;
            }
        }
        check_with(&terms, &signed(&key, &header.to_string(), &claims.to_string())).map(|_| ())
    };
    assert_eq!(check(json!("at+jwt"), json!("access")), Ok(()));
    assert_eq!(check(json!("JWT"), json!("refresh")), Ok(()));
    assert_eq!(check(json!("JWT"), json!("access")), Err(VerifyError::Typ));
    assert_eq!(check(json!("at+jwt"), json!("refresh")), Err(VerifyError::Typ));
    assert_eq!(check(Value::Null, json!("access")), Err(VerifyError::Typ));
    assert_eq!(check(json!("other"), json!("access")), Err(VerifyError::Typ));
    assert_eq!(check(json!("at+jwt"), Value::Null), Err(VerifyError::TokenType));
    assert_eq!(check(json!("at+jwt"), json!("id")), Err(VerifyError::TokenType));
}
