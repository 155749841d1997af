//! `[auth.delegate]`: a real Flask program checks the passwords, and hostile ones pretend to; the gateway issues the tokens.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::jwt::{Key, claims_of};
use crate::support::nginx::Nginx;
use crate::support::pki::Authority;
use crate::support::{Answer, Gateway, Reply, Setup, Upstream, python};

const PASSWORD: &str = "correct horse 1!";

/// The sign-in of an old program, as Flask serves it.
const BACKEND: &str = r#"
import sys
from flask import Flask, jsonify, request
from flask_jwt_extended import JWTManager, create_access_token
from waitress.server import create_server
from werkzeug.security import check_password_hash, generate_password_hash
users = {"ada@example.com": (7, generate_password_hash("correct horse 1!"), ["admin", "writer"])}
app = Flask(__name__)
@app.post("/login")
def login():
    body = request.get_json(silent=True) or request.form
    user = users.get(body.get("email"))
    if user is None or not check_password_hash(user[1], body.get("password", "")):
        return jsonify(error="bad email or password"), 401
    return jsonify(user={"id": user[0], "roles": user[2], "name": "Ada", "scopes": "read write", "first": "Ada"})
app.config["JWT_SECRET_KEY"] = "a secret that the gateway never learns"
JWTManager(app)
@app.post("/token")
def token():
    user = users.get(request.json.get("email"))
    if user is None or not check_password_hash(user[1], request.json.get("password", "")):
        return jsonify(msg="bad email or password"), 401
    more = {"realm_access": {"roles": user[2]}, "name": "Ada", "scope": "read write"}
    return jsonify(access_token=create_access_token(str(user[0]), additional_claims=more))
server = create_server(app, host="127.0.0.1", port=0)
print(server.effective_port, flush=True)
server.run()
"#;

