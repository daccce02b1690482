//! Part of stage 6, policy: the guards of a rule, in the order in which a request meets them.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use selvedge_gateway::address::Ranges;
use selvedge_gateway::apikey::Consumer;
use selvedge_gateway::authorize::Sense;
use selvedge_gateway::jwt::{Expect, Verified};
use selvedge_gateway::limit::Count;
use selvedge_gateway::signature::Form;
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::message::{BodyLength, RequestHead, Response};
use crate::respond::pages::Pages;
use crate::route::Edits;

use super::access::{Access, Audit};
use super::any_of::{AnyOf, Tried};
use super::api_key::ApiKey;
use super::bandwidth::Bandwidth;
use super::basic::Basic;
use super::client;
use super::client_certificate::ClientCertificates;
use super::concurrency::Concurrency;
use super::cors::Cors;
use super::ext_authz::{ExtAuthz, Question, Verdict};
use super::fault::Fault;
use super::introspection::{Introspection, Judged};
use super::jwt::Jwt;
use super::limit::Limit;
use super::manners::{Csrf, Security, Version};
pub use super::notes::Notes;
use super::oidc::{self, Oidc};
use super::shared::Lost;
use super::signature::Signature;

/// One thing that a request must pass. The order of the variants is the order of the checks: what
/// costs least and turns away most comes first.
#[derive(Debug, Clone)]
pub enum Guard {
    /// Marks responses for browsers.
    Security(Arc<Security>),
    /// Puts pages in place of failures.
    Pages(Arc<Pages>),
    /// Counts a version, and tells when it ends.
    Version(Arc<Version>),
    /// Answers preflights before anything asks who calls: browsers send those without credentials.
    Cors(Arc<Cors>),
    /// By where a page is from.
    Csrf(Arc<Csrf>),
    /// By address.
    Address(Arc<Addresses>),
    /// By rate, of whoever is there.
    Limit(Arc<Limit>),
    /// By session; sends users to log in.
    Oidc(Arc<Oidc>),
    /// By the certificate of its connection.
    ClientCertificate(Arc<ClientCertificates>),
    /// By token.
    Jwt(Arc<Jwt>),
    /// By token, of which its server is asked.
    Introspection(Arc<Introspection>),
    /// By key.
    ApiKey(Arc<ApiKey>),
    /// By password.
    Basic(Arc<Basic>),
    /// By a signature of the request.
    Signature(Arc<Signature>),
    /// By whatever of several it brings.
    AnyOf(Arc<AnyOf>),
    /// By rate, of who that is.
    IdentityLimit(Arc<Limit>),
    /// By how many requests are on their way, of whoever is there.
    Concurrency(Arc<Concurrency>),
    /// Slows bodies down, of whoever is there.
    Bandwidth(Arc<Bandwidth>),
    /// By how many requests are on their way, of who that is.
    IdentityConcurrency(Arc<Concurrency>),
    /// Slows bodies down, by who that is.
    IdentityBandwidth(Arc<Bandwidth>),
    /// By whoever is asked.
    Ask(Arc<ExtAuthz>),
    /// Who may not.
    Deny(Arc<Access>),
    /// Who may.
    Allow(Arc<Access>),
    /// Who would be kept out.
    Audit(Arc<Audit>),
    /// Fails some, on purpose.
    Fault(Arc<Fault>),
    /// Edits headers.
    Headers(Arc<Headers>),
}

/// Edits of headers for all of a listener.
#[derive(Debug)]
pub struct Headers {
    /// Of the request.
    pub request: Edits,
    /// Of the response.
    pub response: Edits,
}

/// Why a request goes no further.
pub enum Stop {
    /// It may not.
    Refused(Error),
    /// It is answered here.
    Answered(Box<Response>),
    /// A policy has refused it for this, with an answer of its own.
    Denied(ErrorKind, Box<Response>),
    /// It must wait for this, which bounds its own time; then it goes on where it was.
    Wait(Work),
    /// Its body must be read, of this many bytes at most; then it goes on where it was.
    Body(usize),
    /// A service must be asked; then it goes on where it was.
    Ask(Arc<ExtAuthz>, Box<Question>),
}

