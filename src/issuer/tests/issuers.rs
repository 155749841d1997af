//! Whom a token is of, and whether it is good.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::Answer;
use crate::{revocation, token};

const SECRET: &[u8] = b"a secret that Flask and we share";

/// A token of the legacy issuer, good for ten minutes, with these claims beside.
fn legacy(claims: serde_json::Value) -> String {
    let key = SigningKey::from_secret(Algorithm::HS256, SECRET, "any").unwrap();
    let extra = claims.as_object().unwrap();
    let token = NewToken {
        issuer: "https://id.example.com",
        audience: &[],
        token_type: TokenType::Access,
        subject: "7",
        session: Some("s1"),
        client: Some("app"),
        token_id: "t1",
        issued_at: NOW,
        expires_at: after(600),
        fresh: false,
        binding: None,
        scopes: &[],
        extra,
    };
    issue(&key, &token).unwrap()
}

fn legacy_issuer() -> External {
    external("legacy", Some("https://id.example.com"), secret_file(SECRET), Algorithm::HS256)
}

#[test]
fn a_hit_gives_the_same_token_and_still_checks_its_expiry() {
    let issuers = load(None, &[legacy_issuer()], 16);
    let text = legacy(json!({}));
    let first = issuers.verify(&text, NOW).unwrap();
    let second = issuers.verify(&text, after(609)).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((issuers.cache_hits(), issuers.cache_misses(), issuers.cached_tokens()), (1, 1, 1));
    assert_eq!(first.good_until(), after(610), "exp and the leeway");
    assert_eq!(issuers.verify(&text, after(610)).unwrap_err(), VerifyError::Expired);
    assert!(issuers.verify_tolerating_expiry(&text, after(610)).unwrap().is_expired(after(610)));
    assert_eq!(issuers.cache_misses(), 1);
}

#[test]
fn what_is_refused_or_expired_is_not_kept() {
    let issuers = load(None, &[legacy_issuer()], 16);
    let text = legacy(json!({}));
    assert_eq!(issuers.verify(&text, after(610)).unwrap_err(), VerifyError::Expired);
    assert!(issuers.verify_tolerating_expiry(&text, after(610)).is_ok());
    assert_eq!(issuers.verify(&format!("{text}A"), NOW).unwrap_err(), VerifyError::Signature);
    assert_eq!(issuers.cached_tokens(), 0);
    issuers.verify(&text, NOW).unwrap();
    assert!(issuers.verify(&format!("{text}A"), NOW).is_err(), "another text is another token");
}

#[test]
fn without_a_cache_each_token_is_verified_anew() {
    let issuers = load(None, &[legacy_issuer()], 0);
    let text = legacy(json!({}));
    let (one, other) = (issuers.verify(&text, NOW).unwrap(), issuers.verify(&text, NOW).unwrap());
    assert!(!Arc::ptr_eq(&one, &other));
    assert_eq!((issuers.cache_hits(), issuers.cached_tokens()), (0, 0));
}

#[test]
fn the_cache_keeps_no_more_than_it_may() {
    let issuers = load(None, &[legacy_issuer()], 32);
    for number in 0..500 {
        issuers.verify(&legacy(json!({ "n": number })), NOW).unwrap();
    }
    assert!(issuers.cached_tokens() <= 64, "{}", issuers.cached_tokens());
}

#[test]
fn other_keys_end_what_was_verified_with_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let before = load(Some(&own(dir.path(), Algorithm::ES256)), &[legacy_issuer()], 16);
    let (text, own_text) = (legacy(json!({})), access(&before, "t2"));
    before.verify(&text, NOW).unwrap();
    let kept = before.verify(&own_text, NOW).unwrap();
    let keys = KeySet::from_secret(b"another secret, also of 32 bytes", &[Algorithm::HS256]).unwrap();
    let after = before.with_keys("legacy", keys);
    assert_eq!(after.verify(&text, NOW).unwrap_err(), VerifyError::Signature);
    assert!(Arc::ptr_eq(&after.verify(&own_text, NOW).unwrap(), &kept), "other issuers keep theirs");
}

