//! Redis and Valkey (6.2 or newer) as the engine of the shared log. `docs/design.md` argues why this is safe.
//!
//! All keys of a namespace share one hash tag, so that a cluster keeps them in one slot and one script changes them at
//! once:
//!
//! ```text
//! {NAMESPACE}:books     hash    epoch; of each gateway (32 hexadecimal digits) the last sequence appended
//! {NAMESPACE}:live      stream  b: the payload of a batch; trimmed
//! {NAMESPACE}:hours     zset    the hours of which there are streams of the state
//! {NAMESPACE}:s:HOUR    stream  b: entries of the state that expire by the end of that hour (of 1970); the ids are
//!                               those of the live part; gone an hour later
//! {NAMESPACE}:l:HOUR    stream  b: lifts of such
//! {NAMESPACE}:members   hash    how each gateway does, in JSON
//! ```

mod link;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use redis::Value;
use redis::aio::MultiplexedConnection;

use self::link::{Line, Link, told};
use super::settings::Redis as Settings;
use super::{
    Answer, Appended, Batch, Delivered, Engine, EngineError, Epoch, Follow, Member, Met, Pages, Position,
    Stamp, StateEntry,
};
use crate::clock::UnixTime;
use crate::revocation::GatewayId;

const APPEND: &str = include_str!("append.lua");
const MEET: &str = include_str!("meet.lua");
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long replicas may take to say that they have an entry.
const REPLICA_PATIENCE: Duration = Duration::from_millis(500);
/// Batches read at once by who follows.
const FOLLOW_COUNT: usize = 128;
/// Stream entries read at once of the state.
const PAGE_COUNT: usize = 4000;
/// A gateway that has not been heard of for so long is forgotten.
const MEMBER_FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// The engine.
pub(super) struct Redis {
    link: Arc<Link>,
    keys: Arc<Keys>,
    wait_replicas: u32,
    /// For what may be large or wait for replicas.
    writes: Line,
    /// For what must be answered quickly meanwhile.
    asks: Line,
    /// By which the server knows the script that appends, once it has seen it.
    append_digest: String,
}

struct Keys {
    books: String,
    live: String,
    hours: String,
    state: String,
    members: String,
}

