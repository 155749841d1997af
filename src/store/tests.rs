//! How every store behaves: one suite, run on each of them.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::UnixTime;
use crate::token::TokenType;

#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../tests/integration/support/postgres.rs"]
pub(crate) mod server;

pub(super) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// Where a store is, empty at first; it can be opened again and again, by several at once.
enum Place {
    Sqlite(TempDir),
    Postgres(Arc<server::Postgres>),
}

impl Place {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn Store> {
        let settings = match self {
            Self::Sqlite(dir) => settings::Settings::Sqlite(dir.path().join("state/portcullis.db")),
            Self::Postgres(server) => {
                let url = settings::Postgres::parse(&server.url(), |path| path.into()).unwrap();
                settings::Settings::Postgres(Box::new(url))
            }
        };
        open(&settings).unwrap()
    }
}

/// Each of these behaviours is a test on SQLite. On PostgreSQL they share a server, whose start takes longer than all
/// of them, and each finds it empty.
macro_rules! suite {
    ($($behaviour:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(super::Place::sqlite()).await })*
        }

        #[tokio::test]
        async fn each_of_them_on_postgres() {
            let server = Arc::new(server::Postgres::start());
            let mut failed = Vec::new();
            $({
                server.sql("DROP SCHEMA IF EXISTS portcullis CASCADE");
                let task = tokio::spawn($behaviour(Place::Postgres(server.clone())));
                if task.await.is_err() {
                    failed.push(stringify!($behaviour));
                }
            })*
            assert!(failed.is_empty(), "{failed:?}");
        }
    };
}

suite! {
    what_was_written_is_there_after_a_restart
    a_failed_sign_up_leaves_nothing
    a_failing_piece_of_work_takes_nobody_of_its_batch_with_it
    a_session_does_not_start_on_a_password_that_was_changed_meanwhile
    a_repeat_within_the_grace_gives_the_same_successor_while_it_is_unused
    after_the_grace_a_retired_token_is_a_reuse
    of_many_exchanges_at_once_one_wins_and_all_get_its_successor
    exchanges_of_many_tokens_at_once_are_each_their_own
    without_a_successor_the_presented_token_stays_good
    an_unknown_refresh_token_is_adopted_only_when_asked_for
    lists_are_newest_first_and_page_without_gaps
    tokens_without_a_session_are_told_from_when_they_were_issued
    a_mark_keeps_the_first_time_and_can_be_taken_off_a_token
    pruning_forgets_what_expired_and_nothing_else
    the_trail_takes_each_entry_once
    a_gateway_with_a_new_log_starts_a_trail_of_its_own
    two_gateways_that_exchange_one_token_at_once_get_one_successor
    two_gateways_that_take_in_one_unknown_token_at_once_get_one_successor
    any_text_is_kept_as_it_is
    what_stands_is_the_newest_of_each_selector
    accounts_are_listed_by_email_and_drawn_by_id
    a_disabled_account_begins_no_session_and_a_deleted_one_leaves_nothing
    a_guest_is_made_once_and_kept_up_to_date
}

fn user(id: &str, email: &str) -> User {
    User {
        id: id.into(),
        email: email.into(),
        username: email.into(),
        password_hash: PasswordHash("$hash".into()),
        fields: serde_json::from_str(r#"{"firstname": "Ada"}"#).unwrap(),
        scope: "".into(),
        created: NOW,
        disabled: false,
    }
}

fn session(id: &str) -> Session {
    Session {
        id: id.into(),
        subject: "u".into(),
        created: NOW,
        expires: NOW.plus(Duration::from_secs(1000)),
        user_agent: "curl".into(),
        address: "192.0.2.1".into(),
    }
}

fn token(id: &str, token_type: TokenType) -> Token {
    Token {
        id: id.into(),
        session: "s".into(),
        subject: "u".into(),
        token_type,
        key_id: Some("k".into()),
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(1000)),
        user_agent: "curl".into(),
        address: "192.0.2.1".into(),
    }
}

