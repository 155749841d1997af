//! A new version in place of the old one, without a refused connection (SIGUSR2).

use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};

use serde_json::json;

use crate::bound::Client;
use crate::support::gateway::{Successor, signal};
use crate::support::jwt::{Key, claims};
use crate::support::upstream::receive_head;
use crate::support::{Account, Answer, Gateway, Load, Setup, Upstream, now, wait_for};

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .server("access_log = \"off\"")
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .route("open", "/open", "up", "public")
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({})))
}

/// What a gateway knows by heart alone.
struct Known {
    owner: Client,
    token: String,
    proof: String,
    assertion: String,
    assertion_to_come: String,
}

impl Known {
    fn setup(upstream: &Upstream) -> (Setup, Key) {
        let signer = Key::es256();
        let setup = setup(upstream)
            .server("dpop_nonce = true")
            .auth("issuer = \"gate\"")
            .secret("signer.pem", signer.public_pem())
            .section("[auth.lockout]\nattempts = 3\n")
            .section(
                "[[clients]]\nid = \"signer\"\npublic_key_file = \"signer.pem\"\nmay = [\"introspect\"]\n",
            );
        (setup, signer)
    }

    /// A proof is used, an assertion too, and somebody has failed to sign in as often as can be.
    fn begin(gateway: &Gateway, signer: Key) -> Self {
        Account::sign_up(gateway, "grace@example.com");
        let mut owner = Client::new();
        let proof = owner.proof("POST", "/auth/signup", None);
        let body = json!({ "email": "ada@example.com", "password": crate::support::account::PASSWORD });
        let refused = gateway.post("/auth/signup").header("dpop", &proof).json(&body).send();
        owner.nonce = refused.header("dpop-nonce").map(str::to_owned);
        assert!(owner.nonce.is_some(), "{}", refused.text());
        let token = owner.sign_up(gateway)["access_token"].as_str().unwrap().to_owned();
        let proof = owner.proof("GET", "/api/x", Some(&token));
        let made = |id: &str| {
            let claims = json!({
                "iss": "signer", "sub": "signer", "aud": "gate", "jti": id, "iat": now(), "exp": now() + 600,
            });
            signer.token(&claims)
        };
        let (assertion, assertion_to_come) = (made("a-1"), made("a-2"));
        let known = Self { owner, token, proof, assertion, assertion_to_come };
        assert_eq!(known.asks_again(gateway, &known.proof).status, 200);
        assert_eq!(known.asserts(gateway, &known.assertion), 200);
        for _ in 0..3 {
            assert_eq!(Self::signs_in(gateway, "wr0ng-password!"), 401);
        }
        known
    }

    fn asks_again(&self, gateway: &Gateway, proof: &str) -> Answer {
        let scheme = format!("DPoP {}", self.token);
        gateway.get("/api/x").header("authorization", &scheme).header("dpop", proof).send()
    }

    fn asserts(&self, gateway: &Gateway, assertion: &str) -> u16 {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let fields = [("client_assertion_type", kind), ("client_assertion", assertion), ("token", "x")];
        gateway.post("/oauth2/introspect").form(&fields).send().status
    }

    fn signs_in(gateway: &Gateway, password: &str) -> u16 {
        let body = json!({ "email": "grace@example.com", "password": password });
        gateway.post("/auth/signin").json(&body).send().status
    }

    /// All of that is as it was.
    fn expect(&self, gateway: &Gateway) {
        let again = self.asks_again(gateway, &self.proof).expect(401);
        let words = again.header("www-authenticate").unwrap();
        assert!(words.contains("used before"), "{words}");
        self.owner.get(gateway, "/api/x", &self.token).expect(200);
        assert_eq!(self.asserts(gateway, &self.assertion), 401, "it was used");
        assert_eq!(self.asserts(gateway, &self.assertion_to_come), 200, "it was made before, and is good");
        assert_eq!(Self::signs_in(gateway, crate::support::account::PASSWORD), 429);
    }
}

#[test]
fn what_was_used_up_stays_so_in_the_new_process() {
    let upstream = Upstream::echo();
    let (setup, signer) = Known::setup(&upstream);
    let mut gateway = setup.start();
    let known = Known::begin(&gateway, signer);
    gateway.signal("USR2");
    let successor = Successor::of(&gateway);
    known.expect(&gateway);
    assert_eq!(gateway.wait().code(), Some(0));
    // And in the one after that, which hears of it from the second.
    let later = known.owner.proof("GET", "/api/x", Some(&known.token));
    known.asks_again(&gateway, &later).expect(200);
    signal(successor.0, "USR2");
    let _third = Successor::nth(&gateway, 1);
    for proof in [&known.proof, &later] {
        known.asks_again(&gateway, proof).expect(401);
    }
    assert_eq!(Known::signs_in(&gateway, crate::support::account::PASSWORD), 429);
}