impl Redis {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the files for TLS cannot be used.
    pub(super) fn new(settings: Settings, namespace: &str, wait_replicas: u32) -> Result<Self, EngineError> {
        let link = Arc::new(Link::new(settings)?);
        let key = |name: &str| format!("{{{namespace}}}:{name}");
        let keys = Keys {
            books: key("books"),
            live: key("live"),
            hours: key("hours"),
            state: key(""),
            members: key("members"),
        };
        let (writes, asks) = (Line::new(link.clone(), PATIENCE), Line::new(link.clone(), PATIENCE));
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, APPEND.as_bytes());
        let append_digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { link, keys: Arc::new(keys), wait_replicas, writes, asks, append_digest })
    }

    async fn met(&self, gateway: GatewayId) -> Result<Met, EngineError> {
        let mut drawn = [0; 8];
        getrandom::fill(&mut drawn).map_err(|error| EngineError::Refused(error.to_string()))?;
        let drawn = u64::from_le_bytes(drawn) | 1;
        let mut command = redis::cmd("EVAL");
        command.arg(MEET).arg(2).arg(&self.keys.books).arg(&self.keys.live);
        command.arg(format!("{drawn:016x}")).arg(gateway.to_string());
        let answer = parts(self.asks.ask(&command).await?)?;
        let [epoch, own, newest, secs, micros] = &answer[..] else {
            return Err(unreadable("the books"));
        };
        let epoch = text(epoch).and_then(|text| u64::from_str_radix(&text, 16).ok());
        let newest = text(newest).as_deref().and_then(Position::parse);
        let own = match own {
            Value::Nil => None,
            own => Some(number(own).ok_or_else(|| unreadable("the books"))?),
        };
        let (secs, micros) = (number(secs).unwrap_or(0), number(micros).unwrap_or(0));
        let replicas = if self.wait_replicas > 0 { self.replicas().await } else { 0 };
        Ok(Met {
            epoch: Epoch(epoch.ok_or_else(|| unreadable("the epoch"))?),
            newest: newest.ok_or_else(|| unreadable("the live part"))?,
            own,
            now: UnixTime::from_millis(secs * 1000 + micros / 1000),
            replicas,
        })
    }

    /// 0 also where the server does not tell.
    async fn replicas(&self) -> u32 {
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        let told = self.asks.ask(&command).await.ok().and_then(|info| text(&info)).unwrap_or_default();
        let found = told.lines().find_map(|line| line.strip_prefix("connected_slaves:")?.trim().parse().ok());
        found.unwrap_or(0)
    }

    async fn appended(&self, epoch: Epoch, stamp: Stamp, batch: Batch) -> Result<Appended, EngineError> {
        let payload = batch.payload();
        let (mode, after, last, until) = match stamp {
            Stamp::Log { after, last } => ("log", after, last, 0),
            Stamp::Direct { until } => ("direct", 0, 0, until.millis()),
            Stamp::Refill => ("refill", 0, 0, 0),
        };
        let mut state: BTreeMap<(&str, u32), Vec<u8>> = BTreeMap::new();
        for entry in batch.state() {
            let name = if entry.lift { "l" } else { "s" };
            entry.encode(state.entry((name, entry.expires / 3600)).or_default());
        }
        let commands = |known: bool| {
            let mut commands = redis::pipe();
            let keys = &*self.keys;
            let script = if known { &*self.append_digest } else { APPEND };
            commands
                .cmd(if known { "EVALSHA" } else { "EVAL" })
                .arg(script)
                .arg(4)
                .arg(&keys.books)
                .arg(&keys.live)
                .arg(&keys.hours);
            commands
                .arg(&keys.state)
                .arg(format!("{:016x}", epoch.0))
                .arg(mode)
                .arg(batch.gateway.to_string());
            commands.arg(after).arg(last).arg(until).arg(&payload);
            for ((name, hour), entries) in &state {
                commands.arg(*name).arg(*hour).arg(&entries[..]);
            }
            if self.wait_replicas > 0 {
                commands.cmd("WAIT").arg(self.wait_replicas).arg(REPLICA_PATIENCE.as_millis() as u64);
            }
            commands
        };
        let mut answers = self.writes.run(commands).await?.into_iter();
        let answer = parts(answers.next().unwrap_or(Value::Nil))?;
        let replicas = answers.next().as_ref().and_then(number).unwrap_or(0);
        let position = || answer.get(1).and_then(text).as_deref().and_then(Position::parse);
        match answer.first().and_then(text).as_deref() {
            Some("ok") => Ok(Appended {
                position: position().ok_or_else(|| unreadable("the answer"))?,
                replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            }),
            Some("epoch") => Err(EngineError::OtherEpoch),
            Some("step") => Err(EngineError::OutOfStep { own: answer.get(1).and_then(number) }),
            Some("late") => Err(EngineError::TooLate),
            _ => Err(unreadable("the answer")),
        }
    }

    async fn warned(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, good, harm) in [
            (
                "appendonly",
                &["yes"][..],
                "what it acknowledged since its last snapshot is lost when it restarts",
            ),
            ("appendfsync", &["always", "everysec"], "what it acknowledged may be lost with a power cut"),
            ("maxmemory-policy", &["noeviction"], "it throws revocations away when its memory is full"),
        ] {
            let mut command = redis::cmd("CONFIG");
            command.arg("GET").arg(name);
            match self.asks.ask(&command).await {
                Ok(answer) => {
                    let told = parts(answer).ok().and_then(|pair| text(pair.get(1)?));
                    let told = told.unwrap_or_default();
                    if !told.is_empty() && !good.contains(&told.as_str()) {
                        warnings.push(format!("{name} is \"{told}\": {harm}"));
                    }
                }
                Err(error) => {
                    warnings.push(format!(
                        "it does not tell its settings ({error}): see to it that appendonly is yes, and maxmemory-policy \
                         noeviction"
                    ));
                    break;
                }
            }
        }
        warnings
    }
}

