//! A fleet under random faults, and its history checked: clients revoke, take back and probe through random gateways
//! while the engine and gateways are stopped, killed and started again and their links are slowed, cut and swallowed.
//!
//! What must hold (CONTRACT §9), whatever happened: a revocation that was acknowledged as propagated is accepted by no
//! gateway after the bound that its settings promise; nothing that is revoked comes back by itself; and when the faults are
//! over, every acknowledged revocation is refused by every gateway, and what was acknowledged as taken back everywhere is
//! accepted by every gateway. docs/fleet.md says when a lift may be dropped: the answer then says that it is not propagated,
//! or the engine had lost it, which these engines do not.
//!
//! `make soak` runs it for long: `PORTCULLIS_SOAK_SECONDS`, `PORTCULLIS_TEST_SEED`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::seed::Rng;
use crate::support::fault::{Fault, FaultProxy};
use crate::support::jwt::{Key, claims};
use crate::support::postgres::Postgres;
use crate::support::redis::{Redis, free_port};
use crate::support::{Call, Gateway, Setup, Upstream, gateway, now, wait_for};

const GATEWAYS: usize = 3;
const CLIENTS: usize = 4;
/// Set on every gateway, which refuses when it has heard nothing for so long.
const MAX_STALENESS: Duration = Duration::from_secs(2);
/// To the promise come a second by which a batch still counts as the newest, and what this test itself adds: a gateway
/// that was stopped in the middle believes for as long that it has just heard something, links are slow, the machine is.
const SLACK: Duration = Duration::from_secs(4);
/// How long it goes on without `make soak`.
const SHORT: Duration = Duration::from_secs(25);
/// After the last fault, a fleet on a busy machine takes its time.
const HEALED: Duration = Duration::from_secs(60);

/// Who holds the shared log.
enum Engine {
    Redis(Redis),
    Postgres(Postgres, u16),
}

impl Engine {
    fn redis() -> Self {
        // What was acknowledged is to survive more than a kill: the promise is only as good as the engine's settings.
        Self::Redis(Redis::start_with("appendonly yes\nappendfsync always\nmaxmemory-policy noeviction\n"))
    }

    fn postgres() -> Self {
        let port = free_port();
        Self::Postgres(Postgres::start_on(port, &["listen_addresses=127.0.0.1"], |_| {}), port)
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Redis(redis) => redis.address(),
            Self::Postgres(_, port) => SocketAddr::from(([127, 0, 0, 1], *port)),
        }
    }

    /// As a gateway behind a proxy names it.
    fn url(&self, proxy: &FaultProxy) -> String {
        match self {
            Self::Redis(_) => format!("redis://{}", proxy.address()),
            Self::Postgres(..) => format!("postgres://gate@{}/portcullis", proxy.address()),
        }
    }

    fn signal(&self, name: &str) {
        match self {
            Self::Redis(redis) => redis.signal(name),
            Self::Postgres(server, _) => server.signal(name),
        }
    }

    fn kill_and_begin(&mut self) {
        match self {
            Self::Redis(redis) => {
                redis.kill9();
                redis.begin();
            }
            Self::Postgres(server, _) => {
                server.kill9();
                server.begin();
            }
        }
    }
}

/// Where clients find a gateway now.
#[derive(Clone)]
struct Place {
    clear: SocketAddr,
    admin: SocketAddr,
    token: String,
}

impl Place {
    fn of(gateway: &Gateway) -> Self {
        Self {
            clear: gateway.address(),
            admin: gateway.admin_address(),
            token: gateway.admin_token().to_owned(),
        }
    }

    fn admin(&self, method: &str, target: &str) -> Call {
        Call::new(self.admin, method, target).bearer(&self.token)
    }

    /// Whether it lets this token through; `None` where it did not say.
    fn accepts(&self, token: &str) -> Option<bool> {
        let answer = Call::new(self.clear, "GET", "/x").bearer(token).try_send()?;
        match answer.status {
            200 => Some(true),
            401 => {
                assert_eq!(answer.json()["code"], "token_revoked", "{}", answer.text());
                Some(false)
            }
            // Stale, or its upstream connection broke while it was stopped.
            502..=504 => None,
            other => panic!("{other}: {}", answer.text()),
        }
    }
}

/// What is known of one token.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Nobody has done anything to it.
    Good,
    /// Acknowledged, and in the shared log since then.
    Revoked(Instant),
    /// Acknowledged, on its way to the others.
    Forwarded,
    /// Taken back, and in the shared log.
    TakenBack,
    /// No answer came, or one that tells too little.
    Unknown,
}

struct Id {
    name: String,
    token: String,
    fate: Fate,
}

struct World {
    places: RwLock<Vec<Place>>,
    enough: AtomicBool,
    revoked: AtomicUsize,
    taken_back: AtomicUsize,
    probes: AtomicUsize,
    faults: AtomicUsize,
    /// Two answers to the same question disagreed with what must hold.
    violations: Mutex<Vec<String>>,
}

