//! `private_key_jwt`: a client proves who it is by a JWT that it signed (RFC 7523 §2.2, §3).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;

use crate::clock::UnixTime;
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::settings::Client;
use crate::token::{NAME_BYTES_MAX, Statement, verify_statement};

/// What `client_assertion_type` must say (RFC 7523 §2.2).
pub(super) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How far ahead `exp` may lie: that long its id is remembered.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// How far the clock of a client may be off.
const SKEW: Duration = Duration::from_secs(60);
/// Ids remembered at once: some 6 MiB. Only assertions that were signed by a configured client get in.
const SEEN_MAX: usize = 65_536;

/// Assertions that were used, each until it has expired: none is good twice (RFC 7523 §3).
///
/// In memory, and in what gateways of one store have in common. What a start forgets is made good by refusing assertions that say they were made before it; to a
/// process that takes the place of this one they are [handed over](Self::handed_over).
#[derive(Debug)]
pub(in crate::endpoint) struct Assertions(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// All that were used since then are known.
    since: UnixTime,
    used: HashMap<[u8; 32], UnixTime>,
}

/// What is handed over of one: its key, and until when it is remembered (milliseconds).
const USED_BYTES: usize = 40; // = 32 + 8

/// What became of an id.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    First,
    Again,
    Full,
}

/// An assertion was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It proves nothing.
    Invalid,
    /// It may be good; there is no room to remember it.
    Overloaded,
}

impl Assertions {
    pub(in crate::endpoint) fn new(now: UnixTime) -> Self {
        Self(Mutex::new(Seen { since: now, used: HashMap::new() }))
    }

    /// All that were used, for the process that takes the place of this one.
    pub(in crate::endpoint) fn handed_over(&self) -> Vec<u8> {
        let seen = self.lock();
        let mut bytes = seen.since.millis().to_le_bytes().to_vec();
        bytes.reserve(seen.used.len() * USED_BYTES);
        for (key, until) in &seen.used {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&until.millis().to_le_bytes());
        }
        bytes
    }

    /// Goes on with what [`handed_over`](Self::handed_over) gave, before any was used here.
    pub(in crate::endpoint) fn take_over(&self, bytes: &[u8]) {
        let millis = |bytes: &[u8; 8]| UnixTime::from_millis(u64::from_le_bytes(*bytes));
        let Some((since, bytes)) = bytes.split_first_chunk() else { return };
        let mut seen = self.lock();
        seen.since = millis(since);
        for used in bytes.as_chunks::<USED_BYTES>().0.iter().take(SEEN_MAX) {
            let (key, until) = used.split_first_chunk().expect("32 of 40 bytes");
            seen.used.insert(*key, millis(until.first_chunk().expect("the last eight bytes")));
        }
    }

    fn since(&self) -> UnixTime {
        self.lock().since
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, client: &str, id: &str, until: UnixTime, now: UnixTime) -> Use {
        let key = digest_of(client, id);
        let seen = &mut self.lock().used;
        if seen.get(&key).is_some_and(|until| now < *until) {
            return Use::Again;
        }
        if seen.len() >= SEEN_MAX {
            seen.retain(|_, until| now < *until);
            if seen.len() >= SEEN_MAX {
                return Use::Full;
            }
        }
        seen.insert(key, until);
        Use::First
    }
}

