//! The way from the data plane to the control plane: a request for one of our own endpoints is served by a task of
//! the control runtime, at most so many at once, so that sign-ins cannot move the latency of proxied requests.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::answer::{Code, Problem};

/// Requests that may be at the control plane at once, running or waiting for a password hash.
pub const AT_ONCE: usize = 1024;

/// A handle to the control plane's runtime. A clone shares the places.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    runtime: Handle,
    places: Arc<Semaphore>,
    at_once: usize,
}

impl ControlPlane {
    /// With `at_once` places on this runtime.
    pub fn new(runtime: Handle, at_once: usize) -> Self {
        Self { runtime, places: Arc::new(Semaphore::new(at_once)), at_once }
    }

    /// Nothing runs or waits there.
    pub fn is_idle(&self) -> bool {
        self.places.available_permits() == self.at_once
    }

    /// Runs `work` on the control plane and waits for what it gives. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// 503 when every place is taken; 500 when the work panicked.
    pub async fn run<W, T>(&self, work: W) -> Result<T, Problem>
    where
        W: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(Problem::new(Code::Overloaded, "too many requests for the auth endpoints at once"));
        };
        let task = self.runtime.spawn(async move {
            let done = work.await;
            drop(place);
            done
        });
        task.await.map_err(|error| {
            tracing::error!(%error, "a task of the control plane ended early");
            Problem::new(Code::Internal, "the request could not be served")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_control_plane_says_so_at_once() {
        let control = ControlPlane::new(Handle::current(), 1);
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let control = control.clone();
            async move { control.run(held).await.map(|_| ()) }
        });
        while control.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = control.run(async {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        control.run(async {}).await.unwrap();
    }
}
