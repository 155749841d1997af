//! `kill -9` under eight writers, a hundred times: nothing acknowledged is lost, nothing lifted comes back, and no
//! batch is there by half.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::ledger::{Changes, Fate, KINDS, Kind, Ledger, Selector, setup};
use crate::seed::Rng;
use crate::support::{Call, Connection, Gateway, wait_for};

const ROUNDS: usize = 100;
const WRITERS: usize = 8;
/// In every so manyth round the kill waits for a snapshot, so that there are some to start from.
const SNAPSHOT_ROUNDS: usize = 12;
/// Most acknowledgements that a round waits for.
const ACKNOWLEDGED: usize = 48;
/// Selectors of earlier rounds that each round looks at again, one by one; the counts speak for all.
const SAMPLE: usize = 24;
/// Selectors looked at one by one in each round, of all those above; the counts speak for all here too.
const LOOKED_AT: usize = 80;
/// And in the end.
const LOOKED_AT_LAST: usize = 2000;
/// Selectors that a writer makes up in a round; then it goes on with those.
const SELECTORS: usize = 100;
/// How long a writer waits after a refusal.
const BACK_OFF: Duration = Duration::from_millis(10);
/// Entries of a batch that needs several frames of the log (64 KiB each).
const LARGE: usize = 1200;

/// One client that revokes and lifts, selectors of its own, over a connection that stays open.
pub(crate) struct Writer<'a> {
    gateway: &'a Gateway,
    connection: Connection,
    name: String,
    number: usize,
    rng: Rng,
    ledger: Ledger,
    /// Set when the machine's power goes: what is answered after that would not have been.
    power_off: Option<&'a AtomicBool>,
}