/// Status, fields, body; no status: the bytes as they are.
type Scripted = (u16, Vec<(&'static str, String)>, Vec<u8>);

struct Backend {
    child: Child,
    address: SocketAddr,
}

impl Backend {
    fn start() -> Self {
        let requirements =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flask-legacy/requirements.txt");
        let mut child = Command::new(python::with("flask-legacy", &requirements))
            .args(["-c", BACKEND])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("the backend said {line:?}"));
        Self { child, address: ([127, 0, 0, 1], port).into() }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway(backend: SocketAddr, more: &str) -> Gateway {
    let api = Upstream::echo();
    Setup::new()
        .auth("user_fields = [\"firstname\"]")
        .section(&format!(
            "[auth.delegate]\nurl = \"http://{backend}/login\"\nsubject = \"/user/id\"\n\
             claims = {{ roles = \"/user/roles\", scope = \"/user/scopes\" }}\n\
             fields = {{ username = \"/user/name\", firstname = \"/user/first\" }}\n{more}\n\
             [auth.lockout]\nattempts = 3\n"
        ))
        .upstream("api", api.address())
        .route_with(
            "api",
            "/api",
            "api",
            "access",
            "scopes = [\"write\"]\nrequire_claims = { roles = \"admin\" }\n",
        )
        .start()
}

fn sign_in(gateway: &Gateway, email: &str, password: &str) -> Answer {
    gateway.post("/auth/signin").json(&json!({ "email": email, "password": password })).send()
}

#[test]
fn the_backend_checks_the_password_and_the_gateway_issues_and_revokes() {
    let backend = Backend::start();
    let gateway = gateway(backend.address, "");
    let wrong = sign_in(&gateway, "ada@example.com", "wrong").expect(401);
    assert_eq!(wrong.json()["error"], "Bad email or password");
    let account = Account::of(&sign_in(&gateway, "ada@example.com", PASSWORD).expect(200));
    assert_eq!(account.user["id"], "7");
    assert_eq!(account.user["username"], "Ada");
    assert_eq!(account.user["firstname"], "Ada");
    let claims = claims_of(&account.access);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!("7"), &json!("read write")));
    assert_eq!(claims["roles"], json!(["admin", "writer"]));
    gateway.get("/api").bearer(&account.access).send().expect(200);

    // A form is passed on as a form.
    let form = [("email", "ada@example.com"), ("password", PASSWORD)];
    let form = gateway.post("/auth/signin").form(&form).send().expect(200);
    let other = Account::of(&form);
    let me = gateway.get("/auth/me").bearer(&other.access).send().expect(200).json();
    assert_eq!(me["data"][0]["email"], "ada@example.com");
    let sessions = gateway.get("/auth/sessions").bearer(&other.access).send().expect(200).json();
    assert_eq!(sessions["data"].as_array().unwrap().len(), 2);

    // A refresh goes on with what the backend told.
    let refreshed = account.refreshed(&gateway).expect(200).json();
    let access = refreshed["data"][0]["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims_of(&access)["roles"], json!(["admin", "writer"]));
    gateway.get("/api").bearer(&access).send().expect(200);

    gateway.revoke(&json!({ "kind": "subject", "value": "7" }));
    gateway.get("/api").bearer(&access).send().expect(401);
    Account::of(&sign_in(&gateway, "ada@example.com", PASSWORD).expect(200));

    // Disabled here, whatever the backend says.
    gateway.admin("POST", "/admin/users/7/disable").send().expect(200);
    sign_in(&gateway, "ada@example.com", PASSWORD).expect(401);
    gateway.admin("POST", "/admin/users/7/enable").send().expect(200);

    // Passwords and accounts are the backend's.
    let fresh = Account::of(&sign_in(&gateway, "ada@example.com", PASSWORD).expect(200));
    let change = json!({ "password": PASSWORD, "new_password": "another horse 2!" });
    gateway.post("/auth/password").bearer(&fresh.access).json(&change).send().expect(403);
    let new = json!({ "email": "eve@example.com", "password": PASSWORD });
    gateway.post("/auth/signup").json(&new).send().expect(403);

    // Failures are counted as ever.
    for _ in 0..3 {
        sign_in(&gateway, "ada@example.com", "wrong").expect(401);
    }
    let locked = sign_in(&gateway, "ada@example.com", PASSWORD).expect(429);
    assert_eq!(locked.json()["code"], "locked_out");
}

#[test]
fn an_answer_that_is_not_what_it_must_be_signs_nobody_in() {
    let now: Arc<Mutex<Scripted>> = Arc::default();
    let backend = Upstream::new({
        let now = now.clone();
        move |_| {
            let (status, fields, body) = now.lock().unwrap().clone();
            if status == 0 { Reply::Raw(body) } else { Reply::Full(status, fields, body) }
        }
    });
    let gateway = gateway(backend.address(), "timeout = \"2s\"");
    let check = |status, fields: &[(&'static str, &str)], body: &[u8], expected: (u16, &str)| {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        *now.lock().unwrap() = (status, fields, body.to_vec());
        let answer = sign_in(&gateway, "ada@example.com", PASSWORD);
        let body = String::from_utf8_lossy(&body[..body.len().min(100)]);
        assert_eq!(answer.verdict(), (expected.0, expected.1.to_owned()), "{status} {body}");
        answer
    };
    let nonsense = (502, "upstream_protocol_error");
    // More often than failures are forgiven: none of this counts as one.
    for user in [
        json!({}),
        json!({ "id": { "$oid": "1" } }),
        json!({ "id": "" }),
        json!({ "id": true }),
        json!({ "id": 1.5 }),
        json!({ "id": "a\u{0}b" }),
        json!({ "id": "x".repeat(1025) }),
        json!({ "id": 1, "roles": "r".repeat(9000) }),
        json!({ "id": 1, "scopes": [1] }),
        json!({ "id": 1, "first": ["Ada"] }),
    ] {
        check(200, &[], json!({ "user": user }).to_string().as_bytes(), nonsense);
    }
    let good = br#"{"user":{"id":1}}"#;
    let huge = format!("{{\"user\":{{\"id\":1}},\"x\":\"{}\"}}", "y".repeat(300 * 1024));
    check(200, &[], huge.as_bytes(), nonsense);
    check(200, &[], "[".repeat(100_000).as_bytes(), nonsense);
    check(200, &[], b"<html>welcome</html>", nonsense);
    check(200, &[("Content-Encoding", "gzip")], good, nonsense);
    check(0, &[], b"SMTP ready\r\n\r\n", nonsense);
    check(302, &[("Location", "http://127.0.0.1:1/")], good, nonsense);
    check(500, &[], good, nonsense);
    check(405, &[], good, nonsense);
    let later = check(503, &[("Retry-After", "7")], good, (503, "overloaded"));
    assert_eq!(later.header("retry-after"), Some("7"));
    let slow = check(429, &[("Retry-After", "99999")], good, (429, "locked_out"));
    assert_eq!(slow.header("retry-after"), Some("3600"));
    let users = gateway.admin("GET", "/admin/users").send().expect(200).json();
    assert!(users["data"].as_array().unwrap().is_empty(), "{users}");
    for status in [400, 403, 404] {
        check(status, &[], good, (401, "bad_credentials"));
    }
    check(200, &[], good, (429, "locked_out"));
}

#[test]
fn a_backend_behind_a_private_authority_that_answers_with_a_token_alone_says_in_it_who_it_is() {
    let backend = Backend::start();
    let (ca, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let pair = ca.issue(&["127.0.0.1"]);
    let body = format!(
        "ssl_certificate a.pem; ssl_certificate_key a.key; location / {{ proxy_pass http://{}; }}",
        backend.address
    );
    let files: [(&str, &[u8]); 2] = [("a.pem", pair.cert.as_bytes()), ("a.key", pair.key.as_bytes())];
    let nginx = Nginx::start(&[("ssl", &body)], &files);
    let gateway = |trusted: &str| {
        Setup::new()
            .secret("ca.pem", &ca.pem)
            .secret("stranger.pem", &stranger.pem)
            .section(&format!(
                "[auth.delegate]\nurl = \"https://{}/token\"\n{trusted}\nsubject = \"/access_token#/sub\"\n\
                 claims = {{ roles = \"/access_token#/realm_access/roles\", scope = \"/access_token#/scope\" }}\n\
                 fields = {{ username = \"/access_token#/name\" }}\n",
                nginx.address(0)
            ))
            .start()
    };
    let trusting = gateway("ca_file = \"ca.pem\"");
    sign_in(&trusting, "ada@example.com", "wrong").expect(401);
    let account = Account::of(&sign_in(&trusting, "ada@example.com", PASSWORD).expect(200));
    assert_eq!((&account.user["id"], &account.user["username"]), (&json!("7"), &json!("Ada")));
    let claims = claims_of(&account.access);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!("7"), &json!("read write")));
    assert_eq!(claims["roles"], json!(["admin", "writer"]));
    // Its certificate is verified, by the system's authorities where no others are named.
    for untrusting in ["", "ca_file = \"stranger.pem\""] {
        let answer = sign_in(&gateway(untrusting), "ada@example.com", PASSWORD).expect(502);
        assert_eq!(answer.json()["code"], "upstream_unreachable");
    }
}

#[test]
fn an_answer_that_is_a_token_and_nothing_else_can_be_looked_into_and_what_only_looks_like_one_cannot() {
    let now: Arc<Mutex<Vec<u8>>> = Arc::default();
    let backend = Upstream::new({
        let now = now.clone();
        move |_| Reply::Full(200, Vec::new(), now.lock().unwrap().clone())
    });
    let gateway = Setup::new()
        .section(&format!(
            "[auth.delegate]\nurl = \"http://{}/login\"\nsubject = \"#/uid\"\n",
            backend.address()
        ))
        .start();
    // Expired, and signed with a key that nobody here knows: the channel vouches for it.
    let token = Key::secret("backend").token(&json!({ "uid": 42, "exp": 1 }));
    let check = |body: &str, expected: u16| {
        *now.lock().unwrap() = body.as_bytes().to_vec();
        sign_in(&gateway, "ada@example.com", PASSWORD).expect(expected)
    };
    for body in [token.clone(), format!("{token}\n"), json!(token).to_string()] {
        assert_eq!(Account::of(&check(&body, 200)).user["id"], "42");
    }
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    for body in [
        format!("{head}.{claims}"),
        format!("{head}.{claims}.{signature}.x.y"),
        format!("{head}.{claims}=.{signature}"),
        format!("{head}.{head}.{signature}"),
        "a.b.c".to_owned(),
        json!({ "uid": 42 }).to_string(),
        json!([token]).to_string(),
    ] {
        assert_eq!(check(&body, 502).json()["code"], "upstream_protocol_error", "{body}");
    }
}

#[test]
fn a_backend_that_is_away_or_never_ends_is_told_from_a_wrong_password() {
    let away = gateway(Upstream::nobody(), "");
    let answer = sign_in(&away, "ada@example.com", PASSWORD).expect(502);
    assert_eq!(answer.json()["code"], "upstream_unreachable");

    let dripping = Upstream::raw(|mut stream, _| {
        // An answer that comes before its request is another fault.
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let gateway = gateway(dripping.address(), "timeout = \"1s\"");
    let began = Instant::now();
    let answer = sign_in(&gateway, "ada@example.com", PASSWORD).expect(504);
    assert_eq!(answer.json()["code"], "upstream_timeout");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn the_backend_is_told_the_account_and_the_password_alone() {
    let backend = Upstream::new(|_| Reply::json(&json!({ "user": { "id": "u-1" } })));
    let gateway = gateway(backend.address(), "pass = [\"otp\"]");
    let body =
        json!({ "email": "ada@example.com", "password": PASSWORD, "username": "victim", "otp": "123456" });
    gateway.post("/auth/signin").header("Cookie", "a=b").bearer("x.y.z").json(&body).send().expect(200);
    let told = backend.nth(1);
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(body, json!({ "email": "ada@example.com", "password": PASSWORD, "otp": "123456" }));
    assert_eq!(told.one("x-forwarded-for"), "127.0.0.1");
    assert!(told.all("cookie").is_empty() && told.all("authorization").is_empty());
    // What is nobody's account is not asked about.
    sign_in(&gateway, "a\u{7}b", PASSWORD).expect(401);
    gateway.post("/auth/signin").json(&json!({ "email": "a@b.co" })).send().expect(400);
    assert_eq!(backend.received().len(), 1);
}
