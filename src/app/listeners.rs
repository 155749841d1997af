//! The listeners that are open. A reload keeps those that stay, opens new ones before anything is swapped, and drains
//! those that go; a socket that goes on under another name is never closed in between.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

use super::ports::{AdminHandler, GatewayHandler};
use crate::admin::Admin;
use crate::config::Settings;
use crate::gateway::{Gateway, Parting};
use crate::server::settings::Listen;
use crate::server::{self, Drain, Inherited, Layers, Listener, LiveLayers, LiveRules, Rules};
use crate::tls::Acceptor;
use crate::worker::Workers;

/// Connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 1024;

/// How long before they are cut the WebSockets that are still open are told so; of a short `drain_timeout` the half.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Who is served at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Clients, in clear text.
    Clear,
    /// Clients, over TLS.
    Tls,
    /// Administrators.
    Admin,
}

impl Door {
    /// As events call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Tls => "tls",
            Self::Admin => "admin",
        }
    }

    /// As the configuration calls it.
    const fn setting(self) -> &'static str {
        match self {
            Self::Clear => "[server] listen",
            Self::Tls => "[server.tls] listen",
            Self::Admin => "[admin] listen",
        }
    }
}

/// A listener that is open.
struct Open {
    door: Door,
    listen: Listen,
    /// Beside the one that is accepted from, so that the socket outlives whoever accepts.
    socket: Listener,
    drain: Drain,
    /// Of the tunnels that were opened here.
    parting: Parting,
    accepting: JoinHandle<std::io::Result<()>>,
}

/// See the module.
pub(super) struct Listeners {
    open: Vec<Open>,
    /// Of all clients.
    pub(super) clients: Drain,
    /// Of the admin listener, which outlives the others.
    pub(super) admins: Drain,
    /// Of all tunnels, whatever becomes of their listener.
    parting: Parting,
    gateway: Gateway,
    admin: Admin,
    control: Handle,
    data: Workers,
    rules: LiveRules,
    admin_rules: LiveRules,
    clear: LiveLayers,
    tls: LiveLayers,
    keeping_fresh: Option<AbortHandle>,
}

/// What the listeners will be, all sockets bound.
pub(super) struct Plan {
    /// Each with a second handle.
    new: Vec<(Door, Listen, [Listener; 2])>,
    wanted: Vec<(Door, Listen)>,
    acceptor: Option<Acceptor>,
    clear: Layers,
    tls: Layers,
    rules: Rules,
    admin_rules: Rules,
}

impl Listeners {
    /// None open yet.
    pub(super) fn new(
        gateway: Gateway,
        admin: Admin,
        clients: Drain,
        control: Handle,
        data: Workers,
        settings: &Settings,
    ) -> Self {
        let (rules, admin_rules) = rules(settings);
        Self {
            open: Vec::new(),
            clients,
            admins: Drain::new(),
            parting: Parting::default(),
            gateway,
            admin,
            control,
            data,
            rules: rules.live(),
            admin_rules: admin_rules.live(),
            clear: Layers::default().live(),
            tls: Layers::default().live(),
            keeping_fresh: None,
        }
    }

    /// Binds what is new, and reads certificates. Nothing that is open is touched.
    ///
    /// # Errors
    /// An address that cannot be had; certificates that cannot be used.
    pub(super) fn plan(&self, settings: &Settings, inherited: &mut Inherited) -> anyhow::Result<Plan> {
        let acceptor = settings.server.tls.as_ref().map(|tls| {
            let acceptor = match &self.tls.load().tls {
                Some(before) => before.renewed(&tls.files),
                None => Acceptor::load(tls.files.clone()),
            };
            acceptor.context("cannot use the certificates of [server.tls]")
        });
        let acceptor = acceptor.transpose()?;
        let wanted = wanted(settings);
        let going: Vec<&Listener> = self
            .open
            .iter()
            .filter(|open| !wanted.iter().any(|(door, listen)| open.is(*door, listen) || open.is_at(listen)))
            .map(|open| &open.socket)
            .collect();
        let mut new = Vec::new();
        let mut missing: Vec<_> =
            wanted.iter().filter(|(door, listen)| self.find(*door, listen).is_none()).collect();
        // Those that clients may find at once, at an address that is served, come last: nothing fails after them.
        missing.sort_by_key(|(_, listen)| going.iter().any(|socket| socket.has_port_of(listen)));
        for (door, listen) in missing {
            // At another door, or under port 0 until now.
            let open_already = self.open.iter().find(|open| open.is_at(listen));
            let socket = match open_already {
                Some(open) => open.socket.try_clone(),
                None => inherited.or_bind(&name(*door, listen), listen, &going),
            };
            let both = socket.and_then(|socket| Ok([socket.try_clone()?, socket]));
            let both = both.with_context(|| format!("{}: cannot listen on {listen}", door.setting()))?;
            new.push((*door, listen.clone(), both));
        }
        let proxies = settings.server.proxies.clone();
        let clear = Layers { proxies: proxies.clone(), ..Layers::default() };
        let hsts = settings.server.tls.as_ref().and_then(|tls| tls.hsts.clone());
        let tls = Layers { proxies, tls: acceptor.clone(), hsts };
        let (rules, admin_rules) = rules(settings);
        Ok(Plan { new, wanted, acceptor, clear, tls, rules, admin_rules })
    }

