//! A disk for crash tests: it forgets what was not synced, fails, tears, and stops before any operation.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, File};

/// What goes wrong at one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power goes before it; nothing works any more.
    Stop,
    /// A write puts half of its bytes, then the power goes.
    Tear,
    /// Fails without effect (no space); a write puts half of its bytes.
    NoSpace,
    /// Fails; a failed sync loses what was not durable while reads still show it.
    Broken,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What reads show.
    seen: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// From here to there, bytes that a failed sync has lost: no later sync brings them to the platter.
    lost: Option<(usize, usize)>,
}

impl Inode {
    /// The first byte that the platter has otherwise or not at all, and the end of these.
    fn not_durable(&self) -> (usize, usize) {
        let same = |at: &usize| self.durable.get(*at) == self.seen.get(*at);
        let from = (0..self.seen.len()).find(|at| !same(at)).unwrap_or(self.seen.len());
        let to = (from..self.seen.len()).rev().find(|at| !same(at)).map_or(from, |last| last + 1);
        (from, to)
    }

    /// What the platter has there: zeros where it has nothing.
    fn on_platter(&self, from: usize, to: usize) -> Vec<u8> {
        (from..to).map(|at| self.durable.get(at).copied().unwrap_or(0)).collect()
    }
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, usize),
    Gone(String),
    Moved(String, String, usize),
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    operations: usize,
    faults: Vec<(usize, Fault)>,
    /// From this operation on everything that writes fails, until it is lifted.
    full: bool,
    stopped: bool,
    /// Makes every sync a lie: the negative control.
    lying: bool,
    locked: bool,
}

