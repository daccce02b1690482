//! Part of stage 6, policy: failures on purpose. What they do to callers is what would happen if the service
//! were slow or away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::sleep;

use crate::error::ErrorKind;
use crate::message::{Body, Fields, Known, RequestHead, Response, ResponseHead};

use super::guard::{Found, Seen, Stop};

/// A policy of failures.
#[derive(Debug)]
pub struct Fault {
    /// Name of the policy.
    pub name: Arc<str>,
    /// How long some wait.
    pub delay: Option<(Chance, Duration)>,
    /// What some are answered.
    pub abort: Option<(Chance, Refusal)>,
}

/// How many requests in a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance(pub f64);

impl Chance {
    fn falls(self) -> bool {
        fastrand::f64() * 100.0 < self.0
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// By HTTP.
    pub status: StatusCode,
    /// By gRPC.
    pub grpc: u32,
}

impl Fault {
    /// Has a request wait, or answers it, or neither.
    ///
    /// # Errors
    /// [`Stop::Wait`], [`Stop::Denied`].
    pub fn check(&self, seen: &mut Seen<'_>) -> Result<(), Stop> {
        let waited = matches!(seen.found, Some(Found::Waited));
        if waited {
            seen.found = None;
        } else if let Some((chance, length)) = self.delay
            && chance.falls()
        {
            // Given up with the request.
            return Err(Stop::wait(async move {
                sleep(length).await;
                Found::Waited
            }));
        }
        if let Some((chance, refusal)) = self.abort
            && chance.falls()
        {
            let answer = self.answer(refusal, seen.head);
            return Err(Stop::Denied(ErrorKind::Fault, Box::new(answer)));
        }
        Ok(())
    }

    fn answer(&self, refusal: Refusal, head: &RequestHead) -> Response {
        let mut fields = Fields::new();
        let token = ErrorKind::Fault.row().token;
        let status = format!("selvedge; error={token}; details=\"policy {}\"", self.name);
        fields.append(b"Proxy-Status", status.as_bytes());
        if head.is_grpc() {
            fields.append_known(Known::ContentType, b"application/grpc");
            fields.append_known(Known::GrpcStatus, refusal.grpc.to_string().as_bytes());
            fields.append(b"Grpc-Message", ErrorKind::Fault.row().text.as_bytes());
            return of(StatusCode::OK, fields, Body::Empty);
        }
        let text = format!("{}\n", ErrorKind::Fault.row().text);
        fields.append_known(Known::ContentType, b"text/plain");
        fields.append_known(Known::ContentLength, text.len().to_string().as_bytes());
        let body = match head.method == http::Method::HEAD {
            true => Body::Empty,
            false => Body::Full(Bytes::from(text)),
        };
        of(refusal.status, fields, body)
    }
}

const fn of(status: StatusCode, fields: Fields, body: Body) -> Response {
    let head = ResponseHead { status, fields };
    Response { head, body }
}
