//! The threads of the SQLite store: one writer that commits in batches, a few readers.
//!
//! The writer takes what is queued, runs it in one `BEGIN IMMEDIATE` transaction with a savepoint around each piece
//! of work, commits, and only then answers: many waiting changes share one fsync, and a piece that fails takes
//! nobody with it. The queues are bounded; a full one is an answer of its own, at once.
//!
//! A transaction takes up to a millisecond of computing, and a request that waits for a core waits for its end; so these threads
//! leave one to requests.
//!
//! A transaction of lazy work alone is committed without a sync (`synchronous = NORMAL`): after a power cut the file is
//! as of an earlier commit, none of which is missing before it. The next ordinary commit syncs the ones before too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::store::{Answer, StoreError};
use crate::worker;

/// Pieces of work that may wait for one thread; at 2 KiB each, 2 MiB.
pub(super) const QUEUE_MAX: usize = 1024;
/// Pieces of work in one transaction: enough to hide an fsync, few enough to answer within tens of milliseconds.
const BATCH_MAX: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A piece of work with its answer, of whatever type, behind one face.
trait Work: Send {
    /// Whether its commit need not be on disk when it is answered.
    fn is_lazy(&self) -> bool;
    /// Runs it; whether it succeeded.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers; `commit_error` says that nothing of the transaction holds.
    fn finish(self: Box<Self>, commit_error: Option<String>);
}

struct Piece<T, F> {
    lazy: bool,
    work: Option<F>,
    outcome: Option<rusqlite::Result<T>>,
    reply: Reply<T>,
}

impl<T: Send, F: FnOnce(&Connection) -> rusqlite::Result<T> + Send> Work for Piece<T, F> {
    fn is_lazy(&self) -> bool {
        self.lazy
    }

    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, commit_error: Option<String>) {
        let answer = match (self.outcome, commit_error) {
            (Some(Err(error)), _) => Err(unavailable(error)),
            (_, Some(error)) => Err(unavailable(error)),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(unavailable("the work was not run")),
        };
        // Whoever asked may have stopped waiting; the work is done all the same.
        let _ = self.reply.send(answer);
    }
}

/// An error of the engine as the store's.
pub(super) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// A queue and the threads that drain it; dropping it lets them finish what is queued, and waits for that.
pub(super) struct Workers {
    queue: Option<SyncSender<Box<dyn Work>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// The writer.
    pub(super) fn writer(connection: Connection) -> std::io::Result<Self> {
        let (queue, work) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            worker::leave_a_core();
            write_batches(&connection, &work);
        })?;
        Ok(Self { queue: Some(queue), threads: vec![thread] })
    }

    /// One reader per connection.
    pub(super) fn readers(connections: Vec<Connection>) -> std::io::Result<Self> {
        let (queue, work) = sync_channel(QUEUE_MAX);
        let work = Arc::new(Mutex::new(work));
        let start = |connection: Connection| {
            let work = work.clone();
            std::thread::Builder::new().name("store-reader".to_owned()).spawn(move || {
                worker::leave_a_core();
                read_each(&connection, &work);
            })
        };
        let threads = connections.into_iter().map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Queues a piece of work; its answer comes when it is done and, on the writer, on disk.
    pub(super) fn run<'a, T, F>(&self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.queue(false, work)
    }

    /// The same, where the answer need not wait for the disk.
    pub(super) fn run_lazily<'a, T, F>(&self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.queue(true, work)
    }

    fn queue<'a, T, F>(&self, lazy: bool, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let piece = Box::new(Piece { lazy, work: Some(work), outcome: None, reply });
        let queued = match &self.queue {
            Some(queue) => queue.try_send(piece as Box<dyn Work>).map_err(|error| match error {
                TrySendError::Full(_) => "the queue of the store is full",
                TrySendError::Disconnected(_) => "the thread of the store has ended",
            }),
            None => Err("the store is closed"),
        };
        Box::pin(async move {
            queued.map_err(unavailable)?;
            answer.await.map_err(unavailable)?
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write_batches(connection: &Connection, queue: &Receiver<Box<dyn Work>>) {
    let mut lazy_now = None;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(BATCH_MAX - 1));
        // As long as nobody has set it, or that failed, it is whatever it is, and so not to be relied on.
        let lazy = batch.iter().all(|piece| piece.is_lazy());
        if lazy_now.replace(lazy) != Some(lazy) {
            let level = if lazy { "NORMAL" } else { "FULL" };
            if let Err(error) = connection.execute_batch(&format!("PRAGMA synchronous = {level}")) {
                lazy_now = None;
                let error = error.to_string();
                batch.into_iter().for_each(|piece| piece.finish(Some(error.clone())));
                continue;
            }
        }
        // A panic in one piece of work must not leave the gateway without a writer: the batch is rolled back and
        // its callers see their answers dropped.
        if catch_unwind(AssertUnwindSafe(|| write_batch(connection, batch))).is_err() {
            tracing::error!("a batch of the store panicked and was rolled back");
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
    }
}

fn write_batch(connection: &Connection, mut batch: Vec<Box<dyn Work>>) {
    let committed = run_batch(connection, &mut batch);
    if committed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    let error = committed.err().map(|error| error.to_string());
    for piece in batch {
        piece.finish(error.clone());
    }
}

fn run_batch(connection: &Connection, batch: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]);
    run("BEGIN IMMEDIATE")?;
    for piece in batch {
        run("SAVEPOINT piece")?;
        if !piece.run(connection) {
            // Some errors (a full disk among them) end the whole transaction; then nothing of the batch holds.
            if connection.is_autocommit() {
                return Err(rusqlite::Error::InvalidQuery);
            }
            run("ROLLBACK TO piece")?;
        }
        run("RELEASE piece")?;
    }
    run("COMMIT")?;
    Ok(())
}

fn read_each(connection: &Connection, queue: &Mutex<Receiver<Box<dyn Work>>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut piece) = next else { return };
        let done = catch_unwind(AssertUnwindSafe(|| {
            piece.run(connection);
            piece.finish(None);
        }));
        if done.is_err() {
            tracing::error!("a query of the store panicked");
        }
    }
}