#[test]
fn nothing_acknowledged_is_lost_or_comes_back_in_a_hundred_kills() {
    let mut rng = Rng::new();
    // The smallest log and the shortest interval, so that segments and snapshots come and go while it is killed.
    let mut gateway =
        setup().section("[revocation]\nsnapshot_every = \"1s\"\nsnapshot_log_bytes = \"4KiB\"\n").start();
    let mut ledger = Ledger::default();
    for round in 0..ROUNDS {
        let (known, snapshots) = (ledger.selectors(), snapshots(&gateway));
        let answered = AtomicUsize::new(0);
        let enough = rng.below(ACKNOWLEDGED);
        let writers: Vec<Writer<'_>> = (0..WRITERS)
            .map(|number| Writer::new(&gateway, format!("r{round}-w{number}"), &mut rng))
            .collect();
        let process = gateway.process();
        let ended: Vec<Ledger> = thread::scope(|scope| {
            let answered = &answered;
            let threads: Vec<_> =
                writers.into_iter().map(|writer| scope.spawn(move || writer.run(answered))).collect();
            wait_for("enough acknowledgements", || (answered.load(Ordering::SeqCst) >= enough).then_some(()));
            if round % SNAPSHOT_ROUNDS == SNAPSHOT_ROUNDS - 1 {
                wait_for("a snapshot", || (self::snapshots(&gateway) > snapshots).then_some(()));
            }
            crate::support::gateway::signal(process, "KILL");
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        gateway.restart();
        let when = format!("round {round}");
        let mut look = Vec::new();
        for ended in ended {
            look.extend(ended.selectors());
            ledger.join(ended);
        }
        look.extend(ledger.settle(&gateway));
        look.extend((0..SAMPLE.min(known.len())).map(|_| rng.pick(&known).clone()));
        ledger.check_counts(&gateway, &when);
        let step = look.len().div_ceil(LOOKED_AT).max(1);
        let some: Vec<Selector> = look.into_iter().skip(rng.below(step)).step_by(step).collect();
        ledger.check(&gateway, &some, &when);
        let few: Vec<Selector> = (0..8.min(some.len())).map(|_| rng.pick(&some).clone()).collect();
        ledger.check_requests(&gateway, &few, &when);
    }
    let all = ledger.selectors();
    let some: Vec<Selector> = (0..LOOKED_AT_LAST).map(|_| rng.pick(&all).clone()).collect();
    ledger.check(&gateway, &some, "at the end");
    println!("{ROUNDS} kills, {} selectors, 0 lost, 0 resurrected", ledger.len());
}

fn snapshots(gateway: &Gateway) -> u64 {
    gateway.admin("GET", "/admin/stats").send().expect(200).json()["snapshot"]["sequence"].as_u64().unwrap()
}

impl<'a> Writer<'a> {
    pub(crate) fn new(gateway: &'a Gateway, name: String, rng: &mut Rng) -> Self {
        let connection = Connection::open(gateway.admin_address());
        Self {
            gateway,
            connection,
            name,
            number: 0,
            rng: rng.fork(),
            ledger: Ledger::default(),
            power_off: None,
        }
    }

    /// Whatever is answered once this is set counts as unanswered, and is the last that is asked for.
    pub(crate) fn on_power(self, power_off: &'a AtomicBool) -> Self {
        Self { power_off: Some(power_off), ..self }
    }

    /// Until the gateway is gone, or its disk.
    pub(crate) fn run(mut self, answered: &AtomicUsize) -> Ledger {
        while self.step(answered).map(|changes| self.ledger.unanswered(changes)).is_none() {}
        self.ledger
    }

    /// Until told to stop, where the log comes and goes but the gateway stays: what it refuses has no effect.
    pub(crate) fn run_until(mut self, stop: &AtomicBool, answered: &AtomicUsize) -> Ledger {
        while !stop.load(Ordering::SeqCst) {
            if self.step(answered).is_some() {
                // As a client does that is told to try again later, or they would take all of the machine.
                thread::sleep(BACK_OFF);
            }
        }
        self.ledger
    }

    /// One request; returns what was asked for unless it was acknowledged.
    fn step(&mut self, answered: &AtomicUsize) -> Option<Changes> {
        let (call, changes) = self.next();
        let Some(answer) = call.try_send_on(&mut self.connection) else { return Some(changes) };
        if self.power_off.is_some_and(|off| off.load(Ordering::SeqCst)) {
            return Some(changes);
        }
        match (answer.status, answer.code().as_str()) {
            (200, _) => self.ledger.acknowledged(changes),
            // Four large batches may be under way at once; a fifth has no effect.
            (503, "overloaded") => {}
            (503, "log_unavailable") => return Some(changes),
            (status, code) => panic!("{status} {code} is no answer to a revocation: {}", answer.text()),
        }
        answered.fetch_add(1, Ordering::SeqCst);
        None
    }

    fn next(&mut self) -> (Call, Changes) {
        let known = self.ledger.selectors();
        let dice = self.rng.below(if known.len() < SELECTORS { 100 } else { 25 });
        match dice {
            0..25 if !known.is_empty() => {
                let selector = self.rng.pick(&known).clone();
                match self.ledger.fate(&selector) {
                    Fate::Refused(_) if !self.rng.one_in(5) => {
                        let call = self.gateway.admin("DELETE", &selector.target());
                        (call, vec![(selector, Fate::Accepted)])
                    }
                    before => {
                        let asked = Fate::refused(selector.kind, &mut self.rng);
                        let item = selector.item(asked);
                        let fate = before.raised_by(asked);
                        (self.post().json(&item), vec![(selector, fate)])
                    }
                }
            }
            25..40 => {
                let count = 2 + self.rng.below(12);
                let changes = self.fresh(count);
                let items: Vec<_> = changes.iter().map(|(selector, fate)| selector.item(*fate)).collect();
                (self.post().json(&items.into()), changes)
            }
            40..46 => {
                let count = if self.rng.one_in(30) { LARGE } else { 20 + self.rng.below(60) };
                let changes = self.fresh(count);
                let lines: Vec<String> =
                    changes.iter().map(|(selector, fate)| selector.item(*fate).to_string()).collect();
                (self.post().body("application/x-ndjson", lines.join("\n")), changes)
            }
            _ => {
                let changes = self.fresh(1);
                let (selector, fate) = &changes[0];
                (self.post().json(&selector.item(*fate)), changes)
            }
        }
    }

    fn post(&self) -> Call {
        self.gateway.admin("POST", "/admin/revocations")
    }

    /// Selectors that were never seen before, to be refused.
    fn fresh(&mut self, count: usize) -> Changes {
        let one = |_| {
            self.number += 1;
            let kind: Kind = *self.rng.pick(&KINDS);
            let fate = Fate::refused(kind, &mut self.rng);
            (Selector::new(kind, format!("{}-{}", self.name, self.number)), fate)
        };
        (0..count).map(one).collect()
    }
}
