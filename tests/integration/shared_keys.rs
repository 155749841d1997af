//! Signing keys that gateways share in PostgreSQL (docs/keys.md): what one gateway does to them holds for all, and no
//! token is refused on the way.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::jwt::{claims_of, header_of};
use crate::support::postgres::Postgres;
use crate::support::{Account, Gateway, Setup, Upstream, wait_for};

/// As `openssl rand -base64 32` prints it.
const KEK: &str = "q0Tqk0vY2m9yJc4mWc1p4b1mQf0Z8s0m3pJb7bq3h5M=\n";
const OTHER_KEK: &str = "8m2p0yq3mXc5n7Vb1kL9t4RzW6sEoUj2gHdA0fKxPiQ=\n";
const CHEAP: &str = "[auth.password]\nargon2 = { memory = \"64KiB\", iterations = 1, parallelism = 1 }";

fn setup(server: &Postgres, upstream: &Upstream) -> Setup {
    Setup::new()
        .section(&format!("[store]\nurl = \"{}\"", server.url()))
        // New gateways beside others: what was revoked before they came is not what these tests are about.
        .section("[revocation]\non_lost_state = \"empty\"")
        .section(CHEAP)
        .upstream("api", upstream.address())
        .route("api", "/api", "api", "access")
}

fn sharing(server: &Postgres, upstream: &Upstream) -> Setup {
    setup(server, upstream).secret("kek", KEK).auth("key_encryption_file = \"kek\"")
}

fn through(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/api").bearer(token).send().verdict()
}

fn kid(token: &str) -> String {
    header_of(token)["kid"].as_str().unwrap().to_owned()
}

fn rotate(gateway: &Gateway) -> String {
    let answer = gateway.admin("POST", "/admin/keys/rotate").json(&json!({})).send().expect(200).json();
    assert_eq!(answer["state"], "signing");
    answer["kid"].as_str().unwrap().to_owned()
}

