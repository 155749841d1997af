//! The gateway's own auth endpoints (CONTRACT §5): the tutorial's checks, sessions, rotation, log-out.

use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::jwt::{claims_of, header_of};
use crate::support::{Account, Answer, Call, Gateway, Setup, Upstream, now};

fn setup() -> Setup {
    let upstream = Upstream::echo();
    Setup::new().upstream("api", upstream.address()).route("api", "/api/books", "api", "access").route(
        "renew",
        "/api/renew",
        "api",
        "refresh",
    )
}

/// A protected call with this token: status and code.
fn through(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/api/books").bearer(token).send().verdict()
}

fn passes() -> (u16, String) {
    (200, String::new())
}

fn refused(code: &str) -> (u16, String) {
    (401, code.to_owned())
}

// --- the tutorial's own checks -----------------------------------------------------------------------------------

/// How a client of the tutorial writes its bodies.
#[derive(Clone, Copy, Debug)]
enum Bodies {
    Json,
    Form,
}

impl Bodies {
    fn put(self, call: Call, fields: &[(&str, &str)]) -> Call {
        match self {
            Self::Form => call.form(fields),
            Self::Json => {
                let object: serde_json::Map<String, Value> = fields
                    .iter()
                    .map(|&(name, value)| {
                        let value = value.parse::<bool>().map_or_else(|_| json!(value), |truth| json!(truth));
                        (name.to_owned(), value)
                    })
                    .collect();
                call.json(&Value::Object(object))
            }
        }
    }
}

