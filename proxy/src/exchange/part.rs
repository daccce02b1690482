//! Part of the spine: one call of a rule that aggregates, an ordinary request to one service.

use std::collections::BTreeMap;
use std::pin::pin;

use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::cache::Control;
use selvedge_gateway::template::Slot;
use serde_json::Value;

use crate::error::{Error, ErrorKind};
use crate::message::target::EncodedSlash;
use crate::message::{Body, Fields, Known, Request, RequestHead, ResponseHead, Target};
use crate::policy::Permit;
use crate::route::aggregate::Call;
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};
use crate::upstream::Interim;

use super::{Context, send};

/// What a call answered, and for how long that may be shown to others: not at all, or for so many
/// seconds, or it did not say.
pub(super) struct Fetched {
    pub(super) value: Value,
    pub(super) share: Share,
    pub(super) bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    No,
    For(u64),
    Unsaid,
}

impl Share {
    /// Of two parts.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::For(a), Self::For(b)) => Self::For(a.min(b)),
            (Self::For(a), Self::Unsaid) | (Self::Unsaid, Self::For(a)) => Self::For(a),
            (Self::Unsaid, Self::Unsaid) => Self::Unsaid,
        }
    }

    /// `Cache-Control` of the whole.
    pub(super) fn told(self) -> Option<String> {
        match self {
            Self::No => Some("no-store".to_owned()),
            Self::For(seconds) => Some(format!("max-age={seconds}")),
            Self::Unsaid => None,
        }
    }

    /// What an answer says of itself. What varies by a field of the request is for nobody else here:
    /// the whole would have to say so too.
    fn of(fields: &Fields) -> Self {
        let control = Control::read(fields.all(Known::CacheControl));
        let fixed =
            |value: &[u8]| value.eq_ignore_ascii_case(b"Accept-Encoding") || value.is_empty();
        let varies = !fields.all(Known::Vary).all(fixed);
        let cookie = fields.known(Known::SetCookie).is_some();
        if control.no_store || control.private || control.no_cache || varies || cookie {
            return Self::No;
        }
        control
            .s_maxage
            .or(control.max_age)
            .map_or(Self::Unsaid, Self::For)
    }
}

/// What all calls of one request have in common.
pub(super) struct Calls<'a, 'g> {
    pub(super) context: Context<'a>,
    pub(super) permit: &'g Permit<'a>,
    pub(super) head: &'g RequestHead,
}

impl<'a> Calls<'a, '_> {
    /// One call, to the last byte of its answer.
    pub(super) async fn run(
        &self,
        call: &'a Call,
        known: BTreeMap<String, Slot>,
    ) -> Result<Fetched, Error> {
        let request = self.request(call, Slot::from(known))?;
        let Context {
            worker,
            snapshot,
            downstream,
        } = self.context;
        let now = worker.now();
        let mut record = Record::begin(snapshot, worker, downstream, &request.head, now);
        let permit = self.permit.part(call);
        let (mut timer, mut whole) = (Timer::new(), Timer::new());
        let until = deadline(now, call.timeout);
        let result = {
            let fetch = pin!(fetch(
                self.context,
                &permit,
                &mut record,
                request,
                &mut timer
            ));
            let fetched = whole.within(until, fetch).await;
            fetched.unwrap_or_else(|| Err(ErrorKind::RequestTimeout.into()))
        };
        match &result {
            Ok(_) => record.complete(),
            Err(error) => record.fail(error),
        }
        result
    }

    /// The request of a call: the client's fields but those that are about its own body, or about
    /// what it has already.
    fn request(&self, call: &Call, known: Slot) -> Result<Request, Error> {
        let wrong = |error: String| Error::with(ErrorKind::PartFailed, error);
        let target = call
            .target
            .render(&known)
            .map_err(|e| wrong(e.to_string()))?;
        let target = plain_target(target, call.target.ends_with_slash())?;
        let body = match &call.body {
            None => Body::Empty,
            Some(template) => {
                let text = template.render(&known).map_err(|e| wrong(e.to_string()))?;
                Body::Full(text.into())
            }
        };
        let mut fields = Fields::new();
        for field in self.head.fields.iter() {
            let own = matches!(
                field.known,
                Known::ContentLength
                    | Known::ContentType
                    | Known::ContentEncoding
                    | Known::Accept
                    | Known::AcceptEncoding
                    | Known::Expect
                    | Known::Range
                    | Known::IfNoneMatch
                    | Known::IfModifiedSince
            );
            let conditional = field
                .name
                .get(..3)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"If-"));
            if !own && !conditional {
                fields.append(field.name, field.value);
            }
        }
        fields.append_known(Known::Accept, b"application/json");
        if let Body::Full(_) = &body {
            // Whoever sends it writes its length.
            fields.append_known(Known::ContentType, b"application/json");
        }
        let head = RequestHead {
            method: call.method.clone(),
            target,
            fields,
            upgrade: None,
            ..self.head.clone()
        };
        Ok(Request { head, body })
    }
}

/// A rendered path and query, if its path is what it looks like. A value that is empty, climbs (`..`),
/// or brings a slash along, would name something else than the template's author meant.
fn plain_target(text: String, may_end_in_slash: bool) -> Result<Target, Error> {
    let wrong = || Error::with(ErrorKind::PartFailed, "a value is no segment of a path");
    let path = text.split('?').next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let empty = segment.is_empty() && !(last && may_end_in_slash);
        if empty || segment == "." || segment == ".." {
            return Err(wrong());
        }
    }
    if lower.contains("%2f") || lower.contains("%5c") || lower.contains("%00") {
        return Err(wrong());
    }
    let own = path.to_owned();
    let target = Target::parse(text.into(), EncodedSlash::Keep)?;
    if target.path() == own {
        Ok(target)
    } else {
        Err(wrong())
    }
}

/// Sends, and reads the answer as JSON.
async fn fetch<'c>(
    context: Context<'c>,
    permit: &Permit<'c>,
    record: &mut Record<'c>,
    mut request: Request,
    timer: &mut Timer,
) -> Result<Fetched, Error> {
    let sent = send::send(context, permit, record, &mut request, timer, &Deaf);
    let reply = sent.await?;
    let status = reply.status();
    record.set_status(status);
    let share = Share::of(reply.fields());
    let bytes = reply.collect(defaults::CALL_BYTES).await?;
    record.sent = bytes.len() as u64;
    if !status.is_success() {
        let reason = format!("it answered {status}");
        return Err(Error::with(ErrorKind::PartFailed, reason));
    }
    let value = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).map_err(|e| Error::with(ErrorKind::BadResponse, e))?
    };
    Ok(Fetched {
        value,
        share,
        bytes: bytes.len(),
    })
}

/// Nobody waits for interim responses.
pub(super) struct Deaf;

impl Interim for Deaf {
    fn interim(&self, _: ResponseHead) {}
}
