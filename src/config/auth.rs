//! `[auth]` with its tables, and `[[clients]]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::reader::{Table, Text, Value, boxed};
use super::source::Span;
use super::suggest::quote;
use super::{check, delegate, files, json, policy, server};
use crate::endpoint::settings::{Client, ClientKey, Credential, Lockout, OnReuse, Password, Settings};
use crate::issuer::Sealing;
use crate::issuer::settings::Own;
use crate::token::{Algorithm, Claims};

/// Every algorithm that tokens may be signed with (RFC 7518 §3.1, RFC 8037).
pub(super) const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
];

/// Claims that the gateway writes itself.
pub(super) const OWN_CLAIMS: [&str; 16] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "type",
    "token_use",
    "fresh",
    "scope",
    "client_id",
    "azp",
    "cnf",
    "csrf",
];

/// Members of a user that the gateway writes itself, or that a sign-up must not set.
const OWN_FIELDS: [&str; 8] =
    ["id", "email", "username", "createdon", "password", "new_password", "access_token", "refresh_token"];

/// Paths that endpoints of the gateway have whatever the prefixes are.
const RESERVED: [&str; 3] = ["/oauth2", "/events", "/.well-known"];

/// `[auth]`, and what `[[issuers]]` has to know of it.
pub(super) struct Read {
    /// `None` when it is turned off.
    pub(super) settings: Option<Settings>,
    /// Where `iss` stands, for a second issuer of that name.
    pub(super) issuer_at: Option<Span>,
}

/// Reads `[auth]`.
pub(super) fn read(
    root: &mut Table<'_>,
    state_dir: &Path,
    token_bytes_max: usize,
    store_is_shared: bool,
) -> Read {
    let mut t = root.section("auth", "[auth]");
    let secs = Duration::from_secs;
    let days = |days: u64| secs(days * 86_400);
    let enabled = t.get("enabled").flag(true);
    let prefixes_value = t.get("prefixes");
    let mut prefixes: Vec<Box<str>> = prefixes_value.texts().iter().filter_map(prefix).collect();
    if !prefixes_value.is_given() {
        prefixes.push("/auth".into());
    } else if prefixes_value.is_empty_array() {
        let hint = "name a path such as \"/auth\"; enabled = false turns the endpoints off".to_owned();
        prefixes_value.fail("prefixes is empty", hint);
    }
    let hosts = t.get("hosts").texts().iter().filter_map(check::host).collect();
    let signup = t.get("signup").flag(true);
    let issuer_value = t.get("issuer");
    let issuer = issuer_value.filled().filter(check::name);
    let audience = boxed(&t.get("audience").one_or_more());
    let algorithm = t.get("algorithm").text().and_then(|text| algorithm(&text)).unwrap_or(Algorithm::ES256);
    let sealing = key_encryption(&t.get("key_encryption_file"), store_is_shared);
    // `exp` counts whole seconds.
    let access_ttl_value = t.get("access_ttl");
    let access_ttl = access_ttl_value.duration_within(secs(15 * 60), secs(1)..=days(3650));
    let refresh_ttl = t.get("refresh_ttl").duration_within(days(30), secs(1)..=days(3650));
    if access_ttl > refresh_ttl {
        let hint =
            "an access token cannot outlive its session: raise refresh_ttl or lower access_ttl".to_owned();
        access_ttl_value.fail("access_ttl is longer than refresh_ttl", hint);
    }
    let fresh_ttl = t.get("fresh_ttl").duration_within(secs(15 * 60), secs(1)..=days(3650));
    let rotate_refresh = t.get("rotate_refresh").flag(true);
    let reuse_grace = t.get("reuse_grace").duration_within(secs(10), Duration::ZERO..=secs(300));
    let on_reuse = t.get("on_reuse").choice(
        &[
            ("revoke_session", OnReuse::RevokeSession),
            ("revoke_subject", OnReuse::RevokeSubject),
            ("log", OnReuse::Log),
        ],
        OnReuse::RevokeSession,
    );
    let strict = t.get("registry").choice(&[("blocklist", false), ("strict", true)], false);
    let user_fields: Vec<Box<str>> =
        t.get("user_fields").texts().into_iter().filter(user_field).map(|f| f.boxed()).collect();
    let max_sessions = t.get("max_sessions_per_user").number_u32(0, 0..=u32::MAX);
    let (header_transport, cookie_transport) = transport(&t.get("token_transport"));
    let cors = policy::cors(&t.get("cors"));
    let password = password(&mut t);
    let lockout = lockout(&mut t);
    let (claims, claims_at) = claims(&mut t, token_bytes_max);
    let delegate = delegate::read(&mut t, &user_fields, &claims, claims_at.as_ref());
    t.finish();
    let own = Own {
        issuer: issuer.map_or("portcullis".into(), |text| text.boxed()),
        audience,
        algorithm,
        access_ttl,
        refresh_ttl,
        fresh_ttl,
        strict,
        keys_dir: state_dir.join("keys"),
        sealing: sealing.map(Arc::new),
    };
    let settings = Settings {
        prefixes,
        hosts,
        // Where the backend checks passwords it makes the accounts; the default beside it, written out, says no more.
        signup: signup && delegate.is_none(),
        own,
        rotate_refresh,
        reuse_grace,
        on_reuse,
        user_fields,
        max_sessions_per_user: Some(max_sessions).filter(|max| *max > 0),
        header_transport,
        cookie_transport,
        password,
        lockout,
        claims,
        cors,
        delegate,
    };
    Read { settings: enabled.then_some(settings), issuer_at: issuer_value.at }
}

