//! What is PostgreSQL's alone: order under concurrency, partitions, another server or timeline, older copies, replicas.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::fleet::{BatchEntry, Delivered, suite};
use crate::revocation::{Kind, Revocation, Selector};
use crate::store::tests::server::Postgres as Server;

const ME: GatewayId = GatewayId([1; 16]);
const LOGGED: fn(u64) -> Stamp = |last| Stamp::Log { after: last - 1, last };

fn settings(server: &Server) -> settings::Postgres {
    settings::Postgres::parse(&server.url(), |path| Path::new(path).to_owned()).unwrap()
}

fn engine(server: &Server) -> Arc<Postgres> {
    Arc::new(Postgres::new(&settings(server), "test", 0).unwrap())
}

fn now() -> UnixTime {
    crate::clock::Clock::now(&crate::clock::SystemClock)
}

fn batch(gateway: GatewayId, values: &[&str], days: u64) -> Batch {
    let at = now();
    let entry = |value: &&str| Revocation {
        selector: Selector::new(Kind::Session, "self", *value),
        lift: value.starts_with('-'),
        issued_before: None,
        expires_at: at.plus(Duration::from_secs(days * 86_400)),
        reason: "why".into(),
        actor: "admin".into(),
        address: "".into(),
        at,
    };
    let entries = values.iter().map(|value| BatchEntry { sequence: 1, revocation: entry(value) }).collect();
    Batch { gateway, sent_at: at, entries }
}

fn values(delivered: &[Delivered]) -> Vec<String> {
    let entries = delivered.iter().flat_map(|each| Batch::read(&each.payload).unwrap().entries);
    entries.map(|entry| entry.revocation.selector.value.to_string()).collect()
}

