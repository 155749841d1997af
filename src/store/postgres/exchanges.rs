//! Exchanges of refresh tokens, many in one statement: while the server has one, the next ones gather, so the more there
//! are, the less each one costs. A statement, its round trip and its commit are most of what an exchange takes there.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::link::{CALLERS_MAX, Link, OPERATION_MAX, unavailable};
use super::rotation;
use crate::store::{Answer, Rotated, Rotation, StoreError};

/// Batches that are with the server at once: while one waits for its disk the other one works.
const LANES: usize = 2;
/// Exchanges in one statement.
const BATCH_MAX: usize = 64;

/// An exchange that waits, with its place among those who may.
struct Waiting {
    rotation: Rotation,
    deadline: Instant,
    answer: oneshot::Sender<Result<Rotated, StoreError>>,
    _admitted: OwnedSemaphorePermit,
}

/// The way to an exchange.
pub(super) struct Exchanges {
    queue: mpsc::Sender<Waiting>,
}

impl Exchanges {
    /// Starts the lanes; they end when this is dropped.
    pub(super) fn start(runtime: &Runtime, link: &Arc<Link>) -> Self {
        // Everybody who is admitted has a place.
        let (queue, waiting) = mpsc::channel(CALLERS_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..LANES {
            runtime.spawn(lane(Arc::clone(link), Arc::clone(&waiting)));
        }
        Self { queue }
    }

    /// Exchanges a token. Happens or not, if the future is dropped.
    pub(super) fn exchange(&self, link: &Link, rotation: Rotation) -> Answer<'static, Rotated> {
        let (answer, answered) = oneshot::channel();
        let queued = link.admit().and_then(|admitted| {
            let deadline = Instant::now() + OPERATION_MAX;
            let waiting = Waiting { rotation, deadline, answer, _admitted: admitted };
            self.queue.try_send(waiting).map_err(|_| unavailable("the store is closed"))
        });
        async move {
            queued?;
            answered.await.map_err(unavailable)?
        }
        .boxed()
    }
}

async fn lane(link: Arc<Link>, queue: Arc<Mutex<mpsc::Receiver<Waiting>>>) {
    loop {
        let mut batch = Vec::new();
        if queue.lock().await.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        work(&link, batch).await;
    }
}

async fn work(link: &Arc<Link>, batch: Vec<Waiting>) {
    let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).min() else { return };
    let (rotations, asked): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|Waiting { rotation, deadline, answer, _admitted }| (rotation, (deadline, answer, _admitted)))
        .unzip();
    let done = match rotations.len() {
        // The same in one statement that is simpler, by the second way below.
        1 => Ok(vec![false]),
        _ => {
            link.run(deadline, &rotations, |client, all| Box::pin(rotation::exchange_all(client, all))).await
        }
    };
    let done = match done {
        Ok(done) => done,
        // Nobody knows whether it had its effect, so it must not be tried again.
        Err(error) => {
            let words = error.to_string();
            asked.into_iter().for_each(|(_, answer, _)| drop(answer.send(Err(unavailable(words.clone())))));
            return;
        }
    };
    for ((rotation, (deadline, answer, admitted)), done) in rotations.into_iter().zip(asked).zip(done) {
        if done {
            let _ = answer.send(Ok(Rotated::Done));
            continue;
        }
        let link = Arc::clone(link);
        tokio::spawn(async move {
            let work = link.run(deadline, &rotation, |client, one| Box::pin(rotation::rotate(client, one)));
            let _ = answer.send(work.await);
            drop(admitted);
        });
    }
}