#[test]
fn only_own_tokens_pass_where_only_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let issuers = load(Some(&own(dir.path(), Algorithm::ES256)), &[legacy_issuer()], 16);
    let (text, own_text) = (legacy(json!({})), access(&issuers, "t2"));
    for _ in 0..2 {
        assert_eq!(issuers.verify_own(&text, NOW).unwrap_err(), VerifyError::UnknownIssuer);
        assert!(issuers.verify_own(&own_text, NOW).is_ok());
        assert!(issuers.verify(&text, NOW).is_ok());
        assert_eq!(issuers.verify_own_tolerating_expiry(&text, NOW).unwrap_err(), VerifyError::UnknownIssuer);
    }
    assert!(issuers.verify_own_tolerating_expiry(&own_text, after(900)).unwrap().is_expired(after(900)));
    assert_eq!(issuers.verify_own(&own_text, after(900)).unwrap_err(), VerifyError::Expired);
    assert_eq!(issuers.names().map(|name| &**name).collect::<Vec<_>>(), ["self", "legacy"]);
}

#[test]
fn an_external_issuer_cannot_speak_for_us_nor_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let other = external("other", Some("https://other.example"), secret_file(&[9; 32]), Algorithm::HS256);
    let issuers = load(Some(&own(dir.path(), Algorithm::ES256)), &[legacy_issuer(), other], 16);
    let key = SigningKey::from_secret(Algorithm::HS256, SECRET, "any").unwrap();
    let (extra, audience) = (Claims::new(), []);
    for (iss, expected) in
        [("portcullis", VerifyError::UnknownKey), ("https://other.example", VerifyError::Signature)]
    {
        let token = NewToken {
            issuer: iss,
            audience: &audience,
            token_type: TokenType::Access,
            subject: "7",
            session: None,
            client: None,
            token_id: "t1",
            issued_at: NOW,
            expires_at: after(60),
            fresh: false,
            binding: None,
            scopes: &[],
            extra: &extra,
        };
        assert_eq!(issuers.verify(&issue(&key, &token).unwrap(), NOW).unwrap_err(), expected, "{iss}");
    }
}

#[test]
fn own_tokens_are_fresh_for_a_while_and_tolerate_the_clocks_of_a_fleet() {
    let dir = tempfile::tempdir().unwrap();
    let issuers = load(Some(&own(dir.path(), Algorithm::ES256)), &[], 0);
    let text = access(&issuers, "t1");
    let known = issuers.verify(&text, UnixTime::from_secs(NOW.secs() - 5)).unwrap();
    assert_eq!(known.token.fresh_until, Some(after(300)));
    let early = UnixTime::from_secs(NOW.secs() - 6);
    assert_eq!(issuers.verify(&text, early).unwrap_err(), VerifyError::IssuedInFuture);
    assert!(issuers.verify(&text, UnixTime::from_millis(after(900).millis() - 1)).is_ok());
    assert_eq!(issuers.verify(&text, after(900)).unwrap_err(), VerifyError::Expired);
}

#[test]
fn a_token_without_iss_goes_to_the_one_issuer_configured_without() {
    let nameless = external("flask", None, secret_file(SECRET), Algorithm::HS256);
    let issuers = load(None, std::slice::from_ref(&nameless), 0);
    assert_eq!(issuers.verify(&legacy(json!({})), NOW).unwrap_err(), VerifyError::UnknownIssuer);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        errors(
            Some(&own(dir.path(), Algorithm::ES256)),
            &[nameless.clone(), External { name: "b".into(), ..nameless }]
        ),
        ["the issuers \"flask\" and \"b\" have the same iss: give each its own"]
    );
}