/// The simulated disk; clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// How many operations that change something were asked for.
    pub(super) fn operations(&self) -> usize {
        self.state().operations
    }

    /// The operation with this number (from 0) goes wrong.
    pub(super) fn fail_at(&self, operation: usize, fault: Fault) {
        self.state().faults.push((operation, fault));
    }

    /// Every write and sync fails for want of space from now on, or works again.
    pub(super) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Syncs succeed and do nothing.
    pub(super) fn set_lying(&self) {
        self.state().lying = true;
    }

    /// The content of a file as reads show it.
    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[name]].seen.clone()
    }

    /// Puts a file there, durable.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let inode = state.inodes.len();
        state.inodes.push(Inode { seen: bytes.clone(), durable: bytes, lost: None });
        state.names.insert(name.to_owned(), inode);
        state.durable_names.insert(name.to_owned(), inode);
    }

    /// The same content, nothing shared, all of it durable.
    pub(super) fn copy(&self) -> Self {
        let mut state = self.state().clone();
        for inode in &mut state.inodes {
            inode.durable = inode.seen.clone();
            inode.lost = None;
        }
        state.durable_names = state.names.clone();
        Self::fresh(state)
    }

    /// The process dies, the machine does not: everything written is there, nothing more is durable.
    pub(super) fn killed(&self) -> Self {
        Self::fresh(self.state().clone())
    }

    /// The power goes: of what was not durable, `seed` decides what is there when it comes back.
    pub(super) fn power_cut(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut state = self.state().clone();
        for inode in &mut state.inodes {
            // Pages reach the platter in any order: some sectors of the rest, the others as they were, zero or missing;
            // many of them or few.
            let one_lost_in = 4 << random.below(9);
            let kept = inode.durable.len();
            let keep = random.below(inode.seen.len().saturating_sub(kept) + 1) + kept.min(inode.seen.len());
            let (mut at, _) = inode.not_durable();
            let mut after = inode.on_platter(0, at);
            while at < keep {
                let end = keep.min(at + 512 - at % 512);
                let lost = inode.lost.is_some_and(|(from, to)| at < to && end > from);
                if !lost && random.below(one_lost_in) != 0 {
                    after.extend_from_slice(&inode.seen[at..end]);
                } else {
                    after.extend(inode.on_platter(at, end));
                }
                at = end;
            }
            *inode = Inode { seen: after.clone(), durable: after, lost: None };
        }
        // The journal of names is in order: some first part of it is there.
        let kept = random.below(state.changes.len() + 1);
        let changes: Vec<Change> = state.changes.drain(..kept).collect();
        changes.iter().for_each(|change| apply(&mut state.durable_names, change));
        state.names = state.durable_names.clone();
        Self::fresh(state)
    }

    fn fresh(mut state: State) -> Self {
        state.operations = 0;
        state.faults.clear();
        state.full = false;
        state.stopped = false;
        state.locked = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// Counts the operation and says what goes wrong with it.
    fn operation(&self) -> Result<Option<Fault>, io::Error> {
        let mut state = self.state();
        if state.stopped {
            return Err(io::Error::other("the power is out"));
        }
        let number = state.operations;
        state.operations += 1;
        let fault = state.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
        match fault {
            Some(Fault::Stop) => {
                state.stopped = true;
                Err(io::Error::other("the power is out"))
            }
            Some(Fault::Tear) => {
                state.stopped = true;
                Ok(fault)
            }
            None if state.full => Ok(Some(Fault::NoSpace)),
            _ => Ok(fault),
        }
    }

    /// An operation on names: any fault means no effect.
    fn on_names(&self, act: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        match self.operation()? {
            None => act(&mut self.state()),
            Some(fault) => Err(error_of(fault)),
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Change::Gone(name) => {
            names.remove(name);
        }
        Change::Moved(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::NoSpace => io::ErrorKind::StorageFull.into(),
        Fault::Broken => io::Error::other("input/output error"),
        Fault::Stop | Fault::Tear => io::Error::other("the power is out"),
    }
}

impl Disk for SimDisk {
    fn place(&self) -> &Path {
        Path::new("sim")
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        Ok(state.names.iter().map(|(name, &i)| (name.clone(), state.inodes[i].seen.len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.on_names(|state| {
            let inode = state.inodes.len();
            state.inodes.push(Inode::default());
            let change = Change::Set(name.to_owned(), inode);
            apply(&mut state.names, &change);
            state.changes.push(change);
            Ok(())
        })?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inode = *self.state().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let end = self.state().inodes[inode].seen.len();
        Ok(Box::new(SimFile { disk: self.clone(), inode, end }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.on_names(|state| {
            let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            let change = Change::Moved(from.to_owned(), to.to_owned(), inode);
            apply(&mut state.names, &change);
            state.changes.push(change);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.on_names(|state| {
            if !state.names.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let change = Change::Gone(name.to_owned());
            apply(&mut state.names, &change);
            state.changes.push(change);
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.on_names(|state| {
            if !state.lying {
                state.durable_names = state.names.clone();
                state.changes.clear();
            }
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut state = self.state();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(Box::new(Unlock(self.clone()))))
    }

    fn exposed(&self) -> io::Result<Vec<(PathBuf, u32)>> {
        Ok(Vec::new())
    }
}

struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    /// Room lies behind it.
    end: usize,
}

impl SimFile {
    fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let fault = self.disk.operation()?;
        let written = match fault {
            None => bytes,
            Some(Fault::Broken) => &[],
            Some(_) => &bytes[..bytes.len() / 2],
        };
        let mut state = self.disk.state();
        let seen = &mut state.inodes[self.inode].seen;
        let over = written.len().min(seen.len() - at);
        seen[at..at + over].copy_from_slice(&written[..over]);
        seen.extend_from_slice(&written[over..]);
        fault.map_or(Ok(()), |fault| Err(error_of(fault)))
    }
}

impl File for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(self.end, bytes)?;
        self.end += bytes.len();
        Ok(())
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        self.write(self.end, &vec![0; bytes])
    }

    fn sync(&mut self) -> io::Result<()> {
        let fault = self.disk.operation()?;
        let mut state = self.disk.state();
        let lying = state.lying;
        let inode = &mut state.inodes[self.inode];
        if let Some(fault) = fault {
            if fault == Fault::Broken {
                inode.lost = Some(inode.not_durable());
            }
            return Err(error_of(fault));
        }
        if !lying {
            let mut durable = inode.seen.clone();
            if let Some((from, to)) = inode.lost {
                let (from, to) = (from.min(durable.len()), to.min(durable.len()));
                durable[from..to].copy_from_slice(&inode.on_platter(from, to));
            }
            inode.durable = durable;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].seen;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].seen.len() as u64)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if let Some(fault) = self.disk.operation()? {
            return Err(error_of(fault));
        }
        let mut state = self.disk.state();
        let inode = &mut state.inodes[self.inode];
        inode.seen.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        // A cut takes effect on the platter when it is synced; until then either may be found.
        let both = inode.durable.len().min(inode.seen.len());
        inode.durable.truncate(both);
        self.end = inode.seen.len();
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to choose what survives.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }
}
