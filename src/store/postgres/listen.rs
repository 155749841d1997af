//! A connection that listens: the server says at once that there is something new, instead of being asked all the time.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client};

use super::link::{OPERATION_MAX, SETTINGS, unavailable};
use super::tls::Tls;
use super::values::Failure;
use crate::store::{StoreError, settings};

/// See the module. Dropping it closes the connection.
pub(crate) struct Listener {
    client: Client,
    heard: Arc<Notify>,
    connection: JoinHandle<()>,
}

impl Listener {
    /// Connects and listens on `channel`, a plain name. On the runtime of the caller.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or refuses.
    pub(crate) async fn on(settings: &settings::Postgres, channel: &str) -> Result<Self, StoreError> {
        let tls = Tls::new(settings.tls.as_ref())?;
        let connected = timeout(OPERATION_MAX, settings.config.connect(tls)).await;
        let (client, mut connection) = connected
            .map_err(|_| unavailable("no connection to the server in time"))?
            .map_err(Failure::Server)?;
        let heard = Arc::new(Notify::new());
        let tell = heard.clone();
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    tell.notify_one();
                }
            }
            // Whoever waits shall see that it is over.
            tell.notify_one();
        });
        let listener = Self { client, heard, connection };
        let begin = format!("{SETTINGS}; LISTEN \"{channel}\"");
        timeout(OPERATION_MAX, listener.client.batch_execute(&begin))
            .await
            .map_err(|_| unavailable("the server did not answer in time"))?
            .map_err(Failure::Server)?;
        Ok(listener)
    }

    /// The same connection, for questions.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until something was heard since the last time, the connection has ended, or `patience` is over.
    pub(crate) async fn wait(&self, patience: Duration) {
        let _ = timeout(patience, self.heard.notified()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
