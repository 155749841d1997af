//! Keyrings on real directories, and the way of a token through the cache.

mod issuers;
mod keyring;
mod shared;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::settings::{ClaimNames, External, KeySource, Own};
use super::*;
use crate::token::{Algorithm, Claims, NewToken, SigningKey, issue};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn after(seconds: u64) -> UnixTime {
    UnixTime::from_secs(NOW.secs() + seconds)
}

fn own(dir: &Path, algorithm: Algorithm) -> Own {
    Own {
        issuer: "portcullis".into(),
        audience: Vec::new(),
        algorithm,
        access_ttl: Duration::from_secs(900),
        refresh_ttl: Duration::from_secs(30 * 86400),
        fresh_ttl: Duration::from_secs(300),
        strict: false,
        keys_dir: dir.join("keys"),
        sealing: None,
    }
}

fn external(name: &str, iss: Option<&str>, keys: KeySource, algorithm: Algorithm) -> External {
    External {
        name: name.into(),
        issuer: iss.map(Into::into),
        audience: Vec::new(),
        algorithms: vec![algorithm],
        keys,
        leeway: Duration::from_secs(10),
        max_token_ttl: Duration::from_secs(3600),
        require: Vec::new(),
        typ: Vec::new(),
        claims: ClaimNames::default(),
    }
}

fn secret_file(secret: &[u8]) -> KeySource {
    KeySource::SecretFile { path: "secret".into(), secret: zeroize::Zeroizing::new(secret.to_vec()) }
}

fn load(own: Option<&Own>, external: &[External], token_cache: usize) -> Issuers {
    let setup = Setup {
        own,
        external,
        revocable: &[],
        token_cache,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    Issuers::load(&setup, NOW).unwrap().0
}

fn errors(own: Option<&Own>, external: &[External]) -> Vec<String> {
    let setup = Setup {
        own,
        external,
        revocable: &[],
        token_cache: 0,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    // With what caused each, as the operator reads it.
    let errors = Issuers::load(&setup, NOW).unwrap_err();
    errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect()
}

fn grant<'a>(token_id: &'a str, extra: &'a Claims) -> Grant<'a> {
    Grant {
        subject: "7",
        session: Some("s1"),
        client: None,
        token_id,
        issued_at: NOW,
        expires_at: after(900),
        fresh: true,
        binding: None,
        scopes: &[],
        extra,
    }
}

fn access(issuers: &Issuers, token_id: &str) -> String {
    issuers.own().unwrap().issue_access(&grant(token_id, &Claims::new())).unwrap()
}
