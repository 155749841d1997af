//! `[[issuers]]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{self, web_address};
use super::reader::{Table, Text, Value, boxed};
use super::source::Span;
use super::suggest::quote;
use super::{check, files};
use crate::issuer::settings::{ClaimNames, External, Introspection, KeySource, Published, SELF};
use crate::token::{Algorithm, KeyError, KeySet};

/// The keys that say where keys come from, in the order of the contract.
const SOURCES: [&str; 6] =
    ["jwks_url", "jwks_file", "public_key_file", "secret_file", "discovery_url", "introspect"];

/// Kinds of tokens that are never access tokens.
const OTHER_TYPES: [&str; 3] = ["logout+jwt", "secevent+jwt", "dpop+jwt"];

/// Reads `[[issuers]]`; `own` is what the gateway itself writes into `iss`, if it issues tokens.
pub(super) fn read(
    root: &mut Table<'_>,
    own: Option<(&str, Option<&Span>)>,
    state_dir: &Path,
) -> Vec<External> {
    let cx = root.cx;
    let mut names = check::Names::new(cx, "issuers");
    let mut seen: Vec<(Option<String>, Span)> = Vec::new();
    let mut issuers = Vec::new();
    let mut opaque: Option<Span> = None;
    for mut t in root.sections("issuers") {
        let name =
            t.get("name").required("give it a name, for routes and revocations").filled().filter(check::name);
        if let Some(name) = &name {
            t.rename("issuer", &name.value);
            names.add(&name.value, &name.at);
            if name.value == SELF {
                let hint = "\"self\" is the gateway's own issuer; choose another name".to_owned();
                name.fail("an external issuer cannot be named \"self\"", hint);
            }
        }
        let issuer_value = t.get("issuer");
        let issuer = issuer_value.filled();
        let at = issuer_value.at.clone().or(t.at.clone()).unwrap_or_default();
        let iss = issuer.as_ref().map(|text| text.value.clone());
        if iss.is_some() || !issuer_value.is_given() {
            same_iss(&t, iss, &at, own, &mut seen);
        }
        one_opaque(&mut t, &mut opaque);
        issuers.push(external(t, name, issuer, &state_dir.join("issuers")));
    }
    issuers
}

/// A token that is no JWT says nothing of its issuer: one at most may have such.
fn one_opaque(t: &mut Table<'_>, seen: &mut Option<Span>) {
    let value = t.get("introspect");
    let Some(at) = value.key_at().cloned() else { return };
    match seen {
        Some(first) => {
            let hint = format!(
                "the first is on line {}; at most one issuer may have opaque tokens",
                t.cx.line(first)
            );
            t.cx.fail(Some(&at), format!("{} is the second issuer with introspect", t.label), hint);
        }
        None => *seen = Some(at),
    }
}

/// The issuer of a token is found by `iss`: no two may have the same.
fn same_iss<'c>(
    t: &Table<'c>,
    iss: Option<String>,
    at: &Span,
    own: Option<(&str, Option<&Span>)>,
    seen: &mut Vec<(Option<String>, Span)>,
) {
    if let (Some(iss), Some((own, own_at))) = (&iss, own)
        && iss == own
    {
        let message = format!("{} has the same iss as the gateway itself", t.label);
        let hint = match own_at {
            Some(at) => format!("[auth] issuer is set on line {}; change one of them", t.cx.line(at)),
            None => "set issuer in [auth] to something else".to_owned(),
        };
        t.cx.fail(Some(at), message, hint);
    }
    if let Some((_, first)) = seen.iter().find(|(other, _)| *other == iss) {
        let first = t.cx.line(first);
        let (message, hint) = match iss {
            Some(_) => (
                format!("{} has the same iss as another issuer", t.label),
                format!("the first is on line {first}; a token must belong to one issuer"),
            ),
            None => (
                format!("{} is the second issuer without an iss", t.label),
                format!("the first is on line {first}; at most one may leave out issuer"),
            ),
        };
        t.cx.fail(Some(at), message, hint);
    }
    seen.push((iss, at.clone()));
}

