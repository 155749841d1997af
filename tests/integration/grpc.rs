//! gRPC end to end, with clients and servers that we did not write.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::jwt::claims_of;
use crate::support::{Setup, Upstream, python};

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/grpc")
}

/// A Python program, killed when it is dropped.
struct Program(Child, BufReader<ChildStdout>);

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let python = python::with("grpc", &files().join("requirements.txt"));
        let mut command = Command::new(python);
        command.arg(files().join(name)).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }

    fn step(&mut self, name: &str) -> Value {
        let line = self.line();
        let step: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name}: {error}: {line:?}"));
        assert_eq!(step["step"], name, "{step}");
        step
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn calls_streams_refusals_and_cuts() {
    let mut server = Program::start("server.py", &[]);
    let port: u16 = server.line().trim().parse().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut gateway = Setup::new()
        .upstream_with("g", address, "http2 = true\n")
        .upstream_with("dead", Upstream::nobody(), "http2 = true\n")
        .route("t", "/t.T", "g", "access")
        .route_with("scoped", "/scoped.T", "g", "access", "scopes = [\"rare\"]\n")
        .route("dead", "/dead.T", "dead", "access")
        .start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let mut client = Program::start("client.py", &[&gateway.address().to_string(), &ann.access]);

    let step = client.step("unary");
    assert_eq!(step["answer"], "got hello");
    assert_eq!(step["trailers"], json!({ "x-subject": claims_of(&ann.access)["sub"], "x-proto": "http" }));
    assert_eq!(client.step("fail"), json!({ "step": "fail", "code": 5, "words": "no such thing" }));
    for (name, code) in [("anonymous", 16), ("forged", 16), ("scope", 7), ("dead", 14)] {
        let step = client.step(name);
        assert_eq!(step["code"], code, "{step}");
        assert!(!step["words"].as_str().unwrap().is_empty());
    }
    assert_eq!(client.step("both")["answers"], json!(["re one", "re two"]));
    assert_eq!(client.step("stream")["answers"], json!(["0", "1", "2"]));
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
    assert_eq!(client.step("cut")["code"], 1, "CANCELLED: the stream was reset");
    gateway.sigterm();
    assert!(gateway.wait().success());
}