fn login() -> Login {
    Login {
        session: session("s"),
        tokens: vec![token("a0", TokenType::Access), token("r0", TokenType::Refresh)],
    }
}

/// A refresh by `presented` at `now`, whose new tokens are called `a-` and `r-` with `suffix`.
fn rotation(presented: &str, suffix: &str, now: UnixTime) -> Rotation {
    Rotation {
        presented: token(presented, TokenType::Refresh),
        now,
        grace: Duration::from_secs(10),
        adopt: None,
        access: token(&format!("a-{suffix}"), TokenType::Access),
        successor: Some(token(&format!("r-{suffix}"), TokenType::Refresh)),
    }
}

async fn signed_up(place: &Place) -> Arc<dyn Store> {
    let store = place.open();
    let made = store.create_user(user("u", "Ada@example.com"), "ada@example.com".into(), Some(login())).await;
    assert_eq!(made.unwrap(), Created::Done);
    store
}

fn successor(rotated: Rotated) -> Box<str> {
    match rotated {
        Rotated::Repeated(successor) => successor.id,
        other => panic!("not repeated: {other:?}"),
    }
}

async fn what_was_written_is_there_after_a_restart(place: Place) {
    let store = signed_up(&place).await;
    drop(store);
    let store = place.open();
    let found = store.user_by_email("ada@example.com").await.unwrap().unwrap();
    assert_eq!(found, user("u", "Ada@example.com"));
    assert_eq!(store.user("u").await.unwrap().unwrap(), found);
    assert_eq!(store.session("s").await.unwrap().unwrap().session, session("s"));
    assert_eq!(store.token("a0").await.unwrap().unwrap().token, token("a0", TokenType::Access));
}

async fn a_failed_sign_up_leaves_nothing(place: Place) {
    let store = signed_up(&place).await;
    let taken = store.create_user(user("v", "ADA@example.com"), "ada@example.com".into(), None).await;
    assert_eq!(taken.unwrap(), Created::EmailTaken);
    // The token ids are taken, so the last statement of this one fails after the user's row was written.
    let mut other = login();
    other.session.id = "s2".into();
    let failed = store.create_user(user("v", "b@example.com"), "b@example.com".into(), Some(other)).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))));
    assert_eq!(store.user("v").await.unwrap(), None);
    assert_eq!(store.session("s2").await.unwrap(), None);
}

