//! What the tests of this room run against: a store in a temporary directory, a toy signer, a log in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::settings::{Client, ClientKey, Credential, Lockout, OnReuse, Password, Settings};
use super::*;
use crate::clock::{ManualClock, UnixTime};
use crate::issuer::Stated;
use crate::issuer::settings::{Own, SELF};
use crate::revocation::{Kind, Revocation, Selector, SelectorKey, TokenKeys};
use crate::store::TrailEntry;
use crate::token::{
    Algorithm, ClaimNames, Fresh, KeySet, Possession, Proof, Terms, TokenType, Typ, VerifiedToken,
};

pub(super) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_250);
pub(super) const ADMIN: &str = "the-admin-token";
pub(super) const FRESH_TTL: Duration = Duration::from_secs(900);

pub(super) fn settings() -> Settings {
    Settings {
        prefixes: vec!["/auth".into(), "/api/v1/auth".into()],
        hosts: vec![],
        signup: true,
        own: Own {
            issuer: "portcullis".into(),
            audience: vec![],
            algorithm: Algorithm::HS256,
            access_ttl: Duration::from_secs(900),
            refresh_ttl: Duration::from_secs(30 * 86_400),
            fresh_ttl: FRESH_TTL,
            strict: false,
            keys_dir: "keys".into(),
            sealing: None,
        },
        rotate_refresh: true,
        reuse_grace: Duration::from_secs(10),
        on_reuse: OnReuse::RevokeSession,
        user_fields: vec!["firstname".into(), "lastname".into()],
        max_sessions_per_user: None,
        header_transport: true,
        cookie_transport: false,
        password: Password {
            min_length: 8,
            require_digit: true,
            require_symbol: true,
            deny_common: true,
            memory_kib: 64,
            iterations: 1,
            parallelism: 1,
            max_concurrent_hashes: 1,
        },
        lockout: Lockout { attempts: 5, window: Duration::from_secs(900) },
        claims: json!({ "tenant": "acme" }).as_object().unwrap().clone(),
        cors: None,
        delegate: None,
    }
}

/// The key of the client `signer`, and of who sends events.
pub(super) static SIGNER: LazyLock<rcgen::KeyPair> =
    LazyLock::new(|| rcgen::KeyPair::generate().expect("a key pair"));

pub(super) fn clients() -> Vec<Client> {
    let client = |id: &str, introspect, revoke| Client {
        id: id.into(),
        credential: Credential::Secret(Zeroizing::new(b"s3cret:%".to_vec())),
        introspect,
        revoke,
        token: false,
        scopes: vec![],
    };
    let worker =
        Client { token: true, scopes: vec!["read".into(), "write".into()], ..client("worker", false, false) };
    let key = ClientKey::from_pem(SIGNER.public_key_pem()).unwrap();
    let signer =
        Client { id: "signer".into(), credential: Credential::Key(key), introspect: true, ..worker.clone() };
    vec![client("billing", true, true), client("nothing", false, false), worker, signer]
}

/// A toy: the claims in base64url, and an HMAC over them by the secret of the issuer.
#[derive(Default)]
pub(super) struct ToyTokens {
    /// Broken on purpose: every refresh token gets an id of its own, a repeated one too.
    pub(super) siblings: Option<std::sync::atomic::AtomicU64>,
}

impl ToyTokens {
    /// A token with these claims, signed by this issuer.
    pub(super) fn sign(issuer: &str, claims: &Value) -> String {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.as_bytes());
        format!("{payload}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, payload.as_bytes())))
    }

    fn decode(text: &str) -> Option<VerifiedToken> {
        let (payload, tag) = text.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let issuer = claims["iss"].as_str()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.as_bytes());
        hmac::verify(&key, payload.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let name = |claim: &str| claims[claim].as_str().map(Box::from);
        let time = |claim: &str| claims[claim].as_u64().map(UnixTime::from_secs);
        Some(VerifiedToken {
            issuer: issuer.into(),
            token_id: name("jti")?,
            subject: name("sub"),
            session: name("sid"),
            client: name("client_id"),
            other_clients: Box::default(),
            key_id: Some("toy".into()),
            scopes: claims["scope"].as_str().unwrap_or_default().split_whitespace().map(Box::from).collect(),
            token_type: if claims["type"] == "refresh" { TokenType::Refresh } else { TokenType::Access },
            issued_at: time("iat"),
            expires_at: time("exp")?,
            fresh_until: (claims["fresh"] == true).then(|| time("iat").unwrap().plus(FRESH_TTL)),
            binding: None,
            claims: claims.as_object()?.into(),
        })
    }
}

