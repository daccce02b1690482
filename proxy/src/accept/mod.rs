//! Stage 1, accept: from a listening socket to a connection with its facts.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::string_slice))]

pub mod announced;
pub mod census;
pub mod datagram;
pub mod listener;
pub mod original;
pub mod spoken;

use std::net::SocketAddr;
use std::sync::Arc;

use selvedge_contract::defaults::Limits;
use selvedge_gateway::address::Ranges;

use spoken::Spoken;

use crate::balance::Endpoint;
use crate::message::Host;
use crate::message::target::EncodedSlash;
use crate::policy::guard::Guard;
use crate::policy::treatment::Treatment;
use crate::route::{Named, Onward, Rule, Streams, Table};
use crate::tls::ServerTls;
use crate::tls::client::ClientCertificate;

pub use census::{Census, Counted, Live};
pub use listener::{accept_forever, bind, every, hold};

/// Whose traffic a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    /// The outside world's.
    Gateway,
    /// The mesh's, for the application.
    Inbound,
    /// The application's, for the mesh.
    Outbound,
}

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub enum ListenerSecurity {
    /// Not at all.
    Plain,
    /// Always, with certificates from files.
    Tls(ServerTls),
    /// Mutual TLS of the mesh.
    Mesh {
        /// Ready to use.
        tls: ServerTls,
        /// Plaintext is let in too, and who brings it remembered.
        permissive: Option<Arc<Spoken>>,
    },
}

/// A compiled listener.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whose traffic it takes.
    pub role: ListenerRole,
    /// TLS.
    pub security: ListenerSecurity,
    /// Routes.
    pub table: Table,
    /// Limits.
    pub limits: Limits,
    /// What is done with encoded slashes.
    pub encoded_slash: EncodedSlash,
    /// Proxies before this one whose word counts.
    pub trusted_hops: usize,
    /// Load balancers that say whom they speak for.
    pub balancers: Option<Ranges<()>>,
    /// What its requests must pass, where their rule has nothing of the same kind.
    pub guards: Vec<Guard>,
    /// What is done with them, see `guards`.
    pub treatment: Treatment,
    /// Where bytes go that peers of the mesh send it and that are no requests: by its policies, to the
    /// application.
    pub opaque: Option<Arc<Rule>>,
    /// Where rules of the kernel send it connections that were going elsewhere.
    pub onward: Option<Box<Onward>>,
    /// Where its connections go, if they are not looked into.
    pub streams: Option<Streams>,
    /// Services that were found because they are called, where it gets requests by their hosts.
    pub named: Named,
}

/// The facts of a downstream connection, once per connection.
#[derive(Debug)]
pub struct Downstream {
    /// The listener as it was when the connection came.
    pub listener: Arc<ListenerPlan>,
    /// The peer.
    pub peer: SocketAddr,
    /// The port it came to.
    pub local_port: u16,
    /// Where the client believes it is: the address it came to, what a load balancer announces, or
    /// where it was going before it was redirected.
    pub local: SocketAddr,
    /// The peer's address, as `X-Forwarded-For` says it.
    pub address_text: Box<str>,
    /// SPIFFE ID of the peer, proven by mutual TLS.
    pub identity: Option<Arc<str>>,
    /// It is of another trust domain: only what names it lets it in.
    pub federated: bool,
    /// What the certificate of a client at the edge says.
    pub client: Option<Box<ClientCertificate>>,
    /// What `X-Forwarded-Client-Cert` says.
    pub client_cert_stamp: Option<Box<str>>,
    /// Whether the connection is TLS.
    pub is_tls: bool,
    /// Server name that the client asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// Where a redirected connection was going, for services that are reached there.
    pub onward: Option<Arc<Endpoint>>,
}

impl Downstream {
    /// SPIFFE ID of the peer.
    #[must_use]
    pub fn peer_id(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Whether a host may be asked for on this connection: behind TLS only what the certificate
    /// that was shown covers (RFC 9110 section 7.4).
    #[must_use]
    pub fn serves(&self, host: &Host) -> bool {
        match (&self.listener.security, &self.server_name) {
            (ListenerSecurity::Tls(tls), Some(name)) => {
                host.name() == &**name || tls.covers(name, host.name())
            }
            _ => true,
        }
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}
