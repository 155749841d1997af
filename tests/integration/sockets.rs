//! WebSockets with `websockets` of PyPI on both sides (CONTRACT §3.8): what either side does reaches the other as it was.

use crate::support::nginx::Nginx;
use crate::support::pki::Authority;
use crate::support::{Program, Setup};

fn modes() -> (Program, String) {
    let mut server = Program::python("websockets", "modes.py", &[]);
    let address = server.line();
    (server, address)
}

fn walk(server: &mut Program, url: &str) {
    let mut client = Program::python("websockets", "walk.py", &[url]);
    assert_eq!(client.line(), "messages");
    // A message in pieces, sums, and what is given; each with compression and without.
    for _ in 0..2 {
        assert_eq!(server.line(), "ended 3001 enough");
        assert_eq!(server.line(), "ended 1000");
    }
    assert_eq!(client.line(), "pings");
    assert_eq!(server.line(), "ended 1000");
    assert_eq!(client.line(), "codes");
    assert_eq!(client.line(), "codes of ours");
    for code in [1000, 1001, 1008, 3001, 4000] {
        assert_eq!(server.line(), format!("ended {code} with {code}"));
    }
    assert_eq!(client.line(), "reset");
    assert!(client.wait().success());
}

#[test]
fn everything_that_websockets_do_passes_through() {
    let (mut server, address) = modes();
    let gateway = Setup::without_auth()
        .upstream("up", address.parse().unwrap())
        .route("all", "/", "up", "public")
        .start();
    walk(&mut server, &format!("ws://{}", gateway.address()));
}

/// nginx 1.22 opens no WebSocket on a stream of HTTP/2, but does so over HTTP/1.1 on the same port.
#[test]
fn an_upstream_of_http_2_that_takes_none_on_streams_is_asked_over_http_1() {
    let (mut server, address) = modes();
    let ca = Authority::new("ca");
    let pair = ca.issue(&["inner.test"]);
    let body = format!(
        "ssl_certificate cert.pem; ssl_certificate_key key.pem;\n\
         location /version {{ return 200 $server_protocol; }}\n\
         location / {{ proxy_pass http://{address}; proxy_http_version 1.1; proxy_read_timeout 60s;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}"
    );
    let files: [(&str, &[u8]); 2] = [("cert.pem", pair.cert.as_bytes()), ("key.pem", pair.key.as_bytes())];
    let nginx = Nginx::start(&[("ssl http2", &body)], &files);
    let gateway = Setup::without_auth()
        .secret("ca.pem", &ca.pem)
        .section(&format!(
            "[[upstreams]]\nname = \"up\"\ntargets = [\"https://{}\"]\nhttp2 = true\n\
             tls = {{ ca_file = \"ca.pem\", server_name = \"inner.test\" }}",
            nginx.address(0)
        ))
        .route("all", "/", "up", "public")
        .start();
    walk(&mut server, &format!("ws://{}", gateway.address()));
    // Everything else goes on over HTTP/2.
    assert_eq!(gateway.get("/version").send().expect(200).text(), "HTTP/2.0");
    let report = gateway.admin("GET", "/admin/upstreams").send().expect(200).text();
    assert!(report.contains("\"failures_total\":0"), "{report}");
}
