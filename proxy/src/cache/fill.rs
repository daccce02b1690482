//! Part of the cache: what a request that leads does with its answer, on the way to the client.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::cache::{Control, Facts, lifetime};
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::through::Through;
use crate::message::{Body, BodyLength, Chunk, Fields, Known, RequestHead, Response};

use super::stored::{Stored, Wants, date, varied};
use super::{Asked, Cache, Lead};

/// What may stand in for an upstream that fails.
#[derive(Debug)]
pub struct Fallback {
    pub(super) cache: Arc<Cache>,
    pub(super) stale: Arc<Stored>,
}

impl Fallback {
    /// The old answer, if it is not too old for that (RFC 5861 section 4).
    #[must_use]
    pub fn instead(&self, head: &RequestHead, now: Instant) -> Option<Response> {
        let age = self.stale.age(self.cache.seconds(now));
        if age
            >= self
                .stale
                .life
                .fresh
                .saturating_add(self.stale.life.if_error)
        {
            return None;
        }
        self.cache.counts.stale.fetch_add(1, Relaxed);
        let how = "hit; detail=stale-if-error";
        Some(self.stale.answer(&Wants::of(head), age, how))
    }
}

/// Whether a status says that the upstream fails.
#[must_use]
pub fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// The right, and the duty, to fetch. Others wait until it is gone.
#[derive(Debug)]
pub struct Ticket {
    lead: Lead,
    rule: Arc<str>,
    authorized: bool,
    /// What is there, too old to answer.
    stale: Option<Arc<Stored>>,
    /// The client's own head, where ours stands in its place.
    client: Option<Box<RequestHead>>,
}

impl Ticket {
    pub(super) fn new(lead: Lead, asked: &Asked<'_>, stale: Option<Arc<Stored>>) -> Self {
        Self {
            lead,
            rule: asked.rule.clone(),
            authorized: asked.authorized,
            stale,
            client: None,
        }
    }

    /// Makes a request one for the whole: what fetches behind the back of a client asks for what all
    /// others want, not for what that one did.
    pub fn whole(head: &mut RequestHead) {
        head.method = Method::GET;
        for name in ["Range", "If-Range", "If-Match", "If-Unmodified-Since"] {
            head.fields.remove(name.as_bytes());
        }
        for known in [Known::IfNoneMatch, Known::IfModifiedSince] {
            head.fields.remove_known(known);
        }
    }

    /// Asks only whether what is there is still good (RFC 9111 section 4.3.1).
    pub fn condition(&mut self, head: &mut RequestHead) {
        let Some(stale) = &self.stale else { return };
        let etag = stale.fields.known(Known::ETag);
        let modified = stale.fields.known(Known::LastModified);
        if etag.is_none() && modified.is_none() {
            return;
        }
        self.client = Some(Box::new(head.clone()));
        for known in [Known::IfNoneMatch, Known::IfModifiedSince] {
            head.fields.remove_known(known);
        }
        if let Some(etag) = etag {
            head.fields.append_known(Known::IfNoneMatch, etag);
        }
        if let Some(modified) = modified {
            head.fields.append_known(Known::IfModifiedSince, modified);
        }
    }

    /// Takes the upstream's answer; gives what the client gets.
    #[must_use]
    pub fn answered(self, response: Response, head: &RequestHead, now: Instant) -> Response {
        let status = response.head.status;
        if status == StatusCode::NOT_MODIFIED
            && let (Some(stale), Some(client)) = (&self.stale, &self.client)
        {
            return self.freshened(stale, &response.head.fields, client, now);
        }
        if is_failure(status) {
            return self.instead(head, now).unwrap_or(response);
        }
        self.keep(response, head, now)
    }

    /// What is there, if it may stand in for an upstream that fails.
    #[must_use]
    pub fn instead(&self, head: &RequestHead, now: Instant) -> Option<Response> {
        let fallback = Fallback {
            cache: self.lead.cache.clone(),
            stale: self.stale.clone()?,
        };
        fallback.instead(self.client.as_deref().unwrap_or(head), now)
    }

