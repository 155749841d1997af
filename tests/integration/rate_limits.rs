//! `rate_limit`: who is counted as one, what is counted, and what the answers say of it.

use crate::support::jwt::claims_of;
use crate::support::{Account, Answer, Gateway, Setup, Upstream, wait_for};

/// Five at once, and no more for an hour.
fn limit(by: &str) -> String {
    format!("rate_limit = {{ requests = 5, per = \"1h\", burst = 3, by = \"{by}\" }}\n")
}

fn start() -> (Gateway, Upstream) {
    let upstream = Upstream::echo();
    let gateway = Setup::new()
        .server("trusted_proxies = [\"127.0.0.1\"]")
        .upstream("api", upstream.address())
        .route_with("subject", "/subject", "api", "access", &limit("subject"))
        .route_with("token", "/token", "api", "access", &limit("token"))
        .route_with("optional", "/optional", "api", "optional", &limit("subject"))
        .route_with("public", "/public", "api", "public", &limit("address"))
        .route_with("shadow", "/shadow", "api", "access", &format!("mode = \"shadow\"\n{}", limit("subject")))
        .route_with(
            "scoped",
            "/scoped",
            "api",
            "access",
            &format!("scopes = [\"write\"]\n{}", limit("subject")),
        )
        .route("free", "/free", "api", "public")
        .start();
    (gateway, upstream)
}

fn get(gateway: &Gateway, path: &str, token: &str, client: &str) -> Answer {
    let call = gateway.get(path).header("X-Forwarded-For", client);
    if token.is_empty() { call.send() } else { call.bearer(token).send() }
}

/// How many of ten pass.
fn passed(gateway: &Gateway, path: &str, token: &str, client: &str) -> usize {
    (0..10).filter(|_| get(gateway, path, token, client).status == 200).count()
}

#[test]
fn the_answers_tell_what_is_left_and_when_to_come_back() {
    let (gateway, upstream) = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    for left in ["2", "1", "0"] {
        let answer = get(&gateway, "/subject", &ada.access, "192.0.2.1").expect(200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"subject\";q=5;w=3600"));
        let limit = answer.header("ratelimit").unwrap();
        assert!(limit.starts_with(&format!("\"subject\";r={left};t=")), "{limit}");
    }
    let reached = upstream.received().len();
    let refused = get(&gateway, "/subject", &ada.access, "192.0.2.1").expect_problem(429, "rate_limited");
    assert_eq!(upstream.received().len(), reached);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((715..=720).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"subject\";r=0;t="));
    assert!(refused.header("www-authenticate").is_none());
    wait_for("the refusal in the metrics", || {
        gateway.metrics().contains("portcullis_refusals_total{code=\"rate_limited\"} 1").then_some(())
    });

    // A gRPC client reads RESOURCE_EXHAUSTED.
    let grpc = gateway
        .post("/subject")
        .bearer(&ada.access)
        .body("application/grpc", b"".to_vec())
        .send()
        .expect(200);
    assert_eq!(grpc.header("grpc-status"), Some("8"));
    let free = get(&gateway, "/free", "", "192.0.2.1").expect(200);
    assert!(free.header("ratelimit").is_none() && free.header("ratelimit-policy").is_none());
}

#[test]
fn a_subject_a_token_and_an_address_are_counted_each_for_itself() {
    let (gateway, _upstream) = start();
    let (ada, bob) =
        (Account::sign_up(&gateway, "ada@example.com"), Account::sign_up(&gateway, "bob@example.com"));
    let again = Account::sign_in(&gateway, "ada@example.com");
    assert_eq!(claims_of(&ada.access)["sub"], claims_of(&again.access)["sub"]);
    assert_eq!(passed(&gateway, "/subject", &ada.access, "192.0.2.1"), 3);
    assert_eq!(passed(&gateway, "/subject", &again.access, "192.0.2.2"), 0, "the same subject");
    assert_eq!(passed(&gateway, "/subject", &bob.access, "192.0.2.1"), 3);
    assert_eq!(passed(&gateway, "/token", &ada.access, "192.0.2.1"), 3, "another route");
    assert_eq!(passed(&gateway, "/token", &again.access, "192.0.2.1"), 3, "another token");

    assert_eq!(passed(&gateway, "/public", "", "192.0.2.1"), 3);
    assert_eq!(passed(&gateway, "/public", "", "192.0.2.2"), 3);
    assert_eq!(passed(&gateway, "/public", "", "2001:db8::1"), 3);
    assert_eq!(passed(&gateway, "/public", "", "2001:db8::ffff:1"), 0, "one /64 is one client");
    assert_eq!(passed(&gateway, "/public", "", "2001:db8:0:1::1"), 3);

    // Without a token there is an address.
    assert_eq!(passed(&gateway, "/optional", "", "192.0.2.1"), 3);
    assert_eq!(passed(&gateway, "/optional", "", "192.0.2.1"), 0);
    assert_eq!(passed(&gateway, "/optional", &ada.access, "192.0.2.1"), 3);
}

#[test]
fn what_is_refused_for_another_reason_is_not_counted() {
    let (gateway, _upstream) = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    for _ in 0..9 {
        let answer = get(&gateway, "/subject", "", "192.0.2.1").expect(401);
        assert!(answer.header("ratelimit").is_none());
        get(&gateway, "/scoped", &ada.access, "192.0.2.1").expect_problem(403, "insufficient_scope");
    }
    assert_eq!(passed(&gateway, "/subject", &ada.access, "192.0.2.1"), 3);
}

#[test]
fn in_shadow_mode_it_is_counted_and_forwarded() {
    let (gateway, upstream) = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    assert_eq!(passed(&gateway, "/shadow", &ada.access, "192.0.2.1"), 10);
    // The token is good all the same: the upstream is told whose it is.
    assert_eq!(upstream.nth(10).one("x-auth-subject"), claims_of(&ada.access)["sub"].as_str().unwrap());
    wait_for("would-be refusals in the metrics", || {
        gateway.metrics().contains("portcullis_shadow_refusals_total{code=\"rate_limited\"} 7").then_some(())
    });
}
