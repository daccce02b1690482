//! Stage 5, route: which rule a request falls under. Compiled at config load, pure at run time.

pub mod aggregate;
pub mod edit;
pub mod matcher;
pub mod mirror;
pub mod onward;
pub mod stream;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use selvedge_gateway::redirect::Redirect;
use selvedge_gateway::rewrite::PathEdit;

use crate::balance::{Class, Service};
use crate::policy::guard::Guard;
use crate::policy::treatment::Treatment;
use crate::telemetry::metrics::RouteMetrics;

use mirror::Mirror;

pub use aggregate::Aggregate;
pub use edit::Edits;
pub use matcher::Matcher;
pub use onward::{Named, Onward};
pub use stream::{StreamRule, Streams};
pub use table::Table;

/// A compiled rule: what happens to the requests that match it.
#[derive(Debug)]
pub struct Rule {
    /// Route and rule, for logs: `shop/0`.
    pub name: Arc<str>,
    /// What it is made of, and all that it names: another text after any change.
    pub tag: Arc<str>,
    /// What requests must pass, in the order of the checks.
    pub guards: Vec<Guard>,
    /// What is done beside.
    pub treatment: Treatment,
    /// It has `headers` policies of its own among its edits.
    pub headers: bool,
    /// Edits of the request, then of the response.
    pub request_edits: Edits,
    /// See `request_edits`.
    pub response_edits: Edits,
    /// Answer with a redirect instead of forwarding.
    pub redirect: Option<Redirect>,
    /// New `Host`.
    pub rewrite_host: Option<String>,
    /// New path.
    pub rewrite_path: Option<PathEdit>,
    /// Answer from several services instead of forwarding.
    pub aggregate: Option<Aggregate>,
    /// Where it goes; cumulated weights, the last is the total.
    pub backends: Vec<Backend>,
    /// Where copies go.
    pub mirrors: Vec<Arc<Mirror>>,
    /// Whole request; zero = off.
    pub request_timeout: Duration,
    /// One try, to its response head; zero = off.
    pub try_timeout: Duration,
    /// Retries.
    pub retry: RetryPolicy,
    /// How much its requests matter, if it says so.
    pub class: Option<Class>,
    /// Metrics of requests that never reach a backend.
    pub metrics: Arc<RouteMetrics>,
}

/// A backend of a rule.
#[derive(Debug)]
pub struct Backend {
    /// The service.
    pub service: Arc<Service>,
    /// Sum of the weights up to and including this one.
    pub cumulated: u32,
    /// Edits for this backend only.
    pub request_edits: Edits,
    /// See `request_edits`.
    pub response_edits: Edits,
    /// Metrics of this pair of rule and service.
    pub metrics: Arc<RouteMetrics>,
}

/// When a request is tried again.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub attempts: u32,
    /// Statuses to retry, for requests that may be repeated.
    pub codes: Vec<u16>,
    /// Statuses of gRPC to retry, as a bit each.
    pub grpc: u32,
    /// First pause.
    pub backoff: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// How long an answer may be late before another endpoint is asked too; zero = off.
    pub hedge: Duration,
}

impl Rule {
    /// Chooses a backend by weight; `random` is uniform over all of `u32`.
    #[must_use]
    pub fn backend(&self, random: u32) -> Option<&Backend> {
        let total = self.backends.last()?.cumulated;
        match self.backends.as_slice() {
            [only] => (only.cumulated > 0).then_some(only),
            _ if total == 0 => None,
            several => {
                // Maps onto 0..total without a division, and without a bias that could be seen.
                let at = (u64::from(random) * u64::from(total)) >> 32;
                several.iter().find(|b| at < u64::from(b.cumulated))
            }
        }
    }
}