async fn a_failing_piece_of_work_takes_nobody_of_its_batch_with_it(place: Place) {
    let store = place.open();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            // Every third one brings tokens with ids that another one has.
            let login = (n % 3 == 0).then(login);
            let id = n.to_string();
            tokio::spawn(async move { store.create_user(user(&id, &id), id.clone().into(), login).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(made, 66 + 1);
}

async fn a_session_does_not_start_on_a_password_that_was_changed_meanwhile(place: Place) {
    let store = signed_up(&place).await;
    let old = PasswordHash("$hash".into());
    let new = PasswordHash("$new".into());
    assert!(store.set_password("u".into(), old.clone(), new.clone()).await.unwrap());
    assert!(!store.set_password("u".into(), old.clone(), new.clone()).await.unwrap());
    let next = Login { session: session("s2"), tokens: vec![] };
    assert_eq!(store.start_session(next.clone(), old).await.unwrap(), Started::CredentialsChanged);
    assert_eq!(store.start_session(next, new).await.unwrap(), Started::Done);
    let begun = store.unexpired_sessions("u", NOW).await.unwrap();
    assert_eq!(begun.iter().map(|session| &*session.id).collect::<Vec<_>>(), ["s", "s2"]);
}

async fn a_repeat_within_the_grace_gives_the_same_successor_while_it_is_unused(place: Place) {
    let store = signed_up(&place).await;
    let later = NOW.plus(Duration::from_secs(9));
    assert_eq!(store.rotate(rotation("r0", "1", NOW)).await.unwrap(), Rotated::Done);
    assert_eq!(store.standing("r0").await.unwrap(), Standing::Retired);
    assert_eq!(store.standing("r-1").await.unwrap(), Standing::Good);
    assert_eq!(&*successor(store.rotate(rotation("r0", "2", later)).await.unwrap()), "r-1");
    assert_eq!(store.standing("a-2").await.unwrap(), Standing::Good);
    assert_eq!(store.standing("r-2").await.unwrap(), Standing::Unknown);
    // The successor is used: from now on the first one is a reuse, grace or not.
    assert_eq!(store.rotate(rotation("r-1", "3", later)).await.unwrap(), Rotated::Done);
    assert_eq!(store.rotate(rotation("r0", "4", later)).await.unwrap(), Rotated::Reused);
    assert_eq!(store.standing("a-4").await.unwrap(), Standing::Unknown);
}

async fn after_the_grace_a_retired_token_is_a_reuse(place: Place) {
    let store = signed_up(&place).await;
    assert_eq!(store.rotate(rotation("r0", "1", NOW)).await.unwrap(), Rotated::Done);
    let after = NOW.plus(Duration::from_secs(10));
    assert_eq!(store.rotate(rotation("r0", "2", after)).await.unwrap(), Rotated::Reused);
}

async fn of_many_exchanges_at_once_one_wins_and_all_get_its_successor(place: Place) {
    let store = signed_up(&place).await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.rotate(rotation("r0", &n.to_string(), NOW)).await.unwrap() })
        })
        .collect();
    let mut done = 0;
    let mut seen = std::collections::HashSet::new();
    for task in tasks {
        match task.await.unwrap() {
            Rotated::Done => done += 1,
            other => drop(seen.insert(successor(other))),
        }
    }
    assert_eq!((done, seen.len()), (1, 1));
}

async fn exchanges_of_many_tokens_at_once_are_each_their_own(place: Place) {
    let store = signed_up(&place).await;
    let presented: Vec<_> = (0..60).map(|n| format!("many-{n}")).collect();
    for id in &presented {
        store.record_token(token(id, TokenType::Refresh)).await.unwrap();
    }
    let exchange = |n: usize, id: &str| {
        let (store, mut rotation) = (store.clone(), rotation(id, &format!("of-{id}-{n}"), NOW));
        match n {
            // Its new token has an id that is taken.
            7 => rotation.access = token("a0", TokenType::Access),
            // Its account is not there.
            8 => rotation.presented.subject = "nobody".into(),
            _ => {}
        }
        tokio::spawn(async move { store.rotate(rotation).await })
    };
    let mut tasks: Vec<_> = presented.iter().enumerate().map(|(n, id)| exchange(n, id)).collect();
    tasks.push(exchange(60, "unknown"));
    tasks.push(exchange(61, &presented[3]));
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert!(answers[7].is_err());
    assert_eq!(*answers[8].as_ref().unwrap(), Rotated::NoAccount);
    assert_eq!(*answers[60].as_ref().unwrap(), Rotated::Unknown);
    // Of the two with the same token one won, whichever came first.
    let (first, other) = (answers[3].as_ref().unwrap(), answers[61].as_ref().unwrap());
    let (won, told) = if *first == Rotated::Done { (3, other) } else { (61, first) };
    assert_eq!(&*successor(told.clone()), format!("r-of-many-3-{won}"));
    for (n, id) in presented.iter().enumerate().filter(|(n, _)| ![3, 7, 8].contains(n)) {
        assert_eq!(*answers[n].as_ref().unwrap(), Rotated::Done, "{n}");
        assert!(store.token(id).await.unwrap().unwrap().retired_at.is_some(), "{n}");
        for new in [format!("a-of-{id}-{n}"), format!("r-of-{id}-{n}")] {
            assert!(store.token(&new).await.unwrap().is_some(), "{new}");
        }
    }
    for n in [7, 8] {
        assert_eq!(store.token(&presented[n]).await.unwrap().unwrap().retired_at, None, "{n}");
        assert!(store.token(&format!("r-of-many-{n}-{n}")).await.unwrap().is_none(), "{n}");
    }
}

