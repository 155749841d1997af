//! What makes a token good or bad, and in which order the checks speak (CONTRACT §3.3 to §3.6).

use serde_json::{Value, json};

use crate::support::jwt::{Key, base64url, claims, write_jwks};
use crate::support::{Account, Answer, Gateway, Setup, Upstream, now, wait_for};

/// A gateway that takes its own tokens and those of one external issuer, with a route of every policy.
fn setup(issuer: &str) -> Setup {
    let upstream = Upstream::echo();
    Setup::new()
        .section(issuer)
        .upstream("up", upstream.address())
        .route("access", "/access", "up", "access")
        .route("refresh", "/refresh-only", "up", "refresh")
        .route("fresh", "/fresh", "up", "fresh")
        .route("optional", "/optional", "up", "optional")
        .route("public", "/public", "up", "public")
        .route_with("scoped", "/scoped", "up", "access", r#"scopes = ["books:read", "books:write"]"#)
        .route_with("claims", "/claims", "up", "access", r#"require_claims = { role = ["admin", "owner"] }"#)
        .route_with("own", "/own", "up", "access", r#"issuers = ["self"]"#)
}

const HS256: &str = "[[issuers]]\nname = \"legacy\"\nissuer = \"https://id.test\"\nalgorithms = [\"HS256\"]\n\
                     secret_file = \"legacy.key\"\n";

fn legacy() -> Key {
    Key::secret("legacy")
}

fn hs256(lines: &str) -> Gateway {
    setup(&format!("{HS256}{lines}")).secret("legacy.key", legacy().secret_bytes()).start()
}

/// Claims of a good token of `https://id.test`.
fn good(id: &str, more: &Value) -> Value {
    let mut whole = json!({ "iss": "https://id.test" });
    for (name, value) in more.as_object().unwrap() {
        whole[name.as_str()] = value.clone();
    }
    claims(id, &whole)
}

fn ask(gateway: &Gateway, path: &str, token: &str) -> Answer {
    gateway.get(path).bearer(token).send()
}

#[track_caller]
fn check(gateway: &Gateway, case: &str, path: &str, token: &str, expected: &str) {
    let answer = ask(gateway, path, token);
    let status = match expected {
        "" => 200,
        "insufficient_scope" | "forbidden" => 403,
        _ => 401,
    };
    assert_eq!(answer.verdict(), (status, expected.to_owned()), "{case} on {path}: {}", answer.text());
    if status != 200 {
        let answer = answer.expect_problem(status, expected);
        assert!(!answer.text().contains(token), "{case}: the answer repeats the token");
    }
}

// --- who may pass ------------------------------------------------------------------------------------------------

#[test]
fn external_issuers_are_verified_by_every_kind_of_key() {
    let with_kid =
        |key: &Key, kid: &str, id: &str| key.token_with(&json!({ "kid": kid }), &good(id, &json!({})));
    for key in [
        Key::secret("s"),
        Key::Hs512(vec![7; 64]),
        Key::es256(),
        Key::es384(),
        Key::rs256(),
        Key::ps256(),
        Key::eddsa(),
    ] {
        let alg = key.alg();
        let symmetric = alg.starts_with("HS");
        let (source, file) = if symmetric { ("secret_file", "a.key") } else { ("public_key_file", "a.pem") };
        let head =
            format!("[[issuers]]\nname = \"a\"\nissuer = \"https://id.test\"\nalgorithms = [\"{alg}\"]\n");
        let bytes = if symmetric { key.secret_bytes().to_vec() } else { key.public_pem().into_bytes() };
        let gateway = setup(&format!("{head}{source} = \"{file}\"\n")).secret(file, bytes).start();
        check(&gateway, alg, "/access", &key.token(&good("t", &json!({}))), "");
        // A single key: a token's kid is ignored.
        check(&gateway, alg, "/access", &with_kid(&key, "any", "t"), "");
        drop(gateway);
        if symmetric {
            continue;
        }
        // The same by a key set; and then the kid counts.
        let made = setup(&format!("{head}jwks_file = \"keys.json\"\n")).secret("keys.json", "");
        write_jwks(&made.path("keys.json"), &[key.jwk(Some("k-1"))]);
        let gateway = made.start();
        check(&gateway, alg, "/access", &with_kid(&key, "k-1", "t"), "");
        check(&gateway, alg, "/access", &key.token(&good("t", &json!({}))), "");
        check(&gateway, alg, "/access", &with_kid(&key, "k-2", "t"), "token_invalid");
    }
}

#[test]
fn a_kid_picks_the_key_and_without_one_exactly_one_must_fit() {
    let (one, two, other) = (Key::es256(), Key::es256(), Key::eddsa());
    let made = setup(
        "[[issuers]]\nname = \"a\"\nissuer = \"https://id.test\"\nalgorithms = [\"ES256\", \"EdDSA\"]\n\
         jwks_file = \"keys.json\"\n",
    )
    .secret("keys.json", "");
    write_jwks(
        &made.path("keys.json"),
        &[one.jwk(Some("k-1")), two.jwk(Some("k-2")), other.jwk(Some("k-3"))],
    );
    let gateway = made.start();
    let token = |key: &Key, kid: Option<&str>| {
        let header = kid.map_or_else(|| json!({}), |kid| json!({ "kid": kid }));
        key.token_with(&header, &good("t", &json!({})))
    };
    check(&gateway, "its own kid", "/access", &token(&one, Some("k-1")), "");
    check(&gateway, "its own kid", "/access", &token(&two, Some("k-2")), "");
    check(&gateway, "another's kid", "/access", &token(&one, Some("k-2")), "token_invalid");
    check(&gateway, "a kid of another algorithm", "/access", &token(&one, Some("k-3")), "token_invalid");
    check(&gateway, "no kid, two that fit", "/access", &token(&one, None), "token_invalid");
    check(&gateway, "no kid, one that fits", "/access", &token(&other, None), "");
}

#[test]
fn one_legacy_issuer_may_set_no_iss() {
    let gateway = setup(&HS256.replace("issuer = \"https://id.test\"\n", ""))
        .secret("legacy.key", [legacy().secret_bytes(), b"\n"].concat())
        .start();
    check(&gateway, "no iss", "/access", &legacy().token(&claims("t", &json!({}))), "");
    check(&gateway, "an unknown iss", "/access", &legacy().token(&good("t", &json!({}))), "token_invalid");
    let ada = Account::sign_up(&gateway, "ada@example.com");
    check(&gateway, "its own", "/access", &ada.access, "");
}

// --- what is no good ---------------------------------------------------------------------------------------------

#[test]
fn a_claim_that_is_wrong_makes_the_token_invalid() {
    let gateway = hs256("");
    let now = now();
    check(&gateway, "a good one", "/access", &legacy().token(&good("t", &json!({}))), "");
    check(
        &gateway,
        "numbers and extras",
        "/access",
        &legacy().token(&good("t", &json!({ "x": [1, { "y": null }] }))),
        "",
    );
    let cases: Vec<(&str, Value)> = vec![
        ("no exp", json!({ "exp": null })),
        ("a string exp", json!({ "exp": (now + 600).to_string() })),
        ("an exp beyond every number", json!({ "exp": 1e300 })),
        ("a boolean exp", json!({ "exp": true })),
        ("a lifetime over the limit", json!({ "exp": now + 31 * 86_400 })),
        ("nbf to come", json!({ "nbf": now + 3600 })),
        ("a string nbf", json!({ "nbf": "0" })),
        ("iat to come", json!({ "iat": now + 3600, "exp": now + 4200 })),
        ("a string iat", json!({ "iat": now.to_string() })),
        ("no iss", json!({ "iss": null })),
        ("another iss", json!({ "iss": "https://other.test" })),
        ("iss with a slash", json!({ "iss": "https://id.test/" })),
        ("an array iss", json!({ "iss": ["https://id.test"] })),
        ("the gateway's own iss", json!({ "iss": "portcullis" })),
        ("a numeric jti", json!({ "jti": 7 })),
        ("an empty jti", json!({ "jti": "" })),
        ("a jti too long", json!({ "jti": "j".repeat(256) })),
        ("a control character in jti", json!({ "jti": "a\nb" })),
        ("a numeric sub", json!({ "sub": 7 })),
        ("an empty sub", json!({ "sub": "" })),
        ("a sub too long", json!({ "sub": "s".repeat(1025) })),
        ("NUL in sub", json!({ "sub": "a\u{0}b" })),
        ("a numeric sid", json!({ "sid": 7 })),
        ("a sid too long", json!({ "sid": "s".repeat(256) })),
        ("a client id too long", json!({ "client_id": "c".repeat(256) })),
        ("a proof nobody checked", json!({ "cnf": { "jkt": "x" } })),
        ("a numeric aud", json!({ "aud": 7 })),
    ];
    for (case, more) in cases {
        check(&gateway, case, "/access", &legacy().token(&good("t", &more)), "token_invalid");
    }
    for (case, more) in [
        ("the longest jti", json!({ "jti": "j".repeat(255) })),
        ("the longest sub", json!({ "sub": "s".repeat(1024) })),
        ("no jti", json!({ "jti": null })),
        ("no sub", json!({ "sub": null })),
        ("no iat", json!({ "iat": null })),
        ("an aud where none is asked for", json!({ "aud": ["x", "y"] })),
        ("the longest life", json!({ "iat": now, "exp": now + 30 * 86_400 })),
    ] {
        check(&gateway, case, "/access", &legacy().token(&good("t", &more)), "");
    }
}

#[test]
fn the_audience_must_be_one_of_those_configured() {
    let gateway = hs256("audience = [\"api\", \"web\"]\n");
    for (aud, expected) in [
        (json!("api"), ""),
        (json!(["x", "web"]), ""),
        (json!(null), "token_invalid"),
        (json!("apis"), "token_invalid"),
        (json!([]), "token_invalid"),
        (json!(["x"]), "token_invalid"),
        (json!(["api", 7]), "token_invalid"),
    ] {
        let token = legacy().token(&good("t", &json!({ "aud": aud.clone() })));
        check(&gateway, &format!("aud {aud}"), "/access", &token, expected);
    }
}

#[test]
fn required_claims_and_leeway_are_configured_per_issuer() {
    let gateway = hs256("require = [\"jti\", \"sub\"]\nleeway = \"5m\"\n");
    check(
        &gateway,
        "no jti",
        "/access",
        &legacy().token(&good("t", &json!({ "jti": null }))),
        "token_invalid",
    );
    check(
        &gateway,
        "no sub",
        "/access",
        &legacy().token(&good("t", &json!({ "sub": null }))),
        "token_invalid",
    );
    let now = now();
    let late = good("t", &json!({ "iat": now - 900, "exp": now - 60 }));
    check(&gateway, "expired within the leeway", "/access", &legacy().token(&late), "");
    let early = good("t", &json!({ "nbf": now + 60 }));
    check(&gateway, "not yet valid within the leeway", "/access", &legacy().token(&early), "");
    let gone = good("t", &json!({ "iat": now - 9000, "exp": now - 7200 }));
    check(&gateway, "expired beyond it", "/access", &legacy().token(&gone), "token_expired");
}

#[test]
fn a_header_that_is_wrong_makes_the_token_invalid() {
    let gateway = hs256("");
    let cases: Vec<(&str, Value)> = vec![
        ("crit", json!({ "crit": ["exp"] })),
        ("an empty crit", json!({ "crit": [] })),
        ("a numeric kid", json!({ "kid": 7 })),
        ("a kid too long", json!({ "kid": "k".repeat(256) })),
        ("a logout token", json!({ "typ": "logout+jwt" })),
        ("a security event", json!({ "typ": "secevent+jwt" })),
        ("a proof", json!({ "typ": "dpop+jwt" })),
        ("a proof in its long form", json!({ "typ": "application/DPoP+JWT" })),
        ("an unknown algorithm", json!({ "alg": "HS1" })),
        ("a small algorithm", json!({ "alg": "hs256" })),
        ("no algorithm", json!({ "alg": null })),
        ("an unencoded payload", json!({ "b64": false, "crit": ["b64"] })),
    ];
    for (case, header) in cases {
        check(
            &gateway,
            case,
            "/access",
            &legacy().token_with(&header, &good("t", &json!({}))),
            "token_invalid",
        );
    }
    for header in [json!({ "typ": null }), json!({ "typ": "at+jwt" }), json!({ "typ": "application/at+jwt" })]
    {
        check(&gateway, "a typ", "/access", &legacy().token_with(&header, &good("t", &json!({}))), "");
    }
    let gateway = hs256("typ = [\"at+jwt\"]\n");
    check(
        &gateway,
        "the typ asked for",
        "/access",
        &legacy().token_with(&json!({ "typ": "AT+JWT" }), &good("t", &json!({}))),
        "",
    );
    check(&gateway, "another typ", "/access", &legacy().token(&good("t", &json!({}))), "token_invalid");
}

#[test]
fn no_token_chooses_its_own_key_or_algorithm() {
    let (right, thief) = (Key::rs256(), Key::rs256());
    let ec = Key::es256();
    let made = setup(
        "[[issuers]]\nname = \"a\"\nissuer = \"https://id.test\"\nalgorithms = [\"RS256\"]\npublic_key_file = \"a.pem\"\n\
         [[issuers]]\nname = \"b\"\nissuer = \"https://b.test\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n",
    )
    .secret("a.pem", right.public_pem())
    .secret("legacy.key", legacy().secret_bytes());
    let gateway = made.start();
    let body = good("t", &json!({}));
    check(&gateway, "the right key", "/access", &right.token(&body), "");
    let pem = right.public_pem();
    let confused = |secret: &str| Key::Hs256(secret.as_bytes().to_vec()).token(&body);
    check(&gateway, "HS256 over the public key", "/access", &confused(&pem), "token_invalid");
    check(&gateway, "HS256 over its trimmed PEM", "/access", &confused(pem.trim()), "token_invalid");
    check(&gateway, "none", "/access", &Key::None.token(&body), "token_invalid");
    for alg in ["None", "NONE", "nOnE", ""] {
        let token = Key::None.token_with(&json!({ "alg": alg }), &body);
        check(&gateway, "none, spelt otherwise", "/access", &token, "token_invalid");
    }
    check(&gateway, "another key", "/access", &thief.token(&body), "token_invalid");
    check(&gateway, "another algorithm", "/access", &ec.token(&body), "token_invalid");
    let relabelled = right.token_with(&json!({ "alg": "PS256" }), &body);
    check(&gateway, "PS256 on the label", "/access", &relabelled, "token_invalid");
    let embedded = json!({ "jwk": thief.jwk(None), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": ["x"] });
    check(&gateway, "a key that it brings", "/access", &thief.token_with(&embedded, &body), "token_invalid");
    // The key of one issuer is nothing to another.
    check(&gateway, "b's secret for a", "/access", &legacy().token(&body), "token_invalid");
    let for_b = claims("t", &json!({ "iss": "https://b.test" }));
    check(&gateway, "b's secret for b", "/access", &legacy().token(&for_b), "");
    check(&gateway, "a's key for b", "/access", &right.token(&for_b), "token_invalid");
}

#[test]
fn a_form_that_is_not_strict_is_invalid() {
    let gateway = hs256("");
    let token = legacy().token(&good("t", &json!({})));
    let parts: Vec<&str> = token.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    check(&gateway, "as it was issued", "/access", &token, "");
    // The last character of a 32-byte signature has two spare bits; another spelling decodes to the same bytes.
    let spare = {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (start, last) = signature.split_at(signature.len() - 1);
        let index = alphabet.iter().position(|byte| *byte == last.as_bytes()[0]).unwrap();
        format!("{start}{}", char::from(alphabet[index ^ 1]))
    };
    for (case, broken) in [
        ("spare bits", format!("{head}.{body}.{spare}")),
        ("padding", format!("{head}.{body}.{signature}=")),
        ("padding inside", format!("{head}=.{body}.{signature}")),
        ("an `@`", format!("{token}@")),
        ("four parts", format!("{token}.{signature}")),
        ("two parts", format!("{head}.{body}")),
        ("no signature", format!("{head}.{body}.")),
        ("a cut signature", format!("{head}.{body}.{}", &signature[..signature.len() - 4])),
        ("no header", format!(".{body}.{signature}")),
        ("one part", head.to_owned()),
        ("dots", "..".to_owned()),
        ("ordinary base64", format!("{head}.{body}.{}", signature.replace('-', "+").replace('_', "/") + "+")),
        (
            "another payload",
            format!("{head}.{}.{signature}", base64url(good("u", &json!({})).to_string().as_bytes())),
        ),
    ] {
        check(&gateway, case, "/access", &broken, "token_invalid");
    }
    let composed = |header: &str, payload: &str| legacy().compose(header, payload);
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let payload = good("t", &json!({})).to_string();
    check(&gateway, "composed", "/access", &composed(header, &payload), "");
    let open = &payload[..payload.len() - 1];
    let deep = |levels: usize| format!("{open},\"x\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    check(&gateway, "31 levels below the object", "/access", &composed(header, &deep(31)), "");
    for (case, token) in [
        ("a claim twice", composed(header, &format!("{open},\"sub\":\"ada\"}}"))),
        ("a claim twice, once escaped", composed(header, &format!("{open},\"\\u0073ub\":\"root\"}}"))),
        ("an unknown claim twice", composed(header, &format!("{open},\"x\":1,\"x\":1}}"))),
        ("a header twice", composed(r#"{"alg":"HS256","alg":"HS256"}"#, &payload)),
        ("a header twice, once escaped", composed(r#"{"alg":"HS256","\u0061lg":"none"}"#, &payload)),
        ("too deep", composed(header, &deep(33))),
        ("much too deep", composed(header, &deep(2500))),
        ("JSON and more", composed(header, &format!("{payload}{{}}"))),
        ("an array", composed(header, "[]")),
        ("broken JSON", composed(header, open)),
        ("nothing", composed(header, "")),
        ("a header that is no object", composed("[]", &payload)),
        ("a lone surrogate", composed(header, &format!("{open},\"x\":\"\\ud800\"}}"))),
        ("more than 8 KiB", composed(header, &format!("{open},\"x\":\"{}\"}}", "x".repeat(8 * 1024)))),
    ] {
        check(&gateway, case, "/access", &token, "token_invalid");
    }
}

// --- where a token is looked for ---------------------------------------------------------------------------------

#[test]
fn credentials_are_read_from_one_place_only() {
    let gateway = hs256("");
    let token = legacy().token(&good("t", &json!({})));
    let check = |case: &str, target: &str, value: Option<String>, expected: (u16, &str)| {
        let call = gateway.get(target);
        let call = if let Some(value) = value { call.header("Authorization", &value) } else { call };
        let answer = call.send();
        assert_eq!(answer.verdict(), (expected.0, expected.1.to_owned()), "{case}: {}", answer.text());
        answer
    };
    let missing = (401, "token_missing");
    let answer = check("none", "/access", None, missing);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"portcullis\""));
    check("in the query", &format!("/access?access_token={token}"), None, missing);
    check("another scheme", "/access", Some("Basic YTpi".to_owned()), missing);
    check("another scheme with the token", "/access", Some(format!("Token {token}")), missing);
    check("small letters", "/access", Some(format!("bearer {token}")), (200, ""));
    check("capitals", "/access", Some(format!("BEARER {token}")), (200, ""));
    let cookie = gateway.get("/access").header("Cookie", &format!("__Host-portcullis_access={token}")).send();
    assert_eq!(cookie.verdict(), (401, "token_missing".to_owned()), "a cookie counts only where configured");
}

#[test]
fn public_looks_at_no_token_and_optional_at_what_is_there() {
    let gateway = hs256("");
    let token = legacy().token(&good("t", &json!({})));
    for bad in ["x", &format!("{token}@")] {
        assert_eq!(ask(&gateway, "/public", bad).status, 200);
        check(&gateway, "a bad one", "/optional", bad, "token_invalid");
    }
    gateway.get("/public").send().expect(200);
    let anonymous = gateway.get("/optional").send().expect(200).text();
    assert!(!anonymous.to_lowercase().contains("x-auth-subject"), "{anonymous}");
    let known = ask(&gateway, "/optional", &token).expect(200).text();
    assert!(known.to_lowercase().contains("x-auth-subject"), "{known}");
}

// --- policy, and the order of the checks -------------------------------------------------------------------------

#[test]
fn scopes_claims_and_issuers_are_asked_for_by_the_route() {
    let gateway = hs256("");
    let token = |more: Value| legacy().token(&good("t", &more));
    for (scope, expected) in [
        (json!("books:read books:write"), ""),
        (json!("x books:write y books:read"), ""),
        (json!(["books:write", "books:read"]), ""),
        (json!("books:read"), "insufficient_scope"),
        (json!("books:readbooks:write"), "insufficient_scope"),
        (json!(null), "insufficient_scope"),
    ] {
        check(
            &gateway,
            &format!("scope {scope}"),
            "/scoped",
            &token(json!({ "scope": scope.clone() })),
            expected,
        );
    }
    let challenge = ask(&gateway, "/scoped", &token(json!({})));
    let challenge = challenge.header("www-authenticate").expect("a challenge").to_owned();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("books:write"),
        "{challenge}"
    );
    for (role, expected) in [
        (json!("admin"), ""),
        (json!(["x", "owner"]), ""),
        (json!("administrator"), "forbidden"),
        (json!(null), "forbidden"),
        (json!([]), "forbidden"),
    ] {
        check(
            &gateway,
            &format!("role {role}"),
            "/claims",
            &token(json!({ "role": role.clone() })),
            expected,
        );
    }
    check(&gateway, "an issuer that the route does not take", "/own", &token(json!({})), "token_invalid");
    let ada = Account::sign_up(&gateway, "ada@example.com");
    check(&gateway, "one that it takes", "/own", &ada.access, "");
}

#[test]
fn the_type_is_asked_for_by_the_route() {
    let gateway = hs256("");
    let token = |more: Value| legacy().token(&good("t", &more));
    for (more, access, refresh) in [
        (json!({}), "", "token_invalid"),
        (json!({ "type": "access" }), "", "token_invalid"),
        (json!({ "token_use": "access" }), "", "token_invalid"),
        (json!({ "type": "refresh" }), "token_invalid", ""),
        (json!({ "token_use": "refresh" }), "token_invalid", ""),
        (json!({ "token_use": "id" }), "token_invalid", "token_invalid"),
    ] {
        check(&gateway, &more.to_string(), "/access", &token(more.clone()), access);
        check(&gateway, &more.to_string(), "/refresh-only", &token(more.clone()), refresh);
    }
    let ada = Account::sign_up(&gateway, "ada@example.com");
    check(&gateway, "own access", "/access", &ada.access, "");
    check(&gateway, "own access", "/refresh-only", &ada.access, "token_invalid");
    check(&gateway, "own refresh", "/refresh-only", &ada.refresh, "");
    check(&gateway, "own refresh", "/access", &ada.refresh, "token_invalid");
}

#[test]
fn fresh_is_what_came_of_a_password_a_short_while_ago() {
    let gateway =
        setup(HS256).auth("fresh_ttl = \"2s\"").secret("legacy.key", legacy().secret_bytes()).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    check(&gateway, "after sign-up", "/fresh", &ada.access, "");
    let renewed =
        ada.refreshed(&gateway).expect(200).json()["data"][0]["access_token"].as_str().unwrap().to_owned();
    check(&gateway, "after a refresh", "/fresh", &renewed, "token_not_fresh");
    check(&gateway, "after a refresh", "/access", &renewed, "");
    wait_for("the token to be fresh no more", || {
        (ask(&gateway, "/fresh", &ada.access).verdict() == (401, "token_not_fresh".to_owned())).then_some(())
    });
    check(&gateway, "later", "/access", &ada.access, "");
}

#[test]
fn the_checks_speak_in_the_order_of_the_contract() {
    let gateway = hs256("");
    let now = now();
    let key = legacy();
    let revoked = |id: &str, more: Value| {
        let token = key.token(&good(id, &more));
        gateway
            .revoke(&json!({ "kind": "token", "issuer": "legacy", "value": id, "expires_at": now + 3600 }));
        token
    };
    let expired = json!({ "iat": now - 900, "exp": now - 60 });
    let forged = |token: &str| {
        let (head, _) = token.rsplit_once('.').unwrap();
        format!("{head}.{}", base64url(&[0; 32]))
    };
    // missing → invalid → expired → wrong type → not fresh → revoked → scope and claims
    let all = revoked("all", json!({ "iat": now - 900, "exp": now - 60, "type": "refresh" }));
    check(&gateway, "invalid before expired", "/scoped", &forged(&all), "token_invalid");
    check(&gateway, "expired before wrong type and revoked", "/scoped", &all, "token_expired");
    check(&gateway, "expired before revoked", "/access", &revoked("e", expired.clone()), "token_expired");
    let refresh = revoked("r", json!({ "type": "refresh" }));
    check(&gateway, "wrong type before revoked", "/access", &refresh, "token_invalid");
    let token = revoked("t", json!({}));
    check(&gateway, "revoked before scope", "/scoped", &token, "token_revoked");
    check(&gateway, "revoked before claims", "/claims", &token, "token_revoked");
    check(&gateway, "revoked on an optional route", "/optional", &token, "token_revoked");
    check(&gateway, "a public route looks at none", "/public", &token, "");
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let renewed =
        ada.refreshed(&gateway).expect(200).json()["data"][0]["access_token"].as_str().unwrap().to_owned();
    gateway.post("/auth/logout").bearer(&renewed).send().expect(200);
    check(&gateway, "not fresh before revoked", "/fresh", &renewed, "token_not_fresh");
    check(&gateway, "revoked", "/fresh", &ada.access, "token_revoked");
}

#[test]
fn invalid_tokens_can_be_422_for_clients_of_flask_jwt_extended() {
    let gateway = setup(HS256)
        .server("invalid_token_status = 422\nrealm = \"books\"")
        .secret("legacy.key", legacy().secret_bytes())
        .start();
    let now = now();
    let answer = ask(&gateway, "/access", "x").expect_problem(422, "token_invalid");
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\"books\", error=\"invalid_token\""), "{challenge}");
    let expired = legacy().token(&good("t", &json!({ "iat": now - 900, "exp": now - 60 })));
    ask(&gateway, "/access", &expired).expect_problem(401, "token_expired");
    gateway.get("/access").send().expect_problem(401, "token_missing");
}
