//! A scripted identity provider: real sockets, a script that a test changes while it runs.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use super::{Received, Reply, Upstream};

/// What a path of the provider answers.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Json(Value),
    Text(String),
    Status(u16),
    /// 302 to this address.
    Redirect(String),
    /// Nothing; the connection stays open.
    Silence,
}

type Pages = Arc<Mutex<HashMap<String, Page>>>;

/// A provider that runs as long as its test.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    upstream: Upstream,
    pages: Pages,
    scheme: &'static str,
}

impl Provider {
    pub(crate) fn new() -> Self {
        let pages = Pages::default();
        let script = pages.clone();
        let upstream = Upstream::new(move |request| reply(&script, request.target()));
        Self { upstream, pages, scheme: "http" }
    }

    /// Over TLS, with a certificate for 127.0.0.1 that signs itself; its PEM is given as well. One request a connection.
    pub(crate) fn tls() -> (Self, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let config = Arc::new(config);
        let pages = Pages::default();
        let script = pages.clone();
        let upstream = Upstream::raw(move |stream, _| {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if !matches!(stream.read(&mut byte), Ok(1)) {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if let Reply::Full(status, _, body) = reply(&script, head.split(' ').nth(1).unwrap_or_default()) {
                let start = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(start.as_bytes());
                let _ = stream.write_all(&body);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        (Self { upstream, pages, scheme: "https" }, certificate.pem())
    }

    /// What this path answers from now on.
    pub(crate) fn set(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// The key set at `/jwks` from now on.
    pub(crate) fn publish(&self, keys: &[Value]) {
        self.set("/jwks", Page::Json(json!({ "keys": keys })));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address())
    }

    /// Requests for this path so far; of a provider without TLS.
    pub(crate) fn asked(&self, path: &str) -> Vec<Received> {
        self.upstream.received().into_iter().filter(|request| request.target() == path).collect()
    }
}

fn reply(pages: &Pages, target: &str) -> Reply {
    let full = |status, fields, body: String| Reply::Full(status, fields, body.into_bytes());
    match pages.lock().unwrap().get(target).cloned() {
        None => full(404, Vec::new(), String::new()),
        Some(Page::Json(body)) => Reply::json(&body),
        Some(Page::Text(body)) => full(200, Vec::new(), body),
        Some(Page::Status(status)) => full(status, Vec::new(), "no".to_owned()),
        Some(Page::Redirect(to)) => full(302, vec![("Location", to)], String::new()),
        Some(Page::Silence) => Reply::Raw(Vec::new()),
    }
}
