//! Defaults of how endpoints are chosen.

use std::time::Duration;

/// Response time that is assumed of an endpoint that has not answered yet; Linkerd's.
pub const EWMA_START: Duration = Duration::from_millis(30);
/// Time constant with which response times fade; Linkerd's.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// A failure, and a 429, 502, 503 or 504, counts as an answer that took at least this long: the usual
/// time to connect, far over what a working endpoint takes.
pub const EWMA_FAILURE: Duration = Duration::from_secs(1);
/// Time constant with which bytes fade.
pub const BANDWIDTH_DECAY: Duration = Duration::from_secs(10);
/// What an endpoint says of its load counts for so long; gRPC's A58.
pub const LOAD_STALE: Duration = Duration::from_mins(3);
/// What an endpoint says of itself counts as this load at least: one that says it has nothing to do must not
/// draw everything.
pub const LOAD_FLOOR: f32 = 0.1;
/// Points on the ring for each endpoint of weight 1: spread is within some 10 %.
pub const VIRTUAL_NODES: u64 = 150;
/// Most that an endpoint carries of what is in flight, in percent of its fair share; HAProxy and the
/// paper on bounded loads (<https://arxiv.org/abs/1608.01350>).
pub const BOUNDED_LOAD: u32 = 125;
/// Places of Maglev's table; prime, as in the paper.
pub const MAGLEV_TABLE: u64 = 65_537;
/// An endpoint that is new or back gets its full share after this long ...
pub const SLOW_START: Duration = Duration::from_secs(30);
/// ... and this much of it at first.
pub const SLOW_START_FROM: f32 = 0.1;
/// Share of available endpoints, in percent, below which all are used; Envoy's.
pub const PANIC: u32 = 50;
/// What a level of priority can do, in percent of its available share: it loses nothing until 29 % of
/// its endpoints are gone; Envoy's.
pub const OVERPROVISIONED: u64 = 140;
/// Name of the cookie of sticky sessions, as HAProxy's examples have it.
pub const COOKIE: &str = "SERVERID";