async fn state_of(engine: &Postgres) -> Vec<(Position, StateEntry)> {
    let (mut pages, mut all) = (engine.state().await.unwrap(), Vec::new());
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_does_what_every_engine_must() {
    let server = Server::start();
    let forget = || drop(server.sql("DROP SCHEMA portcullis_log_test CASCADE"));
    suite::holds(|| engine(&server), forget).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_read_up_to_a_position_never_finds_an_older_one_later() {
    let server = Server::start();
    let epoch = engine(&server).meet(ME).await.unwrap().epoch;
    let mut follower = engine(&server).follow(Position::START).await.unwrap();
    let writers: Vec<_> = (0..6_u8)
        .map(|writer| {
            let engine = engine(&server);
            tokio::spawn(async move {
                for number in 0..25 {
                    let value = format!("{writer}.{number}");
                    engine.append(epoch, Stamp::Refill, batch(ME, &[&value], 1)).await.unwrap();
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    while all.len() < 150 {
        let some = follower.next(Duration::from_secs(20)).await.unwrap();
        assert!(!some.is_empty(), "{} came, and no more", all.len());
        all.extend(some);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(all.is_sorted_by(|one, next| one.position < next.position));
    // Of each writer in its order, each once.
    for writer in 0..6 {
        let own = values(&all).into_iter().filter(|value| value.starts_with(&format!("{writer}.")));
        assert!(own.eq((0..25).map(|number| format!("{writer}.{number}"))));
    }
    assert_eq!(engine(&server).meet(ME).await.unwrap().newest, all.last().unwrap().position);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_meet_at_once_make_one_shared_log() {
    let server = Server::start();
    let met: Vec<_> = (0..8)
        .map(|number| {
            let engine = engine(&server);
            tokio::spawn(async move { engine.meet(GatewayId([number; 16])).await.unwrap().epoch })
        })
        .collect();
    let mut epochs = Vec::new();
    for met in met {
        epochs.push(met.await.unwrap());
    }
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    // Another namespace beside it is another log.
    let other = Postgres::new(&settings(&server), "test.of-another_one", 0).unwrap();
    assert_ne!(other.meet(ME).await.unwrap().epoch, epochs[0]);
    let long = Postgres::new(&settings(&server), &"n".repeat(64), 0).unwrap();
    long.meet(ME).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_goes_by_the_day_and_the_live_part_by_segments() {
    let server = Server::start();
    let engine = Postgres::new(&settings(&server), "test", 0).unwrap().with_segments_of(300);
    let epoch = engine.meet(ME).await.unwrap().epoch;
    let mut first = None;
    for number in 0..60_u64 {
        let value = format!("v{number}");
        let lift = format!("-{value}");
        let batch = batch(ME, &[&value, &lift], [1, 2, 50, 70][number as usize % 4]);
        let appended = engine.append(epoch, Stamp::Refill, batch).await.unwrap();
        first.get_or_insert(appended.position);
    }
    let partitions = |of: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'portcullis_log_test.{of}'::regclass"
        );
        server.sql(&sql).trim().parse::<u32>().unwrap()
    };
    assert_eq!(partitions("state"), 4, "two near days, two months");
    let before = partitions("live");
    assert!(before > 17, "{before}");
    let state = state_of(&engine).await;
    assert_eq!(state.len(), 120);
    assert!(state[..60].iter().all(|(_, entry)| entry.lift), "lifts come first");
    let first = first.unwrap();
    assert!(engine.holds(first).await.unwrap());

    // Time passes.
    server.sql(
        "ALTER TABLE portcullis_log_test.state DETACH PARTITION portcullis_log_test.state_1;"
            .replace("state_1", &format!("state_{}", now().secs() / 86_400 + 1))
            .as_str(),
    );
    let tomorrow = format!("portcullis_log_test.state_{}", now().secs() / 86_400 + 1);
    server.sql(&format!(
        "UPDATE {tomorrow} SET forgotten = 7; ALTER TABLE {tomorrow} RENAME TO state_7;
         ALTER TABLE portcullis_log_test.state ATTACH PARTITION portcullis_log_test.state_7 FOR VALUES IN (7)"
    ));
    engine.maintain_now_and_then().await;
    assert_eq!(partitions("state"), 3);
    assert_eq!(state_of(&engine).await.len(), 90);
    assert_eq!(partitions("live"), 16);
    assert!(!engine.holds(first).await.unwrap());
    // Who was reading there is told, not left with a gap.
    let mut late = engine.follow(first).await.unwrap();
    assert!(matches!(late.next(Duration::ZERO).await, Err(EngineError::Unreachable(_))));
    let newest = engine.meet(ME).await.unwrap().newest;
    assert!(engine.holds(newest).await.unwrap());
    assert_eq!(engine.follow(newest).await.unwrap().next(Duration::ZERO).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_or_timeline_is_another_epoch_and_an_older_copy_lacks_the_position() {
    let mut server = Server::start();
    let epoch = engine(&server).meet(ME).await.unwrap().epoch;
    let append = async |server: &Server, epoch, last: u64| {
        engine(server).append(epoch, LOGGED(last), batch(ME, &[&format!("v{last}")], 1)).await
    };
    append(&server, epoch, 1).await.unwrap();
    // A copy of the disk, as of now.
    server.kill9();
    let copy = server.copied();
    server.begin();
    let lost = append(&server, epoch, 2).await.unwrap().position;
    assert!(engine(&server).holds(lost).await.unwrap());

    // The copy takes its place: on the same timeline, so the epoch is the same, and the books tell.
    server.kill9();
    server.replaced_by(&copy);
    server.begin();
    let met = engine(&server).meet(ME).await.unwrap();
    assert_eq!((met.epoch, met.own), (epoch, Some(1)));
    assert!(met.newest < lost && !engine(&server).holds(lost).await.unwrap());
    let refused = append(&server, epoch, 3).await.unwrap_err();
    assert!(matches!(refused, EngineError::OutOfStep { own: Some(1) }), "{refused}");
    let again = append(&server, epoch, 2).await.unwrap().position;
    assert!(again > lost, "a position is never given out twice");

    // A standby that is promoted: from then on it is another timeline, at the next append or meeting.
    let standby = server.standby();
    let url = standby.url();
    assert!(matches!(engine(&standby).meet(ME).await, Err(EngineError::Refused(_))), "{url}");
    let had = Postgres::new(&settings(&server), "test", 1).unwrap();
    let appended = had.append(epoch, LOGGED(3), batch(ME, &["v3"], 1)).await.unwrap();
    assert_eq!(appended.replicas, 1);
    server.kill9();
    standby.sql("SELECT pg_promote()");
    let refused = append(&standby, epoch, 4).await.unwrap_err();
    assert!(matches!(refused, EngineError::OtherEpoch), "{refused}");
    let met = engine(&standby).meet(ME).await.unwrap();
    assert_ne!(met.epoch, epoch);
    assert_eq!((met.own, met.newest), (Some(3), appended.position), "what was replicated is there");
    append(&standby, met.epoch, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_version_or_of_another_program_is_refused_in_words() {
    let server = Server::start();
    engine(&server).meet(ME).await.unwrap();
    server.sql("UPDATE portcullis_log_test.meta SET value = '9'");
    let refused = engine(&server).meet(ME).await.unwrap_err();
    assert!(matches!(&refused, EngineError::Refused(why) if why.contains("version 9")), "{refused}");
    server.sql("DROP SCHEMA portcullis_log_test CASCADE; CREATE SCHEMA portcullis_log_test");
    server.sql("CREATE TABLE portcullis_log_test.notes (text text)");
    let refused = engine(&server).meet(ME).await.unwrap_err();
    assert!(matches!(&refused, EngineError::Refused(why) if why.contains("another program")), "{refused}");
}

#[test]
fn partitions_are_few_whatever_expiries_there_are() {
    let days: BTreeSet<i32> =
        (0..3650).flat_map(|days| by_day(&batch(ME, &["v"], days))).map(|part| part.0).collect();
    assert!(days.len() < 170, "{}", days.len());
    let today = i32::try_from(now().secs() / 86_400).unwrap();
    for ahead in [0, 1, 35, 36, 400] {
        let day = by_day(&batch(ME, &["v"], ahead))[0].0;
        let due = today + i32::try_from(ahead).unwrap();
        assert!((due..due + 31).contains(&day), "{ahead}: {day}");
    }
}
