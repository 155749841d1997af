//! The open log as the rest of the gateway uses it: groups, bulk, projections, snapshots while it runs, followers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::model::{NOON, open_sim, opening, revoke, run, settings};
use super::recovery::recover;
use super::sim::SimDisk;
use super::*;
use crate::store::{Answer, StoreError, Trail, TrailEntry, TrailFilter};

fn token(number: usize) -> Revocation {
    revoke(Kind::Token, &format!("t{number}"))
}

/// Keys of a token that only its id can revoke.
fn keys(number: usize) -> TokenKeys {
    TokenKeys {
        token: token(number).selector.key(),
        session: None,
        subject: None,
        client: None,
        other_clients: Box::default(),
        key: None,
        issuer: SelectorKey::of(&Kind::Issuer, "self", ""),
        claims: std::iter::empty().collect(),
        issued_at: NOON,
    }
}

#[test]
fn many_at_once_share_syncs_and_get_sequences_of_their_own() {
    let disk = SimDisk::default();
    run(async {
        let (handle, blocklist, _) = open_sim(&disk).unwrap();
        let before = handle.stats().fsyncs;
        let asked = (0..500).map(|number| handle.append(vec![token(number), token(number + 1000)]));
        let acks = futures_util::future::join_all(asked).await;
        let mut sequences: Vec<_> = acks.into_iter().map(|ack| ack.unwrap().sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=500).map(|number| number * 2).collect::<Vec<_>>());
        assert!(handle.stats().fsyncs - before < 500, "a sync carries more than one batch");
        assert_eq!(blocklist.counts().token, 1000);
        handle.close().await;
    });
    assert_eq!(recover(&disk.power_cut(1)).unwrap().last, 1000);
}

#[test]
fn a_batch_with_one_bad_item_has_no_effect_and_names_it() {
    let disk = SimDisk::default();
    run(async {
        let (handle, blocklist, _) = open_sim(&disk).unwrap();
        let mut bad = token(1);
        bad.issued_before = Some(NOON);
        let error = handle.append(vec![token(0), bad.clone()]).await.unwrap_err();
        assert_eq!(error.to_string(), "item 1: a token or session has no cutoff");
        let mut bulk = handle.bulk().unwrap();
        bulk.push((0..10).map(token).collect()).unwrap();
        let error = bulk.push(vec![token(11), bad]).unwrap_err();
        assert_eq!(error.to_string(), "item 11: a token or session has no cutoff");
        drop(bulk);
        assert_eq!((blocklist.counts().total(), handle.sequence()), (0, 0));
        assert!(disk.list().unwrap().iter().all(|(name, _)| !name.starts_with("batch-")));
        handle.close().await;
    });
}

#[test]
fn a_bulk_of_many_frames_is_one_batch() {
    let disk = SimDisk::default();
    let count = 8000;
    run(async {
        let (handle, blocklist, _) = open_sim(&disk).unwrap();
        handle.append(vec![token(0)]).await.unwrap();
        let mut bulk = handle.bulk().unwrap();
        for piece in (0..count).collect::<Vec<_>>().chunks(500) {
            bulk.push(piece.iter().map(|number| token(*number)).collect()).unwrap();
        }
        assert_eq!(bulk.entries(), count);
        assert_eq!(bulk.commit().await.unwrap(), Ack { sequence: count as u64 + 1, accepted: count });
        assert_eq!(blocklist.counts().token, count as u64);
    });
    // Torn anywhere, it is not there at all.
    let name = super::files::segment_name(1);
    let bytes = disk.content(&name);
    assert!(bytes.len() > 3 * super::record::FRAME_BODY_BYTES_FULL, "it takes several frames");
    for length in (200..bytes.len()).step_by(9973) {
        let disk = disk.copy();
        disk.put(&name, bytes[..length].to_vec());
        let found = recover(&disk).unwrap();
        assert!(found.last <= 1 && found.end.unwrap().torn.is_some(), "{length}");
    }
    assert_eq!(recover(&disk.copy()).unwrap().last, count as u64 + 1);
}

