//! What a well-signed token says, and when that is refused.

use super::*;

fn wrong_type(name: &str) -> VerifyError {
    VerifyError::ClaimType(name.into())
}

#[test]
fn a_good_token_is_read_whole() {
    let bench = Bench::new();
    let verified = bench
        .check(&json!({ "scope": "a b", "azp": "app", "type": "refresh", "tenant": { "id": 5 }, "iat": NOW.secs() }))
        .unwrap();
    let token = verified.token;
    assert_eq!((&*token.issuer, &*token.token_id), ("legacy", "t1"));
    assert_eq!((token.subject.as_deref(), token.session.as_deref()), (Some("7"), Some("s1")));
    assert_eq!((token.client.as_deref(), token.key_id.as_deref()), (Some("app"), Some(bench.key.id())));
    assert_eq!(token.scopes.join("|"), "a|b");
    assert_eq!(token.token_type, TokenType::Refresh);
    assert_eq!((token.issued_at, token.expires_at), (Some(NOW), UnixTime::from_secs(NOW.secs() + 600)));
    assert_eq!(token.fresh_until, None);
    assert_eq!(token.claims.get("tenant").unwrap()["id"], 5);
}

#[test]
fn refuses_registered_claims_of_the_wrong_type() {
    let bench = Bench::new();
    for (name, value) in [
        ("iss", json!(1)),
        ("iss", json!(null)),
        ("iss", json!([ISS])),
        ("sub", json!(7)),
        ("sub", json!(null)),
        ("sub", json!(["7"])),
        ("aud", json!(1)),
        ("aud", json!([1])),
        ("aud", json!({})),
        ("exp", json!("1800000600")),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("exp", json!(1.8e12)),
        ("exp", json!(true)),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("nbf", json!(-1)),
        ("iat", json!("1")),
        ("iat", json!(null)),
        ("iat", json!(-0.5)),
        ("iat", json!([1])),
        ("jti", json!(1)),
        ("jti", json!(null)),
        ("jti", json!({})),
        ("sid", json!(1)),
        ("client_id", json!(null)),
        ("azp", json!(["a"])),
        ("scope", json!(1)),
    ] {
        assert_eq!(bench.check(&json!({ name: value })).unwrap_err(), wrong_type(name), "{name}: {value}");
    }
}

#[test]
fn sub_keeps_its_type_when_the_subject_is_another_claim() {
    let mut bench = Bench::new();
    bench.terms.claims.subject = names(&["user"]);
    assert_eq!(bench.check(&json!({ "sub": 7, "user": "u" })).unwrap_err(), wrong_type("sub"));
    assert_eq!(bench.check(&json!({ "user": "u" })).unwrap().token.subject.as_deref(), Some("u"));
}

#[test]
fn refuses_names_that_could_not_be_revoked_by() {
    let mut bench = Bench::new();
    bench.terms.revocable = Arc::from(names(&["tenant"]));
    for name in ["jti", "sub", "sid", "client_id", "tenant"] {
        let longest = if name == "sub" { 1024 } else { 255 };
        assert!(bench.check(&json!({ name: "x".repeat(longest) })).is_ok(), "{name}");
        for bad in [String::new(), "a\u{7}".to_owned(), "\n".to_owned(), "x".repeat(longest + 1)] {
            let refused = bench.check(&json!({ name: bad })).unwrap_err();
            assert_eq!(refused, VerifyError::ClaimName(name.into()), "{name}");
        }
    }
    assert!(bench.check(&json!({ "tenant": ["a", 1, true] })).is_ok());
    assert_eq!(
        bench.check(&json!({ "tenant": { "id": 1 } })).unwrap_err(),
        VerifyError::ClaimName("tenant".into())
    );
}

#[test]
fn exp_is_always_required_and_the_list_beside_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.check_without("exp").unwrap_err(), VerifyError::ClaimMissing("exp".into()));
    for name in ["sub", "jti", "sid", "iat"] {
        assert!(bench.check_without(name).is_ok(), "{name}");
    }
    bench.terms.require = names(&["exp", "sub", "role"]);
    assert_eq!(bench.check(&json!({})).unwrap_err(), VerifyError::ClaimMissing("role".into()));
    assert_eq!(bench.check(&json!({ "role": null })).unwrap_err(), VerifyError::ClaimMissing("role".into()));
    assert!(bench.check(&json!({ "role": "a" })).is_ok());
}

#[test]
fn expiry_is_exact_and_said_only_of_what_is_good_otherwise() {
    let mut bench = Bench::new();
    let now = NOW.secs();
    let expired = |bench: &Bench, exp: Value| bench.check(&json!({ "exp": exp })).unwrap().is_expired(NOW);
    assert!(expired(&bench, json!(now)));
    assert!(!expired(&bench, json!(now + 1)));
    assert!(!expired(&bench, json!(now as f64 + 0.25)));
    assert!(expired(&bench, json!(0)));
    bench.terms.leeway = Duration::from_secs(10);
    assert!(expired(&bench, json!(now - 10)));
    assert!(!expired(&bench, json!(now - 9)));

    bench.terms.audience = names(&["api"]);
    assert_eq!(bench.check(&json!({ "exp": 1 })).unwrap_err(), VerifyError::Audience);
    let mut text = bench.sign(&bench.header(), &json!({ "iss": ISS, "exp": 1, "aud": "api" }));
    assert!(bench.verify(&text).unwrap().is_expired(NOW));
    let end = text.rfind('.').unwrap() + 5;
    text.replace_range(end..=end, if &text[end..=end] == "A" { "B" } else { "A" });
    assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Signature);
}

