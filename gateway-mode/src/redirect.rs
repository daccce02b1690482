//! Where a `RequestRedirect` of Gateway API points: a `Location` and a status.

use crate::rewrite::PathEdit;

/// A redirect; what is not set is kept from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Host name.
    pub hostname: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a redirect needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host name, without port.
    pub host: &'a str,
    /// Port that the client named, if any.
    pub port: Option<u16>,
    /// Port of the listener.
    pub listener_port: u16,
    /// Path, in normal form.
    pub path: &'a str,
    /// Query, without `?`.
    pub query: &'a str,
}

fn well_known(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

impl Redirect {
    /// The `Location`.
    ///
    /// Port, as Gateway API has it: the one configured; else, where the scheme is configured, that
    /// scheme's own; else the listener's. A scheme's own port is not written.
    #[must_use]
    pub fn location(&self, origin: Origin<'_>) -> String {
        let scheme = self.scheme.unwrap_or(origin.scheme);
        let host = self.hostname.as_deref().unwrap_or(origin.host);
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => well_known(scheme),
            (None, None) => origin.port.unwrap_or(origin.listener_port),
        };
        let path = match &self.path {
            Some(edit) => edit.apply(origin.path),
            None => origin.path.to_owned(),
        };
        let mut location = format!("{scheme}://{host}");
        if port != well_known(scheme) {
            location.push(':');
            location.push_str(&port.to_string());
        }
        location.push_str(&path);
        if !origin.query.is_empty() {
            location.push('?');
            location.push_str(origin.query);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'static> = Origin {
        scheme: "http",
        host: "a.example",
        port: None,
        listener_port: 8080,
        path: "/a/b",
        query: "x=1",
    };

    const KEEP: Redirect = Redirect {
        scheme: None,
        hostname: None,
        port: None,
        path: None,
        status: 302,
    };

    #[test]
    fn ports_and_parts() {
        let at = |redirect: Redirect| redirect.location(ORIGIN);
        assert_eq!(at(KEEP), "http://a.example:8080/a/b?x=1");
        let https = Redirect {
            scheme: Some("https"),
            ..KEEP
        };
        assert_eq!(at(https.clone()), "https://a.example/a/b?x=1");
        assert_eq!(
            at(Redirect {
                port: Some(8443),
                ..https
            }),
            "https://a.example:8443/a/b?x=1"
        );
        let other = Redirect {
            hostname: Some("b.example".into()),
            port: Some(80),
            path: Some(PathEdit::Full("/".into())),
            ..KEEP
        };
        assert_eq!(at(other), "http://b.example/?x=1");
    }
}