impl World {
    fn place(&self, number: usize) -> Place {
        self.places.read().unwrap_or_else(PoisonError::into_inner)[number].clone()
    }

    fn goes_on(&self) -> bool {
        let none = self.violations.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        none && !self.enough.load(Ordering::SeqCst)
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

fn token(name: &str) -> String {
    let changes = json!({ "iss": "https://id.test", "exp": now() + 86_400 });
    Key::secret("legacy").token(&claims(name, &changes))
}

/// Works on ids of its own, so that it knows what became of each.
fn client(world: &World, number: usize, mut rng: Rng) -> Vec<Id> {
    let mut ids: Vec<Id> = Vec::new();
    while world.goes_on() {
        let at = rng.below(GATEWAYS);
        let place = world.place(at);
        match rng.below(10) {
            0..3 => {
                let name = format!("c{number}.{}", ids.len());
                let body = json!({ "kind": "token", "issuer": "legacy", "value": name });
                let answer = place.admin("POST", "/admin/revocations").json(&body).try_send();
                let fate = match answer {
                    Some(answer) if answer.status == 200 => {
                        world.revoked.fetch_add(1, Ordering::SeqCst);
                        if answer.json()["propagated"] == true {
                            Fate::Revoked(Instant::now())
                        } else {
                            Fate::Forwarded
                        }
                    }
                    // What was refused is not in force, but no answer is none.
                    _ => Fate::Unknown,
                };
                ids.push(Id { token: token(&name), name, fate });
            }
            3 => ids.push({
                let name = format!("c{number}.{}", ids.len());
                Id { token: token(&name), name, fate: Fate::Good }
            }),
            4 if !ids.is_empty() => {
                let id = rng.below(ids.len());
                let id = &mut ids[id];
                let Fate::Revoked(since) = id.fate else { continue };
                let target = format!("/admin/revocations/token/{}?issuer=legacy", id.name);
                let answer = place.admin("DELETE", &target).try_send();
                id.fate = match answer {
                    Some(answer) if answer.status == 200 && answer.json()["propagated"] == true => {
                        world.taken_back.fetch_add(1, Ordering::SeqCst);
                        Fate::TakenBack
                    }
                    // It has not heard of it yet.
                    Some(answer) if answer.status == 404 => Fate::Revoked(since),
                    _ => Fate::Unknown,
                };
            }
            _ if !ids.is_empty() => {
                // Young ones more often: that is where it may go wrong.
                let back = if rng.one_in(2) { ids.len().min(8) } else { ids.len() };
                let id = &ids[ids.len() - 1 - rng.below(back)];
                let asked = Instant::now();
                let Some(accepted) = place.accepts(&id.token) else { continue };
                world.probes.fetch_add(1, Ordering::SeqCst);
                match id.fate {
                    Fate::Revoked(since)
                        if accepted && asked.duration_since(since) > MAX_STALENESS + SLACK =>
                    {
                        world.violated(format!(
                            "gateway {at} accepted {} {:?} after it was acknowledged as propagated",
                            id.name,
                            asked.duration_since(since)
                        ));
                    }
                    Fate::Good if !accepted => {
                        world.violated(format!("gateway {at} refused {}, which nobody revoked", id.name));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        thread::sleep(Duration::from_millis(1 + rng.next() % 8));
    }
    ids
}

/// Does harm to processes, one after the other, and mends it.
fn harm_processes(
    world: &World,
    engine: &mut Engine,
    fleet: &mut [Gateway],
    links: &[Mutex<FaultProxy>],
    mut rng: Rng,
) {
    let hold = |rng: &mut Rng, ms: u64| thread::sleep(Duration::from_millis(100 + rng.next() % ms));
    while world.goes_on() {
        let victim = rng.below(GATEWAYS);
        match rng.below(5) {
            0 => {
                engine.signal("STOP");
                hold(&mut rng, 2500);
                engine.signal("CONT");
            }
            1 => engine.kill_and_begin(),
            2 => {
                gateway::signal(fleet[victim].process(), "STOP");
                hold(&mut rng, 900);
                gateway::signal(fleet[victim].process(), "CONT");
            }
            _ => {
                // Its link is good while it starts, or it would not get ready.
                let link = links[victim].lock().unwrap_or_else(PoisonError::into_inner);
                link.set(Fault::None);
                fleet[victim].kill9();
                if rng.one_in(2) {
                    hold(&mut rng, 1500);
                }
                fleet[victim].restart();
                let place = Place::of(&fleet[victim]);
                world.places.write().unwrap_or_else(PoisonError::into_inner)[victim] = place;
            }
        }
        world.faults.fetch_add(1, Ordering::SeqCst);
        hold(&mut rng, 1200);
    }
}

/// Does harm to the links between gateways and engine.
fn harm_links(world: &World, links: &[Mutex<FaultProxy>], mut rng: Rng) {
    while world.goes_on() {
        let victim = rng.below(GATEWAYS);
        let fault = match rng.below(4) {
            0 => Fault::Delay(Duration::from_millis(5 + rng.next() % 60)),
            1 => Fault::Cut,
            2 => Fault::BlackHole,
            _ => Fault::HalfOpen,
        };
        {
            let link = links[victim].lock().unwrap_or_else(PoisonError::into_inner);
            link.set(fault);
            thread::sleep(Duration::from_millis(100 + rng.next() % 2500));
            // What was swallowed never comes: such a connection is dead.
            link.set(Fault::Cut);
            link.set(Fault::None);
        }
        world.faults.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(rng.next() % 800));
    }
}

fn start(engine: &Engine, link: &Mutex<FaultProxy>, upstream: &Upstream) -> Gateway {
    let url = engine.url(&link.lock().unwrap_or_else(PoisonError::into_inner));
    Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section(
            "[[issuers]]\nname = \"legacy\"\nissuer = \"https://id.test\"\nalgorithms = [\"HS256\"]\n\
             secret_file = \"legacy.key\"\n",
        )
        .section(&format!(
            "[revocation.cluster]\nurl = \"{url}\"\nmax_staleness = \"{}s\"\nwhen_stale = \"refuse\"\n",
            MAX_STALENESS.as_secs()
        ))
        .upstream("up", upstream.address())
        .route("api", "/", "up", "access")
        .start()
}

fn holds_under_faults(mut engine: Engine) {
    let seconds = std::env::var("PORTCULLIS_SOAK_SECONDS").ok();
    let lasting = seconds.map_or(SHORT, |text| Duration::from_secs(text.parse().expect("whole seconds")));
    let mut rng = Rng::new();
    let upstream = Upstream::echo();
    let links: Vec<Mutex<FaultProxy>> =
        (0..GATEWAYS).map(|_| Mutex::new(FaultProxy::before(engine.address()))).collect();
    let mut fleet: Vec<Gateway> = links.iter().map(|link| start(&engine, link, &upstream)).collect();
    let world = World {
        places: RwLock::new(fleet.iter().map(Place::of).collect()),
        enough: AtomicBool::new(false),
        revoked: AtomicUsize::new(0),
        taken_back: AtomicUsize::new(0),
        probes: AtomicUsize::new(0),
        faults: AtomicUsize::new(0),
        violations: Mutex::default(),
    };
    let ids: Vec<Id> = thread::scope(|scope| {
        let (world, links) = (&world, &links);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let rng = rng.fork();
                scope.spawn(move || client(world, number, rng))
            })
            .collect();
        let (first, second) = (rng.fork(), rng.fork());
        let (engine, fleet) = (&mut engine, &mut fleet);
        scope.spawn(move || harm_processes(world, engine, fleet, links, first));
        scope.spawn(move || harm_links(world, links, second));
        let started = Instant::now();
        while world.goes_on()
            && started.elapsed() < lasting
            && !clients.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(50));
        }
        world.enough.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!(
        "{} faults; {} revoked, {} taken back, {} probes",
        count(&world.faults),
        count(&world.revoked),
        count(&world.taken_back),
        count(&world.probes)
    );
    let violations = world.violations.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(violations.is_empty(), "{violations:#?}");

    // The faults are over: everybody tells everybody everything. The engine ends with the thread that started it.
    engine.kill_and_begin();
    for gateway in &fleet {
        wait_for("a link, and an empty outbox", || {
            let cluster: Value =
                gateway.admin("GET", "/admin/watermark").send().expect(200).json()["cluster"].clone();
            let ready = Call::new(gateway.admin_address(), "GET", "/readyz").send().status == 200;
            (ready && cluster["connected"] == true && cluster["outbox"] == 0).then_some(())
        });
    }
    let healed = Instant::now();
    for (number, gateway) in fleet.iter().enumerate() {
        let place = Place::of(gateway);
        for id in &ids {
            let wanted = match id.fate {
                Fate::Revoked(_) | Fate::Forwarded => false,
                Fate::Good | Fate::TakenBack => true,
                Fate::Unknown => continue,
            };
            while place.accepts(&id.token) != Some(wanted) {
                assert!(
                    healed.elapsed() < HEALED,
                    "gateway {number} and {}: {:?}, and it is {}",
                    id.name,
                    id.fate,
                    if wanted { "refused" } else { "accepted" }
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    assert!(count(&world.faults) > 3 && count(&world.revoked) > 50 && count(&world.probes) > 50);
}

#[test]
fn what_a_fleet_on_redis_acknowledged_holds_under_random_faults() {
    holds_under_faults(Engine::redis());
}

#[test]
fn what_a_fleet_on_postgres_acknowledged_holds_under_random_faults() {
    holds_under_faults(Engine::postgres());
}
