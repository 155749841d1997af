//! Tokens in cookies.

use serde_json::{Value, json};

use super::super::settings::Settings;
use super::super::support::{Answered, GOOD, Jar, World, claim, settings};

fn world(header: bool) -> World {
    World::with(Some(Settings { header_transport: header, cookie_transport: true, ..settings() }))
}

async fn sign_up(world: &World) -> (Jar, Answered) {
    let account = json!({ "email": "ada@example.com", "password": GOOD });
    let answer = world.post("/auth/signup", "", account).await;
    let mut jar = Jar::default();
    jar.take(&answer);
    (jar, answer)
}

fn verdict(answer: &Answered) -> (u16, &str) {
    (answer.status, answer.code())
}

#[tokio::test]
async fn cookies_are_for_this_host_over_tls_and_tokens_not_for_scripts() {
    let world = world(false);
    let (jar, answer) = sign_up(&world).await;
    assert_eq!(answer.status, 201);
    let mut set: Vec<String> = Vec::new();
    for value in answer.headers.get_all("set-cookie") {
        assert!(value.is_sensitive());
        let (pair, rest) = value.to_str().unwrap().split_once("; ").unwrap();
        set.push(format!("{} {rest}", pair.split('=').next().unwrap()));
    }
    assert_eq!(
        set,
        [
            "__Host-portcullis_access Path=/; Max-Age=899; Secure; SameSite=Lax; HttpOnly",
            "__Host-portcullis_refresh Path=/; Max-Age=2591999; Secure; SameSite=Lax; HttpOnly",
            "__Host-portcullis_csrf Path=/; Max-Age=2591999; Secure; SameSite=Lax",
        ]
    );
    assert_eq!(answer.body["data"][0]["csrf_token"], jar.get("csrf"));
    assert_eq!(answer.body["data"][0]["user"]["email"], "ada@example.com");
    let text = answer.body.to_string();
    assert!(!text.contains(jar.get("access")) && !text.contains(jar.get("refresh")));
    for token in ["access", "refresh"] {
        assert_eq!(claim(jar.get(token), "csrf"), jar.get("csrf"), "bound to the session");
    }
}

#[tokio::test]
async fn unsafe_methods_repeat_the_value_and_safe_ones_need_not() {
    let world = world(true);
    let (jar, _) = sign_up(&world).await;
    let (_, other) = (world.sign_in("ada@example.com").await, sign_in(&world).await);
    assert_eq!(world.browse("GET /auth/me", &jar, &[]).await.status, 200);
    let mut mixed = jar.clone();
    mixed.0.insert("__Host-portcullis_csrf".to_owned(), other.get("csrf").to_owned());
    let mut without = jar.clone();
    without.0.remove("__Host-portcullis_csrf");
    let (own, page) = (jar.get("csrf"), ("origin", "https://api.example.com"));
    for (jar, fields) in [
        (&jar, &[][..]),
        (&jar, &[("x-csrf-token", "")]),
        (&jar, &[("x-csrf-token", "wrong")]),
        (&jar, &[("x-csrf-token", other.get("csrf"))]),
        (&jar, &[("x-csrf-token", own), ("x-csrf-token", own)]),
        (&jar, &[("x-csrf-token", own), ("origin", "https://evil.example")]),
        (&jar, &[("x-csrf-token", own), ("origin", "null")]),
        (&jar, &[("x-csrf-token", own), page, ("sec-fetch-site", "cross-site")]),
        (&without, &[("x-csrf-token", own)]),
        // A value that somebody else was given for a session of theirs.
        (&mixed, &[("x-csrf-token", other.get("csrf"))]),
    ] {
        for line in
            ["POST /auth/logout-all", "POST /auth/refresh", "DELETE /auth/logout", "POST /auth/password"]
        {
            let answer = world.browse(line, jar, fields).await;
            assert_eq!(verdict(&answer), (403, "csrf"), "{line} {fields:?}");
            assert!(answer.headers.get("set-cookie").is_none());
        }
    }
    assert_eq!(world.log.entries.lock().unwrap().len(), 0, "none had an effect");
    let fields = [("x-csrf-token", own), page, ("sec-fetch-site", "same-origin")];
    assert_eq!(world.browse("POST /auth/logout-all", &jar, &fields).await.status, 200);
}

