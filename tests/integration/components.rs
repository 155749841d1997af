//! Programs that others wrote, before and behind the gateway: httpbin on waitress and nginx, asked by curl, httpx, h2load
//! and Node's fetch. What is well-formed to them must pass through unharmed.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::curl::Curl;
use crate::support::nginx::Nginx;
use crate::support::pki::Authority;
use crate::support::program::file;
use crate::support::upstream::receive_head;
use crate::support::{Gateway, Program, Setup, Upstream, python};

/// httpbin, and where it listens.
fn httpbin() -> (Program, SocketAddr) {
    let mut server = Program::python("components", "serve.py", &[]);
    let port: u16 = server.line().parse().expect("a port");
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A gateway in front of it.
fn before(httpbin: SocketAddr) -> Setup {
    Setup::without_auth().upstream("bin", httpbin).route("all", "/", "bin", "public")
}

/// The output of a program that must succeed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

// --- httpbin -----------------------------------------------------------------------------------------------------

#[test]
fn answers_are_the_same_with_and_without_the_gateway() {
    let (_server, address) = httpbin();
    let gateway = before(address).start();
    let python = python::with("components", &file("components/requirements.txt"));
    let mut command = Command::new(python);
    command.arg(file("components/differential.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    let told = run(command.arg(format!("http://{address}")).arg(format!("http://{}", gateway.address())));
    let last = told.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers[0] >= 250 && numbers[1] == 0, "{told}");
}

#[test]
fn curl_gets_through_in_every_way_it_knows() {
    let (_server, address) = httpbin();
    let gateway = before(address).server("max_body = \"64MiB\"").start();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| b'a' + (at % 23) as u8).collect();
    let path = gateway.dir().join("big");
    std::fs::write(&path, &big).unwrap();
    let big = String::from_utf8(big).unwrap();
    let data = format!("@{}", path.display());
    for (option, version) in [("--http1.1", "1.1"), ("--http1.0", "1"), ("--http2-prior-knowledge", "2")] {
        let curl =
            |target: &str| Curl::new(&format!("http://bin.test{target}"), gateway.address()).arg(option);
        let answer = curl("/get?a=1").run().expect(200);
        assert_eq!((answer.json()["args"]["a"].as_str(), answer.version.as_str()), (Some("1"), version));
        // Uploads: with a length, in chunks (HTTP/1.0 has none), and after a 100 that has to be waited for.
        let answer = curl("/post").arg("--data-binary").arg(&data).run().expect(200);
        assert_eq!(answer.json()["form"].as_object().map(|form| form.len()), Some(1));
        if option != "--http1.0" {
            let answer =
                curl("/put").file("--upload-file", &path).header("Content-Type: text/x").run().expect(200);
            assert_eq!(answer.json()["data"], big.as_str());
        }
        // HTTP/1.0 has no 100 (RFC 9110 section 10.1.1), and over HTTP/2 none is sent: there curl goes on after a second.
        let mut call = curl("/post").header("Content-Type: text/x").arg("--data-binary").arg(&data);
        if version != "1" {
            call = call.header("Expect: 100-continue");
        }
        if version == "1.1" {
            call = call.arg("--expect100-timeout").arg("29");
        }
        let started = Instant::now();
        let answer = call.run().expect(200);
        assert!(started.elapsed() < Duration::from_secs(25), "the 100 did not come");
        assert_eq!(answer.json()["data"], big.as_str());
        assert_eq!(answer.json()["headers"]["Expect"], Value::Null);
        // What has no body, a part of one, or a packed one.
        let answer = curl("/bytes/1000?seed=1").arg("--head").run().expect(200);
        assert_eq!((answer.header("content-length"), answer.exit), (Some("1000"), 0));
        let answer = curl("/range/100").arg("--range").arg("10-19").run().expect(206);
        assert_eq!(
            (answer.body.as_str(), answer.header("content-range")),
            ("klmnopqrst", Some("bytes 10-19/100"))
        );
        let answer = curl("/etag/abc").header("If-None-Match: \"abc\"").run().expect(304);
        assert_eq!((answer.body.as_str(), answer.exit), ("", 0));
        for (target, member) in [("/gzip", "gzipped"), ("/deflate", "deflated")] {
            let answer = curl(target).arg("--compressed").run().expect(200);
            assert_eq!(answer.json()[member], true);
        }
        curl("/status/204").run().expect(204);
        // By prior knowledge, curl 7.88 fails at that with every server (exit status 16).
        if version != "2" {
            let answer = curl("/redirect/3").arg("--location").run().expect(200);
            assert_eq!(answer.json()["url"], "http://bin.test/get");
        }
        let answer =
            curl("/stream-bytes/100000?seed=3&chunk_size=777").arg("--output").arg("/dev/null").run();
        assert_eq!((answer.status, answer.exit), (200, 0));
    }
}

#[test]
fn fetch_gets_through() {
    let (_server, address) = httpbin();
    let gateway = before(address).start();
    let url = format!("http://{}", gateway.address());
    let mut command = Command::new("node");
    let told = run(command.arg(file("components/fetch.mjs")).arg(url));
    assert!(told.ends_with("passed\n"), "{told}");
}

// --- nginx -------------------------------------------------------------------------------------------------------

const ECHO: &str = "location /echo { return 200 \"$server_protocol $ssl_client_verify $http_via $request_uri\"; }\n\
                    location /slow { limit_rate 2m; }\n";

/// nginx with these certificates, three times: with HTTP/2 over TLS for clients that show a certificate of ours, with TLS
/// alone, and without.
fn nginx(ca: &Authority, files: &[(&str, &[u8])]) -> Nginx {
    let pair = ca.issue(&["inner.test"]);
    let tls = "ssl_certificate cert.pem; ssl_certificate_key key.pem;\n";
    let secure = format!("{tls} ssl_client_certificate ca.pem; ssl_verify_client on;\n{ECHO}");
    let mut all: Vec<(&str, &[u8])> = vec![
        ("cert.pem", pair.cert.as_bytes()),
        ("key.pem", pair.key.as_bytes()),
        ("ca.pem", ca.pem.as_bytes()),
    ];
    all.extend_from_slice(files);
    Nginx::start(&[("ssl http2", &secure), ("ssl", &format!("{tls}{ECHO}")), ("", ECHO)], &all)
}

/// A gateway to all three, as `/h2`, `/tls` and `/clear`; it shows a certificate and trusts our authority alone.
fn before_nginx(ca: &Authority, nginx: &Nginx) -> Setup {
    let own = ca.issue(&["gateway"]);
    let upstream = |name: &str, url: String, lines: &str| {
        format!("[[upstreams]]\nname = \"{name}\"\ntargets = [\"{url}\"]\n{lines}\n")
    };
    let tls = "tls = { ca_file = \"ca.pem\", server_name = \"inner.test\", cert_file = \"own.pem\", key_file = \"own.key\" }";
    let nameless = "tls = { ca_file = \"ca.pem\", server_name = \"inner.test\" }";
    let mut setup = Setup::without_auth()
        .server("max_body = \"1GiB\"")
        .secret("ca.pem", &ca.pem)
        .secret("own.pem", &own.cert)
        .secret("own.key", &own.key)
        .section(&upstream("h2", format!("https://{}", nginx.address(0)), &format!("http2 = true\n{tls}")))
        .section(&upstream("one", format!("https://{}", nginx.address(0)), tls))
        .section(&upstream("unknown", format!("https://{}", nginx.address(0)), nameless))
        .section(&upstream("tls", format!("https://{}", nginx.address(1)), nameless))
        .section(&upstream("clear", format!("http://{}", nginx.address(2)), ""));
    for name in ["h2", "one", "unknown", "tls", "clear"] {
        setup = setup.route_with(name, &format!("/{name}"), name, "public", "strip_prefix = true\n");
    }
    setup
}

#[test]
fn nginx_is_spoken_to_in_every_version_and_shown_our_certificate() {
    let ca = Authority::new("ca");
    let nginx = nginx(&ca, &[]);
    let gateway = before_nginx(&ca, &nginx).start();
    for (path, expected) in [
        ("/h2/echo?x=%2f", "HTTP/2.0 SUCCESS 1.1 portcullis /echo?x=%2f"),
        ("/one/echo", "HTTP/1.1 SUCCESS 1.1 portcullis /echo"),
        ("/tls/echo", "HTTP/1.1 NONE 1.1 portcullis /echo"),
        ("/clear/echo", "HTTP/1.1  1.1 portcullis /echo"),
    ] {
        let answer = gateway.get(path).send().expect(200);
        assert_eq!(answer.text(), expected, "{path}");
        assert!(answer.header("server").is_some_and(|server| server.starts_with("nginx")));
    }
    // Without a certificate nginx says so itself.
    let answer = gateway.get("/unknown/echo").send().expect(400);
    assert!(answer.text().contains("No required SSL certificate"), "{}", answer.text());
}

#[test]
fn large_files_pass_whole_and_in_parts() {
    let ca = Authority::new("ca");
    let large: Vec<u8> = (0..24_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let nginx = nginx(&ca, &[("www/large", &large)]);
    let gateway = before_nginx(&ca, &nginx).start();
    let place = gateway.dir().join("fetched");
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        for route in ["h2", "tls", "clear"] {
            let url = format!("http://a.test/{route}/large");
            let curl = || Curl::new(&url, gateway.address()).arg(option);
            let answer = curl().file("--output", &place).run().expect(200);
            assert_eq!(answer.exit, 0);
            assert!(std::fs::read(&place).unwrap() == large, "{option} {route}");
            let etag = answer.header("etag").unwrap().to_owned();
            curl().header(&format!("If-None-Match: {etag}")).run().expect(304);
            let part =
                curl().arg("--range").arg("5000000-5000999").file("--output", &place).run().expect(206);
            assert_eq!(part.header("content-range"), Some("bytes 5000000-5000999/24000000"));
            assert!(std::fs::read(&place).unwrap() == large[5_000_000..5_001_000], "{option} {route}");
            // A client that goes on where it was broken off.
            std::fs::write(&place, &large[..23_000_000]).unwrap();
            let rest = curl().arg("--continue-at").arg("-").file("--output", &place).run().expect(206);
            assert_eq!(rest.exit, 0);
            assert!(std::fs::read(&place).unwrap() == large, "{option} {route}");
        }
    }
    assert_open_and_idle(&gateway);
}

#[test]
fn a_gibibyte_in_either_direction_costs_no_memory() {
    const LENGTH: u64 = 1 << 30;
    let ca = Authority::new("ca");
    let nginx = nginx(&ca, &[("www/none", b"")]);
    let large = nginx.dir().join("www/zeros");
    std::fs::File::create(&large).unwrap().set_len(LENGTH).unwrap(); // takes no room on the disk
    let sink = Upstream::raw(|mut stream, _| {
        let mut begun = Vec::new();
        receive_head(&mut stream, &mut begun);
        let (mut left, mut block) = (LENGTH - begun.len() as u64, vec![0; 1 << 18]);
        while left > 0 {
            left -= stream.read(&mut block).unwrap() as u64;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").unwrap();
    });
    let gateway = before_nginx(&ca, &nginx)
        .upstream("sink", sink.address())
        .route_with("sink", "/sink", "sink", "public", "max_body = 0\n")
        .start();
    let get = |path: &str| {
        Curl::new(&format!("http://a.test{path}"), gateway.address()).arg("--max-time").arg("150")
    };
    get("/clear/none").run().expect(200);
    let before = gateway.memory();
    let whole = get("/clear/zeros").arg("--output").arg("/dev/null").run().expect(200);
    assert_eq!((whole.exit, whole.header("content-length")), (0, Some("1073741824")));
    let whole = get("/clear/zeros").arg("--http2-prior-knowledge").arg("--output").arg("/dev/null").run();
    assert_eq!((whole.status, whole.exit), (200, 0));
    let answer = get("/sink").header("Expect:").file("--upload-file", &large).run().expect(200);
    assert_eq!(answer.body, "whole");
    let more = gateway.memory().saturating_sub(before);
    assert!(more < 16 << 20, "{more} bytes more");
}

/// Nothing is under way any more.
fn assert_open_and_idle(gateway: &Gateway) {
    crate::support::wait_for("the upstreams to be idle", || {
        let report = gateway.admin("GET", "/admin/upstreams").send().expect(200).json();
        let list = report["data"].as_array().or(report.as_array()).unwrap().clone();
        let targets = list.iter().flat_map(|upstream| upstream["targets"].as_array().unwrap());
        targets.clone().all(|target| target["in_flight"] == 0).then_some(())
    });
}

#[test]
fn h2load_finds_no_fault() {
    let ca = Authority::new("ca");
    let nginx = nginx(&ca, &[("www/page", &b"page ".repeat(500))]);
    let pair = ca.issue(&["a.test"]);
    let gateway = before_nginx(&ca, &nginx)
        .secret("tls/a.pem", &pair.cert)
        .secret("tls/a.key", &pair.key)
        .section(
            "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{ cert = \"tls/a.pem\", key = \"tls/a.key\" }]",
        )
        .start();
    let (clear, tls) = (gateway.address(), gateway.listening("tls"));
    for (url, options) in [
        (format!("http://{clear}/clear/page"), &["-c", "4", "-m", "32"][..]),
        (format!("http://{clear}/h2/page"), &["-c", "4", "-m", "32"]),
        (format!("https://{tls}/tls/page"), &["-c", "4", "-m", "8"]),
        (format!("http://{clear}/h2/page"), &["-c", "8", "--h1"]),
        (format!("https://{tls}/clear/page"), &["-c", "8", "--h1"]),
    ] {
        let told =
            run(Command::new("h2load").args(["-n", "1000", "-t", "1", "-T", "60"]).args(options).arg(&url));
        assert!(told.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{url} {options:?}: {told}");
        assert!(told.contains("status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{url} {options:?}: {told}");
    }
    assert_open_and_idle(&gateway);
}