impl Engine for Redis {
    fn name(&self) -> String {
        self.link.name()
    }

    fn meet(&self, gateway: GatewayId) -> Answer<'_, Met> {
        Box::pin(self.met(gateway))
    }

    fn append(&self, epoch: Epoch, stamp: Stamp, batch: Batch) -> Answer<'_, Appended> {
        Box::pin(self.appended(epoch, stamp, batch))
    }

    fn enter(&self, epoch: Epoch, gateway: GatewayId, sequence: u64) -> Answer<'_, ()> {
        const ENTER: &str = "if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end \
                             redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) return 1";
        Box::pin(async move {
            let mut command = redis::cmd("EVAL");
            command.arg(ENTER).arg(1).arg(&self.keys.books).arg(format!("{:016x}", epoch.0));
            command.arg(gateway.to_string()).arg(sequence);
            let done = self.writes.ask(&command).await?;
            if number(&done) == Some(1) { Ok(()) } else { Err(EngineError::OtherEpoch) }
        })
    }

    fn holds(&self, position: Position) -> Answer<'_, bool> {
        Box::pin(async move {
            let id = position.to_string();
            let mut command = redis::cmd("XRANGE");
            command.arg(&self.keys.live).arg(&id).arg(&id).arg("COUNT").arg(1);
            Ok(!parts(self.asks.ask(&command).await?)?.is_empty())
        })
    }

    fn follow(&self, after: Position) -> Answer<'_, Box<dyn Follow>> {
        Box::pin(async move {
            let connection = self.link.connect(PATIENCE).await?;
            let keys = self.keys.clone();
            Ok(Box::new(Following { connection, keys, after }) as Box<dyn Follow>)
        })
    }

    fn state(&self) -> Answer<'_, Box<dyn Pages>> {
        Box::pin(async move {
            let mut connection = self.link.connect(4 * PATIENCE).await?;
            let mut command = redis::cmd("ZRANGE");
            command.arg(&self.keys.hours).arg(0).arg(-1);
            let hours = connection.send_packed_command(&command).await.map_err(|error| told(&error))?;
            let hours: Vec<String> = parts(hours)?.iter().filter_map(text).collect();
            let stream = |name: &str, hour: &String| format!("{}{name}:{hour}", self.keys.state);
            let lifts = hours.iter().map(|hour| stream("l", hour));
            let streams = lifts.chain(hours.iter().map(|hour| stream("s", hour))).collect();
            Ok(Box::new(Reading { connection, streams, after: Position::START }) as Box<dyn Pages>)
        })
    }

    fn warnings(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move { Ok(self.warned().await) })
    }

    fn beat(&self, member: Member) -> Answer<'_, ()> {
        Box::pin(async move {
            let text = serde_json::to_string(&member).map_err(|_| unreadable("a member"))?;
            let mut command = redis::cmd("HSET");
            command.arg(&self.keys.members).arg(&*member.gateway).arg(text);
            self.asks.ask(&command).await.map(drop)
        })
    }

    fn members(&self) -> Answer<'_, Vec<Member>> {
        Box::pin(async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(&self.keys.members);
            let all = parts(self.asks.ask(&command).await?)?;
            let members = all.chunks(2).filter_map(|pair| serde_json::from_str(&text(pair.get(1)?)?).ok());
            let members: Vec<Member> = members.collect();
            let newest = members.iter().map(|member| member.beat_at).max().unwrap_or(0);
            let oldest = UnixTime::from_millis(newest).minus(MEMBER_FORGOTTEN).millis();
            let (kept, gone): (Vec<_>, Vec<_>) =
                members.into_iter().partition(|member| member.beat_at >= oldest);
            if !gone.is_empty() {
                let mut command = redis::cmd("HDEL");
                command.arg(&self.keys.members);
                for member in &gone {
                    command.arg(&*member.gateway);
                }
                self.asks.ask(&command).await?;
            }
            Ok(kept)
        })
    }
}