/// What a guard waits for.
pub type Work = Pin<Box<dyn Future<Output = Found>>>;

/// What came of it.
#[derive(Debug)]
pub enum Found {
    /// Keys were fetched again, or could not be.
    Keys,
    /// An issuer was asked about a user.
    Oidc(Box<oidc::Outcome>),
    /// A server was asked about a token.
    Introspection(Judged),
    /// A password was verified, or could not be for lack of time.
    Basic(Option<bool>),
    /// The body of the request.
    Body(Bytes),
    /// What a shared store has counted.
    Count(Result<Count, Lost>),
    /// What a service has decided.
    Verdict(Rc<Verdict>),
    /// Time has passed.
    Waited,
}

impl Stop {
    /// Waits for this.
    pub fn wait(work: impl Future<Output = Found> + 'static) -> Self {
        Self::Wait(Box::pin(work))
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "Refused({error})"),
            Self::Answered(response) => write!(f, "Answered({})", response.head.status),
            Self::Denied(_, response) => write!(f, "Denied({})", response.head.status),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Body(most) => write!(f, "Body({most})"),
            Self::Ask(policy, _) => write!(f, "Ask({})", policy.name),
        }
    }
}

impl From<ErrorKind> for Stop {
    fn from(kind: ErrorKind) -> Self {
        Self::Refused(kind.into())
    }
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
    /// What is known of the length of its body.
    pub body: BodyLength,
    /// Name of its route and rule.
    pub rule: &'a str,
    /// The claims of its token.
    pub token: Option<Rc<Verified>>,
    /// Whose key it brought.
    pub consumer: Option<Consumer>,
    /// Somebody else has decided who it is.
    pub asked: bool,
    /// It comes from somebody who has signed it, whoever that is.
    pub signed: bool,
    /// What came of the wait that the next guard asked for.
    pub found: Option<Found>,
    /// Guards that it has passed.
    pub passed: usize,
    /// What it has tried of the one that it is at.
    pub tried: Tried,
    address: Option<IpAddr>,
}

