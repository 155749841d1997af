//! A disk without space: what is new is refused and not acknowledged, what is in force stays in force, and all is well
//! again as soon as there is space, without anybody's help.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::json;

use crate::ledger::{Fate, KINDS, Kind, Ledger, Selector, legacy, setup, with_issuer};
use crate::mount::Mount;
use crate::seed::Rng;
use crate::support::jwt::claims;
use crate::support::{Account, Call, Gateway, Setup, wait_for};

/// Most revocations that still find room: in what the log made for itself before, some 64 KiB, and in the last page of a
/// file.
const LAST_ONES: usize = 2000;

/// A file that leaves no room for anything else.
fn fill(disk: &Mount) -> PathBuf {
    let path = disk.path().join("filler");
    let mut file = File::create(&path).unwrap();
    for block in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![b'x'; block]).is_ok() {}
    }
    path
}

fn revoke(gateway: &Gateway, ledger: &mut Ledger, selector: &Selector, rng: &mut Rng) -> (u16, String) {
    let fate = Fate::refused(selector.kind, rng);
    let answer = gateway.admin("POST", "/admin/revocations").json(&selector.item(fate)).send();
    if answer.status == 200 {
        ledger.acknowledged(vec![(selector.clone(), ledger.fate(selector).raised_by(fate))]);
    }
    answer.verdict()
}

fn ready(gateway: &Gateway) -> (u16, String) {
    let answer = Call::new(gateway.admin_address(), "GET", "/readyz").send();
    (answer.status, answer.text())
}

/// A figure of `/metrics` without labels.
fn figure(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.metrics();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches("{}").strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {text}")).trim().parse().unwrap()
}

fn unavailable() -> (u16, String) {
    (503, "log_unavailable".to_owned())
}

/// Some of each kind, some of them lifted again.
fn some_in_force(gateway: &Gateway, rng: &mut Rng) -> Ledger {
    let mut ledger = Ledger::default();
    for number in 0..30 {
        let selector = Selector::new(KINDS[number % 3], format!("before-{number}"));
        assert_eq!(revoke(gateway, &mut ledger, &selector, rng).0, 200);
        if number % 5 == 0 {
            gateway.admin("DELETE", &selector.target()).send().expect(200);
            ledger.acknowledged(vec![(selector, Fate::Accepted)]);
        }
    }
    ledger
}

/// Revokes until that fails; what is then true of a gateway whose disk is full.
fn run_full(gateway: &Gateway, ledger: &mut Ledger, rng: &mut Rng, name: &str) {
    let mut last = None;
    for number in 0..LAST_ONES {
        let selector = Selector::new(Kind::Token, format!("{name}-{number}"));
        let verdict = revoke(gateway, ledger, &selector, rng);
        if verdict.0 != 200 {
            assert_eq!(verdict, unavailable());
            last = Some(selector);
            break;
        }
    }
    let refused = last.expect("a disk without space takes no revocations");
    // The one that was refused is not in force, nothing else has changed, and requests go on.
    let mut all = ledger.selectors();
    all.push(refused.clone());
    ledger.check_requests(gateway, &all, "on a full disk");
    ledger.check_counts(gateway, "on a full disk");
    let (status, reasons) = ready(gateway);
    assert_eq!(status, 503);
    assert!(reasons.contains("revocation log") && reasons.contains("space"), "{reasons}");
    Call::new(gateway.admin_address(), "GET", "/livez").send().expect(200);
    assert_eq!(figure(gateway, "portcullis_log_available"), 0.0);
    // In every other form it is refused too, and says when to try again.
    let lines = format!("{}\n", refused.item(Fate::Refused(None)));
    let post = || gateway.admin("POST", "/admin/revocations");
    for call in [
        post().json(&refused.item(Fate::Refused(None))),
        post().json(&json!([refused.item(Fate::Refused(None))])),
        post().body("application/x-ndjson", lines),
        gateway.admin("DELETE", &Selector::new(Kind::Session, "before-1").target()),
    ] {
        let answer = call.send().expect_problem(503, "log_unavailable");
        assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    }
    ledger.check_requests(gateway, &all, "after more refusals");
}