async fn sign_in(world: &World) -> Jar {
    let answer =
        world.post("/auth/signin", "", json!({ "email": "ada@example.com", "password": GOOD })).await;
    let mut jar = Jar::default();
    jar.take(&answer);
    jar
}

#[tokio::test]
async fn a_refresh_by_cookie_is_answered_by_cookies_alone() {
    for header in [true, false] {
        let world = world(header);
        let (mut jar, _) = sign_up(&world).await;
        let (old, csrf) = (jar.clone(), jar.get("csrf").to_owned());
        world.advance(60);
        let fields = [("x-csrf-token", &*csrf)];
        let answer = world.browse("POST /auth/refresh", &jar, &fields).await;
        assert_eq!((answer.status, &answer.body["data"]), (200, &json!([{ "csrf_token": csrf }])));
        jar.take(&answer);
        assert!(jar.get("access") != old.get("access") && jar.get("refresh") != old.get("refresh"));
        assert_eq!(jar.get("csrf"), csrf, "other tabs go on");
        let mut again = old.clone();
        again.take(&world.browse("POST /auth/refresh", &old, &fields).await);
        assert_eq!(
            claim(again.get("refresh"), "jti"),
            claim(jar.get("refresh"), "jti"),
            "the same successor"
        );
        assert_eq!(claim(again.get("refresh"), "csrf"), csrf);

        // The session ends with the cookies; an access token that the browser has dropped is not missed.
        jar.0.remove("__Host-portcullis_access");
        let out = world.browse("POST /auth/logout", &jar, &fields).await;
        jar.take(&out);
        assert_eq!((out.status, jar.0.len()), (200, 0));
        assert_eq!(world.browse("GET /auth/me", &again, &[]).await.code(), "token_revoked");
    }
}

#[tokio::test]
async fn a_token_in_two_places_is_refused() {
    for header in [true, false] {
        let world = world(header);
        let (jar, _) = sign_up(&world).await;
        let bearer = format!("Bearer {}", jar.get("access"));
        let answer = world.browse("GET /auth/me", &jar, &[("authorization", &bearer)]).await;
        assert_eq!(verdict(&answer), (400, "invalid_request"));
        let twice = [("cookie", "__Host-portcullis_access=x")];
        assert_eq!(verdict(&world.browse("GET /auth/me", &jar, &twice).await), (400, "invalid_request"));
        let alone = world.browse("GET /auth/me", &Jar::default(), &[("authorization", &bearer)]).await;
        assert_eq!(alone.status, if header { 200 } else { 401 });
        let basic = world.browse("GET /auth/me", &jar, &[("authorization", "Basic eDp5")]).await;
        assert_eq!(basic.status, 200, "another scheme counts as no token");
    }
}

#[tokio::test]
async fn without_the_transport_cookies_are_nothing_to_us() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let mut jar = Jar::default();
    jar.0.insert("__Host-portcullis_access".to_owned(), access.clone());
    assert_eq!(world.browse("GET /auth/me", &jar, &[]).await.code(), "token_missing");
    let bearer = format!("Bearer {access}");
    let answer = world.browse("POST /auth/logout", &jar, &[("authorization", &bearer)]).await;
    assert_eq!((answer.status, answer.headers.get("set-cookie")), (200, None));
    assert_eq!(claim(&access, "csrf"), "null");
}

#[tokio::test]
async fn a_page_elsewhere_signs_nobody_in() {
    for (header, site) in [(true, "cross-site"), (false, "cross-site"), (false, "same-site")] {
        let world = world(header);
        sign_up(&world).await;
        let body = json!({ "email": "ada@example.com", "password": GOOD }).to_string();
        let request = http::Request::post("/auth/signin")
            .header("host", "api.example.com")
            .header("content-type", "application/json")
            .header("sec-fetch-site", site)
            .body(http_body_util::Full::from(body))
            .unwrap();
        let answer = world.send(request).await;
        assert!(answer.headers.get("set-cookie").is_none());
        match header {
            // It may be a client by header, of another origin; its tokens are in the body.
            true => assert_ne!(answer.body["data"][0]["access_token"], Value::Null),
            false => assert_eq!(verdict(&answer), (403, "csrf")),
        }
    }
}