#[test]
fn every_problem_is_reported_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let jwks = |text: &str| KeySource::JwksFile { path: "keys.json".into(), text: text.to_owned() };
    let pem = KeySource::PublicKeyFile { path: "key.pem".into(), pem: "nothing".to_owned() };
    let found = errors(
        Some(&own(dir.path(), Algorithm::ES256)),
        &[
            external("a", Some("a"), jwks("{}"), Algorithm::ES256),
            external("b", Some("b"), jwks(r#"{"keys":[{"kty":"EC","kid":"k1"}]}"#), Algorithm::ES256),
            external("c", Some("c"), pem, Algorithm::ES256),
            external("d", Some("d"), secret_file(b""), Algorithm::HS256),
            external("self", Some("e"), secret_file(SECRET), Algorithm::HS256),
            external("f", Some("portcullis"), secret_file(SECRET), Algorithm::HS256),
        ],
    );
    let expected = [
        "issuer \"a\": keys.json cannot be used: is not a JWK set: it has no array \"keys\"",
        "issuer \"b\": keys.json cannot be used: has no usable key; key 0 (kid \"k1\") lacks a well-formed \"crv\"",
        "issuer \"c\": key.pem cannot be used: is not PEM with a public key or a certificate (-----BEGIN PUBLIC \
         KEY-----, RSA PUBLIC KEY, CERTIFICATE)",
        "issuer \"d\": secret cannot be used: is empty",
        "the issuer name \"self\" is taken",
        "the issuers \"self\" and \"f\" have the same iss: give each its own",
    ];
    assert_eq!(found, expected);
}

#[test]
fn keys_that_were_passed_over_are_told_of() {
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let jwk = key.public_key().unwrap().to_jwk("k1", Algorithm::ES256);
    let text = json!({ "keys": [{ "kty": "EC", "kid": "k0", "use": "enc" }, jwk] }).to_string();
    let source = KeySource::JwksFile { path: "keys.json".into(), text };
    let external = [external("idp", Some("i"), source, Algorithm::ES256)];
    let setup = Setup {
        own: None,
        external: &external,
        revocable: &[],
        token_cache: 0,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    let (_, notices) = Issuers::load(&setup, NOW).unwrap();
    let told: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["issuer \"idp\": key 0 (kid \"k0\") is not meant for verifying signatures (\"use\")"]);
}

#[test]
fn a_known_token_carries_its_keys_in_the_blocklist() {
    let external = [legacy_issuer()];
    let revocable = ["tenant".into()];
    let setup = Setup {
        own: None,
        external: &external,
        revocable: &revocable,
        token_cache: 4,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    let (issuers, _) = Issuers::load(&setup, NOW).unwrap();
    let known = issuers.verify(&legacy(json!({ "tenant": ["acme", 5] })), NOW).unwrap();
    assert_eq!(known.keys, TokenKeys::of(&known.token, &revocable));
    assert_eq!(known.keys.claims.len(), 2);
    assert!(matches!(
        issuers.verify(&legacy(json!({ "tenant": {} })), NOW).unwrap_err(),
        VerifyError::ClaimName(name) if &*name == "tenant"
    ));
}

#[test]
fn both_rooms_mean_the_same_by_a_name_that_is_too_long() {
    assert_eq!(token::NAME_BYTES_MAX, revocation::NAME_BYTES_MAX);
    assert_eq!(token::SUBJECT_BYTES_MAX, revocation::SUBJECT_BYTES_MAX);
}

#[test]
fn explains_each_step_without_touching_the_cache() {
    let issuers = load(None, &[legacy_issuer()], 16);
    let text = legacy(json!({}));
    let (steps, verdict) = issuers.explain(&text, NOW);
    assert_eq!((steps.len(), verdict.is_ok()), (12, true));
    let (steps, verdict) = issuers.explain(&text, after(700));
    assert_eq!((steps.len(), verdict.unwrap_err()), (11, VerifyError::Expired));
    assert_eq!((issuers.cache_misses(), issuers.cached_tokens()), (0, 0));
}

/// A store that gives one answer and counts how often it was asked.
struct Told(Standing, AtomicUsize);

impl Registry for Told {
    fn standing<'a>(&'a self, _: &'a str) -> Answer<'a, Standing> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(self.0) })
    }
}

#[tokio::test]
async fn the_store_is_asked_only_about_tokens_that_it_has_a_say_in() {
    let dir = tempfile::tempdir().unwrap();
    let settings = own(dir.path(), Algorithm::ES256);
    let lax = load(Some(&settings), &[legacy_issuer()], 0);
    let strict = load(Some(&Own { strict: true, ..settings }), &[legacy_issuer()], 0);
    let extra = Claims::new();
    let refresh = lax.own().unwrap().issue_refresh(&grant("r1", &extra)).unwrap();
    let (access, foreign) = (access(&lax, "t1"), legacy(json!({})));
    let check = async |issuers: &Issuers, text: &str, told: Standing| {
        let registry = Told(told, AtomicUsize::new(0));
        let token = issuers.verify(text, NOW).unwrap();
        let standing = issuers.standing(&token.token, &registry).await.unwrap();
        (standing, registry.1.into_inner())
    };
    use Standing::{Good, Retired, Unknown};
    assert_eq!(check(&lax, &access, Unknown).await, (Good, 0));
    assert_eq!(check(&lax, &refresh, Unknown).await, (Good, 1));
    assert_eq!(check(&lax, &refresh, Retired).await, (Retired, 1));
    assert_eq!(check(&strict, &access, Unknown).await, (Unknown, 1));
    assert_eq!(check(&strict, &refresh, Retired).await, (Retired, 1));
    assert_eq!(check(&strict, &foreign, Unknown).await, (Good, 0));
}

