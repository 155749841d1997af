//! Refresh as it goes in the world: many clients with several tabs, replies that get lost before or after the commit,
//! clients that crash before they could store what they got, a store that is opened again, and thieves.
//!
//! The endpoints and the SQLite store are the real ones; time is a number, and all chance comes from one seed.
//! Clients behave as docs/auth.md asks: they try again with the same token, within the grace.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::super::call::Call;
use super::super::place::Place;
use super::super::settings::{OnReuse, Settings};
use super::super::support::{NOW, ToyTokens, World, claim, settings};
use super::super::*;
use crate::clock::UnixTime;
use crate::revocation::{Kind, Revocation, Selector, SelectorKey, TokenKeys};
use crate::store::{Created, PasswordHash, Sqlite, User};
use crate::token::Claims;

/// Between two attempts; the grace has twenty of them.
const TICK: Duration = Duration::from_millis(500);
const TICKS: u64 = 20;
/// Requests at a time.
const AT_ONCE: usize = 800;

#[derive(Clone, Copy)]
struct Plan {
    clients: usize,
    rounds: usize,
    /// How many of each kind of thief.
    thieves: usize,
}

/// What went wrong; nothing, if all is well.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wrongs {
    /// Owners who were refused, or never got through.
    signed_out: usize,
    /// Rounds in which two tabs of one client got different successors.
    siblings: usize,
    /// Thieves, or owners after a thief, who were not refused at the first conflicting use.
    uncaught: usize,
    /// Sessions that went on for somebody after that.
    survived: usize,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    LostBefore,
    LostAfter,
}

/// One tab that wants a new access token.
struct Tab {
    client: usize,
    /// Read from the client's storage as the round began.
    held: String,
    wakes: u64,
}

struct Simulation {
    world: World,
    chance: Chance,
    wrongs: Wrongs,
}

impl Simulation {
    /// Signs everybody in, straight into the store: passwords are not what this is about.
    async fn start(
        auth: Settings,
        tokens: Arc<dyn Tokens>,
        clients: usize,
        seed: u64,
    ) -> (Self, Vec<String>) {
        // In memory where there is such a place: tens of thousands of commits, and no power cut here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = with_log(World::in_dir(dir, Some(auth), tokens), Arc::default());
        let mut stored = Vec::with_capacity(clients);
        let numbers: Vec<usize> = (0..clients).collect();
        for numbers in numbers.chunks(AT_ONCE) {
            stored.extend(join_all(numbers.iter().map(|number| sign_in(&world, *number))).await);
        }
        (Self { world, chance: Chance(seed), wrongs: Wrongs::default() }, stored)
    }

    async fn run(auth: Settings, tokens: Arc<dyn Tokens>, plan: Plan) -> Wrongs {
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
        println!("SEED={seed}");
        let victims = plan.thieves * THIEVES.len();
        let (mut this, mut stored) = Self::start(auth, tokens, plan.clients + victims, seed).await;
        let stolen = stored.split_off(plan.clients);
        for (number, token) in stolen.into_iter().enumerate() {
            this.theft(THIEVES[number % THIEVES.len()], token).await;
        }
        // The first round is everybody's; then a fifth goes on, for a debug build to end in good time.
        for round in 0..plan.rounds {
            let going_on = if round == 0 { stored.len() } else { stored.len() / 5 };
            this.round(&mut stored[..going_on]).await;
        }
        this.wrongs
    }

    /// Every client refreshes once, with all its tabs; then a quarter of an hour passes.
    async fn round(&mut self, stored: &mut [String]) {
        let mut waiting: BTreeMap<u64, Vec<Tab>> = BTreeMap::new();
        for (client, held) in stored.iter().enumerate() {
            let tabs = [1, 1, 1, 1, 1, 1, 1, 2, 2, 3][self.chance.below(10) as usize];
            for _ in 0..tabs {
                let wakes = self.chance.below(5);
                waiting.entry(wakes).or_default().push(Tab { client, held: held.clone(), wakes });
            }
        }
        let mut got: Vec<HashSet<String>> = vec![HashSet::new(); stored.len()];
        let stops = self.chance.below(TICKS);
        for tick in 0..TICKS {
            if tick == stops {
                self.reopen();
            }
            let due: Vec<(Tab, Fate)> =
                waiting.remove(&tick).unwrap_or_default().into_iter().map(|tab| (tab, self.fate())).collect();
            for mut due in chunks(due) {
                let sent: Vec<&str> = due.iter().map(|(tab, _)| &*tab.held).collect();
                let fates = due.iter().map(|(_, fate)| *fate);
                let answers =
                    join_all(sent.iter().zip(fates).map(|(token, fate)| {
                        let world = &self.world;
                        async move {
                            if fate == Fate::LostBefore { None } else { Some(refresh(world, token).await) }
                        }
                    }))
                    .await;
                for ((tab, fate), answer) in due.drain(..).zip(answers) {
                    match (fate, answer) {
                        (Fate::Answered, Some(Ok(token))) => {
                            got[tab.client].insert(claim(&token, "jti"));
                            stored[tab.client] = token;
                        }
                        (_, Some(Err(_))) => self.wrongs.signed_out += 1,
                        // At once, or after a crash and a new start.
                        _ => {
                            let next = tick + [1, 1, 1, 4][self.chance.below(4) as usize];
                            match next < TICKS {
                                true => waiting.entry(next).or_default().push(tab),
                                false if got[tab.client].is_empty() => self.wrongs.signed_out += 1,
                                false => assert!(tab.wakes < TICKS, "another tab has got through"),
                            }
                        }
                    }
                }
            }
            self.world.clock.advance(TICK);
        }
        self.wrongs.siblings += got.iter().filter(|successors| successors.len() > 1).count();
        self.world.advance(900);
    }

