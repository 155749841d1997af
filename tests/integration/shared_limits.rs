//! What gateways of one PostgreSQL know in common: who guesses or repeats gains nothing by going from one to the next;
//! and a store that is away makes nobody worse off than with one gateway.

use serde_json::{Value, json};

use crate::bound::Client;
use crate::support::account::PASSWORD;
use crate::support::jwt::Key;
use crate::support::postgres::Postgres;
use crate::support::{Account, Gateway, Setup, Upstream, now, wait_for};

/// As `openssl rand -base64 32` prints it.
const KEK: &str = "q0Tqk0vY2m9yJc4mWc1p4b1mQf0Z8s0m3pJb7bq3h5M=\n";

/// Two gateways, and who signs assertions for the client of both.
fn pair(server: &Postgres, upstream: &Upstream) -> ([Gateway; 2], Key) {
    let signer = Key::es256();
    let start = || {
        Setup::new()
            .section(&format!("[store]\nurl = \"{}\"", server.url()))
            .section("[revocation]\non_lost_state = \"empty\"")
            .section("[auth.password]\nargon2 = { memory = \"64KiB\", iterations = 1, parallelism = 1 }")
            .section("[auth.lockout]\nattempts = 4\nwindow = \"15m\"")
            .section("[[clients]]\nid = \"signer\"\npublic_key_file = \"signer.pem\"\nmay = [\"introspect\"]")
            .secret("kek", KEK)
            .secret("signer.pem", signer.public_pem())
            .auth("key_encryption_file = \"kek\"\nissuer = \"gate\"")
            .upstream("api", upstream.address())
            .route("api", "/api", "api", "access")
            .start()
    };
    let both = [start(), start()];
    // Assertions that were made before a gateway started are not taken.
    let started = now();
    wait_for("the next second", || (now() > started).then_some(()));
    (both, signer)
}

fn signs_in(gateway: &Gateway, email: &str, password: &str) -> u16 {
    gateway.post("/auth/signin").json(&json!({ "email": email, "password": password })).send().status
}

fn assertion(signer: &Key, id: &str) -> String {
    let claims = json!({
        "iss": "signer", "sub": "signer", "aud": "gate", "jti": id, "iat": now(), "exp": now() + 600,
    });
    signer.token(&claims)
}

fn asserts(gateway: &Gateway, assertion: &str) -> u16 {
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let fields = [("client_assertion_type", kind), ("client_assertion", assertion), ("token", "x")];
    gateway.post("/oauth2/introspect").form(&fields).send().status
}

#[test]
fn failed_sign_ins_are_counted_over_all_gateways_of_a_store() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let ([one, two], _) = pair(&server, &upstream);
    for email in ["ada@example.com", "bob@example.com"] {
        Account::sign_up(&one, email);
    }
    for gateway in [&one, &two, &one, &two] {
        assert_eq!(signs_in(gateway, "ada@example.com", "wr0ng-password!"), 401);
    }
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    for gateway in [&one, &two] {
        let locked = gateway.post("/auth/signin").json(&body).send().expect_problem(429, "locked_out");
        let seconds: u64 = locked.header("retry-after").unwrap().parse().unwrap();
        assert!((800..=900).contains(&seconds), "{seconds}");
    }
    assert_eq!(signs_in(&two, "bob@example.com", PASSWORD), 200, "nobody else is");
    // A good one makes the failures from there forgotten, on all of them.
    for gateway in [&one, &two, &one] {
        assert_eq!(signs_in(gateway, "bob@example.com", "wr0ng-password!"), 401);
    }
    assert_eq!(signs_in(&two, "bob@example.com", PASSWORD), 200);
    for gateway in [&one, &one, &two, &one] {
        assert_eq!(signs_in(gateway, "bob@example.com", "wr0ng-password!"), 401);
    }
    assert_eq!(signs_in(&two, "bob@example.com", PASSWORD), 429);
    // What has ended counts for nothing, and goes when something new comes.
    server.sql("UPDATE portcullis.brief SET until = 1");
    assert_eq!(signs_in(&two, "ada@example.com", PASSWORD), 200);
    assert_eq!(signs_in(&two, "carol@example.com", PASSWORD), 401);
    assert_eq!(server.sql("SELECT count(*) FROM portcullis.brief WHERE until = 1"), "0\n");
}

#[test]
fn an_assertion_and_the_proof_of_a_refresh_are_good_once_on_all_gateways_of_a_store() {
    let (mut server, upstream) = (Postgres::start(), Upstream::echo());
    let ([one, two], signer) = pair(&server, &upstream);
    let [first, second] = ["a-1", "a-2"].map(|id| assertion(&signer, id));
    assert_eq!(asserts(&one, &first), 200);
    assert_eq!(asserts(&two, &first), 401, "it was used on the other one");
    assert_eq!(asserts(&two, &second), 200);
    assert_eq!(asserts(&one, &second), 401);

    let owner = Client::new();
    let pair = owner.sign_up(&one);
    let refreshed = |gateway: &Gateway, token: &Value, proof: &str| {
        let scheme = format!("DPoP {}", token.as_str().unwrap());
        gateway.post("/auth/refresh").header("authorization", &scheme).header("dpop", proof).send()
    };
    let proof = owner.proof("POST", "/auth/refresh", None);
    let next = refreshed(&one, &pair["refresh_token"], &proof).expect(200).json()["data"][0].clone();
    let again = refreshed(&two, &next["refresh_token"], &proof);
    assert_ne!(again.status, 200, "{}", again.text());
    assert!(again.text().contains("used before"), "{}", again.text());
    let proof = owner.proof("POST", "/auth/refresh", None);
    refreshed(&two, &next["refresh_token"], &proof).expect(200);

    // Without the store each gateway goes by what it knows itself.
    server.kill9();
    let third = assertion(&signer, "a-3");
    assert_eq!(asserts(&one, &third), 200);
    assert_eq!(asserts(&one, &third), 401);
    server.begin();
    wait_for("the store", || (asserts(&two, &assertion(&signer, &now().to_string())) == 200).then_some(()));
}

#[test]
fn a_repeated_request_is_carried_out_on_each_gateway_that_gets_it() {
    let (server, upstream) = (Postgres::start(), Upstream::echo());
    let (pair, _) = pair(&server, &upstream);
    for gateway in &pair {
        let body = json!({ "kind": "subject", "value": "ada" });
        gateway
            .admin("POST", "/admin/revocations")
            .header("Idempotency-Key", "k-1")
            .json(&body)
            .send()
            .expect(200);
        // An answer of another gateway would not put it in force here.
        gateway.admin("GET", "/admin/revocations/subject/ada").send().expect(200);
    }
}
