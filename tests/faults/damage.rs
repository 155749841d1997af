//! Files of the log that are not as they were written: the gateway starts with all that was acknowledged in force, or
//! it does not start and says where to look. Never a silent loss.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use crate::ledger::{Fate, KINDS, Kind, Ledger, Selector, setup};
use crate::mount::{files, tell};
use crate::seed::Rng;
use crate::support::gateway::command;
use crate::support::{Gateway, wait_for};

/// Kinds of files, and how many damages of each sort are tried on each.
const FILES: [&str; 3] = ["log-", "snapshot-", "gateway-id"];
const SAMPLES: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit is another one.
    Flip,
    /// A sector of zeros.
    Hole,
    /// The end is missing.
    Cut,
    Gone,
}

fn state(gateway: &Gateway) -> PathBuf {
    gateway.dir().join("state")
}

fn newest_snapshot(gateway: &Gateway) -> u64 {
    gateway.admin("GET", "/admin/stats").send().expect(200).json()["snapshot"]["sequence"].as_u64().unwrap()
}

fn revoke_some(gateway: &Gateway, ledger: &mut Ledger, rng: &mut Rng, name: &str, count: usize) {
    for number in 0..count {
        let kind = *rng.pick(&KINDS);
        let fate = Fate::refused(kind, rng);
        ledger.change(gateway, Selector::new(kind, format!("{name}-{number}")), fate);
    }
}

/// A directory with two snapshots and several segments, and a store that has seen all of it; stopped in good order.
fn stopped(rng: &mut Rng) -> (Gateway, Ledger) {
    let revocation = "[revocation]\nsnapshot_every = \"1s\"\nsnapshot_log_bytes = \"4KiB\"\n";
    let mut gateway = setup().section(revocation).start();
    let mut ledger = Ledger::default();
    for name in ["a", "b", "c"] {
        revoke_some(&gateway, &mut ledger, rng, name, 12);
        let lifted = Selector::new(Kind::Token, format!("{name}-lifted"));
        ledger.change(&gateway, lifted.clone(), Fate::Refused(None));
        ledger.change(&gateway, lifted, Fate::Accepted);
        if name != "c" {
            let before = newest_snapshot(&gateway);
            wait_for("a snapshot", || (newest_snapshot(&gateway) > before).then_some(()));
        }
        gateway.restart();
    }
    // A look at the trail waits until the store has all of it.
    ledger.check_all(&gateway, rng, "before the damage");
    gateway.sigterm();
    assert_eq!(gateway.wait().code(), Some(0));
    gateway.kill9();
    let (logs, snapshots) = (files(&state(&gateway), "log-"), files(&state(&gateway), "snapshot-"));
    assert!(logs.len() >= 2 && snapshots.len() == 2, "{logs:?} {snapshots:?}");
    (gateway, ledger)
}

/// Damages the file; says how.
fn damage(path: &Path, how: Damage, rng: &mut Rng) -> String {
    let length = usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    let at = rng.below(length);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    match how {
        Damage::Flip => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at as u64).unwrap();
            byte[0] ^= 1 << rng.below(8);
            file.write_all_at(&byte, at as u64).unwrap();
        }
        Damage::Hole => file.write_all_at(&vec![0; 512.min(length - at)], at as u64).unwrap(),
        Damage::Cut => file.set_len(at as u64).unwrap(),
        Damage::Gone => fs::remove_file(path).unwrap(),
    }
    format!("{how:?} at {at} of {length} in {}", path.file_name().unwrap().to_string_lossy())
}

fn copy_over(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    tell(Command::new("cp").arg("--archive").arg(from).arg(to));
}

#[test]
fn damage_is_made_up_for_or_keeps_the_gate_shut() {
    let mut rng = Rng::new();
    let (mut gateway, ledger) = stopped(&mut rng);
    let (state, pristine) = (state(&gateway), gateway.dir().join("pristine"));
    copy_over(&state, &pristine);
    let (mut started, mut refused) = (0, 0);
    for how in [Damage::Flip, Damage::Hole, Damage::Cut, Damage::Gone] {
        for beginning in FILES {
            for _ in 0..SAMPLES {
                copy_over(&pristine, &state);
                let path = rng.pick(&files(&state, beginning)).clone();
                let when = damage(&path, how, &mut rng);
                match gateway.try_restart() {
                    Ok(()) => {
                        started += 1;
                        ledger.check_refusals(&gateway, &when);
                        // Unless everything was shut because of a loss, nothing more is in force either.
                        if !gateway.stderr().contains("was lost") {
                            ledger.check_counts(&gateway, &when);
                        }
                        gateway.kill9();
                    }
                    Err(ended) => {
                        refused += 1;
                        assert_eq!(ended.status.code(), Some(1), "{when}: {}", ended.stderr);
                        let name = path.file_name().unwrap().to_str().unwrap();
                        let told = |words: &str| ended.stderr.contains(words);
                        let place = told(name) && told("is damaged at byte ");
                        let missing = told("are in no file") && told(state.to_str().unwrap());
                        assert!(place || missing, "{when}: does not say where: {}", ended.stderr);
                        assert!(told("look at it with: portcullis verify"), "{when}: {}", ended.stderr);
                    }
                }
            }
        }
    }
    println!(
        "{} damages: {started} made up for, {refused} kept the gate shut, 0 lost in silence",
        started + refused
    );
    assert!(started > 0 && refused > 0, "both happen");
}