/// An algorithm by its name. `None`, with a problem, for an unknown one and for `none`.
pub(super) fn algorithm(text: &Text<'_>) -> Option<Algorithm> {
    if text.value.eq_ignore_ascii_case("none") {
        let message = format!("{} means tokens without a signature, which anybody can make", text.quoted());
        text.fail(
            message,
            "name the algorithm that the tokens are signed with, such as \"RS256\" or \"ES256\"".to_owned(),
        );
        return None;
    }
    text.choose(&ALGORITHMS)
}

/// What seals the signing keys that gateways share.
fn key_encryption(value: &Value<'_>, store_is_shared: bool) -> Option<Sealing> {
    let text = value.text_or_none()?;
    if !store_is_shared {
        let hint = "set [store] url = \"postgres://…\" for gateways that share their keys, or leave it out: \
                    one gateway's keys are files in its state directory";
        text.fail("key_encryption_file is for keys in a store that gateways share", hint.to_owned());
    }
    let secret = files::secret(&text)?;
    let sealing = match std::str::from_utf8(&secret) {
        Ok(secret) => Sealing::from_text(secret),
        Err(_) => Err("is not text".to_owned()),
    };
    if let Err(why) = &sealing {
        text.fail(
            format!("{} {} {why}", text.label, text.quoted()),
            "make one with \"openssl rand -base64 32\"; every gateway needs the same".to_owned(),
        );
    }
    sealing.ok()
}

