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

/// Connections of one address.
const OF_ONE: usize = 32;
/// A connection is asked to end after this, and ended after as long again.
const LIFE: Duration = Duration::from_secs(30);

/// Connections by address.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<IpAddr, usize>>);

/// One of them; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Caller {
    all: Arc<Callers>,
    address: IpAddr,
}

impl Callers {
    /// A place for one more of this address, if it may have one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Caller> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= OF_ONE {
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
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let all = Arc::new(Callers::default());
        let address = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<Caller> = (0..OF_ONE).filter_map(|_| all.admit(address)).collect();
        assert_eq!(held.len(), OF_ONE);
        assert!(all.admit(address).is_none());
        assert!(all.admit(IpAddr::from([10, 0, 0, 2])).is_some());
        drop(held);
        assert!(all.admit(address).is_some());
        assert!(all.0.lock().unwrap().is_empty());
    }
}
