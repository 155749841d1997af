//! gRPC end to end, with clients and servers that we did not write.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::account::Account;
use crate::support::jwt::{Key, claims, claims_of};
use crate::support::{Program, Setup, Upstream, now};

#[test]
fn calls_streams_refusals_and_cuts() {
    let mut server = Program::python("grpc", "server.py", &[]);
    let port: u16 = server.line().parse().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut gateway = Setup::new()
        .upstream_with("g", address, "http2 = true\n")
        .upstream_with("dead", Upstream::nobody(), "http2 = true\n")
        .route("t", "/t.T", "g", "access")
        .route_with("scoped", "/scoped.T", "g", "access", "scopes = [\"rare\"]\n")
        .route("dead", "/dead.T", "dead", "access")
        .route_with("small", "/small.T", "g", "access", "max_body = \"4KiB\"\n")
        .start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let mut client = Program::python("grpc", "client.py", &[&gateway.address().to_string(), &ann.access]);

    let step = client.step("unary");
    assert_eq!(step["answer"], "got hello");
    assert_eq!(step["trailers"], json!({ "x-subject": claims_of(&ann.access)["sub"], "x-proto": "http" }));
    assert_eq!(client.step("fail"), json!({ "step": "fail", "code": 5, "words": "no such thing" }));
    for (name, code) in [
        ("anonymous", 16),
        ("forged", 16),
        ("scope", 7),
        ("dead", 14),
        ("unknown", 12),
        ("no method", 12),
        ("too large", 8),
    ] {
        let step = client.step(name);
        assert_eq!(step["code"], code, "{step}");
        assert!(!step["words"].as_str().unwrap().is_empty());
    }
    // Names, order and bytes of metadata; large messages; a stream in; an answer before its end.
    let expected = json!({
        "step": "metadata", "first": ["1", "2"], "raw": [true, true], "text": "some words",
    });
    assert_eq!(client.step("metadata"), expected);
    assert_eq!(client.step("large")["same"], true);
    assert_eq!(client.step("in")["total"], 4_000_000);
    let early = client.step("early");
    assert_eq!((&early["code"], &early["words"]), (&json!(9), &json!("no need to go on")));
    // What the client gives up ends at the server, too, which has been told of the deadline.
    assert_eq!(client.step("deadline")["code"], 4);
    assert_eq!(server.line(), "ended Slow True");
    client.step("given up");
    assert_eq!(server.line(), "ended Count");
    assert_eq!(client.step("many")["same"], true);
    assert_eq!(client.step("both")["answers"], json!(["re one", "re two"]));
    assert_eq!(client.step("stream")["answers"], json!(["0", "1", "2"]));
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
    assert_eq!(client.step("cut")["code"], 1, "CANCELLED: the stream was reset");
    assert_eq!(server.line(), "ended Count");
    gateway.sigterm();
    assert!(gateway.wait().success());
}

#[test]
fn a_stream_ends_when_its_token_expires() {
    let mut server = Program::python("grpc", "server.py", &[]);
    let port: u16 = server.line().parse().unwrap();
    let key = Key::secret("legacy");
    let gateway = Setup::without_auth()
        .secret("legacy.key", key.secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream_with("g", SocketAddr::from(([127, 0, 0, 1], port)), "http2 = true\n")
        .route("t", "/t.T", "g", "access")
        .start();
    let token = key.token(&claims("t-1", &json!({ "exp": now() + 6 })));
    let mut client =
        Program::python("grpc", "client.py", &[&gateway.address().to_string(), &token, "stream"]);
    assert_eq!(client.step("cut")["code"], 1);
    assert_eq!(server.line(), "ended Count");
    assert!(gateway.metrics().contains("portcullis_cut_connections_total 1"));
}
