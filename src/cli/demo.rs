//! `portcullis demo`: a sample API, a gateway before it, and the whole main job over real sockets, printed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{Common, Failure, Outcome, client};
use crate::{app, config};

/// What the demo's user signs in with; nothing outside the temporary directory ever sees it.
const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "analytical-engine-1843";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Leave the gateway and the sample API running, and say how to talk to them.
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(common: &Common, options: &Options) -> Outcome {
    let place = Place::make().context("cannot make a temporary directory")?;
    let api = sample_api().context("cannot start the sample API")?;
    let toml = configuration(api);
    let path = place.0.join("gateway.toml");
    std::fs::write(&path, &toml).context("cannot write the demo's gateway.toml")?;
    let settings = config::load(&path).map_err(|errors| Failure::Usage(errors.to_string()))?;
    let running = app::start(settings)?;
    let gateway = *running.listening().first().context("the gateway listens nowhere")?;
    if !common.json {
        say!("A sample API that knows nothing of tokens listens on {api}.");
        say!("Portcullis stands before it on {gateway}, with this gateway.toml:\n");
        say!("{}", toml.lines().map(|line| format!("    {line}\n")).collect::<String>());
    }
    let walked = Walk { gateway, step: 0, json: common.json }.walk();
    if walked.is_ok() && options.keep && common.json {
        let left = json!({ "gateway": gateway, "admin": running.admin(), "admin_token_file": place.token() });
        say!("{left}");
        running.wait()?;
        return Ok(walked?);
    }
    if walked.is_ok() && options.keep {
        say!("Both are left running. Try it yourself:\n");
        say!(
            "    curl -i http://{gateway}/auth/signin -d email={EMAIL} --data-urlencode password={PASSWORD}"
        );
        say!("    curl -i http://{gateway}/catalogue -H \"Authorization: Bearer $ACCESS_TOKEN\"");
        say!("    admin API on http://{}, its token in {}", running.admin(), place.token().display());
        say!("\nCtrl-C ends them and removes {}.", place.0.display());
        running.wait()?;
        return Ok(walked?);
    }
    running.stop()?;
    Ok(walked?)
}

/// The temporary directory; removed at the end.
struct Place(PathBuf);

impl Place {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn token(&self) -> PathBuf {
        Path::join(&self.0, "state/admin.token")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn configuration(api: SocketAddr) -> String {
    format!(
        r#"[server]
listen = ["127.0.0.1:0"]
access_log = "off"

[admin]
listen = "127.0.0.1:0"

[[upstreams]]
name = "sample"
targets = ["http://{api}"]

[[routes]]
name = "catalogue"
path = "/catalogue"
upstream = "sample"
"#
    )
}

/// An HTTP API as one finds them: it answers whoever reaches it.
fn sample_api() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("sample-api".into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(sample_answer)),
                );
            }
        });
    })?;
    Ok(address)
}

