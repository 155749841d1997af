//! Files that the configuration names: secrets, keys, the state directory. What is in them never reaches a message.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::context::Context;
use super::reader::Text;
use super::source::Span;
use super::suggest::quote;
use crate::tls::{self, PemFault};

/// A key file or key set larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a secret: the file less one trailing newline. `None`, with a problem, if it cannot be read, others can read
/// it, or nothing is in it.
pub(super) fn secret(text: &Text<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let path = text.cx.resolve(&text.value);
    // Both are said in one run, so the mode does not stop the reading.
    let private = is_private(text.cx, &path, Some(&text.at), &what(text), 0o077, "600");
    let mut secret = read(text, &path)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    if secret.is_empty() {
        text.fail(format!("{} is empty", what(text)), "put the secret into it".to_owned());
        return None;
    }
    private.then_some(secret)
}

/// Reads a JWK set (RFC 7517 §5) and checks its form. Keys of a set may be published, private ones may not be in it.
pub(super) fn key_set(text: &Text<'_>) -> Option<(PathBuf, String)> {
    let path = text.cx.resolve(&text.value);
    let set = utf8(text, read(text, &path)?)?;
    let parsed: serde_json::Value = match serde_json::from_str(&set) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = format!("{} is not JSON", what(text));
            let place = format!("line {}, column {} of it", error.line(), error.column());
            text.fail(message, format!("see {place}; it must be a JWK set, {{\"keys\": [ … ]}}"));
            return None;
        }
    };
    let Some(keys) = parsed.get("keys").and_then(serde_json::Value::as_array) else {
        let single = parsed.get("kty").is_some();
        let hint = if single {
            "it holds a single key; write {\"keys\": [ … ]} around it"
        } else {
            "it must be {\"keys\": [ … ]}"
        };
        text.fail(format!("{} is not a JWK set", what(text)), hint.to_owned());
        return None;
    };
    if keys.is_empty() {
        text.fail(format!("{} has no keys in it", what(text)), None);
        return None;
    }
    if keys.iter().any(|key| key.get("d").is_some()) {
        let hint =
            "put only public keys into it, and consider this private key as known to others".to_owned();
        text.fail(format!("{} holds a private key", what(text)), hint);
        return None;
    }
    if keys.iter().any(|key| key.get("kty").and_then(|kty| kty.as_str()) == Some("oct")) {
        let hint = "put a shared secret into a file of its own and name it in secret_file".to_owned();
        text.fail(format!("{} holds a shared secret", what(text)), hint);
        return None;
    }
    Some((path, set))
}

/// Reads a public key in PEM (RFC 7468) and checks its label.
pub(super) fn public_key(text: &Text<'_>) -> Option<(PathBuf, String)> {
    let path = text.cx.resolve(&text.value);
    let pem = utf8(text, read(text, &path)?)?;
    let labels: Vec<&str> = pem
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    let hint = "it must have one \"-----BEGIN PUBLIC KEY-----\", \"RSA PUBLIC KEY\" or \"CERTIFICATE\"";
    let (message, hint) = match labels.as_slice() {
        [] => ("is not PEM", hint),
        labels if labels.iter().any(|label| label.contains("PRIVATE KEY")) => (
            "holds a private key",
            "name a file with the public key; verifying needs no private one (openssl pkey -in FILE -pubout)",
        ),
        ["PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE"] => return Some((path, pem)),
        [_] => ("is not a public key", hint),
        _ => ("holds more than one key", "put the keys into a JWK set and name it in jwks_file"),
    };
    text.fail(format!("{} {message}", what(text)), hint.to_owned());
    None
}

/// Checks a file or directory that the gateway makes itself if it is missing: what is there must be of the right kind
/// and nobody else's to read. `at` is `None` where the path is a default.
pub(super) fn own(cx: &Context<'_>, key: &str, path: &Path, at: Option<&Span>, directory: bool) {
    let what = format!("{key} {}", quote(&path.display().to_string()));
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => cx.fail(at, format!("{what} cannot be looked at: {}", reason(&error)), None),
        Ok(meta) if meta.is_dir() != directory => {
            let kind = if directory { "not a directory" } else { "a directory" };
            cx.fail(at, format!("{what} is {kind}"), None);
        }
        Ok(_) => {
            is_private(cx, path, at, &what, 0o077, if directory { "700" } else { "600" });
        }
    }
}

/// `key "path"`, as written.
fn what(text: &Text<'_>) -> String {
    format!("{} {}", text.label, text.quoted())
}