fn the_tutorials_checks(prefix: &str, bodies: Bodies) {
    let gateway = setup().start();
    let at = |path: &str| format!("{prefix}{path}");
    let email = "ada@example.com";
    let credentials = [("email", email), ("password", PASSWORD)];

    // Sign-up gives both tokens and the user.
    let answer = bodies.put(gateway.post(&at("/signup")), &credentials).send().expect(201);
    assert_eq!(answer.json()["status"], 201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    let ada = Account::of(&answer);
    assert_eq!(ada.user["email"], email);
    assert_eq!(ada.user["username"], email);
    for member in ["id", "createdon"] {
        assert!(ada.user[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {}", ada.user);
    }
    assert_eq!(through(&gateway, &ada.access), passes());

    // Signing up again with the same email does not work.
    let again =
        bodies.put(gateway.post(&at("/signup")), &credentials).send().expect_problem(400, "invalid_request");
    assert_eq!(again.json()["error"], "User already exists");

    // Refresh: with the refresh token, with the access token, with `@` appended.
    let refresh = |token: &str| gateway.post(&at("/refresh")).bearer(token).send();
    let answer = refresh(&ada.refresh).expect(200);
    assert_eq!(answer.json()["status"], 200);
    assert!(answer.json()["data"][0]["access_token"].is_string(), "{}", answer.text());
    refresh(&ada.access).expect_problem(422, "token_invalid");
    let answer = refresh(&format!("{}@", ada.refresh)).expect_problem(422, "token_invalid");
    assert_eq!(answer.json()["error"], answer.json()["detail"]);

    // A revoked token is refused; restored, it is good again. One login looks after the tokens of another.
    let answer = bodies.put(gateway.post(&at("/signin")), &credentials).send().expect(200);
    let other = Account::of(&answer);
    let set = |token: &str, revoke: &str| {
        let id = claims_of(token)["jti"].as_str().unwrap().to_owned();
        let answer = bodies
            .put(
                gateway.call("PUT", &at(&format!("/tokens/{id}"))).bearer(&ada.access),
                &[("revoke", revoke)],
            )
            .send()
            .expect(200);
        assert_eq!(answer.json()["status"], 200);
        assert!(answer.json()["message"].is_string(), "{}", answer.text());
    };
    set(&other.access, "true");
    assert_eq!(through(&gateway, &other.access), refused("token_revoked"));
    set(&other.access, "false");
    assert_eq!(through(&gateway, &other.access), passes());
    set(&other.refresh, "true");
    refresh(&other.refresh).expect_problem(401, "token_revoked");
    set(&other.refresh, "false");
    refresh(&other.refresh).expect(200);
}

#[test]
pub(crate) fn the_tutorials_checks_hold_with_json_under_auth() {
    the_tutorials_checks("/auth", Bodies::Json);
}

#[test]
fn the_tutorials_checks_hold_with_forms_under_auth() {
    the_tutorials_checks("/auth", Bodies::Form);
}

#[test]
fn the_tutorials_checks_hold_with_json_under_api_v1_auth() {
    the_tutorials_checks("/api/v1/auth", Bodies::Json);
}

#[test]
fn the_tutorials_checks_hold_with_forms_under_api_v1_auth() {
    the_tutorials_checks("/api/v1/auth", Bodies::Form);
}

// --- sign-up and sign-in -----------------------------------------------------------------------------------------

#[test]
fn a_sign_in_tells_nobody_whether_the_account_exists() {
    let gateway = setup().start();
    Account::sign_up(&gateway, "ada@example.com");
    let words = |email: &str| {
        let body = json!({ "email": email, "password": "not the passw0rd!" });
        let answer = gateway.post("/auth/signin").json(&body).send().expect_problem(401, "bad_credentials");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        body
    };
    let known = words("ada@example.com");
    assert_eq!(known["error"], "Bad email or password");
    assert_eq!(known, words("nobody@example.com"));
}

#[test]
fn a_password_that_breaks_the_rule_is_told_so_in_words() {
    let gateway = setup().start();
    for password in ["sh0rt!x", "nodigits!here", "n0symbolshere"] {
        let body = json!({ "email": "ada@example.com", "password": password });
        let answer = gateway.post("/auth/signup").json(&body).send().expect_problem(400, "invalid_request");
        assert!(!answer.text().contains(password), "the answer repeats the password: {}", answer.text());
        assert!(
            answer.json()["error"].as_str().unwrap().to_lowercase().contains("password"),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn the_tutorials_password_rule_can_be_configured() {
    let gateway = setup()
        .section("[auth.password]\nmin_length = 5\nrequire_digit = true\nrequire_symbol = true\ndeny_common = false")
        .start();
    let sign_up = |email: &str, password: &str| {
        gateway.post("/auth/signup").json(&json!({ "email": email, "password": password })).send().status
    };
    assert_eq!(sign_up("four@example.com", "a1!b"), 400);
    assert_eq!(sign_up("five@example.com", "a1!bc"), 201);
}

#[test]
pub(crate) fn of_many_sign_ups_with_one_email_one_wins() {
    let gateway = setup().start();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let mut answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(|| gateway.post("/auth/signup").json(&body).send())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    answers.sort_by_key(|answer| answer.status);
    let winner = Account::of(&answers[0].clone().expect(201));
    for loser in answers.split_off(1) {
        assert_eq!(loser.expect_problem(400, "invalid_request").json()["error"], "User already exists");
    }
    assert_eq!(through(&gateway, &winner.access), passes());
    assert_eq!(winner.tokens(&gateway).len(), 2, "only the winner's tokens are there");
}

#[test]
fn sign_up_can_be_closed() {
    let gateway = setup().auth("signup = false").start();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    gateway.post("/auth/signup").json(&body).send().expect_problem(403, "forbidden");
}

#[test]
pub(crate) fn extra_sign_up_fields_are_kept_and_returned_when_configured() {
    let gateway = setup().auth(r#"user_fields = ["firstname", "lastname"]"#).start();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "firstname": "Ada", "lastname": "Lovelace" });
    let answer = gateway.post("/auth/signup").json(&body).send().expect(201);
    let ada = Account::of(&answer);
    assert_eq!((&ada.user["firstname"], &ada.user["lastname"]), (&json!("Ada"), &json!("Lovelace")));
    let me = gateway.get("/auth/me").bearer(&ada.access).send().expect(200).json();
    assert_eq!(me["data"][0], ada.user);
}

#[test]
fn too_many_failed_sign_ins_lock_the_account_for_that_address() {
    let gateway = setup().section("[auth.lockout]\nattempts = 3\nwindow = \"15m\"").start();
    Account::sign_up(&gateway, "ada@example.com");
    let sign_in = |password: &str| {
        gateway.post("/auth/signin").json(&json!({ "email": "ada@example.com", "password": password })).send()
    };
    for _ in 0..3 {
        sign_in("wr0ng-password!").expect_problem(401, "bad_credentials");
    }
    let answer = sign_in(PASSWORD).expect_problem(429, "locked_out");
    let after: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=900).contains(&after), "{after}");
    Account::sign_up(&gateway, "grace@example.com");
}

// --- tokens of its own -------------------------------------------------------------------------------------------

#[test]
fn its_own_tokens_carry_what_the_contract_says() {
    let gateway = setup().auth("issuer = \"gate\"\naudience = [\"api\"]").start();
    let before = now();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let keys = gateway.get("/.well-known/jwks.json").send().expect(200).json();
    for (token, kind, typ, ttl) in
        [(&ada.access, "access", "at+jwt", 900), (&ada.refresh, "refresh", "JWT", 2_592_000)]
    {
        let (header, claims) = (header_of(token), claims_of(token));
        assert_eq!(header["typ"], typ);
        assert_eq!(header["alg"], "ES256");
        let kid = &header["kid"];
        assert!(keys["keys"].as_array().unwrap().iter().any(|key| &key["kid"] == kid), "{kid} in {keys}");
        assert_eq!(claims["type"], kind);
        assert_eq!(claims["iss"], "gate");
        assert!(claims["aud"] == "api" || claims["aud"] == json!(["api"]), "{claims}");
        assert_eq!(claims["sub"], ada.user["id"]);
        for name in ["jti", "sid"] {
            assert!(claims[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {claims}");
        }
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!(iat >= before && iat <= now(), "{iat}");
        assert_eq!(exp - iat, ttl);
    }
    let (access, refresh) = (claims_of(&ada.access), claims_of(&ada.refresh));
    assert_eq!(access["sid"], refresh["sid"]);
    assert_ne!(access["jti"], refresh["jti"]);
}

#[test]
fn every_algorithm_signs_tokens_that_pass() {
    let algorithms = [
        "ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "HS256", "HS384",
        "HS512",
    ];
    for algorithm in algorithms {
        let mut gateway = setup().auth(&format!("algorithm = \"{algorithm}\"")).start();
        let ada = Account::sign_up(&gateway, "ada@example.com");
        assert_eq!(header_of(&ada.access)["alg"], algorithm);
        assert_eq!(through(&gateway, &ada.access), passes(), "{algorithm}");
        let keys = gateway.get("/.well-known/jwks.json").send().expect(200).json();
        for key in keys["keys"].as_array().unwrap() {
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none(), "{algorithm}: {private} is public");
            }
        }
        assert_eq!(keys["keys"].as_array().unwrap().is_empty(), algorithm.starts_with("HS"), "{algorithm}");
        // The key outlives the process.
        gateway.restart();
        assert_eq!(through(&gateway, &ada.access), passes(), "{algorithm} after a restart");
    }
}

// --- me, tokens, sessions ----------------------------------------------------------------------------------------

#[test]
pub(crate) fn me_is_the_user_of_the_token() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let answer = gateway.get("/auth/me").bearer(&ada.access).send().expect(200);
    assert_eq!(answer.json(), json!({ "status": 200, "data": [ada.user] }));
    gateway.get("/auth/me").send().expect_problem(401, "token_missing");
    gateway.get("/auth/me").bearer(&ada.refresh).send().expect_problem(422, "token_invalid");
    gateway.get("/auth/me").bearer("x.y.z").send().expect_problem(422, "token_invalid");
}

#[test]
pub(crate) fn the_callers_tokens_are_listed_newest_first_and_page_by_page() {
    let gateway = setup().start();
    let first = Account::sign_up(&gateway, "ada@example.com");
    Account::sign_up(&gateway, "grace@example.com");
    let second = Account::sign_in(&gateway, "ada@example.com");
    let third = Account::sign_in(&gateway, "ada@example.com");
    let rows = third.tokens(&gateway);
    assert_eq!(rows.len(), 6, "{rows:?}");
    let ids: Vec<&str> = rows.iter().map(|row| row["jti"].as_str().unwrap()).collect();
    let id = |token: &str| claims_of(token)["jti"].as_str().unwrap().to_owned();
    for token in
        [&first.access, &first.refresh, &second.access, &second.refresh, &third.access, &third.refresh]
    {
        assert!(ids.contains(&id(token).as_str()));
    }
    let place = |token: &str| ids.iter().position(|row| *row == id(token)).unwrap();
    assert!(place(&third.access) < place(&second.access) && place(&second.access) < place(&first.access));
    for row in &rows {
        let object = row.as_object().unwrap();
        for member in [
            "token_id",
            "jti",
            "token_type",
            "user_identity",
            "session",
            "issued",
            "expires",
            "revoked",
            "revoked_at",
            "user_agent",
            "address",
            "current",
        ] {
            assert!(object.contains_key(member), "{member} in {row}");
        }
        assert_eq!(row["current"], row["jti"] == id(&third.access).as_str(), "{row}");
        assert_eq!(row["revoked"], false);
        assert_eq!(row["address"], "127.0.0.1");
        assert!(row["issued"].as_str().unwrap().ends_with('Z'), "{row}");
    }
    // Never a token's text.
    let text = serde_json::to_string(&rows).unwrap();
    assert!(!text.contains(&third.access) && !text.contains(&third.refresh));

    let mut seen = Vec::new();
    let mut target = "/auth/tokens?limit=4".to_owned();
    loop {
        let page = gateway.get(&target).bearer(&third.access).send().expect(200).json();
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|row| row["jti"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/auth/tokens?limit=4&after={}", crate::support::http::encoded(next));
    }
    assert_eq!(seen, ids);
}

#[test]
fn the_singular_path_is_served_too() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let other = Account::sign_in(&gateway, "ada@example.com");
    let rows = gateway.get("/auth/token").bearer(&ada.access).send().expect(200).json();
    assert_eq!(rows["data"].as_array().unwrap().len(), 4);
    let id = claims_of(&other.access)["jti"].as_str().unwrap().to_owned();
    let target = format!("/auth/token/{id}");
    gateway.call("PUT", &target).bearer(&ada.access).json(&json!({ "revoke": true })).send().expect(200);
    assert_eq!(through(&gateway, &other.access), refused("token_revoked"));
}

#[test]
pub(crate) fn only_what_its_owner_revoked_this_way_can_be_restored() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let grace = Account::sign_up(&gateway, "grace@example.com");
    let set = |token: &str, revoke: bool| {
        let id = claims_of(token)["jti"].as_str().unwrap().to_owned();
        gateway
            .call("PUT", &format!("/auth/tokens/{id}"))
            .bearer(&ada.access)
            .json(&json!({ "revoke": revoke }))
            .send()
    };
    // Somebody else's, and nobody's.
    set(&grace.access, true).expect_problem(404, "not_found");
    assert_eq!(through(&gateway, &grace.access), passes());
    let nobody = gateway.call("PUT", "/auth/tokens/no-such-token").bearer(&ada.access);
    nobody.json(&json!({ "revoke": true })).send().expect_problem(404, "not_found");
    // Restoring what was never revoked, and revoking twice.
    let other = Account::sign_in(&gateway, "ada@example.com");
    set(&other.access, false).expect(200);
    set(&other.access, true).expect(200);
    set(&other.access, true).expect(200);
    set(&other.access, false).expect(200);
    assert_eq!(through(&gateway, &other.access), passes());
    // An admin's revocation is not the owner's to lift.
    let id = claims_of(&other.access)["jti"].clone();
    gateway.revoke(&json!({ "kind": "token", "value": id }));
    set(&other.access, false).expect_problem(409, "conflict");
    assert_eq!(through(&gateway, &other.access), refused("token_revoked"));
    // Nor is a session that was logged out, even for a token that the owner had revoked before.
    let gone = Account::sign_in(&gateway, "ada@example.com");
    set(&gone.access, true).expect(200);
    gateway.post("/auth/logout").bearer(&gone.refresh).send().expect(200);
    set(&gone.access, false).expect_problem(409, "conflict");
    // Nor is a refresh token that rotation has retired.
    let turned = Account::sign_in(&gateway, "ada@example.com");
    turned.refreshed(&gateway).expect(200);
    set(&turned.refresh, false).expect_problem(409, "conflict");
}

#[test]
fn pruning_is_for_the_admin_scope() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    gateway
        .call("DELETE", "/auth/tokens")
        .bearer(&ada.access)
        .send()
        .expect_problem(403, "insufficient_scope");
    gateway.call("DELETE", "/auth/tokens").send().expect_problem(401, "token_missing");
}

#[test]
pub(crate) fn a_session_can_be_ended_from_another() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let grace = Account::sign_up(&gateway, "grace@example.com");
    let other = Account::sign_in(&gateway, "ada@example.com");
    let sessions = gateway.get("/auth/sessions").bearer(&ada.access).send().expect(200).json();
    assert_eq!(sessions["data"].as_array().unwrap().len(), 2, "{sessions}");
    let sid = |token: &str| claims_of(token)["sid"].as_str().unwrap().to_owned();
    let end = |id: &str| gateway.call("DELETE", &format!("/auth/sessions/{id}")).bearer(&ada.access).send();
    assert!(sessions.to_string().contains(&sid(&other.access)));
    end(&sid(&grace.access)).expect_problem(404, "not_found");
    end("no-such-session").expect_problem(404, "not_found");
    end(&sid(&other.access)).expect(200);
    assert_eq!(through(&gateway, &other.access), refused("token_revoked"));
    other.refreshed(&gateway).expect_problem(401, "token_revoked");
    assert_eq!(through(&gateway, &ada.access), passes());
    assert_eq!(through(&gateway, &grace.access), passes());
}

#[test]
pub(crate) fn the_oldest_session_goes_when_there_are_too_many() {
    let gateway = setup().auth("max_sessions_per_user = 2").start();
    let first = Account::sign_up(&gateway, "ada@example.com");
    let second = Account::sign_in(&gateway, "ada@example.com");
    let third = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &first.access), refused("token_revoked"));
    assert_eq!(through(&gateway, &second.access), passes());
    assert_eq!(through(&gateway, &third.access), passes());
}