    /// The answer that a 304 makes of what is stored (RFC 9111 section 3.2). It is stored again if
    /// both together may be; what the news says to this client alone goes to nobody else.
    fn freshened(
        &self,
        stale: &Arc<Stored>,
        news: &Fields,
        client: &RequestHead,
        now: Instant,
    ) -> Response {
        let of_the_body = |known| {
            matches!(
                known,
                Known::ContentLength | Known::ContentEncoding | Known::ContentType | Known::Age
            )
        };
        let mut fields = stale.fields.clone();
        let told = news.iter().filter(|field| {
            !of_the_body(field.known) && !field.name.eq_ignore_ascii_case(b"Content-Range")
        });
        let told: Vec<_> = told.collect();
        for field in &told {
            fields.remove(field.name);
        }
        for field in &told {
            fields.append(field.name, field.value);
        }
        let cookies = self.has_cookie(client);
        let facts = facts(stale.status, &fields, news, self.authorized, cookies);
        let life = lifetime(&facts, &self.lead.cache.rules);
        let fresh = Arc::new(Stored {
            rule: stale.rule.clone(),
            vary: stale.vary.clone(),
            status: stale.status,
            fields: compact(&fields, stale.body.len()),
            body: stale.body.clone(),
            since: self.lead.cache.seconds(now),
            life: life.unwrap_or_default(),
            tags: stale.tags.clone(),
        });
        let how = "fwd=stale; fwd-status=304";
        let age = fresh.age(self.lead.cache.seconds(now));
        let mut response = fresh.answer(&Wants::of(client), age, how);
        for cookie in news.all(Known::SetCookie) {
            let fields = &mut response.head.fields;
            fields.append_known(Known::SetCookie, cookie);
        }
        if life.is_some() {
            self.lead.insert(fresh, now);
        } else {
            self.lead.forget(stale);
        }
        response
    }

    fn has_cookie(&self, head: &RequestHead) -> bool {
        !self.lead.cache.ignore_cookies && head.fields.known(Known::Cookie).is_some()
    }

    /// Stores the answer while it passes, if it may be stored.
    fn keep(self, mut response: Response, head: &RequestHead, now: Instant) -> Response {
        let cache = self.lead.cache.clone();
        let status = response.head.status;
        let fields = &response.head.fields;
        let cookies = self.has_cookie(head);
        let facts = facts(status, fields, fields, self.authorized, cookies);
        let fits = match response.body.length() {
            BodyLength::Exact(length) => length <= cache.largest as u64,
            BodyLength::Unknown => !is_endless(fields),
        };
        let life = lifetime(&facts, &cache.rules).filter(|_| fits && head.method == Method::GET);
        let stored = life.map(|life| Stored {
            rule: self.rule.clone(),
            vary: variants(fields, head),
            status,
            fields: fields.clone(),
            body: Bytes::new(),
            since: cache.seconds(now),
            life,
            tags: tags(fields),
        });
        let stored = stored.filter(|s| s.varied_by() <= defaults::CACHE_VARIED);
        response.head.fields.remove(b"Cache-Tag");
        let Some(stored) = stored else {
            // Neither "not modified" nor a failure says what the next answer will be.
            if status != StatusCode::NOT_MODIFIED && !status.is_server_error() {
                cache.remember_pass(&self.lead, now);
            }
            mark(&mut response.head.fields, "fwd=miss");
            return response;
        };
        let reason = if self.stale.is_some() {
            "fwd=stale"
        } else {
            "fwd=miss"
        };
        mark(&mut response.head.fields, &format!("{reason}; stored"));
        self.lead.arrived(now);
        let body = std::mem::replace(&mut response.body, Body::Empty);
        let mut filling = Filling {
            length: body.length(),
            body,
            kept: Some(Kept {
                bytes: BytesMut::new(),
                stored: Some(Box::new(stored)),
                lead: self.lead,
                now,
            }),
        };
        if filling.length == BodyLength::Exact(0) {
            filling.store();
        } else {
            response.body = Body::Through(Box::new(filling));
        }
        response
    }
}

fn mark(fields: &mut Fields, how: &str) {
    let told = format!("selvedge; {how}");
    fields.append(b"Cache-Status", told.as_bytes());
}

/// A stream of events has no end that anybody should wait for.
fn is_endless(fields: &Fields) -> bool {
    let kind = fields.known(Known::ContentType).unwrap_or_default();
    kind.to_ascii_lowercase().starts_with(b"text/event-stream")
}

