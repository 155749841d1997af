//! Users and sessions in PostgreSQL: the endpoints behave as on SQLite, gateways share them, and a server that is away
//! harms nobody who does not need it.

use std::rc::Rc;

use serde_json::json;

use crate::auth_endpoints;
use crate::support::jwt::claims_of;
use crate::support::postgres::Postgres;
use crate::support::{Account, Gateway, Setup, Upstream, gateway, wait_for};

#[test]
fn the_auth_endpoints_tell_the_same_story() {
    let server = Rc::new(Postgres::start());
    // Each gateway's state directory is new: a store that knew another one would make it a loss.
    let emptied = server.clone();
    gateway::each_start_on(&server.url(), move || {
        emptied.sql("DROP SCHEMA IF EXISTS portcullis CASCADE");
    });
    let stories: [(&str, fn()); 17] = [
        ("the tutorial's checks", auth_endpoints::the_tutorials_checks_hold_with_json_under_auth),
        ("sign-ups at once", auth_endpoints::of_many_sign_ups_with_one_email_one_wins),
        ("extra fields", auth_endpoints::extra_sign_up_fields_are_kept_and_returned_when_configured),
        ("me", auth_endpoints::me_is_the_user_of_the_token),
        ("lists", auth_endpoints::the_callers_tokens_are_listed_newest_first_and_page_by_page),
        ("restoring", auth_endpoints::only_what_its_owner_revoked_this_way_can_be_restored),
        ("ending a session", auth_endpoints::a_session_can_be_ended_from_another),
        ("too many sessions", auth_endpoints::the_oldest_session_goes_when_there_are_too_many),
        ("log-out", auth_endpoints::logging_out_ends_the_session_with_all_its_tokens_and_nothing_else),
        (
            "log-out everywhere",
            auth_endpoints::logging_out_everywhere_refuses_every_login_before_and_none_after,
        ),
        ("repeats", auth_endpoints::a_repeated_refresh_inside_the_grace_gives_the_same_successor),
        ("reuse", auth_endpoints::reuse_after_the_successor_was_used_ends_the_session),
        ("what reuse does", auth_endpoints::reuse_can_end_all_sessions_or_only_be_logged),
        ("no rotation", auth_endpoints::without_rotation_a_refresh_token_stays_good_and_is_not_sent_again),
        ("refreshes at once", auth_endpoints::concurrent_refreshes_of_one_token_never_make_siblings),
        (
            "routes for refresh tokens",
            auth_endpoints::a_retired_refresh_token_does_not_open_a_proxied_route_for_refresh_tokens,
        ),
        ("revoking", auth_endpoints::whoever_holds_a_token_may_revoke_it),
    ];
    for (name, story) in stories {
        eprintln!("--- {name}");
        story();
    }
}

fn setup(server: &Postgres, upstream: &Upstream) -> Setup {
    Setup::new()
        .section(&format!("[store]\nurl = \"{}\"", server.url()))
        .upstream("api", upstream.address())
        .route("api", "/api", "api", "access")
        .route("renew", "/renew", "api", "refresh")
}

fn through(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/api/books").bearer(token).send().verdict()
}

/// What the gateway does while the server is not there.
fn goes_on_without_the_store(gateway: &Gateway, ada: &Account, revoked: &Account) {
    assert_eq!(through(gateway, &ada.access).0, 200);
    let answer = ada.refreshed(gateway).expect_problem(503, "store_unavailable");
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    // Such a route asks the store whether the token was retired.
    gateway.get("/renew").bearer(&ada.refresh).send().expect_problem(503, "store_unavailable");
    assert_eq!(through(gateway, &ada.access).0, 200);
    // Revocations are durable and in force all the same.
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&revoked.access)["sid"] }));
    assert_eq!(through(gateway, &revoked.access), (401, "token_revoked".to_owned()));
}

fn comes_back(gateway: &Gateway, ada: &Account) -> Account {
    wait_for("the store to be back", || (ada.refreshed(gateway).status == 200).then_some(()));
    // Nothing was lost or taken for lost.
    assert_eq!(through(gateway, &ada.access).0, 200);
    Account::sign_in(gateway, "ada@example.com")
}

