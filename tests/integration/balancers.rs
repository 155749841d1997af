//! HAProxy before the gateway (CONTRACT §2 `proxy_protocol`): what it says of its clients, in its own words.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::curl::Curl;
use crate::support::pki::Authority;
use crate::support::{Setup, Upstream, wait_for};

/// One in front of these addresses, each with these words after it, until it is dropped.
struct HaProxy {
    child: Child,
    addresses: Vec<SocketAddr>,
    _dir: TempDir,
}

impl HaProxy {
    fn start(servers: &[(SocketAddr, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<_> = servers.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let mut text =
            "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n"
                .to_owned();
        for (number, ((server, words), address)) in servers.iter().zip(&addresses).enumerate() {
            text.push_str(&format!("listen l{number}\n bind {address}\n server gateway {server} {words}\n"));
        }
        let path = dir.path().join("haproxy.cfg");
        fs::write(&path, text).unwrap();
        drop(listeners);
        let program = if fs::exists("/usr/sbin/haproxy").unwrap() { "/usr/sbin/haproxy" } else { "haproxy" };
        let child = Command::new(program)
            .args(["-db", "-q", "-f"])
            .arg(path)
            .stdin(Stdio::null())
            .spawn()
            .expect("haproxy (Debian: apt-get install haproxy; `make test` does it)");
        let haproxy = Self { child, addresses, _dir: dir };
        for address in &haproxy.addresses {
            wait_for("haproxy to listen", || TcpStream::connect(address).ok());
        }
        haproxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn haproxy_tells_who_its_clients_are() {
    let (ca, upstream) = (Authority::new("ca"), Upstream::echo());
    let pair = ca.issue(&["a.test"]);
    let gateway = Setup::without_auth()
        .server("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1/32\"]")
        .secret("ca.pem", &ca.pem)
        .secret("tls/a.pem", &pair.cert)
        .secret("tls/a.key", &pair.key)
        .section(
            "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{ cert = \"tls/a.pem\", key = \"tls/a.key\" }]",
        )
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    let (clear, tls) = (gateway.address(), gateway.listening("tls"));
    let haproxy = HaProxy::start(&[
        (clear, "send-proxy"),
        (clear, "send-proxy-v2"),
        (tls, "send-proxy"),
        (tls, "send-proxy-v2 proxy-v2-options ssl,unique-id,crc32c"),
        (clear, ""),
    ]);
    // Another address of this machine: a client that cannot be taken for the balancer.
    let curl = |number: usize, scheme: &str, option: &str| {
        Curl::new(&format!("{scheme}://a.test/"), haproxy.addresses[number])
            .arg("--interface")
            .arg("127.0.0.9")
            .file("--cacert", &gateway.dir().join("ca.pem"))
            .arg(option)
            .header("X-Forwarded-For: 8.8.8.8")
    };
    for (number, scheme, option, version) in [
        (0, "http", "--http1.1", "1.1"),
        (1, "http", "--http1.1", "1.1"),
        (0, "http", "--http2-prior-knowledge", "2"),
        (1, "http", "--http2-prior-knowledge", "2"),
        (2, "https", "--http1.1", "1.1"),
        (3, "https", "--http1.1", "1.1"),
        (2, "https", "--http2", "2"),
        (3, "https", "--http2", "2"),
    ] {
        let answer = curl(number, scheme, option).run().expect(200);
        assert_eq!(answer.version, version);
        let seen = upstream.received().pop().unwrap();
        assert_eq!(seen.one("x-forwarded-for"), "127.0.0.9", "{number} {option}");
        assert_eq!(seen.one("x-forwarded-proto"), scheme);
    }
    let count = upstream.received().len();
    assert_ne!(curl(4, "http", "--http1.1").run().exit, 0, "without a header nobody gets in");
    assert_eq!(upstream.received().len(), count);
}
