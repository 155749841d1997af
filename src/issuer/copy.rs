//! The last good key set of an issuer on disk, so that a gateway that starts while the issuer is away knows its keys:
//! `<state>/issuers/jwks-DIGEST.json`, mode 0600, replaced atomically.
//!
//! ```json
//! {"format":"portcullis-jwks","version":1,"issuer":"NAME","url":"…","fetched":1763900000,"jwks":"{\"keys\": …}"}
//! ```
//!
//! DIGEST is of issuer name and address: keys of one address never count for another. A copy only ever spares a wait, so
//! one that is damaged is passed over with a warning.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::key_file::{self, KeyringError};
use super::settings::Published;
use crate::clock::UnixTime;
use crate::token::{encode_base64url, json_object};

const FORMAT: &str = "portcullis-jwks";
const VERSION: u64 = 1;
/// A key set has 1 MiB at most; its quotes are escaped.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where the copy of one issuer's keys is.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    dir: PathBuf,
    file: String,
    issuer: String,
    url: String,
}

impl Copy {
    pub(super) fn of(issuer: &str, published: &Published) -> Self {
        let url = published.url.to_string();
        let digest = digest::digest(&digest::SHA256, format!("{issuer}\n{url}").as_bytes());
        let file = format!("jwks-{}.json", encode_base64url(&digest.as_ref()[..16]));
        Self { dir: published.copies_dir.clone(), file, issuer: issuer.to_owned(), url }
    }

    /// The set, and when it was fetched.
    pub(super) fn read(&self) -> Option<(String, UnixTime)> {
        let path = self.dir.join(&self.file);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(issuer = self.issuer, file = %path.display(), %error, "the copy of an issuer's keys cannot be read");
                return None;
            }
        }
        let whole = self.understood(&bytes);
        if whole.is_none() {
            tracing::warn!(issuer = self.issuer, file = %path.display(), "the copy of an issuer's keys is damaged, and passed over");
        }
        whole
    }

    fn understood(&self, bytes: &[u8]) -> Option<(String, UnixTime)> {
        let members = json_object(bytes).ok()?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let ours = text("format") == Some(FORMAT)
            && members.get("version").and_then(Value::as_u64) == Some(VERSION)
            && text("issuer") == Some(&self.issuer)
            && text("url") == Some(&self.url);
        let fetched = UnixTime::from_secs(members.get("fetched")?.as_u64()?);
        ours.then(|| text("jwks").map(|jwks| (jwks.to_owned(), fetched))).flatten()
    }

    /// Replaces it. Blocks until it is on disk.
    pub(super) fn write(&self, jwks: &str, fetched: UnixTime) -> Result<(), KeyringError> {
        key_file::make_dir(&self.dir)?;
        let members = json!({
            "format": FORMAT, "version": VERSION, "issuer": self.issuer, "url": self.url,
            "fetched": fetched.secs(), "jwks": jwks,
        });
        key_file::replace(&self.dir, &self.file, members.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_copy_is_private_and_good_for_its_issuer_and_address_alone() {
        let dir = tempfile::tempdir().unwrap();
        let published = |url: &str| Published {
            url: url.parse().unwrap(),
            discovery: false,
            refresh: Duration::from_secs(60),
            copies_dir: dir.path().join("issuers"),
        };
        let copy = Copy::of("idp", &published("http://a/jwks"));
        assert_eq!(copy.read(), None);
        copy.write("{\"keys\":[]}", UnixTime::from_secs(7)).unwrap();
        assert_eq!(copy.read(), Some(("{\"keys\":[]}".to_owned(), UnixTime::from_secs(7))));
        assert_eq!(Copy::of("idp", &published("http://b/jwks")).read(), None);
        assert_eq!(Copy::of("other", &published("http://a/jwks")).read(), None);
        let path = copy.dir.join(&copy.file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(copy.read(), None, "cut at {cut}");
        }
    }
}
