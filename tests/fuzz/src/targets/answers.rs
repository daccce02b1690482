//! What services of the operator answer: whether a request may pass, over gRPC, and what an issuer says
//! of a certificate.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use selvedge::message::{Fields, Known};
use selvedge::policy::ext_authz::{Action, Change, Verdict, grpc};
use selvedge::tls::staple;

/// By the first byte, a body with its framing, or a message that gets it. Nothing that is let through
/// can end a line, frame a message or name a host.
pub(crate) fn verdict(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let body = if kind % 2 == 0 {
        rest.to_vec()
    } else {
        let length = u32::try_from(rest.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], rest].concat()
    };
    let mut head = Fields::new();
    head.append_known(Known::ContentType, b"application/grpc");
    head.append_known(Known::GrpcStatus, b"0");
    match grpc::read(StatusCode::OK, &head, &body, None) {
        Err(_) | Ok(Verdict::Unknown) => {}
        Ok(Verdict::Allowed(request, response, _)) => {
            assert!(request.len() <= 200 && response.len() <= 100);
            request.iter().for_each(sendable);
            response.iter().for_each(sendable);
            let asserted = |change: &Change| {
                change.name.to_ascii_lowercase().replace('_', "-") == "x-forwarded-for"
            };
            assert!(!request.iter().any(asserted));
        }
        Ok(Verdict::Denied(status, told, body)) => {
            assert!((200..600).contains(&status.as_u16()));
            assert!(body.len() <= rest.len());
            for field in told.iter() {
                line(field.name, field.value);
                assert!(!field.known.is_hop_by_hop() && field.known != Known::Host);
            }
            assert!(told.all(Known::ContentLength).count() <= 1);
        }
    }
}

fn sendable(change: &Change) {
    let known = Known::classify(change.name.as_bytes());
    assert!(!known.is_hop_by_hop(), "{change:?}");
    assert!(!matches!(known, Known::Host | Known::ContentLength));
    line(change.name.as_bytes(), &change.value);
    assert!(change.action != Action::Remove || change.value.is_empty());
}

fn line(name: &[u8], value: &[u8]) {
    assert!(!name.is_empty() && !name.iter().any(|b| b":\r\n\0 \t".contains(b)));
    assert!(!value.iter().any(|b| b"\r\n\0".contains(b)));
}

/// The first byte is the length of a serial number, which follows, then an answer. One that is read is
/// shown as it came, is whole, and is not good before it begins or after it ends.
pub(crate) fn ocsp(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else {
        return;
    };
    let Some((serial, answer)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    let Ok(Some(found)) = staple::read(answer, serial) else {
        return;
    };
    assert_eq!(found.bytes, answer);
    let longer = [answer, &[0]].concat();
    assert!(staple::read(&longer, serial).is_err());
    assert!(staple::read(&answer[..answer.len() - 1], serial).is_err());
    if let Some(before) = found.from.checked_sub(Duration::from_secs(1)) {
        assert!(!found.is_fresh(before));
    }
    if let Some(until) = found.until {
        assert!(!found.is_fresh(until));
    } else {
        assert!(found.is_fresh(found.from.max(SystemTime::UNIX_EPOCH)));
    }
}
