//! The threads that carry clients' connections.
//!
//! Each has a reactor, timers and a queue of its own, and a connection stays where it began: what happens on it wakes
//! one thread, and the requests of it go out on connections of the same thread. Nothing is stolen from a busy thread
//! by an idle one; new connections go where the fewest are.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::{oneshot, watch};

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
    /// What is to be dropped [`later`].
    static LEFT: RefCell<Left> = const { RefCell::new(Left { pieces: Vec::new(), came: 0 }) };
}

/// When that is: when not many came for so long, or after so many times as long.
const LATER: Duration = Duration::from_millis(50);
const LATER_MAX: usize = 20;
/// A thread that tells clients of their end tells thousands meanwhile.
const MANY: usize = 256;
/// So many are dropped between two looks at what else there is to do.
const AT_A_TIME: usize = 16;

/// Things to be dropped, in pieces: a list of thousands that grows is moved to new memory, which costs more than they do.
struct Left {
    pieces: Vec<Vec<Box<dyn Send>>>,
    /// How many, ever.
    came: usize,
}

impl Left {
    fn push(&mut self, thing: Box<dyn Send>) {
        self.came += 1;
        if self.pieces.last().is_none_or(|piece| piece.len() == AT_A_TIME) {
            self.pieces.push(Vec::with_capacity(AT_A_TIME));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(thing);
        }
    }
}

/// Which worker this thread is, from 0; 0 on every other thread.
pub fn index() -> usize {
    INDEX.get()
}

/// Has the calling thread give way to those that serve requests: a niceness of 1 to 19, where the system lets a single
/// thread have one of its own (Linux).
pub fn give_way(niceness: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!(%error, "a thread that should give way to requests keeps its priority");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}

/// Has the calling thread leave one of the processors that it may use to others, where there are two or more (Linux). A
/// thread that computes keeps its processor for a slice of milliseconds, whatever its niceness; so work that would fill
/// all of them has to leave one.
pub fn leave_a_core() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let left = sched_getaffinity(None).and_then(|mut cores: CpuSet| {
            if cores.count() < 2 {
                return Ok(());
            }
            if let Some(first) = (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)) {
                cores.unset(first);
            }
            sched_setaffinity(None, &cores)
        });
        if let Err(error) = left {
            tracing::debug!(%error, "a thread that should leave a core to requests may run on all");
        }
    }
}