impl Tokens for ToyTokens {
    fn admit_own<'a>(
        &'a self,
        text: &'a str,
        _possession: &'a Possession,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        Box::pin(async move {
            let token = self.verify_own_tolerating_expiry(text, now).await?;
            if token.expires_at <= now { Err(Unverified::Expired) } else { Ok(token) }
        })
    }

    fn take_proof(&self, _proof: &Proof, _now: UnixTime) -> Result<(), Unverified> {
        Ok(())
    }

    fn verify_own_tolerating_expiry<'a>(
        &'a self,
        text: &'a str,
        _now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        let token = Self::decode(text).filter(|token| *token.issuer == *SELF).map(Arc::new);
        std::future::ready(token.ok_or(Unverified::Invalid)).boxed()
    }

    fn verify<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        let token = Self::decode(text).map(Arc::new).ok_or(Unverified::Invalid);
        let token = token.and_then(|token| match token.expires_at <= now {
            true => Err(Unverified::Expired),
            false => Ok(token),
        });
        std::future::ready(token).boxed()
    }

    fn verify_for_revoking<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        self.verify(text, now)
    }

    fn verify_statement<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Stated, Unstated>> {
        let terms = statement_terms();
        let keys = |iss: Option<&str>| (iss == Some(STATER)).then_some(&*terms.keys);
        let statement = crate::token::verify_statement(text, text.len(), keys, now);
        let stated = statement.map(|statement| Stated { statement, terms: Arc::new(terms.clone()) });
        std::future::ready(stated.map_err(Unstated::Invalid)).boxed()
    }

    fn lifetime_max(&self, _issuer: &str) -> Duration {
        Duration::from_secs(30 * 86_400)
    }

    fn issue(&self, grant: &Grant<'_>) -> Result<Issued, SigningFailed> {
        let sibling = self.siblings.as_ref().filter(|_| grant.token_type == TokenType::Refresh);
        let sibling = sibling.map(|count| format!("sibling-{}", count.fetch_add(1, Ordering::Relaxed)));
        let token_id = sibling.as_deref().unwrap_or(grant.token_id);
        let mut claims = json!({
            "iss": SELF, "sub": grant.subject, "sid": grant.session, "jti": token_id,
            "iat": grant.issued_at.secs(), "exp": grant.expires_at.secs(), "type": grant.token_type.name(),
            "client_id": grant.client,
        });
        if grant.fresh {
            claims["fresh"] = true.into();
        }
        if !grant.scope.is_empty() {
            claims["scope"] = grant.scope.into();
        }
        claims.as_object_mut().unwrap().extend(grant.claims.clone());
        Ok(Issued { text: Self::sign(SELF, &claims), key_id: Some("toy".into()) })
    }

    fn sign_introspection(
        &self,
        audience: &str,
        view: &crate::token::Claims,
        now: UnixTime,
    ) -> Result<Option<String>, SigningFailed> {
        let claims = json!({ "aud": audience, "iat": now.secs(), "token_introspection": view });
        Ok(Some(Self::sign(SELF, &claims)))
    }

    fn jwks(&self, _now: UnixTime) -> Bytes {
        Bytes::from_static(b"{\"keys\":[]}")
    }
}

/// The `iss` of who sends events; its name is `legacy`.
pub(super) const STATER: &str = "https://id.example";

fn statement_terms() -> Terms {
    Terms {
        issuer: "legacy".into(),
        keys: Arc::new(KeySet::from_public_key(&SIGNER.public_key_pem(), &[Algorithm::ES256]).unwrap()),
        audience: vec!["us".into()],
        leeway: Duration::ZERO,
        skew: Duration::ZERO,
        lifetime_max: Duration::from_secs(3600),
        require: vec![],
        typ: Typ::Any,
        claims: ClaimNames::default(),
        revocable: Arc::default(),
        fresh: Fresh::Claimed,
    }
}

