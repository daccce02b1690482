//! What must never be said: private keys, tokens, cookies. Every process of every test is listened to.

/// The first secret in a text, and what it is. Its beginning only: a failure must not print it either.
#[must_use]
pub fn secret_in(text: &str) -> Option<String> {
    let found = |what: &str, at: usize| {
        let shown: String = text[at..].chars().take(24).collect();
        Some(format!("{what}: `{shown}...`"))
    };
    for (what, mark) in [
        ("a private key", "PRIVATE KEY-----"),
        ("an authorization", "Bearer ey"),
        ("an authorization", "Basic Y"),
        ("a cookie", "set-cookie:"),
        ("a cookie", "Set-Cookie:"),
        ("a session", "__Host-selvedge"),
    ] {
        if let Some(at) = text.find(mark) {
            return found(what, at);
        }
    }
    // A join token, and a signed token of any kind: `eyJ` is how a JSON object begins in base64.
    for (at, _) in text.match_indices("sjt_") {
        let hex = text[at + 4..].bytes().take_while(u8::is_ascii_hexdigit);
        if hex.count() >= 32 {
            return found("a join token", at);
        }
    }
    for (at, _) in text.match_indices("eyJ") {
        let word = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        let length = text[at..].bytes().take_while(word).count();
        let word = &text[at..at + length];
        if word.split('.').count() == 3 && length > 60 {
            return found("a signed token", at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::secret_in;

    #[test]
    fn secrets_are_known_when_they_are_seen() {
        let hex = "0123456789abcdef".repeat(4);
        let jwt = format!(
            "eyJ{}.eyJ{}.{}",
            "a".repeat(30),
            "b".repeat(30),
            "c".repeat(40)
        );
        for text in [
            "x -----BEGIN PRIVATE KEY----- y".to_owned(),
            "-----BEGIN EC PRIVATE KEY-----".to_owned(),
            format!("token sjt_{hex}"),
            format!("token={jwt} refused"),
            "set-cookie: a=b".to_owned(),
        ] {
            assert!(secret_in(&text).is_some(), "{text}");
        }
        for text in [
            "certificate obtained id=spiffe://shop.local/ns/shop/sa/web",
            "sjt_ is how tokens begin",
            "eyJ alone is no token",
            "a private key that others may read",
        ] {
            assert_eq!(secret_in(text), None, "{text}");
        }
    }
}
