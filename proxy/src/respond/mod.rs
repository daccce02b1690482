//! Stage 9, respond: from the result of an exchange to what the client gets, and how it ends.

pub mod compress;
pub mod pages;
mod refusal;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, StatusCode};
use selvedge_gateway::compression::Coding;
use selvedge_gateway::redirect::{Origin, Redirect};
use selvedge_gateway::template::Slot;

use crate::accept::{Downstream, ListenerPlan, ListenerRole};
use crate::error::{Error, ErrorKind};
use crate::message::{
    Body, Fields, Known, RequestHead, Response, ResponseHead, read_all, read_whole,
};
use crate::policy::cors;
use crate::policy::guard::Notes;
use crate::policy::transform::Transform;
use crate::protocol::tunnel::TunnelEnd;
use crate::route::{Backend, Rule};
use crate::telemetry::Record;
use crate::upstream::Answer;

use compress::Compress;
use refusal::Form;
pub use refusal::refusal;

/// What goes to the client. Its record ends when this is dropped.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Head.
    pub head: ResponseHead,
    /// Body.
    pub body: Body,
    /// After a switch of protocols: where the client's bytes go.
    pub tunnel: Option<TunnelEnd>,
    /// Ends with the last byte.
    pub record: Record<'a>,
    /// Trailers are of use to this client.
    pub trailers: bool,
}

/// What the answer needs to know of the request.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    grpc: bool,
    /// Another proxy of the mesh asks.
    meshed: bool,
    head: bool,
    tls: bool,
    form: Form,
}

impl Seen {
    /// Looks at a request.
    #[must_use]
    pub fn of(head: &RequestHead, listener: &ListenerPlan, downstream: &Downstream) -> Self {
        let pages = || {
            let accepted = head.fields.known(Known::Accept).unwrap_or_default();
            memchr::memmem::find(accepted, b"text/html").is_some()
        };
        Self {
            grpc: head.is_grpc(),
            meshed: downstream.peer_id().is_some(),
            head: head.method == Method::HEAD,
            tls: downstream.is_tls,
            form: match listener.role {
                ListenerRole::Gateway if pages() => Form::Page,
                ListenerRole::Gateway => Form::Problem,
                ListenerRole::Inbound | ListenerRole::Outbound => Form::Line,
            },
        }
    }

    /// Whether it is a call of gRPC.
    #[must_use]
    pub const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Nothing is known of what was to be a request.
    #[must_use]
    pub fn unread(listener: &ListenerPlan) -> Self {
        Self {
            grpc: false,
            meshed: false,
            head: false,
            tls: false,
            form: match listener.role {
                ListenerRole::Gateway => Form::Problem,
                ListenerRole::Inbound | ListenerRole::Outbound => Form::Line,
            },
        }
    }
}

/// A response before it is finished.
#[derive(Debug)]
pub struct Reply<'a> {
    response: Response,
    tunnel: Option<TunnelEnd>,
    edits: Option<(&'a Rule, Option<&'a Backend>)>,
    compress: Option<(&'a Compress, Option<Coding>)>,
    /// Made by this gateway, not by an application.
    own: bool,
}

impl<'a> Reply<'a> {
    /// What an endpoint answered.
    #[must_use]
    pub fn upstream(answer: Answer, rule: &'a Rule, backend: &'a Backend) -> Self {
        Self {
            response: answer.response,
            tunnel: answer.tunnel,
            edits: Some((rule, Some(backend))),
            compress: None,
            own: false,
        }
    }

    /// Compressed, if it and the client's coding allow that.
    #[must_use]
    pub const fn compressed(mut self, compress: &'a Compress, coding: Option<Coding>) -> Self {
        self.compress = Some((compress, coding));
        self
    }

    /// An answer from the cache. All edits were made before it was stored.
    #[must_use]
    pub const fn stored(response: Response) -> Self {
        Self {
            response,
            tunnel: None,
            edits: None,
            compress: None,
            own: false,
        }
    }

