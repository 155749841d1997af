//! Client libraries that others wrote, against the real program: what they take for OAuth, a JWT, a key set is what
//! the world takes for it.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Account, Gateway, Setup, node, python};

const STATER: &str = "https://id.example";

/// A door in front of the gateway, whose address is known before the gateway starts: it is the issuer.
fn door() -> (SocketAddr, mpsc::SyncSender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (open, opened) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let Ok(behind) = opened.recv() else { return };
        for client in listener.incoming() {
            let (Ok(client), Ok(gateway)) = (client, TcpStream::connect(behind)) else { return };
            let there = (client.try_clone().unwrap(), gateway.try_clone().unwrap());
            thread::spawn(move || pass(there.0, there.1));
            thread::spawn(move || pass(gateway, client));
        }
    });
    (address, open)
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// A gateway with clients of both kinds and an external issuer, and what a library has to know of it.
fn start(secret: &str) -> (Gateway, Value) {
    let (address, open) = door();
    let issuer = format!("http://{address}");
    let key = rcgen::KeyPair::generate().unwrap();
    let gateway = Setup::new()
        .auth(&format!("issuer = \"{issuer}\""))
        .secret("secrets/worker", secret)
        .secret("secrets/signer.pem", key.public_key_pem())
        .section(
            "[[clients]]\nid = \"worker\"\nsecret_file = \"secrets/worker\"\n\
             may = [\"introspect\", \"revoke\", \"token\"]\nscopes = [\"read\", \"write\"]\n\
             [[clients]]\nid = \"signer\"\npublic_key_file = \"secrets/signer.pem\"\n\
             may = [\"introspect\", \"revoke\", \"token\"]\nscopes = [\"read\"]",
        )
        .section(&format!(
            "[[issuers]]\nname = \"stater\"\nissuer = \"{STATER}\"\nalgorithms = [\"ES256\"]\n\
             public_key_file = \"secrets/signer.pem\""
        ))
        .start();
    open.send(gateway.address()).unwrap();
    let account = Account::sign_up(&gateway, "ada@example.com");
    let given = json!({
        "issuer": issuer, "stater": STATER, "secret": secret, "key": key.serialize_pem(),
        "access": account.access, "refresh": account.refresh,
    });
    (gateway, given)
}

/// Runs a script with this on its standard input; it must say at last that all of it was passed.
fn run(mut command: Command, given: &Value) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("passed\n"), "{}\n{stdout}{stderr}", output.status);
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/libraries").join(name)
}

#[test]
fn pyjwt_and_authlib_take_us_for_an_authorization_server() {
    let python = python::with("libraries-python", &file("requirements.txt"));
    let (_gateway, given) = start("s3cret: +/%&=");
    let mut command = Command::new(python);
    command.arg(file("client.py")).env("AUTHLIB_INSECURE_TRANSPORT", "1");
    run(command, &given);
}

#[test]
fn jose_and_openid_client_take_us_for_an_authorization_server_and_a_receiver() {
    let script = node::with("libraries-node", &file("package.json"), &file("client.mjs"));
    let (_gateway, given) = start("s3cret: +/%&=\u{e9}");
    let mut command = Command::new("node");
    command.arg(script);
    run(command, &given);
}
