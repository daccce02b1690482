//! Part of stage 6, policy: takes a token out of a request, verifies it or knows it again, and has
//! its claims passed on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_contract::defaults::policy::TOKENS;
use selvedge_gateway::jwt::{Expect, Refusal, Verified, verify};

use crate::error::{Error, ErrorKind};
use crate::message::{Known, RequestHead};

use super::guard::{Found, Notes, Seen, Stop};
use super::keys::KeySource;

/// Where a token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer`.
    Bearer,
    /// A header, all of it.
    Header(String),
    /// A cookie.
    Cookie(String),
}

/// A compiled policy.
#[derive(Debug)]
pub struct Jwt {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Tells its tokens from those of other policies.
    pub id: u64,
    /// Where the token stands.
    pub place: Place,
    /// What it must say.
    pub expect: Expect,
    /// Passes the token on.
    pub forward: bool,
    /// Whose keys.
    pub source: Arc<KeySource>,
}

impl Jwt {
    /// Verifies the token of a request, and notes what the application is told of it.
    ///
    /// # Errors
    /// [`Stop::Refused`] with 401, or 403 for its scope; [`Stop::Wait`] where the keys may have
    /// changed since they were fetched.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let Some(token) = self.token(seen.head) else {
            notes.fields.append(b"WWW-Authenticate", b"Bearer");
            return Err(ErrorKind::Unauthenticated.into());
        };
        let verified = match self.verified(token) {
            Ok(verified) => verified,
            Err(Refusal::UnknownKey) if seen.found.take().is_none() => {
                let source = self.source.clone();
                return Err(Stop::wait(async move {
                    source.again().await;
                    Found::Keys
                }));
            }
            Err(refusal) => return Err(self.refuse(refusal, notes)),
        };
        if !self.forward {
            match &self.place {
                Place::Bearer => notes.remove(b"Authorization"),
                Place::Header(name) => notes.remove(name.as_bytes()),
                Place::Cookie(_) => {}
            }
        }
        for (_, header) in &self.expect.headers {
            notes.remove(header.as_bytes());
        }
        for (name, value) in &verified.headers {
            notes.append(name.as_bytes(), value.as_bytes());
        }
        seen.token = Some(verified);
        Ok(())
    }

    fn verified(&self, token: &str) -> Result<Rc<Verified>, Refusal> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let generation = self.source.generation();
        let found = CACHE.with_borrow_mut(|cache| cache.find(self.id, token, generation, now));
        if let Some(found) = found {
            return Ok(found);
        }
        let keys = self.source.load().ok_or(Refusal::UnknownKey)?;
        let verified = Rc::new(verify(token, &keys, &self.expect, now)?);
        CACHE.with_borrow_mut(|cache| cache.keep(self.id, token, generation, verified.clone()));
        Ok(verified)
    }

    fn token<'a>(&self, head: &'a RequestHead) -> Option<&'a str> {
        let value = match &self.place {
            Place::Bearer => return bearer(head),
            Place::Header(name) => token_of(only(head, name)?),
            Place::Cookie(name) => token_of(cookie(head, name)?),
        };
        std::str::from_utf8(value).ok()
    }

    fn refuse(&self, refusal: Refusal, notes: &mut Notes) -> Stop {
        tracing::debug!(policy = %self.name, %refusal, "refused");
        // No key has ever come: it is not the token's fault.
        if refusal == Refusal::UnknownKey && self.source.load().is_none() {
            return ErrorKind::NoKeys.into();
        }
        refuse(refusal, notes)
    }
}

/// The value of a header that is there once: of two, the application may look at the other.
pub(super) fn only<'a>(head: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let named = |name_of: &[u8]| name_of.eq_ignore_ascii_case(name.as_bytes());
    let mut lines = head.fields.iter().filter(|field| named(field.name));
    let first = lines.next()?;
    lines.next().is_none().then_some(first.value)
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1).
pub(super) fn bearer(head: &RequestHead) -> Option<&str> {
    // Two would leave it open which one the application looks at.
    let mut fields = head.fields.all(Known::Authorization);
    let value = fields.next().filter(|_| fields.next().is_none())?;
    let (scheme, token) = value.split_at_checked(7)?;
    let token = scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)?;
    std::str::from_utf8(token_of(token)).ok()
}

/// What whoever brought a token is told of it (RFC 6750 section 3).
pub(super) fn refuse(refusal: Refusal, notes: &mut Notes) -> Stop {
    let (kind, code) = match refusal {
        Refusal::Scope => (ErrorKind::Denied, "insufficient_scope"),
        _ => (ErrorKind::Unauthenticated, "invalid_token"),
    };
    let told = format!("Bearer error=\"{code}\", error_description=\"{refusal}\"");
    notes.fields.append(b"WWW-Authenticate", told.as_bytes());
    Stop::Refused(Error::with(kind, refusal))
}

fn token_of(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// The value of the one cookie of that name.
pub(super) fn cookie<'a>(head: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let crumbs = head.fields.all(Known::Cookie);
    let pairs = crumbs.flat_map(|line| line.split(|b| *b == b';'));
    let mut found = pairs.filter_map(|pair| {
        let (key, value) = pair.trim_ascii().split_at_checked(name.len())?;
        (key == name.as_bytes()).then_some(value.strip_prefix(b"=")?)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

thread_local! {
    /// Tokens that this worker has verified.
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Verified tokens: two generations of bounded size, of which the older is forgotten whole. A
/// token is told by all of its bytes; only where to look for it is told by its end, which is its
/// signature.
#[derive(Default)]
struct Cache {
    hasher: RandomState,
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
}

#[derive(Clone)]
struct Entry {
    policy: u64,
    token: Rc<str>,
    generation: u64,
    verified: Rc<Verified>,
}

/// How much of a token's end is hashed.
const TAIL: usize = 32;

impl Cache {
    fn place(&self, policy: u64, token: &str) -> u64 {
        let bytes = token.as_bytes();
        let tail = bytes.get(bytes.len().saturating_sub(TAIL)..);
        self.hasher.hash_one((policy, tail))
    }

    fn find(
        &mut self,
        policy: u64,
        token: &str,
        generation: u64,
        now: u64,
    ) -> Option<Rc<Verified>> {
        let place = self.place(policy, token);
        if !self.young.contains_key(&place) {
            let entry = self.old.remove(&place)?;
            self.insert(place, entry);
        }
        let entry = self.young.get(&place)?;
        let same = entry.policy == policy && &*entry.token == token;
        let fresh = entry.generation == generation && now < entry.verified.until;
        (same && fresh).then(|| entry.verified.clone())
    }

    fn keep(&mut self, policy: u64, token: &str, generation: u64, verified: Rc<Verified>) {
        let entry = Entry {
            policy,
            token: Rc::from(token),
            generation,
            verified,
        };
        self.insert(self.place(policy, token), entry);
    }

    fn insert(&mut self, place: u64, entry: Entry) {
        if self.young.len() >= TOKENS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(place, entry);
    }
}
