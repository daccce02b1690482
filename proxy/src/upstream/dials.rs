//! Part of stage 8, upstream: which connections this process has opened to carry others on. One of
//! them that comes back in, by rules that do not let the proxy's own traffic by, would be carried on
//! for ever: this is how it is known.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

use crate::accept::original::canonical;

type Open = Arc<Mutex<HashSet<SocketAddr>>>;

/// The local addresses of such connections, over all workers. Locked once when one is opened and
/// once when it is closed, never for a request.
#[derive(Debug, Default)]
pub struct Dials(Open);

/// One that is open, until this is dropped.
#[derive(Debug)]
pub struct Dial {
    open: Open,
    address: Option<SocketAddr>,
}

impl Dials {
    /// Takes note of a connection. Whoever it comes in to sees it here before its first byte, as long
    /// as none is sent before this.
    #[must_use]
    pub fn note(&self, stream: &TcpStream) -> Dial {
        let address = stream.local_addr().ok().map(canonical);
        if let Some(address) = address {
            self.lock().insert(address);
        }
        Dial {
            open: self.0.clone(),
            address,
        }
    }

    /// Whether one of them comes from there.
    #[must_use]
    pub fn contains(&self, peer: SocketAddr) -> bool {
        self.lock().contains(&canonical(peer))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        if let Some(address) = &self.address {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.remove(address);
        }
    }
}
