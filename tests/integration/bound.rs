//! Tokens that are good only with what they are bound to: a key that signs proofs (RFC 9449), a client certificate
//! (RFC 8705).

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::support::http::{Answer, Call};
use crate::support::jwt::{Key, base64url, claims_of};
use crate::support::{Gateway, Setup, Upstream, now};

const PASSWORD: &str = "correct-horse-7";

/// A client with a key of its own.
pub(crate) struct Client {
    key: Key,
    count: std::cell::Cell<u32>,
    pub(crate) nonce: Option<String>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { key: Key::es256(), count: std::cell::Cell::new(0), nonce: None }
    }

    /// A proof for this request, never the same twice.
    pub(crate) fn proof(&self, method: &str, path: &str, token: Option<&str>) -> String {
        self.count.set(self.count.get() + 1);
        let mut jwk = self.key.jwk(None);
        jwk.as_object_mut().unwrap().retain(|name, _| ["kty", "crv", "x", "y"].contains(&name.as_str()));
        let mut claims = json!({
            "jti": format!("proof-{}", self.count.get()), "htm": method, "iat": now(),
            "htu": format!("http://gateway.test{path}"),
        });
        if let Some(token) = token {
            claims["ath"] = base64url(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()).into();
        }
        if let Some(nonce) = &self.nonce {
            claims["nonce"] = nonce.as_str().into();
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk });
        self.key.token_with(&header, &claims)
    }

    fn asking(&self, gateway: &Gateway, path: &str, body: &Value) -> Call {
        gateway.post(path).header("dpop", &self.proof("POST", path, None)).json(body)
    }

    pub(crate) fn sign_up(&self, gateway: &Gateway) -> Value {
        let body = json!({ "email": "ada@example.com", "password": format!("{PASSWORD}!") });
        self.asking(gateway, "/auth/signup", &body).send().expect(201).json()["data"][0].clone()
    }

    /// A call with the token and a proof for it.
    pub(crate) fn get(&self, gateway: &Gateway, path: &str, token: &str) -> Answer {
        let proof = self.proof("GET", path, Some(token));
        gateway.get(path).header("authorization", &format!("DPoP {token}")).header("dpop", &proof).send()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn start(server: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::echo();
    let gateway = Setup::new()
        .server(server)
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .route_with("old", "/old", "up", "access", "dpop_as_bearer = true")
        .start();
    (gateway, upstream)
}

#[test]
fn a_token_bound_to_a_key_opens_nothing_without_a_proof_by_it() {
    let (gateway, upstream) = start("");
    let (owner, thief) = (Client::new(), Client::new());
    let pair = owner.sign_up(&gateway);
    let token = text(&pair["access_token"]);
    assert!(claims_of(token)["cnf"]["jkt"].is_string());

    owner.get(&gateway, "/api/x", token).expect(200);
    assert_eq!(upstream.nth(1).one("authorization"), format!("DPoP {token}"));

    let challenge = |answer: Answer| {
        let answer = answer.expect(401);
        answer.header("www-authenticate").unwrap().to_owned()
    };
    let both = challenge(gateway.get("/api/x").bearer(token).send());
    assert!(both.starts_with("Bearer realm=") && both.contains(", DPoP realm="), "{both}");
    assert!(challenge(thief.get(&gateway, "/api/x", token)).contains("error=\"invalid_token\""));
    let bare = gateway.get("/api/x").header("authorization", &format!("DPoP {token}")).send();
    let words = challenge(bare);
    assert!(words.contains("error=\"invalid_dpop_proof\"") && words.contains("algs=\"ES256"), "{words}");

    // The proof itself: for another path, another method, another token; and the same one twice.
    let present = |proof: &str| {
        gateway.get("/api/x").header("authorization", &format!("DPoP {token}")).header("dpop", proof).send()
    };
    present(&owner.proof("GET", "/api/y", Some(token))).expect(401);
    present(&owner.proof("POST", "/api/x", Some(token))).expect(401);
    present(&owner.proof("GET", "/api/x", Some("another"))).expect(401);
    present(&owner.proof("GET", "/api/x", None)).expect(401);
    let proof = owner.proof("GET", "/api/x", Some(token));
    present(&proof).expect(200);
    assert!(challenge(present(&proof)).contains("used before"));
    assert_eq!(upstream.received().len(), 2);
}

#[test]
fn of_many_uses_of_one_proof_at_once_one_passes() {
    let (gateway, _upstream) = start("");
    let owner = Client::new();
    let pair = owner.sign_up(&gateway);
    let token = text(&pair["access_token"]);
    let proof = owner.proof("GET", "/api/x", Some(token));
    let call = gateway.get("/api/x").header("authorization", &format!("DPoP {token}")).header("dpop", &proof);
    let passed: usize = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..16).map(|_| scope.spawn(|| usize::from(call.send().verdict().0 == 200))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).sum()
    });
    assert_eq!(passed, 1);
}