fn external<'c>(
    mut t: Table<'c>,
    name: Option<Text<'c>>,
    issuer: Option<Text<'c>>,
    copies_dir: &Path,
) -> External {
    let audience = boxed(&t.get("audience").one_or_more());
    let mut algorithms_value = t.get("algorithms");
    // An opaque token has no signature.
    let is_signed = !t.get("introspect").is_given() || algorithms_value.is_given();
    if is_signed {
        algorithms_value =
            algorithms_value.required("add algorithms = [\"RS256\"], or what its tokens are signed with");
    }
    let algorithms = if is_signed { algorithms(&algorithms_value) } else { Vec::new() };
    let short = t.get("allow_short_secret").flag(false);
    let refresh = t
        .get("jwks_refresh")
        .duration_within(Duration::from_secs(600), Duration::from_secs(1)..=Duration::from_secs(86_400));
    let fetching = Fetching { refresh, copies_dir, has_iss: issuer.is_some() };
    // A key may be for the very algorithm that is misspelt.
    let all_known = algorithms.len() == algorithms_value.texts().len();
    let known: Vec<_> = algorithms.iter().filter(|_| all_known).map(|(_, algorithm)| *algorithm).collect();
    let keys = keys(&mut t, &algorithms, &known, short, &fetching);
    let leeway = t.get("leeway").duration_within(Duration::ZERO, Duration::ZERO..=Duration::from_secs(3600));
    let longest = Duration::from_secs(3650 * 86_400);
    let max_token_ttl = t
        .get("max_token_ttl")
        .duration_within(Duration::from_secs(30 * 86_400), Duration::from_secs(1)..=longest);
    // `exp` is always required, whether it is listed or not.
    let require = t
        .get("require")
        .texts()
        .iter()
        .filter(|c| check::name(c) && c.value != "exp")
        .map(Text::boxed)
        .collect();
    let typ = t.get("typ").texts();
    for text in typ.iter().filter(|text| {
        OTHER_TYPES.contains(&text.value.to_ascii_lowercase().trim_start_matches("application/"))
    }) {
        let message = format!("typ {} is not a kind of access token", text.quoted());
        text.fail(message, "leave it out: such tokens are refused".to_owned());
    }
    let typ = boxed(&typ);
    let claims = claim_names(&mut t);
    t.finish();
    External {
        name: name.map_or_else(|| Arc::from(""), |name| name.value.into()),
        issuer: issuer.map(|issuer| issuer.boxed()),
        audience,
        algorithms: algorithms.into_iter().map(|(_, algorithm)| algorithm).collect(),
        keys,
        leeway,
        max_token_ttl,
        require,
        typ,
        claims,
    }
}

fn algorithms<'c>(value: &Value<'c>) -> Vec<(Text<'c>, Algorithm)> {
    if value.is_empty_array() {
        value.fail(
            "algorithms is empty: no token could be verified",
            "write [\"RS256\"], or what its tokens are signed with".to_owned(),
        );
    }
    let list: Vec<_> =
        value.texts().into_iter().filter_map(|text| auth::algorithm(&text).map(|a| (text, a))).collect();
    if let Some((first, rest)) = list.split_first()
        && let Some((other, _)) =
            rest.iter().find(|(_, algorithm)| is_symmetric(*algorithm) != is_symmetric(first.1))
    {
        // A public key would be taken for the shared secret (RFC 8725 §2.1).
        let message = format!("{} and {} cannot be used by one issuer", first.0.quoted(), other.quoted());
        other.fail(
            message,
            "one is signed with a shared secret, the other with a private key; keep to one kind".to_owned(),
        );
    }
    list
}

fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// What keys that are fetched need to be known of the issuer.
struct Fetching<'a> {
    refresh: Duration,
    copies_dir: &'a Path,
    has_iss: bool,
}

fn keys<'c>(
    t: &mut Table<'c>,
    algorithms: &[(Text<'c>, Algorithm)],
    known: &[Algorithm],
    short: bool,
    fetching: &Fetching<'_>,
) -> KeySource {
    let cx = t.cx;
    let values = SOURCES.map(|key| t.get(key));
    let given: Vec<&Value<'c>> = values.iter().filter(|value| value.is_given()).collect();
    match given.as_slice() {
        [] => {
            let hint =
                "add one of jwks_url, jwks_file, public_key_file, secret_file, discovery_url or introspect"
                    .to_owned();
            cx.fail_absent(t.at.as_ref(), format!("{} does not say where its keys come from", t.label), hint);
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                let message = format!("{} has both {} and {}", t.label, first.label(), other.label());
                cx.fail(other.key_at(), message, "leave one of them out".to_owned());
            }
        }
    }
    let [jwks_url, jwks_file, public_key_file, secret_file, discovery_url, introspect] = &values;
    let mut source = introspection(introspect).map(KeySource::Introspection);
    for (value, discovery) in [(jwks_url, false), (discovery_url, true)] {
        if let Some(url) = value.filled().and_then(|text| web_address(&text)) {
            let copies_dir = fetching.copies_dir.to_owned();
            source = Some(KeySource::Published(Published {
                url,
                discovery,
                refresh: fetching.refresh,
                copies_dir,
            }));
        }
    }
    if discovery_url.is_given() && !fetching.has_iss {
        let hint = "add issuer = \"https://…\", exactly as the metadata says it".to_owned();
        cx.fail(discovery_url.key_at(), "discovery_url needs issuer, to be compared with the metadata", hint);
    }
    fits(jwks_url, algorithms, false);
    fits(discovery_url, algorithms, false);
    fits(secret_file, algorithms, true);
    fits(jwks_file, algorithms, false);
    fits(public_key_file, algorithms, false);
    if let Some(text) = secret_file.filled()
        && let Some(secret) = files::secret(&text)
    {
        long_enough(&text, secret.len(), algorithms, short);
        source = Some(KeySource::SecretFile { path: cx.resolve(&text.value), secret });
    }
    if let Some(text) = jwks_file.filled()
        && let Some((path, set)) = files::key_set(&text)
    {
        usable(&text, known, KeySet::from_jwks(&set, known).err());
        source = Some(KeySource::JwksFile { path, text: set });
    }
    if let Some(text) = public_key_file.filled()
        && let Some((path, pem)) = files::public_key(&text)
    {
        usable(&text, known, KeySet::from_public_key(&pem, known).err());
        source = Some(KeySource::PublicKeyFile { path, pem });
    }
    // Whoever has no source has a problem recorded above, and the settings are not used.
    source.unwrap_or_else(|| KeySource::JwksFile { path: cx.resolve(""), text: String::new() })
}

