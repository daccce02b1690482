//! Answers of a service that decides over gRPC, byte by byte and field by field.

use super::*;
use selvedge_contract::authz::{HeaderValue, HttpStatus, Status};

fn fields(list: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in list {
        fields.append(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], payload].concat()
}

fn answered(body: &[u8]) -> Result<Verdict, &'static str> {
    let head = fields(&[("content-type", "application/grpc+proto")]);
    let trailers = fields(&[("grpc-status", "0")]);
    read(StatusCode::OK, &head, body, Some(&trailers))
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        ..HeaderValueOption::default()
    }
}

fn denied(code: i32, headers: Vec<HeaderValueOption>, body: &str) -> Verdict {
    verdict(CheckResponse {
        status: Some(Status { code: 7 }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers,
            body: body.to_owned(),
        })),
    })
    .unwrap()
}

/// Written by hand from Envoy's numbers: `status {}`, `ok_response { headers { header { key: "X-User"
/// value: "ann" } append { value: true } } headers_to_remove: "X-B" }`, and fields that are skipped
/// here: `dynamic_metadata`, `keep_empty_value`.
const OK: &[u8] = b"\x0a\x00\x1a\x1c\x12\x15\x0a\x0d\x0a\x06X-User\x12\x03ann\x12\x02\x08\x01\x20\x01\x2a\x03X-B\x22\x00";

#[test]
fn the_numbers_are_envoy_s() {
    let Ok(Verdict::Allowed(request, response, _)) = answered(&message(OK)) else {
        panic!("refused");
    };
    let told: Vec<_> = request
        .iter()
        .map(|c| (c.action, c.name.as_str(), &*c.value))
        .collect();
    assert_eq!(
        told,
        [
            (Action::Append, "X-User", &b"ann"[..]),
            (Action::Remove, "X-B", b"")
        ]
    );
    assert!(response.is_empty());
    // status { code: 7 message: "n" } denied_response { status { code: 401 } body: "no" }
    let bytes = b"\x0a\x05\x08\x07\x12\x01n\x12\x09\x0a\x03\x08\x91\x03\x1a\x02no";
    let Ok(Verdict::Denied(status, _, body)) = answered(&message(bytes)) else {
        panic!("no refusal");
    };
    assert_eq!((status.as_u16(), &body[..]), (401, &b"no"[..]));
}

