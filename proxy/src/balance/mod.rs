//! Stage 7, balance: which endpoint gets a request, and whether the service takes one more.

pub mod breaker;
pub mod budget;
pub mod endpoints;
pub mod service;
pub mod storm;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::policy::Permit;
use crate::upstream::Security;

pub use breaker::Verdict;
pub use endpoints::{Endpoint, EndpointSet};
use service::Speaks;
pub use service::{Reached, Service, ServiceSpec};

/// The right to send one request to one endpoint. Counted in flight until it is dropped.
#[derive(Debug)]
pub struct Lease {
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
    probe: bool,
    reported: bool,
}

/// Chooses an endpoint for a permitted request, other than `avoid` where there is a choice. A service
/// that is reached where its callers were going takes `onward`, which is there.
///
/// # Errors
/// [`ErrorKind::NoEndpoint`], [`ErrorKind::ExternalService`], [`ErrorKind::BreakerOpen`], [`ErrorKind::TooManyRequests`].
pub fn pick(
    _permit: &Permit<'_>,
    service: &Arc<Service>,
    onward: Option<&Arc<Endpoint>>,
    avoid: Option<u64>,
    now: Instant,
) -> Result<Lease, ErrorKind> {
    let set = service.endpoints.load();
    set.readmit_due(service, now);
    let probe = service.breaker.admit(now)?;
    let lease = service.enter().and_then(|()| {
        let endpoint = match service.spec.reached {
            Reached::AtEndpoints => set.choose(service, avoid),
            Reached::WhereItWasGoing | Reached::AsApplication => onward.cloned(),
        };
        let endpoint = endpoint.ok_or_else(|| service.why_none());
        if endpoint.is_err() {
            service.leave();
        }
        endpoint
    });
    match lease {
        Ok(endpoint) => {
            endpoint.in_flight.fetch_add(1, Relaxed);
            Ok(Lease {
                service: service.clone(),
                endpoint,
                probe,
                reported: false,
            })
        }
        Err(kind) => {
            if probe {
                service.breaker.cancel_probe();
            }
            Err(kind)
        }
    }
}

impl Lease {
    /// The service.
    #[must_use]
    pub const fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// How the endpoint is reached: its own way, or else that of its service.
    #[must_use]
    pub fn security(&self) -> &Security {
        self.endpoint
            .security
            .as_deref()
            .unwrap_or(&self.service.spec.security)
    }

    /// What the endpoint speaks: in the mesh HTTP/2, whatever the application does.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        if self.endpoint.security.is_some() {
            Speaks::Http2
        } else {
            self.service.spec.speaks
        }
    }

    /// Tells how the try ended: feeds ejection and breaker. The first report counts.
    pub fn report(&mut self, verdict: Verdict, now: Instant) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        self.endpoint.observe(&self.service, verdict, now);
        self.service.breaker.observe(verdict, self.probe, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
        self.service.leave();
        if self.probe && !self.reported {
            self.service.breaker.cancel_probe();
        }
    }
}
