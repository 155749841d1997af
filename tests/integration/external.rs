//! Issuers that must be asked by network: key sets, discovery, introspection (CONTRACT §2 `[[issuers]]`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::gateway::mode;
use crate::support::jwt::{Key, base64url, claims};
use crate::support::provider::{Page, Provider};
use crate::support::{Answer, Gateway, Setup, Upstream, now, wait_for};

const ISS: &str = "https://id.test";

/// One external issuer, described by these lines, and a route that wants an access token.
fn setup(lines: &str) -> Setup {
    Setup::new()
        .section(&format!(
            "[[issuers]]\nname = \"idp\"\nissuer = \"{ISS}\"\nalgorithms = [\"ES256\"]\n{lines}\n"
        ))
        .upstream("up", Upstream::echo().address())
        .route("all", "/", "up", "access")
}

fn jwks_url(provider: &Provider) -> String {
    format!("jwks_url = \"{}\"", provider.url("/jwks"))
}

fn token(key: &Key, kid: &str) -> String {
    key.token_with(&json!({ "kid": kid }), &claims("t1", &json!({ "iss": ISS })))
}

fn ask(gateway: &Gateway, token: &str) -> Answer {
    gateway.get("/x").bearer(token).send()
}

/// How often the gateway has asked its provider, by result.
fn fetches(gateway: &Gateway, result: &str) -> u64 {
    let wanted = format!("portcullis_issuer_fetches_total{{issuer=\"idp\",result=\"{result}\"}} ");
    gateway.metrics().lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
}

#[test]
fn keys_are_there_from_the_first_request_on_and_a_rotation_is_followed_at_once() {
    let (provider, old, new) = (Provider::new(), Key::es256(), Key::es256());
    provider.publish(&[old.jwk(Some("old"))]);
    let gateway = setup(&jwks_url(&provider)).start();
    ask(&gateway, &token(&old, "old")).expect(200);
    assert_eq!(provider.asked("/jwks").len(), 1);

    provider.publish(&[new.jwk(Some("new"))]);
    // Nobody has told the gateway: the unknown key id makes it look.
    ask(&gateway, &token(&new, "new")).expect(200);
    ask(&gateway, &token(&old, "old")).expect_problem(401, "token_invalid");
    assert_eq!(provider.asked("/jwks").len(), 2);
    assert!(fetches(&gateway, "ok") >= 2);

    let shown = gateway.admin("GET", "/admin/config").send().expect(200).json();
    let issuer = &shown["issuers"][0];
    assert_eq!(issuer["jwks_url"], provider.url("/jwks"));
    assert_eq!((&issuer["fetched"]["keys"], &issuer["fetched"]["failed"]), (&json!(1), &Value::Null));
    assert!(gateway.metrics().contains("portcullis_issuer_keys_fetched_timestamp_seconds{issuer=\"idp\"}"));
}

#[test]
fn keys_are_fetched_anew_without_a_request() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.publish(&[key.jwk(Some("k"))]);
    let gateway = setup(&format!("{}\njwks_refresh = \"1s\"", jwks_url(&provider))).start();
    wait_for("a second fetch", || (provider.asked("/jwks").len() >= 2).then_some(()));
    ask(&gateway, &token(&key, "k")).expect(200);
    // A key that is withdrawn verifies nothing more, and nobody had to ask for an unknown one.
    provider.publish(&[Key::es256().jwk(Some("other"))]);
    wait_for("the key to be withdrawn", || (ask(&gateway, &token(&key, "k")).status == 401).then_some(()));
}