    /// JSON of our own, made by a rule, with this `Cache-Control`.
    #[must_use]
    pub fn json(
        rule: &'a Rule,
        status: StatusCode,
        body: &serde_json::Value,
        cache: Option<&str>,
    ) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let mut fields = Fields::new();
        let kind = if status.is_success() {
            "application/json"
        } else {
            "application/problem+json"
        };
        fields.append_known(Known::ContentType, kind.as_bytes());
        let mut digits = itoa::Buffer::new();
        fields.append_known(Known::ContentLength, digits.format(body.len()).as_bytes());
        if let Some(told) = cache {
            fields.append_known(Known::CacheControl, told.as_bytes());
        }
        let response = Response {
            head: ResponseHead { status, fields },
            body: Body::Full(body.into()),
        };
        Self {
            own: !status.is_success(),
            edits: Some((rule, None)),
            ..Self::stored(response)
        }
    }

    /// Its fields so far.
    #[must_use]
    pub const fn fields(&self) -> &Fields {
        &self.response.head.fields
    }

    /// Its status so far.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.response.head.status
    }

    /// What a cache makes of it: edits come first, since they may say whether it may be kept.
    #[must_use]
    pub fn map(mut self, rule: &Rule, cache: impl FnOnce(Response) -> Response) -> Self {
        if let Some((_, backend)) = self.edits.take() {
            let fields = &mut self.response.head.fields;
            rule.response_edits.apply(fields);
            if let Some(backend) = backend {
                backend.response_edits.apply(fields);
            }
        }
        self.response = cache(self.response);
        self
    }

    /// As it is so far: none of its edits has been made.
    #[must_use]
    pub fn into_response(self) -> Response {
        self.response
    }

    /// Its body, of this many bytes at most, and its trailers.
    ///
    /// # Errors
    /// As of [`Reply::collect`].
    pub async fn collect_all(self, limit: usize) -> Result<(Bytes, Option<Fields>), ErrorKind> {
        read_all(self.response.body, limit, ErrorKind::BadResponse).await
    }

    /// Its body, of this many bytes at most.
    ///
    /// # Errors
    /// Those of the body; [`ErrorKind::BadResponse`] for a longer one.
    pub async fn collect(self, limit: usize) -> Result<Bytes, ErrorKind> {
        read_whole(self.response.body, limit, ErrorKind::BadResponse).await
    }

    /// Changed by a policy, unless protocols have been switched.
    ///
    /// # Errors
    /// Those of the change.
    pub async fn changed(
        mut self,
        transform: &Transform,
        method: &Method,
        known: &BTreeMap<String, Slot>,
    ) -> Result<Self, Error> {
        if self.tunnel.is_none() {
            self.response = transform.response(self.response, method, known).await?;
        }
        Ok(self)
    }

    /// Reads the body for nobody.
    ///
    /// # Errors
    /// Those of the body.
    pub async fn read_to_its_end(mut self) -> Result<(), ErrorKind> {
        let body = &mut self.response.body;
        loop {
            if std::future::poll_fn(|cx| body.poll_chunk(cx))
                .await?
                .is_none()
            {
                return Ok(());
            }
        }
    }

    /// An answer that a policy gave.
    #[must_use]
    pub const fn own(response: Response) -> Self {
        Self {
            response,
            tunnel: None,
            edits: None,
            compress: None,
            own: true,
        }
    }

    /// A redirect.
    #[must_use]
    pub fn redirect(
        redirect: &Redirect,
        rule: &'a Rule,
        downstream: &Downstream,
        head: &RequestHead,
    ) -> Self {
        let location = redirect.location(Origin {
            scheme: downstream.scheme(),
            host: head.host.name(),
            port: head.host.port(),
            listener_port: downstream.local_port,
            path: head.target.path(),
            query: head.target.query(),
        });
        let mut fields = Fields::new();
        fields.append(b"Location", location.as_bytes());
        fields.append_known(Known::ContentLength, b"0");
        Self {
            response: Response {
                head: ResponseHead {
                    status: StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND),
                    fields,
                },
                body: Body::Empty,
            },
            tunnel: None,
            edits: Some((rule, None)),
            compress: None,
            own: true,
        }
    }
}

/// Finishes an exchange: edits of the response, or the answer that an error has.
pub fn finish<'a>(
    mut record: Record<'a>,
    seen: Seen,
    notes: Notes,
    result: Result<Reply<'a>, Error>,
) -> Outgoing<'a> {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            record.fail(&error);
            Reply {
                response: refusal(&error, seen),
                tunnel: None,
                edits: None,
                compress: None,
                own: true,
            }
        }
    };
    let mut response = reply.response;
    if let Some((compress, coding)) = reply.compress
        && reply.tunnel.is_none()
    {
        compress.apply(&mut response, coding, seen.head);
    }
    if let Some(pages) = &notes.pages
        && reply.tunnel.is_none()
        && !seen.grpc
    {
        pages.apply(&mut response, seen.form, reply.own, seen.head);
    }
    let Response { mut head, body } = response;
    if !reply.own {
        record.is_served();
    }
    record.answers(&head.fields);
    if let Some(headers) = &notes.headers
        && (reply.edits.is_some() || !reply.own)
    {
        headers.response.apply(&mut head.fields);
    }
    if let Some((rule, backend)) = reply.edits {
        rule.response_edits.apply(&mut head.fields);
        if let Some(backend) = backend {
            backend.response_edits.apply(&mut head.fields);
        }
    }
    if notes.cors {
        for name in cors::REPLACED {
            head.fields.remove(name);
        }
    }
    if let Some(security) = &notes.security {
        security.apply(&mut head.fields, seen.tls);
    }
    for change in &notes.changes {
        change.apply(&mut head.fields);
    }
    for field in notes.fields.iter() {
        head.fields.append(field.name, field.value);
    }
    // The proxy before us may ask another endpoint, and need not try again what was tried here.
    if seen.meshed && record.was_refused_for_load() {
        head.fields.set_known(Known::XSelvedgeAttempt, b"refused");
    } else if seen.meshed && head.is_failure() && record.in_a_storm() {
        head.fields.set_known(Known::XSelvedgeAttempt, b"spent");
    }
    let body = match notes.paced_response {
        Some(paced) if reply.tunnel.is_none() => paced.body(body),
        _ => body,
    };
    record.held = notes.held;
    record.set_status(head.status);
    Outgoing {
        head,
        body,
        tunnel: reply.tunnel,
        record,
        trailers: seen.grpc,
    }
}
