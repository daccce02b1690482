//! Beside stage 6, policy: the connection to one server that counts, kept by a task of the control
//! runtime; workers send down it together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use selvedge_contract::defaults::policy as defaults;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::slots::Address;

/// A server. While it is lost, whoever asks is told so at once: no request waits for one that is known
/// to be away.
#[derive(Debug)]
pub(super) struct Link {
    /// Name of its store in the configuration.
    store: Arc<str>,
    /// Where it is.
    pub(super) address: Address,
    live: ArcSwapOption<MultiplexedConnection>,
    /// Somebody got no answer.
    suspect: Notify,
    /// It has come, or gone.
    changed: Arc<Notify>,
    /// It has been lost, and that was said.
    said: AtomicBool,
    script: Arc<Script>,
    timeout: Duration,
}

impl Link {
    /// A server that nobody connects to.
    pub(super) fn idle(
        store: Arc<str>,
        address: Address,
        script: Arc<Script>,
        timeout: Duration,
        changed: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            address,
            live: ArcSwapOption::empty(),
            suspect: Notify::new(),
            changed,
            said: AtomicBool::new(false),
            script,
            timeout,
        })
    }

    /// Keeps it connected for as long as somebody else holds it. Must be called on a runtime.
    pub(super) fn keep(self: &Arc<Self>, client: Client) {
        tokio::spawn(keep_connected(Arc::downgrade(self), client));
    }

    /// Whether it answers, as far as is known.
    pub(super) fn is_live(&self) -> bool {
        self.live.load().is_some()
    }

    /// Its connection, while there is one.
    pub(super) fn live(&self) -> Option<MultiplexedConnection> {
        let live = self.live.load();
        live.as_ref().map(|live| MultiplexedConnection::clone(live))
    }

    /// It is looked after at once.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }

    async fn connect(&self, client: &Client) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(defaults::STORE_CONNECT))
            .set_response_timeout(Some(self.timeout));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        self.script.load_async(&mut connection).await?;
        Ok(connection)
    }

    fn lost(&self, error: &RedisError) {
        if self.live.swap(None).is_some() {
            self.changed.notify_one();
        }
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(store = %self.store, node = %self.address, %error, "no answer from the store that counts");
        }
    }

    /// Asks now and again whether it lives, and when somebody suspects that it does not; `None` when
    /// nobody holds it any more.
    async fn look_after(
        self: &Arc<Self>,
        connection: &mut MultiplexedConnection,
        warned: &mut bool,
    ) -> Option<RedisError> {
        loop {
            // Looks even if nobody asks: so that a dead one is known before a request finds out, and
            // the task ends with its store.
            let asked = self.suspect.notified();
            let _ = tokio::time::timeout(defaults::STORE_LOOK, asked).await;
            let begun = Instant::now();
            let ping = redis::cmd("PING");
            let answer = ping.query_async::<redis::Value>(connection);
            match tokio::time::timeout(self.timeout, answer).await {
                Ok(Ok(_)) if Arc::strong_count(self) > 1 => {
                    let took = begun.elapsed();
                    if took > defaults::STORE_WAIT && !*warned {
                        *warned = true;
                        tracing::warn!(store = %self.store, node = %self.address, ?took, "the store that counts is far away: see `wait`");
                    }
                }
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => return Some(error),
                Err(_) => {
                    let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Some(late.into());
                }
            }
        }
    }
}

/// Connects, looks after the connection, connects again.
async fn keep_connected(link: Weak<Link>, client: Client) {
    let mut warned = false;
    while let Some(link) = link.upgrade() {
        match link.connect(&client).await {
            Ok(mut connection) => {
                link.live.store(Some(Arc::new(connection.clone())));
                link.said.store(false, Ordering::Relaxed);
                link.changed.notify_one();
                tracing::info!(store = %link.store, node = %link.address, "connected to the store that counts");
                match link.look_after(&mut connection, &mut warned).await {
                    Some(error) => link.lost(&error),
                    None => return,
                }
            }
            Err(error) => link.lost(&error),
        }
        drop(link);
        tokio::time::sleep(defaults::STORE_AGAIN).await;
    }
}