    /// Carries a plan out. What goes has `drain_timeout` to finish.
    pub(super) fn carry_out(&mut self, plan: Plan, drain_timeout: Duration) {
        let Plan { new, wanted, acceptor, clear, tls, rules, admin_rules } = plan;
        self.rules.store(rules.into());
        self.admin_rules.store(admin_rules.into());
        self.clear.store(clear.into());
        // Who waits at the door of a TLS listener that goes is still let in over TLS.
        if acceptor.is_some() {
            self.tls.store(tls.into());
        }
        if let Some(before) = self.keeping_fresh.take() {
            before.abort();
        }
        self.keeping_fresh =
            acceptor.map(|acceptor| self.control.spawn(acceptor.keep_fresh()).abort_handle());
        for (door, listen, [socket, accepted_from]) in new {
            tracing::info!(listener = door.name(), address = %socket, "listening");
            let drain = self.drain_of(door).part();
            let parting = Parting::default();
            let accepting = self.accept(door, accepted_from, drain.clone(), &parting);
            self.open.push(Open { door, listen, socket, drain, parting, accepting });
        }
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|open| wanted.iter().any(|(door, listen)| open.is(*door, listen)));
        self.open = kept;
        for open in gone {
            tracing::info!(listener = open.door.name(), address = %open.socket, "no longer listening");
            if !self.open.iter().any(|kept| kept.is_at(&open.listen)) {
                open.socket.unlink();
            }
            if self.open.iter().any(|kept| kept.socket.stands_in_for(&open.socket)) {
                open.socket.turn_away();
            }
            open.drain.begin();
            self.control.spawn(async move {
                // Who waits at its door is still let in.
                let _ = open.accepting.await;
                drop(open.socket);
                let cut = see_out(&open.drain, &open.parting, drain_timeout).await;
                if cut > 0 {
                    tracing::warn!(connections = cut, "cut what did not end in time on a listener that went");
                }
            });
        }
    }

    /// Lets in who waits at the door of listeners that another process has handed over and that are wanted no more.
    pub(super) fn see_off(&self, left: Inherited, drain_timeout: Duration) {
        for (name, socket) in left.left() {
            tracing::warn!(listener = %socket, "a socket was handed over that no listen names; it is closed");
            let doors = [Door::Clear, Door::Tls, Door::Admin];
            let of = |door: &Door| {
                name.as_deref().is_some_and(|name| name.starts_with(&format!("{} ", door.name())))
            };
            let Some(door) = doors.into_iter().find(of) else { continue };
            if self.open.iter().any(|kept| kept.socket.stands_in_for(&socket)) {
                socket.turn_away();
            }
            socket.unlink();
            let (drain, parting) = (self.drain_of(door).part(), Parting::default());
            drain.begin();
            let accepting = self.accept(door, socket, drain.clone(), &parting);
            self.control.spawn(async move {
                let _ = accepting.await;
                see_out(&drain, &parting, drain_timeout).await;
            });
        }
    }

    /// Stops accepting clients and lets what runs finish; how many connections did not in time, and were cut.
    pub(super) async fn drain(&self, within: Duration) -> usize {
        see_out(&self.clients, &self.parting, within).await
    }

    /// Another handle to each socket, with its name.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn handles(&self) -> std::io::Result<Vec<(String, Listener)>> {
        self.open.iter().map(|open| Ok((name(open.door, &open.listen), open.socket.try_clone()?))).collect()
    }

    /// Accepts nobody from now on; the sockets stay open, and who connects waits. Done when that is so.
    pub(super) async fn leave_the_door(&mut self) {
        self.clients.hand_over();
        self.admins.hand_over();
        for open in &mut self.open {
            let _ = (&mut open.accepting).await;
        }
    }

    /// Lets go of the sockets for clients: each is closed when nobody accepts from it any more.
    pub(super) fn let_go(&mut self) {
        self.open.retain(|open| open.door == Door::Admin);
    }

    const fn drain_of(&self, door: Door) -> &Drain {
        match door {
            Door::Admin => &self.admins,
            Door::Clear | Door::Tls => &self.clients,
        }
    }

    fn accept(
        &self,
        door: Door,
        socket: Listener,
        drain: Drain,
        parting: &Parting,
    ) -> JoinHandle<std::io::Result<()>> {
        let serve_clients = |layers: &LiveLayers, socket, drain| {
            let partings = [parting.clone(), self.parting.clone()];
            let handler = GatewayHandler(self.gateway.at_door(partings));
            let workers = self.data.clone();
            let serving = server::serve(socket, layers.clone(), handler, self.rules.clone(), drain, workers);
            self.data.first().spawn(serving)
        };
        match door {
            Door::Clear => serve_clients(&self.clear, socket, drain),
            Door::Tls => serve_clients(&self.tls, socket, drain),
            Door::Admin => {
                let layers = Layers::default().live();
                let handler = AdminHandler(self.admin.clone());
                let workers = Workers::one(self.control.clone());
                let rules = self.admin_rules.clone();
                self.control.spawn(server::serve(socket, layers, handler, rules, drain, workers))
            }
        }
    }

    fn find(&self, door: Door, listen: &Listen) -> Option<&Open> {
        self.open.iter().find(|open| open.is(door, listen))
    }

    /// Where clients connect in clear text, Unix sockets left out, in the order of the configuration.
    pub(super) fn clear_addresses(&self) -> Vec<SocketAddr> {
        let clear = self.open.iter().filter(|open| open.door == Door::Clear);
        clear.filter_map(|open| open.socket.local_addr()).collect()
    }

    /// Where the admin API listens.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.open.iter().find(|open| open.door == Door::Admin)?.socket.local_addr()
    }
}

