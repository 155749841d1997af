//! The addresses behind a target's name.
//!
//! The system's resolver is asked, so `/etc/hosts`, search lists and everything else that the machine knows count; it tells
//! no lifetime of an answer. A name is asked for before a connection is made when the last answer is older than
//! `resolve_every`, and again and again in that interval while connections are open. There is one question at a time,
//! and it goes on when nobody waits for it any more.
//!
//! **A resolver that fails costs nothing that works**: the last good answer stays in use, said once in the log, and no
//! connection waits for a resolver that has just failed or is silent. An answer that fails costs little: when none of
//! its addresses takes a connection, the name is asked for once more before the request fails.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A connection waits so long for a newer answer where there is an older one.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer so young is not doubted, whatever its addresses do.
const YOUNG: Duration = Duration::from_secs(1);
/// An address that did not take a connection while another did comes last for so long.
const ILL_FOR: Duration = Duration::from_secs(10);

/// A name and what is known of it.
#[derive(Debug)]
pub(super) struct Name {
    host: Box<str>,
    port: u16,
    every: Duration,
    known: Mutex<Known>,
    /// Goes up when an address leaves the answer.
    edition: AtomicU32,
    /// Held by whoever asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// As last answered, in the order of the resolver; empty before the first answer.
    addresses: Arc<[SocketAddr]>,
    /// When the last question ended, with or without an answer.
    asked: Option<Instant>,
    /// Why there is no newer answer.
    trouble: Option<Box<str>>,
    /// Since when.
    ill: Vec<(SocketAddr, Instant)>,
}

/// An answer to be used now.
#[derive(Debug)]
pub(super) struct Answer {
    /// At least one.
    pub(super) addresses: Arc<[SocketAddr]>,
    /// Those that are to come last.
    pub(super) ill: Vec<SocketAddr>,
    edition: u32,
}

/// Where a connection goes, and by which edition of the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub(super) address: SocketAddr,
    edition: u32,
}

impl Answer {
    /// Of a connection to this one of its addresses.
    pub(super) const fn lead(&self, address: SocketAddr) -> Lead {
        Lead { address, edition: self.edition }
    }
}

impl Lead {
    /// Whether the name still has this address. As good as free while the name has lost none.
    pub(super) fn holds(&mut self, name: &Name) -> bool {
        let edition = name.edition();
        if self.edition == edition {
            return true;
        }
        // Read before the look-up: an address that goes in between is looked up once more.
        self.edition = edition;
        name.has(self.address)
    }
}

impl Name {
    /// `before` is the same name under settings that a reload replaced.
    pub(super) fn new(host: &str, port: u16, every: Duration, before: Option<&Self>) -> Self {
        let known = before.map_or_else(Known::default, |before| before.known().clone());
        let (edition, asking) = (AtomicU32::new(0), tokio::sync::Mutex::default());
        Self { host: host.into(), port, every, known: Mutex::new(known), edition, asking }
    }

    /// How old an answer may get while it is in use.
    pub(super) const fn every(&self) -> Duration {
        self.every
    }

    /// Goes up when an address leaves the answer.
    pub(super) fn edition(&self) -> u32 {
        self.edition.load(Ordering::Acquire)
    }

