//! The admin listener as an HTTP server (CONTRACT §6): who is told what, in which form, and how lists are asked for.

use serde_json::{Value, json};

use crate::support::{Account, Answer, Call, Connection, Gateway, Setup, Upstream};

fn start() -> Gateway {
    let upstream = Upstream::echo();
    Setup::new()
        .server("body_read_timeout = \"300ms\"")
        .section("[revocation]\nclaims = [\"level\"]\n")
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .start()
}

fn bare(gateway: &Gateway, method: &str, target: &str) -> Answer {
    Call::new(gateway.admin_address(), method, target).send()
}

fn list(gateway: &Gateway, target: &str) -> Value {
    gateway.admin("GET", target).send().expect(200).json()
}

#[test]
fn a_body_that_comes_too_slowly_is_told_so_by_every_resource() {
    let gateway = start();
    for (target, content_type) in [
        ("/admin/revocations", "application/json"),
        ("/admin/revocations", "application/x-ndjson"),
        ("/admin/users", "application/json"),
        ("/admin/users", "application/x-ndjson"),
        ("/admin/explain", "application/json"),
        ("/admin/keys/rotate", "application/json"),
    ] {
        let mut connection = Connection::open(gateway.admin_address());
        let token = gateway.admin_token();
        connection.send(format!(
            "POST {target} HTTP/1.1\r\nHost: admin.test\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: {content_type}\r\nContent-Length: 100\r\n\r\n{{\"kind\":"
        ));
        connection.answer("POST").expect_problem(408, "request_timeout");
        assert!(connection.closed(), "{target} {content_type}");
    }
}

#[test]
fn which_methods_a_resource_takes_is_told_to_whoever_has_the_token() {
    let gateway = start();
    for (method, target) in
        [("DELETE", "/admin/stats"), ("PUT", "/admin/revocations"), ("GET", "/admin/reload")]
    {
        let answer = bare(&gateway, method, target).expect_problem(401, "admin_token");
        assert_eq!(answer.header("allow"), None, "{method} {target}");
        let answer = gateway.admin(method, target).send().expect_problem(405, "method_not_allowed");
        assert!(answer.header("allow").is_some(), "{method} {target}");
    }
    for target in ["/livez", "/readyz", "/metrics", "/", "/ui/sign-in"] {
        let answer = bare(&gateway, "PUT", target).expect_problem(405, "method_not_allowed");
        assert!(answer.header("allow").is_some(), "{target}");
    }
}

#[test]
fn a_path_that_is_no_text_is_refused_in_a_problem_document() {
    let gateway = start();
    for target in ["/admin/revocations/token/%ff", "/admin/users/%ff"] {
        gateway.admin("GET", target).send().expect_problem(400, "invalid_request");
        gateway.admin("DELETE", target).send().expect_problem(400, "invalid_request");
    }
    gateway.admin("POST", "/admin/keys/%ff/retire").send().expect_problem(400, "invalid_request");
}

#[test]
fn metrics_are_prometheus_text_and_openmetrics_where_they_are_asked_for() {
    let gateway = start();
    let plain = bare(&gateway, "GET", "/metrics").expect(200);
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = plain.text();
    assert!(text.contains("\n# TYPE portcullis_refusals_total counter\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let open =
        Call::new(gateway.admin_address(), "GET", "/metrics").header("accept", accept).send().expect(200);
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text;"));
    assert!(open.text().ends_with("# EOF\n"), "{}", open.text());
}

#[test]
fn every_list_refuses_a_limit_that_it_cannot_keep_and_a_parameter_that_it_does_not_know() {
    let gateway = start();
    for target in ["/admin/revocations", "/admin/users", "/admin/keys"] {
        for query in ["limit=0", "limit=1001", "limit=x", "limit=", "colour=red", "limit=1&limit=2"] {
            let path = format!("{target}?{query}");
            gateway.admin("GET", &path).send().expect_problem(400, "invalid_request");
        }
        list(&gateway, &format!("{target}?limit=1000"));
    }
}

#[test]
fn keys_are_listed_in_pages() {
    let gateway = start();
    let rotate = || {
        let answer = gateway.admin("POST", "/admin/keys/rotate").json(&json!({})).send().expect(200);
        answer.json()["kid"].clone()
    };
    let (second, third) = (rotate(), rotate());
    let page = list(&gateway, "/admin/keys?limit=2");
    assert_eq!((&page["data"][0]["kid"], &page["data"][1]["kid"]), (&third, &second));
    assert_eq!(page["next"], second);
    let page = list(&gateway, &format!("/admin/keys?limit=2&after={}", second.as_str().unwrap()));
    assert_eq!((page["data"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    gateway.admin("GET", "/admin/keys?after=nobody").send().expect_problem(400, "invalid_request");
}

#[test]
fn the_trail_of_an_issuer_is_found_by_its_name() {
    let gateway = start();
    gateway.revoke(&json!({ "kind": "issuer", "value": "self" }));
    for query in ["value=self", "value=self&issuer=self", "issuer=self", "value="] {
        let found = list(&gateway, &format!("/admin/revocations?kind=issuer&{query}"));
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{query}: {found}");
    }
    assert_eq!(list(&gateway, "/admin/revocations?kind=issuer&value=other")["data"], json!([]));
    let both = "/admin/revocations?kind=issuer&value=self&issuer=other";
    gateway.admin("GET", both).send().expect_problem(400, "invalid_request");
}

#[test]
fn a_claim_is_revoked_by_a_bare_number_or_boolean_as_by_its_spelling() {
    let gateway = start();
    for (bare, spelt) in [(json!(42), "42"), (json!(true), "true")] {
        gateway.revoke(&json!({ "kind": "claim:level", "value": bare }));
        assert_eq!(gateway.entry("claim:level", spelt, "self").expect(200).json()["value"], spelt);
    }
    let wrong = json!({ "kind": "token", "value": 42 });
    gateway.admin("POST", "/admin/revocations").json(&wrong).send().expect_problem(400, "invalid_request");
    // And nobody else is shut out.
    let account = Account::sign_up(&gateway, "ada@example.com");
    gateway.get("/api").bearer(&account.access).send().expect(200);
}