impl<'a> Seen<'a> {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(
        downstream: &'a Downstream,
        head: &'a RequestHead,
        rule: &'a str,
        now: Instant,
    ) -> Self {
        Self {
            downstream,
            head,
            now,
            body: BodyLength::Unknown,
            rule,
            token: None,
            consumer: None,
            asked: false,
            signed: false,
            found: None,
            passed: 0,
            tried: Tried::default(),
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
    /// The place of edits of headers.
    pub const HEADERS: u8 = 25;

    /// A limit: behind authentication if it counts by who that finds.
    #[must_use]
    pub fn of_limit(limit: Arc<Limit>) -> Self {
        if limit.asks_who() {
            Self::IdentityLimit(limit)
        } else {
            Self::Limit(limit)
        }
    }

    /// A limit of requests on their way: as early as it can be.
    #[must_use]
    pub fn of_concurrency(policy: Arc<Concurrency>) -> Self {
        if policy.asks_who() {
            Self::IdentityConcurrency(policy)
        } else {
            Self::Concurrency(policy)
        }
    }

    /// A pace: before bodies are read, if it can be.
    #[must_use]
    pub fn of_bandwidth(policy: Arc<Bandwidth>) -> Self {
        if policy.by.asks_who() {
            Self::IdentityBandwidth(policy)
        } else {
            Self::Bandwidth(policy)
        }
    }

    /// Who may, or may not.
    #[must_use]
    pub fn of_access(access: Arc<Access>) -> Self {
        match access.sense {
            Sense::Allow => Self::Allow(access),
            Sense::Deny => Self::Deny(access),
        }
    }

    /// The login that it is, or that is one of its ways.
    #[must_use]
    pub fn login(&self) -> Option<&Arc<Oidc>> {
        match self {
            Self::Oidc(oidc) => Some(oidc),
            Self::AnyOf(several) => several.oidc(),
            _ => None,
        }
    }

    /// Whether it finds out who calls.
    #[must_use]
    pub const fn asks_who(&self) -> bool {
        matches!(self.order(), 9..=15)
    }

    /// Its place among the checks.
    #[must_use]
    pub const fn order(&self) -> u8 {
        match self {
            Self::Security(_) => 0,
            Self::Pages(_) => 1,
            Self::Version(_) => 2,
            Self::Cors(_) => 3,
            Self::Csrf(_) => 4,
            Self::Address(_) => 5,
            Self::Limit(_) => 6,
            Self::Concurrency(_) => 7,
            Self::Bandwidth(_) => 8,
            Self::Oidc(_) => 9,
            Self::ClientCertificate(_) => 10,
            Self::Jwt(_) => 11,
            Self::Introspection(_) => 12,
            Self::ApiKey(_) => 13,
            Self::Basic(_) => 14,
            Self::Signature(_) => 15,
            Self::AnyOf(_) => 16,
            Self::IdentityLimit(_) => 17,
            Self::IdentityConcurrency(_) => 18,
            Self::IdentityBandwidth(_) => 19,
            Self::Deny(_) => 20,
            Self::Allow(_) => 21,
            Self::Audit(_) => 22,
            Self::Ask(_) => 23,
            Self::Fault(_) => 24,
            Self::Headers(_) => Self::HEADERS,
        }
    }

    /// Headers by which it tells the application who calls. From clients they are worth nothing.
    #[must_use]
    pub fn told(&self) -> Vec<&str> {
        fn claims(expect: &Expect) -> Vec<&str> {
            expect.headers.iter().map(|(_, name)| &**name).collect()
        }
        match self {
            Self::Oidc(oidc) => claims(&oidc.expect),
            Self::Jwt(jwt) => claims(&jwt.expect),
            Self::Introspection(policy) => claims(&policy.expect),
            Self::ClientCertificate(policy) => vec![&policy.name_header],
            Self::ApiKey(keys) => vec![&keys.name_header],
            Self::Basic(users) => vec![&users.name_header],
            Self::Signature(policy) if policy.form == Form::Message => vec![&policy.name_header],
            _ => Vec::new(),
        }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        match self {
            Self::Security(security) => {
                notes.security = Some(security.clone());
                Ok(())
            }
            Self::Pages(pages) => {
                notes.pages = Some(pages.clone());
                Ok(())
            }
            Self::Version(version) => version.check(notes),
            Self::Cors(cors) => cors.check(seen.head, notes),
            Self::Csrf(csrf) => csrf.check(seen),
            Self::Address(list) => {
                let address = seen.address();
                if *list.ranges.find(address).unwrap_or(&list.others) {
                    return Ok(());
                }
                tracing::debug!(policy = %list.name, %address, "refused");
                Err(ErrorKind::Denied.into())
            }
            Self::Limit(limit) | Self::IdentityLimit(limit) => limit.check(seen, notes),
            Self::Concurrency(policy) | Self::IdentityConcurrency(policy) => {
                policy.check(seen, notes)
            }
            Self::Bandwidth(policy) | Self::IdentityBandwidth(policy) => {
                policy.check(seen, notes);
                Ok(())
            }
            Self::Oidc(oidc) => oidc.check(seen, notes),
            Self::Jwt(jwt) => jwt.check(seen, notes),
            Self::Introspection(policy) => policy.check(seen, notes),
            Self::ApiKey(keys) => keys.check(seen, notes),
            Self::ClientCertificate(policy) => policy.check(seen, notes),
            Self::Basic(users) => users.check(seen, notes),
            Self::Signature(policy) => policy.check(seen, notes),
            Self::AnyOf(several) => several.check(seen, notes),
            Self::Ask(policy) => policy.check(seen, notes),
            Self::Fault(fault) => fault.check(seen),
            Self::Headers(headers) => {
                notes.headers = Some(headers.clone());
                Ok(())
            }
            Self::Deny(access) | Self::Allow(access) => access.check(seen),
            Self::Audit(audit) => {
                audit.look(seen, notes);
                Ok(())
            }
        }
    }
}
