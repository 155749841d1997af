//! A real browser without a window, on a profile of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Connection;
use super::wait::{DEADLINE, wait_for};

/// Runs until it is dropped.
pub(crate) struct Chromium {
    child: Child,
    profile: TempDir,
}

/// One whose page takes scripts, by the DevTools protocol.
pub(crate) struct Driven {
    _browser: Chromium,
    stream: TcpStream,
    number: u64,
}

impl Chromium {
    /// Opens this page.
    pub(crate) fn open(url: &str) -> Self {
        let profile = tempfile::Builder::new().prefix("portcullis-chromium-").tempdir().unwrap();
        let child = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
            .args(["--no-first-run", "--disable-sync", "--disable-component-update", "--no-proxy-server"])
            .args(["--disable-dev-shm-usage", "--disable-extensions", "--disable-default-apps"])
            .args(["--remote-debugging-port=0", "--window-size=1360,900", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let needed = "chromium is needed (Debian: apt-get install chromium; `make test` does it)";
        Self { child: child.unwrap_or_else(|error| panic!("{needed}: {error}")), profile }
    }

    /// Opens this page, to be driven.
    pub(crate) fn driven(url: &str) -> Driven {
        let browser = Self::open(url);
        let told = browser.profile.path().join("DevToolsActivePort");
        let port: u16 = wait_for("chromium", || fs::read_to_string(&told).ok()?.lines().next()?.parse().ok());
        let address = ([127, 0, 0, 1], port).into();
        let socket = wait_for("the page", || {
            // It answers to names of this machine alone.
            let mut connection = Connection::try_open(address)?;
            connection.send(format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\n\r\n"));
            let pages = connection.answer("GET").json();
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?.clone();
            Some(page["webSocketDebuggerUrl"].as_str()?.to_owned())
        });
        let path = socket.splitn(4, '/').nth(3).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let ask = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).unwrap();
        let head = super::upstream::receive_head_of(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        Driven { _browser: browser, stream, number: 0 }
    }
}

impl Driven {
    /// What a script in the page gives; null while the page changes.
    pub(crate) fn run(&mut self, script: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            &json!({ "expression": script, "returnByValue": true, "awaitPromise": true }),
        );
        answer["result"]["result"]["value"].clone()
    }

    /// Waits until a script gives true.
    #[track_caller]
    pub(crate) fn until(&mut self, script: &str) {
        wait_for(script, || (self.run(script) == true).then_some(()));
    }

    /// What the page looks like, as PNG.
    pub(crate) fn picture(&mut self, path: &Path) {
        use base64::Engine as _;
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        let data = answer["result"]["data"].as_str().unwrap();
        fs::write(path, base64::engine::general_purpose::STANDARD.decode(data).unwrap()).unwrap();
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let number = self.number;
        self.send(&json!({ "id": number, "method": method, "params": parameters }).to_string());
        loop {
            let told: Value = serde_json::from_slice(&self.receive()).unwrap();
            if told["id"] == number {
                return told;
            }
        }
    }

    /// A text frame (RFC 6455 §5.2), masked with zeros.
    fn send(&mut self, text: &str) {
        let length = u64::try_from(text.len()).unwrap();
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).unwrap();
    }

    /// The next message.
    fn receive(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        loop {
            let [first, second] = self.bytes::<2>();
            let length = match second & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.bytes())),
                127 => u64::from_be_bytes(self.bytes()),
                length => u64::from(length),
            };
            let start = message.len();
            message.resize(start + usize::try_from(length).unwrap(), 0);
            self.stream.read_exact(&mut message[start..]).unwrap();
            if first & 0x80 != 0 {
                return message;
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its helpers are in its group.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
