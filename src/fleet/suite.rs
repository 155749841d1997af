//! What every engine must do; each engine's tests call [`holds`].

use std::sync::Arc;
use std::time::Duration;

use super::{Batch, BatchEntry, Engine, EngineError, Epoch, Follow, Member, Position, Stamp, StateEntry};
use crate::clock::{Clock, SystemClock, UnixTime};
use crate::revocation::{GatewayId, Kind, Revocation, Selector};

const ONE: GatewayId = GatewayId([1; 16]);
const TWO: GatewayId = GatewayId([2; 16]);
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(30);

fn entry(sequence: u64, kind: Kind, value: &str, lift: bool) -> BatchEntry {
    let now = SystemClock.now();
    let revocation = Revocation {
        issued_before: (!lift && !kind.is_absolute()).then_some(now),
        selector: Selector::new(kind, "self", value),
        lift,
        expires_at: now.plus(Duration::from_secs(3600)),
        reason: "a test".into(),
        actor: "admin".into(),
        address: "".into(),
        at: now,
    };
    BatchEntry { sequence, revocation }
}

fn batch(gateway: GatewayId, entries: Vec<BatchEntry>) -> Batch {
    Batch { gateway, sent_at: SystemClock.now(), entries }
}

fn token(gateway: GatewayId, sequence: u64) -> Batch {
    batch(gateway, vec![entry(sequence, Kind::Token, &sequence.to_string(), false)])
}

/// What comes, until it is this many batches.
async fn followed(follow: &mut dyn Follow, count: usize) -> Vec<(Position, Batch)> {
    let mut found = Vec::new();
    while found.len() < count {
        let some = follow.next(LATER).await.unwrap();
        assert!(!some.is_empty(), "{} of {count}", found.len());
        found.extend(some.into_iter().map(|one| (one.position, Batch::read(&one.payload).unwrap())));
    }
    found
}

