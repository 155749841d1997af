//! `cors`: preflights are answered before any token, and pages of other origins read what the rules let them, our own
//! refusals too. The last word has a real browser.

use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::chromium::Chromium;
use crate::support::{Account, Answer, Call, Gateway, Received, Reply, Setup, Upstream, wait_for};

const APP: &str = "https://app.example.com";
const RULES: &str = "cors = { origins = [\"https://app.example.com\"], credentials = true }\n";

/// An upstream that has ideas of its own about CORS.
fn generous() -> Upstream {
    Upstream::new(|received| {
        let fields = vec![
            ("Access-Control-Allow-Origin", "*".to_owned()),
            ("Access-Control-Allow-Methods", "*".to_owned()),
            ("Vary", "Accept".to_owned()),
        ];
        let status = if received.line.starts_with("OPTIONS ") { 204 } else { 200 };
        Reply::Full(status, fields, b"read".to_vec())
    })
}

fn start() -> (Gateway, Upstream) {
    let upstream = generous();
    let gateway = Setup::new()
        .auth(RULES)
        .upstream("api", upstream.address())
        .section(&format!("[[upstreams]]\nname = \"away\"\ntargets = [\"http://{}\"]\n", Upstream::nobody()))
        .route_with("api", "/api", "api", "access", &format!("methods = [\"GET\", \"PUT\"]\n{RULES}"))
        .route_with("away", "/away", "away", "access", RULES)
        .route_with(
            "any",
            "/any",
            "api",
            "public",
            "cors = { origins = [\"*\"], headers = [\"x-known\"], expose = [] }\n",
        )
        .route("plain", "/plain", "api", "access")
        .route_with("named", "/named", "api", "access", "methods = [\"GET\"]\n")
        .start();
    (gateway, upstream)
}

fn preflight(gateway: &Gateway, path: &str, origin: &str, method: &str) -> Call {
    gateway.call("OPTIONS", path).header("Origin", origin).header("Access-Control-Request-Method", method)
}

