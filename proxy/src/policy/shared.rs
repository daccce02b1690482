//! Beside stage 6, policy: counts that several gateways share, in Redis or Valkey.
//!
//! One server or a cluster of them. A key is asked for where it is kept; redirects are followed within
//! the time that a request has.

mod cluster;
mod link;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, ConnectionAddr, ErrorKind, RedisResult, Script, ServerErrorKind};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::limit::{Count, Quota};
use tokio::sync::Notify;
use tokio::time::Instant;

use cluster::Cluster;
use link::Link;
use slots::Address;

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
    servers: Servers,
    script: Arc<Script>,
    /// That it is a cluster, and is not used as one, was said.
    said: AtomicBool,
    /// Without an answer for this long, a server counts as lost.
    pub timeout: Duration,
}

#[derive(Debug)]
enum Servers {
    /// Nobody connects to it.
    None,
    One(Arc<Link>),
    Cluster(Arc<Cluster>),
}

/// Where a client connects to.
fn address(client: &Client) -> Address {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Address {
            host: host.clone(),
            port: *port,
        },
        other => Address {
            host: other.to_string(),
            port: 0,
        },
    }
}

/// One request, as the script counts it.
struct Call<'a> {
    key: &'a str,
    interval: String,
    window: String,
    cost: u64,
}

impl Call<'_> {
    async fn run(
        &self,
        script: &Script,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<(u8, u64)> {
        let mut call = script.prepare_invoke();
        call.key(self.key)
            .arg(&self.interval)
            .arg(&self.window)
            .arg(self.cost);
        call.invoke_async(connection).await
    }

    /// The same where a slot is on its way to: that it is asked on purpose goes with it in one piece,
    /// and so does the script, which that server may not have.
    async fn run_there(&self, connection: &mut MultiplexedConnection) -> RedisResult<(u8, u64)> {
        let mut pipe = redis::pipe();
        pipe.cmd("ASKING").ignore();
        pipe.cmd("EVAL").arg(SCRIPT).arg(1).arg(self.key);
        pipe.arg(&self.interval).arg(&self.window).arg(self.cost);
        let (answer,): ((u8, u64),) = pipe.query_async(connection).await?;
        Ok(answer)
    }
}

impl Store {
    /// A store that tasks keep connected for as long as somebody holds it. Must be called on a
    /// runtime. Of a cluster these are some servers; it names the others.
    #[must_use]
    pub fn start(
        name: Arc<str>,
        clients: Vec<Client>,
        cluster: bool,
        timeout: Duration,
    ) -> Arc<Self> {
        let mut store = Self::idle(name, timeout);
        let (name, script) = (store.name.clone(), store.script.clone());
        if cluster {
            let cluster = Cluster::start(name, clients, script, timeout);
            store.servers = cluster.map_or(Servers::None, Servers::Cluster);
        } else if let Some(client) = clients.into_iter().next() {
            let changed = Arc::new(Notify::new());
            let link = Link::idle(name, address(&client), script, timeout, changed);
            link.keep(client);
            store.servers = Servers::One(link);
        }
        Arc::new(store)
    }

    /// A store that nobody connects to.
    #[must_use]
    pub fn idle(name: Arc<str>, timeout: Duration) -> Self {
        Self {
            name,
            servers: Servers::None,
            script: Arc::new(Script::new(SCRIPT)),
            said: AtomicBool::new(false),
            timeout,
        }
    }

    /// Whether it is worth asking, as far as is known. Of a cluster the server that keeps a key may be
    /// lost all the same: then [`Store::count`] says so at once.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match &self.servers {
            Servers::None => false,
            Servers::One(link) => link.is_live(),
            Servers::Cluster(cluster) => cluster.is_mapped(),
        }
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
        let until = Instant::now() + wait;
        let call = Call {
            key,
            interval: micros(quota.interval()),
            window: micros(quota.window()),
            cost,
        };
        let (admitted, ahead) = match &self.servers {
            Servers::None => return Err(Lost),
            Servers::One(link) => self.ask(link, &call, until).await?,
            Servers::Cluster(cluster) => self.ask_cluster(cluster, &call, until).await?,
        };
        Ok(Count {
            admitted: admitted == 1,
            ahead: ahead.saturating_mul(1000),
        })
    }

    async fn ask(&self, link: &Link, call: &Call<'_>, until: Instant) -> Result<(u8, u64), Lost> {
        let mut connection = link.live().ok_or(Lost)?;
        let answer = call.run(&self.script, &mut connection);
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.redirect_node().is_some() && !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(store = %self.name, "the store that counts is a cluster: set `cluster: true`");
                }
                tracing::debug!(store = %self.name, %error, "not counted");
                link.suspect();
                Err(Lost)
            }
            Err(_) => {
                link.suspect();
                Err(Lost)
            }
        }
    }

    /// Asks the server that keeps the key, or by then another one.
    async fn ask_cluster(
        &self,
        cluster: &Cluster,
        call: &Call<'_>,
        until: Instant,
    ) -> Result<(u8, u64), Lost> {
        let map = cluster.map().ok_or(Lost)?;
        let slot = slots::slot(call.key);
        let mut link = map.owner(slot).ok_or(Lost)?.clone();
        let mut on_purpose = false;
        for _ in 0..=defaults::STORE_REDIRECTS {
            let mut connection = link.live().ok_or(Lost)?;
            let answer = async {
                if on_purpose {
                    call.run_there(&mut connection).await
                } else {
                    call.run(&self.script, &mut connection).await
                }
            };
            let error = match tokio::time::timeout_at(until, answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => {
                    link.suspect();
                    return Err(Lost);
                }
            };
            let Some((to, _)) = error.redirect_node() else {
                tracing::debug!(store = %self.name, node = %link.address, %error, "not counted");
                link.suspect();
                cluster.distrust();
                return Err(Lost);
            };
            on_purpose = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            let to = Address::redirected(to, &link.address).ok_or(Lost)?;
            let found = cluster.redirected(&map, &to, slot, !on_purpose);
            link = found.ok_or(Lost)?;
        }
        Err(Lost)
    }
}

/// Microseconds with three decimals, as the script reads them.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}