/// Whether the kind of key is the kind that the algorithms ask for.
fn fits<'c>(file: &Value<'c>, algorithms: &[(Text<'c>, Algorithm)], symmetric: bool) {
    if !file.is_given() {
        return;
    }
    if let Some((text, _)) = algorithms.iter().find(|(_, algorithm)| is_symmetric(*algorithm) != symmetric) {
        let hint = if symmetric {
            "a shared secret goes with \"HS256\", \"HS384\" or \"HS512\""
        } else {
            "a shared secret goes into secret_file; public keys go with the other algorithms"
        };
        text.fail(format!("{} does not go with {}", text.quoted(), file.label()), hint.to_owned());
    }
}

/// The file must hold a key that one of the algorithms can use. Shared secrets among them have a problem of their own,
/// and so has an empty list.
fn usable(file: &Text<'_>, algorithms: &[Algorithm], why_not: Option<KeyError>) {
    let judged = !algorithms.is_empty() && !algorithms.iter().copied().any(is_symmetric);
    if let Some(why) = why_not.filter(|_| judged) {
        file.fail(format!("{} {} {why}", file.label, file.quoted()), None);
    }
}

/// RFC 7518 §3.2: a key of the size of the hash output, or larger.
fn long_enough(text: &Text<'_>, bytes: usize, algorithms: &[(Text<'_>, Algorithm)], allowed: bool) {
    let needs = |algorithm: Algorithm| match algorithm {
        Algorithm::HS256 => 32,
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 0,
    };
    let hardest =
        algorithms.iter().map(|(text, algorithm)| (needs(*algorithm), text)).max_by_key(|(needs, _)| *needs);
    if let Some((least, algorithm)) = hardest
        && bytes < least
        && !allowed
    {
        let message = format!(
            "secret_file {} holds {bytes} bytes, {} asks for {least} (RFC 7518 section 3.2)",
            text.quoted(),
            quote(&algorithm.value)
        );
        text.fail(
            message,
            "use a longer secret, or set allow_short_secret = true if it cannot be changed".to_owned(),
        );
    }
}

/// `None` where it is not given, or where something of it is wrong.
fn introspection(value: &Value<'_>) -> Option<Introspection> {
    let mut t = value.table();
    if !t.is_given() {
        return None;
    }
    let url = t.get("url").required("name its introspection endpoint").filled();
    let url = url.and_then(|text| web_address(&text));
    let client_id = t.get("client_id").required("it is what the gateway authenticates with").filled();
    let file = t.get("client_secret_file").required("it is what the gateway authenticates with").filled();
    let secret = file.and_then(|file| files::secret(&file));
    let cache =
        t.get("cache").duration_within(Duration::from_secs(30), Duration::ZERO..=Duration::from_secs(3600));
    t.finish();
    Some(Introspection { url: url?, client_id: client_id?.boxed(), secret: secret?, cache })
}

fn claim_names(issuer: &mut Table<'_>) -> ClaimNames {
    let mut t = issuer.get("claims").table();
    let mut names = |key: &'static str, default: Vec<Box<str>>| {
        let value = t.get(key);
        if !value.is_given() {
            return default;
        }
        let names: Vec<_> = value.one_or_more().into_iter().filter(check::name).collect();
        if value.is_empty_array() {
            value.fail(format!("{key} lists no claim"), "name at least one, or leave it out".to_owned());
        }
        boxed(&names)
    };
    let default = ClaimNames::default();
    let claims = ClaimNames {
        subject: names("subject", default.subject),
        session: names("session", default.session),
        scope: names("scope", default.scope),
        client: names("client", default.client),
        token_type: names("type", default.token_type),
    };
    t.finish();
    claims
}