async fn without_a_successor_the_presented_token_stays_good(place: Place) {
    let store = signed_up(&place).await;
    for suffix in ["1", "2"] {
        let plain = Rotation { successor: None, ..rotation("r0", suffix, NOW) };
        assert_eq!(store.rotate(plain).await.unwrap(), Rotated::Done);
    }
    assert_eq!(store.standing("r0").await.unwrap(), Standing::Good);
}

async fn an_unknown_refresh_token_is_adopted_only_when_asked_for(place: Place) {
    let store = signed_up(&place).await;
    let mut lost = rotation("lost", "1", NOW);
    assert_eq!(store.rotate(lost.clone()).await.unwrap(), Rotated::Unknown);
    lost.adopt = Some(session("s9"));
    assert_eq!(store.rotate(lost.clone()).await.unwrap(), Rotated::Done);
    assert_eq!(store.standing("lost").await.unwrap(), Standing::Retired);
    assert!(store.session("s9").await.unwrap().is_some());
    lost.presented.subject = "nobody".into();
    assert_eq!(store.rotate(lost).await.unwrap(), Rotated::NoAccount);
}

async fn lists_are_newest_first_and_page_without_gaps(place: Place) {
    let store = signed_up(&place).await;
    let page = |before, limit| Page { before, limit };
    let first = store.tokens("u", page(None, 1)).await.unwrap();
    let rest = store.tokens("u", page(Some(first[0].number), 10)).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&rest).map(|row| &*row.token.id).collect();
    assert_eq!(ids, ["r0", "a0"]);
    assert_eq!(store.tokens("v", page(None, 10)).await.unwrap(), []);
    assert_eq!(store.sessions("u", page(None, 10)).await.unwrap().len(), 1);
}

async fn tokens_without_a_session_are_told_from_when_they_were_issued(place: Place) {
    let store = signed_up(&place).await;
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    for (id, seconds) in [("early", 0), ("then", 1), ("late", 2)] {
        let lone = Token { session: "".into(), issued_at: at(seconds), ..token(id, TokenType::Access) };
        store.record_token(lone).await.unwrap();
    }
    let rows = store.lone_tokens("u", at(1), at(1)).await.unwrap();
    assert_eq!(rows.iter().map(|row| &*row.token.id).collect::<Vec<_>>(), ["then", "late"]);
    assert_eq!(store.lone_tokens("u", at(1), rows[0].token.expires_at).await.unwrap(), []);
    assert_eq!(store.lone_tokens("v", at(0), at(0)).await.unwrap(), []);
}

async fn a_mark_keeps_the_first_time_and_can_be_taken_off_a_token(place: Place) {
    let store = signed_up(&place).await;
    let mark = |at, by: &str| Mark { sessions: vec![], tokens: vec!["a0".into()], at, by: by.into() };
    store.mark_revoked(mark(NOW, "subject:u")).await.unwrap();
    store.mark_revoked(mark(NOW.plus(Duration::from_secs(5)), "gateway")).await.unwrap();
    let row = store.token("a0").await.unwrap().unwrap();
    assert_eq!((row.revoked_at, row.revoked_by.as_deref()), (Some(NOW), Some("subject:u")));
    store.unmark_token("a0").await.unwrap();
    assert_eq!(store.token("a0").await.unwrap().unwrap().revoked_at, None);
    store
        .mark_revoked(Mark { sessions: vec!["s".into()], tokens: vec![], at: NOW, by: "x".into() })
        .await
        .unwrap();
    assert_eq!(store.token("a0").await.unwrap().unwrap().revoked_at, Some(NOW));
    assert!(store.session("s").await.unwrap().unwrap().revoked_at.is_some());
    assert_eq!(store.unexpired_sessions("u", NOW).await.unwrap(), [session("s")], "it may be taken back");
    let expires = session("s").expires;
    assert_eq!(store.unexpired_sessions("u", expires).await.unwrap(), []);
}

