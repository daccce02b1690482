//! Part of stage 1, accept: where a connection was going before rules of the kernel sent it here.

use std::net::{IpAddr, SocketAddr};

use rustix::fd::AsFd;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};

/// The original destination; `local`, the address it has come to, tells its family. The same for one
/// that nothing has redirected: the kernel gives its own address, or knows nothing of it.
///
/// A socket for both families has IPv4 mapped into IPv6, and must be asked as one of IPv4.
pub fn original_destination(stream: impl AsFd, local: SocketAddr) -> SocketAddr {
    let local = canonical(local);
    let found = match local.ip() {
        IpAddr::V4(_) => ip_original_dst(stream).map(SocketAddr::V4),
        IpAddr::V6(_) => ipv6_original_dst(stream).map(SocketAddr::V6),
    };
    found.map_or(local, canonical)
}

/// IPv4 as IPv4, and nothing but address and port.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
