//! Accounts as the operator manages them (CONTRACT §6 `/admin/users`, §7 `users`), and passwords that come along from
//! Django, Werkzeug and bcrypt.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::http::encoded;
use crate::support::jwt::claims_of;
use crate::support::upstream::receive;
use crate::support::{Account, Answer, Gateway, Setup, Upstream, python};

/// Hashes that cost next to nothing: they are not what is tested here.
const CHEAP: &str = "[auth.password]\nargon2 = { memory = \"64KiB\", iterations = 1, parallelism = 1 }";

fn setup(auth: &str) -> Setup {
    let upstream = Upstream::echo();
    let setup = Setup::new().auth(auth).upstream("api", upstream.address());
    setup.route("api", "/api", "api", "access").section(CHEAP)
}

fn through(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/api").bearer(token).send().verdict()
}

fn revoked() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

fn sign_in(gateway: &Gateway, email: &str, password: &str) -> Answer {
    gateway.post("/auth/signin").json(&json!({ "email": email, "password": password })).send()
}

/// `POST /admin/users/{id}/ACTION`.
fn act(gateway: &Gateway, account: &Account, action: &str, body: &Value) -> Answer {
    let id = account.user["id"].as_str().unwrap();
    gateway.admin("POST", &format!("/admin/users/{id}/{action}")).json(body).send()
}

#[test]
fn a_disabled_account_is_refused_on_the_next_request_and_its_streams_end() {
    let streaming = Upstream::raw(|mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n").unwrap();
        // Until the gateway ends it.
        let _ = stream.read(&mut [0]);
    });
    let gateway =
        setup("").upstream("streams", streaming.address()).route("s", "/s", "streams", "access").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let other = Account::sign_up(&gateway, "other@example.com");
    assert_eq!(through(&gateway, &ada.access).0, 200);
    let mut stream = gateway.connect();
    stream.send(gateway.get("/s").bearer(&ada.access).bytes());
    stream.read_until("the stream to begin", |bytes| bytes.windows(5).any(|window| window == b"begun"));

    let answer = act(&gateway, &ada, "disable", &json!({ "reason": "left" })).expect(200).json();
    assert_eq!((&answer["disabled"], &answer["live_sessions"]), (&json!(true), &json!(0)));
    assert_eq!(through(&gateway, &ada.access), revoked());
    assert!(stream.closed(), "its stream ends");
    assert_eq!(ada.refreshed(&gateway).verdict(), revoked());
    // The same words as for nobody's account.
    let (locked, nobody) = (
        sign_in(&gateway, "ada@example.com", PASSWORD).expect(401),
        sign_in(&gateway, "nobody@example.com", PASSWORD).expect(401),
    );
    assert_eq!(locked.json()["error"], nobody.json()["error"]);
    assert_eq!(through(&gateway, &other.access).0, 200);
    let entry = gateway.entry("subject", ada.user["id"].as_str().unwrap(), "self").expect(200).json();
    assert_eq!((&entry["reason"], &entry["actor"]), (&json!("left"), &json!("admin")));

    act(&gateway, &ada, "enable", &json!({})).expect(200);
    assert_eq!(through(&gateway, &ada.access), revoked(), "what was revoked stays revoked");
    assert_eq!(through(&gateway, &Account::sign_in(&gateway, "ada@example.com").access).0, 200);
}

