//! The admin API of revocations (CONTRACT §1, §6): what goes in, what it refuses, what lifts it.

use serde_json::{Value, json};

use crate::support::http::encoded;
use crate::support::jwt::{Key, claims, claims_of, derived_id};
use crate::support::{Account, Answer, Call, Gateway, Setup, Upstream, now, wait_for};

fn start() -> Gateway {
    let upstream = Upstream::echo();
    Setup::new()
        .secret("legacy.key", legacy().secret_bytes())
        .section(
            "[[issuers]]\nname = \"legacy\"\nissuer = \"https://id.test\"\nalgorithms = [\"HS256\"]\n\
             secret_file = \"legacy.key\"\n",
        )
        .secret("bot", "s3cret")
        .section(
            "[[clients]]\nid = \"bot\"\nsecret_file = \"bot\"\nmay = [\"token\"]\nscopes = [\"admin\"]\n",
        )
        .auth("claims = { team = \"acme\", plan = [\"gold\", \"beta\"] }")
        .section("[revocation]\nclaims = [\"team\", \"plan\"]\n")
        .upstream("up", upstream.address())
        .route("api", "/", "up", "access")
        .start()
}

/// A token that the client `bot` gets for itself: it has no session.
fn bot(gateway: &Gateway) -> String {
    let fields = [("grant_type", "client_credentials"), ("client_id", "bot"), ("client_secret", "s3cret")];
    let answer = gateway.post("/oauth2/token").form(&fields).send().expect(200);
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn legacy() -> Key {
    Key::secret("legacy")
}

/// A token of `legacy`.
fn token(id: &str, more: &Value) -> String {
    let mut whole = json!({ "iss": "https://id.test" });
    for (name, value) in more.as_object().unwrap() {
        whole[name.as_str()] = value.clone();
    }
    legacy().token(&claims(id, &whole))
}

/// Whether the gate lets this token through; anything but yes or "revoked" fails.
#[track_caller]
fn passes(gateway: &Gateway, token: &str) -> bool {
    let answer = gateway.get("/x").bearer(token).send();
    match answer.verdict() {
        (200, _) => true,
        (401, code) if code == "token_revoked" => false,
        other => panic!("{other:?}: {}", answer.text()),
    }
}

fn post(gateway: &Gateway, body: &Value) -> Answer {
    gateway.admin("POST", "/admin/revocations").json(body).send()
}

#[test]
fn the_admin_api_is_shut_without_its_token() {
    let gateway = start();
    let body = json!({ "kind": "token", "issuer": "legacy", "value": "t" });
    let bare = || Call::new(gateway.admin_address(), "POST", "/admin/revocations").json(&body);
    bare().send().expect_problem(401, "admin_token");
    let wrong = format!("{}x", gateway.admin_token());
    for value in [wrong.as_str(), "", &gateway.admin_token()[1..]] {
        bare().bearer(value).send().expect_problem(401, "admin_token");
    }
    bare()
        .header("Authorization", &format!("Basic {}", gateway.admin_token()))
        .send()
        .expect_problem(401, "admin_token");
    for target in ["/admin/revocations", "/admin/revocations/token/t", "/admin/none"] {
        assert_eq!(Call::new(gateway.admin_address(), "GET", target).send().status, 401, "{target}");
    }
    assert_eq!(gateway.entry("token", "t", "legacy").status, 404);
    // And it is not served to clients.
    assert_ne!(gateway.get("/admin/revocations").bearer(gateway.admin_token()).send().status, 200);
}

#[test]
fn one_revocation_is_acknowledged_in_force_and_lifted() {
    let gateway = start();
    let (gone, kept) = (token("t-1", &json!({})), token("t-2", &json!({})));
    assert!(passes(&gateway, &gone) && passes(&gateway, &kept));
    let first =
        gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "t-1", "reason": "stolen" }));
    assert_eq!((&first["accepted"], &first["propagated"]), (&json!(1), &json!(true)), "{first}");
    assert!(!passes(&gateway, &gone) && passes(&gateway, &kept));
    let entry = gateway.entry("token", "t-1", "legacy").expect(200).json();
    for (member, value) in [("kind", "token"), ("value", "t-1"), ("issuer", "legacy"), ("reason", "stolen")] {
        assert_eq!(entry[member], value, "{member} in {entry}");
    }
    assert!(!entry.to_string().contains(&gone));
    let lifted = gateway.unrevoke("token", "t-1", "legacy").expect(200).json();
    assert_eq!(lifted["still_refused_by"], json!([]));
    assert!(lifted["sequence"].as_u64() > first["sequence"].as_u64(), "{lifted} after {first}");
    assert!(passes(&gateway, &gone));
    gateway.entry("token", "t-1", "legacy").expect_problem(404, "not_found");
    gateway.unrevoke("token", "t-1", "legacy").expect_problem(404, "not_found");
}

