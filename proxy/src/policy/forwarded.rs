//! What the proxy says about where a request came from. Whatever a client says about that itself
//! never survives.

use crate::accept::{Downstream, ListenerRole};
use crate::message::{Known, RequestHead};
use crate::telemetry::trace;

/// Removes what a client may not assert, and writes what this proxy knows.
///
/// - Gateway: `X-Forwarded-For`, `-Proto` and `-Host` are those of the connection; `Forwarded`,
///   `X-Real-IP`, `X-Forwarded-Port` and the attempt count go. A request ID is made where none came.
/// - Inbound: `X-Forwarded-Client-Cert` names the peer of the TLS session, or nobody.
/// - Outbound: the application may not name a client certificate.
pub fn stamp(downstream: &Downstream, head: &mut RequestHead) {
    let fields = &mut head.fields;
    match downstream.listener.role {
        ListenerRole::Gateway => {
            fields.remove_if(asserted_by_client);
            fields.remove_lookalikes(asserted_by_client);
            // Read as an environment variable by CGI programs (httpoxy).
            fields.remove(b"Proxy");
            fields.append_known(Known::XForwardedFor, downstream.address_text.as_bytes());
            fields.append_known(Known::XForwardedProto, downstream.scheme().as_bytes());
            fields.append_known(Known::XForwardedHost, head.host.as_str().as_bytes());
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

const fn asserted_by_client(known: Known) -> bool {
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
    )
}