#[test]
fn revoking_setting_a_password_and_deleting_end_what_was_issued_before() {
    let gateway = setup("").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    act(&gateway, &ada, "revoke", &json!({})).expect(200);
    assert_eq!(through(&gateway, &ada.access), revoked());
    let again = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &again.access).0, 200, "at once, in the same second");

    act(&gateway, &ada, "password", &json!({ "password": "short" })).expect_problem(400, "invalid_request");
    assert_eq!(through(&gateway, &again.access).0, 200, "nothing happens for a password that is none");
    act(&gateway, &ada, "password", &json!({ "password": "an0ther-pass!word" })).expect(200);
    assert_eq!(through(&gateway, &again.access), revoked());
    sign_in(&gateway, "ada@example.com", PASSWORD).expect_problem(401, "bad_credentials");
    let newest = Account::of(&sign_in(&gateway, "ada@example.com", "an0ther-pass!word").expect(200));

    let path = format!("/admin/users/{}", ada.user["id"].as_str().unwrap());
    gateway.admin("DELETE", &path).send().expect(200);
    assert_eq!(through(&gateway, &newest.access), revoked());
    assert_eq!(newest.refreshed(&gateway).status, 401);
    sign_in(&gateway, "ada@example.com", "an0ther-pass!word").expect_problem(401, "bad_credentials");
    for (method, path) in
        [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/disable"))]
    {
        gateway.admin(method, &path).send().expect_problem(404, "not_found");
    }
    // The email is free again, and what its former owner has stays refused.
    let new = Account::sign_up(&gateway, "ada@example.com");
    assert_eq!((through(&gateway, &new.access).0, through(&gateway, &newest.access)), (200, revoked()));
}

#[test]
fn revocations_of_accounts_survive_a_kill() {
    let mut gateway = setup("").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    act(&gateway, &ada, "disable", &json!({})).expect(200);
    gateway.kill9();
    gateway.restart();
    assert_eq!(through(&gateway, &ada.access), revoked());
    sign_in(&gateway, "ada@example.com", PASSWORD).expect(401);
}

#[test]
fn accounts_are_made_and_listed() {
    let gateway = setup(r#"user_fields = ["firstname"]"#).start();
    let create = |body: &Value| gateway.admin("POST", "/admin/users").json(body).send();
    let body = json!({ "email": "b@example.com", "password": PASSWORD, "scope": "admin", "firstname": "Bo" });
    let made = create(&body).expect(201).json();
    assert_eq!(
        (&made["firstname"], &made["scope"], &made["username"]),
        (&json!("Bo"), &json!("admin"), &json!("b@example.com"))
    );
    create(&body).expect_problem(409, "conflict");
    create(&json!({ "email": "x@example.com" })).expect_problem(400, "invalid_request");
    create(&json!({ "email": "x@example.com", "password": PASSWORD, "colour": "red" })).expect(400);
    create(&json!({ "email": "a@example.com", "password": PASSWORD, "id": "legacy-7" })).expect(201);
    assert_eq!(Account::sign_in(&gateway, "a@example.com").user["id"], "legacy-7");
    // The scope is in the access token: it may prune.
    let admin = Account::sign_in(&gateway, "b@example.com");
    gateway.call("DELETE", "/auth/tokens").bearer(&admin.access).send().expect(200);

    let list = |query: &str| gateway.admin("GET", &format!("/admin/users{query}")).send().expect(200).json();
    let first = list("?limit=1");
    assert_eq!(
        (&first["data"][0]["email"], first["data"].as_array().unwrap().len()),
        (&json!("a@example.com"), 1)
    );
    let second = list(&format!("?limit=1&after={}", encoded(first["next"].as_str().unwrap())));
    assert_eq!((&second["data"][0]["email"], &second["next"]), (&json!("b@example.com"), &Value::Null));
    assert_eq!(list("?email=B%40Example.com")["data"][0]["id"], made["id"]);
    assert_eq!(list("?email=c%40example.com")["data"], json!([]));
    assert!(!list("").to_string().contains("$argon2"));
    gateway.admin("GET", "/admin/users?colour=red").send().expect(400);
    let show = gateway.admin("GET", "/admin/users/legacy-7").send().expect(200).json();
    assert_eq!(show["live_sessions"], 1);
}

#[test]
fn a_strict_registry_refuses_what_the_store_has_forgotten() {
    let mut gateway = setup("registry = \"strict\"").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &ada.access).0, 200);
    // A store that was restored from before the sign-up.
    gateway.kill9();
    for name in ["portcullis.db", "portcullis.db-wal", "portcullis.db-shm"] {
        let _ = fs::remove_file(gateway.dir().join("state").join(name));
    }
    gateway.restart();
    assert_eq!(through(&gateway, &ada.access).0, 401);
    assert_eq!(ada.refreshed(&gateway).status, 401);
}