#[test]
fn a_large_batch_is_not_left_in_the_segment_that_every_start_copies() {
    let disk = SimDisk::default();
    let settings = settings::Settings { snapshot_log_bytes: 4 << 20, ..settings() };
    run(async {
        let (handle, _, _) = open(opening(&disk, &settings)).unwrap();
        let mut bulk = handle.bulk().unwrap();
        let mut large = token(0);
        large.reason = "x".repeat(1000).into();
        bulk.push(vec![large; 2000]).unwrap();
        bulk.commit().await.unwrap();
        handle.append(vec![token(1)]).await.unwrap();
        let (segments, bytes) = (handle.stats().segments, handle.stats().segment_bytes);
        assert!(segments == 2 && bytes > 2_000_000, "{segments} segments, {bytes} B");
        handle.close().await;
    });
    assert!(disk.content(&super::files::segment_name(2001)).len() < 1000);
    assert_eq!(recover(&disk).unwrap().last, 2001);
}

#[test]
fn more_than_one_batch_may_carry_is_sent_to_bulk() {
    run(async {
        let (handle, _, _) = open_sim(&SimDisk::default()).unwrap();
        let many = (0..20_000).map(token).collect();
        assert!(matches!(handle.append(many).await, Err(AppendError::TooLarge)));
        let bulks: Vec<_> = (0..4).map(|_| handle.bulk().unwrap()).collect();
        assert!(matches!(handle.bulk(), Err(AppendError::Overloaded)));
        drop(bulks);
        assert!(handle.bulk().is_ok());
    });
}

struct Watcher(Arc<Blocklist>, Arc<Mutex<Vec<u64>>>);

impl Projection for Watcher {
    fn applied(&mut self, sequence: u64, entries: &[Revocation]) {
        assert!(
            entries.iter().all(|entry| self.0.get(&entry.selector).is_some()),
            "the blocklist comes first"
        );
        self.1.lock().unwrap().extend(sequence..sequence + entries.len() as u64);
    }
}

#[test]
fn projections_are_told_in_order_after_the_blocklist_and_before_the_answer() {
    let disk = SimDisk::default();
    let seen = Arc::new(Mutex::new(Vec::new()));
    // The projection needs the blocklist, which there is only once the log is open: as the gateway does it.
    struct Late(Arc<Mutex<Option<Watcher>>>);
    impl Projection for Late {
        fn applied(&mut self, sequence: u64, entries: &[Revocation]) {
            self.0.lock().unwrap().as_mut().unwrap().applied(sequence, entries);
        }
    }
    let slot = Arc::new(Mutex::new(None));
    let settings = settings();
    let opening =
        Opening { projections: vec![Box::new(Late(Arc::clone(&slot)))], ..opening(&disk, &settings) };
    let (handle, blocklist, _) = open(opening).unwrap();
    *slot.lock().unwrap() = Some(Watcher(blocklist, Arc::clone(&seen)));
    run(async {
        for number in 0..20 {
            let ack = handle.append(vec![token(number), token(number + 100)]).await.unwrap();
            assert_eq!(seen.lock().unwrap().last(), Some(&ack.sequence));
        }
        let mut bulk = handle.bulk().unwrap();
        bulk.push((0..3000).map(token).collect()).unwrap();
        bulk.commit().await.unwrap();
        handle.close().await;
    });
    assert_eq!(*seen.lock().unwrap(), (1..=3040).collect::<Vec<_>>());
}

