//! Part of stage 9, respond: the answer to a request that failed, as its client understands it.

use http::StatusCode;

use crate::error::{Error, ErrorKind, Side};
use crate::message::{Body, Fields, Known, Response, ResponseHead};

use super::Seen;

/// How a client is told what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Inside the mesh: a line of text with the reason, and the reason in `Proxy-Status` too.
    Line,
    /// Outside: a problem document (RFC 9457).
    Problem,
    /// Outside, to a browser: a page.
    Page,
}

impl Form {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Line => "text/plain; charset=utf-8",
            Self::Problem => "application/problem+json",
            Self::Page => "text/html; charset=utf-8",
        }
    }

    fn body(self, kind: ErrorKind) -> String {
        let row = kind.row();
        let (status, title) = (row.status, title(kind));
        match (self, told(kind)) {
            (Self::Line, _) => format!("{status} {}\n", row.text),
            (Self::Problem, "") => format!("{{\"title\":\"{title}\",\"status\":{status}}}\n"),
            (Self::Problem, detail) => {
                format!("{{\"title\":\"{title}\",\"status\":{status},\"detail\":\"{detail}\"}}\n")
            }
            (Self::Page, detail) => format!(
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
                 <title>{status} {title}</title><h1>{title}</h1><p>{detail}</p></html>\n"
            ),
        }
    }
}

fn title(kind: ErrorKind) -> &'static str {
    match kind.status() {
        status if status.as_u16() == 499 => "Client Closed Request",
        status => status.canonical_reason().unwrap_or("Error"),
    }
}

/// What the outside world is told: what a client did, and what was refused, but nothing of what
/// stands behind the gateway.
fn told(kind: ErrorKind) -> &'static str {
    let row = kind.row();
    let refused = matches!(
        kind,
        ErrorKind::NoRoute
            | ErrorKind::Gone
            | ErrorKind::Denied
            | ErrorKind::RateLimited
            | ErrorKind::Unauthenticated
            | ErrorKind::IssuerLost
            | ErrorKind::IssuerFailed
            | ErrorKind::LoginRefused
            | ErrorKind::LoginUnknown
    );
    if row.side == Side::Downstream || refused {
        row.text
    } else {
        ""
    }
}

/// The answer to a request that failed: status, `Proxy-Status` (RFC 9209), and a body in the form
/// that its client understands; to gRPC a trailers-only response.
#[must_use]
pub fn refusal(error: &Error, seen: Seen) -> Response {
    let row = error.kind.row();
    let mut fields = Fields::new();
    let mut status = format!("selvedge; error={}", row.token);
    if seen.form == Form::Line {
        status.push_str("; details=\"");
        status.push_str(row.text);
        status.push('"');
    }
    fields.append(b"Proxy-Status", status.as_bytes());
    if seen.grpc {
        let mut digits = itoa::Buffer::new();
        let message = match (seen.form, told(error.kind)) {
            (Form::Line, _) => row.text,
            (_, "") => title(error.kind),
            (_, told) => told,
        };
        fields.append_known(Known::ContentType, b"application/grpc");
        fields.append_known(Known::GrpcStatus, digits.format(row.grpc).as_bytes());
        fields.append(b"Grpc-Message", message.as_bytes());
        return Response {
            head: ResponseHead {
                status: StatusCode::OK,
                fields,
            },
            body: Body::Empty,
        };
    }
    if row.status == 405 {
        fields.append(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    let text = seen.form.body(error.kind);
    let mut digits = itoa::Buffer::new();
    fields.append_known(Known::ContentType, seen.form.content_type().as_bytes());
    fields.append_known(Known::ContentLength, digits.format(text.len()).as_bytes());
    Response {
        head: ResponseHead {
            status: error.kind.status(),
            fields,
        },
        body: if seen.head {
            Body::Empty
        } else {
            Body::Full(text.into())
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_json_and_says_nothing_of_what_is_behind() {
        for kind in ErrorKind::ALL {
            let text = Form::Problem.body(kind);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["status"], kind.row().status);
            assert!(value["title"].as_str().is_some_and(|t| !t.is_empty()));
            let page = Form::Page.body(kind);
            if kind.side() == Side::Upstream {
                assert!(!text.contains(kind.row().text) && !page.contains(kind.row().text));
            }
        }
    }
}
