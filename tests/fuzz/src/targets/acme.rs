//! What ACME directories answer, what the store holds, and what strangers ask for as tokens.

use std::time::{Duration, SystemTime};

use selvedge::acme::answer::{Resources, Window, pause_of};
use selvedge::acme::{Certificate, is_token};

/// By the first byte: a directory, a renewal window, a pause, a token, a key with its chain.
pub(crate) fn answer(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind % 5 {
        0 => resources(rest),
        1 => window(rest),
        2 => pause(rest),
        3 => token(rest),
        _ => {
            if let Ok(held) = Certificate::read("a.example", rest) {
                assert!(!held.key.cert.is_empty());
                assert!(held.life() <= Duration::from_secs(u64::from(u32::MAX) * 100));
            }
        }
    }
}

/// Nothing is sent to an address that TLS does not guard.
fn resources(json: &[u8]) {
    let Some(found) = Resources::read(json) else {
        return;
    };
    let all = [&found.new_nonce, &found.new_account, &found.new_order];
    for url in all.into_iter().chain(&found.renewal_info) {
        let uri: http::Uri = url.parse().expect("an address");
        assert_eq!(uri.scheme_str(), Some("https"), "{url}");
        assert!(uri.host().is_some_and(|host| !host.is_empty()), "{url}");
    }
}

/// Whatever is picked lies inside.
fn window(json: &[u8]) {
    let Some(found) = Window::read(json) else {
        return;
    };
    assert!(found.start < found.end);
    for random in [0.0, 0.5, 0.999_999] {
        let picked = found.pick(random);
        // Fractions of a second are rounded.
        let end = found.end + Duration::from_secs(1);
        assert!(found.start <= picked && picked <= end);
    }
}

/// Never longer than a day.
fn pause(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if let Some(pause) = pause_of(&text, SystemTime::UNIX_EPOCH) {
        assert!(pause <= Duration::from_secs(86_400), "{text}");
    }
}

/// A token is the name of one file in one folder.
fn token(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if is_token(&text) {
        let mut parts = std::path::Path::new(&*text).components();
        let normal = matches!(parts.next(), Some(std::path::Component::Normal(_)));
        assert!(normal && parts.next().is_none(), "{text}");
        assert!(text.len() <= 128 && !text.contains('.'), "{text}");
    }
}
