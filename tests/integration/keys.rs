//! The gateway's own keys (CONTRACT §6 `/admin/keys`): rotated, retired, taken in, and never a request lost.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::jwt::header_of;
use crate::support::{Account, Gateway, Setup, Upstream, wait_for};

/// Hashes that cost next to nothing: they are not what is tested here.
const CHEAP: &str = "[auth.password]\nargon2 = { memory = \"64KiB\", iterations = 1, parallelism = 1 }";

fn start() -> Gateway {
    let upstream = Upstream::echo();
    let setup = Setup::new().upstream("api", upstream.address()).route("api", "/api", "api", "access");
    setup.section(CHEAP).start()
}

fn through(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/api").bearer(token).send().verdict()
}

fn kid(token: &str) -> String {
    header_of(token)["kid"].as_str().unwrap().to_owned()
}

#[track_caller]
fn rotate(gateway: &Gateway, body: &Value) -> String {
    let answer = gateway.admin("POST", "/admin/keys/rotate").json(body).send().expect(200).json();
    assert_eq!(answer["state"], "signing");
    answer["kid"].as_str().unwrap().to_owned()
}

#[track_caller]
fn states(gateway: &Gateway) -> Vec<(String, String)> {
    let answer = gateway.admin("GET", "/admin/keys").send().expect(200).json();
    assert_eq!(answer["next"], Value::Null);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = answer["data"].as_array().unwrap();
    rows.iter().map(|row| (text(&row["kid"]), text(&row["state"]))).collect()
}

fn published(gateway: &Gateway) -> Vec<String> {
    let jwks = gateway.get("/.well-known/jwks.json").send().expect(200).json();
    let keys = jwks["keys"].as_array().unwrap();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn no_request_fails_while_keys_rotate() {
    let gateway = start();
    let account = Account::sign_up(&gateway, "ada@example.com");
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..3 {
            let (gateway, account, stop, calls) = (&gateway, &account, &stop, &calls);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(through(gateway, &account.access), (200, String::new()));
                    if worker == 0 {
                        let fresh = Account::sign_in(gateway, "ada@example.com");
                        assert_eq!(through(gateway, &fresh.access), (200, String::new()));
                        fresh.refreshed(gateway).expect(200);
                    }
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..5 {
            rotate(&gateway, &json!({}));
            let so_far = calls.load(Ordering::SeqCst);
            wait_for("more calls", || (calls.load(Ordering::SeqCst) > so_far + 5).then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(states(&gateway).len(), 6);
    assert_eq!(published(&gateway).len(), 6);
}

#[test]
fn a_rotated_key_verifies_until_its_overlap_ends() {
    let gateway = start();
    let first = Account::sign_up(&gateway, "ada@example.com").access;
    let signing = rotate(&gateway, &json!({}));
    let second = Account::sign_in(&gateway, "ada@example.com").access;
    assert_eq!(kid(&second), signing);
    // Both are cached now.
    for token in [&first, &second] {
        assert_eq!(through(&gateway, token).0, 200);
    }
    let third = rotate(&gateway, &json!({ "overlap": "0s" }));
    assert_eq!(through(&gateway, &second), (401, "token_invalid".to_owned()));
    assert_eq!(through(&gateway, &first).0, 200, "its own overlap goes on");
    let state = |kid: &str| states(&gateway).into_iter().find(|(id, _)| id == kid).unwrap().1;
    assert_eq!(
        (state(&kid(&first)), state(&signing), state(&third)),
        ("verifying".to_owned(), "expired".to_owned(), "signing".to_owned())
    );
    let published = published(&gateway);
    assert!(published.contains(&kid(&first)) && published.contains(&third) && !published.contains(&signing));
    for body in [json!({ "overlap": "soon" }), json!({ "overlap": -1 }), json!({ "more": 1 }), json!([])] {
        let answer = gateway.admin("POST", "/admin/keys/rotate").json(&body).send();
        answer.expect_problem(400, "invalid_request");
    }
    assert_eq!(states(&gateway).len(), 3);
}

#[test]
fn a_retired_key_verifies_nothing_from_the_next_request_on() {
    let mut gateway = start();
    let token = Account::sign_up(&gateway, "ada@example.com").access;
    let old = kid(&token);
    assert_eq!(through(&gateway, &token).0, 200);
    let retire = |gateway: &Gateway, kid: &str, body: Value| {
        gateway.admin("POST", &format!("/admin/keys/{kid}/retire")).json(&body).send()
    };
    let answer = retire(&gateway, &old, json!({})).expect(200).json();
    assert_eq!((&answer["state"], &answer["revoked"]), (&json!("retired"), &json!(false)));
    assert_eq!(through(&gateway, &token), (401, "token_invalid".to_owned()));
    assert_eq!(gateway.get("/auth/me").bearer(&token).send().status, 422);
    assert_eq!(published(&gateway), [answer["signing"].as_str().unwrap()]);
    assert_eq!(through(&gateway, &Account::sign_in(&gateway, "ada@example.com").access).0, 200);
    retire(&gateway, "nobody", json!({})).expect_problem(404, "not_found");

    // Taken in again it verifies what it signed, for nothing was revoked.
    let file = fs::read_to_string(gateway.dir().join(format!("state/keys/key-{old}.json"))).unwrap();
    let pem = serde_json::from_str::<Value>(&file).unwrap()["private_key"].clone();
    let import = |gateway: &Gateway| {
        gateway.admin("POST", "/admin/keys/import").json(&json!({ "key": pem })).send().expect(200).json()
    };
    assert_eq!(import(&gateway)["kid"], *old);
    assert_eq!(through(&gateway, &token).0, 200);

    // Revoked, it may come back as often as it likes; also after a restart.
    let answer = retire(&gateway, &old, json!({ "revoke": true, "reason": "leaked" })).expect(200).json();
    assert_eq!(answer["revoked"], true);
    let entry = gateway.entry("key", &old, "self").expect(200).json();
    assert_eq!((&entry["reason"], &entry["sequence"]), (&json!("leaked"), &answer["sequence"]));
    gateway.restart();
    assert_eq!(through(&gateway, &token), (401, "token_invalid".to_owned()));
    import(&gateway);
    assert_eq!(through(&gateway, &token), (401, "token_revoked".to_owned()));
    // It signs again, and what it signs after the second of the cutoff is good.
    wait_for("a token behind the cutoff", || {
        let token = Account::sign_in(&gateway, "ada@example.com").access;
        assert_eq!(kid(&token), old);
        (through(&gateway, &token).0 == 200).then_some(())
    });
    assert!(!gateway.stderr().contains("PRIVATE KEY"));
}

#[test]
fn keys_come_in_as_pem_and_as_jwk_and_nothing_else_does() {
    let gateway = start();
    let import = |body: &Value| gateway.admin("POST", "/admin/keys/import").json(body).send();
    // RFC 7517 appendix A.2 (the EC key) and RFC 8037 appendix A.1.
    let ec = json!({ "kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE" });
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let answer = import(&json!({ "key": ec })).expect(200).json();
    assert_eq!((&answer["algorithm"], &answer["state"]), (&json!("ES256"), &json!("signing")));
    let token = Account::sign_up(&gateway, "ada@example.com").access;
    assert_eq!((kid(&token), through(&gateway, &token).0), (answer["kid"].as_str().unwrap().to_owned(), 200));
    // RFC 8037 appendix A.3.
    let answer = import(&json!({ "key": ed })).expect(200).json();
    assert_eq!(answer["kid"], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!((&answer["algorithm"], &answer["state"]), (&json!("EdDSA"), &json!("verifying")));

    let mut wrong = ec.clone();
    wrong["d"] = json!("AAMB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAEE");
    let mut public = ec.clone();
    public.as_object_mut().unwrap().remove("d");
    for body in [
        json!({ "key": wrong }),
        json!({ "key": public }),
        json!({ "key": ec, "algorithm": "EdDSA" }),
        json!({ "key": ec, "algorithm": "none" }),
        json!({ "key": { "kty": "oct", "k": "c2hvcnQ" }, "algorithm": "HS256" }),
        json!({ "key": { "kty": "oct", "k": "c2hvcnQ" } }),
        json!({ "key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" }),
        json!({ "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" }),
        json!({ "key": 7 }),
        json!({}),
    ] {
        let answer = import(&body).expect_problem(400, "invalid_request");
        assert!(!answer.text().contains("gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"), "{}", answer.text());
    }
    assert_eq!(states(&gateway).len(), 3);
}

#[test]
fn changes_at_once_are_all_there_and_one_key_signs() {
    let gateway = start();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| rotate(&gateway, &json!({})));
        }
    });
    let states = states(&gateway);
    let count = |state: &str| states.iter().filter(|(_, is)| is == state).count();
    assert_eq!((states.len(), count("signing"), count("verifying")), (7, 1, 6));
}

#[test]
fn the_key_set_is_kept_by_clients_until_it_changes() {
    let gateway = start();
    let path = "/.well-known/jwks.json";
    let first = gateway.get(path).send().expect(200);
    assert_eq!(first.header("cache-control"), Some("public, max-age=300"));
    let tag = first.header("etag").unwrap().to_owned();
    let again = gateway.get(path).header("if-none-match", &tag).send();
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(&*tag)));
    rotate(&gateway, &json!({}));
    let changed = gateway.get(path).header("if-none-match", &tag).send().expect(200);
    assert_ne!(changed.header("etag"), Some(&*tag));
}