#[test]
fn what_is_no_answer_says_nothing() {
    let head = fields(&[("content-type", "application/grpc")]);
    let zero = fields(&[("grpc-status", "0")]);
    let good = message(OK);
    assert!(read(StatusCode::OK, &head, &good, Some(&zero)).is_ok());
    let failed = fields(&[("grpc-status", "14")]);
    assert!(read(StatusCode::OK, &head, &good, Some(&failed)).is_err());
    assert!(read(StatusCode::OK, &head, &good, None).is_err());
    assert!(read(StatusCode::OK, &head, &good, Some(&fields(&[]))).is_err());
    assert!(read(StatusCode::NOT_FOUND, &head, &good, Some(&zero)).is_err());
    assert!(read(StatusCode::OK, &fields(&[]), &good, Some(&zero)).is_err());
    // A head that ends the call, without a message.
    let ended = fields(&[("content-type", "application/grpc"), ("grpc-status", "0")]);
    assert!(read(StatusCode::OK, &ended, b"", None).is_err());
    let mut compressed = good.clone();
    compressed[0] = 1;
    let cut = &good[..good.len() - 1];
    let twice = [&good[..], &good].concat();
    for bad in [
        &b""[..],
        b"\0\0\0\0",
        &message(b""),
        &message(b"\xff\xff\xff"),
        &message(b"\x1a\x7fshort"),
        // A name that is not UTF-8.
        &message(b"\x0a\x00\x1a\x05\x2a\x03\xff\xfe\xfd"),
        &compressed,
        cut,
        &twice,
    ] {
        assert!(answered(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn contradictions_let_nobody_in() {
    let ok = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
    let no = || {
        let denied = DeniedHttpResponse::default();
        Some(HttpResponse::DeniedResponse(denied))
    };
    let code = |code| Some(Status { code });
    for (status, http_response, want) in [
        (code(0), None, "allowed"),
        (code(0), ok(), "allowed"),
        (None, ok(), "allowed"),
        (code(0), no(), "denied"),
        (code(7), ok(), "denied"),
        (code(7), None, "denied"),
        (None, no(), "denied"),
        (None, None, "nothing"),
    ] {
        let answer = CheckResponse {
            status,
            http_response,
        };
        let got = match verdict(answer) {
            Ok(Verdict::Allowed(..)) => "allowed",
            Ok(Verdict::Denied(status, ..)) if status == StatusCode::FORBIDDEN => "denied",
            _ => "nothing",
        };
        assert_eq!(got, want, "{status:?}");
    }
}

#[test]
fn a_refusal_keeps_to_what_can_be_sent() {
    for (code, want) in [
        (401, 401),
        (200, 200),
        (599, 599),
        (0, 403),
        (101, 403),
        (600, 403),
        (-1, 403),
    ] {
        let Verdict::Denied(status, ..) = denied(code, Vec::new(), "") else {
            panic!("allowed");
        };
        assert_eq!(status.as_u16(), want);
    }
    let headers = vec![
        option("WWW-Authenticate", "Basic"),
        option("Set-Cookie", "a=1\r\nX-Evil: 1"),
        option("Content-Length", "9"),
        option("Transfer-Encoding", "chunked"),
        option(":status", "200"),
        option("b@d", "1"),
    ];
    let Verdict::Denied(_, told, body) = denied(401, headers, "who?") else {
        panic!("allowed");
    };
    let told: Vec<_> = told.iter().map(|f| (f.name, f.value)).collect();
    let want: [(&[u8], &[u8]); 2] = [(b"WWW-Authenticate", b"Basic"), (b"Content-Length", b"4")];
    assert_eq!((told, &body[..]), (want.to_vec(), &b"who?"[..]));
    let Verdict::Denied(_, told, body) = denied(204, Vec::new(), "x") else {
        panic!("allowed");
    };
    assert!(told.is_empty() && body.is_empty());
}

#[test]
fn identity_framing_and_host_are_not_a_service_s_to_change() {
    let names = [
        "X-User",
        "Host",
        ":path",
        "Content-Length",
        "Connection",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Client-Cert",
        "Expect",
    ];
    let ok = OkHttpResponse {
        headers: names.iter().map(|name| option(name, "1")).collect(),
        headers_to_remove: names.iter().map(|name| (*name).to_owned()).collect(),
        response_headers_to_add: vec![option("X-Seen", "1"), option("content-length", "1")],
    };
    let Ok(Verdict::Allowed(request, response, _)) = allowed(ok) else {
        panic!("refused");
    };
    let names: Vec<_> = request.iter().map(|c| (c.action, &*c.name)).collect();
    assert_eq!(names, [(Action::Set, "X-User"), (Action::Remove, "X-User")]);
    let names: Vec<_> = response.iter().map(|c| (c.action, &*c.name)).collect();
    assert_eq!(names, [(Action::Append, "X-Seen")]);
    for bad in ["b@d", ""] {
        let headers = vec![option(bad, "1")];
        let ok = OkHttpResponse {
            headers,
            ..OkHttpResponse::default()
        };
        assert!(allowed(ok).is_err());
    }
    let ok = OkHttpResponse {
        headers_to_remove: vec!["x".to_owned(); defaults::VERDICT_FIELDS + 1],
        ..OkHttpResponse::default()
    };
    assert!(allowed(ok).is_err());
}

#[test]
fn actions_are_read_from_either_field() {
    for (append, action, want) in [
        (None, 0, Action::Set),
        (None, 1, Action::AddIfAbsent),
        (None, 2, Action::Set),
        (None, 3, Action::SetIfThere),
        (None, 99, Action::Set),
        (Some(true), 2, Action::Append),
        (Some(false), 0, Action::Set),
    ] {
        let option = HeaderValueOption {
            append,
            append_action: action,
            ..option("X-A", "1")
        };
        let change = change(option, Action::Set).unwrap().unwrap();
        assert_eq!(change.action, want, "{append:?} {action}");
    }
}