// --- log-out -----------------------------------------------------------------------------------------------------

#[test]
pub(crate) fn logging_out_ends_the_session_with_all_its_tokens_and_nothing_else() {
    let gateway = setup().start();
    let keep = Account::sign_up(&gateway, "ada@example.com");
    for (method, by_refresh) in [("POST", false), ("POST", true), ("DELETE", false), ("DELETE", true)] {
        let ada = Account::sign_in(&gateway, "ada@example.com");
        let renewed = ada.refreshed(&gateway).expect(200).json()["data"][0].clone();
        let token = if by_refresh { renewed["refresh_token"].as_str().unwrap() } else { &ada.access };
        let out = |token: &str| gateway.call(method, "/auth/logout").bearer(token).send();
        let answer = out(token).expect(200).json();
        assert_eq!(answer["status"], 200);
        assert!(answer["message"].is_string());
        assert_eq!(through(&gateway, &ada.access), refused("token_revoked"), "{method} {by_refresh}");
        assert_eq!(through(&gateway, renewed["access_token"].as_str().unwrap()), refused("token_revoked"));
        let renew = gateway.post("/auth/refresh").bearer(renewed["refresh_token"].as_str().unwrap()).send();
        renew.expect_problem(401, "token_revoked");
        // Again: fine.
        out(token).expect(200);
        assert_eq!(through(&gateway, &keep.access), passes());
    }
    let bad = gateway.post("/auth/logout").bearer(&format!("{}@", keep.access)).send();
    bad.expect_problem(422, "token_invalid");
    gateway.post("/auth/logout").send().expect_problem(401, "token_missing");
    assert_eq!(through(&gateway, &keep.access), passes());
}

