//! One key of our own in one file, `key-KID.json`:
//!
//! ```json
//! {"format":"portcullis-key","version":1,"kid":"…","alg":"ES256","created":1763900000,"not_after":null,
//!  "retired":null,"private_key":"-----BEGIN PRIVATE KEY-----\n…"}
//! ```
//!
//! Times are Unix seconds; `private_key` is PKCS#8 in PEM, or for `HS*` the secret in base64url. A newer version is
//! refused, every older one is read. A file is written beside its place, synced and renamed into it, so a crash
//! leaves the old file or the new one, and at worst a `.tmp-` file that the next start removes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::sealing::Unsealable;
use crate::clock::UnixTime;
use crate::store::StoreError;
use crate::token::{Algorithm, Claims, KeyError, SigningKey, json_object};

const FORMAT: &str = "portcullis-key";
const VERSION: u64 = 1;
/// An RSA key of 8192 bits takes 6.4 KiB in PEM.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What a file that is not in its place yet is called.
const TEMPORARY: &str = ".tmp-";

/// Why our own keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Group or world may read or write it.
    #[error("{} is open to others (mode {mode:03o}): run chmod {wanted:o} {}", path.display(), path.display())]
    OpenToOthers {
        /// File or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Not a key file as this program writes it.
    #[error("the key file {} is damaged: {why}; restore it from a backup, or move it away to do without that key", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong; no key material.
        why: String,
    },
    /// Written by a newer program.
    #[error("the key file {} has version {version}; this program reads up to {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// Nothing of that id.
    #[error("there is no key \"{0}\"")]
    UnknownKey(Box<str>),
    /// One key goes with one algorithm.
    #[error("the key \"{0}\" is already kept for another algorithm")]
    OtherAlgorithm(Box<str>),
    /// An id that makes no file name.
    #[error("the key id \"{0}\" has other characters than A-Z, a-z, 0-9, \"-\" and \"_\", or more than 128")]
    UnusableId(Box<str>),
    /// It could not be made or written out.
    #[error("a key of our own {0}")]
    Key(#[source] KeyError),
    /// What the gateways share cannot be read from the store or put into it now.
    #[error("the shared keys cannot be read or written")]
    Store(#[from] StoreError),
    /// What is in the store is not for us.
    #[error("\"{id}\" in the store {why}")]
    Sealed {
        /// Under which it is stored.
        id: Box<str>,
        /// What is wrong.
        #[source]
        why: Unsealable,
    },
    /// Unsealed well, and no key.
    #[error("the key \"{id}\" in the store is damaged: {why}")]
    DamagedInStore {
        /// Its id.
        id: Box<str>,
        /// What is wrong; no key material.
        why: String,
    },
    /// Others kept changing the keys.
    #[error("other gateways are changing the shared keys; try again")]
    Crossed,
}

/// A key of our own and its life.
#[derive(Clone, Debug)]
pub struct KeptKey {
    /// Key pair or secret.
    pub key: Arc<SigningKey>,
    /// When it was made or imported; of several that could sign, the newest does.
    pub created: UnixTime,
    /// Rotated: signs no more, and verifies nothing from then on.
    pub not_after: Option<UnixTime>,
    /// Retired at this time: neither signs nor verifies.
    pub retired: Option<UnixTime>,
}

/// All keys of the directory, which is made if it is not there.
pub(super) fn read_all(dir: &Path) -> Result<Vec<KeptKey>, KeyringError> {
    make_dir(dir)?;
    let failed = |source| KeyringError::Io { action: "list", path: dir.to_owned(), source };
    let mut keys: Vec<KeptKey> = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(TEMPORARY) {
            // Left by a crash; the state directory is locked, so nobody is writing it now.
            fs::remove_file(&path).map_err(|source| KeyringError::Io { action: "remove", path, source })?;
        } else if name.starts_with("key-") && name.ends_with(".json") {
            let key = read(&path)?;
            if keys.iter().any(|other| other.key.id() == key.key.id()) {
                return Err(KeyringError::Damaged { path, why: "another file has the same kid".to_owned() });
            }
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Writes one key: after this returns it is on disk, whatever happens.
pub(super) fn write(dir: &Path, kept: &KeptKey) -> Result<(), KeyringError> {
    let name = file_name(kept.key.id())?;
    replace(dir, &name, text(kept)?.as_bytes())
}

/// A key as its file has it.
pub(super) fn text(kept: &KeptKey) -> Result<Zeroizing<String>, KeyringError> {
    let private = kept.key.export().map_err(KeyringError::Key)?;
    let seconds = |at: Option<UnixTime>| at.map(UnixTime::secs);
    let members = json!({
        "format": FORMAT, "version": VERSION, "kid": kept.key.id(), "alg": format!("{:?}", kept.key.algorithm()),
        "created": kept.created.secs(), "not_after": seconds(kept.not_after), "retired": seconds(kept.retired),
    });
    // Put together by hand, so that the private key is in no buffer that is not wiped. It is ASCII without anything
    // that JSON escapes, but for the line ends of PEM.
    let members = members.to_string();
    let mut text = Zeroizing::new(String::with_capacity(members.len() + 2 * private.len() + 32));
    text.push_str(members.strip_suffix('}').unwrap_or(&members));
    text.push_str(",\"private_key\":\"");
    for piece in private.split_inclusive('\n') {
        text.push_str(piece.trim_end_matches('\n'));
        if piece.ends_with('\n') {
            text.push_str("\\n");
        }
    }
    text.push_str("\"}\n");
    Ok(text)
}

fn file_name(id: &str) -> Result<String, KeyringError> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || id.len() > 128 || !id.bytes().all(is_safe) {
        return Err(KeyringError::UnusableId(id.into()));
    }
    Ok(format!("key-{id}.json"))
}

pub(super) fn make_dir(dir: &Path) -> Result<(), KeyringError> {
    let failed = |action, path: &Path, source| KeyringError::Io { action, path: path.to_owned(), source };
    if !dir.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed("make", dir, error))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| failed("sync", parent, error))?;
        }
    }
    let metadata = fs::metadata(dir).map_err(|error| failed("look at", dir, error))?;
    refuse_open_to_others(dir, metadata.permissions().mode(), 0o700)
}

