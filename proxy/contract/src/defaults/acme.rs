//! Bounds of public certificates by ACME.

use std::time::Duration;

/// One request to the directory, from the first packet to the last byte.
pub const REQUEST: Duration = Duration::from_secs(20);
/// Bytes of one answer. A chain is some 10 KiB.
pub const ANSWER_BYTES: usize = 256 << 10;
/// A whole order, the directory's look at the challenge included.
pub const ORDER: Duration = Duration::from_secs(300);
/// The directory may look at a challenge, or sign, for this long.
pub const POLL: Duration = Duration::from_secs(90);
/// How often the store is looked at for what other replicas have obtained.
pub const STORE: Duration = Duration::from_secs(3);
/// Bytes of a file in the store.
pub const FILE_BYTES: u64 = 256 << 10;
/// First pause where no order was made, since the directory could not be reached or understood:
/// that costs nobody anything, and at the start of a machine it is soon over.
pub const BACKOFF_UNREACHED: Duration = Duration::from_secs(2);
/// Longest pause of that kind: nobody is waited for once it answers again.
pub const BACKOFF_UNREACHED_MAX: Duration = Duration::from_secs(3600);
/// First pause after an order that failed; directories count those.
pub const BACKOFF: Duration = Duration::from_secs(60);
/// Between two orders of a name that went well: a hundredth of the certificate's life, but not
/// less than this. A directory whose window is always in the past must not be fed orders.
pub const ORDER_GAP: Duration = Duration::from_secs(5);
/// Nor more than this: a certificate that is revoked at once can be replaced.
pub const ORDER_GAP_MAX: Duration = Duration::from_secs(3600);
/// Longest pause between two tries.
pub const BACKOFF_MAX: Duration = Duration::from_secs(6 * 3600);
/// A directory that asks for a longer pause than this gets this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The directory is not asked for its renewal window sooner than this (RFC 9773 section 4.3.2).
pub const WINDOW_FLOOR: Duration = Duration::from_secs(60);
/// Nor later.
pub const WINDOW_CEILING: Duration = Duration::from_secs(24 * 3600);
/// After a question for the window that failed.
pub const WINDOW_AGAIN: Duration = Duration::from_secs(3600);
/// Share of its life after which a certificate is renewed, whatever the window says, in percent.
pub const RENEW_BY: u32 = 90;
/// Challenges that are looked up in stores at a time; more wait.
pub const LOOKUPS: usize = 16;