#[test]
fn an_expired_token_still_logs_its_session_out() {
    let gateway = setup().auth("access_ttl = \"1s\"").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    crate::support::wait_for("the access token to expire", || {
        (through(&gateway, &ada.access) == refused("token_expired")).then_some(())
    });
    gateway.post("/auth/logout").bearer(&ada.access).send().expect(200);
    ada.refreshed(&gateway).expect_problem(401, "token_revoked");
}

#[test]
pub(crate) fn logging_out_everywhere_refuses_every_login_before_and_none_after() {
    let gateway = setup().start();
    let first = Account::sign_up(&gateway, "ada@example.com");
    let second = Account::sign_in(&gateway, "ada@example.com");
    let grace = Account::sign_up(&gateway, "grace@example.com");
    gateway.post("/auth/logout-all").bearer(&first.refresh).send().expect_problem(422, "token_invalid");
    gateway.post("/auth/logout-all").bearer(&first.access).send().expect(200);
    // A login in the very same second works: the blurred second is closed by naming the live sessions.
    let after = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &after.access), passes());
    after.refreshed(&gateway).expect(200);
    for gone in [&first, &second] {
        assert_eq!(through(&gateway, &gone.access), refused("token_revoked"));
        gone.refreshed(&gateway).expect_problem(401, "token_revoked");
    }
    assert_eq!(through(&gateway, &grace.access), passes());
}