#[test]
fn refuses_nbf_and_iat_in_the_future_beyond_the_leeway() {
    let mut bench = Bench::new();
    let now = NOW.secs();
    assert!(bench.check(&json!({ "nbf": now, "iat": now })).is_ok());
    assert_eq!(bench.check(&json!({ "nbf": now + 1 })).unwrap_err(), VerifyError::NotYetValid);
    assert_eq!(bench.check(&json!({ "iat": now + 1 })).unwrap_err(), VerifyError::IssuedInFuture);
    bench.terms.skew = Duration::from_secs(5);
    assert!(bench.check(&json!({ "nbf": now + 5, "iat": now + 5 })).is_ok());
    assert_eq!(bench.check(&json!({ "nbf": now + 6 })).unwrap_err(), VerifyError::NotYetValid);
    assert_eq!(bench.check(&json!({ "iat": now + 6 })).unwrap_err(), VerifyError::IssuedInFuture);
}

#[test]
fn refuses_a_lifetime_over_the_longest() {
    let mut bench = Bench::new();
    bench.terms.lifetime_max = Duration::from_secs(3600);
    let now = NOW.secs();
    assert!(bench.check(&json!({ "iat": now - 10, "exp": now + 3590 })).is_ok());
    assert_eq!(
        bench.check(&json!({ "iat": now - 10, "exp": now + 3591 })).unwrap_err(),
        VerifyError::LivesTooLong
    );
    assert_eq!(
        bench.check(&json!({ "iat": now - 7200, "exp": now + 1 })).unwrap_err(),
        VerifyError::LivesTooLong
    );
    let without_iat =
        |exp: u64| bench.verify(&bench.sign(&bench.header(), &json!({ "iss": ISS, "exp": exp })));
    assert!(without_iat(now + 3600).is_ok());
    assert_eq!(without_iat(now + 3601).unwrap_err(), VerifyError::LivesTooLong);
}

#[test]
fn refuses_a_token_bound_to_a_key_and_one_that_is_neither_access_nor_refresh() {
    let bench = Bench::new();
    for cnf in [json!({ "kid": "x" }), json!({}), json!(null)] {
        assert_eq!(bench.check(&json!({ "cnf": cnf })).unwrap_err(), VerifyError::Bound);
    }
    let read = |change| bench.check(&change).map(|verified| verified.token.token_type);
    assert_eq!(read(json!({})), Ok(TokenType::Access));
    assert_eq!(read(json!({ "type": "access" })), Ok(TokenType::Access));
    assert_eq!(read(json!({ "token_use": "refresh", "type": "access" })), Ok(TokenType::Refresh));
    for bad in [json!("id"), json!("Access"), json!(""), json!(1), json!(null), json!(["access"])] {
        assert_eq!(read(json!({ "token_use": bad })), Err(VerifyError::TokenType), "{bad}");
    }
}

#[test]
fn a_token_without_jti_is_known_by_the_digest_of_its_signing_input() {
    let bench = Bench::new();
    let claims = json!({ "iss": ISS, "exp": NOW.secs() + 60 });
    let (one, other) = (bench.sign(&bench.header(), &claims), bench.sign(&bench.header(), &claims));
    assert_ne!(one, other, "two signatures of ES256 are never the same");
    let id = |text: &str| bench.verify(text).unwrap().token.token_id;
    assert_eq!(id(&one), id(&other));
    let input = one.rsplit_once('.').unwrap().0;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, input.as_bytes());
    assert_eq!(*id(&one), *format!("sha256:{}", encode_base64url(hash)));
}

#[test]
fn freshness_of_an_external_token_is_a_flag_or_a_time() {
    let bench = Bench::new();
    let read =
        |fresh: Value| bench.check(&json!({ "fresh": fresh })).unwrap().token.fresh_until.map(UnixTime::secs);
    assert_eq!(read(json!(true)), Some(NOW.secs() + 600));
    assert_eq!(read(json!(1_800_000_060)), Some(1_800_000_060));
    for not in [json!(false), json!(null), json!("true"), json!(-1)] {
        assert_eq!(read(not.clone()), None, "{not}");
    }
}

#[test]
fn the_issuer_is_found_by_iss_or_by_its_absence_alone() {
    let bench = Bench::new();
    assert_eq!(bench.check(&json!({ "iss": "https://evil" })).unwrap_err(), VerifyError::UnknownIssuer);
    assert_eq!(bench.check_without("iss").unwrap_err(), VerifyError::UnknownIssuer);
    let text = bench.sign(&bench.header(), &json!({ "exp": NOW.secs() + 60 }));
    let without = |iss: Option<&str>| iss.is_none().then_some(&bench.terms);
    assert!(verify(&text, TOKEN_BYTES_MAX, without, NOW, &mut ()).is_ok());
}
