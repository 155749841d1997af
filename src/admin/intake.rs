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
    /// What a subject of our own has that its cutoff may leave open.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn live_of(&self, subject: &str, now: UnixTime) -> Result<Vec<Live>, StoreError>;

    /// Whose token this text is, if it is well signed; an expired one is good too.
    ///
    /// # Errors
    /// In words for whoever sent it.
    fn token(&self, text: &str, now: UnixTime) -> Result<(Selector, UnixTime), String>;
}

/// A session, or a token that has none, as far as revoking it goes.
#[derive(Clone, Debug)]
pub struct Live {
    /// [`Kind::Session`] or [`Kind::Token`].
    pub kind: Kind,
    /// Its id.
    pub id: Box<str>,
    /// When it has expired, a session with all its tokens.
    pub expires: UnixTime,
}

/// The sessions of a subject of our own that are not revoked yet, and the tokens that it got without one in the second
/// of its cutoff. Neither a mark in the store nor its absence says that a session is revoked: it stays when that is
/// taken back, and nobody makes one for what is revoked here.
///
/// # Errors
/// When the store cannot be read.
pub async fn live_of(
    store: &dyn Store,
    blocklist: &Blocklist,
    subject: &str,
    now: UnixTime,
) -> Result<Vec<Live>, StoreError> {
    let is_live = |live: &Live| {
        let entry = blocklist.get(&Selector::new(live.kind.clone(), SELF, live.id.clone()));
        entry.is_none_or(|entry| entry.expires_at < capped(live.expires))
    };
    let sessions = store.unexpired_sessions(subject, now).await?.into_iter();
    let sessions =
        sessions.map(|session| Live { kind: Kind::Session, id: session.id, expires: session.expires });
    let tokens = store.lone_tokens(subject, UnixTime::from_secs(now.secs()), now).await?.into_iter();
    let tokens =
        tokens.map(|row| Live { kind: Kind::Token, id: row.token.id, expires: row.token.expires_at });
    Ok(sessions.chain(tokens).filter(is_live).collect())
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
                    let live = self.lookup.live_of(subject, self.asked.now).map_err(IntakeError::Store)?;
                    self.entries.extend(live.into_iter().map(|live| of_live(&revocation, live)));
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

/// The entry that goes with that of its subject.
pub(super) fn of_live(revocation: &Revocation, live: Live) -> Revocation {
    Revocation {
        selector: Selector::new(live.kind, SELF, live.id),
        issued_before: None,
        expires_at: capped(live.expires),
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
        fn live_of(&self, _: &str, _: UnixTime) -> Result<Vec<Live>, StoreError> {
            let expires = NOW.plus(Duration::from_secs(60));
            Ok(vec![Live { kind: Kind::Session, id: "s-1".into(), expires }])
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
