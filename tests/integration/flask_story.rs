//! `examples/flask-legacy`, as shipped, over real sockets: a token that Flask issued is refused at the gateway after
//! its revocation, while Flask itself would still take it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::jwt::claims_of;
use crate::support::python;
use crate::support::{Answer, Call, Gateway, Setup, wait_for};

const PASSWORD: &str = "correct horse 1!";

/// The catalogue of the example, running until dropped.
struct Catalogue {
    child: Child,
    address: SocketAddr,
}

impl Catalogue {
    fn start(secret: &Path) -> Self {
        let mut child = Command::new(python::with("flask-legacy", &example().join("requirements.txt")))
            .arg(example().join("app.py"))
            .args(["--port", "0"])
            .env("CATALOGUE_SECRET_FILE", secret)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("catalogue listening on ");
        let address = address
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("the catalogue said {line:?}"));
        Self { child, address }
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flask-legacy")
}

/// The shipped `gateway.toml`, changed in its addresses alone.
fn configuration(catalogue: SocketAddr) -> String {
    let mut text = fs::read_to_string(example().join("gateway.toml")).unwrap();
    for (shipped, here) in [
        ("127.0.0.1:8080", "127.0.0.1:0"),
        ("127.0.0.1:9901", "127.0.0.1:0"),
        ("http://127.0.0.1:5000", &format!("http://{catalogue}")),
    ] {
        assert_eq!(text.matches(shipped).count(), 1, "{shipped} in examples/flask-legacy/gateway.toml");
        text = text.replace(shipped, here);
    }
    text
}

struct Story {
    gateway: Gateway,
    catalogue: Catalogue,
}

impl Story {
    fn begin() -> Self {
        let made =
            Setup::new().secret("secrets/jwt", "a secret that both of them know, long enough for HS256\n");
        let catalogue = Catalogue::start(&made.path("secrets/jwt"));
        let text = configuration(catalogue.address);
        Self { gateway: made.start_with(&text), catalogue }
    }

    /// Signs in through the gateway: the access and the refresh token that Flask issued.
    fn sign_in(&self) -> (String, String) {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD });
        let tokens = self.gateway.post("/login").json(&body).send().expect(200).json();
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        (text("access_token"), text("refresh_token"))
    }

    fn books(&self, token: &str) -> Answer {
        self.gateway.get("/books").bearer(token).send()
    }

    /// Past the gateway.
    fn books_at_flask(&self, token: &str) -> u16 {
        Call::new(self.catalogue.address, "GET", "/books").bearer(token).send().status
    }

    fn revoke(&self, body: &Value) {
        assert_eq!(self.gateway.revoke(body)["accepted"], 1);
    }
}

#[test]
fn the_catalogue_alone_has_no_way_to_end_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("jwt");
    fs::write(&secret, "a secret that only the catalogue knows, and long enough\n").unwrap();
    let catalogue = Catalogue::start(&secret);
    let call = |method: &str, target: &str| Call::new(catalogue.address, method, target);
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let tokens = call("POST", "/login").json(&body).send().expect(200).json();
    let access = tokens["access_token"].as_str().unwrap();
    call("GET", "/books").send().expect(401);
    call("GET", "/books").bearer(access).send().expect(200);
    call("GET", "/books").bearer(tokens["refresh_token"].as_str().unwrap()).send().expect(422);
    call("POST", "/refresh").bearer(tokens["refresh_token"].as_str().unwrap()).send().expect(200);
    for target in ["/logout", "/oauth2/revoke"] {
        call("POST", target).bearer(access).form(&[("token", access)]).send().expect(404);
    }
    call("GET", "/books").bearer(access).send().expect(200);
}

#[test]
fn a_token_that_flask_issued_dies_at_the_gateway() {
    let story = Story::begin();
    let gateway = &story.gateway;
    let (access, refresh) = story.sign_in();
    let claims = claims_of(&access);
    assert!(claims.get("iss").is_none(), "flask-jwt-extended sets no iss: {claims}");

    // It works through the gateway, reading and writing.
    let books = story.books(&access).expect(200).json();
    assert_eq!(books["books"][0]["author"], "Ada Lovelace");
    let added =
        gateway.post("/books").bearer(&access).json(&json!({ "title": "Sketch" })).send().expect(201).json();
    assert_eq!(added["added_by"], "ada@example.com");

    // Whoever holds it revokes it: dead at the gateway, alive at Flask.
    gateway.post("/oauth2/revoke").form(&[("token", &access)]).send().expect(200);
    story.books(&access).expect_problem(401, "token_revoked");
    gateway.get("/books/1").bearer(&access).send().expect_problem(401, "token_revoked");
    assert_eq!(story.books_at_flask(&access), 200, "Flask knows nothing of it");

    // Its refresh token still renews, through the gateway, and the renewed one works.
    let renew = |token: &str| gateway.post("/refresh").bearer(token).send();
    let renewed = renew(&refresh).expect(200).json()["access_token"].as_str().unwrap().to_owned();
    story.books(&renewed).expect(200);
    // Until the administrator revokes that one too.
    story.revoke(&json!({ "token": refresh }));
    renew(&refresh).expect_problem(401, "token_revoked");

    // Another token, by its id.
    let (second, _) = story.sign_in();
    story.books(&second).expect(200);
    story.revoke(&json!({ "kind": "token", "value": claims_of(&second)["jti"], "reason": "lost laptop" }));
    story.books(&second).expect_problem(401, "token_revoked");
    assert_eq!(story.books_at_flask(&second), 200);

    // A fresh login works.
    let (third, _) = story.sign_in();
    story.books(&third).expect(200);
}

#[test]
fn all_tokens_of_a_person_die_and_a_later_login_lives() {
    let story = Story::begin();
    let (one, _) = story.sign_in();
    let (two, refresh) = story.sign_in();
    story.revoke(&json!({ "kind": "subject", "issuer": "legacy", "value": "ada@example.com" }));
    for token in [&one, &two] {
        story.books(token).expect_problem(401, "token_revoked");
        assert_eq!(story.books_at_flask(token), 200);
    }
    story.gateway.post("/refresh").bearer(&refresh).send().expect_problem(401, "token_revoked");
    // External tokens of that very second are refused too; the next second's are not.
    wait_for("a later login to work", || {
        let (later, _) = story.sign_in();
        (story.books(&later).status == 200).then_some(())
    });
    story.books(&one).expect_problem(401, "token_revoked");
}

#[test]
fn the_gateway_keeps_the_doors_that_its_routes_describe() {
    let story = Story::begin();
    let gateway = &story.gateway;
    let (access, refresh) = story.sign_in();
    gateway.get("/health").send().expect(200);
    story.gateway.get("/books").send().expect_problem(401, "token_missing");
    story.books(&refresh).expect_problem(401, "token_invalid");
    gateway.post("/refresh").bearer(&access).send().expect_problem(401, "token_invalid");
    story.books(&format!("{access}@")).expect_problem(401, "token_invalid");
    let answer = gateway.get("/login").send().expect_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    // What Flask says itself comes through as it is.
    let answer = gateway
        .post("/login")
        .json(&json!({ "email": "ada@example.com", "password": "x" }))
        .send()
        .expect(401);
    assert_eq!(answer.json(), json!({ "error": "bad email or password" }));
    assert_eq!(
        gateway.get("/books/99").bearer(&access).send().expect(404).json(),
        json!({ "error": "no such book" })
    );
    // And what it answers a token that it does not know, the gateway has said already.
    assert_eq!(story.books_at_flask(&format!("{access}@")), 422);
}
