//! Part of the cache: what a request that leads does with its answer, on the way to the client.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use selvedge_gateway::cache::{Control, Facts, Lifetime, lifetime};
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::through::Through;
use crate::message::{Body, BodyLength, Chunk, Fields, Known, RequestHead, Response};

use super::stored::{Stored, Wants, date, varied};
use super::{Asked, Cache, Lead};

/// The right, and the duty, to fetch. Others wait until it is gone.
#[derive(Debug)]
pub struct Ticket {
    lead: Lead,
    rule: Arc<str>,
    authorized: bool,
    /// What is there, too old to answer.
    stale: Option<Arc<Stored>>,
    /// The client's own conditions, where ours stand in their place.
    client: Option<Fields>,
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

    /// Asks only whether what is there is still good (RFC 9111 section 4.3.1).
    pub fn condition(&mut self, head: &mut RequestHead) {
        let Some(stale) = &self.stale else { return };
        let etag = stale.fields.known(Known::ETag);
        let modified = stale.fields.known(Known::LastModified);
        if etag.is_none() && modified.is_none() {
            return;
        }
        self.client = Some(head.fields.clone());
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
            let stored = self.freshened(stale, &response.head.fields, now);
            let answer = answer(
                &stored,
                head,
                client,
                now,
                &self.lead.cache,
                "fwd=stale; fwd-status=304",
            );
            self.lead.cache.insert(&self.lead.key, stored);
            return answer;
        }
        if matches!(status.as_u16(), 500 | 502 | 503 | 504) {
            match self.instead(head, now) {
                Ok(answer) => return answer,
                Err(_) => return response,
            }
        }
        self.keep(response, head, now)
    }

    /// What is there, if it may stand in for an upstream that fails (RFC 5861 section 4).
    ///
    /// # Errors
    /// The ticket, if nothing may.
    pub fn instead(self, head: &RequestHead, now: Instant) -> Result<Response, Box<Self>> {
        let Some(stale) = &self.stale else {
            return Err(Box::new(self));
        };
        let age = stale.age(self.lead.cache.seconds(now));
        if age >= stale.life.fresh.saturating_add(stale.life.if_error) {
            return Err(Box::new(self));
        }
        let counts = &self.lead.cache.counts;
        counts
            .stale
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let fields = self.client.as_ref().unwrap_or(&head.fields);
        let how = "hit; detail=stale-if-error";
        Ok(answer(stale, head, fields, now, &self.lead.cache, how))
    }

    /// What was stored, with the news of a 304 (RFC 9111 section 3.2).
    fn freshened(&self, stale: &Stored, news: &Fields, now: Instant) -> Arc<Stored> {
        let mut fields = stale.fields.clone();
        for field in news.iter() {
            let of_the_body = matches!(
                field.known,
                Known::ContentLength | Known::ContentEncoding | Known::ContentType | Known::Age
            );
            if !of_the_body && !field.name.eq_ignore_ascii_case(b"Content-Range") {
                fields.remove(field.name);
            }
        }
        for field in news.iter() {
            if fields
                .named(std::str::from_utf8(field.name).unwrap_or_default())
                .is_none()
                && field.known != Known::Age
            {
                fields.append(field.name, field.value);
            }
        }
        let facts = facts(stale.status, &fields, news, self.authorized);
        let life = lifetime(&facts, &self.lead.cache.rules);
        Arc::new(Stored {
            rule: stale.rule.clone(),
            vary: stale.vary.clone(),
            status: stale.status,
            fields: compact(&fields, stale.body.len()),
            body: stale.body.clone(),
            since: self.lead.cache.seconds(now),
            // What may not be kept any longer answers this one request, and no other.
            life: life.unwrap_or(Lifetime {
                age: 0,
                fresh: 0,
                while_revalidate: 0,
                if_error: 0,
            }),
            tags: stale.tags.clone(),
        })
    }

    /// Stores the answer while it passes, if it may be stored.
    fn keep(self, mut response: Response, head: &RequestHead, now: Instant) -> Response {
        let fields = &response.head.fields;
        let facts = facts(response.head.status, fields, fields, self.authorized);
        let life = lifetime(&facts, &self.lead.cache.rules);
        let fits = match response.body.length() {
            BodyLength::Exact(length) => length <= self.lead.cache.largest as u64,
            BodyLength::Unknown => true,
        };
        let Some(life) = life.filter(|_| fits) else {
            // Neither "not modified" nor a failure says what the next answer will be.
            let status = response.head.status;
            if status != StatusCode::NOT_MODIFIED && !status.is_server_error() {
                self.lead.cache.remember_pass(&self.lead.key, now);
            }
            response.head.fields.remove(b"Cache-Tag");
            mark(&mut response.head.fields, "fwd=miss");
            return response;
        };
        let vary = fields
            .all(Known::Vary)
            .flat_map(|value| value.split(|b| *b == b','))
            .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok())
            .filter(|name| !name.is_empty())
            .map(|name| (name.into(), varied(head, name)))
            .collect();
        let tags = tags(fields);
        let cache = self.lead.cache.clone();
        let stored = Stored {
            rule: self.rule,
            vary,
            status: response.head.status,
            fields: response.head.fields.clone(),
            body: Bytes::new(),
            since: cache.seconds(now),
            life,
            tags,
        };
        let reason = if self.stale.is_some() {
            "fwd=stale"
        } else {
            "fwd=miss"
        };
        response.head.fields.remove(b"Cache-Tag");
        mark(&mut response.head.fields, &format!("{reason}; stored"));
        let body = std::mem::replace(&mut response.body, Body::Empty);
        let filling = Filling {
            length: body.length(),
            body,
            kept: Some((BytesMut::new(), stored, self.lead)),
        };
        if filling.length == BodyLength::Exact(0) {
            filling.done();
        } else {
            response.body = Body::Through(Box::new(filling));
        }
        response
    }
}