    /// As last answered.
    pub(super) fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.known().addresses)
    }

    /// Whether this is one of its addresses.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.known().addresses.contains(&address)
    }

    /// Why there is no newer answer.
    pub(super) fn trouble(&self) -> Option<Box<str>> {
        self.known().trouble.clone()
    }

    /// Addresses for a connection that may take `limit`: those that are known, unless they are old and newer ones are
    /// soon to be had.
    ///
    /// # Errors
    /// There was never an answer. Dropping the future leaves the question under way.
    pub(super) async fn answer(self: &Arc<Self>, limit: Duration) -> io::Result<Answer> {
        let Known { addresses, asked, trouble, .. } = self.known().clone();
        let fresh = asked.is_some_and(|asked| asked.elapsed() < self.every);
        if addresses.is_empty() {
            // A panic of the resolver leaves things as they are.
            let _ = self.ask().await;
        } else if !fresh && trouble.is_some() {
            if self.asking.try_lock().is_ok() {
                self.ask();
            }
        } else if !fresh && timeout(PATIENCE.min(limit / 2), self.ask()).await.is_err() {
            self.troubled("the resolver is silent".into());
        }
        self.current()
    }

    /// What is known after asking once more, unless that was done a moment ago, or takes long: the connection may take
    /// `limit`, and has an error to tell already.
    pub(super) async fn once_more(self: &Arc<Self>, limit: Duration) -> Option<Answer> {
        let young = self.known().asked.is_some_and(|asked| asked.elapsed() < YOUNG);
        if young || timeout(PATIENCE.min(limit / 2), self.ask()).await.is_err() {
            return None;
        }
        self.current().ok()
    }

    /// Asks, and waits for the answer.
    pub(super) async fn refresh(self: &Arc<Self>) {
        let _ = self.ask().await;
    }

    /// None of its addresses said anything: whoever comes next asks again.
    pub(super) fn doubt(&self) {
        self.known().asked = None;
    }

    /// Of these no connection came about, and of that one it did.
    pub(super) fn note(&self, ill: &[SocketAddr], well: Option<SocketAddr>) {
        let mut known = self.known();
        if ill.is_empty() && known.ill.is_empty() {
            return;
        }
        known.ill.retain(|(address, since)| {
            Some(*address) != well && !ill.contains(address) && since.elapsed() < ILL_FOR
        });
        let now = Instant::now();
        known.ill.extend(ill.iter().map(|address| (*address, now)));
    }

    /// What is known now, without asking.
    ///
    /// # Errors
    /// There was never an answer.
    pub(super) fn current(&self) -> io::Result<Answer> {
        let known = self.known();
        if known.addresses.is_empty() {
            let why = known.trouble.as_deref().unwrap_or("the name has no address");
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let ill = known.ill.iter().filter(|(_, since)| since.elapsed() < ILL_FOR);
        Ok(Answer {
            ill: ill.map(|(address, _)| *address).collect(),
            addresses: Arc::clone(&known.addresses),
            edition: self.edition(),
        })
    }

    /// On a task of its own. Whoever waits while another asks takes the answer to a question that began after it came.
    fn ask(self: &Arc<Self>) -> JoinHandle<()> {
        let name = Arc::clone(self);
        let since = Instant::now();
        tokio::spawn(async move {
            let _alone = name.asking.lock().await;
            if name.known().asked.is_some_and(|asked| asked >= since) {
                return;
            }
            let found = tokio::net::lookup_host((&*name.host, name.port)).await;
            name.learn(found.map(Iterator::collect));
        })
    }

    fn learn(&self, found: io::Result<Vec<SocketAddr>>) {
        let mut found = match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return self.troubled("the name has no address".into()),
            Err(error) => return self.troubled(error.to_string().into()),
        };
        // Some resolvers tell an address once for each kind of socket.
        let mut seen = Vec::with_capacity(found.len());
        found.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        let mut known = self.known();
        let lost = known.addresses.iter().any(|address| !found.contains(address));
        if known.trouble.take().is_some() {
            tracing::info!(name = &*self.host, "the name of a target resolves again");
        }
        (known.addresses, known.asked) = (found.into(), Some(Instant::now()));
        if lost {
            self.edition.fetch_add(1, Ordering::Release);
            tracing::debug!(name = &*self.host, addresses = ?known.addresses, "the addresses of a target changed");
        }
    }

    fn troubled(&self, why: Box<str>) {
        let mut known = self.known();
        known.asked = Some(Instant::now());
        if known.trouble.is_none() && !known.addresses.is_empty() {
            tracing::warn!(
                name = &*self.host,
                why = &*why,
                "the name of a target does not resolve; its last addresses stay in use"
            );
        }
        known.trouble = Some(why);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn name() -> Name {
        Name::new("api.internal", 80, Duration::from_secs(10), None)
    }

    #[tokio::test]
    async fn a_lead_holds_until_its_own_address_is_gone() {
        let name = name();
        name.learn(Ok(addresses(&[1, 2, 2])));
        assert_eq!(*name.addresses(), addresses(&[1, 2]));
        let answer = name.current().unwrap();
        let [mut one, mut two] = [1, 2].map(|port| answer.lead(addresses(&[port])[0]));
        name.learn(Ok(addresses(&[2, 1, 3])));
        assert_eq!(name.edition(), 0, "an address that comes, or another order, ends nothing");
        name.learn(Ok(addresses(&[2, 3])));
        assert!(!one.holds(&name) && two.holds(&name));
        assert_eq!(two.edition, 1, "it is looked up once for each edition");
    }

    #[tokio::test]
    async fn what_fails_leaves_the_last_good_answer() {
        let name = name();
        assert_eq!(name.current().unwrap_err().kind(), io::ErrorKind::NotFound);
        name.learn(Ok(addresses(&[1])));
        for failed in [Ok(Vec::new()), Err(io::Error::other("no such name"))] {
            name.learn(failed);
            assert_eq!(*name.addresses(), addresses(&[1]));
            assert!(name.trouble().is_some() && name.edition() == 0);
        }
        name.learn(Ok(addresses(&[1])));
        assert_eq!(name.trouble(), None);
    }

    #[tokio::test]
    async fn an_ill_address_comes_last_until_it_is_well() {
        let name = name();
        let all = addresses(&[1, 2, 3]);
        name.learn(Ok(all.clone()));
        name.note(&all[..2], Some(all[2]));
        assert_eq!(name.current().unwrap().ill, all[..2]);
        name.note(&[], Some(all[0]));
        assert_eq!(name.current().unwrap().ill, all[1..2]);
        name.note(&[], Some(all[1]));
        assert!(name.current().unwrap().ill.is_empty());
    }
}
