//! `[server.tls]`: who gets in, with which certificate, and what the requests behind TLS look like.

use std::fs;

use serde_json::Value;

use crate::support::curl::Curl;
use crate::support::pki::{Authority, Pair};
use crate::support::{Gateway, Setup, Upstream, wait_for};

/// A gateway that speaks TLS with these certificates (`tls/NAME.pem`), with lines of `[server.tls]`.
fn start(setup: Setup, certificates: &[(&str, &Pair)], ca: &Authority, lines: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::echo();
    let names: Vec<String> = certificates
        .iter()
        .map(|(name, _)| format!("{{ cert = \"tls/{name}.pem\", key = \"tls/{name}.key\" }}"))
        .collect();
    let mut setup = setup.secret("ca.pem", &ca.pem).section(&format!(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{}]\n{lines}",
        names.join(", ")
    ));
    for (name, pair) in certificates {
        setup = setup
            .secret(&format!("tls/{name}.pem"), &pair.cert)
            .secret(&format!("tls/{name}.key"), &pair.key);
    }
    let setup = setup.upstream("u", upstream.address()).route("open", "/", "u", "public");
    (setup.start(), upstream)
}

fn curl(gateway: &Gateway, url: &str) -> Curl {
    Curl::new(url, gateway.listening("tls")).file("--cacert", &gateway.dir().join("ca.pem"))
}

fn sent(echo: &Value, name: &str) -> String {
    let fields = echo["headers"].as_array().unwrap();
    let found = fields.iter().find(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |field| field[1].as_str().unwrap().to_owned())
}

#[test]
fn both_versions_of_tls_and_of_http_are_spoken() {
    let ca = Authority::new("ca");
    let pair = ca.issue(&["a.test"]);
    let hsts = "hsts = \"max-age=31536000\"";
    let (gateway, _upstream) = start(Setup::new(), &[("a", &pair)], &ca, hsts);
    for (options, version) in [
        (&["--http1.1", "--tls-max", "1.2"][..], "1.1"),
        (&["--http1.1", "--tlsv1.3"], "1.1"),
        (&["--http2", "--tls-max", "1.2"], "2"),
        (&["--http2", "--tlsv1.3"], "2"),
        (&["--no-alpn"], "1.1"),
    ] {
        let call = options.iter().fold(curl(&gateway, "https://a.test/x?y"), |call, option| call.arg(option));
        let answer = call.header("X-Forwarded-Proto: http").run().expect(200);
        assert_eq!(answer.version, version, "{options:?}");
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
        let echo = answer.json();
        assert_eq!(echo["line"], "GET /x?y HTTP/1.1");
        assert_eq!(sent(&echo, "x-forwarded-proto"), "https");
        assert_eq!(sent(&echo, "host"), "a.test");
        assert_eq!(sent(&echo, "via"), format!("{version} portcullis"));
    }
    let old = curl(&gateway, "https://a.test/").arg("--tls-max").arg("1.1").run();
    assert_ne!(old.exit, 0, "TLS 1.1 is not spoken: {old:?}");
    // The gateway's own answers are marked, too; those of the clear listener are not.
    let own = curl(&gateway, "https://a.test/auth/me").run().expect(401);
    assert!(own.header("strict-transport-security").is_some());
    assert_eq!(gateway.get("/").send().expect(200).header("strict-transport-security"), None);
}

#[test]
fn the_host_asked_for_chooses_the_certificate() {
    let ca = Authority::new("ca");
    let (first, wild) = (ca.issue(&["first.test", "127.0.0.1"]), ca.issue(&["*.wild.test"]));
    let (gateway, _upstream) = start(Setup::new(), &[("first", &first), ("wild", &wild)], &ca, "");
    for (host, good) in
        [("first.test", true), ("a.wild.test", true), ("127.0.0.1", true), ("other.test", false)]
    {
        let answer = curl(&gateway, &format!("https://{host}/")).run();
        assert_eq!(answer.exit == 0 && answer.status == 200, good, "{host}: {answer:?}");
    }
    // Without client certificates, nothing hangs on the name in the handshake.
    curl(&gateway, "https://first.test/").header("Host: other.test").run().expect(200);
}