    /// Three replies in ten are lost: the request on its way, or the answer (or the client that crashes with it).
    fn fate(&mut self) -> Fate {
        match self.chance.below(20) {
            0..3 => Fate::LostBefore,
            3..6 => Fate::LostAfter,
            _ => Fate::Answered,
        }
    }

    /// The gateway's process ends and begins again, between two requests.
    fn reopen(&mut self) {
        let world = &mut self.world;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&world.dir.path().join("p.db")).unwrap());
        let parts = Parts { store: store.clone(), ..world.endpoints.parts.clone() };
        world.endpoints = Arc::new(Endpoints::new(parts).unwrap());
        world.store = store;
    }

    /// Somebody has a copy of the owner's token. What follows the first conflicting use is a refusal, whoever makes
    /// it, and the end of the session for both.
    async fn theft(&mut self, kind: Thief, token: String) {
        let sid = claim(&token, "sid");
        let (owner, thief) = (token.clone(), token);
        let mut held = Vec::new();
        let later = |this: &Self, seconds| this.world.advance(seconds);
        let conflicting = match kind {
            Thief::BeforeTheOwner => {
                held.push(refresh(&self.world, &thief).await.unwrap());
                later(self, 600);
                refresh(&self.world, &owner).await
            }
            Thief::AfterTheOwner => {
                held.push(refresh(&self.world, &owner).await.unwrap());
                later(self, 10);
                refresh(&self.world, &thief).await
            }
            Thief::WithinTheGraceOfAUsedOne => {
                let second = refresh(&self.world, &owner).await.unwrap();
                held.push(refresh(&self.world, &second).await.unwrap());
                refresh(&self.world, &thief).await
            }
            Thief::InTheShadowOfTheOwner => {
                // Both have the same successor now, so nothing conflicts yet; then one of them uses it.
                let second = refresh(&self.world, &thief).await.unwrap();
                let same = refresh(&self.world, &owner).await.unwrap();
                later(self, 900);
                held.push(refresh(&self.world, &same).await.unwrap());
                later(self, 900);
                refresh(&self.world, &second).await
            }
        };
        self.wrongs.uncaught += usize::from(conflicting.is_ok());
        held.extend(conflicting.ok());
        let session = Selector::new(Kind::Session, "self", sid);
        let revoked = self.world.endpoints.parts.revocations.in_force_until(&session).is_some();
        let mut goes_on = false;
        for token in held {
            goes_on |= refresh(&self.world, &token).await.is_ok();
        }
        self.wrongs.survived += usize::from(!revoked || goes_on);
    }
}

#[derive(Clone, Copy)]
enum Thief {
    BeforeTheOwner,
    AfterTheOwner,
    WithinTheGraceOfAUsedOne,
    InTheShadowOfTheOwner,
}

const THIEVES: [Thief; 4] = [
    Thief::BeforeTheOwner,
    Thief::AfterTheOwner,
    Thief::WithinTheGraceOfAUsedOne,
    Thief::InTheShadowOfTheOwner,
];

fn chunks(mut due: Vec<(Tab, Fate)>) -> Vec<Vec<(Tab, Fate)>> {
    let mut chunks = Vec::new();
    while !due.is_empty() {
        let rest = due.split_off(due.len().min(AT_ONCE));
        chunks.push(std::mem::replace(&mut due, rest));
    }
    chunks
}