async fn state(engine: &dyn Engine) -> Vec<(Position, StateEntry)> {
    let (mut pages, mut all) = (engine.state().await.unwrap(), Vec::new());
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

/// Puts an engine to the test. Each call of `make` gives another connection to the same shared log, which must be new;
/// `forget` has the engine lose everything.
pub(super) async fn holds(make: impl Fn() -> Arc<dyn Engine>, forget: impl Fn()) {
    let (one, two) = (make(), make());
    let (met, other) = tokio::join!(one.meet(ONE), two.meet(TWO));
    let (met, other) = (met.unwrap(), other.unwrap());
    assert_eq!(met.epoch, other.epoch, "of several at once one draws the epoch");
    assert_eq!((met.newest, met.own), (Position::START, None));
    let epoch = met.epoch;
    one.enter(epoch, ONE, 0).await.unwrap();
    two.enter(epoch, TWO, 7).await.unwrap();
    assert_eq!(two.meet(TWO).await.unwrap().own, Some(7));

    appends_each_once(&*one, epoch).await;
    let first = everybody_sees_one_order(&one, &two, epoch).await;
    tells_the_whole_state(&*one, epoch).await;

    // A position that nobody gave out is not held.
    let newest = one.meet(ONE).await.unwrap().newest;
    assert!(one.holds(newest).await.unwrap() && one.holds(first).await.unwrap());
    assert!(!one.holds(Position(newest.0 + 1_000_000, 0)).await.unwrap());

    let member = Member {
        gateway: ONE.to_string().into(),
        host: "here".into(),
        version: "1".into(),
        started_at: 1,
        beat_at: SystemClock.now().millis(),
        position: newest.to_string().into(),
        sequence: 3,
        outbox: 0,
        lag_ms: 4,
        ready: true,
    };
    one.beat(member.clone()).await.unwrap();
    one.beat(member.clone()).await.unwrap();
    assert_eq!(two.members().await.unwrap(), [member]);

    forget();
    assert!(matches!(one.append(epoch, Stamp::Refill, token(ONE, 0)).await, Err(EngineError::OtherEpoch)));
    let anew = make().meet(ONE).await.unwrap();
    assert_ne!(anew.epoch, epoch);
    assert_eq!((anew.newest, anew.own), (Position::START, None));
    assert!(matches!(one.enter(epoch, ONE, 1).await, Err(EngineError::OtherEpoch)));
    assert!(state(&*one).await.is_empty());
}

async fn appends_each_once(engine: &dyn Engine, epoch: Epoch) {
    let stamp = |after, last| Stamp::Log { after, last };
    let first = engine.append(epoch, stamp(0, 1), token(ONE, 1)).await.unwrap();
    // Its answer was lost, and it is tried again.
    let again = engine.append(epoch, stamp(0, 1), token(ONE, 1)).await.unwrap();
    assert!(again.position >= first.position);
    let hole = engine.append(epoch, stamp(4, 5), token(ONE, 5)).await;
    assert!(matches!(hole, Err(EngineError::OutOfStep { own: Some(1) })), "{hole:?}");
    let second = engine.append(epoch, stamp(1, 5), token(ONE, 5)).await.unwrap();
    assert!(second.position > first.position);
    let stranger = engine.append(Epoch(epoch.0 ^ 2), stamp(5, 6), token(ONE, 6)).await;
    assert!(matches!(stranger, Err(EngineError::OtherEpoch)), "{stranger:?}");
    let now = engine.meet(ONE).await.unwrap().now;
    let late = Stamp::Direct { until: now.minus(Duration::from_secs(10)) };
    assert!(matches!(engine.append(epoch, late, token(ONE, 0)).await, Err(EngineError::TooLate)));
    let in_time = Stamp::Direct { until: now.plus(LATER) };
    engine.append(epoch, in_time, token(ONE, 0)).await.unwrap();
    assert_eq!(engine.meet(ONE).await.unwrap().own, Some(5), "the books are of the log's entries only");
    let mut follow = engine.follow(Position::START).await.unwrap();
    let sequences: Vec<u64> =
        followed(&mut *follow, 3).await.iter().map(|(_, batch)| batch.entries[0].sequence).collect();
    assert_eq!(sequences, [1, 5, 0]);
    assert!(follow.next(SOON).await.unwrap().is_empty(), "that was all");
}

/// Gives the position of the first.
async fn everybody_sees_one_order(one: &Arc<dyn Engine>, two: &Arc<dyn Engine>, epoch: Epoch) -> Position {
    const EACH: u64 = 50;
    let start = one.meet(ONE).await.unwrap().newest;
    let mut follows = [one.follow(start).await.unwrap(), two.follow(start).await.unwrap()];
    let write = |engine: Arc<dyn Engine>, gateway, from: u64| async move {
        for sequence in from..from + EACH {
            let stamp = Stamp::Log { after: sequence, last: sequence + 1 };
            engine.append(epoch, stamp, token(gateway, sequence + 1)).await.unwrap();
        }
    };
    let [first, second] = &mut follows;
    let all = usize::try_from(2 * EACH).unwrap();
    let ((), (), mut seen, other) = tokio::join!(
        write(one.clone(), ONE, 5),
        write(two.clone(), TWO, 7),
        followed(&mut **first, all),
        followed(&mut **second, all)
    );
    assert_eq!(seen, other);
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "positions grow");
    for gateway in [ONE, TWO] {
        let own = seen.iter().filter(|(_, batch)| batch.gateway == gateway);
        assert!(own.map(|(_, batch)| batch.entries[0].sequence).is_sorted());
    }
    seen.swap_remove(0).0
}

async fn tells_the_whole_state(engine: &dyn Engine, epoch: Epoch) {
    let mixed = vec![
        entry(0, Kind::Session, "s", false),
        entry(0, Kind::Subject, "u", false),
        entry(0, Kind::Claim("tenant".into()), "t", false),
    ];
    let wanted: Vec<StateEntry> = mixed.iter().map(|entry| StateEntry::of(&entry.revocation)).collect();
    let at = engine.append(epoch, Stamp::Refill, batch(TWO, mixed)).await.unwrap().position;
    let lift = vec![entry(0, Kind::Session, "s", true)];
    let lifted = engine.append(epoch, Stamp::Refill, batch(TWO, lift)).await.unwrap().position;
    let state = state(engine).await;
    for entry in wanted {
        assert!(state.contains(&(at, entry)), "{entry:?}");
    }
    let lifts = state.iter().take_while(|(_, entry)| entry.lift).count();
    assert_eq!(lifts, state.iter().filter(|(_, entry)| entry.lift).count(), "lifts come first");
    assert_eq!(state[0].0, lifted);
    assert_eq!(state.len(), 3 + 100 + 3 + 1);
    let soon = UnixTime::from_secs(u64::from(state[1].1.expires));
    assert!(soon > SystemClock.now());
}
