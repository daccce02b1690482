//! Who is connected to admin and health: no caller has all places, and no connection lasts for ever.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1::Connection;
use hyper::service::HttpService;
use tokio::time::timeout;

/// A connection is asked to end after this, and ended after as long again.
const LIFE: Duration = Duration::from_secs(30);

/// Connections by address.
#[derive(Debug)]
pub(crate) struct Callers {
    counts: Mutex<HashMap<IpAddr, usize>>,
    of_one: usize,
}

/// One of them; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Caller {
    all: Arc<Callers>,
    address: IpAddr,
}

impl Callers {
    /// So many connections at a time for each address.
    pub(crate) fn new(of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            of_one,
        })
    }

    /// A place for one more of this address, if it may have one.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Caller> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.of_one {
            return None;
        }
        *count += 1;
        Some(Caller {
            all: self.clone(),
            address,
        })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut counts = self
            .all
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Serves a connection for a bounded time, whatever its peer does not read.
pub(super) async fn bounded<I, S>(connection: Connection<I, S>)
where
    I: Read + Write + Unpin,
    S: HttpService<hyper::body::Incoming, ResBody = Full<bytes::Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = pin!(connection);
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LIFE, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_has_all_places() {
        let all = Callers::new(3);
        let address = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<Caller> = (0..3).filter_map(|_| all.admit(address)).collect();
        assert_eq!(held.len(), 3);
        assert!(all.admit(address).is_none());
        assert!(all.admit(IpAddr::from([10, 0, 0, 2])).is_some());
        drop(held);
        assert!(all.admit(address).is_some());
        assert!(all.counts.lock().unwrap().is_empty());
    }
}