#[test]
fn every_way_of_writing_them_down_works() {
    let gateway = start();
    let tokens: Vec<String> = (0..9).map(|n| token(&format!("t-{n}"), &json!({}))).collect();
    let item = |n: usize| json!({ "kind": "token", "issuer": "legacy", "value": format!("t-{n}") });
    // An array.
    let answer = gateway.revoke(&json!([item(0), item(1), item(2)]));
    assert_eq!(answer["accepted"], 3, "{answer}");
    // Lines of JSON, the last without its end; and with blank ones between.
    let lines = format!("{}\n{}\r\n\n{}", item(3), item(4), item(5));
    let call = gateway.admin("POST", "/admin/revocations").body("application/x-ndjson", lines);
    assert_eq!(call.send().expect(200).json()["accepted"], 3);
    // The token itself.
    let answer = gateway.revoke(&json!({ "token": tokens[6], "reason": "leaked" }));
    assert_eq!(answer["accepted"], 1, "{answer}");
    assert_eq!(gateway.entry("token", "t-6", "legacy").expect(200).json()["reason"], "leaked");
    let answer = gateway.revoke(&json!([{ "token": tokens[7] }, item(7)]));
    assert_eq!(answer["accepted"], 2, "{answer}");
    for (number, token) in tokens.iter().enumerate() {
        assert_eq!(passes(&gateway, token), number == 8, "t-{number}");
    }
}

#[test]
fn an_invalid_item_is_named_and_nothing_of_its_request_is_applied() {
    let gateway = start();
    let good = json!({ "kind": "token", "issuer": "legacy", "value": "innocent" });
    let far = now() + 3600;
    let bad = [
        json!({ "kind": "token", "issuer": "legacy", "value": "x", "issued_before": "now" }),
        json!({ "kind": "session", "issuer": "legacy", "value": "x", "issued_before": far }),
        json!({ "kind": "tokens", "issuer": "legacy", "value": "x" }),
        json!({ "kind": "claim:", "issuer": "legacy", "value": "x" }),
        json!({ "kind": "claim:tenant", "issuer": "legacy", "value": "x" }),
        json!({ "kind": "token", "issuer": "nobody", "value": "x" }),
        json!({ "kind": "token", "issuer": "legacy", "value": "" }),
        json!({ "kind": "token", "issuer": "legacy", "value": 7 }),
        json!({ "kind": "token", "issuer": "legacy", "value": "x".repeat(256) }),
        json!({ "kind": "subject", "issuer": "legacy", "value": "x".repeat(1025) }),
        json!({ "kind": "token", "issuer": "legacy", "value": "a\nb" }),
        json!({ "kind": "token", "issuer": "legacy" }),
        json!({ "issuer": "legacy", "value": "x" }),
        json!({ "kind": "subject", "issuer": "legacy", "value": "x", "issued_before": "yesterday" }),
        json!({ "kind": "token", "issuer": "legacy", "value": "x", "expires_at": "soon" }),
        json!({ "kind": "token", "issuer": "legacy", "value": "x", "expires_at": -1 }),
        json!({ "token": "not.a.token" }),
        json!({ "token": format!("{}@", token("t", &json!({}))) }),
        json!({ "token": Key::secret("another").token(&claims("t", &json!({ "iss": "https://id.test" }))) }),
        json!({ "token": token("t", &json!({})), "kind": "token", "value": "t" }),
        json!({ "kind": "token", "issuer": "legacy", "value": "x", "reason": "a\u{1b}[2J" }),
        json!({ "token": token("t", &json!({})), "reason": "a\nb" }),
        json!(["token", "x", "legacy"]),
        json!("token"),
        json!(null),
        json!([]),
    ];
    for item in bad {
        if item != json!([]) {
            post(&gateway, &item).expect_problem(400, "invalid_request");
        }
        let answer = post(&gateway, &json!([good, item, good])).expect_problem(400, "invalid_request");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains('1') || detail.contains('2'), "which of the three? {detail}");
        let lines = format!("{good}\n{item}\n{good}\n");
        let call = gateway.admin("POST", "/admin/revocations").body("application/x-ndjson", lines);
        let answer = call.send().expect_problem(400, "invalid_request");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("line 2"), "{item}: {detail}");
        assert_eq!(gateway.entry("token", "innocent", "legacy").status, 404, "{item}");
    }
    for (kind, body) in [
        ("application/json", "{\"kind\":"),
        ("application/json", ""),
        (
            "application/json",
            "{\"kind\":\"token\",\"kind\":\"token\",\"issuer\":\"legacy\",\"value\":\"innocent\"}",
        ),
        ("application/x-ndjson", "{\"kind\":\n"),
    ] {
        let call = gateway.admin("POST", "/admin/revocations").body(kind, body);
        call.send().expect_problem(400, "invalid_request");
    }
    let call = gateway.admin("POST", "/admin/revocations").body("text/plain", good.to_string());
    call.send().expect_problem(415, "unsupported_media_type");
    assert_eq!(gateway.entry("token", "innocent", "legacy").status, 404);
}

