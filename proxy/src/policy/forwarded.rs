//! What the proxy says about where a request came from. Whatever a client says about that itself
//! never survives.

use std::fmt::Write;

use bytes::Bytes;

use crate::accept::{Downstream, ListenerRole};
use crate::message::{Fields, Host, Known, RequestHead};

use super::client;
use crate::telemetry::trace;

/// Removes what a client may not assert, and writes what this proxy knows.
///
/// - Gateway: `X-Forwarded-For`, `-Proto` and `-Host` are those of the connection, or of as many
///   proxies before it as are trusted; `Forwarded`, `X-Real-IP`, `X-Forwarded-Port` and the attempt
///   count go. A request ID is made where none came. `X-Forwarded-Client-Cert` says what the client's
///   certificate says, where it has shown one.
/// - Inbound: `X-Forwarded-Client-Cert` names the peer of the TLS session, or nobody.
/// - Outbound: the application may not name a client certificate.
pub fn stamp(downstream: &Downstream, head: &mut RequestHead) {
    let fields = &mut head.fields;
    match downstream.listener.role {
        ListenerRole::Gateway => {
            let told = match downstream.listener.trusted_hops {
                0 => None,
                hops => Some(Box::new(Told::by_proxies(fields, hops, downstream))),
            };
            fields.remove_if(asserted_by_client);
            fields.remove_lookalikes(asserted_by_client);
            if let Some(stamp) = &downstream.client_cert_stamp {
                fields.append_known(Known::XForwardedClientCert, stamp.as_bytes());
            }
            // Read as an environment variable by CGI programs (httpoxy).
            fields.remove(b"Proxy");
            let (route, scheme, host) = match &told {
                None => (&*downstream.address_text, None, None),
                Some(told) => (told.route.as_str(), told.scheme, told.host.as_ref()),
            };
            fields.append_known(Known::XForwardedFor, route.as_bytes());
            let scheme = scheme.unwrap_or(downstream.scheme());
            fields.append_known(Known::XForwardedProto, scheme.as_bytes());
            let host = host.unwrap_or(&head.host);
            fields.append_known(Known::XForwardedHost, host.bytes());
            if fields
                .known(Known::XRequestId)
                .is_none_or(|id| id.len() > 128)
            {
                fields.set_known(Known::XRequestId, &trace::hex32(fastrand::u128(..)));
            }
        }
        ListenerRole::Inbound | ListenerRole::Outbound => {
            fields.remove_known(Known::XForwardedClientCert);
            fields.remove_lookalikes(|known| known == Known::XForwardedClientCert);
            if let Some(stamp) = &downstream.client_cert_stamp {
                fields.append_known(Known::XForwardedClientCert, stamp.as_bytes());
            }
        }
    }
}

/// Scheme and host under which the user sees this request: those of the connection, or what trusted
/// proxies tell.
#[must_use]
pub fn origin(downstream: &Downstream, head: &RequestHead) -> (&'static str, Host) {
    let told = match downstream.listener.trusted_hops {
        0 => None,
        hops => Some(Told::by_proxies(&head.fields, hops, downstream)),
    };
    let (scheme, host) = told.map_or((None, None), |told| (told.scheme, told.host));
    (
        scheme.unwrap_or(downstream.scheme()),
        host.unwrap_or_else(|| head.host.clone()),
    )
}

/// What trusted proxies told, as far as it can be read.
struct Told {
    /// Addresses from the client to the peer.
    route: String,
    scheme: Option<&'static str>,
    host: Option<Host>,
}

impl Told {
    fn by_proxies(fields: &Fields, hops: usize, downstream: &Downstream) -> Self {
        let mut route = String::new();
        for address in client::trail(fields, hops).iter().rev() {
            let _ = write!(route, "{address}, ");
        }
        route.push_str(&downstream.address_text);
        let mut hosts = fields.all(Known::XForwardedHost);
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Host::parse(Bytes::copy_from_slice(host)).ok(),
            _ => None,
        };
        let mut schemes = fields.all(Known::XForwardedProto);
        let scheme = match (schemes.next(), schemes.next()) {
            (Some(b"http"), None) => Some("http"),
            (Some(b"https"), None) => Some("https"),
            _ => None,
        };
        Self {
            route,
            scheme,
            host,
        }
    }
}

/// What a client may not say of itself.
pub(super) const fn asserted_by_client(known: Known) -> bool {
    matches!(
        known,
        Known::XForwardedClientCert
            | Known::Forwarded
            | Known::XForwardedFor
            | Known::XForwardedProto
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XRealIp
            | Known::XSelvedgeAttempt
            | Known::XSelvedgePriority
    )
}