#[test]
fn client_certificates_are_verified() {
    let (ca, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let (pair, good, bad) =
        (ca.issue(&["a.test", "b.test"]), ca.issue(&["client"]), stranger.issue(&["client"]));
    let ask = |gateway: &Gateway, own: Option<&Pair>, host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = ca.exchange(gateway.listening("tls"), "a.test", own, &request);
        answer.ok().and_then(|answer| answer.get(9..12)?.parse::<u16>().ok())
    };
    let (gateway, _upstream) = start(Setup::new(), &[("a", &pair)], &ca, "client_ca = \"ca.pem\"");
    assert_eq!(ask(&gateway, Some(&good), "a.test"), Some(200));
    assert_eq!(ask(&gateway, None, "a.test"), None);
    assert_eq!(ask(&gateway, Some(&bad), "a.test"), None);
    assert_eq!(ask(&gateway, Some(&good), "b.test"), Some(421));
    assert_eq!(ask(&gateway, Some(&good), "A.TEST.:443"), Some(200));

    let lines = "client_ca = \"ca.pem\"\nclient_auth = \"request\"";
    let (gateway, _upstream) = start(Setup::new(), &[("a", &pair)], &ca, lines);
    assert_eq!(ask(&gateway, None, "a.test"), Some(200));
    assert_eq!(ask(&gateway, Some(&good), "a.test"), Some(200));
    assert_eq!(ask(&gateway, Some(&bad), "a.test"), None);
    let misdirected = curl(&gateway, "https://a.test/").header("Host: b.test").run().expect(421);
    assert_eq!(misdirected.json()["code"], "misdirected_request");
}

#[test]
fn new_certificates_are_used_without_a_restart_and_bad_ones_refused() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let pair = old.issue(&["a.test"]);
    let (gateway, _upstream) = start(Setup::new(), &[("a", &pair)], &old, "");
    let trusts = |ca: &Authority| {
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        ca.exchange(gateway.listening("tls"), "a.test", None, request)
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    assert!(trusts(&old) && !trusts(&new));

    let dir = gateway.dir().join("tls");
    let replace = |name: &str, text: &str| {
        fs::write(dir.join("next"), text).unwrap();
        fs::set_permissions(dir.join("next"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(dir.join("next"), dir.join(name)).unwrap();
    };
    let other = new.issue(&["a.test"]);
    replace("a.pem", &other.cert);
    wait_for("words about a bad pair", || {
        gateway.stderr().contains("is not the key of this certificate").then_some(())
    });
    assert!(trusts(&old), "the old pair stays in use");

    replace("a.key", &other.key);
    wait_for("the new certificate", || trusts(&new).then_some(()));
    assert!(!trusts(&old));
}

#[test]
fn heads_are_judged_behind_tls_too() {
    let ca = Authority::new("ca");
    let pair = ca.issue(&["a.test"]);
    let (gateway, upstream) = start(Setup::new(), &[("a", &pair)], &ca, "");
    let smuggled = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /inner HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let answer = ca.exchange(gateway.listening("tls"), "a.test", None, smuggled).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_request"), "{answer}");
    // Without ALPN nobody has agreed on HTTP/2.
    let preface =
        ca.exchange(gateway.listening("tls"), "a.test", None, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert!(preface.starts_with("HTTP/1.1 400"), "{preface}");
    assert!(upstream.received().is_empty());
}

#[test]
fn a_client_that_does_not_shake_hands_is_hung_up_on() {
    let ca = Authority::new("ca");
    let pair = ca.issue(&["a.test"]);
    let setup = Setup::new().server("header_read_timeout = \"300ms\"");
    let (gateway, _upstream) = start(setup, &[("a", &pair)], &ca, "");
    for beginning in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = crate::support::Connection::open(gateway.listening("tls"));
        client.send(beginning);
        assert!(client.closed(), "{beginning:?}");
    }
}

#[test]
fn a_key_that_others_can_read_stops_the_start() {
    let pair = Authority::new("ca").issue(&["a.test"]);
    let setup = Setup::new().secret("a.pem", &pair.cert).secret("a.key", &pair.key).section(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]",
    );
    fs::set_permissions(setup.path("a.key"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let ended = setup.run(&["run"]).expect(2);
    assert!(ended.stderr.contains("chmod 600"), "{}", ended.stderr);
}