#[test]
fn a_selector_matches_exactly_and_within_its_issuer() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let own = claims_of(&ada.access);
    // The same value under another issuer or kind is another selector.
    gateway.revoke(&json!([
        { "kind": "token", "issuer": "legacy", "value": own["jti"] },
        { "kind": "session", "issuer": "legacy", "value": own["sid"] },
        { "kind": "session", "issuer": "self", "value": own["jti"] },
        { "kind": "token", "issuer": "self", "value": own["sid"] },
        { "kind": "token", "issuer": "self", "value": own["jti"].as_str().unwrap().to_uppercase() + "x" },
    ]));
    assert!(passes(&gateway, &ada.access));
    // `issuer` defaults to `self` where the gateway issues tokens.
    gateway.revoke(&json!({ "kind": "token", "value": own["jti"] }));
    assert!(!passes(&gateway, &ada.access));
    assert_eq!(gateway.entry("token", own["jti"].as_str().unwrap(), "self").status, 200);
    let target = format!("/admin/revocations/token/{}", own["jti"].as_str().unwrap());
    gateway.admin("GET", &target).send().expect(200);
}

#[test]
fn a_token_without_an_id_is_revoked_by_the_digest_of_its_signing_input() {
    let gateway = start();
    let bare = token("", &json!({ "jti": null, "note": "one" }));
    let other = token("", &json!({ "jti": null, "note": "two" }));
    assert!(passes(&gateway, &bare) && passes(&gateway, &other));
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": derived_id(&bare) }));
    assert!(!passes(&gateway, &bare) && passes(&gateway, &other));
    gateway.revoke(&json!({ "token": other }));
    assert!(!passes(&gateway, &other));
    gateway.entry("token", &derived_id(&other), "legacy").expect(200);
}

#[test]
fn a_session_is_revoked_with_every_token_of_it_now_and_later() {
    let gateway = start();
    let (one, two) = (token("t-1", &json!({ "sid": "s-1" })), token("t-2", &json!({ "sid": "s-1" })));
    let (other, none) = (token("t-3", &json!({ "sid": "s-2" })), token("t-4", &json!({})));
    gateway.revoke(&json!({ "kind": "session", "issuer": "legacy", "value": "s-1" }));
    assert!(!passes(&gateway, &one) && !passes(&gateway, &two));
    assert!(passes(&gateway, &other) && passes(&gateway, &none));
    let later = token("t-5", &json!({ "sid": "s-1", "iat": now() }));
    assert!(!passes(&gateway, &later));
}

#[test]
fn a_cutoff_is_taken_exactly_when_it_is_given() {
    let gateway = start();
    let at = now() - 100;
    let issued = |iat: i64| token(&format!("t{iat}"), &json!({ "sub": "ada", "iat": iat }));
    gateway.revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "ada", "issued_before": at }));
    assert!(!passes(&gateway, &issued(at - 1)));
    assert!(passes(&gateway, &issued(at)));
    assert!(
        !passes(&gateway, &token("none", &json!({ "sub": "ada", "iat": null }))),
        "no iat: the beginning of time"
    );
    assert!(passes(&gateway, &token("other", &json!({ "sub": "grace", "iat": at - 1 }))));
    // An earlier cutoff never loosens a later one.
    gateway
        .revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "ada", "issued_before": at - 50 }));
    assert!(!passes(&gateway, &issued(at - 1)));
    // A later one tightens; RFC 3339 says the same as seconds.
    gateway
        .revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "ada", "issued_before": at + 50 }));
    assert!(!passes(&gateway, &issued(at + 49)) && passes(&gateway, &issued(at + 50)));
    gateway.revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "old", "issued_before": "2001-09-09T01:46:40Z" }));
    assert!(passes(&gateway, &token("new", &json!({ "sub": "old" }))));
    // One unrevoke takes them all away.
    gateway.unrevoke("subject", "ada", "legacy").expect(200);
    assert!(passes(&gateway, &issued(at - 1)));
}

