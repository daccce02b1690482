//! Login by OpenID Connect (Core 1.0, authorization code flow with PKCE, RFC 7636): what an issuer
//! says of itself, what a login and a session hold, what cookies they are, and who is sent where.
//! Network, time and chance are passed in.

pub mod cookie;
pub mod login;
pub mod provider;
pub mod session;

pub use cookie::Names;
pub use login::{Callback, CallbackError, Login, Tokens, TokensError};
pub use provider::{ClientAuth, Provider, ProviderError};
pub use session::Session;

/// Longest address to which a user is sent back, in bytes.
pub const BACK: usize = 2048;

/// What decides whether a request is a person looking at a page. Names are those of fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Browsing<'a> {
    /// GET or HEAD.
    pub reads: bool,
    /// Asks for another protocol.
    pub upgrades: bool,
    /// `Accept`.
    pub accept: Option<&'a [u8]>,
    /// `Sec-Fetch-Mode`.
    pub mode: Option<&'a [u8]>,
    /// `X-Requested-With`.
    pub requested_with: Option<&'a [u8]>,
}

impl Browsing<'_> {
    /// Whether it can be sent to a login page. A script would follow the redirect and be refused by
    /// the issuer's origin, or take the login page for its data.
    #[must_use]
    pub fn is_navigation(&self) -> bool {
        let html = self.accept.is_some_and(|accept| {
            let mut types = accept.split(|b| *b == b',');
            types.any(|t| {
                let name = t.split(|b| *b == b';').next().unwrap_or_default();
                name.trim_ascii().eq_ignore_ascii_case(b"text/html")
            })
        });
        let mode = self.mode.is_none_or(|mode| mode == b"navigate");
        self.reads && !self.upgrades && html && mode && self.requested_with.is_none()
    }
}

/// What becomes of a request to log out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It is the user's wish.
    Now,
    /// Another site may have sent the browser here: the user is asked.
    Ask,
    /// Another site has.
    Never,
}

/// Whose wish a request to log out is. `site` is `Sec-Fetch-Site`, `origin` is `Origin`, `own` this
/// origin.
#[must_use]
pub fn leaving(post: bool, site: Option<&[u8]>, origin: Option<&[u8]>, own: &str) -> Leaving {
    let ours = match (site, origin) {
        (Some(site), _) => matches!(site, b"same-origin" | b"none"),
        // Older browsers: they send the origin with a POST at least.
        (None, Some(origin)) => post && origin == own.as_bytes(),
        (None, None) => false,
    };
    match (ours, post) {
        (true, _) => Leaving::Now,
        (false, false) => Leaving::Ask,
        (false, true) => Leaving::Never,
    }
}

/// Where a user may be sent back to: a path of the same host, or else `/`.
#[must_use]
pub fn back(target: &str) -> &str {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
    let own = target.starts_with('/') && !target.starts_with("//");
    if own && target.len() <= BACK && target.bytes().all(plain) {
        target
    } else {
        "/"
    }
}

/// Whether an address is `https`, or `http` on loopback where that is allowed, and nothing in it
/// could be read in two ways.
#[must_use]
pub fn is_safe(url: &str, loopback: bool) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#' | b'"' | b'<' | b'>');
    if url.len() > BACK || !url.bytes().all(plain) {
        return false;
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return false;
    }
    match scheme {
        "https" => true,
        "http" => loopback && is_loopback(authority),
        _ => false,
    }
}

/// Whether an issuer may be used at all, and is one without TLS on loopback.
#[must_use]
pub fn is_plain(issuer: &str) -> bool {
    issuer.starts_with("http://") && is_safe(issuer, true)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_people_are_sent_to_a_login_page() {
        let page = Browsing {
            reads: true,
            accept: Some(b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
            mode: Some(b"navigate"),
            ..Browsing::default()
        };
        assert!(page.is_navigation());
        assert!(Browsing { mode: None, ..page }.is_navigation());
        let accept = Some(&b"*/*, Text/HTML;level=1"[..]);
        assert!(Browsing { accept, ..page }.is_navigation());
        for other in [
            Browsing {
                reads: false,
                ..page
            },
            Browsing {
                upgrades: true,
                ..page
            },
            Browsing {
                accept: None,
                ..page
            },
            Browsing {
                accept: Some(b"*/*"),
                ..page
            },
            Browsing {
                accept: Some(b"application/json"),
                ..page
            },
            Browsing {
                accept: Some(b"text/htmlx"),
                ..page
            },
            Browsing {
                mode: Some(b"cors"),
                ..page
            },
            Browsing {
                mode: Some(b"no-cors"),
                ..page
            },
            Browsing {
                requested_with: Some(b"XMLHttpRequest"),
                ..page
            },
        ] {
            assert!(!other.is_navigation(), "{other:?}");
        }
    }

    #[test]
    fn nobody_is_sent_to_another_host() {
        for fine in ["/", "/a/b?c=d&e=//evil", "/a//b", "/?next=https://evil"] {
            assert_eq!(back(fine), fine);
        }
        let long = format!("/{}", "a".repeat(BACK));
        for bad in [
            "",
            "//evil",
            "///evil",
            "/\\evil",
            "\\\\evil",
            "https://evil",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: x=1",
            "/a b",
            "/\tevil",
            "/\u{e9}",
            "evil",
            &long,
        ] {
            assert_eq!(back(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_https_or_loopback() {
        for (url, strict, plain) in [
            ("https://id.example/a?b=c", true, true),
            ("https://id.example", true, true),
            ("http://127.0.0.1:80/a", false, true),
            ("http://[::1]:80/a", false, true),
            ("http://localhost", false, true),
            ("http://id.example", false, false),
            ("http://127.0.0.1.evil/", false, false),
            ("http://127.0.0.1@evil/", false, false),
            ("https://a@b/", false, false),
            ("https://", false, false),
            ("https:/a", false, false),
            ("ftp://127.0.0.1", false, false),
            ("https://a/#b", false, false),
            ("https://a\\b", false, false),
            ("https://a/ b", false, false),
            ("javascript://a/%0aalert(1)", false, false),
        ] {
            assert_eq!(
                (is_safe(url, false), is_safe(url, true)),
                (strict, plain),
                "{url}"
            );
        }
    }

    #[test]
    fn another_site_cannot_log_a_user_out() {
        let own = "https://shop.example";
        for (post, site, origin, wanted) in [
            (true, Some("same-origin"), None, Leaving::Now),
            (false, Some("same-origin"), None, Leaving::Now),
            (false, Some("none"), None, Leaving::Now),
            (true, None, Some("https://shop.example"), Leaving::Now),
            (false, Some("cross-site"), None, Leaving::Ask),
            (false, Some("same-site"), None, Leaving::Ask),
            (false, None, None, Leaving::Ask),
            (
                true,
                Some("cross-site"),
                Some("https://shop.example"),
                Leaving::Never,
            ),
            (true, None, Some("https://evil.example"), Leaving::Never),
            (true, None, Some("null"), Leaving::Never),
            (true, None, None, Leaving::Never),
        ] {
            let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
            let found = leaving(post, bytes(site), bytes(origin), own);
            assert_eq!(found, wanted, "{post} {site:?} {origin:?}");
        }
    }
}
