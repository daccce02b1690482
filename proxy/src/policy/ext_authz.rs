//! Part of stage 6, policy: somebody else decides, over HTTP or gRPC (Envoy's `ext_authz`): a service
//! that is asked about each request, through balance, breaker and mutual TLS like any other.

mod change;
pub mod grpc;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::cache::Control;
use selvedge_gateway::limit::Fingerprint;
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::target::EncodedSlash;
use crate::message::{Body, Fields, Known, RequestHead, Response, ResponseHead, Target};
use crate::route::Rule;

use super::forwarded;
use super::guard::{Found, Notes, Seen, Stop};
pub use change::{Action, Change};
pub use grpc::Grpc;

/// A compiled policy.
#[derive(Debug)]
pub struct ExtAuthz {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Another one each time it is compiled: what another one was told does not count.
    pub id: u64,
    /// An ordinary rule with one backend.
    pub rule: Arc<Rule>,
    /// How it is asked.
    pub form: Form,
    /// Lets requests pass that nobody could be asked about.
    pub fail_open: bool,
    /// To the last byte of the verdict.
    pub timeout: Duration,
    /// Headers that are sent along; empty = all.
    pub headers: Vec<String>,
    /// Headers of the verdict that the application gets. What a client sends there is removed.
    pub upstream_headers: Vec<String>,
    /// How long a verdict holds for the same question; zero = not at all.
    pub cache: Duration,
}

/// How a service is asked.
#[derive(Debug)]
pub enum Form {
    /// By the request's own head; this goes before its path.
    Http(String),
    /// By a call.
    Grpc(Grpc),
}

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// Head of the request that asks.
    pub head: RequestHead,
    /// Its body.
    pub body: bytes::Bytes,
    /// Where a verdict on the same is kept, if it is.
    place: Option<String>,
}

/// What was decided.
#[derive(Debug)]
pub enum Verdict {
    /// It may pass, with these changes of the request and of its response; and whether that is for
    /// this request only.
    Allowed(Vec<Change>, Vec<Change>, bool),
    /// It may not: status, fields, body.
    Denied(StatusCode, Fields, bytes::Bytes),
    /// Nobody could be asked.
    Unknown,
}

/// Of a refusal, what the client gets.
const TOLD: [&str; 6] = [
    "Content-Type",
    "WWW-Authenticate",
    "Location",
    "Set-Cookie",
    "Retry-After",
    "Cache-Control",
];

impl ExtAuthz {
    /// Asks, or goes by the answer.
    ///
    /// # Errors
    /// [`Stop::Ask`] first; then the service's own refusal, or [`ErrorKind::NoVerdict`].
    pub fn check(self: &Arc<Self>, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let verdict = match seen.found.take() {
            Some(Found::Verdict(verdict)) => verdict,
            _ => {
                let question = self.question(seen, notes)?;
                match question.remembered(seen.now) {
                    Some(verdict) => verdict,
                    None => return Err(Stop::Ask(self.clone(), Box::new(question))),
                }
            }
        };
        match &*verdict {
            Verdict::Allowed(request, response, _) => {
                seen.asked = true;
                for name in &self.upstream_headers {
                    notes.remove(name.as_bytes());
                }
                for change in request {
                    notes.change(change.clone());
                }
                notes.changes.extend(response.iter().cloned());
                Ok(())
            }
            Verdict::Denied(status, fields, body) => {
                tracing::debug!(policy = %self.name, %status, "refused");
                Err(Stop::Denied(
                    ErrorKind::Refused,
                    Box::new(Response {
                        head: ResponseHead {
                            status: *status,
                            fields: fields.clone(),
                        },
                        body: if body.is_empty() || seen.head.method == http::Method::HEAD {
                            Body::Empty
                        } else {
                            Body::Full(body.clone())
                        },
                    }),
                ))
            }
            Verdict::Unknown if self.fail_open => {
                for name in &self.upstream_headers {
                    notes.remove(name.as_bytes());
                }
                Ok(())
            }
            Verdict::Unknown => Err(ErrorKind::NoVerdict.into()),
        }
    }

    /// The question: method, host, path and headers of the request, without its body, and what the
    /// application would be told of where it comes from and who sent it.
    fn question(&self, seen: &mut Seen<'_>, notes: &Notes) -> Result<Question, ErrorKind> {
        let told = self.told(seen, notes)?;
        let kept = !self.cache.is_zero();
        Ok(match &self.form {
            Form::Http(_) => Question {
                place: kept.then(|| self.place(&told, &[])),
                head: told,
                body: bytes::Bytes::new(),
            },
            Form::Grpc(grpc) => {
                let asked = grpc.ask(seen, &told)?;
                Question {
                    place: kept.then(|| self.place(&told, &asked.tells_apart)),
                    head: asked.head,
                    body: asked.body,
                }
            }
        })
    }