#[test]
fn now_refuses_external_tokens_of_that_very_second_and_none_of_the_next() {
    let gateway = start();
    let before = token("before", &json!({ "sub": "ada" }));
    gateway.revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "ada" }));
    assert!(!passes(&gateway, &before));
    wait_for("a token of a later second to pass", || {
        let later = token("later", &json!({ "sub": "ada" }));
        passes(&gateway, &later).then_some(())
    });
    assert!(!passes(&gateway, &before));
}

#[test]
fn revoking_an_own_subject_ends_its_sessions_and_lets_a_login_in_the_same_second_live() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let grace = Account::sign_up(&gateway, "grace@example.com");
    gateway.revoke(&json!({ "kind": "subject", "value": ada.user["id"] }));
    let again = Account::sign_in(&gateway, "ada@example.com");
    assert!(!passes(&gateway, &ada.access));
    ada.refreshed(&gateway).expect_problem(401, "token_revoked");
    assert!(passes(&gateway, &again.access) && passes(&gateway, &grace.access));
}

#[test]
fn revoking_a_client_as_a_subject_takes_its_tokens_of_that_second_and_lets_new_ones_live() {
    for ndjson in [false, true] {
        let gateway = start();
        let before = bot(&gateway);
        assert!(passes(&gateway, &before));
        let body = json!({ "kind": "subject", "value": "bot" });
        let call = gateway.admin("POST", "/admin/revocations");
        let call =
            if ndjson { call.body("application/x-ndjson", body.to_string()) } else { call.json(&body) };
        assert_eq!(call.send().expect(200).json()["accepted"], 1);
        let after = bot(&gateway);
        assert!(!passes(&gateway, &before) && passes(&gateway, &after), "as lines: {ndjson}");
    }
}

#[test]
fn a_client_with_the_scope_admin_may_prune_until_it_is_revoked() {
    let gateway = start();
    let prune = |token: &str| gateway.call("DELETE", "/auth/tokens").bearer(token).send();
    let token = bot(&gateway);
    prune(&token).expect(200);
    let ada = Account::sign_up(&gateway, "ada@example.com");
    prune(&ada.access).expect_problem(403, "insufficient_scope");
    prune(&ada.refresh).expect_problem(422, "token_invalid");
    gateway.revoke(&json!({ "kind": "client", "value": "bot" }));
    prune(&token).expect_problem(401, "token_revoked");
}

#[test]
fn an_unrevoke_tells_what_else_still_refuses_an_own_token() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let own = claims_of(&ada.access);
    let (jti, sid) = (own["jti"].as_str().unwrap(), own["sid"].as_str().unwrap());
    gateway.revoke(&json!([{ "kind": "token", "value": jti }, { "kind": "session", "value": sid }]));
    let lifted = gateway.unrevoke("token", jti, "self").expect(200).json();
    let still = lifted["still_refused_by"].as_array().unwrap();
    assert!(still.contains(&json!({ "kind": "session", "value": sid, "issuer": "self" })), "{lifted}");
    assert!(!passes(&gateway, &ada.access));
    gateway.unrevoke("session", sid, "self").expect(200);
    assert!(passes(&gateway, &ada.access));
    // For external tokens nobody knows: empty.
    gateway.revoke(&json!([
        { "kind": "token", "issuer": "legacy", "value": "t" },
        { "kind": "session", "issuer": "legacy", "value": "s" },
    ]));
    let lifted = gateway.unrevoke("token", "t", "legacy").expect(200).json();
    assert_eq!(lifted["still_refused_by"], json!([]));
    assert!(!passes(&gateway, &token("t", &json!({ "sid": "s" }))));
}

