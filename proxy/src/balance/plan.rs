//! Part of stage 7, balance: how a service balances, as the compiler has made it of its configuration.

use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::defaults::balance::{PANIC, SLOW_START};

/// How an endpoint is chosen. What each knows and costs: `docs/balancing.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The less loaded of two at random by (in flight + 1) / weight; with `full` of all.
    LeastRequest {
        /// All are looked at.
        full: bool,
    },
    /// Smooth weighted round robin.
    RoundRobin,
    /// The one of two, drawn by weight, with fewer connections in use for its weight.
    LeastConnections,
    /// The one of two that answers sooner: peak EWMA of its response times, times what is in flight.
    ResponseTime,
    /// By weight and chance.
    Random,
    /// The one of two with fewer bytes a second for its weight.
    Bandwidth,
    /// The one of two that says of itself that it has less to do.
    ReportedLoad,
    /// By a key of the request, on a ring of points.
    Ring {
        /// Most that an endpoint carries, in percent of its fair share; 0 = no bound.
        bound: u32,
    },
    /// By a key of the request, from a table.
    Maglev {
        /// See `Ring`.
        bound: u32,
    },
}

impl Strategy {
    /// Its name, as the configuration has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastRequest { .. } => "leastRequest",
            Self::RoundRobin => "roundRobin",
            Self::LeastConnections => "leastConnections",
            Self::ResponseTime => "responseTime",
            Self::Random => "random",
            Self::Bandwidth => "leastBandwidth",
            Self::ReportedLoad => "reportedLoad",
            Self::Ring { .. } => "ringHash",
            Self::Maglev { .. } => "maglev",
        }
    }
}

/// What of a request decides, where its endpoint depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOf {
    /// The client's address.
    Source,
    /// A field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(String),
}

/// Who comes back to the endpoint that it had.
#[derive(Debug, Clone)]
pub enum Sticky {
    /// Whoever brings the cookie.
    Cookie(Arc<StickyCookie>),
    /// Whoever comes from the same address.
    Source,
}

/// The cookie of a sticky service.
#[derive(Debug)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// What follows its value, over plaintext and over TLS.
    pub attributes: [String; 2],
    /// Key of the hash that names endpoints: who has it could find out their addresses.
    pub key: [u8; 32],
}

/// How a service balances.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How an endpoint is chosen.
    pub strategy: Strategy,
    /// What of a request decides, for [`Strategy::Ring`] and [`Strategy::Maglev`].
    pub key: Option<KeyOf>,
    /// Who comes back.
    pub sticky: Option<Sticky>,
    /// How long an endpoint that is new or back gets less than its share; zero: not at all.
    pub slow_start: Duration,
    /// With a smaller share of available endpoints than this, in percent, all are used.
    pub panic: u32,
    /// The zone that is preferred.
    pub zone: Option<Arc<str>>,
    /// Only so many of the endpoints are used by this process.
    pub subset: Option<Subset>,
}

/// A part of the endpoints, the same after each restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    /// How many.
    pub size: usize,
    /// Tells this proxy from others.
    pub seed: u64,
}

impl Plan {
    /// The plan of a service that says nothing but its strategy.
    #[must_use]
    pub const fn of(strategy: Strategy) -> Self {
        Self {
            strategy,
            key: None,
            sticky: None,
            slow_start: SLOW_START,
            panic: PANIC,
            zone: None,
            subset: None,
        }
    }

    /// Whether something of the request decides.
    #[must_use]
    pub const fn reads_requests(&self) -> bool {
        self.key.is_some() || self.sticky.is_some()
    }

    /// Whether its tables are large.
    #[must_use]
    pub const fn is_hashed(&self) -> bool {
        let hashed = matches!(
            self.strategy,
            Strategy::Ring { .. } | Strategy::Maglev { .. }
        );
        hashed || matches!(self.sticky, Some(Sticky::Source))
    }

    /// Whether it wants to know exactly how long an answer took.
    #[must_use]
    pub const fn times(&self) -> bool {
        matches!(self.strategy, Strategy::ResponseTime)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::of(Strategy::LeastRequest { full: false })
    }
}
