//! Cross-origin resource sharing (Fetch standard, section 3.2): whose pages may call, and what a
//! browser is told of it.

use std::collections::HashSet;

/// Which origins may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    exact: HashSet<String>,
    /// Scheme with `://`, and the suffix of the host with its first dot and its port.
    below: Vec<(String, String)>,
}

/// Why a text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin such as `https://shop.example`, `https://*.shop.example` or `*`")]
pub struct OriginError;

impl Origins {
    /// Adds an origin: scheme, host and port; `*.` before a host for all below it; `*` for all;
    /// `null` for pages without one.
    ///
    /// # Errors
    /// Anything else, a path or a final slash included.
    pub fn add(&mut self, text: &str) -> Result<(), OriginError> {
        if text == "*" {
            self.any = true;
            return Ok(());
        }
        if text == "null" {
            self.exact.insert(text.to_owned());
            return Ok(());
        }
        let (scheme, host) = text.split_once("://").ok_or(OriginError)?;
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']');
        let bare = host.strip_prefix("*.").unwrap_or(host);
        let scheme_fine = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
        if !scheme_fine || bare.is_empty() || !bare.bytes().all(plain) {
            return Err(OriginError);
        }
        let lower = text.to_ascii_lowercase();
        match lower.split_once("*.") {
            Some((scheme, host)) => self.below.push((scheme.to_owned(), format!(".{host}"))),
            None => {
                self.exact.insert(lower);
            }
        }
        Ok(())
    }

    /// Whether every origin may call.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.any
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty() && self.below.is_empty()
    }

    /// Whether an `Origin` may call. Browsers send it in lower case, so case counts.
    #[must_use]
    pub fn allow(&self, origin: &str) -> bool {
        let below = || {
            self.below.iter().any(|(scheme, suffix)| {
                let host = origin.strip_prefix(scheme.as_str());
                let label = host.and_then(|host| host.strip_suffix(suffix.as_str()));
                label.is_some_and(|label| {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
                    !label.is_empty() && label.bytes().all(plain)
                })
            })
        };
        self.any || self.exact.contains(origin) || below()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_may_call() {
        let mut origins = Origins::default();
        for text in [
            "https://Shop.example",
            "http://localhost:3000",
            "https://*.shop.example",
        ] {
            assert_eq!(origins.add(text), Ok(()));
        }
        for (origin, want) in [
            ("https://shop.example", true),
            ("http://shop.example", false),
            ("https://shop.example:444", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("https://a.shop.example", true),
            ("https://a.b.shop.example", true),
            ("https://.shop.example", false),
            ("https://evilshop.example", false),
            ("https://evil.example/.shop.example", false),
            ("https://evil.example#.shop.example", false),
            ("https://a.shop.example.evil", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin), want, "{origin}");
        }
        for bad in [
            "",
            "shop.example",
            "https://",
            "https://a/",
            "https://a b",
            "https://*",
            "://a",
        ] {
            assert_eq!(origins.add(bad), Err(OriginError), "{bad}");
        }
    }
}