#[test]
fn an_unrevoke_tells_of_clients_and_claims_that_still_refuse_an_own_token() {
    let gateway = start();
    let still = |kind: &str, value: &str| {
        let lifted = gateway.unrevoke(kind, value, "self").expect(200).json();
        let rows = lifted["still_refused_by"].as_array().unwrap().iter();
        rows.map(|row| format!("{} {}", row["kind"], row["value"]).replace('"', "")).collect::<Vec<_>>()
    };
    let token = bot(&gateway);
    let jti = claims_of(&token)["jti"].as_str().unwrap().to_owned();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let sid = claims_of(&ada.access)["sid"].as_str().unwrap().to_owned();
    let refresh = claims_of(&ada.refresh)["jti"].as_str().unwrap().to_owned();
    let others = json!([
        { "kind": "client", "value": "bot" },
        { "kind": "claim:team", "value": "acme" },
        { "kind": "claim:plan", "value": "beta" },
        { "kind": "claim:plan", "value": "silver" },
    ]);
    gateway.revoke(&others);
    gateway.revoke(&json!([
        { "kind": "token", "value": jti }, { "kind": "session", "value": sid },
        { "kind": "token", "value": refresh },
    ]));
    assert_eq!(still("token", &jti), ["client bot", "claim:team acme", "claim:plan beta"]);
    assert_eq!(still("session", &sid), ["claim:team acme", "claim:plan beta"]);
    assert_eq!(still("token", &refresh), [] as [&str; 0], "it has none of these claims");
    assert!(!passes(&gateway, &token) && !passes(&gateway, &ada.access));
    ada.refreshed(&gateway).expect(200);
}

/// A cutoff between a session's sign-in and its last refresh leaves it usable.
#[test]
fn an_unrevoke_of_a_session_judges_cutoffs_by_its_newest_tokens() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let own = claims_of(&ada.access);
    let (sid, subject) = (own["sid"].as_str().unwrap(), own["sub"].as_str().unwrap());
    let signed_in = own["iat"].as_i64().unwrap();
    wait_for("the next second", || (now() > signed_in).then_some(()));
    let later = Account::of(&ada.refreshed(&gateway).expect(200));
    let cutoff = signed_in + 1;
    gateway.revoke(&json!([
        { "kind": "subject", "value": subject, "issued_before": cutoff }, { "kind": "session", "value": sid },
    ]));
    let lifted = gateway.unrevoke("session", sid, "self").expect(200).json();
    assert_eq!(lifted["still_refused_by"], json!([]));
    assert!(!passes(&gateway, &ada.access) && passes(&gateway, &later.access));
}

#[test]
fn values_of_any_spelling_survive_the_path() {
    let gateway = start();
    for value in ["a/b", "a b", "ünï", "a%2Fb", "?x=1#y", "a+b", "\"quoted\"", "💥"] {
        gateway.revoke(
            &json!({ "kind": "subject", "issuer": "legacy", "value": value, "issued_before": now() - 5 }),
        );
        let entry = gateway.entry("subject", value, "legacy").expect(200).json();
        assert_eq!(entry["value"], value);
        let old = token("t", &json!({ "sub": value, "iat": now() - 60 }));
        assert!(!passes(&gateway, &old), "{value}");
        gateway.unrevoke("subject", value, "legacy").expect(200);
        assert!(passes(&gateway, &old), "{value}");
    }
}

#[test]
fn the_list_is_newest_first_filtered_and_paged() {
    let gateway = start();
    let mut sequences = Vec::new();
    for number in 0..7 {
        let answer =
            gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": format!("t-{number}") }));
        sequences.push(answer["sequence"].as_u64().unwrap());
    }
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    gateway.revoke(&json!({ "kind": "session", "issuer": "legacy", "value": "s-1" }));
    let list =
        |query: &str| gateway.admin("GET", &format!("/admin/revocations{query}")).send().expect(200).json();
    let values = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|row| row["value"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first = ["s-1", "t-6", "t-5", "t-4", "t-3", "t-2", "t-1", "t-0"];
    assert_eq!(values(&list("")), newest_first);
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = list(&query);
        assert!(page["data"].as_array().unwrap().len() <= 3);
        seen.extend(values(&page));
        let Some(next) = page["next"].as_str() else {
            assert!(page["next"].is_null(), "{page}");
            break;
        };
        query = format!("?limit=3&after={}", encoded(next));
    }
    assert_eq!(seen, newest_first);
    assert_eq!(values(&list("?kind=session")), ["s-1"]);
    assert_eq!(values(&list("?value=t-3")), ["t-3"]);
    assert_eq!(values(&list("?kind=token&value=t-3&issuer=legacy")), ["t-3"]);
    assert!(values(&list("?issuer=self")).is_empty());
    assert_eq!(values(&list(&format!("?since={}", sequences[5]))), ["s-1", "t-6"]);
    for query in ["?limit=x", "?kind=nonsense", "?since=x"] {
        assert_eq!(gateway.admin("GET", &format!("/admin/revocations{query}")).send().status, 400, "{query}");
    }
}

