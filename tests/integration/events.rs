//! `/admin/events` (CONTRACT §6): every revocation once and in order, over restarts and over what the log has let go.

use serde_json::{Value, json};

use crate::support::{Call, Connection, Gateway, Setup, wait_for};

fn setup() -> Setup {
    Setup::new()
        .secret("legacy.key", crate::support::jwt::Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
}

fn item(id: &str) -> Value {
    json!({ "kind": "token", "issuer": "legacy", "value": id, "reason": "lost" })
}

/// One event as it came.
#[derive(Clone, Debug)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

/// A stream of events that is open.
struct Stream {
    connection: Connection,
    head: (u16, String),
}

impl Stream {
    fn open(gateway: &Gateway, query: &str, last: Option<u64>) -> Self {
        let mut call = gateway.admin("GET", &format!("/admin/events{query}"));
        if let Some(last) = last {
            call = call.header("Last-Event-ID", &last.to_string());
        }
        let mut connection = Connection::open(gateway.admin_address());
        connection.send(call.bytes());
        let head = connection.head();
        let kind = head.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let mut stream =
            Self { connection, head: (head.status, kind.map_or(String::new(), |k| k.1.clone())) };
        // From here on nothing that happens can be missed.
        stream.connection.read_until("the first words", |bytes| find(bytes, b"retry: "));
        stream
    }

    /// All events since it was opened up to that with this id, however many: only the end is looked at meanwhile.
    fn until(&mut self, id: u64) -> Vec<Event> {
        let words = format!("id: {id}\n");
        self.connection.read_until(&words, |bytes| {
            let end = &bytes[bytes.len().saturating_sub(200 << 10)..];
            end.ends_with(b"\n\n\r\n") && memchr::memmem::find(end, words.as_bytes()).is_some()
        });
        events(self.connection.rest())
    }

    /// The first `count` events since it was opened.
    fn events(&mut self, count: usize) -> Vec<Event> {
        let whole = |bytes: &[u8]| events(bytes).len() >= count;
        self.connection.read_until(&format!("{count} events"), whole);
        events(self.connection.rest())
    }
}

fn find(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

/// Events never lie across two chunks, so the sizes of chunks are lines that are none of theirs.
fn events(bytes: &[u8]) -> Vec<Event> {
    let mut found = Vec::new();
    let (mut id, mut name) = (0, String::new());
    for line in String::from_utf8_lossy(bytes).lines() {
        if let Some(text) = line.strip_prefix("id: ") {
            // The last one may still be on its way.
            let Ok(number) = text.parse() else { break };
            id = number;
        } else if let Some(text) = line.strip_prefix("event: ") {
            name = text.to_owned();
        } else if let Some(text) = line.strip_prefix("data: ") {
            let Ok(data) = serde_json::from_str(text) else { break };
            found.push(Event { id, name: name.clone(), data });
        }
    }
    found
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let gateway = setup().start();
    gateway.revoke(&item("before"));
    let mut stream = Stream::open(&gateway, "", None);
    assert_eq!(stream.head, (200, "text/event-stream".to_owned()));
    let sequence = gateway.revoke(&item("t-1"))["sequence"].as_u64().unwrap();
    gateway.unrevoke("token", "t-1", "legacy").expect(200);
    let told = stream.events(2);
    assert_eq!(told.len(), 2, "nothing of before: {told:?}");
    let [made, lifted] = &told[..] else { unreachable!() };
    assert_eq!((made.id, made.name.as_str()), (sequence, "revocation"));
    for (name, value) in
        [("kind", "token"), ("value", "t-1"), ("issuer", "legacy"), ("reason", "lost"), ("actor", "admin")]
    {
        assert_eq!(made.data[name], value, "{}", made.data);
    }
    assert_eq!(made.data["sequence"], sequence);
    assert!(made.data["delay_ms"].as_u64().is_some_and(|delay| delay < 10_000), "{}", made.data);
    assert_eq!((lifted.id, lifted.name.as_str()), (sequence + 1, "unrevoke"));
    assert_eq!(lifted.data["value"], "t-1");
}

#[test]
fn a_reader_that_was_away_goes_on_where_it_was_over_a_restart() {
    let mut gateway = setup().start();
    let mut stream = Stream::open(&gateway, "", None);
    gateway.revoke(&item("t-1"));
    gateway.revoke(&item("t-2"));
    let last = stream.events(2)[1].id;
    drop(stream);
    gateway.revoke(&item("t-3"));
    gateway.kill9();
    gateway.restart();
    gateway.revoke(&item("t-4"));
    let mut stream = Stream::open(&gateway, "?since=0", Some(last));
    gateway.revoke(&item("t-5"));
    let told = stream.events(3);
    let values: Vec<_> = told.iter().map(|event| event.data["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["t-3", "t-4", "t-5"], "Last-Event-ID is newer than since");
    assert!(told[0].data["delay_ms"].is_null(), "nobody saw it come in force: {}", told[0].data);
    assert!(told[2].data["delay_ms"].is_u64(), "{}", told[2].data);
    // And from the beginning, where that is asked for.
    let told = Stream::open(&gateway, "?since=0", None).events(5);
    assert_eq!(told.iter().map(|event| event.id).collect::<Vec<_>>(), (1..=5).collect::<Vec<_>>());
}

#[test]
fn what_the_log_has_let_go_comes_from_the_trail_without_a_hole() {
    const LINES: usize = 4000;
    let gateway =
        setup().section("[revocation]\nsnapshot_log_bytes = \"1MiB\"\nsnapshot_every = \"1h\"\n").start();
    let mut total = 0;
    for round in 0..2 {
        let lines: String = (0..LINES)
            .map(|number| format!("{}\n", item(&format!("r{round}-{number}-{}", "x".repeat(200)))))
            .collect();
        let call = gateway.admin("POST", "/admin/revocations").body("application/x-ndjson", lines);
        total = call.send().expect(200).json()["sequence"].as_u64().unwrap();
    }
    // Snapshots come by themselves too; segments go when two of them and the trail have what is in them.
    let mut number = 0;
    wait_for("the first segment to go", || {
        number += 1;
        gateway.revoke(&item(&format!("more-{number}")));
        gateway.admin("POST", "/admin/snapshot").send().expect(200);
        let first = gateway.dir().join("state/log-00000000000000000001");
        (!first.exists()).then_some(())
    });
    let told = Stream::open(&gateway, "?since=0", None).until(total);
    assert!(told.iter().all(|event| event.name == "revocation"));
    assert!(told.iter().map(|event| event.id).eq(1..=told.len() as u64), "each once, in order");
}

#[test]
fn a_reader_from_another_log_is_told_of_the_gap() {
    let gateway = setup().start();
    gateway.revoke(&item("t-1"));
    let mut stream = Stream::open(&gateway, "", Some(1000));
    gateway.revoke(&item("t-2"));
    let told = stream.events(2);
    assert_eq!((told[0].name.as_str(), told[0].id), ("gap", 1));
    assert_eq!((&told[0].data["from"], &told[0].data["to"]), (&json!(2), &json!(1000)));
    assert_eq!((told[1].name.as_str(), told[1].id), ("revocation", 2));
}

#[test]
fn events_need_the_token_and_a_sequence() {
    let gateway = setup().start();
    Call::new(gateway.admin_address(), "GET", "/admin/events").send().expect_problem(401, "admin_token");
    let call = gateway.admin("GET", "/admin/events").header("Last-Event-ID", "yesterday");
    call.send().expect_problem(400, "invalid_request");
    gateway.admin("GET", "/admin/events?since=x").send().expect_problem(400, "invalid_request");
}
