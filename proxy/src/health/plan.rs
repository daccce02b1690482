//! Beside the path: how a service's endpoints are checked, as the compiler has made it of its configuration.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Uri};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is asked.
    pub ask: Ask,
    /// Port that is asked, where it is not the endpoint's.
    pub port: Option<u16>,
    /// Time between checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out.
    pub unhealthy_after: u32,
    /// Successes in a row that bring it back.
    pub healthy_after: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A connection.
    Tcp,
    /// `grpc.health.v1`, about a service; with a host where one is given.
    Grpc(String, Option<String>),
    /// A GET.
    Http(Box<Get>),
}

/// A GET, and what it should give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// Path and query.
    pub path: Uri,
    /// Host; `None` is the endpoint's address.
    pub host: Option<String>,
    /// Further fields.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Statuses of an endpoint that is well.
    pub good: Statuses,
    /// What its body has to hold.
    pub body: Option<String>,
    /// Answers of an endpoint that can do less than it should.
    pub degraded: Option<Degraded>,
}

/// See [`Get::degraded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// By this field.
    pub field: Option<HeaderName>,
    /// By these statuses.
    pub statuses: Statuses,
    /// Percent of its share that it does not get.
    pub withheld: u32,
}

/// Some statuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

impl Plan {
    /// Percent of its share that an endpoint does not get while it is degraded.
    #[must_use]
    pub fn withheld(&self) -> u32 {
        match &self.ask {
            Ask::Http(get) => get.degraded.as_ref().map_or(0, |d| d.withheld),
            Ask::Tcp | Ask::Grpc(..) => 0,
        }
    }
}
