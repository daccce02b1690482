//! What issuers and browsers send in the course of a login, and what is said about tokens.

use selvedge_gateway::introspection;
use selvedge_gateway::jwt::Expect;
use selvedge_gateway::oidc::cookie::{PART, PARTS, cut, is_own, join, without_own};
use selvedge_gateway::oidc::{Callback, Login, Provider, Session, Tokens, back, is_safe};
use selvedge_gateway::seal::Ring;

/// A key for cookies.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// By the first byte: metadata, an answer by the user, tokens, cookies, a way back, a sealed text, a
/// session and a login, an answer about a token.
pub(crate) fn login(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind % 8 {
        0 => metadata(rest),
        1 => callback(rest),
        2 => tokens(rest),
        3 => cookies(rest),
        4 => way_back(rest),
        5 => sealed(rest),
        6 => opened(rest),
        _ => {
            let expect = Expect::default();
            if let Ok(Ok(verified)) = introspection::judge(200, rest, &expect, 1000) {
                assert_eq!(verified.claims.get("active"), Some(&true.into()));
                assert!(verified.until > 1000);
            }
        }
    }
}

/// Nobody is sent where TLS does not guard what is sent, and an address that goes into a field is
/// one line.
fn metadata(text: &[u8]) {
    let Ok(found) = Provider::read(text, "https://i") else {
        return;
    };
    let all = [&found.authorization, &found.token, &found.jwks];
    let more = found.userinfo.iter().chain(&found.end_session);
    for url in all.into_iter().chain(more) {
        assert!(url.starts_with("https://") && is_safe(url, false), "{url}");
        assert!(url.bytes().all(|b| b.is_ascii_graphic()), "{url}");
    }
    let login = Login::new("/", 0, |bytes| bytes.fill(1));
    let url = login.address(&found, "a b\r\n", "https://s/\u{e9}", "openid x");
    assert!(url.bytes().all(|b| b.is_ascii_graphic()), "{url}");
    if let Some(url) = found.logout("a", Some("h\r\n"), "https://s/") {
        assert!(url.bytes().all(|b| b.is_ascii_graphic()), "{url}");
    }
}

/// Bounded, and said once.
fn callback(query: &[u8]) {
    let query = String::from_utf8_lossy(query);
    if let Ok(found) = Callback::read(&query) {
        assert!(!found.state.is_empty() && found.state.len() <= 4096);
        assert!(
            query.matches("state").count() >= 1 || query.contains('%'),
            "{query}"
        );
        let (Ok(text) | Err(text)) = &found.outcome;
        assert!(text.len() <= 4096);
    }
}

/// Bounded; a refusal can be logged.
fn tokens(input: &[u8]) {
    for status in [200, 400, 500] {
        match Tokens::read(status, input) {
            Ok(found) => {
                assert_eq!(status, 200);
                let all = [&found.id, &found.access, &found.refresh];
                assert!(all.into_iter().flatten().all(|t| t.len() <= 8 << 10));
            }
            Err(error) => assert!(error.to_string().len() < 1024 + input.len()),
        }
    }
}

/// What an application gets holds none of ours; the rest is in order. What is cut comes together.
fn cookies(line: &[u8]) {
    match without_own(line, "s") {
        Some(rest) => {
            // Pairs are set apart by a space more than they may have been.
            let pairs = |line: &[u8]| line.split(|b| *b == b';').count();
            assert!(pairs(&rest) <= pairs(line) && rest.len() <= 2 * line.len());
            assert_eq!(without_own(&rest, "s"), None);
        }
        None => {
            let mut pairs = line.split(|b| *b == b';');
            assert!(pairs.all(|pair| {
                let name = pair.split(|b| *b == b'=').next().unwrap_or_default();
                !is_own(name.trim_ascii(), "s")
            }));
        }
    }
    let parts: Vec<&[u8]> = line.split(|b| *b == b';').collect();
    if let Some(all) = join(|part| parts.get(part).copied()) {
        assert!(all.len() <= PART * PARTS);
        if all.is_ascii() && !all.is_empty() {
            let values = cut(&all).expect("what fits");
            let again = join(|part| values.get(part).map(String::as_bytes));
            assert_eq!(again, Some(all));
        }
    }
}

/// A path of the same host, whatever a browser makes of it.
fn way_back(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let found = back(&text);
    let mut bytes = found.bytes();
    assert_eq!(bytes.next(), Some(b'/'), "{text}");
    assert!(
        !matches!(bytes.next(), Some(b'/' | b'\\' | b'\t')),
        "{text}"
    );
    assert!(
        found.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'),
        "{text}"
    );
}

/// Nothing opens that was not sealed.
fn sealed(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let ring = Ring::read(KEY).expect("a key");
    assert_eq!(ring.open(&text, &["p"]), None, "{text}");
    let made = ring.seal(text.as_bytes(), &["p"], [3; 24]).expect("sealed");
    // Beyond 64 KiB nothing is opened again.
    if made.len() <= 64 << 10 {
        assert_eq!(ring.open(&made, &["p"]).as_deref(), Some(text.as_bytes()));
    }
    let _ = Ring::read(&text);
}

/// What was opened is ours, and must be read all the same: other versions have written it.
fn opened(text: &[u8]) {
    if let Some(session) = Session::read(text, 100, 1000) {
        assert!(session.begun > 900);
        assert_eq!(Session::read(&session.bytes(), 100, 1000), Some(session));
    }
    if let Some(login) = Login::read(text, 1000) {
        assert!(login.until > 1000 && back(login.back()) == login.back());
    }
}
