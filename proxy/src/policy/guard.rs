//! Part of stage 6, policy: the guards of a rule, in the order in which a request meets them.

use std::net::IpAddr;
use std::sync::Arc;

use selvedge_gateway::address::Ranges;
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::message::{Fields, RequestHead, Response};

use super::client;
use super::cors::Cors;
use super::limit::Limit;

/// One thing that a request must pass. The order of the variants is the order of the checks: what
/// costs least and turns away most comes first.
#[derive(Debug, Clone)]
pub enum Guard {
    /// Answers preflights before anything asks who calls: browsers send those without credentials.
    Cors(Arc<Cors>),
    /// By address.
    Address(Arc<Addresses>),
    /// By rate.
    Limit(Arc<Limit>),
}

/// Why a request goes no further.
#[derive(Debug)]
pub enum Stop {
    /// It may not.
    Refused(Error),
    /// It is answered here.
    Answered(Box<Response>),
}

impl From<ErrorKind> for Stop {
    fn from(kind: ErrorKind) -> Self {
        Self::Refused(kind.into())
    }
}

/// What guards leave for the response, whoever gives it.
#[derive(Debug, Default)]
pub struct Notes {
    /// Fields to add.
    pub fields: Fields,
    /// What the application says about other origins is replaced.
    pub cors: bool,
}

/// What guards look at.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The connection.
    pub downstream: &'a Downstream,
    /// The request.
    pub head: &'a RequestHead,
    /// When it came.
    pub now: Instant,
    /// Name of its route and rule.
    pub rule: &'a str,
    address: Option<IpAddr>,
}

impl<'a> Seen<'a> {
    /// Nothing looked at yet.
    #[must_use]
    pub const fn new(
        downstream: &'a Downstream,
        head: &'a RequestHead,
        rule: &'a str,
        now: Instant,
    ) -> Self {
        Self {
            downstream,
            head,
            now,
            rule,
            address: None,
        }
    }

    /// The client's address.
    pub fn address(&mut self) -> IpAddr {
        *self
            .address
            .get_or_insert_with(|| client::address(self.downstream, &self.head.fields))
    }
}

/// A policy by address.
#[derive(Debug)]
pub struct Addresses {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Ranges, and whether they may pass.
    pub ranges: Ranges<bool>,
    /// Whether others may.
    pub others: bool,
}

impl Guard {
    /// Its place among the checks.
    #[must_use]
    pub const fn order(&self) -> u8 {
        match self {
            Self::Cors(_) => 0,
            Self::Address(_) => 1,
            Self::Limit(_) => 2,
        }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        match self {
            Self::Cors(cors) => cors.check(seen.head, notes),
            Self::Address(list) => {
                let address = seen.address();
                if *list.ranges.find(address).unwrap_or(&list.others) {
                    return Ok(());
                }
                tracing::debug!(policy = %list.name, %address, "refused");
                Err(ErrorKind::Denied.into())
            }
            Self::Limit(limit) => limit.check(seen, notes),
        }
    }
}
