//! Part of stage 9, respond: pages of one's own in place of failures.

use bytes::Bytes;
use http::StatusCode;

use crate::message::{Body, Known, Response};

use super::refusal::Form;

/// What stands in for responses with these statuses.
#[derive(Debug)]
pub struct Page {
    /// First and last status, inclusive.
    pub statuses: Vec<(u16, u16)>,
    /// Also for what an application answered, not only for what this gateway did.
    pub upstream: bool,
    /// Another status.
    pub status: Option<StatusCode>,
    /// For browsers.
    pub html: Option<Bytes>,
    /// For everyone else.
    pub json: Option<Bytes>,
}

/// An `errorPages` policy: the first that fits.
#[derive(Debug)]
pub struct Pages(pub Vec<Page>);

impl Pages {
    /// Puts a page in place of a response, if there is one for it. `own` are answers of this
    /// gateway.
    pub(super) fn apply(&self, response: &mut Response, form: Form, own: bool, head_only: bool) {
        let status = response.head.status.as_u16();
        let fits = |page: &&Page| {
            (own || page.upstream)
                && page
                    .statuses
                    .iter()
                    .any(|(a, b)| (*a..=*b).contains(&status))
        };
        let Some(page) = self.0.iter().find(fits) else {
            return;
        };
        if let Some(status) = page.status {
            response.head.status = status;
        }
        let html = page.html.as_ref().filter(|_| form == Form::Page);
        let (body, kind): (_, &[u8]) = match (html, &page.json) {
            (Some(html), _) => (html, b"text/html; charset=utf-8"),
            (None, Some(json)) => (json, b"application/json"),
            (None, None) => return,
        };
        let fields = &mut response.head.fields;
        for known in [
            Known::ContentLength,
            Known::ContentType,
            Known::ContentEncoding,
            Known::ETag,
            Known::LastModified,
        ] {
            fields.remove_known(known);
        }
        for name in [
            "Accept-Ranges",
            "Content-Range",
            "Content-Language",
            "Content-Disposition",
        ] {
            fields.remove(name.as_bytes());
        }
        fields.append_known(Known::ContentType, kind);
        let mut digits = itoa::Buffer::new();
        fields.append_known(Known::ContentLength, digits.format(body.len()).as_bytes());
        response.body = if head_only {
            Body::Empty
        } else {
            Body::Full(body.clone())
        };
    }
}