#[test]
fn a_server_that_is_away_harms_no_request_that_does_not_need_it() {
    let mut server = Postgres::start();
    let upstream = Upstream::echo();
    let mut gateway = setup(&server, &upstream).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let [first, second] = [(); 2].map(|()| Account::sign_in(&gateway, "ada@example.com"));

    // It accepts connections and never answers.
    server.signal("STOP");
    goes_on_without_the_store(&gateway, &ada, &first);
    server.signal("CONT");
    let ada = comes_back(&gateway, &ada);

    // It is gone, and comes back.
    server.kill9();
    goes_on_without_the_store(&gateway, &ada, &second);
    server.begin();
    let ada = comes_back(&gateway, &ada);

    // The trail tells of what was revoked meanwhile, once.
    let trail = "SELECT count(*), count(DISTINCT sequence) FROM portcullis.trail WHERE actor LIKE 'admin%'";
    wait_for("the trail", || (server.sql(trail) == "2|2\n").then_some(()));
    gateway.restart();
    assert_eq!(through(&gateway, &ada.access).0, 200);
    assert_eq!(through(&gateway, &first.access).0, 401);
    assert_eq!(through(&gateway, &second.access).0, 401);
}

#[test]
fn two_gateways_share_users_and_sessions() {
    let server = Postgres::start();
    let upstream = Upstream::echo();
    let mut one = setup(&server, &upstream).start();
    let before = Account::sign_up(&one, "ada@example.com");
    // The other one signs with the same keys, and has no log of its own yet.
    let second = setup(&server, &upstream);
    let keys = second.path("state/keys");
    std::fs::create_dir_all(&keys).unwrap();
    for entry in std::fs::read_dir(one.dir().join("state/keys")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), keys.join(entry.file_name())).unwrap();
    }
    for private in [keys.clone(), keys.parent().unwrap().to_owned()] {
        std::fs::set_permissions(private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    let two = second.start();
    // It cannot know what was revoked before it came: that is refused, and only by itself.
    assert_eq!(through(&two, &before.access), (401, "token_revoked".to_owned()));
    assert_eq!(through(&one, &before.access).0, 200);

    // Who signs in afterwards (the cutoff ends with its second) is let in by both.
    let ada = wait_for("a login after the cutoff", || {
        let ada = Account::sign_in(&one, "ada@example.com");
        (through(&two, &ada.access).0 == 200).then_some(ada)
    });
    assert_eq!(through(&one, &ada.access).0, 200);
    let successors: std::collections::HashSet<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..12)
            .map(|n| {
                let (gateway, ada) = (if n % 2 == 0 { &one } else { &two }, &ada);
                scope.spawn(move || {
                    let answer = ada.refreshed(gateway).expect(200).json();
                    claims_of(answer["data"][0]["refresh_token"].as_str().unwrap())["jti"].to_string()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(successors.len(), 1, "{successors:?}");

    // A gateway that comes back with its log is itself, however far the other one's log is.
    for _ in 0..20 {
        two.revoke(&json!({ "kind": "subject", "value": "nobody" }));
    }
    one.restart();
    assert_eq!(through(&one, &before.access).0, 200);
    // One that lost it refuses what was before.
    one.kill9();
    for entry in std::fs::read_dir(one.dir().join("state")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("log-") || name.starts_with("snapshot-") || name == "gateway-id" {
            std::fs::remove_file(path).unwrap();
        }
    }
    one.restart();
    assert_eq!(through(&one, &before.access), (401, "token_revoked".to_owned()));
}

#[test]
fn a_server_that_refuses_the_user_ends_the_start_without_telling_the_password() {
    let server = Postgres::start();
    let upstream = Upstream::echo();
    let url = server.url().replace("user=gate", "user=nobody&password=hunter2");
    let setup = Setup::new()
        .section(&format!("[store]\nurl = \"{url}\""))
        .upstream("api", upstream.address())
        .route("api", "/", "api", "access");
    let ended = setup.run(&["run"]).expect(1);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("cannot open the store") && said.contains("nobody"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
