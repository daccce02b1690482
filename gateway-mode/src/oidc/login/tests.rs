//! What a login remembers, and which answers it takes.

use super::*;
use crate::oidc::is_safe;

fn login(target: &str) -> Login {
    let mut next = 0u8;
    Login::new(target, 1000, |bytes| {
        next += 1;
        bytes.fill(next);
    })
}

fn provider() -> Provider {
    Provider {
        authorization: "https://id.example/auth?tenant=1".into(),
        token: String::new(),
        jwks: String::new(),
        userinfo: None,
        end_session: None,
        secret_in_body: false,
        names_itself: false,
    }
}

#[test]
fn the_address_holds_the_challenge_and_no_secret() {
    let login = login("/a?b");
    let url = login.address(&provider(), "sh op", "https://shop/cb", "openid email");
    assert!(is_safe(&url, false), "{url}");
    for part in [
        "https://id.example/auth?tenant=1&response_type=code&client_id=sh+op",
        "redirect_uri=https%3A%2F%2Fshop%2Fcb&scope=openid+email&state=AQEB",
        "&code_challenge_method=S256",
    ] {
        assert!(url.contains(part), "{part}: {url}");
    }
    assert!(!url.contains(&login.verifier));
    // RFC 7636 appendix B.
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
    let url = Login { verifier, ..login }.address(&provider(), "c", "u", "s");
    assert!(
        url.contains("=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&"),
        "{url}"
    );
}

#[test]
fn a_login_ends_after_ten_minutes() {
    let login = login("/a");
    assert_eq!(Login::read(&login.bytes(), 1599), Some(login.clone()));
    assert_eq!(Login::read(&login.bytes(), 1600), None);
    assert_eq!(Login::read(b"{}", 0), None);
    assert!(login.is_answered_by(&login.state.clone()));
    assert!(!login.is_answered_by("") && !login.is_answered_by(&login.nonce));
    let forged = Login {
        back: "//evil".into(),
        ..login
    };
    assert_eq!(forged.back(), "/");
}

#[test]
fn answers_are_read_once_and_whole() {
    let read = |query: &str| Callback::read(query);
    let right = read("code=a%2Bb&state=s&iss=https%3A%2F%2Fi&session_state=x").unwrap();
    assert_eq!(right.outcome, Ok("a+b".into()));
    assert!(right.is_from("https://i", &provider()).is_ok());
    assert!(right.is_from("https://j", &provider()).is_err());
    let bare = read("code=a&state=s").unwrap();
    assert!(bare.is_from("https://i", &provider()).is_ok());
    let names = Provider {
        names_itself: true,
        ..provider()
    };
    assert!(bare.is_from("https://i", &names).is_err());
    let refused = read("error=access_denied&code=x&state=s").unwrap();
    assert_eq!(refused.outcome, Err("access_denied".into()));
    for (query, wanted) in [
        ("", CallbackError::Incomplete),
        ("code=a", CallbackError::Incomplete),
        ("code=a&state=", CallbackError::Incomplete),
        ("state=s", CallbackError::Incomplete),
        ("code=a&state=s&state=t", CallbackError::Twice),
        ("code=a&code=b&state=s", CallbackError::Twice),
        (
            &format!("code={}&state=s", "a".repeat(5000)),
            CallbackError::Long,
        ),
    ] {
        assert_eq!(read(query), Err(wanted), "{query}");
    }
}

#[test]
fn tokens_are_read_and_refusals_told_apart() {
    let body =
        br#"{"id_token":"a.b.c","access_token":"x","expires_in":"300","token_type":"Bearer"}"#;
    let tokens = Tokens::read(200, body).unwrap();
    assert_eq!(
        (tokens.id.as_deref(), tokens.life),
        (Some("a.b.c"), Some(300))
    );
    assert!(!format!("{tokens:?}").contains("a.b.c"));
    let grant = br#"{"error":"invalid_grant"}"#;
    assert_eq!(Tokens::read(400, grant), Err(TokensError::Grant));
    assert!(matches!(
        Tokens::read(500, grant),
        Err(TokensError::Form(_))
    ));
    let client = Tokens::read(401, b"{\"error\":\"invalid_client\\r\\nX: <b>\"}");
    assert_eq!(
        client,
        Err(TokensError::Refused("invalid_clientX b".into()))
    );
    let long = format!("{{\"refresh_token\":\"{}\"}}", "a".repeat(9000));
    for body in [&b"<html>"[..], b"[]", b"", long.as_bytes()] {
        assert!(matches!(Tokens::read(200, body), Err(TokensError::Form(_))));
    }
    assert!(matches!(Tokens::read(302, b""), Err(TokensError::Form(_))));
}