fn variants(fields: &Fields, head: &RequestHead) -> Box<[super::stored::Varied]> {
    fields
        .all(Known::Vary)
        .flat_map(|value| value.split(|b| *b == b','))
        .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok())
        .filter(|name| !name.is_empty())
        .map(|name| (name.into(), varied(head, name)))
        .collect()
}

/// Fields in memory of their own, with the length of a body that is known by now.
fn compact(fields: &Fields, length: usize) -> Fields {
    let mut own = Fields::new();
    for field in fields.iter() {
        let dropped = matches!(
            field.known,
            Known::Age | Known::ContentLength | Known::SetCookie
        );
        if !dropped && !field.name.eq_ignore_ascii_case(b"Cache-Tag") {
            own.append(field.name, field.value);
        }
    }
    let mut digits = itoa::Buffer::new();
    own.append_known(Known::ContentLength, digits.format(length).as_bytes());
    own
}

fn facts(
    status: StatusCode,
    fields: &Fields,
    news: &Fields,
    authorized: bool,
    has_cookie: bool,
) -> Facts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse().ok();
    Facts {
        status: status.as_u16(),
        control: Control::read(fields.all(Known::CacheControl)),
        authorized,
        has_cookie,
        sets_cookie: news.known(Known::SetCookie).is_some(),
        varies_by_all: fields.all(Known::Vary).any(|value| value.contains(&b'*')),
        has_validator: fields.known(Known::ETag).is_some()
            || fields.known(Known::LastModified).is_some(),
        age: news.known(Known::Age).map_or(0, |v| number(v).unwrap_or(0)),
        date: news.known(Known::Date).and_then(date),
        expires: fields.known(Known::Expires).map(|v| date(v).unwrap_or(0)),
        now: now.map_or(0, |d| d.as_secs()),
    }
}

/// `Cache-Tag`, by which a group is purged; not passed on.
fn tags(fields: &Fields) -> Box<[Box<str>]> {
    let lines = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(b"Cache-Tag"))
        .filter_map(|field| std::str::from_utf8(field.value).ok());
    let tags = lines.flat_map(|line| line.split([',', ' ']));
    tags.filter(|tag| !tag.is_empty())
        .take(64)
        .map(Into::into)
        .collect()
}

/// What is kept of a body so far. It counts against what all answers on their way in may take.
struct Kept {
    bytes: BytesMut,
    stored: Option<Box<Stored>>,
    lead: Lead,
    now: Instant,
}

impl Kept {
    /// Adds a part, if there is room.
    fn add(&mut self, data: &[u8]) -> bool {
        let cache = &self.lead.cache;
        let more = data.len() as u64;
        let all = cache.filling.fetch_add(more, Relaxed) + more;
        self.bytes.extend_from_slice(data);
        self.bytes.len() <= cache.largest && all <= cache.fillable
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let held = self.bytes.len() as u64;
        self.lead.cache.filling.fetch_sub(held, Relaxed);
    }
}

/// A body that is stored once all of it has passed.
struct Filling {
    body: Body,
    length: BodyLength,
    kept: Option<Kept>,
}

impl Filling {
    fn store(&mut self) {
        let Some(mut kept) = self.kept.take() else {
            return;
        };
        if let Some(mut stored) = kept.stored.take() {
            stored.fields = compact(&stored.fields, kept.bytes.len());
            stored.body = Bytes::copy_from_slice(&kept.bytes);
            kept.lead.insert(Arc::new(*stored), kept.now);
        }
    }
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filling({:?})", self.body)
    }
}

impl Through for Filling {
    fn length(&self) -> BodyLength {
        self.length
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        let chunk = ready!(self.body.poll_chunk(cx));
        match &chunk {
            Ok(Some(Chunk::Data(data))) => {
                if let Some(kept) = &mut self.kept {
                    if !kept.add(data) {
                        self.kept = None;
                    } else if self.length == BodyLength::Exact(kept.bytes.len() as u64) {
                        // Whoever knows the length does not ask for more.
                        self.store();
                    }
                }
            }
            // Trailers are not kept: the next one would be told another story.
            Ok(Some(Chunk::Trailers(_))) | Err(_) => self.kept = None,
            Ok(None) => self.store(),
        }
        Poll::Ready(chunk)
    }
}