async fn pruning_forgets_what_expired_and_nothing_else(place: Place) {
    let store = signed_up(&place).await;
    let after = NOW.plus(Duration::from_secs(1001));
    assert_eq!(store.prune(NOW, 100).await.unwrap(), 0);
    assert_eq!(store.prune(after, 1).await.unwrap(), 1, "one token; the session has another one");
    assert_eq!(store.prune(after, 100).await.unwrap(), 2, "the other token and its session");
    assert!(store.user("u").await.unwrap().is_some());
}

pub(super) fn entry(sequence: u64, kind: &str, value: &str) -> TrailEntry {
    TrailEntry {
        sequence,
        kind: kind.into(),
        issuer: "self".into(),
        value: value.into(),
        lift: false,
        issued_before: (kind == "subject").then(|| NOW.plus(Duration::from_secs(1))),
        expires_at: NOW.plus(Duration::from_secs(1000)),
        reason: "lost".into(),
        actor: "admin".into(),
        address: "".into(),
        at: NOW.plus(Duration::from_secs(sequence)),
    }
}

async fn the_trail_takes_each_entry_once(place: Place) {
    let store = signed_up(&place).await;
    store.join("one").await.unwrap();
    let entries = vec![entry(1, "token", "a0"), entry(2, "session", "s"), entry(5, "subject", "u")];
    store.trail_append(entries[..2].to_vec()).await.unwrap();
    store.trail_append(entries.clone()).await.unwrap();
    assert_eq!(store.trail_position().await.unwrap(), 5);
    let all = store.trail_list(TrailFilter { limit: 10, ..TrailFilter::default() }).await.unwrap();
    assert_eq!(all, entries.iter().rev().cloned().collect::<Vec<_>>());
    let some = TrailFilter {
        kind: Some("session".into()),
        value: Some("s".into()),
        since: Some(1),
        before: Some(5),
        limit: 10,
        ..TrailFilter::default()
    };
    assert_eq!(store.trail_list(some).await.unwrap(), entries[1..2]);
    // A revocation that was made elsewhere shows in the lists through the trail.
    assert_eq!(store.token("a0").await.unwrap().unwrap().revoked_at, Some(entries[0].at));
    assert_eq!(store.token("r0").await.unwrap().unwrap().revoked_at, Some(entries[1].at));
}

async fn a_gateway_with_a_new_log_starts_a_trail_of_its_own(place: Place) {
    let store = place.open();
    store.join("one").await.unwrap();
    store.trail_append(vec![entry(7, "token", "a")]).await.unwrap();
    store.join("two").await.unwrap();
    assert_eq!(store.trail_position().await.unwrap(), 0);
    store.trail_append(vec![entry(1, "token", "b")]).await.unwrap();
    drop(store);
    let store = place.open();
    let known: Vec<_> = store.gateways().await.unwrap();
    assert_eq!(known.iter().map(|known| known.trail_position).collect::<Vec<_>>(), [7, 1]);
    store.join("one").await.unwrap();
    assert_eq!(store.trail_position().await.unwrap(), 7);
}