#[test]
fn a_refresh_keeps_the_binding_and_asks_for_a_proof() {
    let (gateway, _upstream) = start("");
    let (owner, thief) = (Client::new(), Client::new());
    let pair = owner.sign_up(&gateway);
    let refresh = text(&pair["refresh_token"]);
    gateway.post("/auth/refresh").bearer(refresh).send().expect(422);
    let stolen = thief.proof("POST", "/auth/refresh", None);
    gateway.post("/auth/refresh").bearer(refresh).header("dpop", &stolen).send().expect(422);

    let proof = owner.proof("POST", "/auth/refresh", None);
    let answer = gateway.post("/auth/refresh").header("authorization", &format!("DPoP {refresh}"));
    let next = answer.header("dpop", &proof).send().expect(200).json()["data"][0].clone();
    owner.get(&gateway, "/api/x", text(&next["access_token"])).expect(200);

    let by_grant = |client: &Client, token: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let proof = client.proof("POST", "/oauth2/token", None);
        gateway.post("/oauth2/token").header("dpop", &proof).form(&fields).send()
    };
    let refused = by_grant(&thief, text(&next["refresh_token"])).expect(400);
    assert_eq!(refused.json()["error"], "invalid_grant");
    let granted = by_grant(&owner, text(&next["refresh_token"])).expect(200).json();
    assert_eq!(granted["token_type"], "DPoP");
    let access = text(&granted["access_token"]);
    owner.get(&gateway, "/auth/me", access).expect(200);
    gateway.get("/auth/me").bearer(access).send().expect(422);

    let introspected = gateway
        .post("/oauth2/introspect")
        .bearer(gateway.admin_token())
        .form(&[("token", access)])
        .send()
        .expect(200)
        .json();
    assert_eq!(introspected["token_type"], "DPoP");
    assert_eq!(introspected["cnf"], claims_of(access)["cnf"]);
}

#[test]
fn a_bearer_token_does_not_pass_as_a_bound_one() {
    let (gateway, _upstream) = start("");
    let body = json!({ "email": "bob@example.com", "password": format!("{PASSWORD}!") });
    let pair = gateway.post("/auth/signup").json(&body).send().expect(201).json()["data"][0].clone();
    let token = text(&pair["access_token"]);
    gateway.get("/api/x").bearer(token).send().expect(200);
    Client::new().get(&gateway, "/api/x", token).expect_problem(401, "token_invalid");
}

#[test]
fn an_old_upstream_gets_a_plain_bearer_token_without_the_proof() {
    let (gateway, upstream) = start("");
    let owner = Client::new();
    let pair = owner.sign_up(&gateway);
    let token = text(&pair["access_token"]);
    owner.get(&gateway, "/old/x", token).expect(200);
    let received = upstream.nth(1);
    assert_eq!(received.one("authorization"), format!("Bearer {token}"));
    assert!(received.all("dpop").is_empty());
}

#[test]
fn with_nonces_each_proof_needs_a_current_one() {
    let (gateway, _upstream) = start("dpop_nonce = true");
    let mut owner = Client::new();
    let body = json!({ "email": "ada@example.com", "password": format!("{PASSWORD}!") });
    let refused = owner.asking(&gateway, "/auth/signup", &body).send().expect(401);
    assert!(refused.header("www-authenticate").unwrap().contains("error=\"use_dpop_nonce\""));
    owner.nonce = refused.header("dpop-nonce").map(str::to_owned);
    let pair = owner.sign_up(&gateway);
    let token = text(&pair["access_token"]);
    owner.get(&gateway, "/api/x", token).expect(200);

    let mut forger = Client { nonce: Some("AAAA".to_owned()), ..owner };
    let refused = forger.get(&gateway, "/api/x", token).expect(401);
    forger.nonce = refused.header("dpop-nonce").map(str::to_owned);
    forger.get(&gateway, "/api/x", token).expect(200);

    let fields = [("grant_type", "refresh_token"), ("refresh_token", text(&pair["refresh_token"]))];
    forger.nonce = None;
    let proof = forger.proof("POST", "/oauth2/token", None);
    let refused = gateway.post("/oauth2/token").header("dpop", &proof).form(&fields).send().expect(400);
    assert_eq!(refused.json()["error"], "use_dpop_nonce");
    assert!(refused.header("dpop-nonce").is_some());
}
