//! What is cut, what is not, and the race between a stream that opens and a revocation, over the real log.

use std::sync::Barrier;

use super::*;
use crate::clock::SystemClock;
use crate::revocation::settings::{Fsync, Settings};
use crate::revocation::{self, Opening, Selector};
use crate::token::{TokenType, VerifiedToken};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const LATER: UnixTime = UnixTime::from_secs(1_800_000_900);

fn token(id: &str, session: &str, subject: &str) -> Arc<KnownToken> {
    until(LATER, id, session, subject)
}

fn until(expires_at: UnixTime, id: &str, session: &str, subject: &str) -> Arc<KnownToken> {
    let claims = serde_json::json!({ "tenant": ["north", subject] });
    let token = VerifiedToken {
        issuer: "self".into(),
        token_id: id.into(),
        subject: Some(subject.into()),
        session: Some(session.into()),
        client: Some(format!("client of {subject}").into()),
        other_clients: [format!("azp of {subject}").into()].into(),
        key_id: Some("k-1".into()),
        scopes: [].into(),
        token_type: TokenType::Access,
        issued_at: Some(NOW),
        expires_at,
        fresh_until: None,
        binding: None,
        claims: claims.as_object().unwrap().into(),
    };
    let keys = TokenKeys::of(&token, &["tenant".into()]);
    Arc::new(KnownToken::for_test(token, keys))
}

fn revocation(kind: Kind, value: &str, issued_before: Option<UnixTime>) -> Revocation {
    Revocation {
        issued_before: issued_before.filter(|_| !kind.is_absolute()),
        selector: Selector::new(kind, "self", value),
        lift: false,
        expires_at: LATER,
        reason: "".into(),
        actor: "admin".into(),
        address: "".into(),
        at: NOW,
    }
}

fn live() -> Live {
    Live::new(&Arc::new(Metrics::new()))
}

fn watch(live: &Live, token: &Arc<KnownToken>) -> Watched {
    live.watch(token, &Blocklist::empty(), NOW)
}

/// Which of the streams of ada's first login, her second one, and of bob are cut by this.
fn cut_by(entries: &[Revocation]) -> [bool; 3] {
    let live = live();
    let streams = [("t-1", "s-1", "ada"), ("t-2", "s-2", "ada"), ("t-3", "s-3", "bob")]
        .map(|(id, session, subject)| watch(&live, &token(id, session, subject)));
    live.projection().applied(1, entries);
    streams.map(|stream| stream.cause().is_some())
}

#[test]
fn a_revocation_cuts_what_it_matches_and_nothing_else() {
    let after = Some(UnixTime::from_secs(NOW.secs() + 1));
    for (kind, value, expected) in [
        (Kind::Token, "t-1", [true, false, false]),
        (Kind::Session, "s-2", [false, true, false]),
        (Kind::Subject, "ada", [true, true, false]),
        (Kind::Client, "client of bob", [false, false, true]),
        (Kind::Client, "azp of bob", [false, false, true]),
        (Kind::Key, "k-1", [true; 3]),
        (Kind::Issuer, "", [true; 3]),
        (Kind::Claim("tenant".into()), "north", [true; 3]),
        (Kind::Claim("tenant".into()), "bob", [false, false, true]),
        (Kind::Claim("other".into()), "north", [false; 3]),
        (Kind::Subject, "t-1", [false; 3]),
        (Kind::Token, "ada", [false; 3]),
    ] {
        assert_eq!(cut_by(&[revocation(kind.clone(), value, after)]), expected, "{kind} {value:?}");
    }
    let both = [revocation(Kind::Subject, "bob", after), revocation(Kind::Token, "t-2", None)];
    assert_eq!(cut_by(&both), [false, true, true]);
}

#[test]
fn a_cutoff_spares_what_was_issued_after_it() {
    let at = |secs| revocation(Kind::Subject, "ada", Some(UnixTime::from_secs(secs)));
    assert_eq!(cut_by(&[at(NOW.secs())]), [false; 3]);
    assert_eq!(cut_by(&[at(NOW.secs() + 1)]), [true, true, false]);
    // The later one wins, in whatever order they stand.
    assert_eq!(cut_by(&[at(NOW.secs() + 1), at(NOW.secs())]), [true, true, false]);
    assert_eq!(cut_by(&[at(NOW.secs()), at(NOW.secs() + 1)]), [true, true, false]);
}

#[test]
fn a_lift_cuts_nothing() {
    for kind in [Kind::Token, Kind::Session, Kind::Subject] {
        let lift = |value| Revocation { lift: true, ..revocation(kind.clone(), value, Some(LATER)) };
        assert_eq!(cut_by(&["t-1", "s-1", "ada"].map(lift)), [false; 3], "{kind}");
    }
}

#[test]
fn a_revoked_or_expired_token_is_cut_as_it_registers() {
    let live = live();
    let known = token("t-1", "s-1", "ada");
    let blocklist = Blocklist::holding(&[Selector::new(Kind::Session, "self", "s-1")]);
    assert_eq!(live.watch(&known, &blocklist, NOW).cause(), Some(Cause::Revoked));
    assert_eq!(live.watch(&known, &Blocklist::empty(), LATER).cause(), Some(Cause::Expired));
    assert_eq!(live.watch(&known, &Blocklist::empty(), NOW).cause(), None);
}