// --- refresh -----------------------------------------------------------------------------------------------------

fn renewed(answer: &Answer) -> (String, String) {
    let data = answer.json()["data"][0].clone();
    let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("{name} in {data}")).to_owned();
    (text("access_token"), text("refresh_token"))
}

#[test]
pub(crate) fn a_repeated_refresh_inside_the_grace_gives_the_same_successor() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let (first_access, first) = renewed(&ada.refreshed(&gateway).expect(200));
    let (_, again) = renewed(&ada.refreshed(&gateway).expect(200));
    let (one, two) = (claims_of(&first), claims_of(&again));
    for claim in ["jti", "iat", "exp", "sid"] {
        assert_eq!(one[claim], two[claim], "{claim}");
    }
    // Rotation does not extend the session, and revokes no access token of it.
    assert_eq!(one["exp"], claims_of(&ada.refresh)["exp"]);
    assert_eq!(through(&gateway, &ada.access), passes());
    assert_eq!(through(&gateway, &first_access), passes());
}

#[test]
pub(crate) fn reuse_after_the_successor_was_used_ends_the_session() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let keep = Account::sign_in(&gateway, "ada@example.com");
    let (_, first) = renewed(&ada.refreshed(&gateway).expect(200));
    let (access, second) = renewed(&gateway.post("/auth/refresh").bearer(&first).send().expect(200));
    // Whoever comes with the retired one now is a thief, or was robbed.
    ada.refreshed(&gateway).expect_problem(401, "token_revoked");
    gateway.post("/auth/refresh").bearer(&second).send().expect_problem(401, "token_revoked");
    assert_eq!(through(&gateway, &access), refused("token_revoked"));
    assert_eq!(through(&gateway, &keep.access), passes());
}

