//! Part of stage 6, policy: answers the preflights of browsers, and marks what other origins may
//! read.

use http::{Method, StatusCode};
use selvedge_gateway::cors::Origins;

use crate::error::ErrorKind;
use crate::message::{Body, Fields, RequestHead, Response, ResponseHead};

use super::guard::{Notes, Stop};

/// What an application may say of this itself, and is replaced.
pub const REPLACED: [&[u8]; 3] = [
    b"Access-Control-Allow-Origin",
    b"Access-Control-Allow-Credentials",
    b"Access-Control-Expose-Headers",
];

/// A compiled policy; lists as they are sent.
#[derive(Debug)]
pub struct Cors {
    /// Who may call.
    pub origins: Origins,
    /// `Access-Control-Allow-Methods`.
    pub methods: String,
    /// `Access-Control-Allow-Headers`.
    pub headers: String,
    /// `Access-Control-Expose-Headers`.
    pub expose: String,
    /// `Access-Control-Max-Age`, seconds.
    pub max_age: String,
    /// Cookies and `Authorization` may come along.
    pub credentials: bool,
}

impl Cors {
    /// Answers a preflight, lets anything else pass, and notes what the response is marked with.
    ///
    /// # Errors
    /// [`Stop::Answered`] for a preflight, [`ErrorKind::Denied`] for one of an origin that may not
    /// call.
    pub fn check(&self, head: &RequestHead, notes: &mut Notes) -> Result<(), Stop> {
        let Some(origin) = head.fields.named("Origin") else {
            // Another answer would be given to another origin: caches must know.
            if !self.origins.any() {
                notes.fields.append(b"Vary", b"Origin");
            }
            return Ok(());
        };
        let wanted = head.fields.named("Access-Control-Request-Method");
        let preflight = head.method == Method::OPTIONS && wanted.is_some();
        notes.cors = true;
        let text = std::str::from_utf8(origin).unwrap_or_default();
        let allowed = self.origins.allow(text);
        if allowed {
            self.mark(origin, &mut notes.fields);
        }
        if !self.origins.any() {
            notes.fields.append(b"Vary", b"Origin");
        }
        if !preflight {
            return Ok(());
        }
        if !allowed {
            return Err(ErrorKind::Denied.into());
        }
        let mut fields = Fields::new();
        fields.append(b"Access-Control-Allow-Methods", self.methods.as_bytes());
        if !self.headers.is_empty() {
            fields.append(b"Access-Control-Allow-Headers", self.headers.as_bytes());
        }
        fields.append(b"Access-Control-Max-Age", self.max_age.as_bytes());
        Err(Stop::Answered(Box::new(Response {
            head: ResponseHead {
                status: StatusCode::NO_CONTENT,
                fields,
            },
            body: Body::Empty,
        })))
    }

    fn mark(&self, origin: &[u8], fields: &mut Fields) {
        let told = if self.origins.any() && !self.credentials {
            b"*"
        } else {
            origin
        };
        fields.append(REPLACED[0], told);
        if self.credentials {
            fields.append(REPLACED[1], b"true");
        }
        if !self.expose.is_empty() {
            fields.append(REPLACED[2], self.expose.as_bytes());
        }
    }
}
