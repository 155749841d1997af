//! Targets that speak TLS and HTTP/2: another gateway stands there, so both sides are seen.

use serde_json::Value;

use crate::support::pki::Authority;
use crate::support::{Gateway, Setup, Upstream, wait_for};

/// A gateway behind TLS that asks for client certificates of `ca`, with the echo upstream behind it.
fn inner(ca: &Authority, echo: &Upstream) -> Gateway {
    let pair = ca.issue(&["gateway.test"]);
    let lines = "[server.tls]\nlisten = [\"127.0.0.1:0\"]\nclient_ca = \"ca.pem\"\nclient_auth = \"request\"\n\
                 certificates = [{ cert = \"a.pem\", key = \"a.key\" }]";
    let setup = Setup::new().secret("ca.pem", &ca.pem).secret("a.pem", &pair.cert).secret("a.key", &pair.key);
    setup.section(lines).upstream("echo", echo.address()).route("open", "/", "echo", "public").start()
}

/// What the inner gateway says of the outer one, whose own word it does not believe.
fn via(echo: &Value) -> Vec<String> {
    let fields = echo["headers"].as_array().unwrap().iter();
    let via = fields.filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case("via"));
    via.map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

#[test]
fn certificates_of_targets_are_verified_and_http_2_is_agreed_on() {
    let (ca, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let own = ca.issue(&["outer"]);
    let echo = Upstream::echo();
    let inner = inner(&ca, &echo);
    let address = inner.listening("tls");
    let shown = "cert_file = \"own.pem\", key_file = \"own.key\"";
    let mut setup = Setup::new()
        .secret("ca.pem", &ca.pem)
        .secret("stranger.pem", &stranger.pem)
        .secret("own.pem", &own.cert)
        .secret("own.key", &own.key);
    for (name, lines) in [
        ("one", format!("tls = {{ ca_file = \"ca.pem\", server_name = \"gateway.test\", {shown} }}")),
        (
            "two",
            format!(
                "http2 = true\ntls = {{ ca_file = \"ca.pem\", server_name = \"gateway.test\", {shown} }}"
            ),
        ),
        ("stranger", "tls = { ca_file = \"stranger.pem\", server_name = \"gateway.test\" }".to_owned()),
        ("misnamed", "http2 = true\ntls = { ca_file = \"ca.pem\" }".to_owned()),
    ] {
        setup = setup
            .section(&format!("[[upstreams]]\nname = \"{name}\"\ntargets = [\"https://{address}\"]\n{lines}"))
            .route(name, &format!("/{name}"), name, "public");
    }
    let outer = setup.start();
    for (path, spoken) in [("/one", "1.1 portcullis"), ("/two", "2 portcullis")] {
        for body in ["", "a body"] {
            let answer = outer.post(path).body("text/plain", body).send().expect(200);
            let seen = answer.json();
            assert_eq!(via(&seen), [spoken], "{seen}");
            assert_eq!(seen["body"], body);
        }
    }
    for path in ["/stranger", "/misnamed"] {
        outer.get(path).send().expect_problem(502, "upstream_unreachable");
    }
    // Requests share one connection, also when it has to be made anew.
    let opened = || {
        let report = outer.admin("GET", "/admin/upstreams").send().expect(200).json();
        let upstreams = report["data"].as_array().or(report.as_array()).unwrap().clone();
        let two = upstreams.into_iter().find(|upstream| upstream["name"] == "two").unwrap();
        two["targets"][0]["connections"].as_u64().unwrap()
    };
    assert_eq!(opened(), 1);
    inner.sigterm();
    wait_for("the inner gateway's good-bye", || (opened() == 0).then_some(()));
    // Its door may be open for a moment longer than the connection that it said good-bye on.
    let refused = wait_for("the closed door", || {
        let answer = outer.get("/two").send();
        (answer.status != 200).then_some(answer)
    });
    refused.expect_problem(502, "upstream_unreachable");
}

#[test]
fn h2c_targets_are_spoken_to_by_prior_knowledge() {
    let echo = Upstream::echo();
    let inner = Setup::new().upstream("echo", echo.address()).route("open", "/", "echo", "public").start();
    let setup = Setup::new().section(&format!(
        "[[upstreams]]\nname = \"u\"\ntargets = [\"h2c://{}\"]\nhealth = {{ path = \"/health\", interval = \"1s\" }}",
        inner.address()
    ));
    let outer = setup.route("open", "/", "u", "public").start();
    let answer = outer.get("/x?y").header("Cookie", "a=1").send().expect(200);
    assert_eq!(via(&answer.json()), ["2 portcullis"]);
    assert_eq!(answer.json()["line"], "GET /x?y HTTP/1.1");
    let large = "z".repeat(500_000);
    let answer = outer.post("/").body("text/plain", large.as_str()).send().expect(200);
    assert_eq!(answer.json()["body"], large);
}

#[test]
fn what_speaks_no_http_2_is_a_protocol_error() {
    let upstream = Upstream::echo();
    let setup = Setup::new().upstream_with("u", upstream.address(), "http2 = true\n");
    let gateway = setup.route("open", "/", "u", "public").start();
    let answer = gateway.get("/").send();
    assert_eq!(answer.status, 502, "{}", answer.text());
}