async fn sample_answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let told = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let body = json!({
        "catalogue": ["abacus", "slide rule", "difference engine"],
        "asked_by": told("x-auth-subject"),
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The steps, each one request printed with its answer.
struct Walk {
    gateway: SocketAddr,
    step: u32,
    /// A line of JSON a step, instead of words for people.
    json: bool,
}

impl Walk {
    fn walk(mut self) -> anyhow::Result<()> {
        let credentials = json!({ "email": EMAIL, "password": PASSWORD });
        let first = self.step(
            "Sign up: the gateway keeps the account and issues an access and a refresh token.",
            "POST /auth/signup",
            None,
            Some(&credentials),
            201,
        )?;
        let access = token(&first, "access_token")?;
        self.step("Call the API with the access token.", "GET /catalogue", Some(&access), None, 200)?;
        self.step(
            "Log out: the session is revoked, on disk before this answer.",
            "POST /auth/logout",
            Some(&access),
            None,
            200,
        )?;
        self.step(
            "The same call again. The token is well signed and not expired, and refused all the same.",
            "GET /catalogue",
            Some(&access),
            None,
            401,
        )?;
        let second =
            self.step("Sign in again: a new session.", "POST /auth/signin", None, Some(&credentials), 200)?;
        let retired = token(&second, "refresh_token")?;
        let third = self.step(
            "Refresh: a new pair, and the old refresh token is retired.",
            "POST /auth/refresh",
            Some(&retired),
            None,
            200,
        )?;
        let owner = token(&third, "access_token")?;
        self.step(
            "The owner goes on with the new refresh token.",
            "POST /auth/refresh",
            Some(&token(&third, "refresh_token")?),
            None,
            200,
        )?;
        self.step(
            "A thief tries the retired one: reuse is noticed, and the whole session revoked.",
            "POST /auth/refresh",
            Some(&retired),
            None,
            401,
        )?;
        self.step(
            "So the tokens of that session are dead too, wherever they are.",
            "GET /catalogue",
            Some(&owner),
            None,
            401,
        )?;
        if !self.json {
            say!("Every answer was as it should be.");
        }
        Ok(())
    }

    fn step(
        &mut self,
        words: &str,
        line: &str,
        bearer: Option<&str>,
        body: Option<&Value>,
        wanted: u16,
    ) -> anyhow::Result<Value> {
        self.step += 1;
        let (method, path) = line.split_once(' ').context("a step is a method and a path")?;
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.gateway.to_string());
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header("content-type", "application/json");
            bytes = Bytes::from(body.to_string());
        }
        let answer = client::request(self.gateway, request.body(Full::new(bytes))?)?;
        let value = answer.json().unwrap_or(Value::Null);
        let challenge = answer.headers.get("www-authenticate").map(|value| value.to_str().unwrap_or("?"));
        let shown = Shown { words, line, bearer, body, challenge };
        if self.json {
            shown.as_json(self.step, &answer, &value)
        } else {
            shown.as_words(self.step, &answer, &value)
        }
        if answer.status != StatusCode::from_u16(wanted)? {
            bail!("step {}: the answer should have been {wanted}", self.step);
        }
        Ok(value)
    }
}

/// One step as it is shown: no secret in it whole.
struct Shown<'a> {
    words: &'a str,
    line: &'a str,
    bearer: Option<&'a str>,
    body: Option<&'a Value>,
    challenge: Option<&'a str>,
}

impl Shown<'_> {
    fn as_words(&self, step: u32, answer: &client::Answer, value: &Value) {
        say!("{step}. {}\n\n   > {}", self.words, self.line);
        if let Some(token) = self.bearer {
            say!("   > Authorization: Bearer {}", shortened(token));
        }
        if let Some(body) = self.body {
            say!("   > {}", hidden(body.clone()));
        }
        say!("   < {}", answer.status);
        if let Some(challenge) = self.challenge {
            say!("   < WWW-Authenticate: {challenge}");
        }
        say!("   < {}\n", hidden(value.clone()));
    }

    fn as_json(&self, step: u32, answer: &client::Answer, value: &Value) {
        let line = json!({
            "step": step, "about": self.words, "request": self.line, "bearer": self.bearer.map(shortened),
            "body": self.body.map(|body| hidden(body.clone())), "status": answer.status.as_u16(),
            "www_authenticate": self.challenge, "answer": hidden(value.clone()),
        });
        say!("{line}");
    }
}

fn token(answer: &Value, name: &str) -> anyhow::Result<String> {
    answer["data"][0][name].as_str().map(str::to_owned).with_context(|| format!("no {name} in the answer"))
}

fn shortened(token: &str) -> String {
    format!("{}…", token.chars().take(12).collect::<String>())
}

/// For the screen: tokens shortened, passwords hidden.
fn hidden(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members {
                *member = match (name.as_str(), member.take()) {
                    ("access_token" | "refresh_token", Value::String(token)) => shortened(&token).into(),
                    ("password", _) => "…".into(),
                    (_, other) => hidden(other),
                };
            }
        }
        Value::Array(members) => members.iter_mut().for_each(|member| *member = hidden(member.take())),
        _ => {}
    }
    value
}