#[test]
fn no_connection_is_refused_and_no_request_fails_while_a_new_process_takes_over() {
    let mut gateway = setup(&Upstream::echo()).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    gateway.revoke(&json!({ "kind": "token", "value": "t-0", "issuer": "legacy" }));
    let open = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    let api = Load::begin(gateway.address(), &gateway.get("/api").bearer(&token("t-1")), 1);
    let me = Load::begin(gateway.address(), &gateway.get("/auth/me").bearer(&ada.access), 1);
    gateway.signal("USR2");
    let successor = Successor::of(&gateway);
    assert_eq!(gateway.wait().code(), Some(0), "the old one ends");
    for load in [&open, &api, &me] {
        load.go_on(20);
    }
    for load in [open, api, me] {
        load.expect_no_failure();
    }
    // All that was in force is; the admin API answers at the same address.
    gateway.get("/api").bearer(&token("t-0")).send().expect_problem(401, "token_revoked");
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    gateway.get("/api").bearer(&token("t-1")).send().expect_problem(401, "token_revoked");
    gateway.admin("POST", "/admin/reload").send().expect(200);
    signal(successor.0, "TERM");
    wait_for("it to end", || std::net::TcpStream::connect(gateway.address()).is_err().then_some(()));
}

#[test]
fn what_the_old_process_still_serves_ends_well_and_obeys_the_new_one() {
    let (arrived, arrival) = sync_channel::<SyncSender<()>>(1);
    let upstream = Upstream::raw(move |mut stream, _| {
        let Some((line, _)) = receive_head(&mut stream, &mut Vec::new()) else { return };
        if line.contains("/slow") {
            let (go, wait) = sync_channel(1);
            arrived.send(go).unwrap();
            wait.recv().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"5\r\nbeat\n\r\n").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let mut gateway = setup(&upstream).server("drain_timeout = \"60s\"").start();
    let mut slow = gateway.connect();
    slow.send(gateway.get("/open/slow").bytes());
    let go = arrival.recv().unwrap();
    let mut stream = gateway.connect();
    stream.send(gateway.get("/api/events").bearer(&token("t-1")).bytes());
    stream.read_until("the stream", |bytes| bytes.ends_with(b"beat\n\r\n"));
    gateway.signal("USR2");
    let _successor = Successor::of(&gateway);
    let seen = stream.rest().len();
    stream.read_until("more of the stream", |bytes| bytes.len() > seen + 50);
    // Made at the new process, and heard by the old one.
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    assert!(stream.closed(), "its stream is cut");
    go.send(()).unwrap();
    assert_eq!(slow.answer("GET").expect(200).text(), "done");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_new_process_that_cannot_start_costs_nothing() {
    let gateway = setup(&Upstream::echo()).start();
    let load = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    std::fs::write(gateway.dir().join("gateway.toml"), "nonsense = 1\n").unwrap();
    gateway.signal("USR2");
    wait_for("the old one to say so", || {
        gateway.stderr().contains("no new process takes over").then_some(())
    });
    load.go_on(20);
    load.expect_no_failure();
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
}

#[test]
fn a_new_process_that_fails_with_the_log_gives_it_back() {
    let upstream = Upstream::echo();
    let (setup, signer) = Known::setup(&upstream);
    let gateway = setup.start();
    let known = Known::begin(&gateway, signer);
    gateway.revoke(&json!({ "kind": "token", "value": "t-0", "issuer": "legacy" }));
    let load = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    // A good configuration whose new listener cannot be had: found out when the log is open already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = [\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    gateway.put_toml(&gateway.toml().replace("listen = [\"127.0.0.1:0\"]", &listen));
    gateway.signal("USR2");
    wait_for("the old one to say so", || gateway.stderr().contains("this one begins anew").then_some(()));
    load.go_on(50);
    load.expect_no_failure();
    known.expect(&gateway);
    gateway.get("/api").bearer(&token("t-0")).send().expect_problem(401, "token_revoked");
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    gateway.get("/api").bearer(&token("t-1")).send().expect_problem(401, "token_revoked");
}