#[test]
fn a_thousand_unknown_key_ids_make_one_fetch() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.publish(&[key.jwk(Some("k"))]);
    let gateway = setup(&jwks_url(&provider)).start();
    let (began, refused) = (Instant::now(), AtomicUsize::new(0));
    let forged = Key::es256();
    thread::scope(|scope| {
        for client in 0..10 {
            let (gateway, forged, refused) = (&gateway, &forged, &refused);
            scope.spawn(move || {
                for n in 0..100 {
                    let answer = ask(gateway, &token(forged, &format!("unknown-{client}-{n}")));
                    refused.fetch_add(usize::from(answer.status == 401), Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(refused.load(Ordering::SeqCst), 1000);
    // One at the start, one for all of them; one more for every ten seconds that a busy machine took.
    let windows = usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    let fetched = provider.asked("/jwks").len();
    assert!((2..=2 + windows).contains(&fetched), "{fetched} fetches");
    ask(&gateway, &token(&key, "k")).expect(200);
}

#[test]
fn whatever_the_provider_answers_good_keys_stay_in_use() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.publish(&[key.jwk(Some("k"))]);
    let elsewhere = Upstream::echo();
    let gateway = setup(&format!("{}\njwks_refresh = \"1s\"", jwks_url(&provider))).start();
    for bad in [
        Page::Status(500),
        Page::Text("<html>".to_owned()),
        Page::Json(json!({ "keys": [] })),
        Page::Json(json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] })),
        Page::Redirect(format!("http://{}/jwks", elsewhere.address())),
        Page::Text(" ".repeat((1 << 20) + 1)),
    ] {
        provider.set("/jwks", bad);
        let failed = fetches(&gateway, "failed");
        wait_for("a failed fetch", || (fetches(&gateway, "failed") > failed + 1).then_some(()));
        ask(&gateway, &token(&key, "k")).expect(200);
    }
    assert_eq!(elsewhere.connections(), 0);
    let shown = gateway.admin("GET", "/admin/config").send().expect(200).json();
    assert!(shown["issuers"][0]["fetched"]["failed"].is_string(), "{shown}");
}

#[test]
fn a_start_while_the_provider_is_away_knows_the_last_good_keys() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.publish(&[key.jwk(Some("k"))]);
    let mut gateway = setup(&jwks_url(&provider)).start();
    let copies = gateway.dir().join("state/issuers");
    let copy = wait_for("the copy", || std::fs::read_dir(&copies).ok()?.next()?.ok());
    assert_eq!((mode(&copies), mode(&copy.path())), (0o700, 0o600));
    provider.set("/jwks", Page::Status(503));
    gateway.kill9();
    gateway.restart();
    ask(&gateway, &token(&key, "k")).expect(200);
    ask(&gateway, &token(&Key::es256(), "k")).expect_problem(401, "token_invalid");
}

#[test]
fn without_any_keys_a_token_is_neither_good_nor_bad() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.set("/jwks", Page::Status(500));
    let gateway = setup(&jwks_url(&provider)).start();
    let answer = ask(&gateway, &token(&key, "k")).expect_problem(503, "overloaded");
    assert!(answer.header("retry-after").is_some());
    let explained = json!({ "token": token(&key, "k") });
    let explained = gateway.admin("POST", "/admin/explain").json(&explained).send().expect(200).json();
    assert_eq!((&explained["verdict"], &explained["code"]), (&json!("refuse"), &json!("overloaded")));
    provider.publish(&[key.jwk(Some("k"))]);
    wait_for("the keys", || (ask(&gateway, &token(&key, "k")).status == 200).then_some(()));
}

#[test]
fn a_provider_that_never_answers_keeps_nobody_waiting_for_long() {
    let (provider, key) = (Provider::new(), Key::es256());
    provider.set("/jwks", Page::Silence);
    let gateway = setup(&jwks_url(&provider)).start();
    ask(&gateway, &token(&key, "k")).expect_problem(503, "overloaded");
}

#[test]
fn discovery_counts_only_from_the_issuer_itself() {
    let (provider, key) = (Provider::new(), Key::es256());
    let path = "/.well-known/openid-configuration";
    let lines = format!("discovery_url = \"{}\"", provider.url(path));
    provider.publish(&[key.jwk(Some("k"))]);
    let metadata = |issuer: &str| Page::Json(json!({ "issuer": issuer, "jwks_uri": provider.url("/jwks") }));
    provider.set(path, metadata("https://id.test/"));
    let gateway = setup(&lines).start();
    ask(&gateway, &token(&key, "k")).expect_problem(503, "overloaded");
    assert_eq!(provider.asked("/jwks").len(), 0);
    provider.set(path, metadata(ISS));
    wait_for("the keys", || (ask(&gateway, &token(&key, "k")).status == 200).then_some(()));
}