#[test]
fn a_kill_during_a_snapshot_costs_nothing() {
    const ROUNDS: usize = 8;
    const ENTRIES: usize = 30_000;
    let mut rng = Rng::new();
    let revocation = "[revocation]\nsnapshot_every = \"1s\"\n";
    let mut gateway = setup().section(revocation).start();
    let mut ledger = Ledger::default();
    // Enough for a snapshot to take a while.
    let many: Vec<Selector> = (0..ENTRIES).map(|n| Selector::new(Kind::Token, format!("many-{n}"))).collect();
    let lines: Vec<String> =
        many.iter().map(|selector| selector.item(Fate::Refused(None)).to_string()).collect();
    let post = gateway.admin("POST", "/admin/revocations").body("application/x-ndjson", lines.join("\n"));
    post.send().expect(200);
    ledger.acknowledged(many.iter().map(|selector| (selector.clone(), Fate::Refused(None))).collect());
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        revoke_some(&gateway, &mut ledger, &mut rng, &format!("r{round}"), 3);
        let known = files(&state(&gateway), "snapshot-");
        // While it is written, or as soon as it has its name: what follows is reading back and letting go.
        let written = round % 2 == 1;
        wait_for_at_once("a snapshot", || {
            let new = files(&state(&gateway), "snapshot-")
                .into_iter()
                .any(|path| !known.contains(&path) && (path.extension().is_none() || !written));
            new.then_some(())
        });
        gateway.kill9();
        let left = files(&state(&gateway), "snapshot-");
        unfinished += left.iter().filter(|path| path.extension().is_some()).count();
        gateway.restart();
        let when = format!("round {round}");
        assert!(files(&state(&gateway), "snapshot-").iter().all(|path| path.extension().is_none()), "{when}");
        ledger.check_counts(&gateway, &when);
        let some: Vec<Selector> = (0..20).map(|_| rng.pick(&many).clone()).collect();
        ledger.check_requests(&gateway, &some, &when);
    }
    assert!(unfinished > 0, "no kill hit a snapshot while it was written");
    let rest: Vec<Selector> =
        ledger.selectors().into_iter().filter(|selector| !selector.value.starts_with("many-")).collect();
    ledger.check(&gateway, &rest, "in the end");
}

/// Like `wait_for`, but looks again at once: what it waits for is over soon.
fn wait_for_at_once(what: &str, mut look: impl FnMut() -> Option<()>) {
    let started = std::time::Instant::now();
    while look().is_none() {
        assert!(started.elapsed() < crate::support::wait::DEADLINE, "waited too long for {what}");
        thread::yield_now();
    }
}

/// Processes that do not outlive a test that fails.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn of_many_gateways_on_one_directory_one_starts() {
    const GATEWAYS: usize = 5;
    let mut rng = Rng::new();
    let mut gateway = setup().start();
    let mut ledger = Ledger::default();
    for round in 0..3 {
        revoke_some(&gateway, &mut ledger, &mut rng, &format!("r{round}"), 6);
        gateway.kill9();
        let start = |_| command(gateway.dir(), &["run"]).spawn().unwrap();
        let mut children = Children((0..GATEWAYS).map(start).collect());
        let children = &mut children.0;
        let running = wait_for("all but one to end", || {
            let mut running = (0..GATEWAYS).filter(|&n| children[n].try_wait().unwrap().is_none());
            let one = running.next();
            running.next().is_none().then_some(one)
        });
        let running = running.expect("one gets the directory");
        for (number, mut child) in children.drain(..).enumerate() {
            if number == running {
                child.kill().unwrap();
                child.wait().unwrap();
                continue;
            }
            let output = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{words}");
            assert!(words.contains("is locked"), "{words}");
        }
        gateway.restart();
        ledger.check_all(&gateway, &mut rng, &format!("round {round}"));
    }
}
