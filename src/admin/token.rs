//! The admin token: made on first start, compared in constant time.

use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The most bytes of the file that are read.
const FILE_BYTES_MAX: u64 = 4096;
/// An admin token shorter than this can be guessed: the log says so.
const GUESSABLE_BYTES: usize = 16;

/// What opens the admin API. Clones are the same.
#[derive(Clone)]
pub struct AdminToken(Arc<ArcSwap<Kept>>);

struct Kept {
    digest: digest::Digest,
    secret: Zeroizing<Vec<u8>>,
}

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read or made.
    #[error("cannot read or make the admin token {path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error("the admin token {0} can be read by others: chmod 600 {0}")]
    Readable(String),
    /// It would keep nobody out.
    #[error("the admin token {0} is empty: remove the file, and a good one is made at the next start")]
    Empty(String),
}

impl AdminToken {
    /// Reads the token, or makes one (256 random bits, mode 0600, in a directory of mode 0700) where there is no file.
    ///
    /// # Errors
    /// When it cannot be read or made, is readable by others, or is empty.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        let shown = path.display().to_string();
        let io = |source| TokenError::Io { path: shown.clone(), source };
        let token = match std::fs::File::open(path) {
            Ok(file) => {
                if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
                    return Err(TokenError::Readable(shown));
                }
                let mut text = Zeroizing::new(String::new());
                file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path).map_err(io)?,
            Err(error) => return Err(io(error)),
        };
        let token = token.trim_end_matches(['\n', '\r']);
        if token.is_empty() {
            return Err(TokenError::Empty(shown));
        }
        if token.len() < GUESSABLE_BYTES {
            tracing::warn!(
                file = shown,
                "the admin token has under {GUESSABLE_BYTES} bytes and might be guessed; without the file, the next \
                 start makes a good one"
            );
        }
        let secret = Zeroizing::new(token.as_bytes().to_vec());
        let kept = Kept { digest: digest::digest(&SHA256, &secret), secret };
        Ok(Self(Arc::new(ArcSwap::from_pointee(kept))))
    }

    /// Whether this is the token. Takes the same time whatever it is.
    pub fn is(&self, token: &str) -> bool {
        digest::digest(&SHA256, token.as_bytes()).as_ref().ct_eq(self.0.load().digest.as_ref()).into()
    }

    /// From now on, all clones are `other`.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Its bytes, for the introspection endpoint, which takes it too.
    pub fn secret(&self) -> Zeroizing<Vec<u8>> {
        self.0.load().secret.clone()
    }
}

fn make(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
    let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{}\n", *token).as_bytes())?;
    file.sync_all()?;
    Ok(token)
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_token_is_read_again_and_must_stay_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        AdminToken::load_or_make(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let again = AdminToken::load_or_make(&path).unwrap();
        assert!(again.is(text.trim()));
        assert!(!again.is(&text.trim()[1..]));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(AdminToken::load_or_make(&path), Err(TokenError::Readable(_))));
    }

    #[test]
    fn a_short_token_is_taken_and_only_an_empty_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let written = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            AdminToken::load_or_make(&path)
        };
        assert!(written("short\n").unwrap().is("short"));
        for empty in ["", "\n"] {
            assert!(matches!(written(empty), Err(TokenError::Empty(_))));
        }
    }

    #[test]
    fn the_directory_of_a_new_token_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("var/secrets/admin.token");
        AdminToken::load_or_make(&path).unwrap();
        for made in [path.parent().unwrap(), &dir.path().join("var")] {
            assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