type Hook = Box<dyn FnOnce(&mut Vec<Revocation>) + Send>;

/// A log in memory, and a naive look through it.
pub(super) struct ToyLog {
    store: Arc<dyn Store>,
    pub(super) entries: Mutex<Vec<Revocation>>,
    pub(super) failing: AtomicBool,
    /// Runs once, just before the next append.
    pub(super) crossing: Mutex<Option<Hook>>,
}

impl Revocations for ToyLog {
    fn append(&self, batch: Vec<Revocation>) -> BoxFuture<'_, Result<u64, LogUnavailable>> {
        let answer = if self.failing.load(Ordering::SeqCst) {
            Err(LogUnavailable)
        } else {
            let mut entries = self.entries.lock().unwrap();
            if let Some(crossing) = self.crossing.lock().unwrap().take() {
                crossing(&mut entries);
            }
            entries.extend(batch);
            Ok(entries.len() as u64)
        };
        std::future::ready(answer).boxed()
    }

    fn in_force_until(&self, selector: &Selector) -> Option<UnixTime> {
        self.entries.lock().unwrap().iter().fold(None, |until, entry| {
            match (entry.selector == *selector, entry.lift) {
                (true, true) => None,
                (true, false) => until.max(Some(entry.expires_at)),
                _ => until,
            }
        })
    }

    fn refused_by(&self, keys: &TokenKeys, now: UnixTime) -> Vec<Kind> {
        let mut found: HashMap<SelectorKey, Kind> = HashMap::new();
        let all = [Some(keys.token), keys.session, keys.subject, keys.client, keys.key, Some(keys.issuer)];
        for entry in self.entries.lock().unwrap().iter() {
            let key = entry.selector.key();
            if entry.lift {
                found.remove(&key);
            } else if (all.contains(&Some(key)) || keys.claims.contains(&key))
                && entry.expires_at > now
                && entry.issued_before.is_none_or(|cutoff| keys.issued_at < cutoff)
            {
                found.insert(key, entry.selector.kind.clone());
            }
        }
        found.into_values().collect()
    }

    fn sequence(&self) -> u64 {
        self.entries.lock().unwrap().len() as u64
    }

    fn trail_caught_up(&self, _sequence: u64) -> BoxFuture<'_, ()> {
        async move {
            let entries = self.entries.lock().unwrap().clone();
            let entry = |(at, entry): (usize, Revocation)| TrailEntry {
                sequence: at as u64 + 1,
                kind: entry.selector.kind.to_string().into(),
                issuer: entry.selector.issuer,
                value: entry.selector.value,
                lift: entry.lift,
                issued_before: entry.issued_before,
                expires_at: entry.expires_at,
                reason: entry.reason,
                actor: entry.actor,
                address: entry.address,
                at: entry.at,
            };
            self.store.trail_append(entries.into_iter().enumerate().map(entry).collect()).await.unwrap();
        }
        .boxed()
    }
}

/// How a request carries its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum As {
    Json,
    Form,
}

/// An answer, read.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answered {
    /// `data[0].NAME`.
    pub(super) fn first(&self, name: &str) -> String {
        self.body["data"][0][name].as_str().unwrap_or_else(|| panic!("{name} in {self:?}")).to_owned()
    }

    /// The status, with the words of an error.
    pub(super) fn refusal(&self) -> (u16, &str) {
        assert_eq!(self.body["error"], self.body["detail"]);
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }

    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A browser's cookies.
#[derive(Clone, Debug, Default)]
pub(super) struct Jar(pub(super) std::collections::BTreeMap<String, String>);

impl Jar {
    /// Takes what an answer sets, drops what it clears.
    pub(super) fn take(&mut self, answer: &Answered) {
        for set in answer.headers.get_all("set-cookie") {
            let mut parts = set.to_str().unwrap().split("; ");
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            match parts.any(|part| part == "Max-Age=0") {
                true => drop(self.0.remove(name)),
                false => drop(self.0.insert(name.to_owned(), value.to_owned())),
            }
        }
    }