#[test]
fn a_reload_takes_over_what_has_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = own(dir.path(), Algorithm::ES256);
    let secret = |text: &str| secret_file(format!("{text:.<64}").as_bytes());
    let kept = external("kept", Some("https://kept.test"), secret("kept"), Algorithm::HS256);
    let changed = external("changed", Some("https://changed.test"), secret("old"), Algorithm::HS256);
    let before = load(Some(&settings), &[kept.clone(), changed.clone()], 16);
    let rotated = before.own().unwrap().keyring().rotate(after(3600), NOW).unwrap();
    let before = before.with_keyring(rotated, NOW).unwrap();
    let token = |iss: &str, text: &str| {
        let secret = format!("{text:.<64}");
        let key = SigningKey::from_secret(Algorithm::HS256, secret.as_bytes(), "any").unwrap();
        let (subject, id) = ("ada", "t-1");
        let new = NewToken {
            issuer: iss,
            audience: &[],
            token_type: TokenType::Access,
            subject,
            session: None,
            client: None,
            token_id: id,
            issued_at: NOW,
            expires_at: after(600),
            fresh: false,
            binding: None,
            scopes: &[],
            extra: &Claims::new(),
        };
        issue(&key, &new).unwrap()
    };
    let (of_kept, of_changed) = (token("https://kept.test", "kept"), token("https://changed.test", "old"));
    before.verify(&of_kept, NOW).unwrap();
    before.verify(&of_changed, NOW).unwrap();

    // The order is another one, too: places are no names.
    let changed = External { keys: secret("new"), ..changed };
    let external = [kept, changed];
    let setup = Setup {
        own: Some(&settings),
        external: &external,
        revocable: &[],
        token_cache: 16,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    let (after_reload, _) = Issuers::load_after(&setup, Some(&before), NOW).unwrap();
    let hits = after_reload.cache_hits();
    after_reload.verify(&of_kept, NOW).unwrap();
    assert_eq!(after_reload.cache_hits(), hits + 1, "verified before is verified still");
    assert!(after_reload.verify(&of_changed, NOW).is_err(), "kept tokens of changed keys are verified anew");
    after_reload.verify(&token("https://changed.test", "new"), NOW).unwrap();
    let signing = |issuers: &Issuers| issuers.own().unwrap().keyring().signing_key().id().to_owned();
    assert_eq!(signing(&after_reload), signing(&before), "a rotation since the start is not undone");
    assert!(Arc::ptr_eq(&before.replays, &after_reload.replays), "used proofs stay used");

    // Who is asked for another claim to revoke by knows tokens by other keys.
    let claims = ["tenant".into()];
    let (other, _) = Issuers::load_after(&Setup { revocable: &claims, ..setup }, Some(&before), NOW).unwrap();
    let misses = other.cache_misses();
    other.verify(&of_kept, NOW).unwrap();
    assert_eq!(other.cache_misses(), misses + 1);
}

#[test]
fn requests_of_the_old_configuration_keep_its_issuers_and_changes_reach_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let settings = own(dir.path(), Algorithm::ES256);
    let old = Arc::new(Current::new(load(Some(&settings), &[], 0)));
    let succession = old.succession();
    let heir = succession.heir(load(None, &[], 0));
    succession.commit(&heir);
    assert!(old.load().own().is_some() && heir.load().own().is_none());
    // Somebody who still has the old one changes the new one.
    let one = external("one", None, secret_file(&[7; 64]), Algorithm::HS256);
    old.change(|issuers| {
        assert!(issuers.own().is_none());
        Ok::<_, ()>(load(None, std::slice::from_ref(&one), 0))
    })
    .unwrap();
    assert_eq!((old.load().names().count(), heir.load().names().count()), (1, 1));
    assert_eq!(heir.load().names().next().map(|name| &**name), Some("one"));
}