/// Who follows the live part. The stream's ids tell where it is, so each question is complete in itself.
struct Following {
    connection: MultiplexedConnection,
    keys: Arc<Keys>,
    after: Position,
}

impl Follow for Following {
    fn next(&mut self, patience: Duration) -> Answer<'_, Vec<Delivered>> {
        Box::pin(async move {
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(FOLLOW_COUNT);
            // 0 would be for ever.
            command.arg("BLOCK").arg(patience.as_millis().max(1) as u64);
            command.arg("STREAMS").arg(&self.keys.live).arg(self.after.to_string());
            self.connection.set_response_timeout(patience + PATIENCE);
            let answer = self.connection.send_packed_command(&command).await;
            let answer = answer.and_then(Value::extract_error).map_err(|error| told(&error))?;
            let mut delivered = Vec::new();
            for stream in parts(answer)? {
                let entries = parts(stream)?.pop().ok_or_else(|| unreadable("the live part"))?;
                for entry in parts(entries)? {
                    let (position, payload) = entry_of(entry)?;
                    let at = UnixTime::from_millis(position.0);
                    delivered.push(Delivered { position, at, payload });
                }
            }
            if let Some(last) = delivered.last() {
                self.after = last.position;
            }
            Ok(delivered)
        })
    }
}

/// Who reads the state, stream by stream.
struct Reading {
    connection: MultiplexedConnection,
    streams: VecDeque<String>,
    after: Position,
}

impl Pages for Reading {
    fn next(&mut self) -> Answer<'_, Option<Vec<(Position, StateEntry)>>> {
        Box::pin(async move {
            let Some(stream) = self.streams.front() else { return Ok(None) };
            let mut command = redis::cmd("XRANGE");
            let from =
                if self.after == Position::START { "-".to_owned() } else { format!("({}", self.after) };
            command.arg(stream).arg(from).arg("+").arg("COUNT").arg(PAGE_COUNT);
            let answer = self.connection.send_packed_command(&command).await;
            let answer = answer.and_then(Value::extract_error).map_err(|error| told(&error))?;
            let entries = parts(answer)?;
            let whole = entries.len() < PAGE_COUNT;
            let mut page = Vec::with_capacity(entries.len());
            for entry in entries {
                let (position, bytes) = entry_of(entry)?;
                self.after = position;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let entry = StateEntry::decode(&mut rest);
                    page.push((position, entry.map_err(|error| EngineError::Unreadable(error.to_string()))?));
                }
            }
            if whole {
                self.streams.pop_front();
                self.after = Position::START;
            }
            Ok(Some(page))
        })
    }
}

/// Id and bytes of an entry of a stream: `[id, [b, bytes]]`.
fn entry_of(entry: Value) -> Result<(Position, Vec<u8>), EngineError> {
    let mut parts = parts(entry)?;
    let fields = parts.pop().ok_or_else(|| unreadable("a stream"))?;
    let position = parts.first().and_then(text).as_deref().and_then(Position::parse);
    let position = position.ok_or_else(|| unreadable("the id of a stream"))?;
    match self::parts(fields)?.into_iter().nth(1) {
        Some(Value::BulkString(bytes)) => Ok((position, bytes)),
        _ => Err(unreadable("a stream")),
    }
}

/// The items of an array; none of nil.
fn parts(value: Value) -> Result<Vec<Value>, EngineError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect()),
        _ => Err(unreadable("an answer")),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

fn unreadable(what: &str) -> EngineError {
    EngineError::Unreadable(format!("{what} is not as this program writes it"))
}