fn read(text: &Text<'_>, path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let fail = |message: &str, hint: Option<String>| {
        text.fail(format!("{} {message}", what(text)), hint);
        None
    };
    text.cx.looked_into(path);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = if text.is_expanded() {
                "relative paths start at the directory of this file".to_owned()
            } else {
                format!(
                    "it was looked for as {}; relative paths start at the directory of this file",
                    quote(&path.display().to_string())
                )
            };
            return fail("does not exist", Some(hint));
        }
        Err(error) => return fail(&format!("cannot be read: {}", reason(&error)), None),
        Ok(meta) if meta.is_dir() => return fail("is a directory", None),
        // Opening a pipe would wait for a writer for ever.
        Ok(meta) if !meta.is_file() => return fail("is not a regular file", None),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => return fail("is larger than 1MiB", None),
        Ok(_) => {}
    }
    match std::fs::read(path) {
        Err(error) => fail(&format!("cannot be read: {}", reason(&error)), None),
        Ok(bytes) => Some(Zeroizing::new(bytes)),
    }
}

fn utf8(text: &Text<'_>, bytes: Zeroizing<Vec<u8>>) -> Option<String> {
    let found = std::str::from_utf8(&bytes).ok().map(|found| found.trim_start_matches('\u{feff}'));
    match found {
        None => text.fail(
            format!("{} is not text", what(text)),
            "it must be UTF-8 (keys in DER can be turned into PEM)".to_owned(),
        ),
        Some(found) if found.trim().is_empty() => text.fail(format!("{} is empty", what(text)), None),
        Some(found) => return Some(found.to_owned()),
    }
    None
}

/// Reads certificates of authorities in PEM and checks that they can be used.
pub(super) fn authorities(text: &Text<'_>) -> bool {
    authorities_pem(text).is_some()
}

/// The same, for whoever needs what was read.
pub(super) fn authorities_pem(text: &Text<'_>) -> Option<Box<[u8]>> {
    let pem = read(text, &text.cx.resolve(&text.value))?;
    match tls::authorities(&pem) {
        Ok(_) => Some(pem.as_slice().into()),
        Err(fault) => {
            text.fail(format!("{} {fault}", what(text)), None);
            None
        }
    }
}

/// Reads a certificate and its key in PEM and checks that they belong together; each is complained of by itself where
/// the other is missing.
pub(super) fn pair(cert: Option<&Text<'_>>, key: Option<&Text<'_>>) -> Option<tls::settings::Pair> {
    let path = |text: &Text<'_>| text.cx.resolve(&text.value);
    let certs = cert.and_then(|text| read(text, &path(text)));
    let private =
        key.is_none_or(|text| is_private(text.cx, &path(text), Some(&text.at), &what(text), 0o077, "600"));
    let secret = key.and_then(|text| read(text, &path(text)));
    let (cert, key) = cert.zip(key)?;
    if let Err(fault) = tls::pair(&certs?, &secret?) {
        let (text, hint) = match fault {
            PemFault::NoCertificate | PemFault::BadCertificate => (cert, None),
            PemFault::NoKey => {
                (key, Some("openssl pkey -in FILE writes one without a pass phrase".to_owned()))
            }
            PemFault::UnusableKey => (key, Some("RSA, ECDSA and Ed25519 keys can be used".to_owned())),
            PemFault::Mismatch => (key, None),
        };
        text.fail(format!("{} {fault}", what(text)), hint);
        return None;
    }
    private.then(|| tls::settings::Pair { cert: path(cert), key: path(key) })
}

/// In words that are the same on every system.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        kind => kind.to_string(),
    }
}

/// Whether `path` has none of the mode bits `forbidden`; what cannot be looked at is left to its reader.
#[cfg(unix)]
fn is_private(
    cx: &Context<'_>,
    path: &Path,
    at: Option<&Span>,
    what: &str,
    forbidden: u32,
    mode: &str,
) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(meta) = std::fs::metadata(path) else { return true };
    let bits = meta.permissions().mode() & 0o777;
    if bits & forbidden == 0 {
        return true;
    }
    let message = format!("{what} has mode {bits:04o}: others on this machine can get at it");
    cx.fail(at, message, format!("chmod {mode} {}", shell_word(path)));
    false
}

#[cfg(not(unix))]
fn is_private(_: &Context<'_>, _: &Path, _: Option<&Span>, _: &str, _: u32, _: &str) -> bool {
    true
}

/// `path` so that it can be pasted into a shell.
fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    let path = if path.starts_with('-') { format!("./{path}") } else { path };
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
