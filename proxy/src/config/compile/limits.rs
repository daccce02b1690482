//! Limits that a listener runs under.

use selvedge_contract::config::LimitsSpec;
use selvedge_contract::defaults::{Limits, Role};
use selvedge_contract::units::Size;

/// Largest window of HTTP/2 (RFC 9113 section 6.9.1); [`check_limits`](super::whole) refuses more.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// The limits of a role with what the configuration says otherwise.
pub(super) fn limits(role: Role, spec: &LimitsSpec) -> Limits {
    let mut limits = Limits::of(role);
    let window = |s: Size| u32::try_from(s.0).unwrap_or(u32::MAX).min(WINDOW_MAX);
    let size = |s: Size| usize::try_from(s.0).unwrap_or(usize::MAX);
    macro_rules! set {
        ($($field:ident = $value:expr;)*) => { $( if let Some(value) = $value { limits.$field = value; } )* };
    }
    set! {
        header_block = spec.header_block.map(size);
        header_count = spec.header_count.map(|n| n as usize);
        uri = spec.uri.map(size);
        body = spec.body.map(|s| s.0);
        chunk_extension = spec.chunk_extension.map(size);
        trailer_block = spec.trailer_block.map(size);
        trailer_count = spec.trailer_count.map(|n| n as usize);
        stream_window = spec.stream_window.map(window);
        connection_window = spec.connection_window.map(window);
        buffer = spec.buffer.map(size);
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
    if let Some(rates) = &spec.http2 {
        let own = &mut limits.http2;
        for (rate, given) in [
            (&mut own.continuations, rates.continuations),
            (&mut own.client_resets, rates.client_resets),
            (&mut own.provoked_resets, rates.provoked_resets),
            (&mut own.refused_streams, rates.refused_streams),
            (&mut own.control_frames, rates.control_frames),
            (&mut own.empty_frames, rates.empty_frames),
            (&mut own.trickle_frames, rates.trickle_frames),
            (&mut own.unknown_frames, rates.unknown_frames),
        ] {
            *rate = given.unwrap_or(*rate);
        }
    }
    limits
}