#[test]
fn no_address_in_a_token_is_ever_asked() {
    let (provider, trap, forged) = (Provider::new(), Provider::new(), Key::es256());
    provider.publish(&[Key::es256().jwk(Some("k"))]);
    trap.publish(&[forged.jwk(Some("mine"))]);
    let gateway = setup(&jwks_url(&provider)).start();
    let header =
        json!({ "kid": "mine", "jku": trap.url("/jwks"), "x5u": trap.url("/x5u"), "jwk": forged.jwk(None) });
    let text = forged.token_with(&header, &claims("t1", &json!({ "iss": ISS })));
    ask(&gateway, &text).expect_problem(401, "token_invalid");
    let text = forged.token_with(&header, &claims("t1", &json!({ "iss": trap.url("") })));
    ask(&gateway, &text).expect_problem(401, "token_invalid");
    assert_eq!((trap.asked("/jwks").len(), trap.asked("/x5u").len()), (0, 0));
}

#[test]
fn keys_over_tls_need_a_certificate_that_the_system_trusts() {
    let ((provider, ca), key) = (Provider::tls(), Key::es256());
    provider.publish(&[key.jwk(Some("k"))]);
    let setup_with = |ca: &str| {
        let setup = setup(&jwks_url(&provider)).secret("ca.pem", ca);
        let path = setup.path("ca.pem");
        setup.environment("SSL_CERT_FILE", path.to_str().unwrap())
    };
    let gateway = setup_with(&ca).start();
    ask(&gateway, &token(&key, "k")).expect(200);
    let gateway = setup_with(&Provider::tls().1).start();
    ask(&gateway, &token(&key, "k")).expect_problem(503, "overloaded");
}

// --- introspection -----------------------------------------------------------------------------------------------

fn opaque(provider: &Provider, cache: &str) -> Setup {
    let lines = format!(
        "introspect = {{ url = \"{}\", client_id = \"gate way\", client_secret_file = \"s\", cache = \"{cache}\" }}",
        provider.url("/introspect")
    );
    setup(&lines).secret("s", "p:ss+wörd\n")
}

fn active(more: &Value) -> Page {
    let mut answer = json!({
        "active": true, "sub": "ada", "client_id": "app", "scope": "a b", "sid": "s1",
        "iat": now() - 60, "exp": now() + 600,
    });
    for (name, value) in more.as_object().unwrap() {
        answer[name.as_str()] = value.clone();
    }
    Page::Json(answer)
}

#[test]
fn an_opaque_token_is_asked_about_once_for_everybody() {
    let provider = Provider::new();
    provider.set("/introspect", active(&json!({ "jti": "o1" })));
    let gateway = opaque(&provider, "1h").start();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| ask(&gateway, "opaque+token/1").expect(200));
        }
    });
    let seen = ask(&gateway, "opaque+token/1").expect(200).text();
    for expected in ["\"ada\"", "\"o1\"", "\"a b\"", "\"idp\"", "\"s1\""] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    let asked = provider.asked("/introspect");
    assert_eq!(asked.len(), 1);
    assert_eq!(
        String::from_utf8_lossy(&asked[0].body),
        "token=opaque%2Btoken%2F1&token_type_hint=access_token"
    );
    // base64("gate+way:p%3Ass%2Bw%C3%B6rd")
    assert_eq!(asked[0].one("authorization"), "Basic Z2F0ZSt3YXk6cCUzQXNzJTJCdyVDMyVCNnJk");
    assert!(!gateway.stderr().contains("wörd") && !gateway.metrics().contains("opaque"));
}

