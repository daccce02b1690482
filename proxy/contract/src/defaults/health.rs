//! Defaults of active health checks.

use std::time::Duration;

/// Time between two checks of an endpoint.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// For one check.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row that take an endpoint out.
pub const UNHEALTHY_AFTER: u32 = 3;
/// Successes in a row that bring it back.
pub const HEALTHY_AFTER: u32 = 2;
/// Percent of its share that a degraded endpoint gets.
pub const DEGRADED_SHARE: u32 = 50;
/// Bytes of an answer in which a text is looked for.
pub const BODY: usize = 64 << 10;
/// Checks of one service at a time: where all its endpoints are gone they wait for each other, ...
pub const AT_ONCE: usize = 256;
/// ... and not those of others, as long as no more than a few services are. Each is a connection.
pub const AT_ONCE_IN_ALL: usize = 1024;
/// Longest time for one check.
pub const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);
