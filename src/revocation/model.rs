//! The whole room against a naive model: histories with crashes and faults at every operation of the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::recovery::recover;
use super::settings::{Fsync, OnLostState, Settings};
use super::sim::{Fault, Random, SimDisk};
use super::*;
use crate::clock::{Clock, ManualClock, UnixTime};

pub(super) const NOON: UnixTime = UnixTime::from_secs(1_795_000_000);

pub(super) fn settings() -> Settings {
    Settings {
        state_dir: "sim".into(),
        fsync: Fsync::Always,
        snapshot_every: Duration::from_secs(3600),
        snapshot_log_bytes: u64::MAX,
        claims: Vec::new(),
        on_lost_state: OnLostState::Cutoff,
        cut_live_connections: true,
        token_cache: 0,
    }
}

pub(super) fn opening<'a>(disk: &SimDisk, settings: &'a Settings) -> Opening<'a> {
    Opening {
        settings,
        disk: Arc::new(disk.clone()),
        clock: Arc::new(ManualClock::at(NOON)) as Arc<dyn Clock>,
        projections: Vec::new(),
        on_fsync: Box::new(|_| {}),
        leeway_max: Duration::ZERO,
        seen: 0,
        known: false,
        gateway: None,
        issuers: vec![IssuerTerm { name: "self".into(), lifetime_max: Duration::from_secs(60) }],
    }
}

