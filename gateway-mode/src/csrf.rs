//! Whether a request that changes something was sent by a page of one's own.

/// What a browser says of where a request comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent<'a> {
    /// `Sec-Fetch-Site`.
    pub site: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// Scheme that the client used.
    pub scheme: &'a str,
    /// Host that the request is for, with its port if it has one.
    pub host: &'a str,
}

/// Whether a request may change something. Browsers that are not too old send `Sec-Fetch-Site`, all
/// of them send `Origin` with anything but GET and HEAD; what sends neither is no browser, and
/// nobody's cookies are abused by it. `trusted` are origins that may.
#[must_use]
pub fn may(sent: Sent<'_>, trusted: impl Fn(&str) -> bool) -> bool {
    if sent.origin.is_some_and(&trusted) {
        return true;
    }
    match (sent.site, sent.origin) {
        (Some("same-origin" | "none"), _) => true,
        (Some(_), _) => false,
        (None, None) => true,
        (None, Some(origin)) => origin.split_once("://").is_some_and(|(scheme, host)| {
            scheme == sent.scheme && host.eq_ignore_ascii_case(sent.host)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_ones_own_and_no_others() {
        for (site, origin, want) in [
            (Some("same-origin"), Some("https://shop.example"), true),
            (Some("none"), None, true),
            (Some("same-site"), Some("https://blog.shop.example"), false),
            (Some("cross-site"), Some("https://evil.example"), false),
            (Some("cross-site"), None, false),
            (Some("nonsense"), None, false),
            (None, Some("https://shop.example"), true),
            (None, Some("https://SHOP.example"), true),
            (None, Some("http://shop.example"), false),
            (None, Some("https://shop.example.evil"), false),
            (None, Some("null"), false),
            (None, Some(""), false),
            (None, None, true),
            (Some("cross-site"), Some("https://pay.example"), true),
        ] {
            let sent = Sent {
                site,
                origin,
                scheme: "https",
                host: "shop.example",
            };
            let trusted = |origin: &str| origin == "https://pay.example";
            assert_eq!(may(sent, trusted), want, "{site:?} {origin:?}");
        }
    }
}