fn refuse_open_to_others(path: &Path, mode: u32, wanted: u32) -> Result<(), KeyringError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(KeyringError::OpenToOthers { path: path.to_owned(), mode: mode & 0o777, wanted })
}

/// Write beside, sync, rename, sync the directory.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), KeyringError> {
    let (temporary, path) = (dir.join(format!("{TEMPORARY}{name}")), dir.join(name));
    let attempt = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|source| KeyringError::Io { action: "write", path, source })
}

fn read(path: &Path) -> Result<KeptKey, KeyringError> {
    let failed = |source| KeyringError::Io { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    refuse_open_to_others(path, metadata.permissions().mode(), 0o600)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(8192));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    parse(&bytes).map_err(|wrong| match wrong {
        Wrong::Damaged(why) => KeyringError::Damaged { path: path.to_owned(), why },
        Wrong::Newer(version) => KeyringError::Newer { path: path.to_owned(), version },
    })
}

/// What is wrong with the text of a key.
pub(super) enum Wrong {
    Damaged(String),
    Newer(u64),
}

/// A key from the text of its file.
pub(super) fn parse(bytes: &[u8]) -> Result<KeptKey, Wrong> {
    let damaged = Wrong::Damaged;
    let mut members = json_object(bytes).map_err(|error| damaged(format!("it {error}")))?;
    // Taken out first, so that it is wiped whatever becomes of the rest.
    let private = match members.remove("private_key") {
        Some(Value::String(private)) => Zeroizing::new(private),
        _ => return Err(damaged("it has no \"private_key\"".to_owned())),
    };
    match members.get("version").and_then(Value::as_u64) {
        Some(version) if version > VERSION => {
            return Err(Wrong::Newer(version));
        }
        Some(VERSION) if members.get("format").and_then(Value::as_str) == Some(FORMAT) => {}
        _ => return Err(damaged("it has not the \"format\" and \"version\" of a key file".to_owned())),
    }
    let (id, algorithm) = named(&members).ok_or_else(|| damaged("\"kid\" or \"alg\" is wrong".to_owned()))?;
    let key = SigningKey::import(algorithm, &private, id).map_err(|why| damaged(format!("its key {why}")))?;
    if key.id() != id {
        return Err(damaged("its \"kid\" is not that of its key".to_owned()));
    }
    let time = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) => Ok(Some(UnixTime::from_secs(seconds))),
            None => Err(damaged(format!("\"{name}\" is no time"))),
        },
    };
    Ok(KeptKey {
        key: Arc::new(key),
        created: time("created")?.ok_or_else(|| damaged("\"created\" is missing".to_owned()))?,
        not_after: time("not_after")?,
        retired: time("retired")?,
    })
}

fn named(members: &Claims) -> Option<(&str, Algorithm)> {
    let text = |name| members.get(name).and_then(Value::as_str);
    Some((text("kid")?, text("alg")?.parse().ok()?))
}