async fn sign_in(world: &World, number: usize) -> String {
    let user = User {
        id: format!("user-{number}").into(),
        email: format!("{number}@example.com").into(),
        username: "".into(),
        password_hash: PasswordHash("none".into()),
        fields: Claims::new(),
        scope: "".into(),
        created: NOW,
        disabled: false,
    };
    let peer = Peer { address: Some(world.address), secure: true, ..Peer::default() };
    let call = Call::read(Place::Signup, peer, Request::new(Full::<Bytes>::default()), NOW).await.unwrap();
    let prepared = world.endpoints.prepare_login(&call, &user, Claims::new()).unwrap();
    let login = Some(prepared.login.clone());
    let created = world.store.create_user(user.clone(), user.email.clone(), login).await.unwrap();
    assert_eq!(created, Created::Done);
    let answer = world.endpoints.signed_in(StatusCode::CREATED, &prepared, &user, false).unwrap();
    text(answer, "refresh_token").await
}

async fn refresh(world: &World, token: &str) -> Result<String, StatusCode> {
    let request = Request::post("/auth/refresh").header("authorization", format!("Bearer {token}"));
    let peer = Peer { address: Some(world.address), secure: true, ..Peer::default() };
    let answer = world.endpoints.serve(peer, "r", request.body(Full::<Bytes>::default()).unwrap()).await;
    match answer.status() {
        StatusCode::OK => Ok(text(answer, "refresh_token").await),
        StatusCode::UNAUTHORIZED => Err(StatusCode::UNAUTHORIZED),
        other => panic!("{other}: {:?}", answer.into_body().collect().await.unwrap().to_bytes()),
    }
}

async fn text(answer: http::Response<Body>, name: &str) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    body["data"][0][name].as_str().unwrap().to_owned()
}

/// The revoked sessions, found by their keys: with thousands of clients the list of [`World`] would take too long.
#[derive(Default)]
struct KeyedLog(Mutex<HashSet<SelectorKey>>);

impl Revocations for KeyedLog {
    fn append(&self, batch: Vec<Revocation>) -> BoxFuture<'_, Result<u64, LogUnavailable>> {
        self.0.lock().unwrap().extend(batch.iter().map(|entry| entry.selector.key()));
        std::future::ready(Ok(1)).boxed()
    }

    fn refused_by(&self, keys: &TokenKeys, _now: UnixTime) -> Vec<Kind> {
        let revoked = self.0.lock().unwrap();
        keys.session.filter(|key| revoked.contains(key)).map(|_| Kind::Session).into_iter().collect()
    }

    fn in_force_until(&self, selector: &Selector) -> Option<UnixTime> {
        self.0.lock().unwrap().contains(&selector.key()).then_some(UnixTime::from_secs(u64::MAX / 1000))
    }

    fn sequence(&self) -> u64 {
        1
    }

    fn trail_caught_up(&self, _sequence: u64) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

fn with_log(mut world: World, log: Arc<KeyedLog>) -> World {
    let parts = Parts { revocations: log, ..world.endpoints.parts.clone() };
    world.endpoints = Arc::new(Endpoints::new(parts).unwrap());
    world
}

fn toy() -> Arc<dyn Tokens> {
    Arc::new(ToyTokens::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_innocent_is_signed_out_and_every_thief_is_caught() {
    let plan = Plan { clients: 10_000, rounds: 2, thieves: 25 };
    assert_eq!(Simulation::run(settings(), toy(), plan).await, Wrongs::default());
}

const SMALL: Plan = Plan { clients: 200, rounds: 2, thieves: 5 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulation_sees_siblings() {
    let tokens = Arc::new(ToyTokens { siblings: Some(AtomicU64::new(0)) });
    let wrongs = Simulation::run(settings(), tokens, SMALL).await;
    assert!(wrongs.siblings > 10, "{wrongs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulation_sees_a_missing_grace() {
    let auth = Settings { reuse_grace: Duration::ZERO, ..settings() };
    // Only a refusal that the thief's own script does not reckon with would stop it, so there is none here.
    let wrongs = Simulation::run(auth, toy(), Plan { thieves: 0, ..SMALL }).await;
    assert!(wrongs.signed_out > 10, "{wrongs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulation_sees_thieves_go_free() {
    let auth = Settings { on_reuse: OnReuse::Log, ..settings() };
    let wrongs = Simulation::run(auth, toy(), SMALL).await;
    assert_eq!((wrongs.signed_out, wrongs.survived), (0, SMALL.thieves * THIEVES.len()), "{wrongs:?}");
    let auth = Settings { rotate_refresh: true, reuse_grace: Duration::from_secs(3600), ..settings() };
    let wrongs = Simulation::run(auth, toy(), SMALL).await;
    assert!(wrongs.uncaught > 0, "{wrongs:?}");
}