pub(super) fn open_sim(disk: &SimDisk) -> Result<(Handle, Arc<Blocklist>, Report), OpenError> {
    open(opening(disk, &settings()))
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

pub(super) fn revoke(kind: Kind, value: &str) -> Revocation {
    let issued_before = (!kind.is_absolute()).then_some(NOON);
    Revocation {
        selector: Selector::new(kind, "self", value),
        lift: false,
        issued_before,
        expires_at: NOON.plus(Duration::from_secs(900)),
        reason: "".into(),
        actor: "admin".into(),
        address: "127.0.0.1".into(),
        at: NOON,
    }
}

/// What the blocklist must be, without any of its cleverness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model(HashMap<Selector, (u64, u64)>);

impl Model {
    pub(super) fn apply(&mut self, batch: &[Revocation]) {
        for revocation in batch {
            if revocation.lift {
                self.0.remove(&revocation.selector);
            } else {
                let entry = self.0.entry(revocation.selector.clone()).or_default();
                entry.0 = entry.0.max(revocation.issued_before.map_or(0, UnixTime::millis));
                entry.1 = entry.1.max(revocation.expires_at.secs_ceil());
            }
        }
    }

    pub(super) fn of(batches: &[Vec<Revocation>]) -> Self {
        let mut model = Self::default();
        batches.iter().for_each(|batch| model.apply(batch));
        model
    }

    pub(super) fn fits(&self, blocklist: &Blocklist) -> bool {
        blocklist.counts().total() == self.0.len() as u64
            && self.0.iter().all(|(selector, (cutoff, expiry))| {
                blocklist.get(selector).is_some_and(|found| {
                    found.issued_before.map_or(0, UnixTime::millis) == *cutoff
                        && found.expires_at.secs() == *expiry
                })
            })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Revocation>),
    Bulk(Vec<Revocation>),
    Snapshot,
    Reopen,
}

fn history(random: &mut Random, steps: usize) -> Vec<Step> {
    let kinds = [Kind::Token, Kind::Session, Kind::Subject, Kind::Issuer, Kind::Claim("tenant".into())];
    let batch = |random: &mut Random, most: usize| -> Vec<Revocation> {
        let count = 1 + random.below(most);
        let one = |random: &mut Random| {
            let kind = kinds[random.below(kinds.len())].clone();
            let value = if kind == Kind::Issuer { String::new() } else { format!("v{}", random.below(6)) };
            let mut entry = revoke(kind, &value);
            entry.lift = random.below(5) == 0;
            entry.issued_before =
                entry.issued_before.map(|at| at.plus(Duration::from_millis(random.next() % 9999)));
            entry.expires_at = NOON.plus(Duration::from_secs(random.next() % 9999));
            entry.reason = "x".repeat(random.below(300)).into();
            entry
        };
        (0..count).map(|_| one(random)).collect()
    };
    let step = |random: &mut Random| match random.below(10) {
        0 => Step::Bulk(batch(random, 40)),
        1 | 2 => Step::Snapshot,
        3 => Step::Reopen,
        _ => Step::Append(batch(random, 4)),
    };
    (0..steps).map(|_| step(random)).collect()
}

/// What came of a history: batches by acknowledgement, in order.
#[derive(Debug, Default)]
struct Outcome {
    acked: Vec<Vec<Revocation>>,
    /// Refused since the last acknowledged one.
    refused: Vec<Vec<Revocation>>,
}

impl Outcome {
    fn note(&mut self, batch: &[Revocation], done: Result<Ack, AppendError>) {
        match done {
            Ok(ack) => {
                assert_eq!(ack.accepted, batch.len());
                self.acked.push(batch.to_vec());
                self.refused.clear();
            }
            Err(AppendError::LogUnavailable) => self.refused.push(batch.to_vec()),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// All that was acknowledged, and at most one batch that was refused after it, whole.
    fn allows(&self, blocklist: &Blocklist) -> bool {
        let base = Model::of(&self.acked);
        base.fits(blocklist)
            || self.refused.iter().any(|batch| {
                let mut with = base.clone();
                with.apply(batch);
                with.fits(blocklist)
            })
    }
}

/// Plays a history; ends early when the disk has stopped for good.
fn play(disk: &SimDisk, steps: &[Step], patient: bool) -> Outcome {
    run(async {
        let mut outcome = Outcome::default();
        let Ok((mut handle, mut blocklist, _)) = open_sim(disk) else { return outcome };
        for step in steps {
            match step {
                Step::Append(batch) => outcome.note(batch, handle.append(batch.clone()).await),
                Step::Bulk(batch) => {
                    let pushed = handle.bulk().and_then(|mut bulk| bulk.push(batch.clone()).map(|()| bulk));
                    let done = match pushed {
                        Ok(bulk) => bulk.commit().await,
                        Err(error) => Err(error),
                    };
                    outcome.note(batch, done);
                }
                Step::Snapshot => drop(handle.snapshot().await),
                Step::Reopen => {
                    handle.close().await;
                    drop(handle);
                    match open_sim(disk) {
                        Ok((again, list, _)) => (handle, blocklist) = (again, list),
                        Err(OpenError::Io { .. }) if patient => {
                            // The fault hit the start, which may be tried again.
                            let (again, list, _) = open_sim(disk).unwrap();
                            (handle, blocklist) = (again, list);
                        }
                        Err(_) => return outcome,
                    }
                    assert!(outcome.allows(&blocklist), "after a clean restart");
                    if !Model::of(&outcome.acked).fits(&blocklist)
                        && let Some(back) = outcome.refused.pop()
                    {
                        outcome.acked.push(back);
                    }
                    outcome.refused.clear();
                }
            }
            if patient {
                while handle.health() != Health::Ready {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            assert!(Model::of(&outcome.acked).fits(&blocklist), "in force is exactly what was acknowledged");
        }
        handle.close().await;
        outcome
    })
}

/// Opens what is left, compares, appends, closes, and opens once more.
fn check_after(disk: &SimDisk, outcome: &Outcome, what: &str) {
    run(async {
        let (handle, blocklist, _) = open_sim(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(outcome.allows(&blocklist), "{what}: {outcome:?} {blocklist:?}");
        let more = revoke(Kind::Token, "after");
        handle.append(vec![more.clone()]).await.unwrap();
        let later = disk.power_cut(what.len() as u64);
        handle.close().await;
        for disk in [disk.clone(), later] {
            let found = recover(&disk).unwrap_or_else(|error| panic!("{what}, then: {error}"));
            assert!(found.blocklist.get(&more.selector).is_some(), "{what}");
        }
    });
}

#[test]
fn whatever_operation_the_power_fails_before_nothing_acknowledged_is_lost() {
    for seed in [11, 12, 13] {
        let steps = history(&mut Random(seed), 10);
        let whole = SimDisk::default();
        play(&whole, &steps, false);
        for at in 0..whole.operations() {
            for fault in [Fault::Stop, Fault::Tear] {
                let disk = SimDisk::default();
                disk.fail_at(at, fault);
                let outcome = play(&disk, &steps, false);
                let what = format!("seed {seed}, {fault:?} at {at}");
                check_after(&disk.power_cut(at as u64 * 7 + seed), &outcome, &what);
                check_after(&disk.killed(), &outcome, &format!("{what}, killed"));
            }
        }
    }
}

#[test]
fn whatever_operation_fails_the_log_recovers_and_nothing_refused_comes_back() {
    for seed in [21, 22, 23] {
        let steps = history(&mut Random(seed), 10);
        let whole = SimDisk::default();
        play(&whole, &steps, false);
        for at in 0..whole.operations() {
            for fault in [Fault::NoSpace, Fault::Broken] {
                let disk = SimDisk::default();
                disk.fail_at(at, fault);
                let outcome = play(&disk, &steps, true);
                let what = format!("seed {seed}, {fault:?} at {at}");
                check_after(&disk.power_cut(at as u64), &outcome, &what);
                check_after(&disk.killed().power_cut(at as u64), &outcome, &what);
            }
        }
    }
}

#[test]
fn failures_in_a_row_refuse_whole_batches_and_nothing_acknowledged_is_lost() {
    let steps = history(&mut Random(31), 8);
    let whole = SimDisk::default();
    play(&whole, &steps, false);
    for at in 0..whole.operations() {
        let disk = SimDisk::default();
        (at..at + 4).for_each(|at| disk.fail_at(at, Fault::Broken));
        let outcome = run(async {
            // A start may be refused by a failing disk; then there is nothing to look at.
            let Ok((handle, blocklist, _)) = open_sim(&disk) else { return Outcome::default() };
            let mut outcome = Outcome::default();
            for step in &steps {
                if let Step::Append(batch) = step {
                    outcome.note(batch, handle.append(batch.clone()).await);
                }
                while handle.health() != Health::Ready {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let last = vec![revoke(Kind::Token, "last")];
            outcome.note(&last, handle.append(last.clone()).await);
            assert!(Model::of(&outcome.acked).fits(&blocklist));
            handle.close().await;
            outcome
        });
        check_after(&disk.power_cut(at as u64), &outcome, &format!("failures from {at}"));
    }
}

#[test]
fn a_power_cut_is_noticed_when_syncs_are_lies() {
    let steps = history(&mut Random(41), 12);
    let lost = (0..20).filter(|seed| {
        let disk = SimDisk::default();
        disk.set_lying();
        let outcome = play(&disk, &steps, false);
        match recover(&disk.power_cut(*seed)) {
            Ok(found) => !outcome.allows(&found.blocklist),
            Err(_) => true,
        }
    });
    assert!(lost.count() > 0, "the power-cut test does not bite");
}

/// A log of some batches on a disk, killed right after the last acknowledgement or closed cleanly.
fn some_log(close: bool) -> (SimDisk, Vec<Vec<Revocation>>) {
    let disk = SimDisk::default();
    let mut random = Random(51);
    let steps: Vec<_> = history(&mut random, 40);
    let batches: Vec<Vec<Revocation>> = steps
        .into_iter()
        .filter_map(|step| match step {
            Step::Append(mut batch) => {
                batch.iter_mut().for_each(|entry| entry.reason = "why".into());
                Some(batch)
            }
            _ => None,
        })
        .take(9)
        .collect();
    let killed = run(async {
        let (handle, _, _) = open_sim(&disk).unwrap();
        for batch in &batches {
            handle.append(batch.clone()).await.unwrap();
        }
        let killed = disk.copy();
        handle.close().await;
        killed
    });
    (if close { disk.copy() } else { killed.killed() }, batches)
}

/// Every byte of a segment that records take, some behind them, and few of the room that follows.
fn places(disk: &SimDisk, name: &str) -> impl Iterator<Item = usize> + use<> {
    let scan = super::replay::scan(disk, name, 1, None).unwrap();
    let (records, all) = (usize::try_from(scan.length).unwrap(), disk.content(name).len());
    (0..all).filter(move |at| *at < records + 100 || at % 997 == 0)
}

fn is_prefix(blocklist: &Blocklist, batches: &[Vec<Revocation>]) -> bool {
    (0..=batches.len()).any(|count| Model::of(&batches[..count]).fits(blocklist))
}

#[test]
fn zeros_behind_the_records_are_room_and_no_torn_end() {
    let name = super::files::segment_name(1);
    let (killed, batches) = some_log(false);
    let (closed, _) = some_log(true);
    let scan = |disk: &SimDisk| super::replay::scan(disk, &name, 1, None).unwrap();
    let records: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
    let (found, length) = (scan(&killed), killed.content(&name).len() as u64);
    assert!(found.torn.is_none() && found.last == records && found.length == found.end);
    assert!(length >= found.end + 1000, "{length} B, of which {} are records", found.end);
    assert_eq!(scan(&closed).length, closed.content(&name).len() as u64, "closed, it has none");
    // One byte that is neither zero nor a frame is a torn end, and tells how long that is.
    let mut bytes = killed.content(&name);
    bytes[usize::try_from(found.end).unwrap() + 500] = 1;
    killed.put(&name, bytes);
    let torn = scan(&killed);
    assert_eq!((torn.torn.map(|torn| torn.0), torn.length), (Some(found.end), found.end + 501));
    assert_eq!(torn.last, records);
}

#[test]
fn a_log_cut_at_any_byte_gives_a_prefix_of_whole_batches() {
    let name = super::files::segment_name(1);
    for close in [false, true] {
        let (disk, batches) = some_log(close);
        let bytes = disk.content(&name);
        let mut longest = 0;
        for length in places(&disk, &name).chain([bytes.len()]) {
            let disk = disk.copy();
            disk.put(&name, bytes[..length].to_vec());
            match recover(&disk) {
                Ok(found) => {
                    assert!(is_prefix(&found.blocklist, &batches), "{length}");
                    assert!(found.last >= longest, "a longer log has no fewer records");
                    longest = found.last;
                }
                Err(error) => assert!(length < 64, "{length}: {error}"),
            }
        }
        assert_eq!(longest, batches.iter().map(|batch| batch.len() as u64).sum::<u64>());
    }
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_or_the_torn_end_but_never_a_wrong_entry() {
    let name = super::files::segment_name(1);
    for close in [false, true] {
        let (disk, batches) = some_log(close);
        let bytes = disk.content(&name);
        let mut random = Random(61);
        let mut cut = 0;
        for at in places(&disk, &name) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << random.below(8);
            let disk = disk.copy();
            disk.put(&name, bytes);
            if let Ok(found) = recover(&disk) {
                assert!(is_prefix(&found.blocklist, &batches), "{at}");
                let whole = Model::of(&batches).fits(&found.blocklist);
                assert!(
                    whole || !close,
                    "after a clean end, damage to a record is never taken for a torn end: {at}"
                );
                cut += usize::from(!whole);
            }
        }
        assert!(close || cut > 0);
    }
}

#[test]
fn damage_names_the_file_the_place_and_the_command() {
    let (disk, _) = some_log(true);
    let name = super::files::segment_name(1);
    let mut bytes = disk.content(&name);
    bytes[64 + 50] ^= 1;
    disk.put(&name, bytes);
    let error = open_sim(&disk).err().unwrap().to_string();
    assert_eq!(
        error,
        format!(
            "sim/{name} is damaged at byte 64: the checksum of a record does not fit; look at it with: portcullis verify"
        )
    );
}

#[test]
fn a_damaged_snapshot_is_passed_over_when_the_one_before_and_its_log_are_whole() {
    let disk = SimDisk::default();
    let mut random = Random(71);
    let outcome = run(async {
        let mut outcome = Outcome::default();
        let (handle, _, _) = open_sim(&disk).unwrap();
        for round in 0..3 {
            for step in history(&mut random, 12) {
                if let Step::Append(batch) | Step::Bulk(batch) = step {
                    outcome.note(&batch, handle.append(batch.clone()).await);
                }
            }
            if round < 2 {
                handle.snapshot().await.unwrap();
            }
        }
        handle.close().await;
        outcome
    });
    let newest = recover(&disk).unwrap().snapshots[1];
    let name = super::files::snapshot_name(newest);
    let bytes = disk.content(&name);
    for at in (0..bytes.len()).step_by(7) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << random.below(8);
        let disk = disk.copy();
        disk.put(&name, bytes);
        match recover(&disk) {
            Ok(found) => {
                assert!(Model::of(&outcome.acked).fits(&found.blocklist), "{at}");
                assert!(found.snapshot.is_some_and(|summary| summary.position < newest), "{at}");
                assert_eq!(found.passed_over.len(), 1, "{at}");
            }
            Err(error) => panic!("{at}: {error}"),
        }
    }
    for length in (0..bytes.len()).step_by(11) {
        disk.put(&name, bytes[..length].to_vec());
        assert!(Model::of(&outcome.acked).fits(&recover(&disk).unwrap().blocklist), "{length}");
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_keeps_what_is_in_force_and_recovers_by_itself() {
    let disk = SimDisk::default();
    run(async {
        let (handle, blocklist, _) = open_sim(&disk).unwrap();
        let (old, new) = (revoke(Kind::Token, "old"), revoke(Kind::Token, "new"));
        handle.append(vec![old.clone()]).await.unwrap();
        disk.set_full(true);
        for _ in 0..3 {
            assert!(matches!(handle.append(vec![new.clone()]).await, Err(AppendError::LogUnavailable)));
        }
        assert!(matches!(handle.health(), Health::LogUnavailable { .. }));
        assert!(blocklist.get(&old.selector).is_some() && blocklist.get(&new.selector).is_none());
        assert!(handle.snapshot().await.is_err());
        disk.set_full(false);
        while handle.health() != Health::Ready {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ack = handle.append(vec![new.clone()]).await.unwrap();
        assert_eq!(ack, Ack { sequence: 2, accepted: 1 });
        handle.close().await;
    });
    let found = recover(&disk.power_cut(5)).unwrap();
    assert_eq!((found.last, found.blocklist.counts().token), (2, 2));
}

#[test]
fn with_an_interval_what_was_acknowledged_survives_a_failed_sync() {
    let disk = SimDisk::default();
    let settings = Settings { fsync: Fsync::Every(Duration::from_millis(1)), ..settings() };
    run(async {
        let (handle, _, _) = open(opening(&disk, &settings)).unwrap();
        let start = disk.operations();
        (start..start + 60).step_by(4).for_each(|at| disk.fail_at(at, Fault::Broken));
        let mut acked = 0;
        while acked < 20 {
            match handle.append(vec![revoke(Kind::Token, &format!("t{acked}"))]).await {
                Ok(_) => acked += 1,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        while handle.stats().durable < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(recover(&disk.power_cut(3)).unwrap().blocklist.counts().token, 20);
        handle.close().await;
    });
}

#[test]
fn a_lost_log_shuts_the_gate_for_what_was_issued_before() {
    let check = |on_lost_state, disk: &SimDisk, seen| {
        let settings = Settings { on_lost_state, ..settings() };
        open(Opening { seen, ..opening(disk, &settings) })
    };
    let issuer = Selector::new(Kind::Issuer, "self", "");
    let before = NOON.minus(Duration::from_secs(1));

    let disk = SimDisk::default();
    let (handle, blocklist, report) = check(OnLostState::Cutoff, &disk, 7).unwrap();
    assert_eq!(report.lost, Some(OnLostState::Cutoff));
    assert!(blocklist.refuses_selector(&issuer, before) && blocklist.refuses_selector(&issuer, NOON));
    assert!(!blocklist.refuses_selector(&issuer, NOON.plus(Duration::from_secs(1))));
    run(async {
        let ack = handle.append(vec![revoke(Kind::Token, "t")]).await.unwrap();
        assert!(ack.sequence > 1 << 20, "no sequence is given out twice");
        handle.close().await;
    });
    drop((handle, blocklist));
    let (handle, blocklist, report) = check(OnLostState::Refuse, &disk.power_cut(1), 7).unwrap();
    assert_eq!((report.lost, blocklist.counts().total()), (None, 2));
    drop(handle);

    assert!(matches!(check(OnLostState::Refuse, &SimDisk::default(), 7), Err(OpenError::LostState { .. })));
    let (_handle, blocklist, report) = check(OnLostState::Empty, &SimDisk::default(), 7).unwrap();
    assert_eq!((report.lost, blocklist.counts().total()), (Some(OnLostState::Empty), 0));
}

#[test]
fn an_old_copy_of_the_log_is_a_lost_one_and_keeps_what_it_has() {
    let (disk, batches) = some_log(true);
    let settings = settings();
    for _ in 0..2 {
        let (handle, blocklist, report) = open(Opening { seen: 5000, ..opening(&disk, &settings) }).unwrap();
        run(handle.close());
        let mut model = Model::of(&batches);
        let mut cutoff = revoke(Kind::Issuer, "");
        cutoff.issued_before = cutoff_now(&Kind::Issuer, false, NOON);
        cutoff.expires_at = NOON.plus(Duration::from_secs(60));
        model.apply(&[cutoff]);
        assert!(model.fits(&blocklist), "{report:?}");
        let verdict = verify(&disk).unwrap();
        assert!(verdict.is_good(), "{verdict:?}");
    }
}

#[test]
fn an_emptied_directory_that_kept_its_id_counts_as_lost() {
    let (disk, _) = some_log(true);
    disk.remove(&super::files::segment_name(1)).unwrap();
    let found: Vec<_> = disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
    for name in found.iter().filter(|name| name.starts_with("log-")) {
        disk.remove(name).unwrap();
    }
    let (_handle, _, report) = open_sim(&disk).unwrap();
    assert_eq!(report.lost, Some(OnLostState::Cutoff));
}

#[test]
fn a_second_gateway_is_refused_until_the_first_has_closed() {
    let disk = SimDisk::default();
    let (handle, _, _) = open_sim(&disk).unwrap();
    assert!(matches!(open_sim(&disk), Err(OpenError::Locked { .. })));
    run(handle.close());
    assert_eq!(handle.health(), Health::Closed);
    assert!(run(handle.append(vec![revoke(Kind::Token, "t")])).is_err());
    assert!(open_sim(&disk).is_ok());
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let (disk, _) = some_log(true);
    let name = super::files::segment_name(1);
    let mut bytes = disk.content(&name);
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, bytes.clone());
    assert!(matches!(open_sim(&disk), Err(OpenError::Newer { version: 2, known: 1, .. })));
    assert_eq!(disk.content(&name), bytes);
}

#[test]
fn a_missing_segment_is_named() {
    let disk = SimDisk::default();
    let settings = Settings { snapshot_log_bytes: 4 << 20, ..settings() };
    run(async {
        let (handle, _, _) = open(opening(&disk, &settings)).unwrap();
        for number in 0..3000 {
            let mut entry = revoke(Kind::Token, &format!("{number}"));
            entry.reason = "x".repeat(1000).into();
            handle.append(vec![entry]).await.unwrap();
        }
        handle.close().await;
    });
    let segments: Vec<_> = recover(&disk).unwrap().segments.into_keys().collect();
    assert!(segments.len() >= 3, "{segments:?}");
    let without = |index: usize| {
        let disk = disk.copy();
        disk.remove(&super::files::segment_name(segments[index])).unwrap();
        recover(&disk).err()
    };
    assert!(matches!(without(0), Some(OpenError::Missing { from: 1, .. })));
    assert!(matches!(without(1), Some(OpenError::Missing { behind: Some(_), .. })));
    assert!(
        !verify(&{
            disk.remove(&super::files::segment_name(segments[1])).unwrap();
            disk
        })
        .unwrap()
        .is_good()
    );
}

#[test]
fn a_group_of_which_only_later_pages_reached_the_disk_is_torn_and_not_damage() {
    let many = |from: usize| -> Vec<Revocation> {
        let one = |number: usize| {
            let mut entry = revoke(Kind::Token, &number.to_string());
            entry.reason = "x".repeat(900).into();
            entry
        };
        (from..from + 300).map(one).collect()
    };
    let whole = SimDisk::default();
    let outcome = run(async {
        let (handle, _, _) = open_sim(&whole).unwrap();
        let mut outcome = Outcome::default();
        outcome.note(&many(0), handle.append(many(0)).await);
        // The next sync stops the machine: its group is written, and not durable.
        whole.fail_at(whole.operations() + 1, Fault::Stop);
        outcome.note(&many(300), handle.append(many(300)).await);
        handle.close().await;
        outcome
    });
    assert_eq!((outcome.acked.len(), outcome.refused.len()), (1, 1));
    let torn = (0..200).filter(|seed| {
        let found = recover(&whole.power_cut(*seed)).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let count = found.blocklist.counts().token;
        assert!(count == 300 || count == 600, "{seed}: a batch is whole or not there");
        found.end.unwrap().torn.is_some()
    });
    assert!(torn.count() > 100);
}

#[test]
fn what_was_refused_does_not_come_back_with_the_next_start() {
    let disk = SimDisk::default();
    run(async {
        let (handle, _, _) = open_sim(&disk).unwrap();
        handle.append(vec![revoke(Kind::Token, "kept")]).await.unwrap();
        // The write works; its sync, and the making of another segment, do not.
        let next = disk.operations();
        disk.fail_at(next + 1, Fault::Broken);
        disk.fail_at(next + 2, Fault::NoSpace);
        let refused = handle.append(vec![revoke(Kind::Token, "refused")]).await;
        assert!(matches!(refused, Err(AppendError::LogUnavailable)));
        let found = recover(&disk.killed()).unwrap();
        assert_eq!((found.last, found.blocklist.counts().token), (1, 1));
        handle.close().await;
    });
}
