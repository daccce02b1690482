//! Part of stage 6, policy: what an edge does for browsers and for clients of old versions: keeps
//! out what foreign pages send, marks responses, tells how long a version lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use selvedge_gateway::cors::Origins;
use selvedge_gateway::csrf::{Sent, may};

use crate::error::ErrorKind;
use crate::message::{Fields, Known};

use super::guard::{Notes, Seen, Stop};

/// A `csrf` policy.
#[derive(Debug)]
pub struct Csrf {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Other origins that may.
    pub trusted: Origins,
}

impl Csrf {
    /// Checks a request that changes something.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`].
    pub fn check(&self, seen: &Seen<'_>) -> Result<(), Stop> {
        let head = seen.head;
        // A WebSocket is no page: once open, it may say anything.
        if head.method.is_safe() && head.upgrade.is_none() {
            return Ok(());
        }
        let text = |name| {
            let value: Option<&[u8]> = head.fields.named(name);
            value.map(|v| std::str::from_utf8(v).unwrap_or_default())
        };
        let forwarded = (seen.downstream.listener.trusted_hops > 0)
            .then(|| head.fields.known(Known::XForwardedProto))
            .flatten()
            .and_then(|proto| std::str::from_utf8(proto).ok());
        let sent = Sent {
            site: text("Sec-Fetch-Site"),
            origin: text("Origin"),
            scheme: forwarded.unwrap_or_else(|| seen.downstream.scheme()),
            host: head.host.as_str(),
        };
        if may(sent, |origin| self.trusted.allow(origin)) {
            return Ok(());
        }
        tracing::debug!(policy = %self.name, origin = ?sent.origin, "refused");
        Err(ErrorKind::Denied.into())
    }
}

/// A `security` policy, as it is sent.
#[derive(Debug, Default)]
pub struct Security {
    /// Fields that are added where the application says nothing of that name.
    pub fields: Vec<(&'static str, String)>,
    /// `Strict-Transport-Security`, over TLS only.
    pub hsts: Option<String>,
    /// Fields that tell too much of the application.
    pub removed: &'static [&'static str],
}

/// What applications tell of themselves.
pub const TELLTALES: [&str; 5] = [
    "Server",
    "X-Powered-By",
    "X-AspNet-Version",
    "X-AspNetMvc-Version",
    "X-Runtime",
];

impl Security {
    /// Marks a response.
    pub fn apply(&self, fields: &mut Fields, is_tls: bool) {
        for name in self.removed {
            fields.remove(name.as_bytes());
        }
        let hsts = self.hsts.as_ref().filter(|_| is_tls);
        let hsts = hsts.map(|value| ("Strict-Transport-Security", value));
        let own = self.fields.iter().map(|(name, value)| (*name, value));
        for (name, value) in own.chain(hsts) {
            if fields.named(name).is_none() {
                fields.append(name.as_bytes(), value.as_bytes());
            }
        }
    }
}

/// A `version` policy.
#[derive(Debug)]
pub struct Version {
    /// Name of the policy.
    pub policy: Arc<str>,
    /// The version.
    pub name: String,
    /// `Deprecation`, as it is sent (RFC 9745).
    pub deprecation: Option<String>,
    /// `Sunset`, as it is sent (RFC 8594), and as a time.
    pub sunset: Option<(String, SystemTime)>,
    /// `Link`, as it is sent.
    pub link: Option<String>,
    /// Answer 410 after that.
    pub refuse: bool,
    /// Requests of this version.
    pub requests: AtomicU64,
}

impl Version {
    /// Counts a request, and notes what its client is told.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] after the version's time, where that is asked for.
    pub fn check(&self, notes: &mut Notes) -> Result<(), Stop> {
        self.requests.fetch_add(1, Relaxed);
        let sunset = self.sunset.as_ref();
        for (name, value) in [
            ("Deprecation", self.deprecation.as_ref()),
            ("Sunset", sunset.map(|(told, _)| told)),
            ("Link", self.link.as_ref()),
        ] {
            if let Some(value) = value {
                notes.fields.append(name.as_bytes(), value.as_bytes());
            }
        }
        if self.refuse && sunset.is_some_and(|(_, at)| SystemTime::now() >= *at) {
            return Err(ErrorKind::Gone.into());
        }
        Ok(())
    }
}
