//! Connections to the server that takes writes, wherever it is now.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::EngineError;
use super::super::settings::{Redis, Servers};
use crate::tls::Connect;

/// How long connecting and greeting one server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing is acknowledged for so long is given up by the system.
const SILENCE_MAX: Duration = Duration::from_secs(5);

type Address = (Box<str>, u16);

/// Finds the server and connects to it.
pub(super) struct Link {
    settings: Redis,
    tls: Option<Connect>,
    /// Which of the addresses is tried first: the last that worked.
    first: AtomicUsize,
    /// Where a cluster's members said that the namespace is.
    moved: Mutex<Option<Address>>,
}

impl Link {
    /// # Errors
    /// When the files for TLS cannot be used.
    pub(super) fn new(settings: Redis) -> Result<Self, EngineError> {
        let tls = settings.tls.as_ref().map(|tls| Connect::load(tls, &[])).transpose();
        let tls = tls.map_err(|error| EngineError::Refused(error.to_string()))?;
        Ok(Self { settings, tls, first: AtomicUsize::new(0), moved: Mutex::default() })
    }

    pub(super) fn name(&self) -> String {
        self.settings.to_string()
    }

    /// A connection of its own, whose answers may take `patience`.
    pub(super) async fn connect(&self, patience: Duration) -> Result<MultiplexedConnection, EngineError> {
        let settings = &self.settings;
        let login = (settings.user.as_deref(), settings.password.as_deref().map(String::as_str));
        if let Servers::Sentinel(name) = &settings.servers {
            let primary = self.ask_sentinels(name).await?;
            return self.greet(&primary, login, settings.database, patience).await;
        }
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(moved) = moved {
            match self.greet(&moved, login, 0, patience).await {
                Ok(connection) => return Ok(connection),
                Err(_) => *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = None,
            }
        }
        let (count, first) = (settings.addresses.len(), self.first.load(Ordering::Relaxed));
        let mut last = EngineError::Unreachable("no server is named".to_owned());
        for at in (first..first + count).map(|at| at % count) {
            match self.greet(&settings.addresses[at], login, settings.database, patience).await {
                Ok(connection) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whoever answered does not take writes: the next time another is asked, or the one that it named.
    pub(super) fn turn_from(&self, error: &RedisError) {
        match error.redirect_node() {
            Some((address, _)) => {
                let named = address.rsplit_once(':').and_then(|(host, port)| {
                    // Without a host it is the one that was asked.
                    let asked = &self.settings.addresses[self.first.load(Ordering::Relaxed)].0;
                    let host = host.trim_start_matches('[').trim_end_matches(']');
                    let host = if host.is_empty() { asked.clone() } else { host.into() };
                    Some((host, port.parse().ok()?))
                });
                *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = named;
            }
            None => {
                let next = (self.first.load(Ordering::Relaxed) + 1) % self.settings.addresses.len().max(1);
                self.first.store(next, Ordering::Relaxed);
            }
        }
    }

    async fn ask_sentinels(&self, name: &str) -> Result<Address, EngineError> {
        let settings = &self.settings;
        let password = settings.sentinel_password.as_deref().map(String::as_str);
        let mut last = EngineError::Unreachable("no Sentinel is named".to_owned());
        for sentinel in &settings.addresses {
            let login = (settings.sentinel_user.as_deref(), password);
            let asked = async {
                let mut connection = self.greet(sentinel, login, 0, CONNECT_TIMEOUT).await?;
                let mut command = redis::cmd("SENTINEL");
                command.arg("get-master-addr-by-name").arg(name);
                let answer = connection.send_packed_command(&command).await.map_err(|error| told(&error))?;
                let found: Option<(String, u16)> = redis::from_redis_value(answer)
                    .map_err(|error| EngineError::Refused(error.to_string()))?;
                found.ok_or_else(|| {
                    EngineError::Unreachable(format!("no primary {name} is known to Sentinel"))
                })
            };
            match asked.await {
                Ok((host, port)) => return Ok((host.into(), port)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn greet(
        &self,
        (host, port): &Address,
        (user, password): (Option<&str>, Option<&str>),
        database: u32,
        patience: Duration,
    ) -> Result<MultiplexedConnection, EngineError> {
        let away = |what: String| EngineError::Unreachable(format!("{host}:{port}: {what}"));
        let mut info = RedisConnectionInfo::default().set_db(database.into()).set_skip_set_lib_name();
        if let Some(user) = user {
            info = info.set_username(user);
        }
        if let Some(password) = password {
            info = info.set_password(password);
        }
        let greeted = async {
            let tcp = TcpStream::connect((&**host, *port)).await.map_err(|error| away(error.to_string()))?;
            let socket = SockRef::from(&tcp);
            let keepalive = TcpKeepalive::new().with_time(SILENCE_MAX).with_interval(Duration::from_secs(1));
            let set = tcp.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
            set.map_err(|error| away(error.to_string()))?;
            match &self.tls {
                None => begin(&info, tcp, patience).await,
                Some(tls) => {
                    let tls = tls.to(host).ok_or_else(|| away("not a name for TLS".to_owned()))?;
                    let stream = TlsConnector::from(tls.config()).connect(tls.server_name(), tcp).await;
                    begin(&info, stream.map_err(|error| away(error.to_string()))?, patience).await
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, greeted)
            .await
            .unwrap_or_else(|_| Err(away(format!("no answer within {CONNECT_TIMEOUT:?}"))))
    }
}

async fn begin(
    info: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    patience: Duration,
) -> Result<MultiplexedConnection, EngineError> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(patience));
    let (connection, driver) =
        MultiplexedConnection::new_with_config(info, stream, config).await.map_err(|error| told(&error))?;
    // It ends with the last clone of the connection.
    tokio::spawn(driver);
    Ok(connection)
}

/// What an error means for whoever asked.
pub(super) fn told(error: &RedisError) -> EngineError {
    let passing = error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
            )
        );
    if passing {
        EngineError::Unreachable(error.to_string())
    } else {
        EngineError::Refused(error.to_string())
    }
}

/// Whether the server does not take writes (any more).
pub(super) fn turns_away(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::Moved | ServerErrorKind::MasterDown)
    ) || error.to_string().contains("READONLY")
}

/// One connection that everybody shares, made when it is first needed and again after each failure.
pub(super) struct Line {
    link: std::sync::Arc<Link>,
    patience: Duration,
    open: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    /// The server has run the script.
    knows: AtomicBool,
}

impl Line {
    pub(super) fn new(link: std::sync::Arc<Link>, patience: Duration) -> Self {
        Self { link, patience, open: tokio::sync::Mutex::default(), knows: AtomicBool::new(false) }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, EngineError> {
        let mut open = self.open.lock().await;
        if let Some(connection) = &*open {
            return Ok(connection.clone());
        }
        let connection = self.link.connect(self.patience).await?;
        *open = Some(connection.clone());
        Ok(connection)
    }

    async fn failed(&self, error: &RedisError) -> EngineError {
        if turns_away(error) {
            self.link.turn_from(error);
        }
        let told = told(error);
        if told.is_passing() {
            *self.open.lock().await = None;
        }
        told
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, EngineError> {
        let mut connection = self.connection().await?;
        match connection.send_packed_command(command).await.and_then(Value::extract_error) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(&error).await),
        }
    }

    /// Several at once, on one connection, in this order; the first of them runs a script, which is named by its digest
    /// where `commands` is told that the server knows it, and else given in full.
    pub(super) async fn run(
        &self,
        commands: impl Fn(bool) -> redis::Pipeline,
    ) -> Result<Vec<Value>, EngineError> {
        let mut connection = self.connection().await?;
        let known = self.knows.load(Ordering::Relaxed);
        let mut answered: Result<Vec<Value>, RedisError> = commands(known).query_async(&mut connection).await;
        if known && answered.as_ref().is_err_and(|error| error.to_string().contains("NOSCRIPT")) {
            // It has started anew, or was told to forget: nothing was done.
            answered = commands(false).query_async(&mut connection).await;
        }
        match answered {
            Ok(values) => {
                self.knows.store(true, Ordering::Relaxed);
                Ok(values)
            }
            Err(error) => {
                self.knows.store(false, Ordering::Relaxed);
                Err(self.failed(&error).await)
            }
        }
    }
}
