//! A disk that fails now and then, in each of the calls that the log needs: the segment is given up, what was not
//! acknowledged is written again, and a start finds exactly what was acknowledged.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::kill::Writer;
use crate::ledger::{Fate, Kind, Ledger, Selector, setup};
use crate::mount::{Mount, files};
use crate::power_cut::start_on_what_is_left;
use crate::seed::Rng;
use crate::shim::Shim;
use crate::support::{Call, Gateway, Setup, wait_for};
use crate::tracer::Tracer;

const WRITERS: usize = 8;
/// Failures that each way to fail must have seen.
const FAILURES: usize = 4;
/// Writes are torn while this file is there.
const TORN: &str = "torn";

/// Runs writers until enough calls have failed and enough revocations were answered after that. What is answered
/// with 503 must have no effect.
fn write_while_calls_fail(
    gateway: &Gateway,
    shim: &Shim,
    (injections, torn): (&[&str], bool),
    name: &str,
    rng: &mut Rng,
) -> Ledger {
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let writers: Vec<Writer<'_>> =
        (0..WRITERS).map(|number| Writer::new(gateway, format!("{name}-w{number}"), rng)).collect();
    let tracer = (!injections.is_empty()).then(|| Tracer::attach(gateway, injections));
    let tears = shim.path(TORN);
    if torn {
        fs::write(&tears, "").unwrap();
    }
    let failures = |tracer: Option<&Tracer>| {
        let torn = fs::metadata(&tears).map_or(0, |file| file.len());
        tracer.map_or(0, Tracer::failures) + usize::try_from(torn).unwrap()
    };
    let mut ledger = Ledger::default();
    thread::scope(|scope| {
        let (answered, stop) = (&answered, &stop);
        let _stop = StopOnDrop(stop);
        let threads: Vec<_> =
            writers.into_iter().map(|writer| scope.spawn(move || writer.run_until(stop, answered))).collect();
        wait_for(&format!("calls to fail: {injections:?}"), || {
            (failures(tracer.as_ref()) >= FAILURES).then_some(())
        });
        let by_then = answered.load(Ordering::SeqCst);
        wait_for("revocations after that", || (answered.load(Ordering::SeqCst) > by_then + 20).then_some(()));
        if torn {
            fs::remove_file(&tears).unwrap();
        }
        if let Some(tracer) = tracer {
            tracer.detach();
        }
        wait_for("the gateway to be ready", || ready(gateway).then_some(()));
        stop.store(true, Ordering::SeqCst);
        for thread in threads {
            ledger.join(thread.join().unwrap());
        }
    });
    ledger
}

/// A test that fails must not leave its writers at work: the scope waits for them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn ready(gateway: &Gateway) -> bool {
    Call::new(gateway.admin_address(), "GET", "/readyz").send().status == 200
}

fn segments(state: &Path) -> usize {
    files(state, "log-").len()
}

/// Each call of the writer, failing alone and with others, the way a disk does it: now and then. For each, what
/// `strace` is told, and whether writes are torn.
const WAYS: [(&[&str], bool); 7] = [
    (&["fdatasync:error=EIO:when=2+3"], false),
    (&[], true),
    (&["fdatasync:error=EIO:when=1+4", "rename:error=EIO:when=1+2"], false),
    (&["fdatasync:error=EIO:when=1+4", "fsync:error=EIO:when=1+2"], false),
    (&["rename:error=EIO:when=1+2"], true),
    (&["fdatasync:error=EIO:when=1+4", "openat:error=ENOSPC:when=1+3"], false),
    (&["fdatasync:error=EIO:when=1+2", "ftruncate:error=EIO:when=1+2"], false),
];

