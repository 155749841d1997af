//! The power goes while eight clients revoke: what was acknowledged by then is on the disk. And the same with a disk
//! that lies about its syncs, where it must be seen to be lost, or this test would prove nothing.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::kill::Writer;
use crate::ledger::{Fate, KINDS, Ledger, observe, setup};
use crate::mount::Mount;
use crate::seed::Rng;
use crate::shim::Shim;
use crate::support::{Gateway, wait_for};

const WRITERS: usize = 8;
const ACKNOWLEDGED: usize = 150;
const ROUNDS: usize = 4;

/// Runs writers on this gateway, cuts the power under them, and returns what they know and how many answers they had
/// when the power went.
fn write_until_the_power_goes(
    gateway: &Gateway,
    disk: &Mount,
    shim: &Shim,
    name: &str,
    rng: &mut Rng,
) -> Ledger {
    let (answered, power_off) = (AtomicUsize::new(0), AtomicBool::new(false));
    let enough = ACKNOWLEDGED + rng.below(ACKNOWLEDGED);
    let writers: Vec<Writer<'_>> = (0..WRITERS)
        .map(|number| Writer::new(gateway, format!("{name}-w{number}"), rng).on_power(&power_off))
        .collect();
    let mut ledger = Ledger::default();
    thread::scope(|scope| {
        let answered = &answered;
        let threads: Vec<_> =
            writers.into_iter().map(|writer| scope.spawn(move || writer.run(answered))).collect();
        wait_for("enough acknowledgements", || (answered.load(Ordering::SeqCst) >= enough).then_some(()));
        // Nobody is answered any more once the power is off; here the machine goes on, and its kernel may even take
        // a sync for done whose journal entry was dropped.
        power_off.store(true, Ordering::SeqCst);
        disk.cut_power(shim);
        for thread in threads {
            ledger.join(thread.join().unwrap());
        }
    });
    ledger
}

/// Moves the gateway to what is on the disk: a copy of it, mounted, which replays the journal of the file system.
pub(crate) fn start_on_what_is_left(gateway: &mut Gateway, disk: &Mount) -> Mount {
    let copy = disk.copy();
    let (old, new) = (disk.path(), copy.path());
    let path = gateway.dir().join("gateway.toml");
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(&path, toml.replace(old.to_str().unwrap(), new.to_str().unwrap())).unwrap();
    gateway.restart();
    copy
}

/// The audit trail is not synced with each of its transactions, and may have lost the last of them: the log gives them
/// once more, and it must still have them, although a snapshot a second lets its segments go.
fn the_trail_has_every_sequence_once(gateway: &Gateway) {
    let last =
        gateway.admin("GET", "/admin/watermark").send().expect(200).json()["sequence"].as_u64().unwrap();
    let (mut seen, mut after) = (0, String::new());
    loop {
        let target = format!("/admin/revocations?order=oldest&limit=1000{after}");
        let page = gateway.admin("GET", &target).send().expect(200).json();
        for row in page["data"].as_array().unwrap() {
            seen += 1;
            assert_eq!(row["sequence"], seen, "the trail has a gap or an entry twice");
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert!(seen >= last, "the trail ends at {seen} of {last}");
}

#[test]
fn what_was_acknowledged_is_on_the_disk_when_the_power_goes() {
    let (mut rng, shim) = (Rng::new(), Shim::new());
    let mut disk = Mount::ext4();
    let mut gateway = disk
        .setup(setup())
        .section("[revocation]\nsnapshot_every = \"1s\"\nsnapshot_log_bytes = \"4KiB\"\n")
        .start();
    let mut ledger = Ledger::default();
    for round in 0..ROUNDS {
        let ended = write_until_the_power_goes(&gateway, &disk, &shim, &format!("r{round}"), &mut rng);
        ledger.join(ended);
        disk = start_on_what_is_left(&mut gateway, &disk);
        ledger.settle(&gateway);
        ledger.check_all(&gateway, &mut rng, &format!("power cut {round}"));
        the_trail_has_every_sequence_once(&gateway);
    }
    println!("{ROUNDS} power cuts, {} selectors, 0 lost, 0 resurrected", ledger.len());
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_seen_to_lose_acknowledged_revocations() {
    let (mut rng, shim) = (Rng::new(), Shim::new());
    let disk = Mount::ext4();
    let syncs = shim.path("syncs");
    let mut gateway = disk
        .setup(setup())
        .environment("LD_PRELOAD", shim.library().to_str().unwrap())
        .environment("PORTCULLIS_SHIM_NO_SYNC", syncs.to_str().unwrap())
        .start();
    // The disk has what a start needs; what follows is for the lying syncs to bring there.
    disk.sync();
    let before = fs::metadata(&syncs).unwrap().len();
    let ledger = write_until_the_power_goes(&gateway, &disk, &shim, "w", &mut rng);
    let pretended = fs::metadata(&syncs).unwrap().len() - before;
    assert!(pretended > 0, "the library was not asked for a sync, so it was not under the program");
    gateway.set_environment(&[]);
    let _copy = start_on_what_is_left(&mut gateway, &disk);
    let refused: Vec<_> =
        ledger.selectors().into_iter().filter(|selector| ledger.fate(selector) != Fate::Accepted).collect();
    let found = observe(&gateway, &refused);
    let lost: BTreeSet<_> =
        refused.iter().zip(found).filter(|(_, found)| *found == Fate::Accepted).map(|(s, _)| s).collect();
    println!(
        "{pretended} pretended syncs; {} of {} acknowledged revocations lost",
        lost.len(),
        refused.len()
    );
    assert!(!lost.is_empty(), "nothing was lost without syncs: the power cut does not cut");
    assert!(KINDS.iter().all(|kind| lost.iter().any(|selector| selector.kind == *kind)), "{lost:?}");
}