    fn told(&self, seen: &Seen<'_>, notes: &Notes) -> Result<RequestHead, ErrorKind> {
        let head = seen.head;
        let target = match &self.form {
            Form::Http(prefix) => {
                let text = [prefix.as_bytes(), head.target.text()].concat();
                Target::parse(text.into(), EncodedSlash::Keep)?
            }
            Form::Grpc(_) => head.target.clone(),
        };
        let mut fields = Fields::new();
        for field in head.fields.iter() {
            let of_the_body = matches!(
                field.known,
                Known::ContentLength
                    | Known::ContentEncoding
                    | Known::Expect
                    | Known::AcceptEncoding
            );
            if !of_the_body && self.sends(field.name) {
                fields.append(field.name, field.value);
            }
        }
        let mut question = RequestHead {
            target,
            fields,
            upgrade: None,
            ..head.clone()
        };
        forwarded::stamp(seen.downstream, &mut question);
        notes.apply(&mut question);
        Ok(question)
    }

    fn sends(&self, name: &[u8]) -> bool {
        self.headers.is_empty()
            || self
                .headers
                .iter()
                .any(|n| n.as_bytes().eq_ignore_ascii_case(name))
    }

    /// What an answer means: any 2xx lets pass, failures of the service itself say nothing.
    #[must_use]
    pub fn verdict(&self, status: StatusCode, fields: &Fields, body: bytes::Bytes) -> Verdict {
        if status.is_server_error() {
            return Verdict::Unknown;
        }
        if status.is_success() {
            let wanted = self.upstream_headers.iter();
            let given = wanted.flat_map(|name| {
                let named = fields
                    .iter()
                    .filter(|f| f.name.eq_ignore_ascii_case(name.as_bytes()));
                named.map(|field| Change {
                    action: Action::Append,
                    name: name.clone(),
                    value: field.value.into(),
                })
            });
            let control = Control::read(fields.all(Known::CacheControl));
            let own = control.no_store || control.private || control.no_cache;
            let once = own || fields.known(Known::SetCookie).is_some();
            return Verdict::Allowed(given.collect(), Vec::new(), once);
        }
        let mut told = Fields::new();
        for field in fields.iter() {
            let name = field.name;
            if TOLD
                .iter()
                .any(|known| known.as_bytes().eq_ignore_ascii_case(name))
            {
                told.append(name, field.value);
            }
        }
        let mut digits = itoa::Buffer::new();
        told.append_known(Known::ContentLength, digits.format(body.len()).as_bytes());
        let status = if status.is_client_error() || status.is_redirection() {
            status
        } else {
            StatusCode::FORBIDDEN
        };
        Verdict::Denied(status, told, body)
    }

    /// What tells two questions apart: all of them, but for what is another each time.
    fn place(&self, head: &RequestHead, more: &[Box<[u8]>]) -> String {
        let passing = |known| {
            matches!(
                known,
                Known::XRequestId | Known::Traceparent | Known::Tracestate | Known::B3
            )
        };
        let mut hash = Fingerprint::default();
        hash.give(&self.id.to_be_bytes());
        hash.give(head.method.as_str().as_bytes());
        hash.give(head.host.as_str().as_bytes());
        hash.give(head.target.text());
        for field in head.fields.iter().filter(|field| !passing(field.known)) {
            hash.give(field.name);
            hash.give(field.value);
        }
        for fact in more {
            hash.give(fact);
        }
        hash.finish()
    }

    /// Keeps a verdict for the same question.
    pub fn remember(&self, question: &Question, now: Instant, verdict: &Rc<Verdict>) {
        let lasting = match &**verdict {
            Verdict::Allowed(_, response, once) => {
                let cookie = |change: &Change| change.name.eq_ignore_ascii_case("set-cookie");
                !once && !response.iter().any(cookie)
            }
            // What begins a login, or says that it is for one client, is for no other.
            Verdict::Denied(status, fields, _) => {
                let control = Control::read(fields.all(Known::CacheControl));
                let own = control.no_store || control.private || control.no_cache;
                !own && !status.is_redirection() && fields.known(Known::SetCookie).is_none()
            }
            Verdict::Unknown => false,
        };
        let Some(place) = question.place.clone().filter(|_| lasting) else {
            return;
        };
        let kept = (now + self.cache, verdict.clone());
        VERDICTS.with_borrow_mut(|verdicts| {
            if verdicts.len() >= defaults::VERDICTS {
                verdicts.retain(|_, (until, _)| now < *until);
            }
            if verdicts.len() < defaults::VERDICTS {
                verdicts.insert(place, kept);
            }
        });
    }
}

impl Question {
    fn remembered(&self, now: Instant) -> Option<Rc<Verdict>> {
        let place = self.place.as_ref()?;
        VERDICTS.with_borrow(|verdicts| {
            let (until, verdict) = verdicts.get(place)?;
            (now < *until).then(|| verdict.clone())
        })
    }
}

thread_local! {
    /// Verdicts of this worker, by their questions.
    static VERDICTS: RefCell<HashMap<String, (Instant, Rc<Verdict>)>> = RefCell::default();
}
