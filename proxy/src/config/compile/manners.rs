//! Policies of the configuration for browsers and for clients of old versions.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use http::StatusCode;
use selvedge_contract::config::{
    Csrf as CsrfSpec, ErrorPage, Frame, Security as SecuritySpec, VersionPolicy,
};
use selvedge_gateway::cors::Origins;

use crate::policy::manners::{Csrf, Security, TELLTALES, Version};
use crate::protocol::http1::parse::is_value;
use crate::respond::pages::{Page, Pages};

use super::{At, Compiler, Pass};

impl Compiler {
    /// A `version` policy; one that has not changed goes on counting.
    pub(super) fn version(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &VersionPolicy,
    ) -> Arc<Version> {
        let known = self.versions.get(name).filter(|(before, _)| before == spec);
        let version = match known {
            Some((_, version)) => version.clone(),
            None => Arc::new(pass.version(at, name, spec)),
        };
        let kept = (spec.clone(), version.clone());
        pass.versions.insert(name.to_owned(), kept);
        version
    }
}

impl Pass<'_> {
    /// A `csrf` policy.
    pub(super) fn csrf(&mut self, at: &At, name: &str, spec: &CsrfSpec) -> Csrf {
        let mut trusted = Origins::default();
        for (index, text) in spec.trusted_origins.iter().enumerate() {
            if text == "*" || trusted.add(text).is_err() {
                let remedy = "expected an origin such as `https://pay.example`";
                let at = at.then("trustedOrigins").nth(index);
                self.error(&at, format!("`{text}` cannot be trusted"), remedy);
            }
        }
        Csrf {
            name: Arc::from(name),
            trusted,
        }
    }

    /// A `security` policy.
    pub(super) fn security(&mut self, at: &At, spec: &SecuritySpec) -> Security {
        let mut fields = Vec::new();
        if spec.content_type_options.unwrap_or(true) {
            fields.push(("X-Content-Type-Options", "nosniff".to_owned()));
        }
        match spec.frame.unwrap_or(Frame::Deny) {
            Frame::Deny => fields.push(("X-Frame-Options", "DENY".to_owned())),
            Frame::SameOrigin => fields.push(("X-Frame-Options", "SAMEORIGIN".to_owned())),
            Frame::Off => {}
        }
        let referrer = spec.referrer_policy.clone();
        let referrer = referrer.unwrap_or_else(|| "strict-origin-when-cross-origin".to_owned());
        fields.push(("Referrer-Policy", referrer));
        for (name, value) in [
            ("Content-Security-Policy", &spec.content_security_policy),
            ("Permissions-Policy", &spec.permissions_policy),
            ("Cross-Origin-Opener-Policy", &spec.opener_policy),
        ] {
            fields.extend(value.clone().map(|value| (name, value)));
        }
        for (name, value) in &fields {
            if !is_value(value.as_bytes()) {
                let remedy = "expected visible characters and blanks, on one line";
                self.error(at, format!("no value for `{name}`"), remedy);
            }
        }
        let hsts = spec.hsts.as_ref().map(|hsts| {
            let mut text = format!("max-age={}", hsts.max_age.0.as_secs());
            for (word, wanted) in [
                ("includeSubDomains", hsts.include_subdomains),
                ("preload", hsts.preload),
            ] {
                if wanted {
                    let _ = write!(text, "; {word}");
                }
            }
            text
        });
        Security {
            fields,
            hsts,
            removed: if spec.keep_server { &[] } else { &TELLTALES },
        }
    }

    fn version(&mut self, at: &At, name: &str, spec: &VersionPolicy) -> Version {
        let deprecation = spec.deprecated.as_ref();
        let deprecation = deprecation.and_then(|d| self.day(&at.then("deprecated"), d));
        let sunset = spec.sunset.as_ref();
        let sunset = sunset.and_then(|d| self.day(&at.then("sunset"), d));
        if spec.refuse && spec.sunset.is_none() {
            let remedy = "add `sunset`";
            self.error(&at.then("refuse"), "refuses from no day on", remedy);
        }
        if let Some(link) = &spec.link
            && (!is_value(link.as_bytes()) || link.contains(['<', '>', ' ']))
        {
            let remedy = "expected an address such as `https://docs.example/v2`";
            self.error(&at.then("link"), format!("`{link}` is no address"), remedy);
        }
        let unix = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        };
        Version {
            policy: Arc::from(name),
            name: spec.name.clone(),
            deprecation: deprecation.map(|time| format!("@{}", unix(time))),
            sunset: sunset.map(|time| (httpdate::fmt_http_date(time), time)),
            link: spec
                .link
                .as_ref()
                .map(|link| format!("<{link}>; rel=\"deprecation\"; type=\"text/html\"")),
            refuse: spec.refuse,
            requests: AtomicU64::new(0),
        }
    }

    /// An `errorPages` policy.
    pub(super) fn pages(&mut self, at: &At, list: &[ErrorPage]) -> Pages {
        let pages = list.iter().enumerate();
        Pages(
            pages
                .map(|(nth, spec)| self.page(&at.nth(nth), spec))
                .collect(),
        )
    }

    fn page(&mut self, at: &At, spec: &ErrorPage) -> Page {
        let mut statuses = Vec::new();
        for (nth, text) in spec.statuses.iter().enumerate() {
            match range(text) {
                Some(range) => statuses.push(range),
                None => {
                    let remedy = "expected `404`, `5xx` or `500-504`";
                    let at = at.then("statuses").nth(nth);
                    self.error(&at, format!("`{text}` are no statuses of failures"), remedy);
                }
            }
        }
        if spec.html.is_none() && spec.json.is_none() && spec.status.is_none() {
            let remedy = "add `html`, `json` or `status`";
            self.error(at, "a page with nothing on it", remedy);
        }
        let html = spec
            .html
            .as_ref()
            .and_then(|path| match std::fs::read(path) {
                Ok(page) => Some(page.into()),
                Err(error) => {
                    let remedy = "expected a file that can be read";
                    self.error(&at.then("html"), format!("`{path}`: {error}"), remedy);
                    None
                }
            });
        let status = spec.status.and_then(|status| {
            let known = StatusCode::from_u16(status).ok();
            let fine = known.filter(|s| *s == StatusCode::OK || s.as_u16() >= 400);
            if fine.is_none() {
                let remedy = "expected 200, or 400 to 599";
                let message = format!("{status} has no page");
                self.error(&at.then("status"), message, remedy);
            }
            fine
        });
        Page {
            statuses,
            upstream: spec.upstream,
            status,
            html,
            json: spec.json.as_ref().map(|json| json.to_string().into()),
        }
    }

    /// A day, from its first second in UTC.
    fn day(&mut self, at: &At, text: &str) -> Option<SystemTime> {
        let day: Option<jiff::civil::Date> = text.parse().ok();
        let time = day.and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC).ok());
        if time.is_none() {
            let message = format!("`{text}` is no day");
            self.error(at, message, "expected a day such as `2027-01-31`");
        }
        time.map(|zoned| zoned.timestamp().into())
    }
}

/// First and last status of `404`, `5xx` or `500-504`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| (400..600).contains(n));
    match text {
        "4xx" => Some((400, 499)),
        "5xx" => Some((500, 599)),
        _ => match text.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)).filter(|(a, b)| a <= b),
            None => number(text).map(|n| (n, n)),
        },
    }
}