/// How many cores threads have that [`leave_a_core`].
pub fn cores_left() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Drops something a little later, after what this thread has to do by now, and after what that wakes; at once on a thread
/// that has no runtime of its own.
pub fn later(thing: impl Send + 'static) {
    let own = |runtime: &Handle| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
    let Some(runtime) = Handle::try_current().ok().filter(own) else { return };
    let is_first = LEFT.with_borrow_mut(|left| {
        left.push(Box::new(thing));
        left.pieces.len() == 1 && left.pieces[0].len() == 1
    });
    if is_first {
        let rest = Rest; // goes with the task, begun or not
        runtime.spawn(async move {
            let _rest = rest;
            for _ in 0..LATER_MAX {
                let before = LEFT.with_borrow(|left| left.came);
                tokio::time::sleep(LATER).await;
                if LEFT.with_borrow(|left| left.came - before) < MANY {
                    break;
                }
            }
            while let Some(some) = LEFT.with_borrow_mut(|left| left.pieces.pop()) {
                drop(some);
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Waits for the moment when what is left for [`later`] is dropped.
pub async fn turn() {
    let (turn, mine) = oneshot::channel::<()>();
    later(turn);
    let _ = mine.await;
}

/// What is still there when the runtime ends goes with it.
struct Rest;

impl Drop for Rest {
    fn drop(&mut self) {
        drop(LEFT.try_with(|left| std::mem::take(&mut left.borrow_mut().pieces)));
    }
}

/// Long work in small pieces. The system lets a thread that computes go on for more than a millisecond before another one gets
/// its processor, whatever the niceness of both: too long for a request. So the work rests by itself, long before.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    rest: u32,
}

impl Pace {
    /// Work without a rest.
    const WORK: Duration = Duration::from_micros(30);

    /// Rests are `rest` times as long as the work before.
    pub fn new(rest: u32) -> Self {
        Self { since: Instant::now(), rest }
    }

    /// Between two pieces of work: rests when it is time to.
    pub fn rest(&mut self) {
        let worked = self.since.elapsed();
        if worked >= Self::WORK {
            thread::sleep(worked * self.rest);
            self.since = Instant::now();
        }
    }
}

/// Where connections are carried. A clone shares the threads and their counts.
#[derive(Clone, Debug)]
pub struct Workers(Arc<[Worker]>);

#[derive(Debug)]
struct Worker {
    handle: Handle,
    carries: AtomicUsize,
}

/// A place on one of the threads, taken until it is dropped.
#[derive(Debug)]
pub struct Place {
    workers: Workers,
    index: usize,
}

impl Workers {
    fn new(handles: impl IntoIterator<Item = Handle>) -> Self {
        Self(handles.into_iter().map(|handle| Worker { handle, carries: AtomicUsize::new(0) }).collect())
    }

    /// One runtime, however many threads it has.
    pub fn one(handle: Handle) -> Self {
        Self::new([handle])
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The first, for what is no connection.
    pub fn first(&self) -> &Handle {
        &self.0[0].handle
    }

    /// A place where the fewest are taken.
    pub fn place(&self) -> Place {
        let carries = |index: &usize| self.0[*index].carries.load(Ordering::Relaxed);
        let index = (0..self.0.len()).min_by_key(carries).unwrap_or_default();
        self.0[index].carries.fetch_add(1, Ordering::Relaxed);
        Place { workers: self.clone(), index }
    }
}

impl Place {
    /// Runs `work` there; the place is free again when it is over.
    pub fn carry(self, work: impl Future<Output = ()> + Send + 'static) {
        let handle = self.workers.0[self.index].handle.clone();
        handle.spawn(async move {
            work.await;
            drop(self);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.workers.0[self.index].carries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Running threads.
#[derive(Debug)]
pub struct Threads {
    workers: Workers,
    stop: watch::Sender<bool>,
    stopped: mpsc::Receiver<()>,
}

impl Threads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The system has no thread or no descriptors for them.
    pub fn start(count: usize) -> io::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let (tell, stopped) = mpsc::sync_channel(count.max(1));
        let mut handles = Vec::new();
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let (stopping, tell) = (stopping.clone(), tell.clone());
            thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                INDEX.set(index);
                run(runtime, stopping);
                // Whoever asked may have stopped waiting.
                let _ = tell.send(());
            })?;
        }
        Ok(Self { workers: Workers::new(handles), stop, stopped })
    }

    /// The threads.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Drops all that they carry, and waits for that, so long at most.
    pub fn stop(self, within: Duration) {
        let latest = Instant::now() + within;
        self.stop.send_replace(true);
        for _ in 0..self.workers.count() {
            if self.stopped.recv_timeout(latest.saturating_duration_since(Instant::now())).is_err() {
                return;
            }
        }
    }
}

fn run(runtime: Runtime, mut stopping: watch::Receiver<bool>) {
    // An error: whoever could stop us is gone.
    let _ = runtime.block_on(stopping.wait_for(|stop| *stop));
    // Name look-ups may be under way on threads of their own.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn connections_go_where_the_fewest_are_and_stay_there() {
        let threads = Threads::start(3).unwrap();
        let workers = threads.workers();
        let places: Vec<Place> = (0..6).map(|_| workers.place()).collect();
        let mut indices: Vec<usize> = places.iter().map(|place| place.index).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 0, 1, 1, 2, 2]);
        let (tell, told) = sync_channel(8);
        let mut expected = Vec::new();
        for place in places {
            expected.push(place.index);
            let tell = tell.clone();
            place.carry(async move {
                let before = index();
                tokio::task::yield_now().await;
                tell.send((before, index())).unwrap();
            });
        }
        let mut ran: Vec<usize> = Vec::new();
        for _ in 0..6 {
            let (before, after) = told.recv_timeout(LONG).unwrap();
            assert_eq!(before, after);
            ran.push(after);
        }
        expected.sort_unstable();
        ran.sort_unstable();
        assert_eq!(ran, expected);
        threads.stop(LONG);
    }

    #[test]
    fn a_place_is_free_again_when_its_work_is_over() {
        let threads = Threads::start(2).unwrap();
        let workers = threads.workers();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let long = workers.place();
        let busy = long.index;
        long.carry(async move { drop(held.await) });
        for _ in 0..5 {
            let (tell, told) = sync_channel(8);
            let place = workers.place();
            assert_ne!(place.index, busy);
            place.carry(async move { tell.send(()).unwrap() });
            told.recv_timeout(LONG).unwrap();
            while workers.0[1 - busy].carries.load(Ordering::Relaxed) > 0 {
                thread::yield_now();
            }
        }
        drop(release);
        threads.stop(LONG);
    }

    #[test]
    fn what_is_left_for_later_is_dropped_then_or_with_the_runtime() {
        struct Told(mpsc::SyncSender<u32>, u32);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(self.1);
            }
        }
        let (tell, told) = mpsc::sync_channel(100);
        later(Told(tell.clone(), 0));
        assert_eq!(told.try_recv(), Ok(0), "without a runtime: at once");
        for ends_early in [false, true] {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                (1..=100).for_each(|number| later(Told(tell.clone(), number)));
                assert!(told.try_recv().is_err(), "not at once");
                while !ends_early && LEFT.with_borrow(|left| !left.pieces.is_empty()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            drop(runtime);
            let mut all: Vec<_> = told.try_iter().collect();
            all.sort_unstable();
            assert_eq!(all, (1..=100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn everybody_has_a_turn_and_nobody_at_once() {
        let threads = Threads::start(1).unwrap();
        let had = Arc::new(AtomicUsize::new(0));
        let (tell, told) = sync_channel(1);
        let carried = had.clone();
        threads.workers().place().carry(async move {
            let turns: Vec<_> = (0..3 * MANY)
                .map(|_| {
                    let had = carried.clone();
                    tokio::spawn(async move {
                        turn().await;
                        had.fetch_add(1, Ordering::Relaxed);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            let at_once = carried.load(Ordering::Relaxed);
            for turn in turns {
                turn.await.unwrap();
            }
            tell.send(at_once).unwrap();
        });
        assert_eq!(told.recv_timeout(LONG), Ok(0));
        assert_eq!(had.load(Ordering::Relaxed), 3 * MANY);
        threads.stop(LONG);
    }

    #[test]
    fn stopping_drops_what_is_carried() {
        let threads = Threads::start(2).unwrap();
        let held = Arc::new(());
        for _ in 0..4 {
            let held = held.clone();
            threads.workers().place().carry(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        assert_eq!(Arc::strong_count(&held), 5);
        threads.stop(LONG);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