#[test]
fn an_entry_says_when_it_can_be_forgotten() {
    let gateway = start();
    let expiry = now() + 1200;
    let signed = token("t-1", &json!({ "exp": expiry }));
    gateway.revoke(&json!({ "token": signed }));
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "t-2", "expires_at": expiry }));
    gateway
        .revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "t-2", "expires_at": expiry - 600 }));
    let of = |id: &str| gateway.entry("token", id, "legacy").expect(200).json()["expires_at"].clone();
    assert_eq!(of("t-1"), of("t-2"), "the token's own expiry; an earlier one never shortens it");
    assert!(!of("t-1").is_null());
}

#[test]
fn admin_paths_and_methods_that_are_none_are_told_so() {
    let gateway = start();
    gateway.admin("GET", "/admin/nonsense").send().expect_problem(404, "not_found");
    let answer =
        gateway.admin("PATCH", "/admin/revocations").send().expect_problem(405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|methods| methods.contains("POST")), "{:?}", answer.headers);
    let target = "/admin/revocations/nonsense/x?issuer=legacy";
    assert!([400, 404].contains(&gateway.admin("GET", target).send().status));
}

#[test]
fn a_client_is_revoked_by_whichever_claim_names_it() {
    let gateway = start();
    let both = token("t-1", &json!({ "client_id": "app", "azp": "party" }));
    let neither = token("t-2", &json!({ "client_id": "web" }));
    for value in ["app", "party"] {
        assert!(passes(&gateway, &both));
        gateway.revoke(&json!({ "kind": "client", "issuer": "legacy", "value": value }));
        assert!(!passes(&gateway, &both) && passes(&gateway, &neither), "{value}");
        let told = gateway.admin("POST", "/admin/explain").json(&json!({ "token": both })).send().expect(200);
        assert_eq!(told.json()["code"], "token_revoked", "{value}");
        gateway.unrevoke("client", value, "legacy").expect(200);
    }
    // What cannot be revoked by is refused, whichever claim it is.
    let bad = token("t-3", &json!({ "client_id": "app", "azp": "a\nb" }));
    gateway.get("/x").bearer(&bad).send().expect_problem(401, "token_invalid");
}

#[test]
fn what_stands_behind_the_question_mark_is_checked_and_told_in_words() {
    let gateway = start();
    for (query, words) in [
        ("limit=0", "\"limit\" is between 1 and 1000, not 0"),
        ("limit=1001", "\"limit\" is between 1 and 1000, not 1001"),
        ("limit=-1", "\"limit\" is a whole number, not \"-1\""),
        ("limit=", "\"limit\" is a whole number"),
        ("after=x", "\"after\" is a whole number, not \"x\""),
        ("since=99999999999999999999", "\"since\" is a whole number"),
        ("in_force=yes", "\"in_force\" is \"false\" or \"true\", not \"yes\""),
        ("order=down", "\"order\" is \"newest\" or \"oldest\""),
        ("kind=tokens", "tokens"),
        ("sort=up", "there is no parameter \"sort\" here; there are: \"kind\""),
        ("limit=5&limit=6", "\"limit\" is given twice"),
    ] {
        let call = gateway.admin("GET", &format!("/admin/revocations?{query}"));
        let answer = call.send().expect_problem(400, "invalid_request");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{query}: {detail}");
    }
    for query in ["limit=1", "limit=1000", "order=oldest&in_force=true", ""] {
        gateway.admin("GET", &format!("/admin/revocations?{query}")).send().expect(200);
    }
    let post = gateway.admin("POST", "/admin/revocations?expired=maybe").json(&json!({}));
    let answer = post.send().expect_problem(400, "invalid_request");
    assert!(answer.text().contains("refuse"), "{}", answer.text());
    gateway.admin("GET", "/admin/events?since=x").send().expect_problem(400, "invalid_request");
}