#[test]
fn of_too_many_sessions_the_oldest_live_one_goes() {
    let gateway = setup("max_sessions_per_user = 2").start();
    let logins: Vec<Account> = std::iter::once(Account::sign_up(&gateway, "ada@example.com"))
        .chain((0..1).map(|_| Account::sign_in(&gateway, "ada@example.com")))
        .collect();
    // The operator ends the younger one past the store: it takes nobody's place any more.
    let session = claims_of(&logins[1].access)["sid"].clone();
    gateway.revoke(&json!({ "kind": "session", "value": session }));
    let third = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &logins[0].access).0, 200, "two are live");
    let fourth = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(through(&gateway, &logins[0].access), revoked());
    for login in [&third, &fourth] {
        assert_eq!(through(&gateway, &login.access).0, 200);
    }
}

/// All sessions of a subject go in one batch, and this many were more than the log took in one.
#[test]
fn a_subject_with_twenty_thousand_sessions_can_be_revoked() {
    let gateway = setup("").start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let subject = ada.user["id"].as_str().unwrap();
    let add = |name: &str| {
        let mut store = rusqlite::Connection::open(gateway.dir().join("state/portcullis.db")).unwrap();
        store.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        let all = store.transaction().unwrap();
        for number in 0..20_000 {
            all.execute(
                "INSERT INTO sessions (id, subject, created, expires, user_agent, address)
                 SELECT ?1, subject, created, expires, '', '' FROM sessions WHERE subject = ?2 LIMIT 1",
                (format!("{name}-{number}"), subject),
            )
            .unwrap();
        }
        all.commit().unwrap();
    };
    add("a");
    gateway.post("/auth/logout-all").bearer(&ada.access).send().expect(200);
    assert_eq!(through(&gateway, &ada.access), revoked());
    gateway.entry("session", "a-19999", "self").expect(200);
    add("b");
    gateway.revoke(&json!({ "kind": "subject", "value": subject }));
    gateway.entry("session", "b-19999", "self").expect(200);
    add("c");
    act(&gateway, &ada, "disable", &json!({})).expect(200);
    gateway.entry("session", "c-19999", "self").expect(200);
    let show = gateway.admin("GET", &format!("/admin/users/{subject}")).send().expect(200).json();
    assert_eq!((&show["live_sessions"], &show["disabled"]), (&json!(0), &json!(true)));
}

#[test]
fn changing_ones_password_revokes_ones_other_sessions() {
    let gateway = setup("").start();
    let here = Account::sign_up(&gateway, "ada@example.com");
    let there = Account::sign_in(&gateway, "ada@example.com");
    let body = json!({ "password": PASSWORD, "new_password": "an0ther-pass!word" });
    gateway.post("/auth/password").bearer(&here.access).json(&body).send().expect(200);
    assert_eq!(through(&gateway, &here.access).0, 200);
    assert_eq!(through(&gateway, &there.access), revoked());
    assert_eq!(there.refreshed(&gateway).verdict(), revoked());
    sign_in(&gateway, "ada@example.com", PASSWORD).expect(401);
}

/// Makes hashes with the programs themselves: a JSON object of name to hash.
const MAKE: &str = r#"
import json, sys
from django.conf import settings
settings.configure()
from django.contrib.auth import hashers
from werkzeug.security import generate_password_hash
import bcrypt
password = sys.argv[1]
def django(hasher, **parameters):
    hasher = hasher()
    for name, value in parameters.items():
        setattr(hasher, name, value)
    return hasher.encode(password, hasher.salt())
made = {
    "django-sha256": django(hashers.PBKDF2PasswordHasher, iterations=2000),
    "django-sha1": django(hashers.PBKDF2SHA1PasswordHasher, iterations=2000),
    "django-scrypt": django(hashers.ScryptPasswordHasher, work_factor=64),
    "django-bcrypt": django(hashers.BCryptSHA256PasswordHasher, rounds=4),
    "werkzeug-pbkdf2": generate_password_hash(password, "pbkdf2:sha256:2000"),
    "werkzeug-scrypt": generate_password_hash(password, "scrypt"),
    "bcrypt": bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode(),
}
json.dump(made, sys.stdout)
"#;

