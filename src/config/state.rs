//! `[state]`, `[store]` and `[revocation]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Table, boxed};
use super::{check, files, fleet};
use crate::fleet::settings::Settings as Fleet;
use crate::revocation::settings::{Fsync, OnLostState, Settings as Revocation};
use crate::store::settings::{Postgres, Settings as Store};

/// Every listed claim is looked up on every request.
const CLAIMS_MAX: usize = 16;

/// Reads `[state]`.
pub(super) fn read_dir(root: &mut Table<'_>) -> PathBuf {
    let mut t = root.section("state", "[state]");
    let value = t.get("dir");
    let dir = t.cx.resolve(value.filled().as_ref().map_or("state", |text| &text.value));
    files::own(t.cx, "state directory", &dir, value.at.as_ref(), true);
    t.finish();
    dir
}

/// Reads `[store]`.
pub(super) fn read_store(root: &mut Table<'_>) -> Store {
    const HINT: &str = "write \"sqlite:state/portcullis.db\", or \"postgres://USER:PASSWORD@HOST/DATABASE\"";
    let mut t = root.section("store", "[store]");
    let cx = t.cx;
    let mut store = Store::Sqlite(cx.resolve("state/portcullis.db"));
    if let Some(url) = t.get("url").filled() {
        match url.value.split_once(':') {
            Some(("sqlite", path)) if path.starts_with("//") || path.starts_with(':') || path.is_empty() => {
                url.fail(format!("{} names no file", url.quoted()), HINT.to_owned());
            }
            Some(("sqlite", path)) => store = Store::Sqlite(cx.resolve(path)),
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                match Postgres::parse(&url.value, |path| cx.resolve(path)) {
                    Ok(postgres) => store = Store::Postgres(Box::new(postgres)),
                    Err(error) => url.fail(error.what, error.hint),
                }
            }
            _ => url.fail(format!("{} is not a store", url.quoted()), HINT.to_owned()),
        }
    }
    t.finish();
    store
}

/// Reads `[revocation]`.
pub(super) fn read(root: &mut Table<'_>, state_dir: &Path) -> (Revocation, Option<Fleet>) {
    let mut t = root.section("revocation", "[revocation]");
    let fsync_value = t.get("fsync");
    let fsync = if let Some(toml::de::DeValue::Integer(_)) = fsync_value.raw() {
        fsync_value.fail_type("\"always\" or an interval such as \"50ms\"");
        Fsync::Always
    } else if fsync_value.text().is_none_or(|text| text.value == "always") {
        Fsync::Always
    } else if fsync_value.text().is_some_and(|text| text.value.starts_with(|c: char| c.is_ascii_alphabetic()))
    {
        fsync_value.fail(
            "fsync is neither \"always\" nor an interval",
            "write \"always\", or an interval such as \"50ms\"".to_owned(),
        );
        Fsync::Always
    } else {
        let range = Duration::from_millis(1)..=Duration::from_secs(60);
        Fsync::Every(fsync_value.duration_within(Duration::from_millis(50), range))
    };
    let snapshot_every = t
        .get("snapshot_every")
        .duration_within(Duration::from_secs(300), Duration::from_secs(1)..=Duration::MAX);
    let snapshot_log_bytes = t.get("snapshot_log_bytes").size(64 << 20, 4 << 10..=1 << 50);
    let claims_value = t.get("claims");
    let claims = claims_value.texts().into_iter().filter(check::name).collect::<Vec<_>>();
    if claims.len() > CLAIMS_MAX {
        let hint = format!("every one is looked up on every request; at most {CLAIMS_MAX} are taken");
        claims_value.fail(format!("claims lists {} claims", claims.len()), hint);
    }
    let on_lost_state = t.get("on_lost_state").choice(
        &[("cutoff", OnLostState::Cutoff), ("refuse", OnLostState::Refuse), ("empty", OnLostState::Empty)],
        OnLostState::Cutoff,
    );
    let cut_live_connections = t.get("cut_live_connections").flag(true);
    let token_cache = t.get("token_cache").count(65536, 0..=100_000_000);
    let fleet = fleet::read(&mut t);
    t.finish();
    let revocation = Revocation {
        state_dir: state_dir.to_owned(),
        fsync,
        snapshot_every,
        snapshot_log_bytes,
        claims: boxed(&claims),
        on_lost_state,
        cut_live_connections,
        token_cache,
    };
    (revocation, fleet)
}