#[test]
fn the_commands_do_the_same_with_and_without_a_gateway() {
    let mut gateway = start();
    let token = Account::sign_up(&gateway, "ada@example.com").access;
    let first = kid(&token);
    let run = |gateway: &Gateway, arguments: &[&str]| {
        gateway.cli(&[&["keys"], arguments, &["--json"]].concat()).expect(0).json()
    };
    // The admin listener has a port of its own choosing, which no command can know: so the gateway stops first.
    gateway.kill9();
    let second = run(&gateway, &["rotate", "--overlap", "1h"])["kid"].as_str().unwrap().to_owned();
    let listed = run(&gateway, &[]);
    assert_eq!((&listed["data"][0]["kid"], &listed["data"][1]["kid"]), (&json!(second), &json!(first)));
    gateway.restart();
    assert_eq!(through(&gateway, &token).0, 200);
    assert_eq!(kid(&Account::sign_in(&gateway, "ada@example.com").access), second);
    gateway.kill9();
    let file = fs::read_to_string(gateway.dir().join(format!("state/keys/key-{first}.json"))).unwrap();
    let pem = serde_json::from_str::<Value>(&file).unwrap()["private_key"].as_str().unwrap().to_owned();
    fs::write(gateway.dir().join("old.pem"), pem).unwrap();
    assert_eq!(run(&gateway, &["retire", &first, "--revoke"])["state"], "retired");
    assert_eq!(run(&gateway, &["import", "old.pem"])["kid"], *first);
    gateway.restart();
    assert_eq!(through(&gateway, &token), (401, "token_revoked".to_owned()));
    gateway.kill9();
    let failed = gateway.cli(&["keys", "retire", "nobody"]).expect(1);
    assert!(failed.stderr.contains("there is no key \"nobody\""), "{}", failed.stderr);
}
