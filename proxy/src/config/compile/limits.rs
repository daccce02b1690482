//! Limits that a listener runs under.

use selvedge_contract::config::LimitsSpec;
use selvedge_contract::defaults::{Limits, Role};
use selvedge_contract::units::Size;

/// The limits of a role with what the configuration says otherwise.
pub(super) fn limits(role: Role, spec: &LimitsSpec) -> Limits {
    let mut limits = Limits::of(role);
    let size = |s: Size| usize::try_from(s.0).unwrap_or(usize::MAX);
    macro_rules! set {
        ($($field:ident = $value:expr;)*) => { $( if let Some(value) = $value { limits.$field = value; } )* };
    }
    set! {
        header_block = spec.header_block.map(size);
        header_count = spec.header_count.map(|n| n as usize);
        uri = spec.uri.map(size);
        body = spec.body.map(|s| s.0);
        handshake = spec.handshake.map(|d| d.0);
        header_read = spec.header_read.map(|d| d.0);
        stream_idle = spec.stream_idle.map(|d| d.0);
        body_rate = spec.body_rate.map(|s| s.0);
        downstream_idle = spec.downstream_idle.map(|d| d.0);
        requests_per_connection = spec.requests_per_connection.map(u64::from);
        connection_age = spec.connection_age.map(|d| d.0);
        streams = spec.streams;
        connections = spec.connections.map(|n| n as usize);
        connections_per_address = spec.connections_per_address.map(|n| n as usize);
        request = spec.request.map(|d| d.0);
    }
    limits
}