fn published(gateway: &Gateway) -> Vec<String> {
    let jwks = gateway.get("/.well-known/jwks.json").send().expect(200).json();
    let mut ids: Vec<String> =
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn gateways_that_start_at_once_sign_with_one_key_that_no_disk_has_in_clear() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let setups: Vec<Setup> = (0..3).map(|_| sharing(&server, &upstream)).collect();
    let gateways: Vec<Gateway> = thread::scope(|scope| {
        let starts: Vec<_> = setups.into_iter().map(|setup| scope.spawn(|| setup.start())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let ada = Account::sign_up(&gateways[0], "ada@example.com");
    for gateway in &gateways {
        assert_eq!(through(gateway, &ada.access), (200, String::new()));
        assert_eq!(published(gateway), [kid(&ada.access)]);
        assert_eq!(kid(&Account::sign_in(gateway, "ada@example.com").access), kid(&ada.access));
        assert!(!gateway.dir().join("state/keys").exists());
        assert!(!gateway.stderr().contains("signing keys are files"), "nothing to warn of");
    }
    let stored = server.sql("SELECT encode(sealed, 'escape') FROM portcullis.safe");
    assert!(stored.contains("PSEA") && !stored.contains("PRIVATE"), "{stored}");
}

#[test]
fn a_rotation_anywhere_fails_no_request_anywhere() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let (one, two) = (sharing(&server, &upstream).start(), sharing(&server, &upstream).start());
    Account::sign_up(&one, "ada@example.com");
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (here, there) in [(&one, &two), (&two, &one)] {
            let (stop, calls) = (&stop, &calls);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    // Issued here, and shown there the very next moment: by each of the ways that a token takes.
                    let ada = Account::sign_in(here, "ada@example.com");
                    assert_eq!(through(there, &ada.access), (200, String::new()));
                    there.get("/auth/me").bearer(&ada.access).send().expect(200);
                    ada.refreshed(there).expect(200);
                    there.post("/auth/logout").bearer(&ada.access).send().expect(200);
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..8 {
            rotate(if round % 2 == 0 { &one } else { &two });
            let so_far = calls.load(Ordering::SeqCst);
            wait_for("more calls", || (calls.load(Ordering::SeqCst) > so_far + 4).then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let all = published(&one);
    assert_eq!(all.len(), 9);
    wait_for("every gateway to publish all keys", || (published(&two) == all).then_some(()));
}

#[test]
fn what_is_retired_or_taken_in_on_one_gateway_is_so_on_all() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let (one, mut two) = (sharing(&server, &upstream).start(), sharing(&server, &upstream).start());
    let ada = Account::sign_up(&one, "ada@example.com");
    let old = kid(&ada.access);
    assert_eq!(through(&two, &ada.access).0, 200);
    one.admin("POST", &format!("/admin/keys/{old}/retire")).json(&json!({})).send().expect(200);
    assert_eq!(through(&one, &ada.access), (401, "token_invalid".to_owned()));
    wait_for("the other one to refuse it", || {
        (through(&two, &ada.access) == (401, "token_invalid".to_owned())).then_some(())
    });
    assert_ne!(kid(&Account::sign_in(&two, "ada@example.com").access), old);

    // RFC 7517 appendix A.2.
    let ec = json!({ "kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE" });
    let answer =
        two.admin("POST", "/admin/keys/import").json(&json!({ "key": ec })).send().expect(200).json();
    let imported = answer["kid"].as_str().unwrap();
    let token = Account::sign_in(&two, "ada@example.com").access;
    assert_eq!((&*kid(&token), through(&one, &token).0), (imported, 200));
    wait_for("the other one to sign with it", || {
        (kid(&Account::sign_in(&one, "ada@example.com").access) == imported).then_some(())
    });

    // The commands do the same without a gateway, and the running one takes it up.
    two.kill9();
    let made = two.cli(&["keys", "rotate", "--json"]).expect(0).json()["kid"].as_str().unwrap().to_owned();
    wait_for("the running one to sign with it", || {
        (kid(&Account::sign_in(&one, "ada@example.com").access) == made).then_some(())
    });
    let listed = two.cli(&["keys", "--json"]).expect(0).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 4);
}

#[test]
fn a_refresh_retried_on_another_gateway_gets_the_same_successor_and_reuse_is_caught_there() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let (one, two) = (sharing(&server, &upstream).start(), sharing(&server, &upstream).start());
    let ada = Account::sign_up(&one, "ada@example.com");
    let successor = |gateway: &Gateway| {
        let answer = ada.refreshed(gateway).expect(200).json();
        let text = answer["data"][0]["refresh_token"].as_str().unwrap().to_owned();
        let claims = claims_of(&text);
        (["jti", "iat", "exp", "sid"].map(|name| claims[name].clone()), text)
    };
    let (first, text) = successor(&one);
    rotate(&one);
    let (again, other) = successor(&two);
    assert_eq!(first, again);
    // Whichever of the two came first to the client: either is the token.
    two.post("/auth/refresh").bearer(&other).send().expect(200);
    // The successor was used: now the first one comes from a thief, and on the other gateway.
    ada.refreshed(&one).expect_problem(401, "token_revoked");
    for token in [&text, &ada.access] {
        assert_eq!(one.get("/auth/me").bearer(token).send().status, if token == &text { 422 } else { 401 });
    }
}

#[test]
fn a_store_that_is_away_keeps_no_known_token_out_and_lets_no_unknown_one_in() {
    let (mut server, upstream) = (Postgres::start(), Upstream::echo());
    let (one, two) = (sharing(&server, &upstream).start(), sharing(&server, &upstream).start());
    let ada = Account::sign_up(&one, "ada@example.com");
    assert_eq!(through(&two, &ada.access).0, 200);
    // A token of a key that the store does not have, by the same issuer.
    let stranger = Setup::new().section(CHEAP).start();
    let forged = Account::sign_up(&stranger, "eve@example.com").access;
    assert_eq!(through(&two, &forged), (401, "token_invalid".to_owned()));
    server.kill9();
    assert_eq!(through(&two, &ada.access).0, 200);
    wait_for("the outage to be noticed", || (through(&two, &forged).0 == 503).then_some(()));
    assert_eq!(through(&two, &ada.access).0, 200);
    one.admin("POST", "/admin/keys/rotate").json(&json!({})).send().expect_problem(503, "store_unavailable");
    server.begin();
    wait_for("the store to be back", || (through(&two, &forged).0 == 401).then_some(()));
    rotate(&one);
    let token = Account::sign_in(&one, "ada@example.com").access;
    assert_eq!(through(&two, &token).0, 200);
}

#[test]
fn gateways_that_had_keys_of_their_own_begin_to_share_them_and_lose_no_token() {
    let (server, upstream) = (Rc::new(Postgres::start()), Upstream::echo());
    let mut gateways = [(); 2].map(|()| setup(&server, &upstream).start());
    let ada = Account::sign_up(&gateways[0], "ada@example.com");
    let bob = Account::sign_up(&gateways[1], "bob@example.com");
    assert_ne!(kid(&ada.access), kid(&bob.access));
    assert_eq!(through(&gateways[1], &ada.access), (401, "token_invalid".to_owned()));
    assert!(gateways[1].stderr().contains("set [auth] key_encryption_file"), "{}", gateways[1].stderr());
    for gateway in &mut gateways {
        let path = gateway.dir().join("gateway.toml");
        let toml = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, toml.replace("[auth]\n", "[auth]\nkey_encryption_file = \"kek\"\n")).unwrap();
        write_private(gateway, KEK);
        gateway.restart();
    }
    for gateway in &gateways {
        for token in [&ada.access, &bob.access] {
            assert_eq!(through(gateway, token), (200, String::new()));
        }
        assert_eq!(kid(&Account::sign_in(gateway, "ada@example.com").access), kid(&ada.access));
    }

    // Another key-encryption key opens nothing, and the gateway says what is wrong.
    write_private(&gateways[1], OTHER_KEK);
    let ended = gateways[1].try_restart().unwrap_err();
    assert!(ended.stderr.contains("key_encryption_file"), "{}", ended.stderr);
    // In the first line it takes over, while the old one still opens.
    write_private(&gateways[1], &format!("{OTHER_KEK}{KEK}"));
    gateways[1].restart();
    write_private(&gateways[1], OTHER_KEK);
    gateways[1].restart();
    assert_eq!(through(&gateways[1], &ada.access).0, 200);
    let told: Vec<Value> =
        gateways[1].stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(told.iter().all(|event| !event.to_string().contains(OTHER_KEK.trim())));
}

fn write_private(gateway: &Gateway, text: &str) {
    let path = gateway.dir().join("kek");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}
