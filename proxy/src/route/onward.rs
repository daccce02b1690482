//! Part of stage 5, route: what is known of a connection by where it was going, before rules of the
//! kernel sent it here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::error::ErrorKind;
use crate::message::RequestHead;

use super::{Rule, Table};

/// What a transparent listener goes by besides the routes that every listener has.
#[derive(Debug)]
pub struct Onward {
    /// Ports of this very proxy: what was going to one of them would come round for ever.
    pub own_ports: Vec<u16>,
    /// Services by the addresses that applications call.
    pub by_address: HashMap<SocketAddr, Arc<Rule>>,
    /// The same services by their names, for each of those ports.
    pub by_port: HashMap<u16, Table>,
    /// Ports of the application whose plaintext is nobody's business.
    pub opaque: Vec<u16>,
    /// All else goes on to where it was going.
    pub rule: Arc<Rule>,
    /// Nothing else does: what is for no service is refused.
    pub closed: bool,
}

/// Services by name and port, where nothing is known but what a request says.
#[derive(Debug, Default)]
pub struct Named {
    /// For each port that a host may have.
    pub by_port: HashMap<u16, Table>,
}

impl Named {
    /// The rule of the service that a request names; no port is that of HTTP.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Option<&Arc<Rule>> {
        if self.by_port.is_empty() {
            return None;
        }
        self.by_port
            .get(&head.host.port().unwrap_or(80))?
            .find(head)
    }
}

impl Onward {
    /// The rule of a service that a request is for; `to` is where its connection was going.
    #[must_use]
    pub fn service(&self, head: &RequestHead, to: SocketAddr) -> Option<&Arc<Rule>> {
        let named = self.by_port.get(&to.port());
        named
            .and_then(|table| table.find(head))
            .or_else(|| self.by_address.get(&to))
    }

    /// The rule for a request that no route takes.
    ///
    /// # Errors
    /// [`ErrorKind::Egress`]: it is for no service, and nothing else may be called.
    pub fn find(&self, head: &RequestHead, to: SocketAddr) -> Result<&Arc<Rule>, ErrorKind> {
        match self.service(head, to) {
            Some(rule) => Ok(rule),
            None if self.closed => Err(ErrorKind::Egress),
            None => Ok(&self.rule),
        }
    }

    /// Whether what goes to an address that is no service's may only be for one by name.
    #[must_use]
    pub fn is_closed_to(&self, to: &SocketAddr) -> bool {
        self.closed && !self.by_address.contains_key(to)
    }
}