#[test]
pub(crate) fn reuse_can_end_all_sessions_or_only_be_logged() {
    for (on_reuse, session_lives, neighbour_lives) in [("revoke_subject", false, false), ("log", true, true)]
    {
        let gateway = setup().auth(&format!("on_reuse = \"{on_reuse}\"\nreuse_grace = \"0s\"")).start();
        let ada = Account::sign_up(&gateway, "ada@example.com");
        let keep = Account::sign_in(&gateway, "ada@example.com");
        let (access, _) = renewed(&ada.refreshed(&gateway).expect(200));
        ada.refreshed(&gateway).expect(401);
        let expected = |lives| if lives { passes() } else { refused("token_revoked") };
        assert_eq!(through(&gateway, &access), expected(session_lives), "{on_reuse}");
        assert_eq!(through(&gateway, &keep.access), expected(neighbour_lives), "{on_reuse}");
    }
}

#[test]
pub(crate) fn without_rotation_a_refresh_token_stays_good_and_is_not_sent_again() {
    let gateway = setup().auth("rotate_refresh = false").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    for _ in 0..3 {
        let data = ada.refreshed(&gateway).expect(200).json()["data"][0].clone();
        assert!(data.get("refresh_token").is_none(), "{data}");
        assert_eq!(through(&gateway, data["access_token"].as_str().unwrap()), passes());
    }
}

