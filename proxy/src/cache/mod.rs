//! Between stages 6 and 7, cache: responses kept for others who ask the same (RFC 9111).
//!
//! A store is shared by all workers and bounded by bytes. A hit takes one shard's read lock for a
//! look-up; whoever misses leads, and others who ask the same wait for what the leader gets.

mod fill;
mod purge;
mod stored;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use quick_cache::Weighter;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::cache::Defaults;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::message::{BodyLength, Known, Request, RequestHead, Response};

pub use fill::Ticket;
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
    /// Bytes of a body that may be stored.
    pub largest: usize,
    /// What became of requests.
    pub counts: Counts,
    store: quick_cache::sync::Cache<Key, Resource, Weigh>,
    pending: Mutex<HashMap<Key, watch::Sender<()>>>,
    epoch: Instant,
}

/// What there is for a request.
#[derive(Debug)]
pub enum Looked {
    /// This answer. With a ticket, it is not fresh, and one request should fetch a new one.
    Answer(Response, Option<Box<Ticket>>),
    /// Nothing yet: this request leads.
    Lead(Box<Ticket>),
    /// Another request has gone for it; look again when this changes.
    Wait(watch::Receiver<()>),
    /// It is not for a cache.
    Pass,
}

/// A request as the cache sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Name of its rule: what another rule stored is not for this one.
    pub rule: &'a Arc<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The request.
    pub head: &'a RequestHead,
    /// It has proven who calls.
    pub authorized: bool,
}

impl Asked<'_> {
    fn write_key(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.scheme.as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(self.head.host.as_str().as_bytes());
        out.extend_from_slice(self.head.target.text());
    }
}

impl Cache {
    /// An empty store for this many bytes.
    #[must_use]
    pub fn new(name: Arc<str>, rules: Defaults, bytes: u64, largest: usize) -> Arc<Self> {
        let items = usize::try_from(bytes / 4096)
            .unwrap_or(usize::MAX)
            .clamp(64, 1 << 20);
        Arc::new(Self {
            name,
            rules,
            largest,
            counts: Counts::default(),
            store: quick_cache::sync::Cache::with_weighter(items, bytes, Weigh),
            pending: Mutex::new(HashMap::new()),
            epoch: Instant::now(),
        })
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
                let ticket = self.lead(key, asked, Some(stored.clone())).ok();
                return Looked::Answer(response, ticket);
            }
        }
        // Parts and heads of what is not here are no way to get the whole.
        let partial = asked.head.fields.known(Known::Range).is_some();
        if partial || asked.head.method != Method::GET {
            return self.pass();
        }
        match self.lead(key, asked, stored) {
            Ok(ticket) => {
                self.counts.misses.fetch_add(1, Relaxed);
                Looked::Lead(ticket)
            }
            Err(others) if patient => {
                self.counts.collapsed.fetch_add(1, Relaxed);
                Looked::Wait(others)
            }
            Err(_) => self.pass(),
        }
    }

    fn pass(&self) -> Looked {
        self.counts.passed.fetch_add(1, Relaxed);
        Looked::Pass
    }

    /// Makes this request the one that fetches, unless there is one already.
    fn lead(
        self: &Arc<Self>,
        key: &[u8],
        asked: &Asked<'_>,
        stale: Option<Arc<Stored>>,
    ) -> Result<Box<Ticket>, watch::Receiver<()>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = pending.get(key) {
            return Err(others.subscribe());
        }
        let key: Key = key.into();
        pending.insert(key.clone(), watch::Sender::new(()));
        drop(pending);
        let lead = Lead {
            cache: self.clone(),
            key,
        };
        Ok(Box::new(Ticket::new(lead, asked, stale)))
    }

    /// Puts a response in, in place of one for the same request fields.
    fn insert(&self, key: &Key, stored: Arc<Stored>) {
        let mut list: Vec<Arc<Stored>> = match self.store.peek(key) {
            Some(Resource::Stored(list)) => list.to_vec(),
            _ => Vec::new(),
        };
        list.retain(|old| !old.same_variant(&stored));
        list.insert(0, stored);
        list.truncate(defaults::CACHE_VARIANTS);
        self.store
            .insert(key.clone(), Resource::Stored(list.into()));
    }

    /// Remembers that nothing could be stored here, unless something is.
    fn remember_pass(&self, key: &Key, now: Instant) {
        if !matches!(self.store.peek(key), Some(Resource::Stored(_))) {
            let until = now + defaults::CACHE_PASS;
            self.store.insert(key.clone(), Resource::Pass(until));
        }
    }

    /// Forgets what a successful unsafe request has changed (RFC 9111 section 4.4).
    pub fn invalidate(&self, asked: &Asked<'_>) {
        let mut key = Vec::new();
        asked.write_key(&mut key);
        self.store.remove(key.as_slice());
    }

    /// A request waits this long for another's answer.
    pub const PATIENCE: Duration = defaults::CACHE_WAIT;
}

/// Held by the one request that fetches; others go on when it is dropped.
#[derive(Debug)]
struct Lead {
    cache: Arc<Cache>,
    key: Key,
}

impl Drop for Lead {
    fn drop(&mut self) {
        let pending = &self.cache.pending;
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        // The sender's end is what the others wait for.
        pending.remove(&self.key);
    }
}