#[test]
fn what_the_provider_calls_inactive_or_cannot_be_used_is_refused_and_not_asked_about_again() {
    let provider = Provider::new();
    let gateway = opaque(&provider, "1h").start();
    let bad = [
        Page::Json(json!({ "active": false })),
        active(&json!({ "exp": null })),
        active(&json!({ "exp": "soon" })),
        active(&json!({ "iss": "https://other.test" })),
        active(&json!({ "jti": "" })),
        active(&json!({ "cnf": {} })),
    ];
    for (n, page) in bad.into_iter().enumerate() {
        provider.set("/introspect", page.clone());
        let asked = provider.asked("/introspect").len();
        for _ in 0..2 {
            let answer = ask(&gateway, &format!("token-{n}"));
            assert_eq!(answer.status, 401, "{page:?}: {}", answer.text());
        }
        assert_eq!(provider.asked("/introspect").len(), asked + 1, "{page:?}");
    }
    provider.set("/introspect", active(&json!({ "exp": now() - 5 })));
    ask(&gateway, "expired").expect_problem(401, "token_expired");
    // A JWT of nobody whom we know is nobody's opaque token.
    let foreign = Key::es256().token(&claims("t", &json!({ "iss": "https://other.test" })));
    let asked = provider.asked("/introspect").len();
    ask(&gateway, &foreign).expect_problem(401, "token_invalid");
    assert_eq!(provider.asked("/introspect").len(), asked);
}

#[test]
fn no_answer_that_is_kept_outlives_a_revocation() {
    let provider = Provider::new();
    provider.set("/introspect", active(&json!({})));
    let gateway = opaque(&provider, "1h").start();
    let revoke = |selector: Value| {
        let mut item = selector;
        item["issuer"] = json!("idp");
        gateway.revoke(&item);
    };
    for (token, selector) in [
        ("by-subject", json!({ "kind": "subject", "value": "ada" })),
        ("by-session", json!({ "kind": "session", "value": "s1" })),
        ("by-client", json!({ "kind": "client", "value": "app" })),
    ] {
        ask(&gateway, token).expect(200);
        revoke(selector.clone());
        ask(&gateway, token).expect_problem(401, "token_revoked");
        let (kind, value) = (selector["kind"].as_str().unwrap(), selector["value"].as_str().unwrap());
        gateway.unrevoke(kind, value, "idp").expect(200);
    }
    // By the token itself: at the admin API, and by whoever holds it.
    gateway.revoke(&json!({ "token": "by-itself" }));
    ask(&gateway, "by-itself").expect_problem(401, "token_revoked");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"by-itself");
    gateway.entry("token", &format!("sha256:{}", base64url(digest.as_ref())), "idp").expect(200);
    ask(&gateway, "by-holder").expect(200);
    gateway.post("/oauth2/revoke").form(&[("token", "by-holder")]).send().expect(200);
    ask(&gateway, "by-holder").expect_problem(401, "token_revoked");
}

#[test]
fn while_the_provider_is_away_answers_that_hold_are_used_and_nothing_is_guessed() {
    let provider = Provider::new();
    provider.set("/introspect", active(&json!({})));
    let gateway = opaque(&provider, "1h").start();
    ask(&gateway, "known").expect(200);
    for bad in [
        Page::Status(500),
        Page::Status(401),
        Page::Text("{".to_owned()),
        Page::Json(json!({ "sub": "ada" })),
    ] {
        provider.set("/introspect", bad);
        let answer = ask(&gateway, "unknown").expect_problem(503, "overloaded");
        assert!(answer.header("retry-after").is_some());
        ask(&gateway, "known").expect(200);
    }
    provider.set("/introspect", active(&json!({})));
    ask(&gateway, "unknown").expect(200);
}

#[test]
fn an_answer_holds_for_its_time_alone() {
    let provider = Provider::new();
    provider.set("/introspect", active(&json!({})));
    let gateway = opaque(&provider, "0s").start();
    ask(&gateway, "t").expect(200);
    provider.set("/introspect", Page::Json(json!({ "active": false })));
    ask(&gateway, "t").expect_problem(401, "token_invalid");
}