fn answer(
    stored: &Stored,
    head: &RequestHead,
    fields: &Fields,
    now: Instant,
    cache: &Cache,
    how: &str,
) -> Response {
    let asked = RequestHead {
        fields: fields.clone(),
        ..head.clone()
    };
    stored.answer(&Wants::of(&asked), stored.age(cache.seconds(now)), how)
}

fn mark(fields: &mut Fields, how: &str) {
    let told = format!("selvedge; {how}");
    fields.append(b"Cache-Status", told.as_bytes());
}

/// Fields in memory of their own, with the length of a body that is known by now.
fn compact(fields: &Fields, length: usize) -> Fields {
    let mut own = Fields::new();
    for field in fields.iter() {
        let dropped = matches!(field.known, Known::Age | Known::ContentLength);
        if !dropped && !field.name.eq_ignore_ascii_case(b"Cache-Tag") {
            own.append(field.name, field.value);
        }
    }
    let mut digits = itoa::Buffer::new();
    own.append_known(Known::ContentLength, digits.format(length).as_bytes());
    own
}

fn facts(status: StatusCode, fields: &Fields, news: &Fields, authorized: bool) -> Facts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse().ok();
    Facts {
        status: status.as_u16(),
        control: Control::read(fields.all(Known::CacheControl)),
        authorized,
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
    let value = fields.named("Cache-Tag").unwrap_or_default();
    let text = std::str::from_utf8(value).unwrap_or_default();
    let tags = text.split([',', ' ']).filter(|tag| !tag.is_empty());
    tags.take(64).map(Into::into).collect()
}

/// A body that is stored once all of it has passed.
struct Filling {
    body: Body,
    length: BodyLength,
    kept: Option<(BytesMut, Stored, Lead)>,
}

impl Filling {
    fn done(mut self) {
        self.store();
    }

    fn store(&mut self) {
        let Some((bytes, mut stored, lead)) = self.kept.take() else {
            return;
        };
        stored.fields = compact(&stored.fields, bytes.len());
        stored.body = Bytes::copy_from_slice(&bytes);
        lead.cache.insert(&lead.key, Arc::new(stored));
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
                if let Some((bytes, _, lead)) = &mut self.kept {
                    bytes.extend_from_slice(data);
                    let so_far = bytes.len();
                    if so_far > lead.cache.largest {
                        self.kept = None;
                    } else if self.length == BodyLength::Exact(so_far as u64) {
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
