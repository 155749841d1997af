//! What the commands say to a running gateway: one HTTP/1.1 request a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::config;

/// How long a command waits for its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, read whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Sends one request and reads the answer whole.
pub(super) fn request(to: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(to, request))
            .await
            .map_err(|_| anyhow!("no answer from {to} within {} s", PATIENCE.as_secs()))?
    })
}

async fn exchange<B>(to: SocketAddr, request: Request<B>) -> anyhow::Result<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream =
        tokio::net::TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// The admin listener of the gateway that runs with these settings.
pub(super) struct Admin {
    address: SocketAddr,
    token: Option<String>,
}

impl Admin {
    /// With the token of `[admin] token_file`.
    ///
    /// # Errors
    /// When the file cannot be read: the gateway makes it at its first start.
    pub(super) fn of(settings: &config::Settings) -> anyhow::Result<Self> {
        let path = &settings.admin.token_file;
        let token = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the admin token {} (the gateway makes it at its first start)",
                path.display()
            )
        })?;
        Ok(Self { token: Some(token.trim().to_owned()), ..Self::without_token(settings) })
    }

    pub(super) fn without_token(settings: &config::Settings) -> Self {
        let mut address = settings.admin.listen;
        // An unspecified address is one to listen on, not one to connect to.
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self { address, token: None }
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None)
    }

    /// Sends a body of any size as lines of JSON. There is no limit on how long it takes to come together.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) fn post_lines<B>(&self, path: &str, body: B) -> anyhow::Result<Value>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = self.builder(Method::POST, path).header("content-type", "application/x-ndjson");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(exchange(self.address, request.body(body)?));
        judged(&answer.context("the gateway did not take the lines")?)
    }

    /// Where it is asked for.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A call whose answer is JSON.
    ///
    /// # Errors
    /// When nobody answers, and for every status but 2xx, in the words of the answer.
    pub(super) fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = self.builder(method, path);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self::request(self.address, request.body(Full::new(bytes))?)
            .context("is the gateway running? its admin listener did not answer")?;
        judged(&answer)
    }

    fn builder(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

fn judged(answer: &Answer) -> anyhow::Result<Value> {
    let value = answer.json().unwrap_or(Value::Null);
    if !answer.status.is_success() {
        let words = value["detail"].as_str().unwrap_or("no details");
        bail!("{}: {words}", answer.status.as_u16());
    }
    Ok(value)
}