/// By what an assertion is remembered.
fn digest_of(client: &str, id: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(client.len() as u64).to_le_bytes());
    context.update(client.as_bytes());
    context.update(id.as_bytes());
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Endpoints {
    /// The client that signed this assertion, for us, just now, and for the first time.
    ///
    /// # Errors
    /// Whatever is wrong with it is not told.
    pub(super) async fn asserted(&self, call: &Call, assertion: &str) -> Result<&Client, Rejected> {
        let mut found = None;
        let keys = |iss: Option<&str>| {
            found = self.parts.clients.iter().find(|client| Some(&*client.id) == iss);
            found.and_then(|client| client.credential.keys())
        };
        let statement = verify_statement(assertion, assertion.len(), keys, call.now);
        let (Ok(statement), Some(client)) = (statement, found) else { return Err(Rejected::Invalid) };
        let (id, until) = self.judged(call, client, &statement).ok_or(Rejected::Invalid)?;
        // Last of all, so that only what was good in everything else takes room.
        match self.assertions.take(&client.id, id, until, call.now) {
            Use::First if self.is_first_anywhere(&client.id, id, until, call.now).await => Ok(client),
            Use::First | Use::Again => Err(Rejected::Invalid),
            Use::Full => Err(Rejected::Overloaded),
        }
    }

    /// Whether it was not used on another gateway of the store, either.
    async fn is_first_anywhere(&self, client: &str, id: &str, until: UnixTime, now: UnixTime) -> bool {
        self.common.is_first_use("assertion", &digest_of(client, id), until, now).await
    }

    /// The `jti` of a good assertion, and until when it must be remembered.
    fn judged<'s>(
        &self,
        call: &Call,
        client: &Client,
        statement: &'s Statement,
    ) -> Option<(&'s str, UnixTime)> {
        let typed = [None, Some("JWT"), Some("client-authentication+jwt")];
        let audience: Vec<Box<str>> = self.assertion_audience(call);
        let subject = statement.text("sub").ok()??;
        let end = statement.date("exp").ok()??;
        let good = typed.into_iter().any(|kind| statement.is_typed(kind))
            && *subject == *client.id
            && !audience.is_empty()
            && statement.audience(&audience).is_ok()
            && statement.times(call.now.minus(SKEW), call.now.plus(SKEW)).is_ok()
            && end <= call.now.plus(LIFETIME_MAX).plus(SKEW)
            && statement.date("iat").ok()?.is_none_or(|made| made.secs() >= self.assertions.since().secs());
        let id = statement.name("jti", NAME_BYTES_MAX).ok()?;
        good.then(|| (id, end.plus(SKEW)))
    }

    /// What an assertion may name as its audience: our issuer, the token endpoint, the endpoint that it came to.
    ///
    /// A host that the request names counts only where it is known to be ours: configured, or the very address that
    /// the client connected to. Else somebody else's server could have clients make assertions for itself and pass
    /// them on to us under its own name.
    fn assertion_audience(&self, call: &Call) -> Vec<Box<str>> {
        let auth = self.parts.auth.as_ref();
        let mut audience: Vec<Box<str>> = auth.map(|auth| auth.own.issuer.clone()).into_iter().collect();
        let hosts_are_known = auth.is_some_and(|auth| !auth.hosts.is_empty());
        let named = call.authority().filter(|named| hosts_are_known || is_local(named, call.local));
        // Under either scheme: who ends the TLS of our clients may be somebody in front of us.
        let named =
            named.into_iter().flat_map(|named| ["http", "https"].map(|scheme| format!("{scheme}://{named}")));
        for base in self.issuer_origin().into_iter().chain(named) {
            audience.push(format!("{base}/oauth2/token").into());
            audience.push(format!("{base}{}", call.path()).into());
            audience.push(base.into());
        }
        audience
    }
}

/// Whether an authority is the address itself that a client connected to.
fn is_local(authority: &str, local: Option<SocketAddr>) -> bool {
    let Some(local) = local else { return false };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let named = authority.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    authority.parse() == Ok(local) || (local.ip().is_loopback() && named == Some(local.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    #[test]
    fn an_id_is_taken_once_per_client_until_it_has_expired() {
        let seen = Assertions::new(NOW);
        let end = NOW.plus(Duration::from_secs(60));
        assert_eq!(seen.take("a", "1", end, NOW), Use::First);
        assert_eq!(seen.take("a", "1", end, NOW), Use::Again);
        assert_eq!(seen.take("b", "1", end, NOW), Use::First);
        assert_eq!(seen.take("a", "11", end, NOW), Use::First);
        assert_eq!(seen.take("a1", "1", end, NOW), Use::First, "where the client ends counts");
        assert_eq!(seen.take("a", "1", end, end), Use::First);
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_only_what_has_expired() {
        let seen = Assertions::new(NOW);
        let end = NOW.plus(Duration::from_secs(60));
        for id in 0..SEEN_MAX {
            assert_eq!(seen.take("a", &id.to_string(), end, NOW), Use::First);
        }
        assert_eq!(seen.take("a", "x", end, NOW), Use::Full);
        assert_eq!(seen.take("a", "0", end, NOW), Use::Again);
        assert_eq!(seen.take("a", "x", end.plus(SKEW), end), Use::First);
        assert_eq!(seen.lock().used.len(), 1);
    }

    #[test]
    fn only_the_address_itself_is_local() {
        let local = Some("127.0.0.1:8080".parse().unwrap());
        for good in ["127.0.0.1:8080", "localhost:8080"] {
            assert!(is_local(good, local), "{good}");
        }
        for bad in
            ["evil.example:8080", "127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80", "[::1]:8080"]
        {
            assert!(!is_local(bad, local), "{bad}");
        }
        assert!(!is_local("localhost:8080", Some("192.0.2.1:8080".parse().unwrap())));
        assert!(!is_local("127.0.0.1:8080", None));
    }
}
