//! Bulk: lines of JSON to entries of the log, in pieces and in bounded memory. The admin API and `portcullis import`
//! read the same lines with it. It blocks where a line asks the store, so it runs where blocking is allowed.

use std::sync::Arc;

use super::items::{Asked, Item, Scope, Understood, capped};
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::issuer::{self, Issuers};
use crate::revocation::{AppendError, Blocklist, Kind, KnownToken, Revocation, Selector};
use crate::store::{Store, StoreError};
use crate::token::VerifyError;

/// The most bytes of one line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Entries handed on at once.
const ENTRIES_AT_ONCE: usize = 4096;

/// What the rest of the gateway knows that a line may need.
pub trait Lookup {
    /// The live sessions of a subject of our own.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn live_sessions(&self, subject: &str, now: UnixTime) -> Result<Vec<LiveSession>, StoreError>;

    /// Whose token this text is, if it is well signed; an expired one is good too.
    ///
    /// # Errors
    /// In words for whoever sent it.
    fn token(&self, text: &str, now: UnixTime) -> Result<(Selector, UnixTime), String>;
}

/// A session, as far as revoking it goes.
#[derive(Clone, Debug)]
pub struct LiveSession {
    /// Its id.
    pub id: Box<str>,
    /// When all its tokens have expired.
    pub expires: UnixTime,
}

/// The sessions of a subject of our own that are not revoked yet. Neither a mark in the store nor its absence says so:
/// it stays when a revocation is taken back, and nobody makes one for what is revoked here.
///
/// # Errors
/// When the store cannot be read.
pub async fn live_sessions(
    store: &dyn Store,
    blocklist: &Blocklist,
    subject: &str,
    now: UnixTime,
) -> Result<Vec<LiveSession>, StoreError> {
    let is_live = |session: &LiveSession| {
        let entry = blocklist.get(&Selector::new(Kind::Session, SELF, session.id.clone()));
        entry.is_none_or(|entry| entry.expires_at < capped(session.expires))
    };
    let sessions = store.unexpired_sessions(subject, now).await?.into_iter();
    let sessions = sessions.map(|session| LiveSession { id: session.id, expires: session.expires });
    Ok(sessions.filter(is_live).collect())
}

/// Why lines were not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// A line is wrong.
    #[error("line {line}: {words}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        words: String,
    },
    /// A line needed the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log did not take them.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// Lines on their way to the log.
pub struct Intake<'a> {
    asked: Asked,
    lookup: &'a dyn Lookup,
    /// The beginning of a line whose end has not come yet.
    held: Vec<u8>,
    entries: Vec<Revocation>,
    lines: u64,
    accepted: u64,
    skipped: u64,
}

impl<'a> Intake<'a> {
    /// Of a request by the operator, from `address`, at `now`. With `skip_expired`, lines whose `expires_at` has
    /// passed are counted and passed over.
    pub fn new(
        scope: Scope,
        address: &str,
        now: UnixTime,
        skip_expired: bool,
        lookup: &'a dyn Lookup,
    ) -> Self {
        Self {
            asked: Asked { scope, address: address.into(), now, skip_expired },
            lookup,
            held: Vec::new(),
            entries: Vec::with_capacity(ENTRIES_AT_ONCE),
            lines: 0,
            accepted: 0,
            skipped: 0,
        }
    }

    /// So many lines came before, in an earlier batch.
    pub const fn behind(mut self, lines: u64) -> Self {
        self.lines = lines;
        self
    }