/// Once there is room, revocations are taken again, by nobody's doing but the gateway's.
fn recovers(gateway: &Gateway, ledger: &mut Ledger, rng: &mut Rng, name: &str) {
    wait_for("the gateway to be ready again", || (ready(gateway).0 == 200).then_some(()));
    assert_eq!(figure(gateway, "portcullis_log_available"), 1.0);
    for number in 0..10 {
        let selector = Selector::new(KINDS[number % 3], format!("{name}-{number}"));
        assert_eq!(revoke(gateway, ledger, &selector, rng), (200, String::new()));
    }
}

#[test]
fn a_full_disk_costs_new_revocations_and_nothing_else() {
    let (mut rng, disk) = (Rng::new(), Mount::tmpfs("512k"));
    let mut gateway = disk.log_only(setup()).start();
    let mut ledger = some_in_force(&gateway, &mut rng);
    for round in 0..3 {
        let filler = fill(&disk);
        run_full(&gateway, &mut ledger, &mut rng, &format!("full-{round}"));
        fs::remove_file(filler).unwrap();
        recovers(&gateway, &mut ledger, &mut rng, &format!("after-{round}"));
        if round % 2 == 1 {
            gateway.restart();
        }
        ledger.check_all(&gateway, &mut rng, &format!("round {round}"));
    }
    gateway.kill9();
    gateway.restart();
    ledger.check_all(&gateway, &mut rng, "after the last start");
}

#[test]
fn a_gateway_killed_on_a_full_disk_has_exactly_what_it_acknowledged() {
    let (mut rng, disk) = (Rng::new(), Mount::tmpfs("512k"));
    let mut gateway = disk.log_only(setup()).start();
    let mut ledger = some_in_force(&gateway, &mut rng);
    let filler = fill(&disk);
    run_full(&gateway, &mut ledger, &mut rng, "full");
    gateway.kill9();
    fs::remove_file(filler).unwrap();
    gateway.restart();
    ledger.check_all(&gateway, &mut rng, "after the kill");
    recovers(&gateway, &mut ledger, &mut rng, "after");
}

#[test]
fn a_store_on_the_same_full_disk_makes_no_difference_to_what_is_in_force() {
    let (mut rng, disk) = (Rng::new(), Mount::tmpfs("2m"));
    let mut gateway = disk.setup(with_issuer(Setup::new())).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let out = Account::sign_in(&gateway, "ada@example.com");
    gateway.post("/auth/logout").bearer(&out.access).send().expect(200);
    let mut ledger = Ledger::default();
    let filler = fill(&disk);
    let mut verdict = (200, String::new());
    for number in 0..LAST_ONES {
        let selector = Selector::new(Kind::Token, format!("full-{number}"));
        verdict = revoke(&gateway, &mut ledger, &selector, &mut rng);
        if verdict.0 != 200 {
            break;
        }
    }
    assert_eq!(verdict, unavailable());
    assert_eq!(ready(&gateway).0, 503);
    // Who logs out now is told that it did not work; it can be tried again.
    let answer = gateway.post("/auth/logout").bearer(&ada.access).send();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(gateway.get("/x").bearer(&ada.access).send().status, 200);
    assert_eq!(gateway.get("/x").bearer(&out.access).send().verdict(), (401, "token_revoked".to_owned()));
    let free = legacy().token(&claims("never-revoked", &json!({})));
    assert_eq!(gateway.get("/x").bearer(&free).send().status, 200);
    ledger.check_requests(&gateway, &ledger.selectors(), "with a store that is full too");
    fs::remove_file(filler).unwrap();
    wait_for("the gateway to be ready again", || (ready(&gateway).0 == 200).then_some(()));
    wait_for("a log-out", || {
        let answer = gateway.post("/auth/logout").bearer(&ada.access).send();
        (answer.status == 200).then_some(())
    });
    gateway.kill9();
    gateway.restart();
    for login in [&ada, &out] {
        let verdict = gateway.get("/x").bearer(&login.access).send().verdict();
        assert_eq!(verdict, (401, "token_revoked".to_owned()));
    }
    let all = ledger.selectors();
    ledger.check(&gateway, &all, "after the start");
    ledger.check_requests(&gateway, &all, "after the start");
}
