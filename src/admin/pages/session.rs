//! Who is signed in to the dashboard: the admin token is given once, and a session stands for it afterwards. Its secret
//! is in a cookie that no script reads and no other site sends; here there is only its digest.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use crate::clock::UnixTime;
use crate::token::{DASHBOARD_COOKIE, encode_base64url};

/// From sign-in to its end, and without a request.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
const IDLE: Duration = Duration::from_secs(3600);
/// At once; the oldest goes.
const SESSIONS_MAX: usize = 64;

/// All that are signed in.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Kept>>);

struct Kept {
    digest: [u8; 32],
    csrf: String,
    began: UnixTime,
    used: UnixTime,
    notice: Option<Notice>,
}

/// What is told on the next page: whether it is good, and in words.
pub(super) type Notice = (bool, String);

/// One that a request belongs to.
#[derive(Clone)]
pub(super) struct Session {
    digest: [u8; 32],
    /// What its forms repeat.
    pub(super) csrf: String,
    /// What is told on the next page, which is this one.
    pub(super) notice: Option<Notice>,
}

impl Sessions {
    /// A new session: the field that sets its cookie.
    ///
    /// # Errors
    /// No random bytes.
    pub(super) fn begin(&self, now: UnixTime) -> Result<HeaderValue, getrandom::Error> {
        let (secret, csrf) = (drawn()?, drawn()?);
        let mut kept = self.kept(now);
        if kept.len() >= SESSIONS_MAX {
            kept.remove(0);
        }
        kept.push(Kept { digest: digest_of(&secret), csrf, began: now, used: now, notice: None });
        Ok(cookie(&secret, LIFETIME.as_secs()))
    }

    /// The session of a request, with what is to be told; that is told once.
    pub(super) fn find(&self, headers: &HeaderMap, now: UnixTime, page: bool) -> Option<Session> {
        let secret = secret_of(headers)?;
        let digest = digest_of(secret);
        let mut kept = self.kept(now);
        let found = kept.iter_mut().find(|kept| bool::from(kept.digest.ct_eq(&digest)))?;
        found.used = now;
        let notice = if page { found.notice.take() } else { None };
        Some(Session { digest, csrf: found.csrf.clone(), notice })
    }

    /// Has the next page of this session tell something.
    pub(super) fn tell(&self, session: &Session, notice: Notice, now: UnixTime) {
        if let Some(kept) = self.kept(now).iter_mut().find(|kept| kept.digest == session.digest) {
            kept.notice = Some(notice);
        }
    }

    /// Ends it: the field that takes its cookie away.
    pub(super) fn end(&self, session: &Session, now: UnixTime) -> HeaderValue {
        self.kept(now).retain(|kept| kept.digest != session.digest);
        cookie("", 0)
    }

    fn kept(&self, now: UnixTime) -> MutexGuard<'_, Vec<Kept>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| now < kept.began.plus(LIFETIME) && now < kept.used.plus(IDLE));
        kept
    }
}

impl Session {
    /// Whether a form repeats what its page was given.
    pub(super) fn made(&self, csrf: &str) -> bool {
        self.csrf.as_bytes().ct_eq(csrf.as_bytes()).into()
    }
}

/// Not `Secure`: the admin listener speaks clear text, on an address that is nobody else's.
fn cookie(secret: &str, seconds: u64) -> HeaderValue {
    let text = format!("{DASHBOARD_COOKIE}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    let mut value = HeaderValue::from_str(&text).expect("base64url and numbers");
    value.set_sensitive(true);
    value
}

fn secret_of(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == DASHBOARD_COOKIE).map(|(_, value)| value);
    let first = ours.next()?;
    // Twice: somebody has planted one.
    ours.next().is_none().then_some(first)
}

fn digest_of(secret: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    bytes
}

fn drawn() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(encode_base64url(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn sent(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&format!("a=b; {pair}")).unwrap())])
    }

    #[test]
    fn a_session_is_found_by_its_cookie_until_it_ends() {
        let sessions = Sessions::default();
        let headers = sent(&sessions.begin(NOW).unwrap());
        let session = sessions.find(&headers, NOW, true).unwrap();
        assert!(session.made(&session.csrf) && !session.made(""));
        sessions.tell(&session, (true, "done".to_owned()), NOW);
        assert!(sessions.find(&headers, NOW, false).unwrap().notice.is_none());
        assert!(sessions.find(&headers, NOW, true).unwrap().notice.is_some());
        assert!(sessions.find(&headers, NOW, true).unwrap().notice.is_none());
        assert!(sessions.find(&HeaderMap::new(), NOW, true).is_none());
        sessions.end(&session, NOW);
        assert!(sessions.find(&headers, NOW, true).is_none());
    }

    #[test]
    fn a_session_ends_by_itself() {
        let sessions = Sessions::default();
        let headers = sent(&sessions.begin(NOW).unwrap());
        let after = |minutes: u64| NOW.plus(Duration::from_secs(minutes * 60));
        for minutes in (0..720).step_by(59) {
            assert!(sessions.find(&headers, after(minutes), true).is_some(), "{minutes}");
        }
        assert!(sessions.find(&headers, after(720), true).is_none());
        let idle = sent(&sessions.begin(NOW).unwrap());
        assert!(sessions.find(&idle, after(60), true).is_none());
    }

    #[test]
    fn there_are_so_many_at_once() {
        let sessions = Sessions::default();
        let first = sent(&sessions.begin(NOW).unwrap());
        (0..SESSIONS_MAX).for_each(|_| drop(sessions.begin(NOW)));
        assert!(sessions.find(&first, NOW, true).is_none());
        assert_eq!(sessions.0.lock().unwrap().len(), SESSIONS_MAX);
    }
}