async fn two_gateways_that_exchange_one_token_at_once_get_one_successor(place: Place) {
    let first = signed_up(&place).await;
    let stores = [first.clone(), place.open()];
    let mut presented = "r0".to_owned();
    for round in 0..10 {
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let store = stores[n % 2].clone();
                let rotation = rotation(&presented, &format!("{round}-{n}"), NOW);
                tokio::spawn(async move { (n, store.rotate(rotation).await.unwrap()) })
            })
            .collect();
        let (mut done, mut repeated) = (Vec::new(), std::collections::HashSet::new());
        for task in tasks {
            match task.await.unwrap() {
                (n, Rotated::Done) => done.push(format!("r-{round}-{n}")),
                (_, other) => drop(repeated.insert(successor(other).into_string())),
            }
        }
        assert_eq!(done.len(), 1, "{done:?}");
        assert_eq!(repeated.into_iter().collect::<Vec<_>>(), done);
        presented = done.swap_remove(0);
    }
    // Every exchange recorded its access token, and no successor but the ten is there.
    let page = Page { before: None, limit: 1000 };
    let rows = first.tokens("u", page).await.unwrap();
    let count = |wanted| rows.iter().filter(|row| row.token.token_type == wanted).count();
    assert_eq!((count(TokenType::Access), count(TokenType::Refresh)), (1 + 160, 1 + 10));
}

async fn two_gateways_that_take_in_one_unknown_token_at_once_get_one_successor(place: Place) {
    let stores = [signed_up(&place).await, place.open()];
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let store = stores[n % 2].clone();
            let adopting = Rotation { adopt: Some(session("s9")), ..rotation("lost", &n.to_string(), NOW) };
            tokio::spawn(async move { store.rotate(adopting).await.unwrap() })
        })
        .collect();
    let mut done = 0;
    let mut seen = std::collections::HashSet::new();
    for task in tasks {
        match task.await.unwrap() {
            Rotated::Done => done += 1,
            other => drop(seen.insert(successor(other))),
        }
    }
    assert_eq!((done, seen.len()), (1, 1));
}

async fn any_text_is_kept_as_it_is(place: Place) {
    let store = signed_up(&place).await;
    let odd = "a\0b \u{1a}0 \u{202e} \u{10ffff} ' \\ %";
    let made = User { username: odd.into(), ..user("v", odd) };
    assert_eq!(store.create_user(made.clone(), odd.into(), None).await.unwrap(), Created::Done);
    assert_eq!(store.user_by_email(odd).await.unwrap(), Some(made));
    assert_eq!(store.user_by_email("a").await.unwrap(), None);
    store.join("one").await.unwrap();
    let told = TrailEntry { reason: odd.into(), value: odd.into(), ..entry(1, "token", "") };
    store.trail_append(vec![told.clone()]).await.unwrap();
    let filter = TrailFilter { value: Some(odd.into()), limit: 10, ..TrailFilter::default() };
    assert_eq!(store.trail_list(filter).await.unwrap(), [told]);
}

async fn what_stands_is_the_newest_of_each_selector(place: Place) {
    let store = place.open();
    store.join("one").await.unwrap();
    let lifted = TrailEntry { lift: true, ..entry(3, "token", "a") };
    let entries = vec![
        entry(1, "token", "a"),
        entry(2, "token", "b"),
        lifted,
        entry(4, "token", "b"),
        entry(5, "session", "b"),
    ];
    store.trail_append(entries).await.unwrap();
    // Of another gateway: neither listed nor in the way.
    store.join("two").await.unwrap();
    store.trail_append(vec![TrailEntry { lift: true, ..entry(9, "token", "b") }]).await.unwrap();
    store.join("one").await.unwrap();
    let listed = async |filter: TrailFilter| {
        let entries = store.trail_list(filter).await.unwrap();
        entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>()
    };
    let standing = TrailFilter { standing: true, limit: 10, ..TrailFilter::default() };
    assert_eq!(listed(standing.clone()).await, [5, 4]);
    assert_eq!(listed(TrailFilter { oldest_first: true, ..standing.clone() }).await, [4, 5]);
    assert_eq!(listed(TrailFilter { limit: 1, ..standing.clone() }).await, [5]);
    assert_eq!(listed(TrailFilter { kind: Some("token".into()), ..standing }).await, [4]);
}