fn made_elsewhere(password: &str) -> serde_json::Map<String, Value> {
    let requirements =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/password-hashes/requirements.txt");
    let python = python::with("password-hashes", &requirements);
    let output = Command::new(python).args(["-c", MAKE, password]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn passwords_of_other_programs_come_along_and_become_ours() {
    let password = "Žluťoučký kůň 7!";
    let hashes = made_elsewhere(password);
    let port = Upstream::nobody().port();
    let setup = setup(r#"user_fields = ["firstname"]"#);
    let toml = setup
        .toml()
        .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"127.0.0.1:{port}\""));
    let gateway = setup.start_with(&toml);
    let email = |name: &str| format!("{name}@example.com");
    let mut csv = "email,password_hash,firstname,scope\n".to_owned();
    for (name, hash) in &hashes {
        csv += &format!("{},{},\"Ada, the {name}\",read write\n", email(name), hash.as_str().unwrap());
    }
    csv += "nobody,$2b$04$,,\nslow@example.com,pbkdf2_sha256$999999999$salt$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=,,\n";
    fs::write(gateway.dir().join("users.csv"), csv).unwrap();
    let import = || gateway.cli(&["users", "import", "users.csv", "--json"]).expect(1);
    let told = import();
    assert_eq!(told.json(), json!({ "created": hashes.len(), "skipped": 0, "failed": 2 }));
    let lines: Vec<Value> = told.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((&lines[0]["line"], &lines[1]["line"]), (&json!(hashes.len() + 2), &json!(hashes.len() + 3)));
    assert!(lines[1]["error"].as_str().unwrap().contains("999999999 iterations"), "{}", told.stderr);
    assert_eq!(import().json(), json!({ "created": 0, "skipped": hashes.len(), "failed": 2 }));

    for name in hashes.keys() {
        let kind = || {
            let path = format!("/admin/users?email={}", encoded(&email(name)));
            gateway.admin("GET", &path).send().expect(200).json()["data"][0]["password_kind"].clone()
        };
        assert_ne!(kind(), "argon2id", "{name}");
        sign_in(&gateway, &email(name), "Žluťoučký kůň 8!").expect_problem(401, "bad_credentials");
        assert_ne!(kind(), "argon2id", "{name}: only who knows the password makes the hash anew");
        let answer = sign_in(&gateway, &email(name), password).expect(200);
        assert_eq!(answer.json()["data"][0]["user"]["firstname"], format!("Ada, the {name}"));
        assert_eq!(kind(), "argon2id", "{name}");
        sign_in(&gateway, &email(name), password).expect(200);
    }
    // Whoever has no account hears the same.
    sign_in(&gateway, "nobody@example.com", password).expect_problem(401, "bad_credentials");

    // And the other commands, over the same listener.
    let run =
        |arguments: &[&str]| gateway.cli(&[&["users"], arguments, &["--json"]].concat()).expect(0).json();
    assert_eq!(run(&["list", "--limit", "3"])["data"].as_array().unwrap().len(), 3);
    fs::write(gateway.dir().join("password"), format!("{PASSWORD}\n")).unwrap();
    let made = run(&["create", "eve@example.com", "--password-file", "password", "--field", "firstname=Eve"]);
    let eve = Account::sign_in(&gateway, "eve@example.com");
    assert_eq!((&eve.user["id"], &eve.user["firstname"]), (&made["id"], &json!("Eve")));
    assert_eq!(run(&["disable", "eve@example.com", "--reason", "left"])["disabled"], true);
    assert_eq!(through(&gateway, &eve.access), revoked());
    assert_eq!(run(&["enable", made["id"].as_str().unwrap()])["disabled"], false);
    run(&["password", "eve@example.com", "--password-file", "password"]);
    run(&["revoke", "eve@example.com"]);
    assert_eq!(run(&["delete", "eve@example.com"])["deleted"], true);
    assert!(gateway.cli(&["users", "delete", "eve@example.com"]).expect(1).stderr.contains("no user"));
    let written = gateway.stderr() + &gateway.stdout();
    assert!(!written.contains("$2b$") && !written.contains(PASSWORD) && !written.contains(password));
}