/// Under the shim that tears writes, when told to.
fn tearable(setup: Setup, shim: &Shim) -> Setup {
    setup
        .environment("LD_PRELOAD", shim.library().to_str().unwrap())
        .environment("PORTCULLIS_SHIM_TORN", shim.path(TORN).to_str().unwrap())
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing_and_keeps_nothing_refused() {
    let (mut rng, shim) = (Rng::new(), Shim::new());
    let mut gateway = tearable(setup(), &shim).start();
    let mut ledger = Ledger::default();
    for (number, way) in WAYS.into_iter().enumerate() {
        ledger.join(write_while_calls_fail(&gateway, &shim, way, &format!("way-{number}"), &mut rng));
        ledger.check_counts(&gateway, &format!("while it runs, after {way:?}"));
        assert!(gateway.stderr().contains("its segment is given up"), "{}", gateway.stderr());
        gateway.kill9();
        gateway.restart();
        ledger.check_counts(&gateway, &format!("after {way:?}"));
    }
    ledger.check_all(&gateway, &mut rng, "in the end");
}

#[test]
fn the_power_may_go_after_a_disk_has_failed() {
    let (mut rng, shim) = (Rng::new(), Shim::new());
    let mut disk = Mount::ext4();
    let mut gateway = disk.setup(tearable(setup(), &shim)).start();
    let mut ledger = Ledger::default();
    for (number, way) in WAYS[..4].iter().enumerate() {
        ledger.join(write_while_calls_fail(&gateway, &shim, *way, &format!("way-{number}"), &mut rng));
        disk.cut_power(&shim);
        disk = start_on_what_is_left(&mut gateway, &disk);
        ledger.check_counts(&gateway, &format!("after {way:?}"));
    }
    ledger.check_all(&gateway, &mut rng, "in the end");
}

#[test]
fn one_failed_sync_is_nobodys_business_but_the_disks() {
    let mut gateway = setup().start();
    let state = gateway.dir().join("state");
    let mut ledger = Ledger::default();
    let mut revoke = |gateway: &Gateway, value: &str| {
        let selector = Selector::new(Kind::Token, value);
        let answer =
            gateway.admin("POST", "/admin/revocations").json(&selector.item(Fate::Refused(None))).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        ledger.acknowledged(vec![(selector, Fate::Refused(None))]);
    };
    revoke(&gateway, "before");
    let before = segments(&state);
    let tracer = Tracer::attach(&gateway, &["fdatasync:error=EIO:when=1"]);
    revoke(&gateway, "while");
    assert_eq!(tracer.detach(), 1);
    assert_eq!(segments(&state), before + 1, "the segment is given up, and another one begun");
    assert!(ready(&gateway));
    revoke(&gateway, "after");
    gateway.kill9();
    gateway.restart();
    ledger.check_all(&gateway, &mut Rng::new(), "after a failed sync");
}

#[test]
fn a_disk_that_syncs_nothing_any_more_is_told_and_recovered_from() {
    let mut rng = Rng::new();
    let mut gateway = setup().start();
    let mut ledger = Ledger::default();
    let post = |gateway: &Gateway, selector: &Selector| {
        gateway.admin("POST", "/admin/revocations").json(&selector.item(Fate::Refused(None))).send()
    };
    for round in 0..2 {
        let before = Selector::new(Kind::Token, format!("before-{round}"));
        post(&gateway, &before).expect(200);
        ledger.acknowledged(vec![(before, Fate::Refused(None))]);
        let tracer = Tracer::attach(&gateway, &["fdatasync:error=EIO", "fsync:error=EIO"]);
        let refused: Vec<Selector> =
            (0..5).map(|number| Selector::new(Kind::Token, format!("refused-{round}-{number}"))).collect();
        for selector in &refused {
            post(&gateway, selector).expect_problem(503, "log_unavailable");
        }
        let answer = Call::new(gateway.admin_address(), "GET", "/readyz").send();
        assert_eq!(answer.status, 503);
        let reasons = answer.json()["reasons"].clone();
        assert!(reasons[0].as_str().is_some_and(|text| text.contains("revocation log")), "{reasons}");
        ledger.check_all(&gateway, &mut rng, "while nothing can be synced");
        ledger.check_requests(&gateway, &refused, "what was refused is not in force");
        assert!(tracer.detach() > 0);
        wait_for("the gateway to be ready", || ready(&gateway).then_some(()));
        let after: Vec<Selector> =
            (0..5).map(|number| Selector::new(Kind::Token, format!("after-{round}-{number}"))).collect();
        let items: Vec<_> = after.iter().map(|selector| selector.item(Fate::Refused(None))).collect();
        gateway.admin("POST", "/admin/revocations").json(&json!(items)).send().expect(200);
        ledger.acknowledged(after.into_iter().map(|selector| (selector, Fate::Refused(None))).collect());
        gateway.kill9();
        gateway.restart();
        ledger.check_all(&gateway, &mut rng, "after the start");
        ledger.check_requests(&gateway, &refused, "what was refused has not come back");
    }
}