#[test]
pub(crate) fn concurrent_refreshes_of_one_token_never_make_siblings() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let successors: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(|| renewed(&ada.refreshed(&gateway).expect(200)).1)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let ids: std::collections::HashSet<String> =
        successors.iter().map(|token| claims_of(token)["jti"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[test]
pub(crate) fn a_retired_refresh_token_does_not_open_a_proxied_route_for_refresh_tokens() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let renew = |token: &str| gateway.post("/api/renew").bearer(token).send().status;
    assert_eq!(renew(&ada.refresh), 200);
    let (_, successor) = renewed(&ada.refreshed(&gateway).expect(200));
    gateway.post("/auth/refresh").bearer(&successor).send().expect(200);
    assert_eq!(renew(&ada.refresh), 401);
}

// --- the standard endpoints at the root --------------------------------------------------------------------------

#[test]
pub(crate) fn whoever_holds_a_token_may_revoke_it() {
    let gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let revoke = |token: &str| gateway.post("/oauth2/revoke").form(&[("token", token)]).send();
    // Unknown, forged, nonsense: 200 without effect (RFC 7009 §2.2).
    revoke("nonsense").expect(200);
    let (head, _) = ada.access.rsplit_once('.').unwrap();
    revoke(&format!("{head}.{}", "A".repeat(86))).expect(200);
    assert_eq!(through(&gateway, &ada.access), passes());
    // An access token: that token alone.
    revoke(&ada.access).expect(200);
    assert_eq!(through(&gateway, &ada.access), refused("token_revoked"));
    let (access, refresh) = renewed(&ada.refreshed(&gateway).expect(200));
    // A refresh token: its session.
    let hinted =
        gateway.post("/oauth2/revoke").form(&[("token", &refresh), ("token_type_hint", "refresh_token")]);
    hinted.send().expect(200);
    assert_eq!(through(&gateway, &access), refused("token_revoked"));
    // No token at all: the JSON of RFC 6749 §5.2.
    let answer = gateway.post("/oauth2/revoke").form(&[("x", "y")]).send().expect(400);
    assert_eq!(answer.json()["error"], "invalid_request");
}

#[test]
fn the_endpoints_come_before_all_routes_and_know_their_methods() {
    let upstream = Upstream::echo();
    let gateway = Setup::new().upstream("api", upstream.address()).route("all", "/", "api", "public").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    assert_eq!(gateway.get("/auth/me").bearer(&ada.access).send().json()["data"][0], ada.user);
    let answer = gateway.get("/auth/signup").send().expect_problem(405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|methods| methods.contains("POST")), "{:?}", answer.headers);
    assert!(upstream.received().is_empty());
    gateway.get("/anything").send().expect(200);
}

#[test]
fn without_auth_its_paths_are_ordinary_ones() {
    let upstream = Upstream::echo();
    let gateway =
        Setup::without_auth().upstream("api", upstream.address()).route("all", "/", "api", "public").start();
    gateway.post("/auth/signup").json(&json!({})).send().expect(200);
    assert_eq!(upstream.nth(1).target(), "/auth/signup");
}
