//! Beside stage 6, policy: counts that several gateways share, in Redis or Valkey.
//!
//! One connection, kept by a task of the control runtime; workers send down it together. While it
//! is lost, whoever asks is told so at once: no request waits for a store that is known to be away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::limit::{Count, Quota};
use tokio::sync::Notify;
use tokio::time::Instant;

/// GCRA in the store, by the store's clock. Times are microseconds: a script's numbers are doubles,
/// and nanoseconds since 1970 would not fit. What cannot be a time of this limit (another type, another clock) starts over.
const SCRIPT: &str = r"
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.pcall('GET', KEYS[1])
local arrival = type(kept) == 'string' and tonumber(kept) or now
if not (arrival >= now and arrival <= now + window) then arrival = now end
local ahead = arrival + interval * tonumber(ARGV[3]) - now
if ahead > window then return {0, math.ceil(arrival - now)} end
redis.call('SET', KEYS[1], string.format('%.3f', now + ahead), 'PX', math.ceil(ahead / 1000) + 1)
return {1, math.ceil(ahead)}
";

/// The store did not answer in time, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// A store that counts.
#[derive(Debug)]
pub struct Store {
    /// Its name in the configuration.
    pub name: Arc<str>,
    live: ArcSwapOption<MultiplexedConnection>,
    /// Somebody got no answer.
    suspect: Notify,
    /// It has been lost, and that was said.
    said: AtomicBool,
    script: Script,
    /// Without an answer for this long, the store counts as lost.
    pub timeout: Duration,
}

impl Store {
    /// A store that a task keeps connected for as long as somebody holds it. Must be called on a
    /// runtime.
    #[must_use]
    pub fn start(name: Arc<str>, client: Client, timeout: Duration) -> Arc<Self> {
        let store = Arc::new(Self::idle(name, timeout));
        tokio::spawn(keep_connected(Arc::downgrade(&store), client));
        store
    }

    /// A store that nobody connects to.
    #[must_use]
    pub fn idle(name: Arc<str>, timeout: Duration) -> Self {
        Self {
            name,
            live: ArcSwapOption::empty(),
            suspect: Notify::new(),
            said: AtomicBool::new(false),
            script: Script::new(SCRIPT),
            timeout,
        }
    }

    /// Whether it answers, as far as is known.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load().is_some()
    }

    /// Counts a request in the store, waiting at most `wait`. The count may be taken even where
    /// its answer comes too late.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn count(
        &self,
        key: &str,
        quota: &Quota,
        cost: u64,
        wait: Duration,
    ) -> Result<Count, Lost> {
        let live = self.live.load_full().ok_or(Lost)?;
        let mut connection = MultiplexedConnection::clone(&live);
        let mut call = self.script.prepare_invoke();
        call.key(key)
            .arg(micros(quota.interval()))
            .arg(micros(quota.window()))
            .arg(cost);
        let answer = tokio::time::timeout(wait, call.invoke_async::<(u8, u64)>(&mut connection));
        match answer.await {
            Ok(Ok((admitted, ahead))) => Ok(Count {
                admitted: admitted == 1,
                ahead: ahead.saturating_mul(1000),
            }),
            Ok(Err(error)) => {
                tracing::debug!(store = %self.name, %error, "not counted");
                self.suspect.notify_one();
                Err(Lost)
            }
            Err(_) => {
                self.suspect.notify_one();
                Err(Lost)
            }
        }
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

    fn lost(&self, error: &redis::RedisError) {
        self.live.store(None);
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(store = %self.name, %error, "no answer from the store that counts");
        }
    }
}

/// Microseconds with three decimals, as the script reads them.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// Connects, looks after the connection when somebody suspects it, connects again.
async fn keep_connected(store: Weak<Store>, client: Client) {
    let mut warned = false;
    while let Some(store) = store.upgrade() {
        match store.connect(&client).await {
            Ok(mut connection) => {
                store.live.store(Some(Arc::new(connection.clone())));
                store.said.store(false, Ordering::Relaxed);
                tracing::info!(store = %store.name, "connected to the store that counts");
                let error = loop {
                    // Looks now and again even if nobody asks: so that a dead one is known before
                    // a request finds out, and the task ends with its store.
                    let asked = store.suspect.notified();
                    let _ = tokio::time::timeout(defaults::STORE_LOOK, asked).await;
                    let begun = Instant::now();
                    let ping = redis::cmd("PING");
                    let answer = ping.query_async::<redis::Value>(&mut connection);
                    match tokio::time::timeout(store.timeout, answer).await {
                        Ok(Ok(_)) if Arc::strong_count(&store) > 1 => {
                            let took = begun.elapsed();
                            if took > defaults::STORE_WAIT && !warned {
                                warned = true;
                                tracing::warn!(store = %store.name, ?took, "the store that counts is far away: see `wait`");
                            }
                        }
                        Ok(Ok(_)) => return,
                        Ok(Err(error)) => break error,
                        Err(_) => break std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
                    }
                };
                store.lost(&error);
            }
            Err(error) => store.lost(&error),
        }
        drop(store);
        tokio::time::sleep(defaults::STORE_AGAIN).await;
    }
}
