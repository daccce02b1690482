//! What clients bring to prove who they are: passwords, signatures, certificates.

use rustls_pki_types::CertificateDer;
use selvedge::tls::client::ClientCertificate;
use selvedge_gateway::basic::{Claimed, TEXT, Users};
use selvedge_gateway::signature::{Form, Parts, Secret, read_message, read_webhook};

/// By the first byte: each form of signature, a password, a file of users, a certificate.
pub(crate) fn proof(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind % 7 {
        0 => webhook(Form::GitHub, rest),
        1 => webhook(Form::Stripe, rest),
        2 => webhook(Form::StandardWebhooks, rest),
        3 => message(rest),
        4 => password(rest),
        5 => users(rest),
        _ => certificate(rest),
    }
}

/// Name and value.
type Line<'a> = (&'a [u8], &'a [u8]);

/// Lines `name: value`, then an empty one and the body.
fn lines(input: &[u8]) -> (Vec<Line<'_>>, &[u8]) {
    let mut fields = Vec::new();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, more) = rest.split_at(end);
        rest = &more[1..];
        if line.is_empty() {
            break;
        }
        if let Some(at) = line.iter().position(|b| *b == b':') {
            fields.push((&line[..at], line[at + 1..].trim_ascii()));
        }
    }
    (fields, rest)
}

/// Nobody signs without the secret.
fn webhook(form: Form, input: &[u8]) {
    let (fields, body) = lines(input);
    let header = |name: &str| {
        let found = fields.iter().find(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| *value)
    };
    let secret = Secret::read(form, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
    if let Ok(claim) = read_webhook(form, header, 1_614_265_330, 300) {
        assert!(claim.holds(body, [&secret]).is_err());
    }
}

/// Nor in a message; what is read covers what it must.
fn message(input: &[u8]) {
    let (fields, body) = lines(input);
    let header = |name: &str| {
        let found = fields.iter().filter(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let parts = Parts {
        method: "POST",
        scheme: "https",
        authority: "shop.example",
        path: "/",
        query: Some("a=1"),
        header: &header,
        body: !body.is_empty(),
    };
    let secret = Secret::read(Form::Message, "0123456789abcdef").expect("a secret");
    if let Ok(claims) = read_message(&parts, &["a"], &[], 1_618_884_473, 300) {
        for claim in &claims {
            assert_eq!(claim.key, Some(0));
            assert!(claim.holds(body, [&secret]).is_err());
        }
        let all = fields.iter().map(|(_, value)| value.len()).sum::<usize>();
        assert!(all > 60, "too short to cover what it must");
    }
}

/// Bounded, and one line.
fn password(token: &[u8]) {
    if let Some(claimed) = Claimed::read(token) {
        assert!(claimed.user.len() <= TEXT && claimed.password.len() <= TEXT);
        assert!(
            claimed
                .user
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b':')
        );
    }
}

/// What is taken is of a bounded cost: it is not verified here, since that takes its time.
fn users(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if Users::read(&text, [1; 32]).is_ok() {
        assert!(text.contains("$argon2id$") || text.contains("$2"), "{text}");
    }
}

/// A header that an application can take apart.
fn certificate(bytes: &[u8]) {
    let Some(found) = ClientCertificate::read(&CertificateDer::from(bytes)) else {
        return;
    };
    let stamp = found.stamp();
    assert!(stamp.bytes().all(|b| (b' '..0x7f).contains(&b)), "{stamp}");
    assert!(stamp.starts_with("Hash="), "{stamp}");
    // Outside quotes, an element begins with one of ours.
    let mut quoted = false;
    let mut escaped = false;
    let bare: String = stamp
        .chars()
        .filter(|c| {
            match (escaped, c) {
                (false, '"') => quoted = !quoted,
                (false, '\\') => {
                    escaped = true;
                    return false;
                }
                _ => {}
            }
            escaped = false;
            !quoted
        })
        .collect();
    assert!(!quoted, "{stamp}");
    for element in bare.split(';') {
        let known = ["Hash=", "Subject=", "URI=", "DNS="];
        assert!(known.iter().any(|k| element.starts_with(k)), "{stamp}");
    }
    assert!(found.holder().bytes().all(|b| b.is_ascii_graphic()));
}