fn prefix(text: &Text<'_>) -> Option<Box<str>> {
    let path = check::path(text, &text.value, false)?;
    if path.ends_with('/') {
        let hint = match path.trim_end_matches('/') {
            "" => "the endpoints need a path of their own, such as \"/auth\"".to_owned(),
            trimmed if text.is_expanded() || trimmed.is_empty() => {
                "leave the \"/\" at the end out".to_owned()
            }
            trimmed => format!("write {}", quote(trimmed)),
        };
        text.fail(format!("prefix {} ends with \"/\"", text.quoted()), hint);
        return None;
    }
    let taken = RESERVED.iter().find(|reserved| {
        path.strip_prefix(**reserved).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if let Some(taken) = taken {
        text.fail(
            format!("prefix {} is taken by other endpoints of the gateway", text.quoted()),
            format!("choose one that is not below \"{taken}\""),
        );
        return None;
    }
    Some(path.into())
}

fn user_field(text: &Text<'_>) -> bool {
    let field = &text.value;
    if OWN_FIELDS.contains(&field.as_str()) {
        text.fail(format!("user field {} is the gateway's own", text.quoted()), "leave it out".to_owned());
        return false;
    }
    let good = field.len() <= 64
        && field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && field.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !good {
        let hint = "write up to 64 letters, digits, \"_\" and \"-\", a letter first".to_owned();
        text.fail(format!("{} is not a field name", text.quoted()), hint);
    }
    good
}

fn transport(value: &Value<'_>) -> (bool, bool) {
    if !value.is_given() {
        return (true, false);
    }
    let texts = value.texts();
    if value.is_empty_array() {
        value.fail("token_transport is empty: no token could be sent", "write [\"header\"]".to_owned());
    }
    let (mut header, mut cookie) = (false, false);
    for text in texts {
        match text.choose(&[("header", true), ("cookie", false)]) {
            Some(true) => header = true,
            Some(false) => cookie = true,
            None => {}
        }
    }
    (header, cookie)
}

fn password(auth: &mut Table<'_>) -> Password {
    let mut t = auth.section("password", "[auth.password]");
    let min_length = t.get("min_length").count(8, 1..=1024);
    let require_digit = t.get("require_digit").flag(true);
    let require_symbol = t.get("require_symbol").flag(true);
    let deny_common = t.get("deny_common").flag(true);
    let mut argon2 = t.get("argon2").table();
    let memory = argon2.get("memory");
    let bytes = memory.size(19 << 20, 8 << 10..=4 << 30);
    let iterations = argon2.get("iterations").number_u32(2, 1..=1000);
    let parallelism = argon2.get("parallelism").number_u32(1, 1..=64);
    if !bytes.is_multiple_of(1024) {
        memory.fail("memory is not a whole number of KiB", "Argon2 counts memory in KiB".to_owned());
    } else if bytes >> 10 < 8 * u64::from(parallelism) {
        // RFC 9106 §3.1.
        memory.fail(
            format!("memory is too small for parallelism = {parallelism}"),
            format!("Argon2 needs at least \"{}KiB\"", 8 * parallelism),
        );
    }
    argon2.finish();
    let hashes = t.get("max_concurrent_hashes").count(0, 0..=1024);
    t.finish();
    Password {
        min_length,
        require_digit,
        require_symbol,
        deny_common,
        memory_kib: u32::try_from(bytes >> 10).unwrap_or(u32::MAX),
        iterations,
        parallelism,
        max_concurrent_hashes: if hashes == 0 { server::cores() } else { hashes },
    }
}

fn lockout(auth: &mut Table<'_>) -> Lockout {
    let mut t = auth.section("lockout", "[auth.lockout]");
    let attempts = t.get("attempts").number_u32(10, 1..=1_000_000);
    let window = t.get("window").duration(Duration::from_secs(15 * 60));
    t.finish();
    Lockout { attempts, window }
}

/// `http://` or `https://` with a host.
pub(super) fn web_address(text: &Text<'_>) -> Option<http::Uri> {
    let good = text.value.parse::<http::Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    let Some(uri) = good else {
        let hint = "write it such as \"https://id.example.com/path\"".to_owned();
        text.fail(format!("{} is not a web address", text.quoted()), hint);
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // The message quotes nothing: a password may stand there.
        text.fail("the address carries a user name", "leave it out".to_owned());
        return None;
    }
    Some(uri)
}

fn claims(auth: &mut Table<'_>, token_bytes_max: usize) -> (Claims, Option<Span>) {
    let t = auth.section("claims", "[auth.claims]");
    let (cx, at) = (t.cx, t.at.clone());
    let mut claims = Claims::new();
    for (name, name_at, value) in t.entries() {
        if OWN_CLAIMS.contains(&name.as_str()) {
            let message = format!("claim {} is the gateway's own", quote(&name));
            cx.fail(
                Some(&name_at),
                message,
                "leave it out: the gateway writes it into each token".to_owned(),
            );
        } else if let Some(value) = json::value(&value) {
            claims.insert(name, value);
        }
    }
    // Base64 makes three bytes four; as much again is left for the gateway's own claims and the signature.
    let bytes = serde_json::to_string(&claims).map_or(0, |json| json.len());
    if bytes > token_bytes_max / 2 {
        cx.fail(
            at.as_ref(),
            "[auth.claims] would make every access token longer than max_token_bytes",
            format!("they are {bytes} bytes; keep them under {}", token_bytes_max / 2),
        );
    }
    (claims, at)
}

/// Reads `[[clients]]`.
pub(super) fn clients(root: &mut Table<'_>) -> Vec<Client> {
    let mut names = check::Names::new(root.cx, "clients");
    root.sections("clients").into_iter().map(|t| client(t, &mut names)).collect()
}

fn client<'c>(mut t: Table<'c>, names: &mut check::Names<'c>) -> Client {
    let id =
        t.get("id").required("give it the client_id that it authenticates with").filled().filter(check::name);
    if let Some(id) = &id {
        t.rename("client", &id.value);
        names.add(&id.value, &id.at);
    }
    let (secret_file, key_file) = (t.get("secret_file"), t.get("public_key_file"));
    let secret = secret_file.filled().and_then(|text| files::secret(&text));
    let key = key_file.filled().and_then(|text| {
        let (_, pem) = files::public_key(&text)?;
        let key = ClientKey::from_pem(pem);
        if let Err(why) = &key {
            text.fail(format!("{} {} {why}", text.label, text.quoted()), None);
        }
        key.ok()
    });
    if secret_file.is_given() && key_file.is_given() {
        let hint = "leave one of them out".to_owned();
        t.cx.fail(key_file.key_at(), format!("{} has both secret_file and public_key_file", t.label), hint);
    } else if !secret_file.is_given() && !key_file.is_given() {
        let hint = "add secret_file = \"secrets/NAME\", or public_key_file for private_key_jwt".to_owned();
        t.cx.fail_absent(
            t.at.as_ref(),
            format!("{} has neither secret_file nor public_key_file", t.label),
            hint,
        );
    }
    let may_value = t.get("may");
    let (mut introspect, mut revoke, mut token) = (!may_value.is_given(), false, false);
    if may_value.is_empty_array() {
        may_value.fail("may is empty: the client could do nothing", "write [\"introspect\"]".to_owned());
    }
    for text in may_value.texts() {
        match text.choose(&[("introspect", 0), ("revoke", 1), ("token", 2)]) {
            Some(0) => introspect = true,
            Some(1) => revoke = true,
            Some(_) => token = true,
            None => {}
        }
    }
    let scopes = boxed(&t.get("scopes").texts().into_iter().filter(check::scope).collect::<Vec<_>>());
    t.finish();
    Client {
        id: id.map_or_else(Box::default, |id| id.boxed()),
        credential: match key {
            Some(key) => Credential::Key(key),
            None => Credential::Secret(secret.unwrap_or_default()),
        },
        introspect,
        revoke,
        token,
        scopes,
    }
}
