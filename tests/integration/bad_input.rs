//! Bad input at every auth endpoint (CONTRACT §5): exact answers, and nothing half-written.

use serde_json::json;

use crate::support::account::PASSWORD;
use crate::support::jwt::claims_of;
use crate::support::{Account, Answer, Call, Gateway, Setup, Upstream};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// The limit of a body at the auth endpoints.
const BODY_BYTES_MAX: usize = 64 * 1024;

fn start() -> Gateway {
    let upstream = Upstream::echo();
    Setup::new()
        .auth("[auth.lockout]\nattempts = 10000\nwindow = \"15m\"")
        .upstream("api", upstream.address())
        .route("api", "/api", "api", "access")
        .start()
}

/// A body that no endpoint can take, and what every endpoint that reads one answers.
fn broken_bodies() -> Vec<(&'static str, &'static str, Vec<u8>, u16, &'static str)> {
    let padded = |bytes: usize| {
        let mut text = format!(r#"{{"email":"bad@example.com","password":"{PASSWORD}","revoke":true,"x":""#);
        text.push_str(&"x".repeat(bytes - text.len() - 2));
        text.push_str("\"}");
        text.into_bytes()
    };
    let credentials = |text: &str| text.replace("PASSWORD", PASSWORD).into_bytes();
    vec![
        ("no JSON at all", JSON, Vec::new(), 400, "invalid_request"),
        (
            "broken JSON",
            JSON,
            credentials(r#"{"email":"bad@example.com","password":"PASSWORD","revoke":true"#),
            400,
            "invalid_request",
        ),
        (
            "JSON and more",
            JSON,
            credentials(r#"{"email":"bad@example.com","password":"PASSWORD","revoke":true} {}"#),
            400,
            "invalid_request",
        ),
        ("an array", JSON, b"[]".to_vec(), 400, "invalid_request"),
        ("a string", JSON, b"\"bad@example.com\"".to_vec(), 400, "invalid_request"),
        ("null", JSON, b"null".to_vec(), 400, "invalid_request"),
        ("an empty object", JSON, b"{}".to_vec(), 400, "invalid_request"),
        (
            "invalid UTF-8",
            JSON,
            b"{\"email\":\"bad\xff@example.com\",\"password\":\"\xff\",\"revoke\":\"\xff\"}".to_vec(),
            400,
            "invalid_request",
        ),
        (
            "a lone surrogate",
            JSON,
            br#"{"email":"\ud800@example.com","password":"\ud800","revoke":"\ud800"}"#.to_vec(),
            400,
            "invalid_request",
        ),
        (
            "too deep",
            JSON,
            format!("{{\"email\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
            400,
            "invalid_request",
        ),
        (
            "a key twice",
            JSON,
            credentials(
                r#"{"email":"bad@example.com","email":"bad@example.com","password":"PASSWORD","revoke":true,"revoke":true}"#,
            ),
            400,
            "invalid_request",
        ),
        (
            "a key twice, once escaped",
            JSON,
            credentials(
                r#"{"email":"bad@example.com","\u0065mail":"bad@example.com","password":"PASSWORD","revoke":true,"\u0072evoke":true}"#,
            ),
            400,
            "invalid_request",
        ),
        (
            "a wrong type",
            JSON,
            br#"{"email":["bad@example.com"],"password":12345678,"revoke":"true"}"#.to_vec(),
            400,
            "invalid_request",
        ),
        ("an empty form", FORM, Vec::new(), 400, "invalid_request"),
        (
            "a form key twice",
            FORM,
            credentials(
                "email=bad%40example.com&email=bad%40example.com&password=PASSWORD&revoke=true&revoke=true",
            ),
            400,
            "invalid_request",
        ),
        (
            "a form with invalid UTF-8",
            FORM,
            b"email=bad%ff%40example.com&password=%ff&revoke=%ff".to_vec(),
            400,
            "invalid_request",
        ),
        ("JSON called text", "text/plain", padded(200), 415, "unsupported_media_type"),
        ("JSON called XML", "application/xml", padded(200), 415, "unsupported_media_type"),
        (
            "a multipart form",
            "multipart/form-data; boundary=x",
            b"--x--".to_vec(),
            415,
            "unsupported_media_type",
        ),
        ("one byte too long", JSON, padded(BODY_BYTES_MAX + 1), 413, "body_too_large"),
        ("1 MiB of JSON", JSON, padded(1024 * 1024), 413, "body_too_large"),
        (
            "1 MiB of form",
            FORM,
            format!("email={}", "x".repeat(1024 * 1024)).into_bytes(),
            413,
            "body_too_large",
        ),
    ]
}

#[track_caller]
fn check(case: &str, answer: Answer, status: u16, code: &str) {
    assert_eq!(answer.verdict(), (status, code.to_owned()), "{case}: {}", answer.text());
    let answer = answer.expect_problem(status, code);
    let body = answer.json();
    assert_eq!(body["error"], body["detail"], "{case}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{case}");
    for secret in [PASSWORD, "tr1cky"] {
        assert!(!answer.text().contains(secret), "{case}: the answer repeats a password");
    }
}

/// Nobody has been signed up under the address that all bad bodies use.
#[track_caller]
fn nobody_was_made(gateway: &Gateway, case: &str) {
    let body = json!({ "email": "bad@example.com", "password": PASSWORD });
    assert_eq!(gateway.post("/auth/signin").json(&body).send().status, 401, "{case} left a user");
}

#[test]
fn sign_up_refuses_every_broken_body_and_leaves_no_user() {
    let gateway = start();
    for (case, kind, body, status, code) in broken_bodies() {
        check(case, gateway.post("/auth/signup").body(kind, body).send(), status, code);
        nobody_was_made(&gateway, case);
    }
    // And after all of that, the same address can be signed up.
    Account::sign_up(&gateway, "bad@example.com");
}

#[test]
fn sign_in_refuses_every_broken_body() {
    let gateway = start();
    Account::sign_up(&gateway, "bad@example.com");
    for (case, kind, body, status, code) in broken_bodies() {
        check(case, gateway.post("/auth/signin").body(kind, body).send(), status, code);
    }
    Account::sign_in(&gateway, "bad@example.com");
}

#[test]
fn a_change_of_a_token_refuses_every_broken_body_and_changes_nothing() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let other = Account::sign_in(&gateway, "ada@example.com");
    let id = claims_of(&other.access)["jti"].as_str().unwrap().to_owned();
    let put = |call: fn(Call, Vec<u8>, &str) -> Call, kind: &str, body: Vec<u8>| {
        call(gateway.call("PUT", &format!("/auth/tokens/{id}")).bearer(&ada.access), body, kind).send()
    };
    let plain = |call: Call, body: Vec<u8>, kind: &str| call.body(kind, body);
    for (case, kind, body, status, code) in broken_bodies() {
        check(case, put(plain, kind, body), status, code);
    }
    for (case, kind, body) in [
        ("a number", JSON, r#"{"revoke":1}"#),
        ("a string", JSON, r#"{"revoke":"true"}"#),
        ("null", JSON, r#"{"revoke":null}"#),
        ("another key", JSON, r#"{"revoked":true}"#),
        ("a word in a form", FORM, "revoke=yes"),
        ("nothing in a form", FORM, "revoke="),
    ] {
        check(case, put(plain, kind, body.into()), 400, "invalid_request");
    }
    assert_eq!(gateway.get("/api").bearer(&other.access).send().status, 200);
    // A form's `false` means false.
    put(plain, FORM, b"revoke=true".to_vec()).expect(200);
    assert_eq!(gateway.get("/api").bearer(&other.access).send().status, 401);
    put(plain, FORM, b"revoke=false".to_vec()).expect(200);
    assert_eq!(gateway.get("/api").bearer(&other.access).send().status, 200);
}

#[test]
fn sign_up_and_sign_in_say_what_is_wrong_with_a_field() {
    let gateway = start();
    let long = |count: usize| "a".repeat(count);
    let email = |address: &str| json!({ "email": address, "password": PASSWORD }).to_string();
    let password = |text: &str| json!({ "email": "bad@example.com", "password": text }).to_string();
    // (endpoint, body, words that the answer must have)
    let cases: Vec<(&str, String, &str)> = vec![
        ("signup", email(""), "Invalid email format"),
        ("signup", email("bad"), "Invalid email format"),
        ("signup", email("bad@"), "Invalid email format"),
        ("signup", email("@example.com"), "Invalid email format"),
        ("signup", email("bad @example.com"), "Invalid email format"),
        ("signup", email("bad@exam\u{0}ple.com"), "email"),
        ("signup", email("bad\n@example.com"), "email"),
        ("signup", email(&format!("{}@example.com", long(2000))), "email"),
        ("signup", email(&format!("bad@{}.com", long(2000))), "email"),
        ("signup", json!({ "email": "bad@example.com" }).to_string(), "password"),
        ("signup", json!({ "password": PASSWORD }).to_string(), "email"),
        ("signup", password(""), "assword"),
        ("signup", password(&format!("{PASSWORD}{}", long(1024))), "assword"),
        ("signin", json!({ "password": PASSWORD }).to_string(), "Missing 'email' in body"),
        ("signin", json!({ "email": "bad@example.com" }).to_string(), "Missing 'password' in body"),
    ];
    for (endpoint, body, words) in cases {
        let case = format!("{endpoint} {}", &body[..body.len().min(80)]);
        let answer = gateway.post(&format!("/auth/{endpoint}")).body(JSON, body).send();
        let text = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        check(&case, answer, 400, "invalid_request");
        assert!(text.contains(words), "{case}: {text}");
        nobody_was_made(&gateway, &case);
    }
}

#[test]
fn strange_credentials_at_sign_in_tell_nobody_whether_the_account_exists() {
    let gateway = start();
    Account::sign_up(&gateway, "ada@example.com");
    let refused = |email: &str, password: &str| {
        let answer =
            gateway.post("/auth/signin").json(&json!({ "email": email, "password": password })).send();
        let verdict = answer.verdict();
        match verdict.1.as_str() {
            "bad_credentials" => check("strange credentials", answer, 401, "bad_credentials"),
            // Control characters may be refused before anything is looked up.
            _ => check("strange credentials", answer, 400, "invalid_request"),
        }
        verdict
    };
    for password in [format!("{PASSWORD}\u{0}"), "p".repeat(4000), String::new()] {
        assert_eq!(refused("ada@example.com", &password), refused("nobody@example.com", &password));
    }
    for email in ["ada@example.com\u{0}", &"a".repeat(4000), "' OR 1=1 --", ""] {
        refused(email, PASSWORD);
    }
    Account::sign_in(&gateway, "ada@example.com");
}

#[test]
fn content_types_with_parameters_and_any_case_are_taken() {
    let gateway = start();
    let body = |email: &str| json!({ "email": email, "password": PASSWORD }).to_string();
    for (number, kind) in ["application/json; charset=utf-8", "Application/JSON"].into_iter().enumerate() {
        let answer =
            gateway.post("/auth/signup").body(kind, body(&format!("ada{number}@example.com"))).send();
        assert_eq!(answer.status, 201, "{kind}: {}", answer.text());
    }
    let form = format!("email=form%40example.com&password={PASSWORD}");
    let kind = "application/x-www-form-urlencoded; charset=UTF-8";
    gateway.post("/auth/signup").body(kind, form).send().expect(201);
}

#[test]
fn a_body_without_a_content_type_is_415() {
    let gateway = start();
    let text = json!({ "email": "bad@example.com", "password": PASSWORD }).to_string();
    let mut connection = gateway.connect();
    connection.send(format!(
        "POST /auth/signup HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    ));
    check("no content type", connection.answer("POST"), 415, "unsupported_media_type");
    nobody_was_made(&gateway, "no content type");
}

#[test]
fn a_chunked_body_over_the_limit_is_413_too() {
    let gateway = start();
    let mut connection = gateway.connect();
    connection.send(
        "POST /auth/signup HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    let block = "x".repeat(16 * 1024);
    for _ in 0..64 {
        connection.send(format!("{:x}\r\n{block}\r\n", block.len()));
    }
    check("1 MiB in chunks", connection.answer("POST"), 413, "body_too_large");
}

#[test]
fn a_body_that_is_cut_short_leaves_no_user() {
    let gateway = start();
    let whole = gateway
        .post("/auth/signup")
        .json(&json!({ "email": "bad@example.com", "password": PASSWORD }))
        .bytes();
    for cut in [whole.len() - 1, whole.len() - 20] {
        let mut connection = gateway.connect();
        connection.send(&whole[..cut]);
        connection.finish();
        connection.closed();
    }
    nobody_was_made(&gateway, "a body cut short");
}

#[test]
fn endpoints_with_a_token_judge_it_before_anything_else() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let id = claims_of(&ada.access)["jti"].as_str().unwrap().to_owned();
    let endpoints = [
        ("POST", "/auth/refresh".to_owned(), &ada.refresh, &ada.access),
        ("POST", "/auth/logout-all".to_owned(), &ada.access, &ada.refresh),
        ("GET", "/auth/me".to_owned(), &ada.access, &ada.refresh),
        ("GET", "/auth/tokens".to_owned(), &ada.access, &ada.refresh),
        ("PUT", format!("/auth/tokens/{id}"), &ada.access, &ada.refresh),
        ("DELETE", "/auth/tokens".to_owned(), &ada.access, &ada.refresh),
        ("GET", "/auth/sessions".to_owned(), &ada.access, &ada.refresh),
        ("DELETE", "/auth/sessions/x".to_owned(), &ada.access, &ada.refresh),
    ];
    for (method, target, right, wrong_type) in endpoints {
        let call = || {
            let call = gateway.call(method, &target);
            if method == "PUT" { call.json(&json!({ "revoke": false })) } else { call }
        };
        let case = |what: &str| format!("{method} {target} with {what}");
        check(&case("no token"), call().send(), 401, "token_missing");
        check(&case("Basic"), call().header("Authorization", "Basic YTpi").send(), 401, "token_missing");
        for bad in
            ["x", "a.b.c", &format!("{right}@"), &format!("{right}="), &right.replace('.', ".."), &right[1..]]
        {
            check(&case("a bad token"), call().bearer(bad).send(), 422, "token_invalid");
        }
        check(&case("the wrong type"), call().bearer(wrong_type).send(), 422, "token_invalid");
        let twice = call().bearer(right).bearer(right).send();
        assert_eq!(twice.verdict(), (400, "invalid_request".to_owned()), "{}", case("two tokens"));
    }
    assert_eq!(gateway.get("/api").bearer(&ada.access).send().status, 200, "nothing was done to the account");
}

#[test]
fn endpoints_without_a_body_still_refuse_a_huge_one() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    for (method, target, token) in [
        ("POST", "/auth/refresh", &ada.refresh),
        ("POST", "/auth/logout", &ada.access),
        ("DELETE", "/auth/logout", &ada.access),
        ("POST", "/auth/logout-all", &ada.access),
    ] {
        let answer = gateway.call(method, target).bearer(token).body(JSON, vec![b'x'; 1024 * 1024]).send();
        assert_eq!(
            answer.verdict(),
            (413, "body_too_large".to_owned()),
            "{method} {target}: {}",
            answer.text()
        );
    }
    assert_eq!(gateway.get("/api").bearer(&ada.access).send().status, 200, "a refused log-out logged out");
    ada.refreshed(&gateway).expect(200);
}

#[test]
fn odd_paging_is_refused_or_bounded() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    for query in
        ["limit=0", "limit=-1", "limit=x", "limit=99999999999999999999", "after=%00", "after=nonsense"]
    {
        let answer = gateway.get(&format!("/auth/tokens?{query}")).bearer(&ada.access).send();
        assert!([200, 400].contains(&answer.status), "{query}: {}", answer.text());
    }
    let answer = gateway.get("/auth/tokens?limit=x").bearer(&ada.access).send();
    check("limit=x", answer, 400, "invalid_request");
}