#[track_caller]
fn without_cors(answer: &Answer) {
    let ours =
        answer.headers.iter().find(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"));
    assert_eq!(ours, None);
}

fn varies(answer: &Answer) -> bool {
    let all = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("vary"));
    all.flat_map(|(_, value)| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

#[test]
fn a_preflight_is_answered_before_any_token_and_never_reaches_the_upstream() {
    let (gateway, upstream) = start();
    let asked =
        preflight(&gateway, "/api", APP, "PUT").header("Access-Control-Request-Headers", "authorization,x-a");
    let answer = asked.send().expect(204);
    for (name, value) in [
        ("access-control-allow-origin", APP),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT, HEAD"),
        ("access-control-allow-headers", "authorization,x-a"),
        ("access-control-max-age", "600"),
        ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let elsewhere = preflight(&gateway, "/api", "https://evil.example", "PUT").send();
    without_cors(&elsewhere.expect_problem(403, "forbidden"));
    without_cors(&preflight(&gateway, "/api", APP, "DELETE").send().expect(405));

    let any = preflight(&gateway, "/any", "https://any.example", "DELETE");
    let answer = any.send().expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("DELETE"));
    assert!(answer.header("access-control-allow-credentials").is_none());
    let any = preflight(&gateway, "/any", "https://any.example", "GET");
    without_cors(&any.header("Access-Control-Request-Headers", "x-known, x-other").send().expect(403));
    assert!(upstream.received().is_empty());
}

#[test]
fn answers_and_refusals_can_be_read_by_listed_origins_alone() {
    let (gateway, _upstream) = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let from = |path: &str, token: &str, origin: &str| {
        let call = gateway.get(path).header("Origin", origin);
        if token.is_empty() { call.send() } else { call.bearer(token).send() }
    };
    for (path, token, status) in
        [("/api", &*ada.access, 200), ("/api", "", 401), ("/api", "x.y.z", 401), ("/away", &ada.access, 502)]
    {
        let answer = from(path, token, APP).expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{path} {status}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("access-control-expose-headers").unwrap().contains("Retry-After"));
        assert!(answer.header("access-control-allow-methods").is_none(), "the upstream's");
        assert!(varies(&answer));
        let elsewhere = from(path, token, "https://evil.example").expect(status);
        without_cors(&elsewhere);
        assert!(varies(&elsewhere));
    }
    let none = gateway.get("/api").bearer(&ada.access).send().expect(200);
    without_cors(&none);
    assert!(varies(&none));
    let any = from("/any", "", "https://any.example").expect(200);
    assert_eq!(any.header("access-control-allow-origin"), Some("*"));
    assert!(any.header("access-control-expose-headers").is_none());
}

#[test]
fn without_rules_preflights_are_forwarded_and_nothing_else_that_looks_like_one() {
    let (gateway, upstream) = start();
    // The upstream speaks for itself.
    for path in ["/plain", "/named"] {
        let answer = preflight(&gateway, path, APP, "GET").send().expect(204);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert!(!upstream.nth(1).folded("x-auth-subject"));
    preflight(&gateway, "/named", APP, "PUT").send().expect(405);
    let reached = upstream.received().len();
    let asked = || preflight(&gateway, "/plain", APP, "GET");
    asked().bearer("x.y.z").send().expect(401);
    asked().header("X-HTTP-Method-Override", "DELETE").send().expect(401);
    asked().body("text/plain", b"x".to_vec()).send().expect(401);
    asked().header("Origin", "https://evil.example").send().expect(401);
    gateway.call("OPTIONS", "/plain").header("Origin", APP).send().expect(401);
    gateway.call("OPTIONS", "/plain").header("Access-Control-Request-Method", "GET").send().expect(401);
    gateway
        .get("/plain")
        .header("Origin", APP)
        .header("Access-Control-Request-Method", "GET")
        .send()
        .expect(401);
    assert_eq!(upstream.received().len(), reached);
}

#[test]
fn the_auth_endpoints_have_rules_of_their_own() {
    let (gateway, _upstream) = start();
    Account::sign_up(&gateway, "ada@example.com");
    let asked = preflight(&gateway, "/auth/signin", APP, "POST")
        .header("Access-Control-Request-Headers", "content-type");
    assert_eq!(asked.send().expect(204).header("access-control-allow-origin"), Some(APP));
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let answer = gateway.post("/auth/signin").header("Origin", APP).json(&body).send().expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    let wrong = json!({ "email": "ada@example.com", "password": "wrong" });
    let answer = gateway.post("/auth/signin").header("Origin", APP).json(&wrong).send().expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    without_cors(&preflight(&gateway, "/auth/signin", "https://evil.example", "POST").send().expect(403));
}

/// Uses the gateway as an application on another origin does, and tells its own server what came of it.
const PAGE: &str = r#"<!doctype html><title>app</title><script type="module">
const gateway = "http://" + new URLSearchParams(location.search).get("gateway");
const attempt = async (path, options) => {
  try {
    const answer = await fetch(gateway + path, { credentials: "include", ...options });
    return { status: answer.status, id: answer.headers.get("x-request-id") !== null,
             left: answer.headers.get("ratelimit"), body: await answer.json().catch(() => null) };
  } catch (error) { return { failed: error.name }; }
};
const json = { "content-type": "application/json" };
const account = JSON.stringify({ email: "ada@example.com", password: "tr1cky-pass!word" });
const signin = await attempt("/auth/signin", { method: "POST", headers: json, body: account });
const token = signin.body?.data?.[0]?.access_token;
const bearer = { authorization: "Bearer " + token, "x-own": "1" };
const report = {
  signin: signin.failed ?? signin.status,
  put: await attempt("/api", { method: "PUT", headers: { ...bearer, ...json }, body: "{}" }),
  none: await attempt("/api", {}),
  limited: await attempt("/api", { headers: bearer }),
};
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
</script>"#;

fn app() -> Upstream {
    Upstream::new(|received: &Received| match received.line.starts_with("POST /report ") {
        true => Reply::Full(204, vec![], vec![]),
        false => Reply::Full(200, vec![("Content-Type", "text/html".to_owned())], PAGE.as_bytes().to_vec()),
    })
}

fn reported(app: &Upstream, gateway: &Gateway) -> Value {
    let _browser = Chromium::open(&format!("http://{}/?gateway={}", app.address(), gateway.address()));
    let is_report = |received: &Received| received.line.starts_with("POST /report ");
    let report = wait_for("the report of the page", || app.received().into_iter().find(is_report));
    serde_json::from_slice(&report.body).unwrap()
}

#[test]
fn a_browser_lets_the_page_of_a_listed_origin_through_and_no_other() {
    let (api, ours, theirs) = (Upstream::echo(), app(), app());
    let rules = format!("cors = {{ origins = [\"http://{}\"], credentials = true }}\n", ours.address());
    let limit = "rate_limit = { requests = 1, per = \"1h\" }\n";
    let gateway = Setup::new()
        .auth(&rules)
        .upstream("api", api.address())
        .route_with("api", "/api", "api", "access", &format!("{rules}{limit}"))
        .start();
    Account::sign_up(&gateway, "ada@example.com");
    let report = reported(&ours, &gateway);
    assert_eq!(report["signin"], 200, "{report}");
    assert_eq!((&report["put"]["status"], &report["put"]["id"]), (&json!(200), &json!(true)), "{report}");
    assert!(report["put"]["left"].as_str().unwrap().starts_with("\"api\";r=0"), "{report}");
    assert_eq!(
        (&report["none"]["status"], &report["none"]["body"]["code"]),
        (&json!(401), &json!("token_missing"))
    );
    assert_eq!(
        (&report["limited"]["status"], &report["limited"]["body"]["code"]),
        (&json!(429), &json!("rate_limited"))
    );
    let put = api.nth(1);
    assert!(put.line.starts_with("PUT /api ") && put.one("x-own") == "1", "{put:?}");
    assert_eq!(api.received().len(), 1);

    let report = reported(&theirs, &gateway);
    assert_eq!(report["signin"], "TypeError", "{report}");
    for name in ["put", "none", "limited"] {
        assert_eq!(report[name], json!({ "failed": "TypeError" }), "{report}");
    }
    assert_eq!(api.received().len(), 1);
}
