//! Between stages 6 and 7, cache: responses kept for others who ask the same (RFC 9111).
//!
//! A store is shared by all workers and bounded by bytes. A hit takes one shard's read lock for a
//! look-up; whoever misses leads, and others who ask the same wait for what the leader gets.

mod fill;
mod lead;
mod purge;
mod stored;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use quick_cache::Weighter;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::cache::Defaults;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::message::{BodyLength, Host, Known, Request, RequestHead, Response, Target};

pub use fill::{Fallback, Ticket, is_failure};
use lead::{Lead, Pending};
pub use purge::Purge;
use stored::{Stored, Wants};

/// Scheme, host and target of what is stored.
type Key = Arc<[u8]>;

/// What is known of one address.
#[derive(Debug, Clone)]
enum Resource {
    /// Responses, for the values of the request fields that they vary by.
    Stored(Arc<[Arc<Stored>]>),
    /// What came last could not be stored: until then, nobody waits for anybody.
    Pass(Instant),
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Resource> for Weigh {
    fn weight(&self, key: &Key, resource: &Resource) -> u64 {
        let stored = match resource {
            Resource::Stored(list) => list.iter().map(|s| s.weight()).sum(),
            Resource::Pass(_) => 0,
        };
        // What the maps around it take, roughly.
        key.len() as u64 + stored + 128
    }
}

/// What became of requests, for the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answered from the store.
    pub hits: AtomicU64,
    /// Answered from the store though it was not fresh.
    pub stale: AtomicU64,
    /// Sent on, and perhaps stored.
    pub misses: AtomicU64,
    /// Waited for another's miss.
    pub collapsed: AtomicU64,
    /// Sent on: not for a cache.
    pub passed: AtomicU64,
}

/// A compiled policy, and its store.
#[derive(Debug)]
pub struct Cache {
    /// Name of the policy.
    pub name: Arc<str>,
    /// What holds where responses say nothing.
    pub rules: Defaults,
    /// That a request has cookies does not matter.
    pub ignore_cookies: bool,
    /// Bytes of a body that may be stored.
    pub largest: usize,
    /// What became of requests.
    pub counts: Counts,
    store: quick_cache::sync::Cache<Key, Resource, Weigh>,
    pending: Mutex<HashMap<Key, Pending>>,
    next: AtomicU64,
    /// Bytes of answers that are on their way in, and how many there may be.
    filling: AtomicU64,
    fillable: u64,
    epoch: Instant,
}

/// What there is for a request.
#[derive(Debug)]
pub enum Looked {
    /// This answer. With a ticket, it is not fresh, and one request should fetch a new one.
    Answer(Response, Option<Box<Ticket>>),
    /// Nothing yet: this request leads.
    Lead(Box<Ticket>),
    /// Another request has gone for it; look again when this ends. It changes when the head of the
    /// other's answer is there.
    Wait(watch::Receiver<Option<Instant>>),
    /// It goes its own way, perhaps with something to fall back on.
    Pass(Option<Fallback>),
}

/// What a client asked for, before it was rewritten.
#[derive(Debug, Clone)]
pub struct Site {
    /// Host.
    pub host: Host,
    /// Path and query.
    pub target: Target,
    /// What a policy has made of it: other answers for the same address.
    pub made: Vec<u8>,
}

/// A request as the cache sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What its rule is made of: what another rule stored, or the same one before it was changed,
    /// is not for this one.
    pub rule: &'a Arc<str>,
    /// What the client asked for.
    pub site: &'a Site,
    /// `http` or `https`, where nothing is forwarded.
    pub scheme: &'static str,
    /// The request as it would be sent.
    pub head: &'a RequestHead,
    /// It has proven who calls.
    pub authorized: bool,
}

impl Asked<'_> {
    /// Scheme, host and target as the client sees them, and what the application is told of them:
    /// answers may hold links that are made from that.
    fn write_key(&self, out: &mut Vec<u8>) {
        out.clear();
        let fields = &self.head.fields;
        let scheme = fields.known(Known::XForwardedProto);
        let scheme = scheme.unwrap_or(self.scheme.as_bytes());
        let host = &self.site.host;
        let default = match scheme {
            b"https" => Some(443),
            b"http" => Some(80),
            _ => None,
        };
        let named = if host.port() == default {
            host.name()
        } else {
            host.as_str()
        };
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        out.extend_from_slice(named.as_bytes());
        out.extend_from_slice(self.site.target.text());
        if let Some(told) = fields.known(Known::XForwardedHost)
            && told != host.as_str().as_bytes()
        {
            out.push(0);
            out.extend_from_slice(told);
        }
        if !self.site.made.is_empty() {
            out.push(0);
            out.extend_from_slice(&self.site.made);
        }
    }
}

impl Cache {
    /// An empty store for this many bytes.
    #[must_use]
    pub fn new(name: Arc<str>, rules: Defaults, bytes: u64, largest: usize) -> Self {
        let items = usize::try_from(bytes / 4096).unwrap_or(usize::MAX);
        let items = items.clamp(64, 1 << 20);
        Self {
            name,
            rules,
            ignore_cookies: false,
            largest,
            counts: Counts::default(),
            store: quick_cache::sync::Cache::with_weighter(items, bytes, Weigh),
            pending: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
            filling: AtomicU64::new(0),
            fillable: bytes / 4,
            epoch: Instant::now(),
        }
    }

