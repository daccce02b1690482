//! Part of stage 6, policy: the guards of a rule, in the order in which a request meets them.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use selvedge_gateway::address::Ranges;
use selvedge_gateway::apikey::Consumer;
use selvedge_gateway::authorize::Sense;
use selvedge_gateway::jwt::Verified;
use selvedge_gateway::limit::Count;
use selvedge_gateway::oidc::cookie::without_own;
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::message::{BodyLength, Fields, Known, RequestHead, Response};
use crate::respond::pages::Pages;

use super::access::Access;
use super::api_key::{ApiKey, without};
use super::client;
use super::cors::Cors;
use super::ext_authz::{Change, ExtAuthz, Question, Verdict};
use super::introspection::{Introspection, Judged};
use super::jwt::Jwt;
use super::limit::Limit;
use super::manners::{Csrf, Security, Version};
use super::oidc::{self, Oidc};
use super::shared::Lost;

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
    /// By token.
    Jwt(Arc<Jwt>),
    /// By token, of which its server is asked.
    Introspection(Arc<Introspection>),
    /// By key.
    ApiKey(Arc<ApiKey>),
    /// By rate, of who that is.
    IdentityLimit(Arc<Limit>),
    /// By whoever is asked.
    Ask(Arc<ExtAuthz>),
    /// Who may not.
    Deny(Arc<Access>),
    /// Who may.
    Allow(Arc<Access>),
}

/// Why a request goes no further.
pub enum Stop {
    /// It may not.
    Refused(Error),
    /// It is answered here.
    Answered(Box<Response>),
    /// Whoever was asked has refused it, and this is the answer.
    Denied(Box<Response>),
    /// It must wait for this, which bounds its own time; then it goes on where it was.
    Wait(Work),
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
    /// What a shared store has counted.
    Count(Result<Count, Lost>),
    /// What a service has decided.
    Verdict(Rc<Verdict>),
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
            Self::Denied(response) => write!(f, "Denied({})", response.head.status),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Ask(policy, _) => write!(f, "Ask({})", policy.name),
        }
    }
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
    /// How the response is marked.
    pub security: Option<Arc<Security>>,
    /// What stands in for failures.
    pub pages: Option<Arc<Pages>>,
    /// What whoever was asked wants changed in the response.
    pub changes: Vec<Change>,
    /// The query holds a secret: it is in no log and no span.
    pub conceal: bool,
    /// Edits of the request, in order.
    edits: Vec<Edit>,
}

/// An edit of the request.
#[derive(Debug)]
enum Edit {
    Append(Box<[u8]>, Box<[u8]>),
    Remove(Box<[u8]>),
    StripQuery(Box<str>),
    StripSession(Box<str>),
    Change(Change),
}

impl Notes {
    /// The application will get this field.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.edits.push(Edit::Append(name.into(), value.into()));
    }

    /// The application will not get fields of this name, however it is spelt.
    pub fn remove(&mut self, name: &[u8]) {
        self.edits.push(Edit::Remove(name.into()));
    }

    /// What the application gets is changed.
    pub fn change(&mut self, change: Change) {
        self.edits.push(Edit::Change(change));
    }

    /// The application will not get this query parameter.
    pub fn strip_query(&mut self, name: &str) {
        self.edits.push(Edit::StripQuery(name.into()));
    }

    /// The application will not get the cookies of sessions and logins of this name.
    pub fn strip_session(&mut self, name: &str) {
        self.edits.push(Edit::StripSession(name.into()));
    }

    /// Edits the request.
    pub fn apply(&self, head: &mut RequestHead) {
        for edit in &self.edits {
            match edit {
                Edit::Append(name, value) => head.fields.append(name, value),
                Edit::Remove(name) => head.fields.remove_alike(name),
                Edit::StripQuery(name) => {
                    let query = without(head.target.query(), name);
                    head.target = head.target.with_query(&query);
                }
                Edit::Change(change) => change.apply(&mut head.fields),
                Edit::StripSession(name) => strip_session(&mut head.fields, name),
            }
        }
    }
}

/// Rewrites `Cookie` only where there is something to take out.
fn strip_session(fields: &mut Fields, name: &str) {
    let lines: Vec<&[u8]> = fields.all(Known::Cookie).collect();
    let left = |line: &&[u8]| without_own(line, name);
    if !lines.iter().any(|line| left(line).is_some()) {
        return;
    }
    let kept: Vec<Vec<u8>> = lines
        .iter()
        .map(|line| left(line).unwrap_or_else(|| line.to_vec()))
        .filter(|line| !line.is_empty())
        .collect();
    fields.remove_known(Known::Cookie);
    for line in kept {
        fields.append_known(Known::Cookie, &line);
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
    /// What came of the wait that the next guard asked for.
    pub found: Option<Found>,
    /// Guards that it has passed.
    pub passed: usize,
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
            body: BodyLength::Unknown,
            rule,
            token: None,
            consumer: None,
            asked: false,
            found: None,
            passed: 0,
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
    /// A limit: behind authentication if it counts by who that finds.
    #[must_use]
    pub fn of_limit(limit: Arc<Limit>) -> Self {
        if limit.asks_who() {
            Self::IdentityLimit(limit)
        } else {
            Self::Limit(limit)
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
            Self::Oidc(_) => 7,
            Self::Jwt(_) => 8,
            Self::Introspection(_) => 9,
            Self::ApiKey(_) => 10,
            Self::IdentityLimit(_) => 12,
            Self::Deny(_) => 20,
            Self::Allow(_) => 21,
            Self::Ask(_) => 22,
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
            Self::Oidc(oidc) => oidc.check(seen, notes),
            Self::Jwt(jwt) => jwt.check(seen, notes),
            Self::Introspection(policy) => policy.check(seen, notes),
            Self::ApiKey(keys) => keys.check(seen, notes),
            Self::Ask(policy) => policy.check(seen, notes),
            Self::Deny(access) | Self::Allow(access) => access.check(seen),
        }
    }
}