    pub(super) fn line(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn get(&self, name: &str) -> &str {
        &self.0[&format!("__Host-portcullis_{name}")]
    }
}

/// Everything put together.
pub(super) struct World {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) store: Arc<dyn Store>,
    pub(super) log: Arc<ToyLog>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) address: SocketAddr,
    pub(super) dir: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Some(settings()))
    }

    pub(super) fn with(auth: Option<Settings>) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), auth, Arc::new(ToyTokens::default()))
    }

    pub(super) fn in_dir(dir: TempDir, auth: Option<Settings>, tokens: Arc<dyn Tokens>) -> Self {
        let store: Arc<dyn Store> = Arc::new(crate::store::Sqlite::open(&dir.path().join("p.db")).unwrap());
        let log = Arc::new(ToyLog {
            store: store.clone(),
            entries: Mutex::default(),
            failing: AtomicBool::default(),
            crossing: Mutex::default(),
        });
        let clock = Arc::new(ManualClock::at(NOW));
        let parts = Parts {
            auth,
            clients: clients(),
            realm: "portcullis".into(),
            revocable_claims: vec!["tenant".into()],
            token_bytes_max: 8192,
            admin_token: Some(Zeroizing::new(ADMIN.as_bytes().to_vec())),
            store: store.clone(),
            tokens,
            revocations: log.clone(),
            clock: clock.clone(),
        };
        let address = "192.0.2.7:4711".parse().unwrap();
        Self { endpoints: Arc::new(Endpoints::new(parts).unwrap()), store, log, clock, address, dir }
    }

    /// Sends a request as it is.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Answered {
        let local = Some("192.0.2.1:443".parse().unwrap());
        let peer = Peer { address: Some(self.address), local, secure: true, tls: None };
        let response = self.endpoints.serve(peer, "r-1", request).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answered { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Sends a request with a token and members.
    pub(super) async fn call(&self, how: As, line: &str, token: &str, members: Value) -> Answered {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("user-agent", "test/1")
            .header("host", "api.example.com");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match (how, &members) {
            (_, Value::Null) => String::new(),
            (As::Json, members) => members.to_string(),
            (As::Form, members) => {
                let encode = |text: &str| {
                    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                        .to_string()
                };
                let pair = |(name, value): (&String, &Value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    format!("{}={}", encode(name), encode(&value))
                };
                members.as_object().unwrap().iter().map(pair).collect::<Vec<_>>().join("&")
            }
        };
        let content_type = match how {
            As::Json => "application/json",
            As::Form => "application/x-www-form-urlencoded",
        };
        let request = request.header("content-type", content_type).body(Full::from(body)).unwrap();
        self.send(request).await
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> Answered {
        self.call(As::Json, &format!("GET {path}"), token, Value::Null).await
    }

    pub(super) async fn post(&self, path: &str, token: &str, members: Value) -> Answered {
        self.call(As::Json, &format!("POST {path}"), token, members).await
    }

    /// Sends a request as a browser of this host does, with these cookies and this `x-csrf-token`.
    pub(super) async fn browse(&self, line: &str, jar: &Jar, fields: &[(&'static str, &str)]) -> Answered {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", "api.example.com");
        if !jar.0.is_empty() {
            request = request.header("cookie", jar.line());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// A new account: access and refresh token.
    pub(super) async fn sign_up(&self, email: &str) -> (String, String) {
        let answer = self.post("/auth/signup", "", json!({ "email": email, "password": GOOD })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        (answer.first("access_token"), answer.first("refresh_token"))
    }

    pub(super) async fn sign_in(&self, email: &str) -> (String, String) {
        let answer = self.post("/auth/signin", "", json!({ "email": email, "password": GOOD })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        (answer.first("access_token"), answer.first("refresh_token"))
    }

    /// Whether an access token opens anything.
    pub(super) async fn opens(&self, token: &str) -> bool {
        match self.get("/auth/me", token).await.status {
            200 => true,
            401 => false,
            other => panic!("{other}"),
        }
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

/// A password by the rule of [`settings`].
pub(super) const GOOD: &str = "correct horse 1!";

/// A claim of a token of the toy signer.
pub(super) fn claim(token: &str, name: &str) -> String {
    match ToyTokens::decode(token).unwrap().claims.get(name).unwrap_or_default() {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