    /// Bytes that are stored.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.store.weight()
    }

    /// Responses that are stored, one for each address.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    /// Whether a request could be answered from a cache.
    #[must_use]
    pub fn takes(request: &Request) -> bool {
        let head = &request.head;
        (head.method == Method::GET || head.method == Method::HEAD)
            && head.upgrade.is_none()
            && request.body.length() == BodyLength::Exact(0)
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs()
    }

    /// Looks for an answer. `patient` ones may be told to wait for another request.
    #[must_use]
    pub fn look(self: &Arc<Self>, asked: &Asked<'_>, now: Instant, patient: bool) -> Looked {
        thread_local! {
            static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        KEY.with_borrow_mut(|key| {
            asked.write_key(key);
            self.look_up(key, asked, now, patient)
        })
    }

    fn look_up(
        self: &Arc<Self>,
        key: &[u8],
        asked: &Asked<'_>,
        now: Instant,
        patient: bool,
    ) -> Looked {
        let (list, patient) = match self.store.get(key) {
            None => (None, patient),
            Some(Resource::Stored(list)) => (Some(list), patient),
            Some(Resource::Pass(until)) => (None, patient && now >= until),
        };
        let stored = list.and_then(|list| list.iter().find(|s| s.fits(asked)).cloned());
        let seconds = self.seconds(now);
        if let Some(stored) = &stored {
            let age = stored.age(seconds);
            if age < stored.life.fresh {
                self.counts.hits.fetch_add(1, Relaxed);
                let response = stored.answer(&Wants::of(asked.head), age, "hit");
                return Looked::Answer(response, None);
            }
            if age < stored.life.fresh + stored.life.while_revalidate {
                self.counts.stale.fetch_add(1, Relaxed);
                let response = stored.answer(&Wants::of(asked.head), age, "hit; detail=stale");
                let ticket = self.lead(key, asked, Some(stored.clone()), now).ok();
                return Looked::Answer(response, ticket);
            }
        }
        // Parts and heads of what is not here are no way to get the whole, and conditions that the
        // origin must judge are its own business.
        if asked.head.method != Method::GET || is_special(asked.head) {
            return self.pass(stored);
        }
        match self.lead(key, asked, stored.clone(), now) {
            Ok(ticket) => {
                self.counts.misses.fetch_add(1, Relaxed);
                Looked::Lead(ticket)
            }
            Err(others) if patient => {
                self.counts.collapsed.fetch_add(1, Relaxed);
                Looked::Wait(others)
            }
            Err(_) => self.pass(stored),
        }
    }

    fn pass(self: &Arc<Self>, stale: Option<Arc<Stored>>) -> Looked {
        self.counts.passed.fetch_add(1, Relaxed);
        Looked::Pass(stale.map(|stale| Fallback {
            cache: self.clone(),
            stale,
        }))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Key, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this request the one that fetches, unless there is one already that is not too slow.
    fn lead(
        self: &Arc<Self>,
        key: &[u8],
        asked: &Asked<'_>,
        stale: Option<Arc<Stored>>,
        now: Instant,
    ) -> Result<Box<Ticket>, watch::Receiver<Option<Instant>>> {
        let mut pending = self.pending();
        if let Some(other) = pending.get(key) {
            let arrived = *other.arrived.borrow();
            // Whoever reads its answer slowly must not keep it from all others.
            if arrived.is_none_or(|at| now < at + defaults::CACHE_OVERTAKE) {
                return Err(other.arrived.subscribe());
            }
        }
        let key: Key = key.into();
        let id = self.next.fetch_add(1, Relaxed);
        let mine = Pending {
            id,
            arrived: watch::Sender::new(None),
        };
        pending.insert(key.clone(), mine);
        drop(pending);
        let lead = Lead {
            cache: self.clone(),
            key,
            id,
        };
        Ok(Box::new(Ticket::new(lead, asked, stale)))
    }

    /// Remembers that nothing could be stored here, and forgets what was.
    fn remember_pass(&self, lead: &Lead, now: Instant) {
        let pending = self.pending();
        if lead.owns(&pending) {
            let until = now + defaults::CACHE_PASS;
            self.store.insert(lead.key.clone(), Resource::Pass(until));
        }
    }

    /// Forgets what a successful unsafe request has changed (RFC 9111 section 4.4), also what is on
    /// its way in.
    pub fn invalidate(&self, asked: &Asked<'_>) {
        let mut key = Vec::new();
        asked.write_key(&mut key);
        self.pending().remove(key.as_slice());
        self.store.remove(key.as_slice());
    }

    /// A request waits this long for another's answer to begin.
    pub const PATIENCE: Duration = defaults::CACHE_WAIT;
    /// And this long from there until it is whole.
    pub const BODY_PATIENCE: Duration = defaults::CACHE_BODY;
}

/// Asks for a part, or sets conditions that only the origin can judge.
fn is_special(head: &RequestHead) -> bool {
    head.fields.known(Known::Range).is_some()
        || head.fields.named("If-Match").is_some()
        || head.fields.named("If-Unmodified-Since").is_some()
}