impl Open {
    /// Whether this is that listener.
    fn is(&self, door: Door, listen: &Listen) -> bool {
        self.door == door && self.listen == *listen
    }

    /// Whether its socket is the one that is asked for, at whatever door. Any port is another one each time.
    fn is_at(&self, listen: &Listen) -> bool {
        match listen {
            Listen::Tcp(address) if address.port() == 0 => false,
            Listen::Tcp(address) if self.socket.local_addr() == Some(*address) => true,
            _ => self.listen == *listen,
        }
    }
}

/// Drains, and tells the WebSockets that are still open toward the end that they go; how many connections were cut.
async fn see_out(drain: &Drain, parting: &Parting, within: Duration) -> usize {
    drain.begin();
    let farewell = FAREWELL.min(within / 2);
    if tokio::time::timeout(within - farewell, drain.ended()).await.is_err() {
        tracing::info!(
            connections = drain.open(),
            "what is still open has little time left; WebSockets are told that it is over"
        );
        parting.begin();
    }
    drain.stop(farewell).await
}

/// What one process calls a listener when it hands it to the next.
fn name(door: Door, listen: &Listen) -> String {
    format!("{} {listen}", door.name())
}

/// Every listener of a configuration.
fn wanted(settings: &Settings) -> Vec<(Door, Listen)> {
    let server = &settings.server;
    let tls = server.tls.iter().flat_map(|tls| tls.listen.iter());
    let clear = server.listen.iter().map(|listen| (Door::Clear, listen.clone()));
    let tls = tls.map(|listen| (Door::Tls, listen.clone()));
    let admin = (Door::Admin, Listen::Tcp(settings.admin.listen));
    std::iter::once(admin).chain(clear).chain(tls).collect()
}

/// For clients, and for administrators.
fn rules(settings: &Settings) -> (Rules, Rules) {
    let rules = Rules::new(&settings.server, &settings.limits);
    let admin = Rules { max_connections: Some(ADMIN_CONNECTIONS), ..rules.clone() };
    (rules, admin)
}