async fn accounts_are_listed_by_email_and_drawn_by_id(place: Place) {
    let store = place.open();
    assert_eq!(store.hash_near("5").await.unwrap(), None);
    for (id, email) in [("3", "b@x.de"), ("7", "a@x.de"), ("9", "c@x.de")] {
        let user = User { password_hash: PasswordHash(format!("${id}").into()), ..user(id, email) };
        assert_eq!(store.create_user(user, email.into(), None).await.unwrap(), Created::Done);
    }
    let taken = store.create_user(user("3", "d@x.de"), "d@x.de".into(), None).await.unwrap();
    assert_eq!(taken, Created::IdTaken);
    let list = |after: &'static str, limit| {
        let users = store.users(after, limit);
        async move { users.await.unwrap().iter().map(|user| user.id.to_string()).collect::<Vec<_>>() }
    };
    assert_eq!(list("", 2).await, ["7", "3"]);
    assert_eq!(list("b@x.de", 2).await, ["9"]);
    for (id, near) in [("", "$3"), ("3", "$3"), ("4", "$7"), ("a", "$3")] {
        assert_eq!(store.hash_near(id).await.unwrap(), Some(PasswordHash(near.into())), "{id}");
    }
}

async fn a_disabled_account_begins_no_session_and_a_deleted_one_leaves_nothing(place: Place) {
    let store = place.open();
    store.create_user(user("u", "a@x.de"), "a@x.de".into(), Some(login())).await.unwrap();
    assert!(store.set_disabled("u", true).await.unwrap());
    assert_eq!(store.rotate(rotation("r0", "1", NOW)).await.unwrap(), Rotated::NoAccount);
    let mut second = login();
    second.session.id = "s2".into();
    second.tokens.clear();
    let hash = PasswordHash("$hash".into());
    let started = store.start_session(second.clone(), hash.clone()).await.unwrap();
    assert_eq!(started, Started::CredentialsChanged);
    assert!(store.set_disabled("u", false).await.unwrap());
    assert_eq!(store.start_session(second, hash).await.unwrap(), Started::Done);
    assert!(store.delete_user("u").await.unwrap());
    assert_eq!(store.user("u").await.unwrap(), None);
    assert_eq!(store.session("s").await.unwrap(), None);
    assert_eq!(store.token("r0").await.unwrap(), None);
    assert!(!store.delete_user("u").await.unwrap() && !store.set_disabled("u", true).await.unwrap());
}

async fn a_guest_is_made_once_and_kept_up_to_date(place: Place) {
    let store = place.open();
    let guest = |id: &str, email: &str| Guest {
        id: id.into(),
        email: email.into(),
        email_key: email.into(),
        username: email.into(),
        fields: serde_json::from_str(r#"{"firstname": "Ada"}"#).unwrap(),
        scope: Some("read".into()),
        at: NOW,
    };
    let made = store.welcome(guest("42", "ada@x.de")).await.unwrap();
    assert_eq!((&*made.id, &*made.email, &*made.scope, made.disabled), ("42", "ada@x.de", "read", false));
    assert_eq!(made.password_hash, PasswordHash::elsewhere());
    store.set_disabled("42", true).await.unwrap();

    let later = Guest { scope: None, at: NOW.plus(Duration::from_secs(9)), ..guest("42", "ada@y.de") };
    let again = store.welcome(later).await.unwrap();
    assert_eq!(
        (&*again.email, &*again.scope, again.disabled, again.created),
        ("ada@y.de", "read", true, NOW)
    );
    assert!(store.user_by_email("ada@x.de").await.unwrap().is_none());

    // The email went to somebody else, who had one before.
    store.welcome(guest("43", "bob@x.de")).await.unwrap();
    store.welcome(guest("43", "ada@y.de")).await.unwrap();
    assert_eq!(&*store.user_by_email("ada@y.de").await.unwrap().unwrap().id, "43");
    assert_eq!(&*store.user("42").await.unwrap().unwrap().email, "ada@y.de");
    assert_eq!(store.users("", 10).await.unwrap().len(), 2);
}
