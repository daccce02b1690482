//! What peers in the mesh are trusted by: how much is read of it, and how long the end of it takes.

use std::time::Duration;

/// A connection whose peer is not trusted any more has this long for what is in flight: half of the
/// minute in which it must be gone.
pub const GRACE: Duration = Duration::from_secs(30);
/// Lists of revoked certificates in a file: each that an issuer has more than others costs a
/// verification of the chain.
pub const LISTS: usize = 64;
/// Bytes of such a file: some hundred thousand entries.
pub const LISTS_BYTES: u64 = 16 << 20;
/// Other trust domains.
pub const DOMAINS: usize = 64;
/// Bytes of a bundle of another trust domain: some hundred roots.
pub const BUNDLE_BYTES: usize = 256 << 10;
/// One request for such a bundle, from the first packet to the last byte.
pub const BUNDLE: Duration = Duration::from_secs(10);
/// A bundle is asked for again after this long where it has no hint of its own (SPIFFE Federation,
/// section 4.1, advises five minutes).
pub const BUNDLE_AGAIN: Duration = Duration::from_secs(300);
/// No sooner than this, whatever it hints,
pub const BUNDLE_SOONEST: Duration = Duration::from_secs(10);
/// and no later.
pub const BUNDLE_LATEST: Duration = Duration::from_secs(3600);
/// First pause after an endpoint that gave none; doubles up to [`BUNDLE_AGAIN`].
pub const BUNDLE_BACKOFF: Duration = Duration::from_secs(1);