#[test]
fn whoever_got_an_answer_finds_the_entry_in_force_from_any_thread() {
    let disk = SimDisk::default();
    let (handle, blocklist, _) = open_sim(&disk).unwrap();
    let acknowledged = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let trials = 3000;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut checks = 0_u64;
                while !done.load(Ordering::Relaxed) || checks == 0 {
                    let newest = acknowledged.load(Ordering::SeqCst);
                    if newest > 0 {
                        let number = usize::try_from(newest).unwrap() - 1;
                        assert_eq!(blocklist.check(&keys(number)), Some(Hit::Token), "{number}");
                        checks += 1;
                    }
                }
            });
        }
        run(async {
            for number in 0..trials {
                let ack = handle.append(vec![token(number)]).await.unwrap();
                assert_eq!(blocklist.check(&keys(number)), Some(Hit::Token));
                acknowledged.store(ack.sequence, Ordering::SeqCst);
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    run(handle.close());
}

#[test]
fn a_snapshot_taken_while_the_log_goes_on_and_its_rest_give_the_whole() {
    let disk = SimDisk::default();
    run(async {
        let (handle, blocklist, _) = open_sim(&disk).unwrap();
        handle.append((0..3000).map(token).collect()).await.unwrap();
        let writer = async {
            for number in 0..600 {
                let mut entry = token(number * 3);
                entry.lift = number % 2 == 0;
                handle.append(vec![entry, revoke(Kind::Session, &format!("s{number}"))]).await.unwrap();
            }
        };
        let snapshots = async {
            for _ in 0..6 {
                let report = handle.snapshot().await.unwrap();
                let found = recover(&disk.power_cut(report.sequence)).unwrap();
                assert!(found.snapshot.is_some() && found.passed_over.is_empty());
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(writer, snapshots);
        handle.close().await;
        let found = recover(&disk.power_cut(9)).unwrap();
        assert_eq!(found.blocklist.counts(), blocklist.counts());
        for number in 0..3000 {
            let selector = token(number).selector;
            assert_eq!(found.blocklist.get(&selector), blocklist.get(&selector), "{number}");
        }
    });
}

#[test]
fn segments_go_when_two_snapshots_and_the_trail_have_passed_them() {
    let disk = SimDisk::default();
    let settings =
        settings::Settings { snapshot_log_bytes: 4 << 20, snapshot_every: Duration::MAX, ..settings() };
    let fill = async |handle: &Handle, from: usize| {
        for number in from..from + 1500 {
            let mut entry = token(number);
            entry.reason = "x".repeat(1000).into();
            handle.append(vec![entry]).await.unwrap();
        }
    };
    run(async {
        let (handle, _, _) = open(opening(&disk, &settings)).unwrap();
        fill(&handle, 0).await;
        handle.snapshot().await.unwrap();
        fill(&handle, 1500).await;
        let segments = handle.stats().segments;
        assert!(segments >= 3, "{segments}");
        handle.snapshot().await.unwrap();
        assert_eq!(handle.stats().segments, segments, "the trail has seen nothing yet");
        let trail: Arc<dyn Trail> = Arc::new(Memory::default());
        let projector = tokio::spawn(audit::project(handle.clone(), trail));
        handle.trail_has(3000).await;
        let report = handle.snapshot().await.unwrap();
        assert!(report.segments_removed > 0 && handle.stats().segments < segments);
        assert_eq!(handle.stats().snapshots, 2);
        handle.close().await;
        projector.await.unwrap();
    });
    let verdict = verify(&disk).unwrap();
    assert!(verdict.is_good(), "{verdict:?}");
    let found = recover(&disk.power_cut(2)).unwrap();
    assert_eq!((found.last, found.blocklist.counts().token), (3000, 3000));
}

/// A store that fails every now and then, after or before it has done its work.
#[derive(Default)]
struct Memory {
    entries: Mutex<Vec<TrailEntry>>,
    calls: AtomicU64,
}

impl Memory {
    fn refuses(&self) -> bool {
        // Not always at the same one of the three calls that each new attempt begins with.
        [2, 5].contains(&(self.calls.fetch_add(1, Ordering::SeqCst) % 7))
    }
}

fn away<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(async { Err(StoreError::Unavailable("away".into())) })
}

impl Trail for Memory {
    fn trail_position(&self) -> Answer<'_, u64> {
        if self.refuses() {
            return away();
        }
        let position = self.entries.lock().unwrap().last().map_or(0, |entry| entry.sequence);
        Box::pin(async move { Ok(position) })
    }

    fn trail_append(&self, new: Vec<TrailEntry>) -> Answer<'_, ()> {
        let refuses = self.refuses();
        if refuses && new.len().is_multiple_of(2) {
            return away();
        }
        let mut entries = self.entries.lock().unwrap();
        let position = entries.last().map_or(0, |entry| entry.sequence);
        entries.extend(new.into_iter().filter(|entry| entry.sequence > position));
        // Done, but the answer was lost on the way.
        if refuses { away() } else { Box::pin(async { Ok(()) }) }
    }

    fn trail_sync(&self) -> Answer<'_, ()> {
        if self.refuses() { away() } else { Box::pin(async { Ok(()) }) }
    }

    fn trail_list(&self, _: TrailFilter) -> Answer<'_, Vec<TrailEntry>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

#[test]
fn the_trail_has_each_entry_once_whatever_fails_and_however_often_it_is_begun_again() {
    let disk = SimDisk::default();
    let trail = Arc::new(Memory::default());
    run(async {
        let mut sequence = 0;
        for round in 0..3 {
            let (handle, _, _) = open_sim(&disk).unwrap();
            // Some before it runs, so that it must read segments; some while it does.
            for number in 0..10 {
                sequence = handle.append(vec![token(round * 100 + number)]).await.unwrap().sequence;
            }
            let first = tokio::spawn(audit::project(handle.clone(), Arc::clone(&trail) as Arc<dyn Trail>));
            tokio::task::yield_now().await;
            first.abort();
            let again = tokio::spawn(audit::project(handle.clone(), Arc::clone(&trail) as Arc<dyn Trail>));
            for number in 10..30 {
                sequence = handle.append(vec![token(round * 100 + number)]).await.unwrap().sequence;
            }
            handle.trail_has(sequence).await;
            handle.close().await;
            again.await.unwrap();
        }
        let sequences: Vec<_> = trail.entries.lock().unwrap().iter().map(|entry| entry.sequence).collect();
        assert_eq!(sequences, (1..=sequence).collect::<Vec<_>>());
    });
    let entries = trail.entries.lock().unwrap();
    assert_eq!((&*entries[31].kind, &*entries[31].value), ("token", "t101"));
    assert_eq!((&*entries[31].actor, &*entries[31].address), ("admin", "127.0.0.1"));
}

#[test]
fn a_follower_sees_every_record_once_from_memory_and_from_segments() {
    let disk = SimDisk::default();
    run(async {
        let (handle, _, _) = open_sim(&disk).unwrap();
        let mut bulk = handle.bulk().unwrap();
        bulk.push((0..40_000).map(token).collect()).unwrap();
        bulk.commit().await.unwrap();
        let mut follower = handle.follow(0);
        let mut expected = 1;
        while expected <= 40_000 {
            for record in follower.next().await.unwrap() {
                assert_eq!(record.sequence, expected);
                assert_eq!(
                    record.revocation.selector,
                    token(usize::try_from(expected).unwrap() - 1).selector
                );
                expected += 1;
            }
        }
        let waiting = tokio::spawn(async move { follower.next().await.map(|records| records.len()) });
        handle.append(vec![token(1)]).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
        let mut last = handle.follow(40_001);
        handle.close().await;
        assert!(matches!(last.next().await, Err(FollowError::Closed)));
    });
}

#[test]
fn the_log_works_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings();
    let real = || Opening {
        disk: Arc::new(RealDisk::at(dir.path().join("state")).unwrap()),
        ..opening(&SimDisk::default(), &settings)
    };
    run(async {
        let (handle, _, _) = open(real()).unwrap();
        assert!(matches!(open(real()), Err(OpenError::Locked { .. })));
        handle.append(vec![token(0)]).await.unwrap();
        handle.snapshot().await.unwrap();
        handle.append(vec![token(1)]).await.unwrap();
        handle.close().await;
        let (handle, blocklist, report) = open(real()).unwrap();
        assert_eq!((report.snapshot, report.replayed, blocklist.counts().token), (Some(1), 1, 2));
        assert_eq!(handle.gateway(), report.gateway);
        handle.close().await;
        let verdict = verify(&RealDisk::existing(dir.path().join("state")).unwrap()).unwrap();
        assert!(verdict.is_good() && !verdict.in_use);
    });
}
