//! The engine under measurement: opened on a real directory, filled through [`Bulk`], with the tokens to check.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock, UnixTime};
use portcullis::issuer::settings::Own;
use portcullis::issuer::{Grant, Issuers, Setup};
use portcullis::revocation::settings::{Fsync, OnLostState, Settings};
use portcullis::revocation::{
    Blocklist, Handle, Kind, Opening, RealDisk, Report, Revocation, Selector, open,
};
use portcullis::token::{Algorithm, Claims};
use tokio::runtime::{Builder, Runtime};

/// Entries of one bulk batch.
const BATCH: u64 = 1_000_000;
/// Entries handed to a bulk batch at once, as the admin API does.
const PIECE: u64 = 4096;

pub(crate) fn now() -> UnixTime {
    SystemClock.now()
}

/// An open log with a runtime to wait on.
pub(crate) struct Engine {
    pub(crate) handle: Handle,
    pub(crate) blocklist: Arc<Blocklist>,
    pub(crate) runtime: Runtime,
}

impl Engine {
    /// Opens the log of `dir`; snapshots are taken only when asked for.
    pub(crate) fn open(dir: &Path) -> (Self, Report) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = Settings {
            state_dir: dir.to_owned(),
            fsync: Fsync::Always,
            snapshot_every: Duration::from_secs(365 * 24 * 3600),
            snapshot_log_bytes: 1 << 50,
            claims: vec!["tenant".into()],
            on_lost_state: OnLostState::Refuse,
            cut_live_connections: false,
            token_cache: 0,
        };
        let (handle, blocklist, report) = open(Opening {
            settings: &settings,
            disk: Arc::new(RealDisk::at(dir).unwrap()),
            clock: Arc::new(SystemClock),
            projections: Vec::new(),
            on_fsync: Box::new(|_| {}),
            leeway_max: Duration::ZERO,
            seen: 0,
            known: false,
            gateway: None,
            issuers: Vec::new(),
        })
        .unwrap();
        (Self { handle, blocklist, runtime }, report)
    }

    /// Revokes `names` of this kind through bulk batches.
    pub(crate) fn fill(&self, kind: &Kind, names: std::ops::Range<u64>) {
        let mut from = names.start;
        while from < names.end {
            let to = (from + BATCH).min(names.end);
            self.batch(kind, from..to);
            from = to;
        }
    }

    fn batch(&self, kind: &Kind, names: std::ops::Range<u64>) {
        let mut bulk = self.handle.bulk().unwrap();
        let (mut from, at) = (names.start, now());
        while from < names.end {
            let to = (from + PIECE).min(names.end);
            bulk.push((from..to).map(|number| entry(kind, &name(number), at)).collect()).unwrap();
            from = to;
        }
        self.runtime.block_on(bulk.commit()).unwrap();
    }

    pub(crate) fn close(self) {
        self.runtime.block_on(self.handle.close());
    }
}

/// A name as long as the token ids that the gateway makes (a UUID).
pub(crate) fn name(number: u64) -> String {
    format!("00000000-0000-7000-8000-{number:012x}")
}

/// One entry that is good for a month.
pub(crate) fn entry(kind: &Kind, value: &str, at: UnixTime) -> Revocation {
    let value = if *kind == Kind::Issuer { "" } else { value };
    Revocation {
        selector: Selector::new(kind.clone(), "self", value),
        lift: false,
        // Long ago: the entry is found and compared, and refuses none of the tokens here.
        issued_before: (!kind.is_absolute()).then_some(UnixTime::from_secs(1)),
        expires_at: at.plus(Duration::from_secs(30 * 24 * 3600)),
        reason: "".into(),
        actor: "admin".into(),
        address: "".into(),
        at,
    }
}

/// Issuers with keys in `dir`, and tokens of theirs that are in their cache.
pub(crate) struct Tokens {
    pub(crate) issuers: Issuers,
    pub(crate) texts: Vec<String>,
}

/// Tokens as the gateway issues them: subject, session, key, a role and a tenant (which can be revoked by).
pub(crate) fn tokens(dir: &Path, count: u64) -> Tokens {
    let own = own(dir, Algorithm::HS256);
    let setup = Setup {
        own: Some(&own),
        external: &[],
        revocable: &["tenant".into()],
        token_cache: 65_536,
        token_bytes_max: 8192,
        nonce_secret: None,
        shared: None,
    };
    let issuers = Issuers::load(&setup, now()).unwrap().0;
    let texts = (0..count).map(|number| token(&issuers, number)).collect();
    Tokens { issuers, texts }
}

/// The gateway as an issuer, with keys in `dir`.
pub(crate) fn own(dir: &Path, algorithm: Algorithm) -> Own {
    Own {
        issuer: "portcullis".into(),
        audience: Vec::new(),
        algorithm,
        access_ttl: Duration::from_secs(3600),
        refresh_ttl: Duration::from_secs(30 * 86_400),
        fresh_ttl: Duration::from_secs(900),
        strict: false,
        keys_dir: dir.join("keys"),
        sealing: None,
    }
}

/// One token that no entry of [`Engine::fill`] refuses.
pub(crate) fn token(issuers: &Issuers, number: u64) -> String {
    let mut extra = Claims::new();
    extra.insert("roles".into(), serde_json::json!(["reader", "writer"]));
    extra.insert("tenant".into(), "acme".into());
    let at = now();
    let (id, session) = (name(1 << 47 | number), name(1 << 46 | number));
    let grant = Grant {
        subject: &format!("user-{number}@example.com"),
        session: Some(&session),
        client: Some("web"),
        token_id: &id,
        issued_at: at,
        expires_at: at.plus(Duration::from_secs(3600)),
        fresh: true,
        binding: None,
        scopes: &["orders:read".into(), "orders:write".into()],
        extra: &extra,
    };
    issuers.own().unwrap().issue_access(&grant).unwrap()
}

/// Kinds with a cutoff, and how many entries of each a check meets.
pub(crate) fn fill_cutoffs(engine: &Engine) {
    for (kind, count) in [
        (Kind::Subject, 100_000),
        (Kind::Client, 1000),
        (Kind::Key, 100),
        (Kind::Issuer, 1),
        (Kind::Claim("tenant".into()), 1000),
    ] {
        engine.fill(&kind, 0..count);
    }
}