#[test]
fn every_stream_of_a_token_is_cut_and_only_once() {
    let live = live();
    let known = token("t-1", "s-1", "ada");
    let mut streams: Vec<_> = (0..100).map(|_| watch(&live, &known)).collect();
    assert_eq!(live.open(), 100);
    let gone = streams.split_off(50);
    drop(gone);
    assert_eq!(live.open(), 50);
    assert_eq!(live.0.expire(LATER), None);
    live.projection().applied(1, &[revocation(Kind::Token, "t-1", None)]);
    assert!(streams.iter().all(|stream| stream.cause() == Some(Cause::Expired)), "the first cause stays");
    drop(streams);
    assert_eq!(live.open(), 0);
    assert!(live.0.shards.iter().all(|shard| {
        let shard = shard.lock().unwrap();
        shard.by_token.is_empty() && shard.by_session.is_empty() && shard.by_expiry.is_empty()
    }));
}

#[test]
fn an_expiry_cuts_at_its_time_and_tells_the_next() {
    let live = live();
    let at = |secs| UnixTime::from_secs(NOW.secs() + secs);
    let streams = [10, 20, 20, 30].map(|secs| watch(&live, &until(at(secs), &secs.to_string(), "s", "ada")));
    let cut = || streams.each_ref().map(|stream| stream.cause().is_some());
    assert_eq!(live.0.expire(at(9)), Some(at(10)));
    assert_eq!(cut(), [false; 4]);
    assert_eq!(live.0.expire(at(10)), Some(at(20)));
    assert_eq!(cut(), [true, false, false, false]);
    assert_eq!(live.0.expire(at(20)), Some(at(30)));
    assert_eq!(cut(), [true, true, true, false]);
}

#[tokio::test]
async fn a_sooner_expiry_wakes_the_one_that_waits_for_a_later_one() {
    let live = live();
    let clock = Arc::new(SystemClock);
    let _far = watch(&live, &until(clock.now().plus(Duration::from_secs(3600)), "far", "s-1", "ada"));
    let keeper = tokio::spawn({
        let (live, clock) = (live.clone(), clock.clone());
        async move { live.keep_expiring(clock).await }
    });
    while live.0.awaited.load(Ordering::SeqCst) == NEVER {
        tokio::task::yield_now().await;
    }
    let near = until(clock.now().plus(Duration::from_millis(50)), "near", "s-2", "bob");
    let near = live.watch(&near, &Blocklist::empty(), clock.now());
    let cause = tokio::time::timeout(LOOK_EVERY / 2, std::future::poll_fn(|cx| near.poll_cut(cx))).await;
    assert_eq!(cause.ok(), Some(Cause::Expired), "not before the keeper looks again by itself");
    keeper.abort();
}

// --- the race ----------------------------------------------------------------------------------------------------

/// Streams of one round: so many that opening and revoking overlap.
const ROUND: usize = 128;

/// A stream opens while its token is revoked, round for round in the same order on two threads: it must be refused or
/// cut, whoever comes first.
fn race(rounds: usize, live: &Live, blocklist: &Blocklist, mut revoke: impl FnMut(Revocation) + Send) {
    let name = |kind, number| format!("{kind}-{number}");
    let barrier = Barrier::new(2);
    let (mut open_before, mut survivors) = (0, Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                let numbers = round * ROUND..(round + 1) * ROUND;
                let entries = numbers.map(|number| match number % 3 {
                    0 => revocation(Kind::Token, &name("t", number), None),
                    1 => revocation(Kind::Session, &name("s", number), None),
                    _ => revocation(Kind::Subject, &name("u", number), Some(LATER)),
                });
                let entries: Vec<_> = entries.collect();
                barrier.wait();
                entries.into_iter().for_each(&mut revoke);
                barrier.wait();
            }
        });
        for round in 0..rounds {
            let numbers = round * ROUND..(round + 1) * ROUND;
            let tokens = numbers.map(|n| token(&name("t", n), &name("s", n), &name("u", n)));
            let tokens: Vec<_> = tokens.collect();
            barrier.wait();
            let streams: Vec<_> = tokens.iter().map(|token| live.watch(token, blocklist, NOW)).collect();
            open_before += streams.iter().filter(|stream| stream.cause().is_none()).count();
            barrier.wait();
            for (token, stream) in tokens.iter().zip(&streams) {
                // Not here: the other thread would wait for this one for ever.
                if stream.cause() != Some(Cause::Revoked) {
                    survivors.push(token.token.token_id.clone());
                }
            }
        }
    });
    assert!(survivors.is_empty(), "{} survived: {survivors:?}", survivors.len());
    println!("{open_before} of {} streams were open before their token was revoked", rounds * ROUND);
}

#[test]
fn no_stream_slips_between_the_blocklist_and_the_cut() {
    let (live, blocklist) = (live(), Blocklist::empty());
    let mut projection = live.projection();
    race(800, &live, &blocklist, |entry| {
        blocklist.put_in_force(&entry);
        projection.applied(1, &[entry]);
    });
}

#[test]
fn what_is_acknowledged_has_been_cut() {
    let dir = tempfile::tempdir().unwrap();
    let live = live();
    let settings =
        Settings { fsync: Fsync::Every(Duration::from_secs(3600)), ..Settings::for_test(dir.path()) };
    let opening =
        Opening { projections: vec![live.projection()], ..Opening::for_test(&settings, dir.path()) };
    let (log, blocklist, _) = revocation::open(opening).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    race(10, &live, &blocklist, |entry| {
        runtime.block_on(log.append(vec![entry])).unwrap();
    });
    runtime.block_on(log.close());
}