    /// Takes the next bytes, which may end anywhere; full pieces of entries go to `push`.
    ///
    /// # Errors
    /// The first line that is wrong; what `push` says. Nothing more can be fed then.
    pub fn feed<E: From<IntakeError>>(
        &mut self,
        mut bytes: &[u8],
        push: &mut impl FnMut(Vec<Revocation>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.held.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(self.hold(bytes)?) };
            self.hold(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.held);
            self.line(&line, push)?;
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.line(&bytes[..end], push)?;
            bytes = &bytes[end + 1..];
        }
        Ok(self.hold(bytes)?)
    }

    /// Nothing follows: the last line may lack its end.
    ///
    /// # Errors
    /// As [`Intake::feed`].
    pub fn finish<E: From<IntakeError>>(
        &mut self,
        push: &mut impl FnMut(Vec<Revocation>) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = std::mem::take(&mut self.held);
        if !line.is_empty() {
            self.line(&line, push)?;
        }
        self.flush(push)
    }

    /// Hands on what is held back for a full piece.
    ///
    /// # Errors
    /// What `push` says.
    pub fn flush<E>(&mut self, push: &mut impl FnMut(Vec<Revocation>) -> Result<(), E>) -> Result<(), E> {
        if self.entries.is_empty() { Ok(()) } else { push(std::mem::take(&mut self.entries)) }
    }

    /// Items taken.
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Items passed over because they have expired.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.held.len() + bytes.len() > LINE_BYTES_MAX {
            let words = format!("longer than {LINE_BYTES_MAX} bytes");
            return Err(IntakeError::Line { line: self.lines + 1, words });
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    fn line<E: From<IntakeError>>(
        &mut self,
        line: &[u8],
        push: &mut impl FnMut(Vec<Revocation>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.lines += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let told = |words| IntakeError::Line { line: self.lines, words };
        if line.len() > LINE_BYTES_MAX {
            return Err(told(format!("longer than {LINE_BYTES_MAX} bytes")).into());
        }
        match Item::understand_json(line, &self.asked).map_err(told)? {
            Understood::Expired => {
                self.skipped += 1;
                return Ok(());
            }
            Understood::Token { text, revocation } => {
                let found = self.lookup.token(&text, self.asked.now).map_err(told)?;
                self.entries.push(of_token(revocation, found));
            }
            Understood::Entry { revocation, sessions_of } => {
                if let Some(subject) = &sessions_of {
                    let sessions = self.lookup.live_sessions(subject, self.asked.now);
                    let sessions = sessions.map_err(IntakeError::Store)?;
                    self.entries.extend(sessions.into_iter().map(|session| of_session(&revocation, session)));
                }
                self.entries.push(revocation);
            }
        }
        self.accepted += 1;
        if self.entries.len() >= ENTRIES_AT_ONCE {
            let full = std::mem::replace(&mut self.entries, Vec::with_capacity(ENTRIES_AT_ONCE));
            push(full)?;
        }
        Ok(())
    }
}

/// The entry of a session that goes with that of its subject.
pub(super) fn of_session(revocation: &Revocation, session: LiveSession) -> Revocation {
    Revocation {
        selector: Selector::new(Kind::Session, SELF, session.id),
        issued_before: None,
        expires_at: capped(session.expires),
        ..revocation.clone()
    }
}

/// The entry of a whole JWT, now that it is known whose it is.
pub(super) fn of_token(revocation: Revocation, (selector, expires_at): (Selector, UnixTime)) -> Revocation {
    Revocation { selector, expires_at: capped(expires_at), ..revocation }
}

/// Whose token this text is, by these issuers.
///
/// # Errors
/// In words for whoever sent it.
pub fn token_of(issuers: &Issuers, text: &str, now: UnixTime) -> Result<(Selector, UnixTime), String> {
    entry_of(issuers.verify_at_any_time(text, now))
}

/// The same, where its issuer may be asked.
///
/// # Errors
/// In words for whoever sent it.
pub(super) async fn token_asking(
    issuers: &issuer::Current,
    text: &str,
    now: UnixTime,
) -> Result<(Selector, UnixTime), String> {
    entry_of(issuers.verify_at_any_time(text, now).await)
}

fn entry_of(verified: Result<Arc<KnownToken>, VerifyError>) -> Result<(Selector, UnixTime), String> {
    let known = verified.map_err(|error| format!("'token' cannot be verified: {error}"))?;
    let token = &known.token;
    Ok((Selector::new(Kind::Token, &*token.issuer, &*token.token_id), token.expires_at))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::items::Issuer;
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    struct Nothing;

    impl Lookup for Nothing {
        fn live_sessions(&self, _: &str, _: UnixTime) -> Result<Vec<LiveSession>, StoreError> {
            let expires = NOW.plus(Duration::from_secs(60));
            Ok(vec![LiveSession { id: "s-1".into(), expires }])
        }

        fn token(&self, _: &str, _: UnixTime) -> Result<(Selector, UnixTime), String> {
            Err("no token".to_owned())
        }
    }

    /// Feeds the text in pieces of `step` bytes: the values that came out, or the error.
    fn read(text: &str, step: usize) -> Result<Vec<String>, String> {
        let issuers = vec![Issuer { name: SELF.into(), lifetime_max: Duration::from_secs(60) }];
        let scope = Scope { issuers, claims: Vec::new() };
        let mut intake = Intake::new(scope, "", NOW, true, &Nothing);
        let mut values = Vec::new();
        let mut push = |entries: Vec<Revocation>| -> Result<(), IntakeError> {
            values.extend(entries.into_iter().map(|entry| entry.selector.value.to_string()));
            Ok(())
        };
        let done = text.as_bytes().chunks(step).try_for_each(|piece| intake.feed(piece, &mut push));
        done.and_then(|()| intake.finish(&mut push)).map_err(|error| error.to_string())?;
        Ok(values)
    }

    #[test]
    fn lines_come_out_the_same_however_they_are_cut() {
        let text = "{\"kind\":\"token\",\"value\":\"a\"}\r\n\n  \n{\"kind\":\"token\",\"value\":\"b\",\"expires_at\":5}\n\
                    {\"kind\":\"subject\",\"value\":\"c\"}\n{\"kind\":\"token\",\"value\":\"d\"}";
        for step in 1..text.len() + 1 {
            assert_eq!(read(text, step).unwrap(), ["a", "s-1", "c", "d"], "pieces of {step}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_with_blank_lines_counted() {
        let good = "{\"kind\":\"token\",\"value\":\"a\"}";
        for (text, words) in [
            (format!("{good}\n\n{{\n{good}\n"), "line 3: "),
            (format!("{good}\n{}", "x".repeat(LINE_BYTES_MAX + 1)), "line 2: longer than 65536 bytes"),
            (format!("{good}\n{}\n", "x".repeat(LINE_BYTES_MAX + 1)), "line 2: longer than 65536 bytes"),
            ("{\"token\":\"x\"}".to_owned(), "line 1: no token"),
        ] {
            for step in [1000, 1 << 20] {
                let error = read(&text, step).unwrap_err();
                assert!(error.starts_with(words), "{error}");
            }
        }
    }
}
